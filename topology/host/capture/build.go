package capture

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"github.com/modebench/modebench/topology/lab"
)

// Build makes the frame that a packet describes: ARP (ARP), neighbour discovery (NDP), IGMPv3 and MLDv2 messages
// (Groups; a query has one), ICMP of either family (ICMP), UDP and TCP (Proto). Lengths and checksums are computed,
// and what is zero takes the protocol's usual value: a TTL of 64, 255 for neighbour discovery (RFC 4861), 1 with a
// router alert for group messages (RFC 3376, RFC 3810); a multicast or broadcast EthDst from Dst; a payload from Token.
// It is an error where the fields do not make a packet.
func Build(p lab.Packet) ([]byte, error) {
	frame, err := build(p)
	if err != nil {
		return nil, fmt.Errorf("build packet: %w", err)
	}
	return frame, nil
}

func build(p lab.Packet) ([]byte, error) {
	var stack []gopacket.SerializableLayer
	var err error
	if p.ARP != nil {
		stack, err = buildARP(&p)
	} else {
		stack, err = buildIP(&p)
	}
	if err != nil {
		return nil, err
	}
	if len(p.EthSrc) != 6 || len(p.EthDst) != 6 {
		return nil, fmt.Errorf("from %q to %q: both must be Ethernet addresses", p.EthSrc, p.EthDst)
	}
	outer := &layers.Ethernet{SrcMAC: p.EthSrc, DstMAC: p.EthDst, EthernetType: layers.EthernetType(p.EtherType)}
	var inner []gopacket.SerializableLayer
	if p.VLAN != 0 {
		if p.VLAN < 0 || p.VLAN > 4094 {
			return nil, fmt.Errorf("VLAN %d: not in 1 to 4094", p.VLAN)
		}
		inner = append(inner, &layers.Dot1Q{VLANIdentifier: uint16(p.VLAN), Type: outer.EthernetType})
		outer.EthernetType = layers.EthernetTypeDot1Q
	}
	buf := gopacket.NewSerializeBuffer()
	options := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
	if err := gopacket.SerializeLayers(buf, options, append(inner, stack...)...); err != nil {
		return nil, err
	}
	length := 14 + len(buf.Bytes()) // the kernel's frames are not padded to Ethernet's 60 bytes; these are not, either
	if err := outer.SerializeTo(buf, options); err != nil {
		return nil, err
	}
	return bytes.Clone(buf.Bytes()[:length]), nil
}

var broadcast = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

func buildARP(p *lab.Packet) ([]gopacket.SerializableLayer, error) {
	a := p.ARP
	p.EtherType = uint16(layers.EthernetTypeARP)
	if p.EthDst == nil {
		p.EthDst = broadcast
	}
	target := a.TargetMAC
	if target == nil {
		target = make(net.HardwareAddr, 6)
	}
	if len(a.SenderMAC) != 6 || len(target) != 6 || !a.SenderIP.Is4() || !a.TargetIP.Is4() {
		return nil, errors.New("arp: needs Ethernet and IPv4 addresses of sender and target")
	}
	return []gopacket.SerializableLayer{&layers.ARP{
		AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4, HwAddressSize: 6, ProtAddressSize: 4,
		Operation: uint16(a.Op), SourceHwAddress: a.SenderMAC, SourceProtAddress: a.SenderIP.AsSlice(),
		DstHwAddress: target, DstProtAddress: a.TargetIP.AsSlice(),
	}}, nil
}

