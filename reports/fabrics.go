package reports

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
)

// places are where each mode works: its modes by the fabrics that they were put on. The features of that suite are in a group for each
// fabric, and called on-FABRIC-WHAT.
type places struct {
	table
	Fabrics []string
	Asked   []string // on every fabric
}

func placesOf(res Results) places {
	p := places{table: tabulate(res, func(r Result) bool { return r.Suite == apartSuites[0] })}
	asked := map[string][]string{}
	for _, f := range p.Features {
		if !slices.Contains(p.Fabrics, f.Group) {
			p.Fabrics = append(p.Fabrics, f.Group)
		}
		asked[f.Group] = append(asked[f.Group], strings.TrimPrefix(f.Name, "on-"+f.Group+"-"))
	}
	for i, fabric := range p.Fabrics {
		if i == 0 {
			p.Asked = asked[fabric]
		}
		p.Asked = slices.DeleteFunc(slices.Clone(p.Asked), func(what string) bool { return !slices.Contains(asked[fabric], what) })
	}
	return p
}

// cells are a mode's on a fabric, one for each question.
func (p places) cells(m Mode, fabric string) (cells []cell) {
	for _, what := range p.Asked {
		for _, f := range p.Features {
			if f.Group == fabric && f.Name == "on-"+fabric+"-"+what {
				cells = append(cells, p.at(m, f))
			}
		}
	}
	return cells
}

// text is a mode's glyphs on a fabric; a single one where it has no place there. The state is that of all, or empty.
func (p places) text(m Mode, fabric string) (text, state string) {
	for i, c := range p.cells(m, fabric) {
		text += p.glyph(c)
		if i > 0 && c.state() != state {
			state = ""
			continue
		}
		state = c.state()
	}
	if state == stateNone {
		text = glyphs[stateNone]
	}
	return text, state
}

// glyph is a cell's where it was asked: a mode's cells may have been on several kernels, each on one that has what its fabric needs.
func (p places) glyph(c cell) string {
	asked := c
	asked.On = slices.DeleteFunc(slices.Clone(c.On), func(on platform) bool {
		return !slices.ContainsFunc(c.Results, func(r Result) bool { return r.Fidelity.platform() == on })
	})
	return asked.text()
}

// legend says what stands in a cell.
func (p places) legend() string { return "in each cell: " + strings.Join(p.Asked, ", ") }

// Places returns the modes by the fabrics that they were put on, for a terminal, as [Matrix] does; empty where none was.
func Places(res Results, width int, color bool) string {
	p := placesOf(res)
	if len(p.Modes) == 0 {
		return ""
	}
	names := titles(p.Modes)
	var columns []column
	for _, fabric := range p.Fabrics {
		columns = append(columns, column{head: wrapName(fabric, 10), states: true, text: func(m Mode) (string, string) { return p.text(m, fabric) }})
	}
	return grid(p.Modes, names, columns, p.legend(), width, color)
}

// markdownPlaces writes the same as a table.
func markdownPlaces(b *bytes.Buffer, res Results) {
	p := placesOf(res)
	if len(p.Modes) == 0 {
		return
	}
	names := titles(p.Modes)
	b.WriteString("### Where each mode works\n\n| mode |")
	for _, fabric := range p.Fabrics {
		fmt.Fprintf(b, " %s |", md(fabric))
	}
	b.WriteString("\n|---|" + strings.Repeat("---|", len(p.Fabrics)) + "\n")
	for _, m := range p.Modes {
		fmt.Fprintf(b, "| %s |", md(names[m.key()]))
		for _, fabric := range p.Fabrics {
			text, _ := p.text(m, fabric)
			fmt.Fprintf(b, " %s |", text)
		}
		b.WriteByte('\n')
	}
	fmt.Fprintf(b, "\n%s.\n\n", strings.ToUpper(p.legend()[:1])+p.legend()[1:])
}

// placeView is a mode's row of where it works.
type placeView struct {
	Title, Slug string
	On          [][]cellView // by fabric
}

// viewPlaces are the rows, with the cells as the whole matrix of the suite links to them.
func viewPlaces(p places, full matrixView) (rows []placeView) {
	at := map[string]cellView{}
	for _, g := range full.Groups {
		for _, row := range g.Rows {
			for _, c := range row.Cells {
				at[row.Name+" "+c.Mode] = c
			}
		}
	}
	names := titles(p.Modes)
	for _, m := range p.Modes {
		row := placeView{Title: names[m.key()], Slug: slug(names[m.key()])}
		for _, fabric := range p.Fabrics {
			var cells []cellView
			for _, c := range p.cells(m, fabric) {
				view := at[c.Feature.Name+" "+row.Title]
				view.Glyph = p.glyph(c)
				cells = append(cells, view)
			}
			row.On = append(row.On, cells)
		}
		rows = append(rows, row)
	}
	return rows
}
