package topology_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/modebench/modebench/topology"
)

func plan(t testing.TB, name string) *topology.Plan {
	t.Helper()
	lab, err := topology.Read(name, source(t, name))
	if err != nil {
		t.Fatal(err)
	}
	p, err := topology.NewPlan(lab)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// The plan of each topology that comes with the program, to be read in review.
func TestPlan(t *testing.T) {
	for _, name := range files(t) {
		golden(t, "testdata/"+strings.TrimSuffix(strings.TrimPrefix(name, "topologies/"), ".yaml")+".plan.txt", describe(plan(t, name)))
	}
	for _, fabric := range fabrics[1:] {
		p := planOn(t, fabric, "topologies/rated.yaml")
		golden(t, "testdata/rated."+fabric.String()+".plan.txt", describe(p))
		golden(t, "testdata/rated."+fabric.String()+".underlay.txt", underlay(p))
	}
}

var fabrics = []topology.Fabric{
	topology.Open, topology.Routed, topology.Trunk, topology.VPC,
	{Reflective: true, Snooping: true},
	{Kind: "port-security", Violation: "protect"},
	{Kind: "port-security", MACs: 3, Violation: "shutdown", Recovery: "300s", Tagged: true},
	{Kind: "nic", Filters: 512, Overflow: "promisc"},
	{Kind: "mac-table", Entries: 8192},
}

func planOn(t testing.TB, fabric topology.Fabric, name string) *topology.Plan {
	t.Helper()
	lab, err := topology.Read(name, source(t, name))
	if err != nil {
		t.Fatal(err)
	}
	lab.Fabric = fabric
	p, err := topology.NewPlan(lab)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func underlay(p *topology.Plan) string {
	var b strings.Builder
	for _, s := range topology.Underlay(p) {
		fmt.Fprintln(&b, s)
	}
	return b.String()
}

func TestNeeds(t *testing.T) {
	late := planOn(t, topology.Open, "topologies/rated.yaml")
	late.Machines[1].NICs[0].Delay = "5ms"
	for _, c := range []struct {
		plan *topology.Plan
		want string
	}{
		{planOn(t, topology.Open, "topologies/two-hosts.yaml"), "[underlay]"},
		{planOn(t, topology.Routed, "topologies/two-hosts.yaml"), "[underlay]"},
		{planOn(t, topology.Trunk, "topologies/two-hosts.yaml"), "[802.1q underlay vlan-filtering]"},
		{planOn(t, topology.Trunk, "topologies/rated.yaml"), "[802.1q tbf underlay vlan-filtering]"},
		{late, "[netem tbf underlay]"},
	} {
		if got := fmt.Sprint(c.plan.Needs()); got != c.want {
			t.Errorf("%s on %s needs %s, want %s", c.plan.Topology.Name, c.plan.Topology.Fabric, got, c.want)
		}
	}
}

// What cannot be planned on a fabric is told as the place in the topology.
func TestFabricRefuses(t *testing.T) {
	for _, c := range []struct {
		fabric topology.Fabric
		change func(*topology.Topology)
		want   string
	}{
		{topology.Routed, func(t *topology.Topology) {
			rack := t.Segments["rack"]
			rack.V4 = pfx("198.18.0.0/27")
			t.Segments["rack"] = rack
		}, "segments.rack.v4: 198.18.0.0/27 is too small for 2 hosts and 2 external machines: want a larger block: a quarter of it is for machines, two addresses for each, the rest is divided among the hosts' containers"},
		{topology.Trunk, func(t *topology.Topology) {
			t.Tors = map[string]topology.Tor{"tor": {Joins: []string{"rack"}}, "tor2": {Joins: []string{"annex"}}}
		}, "hosts.h1.nics.eth1: h1 is on segments of the tors tor and tor2: want those of one tor: on the fabric trunk a host has one cable"},
		{topology.Trunk, func(t *topology.Topology) {
			h := t.Hosts["h2"]
			h.NICs = map[string]topology.NIC{"eth0": {Segment: "annex"}, "eth1": {Segment: "rack"}}
			t.Hosts["h2"] = h
		}, "networks.blue.nic: interface eth0 is on segment rack of h1 and on annex of h2: want one segment: on the fabric trunk a network is on the same VLAN everywhere"},
		{topology.Trunk, func(t *topology.Topology) {
			h := t.Hosts["h2"]
			h.NICs = map[string]topology.NIC{"a": {Segment: "annex"}, "eth0": {Segment: "rack"}}
			t.Hosts["h2"] = h
			h = t.Hosts["h1"]
			h.Containers = nil
			t.Hosts["h1"] = h
			h = t.Hosts["h2"]
			h.Containers = nil
			t.Hosts["h2"] = h
			t.Networks = map[string]topology.Network{"blue": t.Networks["blue"]}
		}, "hosts.h2.nics: the first interface of h2 is a, and that of h1 eth0: want one name: on the fabric trunk a host's first interface is its cable, and every host has network blue on the same device"},
		{topology.Fabric{Kind: "ring"}, func(*topology.Topology) {}, `fabric.kind: kind "ring": want one of open, port-security, mac-table, nic, routed-bgp, vpc`},
		{topology.Fabric{Kind: "vpc", Tagged: true}, func(*topology.Topology) {}, `fabric.tagged: a fabric of the kind vpc has no tagged: want it of switches`},
		{topology.Fabric{MACs: 2}, func(*topology.Topology) {}, `fabric.macs: a fabric of the kind open has no macs: want it of port-security`},
		{topology.Fabric{Kind: "port-security", Violation: "ignore"}, func(*topology.Topology) {}, `fabric.violation: violation "ignore": want one of protect, restrict, shutdown`},
		{topology.Fabric{Kind: "port-security", Recovery: "5s"}, func(*topology.Topology) {}, `fabric.recovery: nothing is shut down that could recover: want violation: shutdown with it`},
		{topology.Fabric{Kind: "mac-table"}, func(*topology.Topology) {}, `fabric.entries: 0 entries of a table of addresses: want 1 to 262144`},
		{topology.Fabric{Entries: 8}, func(*topology.Topology) {}, `fabric.entries: a fabric of the kind open has no entries: want it of mac-table`},
		{topology.Fabric{Kind: "nic"}, func(*topology.Topology) {}, `fabric.filters: 0 filters of a NIC: want 1 to 8192`},
		{topology.Fabric{Kind: "nic", Filters: 8, Overflow: "burst"}, func(*topology.Topology) {}, `fabric.overflow: overflow "burst": want one of drop, promisc`},
	} {
		lab, err := topology.Read("", source(t, "topologies/two-hosts.yaml"))
		if err != nil {
			t.Fatal(err)
		}
		lab.Fabric = c.fabric
		c.change(&lab)
		if _, err := topology.NewPlan(lab); err == nil || err.Error() != c.want {
			t.Errorf("got %v, want %s", err, c.want)
		}
	}
}

func describe(p *topology.Plan) string {
	var b strings.Builder
	for _, s := range p.Segments {
		fmt.Fprintf(&b, "segment %s %s %s mtu %d", s.Name, s.V4, s.V6, s.MTU)
		if s.VLAN != 0 {
			fmt.Fprintf(&b, " vlan %d", s.VLAN)
		}
		b.WriteString("\n")
	}
	for _, n := range p.Networks {
		fmt.Fprintf(&b, "network %s nic %s %s %s gateways %s %s bridge %s fan %s on %s\n",
			n.Name, n.NIC, n.V4, n.V6, n.Gateway4, n.Gateway6, n.Bridge, n.Fan.Overlay, n.Fan.Underlay)
	}
	for _, m := range p.Machines {
		fmt.Fprintf(&b, "\n%s %s", m.Role, m.Name)
		if m.AS != 0 {
			fmt.Fprintf(&b, " as %d", m.AS)
		}
		b.WriteString("\n")
		if m.Role == topology.RoleHost && p.Topology.Fabric == topology.Routed {
			for _, n := range p.Networks {
				v4, v6 := p.Slice(m.Name, n.Name)
				fmt.Fprintf(&b, "  slice %s %s %s\n", n.Name, v4, v6)
			}
		}
		for _, i := range m.NICs {
			fmt.Fprintf(&b, "  %s", i.Name)
			if i.Segment != "" {
				fmt.Fprintf(&b, " on %s", i.Segment)
			}
			if i.VLAN != 0 {
				fmt.Fprintf(&b, " vlan %d", i.VLAN)
			}
			fmt.Fprintf(&b, " %s mtu %d %s %s", i.MAC, i.MTU, i.V4, i.V6)
			if i.Trunk != "" {
				fmt.Fprintf(&b, " by %s", i.Trunk)
			} else {
				fmt.Fprintf(&b, " to %s/%s", i.Peer.Machine, i.Peer.Interface)
			}
			if i.Rate != 0 {
				fmt.Fprintf(&b, " rate %s", i.Rate)
			}
			b.WriteString("\n")
		}
		for _, c := range m.Containers {
			fmt.Fprintf(&b, "  %s on %s %s %s %s %s %s %s\n", c.ID(), c.Network, c.Device, c.MAC, c.Segment4, c.Segment6, c.Private4, c.Private6)
		}
	}
	return b.String()
}

func TestPlanRefuses(t *testing.T) {
	good, err := topology.Read("", source(t, "topologies/one-host.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	good.Hosts = map[string]topology.Host{"h1": {NICs: map[string]topology.NIC{"eth0": {Segment: "rock"}}}}
	p, err := topology.NewPlan(good)
	if want := `hosts.h1.nics.eth0.segment: unknown segment "rock": want one of rack`; p != nil || err == nil || err.Error() != want {
		t.Errorf("got %v and %v, want the error %s", p, err, want)
	}
}

func TestContainer(t *testing.T) {
	p := plan(t, "topologies/two-hosts.yaml")
	for _, h := range p.Hosts() {
		for _, c := range h.Containers {
			again, err := p.Container(h.Name, c.Network, c.Number)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c, again, addresses); diff != "" {
				t.Errorf("%s is not decided as at the start: %s", c.ID(), diff)
			}
		}
	}
	for _, c := range []struct {
		host, network string
		number        int
		want          string
	}{
		{"h1", "blue", 253, ""},
		{"h1", "blue", 254, "container 254 of network blue on h1: networks.blue.v4: network blue has 253 container addresses in 172.17.0.0/24, and number 254 is needed: want a larger block or fewer containers"},
		{"h1", "blue", 255, "container 255 of network blue on h1: segments.rack.v4: segment rack has 254 container addresses for each of 2 hosts in 198.18.0.0/22, and number 255 is needed: want a larger block or fewer containers"},
		{"h1", "blue", 0, "container 0 of network blue on h1: number 0: want 1 or more"},
		{"h3", "blue", 1, `container 1 of network blue on h3: unknown host "h3": want one of h1, h2`},
		{"x", "blue", 1, `container 1 of network blue on x: unknown host "x": want one of h1, h2`},
		{"h1", "red", 1, `container 1 of network red on h1: unknown network "red": want one of blue, green`},
	} {
		_, err := p.Container(c.host, c.network, c.number)
		if got := fmt.Sprint(err); c.want == "" && err != nil || c.want != "" && got != c.want {
			t.Errorf("%s %s %d: got %v, want %q", c.host, c.network, c.number, err, c.want)
		}
	}
}

var addresses = cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })

// drawTopology is any topology that NewPlan may have to plan: of these blocks some are too small.
func drawTopology(t *rapid.T) topology.Topology {
	count := func(label string, least, most int) int { return rapid.IntRange(least, most).Draw(t, label) }
	lab := topology.Topology{
		Name:     "drawn",
		Segments: map[string]topology.Segment{},
		Tors:     map[string]topology.Tor{},
		Hosts:    map[string]topology.Host{},
		External: map[string]topology.External{},
		Networks: map[string]topology.Network{},
	}
	segments := count("segments", 1, 3)
	for i := range segments {
		name := fmt.Sprintf("s%d", i)
		lab.Segments[name] = topology.Segment{
			V4:  netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i), 0, 0}), count("length", 16, 28)),
			V6:  netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, byte(i)}), 64),
			MTU: rapid.SampledFrom([]int{0, 1280, 1500, 9000}).Draw(t, "mtu"),
		}
		tor := fmt.Sprintf("t%d", count("tor", 1, 2))
		lab.Tors[tor] = topology.Tor{Joins: append(lab.Tors[tor].Joins, name)}
	}
	nics := func() map[string]topology.NIC {
		nics := map[string]topology.NIC{}
		for i := range segments {
			nics[fmt.Sprintf("eth%d", i)] = topology.NIC{Segment: fmt.Sprintf("s%d", i)}
		}
		return nics
	}
	for i := range count("networks", 1, 3) {
		lab.Networks[fmt.Sprintf("n%d", i)] = topology.Network{
			NIC: fmt.Sprintf("eth%d", count("nic", 0, segments-1)),
			V4:  netip.PrefixFrom(netip.AddrFrom4([4]byte{172, 16, byte(i), 0}), count("private length", 24, 28)),
			V6:  netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, byte(i)}), 64),
		}
	}
	for i := range count("hosts", 1, 12) {
		containers := map[string]int{}
		for name := range lab.Networks {
			containers[name] = 0
		}
		h := topology.Host{NICs: nics(), Containers: containers}
		for n := range len(lab.Networks) {
			h.Containers[fmt.Sprintf("n%d", n)] = count("containers", 0, 20)
		}
		lab.Hosts[fmt.Sprintf("h%d", i+1)] = h
	}
	for i := range count("externals", 0, 3) {
		lab.External[fmt.Sprintf("x%d", i+1)] = topology.External{NICs: nics()}
	}
	return lab
}

