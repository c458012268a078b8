package modes

import (
	"net"
	"net/netip"

	"github.com/modebench/modebench/topology"
)

// steps are gathered for one host, in the order in which they are carried out.
type steps struct {
	on  string
	all []topology.Step
}

// host adds steps in the host's own namespace.
func (s *steps) host(more ...topology.Step) { s.in("", more...) }

// in adds steps in a container's namespace.
func (s *steps) in(container string, more ...topology.Step) {
	for _, step := range more {
		step.On, step.In = s.on, container
		s.all = append(s.all, step)
	}
}

// own adds a namespace of the container's own, which announces the addresses of its devices when they come up.
func (s *steps) own(c topology.Container) {
	s.host(topology.Step{Space: &topology.Space{Name: c.Name, Defaults: true}})
	s.in(c.Name,
		// Of the devices that are made later: without it their peers learn of a new holder only when an entry times out.
		sysctl("net/ipv4/conf/default/arp_notify", "1"),
		sysctl("net/ipv6/conf/default/ndisc_notify", "1"),
	)
}

// enter adds the namespace of another container of the host, or of the host itself ("host").
func (s *steps) enter(c topology.Container, whose string) {
	s.host(topology.Step{Space: &topology.Space{Name: c.Name, Share: whose}})
}

// start numbers a container's device and brings it up. An IPv4 address that a device has when it comes up is announced by
// gratuitous ARP, one that it gets later is not. An IPv6 address is announced in either order (addrconf_dad_completed); one
// that is there first can get lost: for its route the kernel may not wait for memory then, and drops the address where at
// once it finds none (addrconf_permanent_addr).
func (s *steps) start(c topology.Container, device string, addrs ...netip.Prefix) {
	s.number(c, device, true, addrs)
	s.in(c.Name, topology.Step{Set: &topology.LinkSet{Name: device, State: "up"}})
	s.number(c, device, false, addrs)
}

// join is start for a device that makes the host's end of its pair a port of a bridge with a carrier. The bridge forwards by it a moment after that, and what the
// kernel announces at once reaches nobody: neighbours keep the entry of who had the address before. A MAC address that is set, though to what
// it is, has the kernel announce again (NETDEV_CHANGEADDR in inetdev_event() of net/ipv4/devinet.c).
func (s *steps) join(c topology.Container, port, device string, mac net.HardwareAddr, addrs ...netip.Prefix) {
	s.number(c, device, true, addrs)
	s.in(c.Name, topology.Step{Set: &topology.LinkSet{Name: device, State: "up"}})
	s.host(topology.Step{Await: &topology.Await{Port: port}})
	s.in(c.Name, topology.Step{Set: &topology.LinkSet{Name: device, MAC: mac}})
	s.number(c, device, false, addrs)
}

// number gives a container's device those addresses that are of a family.
func (s *steps) number(c topology.Container, device string, four bool, addrs []netip.Prefix) {
	for _, a := range addrs {
		if a.Addr().Is4() == four {
			s.in(c.Name, topology.Step{Addr: &topology.Addr{Link: device, Prefix: a}})
		}
	}
}

// eth0 is the name of every device that a mode makes in a container.
const eth0 = "eth0"

func sysctl(key, value string) topology.Step {
	return topology.Step{Sysctl: &topology.Sysctl{Key: key, Value: value}}
}

// briefDAD is how long duplicate address detection on a container's device waits for an objection (RetransTimer of RFC 4862
// section 5.1): the second that is usual is for networks with slow stations. The setting belongs to a device; its default
// is the machine's.
func briefDAD() topology.Step { return sysctl("net/ipv6/neigh/"+eth0+"/retrans_time_ms", "100") }

// alone is an address with no others in its subnet.
func alone(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// everywhere is the destination of a default route in the family of an address.
func everywhere(a netip.Addr) netip.Prefix {
	if a.Is4() {
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
}

// nic is the host's interface that a network's traffic leaves by.
func nic(p *topology.Plan, host *topology.Machine, network string) *topology.Interface {
	return host.NIC(p.Network(network).NIC)
}

// privateAddrs are those of the modes that number containers from their network's private block.
func privateAddrs(_ *topology.Plan, _ *topology.Machine, c topology.Container) []netip.Prefix {
	return []netip.Prefix{c.Private4, c.Private6}
}

// segmentAddrs are those of the modes that put containers on the segment itself.
func segmentAddrs(_ *topology.Plan, _ *topology.Machine, c topology.Container) []netip.Prefix {
	return []netip.Prefix{c.Segment4, c.Segment6}
}
