package capture

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/google/gopacket/pcapgo"
	"pgregory.net/rapid"

	"github.com/modebench/modebench/topology/lab"
)

var (
	macs = rapid.Map(rapid.SliceOfN(rapid.Byte(), 6, 6), func(b []byte) net.HardwareAddr { return b })
	v4s  = rapid.Map(rapid.SliceOfN(rapid.Byte(), 4, 4), func(b []byte) netip.Addr { return netip.AddrFrom4([4]byte(b)) })
	v6s  = rapid.Map(rapid.SliceOfN(rapid.Byte(), 16, 16), func(b []byte) netip.Addr { return netip.AddrFrom16([16]byte(b)) }).
		Filter(func(a netip.Addr) bool { return !a.Is4In6() })
	groupKinds = rapid.SampledFrom([]string{"join", "leave", "include", "exclude"})
)

// described draws a packet that Build takes, as decode should give it back.
func described(t *rapid.T) lab.Packet {
	p := lab.Packet{EthSrc: macs.Draw(t, "EthSrc"), EthDst: macs.Draw(t, "EthDst"), VLAN: rapid.IntRange(0, 4094).Draw(t, "VLAN")}
	kind := rapid.SampledFrom([]string{"arp", "udp", "tcp", "icmp", "toobig", "ndp", "query", "report", "fragment"}).Draw(t, "kind")
	if kind == "arp" {
		p.EtherType, p.Proto = 0x0806, "arp"
		p.ARP = &lab.ARP{
			Op: rapid.IntRange(1, 2).Draw(t, "Op"), SenderMAC: macs.Draw(t, "SenderMAC"), TargetMAC: macs.Draw(t, "TargetMAC"),
			SenderIP: v4s.Draw(t, "SenderIP"), TargetIP: v4s.Draw(t, "TargetIP"),
		}
		return p
	}
	v6 := kind == "ndp" || rapid.Bool().Draw(t, "v6")
	ips, icmp, groups := v4s, "icmp", "igmp"
	p.EtherType = 0x0800
	if v6 {
		ips, icmp, groups = v6s, "icmp6", "mld"
		p.EtherType = 0x86dd
	}
	p.IP = &lab.IP{
		TTL: rapid.IntRange(1, 255).Draw(t, "TTL"), DSCP: rapid.IntRange(0, 63).Draw(t, "DSCP"), HeaderOK: true, Transport: "ok",
		RouterAlert: rapid.Bool().Draw(t, "RouterAlert"),
	}
	if !v6 {
		p.IP.DontFragment, p.IP.ID = rapid.Bool().Draw(t, "DF"), rapid.IntRange(0, 65535).Draw(t, "ID")
	}
	var sport, dport uint16
	switch kind {
	case "udp", "tcp":
		sport = rapid.Uint16().Draw(t, "sport")
		dport = rapid.Uint16().Filter(func(p uint16) bool { return p != vxlanPort && p != oldVXLANPort }).Draw(t, "dport")
		p.Proto = kind
		if kind == "tcp" {
			p.TCPFlags = rapid.SampledFrom([]string{"S", "SA", "A", "FA", "R", "PA", "SAEC"}).Draw(t, "TCPFlags")
		}
	case "icmp":
		p.Proto, p.ICMP = icmp, &lab.ICMP{Type: 8, ID: rapid.IntRange(0, 65535).Draw(t, "ID"), Seq: rapid.IntRange(0, 65535).Draw(t, "Seq")}
		if v6 {
			p.ICMP.Type = 128
		}
	case "toobig":
		p.Proto, p.ICMP = icmp, &lab.ICMP{Type: 3, Code: 4, MTU: rapid.IntRange(0, 65535).Draw(t, "MTU")}
		if v6 {
			p.ICMP.Type, p.ICMP.Code = 2, 0
		}
	case "ndp":
		m := &lab.NDP{Kind: rapid.SampledFrom([]string{"rs", "ra", "ns", "na"}).Draw(t, "Kind")}
		if rapid.Bool().Draw(t, "has LinkAddr") {
			m.LinkAddr = macs.Draw(t, "LinkAddr")
		}
		switch m.Kind {
		case "na":
			m.Override, m.Solicited, m.Router = rapid.Bool().Draw(t, "O"), rapid.Bool().Draw(t, "S"), rapid.Bool().Draw(t, "R")
			m.Target = v6s.Draw(t, "Target")
		case "ns":
			m.Target = v6s.Draw(t, "Target")
		case "ra":
			m.Prefix, _ = v6s.Draw(t, "Prefix").Prefix(rapid.IntRange(0, 128).Draw(t, "bits"))
		}
		p.Proto, p.NDP = icmp, m
	case "query", "report":
		p.Proto, p.IP.RouterAlert = groups, true
		if kind == "query" {
			p.Groups = []lab.Group{{Addr: ips.Draw(t, "group"), Kind: "query"}}
			break
		}
		for range rapid.IntRange(1, 4).Draw(t, "groups") {
			p.Groups = append(p.Groups, lab.Group{Addr: ips.Draw(t, "group"), Kind: groupKinds.Draw(t, "kind")})
		}
	case "fragment":
		p.Proto = rapid.SampledFrom([]string{"udp", "tcp"}).Draw(t, "Proto")
		p.IP.Transport, p.IP.ID = "", rapid.IntRange(0, 65535).Draw(t, "ID")
		p.IP.Offset, p.IP.MoreFragments = 8*rapid.IntRange(1, 8191).Draw(t, "Offset/8"), rapid.Bool().Draw(t, "MF")
	}
	p.Src = netip.AddrPortFrom(ips.Draw(t, "src"), sport)
	p.Dst = netip.AddrPortFrom(ips.Draw(t, "dst"), dport)
	if p.NDP == nil && p.Groups == nil {
		if p.Token = rapid.StringMatching(`([a-z0-9]{1,24})?`).Draw(t, "Token"); p.Token != "" {
			p.Payload = lab.Payload(p.Token, rapid.IntRange(0, payloadKept).Draw(t, "size"))
		}
	}
	return p
}

