package main

import (
	"slices"
	"testing"

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

// TestFabricsAreAsked holds the features that advice about a fabric rests on to those that there are.
func TestFabricsAreAsked(t *testing.T) {
	all := suites.Features()
	for _, f := range suites.Fabrics() {
		for _, feature := range []string{"on-" + f + "-host", "on-" + f + "-external"} {
			if !slices.Contains(all, feature) {
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
