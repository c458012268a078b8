package topology

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"math/big"
	"math/bits"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Plan is everything decided about a lab before anything is started: names, addresses, MACs, MTUs.
type Plan struct {
	Topology Topology         // what it was made from
	Segments []PlannedSegment // by name
	Networks []PlannedNetwork // by name
	Machines []Machine        // tors, then hosts, then externals, each by name

	// Steer is the processor on which the ends of cables receive, whichever one sends (receive packet steering,
	// Documentation/networking/scaling.rst), where the kernel can be told so for a namespace (Linux 6.3). Nil, as NewPlan
	// leaves it: the sending one.
	Steer *int `json:",omitempty"`
}

// PlannedSegment is a segment with its name and its MTU decided.
type PlannedSegment struct {
	Name   string
	V4, V6 netip.Prefix
	MTU    int
	VLAN   int // VID on a Trunk fabric: 10, 20, … in the order of segments; 0 on others
}

// PlannedNetwork is a network of containers with its name.
type PlannedNetwork struct {
	Name     string
	NIC      string // of each host
	V4, V6   netip.Prefix
	Gateway4 netip.Addr // the host's own address in V4 where a mode gives it one: the first of the block
	Gateway6 netip.Addr // likewise in V6
	Bridge   string     // device name for the modes that have one, such as br-blue
	Fan      Fan        // for the modes that number containers by their host's address on NIC; zero where all overlays are taken
}

// Role is what a machine is for.
type Role string

// The three roles.
const (
	RoleTor      Role = "tor"
	RoleHost     Role = "host"
	RoleExternal Role = "external"
)

// Machine is one machine of the lab.
type Machine struct {
	Name       string
	Role       Role
	AS         uint32      // autonomous system on a Routed fabric: 65000 of a tor, 65001 and on of hosts; 0: it speaks no BGP
	NICs       []Interface // hosts and externals: by name; tors: one port for each interface they join, by machine and name
	Containers []Container // attached when a lab starts: by network, then by number
}

// Interface is one end of a cable. The two ends name each other.
type Interface struct {
	Name          string           // at most 15 bytes; a tor's port is MACHINE-NIC, such as h1-eth0
	Segment       string           // empty: a trunk, which carries several
	VLAN          int              // VID of an 802.1Q device of a host on its interface Trunk; of a tor's access port; 0: neither
	Trunk         string           // the interface that this 802.1Q device is made on; such an interface has no cable and so no Peer
	MAC           net.HardwareAddr // locally administered
	MTU           int
	V4, V6        netip.Prefix // address with the segment's length, or with the link's on a Routed fabric; zero on a switch's port and on a trunk; on a port of a VPC fabric the router's
	Peer          Port
	Rate          BitRate
	Delay, Jitter string
	Loss, Reorder float64
}

// Port names an interface of a machine.
type Port struct{ Machine, Interface string }

// Container is one container network namespace, numbered in every way a mode may want.
type Container struct {
	Name               string // unique on its host and in the lab's plan: c1, c2, …
	Host               string // where it is planned; a moved container keeps its Host
	Network            string
	Number             int              // counts from 1 within its host
	MAC                net.HardwareAddr // for the modes in which a container has one of its own
	Segment4, Segment6 netip.Prefix     // address on the segment of its network's NIC, with the segment's length
	Private4, Private6 netip.Prefix     // address in its network's private block, with the block's length
	Device             string           // name for a device that a mode makes on the host for it, such as veth-c1; at most 15 bytes
}

// ID is how the container is named across the lab, such as h1/c1.
func (c Container) ID() string { return c.Host + "/" + c.Name }

