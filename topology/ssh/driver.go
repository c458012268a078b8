package ssh

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/modebench/modebench/topology"
	"github.com/modebench/modebench/topology/host"
	"github.com/modebench/modebench/topology/lab"
	"github.com/modebench/modebench/topology/netns"
	"github.com/modebench/modebench/topology/space"
)

// Driver is a lab.Driver whose machines are on real ones. One lab at a time has their interfaces.
type Driver struct {
	Inventory topology.Inventory
	Programs  map[string]Program // by destination: as Prepare left them
}

var _ lab.Driver = Driver{}

// Program is this program on a real machine.
type Program struct {
	Path string
	Sudo bool // it must be given the rights of root
}

// connectTimeout is how long a machine may take to answer at all, which one with an emulated processor does not at once.
const connectTimeout = time.Minute

// unreached is the exit code of ssh(1) where what it was to run did not tell one.
const unreached = 255

// config is the file of ssh_config(5) that an inventory names, or is. done lets go of it.
func config(v topology.Inventory) (name string, done func(), err error) {
	if v.Text == "" {
		return v.Config, func() {}, nil
	}
	// In memory: it would be left behind where this process is killed.
	fd, err := unix.MemfdCreate("ssh_config", unix.MFD_CLOEXEC)
	if err != nil {
		return "", nil, fmt.Errorf("keep the inventory: %w", err)
	}
	f := os.NewFile(uintptr(fd), "ssh_config")
	done = func() { _ = f.Close() }
	if _, err := f.WriteString(v.Text); err != nil {
		done()
		return "", nil, err
	}
	self, err := os.Readlink("/proc/self") // by the number that what reads it sees
	return fmt.Sprintf("/proc/%s/fd/%d", self, fd), done, err
}

// command is a shell's line on a machine.
func command(ctx context.Context, config, destination, line string) *exec.Cmd {
	args := []string{"-T", "-o", "BatchMode=yes", "-o", "LogLevel=ERROR", "-o", fmt.Sprintf("ConnectTimeout=%d", connectTimeout/time.Second), "-o", "ServerAliveInterval=3", "-o", "ServerAliveCountMax=20"}
	if config != "" {
		args = append(args, "-F", config)
	}
	cmd := exec.CommandContext(ctx, "ssh", append(args, destination, line)...)
	space.Mortal(cmd)
	return cmd
}

