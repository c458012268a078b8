package suites

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/modebench/modebench/reports"
	"github.com/modebench/modebench/topology"
	"github.com/modebench/modebench/topology/lab"
)

// numberless says why a question about a container's address or interface makes no sense; nil where it does.
func numberless(b *Bench, families ...Family) *Observation {
	if b.mode.Addrs == nil {
		o := notApplicable("the mode gives containers no address beyond the loopback's")
		return &o
	}
	for _, f := range families {
		if !slices.Contains(b.families(), f) {
			o := notApplicable("the mode gives containers no address of %s", map[Family]string{IPv4: "IPv4", IPv6: "IPv6"}[f])
			return &o
		}
	}
	return nil
}

// deviceless is the same about an interface, with an address, of the container's own.
func deviceless(b *Bench, families ...Family) *Observation {
	if o := numberless(b, families...); o != nil {
		return o
	}
	if b.mode.Device == "" {
		o := notApplicable("containers use the host's own interfaces and addresses: the mode gives them none")
		return &o
	}
	return nil
}

// attachedAt is the container that is attached at a place.
func attachedAt(b *Bench, p Place) topology.Container {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.attached[p.String()].container
}

// uplink is the interface of the first host by which its containers of the first network leave.
func uplink(b *Bench) *topology.Interface {
	return b.plan.Machine(firstHost(b)).NIC(b.plan.Networks[0].NIC)
}

// cable is the interface with the cable that an interface of a machine leaves by: the one that an 802.1Q device is made
// on, or else itself.
func cable(m *topology.Machine, nic *topology.Interface) *topology.Interface {
	if nic.Trunk == "" {
		return nic
	}
	return m.NIC(nic.Trunk)
}

// uplinkPort is the switch's end of the uplink.
func uplinkPort(b *Bench) topology.Port { return portOf(b, firstHost(b)) }

// portOf is the switch's port of a host.
func portOf(b *Bench, host string) topology.Port {
	h := b.plan.Machine(host)
	return cable(h, h.NIC(b.plan.Network(network(b)).NIC)).Peer
}

// entrance puts rules at the switch's port of a host, for what enters by it.
func entrance(b *Bench, host, name string, rules ...topology.Rule) topology.Step {
	port := portOf(b, host)
	return topology.Step{On: port.Machine, Table: &topology.Table{Family: "netdev", Name: name + "-" + host, Chains: []topology.Chain{{
		Name: "ingress", Type: "filter", Hook: "ingress", Device: port.Interface, Rules: rules,
	}}}}
}

// routers is how many of them stand between two machines.
func routers(b *Bench) int {
	if f := b.plan.Topology.Fabric; f == topology.Routed || f == topology.VPC {
		return 1
	}
	return 0
}

// wire is that of an external machine on the segment of the uplink, or of the router at its other end.
func wire(b *Bench, outside Place) *topology.Interface {
	m := b.plan.Machine(outside.Machine)
	if m.Role == topology.RoleTor {
		return b.face(m.Name)
	}
	i := slices.IndexFunc(m.NICs, func(n topology.Interface) bool { return n.Segment == uplink(b).Segment })
	return &m.NICs[i]
}

// station is a machine outside that hears and is heard on the wire of the uplink: an external one, or the router behind
// which all of those are.
func station(b *Bench) Place {
	if routers(b) > 0 {
		return Place{Machine: uplinkPort(b).Machine}
	}
	return external(b)
}

var errNotThere = errors.New("no device has the address")

// linkWith is the device with an address in a namespace, as the kernel lists it.
func linkWith(s lab.SpaceState, a netip.Addr) (lab.Link, error) {
	for _, addr := range s.Addrs {
		if addr.Prefix.Addr() == a {
			for _, l := range s.Links {
				if l.Name == addr.Link {
					return l, nil
				}
			}
		}
	}
	return lab.Link{}, fmt.Errorf("%w %s", errNotThere, a)
}

// told is what came of messages whose traces matter more than their answers.
func told(t trip, o Observation) Observation {
	for _, p := range t.delivered() {
		o.Evidence = append(o.Evidence, seen(p))
	}
	o.Evidence = append(o.Evidence, t.control...)
	return o
}

// sources compares the address that a listener saw in all that was asked with the one that it should be.
func (t trip) sources(want netip.Addr) Observation {
	yes, no := t.answered()
	asked := fmt.Sprintf("%s asked %s at %s by %s", t.from, t.to, t.target, strings.Join(slices.Concat(yes, no), ", "))
	if len(no) > 0 {
		o := t.observation()
		o.Status, o.Detail = "mixed", "no source to compare: "+o.Detail
		return o
	}
	var saw []string
	same := 0
	for _, p := range yes {
		source := t.answers[p].Seen.Source.Addr()
		if source == want {
			same++
		}
		if s := source.String(); !slices.Contains(saw, s) {
			saw = append(saw, s)
		}
	}
	o := whether(same == len(yes), "%s, from %s: the server saw %s", asked, want, strings.Join(saw, ", "))
	if same > 0 && same < len(yes) {
		o.Status = "mixed"
	}
	return told(t, o)
}

var _ = registerFamilies(func(f Family) Spec {
	return Spec{
		Suite:   "conformance",
		Feature: Feature{Name: "source-in", Group: "addresses", Doc: "Does a server in the container see an external client's own address?"},
		Name:    "an external machine asks a container by UDP and TCP, through published ports where the mode publishes",
		Run: func(ctx context.Context, b *Bench) (Observation, error) {
			if o := numberless(b, f); o != nil {
				return *o, nil
			}
			x, c := external(b), container(b)
			var target netip.AddrPort
			var reproduce []string
			var err error
			if b.mode.Publish != nil {
				target, _, reproduce, err = published(ctx, b, c, f, "udp", "tcp")
			} else {
				var port uint16
				port, err = serve(ctx, b, c, unspecified(f))
				target = netip.AddrPortFrom(addrOf(b, c, f), port)
			}
			if err != nil {
				return Observation{}, err
			}
			t, err := try(ctx, b, x, c, target, "udp", "tcp")
			o := t.sources(addrOf(b, x, f))
			o.Reproduce = reproduce
			return o, err
		},
		Sabotage: []Sabotage{
			{Mode: "bridge", Doc: "what comes in is masqueraded too", Steps: masqueraded(func(p *topology.Plan) topology.Match {
				return topology.Match{Field: "oifname", Value: p.Networks[0].Bridge}
			})},
			{Mode: "host", Doc: "the first host's port is out of the switch", Steps: unplugged},
		},
	}
})

