package modes

import (
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/modebench/modebench/topology"
)

// outside is the container's device on the network by which it reaches what is not in the overlay.
const outside = "eth1"

// vxlanPort is the one that is assigned (RFC 7348 section 5).
const vxlanPort = 4789

// vxlanOverhead is what an outer IPv4 and UDP header, that of VXLAN, and the inner frame's add to a packet (RFC 7348 section 5).
const vxlanOverhead = 20 + 8 + 8 + 14

// vni is the number of a network at a place among all: the first ones are left to others, as libnetwork does
// (drivers/overlay/overlay.go, vxlanIDStart).
func vni(i int) int { return 4097 + i }

// overlayBridge and overlayTunnel are the devices of a network on each host: the segment that spans hosts, and its way out.
func overlayBridge(network string) string { return "ov-" + network }
func overlayTunnel(network string) string { return "vx-" + network }

// overlay is a mode in which each network is one layer-2 segment across hosts, in VXLAN, of which the hosts themselves have no
// address. Each container has a second device on a bridge of its host, by which it reaches everything else, masqueraded, and
// by which published ports lead to it: what libnetwork calls docker_gwbridge. There containers do not reach each other.
//
// tunnel completes the device of a network and gives the steps that follow it.
func overlay(m Mode, tunnel func(p *topology.Plan, host *topology.Machine, n topology.PlannedNetwork, device *topology.Link) []topology.Step) Mode {
	m.Needs = append(m.Needs, Veth, Bridge, NFTNAT, VXLAN)
	m.Admit = func(p *topology.Plan, _ *topology.Machine, c topology.Container) error {
		if v4, _ := p.Overlay(c); !v4.IsValid() {
			return fmt.Errorf("no address in the block of the overlay for %s of its segment", c.Segment4)
		}
		return nil
	}
	m.Setup = func(p *topology.Plan, host *topology.Machine) []topology.Step {
		s := steps{on: host.Name, all: bridgeSetup(p, host)}
		for i, n := range p.Networks {
			up := nic(p, host, n.Name)
			mtu := up.MTU - vxlanOverhead
			bridge := overlayBridge(n.Name)
			device := topology.Link{
				Name: overlayTunnel(n.Name), Kind: "vxlan", MAC: besides(up, farEnd+i), MTU: mtu, Master: bridge,
				Local: up.V4.Addr(), VNI: vni(i), Port: vxlanPort,
			}
			after := tunnel(p, host, n, &device)
			s.host(
				topology.Step{Link: &topology.Link{Name: bridge, Kind: "bridge", MAC: besides(up, 0xfd00+i), MTU: mtu, NoSnooping: true}},
				// The host is no station of the segment, not even by a link-local address.
				sysctl("net/ipv6/conf/"+bridge+"/disable_ipv6", "1"),
				topology.Step{Set: &topology.LinkSet{Name: bridge, State: "up"}},
				topology.Step{Link: &device},
				// Nor does the tunnel's device give itself one (IN6_ADDR_GEN_MODE_NONE), while it may know neighbours.
				sysctl("net/ipv6/conf/"+device.Name+"/addr_gen_mode", "1"),
				topology.Step{Set: &topology.LinkSet{Name: device.Name, State: "up"}},
			)
			s.host(after...)
		}
		return s.all
	}
	m.Attach = func(p *topology.Plan, host *topology.Machine, c topology.Container) []topology.Step {
		n, mtu := p.Network(c.Network), nic(p, host, c.Network).MTU
		gate := exitDevice(c)
		s := steps{on: host.Name}
		s.own(c)
		s.pair(c, overlayBridge(n.Name), mtu-vxlanOverhead)
		s.host(
			topology.Step{Link: &topology.Link{
				Name: gate, Kind: "veth", MTU: mtu, Master: n.Bridge, Up: true,
				PeerName: outside, PeerIn: c.Name, PeerMAC: exitMAC(c), PeerMTU: mtu,
			}},
			topology.Step{Set: &topology.LinkSet{Name: gate, Isolated: "on"}},
		)
		s.join(c, c.Device, eth0, c.MAC, overlayAddrs(p, host, c)...)
		s.join(c, gate, outside, exitMAC(c), c.Private4, c.Private6)
		for _, gateway := range []netip.Addr{n.Gateway4, n.Gateway6} {
			s.in(c.Name, topology.Step{Route: &topology.Route{Dst: everywhere(gateway), Via: gateway, Link: outside}})
		}
		return s.all
	}
	m.Policy, m.Rate = byDevices("bridge", bothDevices), ratedAt(bothDevices)
	m.Publish, m.Addrs, m.Device, m.Exit = publish, overlayAddrs, eth0, outside
	return m
}

// exitDevice is the host's end of a container's second pair.
func exitDevice(c topology.Container) string { return "gate-" + c.Name }

// bothDevices are the host's ends of a container's pairs.
func bothDevices(_ *topology.Machine, c topology.Container) []string {
	return []string{c.Device, exitDevice(c)}
}

// exitMAC is that of a container's second device: the plan's for the first, with a role that no machine has.
func exitMAC(c topology.Container) net.HardwareAddr {
	mac := slices.Clone(c.MAC)
	mac[1] = 4
	return mac
}

// overlayAddrs are those that a container has wherever it is.
func overlayAddrs(p *topology.Plan, _ *topology.Machine, c topology.Container) []netip.Prefix {
	v4, v6 := p.Overlay(c)
	return []netip.Prefix{v4, v6}
}

// overlayAddrs4 are those of IPv4 alone.
func overlayAddrs4(p *topology.Plan, host *topology.Machine, c topology.Container) []netip.Prefix {
	return overlayAddrs(p, host, c)[:1]
}

// everybody is the MAC address of a VXLAN device's entries for frames that no other entry is for (bridge(8), all-zero default
// destination).
var everybody = make(net.HardwareAddr, 6)
