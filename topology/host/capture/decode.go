package capture

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"github.com/modebench/modebench/topology/lab"
)

const payloadKept = 128 // bytes, as lab.Packet says

// decode fills a packet from its frame. What a frame is too short or too strange for stays empty, and Text says so.
func decode(p *lab.Packet, ethernet bool, etherType uint16, unfinished bool) {
	d := decoder{p: p, unfinished: unfinished}
	if err := d.frame(ethernet, etherType); err != nil {
		d.note = err.Error()
	}
	p.Text = d.text()
}

type decoder struct {
	p          *lab.Packet
	unfinished bool
	size       int    // of the payload, bytes
	said       string // of a DNS message
	note       string // what is odd
}

func (d *decoder) frame(ethernet bool, etherType uint16) (err error) {
	// The parsers of gopacket index without looking in places; gopacket itself recovers like this.
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("malformed: %v", r)
		}
	}()
	p := d.p
	rest := p.Frame
	p.EtherType = etherType
	if ethernet {
		var eth layers.Ethernet
		if err := eth.DecodeFromBytes(rest, gopacket.NilDecodeFeedback); err != nil {
			return err
		}
		p.EthSrc, p.EthDst, p.EtherType, rest = eth.SrcMAC, eth.DstMAC, uint16(eth.EthernetType), eth.Payload
	}
	for p.EtherType == uint16(layers.EthernetTypeDot1Q) || p.EtherType == uint16(layers.EthernetTypeQinQ) {
		var t layers.Dot1Q
		if err := t.DecodeFromBytes(rest, gopacket.NilDecodeFeedback); err != nil {
			return err
		}
		if p.Tag == nil {
			p.VLAN = int(t.VLANIdentifier)
			p.Tag = &lab.Tag{Type: p.EtherType, Priority: int(t.Priority), DropEligible: t.DropEligible}
		}
		p.EtherType, rest = uint16(t.Type), t.Payload
	}
	switch layers.EthernetType(p.EtherType) {
	case layers.EthernetTypeARP:
		return d.arp(rest)
	case layers.EthernetTypeIPv4:
		return d.ipv4(rest)
	case layers.EthernetTypeIPv6:
		return d.ipv6(rest)
	}
	d.payload(rest)
	return nil
}

// tag gives a packet a tag by its TPID and its TCI.
func tag(p *lab.Packet, tpid, tci uint16) {
	p.VLAN = int(tci & 0xfff)
	p.Tag = &lab.Tag{Type: tpid, Priority: int(tci >> 13), DropEligible: tci&0x1000 != 0}
}

func (d *decoder) arp(b []byte) error {
	var a layers.ARP
	if err := a.DecodeFromBytes(b, gopacket.NilDecodeFeedback); err != nil {
		return err
	}
	d.p.Proto = "arp"
	if a.Protocol != layers.EthernetTypeIPv4 || a.ProtAddressSize != 4 {
		return fmt.Errorf("arp for protocol %#04x", uint16(a.Protocol))
	}
	d.p.ARP = &lab.ARP{
		Op: int(a.Operation), SenderMAC: a.SourceHwAddress, TargetMAC: a.DstHwAddress,
		SenderIP: addr(a.SourceProtAddress), TargetIP: addr(a.DstProtAddress),
	}
	return nil
}

func (d *decoder) ipv4(b []byte) error {
	var h layers.IPv4
	if err := h.DecodeFromBytes(b, gopacket.NilDecodeFeedback); err != nil {
		return err
	}
	ip := &lab.IP{
		TTL: int(h.TTL), ID: int(h.Id), Offset: int(h.FragOffset) * 8, DSCP: int(h.TOS >> 2),
		DontFragment: h.Flags&layers.IPv4DontFragment != 0, MoreFragments: h.Flags&layers.IPv4MoreFragments != 0,
		HeaderOK: fold(sum(0, h.Contents)) == 0xffff,
	}
	for _, o := range h.Options {
		ip.RouterAlert = ip.RouterAlert || o.OptionType == 148 // RFC 2113
	}
	d.p.IP = ip
	cut := int(h.Length) > len(b)
	return d.transport(addr(h.SrcIP), addr(h.DstIP), h.Protocol, h.Payload, cut)
}

