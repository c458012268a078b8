package reports

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

var here = Fidelity{Kernel: "6.18", Driver: "netns"}

// measurement is a result of one unit: values[i] was measured in block i, all of values[i].
func measurement(mode, variant, unit string, values ...[]float64) Result {
	r := Result{Suite: "throughput", Mode: mode, Variant: variant, Feature: "tcp-rr", Path: "same-host", Profile: "pinned", Outcome: Pass, Fidelity: here}
	for block, list := range values {
		for _, v := range list {
			r.Values = append(r.Values, Value{Unit: unit, Value: v, Block: block})
		}
	}
	return r
}

func each(values ...float64) [][]float64 {
	var list [][]float64
	for _, v := range values {
		list = append(list, []float64{v})
	}
	return list
}

func summaryOf(t *testing.T, list []Summary, mode, variant string) Summary {
	t.Helper()
	for _, s := range list {
		if s.Mode == mode && s.Variant == variant {
			return s
		}
	}
	t.Fatalf("no summary of %s %s", mode, variant)
	return Summary{}
}

func TestSummariseKnownAnswers(t *testing.T) {
	// The baseline is measured first and last in each block; block k's geometric mean is 10(k+1).
	var base [][]float64
	for k := range 10 {
		m := 10 * float64(k+1)
		base = append(base, []float64{m / 1.1, m * 1.1})
	}
	// The ratios are 1.1, 1.2, … 2.0, in a shuffled order of blocks. Of the 55 geometric means of
	// two of ten, the 28th is the centre, and the ninth from either end bound it.
	order := []int{3, 7, 0, 9, 5, 1, 8, 2, 6, 4}
	values := make([][]float64, 10)
	for i, block := range order {
		values[block] = []float64{10 * float64(block+1) * (1.1 + 0.1*float64(i))}
	}
	list := Summarise(Results{Results: []Result{measurement("host", "", "p50-sec", base...), measurement("bridge", "", "p50-sec", values...)}})
	s := summaryOf(t, list, "bridge", "")
	near := func(name string, got, want float64) {
		t.Helper()
		if math.Abs(got-want) > 1e-9 {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
	near("ratio", s.Ratio, math.Sqrt(1.3*1.8))
	near("low", s.Low, 1.3)
	near("high", s.High, math.Sqrt(1.6*2.0))
	if !s.Interval || s.Blocks != 10 || s.Verdict != Slower || s.To != Baseline {
		t.Errorf("got %+v", s)
	}
	if host := summaryOf(t, list, "host", ""); host.Verdict != Reference || math.Abs(host.Median-(60/1.1+50*1.1)/2) > 1e-9 {
		t.Errorf("baseline: %+v", host)
	}
}

func TestSummariseVerdicts(t *testing.T) {
	ten := func(v float64) [][]float64 {
		return each(v, v*1.001, v*0.999, v, v*1.002, v*0.998, v, v, v*1.001, v*0.999)
	}
	other := here
	other.Accelerator = "tcg"
	tests := []struct {
		name, unit string
		value      [][]float64
		change     func(*Results)
		want       string
		interval   bool
	}{
		{"slower by a time", "p50-sec", ten(1.2), nil, Slower, true},
		{"faster by a time", "p50-sec", ten(0.8), nil, Faster, true},
		{"slower by a rate", "conn/s", ten(0.8), nil, Slower, true},
		{"faster by a rate", "conn/s", ten(1.2), nil, Faster, true},
		{"dearer", "cpu-sec/B", ten(1.2), nil, CostsMore, true},
		{"cheaper", "cpu-sec/op", ten(0.8), nil, CostsLess, true},
		{"holds one", "p50-sec", ten(1), nil, NoDifference, true},
		{"within noise", "p50-sec", ten(1.01), func(res *Results) {
			res.Results = append(res.Results, measurement("host", Twin, "p50-sec", ten(0.98)...))
		}, NoDifference, true},
		{"beyond noise", "p50-sec", ten(1.05), func(res *Results) {
			res.Results = append(res.Results, measurement("host", Twin, "p50-sec", ten(0.98)...))
		}, Slower, true},
		{"five blocks", "p50-sec", each(2, 2, 2, 2, 2), nil, TooFew, false},
		{"six blocks", "p50-sec", each(2, 2, 2, 2, 2, 2), nil, Slower, true},
		{"quick", "p50-sec", ten(2), func(res *Results) { res.Run.Quick = true }, TooFew, false},
		{"another fidelity", "p50-sec", ten(2), func(res *Results) { res.Results[1].Fidelity = other }, Unpaired, false},
		{"another path", "p50-sec", ten(2), func(res *Results) { res.Results[1].Path = "cross-host" }, Unpaired, false},
		{"a count", "retransmits", ten(2), nil, "", false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			res := Results{Results: []Result{measurement("host", "", test.unit, ten(1)...), measurement("m", "", test.unit, test.value...)}}
			if test.change != nil {
				test.change(&res)
			}
			s := summaryOf(t, Summarise(res), "m", "")
			if s.Verdict != test.want || s.Interval != test.interval {
				t.Errorf("verdict %q, interval %v (%s, noise %.3f), want %q, %v", s.Verdict, s.Interval, s.interval(), s.Noise, test.want, test.interval)
			}
		})
	}
}

func TestSummarisePairsOnlySharedBlocks(t *testing.T) {
	base := measurement("host", "", "p50-sec", each(1, 1, 1, 1, 1, 1, 1)...)
	m := measurement("m", "", "p50-sec", each(3, 3, 3, 3, 3, 3, 3, 99, 99)...)
	s := summaryOf(t, Summarise(Results{Results: []Result{base, m}}), "m", "")
	if s.Blocks != 7 || math.Abs(s.Ratio-3) > 1e-9 {
		t.Errorf("%d blocks, ratio %v, want 7 blocks, 3", s.Blocks, s.Ratio)
	}
}

// The cost of NAT must come from within its blocks: these drift by a factor of 50, and the ratio does not.
func TestNATCost(t *testing.T) {
	var routes, nat, filtered [][]float64
	for k := range 10 {
		drift := math.Pow(1.5, float64(k))
		routes = append(routes, []float64{drift})
		nat = append(nat, []float64{1.25 * drift})
		filtered = append(filtered, []float64{2 * drift})
	}
	var res Results
	for _, r := range []Result{
		measurement("bridge", routed, "p50-sec", routes...), measurement("bridge", "masqueraded", "p50-sec", nat...),
		measurement("bridge", routed+netfilter, "p50-sec", filtered...), measurement("bridge", "masqueraded"+netfilter, "p50-sec", filtered...),
	} {
		r.Suite = natSuite
		res.Results = append(res.Results, r)
	}
	for variant, want := range map[string]struct {
		to    string
		ratio float64
	}{"masqueraded": {routed, 1.25}, routed + netfilter: {routed, 2}, "masqueraded" + netfilter: {routed + netfilter, 1}} {
		s := summaryOf(t, NATCost(res), "bridge", variant)
		if s.To != want.to || math.Abs(s.Ratio-want.ratio) > 1e-9 {
			t.Errorf("%s: %v of %s, want %v of %s", variant, s.Ratio, s.To, want.ratio, want.to)
		}
	}
	if text := natSentence(NATCost(res)); !strings.Contains(text, "round trip 1.25× [1.25, 1.25]") {
		t.Errorf("the sentence is %q", text)
	}
}

// aa is a run of two modes that are one and the same: blocks drift together, trials have noise of their own.
func aa(rng *rand.Rand, blocks int, effect float64) Results {
	var base, m [][]float64
	for range blocks {
		drift := math.Exp(0.2 * rng.NormFloat64())
		trial := func() float64 { return drift * math.Exp(0.02*rng.NormFloat64()) }
		base = append(base, []float64{trial(), trial()})
		m = append(m, []float64{effect * trial()})
	}
	return Results{Results: []Result{measurement("host", "", "p50-sec", base...), measurement("m", "", "p50-sec", m...)}}
}

func TestIdenticalModesShowNoDifference(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 11))
	const runs = 2000
	for _, blocks := range []int{6, 10, 20} {
		none := 0
		for range runs {
			if summaryOf(t, Summarise(aa(rng, blocks, 1)), "m", "").Verdict == NoDifference {
				none++
			}
		}
		if share := float64(none) / runs; share < 0.94 { // 95 %, but for the luck of so many runs
			t.Errorf("%d blocks: %.1f %% of identical modes show no difference, want at least 94 %%", blocks, 100*share)
		}
	}
}

