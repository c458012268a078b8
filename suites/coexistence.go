package suites

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/modebench/modebench/modes"
	"github.com/modebench/modebench/topology"
	"github.com/modebench/modebench/topology/lab"
)

// answers tells whether a container gets an answer from a machine by each of its families, or in a mode without addresses from
// itself. It waits until the kernel has asked for a link-layer address again.
func answers(ctx context.Context, b *Bench, m modes.Mode, p Place, of *topology.Interface) (bool, error) {
	for _, f := range familiesIn(b.plan, m) {
		proto, a := "udp", of.V4.Addr()
		switch {
		case m.Addrs == nil:
			proto, a = "icmp", loopback(f)
		case f == IPv6:
			a = of.V6.Addr()
		}
		ok, err := eventually(ctx, 2*retry, func() (bool, error) {
			r, err := b.Ask(ctx, p, lab.Ask{Proto: proto, To: netip.AddrPortFrom(a, controlPort), Wait: 100 * time.Millisecond})
			return r.Answered, err
		})
		if !ok || err != nil {
			return false, err
		}
	}
	return true, nil
}

var _ = register(Spec{
	Suite: "lifecycle",
	Feature: Feature{
		Name: "coexistence", Group: "operations",
		Doc: "Do containers of all other modes that the fabric carries work on the same host beside it, one mode at a time on another network?",
	},
	Name: "beside the mode's container, one of each other mode is attached to another network of the host, and both ask machines of their segments",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		first := container(b)
		host, other := first.Machine, b.plan.Networks[1].Name
		x, h := external(b), b.plan.Machine(host)
		own, far := wire(b, x), b.plan.Machine(secondHost(b)).NIC(b.plan.Networks[1].NIC)
		// What one interface carries is a question of its own, and the second host is to answer itself.
		there := b.Containers(host, other)
		c := attachedAt(b, there[0])
		if err := errors.Join(aside(ctx, b, there...), aside(ctx, b, b.Containers(secondHost(b), other)...)); err != nil {
			return Observation{}, err
		}
		if ok, err := answers(ctx, b, b.mode, first, own); err != nil || !ok {
			return Observation{}, errors.Join(err, fmt.Errorf("%s does not reach %s before anything else is there", first, x))
		}
		setup := func(m modes.Mode) []topology.Step {
			if m.Setup == nil {
				return nil
			}
			return m.Setup(b.plan, h)
		}
		present := setup(b.mode)
		var o Observation
		var beside, lost []string
		for _, m := range modes.All() {
			if m.Name == b.mode.Name || !carries(b, m, c) {
				continue
			}
			steps := slices.DeleteFunc(setup(m), func(s topology.Step) bool {
				return slices.ContainsFunc(present, func(p topology.Step) bool { return reflect.DeepEqual(s, p) })
			})
			for i, s := range steps {
				if s.Table != nil { // by whose name nothing is meant
					t := *s.Table
					t.Name = m.Name + "-" + t.Name
					steps[i].Table = &t
				}
			}
			owner := "beside: " + m.Name
			err := b.lab.Apply(ctx, owner, append(steps, m.Attach(b.plan, h, c)...))
			if err != nil && strings.Contains(err.Error(), "operation not supported") {
				o = o.with(host, "%s: left out, the kernel cannot carry it: %v", m.Name, err)
				continue
			}
			if err != nil {
				return Observation{}, fmt.Errorf("%s: %w", m.Name, err)
			}
			undone := false
			undo := func(ctx context.Context) error {
				if undone {
					return nil
				}
				undone = true
				return b.lab.Undo(ctx, owner)
			}
			b.atEnd(undo)
			if err := b.settled(ctx, host); err != nil {
				return Observation{}, err
			}
			var theirs, ours bool
			if err := all(
				func() (err error) { theirs, err = answers(ctx, b, m, Place{host, c.Name}, far); return err },
				func() (err error) { ours, err = answers(ctx, b, b.mode, first, own); return err },
			); err != nil {
				return Observation{}, err
			}
			o = o.with(host, "with a container of %s on network %s: it was answered %t, and %s was answered %t", m.Name, other, theirs, first, ours)
			if theirs && ours {
				beside = append(beside, m.Name)
			} else {
				lost = append(lost, m.Name)
			}
			if err := undo(ctx); err != nil {
				return Observation{}, err
			}
			if len(lost) > 0 {
				break // silence takes long, and one is enough
			}
		}
		if len(beside)+len(lost) == 0 {
			return Observation{}, fmt.Errorf("no other mode can be carried here")
		}
		seen := whether(len(lost) == 0, "beside %s, containers of other modes were attached to network %s: both worked with %s; not with %s",
			first, other, orNone(beside), orNone(lost)).value("count", float64(len(beside)))
		seen.Evidence = o.Evidence
		return seen, nil
	},
	Sabotage: []Sabotage{
		{Mode: "macvlan-bridge", Doc: "the second host does not answer on the other network", Steps: farDown},
		{Mode: "host", Doc: "the second host does not answer on the other network", Steps: farDown},
	},
})

// carries tells whether the bench's fabric carries a mode: one that asks for it, and one that asks for no fabric and does not
// put the container on the segment, since what leaves is the host's then. An overlay leads to another host in one way alone,
// so that two modes of one overlay are not beside each other, and programs of others are not started for a while.
func carries(b *Bench, m modes.Mode, c topology.Container) bool {
	block := func(m modes.Mode) netip.Prefix { // of the overlay; none: zero
		if m.Addrs == nil {
			return netip.Prefix{}
		}
		a := m.Addrs(b.plan, b.plan.Machine(c.Host), c)[0].Addr()
		across, _ := b.plan.Overlay(c)
		for _, block := range []netip.Prefix{b.plan.Network(c.Network).Fan.Overlay, across.Masked()} {
			if block.Contains(a) {
				return block
			}
		}
		return netip.Prefix{}
	}
	if len(m.Programs) > 0 { // what they make is theirs to remove, and they leave it for when they start again
		return false
	}
	if of := block(m); of.IsValid() && of == block(b.mode) {
		return false
	}
	// What a plugin has made for the first network has its gateway's address, which another device of the host would have then, too.
	if b.mode.Implementation != "" && m.Setup != nil && slices.ContainsFunc(m.Setup(b.plan, b.plan.Machine(c.Host)), func(s topology.Step) bool {
		return s.Addr != nil && s.Addr.Prefix.Addr() == b.plan.Networks[0].Gateway4
	}) {
		return false
	}
	return m.Fabric == b.mode.Fabric || m.Fabric == (topology.Fabric{}) && (m.Addrs == nil ||
		m.Addrs(b.plan, b.plan.Machine(c.Host), c)[0].Addr() != c.Segment4.Addr())
}

// farDown takes the second host's interface of the second network down.
func farDown(p *topology.Plan) []topology.Step {
	return []topology.Step{{On: p.Hosts()[1].Name, Set: &topology.LinkSet{Name: p.Networks[1].NIC, State: "down"}}}
}