func (d *decoder) ipv6(b []byte) error {
	if len(b) < 40 {
		return fmt.Errorf("IPv6 header of %d bytes", len(b))
	}
	ip := &lab.IP{TTL: int(b[7]), DSCP: int(binary.BigEndian.Uint16(b) >> 6 & 0x3f), HeaderOK: true}
	d.p.IP = ip
	src, dst, next := addr(b[8:24]), addr(b[24:40]), layers.IPProtocol(b[6])
	length, rest := int(binary.BigEndian.Uint16(b[4:])), b[40:]
	cut := length > len(rest)
	if length > 0 && !cut { // 0: a jumbogram, which fills the frame
		rest = rest[:length]
	}
	for { // RFC 8200, section 4
		switch next {
		case layers.IPProtocolIPv6HopByHop, layers.IPProtocolIPv6Destination, layers.IPProtocolIPv6Routing:
			if len(rest) < 8 || len(rest) < 8+8*int(rest[1]) {
				return fmt.Errorf("IPv6 extension header %d is cut", next)
			}
			size := 8 + 8*int(rest[1])
			if next == layers.IPProtocolIPv6HopByHop {
				ip.RouterAlert = routerAlert(rest[2:size])
			}
			next, rest = layers.IPProtocol(rest[0]), rest[size:]
		case layers.IPProtocolIPv6Fragment:
			if len(rest) < 8 {
				return fmt.Errorf("IPv6 fragment header is cut")
			}
			at := binary.BigEndian.Uint16(rest[2:])
			ip.Offset, ip.MoreFragments = int(at&^7), at&1 != 0
			ip.ID = int(binary.BigEndian.Uint32(rest[4:]))
			next, rest = layers.IPProtocol(rest[0]), rest[8:]
		default:
			return d.transport(src, dst, next, rest, cut)
		}
	}
}

// routerAlert looks for RFC 2711's option.
func routerAlert(options []byte) bool {
	for len(options) > 1 {
		switch {
		case options[0] == 0: // Pad1
			options = options[1:]
			continue
		case options[0] == 5:
			return true
		case len(options) < 2+int(options[1]):
			return false
		}
		options = options[2+int(options[1]):]
	}
	return false
}

// transport reads what an IP header carries; cut says that not all of it is in the frame.
func (d *decoder) transport(src, dst netip.Addr, proto layers.IPProtocol, b []byte, cut bool) error {
	p := d.p
	p.Src, p.Dst = netip.AddrPortFrom(src, 0), netip.AddrPortFrom(dst, 0)
	p.Proto = protoName(proto)
	if p.IP.Offset > 0 {
		d.payload(b)
		return nil
	}
	if !cut && !p.IP.MoreFragments {
		p.IP.Transport = d.checksum(src, dst, proto, b)
	}
	switch proto {
	case layers.IPProtocolUDP:
		if len(b) < 8 {
			return fmt.Errorf("UDP header of %d bytes", len(b))
		}
		d.ports(b)
		d.payload(b[8:])
		if p.Src.Port() == dnsPort || p.Dst.Port() == dnsPort {
			d.dns(b[8:])
		}
		if port := p.Dst.Port(); (port == vxlanPort || port == oldVXLANPort) && len(b) >= 16 {
			first, second := binary.BigEndian.Uint32(b[8:]), binary.BigEndian.Uint32(b[12:])
			p.VXLAN = &lab.VXLAN{Flags: uint8(first >> 24), VNI: int(second >> 8), Reserved: first<<8 | second&0xff}
			d.inner(b[16:], true, 0)
		} else if port == dhcpServerPort || port == dhcpClientPort {
			p.DHCP = dhcpMessage(b[8:])
		} else if (port == dhcp6ServerPort || port == dhcp6ClientPort) && dst.Is6() {
			p.DHCP = dhcp6Message(b[8:])
		} else if port == flannelPort && len(b) > 8 && b[8]>>4 == 4 {
			d.inner(b[8:], false, uint16(layers.EthernetTypeIPv4))
		}
	case layers.IPProtocolIPv4:
		d.payload(b)
		d.inner(b, false, uint16(layers.EthernetTypeIPv4))
	case layers.IPProtocolTCP:
		if len(b) < 20 || int(b[12]>>4)*4 < 20 || int(b[12]>>4)*4 > len(b) {
			return fmt.Errorf("TCP header is cut")
		}
		d.ports(b)
		for i, f := range tcpFlags {
			if b[13]&tcpBits[i] != 0 {
				p.TCPFlags += string(f)
			}
		}
		rest := b[int(b[12]>>4)*4:]
		d.payload(rest)
		if p.Src.Port() == bgpPort || p.Dst.Port() == bgpPort {
			p.BGP = bgpMessages(rest)
		}
	case layers.IPProtocolICMPv4, layers.IPProtocolICMPv6:
		if len(b) < 8 {
			return fmt.Errorf("ICMP message of %d bytes", len(b))
		}
		if proto == layers.IPProtocolICMPv6 && p.IP.Offset == 0 {
			switch {
			case b[0] >= 133 && b[0] <= 137:
				return d.ndp(b)
			case b[0] >= 130 && b[0] <= 132 || b[0] == 143:
				p.Proto = "mld"
				return d.membership(b, 16)
			}
		}
		d.icmp(b, proto == layers.IPProtocolICMPv6)
		d.payload(b[8:])
	case layers.IPProtocolIGMP:
		return d.membership(b, 4)
	default:
		d.payload(b)
	}
	return nil
}