// quoted is a text as one word of a shell.
func quoted(text string) string { return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'" }

// start is the shell's line that becomes the program.
func (p Program) start() string {
	line := "exec "
	if p.Sudo {
		line += "sudo -n "
	}
	return line + quoted(p.Path) + ` site "$SSH_CONNECTION"`
}

// mark begins the lines of an answer: a shell's own files may print others.
const mark = "modebench: "

// architectures are what uname(1) calls those of Go.
var architectures = map[string]string{"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}

// Prepare brings this program to the real machines of an inventory, where they do not have it, and tells what to do where one cannot be used. It is kept there under a name
// that follows from its content, in the user's directory for caches.
func Prepare(ctx context.Context, v topology.Inventory) (map[string]Program, error) {
	if _, err := exec.LookPath("ssh"); err != nil {
		return nil, errors.New("there is no ssh client: sudo apt install openssh-client")
	}
	self, err := os.ReadFile(space.Self)
	if err != nil {
		return nil, err
	}
	file, done, err := config(v)
	if err != nil {
		return nil, err
	}
	defer done()
	sum := sha256.Sum256(self)
	pack := sync.OnceValues(func() ([]byte, error) {
		var b bytes.Buffer
		z, err := gzip.NewWriterLevel(&b, gzip.BestSpeed)
		if err == nil {
			_, err = z.Write(self)
		}
		if err == nil {
			err = z.Close()
		}
		return b.Bytes(), err
	})
	var mu sync.Mutex
	out := map[string]Program{}
	var g errgroup.Group
	for at, who := range destinations(v) {
		g.Go(func() error {
			p, err := prepare(ctx, file, at, "modebench-"+hex.EncodeToString(sum[:8]), pack)
			if err != nil {
				return fmt.Errorf("%s at %s: %w", strings.Join(who, ", "), at, err)
			}
			mu.Lock()
			defer mu.Unlock()
			out[at] = p
			return nil
		})
	}
	return out, g.Wait()
}

// destinations are those of an inventory, with the machines that are there.
func destinations(v topology.Inventory) map[string][]string {
	out := map[string][]string{}
	for _, name := range slices.Sorted(maps.Keys(v.Sites)) {
		out[v.At(name)] = append(out[v.At(name)], name)
	}
	return out
}

func prepare(ctx context.Context, config, at, name string, pack func() ([]byte, error)) (Program, error) {
	look := `p="${XDG_CACHE_HOME:-$HOME/.cache}/modebench/` + name + `"; r=none; if [ "$(id -u)" = 0 ]; then r=root; elif sudo -n true 2>/dev/null; then r=sudo; fi; ` +
		`h=want; if [ -x "$p" ]; then h=have; fi; echo "` + mark + `$(uname -s) $(uname -m) $r $h $p"`
	said, err := run(command(ctx, config, at, look))
	if err != nil {
		return Program{}, err
	}
	_, line, _ := strings.Cut("\n"+said, "\n"+mark)
	line, _, _ = strings.Cut(line, "\n")
	words := strings.SplitN(line, " ", 5)
	switch {
	case len(words) < 5:
		return Program{}, fmt.Errorf("its shell answered %q: want one such as sh", strings.TrimSpace(said))
	case words[0] != "Linux" || architectures[words[1]] != runtime.GOARCH:
		return Program{}, fmt.Errorf("it is %s on %s, and this program is for Linux on %s: want a machine of that kind", words[0], words[1], runtime.GOARCH)
	case words[2] == "none":
		return Program{}, errors.New("its user is not root, and sudo wants a password: log in as root, or let sudo do without one (NOPASSWD in sudoers)")
	}
	p := Program{Path: words[4], Sudo: words[2] == "sudo"}
	if words[3] == "have" {
		return p, nil
	}
	packed, err := pack()
	if err != nil {
		return Program{}, err
	}
	copied := quoted(p.Path)
	cmd := command(ctx, config, at, "mkdir -p "+quoted(path.Dir(p.Path))+" && t=$(mktemp "+copied+".XXXXXX) && gzip -dc >\"$t\" && chmod 755 \"$t\" && mv \"$t\" "+copied)
	cmd.Stdin = bytes.NewReader(packed)
	if _, err := run(cmd); err != nil {
		return Program{}, fmt.Errorf("copy the program to %s: %w", p.Path, err)
	}
	return p, nil
}

// run runs a command and gives what it printed.
func run(cmd *exec.Cmd) (string, error) {
	var out, words bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &words
	if err := space.Start(cmd); err != nil {
		return "", err
	}
	if err := cmd.Wait(); err != nil {
		return "", said(err, words.String())
	}
	return out.String(), nil
}

// said is why ssh ended, in its last words.
func said(err error, words string) error {
	lines := strings.Split(strings.TrimSpace(words), "\n")
	if last := strings.TrimSpace(lines[len(lines)-1]); last != "" {
		return fmt.Errorf("%s", last)
	}
	return err
}

// Look is what a real machine has for a machine of a plan.
type Look struct {
	Machine, At string
	Found       []host.Found
	Release     string            // of its kernel
	Missing     map[string]string // of the features that were asked for, with the kernel's words
}

// Look looks at the real machines: whether they have the interfaces that a plan's machines need, and what their kernels lack of some
// features. It changes nothing.
func (d Driver) Look(ctx context.Context, p *topology.Plan, features []string) ([]Look, error) {
	file, done, err := config(d.Inventory)
	if err != nil {
		return nil, err
	}
	defer done()
	var out []Look
	for _, m := range p.Machines {
		out = append(out, Look{Machine: m.Name, At: d.Inventory.At(m.Name)})
	}
	var g errgroup.Group
	for i := range out {
		g.Go(func() error {
			l := &out[i]
			r := d.request(p, p.Machine(l.Machine), nil)
			r.Look, r.Features = true, features
			m, a, err := d.open(ctx, file, l.At, r)
			if err != nil {
				return err
			}
			l.Found, l.Release, l.Missing = a.Found, a.Release, a.Missing
			return m.Stop()
		})
	}
	return out, g.Wait()
}

// request is what is asked for a machine of a plan; processes are those of the tors that run already.
func (d Driver) request(p *topology.Plan, m *topology.Machine, processes map[string]int) request {
	r := request{Name: m.Name}
	for i := range m.NICs {
		n := &m.NICs[i]
		if n.Trunk != "" {
			continue
		}
		far := p.Machine(n.Peer.Machine).NIC(n.Peer.Interface)
		near := host.NIC{Name: n.Name, MAC: n.MAC.String(), MTU: n.MTU}
		named := d.Inventory.Sites[m.Name].NICs[n.Name]
		switch beside := d.Inventory.At(m.Name) == d.Inventory.At(n.Peer.Machine); {
		case !beside || named != "" || d.Inventory.Sites[n.Peer.Machine].NICs[far.Name] != "":
			r.Owns = append(r.Owns, host.Own{NIC: near, Device: named})
		case m.Role != topology.RoleTor:
			r.Cables = append(r.Cables, cable{Near: near, Far: host.NIC{Name: far.Name, MAC: far.MAC.String(), MTU: far.MTU}, Process: processes[n.Peer.Machine]})
		}
	}
	return r
}

// Boot is lab.Driver's.
func (d Driver) Boot(ctx context.Context, p *topology.Plan) (_ lab.Booted, err error) {
	file, done, err := config(d.Inventory)
	if err != nil {
		return lab.Booted{}, err
	}
	machines := make([]*machine, len(p.Machines))
	stop := func() error {
		defer done()
		var g errgroup.Group
		errs := make([]error, len(machines))
		for i, m := range machines {
			if m != nil {
				g.Go(func() error { errs[i] = m.Stop(); return nil })
			}
		}
		_ = g.Wait()
		return errors.Join(errs...)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, stop())
		}
	}()
	processes := map[string]int{}
	for _, tors := range []bool{true, false} {
		var mu sync.Mutex
		g, ctx := errgroup.WithContext(ctx)
		for i := range p.Machines {
			m := &p.Machines[i]
			if (m.Role == topology.RoleTor) != tors {
				continue
			}
			r := d.request(p, m, processes)
			g.Go(func() error {
				started, a, err := d.open(ctx, file, d.Inventory.At(m.Name), r)
				if err != nil {
					return err
				}
				mu.Lock()
				machines[i], processes[m.Name] = started, a.Process
				mu.Unlock()
				return started.greeted(ctx)
			})
		}
		if err := g.Wait(); err != nil {
			return lab.Booted{}, err
		}
	}
	out := lab.Booted{Stop: stop}
	for _, m := range machines {
		out.Hosts = append(out.Hosts, m)
	}
	return out, nil
}

