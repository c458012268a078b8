package reports

import (
	"fmt"
	"slices"
	"strings"
)

// The kinds of regression that [Comparison.Regressions] counts.
const (
	Conformance = "conformance" // a cell that was as expected and is not, or is gone
	Performance = "performance" // a measurement that became worse by more than noise
	Any         = "any"
)

// Comparison is what changed from one run to another.
type Comparison struct {
	Old, New Run
	Changed  []CellChange        // cells whose outcome or observation changed, in the order of the new results
	Gone     []CellChange        // cells that only the old run has
	Added    []CellChange        // cells that only the new run has
	Measured []MeasurementChange // headline measurements that changed by more than noise
	// Compared counts the headline measurements that both runs hold with an interval; Unclaimed those that both hold and
	// of which one has no interval, so that nothing is said about them.
	Compared, Unclaimed int
}

// CellChange is one cell in two runs; the side where the cell is not has empty words.
type CellChange struct {
	Mode, Implementation, Feature string
	On                            string // kernel, and what runs it; empty: each run has one
	Old, New                      CellState
}

// CellState is the worst of a cell's results.
type CellState struct {
	Outcome, Observed, Detail string
}

// String is what stands in a table.
func (s CellState) String() string {
	switch {
	case s.Outcome == "":
		return "not run"
	case s.Observed == "":
		return s.Outcome
	default:
		return s.Outcome + " (" + s.Observed + ")"
	}
}

// place names the cell.
func (c CellChange) place() string {
	s := labelled(c.Mode, c.Implementation) + "/" + c.Feature
	if c.On != "" {
		s += " on " + c.On
	}
	return s
}

// Regression tells whether the change is for the worse: the cell passed and does not any more, or fails and did not.
func (c CellChange) Regression() bool {
	return c.New.Outcome == Fail && c.Old.Outcome != Fail || c.Old.Outcome == Pass && c.New.Outcome != Pass
}

// MeasurementChange is a headline measurement whose ratio to the baseline moved: the two intervals do not overlap, and the
// distance between the two ratios exceeds the noise floors of both runs.
type MeasurementChange struct {
	Old, New Summary
}

// Regression tells whether the change is for the worse by its unit.
func (c MeasurementChange) Regression() bool {
	return (c.New.Ratio > c.Old.Ratio) == (units[c.New.Unit].better < 0)
}

// Compare returns what changed from one run to another. Measurements are compared as ratios to the baseline of their own
// run, so that two machines can be compared; a measurement of another fidelity is another measurement. Cells are compared on the
// same kernel, and otherwise with the one that only the old run has, by the same driver, accelerator and NICs and on the same fabric.
func Compare(old, new Results) Comparison {
	c := Comparison{Old: old.Run, New: new.Run}
	before, beforeOrder := states(old)
	after, afterOrder := states(new)
	several := len(platforms(old, inMatrix)) > 1 || len(platforms(new, inMatrix)) > 1
	describe := func(k stateKey, was, is CellState) CellChange {
		change := CellChange{Mode: k.name, Implementation: k.implementation, Feature: k.feature, Old: was, New: is}
		if several {
			change.On = k.on.String()
		}
		return change
	}
	matched := map[stateKey]bool{}
	for _, k := range afterOrder {
		from := predecessor(k, before, after)
		matched[from] = true
		change := describe(k, before[from], after[k])
		switch was, ok := before[from]; {
		case !ok:
			c.Added = append(c.Added, change)
		case was.Outcome != after[k].Outcome || was.Observed != after[k].Observed:
			c.Changed = append(c.Changed, change)
		}
	}
	for _, k := range beforeOrder {
		if !matched[k] {
			c.Gone = append(c.Gone, describe(k, before[k], CellState{}))
		}
	}
	type key struct {
		field
		mode, implementation, variant string
	}
	keyOf := func(s Summary) key { return key{s.field(), s.Mode, s.Implementation, s.Variant} }
	was := map[key]Summary{}
	for _, s := range Summarise(old) {
		was[keyOf(s)] = s
	}
	for _, s := range Summarise(new) {
		o, ok := was[keyOf(s)]
		if !ok || !headline(s) || s.Mode == Baseline || o.Blocks == 0 || s.Blocks == 0 {
			continue
		}
		if !o.Interval || !s.Interval {
			c.Unclaimed++
			continue
		}
		c.Compared++
		apart := o.High < s.Low || s.High < o.Low
		if moved := s.Ratio/o.Ratio - 1; apart && max(moved, -moved) > max(o.Noise, s.Noise) {
			c.Measured = append(c.Measured, MeasurementChange{o, s})
		}
	}
	return c
}

func headline(s Summary) bool {
	return slices.ContainsFunc(metrics, func(m metric) bool { return m.of(s) })
}

// stateKey is an observed cell on a kernel and fabric.
type stateKey struct {
	tableKey
	on     platform
	fabric string
}

// predecessor is the cell of an old run that a new run's is compared with: the same on the same kernel, or, where each run
// has it on one kernel more that the other has not, on that: so are two kernels compared.
func predecessor(k stateKey, before, after map[stateKey]CellState) stateKey {
	if _, ok := before[k]; ok {
		return k
	}
	only := func(in, but map[stateKey]CellState) (found stateKey, n int) {
		for o := range in {
			if _, both := but[o]; !both && o.tableKey == k.tableKey && o.fabric == k.fabric && o.on.accelerator == k.on.accelerator && o.on.driver == k.on.driver && o.on.nic == k.on.nic {
				found, n = o, n+1
			}
		}
		return found, n
	}
	was, n := only(before, after)
	if _, more := only(after, before); n != 1 || more != 1 {
		return k
	}
	return was
}

