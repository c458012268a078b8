package suites

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/modebench/modebench/modes"
	"github.com/modebench/modebench/reports"
	"github.com/modebench/modebench/topology"
	"github.com/modebench/modebench/topology/lab"
)

// unmanaged says why a question about an address manager makes no sense; nil where it does.
func unmanaged(b *Bench) *Observation {
	if o := deviceless(b); o != nil {
		return o
	}
	if with, own := sharers(b, spareOf(b.plan, firstHost(b), 1), firstHost(b)); !own || with != nil {
		o := notApplicable("a container that joins others has their addresses: none is given out for it")
		return &o
	}
	return nil
}

// pool is a range of each family that a host's address manager gives out for a network.
type pool struct {
	b      *Bench
	name   string // by which the address manager knows it
	host   string
	ranges []topology.Range
	size   int // containers that it has addresses for
	named  int // that were named so far
}

// eth0 is the name of the device that modes make in a container.
const eth0 = "eth0"

// poolName is a pool that a sabotage can find.
const poolName = "pool"

// managed makes room for containers that are numbered by a pool of so many addresses, or of as many as the mode can attach.
func managed(ctx context.Context, b *Bench, name string, size int) (*pool, error) {
	host := firstHost(b)
	if b.mode.Limit > 0 {
		size = min(size, b.mode.Limit)
	}
	if _, err := another(b, host, network(b), 3*size); err != nil { // the last that could be asked for
		return nil, err
	}
	return &pool{b: b, name: name, host: host, size: size, ranges: ranged(b.plan, b.mode, size)}, room(ctx, b, host, network(b))
}

// ranged are the addresses of so many containers of the first host beyond those that the plan attaches.
func ranged(p *topology.Plan, m modes.Mode, size int) (ranges []topology.Range) {
	host := p.Hosts()[0]
	for n := range size {
		c := spareOf(p, host.Name, n+1)
		for i, a := range m.Addrs(p, host, c) {
			if n == 0 {
				ranges = append(ranges, topology.Range{Subnet: subnetOf(c, a), First: a.Addr()})
			}
			ranges[i].Last = a.Addr()
		}
	}
	return ranges
}

// subnetOf is the subnet of a container's address: where it is alone on its link, the block that it was taken from.
func subnetOf(c topology.Container, a netip.Prefix) netip.Prefix {
	for _, block := range []netip.Prefix{a, c.Segment4, c.Segment6, c.Private4, c.Private6} {
		if !block.IsSingleIP() && block.Contains(a.Addr()) {
			return block.Masked()
		}
	}
	return a
}

// next is a container that none was before: with a name, a MAC address and a device of its own, whatever its addresses will be.
func (p *pool) next() topology.Container {
	p.named++
	return spareOf(p.b.plan, p.host, p.size+p.named)
}

// attach has the host's address manager number a container, by name or as it comes, and attaches it with these addresses. What
// is refused is given back.
func (p *pool) attach(ctx context.Context, c topology.Container, want ...netip.Addr) (Place, error) {
	b, at := p.b, Place{p.host, c.Name}
	owner := "attach " + at.String()
	reserve := topology.Reserve{Pool: p.name, ID: c.Name, Link: b.mode.Device, Ranges: p.ranges, Want: want}
	if err := b.lab.Apply(ctx, owner, []topology.Step{{On: p.host, Reserve: &reserve}}); err != nil {
		return at, err
	}
	fail := func(err error) (Place, error) { return at, errors.Join(err, b.lab.Undo(ctx, owner)) }
	held, err := p.state(ctx)
	if err != nil {
		return fail(err)
	}
	i := slices.IndexFunc(held, func(r lab.Reservation) bool { return r.ID == c.Name })
	if i < 0 {
		return fail(fmt.Errorf("%s has nothing of %s after it was given something", at, p.name))
	}
	numbered := c
	for n := 1; !slices.Equal(p.addrs(numbered), held[i].Addrs); n++ {
		if n > p.size {
			return fail(fmt.Errorf("%s was given %v, which are no container's of the plan", at, held[i].Addrs))
		}
		numbered = spareOf(b.plan, p.host, n)
	}
	numbered.Name, numbered.MAC, numbered.Device = c.Name, c.MAC, c.Device
	if _, err := b.Attach(ctx, numbered, p.host); err != nil {
		return fail(err)
	}
	// Not all who carry modes out do so that neighbours hear it (announced-same-host): what is asked here is something else.
	for _, a := range held[i].Addrs {
		if err := announce(ctx, b, at, a); err != nil && !errors.Is(err, errNotThere) { // the questions will find that it is not
			return fail(err)
		}
	}
	return at, nil
}

