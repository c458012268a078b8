package capture

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/insomniacslk/dhcp/dhcpv4"

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
