package reports

import (
	"math/rand/v2"
	"testing"
)

// TestBinomial compares with sums that are done by hand, and with chance.
func TestBinomial(t *testing.T) {
	for _, c := range []struct {
		n           int
		p, risk     float64
		least, most int
	}{
		{1, 0.5, 0.9, 0, 1},         // each of the two counts has 1/2, more than half of the risk
		{2, 0.5, 0.5, 1, 1},         // 1/4, 1/2, 1/4: both tails are within it
		{4, 0.5, 0.125, 1, 3},       // 1/16 is not above half of 1/8
		{4, 0.5, 0.12, 0, 4},        // and above half of 0.12
		{3, 0.1, 0.06, 0, 1},        // 0.729, 0.243, 0.027, 0.001: two and three have less than 0.03
		{2000, 0.1, 1e-6, 138, 269}, // of 200, by the normal distribution 200 ± 66
	} {
		if least, most := Binomial(c.n, c.p, c.risk); least != c.least || most != c.most {
			t.Errorf("of %d with %g at a risk of %g: %d to %d, want %d to %d", c.n, c.p, c.risk, least, most, c.least, c.most)
		}
	}
	least, most := Binomial(200, 0.25, 0.02)
	r, missed := rand.New(rand.NewPCG(1, 2)), 0
	const rounds = 5000
	for range rounds {
		count := 0
		for range 200 {
			if r.Float64() < 0.25 {
				count++
			}
		}
		if count < least || count > most {
			missed++
		}
	}
	if missed > rounds*0.02 || missed < rounds*0.005 {
		t.Errorf("%d of %d counts were outside of %d to %d, which is to happen to at most one in fifty, and not much more rarely", missed, rounds, least, most)
	}
}