// addrs are a container's on the host.
func (p *pool) addrs(c topology.Container) (as []netip.Addr) {
	for _, a := range p.b.mode.Addrs(p.b.plan, p.b.plan.Machine(p.host), c) {
		as = append(as, a.Addr())
	}
	return as
}

// state is who holds what.
func (p *pool) state(ctx context.Context) (held []lab.Reservation, err error) {
	err = p.b.Do(ctx, p.host, "IPAM.State", p.name, &held)
	return held, err
}

// works attaches a container and shows that it has its addresses, alone, and is answered from outside.
func (p *pool) works(ctx context.Context, o *Observation, want ...netip.Addr) (at Place, ok bool, err error) {
	c := p.next()
	if at, err = p.attach(ctx, c, want...); refused(err) {
		*o = o.with(p.host, "%s: %v", c.ID(), err)
		return at, false, nil
	} else if err != nil {
		return at, false, err
	}
	state, err := p.b.devices(ctx, at.Machine)
	if err != nil {
		return at, false, err
	}
	has := true
	for _, a := range p.addrs(attachedAt(p.b, at)) {
		_, err := linkWith(state.Spaces[at.Container], a)
		has = has && err == nil
	}
	a, whom, err := callsOut(ctx, p.b, at)
	*o = o.with(at.String(), "was given %v, and has it: %t; answered by %s: %t", p.addrs(attachedAt(p.b, at)), has, whom, a.Answered)
	return at, has && a.Answered, err
}

// refuses asks for what cannot be given, and shows that the host is as before.
func (p *pool) refuses(ctx context.Context, o *Observation, what, because string, c topology.Container, want ...netip.Addr) (ok bool, err error) {
	before, err := steady(ctx, p.b, p.host)
	if err != nil {
		return false, err
	}
	held, err := p.state(ctx)
	if err != nil {
		return false, err
	}
	at, refusal := p.attach(ctx, c, want...)
	if refusal != nil && !refused(refusal) {
		return false, refusal
	}
	if refusal == nil {
		*o = o.with(at.String(), "%s: attached", what)
		return false, nil
	}
	after, err := p.state(ctx)
	if err != nil {
		return false, err
	}
	diff, err := restored(ctx, p.b, p.host, before)
	if err != nil {
		return false, err
	}
	*o = o.with(p.host, "%s: %v; %d differences to the host before", what, refusal, len(diff)).differences(p.host, diff)
	return strings.Contains(refusal.Error(), because) && len(diff) == 0 && fmt.Sprint(held) == fmt.Sprint(after), nil
}

