// Package lab is a running plan: hosts that were booted by a driver, each with the program that carries out steps,
// probes and captures. It knows the verbs of that program, not how they are done.
package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/rpc"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/modebench/modebench/topology"
)

// A Driver starts the hosts of a plan, joined as the plan joins them. Drivers differ only in what a host is made of.
type Driver interface {
	// Boot starts every machine of the plan. The ends of every cable exist by then, down, with name, MAC and MTU. On error
	// it leaves nothing behind.
	Boot(context.Context, *topology.Plan) (Booted, error)
}

// Booted are the machines of a plan that a driver started.
type Booted struct {
	// Hosts are connections to the program on each machine, in the order of the plan's machines.
	Hosts []io.ReadWriteCloser
	// Reboot ends a machine that is not a tor as a loss of power does, and starts it again: nothing is left of what was in
	// it. Its cables are new ones, both ends down, and the connection is to its new program. It is called for one machine
	// at a time. Nil: the driver restarts none.
	Reboot func(ctx context.Context, machine string) (io.ReadWriteCloser, error)
	// Stop ends them all.
	Stop func() error
}

// Lab is a running plan. Its methods may be called at the same time.
type Lab struct {
	plan   *topology.Plan
	booted Booted

	mu      sync.Mutex
	hosts   map[string]*client
	applied map[string][]Apply // by machine: what owners applied there that was not undone, in order
}

// underlay owns what joins the machines.
const underlay = "underlay"

// Start boots a plan's machines and sets up the underlay on them. On error nothing is left behind.
func Start(ctx context.Context, d Driver, p *topology.Plan) (*Lab, error) {
	booted, err := d.Boot(ctx, p)
	if err != nil {
		return nil, fmt.Errorf("boot %s: %w", p.Topology.Name, err)
	}
	l := &Lab{plan: p, booted: booted, hosts: map[string]*client{}, applied: map[string][]Apply{}}
	for i, m := range p.Machines {
		l.hosts[m.Name] = newClient(booted.Hosts[i])
	}
	// Tors last: a port that comes up with its far end ready forwards at once, another waits for the kernel's link watch.
	var ends, tors []topology.Step
	for _, s := range topology.Underlay(p) {
		if p.Machine(s.On).Role == topology.RoleTor {
			tors = append(tors, s)
		} else {
			ends = append(ends, s)
		}
	}
	for _, steps := range [][]topology.Step{ends, tors} {
		if err := l.Apply(ctx, underlay, steps); err != nil {
			return nil, errors.Join(fmt.Errorf("underlay: %w", err), l.Close())
		}
	}
	return l, nil
}

// Plan is what the lab runs.
func (l *Lab) Plan() *topology.Plan { return l.plan }