// Whatever can be planned is planned without two things in one place, and twice alike.
func TestPlanProperties(t *testing.T) {
	planned := map[topology.Fabric]int{}
	rapid.Check(t, func(t *rapid.T) {
		lab := drawTopology(t)
		for _, fabric := range fabrics {
			lab.Fabric = fabric
			p, err := topology.NewPlan(lab)
			if err != nil {
				if !strings.Contains(err.Error(), ": want ") {
					t.Fatalf("refused without a remedy: %v", err)
				}
				continue
			}
			planned[lab.Fabric]++
			open := lab
			open.Fabric = topology.Open
			base, err := topology.NewPlan(open)
			if err != nil {
				t.Fatalf("planned on %s, but not on open: %v", lab.Fabric, err)
			}
			for i, h := range p.Hosts() {
				if diff := cmp.Diff(base.Hosts()[i].Containers, h.Containers, addresses); diff != "" {
					t.Fatalf("%s has other containers than on open: %s", h.Name, diff)
				}
			}
			again, err := topology.NewPlan(lab)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(describe(p), describe(again)); diff != "" {
				t.Fatalf("planned twice, differently: %s", diff)
			}
			checkPlan(t, p)
		}
	})
	for _, fabric := range fabrics {
		if planned[fabric] == 0 {
			t.Errorf("nothing drawn could be planned on %s", fabric)
		}
	}
}

