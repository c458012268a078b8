package reports

import (
	"math"
	"strings"
	"testing"
)

// grown are results of a mode whose cost of one more container follows a power of their number.
func grown(power float64, limit string) Results {
	r := Result{Suite: "scale", Mode: "bridge", Implementation: "kernel", Feature: "containers-1024", Expected: Works, Observed: Works, Outcome: Pass}
	for _, n := range []int{64, 128, 256, 512, 1024} {
		r.Values = append(r.Values, Value{Unit: "attach-sec", Value: 0.001 * math.Pow(float64(n), power), Count: n}, Value{Unit: "mem-bytes", Value: float64(n) * 2048, Count: n})
	}
	r.Values = append(r.Values, Value{Unit: "containers", Value: 1024})
	if limit != "" {
		r.Observed, r.Evidence = Blocked, []Evidence{{At: "h1", Saw: limit}}
	}
	return Results{Schema: Schema, Results: []Result{r}}
}

func TestGrowth(t *testing.T) {
	for _, power := range []float64{0.9, 1, 1.5, 2} {
		list := Growths(grown(power, "attach h1/c1025: exchange full"))
		if len(list) != 1 || math.Abs(list[0].Exponent-power) > 1e-9 {
			t.Fatalf("power %v: %+v", power, list)
		}
		g := list[0]
		if flat := g.First() == g.Last(); flat != (power == 1) {
			t.Errorf("power %v: %s at first, %s at last", power, g.First(), g.Last())
		}
		if g.EachMemory() != "2 KiB" || !strings.Contains(g.Reached(), "exchange full") || !strings.Contains(string(g.Curve()), "<svg") {
			t.Errorf("%s, %s, %s", g.EachMemory(), g.Reached(), g.Curve())
		}
	}
	docs := documents(t, grown(1, ""))
	for name, want := range map[string]string{"report.md": "1024, all that were wanted", "index.html": "1024, all that were wanted"} {
		if !strings.Contains(string(docs[name]), want) {
			t.Errorf("%s does not say %q", name, want)
		}
	}
}
