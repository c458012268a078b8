package suites

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/modebench/modebench/reports"
	"github.com/modebench/modebench/topology"
	"github.com/modebench/modebench/topology/lab"
)

// attachSilently attaches a container as the mode does, but for what the host announces, and gives the steps of that.
func attachSilently(ctx context.Context, b *Bench, c topology.Container, host string) (p Place, announcements []topology.Step, err error) {
	for _, s := range attaching(b, c, host) {
		if s.Announce != nil {
			announcements = append(announcements, s)
		}
	}
	if p, err = b.attachAs(ctx, c, host, silent); err != nil {
		return p, nil, err
	}
	b.atEnd(func(ctx context.Context) error { return b.Detach(ctx, p) })
	return p, announcements, b.settled(ctx, host)
}

var _ = registerFamilies(func(f Family) Spec {
	return Spec{
		Suite: "routing",
		Feature: Feature{
			Name: "bgp-reach", Group: "routing",
			Doc: "Does an external machine reach a container on another host than planned as long as its host announces it, and neither before nor after?",
		},
		Name: "a container of the second host is attached to the first without a word to the router; then it is announced, and then withdrawn; an external machine asks it each time",
		Run: speaking(func(ctx context.Context, b *Bench) (Observation, error) {
			c, err := guest(b, 1)
			if err != nil {
				return Observation{}, err
			}
			p, announcements, err := attachSilently(ctx, b, c, firstHost(b))
			if err != nil {
				return Observation{}, err
			}
			x := external(b)
			port, err := serve(ctx, b, p, unspecified(f))
			if err != nil {
				return Observation{}, err
			}
			target := netip.AddrPortFrom(addrOf(b, p, f), port)
			tor := sessionOf(b, firstHost(b)).tor
			prefix := alone(target.Addr())
			before, err := try(ctx, b, x, p, target, "udp")
			if err != nil {
				return Observation{}, err
			}
			const owner = specOwner + " announcements"
			b.atEnd(func(ctx context.Context) error { return b.lab.Undo(ctx, owner) })
			began := time.Now()
			if err := b.lab.Apply(ctx, owner, announcements); err != nil {
				return Observation{}, err
			}
			reached, err := eventually(ctx, patience, func() (bool, error) {
				a, err := b.Ask(ctx, x, lab.Ask{Proto: "udp", To: target, Wait: 20 * time.Millisecond})
				return a.Answered, err
			})
			if err != nil {
				return Observation{}, err
			}
			took := time.Since(began)
			routes, err := routesTo(ctx, b, tor, prefix)
			if err != nil {
				return Observation{}, err
			}
			o := Observation{}
			for _, r := range routes {
				o = o.with(tor, "while announced: %s", r.Text)
			}
			if err := b.lab.Undo(ctx, owner); err != nil {
				return Observation{}, err
			}
			if _, err := eventually(ctx, patience, func() (bool, error) {
				left, err := routesTo(ctx, b, tor, prefix)
				return len(left) == 0, err
			}); err != nil {
				return Observation{}, err
			}
			after, err := try(ctx, b, x, p, target, "udp")
			if err != nil {
				return Observation{}, err
			}
			early, late := before.answers["udp"].Answered, after.answers["udp"].Answered
			o.Evidence = append(o.Evidence, slices.Concat(before.control, after.control)...)
			o.Detail = fmt.Sprintf("%s asked %s on %s at %s: before it was announced answered %t (%s), then %t, with %d routes of %s's own to it; after it was withdrawn %t (%s)",
				x, c.ID(), p.Machine, target.Addr(), early, before.lost(), reached, len(routes), tor, late, after.lost())
			o.Status = "mixed"
			if !early && !late {
				o.Status = whether(reached && len(routes) > 0, "").Status
			}
			return o.value("reach-sec", took.Seconds()), nil
		}),
		Sabotage: []Sabotage{{Mode: speaks, Doc: "the router has a static route to it", Steps: func(p *topology.Plan) []topology.Step {
			c := spareOf(p, p.Hosts()[1].Name, 1)
			h := p.Hosts()[0]
			nic := h.NIC(p.Networks[0].NIC)
			to, via := c.Segment4.Addr(), nic.V4.Addr()
			if f == IPv6 {
				to, via = c.Segment6.Addr(), nic.V6.Addr()
			}
			return []topology.Step{{On: nic.Peer.Machine, Route: &topology.Route{Dst: alone(to), Via: via, Metric: 1}}}
		}}},
	}
})