func buildIP(p *lab.Packet) ([]gopacket.SerializableLayer, error) {
	src, dst := p.Src.Addr(), p.Dst.Addr()
	if !src.IsValid() || !dst.IsValid() || src.Is4() != dst.Is4() {
		return nil, fmt.Errorf("from %v to %v: not addresses of one family", src, dst)
	}
	src, dst = src.WithZone(""), dst.WithZone("")
	if p.EthDst == nil {
		p.EthDst = groupMAC(dst)
	}
	var ip lab.IP
	if p.IP != nil {
		ip = *p.IP
	}
	if ip.TTL < 0 || ip.TTL > 255 || ip.DSCP < 0 || ip.DSCP > 63 || ip.Offset < 0 || ip.Offset > 65528 || ip.Offset%8 != 0 {
		return nil, fmt.Errorf("IP header %+v: a field is out of its range", ip)
	}
	proto, body, err := buildTransport(p)
	if err != nil {
		return nil, err
	}
	if len(p.Groups) > 0 {
		ip.TTL, ip.RouterAlert = cmp.Or(ip.TTL, 1), true
	}
	if p.NDP != nil {
		ip.TTL = cmp.Or(ip.TTL, 255)
	}
	ip.TTL = cmp.Or(ip.TTL, 64)
	if ip.Offset == 0 {
		finish(src, dst, proto, body)
	}
	if src.Is4() {
		p.EtherType = uint16(layers.EthernetTypeIPv4)
		h := &layers.IPv4{
			Version: 4, TOS: uint8(ip.DSCP) << 2, Id: uint16(ip.ID), FragOffset: uint16(ip.Offset / 8), TTL: uint8(ip.TTL),
			Protocol: proto, SrcIP: src.AsSlice(), DstIP: dst.AsSlice(),
		}
		if ip.DontFragment {
			h.Flags |= layers.IPv4DontFragment
		}
		if ip.MoreFragments {
			h.Flags |= layers.IPv4MoreFragments
		}
		if ip.RouterAlert {
			h.Options = []layers.IPv4Option{{OptionType: 148, OptionLength: 4, OptionData: []byte{0, 0}}}
		}
		return []gopacket.SerializableLayer{h, gopacket.Payload(body)}, nil
	}
	p.EtherType = uint16(layers.EthernetTypeIPv6)
	h := &layers.IPv6{
		Version: 6, TrafficClass: uint8(ip.DSCP) << 2, HopLimit: uint8(ip.TTL), NextHeader: proto,
		SrcIP: src.AsSlice(), DstIP: dst.AsSlice(),
	}
	// Extension headers in the order of RFC 8200, section 4.1, the last first.
	if ip.Offset > 0 || ip.MoreFragments {
		at := uint16(ip.Offset)
		if ip.MoreFragments {
			at |= 1
		}
		head := binary.BigEndian.AppendUint16([]byte{byte(h.NextHeader), 0}, at)
		body = append(binary.BigEndian.AppendUint32(head, uint32(ip.ID)), body...)
		h.NextHeader = layers.IPProtocolIPv6Fragment
	}
	if ip.RouterAlert {
		body = append([]byte{byte(h.NextHeader), 0, 5, 2, 0, 0, 1, 0}, body...)
		h.NextHeader = layers.IPProtocolIPv6HopByHop
	}
	return []gopacket.SerializableLayer{rawIPv6{h, len(body)}, gopacket.Payload(body)}, nil
}

// rawIPv6 is an IPv6 header in front of extension headers that are part of its payload.
type rawIPv6 struct {
	*layers.IPv6
	length int
}

// SerializeTo puts the header in front of what the buffer holds.
func (h rawIPv6) SerializeTo(b gopacket.SerializeBuffer, _ gopacket.SerializeOptions) error {
	if h.length > 65535 {
		return fmt.Errorf("payload of %d bytes", h.length)
	}
	h.Length = uint16(h.length)
	return h.IPv6.SerializeTo(b, gopacket.SerializeOptions{})
}

// groupMAC is the Ethernet address that a multicast or broadcast destination has of itself (RFC 1112, RFC 2464).
func groupMAC(dst netip.Addr) net.HardwareAddr {
	b := dst.AsSlice()
	switch {
	case dst.Is4() && dst.IsMulticast():
		return net.HardwareAddr{0x01, 0x00, 0x5e, b[1] & 0x7f, b[2], b[3]}
	case dst.IsMulticast():
		return append(net.HardwareAddr{0x33, 0x33}, b[12:]...)
	case dst == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return broadcast
	}
	return nil
}