// checkPlan checks what holds of every plan.
func checkPlan(t fatal, p *topology.Plan) {
	once := map[string]string{}
	claim := func(what fmt.Stringer, scope, who string) {
		key := scope + " " + what.String()
		if other, taken := once[key]; taken {
			t.Fatalf("%s has %s of %s, in %q", who, what, other, scope)
		}
		once[key] = who
	}
	within := func(block, address netip.Prefix, who string) {
		if address.Bits() != block.Bits() || !block.Contains(address.Addr()) || address == block {
			t.Fatalf("%s has %s, outside of %s", who, address, block)
		}
		if last := lastAddress(block); address.Addr() == last && block.Addr().Is4() {
			t.Fatalf("%s has %s, the broadcast address of %s", who, address, block)
		}
	}
	segments, fabric := map[string]topology.PlannedSegment{}, p.Topology.Fabric
	for _, s := range p.Segments {
		segments[s.Name] = s
		if s.MTU < 1280 {
			t.Fatalf("segment %s has the MTU %d", s.Name, s.MTU)
		}
	}
	for i := range p.Machines {
		m := &p.Machines[i]
		if p.Machine(m.Name) != m {
			t.Fatalf("two machines are called %s", m.Name)
		}
		for _, nic := range m.NICs {
			who := m.Name + "/" + nic.Name
			claim(name(nic.Name), "devices of "+m.Name, who)
			s := segments[nic.Segment]
			if nic.Trunk != "" {
				checkTagged(t, p, m, nic)
			} else {
				claim(nic.MAC, "MACs", who)
			}
			if nic.MTU != s.MTU && nic.Segment != "" {
				t.Fatalf("%s has the MTU %d on segment %s of %d", who, nic.MTU, s.Name, s.MTU)
			}
			if nic.MAC[0]&3 != 2 {
				t.Fatalf("%s has the MAC %s, not a unicast one that is locally administered", who, nic.MAC)
			}
			if nic.Trunk == "" {
				checkCable(t, p, m, nic)
			}
			if m.Role == topology.RoleTor || nic.Segment == "" {
				continue
			}
			claim(nic.V4.Addr(), "addresses", who)
			claim(nic.V6.Addr(), "addresses", who)
			if fabric == topology.Routed {
				port := p.Machine(nic.Peer.Machine).NIC(nic.Peer.Interface)
				claim(port.V4.Addr(), "addresses", who+"'s port")
				claim(port.V6.Addr(), "addresses", who+"'s port")
				checkLink(t, s, nic, *port)
				continue
			}
			within(s.V4, nic.V4, who)
			within(s.V6, nic.V6, who)
		}
		for _, c := range m.Containers {
			n := p.Network(c.Network)
			s := segments[m.NIC(n.NIC).Segment]
			claim(name(c.Name), "containers of "+m.Name, c.ID())
			claim(name(c.Device), "devices of "+m.Name, c.ID())
			claim(c.MAC, "MACs", c.ID())
			within(s.V4, c.Segment4, c.ID())
			within(s.V6, c.Segment6, c.ID())
			within(n.V4, c.Private4, c.ID())
			within(n.V6, c.Private6, c.ID())
			claim(c.Segment4.Addr(), "addresses", c.ID())
			claim(c.Segment6.Addr(), "addresses", c.ID())
			claim(c.Private4.Addr(), "private addresses of "+m.Name, c.ID())
			claim(c.Private6.Addr(), "private addresses of "+m.Name, c.ID())
			v4, v6 := p.Slice(m.Name, c.Network)
			if v4 != v4.Masked() || v6 != v6.Masked() || !v4.Contains(c.Segment4.Addr()) || !v6.Contains(c.Segment6.Addr()) || 32-v4.Bits() != 128-v6.Bits() {
				t.Fatalf("%s has %s and %s, and its host's slices are %s and %s", c.ID(), c.Segment4, c.Segment6, v4, v6)
			}
			o4, o6 := p.Overlay(c)
			claim(o4.Addr(), "addresses across hosts", c.ID())
			claim(o6.Addr(), "addresses across hosts", c.ID())
			if o4.IsValid() && (o4.Addr() == o4.Masked().Addr() || o4.Addr() == lastAddress(o4)) {
				t.Fatalf("%s has %s, which is no station's", c.ID(), o4)
			}
			if c.Private4.Addr() == n.Gateway4 || c.Private6.Addr() == n.Gateway6 {
				t.Fatalf("%s has the gateway's address", c.ID())
			}
		}
		if m.Role == topology.RoleHost {
			for _, n := range p.Networks {
				claim(name(n.Bridge), "devices of "+m.Name, n.Name)
			}
		}
	}
	for device := range once {
		if what, is := strings.CutPrefix(device, "devices of "); is {
			if _, d, _ := strings.Cut(what, " "); len(d) > 15 {
				t.Fatalf("device name %s has more than 15 bytes", d)
			}
		}
	}
	for _, s := range topology.Underlay(p) {
		if p.Machine(s.On) == nil || s.String() == "" || strings.HasSuffix(s.String(), ": nothing") {
			t.Fatalf("step on %q: %s", s.On, s)
		}
		if s.BGP != nil {
			checkPolicy(t, p, *s.BGP)
		}
	}
}

