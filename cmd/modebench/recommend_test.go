package main

import (
	"slices"
	"testing"

	"github.com/modebench/modebench/fixtures"
	"github.com/modebench/modebench/modes"
	"github.com/modebench/modebench/reports"
	"github.com/modebench/modebench/suites"
)

// TestNeedsAreFeatures holds the needs to the features that there are.
func TestNeedsAreFeatures(t *testing.T) {
	all := suites.Features()
	for _, n := range reports.Needs() {
		for _, c := range n.Cells {
			if !slices.Contains(all, c.Feature) {
				t.Errorf("%s: %s: no such feature", n.Name, c.Feature)
			}
		}
	}
}

// onFabrics are the modes that have no place on each fabric, sorted, from what is documented of it: secured ports (Cisco Catalyst 3650, port security), NICs' filters (macvlan's addresses are the parent's own,
// drivers/net/macvlan.c), a routed link (RFC 3021), a cloud (Amazon VPC User Guide, source/destination checks).
//
// What a mode is, whatever the fabric: those that speak BGP with a router have a place on routed-bgp only, those that write a cloud's table on vpc only.
var onFabrics = map[string][]string{
	"open":            {"direct-bgp", "flannel-aws-vpc", "flannel-gce", "ipvlan-l3", "ipvlan-l3s"},
	"open-reflective": {"direct-bgp", "flannel-aws-vpc", "flannel-gce", "ipvlan-l3", "ipvlan-l3s"},
	"open-snooping":   {"direct-bgp", "flannel-aws-vpc", "flannel-gce", "ipvlan-l3", "ipvlan-l3s"},
	// More MAC addresses at a port than it admits.
	"port-security":          {"direct-bgp", "flannel-aws-vpc", "flannel-gce", "ipvlan-l3", "ipvlan-l3s", "macvlan-bridge", "macvlan-private", "macvlan-vepa", "vlan-macvlan"},
	"port-security-shutdown": {"direct-bgp", "flannel-aws-vpc", "flannel-gce", "ipvlan-l3", "ipvlan-l3s", "macvlan-bridge", "macvlan-private", "macvlan-vepa", "vlan-macvlan"},
	"port-security-5":        {"direct-bgp", "flannel-aws-vpc", "flannel-gce", "ipvlan-l3", "ipvlan-l3s"},
	// Every station is reached, by flooding.
	"mac-table-6": {"direct-bgp", "flannel-aws-vpc", "flannel-gce", "ipvlan-l3", "ipvlan-l3s"},
	// One container more than the NIC has filters.
	"nic-3":         {"direct-bgp", "flannel-aws-vpc", "flannel-gce", "ipvlan-l3", "ipvlan-l3s", "macvlan-bridge", "macvlan-private", "macvlan-vepa", "vlan-macvlan"},
	"nic-3-promisc": {"direct-bgp", "flannel-aws-vpc", "flannel-gce", "ipvlan-l3", "ipvlan-l3s"},
	// What wants neighbours on its segment, multicast, a next hop that is a host, or tags.
	"routed-bgp": {
		"flannel-aws-vpc", "flannel-gce", "flannel-host-gw", "ipvlan-l2", "macvlan-bridge", "macvlan-passthru", "macvlan-private", "macvlan-vepa",
		"vlan-ipvlan", "vlan-macvlan", "vxlan-multicast",
	},
	"vpc": {
		"direct-bgp", "flannel-host-gw", "ipvlan-l2", "ipvlan-l3", "ipvlan-l3s", "macvlan-bridge", "macvlan-passthru", "macvlan-private", "macvlan-vepa",
		"vlan-ipvlan", "vlan-macvlan", "vxlan-multicast",
	},
}

// TestRecommendOnFabrics asks for each fabric which modes have no place on it, of results in which everything is as expected. That results are is what
// the suite of fabrics shows.
func TestRecommendOnFabrics(t *testing.T) {
	all, err := modes.Expectations(fixtures.FS)
	if err != nil {
		t.Fatal(err)
	}
	res := reports.Results{Schema: reports.Schema}
	for _, m := range modes.All() {
		res.Modes = append(res.Modes, reports.Mode{Name: m.Name, Implementation: modes.ByKernel})
		for _, f := range suites.FeaturesOn(suites.Fabrics()) {
			e, ok := all[m.String()][f]
			if !ok {
				t.Fatalf("%s: %s: nothing is expected", m, f)
			}
			res.Results = append(res.Results, reports.Result{
				Suite: suites.OnFabrics, Mode: m.Name, Implementation: modes.ByKernel, Feature: f, Expected: e.Expect, Observed: e.Expect, Outcome: reports.Pass,
			})
		}
	}
	for _, fabric := range suites.Fabrics() {
		var out []string
		advice := reports.Recommend(res, reports.Wanted{Fabric: fabric, First: "latency", Path: "cross-host"})
		for _, e := range advice.Excluded {
			out = append(out, e.Title)
		}
		slices.Sort(out)
		if want := onFabrics[fabric]; !slices.Equal(out, want) {
			t.Errorf("%s: out are %v: want %v", fabric, out, want)
		}
		if len(advice.Undecided) > 0 {
			t.Errorf("%s: undecided are %v: want none", fabric, advice.Undecided)
		}
	}
}

// TestFabricsAreAsked holds the features that advice about a fabric rests on to those that there are.
func TestFabricsAreAsked(t *testing.T) {
	all := suites.Features()
	for _, f := range suites.Fabrics() {
		for _, what := range reports.Reaches {
			if feature := "on-" + f + "-" + what; !slices.Contains(all, feature) {
				t.Errorf("%s: no such feature", feature)
			}
		}
	}
	if !slices.Contains(all, "containers-1024") {
		t.Error("containers-1024: no such feature")
	}
}

// TestWishes reads a file of needs, of which flags take precedence.
func TestWishes(t *testing.T) {
	path := t.TempDir() + "/mine.yaml"
	place(t, path, []byte("needs: [multicast, no-nat]\ncontainers: 800\nfirst: throughput\n"))
	w := wishes{Needs: []string{"ipv6"}, Containers: 1, First: "latency", Path: "cross-host"}
	if err := w.read(path, func(flag string) bool { return flag == "first" }); err != nil {
		t.Fatal(err)
	}
	if err := w.check(); err != nil {
		t.Fatal(err)
	}
	if want := []string{"multicast", "no-nat", "several-containers"}; !slices.Equal(w.Needs, want) || w.First != "latency" || w.Path != "cross-host" {
		t.Errorf("%+v: want %v, latency, cross-host", w, want)
	}
}
