package suites

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/modebench/modebench/modes"
	"github.com/modebench/modebench/reports"
	"github.com/modebench/modebench/topology"
	"github.com/modebench/modebench/topology/lab"
)

// unspanned is the answer of the modes whose networks are not one segment across hosts, in a tunnel.
func unspanned(b *Bench) *Observation {
	if o := numberless(b); o != nil {
		return o
	}
	if across, _ := b.plan.Overlay(attachedAt(b, container(b))); addrOf(b, container(b), IPv4) != across.Addr() {
		o := notApplicable("a network is not one segment that spans hosts by a tunnel")
		return &o
	}
	return nil
}

// tunnelOf is the tunnel's device of the first network on a host, as the mode is meant to make it.
func tunnelOf(b *Bench, host string) (topology.Link, error) {
	m, _ := modes.Find(b.mode.Name)
	var setup []topology.Step
	if m.Setup != nil {
		setup = m.Setup(b.plan, b.plan.Machine(host))
	}
	for _, s := range setup {
		if s.Link != nil && s.Link.Kind == "vxlan" && s.Link.Local == underlayOf(b, host) {
			return *s.Link, nil
		}
	}
	return topology.Link{}, fmt.Errorf("%s has no tunnel from %s", host, underlayOf(b, host))
}

// tunnels edits the steps that make tunnels on the first host, of a mode, so that they are other ones.
func tunnels(mode string, host int, edit func(*topology.Link)) func(*topology.Plan) []topology.Step {
	return func(p *topology.Plan) []topology.Step {
		m, _ := modes.Find(mode)
		for _, s := range m.Setup(p, p.Hosts()[host]) {
			if s.Link != nil && s.Link.Kind == "vxlan" {
				l := *s.Link
				edit(&l)
				s.Link = &l
				return []topology.Step{s}
			}
		}
		return nil
	}
}

// hidden is the answer of the modes whose tunnels' devices are where nobody but those who made them has them.
func hidden(b *Bench) *Observation {
	if o := unspanned(b); o != nil {
		return o
	}
	if b.mode.Carrier() == modes.ByDocker {
		o := notApplicable("the tunnels' devices are in a namespace of the engine's own, which nobody else is let into")
		return &o
	}
	return nil
}

// macsOf are the MAC addresses of two containers' own devices, which engines choose.
func macsOf(ctx context.Context, b *Bench, from, to Place) (src, dst net.HardwareAddr, err error) {
	one, err := linkOf(ctx, b, from, ownDevice(b, from))
	if err != nil {
		return nil, nil, err
	}
	other, err := linkOf(ctx, b, to, ownDevice(b, to))
	return one.MAC, other.MAC, err
}

// entering tells packets that enter the switch by the port of a host.
func entering(b *Bench, host string) func(lab.Packet) bool {
	return comesBy(b, host, b.plan.Machine(host).NIC(b.plan.Network(network(b)).NIC))
}

// summed is one status of several findings: works where there is none.
func summed(wrong []string, evidence []reports.Evidence, format string, args ...any) Observation {
	o := whether(len(wrong) == 0, format, args...)
	if len(wrong) > 0 {
		o.Detail = strings.Join(wrong, "; ")
	}
	o.Evidence = evidence
	return o
}

var _ = register(Spec{
	Suite: "packets",
	Feature: Feature{
		Name: "overlay-header", Group: "packets",
		Doc: "Is what containers of two hosts send each other on the segment as RFC 7348 has it: between the hosts' own MAC and IP addresses to UDP port 4789, with the network's VNI and no flag but that of the VNI, around the containers' own frame?",
	},
	Name: "a container asks one of another host, and each field before its packet on the segment is read, of the question and of the answer",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		if o := unspanned(b); o != nil {
			return *o, nil
		}
		from, to := container(b), far(b)
		if err := finished(ctx, b, from, to, Place{Machine: from.Machine}, Place{Machine: to.Machine}); err != nil {
			return Observation{}, err
		}
		question, answer, a, evidence, err := tunnelled(ctx, b, lab.Ask{})
		if err != nil {
			return Observation{}, err
		}
		if question == nil || answer == nil {
			return astray(b, a, evidence), nil
		}
		device, err := tunnelOf(b, from.Machine)
		if err != nil {
			return Observation{}, err
		}
		nicOf := func(p Place) *topology.Interface {
			return b.plan.Machine(p.Machine).NIC(b.plan.Network(network(b)).NIC)
		}
		asks, answers, err := macsOf(ctx, b, from, to)
		if err != nil {
			return Observation{}, err
		}
		var wrong []string
		for _, way := range []struct {
			p        *lab.Packet
			from, to Place
			src, dst net.HardwareAddr
		}{{question, from, to, asks, answers}, {answer, to, from, answers, asks}} {
			p := way.p
			check := func(what string, got, want any) {
				if fmt.Sprint(got) != fmt.Sprint(want) {
					wrong = append(wrong, fmt.Sprintf("%s is %v, not %v", what, got, want))
				}
			}
			check("the source of the frame", p.EthSrc, nicOf(way.from).MAC)
			check("the destination of the frame", p.EthDst, nicOf(way.to).MAC)
			check("the source", p.Src.Addr(), nicOf(way.from).V4.Addr())
			check("the destination", p.Dst, netip.AddrPortFrom(nicOf(way.to).V4.Addr(), uint16(device.Port)))
			if t := p.IP.Transport; t != "ok" && t != "none" { // RFC 7348 section 5 wants zero and allows one that is right
				wrong = append(wrong, "the UDP checksum is "+t)
			}
			check("a fragment", p.IP.MoreFragments || p.IP.Offset > 0, false)
			if p.VXLAN == nil {
				wrong = append(wrong, "there is no VXLAN header")
				continue
			}
			check("the VNI", p.VXLAN.VNI, device.VNI)
			check("the byte of flags", p.VXLAN.Flags, 0x08)
			check("what is reserved", p.VXLAN.Reserved, 0)
			check("the source of the carried frame", p.Inner.EthSrc, way.src)
			check("the destination of the carried frame", p.Inner.EthDst, way.dst)
			check("a tag of the carried frame", p.Inner.Tag != nil, false)
			check("the source that it carries", p.Inner.Src.Addr(), addrOf(b, way.from, IPv4))
			check("the destination that it carries", p.Inner.Dst.Addr(), addrOf(b, way.to, IPv4))
		}
		return summed(wrong, evidence, "%s asked %s: VXLAN with the VNI %d between %s and %s at UDP port %d, checksums %s, around frames between %s and %s",
			from, to, device.VNI, question.Src.Addr(), question.Dst.Addr(), question.Dst.Port(), question.IP.Transport, question.Inner.EthSrc, question.Inner.EthDst), nil
	},
	Sabotage: []Sabotage{
		{Mode: "vxlan-static", Doc: "the hosts have other VNIs than they should", Setup: mapTunnels(func(l *topology.Link) { l.VNI += 1000 })},
		{Mode: "vxlan-gossip", Doc: "the hosts have other VNIs than they should", Setup: mapTunnels(func(l *topology.Link) { l.VNI += 1000 })},
		{Mode: "vxlan-multicast", Doc: "the hosts use the port that Linux had before one was assigned", Setup: mapTunnels(func(l *topology.Link) { l.Port = 8472 })},
	},
})