// NewPlan decides a topology's names, addresses, MACs and MTUs. It is pure: the same topology gives the same plan.
// The error names the first thing in the topology that cannot be planned.
//
// Numbers. Machines of a role are numbered from 1 in name order, in which h2 comes before h10. An address is a
// block's first address plus an offset, and the offset is the same in IPv4 and IPv6:
//
//   - The first quarter of a segment's IPv4 block is for machines, and is used as if it were a subnet of its own: hosts
//     have the offsets 1, 2, … by their number, externals those from its last usable one down. Tors have no address.
//     On a Routed fabric it is divided into links of two addresses, /31 and /127: host number n has the offset 2n+1 and
//     the tor's end of its link 2n, and externals have the links from the last one down. On a VPC fabric the last usable one
//     is the router's, and externals follow below it.
//   - The other three quarters are for containers, on every fabric alike. Each host has a slice (see Plan.Slice), aligned, of a
//     power of two of addresses, at most a quarter of the block; container n of the host has the offset n in it.
//   - In a network's private block the first address is the gateway's, and container n has the offset n+1, on every host.
//   - In a network's block across hosts (see Plan.Overlay) a container has the offset that it has in its segment's. The blocks are of
//     16 bits of shared address space (RFC 6598), from 100.127.0.0/16 and fd64:0:0:7f::/64 down, one for each network.
//   - Fan overlays are blocks of 8 bits of reserved addresses (240.0.0.0/4, RFC 1112 section 4), from 250.0.0.0/8 down, one
//     for each network; the underlay is the 16 bits that the segment's hosts are in.
//
// A MAC address is 02:RR:MM:MM:NN:NN, locally administered: RR is 0 of a tor, 1 of a host, 2 of an external, 3 of a
// container; MM:MM is the machine's number; NN:NN that of the interface or of the container. An 802.1Q device has that of
// the interface it is made on.
//
// On a Trunk fabric a host's first interface is its cable, which is as large, slow and lossy as the most of the
// interfaces that the topology gives it, and each of these is the 802.1Q device of its segment.
func NewPlan(t Topology) (*Plan, error) {
	if f := t.check(); f != nil {
		return nil, f
	}
	p := &Plan{Topology: t}
	for i, name := range names(t.Segments) {
		s := PlannedSegment{Name: name, V4: t.Segments[name].V4, V6: t.Segments[name].V6, MTU: cmp.Or(t.Segments[name].MTU, 1500)}
		if t.Fabric.Tagged {
			s.VLAN = vid(i)
		}
		p.Segments = append(p.Segments, s)
	}
	ends := p.ends(RoleHost, t.hostNICs())
	if t.Fabric.Tagged {
		for i := range ends {
			p.trunk(&ends[i])
		}
	}
	for i, name := range names(t.Networks) {
		n := t.Networks[name]
		nic := n.NIC
		if t.Fabric.Tagged { // the same on every host, as checked
			nic = tagged(ends[0].NICs[0].Name, p.segment(t.Hosts[ends[0].Name].NICs[n.NIC].Segment).VLAN)
		}
		p.Networks = append(p.Networks, PlannedNetwork{
			Name: name, NIC: nic, V4: n.V4, V6: n.V6,
			Gateway4: offset(n.V4, 1).Addr(), Gateway6: offset(n.V6, 1).Addr(),
			Bridge: "br-" + name, Fan: fan(i, p.segment(ends[0].NIC(nic).Segment).V4),
		})
	}
	ends = append(ends, p.ends(RoleExternal, t.externalNICs())...)
	for i, name := range names(t.Tors) {
		p.Machines = append(p.Machines, p.tor(name, i+1, ends))
	}
	p.Machines = append(p.Machines, ends...)
	for i := range p.Machines {
		m := &p.Machines[i]
		if m.Role != RoleHost {
			continue
		}
		number := 0
		for _, network := range p.Networks {
			for range t.Hosts[m.Name].Containers[network.Name] {
				number++
				c, err := p.Container(m.Name, network.Name, number)
				if err != nil {
					return nil, err
				}
				m.Containers = append(m.Containers, c)
			}
		}
	}
	return p, nil
}

// fan is the mapping of the network at a place among all, from 0, whose hosts are on a segment.
func fan(at int, segment netip.Prefix) Fan {
	first := 250 - at
	if first < 240 {
		return Fan{}
	}
	return Fan{
		Overlay:  netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(first)}), 8),
		Underlay: netip.PrefixFrom(segment.Addr(), 16).Masked(),
	}
}

