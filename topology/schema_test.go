package topology_test

import (
	"encoding/json"
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"
	"github.com/google/jsonschema-go/jsonschema"

	"github.com/modebench/modebench/fixtures"
	"github.com/modebench/modebench/topology"
)

var update = flag.Bool("update", false, "write the golden files")

// golden compares with a file, or writes it with -update.
func golden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-file +now; go test -update writes it):\n%s", path, diff)
	}
}

func files(t *testing.T) []string {
	t.Helper()
	names, err := fs.Glob(fixtures.FS, "topologies/*.yaml")
	if err != nil || len(names) == 0 {
		t.Fatalf("no topologies: %v", err)
	}
	return names
}

func source(t testing.TB, name string) []byte {
	t.Helper()
	data, err := fs.ReadFile(fixtures.FS, name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestJSONSchema(t *testing.T) {
	data, err := topology.JSONSchema()
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "../fixtures/topology.schema.json", string(data))

	var s jsonschema.Schema
	if err := json.Unmarshal(data, &s); err != nil {
		t.Fatal(err)
	}
	schema, err := s.Resolve(&jsonschema.ResolveOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files(t) {
		if err := schema.Validate(document(t, source(t, name))); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, c := range edits {
		if !c.schema {
			continue
		}
		if err := schema.Validate(document(t, c.apply(t))); err == nil {
			t.Errorf("%s: the schema takes it", c.name)
		}
	}
}

// document is a YAML file as the values that JSON has.
func document(t *testing.T, data []byte) any {
	t.Helper()
	data, err := yaml.YAMLToJSON(data)
	if err != nil {
		t.Fatal(err)
	}
	var v any
	if err := json.Unmarshal(data, &v); err != nil {
		t.Fatal(err)
	}
	return v
}
