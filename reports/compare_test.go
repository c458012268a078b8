package reports

import (
	"slices"
	"strings"
	"testing"
)

// TestCompareKernels compares cells on the same kernel where there is one, else the one kernel that each run has alone.
func TestCompareKernels(t *testing.T) {
	matrix := exampleKernels()
	only := func(kernel string) Results {
		return without(matrix, func(r Result) bool { return r.Fidelity.Kernel != kernel })
	}
	if c := Compare(matrix, matrix); !c.Same() {
		t.Errorf("a kernel matrix and itself: %s", c.Text())
	}
	broken := matrix
	broken.Results = slices.Clone(matrix.Results)
	for i := range broken.Results {
		if r := &broken.Results[i]; r.Mode == "bridge" && r.Feature == "own-mac" && r.Fidelity.Accelerator == "tcg" {
			r.Outcome, r.Observed = Fail, Works
		}
	}
	if got := Compare(matrix, broken).Regressions(Any); len(got) != 1 || got[0] != "bridge/own-mac on 6.12.0-example (tcg): pass (blocked) → fail (works)" {
		t.Errorf("%q: want the one cell, on its kernel", got)
	}
	gone := Compare(matrix, without(matrix, func(r Result) bool { return r.Fidelity.Accelerator == "uml" }))
	if len(gone.Changed) > 0 || len(gone.Added) > 0 || len(gone.Gone) == 0 || gone.Gone[0].On != "6.1.0-example (uml)" {
		t.Errorf("without one kernel: %d changed, %d new, gone %v: want its cells gone", len(gone.Changed), len(gone.Added), gone.Gone[:min(1, len(gone.Gone))])
	}
	newer := only("6.18.0-example")
	newer.Results = slices.Clone(newer.Results)
	for i := range newer.Results {
		newer.Results[i].Fidelity.Kernel = "6.19.0-example"
	}
	if c := Compare(only("6.18.0-example"), newer); len(c.Gone)+len(c.Added)+len(c.Changed) > 0 {
		t.Errorf("another release of the machine's kernel: %s: want its cells compared with the old one's", c.Text())
	}
}

// without returns the results that keep keeps.
func without(res Results, drop func(Result) bool) Results {
	res.Results = slices.DeleteFunc(slices.Clone(res.Results), drop)
	return res
}

// changed returns the results with one changed.
func changed(t *testing.T, res Results, mode, feature string, change func(*Result)) Results {
	t.Helper()
	res.Results = slices.Clone(res.Results)
	for i := range res.Results {
		if r := &res.Results[i]; r.Mode == mode && r.Feature == feature && r.Variant == "" {
			r.Values = slices.Clone(r.Values)
			change(r)
			return res
		}
	}
	t.Fatalf("no result %s/%s", mode, feature)
	return Results{}
}

func stretch(by float64) func(*Result) {
	return func(r *Result) {
		for i := range r.Values {
			if r.Values[i].Unit == "p50-sec" {
				r.Values[i].Value *= by
			}
		}
	}
}

func TestCompare(t *testing.T) {
	old := exampleSmall()
	fails := func(r *Result) { r.Outcome, r.Observed, r.Detail = Fail, Blocked, "no answer" }
	tests := []struct {
		name                     string
		old, new                 Results
		conformance, performance []string
		text                     string
	}{
		{"itself", old, old, nil, nil, "nothing changed (of"},
		{"a cell fails", old, changed(t, old, "bridge", "own-address", fails), []string{"bridge/own-address: pass (works) → fail (blocked)"}, nil, "! bridge/own-address: pass (works) → fail (blocked)\n    no answer\n"},
		{"a cell heals", changed(t, old, "bridge", "own-address", fails), old, nil, nil, "  bridge/own-address: fail (blocked) → pass (works)"},
		{
			"a cell cannot be told any more", old, changed(t, old, "bridge", "own-address", func(r *Result) { r.Outcome, r.Observed = Unable, "" }),
			[]string{"bridge/own-address: pass (works) → unable"},
			nil, "! bridge/own-address: pass (works) → unable",
		},
		{
			"a cell is gone", old, without(old, func(r Result) bool { return r.Mode == "bridge" && r.Feature == "own-address" }),
			[]string{"bridge/own-address: pass (works) → not run"},
			nil, "\ngone\n! bridge/own-address",
		},
		{"a cell is new", without(old, func(r Result) bool { return r.Mode == "bridge" && r.Feature == "own-address" }), old, nil, nil, "\nnew\n  bridge/own-address: not run → pass (works)"},
		{"within noise", old, changed(t, old, "bridge", "tcp-rr", stretch(1.003)), nil, nil, "nothing changed"},
		{"slower", old, changed(t, old, "bridge", "tcp-rr", stretch(1.2)), nil, []string{"bridge tcp-rr p50-sec same-host pinned: "}, "! bridge tcp-rr p50-sec same-host pinned: 1.33×"},
		{"faster", old, changed(t, old, "bridge", "tcp-rr", stretch(0.8)), nil, nil, "  bridge tcp-rr p50-sec same-host pinned: 1.33×"},
		{
			"another machine, the same ratios", old, func() Results {
				res := old
				res.Results = slices.Clone(old.Results)
				for i := range res.Results {
					r := &res.Results[i]
					r.Values = slices.Clone(r.Values)
					stretch(3)(r)
				}
				return res
			}(), nil, nil, "nothing changed",
		},
		{"a quick run", old, func() Results {
			res := changed(t, old, "bridge", "tcp-rr", stretch(2))
			res.Run.Quick = true
			return res
		}(), nil, nil, "have too few blocks to compare"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c := Compare(test.old, test.new)
			check := func(kind string, want []string) {
				got := c.Regressions(kind)
				if len(got) != len(want) {
					t.Errorf("%s: %q, want %q", kind, got, want)
					return
				}
				for i := range got {
					if !strings.HasPrefix(got[i], want[i]) {
						t.Errorf("%s: %q, want %q", kind, got[i], want[i])
					}
				}
			}
			check(Conformance, test.conformance)
			check(Performance, test.performance)
			check(Any, append(slices.Clone(test.conformance), test.performance...))
			if !strings.Contains(c.Text(), test.text) {
				t.Errorf("the text has no %q:\n%s", test.text, c.Text())
			}
			worse := len(test.conformance)+len(test.performance) > 0
			if strings.Contains(c.Markdown(), "for the worse") != (worse || !c.Same()) || worse != strings.Contains(c.Markdown(), "1 change for the worse") {
				t.Errorf("the Markdown says:\n%s", c.Markdown())
			}
		})
	}
}