// Apply carries steps out: on each machine in their order, on different machines at the same time. Where a machine
// refuses one, that machine's are undone there; what others applied stays until Undo. Steps without an owner are for good:
// nothing undoes or restores them.
func (l *Lab) Apply(ctx context.Context, owner string, steps []topology.Step) error {
	on := map[string][]topology.Step{}
	var order []string
	for _, s := range steps {
		if on[s.On] == nil {
			order = append(order, s.On)
		}
		on[s.On] = append(on[s.On], s)
	}
	apply := func(ctx context.Context, m string) error {
		a := Apply{Owner: owner, Steps: on[m]}
		if err := l.admit(ctx, a.Steps); err != nil {
			return err
		}
		if err := l.Do(ctx, m, "Host.Apply", a, &Nothing{}); err != nil {
			return err
		}
		if owner == "" {
			return nil
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		l.applied[m] = append(l.applied[m], a)
		return nil
	}
	if len(order) == 1 {
		return apply(ctx, order[0]) // by a goroutine of its own it would take longer
	}
	g, ctx := errgroup.WithContext(ctx)
	for _, m := range order {
		g.Go(func() error { return apply(ctx, m) })
	}
	return g.Wait()
}

// swarming bounds how long a machine that is to manage a swarm may take to begin it, beside others that join it.
const swarming = 3 * time.Minute

// admit asks the managers of swarms for the tokens of those who join them.
func (l *Lab) admit(ctx context.Context, steps []topology.Step) error {
	for i, s := range steps {
		if s.EngineSwarm == nil || s.EngineSwarm.Manager == "" || s.EngineSwarm.Token != "" {
			continue
		}
		joins := *s.EngineSwarm
		if err := l.Do(ctx, joins.Manager, "Docker.Token", swarming, &joins.Token); err != nil {
			return fmt.Errorf("%s joins the swarm of %s: %w", s.On, joins.Manager, err)
		}
		steps[i].EngineSwarm = &joins
	}
	return nil
}

// Undo undoes what an owner applied, on the machines named, or on every machine where none is.
func (l *Lab) Undo(ctx context.Context, owner string, machines ...string) error {
	if len(machines) == 0 {
		for _, m := range l.plan.Machines {
			machines = append(machines, m.Name)
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	for _, m := range machines {
		l.mu.Lock()
		l.applied[m] = slices.DeleteFunc(l.applied[m], func(a Apply) bool { return a.Owner == owner })
		l.mu.Unlock()
		g.Go(func() error { return l.Do(ctx, m, "Host.Undo", Undo{Owner: owner}, &Nothing{}) })
	}
	return g.Wait()
}

// ErrNotRestarted is that the machines of a lab are not to be restarted.
var ErrNotRestarted = errors.New("the hosts are real machines, which a lab does not restart")

// Reboot restarts a machine that is not a tor, as a loss of power does: what is left of it are its cables. What of a tor's
// underlay concerns the ports that they end at is set up again there, as a switch does that has its configuration.
// Restore brings back what was on the machine. The error is ErrNotRestarted, and nothing has happened, where the lab restarts none.
func (l *Lab) Reboot(ctx context.Context, machine string) error {
	m := l.plan.Machine(machine)
	if m == nil || m.Role == topology.RoleTor {
		return fmt.Errorf("reboot %s: want a host or an external machine of %s", machine, l.plan.Topology.Name)
	}
	if l.booted.Reboot == nil {
		return fmt.Errorf("reboot %s: %w", machine, ErrNotRestarted)
	}
	l.mu.Lock()
	old := l.hosts[machine]
	l.mu.Unlock()
	_ = old.Close() // nothing is heard of it any more
	conn, err := l.booted.Reboot(ctx, machine)
	if err != nil {
		return fmt.Errorf("reboot %s: %w", machine, err)
	}
	l.mu.Lock()
	l.hosts[machine] = newClient(conn)
	l.mu.Unlock()
	ports := map[string][]topology.Step{}
	for _, s := range topology.Underlay(l.plan) {
		if slices.ContainsFunc(m.NICs, func(n topology.Interface) bool {
			return n.Trunk == "" && n.Peer.Machine == s.On && concerns(s, n.Peer.Interface)
		}) {
			ports[s.On] = append(ports[s.On], s)
		}
	}
	for tor, steps := range ports { // without an owner: what was made at first is undone already, with the old port
		if err := l.Do(ctx, tor, "Host.Apply", Apply{Steps: steps}, &Nothing{}); err != nil {
			return fmt.Errorf("reboot %s: its ports: %w", machine, err)
		}
	}
	return nil
}

// concerns tells whether a step is about a device, which exists.
func concerns(s topology.Step, device string) bool {
	switch {
	case s.Set != nil:
		return s.Set.Name == device
	case s.VLAN != nil:
		return s.VLAN.Link == device
	case s.Addr != nil:
		return s.Addr.Link == device
	case s.Route != nil:
		return s.Route.Link == device
	case s.Neigh != nil:
		return s.Neigh.Link == device
	case s.Shape != nil:
		return s.Shape.Link == device
	case s.Sysctl != nil:
		return strings.Contains(s.Sysctl.Key, "/"+device+"/")
	}
	return false
}

// Restore carries out again on a machine what owners applied there and did not undo, in the order in which they did.
func (l *Lab) Restore(ctx context.Context, machine string) error {
	l.mu.Lock()
	applied := slices.Clone(l.applied[machine])
	l.mu.Unlock()
	for _, a := range applied {
		if err := l.Do(ctx, machine, "Host.Apply", a, &Nothing{}); err != nil {
			return fmt.Errorf("restore what %q applied: %w", a.Owner, err)
		}
	}
	return nil
}

// client calls the program on a machine.
type client struct {
	*rpc.Client
	line *line
}

func newClient(conn io.ReadWriteCloser) *client {
	l := &line{ReadWriteCloser: conn}
	return &client{rpc.NewClient(l), l}
}

// line is the way to a program. Whoever calls when it has ended is told how, as those are who were waiting.
type line struct {
	io.ReadWriteCloser

	mu  sync.Mutex
	end error // nil: it has not
}

func (l *line) Read(p []byte) (n int, err error) {
	if n, err = l.ReadWriteCloser.Read(p); err != nil {
		l.mu.Lock()
		l.end = err
		l.mu.Unlock()
	}
	return n, err
}

func (l *line) ended() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.end
}

// Do asks the program on a machine to do one verb. reply is a pointer to what the verb gives.
func (l *Lab) Do(ctx context.Context, machine, verb string, args, reply any) error {
	l.mu.Lock()
	c := l.hosts[machine]
	l.mu.Unlock()
	if c == nil {
		return fmt.Errorf("%s: no such machine in %s", machine, l.plan.Topology.Name)
	}
	call := c.Go(verb, args, reply, make(chan *rpc.Call, 1))
	select {
	case <-call.Done:
		err := call.Error
		if end := c.line.ended(); errors.Is(err, rpc.ErrShutdown) && end != nil {
			err = fmt.Errorf("%w: %w", err, end)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", machine, err)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%s: %s: %w", machine, verb, context.Cause(ctx))
	}
}

// Close ends all machines of the lab and everything on them.
func (l *Lab) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.hosts {
		_ = c.Close() // the machine may be gone already; what matters is that it stops
	}
	return l.booted.Stop()
}
