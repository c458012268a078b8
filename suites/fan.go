package suites

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/modebench/modebench/modes"
	"github.com/modebench/modebench/reports"
	"github.com/modebench/modebench/topology"
	"github.com/modebench/modebench/topology/lab"
)

// unmapped is the answer of the modes whose containers are not numbered by their host's address.
func unmapped(b *Bench) *Observation {
	if o := numberless(b, IPv4); o != nil {
		return o
	}
	if !b.plan.Network(network(b)).Fan.Overlay.Contains(addrOf(b, container(b), IPv4)) {
		o := notApplicable("a container's address does not follow from its host's")
		return &o
	}
	return nil
}

// far is the first container of the network on the second host.
func far(b *Bench) Place { return b.Containers(secondHost(b), network(b))[0] }

// tunnelled asks a container of another host, and gives what came of it and how the message by UDP crossed the segment: as it
// entered the switch by the port of each host, the question by the first one's and the answer by the second one's. A packet
// is nil where none of it was in a tunnel. answered tells that the question was.
func tunnelled(ctx context.Context, b *Bench, ask lab.Ask) (question, answer *lab.Packet, a lab.Answer, evidence []reports.Evidence, err error) {
	from, to := container(b), far(b)
	port, err := serve(ctx, b, to, unspecified(IPv4))
	if err != nil {
		return nil, nil, a, nil, err
	}
	recorded, err := b.Record(ctx)
	if err != nil {
		return nil, nil, a, nil, err
	}
	ask.Proto, ask.To, ask.Token = "udp", netip.AddrPortFrom(addrOf(b, to, IPv4), port), b.newToken()
	// Twice where nothing came back: the first may have waited for a link-layer address for too long.
	for range 2 {
		if a, err = b.Ask(ctx, from, ask); err != nil {
			return nil, nil, a, nil, err
		}
		if a.Answered || a.Refusal.Errno != "" {
			break
		}
	}
	packets, err := recorded(ctx, func(p lab.Packet) bool { return p.Token == ask.Token && onSegment(b, p) })
	if err != nil {
		return nil, nil, a, nil, err
	}
	for i, p := range packets {
		if len(evidence) < 8 {
			evidence = append(evidence, seen(p))
		}
		by := func(host string) bool {
			return comesBy(b, host, b.plan.Machine(host).NIC(b.plan.Network(network(b)).NIC))(p)
		}
		switch {
		case p.Inner == nil:
		case question == nil && by(from.Machine):
			question = &packets[i]
		case answer == nil && by(to.Machine):
			answer = &packets[i]
		}
	}
	return question, answer, a, evidence, nil
}

// astray is the observation where nothing of a question was in a tunnel.
func astray(b *Bench, a lab.Answer, evidence []reports.Evidence) Observation {
	return Observation{
		Status: "mixed", Evidence: evidence,
		Detail: fmt.Sprintf("%s asked %s, and no packet of it came to the switch in a tunnel; answered %t %s", container(b), far(b), a.Answered, a.Refusal.Text),
	}
}

// underlayOf is the address on the underlay that a host is known by.
func underlayOf(b *Bench, host string) netip.Addr {
	return b.plan.Machine(host).NIC(b.plan.Network(network(b)).NIC).V4.Addr()
}

