package reports

import (
	"cmp"
	"math"
	"slices"
	"strings"

	"golang.org/x/perf/benchmath"
)

const (
	// Baseline is the mode that every measurement is a ratio to: a process of the host itself.
	Baseline = "host"
	// Twin is the variant of the baseline that is measured once more as if it were another mode.
	// What tells it from the baseline is noise.
	Twin = "again"

	confidence = 0.95
	// resolution is the least difference that is ever claimed. Two labs of one mode differ by up to this, lastingly, so that
	// no number of blocks in one run averages it out; runs of the baseline against its twin showed how much.
	resolution = 0.02
	// minBlocks is the least number of blocks that bound an interval of 95 % (see [interval]).
	minBlocks = 6
)

// The verdicts of a [Summary].
const (
	NoDifference = "no difference shown" // the interval comes within resolution of 1.00 or lies within the noise floor
	TooFew       = "too few blocks"      // no interval is claimed
	Unpaired     = "no baseline"         // no block also measured the baseline on the same fidelity
	Reference    = "baseline"            // it is what the others are compared to
	Slower       = "slower"
	Faster       = "faster"
	CostsMore    = "costs more"
	CostsLess    = "costs less"
)

// Summary is what the blocks of one measurement say about one mode or variant.
type Summary struct {
	Suite, Feature, Path, Profile, Unit string
	Mode, Implementation, Variant       string
	Fidelity                            Fidelity

	Median float64 // of all values, in Unit
	Most   float64 // the largest of them
	To     string  // what Ratio compares with: the baseline mode, or for the cost of NAT a variant
	Blocks int     // that hold both a value and its baseline; Ratio, Low and High mean something from 1 on
	Ratio  float64 // centre over blocks of the block's values by its baselines (geometric means)
	Low    float64 // with High, the interval of at least 95 % confidence around Ratio, when Interval
	High   float64
	// Interval tells whether one is claimed: not of a quick run, not of fewer than six blocks.
	Interval bool
	// Noise is the half-width of the band around 1.00 that the twin of the baseline filled; 0: there was no twin.
	Noise   float64
	Verdict string
}

// unit is what there is to know about a unit of measurement.
type unit struct {
	better int  // +1: higher is better, -1: lower is
	ratio  bool // a ratio to the baseline says something; otherwise the baseline is often 0
	cost   bool // of processor time, which is spent rather than fast
}

var units = map[string]unit{
	"p50-sec":       {better: -1, ratio: true},
	"p90-sec":       {better: -1, ratio: true},
	"p99-sec":       {better: -1, ratio: true},
	"p999-sec":      {better: -1}, // of a short trial it is that of a few events, as is the largest
	"max-sec":       {better: -1},
	"op/s":          {better: +1, ratio: true},
	"conn/s":        {better: +1, ratio: true},
	"bit/s":         {better: +1, ratio: true},
	"pkt/s":         {better: +1, ratio: true},
	"cpu-sec/op":    {better: -1, ratio: true, cost: true},
	"cpu-sec/B":     {better: -1, ratio: true, cost: true},
	"retransmits":   {better: -1},
	"dsacks":        {better: -1},
	"loss-fraction": {better: -1},
}

// series is the values of one measurement of one mode or variant, by block.
type series struct {
	Summary
	blocks map[int][]float64
}

// collect gathers the values of the results that keep keeps, in the order of the results and of their units.
func collect(res Results, keep func(Result) bool) []*series {
	byKey := map[Summary]*series{}
	var list []*series
	for _, r := range res.Results {
		if len(r.Values) == 0 || r.Outcome == Unable || !keep(r) {
			continue
		}
		for _, v := range r.Values {
			key := Summary{
				Suite: r.Suite, Feature: r.Feature, Path: r.Path, Profile: r.Profile, Unit: v.Unit,
				Mode: r.Mode, Implementation: r.Implementation, Variant: r.Variant, Fidelity: r.Fidelity,
			}
			s := byKey[key]
			if s == nil {
				s = &series{Summary: key, blocks: map[int][]float64{}}
				byKey[key] = s
				list = append(list, s)
			}
			s.blocks[v.Block] = append(s.blocks[v.Block], v.Value)
		}
	}
	return list
}

// field is what two series must share to be compared.
type field struct {
	suite, feature, path, profile, unit string
	fidelity                            Fidelity
}

func (s Summary) field() field {
	return field{s.Suite, s.Feature, s.Path, s.Profile, s.Unit, s.Fidelity}
}

// paired returns, for each block that both measured, in the order of the blocks, the geometric mean of one by that of the other.
func paired(of, base map[int][]float64) []float64 {
	var order []int
	for block := range of {
		order = append(order, block)
	}
	slices.Sort(order)
	var ratios []float64
	for _, block := range order {
		if b := mean(base[block]); b > 0 {
			ratios = append(ratios, mean(of[block])/b)
		}
	}
	return ratios
}

// mean is the geometric mean; of nothing, 0.
func mean(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	product := 1.0
	for _, v := range values {
		product *= math.Pow(v, 1/float64(len(values)))
	}
	return product
}

func median(values []float64) float64 {
	return benchmath.AssumeNothing.Summary(benchmath.NewSample(values, &benchmath.DefaultThresholds), confidence).Center
}

func (s *series) values() []float64 {
	var all []float64
	for _, values := range s.blocks {
		all = append(all, values...)
	}
	return all
}

// relate fills in what the blocks of s say about its ratio to base, without a verdict.
func (s *series) relate(base *series, quick bool) {
	all := s.values()
	s.Median, s.Most = median(all), slices.Max(all)
	if base == nil || !units[s.Unit].ratio {
		return
	}
	ratios := paired(s.blocks, base.blocks)
	if s.Blocks = len(ratios); s.Blocks == 0 {
		return
	}
	centre, low, high := interval(ratios)
	s.Ratio = centre
	if !quick && s.Blocks >= minBlocks {
		s.Interval, s.Low, s.High = true, low, high
	}
}

