package probe

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/rpc"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/modebench/modebench/topology/host/capture"
	"github.com/modebench/modebench/topology/lab"
	"github.com/modebench/modebench/topology/space"
)

// TestMain runs the tests in an empty network namespace, as root or with what an ordinary user may have.
func TestMain(m *testing.M) { os.Exit(space.Rerun(m.Run, os.Args[1:], os.Getenv)) }

// path is a client, a router and a server. The link of the server is narrower: 1300 bytes. Tests that make one run in
// parallel, since the kernel brings new links up in rounds of a second.
type path struct {
	*Service
	capture *capture.Service
	spaces  map[string]*space.Space
}

const narrow = 1300

func newPath(t *testing.T) *path {
	t.Helper()
	p := &path{spaces: map[string]*space.Space{}, capture: capture.New("h1")}
	t.Cleanup(func() { _ = p.capture.Close() })
	for _, name := range []string{"client", "router", "server"} {
		sp, err := space.New()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = sp.Close() })
		p.spaces[name] = sp
		p.in(t, name, func() error {
			for key, value := range map[string]string{
				"ipv4/ip_forward": "1", "ipv6/conf/all/forwarding": "1", "ipv6/conf/default/accept_dad": "0", "ipv4/icmp_ratelimit": "0", "ipv6/icmp/ratelimit": "0",
				"ipv4/icmp_echo_ignore_broadcasts": "1",
			} {
				if err := os.WriteFile(filepath.Join("/proc/sys/net", key), []byte(value), 0); err != nil {
					return err
				}
			}
			return nil
		})
	}
	p.link(t, "router", "left", "client", "eth0", 1500)
	p.link(t, "router", "right", "server", "eth0", narrow)
	p.up(t, "client", "lo", "127.0.0.1/8")
	p.up(t, "server", "lo", "127.0.0.1/8")
	p.up(t, "router", "left", "192.0.2.1/24", "2001:db8:1::1/64")
	p.up(t, "client", "eth0", "192.0.2.2/24", "2001:db8:1::2/64")
	p.up(t, "router", "right", "198.51.100.1/24", "2001:db8:2::1/64")
	p.up(t, "server", "eth0", "198.51.100.2/24", "2001:db8:2::2/64")
	for name, vias := range map[string][2]string{"client": {"192.0.2.1", "2001:db8:1::1"}, "server": {"198.51.100.1", "2001:db8:2::1"}} {
		p.in(t, name, func() error {
			for i, dst := range []string{"0.0.0.0/0", "::/0"} {
				_, to, err := net.ParseCIDR(dst)
				if err != nil {
					return err
				}
				if err := netlink.RouteAdd(&netlink.Route{Dst: to, Gw: net.ParseIP(vias[i])}); err != nil {
					return err
				}
			}
			return nil
		})
	}
	for name, sp := range p.spaces {
		if err := p.capture.Watch(name, sp); err != nil {
			t.Fatal(err)
		}
	}
	p.Service = New(func(container string) (*space.Space, error) {
		if sp := p.spaces[container]; sp != nil {
			return sp, nil
		}
		return nil, fmt.Errorf("no container %q", container)
	})
	t.Cleanup(func() { _ = p.Close() })
	// A link that has just come up drops what is sent at once; from here on it is the probe that is tested.
	for family, addr := range serverAddrs {
		for _, a := range []lab.Ask{{In: "client", To: at(addr, 0)}, {In: "router", To: at(clientAddrs[family], 0)}} {
			a.Proto, a.Wait = "icmp", 100*time.Millisecond
			for deadline := time.Now().Add(10 * time.Second); !p.ask(t, a).Answered; {
				if time.Now().After(deadline) {
					t.Fatalf("%v does not come up", a.To)
				}
			}
		}
	}
	return p
}

func (p *path) in(t *testing.T, name string, f func() error) {
	t.Helper()
	if err := p.spaces[name].Do(f); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}

func (p *path) link(t *testing.T, a, device, b, peer string, mtu int) {
	t.Helper()
	p.in(t, a, func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU = device, mtu
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: peer, PeerMTU: uint32(mtu), PeerNamespace: netlink.NsFd(int(p.spaces[b].File().Fd()))})
	})
}