var _ = register(Spec{
	Suite: "routing",
	Feature: Feature{
		Name: "bgp-withdraw", Group: "routing",
		Doc: "When a container that was announced alone is detached, is its route withdrawn, taken out of the router's table, and the address unreachable?",
	},
	Name: "an external machine asks a container of another host a thousand times a second while it is detached; UPDATE, routing table and the last question that still comes are timed",
	Run: speaking(func(ctx context.Context, b *Bench) (Observation, error) {
		c, err := guest(b, 1)
		if err != nil {
			return Observation{}, err
		}
		x, s := external(b), sessionOf(b, firstHost(b))
		p, err := b.Attach(ctx, c, s.host)
		if err != nil {
			return Observation{}, err
		}
		server, err := serveUDP(ctx, b, p, IPv4, b.freePort())
		if err != nil {
			return Observation{}, err
		}
		prefixes := guestAddrs(b, c)
		target := netip.AddrPortFrom(prefixes[0].Addr(), server.Port)
		token := b.newToken()
		asked, err := flowing(ctx, b, x, target, token)
		if err != nil {
			return Observation{}, err
		}
		if ok, err := eventually(ctx, patience, func() (bool, error) { return heardOf(ctx, b, p, server, token) }); err != nil || !ok {
			return Observation{}, errors.Join(err, fmt.Errorf("%s does not hear the flow from %s", p, x))
		}
		if ok, err := eventually(ctx, patience, func() (bool, error) {
			both, err := routesTo(ctx, b, s.tor, prefixes[1])
			return len(both) > 0, err
		}); err != nil || !ok {
			return Observation{}, errors.Join(err, fmt.Errorf("%s has no route to %s", s.tor, prefixes[1]))
		}
		recorded, err := b.Record(ctx)
		if err != nil {
			return Observation{}, err
		}
		began := time.Now()
		if err := errors.Join(server.stop(), b.Detach(ctx, p)); err != nil {
			return Observation{}, err
		}
		var update, fib [2]time.Time
		var evidence []reports.Evidence
		for i, prefix := range prefixes {
			m, err := hears(ctx, patience, recorded, func(m said) bool { return m.toRouter(s) && slices.Contains(m.Withdrawn, prefix) })
			if err != nil {
				return Observation{}, err
			}
			if m == nil {
				return blocked("%s was detached from %s: no UPDATE that withdraws %s came to %s within %s", c.ID(), s.host, prefix, s.tor, patience), nil
			}
			update[i], evidence = m.When, append(evidence, seen(m.Packet))
			if _, err := eventually(ctx, patience, func() (bool, error) {
				state, err := bgpState(ctx, b, s.tor)
				for _, e := range state.Events {
					if e.Kind == "removed" && e.Prefix == prefix && e.When.After(began) {
						fib[i] = e.When
					}
				}
				return !fib[i].IsZero(), err
			}); err != nil {
				return Observation{}, err
			}
			left, err := routesTo(ctx, b, s.tor, prefix)
			if err != nil {
				return Observation{}, err
			}
			if len(left) > 0 || fib[i].IsZero() {
				return Observation{Status: reports.Blocked, Evidence: evidence, Detail: fmt.Sprintf("%s was withdrawn, and %s still has %d routes to it after %s", prefix, s.tor, len(left), patience)}, nil
			}
		}
		a, err := b.Ask(ctx, x, lab.Ask{Proto: "udp", To: target, Wait: hopeful})
		if err != nil {
			return Observation{}, err
		}
		if _, err := asked.stop(); err != nil {
			return Observation{}, err
		}
		packets, err := recorded(ctx, func(q lab.Packet) bool {
			// At the router's port, whose clock is that of the other times.
			return q.Machine == s.tor && q.Device == s.port.Name && q.Outgoing && q.Dst == target && strings.HasPrefix(q.Token, token+".")
		})
		if err != nil {
			return Observation{}, err
		}
		last := began
		if len(packets) > 0 {
			last = packets[len(packets)-1].When
		}
		alive, err := echoed(ctx, b, x, container(b), IPv4)
		if err != nil {
			alive, err = echoed(ctx, b, x, Place{Machine: s.host}, IPv4)
		}
		if err != nil {
			return Observation{}, err
		}
		since := func(t time.Time) float64 { return max(0, t.Sub(began).Seconds()) }
		later := func(t [2]time.Time) time.Time {
			if t[0].After(t[1]) {
				return t[0]
			}
			return t[1]
		}
		o := whether(!a.Answered, "%s was detached from %s while %s asked it: the UPDATEs came to %s after %.4f s, both families were out of its table after %.4f s, and the last of %d questions that were still sent to the host was after %.4f s; asked once more: answered %t (%s)",
			c.ID(), s.host, x, s.tor, since(later(update)), since(later(fib)), len(packets), since(last), a.Answered, a.Refusal.Text).
			value("update-sec", since(later(update))).value("fib-sec", since(later(fib))).value("last-packet-sec", since(last))
		o.Evidence = append(evidence, alive)
		return o, nil
	}),
	Sabotage: []Sabotage{{Mode: speaks, Doc: "the host announces the address for another reason, too", Steps: func(p *topology.Plan) (steps []topology.Step) {
		c := spareOf(p, p.Hosts()[1].Name, 1)
		for _, a := range []netip.Addr{c.Segment4.Addr(), c.Segment6.Addr()} {
			steps = append(steps, topology.Step{On: p.Hosts()[0].Name, Announce: &topology.Announcement{Prefix: alone(a)}})
		}
		return steps
	}}},
})

// announcing has a host announce prefixes.
func announcing(host string, prefixes ...netip.Prefix) (steps []topology.Step) {
	for _, p := range prefixes {
		steps = append(steps, topology.Step{On: host, Announce: &topology.Announcement{Prefix: p}})
	}
	return steps
}

// everywhere is the default route of a family.
func everywhere(f Family) netip.Prefix { return netip.PrefixFrom(unspecified(f), 0) }

// foreign are prefixes that a host has no business with: the part of its segment that numbers machines, everything, and
// another host's block.
func foreign(p *topology.Plan) (out []netip.Prefix) {
	n := p.Networks[0]
	segment := p.Hosts()[0].NIC(n.NIC).Segment
	i := slices.IndexFunc(p.Segments, func(s topology.PlannedSegment) bool { return s.Name == segment })
	v4, v6 := p.Slice(p.Hosts()[1].Name, n.Name)
	machines := netip.PrefixFrom(p.Segments[i].V4.Addr(), p.Segments[i].V4.Bits()+2)
	// As many addresses in the other family: the offsets are the same.
	machines6 := netip.PrefixFrom(p.Segments[i].V6.Addr(), 128-(32-machines.Bits()))
	return []netip.Prefix{machines, machines6, everywhere(IPv4), everywhere(IPv6), v4, v6}
}

