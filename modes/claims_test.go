package modes_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/modebench/modebench/fixtures"
	"github.com/modebench/modebench/modes"
)

// measurements are the features of the throughput suite, for which no expectation stands in the files.
var measurements = []string{"tcp-rr", "tcp-crr", "tcp-stream-1", "tcp-stream-8", "udp-stream"}

// A claim whose evidence does not exist could never be contradicted.
func TestClaimsHaveTheirEvidence(t *testing.T) {
	claims, err := modes.Claims(fixtures.FS)
	if err != nil {
		t.Fatal(err)
	}
	expectations, err := modes.Expectations(fixtures.FS)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range claims {
		for i, cell := range c.Cells {
			mode, feature, _ := strings.Cut(cell, "/")
			features, ok := expectations[mode]
			if !ok {
				t.Errorf("%s: cell %s: no such mode", c.ID, cell)
				continue
			}
			if _, ok := features[feature]; !ok && !slices.Contains(measurements, feature) {
				t.Errorf("%s: cell %s: no such feature", c.ID, cell)
			}
			if slices.Contains(c.Cells[:i], cell) {
				t.Errorf("%s: cell %s: twice", c.ID, cell)
			}
		}
	}
}

// The claims about the modes that exist are tied to specs; C37 is about the default of a scheduler.
func TestClaimsAreTied(t *testing.T) {
	claims, err := modes.Claims(fixtures.FS)
	if err != nil {
		t.Fatal(err)
	}
	tied := map[string]bool{}
	var ids, all []string
	for _, c := range claims {
		ids = append(ids, c.ID)
		tied[c.ID] = len(c.Cells) > 0
	}
	for n := 1; n <= 99; n++ {
		id := fmt.Sprintf("C%02d", n)
		all = append(all, id)
		within := n <= 2 || n >= 10 && n <= 36 || n == 38 || n == 43 || n >= 47 && n <= 88 || n >= 92 && n <= 95 || n >= 97
		if within && !tied[id] {
			t.Errorf("%s names no cell that is its evidence", id)
		}
	}
	if d := cmp.Diff(all, ids); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func TestClaimsRead(t *testing.T) {
	const text = `- id: C01
  topic: Host
  text: It is fast.
  modes: [host]
  verdict: nuance
  nuance: Mostly.
  source: ip(7)
  cells: [host/tcp-rr]
- {id: C02, topic: Host, text: It is old., verdict: historic, source: ip(7), untried: No spec can.}
`
	got, err := modes.Claims(fstest.MapFS{"claims.yaml": {Data: []byte(text)}})
	if err != nil {
		t.Fatal(err)
	}
	want := []modes.Claim{
		{ID: "C01", Topic: "Host", Text: "It is fast.", Modes: []string{"host"}, Verdict: "nuance", Nuance: "Mostly.", Source: "ip(7)", Cells: []string{"host/tcp-rr"}},
		{ID: "C02", Topic: "Host", Text: "It is old.", Verdict: "historic", Source: "ip(7)", Untried: "No spec can."},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func TestClaimsRefuse(t *testing.T) {
	const good = "- {id: C01, topic: t, text: x, verdict: 'true', source: s, cells: [a/b]}\n"
	for _, test := range []struct{ name, text, want string }{
		{"nothing", "", "claims.yaml:1:1: the file is empty"},
		{"no list", "id: C01\n", "claims.yaml:1:"},
		{"no entry", good + "- C02\n", "claims.yaml:2:3: this is no mapping"},
		{"unknown key", good + "- id: C02\n  why: x\n", `claims.yaml:3:3: unknown field "why"`},
		{"duplicate key", good + "- id: C02\n  id: C02\n", `claims.yaml:3:3: mapping key "id" already defined`},
		{"bad id", good + "- {id: 7, topic: t}\n", "claims.yaml:2:8: an entry without an id at its head"},
		{"id not first", good + "- {topic: t, id: C02}\n", "claims.yaml:2:11: an entry without an id at its head"},
		{"empty entry", good + "- {}\n", "claims.yaml:2:3: an entry without an id at its head"},
		{"duplicate claim", good + good, "claims.yaml:2:8: C01 after C01: want each id once"},
		{"no topic", good + "- {id: C02, text: x, verdict: 'true', source: s, cells: [a/b]}\n", "claims.yaml:2:8: C02 has no topic"},
		{"no text", good + "- {id: C02, topic: t, verdict: 'true', source: s, cells: [a/b]}\n", "claims.yaml:2:8: C02 has no text"},
		{"no source", good + "- {id: C02, topic: t, text: x, verdict: 'true', cells: [a/b]}\n", "claims.yaml:2:8: C02 has no source"},
		{"bad verdict", good + "- {id: C02, topic: t, text: x, verdict: maybe, source: s, cells: [a/b]}\n", `claims.yaml:2:8: verdict of C02 is "maybe"`},
		{"nuance without one", good + "- {id: C02, topic: t, text: x, verdict: nuance, source: s, cells: [a/b]}\n", "claims.yaml:2:8: C02 has the verdict nuance and no nuance"},
		{"no evidence", good + "- {id: C02, topic: t, text: x, verdict: 'true', source: s}\n", "claims.yaml:2:8: C02 has neither cells nor untried"},
		{"both", good + "- {id: C02, topic: t, text: x, verdict: 'true', source: s, cells: [a/b], untried: u}\n", "claims.yaml:2:8: C02 has both cells and untried"},
		{"bad cell", good + "- {id: C02, topic: t, text: x, verdict: 'true', source: s, cells: [ab]}\n", `claims.yaml:2:8: cell "ab" of C02: want mode/feature`},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := modes.Claims(fstest.MapFS{"claims.yaml": {Data: []byte(test.text)}})
			refused(t, err, test.want)
		})
	}
	if _, err := modes.Claims(fstest.MapFS{}); err == nil {
		t.Error("a missing file is accepted")
	}
}
