package reports

import (
	"fmt"
	"html/template"
	"slices"
	"strings"
	"unicode/utf8"
)

// box is a node being laid out: its size comes from what it holds, its place from its parent.
type box struct {
	Node
	ids        []string // of the nodes drawn as this box
	columns    [][]*box // what is drawn inside, from left to right
	gaps       []float64
	x, y, w, h float64
}

const (
	charWidth  = 6.3 // of the monospaced face at its size in the style sheet
	lineHeight = 13.0
	headHeight = 19.0
	inset      = 9.0
	gapDown    = 7.0
	gapAcross  = 30.0
	mostKin    = 12 // boxes of one kind within one parent; more are told as a number
)

// drawGraph draws a graph from left to right: machines outside, then switches, then hosts, and within each what is nearest
// to the wire first. The same graph is drawn the same way. Of nodes with one identifier the first is drawn, one without is not.
func drawGraph(g Graph, label string) template.HTML {
	if len(g.Nodes) == 0 {
		return ""
	}
	known := map[string]bool{"": true}
	g.Nodes = slices.DeleteFunc(slices.Clone(g.Nodes), func(n Node) bool {
		again := known[n.ID]
		known[n.ID] = true
		return again
	})
	parent := parents(g)
	kids := map[string][]*box{}
	for _, n := range g.Nodes {
		kids[parent[n.ID]] = append(kids[parent[n.ID]], &box{Node: n, ids: []string{n.ID}})
	}
	root := &box{}
	var fill func(b *box, id string, mirror bool)
	fill = func(b *box, id string, mirror bool) {
		list := thin(kids[id])
		for _, kid := range list {
			if len(kid.ids) > 0 {
				fill(kid, kid.ID, mirror || id == "" && kid.Kind == "external")
			}
		}
		if id != "" && len(list) == 1 && len(list[0].columns) == 0 && len(b.Notes) == 0 {
			only := list[0]
			b.ids = append(b.ids, only.ids...)
			b.Label += " " + only.Label
			b.Notes = only.Notes
			return
		}
		if id == "" {
			b.columns = byKind(list)
		} else {
			b.columns = byDistance(list, g, parent, id)
		}
		if mirror {
			slices.Reverse(b.columns)
		}
	}
	fill(root, "", false)

	at := map[string]*box{}
	var index func(b *box)
	index = func(b *box) {
		for _, id := range b.ids {
			at[id] = b
		}
		for _, list := range b.columns {
			for _, kid := range list {
				index(kid)
			}
		}
	}
	index(root)
	measure(root, func(left, right []*box) float64 {
		gap := gapAcross
		for _, e := range g.Edges {
			from, to := at[e.From], at[e.To]
			if from != nil && to != nil && (within(left, from) && within(right, to) || within(right, from) && within(left, to)) {
				gap = max(gap, 16+charWidth*float64(utf8.RuneCountInString(e.Label)))
			}
		}
		return gap
	})
	place(root, 0, 0)

	var b strings.Builder
	fmt.Fprintf(&b, `<svg class="graph" viewBox="-1 -1 %.0f %.0f" width="%.0f" height="%.0f" role="img" aria-label="%s">`,
		root.w+2, root.h+2, root.w+2, root.h+2, template.HTMLEscapeString(label))
	var boxes func(b *box, out *strings.Builder)
	boxes = func(bx *box, out *strings.Builder) {
		for _, list := range bx.columns {
			for _, kid := range list {
				fmt.Fprintf(out, `<g class="k-%s"><rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" rx="4"/><text class="l" x="%.1f" y="%.1f">%s</text>`,
					slug(kid.Kind), kid.x, kid.y, kid.w, kid.h, kid.x+8, kid.y+14, template.HTMLEscapeString(kid.Label))
				for i, note := range kid.Notes {
					fmt.Fprintf(out, `<text x="%.1f" y="%.1f">%s</text>`, kid.x+8, kid.y+14+lineHeight*float64(i+1), template.HTMLEscapeString(note))
				}
				out.WriteString(`</g>`)
				boxes(kid, out)
			}
		}
	}
	boxes(root, &b)
	for _, e := range g.Edges {
		from, to := at[e.From], at[e.To]
		if from == nil || to == nil || from == to {
			continue
		}
		drawEdge(&b, from, to, e.Label)
	}
	b.WriteString(`</svg>`)
	return template.HTML(b.String())
}

func drawEdge(b *strings.Builder, from, to *box, label string) {
	if from.x+from.w/2 > to.x+to.w/2 {
		from, to = to, from
	}
	x1, y1, x2, y2 := from.x+from.w, from.y+from.h/2, to.x, to.y+to.h/2
	if x2 < x1 { // one above the other
		x1, x2 = from.x+from.w/2, to.x+to.w/2
		if y1, y2 = from.y+from.h, to.y; y2 < y1 {
			y1, y2 = from.y, to.y+to.h
		}
	}
	mid := (x1 + x2) / 2
	fmt.Fprintf(b, `<path class="e" d="M%.1f %.1fC%.1f %.1f %.1f %.1f %.1f %.1f"/>`, x1, y1, mid, y1, mid, y2, x2, y2)
	if label != "" {
		fmt.Fprintf(b, `<text class="el" x="%.1f" y="%.1f">%s</text>`, mid, (y1+y2)/2-3, template.HTMLEscapeString(label))
	}
}

