package reports

import (
	"cmp"
	"slices"
	"strings"
)

// platform is what an observation was made on: its fidelity without the fabric, which is the mode's choice.
type platform struct{ kernel, driver, accelerator, nic string }

func (f Fidelity) platform() platform { return platform{f.Kernel, f.Driver, f.Accelerator, f.NIC} }

// String names it in documents: by its kernel, and what is not the usual.
func (p platform) String() string {
	var how []string
	if p.accelerator != "" {
		how = append(how, p.accelerator)
	}
	if p.driver != "netns" && p.driver != "" {
		how = append(how, p.driver)
	}
	if p.nic != "" {
		how = append(how, p.nic)
	}
	if len(how) == 0 {
		return p.kernel
	}
	return p.kernel + " (" + strings.Join(how, ", ") + ")"
}

// String names it in documents.
func (f Fidelity) String() string {
	if f.Fabric == "" {
		return f.platform().String()
	}
	return f.platform().String() + ", fabric " + f.Fabric
}

// platforms are those of the results that keep keeps: the machine's own kernel first, the others as they come.
func platforms(res Results, keep func(Result) bool) (list []platform) {
	for _, r := range res.Results {
		if p := r.Fidelity.platform(); keep(r) && !slices.Contains(list, p) {
			list = append(list, p)
		}
	}
	slices.SortStableFunc(list, func(a, b platform) int { return cmp.Compare(a.accelerator, b.accelerator) })
	return list
}

// byFidelity groups summaries: numbers of two fidelities are never compared. The machine's own kernel comes first, and of a
// kernel the open fabric.
func byFidelity(all []Summary) (groups [][]Summary) {
	at := map[Fidelity]int{}
	for _, s := range all {
		i, ok := at[s.Fidelity]
		if !ok {
			i = len(groups)
			at[s.Fidelity] = i
			groups = append(groups, nil)
		}
		groups[i] = append(groups[i], s)
	}
	slices.SortStableFunc(groups, func(a, b []Summary) int {
		x, y := a[0].Fidelity, b[0].Fidelity
		return cmp.Or(cmp.Compare(x.Accelerator, y.Accelerator), cmp.Compare(x.Kernel, y.Kernel), cmp.Compare(x.Fabric, y.Fabric))
	})
	return groups
}

func platformNames(list []platform) (names []string) {
	for _, p := range list {
		names = append(names, p.String())
	}
	return names
}

// cell is one field of the matrix: everything that was seen of one feature of one mode.
type cell struct {
	Mode    Mode
	Feature Feature
	On      []platform // on which the mode was observed
	Results []Result   // none: it never ran
}

// part is what was seen of a cell on one platform.
type part struct {
	On    platform
	State string
}

// parts are the cell's on each platform of its mode.
func (c cell) parts() (list []part) {
	for _, on := range c.On {
		of := c
		of.Results = slices.DeleteFunc(slices.Clone(c.Results), func(r Result) bool { return r.Fidelity.platform() != on })
		list = append(list, part{on, of.state()})
	}
	if len(list) == 0 {
		list = []part{{State: c.state()}}
	}
	return list
}

// statesOn are the cell's on each of some platforms; empty where it was not observed on one.
func (c cell) statesOn(on []platform) []string {
	states := make([]string, len(on))
	for _, p := range c.parts() {
		if i := slices.Index(on, p.On); i >= 0 {
			states[i] = p.State
		}
	}
	return states
}

// text is the cell's glyph, or, where its parts are not all the same, theirs.
func (c cell) text() string {
	var b strings.Builder
	parts := c.parts()
	for _, p := range parts {
		b.WriteString(glyphs[p.State])
	}
	if len(slices.CompactFunc(parts, func(a, b part) bool { return a.State == b.State })) == 1 {
		return glyphs[parts[0].State]
	}
	return b.String()
}

// differs tells whether the answer depends on the kernel.
func (c cell) differs() bool {
	said := map[string]bool{}
	for _, p := range c.parts() {
		if p.State != stateUnable && p.State != stateMissing {
			said[p.State] = true
		}
	}
	return len(said) > 1
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
	On       []platform // all on which something was observed
	on       map[modeKey][]platform
	cells    map[tableKey]*cell
}

// several tells whether there is more than one platform, so that a document must say which.
func (t table) several() bool { return len(t.On) > 1 }