// Ports of VXLAN: RFC 7348's, and the one that Linux had before it (drivers/net/vxlan).
const (
	vxlanPort    = 4789
	oldVXLANPort = 8472
)

// flannelPort is that of flannel's backend udp, whose datagrams are packets of IPv4 (pkg/backend/udp).
const flannelPort = 8285

const dnsPort = 53

// dns says what a DNS message asks or answers (RFC 1035); of what is none, or cut, nothing.
func (d *decoder) dns(b []byte) {
	var m layers.DNS
	if m.DecodeFromBytes(b, gopacket.NilDecodeFeedback) != nil {
		return
	}
	for _, q := range m.Questions {
		d.said += fmt.Sprintf(" %s %s?", q.Type, q.Name)
	}
	if !m.QR {
		return
	}
	if m.ResponseCode != layers.DNSResponseCodeNoErr {
		d.said += " " + strings.ToLower(m.ResponseCode.String())
	}
	for _, r := range m.Answers {
		data := string(r.PTR)
		if r.IP != nil {
			data = r.IP.String()
		}
		d.said += fmt.Sprintf(" %s for %d s", data, r.TTL)
	}
}

// inner reads what a tunnel's packet carries.
func (d *decoder) inner(b []byte, ethernet bool, etherType uint16) {
	d.p.Inner = &lab.Packet{Frame: b, Length: len(b)}
	decode(d.p.Inner, ethernet, etherType, d.unfinished)
	d.p.Inner.Frame = nil
}

func protoName(proto layers.IPProtocol) string {
	switch proto {
	case layers.IPProtocolICMPv4:
		return "icmp"
	case layers.IPProtocolICMPv6:
		return "icmp6"
	case layers.IPProtocolIPv4:
		return "ipip"
	}
	return strings.ToLower(proto.String())
}

// TCP's flags in the order that they are written, and their bits (RFC 9293, section 3.1).
var (
	tcpFlags = "SFRPAUEC"
	tcpBits  = [...]byte{0x02, 0x01, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80}
)

func (d *decoder) ports(b []byte) {
	p := d.p
	p.Src = netip.AddrPortFrom(p.Src.Addr(), binary.BigEndian.Uint16(b))
	p.Dst = netip.AddrPortFrom(p.Dst.Addr(), binary.BigEndian.Uint16(b[2:]))
}

func (d *decoder) icmp(b []byte, v6 bool) {
	m := &lab.ICMP{Type: int(b[0]), Code: int(b[1])}
	switch {
	case v6 && b[0] == 2: // RFC 4443, section 3.2
		m.MTU = int(binary.BigEndian.Uint32(b[4:]))
	case !v6 && b[0] == 3 && b[1] == 4: // RFC 1191
		m.MTU = int(binary.BigEndian.Uint16(b[6:]))
	case v6 && (b[0] == 128 || b[0] == 129), !v6 && (b[0] == 0 || b[0] == 8):
		m.ID, m.Seq = int(binary.BigEndian.Uint16(b[4:])), int(binary.BigEndian.Uint16(b[6:]))
	}
	d.p.ICMP = m
}

