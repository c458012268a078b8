package suites

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/modebench/modebench/topology"
	"github.com/modebench/modebench/topology/lab"
)

const (
	spare     = 16        // connections that the table has room for, besides those that it has
	flood     = 4 * spare // questions by which it is filled, each from a port of its own
	newcomers = 8         // that come when it is full
)

var _ = register(Spec{
	Suite: failure, Machines: true, Within: 4 * specTimeout,
	Feature: Feature{Name: "conntrack-full", Group: failure, Doc: "When the host's table of connections is full, is a container's new question still answered?"},
	Name:    "the host's table of connections is given room for 16 more, a container asks an external machine from 64 ports and then from 8 more, while an older stream of questions goes on",
	Run:     conntrackFull,
	Sabotage: []Sabotage{
		{Mode: "macvlan-bridge", Doc: "the container's own namespace tracks connections", Steps: func(p *topology.Plan) []topology.Step {
			h := p.Hosts()[0]
			return []topology.Step{{On: h.Name, In: h.Containers[0].Name, Table: &topology.Table{Family: "inet", Name: "tracking", Chains: []topology.Chain{{
				Name: "out", Type: "filter", Hook: "output",
				Rules: []topology.Rule{{Match: []topology.Match{{Field: "ct state", Value: "established"}}, Verdict: topology.Verdict{Kind: "accept"}}},
			}}}}}
		}},
	},
})

func conntrackFull(ctx context.Context, b *Bench) (Observation, error) {
	if o := numberless(b, IPv4); o != nil {
		return *o, nil
	}
	p, x := container(b), external(b)
	target := netip.AddrPortFrom(addrOf(b, x, IPv4), controlPort)
	if a, err := persists(ctx, b, p); err != nil || !a {
		return Observation{}, errors.Join(err, fmt.Errorf("%s does not reach %s", p, x))
	}
	f, err := flowing(ctx, b, p, target, b.newToken())
	if err != nil {
		return Observation{}, err
	}
	older := &vigil{Bench: b, from: p, at: x, target: target, flow: f}
	// A stream that has lasted for two seconds is not forgotten to make room (nf_conntrack_udp_packet() of net/netfilter/nf_conntrack_proto_udp.c,
	// early_drop_list() of nf_conntrack_core.c).
	began := time.Now()
	if ok, err := eventually(ctx, patience, func() (bool, error) {
		ok, err := older.goesOn(ctx, patience)
		return ok && time.Since(began) > 3*time.Second, err
	}); err != nil || !ok {
		return Observation{}, errors.Join(err, fmt.Errorf("%s is not answered by %s all the time before the table is full", p, x))
	}
	before, err := b.State(ctx, p.Machine)
	if err != nil {
		return Observation{}, err
	}
	room := len(before.Spaces[""].Conntrack) + spare
	limit := topology.Step{On: p.Machine, Sysctl: &topology.Sysctl{Key: "net/netfilter/nf_conntrack_max", Value: fmt.Sprint(room)}}
	if err := b.Apply(ctx, limit); err != nil {
		return Observation{}, err
	}
	ask := func(n int, wait time.Duration) (int, error) {
		var answered atomic.Int32
		g, ctx := errgroup.WithContext(ctx)
		g.SetLimit(newcomers)
		for range n {
			g.Go(func() error {
				a, err := b.Ask(ctx, p, lab.Ask{Proto: "udp", To: target, Wait: wait})
				if a.Answered {
					answered.Add(1)
				}
				return err
			})
		}
		err := g.Wait()
		return int(answered.Load()), err
	}
	flooded, err := ask(flood, hopeful)
	if err != nil {
		return Observation{}, err
	}
	late, err := ask(newcomers, time.Second)
	if err != nil {
		return Observation{}, err
	}
	goes, err := older.goesOn(ctx, patience)
	if err != nil {
		return Observation{}, err
	}
	after, err := b.State(ctx, p.Machine)
	if err != nil {
		return Observation{}, err
	}
	dropped, evicted := after.Spaces[""].NoRoom-before.Spaces[""].NoRoom, after.Spaces[""].Evicted-before.Spaces[""].Evicted
	// Some are let in, for each of which another is forgotten; and a busy machine is late now and then.
	o := whether(late > newcomers/2, "%s had room for %d connections: of %d questions from %s to %s %d were answered, and of %d more %d; meanwhile %d packets of new connections found no room, and %d connections were forgotten to make some",
		p.Machine, room, flood, p, x, flooded, newcomers, late, dropped, evicted)
	o = o.by([]topology.Step{limit}).value("dropped", float64(dropped)).value("evicted", float64(evicted))
	switch {
	case !goes:
		o.Status = "mixed"
		o.Detail += "; and the older stream is not answered any more"
	case (late > newcomers/2) != (dropped == 0):
		o.Status = "mixed"
		o.Detail += "; and those that were dropped are not why"
	default:
		o = o.with(p.String(), "control: the older stream was answered afterwards")
	}
	return o, nil
}