var _ = registerFamilies(func(f Family) Spec {
	return Spec{
		Suite:   "conformance",
		Feature: Feature{Name: "source-out", Group: "addresses", Doc: "Does an external server see the container's own address?"},
		Name:    "a container asks an external machine by UDP and TCP, and the source that arrives is compared",
		Run: func(ctx context.Context, b *Bench) (Observation, error) {
			if o := numberless(b, f); o != nil {
				return *o, nil
			}
			x, c := external(b), container(b)
			port, err := serve(ctx, b, x, unspecified(f))
			if err != nil {
				return Observation{}, err
			}
			t, err := try(ctx, b, c, x, netip.AddrPortFrom(addrOf(b, x, f), port), "udp", "tcp")
			return t.sources(addrOf(b, c, f)), err
		},
		Sabotage: []Sabotage{
			{Mode: "bridge", Doc: "no rules masquerade, and the external machine has a route back", Steps: func(p *topology.Plan) []topology.Step {
				h := p.Hosts()[0]
				private, via := p.Networks[0].V4, h.NICs[0].V4.Addr()
				if f == IPv6 {
					private, via = p.Networks[0].V6, h.NICs[0].V6.Addr()
				}
				return append(tableRemoved("bridge", "nat-")(p),
					topology.Step{On: p.Externals()[0].Name, Route: &topology.Route{Dst: private, Via: via}})
			}},
			{Mode: "host", Doc: "the host masquerades itself as another address", Steps: func(p *topology.Plan) []topology.Step {
				h := p.Hosts()[0]
				as := h.Containers[0].Segment4
				if f == IPv6 {
					as = h.Containers[0].Segment6
				}
				return []topology.Step{
					{On: h.Name, Addr: &topology.Addr{Link: h.NICs[0].Name, Prefix: as, NoDAD: f == IPv6}},
					{On: h.Name, Table: &topology.Table{Family: "inet", Name: "sabotage", Chains: []topology.Chain{{
						Name: "postrouting", Type: "nat", Hook: "postrouting", Priority: 100,
						Rules: []topology.Rule{{
							Match:   []topology.Match{{Field: "oifname", Value: h.NICs[0].Name}},
							Verdict: topology.Verdict{Kind: "snat", To: netip.AddrPortFrom(as.Addr(), 0)},
						}},
					}}}},
				}
			}},
		},
	}
})

// ttls compares the TTL that messages of both families leave a place with and the one that they arrive with at another, behind
// so many routers of the underlay.
func ttls(ctx context.Context, b *Bench, from, to Place, behind int) (Observation, error) {
	var o Observation
	var left, came []int
	for _, f := range b.families() {
		port, err := serve(ctx, b, to, unspecified(f))
		if err != nil {
			return o, err
		}
		t, err := try(ctx, b, from, to, netip.AddrPortFrom(addrOf(b, to, f), port), "udp")
		if err != nil {
			return o, err
		}
		if !t.answers["udp"].Answered {
			o = t.observation()
			o.Status, o.Detail = reports.NotApplicable, "no packet arrives, so there is no TTL to compare: "+o.Detail
			return o, nil
		}
		i := slices.IndexFunc(t.packets, func(p lab.Packet) bool { return p.Token == t.tokens["udp"] && p.IP != nil })
		if i < 0 {
			return o, fmt.Errorf("%s asked %s at %s: answered, and no packet of it was recorded", from, to, t.target)
		}
		left, came = append(left, t.packets[i].IP.TTL-behind), append(came, t.answers["udp"].Seen.TTL)
		o.Evidence = append(told(t, o).Evidence, reports.Evidence{At: to.String(), Saw: fmt.Sprintf("the program was told a TTL of %d", came[len(came)-1])})
	}
	var texts []string
	unchanged := map[bool]bool{} // what is so of some family
	odd := false
	for i, f := range b.families() {
		texts = append(texts, fmt.Sprintf("with the TTL %d (%s), and it arrived with %d", left[i]+behind, f, came[i]))
		unchanged[left[i] == came[i]] = true
		odd = odd || came[i] > left[i]
	}
	seen := whether(slices.Equal(left, came), "%s sent to %s, behind %d routers of the underlay, %s", from, to, behind, strings.Join(texts, "; "))
	if len(unchanged) > 1 || odd {
		seen.Status = "mixed"
	}
	seen.Evidence = o.Evidence
	return seen.value("hops", float64(1+behind+left[0]-came[0])), nil
}

var _ = register(Spec{
	Suite:   "conformance",
	Feature: Feature{Name: "ttl-same-host", Group: "addresses", Doc: "Do packets between two containers of one host arrive with the TTL unchanged (no IP hop)?"},
	Name:    "a container sends to its neighbour by UDP of both families, and the TTL that arrives is compared",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		first, second, ok := pair(b, firstHost(b), network(b))
		if !ok {
			return oneContainer(), nil
		}
		return ttls(ctx, b, first, second, 0)
	},
	Sabotage: []Sabotage{
		{Mode: "bridge", Doc: "the host routes between its containers", Steps: func(p *topology.Plan) []topology.Step {
			h := p.Hosts()[0]
			return append(tableRemoved("bridge", "filter-")(p), topology.Step{On: h.Name, In: h.Containers[0].Name, Route: &topology.Route{
				Dst: alone(h.Containers[1].Private4.Addr()), Via: p.Networks[0].Gateway4,
			}})
		}},
	},
})

var _ = register(Spec{
	Suite:   "conformance",
	Feature: Feature{Name: "ttl-out", Group: "addresses", Doc: "Do packets from a container arrive at an external machine with the TTL that the host's own arrive with (no IP hop on the host)?"},
	Name:    "a container sends to an external machine by UDP of both families, and the TTL that arrives is compared",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		if o := numberless(b); o != nil {
			return *o, nil
		}
		return ttls(ctx, b, container(b), external(b), routers(b))
	},
	Sabotage: []Sabotage{
		{Mode: "macvlan-bridge", Doc: "the container's way leads by the second host, which forwards", Steps: func(p *topology.Plan) []topology.Step {
			h, router, x := p.Hosts()[0], p.Hosts()[1], p.Externals()[0]
			steps := []topology.Step{{On: router.Name, Sysctl: &topology.Sysctl{Key: "net/ipv4/ip_forward", Value: "1"}}}
			return append(steps, topology.Step{On: h.Name, In: h.Containers[0].Name, Route: &topology.Route{
				Dst: netip.PrefixFrom(x.NICs[0].V4.Addr(), 32), Via: router.NICs[0].V4.Addr(),
			}})
		}},
	},
})

