package reports

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Merge puts the results of several runs together, as of shards of one run or of runs on several kernels. Names are those
// of the files, for errors. Runs that cannot be one are refused: of another version of modebench or another topology, and
// two that hold the same cell of the same fidelity, among them every two that measured there: their numbers share no block.
// What the shards at hand left to others that are not is missing. Results keep their order, run by run (see [Sort]). There must
// be one run at least; one alone stays as it is.
func Merge(runs []Results, names []string) (Results, error) {
	out := runs[0]
	if len(runs) == 1 {
		return out, nil
	}
	out.Run.Missing, out.Run.Elsewhere, out.Run.Phases, out.Run.Notes = nil, nil, nil, nil
	out.Modes, out.Features, out.Claims, out.Results = nil, nil, nil, nil
	out.Run.Command = append([]string{"report"}, names...)
	type place struct {
		suite, mode, implementation, feature, spec, variant, path, profile string
		on                                                                 Fidelity
	}
	first := map[place]int{}
	ran := map[string]bool{}
	var owed []string
	for i, r := range runs {
		switch {
		case r.Run.Version != runs[0].Run.Version:
			return Results{}, fmt.Errorf("%s is of modebench %s and %s of modebench %s: want runs of one version", names[0], runs[0].Run.Version, names[i], r.Run.Version)
		case r.Run.Source != runs[0].Run.Source:
			return Results{}, fmt.Errorf("%s and %s are of different topologies: want runs of one", names[0], names[i])
		}
		for _, c := range r.Results {
			at := place{c.Suite, c.Mode, c.Implementation, c.Feature, c.Spec, c.Variant, c.Path, c.Profile, c.Fidelity}
			if other, ok := first[at]; ok && other != i {
				return Results{}, fmt.Errorf("%s/%s/%s is in %s and in %s: want each cell once, as of shards of one run", c.Suite, c.Mode, c.Feature, names[other], names[i])
			}
			first[at] = i
			ran[c.cell()] = true
		}
		out.Results = append(out.Results, r.Results...)
		out.Modes = adopt(out.Modes, r.Modes, func(a, b Mode) bool { return a.key() == b.key() })
		out.Features = adopt(out.Features, r.Features, func(a, b Feature) bool { return a.Name == b.Name })
		out.Claims = adopt(out.Claims, r.Claims, func(a, b Claim) bool { return a.ID == b.ID })
		out.Run.Notes = adopt(out.Run.Notes, r.Run.Notes, func(a, b string) bool { return a == b })
		owed = slices.Concat(owed, r.Run.Missing, r.Run.Elsewhere)
		for _, p := range r.Run.Phases {
			p.Name += " (" + names[i] + ")"
			out.Run.Phases = append(out.Run.Phases, p)
		}
		out.Run.Notes = append(out.Run.Notes, fmt.Sprintf("%s is of: modebench %s", names[i], strings.Join(r.Run.Command, " ")))
		if i == 0 {
			continue
		}
		out.Run.Seconds += r.Run.Seconds
		out.Run.Quick = out.Run.Quick || r.Run.Quick
		if r.Run.Started.Before(out.Run.Started) {
			out.Run.Started = r.Run.Started
		}
		if m, of := r.Run.Machine, runs[0].Run.Machine; m.Model != of.Model || m.Kernel != of.Kernel || m.CPUs != of.CPUs {
			out.Run.Notes = append(out.Run.Notes, fmt.Sprintf("%s is of another machine than %s: %s, kernel %s, %s.", names[i], names[0], m.Model, m.Kernel, plural(m.CPUs, "CPU")))
		}
	}
	for _, c := range owed {
		plain, _, _ := strings.Cut(c, " on ") // results tell the release of a kernel, and not what it was called
		if !ran[c] && !ran[plain] {
			out.Run.Missing = append(out.Run.Missing, c)
		}
	}
	slices.Sort(out.Run.Missing)
	out.Run.Missing = slices.Compact(out.Run.Missing)
	out.Run.Complete = len(out.Run.Missing) == 0
	return out, nil
}

// cell is the result as manifests name it.
func (r Result) cell() string {
	return r.Suite + "/" + labelled(r.Mode, r.Implementation) + "/" + r.Feature
}

// adopt adds those that are not there yet.
func adopt[T any](to, from []T, same func(a, b T) bool) []T {
	for _, f := range from {
		if !slices.ContainsFunc(to, func(t T) bool { return same(t, f) }) {
			to = append(to, f)
		}
	}
	return to
}

// Sort puts results in the order of documents: of suites as given, of modes as they are listed, and by name.
func Sort(res *Results, suites []string) {
	modes := map[modeKey]int{}
	for i, m := range res.Modes {
		modes[m.key()] = i
	}
	slices.SortStableFunc(res.Results, func(a, b Result) int {
		return cmp.Or(
			cmp.Compare(slices.Index(suites, a.Suite), slices.Index(suites, b.Suite)), cmp.Compare(modes[a.key()], modes[b.key()]),
			strings.Compare(a.Feature, b.Feature), strings.Compare(a.Path, b.Path), strings.Compare(a.Profile, b.Profile), strings.Compare(a.Variant, b.Variant),
			// None first: the machine's own kernel, the open fabric.
			strings.Compare(a.Fidelity.Accelerator, b.Fidelity.Accelerator), strings.Compare(a.Fidelity.Kernel, b.Fidelity.Kernel),
			strings.Compare(a.Fidelity.Fabric, b.Fidelity.Fabric),
		)
	})
}
