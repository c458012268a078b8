package modes

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// Expectation is what a mode should do about one feature, as documented; never what was observed.
type Expectation struct {
	Expect string `yaml:"expect"` // works, blocked, not-applicable
	Reason string `yaml:"reason"` // why, in a sentence that a person who chooses a mode understands
	Source string `yaml:"source"` // RFC section, kernel document or source path, product documentation

	// Machines is what it should do where hosts are machines with NICs that filter, which ends of veth pairs and NICs of
	// User-mode Linux do not; nil: the same.
	Machines *Expectation `yaml:"machines"`
}

// On is what a mode should do on hosts that are machines, or on ones that are not.
func (e Expectation) On(machines bool) Expectation {
	if machines && e.Machines != nil {
		return *e.Machines
	}
	e.Machines = nil
	return e
}

// Expectations reads what every mode should do: label (see Label) → feature → expectation. Those of a mode that this program carries out are
// in the files expectations/MODE.yaml of fsys. Of another implementation they are the same, and those of expectations/IMPLEMENTATION.yaml, which
// is about features that it alone is asked for, and which stand under its name, too; but for what expectations/IMPLEMENTATION/MODE.yaml
// says instead, which must be something else. Every entry is complete. An error names file, line and column, and what would be right.
func Expectations(fsys fs.FS) (map[string]map[string]Expectation, error) {
	names, err := fs.Glob(fsys, "expectations/*.yaml")
	if err != nil {
		return nil, err
	}
	if len(names) == 0 {
		return nil, errors.New("expectations/*.yaml: no such file: want one for each mode")
	}
	all := map[string]map[string]Expectation{}
	for _, name := range names {
		mode := map[string]Expectation{}
		if err := expectations(fsys, name, mode, nil); err != nil {
			return nil, err
		}
		all[strings.TrimSuffix(path.Base(name), ".yaml")] = mode
	}
	for _, m := range All() {
		for _, by := range Implementations()[1:] {
			m, ok := m.By(by, nil)
			if !ok {
				continue
			}
			if all[m.Name] == nil {
				continue
			}
			other := maps.Clone(all[m.Name])
			maps.Copy(other, all[by])
			if err := expectations(fsys, path.Join("expectations", by, m.Name+".yaml"), other, maps.Clone(other)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return nil, err
			}
			all[m.String()] = other
		}
	}
	return all, nil
}

// expectations reads those of a file. Unlike may be nil; else each must be of a feature that it has, and say something else of it.
func expectations(fsys fs.FS, name string, mode, unlike map[string]Expectation) error {
	f, body, err := open(fsys, name)
	if err != nil {
		return err
	}
	features, ok := body.(*ast.MappingNode)
	if !ok {
		return f.at(body.GetToken(), "this is no mapping", "FEATURE: {expect: …, reason: …, source: …}")
	}
	for _, pair := range features.Values {
		feature := pair.Key.GetToken()
		var e Expectation
		if err := f.decode(pair.Value, &e); err != nil {
			return err
		}
		if err := f.complete(feature, e); err != nil {
			return err
		}
		if was, ok := unlike[feature.Value]; unlike != nil && (!ok || was.Expect == e.Expect && was.On(true).Expect == e.On(true).Expect) {
			return f.at(feature, fmt.Sprintf("%s is %q whoever carries the mode out", feature.Value, was.Expect), "only what differs")
		}
		mode[feature.Value] = e
	}
	return nil
}

// A file is a YAML file of which errors tell the place.
type file string

// open reads a file of one YAML document, without duplicate keys, and returns the document's body.
func open(fsys fs.FS, name string) (file, ast.Node, error) {
	f := file(name)
	data, err := fs.ReadFile(fsys, name)
	if err != nil {
		return f, nil, err
	}
	parsed, err := parser.ParseBytes(data, 0)
	if err != nil {
		return f, nil, f.wrong(err)
	}
	switch {
	case len(parsed.Docs) == 0 || parsed.Docs[0].Body == nil:
		return f, nil, fmt.Errorf("%s:1:1: the file is empty: want one document", name)
	case len(parsed.Docs) > 1:
		return f, nil, f.at(parsed.Docs[1].Start, "a second document", "one document a file")
	}
	return f, parsed.Docs[0].Body, nil
}

// decode refuses keys that v, a pointer to a struct, does not have.
func (f file) decode(n ast.Node, v any) error {
	if _, ok := n.(*ast.MappingNode); !ok {
		return f.at(n.GetToken(), "this is no mapping", "key: value")
	}
	if err := yaml.NodeToValue(n, v, yaml.Strict()); err != nil {
		return f.wrong(err)
	}
	return nil
}

// wrong gives an error of the YAML library the form of the others.
func (f file) wrong(err error) error {
	if e := yaml.Error(nil); errors.As(err, &e) {
		p := e.GetToken().Position
		return fmt.Errorf("%s:%d:%d: %s", f, p.Line, p.Column, e.GetMessage())
	}
	return fmt.Errorf("%s: %w", f, err)
}

func (f file) at(t *token.Token, problem, want string) error {
	return fmt.Errorf("%s:%d:%d: %s: want %s", f, t.Position.Line, t.Position.Column, problem, want)
}

// complete wants all of an expectation that begins at t.
func (f file) complete(t *token.Token, e Expectation) error {
	if err := f.oneOf(t, "expect", e.Expect, "works", "blocked", "not-applicable"); err != nil {
		return err
	}
	if err := f.text(t, "reason", e.Reason); err != nil {
		return err
	}
	if err := f.text(t, "source", e.Source); err != nil {
		return err
	}
	switch {
	case e.Machines == nil:
		return nil
	case e.Machines.Machines != nil:
		return f.at(t, t.Value+" has machines of machines", "one")
	}
	return f.complete(t, *e.Machines)
}

// text wants a text for a key of the entry that begins at t.
func (f file) text(t *token.Token, key, value string) error {
	if strings.TrimSpace(value) == "" {
		return f.at(t, fmt.Sprintf("%s has no %s", t.Value, key), "one")
	}
	return nil
}

// oneOf wants one of some words for a key of the entry that begins at t.
func (f file) oneOf(t *token.Token, key, value string, words ...string) error {
	if !slices.Contains(words, value) {
		return f.at(t, fmt.Sprintf("%s of %s is %q", key, t.Value, value), strings.Join(words, ", "))
	}
	return nil
}
