package modes

import "github.com/modebench/modebench/topology"

// ipvlan is what the modes of the kernel's driver have in common: a device on the host's interface, in the container, with
// the interface's MAC address. The mode is the parent's: all devices on it are of one.
func ipvlan(s *steps, p *topology.Plan, host *topology.Machine, c topology.Container, parentMode string) {
	s.own(c)
	s.in(c.Name, topology.Step{Link: &topology.Link{
		Name: eth0, Kind: "ipvlan", Parent: nic(p, host, c.Network).Name, ParentMode: parentMode,
	}})
}

// switched is IPvlan's mode l2: each container is a station on the segment, and resolves and announces addresses itself.
func switched(m Mode) Mode {
	m.Needs = append(m.Needs, IPVLAN)
	m.Attach = func(p *topology.Plan, host *topology.Machine, c topology.Container) []topology.Step {
		s := steps{on: host.Name}
		ipvlan(&s, p, host, c, "l2")
		s.in(c.Name, briefDAD())
		s.start(c, eth0, c.Segment4, c.Segment6)
		return s.all
	}
	m.Policy, m.Rate = onParent(segmentAddrs), ratedWithin(eth0)
	m.Addrs = segmentAddrs
	m.Device = eth0
	m.CNI = stationed("ipvlan", "l2")
	m.Docker = dockerOn("ipvlan", "l2")
	return m
}

// routed is IPvlan's modes l3 and l3s: containers have no layer 2, and what they send leaves by the host's routes, but out
// of their parent alone (flowi4_oif in ipvlan_process_v4_outbound()). The host tells the router above it which addresses it
// has.
func routed(m Mode, parentMode string) Mode {
	m.Fabric = topology.Routed
	m.Needs = append(m.Needs, IPVLAN)
	m.Setup = speaks
	m.Attach = func(p *topology.Plan, host *topology.Machine, c topology.Container) []topology.Step {
		s := steps{on: host.Name}
		ipvlan(&s, p, host, c, parentMode)
		own := hostAddrs(p, host, c)
		s.start(c, eth0, own...)
		for _, a := range own {
			// Without a gateway: the device asks nobody for a link-layer address (IFF_NOARP).
			s.in(c.Name, topology.Step{Route: &topology.Route{Dst: everywhere(a.Addr()), Link: eth0}})
		}
		s.announce(p, host, c, "")
		return s.all
	}
	m.Rate = ratedWithin(eth0)
	m.Addrs = hostAddrs
	m.Device = eth0
	m.CNI = &Plugged{
		Setup: speaks, Policy: m.Policy,
		Chain: func(p *topology.Plan, host *topology.Machine, n topology.PlannedNetwork) []Plugin {
			everything := []any{map[string]string{"dst": "0.0.0.0/0"}, map[string]string{"dst": "::/0"}}
			return []Plugin{onto(p, host, n, "ipvlan", parentMode, map[string]bool{"ips": true}, everything...)}
		},
		Beside: announced,
	}
	if parentMode == "l3" { // engines have l3s since their version 23 (moby drivers/ipvlan: support l3s ipvlan_mode)
		m.Docker = dockerRouted(parentMode, m.Policy)
	}
	return m
}

// announced has the host tell the routers of a container.
func announced(p *topology.Plan, host *topology.Machine, c topology.Container) []topology.Step {
	s := steps{on: host.Name}
	s.announce(p, host, c, "")
	return s.all
}
