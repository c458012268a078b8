package reports

import (
	"strings"
	"testing"
)

func TestOutages(t *testing.T) {
	result := func(mode, feature, observed string, values ...float64) Result {
		r := Result{Suite: "failure", Mode: mode, Implementation: "kernel", Feature: feature, Expected: observed, Observed: observed, Outcome: Pass, Detail: "seen"}
		for i, v := range values {
			r.Values = append(r.Values, Value{Unit: []string{OutageUnit, BackUnit}[i%2], Value: v})
		}
		return r
	}
	wrong := result("ptp", "outage-link", Blocked)
	wrong.Expected, wrong.Outcome = Works, Fail
	lost := result("ptp", "outage-host", "")
	lost.Outcome = Unable
	res := Results{Schema: Schema, Modes: []Mode{{Name: "bridge", Implementation: "kernel"}, {Name: "ptp", Implementation: "kernel"}}, Results: []Result{
		result("bridge", "outage-link", Works, 1.5, 0.012, 1.4, 0.0012, 1.6, 0.002),
		result("bridge", "outage-session", NotApplicable),
		result("bridge", "outage-move", Blocked),
		result("ptp", "outage-session", Works, 0, 0, 0, 0),
		wrong, lost,
	}}
	heads, rows := outageTable(res)
	if got := strings.Join(heads, ", "); got != "Uplink lost, from when it is back, Host dies, from when it is up, BGP session is reset, Container moves to another host" {
		t.Errorf("heads: %s", got)
	}
	want := map[string][]string{
		"bridge": {"2.0 ms (1.2 to 12) works", " () ", "– () none", "not again () blocked"},
		"ptp":    {"not again () fail", "? () unable", "0 ms (0 to 0) works", " () "},
	}
	for _, r := range rows {
		for i, c := range r.Cells {
			if got := c.Text + " (" + c.More + ") " + c.State; got != want[r.Title][i] {
				t.Errorf("%s, %s: %q, want %q", r.Title, heads[i], got, want[r.Title][i])
			}
		}
	}
	docs := documents(t, res)
	for name, want := range map[string]string{
		"report.md":  "| 2.0 ms (1.2 to 12) |",
		"index.html": `>2.0 ms</a><small class="on">1.2 to 12</small>`,
	} {
		if !strings.Contains(string(docs[name]), want) {
			t.Errorf("%s does not say %q", name, want)
		}
	}
}
