package reports

import (
	"bytes"
	"slices"
	"strings"
	"testing"
)

// measuredMode has values of one measurement, and of the baseline, in blocks.
func measuredMode(mode string, ratio, spread float64, on Fidelity) (list []Result) {
	for _, m := range []string{Baseline, mode} {
		r := Result{Suite: "throughput", Mode: m, Implementation: "kernel", Feature: "tcp-rr", Path: "cross-host", Profile: "pinned", Outcome: Pass, Fidelity: on}
		for block := 1; block <= 10; block++ {
			v := 1e-5
			if m == mode && m != Baseline {
				v *= ratio * (1 + spread*float64(block%5-2))
			}
			r.Values = append(r.Values, Value{Unit: "p50-sec", Value: v, Block: block})
		}
		if m == mode || !slices.ContainsFunc(list, func(r Result) bool { return r.Mode == Baseline }) {
			list = append(list, r)
		}
	}
	return list
}

func seen(mode, feature, as string) Result {
	return Result{Suite: "conformance", Mode: mode, Implementation: "kernel", Feature: feature, Expected: as, Observed: as, Outcome: Pass, Detail: "asked of " + mode, Fidelity: Fidelity{Kernel: "6.1"}}
}

// advisable are results of modes that differ in everything that advice looks at.
func advisable() Results {
	machine, guest := Fidelity{Kernel: "6.1"}, Fidelity{Kernel: "6.2", Accelerator: "uml"}
	res := Results{Schema: Schema}
	for _, name := range []string{Baseline, "quick", "alike", "slow", "elsewhere", "deaf", "silent", "unmeasured", "unable"} {
		res.Modes = append(res.Modes, Mode{Name: name, Implementation: "kernel", Doc: "The mode " + name + "."})
		switch name {
		case "deaf":
			res.Results = append(res.Results, seen(name, "multicast-in-ipv4", Works), seen(name, "multicast-out-ipv4", Blocked))
		case "silent":
			res.Results = append(res.Results, seen(name, "multicast-in-ipv4", Works))
		case "unable":
			r := seen(name, "multicast-in-ipv4", "")
			r.Expected, r.Outcome, r.Detail = Works, Unable, "the kernel lacks it"
			res.Results = append(res.Results, r, seen(name, "multicast-out-ipv4", Works))
		default:
			res.Results = append(res.Results, seen(name, "multicast-in-ipv4", Works), seen(name, "multicast-out-ipv4", Works), seen(name, "own-mac", Works))
		}
	}
	res.Results = append(res.Results, measuredMode("slow", 1.5, 0.01, machine)...)
	for mode, of := range map[string]struct{ ratio, spread float64 }{"quick": {1.10, 0.01}, "alike": {1.11, 0.02}} {
		res.Results = append(res.Results, measuredMode(mode, of.ratio, of.spread, machine)[1:]...)
	}
	res.Results = append(res.Results, measuredMode("elsewhere", 1.01, 0.01, guest)...)
	return res
}

func TestRecommend(t *testing.T) {
	advice := Recommend(advisable(), Wanted{Needs: []string{"multicast"}, First: "latency", Path: "cross-host"})
	var b bytes.Buffer
	if err := advice.WriteText(&b); err != nil {
		t.Fatal(err)
	}
	golden(t, "testdata/advice.txt", b.Bytes())
	if len(advice.Runs) != 2 || advice.Runs[0].On.Accelerator != "" {
		t.Fatalf("%d fidelities: want the machine's own, then the guest's", len(advice.Runs))
	}
	places := map[string]int{}
	for _, r := range advice.Runs[0].Ranks {
		places[r.Mode.Name] = r.Place
	}
	if places[Baseline] != 1 || places["quick"] != 2 || places["alike"] != 2 || places["slow"] != 4 {
		t.Errorf("places %v: want the baseline, then a tie, then the slow one", places)
	}
	for name, list := range map[string][]Exclusion{"deaf": advice.Excluded, "silent": advice.Undecided, "unable": advice.Undecided} {
		if !slices.ContainsFunc(list, func(e Exclusion) bool { return e.Title == name }) {
			t.Errorf("%s is not where it should be: %v", name, list)
		}
	}
}

// TestRecommendChanges turns a mode's verdict by turning the one cell that it rests on.
func TestRecommendChanges(t *testing.T) {
	res := advisable()
	for i, r := range res.Results {
		if r.Mode == "deaf" && r.Observed == Blocked {
			res.Results[i].Observed = Works
		}
	}
	advice := Recommend(res, Wanted{Needs: []string{"multicast"}, First: "latency", Path: "cross-host"})
	if len(advice.Excluded) != 0 {
		t.Errorf("%v is out: want nobody", advice.Excluded)
	}
	if !slices.ContainsFunc(advice.Unmeasured, func(r Rank) bool { return r.Title == "deaf" && strings.Contains(r.Mode.Doc, "deaf") }) {
		t.Errorf("unmeasured %v: want deaf among them", advice.Unmeasured)
	}
}

// TestRecommendPlaces rules out what does not work on a fabric, and what ends before there are as many containers as wanted.
func TestRecommendPlaces(t *testing.T) {
	res := advisable()
	limit := seen("slow", "containers-1024", Blocked)
	limit.Values = []Value{{Unit: "containers", Value: 253}}
	res.Results = append(res.Results, limit)
	on := func(mode, fabric string, host, external, across string) {
		for i, as := range []string{host, external, across} {
			res.Results = append(res.Results, seen(mode, "on-"+fabric+"-"+Reaches[i], as))
		}
	}
	on("quick", "open", Works, Works, Works)
	on("quick", "vpc", Works, Works, Blocked)
	on("alike", "open", Works, Works, Works)
	on("alike", "vpc", Works, Works, Works)
	on("slow", "open", Blocked, Works, Blocked) // as it is everywhere
	on("slow", "vpc", Blocked, Works, Blocked)
	on("elsewhere", "open", NotApplicable, NotApplicable, NotApplicable) // it is of another fabric
	on("elsewhere", "vpc", Works, Works, Works)
	on("unmeasured", "open", Works, Works, Works)
	on("unmeasured", "vpc", NotApplicable, NotApplicable, NotApplicable)
	on("deaf", "vpc", Works, Works, Blocked) // and nobody knows of the open one
	titles := func(of []Exclusion) (names []string) {
		for _, e := range of {
			names = append(names, e.Title)
		}
		return names
	}
	advised := func(w Wanted) Advice {
		w.First, w.Path = "latency", "cross-host"
		return Recommend(res, w)
	}
	out := func(w Wanted) []string { return titles(advised(w).Excluded) }
	if got := out(Wanted{Containers: 253}); len(got) > 0 {
		t.Errorf("253 containers: %v are out: want nobody", got)
	}
	if got := out(Wanted{Containers: 254}); !slices.Equal(got, []string{"slow"}) {
		t.Errorf("254 containers: %v are out: want slow", got)
	}
	a := advised(Wanted{Fabric: "vpc"})
	if got := titles(a.Excluded); !slices.Equal(got, []string{"quick", "unmeasured"}) {
		t.Errorf("vpc: %v are out: want quick, and unmeasured, which has no place there", got)
	}
	if got := titles(a.Undecided); !slices.Contains(got, "deaf") || slices.Contains(got, "slow") || slices.Contains(got, "alike") || slices.Contains(got, "elsewhere") {
		t.Errorf("vpc: %v are undecided: want deaf, of which nobody knows what it does on the open fabric, and not those that lose nothing", got)
	}
}
