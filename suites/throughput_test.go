package suites

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/modebench/modebench/fixtures"
	"github.com/modebench/modebench/modes"
	"github.com/modebench/modebench/reports"
	"github.com/modebench/modebench/topology"
	"github.com/modebench/modebench/topology/lab"
	"github.com/modebench/modebench/topology/netns"
)

// fakeGroups are lanes without a lab.
func fakeGroups(sizes ...int) (groups []group) {
	for n, size := range sizes {
		var g group
		for i := range size {
			g = append(g, &lane{gauge: gauge{headline: "p50-sec", turns: 1}, mode: modes.Mode{Name: fmt.Sprintf("m%d-%d", n, i)}})
		}
		groups = append(groups, g)
	}
	return groups
}

func laneModes(g group) (out []string) {
	for _, l := range g {
		out = append(out, l.mode.Name)
	}
	return out
}

func TestOrderHoldsEveryLaneBetweenBaselinesInEachTurn(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		groups := fakeGroups(rapid.SliceOfN(rapid.IntRange(1, 9), 1, 12).Draw(t, "sizes")...)
		for _, g := range groups {
			g[0].turns = rapid.IntRange(1, 3).Draw(t, "turns")
		}
		seed, block := rapid.Uint64().Draw(t, "seed"), rapid.IntRange(1, 100).Draw(t, "block")
		turns := order(groups, seed, block)
		times := map[*lane]int{}
		for _, g := range turns {
			if g[0] != g[len(g)-1] || len(g) < 2 {
				t.Fatalf("%v does not begin and end with its baseline", laneModes(g))
			}
			for _, l := range g {
				times[l]++
			}
		}
		for _, g := range groups {
			for i, l := range g {
				want := g[0].turns
				if i == 0 {
					want *= 2
				}
				if times[l] != want {
					t.Fatalf("%s comes %d times in %v: want %d", l.mode, times[l], turns, want)
				}
			}
		}
		for i, g := range order(groups, seed, block) {
			if d := cmp.Diff(laneModes(g), laneModes(turns[i])); d != "" {
				t.Fatalf("the same seed and block give another order: %s", d)
			}
		}
	})
}

func TestOrderDiffersFromBlockToBlock(t *testing.T) {
	groups := fakeGroups(8)
	seen := map[string]bool{}
	for block := range 10 {
		seen[strings.Join(laneModes(order(groups, 1, block)[0]), " ")] = true
	}
	if len(seen) < 9 { // of 7! orders
		t.Errorf("10 blocks have %d orders", len(seen))
	}
}

// script answers tries of a lane with its numbers in turn, the last of them for ever.
type script map[string][]float64

func (s script) try(_ context.Context, l *lane) (reading, error) {
	left := s[l.mode.Name]
	if len(left) > 1 {
		s[l.mode.Name] = left[1:]
	}
	if left[0] == 0 {
		return reading{}, errors.New("broken")
	}
	return reading{values: []reports.Value{{Unit: l.headline, Value: left[0]}}, remark: "scripted"}, nil
}

func TestDriftOfTheBaselineIsNoted(t *testing.T) {
	for _, c := range []struct {
		baseline []float64
		notes    []string
	}{
		{[]float64{100, 109}, nil},
		{[]float64{100, 112}, []string{"it drifted by 0.11 of itself in block 1"}},
	} {
		groups := fakeGroups(2)
		m := meter{try: script{"m0-0": slices.Clone(c.baseline), "m0-1": {7}}.try, block: func(int) {}}
		m.measure(t.Context(), groups, Measure{Blocks: 1})
		var got []float64
		for _, v := range groups[0][0].values {
			if v.Block != 1 {
				t.Errorf("%v: want block 1", v)
			}
			got = append(got, v.Value)
		}
		if d := cmp.Diff(c.baseline, got); d != "" {
			t.Errorf("baseline (-want +got):\n%s", d)
		}
		if d := cmp.Diff(c.notes, groups[0][0].notes); d != "" {
			t.Errorf("%v: notes (-want +got):\n%s", c.baseline, d)
		}
	}
}

func TestWhatFailsIsLeftOutAndOthersGoOn(t *testing.T) {
	groups := fakeGroups(3)
	done := 0
	m := meter{try: script{"m0-0": {1}, "m0-1": {5, 0, 0}, "m0-2": {5, 0, 6}}.try, block: func(n int) { done = n }}
	how := Measure{Blocks: 3, Trial: time.Second}
	m.measure(t.Context(), groups, how)
	if done != 3 {
		t.Errorf("%d blocks: want 3", done)
	}
	for i, want := range []string{reports.Pass, reports.Unable, reports.Pass} {
		if r := groups[0][i].result(&Run{}, how); r.Outcome != want || want == reports.Pass && !strings.Contains(r.Detail, "3 blocks") {
			t.Errorf("%s: %s, %s: want %s", r.Mode, r.Outcome, r.Detail, want)
		}
	}
	if r := groups[0][1].result(&Run{}, how); r.Detail != "broken; after 1 blocks" || r.Values != nil {
		t.Errorf("%+v: want what broke, when, and no values", r)
	}
}

