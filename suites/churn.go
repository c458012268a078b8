package suites

import (
	"context"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/modebench/modebench/topology"
	"github.com/modebench/modebench/topology/lab"
)

const (
	turns  = 1000 // of attaching a container and detaching it again
	warmUp = 100  // of them that come before the program is looked at: what it makes once, and keeps, is no leak
	hands  = 8    // attach and detach at the same time, each a container of its own
)

// kept are how many bytes the program of a host may have more after each turn. Its heap differs by some ten KiB however many turns there were.
const kept = 128

// turn attaches and detaches containers over and over again.
func turn(ctx context.Context, b *Bench, host string, cs []topology.Container, times int) error {
	g, ctx := errgroup.WithContext(ctx)
	var mu sync.Mutex
	next := func() bool {
		mu.Lock()
		defer mu.Unlock()
		times--
		return times >= 0
	}
	for _, c := range cs {
		g.Go(func() error {
			for next() {
				p, err := b.attach(ctx, c, host)
				if err != nil {
					return err
				}
				if err := b.Detach(ctx, p); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}

var _ = register(Spec{
	Suite: failure,
	Feature: Feature{
		Name: "churn-1000", Group: failure,
		Doc: "Is a host the same after 1,000 containers came and went: links, addresses, routes, neighbours, rules, settings, namespaces, and descriptors and memory of the program that attaches them?",
	},
	Name:   "in a lab of its own where nothing is recorded, containers are attached and detached 1,000 times, 8 at the same time; the host is compared with before, and its program with what it was after the first 100",
	Within: 6 * specTimeout,
	Run: func(ctx context.Context, b *Bench) (_ Observation, err error) {
		s, err := startBench(ctx, &Bench{driver: b.driver, plan: b.plan, mode: b.mode, quiet: true, rewire: b.rewire})
		if err != nil {
			return Observation{}, err
		}
		defer func() { _ = s.Close() }()
		host := firstHost(s)
		if err := room(ctx, s, host, network(s)); err != nil {
			return Observation{}, err
		}
		var cs []topology.Container
		for i := range hands {
			c, err := another(s, host, network(s), i+1)
			if err != nil {
				return Observation{}, err
			}
			cs = append(cs, c)
			if s.mode.Limit > 0 {
				break // one at a time
			}
		}
		before, err := stilled(ctx, s, host)
		if err != nil {
			return Observation{}, err
		}
		if err := turn(ctx, s, host, cs, warmUp); err != nil {
			return refusedIn(err, warmUp)
		}
		var had, has lab.Usage
		if err := s.Do(ctx, host, "Host.Usage", lab.Nothing{}, &had); err != nil {
			return Observation{}, err
		}
		began := time.Now()
		if err := turn(ctx, s, host, cs, turns-warmUp); err != nil {
			return refusedIn(err, turns)
		}
		took := time.Since(began)
		diff, _, err := left(ctx, s, host, before)
		if err != nil {
			return Observation{}, err
		}
		if _, err := eventually(ctx, patience, func() (bool, error) {
			err := s.Do(ctx, host, "Host.Usage", lab.Nothing{}, &has)
			return has.Descriptors <= had.Descriptors && has.Memory <= had.Memory+kept*(turns-warmUp), err
		}); err != nil {
			return Observation{}, err
		}
		descriptors, memory := has.Descriptors-had.Descriptors, int64(has.Memory)-int64(had.Memory)
		// A namespace that is made in advance may be there or not.
		o := whether(len(diff) == 0 && descriptors < hands && memory <= kept*(turns-warmUp),
			"%d times a container was attached to %s and detached, %d at the same time, the last %d in %.2f s: %d differences to the host before, and in its program %+d descriptors and %+d bytes since the first %d",
			turns, host, len(cs), turns-warmUp, took.Seconds(), len(diff), descriptors, memory, warmUp)
		return o.differences(host, diff).
			with(host, "compared: %d lines of state, %d descriptors, %d bytes of heap before", len(describe(before)), had.Descriptors, had.Memory).
			value("sec", took.Seconds()/float64(turns-warmUp)).value("bytes", float64(memory)), nil
	},
	Sabotage: []Sabotage{
		{Mode: "macvlan-bridge", Doc: "attaching turns IPv6 off on an interface of the host", Rewire: ofSpares(flushing)},
		{Mode: "bridge", Doc: "attaching turns IPv6 off on an interface of the host", Rewire: ofSpares(flushing)},
	},
})

// refusedIn is that one of so many turns was refused.
func refusedIn(err error, times int) (Observation, error) {
	if !refused(err) {
		return Observation{}, err
	}
	return blocked("of %d times that a container was to be attached and detached again, one was refused: %v", times, err), nil
}