// distance is how far an interval reaches from 1.00.
func (s Summary) distance() float64 { return math.Max(math.Abs(s.Low-1), math.Abs(s.High-1)) }

func (s Summary) verdict() string {
	switch u := units[s.Unit]; {
	case !u.ratio:
		return ""
	case s.Blocks == 0:
		return Unpaired
	case !s.Interval:
		return TooFew
	case s.Low <= 1+resolution && 1-resolution <= s.High, s.distance() <= s.Noise:
		return NoDifference
	case u.cost && s.Ratio > 1:
		return CostsMore
	case u.cost:
		return CostsLess
	case (s.Ratio > 1) == (u.better > 0):
		return Faster
	default:
		return Slower
	}
}

// Worse tells whether the ratio of s is a disadvantage by its unit.
func (s Summary) worse() bool { return (s.Ratio > 1) == (units[s.Unit].better < 0) && s.Ratio != 1 }

// noiseFloors returns how far the twin of the baseline strayed from it, for each field that has one.
func noiseFloors(all []*series) map[field]float64 {
	floors := map[field]float64{}
	for _, s := range all {
		if s.Mode == Baseline && s.Variant == Twin && s.Interval {
			floors[s.field()] = s.distance()
		}
	}
	return floors
}

// Summarise returns one summary for each (suite, path, profile, feature, unit) and mode or variant, in the order of the
// results, of all suites but the one that isolates NAT (see [NATCost]). Only blocks of identical fidelity are paired.
func Summarise(res Results) []Summary {
	all := collect(res, func(r Result) bool { return r.Suite != natSuite })
	bases := map[field]*series{}
	for _, s := range all {
		if s.Mode == Baseline && s.Variant == "" {
			bases[s.field()] = s
		}
	}
	for _, s := range all {
		s.To = Baseline
		s.relate(bases[s.field()], res.Run.Quick)
	}
	floors := noiseFloors(all)
	list := make([]Summary, len(all))
	for i, s := range all {
		s.Noise = floors[s.field()]
		s.Verdict = s.verdict()
		if bases[s.field()] == s {
			s.Verdict = Reference
		} else if s.Mode == Baseline && s.Variant == Twin && s.Interval {
			twin := s.Summary
			twin.Noise = 0
			s.Verdict = twin.verdict()
		}
		list[i] = s.Summary
	}
	return list
}

const (
	natSuite  = "nat"
	routed    = "routed"
	netfilter = "+br_netfilter"
)

// NATCost returns what translating addresses costs: each variant of the nat suite as a ratio, paired within blocks, to the
// routed variant that otherwise does the same (with br_netfilter, when it has it), and routed with br_netfilter to routed.
// The noise floors are those of the baseline's twin in the throughput suite for the same feature, path, profile and unit.
func NATCost(res Results) []Summary {
	all := collect(res, func(r Result) bool { return r.Suite == natSuite })
	type variantKey struct {
		field
		mode, variant string
	}
	byVariant := map[variantKey]*series{}
	for _, s := range all {
		byVariant[variantKey{s.field(), s.Mode, s.Variant}] = s
	}
	floors := map[field]float64{}
	for _, s := range Summarise(res) {
		if s.Noise > 0 {
			f := s.field()
			f.suite = natSuite
			floors[f] = s.Noise
		}
	}
	var list []Summary
	for _, s := range all {
		s.To = routed
		if strings.HasSuffix(s.Variant, netfilter) && s.Variant != routed+netfilter {
			s.To += netfilter
		}
		s.relate(byVariant[variantKey{s.field(), s.Mode, s.To}], res.Run.Quick)
		s.Noise = floors[s.field()]
		s.Verdict = s.verdict()
		if s.Variant == s.To {
			s.Verdict = Reference
		}
		list = append(list, s.Summary)
	}
	slices.SortStableFunc(list, func(a, b Summary) int { return cmp.Compare(variantRank(a.Variant), variantRank(b.Variant)) })
	return list
}

// variantRank orders the variants from what does nothing to what does most.
func variantRank(variant string) int {
	rank := slices.Index([]string{routed, "masqueraded", "port-mapped"}, strings.TrimSuffix(variant, netfilter))
	if strings.HasSuffix(variant, netfilter) {
		rank += 10
	}
	return rank
}

// A metric is one headline of a test: the number that stands for it where there is room for one.
type metric struct {
	Feature, Unit, Title, Short, Doc string
}

// metrics are the headlines, in the order in which documents show them.
var metrics = []metric{
	{"tcp-rr", "p50-sec", "Round trip", "rtt", "median time of one TCP request and its response"},
	{"tcp-rr", "p99-sec", "Slow round trips", "rtt p99", "99th percentile of the same"},
	{"tcp-crr", "conn/s", "New connections", "conn/s", "TCP connect, request, response, close: how many a second"},
	{"tcp-stream-1", "bit/s", "One TCP stream", "stream", "bytes received over one connection"},
	{"tcp-stream-8", "bit/s", "Eight TCP streams", "8 streams", "bytes received over eight connections at once"},
	{"udp-stream", "bit/s", "UDP stream", "udp", "bytes of datagrams that arrived"},
	{"tcp-stream-1", "cpu-sec/B", "CPU per byte", "cpu/B", "processor time of the whole lab for each byte of one TCP stream"},
	{"tcp-rr", "cpu-sec/op", "CPU per round trip", "cpu/op", "processor time of the whole lab for each request and response"},
}
