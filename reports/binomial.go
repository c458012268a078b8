package reports

import "math"

// Binomial is between which counts that of n events lies which happen with a probability of p each, strictly between 0 and 1, independently of each
// other: less than least, and more than most, are together no more likely than risk. It is exact but for rounding: each tail is summed.
func Binomial(n int, p, risk float64) (least, most int) {
	all, _ := math.Lgamma(float64(n + 1))
	exactly := func(k int) float64 {
		yes, _ := math.Lgamma(float64(k + 1))
		no, _ := math.Lgamma(float64(n - k + 1))
		return math.Exp(all - yes - no + float64(k)*math.Log(p) + float64(n-k)*math.Log1p(-p))
	}
	for below := exactly(0); below <= risk/2; below += exactly(least) {
		least++
	}
	most = n
	for above := exactly(n); above <= risk/2; above += exactly(most) {
		most--
	}
	return least, most
}
