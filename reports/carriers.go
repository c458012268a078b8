package reports

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
)

// carried is a feature of a mode that its implementations answer differently.
type carried struct {
	Feature Feature
	Mode    string
	By      []*cell // in the order of implementations; nil: it does not have the mode
}

// implementations are those of the modes, in the order of documents.
func (t table) implementations() (list []string) {
	for _, m := range t.Modes {
		if !slices.Contains(list, m.Implementation) {
			list = append(list, m.Implementation)
		}
	}
	return list
}

// carriers are the modes that several implementations carry out, by name.
func (t table) carriers() (list []string) {
	seen := map[string]int{}
	for _, m := range t.Modes {
		if seen[m.Name]++; seen[m.Name] == 2 {
			list = append(list, m.Name)
		}
	}
	return list
}

// byCarrier are the answers that depend on who carries a mode out. One that could not tell is no difference.
func (t table) byCarrier() (list []carried) {
	by := t.implementations()
	for _, name := range t.carriers() {
		for _, f := range t.Features {
			row, differ := carried{Feature: f, Mode: name, By: make([]*cell, len(by))}, false
			var first *cell
			for _, m := range t.Modes {
				if m.Name != name {
					continue
				}
				c := t.at(m, f)
				row.By[slices.Index(by, m.Implementation)] = &c
				if first == nil && c.told() {
					first = &c
				}
				differ = differ || first.disagrees(c)
			}
			if differ {
				list = append(list, row)
			}
		}
	}
	return list
}

// told tells whether something was seen of a cell.
func (c cell) told() bool { return c.state() != stateUnable && c.state() != stateMissing }

func (c *cell) disagrees(other cell) bool {
	return c != nil && other.told() && c.text() != other.text()
}

// others is how many answers of a mode are not those of another.
func (t table) others(of, m Mode) (n int) {
	for _, f := range t.Features {
		if c := t.at(of, f); c.told() && c.disagrees(t.at(m, f)) {
			n++
		}
	}
	return n
}

// uncarried is what a table of implementations says where one does not have the mode.
const uncarried = "not carried out"

// markdownCarriers lists them.
func markdownCarriers(b *bytes.Buffer, t table) {
	if len(t.carriers()) == 0 {
		return
	}
	by, list := t.implementations(), t.byCarrier()
	if len(list) == 0 {
		fmt.Fprintf(b, "No answer depends on who carries a mode out: %s.\n\n", md(strings.Join(by, ", ")))
		return
	}
	fmt.Fprintf(b, "### What depends on who carries a mode out\n\n| | |")
	for _, name := range by {
		fmt.Fprintf(b, " %s |", md(name))
	}
	b.WriteString("\n|---|---|" + strings.Repeat(":-:|", len(by)) + "\n")
	for _, row := range list {
		fmt.Fprintf(b, "| %s | %s |", md(row.Mode), md(row.Feature.Name))
		for _, c := range row.By {
			if c == nil {
				fmt.Fprintf(b, " %s |", uncarried)
			} else {
				fmt.Fprintf(b, " %s |", c.text())
			}
		}
		b.WriteByte('\n')
	}
	b.WriteByte('\n')
}