// ends are the hosts or externals, with their interfaces, but without their peers.
func (p *Plan) ends(role Role, nics map[string]map[string]NIC) []Machine {
	var machines []Machine
	for i, name := range names(nics) {
		m := Machine{Name: name, Role: role}
		if p.Topology.Fabric == Routed && role == RoleHost {
			m.AS = torAS + uint32(i) + 1
		}
		for n, nic := range names(nics[name]) {
			spec := nics[name][nic]
			segment := p.segment(spec.Segment)
			code, at, link := byte(macHost), i+1, i+1
			if role == RoleExternal {
				code, at, link = macExternal, quarter(segment.V4)-2-i, quarter(segment.V4)/2-1-i
			}
			if p.Topology.Fabric == VPC && role == RoleExternal {
				at--
			}
			v4, v6 := offset(segment.V4, at), offset(segment.V6, at)
			if p.Topology.Fabric == Routed {
				v4, v6 = linkEnd(segment, 2*link+1)
			}
			m.NICs = append(m.NICs, Interface{
				Name: nic, Segment: segment.Name, MAC: mac(code, i+1, n+1), MTU: segment.MTU,
				V4: v4, V6: v6,
				Rate: spec.Rate, Delay: spec.Delay, Jitter: spec.Jitter, Loss: spec.Loss, Reorder: spec.Reorder,
			})
		}
		machines = append(machines, m)
	}
	return machines
}

// tor is a tor with a port for each cable of the ends, which get their peers.
func (p *Plan) tor(name string, number int, ends []Machine) Machine {
	tor := Machine{Name: name, Role: RoleTor}
	if p.Topology.Fabric == Routed {
		tor.AS = torAS
	}
	for e := range ends {
		end := &ends[e]
		for n := range end.NICs {
			nic := &end.NICs[n]
			segment := nic.Segment
			if segment == "" {
				segment = end.NICs[n+1].Segment // of a trunk: all are in one tor
			}
			if nic.Trunk != "" || !slices.Contains(p.Topology.Tors[name].Joins, segment) {
				continue
			}
			port := *nic
			port.Name = portName(end.Name, nic.Name)
			port.MAC = mac(macTor, number, len(tor.NICs)+1)
			port.V4, port.V6 = netip.Prefix{}, netip.Prefix{}
			if p.Topology.Fabric == Routed {
				port.V4, port.V6 = nic.V4.Masked(), nic.V6.Masked()
			}
			if s := p.segment(segment); p.Topology.Fabric == VPC {
				at := quarter(s.V4) - 2
				port.V4, port.V6 = alone(offset(s.V4, at)), alone(offset(s.V6, at))
			}
			if nic.Segment != "" {
				port.VLAN = p.segment(segment).VLAN
			}
			port.Peer = Port{end.Name, nic.Name}
			nic.Peer = Port{tor.Name, port.Name}
			tor.NICs = append(tor.NICs, port)
		}
	}
	return tor
}

// trunk puts a host's interfaces on one cable.
func (p *Plan) trunk(host *Machine) {
	cable := host.NICs[0]
	cable.Segment, cable.V4, cable.V6 = "", netip.Prefix{}, netip.Prefix{}
	var devices []Interface
	for _, nic := range host.NICs {
		cable.MTU = max(cable.MTU, nic.MTU)
		if nic.Rate != 0 && (cable.Rate == 0 || nic.Rate < cable.Rate) {
			cable.Rate = nic.Rate
		}
		if delay(nic.Delay) > delay(cable.Delay) {
			cable.Delay = nic.Delay
		}
		if delay(nic.Jitter) > delay(cable.Jitter) {
			cable.Jitter = nic.Jitter
		}
		cable.Loss, cable.Reorder = max(cable.Loss, nic.Loss), max(cable.Reorder, nic.Reorder)
		vlan := p.segment(nic.Segment).VLAN
		devices = append(devices, Interface{
			Name: tagged(cable.Name, vlan), Segment: nic.Segment, VLAN: vlan, Trunk: cable.Name,
			MAC: cable.MAC, MTU: nic.MTU, V4: nic.V4, V6: nic.V6,
		})
	}
	slices.SortFunc(devices, func(a, b Interface) int { return cmp.Compare(a.VLAN, b.VLAN) })
	host.NICs = append([]Interface{cable}, devices...)
}

