// Package netns is the driver whose hosts are network namespaces: each machine of a plan is a process that lives in a
// namespace without a name, and cables are veth pairs. It must run in an isolated process (space.Isolate), so that what
// escapes from a machine finds no network.
package netns

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os/exec"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/modebench/modebench/topology"
	"github.com/modebench/modebench/topology/host"
	"github.com/modebench/modebench/topology/lab"
	"github.com/modebench/modebench/topology/space"
)

// Driver is a lab.Driver. Its zero value is ready.
type Driver struct {
	// Start starts a machine. Its namespace and those of what its cables lead to are in spaces, of a tor open until the lab
	// stops, of others until the machine has started; its cables are laid when cabled is closed. nil: every machine is a process in its namespace, by Start of this package.
	Start func(ctx context.Context, m *topology.Machine, spaces map[string]*space.Space, cabled <-chan struct{}) (Machine, error)
}

var _ lab.Driver = Driver{}

// Machine is a machine that runs. It is a connection to its program, which has greeted.
type Machine interface {
	io.ReadWriteCloser
	Stop() error // ends it by the end of its input, and tells how it ended
	Kill()       // ends it at once; it has ended when Kill returns
}

// Greeting is the first line that the program on a machine writes: it is there, and speaks this protocol.
const Greeting = "modebench host 1\n"

// Main runs the program of a machine on standard input and output. The command calls it for `modebench host NAME`.
func Main(name string, in io.ReadCloser, out io.WriteCloser) error {
	if _, err := io.WriteString(out, Greeting); err != nil {
		return err
	}
	return host.Serve(name, stream{in, out})
}

