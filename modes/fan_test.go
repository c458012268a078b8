package modes_test

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/modebench/modebench/modes"
	"github.com/modebench/modebench/topology"
)

// fanned are the modes that number containers by their host's address.
func fanned(t *testing.T) (ms []modes.Mode) {
	for _, m := range modes.All() {
		p := defaultPlan(t, m)
		host := p.Hosts()[0]
		c := host.Containers[0]
		if m.Addrs != nil && p.Network(c.Network).Fan.Overlay.Contains(m.Addrs(p, host, c)[0].Addr()) {
			ms = append(ms, m)
		}
	}
	if len(ms) == 0 {
		t.Fatal("no mode has addresses of an overlay")
	}
	return ms
}

// sentTo is where the steps of a host have it send what is for an address of an overlay: to the destination of the tunnel's
// forwarding entry for the next hop, or else to the next hop itself. It is invalid where nothing leads there.
func sentTo(steps []topology.Step, a netip.Addr) netip.Addr {
	var best *topology.Route
	for _, s := range steps {
		if s.Route != nil && s.Route.Dst.Contains(a) && (best == nil || s.Route.Dst.Bits() > best.Dst.Bits()) {
			best = s.Route
		}
	}
	if best == nil || best.Type != "" {
		return netip.Addr{}
	}
	to := best.Via
	for _, n := range steps {
		for _, entry := range steps {
			if n.Neigh != nil && n.Neigh.IP == best.Via && !n.Neigh.FDB && entry.Neigh != nil && entry.Neigh.FDB &&
				n.Neigh.Link == best.Link && entry.Neigh.Link == best.Link && slices.Equal(entry.Neigh.MAC, n.Neigh.MAC) {
				to = entry.Neigh.IP
			}
		}
	}
	return to
}

// The entries that stand in for a kernel's own mapping lead where the mapping says, and nothing else of an overlay leads anywhere.
func TestEntriesFollowTheMapping(t *testing.T) {
	for _, m := range fanned(t) {
		rapid.Check(t, func(t *rapid.T) {
			p := anyPlan(t, m)
			w := m.Wire(p)
			for _, from := range p.Hosts() {
				setup := slices.DeleteFunc(slices.Clone(w.Setup), func(s topology.Step) bool { return s.On != from.Name })
				for _, n := range p.Networks {
					for _, to := range p.Hosts() {
						own := to.NIC(n.NIC).V4.Addr()
						c, err := n.Fan.Container(own, rapid.IntRange(1, 253).Draw(t, "number"))
						if err != nil {
							t.Fatal(err)
						}
						if got := sentTo(setup, c.Addr()); to != from && got != own || to == from && got.IsValid() {
							t.Fatalf("mode %s: %s sends what is for %s on %s (%s) to %s", m.Name, from.Name, c, to.Name, own, got)
						}
					}
					nobody, err := n.Fan.Container(n.Fan.Underlay.Addr(), 1) // the underlay's first address is no host's
					if err != nil {
						t.Fatal(err)
					}
					if got := sentTo(setup, nobody.Addr()); got.IsValid() {
						t.Fatalf("mode %s: %s sends what is for %s, which is on no host, to %s", m.Name, from.Name, nobody, got)
					}
				}
			}
		})
	}
}

// No two containers of a lab have one address, on whichever host they are.
func TestOverlayAddressesAreUnique(t *testing.T) {
	for _, m := range fanned(t) {
		rapid.Check(t, func(t *rapid.T) {
			p := anyPlan(t, m)
			holder := map[netip.Addr]string{}
			for _, h := range p.Hosts() {
				for _, c := range h.Containers {
					a := m.Addrs(p, h, c)[0].Addr()
					if other := holder[a]; other != "" {
						t.Fatalf("mode %s: %s and %s have %s", m.Name, other, c.ID(), a)
					}
					holder[a] = c.ID()
				}
			}
		})
	}
}

// What cannot be numbered is told before anything is started.
func TestOverlaysAdmit(t *testing.T) {
	top := func(containers, networks int) topology.Topology {
		out := topology.Topology{
			Name:     "many",
			Segments: map[string]topology.Segment{"rack": {V4: netip.MustParsePrefix("198.18.0.0/20"), V6: netip.MustParsePrefix("2001:db8::/64")}},
			Tors:     map[string]topology.Tor{"tor": {Joins: []string{"rack"}}},
			Networks: map[string]topology.Network{},
		}
		h := topology.Host{NICs: map[string]topology.NIC{"eth0": {Segment: "rack"}}, Containers: map[string]int{}}
		for i := range networks {
			name := "n" + string(rune('a'+i))
			out.Networks[name] = topology.Network{
				NIC: "eth0", V4: netip.PrefixFrom(netip.AddrFrom4([4]byte{172, 17, byte(4 * i)}), 22), V6: netip.MustParsePrefix(fmt.Sprintf("fd17:%d::/64", i)),
			}
			h.Containers[name] = 1
		}
		h.Containers["na"] = containers
		out.Hosts = map[string]topology.Host{"h1": h}
		return out
	}
	for _, m := range fanned(t) {
		for _, c := range []struct {
			containers, networks int
			want                 string
		}{
			{253, 1, ""},
			{254, 1, "h1/c254 of network na: container 254 of host 198.18.0.1: the block 250.0.1.0/24 has addresses for the containers 1 to 253"},
			{1, 11, ""},
			{1, 12, "h1/c12 of network nl: no overlay"},
		} {
			_, err := m.Plan(top(c.containers, c.networks))
			got := ""
			if err != nil {
				got = err.Error()
			}
			if got != c.want {
				t.Errorf("mode %s: %d containers and %d networks: %q: want %q", m.Name, c.containers, c.networks, got, c.want)
			}
		}
	}
}