var _ = register(Spec{
	Suite: "packets",
	Feature: Feature{
		Name: "overlay-ports", Group: "packets",
		Doc: "Has each flow between containers of two hosts a UDP source port of its own on the segment, the same for all its packets, by which the network can spread load (RFC 7348 section 5)?",
	},
	Name: "a container sends one of another host datagrams from 16 ports, two from each, and the source ports on the segment are counted",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		if o := unspanned(b); o != nil {
			return *o, nil
		}
		const flows = 16
		from, to := container(b), far(b)
		if _, _, a, evidence, err := tunnelled(ctx, b, lab.Ask{}); err != nil || !a.Answered {
			return astray(b, a, evidence), err
		}
		src, dst, err := macsOf(ctx, b, from, to)
		if err != nil {
			return Observation{}, err
		}
		recorded, err := b.Record(ctx)
		if err != nil {
			return Observation{}, err
		}
		// As another stack would send them: the kernel's own sockets draw a hash each, whatever their flow is (sk_set_txhash()).
		target := netip.AddrPortFrom(addrOf(b, to, IPv4), controlPort)
		asked, last := map[uint16]bool{}, ""
		for range flows {
			own := b.freePort()
			asked[own] = true
			for range 2 {
				last = b.newToken()
				if err := b.Send(ctx, from, ownDevice(b, from), lab.Packet{
					EthSrc: src, EthDst: dst, Proto: "udp", Token: last,
					Src: netip.AddrPortFrom(addrOf(b, from, IPv4), own), Dst: target,
				}); err != nil {
					return Observation{}, err
				}
			}
		}
		by := entering(b, from.Machine)
		var packets []lab.Packet
		if _, err := eventually(ctx, retry, func() (bool, error) {
			packets, err = recorded(ctx, func(p lab.Packet) bool { return by(p) && p.Inner != nil && p.Inner.Dst == target })
			return slices.ContainsFunc(packets, func(p lab.Packet) bool { return p.Token == last }), err
		}); err != nil {
			return Observation{}, err
		}
		outer, distinct := map[uint16]uint16{}, map[uint16]bool{}
		var wrong []string
		for _, p := range packets {
			flow, port := p.Inner.Src.Port(), p.Src.Port()
			if !asked[flow] {
				continue
			}
			if was, ok := outer[flow]; ok && was != port {
				wrong = append(wrong, fmt.Sprintf("the flow from port %d had the ports %d and %d", flow, was, port))
			}
			outer[flow], distinct[port] = port, true
			if port < 32768 || port > 60999 { // net.ipv4.ip_local_port_range, from which it is taken unless the device says otherwise
				wrong = append(wrong, fmt.Sprintf("port %d is none that the host gives", port))
			}
		}
		if len(outer) < flows {
			wrong = append(wrong, fmt.Sprintf("of %d flows %d were in a tunnel", flows, len(outer)))
		}
		if len(distinct) < flows-2 { // two may meet by chance
			wrong = append(wrong, fmt.Sprintf("%d flows had %d ports", flows, len(distinct)))
		}
		return summed(wrong, nil, "%d flows of %s to %s had %d source ports on the segment, each one for all its packets", flows, from, to, len(distinct)).
			value("count", float64(len(distinct))), nil
	},
	Sabotage: []Sabotage{
		{Mode: "vxlan-static", Doc: "the host has few ports to give", Steps: func(p *topology.Plan) []topology.Step {
			return []topology.Step{{On: p.Hosts()[0].Name, Sysctl: &topology.Sysctl{Key: "net/ipv4/ip_local_port_range", Value: "40000 40003"}}}
		}},
	},
})

// v6Overhead is what an outer IPv6 and UDP header, that of VXLAN, and the inner frame's add to a packet (RFC 7348 section 5, with RFC 8200 section 3).
const v6Overhead = 40 + 8 + 8 + 14

// v6Tunnel are the steps that give a host, the one with a number of two, a tunnel of its own over IPv6 to the other. They know each other's MAC addresses.
func v6Tunnel(b *Bench, hosts [2]string, number int, device topology.Link) []topology.Step {
	underlay := func(host string) netip.Addr {
		return b.plan.Machine(host).NIC(b.plan.Network(network(b)).NIC).V6.Addr()
	}
	mac := func(number int) net.HardwareAddr {
		return net.HardwareAddr{0x02, 0x5e, 0x10, 0, byte(device.VNI), byte(number)}
	}
	other := 1 - number
	device.Kind, device.MAC, device.MTU, device.Up, device.Local = "vxlan", mac(number), uplink(b).MTU-v6Overhead, true, underlay(hosts[number])
	steps := []topology.Step{
		{Link: &device},
		{Neigh: &topology.Neigh{Link: device.Name, MAC: make(net.HardwareAddr, 6), IP: underlay(hosts[other]), FDB: true}},
		{Addr: &topology.Addr{Link: device.Name, Prefix: netip.PrefixFrom(v6Inside(device.VNI, number), 30)}},
		{Neigh: &topology.Neigh{Link: device.Name, MAC: mac(other), IP: v6Inside(device.VNI, other)}},
	}
	for i := range steps {
		steps[i].On = hosts[number]
	}
	return steps
}

// v6Inside is the address that a host has in the tunnel of a VNI (of the block TEST-NET-1, RFC 5737).
func v6Inside(vni, number int) netip.Addr {
	return netip.AddrFrom4([4]byte{192, 0, 2, byte(4*(vni-foreignVNI) + number + 1)})
}