// framed records the frames that come into the switch by the first host's port while its containers talk.
func framed(ctx context.Context, b *Bench, stations []Place) ([]lab.Packet, error) {
	recorded, err := b.Record(ctx)
	if err != nil {
		return nil, err
	}
	for _, p := range stations {
		for _, f := range b.families() {
			if _, err := b.Ask(ctx, p, lab.Ask{Proto: "udp", To: netip.AddrPortFrom(addrOf(b, external(b), f), controlPort), Wait: hopeful}); err != nil {
				return nil, err
			}
		}
	}
	port := uplinkPort(b)
	return recorded(ctx, func(p lab.Packet) bool { return p.Machine == port.Machine && p.Device == port.Interface && !p.Outgoing })
}

var _ = register(Spec{
	Suite:   "conformance",
	Feature: Feature{Name: "own-mac", Group: "addresses", Doc: "Do the container's frames carry a MAC address of its own on the segment?"},
	Name:    "a container sends to an external machine, and its frames are looked at where they enter the switch",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		if b.mode.Addrs == nil {
			return notApplicable("no frame of the container reaches the segment: it has no address beyond the loopback's"), nil
		}
		c := container(b)
		frames, err := framed(ctx, b, []Place{c})
		if err != nil {
			return Observation{}, err
		}
		frames = slices.DeleteFunc(frames, func(p lab.Packet) bool { return p.Token == "" })
		if len(frames) == 0 {
			return Observation{Status: "mixed", Detail: fmt.Sprintf("%s asked %s: no frame of it came to the switch", c, external(b))}, nil
		}
		own := 0
		o := Observation{}
		for _, p := range frames {
			if !bytes.Equal(p.EthSrc, uplink(b).MAC) {
				own++
			}
			o = o.with(at(p), "from MAC %s: %s", p.EthSrc, p.Text)
		}
		seen := whether(own == len(frames), "%s asked %s: its frames came to the switch from %s; the host's MAC address is %s",
			c, external(b), frames[0].EthSrc, uplink(b).MAC)
		if own > 0 && own < len(frames) {
			seen.Status = "mixed"
		}
		seen.Evidence = o.Evidence
		return seen, nil
	},
	Sabotage: []Sabotage{
		{Mode: "macvlan-passthru", Doc: "the device is in bridge mode", Rewire: parentMode("bridge")},
		{Mode: "ipvlan-l2", Doc: "the devices are macvlan devices", Rewire: kindOf("macvlan", "bridge")},
		{Mode: "vlan-ipvlan", Doc: "the devices are macvlan devices", Rewire: kindOf("macvlan", "bridge")},
	},
})

var _ = register(Spec{
	Suite:   "conformance",
	Feature: Feature{Name: "one-mac", Group: "addresses", Doc: "Does the switch see no MAC address on the host's port besides the host's own?"},
	Name:    "a host and its containers send, and the MAC addresses on the host's port of the switch are counted",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		host := Place{Machine: firstHost(b)}
		stations := append(b.Containers(firstHost(b), network(b)), host)
		frames, err := framed(ctx, b, stations)
		if err != nil {
			return Observation{}, err
		}
		if len(frames) == 0 {
			return Observation{}, fmt.Errorf("%s: no frame came from the host's port: nothing is shown", uplinkPort(b))
		}
		counts := map[string]int{}
		for _, p := range frames {
			counts[p.EthSrc.String()]++
		}
		others := 0
		var o Observation
		for _, mac := range slices.Sorted(maps.Keys(counts)) {
			if mac != uplink(b).MAC.String() {
				others++
			}
			o = o.with(uplinkPort(b).Machine+":"+uplinkPort(b).Interface, "%d frames from %s", counts[mac], mac)
		}
		seen := whether(others == 0, "%s and its %d containers sent: %d MAC addresses came by the host's port besides the host's own %s",
			host, len(stations)-1, others, uplink(b).MAC).value("count", float64(len(counts)))
		seen.Evidence = o.Evidence
		return seen, nil
	},
	Sabotage: []Sabotage{
		{Mode: "bridge", Doc: "the host's interface is a port of the bridge", Steps: bridged(0)},
		{Mode: "macvlan-passthru", Doc: "the device is in bridge mode", Rewire: parentMode("bridge")},
		{Mode: "ipvlan-l2", Doc: "the devices are macvlan devices", Rewire: kindOf("macvlan", "bridge")},
		{Mode: "vlan-ipvlan", Doc: "the devices are macvlan devices", Rewire: kindOf("macvlan", "bridge")},
	},
})

