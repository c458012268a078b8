package suites

import (
	"context"
	"time"

	"github.com/modebench/modebench/reports"
	"github.com/modebench/modebench/topology"
)

// How often attaching is timed, and how often it is done before, so that programs and what they read are in memory.
const (
	timings = 21
	warmth  = 3
)

var _ = register(Spec{
	Suite:   scale,
	Feature: Feature{Name: "attach-each", Group: "limits", Doc: "Is one container attached and detached again and again, with nothing else going on, without an error?"},
	Name:    "one container is attached and detached 24 times, one after the other; all but the first three are timed, from its namespace to its last step",
	Within:  3 * time.Minute, // an engine on a busy machine
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		host := firstHost(b)
		if err := room(ctx, b, host, network(b)); err != nil {
			return Observation{}, err
		}
		c, err := another(b, host, network(b), 1)
		if err != nil {
			return Observation{}, err
		}
		o := works("one container was attached to %s, and detached, %d times without an error", host, warmth+timings)
		b.atEnd(func(ctx context.Context) error { return b.Detach(ctx, Place{host, c.Name}) })
		for turn := range warmth + timings {
			began := time.Now()
			p, err := b.attach(ctx, c, host)
			if refused(err) {
				return blocked("the %d. time: %v", turn+1, err), nil
			} else if err != nil {
				return Observation{}, err
			}
			attached := time.Now()
			if err := b.Detach(ctx, p); refused(err) {
				return blocked("the %d. time: %v", turn+1, err), nil
			} else if err != nil {
				return Observation{}, err
			}
			if turn >= warmth {
				o = o.value(reports.AttachUnit, attached.Sub(began).Seconds()).value(reports.DetachUnit, time.Since(attached).Seconds())
			}
		}
		o.Reproduce = lines(attaching(b, c, host))
		return o, nil
	},
	Sabotage: []Sabotage{{Mode: "bridge", Doc: "a device is missing that is to be set", Spares: func(steps []topology.Step) []topology.Step {
		return append(steps, topology.Step{On: steps[0].On, Set: &topology.LinkSet{Name: "nowhere0", State: "up"}})
	}}},
})
