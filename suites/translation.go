package suites

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/modebench/modebench/reports"
	"github.com/modebench/modebench/topology"
	"github.com/modebench/modebench/topology/lab"
)

// abroad has a container ask an external machine. Where it could not, or where its own address arrived, there is no
// translation to look at, and o says so.
func abroad(ctx context.Context, b *Bench, from Place, f Family, protos ...string) (t trip, o *Observation, err error) {
	if b.Mode().Addrs == nil {
		o := asksNobody(from)
		return t, &o, nil
	}
	x := external(b)
	port, err := serve(ctx, b, x, unspecified(f))
	if err != nil {
		return t, nil, err
	}
	if t, err = try(ctx, b, from, x, netip.AddrPortFrom(addrOf(b, x, f), port), protos...); err != nil {
		return t, nil, err
	}
	for _, proto := range protos {
		p := t.arrived(proto)
		if p == nil {
			lost := t.observation()
			lost.Status, lost.Detail = "mixed", "nothing arrived outside: "+lost.Detail
			return t, &lost, nil
		}
		if p.Src.Addr() == addrOf(b, from, f) {
			own := notApplicable("no address is translated: %s sees %s as %s", x, from, p.Src.Addr())
			own.Evidence = []reports.Evidence{seen(*p)}
			return t, &own, nil
		}
	}
	return t, nil, nil
}

// asksNobody is the answer of the modes in which a container has no address.
func asksNobody(c Place) Observation {
	return notApplicable("%s has no address and asks nobody outside", c)
}

func orNothing(o *Observation) Observation {
	if o == nil {
		return Observation{}
	}
	return *o
}

// sent is the first that was seen of a message of a trip, nil where nothing was.
func (t trip) sent(proto string) *lab.Packet {
	return t.find(func(p lab.Packet) bool { return p.Token == t.tokens[proto] })
}

// arrived is a message of a trip as it was delivered, nil where it was not.
func (t trip) arrived(proto string) *lab.Packet {
	return t.find(func(p lab.Packet) bool {
		return p.Token == t.tokens[proto] && p.Machine == t.to.Machine && p.In == t.to.Container && !p.Outgoing
	})
}

func (t trip) find(f func(lab.Packet) bool) *lab.Packet {
	if i := slices.IndexFunc(t.packets, f); i >= 0 {
		return &t.packets[i]
	}
	return nil
}

// unanswered is a question that should have been answered and was not.
func unanswered(from Place, to netip.AddrPort, a lab.Answer) Observation {
	return Observation{Status: "mixed", Detail: fmt.Sprintf("%s asked %s, and no answer came %s", from, to, a.Refusal.Text)}
}

// anyPort is the masquerade of the first network of the mode bridge with ports taken at random.
func anyPort(p *topology.Plan) []topology.Step {
	return edited(p, "bridge", "nat-"+p.Networks[0].Name, func(r *topology.Rule) bool {
		r.Verdict.FullyRandom = true
		return true
	})
}

// secondAddress gives the second container a public address of its own, on a host of the mode bridge.
func secondAddress(p *topology.Plan) []topology.Step {
	h, n := p.Hosts()[0], p.Networks[0]
	c := h.Containers[1]
	table := &topology.Table{Family: "inet", Name: "own-address", Chains: []topology.Chain{{Name: "postrouting", Type: "nat", Hook: "postrouting", Priority: 90}}}
	var steps []topology.Step
	for _, own := range []struct {
		field string
		from  netip.Addr
		to    netip.Prefix
	}{{"ip saddr", c.Private4.Addr(), c.Segment4}, {"ip6 saddr", c.Private6.Addr(), c.Segment6}} {
		steps = append(steps, topology.Step{On: h.Name, Addr: &topology.Addr{Link: n.NIC, Prefix: own.to, NoDAD: own.to.Addr().Is6()}})
		table.Chains[0].Rules = append(table.Chains[0].Rules, topology.Rule{
			Match:   []topology.Match{{Field: own.field, Value: own.from.String()}, {Field: "oifname", Value: n.NIC}},
			Verdict: topology.Verdict{Kind: "snat", To: netip.AddrPortFrom(own.to.Addr(), 0)},
			Comment: "own address " + own.field,
		})
	}
	return append(steps, topology.Step{On: h.Name, Table: table})
}

