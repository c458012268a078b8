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
	"os/exec"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/modebench/modebench/topology"
	"github.com/modebench/modebench/topology/host"
	"github.com/modebench/modebench/topology/lab"
	"github.com/modebench/modebench/topology/space"
)

// Driver is a lab.Driver. Its zero value is ready.
type Driver struct{}

var _ lab.Driver = Driver{}

// Greeting is the first line that the program on a machine writes: it is there, and speaks this protocol.
const Greeting = "modebench host 1\n"

// Main runs the program of a machine on standard input and output. The command calls it for `modebench host NAME`.
func Main(name string, in io.ReadCloser, out io.WriteCloser) error {
	if _, err := io.WriteString(out, Greeting); err != nil {
		return err
	}
	return host.Serve(name, stream{in, out})
}

// machine is a running machine.
type machine struct {
	cmd    *exec.Cmd
	stream stream
	words  *tail
}

// Boot starts every machine's program and lays the cables.
func (Driver) Boot(ctx context.Context, p *topology.Plan) (_ []io.ReadWriteCloser, _ func() error, err error) {
	spaces := map[string]*space.Space{}
	machines := make([]*machine, len(p.Machines))
	stop := func() error {
		var g errgroup.Group
		for _, m := range machines {
			if m != nil {
				g.Go(m.stop)
			}
		}
		return g.Wait()
	}
	defer func() {
		for _, s := range spaces {
			err = errors.Join(err, s.Close()) // the machines hold their namespaces themselves
		}
		if err != nil {
			err = errors.Join(err, stop())
		}
	}()
	for _, m := range p.Machines {
		s, err := space.New()
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", m.Name, err)
		}
		spaces[m.Name] = s
	}
	g, ctx := errgroup.WithContext(ctx)
	for i, m := range p.Machines {
		g.Go(func() (err error) {
			machines[i], err = start(ctx, m.Name, spaces[m.Name])
			return err
		})
	}
	g.Go(func() error { return host.Cables(p, spaces) })
	if err := g.Wait(); err != nil {
		return nil, nil, err
	}
	hosts := make([]io.ReadWriteCloser, len(machines))
	for i, m := range machines {
		hosts[i] = m.stream
	}
	return hosts, stop, nil
}

func start(ctx context.Context, name string, s *space.Space) (*machine, error) {
	cmd := exec.Command(space.Self, "host", name)
	m := &machine{cmd: cmd, words: &tail{}}
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
	buffered := bufio.NewReader(out)
	m.stream = stream{reader{buffered, out}, in}
	greeted := make(chan error, 1)
	go func() {
		line, err := buffered.ReadString('\n')
		if err == nil && line != Greeting {
			err = fmt.Errorf("said %q: want %q", line, Greeting)
		}
		greeted <- err
	}()
	select {
	case err = <-greeted:
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	if err != nil {
		_ = m.stop()
		return nil, fmt.Errorf("%s: program on the machine: %w%s", name, err, m.words)
	}
	return m, nil
}

// grace is how long a program may take to end by itself after its input ended.
const grace = 5 * time.Second

func (m *machine) stop() error {
	_ = m.stream.Close() // its end is the signal to stop; it may have been closed before
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
