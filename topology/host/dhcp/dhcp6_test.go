package dhcp

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"
	"github.com/vishvananda/netlink"

	"github.com/modebench/modebench/topology"
	"github.com/modebench/modebench/topology/lab"
)

// machine6 is a machine whose container has not to wait long for what it asks itself.
func machine6(t *testing.T) *Service {
	t.Helper()
	s := machine(t)
	there, err := s.find("c")
	must(t, err)
	must(t, there.Do(func() error {
		return errors.Join(os.WriteFile("/proc/sys/net/ipv6/neigh/eth0/retrans_time_ms", []byte("100"), 0),
			os.WriteFile("/proc/sys/net/ipv6/conf/eth0/router_solicitation_delay", []byte("0"), 0))
	}))
	return s
}

// config6 is a server of fd00::100 and so many addresses more.
func config6(more int, lease time.Duration) topology.DHCPServer {
	first := netip.MustParseAddr("fd00::100")
	last := first
	for range more {
		last = last.Next()
	}
	return topology.DHCPServer{
		Link: "srv", Addr: netip.MustParseAddr("fd00::1"), Lease: lease,
		Range: topology.Range{Subnet: netip.MustParsePrefix("fd00::/64"), First: first, Last: last},
	}
}

// has6 are the container's addresses of the range.
func has6(t *testing.T, s *Service) []string { return numbers(t, s, netlink.FAMILY_V6) }

func client6Of(id string) topology.DHCP {
	return topology.DHCP{Link: "eth0", Six: true, ClientID: id, Within: 5 * time.Second}
}

func TestLease6(t *testing.T) {
	s := machine6(t)
	end4, err := s.Serve(config(1, time.Minute)) // beside that of the other family
	must(t, err)
	end, err := s.Serve(config6(0, 2*time.Second))
	must(t, err)
	undo, err := s.Lease("c", client6Of("c"))
	must(t, err)
	var st lab.DHCPState
	must(t, s.State(lab.Nothing{}, &st))
	if len(st.Leases) != 1 || string(st.Leases[0].ClientID) != string(client6Of("c").DUID()) || st.Leases[0].Addr.String() != "fd00::100" {
		t.Fatalf("leases: %+v", st.Leases)
	}
	if got := has6(t, s); len(got) != 1 || got[0] != "fd00::100/128" {
		t.Errorf("the device has %v: want fd00::100/128", got)
	}
	other := client6Of("other")
	other.Within = 300 * time.Millisecond
	if _, err := s.Lease("c", other); err == nil || !strings.Contains(err.Error(), "no lease within 300ms") || !strings.Contains(err.Error(), "NoAddrsAvail") {
		t.Errorf("of a server without an address left: %v", err)
	}
	var took time.Duration
	must(t, s.Inform(lab.Inform{In: "c", Device: "eth0", Server: netip.MustParseAddr("fd00::1")}, &took))
	if took <= 0 {
		t.Errorf("answered after %s", took)
	}
	first := st.Leases[0].Until
	becomes(t, s, func(st lab.DHCPState) bool { // renewed
		return len(st.Leases) > 0 && st.Leases[0].Until.After(first.Add(500*time.Millisecond))
	})
	must(t, undo())
	if st = becomes(t, s, func(st lab.DHCPState) bool { return len(st.Leases) == 0 }); st.Refused == 0 {
		t.Errorf("after the release: %+v", st)
	}
	if got := has6(t, s); len(got) != 0 {
		t.Errorf("after the release the device has %v", got)
	}
	must(t, end(), end(), end4())
	st = lab.DHCPState{}
	if must(t, s.State(lab.Nothing{}, &st)); st.Running {
		t.Errorf("after the end: %+v", st)
	}
}

