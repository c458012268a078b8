package host

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/modebench/modebench/fixtures"
	"github.com/modebench/modebench/topology"
	"github.com/modebench/modebench/topology/host/capture"
	"github.com/modebench/modebench/topology/lab"
	"github.com/modebench/modebench/topology/space"
)

// lacking is what a kernel may well be built without: even in strict mode a test may be unable for it.
var lacking = []string{"ipvlan", "802.1q", "vlan-filtering", "ipip"}

// needs skips a test that asks for something that this kernel lacks.
func needs(t *testing.T, features ...string) {
	t.Helper()
	missing, err := Kernel(features)
	if err != nil {
		t.Fatal(err)
	}
	for name, why := range missing {
		if !slices.Contains(lacking, name) {
			unable(t, "%v", why)
		}
		t.Skipf("unable: %v", why)
	}
}

// machine is a host's program without its services, with one container, c.
func machine(t *testing.T) *Host {
	h := &Host{
		name: "h1", spaces: map[string]*space.Space{"": fresh(t), "c": fresh(t)}, shared: map[string]bool{},
		owners: map[string][]undo{},
	}
	t.Cleanup(func() {
		if h.own != nil {
			h.own.close()
		}
	})
	return h
}

// steady is a machine's state without what changes by itself.
func steady(t *testing.T, h *Host) lab.State {
	t.Helper()
	s, err := state(h.spaces, everything)
	if err != nil {
		t.Fatal(err)
	}
	for name, here := range s.Spaces {
		for i := range here.Links {
			l := &here.Links[i]
			l.RxPackets, l.TxPackets, l.RxDropped, l.Oper, l.Promiscuity = 0, 0, 0, "", 0
			l.Flags = slices.DeleteFunc(l.Flags, func(f string) bool { return f == "PROMISC" || f == "ALLMULTI" || f == "LOWER_UP" })
		}
		for i := range here.Routes {
			here.Routes[i].Text = strings.ReplaceAll(here.Routes[i].Text, " linkdown", "")
		}
		// Groups of addresses are joined a moment after these are there.
		here.FDB = slices.DeleteFunc(here.FDB, func(e lab.FDB) bool { return e.Self && strings.HasPrefix(e.MAC.String(), "33:33:") })
		here.Sockets, here.Neighs = 0, nil
		s.Spaces[name] = here
	}
	return s
}

func pfx(s string) netip.Prefix { return netip.MustParsePrefix(s) }