// ndp reads RFC 4861's messages, types 133 to 137.
func (d *decoder) ndp(b []byte) error {
	kinds := [...]string{"rs", "ra", "ns", "na", "redirect"}
	starts := [...]int{8, 16, 24, 24, 40} // of the options
	m := &lab.NDP{Kind: kinds[b[0]-133]}
	d.p.NDP = m
	start := starts[b[0]-133]
	if len(b) < start {
		return fmt.Errorf("%s of %d bytes", m.Kind, len(b))
	}
	if m.Kind == "ns" || m.Kind == "na" || m.Kind == "redirect" {
		m.Target = addr(b[8:24])
	}
	if m.Kind == "na" {
		m.Router, m.Solicited, m.Override = b[4]&0x80 != 0, b[4]&0x40 != 0, b[4]&0x20 != 0
	}
	var options layers.ICMPv6Options
	if err := options.DecodeFromBytes(b[start:], gopacket.NilDecodeFeedback); err != nil {
		return err
	}
	for _, o := range options {
		switch {
		case (o.Type == layers.ICMPv6OptSourceAddress || o.Type == layers.ICMPv6OptTargetAddress) && len(o.Data) >= 6:
			m.LinkAddr = net.HardwareAddr(o.Data[:6])
		case o.Type == layers.ICMPv6OptPrefixInfo && len(o.Data) >= 30:
			m.Prefix = netip.PrefixFrom(addr(o.Data[14:30]), int(o.Data[0]))
		}
	}
	return nil
}

// membership reads IGMP (versions 1 to 3) or MLD (1 and 2), which differ in the size of an address: RFC 1112, 2236,
// 3376, 2710, 3810.
func (d *decoder) membership(b []byte, size int) error {
	head := 4 // before the group of the older messages
	if size == 16 {
		head = 8
	}
	if len(b) < 8 {
		return fmt.Errorf("group message of %d bytes", len(b))
	}
	one := func(kind string) error {
		if len(b) < head+size {
			return fmt.Errorf("group message of %d bytes", len(b))
		}
		d.p.Groups = []lab.Group{{Addr: addr(b[head : head+size]), Kind: kind}}
		return nil
	}
	switch b[0] {
	case 0x11, 130:
		return one("query")
	case 0x12, 0x16, 131:
		return one("join")
	case 0x17, 132:
		return one("leave")
	case 0x22, 143:
		rest := b[8:]
		for n := binary.BigEndian.Uint16(b[6:]); n > 0; n-- {
			if len(rest) < 4+size {
				return fmt.Errorf("group report is cut")
			}
			kind, sources := rest[0], int(binary.BigEndian.Uint16(rest[2:]))
			d.p.Groups = append(d.p.Groups, lab.Group{Addr: addr(rest[4 : 4+size]), Kind: recordKind(kind, sources)})
			length := 4 + size + sources*size + 4*int(rest[1])
			if len(rest) < length {
				return fmt.Errorf("group report is cut")
			}
			rest = rest[length:]
		}
		return nil
	}
	return fmt.Errorf("group message of type %d", b[0])
}

// recordKind names a group record (RFC 3376, section 4.2.12). A change to exclude nothing is a join, to include nothing
// a leave.
func recordKind(kind byte, sources int) string {
	switch {
	case kind == 4 && sources == 0:
		return "join"
	case kind == 3 && sources == 0:
		return "leave"
	case kind == 2 || kind == 4 || kind == 6:
		return "exclude"
	}
	return "include"
}

func (d *decoder) payload(b []byte) {
	d.size = len(b)
	d.p.Token, _ = lab.Token(b)
	d.p.Payload = b[:min(len(b), payloadKept)]
}

// checksum judges the checksum of a whole transport message.
func (d *decoder) checksum(src, dst netip.Addr, proto layers.IPProtocol, b []byte) string {
	var s uint32
	switch proto {
	case layers.IPProtocolUDP:
		if len(b) < 8 {
			return ""
		}
		if b[6] == 0 && b[7] == 0 {
			return "none"
		}
		s = pseudo(src, dst, proto, len(b))
	case layers.IPProtocolTCP, layers.IPProtocolICMPv6:
		s = pseudo(src, dst, proto, len(b))
	case layers.IPProtocolICMPv4, layers.IPProtocolIGMP:
	default:
		return ""
	}
	switch {
	case d.unfinished:
		return "unfinished"
	case fold(sum(s, b)) == 0xffff:
		return "ok"
	}
	return "wrong"
}