var _ = register(Spec{
	Suite: "packets",
	Feature: Feature{
		Name: "fan-mapping", Group: "packets",
		Doc: "Do the packets of containers on two hosts cross the segment between those addresses of the hosts that the mapping derives from the containers' own?",
	},
	Name: "a container asks one of another host, and the addresses on the segment are compared with what the containers' map to",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		if o := unmapped(b); o != nil {
			return *o, nil
		}
		question, _, a, evidence, err := tunnelled(ctx, b, lab.Ask{})
		if err != nil {
			return Observation{}, err
		}
		if question == nil {
			return astray(b, a, evidence), nil
		}
		fan := b.plan.Network(network(b)).Fan
		var wrong []string
		for _, end := range []struct {
			name         string
			outer, inner netip.Addr
			of           Place
		}{
			{"from", question.Src.Addr(), question.Inner.Src.Addr(), container(b)},
			{"to", question.Dst.Addr(), question.Inner.Dst.Addr(), far(b)},
		} {
			mapped, err := fan.Host(end.inner)
			switch {
			case end.inner != addrOf(b, end.of, IPv4):
				wrong = append(wrong, fmt.Sprintf("the packet in the tunnel was %s %s, where %s has %s", end.name, end.inner, end.of, addrOf(b, end.of, IPv4)))
			case err != nil:
				wrong = append(wrong, err.Error())
			case mapped != end.outer:
				wrong = append(wrong, fmt.Sprintf("%s %s it went %s %s, where the mapping says %s", end.name, end.inner, end.name, end.outer, mapped))
			case mapped != underlayOf(b, end.of.Machine):
				wrong = append(wrong, fmt.Sprintf("the mapping says %s for %s, where %s has %s", mapped, end.inner, end.of.Machine, underlayOf(b, end.of.Machine)))
			}
		}
		if !question.IP.HeaderOK || question.IP.MoreFragments || question.IP.Offset > 0 {
			wrong = append(wrong, "the packet on the segment is a fragment, or its header checksum is wrong")
		}
		o := whether(len(wrong) == 0 && a.Answered, "%s asked %s: %s > %s crossed the segment as %s > %s, as the mapping of %s on %s says; answered %t",
			container(b), far(b), question.Inner.Src.Addr(), question.Inner.Dst.Addr(), question.Src.Addr(), question.Dst.Addr(), fan.Overlay, fan.Underlay, a.Answered)
		if len(wrong) > 0 {
			o.Detail = fmt.Sprintf("%s asked %s: %s", container(b), far(b), strings.Join(wrong, "; "))
		}
		o.Evidence = evidence
		return o, nil
	},
	Sabotage: []Sabotage{
		{Mode: "fan", Doc: "what is for the second host goes to an external machine", Steps: misled("fan")},
		{Mode: "fan-ipip", Doc: "what is for the second host goes to an external machine", Steps: misled("fan-ipip")},
		{Mode: "fan", Doc: "the first tunnel begins at the host's address on another segment", Setup: func(steps []topology.Step) []topology.Step {
			var first, last *topology.Link
			steps = mapLinks(func(l *topology.Link) {
				if l.Local.IsValid() {
					last = l
					if first == nil {
						first = l
					}
				}
			})(steps)
			first.Local = last.Local
			return steps
		}},
		{Mode: "fan", Doc: "the host masquerades what is for the overlay", Steps: func(p *topology.Plan) []topology.Step {
			return masqueraded(func(p *topology.Plan) topology.Match {
				return topology.Match{Field: "ip daddr", Value: p.Networks[0].Fan.Overlay.String()}
			})(p)
		}},
	},
})

// mapTunnels changes the tunnels' devices among what prepares a host.
func mapTunnels(edit func(*topology.Link)) func([]topology.Step) []topology.Step {
	return mapLinks(func(l *topology.Link) {
		if l.Local.IsValid() {
			edit(l)
		}
	})
}

// misled has a mode's first host send what is for the second one's containers to an external machine.
func misled(mode string) func(*topology.Plan) []topology.Step {
	return func(p *topology.Plan) (steps []topology.Step) {
		m, _ := modes.Find(mode)
		nic := p.Networks[0].NIC
		right, wrong := p.Hosts()[1].NIC(nic).V4.Addr(), p.Externals()[0].NICs[0].V4.Addr()
		for _, was := range m.Setup(p, p.Hosts()[0]) {
			is := was
			switch {
			case was.Neigh != nil && was.Neigh.FDB && was.Neigh.IP == right:
				n := *was.Neigh
				n.IP, is.Neigh = wrong, &n
			case was.Route != nil && was.Route.Via == right:
				r := *was.Route
				r.Via, is.Route = wrong, &r
			default:
				continue
			}
			was.Remove = true
			steps = append(steps, was, is)
		}
		return steps
	}
}

// bare has the first two hosts of the mode fan send each other what is for their containers without a tunnel.
func bare(p *topology.Plan) (steps []topology.Step) {
	m, _ := modes.Find("fan")
	n := p.Networks[0]
	for i, h := range p.Hosts()[:2] {
		other := p.Hosts()[1-i]
		for _, c := range other.Containers {
			if c.Network == n.Name {
				steps = append(steps, topology.Step{On: h.Name, Route: &topology.Route{Dst: alone(m.Addrs(p, other, c)[0].Addr()), Via: other.NIC(n.NIC).V4.Addr()}})
			}
		}
	}
	return steps
}

