package capture

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"github.com/modebench/modebench/topology/lab"
)

const (
	dhcpServerPort, dhcpClientPort   = 67, 68
	dhcp6ServerPort, dhcp6ClientPort = 547, 546
)

// dhcpMessage reads a message of RFC 2131; nil where it is none, as one without the magic cookie.
func dhcpMessage(b []byte) *lab.DHCP {
	var d layers.DHCPv4
	if err := d.DecodeFromBytes(b, gopacket.NilDecodeFeedback); err != nil || d.HardwareType != layers.LinkTypeEthernet || d.HardwareLen != 6 {
		return nil
	}
	known := func(a netip.Addr) netip.Addr {
		if a.IsUnspecified() {
			return netip.Addr{}
		}
		return a
	}
	m := &lab.DHCP{
		Reply: d.Operation == layers.DHCPOpReply, XID: d.Xid, Broadcast: d.Flags&0x8000 != 0,
		Client: known(addr(d.ClientIP)), Your: known(addr(d.YourClientIP)), MAC: d.ClientHWAddr,
	}
	for _, o := range d.Options {
		long := func() time.Duration {
			if len(o.Data) != 4 {
				return 0
			}
			return time.Duration(binary.BigEndian.Uint32(o.Data)) * time.Second
		}
		switch o.Type {
		case layers.DHCPOptMessageType:
			if len(o.Data) == 1 {
				m.Kind = strings.ToLower(layers.DHCPMsgType(o.Data[0]).String())
			}
		case layers.DHCPOptClientID:
			m.ClientID = o.Data
		case layers.DHCPOptRequestIP:
			m.Requested = addr(o.Data)
		case layers.DHCPOptServerID:
			m.Server = addr(o.Data)
		case layers.DHCPOptLeaseTime:
			m.Lease = long()
		case layers.DHCPOptT1:
			m.Renewal = long()
		}
	}
	return m
}

// dhcp6Kinds are the messages of RFC 8415 section 7.3, from 1 on, but those of relays.
var dhcp6Kinds = [...]string{"solicit", "advertise", "request", "confirm", "renew", "rebind", "reply", "release", "decline", "reconfigure", "information-request"}

// dhcp6Message reads a message between client and server of RFC 8415; nil where it is none.
func dhcp6Message(b []byte) *lab.DHCP {
	var d layers.DHCPv6
	if err := d.DecodeFromBytes(b, gopacket.NilDecodeFeedback); err != nil || d.MsgType < 1 || int(d.MsgType) > len(dhcp6Kinds) {
		return nil
	}
	m := &lab.DHCP{
		Kind: dhcp6Kinds[d.MsgType-1], XID: uint32(d.TransactionID[0])<<16 | uint32(binary.BigEndian.Uint16(d.TransactionID[1:])),
		Reply: d.MsgType == layers.DHCPv6MsgTypeAdverstise || d.MsgType == layers.DHCPv6MsgTypeReply || d.MsgType == layers.DHCPv6MsgTypeReconfigure,
	}
	for _, o := range d.Options {
		switch o.Code {
		case layers.DHCPv6OptClientID:
			m.ClientID = o.Data
		case layers.DHCPv6OptServerID:
			m.ServerID = o.Data
		case layers.DHCPv6OptIANA:
			identity(m, o.Data)
		case layers.DHCPv6OptStatusCode:
			if len(o.Data) >= 2 {
				m.Status = int(binary.BigEndian.Uint16(o.Data))
			}
		}
	}
	return m
}

// identity reads an IA_NA (RFC 8415 section 21.4) with the first address in it (section 21.6).
func identity(m *lab.DHCP, b []byte) {
	if len(b) < 12 {
		return
	}
	long := func(b []byte) time.Duration { return time.Duration(binary.BigEndian.Uint32(b)) * time.Second }
	m.IAID, m.Renewal = binary.BigEndian.Uint32(b), long(b[4:])
	for b = b[12:]; len(b) >= 4; {
		code, n := binary.BigEndian.Uint16(b), int(binary.BigEndian.Uint16(b[2:]))
		if b = b[4:]; len(b) < n {
			return
		}
		switch a := &m.Requested; {
		case code == uint16(layers.DHCPv6OptIAAddr) && n >= 24:
			if m.Reply {
				a = &m.Your
			}
			if !a.IsValid() {
				*a, m.Lease = addr(b[:16]), long(b[20:])
			}
		case code == uint16(layers.DHCPv6OptStatusCode) && n >= 2:
			m.Status = int(binary.BigEndian.Uint16(b))
		}
		b = b[n:]
	}
}

// dhcpText is a message in words.
func dhcpText(m lab.DHCP, six bool) string {
	t := fmt.Sprintf(" dhcp %s xid %08x of %v", m.Kind, m.XID, m.MAC)
	if six {
		t = fmt.Sprintf(" dhcpv6 %s xid %06x of %x", m.Kind, m.XID, m.ClientID)
	}
	if m.Broadcast {
		t += " broadcast"
	}
	for _, f := range []struct {
		name string
		addr netip.Addr
	}{{"from", m.Client}, {"for", m.Your}, {"wants", m.Requested}, {"server", m.Server}} {
		if f.addr.IsValid() {
			t += fmt.Sprintf(" %s %v", f.name, f.addr)
		}
	}
	if m.ServerID != nil {
		t += fmt.Sprintf(" server %x", m.ServerID)
	}
	if m.Status != 0 {
		t += fmt.Sprintf(" status %d", m.Status)
	}
	return t
}