var _ = register(Spec{
	Suite: "routing",
	Feature: Feature{
		Name: "bgp-policy", Group: "routing",
		Doc: "Does the router take no route from a host but to its own containers: none to machines, to everything, or to another host's containers?",
	},
	Name: "a host announces the machines' part of its segment, a default route, another host's block, and after them one container",
	Run: speaking(func(ctx context.Context, b *Bench) (Observation, error) {
		c, err := guest(b, 1)
		if err != nil {
			return Observation{}, err
		}
		s := sessionOf(b, firstHost(b))
		recorded, err := b.Record(ctx)
		if err != nil {
			return Observation{}, err
		}
		own := guestAddrs(b, c)
		wrong := foreign(b.plan)
		if err := b.Apply(ctx, announcing(s.host, slices.Concat(wrong, own)...)...); err != nil {
			return Observation{}, err
		}
		for _, p := range own { // which came after the others
			if ok, err := eventually(ctx, patience, func() (bool, error) {
				routes, err := routesTo(ctx, b, s.tor, p)
				return block{p, s}.installed(routes), err
			}); err != nil || !ok {
				return Observation{}, errors.Join(err, fmt.Errorf("%s takes no route to %s from %s either", s.tor, p, s.host))
			}
		}
		all, err := conversation(ctx, recorded)
		if err != nil {
			return Observation{}, err
		}
		state, err := b.State(ctx, s.tor)
		if err != nil {
			return Observation{}, err
		}
		var taken, unheard []string
		o := Observation{}
		for _, p := range wrong {
			i := slices.IndexFunc(all, func(m said) bool { return m.toRouter(s) && slices.Contains(m.Announced, p) })
			if i < 0 {
				unheard = append(unheard, p.String())
			} else {
				o.Evidence = append(o.Evidence, seen(all[i].Packet))
			}
			for _, r := range state.Spaces[""].Routes {
				if r.Dst == p && (r.Via == s.own(familyOf(p.Addr())) || strings.Contains(r.Text+" ", "via "+s.own(familyOf(p.Addr())).String()+" ")) {
					taken = append(taken, r.Text)
				}
			}
		}
		if len(unheard) > 0 {
			return Observation{}, fmt.Errorf("%s was to announce %s, of which %s heard nothing", s.host, strings.Join(unheard, ", "), s.tor)
		}
		seen := whether(len(taken) == 0, "%s announced %v, none of which is its own: %s took %s; what came after them for a container it took", s.host, wrong, s.tor, orNone(taken))
		seen.Evidence = o.Evidence
		return seen.with(s.tor, "control: routes to %s and %s by %s", own[0], own[1], s.host), nil
	}),
	Sabotage: []Sabotage{{Mode: speaks, Doc: "the router has a default route by the host", Steps: func(p *topology.Plan) []topology.Step {
		nic := p.Hosts()[0].NIC(p.Networks[0].NIC)
		return []topology.Step{{On: nic.Peer.Machine, Route: &topology.Route{Dst: everywhere(IPv4), Via: nic.V4.Addr()}}}
	}}},
})

var _ = registerFamilies(func(f Family) Spec {
	return Spec{
		Suite: "routing",
		Feature: Feature{
			Name: "bgp-ecmp", Group: "routing",
			Doc: "When two hosts announce one address (anycast), does the router use both, for different flows, and one host for each flow, whose messages stay in order?",
		},
		Name: "one container is attached to two hosts, which both announce it; an external machine asks from many ports, and again and again from one",
		Run: speaking(func(ctx context.Context, b *Bench) (Observation, error) {
			c, err := guest(b, 1)
			if err != nil {
				return Observation{}, err
			}
			x, s := external(b), sessionOf(b, firstHost(b))
			// A router that told flows apart by their addresses alone would see one here (RFC 2992).
			hash := map[Family]string{IPv4: "net/ipv4/fib_multipath_hash_policy", IPv6: "net/ipv6/fib_multipath_hash_policy"}[f]
			if err := b.Apply(ctx, topology.Step{On: s.tor, Sysctl: &topology.Sysctl{Key: hash, Value: "1"}}); err != nil {
				return Observation{}, err
			}
			port := b.freePort()
			for _, host := range []string{firstHost(b), secondHost(b)} {
				p, err := b.Attach(ctx, c, host)
				if err != nil {
					return Observation{}, err
				}
				if _, err := b.Listen(ctx, p, lab.Listen{Proto: "udp", Addr: netip.AddrPortFrom(unspecified(f), port)}); err != nil {
					return Observation{}, err
				}
			}
			prefix := guestAddrs(b, c)[map[Family]int{IPv4: 0, IPv6: 1}[f]]
			if err := b.Apply(ctx, announcing(secondHost(b), prefix)...); err != nil {
				return Observation{}, err
			}
			var routes []lab.Route
			both, err := eventually(ctx, patience, func() (bool, error) {
				var err error
				routes, err = routesTo(ctx, b, s.tor, prefix)
				n := 0
				for _, r := range routes {
					for _, host := range []string{firstHost(b), secondHost(b)} {
						if strings.Contains(r.Text+" ", "via "+sessionOf(b, host).own(f).String()+" ") {
							n++
						}
					}
				}
				return n >= 2, err
			})
			if err != nil {
				return Observation{}, err
			}
			target := netip.AddrPortFrom(prefix.Addr(), port)
			recorded, err := b.Record(ctx)
			if err != nil {
				return Observation{}, err
			}
			const flows = 24
			var asks []func() error
			tokens := make([]string, flows)
			for i := range tokens {
				tokens[i] = b.newToken()
				from := netip.AddrPortFrom(unspecified(f), b.freePort())
				asks = append(asks, func() error {
					a, err := b.Ask(ctx, x, lab.Ask{Proto: "udp", From: from, To: target, Token: tokens[i], Wait: patience})
					if err == nil && !a.Answered {
						err = fmt.Errorf("%s does not reach %s: %s", x, target, a.Refusal.Text)
					}
					return err
				})
			}
			if err := all(asks...); err != nil {
				return Observation{}, err
			}
			// From one socket: within a machine the kernel goes by what it noted of the sender's (fib_multipath_hash() of
			// net/ipv4/route.c).
			one := b.newToken()
			asked, err := flowing(ctx, b, x, target, one)
			if err != nil {
				return Observation{}, err
			}
			ofFlow := func(p lab.Packet) bool { return strings.HasPrefix(p.Token, one+".") }
			arriving := func(p lab.Packet) bool {
				return p.In == "" && !p.Outgoing && p.Dst == target && b.plan.Machine(p.Machine).Role == topology.RoleHost
			}
			if ok, err := eventually(ctx, patience, func() (bool, error) {
				so, err := recorded(ctx, func(p lab.Packet) bool { return ofFlow(p) && arriving(p) })
				return len(so) >= flows, err
			}); err != nil || !ok {
				return Observation{}, errors.Join(err, fmt.Errorf("the flow of %s to %s does not arrive", x, target))
			}
			if _, err := asked.stop(); err != nil {
				return Observation{}, err
			}
			packets, err := recorded(ctx, func(p lab.Packet) bool { return arriving(p) && (ofFlow(p) || slices.Contains(tokens, p.Token)) })
			if err != nil {
				return Observation{}, err
			}
			many, same := map[string]map[string]bool{}, map[string]map[string]bool{}
			last, late := -1, 0
			for _, p := range packets {
				at := many
				if ofFlow(p) {
					at = same
					n, err := strconv.Atoi(strings.TrimPrefix(p.Token, one+"."))
					if err != nil {
						return Observation{}, err
					}
					if n < last {
						late++
					}
					last = max(last, n)
				}
				if at[p.Machine] == nil {
					at[p.Machine] = map[string]bool{}
				}
				at[p.Machine][p.Token] = true
			}
			o := whether(both && len(many) == 2 && len(same) == 1 && late == 0, "%s is announced by %s and %s; %d flows of %s: %d to %s and %d to %s; the messages of one flow: %d and %d, of which %d after a later one", prefix, firstHost(b), secondHost(b),
				flows, x, len(many[firstHost(b)]), firstHost(b), len(many[secondHost(b)]), secondHost(b), len(same[firstHost(b)]), len(same[secondHost(b)]), late)
			for _, r := range routes {
				o = o.with(s.tor, "%s", r.Text)
			}
			return o, nil
		}),
		Sabotage: []Sabotage{{Mode: speaks, Doc: "the router prefers the first host", Steps: func(p *topology.Plan) []topology.Step {
			c, nic := spareOf(p, p.Hosts()[1].Name, 1), p.Hosts()[0].NIC(p.Networks[0].NIC)
			to, via := c.Segment4.Addr(), nic.V4.Addr()
			if f == IPv6 {
				to, via = c.Segment6.Addr(), nic.V6.Addr()
			}
			return []topology.Step{{On: nic.Peer.Machine, Route: &topology.Route{Dst: alone(to), Via: via, Metric: 1}}}
		}}},
	}
})