// machine is a session with the program on a real machine.
type machine struct {
	name, at string
	cmd      *exec.Cmd
	in       io.WriteCloser
	line     *line
	from     io.Reader // what the program of the host says
	over     chan struct{}
	stop     sync.Once
	words    bytes.Buffer // what ssh and the program say when they fail; whole when ssh has ended
	ended    chan struct{}
	err      error // as ssh ended
}

// open starts the program for a machine, which answers the request.
func (d Driver) open(ctx context.Context, config, at string, r request) (_ *machine, a reply, err error) {
	p, ok := d.Programs[at]
	if !ok {
		return nil, a, fmt.Errorf("%s: no real machine is prepared for it", r.Name)
	}
	m := &machine{name: r.Name, at: at, over: make(chan struct{}), ended: make(chan struct{})}
	defer func() {
		if err != nil {
			err = fmt.Errorf("%s at %s: %w", r.Name, at, err)
		}
	}()
	m.cmd = command(context.Background(), config, at, p.start())
	m.cmd.Stderr, m.cmd.WaitDelay = &m.words, time.Second
	if m.in, err = m.cmd.StdinPipe(); err != nil {
		return nil, a, err
	}
	// Not StdoutPipe: what is still to be read would go when ssh has ended.
	out, theirs, err := os.Pipe()
	if err != nil {
		return nil, a, err
	}
	m.cmd.Stdout = theirs
	err = space.Start(m.cmd)
	_ = theirs.Close()
	if err != nil {
		return nil, a, errors.Join(err, out.Close())
	}
	go func() {
		m.err = m.cmd.Wait()
		close(m.ended)
	}()
	kill := func() { _ = m.cmd.Process.Kill() }
	m.line = newLine(out, m.in, kill)
	answered := context.AfterFunc(ctx, kill)
	defer answered()
	fail := func(err error) (*machine, reply, error) {
		m.close()
		late := time.AfterFunc(patience, kill) // what it has taken it puts back first
		<-m.ended
		late.Stop()
		if cause := context.Cause(ctx); cause != nil {
			return nil, a, cause
		}
		return nil, a, err
	}
	for first := ""; first != greeting; {
		if first, err = m.line.from.ReadString('\n'); err != nil {
			m.close()
			<-m.ended
			why := said(err, m.words.String())
			switch code := m.cmd.ProcessState.ExitCode(); code {
			case unreached:
			case -1: // killed from here
				why = fmt.Errorf("the program there said nothing within %s", starting)
			default:
				why = fmt.Errorf("%w: the program cannot be run there (exit code %d): build it with CGO_ENABLED=0", why, code)
			}
			return fail(why)
		}
	}
	go m.line.beats(m.over)
	if err := m.line.say(r); err != nil {
		return fail(err)
	}
	from := json.NewDecoder(m.line)
	if err := from.Decode(&a); err != nil {
		return fail(fmt.Errorf("no answer: %w", err))
	}
	if a.Error != "" {
		return fail(errors.New(a.Error))
	}
	m.from = io.MultiReader(from.Buffered(), m.line)
	return m, a, nil
}