func (p *path) up(t *testing.T, name, device string, addrs ...string) {
	t.Helper()
	p.in(t, name, func() error {
		l, err := netlink.LinkByName(device)
		if err != nil {
			return err
		}
		if err := netlink.LinkSetUp(l); err != nil {
			return err
		}
		for _, a := range addrs {
			addr, err := netlink.ParseAddr(a)
			if err != nil {
				return err
			}
			addr.Flags = unix.IFA_F_NODAD
			if device == "lo" {
				continue
			}
			if err := netlink.AddrAdd(l, addr); err != nil {
				return err
			}
		}
		return nil
	})
}

func (p *path) listen(t *testing.T, l lab.Listen) lab.Listening {
	t.Helper()
	var got lab.Listening
	if err := p.Listen(l, &got); err != nil {
		t.Fatal(err)
	}
	return got
}

func (p *path) ask(t *testing.T, a lab.Ask) lab.Answer {
	t.Helper()
	var got lab.Answer
	if err := p.Ask(a, &got); err != nil {
		t.Fatal(err)
	}
	return got
}

var (
	serverAddrs = []string{"198.51.100.2", "2001:db8:2::2"}
	clientAddrs = []string{"192.0.2.2", "2001:db8:1::2"}
	routerAddrs = []string{"192.0.2.1", "2001:db8:1::1"}
	anyAddrs    = []string{"0.0.0.0", "::"}
)

func at(addr string, port uint16) netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr(addr), port)
}

func TestAnAnswerTellsWhatWasSeen(t *testing.T) {
	t.Parallel()
	p := newPath(t)
	for family, server := range serverAddrs {
		for _, proto := range []string{"udp", "tcp", "icmp"} {
			t.Run(fmt.Sprint(proto, " ", server), func(t *testing.T) {
				var l lab.Listening
				if proto != "icmp" {
					l = p.listen(t, lab.Listen{In: "server", Proto: proto, Addr: at(anyAddrs[family], 0)})
					if l.Refusal.Errno != "" || l.Port == 0 {
						t.Fatalf("listening: %+v", l)
					}
				}
				got := p.ask(t, lab.Ask{In: "client", Proto: proto, To: at(server, l.Port), Token: "hello", TTL: 33, Size: 700, Wait: 10 * time.Second})
				if !got.Answered || got.Refusal.Errno != "" || got.From.Addr().String() != clientAddrs[family] || got.Peer != at(server, l.Port) || got.RTT <= 0 || got.MTU != 1500 {
					t.Fatalf("%+v", got)
				}
				if proto == "tcp" && got.TTL != 0 || proto != "tcp" && got.TTL != 63 {
					t.Errorf("TTL of the answer: %d", got.TTL)
				}
				if proto == "icmp" {
					return
				}
				s := got.Seen
				if s.Token != "hello" || s.Source != got.From || s.Dest.String() != server || s.Device != "eth0" || s.TTL != 32 || s.Size != 700 || s.When.IsZero() {
					t.Errorf("seen %+v", s)
				}
				var all []lab.Seen
				if err := p.Seen(l.Handle, &all); err != nil || len(all) != 1 || all[0].Source != s.Source || all[0].Token != s.Token {
					t.Errorf("Seen: %+v, %v", all, err)
				}
				var tally lab.Tally
				if err := p.Stop(l.Handle, &tally); err != nil || tally.Sent != 1 || tally.Answered != 1 {
					t.Errorf("Stop: %+v, %v", tally, err)
				}
				if err := p.Stop(l.Handle, &tally); err == nil {
					t.Error("a listener is stopped twice")
				}
			})
		}
	}
}

