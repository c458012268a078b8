package modes_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/modebench/modebench/modes"
	"github.com/modebench/modebench/topology"
)

// leasing are the modes whose hosts run a daemon that leases a subnet.
func leasing(t *testing.T) (ms []modes.Mode) {
	for _, m := range modes.All() {
		if slices.Contains(m.Programs, "flanneld") {
			ms = append(ms, m)
		}
	}
	if len(ms) == 0 {
		t.Fatal("no mode runs programs of others")
	}
	return ms
}

// What the daemon is told to lease is what the bridge and the containers of its host are numbered from, and no two of a lab have one address.
func TestLeasesAreThePlans(t *testing.T) {
	for _, m := range leasing(t) {
		rapid.Check(t, func(t *rapid.T) {
			p := anyPlan(t, m)
			holder := map[netip.Addr]string{}
			stores := 0
			hold := func(who string, a netip.Addr) {
				if other := holder[a]; other != "" {
					t.Fatalf("mode %s: %s and %s have %s", m.Name, other, who, a)
				}
				holder[a] = who
			}
			for _, h := range p.Hosts() {
				var file, bridge string
				for _, s := range m.Setup(p, h) {
					switch {
					case s.Program != nil && s.Program.Name == "etcd":
						stores++
					case s.Program != nil:
						file = s.Program.Files["subnet.env"]
					case s.Addr != nil:
						bridge += " " + s.Addr.Prefix.String()
						hold(h.Name, s.Addr.Prefix.Addr())
					}
				}
				if file == "" {
					t.Fatalf("mode %s: %s has no daemon", m.Name, h.Name)
				}
				for _, own := range strings.Fields(bridge) {
					if !strings.Contains(file, "SUBNET="+own+"\n") {
						t.Fatalf("mode %s: the bridge of %s has %s, and its daemon asks for the lease\n%s", m.Name, h.Name, own, file)
					}
				}
				for _, c := range h.Containers {
					for _, a := range m.Addrs(p, h, c) {
						hold(c.ID(), a.Addr())
						if v4, v6 := p.Subnet(h.Name); a.Masked() != v4 && a.Masked() != v6 {
							t.Fatalf("mode %s: %s has %s, which is not of the lease %s or %s", m.Name, c.ID(), a, v4, v6)
						}
					}
				}
			}
			if stores != 1 {
				t.Fatalf("mode %s: %d stores: want one for all hosts", m.Name, stores)
			}
		})
	}
}

// What a lease has no number for is told before anything is started.
func TestLeasesAdmit(t *testing.T) {
	for _, m := range leasing(t) {
		for containers, want := range map[int]string{
			253: "",
			254: "h1/c254 of network blue: container 254 of host h1: a lease has addresses for the containers 1 to 253, and there are leases for 254 hosts",
		} {
			_, err := m.Plan(topology.Topology{
				Name:     "many",
				Segments: map[string]topology.Segment{"rack": {V4: netip.MustParsePrefix("198.18.0.0/20"), V6: netip.MustParsePrefix("2001:db8::/64")}},
				Tors:     map[string]topology.Tor{"tor": {Joins: []string{"rack"}}},
				Networks: map[string]topology.Network{"blue": {NIC: "eth0", V4: netip.MustParsePrefix("172.17.0.0/22"), V6: netip.MustParsePrefix("fd17::/64")}},
				Hosts:    map[string]topology.Host{"h1": {NICs: map[string]topology.NIC{"eth0": {Segment: "rack"}}, Containers: map[string]int{"blue": containers}}},
			})
			got := ""
			if err != nil {
				got = err.Error()
			}
			if got != want {
				t.Errorf("mode %s: %d containers: %q: want %q", m.Name, containers, got, want)
			}
		}
	}
}