// fatal is a test, or a drawn one.
type fatal interface{ Fatalf(string, ...any) }

// checkCable checks that the two ends of a cable name each other and agree.
func checkCable(t fatal, p *topology.Plan, m *topology.Machine, nic topology.Interface) {
	peer := p.Machine(nic.Peer.Machine).NIC(nic.Peer.Interface)
	if peer == nil || peer.Peer != (topology.Port{Machine: m.Name, Interface: nic.Name}) || peer.Segment != nic.Segment || peer.MTU != nic.MTU {
		t.Fatalf("%s/%s is joined with %v, which is joined with %v", m.Name, nic.Name, nic.Peer, peer)
	}
}

// checkTagged checks an 802.1Q device.
func checkTagged(t fatal, p *topology.Plan, m *topology.Machine, nic topology.Interface) {
	trunk := m.NIC(nic.Trunk)
	if trunk == nil || trunk.Segment != "" || trunk.V4.IsValid() || trunk.MTU < nic.MTU || trunk.MAC.String() != nic.MAC.String() || nic.Peer != (topology.Port{}) ||
		nic.VLAN < 1 || nic.VLAN > 4094 {
		t.Fatalf("%s/%s: %+v on %+v", m.Name, nic.Name, nic, trunk)
	}
	for _, s := range p.Segments {
		if (s.VLAN == nic.VLAN) != (s.Name == nic.Segment) {
			t.Fatalf("%s/%s is on %s with the VLAN %d of %s", m.Name, nic.Name, nic.Segment, nic.VLAN, s.Name)
		}
	}
}