var _ = register(Spec{
	Suite: "packets",
	Feature: Feature{
		Name: "overlay-checksum-ipv6", Group: "packets",
		Doc: "Over an IPv6 underlay, have the packets of a tunnel a right UDP checksum, is one without it taken in only where the receiver is told to (udp6zerocsumrx), and sent only where the sender is (udp6zerocsumtx)?",
	},
	Name: "two hosts get three tunnels of their own over IPv6, one as the kernel makes it, one whose sender leaves the checksum out, and one whose receiver takes that; one host asks the other by each, and the checksums on the segment are read",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		if o := unspanned(b); o != nil {
			return *o, nil
		}
		hosts := [2]string{firstHost(b), secondHost(b)}
		from, by := Place{Machine: hosts[0]}, entering(b, hosts[0])
		if err := finished(ctx, b, from, Place{Machine: hosts[1]}); err != nil {
			return Observation{}, err
		}
		var o Observation
		var wrong []string
		// Devices of one port share a socket, and with it whether it takes packets without a checksum (vxlan_find_sock() of drivers/net/vxlan): the third has a port of its own.
		for _, way := range []struct {
			device   topology.Link
			takes    bool
			checksum string
			answered bool
		}{
			{topology.Link{Name: "vx-six", VNI: foreignVNI, Port: 4789}, false, "ok", true},
			{topology.Link{Name: "vx-six-zero", VNI: foreignVNI + 1, Port: 4789, UDP6ZeroCSumTx: true}, false, "none", false},
			{topology.Link{Name: "vx-six-taken", VNI: foreignVNI + 2, Port: 8472, UDP6ZeroCSumTx: true}, true, "none", true},
		} {
			there := way.device
			there.UDP6ZeroCSumTx, there.UDP6ZeroCSumRx = false, way.takes
			steps := append(v6Tunnel(b, hosts, 0, way.device), v6Tunnel(b, hosts, 1, there)...)
			if err := b.Apply(ctx, steps...); err != nil {
				return Observation{}, err
			}
			o.Reproduce = append(o.Reproduce, lines(steps)...)
			recorded, err := b.Record(ctx)
			if err != nil {
				return Observation{}, err
			}
			// Twice where nothing came back: a first packet may wait for the link-layer address of the other host for too long.
			ask := lab.Ask{Proto: "udp", To: netip.AddrPortFrom(v6Inside(way.device.VNI, 1), controlPort), Token: b.newToken(), Wait: retry}
			var a lab.Answer
			for range 2 {
				if a, err = b.Ask(ctx, from, ask); err != nil {
					return Observation{}, err
				}
				if a.Answered || !way.answered {
					break
				}
			}
			packets, err := recorded(ctx, func(p lab.Packet) bool { return p.Token == ask.Token && p.VXLAN != nil })
			if err != nil {
				return Observation{}, err
			}
			out := slices.IndexFunc(packets, by)
			if out < 0 {
				return Observation{}, fmt.Errorf("what %s asked by %s did not enter the switch in a tunnel", from, way.device.Name)
			}
			if !slices.ContainsFunc(packets, func(p lab.Packet) bool { return p.Machine == hosts[1] && !p.Outgoing }) {
				wrong = append(wrong, fmt.Sprintf("what %s asked by %s did not come to %s", from, way.device.Name, hosts[1]))
			}
			p := packets[out]
			o.Evidence = append(o.Evidence, seen(p))
			if p.Src.Addr().Is4() || p.IP.Transport != way.checksum || a.Answered != way.answered {
				wrong = append(wrong, fmt.Sprintf("by %s the checksum on the segment was %s over %s, not %s, and it was answered %t, not %t", way.device.Name, p.IP.Transport, familyOf(p.Src.Addr()), way.checksum, a.Answered, way.answered))
			}
		}
		control, err := echoed(ctx, b, from, Place{Machine: hosts[1]}, IPv6)
		if err != nil {
			return Observation{}, err
		}
		out := summed(wrong, append(o.Evidence, control), "%s asked %s by tunnels over IPv6: with a checksum it was answered, without one it came and was not, until the receiver was told to take that", hosts[0], hosts[1])
		out.Reproduce = o.Reproduce
		return out, nil
	},
	Sabotage: []Sabotage{
		{Mode: "vxlan-static", Doc: "the second host takes in no UDP of IPv6 to the port of VXLAN", Steps: func(p *topology.Plan) []topology.Step {
			return []topology.Step{dropping(topology.Step{On: p.Hosts()[1].Name}, "input", topology.Match{Field: "meta nfproto", Value: "ipv6"}, topology.Match{Field: "udp dport", Value: "4789"})}
		}},
	},
})

// sent puts a datagram on a container's device for another container's MAC address, and gives it as it first entered the
// switch from the container's host in a tunnel; nil where it did not.
func sent(ctx context.Context, b *Bench, from Place, p lab.Packet) (*lab.Packet, error) {
	recorded, err := b.Record(ctx)
	if err != nil {
		return nil, err
	}
	if err := b.Send(ctx, from, ownDevice(b, from), p); err != nil {
		return nil, err
	}
	by := entering(b, from.Machine)
	var got []lab.Packet
	_, err = eventually(ctx, retry, func() (bool, error) {
		got, err = recorded(ctx, func(q lab.Packet) bool { return q.Token == p.Token && q.Inner != nil && by(q) })
		return len(got) > 0, err
	})
	if err != nil || len(got) == 0 {
		return nil, err
	}
	return &got[0], nil
}

var _ = register(Spec{
	Suite: "packets",
	Feature: Feature{
		Name: "overlay-inherits", Group: "packets",
		Doc: "Does the packet on the segment take over TTL, DSCP or DF of the one in the tunnel, instead of the host's own?",
	},
	Name: "a container sends datagrams to one of another host with two TTLs, a DSCP and DF, and those on the segment are read",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		if o := unspanned(b); o != nil {
			return *o, nil
		}
		from, to := container(b), far(b)
		if _, _, a, evidence, err := tunnelled(ctx, b, lab.Ask{}); err != nil || !a.Answered {
			return astray(b, a, evidence), err // a control, by which each host also knows where the other's container is
		}
		src, dst, err := macsOf(ctx, b, from, to)
		if err != nil {
			return Observation{}, err
		}
		const dscp = 46 // expedited forwarding (RFC 3246)
		var inherited, wrong []string
		var evidence []reports.Evidence
		for _, ttl := range startTTLs {
			p, err := sent(ctx, b, from, lab.Packet{
				EthSrc: src, EthDst: dst, Proto: "udp", Token: b.newToken(),
				Src: netip.AddrPortFrom(addrOf(b, from, IPv4), b.freePort()), Dst: netip.AddrPortFrom(addrOf(b, to, IPv4), controlPort),
				IP: &lab.IP{TTL: ttl, DSCP: dscp, DontFragment: true},
			})
			if err != nil {
				return Observation{}, err
			}
			if p == nil {
				return Observation{Status: "mixed", Detail: fmt.Sprintf("a datagram of %s for %s was not seen in a tunnel", from, to)}, nil
			}
			evidence = append(evidence, seen(*p))
			if p.Inner.IP.TTL != ttl || p.Inner.IP.DSCP != dscp || !p.Inner.IP.DontFragment {
				wrong = append(wrong, fmt.Sprintf("in the tunnel the TTL is %d, the DSCP %d, DF %t", p.Inner.IP.TTL, p.Inner.IP.DSCP, p.Inner.IP.DontFragment))
			}
			for what, is := range map[string]bool{"TTL": p.IP.TTL == ttl, "DSCP": p.IP.DSCP == dscp, "DF": p.IP.DontFragment} {
				if is {
					inherited = append(inherited, what)
				}
			}
			if !slices.Contains(inherited, "TTL") && p.IP.TTL != 64 { // net.ipv4.ip_default_ttl
				wrong = append(wrong, fmt.Sprintf("the TTL on the segment is %d", p.IP.TTL))
			}
			if !slices.Contains(inherited, "DSCP") && p.IP.DSCP != 0 {
				wrong = append(wrong, fmt.Sprintf("the DSCP on the segment is %d", p.IP.DSCP))
			}
		}
		slices.Sort(inherited)
		o := whether(len(inherited) > 0, "%s sent %s datagrams with TTLs of %d and %d, DSCP %d and DF: they are unchanged in the tunnel, and on the segment it was as the host's own packets are, but for: %s",
			from, to, startTTLs[0], startTTLs[1], dscp, orNone(slices.Compact(inherited)))
		if len(wrong) > 0 || len(inherited) > 0 && len(inherited) < 3*len(startTTLs) {
			o.Status = "mixed"
			o.Detail += "; " + orNone(wrong)
		}
		o.Evidence = evidence
		return o, nil
	},
	Sabotage: []Sabotage{
		{Mode: "vxlan-static", Doc: "the host's own packets begin with one of the TTLs", Steps: func(p *topology.Plan) []topology.Step {
			return []topology.Step{{On: p.Hosts()[0].Name, Sysctl: &topology.Sysctl{Key: "net/ipv4/ip_default_ttl", Value: fmt.Sprint(startTTLs[0])}}}
		}},
	},
})