var _ = register(Spec{
	Suite: "packets",
	Feature: Feature{
		Name: "no-nat", Group: "nat",
		Doc: "Does the mode work without address translation: no NAT rule on the host and no translated connection while a container talks to an external machine?",
	},
	Name: "a container asks an external machine by ICMP echo, UDP and TCP, and the host's rules and connections are read",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		from, x := container(b), external(b)
		if b.Mode().Addrs == nil {
			return asksNobody(from), nil
		}
		o := works("%s asked %s by %s over %s under its own address: its host has no rule that translates and no translated connection", from, x, strings.Join(protos, ", "), b.span())
		translated := blocked("%s asked %s, and the host has rules that translate", from, x)
		for _, f := range b.families() {
			got, t, err := reach(ctx, b, from, x, f)
			if err != nil {
				return Observation{}, err
			}
			if got.Status != reports.Works {
				got.Status, got.Detail = "mixed", "without traffic nothing can be said of its translation: "+got.Detail
				return got, nil
			}
			for _, proto := range protos {
				p := t.arrived(proto)
				o.Evidence = append(o.Evidence, seen(*p))
				if p.Src.Addr() != addrOf(b, from, f) {
					translated.Evidence = append(translated.Evidence, seen(*p))
				}
			}
			s, err := b.tracked(ctx, from.Machine)
			if err != nil {
				return Observation{}, err
			}
			for name, space := range s.Spaces {
				at := Place{from.Machine, name}.String()
				for _, c := range space.Conntrack {
					if c.NAT && c.Src.Addr() == addrOf(b, from, f) && c.Dst == t.target { // not one that an earlier spec left
						translated.Detail = fmt.Sprintf("%s asked %s, and the host translated the source of %s %s > %s into %s", from, x, c.Proto, c.Src, c.Dst, c.ReplyDst)
						translated = translated.with(at, "translated connection: %s %s > %s, answered to %s", c.Proto, c.Src, c.Dst, c.ReplyDst)
					}
				}
				for _, r := range space.Rules {
					if r.NAT && f == b.families()[0] { // once
						translated = translated.with(at, "rule that translates: table %s %s: chain %s: %s", r.Family, r.Table, r.Chain, r.Comment)
					}
				}
			}
		}
		if len(translated.Evidence) > 0 {
			return translated, nil
		}
		return o, nil
	},
	Sabotage: []Sabotage{
		{Mode: "host", Doc: "the host masquerades", Steps: func(p *topology.Plan) []topology.Step {
			return []topology.Step{{On: p.Hosts()[0].Name, Table: &topology.Table{Family: "inet", Name: "nat", Chains: []topology.Chain{{
				Name: "postrouting", Type: "nat", Hook: "postrouting", Priority: 100,
				Rules: []topology.Rule{{Verdict: topology.Verdict{Kind: "masquerade"}, Comment: "masquerade"}},
			}}}}}
		}},
		{Mode: "ptp", Doc: "the host routes without translation, and the external machine knows the way back", Steps: func(p *topology.Plan) []topology.Step {
			h, x := p.Hosts()[0], p.Externals()[0]
			c, nic := h.Containers[0], h.NIC(p.Networks[0].NIC)
			steps := []topology.Step{
				{On: x.Name, Route: &topology.Route{Dst: netip.PrefixFrom(c.Private4.Addr(), 32), Via: nic.V4.Addr()}},
				{On: x.Name, Route: &topology.Route{Dst: netip.PrefixFrom(c.Private6.Addr(), 128), Via: nic.V6.Addr()}},
			}
			for _, n := range p.Networks {
				steps = append(steps, edited(p, "ptp", "nat-"+n.Name, func(*topology.Rule) bool { return false })...)
			}
			return steps
		}},
	},
})

