package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/modebench/modebench/reports"
	"github.com/modebench/modebench/suites"
	"github.com/modebench/modebench/topology"
	"github.com/modebench/modebench/topology/lab"
	"github.com/modebench/modebench/topology/space"
)

// address is where a lab is asked: a socket NAME.sock in a directory that is its user's alone.
type address struct{ Dir, Name string }

func (a address) path() string { return filepath.Join(a.Dir, a.Name+".sock") }

// labsDir is the directory of the user's labs, which need not exist.
func labsDir() string {
	dir := os.Getenv("XDG_RUNTIME_DIR")
	var st unix.Stat_t
	if filepath.IsAbs(dir) && unix.Stat(dir, &st) == nil && st.Uid == uint32(os.Geteuid()) { // else it is of who this user was before
		return filepath.Join(dir, "modebench")
	}
	return fmt.Sprintf("/tmp/modebench-%d", os.Geteuid())
}

// locked calls f while nobody else changes the directory of labs, which is made where it is not there, and goes where it is empty.
func locked(dir string, f func() error) error {
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	d, err := os.OpenFile(dir, unix.O_DIRECTORY|unix.O_NOFOLLOW, 0) // in /tmp, others may have put a link there
	if err != nil {
		return err
	}
	defer d.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(d.Fd()), &st); err != nil {
		return err
	}
	if st.Uid != uint32(os.Geteuid()) || st.Mode&0o077 != 0 {
		return fmt.Errorf("%s: want a directory of your own that nobody else may enter (mode 0700)", dir)
	}
	if err := unix.Flock(int(d.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("lock %s: %w", dir, err)
	}
	defer os.Remove(dir) // refused while there is a lab in it
	return f()
}

// dial asks for a connection to a lab. Where its supervisor is gone nobody answers, and what is left of it is removed. Call it locked.
func (a address) dial() (*net.UnixConn, error) {
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: a.path(), Net: "unix"})
	if errors.Is(err, unix.ECONNREFUSED) {
		_ = os.Remove(a.path())
		err = fs.ErrNotExist
	}
	return conn, err
}

// errTaken is that there is a lab of the name already.
var errTaken = errors.New("a lab of this name is up already")

// claim makes the socket of a lab. One at a time has a name.
func (a address) claim() (l *net.UnixListener, err error) {
	return l, locked(a.Dir, func() error {
		if conn, err := a.dial(); err == nil {
			return errors.Join(errTaken, conn.Close())
		}
		l, err = net.ListenUnix("unix", &net.UnixAddr{Name: a.path(), Net: "unix"})
		return err
	})
}

// question is what a supervisor is asked, as JSON. Before it comes a line's end, with which travel the descriptors that a program
// has as standard input, output and error. What follows a question that runs a program are signals for it, as numbers; the
// end of the connection ends the program.
type question struct {
	Verb     string   // status, graph, run, down
	Place    string   // of a program: machine, or machine/container
	Path     string   // of its file
	Args     []string // with its name
	Env      []string
	Dir      string
	Terminal bool // its standard input is a terminal, which is to be its controlling one
}

// answer is what a supervisor says to a question, as JSON.
type answer struct {
	Error  string         `json:",omitempty"`
	Code   int            // with Error the exit code that it asks for, else the program's
	Status *status        `json:",omitempty"`
	Graph  *reports.Graph `json:",omitempty"`
}

// status is what a lab is.
type status struct {
	Name, Topology, Mode string // the mode by its label; none: hosts only
	Fabric               topology.Fabric
	Since                time.Time
	Places               []string // machines, each followed by its containers
	Left                 string   // the feature whose spec failed in it; empty: a lab that was asked for
	Busy                 bool     // the run that left it goes on
}

// supervisor answers for a lab: the worker that has the lab in it. They end together.
type supervisor struct {
	bench    *suites.Bench
	about    status
	listener *net.UnixListener
	busy     atomic.Bool
	down     chan struct{} // closed when the lab was asked to go
	once     sync.Once
}

// supervise answers for a lab from now on.
func supervise(b *suites.Bench, a address, left string) (*supervisor, error) {
	l, err := a.claim()
	if err != nil {
		return nil, err
	}
	s := &supervisor{
		bench: b, listener: l, down: make(chan struct{}),
		about: status{Name: a.Name, Topology: b.Plan().Topology.Name, Mode: b.Mode().String(), Fabric: b.Plan().Topology.Fabric, Since: time.Now(), Left: left},
	}
	s.busy.Store(left != "")
	go func() {
		for {
			conn, err := l.AcceptUnix()
			if err != nil { // it was closed
				return
			}
			go s.attend(conn)
		}
	}()
	return s, nil
}

// tell says that the lab is there, and what is in it.
func (s *supervisor) tell(say func(message)) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	about := s.about
	about.Places = s.places(ctx)
	say(message{Lab: &about})
}

