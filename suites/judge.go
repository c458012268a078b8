package suites

import (
	"fmt"

	"github.com/modebench/modebench/modes"
	"github.com/modebench/modebench/reports"
)

// judge compares what was observed with what is expected. failed is the reason why the experiment could not be done; nil
// where it was.
func judge(s Spec, m modes.Mode, want modes.Expectation, got Observation, failed error) reports.Result {
	r := reports.Result{
		Suite: s.Suite, Mode: m.Name, Implementation: "kernel", Feature: s.Feature.Name, Spec: s.Name,
		Expected: want.Expect, Reason: want.Reason, Source: want.Source,
		Observed: got.Status, Detail: got.Detail, Evidence: got.Evidence, Capture: got.capture, Values: got.Values,
	}
	r.Reproduce = append([]string{
		fmt.Sprintf("modebench run -m %s --feature %s", m.Name, s.Feature.Name),
		fmt.Sprintf("modebench plan %s   # what the mode does to each host", m.Name),
	}, got.Reproduce...)
	switch {
	case failed != nil:
		r.Outcome, r.Observed, r.Detail = reports.Unable, "", failed.Error()
	case got.Status == want.Expect:
		r.Outcome = reports.Pass
	default:
		r.Outcome = reports.Fail
		if got.Status != reports.Works && got.Status != reports.Blocked && got.Status != reports.NotApplicable {
			r.Observed = "" // between the words of an expectation: the detail says what
		}
	}
	return r
}

// Failure is the text of a result that is not as expected: what was expected and why, what came, and where it was seen.
func Failure(r reports.Result) string {
	text := fmt.Sprintf("%s: %s: expected %s (%s; %s), %s", r.Mode, r.Feature, r.Expected, r.Reason, r.Source, r.Detail)
	for _, e := range r.Evidence {
		text += fmt.Sprintf("\n  %s: %s", e.At, e.Saw)
	}
	return text
}