var untunnelled = Sabotage{Mode: "fan", Doc: "the hosts send each other the containers' packets as they are", Steps: bare}

var _ = register(Spec{
	Suite: "packets",
	Feature: Feature{
		Name: "fan-ip-in-ip", Group: "packets",
		Doc: "Is the tunnel IP in IP (protocol 4): the container's packet right behind an IPv4 header of the hosts', 20 bytes in all (RFC 2003)?",
	},
	Name: "a container asks one of another host, and what is before its packet on the segment is read",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		if o := unmapped(b); o != nil {
			return *o, nil
		}
		p, _, a, evidence, err := tunnelled(ctx, b, lab.Ask{})
		if err != nil {
			return Observation{}, err
		}
		if p == nil {
			return astray(b, a, evidence), nil
		}
		before := p.Length - 14 - p.Inner.Length // without the frame's header on the segment
		if len(p.Inner.EthSrc) > 0 {
			before += 14 // the carried frame's
		}
		o := whether(p.Proto == "ipip" && before == 20, "%s asked %s: the packet crossed the segment in %s, behind %d bytes", container(b), far(b), p.Proto, before).value("bytes", float64(before))
		if p.VXLAN != nil {
			o.Detail += fmt.Sprintf(" (VXLAN with the VNI %d to port %d, from a port that follows from the flow)", p.VXLAN.VNI, p.Dst.Port())
		}
		if p.VXLAN == nil && p.Proto != "ipip" || p.VXLAN != nil && (p.VXLAN.Flags != 0x08 || p.VXLAN.Reserved != 0 || before != 50) {
			o.Status = "mixed"
		}
		o.Evidence = evidence
		return o, nil
	},
	Sabotage: []Sabotage{untunnelled},
})

// startTTLs are what packets start with: two, so that no fixed one of a tunnel's can be taken for them.
var startTTLs = []int{40, 50}

var _ = register(Spec{
	Suite: "packets",
	Feature: Feature{
		Name: "fan-ttl", Group: "packets",
		Doc: "Has the packet on the segment the TTL of the one that it carries (inherited), so that the underlay ends loops of both?",
	},
	Name: "a container asks one of another host with two different TTLs, and those on the segment are read",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		if o := unmapped(b); o != nil {
			return *o, nil
		}
		var o Observation
		var texts []string
		inherited := 0
		for _, ttl := range startTTLs {
			p, _, a, evidence, err := tunnelled(ctx, b, lab.Ask{TTL: ttl})
			if err != nil {
				return Observation{}, err
			}
			if p == nil {
				return astray(b, a, evidence), nil
			}
			if p.Inner.IP.TTL != ttl-1 {
				return Observation{Status: "mixed", Detail: fmt.Sprintf("%s asked with a TTL of %d: in the tunnel it is %d", container(b), ttl, p.Inner.IP.TTL), Evidence: evidence}, nil
			}
			if p.IP.TTL == p.Inner.IP.TTL {
				inherited++
			}
			texts = append(texts, fmt.Sprintf("%d in %d", p.Inner.IP.TTL, p.IP.TTL))
			o.Evidence = append(o.Evidence, evidence...)
		}
		seen := whether(inherited == len(startTTLs), "%s asked %s with TTLs of %d and %d: on the segment the packets had %s", container(b), far(b), startTTLs[0], startTTLs[1], strings.Join(texts, " and "))
		if inherited > 0 && inherited < len(startTTLs) {
			seen.Status = "mixed"
		}
		seen.Evidence = o.Evidence
		return seen, nil
	},
	Sabotage: []Sabotage{
		untunnelled,
		{Mode: "fan", Doc: "the host's own packets begin with a TTL that the container's have", Steps: func(p *topology.Plan) []topology.Step {
			return []topology.Step{{On: p.Hosts()[0].Name, Sysctl: &topology.Sysctl{Key: "net/ipv4/ip_default_ttl", Value: fmt.Sprint(startTTLs[0] - 1)}}}
		}},
	},
})

