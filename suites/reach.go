package suites

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/modebench/modebench/modes"
	"github.com/modebench/modebench/topology"
	"github.com/modebench/modebench/topology/lab"
)

// The default lab's words: the machines and networks that specs speak of are found by their roles, not by names.
func firstHost(b *Bench) string  { return b.plan.Hosts()[0].Name }
func secondHost(b *Bench) string { return b.plan.Hosts()[1].Name }
func external(b *Bench) Place    { return Place{Machine: b.plan.Externals()[0].Name} }
func network(b *Bench) string    { return b.plan.Networks[0].Name }

// container is the first container of the first network on the first host.
func container(b *Bench) Place { return b.Containers(firstHost(b), network(b))[0] }

// companion is another container of the first host: of the same network, or where that has only one, of the next.
func companion(b *Bench) Place {
	if _, second, ok := pair(b, firstHost(b), network(b)); ok {
		return second
	}
	return b.Containers(firstHost(b), b.plan.Networks[1].Name)[0]
}

var _ = registerFamilies(func(f Family) Spec {
	return Spec{
		Suite:   "conformance",
		Feature: Feature{Name: "same-host", Group: "reach", Doc: "Do two containers of one network on one host reach each other?"},
		Name:    "a container asks its neighbour on the same host by ICMP echo, UDP and TCP",
		Run: func(ctx context.Context, b *Bench) (Observation, error) {
			first, second, ok := pair(b, firstHost(b), network(b))
			if !ok {
				return oneContainer(), nil
			}
			o, _, err := reach(ctx, b, first, second, f)
			return o, err
		},
		Sabotage: []Sabotage{
			{Mode: "bridge", Doc: "the bridge's ports are isolated", Steps: isolated},
			{Mode: "ptp", Doc: "the host does not forward", Steps: forwardingOff(f)},
			{Mode: "container", Doc: "each container has a namespace of its own", Rewire: separated},
			{Mode: "macvlan-bridge", Doc: "the devices are in private mode", Steps: deviceMode("private")},
			{Mode: "macvlan-private", Doc: "the devices are in bridge mode", Steps: deviceMode("bridge")},
			{Mode: "macvlan-vepa", Doc: "the switch sends frames back by the port they came from", Steps: reflective},
			{Mode: "ipvlan-l2", Doc: "the devices are macvlan devices in private mode", Rewire: kindOf("macvlan", "private")},
			{Mode: "ipvlan-l3", Doc: "the devices are macvlan devices in private mode", Rewire: kindOf("macvlan", "private")},
			{Mode: "vlan-macvlan", Doc: "the devices are in private mode", Steps: deviceMode("private")},
			{Mode: "direct-bgp", Doc: "the host has no routes to its containers", Rewire: unrouted},
		},
	}
})

var _ = registerFamilies(func(f Family) Spec {
	return Spec{
		Suite: "conformance",
		Feature: Feature{
			Name: "cross-host", Group: "reach",
			Doc: "Does a container reach one of the same network on another host by that one's own address?",
		},
		Name: "a container asks one of its network on another host by ICMP echo, UDP and TCP",
		Run: func(ctx context.Context, b *Bench) (Observation, error) {
			o, _, err := reachFar(ctx, b, f)
			return o, err
		},
		Sabotage: []Sabotage{
			{Mode: "macvlan-bridge", Doc: "the first host's port is out of the switch", Steps: unplugged},
			{Mode: "host", Doc: "the first host's port is out of the switch", Steps: unplugged},
			{Mode: "ipvlan-l3", Doc: "hosts announce nothing", Rewire: unannounced},
			{Mode: "ipvlan-l3s", Doc: "hosts announce nothing", Rewire: unannounced},
			{Mode: "vlan-macvlan", Doc: "the second host's port is not in the network's VLAN", Steps: outOfVLAN(1)},
			{Mode: "vlan-ipvlan", Doc: "the second host's port is not in the network's VLAN", Steps: outOfVLAN(1)},
			{Mode: "direct-bgp", Doc: "hosts announce nothing", Rewire: unannounced},
			{Mode: "vxlan-static", Doc: "no host is told of the others", Setup: unknown},
			{Mode: "vxlan-gossip", Doc: "hosts tell each other of no container", Rewire: unspoken},
			{Mode: "vxlan-multicast", Doc: "the tunnels have no group", Setup: mapTunnels(func(l *topology.Link) { l.Group, l.Parent = netip.Addr{}, "" })},
		},
	}
})

