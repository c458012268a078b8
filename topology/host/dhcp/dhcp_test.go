package dhcp

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/modebench/modebench/topology"
	"github.com/modebench/modebench/topology/lab"
	"github.com/modebench/modebench/topology/space"
)

// The tests are in network namespaces of their own.
func TestMain(m *testing.M) { os.Exit(space.Rerun(m.Run, os.Args[1:], os.Getenv)) }

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// machine is one whose namespace is joined to that of its container c by a veth pair: "srv" with 10.0.0.1/24 here, and "eth0" there.
func machine(t *testing.T) *Service {
	t.Helper()
	own, err := space.New()
	must(t, err)
	there, err := space.New()
	must(t, err)
	must(t, own.Do(func() error {
		base := netlink.NewLinkAttrs()
		base.Name = "srv"
		err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: base, PeerName: "eth0", PeerNamespace: netlink.NsFd(there.File().Fd())})
		if err != nil {
			return err
		}
		l, err := netlink.LinkByName("srv")
		if err != nil {
			return err
		}
		return errors.Join(netlink.LinkSetUp(l), netlink.AddrAdd(l, &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(10, 0, 0, 1).To4(), Mask: net.CIDRMask(24, 32)}}))
	}), there.Do(func() error {
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(l)
	}))
	s := New("h1", func(container string) (*space.Space, error) {
		if container == "" {
			return own, nil
		}
		return there, nil
	})
	t.Cleanup(func() { must(t, s.Close(), own.Close(), there.Close()) })
	return s
}

func config(size int, lease time.Duration) topology.DHCPServer {
	first := netip.MustParseAddr("10.0.0.100")
	last := first
	for range size - 1 {
		last = last.Next()
	}
	return topology.DHCPServer{
		Link: "srv", Addr: netip.MustParseAddr("10.0.0.1"), Lease: lease,
		Range: topology.Range{Subnet: netip.MustParsePrefix("10.0.0.0/24"), First: first, Last: last},
	}
}

// becomes waits until the server's state is as wanted.
func becomes(t *testing.T, s *Service, want func(lab.DHCPState) bool) (st lab.DHCPState) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); <-time.After(2 * time.Millisecond) {
		st = lab.DHCPState{}
		must(t, s.State(lab.Nothing{}, &st))
		if want(st) {
			return st
		}
	}
	t.Fatalf("%+v is not as wanted", st)
	return st
}

// has are the IPv4 addresses of the container's device.
func has(t *testing.T, s *Service) []string { return numbers(t, s, netlink.FAMILY_V4) }

// numbers are the addresses of a family that the container's device has from elsewhere.
func numbers(t *testing.T, s *Service, family int) (out []string) {
	t.Helper()
	there, err := s.find("c")
	must(t, err)
	must(t, there.Do(func() error {
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		as, err := netlink.AddrList(l, family)
		for _, a := range as {
			if family == netlink.FAMILY_V4 || !a.IP.IsLinkLocalUnicast() { // of IPv6 it has one by itself
				out = append(out, a.IPNet.String())
			}
		}
		return err
	}))
	return out
}

func TestLease(t *testing.T) {
	for _, broadcast := range []bool{true, false} {
		s := machine(t)
		end, err := s.Serve(config(1, time.Minute))
		must(t, err)
		if _, err := s.Serve(config(1, time.Minute)); !errors.Is(err, unix.EEXIST) {
			t.Errorf("a second server: %v: want EEXIST", err)
		}
		client := topology.DHCP{Link: "eth0", ClientID: "c/blue/eth0", Broadcast: broadcast, Within: 5 * time.Second}
		undo, err := s.Lease("c", client)
		must(t, err)
		var st lab.DHCPState
		must(t, s.State(lab.Nothing{}, &st))
		if len(st.Leases) != 1 || string(st.Leases[0].ClientID) != "\x00c/blue/eth0" || st.Leases[0].Addr != netip.MustParseAddr("10.0.0.100") {
			t.Errorf("leases: %+v", st.Leases)
		}
		if got := has(t, s); len(got) != 1 || got[0] != "10.0.0.100/24" {
			t.Errorf("the device has %v: want 10.0.0.100/24", got)
		}
		client.ClientID, client.Within = "other", 300*time.Millisecond
		began := time.Now()
		if _, err := s.Lease("c", client); err == nil || !strings.Contains(err.Error(), "no lease within 300ms") {
			t.Errorf("of a server without an address left: %v", err)
		}
		if took := time.Since(began); took > 3*time.Second {
			t.Errorf("gave up after %s: want 300ms", took)
		}
		must(t, undo())
		st = becomes(t, s, func(st lab.DHCPState) bool { return len(st.Leases) == 0 })
		if got := has(t, s); len(got) != 0 || st.Refused == 0 {
			t.Errorf("after the release: %+v; the device has %v", st, got)
		}
		must(t, end(), end())
	}
}

