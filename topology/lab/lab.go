// Package lab is a running plan: hosts that were booted by a driver, each with the program that carries out steps,
// probes and captures. It knows the verbs of that program, not how they are done.
package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/rpc"

	"golang.org/x/sync/errgroup"

	"github.com/modebench/modebench/topology"
)

// A Driver starts the hosts of a plan, joined as the plan joins them. Drivers differ only in what a host is made of.
type Driver interface {
	// Boot returns a connection to the program on each machine, in the order of the plan's machines, and what stops
	// them all. The ends of every cable exist by then, down, with name, MAC and MTU. On error it leaves nothing behind.
	Boot(context.Context, *topology.Plan) (hosts []io.ReadWriteCloser, stop func() error, err error)
}

// Lab is a running plan. Its methods may be called at the same time.
type Lab struct {
	plan  *topology.Plan
	hosts map[string]*rpc.Client
	stop  func() error
}

// Start boots a plan's machines and sets up the underlay on them. On error nothing is left behind.
func Start(ctx context.Context, d Driver, p *topology.Plan) (*Lab, error) {
	conns, stop, err := d.Boot(ctx, p)
	if err != nil {
		return nil, fmt.Errorf("boot %s: %w", p.Topology.Name, err)
	}
	l := &Lab{plan: p, hosts: map[string]*rpc.Client{}, stop: stop}
	for i, m := range p.Machines {
		l.hosts[m.Name] = rpc.NewClient(conns[i])
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
		if err := l.Apply(ctx, "underlay", steps); err != nil {
			return nil, errors.Join(fmt.Errorf("underlay: %w", err), l.Close())
		}
	}
	return l, nil
}

// Plan is what the lab runs.
func (l *Lab) Plan() *topology.Plan { return l.plan }

// Apply carries steps out: on each machine in their order, on different machines at the same time. Where a machine
// refuses one, that machine's are undone there; what others applied stays until Undo.
func (l *Lab) Apply(ctx context.Context, owner string, steps []topology.Step) error {
	on := map[string][]topology.Step{}
	var order []string
	for _, s := range steps {
		if on[s.On] == nil {
			order = append(order, s.On)
		}
		on[s.On] = append(on[s.On], s)
	}
	g, ctx := errgroup.WithContext(ctx)
	for _, m := range order {
		g.Go(func() error { return l.Do(ctx, m, "Host.Apply", Apply{Owner: owner, Steps: on[m]}, &Nothing{}) })
	}
	return g.Wait()
}

// Undo undoes what an owner applied, on every machine.
func (l *Lab) Undo(ctx context.Context, owner string) error {
	g, ctx := errgroup.WithContext(ctx)
	for m := range l.hosts {
		g.Go(func() error { return l.Do(ctx, m, "Host.Undo", Undo{Owner: owner}, &Nothing{}) })
	}
	return g.Wait()
}

// Do asks the program on a machine to do one verb. reply is a pointer to what the verb gives.
func (l *Lab) Do(ctx context.Context, machine, verb string, args, reply any) error {
	c := l.hosts[machine]
	if c == nil {
		return fmt.Errorf("%s: no such machine in %s", machine, l.plan.Topology.Name)
	}
	call := c.Go(verb, args, reply, make(chan *rpc.Call, 1))
	select {
	case <-call.Done:
		if call.Error != nil {
			return fmt.Errorf("%s: %w", machine, call.Error)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%s: %s: %w", machine, verb, context.Cause(ctx))
	}
}

// Close ends all machines of the lab and everything on them.
func (l *Lab) Close() error {
	for _, c := range l.hosts {
		_ = c.Close() // the machine may be gone already; what matters is that it stops
	}
	return l.stop()
}
