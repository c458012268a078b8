package dhcp

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/dhcpv6/server6"
	"github.com/insomniacslk/dhcp/iana"

	"github.com/modebench/modebench/topology"
	"github.com/modebench/modebench/topology/host/ipam"
	"github.com/modebench/modebench/topology/lab"
)

// serverSix answers the clients of one device by RFC 8415.
type serverSix struct {
	topology.DHCPServer
	*ledger
	own     dhcpv6.DUID
	device  string // its index, see asks
	library *server6.Server
	served  chan struct{} // closed when nobody is answered any more
}

// serve6 begins to answer. Call it in the namespace of the device.
func serve6(c topology.DHCPServer) (*serverSix, error) {
	l, err := newLedger(c.Range)
	if err != nil {
		return nil, err
	}
	dev, err := net.InterfaceByName(c.Link)
	if err != nil {
		return nil, err
	}
	s := &serverSix{
		DHCPServer: c, ledger: l, served: make(chan struct{}), device: strconv.Itoa(dev.Index),
		own: &dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: dev.HardwareAddr}, // section 11.4
	}
	if s.library, err = server6.NewServer(c.Link, nil, s.handle); err != nil {
		return nil, err
	}
	go func() {
		defer close(s.served)
		_ = s.library.Serve() // ends with the connection
	}()
	return s, nil
}

func (s *serverSix) close() error {
	err := s.library.Close()
	<-s.served
	return err
}

// handle is called for each message, from goroutines of the library's.
func (s *serverSix) handle(conn net.PacketConn, from net.Addr, d dhcpv6.DHCPv6) {
	m, ok := d.(*dhcpv6.Message)
	if !ok { // a relay's
		return
	}
	s.mu.Lock()
	reply := s.decide(m)
	s.mu.Unlock()
	if to, ok := from.(*net.UDPAddr); ok && reply != nil {
		_, _ = conn.WriteTo(reply.ToBytes(), &net.UDPAddr{IP: to.IP, Port: to.Port, Zone: s.device}) // a client that hears nothing asks again
	}
}

// decide is what is answered to a message; nil: nothing.
func (s *serverSix) decide(m *dhcpv6.Message) *dhcpv6.Message {
	s.expire()
	id, ia := m.Options.ClientID(), m.Options.OneIANA()
	reply := &dhcpv6.Message{MessageType: dhcpv6.MessageTypeReply, TransactionID: m.TransactionID}
	reply.AddOption(dhcpv6.OptServerID(s.own))
	if id != nil {
		reply.AddOption(dhcpv6.OptClientID(id))
	}
	switch m.MessageType {
	case dhcpv6.MessageTypeInformationRequest:
		return reply
	case dhcpv6.MessageTypeSolicit:
		if id == nil || ia == nil || m.Options.ServerID() != nil { // section 16.2
			return nil
		}
	case dhcpv6.MessageTypeRequest, dhcpv6.MessageTypeRenew, dhcpv6.MessageTypeRelease, dhcpv6.MessageTypeDecline:
		if to := m.Options.ServerID(); id == nil || ia == nil || to == nil || !bytes.Equal(to.ToBytes(), s.own.ToBytes()) { // section 16
			return nil
		}
	default: // of several servers, or of who came from another link
		return nil
	}
	h := ipam.Holder{ID: string(id.ToBytes()), Link: fmt.Sprintf("iaid %x", ia.IaId)}
	keep := func(a netip.Addr, bound bool, d time.Duration) {
		s.leases[h] = lab.DHCPLease{ClientID: id.ToBytes(), Addr: a, Bound: bound, Until: time.Now().Add(d)}
	}
	var named netip.Addr
	if a := ia.Options.OneAddress(); a != nil {
		named = addr(a.IPv6Addr)
	}
	held := s.pool.Held(h)
	answer := func(a netip.Addr, otherwise iana.StatusCode) *dhcpv6.Message {
		out := &dhcpv6.OptIANA{IaId: ia.IaId}
		if a.IsValid() {
			lasts := seconds(s.Lease)
			out.T1, out.T2 = seconds(lasts/2), seconds(lasts*4/5) // section 21.4
			out.Options.Add(&dhcpv6.OptIAAddress{IPv6Addr: a.AsSlice(), PreferredLifetime: lasts, ValidLifetime: lasts})
		} else {
			out.Options.Add(&dhcpv6.OptStatusCode{StatusCode: otherwise})
		}
		reply.AddOption(out)
		return reply
	}
	switch m.MessageType {
	case dhcpv6.MessageTypeSolicit: // section 18.3.9
		reply.MessageType = dhcpv6.MessageTypeAdvertise
		return answer(s.has(h, func(a netip.Addr) { keep(a, false, offered) }), iana.StatusNoAddrsAvail)
	case dhcpv6.MessageTypeRequest: // section 18.3.2
		a := s.has(h, func(netip.Addr) {})
		if a.IsValid() {
			keep(a, true, seconds(s.Lease))
		}
		return answer(a, iana.StatusNoAddrsAvail)
	case dhcpv6.MessageTypeRenew: // section 18.3.4
		if held == nil || held[0] != named {
			return answer(netip.Addr{}, iana.StatusNoBinding)
		}
		keep(named, true, seconds(s.Lease))
		return answer(named, iana.StatusSuccess)
	}
	if held == nil || held[0] != named { // section 18.3.7
		return answer(netip.Addr{}, iana.StatusNoBinding)
	}
	s.free(h)
	if m.MessageType == dhcpv6.MessageTypeDecline { // section 18.3.8: somebody else has it
		stranger := ipam.Holder{ID: "declined", Link: named.String()}
		if _, err := s.pool.Reserve(stranger, named); err == nil {
			s.leases[stranger] = lab.DHCPLease{Addr: named, Until: time.Now().Add(seconds(s.Lease))}
		}
	}
	reply.AddOption(&dhcpv6.OptStatusCode{StatusCode: iana.StatusSuccess})
	return reply
}