var _ = register(Spec{
	Suite: "packets",
	Feature: Feature{
		Name: "no-rules", Group: "nat",
		Doc: "Does a container's traffic to an external machine cross no packet filter rule and no extra IP hop on the host?",
	},
	Name: "a container asks an external machine by ICMP echo, UDP and TCP between two readings of the counters of its host's rules",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		from, x := container(b), external(b)
		if b.Mode().Addrs == nil {
			return asksNobody(from), nil
		}
		before, _, err := counters(ctx, b, from.Machine)
		if err != nil {
			return Observation{}, err
		}
		hops := 0
		var evidence []reports.Evidence
		for _, f := range b.families() {
			got, t, err := reach(ctx, b, from, x, f)
			if err != nil {
				return Observation{}, err
			}
			if got.Status != reports.Works {
				got.Status, got.Detail = "mixed", "without traffic nothing can be said of its way: "+got.Detail
				return got, nil
			}
			for _, proto := range protos {
				sent, arrived := t.sent(proto), t.arrived(proto)
				hops = max(hops, sent.IP.TTL-arrived.IP.TTL-routers(b))
				evidence = append(evidence, seen(*sent), seen(*arrived))
			}
		}
		after, rules, err := counters(ctx, b, from.Machine)
		if err != nil {
			return Observation{}, err
		}
		crossed := slices.DeleteFunc(slices.Clone(rules), func(r string) bool { return after[r] == before[r] })
		o := whether(hops == 0 && len(crossed) == 0, "%s asked %s by %s over %s: of %d rules of %s %d counted packets of it, and it took %d IP hops on hosts",
			from, x, strings.Join(protos, ", "), b.span(), len(rules), from.Machine, len(crossed), hops)
		o.Evidence = evidence
		for _, r := range crossed {
			o = o.with(from.Machine, "%s counted %d packets", r, after[r]-before[r])
		}
		return o.value("count", float64(len(crossed))), nil
	},
	Sabotage: []Sabotage{
		{Mode: "host", Doc: "the host filters what it sends", Steps: func(p *topology.Plan) []topology.Step {
			return []topology.Step{{On: p.Hosts()[0].Name, Table: &topology.Table{Family: "inet", Name: "filter", Chains: []topology.Chain{{
				Name: "output", Type: "filter", Hook: "output",
				Rules: []topology.Rule{{Verdict: topology.Verdict{Kind: "accept"}, Comment: "all"}},
			}}}}}
		}},
		{Mode: "macvlan-bridge", Doc: "the host filters what its interface receives", Steps: func(p *topology.Plan) []topology.Step {
			return []topology.Step{{On: p.Hosts()[0].Name, Table: &topology.Table{Family: "netdev", Name: "filter", Chains: []topology.Chain{{
				Name: "ingress", Type: "filter", Hook: "ingress", Device: p.Networks[0].NIC,
				Rules: []topology.Rule{{Verdict: topology.Verdict{Kind: "accept"}, Comment: "all"}},
			}}}}}
		}},
		{Mode: "host", Doc: "another host routes the traffic", Steps: byAnother},
	},
})

// byAnother has the second host forward what the first one sends to an external machine.
func byAnother(p *topology.Plan) []topology.Step {
	h, relay, x := p.Hosts()[0], p.Hosts()[1], p.Externals()[0].NICs[0]
	return append(router(relay.Name, ""), topology.Step{On: h.Name, Route: &topology.Route{Dst: alone(x.V4.Addr()), Via: relay.NICs[0].V4.Addr()}})
}

// counters are the packets that the rules of a machine counted, its containers' included, by what names the rule.
func counters(ctx context.Context, b *Bench, machine string) (packets map[string]uint64, rules []string, err error) {
	s, err := b.State(ctx, machine)
	if err != nil {
		return nil, nil, err
	}
	packets = map[string]uint64{}
	namespaces := map[uint64]bool{} // containers may share one
	for _, name := range slices.Sorted(maps.Keys(s.Spaces)) {
		space := s.Spaces[name]
		if namespaces[space.Inode] {
			continue
		}
		namespaces[space.Inode] = true
		for i, r := range space.Rules {
			id := fmt.Sprintf("rule %d of %s, %q in chain %s of table %s %s,", i+1, Place{machine, name}, r.Comment, r.Chain, r.Family, r.Table)
			packets[id] = r.Packets
			rules = append(rules, id)
		}
	}
	return packets, rules, nil
}

