package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"text/tabwriter"

	"golang.org/x/perf/benchmath"
)

// entry is one of those who are compared in a block, and does all that they are compared in.
type entry struct {
	name string
	run  func() (map[string]float64, error) // by what was measured, in seconds
}

// contest lets entries take turns in blocks, in random order.
type contest struct {
	entries []entry
	got     map[string]map[string][]float64 // by entry, by what was measured
}

func (c *contest) run(blocks int) error {
	c.got = map[string]map[string][]float64{}
	random := rand.New(rand.NewPCG(1, 2))
	for range blocks {
		for _, i := range random.Perm(len(c.entries)) {
			e := c.entries[i]
			measured, err := e.run()
			if err != nil {
				return fmt.Errorf("%s: %w", e.name, err)
			}
			if c.got[e.name] == nil {
				c.got[e.name] = map[string][]float64{}
			}
			for what, seconds := range measured {
				c.got[e.name][what] = append(c.got[e.name][what], seconds)
			}
		}
	}
	return nil
}

// print shows each measure of each entry, and the ratio of the first one to it within blocks, with 95 % intervals by
// order statistics (as x/perf's benchmath has them), or the widest there is where blocks are too few.
func (c *contest) print(title string, measures ...string) {
	fmt.Printf("\n%s\n", title)
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	first := c.entries[0].name
	for _, what := range measures {
		ours := c.got[first][what]
		fmt.Fprintf(w, "%s\tmedian\tinterval\tours / this\tinterval\n", what)
		for _, e := range c.entries {
			theirs, ok := c.got[e.name][what]
			if !ok {
				continue
			}
			s := summary(theirs)
			fmt.Fprintf(w, "  %s\t%s\t%s to %s", e.name, seconds(s.Center), seconds(s.Lo), seconds(s.Hi))
			if e.name != first {
				ratios := make([]float64, len(ours))
				for i := range ours {
					ratios[i] = ours[i] / theirs[i]
				}
				r := summary(ratios)
				fmt.Fprintf(w, "\t%.3f\t%.3f to %.3f", r.Center, r.Lo, r.Hi)
			}
			fmt.Fprintln(w)
		}
	}
	_ = w.Flush()
}

func summary(v []float64) benchmath.Summary {
	s := benchmath.NewSample(v, &benchmath.DefaultThresholds)
	sum := benchmath.AssumeNothing.Summary(s, 0.95)
	if len(s.Values) > 0 {
		sum.Lo, sum.Hi = max(sum.Lo, s.Values[0]), min(sum.Hi, s.Values[len(s.Values)-1])
	}
	return sum
}

func seconds(v float64) string {
	if v < 0.1 {
		return fmt.Sprintf("%.2f ms", v*1e3)
	}
	return fmt.Sprintf("%.2f s", v)
}