var _ = register(Spec{
	Suite: "packets",
	Feature: Feature{
		Name: "overlay-size", Group: "packets",
		Doc: "Does a packet that fills the container's MTU just fill the segment's in its tunnel, unfragmented, and does the container's own kernel refuse a larger one?",
	},
	Name: "a container asks one of another host with what fills its MTU, and with one byte more; both with DF",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		if o := unspanned(b); o != nil {
			return *o, nil
		}
		c := container(b)
		own, err := linkOf(ctx, b, c, ownDevice(b, c))
		if err != nil {
			return Observation{}, err
		}
		p, _, a, evidence, err := tunnelled(ctx, b, lab.Ask{Size: own.MTU - headers(IPv4), NoFragment: true})
		if err != nil {
			return Observation{}, err
		}
		if p == nil {
			return astray(b, a, evidence), nil
		}
		more, err := b.Ask(ctx, c, lab.Ask{
			Proto: "udp", To: netip.AddrPortFrom(addrOf(b, far(b), IPv4), controlPort), Size: own.MTU + 1 - headers(IPv4), NoFragment: true, Wait: hopeful,
		})
		if err != nil {
			return Observation{}, err
		}
		mtu := uplink(b).MTU
		o := whether(a.Answered && p.Length-14 == mtu && !p.IP.MoreFragments && p.IP.Offset == 0 && more.Refusal.Errno == "EMSGSIZE" && !more.ICMPFrom.IsValid(),
			"%s sent %d bytes with DF to %s, which were %d on the segment of %d; answered %t, in fragments %t; of one byte more it was told %q",
			c, own.MTU, far(b), p.Length-14, mtu, a.Answered, p.IP.MoreFragments || p.IP.Offset > 0, more.Refusal.Errno)
		o.Evidence = evidence
		return o.value("bytes", float64(mtu-own.MTU)), nil
	},
	Sabotage: []Sabotage{
		{Mode: "vxlan-static", Doc: "the tunnels' devices take 100 bytes less", Setup: mapTunnels(func(l *topology.Link) { l.MTU -= 100 })},
		{Mode: "vxlan-multicast", Doc: "the containers' devices have 100 bytes less", Rewire: mapLinks(func(l *topology.Link) {
			if l.PeerName == "eth0" {
				l.MTU, l.PeerMTU = l.MTU-100, l.PeerMTU-100
			}
		})},
	},
})

// foreignVNI is what no network of a lab has.
const foreignVNI = 0xabcdef

var _ = register(Spec{
	Suite: "packets",
	Feature: Feature{
		Name: "overlay-unknown-vni", Group: "isolation",
		Doc: "Is a packet with a VNI that the receiving host does not have dropped there without a word?",
	},
	Name: "the first host's tunnel gets a VNI of its own, a container sends a datagram to one of another host, and what becomes of it is looked for",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		if o := hidden(b); o != nil {
			return *o, nil
		}
		from, to := container(b), far(b)
		if _, _, a, evidence, err := tunnelled(ctx, b, lab.Ask{}); err != nil || !a.Answered {
			return astray(b, a, evidence), err
		}
		device, err := tunnelOf(b, from.Machine)
		if err != nil {
			return Observation{}, err
		}
		odd := device
		odd.Name, odd.VNI, odd.Group, odd.Parent, odd.MAC, odd.Up = "vx-odd", foreignVNI, netip.Addr{}, "", nil, true
		steps := []topology.Step{
			{Set: &topology.LinkSet{Name: device.Name, Master: "none"}},
			{Link: &odd},
			{Neigh: &topology.Neigh{Link: odd.Name, MAC: attachedAt(b, to).MAC, IP: underlayOf(b, to.Machine), FDB: true}},
		}
		for i := range steps {
			steps[i].On = from.Machine
		}
		if err := b.Apply(ctx, steps...); err != nil {
			return Observation{}, err
		}
		recorded, err := b.Record(ctx)
		if err != nil {
			return Observation{}, err
		}
		token := b.newToken()
		p, err := sent(ctx, b, from, lab.Packet{
			EthSrc: attachedAt(b, from).MAC, EthDst: attachedAt(b, to).MAC, Proto: "udp", Token: token,
			Src: netip.AddrPortFrom(addrOf(b, from, IPv4), b.freePort()), Dst: netip.AddrPortFrom(addrOf(b, to, IPv4), controlPort),
		})
		if err != nil {
			return Observation{}, err
		}
		if p == nil || p.VXLAN == nil || p.VXLAN.VNI != foreignVNI || p.Dst.Addr() != underlayOf(b, to.Machine) {
			return Observation{}, fmt.Errorf("the datagram of %s was not sent to %s with the VNI %d", from, to.Machine, foreignVNI)
		}
		// What follows it to the host is answered after it was dealt with.
		control, err := echoed(ctx, b, Place{Machine: from.Machine}, Place{Machine: to.Machine}, IPv4)
		if err != nil {
			return Observation{}, err
		}
		arrived := false
		var wrong []string
		if _, err := recorded(ctx, func(q lab.Packet) bool {
			switch {
			case q.Token == token && q.Machine == to.Machine && q.Inner == nil:
				wrong = append(wrong, "it was taken out of the tunnel at "+at(q))
			case q.Token == token && q.Machine == to.Machine:
				arrived = true
			case q.Machine == to.Machine && q.ICMP != nil && q.ICMP.Type == 3 && q.Outgoing:
				wrong = append(wrong, "the host answered "+q.Text)
			}
			return false
		}); err != nil {
			return Observation{}, err
		}
		if !arrived {
			return Observation{}, fmt.Errorf("the datagram of %s did not come to %s", from, to.Machine)
		}
		o := summed(wrong, []reports.Evidence{seen(*p), control}, "%s received a datagram of %s for %s with the VNI %d, which it does not have: it was seen at no other device there, and no error was sent back", to.Machine, from, to, foreignVNI)
		o.Reproduce = lines(steps)
		return o, nil
	},
	Sabotage: []Sabotage{
		{Mode: "vxlan-static", Doc: "the second host has that VNI on the network's bridge", Steps: tunnels("vxlan-static", 1, func(l *topology.Link) {
			l.Name, l.VNI, l.MAC, l.Up = "vx-odd", foreignVNI, nil, true
		})},
	},
})