// states returns the worst result of each observed cell, and the cells in the order of the results.
func states(res Results) (map[stateKey]CellState, []stateKey) {
	severity := map[string]int{Unable: 1, Pass: 2, Fail: 3}
	worst := map[stateKey]CellState{}
	var order []stateKey
	for _, r := range res.Results {
		if r.measured() {
			continue
		}
		k := stateKey{tableKey{r.key(), r.Feature}, r.Fidelity.platform(), r.Fidelity.Fabric}
		s, ok := worst[k]
		if !ok {
			order = append(order, k)
		}
		if severity[r.Outcome] > severity[s.Outcome] {
			worst[k] = CellState{r.Outcome, r.Observed, r.Detail}
		}
	}
	return worst, order
}

// Regressions returns a line for each change for the worse of a kind: Conformance, Performance or Any.
func (c Comparison) Regressions(kind string) []string {
	var list []string
	if kind == Conformance || kind == Any {
		for _, change := range slices.Concat(c.Changed, c.Gone, c.Added) {
			if change.Regression() {
				list = append(list, fmt.Sprintf("%s: %s → %s", change.place(), change.Old, change.New))
			}
		}
	}
	if kind == Performance || kind == Any {
		for _, change := range c.Measured {
			if change.Regression() {
				list = append(list, fmt.Sprintf("%s: %s → %s of host", change.New.label(), change.Old.interval(), change.New.interval()))
			}
		}
	}
	return list
}

// label names a measurement in a line.
func (s Summary) label() string {
	parts := []string{labelled(s.Mode, s.Implementation)}
	for _, p := range []string{s.Variant, s.Feature, s.Unit, s.Path, s.Profile, s.Fidelity.Accelerator, s.Fidelity.Fabric} {
		if p != "" {
			parts = append(parts, p)
		}
	}
	return strings.Join(parts, " ")
}

// Same tells whether nothing changed.
func (c Comparison) Same() bool { return len(c.Changed)+len(c.Gone)+len(c.Added)+len(c.Measured) == 0 }

// Text renders the comparison for a terminal.
func (c Comparison) Text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "old: modebench %s, kernel %s, %s\nnew: modebench %s, kernel %s, %s\n",
		c.Old.Version, c.Old.Machine.Kernel, c.Old.Started.Format("2006-01-02 15:04"),
		c.New.Version, c.New.Machine.Kernel, c.New.Started.Format("2006-01-02 15:04"))
	section := func(title string, changes []CellChange) {
		if len(changes) > 0 {
			fmt.Fprintf(&b, "\n%s\n", title)
		}
		for _, change := range changes {
			mark := " "
			if change.Regression() {
				mark = "!"
			}
			fmt.Fprintf(&b, "%s %s: %s → %s\n", mark, change.place(), change.Old, change.New)
			if change.Regression() && change.New.Detail != "" {
				fmt.Fprintf(&b, "    %s\n", oneLine(change.New.Detail))
			}
		}
	}
	section("changed", c.Changed)
	section("gone", c.Gone)
	section("new", c.Added)
	if len(c.Measured) > 0 {
		b.WriteString("\nmeasured, as ratios to host\n")
	}
	for _, change := range c.Measured {
		mark := " "
		if change.Regression() {
			mark = "!"
		}
		fmt.Fprintf(&b, "%s %s: %s → %s\n", mark, change.New.label(), change.Old.interval(), change.New.interval())
	}
	b.WriteString("\n" + c.closing() + "\n")
	return b.String()
}

// closing says what was compared, and how much of it could be.
func (c Comparison) closing() string {
	s := "nothing changed"
	if !c.Same() {
		s = fmt.Sprintf("%d cells changed, %d gone, %d new; %s changed by more than noise",
			len(c.Changed), len(c.Gone), len(c.Added), plural(len(c.Measured), "measurement"))
	}
	s += fmt.Sprintf(" (of %s compared", plural(c.Compared, "measurement"))
	if c.Unclaimed > 0 {
		s += fmt.Sprintf("; %d more have too few blocks to compare", c.Unclaimed)
	}
	return s + ")"
}

// Markdown renders the comparison for a pull request.
func (c Comparison) Markdown() string {
	var b strings.Builder
	bad := len(c.Regressions(Any))
	switch {
	case c.Same():
		b.WriteString("### modebench: nothing changed\n\n")
	case bad == 0:
		b.WriteString("### modebench: changes, none for the worse\n\n")
	default:
		fmt.Fprintf(&b, "### modebench: %s for the worse\n\n", plural(bad, "change"))
	}
	cells := slices.Concat(c.Changed, c.Gone, c.Added)
	if len(cells) > 0 {
		b.WriteString("| | mode | feature | old | new |\n|---|---|---|---|---|\n")
	}
	for _, change := range cells {
		mark := ""
		if change.Regression() {
			mark = glyphs[stateFail]
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", mark, md(labelled(change.Mode, change.Implementation)), md(strings.TrimPrefix(change.place(), labelled(change.Mode, change.Implementation)+"/")), change.Old, change.New)
	}
	if len(c.Measured) > 0 {
		b.WriteString("\n| | measurement | old × host | new × host |\n|---|---|---|---|\n")
	}
	for _, change := range c.Measured {
		mark := ""
		if change.Regression() {
			mark = glyphs[stateFail]
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", mark, md(change.New.label()), change.Old.interval(), change.New.interval())
	}
	fmt.Fprintf(&b, "\n%s.\n", c.closing())
	return b.String()
}
