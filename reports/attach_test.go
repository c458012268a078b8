package reports

import (
	"strings"
	"testing"
)

// Who takes five times as long as modebench's own steps is told to, with an interval that holds it; a mode that these were not measured of has no ratio.
func TestAttachings(t *testing.T) {
	result := func(mode, implementation string, seconds float64) Result {
		r := Result{Suite: "scale", Mode: mode, Implementation: implementation, Feature: "attach-each", Expected: Works, Observed: Works, Outcome: Pass}
		for i := range 21 {
			noise := 1 + float64(i%5-2)/100
			r.Values = append(r.Values, Value{Unit: AttachUnit, Value: seconds * noise}, Value{Unit: DetachUnit, Value: 2 * seconds * noise})
		}
		return r
	}
	res := Results{Schema: Schema, Results: []Result{result("bridge", "kernel", 0.002), result("bridge", "cni", 0.01), result("ptp", "cni", 0.01)}}
	rows := Attachings(res)
	if len(rows) != 3 || rows[0].Ratio != "" || rows[2].Ratio != "" || !strings.HasPrefix(rows[1].Ratio, "5.0 times [4.") || !strings.HasPrefix(rows[0].Attach, "2 ms [") && !strings.HasPrefix(rows[0].Attach, "2.00 ms [") {
		t.Errorf("%+v", rows)
	}
	docs := documents(t, res)
	for _, name := range []string{"report.md", "index.html"} {
		if !strings.Contains(string(docs[name]), "5.0 times [4.") {
			t.Errorf("%s does not say how much longer plugins take", name)
		}
	}
}
