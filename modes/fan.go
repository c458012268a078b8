package modes

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/modebench/modebench/topology"
)

var _ = register(410, fan(Mode{
	Name: "fan",
	Doc: "Each host has a block of container addresses that follows from its own address (Ubuntu's Fan): where a container " +
		"is, its address says, and hosts tell each other nothing. A bridge joins the containers of a host, and what is " +
		"for other hosts' goes to them in VXLAN. The kernels that Ubuntu ships map addresses in the tunnel's device; others " +
		"cannot, and here one route for each host, to where the mapping says, stands in for it.",
	GoodFor: "Clouds and networks that give a host one address and route no more to it: some 250 containers on each reach " +
		"each other by their own addresses, without a database, a routing protocol or a daemon.",
	BadFor: "IPv6, containers that keep their address when they move, more of them than a block holds, broadcast and multicast " +
		"between hosts, and networks whose security rules stop UDP between hosts.",
	Needs: []Kernel{VXLAN},
}, tunnel{
	// An outer IPv4 and UDP header, that of VXLAN, and the inner frame's (RFC 7348 section 5).
	overhead: 20 + 8 + 8 + 14,
	device: func(n topology.PlannedNetwork, i int, up *topology.Interface) topology.Link {
		overlay := n.Fan.Overlay.Addr().As4()
		return topology.Link{
			Kind: "vxlan", Name: fmt.Sprintf("ftun%d", i), MAC: besides(up, farEnd+i),
			VNI: int(overlay[0])<<16 | int(overlay[1])<<8 | int(overlay[2]), Port: 8472, // as Ubuntu's tools choose them
		}
	},
	way: func(device string, i int, route topology.Route, gateway netip.Addr, peer *topology.Interface) []topology.Step {
		mac := besides(peer, farEnd+i)
		route.Via = gateway
		return []topology.Step{
			{Neigh: &topology.Neigh{Link: device, MAC: mac, IP: peer.V4.Addr(), FDB: true}},
			{Neigh: &topology.Neigh{Link: device, MAC: mac, IP: gateway}},
			{Route: &route},
		}
	},
}))

var _ = register(411, fan(Mode{
	Name: "fan-ipip",
	Doc: "The mode fan with the tunnel that it was made for: what is for other hosts' containers goes to them as IP in IP, " +
		"20 bytes longer, without a frame of its own. One route for each host, to where the mapping says, stands in for the " +
		"mapping in the tunnel's device that kernels other than Ubuntu's do not have.",
	GoodFor: "What fan is good for, with 30 bytes more for each packet, where the network lets IP protocol 4 through.",
	BadFor: "What fan is bad for, networks whose security rules know TCP and UDP alone, and network cards that spread load over " +
		"processors by ports, of which these packets have none outside.",
	Needs: []Kernel{IPIP},
}, tunnel{
	overhead: 20, // an outer IPv4 header (RFC 2003 section 3.1)
	shared:   true,
	device: func(_ topology.PlannedNetwork, i int, _ *topology.Interface) topology.Link {
		return topology.Link{Kind: "ipip", Name: fmt.Sprintf("ftun%d", i)}
	},
	way: func(_ string, _ int, route topology.Route, _ netip.Addr, peer *topology.Interface) []topology.Step {
		route.Via = peer.V4.Addr()
		return []topology.Step{{Route: &route}}
	},
}))

// farEnd numbers the MAC addresses of tunnels' devices.
const farEnd = 0xfe00

// tunnel is what takes packets from host to host.
type tunnel struct {
	overhead int  // bytes that it adds to a packet
	shared   bool // networks with one interface have one device: it is known by its own address alone
	// device is that of a network, the one with the number i, on an interface of the host.
	device func(n topology.PlannedNetwork, i int, up *topology.Interface) topology.Link
	// way leads a route to a host's block, without a next hop yet, by the device. gateway is that host's in its block.
	way func(device string, i int, route topology.Route, gateway netip.Addr, peer *topology.Interface) []topology.Step
}