// An address that somebody else has is declined, and not given out again.
func TestDecline(t *testing.T) {
	s := machine6(t)
	own, err := s.find("")
	must(t, err)
	must(t, own.Do(func() error {
		l, err := netlink.LinkByName("srv")
		if err != nil {
			return err
		}
		return netlink.AddrAdd(l, &netlink.Addr{IPNet: &net.IPNet{IP: net.ParseIP("fd00::100"), Mask: net.CIDRMask(64, 128)}, Flags: 2}) // IFA_F_NODAD
	}))
	_, err = s.Serve(config6(1, time.Minute))
	must(t, err)
	if _, err := s.Lease("c", client6Of("c")); err == nil || !strings.Contains(err.Error(), "fd00::100 is another's, and is declined") {
		t.Errorf("of an address that is taken: %v", err)
	}
	if got := has6(t, s); len(got) != 0 {
		t.Errorf("after that the device has %v", got)
	}
	undo, err := s.Lease("c", client6Of("c"))
	must(t, err)
	if got := has6(t, s); len(got) != 1 || got[0] != "fd00::101/128" {
		t.Errorf("the device has %v: want fd00::101/128", got)
	}
	must(t, undo())
}

// What a server answers to whom: RFC 8415 sections 18.3.1 to 18.3.9.
func TestDecisions6(t *testing.T) {
	l, err := newLedger(config6(1, time.Minute).Range)
	must(t, err)
	duid := func(last byte) dhcpv6.DUID {
		return &dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: net.HardwareAddr{2, 0, 0, 0, 0, last}}
	}
	s := &serverSix{DHCPServer: config6(1, time.Minute), ledger: l, own: duid(1)}
	const (
		solicit, request, renew, release = dhcpv6.MessageTypeSolicit, dhcpv6.MessageTypeRequest, dhcpv6.MessageTypeRenew, dhcpv6.MessageTypeRelease
		decline, inform, rebind          = dhcpv6.MessageTypeDecline, dhcpv6.MessageTypeInformationRequest, dhcpv6.MessageTypeRebind
	)
	for i, step := range []struct {
		kind       dhcpv6.MessageType
		id, server byte
		addr       string
		want       string
	}{
		{solicit, 10, 0, "", "ADVERTISE fd00::100"},
		{solicit, 10, 1, "", "nothing"}, // a question to all that names one
		{request, 10, 2, "fd00::100", "nothing"},
		{renew, 10, 1, "fd00::101", "REPLY NoBinding"},
		{request, 10, 1, "fd00::100", "REPLY fd00::100"},
		{renew, 10, 1, "fd00::100", "REPLY fd00::100"},
		{solicit, 11, 0, "", "ADVERTISE fd00::101"},
		{solicit, 12, 0, "", "ADVERTISE NoAddrsAvail"},
		{request, 12, 1, "", "REPLY NoAddrsAvail"},
		{release, 11, 1, "fd00::100", "REPLY NoBinding"}, // it is another's
		{release, 10, 1, "fd00::100", "REPLY Success"},
		{renew, 10, 1, "fd00::100", "REPLY NoBinding"},
		{decline, 11, 1, "fd00::101", "REPLY Success"},
		{solicit, 12, 0, "", "ADVERTISE fd00::100"},
		{solicit, 13, 0, "", "ADVERTISE NoAddrsAvail"}, // the other one is a stranger's
		{inform, 13, 0, "", "REPLY"},
		{rebind, 12, 0, "fd00::100", "nothing"},
	} {
		with := []dhcpv6.Modifier{dhcpv6.WithClientID(duid(step.id)), dhcpv6.WithIAID(iaid)}
		if step.server != 0 {
			with = append(with, dhcpv6.WithServerID(duid(step.server)))
		}
		if step.addr != "" {
			with = append(with, dhcpv6.WithIANA(dhcpv6.OptIAAddress{IPv6Addr: net.ParseIP(step.addr)}))
		}
		m, err := dhcpv6.NewMessage(with...)
		must(t, err)
		m.MessageType = step.kind
		got := "nothing"
		if a := s.decide(m); a != nil {
			got = a.MessageType.String()
			status := a.Options.Status()
			if ia := a.Options.OneIANA(); ia != nil {
				if has := ia.Options.OneAddress(); has != nil {
					got += " " + has.IPv6Addr.String()
				}
				status = ia.Options.Status()
			}
			if status != nil {
				got += " " + status.StatusCode.String()
			}
			if a.TransactionID != m.TransactionID || a.Options.ServerID() == nil {
				t.Errorf("%d: %s", i, a.Summary())
			}
		}
		if got != step.want {
			t.Errorf("%d, %s of %d: %s: want %s", i, step.kind, step.id, got, step.want)
		}
	}
}
