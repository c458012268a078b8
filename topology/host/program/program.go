// Package program runs other people's programs on a machine, beside its own: in its network namespace, with files of their
// own that nobody else sees and that are gone with them. None outlives the machine's program.
package program

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/modebench/modebench/topology"
	"github.com/modebench/modebench/topology/lab"
	"github.com/modebench/modebench/topology/space"
)

// Service has the verbs Program.* of one machine. Its methods may be called at the same time.
type Service struct {
	machine string

	mu       sync.Mutex
	files    *space.Private // nil: no program was asked for yet
	programs map[string]*program
}

// program is one that a step asked for, whether it runs or not.
type program struct {
	topology.Program
	path string // of what is executed
	dir  string // of its files
	in   *space.Private

	whole sync.Mutex // of starting and ending
	life  *life      // the last one; nil: it never began
}

// life is one process from its beginning to its end.
type life struct {
	cmd    *exec.Cmd
	output *Tail
	asked  bool          // that it ends: by whole
	ended  chan struct{} // closed when it has
	err    error         // how it ended: set before that
}

// New is the service of the machine called name, without programs yet.
func New(machine string) *Service { return &Service{machine: machine, programs: map[string]*program{}} }

const (
	within = time.Minute            // until a program is ready, if its step says nothing else
	grace  = 5 * time.Second        // until one that was asked to end is killed
	pace   = 5 * time.Millisecond   // of looking whether a program is ready
	answer = 500 * time.Millisecond // until a try to connect is given up
)

// Run starts a program and returns when it is ready. Its name is the only one of its kind on the machine: EEXIST where there
// is one already. The undo asks it to end, kills it where it does not, and removes its files. Call it on a thread that is
// in the machine's own namespace.
func (s *Service) Run(p topology.Program) (undo func() error, err error) {
	started, err := s.add(p)
	if err != nil {
		return nil, fmt.Errorf("%s: program %s: %w", s.machine, p.Name, err)
	}
	undo = func() error {
		s.mu.Lock()
		if s.programs[p.Name] != started {
			s.mu.Unlock()
			return nil
		}
		delete(s.programs, p.Name)
		s.mu.Unlock()
		return errors.Join(started.end(unix.SIGTERM), started.in.RemoveAll(p.Name))
	}
	if err := started.start(); err != nil {
		_ = started.end(unix.SIGKILL)
		return nil, errors.Join(fmt.Errorf("%s: program %s: %w", s.machine, p.Name, err), undo())
	}
	return undo, nil
}

// add notes a program and writes its files.
func (s *Service) add(p topology.Program) (*program, error) {
	if p.Name == "" || !filepath.IsLocal(p.Name) || strings.Contains(p.Name, "/") {
		return nil, fmt.Errorf("name %q: want one that a file may have", p.Name)
	}
	path, err := Find(p.Path)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.programs[p.Name] != nil {
		return nil, unix.EEXIST
	}
	if s.files == nil {
		own, err := space.Current()
		if err != nil {
			return nil, err
		}
		s.files, err = space.NewPrivate(own, space.Own)
		if err = errors.Join(err, own.Close()); err != nil {
			s.files = nil
			return nil, err
		}
	}
	out := &program{Program: p, path: path, dir: space.Own + "/" + p.Name, in: s.files}
	if err := out.write(); err != nil {
		return nil, errors.Join(err, s.files.RemoveAll(p.Name))
	}
	s.programs[p.Name] = out
	return out, nil
}

// write makes the program's directory with its files in it.
func (p *program) write() error {
	if err := p.in.Mkdir(p.Name, 0o777); err != nil {
		return err
	}
	for name, content := range p.Files {
		if !filepath.IsLocal(name) {
			return fmt.Errorf("file %q: want one below its directory", name)
		}
		if err := p.in.MkdirAll(filepath.Join(p.Name, filepath.Dir(name)), 0o777); err != nil {
			return err
		}
		if err := p.in.WriteFile(filepath.Join(p.Name, name), []byte(p.placed(content)), 0o666); err != nil {
			return err
		}
	}
	return nil
}

func (p *program) placed(s string) string { return strings.ReplaceAll(s, topology.Dir, p.dir) }

func (p *program) placedAll(all []string) []string {
	out := make([]string, len(all))
	for i, s := range all {
		out[i] = p.placed(s)
	}
	return out
}

// Find tells where the machine has a program (as topology.Program.Path): an absolute path, or a name that is looked for where shells look, and where daemons are.
func Find(path string) (string, error) {
	found, err := exec.LookPath(path)
	if err == nil || strings.Contains(path, "/") {
		return found, err
	}
	for _, dir := range []string{"/usr/local/sbin", "/usr/sbin", "/sbin"} {
		if found, err := exec.LookPath(dir + "/" + path); err == nil {
			return found, nil
		}
	}
	return "", err
}

// start starts the program and waits until it is ready. Where it is not in time, it runs on.
func (p *program) start() error {
	p.whole.Lock()
	defer p.whole.Unlock()
	if p.life != nil && p.life.runs() {
		return fmt.Errorf("it runs: %w", unix.EEXIST)
	}
	if p.Ready.File != "" {
		if err := p.in.RemoveAll(filepath.Join(p.Name, p.Ready.File)); err != nil {
			return err
		}
	}
	l := &life{output: new(Tail), ended: make(chan struct{})}
	l.cmd = exec.Command(p.path, p.placedAll(p.Args)...)
	l.cmd.Dir, l.cmd.Stdout, l.cmd.Stderr = p.dir, l.output, l.output
	l.cmd.Env = append(l.cmd.Environ(), p.placedAll(p.Env)...)
	l.cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true} // what it starts ends with it, and a terminal's signals are not its
	l.cmd.WaitDelay = time.Second                        // for output of what it left behind
	if err := p.in.Start(l.cmd); err != nil {
		return err
	}
	p.life = l
	go func() {
		l.err = l.cmd.Wait()
		close(l.ended)
	}()
	return p.wait(l)
}