func TestClaims(t *testing.T) {
	res := exampleRun()
	here := func(res Results, id string) ClaimVerdict {
		t.Helper()
		for _, c := range Claims(res) {
			if c.ID == id {
				return c
			}
		}
		t.Fatalf("no claim %s", id)
		return ClaimVerdict{}
	}
	for id, want := range map[string]struct{ here, why string }{
		"C23": {"true with a nuance", ""},
		"C31": {"measured", ""},
		"C35": {"true", ""},
		"C37": {NotTested, "about a scheduler, not a data path"},
		"C60": {"false", ""},
		"C64": {Contradicted, "by macvlan-vepa/slaac"},
		"C65": {NotTested, "this machine was unable to try its cells"},
	} {
		if c := here(res, id); c.Here != want.here || c.Why != want.why {
			t.Errorf("%s: %q (%q), want %q (%q)", id, c.Here, c.Why, want.here, want.why)
		}
	}
	// A claim about modes of which one cannot be tried stands by the others, and says so.
	partly := changed(t, res, "container", "port-conflict", func(r *Result) { r.Outcome, r.Observed = Unable, "" })
	if c := here(partly, "C35"); c.Here != "true" || c.Why != "1 cell of its evidence could not be tried" {
		t.Errorf("C35: %q (%q)", c.Here, c.Why)
	}
	// Without its cells it says nothing, whatever is documented.
	none := without(res, func(r Result) bool { return r.Feature == "port-conflict" })
	if c := here(none, "C35"); c.Here != NotTested || c.Why != "its cells were not part of this run" {
		t.Errorf("C35: %q (%q)", c.Here, c.Why)
	}
}

func TestMatrixFits(t *testing.T) {
	res := exampleRun()
	for _, width := range []int{60, 80, 120} {
		for _, line := range strings.Split(Matrix(res, width, false), "\n") {
			if len([]rune(line)) > width {
				t.Errorf("wider than %d: %q", width, line)
			}
		}
	}
	plain, colored := Matrix(res, 120, false), Matrix(res, 120, true)
	if strings.Contains(plain, "\x1b") || !strings.Contains(colored, "\x1b[") {
		t.Error("colour is not as asked")
	}
	if narrow := Matrix(res, 60, false); !strings.Contains(narrow, "slaac") {
		t.Errorf("what is not as expected has no column:\n%s", narrow)
	}
}

func TestIncompleteRunSaysSo(t *testing.T) {
	res := exampleSmall()
	res.Run.Complete, res.Run.Missing = false, []string{"conformance/bridge/own-mac"}
	res = without(res, func(r Result) bool { return r.Mode == "bridge" && r.Feature == "own-mac" })
	docs := documents(t, res)
	for name, want := range map[string]string{
		"report.md":  "This run is not complete: 1 planned cell never ran.",
		"index.html": "This run is not complete: 1 planned cell never ran.",
	} {
		if !strings.Contains(string(docs[name]), want) {
			t.Errorf("%s does not say %q", name, want)
		}
	}
	for _, doc := range []string{string(docs["report.md"]), Matrix(res, 200, false)} {
		if !strings.Contains(doc, glyphs[stateMissing]) {
			t.Error("no glyph for a cell that never ran")
		}
	}
}

func TestGraphIsDrawnWhole(t *testing.T) {
	svg := string(drawGraph(exampleGraph(&exampleModes[3]), "label <b>"))
	for _, want := range []string{`aria-label="label &lt;b&gt;"`, ">br0<", ">172.30.0.24<", ">NAT<", ">x eth0<"} {
		if !strings.Contains(svg, want) {
			t.Errorf("no %s in the drawing", want)
		}
	}
	if n := strings.Count(svg, `class="e"`); n != 13 { // x, two hosts' wires, two bridges, eight containers
		t.Errorf("%d edges, want 13", n)
	}
	var crowd Graph
	crowd.Nodes = append(crowd.Nodes, Node{ID: "h", Kind: "host", Label: "h"})
	for i := range 500 {
		crowd.Nodes = append(crowd.Nodes, Node{ID: strings.Repeat("c", i+1), Kind: "container", Label: "c", Parent: "h"})
	}
	if svg := string(drawGraph(crowd, "")); !strings.Contains(svg, "… and 489 more") || strings.Count(svg, "<rect") != 13 {
		t.Errorf("500 containers are drawn as %d boxes", strings.Count(svg, "<rect"))
	}
}