// parents returns the parent of each node; a parent that is not there, or that is inside its own child, is none.
func parents(g Graph) map[string]string {
	parent := map[string]string{}
	for _, n := range g.Nodes {
		parent[n.ID] = n.Parent
	}
	for _, n := range g.Nodes {
		up, steps := n.Parent, 0
		for up != "" && steps <= len(g.Nodes) {
			next, ok := parent[up]
			if !ok {
				break
			}
			up = next
			steps++
		}
		if up != "" {
			parent[n.ID] = ""
		}
	}
	return parent
}

// thin leaves out what would only repeat: of many boxes of a kind, the last are told as a number.
func thin(list []*box) []*box {
	count := map[string]int{}
	for _, b := range list {
		count[b.Kind]++
	}
	seen := map[string]int{}
	var kept []*box
	for _, b := range list {
		switch seen[b.Kind]++; {
		case count[b.Kind] <= mostKin || seen[b.Kind] < mostKin:
			kept = append(kept, b)
		case seen[b.Kind] == mostKin:
			kept = append(kept, &box{Node: Node{Kind: "more", Label: fmt.Sprintf("… and %d more", count[b.Kind]-mostKin+1)}})
		}
	}
	return kept
}

// byKind parts the outermost boxes into columns.
func byKind(list []*box) [][]*box {
	columns := make([][]*box, 3)
	for _, b := range list {
		switch b.Kind {
		case "external":
			columns[0] = append(columns[0], b)
		case "tor":
			columns[1] = append(columns[1], b)
		default:
			columns[2] = append(columns[2], b)
		}
	}
	return slices.DeleteFunc(columns, func(c []*box) bool { return len(c) == 0 })
}

// byDistance parts the boxes inside one into columns by their distance from what leaves it. Those that are joined to each other
// only, as what a host routes to, follow: by their distance from a bridge, or else from the one that most are joined to.
func byDistance(list []*box, g Graph, parent map[string]string, id string) [][]*box {
	// own is the box of the list that a node is in; "" for a node outside.
	own := func(node string) string {
		for node != "" {
			if parent[node] == id {
				return node
			}
			node = parent[node]
		}
		return ""
	}
	next := map[string][]string{}
	distance := map[string]int{}
	var queue []string
	for _, e := range g.Edges {
		from, to := own(e.From), own(e.To)
		next[from] = append(next[from], to)
		next[to] = append(next[to], from)
	}
	reach := func(node string, d int) {
		if _, ok := distance[node]; !ok && node != "" {
			distance[node] = d
			queue = append(queue, node)
		}
	}
	for _, b := range list {
		if slices.Contains(next[b.ID], "") {
			reach(b.ID, 0)
		}
	}
	far := 0
	spread := func() {
		for len(queue) > 0 {
			node := queue[0]
			queue = queue[1:]
			far = max(far, distance[node])
			for _, n := range next[node] {
				reach(n, distance[node]+1)
			}
		}
	}
	spread()
	apart := slices.Clone(list)
	degree := func(b *box) int {
		if b.Kind == "bridge" {
			return len(g.Edges) + 1
		}
		return len(next[b.ID])
	}
	slices.SortStableFunc(apart, func(a, b *box) int { return degree(b) - degree(a) })
	first := 0
	if len(distance) > 0 {
		first = far + 1
	}
	for _, b := range apart {
		if len(next[b.ID]) > 0 {
			reach(b.ID, first)
			spread()
		}
	}
	columns := make([][]*box, far+1)
	for _, b := range list {
		d, ok := distance[b.ID]
		if !ok { // joined to nothing: with what is farthest from the wire
			d = far
		}
		columns[d] = append(columns[d], b)
	}
	return slices.DeleteFunc(columns, func(c []*box) bool { return len(c) == 0 })
}

func within(list []*box, b *box) bool {
	for _, l := range list {
		if l == b {
			return true
		}
		for _, c := range l.columns {
			if within(c, b) {
				return true
			}
		}
	}
	return false
}

func measure(b *box, gap func(left, right []*box) float64) {
	text := utf8.RuneCountInString(b.Label)
	for _, note := range b.Notes {
		text = max(text, utf8.RuneCountInString(note))
	}
	width := 16 + charWidth*float64(text)
	height := headHeight + lineHeight*float64(len(b.Notes))
	if len(b.Notes) > 0 {
		height += 4
	}
	b.gaps = nil
	var inside, tallest float64
	for i, list := range b.columns {
		if i > 0 {
			b.gaps = append(b.gaps, gap(b.columns[i-1], list))
			inside += b.gaps[i-1]
		}
		var widest, down float64
		for _, kid := range list {
			measure(kid, gap)
			widest = max(widest, kid.w)
			down += kid.h + gapDown
		}
		inside += widest
		tallest = max(tallest, down-gapDown)
	}
	if len(b.columns) == 0 {
		b.w, b.h = width, height
		return
	}
	if len(b.ids) == 0 { // the drawing itself has no frame
		b.w, b.h = inside, tallest
		return
	}
	b.w = max(width, inside+2*inset)
	b.h = height + 4 + tallest + inset
}

func place(b *box, x, y float64) {
	b.x, b.y = x, y
	left, top, room := x, y, b.h
	if len(b.ids) > 0 {
		used := headHeight + lineHeight*float64(len(b.Notes)) + 4
		left, top, room = x+inset, y+used, b.h-used-inset
	}
	for i, list := range b.columns {
		var widest, down float64
		for _, kid := range list {
			widest = max(widest, kid.w)
			down += kid.h + gapDown
		}
		kidTop := top + (room-(down-gapDown))/2
		for _, kid := range list {
			place(kid, left, kidTop)
			kidTop += kid.h + gapDown
		}
		left += widest
		if i < len(b.gaps) {
			left += b.gaps[i]
		}
	}
}
