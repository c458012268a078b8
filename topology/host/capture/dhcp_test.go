package capture

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"

	"github.com/modebench/modebench/topology/lab"
)

// What one library wrote, another reads.
func TestDHCPMessages(t *testing.T) {
	mac := net.HardwareAddr{2, 3, 0, 0, 0, 1}
	offer, err := dhcpv4.New(
		dhcpv4.WithReply(&dhcpv4.DHCPv4{OpCode: dhcpv4.OpcodeBootRequest, TransactionID: dhcpv4.TransactionID{1, 2, 3, 4}, ClientHWAddr: mac, HWType: 1}),
		dhcpv4.WithBroadcast(true), dhcpv4.WithMessageType(dhcpv4.MessageTypeOffer), dhcpv4.WithYourIP(net.IPv4(10, 0, 0, 100)),
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(net.IPv4(10, 0, 0, 1))), dhcpv4.WithOption(dhcpv4.OptClientIdentifier([]byte("\x00c"))),
		dhcpv4.WithLeaseTime(60), dhcpv4.WithOption(dhcpv4.OptRenewTimeValue(30*time.Second)))
	if err != nil {
		t.Fatal(err)
	}
	want := &lab.DHCP{
		Kind: "offer", Reply: true, XID: 0x01020304, Broadcast: true, Your: netip.MustParseAddr("10.0.0.100"), MAC: mac,
		ClientID: []byte("\x00c"), Server: netip.MustParseAddr("10.0.0.1"), Lease: time.Minute, Renewal: 30 * time.Second,
	}
	frame, err := Build(lab.Packet{
		EthSrc: mac, EthDst: broadcast, Proto: "udp", Payload: offer.ToBytes(),
		Src: netip.MustParseAddrPort("10.0.0.1:67"), Dst: netip.MustParseAddrPort("255.255.255.255:68"),
	})
	if err != nil {
		t.Fatal(err)
	}
	p := lab.Packet{Frame: frame}
	decode(&p, true, 0, false)
	if d := cmp.Diff(want, p.DHCP, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	const text = "10.0.0.1:67 > 255.255.255.255:68: udp dhcp offer xid 01020304 of 02:03:00:00:00:01 broadcast for 10.0.0.100 server 10.0.0.1, ttl 64, 300 bytes"
	if p.Text != text {
		t.Errorf("text %q: want %q", p.Text, text)
	}
	for cut := range len(frame) {
		decode(&lab.Packet{Frame: frame[:cut]}, true, 0, false) // must not panic
	}
	if m := dhcpMessage(make([]byte, 300)); m != nil {
		t.Errorf("300 zeros are %+v", m)
	}
}

func TestDHCPv6Messages(t *testing.T) {
	client, server := &dhcpv6.DUIDUUID{UUID: [16]byte{1, 2, 3}}, &dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: net.HardwareAddr{2, 0, 0, 0, 0, 1}}
	m, err := dhcpv6.NewMessage(dhcpv6.WithClientID(client), dhcpv6.WithServerID(server), dhcpv6.WithIAID([4]byte{0, 0, 0, 1}),
		dhcpv6.WithIANA(dhcpv6.OptIAAddress{IPv6Addr: net.ParseIP("fd00::100"), PreferredLifetime: time.Minute, ValidLifetime: time.Minute}))
	if err != nil {
		t.Fatal(err)
	}
	m.MessageType, m.TransactionID = dhcpv6.MessageTypeReply, dhcpv6.TransactionID{1, 2, 3}
	m.Options.OneIANA().T1 = 30 * time.Second
	for _, c := range []struct {
		change func()
		want   lab.DHCP
		text   string
	}{
		{func() {}, lab.DHCP{
			Kind: "reply", Reply: true, XID: 0x010203, ClientID: client.ToBytes(), ServerID: server.ToBytes(), IAID: 1,
			Your: netip.MustParseAddr("fd00::100"), Lease: time.Minute, Renewal: 30 * time.Second,
		}, " dhcpv6 reply xid 010203 of 000401020300000000000000000000000000 for fd00::100 server 00030001020000000001"},
		{func() { m.MessageType = dhcpv6.MessageTypeRenew }, lab.DHCP{
			Kind: "renew", XID: 0x010203, ClientID: client.ToBytes(), ServerID: server.ToBytes(), IAID: 1,
			Requested: netip.MustParseAddr("fd00::100"), Lease: time.Minute, Renewal: 30 * time.Second,
		}, " dhcpv6 renew xid 010203 of 000401020300000000000000000000000000 wants fd00::100 server 00030001020000000001"},
		{func() {
			m.MessageType = dhcpv6.MessageTypeAdvertise
			m.UpdateOption(&dhcpv6.OptIANA{IaId: [4]byte{0, 0, 0, 1}, Options: dhcpv6.IdentityOptions{Options: dhcpv6.Options{&dhcpv6.OptStatusCode{StatusCode: iana.StatusNoAddrsAvail}}}})
		}, lab.DHCP{
			Kind: "advertise", Reply: true, XID: 0x010203, ClientID: client.ToBytes(), ServerID: server.ToBytes(), IAID: 1, Status: 2,
		}, " dhcpv6 advertise xid 010203 of 000401020300000000000000000000000000 server 00030001020000000001 status 2"},
	} {
		c.change()
		got := dhcp6Message(m.ToBytes())
		if d := cmp.Diff(&c.want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" {
			t.Errorf("-want +got:\n%s", d)
			continue
		}
		if text := dhcpText(*got, true); text != c.text {
			t.Errorf("%q: want %q", text, c.text)
		}
	}
	whole := m.ToBytes()
	for n := range whole { // whatever is cut off
		_ = dhcp6Message(whole[:n])
	}
	if m := dhcp6Message([]byte{12, 0, 0, 0}); m != nil {
		t.Errorf("a relay's: %+v: want nil", m)
	}
}
