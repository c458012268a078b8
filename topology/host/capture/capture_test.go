package capture

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/modebench/modebench/topology/lab"
	"github.com/modebench/modebench/topology/space"
)

// TestMain runs the tests in an empty network namespace, as root or with what an ordinary user may have.
func TestMain(m *testing.M) { os.Exit(space.Rerun(m.Run, os.Args[1:], os.Getenv)) }

// wire is two namespaces, joined by a veth pair.
type wire struct {
	a, b       *space.Space
	macA, macB net.HardwareAddr
}

func newWire(t *testing.T) wire {
	t.Helper()
	var w wire
	for _, at := range []**space.Space{&w.a, &w.b} {
		sp, err := space.New()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = sp.Close() })
		*at = sp
	}
	w.macA, w.macB = net.HardwareAddr{2, 0, 0, 0, 0, 0xa}, net.HardwareAddr{2, 0, 0, 0, 0, 0xb}
	in(t, w.a, func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.HardwareAddr = "eth0", w.macA
		return netlink.LinkAdd(&netlink.Veth{
			LinkAttrs: attrs, PeerName: "eth0", PeerHardwareAddr: w.macB, PeerNamespace: netlink.NsFd(int(w.b.File().Fd())),
		})
	})
	for sp, addr := range map[*space.Space]string{w.a: "192.0.2.1/24", w.b: "192.0.2.2/24"} {
		in(t, sp, func() error {
			for _, name := range []string{"lo", "eth0"} {
				l, err := netlink.LinkByName(name)
				if err != nil {
					return err
				}
				if name == "eth0" {
					a, err := netlink.ParseAddr(addr)
					if err != nil {
						return err
					}
					if err := netlink.AddrAdd(l, a); err != nil {
						return err
					}
				}
				if err := netlink.LinkSetUp(l); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return w
}

func in(t *testing.T, sp *space.Space, f func() error) {
	t.Helper()
	if err := sp.Do(f); err != nil {
		t.Fatal(err)
	}
}

// send sends one datagram from a namespace.
func send(t *testing.T, sp *space.Space, to, payload string) {
	t.Helper()
	in(t, sp, func() error {
		c, err := net.Dial("udp", to)
		if err != nil {
			return err
		}
		_, err = c.Write([]byte(payload))
		return errors.Join(err, c.Close())
	})
}

// since polls until n packets with the token were recorded, or for 10 s, and gives those that were.
func since(t *testing.T, s *Service, m lab.Mark, token string, n int) []lab.Packet {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; {
		var all []lab.Packet
		if err := s.Since(m, &all); err != nil {
			t.Fatal(err)
		}
		found := slices.DeleteFunc(all, func(p lab.Packet) bool { return p.Token != token })
		if len(found) >= n || time.Now().After(deadline) {
			return found
		}
		<-time.After(time.Millisecond)
	}
}

func TestAFrameIsSeenAtBothEndsOfAWire(t *testing.T) {
	w := newWire(t)
	s := New("h1")
	if err := s.Watch("", w.a); err != nil {
		t.Fatal(err)
	}
	var m lab.Mark
	if err := s.Mark(lab.Nothing{}, &m); err == nil {
		t.Error("a mark before the recording is armed")
	}
	if err := s.Arm(lab.Nothing{}, nil); err != nil {
		t.Fatal(err)
	}
	if err := s.Watch("c1", w.b); err != nil { // armed at once
		t.Fatal(err)
	}
	send(t, w.a, "192.0.2.2:7", string(lab.Payload("before", 0)))
	since(t, s, lab.Mark{}, "before", 4)
	if err := s.Mark(lab.Nothing{}, &m); err != nil {
		t.Fatal(err)
	}
	send(t, w.a, "192.0.2.2:7", string(lab.Payload("after", 40)))
	// The datagram, and the port unreachable that quotes it.
	got := since(t, s, m, "after", 4)
	if len(got) != 4 {
		t.Fatalf("%d packets, want 4: %v", len(got), got)
	}
	if before := since(t, s, m, "before", 0); len(before) != 0 {
		t.Errorf("from before the mark: %v", before)
	}
	for i, want := range []lab.Packet{
		{In: "", Outgoing: true, EthSrc: w.macA, EthDst: w.macB, Proto: "udp"},
		{In: "c1", EthSrc: w.macA, EthDst: w.macB, Proto: "udp"},
		{In: "c1", Outgoing: true, EthSrc: w.macB, EthDst: w.macA, Proto: "icmp"},
		{In: "", EthSrc: w.macB, EthDst: w.macA, Proto: "icmp"},
	} {
		p := got[i]
		if p.Machine != "h1" || p.Device != "eth0" || p.In != want.In || p.Outgoing != want.Outgoing || p.Proto != want.Proto ||
			p.EthSrc.String() != want.EthSrc.String() || p.EthDst.String() != want.EthDst.String() || !p.IP.HeaderOK || p.When.IsZero() {
			t.Errorf("packet %d is %+v, want %+v", i, p, want)
		}
		if p.Proto == "udp" && (p.Length != 14+28+40 || p.Dst != netip.MustParseAddrPort("192.0.2.2:7") || p.IP.Transport != "unfinished" && p.IP.Transport != "ok") {
			t.Errorf("packet %d is %+v, %+v", i, p, p.IP)
		}
		if p.Proto == "icmp" && (p.ICMP.Type != 3 || p.ICMP.Code != 3 || p.IP.Transport != "ok") {
			t.Errorf("packet %d is %+v, %+v", i, p.ICMP, p.IP)
		}
	}
	s.Forget("c1")
	if kept := since(t, s, m, "after", 4); len(kept) != 4 {
		t.Errorf("%d packets after Forget, want 4", len(kept))
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func TestKernelGroupReports(t *testing.T) {
	w := newWire(t)
	s := New("h1")
	t.Cleanup(func() { _ = s.Close() })
	if err := errors.Join(s.Watch("", w.a), s.Arm(lab.Nothing{}, nil)); err != nil {
		t.Fatal(err)
	}
	group4, group6 := netip.MustParseAddr("239.1.2.3"), netip.MustParseAddr("ff15::123")
	var sockets []int
	in(t, w.a, func() error {
		for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
			fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return err
			}
			sockets = append(sockets, fd)
		}
		l, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		index := l.Attrs().Index
		return errors.Join(
			unix.SetsockoptIPMreqn(sockets[0], unix.IPPROTO_IP, unix.IP_ADD_MEMBERSHIP, &unix.IPMreqn{Multiaddr: group4.As4(), Ifindex: int32(index)}),
			unix.SetsockoptIPv6Mreq(sockets[1], unix.IPPROTO_IPV6, unix.IPV6_JOIN_GROUP, &unix.IPv6Mreq{Multiaddr: group6.As16(), Interface: uint32(index)}))
	})
	awaitGroups(t, s, lab.Group{Addr: group4, Kind: "join"}, lab.Group{Addr: group6, Kind: "join"})
	for _, fd := range sockets {
		if err := unix.Close(fd); err != nil {
			t.Fatal(err)
		}
	}
	awaitGroups(t, s, lab.Group{Addr: group4, Kind: "leave"}, lab.Group{Addr: group6, Kind: "leave"})
}

// awaitGroups waits for reports of all these, for at most 20 s.
func awaitGroups(t *testing.T, s *Service, want ...lab.Group) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; <-time.After(time.Millisecond) {
		var all []lab.Packet
		if err := s.Since(lab.Mark{}, &all); err != nil {
			t.Fatal(err)
		}
		var seen []lab.Group
		for _, p := range all {
			if p.Groups != nil && (p.IP.TTL != 1 || !p.IP.RouterAlert || p.IP.Transport != "ok") {
				t.Fatalf("%s: %+v", p.Text, p.IP)
			}
			seen = append(seen, p.Groups...)
		}
		if !slices.ContainsFunc(want, func(g lab.Group) bool { return !slices.Contains(seen, g) }) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("reported: %v, want all of %v", seen, want)
		}
	}
}

func TestAnOverwrittenRecordingIsSaid(t *testing.T) {
	var l recording
	for range ringSize + 5 {
		l.add(record{})
	}
	if _, _, err := l.since(4); err == nil {
		t.Error("frames 4 of a full ring is gone, and since does not say so")
	}
	got, _, err := l.since(5)
	if err != nil || len(got) != ringSize || got[0].seq != 5 {
		t.Errorf("%d records, %v", len(got), err)
	}
	l.add(record{gap: errors.New("lost")})
	if _, _, err := l.since(l.end() - 1); err == nil {
		t.Error("frames were lost, and since does not say so")
	}
	if _, _, err := l.since(l.end()); err != nil {
		t.Errorf("frames were lost before the mark: %v", err)
	}
}