// Boot starts every machine and lays the cables.
func (d Driver) Boot(ctx context.Context, p *topology.Plan) (_ lab.Booted, err error) {
	b := &booted{start: d.Start, plan: p, tors: map[string]*space.Space{}, machines: make([]Machine, len(p.Machines))}
	if b.start == nil {
		b.start = func(ctx context.Context, m *topology.Machine, spaces map[string]*space.Space, _ <-chan struct{}) (Machine, error) {
			return Start(ctx, m.Name, spaces[m.Name])
		}
	}
	spaces := map[string]*space.Space{}
	defer func() {
		for name, s := range spaces {
			if b.tors[name] == nil {
				err = errors.Join(err, s.Close()) // the machines hold their namespaces themselves
			}
		}
		if err != nil {
			err = errors.Join(err, b.stop())
		}
	}()
	for _, m := range p.Machines {
		s, err := space.New()
		if err != nil {
			return lab.Booted{}, fmt.Errorf("%s: %w", m.Name, err)
		}
		spaces[m.Name] = s
		if m.Role == topology.RoleTor {
			b.tors[m.Name] = s
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	cabled := make(chan struct{})
	for i := range p.Machines {
		g.Go(func() (err error) {
			m := &p.Machines[i]
			b.machines[i], err = b.start(ctx, m, spaces, cabled)
			return err
		})
	}
	g.Go(func() (err error) {
		if err := host.Cables(p, spaces); err != nil {
			return err
		}
		if b.hardware, err = host.NewHardware(p, spaces); err != nil {
			return err
		}
		close(cabled)
		return nil
	})
	if err := g.Wait(); err != nil {
		return lab.Booted{}, err
	}
	out := lab.Booted{Reboot: b.reboot, Stop: b.stop}
	for _, m := range b.machines {
		out.Hosts = append(out.Hosts, m)
	}
	return out, nil
}

// booted are the machines of a plan.
type booted struct {
	start func(context.Context, *topology.Machine, map[string]*space.Space, <-chan struct{}) (Machine, error)
	plan  *topology.Plan
	tors  map[string]*space.Space // held, so that new cables can end there

	mu       sync.Mutex
	machines []Machine // in the plan's order; nil: not running
	hardware *host.Hardware
}

func (b *booted) reboot(ctx context.Context, machine string) (_ io.ReadWriteCloser, err error) {
	i := slices.IndexFunc(b.plan.Machines, func(m topology.Machine) bool { return m.Name == machine })
	m := &b.plan.Machines[i]
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.machines[i] != nil {
		b.machines[i].Kill()
		b.machines[i] = nil
	}
	s, err := space.New()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	spaces := maps.Clone(b.tors)
	spaces[machine] = s
	if err := host.Recable(b.plan, spaces, m); err != nil {
		return nil, err
	}
	if err := b.hardware.Replace(spaces, m); err != nil {
		return nil, err
	}
	cabled := make(chan struct{})
	close(cabled)
	started, err := b.start(ctx, m, spaces, cabled)
	if err != nil {
		return nil, err
	}
	b.machines[i] = started
	return started, nil
}

func (b *booted) stop() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.hardware.Close()
	var g errgroup.Group
	for _, m := range b.machines {
		if m != nil {
			g.Go(m.Stop)
		}
	}
	err := g.Wait()
	for _, s := range b.tors {
		err = errors.Join(err, s.Close())
	}
	return err
}

// process is a machine that is a process in its namespace.
type process struct {
	stream
	cmd   *exec.Cmd
	words *tail
}

// Start starts the program of a machine as a process in a namespace.
func Start(ctx context.Context, name string, s *space.Space) (Machine, error) {
	cmd := exec.Command(space.Self, "host", name)
	m := &process{cmd: cmd, words: &tail{}}
	cmd.Stderr = m.words
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	space.Mortal(cmd)
	if err := s.Start(cmd); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	greeted, err := Greeted(ctx, stream{out, in})
	if err != nil {
		m.stream = stream{out, in}
		_ = m.Stop()
		return nil, fmt.Errorf("%s: program on the machine: %w%s", name, err, m.words)
	}
	m.stream = stream{greeted, in}
	return m, nil
}

// Greeted reads the greeting of the program on a machine, and gives what is to be read after it.
func Greeted(ctx context.Context, from io.ReadCloser) (io.ReadCloser, error) {
	buffered := bufio.NewReader(from)
	greeted := make(chan error, 1)
	go func() {
		line, err := buffered.ReadString('\n')
		if err == nil && line != Greeting {
			err = fmt.Errorf("said %q: want %q", line, Greeting)
		}
		greeted <- err
	}()
	select {
	case err := <-greeted:
		return reader{buffered, from}, err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// grace is how long a program may take to end by itself after its input ended.
const grace = 15 * time.Second

// Kill ends the program where it stands.
func (m *process) Kill() {
	_ = m.cmd.Process.Kill() // fails where it ended before
	_ = m.cmd.Wait()         // it was killed: that it says so is no news
}

// Stop lets the program end, and tells how it ended.
func (m *process) Stop() error {
	_ = m.Close() // its end is the signal to stop; it may have been closed before
	late := time.AfterFunc(grace, func() { _ = m.cmd.Process.Kill() })
	defer late.Stop()
	if err := m.cmd.Wait(); err != nil {
		return fmt.Errorf("%s: %w%s", m.cmd.Args[2], err, m.words)
	}
	return nil
}

// stream joins the two pipes of a process.
type stream struct {
	io.ReadCloser
	w io.WriteCloser
}

func (s stream) Write(p []byte) (int, error) { return s.w.Write(p) }

// Close ends the program's input. Its output ends when it has.
func (s stream) Close() error { return s.w.Close() }

// reader reads from what was buffered already.
type reader struct {
	io.Reader
	io.Closer
}

// tail keeps the last words of a program, for the error that it ends with.
type tail struct {
	mu   sync.Mutex
	last []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last = append(t.last, p...)
	if over := len(t.last) - 4096; over > 0 {
		t.last = t.last[over:]
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.last) == 0 {
		return ""
	}
	return ": " + string(bytes.TrimSpace(t.last))
}
