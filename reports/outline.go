package reports

import (
	_ "embed"
	"fmt"
	"html/template"
	"slices"
	"strings"
)

//go:embed page/drawing.css
var drawingCSS string

// Drawing is a graph as an SVG document (SVG 2), which needs no other file.
func Drawing(g Graph) string {
	svg := string(drawGraph(g, "lab"))
	head, body, _ := strings.Cut(svg, ">")
	return strings.Replace(head, "<svg ", `<svg xmlns="http://www.w3.org/2000/svg" `, 1) + "><style>" + template.HTMLEscapeString(drawingCSS) + "</style>" + body + "\n"
}

// Outline is a graph as text: each node below its parent, with its notes and what it is joined to.
func Outline(g Graph) string {
	var b strings.Builder
	parent := parents(g)
	joined := map[string][]string{}
	for _, e := range g.Edges {
		label := "— "
		if e.Label != "" {
			label += e.Label + " — "
		}
		joined[e.From], joined[e.To] = append(joined[e.From], label+e.To), append(joined[e.To], label+e.From)
	}
	var write func(of string, depth int)
	write = func(of string, depth int) {
		width := 0
		for _, n := range g.Nodes {
			if parent[n.ID] == of {
				width = max(width, len(n.Label))
			}
		}
		for _, n := range g.Nodes {
			if parent[n.ID] != of || n.ID == "" {
				continue
			}
			line := fmt.Sprintf("%s%-*s", strings.Repeat("  ", depth), width, n.Label)
			if slices.Contains([]string{"tor", "host", "external", "container"}, n.Kind) {
				line += "  " + n.Kind
			}
			for _, more := range [][]string{n.Notes, joined[n.ID]} {
				if len(more) > 0 {
					line += "  " + strings.Join(more, "  ")
				}
			}
			b.WriteString(strings.TrimRight(line, " ") + "\n")
			write(n.ID, depth+1)
		}
	}
	write("", 0)
	return b.String()
}