// buildTransport makes what the IP header carries, with a checksum of zero.
func buildTransport(p *lab.Packet) (layers.IPProtocol, []byte, error) {
	v6 := p.Dst.Addr().Is6()
	payload := p.Payload
	if payload == nil && p.Token != "" {
		payload = lab.Payload(p.Token, 0)
	}
	icmp := layers.IPProtocolICMPv4
	if v6 {
		icmp = layers.IPProtocolICMPv6
	}
	if p.IP != nil && p.IP.Offset > 0 {
		proto := map[string]layers.IPProtocol{
			"udp": layers.IPProtocolUDP, "tcp": layers.IPProtocolTCP, "icmp": layers.IPProtocolICMPv4, "icmp6": layers.IPProtocolICMPv6,
		}[p.Proto]
		if proto == 0 {
			return 0, nil, fmt.Errorf("fragment of %q: want udp, tcp, icmp or icmp6", p.Proto)
		}
		return proto, payload, nil
	}
	switch {
	case p.NDP != nil && v6:
		b, err := buildNDP(p.NDP)
		return layers.IPProtocolICMPv6, b, err
	case p.NDP != nil:
		return 0, nil, errors.New("neighbour discovery over IPv4")
	case len(p.Groups) > 0:
		b, err := buildGroups(p.Groups, v6)
		if v6 {
			return layers.IPProtocolICMPv6, b, err
		}
		return layers.IPProtocolIGMP, b, err
	case p.ICMP != nil:
		m := p.ICMP
		b := []byte{byte(m.Type), byte(m.Code), 0, 0}
		switch {
		case v6 && m.Type == 2:
			b = binary.BigEndian.AppendUint32(b, uint32(m.MTU))
		case !v6 && m.Type == 3 && m.Code == 4:
			b = binary.BigEndian.AppendUint16(append(b, 0, 0), uint16(m.MTU))
		default:
			b = binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(b, uint16(m.ID)), uint16(m.Seq))
		}
		return icmp, append(b, payload...), nil
	case p.Proto == "udp":
		b := binary.BigEndian.AppendUint16(nil, p.Src.Port())
		b = binary.BigEndian.AppendUint16(b, p.Dst.Port())
		b = binary.BigEndian.AppendUint16(b, uint16(8+len(payload)))
		return layers.IPProtocolUDP, append(append(b, 0, 0), payload...), nil
	case p.Proto == "tcp":
		b := binary.BigEndian.AppendUint16(nil, p.Src.Port())
		b = binary.BigEndian.AppendUint16(b, p.Dst.Port())
		b = append(b, make([]byte, 16)...)
		b[12], b[14], b[15] = 5<<4, 0xff, 0xff // five words of header, the widest window
		for _, f := range p.TCPFlags {
			i := strings.IndexRune(tcpFlags, f)
			if i < 0 {
				return 0, nil, fmt.Errorf("TCP flag %q: want some of %s", f, tcpFlags)
			}
			b[13] |= tcpBits[i]
		}
		return layers.IPProtocolTCP, append(b, payload...), nil
	}
	return 0, nil, fmt.Errorf("protocol %q: want ARP, NDP, ICMP or Groups, or one of udp, tcp", p.Proto)
}

// finish puts the checksum into a transport message.
func finish(src, dst netip.Addr, proto layers.IPProtocol, b []byte) {
	at := map[layers.IPProtocol]int{
		layers.IPProtocolUDP: 6, layers.IPProtocolTCP: 16, layers.IPProtocolICMPv4: 2, layers.IPProtocolICMPv6: 2, layers.IPProtocolIGMP: 2,
	}[proto]
	var s uint32
	if proto != layers.IPProtocolICMPv4 && proto != layers.IPProtocolIGMP {
		s = pseudo(src, dst, proto, len(b))
	}
	c := ^fold(sum(s, b))
	if c == 0 && proto == layers.IPProtocolUDP {
		c = 0xffff // RFC 768: zero would say that there is none
	}
	binary.BigEndian.PutUint16(b[at:], c)
}

