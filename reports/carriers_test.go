package reports

import (
	"slices"
	"strings"
	"testing"
)

// What an implementation answers otherwise is listed by mode and feature, and nothing else is: neither what all agree in, nor what one could not tell.
func TestCarriers(t *testing.T) {
	var res Results
	res.Schema = Schema
	add := func(mode, by string, seen map[string]string) {
		res.Modes = append(res.Modes, Mode{Name: mode, Implementation: by, GoodFor: "The use of " + mode + "."})
		for feature, observed := range seen {
			r := Result{Suite: "conformance", Mode: mode, Implementation: by, Feature: feature, Expected: Works, Observed: observed, Outcome: Pass, Reason: "as " + by + " has it"}
			if observed == "" {
				r.Outcome = Unable
			}
			res.Results = append(res.Results, r)
		}
	}
	add("bridge", "kernel", map[string]string{"same": Works, "other": Blocked, "untold": Works})
	add("bridge", "docker", map[string]string{"same": Works, "other": Works, "untold": ""})
	add("ptp", "kernel", map[string]string{"same": Works, "other": Works, "untold": Works})
	docs := documents(t, res)
	for name, want := range map[string][]string{
		"report.md":  {"## modebench: 2 networking modes by 2 implementations, ", "| | | kernel | docker |\n|---|---|:-:|:-:|\n| bridge | other | ⊘ | ✓ |\n\n"},
		"index.html": {`<th scope="row">bridge</th><td>other</td>`, `As bridge (kernel), but for <a href="#carriers">1 of the answers</a>`, "as docker has it"},
	} {
		for _, text := range want {
			if !strings.Contains(string(docs[name]), text) {
				t.Errorf("%s does not have %q", name, text)
			}
		}
	}
	if n := strings.Count(string(docs["index.html"]), "The use of bridge."); n != 1 {
		t.Errorf("what the mode is for is said %d times: want once", n)
	}
	if rows := tabulate(res, inMatrix).byCarrier(); len(rows) != 1 || rows[0].By[1] == nil {
		t.Errorf("%+v", rows)
	}
}

// The terminal's matrix of what was measured alone says by whom, too.
func TestMatrixOfMeasuredCarriers(t *testing.T) {
	res := exampleSmall()
	res.Results = slices.DeleteFunc(res.Results, func(r Result) bool { return r.Suite != "throughput" })
	for _, m := range slices.Clone(res.Modes) {
		if m.Name != "bridge" {
			continue
		}
		m.Implementation = "cni"
		res.Modes = append(res.Modes, m)
		for _, r := range slices.Clone(res.Results) {
			if r.Mode == m.Name {
				r.Implementation = "cni"
				res.Results = append(res.Results, r)
			}
		}
	}
	matrix := Matrix(res, 100, false)
	for _, row := range []string{"  bridge (kernel)  ", "  bridge (cni)  "} {
		if !strings.Contains(matrix, row) {
			t.Errorf("no row %q:\n%s", row, matrix)
		}
	}
}
