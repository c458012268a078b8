package capture

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/osrg/gobgp/v3/pkg/packet/bgp"

	"github.com/modebench/modebench/topology/lab"
)

const bgpPort = 179 // RFC 4271, section 4

var bgpMarker = bytes.Repeat([]byte{0xff}, 16) // RFC 4271, section 4.1

// bgpMessages are the messages that a segment holds, as far as they are whole; none where it begins within one.
func bgpMessages(b []byte) (all []lab.BGPMessage) {
	for len(b) >= bgp.BGP_HEADER_LENGTH && bytes.HasPrefix(b, bgpMarker) {
		length := int(binary.BigEndian.Uint16(b[16:]))
		if length < bgp.BGP_HEADER_LENGTH || length > len(b) {
			break
		}
		m, err := bgp.ParseBGPMessage(b[:length])
		if err != nil {
			break
		}
		all, b = append(all, bgpMessage(m)), b[length:]
	}
	return all
}

func bgpMessage(m *bgp.BGPMessage) lab.BGPMessage {
	switch body := m.Body.(type) {
	case *bgp.BGPOpen:
		return bgpOpen(body)
	case *bgp.BGPUpdate:
		return bgpUpdate(body)
	case *bgp.BGPNotification:
		m := lab.BGPMessage{Kind: "notification", Code: int(body.ErrorCode), Subcode: int(body.ErrorSubcode)}
		if m.Code == bgp.BGP_ERROR_CEASE && m.Subcode == bgp.BGP_ERROR_SUB_HARD_RESET && len(body.Data) >= 2 {
			m.Code, m.Subcode, m.Hard = int(body.Data[0]), int(body.Data[1]), true
		}
		return m
	case *bgp.BGPRouteRefresh:
		return lab.BGPMessage{Kind: "route-refresh"}
	}
	return lab.BGPMessage{Kind: "keepalive"}
}

func bgpOpen(o *bgp.BGPOpen) lab.BGPMessage {
	m := lab.BGPMessage{
		Kind: "open", Version: int(o.Version), AS: uint32(o.MyAS), Hold: time.Duration(o.HoldTime) * time.Second, ID: unmapped(o.ID),
	}
	for _, p := range o.OptParams {
		capabilities, ok := p.(*bgp.OptionParameterCapability)
		if !ok {
			continue
		}
		for _, c := range capabilities.Capability {
			m.Capabilities = append(m.Capabilities, int(c.Code()))
			switch c := c.(type) {
			case *bgp.CapFourOctetASNumber:
				m.AS4 = c.CapValue
			case *bgp.CapGracefulRestart:
				for _, t := range c.Tuples {
					if t.Flags&0x80 != 0 { // RFC 4724, section 3
						m.Forwarding++
					}
				}
			}
		}
	}
	slices.Sort(m.Capabilities)
	m.Capabilities = slices.Compact(m.Capabilities)
	return m
}

func bgpUpdate(u *bgp.BGPUpdate) lab.BGPMessage {
	m := lab.BGPMessage{Kind: "update"}
	m.EndOfRIB, _ = u.IsEndOfRib()
	for _, n := range u.NLRI {
		m.Announced = append(m.Announced, bgpPrefix(n))
	}
	for _, n := range u.WithdrawnRoutes {
		m.Withdrawn = append(m.Withdrawn, bgpPrefix(n))
	}
	for _, a := range u.PathAttributes {
		m.Attributes = append(m.Attributes, int(a.GetType()))
		switch a := a.(type) {
		case *bgp.PathAttributeOrigin:
			m.Origin = int(a.Value)
		case *bgp.PathAttributeAsPath:
			for _, segment := range a.Value {
				m.Path = append(m.Path, segment.GetAS()...)
			}
		case *bgp.PathAttributeNextHop:
			m.NextHop = unmapped(a.Value)
		case *bgp.PathAttributeMpReachNLRI:
			m.NextHop, m.LinkLocal = unmapped(a.Nexthop), unmapped(a.LinkLocalNexthop)
			for _, n := range a.Value {
				m.Announced = append(m.Announced, bgpPrefix(n))
			}
		case *bgp.PathAttributeMpUnreachNLRI:
			for _, n := range a.Value {
				m.Withdrawn = append(m.Withdrawn, bgpPrefix(n))
			}
		}
	}
	slices.Sort(m.Attributes)
	return m
}

// bgpPrefix is zero for what is no prefix of unicast.
func bgpPrefix(n bgp.AddrPrefixInterface) netip.Prefix {
	p, _ := netip.ParsePrefix(n.String())
	return p
}

func unmapped(ip net.IP) netip.Addr { return addr(ip).Unmap() }

// bgpText is a message as a line holds it.
func bgpText(m lab.BGPMessage) string {
	var t strings.Builder
	fmt.Fprintf(&t, " bgp %s", m.Kind)
	switch m.Kind {
	case "open":
		fmt.Fprintf(&t, " as %d hold %s id %s capabilities %v", max(m.AS, m.AS4), m.Hold, m.ID, m.Capabilities)
	case "update":
		if m.EndOfRIB {
			t.WriteString(" end-of-rib")
		}
		if len(m.Announced) > 0 {
			fmt.Fprintf(&t, " announce %v next-hop %s path %v", m.Announced, m.NextHop, m.Path)
		}
		if len(m.Withdrawn) > 0 {
			fmt.Fprintf(&t, " withdraw %v", m.Withdrawn)
		}
	case "notification":
		fmt.Fprintf(&t, " %d/%d", m.Code, m.Subcode)
		if m.Hard {
			t.WriteString(" in a hard reset")
		}
	}
	return t.String()
}