var _ = register(Spec{
	Suite: "conformance",
	Feature: Feature{
		Name: "on-segment", Group: "addresses",
		Doc: "Does the container's own address appear in an external machine's neighbour table with the mode's MAC (ARP and ND answered)?",
	},
	Name: "an external machine takes the container's addresses for neighbours, asks them, and its neighbour table is read",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		if o := numberless(b); o != nil {
			return *o, nil
		}
		x, c := station(b), container(b)
		nic := wire(b, x)
		var o Observation
		var tried []trip
		for _, f := range b.families() {
			a := addrOf(b, c, f)
			if !nic.V4.Contains(a) && !nic.V6.Contains(a) {
				if err := b.Apply(ctx, topology.Step{On: x.Machine, Route: &topology.Route{Dst: netip.PrefixFrom(a, a.BitLen()), Link: nic.Name}}); err != nil {
					return o, err
				}
			}
			t, err := try(ctx, b, x, c, netip.AddrPortFrom(a, 0), "icmp")
			if err != nil {
				return o, err
			}
			tried = append(tried, t)
			o.Evidence = append(o.Evidence, append(t.sightings(), t.control...)...)
		}
		outside, err := b.State(ctx, x.Machine)
		if err != nil {
			return o, err
		}
		inside, err := b.devices(ctx, c.Machine)
		if err != nil {
			return o, err
		}
		right := 0
		var wrong []string
		for _, t := range tried {
			l, err := linkWith(inside.Spaces[c.Container], t.target.Addr())
			if err != nil {
				return o, fmt.Errorf("%s: %w", c, err)
			}
			entry := "no entry"
			for _, n := range outside.Spaces[""].Neighs {
				if n.IP != t.target.Addr() || n.Link != nic.Name || len(n.MAC) == 0 {
					continue
				}
				entry = fmt.Sprintf("is-at %s, %s", n.MAC, n.State)
				yes, _ := t.answered()
				switch { // what nobody answers for any more may have been learnt before
				case bytes.Equal(n.MAC, l.MAC) && len(yes) > 0:
					right++
				case !bytes.Equal(n.MAC, l.MAC):
					wrong = append(wrong, fmt.Sprintf("%s is-at %s, where the container has %s", n.IP, n.MAC, l.MAC))
				}
			}
			o = o.with(x.String(), "neighbour table of %s: %s: %s", nic.Name, t.target.Addr(), entry)
		}
		var asked []string
		for _, t := range tried {
			asked = append(asked, t.target.Addr().String())
		}
		seen := whether(right == len(tried), "%s asked for %s on its segment: %d of %d answered and have an entry in its neighbour table with the container's MAC address",
			x, strings.Join(asked, " and "), right, len(tried))
		if len(wrong) > 0 || right > 0 && right < len(tried) {
			seen.Status, seen.Detail = "mixed", seen.Detail+"; "+orNone(wrong)
		}
		seen.Evidence = o.Evidence
		return seen, nil
	},
	Sabotage: []Sabotage{
		{Mode: "bridge", Doc: "the host answers ARP for its containers", Steps: func(p *topology.Plan) []topology.Step {
			h := p.Hosts()[0]
			return []topology.Step{
				{On: h.Name, Sysctl: &topology.Sysctl{Key: "net/ipv4/conf/" + h.NICs[0].Name + "/proxy_arp", Value: "1"}},
				{On: h.Name, Sysctl: &topology.Sysctl{Key: "net/ipv4/neigh/" + h.NICs[0].Name + "/proxy_delay", Value: "0"}},
			}
		}},
		{Mode: "macvlan-bridge", Doc: "the first host's port is out of the switch", Steps: unplugged},
		{Mode: "ipvlan-l2", Doc: "the devices are of mode l3", Rewire: parentMode("l3")},
		{Mode: "ipvlan-l3", Doc: "the devices are of mode l2", Rewire: parentMode("l2")},
	},
})

// overlap gives the second place the first one's IPv4 address besides its own, unless it has it, and makes both ask an
// external machine from it in turn, or, where that is asked from another address, a neighbour. Taking it back is announced.
func overlap(ctx context.Context, b *Bench, first, second Place) (Observation, error) {
	a := addrOf(b, first, IPv4)
	x := external(b)
	shared := addrOf(b, second, IPv4) == a
	if !shared || first.Machine == second.Machine {
		step := topology.Step{On: second.Machine, In: second.Container, Addr: &topology.Addr{
			Link: ownDevice(b, second), Prefix: netip.PrefixFrom(a, prefixOf(b, first).Bits()),
		}}
		r, err := b.Attempt(ctx, step)
		if err != nil {
			return Observation{}, err
		}
		if r.Errno == "EEXIST" || r.Errno == "EADDRINUSE" {
			o := blocked("%s was to have the address %s of %s, too: refused with %s", second, a, first, r.Errno).with(second.String(), "%s", r.Text)
			o.Reproduce = []string{step.String()}
			return o, nil
		}
		if r.Errno != "" {
			return Observation{}, fmt.Errorf("%s: %s", step, r.Text)
		}
		if err := b.Apply(ctx, step); err != nil {
			return Observation{}, err
		}
		b.atEnd(func(ctx context.Context) error { return announce(ctx, b, first, a) })
	}
	target := netip.AddrPortFrom(addrOf(b, x, IPv4), controlPort)
	if b.mode.Exit != "" { // nothing outside is asked from this address: a neighbour is
		c, err := another(b, first.Machine, network(b), 1)
		if err != nil {
			return Observation{}, err
		}
		if x, err = b.Attach(ctx, c, first.Machine); err != nil {
			return Observation{}, err
		}
		port, err := serve(ctx, b, x, unspecified(IPv4))
		if err != nil {
			return Observation{}, err
		}
		target = netip.AddrPortFrom(addrOf(b, x, IPv4), port)
	}
	recorded, err := b.Record(ctx)
	if err != nil {
		return Observation{}, err
	}
	const rounds = 2 // the first is for whoever has to learn an address
	askers := map[string]Place{}
	var tokens []string
	for range rounds {
		for _, p := range []Place{first, second} {
			token := b.newToken()
			tokens, askers[token] = append(tokens, token), p
			if _, err := b.Ask(ctx, p, lab.Ask{Proto: "udp", From: netip.AddrPortFrom(a, 0), To: target, Token: token, Wait: hopeful}); err != nil {
				return Observation{}, err
			}
		}
	}
	var all []lab.Packet
	if _, err := eventually(ctx, retry, func() (bool, error) { // a busy machine still carries them
		all, err = recorded(ctx, func(p lab.Packet) bool { return askers[p.Token] != Place{} && (p.Src == target || p.Dst == target) })
		return !slices.ContainsFunc(tokens, func(token string) bool {
			return !slices.ContainsFunc(all, func(p lab.Packet) bool { return p.Token == token && p.Src == target })
		}), err
	}); err != nil {
		return Observation{}, err
	}
	left, arrived := map[string]bool{}, map[string]bool{} // questions: their container, and at the machine that was asked
	var answers []lab.Packet
	for _, p := range all {
		if p.Src == target {
			answers = append(answers, p)
			continue
		}
		left[p.Token] = left[p.Token] || p.Outgoing && p.Machine == askers[p.Token].Machine && p.In == askers[p.Token].Container
		arrived[p.Token] = arrived[p.Token] || p.Machine == x.Machine
	}
	// Judged by where the answers went: how fast a program took one says nothing here.
	var o Observation
	got, astray, stopped := map[Place]int{}, 0, 0
	for _, token := range tokens {
		p, last := askers[token], lab.Packet{}
		came := false
		for _, answer := range answers {
			if answer.Token == token {
				last = answer
				came = came || at(answer) == p.String()+":"+ownDevice(b, p) || b.mode.Device == "" && answer.Machine == p.Machine
			}
		}
		switch {
		case came:
			got[p]++
			o = o.with(p.String(), "asked %s at %s from %s: the answer came", x, target, a)
		case last.Token != "":
			astray++
			o = o.with(p.String(), "asked %s at %s from %s: the answer was last seen at %s (%s)", x, target, a, at(last), last.Text)
		case p == second && left[token] && !arrived[token]:
			stopped++
			o = o.with(p.String(), "asked %s at %s from %s: the question left the container and did not arrive", x, target, a)
		default:
			o = o.with(p.String(), "asked %s at %s from %s: no answer was seen", x, target, a)
		}
	}
	seen := whether(got[first] == rounds && got[second] == rounds, "%s and %s both had %s and asked %s %d times each, in turn: %d and %d answers came, %d went elsewhere, %d questions were stopped",
		first, second, a, x, rounds, got[first], got[second], astray, stopped)
	if got[first] < rounds {
		stopped = 0 // for whatever reason, which is not that the address is the other's
	}
	if got[first]+got[second]+astray+stopped < 2*rounds {
		seen.Status = "mixed" // some were lost otherwise than to the other one
	}
	seen.Evidence = o.Evidence
	return seen, nil
}