// reachFar has a container ask one of its network on another host.
func reachFar(ctx context.Context, b *Bench, f Family) (Observation, trip, error) {
	from := container(b)
	to, err := unambiguous(ctx, b, far(b), from.Machine, f)
	if err != nil {
		return Observation{}, trip{}, err
	}
	return reach(ctx, b, from, to, f)
}

// unambiguous is a container, or where another host has one of that address, since private blocks are the same on all hosts, one whose address none there has.
func unambiguous(ctx context.Context, b *Bench, c Place, other string, f Family) (Place, error) {
	if !taken(b, other, addrOf(b, c, f)) || b.mode.Limit != 0 {
		return c, nil
	}
	spare, err := another(b, c.Machine, network(b), 1)
	if err != nil {
		return Place{}, err
	}
	return b.Attach(ctx, spare, c.Machine)
}

// unspoken leaves out what other hosts are told of a container.
func unspoken(steps []topology.Step) []topology.Step {
	return slices.DeleteFunc(slices.Clone(steps), func(s topology.Step) bool { return s.Endpoint != nil })
}

// unknown leaves out the tunnels' entries among what prepares a host.
func unknown(steps []topology.Step) []topology.Step {
	return slices.DeleteFunc(slices.Clone(steps), func(s topology.Step) bool { return s.Neigh != nil && s.Neigh.FDB })
}

var _ = registerFamilies(func(f Family) Spec {
	return Spec{
		Suite:   "conformance",
		Feature: Feature{Name: "container-to-host", Group: "reach", Doc: "Does a container reach its own host?"},
		Name:    "a container asks its own host, at the host's address on the segment, by ICMP echo, UDP and TCP",
		Run: func(ctx context.Context, b *Bench) (Observation, error) {
			o, _, err := reach(ctx, b, container(b), Place{Machine: firstHost(b)}, f)
			return o, err
		},
		Sabotage: hostward(f),
	}
})

var _ = registerFamilies(func(f Family) Spec {
	return Spec{
		Suite:   "conformance",
		Feature: Feature{Name: "host-to-container", Group: "reach", Doc: "Does the host reach its container?"},
		Name:    "a host asks its container by ICMP echo, UDP and TCP",
		Run: func(ctx context.Context, b *Bench) (Observation, error) {
			o, _, err := reach(ctx, b, Place{Machine: firstHost(b)}, container(b), f)
			return o, err
		},
		Sabotage: []Sabotage{
			{Mode: "bridge", Doc: "the host's packet filter drops what it sends to containers", Steps: filtered("output", "oifname")},
			{Mode: "macvlan-bridge", Doc: "the host has a macvlan device of its own on the interface", Steps: shim(f, "macvlan", "bridge")},
			{Mode: "ipvlan-l2", Doc: "the host has an ipvlan device of its own on the interface", Steps: shim(f, "ipvlan", "l2")},
			{Mode: "ipvlan-l3", Doc: "the host's way to its own containers leads by the router", Steps: reachable},
		},
	}
})

var _ = registerFamilies(func(f Family) Spec {
	return Spec{
		Suite: "conformance",
		Feature: Feature{
			Name: "external-to-container", Group: "reach",
			Doc: "Does an external machine reach the container's own address at a port that is not published?",
		},
		Name: "an external machine, with a route by the host where it needs one, asks a container by ICMP echo, UDP and TCP",
		Run: func(ctx context.Context, b *Bench) (Observation, error) {
			from, to := external(b), container(b)
			if err := routed(ctx, b, from, to, f); err != nil {
				return Observation{}, err
			}
			o, _, err := reach(ctx, b, from, to, f)
			return o, err
		},
		Sabotage: []Sabotage{
			{Mode: "bridge", Doc: "no rules block what was not published", Steps: tableRemoved("bridge", "filter-")},
			{Mode: "ptp", Doc: "no rules block what was not published", Steps: tableRemoved("ptp", "filter-")},
			{Mode: "macvlan-private", Doc: "the first host's port is out of the switch", Steps: unplugged},
			{Mode: "host", Doc: "the first host's port is out of the switch", Steps: unplugged},
			{Mode: "ipvlan-l2", Doc: "the devices are of mode l3", Rewire: parentMode("l3")},
			{Mode: "ipvlan-l3", Doc: "hosts announce nothing", Rewire: unannounced},
			{Mode: "ipvlan-l3s", Doc: "hosts announce nothing", Rewire: unannounced},
			{Mode: "direct-bgp", Doc: "hosts announce nothing", Rewire: unannounced},
			{Mode: "vlan-macvlan", Doc: "the first host's port is not in the network's VLAN", Steps: outOfVLAN(0)},
			{Mode: "vlan-ipvlan", Doc: "the first host's port is not in the network's VLAN", Steps: outOfVLAN(0)},
		},
	}
})