// duplicates are the single addresses that a router has been told of by several hosts, each with who they are: nothing but a container that is
// meant to be in several places has one.
func duplicates(ctx context.Context, b *Bench, tor string) (out []string, err error) {
	state, err := bgpState(ctx, b, tor)
	if err != nil {
		return nil, err
	}
	by := map[netip.Prefix][]string{}
	for _, r := range state.Routes {
		for _, s := range sessions(b) { // of IPv6, too, routes come by the one session of IPv4
			if s.tor == tor && r.From == s.own(IPv4) && r.Prefix.IsSingleIP() && !slices.Contains(by[r.Prefix], s.host) {
				by[r.Prefix] = append(by[r.Prefix], s.host)
			}
		}
	}
	for p, hosts := range by {
		if slices.Sort(hosts); len(hosts) > 1 {
			out = append(out, fmt.Sprintf("%s is announced by %s", p, strings.Join(hosts, " and ")))
		}
	}
	slices.Sort(out)
	return out, nil
}

var _ = registerFamilies(func(f Family) Spec {
	const flows = 24
	return Spec{
		Suite: "routing",
		Feature: Feature{
			Name: "bgp-duplicate", Group: "routing",
			Doc: "When an address that an address manager refuses to give twice is forced upon a second container of another host, which announces it, too, does the router's table show it, and do questions go astray to either container as long as it does?",
		},
		Name: "a container of another host is to have the address of a container, which is refused, and has it all the same; an external machine asks there from many ports",
		Run: speaking(func(ctx context.Context, b *Bench) (Observation, error) {
			first, err := guest(b, 1)
			if err != nil {
				return Observation{}, err
			}
			second, err := guest(b, 2)
			if err != nil {
				return Observation{}, err
			}
			x, s := external(b), sessionOf(b, firstHost(b))
			own := guestAddrs(b, first)
			prefix := either(f, own[0], own[1])
			var o Observation
			// One manager for all hosts, which knows who has what.
			one := func(who topology.Container, want ...netip.Addr) topology.Step {
				reserve := topology.Reserve{Pool: "everywhere", ID: who.ID(), Link: eth0, Want: want}
				for _, a := range b.mode.Addrs(b.plan, b.plan.Machine(s.host), first) {
					reserve.Ranges = append(reserve.Ranges, topology.Range{Subnet: subnetOf(first, a)})
				}
				return topology.Step{On: s.host, Reserve: &reserve}
			}
			named := []netip.Addr{own[0].Addr(), own[1].Addr()}
			if err := b.Apply(ctx, one(first, named...)); err != nil {
				return Observation{}, err
			}
			refusal := b.Apply(ctx, one(second, named...))
			if refusal != nil && !refused(refusal) {
				return Observation{}, refusal
			}
			good := refusal != nil && strings.Contains(refusal.Error(), "is taken")
			o = o.with(s.host, "an address manager for all hosts, asked for %v once more: %v", named, refusal)
			before, err := duplicates(ctx, b, s.tor)
			if err != nil {
				return Observation{}, err
			}
			// A router that told flows apart by their addresses alone would see one here (RFC 2992).
			if err := b.Apply(ctx, topology.Step{On: s.tor, Sysctl: &topology.Sysctl{Key: either(f, "net/ipv4/", "net/ipv6/") + "fib_multipath_hash_policy", Value: "1"}}); err != nil {
				return Observation{}, err
			}
			forced := first
			forced.Name, forced.MAC, forced.Device = second.Name, second.MAC, second.Device
			port := b.freePort()
			var places []Place
			listeners := map[Place][]lab.Handle{}
			for _, at := range []struct {
				c    topology.Container
				host string
			}{{first, firstHost(b)}, {forced, secondHost(b)}} {
				p, err := b.Attach(ctx, at.c, at.host)
				if err != nil {
					return Observation{}, err
				}
				places = append(places, p)
				l, err := b.Listen(ctx, p, lab.Listen{Proto: "udp", Addr: netip.AddrPortFrom(unspecified(f), port)})
				if err != nil {
					return Observation{}, err
				}
				listeners[p] = []lab.Handle{l.Handle}
			}
			if err := b.Apply(ctx, announcing(secondHost(b), prefix)...); err != nil { // the container is at home there, where its block is announced
				return Observation{}, err
			}
			found := []string{fmt.Sprintf("%s is announced by %s and %s", prefix, firstHost(b), secondHost(b))}
			var seen []string
			if _, err := eventually(ctx, patience, func() (bool, error) {
				seen, err = duplicates(ctx, b, s.tor)
				return slices.Contains(seen, found[0]), err
			}); err != nil {
				return Observation{}, err
			}
			target := netip.AddrPortFrom(prefix.Addr(), port)
			var asks []func() error
			tokens := map[string]bool{}
			for range flows {
				token, from := b.newToken(), netip.AddrPortFrom(unspecified(f), b.freePort())
				tokens[token] = true
				asks = append(asks, func() error {
					_, err := b.Ask(ctx, x, lab.Ask{Proto: "udp", From: from, To: target, Token: token, Wait: patience})
					return err
				})
			}
			if err := all(asks...); err != nil {
				return Observation{}, err
			}
			// Told by the programs: what a hook of the host's hands over (ipvlan in mode l3s) no capture in a container sees.
			heard, err := heardBy(ctx, b, listeners, func(token string) bool { return tokens[token] })
			if err != nil {
				return Observation{}, err
			}
			routes, err := routesTo(ctx, b, s.tor, prefix)
			if err != nil {
				return Observation{}, err
			}
			for _, r := range routes {
				o = o.with(s.tor, "%s", r.Text)
			}
			if err := b.Detach(ctx, places[0]); err != nil {
				return Observation{}, err
			}
			var after []string
			if _, err := eventually(ctx, patience, func() (bool, error) {
				after, err = duplicates(ctx, b, s.tor)
				return len(after) == 0, err
			}); err != nil {
				return Observation{}, err
			}
			return concluded(o, good && len(before) == 0 && slices.Equal(seen, found) && heard[places[0]] > 0 && heard[places[1]] > 0 && len(after) == 0,
				"%s of %s was refused a second time: %t; forced upon %s, of %s: %s had before %s, then %s; of %d flows of %s, %s heard %d and %s %d; once %s was detached, %s",
				prefix, places[0], good, places[1].Container, secondHost(b), s.tor, orNone(before), orNone(seen), flows, x, places[0], heard[places[0]], places[1], heard[places[1]], places[0], orNone(after)), nil
		}),
		Sabotage: []Sabotage{
			{Mode: speaks, Doc: "the router prefers the first host", Steps: func(p *topology.Plan) []topology.Step {
				c, nic := spareOf(p, p.Hosts()[1].Name, 1), p.Hosts()[0].NIC(p.Networks[0].NIC)
				return []topology.Step{{On: nic.Peer.Machine, Route: &topology.Route{
					Dst: alone(segmentOf(c, f).Addr()), Via: either(f, nic.V4, nic.V6).Addr(), Metric: 1,
				}}}
			}},
			{Mode: "direct-bgp", Doc: "another host has announced the address for good", Steps: func(p *topology.Plan) []topology.Step {
				return announcing(p.Hosts()[0].Name, alone(segmentOf(spareOf(p, p.Hosts()[1].Name, 1), f).Addr()))
			}},
		},
	}
})

