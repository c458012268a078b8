package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/modebench/modebench/modes"
	"github.com/modebench/modebench/reports"
	"github.com/modebench/modebench/suites"
)

// like is a mode that something is compared with.
type like struct {
	modes.Mode
	expected  map[string]modes.Expectation
	otherwise []string // features that it does otherwise
}

// liken names somebody's own plugins, of which nothing was expected, after the mode that they are nearest to, and judges by that mode what they were observed to do. What
// they are like is told in words. ms are the run's modes; those with the name are given.
//
// How far a mode is, is how many features it should do otherwise, among those that the plugins were seen to do or not to do. What does not apply to them says nothing, nor
// does what is asked of plugins alone.
func (b *book) liken(ms []modes.Mode) []modes.Mode {
	own := modes.Label(modes.Unknown, b.o.conf.Name)
	var seen []reports.Result
	for _, r := range b.res.Results {
		_, plugged := b.expectations[modes.ByCNI][r.Feature]
		if modes.Label(r.Mode, r.Implementation) == own && !plugged && (r.Observed == reports.Works || r.Observed == reports.Blocked) {
			seen = append(seen, r)
		}
	}
	if len(seen) == 0 {
		b.likeness = []string{fmt.Sprintf("%s is like no mode that can be told: nothing was seen of it", b.o.conf.Name)}
		return ms
	}
	var all []like
	for _, m := range modes.All() {
		if m.Addrs == nil || m.Device == "" {
			continue
		}
		l := like{Mode: m.ByConf(b.o.conf)}
		expect(b.expectations, l.Mode)
		l.expected = b.expectations[l.String()]
		for _, r := range seen {
			if l.expected[r.Feature].On(r.Fidelity.Machines()).Expect != r.Observed {
				l.otherwise = append(l.otherwise, r.Feature)
			}
		}
		all = append(all, l)
	}
	slices.SortStableFunc(all, func(a, b like) int { return len(a.otherwise) - len(b.otherwise) })
	b.likeness = liked(b.o.conf.Name, len(seen), all)
	nearest := all[0]
	for i, r := range b.res.Results {
		if modes.Label(r.Mode, r.Implementation) != own {
			continue
		}
		r.Mode = nearest.Name
		for n, line := range r.Reproduce {
			r.Reproduce[n] = strings.Replace(line, " --feature ", " --expect "+nearest.Name+" --feature ", 1)
		}
		want := nearest.expected[r.Feature].On(r.Fidelity.Machines())
		if r.Outcome == reports.Unable {
			r.Expected, r.Reason, r.Source = want.Expect, want.Reason, want.Source
		} else if !suites.Measured(r.Suite) {
			r = suites.Judged(r, want)
		}
		b.res.Results[i] = r
	}
	b.counts[nearest.String()] = b.counts[own]
	at := slices.IndexFunc(ms, func(m modes.Mode) bool { return m.String() == own })
	ms = slices.Clone(ms)
	ms[at] = nearest.Mode
	return ms
}

// liked tells in words which modes are the nearest of all, and which come next. of is how many features they were compared by.
func liked(name string, of int, all []like) (lines []string) {
	tell := func(ls []like) string {
		var names []string
		for _, l := range ls {
			names = append(names, l.Name)
		}
		text := strings.Join(names, ", ")
		if n := len(ls[0].otherwise); n > 0 {
			return fmt.Sprintf("%s (%d otherwise: %s)", text, n, strings.Join(ls[0].otherwise[:min(n, 8)], ", ")+map[bool]string{true: ", …"}[n > 8])
		}
		return text + " (none otherwise)"
	}
	for rank := range 3 {
		if len(all) == 0 {
			break
		}
		n := slices.IndexFunc(all, func(l like) bool { return len(l.otherwise) > len(all[0].otherwise) })
		if n < 0 {
			n = len(all)
		}
		tied := all[:n]
		switch {
		case rank > 0:
			lines = append(lines, "then "+tell(tied))
		case n > 1:
			lines = append(lines, fmt.Sprintf("%s is as near to each of %d modes, by %d features, and judged as the first of them: %s", name, n, of, tell(tied)))
		default:
			lines = append(lines, fmt.Sprintf("%s is nearest to the mode %s, by %d features", name, tell(tied), of))
		}
		all = all[n:]
	}
	return lines
}