// pseudo sums the pseudo header of RFC 9293, section 3.1, and RFC 8200, section 8.1.
func pseudo(src, dst netip.Addr, proto layers.IPProtocol, length int) uint32 {
	s := sum(sum(0, src.AsSlice()), dst.AsSlice())
	return s + uint32(proto) + uint32(length)
}

// sum adds up 16 bit words (RFC 1071); fold makes one of the result.
func sum(s uint32, b []byte) uint32 {
	for ; len(b) >= 2; b = b[2:] {
		s += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		s += uint32(b[0]) << 8
	}
	return s
}

func fold(s uint32) uint16 {
	for s>>16 != 0 {
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}

func addr(b []byte) netip.Addr {
	a, _ := netip.AddrFromSlice(b)
	return a
}

// text is the packet in one line.
func (d *decoder) text() string {
	p := d.p
	var t strings.Builder
	if p.VLAN != 0 {
		fmt.Fprintf(&t, "vlan %d ", p.VLAN)
	}
	switch {
	case p.ARP != nil && p.ARP.Op == 1:
		fmt.Fprintf(&t, "arp who-has %v tell %v (%v)", p.ARP.TargetIP, p.ARP.SenderIP, p.ARP.SenderMAC)
	case p.ARP != nil && p.ARP.Op == 2:
		fmt.Fprintf(&t, "arp reply %v is-at %v", p.ARP.SenderIP, p.ARP.SenderMAC)
	case p.IP == nil:
		fmt.Fprintf(&t, "%v > %v ethertype %#04x, %d bytes", p.EthSrc, p.EthDst, p.EtherType, p.Length)
	default:
		fmt.Fprintf(&t, "%s > %s: %s", end(p.Src), end(p.Dst), p.Proto)
		if p.TCPFlags != "" {
			fmt.Fprintf(&t, " [%s]", p.TCPFlags)
		}
		if m := p.ICMP; m != nil {
			fmt.Fprintf(&t, " type %d code %d", m.Type, m.Code)
			if m.ID != 0 || m.Seq != 0 {
				fmt.Fprintf(&t, " id %d seq %d", m.ID, m.Seq)
			}
			if m.MTU != 0 {
				fmt.Fprintf(&t, " mtu %d", m.MTU)
			}
		}
		if m := p.NDP; m != nil {
			fmt.Fprintf(&t, " %s", m.Kind)
			if m.Target.IsValid() {
				fmt.Fprintf(&t, " %v", m.Target)
			}
			if m.LinkAddr != nil {
				fmt.Fprintf(&t, " is-at %v", m.LinkAddr)
			}
		}
		for _, g := range p.Groups {
			fmt.Fprintf(&t, " %s %v", g.Kind, g.Addr)
		}
		for _, m := range p.BGP {
			t.WriteString(bgpText(m))
		}
		if p.DHCP != nil {
			t.WriteString(dhcpText(*p.DHCP, p.Dst.Addr().Is6()))
		}
		t.WriteString(d.said)
		fmt.Fprintf(&t, ", ttl %d", p.IP.TTL)
		if p.IP.DontFragment {
			t.WriteString(" DF")
		}
		if p.IP.MoreFragments || p.IP.Offset > 0 {
			fmt.Fprintf(&t, " fragment id %d at %d", p.IP.ID, p.IP.Offset)
		}
		if !p.IP.HeaderOK {
			t.WriteString(" (header checksum wrong)")
		}
		if p.IP.Transport == "wrong" {
			t.WriteString(" (checksum wrong)")
		}
		if d.size > 0 {
			fmt.Fprintf(&t, ", %d bytes", d.size)
		}
	}
	if p.VXLAN != nil {
		fmt.Fprintf(&t, " vxlan %d", p.VXLAN.VNI)
	}
	if p.Inner != nil {
		fmt.Fprintf(&t, " (%s)", p.Inner.Text)
	} else if p.Token != "" {
		fmt.Fprintf(&t, " %q", p.Token)
	}
	if d.note != "" {
		fmt.Fprintf(&t, " (%s)", d.note)
	}
	return t.String()
}

func end(ap netip.AddrPort) string {
	if ap.Port() == 0 {
		return ap.Addr().String()
	}
	return ap.String()
}
