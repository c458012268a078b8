package capture

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/osrg/gobgp/v3/pkg/packet/bgp"

	"github.com/modebench/modebench/topology/lab"
)

func TestBGPMessages(t *testing.T) {
	v4, v6 := bgp.NewIPAddrPrefix(32, "198.18.1.5"), bgp.NewIPv6AddrPrefix(128, "2001:db8:18::105")
	path := bgp.NewPathAttributeAsPath([]bgp.AsPathParamInterface{bgp.NewAs4PathParam(bgp.BGP_ASPATH_ATTR_TYPE_SEQ, []uint32{65000, 65001})})
	sent := []*bgp.BGPMessage{
		bgp.NewBGPOpenMessage(65001, 9, "198.18.0.3", []bgp.OptionParameterInterface{bgp.NewOptionParameterCapability([]bgp.ParameterCapabilityInterface{
			bgp.NewCapFourOctetASNumber(65001), bgp.NewCapMultiProtocol(bgp.RF_IPv6_UC), bgp.NewCapMultiProtocol(bgp.RF_IPv4_UC),
			bgp.NewCapGracefulRestart(true, false, 20, []*bgp.CapGracefulRestartTuple{bgp.NewCapGracefulRestartTuple(bgp.RF_IPv4_UC, true)}),
		})}),
		bgp.NewBGPKeepAliveMessage(),
		bgp.NewBGPUpdateMessage(nil, []bgp.PathAttributeInterface{bgp.NewPathAttributeOrigin(0), path, bgp.NewPathAttributeNextHop("198.18.0.3")}, []*bgp.IPAddrPrefix{v4}),
		bgp.NewBGPUpdateMessage(nil, []bgp.PathAttributeInterface{
			bgp.NewPathAttributeOrigin(0), path, bgp.NewPathAttributeMpReachNLRI("2001:db8:18::3", []bgp.AddrPrefixInterface{v6}),
		}, nil),
		bgp.NewBGPUpdateMessage([]*bgp.IPAddrPrefix{v4}, nil, nil),
		bgp.NewBGPUpdateMessage(nil, []bgp.PathAttributeInterface{bgp.NewPathAttributeMpUnreachNLRI([]bgp.AddrPrefixInterface{v6})}, nil),
		bgp.NewEndOfRib(bgp.RF_IPv6_UC),
		bgp.NewBGPNotificationMessage(6, 9, []byte{6, 1}),
		bgp.NewBGPNotificationMessage(4, 0, nil),
	}
	prefix4, prefix6 := []netip.Prefix{netip.MustParsePrefix("198.18.1.5/32")}, []netip.Prefix{netip.MustParsePrefix("2001:db8:18::105/128")}
	ases := []uint32{65000, 65001}
	want := []lab.BGPMessage{
		{Kind: "open", Version: 4, AS: 65001, AS4: 65001, Hold: 9 * time.Second, ID: netip.MustParseAddr("198.18.0.3"), Capabilities: []int{1, 64, 65}, Forwarding: 1},
		{Kind: "keepalive"},
		{Kind: "update", Announced: prefix4, Attributes: []int{1, 2, 3}, Path: ases, NextHop: netip.MustParseAddr("198.18.0.3")},
		{Kind: "update", Announced: prefix6, Attributes: []int{1, 2, 14}, Path: ases, NextHop: netip.MustParseAddr("2001:db8:18::3")},
		{Kind: "update", Withdrawn: prefix4},
		{Kind: "update", Withdrawn: prefix6, Attributes: []int{15}},
		{Kind: "update", Attributes: []int{15}, EndOfRIB: true},
		{Kind: "notification", Code: 6, Subcode: 1, Hard: true},
		{Kind: "notification", Code: 4},
	}
	var segment []byte
	for _, m := range sent {
		b, err := m.Serialize()
		if err != nil {
			t.Fatal(err)
		}
		segment = append(segment, b...)
	}
	for _, test := range []struct {
		name    string
		segment []byte
		want    []lab.BGPMessage
	}{
		{"all", segment, want},
		{"the last one cut", segment[:len(segment)-1], want[:len(want)-1]},
		{"begins within a message", segment[1:], nil},
		{"nothing", nil, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			if diff := cmp.Diff(test.want, bgpMessages(test.segment), compared); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
