package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/onsi/ginkgo/v2"
	"golang.org/x/sys/unix"

	"github.com/modebench/modebench/fixtures"
	"github.com/modebench/modebench/modes"
	"github.com/modebench/modebench/reports"
	"github.com/modebench/modebench/suites"
	"github.com/modebench/modebench/topology"
	"github.com/modebench/modebench/topology/host"
	"github.com/modebench/modebench/topology/host/capture"
	"github.com/modebench/modebench/topology/lab"
	"github.com/modebench/modebench/topology/netns"
	"github.com/modebench/modebench/topology/space"
	"github.com/modebench/modebench/topology/ssh"
	"github.com/modebench/modebench/topology/vm"
)

// job is what a worker is asked for, as JSON on its standard input. What follows it there asks the worker to come to an
// end, and to say what it has; the end of the input ends the worker at once.
//
// A worker is this program as root of an empty network namespace: labs run in it, and end with it. The command itself
// opens no socket, keeps the terminal and the files, and outlives a worker that crashes.
type job struct {
	Kernel    []string    // only tell which of these the kernel has
	Guest     *vm.Kernel  // do the rest in a guest with this kernel; nil: here
	Hosts     *vm.Kernel  // hosts are guests with this kernel; nil: they are namespaces
	Sites     *ssh.Driver // hosts are on real machines, by this; nil: on this one
	Lacking   []string    // what the kernel lacks that switches are on where hosts are guests
	Memory    int64       // bytes of the guest
	Cache     string      // directory that guests take what they boot from
	Programs  string      // directory of programs that hosts of some modes run; empty: no mode of these runs any
	Carried   []string    // programs of this machine that guests have, too
	Dirs      modes.Dirs  // of those who carry modes out
	Topology  string      // text of the file
	Name      string      // of the file
	Modes     []string    // by their labels, see modes.Label
	Conf      modes.Conf  // by whose plugins the mode with its name in its label is carried out; zero: none is
	ConfFlags []string    // as in suites.Run
	Suites    []string
	Features  []string
	Fidelity  reports.Fidelity // without Hosts and Sites its kernel is the one that the worker finds itself on
	Seed      uint64
	File      []string // as in suites.Run
	Ground    []string // likewise
	Measure   suites.Measure
	Soak      time.Duration    // as in suites.Run
	Up        bool             // only start a lab: with the mode, or of hosts only where there is none
	Fabric    *topology.Fabric // with Up what the lab is on; nil: what the mode or the topology says
	Lab       *address         // where the lab can be asked: the one of Up, or the first one of a run in which a spec fails; nil: none is kept
}

// message is one line of a worker's answer, on its standard output. An empty one says that the worker is alive.
type message struct {
	suites.Event
	Missing map[string]string `json:"missing,omitempty"` // answer to Kernel: what cannot be had, in the kernel's words
	File    *file             `json:"file,omitempty"`    // of the report, such as the packets of a failed spec
	Lab     *status           `json:"lab,omitempty"`     // a lab that stays
	Stays   bool              `json:"stays,omitempty"`   // the worker's last word: it goes on, as the supervisor of a lab
	Error   string            `json:"error,omitempty"`   // the worker could not do its job
}

// file is one that the command is to write: a worker writes none.
type file struct {
	Name string // path in the report's directory
	Data []byte
}

// work does one job.
func work(in io.Reader) error {
	host.Collect()
	// Standard output is the line of messages, and nobody else's: ginkgo writes to what is there when the program starts.
	fd, err := unix.FcntlInt(1, unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return err
	}
	if err := unix.Dup3(2, 1, 0); err != nil {
		return err
	}
	out := os.NewFile(uintptr(fd), "messages")
	dec := json.NewDecoder(in)
	var j job
	if err := dec.Decode(&j); err != nil {
		return fmt.Errorf("job: %w", err)
	}
	rest := io.MultiReader(dec.Buffered(), in)
	var mu sync.Mutex
	lines := json.NewEncoder(out)
	say := func(m message) {
		mu.Lock()
		defer mu.Unlock()
		_ = lines.Encode(m) // nobody listens: the end of the input is near
	}
	if j.Guest != nil {
		if err := forward(j, rest, out, say); err != nil {
			say(message{Error: err.Error()})
		}
		return nil
	}
	var stays atomic.Bool
	go func() {
		var stop json.RawMessage
		err := json.NewDecoder(rest).Decode(&stop)
		if err == nil && !j.Up {
			_ = unix.Kill(os.Getpid(), unix.SIGTERM) // ginkgo heeds it
			_, _ = io.Copy(io.Discard, rest)
		}
		if !stays.Load() { // the end of input is the end of the command
			os.Exit(exitUnexpected)
		}
	}()
	go func() {
		for range time.Tick(heartbeat) {
			say(message{})
		}
	}()
	kept, err := do(j, say)
	if err != nil {
		say(message{Error: err.Error()})
	}
	if kept == nil {
		return nil
	}
	stays.Store(true)
	if err := stay(out, say); err != nil {
		return err
	}
	kept.busy.Store(false)
	space.Adopt(kept.down)
	return kept.bench.Close()
}

// stay makes a worker go on when the command has ended, and takes nothing of the command's along.
func stay(messages io.Closer, say func(message)) error {
	if err := space.Outlive(); err != nil {
		return err
	}
	say(message{Stays: true})
	none, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer none.Close()
	for fd := range 3 {
		if err := unix.Dup3(int(none.Fd()), fd, 0); err != nil {
			return err
		}
	}
	return errors.Join(os.Chdir("/"), messages.Close())
}

// heartbeat is how often a worker says that it is alive.
const heartbeat = 2 * time.Second