var compared = cmp.Options{
	cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{}, netip.Prefix{}),
	cmpopts.IgnoreFields(lab.Packet{}, "Length", "Frame", "Text"), cmpopts.EquateEmpty(),
}

func TestBuildAndDecodeAreInverse(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := described(t)
		frame, err := Build(want)
		if err != nil {
			t.Fatal(err)
		}
		if want.VLAN != 0 {
			want.Tag = &lab.Tag{Type: 0x8100}
		}
		got := lab.Packet{Frame: frame, Length: len(frame)}
		decode(&got, true, 0, false)
		if diff := cmp.Diff(want, got, compared); diff != "" {
			t.Errorf("%s: -want +got\n%s", got.Text, diff)
		}
	})
}

func TestDecodeTellsAChangedByte(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := described(t)
		if p.ARP != nil || p.IP.Transport != "ok" {
			return
		}
		p.VLAN = 0
		frame, err := Build(p)
		if err != nil {
			t.Fatal(err)
		}
		header, total := 20, 0
		if p.IP.RouterAlert {
			header = 24
		}
		last := len(frame) - 1
		if p.EtherType == 0x86dd { // the last byte of an IPv6 packet is always a transport's
			frame[last] ^= 1
		} else if total = rapid.IntRange(0, 1).Draw(t, "where"); total == 0 {
			frame[14+8] ^= 1 // TTL
		} else if last < 14+header+8 {
			return
		} else {
			frame[last] ^= 1
		}
		got := lab.Packet{Frame: frame, Length: len(frame)}
		decode(&got, true, 0, false)
		if got.IP.HeaderOK && got.IP.Transport == "ok" {
			t.Errorf("a changed byte goes unseen: %s", got.Text)
		}
	})
}