// prefixOf is a container's IPv4 address with the length of its subnet.
func prefixOf(b *Bench, p Place) netip.Prefix {
	return b.mode.Addrs(b.plan, b.plan.Machine(p.Machine), attachedAt(b, p))[0]
}

// announce tells a place's neighbours that it has an address: whoever remembers another holder is corrected at once.
func announce(ctx context.Context, b *Bench, p Place, a netip.Addr) error {
	s, err := b.devices(ctx, p.Machine)
	if err != nil {
		return err
	}
	l, err := linkWith(s.Spaces[p.Container], a)
	if err != nil {
		return fmt.Errorf("%s: %w", p, err)
	}
	said := lab.Packet{ARP: &lab.ARP{Op: 1, SenderMAC: l.MAC, SenderIP: a, TargetIP: a}} // RFC 5227 section 3
	if a.Is6() {
		said = lab.Packet{ // RFC 4861 section 7.2.6
			EthDst: net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1}, Src: netip.AddrPortFrom(a, 0), Dst: netip.MustParseAddrPort("[ff02::1]:0"),
			NDP: &lab.NDP{Kind: "na", Target: a, LinkAddr: l.MAC, Override: true},
		}
	}
	return tell(ctx, b, p, l.Name, said)
}

// tell sends a frame that is for all. A device that drops such at once says so (net_xmit_errno()), which is no error.
func tell(ctx context.Context, b *Bench, p Place, device string, said lab.Packet) error {
	if err := b.Send(ctx, p, device, said); err != nil && !noRoom(err) {
		return err
	}
	return nil
}

var _ = register(Spec{
	Suite: "conformance",
	Feature: Feature{
		Name: "overlap-hosts", Group: "addresses",
		Doc: "Can two hosts use the same container addresses at the same time, each container with working traffic to the outside?",
	},
	Name: "containers of two hosts have one IPv4 address, and ask an external machine from it in turn",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		if o := numberless(b); o != nil {
			return *o, nil
		}
		return overlap(ctx, b, container(b), b.Containers(secondHost(b), network(b))[0])
	},
	Sabotage: []Sabotage{
		{Mode: "bridge", Doc: "no rules masquerade", Steps: tableRemoved("bridge", "nat-")},
		{Mode: "ptp", Doc: "the host does not forward", Steps: forwardingOff(IPv4)},
	},
})

var _ = register(Spec{
	Suite:   "conformance",
	Feature: Feature{Name: "overlap-host", Group: "addresses", Doc: "Can two containers of one host have the same IPv4 address and both work?"},
	Name:    "a second container of a host gets the first one's IPv4 address, and both ask an external machine from it in turn",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		if o := numberless(b); o != nil {
			return *o, nil
		}
		first, second, ok := pair(b, firstHost(b), network(b))
		if !ok {
			return oneContainer(), nil
		}
		return overlap(ctx, b, first, second)
	},
	Sabotage: []Sabotage{
		{Mode: "bridge", Doc: "containers are translated apart from each other", Steps: apart},
	},
})

var _ = register(Spec{
	Suite: "conformance",
	Feature: Feature{
		Name: "foreign-subnet", Group: "addresses",
		Doc: "Does a container with an address outside the segment's subnet talk to a station on the wire with an address in that subnet?",
	},
	Name: "a container and an external machine get addresses of a subnet that is not the segment's, and the container asks",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		if o := deviceless(b); o != nil {
			return *o, nil
		}
		x, c := station(b), container(b)
		own, other := netip.MustParsePrefix("203.0.113.1/24"), netip.MustParsePrefix("203.0.113.2/24") // RFC 5737
		if err := b.Apply(ctx,
			topology.Step{On: c.Machine, In: c.Container, Addr: &topology.Addr{Link: ownDevice(b, c), Prefix: own}},
			topology.Step{On: x.Machine, Addr: &topology.Addr{Link: wire(b, x).Name, Prefix: other}},
		); err != nil {
			return Observation{}, err
		}
		port, err := serve(ctx, b, x, unspecified(IPv4))
		if err != nil {
			return Observation{}, err
		}
		t, err := try(ctx, b, c, x, netip.AddrPortFrom(other.Addr(), port), protos...)
		return t.observation(), err
	},
	Sabotage: []Sabotage{
		{Mode: "bridge", Doc: "the host's interface is a port of the bridge", Steps: bridged(0)},
		{Mode: "macvlan-bridge", Doc: "the first host's port is out of the switch", Steps: unplugged},
	},
})

