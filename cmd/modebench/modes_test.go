package main

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/modebench/modebench/fixtures"
	"github.com/modebench/modebench/modes"
	"github.com/modebench/modebench/reports"
	"github.com/modebench/modebench/suites"
	"github.com/modebench/modebench/topology"
)

// TestDocumentsModesPage holds the page of all modes against what the modes, their expectations and the claims say.
func TestDocumentsModesPage(t *testing.T) {
	const file = top + "/docs/modes.md"
	got := modesPage(t)
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(got, "\n")); d != "" {
		t.Errorf("docs/modes.md is stale (-file +now); go test ./cmd/modebench -run TestDocumentsModesPage -update writes it anew:\n%s", d)
	}
}

func modesPage(t *testing.T) string {
	t.Helper()
	expectations, err := modes.Expectations(fixtures.FS)
	if err != nil {
		t.Fatal(err)
	}
	claims, err := modes.Claims(fixtures.FS)
	if err != nil {
		t.Fatal(err)
	}
	const file = "topologies/two-hosts.yaml"
	data, err := fixtures.FS.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	two, err := topology.Read(file, data)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	b.WriteString("# Modes\n\nThe ways to network containers, simplest first. This page is generated from the modes, their expectations and the\n" +
		"claims, none of which is an observation: what a machine does about them is in [a report](read-a-report.md).\n\n" +
		"The wiring is that of one host of the default topology and of its first container, and of the first that joins another one's\n" +
		"namespace. Left out are the other hosts and containers, and the settings that every new namespace gets (`defaults`).\n" +
		"`modebench plan MODE` prints all of it.\n\n")
	for _, m := range modes.All() {
		fmt.Fprintf(&b, "- [%s](#%s): %s\n", m.Name, m.Name, m.Doc)
	}
	for _, m := range modes.All() {
		fmt.Fprintf(&b, "\n## %s\n\n%s\n\n**Good for.** %s\n\n**Bad for.** %s\n\n", m.Name, m.Doc, m.GoodFor, m.BadFor)
		var needs []string
		for _, n := range m.Needs {
			needs = append(needs, string(n))
		}
		if needs = append(needs, m.Programs...); len(needs) > 0 {
			fmt.Fprintf(&b, "**Needs** %s.\n\n", strings.Join(needs, ", "))
		}
		if m.Fabric != (topology.Fabric{}) {
			fmt.Fprintf(&b, "**Fabric** %s ([fabrics](fabrics.md)).\n\n", m.Fabric)
		}
		p, err := m.Plan(two)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "<details><summary>Wiring, as shell</summary>\n\n```sh\n%s```\n\n</details>\n\n", abridged(m, p, p.Hosts()[0]))
		expected(&b, expectations[m.Name])
		claimed(&b, m.Name, claims)
	}
	return b.String()
}

// abridged is the wiring of one host: what prepares it, its first container, and the first one that joins another's namespace.
func abridged(m modes.Mode, p *topology.Plan, host *topology.Machine) string {
	one := topology.Wiring{Mode: m.Name}
	if m.Setup != nil {
		one.Setup = m.Setup(p, host)
	}
	own, joined := false, false
	for _, a := range m.Wire(p).Attached {
		joins := slices.ContainsFunc(a.Steps, func(s topology.Step) bool {
			return s.Space != nil && s.Space.Share != "" && s.Space.Share != "host"
		})
		seen := &own
		if joins {
			seen = &joined
		}
		if a.Host == host.Name && !*seen {
			*seen = true
			one.Attached = append(one.Attached, a)
		}
	}
	text := one.String()
	if before, rest, found := strings.Cut(text, "# what every new namespace is set to\n"); found {
		_, after, _ := strings.Cut(rest, "\n}\n")
		text = before + strings.TrimPrefix(after, "\n")
	}
	return text
}

// expected is the table of a mode's expectations, with features of one group in one row where all else is the same.
func expected(b *strings.Builder, of map[string]modes.Expectation) {
	type row struct {
		group    string
		features []string
		e        modes.Expectation
	}
	var rows []*row
	type tally struct{ works, blocked, not int }
	var groups []string
	counts := map[string]*tally{}
	said := map[string]bool{}
	for _, s := range suites.Specs() {
		f := s.Feature
		e, asked := of[f.Name]
		if said[f.Name] || !asked { // of the mode as others carry it out alone
			continue
		}
		said[f.Name] = true
		if counts[f.Group] == nil {
			counts[f.Group] = &tally{}
			groups = append(groups, f.Group)
		}
		switch e.Expect {
		case reports.Works:
			counts[f.Group].works++
		case reports.Blocked:
			counts[f.Group].blocked++
		default:
			counts[f.Group].not++
		}
		i := slices.IndexFunc(rows, func(r *row) bool { return r.group == f.Group && cmp.Equal(r.e, e) })
		if i < 0 {
			i = len(rows)
			rows = append(rows, &row{group: f.Group, e: e})
		}
		rows[i].features = append(rows[i].features, f.Name)
	}
	b.WriteString("| group | works | blocked | does not apply |\n|---|--:|--:|--:|\n")
	for _, g := range groups {
		fmt.Fprintf(b, "| %s | %d | %d | %d |\n", g, counts[g].works, counts[g].blocked, counts[g].not)
	}
	b.WriteString("\n<details><summary>Expectations, with sources</summary>\n\n| group | features | expected | reason | source |\n|---|---|---|---|---|\n")
	for _, r := range rows {
		for e, where := &r.e, ""; e != nil; e, where = e.Machines, " on hosts that are machines" {
			fmt.Fprintf(b, "| %s | %s | %s%s | %s | %s |\n", r.group, strings.Join(r.features, ", "), e.Expect, where, inTable(e.Reason), inTable(e.Source))
		}
	}
	b.WriteString("\n</details>\n")
}

// claimed is the table of the claims that the mode's cells are evidence for.
func claimed(b *strings.Builder, mode string, claims []modes.Claim) {
	tried := slices.DeleteFunc(slices.Clone(claims), func(c modes.Claim) bool {
		return !slices.ContainsFunc(c.Cells, func(cell string) bool { return strings.HasPrefix(cell, mode+"/") })
	})
	if len(tried) == 0 {
		return
	}
	b.WriteString("\n<details><summary>Claims that it is evidence for</summary>\n\n| claim | what is claimed | documented | source |\n|---|---|---|---|\n")
	for _, c := range tried {
		fmt.Fprintf(b, "| %s | %s | %s | %s |\n", c.ID, inTable(c.Text), inTable(strings.TrimSuffix(c.Verdict+": "+c.Nuance, ": ")), inTable(c.Source))
	}
	b.WriteString("\n</details>\n")
}

// inTable is a text as a cell of a Markdown table.
func inTable(s string) string {
	return strings.NewReplacer("|", `\|`, "*", `\*`, "<", "&lt;", "\n", " ").Replace(strings.TrimSpace(s))
}