var _ = register(Spec{
	Suite: "routing",
	Feature: Feature{
		Name: "bgp-maximum", Group: "routing",
		Doc: "Does a host that announces more prefixes than the router bears lose its session, and no other host its own?",
	},
	Name: "a host announces one container after the other, more than the router takes from one neighbour",
	Run: speaking(func(ctx context.Context, b *Bench) (Observation, error) {
		s, other := sessionOf(b, firstHost(b)), sessionOf(b, secondHost(b))
		most := 0
		for _, step := range topology.Underlay(b.plan) {
			if step.On == s.tor && step.BGP != nil {
				i := slices.IndexFunc(step.BGP.Peers, func(p topology.Peer) bool { return p.Addr == s.own(IPv4) })
				most = int(step.BGP.Peers[i].MaxPrefixes)
			}
		}
		if most == 0 {
			return Observation{}, fmt.Errorf("%s bears any number of prefixes", s.tor)
		}
		slice, _ := b.plan.Slice(s.host, network(b))
		var prefixes []netip.Prefix
		for a := slice.Addr(); len(prefixes) <= most; a = a.Next() {
			prefixes = append(prefixes, alone(a))
		}
		recorded, err := b.Record(ctx)
		if err != nil {
			return Observation{}, err
		}
		const owner = specOwner + " too many"
		var mine []session
		for _, o := range sessions(b) {
			if o.host == s.host {
				mine = append(mine, o)
			}
		}
		heard := true
		b.atEnd(func(ctx context.Context) error {
			errs := []error{b.lab.Undo(ctx, owner)}
			if !heard { // nor will it be
				return errors.Join(append(errs, fmt.Errorf("%s does not hear %s", s.tor, s.host))...)
			}
			for _, m := range mine {
				if up, err := m.up(ctx, b); err != nil || !up { // shut out, until told otherwise
					errs = append(errs, err, b.Do(ctx, m.tor, "BGP.Reset", m.own(IPv4), &lab.Nothing{}))
				}
			}
			return errors.Join(append(errs, converged(ctx, b))...)
		})
		if err := b.lab.Apply(ctx, owner, announcing(s.host, prefixes...)); err != nil {
			return Observation{}, err
		}
		m, err := hears(ctx, convergence, recorded, func(m said) bool { return m.toHost(s) && m.Kind == "notification" })
		if err != nil {
			return Observation{}, err
		}
		if m == nil {
			heard = false
			return blocked("%s announced %d prefixes, where %s bears %d: no NOTIFICATION came within %s", s.host, len(prefixes), s.tor, most, convergence), nil
		}
		ended, err := eventually(ctx, patience, func() (bool, error) { // each of its sessions has the same limit
			for _, s := range mine {
				if up, err := s.up(ctx, b); err != nil || up {
					return false, err
				}
			}
			return true, nil
		})
		if err != nil {
			return Observation{}, err
		}
		others, err := other.up(ctx, b)
		if err != nil {
			return Observation{}, err
		}
		there := b.Containers(other.host, network(b))[0]
		a, err := b.Ask(ctx, external(b), lab.Ask{Proto: "icmp", To: netip.AddrPortFrom(addrOf(b, there, IPv4), 0), Wait: time.Second})
		if err != nil {
			return Observation{}, err
		}
		// Where graceful restart was agreed on, GoBGP makes a Hard Reset of it (RFC 8538), and leaves the reason out.
		cease := m.Code == 6 && (m.Subcode == 1 || m.Subcode == 9)
		o := whether(cease && ended && others && a.Answered,
			"%s announced %d prefixes, where %s bears %d: NOTIFICATION %d/%d; its sessions ended: %t; that of %s is established: %t, and %s reaches its container: %t",
			s.host, len(prefixes), s.tor, most, m.Code, m.Subcode, ended, other.host, others, external(b), a.Answered)
		o.Evidence = []reports.Evidence{seen(m.Packet)}
		return o, nil
	}),
	Sabotage: []Sabotage{muted(speaks)},
})