var _ = register(Spec{
	Suite: "packets",
	Feature: Feature{
		Name: "snat-checksums", Group: "nat",
		Doc: "Are IP and transport checksums right after source translation (TCP, UDP, ICMP), and is the TTL one less?",
	},
	Name: "a container asks an external machine by ICMP echo, UDP and TCP, and every packet that arrives at either end is summed up",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		from, x := container(b), external(b)
		if _, o, err := abroad(ctx, b, from, IPv4, "udp"); err != nil || o != nil {
			return orNothing(o), err
		}
		if err := finished(ctx, b, from, x); err != nil {
			return Observation{}, err
		}
		o := works("%s asked %s by %s over %s: every checksum was right after translation both ways, and the TTL one less", from, x, strings.Join(protos, ", "), b.span())
		sums := 0
		for _, f := range b.families() {
			recorded, err := b.Record(ctx)
			if err != nil {
				return Observation{}, err
			}
			t, early, err := abroad(ctx, b, from, f, protos...)
			if err != nil || early != nil {
				return orNothing(early), err
			}
			for _, proto := range protos {
				sent, arrived := t.sent(proto), t.arrived(proto)
				o.Evidence = append(o.Evidence, seen(*sent), seen(*arrived))
				if arrived.IP.TTL != sent.IP.TTL-1-routers(b) {
					return blocked("the TTL was %d at first and %d after translation", sent.IP.TTL, arrived.IP.TTL).with(at(*sent), "%s", sent.Text).with(at(*arrived), "%s", arrived.Text), nil
				}
			}
			outside := t.arrived("udp").Src.Addr()
			// The host may have something else to say to the same machine, as to a store that is there.
			ours := func(p lab.Packet, server netip.AddrPort) bool {
				return server.Addr() == t.target.Addr() && (server.Port() == t.target.Port() || strings.HasPrefix(p.Proto, "icmp"))
			}
			packets, err := recorded(ctx, func(p lab.Packet) bool {
				there := p.Machine == x.Machine && p.Src.Addr() == outside && ours(p, p.Dst)
				back := p.Machine == from.Machine && p.In == from.Container && ours(p, p.Src)
				return !p.Outgoing && p.IP != nil && p.NDP == nil && (there || back)
			})
			if err != nil {
				return Observation{}, err
			}
			for _, p := range packets {
				if wrong(p) {
					return blocked("a checksum was wrong after translation").with(at(p), "%s; header right: %t; transport checksum: %s", p.Text, p.IP.HeaderOK, p.IP.Transport), nil
				}
			}
			sums += len(packets)
		}
		return o.value("count", float64(sums)), nil
	},
	Sabotage: []Sabotage{
		{Mode: "bridge", Doc: "another host routes what leaves", Steps: byAnother},
		{Mode: "ptp", Doc: "forwarding is off", Steps: unforwarded(IPv4, IPv6)},
	},
})