// label is on what a mode was observed; empty where that goes without saying: where all modes were on the same.
func (t table) label(m Mode) string {
	for _, on := range t.on {
		if !slices.Equal(on, t.on[m.key()]) {
			return strings.Join(platformNames(t.on[m.key()]), ", ")
		}
	}
	return ""
}

// differing are the cells whose answer depends on the kernel.
func (t table) differing() (list []cell) {
	for _, f := range t.Features {
		for _, m := range t.Modes {
			if c := t.at(m, f); c.differs() {
				list = append(list, c)
			}
		}
	}
	return list
}

// compared tells whether some mode was observed on several platforms.
func (t table) compared() bool {
	for _, on := range t.on {
		if len(on) > 1 {
			return true
		}
	}
	return false
}

type tableKey struct {
	modeKey
	feature string
}

// at returns the cell of one mode and feature; one that never ran has no results.
func (t table) at(m Mode, f Feature) cell {
	if c := t.cells[tableKey{m.key(), f.Name}]; c != nil {
		full := *c
		full.On = t.on[m.key()]
		return full
	}
	return cell{Mode: m, Feature: f, On: t.on[m.key()]}
}

// tabulate builds the matrix of the observations that keep keeps. Modes and features that the results name and the lists
// do not come last, in the order of the results; features that were only measured are left out.
func tabulate(res Results, keep func(Result) bool) table {
	t := table{cells: map[tableKey]*cell{}, on: map[modeKey][]platform{}}
	t.On = platforms(res, func(r Result) bool { return keep(r) && !r.measured() })
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
		if p := r.Fidelity.platform(); !slices.Contains(t.on[r.key()], p) {
			t.on[r.key()] = append(t.on[r.key()], p)
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
		if parts := missingParts(missing); len(parts) == 3 && keep(Result{Suite: parts[0]}) {
			ranFeature[parts[2]] = ranFeature[parts[2]] || features[parts[2]].Name != ""
			for _, m := range res.Modes {
				ranMode[m.key()] = ranMode[m.key()] || m.Name == parts[1]
			}
		}
	}
	for _, on := range t.on {
		slices.SortFunc(on, func(a, b platform) int { return slices.Index(t.On, a) - slices.Index(t.On, b) })
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
	// Modes that were observed on the same kernels stay together.
	slices.SortStableFunc(t.Modes, func(a, b Mode) int {
		return slices.CompareFunc(t.on[a.key()], t.on[b.key()], func(a, b platform) int { return slices.Index(t.On, a) - slices.Index(t.On, b) })
	})
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

// missingParts are the suite, mode and feature of a planned cell that never ran.
func missingParts(name string) []string {
	name, _, _ = strings.Cut(name, " on ")
	return strings.SplitN(name, "/", 3)
}

// apartSuites are those whose observations are not of the mode itself and have a part of the page to themselves.
var apartSuites = []string{"fabrics", "scale", "failure"}

// measuredSuites are those whose results are numbers. That a mode has no path to measure is no row of the matrix: the
// cells of the modes that have one would be missing from it.
var measuredSuites = []string{"throughput", natSuite}

func inMatrix(r Result) bool { return !slices.Contains(apartSuites, r.Suite) && observation(r) }

func observation(r Result) bool { return !slices.Contains(measuredSuites, r.Suite) }

// Counts of the cells, on each kernel, of a mode, or of all.
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

func (t *tally) addAll(c cell) {
	for _, p := range c.parts() {
		t.add(p.State)
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
		sum.addAll(t.at(m, f))
	}
	return sum
}

func (t table) tallyAll() tally {
	var sum tally
	for _, m := range t.Modes {
		for _, f := range t.Features {
			sum.addAll(t.at(m, f))
		}
	}
	return sum
}

// kernel is the implementation of modebench itself.
const kernel = "kernel"

// labelled names a mode, and who carries it out where that is not modebench itself.
func labelled(mode, implementation string) string {
	if implementation == kernel {
		return mode
	}
	return mode + " (" + implementation + ")"
}

// titles names modes in documents: by their name, and by their implementation too where it is another's or a name stands for several.
func titles(modes []Mode) map[modeKey]string {
	uses := map[string]int{}
	for _, m := range modes {
		uses[m.Name]++
	}
	names := map[modeKey]string{}
	for _, m := range modes {
		names[m.key()] = labelled(m.Name, m.Implementation)
		if uses[m.Name] > 1 {
			names[m.key()] = m.Name + " (" + m.Implementation + ")"
		}
	}
	return names
}