// pace is the time from one question of an outage to the next.
const pace = 2 * time.Millisecond

// outage asks a container from an external machine all the time, while fail makes and unmakes a failure, and waits until
// sessions and routes are there again. It asks by IPv6, whose routes go by the same sessions.
func outage(ctx context.Context, b *Bench, fail func() error) (tally lab.Tally, took time.Duration, err error) {
	x, p := external(b), container(b)
	server, err := serveUDP(ctx, b, p, IPv6, b.freePort())
	if err != nil {
		return tally, 0, err
	}
	target := netip.AddrPortFrom(addrOf(b, p, IPv6), server.Port)
	if ok, err := insists(ctx, b, x, target); err != nil || !ok {
		return tally, 0, errors.Join(err, fmt.Errorf("%s does not reach %s at %s before anything failed", x, p, target))
	}
	var h lab.Handle
	// An answer may be as late as it likes: what is asked is whether one is lost.
	if err := b.Do(ctx, x.Machine, "Probe.Flow", lab.Flow{
		Ask: lab.Ask{Proto: "udp", To: target, Token: b.newToken(), Wait: 2 * time.Second}, Every: pace,
	}, &h); err != nil {
		return tally, 0, err
	}
	stop := sync.OnceValue(func() error {
		return b.Do(context.WithoutCancel(ctx), x.Machine, "Probe.Stop", h, &tally)
	})
	var apart error // what did not come back in its time is not waited for again
	b.atEnd(func(ctx context.Context) error {
		if apart != nil {
			return errors.Join(stop(), apart)
		}
		return errors.Join(stop(), converged(ctx, b))
	})
	began := time.Now()
	if err := fail(); err != nil {
		return tally, 0, err
	}
	apart = converged(ctx, b)
	took = time.Since(began)
	return tally, took, errors.Join(apart, stop())
}

var _ = register(Spec{
	Suite: "routing",
	Feature: Feature{
		Name: "bgp-reset", Group: "routing",
		Doc: "When the router's operator resets a session, is it established again by itself, with all routes?",
	},
	Name: "the router resets the session of a host while an external machine asks a container there",
	Run: speaking(func(ctx context.Context, b *Bench) (Observation, error) {
		s := sessionOf(b, firstHost(b))
		recorded, err := b.Record(ctx)
		if err != nil {
			return Observation{}, err
		}
		var told *said
		tally, took, err := outage(ctx, b, func() error {
			if err := b.Do(ctx, s.tor, "BGP.Reset", s.own(IPv4), &lab.Nothing{}); err != nil {
				return err
			}
			told, err = hears(ctx, patience, recorded, func(m said) bool { return m.toHost(s) && m.Kind == "notification" })
			if err == nil && (told == nil || told.Code != 6 || told.Subcode != 4) { // RFC 4486 section 4
				err = fmt.Errorf("no NOTIFICATION of an administrative reset was seen: %v", told)
			}
			return err
		})
		if told == nil {
			return Observation{}, err
		}
		if err != nil {
			return blocked("%s reset the session with %s: %v", s.tor, s.host, err).with(at(told.Packet), "%s", told.Text), nil
		}
		return works("%s reset the session with %s: it was established again, with all routes, after %.3f s; meanwhile %d of %d questions to a container there were not answered",
			s.tor, s.host, took.Seconds(), tally.Sent-tally.Answered, tally.Sent).with(at(told.Packet), "%s", told.Text).
			value("session-sec", took.Seconds()).value("lost-count", float64(tally.Sent-tally.Answered)), nil
	}),
	Sabotage: []Sabotage{muted(speaks)},
})