// checkLink checks the two ends of a link between a machine and a router.
func checkLink(t fatal, s topology.PlannedSegment, nic, port topology.Interface) {
	quarter4 := netip.PrefixFrom(s.V4.Addr(), s.V4.Bits()+2)
	if nic.V4.Bits() != 31 || nic.V6.Bits() != 127 || nic.V4.Masked() != port.V4 || nic.V6.Masked() != port.V6 || nic.V4 == port.V4 || nic.V6 == port.V6 ||
		!quarter4.Contains(nic.V4.Addr()) || !quarter4.Contains(port.V4.Addr()) || !s.V6.Contains(nic.V6.Addr()) || port.V4.Addr() == s.V4.Addr() {
		t.Fatalf("the link of %s has %s and %s, its port %s and %s, on %s", nic.Name, nic.V4, nic.V6, port.V4, port.V6, s.V4)
	}
}

// checkPolicy checks that a tor believes a host what it may say, and nothing else.
func checkPolicy(t fatal, p *topology.Plan, b topology.BGP) {
	accepts := func(peer topology.Peer, prefix netip.Prefix) bool {
		return slices.ContainsFunc(peer.Accept, func(a topology.Accept) bool {
			return a.Prefix.Overlaps(prefix) && a.Prefix.Bits() <= prefix.Bits() && prefix.Bits() >= a.MinBits && prefix.Bits() <= a.MaxBits
		})
	}
	peers := 0
	for _, m := range p.Hosts() {
		for _, n := range p.Networks {
			nic := m.NIC(n.NIC)
			i := slices.IndexFunc(b.Peers, func(peer topology.Peer) bool { return peer.Addr == nic.V4.Addr() })
			if i < 0 {
				continue // of another tor
			}
			peers++
			peer := b.Peers[i]
			port := p.Machine(nic.Peer.Machine).NIC(nic.Peer.Interface)
			if peer.AS != m.AS || peer.Local != port.V4.Addr() || peer.Local6 != port.V6.Addr() || !peer.Passive || peer.MaxPrefixes == 0 {
				t.Fatalf("the peer %s is %+v", m.Name, peer)
			}
			for _, other := range p.Hosts() {
				v4, v6 := p.Slice(other.Name, n.Name)
				same := other.NIC(n.NIC).Segment == nic.Segment
				for _, slice := range []netip.Prefix{v4, v6} {
					host := netip.PrefixFrom(slice.Addr().Next(), slice.Addr().BitLen())
					half := netip.PrefixFrom(slice.Addr(), slice.Bits()+1)
					if accepts(peer, slice) != (other == m) || accepts(peer, host) != same || accepts(peer, half) {
						t.Fatalf("from %s: %s of %s taken: %v, %s: %v, %s: %v", m.Name, slice, other.Name, accepts(peer, slice), host, accepts(peer, host), half, accepts(peer, half))
					}
				}
			}
			for _, s := range p.Segments {
				for _, never := range []netip.Prefix{
					s.V4, s.V6, netip.PrefixFrom(s.V4.Addr(), 0), netip.PrefixFrom(s.V6.Addr(), 0), netip.PrefixFrom(s.V4.Addr(), s.V4.Bits()+2),
					netip.PrefixFrom(nic.V4.Addr(), 32), netip.PrefixFrom(nic.V6.Addr(), 128), nic.V4.Masked(), nic.V6.Masked(),
				} {
					if accepts(peer, never.Masked()) {
						t.Fatalf("%s is taken from %s", never, m.Name)
					}
				}
			}
		}
	}
	if peers == 0 {
		t.Fatalf("a speaker without hosts: %+v", b)
	}
}

