package host

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/modebench/modebench/topology"
	"github.com/modebench/modebench/topology/lab"
	"github.com/modebench/modebench/topology/space"
)

func mac(s string) net.HardwareAddr {
	m, err := net.ParseMAC(s)
	if err != nil {
		panic(err)
	}
	return m
}

// furnish makes some of everything that a state shows.
func furnish() error {
	for _, l := range []netlink.Link{
		&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0", HardwareAddr: mac("02:00:00:00:00:0b")}},
		&netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: "v0", HardwareAddr: mac("02:00:00:00:00:01"), MTU: 1400},
			PeerName:  "v1", PeerHardwareAddr: mac("02:00:00:00:00:02"), PeerMTU: 1400,
		},
	} {
		if err := netlink.LinkAdd(l); err != nil {
			return fmt.Errorf("%s: %w", l.Attrs().Name, err)
		}
	}
	index := map[string]int{}
	links, err := netlink.LinkList()
	if err != nil {
		return err
	}
	for _, l := range links {
		index[l.Attrs().Name] = l.Attrs().Index
	}
	named := func(name string) netlink.Link {
		return &netlink.Device{LinkAttrs: netlink.LinkAttrs{Name: name, Index: index[name]}}
	}
	addr := func(name, prefix string, flags int) error {
		a, err := netlink.ParseAddr(prefix)
		if err != nil {
			return err
		}
		a.Flags = flags
		return netlink.AddrAdd(named(name), a)
	}
	route := func(dst, via, dev string, change func(*netlink.Route)) error {
		_, n, err := net.ParseCIDR(dst)
		if err != nil {
			return err
		}
		r := &netlink.Route{Dst: n, Gw: net.ParseIP(via), LinkIndex: index[dev]}
		if change != nil {
			change(r)
		}
		if err := netlink.RouteAdd(r); err != nil {
			return fmt.Errorf("route %s: %w", dst, err)
		}
		return nil
	}
	for _, do := range []func() error{
		func() error { _, err := setSysctl("net/ipv4/conf/v0/proxy_arp", "1"); return err },
		func() error { return netlink.LinkSetMaster(named("v1"), named("br0")) },
		func() error { return netlink.LinkSetUp(named("br0")) },
		func() error { return netlink.LinkSetUp(named("v0")) },
		func() error { return netlink.LinkSetUp(named("v1")) },
		func() error {
			return netlink.LinkAdd(&netlink.Macvlan{
				LinkAttrs: netlink.LinkAttrs{Name: "mv", ParentIndex: index["v0"], HardwareAddr: mac("02:00:00:00:00:03")},
				Mode:      netlink.MACVLAN_MODE_VEPA,
			})
		},
		func() error { return addr("v0", "10.0.0.1/24", 0) },
		func() error { return addr("v0", "fd00::1/64", unix.IFA_F_NODAD) },
		func() error { return route("0.0.0.0/0", "10.0.0.254", "v0", nil) },
		func() error { return route("10.1.0.0/16", "10.0.0.253", "v0", func(r *netlink.Route) { r.MTU = 1300 }) },
		func() error {
			return route("10.2.0.1/32", "", "v0", func(r *netlink.Route) { r.Scope = netlink.SCOPE_LINK; r.Src = net.ParseIP("10.0.0.1") })
		},
		func() error {
			return route("10.3.0.0/24", "192.0.2.1", "v0", func(r *netlink.Route) { r.Flags = int(netlink.FLAG_ONLINK); r.Priority = 7 })
		},
		func() error {
			return route("10.4.0.0/24", "", "", func(r *netlink.Route) { r.Type = unix.RTN_BLACKHOLE; r.Protocol = unix.RTPROT_STATIC })
		},
		func() error {
			return route("10.5.0.0/24", "", "", func(r *netlink.Route) {
				r.MultiPath = []*netlink.NexthopInfo{
					{LinkIndex: index["v0"], Gw: net.ParseIP("10.0.0.3")}, {LinkIndex: index["v0"], Gw: net.ParseIP("10.0.0.4"), Hops: 4},
				}
			})
		},
		func() error { return route("::/0", "fd00::fe", "v0", nil) },
		func() error {
			return route("fd01::/64", "", "", func(r *netlink.Route) { r.Type = unix.RTN_UNREACHABLE; r.LinkIndex = 1 })
		},
		func() error {
			return netlink.NeighAdd(&netlink.Neigh{
				LinkIndex: index["v0"], State: netlink.NUD_PERMANENT, IP: net.ParseIP("10.0.0.9"), HardwareAddr: mac("02:00:00:00:00:09"),
			})
		},
		func() error {
			return netlink.NeighAdd(&netlink.Neigh{LinkIndex: index["v0"], Flags: netlink.NTF_PROXY, IP: net.ParseIP("fd00::5")})
		},
		func() error {
			return netlink.NeighAdd(&netlink.Neigh{
				LinkIndex: index["v1"], Family: unix.AF_BRIDGE, State: netlink.NUD_NOARP, Flags: netlink.NTF_MASTER,
				HardwareAddr: mac("02:00:00:00:00:0f"),
			})
		},
		func() error {
			return netlink.QdiscAdd(&netlink.Tbf{
				QdiscAttrs: netlink.QdiscAttrs{LinkIndex: index["v0"], Parent: netlink.HANDLE_ROOT, Handle: netlink.MakeHandle(1, 0)},
				Rate:       12500000, Buffer: netlink.Xmittime(12500000, 16000), Limit: 100000,
			})
		},
	} {
		if err := do(); err != nil {
			return err
		}
	}
	return nil
}