var _ = registerFamilies(func(f Family) Spec {
	return Spec{
		Suite:   "conformance",
		Feature: Feature{Name: "container-to-external", Group: "reach", Doc: "Does a container reach an external machine?"},
		Name:    "a container asks an external machine by ICMP echo, UDP and TCP",
		Run: func(ctx context.Context, b *Bench) (Observation, error) {
			o, _, err := reach(ctx, b, container(b), external(b), f)
			return o, err
		},
		Sabotage: cutAway(f),
	}
})

var _ = registerFamilies(func(f Family) Spec {
	return Spec{
		Suite: "conformance",
		Feature: Feature{
			Name: "remote-host-to-container", Group: "reach",
			Doc: "Does another host reach a container by the container's own address?",
		},
		Name: "a host asks a container of another host by ICMP echo, UDP and TCP, by no other routes than the mode gives it",
		Run: func(ctx context.Context, b *Bench) (Observation, error) {
			from := Place{Machine: secondHost(b)}
			to, err := unambiguous(ctx, b, container(b), from.Machine, f)
			if err != nil {
				return Observation{}, err
			}
			o, _, err := reach(ctx, b, from, to, f)
			return o, err
		},
		Sabotage: []Sabotage{
			{Mode: "bridge", Doc: "the other host has a route, and no rules block what was not published", Steps: func(p *topology.Plan) []topology.Step {
				h := p.Hosts()[0]
				n, via := p.Networks[0].V4, h.NIC(p.Networks[0].NIC).V4.Addr()
				if f == IPv6 {
					n, via = p.Networks[0].V6, h.NIC(p.Networks[0].NIC).V6.Addr()
				}
				half := netip.PrefixFrom(n.Addr(), n.Bits()+1) // longer than what leads to the other host's own bridge
				return append(tableRemoved("bridge", "filter-")(p), topology.Step{On: p.Hosts()[1].Name, Route: &topology.Route{Dst: half, Via: via}})
			}},
			{Mode: "macvlan-bridge", Doc: "the first host's port is out of the switch", Steps: unplugged},
			{Mode: "host", Doc: "the first host's port is out of the switch", Steps: unplugged},
			{Mode: "ipvlan-l2", Doc: "the first host's port is out of the switch", Steps: unplugged},
			{Mode: "ipvlan-l3", Doc: "hosts announce nothing", Rewire: unannounced},
			{Mode: "direct-bgp", Doc: "hosts announce nothing", Rewire: unannounced},
			{Mode: "vlan-macvlan", Doc: "the first host's port is not in the network's VLAN", Steps: outOfVLAN(0)},
			{Mode: "flannel-vxlan", Doc: "the first host's port is out of the switch", Steps: unplugged},
		},
	}
})

var _ = registerFamilies(func(f Family) Spec {
	return Spec{
		Suite: "conformance",
		Feature: Feature{
			Name: "container-to-remote-host", Group: "reach",
			Doc: "Does a container reach another host, at that one's address on the segment?",
		},
		Name: "a container asks another host by ICMP echo, UDP and TCP",
		Run: func(ctx context.Context, b *Bench) (Observation, error) {
			o, _, err := reach(ctx, b, container(b), Place{Machine: secondHost(b)}, f)
			return o, err
		},
		Sabotage: cutAway(f),
	}
})

