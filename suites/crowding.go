package suites

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
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
	older, err := keepsAsking(ctx, b, p, x)
	if err != nil {
		return Observation{}, err
	}
	target := older.target
	// A stream that has lasted for two seconds is not forgotten to make room (nf_conntrack_udp_packet() of net/netfilter/nf_conntrack_proto_udp.c,
	// early_drop_list() of nf_conntrack_core.c).
	began := time.Now()
	if ok, err := eventually(ctx, patience, func() (bool, error) {
		ok, err := older.goesOn(ctx, patience)
		return ok && time.Since(began) > 3*time.Second, err
	}); err != nil || !ok {
		return Observation{}, errors.Join(err, fmt.Errorf("%s is not answered by %s all the time before the table is full", p, x))
	}
	before, err := b.tracked(ctx, p.Machine)
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
	after, err := b.tracked(ctx, p.Machine)
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

// keepsAsking has a container ask an external machine, which answers it, a thousand times a second until the spec ends.
func keepsAsking(ctx context.Context, b *Bench, p, x Place) (*vigil, error) {
	if a, err := persists(ctx, b, p); err != nil || !a {
		return nil, errors.Join(err, fmt.Errorf("%s does not reach %s", p, x))
	}
	target := netip.AddrPortFrom(addrOf(b, x, IPv4), controlPort)
	f, err := flowing(ctx, b, p, target, b.newToken())
	return &vigil{Bench: b, from: p, at: x, target: target, flow: f}, err
}

// mostNeighbours is how many neighbours the host's table is given room for, of all its namespaces; a kernel's own bound is 1,024 (gc_thresh3 of arp(7)).
const mostNeighbours = 64

var _ = register(Spec{
	Suite: failure, Machines: true, Within: 4 * specTimeout,
	Feature: Feature{Name: "neighbours-full", Group: failure, Doc: "When the host's table of IPv4 neighbours is full, does a container reach a machine outside that it has not asked before?"},
	Name:    "the host's table of neighbours is filled until the kernel refuses one more, and a container that goes on asking a machine outside asks another that it has not asked yet; then there is room again, and it asks once more",
	Run:     neighboursFull,
	Sabotage: []Sabotage{
		{Mode: "macvlan-bridge", Doc: "the container has a permanent entry for the machine", Steps: func(p *topology.Plan) []topology.Step {
			c, y := p.Hosts()[0].Containers[0], p.Externals()[1].NICs[0]
			return []topology.Step{{On: c.Host, In: c.Name, Neigh: &topology.Neigh{Link: "eth0", IP: y.V4.Addr(), MAC: y.MAC}}}
		}},
	},
})

func neighboursFull(ctx context.Context, b *Bench) (Observation, error) {
	if o := numberless(b, IPv4); o != nil {
		return *o, nil
	}
	p, stranger := container(b), Place{Machine: b.plan.Externals()[1].Name}
	// What is in use stays in the table, and with it the ways to gateways.
	older, err := keepsAsking(ctx, b, p, external(b))
	if err != nil {
		return Observation{}, err
	}
	to := netip.AddrPortFrom(addrOf(b, stranger, IPv4), controlPort)
	if err := forgets(ctx, b, p.Machine, to.Addr()); err != nil {
		return Observation{}, err
	}
	const owner = "neighbours"
	room := func() error { return b.lab.Undo(context.WithoutCancel(ctx), owner) }
	b.atEnd(func(context.Context) error { return room() })
	var limits []topology.Step
	for _, key := range []string{"gc_thresh2", "gc_thresh3"} {
		limits = append(limits, topology.Step{On: p.Machine, Sysctl: &topology.Sysctl{Key: "net/ipv4/neigh/default/" + key, Value: fmt.Sprint(mostNeighbours)}})
	}
	if err := b.lab.Apply(ctx, owner, limits); err != nil {
		return Observation{}, err
	}
	// They are on the host's interface, and nobody ever asks them (RFC 5737).
	entry := topology.Neigh{Link: b.face(p.Machine).Name, IP: netip.MustParseAddr("192.0.2.1"), MAC: net.HardwareAddr{0x02, 0x5e, 0x10, 0, 2, 0}, Found: true}
	var full error
	taken := 0
	for ; taken <= mostNeighbours; taken++ {
		one := entry
		if full = b.lab.Apply(ctx, owner, []topology.Step{{On: p.Machine, Neigh: &one}}); full != nil {
			break
		}
		entry.IP = entry.IP.Next()
	}
	switch {
	case full != nil && !(refused(full) && noRoom(full)):
		return Observation{}, full
	case full == nil:
		return Observation{}, fmt.Errorf("%s was given %d neighbours, and has room for more where %d was the most", p.Machine, taken, mostNeighbours)
	}
	asked, err := b.Ask(ctx, p, lab.Ask{Proto: "udp", To: to, Wait: retry})
	why := asked.Refusal.Text
	if err != nil {
		if !refused(err) || !strings.Contains(err.Error(), lab.NeighboursFull) {
			return Observation{}, err
		}
		why = lab.NeighboursFull
	}
	goes, err := older.goesOn(ctx, patience)
	if err != nil {
		return Observation{}, err
	}
	o := whether(asked.Answered, "%s had no room for a further neighbour: %s asked %s, which it had not asked before: answered: %t%s", p.Machine, p, stranger, asked.Answered, because(why))
	o = o.by(limits).with(p.Machine, "took %d neighbours, and then: %v", taken, full)
	o = o.with(p.String(), "the older stream was answered meanwhile: %t", goes)
	if err := room(); err != nil {
		return Observation{}, err
	}
	if ok, err := insists(ctx, b, p, to); err != nil || !ok {
		return Observation{}, errors.Join(err, fmt.Errorf("no control is alive: with room again, %s does not reach %s either", p, stranger))
	}
	return o.with(p.String(), "control: with room again, %s was reached", stranger), nil
}

// because is a reason in words, where there is one.
func because(why string) string {
	if why == "" {
		return ""
	}
	return " (" + why + ")"
}

// forgets has all namespaces of a machine forget what they have found of a neighbour. Entries that were made stay.
func forgets(ctx context.Context, b *Bench, machine string, a netip.Addr) error {
	s, err := b.State(ctx, machine)
	if err != nil {
		return err
	}
	done := map[uint64]bool{} // containers may share a namespace
	for name, space := range s.Spaces {
		if done[space.Inode] {
			continue
		}
		done[space.Inode] = true
		for _, n := range space.Neighs {
			if n.IP == a && n.State != "permanent" && n.State != "proxy" {
				if err := b.lab.Apply(ctx, "", []topology.Step{{On: machine, In: name, Remove: true, Neigh: &topology.Neigh{Link: n.Link, IP: a}}}); err != nil {
					return err
				}
			}
		}
	}
	return nil
}
