package suites

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/modebench/modebench/modes"
	"github.com/modebench/modebench/reports"
	"github.com/modebench/modebench/topology"
	"github.com/modebench/modebench/topology/lab"
)

// toFar sends from a container to one of its network on another host.
func toFar(dst netip.Addr) func(context.Context, *Bench) (Observation, error) {
	return func(ctx context.Context, b *Bench) (Observation, error) {
		return cast(ctx, b, container(b), far(b), dst)
	}
}

// spanned makes the interface of the first network a port of the bridge that its containers are at, on two hosts of a mode.
func spanned(mode string) func(*topology.Plan) []topology.Step {
	return func(p *topology.Plan) (steps []topology.Step) {
		m, _ := modes.Find(mode)
		for _, h := range p.Hosts()[:2] {
			for _, s := range m.Attach(p, h, h.Containers[0]) {
				if s.Link != nil && s.Link.Master != "" {
					steps = append(steps, topology.Step{On: h.Name, Set: &topology.LinkSet{Name: p.Networks[0].NIC, Master: s.Link.Master}})
				}
			}
		}
		return steps
	}
}

func toFarSabotage(dst netip.Addr) []Sabotage {
	return []Sabotage{
		{Mode: "vxlan-static", Doc: "no host is told of the others", Setup: unknown},
		{Mode: "vxlan-gossip", Doc: "the first host sends the second one what is for everybody", Steps: secondTold},
		{Mode: "vxlan-multicast", Doc: "the tunnels have no group", Setup: mapTunnels(func(l *topology.Link) { l.Group, l.Parent = netip.Addr{}, "" })},
		{Mode: "fan", Doc: "the hosts' interfaces are ports of the bridges", Steps: spanned("fan")},
		{Mode: "macvlan-bridge", Doc: "the container's packet filter drops it", Steps: dropped(0, "output", dst)},
		{Mode: "ipvlan-l2", Doc: "the devices are of mode l3", Rewire: parentMode("l3")},
	}
}

var _ = register(Spec{
	Suite:    "conformance",
	Feature:  Feature{Name: "broadcast-cross-host", Group: "multicast", Doc: "Does a container's limited broadcast reach containers of its network on other hosts?"},
	Name:     "a container sends a datagram to 255.255.255.255, and one of its network on another host listens",
	Run:      toFar(everybody),
	Sabotage: toFarSabotage(everybody),
})

var _ = registerFamilies(func(f Family) Spec {
	return Spec{
		Suite:    "conformance",
		Feature:  Feature{Name: "multicast-cross-host", Group: "multicast", Doc: "Does multicast by a container reach those of its network on other hosts that have joined the group?"},
		Name:     "a container sends a datagram to a group that one of its network on another host has joined",
		Run:      toFar(groupAddr(f, 1)),
		Sabotage: toFarSabotage(groupAddr(f, 1)),
	}
})

// ends are a message of a trip where it began and where it arrived, out of any tunnel; nil where it was not seen there.
func (t trip) ends(proto string) (sent, arrived *lab.Packet) {
	for i, p := range t.packets {
		switch {
		case p.Token != t.tokens[proto] || p.Inner != nil || p.Dst.Addr() != t.target.Addr():
		case sent == nil && p.Machine == t.from.Machine:
			sent = &t.packets[i]
		case p.Machine == t.to.Machine && !p.Outgoing:
			arrived = &t.packets[i]
		}
	}
	return sent, arrived
}

// unreached is the answer of the modes in which containers of two hosts do not reach each other by their addresses; nil where they do.
func unreached(o Observation) *Observation {
	if o.Status != reports.Blocked {
		return nil
	}
	own := notApplicable("a container has no way to one of another host by that one's own address: %s", o.Detail)
	own.Evidence = o.Evidence
	return &own
}

var _ = register(Spec{
	Suite:   "conformance",
	Feature: Feature{Name: "ttl-cross-host", Group: "addresses", Doc: "Do packets between containers of two hosts arrive with the TTL unchanged (no IP hop)?"},
	Name:    "a container asks one of its network on another host by ICMP echo, UDP and TCP, and the TTL is read where a packet begins and where it arrives",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		if o := numberless(b); o != nil {
			return *o, nil
		}
		var falls []int
		var evidence []reports.Evidence
		for _, f := range b.families() {
			got, t, err := reachFar(ctx, b, f)
			if err != nil {
				return Observation{}, err
			}
			if o := unreached(got); o != nil {
				return *o, nil
			}
			for _, proto := range protos {
				sent, arrived := t.ends(proto)
				if sent == nil || arrived == nil {
					got.Status, got.Detail = "mixed", fmt.Sprintf("the message by %s was not seen at both ends: %s", proto, got.Detail)
					return got, nil
				}
				falls = append(falls, sent.IP.TTL-arrived.IP.TTL)
				evidence = append(evidence, seen(*sent), seen(*arrived))
			}
		}
		o := whether(slices.Max(falls) == 0, "packets of %s to %s by %s over %s arrived with a TTL less by %d", container(b), far(b), strings.Join(protos, ", "), b.span(), falls[0])
		if slices.Min(falls) != slices.Max(falls) {
			o.Status, o.Detail = "mixed", fmt.Sprintf("packets of %s to %s arrived with TTLs less by %v", container(b), far(b), falls)
		}
		o.Evidence = evidence
		return o.value("count", float64(falls[0])), nil
	},
	Sabotage: []Sabotage{
		{Mode: "vxlan-static", Doc: "a neighbour routes", Steps: roundabout("vxlan-static")},
		{Mode: "macvlan-bridge", Doc: "a neighbour routes", Steps: roundabout("macvlan-bridge")},
	},
})

