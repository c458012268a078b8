package reports

import (
	"math"
	"math/rand/v2"
	"testing"
)

// The critical values that tables of the two-sided signed-rank test list at 5 %.
func TestRejectedByTables(t *testing.T) {
	for n, want := range map[int]int{1: 0, 5: 0, 6: 0, 7: 2, 8: 3, 9: 5, 10: 8, 15: 25, 20: 52, 25: 89, 30: 137, 50: 434} {
		if got := rejected(n); got != want {
			t.Errorf("of %d ratios %d means are left out, want %d", n, got, want)
		}
	}
	for n := 2; n < 2*manyRatios; n++ {
		if rejected(n) < rejected(n-1) {
			t.Errorf("fewer are left out of %d ratios than of %d", n, n-1)
		}
	}
}

func TestIntervalKnownAnswer(t *testing.T) {
	// The means in pairs of powers of two have exponents 1, 1.5, 2, 2, 2.5, …, of which seven ratios leave out two at either end.
	centre, low, high := interval([]float64{2, 4, 8, 16, 32, 64, 128})
	for name, pair := range map[string][2]float64{"centre": {centre, math.Exp2(4)}, "low": {low, math.Exp2(2)}, "high": {high, math.Exp2(6)}} {
		if math.Abs(pair[0]/pair[1]-1) > 1e-12 {
			t.Errorf("%s is %v, want %v", name, pair[0], pair[1])
		}
	}
	if centre, low, high := interval([]float64{3}); math.Abs(centre-3)+math.Abs(low-3)+math.Abs(high-3) > 1e-12 {
		t.Errorf("of one ratio of 3: %v [%v, %v]", centre, low, high)
	}
	if _, low, _ := interval([]float64{0, 0, 1, 1, 1, 1}); low != 0 {
		t.Errorf("with two that are 0, the interval begins at %v", low)
	}
	if centre, _, _ := interval([]float64{1, 1, 1, 1, 1, 1, 1, 1, 1, 50}); math.Abs(centre-1) > 1e-12 {
		t.Errorf("one outlier of ten moves the centre to %v", centre)
	}
}

// Whatever the noise, the interval must hold the truth as often as it says. A little is lost where trials are only ever
// delayed: one of them by the mean of two is then not quite symmetrical.
func TestIntervalCovers(t *testing.T) {
	noises := map[string]func(*rand.Rand) float64{
		"normal":       func(r *rand.Rand) float64 { return math.Exp(0.03 * r.NormFloat64()) },
		"Laplace":      func(r *rand.Rand) float64 { return math.Exp(0.03 * r.ExpFloat64() * float64(2*r.IntN(2)-1)) },
		"Cauchy":       func(r *rand.Rand) float64 { return math.Exp(0.01 * math.Tan(math.Pi*(r.Float64()-0.5))) },
		"contaminated": func(r *rand.Rand) float64 { return math.Exp(0.02 * (1 + 9*float64(r.IntN(10)/9)) * r.NormFloat64()) },
		"uniform":      func(r *rand.Rand) float64 { return 0.95 + 0.1*r.Float64() },
		"log-normal trials": func(r *rand.Rand) float64 {
			trial := func() float64 { return math.Exp(0.05 * r.NormFloat64()) }
			return trial() / ((trial() + trial()) / 2)
		},
		"trials delayed at times": func(r *rand.Rand) float64 {
			trial := func() float64 { return 1 + 0.02*r.ExpFloat64() }
			return trial() / ((trial() + trial()) / 2)
		},
	}
	least := func(name string) float64 {
		if name == "trials delayed at times" {
			return 0.92
		}
		return 0.94
	}
	const runs = 4000
	for name, noise := range noises {
		for _, n := range []int{6, 10, 20} {
			random, held := rand.New(rand.NewPCG(uint64(n), 3)), 0
			for range runs {
				ratios := make([]float64, n)
				for i := range ratios {
					ratios[i] = 1.3 * noise(random)
				}
				if _, low, high := interval(ratios); low <= 1.3 && 1.3 <= high {
					held++
				}
			}
			if share := float64(held) / runs; share < least(name) {
				t.Errorf("%s, %d blocks: the interval holds the truth %.1f %% of times", name, n, 100*share)
			}
		}
	}
}