var _ = registerFamilies(func(f Family) Spec {
	return Spec{
		Suite:   "conformance",
		Feature: Feature{Name: "loopback", Group: "reach", Doc: "Does a container reach itself over its loopback?"},
		Name:    "a container asks itself at its loopback address by ICMP echo, UDP and TCP",
		Run: func(ctx context.Context, b *Bench) (Observation, error) {
			c := container(b)
			port, err := serve(ctx, b, c, loopback(f))
			if err != nil {
				return Observation{}, err
			}
			t, err := try(ctx, b, c, c, netip.AddrPortFrom(loopback(f), port), protos...)
			return t.observation(), err
		},
		Sabotage: []Sabotage{
			{Mode: "bridge", Doc: "the container's packet filter drops what comes by its loopback", Steps: func(p *topology.Plan) []topology.Step {
				h := p.Hosts()[0]
				return []topology.Step{dropping(topology.Step{On: h.Name, In: h.Containers[0].Name}, "input", topology.Match{Field: "iifname", Value: "lo"})}
			}},
		},
	}
})

var _ = registerFamilies(func(f Family) Spec {
	return Spec{
		Suite: "conformance",
		Feature: Feature{
			Name: "shared-loopback", Group: "reach",
			Doc: "Does a neighbour container reach a server that listens only on the loopback of the first?",
		},
		Name: "a container serves at its loopback address, and its neighbour asks that address by UDP and TCP",
		Run: func(ctx context.Context, b *Bench) (Observation, error) {
			first, second, ok := pair(b, firstHost(b), network(b))
			if !ok {
				return oneContainer(), nil
			}
			port, err := serve(ctx, b, first, loopback(f))
			if err != nil {
				return Observation{}, err
			}
			t, err := try(ctx, b, second, first, netip.AddrPortFrom(loopback(f), port), "udp", "tcp")
			return t.observation(), err
		},
		Sabotage: []Sabotage{
			{Mode: "bridge", Doc: "the second container enters the first one's namespace", Rewire: joined},
			{Mode: "container", Doc: "each container has a namespace of its own", Rewire: separated},
		},
	}
})

var _ = register(Spec{
	Suite:   "conformance",
	Feature: Feature{Name: "same-port", Group: "reach", Doc: "Can two containers of one host listen on the same port of the wildcard address?"},
	Name:    "two containers of one host listen on one port, by UDP and TCP of both families",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		first, second := container(b), companion(b)
		var refused []string
		var o Observation
		for _, proto := range []string{"udp", "tcp"} {
			for _, f := range []Family{IPv4, IPv6} {
				l, err := b.Listen(ctx, first, lab.Listen{Proto: proto, Addr: netip.AddrPortFrom(unspecified(f), 0)})
				if err == nil && l.Refusal.Errno != "" {
					err = fmt.Errorf("%s: the first listener: %s", first, l.Refusal.Text)
				}
				if err != nil {
					return Observation{}, err
				}
				at := netip.AddrPortFrom(unspecified(f), l.Port)
				again, err := b.Listen(ctx, second, lab.Listen{Proto: proto, Addr: at})
				if err != nil {
					return Observation{}, err
				}
				saw := "listens too"
				if again.Refusal.Errno != "" {
					saw = again.Refusal.Text
					refused = append(refused, again.Refusal.Errno)
				}
				o = o.with(first.String(), "%s %s: listens", proto, at).with(second.String(), "%s %s: %s", proto, at, saw)
			}
		}
		slices.Sort(refused)
		said := strings.Join(slices.Compact(refused), ", ")
		asked := fmt.Sprintf("%s and then %s were to listen on one port, by UDP and TCP of both families", first, second)
		switch {
		case len(refused) == 0:
			o.Status, o.Detail = works("").Status, asked+": each does"
		case said == "EADDRINUSE" && len(refused) == 4:
			o.Status, o.Detail = blocked("").Status, asked+": the second is refused every time with EADDRINUSE"
		default:
			o.Status, o.Detail = "mixed", fmt.Sprintf("%s: %d of 4 refused with %s", asked, len(refused), said)
		}
		return o, nil
	},
	Sabotage: []Sabotage{
		{Mode: "bridge", Doc: "the second container enters the first one's namespace", Rewire: joined},
		{Mode: "container", Doc: "each container has a namespace of its own", Rewire: separated},
	},
})