var _ = register(Spec{
	Suite: "packets",
	Feature: Feature{
		Name: "fan-df", Group: "packets",
		Doc: "Does the packet on the segment forbid fragmentation (DF), so that a router of the underlay with a lower MTU says so?",
	},
	Name: "a container asks one of another host, and the flags of the packet on the segment are read",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		if o := unmapped(b); o != nil {
			return *o, nil
		}
		p, _, a, evidence, err := tunnelled(ctx, b, lab.Ask{NoFragment: true})
		if err != nil {
			return Observation{}, err
		}
		if p == nil {
			return astray(b, a, evidence), nil
		}
		if !p.Inner.IP.DontFragment {
			return Observation{}, errors.New("the packet in the tunnel, which was sent with DF, is without")
		}
		o := whether(p.IP.DontFragment, "%s asked %s with DF: on the segment DF was %t, in the tunnel %t", container(b), far(b), p.IP.DontFragment, p.Inner.IP.DontFragment)
		o.Evidence = evidence
		return o, nil
	},
	Sabotage: []Sabotage{untunnelled},
})

var _ = register(Spec{
	Suite: "packets",
	Feature: Feature{
		Name: "fan-size", Group: "packets",
		Doc: "Does a packet that fills the container's MTU just fill the segment's in its tunnel, and is who sends more told the tunnel's MTU by its gateway?",
	},
	Name: "a container asks one of another host with what fills its MTU, then its device gets the segment's MTU, and it asks with 8 bytes more; both with DF",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		if o := unmapped(b); o != nil {
			return *o, nil
		}
		c, to := container(b), far(b)
		if err := routeOfItsOwn(ctx, b, c, addrOf(b, to, IPv4)); err != nil {
			return Observation{}, err
		}
		own, err := linkOf(ctx, b, c, ownDevice(b, c))
		if err != nil {
			return Observation{}, err
		}
		p, _, a, evidence, err := tunnelled(ctx, b, lab.Ask{Size: own.MTU - headers(IPv4), NoFragment: true})
		if err != nil {
			return Observation{}, err
		}
		if p == nil {
			return astray(b, a, evidence), nil
		}
		mtu := uplink(b).MTU
		asked := fmt.Sprintf("%s sent %d bytes with DF to %s, which were %d on the segment of %d", c, own.MTU, to, p.Length-14, mtu)
		if !a.Answered || p.Length-14 != mtu || p.IP.MoreFragments || p.IP.Offset > 0 {
			o := blocked("%s: answered %t, in fragments %t", asked, a.Answered, p.IP.MoreFragments || p.IP.Offset > 0)
			o.Evidence = evidence
			return o, nil
		}
		device := attachedAt(b, c).Device // the other end, which takes no more than it sends
		if err := b.Apply(ctx,
			topology.Step{On: c.Machine, Set: &topology.LinkSet{Name: device, MTU: mtu}},
			topology.Step{On: c.Machine, In: c.Container, Set: &topology.LinkSet{Name: own.Name, MTU: mtu}},
		); err != nil {
			return Observation{}, err
		}
		_, _, told, more, err := tunnelled(ctx, b, lab.Ask{Size: own.MTU + 8 - headers(IPv4), NoFragment: true})
		if err != nil {
			return Observation{}, err
		}
		gateway, err := b.plan.Network(network(b)).Fan.Gateway(underlayOf(b, c.Machine))
		if err != nil {
			return Observation{}, err
		}
		o := whether(told.Refusal.Errno == "EMSGSIZE" && told.ICMPFrom == gateway.Addr() && told.MTU == own.MTU,
			"%s; with 8 bytes more it was told %q by %s, and that %d bytes fit", asked, told.Refusal.Errno, told.ICMPFrom, told.MTU)
		o.Evidence = append(evidence, more...)
		return o.with(c.String(), "answered %t; the gateway is %s", told.Answered, gateway.Addr()), nil
	},
	Sabotage: []Sabotage{
		{Mode: "fan", Doc: "the tunnels' devices take 100 bytes less", Setup: mapTunnels(func(l *topology.Link) { l.MTU -= 100 })},
		{Mode: "fan", Doc: "the host's packet filter drops the errors that it sends", Steps: func(p *topology.Plan) []topology.Step {
			return []topology.Step{dropping(topology.Step{On: p.Hosts()[0].Name}, "output", topology.Match{Field: "ct state", Value: "related"})}
		}},
	},
})

