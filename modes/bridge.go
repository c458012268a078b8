package modes

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/modebench/modebench/topology"
)

var _ = register(40, Mode{
	Name: "bridge",
	Doc: "Each network is a bridge on the host, and a veth pair joins each container to it. Private addresses leave " +
		"masqueraded as the host's, and come in by published ports only.",
	GoodFor: "Many containers on one host, with addresses of no concern to anyone else: a port each as often as they " +
		"like, nothing asked of the network outside.",
	BadFor: "Containers on several hosts that talk to each other, protocols that carry addresses or many ports, servers of " +
		"multicast, and the last bit of throughput or latency.",
	Needs:   []Kernel{Veth, Bridge, NFTNAT},
	Setup:   bridgeSetup,
	Attach:  bridgeAttach,
	Publish: publish,
	Policy:  byDevices("bridge", ownDevice),
	Rate:    ratedAt(ownDevice),
	Addrs:   privateAddrs,
	Device:  eth0,
	CNI: &Plugged{
		Chain: func(p *topology.Plan, host *topology.Machine, n topology.PlannedNetwork) []Plugin {
			return translated(p, host, n, Plugin{
				"type": "bridge", "bridge": cniBridge(p, n.Name), "isGateway": true,
				"capabilities": map[string]bool{"ips": true, "mac": true},
			})
		},
		Publish: portmap, Rate: bandwidth,
		Policy: byAddresses("bridge", privateAddrs),
	},
	Docker: &Engined{Network: dockerBridge, Policy: byAddresses("bridge", privateAddrs), Rate: ratedWithin(eth0)},
})

// bridgeSetup makes the bridge of each network, with the gateway's addresses, and the rules around it.
func bridgeSetup(p *topology.Plan, host *topology.Machine) []topology.Step {
	s := steps{on: host.Name}
	s.host(forwarding()...)
	for i, n := range p.Networks {
		up := nic(p, host, n.Name)
		s.host(
			topology.Step{Link: &topology.Link{Name: n.Bridge, Kind: "bridge", MAC: besides(up, 0xff00+i), MTU: up.MTU}},
			topology.Step{Addr: &topology.Addr{Link: n.Bridge, Prefix: netip.PrefixFrom(n.Gateway4, n.V4.Bits())}},
			topology.Step{Addr: &topology.Addr{Link: n.Bridge, Prefix: netip.PrefixFrom(n.Gateway6, n.V6.Bits()), NoDAD: true}},
			topology.Step{Set: &topology.LinkSet{Name: n.Bridge, State: "up"}},
			topology.Step{Table: masquerade(n)},
			topology.Step{Table: guard(p, host, n, byBridge)},
		)
	}
	return s.all
}

// byBridge knows a network by its bridge, whatever addresses a container makes up.
func byBridge(n topology.PlannedNetwork, f family) (from, to []topology.Match) {
	of := topology.Match{Field: "meta nfproto", Value: f.name}
	return []topology.Match{of, {Field: "iifname", Value: n.Bridge}}, []topology.Match{of, {Field: "oifname", Value: n.Bridge}}
}

func bridgeAttach(p *topology.Plan, host *topology.Machine, c topology.Container) []topology.Step {
	n := p.Network(c.Network)
	s := steps{on: host.Name}
	s.own(c)
	s.veth(p, host, c, n.Bridge)
	s.join(c, c.Device, eth0, c.MAC, c.Private4, c.Private6)
	for _, gateway := range []netip.Addr{n.Gateway4, n.Gateway6} {
		s.in(c.Name, topology.Step{Route: &topology.Route{Dst: everywhere(gateway), Via: gateway, Link: eth0}})
	}
	return s.all
}

// cniBridge is the plugin's bridge of a network: it makes it when the first container comes, and leaves it there.
func cniBridge(p *topology.Plan, network string) string {
	return fmt.Sprintf("cni-br%d", slices.IndexFunc(p.Networks, func(n topology.PlannedNetwork) bool { return n.Name == network }))
}

// besides is a MAC address that a device of the host gets for itself: that of an interface with another number. A bridge
// without one of its own would take its ports' lowest one and change it as they come and go.
func besides(up *topology.Interface, number int) net.HardwareAddr {
	mac := slices.Clone(up.MAC)
	binary.BigEndian.PutUint16(mac[4:], uint16(number))
	return mac
}

// veth is a pair with the MTU of the network's interface.
func (s *steps) veth(p *topology.Plan, host *topology.Machine, c topology.Container, master string) {
	s.pair(c, master, nic(p, host, c.Network).MTU)
}

// pair adds a pair of devices: one in the container, numbered by whoever numbers the network and hence without duplicate
// address detection, the other on the host, a port of a bridge unless master is empty.
func (s *steps) pair(c topology.Container, master string, mtu int) {
	s.in(c.Name, sysctl("net/ipv6/conf/default/accept_dad", "0"))
	s.host(topology.Step{Link: &topology.Link{
		Name: c.Device, Kind: "veth", MTU: mtu, Master: master, Up: true,
		PeerName: eth0, PeerIn: c.Name, PeerMAC: c.MAC, PeerMTU: mtu,
	}})
}