func TestDifferentModesAreToldApart(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 12))
	told := 0
	for range 200 {
		if summaryOf(t, Summarise(aa(rng, 10, 1.07)), "m", "").Verdict == Slower {
			told++
		}
	}
	if told < 190 {
		t.Errorf("a difference of 7 %% was told in %d of 200 runs with 2 %% noise, want 190", told)
	}
}

// The interval is checked against one found in another way: the percentiles of resampled medians.
func TestIntervalAgreesWithBootstrap(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 5))
	for round := range 20 {
		res := aa(rng, 30, 1+0.1*float64(round))
		s := summaryOf(t, Summarise(res), "m", "")
		of, base := map[int][]float64{}, map[int][]float64{}
		for _, v := range res.Results[0].Values {
			base[v.Block] = append(base[v.Block], v.Value)
		}
		for _, v := range res.Results[1].Values {
			of[v.Block] = append(of[v.Block], v.Value)
		}
		ratios := paired(of, base)
		medians := make([]float64, 4000)
		sample := make([]float64, len(ratios))
		for i := range medians {
			for j := range sample {
				sample[j] = ratios[rng.IntN(len(ratios))]
			}
			slices.Sort(sample)
			medians[i] = (sample[len(sample)/2-1] + sample[len(sample)/2]) / 2
		}
		slices.Sort(medians)
		low, high := medians[len(medians)/40], medians[len(medians)-len(medians)/40]
		width := s.High - s.Low
		if math.Abs(low-s.Low) > 0.5*width || math.Abs(high-s.High) > 0.5*width {
			t.Errorf("round %d: bootstrap [%.4f, %.4f], signed ranks [%.4f, %.4f]", round, low, high, s.Low, s.High)
		}
	}
}