var _ = register(Spec{
	Suite: "packets",
	Feature: Feature{
		Name: "fan-reverse", Group: "packets",
		Doc: "Does the answer come back between the same two addresses of the hosts, and is no packet of the overlay on the segment without a tunnel?",
	},
	Name: "a container asks one of another host, and all that is on the segment meanwhile is looked through",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		if o := unmapped(b); o != nil {
			return *o, nil
		}
		recorded, err := b.Record(ctx)
		if err != nil {
			return Observation{}, err
		}
		question, answer, a, evidence, err := tunnelled(ctx, b, lab.Ask{})
		if err != nil {
			return Observation{}, err
		}
		overlay := b.plan.Network(network(b)).Fan.Overlay
		bare, err := recorded(ctx, func(p lab.Packet) bool {
			if !onSegment(b, p) {
				return false
			}
			in := func(a netip.Addr) bool { return overlay.Contains(a) }
			return in(p.Src.Addr()) || in(p.Dst.Addr()) || p.ARP != nil && (in(p.ARP.SenderIP) || in(p.ARP.TargetIP))
		})
		if err != nil {
			return Observation{}, err
		}
		asked := fmt.Sprintf("%s asked %s", container(b), far(b))
		switch {
		case len(bare) > 0:
			return blocked("%s: %d packets of the overlay were on the segment without a tunnel", asked, len(bare)).sampled(bare, 8), nil
		case question == nil || answer == nil:
			return astray(b, a, evidence), nil
		}
		o := whether(answer.Src.Addr() == question.Dst.Addr() && answer.Dst.Addr() == question.Src.Addr() &&
			answer.Inner.Src == question.Inner.Dst && answer.Inner.Dst == question.Inner.Src,
			"%s by a packet %s > %s, and was answered by one %s > %s; nothing of %s was on the segment without a tunnel",
			asked, question.Src.Addr(), question.Dst.Addr(), answer.Src.Addr(), answer.Dst.Addr(), overlay)
		o.Evidence = evidence
		return o, nil
	},
	Sabotage: []Sabotage{
		untunnelled,
		{Mode: "fan", Doc: "the second host sends its answers as they are", Steps: func(p *topology.Plan) []topology.Step {
			return slices.DeleteFunc(bare(p), func(s topology.Step) bool { return s.On != p.Hosts()[1].Name })
		}},
	},
})

// confined drops what enters the switch by the first two hosts' ports from another IPv4 address than the host's own, as networks
// do that give a host one address.
func confined(b *Bench) (steps []topology.Step) {
	for _, h := range b.plan.Hosts()[:2] {
		steps = append(steps, entrance(b, h.Name, "one-address", topology.Rule{
			Match:   []topology.Match{{Field: "ip saddr", Not: true, Value: underlayOf(b, h.Name).String()}},
			Verdict: topology.Verdict{Kind: "drop"}, Comment: "not from " + h.Name,
		}))
	}
	return steps
}

var _ = register(Spec{
	Suite: "packets",
	Feature: Feature{
		Name: "fan-one-address", Group: "packets",
		Doc: "Do containers of two hosts reach each other where the network lets nothing pass that is not from a host's one address?",
	},
	Name:  "the switch drops what comes from hosts by other addresses than their own, and a container asks one of another host by ICMP echo, UDP and TCP",
	Needs: []modes.Kernel{modes.NFTables},
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		if o := unmapped(b); o != nil {
			return *o, nil
		}
		steps := confined(b)
		if err := b.Apply(ctx, steps...); err != nil {
			return Observation{}, err
		}
		o, _, err := reach(ctx, b, container(b), far(b), IPv4)
		if err != nil {
			return Observation{}, err
		}
		for _, tor := range b.plan.Tors() {
			s, err := b.own(ctx, tor.Name)
			if err != nil {
				return Observation{}, err
			}
			for _, r := range s.Rules {
				o = o.with(tor.Name, "rule %q dropped %d packets", r.Comment, r.Packets)
			}
		}
		o.Reproduce = lines(steps)
		return o, nil
	},
	Sabotage: []Sabotage{untunnelled},
})

// blockful is how many containers a block of 24 bits has addresses for (fanctl(8)).
const blockful = 253

