package suites

import (
	"fmt"
	"slices"
	"strings"

	"github.com/modebench/modebench/modes"
	"github.com/modebench/modebench/reports"
)

// judge compares what was observed with what is expected. failed is the reason why the experiment could not be done; nil
// where it was.
func (o *observer) judge(s Spec, want modes.Expectation, got Observation, failed error) reports.Result {
	m := o.mode
	r := reports.Result{
		Suite: s.Suite, Mode: m.Name, Implementation: m.Carrier(), Feature: s.Feature.Name, Spec: s.Name,
		Expected: want.Expect, Reason: want.Reason, Source: want.Source,
		Observed: got.Status, Detail: got.Detail, Evidence: got.Evidence, Capture: got.capture, Values: got.Values,
	}
	r.Reproduce = append([]string{
		o.run.command("%s --feature %s", o.run.flags(m), s.Feature.Name),
	}, got.Reproduce...)
	if plan, ok := strings.CutPrefix(o.run.flags(m), "-m "); ok {
		r.Reproduce = slices.Insert(r.Reproduce, 1, strings.Join(slices.Concat([]string{"modebench plan", plan}, o.run.File), " ")+"   # what the mode does to each host")
	}
	if failed != nil {
		r.Outcome, r.Observed, r.Detail = reports.Unable, "", failed.Error()
		return r
	}
	if got.Status != reports.Works && got.Status != reports.Blocked && got.Status != reports.NotApplicable {
		r.Observed = "" // between the words of an expectation: the detail says what
	}
	return Judged(r, want)
}

// Judged is a result that was obtained, as it is by an expectation. By the zero one everything is as it may be.
func Judged(r reports.Result, want modes.Expectation) reports.Result {
	r.Expected, r.Reason, r.Source = want.Expect, want.Reason, want.Source
	r.Outcome = reports.Fail
	if want.Expect == "" || r.Observed == want.Expect {
		r.Outcome = reports.Pass
	}
	return r
}

// flags lead a run to a mode and who carries it out.
func (r *Run) flags(m modes.Mode) string {
	switch m.Carrier() {
	case modes.ByKernel:
		return "-m " + m.Name
	case modes.ByCNI, modes.ByDocker:
		return "-m " + m.Name + " -i " + m.Implementation
	}
	if m.Name == modes.Unknown {
		return strings.Join(r.Conf, " ")
	}
	return strings.Join(append(slices.Clone(r.Conf), "--expect", m.Name), " ")
}

// Failure is the text of a result that is not as expected: what was expected and why, what came, and where it was seen.
func Failure(r reports.Result) string {
	text := fmt.Sprintf("%s: %s: expected %s (%s; %s), %s", modes.Label(r.Mode, r.Implementation), r.Feature, r.Expected, r.Reason, r.Source, r.Detail)
	for _, e := range r.Evidence {
		text += fmt.Sprintf("\n  %s: %s", e.At, e.Saw)
	}
	return text
}
