package modes_test

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/modebench/modebench/fixtures"
	"github.com/modebench/modebench/modes"
)

// Every mode answers the same questions: a feature that one file lacks is a hole in the matrix.
func TestExpectationsAreComplete(t *testing.T) {
	all, err := modes.Expectations(fixtures.FS)
	if err != nil {
		t.Fatal(err)
	}
	features := map[string]bool{}
	alone := maps.Clone(all[modes.ByCNI]) // what is asked of plugins alone, and of engines
	maps.Copy(alone, all[modes.ByDocker])
	delete(all, modes.ByCNI)
	delete(all, modes.ByDocker)
	for _, mode := range all {
		for feature := range mode {
			if _, ok := alone[feature]; !ok {
				features[feature] = true
			}
		}
	}
	if len(features) < 45 {
		t.Errorf("%d features, want at least 45", len(features))
	}
	want := slices.Sorted(maps.Keys(features))
	for name, mode := range all {
		maps.DeleteFunc(mode, func(feature string, _ modes.Expectation) bool { _, ok := alone[feature]; return ok })
		if d := cmp.Diff(want, slices.Sorted(maps.Keys(mode))); d != "" {
			t.Errorf("expectations/%s.yaml (-all features +its own):\n%s", name, d)
		}
	}
}

func TestExpectationsCoverTheModes(t *testing.T) {
	all, err := modes.Expectations(fixtures.FS)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, m := range modes.All() {
		for _, by := range modes.Implementations() {
			if m, ok := m.By(by, nil); ok {
				names = append(names, m.String())
			}
		}
	}
	names = append(names, modes.ByCNI, modes.ByDocker) // what is asked of plugins alone, and of engines
	slices.Sort(names)
	if d := cmp.Diff(names, slices.Sorted(maps.Keys(all))); d != "" {
		t.Errorf("modes without expectations, or expectations without a mode (-modes +files):\n%s", d)
	}
}

// What is asked of a mode by one of its functions has an answer, whoever carries the mode out.
func TestExpectationsHaveWhatTheyNeed(t *testing.T) {
	all, err := modes.Expectations(fixtures.FS)
	if err != nil {
		t.Fatal(err)
	}
	needs := map[string]func(modes.Mode) bool{
		"policy-": func(m modes.Mode) bool { return m.Policy != nil },
		"rate-":   func(m modes.Mode) bool { return m.Rate != nil },
	}
	for _, m := range modes.All() {
		for _, by := range modes.Implementations() {
			m, ok := m.By(by, nil)
			for feature, e := range all[m.String()] {
				for prefix, has := range needs {
					if ok && strings.HasPrefix(feature, prefix) && e.Expect != "not-applicable" && !has(m) {
						t.Errorf("%s: %s is expected to be %s, and the mode has nothing to do it by", m, feature, e.Expect)
					}
				}
			}
		}
	}
}

func TestExpectationsRead(t *testing.T) {
	const text = `
interface:
  expect: blocked
  reason: There is none.
  source: veth(4)
filter:
  expect: not-applicable
  reason: It has none.
  source: veth(4)
  machines: {expect: works, reason: It has one., source: virtio}
`
	got, err := modes.Expectations(fstest.MapFS{"expectations/none.yaml": {Data: []byte(text)}})
	if err != nil {
		t.Fatal(err)
	}
	none := map[string]modes.Expectation{
		"interface": {Expect: "blocked", Reason: "There is none.", Source: "veth(4)"},
		"filter": {
			Expect: "not-applicable", Reason: "It has none.", Source: "veth(4)",
			Machines: &modes.Expectation{Expect: "works", Reason: "It has one.", Source: "virtio"},
		},
	}
	want := map[string]map[string]modes.Expectation{"none": none, "none (docker)": none}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	for _, c := range []struct {
		feature, namespaces, machines string
	}{{"interface", "blocked", "blocked"}, {"filter", "not-applicable", "works"}} {
		e := got["none"][c.feature]
		if n, m := e.On(false), e.On(true); n.Expect != c.namespaces || m.Expect != c.machines || n.Machines != nil || m.Machines != nil {
			t.Errorf("%s: %+v on namespaces, %+v on machines: want %s and %s", c.feature, n, m, c.namespaces, c.machines)
		}
	}
}

func TestExpectationsRefuse(t *testing.T) {
	const good = "a: {expect: works, reason: r, source: s}\n"
	for _, test := range []struct{ name, text, want string }{
		{"nothing", "", "expectations/x.yaml:1:1: the file is empty"},
		{"a list", "- a\n", "expectations/x.yaml:1:1: this is no mapping"},
		{"no entry", good + "b: works\n", "expectations/x.yaml:2:4: this is no mapping"},
		{"unknown key", good + "b:\n  expect: works\n  reason: r\n  source: s\n  why: x\n", `expectations/x.yaml:6:3: unknown field "why"`},
		{"duplicate feature", good + good, `expectations/x.yaml:2:1: mapping key "a" already defined`},
		{"duplicate key", good + "b: {expect: works, expect: blocked, reason: r, source: s}\n", `expectations/x.yaml:2:20: mapping key "expect" already defined`},
		{"bad word", good + "b: {expect: sometimes, reason: r, source: s}\n", `expectations/x.yaml:2:1: expect of b is "sometimes": want works, blocked, not-applicable`},
		{"no expectation", good + "b: {reason: r, source: s}\n", `expectations/x.yaml:2:1: expect of b is ""`},
		{"no reason", good + "b: {expect: works, source: s}\n", "expectations/x.yaml:2:1: b has no reason"},
		{"blank source", good + "b: {expect: works, reason: r, source: ' '}\n", "expectations/x.yaml:2:1: b has no source"},
		{"wrong type", good + "b: {expect: [works], reason: r, source: s}\n", "expectations/x.yaml:2:13: "},
		{"incomplete of machines", good + "b: {expect: works, reason: r, source: s, machines: {expect: works, reason: r}}\n", "expectations/x.yaml:2:1: b has no source"},
		{"machines twice", good + "b: {expect: works, reason: r, source: s, machines: {expect: works, reason: r, source: s, machines: {expect: works}}}\n", "expectations/x.yaml:2:1: b has machines of machines: want one"},
		{"second document", good + "---\n" + good, "expectations/x.yaml:2:1: a second document"},
		{"no YAML", good + "b: {\n", "expectations/x.yaml:2:"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := modes.Expectations(fstest.MapFS{"expectations/x.yaml": {Data: []byte(test.text)}})
			refused(t, err, test.want)
		})
	}
	_, err := modes.Expectations(fstest.MapFS{})
	refused(t, err, "expectations/*.yaml: no such file")
}

func refused(t *testing.T, err error, want string) {
	t.Helper()
	switch {
	case err == nil:
		t.Errorf("accepted, want an error that begins with %q", want)
	case !strings.HasPrefix(err.Error(), want):
		t.Errorf("error %q, want one that begins with %q", err, want)
	case strings.Contains(err.Error(), "\n"):
		t.Errorf("error %q has several lines", err)
	}
}
