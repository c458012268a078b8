package reports

import (
	"cmp"
	"slices"
	"strings"
)

// cell is one field of the matrix: everything that was seen of one feature of one mode.
type cell struct {
	Mode    Mode
	Feature Feature
	Results []Result // none: it never ran
}

// The states of a cell. The first three are as expected.
const (
	stateWorks   = "works"
	stateBlocked = "blocked"
	stateNone    = "none" // does not apply
	stateFail    = "fail"
	stateUnable  = "unable"
	stateMissing = "missing" // never ran
)

// glyphs stand for states wherever a document has room for one character.
var glyphs = map[string]string{
	stateWorks: "✓", stateBlocked: "⊘", stateNone: "–", stateFail: "✗", stateUnable: "?", stateMissing: "·",
}

// meanings are the glyphs' legend, in its order.
var meanings = []struct{ State, Text string }{
	{stateWorks, "works, as expected"},
	{stateBlocked, "blocked, as it must be"},
	{stateFail, "not as expected"},
	{stateUnable, "unable to tell here"},
	{stateNone, "does not apply"},
	{stateMissing, "never ran"},
}

func (r Result) state() string {
	switch {
	case r.Outcome == Fail:
		return stateFail
	case r.Outcome == Unable:
		return stateUnable
	case r.Observed == Blocked:
		return stateBlocked
	case r.Observed == NotApplicable:
		return stateNone
	default:
		return stateWorks
	}
}

// state is the worst of what was seen, and what was seen before what could not be.
func (c cell) state() string {
	order := []string{stateFail, stateWorks, stateBlocked, stateNone, stateUnable}
	best := len(order)
	for _, r := range c.Results {
		best = min(best, slices.Index(order, r.state()))
	}
	if best == len(order) {
		return stateMissing
	}
	return order[best]
}

// expectedState tells whether a cell with this state is as its expectation says.
func asExpected(state string) bool {
	return state == stateWorks || state == stateBlocked || state == stateNone
}

// measured tells a measurement, which expects nothing, from an observation.
func (r Result) measured() bool { return r.Expected == "" }

type modeKey struct{ name, implementation string }

func (m Mode) key() modeKey   { return modeKey{m.Name, m.Implementation} }
func (r Result) key() modeKey { return modeKey{r.Mode, r.Implementation} }

// table is the matrix: modes by features, of the observations of some suites.
type table struct {
	Modes    []Mode
	Features []Feature
	cells    map[tableKey]*cell
}

type tableKey struct {
	modeKey
	feature string
}

// at returns the cell of one mode and feature; one that never ran has no results.
func (t table) at(m Mode, f Feature) cell {
	if c := t.cells[tableKey{m.key(), f.Name}]; c != nil {
		return *c
	}
	return cell{Mode: m, Feature: f}
}

// tabulate builds the matrix of the observations that keep keeps. Modes and features that the results name and the lists
// do not come last, in the order of the results; features that were only measured are left out.
func tabulate(res Results, keep func(Result) bool) table {
	t := table{cells: map[tableKey]*cell{}}
	modes, features := map[modeKey]Mode{}, map[string]Feature{}
	for _, m := range res.Modes {
		modes[m.key()] = m
	}
	for _, f := range res.Features {
		features[f.Name] = f
	}
	ranMode, ranFeature := map[modeKey]bool{}, map[string]bool{}
	var lateModes []Mode
	var lateFeatures []Feature
	for _, r := range res.Results {
		if r.measured() || !keep(r) {
			continue
		}
		ranMode[r.key()], ranFeature[r.Feature] = true, true
		m, ok := modes[r.key()]
		if !ok {
			m = Mode{Name: r.Mode, Implementation: r.Implementation}
			modes[r.key()] = m
			lateModes = append(lateModes, m)
		}
		f, ok := features[r.Feature]
		if !ok {
			f = Feature{Name: r.Feature, Group: "other"}
			features[r.Feature] = f
			lateFeatures = append(lateFeatures, f)
		}
		k := tableKey{r.key(), r.Feature}
		c := t.cells[k]
		if c == nil {
			c = &cell{Mode: m, Feature: f}
			t.cells[k] = c
		}
		c.Results = append(c.Results, r)
	}
	for _, missing := range res.Run.Missing {
		if parts := strings.SplitN(missing, "/", 3); len(parts) == 3 && keep(Result{Suite: parts[0]}) {
			ranFeature[parts[2]] = ranFeature[parts[2]] || features[parts[2]].Name != ""
			for _, m := range res.Modes {
				ranMode[m.key()] = ranMode[m.key()] || m.Name == parts[1]
			}
		}
	}
	for _, m := range append(slices.Clone(res.Modes), lateModes...) {
		if ranMode[m.key()] {
			t.Modes = append(t.Modes, m)
		}
	}
	for _, f := range append(slices.Clone(res.Features), lateFeatures...) {
		if ranFeature[f.Name] {
			t.Features = append(t.Features, f)
		}
	}
	// Groups stay together, in the order of their first feature.
	rank := map[string]int{}
	for _, f := range t.Features {
		if _, ok := rank[f.Group]; !ok {
			rank[f.Group] = len(rank)
		}
	}
	slices.SortStableFunc(t.Features, func(a, b Feature) int { return cmp.Compare(rank[a.Group], rank[b.Group]) })
	return t
}

// apartSuites are those whose observations are not of the mode itself and have a part of the page to themselves.
var apartSuites = []string{"fabrics", "scale", "failure"}

// measuredSuites are those whose results are numbers. That a mode has no path to measure is no row of the matrix: the
// cells of the modes that have one would be missing from it.
var measuredSuites = []string{"throughput", natSuite}

func inMatrix(r Result) bool {
	return !slices.Contains(apartSuites, r.Suite) && !slices.Contains(measuredSuites, r.Suite)
}

// Counts of the cells of a mode, or of all.
type tally struct{ Works, Blocked, None, Fail, Unable, Missing int }

func (t *tally) add(state string) {
	switch state {
	case stateWorks:
		t.Works++
	case stateBlocked:
		t.Blocked++
	case stateNone:
		t.None++
	case stateFail:
		t.Fail++
	case stateUnable:
		t.Unable++
	case stateMissing:
		t.Missing++
	}
}

// AsExpected counts the cells that are as their expectation says.
func (t tally) AsExpected() int { return t.Works + t.Blocked + t.None }

// Told counts the cells that this machine could say something about.
func (t tally) Told() int { return t.AsExpected() + t.Fail }

// All counts the cells.
func (t tally) All() int { return t.Told() + t.Unable + t.Missing }

func (t table) tally(m Mode) tally {
	var sum tally
	for _, f := range t.Features {
		sum.add(t.at(m, f).state())
	}
	return sum
}

func (t table) tallyAll() tally {
	var sum tally
	for _, m := range t.Modes {
		for _, f := range t.Features {
			sum.add(t.at(m, f).state())
		}
	}
	return sum
}

// titles names modes in documents: by their name, and by their implementation too where a name stands for several.
func titles(modes []Mode) map[modeKey]string {
	uses := map[string]int{}
	for _, m := range modes {
		uses[m.Name]++
	}
	names := map[modeKey]string{}
	for _, m := range modes {
		names[m.key()] = m.Name
		if uses[m.Name] > 1 {
			names[m.key()] = m.Name + " (" + m.Implementation + ")"
		}
	}
	return names
}