var _ = register(Spec{
	Suite: "conformance",
	Feature: Feature{
		Name: "overlay-apart", Group: "isolation",
		Doc: "Are two containers of one host in different overlays kept apart even where they have addresses of one subnet?",
	},
	Name: "a container gets an address in the subnet of another network of its host, and a container of that one asks it by ICMP echo, UDP and TCP",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		if o := unspanned(b); o != nil {
			return *o, nil
		}
		from := container(b)
		to := b.Containers(from.Machine, b.plan.Networks[1].Name)[0]
		c, err := another(b, from.Machine, network(b), 1)
		if err != nil {
			return Observation{}, err
		}
		shared, _ := b.plan.Overlay(c)
		step := topology.Step{On: to.Machine, In: to.Container, Addr: &topology.Addr{Link: ownDevice(b, to), Prefix: shared}}
		if err := b.Apply(ctx, step); err != nil {
			return Observation{}, err
		}
		port, err := serve(ctx, b, to, unspecified(IPv4))
		if err != nil {
			return Observation{}, err
		}
		recorded, err := b.Record(ctx)
		if err != nil {
			return Observation{}, err
		}
		t, err := try(ctx, b, from, to, netip.AddrPortFrom(shared.Addr(), port), protos...)
		if err != nil {
			return Observation{}, err
		}
		o := t.observation()
		switch o.Status {
		case reports.Works:
			o.Status = reports.Blocked
		case reports.Blocked:
			o.Status = reports.Works
		}
		device, err := tunnelOf(b, from.Machine)
		if err != nil {
			return Observation{}, err
		}
		strange, err := recorded(ctx, func(p lab.Packet) bool {
			return p.VXLAN != nil && p.VXLAN.VNI != device.VNI && mentions(*p.Inner, shared.Addr())
		})
		if err != nil {
			return Observation{}, err
		}
		if len(strange) > 0 {
			o.Status, o.Detail = "mixed", "a packet of one network had the VNI of the other: "+strange[0].Text
		}
		o.Reproduce = []string{step.String()}
		return o, nil
	},
	Sabotage: []Sabotage{
		{Mode: "vxlan-static", Doc: "containers of all networks hang on one bridge", Rewire: mapLinks(func(l *topology.Link) {
			if l.Master == "ov-green" {
				l.Master = "ov-blue"
			}
		})},
	},
})

// shouted sends a datagram to everybody in a container's subnet, and gives the copies that entered the switch from its host, once all
// of them have.
func shouted(ctx context.Context, b *Bench, from Place, port uint16) (token string, copies []lab.Packet, control reports.Evidence, err error) {
	recorded, err := b.Record(ctx)
	if err != nil {
		return "", nil, control, err
	}
	token = b.newToken()
	if _, err := b.Ask(ctx, from, lab.Ask{
		Proto: "udp", To: netip.AddrPortFrom(lastOf(prefixOf(b, from)), port), Broadcast: true, Token: token, Wait: hopeful,
	}); err != nil {
		return "", nil, control, err
	}
	if control, err = echoed(ctx, b, from, external(b), IPv4); err != nil { // what follows by the same cable comes later
		return "", nil, control, err
	}
	by := entering(b, from.Machine)
	copies, err = recorded(ctx, func(p lab.Packet) bool { return p.Token == token && p.Inner != nil && by(p) })
	return token, copies, control, err
}

// lastOf is a subnet's broadcast address.
func lastOf(p netip.Prefix) netip.Addr {
	a := p.Masked().Addr().As4()
	for i := p.Bits(); i < 32; i++ {
		a[i/8] |= 1 << (7 - i%8)
	}
	return netip.AddrFrom4(a)
}

var _ = register(Spec{
	Suite: "packets",
	Feature: Feature{
		Name: "overlay-replication", Group: "packets",
		Doc: "Does the sender's host send a container's broadcast to each other host, one copy each (head-end replication), instead of once to a group or to nobody?",
	},
	Name: "a container sends a broadcast, and the copies that its host puts on the segment are counted",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		if o := unspanned(b); o != nil {
			return *o, nil
		}
		from := container(b)
		_, copies, control, err := shouted(ctx, b, from, b.freePort())
		if err != nil {
			return Observation{}, err
		}
		var got, want []string
		for _, p := range copies {
			got = append(got, p.Dst.Addr().String())
		}
		for _, h := range b.plan.Hosts() {
			if h.Name != from.Machine {
				want = append(want, underlayOf(b, h.Name).String())
			}
		}
		slices.Sort(got)
		slices.Sort(want)
		o := whether(slices.Equal(got, want), "%s sent a broadcast: its host put %d copies of it on the segment, to: %s", from, len(got), orNone(got)).value("count", float64(len(got)))
		if o.Status == reports.Blocked && len(copies) > 0 {
			p := copies[0]
			if group := p.Dst.Addr(); len(copies) > 1 || !group.IsMulticast() || !bytes.Equal(p.EthDst, groupMAC(group)) || p.IP.TTL != 1 {
				o.Status = "mixed"
			}
		}
		for _, p := range copies {
			o.Evidence = append(o.Evidence, seen(p))
		}
		o.Evidence = append(o.Evidence, control)
		return o, nil
	},
	Sabotage: []Sabotage{
		{Mode: "vxlan-static", Doc: "a machine that is no host is written down, too", Steps: alsoSent("vx-blue")},
		{Mode: "vxlan-multicast", Doc: "a machine is sent a copy, too", Steps: alsoSent("vx-blue")},
		{Mode: "vxlan-gossip", Doc: "a machine is sent a copy", Steps: alsoSent("vx-blue")},
	},
})

// alsoSent has the first host send an external machine what is for everybody.
func alsoSent(device string) func(*topology.Plan) []topology.Step {
	return func(p *topology.Plan) []topology.Step {
		return []topology.Step{{On: p.Hosts()[0].Name, Neigh: &topology.Neigh{
			Link: device, MAC: make(net.HardwareAddr, 6), IP: p.Externals()[0].NICs[0].V4.Addr(), FDB: true,
		}}}
	}
}