// attend answers one question.
func (s *supervisor) attend(conn *net.UnixConn) {
	defer conn.Close()
	files, err := receive(conn)
	defer func() {
		for _, f := range files {
			_ = f.Close()
		}
	}()
	var q question
	rest := json.NewDecoder(conn)
	if err == nil {
		err = rest.Decode(&q)
	}
	if err != nil { // whoever it was has gone
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var a answer
	switch q.Verb {
	case "status":
		about := s.about
		about.Busy = s.busy.Load()
		about.Places = s.places(ctx)
		a.Status = &about
	case "graph":
		a.Graph = s.draw(ctx)
	case "down":
		if s.busy.Load() {
			err = errors.New("the run that left it goes on: it can go when that has ended")
			break
		}
		err = s.listener.Close() // and its file is gone
		defer s.once.Do(func() { close(s.down) })
	case "run":
		if len(files) != 3 {
			err = fmt.Errorf("%d descriptors: want standard input, output and error", len(files))
			break
		}
		a.Code, err = s.run(ctx, q, files, rest)
	default:
		err = fmt.Errorf("%q: want status, graph, run or down: is this another version of modebench?", q.Verb)
	}
	if err != nil {
		a.Error, a.Code = err.Error(), exitUnexpected
		var c coded
		if errors.As(err, &c) {
			a.Code = c.code
		}
	}
	_ = json.NewEncoder(conn).Encode(a) // nobody waits for it any more: nothing is lost
}

// receive takes the descriptors that come before a question.
func receive(conn *net.UnixConn) (files []*os.File, err error) {
	oob := make([]byte, unix.CmsgSpace(3*4))
	_, n, _, _, err := conn.ReadMsgUnix(make([]byte, 1), oob)
	if err != nil {
		return nil, err
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	for _, m := range messages {
		fds, _ := unix.ParseUnixRights(&m) // other messages have none
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "descriptor of the caller"))
		}
	}
	return files, err
}

// places are the lab's machines and containers. Of a machine that does not answer, as one that a spec crashed, there are none.
func (s *supervisor) places(ctx context.Context) (out []string) {
	for _, m := range s.bench.Plan().Machines {
		out = append(out, m.Name)
		st, _ := s.bench.State(ctx, m.Name)
		for _, c := range containers(st) {
			out = append(out, m.Name+"/"+c)
		}
	}
	return out
}

// containers are those of a machine, c2 before c10.
func containers(st lab.State) (out []string) {
	for name := range st.Spaces {
		if name != "" {
			out = append(out, name)
		}
	}
	slices.SortFunc(out, topology.ByNumber)
	return out
}

// space is the network namespace of a place.
func (s *supervisor) space(ctx context.Context, place string) (_ *space.Space, err error) {
	machine, container, _ := strings.Cut(place, "/")
	var p lab.Process
	if err := s.bench.Do(ctx, machine, "Host.Spawn", lab.Spawn{In: container}, &p); err != nil {
		all := s.places(ctx)
		if slices.Contains(all, place) {
			return nil, err
		}
		return nil, input("%q: no such place in the lab: want one of %s", place, strings.Join(all, ", "))
	}
	defer func() {
		err = errors.Join(err, s.bench.Do(ctx, machine, "Host.Kill", lab.Kill{PID: p.PID}, &lab.Nothing{}))
	}()
	return space.Of(p.PID)
}

// run runs a program at a place, and gives its exit code, which is 128 and more where a signal ended it.
func (s *supervisor) run(ctx context.Context, q question, files []*os.File, signals *json.Decoder) (int, error) {
	sp, err := s.space(ctx, q.Place)
	if err != nil {
		return 0, err
	}
	cmd := &exec.Cmd{
		Path: q.Path, Args: q.Args, Env: q.Env, Dir: q.Dir, Stdin: files[0], Stdout: files[1], Stderr: files[2],
		SysProcAttr: &syscall.SysProcAttr{Setctty: q.Terminal},
	}
	var mu sync.Mutex
	running := false
	err = sp.Visit(cmd, strings.ReplaceAll(q.Place, "/", "-"), func() {
		running = true
		for _, f := range files { // so that who reads what it writes sees its end
			_ = f.Close()
		}
		go func() {
			for gone := false; !gone; {
				var n syscall.Signal
				if err := signals.Decode(&n); err != nil {
					n, gone = syscall.SIGKILL, true
				}
				mu.Lock()
				if running {
					_ = syscall.Kill(-cmd.Process.Pid, n) // there may be nobody left
				}
				mu.Unlock()
			}
		}()
	})
	mu.Lock()
	started := running
	running = false
	mu.Unlock()
	if err = errors.Join(err, sp.Close()); !started {
		return 0, coded{err, exitNotRun}
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return 0, err
	}
	if st, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && st.Signaled() {
		return 128 + int(st.Signal()), nil
	}
	return cmd.ProcessState.ExitCode(), nil
}
