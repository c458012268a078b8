package modes

import (
	"net/netip"
	"slices"
	"time"

	"github.com/modebench/modebench/topology"
)

// speaks prepares a host that tells the routers above it, over each link, which addresses it has.
func speaks(p *topology.Plan, host *topology.Machine) []topology.Step {
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

// announce tells the routers where a container is: its host's whole block at home, and elsewhere its addresses alone, which
// routers prefer, once the host's device that leads to it can be used, if there is one. It comes last, so that it is withdrawn first.
func (s *steps) announce(p *topology.Plan, host *topology.Machine, c topology.Container, device string) {
	own := hostAddrs(p, host, c)
	if c.Host == host.Name {
		own[0], own[1] = p.Slice(host.Name, c.Network)
		device = ""
	}
	for _, prefix := range own {
		s.host(topology.Step{Announce: &topology.Announcement{Prefix: prefix, Link: device}})
	}
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
