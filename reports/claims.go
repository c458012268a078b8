package reports

import "strings"

// What a run says about a claim, where it does not confirm the documented verdict.
const (
	Contradicted = "contradicted here"
	NotTested    = "not tested here"
)

// A ClaimVerdict is a claim and what a run says about it.
type ClaimVerdict struct {
	Claim
	// Here is the documented verdict in words ("true", "true with a nuance", "false", "historic", "measured") when every
	// cell that is its evidence and could be tried is as expected; Contradicted when one is not; NotTested when none could
	// be tried.
	Here string
	// Why says what Here leaves out, such as why it was not tested; empty: nothing.
	Why      string
	Evidence []ClaimCell
}

// A ClaimCell is a cell that is evidence for a claim.
type ClaimCell struct {
	Mode, Feature string
	Outcome       string // Pass, Fail or Unable, the worst of its results; empty: it did not run
	Observed      string
}

var verdictWords = map[string]string{
	"true": "true", "nuance": "true with a nuance", "false": "false", "historic": "historic", "measure": "measured",
}

// Claims returns each claim, in the order of the results, with what the run says about it.
func Claims(res Results) []ClaimVerdict {
	type key struct{ mode, feature string }
	seen := map[key]ClaimCell{}
	severity := map[string]int{"": 0, Unable: 1, Pass: 2, Fail: 3}
	for _, r := range res.Results {
		if r.Implementation != kernel {
			continue // another's shortcomings are not the mode's
		}
		k := key{r.Mode, r.Feature}
		if c := seen[k]; severity[r.Outcome] > severity[c.Outcome] {
			seen[k] = ClaimCell{Mode: r.Mode, Feature: r.Feature, Outcome: r.Outcome, Observed: r.Observed}
		}
	}
	list := make([]ClaimVerdict, 0, len(res.Claims))
	for _, c := range res.Claims {
		v := ClaimVerdict{Claim: c}
		count := map[string]int{}
		var against []string
		for _, name := range c.Cells {
			mode, feature, _ := strings.Cut(name, "/")
			cell, ok := seen[key{mode, feature}]
			if !ok {
				cell = ClaimCell{Mode: mode, Feature: feature}
			}
			if cell.Outcome == Fail {
				against = append(against, name)
			}
			count[cell.Outcome]++
			v.Evidence = append(v.Evidence, cell)
		}
		switch {
		case count[Fail] > 0:
			v.Here, v.Why = Contradicted, "by "+strings.Join(against, ", ")
		case count[Pass] > 0:
			v.Here = verdictWords[c.Verdict]
			if left := count[Unable] + count[""]; left > 0 {
				v.Why = plural(left, "cell") + " of its evidence could not be tried"
			}
		case len(c.Cells) == 0:
			v.Here, v.Why = NotTested, c.Untried
		case count[Unable] == 0:
			v.Here, v.Why = NotTested, "its cells were not part of this run"
		default:
			v.Here, v.Why = NotTested, "this machine was unable to try its cells"
		}
		list = append(list, v)
	}
	return list
}