// Needs is what the fabric and the impairments need of a kernel, sorted, by the names that the program on a machine
// knows: those of the fabric, tbf for rates, netem for delays, also those that vary or do not hold of all, and losses.
func (p *Plan) Needs() []string {
	needs := p.Topology.Fabric.Needs()
	for _, m := range p.Machines {
		for _, nic := range m.NICs {
			switch {
			case delay(nic.Delay) != 0 || nic.Loss != 0:
				needs = append(needs, "netem")
			case nic.Rate != 0:
				needs = append(needs, "tbf")
			}
		}
	}
	slices.Sort(needs)
	return slices.Compact(needs)
}

// SwitchNeeds are those of Needs that a tor's machine has to have: an 802.1Q device is made by a host.
func (p *Plan) SwitchNeeds() []string {
	return slices.DeleteFunc(p.Needs(), func(need string) bool { return need == "802.1q" })
}

// Slice is the part of the segment of a network's interface that a host numbers its containers from: one prefix of each
// family, which can be routed as one. Networks on one segment share it. It is zero if the host or network is unknown.
func (p *Plan) Slice(host, network string) (v4, v6 netip.Prefix) {
	m, n := p.Machine(host), p.Network(network)
	if m == nil || n == nil || m.NIC(n.NIC) == nil {
		return netip.Prefix{}, netip.Prefix{}
	}
	return p.slice(host, p.segment(m.NIC(n.NIC).Segment))
}

func (p *Plan) slice(host string, segment *PlannedSegment) (v4, v6 netip.Prefix) {
	hosts := names(p.Topology.Hosts)
	at, each := slices.Index(hosts, host), slice(segment.V4, len(hosts))
	return aligned(segment, quarter(segment.V4)+at*each, each)
}

// Overlay is the address that a container has wherever it is attached, in a block that its network has across all hosts, with
// the block's length. It is zero if the block has no such number, or all blocks are taken.
func (p *Plan) Overlay(c Container) (v4, v6 netip.Prefix) {
	v4, v6 = p.OverlayBlock(c.Network)
	within := int(number(c.Segment4.Addr()) - number(c.Segment4.Masked().Addr()))
	if !v4.IsValid() || within >= 1<<16-1 {
		return netip.Prefix{}, netip.Prefix{}
	}
	return offset(v4, within), offset(v6, within)
}

// OverlayBlock is the block that a network has across all hosts: zero if the network is unknown, or all blocks are taken.
func (p *Plan) OverlayBlock(network string) (v4, v6 netip.Prefix) {
	at := slices.IndexFunc(p.Networks, func(n PlannedNetwork) bool { return n.Name == network })
	if at < 0 || at > 63 {
		return netip.Prefix{}, netip.Prefix{}
	}
	block := byte(127 - at)
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{100, block}), 16), netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 0x64, 7: block}), 64)
}

// Lease is a host's own part of the IPv4 block that its network has across all hosts, of 256 addresses, by the host's number:
// the first address is the host's, and container n has the offset n+1. It is zero if the host or network is unknown or
// the block has no such part.
func (p *Plan) Lease(host, network string) netip.Prefix {
	at := slices.Index(names(p.Topology.Hosts), host)
	net := slices.IndexFunc(p.Networks, func(n PlannedNetwork) bool { return n.Name == network })
	if at < 0 || at > 254 || net < 0 || net > 63 {
		return netip.Prefix{}
	}
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{100, byte(127 - net), byte(at + 1)}), 24)
}

// alone is an address by itself.
func alone(p netip.Prefix) netip.Prefix { return netip.PrefixFrom(p.Addr(), p.Addr().BitLen()) }