var _ = register(Spec{
	Suite: "lifecycle",
	Feature: Feature{
		Name: "fan-block", Group: "addresses",
		Doc: "Does one address of a host yield 253 for containers, each with its own, of which the last works like the first, and is one more container refused?",
	},
	Name: "253 containers are numbered for a host and some of them attached, the last among them, which a container of another host asks; then one more is to be attached",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		if o := unmapped(b); o != nil {
			return *o, nil
		}
		host, n := b.plan.Machine(firstHost(b)), b.plan.Network(network(b))
		block, err := n.Fan.Block(underlayOf(b, host.Name))
		if err != nil {
			return Observation{}, err
		}
		attached := map[int]bool{}
		for _, p := range b.Containers(host.Name, n.Name) {
			attached[attachedAt(b, p).Number] = true
		}
		numbered := func(number int) (topology.Container, error) {
			c, err := b.plan.Container(host.Name, n.Name, number)
			c.Name, c.Device = fmt.Sprintf("b%d", number), fmt.Sprintf("veth-b%d", number) // another network's may be called by the number
			return c, err
		}
		const apart = 23 // of which a block has eleven
		var cs []topology.Container
		var odd []string
		holders := map[netip.Addr]int{}
		for number := 1; number <= blockful; number++ {
			c, err := numbered(number)
			if err != nil {
				return Observation{}, err
			}
			if err := b.mode.Admit(b.plan, host, c); err != nil {
				odd = append(odd, err.Error())
				continue
			}
			a := b.mode.Addrs(b.plan, host, c)[0].Addr()
			if other, taken := holders[a]; taken || !block.Contains(a) {
				odd = append(odd, fmt.Sprintf("container %d has %s, of %s, which container %d has: %t", number, a, block, other, taken))
			}
			holders[a] = number
			if number%apart == 0 && !attached[number] {
				cs = append(cs, c)
			}
		}
		places, _, err := crowd(ctx, b, host.Name, cs)
		if refused(err) {
			return blocked("containers of %s on %s: %v", block, host.Name, err), nil
		} else if err != nil {
			return Observation{}, err
		}
		s, err := b.devices(ctx, host.Name)
		if err != nil {
			return Observation{}, err
		}
		var o Observation
		for _, p := range places {
			a := addrOf(b, p, IPv4)
			if _, err := linkWith(s.Spaces[p.Container], a); err != nil {
				odd = append(odd, fmt.Sprintf("%s: %v", p, err))
				continue
			}
			var answer lab.Answer
			if ok, err := eventually(ctx, retry, func() (_ bool, err error) {
				answer, err = b.Ask(ctx, far(b), lab.Ask{Proto: "icmp", To: netip.AddrPortFrom(a, 0), Wait: hopeful})
				return answer.Answered, err
			}); err != nil {
				return Observation{}, err
			} else if !ok {
				odd = append(odd, fmt.Sprintf("%s did not answer %s at %s", p, far(b), a))
			}
			o = o.with(far(b).String(), "%s at %s: answered %t", p, a, answer.Answered)
		}
		more, err := numbered(blockful)
		if err != nil {
			return Observation{}, err
		}
		more.Number, more.Name, more.Device = blockful+1, "b-more", "veth-b-more"
		_, refusal := b.Attach(ctx, more, host.Name)
		said := "it was attached"
		if refusal != nil {
			said = refusal.Error()
		}
		seen := whether(len(odd) == 0 && len(holders) == blockful && refusal != nil && !refused(refusal),
			"%s, by its one address %s, has %d addresses of %s for containers; of %d that were attached, up to %s, %s reached all but %d; one more: %s",
			host.Name, underlayOf(b, host.Name), len(holders), block, len(places), addrOf(b, places[len(places)-1], IPv4), far(b), len(odd), said).value("count", float64(len(holders)))
		seen.Evidence = o.Evidence
		return seen.differences(host.Name, odd), nil
	},
	Sabotage: []Sabotage{
		{Mode: "fan", Doc: "a container gets its neighbour's address", Rewire: ofSpares(func(steps []topology.Step) []topology.Step {
			steps = slices.Clone(steps)
			for i, s := range steps {
				if s.Addr != nil {
					a := *s.Addr
					a.Prefix = netip.PrefixFrom(a.Prefix.Addr().Prev(), a.Prefix.Bits())
					steps[i].Addr = &a
				}
			}
			return steps
		})},
		{Mode: "fan", Doc: "the last container is not wired", Rewire: func(steps []topology.Step) []topology.Step {
			if steps[0].Space.Name != fmt.Sprintf("b%d", blockful) {
				return steps
			}
			return steps[:1]
		}},
	},
})