func TestRefusalsHaveASymbolAndASender(t *testing.T) {
	t.Parallel()
	p := newPath(t)
	for family, server := range serverAddrs {
		for _, proto := range []string{"udp", "tcp"} {
			got := p.ask(t, lab.Ask{In: "client", Proto: proto, To: at(server, 9), Wait: 10 * time.Second})
			if got.Answered || got.Refusal.Errno != "ECONNREFUSED" || proto == "udp" && got.ICMPFrom.String() != server {
				t.Errorf("%s to a closed port of %s: %+v", proto, server, got)
			}
			got = p.ask(t, lab.Ask{In: "client", Proto: proto, To: at(server, 9), TTL: 1, Wait: 10 * time.Second})
			if got.Answered || got.Refusal.Errno != "EHOSTUNREACH" || got.ICMPFrom.String() != routerAddrs[family] {
				t.Errorf("%s with TTL 1 to %s: %+v", proto, server, got)
			}
		}
		got := p.ask(t, lab.Ask{In: "client", Proto: "icmp", To: at(server, 0), TTL: 1, Wait: 10 * time.Second})
		if got.Answered || got.Refusal.Errno != "EHOSTUNREACH" || got.ICMPFrom.String() != routerAddrs[family] {
			t.Errorf("echo with TTL 1 to %s: %+v", server, got)
		}
		for _, proto := range []string{"udp", "tcp", "icmp"} {
			got := p.ask(t, lab.Ask{In: "router", Proto: proto, To: at([]string{"203.0.113.1", "2001:db8:9::1"}[family], 9)})
			if got.Answered || got.Refusal.Errno != "ENETUNREACH" || got.ICMPFrom.IsValid() {
				t.Errorf("%s without a route: %+v", proto, got)
			}
			got = p.ask(t, lab.Ask{In: "client", Proto: proto, To: at(server, 9), From: at(serverAddrs[family], 0)})
			if got.Answered || got.Refusal.Errno != "EADDRNOTAVAIL" {
				t.Errorf("%s from another's address: %+v", proto, got)
			}
			got = p.ask(t, lab.Ask{In: "client", Proto: proto, To: at(server, 9), Device: "eth7"})
			if got.Answered || got.Refusal.Errno != "ENODEV" {
				t.Errorf("%s by no device: %+v", proto, got)
			}
		}
	}
	if got := p.ask(t, lab.Ask{In: "client", Proto: "udp", To: at("255.255.255.255", 9)}); got.Refusal.Errno != "EACCES" {
		t.Errorf("broadcast without leave: %+v", got)
	}
	for name, a := range map[string]lab.Ask{
		"container": {In: "none", Proto: "udp", To: at("192.0.2.1", 9)}, "protocol": {In: "client", Proto: "sctp", To: at("192.0.2.1", 9)},
		"address": {In: "client", Proto: "udp"}, "family": {In: "client", Proto: "udp", To: at("192.0.2.1", 9), From: at("::1", 0)},
		"token": {In: "client", Proto: "udp", To: at("192.0.2.1", 9), Token: strings.Repeat("x", lab.TokenMax+1)},
	} {
		if err := p.Ask(a, &lab.Answer{}); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestPathMTUIsLearnt(t *testing.T) {
	t.Parallel()
	p := newPath(t)
	for family, server := range serverAddrs {
		l := p.listen(t, lab.Listen{In: "server", Proto: "udp", Addr: at(server, 0)})
		big := lab.Ask{In: "client", Proto: "udp", To: at(server, l.Port), Size: 1400, NoFragment: true, Wait: 10 * time.Second}
		got := p.ask(t, big)
		if got.Answered || got.Refusal.Errno != "EMSGSIZE" || got.ICMPFrom.String() != routerAddrs[family] || got.MTU != narrow {
			t.Errorf("the first to %s: %+v", server, got)
		}
		got = p.ask(t, big)
		if got.Answered || got.Refusal.Errno != "EMSGSIZE" || got.ICMPFrom.IsValid() || got.MTU != narrow {
			t.Errorf("the second to %s: %+v", server, got)
		}
		big.NoFragment = false
		if got = p.ask(t, big); !got.Answered || got.Seen.Size != 1400 {
			t.Errorf("fragmented to %s: %+v", server, got)
		}
		echo := p.ask(t, lab.Ask{In: "client", Proto: "icmp", To: at(server, 0), Size: 1400, NoFragment: true, Wait: 10 * time.Second})
		if echo.Answered || echo.Refusal.Errno != "EMSGSIZE" {
			t.Errorf("echo to %s: %+v", server, echo)
		}
		if got := p.ask(t, lab.Ask{In: "client", Proto: "tcp", To: at(server, p.listen(t, lab.Listen{In: "server", Proto: "tcp", Addr: at(server, 0)}).Port), Size: 100_000, Wait: 10 * time.Second}); !got.Answered || got.Seen.Size != 100_000 {
			t.Errorf("a long message over a connection to %s: %+v", server, got)
		}
	}
}

func TestPortsConflict(t *testing.T) {
	t.Parallel()
	p := newPath(t)
	for _, proto := range []string{"udp", "tcp"} {
		for _, any := range anyAddrs {
			first := p.listen(t, lab.Listen{In: "server", Proto: proto, Addr: at(any, 8080), ReusePort: true})
			if first.Refusal.Errno != "" || first.Port != 8080 {
				t.Fatalf("%s %s: %+v", proto, any, first)
			}
			if got := p.listen(t, lab.Listen{In: "server", Proto: proto, Addr: at(any, 8080)}); got.Refusal.Errno != "EADDRINUSE" {
				t.Errorf("%s %s once more: %+v", proto, any, got)
			}
			if got := p.listen(t, lab.Listen{In: "server", Proto: proto, Addr: at(any, 8080), ReusePort: true}); got.Refusal.Errno != "" {
				t.Errorf("%s %s shared: %+v", proto, any, got)
			}
			if got := p.listen(t, lab.Listen{In: "client", Proto: proto, Addr: at(any, 8080)}); got.Refusal.Errno != "" {
				t.Errorf("%s %s in another namespace: %+v", proto, any, got)
			}
		}
	}
}

func TestGroupsAndBroadcasts(t *testing.T) {
	t.Parallel()
	p := newPath(t)
	for family, group := range []string{"239.1.2.3", "ff02::1:2:3"} {
		member := p.listen(t, lab.Listen{In: "client", Proto: "udp", Addr: at(anyAddrs[family], 5000), Group: netip.MustParseAddr(group), Device: "eth0"})
		if member.Refusal.Errno != "" {
			t.Fatalf("join: %+v", member)
		}
		other := p.listen(t, lab.Listen{In: "client", Proto: "udp", Addr: at(anyAddrs[family], 5001)})
		got := p.ask(t, lab.Ask{In: "router", Proto: "udp", To: at(group, 5000), Device: "left", Wait: 10 * time.Second})
		if !got.Answered || got.Seen.Dest.String() != group || got.Seen.TTL != 1 || got.Peer.Addr().String() == group || !got.From.Addr().IsValid() {
			t.Errorf("to the group: %+v", got)
		}
		// To one that did not join, and then one that it answers: so the first was lost, not late.
		lost := p.ask(t, lab.Ask{In: "router", Proto: "udp", To: at(group, 5001), Device: "left", Wait: 50 * time.Millisecond})
		control := p.ask(t, lab.Ask{In: "router", Proto: "udp", To: at(clientAddrs[family], 5001), Wait: 10 * time.Second})
		var seen []lab.Seen
		if err := p.Seen(other.Handle, &seen); err != nil || len(seen) != 1 || lost.Answered || !control.Answered {
			t.Errorf("to no member: %+v, then %+v; seen %+v, %v", lost, control, seen, err)
		}
	}
	l := p.listen(t, lab.Listen{In: "client", Proto: "udp", Addr: at("0.0.0.0", 6000)})
	for _, to := range []string{"255.255.255.255", "192.0.2.255"} {
		got := p.ask(t, lab.Ask{In: "router", Proto: "udp", To: at(to, l.Port), Device: "left", Broadcast: true, Wait: 10 * time.Second})
		if !got.Answered || got.Seen.Dest.String() != to || got.Peer != at(clientAddrs[0], l.Port) || got.From.Addr().String() != routerAddrs[0] {
			t.Errorf("broadcast to %s: %+v", to, got)
		}
	}
	// Link-local addresses are of a device.
	var local netip.Addr
	for deadline := time.Now().Add(10 * time.Second); !local.IsValid() && time.Now().Before(deadline); <-time.After(time.Millisecond) {
		p.in(t, "client", func() error {
			dev, err := netlink.LinkByName("eth0")
			if err != nil {
				return err
			}
			addrs, err := netlink.AddrList(dev, netlink.FAMILY_V6)
			for _, a := range addrs {
				if a.IP.IsLinkLocalUnicast() && a.Flags&unix.IFA_F_TENTATIVE == 0 {
					local = netip.AddrFrom16([16]byte(a.IP))
				}
			}
			return err
		})
	}
	for _, proto := range []string{"udp", "tcp", "icmp"} {
		port := uint16(0)
		if proto != "icmp" {
			port = p.listen(t, lab.Listen{In: "client", Proto: proto, Addr: netip.AddrPortFrom(local, 0), Device: "eth0"}).Port
		}
		got := p.ask(t, lab.Ask{In: "router", Proto: proto, To: netip.AddrPortFrom(local, port), Device: "left", Wait: 10 * time.Second})
		if !got.Answered || !got.From.Addr().IsLinkLocalUnicast() {
			t.Errorf("%s to %v: %+v", proto, local, got)
		}
	}
}

func TestSilenceIsNotAnswered(t *testing.T) {
	t.Parallel()
	p := newPath(t)
	for _, proto := range []string{"udp", "tcp"} {
		l := p.listen(t, lab.Listen{In: "server", Proto: proto, Addr: at(serverAddrs[0], 0), Silent: true})
		got := p.ask(t, lab.Ask{In: "client", Proto: proto, To: at(serverAddrs[0], l.Port), Token: "quiet", Wait: 100 * time.Millisecond})
		if got.Answered || got.Refusal.Errno != "" {
			t.Errorf("%s: %+v", proto, got)
		}
		var seen []lab.Seen
		for deadline := time.Now().Add(10 * time.Second); len(seen) == 0 && time.Now().Before(deadline); <-time.After(time.Millisecond) {
			if err := p.Seen(l.Handle, &seen); err != nil {
				t.Fatal(err)
			}
		}
		if len(seen) != 1 || seen[0].Token != "quiet" {
			t.Errorf("%s: seen %+v", proto, seen)
		}
	}
}

func TestEnoughEndsAQuestion(t *testing.T) {
	p := newPath(t)
	if err := p.Enough("unknown", &lab.Nothing{}); err != nil {
		t.Error(err)
	}
	for _, proto := range []string{"udp", "tcp"} {
		l := p.listen(t, lab.Listen{In: "server", Proto: proto, Addr: at(serverAddrs[0], 0), Silent: true})
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			var seen []lab.Seen
			for len(seen) == 0 { // until it was asked
				if err := p.Seen(l.Handle, &seen); err != nil {
					t.Error(err)
					return
				}
			}
			if err := p.Enough("patient", &lab.Nothing{}); err != nil {
				t.Error(err)
			}
		}()
		got := p.ask(t, lab.Ask{In: "client", Proto: proto, To: at(serverAddrs[0], l.Port), Token: "patient", Wait: time.Hour})
		if got.Answered || got.Refusal.Errno != "" {
			t.Errorf("%s: %+v", proto, got)
		}
		<-ended
	}
}

func TestAFlowCountsWhatIsAnswered(t *testing.T) {
	t.Parallel()
	p := newPath(t)
	l := p.listen(t, lab.Listen{In: "server", Proto: "udp", Addr: at(serverAddrs[0], 0)})
	var h lab.Handle
	if err := p.Flow(lab.Flow{Ask: lab.Ask{In: "client", Proto: "udp", To: at(serverAddrs[0], l.Port), Token: "flow", Wait: 5 * time.Second}, Every: time.Millisecond}, &h); err != nil {
		t.Fatal(err)
	}
	seen := func(n int) (all []lab.Seen) {
		for deadline := time.Now().Add(20 * time.Second); len(all) < n && time.Now().Before(deadline); <-time.After(time.Millisecond) {
			if err := p.Seen(l.Handle, &all); err != nil {
				t.Fatal(err)
			}
		}
		return all
	}
	before := len(seen(20))
	set := func(f func(netlink.Link) error) {
		p.in(t, "router", func() error {
			dev, err := netlink.LinkByName("right")
			return errors.Join(err, f(dev))
		})
	}
	began := time.Now()
	set(netlink.LinkSetDown)
	outage := 300 * time.Millisecond
	<-time.After(outage)
	set(netlink.LinkSetUp)
	all := seen(before + 40)
	var so, tally lab.Tally
	if err := p.Tally(h, &so); err != nil {
		t.Fatal(err)
	}
	if err := p.Stop(h, &tally); err != nil {
		t.Fatal(err)
	}
	if tally.Answered < before+40 || tally.Sent <= tally.Answered || tally.Longest < outage {
		t.Errorf("%+v, %d seen", tally, len(all))
	}
	if over := tally.Since.Add(tally.Longest); so.Sent < before+40 || so.Sent > tally.Sent || tally.Since.Before(began.Add(-outage)) || over.Before(began.Add(outage)) || over.After(time.Now()) {
		t.Errorf("taken down at %s: before it ended %+v, then %+v", began, so, tally)
	}
	if err := p.Tally(l.Handle, &so); err == nil {
		t.Error("a listener has the tally of a flow")
	}
	if all[0].Token != "flow.0" {
		t.Errorf("the first token is %q", all[0].Token)
	}
	for name, f := range map[string]lab.Flow{
		"tcp":   {Ask: lab.Ask{In: "client", Proto: "tcp", To: at(serverAddrs[0], 9)}, Every: time.Second},
		"pace":  {Ask: lab.Ask{In: "client", Proto: "udp", To: at(serverAddrs[0], 9)}},
		"token": {Ask: lab.Ask{In: "client", Proto: "udp", To: at(serverAddrs[0], 9), Token: strings.Repeat("x", 20)}, Every: time.Second},
	} {
		if err := p.Flow(f, &h); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestAFrameIsSentAsDescribed(t *testing.T) {
	t.Parallel()
	p := newPath(t)
	if err := p.capture.Arm(lab.Nothing{}, nil); err != nil {
		t.Fatal(err)
	}
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 9}
	ask := lab.Packet{EthSrc: mac, ARP: &lab.ARP{Op: 1, SenderMAC: mac, SenderIP: netip.MustParseAddr("192.0.2.9"), TargetIP: netip.MustParseAddr(clientAddrs[0])}}
	if err := p.Send(lab.Send{In: "router", Device: "left", Packet: ask}, nil); err != nil {
		t.Fatal(err)
	}
	if err := p.Send(lab.Send{In: "router", Device: "none", Packet: ask}, nil); err == nil {
		t.Error("sent by no device")
	}
	p.await(t, "an answer to the ARP request", func(q lab.Packet) bool {
		return q.In == "client" && q.Outgoing && q.ARP != nil && q.ARP.Op == 2 && q.ARP.TargetMAC.String() == mac.String() && q.ARP.TargetIP == ask.ARP.SenderIP
	})
	tagged := lab.Packet{EthDst: net.HardwareAddr{2, 0, 0, 0, 0, 8}, VLAN: 7, Proto: "udp", Token: "tagged", Src: at(routerAddrs[0], 9), Dst: at(clientAddrs[0], 9)}
	if err := p.Send(lab.Send{In: "router", Device: "left", Packet: tagged}, nil); err != nil {
		t.Fatal(err)
	}
	var left *net.Interface
	p.in(t, "router", func() (err error) { left, err = net.InterfaceByName("left"); return err })
	for _, in := range []string{"router", "client"} { // in the frame here, beside it there
		p.await(t, "the tagged frame in "+in, func(q lab.Packet) bool {
			return q.In == in && q.Token == "tagged" && q.VLAN == 7 && q.Dst == tagged.Dst && q.IP.Transport == "ok" && q.EthSrc.String() == left.HardwareAddr.String()
		})
	}
}

// await waits for a packet since the beginning of the recording, for at most 10 s.
func (p *path) await(t *testing.T, what string, is func(lab.Packet) bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; <-time.After(time.Millisecond) {
		var packets []lab.Packet
		if err := p.capture.Since(lab.Mark{}, &packets); err != nil {
			t.Fatal(err)
		}
		if slices.ContainsFunc(packets, is) {
			return
		}
		if time.Now().After(deadline) {
			for _, q := range packets {
				t.Log(q.In, q.VLAN, q.Text)
			}
			t.Fatalf("%s was not seen", what)
		}
	}
}

func TestVerbsTravel(t *testing.T) {
	t.Parallel()
	p := newPath(t)
	server := rpc.NewServer()
	if err := errors.Join(server.RegisterName("Probe", p.Service), server.RegisterName("Capture", p.capture)); err != nil {
		t.Fatal(err)
	}
	here, there := net.Pipe()
	go server.ServeConn(there)
	client := rpc.NewClient(here)
	t.Cleanup(func() { _ = client.Close() })
	do := func(verb string, args, reply any) {
		t.Helper()
		if err := client.Call(verb, args, reply); err != nil {
			t.Fatalf("%s: %v", verb, err)
		}
	}
	var m lab.Mark
	do("Capture.Arm", lab.Nothing{}, &lab.Nothing{})
	do("Capture.Mark", lab.Nothing{}, &m)
	var l lab.Listening
	do("Probe.Listen", lab.Listen{In: "server", Proto: "udp", Addr: at("::", 0)}, &l)
	var got lab.Answer
	do("Probe.Ask", lab.Ask{In: "client", Proto: "udp", To: at(serverAddrs[1], l.Port), Token: "far", Wait: 10 * time.Second}, &got)
	var seen []lab.Seen
	do("Probe.Seen", l.Handle, &seen)
	if !got.Answered || len(seen) != 1 || got.Seen.Source != seen[0].Source || got.ICMPFrom.IsValid() {
		t.Errorf("%+v, seen %+v", got, seen)
	}
	var packets []lab.Packet
	do("Capture.Since", m, &packets)
	// Question and answer, at each of the four devices.
	packets = slices.DeleteFunc(packets, func(q lab.Packet) bool { return q.Token != "far" })
	if len(packets) != 8 {
		t.Errorf("%d packets, want 8", len(packets))
	}
	for _, q := range packets {
		if q.IP == nil || q.Proto != "udp" || q.Text == "" || !q.When.After(time.Unix(0, 0)) || q.NDP != nil {
			t.Errorf("%+v", q)
		}
	}
	var h lab.Handle
	do("Probe.Flow", lab.Flow{Ask: lab.Ask{In: "client", Proto: "udp", To: at(serverAddrs[1], l.Port)}, Every: time.Millisecond}, &h)
	var tally lab.Tally
	do("Probe.Stop", h, &tally)
	if tally.Sent == 0 || tally.Sent != tally.Answered {
		t.Errorf("%+v", tally)
	}
}

func TestAForgottenContainerIsLeftAlone(t *testing.T) {
	t.Parallel()
	p := newPath(t)
	gone := p.listen(t, lab.Listen{In: "server", Proto: "udp", Addr: at("::", 0)})
	stays := p.listen(t, lab.Listen{In: "client", Proto: "udp", Addr: at("::", 0)})
	to := lab.Ask{In: "router", Proto: "udp", To: at(serverAddrs[1], gone.Port), Wait: 10 * time.Second}
	if got := p.ask(t, to); !got.Answered {
		t.Fatalf("before: %+v", got)
	}
	var h lab.Handle
	if err := p.Flow(lab.Flow{Ask: lab.Ask{In: "server", Proto: "udp", To: at(clientAddrs[1], stays.Port), Wait: time.Hour}, Every: time.Millisecond}, &h); err != nil {
		t.Fatal(err)
	}
	p.Forget("server")
	if got := p.ask(t, to); got.Refusal.Errno != "ECONNREFUSED" {
		t.Errorf("the port after: %+v", got)
	}
	if got := p.ask(t, lab.Ask{In: "router", Proto: "udp", To: at(clientAddrs[1], stays.Port), Wait: 10 * time.Second}); !got.Answered {
		t.Errorf("another container after: %+v", got)
	}
	var seen []lab.Seen
	var tally lab.Tally
	if err := p.Seen(gone.Handle, &seen); err != nil || len(seen) != 1 {
		t.Errorf("seen %+v, %v", seen, err)
	}
	if err := p.Stop(gone.Handle, &tally); err != nil || tally.Answered != 1 {
		t.Errorf("%+v, %v", tally, err)
	}
	if err := p.Stop(h, &tally); err != nil || tally.Sent == 0 {
		t.Errorf("%+v, %v", tally, err)
	}
}

func TestNothingIsLeftBehind(t *testing.T) {
	p := newPath(t)
	descriptors := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	p.ask(t, lab.Ask{In: "client", Proto: "icmp", To: at(serverAddrs[0], 0), Wait: 10 * time.Second}) // the poller and threads exist
	fds, goroutines := descriptors(), runtime.NumGoroutine()
	var ends []uint16
	for _, proto := range []string{"udp", "tcp"} {
		ends = append(ends, p.listen(t, lab.Listen{In: "server", Proto: proto, Addr: at("::", 0)}).Port)
	}
	p.listen(t, lab.Listen{In: "server", Proto: "udp", Addr: at("::", ends[0])}) // refused
	silent := p.listen(t, lab.Listen{In: "server", Proto: "udp", Addr: at("::", 0), Silent: true}).Port
	var h lab.Handle
	if err := p.Flow(lab.Flow{Ask: lab.Ask{In: "client", Proto: "udp", To: at(serverAddrs[1], ends[0])}, Every: time.Millisecond}, &h); err != nil {
		t.Fatal(err)
	}
	p.ask(t, lab.Ask{In: "client", Proto: "tcp", To: at(serverAddrs[1], ends[1]), Wait: 10 * time.Second})
	// A connection that says nothing, and a question that nobody answers.
	var idle net.Conn
	p.in(t, "client", func() (err error) {
		idle, err = net.Dial("tcp", at(serverAddrs[1], ends[1]).String())
		return err
	})
	asked := make(chan error, 1)
	go func() {
		asked <- p.Ask(lab.Ask{In: "client", Proto: "udp", To: at(serverAddrs[1], silent), Wait: time.Hour}, &lab.Answer{})
	}()
	for open := 0; open < 1; <-time.After(time.Millisecond) { // until the question is open: two listeners, one silent, a flow
		p.mu.Lock()
		open = len(p.sockets) - 5
		p.mu.Unlock()
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-asked; err == nil {
		t.Error("a question outlives the service without an error")
	}
	if err := idle.Close(); err != nil {
		t.Error(err)
	}
	if err := p.Listen(lab.Listen{In: "server", Proto: "udp", Addr: at("::", 0)}, &lab.Listening{}); err == nil {
		t.Error("a closed service listens")
	}
	deadline := time.Now().Add(10 * time.Second)
	for descriptors() > fds || runtime.NumGoroutine() > goroutines {
		if time.Now().After(deadline) {
			stacks := make([]byte, 1<<16)
			t.Fatalf("%d descriptors of %d, %d goroutines of %d:\n%s", descriptors(), fds, runtime.NumGoroutine(), goroutines, stacks[:runtime.Stack(stacks, true)])
		}
		<-time.After(time.Millisecond)
	}
}

// What a device's queue refuses says something of the network, and what has no room in the kernel's tables of neighbours nothing.
func TestFullTablesOfNeighboursAreNoAnswer(t *testing.T) {
	t.Parallel()
	p := newPath(t)
	p.in(t, "client", func() error {
		eth0, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		return netlink.QdiscAdd(&netlink.Tbf{ // whose burst is less than a packet
			QdiscAttrs: netlink.QdiscAttrs{LinkIndex: eth0.Attrs().Index, Parent: netlink.HANDLE_ROOT, Handle: netlink.MakeHandle(1, 0)},
			Rate:       1000, Buffer: 20e6 / 64, Limit: 1000, // of 64 ns each, as the kernel's clock of queues ticks
		})
	})
	ask := lab.Ask{In: "client", Proto: "udp", To: at(serverAddrs[0], 9), Wait: time.Second}
	var told lab.Answer
	if err := p.Ask(ask, &told); err != nil || told.Refusal.Errno != "ENOBUFS" {
		t.Fatalf("%+v, %v: want ENOBUFS", told, err)
	}
	times := uint64(0)
	p.overflows = func() (uint64, error) { times++; return times, nil }
	if err := p.Ask(ask, &told); err == nil || !strings.Contains(err.Error(), "gc_thresh3") {
		t.Errorf("%v: want an error that tells of the tables", err)
	}
}