// number is an IPv4 address as one.
func number(a netip.Addr) uint32 {
	b := a.As4()
	return binary.BigEndian.Uint32(b[:])
}

// containers are the second quarter and the second half of a segment's block.
func (p *Plan) containers(segment *PlannedSegment) []netip.Prefix {
	q := quarter(segment.V4)
	quarter4, quarter6 := aligned(segment, q, q)
	half4, half6 := aligned(segment, 2*q, 2*q)
	return []netip.Prefix{quarter4, half4, quarter6, half6}
}

// aligned are the prefixes that hold a power of two of a segment's offsets.
func aligned(segment *PlannedSegment, at, count int) (v4, v6 netip.Prefix) {
	host := bits.Len(uint(count)) - 1
	return netip.PrefixFrom(offset(segment.V4, at).Addr(), 32-host), netip.PrefixFrom(offset(segment.V6, at).Addr(), 128-host)
}

// linkEnd is an address with the length of a link between two routers: RFC 3021 and RFC 6164.
func linkEnd(segment *PlannedSegment, at int) (v4, v6 netip.Prefix) {
	return netip.PrefixFrom(offset(segment.V4, at).Addr(), 31), netip.PrefixFrom(offset(segment.V6, at).Addr(), 127)
}

// Container decides a container of a host, by its number there, whether or not the topology attaches it: specs attach
// spare ones. Equal arguments give equal containers, and two numbers never share an address, MAC or device name.
// It is an error if the host or network is unknown or an address block has no such number.
func (p *Plan) Container(host, network string, number int) (Container, error) {
	place := fmt.Sprintf("container %d of network %s on %s", number, network, host)
	hosts := p.Hosts()
	at := slices.IndexFunc(hosts, func(m *Machine) bool { return m.Name == host })
	if at < 0 {
		return Container{}, fmt.Errorf("%s: unknown host %q: want one of %s", place, host, list(names(p.Topology.Hosts)))
	}
	n := p.Network(network)
	if n == nil {
		return Container{}, fmt.Errorf("%s: unknown network %q: want one of %s", place, network, list(names(p.Topology.Networks)))
	}
	segment := p.segment(hosts[at].NIC(n.NIC).Segment)
	if f := fits(number, len(hosts), segment.Name, segment.V4, network, n.V4); f != nil {
		return Container{}, fmt.Errorf("%s: %w", place, f)
	}
	name := fmt.Sprintf("c%d", number)
	within := quarter(segment.V4) + at*slice(segment.V4, len(hosts)) + number
	return Container{
		Name: name, Host: host, Network: network, Number: number,
		MAC:      mac(macContainer, at+1, number),
		Segment4: offset(segment.V4, within), Segment6: offset(segment.V6, within),
		Private4: offset(n.V4, number+1), Private6: offset(n.V6, number+1),
		Device: "veth-" + name,
	}, nil
}

// fits says why a container's number has no address, or nil.
func fits(number, hosts int, segment string, segment4 netip.Prefix, network string, private4 netip.Prefix) *flaw {
	switch room := slice(segment4, hosts) - 2; {
	case number < 1:
		return &flaw{problem: fmt.Sprintf("number %d", number), remedy: "1 or more"}
	case number > room:
		return &flaw{
			path:    []string{"segments", segment, "v4"},
			problem: fmt.Sprintf("segment %s has %d container addresses for each of %d hosts in %s, and number %d is needed", segment, max(room, 0), hosts, segment4, number),
			remedy:  "a larger block or fewer containers",
		}
	}
	if room := size(private4) - 3; number > room {
		return &flaw{
			path:    []string{"networks", network, "v4"},
			problem: fmt.Sprintf("network %s has %d container addresses in %s, and number %d is needed", network, room, private4, number),
			remedy:  "a larger block or fewer containers",
		}
	}
	if number > 0xffff {
		return &flaw{problem: fmt.Sprintf("number %d", number), remedy: "at most 65535 on a host"}
	}
	return nil
}