// Each step does what it says, as the state shows, and taken back leaves the machine as it was.
func TestSteps(t *testing.T) {
	pair := topology.Step{Link: &topology.Link{Name: "a", Kind: "veth", PeerName: "b", Up: true}}
	bridge := topology.Step{Link: &topology.Link{Name: "br", Kind: "bridge", MAC: mac("02:00:00:00:00:0b"), NoSnooping: true, VLANFiltering: true, Up: true}}
	port := topology.Step{Set: &topology.LinkSet{Name: "a", Master: "br"}}
	ipvlan := func(name, mode string) topology.Step {
		return topology.Step{In: "c", Link: &topology.Link{Name: name, Kind: "ipvlan", Parent: "a", ParentMode: mode}}
	}
	vlan := func(in string, vid int) topology.Step {
		return topology.Step{In: in, Link: &topology.Link{Name: "a.10", Kind: "vlan", MTU: 1400, Parent: "a", VID: vid, Up: true}}
	}
	member := func(vid int, untagged bool) topology.Step {
		return topology.Step{VLAN: &topology.VLAN{Link: "a", VID: vid, Untagged: untagged}}
	}
	tunnel := topology.Step{Link: &topology.Link{Name: "v", Kind: "vxlan", MTU: 1450, Up: true, Local: netip.MustParseAddr("198.18.0.1"), VNI: 7, Port: 4789}}
	entry := func(mac net.HardwareAddr, dst string) topology.Step {
		return topology.Step{Neigh: &topology.Neigh{Link: "v", MAC: mac, IP: netip.MustParseAddr(dst), FDB: true}}
	}
	entries := func(s lab.State) string {
		var texts []string
		for _, e := range s.Spaces[""].FDB {
			if e.Link == "v" {
				texts = append(texts, fmt.Sprintf("%s %t %s", e.MAC, e.Self, e.Dst))
			}
		}
		return strings.Join(texts, "; ")
	}
	without := func(s topology.Step) topology.Step { s.Remove = true; return s }
	reject := func(kind, dst string) topology.Step {
		return topology.Step{Route: &topology.Route{Type: kind, Dst: pfx(dst)}}
	}
	link := func(in, name, what string) func(lab.State) string {
		return func(s lab.State) string {
			for _, l := range s.Spaces[in].Links {
				if l.Name == name {
					return fmt.Sprintf("%s %s %s %d %d %v", what, l.Kind, l.Mode, l.VID, l.MTU, l.VLANs)
				}
			}
			return "no " + name
		}
	}
	routes := func(in string) func(lab.State) string {
		return func(s lab.State) string {
			var texts []string
			for _, r := range s.Spaces[in].Routes {
				if !strings.Contains(r.Text, "proto kernel") {
					texts = append(texts, r.Text)
				}
			}
			return strings.Join(texts, "; ")
		}
	}
	for _, c := range []struct {
		name   string
		needs  []string
		before []topology.Step
		step   topology.Step
		see    func(lab.State) string
		want   string
	}{
		{"ipvlan l2", []string{"ipvlan"}, []topology.Step{pair}, ipvlan("eth0", "l2"), link("c", "eth0", ""), " ipvlan l2 0 1500 []"},
		{"ipvlan l3", []string{"ipvlan"}, []topology.Step{pair}, ipvlan("eth0", "l3"), link("c", "eth0", ""), " ipvlan l3 0 1500 []"},
		{"ipvlan l3s", []string{"ipvlan"}, []topology.Step{pair}, ipvlan("eth0", "l3s"), link("c", "eth0", ""), " ipvlan l3s 0 1500 []"},
		{
			"ipvlan mode of all",
			[]string{"ipvlan"},
			[]topology.Step{pair, ipvlan("eth0", "l2"), ipvlan("eth1", "l2")},
			topology.Step{In: "c", Set: &topology.LinkSet{Name: "eth0", Mode: "l3s"}},
			link("c", "eth1", ""), " ipvlan l3s 0 1500 []",
		},
		{
			"macvlan mode", nil,
			[]topology.Step{pair, {In: "c", Link: &topology.Link{Name: "eth0", Kind: "macvlan", Parent: "a", ParentMode: "bridge"}}},
			topology.Step{In: "c", Set: &topology.LinkSet{Name: "eth0", Mode: "vepa"}},
			link("c", "eth0", ""), " macvlan vepa 0 1500 []",
		},
		{"vlan on the machine", []string{"802.1q"}, []topology.Step{pair}, vlan("", 10), link("", "a.10", ""), " vlan  10 1400 []"},
		{"vlan in a container", []string{"802.1q"}, []topology.Step{pair}, vlan("c", 4094), link("c", "a.10", ""), " vlan  4094 1400 []"},
		{"bridge that filters", []string{"vlan-filtering"}, nil, bridge, link("", "br", ""), " bridge  0 1500 []"},
		{"port in no VLAN", []string{"vlan-filtering"}, []topology.Step{pair, bridge}, port, link("", "a", ""), " veth  0 1500 []"},
		{"port in a VLAN", []string{"vlan-filtering"}, []topology.Step{pair, bridge, port}, member(10, false), link("", "a", ""), " veth  0 1500 [{10 false false}]"},
		{
			"access port of another VLAN",
			[]string{"vlan-filtering"},
			[]topology.Step{pair, bridge, port, member(10, true)},
			member(20, true),
			link("", "a", ""), " veth  0 1500 [{10 false true} {20 true true}]",
		},
		{
			"access port becomes tagged",
			[]string{"vlan-filtering"},
			[]topology.Step{pair, bridge, port, member(10, true)},
			member(10, false),
			link("", "a", ""), " veth  0 1500 [{10 false false}]",
		},
		{
			"port leaves its VLAN",
			[]string{"vlan-filtering"},
			[]topology.Step{pair, bridge, port, member(10, true), member(20, false)},
			without(member(10, false)), link("", "a", ""), " veth  0 1500 [{20 false false}]",
		},
		{
			"down", nil,
			[]topology.Step{
				{Link: &topology.Link{Name: "b", Kind: "bridge", MAC: mac("02:00:00:00:00:0b"), Up: true}},
				{Addr: &topology.Addr{Link: "b", Prefix: pfx("198.18.0.254/24")}},
				{Addr: &topology.Addr{Link: "b", Prefix: pfx("2001:db8:18::fe/64"), NoDAD: true}},
				{Route: &topology.Route{Dst: pfx("192.0.2.0/24"), Link: "b", Via: netip.MustParseAddr("198.18.0.1")}},
				{Route: &topology.Route{Dst: pfx("2001:db8:1::/64"), Link: "b", Via: netip.MustParseAddr("2001:db8:18::1")}},
				{Neigh: &topology.Neigh{Link: "b", IP: netip.MustParseAddr("2001:db8:18::1"), MAC: mac("02:00:00:00:00:01")}},
			},
			topology.Step{Set: &topology.LinkSet{Name: "b", State: "down"}},
			routes(""), "",
		},
		{"vxlan", []string{"vxlan"}, nil, tunnel, link("", "v", ""), " vxlan  0 1450 []"},
		{
			"vxlan over IPv6",
			[]string{"vxlan"},
			nil,
			topology.Step{Link: &topology.Link{Name: "v", Kind: "vxlan", MTU: 1430, Up: true, Local: netip.MustParseAddr("2001:db8:18::1"), VNI: 7, Port: 4789, UDP6ZeroCSumTx: true}},
			link("", "v", ""), " vxlan  0 1430 []",
		},
		{
			"vxlan with a group",
			[]string{"vxlan"},
			[]topology.Step{pair, {Set: &topology.LinkSet{Name: "a", State: "up"}}},
			topology.Step{Link: &topology.Link{Name: "v", Kind: "vxlan", MTU: 1450, Up: true, Parent: "a", Local: netip.MustParseAddr("198.18.0.1"), VNI: 7, Port: 4789, Learning: true, Group: netip.MustParseAddr("239.1.1.1")}},
			entries, "00:00:00:00:00:00 true 239.1.1.1",
		},
		{"tun", []string{"tun"}, nil, topology.Step{Link: &topology.Link{Name: "t", Kind: "tun"}}, link("", "t", ""), " tuntap  0 1500 []"},
		{
			"ipip",
			[]string{"ipip"},
			nil,
			topology.Step{Link: &topology.Link{Name: "t", Kind: "ipip", MTU: 1480, Up: true, Local: netip.MustParseAddr("198.18.0.1")}},
			link("", "t", ""), " ipip  0 1480 []",
		},
		{
			"destination",
			[]string{"vxlan"},
			[]topology.Step{tunnel},
			entry(mac("02:00:00:00:00:02"), "198.18.0.2"), entries, "02:00:00:00:00:02 true 198.18.0.2",
		},
		{
			"many destinations",
			[]string{"vxlan"},
			[]topology.Step{tunnel},
			topology.Step{Neigh: &topology.Neigh{Link: "v", MAC: mac("02:00:00:00:00:ff"), IP: netip.MustParseAddr("198.18.0.2"), FDB: true, Many: 2}},
			entries, "02:00:00:00:00:ff true 198.18.0.2; 02:00:00:00:01:00 true 198.18.0.2",
		},
		{
			"second destination of frames for all",
			[]string{"vxlan"},
			[]topology.Step{tunnel, entry(make(net.HardwareAddr, 6), "198.18.0.2")},
			entry(make(net.HardwareAddr, 6), "198.18.0.3"), entries, "00:00:00:00:00:00 true 198.18.0.2; 00:00:00:00:00:00 true 198.18.0.3",
		},
		{
			"no longer a destination",
			[]string{"vxlan"},
			[]topology.Step{tunnel, entry(make(net.HardwareAddr, 6), "198.18.0.2"), entry(make(net.HardwareAddr, 6), "198.18.0.3")},
			without(entry(make(net.HardwareAddr, 6), "198.18.0.2")), entries, "00:00:00:00:00:00 true 198.18.0.3",
		},
		{"blackhole", nil, nil, reject("blackhole", "10.4.0.0/24"), routes(""), "blackhole 10.4.0.0/24 proto static"},
		{"unreachable", nil, nil, reject("unreachable", "10.4.0.0/24"), routes(""), "unreachable 10.4.0.0/24 proto static"},
		{"unreachable IPv6", nil, nil, reject("unreachable", "2001:db8::/64"), routes(""), "unreachable 2001:db8::/64 dev lo proto static metric 1024"},
		{"no longer unreachable", nil, []topology.Step{reject("unreachable", "2001:db8::/64")}, without(reject("unreachable", "2001:db8::/64")), routes(""), ""},
		{
			"second default route", nil,
			[]topology.Step{
				pair,
				{Addr: &topology.Addr{Link: "a", Prefix: pfx("198.18.0.3/31")}},
				{Route: &topology.Route{Dst: pfx("0.0.0.0/0"), Via: netip.MustParseAddr("198.18.0.2")}},
			},
			topology.Step{Route: &topology.Route{Dst: pfx("0.0.0.0/0"), Via: netip.MustParseAddr("198.18.0.2"), Metric: 1025}},
			routes(""), "default via 198.18.0.2 dev a proto static; default via 198.18.0.2 dev a proto static metric 1025",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			needs(t, c.needs...)
			h := machine(t)
			if err := h.Apply(lab.Apply{Owner: "before", Steps: c.before}, nil); err != nil {
				t.Fatal(err)
			}
			before := steady(t, h)
			if err := h.Apply(lab.Apply{Owner: "it", Steps: []topology.Step{c.step}}, nil); err != nil {
				t.Fatal(err)
			}
			if got := c.see(steady(t, h)); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
			if err := h.Undo(lab.Undo{Owner: "it"}, nil); err != nil {
				t.Fatal(err)
			}
			equal := cmp.Options{cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })}
			if d := cmp.Diff(before, steady(t, h), equal); d != "" {
				t.Errorf("taken back, but not as before (-before +after):\n%s", d)
			}
		})
	}
}

