package dhcp

import (
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/server4"

	"github.com/modebench/modebench/topology"
	"github.com/modebench/modebench/topology/host/ipam"
	"github.com/modebench/modebench/topology/lab"
	"github.com/modebench/modebench/topology/space"
)

// offered is how long an address is kept for a client that was offered it.
const offered = 10 * time.Second

// ledger is who has what of a range.
type ledger struct {
	mu      sync.Mutex
	pool    *ipam.Pool
	leases  map[ipam.Holder]lab.DHCPLease
	refused int
}

func newLedger(r topology.Range) (*ledger, error) {
	pool, err := ipam.New([]topology.Range{r})
	return &ledger{pool: pool, leases: map[ipam.Holder]lab.DHCPLease{}}, err
}

// state are the leases that hold.
func (l *ledger) state() lab.DHCPState {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.expire()
	st := lab.DHCPState{Running: true, Refused: l.refused}
	for _, h := range l.pool.Holders() {
		if lease := l.leases[h]; lease.Bound {
			st.Leases = append(st.Leases, lease)
		}
	}
	return st
}

// expire takes back what was not renewed, or was offered and not asked for.
func (l *ledger) expire() {
	for h, lease := range l.leases {
		if time.Now().After(lease.Until) {
			l.free(h)
		}
	}
}

func (l *ledger) free(h ipam.Holder) {
	l.pool.Release(h)
	delete(l.leases, h)
}

// has is what a holder has or was offered; where it has nothing, the next address is kept for it. Invalid: there is none.
func (l *ledger) has(h ipam.Holder, keep func(netip.Addr)) netip.Addr {
	if held := l.pool.Held(h); held != nil {
		return held[0]
	}
	got, err := l.pool.Reserve(h)
	if err != nil {
		l.refused++
		return netip.Addr{}
	}
	keep(got[0])
	return got[0]
}

// server answers the clients of one device by RFC 2131.
type server struct {
	topology.DHCPServer
	*ledger
	in     *space.Space
	conn   net.PacketConn
	served chan struct{} // closed when nobody is answered any more
}

// serve begins to answer. Call it in the namespace of the device.
func serve(in *space.Space, c topology.DHCPServer) (*server, error) {
	l, err := newLedger(c.Range)
	if err != nil {
		return nil, err
	}
	conn, err := server4.NewIPv4UDPConn(c.Link, &net.UDPAddr{Port: dhcpv4.ServerPort})
	if err != nil {
		return nil, err
	}
	s := &server{DHCPServer: c, ledger: l, in: in, conn: conn, served: make(chan struct{})}
	library, err := server4.NewServer(c.Link, nil, s.handle, server4.WithConn(conn))
	if err != nil {
		return nil, err
	}
	go func() {
		defer close(s.served)
		_ = library.Serve() // ends with the connection
	}()
	return s, nil
}

func (s *server) close() error {
	err := s.conn.Close()
	<-s.served
	return err
}

// handle is called for each message, from goroutines of the library's.
func (s *server) handle(_ net.PacketConn, _ net.Addr, m *dhcpv4.DHCPv4) {
	s.mu.Lock()
	kind, a := s.decide(m)
	s.mu.Unlock()
	if kind == dhcpv4.MessageTypeNone {
		return
	}
	mask := net.CIDRMask(s.Range.Subnet.Bits(), 32)
	with := []dhcpv4.Modifier{
		dhcpv4.WithMessageType(kind),
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(s.Addr.AsSlice())),
	}
	if kind != dhcpv4.MessageTypeNak {
		with = append(with, dhcpv4.WithNetmask(mask))
	}
	if a.IsValid() { // not to who asks for other parameters only (RFC 2131 section 4.3.5)
		lease := seconds(s.Lease)
		with = append(with, dhcpv4.WithYourIP(a.AsSlice()),
			dhcpv4.WithLeaseTime(uint32(lease.Seconds())),
			dhcpv4.WithOption(dhcpv4.OptRenewTimeValue(seconds(lease/2))), // section 4.4.5
			dhcpv4.WithOption(dhcpv4.OptRebindingTimeValue(seconds(lease*7/8))))
	}
	reply, err := dhcpv4.NewReplyFromRequest(m, with...)
	if err != nil {
		return
	}
	_ = s.send(m, reply, a) // a client that hears nothing asks again
}