var _ = register(Spec{
	Suite: "lifecycle",
	Feature: Feature{
		Name: "address-exhaustion", Group: "lifecycle",
		Doc: "When a host's range of addresses is used up, is one more container refused and nothing left of it, and does the next one work once an address was given back?",
	},
	Name: "containers are numbered by host-local from a range of three addresses until that is used up; then one is detached and another attached",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		if o := unmanaged(b); o != nil {
			return *o, nil
		}
		p, err := managed(ctx, b, poolName, 3)
		if err != nil {
			return Observation{}, err
		}
		var o Observation
		var places []Place
		for range p.size {
			at, ok, err := p.works(ctx, &o)
			if err != nil || !ok {
				return concluded(o, false, "%s, number %d of the %d that are to be numbered, does not work", at, len(places)+1, p.size), err
			}
			places = append(places, at)
		}
		clean, err := p.refuses(ctx, &o, "one more", "no IP addresses available", p.next())
		if err != nil {
			return o, err
		}
		freed := addrOf(b, places[0], b.families()[0])
		if err := b.Detach(ctx, places[0]); err != nil {
			return o, err
		}
		at, ok, err := p.works(ctx, &o)
		if err != nil {
			return o, err
		}
		again := ok && addrOf(b, at, b.families()[0]) == freed
		return concluded(o, clean && again, "%d containers were numbered from as many addresses, and work; one more was refused and left nothing: %t; the next, after %s was given back, has it and works: %t",
			len(places), clean, freed, again), nil
	},
	Sabotage: []Sabotage{
		{Mode: "ptp", Doc: "forwarding is off", Steps: forwardingOff(IPv4)},
		{Mode: "macvlan-bridge", Doc: "containers number themselves", Rewire: ofSpares(selfNumbered)},
		{Mode: "bridge", Doc: "somebody else has reserved an address of the range", Steps: reservedBefore("bridge")},
	},
})

// concluded is works where all is as asked for, else a status that no expectation has: the detail says what is not.
func concluded(o Observation, yes bool, format string, args ...any) Observation {
	seen := works(format, args...)
	if !yes {
		seen.Status = "mixed"
	}
	seen.Evidence, seen.Reproduce = o.Evidence, o.Reproduce
	return seen
}

var _ = register(Spec{
	Suite: "lifecycle",
	Feature: Feature{
		Name: "address-request", Group: "lifecycle",
		Doc: "Does a container get an address that it asks for by name, and is one refused that is another's, the gateway's or out of range, or that is a second one for the same interface?",
	},
	Name: "containers ask host-local for addresses by name: a free one, and four that are not to be had",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		if o := unmanaged(b); o != nil {
			return *o, nil
		}
		p, err := managed(ctx, b, poolName, 3)
		if err != nil {
			return Observation{}, err
		}
		var last, gateways, outside []netip.Addr
		for _, r := range p.ranges {
			last, gateways, outside = append(last, r.Last), append(gateways, r.Subnet.Addr().Next()), append(outside, r.Last.Next())
		}
		var o Observation
		at, good, err := p.works(ctx, &o, last...)
		if err != nil {
			return o, err
		}
		if !good {
			return concluded(o, false, "%v were asked for by name, and %s does not have them or does not work", last, at), nil
		}
		granted := addrOf(b, at, b.families()[0]) == last[0]
		refusals := 0
		c, same := p.next(), attachedAt(b, at)
		for _, ask := range []struct {
			what, because string
			who           topology.Container
			want          []netip.Addr
		}{
			{"that address again", "is taken", c, last},
			{"the gateway's", "is the gateway's", c, gateways},
			{"one out of range", "is not in the range", c, outside},
			{"a second one for the first container", "duplicate allocation", same, nil},
		} {
			ok, err := p.refuses(ctx, &o, ask.what, ask.because, ask.who, ask.want...)
			if err != nil {
				return o, err
			}
			if ok {
				refusals++
			}
		}
		still, whom, err := callsOut(ctx, b, at)
		if err != nil {
			return o, err
		}
		return concluded(o, granted && refusals == 4 && still.Answered,
			"%s asked for %v: granted, and it works: %t; %d of 4 that could not be given were refused, and left nothing; the first is answered by %s after that: %t",
			at, last, granted, refusals, whom, still.Answered), nil
	},
	Sabotage: []Sabotage{
		{Mode: "macvlan-bridge", Doc: "containers number themselves", Rewire: ofSpares(selfNumbered)},
		{Mode: "bridge", Doc: "somebody else has the last address of the range", Steps: reservedBefore("bridge")},
	},
})

// remembered is how long peers may take to find the new holder of an address.
const remembered = 3 * time.Second