var _ = register(Spec{
	Suite: "packets",
	Feature: Feature{
		Name: "nat-port-kept", Group: "nat",
		Doc: "Does the first user of a source port keep it through translation, and does a second container with the same port get another?",
	},
	Name: "two containers ask an external machine from the same source port by UDP and TCP, and it tells the ports it saw",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		if _, o, err := abroad(ctx, b, container(b), IPv4, "udp"); err != nil || o != nil {
			return orNothing(o), err
		}
		users, err := neighbours(ctx, b)
		if err != nil {
			return Observation{}, err
		}
		if len(users) < 2 {
			return notApplicable("no two containers of a network and host have ports of their own"), nil
		}
		x := external(b)
		o := works("%s kept its source port through translation, and %s, which had the same, got another: by UDP and TCP over %s", users[0], users[1], b.span())
		for _, f := range b.families() {
			port, err := serve(ctx, b, x, unspecified(f))
			if err != nil {
				return Observation{}, err
			}
			to := netip.AddrPortFrom(addrOf(b, x, f), port)
			for _, proto := range []string{"udp", "tcp"} {
				own := netip.AddrPortFrom(unspecified(f), b.freePort())
				var outside []uint16
				for _, user := range users {
					a, err := b.Ask(ctx, user, lab.Ask{Proto: proto, From: own, To: to})
					if err != nil {
						return Observation{}, err
					}
					if !a.Answered {
						return unanswered(user, to, a), nil
					}
					outside = append(outside, a.Seen.Source.Port())
					o = o.with(x.String(), "%s from port %d of %s: source %s", proto, own.Port(), user, a.Seen.Source)
				}
				switch {
				case outside[0] != own.Port():
					o.Status, o.Detail = reports.Blocked, fmt.Sprintf("the first user of port %d did not keep it: %s saw %d", own.Port(), x, outside[0])
					return o, nil
				case outside[1] == own.Port() || outside[1] < 1024: // RFC 4787 section 4.2.2 (REQ-3a): both or none below 1024
					o.Status, o.Detail = reports.Blocked, fmt.Sprintf("the second user of port %d was seen at %d by %s", own.Port(), outside[1], x)
					return o, nil
				}
			}
		}
		return o, nil
	},
	Sabotage: []Sabotage{
		{Mode: "bridge", Doc: "ports are taken at random", Steps: anyPort},
		{Mode: "bridge", Doc: "the second container has a public address of its own", Steps: secondAddress},
	},
})

// neighbours are the first container and, where there is one, another of its network and host that has its own namespace.
func neighbours(ctx context.Context, b *Bench) ([]Place, error) {
	c := container(b)
	s, err := b.devices(ctx, c.Machine)
	if err != nil {
		return nil, err
	}
	for _, other := range b.Containers(c.Machine, network(b)) {
		if s.Spaces[other.Container].Inode != s.Spaces[c.Container].Inode {
			return []Place{c, other}, nil
		}
	}
	return []Place{c}, nil
}

var _ = register(Spec{
	Suite: "packets",
	Feature: Feature{
		Name: "nat-mapping", Group: "nat",
		Doc: "Is the mapping endpoint-independent in practice: does one internal socket keep one external port to two external machines?",
	},
	Name: "a container asks two external machines from one source port by UDP, and they tell the port they saw",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		from := container(b)
		if _, o, err := abroad(ctx, b, from, IPv4, "udp"); err != nil || o != nil {
			return orNothing(o), err
		}
		var o Observation
		var saw []string
		same := true
		for _, f := range b.families() {
			own := netip.AddrPortFrom(unspecified(f), b.freePort())
			var mapping netip.AddrPort
			for i, m := range b.plan.Externals()[:2] {
				x := Place{Machine: m.Name}
				port, err := serve(ctx, b, x, unspecified(f))
				if err != nil {
					return Observation{}, err
				}
				to := netip.AddrPortFrom(addrOf(b, x, f), port)
				a, err := b.Ask(ctx, from, lab.Ask{Proto: "udp", From: own, To: to})
				if err != nil {
					return Observation{}, err
				}
				if !a.Answered {
					return unanswered(from, to, a), nil
				}
				same = same && (i == 0 || a.Seen.Source == mapping)
				mapping = a.Seen.Source
				saw = append(saw, mapping.String())
				o = o.with(x.String(), "from port %d of %s: source %s", own.Port(), from, mapping)
			}
		}
		verdict := whether(same, "%s asked two external machines from one port over %s: they saw %s", from, b.span(), strings.Join(saw, ", "))
		o.Status, o.Detail = verdict.Status, verdict.Detail
		return o, nil
	},
	Sabotage: []Sabotage{
		{Mode: "bridge", Doc: "ports are taken at random", Steps: anyPort},
	},
})