func buildNDP(m *lab.NDP) ([]byte, error) {
	kinds := []string{"rs", "ra", "ns", "na"}
	i := slices.Index(kinds, m.Kind)
	if i < 0 {
		return nil, fmt.Errorf("neighbour discovery %q: want one of %s", m.Kind, strings.Join(kinds, ", "))
	}
	b := []byte{byte(133 + i), 0, 0, 0, 0, 0, 0, 0}
	linkOption := layers.ICMPv6OptSourceAddress
	switch m.Kind {
	case "ra":
		// Hop limit 64, a default router for half an hour, and the timers left to the host.
		b[4] = 64
		binary.BigEndian.PutUint16(b[6:], 1800)
		if m.Managed {
			b[5] |= 0x80
		}
		b = append(b, make([]byte, 8)...)
	case "na":
		linkOption = layers.ICMPv6OptTargetAddress
		for bit, set := range map[byte]bool{0x80: m.Router, 0x40: m.Solicited, 0x20: m.Override} {
			if set {
				b[4] |= bit
			}
		}
		fallthrough
	case "ns":
		if !m.Target.Is6() {
			return nil, fmt.Errorf("%s: target %v is no IPv6 address", m.Kind, m.Target)
		}
		b = append(b, m.Target.AsSlice()...)
	}
	if m.LinkAddr != nil {
		if len(m.LinkAddr) != 6 {
			return nil, fmt.Errorf("%s: %q is no Ethernet address", m.Kind, m.LinkAddr)
		}
		b = append(append(b, byte(linkOption), 1), m.LinkAddr...)
	}
	if m.Prefix.IsValid() {
		if m.Kind != "ra" || !m.Prefix.Addr().Is6() {
			return nil, fmt.Errorf("%s: prefix %v: only a router advertises one, of IPv6", m.Kind, m.Prefix)
		}
		// On-link, and autonomous unless others give out addresses, valid for an hour (RFC 4861, section 4.6.2).
		flags := byte(0xc0)
		if m.Managed {
			flags = 0x80
		}
		b = append(b, byte(layers.ICMPv6OptPrefixInfo), 4, byte(m.Prefix.Bits()), flags)
		b = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(b, 3600), 3600)
		b = append(append(b, 0, 0, 0, 0), m.Prefix.Masked().Addr().AsSlice()...)
	}
	return b, nil
}

// buildGroups makes an IGMPv3 or MLDv2 query, or a report of records without sources.
func buildGroups(groups []lab.Group, v6 bool) ([]byte, error) {
	of := "IPv4"
	if v6 {
		of = "IPv6"
	}
	for _, g := range groups {
		if g.Addr.Is6() != v6 || !g.Addr.IsValid() {
			return nil, fmt.Errorf("group %v: no %s address", g.Addr, of)
		}
	}
	if groups[0].Kind == "query" {
		if len(groups) > 1 {
			return nil, fmt.Errorf("a query is about one group, not %d", len(groups))
		}
		// To be answered within a second; robustness 2, interval 125 s: the defaults of RFC 3376 and RFC 3810, section 8.
		if v6 {
			b := append([]byte{130, 0, 0, 0, 1000 >> 8, 1000 & 0xff, 0, 0}, groups[0].Addr.AsSlice()...)
			return append(b, 2, 125, 0, 0), nil
		}
		b := append([]byte{0x11, 10, 0, 0}, groups[0].Addr.AsSlice()...)
		return append(b, 2, 125, 0, 0), nil
	}
	kinds := map[string]byte{"include": 1, "exclude": 2, "leave": 3, "join": 4}
	b := []byte{0x22, 0, 0, 0, 0, 0, 0, byte(len(groups))}
	if v6 {
		b[0] = 143
	}
	for _, g := range groups {
		kind := kinds[g.Kind]
		if kind == 0 {
			return nil, fmt.Errorf("group record %q: want join, leave, include or exclude", g.Kind)
		}
		b = append(append(b, kind, 0, 0, 0), g.Addr.AsSlice()...)
	}
	return b, nil
}