// roundabout has a mode's first container send what is for the second host's first one to its neighbour, which routes.
func roundabout(mode string) func(*topology.Plan) []topology.Step {
	return func(p *topology.Plan) []topology.Step {
		m, _ := modes.Find(mode)
		h, other := p.Hosts()[0], p.Hosts()[1]
		c, neighbour := h.Containers[0], h.Containers[1]
		return append(router(h.Name, neighbour.Name), topology.Step{On: h.Name, In: c.Name, Route: &topology.Route{
			Dst: alone(m.Addrs(p, other, other.Containers[0])[0].Addr()), Via: m.Addrs(p, h, neighbour)[0].Addr(),
		}})
	}
}

var _ = registerFamilies(func(f Family) Spec {
	return Spec{
		Suite:   "conformance",
		Feature: Feature{Name: "source-cross-host", Group: "addresses", Doc: "Does a container see the own address of one of another host that asks it?"},
		Name:    "a container asks one of its network on another host by ICMP echo, UDP and TCP, and the source that arrives is compared",
		Run: func(ctx context.Context, b *Bench) (Observation, error) {
			if o := numberless(b, f); o != nil {
				return *o, nil
			}
			got, t, err := reachFar(ctx, b, f)
			if err != nil {
				return Observation{}, err
			}
			if o := unreached(got); o != nil {
				return *o, nil
			}
			own := addrOf(b, t.from, f)
			var saw []string
			same := 0
			o := got
			for _, proto := range protos {
				_, arrived := t.ends(proto)
				if arrived == nil {
					o.Status, o.Detail = "mixed", fmt.Sprintf("the message by %s was not seen at its end: %s", proto, got.Detail)
					return o, nil
				}
				if arrived.Src.Addr() == own {
					same++
				}
				if s := arrived.Src.Addr().String(); !slices.Contains(saw, s) {
					saw = append(saw, s)
				}
			}
			o = whether(same == len(protos), "%s, from %s, asked %s at %s by %s: it saw %s", t.from, own, t.to, t.target.Addr(), strings.Join(protos, ", "), strings.Join(saw, ", "))
			if same > 0 && same < len(protos) {
				o.Status = "mixed"
			}
			return told(t, o), nil
		},
		Sabotage: []Sabotage{
			{Mode: "direct-bgp", Doc: "the host masquerades what leaves", Steps: masqueraded(func(p *topology.Plan) topology.Match {
				return topology.Match{Field: "oifname", Value: p.Networks[0].NIC}
			})},
			{Mode: "macvlan-bridge", Doc: "the container sends from a second address of its own", Steps: disowned("macvlan-bridge")},
			{Mode: "vxlan-static", Doc: "the container sends from a second address of its own", Steps: disowned("vxlan-static")},
		},
	}
})

// disowned has a mode's first container translate what it sends to a second address, which it has, too.
func disowned(mode string) func(*topology.Plan) []topology.Step {
	return func(p *topology.Plan) (steps []topology.Step) {
		m, _ := modes.Find(mode)
		h := p.Hosts()[0]
		c := h.Containers[0]
		second, err := p.Container(h.Name, c.Network, 99)
		if err != nil {
			panic(err)
		}
		chain := topology.Chain{Name: "postrouting", Type: "nat", Hook: "postrouting", Priority: 100}
		for i, own := range m.Addrs(p, h, c) {
			to := m.Addrs(p, h, second)[i]
			field := map[bool]string{true: "ip saddr", false: "ip6 saddr"}[own.Addr().Is4()]
			steps = append(steps, topology.Step{On: h.Name, In: c.Name, Addr: &topology.Addr{Link: "eth0", Prefix: to, NoDAD: to.Addr().Is6()}})
			chain.Rules = append(chain.Rules, topology.Rule{
				Match:   []topology.Match{{Field: field, Value: own.Addr().String()}, {Field: "oifname", Value: "eth0"}},
				Verdict: topology.Verdict{Kind: "snat", To: netip.AddrPortFrom(to.Addr(), 0)},
			})
		}
		return append(steps, topology.Step{On: h.Name, In: c.Name, Table: &topology.Table{Family: "inet", Name: "sabotage", Chains: []topology.Chain{chain}}})
	}
}