var _ = register(Spec{
	Suite: "packets",
	Feature: Feature{
		Name: "nat-filtering", Group: "nat",
		Doc: "Is a packet from an external machine that was never contacted, sent to a mapping, kept out of the container?",
	},
	Name: "a container asks an external machine, and another external machine sends a datagram to the address and port that the first saw",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		from, x, stranger := container(b), external(b), Place{Machine: b.plan.Externals()[1].Name}
		if _, o, err := abroad(ctx, b, from, IPv4, "udp"); err != nil || o != nil {
			return orNothing(o), err
		}
		o := works("what %s sent to the mapping of %s with %s ended at the host, over %s", stranger, from, x, b.span())
		for _, f := range b.families() {
			port, err := serve(ctx, b, x, unspecified(f))
			if err != nil {
				return Observation{}, err
			}
			own, to := netip.AddrPortFrom(unspecified(f), b.freePort()), netip.AddrPortFrom(addrOf(b, x, f), port)
			contact := func() (lab.Answer, error) { return b.Ask(ctx, from, lab.Ask{Proto: "udp", From: own, To: to}) }
			a, err := contact()
			if err != nil {
				return Observation{}, err
			}
			if !a.Answered {
				return unanswered(from, to, a), nil
			}
			mapping := a.Seen.Source
			recorded, err := b.Record(ctx)
			if err != nil {
				return Observation{}, err
			}
			token := b.newToken()
			told, err := b.Ask(ctx, stranger, lab.Ask{Proto: "udp", To: mapping, Token: token, Wait: hopeful})
			if err != nil {
				return Observation{}, err
			}
			var reached []lab.Packet
			came, err := eventually(ctx, patience, func() (bool, error) {
				reached, err = recorded(ctx, func(p lab.Packet) bool {
					return p.Token == token && p.Machine == from.Machine && p.In == "" && !p.Outgoing
				})
				return len(reached) > 0, err
			})
			if err != nil {
				return Observation{}, err
			}
			if !came {
				return Observation{}, fmt.Errorf("the datagram of %s to %s did not reach %s", stranger, mapping, from.Machine)
			}
			// The sentinel: the mapping is there still, and lets the first machine's answer in after the stranger's datagram.
			again, err := contact()
			if err != nil {
				return Observation{}, err
			}
			if !again.Answered || again.Seen.Source != mapping {
				return Observation{}, fmt.Errorf("control: %s asked %s from port %d again: source %s, answered %t: want the mapping %s", from, to, own.Port(), again.Seen.Source, again.Answered, mapping)
			}
			in, err := recorded(ctx, func(p lab.Packet) bool {
				return p.Token == token && p.Machine == from.Machine && p.In == from.Container
			})
			if err != nil {
				return Observation{}, err
			}
			if len(in) > 0 {
				return blocked("a datagram of %s, which was never contacted, to the mapping %s of %s was let in", stranger, mapping, from).with(at(in[0]), "%s", in[0].Text), nil
			}
			o.Evidence = append(o.Evidence, seen(reached[0]))
			if told.ICMPFrom.IsValid() {
				o = o.with(stranger.String(), "told %s by %s", told.Refusal.Errno, told.ICMPFrom)
			}
			o = o.with(from.String(), "control: asked %s again from the same port: answered to the mapping %s after %s", to, mapping, again.RTT.Round(time.Microsecond))
		}
		return o, nil
	},
	Sabotage: []Sabotage{
		{Mode: "bridge", Doc: "the host lets everything from the second external machine in", Steps: func(p *topology.Plan) []topology.Step {
			h, y := p.Hosts()[0], p.Externals()[1].NICs[0]
			c := h.Containers[0]
			let := func(field string, from, to netip.Addr) topology.Rule {
				return topology.Rule{
					Match:   []topology.Match{{Field: field, Value: from.String()}, {Field: "meta l4proto", Value: "udp"}},
					Verdict: topology.Verdict{Kind: "dnat", To: netip.AddrPortFrom(to, 0)},
					Comment: "let in " + field,
				}
			}
			return []topology.Step{{On: h.Name, Table: &topology.Table{Family: "inet", Name: "open", Chains: []topology.Chain{{
				Name: "prerouting", Type: "nat", Hook: "prerouting", Priority: -100,
				Rules: []topology.Rule{let("ip saddr", y.V4.Addr(), c.Private4.Addr()), let("ip6 saddr", y.V6.Addr(), c.Private6.Addr())},
			}}}}}
		}},
	},
})

