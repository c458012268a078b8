package reports

import (
	"bytes"
	"encoding/json"
	"flag"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/jsonschema-go/jsonschema"
	"golang.org/x/perf/benchfmt"
)

var update = flag.Bool("update", false, "write the golden files")

const example = "testdata/example/results.json"

// documents returns what Write puts.
func documents(t testing.TB, res Results) map[string][]byte {
	t.Helper()
	docs := map[string][]byte{}
	if err := Write(res, func(name string, data []byte) error {
		docs[name] = data
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return docs
}

func golden(t *testing.T, file string, got []byte) {
	t.Helper()
	if *update {
		if err := os.MkdirAll(filepath.Dir(file), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, got, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(string(got), "\n")); diff != "" {
		t.Errorf("%s differs (-want +got); go test ./reports -update writes it anew:\n%s", file, diff)
	}
}

func readExample(t testing.TB) Results {
	t.Helper()
	data, err := os.ReadFile(example)
	if err != nil {
		t.Fatal(err)
	}
	res, err := Read(bytes.NewReader(data), example)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

func TestDocuments(t *testing.T) {
	for name, data := range documents(t, exampleSmall()) {
		golden(t, filepath.Join("testdata", "small", name), data)
	}
	golden(t, "testdata/small/matrix.txt", []byte(Matrix(exampleSmall(), 100, false)))
}

// TestKernels shows a run on several kernels: which cell is from which, what depends on it, and numbers apart.
func TestKernels(t *testing.T) {
	res := exampleKernels()
	docs := documents(t, res)
	golden(t, "testdata/kernels/report.md", docs["report.md"])
	golden(t, "testdata/kernels/matrix.txt", []byte(Matrix(res, 100, false)))
	table := tabulate(res, inMatrix)
	want := 3*9 + 3*9 + 2*9
	if n := table.tallyAll().All(); n != want {
		t.Errorf("%d cells are counted: want %d, one a mode, feature and kernel", n, want)
	}
	var differ []string
	for _, c := range table.differing() {
		differ = append(differ, c.Mode.Name+"/"+c.Feature.Name+" "+c.text())
	}
	if diff := cmp.Diff([]string{"host/own-address ⊘✗⊘"}, differ); diff != "" {
		t.Errorf("what depends on the kernel (-want +got):\n%s", diff)
	}
	page := string(docs["index.html"])
	for _, want := range []string{
		"What depends on the kernel", `<small>6.12.0-example (tcg), 6.1.0-example (uml)</small>`, `class="s-fail differs"`,
		`<h3 class="fidelity">6.1.0-example (uml), fabric routed-bgp</h3>`,
	} {
		if !strings.Contains(page, want) {
			t.Errorf("the page does not hold %s", want)
		}
	}
	ids := map[string]int{}
	for _, m := range regexp.MustCompile(` id="([^"]+)"`).FindAllStringSubmatch(page, -1) {
		if ids[m[1]]++; ids[m[1]] == 2 {
			t.Errorf("two parts of the page have the id %q", m[1])
		}
	}
	classes := map[string]bool{}
	for _, m := range regexp.MustCompile(`<testcase classname="([^"]*)" name="([^"]*)"`).FindAllStringSubmatch(string(docs["junit.xml"]), -1) {
		if classes[m[1]+" "+m[2]] {
			t.Errorf("two test cases are %s %s", m[1], m[2])
		}
		classes[m[1]+" "+m[2]] = true
	}
	if !slices.ContainsFunc(slices.Collect(maps.Keys(classes)), func(c string) bool { return strings.HasPrefix(c, "modebench.conformance.bridge.6_12_0-example-tcg ") }) {
		t.Errorf("no test case tells its kernel")
	}
	r := benchfmt.NewReader(bytes.NewReader(docs["bench.txt"]), "bench.txt")
	keys := map[string]bool{}
	for r.Scan() {
		if rec, ok := r.Result().(*benchfmt.Result); ok {
			keys[rec.GetConfig("kernel")+" "+rec.GetConfig("accelerator")+" "+rec.GetConfig("fabric")] = true
		}
	}
	if diff := cmp.Diff([]string{"6.1.0-example uml ", "6.1.0-example uml routed-bgp", "6.12.0-example tcg ", "6.18.0-example  "}, slices.Sorted(maps.Keys(keys))); diff != "" {
		t.Errorf("kernel, accelerator and fabric in bench.txt (-want +got):\n%s", diff)
	}
	for _, s := range Summarise(res) {
		if units[s.Unit].ratio && s.Mode != Baseline && s.Blocks == 0 {
			t.Errorf("%s %s on %s has no baseline of its own", s.Mode, s.Unit, s.Fidelity)
		}
	}
}

func TestDocumentsOfExample(t *testing.T) {
	if *update {
		if _, err := os.Stat(example); os.IsNotExist(err) {
			golden(t, example, documents(t, exampleRun())["results.json"])
		}
	}
	res := readExample(t)
	docs := documents(t, res)
	golden(t, "testdata/example/report.md", docs["report.md"])
	golden(t, "testdata/example/matrix.txt", []byte(Matrix(res, 120, false)))
	again := documents(t, res)
	for name := range docs {
		if !bytes.Equal(docs[name], again[name]) {
			t.Errorf("%s: written twice, two different documents", name)
		}
	}
}

func TestExampleFitsSchema(t *testing.T) {
	data, err := JSONSchema()
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "testdata/results.schema.json", append(data, '\n'))
	var schema jsonschema.Schema
	if err := json.Unmarshal(data, &schema); err != nil {
		t.Fatal(err)
	}
	resolved, err := schema.Resolve(nil)
	if err != nil {
		t.Fatal(err)
	}
	valid := func(text []byte) error {
		var instance map[string]any
		if err := json.Unmarshal(text, &instance); err != nil {
			t.Fatal(err)
		}
		return resolved.Validate(instance)
	}
	text := documents(t, exampleSmall())["results.json"]
	if err := valid(text); err != nil {
		t.Errorf("example: %v", err)
	}
	for _, change := range [][2]string{
		{`"outcome": "pass"`, `"outcome": "passed"`},
		{`"schema": "modebench.results/v1"`, `"schema": "modebench.results/v2"`},
		{`"claims": [`, `"claims": null, "x": [`},
		{`"seed": 42`, `"seed": "42"`},
	} {
		broken := bytes.Replace(text, []byte(change[0]), []byte(change[1]), 1)
		if bytes.Equal(broken, text) {
			t.Fatalf("%s is not in the example", change[0])
		}
		if valid(broken) == nil {
			t.Errorf("with %s the schema still accepts it", change[1])
		}
	}
}

func TestBenchFormat(t *testing.T) {
	res := exampleSmall()
	r := benchfmt.NewReader(bytes.NewReader(documents(t, res)["bench.txt"]), "bench.txt")
	lines, values := 0, 0
	for r.Scan() {
		switch rec := r.Result().(type) {
		case *benchfmt.Result:
			lines++
			values += len(rec.Values)
			for _, key := range []string{"goos", "goarch", "cpu", "kernel"} {
				if rec.GetConfig(key) == "" {
					t.Fatalf("line %d has no %s", lines, key)
				}
			}
			for _, v := range rec.Values {
				if r.Units().GetBetter(v.Unit) == 0 {
					t.Errorf("unit %s does not say what is better", v.Unit)
				}
			}
		case *benchfmt.SyntaxError:
			t.Error(rec)
		}
	}
	if err := r.Err(); err != nil {
		t.Fatal(err)
	}
	want := 0
	for _, result := range res.Results {
		want += len(result.Values)
	}
	if values != want || lines == 0 {
		t.Errorf("%d values on %d lines, want %d", values, lines, want)
	}
}