// many is a run of the size of goal P14: 20 modes, 8 metrics, 50 blocks.
func many() Results {
	rng := rand.New(rand.NewPCG(1, 1))
	res := Results{Schema: Schema, Run: Run{Complete: true, Started: time.Unix(0, 0).UTC()}}
	for i := range 20 {
		mode := fmt.Sprintf("mode-%d", i)
		if i == 0 {
			mode = Baseline
		}
		res.Modes = append(res.Modes, Mode{Name: mode, Implementation: "kernel"})
		byFeature := map[string]*Result{}
		var order []string
		for _, m := range metrics {
			if byFeature[m.Feature] == nil {
				byFeature[m.Feature] = &Result{Suite: "throughput", Mode: mode, Implementation: "kernel", Feature: m.Feature, Path: "same-host", Profile: "pinned", Outcome: Pass, Fidelity: here}
				order = append(order, m.Feature)
			}
			for block := range 50 {
				byFeature[m.Feature].Values = append(byFeature[m.Feature].Values, Value{Unit: m.Unit, Value: rng.Float64() + 1, Block: block})
			}
		}
		for _, name := range order {
			res.Results = append(res.Results, *byFeature[name])
		}
	}
	return res
}

func BenchmarkReport(b *testing.B) {
	res := many()
	b.ReportAllocs()
	for b.Loop() {
		documents(b, res)
	}
}

func BenchmarkReportWithMatrix(b *testing.B) {
	res := readExample(b)
	b.ReportAllocs()
	for b.Loop() {
		documents(b, res)
	}
}