// groupMAC is the MAC address of an IPv4 group: its low 23 bits (RFC 1112 section 6.4).
func groupMAC(group netip.Addr) net.HardwareAddr {
	a := group.As4()
	return net.HardwareAddr{0x01, 0x00, 0x5e, a[1] & 0x7f, a[2], a[3]}
}

var _ = register(Spec{
	Suite: "packets",
	Feature: Feature{
		Name: "overlay-learned", Group: "packets",
		Doc: "Does a host learn from a frame that comes in a tunnel which host its sender is on?",
	},
	Name: "a container sends one of another host a frame from a MAC address that nobody has, and that host's entries are read",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		if o := hidden(b); o != nil {
			return *o, nil
		}
		to, from := container(b), far(b)
		if _, _, a, evidence, err := tunnelled(ctx, b, lab.Ask{}); err != nil || !a.Answered {
			return astray(b, a, evidence), err
		}
		device, err := tunnelOf(b, to.Machine)
		if err != nil {
			return Observation{}, err
		}
		forged := slices.Clone(attachedAt(b, from).MAC)
		forged[1] = 0xee
		token := b.newToken()
		recorded, err := b.Record(ctx)
		if err != nil {
			return Observation{}, err
		}
		if _, err := sent(ctx, b, from, lab.Packet{
			EthSrc: forged, EthDst: attachedAt(b, to).MAC, Proto: "udp", Token: token,
			Src: netip.AddrPortFrom(addrOf(b, from, IPv4), b.freePort()), Dst: netip.AddrPortFrom(addrOf(b, to, IPv4), controlPort),
		}); err != nil {
			return Observation{}, err
		}
		if ok, err := eventually(ctx, patience, func() (bool, error) {
			got, err := recorded(ctx, func(p lab.Packet) bool { return p.Token == token && p.Machine == to.Machine && p.In == to.Container })
			return len(got) > 0, err
		}); err != nil || !ok {
			return Observation{}, errors.Join(err, fmt.Errorf("the frame of %s did not come to %s", from, to))
		}
		s, err := b.State(ctx, to.Machine)
		if err != nil {
			return Observation{}, err
		}
		known, entries := "", 0
		for _, e := range s.Spaces[""].FDB {
			if e.Link != device.Name || !e.Dst.IsValid() {
				continue
			}
			entries++
			if bytes.Equal(e.MAC, forged) {
				known = e.Dst.String()
			}
		}
		o := whether(known == underlayOf(b, from.Machine).String(), "%s sent %s a frame from %s, which came: %s knows of it %q", from, to, forged, to.Machine, known).
			with(to.Machine, "%d entries of %s", entries, device.Name)
		if o.Status == reports.Blocked && known != "" {
			o.Status = "mixed"
		}
		return o, nil
	},
	Sabotage: []Sabotage{
		{Mode: "vxlan-static", Doc: "the tunnels learn nothing", Setup: mapTunnels(func(l *topology.Link) { l.Learning = false })},
		{Mode: "vxlan-multicast", Doc: "the tunnels learn nothing", Setup: mapTunnels(func(l *topology.Link) { l.Learning = false })},
		{Mode: "vxlan-gossip", Doc: "the tunnels learn", Setup: mapTunnels(func(l *topology.Link) { l.Learning = true })},
	},
})

var _ = registerFamilies(func(f Family) Spec {
	return Spec{
		Suite: "packets",
		Feature: Feature{
			Name: "overlay-suppression", Group: "packets",
			Doc: "Is a container's question for the MAC address of one of another host answered by its own host, so that nothing of it is on the segment?",
		},
		Name: "a container is attached to another host, is asked by one that never heard of it, and the questions for its MAC address are looked for",
		Run: func(ctx context.Context, b *Bench) (Observation, error) {
			if o := unspanned(b); o != nil {
				return *o, nil
			}
			if o := numberless(b, f); o != nil {
				return *o, nil
			}
			from := container(b)
			c, err := another(b, secondHost(b), network(b), 1)
			if err != nil {
				return Observation{}, err
			}
			to, err := b.Attach(ctx, c, secondHost(b))
			if err != nil {
				return Observation{}, err
			}
			port, err := serve(ctx, b, to, unspecified(f))
			if err != nil {
				return Observation{}, err
			}
			target := netip.AddrPortFrom(addrOf(b, to, f), port)
			recorded, err := b.Record(ctx)
			if err != nil {
				return Observation{}, err
			}
			token := b.newToken()
			// Twice where nothing came back: its port may have to wait for the kernel's link watch (net/core/link_watch.c).
			var a lab.Answer
			for range 2 {
				if a, err = b.Ask(ctx, from, lab.Ask{Proto: "udp", To: target, Token: token, Wait: retry}); err != nil {
					return Observation{}, err
				}
				if a.Answered {
					break
				}
			}
			questions, err := recorded(ctx, func(p lab.Packet) bool {
				q := carriedIn(p)
				return !a.Answered && p.Token == token ||
					q.ARP != nil && q.ARP.Op == 1 && q.ARP.TargetIP == target.Addr() && q.ARP.SenderIP == addrOf(b, from, f) ||
					q.NDP != nil && q.NDP.Kind == "ns" && q.NDP.Target == target.Addr() && q.Src.Addr() == addrOf(b, from, f)
			})
			if err != nil {
				return Observation{}, err
			}
			asked, out := 0, 0
			var evidence []reports.Evidence
			for _, p := range questions {
				switch {
				case p.Token == token: // of what was not answered: where it was
				case p.Machine == from.Machine && p.In == from.Container && p.Outgoing:
					asked++
				case onSegment(b, p):
					out++
				default:
					continue
				}
				evidence = append(evidence, seen(p))
			}
			o := whether(out == 0, "%s asked for %s %d times, and reached it: %t%s; of that %d packets were on the segment", from, target.Addr(), asked, a.Answered, a.Refusal.Text, out)
			if asked == 0 || !a.Answered {
				o.Status = "mixed"
			}
			o.Evidence = evidence
			return o, nil
		},
		Sabotage: []Sabotage{
			{Mode: "vxlan-static", Doc: "the container knows the MAC address", Steps: acquaintedFar},
			{Mode: "vxlan-gossip", Doc: "the tunnels answer for nobody", Setup: mapTunnels(func(l *topology.Link) { l.Proxy = false })},
		},
	}
})

// acquaintedFar tells the first container the MAC address of the next one of the second host.
func acquaintedFar(p *topology.Plan) (steps []topology.Step) {
	h := p.Hosts()[0]
	c, err := p.Container(p.Hosts()[1].Name, p.Networks[0].Name, len(p.Hosts()[1].Containers)+1)
	if err != nil {
		return nil
	}
	v4, v6 := p.Overlay(c)
	for _, a := range []netip.Prefix{v4, v6} {
		steps = append(steps, topology.Step{On: h.Name, In: h.Containers[0].Name, Neigh: &topology.Neigh{Link: "eth0", IP: a.Addr(), MAC: c.MAC}})
	}
	return steps
}

