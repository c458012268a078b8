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

const dhcpServerPort, dhcpClientPort = 67, 68

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

// dhcpText is a message in words.
func dhcpText(m lab.DHCP) string {
	t := fmt.Sprintf(" dhcp %s xid %08x of %v", m.Kind, m.XID, m.MAC)
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
	return t
}