var _ = register(Spec{
	Suite:   "conformance",
	Feature: Feature{Name: "slaac", Group: "addresses", Doc: "Does the container form an IPv6 address from a router advertisement on the segment?"},
	Name:    "an external machine advertises a prefix, and a container that accepts advertisements is watched",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		if b.mode.Addrs == nil {
			return notApplicable("the container has no interface besides loopback, on which it could hear"), nil
		}
		x, c := station(b), container(b)
		dev := ownDevice(b, c)
		prefix := netip.MustParsePrefix("2001:db8:5aac::/64")
		for _, s := range accepting(dev) {
			s.On, s.In = c.Machine, c.Container
			if err := b.Apply(ctx, s); err != nil {
				return Observation{}, err
			}
		}
		recorded, err := b.Record(ctx)
		if err != nil {
			return Observation{}, err
		}
		if err := b.Send(ctx, x, wire(b, x).Name, lab.Packet{
			EthDst: net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1}, // all nodes, RFC 2464 section 7
			Src:    netip.MustParseAddrPort("[fe80::5aac]:0"), Dst: netip.MustParseAddrPort("[ff02::1]:0"),
			NDP: &lab.NDP{Kind: "ra", Prefix: prefix},
		}); err != nil {
			return Observation{}, err
		}
		// What follows it by the same way has come back: it was on the host by then.
		alive, err := control(ctx, b, x, Place{Machine: secondHost(b)}, addrOf(b, x, IPv6))
		if err != nil {
			return Observation{}, err
		}
		wait, err := byThen(ctx, b, c)
		if err != nil {
			return Observation{}, err
		}
		var formed lab.Addr
		ok, err := eventually(ctx, wait, func() (bool, error) {
			s, err := b.devices(ctx, c.Machine)
			for _, a := range s.Spaces[c.Container].Addrs {
				if prefix.Contains(a.Prefix.Addr()) {
					formed = a
				}
			}
			return formed.Prefix.IsValid(), err
		})
		if err != nil {
			return Observation{}, err
		}
		if ok {
			b.atEnd(func(ctx context.Context) error {
				return b.lab.Apply(ctx, "", []topology.Step{
					{On: c.Machine, In: c.Container, Remove: true, Addr: &topology.Addr{Link: formed.Link, Prefix: formed.Prefix}},
					{On: c.Machine, In: c.Container, Remove: true, Route: &topology.Route{Dst: prefix, Link: formed.Link}},
				})
			})
		}
		packets, err := recorded(ctx, func(p lab.Packet) bool { return p.NDP != nil && p.NDP.Kind == "ra" })
		if err != nil {
			return Observation{}, err
		}
		if len(packets) == 0 {
			return Observation{}, errors.New("the advertisement was not seen anywhere")
		}
		formedAs := "formed no address in it"
		if ok {
			formedAs = "formed " + formed.Prefix.String()
		}
		o := whether(ok, "%s advertised %s on the segment: %s, which accepts advertisements, %s; last seen at %s", x, prefix, c, formedAs, at(packets[len(packets)-1]))
		for _, p := range packets {
			o.Evidence = append(o.Evidence, seen(p))
		}
		o.Evidence = append(o.Evidence, alive...)
		return o, nil
	},
	Sabotage: []Sabotage{
		{Mode: "macvlan-bridge", Doc: "the container's device is not to form addresses", Steps: func(p *topology.Plan) []topology.Step {
			h := p.Hosts()[0]
			return []topology.Step{{On: h.Name, In: h.Containers[0].Name, Sysctl: &topology.Sysctl{Key: "net/ipv6/conf/eth0/autoconf", Value: "0"}}}
		}},
		{Mode: "host", Doc: "the host forwards", Steps: func(p *topology.Plan) []topology.Step {
			return []topology.Step{{On: p.Hosts()[0].Name, Sysctl: &topology.Sysctl{Key: "net/ipv6/conf/all/forwarding", Value: "1"}}}
		}},
		{Mode: "bridge", Doc: "the host's interface is a port of the bridge", Steps: bridged(0)},
		{Mode: "ipvlan-l2", Doc: "the devices are of mode l3", Rewire: parentMode("l3")},
		{Mode: "ipvlan-l3", Doc: "the devices are of mode l2", Rewire: parentMode("l2")},
	},
})

var _ = register(Spec{
	Suite:   "conformance",
	Feature: Feature{Name: "dad-ipv6", Group: "addresses", Doc: "Does duplicate address detection mark a container's duplicate of an address on the segment?"},
	Name:    "an external machine has an IPv6 address, and a container gets the same",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		if o := deviceless(b); o != nil {
			return *o, nil
		}
		x, c := external(b), container(b)
		raw := wire(b, x).V6.Addr().As16()
		raw[12], raw[13] = 0x0d, 0xad                       // of no machine and no container
		dup := netip.PrefixFrom(netip.AddrFrom16(raw), 128) // alone: no route to the segment comes with it
		if err := b.Apply(ctx, topology.Step{On: x.Machine, Addr: &topology.Addr{Link: wire(b, x).Name, Prefix: dup, NoDAD: true}}); err != nil {
			return Observation{}, err
		}
		recorded, err := b.Record(ctx)
		if err != nil {
			return Observation{}, err
		}
		step := topology.Step{On: c.Machine, In: c.Container, Addr: &topology.Addr{Link: ownDevice(b, c), Prefix: dup}}
		const owner = specOwner + " duplicate"
		b.atEnd(func(ctx context.Context) error { return b.lab.Undo(ctx, owner) })
		var is lab.Addr
		var packets []lab.Packet
		// Again where a busy machine's objection came after the second that detection waits (RFC 4862 section 5.4, RETRANS_TIMER).
		for late, n := true, 0; late; n++ {
			if n == 3 {
				return Observation{}, fmt.Errorf("%s objected %d times that %s has %s, each time after detection had ended: nothing can be concluded", x, n, c, dup.Addr())
			}
			if err := b.lab.Undo(ctx, owner); err != nil {
				return Observation{}, err
			}
			if err := b.lab.Apply(ctx, owner, []topology.Step{step}); err != nil {
				return Observation{}, err
			}
			ok, err := eventually(ctx, patience, func() (bool, error) {
				s, err := b.devices(ctx, c.Machine)
				is = lab.Addr{}
				for _, a := range s.Spaces[c.Container].Addrs {
					if a.Prefix == dup {
						is = a
					}
				}
				return is.DADFailed || is.Prefix.IsValid() && !is.Tentative, err
			})
			if err == nil && !ok {
				err = fmt.Errorf("%s: %s is still tentative after %s", c, dup, patience)
			}
			if err != nil {
				return Observation{}, err
			}
			if packets, err = recorded(ctx, func(p lab.Packet) bool { return p.NDP != nil && p.NDP.Target == dup.Addr() }); err != nil {
				return Observation{}, err
			}
			late = !is.DADFailed && slices.ContainsFunc(packets, func(p lab.Packet) bool {
				return p.NDP.Kind == "na" && !p.Outgoing && p.Machine == c.Machine && p.In == c.Container
			})
		}
		state := "in use, after no objection came"
		if is.DADFailed {
			state = "marked dadfailed"
		}
		if len(packets) == 0 {
			state += ", and nobody was asked"
		}
		o := whether(is.DADFailed, "%s got %s, which %s has: it is %s", c, dup.Addr(), x, state).
			with(c.String(), "%s: dadfailed %t, tentative %t", dup, is.DADFailed, is.Tentative)
		for _, p := range packets {
			o.Evidence = append(o.Evidence, seen(p))
		}
		o.Reproduce = []string{step.String()}
		if !is.DADFailed {
			alive, err := control(ctx, b, c, x, addrOf(b, x, IPv4)) // by IPv6, it would ask from the duplicate
			o.Evidence = append(o.Evidence, alive...)
			return o, err
		}
		return o, nil
	},
	Sabotage: []Sabotage{
		{Mode: "macvlan-bridge", Doc: "duplicate address detection is off", Steps: func(p *topology.Plan) []topology.Step {
			h := p.Hosts()[0]
			return []topology.Step{{On: h.Name, In: h.Containers[0].Name, Sysctl: &topology.Sysctl{Key: "net/ipv6/conf/eth0/accept_dad", Value: "0"}}}
		}},
		{Mode: "bridge", Doc: "the host's interface is a port of the bridge, and duplicate address detection is on", Steps: func(p *topology.Plan) []topology.Step {
			h := p.Hosts()[0]
			return append(bridged(0)(p), topology.Step{On: h.Name, In: h.Containers[0].Name, Sysctl: &topology.Sysctl{Key: "net/ipv6/conf/eth0/accept_dad", Value: "1"}})
		}},
	},
})