type name string

func (n name) String() string { return string(n) }

func lastAddress(p netip.Prefix) netip.Addr {
	last := p.Addr().AsSlice()
	for i := p.Bits(); i < len(last)*8; i++ {
		last[i/8] |= 0x80 >> (i % 8)
	}
	addr, _ := netip.AddrFromSlice(last)
	return addr
}

// A larger lab than those that come with the program: 100 hosts with 10 containers each.
func TestPlanLarge(t *testing.T) {
	lab := topology.Topology{
		Name:     "large",
		Segments: map[string]topology.Segment{"rack": {V4: netip.MustParsePrefix("10.0.0.0/16"), V6: netip.MustParsePrefix("2001:db8::/64")}},
		Tors:     map[string]topology.Tor{"tor": {Joins: []string{"rack"}}},
		Hosts:    map[string]topology.Host{},
		Networks: map[string]topology.Network{"blue": {NIC: "eth0", V4: netip.MustParsePrefix("172.17.0.0/24"), V6: netip.MustParsePrefix("fd17::/64")}},
	}
	for i := range 100 {
		lab.Hosts[fmt.Sprintf("h%d", i+1)] = topology.Host{
			NICs:       map[string]topology.NIC{"eth0": {Segment: "rack"}},
			Containers: map[string]int{"blue": 10},
		}
	}
	p, err := topology.NewPlan(lab)
	if err != nil {
		t.Fatal(err)
	}
	checkPlan(t, p)
	if h := p.Hosts()[9]; h.Name != "h10" || h.NIC("eth0").V4.String() != "10.0.0.10/16" {
		t.Errorf("the tenth host is %s with %s, want h10 with 10.0.0.10/16", h.Name, h.NIC("eth0").V4)
	}
}