// restarted crashes the speaker of a machine and starts it again when all of its neighbours have noticed.
func restarted(ctx context.Context, b *Bench, machine string, of []session) (Observation, error) {
	if err := converged(ctx, b); err != nil {
		return Observation{}, err
	}
	recorded, err := b.Record(ctx)
	if err != nil {
		return Observation{}, err
	}
	crashed := false
	revive := func(ctx context.Context) error {
		if !crashed {
			return nil
		}
		crashed = false
		return b.Do(ctx, machine, "BGP.Revive", lab.Nothing{}, &lab.Nothing{})
	}
	b.atEnd(revive)
	var stale int
	tally, took, failed := outage(ctx, b, func() error {
		if err := b.Do(ctx, machine, "BGP.Crash", lab.Nothing{}, &lab.Nothing{}); err != nil {
			return err
		}
		crashed = true
		noticed, err := eventually(ctx, patience, func() (bool, error) {
			for _, s := range of {
				neighbour, peer := s.tor, s.own(IPv4)
				if machine == s.tor {
					neighbour, peer = s.host, s.router(IPv4)
				}
				state, err := bgpState(ctx, b, neighbour)
				if err != nil || slices.ContainsFunc(state.Peers, func(p lab.BGPPeer) bool { return p.Addr == peer && p.State == established }) {
					return false, err
				}
				for _, r := range state.Routes {
					if r.From == peer && r.Stale {
						stale++
					}
				}
			}
			return true, nil
		})
		if err == nil && !noticed {
			err = fmt.Errorf("the neighbours of %s do not notice that its speaker is gone", machine)
		}
		return errors.Join(err, revive(ctx))
	})
	lost := tally.Sent - tally.Answered
	all, err := conversation(ctx, recorded)
	if err != nil {
		return Observation{}, err
	}
	own := said.toRouter
	if machine == of[0].tor {
		own = said.toHost
	}
	var forwarding, ends int
	o := Observation{}
	for _, m := range all {
		if !slices.ContainsFunc(of, func(s session) bool { return own(m, s) }) {
			continue
		}
		switch {
		case m.Kind == "open":
			// The first neighbour that has told everything ends the restart for all (GoBGP, sendfsmOutgoingMsg).
			forwarding = max(forwarding, m.Forwarding)
		case m.EndOfRIB:
			ends++
		default:
			continue
		}
		o.Evidence = append(o.Evidence, seen(m.Packet))
	}
	said := fmt.Sprintf("the speaker of %s crashed and was started again: its neighbours kept %d routes as stale; its OPEN said of %d families that forwarding went on, and of %d End-of-RIBs due %d came", machine, stale, forwarding, 2*len(of), ends)
	if failed != nil {
		seen := blocked("%s; then %v", said, failed)
		seen.Evidence = o.Evidence
		return seen, nil
	}
	kept := stale > 0 && forwarding == 2 && ends >= 2*len(of)
	if due := int(took / pace); kept && lost > 0 && tally.Sent < due/2 {
		return Observation{}, fmt.Errorf("of %d questions that were due %d could be sent, and of those %d were not answered: a machine with so much else to do loses some anyway; %s", due, tally.Sent, lost, said)
	}
	seen := whether(kept && lost == 0, "%s; all was as before after %.3f s; of %d questions to a container meanwhile %d were not answered", said, took.Seconds(), tally.Sent, lost).
		value("session-sec", took.Seconds()).value("lost-count", float64(lost))
	seen.Evidence = o.Evidence
	return seen, nil
}

var _ = register(Spec{
	Suite: "routing",
	Feature: Feature{
		Name: "bgp-graceful", Group: "routing",
		Doc: "When a host's speaker crashes and is started again, do its routes stay meanwhile, and is no packet lost (graceful restart)?",
	},
	Name: "a host's speaker crashes and is started again while an external machine asks a container there",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		if o := speechless(b); o != nil {
			return *o, nil
		}
		host := firstHost(b)
		return restarted(ctx, b, host, slices.DeleteFunc(sessions(b), func(s session) bool { return s.host != host }))
	},
	Sabotage: []Sabotage{{Mode: speaks, Doc: "graceful restart is not offered", Setup: spoken(func(c *topology.BGP) { c.Restart = 0 })}},
})

var _ = register(Spec{
	Suite: "routing",
	Feature: Feature{
		Name: "bgp-router-restart", Group: "routing",
		Doc: "When the router's speaker crashes and is started again, does the router forward meanwhile without loss, and learn everything anew?",
	},
	Name: "the router's speaker crashes and is started again while an external machine asks a container",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		if o := speechless(b); o != nil {
			return *o, nil
		}
		s := sessionOf(b, firstHost(b))
		return restarted(ctx, b, s.tor, slices.DeleteFunc(sessions(b), func(o session) bool { return o.tor != s.tor }))
	},
	Sabotage: []Sabotage{{Mode: speaks, Doc: "hosts do not offer graceful restart", Setup: spoken(func(c *topology.BGP) { c.Restart = 0 })}},
})

// sidelined is a lab of its own with other speakers, or other machines: of one container on each host.
func sidelined(ctx context.Context, b *Bench, hosts int, speaker func(*topology.BGP), machines func(*topology.Plan)) (*Bench, error) {
	t := b.plan.Topology
	t.External, t.Hosts = nil, map[string]topology.Host{}
	for _, h := range b.plan.Hosts()[:hosts] {
		t.Hosts[h.Name] = topology.Host{NICs: b.plan.Topology.Hosts[h.Name].NICs, Containers: map[string]int{network(b): 1}}
	}
	p, err := topology.NewPlan(t)
	if err != nil {
		return nil, err
	}
	machines(p)
	m := b.mode
	m.Setup = func(p *topology.Plan, host *topology.Machine) []topology.Step {
		return spoken(speaker)(b.mode.Setup(p, host))
	}
	return newBench(ctx, b.driver, p, m, b.rewire)
}