var _ = register(Spec{
	Suite: "packets",
	Feature: Feature{
		Name: "nat-icmp", Group: "nat",
		Doc: "Is the ICMP query identifier translated and the echo answered both ways?",
	},
	Name: "containers send an external machine echo requests with the same identifier, one after the other",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		from, x := container(b), external(b)
		if _, o, err := abroad(ctx, b, from, IPv4, "icmp"); err != nil || o != nil {
			return orNothing(o), err
		}
		senders, err := neighbours(ctx, b)
		if err != nil {
			return Observation{}, err
		}
		o := works("each of %v sent %s an echo request with the same identifier over %s: outside no two had the same, and each got its own answer", senders, x, b.span())
		for _, f := range b.families() {
			const id = 0x6d62 // any, but the same
			outside := map[int]Place{}
			for _, sender := range senders {
				// The way that a request takes, link-layer addresses included, is read from one that the kernel sent.
				t, early, err := abroad(ctx, b, sender, f, "icmp")
				if err != nil || early != nil {
					return orNothing(early), err
				}
				request := *t.sent("icmp")
				recorded, err := b.Record(ctx)
				if err != nil {
					return Observation{}, err
				}
				request.Token, request.Payload, request.ICMP.ID = b.newToken(), nil, id
				if err := b.Send(ctx, sender, request.Device, request); err != nil {
					return Observation{}, err
				}
				var there, back *lab.Packet
				came, err := eventually(ctx, patience, func() (bool, error) {
					packets, err := recorded(ctx, func(p lab.Packet) bool { return p.Token == request.Token && p.ICMP != nil && !p.Outgoing })
					for i, p := range packets {
						switch {
						case p.Machine == x.Machine:
							there = &packets[i]
						case p.Machine == sender.Machine && p.In == sender.Container:
							back = &packets[i]
						}
					}
					return there != nil && back != nil, err
				})
				if err != nil {
					return Observation{}, err
				}
				switch {
				case there == nil:
					return Observation{}, fmt.Errorf("%s: the echo request with identifier %#x did not arrive at %s", sender, id, x)
				case !came:
					return blocked("the answer to an echo request of %s, seen at %s with the identifier %#x, did not come back", sender, x, there.ICMP.ID).with(at(*there), "%s", there.Text), nil
				case back.ICMP.ID != id:
					return blocked("%s sent an echo request with the identifier %#x and got the answer with %#x", sender, id, back.ICMP.ID).with(at(*back), "%s", back.Text), nil
				}
				if other, taken := outside[there.ICMP.ID]; taken {
					return blocked("the identifier %#x stands for both %s and %s outside: it is not translated", there.ICMP.ID, other, sender).with(at(*there), "%s", there.Text), nil
				}
				outside[there.ICMP.ID] = sender
				o = o.with(at(*there), "echo request of %s: identifier %#x, seen as %s with %#x", sender, id, there.Src.Addr(), there.ICMP.ID)
				o.Evidence = append(o.Evidence, seen(*back))
			}
		}
		return o, nil
	},
	Sabotage: []Sabotage{
		{Mode: "bridge", Doc: "the second container has a public address of its own", Steps: secondAddress},
	},
})