var _ = registerFamilies(func(f Family) Spec {
	return Spec{
		Suite: "lifecycle",
		Feature: Feature{
			Name: "address-reuse", Group: "lifecycle",
			Doc: "Is an address that was given back given out again only when the others had their turn, and do all who knew its old holder reach the new one within 3 s?",
		},
		Name: "a container that others have talked to is detached, the next is given another address, and the one after that the first's, where the others ask again",
		Run: func(ctx context.Context, b *Bench) (Observation, error) {
			if o := unmanaged(b); o != nil {
				return *o, nil
			}
			if o := numberless(b, f); o != nil {
				return *o, nil
			}
			p, err := managed(ctx, b, b.newToken(), 2) // nothing was ever given out of it
			if err != nil {
				return Observation{}, err
			}
			var o Observation
			old, ok, err := p.works(ctx, &o)
			if err != nil || !ok {
				return concluded(o, false, "the first container, %s, does not work", old), err
			}
			a, port := addrOf(b, old, f), b.freePort()
			knowing, end, err := p.peers(ctx, f, old, port, 3*slow, p.others(old))
			if err != nil {
				return o, err
			}
			if len(knowing) == 0 {
				return o, fmt.Errorf("nobody reaches %s: there is nobody whom its end could concern", old)
			}
			if err := errors.Join(end(), b.Detach(ctx, old)); err != nil {
				return o, err
			}
			fair := p.size == 1
			if !fair {
				between, ok, err := p.works(ctx, &o)
				if err != nil {
					return o, err
				}
				fair = ok && addrOf(b, between, f) != a
				if err := b.Detach(ctx, between); err != nil {
					return o, err
				}
			}
			now, ok, err := p.works(ctx, &o)
			if err != nil {
				return o, err
			}
			again := ok && addrOf(b, now, f) == a
			began := time.Now()
			reaching, _, err := p.peers(ctx, f, now, port, remembered, knowing)
			if err != nil {
				return o, err
			}
			took := time.Since(began)
			lost := slices.DeleteFunc(slices.Clone(knowing), func(q Place) bool { return slices.Contains(reaching, q) })
			seen := concluded(o, fair && again,
				"%s had %s, and %v reached it; the next container was given another: %t; %s after it was given the same: %t; of those who knew %s, %d did not reach %s within %s",
				old, a, knowing, fair, now, again, old, len(lost), now, remembered).value("sec", took.Seconds())
			if len(lost) == 0 || seen.Status != reports.Works {
				return seen, nil
			}
			t, err := try(ctx, b, lost[0], now, netip.AddrPortFrom(a, port), "udp")
			if err != nil {
				return o, err
			}
			if _, no := t.answered(); len(no) > 0 {
				seen.Status, seen.Detail = reports.Blocked, fmt.Sprintf("%s; %s asked again: %s", seen.Detail, lost[0], t.lost())
			} else {
				seen.Status = "mixed" // they do by now
			}
			seen.Evidence = slices.Concat(seen.Evidence, t.sightings(), t.control)
			return seen, nil
		},
		Sabotage: []Sabotage{
			{Mode: "macvlan-bridge", Doc: "an external machine remembers the old holder for good", Steps: func(p *topology.Plan) []topology.Step {
				x := p.Externals()[0]
				return []topology.Step{{On: x.Name, Neigh: oldHolder(p, f, x.NICs[0].Name, func(c topology.Container) (_, _ netip.Prefix) { return c.Segment4, c.Segment6 })}}
			}},
			{Mode: "bridge", Doc: "the host remembers the old holder for good", Steps: func(p *topology.Plan) []topology.Step {
				return []topology.Step{{On: p.Hosts()[0].Name, Neigh: oldHolder(p, f, p.Networks[0].Bridge, func(c topology.Container) (_, _ netip.Prefix) { return c.Private4, c.Private6 })}}
			}},
			{Mode: "ptp", Doc: "containers number themselves", Rewire: ofSpares(selfNumbered)},
		},
	}
})