// Machine is the machine of that name, or nil.
func (p *Plan) Machine(name string) *Machine {
	for i := range p.Machines {
		if p.Machines[i].Name == name {
			return &p.Machines[i]
		}
	}
	return nil
}

// Tors are the machines that join segments, by name.
func (p *Plan) Tors() []*Machine { return p.role(RoleTor) }

// Hosts are the machines that carry containers, by name.
func (p *Plan) Hosts() []*Machine { return p.role(RoleHost) }

// Externals are the machines outside of the container networks, by name.
func (p *Plan) Externals() []*Machine { return p.role(RoleExternal) }

func (p *Plan) role(role Role) []*Machine {
	var machines []*Machine
	for i := range p.Machines {
		if p.Machines[i].Role == role {
			machines = append(machines, &p.Machines[i])
		}
	}
	return machines
}

// Network is the network of that name, or nil.
func (p *Plan) Network(name string) *PlannedNetwork {
	for i := range p.Networks {
		if p.Networks[i].Name == name {
			return &p.Networks[i]
		}
	}
	return nil
}

func (p *Plan) segment(name string) *PlannedSegment {
	for i := range p.Segments {
		if p.Segments[i].Name == name {
			return &p.Segments[i]
		}
	}
	return nil
}

// NIC is the interface of that name, or nil.
func (m *Machine) NIC(name string) *Interface {
	for i := range m.NICs {
		if m.NICs[i].Name == name {
			return &m.NICs[i]
		}
	}
	return nil
}

// names are a mapping's keys in name order: a number at a name's end counts as a number.
func names[T any](m map[string]T) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, ByNumber)
	return keys
}

// ByNumber compares names of machines or containers: h2 comes before h10.
func ByNumber(a, b string) int {
	stemA, stemB := strings.TrimRight(a, "0123456789"), strings.TrimRight(b, "0123456789")
	return cmp.Or(cmp.Compare(stemA, stemB), cmp.Compare(len(a), len(b)), cmp.Compare(a, b))
}

func list(names []string) string { return strings.Join(names, ", ") }

// The second byte of a MAC address.
const (
	macTor = iota
	macHost
	macExternal
	macContainer
)

func mac(role byte, machine, number int) net.HardwareAddr {
	return net.HardwareAddr{0x02, role, byte(machine >> 8), byte(machine), byte(number >> 8), byte(number)}
}

func portName(machine, nic string) string { return machine + "-" + nic }

// tagged is the usual name of an 802.1Q device.
func tagged(nic string, vlan int) string { return fmt.Sprintf("%s.%d", nic, vlan) }

// vid is the VLAN of the segment at a place among all, from 0.
func vid(at int) int { return 10 * (at + 1) }

// Autonomous systems for private use (RFC 6996): of tors, and from the next one on of hosts.
const (
	torAS  = 65000
	lastAS = 65534
)

// delay is that of an interface, which has been checked to be a duration.
func delay(of string) time.Duration {
	d, _ := time.ParseDuration(of)
	return d
}

// size is the number of addresses of an IPv4 block.
func size(p netip.Prefix) int { return 1 << (32 - p.Bits()) }

func quarter(p netip.Prefix) int { return size(p) / 4 }

// slice is the number of addresses that each of some hosts has in a segment's IPv4 block.
func slice(p netip.Prefix, hosts int) int {
	each := 3 * quarter(p) / hosts
	if each == 0 {
		return 0
	}
	// A power of two, so that each host's slice is a prefix that can be routed as one.
	return min(quarter(p), 1<<(bits.Len(uint(each))-1))
}

// offset is the address n after a block's first one, with the block's length.
func offset(p netip.Prefix, n int) netip.Prefix {
	sum := new(big.Int).SetBytes(p.Addr().AsSlice())
	sum.Add(sum, big.NewInt(int64(n)))
	addr, _ := netip.AddrFromSlice(sum.FillBytes(make([]byte, p.Addr().BitLen()/8)))
	return netip.PrefixFrom(addr, p.Bits())
}