var _ = register(Spec{
	Suite: "packets",
	Feature: Feature{
		Name: "overlay-joins", Group: "packets",
		Doc: "Does a host join a multicast group on the segment for the overlay, and leave it when the tunnel ends?",
	},
	Name: "the tunnel of a host is taken down and up again, and membership reports are looked for on the segment until one that follows has come",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		if o := hidden(b); o != nil {
			return *o, nil
		}
		host := firstHost(b)
		device, err := tunnelOf(b, host)
		if err != nil {
			return Observation{}, err
		}
		by := entering(b, host)
		var o Observation
		moved := map[string]string{} // what was reported of groups, by what was done
		for i, state := range []string{"down", "up"} {
			recorded, err := b.Record(ctx)
			if err != nil {
				return Observation{}, err
			}
			if err := b.Apply(ctx, topology.Step{On: host, Set: &topology.LinkSet{Name: device.Name, State: state}}); err != nil {
				return Observation{}, err
			}
			// A group of a program's own: what is reported of it comes after.
			control := netip.AddrFrom4([4]byte{239, 255, 77, byte(i + 1)})
			if _, err := b.Listen(ctx, Place{Machine: host}, lab.Listen{
				Proto: "udp", Addr: netip.AddrPortFrom(unspecified(IPv4), 0), Group: control, Device: uplink(b).Name, Silent: true,
			}); err != nil {
				return Observation{}, err
			}
			var heard []lab.Packet
			if ok, err := eventually(ctx, patience, func() (bool, error) {
				heard, err = recorded(ctx, func(p lab.Packet) bool { return by(p) && p.Proto == "igmp" })
				return slices.ContainsFunc(heard, func(p lab.Packet) bool {
					return slices.ContainsFunc(p.Groups, func(g lab.Group) bool { return g.Addr == control })
				}), err
			}); err != nil || !ok {
				return Observation{}, errors.Join(err, fmt.Errorf("%s reports no group at all", host))
			}
			for _, p := range heard {
				o.Evidence = append(o.Evidence, seen(p))
				for _, g := range p.Groups {
					if g.Addr != control && g.Addr.As4()[0] == 239 && g.Addr.As4()[1] != 255 {
						moved[state+" "+g.Kind] = g.Addr.String()
					}
				}
			}
		}
		left, came := moved["down leave"], moved["up join"]
		seen := whether(came != "", "the tunnel %s of %s was taken down and up: it reported that it left %q, and that it joined %q", device.Name, host, left, came)
		if left != came || came != "" && came != device.Group.String() {
			seen.Status = "mixed"
		}
		seen.Evidence = o.Evidence
		return seen, nil
	},
	Sabotage: []Sabotage{
		{Mode: "vxlan-multicast", Doc: "the tunnels have no group", Setup: mapTunnels(func(l *topology.Link) { l.Group, l.Parent = netip.Addr{}, "" })},
		{Mode: "vxlan-static", Doc: "the tunnels have a group", Setup: mapTunnels(func(l *topology.Link) {
			l.Group, l.Parent = netip.AddrFrom4([4]byte{239, 1, 1, byte(l.VNI)}), "eth0"
		})},
	},
})

var _ = register(Spec{
	Suite: "lifecycle",
	Feature: Feature{
		Name: "overlay-vni-once", Group: "lifecycle",
		Doc: "Is a second tunnel of the same VNI and port refused on a host, as is a VNI of more than 24 bits, while another port or VNI is taken?",
	},
	Name: "VXLAN devices with the network's VNI, with those at the ends of the range and beyond it are tried on a host",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		if o := unspanned(b); o != nil {
			return *o, nil
		}
		host := firstHost(b)
		device, err := tunnelOf(b, host)
		if err != nil {
			return Observation{}, err
		}
		var o Observation
		var wrong []string
		for _, try := range []struct {
			vni, port int
			want      string // errno
		}{
			{device.VNI, device.Port, "EEXIST"},
			{device.VNI, device.Port + 1, ""},
			{0, device.Port, ""},
			{1<<24 - 1, device.Port, ""},
			{1 << 24, device.Port, "ERANGE"},
		} {
			step := topology.Step{On: host, Link: &topology.Link{Name: besides, Kind: "vxlan", Local: device.Local, VNI: try.vni, Port: try.port}}
			refusal, err := b.Attempt(ctx, step)
			if err != nil {
				return Observation{}, err
			}
			o.Reproduce = append(o.Reproduce, step.String())
			o = o.with(host, "VNI %d at port %d: refused %q", try.vni, try.port, refusal.Errno)
			if refusal.Errno != try.want {
				wrong = append(wrong, fmt.Sprintf("VNI %d at port %d: refused %q, not %q", try.vni, try.port, refusal.Errno, try.want))
			}
		}
		seen := summed(wrong, o.Evidence, "%s refused a second device with the VNI %d at port %d, and one with a VNI of 25 bits, and took others", host, device.VNI, device.Port)
		seen.Reproduce = o.Reproduce
		return seen, nil
	},
	Sabotage: []Sabotage{
		{Mode: "vxlan-static", Doc: "the tunnels use another port", Setup: mapTunnels(func(l *topology.Link) { l.Port = 8472 })},
	},
})

var _ = registerFamilies(func(f Family) Spec {
	return Spec{
		Suite: "lifecycle",
		Feature: Feature{
			Name: "overlay-move", Group: "operations",
			Doc: "Does a container that moves to another host keep its address, and do those of its network on both hosts reach it there again?",
		},
		Name: "a container asks another a thousand times a second while that one is detached from its host and attached to another; then one of each host asks it",
		Run:  func(ctx context.Context, b *Bench) (Observation, error) { return overlayMove(ctx, b, f) },
		Sabotage: []Sabotage{
			{Mode: "vxlan-static", Doc: "the container gets another address on the other host", Rewire: renumbered},
			{Mode: "vxlan-multicast", Doc: "the container gets another address on the other host", Rewire: renumbered},
			{Mode: "vxlan-gossip", Doc: "the second host tells the first of no container that comes later", Rewire: sparesOn("h2", unspoken)},
		},
	}
})

// renumbered gives containers that are attached to the second host later on other addresses.
var renumbered = ofSpares(func(steps []topology.Step) []topology.Step {
	steps = slices.Clone(steps)
	for i, s := range steps {
		if s.Addr != nil && s.On == "h2" {
			a := *s.Addr
			a.Prefix = netip.PrefixFrom(a.Prefix.Addr().Next(), a.Prefix.Bits())
			steps[i].Addr = &a
		}
	}
	return steps
})