var _ = register(Spec{
	Suite:   "conformance",
	Feature: Feature{Name: "interface", Group: "reach", Doc: "Has the container an interface besides loopback?"},
	Name:    "a container's interfaces are listed",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		c := container(b)
		s, err := b.devices(ctx, c.Machine)
		if err != nil {
			return Observation{}, err
		}
		var up []string
		var o Observation
		for _, l := range s.Spaces[c.Container].Links {
			o = o.with(c.String(), "%s: kind %s, %s, %s", l.Name, l.Kind, strings.Join(l.Flags, ","), l.MAC)
			if l.Kind != "loopback" && l.Up {
				up = append(up, l.Name)
			}
		}
		if len(o.Evidence) == 0 {
			return Observation{}, fmt.Errorf("%s: no interface at all, not even a loopback", c)
		}
		seen := whether(len(up) > 0, "the interfaces of %s that are up, besides loopback: %s", c, orNone(up))
		seen.Evidence = o.Evidence
		return seen, nil
	},
	Sabotage: []Sabotage{
		{Mode: "bridge", Doc: "nothing is done after the namespace was made", Rewire: func(steps []topology.Step) []topology.Step { return steps[:1] }},
		{Mode: "none", Doc: "the container has a pair of devices", Rewire: func(steps []topology.Step) []topology.Step {
			return append(steps, topology.Step{On: steps[0].On, In: steps[0].Space.Name, Link: &topology.Link{
				Name: "a", Kind: "veth", PeerName: "b", PeerIn: steps[0].Space.Name, Up: true,
			}})
		}},
	},
})

var _ = register(Spec{
	Suite:   "conformance",
	Feature: Feature{Name: "own-stack", Group: "reach", Doc: "Is its network namespace neither the host's nor another container's?"},
	Name:    "the network namespaces of two containers and of their host are compared",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		first, second := container(b), companion(b)
		s, err := b.devices(ctx, first.Machine)
		if err != nil {
			return Observation{}, err
		}
		own, other, host := s.Spaces[first.Container].Inode, s.Spaces[second.Container].Inode, s.Spaces[""].Inode
		if own == 0 || other == 0 || host == 0 {
			return Observation{}, fmt.Errorf("%s: a namespace without an inode: %d, %d, %d", first.Machine, own, other, host)
		}
		whose := "its own"
		switch own {
		case host:
			whose = "its host's"
		case other:
			whose = "that of " + second.String()
		}
		return whether(own != host && own != other, "the network namespace of %s is %s", first, whose).
			with(first.String(), "net:[%d]", own).with(second.String(), "net:[%d]", other).with(first.Machine, "net:[%d]", host), nil
	},
	Sabotage: []Sabotage{
		{Mode: "bridge", Doc: "the second container enters the first one's namespace", Rewire: joined},
		{Mode: "none", Doc: "the containers enter the host's namespace", Rewire: func(steps []topology.Step) []topology.Step {
			return []topology.Step{{On: steps[0].On, Space: &topology.Space{Name: steps[0].Space.Name, Share: "host"}}}
		}},
		{Mode: "container", Doc: "each container has a namespace of its own", Rewire: separated},
	},
})

// taken tells whether a container of a host has an address.
func taken(b *Bench, host string, a netip.Addr) bool {
	for _, n := range b.plan.Networks {
		for _, c := range b.Containers(host, n.Name) {
			v4, v6 := b.addresses(c)
			if a == v4 || a == v6 {
				return true
			}
		}
	}
	return false
}

func orNone(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}

// Sabotages that several specs have in common.

// hostward are those of what a container asks its host.
func hostward(f Family) []Sabotage {
	return []Sabotage{
		{Mode: "bridge", Doc: "the host's packet filter drops what containers send to it", Steps: filtered("input", "iifname")},
		{Mode: "macvlan-bridge", Doc: "the host has a macvlan device of its own on the interface", Steps: shim(f, "macvlan", "bridge")},
		{Mode: "ipvlan-l2", Doc: "the host has an ipvlan device of its own on the interface", Steps: shim(f, "ipvlan", "l2")},
		{Mode: "ipvlan-l3", Doc: "the host's way to its own containers leads by the router", Steps: reachable},
	}
}

