// Package traffic makes traffic between namespaces and measures it.
//
// Each end of a measurement is an agent: a process of its own, started inside the namespace from this very executable
// and bound to a processor if so wished. It holds the sockets, so what it costs is what the kernel charges to it. The
// package does not judge, repeat or compare: it returns the figures of one trial.
package traffic

import (
	"errors"
	"fmt"
	"net/rpc"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/modebench/modebench/topology/lab"
	"github.com/modebench/modebench/topology/space"
)

// Service is the verbs Traffic.* of package lab, for net/rpc. Calls may overlap; an agent does one trial at a time.
type Service struct {
	find func(container string) (*space.Space, error)

	mu     sync.Mutex
	last   uint64
	agents map[uint64]*child
}

// A child is an agent as seen by the process that started it.
type child struct {
	*rpc.Client
	cmd *exec.Cmd
	in  string
}

// New returns the service of a machine. find gives a container's namespace; the machine's own has the empty name.
func New(find func(container string) (*space.Space, error)) *Service {
	return &Service{find: find, agents: map[uint64]*child{}}
}

// Start starts an agent.
func (s *Service) Start(at lab.AgentAt, h *lab.Handle) error {
	in, err := s.find(at.In)
	if err != nil {
		return err
	}
	c, err := start(in, at)
	if err != nil {
		return fmt.Errorf("agent in %q: %w", at.In, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last++
	s.agents[s.last] = c
	h.ID = s.last
	return nil
}

func start(in *space.Space, at lab.AgentAt) (*child, error) {
	// Arguments and environment are all that an agent knows at first. A preemption signal would interrupt its system
	// calls every 10 ms. What this program was told of its processor holds for the agent too.
	told := "GODEBUG="
	for _, v := range (&exec.Cmd{}).Environ() {
		if strings.HasPrefix(v, told) {
			told = v + ","
		}
	}
	cmd := &exec.Cmd{
		Path: space.Self, Args: []string{"modebench", "agent"}, Env: []string{told + "asyncpreemptoff=1"},
		Stderr: os.Stderr, SysProcAttr: &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL},
	}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	err = in.Do(func() error {
		if at.CPU < 0 {
			return cmd.Start()
		}
		// A process inherits the processors of the thread that starts it.
		var before, only unix.CPUSet
		if err := unix.SchedGetaffinity(0, &before); err != nil {
			return err
		}
		only.Set(at.CPU)
		if err := unix.SchedSetaffinity(0, &only); err != nil {
			return fmt.Errorf("processor %d: %w", at.CPU, err)
		}
		return errors.Join(cmd.Start(), unix.SchedSetaffinity(0, &before))
	})
	if err != nil {
		return nil, errors.Join(err, stdin.Close(), stdout.Close())
	}
	return &child{rpc.NewClient(stdio{stdout, stdin}), cmd, at.In}, nil
}

// Serve starts the receiving end of a trial.
func (s *Service) Serve(t lab.Trial, r *lab.Serving) error {
	return s.call(t.Agent, "Agent.Serve", t, r)
}

// Run is the sending end of a trial. It ends a bounded time after Trial.For whatever the peer does.
func (s *Service) Run(t lab.Trial, m *lab.Measured) error { return s.call(t.Agent, "Agent.Run", t, m) }

// Finish ends what Serve began. Where Run has not returned before, the trial is cut short.
func (s *Service) Finish(h lab.Handle, m *lab.Measured) error {
	return s.call(h, "Agent.Finish", lab.Nothing{}, m)
}

func (s *Service) call(h lab.Handle, verb string, args, reply any) error {
	s.mu.Lock()
	c := s.agents[h.ID]
	s.mu.Unlock()
	if c == nil {
		return fmt.Errorf("agent %d: no such agent", h.ID)
	}
	if err := c.Call(verb, args, reply); err != nil {
		return fmt.Errorf("agent in %q: %w", c.in, err)
	}
	return nil
}

// End ends an agent and whatever it is doing, and waits for it.
func (s *Service) End(h lab.Handle, _ *lab.Nothing) error {
	s.mu.Lock()
	c := s.agents[h.ID]
	delete(s.agents, h.ID)
	s.mu.Unlock()
	if c == nil {
		return fmt.Errorf("agent %d: no such agent", h.ID)
	}
	return c.end()
}

// Close ends all agents.
func (s *Service) Close() error {
	s.mu.Lock()
	agents := s.agents
	s.agents = map[uint64]*child{}
	s.mu.Unlock()
	var errs []error
	for _, c := range agents {
		errs = append(errs, c.end())
	}
	return errors.Join(errs...)
}

// end kills: an agent has nothing to tidy up, and one that waits for a peer would wait on.
func (c *child) end() error {
	if err := c.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("agent in %q: %w", c.in, err)
	}
	_ = c.Client.Close() // its other end is gone
	_ = c.cmd.Wait()     // says that it was killed
	return nil
}