var _ = register(Spec{
	Suite: "routing",
	Feature: Feature{
		Name: "bgp-hold", Group: "routing",
		Doc: "When a host's packets are lost without a word, does the router end the session after the hold time, and without graceful restart forget its routes?",
	},
	Name: "in a lab of its own, with a hold time of three seconds and without graceful restart, host and router send to stations that do not exist",
	Run: func(ctx context.Context, b *Bench) (o Observation, err error) {
		if o := speechless(b); o != nil {
			return *o, nil
		}
		const hold = 3 * time.Second // the least there is (RFC 4271 section 4.2)
		l, err := sidelined(ctx, b, 1, func(c *topology.BGP) { c.Hold, c.Restart = hold, 0 }, func(*topology.Plan) {})
		if err != nil {
			return o, err
		}
		defer func() { err = errors.Join(err, l.Close()) }()
		if err := converged(ctx, l); err != nil {
			return o, err
		}
		s := sessionOf(l, firstHost(l))
		recorded, err := l.Record(ctx)
		if err != nil {
			return o, err
		}
		nobody := net.HardwareAddr{0x02, 0x5e, 0x10, 0, 0, 6}
		if err := l.Apply(ctx,
			topology.Step{On: s.host, Neigh: &topology.Neigh{Link: s.nic.Name, IP: s.router(IPv4), MAC: nobody}},
			topology.Step{On: s.tor, Neigh: &topology.Neigh{Link: s.port.Name, IP: s.own(IPv4), MAC: nobody}},
		); err != nil {
			return o, err
		}
		began := time.Now()
		ended, err := eventually(ctx, 3*hold, func() (bool, error) {
			state, err := bgpState(ctx, l, s.tor)
			return err == nil && !slices.ContainsFunc(state.Peers, func(p lab.BGPPeer) bool { return p.Addr == s.own(IPv4) && p.State == established }), err
		})
		if err != nil {
			return o, err
		}
		if !ended {
			return blocked("%s was cut off from %s, which keeps the session for %s", s.host, s.tor, 3*hold), nil
		}
		given := time.Now()
		slice, _ := l.plan.Slice(s.host, network(l))
		gone, err := eventually(ctx, patience, func() (bool, error) {
			routes, err := routesTo(ctx, l, s.tor, slice)
			return len(routes) == 0, err
		})
		if err != nil {
			return o, err
		}
		flushed := time.Now()
		state, err := bgpState(ctx, l, s.tor)
		if err != nil {
			return o, err
		}
		var others []string
		for _, other := range sessions(l) {
			if other.nic.Name != s.nic.Name && slices.ContainsFunc(state.Peers, func(p lab.BGPPeer) bool { return p.Addr == other.own(IPv4) && p.State == established }) {
				others = append(others, other.String())
			}
		}
		if len(others) != len(sessions(l))-1 {
			return o, fmt.Errorf("of the other sessions of %s only %s are established", s.tor, orNone(others))
		}
		// The last word may never leave: after its timeout TCP sends nothing new before what it sent is acknowledged
		// (RFC 5681 section 3.1, a loss window of one segment), and nobody does.
		spoken, err := conversation(ctx, recorded)
		if err != nil {
			return o, err
		}
		word, right, last := "no word of it left", true, []reports.Evidence(nil)
		if i := slices.IndexFunc(spoken, func(m said) bool { return m.toHost(s) && m.Kind == "notification" }); i >= 0 {
			m := spoken[i]
			word = fmt.Sprintf("it sent NOTIFICATION %d/%d", m.Code, m.Subcode)
			right = m.Code == 4 && m.Subcode == 0
			last = append(last, seen(m.Packet))
		}
		o = whether(gone && right, "%s and %s did not hear each other: after %.3f s, with a hold time of %s, %s had ended the session, and %s; its route to %s is gone: %t",
			s.host, s.tor, given.Sub(began).Seconds(), hold, s.tor, word, slice, gone).
			value("hold-sec", given.Sub(began).Seconds()).value("fib-sec", max(0, flushed.Sub(given).Seconds()))
		o.Evidence = append(o.Evidence, last...)
		return o.with(s.tor, "control: the session of %s is established", strings.Join(others, ", ")), nil
	},
	Sabotage: []Sabotage{{Mode: speaks, Doc: "the router has a static route, too", Rewire: func(steps []topology.Step) []topology.Step {
		if steps[0].On != "h1" || steps[0].Space.Name != "c1" {
			return steps
		}
		return append(slices.Clone(steps), topology.Step{On: "tor", Route: &topology.Route{Dst: netip.MustParsePrefix("198.18.1.0/24"), Via: netip.MustParseAddr("198.18.0.3"), Metric: 100}})
	}}},
})

var _ = register(Spec{
	Suite: "routing",
	Feature: Feature{
		Name: "bgp-loop", Group: "routing",
		Doc: "Does a host take no route whose path holds its own system?",
	},
	Name: "in a lab of its own, two hosts are of one system; each is to learn what the router announces, and not the other's containers",
	Run: func(ctx context.Context, b *Bench) (o Observation, err error) {
		if o := speechless(b); o != nil {
			return *o, nil
		}
		l, err := sidelined(ctx, b, 2, func(*topology.BGP) {}, func(p *topology.Plan) {
			p.Machine(p.Hosts()[1].Name).AS = p.Hosts()[0].AS
		})
		if err != nil {
			return o, err
		}
		defer func() { err = errors.Join(err, l.Close()) }()
		if err := converged(ctx, l); err != nil {
			return o, err
		}
		from, to := sessionOf(l, firstHost(l)), sessionOf(l, secondHost(l))
		looped, _ := l.plan.Slice(from.host, network(l))
		// Announced later, and so passed on later.
		later := netip.MustParsePrefix("192.0.2.0/24")
		if err := l.Apply(ctx, announcing(to.tor, later)...); err != nil {
			return o, err
		}
		if ok, err := eventually(ctx, patience, func() (bool, error) {
			routes, err := routesTo(ctx, l, to.host, later)
			return len(routes) > 0, err
		}); err != nil || !ok {
			return o, errors.Join(err, fmt.Errorf("%s does not learn %s from %s", to.host, later, to.tor))
		}
		taken, err := routesTo(ctx, l, to.host, looped)
		if err != nil {
			return o, err
		}
		all, err := conversation(ctx, func(ctx context.Context, keep func(lab.Packet) bool) (packets []lab.Packet, err error) {
			err = l.Do(ctx, to.tor, "Capture.Since", lab.Mark{}, &packets) // since the lab began
			return packets, err
		})
		if err != nil {
			return o, err
		}
		sent := slices.ContainsFunc(all, func(m said) bool { return m.toHost(to) && slices.Contains(m.Announced, looped) })
		o = whether(len(taken) == 0, "%s and %s are both of system %d: %s, which the first announces to %s, is in the table of the second: %t (sent to it: %t)",
			from.host, to.host, l.plan.Machine(to.host).AS, looped, to.tor, len(taken) > 0, sent).
			with(to.host, "control: it learned %s of %s alone", later, to.tor)
		for _, r := range taken {
			o = o.with(to.host, "%s", r.Text)
		}
		return o, nil
	},
	Sabotage: []Sabotage{{Mode: speaks, Doc: "the second host has a static route", Rewire: func(steps []topology.Step) []topology.Step {
		if steps[0].On != "h2" || steps[0].Space.Name != "c1" {
			return steps
		}
		return append(slices.Clone(steps), topology.Step{On: "h2", Route: &topology.Route{Dst: netip.MustParsePrefix("198.18.1.0/24"), Via: netip.MustParseAddr("198.18.0.4")}})
	}}},
})