// cutAway are those of what a container asks other machines.
func cutAway(f Family) []Sabotage {
	return []Sabotage{
		{Mode: "bridge", Doc: "the host does not forward", Steps: forwardingOff(f)},
		{Mode: "ptp", Doc: "no rules masquerade", Steps: tableRemoved("ptp", "nat-")},
		{Mode: "macvlan-vepa", Doc: "the first host's port is out of the switch", Steps: unplugged},
		{Mode: "ipvlan-l3", Doc: "hosts announce nothing", Rewire: unannounced},
		{Mode: "direct-bgp", Doc: "hosts do not answer for the next hops", Rewire: hopless},
	}
}

// isolated keeps the first host's containers of the first network apart on their bridge.
func isolated(p *topology.Plan) []topology.Step {
	return hostEnds(p, topology.LinkSet{Isolated: "on"})
}

// hostEnds sets something of the host's ends of the pairs of the first host's containers of the first network.
func hostEnds(p *topology.Plan, set topology.LinkSet) (steps []topology.Step) {
	for _, c := range p.Hosts()[0].Containers {
		if c.Network == p.Networks[0].Name {
			own := set
			own.Name = c.Device
			steps = append(steps, topology.Step{On: c.Host, Set: &own})
		}
	}
	return steps
}

// unplugged takes the first host's first port out of the switch.
func unplugged(p *topology.Plan) []topology.Step {
	port := p.Hosts()[0].NICs[0].Peer
	return []topology.Step{{On: port.Machine, Set: &topology.LinkSet{Name: port.Interface, Master: "none"}}}
}

// reflective makes the switch send frames back by the port they came from.
func reflective(p *topology.Plan) []topology.Step {
	port := p.Hosts()[0].NICs[0].Peer
	return []topology.Step{{On: port.Machine, Set: &topology.LinkSet{Name: port.Interface, Hairpin: "on"}}}
}

func forwardingOff(f Family) func(*topology.Plan) []topology.Step {
	key := map[Family]string{IPv4: "net/ipv4/ip_forward", IPv6: "net/ipv6/conf/all/forwarding"}[f]
	return func(p *topology.Plan) []topology.Step {
		return []topology.Step{{On: p.Hosts()[0].Name, Sysctl: &topology.Sysctl{Key: key, Value: "0"}}}
	}
}

// deviceMode changes the mode of the macvlan devices of the first host's containers of the first network.
func deviceMode(mode string) func(*topology.Plan) []topology.Step {
	return func(p *topology.Plan) (steps []topology.Step) {
		for _, c := range p.Hosts()[0].Containers {
			if c.Network == p.Networks[0].Name {
				steps = append(steps, topology.Step{On: c.Host, In: c.Name, Set: &topology.LinkSet{Name: "eth0", Mode: mode}})
			}
		}
		return steps
	}
}

// tableRemoved removes a mode's packet filter tables whose names begin so from the first host.
func tableRemoved(mode, prefix string) func(*topology.Plan) []topology.Step {
	return func(p *topology.Plan) (steps []topology.Step) {
		m, _ := modes.Find(mode)
		for _, s := range m.Setup(p, p.Hosts()[0]) {
			if s.Table != nil && strings.HasPrefix(s.Table.Name, prefix) {
				s.Remove = true
				steps = append(steps, s)
			}
		}
		return steps
	}
}

// filtered drops, at a hook of the first host, what comes or goes by the first network's bridge; but no ICMP, of which
// IPv6 needs some.
func filtered(hook, by string) func(*topology.Plan) []topology.Step {
	return func(p *topology.Plan) []topology.Step {
		return []topology.Step{dropping(topology.Step{On: p.Hosts()[0].Name}, hook,
			topology.Match{Field: by, Value: p.Networks[0].Bridge},
			topology.Match{Field: "meta l4proto", Value: "icmp", Not: true},
			topology.Match{Field: "meta l4proto", Value: "ipv6-icmp", Not: true})}
	}
}