func TestBuildTellsWhatIsWrong(t *testing.T) {
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	a4, a6 := netip.MustParseAddrPort("192.0.2.1:9"), netip.MustParseAddrPort("[2001:db8::1]:9")
	for name, p := range map[string]lab.Packet{
		"nothing":               {},
		"no destination MAC":    {EthSrc: mac, Proto: "udp", Src: a4, Dst: a4},
		"two families":          {EthSrc: mac, EthDst: mac, Proto: "udp", Src: a4, Dst: a6},
		"unknown protocol":      {EthSrc: mac, EthDst: mac, Proto: "sctp", Src: a4, Dst: a4},
		"VLAN":                  {EthSrc: mac, EthDst: mac, Proto: "udp", Src: a4, Dst: a4, VLAN: 4095},
		"NDP over IPv4":         {EthSrc: mac, EthDst: mac, NDP: &lab.NDP{Kind: "ns"}, Src: a4, Dst: a4},
		"NDP without target":    {EthSrc: mac, EthDst: mac, NDP: &lab.NDP{Kind: "ns"}, Src: a6, Dst: a6},
		"group of other family": {EthSrc: mac, EthDst: mac, Groups: []lab.Group{{Addr: a6.Addr(), Kind: "join"}}, Src: a4, Dst: a4},
		"group record":          {EthSrc: mac, EthDst: mac, Groups: []lab.Group{{Addr: a4.Addr(), Kind: "part"}}, Src: a4, Dst: a4},
		"TCP flag":              {EthSrc: mac, EthDst: mac, Proto: "tcp", TCPFlags: "Q", Src: a4, Dst: a4},
		"TTL":                   {EthSrc: mac, EthDst: mac, Proto: "udp", IP: &lab.IP{TTL: 256}, Src: a4, Dst: a4},
		"ARP of IPv6":           {EthSrc: mac, ARP: &lab.ARP{Op: 1, SenderMAC: mac, SenderIP: a6.Addr(), TargetIP: a6.Addr()}},
	} {
		if frame, err := Build(p); err == nil {
			t.Errorf("%s: no error but %x", name, frame)
		}
	}
}

func TestAnICMPErrorCarriesTheTokenOfItsQuote(t *testing.T) {
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	inner, err := Build(lab.Packet{
		EthSrc: mac, EthDst: mac, Proto: "udp", Token: "quoted", Payload: lab.Payload("quoted", 100),
		Src: netip.MustParseAddrPort("192.0.2.1:1000"), Dst: netip.MustParseAddrPort("192.0.2.2:2000"),
	})
	if err != nil {
		t.Fatal(err)
	}
	for quoted, want := range map[int]string{len(inner): "quoted", 14 + 28: "", 14 + 28 + 5: ""} {
		frame, err := Build(lab.Packet{
			EthSrc: mac, EthDst: mac, ICMP: &lab.ICMP{Type: 3, Code: 4, MTU: 1400}, Payload: inner[14:quoted],
			Src: netip.MustParseAddrPort("192.0.2.9:0"), Dst: netip.MustParseAddrPort("192.0.2.1:0"),
		})
		if err != nil {
			t.Fatal(err)
		}
		p := lab.Packet{Frame: frame, Length: len(frame)}
		decode(&p, true, 0, false)
		if p.Token != want || p.ICMP == nil || p.ICMP.MTU != 1400 {
			t.Errorf("%d bytes quoted: token %q, %+v, want %q", quoted, p.Token, p.ICMP, want)
		}
	}
}

// A tunnel's packet shows both: where it goes on the underlay, and what it carries.
func TestTunnelsAreReadThrough(t *testing.T) {
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	from, to := netip.MustParseAddr("198.18.0.1"), netip.MustParseAddr("198.18.0.2")
	rapid.Check(t, func(t *rapid.T) {
		carried := described(t)
		frame, err := Build(carried)
		if err != nil {
			t.Fatal(err)
		}
		want := lab.Packet{Frame: frame, Length: len(frame)}
		decode(&want, true, 0, false)
		vni := rapid.IntRange(0, 1<<24-1).Draw(t, "VNI")
		reserved := rapid.Uint32().Draw(t, "reserved")
		header := binary.BigEndian.AppendUint32([]byte{0x08, byte(reserved >> 24), byte(reserved >> 16), byte(reserved >> 8)}, uint32(vni)<<8|reserved&0xff)
		port := rapid.SampledFrom([]uint16{4789, 8472}).Draw(t, "port")
		outer, err := Build(lab.Packet{
			EthSrc: mac, EthDst: mac, Proto: "udp", Src: netip.AddrPortFrom(from, 40000), Dst: netip.AddrPortFrom(to, port), Payload: append(header, frame...),
		})
		if err != nil {
			t.Fatal(err)
		}
		got := lab.Packet{Frame: outer, Length: len(outer)}
		decode(&got, true, 0, false)
		if d := cmp.Diff(&lab.VXLAN{Flags: 0x08, VNI: vni, Reserved: reserved}, got.VXLAN); d != "" {
			t.Errorf("-want +got\n%s", d)
		}
		if got.Src.Addr() != from || got.Dst.Addr() != to || got.Inner == nil || got.Inner.Length != len(frame) || got.Inner.Frame != nil {
			t.Fatalf("got %+v", got)
		}
		if d := cmp.Diff(&want, got.Inner, compared); d != "" {
			t.Errorf("-want +got\n%s", d)
		}
		if !strings.Contains(got.Text, fmt.Sprintf(" vxlan %d (%s)", vni, want.Text)) {
			t.Errorf("text %q", got.Text)
		}
	})
	inside, err := Build(lab.Packet{
		EthSrc: mac, EthDst: mac, IP: &lab.IP{TTL: 63}, Proto: "udp", Token: "carried",
		Src: netip.MustParseAddrPort("250.0.1.2:1000"), Dst: netip.MustParseAddrPort("250.0.2.2:7"),
	})
	if err != nil {
		t.Fatal(err)
	}
	h := layers.IPv4{Version: 4, TTL: 63, Protocol: layers.IPProtocolIPv4, SrcIP: from.AsSlice(), DstIP: to.AsSlice()}
	buf := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, &h, gopacket.Payload(inside[14:])); err != nil {
		t.Fatal(err)
	}
	got := lab.Packet{Frame: buf.Bytes(), Length: len(buf.Bytes())}
	decode(&got, false, 0x0800, false)
	if got.Proto != "ipip" || got.Src.Addr() != from || got.Dst.Addr() != to || got.Token != "carried" || got.Inner == nil {
		t.Fatalf("got %+v", got)
	}
	if in := got.Inner; in.Src != netip.MustParseAddrPort("250.0.1.2:1000") || in.Dst != netip.MustParseAddrPort("250.0.2.2:7") || in.IP.TTL != 63 ||
		in.Proto != "udp" || in.Token != "carried" || in.IP.Transport != "ok" {
		t.Errorf("carries %+v", in)
	}
	for length := range got.Frame { // and whatever is cut is not read beyond
		cut := lab.Packet{Frame: got.Frame[:length], Length: length}
		decode(&cut, false, 0x0800, false)
	}
}

func TestPcapngIsReadBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var packets []lab.Packet
		names := map[string]bool{}
		for i := range rapid.IntRange(0, 8).Draw(t, "packets") {
			p := described(t)
			p.Machine, p.Device = "h1", rapid.SampledFrom([]string{"eth0", "br0"}).Draw(t, "device")
			name := "h1:" + p.Device
			if rapid.Bool().Draw(t, "in a container") {
				p.In, name = "c1", "h1/c1:"+p.Device
			}
			names[name] = true
			frame, err := Build(p)
			if err != nil {
				t.Fatal(err)
			}
			p.Frame, p.Length, p.When = frame, len(frame)+rapid.IntRange(0, 1).Draw(t, "cut"), time.Unix(1_800_000_000, int64(i)).UTC()
			packets = append(packets, p)
		}
		var file bytes.Buffer
		if err := WritePcapng(&file, packets); err != nil {
			t.Fatal(err)
		}
		if len(packets) == 0 {
			if file.Len() != 0 {
				t.Fatalf("%d bytes without packets", file.Len())
			}
			return
		}
		r, err := pcapgo.NewNgReader(&file, pcapgo.DefaultNgReaderOptions)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range packets {
			data, ci, err := r.ReadPacketData()
			if err != nil {
				t.Fatal(err)
			}
			intf, err := r.Interface(ci.InterfaceIndex)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(data, p.Frame) || ci.Length != p.Length || !ci.Timestamp.Equal(p.When) || intf.LinkType != layers.LinkTypeEthernet || !names[intf.Name] {
				t.Errorf("read %+v at %q: %x, want %+v", ci, intf.Name, data, p)
			}
		}
		if _, _, err := r.ReadPacketData(); err != io.EOF {
			t.Errorf("after the last packet: %v", err)
		}
		if r.NInterfaces() != len(names) {
			t.Errorf("%d interfaces, want %v", r.NInterfaces(), names)
		}
	})
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte{}, true, uint16(0))
	rapid.Check(f, func(t *rapid.T) {
		if frame, err := Build(described(t)); err == nil {
			f.Add(frame, true, uint16(0))
			f.Add(frame[14:], false, uint16(0x86dd))
		}
	})
	f.Fuzz(func(t *testing.T, frame []byte, ethernet bool, etherType uint16) {
		p := lab.Packet{Frame: frame, Length: len(frame)}
		decode(&p, ethernet, etherType, false)
		if p.Text == "" {
			t.Errorf("%x has no text", frame)
		}
		if len(p.Payload) > payloadKept || len(p.Token) > lab.TokenMax {
			t.Errorf("%x: payload of %d bytes, token %q", frame, len(p.Payload), p.Token)
		}
	})
}
