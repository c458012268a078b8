package reports

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// halves divides a run by modes, as shards do: into what one mode has and what the others have.
func halves(of Results, mode string) (a, b Results) {
	a, b = of, of
	a.Results, b.Results = nil, nil
	for _, r := range of.Results {
		if r.Mode == mode {
			a.Results = append(a.Results, r)
			b.Run.Elsewhere = append(b.Run.Elsewhere, r.cell())
		} else {
			b.Results = append(b.Results, r)
			a.Run.Elsewhere = append(a.Run.Elsewhere, r.cell())
		}
	}
	return a, b
}

func suitesOf(res Results) (list []string) {
	for _, r := range res.Results {
		if !slices.Contains(list, r.Suite) {
			list = append(list, r.Suite)
		}
	}
	return list
}

// TestMerge puts the shards of a run together, in any order: all cells are there once, and in their order.
func TestMerge(t *testing.T) {
	whole := readExample(t)
	Sort(&whole, suitesOf(whole))
	a, b := halves(whole, "bridge")
	for _, runs := range [][]Results{{a, b}, {b, a}} {
		got, err := Merge(runs, []string{"one.json", "two.json"})
		if err != nil {
			t.Fatal(err)
		}
		Sort(&got, suitesOf(whole))
		if diff := cmp.Diff(whole.Results, got.Results); diff != "" {
			t.Errorf("results (-whole +merged):\n%s", diff)
		}
		if diff := cmp.Diff(whole.Modes, got.Modes); diff != "" {
			t.Errorf("modes (-whole +merged):\n%s", diff)
		}
		if got.Run.Complete != whole.Run.Complete || len(got.Run.Elsewhere) > 0 {
			t.Errorf("complete %v, elsewhere %v: want those of the whole", got.Run.Complete, got.Run.Elsewhere)
		}
	}
}

// TestMergeTells says which cells no shard at hand has run.
func TestMergeTells(t *testing.T) {
	whole := readExample(t)
	whole.Run.Complete, whole.Run.Missing = true, nil
	a, b := halves(whole, "bridge")
	b, c := halves(b, "ptp")
	var want []string
	for _, r := range c.Results {
		if !slices.Contains(want, r.cell()) {
			want = append(want, r.cell())
		}
	}
	b.Run.Elsewhere = append(b.Run.Elsewhere, a.Run.Elsewhere...)
	got, err := Merge([]Results{a, b}, []string{"one.json", "two.json"})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(want)
	if diff := cmp.Diff(want, got.Run.Missing); diff != "" || got.Run.Complete {
		t.Errorf("complete %v, missing (-want +got):\n%s", got.Run.Complete, diff)
	}
}

// TestMergeRefuses what cannot be one run.
func TestMergeRefuses(t *testing.T) {
	whole := readExample(t)
	a, b := halves(whole, "bridge")
	for name, change := range map[string]func(*Results){
		"version":       func(r *Results) { r.Run.Version = "9.9" },
		"topologies":    func(r *Results) { r.Run.Source = "name: other" },
		"one.json and ": func(r *Results) { *r = a },
	} {
		other := b
		change(&other)
		_, err := Merge([]Results{a, other}, []string{"one.json", "two.json"})
		if err == nil || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), "two.json") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v: want a line that says so and names both files", name, err)
		}
	}
}

// TestAnnotations has a line for each cell that is not as expected, and one for those that never ran.
func TestAnnotations(t *testing.T) {
	res := exampleSmall()
	res.Run.Missing = []string{"conformance/bridge/one", "conformance/bridge/two"}
	want := 1
	for _, r := range res.Results {
		if r.Outcome == Fail {
			want++
		}
	}
	var b bytes.Buffer
	if err := WriteAnnotations(&b, res); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")
	if want < 2 || len(lines) != want {
		t.Fatalf("%d lines: want %d, more than one:\n%s", len(lines), want, &b)
	}
	for _, line := range lines {
		properties, _, ok := strings.Cut(strings.TrimPrefix(line, "::error title="), "::")
		if !ok || !strings.HasPrefix(line, "::error title=") || strings.ContainsAny(properties, ":,") {
			t.Errorf("%q: want a workflow command", line)
		}
	}
	if last := lines[len(lines)-1]; !strings.Contains(last, "2 planned cells never ran") || !strings.Contains(last, "one%0A") {
		t.Errorf("%q: want the cells that never ran", last)
	}
}