// fan is a mode of Fan networking with a kind of tunnel.
func fan(m Mode, t tunnel) Mode {
	m.Needs = append(m.Needs, Veth, Bridge, NFTNAT)
	m.Admit = func(p *topology.Plan, host *topology.Machine, c topology.Container) error {
		_, err := p.Network(c.Network).Fan.Container(nic(p, host, c.Network).V4.Addr(), c.Number)
		return err
	}
	m.Setup = func(p *topology.Plan, host *topology.Machine) []topology.Step {
		s := steps{on: host.Name}
		s.host(forwarding4()...)
		for i, n := range p.Networks {
			up := nic(p, host, n.Name)
			mtu := up.MTU - t.overhead
			gateway := fanGateway(n, up)
			number := i
			if t.shared {
				number = slices.IndexFunc(p.Networks, func(o topology.PlannedNetwork) bool { return o.NIC == n.NIC })
			}
			device := t.device(n, number, up)
			device.Local, device.MTU, device.Up = up.V4.Addr(), mtu, true
			s.host(
				topology.Step{Link: &topology.Link{Name: fanBridge(n), Kind: "bridge", MAC: besides(up, 0xfd00+i), MTU: mtu}},
				topology.Step{Addr: &topology.Addr{Link: fanBridge(n), Prefix: gateway}},
				topology.Step{Set: &topology.LinkSet{Name: fanBridge(n), State: "up"}},
			)
			if number == i {
				s.host(topology.Step{Link: &device})
			}
			// Of the overlay nothing goes anywhere else: an address that is no host's leads nowhere.
			s.host(topology.Step{Route: &topology.Route{Type: "unreachable", Dst: n.Fan.Overlay}})
			for _, peer := range p.Hosts() {
				if peer.Name == host.Name {
					continue
				}
				far := nic(p, peer, n.Name)
				to := fanGateway(n, far)
				s.host(t.way(device.Name, i, topology.Route{Dst: to.Masked(), Link: device.Name, Src: gateway.Addr(), OnLink: true}, to.Addr(), far)...)
			}
			s.host(topology.Step{Table: translation(n.Name, n.Fan.Overlay)})
		}
		return s.all
	}
	m.Attach = func(p *topology.Plan, host *topology.Machine, c topology.Container) []topology.Step {
		n, up := p.Network(c.Network), nic(p, host, c.Network)
		gateway := fanGateway(*n, up).Addr()
		s := steps{on: host.Name}
		s.own(c)
		s.pair(c, fanBridge(*n), up.MTU-t.overhead)
		s.join(c, c.Device, eth0, c.MAC, fanAddrs(p, host, c)...)
		s.in(c.Name, topology.Step{Route: &topology.Route{Dst: everywhere(gateway), Via: gateway, Link: eth0}})
		return s.all
	}
	m.Publish = func(p *topology.Plan, host *topology.Machine, c topology.Container, port Port) []topology.Step {
		return portMap(host, port, fanAddrs(p, host, c)[0].Addr())
	}
	m.Policy, m.Rate = byDevices("bridge", ownDevice), ratedAt(ownDevice)
	m.Addrs, m.Device = fanAddrs, eth0
	return m
}

// fanBridge is the name that fanctl(8) gives a bridge: by the first octet of its overlay.
func fanBridge(n topology.PlannedNetwork) string {
	return fmt.Sprintf("fan-%d", n.Fan.Overlay.Addr().As4()[0])
}

// fanGateway is a host's own address in its block.
func fanGateway(n topology.PlannedNetwork, up *topology.Interface) netip.Prefix {
	gateway, _ := n.Fan.Gateway(up.V4.Addr()) // Admit has told why there is none
	return gateway
}

// fanAddrs is the one that the host's address and the container's number make.
func fanAddrs(p *topology.Plan, host *topology.Machine, c topology.Container) []netip.Prefix {
	a, _ := p.Network(c.Network).Fan.Container(nic(p, host, c.Network).V4.Addr(), c.Number) // Admit has told why there is none
	return []netip.Prefix{a}
}