// do does a job. Where a lab of it is to stay, it gives the lab's supervisor.
func do(j job, say func(message)) (kept *supervisor, err error) {
	if j.Kernel != nil {
		missing, err := host.Kernel(j.Kernel)
		if err != nil {
			return nil, err
		}
		m := message{Missing: map[string]string{}}
		for name, err := range missing {
			m.Missing[name] = err.Error()
		}
		say(m)
		return nil, nil
	}
	if j.Programs != "" { // where hosts look for programs
		if err := os.Setenv("PATH", j.Programs+":"+os.Getenv("PATH")); err != nil {
			return nil, err
		}
	}
	t, err := topology.Read(j.Name, []byte(j.Topology))
	if err != nil {
		return nil, err
	}
	if j.Up {
		return up(j, t, say)
	}
	expected, err := expectations()
	if err != nil {
		return nil, err
	}
	var driver lab.Driver = netns.Driver{}
	if j.Sites != nil {
		driver = *j.Sites
	}
	if j.Hosts != nil {
		driver = vm.Driver{Kernel: *j.Hosts, Cache: j.Cache, Programs: j.Carried, Features: host.Features(), Lacking: j.Lacking, NIC: j.Fidelity.NIC}
	}
	run := &suites.Run{
		Driver: driver, Topology: t, Suites: j.Suites, Features: j.Features, Expectations: expected,
		Fidelity: j.Fidelity, Measure: j.Measure, Soak: j.Soak, File: j.File, Ground: j.Ground, Conf: j.ConfFlags,
		Emit: func(e suites.Event) { say(message{Event: e}) },
		Keep: func(name string, ps []lab.Packet) (string, error) {
			var b bytes.Buffer
			if err := capture.WritePcapng(&b, ps); err != nil {
				return "", err
			}
			f := &file{Name: path.Join("captures", name+".pcapng"), Data: b.Bytes()}
			say(message{File: f})
			return f.Name, nil
		},
	}
	if j.Lab != nil {
		run.Leave = func(b *suites.Bench, feature string) bool {
			if kept != nil {
				return false
			}
			s, err := supervise(b, *j.Lab, feature)
			if err == nil {
				kept = s
				s.tell(say)
			} else if !errors.Is(err, errTaken) { // by another worker, which was first
				say(message{Error: fmt.Sprintf("keep the lab of %s: %v", feature, err)})
			}
			return kept != nil
		}
	}
	if j.Hosts == nil && j.Sites == nil {
		run.Fidelity.Kernel = release()
	}
	for _, name := range j.Modes {
		m, ok := j.mode(name)
		if !ok {
			return nil, fmt.Errorf("mode %q: no such mode", name)
		}
		expect(expected, m)
		run.Modes = append(run.Modes, m)
	}
	run.Declare()
	suite, reporter := ginkgo.GinkgoConfiguration()
	suite.RandomSeed = int64(j.Seed)
	suite.Timeout = j.bound()
	reporter.Succinct, reporter.NoColor = true, true
	ginkgo.RunSpecs(indifferent{}, "modebench", suite, reporter)
	return kept, nil
}

// bound is how long a job may take: what hangs ends then, and what goes on does not. Each mode has an hour, and the soak that is asked for.
func (j job) bound() time.Duration {
	return time.Duration(max(len(j.Modes), 1)) * (time.Hour + j.Soak)
}

// mode is that of a label.
func (j job) mode(label string) (modes.Mode, bool) {
	if name, ok := strings.CutSuffix(label, " ("+j.Conf.Name+")"); ok {
		if name == modes.Unknown {
			return j.Conf.Mode().ByConf(j.Conf), true
		}
		m, found := modes.Find(name)
		return m.ByConf(j.Conf), found
	}
	return modes.Named(label, j.Dirs)
}

// expect adds what is expected of a mode that somebody's own plugins carry out: what is of the reference plugins, or else of the mode. What plugins
// as such should do they should do, too, where the reference plugins do not.
func expect(expected map[string]map[string]modes.Expectation, m modes.Mode) {
	if _, ok := expected[m.String()]; ok {
		return
	}
	for _, by := range []string{modes.ByCNI, modes.ByKernel} {
		e, ok := expected[modes.Label(m.Name, by)]
		if !ok {
			continue
		}
		e = maps.Clone(e)
		for feature, should := range expected[modes.ByCNI] {
			if was, ok := e[feature]; !ok || was.Expect == reports.Blocked {
				e[feature] = should
			}
		}
		expected[m.String()] = e
		return
	}
}

// up starts a lab for people.
func up(j job, t topology.Topology, say func(message)) (*supervisor, error) {
	var m modes.Mode
	if len(j.Modes) > 0 {
		m, _ = j.mode(j.Modes[0])
	}
	m, t, err := onto(m, t, j.Fabric)
	if err != nil {
		return nil, err
	}
	p, err := m.Plan(t)
	if err != nil {
		return nil, err
	}
	if m.Attach == nil { // hosts only
		for i := range p.Machines {
			p.Machines[i].Containers = nil
		}
	}
	b, err := suites.NewQuietBench(context.Background(), netns.Driver{}, p, m)
	if err != nil {
		return nil, err
	}
	s, err := supervise(b, *j.Lab, "")
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", j.Lab.path(), err), b.Close())
	}
	s.tell(say)
	return s, nil
}

// expectations are what should be seen of each mode. Tests have others.
var expectations = func() (map[string]map[string]modes.Expectation, error) { return modes.Expectations(fixtures.FS) }

// indifferent takes note of no failure: results tell.
type indifferent struct{}

func (indifferent) Fail() {}

// release is the kernel's, as uname(2) tells.
func release() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "unknown"
	}
	return unix.ByteSliceToString(u.Release[:])
}