// dropping is a table, where a step says, that drops what matches at a hook.
func dropping(where topology.Step, hook string, matches ...topology.Match) topology.Step {
	where.Table = &topology.Table{Family: "inet", Name: "sabotage", Chains: []topology.Chain{{
		Name: hook, Type: "filter", Hook: hook,
		Rules: []topology.Rule{{Match: matches, Verdict: topology.Verdict{Kind: "drop"}}},
	}}}
	return where
}

// shimMAC is the same each time: containers remember it from one sabotage to the next.
var shimMAC = net.HardwareAddr{0x02, 0x5e, 0x10, 0, 0, 6}

// shim gives the first host a device beside those of its containers, and by it a way to the first of them.
func shim(f Family, kind, mode string) func(*topology.Plan) []topology.Step {
	return func(p *topology.Plan) []topology.Step {
		h := p.Hosts()[0]
		own, to := h.NICs[0].V4.Addr(), h.Containers[0].Segment4.Addr()
		if f == IPv6 {
			own, to = h.NICs[0].V6.Addr(), h.Containers[0].Segment6.Addr()
		}
		var mac net.HardwareAddr // an ipvlan device has its parent's
		if kind == "macvlan" {
			mac = shimMAC
		}
		return []topology.Step{
			{On: h.Name, Link: &topology.Link{Name: "shim", Kind: kind, MAC: mac, Parent: h.NICs[0].Name, ParentMode: mode, Up: true}},
			{On: h.Name, Addr: &topology.Addr{Link: "shim", Prefix: netip.PrefixFrom(own, own.BitLen()), NoDAD: f == IPv6}},
			{On: h.Name, Route: &topology.Route{Dst: netip.PrefixFrom(to, to.BitLen()), Link: "shim"}},
		}
	}
}

// unannounced leaves out of attaching a container that its host tells the router.
func unannounced(steps []topology.Step) []topology.Step {
	return slices.DeleteFunc(slices.Clone(steps), func(s topology.Step) bool { return s.Announce != nil })
}

// unrouted leaves out a host's routes to the container that is attached.
func unrouted(steps []topology.Step) []topology.Step {
	return slices.DeleteFunc(slices.Clone(steps), func(s topology.Step) bool { return s.In == "" && s.Route != nil })
}

// hopless has hosts answer for no address but their own, and gives their devices the MAC addresses that the kernel chooses, and
// so link-local addresses that nobody knows.
func hopless(steps []topology.Step) []topology.Step {
	steps = slices.DeleteFunc(slices.Clone(steps), func(s topology.Step) bool {
		return s.Sysctl != nil && strings.HasSuffix(s.Sysctl.Key, "/proxy_arp")
	})
	for i, s := range steps {
		if s.Link != nil {
			link := *s.Link
			link.MAC = nil
			steps[i].Link = &link
		}
	}
	return steps
}

// reachable lets the first host send to its own containers by the router, which sends it back to them.
func reachable(p *topology.Plan) (steps []topology.Step) {
	h := p.Hosts()[0]
	for _, n := range p.Networks {
		v4, v6 := p.Slice(h.Name, n.Name)
		for _, own := range []netip.Prefix{v4, v6} {
			steps = append(steps, topology.Step{On: h.Name, Remove: true, Route: &topology.Route{Type: "unreachable", Dst: own}})
		}
	}
	return steps
}

// outOfVLAN takes the switch's port of a host out of the first network's VLAN.
func outOfVLAN(host int) func(*topology.Plan) []topology.Step {
	return func(p *topology.Plan) []topology.Step {
		h := p.Hosts()[host]
		port := h.NICs[0].Peer
		return []topology.Step{{On: port.Machine, Remove: true, VLAN: &topology.VLAN{Link: port.Interface, VID: h.NIC(p.Networks[0].NIC).VLAN}}}
	}
}

// joined makes the second container of a host enter the namespace of the first.
func joined(steps []topology.Step) []topology.Step {
	if steps[0].Space.Name != "c2" {
		return steps
	}
	return []topology.Step{{On: steps[0].On, Space: &topology.Space{Name: "c2", Share: "c1"}}}
}

// separated gives a container that would share a namespace one of its own.
func separated(steps []topology.Step) []topology.Step {
	if steps[0].Space.Share == "" {
		return steps
	}
	return []topology.Step{{On: steps[0].On, Space: &topology.Space{Name: steps[0].Space.Name}}}
}
