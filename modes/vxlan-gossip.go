package modes

import (
	"net/netip"

	"github.com/modebench/modebench/topology"
)

var _ = register(220, clustered(overlay(Mode{
	Name: "vxlan-gossip",
	Doc: "Each network is one segment across all hosts, in VXLAN, and containers have one subnet wherever they are. Hosts tell each other " +
		"by gossip which containers they have, and write it into the tables of their tunnels: frames go to the right host from the first one on, " +
		"and questions for MAC addresses are answered where they are asked. A second device of each container leads to the outside, masqueraded.",
	GoodFor: "Containers of hosts that come and go, over any network that carries UDP and TCP between the hosts: nothing is flooded, and no " +
		"database is needed.",
	BadFor: "Protocols that need broadcast or multicast between hosts, stations with addresses that nobody announced, and the " +
		"moment until all have heard of a change. And the last bit of throughput and of packet size.",
	Docker: &Engined{Swarm: true, Network: dockerOverlay, Addrs: overlayAddrs4, Rate: ratedWithin(eth0, outside)},
}, proxying), false))

// gossipPort is what members listen on, as libnetwork's do.
const gossipPort = 7946

// proxying has a tunnel answer questions for MAC addresses itself.
func proxying(_ *topology.Plan, _ *topology.Machine, _ topology.PlannedNetwork, device *topology.Link) []topology.Step {
	device.Proxy = true
	return nil
}

// clustered is an overlay whose hosts tell each other of their containers: by gossip, or through a store (storeAt).
func clustered(m Mode, stored bool) Mode {
	setup, attach := m.Setup, m.Attach
	store := func(p *topology.Plan) (machine string, at netip.AddrPort) {
		if !stored {
			return "", at
		}
		machine, addr := storeAt(p)
		return machine, netip.AddrPortFrom(addr, etcdPort)
	}
	m.Setup = func(p *topology.Plan, host *topology.Machine) []topology.Step {
		own := func(h *topology.Machine) netip.Addr { return nic(p, h, p.Networks[0].Name).V4.Addr() }
		g := topology.Gossip{Name: host.Name, Addr: own(host)}
		s := steps{on: host.Name}
		machine, at := store(p)
		switch {
		case !stored:
			g.Port = gossipPort
			for _, peer := range p.Hosts() {
				if peer.Name != host.Name {
					g.Join = append(g.Join, own(peer))
				}
			}
		case host.Name == p.Hosts()[0].Name:
			s.all = append(s.all, topology.Step{On: machine, Program: etcd(at.Addr(), "{}")})
		}
		g.Store = at
		for i, n := range p.Networks {
			g.Tunnels = append(g.Tunnels, topology.Tunnel{VNI: vni(i), Link: overlayTunnel(n.Name)})
		}
		s.all = append(s.all, setup(p, host)...)
		s.host(topology.Step{Gossip: &g})
		return s.all
	}
	m.Attach = func(p *topology.Plan, host *topology.Machine, c topology.Container) []topology.Step {
		e := topology.Endpoint{MAC: c.MAC, VTEP: nic(p, host, c.Network).V4.Addr()}
		_, e.Store = store(p)
		for i, n := range p.Networks {
			if n.Name == c.Network {
				e.VNI = vni(i)
			}
		}
		for _, a := range overlayAddrs(p, host, c) {
			e.IPs = append(e.IPs, a.Addr())
		}
		s := steps{on: host.Name, all: attach(p, host, c)}
		s.host(topology.Step{Endpoint: &e})
		return s.all
	}
	return m
}