var _ = register(Spec{
	Suite: "conformance",
	Feature: Feature{
		Name: "dad-ipv4", Group: "addresses",
		Doc: "Does the kernel by itself detect or refuse an IPv4 address that another station on the container's own layer-2 network already has?",
	},
	Name: "a container gets the IPv4 address of its gateway, or where it has none of an external machine on its segment",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		if o := deviceless(b); o != nil {
			return *o, nil
		}
		c := container(b)
		s, err := b.State(ctx, c.Machine)
		if err != nil {
			return Observation{}, err
		}
		holder := addrOf(b, external(b), IPv4)
		for _, r := range s.Spaces[c.Container].Routes {
			if r.Dst.Addr().Is4() && r.Dst.Bits() == 0 && r.Via.IsValid() {
				holder = r.Via
			}
		}
		if holder.IsLinkLocalUnicast() { // one that hosts answer ARP for, and none has: its own address it answers for, too
			holder = addrOf(b, Place{Machine: c.Machine}, IPv4)
		}
		r, err := b.Ask(ctx, c, lab.Ask{Proto: "icmp", To: netip.AddrPortFrom(holder, 0)})
		if err != nil {
			return Observation{}, err
		}
		there := slices.ContainsFunc(s.Spaces[c.Container].Addrs, func(a lab.Addr) bool { return a.Prefix.Addr() == holder })
		if !r.Answered && !there {
			return Observation{}, fmt.Errorf("%s: %s does not answer: no duplicate can be made", c, holder)
		}
		recorded, err := b.Record(ctx)
		if err != nil {
			return Observation{}, err
		}
		step := topology.Step{On: c.Machine, In: c.Container, Addr: &topology.Addr{
			Link: ownDevice(b, c), Prefix: netip.PrefixFrom(holder, prefixOf(b, c).Bits()),
		}}
		refusal, err := b.Attempt(ctx, step)
		if err != nil {
			return Observation{}, err
		}
		// RFC 5227 section 2.1.1: an ARP probe comes from the address zero.
		probes, err := recorded(ctx, func(p lab.Packet) bool {
			return p.ARP != nil && p.ARP.TargetIP == holder && p.ARP.SenderIP.IsUnspecified()
		})
		if err != nil {
			return Observation{}, err
		}
		said := "the kernel took it"
		if refusal.Errno != "" {
			said = "refused: " + refusal.Text
		}
		o := whether(refusal.Errno != "" || len(probes) > 0, "%s was to have %s, which answers it on its own link: %s, and %d ARP probes were sent", c, holder, said, len(probes)).
			with(c.String(), "control: echo to %s answered after %s", holder, r.RTT.Round(time.Microsecond)).
			with(c.String(), "%s: %s", step, said)
		o.Reproduce = []string{step.String()}
		return o, nil
	},
	Sabotage: []Sabotage{
		{Mode: "bridge", Doc: "the container has its gateway's address already", Steps: func(p *topology.Plan) []topology.Step {
			h, n := p.Hosts()[0], p.Networks[0]
			return []topology.Step{{On: h.Name, In: h.Containers[0].Name, Addr: &topology.Addr{Link: "eth0", Prefix: netip.PrefixFrom(n.Gateway4, n.V4.Bits())}}}
		}},
	},
})