var _ = register(Spec{
	Suite: "packets",
	Feature: Feature{
		Name: "nat-timers", Group: "nat",
		Doc: "Are the UDP timeouts 30 s unreplied and 120 s for a stream, read from the connection's own entry?",
	},
	Name: "a container sends an external machine a datagram that is not answered, and has a conversation of more than two seconds, and the host's entries are read",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		from, x := container(b), external(b)
		if _, o, err := abroad(ctx, b, from, IPv4, "udp"); err != nil || o != nil {
			return orNothing(o), err
		}
		exit, err := exitAddr(ctx, b, from, IPv4)
		if err != nil {
			return Observation{}, err
		}
		entries := func() ([]lab.Conntrack, error) {
			s, err := b.tracked(ctx, from.Machine)
			return slices.DeleteFunc(s.Spaces[""].Conntrack, func(c lab.Conntrack) bool {
				return c.Proto != "udp" || !c.NAT || c.Src.Addr() != exit || c.Dst.Addr() != addrOf(b, x, IPv4)
			}), err
		}
		timeout := func(own, to uint16) (time.Duration, error) {
			all, err := entries()
			for _, c := range all {
				if c.Src.Port() == own && c.Dst.Port() == to {
					return c.Timeout, err
				}
			}
			return 0, err
		}
		ask := func(own, to uint16, wait time.Duration) (lab.Answer, error) {
			return b.Ask(ctx, from, lab.Ask{
				Proto: "udp", From: netip.AddrPortFrom(unspecified(IPv4), own), To: netip.AddrPortFrom(addrOf(b, x, IPv4), to), Wait: wait,
			})
		}
		silent, err := b.Listen(ctx, x, lab.Listen{Proto: "udp", Addr: netip.AddrPortFrom(unspecified(IPv4), 0), Silent: true})
		if err != nil {
			return Observation{}, err
		}
		own := b.freePort()
		if _, err := ask(own, silent.Port, time.Millisecond); err != nil {
			return Observation{}, err
		}
		once, err := timeout(own, silent.Port)
		if err != nil {
			return Observation{}, err
		}
		// A conversation is a stream once it has lasted two seconds (nf_conntrack_udp_packet() of
		// net/netfilter/nf_conntrack_proto_udp.c): the oldest that an earlier spec left is taken up where there is one.
		left, err := entries()
		if err != nil {
			return Observation{}, err
		}
		left = slices.DeleteFunc(left, func(c lab.Conntrack) bool { return c.Src.Port() == own })
		if len(left) == 0 {
			return Observation{}, fmt.Errorf("%s has no entry of the datagrams of %s", from.Machine, from)
		}
		stream := slices.MinFunc(left, func(c, d lab.Conntrack) int { return cmp.Compare(c.Timeout, d.Timeout) })
		talker, err := b.Listen(ctx, x, lab.Listen{Proto: "udp", Addr: netip.AddrPortFrom(unspecified(IPv4), stream.Dst.Port())})
		if err != nil {
			return Observation{}, err
		}
		if talker.Refusal.Errno != "" && talker.Refusal.Errno != "EADDRINUSE" { // one that answers is there already
			return Observation{}, fmt.Errorf("%s: listen at port %d: %s", x, stream.Dst.Port(), talker.Refusal.Text)
		}
		var long time.Duration
		if _, err := eventually(ctx, patience, func() (bool, error) {
			a, err := ask(stream.Src.Port(), stream.Dst.Port(), hopeful)
			if err != nil || !a.Answered {
				return false, err
			}
			long, err = timeout(stream.Src.Port(), stream.Dst.Port())
			return long > once*3/2, err
		}); err != nil {
			return Observation{}, err
		}
		// What is read has run down a little.
		near := func(got, want time.Duration) bool { return got <= want && got > want*3/4 }
		return whether(near(once, 30*time.Second) && near(long, 120*time.Second),
			"the host has %s left for a datagram of %s that was not answered, and %s for a conversation", once, from, long).
			with(from.Machine, "udp %s:%d > %s:%d, not answered: %s left", addrOf(b, from, IPv4), own, addrOf(b, x, IPv4), silent.Port, once).
			with(from.Machine, "udp %s > %s, answered again and again: %s left", stream.Src, stream.Dst, long).
			value("sec", once.Seconds()).value("sec", long.Seconds()), nil
	},
	Sabotage: []Sabotage{
		{Mode: "bridge", Doc: "unanswered datagrams are forgotten in 10 s", Steps: func(p *topology.Plan) []topology.Step {
			return []topology.Step{{On: p.Hosts()[0].Name, Sysctl: &topology.Sysctl{Key: "net/netfilter/nf_conntrack_udp_timeout", Value: "10"}}}
		}},
		{Mode: "ptp", Doc: "streams are forgotten in 60 s", Steps: func(p *topology.Plan) []topology.Step {
			return []topology.Step{{On: p.Hosts()[0].Name, Sysctl: &topology.Sysctl{Key: "net/netfilter/nf_conntrack_udp_timeout_stream", Value: "60"}}}
		}},
	},
})