func TestInterruptedGroupsKeepNothing(t *testing.T) {
	groups := fakeGroups(3, 3)
	ctx, cancel := context.WithCancel(t.Context())
	tries := 0
	m := meter{block: func(int) {}, try: func(ctx context.Context, l *lane) (reading, error) {
		if tries++; tries == 4+4+4+2 { // in the second group of the second block
			cancel()
			return reading{}, ctx.Err()
		}
		return script{l.mode.Name: {1}}.try(ctx, l)
	}}
	how := Measure{Blocks: 3}
	m.measure(ctx, groups, how)
	var got []int
	for _, g := range groups {
		for _, l := range g[1:] {
			if l.failed != nil {
				t.Errorf("%s: %v: want no failure", l.mode, l.failed)
			}
			got = append(got, len(l.values))
		}
	}
	if !cmp.Equal(got, []int{1, 1, 2, 2}) && !cmp.Equal(got, []int{2, 2, 1, 1}) {
		t.Errorf("values of each lane: %v: want two of the lanes of one group, one of the others'", got)
	}
}

// measurement is a run of the two suites.
func measurement(t *testing.T, d lab.Driver, of ...string) (*Run, *[]reports.Result) {
	t.Helper()
	data, err := fixtures.FS.ReadFile("topologies/two-hosts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	top, err := topology.Read("two-hosts.yaml", data)
	if err != nil {
		t.Fatal(err)
	}
	r := &Run{Driver: d, Topology: top, Suites: []string{throughput, nat}}
	if r.Expectations, err = modes.Expectations(fixtures.FS); err != nil {
		t.Fatal(err)
	}
	for _, name := range of {
		m, ok := modes.Find(name)
		if !ok {
			t.Fatalf("%q is no mode", name)
		}
		r.Modes = append(r.Modes, m)
	}
	var got []reports.Result
	r.Emit = func(e Event) {
		if e.Kind == "cell" {
			got = append(got, *e.Result)
		}
	}
	return r, &got
}

// owes tells which cells of the manifest have no result.
func owes(r *Run, got []reports.Result) (missing []Cell) {
	have := map[Cell]bool{}
	for _, g := range got {
		have[Cell{g.Suite, g.Mode, g.Feature}] = true
	}
	for _, c := range r.Cells() {
		if !have[c] {
			missing = append(missing, c)
		}
	}
	return missing
}

// powerless starts nothing.
type powerless struct{}

func (powerless) Boot(context.Context, *topology.Plan) (lab.Booted, error) {
	return lab.Booted{}, errors.New("no power")
}

func TestLabsThatDoNotStartLeaveTheirCellsUnable(t *testing.T) {
	var all []string
	for _, m := range modes.All() {
		all = append(all, m.Name)
	}
	r, got := measurement(t, powerless{}, all...)
	if err := r.measure(t.Context()); err != nil {
		t.Fatal(err)
	}
	if missing := owes(r, *got); len(missing) > 0 {
		t.Errorf("no result: %v", missing)
	}
	unable := 0
	for _, g := range *got {
		switch {
		case g.Outcome == reports.Unable && strings.Contains(g.Detail, "no power"):
			unable++
		case g.Outcome == reports.Pass && g.Observed == reports.NotApplicable && g.Expected == g.Observed && g.Detail != "":
		default:
			t.Errorf("%s %s %s: %s: %q", g.Mode, g.Feature, g.Path, g.Outcome, g.Detail)
		}
	}
	if unable == 0 {
		t.Error("nothing is unable")
	}
}

func TestMeasurement(t *testing.T) {
	r, got := measurement(t, netns.Driver{}, "none", "bridge")
	r.Measure = Measure{Blocks: 1, Trial: 20 * time.Millisecond, Seed: 1}
	if err := r.measure(t.Context()); err != nil {
		t.Fatal(err)
	}
	if missing := owes(r, *got); len(missing) > 0 {
		t.Errorf("no result: %v", missing)
	}
	_, _, alone := processors(onTwo)
	mayBeZero := map[string]bool{"retransmits": true, "dsacks": true, "loss-fraction": true}
	measured := map[string]int{}
	for _, g := range *got {
		place := strings.Join([]string{g.Suite, g.Mode, g.Variant, g.Feature, g.Path}, " ")
		switch {
		case g.Observed == reports.NotApplicable:
			if g.Mode != "none" {
				t.Errorf("%s: not applicable: %s", place, g.Detail)
			}
			continue
		case g.Outcome == reports.Unable && (alone != nil && g.Profile == onTwo || strings.Contains(g.Detail, "bridge-nf-call")):
			t.Logf("%s: %s", place, g.Detail)
			continue
		case g.Outcome != reports.Pass:
			t.Errorf("%s: %s: %s", place, g.Outcome, g.Detail)
			continue
		}
		units := map[string]int{}
		for _, v := range g.Values {
			units[v.Unit]++
			if v.Value < 0 || v.Value == 0 && !mayBeZero[v.Unit] || v.Block != 1 {
				t.Errorf("%s: %+v", place, v)
			}
		}
		measured[g.Suite]++
		at := slices.IndexFunc(gauges, func(of gauge) bool { return of.feature == g.Feature })
		each := gauges[at].turns
		if g.Variant == "routed" || g.Mode == reports.Baseline && g.Variant == "" {
			each *= 2
		}
		for unit, n := range units {
			if n != each {
				t.Errorf("%s: %d values of %s: want %d", place, n, unit, each)
			}
		}
		if want := gauges[at].headline; units[want] == 0 {
			t.Errorf("%s: no %s", place, want)
		}
	}
	// host, its twin and bridge, five tests on two paths; at least the three variants without br_netfilter.
	want := 3 * 5 * 2
	if alone != nil {
		want = 3 * 3 * 2
	}
	if measured[throughput] != want || measured[nat] < 3*3 {
		t.Errorf("%v results were measured: want %d of throughput and at least 9 of nat", measured, want)
	}
}
