package reports

import (
	"math"
	"slices"
)

// interval returns the centre of ratios, and the interval that holds it with at least the confidence; from all of
// their geometric means in pairs, each with itself too. The centre is the median of these (Hodges and Lehmann, 1963). The
// interval is what Wilcoxon's signed-rank test does not reject. It takes for granted that the logarithms of the ratios lie
// symmetrically about their centre, and nothing else: that is what dividing two things gives that vary alike. Of fewer than
// six ratios it is all that they span, which is less than the confidence.
//
// A ratio of 0, as of a mode through which nothing came, is less than all others. There must be one at least.
func interval(ratios []float64) (centre, low, high float64) {
	var means []float64
	for i, a := range ratios {
		for _, b := range ratios[:i+1] {
			means = append(means, math.Sqrt(a)*math.Sqrt(b))
		}
	}
	slices.Sort(means)
	n := len(means)
	k := rejected(len(ratios))
	return (means[(n-1)/2] + means[n/2]) / 2, means[k], means[n-1-k]
}

// manyRatios is from how many on the distribution of the signed ranks is taken for normal.
const manyRatios = 60

// rejected is how many at either end of the means in pairs of n ratios are outside the interval: the largest sum of signed
// ranks that is reached or fallen short of with a probability of at most half of what confidence leaves, and 0 without one.
func rejected(n int) (k int) {
	if n >= manyRatios {
		m := float64(n) * float64(n+1)
		const z = 1.959963984540054 // of a normal distribution's 0.975
		return int(m/4 - z*math.Sqrt(m*float64(2*n+1)/24) - 0.5)
	}
	// chance[s] is that of the sum s of the ranks of those above the centre, each of which is so or not with equal chance.
	chance := make([]float64, n*(n+1)/2+1)
	chance[0] = 1
	for rank := 1; rank <= n; rank++ {
		for s := len(chance) - 1; s >= 0; s-- {
			chance[s] /= 2
			if s >= rank {
				chance[s] += chance[s-rank] / 2
			}
		}
	}
	for below := chance[0] + chance[min(1, n)]; below <= (1-confidence)/2; below += chance[k+1] {
		k++
	}
	return k
}
