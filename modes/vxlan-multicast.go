package modes

import (
	"net/netip"

	"github.com/modebench/modebench/topology"
)

var _ = register(210, overlay(Mode{
	Name: "vxlan-multicast",
	Doc: "Each network is one segment across all hosts, in VXLAN, and containers have one subnet wherever they are. What is for all, or " +
		"for a station not yet seen, is sent once to a multicast group of the network, which its hosts have joined; who is where is learned " +
		"from the frames that come. A second device of each container leads to the outside, masqueraded.",
	GoodFor: "Containers of many hosts that are to be neighbours with addresses of their own: a host that comes or goes is told to nobody, and " +
		"a broadcast crosses the network once.",
	BadFor: "Networks without multicast between hosts, which are most routed ones and all clouds. And the last bit of throughput and of " +
		"packet size.",
}, func(p *topology.Plan, host *topology.Machine, n topology.PlannedNetwork, device *topology.Link) []topology.Step {
	device.Learning, device.Parent, device.Group = true, nic(p, host, n.Name).Name, vxlanGroup(device.VNI)
	return nil
}))

// vxlanGroup is the group of a VNI: one of those that are for local use (239.0.0.0/8, RFC 2365), with the VNI in its 24 other bits.
func vxlanGroup(vni int) netip.Addr {
	return netip.AddrFrom4([4]byte{239, byte(vni >> 16), byte(vni >> 8), byte(vni)})
}