// A lease is renewed until the client is undone, and not beyond.
func TestRenewal(t *testing.T) {
	s := machine(t)
	_, err := s.Serve(config(1, 2*time.Second))
	must(t, err)
	undo, err := s.Lease("c", topology.DHCP{Link: "eth0", ClientID: "c"})
	must(t, err)
	var st lab.DHCPState
	must(t, s.State(lab.Nothing{}, &st))
	first := st.Leases[0].Until
	becomes(t, s, func(st lab.DHCPState) bool {
		return len(st.Leases) > 0 && st.Leases[0].Until.After(first.Add(500*time.Millisecond))
	})
	must(t, undo())
}

func TestInform(t *testing.T) {
	s := machine(t)
	_, err := s.Serve(config(1, time.Minute))
	must(t, err)
	undo, err := s.Lease("c", topology.DHCP{Link: "eth0", ClientID: "c"})
	must(t, err)
	var took time.Duration
	must(t, s.Inform(lab.Inform{In: "c", Device: "eth0", From: netip.MustParseAddr("10.0.0.100"), Server: netip.MustParseAddr("10.0.0.1")}, &took))
	if took <= 0 {
		t.Errorf("answered after %s", took)
	}
	must(t, undo())
}

// What a server answers to whom: RFC 2131 sections 4.3.1 to 4.3.5.
func TestDecisions(t *testing.T) {
	l, err := newLedger(config(2, time.Minute).Range)
	must(t, err)
	s := &server{DHCPServer: config(2, time.Minute), ledger: l}
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	ask := func(kind dhcpv4.MessageType, id string, more ...dhcpv4.Modifier) (dhcpv4.MessageType, string) {
		if id != "" {
			more = append(more, dhcpv4.WithOption(dhcpv4.OptClientIdentifier(identifier(id))))
		}
		m, err := dhcpv4.New(append(more, dhcpv4.WithHwAddr(mac), dhcpv4.WithMessageType(kind))...)
		must(t, err)
		answer, a := s.decide(m)
		if !a.IsValid() {
			return answer, ""
		}
		return answer, a.String()
	}
	wants := func(a string) dhcpv4.Modifier { return dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(net.ParseIP(a))) }
	of := func(a string) dhcpv4.Modifier { return dhcpv4.WithOption(dhcpv4.OptServerIdentifier(net.ParseIP(a))) }
	from := func(a string) dhcpv4.Modifier { return dhcpv4.WithClientIP(net.ParseIP(a)) }
	const (
		discover, offer, request = dhcpv4.MessageTypeDiscover, dhcpv4.MessageTypeOffer, dhcpv4.MessageTypeRequest
		ack, nak, none           = dhcpv4.MessageTypeAck, dhcpv4.MessageTypeNak, dhcpv4.MessageTypeNone
		release, inform          = dhcpv4.MessageTypeRelease, dhcpv4.MessageTypeInform
	)
	for i, step := range []struct {
		kind dhcpv4.MessageType
		id   string
		with []dhcpv4.Modifier
		want dhcpv4.MessageType
		addr string
	}{
		{request, "a", []dhcpv4.Modifier{wants("10.0.0.100")}, nak, ""}, // it was never offered that
		{discover, "a", nil, offer, "10.0.0.100"},
		{discover, "a", nil, offer, "10.0.0.100"},
		{request, "a", []dhcpv4.Modifier{wants("10.0.0.101"), of("10.0.0.1")}, nak, ""},
		{request, "a", []dhcpv4.Modifier{wants("10.0.0.100"), of("10.0.0.1")}, ack, "10.0.0.100"},
		{request, "a", []dhcpv4.Modifier{from("10.0.0.100")}, ack, "10.0.0.100"}, // renewed
		{discover, "b", nil, offer, "10.0.0.101"},                                // same hardware address, another client
		{request, "b", []dhcpv4.Modifier{wants("10.0.0.9"), of("10.0.0.2")}, none, ""},
		{discover, "", nil, offer, "10.0.0.101"}, // what b did not take
		{discover, "c", nil, none, ""},           // nothing is left
		{release, "b", []dhcpv4.Modifier{from("10.0.0.100"), of("10.0.0.1")}, none, ""},
		{request, "a", []dhcpv4.Modifier{from("10.0.0.100")}, ack, "10.0.0.100"}, // b cannot give back what is a's
		{release, "a", []dhcpv4.Modifier{from("10.0.0.100"), of("10.0.0.1")}, none, ""},
		{discover, "c", nil, offer, "10.0.0.100"},
		{inform, "d", []dhcpv4.Modifier{from("10.0.0.7")}, ack, ""},
	} {
		if got, a := ask(step.kind, step.id, step.with...); got != step.want || a != step.addr {
			t.Errorf("%d, %s of %q: %s %s: want %s %s", i, step.kind, step.id, got, a, step.want, step.addr)
		}
	}
	for h, l := range s.leases {
		l.Until = time.Now().Add(-time.Second)
		s.leases[h] = l
	}
	if st := s.state(); len(st.Leases) != 0 || len(l.pool.Holders()) != 0 {
		t.Errorf("after all ran out: %+v, %v", st, l.pool.Holders())
	}
}