var _ = register(Spec{
	Suite:   "conformance",
	Feature: Feature{Name: "duplicate-mac-refused", Group: "addresses", Doc: "Is a second container with the MAC address of a first refused on the same host?"},
	Name:    "a container is attached with the MAC address of another",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		if o := deviceless(b); o != nil {
			return *o, nil
		}
		first, second, ok := pair(b, firstHost(b), network(b))
		if !ok {
			return oneContainer(), nil
		}
		if addrOf(b, first, IPv4) == addrOf(b, second, IPv4) {
			return notApplicable("the containers share one interface, and with it its MAC address"), nil
		}
		c, err := another(b, first.Machine, network(b), 1)
		if err != nil {
			return Observation{}, err
		}
		c.MAC = attachedAt(b, first).MAC
		_, err = b.Attach(ctx, c, first.Machine)
		switch {
		case err == nil:
			s, err := b.devices(ctx, first.Machine)
			if err != nil {
				return Observation{}, err
			}
			o := Observation{}
			var mac net.HardwareAddr
			same := 0
			for _, name := range []string{first.Container, c.Name} {
				l, err := linkWith(s.Spaces[name], addrOf(b, Place{first.Machine, name}, IPv4))
				if err != nil {
					return o, fmt.Errorf("%s: %w", name, err)
				}
				if mac == nil {
					mac = l.MAC // as it is: a mode may leave it to the kernel
				}
				if bytes.Equal(l.MAC, mac) && l.Up {
					same++
				}
				o = o.with(first.Machine+"/"+name, "%s has %s, up %t", l.Name, l.MAC, l.Up)
			}
			if same != 2 && !bytes.Equal(mac, c.MAC) {
				return notApplicable("no MAC address can be asked for: %s was, and %s has %s", c.MAC, first, mac), nil
			}
			seen := blocked("%s was attached with the MAC address %s of %s: %d devices are up with it", c.ID(), mac, first, same)
			if same != 2 {
				seen.Status = "mixed"
			}
			seen.Evidence = o.Evidence
			return seen, nil
		case strings.Contains(err.Error(), syscall.EADDRINUSE.Error()):
			return works("%s was to be attached with the MAC address %s of %s: refused (EADDRINUSE)", c.ID(), c.MAC, first).
				with(first.Machine, "%v", err), nil
		}
		return Observation{}, err
	},
	Sabotage: []Sabotage{
		{Mode: "macvlan-bridge", Doc: "the containers hang on veth pairs", Rewire: paired},
	},
})

var _ = register(Spec{
	Suite: "conformance",
	Feature: Feature{
		Name: "parent-mac-kept", Group: "addresses",
		Doc: "Does the host's interface keep its MAC address while a container whose MAC was set to another value is attached, and after?",
	},
	Name: "a container's device gets another MAC address and then its own again, and the host's interface is watched",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		if o := deviceless(b); o != nil {
			return *o, nil
		}
		c, nic := container(b), uplink(b)
		other := net.HardwareAddr{0x02, 0x5e, 0x10, 0, 0, 1}
		var o Observation
		look := func(when string) (net.HardwareAddr, error) {
			s, err := b.devices(ctx, c.Machine)
			if err != nil {
				return nil, err
			}
			for _, l := range s.Spaces[""].Links {
				if l.Name == nic.Name {
					o = o.with(c.Machine+":"+l.Name, "%s: %s", when, l.MAC)
					return l.MAC, nil
				}
			}
			return nil, fmt.Errorf("%s: no device %s", c.Machine, nic.Name)
		}
		step := topology.Step{On: c.Machine, In: c.Container, Set: &topology.LinkSet{Name: ownDevice(b, c), MAC: other}}
		refusal, err := b.Attempt(ctx, step)
		if err != nil {
			return o, err
		}
		if slices.Contains([]string{"EOPNOTSUPP", "ENOTSUP"}, refusal.Errno) { // one number (errno(3))
			is, err := look("after " + c.String() + " was to have " + other.String())
			seen := whether(bytes.Equal(is, nic.MAC), "%s was to get the MAC address %s, which its driver lets no device have: the host's %s, which is %s, has %s",
				c, other, nic.Name, nic.MAC, is)
			seen.Evidence, seen.Reproduce = o.Evidence, []string{step.String()}
			return seen.with(c.String(), "%s", refusal.Text), err
		}
		const owner = specOwner + " mac"
		if err := b.lab.Apply(ctx, owner, []topology.Step{step}); err != nil {
			return o, err
		}
		b.atEnd(func(ctx context.Context) error { return b.lab.Undo(ctx, owner) })
		during, err := look("while " + c.String() + " has " + other.String())
		if err != nil {
			return o, err
		}
		if err := b.lab.Undo(ctx, owner); err != nil {
			return o, err
		}
		after, err := look("after it has its own again")
		if err != nil {
			return o, err
		}
		seen := whether(bytes.Equal(during, nic.MAC) && bytes.Equal(after, nic.MAC),
			"%s was given the MAC address %s: the host's %s, which is %s, had %s meanwhile and %s after", c, other, nic.Name, nic.MAC, during, after)
		seen.Evidence, seen.Reproduce = o.Evidence, []string{step.String()}
		return seen, nil
	},
	Sabotage: []Sabotage{
		{Mode: "macvlan-passthru", Doc: "the device is in bridge mode", Rewire: parentMode("bridge")},
		{Mode: "bridge", Doc: "the host's interface has another MAC address", Steps: func(p *topology.Plan) []topology.Step {
			h := p.Hosts()[0]
			return []topology.Step{{On: h.Name, Set: &topology.LinkSet{Name: h.NICs[0].Name, MAC: net.HardwareAddr{0x02, 0x5e, 0x10, 0, 0, 2}}}}
		}},
	},
})

// Sabotages that several specs have in common.

// masqueraded translates, on the first host, the source of what matches.
func masqueraded(match func(*topology.Plan) topology.Match) func(*topology.Plan) []topology.Step {
	return func(p *topology.Plan) []topology.Step {
		return []topology.Step{{On: p.Hosts()[0].Name, Table: &topology.Table{Family: "inet", Name: "sabotage", Chains: []topology.Chain{{
			Name: "postrouting", Type: "nat", Hook: "postrouting", Priority: 100,
			Rules: []topology.Rule{{Match: []topology.Match{match(p)}, Verdict: topology.Verdict{Kind: "masquerade"}}},
		}}}}}
	}
}

// apart gives the second container of the first host an address on the way out that is its own: what it sends is
// translated before it meets the first one's.
func apart(p *topology.Plan) []topology.Step {
	h := p.Hosts()[0]
	c := h.Containers[1]
	return []topology.Step{{On: h.Name, In: c.Name, Table: &topology.Table{Family: "inet", Name: "sabotage", Chains: []topology.Chain{{
		Name: "postrouting", Type: "nat", Hook: "postrouting", Priority: 100,
		Rules: []topology.Rule{{
			Match:   []topology.Match{{Field: "ip saddr", Value: h.Containers[0].Private4.Addr().String()}},
			Verdict: topology.Verdict{Kind: "snat", To: netip.AddrPortFrom(c.Private4.Addr(), 0)},
		}},
	}}}}}
}