// track makes the namespace follow its connections and redirect one.
func track() error {
	return addTable(topology.Table{Family: "inet", Name: "t", Chains: []topology.Chain{
		{Name: "out", Type: "filter", Hook: "output", Rules: []topology.Rule{rule("count", "new", "ct state == new")}},
		{Name: "pre", Type: "nat", Hook: "output", Priority: -100, Rules: []topology.Rule{
			nat("dnat", "127.0.0.1:4001", false, "udp dport == 4000"),
		}},
	}})
}

func TestState(t *testing.T) {
	needs(t, "nft-nat")
	s := fresh(t)
	if err := s.Do(furnish); err != nil {
		t.Fatal(err)
	}
	var c net.Conn
	err := s.Do(func() (err error) {
		if err := track(); err != nil {
			return err
		}
		l, err := net.Listen("tcp", "127.0.0.1:80")
		if err != nil {
			return err
		}
		t.Cleanup(func() { l.Close() })
		if c, err = net.Dial("udp", "127.0.0.1:4000"); err != nil {
			return err
		}
		t.Cleanup(func() { c.Close() })
		if _, err = c.Write([]byte("x")); err != nil {
			return err
		}
		six, err := net.Dial("udp", "[::1]:5000")
		if err != nil {
			return err
		}
		t.Cleanup(func() { six.Close() })
		_, err = six.Write([]byte("x"))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	all, err := state(map[string]*space.Space{"c": s, "": fresh(t)}, tracked)
	if err != nil {
		t.Fatal(err)
	}
	if len(all.Spaces) != 2 || all.Spaces["c"].Inode != s.Inode() || len(all.Spaces[""].Links) != 1 || all.Spaces[""].Sockets != 0 {
		t.Fatalf("spaces: %+v", all.Spaces)
	}
	got := all.Spaces["c"]

	// Entries of both families come by the same request.
	if !slices.ContainsFunc(got.Conntrack, func(c lab.Conntrack) bool {
		return c.Proto == "udp" && c.Dst == netip.MustParseAddrPort("[::1]:5000") && c.Src == c.ReplyDst && !c.NAT
	}) {
		t.Errorf("no IPv6 connection among %+v", got.Conntrack)
	}

	// What follows from what was made is compared; what the kernel adds as time goes by, such as counters, is not.
	index := map[string]int{}
	for _, l := range got.Links {
		index[l.Name] = l.Index
	}
	var links []lab.Link
	for _, l := range got.Links {
		if l.Name == "lo" && (l.RxPackets == 0 || l.TxPackets != l.RxPackets) {
			t.Errorf("counters of lo: %+v", l)
		}
		l.RxPackets, l.TxPackets, l.RxDropped = 0, 0, 0
		if l.Name != "lo" {
			l.Oper = "" // follows some time after (linux/Documentation/networking/operstates.rst)
		}
		links = append(links, l)
	}
	slices.SortFunc(links, func(a, b lab.Link) int { return strings.Compare(a.Name, b.Name) })
	wantLinks := []lab.Link{
		{
			Name: "br0", Index: index["br0"], Kind: "bridge", MAC: mac("02:00:00:00:00:0b"), MTU: 1400, Up: true,
			Flags: []string{"BROADCAST", "MULTICAST", "UP", "LOWER_UP"},
		},
		{
			Name: "lo", Index: 1, Kind: "loopback", MTU: 65536, Up: true, Oper: "unknown",
			Flags: []string{"LOOPBACK", "UP", "LOWER_UP"},
		},
		{
			Name: "mv", Index: index["mv"], Kind: "macvlan", Mode: "vepa", MAC: mac("02:00:00:00:00:03"), MTU: 1400,
			Parent: index["v0"], Flags: []string{"BROADCAST", "MULTICAST"},
		},
		{
			Name: "v0", Index: index["v0"], Kind: "veth", MAC: mac("02:00:00:00:00:01"), MTU: 1400, Up: true,
			Parent: index["v1"], Flags: []string{"BROADCAST", "MULTICAST", "UP", "LOWER_UP"},
		},
		{
			Name: "v1", Index: index["v1"], Kind: "veth", MAC: mac("02:00:00:00:00:02"), MTU: 1400, Up: true,
			Master: "br0", Parent: index["v0"], Promiscuity: 1, Flags: []string{"BROADCAST", "MULTICAST", "UP", "LOWER_UP"},
		},
	}
	if d := cmp.Diff(wantLinks, links); d != "" {
		t.Errorf("links (-want +got):\n%s", d)
	}
	has(t, "addresses", got.Addrs,
		lab.Addr{Link: "v0", Prefix: netip.MustParsePrefix("10.0.0.1/24")},
		lab.Addr{Link: "v0", Prefix: netip.MustParsePrefix("fd00::1/64")},
		lab.Addr{Link: "lo", Prefix: netip.MustParsePrefix("::1/128")})
	has(t, "routes", got.Routes,
		lab.Route{Dst: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr("10.0.0.254"), Link: "v0", Text: "default via 10.0.0.254 dev v0"},
		lab.Route{Dst: netip.MustParsePrefix("10.0.0.0/24"), Link: "v0", Text: "10.0.0.0/24 dev v0 proto kernel scope link src 10.0.0.1"},
		lab.Route{Dst: netip.MustParsePrefix("10.4.0.0/24"), Link: "", Text: "blackhole 10.4.0.0/24 proto static"},
		lab.Route{Dst: netip.MustParsePrefix("::/0"), Via: netip.MustParseAddr("fd00::fe"), Link: "v0", Text: "default via fd00::fe dev v0 metric 1024"})
	has(t, "neighbours", got.Neighs,
		lab.Neigh{Link: "v0", IP: netip.MustParseAddr("10.0.0.9"), MAC: mac("02:00:00:00:00:09"), State: "permanent"},
		lab.Neigh{Link: "v0", IP: netip.MustParseAddr("fd00::5"), State: "proxy"})
	has(t, "forwarding table", got.FDB,
		lab.FDB{Link: "v1", MAC: mac("02:00:00:00:00:02"), Local: true},
		lab.FDB{Link: "v1", MAC: mac("02:00:00:00:00:0f")},
		lab.FDB{Link: "v0", MAC: mac("01:00:5e:00:00:01"), Self: true})
	has(t, "sysctls", slices.Collect(func(yield func(string) bool) {
		for k, v := range got.Sysctls {
			if !yield(k + "=" + v) {
				return
			}
		}
	}), "net/ipv4/conf/v0/proxy_arp=1", "net/ipv4/conf/v1/proxy_arp=0", "net/ipv4/ip_forward=0", "net/ipv6/conf/all/forwarding=0")
	if d := cmp.Diff([]string{"dev v0 root tbf rate 100000000bit"}, got.Qdiscs); d != "" {
		t.Errorf("qdiscs (-want +got):\n%s", d)
	}
	if got.Sockets != 3 {
		t.Errorf("%d sockets, want a listener and two clients", got.Sockets)
	}
	if len(got.Rules) != 2 || got.Rules[0].Comment != "new" || got.Rules[0].Packets == 0 {
		t.Errorf("rules: %+v", got.Rules)
	}
	port := netip.MustParseAddrPort(c.LocalAddr().String())
	i := slices.IndexFunc(got.Conntrack, func(c lab.Conntrack) bool { return c.Src == port })
	if i < 0 {
		t.Fatalf("connections: %+v", got.Conntrack)
	}
	conn := got.Conntrack[i]
	if conn.Timeout <= 0 || conn.Timeout > time.Hour {
		t.Errorf("timeout %v", conn.Timeout)
	}
	conn.Timeout = 0
	if d := cmp.Diff(lab.Conntrack{
		Proto: "udp", Src: port, Dst: netip.MustParseAddrPort("127.0.0.1:4000"),
		ReplySrc: netip.MustParseAddrPort("127.0.0.1:4001"), ReplyDst: port, NAT: true,
	}, conn, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); d != "" {
		t.Errorf("connection (-want +got):\n%s", d)
	}
}

func has[T any](t *testing.T, what string, got []T, want ...T) {
	t.Helper()
	equal := cmp.Options{
		cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
	}
	for _, w := range want {
		if !slices.ContainsFunc(got, func(g T) bool { return cmp.Equal(g, w, equal) }) {
			t.Errorf("%s: no %+v among\n%+v", what, w, got)
		}
	}
}

// ip-route(8) is an implementation of its own.
func TestRouteTexts(t *testing.T) {
	ip, err := exec.LookPath("ip")
	if err != nil {
		unable(t, "ip(8) is not installed")
	}
	inside(t, func() error {
		if err := furnish(); err != nil {
			return err
		}
		var want []string
		for _, family := range []string{"-4", "-6"} {
			// One line a route, without its life time and the preference that each IPv6 route has.
			out, err := exec.Command(ip, family, "-o", "route", "show", "table", "main").Output()
			if err != nil {
				return err
			}
			for line := range strings.Lines(string(out)) {
				line = strings.ReplaceAll(strings.ReplaceAll(line, "\\", " "), " pref medium", "")
				want = append(want, strings.Join(strings.Fields(line), " "))
			}
		}
		s, err := snapshot(everything)
		if err != nil {
			return err
		}
		var got []string
		for _, r := range s.Routes {
			got = append(got, r.Text)
		}
		slices.Sort(want)
		slices.Sort(got)
		if d := cmp.Diff(want, got); d != "" || len(got) < 9 {
			return fmt.Errorf("routes (-ip +ours):\n%s", d)
		}
		return nil
	})
}

// Five devices; where connections are tracked, the machine's table of them dominates.
func BenchmarkState(b *testing.B) {
	for _, c := range []struct {
		name string
		with func() error
	}{
		{"connections=0", func() error { return nil }},
		{"connections=1", func() error {
			if err := track(); err != nil {
				return err
			}
			c, err := net.Dial("udp", "127.0.0.1:4000")
			if err != nil {
				return err
			}
			defer c.Close()
			_, err = c.Write([]byte("x"))
			return err
		}},
	} {
		b.Run(c.name, func(b *testing.B) {
			s, err := space.New()
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			if err := errors.Join(s.Do(furnish), s.Do(c.with)); err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				if _, err := state(map[string]*space.Space{"": s}, tracked); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