func (p *program) wait(l *life) error {
	most := p.Ready.Within
	if most == 0 {
		most = within
	}
	late := time.NewTimer(most)
	defer late.Stop()
	look := time.NewTicker(pace)
	defer look.Stop()
	for {
		missing := p.missing()
		if missing == nil {
			return nil
		}
		select {
		case <-l.ended:
			return l.report(fmt.Sprintf("ended before it was ready: %s", l.how()))
		case <-late.C:
			return l.report(fmt.Sprintf("not ready within %s: %v", most, missing))
		case <-look.C:
		}
	}
}

// missing is what keeps the program from being ready; nil where nothing does.
func (p *program) missing() error {
	if p.Ready.File != "" {
		if _, err := p.in.Stat(filepath.Join(p.Name, p.Ready.File)); err != nil {
			return fmt.Errorf("%s/%s: %w", topology.Dir, p.Ready.File, fs.ErrNotExist)
		}
	}
	if p.Ready.Addr.IsValid() {
		c, err := net.DialTimeout("tcp", p.Ready.Addr.String(), answer)
		if err != nil {
			return err
		}
		return c.Close()
	}
	return nil
}

func (l *life) runs() bool {
	select {
	case <-l.ended:
		return false
	default:
		return true
	}
}

// how it ended.
func (l *life) how() string {
	if l.err != nil {
		return l.err.Error()
	}
	return "exit status 0"
}

// report is an error with the last lines that the program wrote.
func (l *life) report(what string) error {
	if words := l.output.String(); words != "" {
		return fmt.Errorf("%s; it said:\n%s", what, words)
	}
	return fmt.Errorf("%s; it said nothing", what)
}

// end sends a signal to the program and waits until it and all of its group have ended. One that does not heed it is killed,
// which is an error.
func (p *program) end(signal unix.Signal) error {
	p.whole.Lock()
	defer p.whole.Unlock()
	l := p.life
	if l == nil || !l.runs() {
		return nil
	}
	l.asked = true
	group := -l.cmd.Process.Pid
	defer func() { _ = unix.Kill(group, unix.SIGKILL) }() // those that it left behind
	_ = unix.Kill(group, signal)                          // where it ends just now, that is as well
	late := time.NewTimer(grace)
	defer late.Stop()
	select {
	case <-l.ended:
		return nil
	case <-late.C:
		_ = unix.Kill(group, unix.SIGKILL)
		<-l.ended
		return l.report(fmt.Sprintf("program %s did not end within %s of %v and was killed", p.Name, grace, signal))
	}
}

func (s *Service) named(name string) (*program, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.programs[name]; p != nil {
		return p, nil
	}
	return nil, fmt.Errorf("%s: program %q: no step asked for it: there are %q", s.machine, name, slices.Sorted(maps.Keys(s.programs)))
}

// Start is the verb Program.Start.
func (s *Service) Start(name string, _ *lab.Nothing) error {
	p, err := s.named(name)
	if err != nil {
		return err
	}
	if err := p.start(); err != nil {
		return fmt.Errorf("%s: program %s: %w", s.machine, name, err)
	}
	return nil
}

// Stop is the verb Program.Stop.
func (s *Service) Stop(name string, _ *lab.Nothing) error { return s.end(name, unix.SIGTERM) }

// Kill is the verb Program.Kill.
func (s *Service) Kill(name string, _ *lab.Nothing) error { return s.end(name, unix.SIGKILL) }

func (s *Service) end(name string, signal unix.Signal) error {
	p, err := s.named(name)
	if err != nil {
		return err
	}
	if err := p.end(signal); err != nil {
		return fmt.Errorf("%s: %w", s.machine, err)
	}
	return nil
}

// State is the verb Program.State.
func (s *Service) State(name string, reply *lab.ProgramState) error {
	p, err := s.named(name)
	if err != nil {
		return err
	}
	p.whole.Lock()
	defer p.whole.Unlock()
	if p.life == nil {
		return nil
	}
	*reply = lab.ProgramState{Running: p.life.runs(), PID: p.life.cmd.Process.Pid, Output: p.life.output.String()}
	if !reply.Running && !p.life.asked {
		reply.Ended = p.life.how()
	}
	return nil
}

// Find is the verb Program.Find.
func (s *Service) Find(path string, reply *string) error {
	found, err := Find(path)
	if err != nil && !errors.Is(err, exec.ErrNotFound) && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission) {
		return err
	}
	*reply = found
	return nil
}

// Close kills all programs.
func (s *Service) Close() error {
	s.mu.Lock()
	all, files := slices.Collect(maps.Values(s.programs)), s.files
	s.programs, s.files = map[string]*program{}, nil
	s.mu.Unlock()
	var errs []error
	for _, p := range all {
		errs = append(errs, p.end(unix.SIGKILL))
	}
	if files != nil {
		errs = append(errs, files.Close())
	}
	return errors.Join(errs...)
}

// Tail keeps the last lines that were written.
type Tail struct {
	mu   sync.Mutex
	text []byte
}

const kept = 4096 // bytes

// Write never fails.
func (t *Tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, p...)
	if over := len(t.text) - kept; over > 0 {
		t.text = append(t.text[:0], t.text[over:]...)
	}
	return len(p), nil
}

// String is the last lines, twenty at most.
func (t *Tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	text := string(t.text)
	if len(t.text) == kept { // the first line is cut
		_, text, _ = strings.Cut(text, "\n")
	}
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-20):], "\n")
}
