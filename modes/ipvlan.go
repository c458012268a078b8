package modes

import (
	"net/netip"
	"slices"
	"time"

	"github.com/modebench/modebench/topology"
)

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
		s.start(c, c.Segment4, c.Segment6)
		return s.all
	}
	m.Addrs = segmentAddrs
	m.Device = eth0
	return m
}

// routed is IPvlan's modes l3 and l3s: containers have no layer 2, and what they send leaves by the host's routes, but out
// of their parent alone (flowi4_oif in ipvlan_process_v4_outbound()). The host tells the router above it which addresses it
// has.
func routed(m Mode, parentMode string) Mode {
	m.Fabric = topology.Routed
	m.Needs = append(m.Needs, IPVLAN)
	m.Setup = func(p *topology.Plan, host *topology.Machine) []topology.Step {
		s := steps{on: host.Name}
		bgp := topology.BGP{AS: host.AS, ID: host.NICs[0].V4.Addr(), Hold: hold, Restart: restart}
		var known []string
		for _, n := range p.Networks {
			up := nic(p, host, n.Name)
			if slices.Contains(known, up.Name) {
				continue
			}
			known = append(known, up.Name)
			tor := p.Machine(up.Peer.Machine)
			port := tor.NIC(up.Peer.Interface)
			// What the host announces and no container has ends here, or the way to it would lead back to the router.
			v4, v6 := p.Slice(host.Name, n.Name)
			for _, slice := range []netip.Prefix{v4, v6} {
				s.host(topology.Step{Route: &topology.Route{Type: "unreachable", Dst: slice}})
			}
			bgp.Peers = append(bgp.Peers, topology.Peer{
				Addr: port.V4.Addr(), AS: tor.AS, Local: up.V4.Addr(), Local6: up.V6.Addr(),
			})
		}
		s.host(topology.Step{BGP: &bgp})
		return s.all
	}
	m.Attach = func(p *topology.Plan, host *topology.Machine, c topology.Container) []topology.Step {
		s := steps{on: host.Name}
		ipvlan(&s, p, host, c, parentMode)
		own := hostAddrs(p, host, c)
		s.start(c, own...)
		for _, a := range own {
			// Without a gateway: the device asks nobody for a link-layer address (IFF_NOARP).
			s.in(c.Name, topology.Step{Route: &topology.Route{Dst: everywhere(a.Addr()), Link: eth0}})
		}
		if c.Host == host.Name {
			own[0], own[1] = p.Slice(host.Name, c.Network)
		}
		for _, prefix := range own { // last, so that it is withdrawn first
			s.host(topology.Step{Announce: &topology.Announcement{Prefix: prefix}})
		}
		return s.all
	}
	m.Addrs = hostAddrs
	m.Device = eth0
	return m
}

const (
	// hold is the time after which a silent neighbour is given up, of three keepalives (RFC 4271 section 10 proposes 90 s).
	hold = 9 * time.Second
	// restart is how long routes of a speaker that starts again are kept (RFC 4724).
	restart = 30 * time.Second
)

// hostAddrs are those on the segment, each alone: no neighbour is on the container's link.
func hostAddrs(_ *topology.Plan, _ *topology.Machine, c topology.Container) []netip.Prefix {
	return []netip.Prefix{alone(c.Segment4.Addr()), alone(c.Segment6.Addr())}
}