// others are all who may know a container: its host, the containers of its network, and an external machine.
func (p *pool) others(of Place) []Place {
	all := []Place{{Machine: p.host}, external(p.b)}
	for _, h := range p.b.plan.Hosts() {
		all = append(all, p.b.Containers(h.Name, network(p.b))...)
	}
	return slices.DeleteFunc(all, func(q Place) bool { return q == of })
}

// peers are those of some places that reach a container within a time, the external machine where the container is known there. All
// ask from one port of theirs, so that what is left of a connection to an earlier holder of the address would matter. What is
// returned ends the container's server.
func (p *pool) peers(ctx context.Context, f Family, of Place, port uint16, within time.Duration, among []Place) (reaching []Place, end func() error, err error) {
	b, a := p.b, netip.AddrPortFrom(addrOf(p.b, of, f), port)
	s, err := serveUDP(ctx, b, of, f, port)
	if err != nil {
		return nil, nil, err
	}
	abroad, withdraw, err := known(ctx, b, attachedAt(b, of), p.host, f, port, "udp")
	if refused(err) {
		return nil, nil, err
	} else if err != nil { // it is not known there
		abroad, withdraw = a, func() error { return nil }
	}
	var mu sync.Mutex
	var g errgroup.Group
	for _, from := range among {
		to := a
		if from == external(b) {
			to = abroad
		}
		g.Go(func() error {
			yes, err := eventually(ctx, within, func() (bool, error) {
				r, err := b.Ask(ctx, from, lab.Ask{Proto: "udp", From: netip.AddrPortFrom(unspecified(f), port), Reuse: true, To: to, Wait: 100 * time.Millisecond})
				return r.Answered, err
			})
			if yes {
				mu.Lock()
				defer mu.Unlock()
				reaching = append(reaching, from)
			}
			return err
		})
	}
	err = g.Wait()
	slices.SortFunc(reaching, func(x, y Place) int { return strings.Compare(x.String(), y.String()) })
	return reaching, func() error { return errors.Join(s.stop(), withdraw()) }, err
}