// A namespace begins with the settings of Defaults where that is asked for: made ahead of several, by itself, and the spare one.
func TestDefaults(t *testing.T) {
	h := machine(t)
	h.capture = capture.New("h1")
	apply := func(steps ...topology.Step) {
		t.Helper()
		if err := h.Apply(lab.Apply{Steps: steps}, nil); err != nil {
			t.Fatal(err)
		}
	}
	step := func(name string, defaults bool) topology.Step {
		return topology.Step{Space: &topology.Space{Name: name, Defaults: defaults}}
	}
	apply(step("ahead", true), step("ahead-bare", false))
	apply(step("bare", false))
	apply(step("first", true))
	stocked := func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		return h.spare != nil
	}
	for end := time.Now().Add(5 * time.Second); !stocked(); {
		if time.Now().After(end) {
			t.Fatal("no spare namespace")
		}
		time.Sleep(time.Millisecond)
	}
	apply(step("spare-is-not-bare", false))
	if !stocked() {
		t.Error("a namespace without settings took the spare one")
	}
	apply(step("spare", true))
	for name, defaults := range map[string]bool{
		"ahead": true, "ahead-bare": false, "bare": false, "first": true, "spare-is-not-bare": false, "spare": true,
	} {
		s, err := h.find(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Do(func() error {
			var errs []error
			for _, d := range topology.Defaults("", "") {
				is, err := sysctl(d.Sysctl.Key)
				if err == nil && defaults && is != d.Sysctl.Value {
					err = fmt.Errorf("%s is %s, want %s", d.Sysctl.Key, is, d.Sysctl.Value)
				}
				if !d.Sysctl.Optional || !errors.Is(err, fs.ErrNotExist) {
					errs = append(errs, err)
				}
			}
			if is, err := sysctl("net/ipv4/icmp_ratelimit"); err != nil || (is == "0") != defaults { // the kernel's is 1000
				errs = append(errs, fmt.Errorf("icmp_ratelimit is %s, %w", is, err))
			}
			return errors.Join(errs...)
		}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A port that was waited for forwards; what is none is not waited for.
func TestAwait(t *testing.T) {
	h := machine(t)
	if err := h.Apply(lab.Apply{Owner: "it", Steps: []topology.Step{
		{Link: &topology.Link{Name: "br", Kind: "bridge", MAC: mac("02:00:00:00:00:0b"), Up: true}},
		{Link: &topology.Link{Name: "a", Kind: "veth", PeerName: "eth0", PeerIn: "c", Up: true}},
		{Set: &topology.LinkSet{Name: "a", Master: "br"}},
		{In: "c", Set: &topology.LinkSet{Name: "eth0", State: "up"}},
		{Await: &topology.Await{Port: "a"}},
	}}, nil); err != nil {
		t.Fatal(err)
	}
	var state uint8
	if err := h.walk(func(w *walk) error {
		own, err := w.netlink("")
		if err != nil {
			return err
		}
		port, err := index(own, "a")
		if err != nil {
			return err
		}
		if err := w.enter(""); err != nil {
			return err
		}
		state, _, err = h.portState(port.Attrs().Index)
		return err
	}); err != nil || state != portForwards {
		t.Errorf("state %d, %v; want %d", state, err, portForwards)
	}
	for _, s := range []topology.Step{{Await: &topology.Await{Port: "br"}}, {Await: &topology.Await{Port: "nothing"}}} {
		if err := h.Apply(lab.Apply{Owner: "none", Steps: []topology.Step{s}}, nil); err != nil {
			t.Errorf("%s: %v", s, err)
		}
	}
	if err := h.Apply(lab.Apply{Owner: "wrong", Steps: []topology.Step{{In: "c", Await: &topology.Await{Port: "eth0"}}}}, nil); err == nil {
		t.Error("a container's device was waited for")
	}
}

// What a kernel must refuse reaches it.
func TestAttemptVLAN(t *testing.T) {
	needs(t, "802.1q")
	h := machine(t)
	if err := h.Apply(lab.Apply{Steps: []topology.Step{{Link: &topology.Link{Name: "a", Kind: "veth", PeerName: "b"}}}}, nil); err != nil {
		t.Fatal(err)
	}
	for vid, want := range map[int]string{0: "", 1: "", 4094: "", 4095: "ERANGE"} {
		var got lab.Refusal
		err := h.Attempt(lab.Attempt{Step: topology.Step{On: "h1", Link: &topology.Link{Name: "v", Kind: "vlan", Parent: "a", VID: vid}}}, &got)
		if err != nil || got.Errno != want {
			t.Errorf("VID %d: refused with %q (%s) and error %v, want %q", vid, got.Errno, got.Text, err, want)
		}
	}
}

// A route with a limit is refused where there are as many of its family by a gateway, and only those count.
func TestRouteLimit(t *testing.T) {
	h := machine(t)
	route := func(dst, via string, limit int) topology.Step {
		r := topology.Route{Dst: netip.MustParsePrefix(dst), Link: "b", Limit: limit}
		if via != "" {
			r.Via = netip.MustParseAddr(via)
		}
		return topology.Step{On: "h1", Route: &r}
	}
	if err := h.Apply(lab.Apply{Owner: "it", Steps: []topology.Step{
		{Link: &topology.Link{Name: "b", Kind: "bridge", Up: true}},
		{Addr: &topology.Addr{Link: "b", Prefix: netip.MustParsePrefix("198.18.0.254/24")}},
		{Addr: &topology.Addr{Link: "b", Prefix: netip.MustParsePrefix("2001:db8:18::fe/64"), NoDAD: true}},
		route("192.0.2.0/24", "", 2),
		route("203.0.113.0/25", "198.18.0.1", 2),
		route("203.0.113.128/25", "198.18.0.2", 2),
		route("2001:db8:1::/64", "2001:db8:18::1", 1),
	}}, nil); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		step  topology.Step
		errno string
		text  string
	}{
		{route("198.51.100.0/24", "198.18.0.1", 2), "ENOSPC", "route to 198.51.100.0/24: the table has 2 of its family, and holds no more than 2: no space left on device"},
		{route("2001:db8:2::/64", "2001:db8:18::1", 1), "ENOSPC", "route to 2001:db8:2::/64: the table has 1 of its family, and holds no more than 1: no space left on device"},
		{route("198.51.100.0/24", "198.18.0.1", 3), "", ""},
		{route("198.51.100.0/24", "198.18.0.1", 0), "", ""},
	} {
		var got lab.Refusal
		if err := h.Attempt(lab.Attempt{Step: c.step}, &got); err != nil || got.Errno != c.errno || got.Text != c.text {
			t.Errorf("%s: refused with %q and error %v, want %q: %q", c.step, got, err, c.errno, c.text)
		}
	}
}

// A tunnel whose table is full takes no entry more.
func TestTunnelLimit(t *testing.T) {
	needs(t, "vxlan")
	h := machine(t)
	entries := topology.Step{Neigh: &topology.Neigh{Link: "v", MAC: mac("02:00:00:00:00:01"), IP: netip.MustParseAddr("198.18.0.2"), FDB: true, Many: 4}}
	tunnel := topology.Step{Link: &topology.Link{Name: "v", Kind: "vxlan", Up: true, Local: netip.MustParseAddr("198.18.0.1"), VNI: 7, Port: 4789, Entries: 4}}
	if err := h.Apply(lab.Apply{Owner: "it", Steps: []topology.Step{tunnel, entries}}, nil); err != nil {
		t.Fatal(err)
	}
	one := topology.Step{Neigh: &topology.Neigh{Link: "v", MAC: mac("02:00:00:00:00:09"), IP: netip.MustParseAddr("198.18.0.2"), FDB: true}}
	var got lab.Refusal
	if err := h.Attempt(lab.Attempt{Step: one}, &got); err != nil || got.Errno != "ENOSPC" {
		t.Errorf("one more: refused with %q and error %v, want ENOSPC", got, err)
	}
}

// On every fabric the machines of a plan reach one another as it says.
func TestFabrics(t *testing.T) {
	data, err := fixtures.FS.ReadFile("topologies/two-hosts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	top, err := topology.Read("two-hosts.yaml", data)
	if err != nil {
		t.Fatal(err)
	}
	for _, fabric := range []topology.Fabric{
		topology.Open,
		{Reflective: true, Snooping: true},
		topology.Routed, topology.Trunk, topology.VPC,
		{Kind: "port-security"},
		{Kind: "port-security", MACs: 3, Violation: "shutdown", Tagged: true},
		{Kind: "nic", Filters: 2},
	} {
		t.Run(fabric.String(), func(t *testing.T) {
			top := top
			top.Fabric = fabric
			p, err := topology.NewPlan(top)
			if err != nil {
				t.Fatal(err)
			}
			needs(t, p.Needs()...)
			spaces := map[string]*space.Space{}
			for _, m := range p.Machines {
				spaces[m.Name] = fresh(t)
			}
			if err := fresh(t).Do(func() error { return Cables(p, spaces) }); err != nil {
				t.Fatal(err)
			}
			steps := map[string][]topology.Step{}
			for _, s := range topology.Underlay(p) {
				if s.BGP == nil { // the links are joined without
					steps[s.On] = append(steps[s.On], s)
				}
			}
			for _, m := range slices.Backward(p.Machines) { // tors last, as labs do
				h := &Host{name: m.Name, spaces: map[string]*space.Space{"": spaces[m.Name]}, shared: map[string]bool{}, owners: map[string][]undo{}}
				if err := h.Apply(lab.Apply{Owner: "underlay", Steps: steps[m.Name]}, nil); err != nil {
					t.Fatal(err)
				}
				t.Cleanup(h.own.close)
			}
			var ends []topology.Interface // of hosts and externals, with the machine's name in Peer
			for _, m := range append(p.Hosts(), p.Externals()...) {
				for _, nic := range m.NICs {
					if nic.V4.IsValid() {
						nic.Peer.Machine = m.Name
						ends = append(ends, nic)
					}
				}
			}
			for _, from := range ends {
				for _, to := range ends {
					if from.Peer.Machine == to.Peer.Machine || fabric != topology.Routed && from.Segment != to.Segment {
						continue
					}
					for _, addr := range []netip.Addr{to.V4.Addr(), to.V6.Addr()} {
						if err := reaches(spaces[from.Peer.Machine], spaces[to.Peer.Machine], addr); err != nil {
							t.Errorf("%s %s to %s at %s: %v", from.Peer.Machine, from.Name, to.Peer.Machine, addr, err)
						}
					}
				}
			}
			if fabric == topology.Routed || fabric == topology.VPC {
				return
			}
			// Segments have nothing in common: what has no address there does not arrive.
			annex, x := p.Machine("h1"), spaces["x"]
			for _, nic := range annex.NICs {
				if nic.Segment == "annex" {
					if err := reaches(x, spaces["h1"], nic.V4.Addr()); err == nil {
						t.Errorf("x on rack reaches %s on annex", nic.V4.Addr())
					}
				}
			}
		})
	}
}

// reaches asks by UDP until it is answered; a cable may need a second to carry.
func reaches(from, to *space.Space, addr netip.Addr) error {
	var there net.PacketConn
	err := to.Do(func() (err error) {
		there, err = net.ListenPacket("udp", netip.AddrPortFrom(addr, 0).String())
		return err
	})
	if err != nil {
		return err
	}
	defer there.Close()
	go func() {
		b := make([]byte, 16)
		for {
			n, who, err := there.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = there.WriteTo(b[:n], who)
		}
	}()
	var here net.Conn
	err = from.Do(func() (err error) { here, err = net.Dial("udp", there.LocalAddr().String()); return err })
	if err != nil {
		return err
	}
	defer here.Close()
	b := make([]byte, 16)
	for deadline := time.Now().Add(5 * time.Second); ; {
		if _, err := here.Write([]byte("hello")); err != nil {
			return err
		}
		_ = here.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		if _, err = here.Read(b); err == nil {
			return nil
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) || time.Now().After(deadline) {
			return err
		}
	}
}