// greeted reads the greeting of the host's program.
func (m *machine) greeted(ctx context.Context) error {
	greeted, err := netns.Greeted(ctx, io.NopCloser(m.from))
	if err != nil {
		return fmt.Errorf("%s at %s: program on the machine: %w", m.name, m.at, err)
	}
	m.from = greeted
	return nil
}

// Read reads what the program says. When the session has ended, the error says how.
func (m *machine) Read(p []byte) (int, error) {
	n, err := m.from.Read(p)
	if err == nil || n > 0 {
		return n, nil
	}
	select {
	case <-m.over: // by this end
		return 0, err
	default:
	}
	m.close()
	late := time.AfterFunc(patience, func() { _ = m.cmd.Process.Kill() })
	<-m.ended
	late.Stop()
	return 0, fmt.Errorf("the machine at %s is lost: %w", m.at, said(errors.New("nothing was heard of it any more"), m.words.String()))
}

func (m *machine) Write(p []byte) (int, error) { return m.line.Write(p) }

// Close ends the input of the program, which then puts everything back.
func (m *machine) Close() error {
	m.close()
	return nil
}

func (m *machine) close() {
	m.stop.Do(func() {
		close(m.over)
		_ = m.in.Close()
	})
}

// Stop ends the session, and tells what could not be put back.
func (m *machine) Stop() error {
	m.close()
	late := time.AfterFunc(grace+patience, func() { _ = m.cmd.Process.Kill() })
	<-m.ended
	late.Stop()
	if m.err != nil {
		return fmt.Errorf("%s at %s: %w", m.name, m.at, said(m.err, m.words.String()))
	}
	return nil
}