// decide is what is answered to a message, and the address in question; a type of none: nothing.
func (s *server) decide(m *dhcpv4.DHCPv4) (dhcpv4.MessageType, netip.Addr) {
	s.expire()
	h := ipam.Holder{ID: string(m.Options.Get(dhcpv4.OptionClientIdentifier)), Link: "client-id"} // section 4.2
	if h.ID == "" {
		h = ipam.Holder{ID: m.ClientHWAddr.String(), Link: "hardware address"}
	}
	keep := func(a netip.Addr, bound bool, d time.Duration) {
		s.leases[h] = lab.DHCPLease{ClientID: m.Options.Get(dhcpv4.OptionClientIdentifier), MAC: m.ClientHWAddr, Addr: a, Bound: bound, Until: time.Now().Add(d)}
	}
	held := s.pool.Held(h)
	to := addr(m.ServerIdentifier())
	switch m.MessageType() {
	case dhcpv4.MessageTypeDiscover:
		a := s.has(h, func(a netip.Addr) { keep(a, false, offered) })
		if !a.IsValid() {
			return dhcpv4.MessageTypeNone, a // section 4.3.1: nothing to offer
		}
		return dhcpv4.MessageTypeOffer, a
	case dhcpv4.MessageTypeRequest:
		asked := addr(m.RequestedIPAddress())
		if !asked.IsValid() {
			asked = addr(m.ClientIPAddr)
		}
		switch {
		case to.IsValid() && to != s.Addr: // another server's offer was taken
			if held != nil && !s.leases[h].Bound {
				s.free(h)
			}
			return dhcpv4.MessageTypeNone, netip.Addr{}
		case held == nil || held[0] != asked:
			return dhcpv4.MessageTypeNak, netip.Addr{}
		}
		keep(asked, true, seconds(s.Lease))
		return dhcpv4.MessageTypeAck, asked
	case dhcpv4.MessageTypeRelease:
		if held != nil && held[0] == addr(m.ClientIPAddr) && to == s.Addr {
			s.free(h)
		}
	case dhcpv4.MessageTypeInform:
		return dhcpv4.MessageTypeAck, netip.Addr{}
	}
	return dhcpv4.MessageTypeNone, netip.Addr{}
}

// send answers where RFC 2131 section 4.1 says: at the address that a client has, or else by broadcast where it asks for that, or
// else in a frame to its hardware address and an IP address that it does not know of yet, which no socket could resolve.
func (s *server) send(m, reply *dhcpv4.DHCPv4, a netip.Addr) error {
	if has := addr(m.ClientIPAddr); has.IsValid() && reply.MessageType() != dhcpv4.MessageTypeNak {
		_, err := s.conn.WriteTo(reply.ToBytes(), &net.UDPAddr{IP: has.AsSlice(), Port: dhcpv4.ClientPort})
		return err
	}
	p := lab.Packet{
		EthDst: m.ClientHWAddr, Proto: "udp", Payload: reply.ToBytes(),
		Src: netip.AddrPortFrom(s.Addr, dhcpv4.ServerPort), Dst: netip.AddrPortFrom(a, dhcpv4.ClientPort),
	}
	if m.IsBroadcast() || !a.IsValid() {
		p.EthDst, p.Dst = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, netip.AddrPortFrom(netip.AddrFrom4([4]byte{255, 255, 255, 255}), dhcpv4.ClientPort)
	}
	return transmit(s.in, s.Link, p)
}