func overlayMove(ctx context.Context, b *Bench, f Family) (Observation, error) {
	if o := unspanned(b); o != nil {
		return *o, nil
	}
	if o := numberless(b, f); o != nil {
		return *o, nil
	}
	asker, from, to := container(b), firstHost(b), secondHost(b)
	c, err := another(b, from, network(b), 1)
	if err != nil {
		return Observation{}, err
	}
	here, err := b.Attach(ctx, c, from)
	if err != nil {
		return Observation{}, err
	}
	port := b.freePort()
	first, err := serveUDP(ctx, b, here, f, port)
	if err != nil {
		return Observation{}, err
	}
	target := netip.AddrPortFrom(addrOf(b, here, f), port)
	for _, p := range []Place{asker, far(b)} {
		if ok, err := insists(ctx, b, p, target); err != nil || !ok {
			return Observation{}, errors.Join(err, fmt.Errorf("%s does not reach %s at %s before it moves", p, here, target))
		}
	}
	token := b.newToken()
	asked, err := flowing(ctx, b, asker, target, token)
	if err != nil {
		return Observation{}, err
	}
	if ok, err := eventually(ctx, patience, func() (bool, error) { return heardOf(ctx, b, here, first, token) }); err != nil || !ok {
		return Observation{}, errors.Join(err, fmt.Errorf("%s does not hear the flow from %s", here, asker))
	}
	if err := errors.Join(first.stop(), b.Detach(ctx, here)); err != nil {
		return Observation{}, err
	}
	there, err := b.Attach(ctx, c, to)
	if err != nil {
		return Observation{}, err
	}
	second, err := serveUDP(ctx, b, there, f, port)
	if err != nil {
		return Observation{}, err
	}
	// First, since its port may have to wait for the kernel's link watch (net/core/link_watch.c).
	heard, err := eventually(ctx, patience, func() (bool, error) { return heardOf(ctx, b, there, second, token) })
	if err != nil {
		return Observation{}, err
	}
	var o Observation
	for _, p := range []Place{asker, far(b)} {
		t, err := try(ctx, b, p, there, target, "udp")
		if err != nil {
			return Observation{}, err
		}
		if o = t.observation(); o.Status != reports.Works {
			return o, nil
		}
	}
	if !heard {
		return Observation{}, fmt.Errorf("%s is answered by %s again, but not its flow", asker, there)
	}
	tally, err := asked.stop()
	if err != nil {
		return Observation{}, err
	}
	o.Detail = fmt.Sprintf("%s moved from %s to %s: %s and %s reached it at %s again, the first after %.3f s without an answer", c.Name, from, to, asker, far(b), target, tally.Longest.Seconds())
	return o.value("sec", tally.Longest.Seconds()), nil
}

var _ = register(Spec{
	Suite: "lifecycle",
	Feature: Feature{
		Name: "overlay-dead-host", Group: "operations",
		Doc: "When a host has died, do the others soon have no entry left that leads to it, and send it nothing more of what is for containers that were there?",
	},
	Name: "a host is restarted with nothing on it, and a container of another one goes on to send frames to the MAC address of one that was there, until none is put into a tunnel to it and no entry of the tunnel says to",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		if o := unspanned(b); o != nil {
			return *o, nil
		}
		from, to := container(b), far(b)
		// By which each host knows where the other's container is.
		if ok, err := eventually(ctx, crowded, func() (bool, error) {
			a, err := b.Ask(ctx, from, lab.Ask{Proto: "icmp", To: netip.AddrPortFrom(addrOf(b, to, IPv4), 0), Wait: slow})
			return a.Answered, err
		}); err != nil || !ok {
			return Observation{}, errors.Join(err, fmt.Errorf("%s does not reach %s at all", from, to))
		}
		src, dst, err := macsOf(ctx, b, from, to)
		if err != nil {
			return Observation{}, err
		}
		frame := lab.Packet{
			EthSrc: src, EthDst: dst, Proto: "udp",
			Src: netip.AddrPortFrom(addrOf(b, from, IPv4), b.freePort()), Dst: netip.AddrPortFrom(addrOf(b, to, IPv4), controlPort),
		}
		by := entering(b, from.Machine)
		died := time.Now()
		if _, err := b.Reboot(ctx, to.Machine); err != nil {
			return Observation{}, err
		}
		var last, after *lab.Packet
		var entries []string
		over, err := eventually(ctx, crowded, func() (bool, error) {
			recorded, err := b.Record(ctx)
			if err != nil {
				return false, err
			}
			frame.Token = b.newToken()
			if err := b.Send(ctx, from, ownDevice(b, from), frame); err != nil {
				return false, err
			}
			later := b.newToken()
			a, err := b.Ask(ctx, from, lab.Ask{Proto: "udp", To: netip.AddrPortFrom(addrOf(b, external(b), IPv4), controlPort), Token: later, Wait: patience})
			if err != nil || !a.Answered {
				return false, err
			}
			packets, err := recorded(ctx, func(p lab.Packet) bool { return by(p) && (p.Token == frame.Token || p.Token == later) })
			if err != nil {
				return false, err
			}
			after = nil
			gone := true
			for i, p := range packets {
				switch {
				case p.Token == later:
					after = &packets[i]
				case p.Inner != nil && p.Dst.Addr() == underlayOf(b, to.Machine):
					last, gone = &packets[i], false
				}
			}
			own, err := b.own(ctx, from.Machine)
			entries = nil
			for _, e := range own.FDB {
				if e.Dst == underlayOf(b, to.Machine) { // of which nothing leaves while the dead host does not answer for its MAC address
					entries = append(entries, fmt.Sprintf("%s at %s by %s", e.MAC, e.Dst, e.Link))
				}
			}
			return gone && len(entries) == 0 && after != nil, err
		})
		if err == nil && after == nil {
			err = fmt.Errorf("%s asked %s after that, and nothing of it was on the segment: nothing can be concluded from silence", from, external(b))
		}
		if err != nil {
			return Observation{}, err
		}
		took := time.Since(died).Seconds()
		o := blocked("%s died: %s still has entries that lead there, %.1f s later: %s", to.Machine, from.Machine, took, orNone(entries))
		if over {
			o = works("%s died: %s has no entry left that leads there, and sends it nothing more of what %s sends to %s, %.1f s later", to.Machine, from.Machine, from, to, took).value("sec", took)
		}
		if last != nil {
			o.Evidence = append(o.Evidence, seen(*last))
		}
		control := seen(*after)
		control.Saw = "control, after the last frame: " + control.Saw
		o.Evidence = append(o.Evidence, control)
		return o, nil
	},
	Sabotage: []Sabotage{
		{Mode: "vxlan-gossip", Doc: "the first host sends the second one what it has no entry for", Steps: secondTold},
		{Mode: "vxlan-kv", Doc: "the first host sends the second one what it has no entry for", Steps: secondTold},
	},
})