var _ = register(Spec{
	Suite: "conformance",
	Feature: Feature{
		Name: "arp-probe", Group: "addresses",
		Doc: "Does a container that asks by an ARP probe (RFC 5227) whether an address is another's hear of a container of another host that has it?",
	},
	Name: "a container of one host probes for the IPv4 address of a container of another",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		if o := deviceless(b, IPv4); o != nil {
			return *o, nil
		}
		holder, asker := container(b), b.Containers(secondHost(b), network(b))[0]
		a, device := addrOf(b, holder, IPv4), ownDevice(b, asker)
		s, err := b.State(ctx, asker.Machine)
		if err != nil {
			return Observation{}, err
		}
		l, err := linkWith(s.Spaces[asker.Container], addrOf(b, asker, IPv4))
		if err != nil {
			return Observation{}, err
		}
		recorded, err := b.Record(ctx)
		if err != nil {
			return Observation{}, err
		}
		// Section 2.1.1: the sender's IP address is zero, lest others' tables be changed, and so is the target's MAC address.
		if err := tell(ctx, b, asker, device, lab.Packet{ARP: &lab.ARP{Op: 1, SenderMAC: l.MAC, SenderIP: unspecified(IPv4), TargetIP: a}}); err != nil {
			return Observation{}, err
		}
		var packets []lab.Packet
		answered := func() (yes bool, err error) {
			packets, err = recorded(ctx, func(p lab.Packet) bool {
				q := carriedIn(p)
				mine := q.ARP != nil && (q.ARP.Op == 1 && q.ARP.SenderIP.IsUnspecified() && q.ARP.TargetIP == a || q.ARP.Op == 2 && q.ARP.SenderIP == a && q.ARP.TargetIP.IsUnspecified())
				yes = yes || mine && q.ARP.Op == 2 && !p.Outgoing && p.Machine == asker.Machine && p.In == asker.Container
				return mine
			})
			return yes, err
		}
		// An answer that is seen on its way says that the holder has been asked: only until then a worker of the kernel may have the probe.
		wait, err := byThen(ctx, b, holder)
		if err != nil {
			return Observation{}, err
		}
		if _, err := eventually(ctx, wait, func() (bool, error) {
			yes, err := answered()
			return yes || slices.ContainsFunc(packets, func(p lab.Packet) bool { return carriedIn(p).ARP.Op == 2 }), err
		}); err != nil {
			return Observation{}, err
		}
		yes, err := eventually(ctx, slow, answered)
		var alive []reports.Evidence
		if err == nil && !yes {
			if alive, err = control(ctx, b, asker, holder, a); err == nil {
				yes, err = answered()
			}
		}
		if err != nil {
			return Observation{}, err
		}
		if len(packets) == 0 {
			return Observation{}, fmt.Errorf("%s sent a probe for %s: it was seen nowhere", asker, a)
		}
		last := packets[len(packets)-1]
		for _, p := range packets {
			if carriedIn(p).ARP.Op == 2 { // what is sent to all goes on arriving while it is answered
				last = p
			}
		}
		o := whether(yes, "%s probed for %s, which %s has: it heard of that: %t; last seen at %s (%s)", asker, a, holder, yes, at(last), last.Text)
		for _, p := range packets {
			o.Evidence = append(o.Evidence, seen(p))
		}
		o.Evidence = append(o.Evidence, alive...)
		return o, nil
	},
	Sabotage: []Sabotage{
		{Mode: "macvlan-bridge", Doc: "the holder answers for none of its addresses", Steps: func(p *topology.Plan) []topology.Step { // arp_ignore of ip-sysctl.rst
			h := p.Hosts()[0]
			return []topology.Step{{On: h.Name, In: h.Containers[0].Name, Sysctl: &topology.Sysctl{Key: "net/ipv4/conf/" + eth0 + "/arp_ignore", Value: "8"}}}
		}},
		{Mode: "bridge", Doc: "the hosts' interfaces are ports of their bridges", Steps: func(p *topology.Plan) (steps []topology.Step) {
			for _, h := range p.Hosts() {
				steps = append(steps, topology.Step{On: h.Name, Set: &topology.LinkSet{Name: p.Networks[0].NIC, Master: p.Networks[0].Bridge}})
			}
			return steps
		}},
		{Mode: "ipvlan-l2", Doc: "the devices are macvlan devices", Rewire: kindOf("macvlan", "bridge")},
	},
})

// carriedIn is what a packet carries, or else itself.
func carriedIn(p lab.Packet) lab.Packet {
	if p.Inner != nil {
		return *p.Inner
	}
	return p
}

// Sabotages of address managers.

// selfNumbered gives devices the addresses after those that they were given.
func selfNumbered(steps []topology.Step) []topology.Step {
	return mapAddrs(func(a *topology.Addr) { a.Prefix = netip.PrefixFrom(a.Prefix.Addr().Next(), a.Prefix.Bits()) })(steps)
}

// reservedBefore has somebody else hold the last address of a pool of three.
func reservedBefore(mode string) func(*topology.Plan) []topology.Step {
	return func(p *topology.Plan) []topology.Step {
		m, _ := modes.Find(mode)
		ranges := ranged(p, m, 3)
		var last []netip.Addr
		for _, r := range ranges {
			last = append(last, r.Last)
		}
		return []topology.Step{{On: p.Hosts()[0].Name, Reserve: &topology.Reserve{Pool: poolName, ID: "somebody", Link: eth0, Ranges: ranges, Want: last}}}
	}
}

// oldHolder is a permanent entry of the first address of a pool of two with the MAC address of the first container that gets it.
func oldHolder(p *topology.Plan, f Family, link string, of func(topology.Container) (v4, v6 netip.Prefix)) *topology.Neigh {
	h := p.Hosts()[0].Name
	v4, v6 := of(spareOf(p, h, 1))
	return &topology.Neigh{Link: link, IP: map[Family]netip.Addr{IPv4: v4.Addr(), IPv6: v6.Addr()}[f], MAC: spareOf(p, h, 3).MAC}
}
