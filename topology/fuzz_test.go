package topology_test

import (
	"errors"
	"testing"

	"github.com/modebench/modebench/fixtures"
	"github.com/modebench/modebench/topology"
)

// Whatever stands in a file, Read answers with a topology that can be planned, or with a place in the file.
func FuzzRead(f *testing.F) {
	entries, err := fixtures.FS.ReadDir("topologies")
	if err != nil {
		f.Fatal(err)
	}
	for _, e := range entries {
		f.Add(source(f, "topologies/"+e.Name()))
	}
	for _, c := range edits {
		if data := c.apply(f); len(data) < 1<<12 { // mutating larger ones takes the fuzzer's time and finds nothing else
			f.Add(data)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		lab, err := topology.Read("fuzz.yaml", data)
		if err != nil {
			var e *topology.Error
			if !errors.As(err, &e) {
				t.Fatalf("error of type %T: %v", err, err)
			}
			if e.Line < 1 || e.Column < 1 || e.Problem == "" || e.Remedy == "" {
				t.Fatalf("incomplete: %#v", e)
			}
			return
		}
		p, err := topology.NewPlan(lab)
		if err != nil {
			t.Fatalf("read, but not planned: %v", err)
		}
		checkPlan(t, p)
	})
}
