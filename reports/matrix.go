package reports

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// Matrix returns the matrix for a terminal of the given width in characters (0: as wide as it gets), one row a mode:
// how many cells are as expected, the features that tell the modes apart best, and the ratios to the baseline of the round
// trip and of the rate of new connections. Every line ends in a newline; color adds escape sequences of ECMA-48.
func Matrix(res Results, width int, color bool) string {
	t := tabulate(res, inMatrix)
	costs := headlines(Summarise(res))
	modes := t.Modes
	for _, m := range res.Modes {
		if len(t.Modes) == 0 && len(costs[m.key()]) > 0 {
			modes = append(modes, m)
		}
	}
	if len(modes) == 0 {
		return ""
	}
	names := titles(modes)

	name := 4
	for _, m := range modes {
		name = max(name, utf8.RuneCountInString(names[m.key()]))
	}
	columns := []column{}
	if len(t.Features) > 0 {
		columns = append(columns, column{head: []string{"as", "expected"}, text: func(m Mode) (string, string) {
			n := t.tally(m)
			state := stateWorks
			if n.Fail+n.Missing > 0 {
				state = stateFail
			}
			return fmt.Sprintf("%d/%d", n.AsExpected(), n.Told()), state
		}})
		if t.several() {
			columns = append(columns, column{head: []string{"on kernel"}, text: func(m Mode) (string, string) {
				return kernelsText(t.on[m.key()]), ""
			}})
		}
	}
	var right []column
	for _, key := range []int{0, 2} {
		if slices.ContainsFunc(modes, func(m Mode) bool { return costs[m.key()][key].Blocks > 0 }) {
			right = append(right, column{head: []string{metrics[key].Short, "× host"}, text: func(m Mode) (string, string) {
				s := costs[m.key()][key]
				if s.Blocks == 0 {
					return "–", stateNone
				}
				return fmt.Sprintf("%.2f", s.Ratio), ""
			}})
		}
	}
	room := func() int {
		used := 2 + name
		for _, c := range append(slices.Clone(columns), right...) {
			used += 2 + c.width(modes)
		}
		return width - used
	}
	for _, f := range telling(t) {
		c := column{head: wrapName(f.Name, 10), states: true, text: func(m Mode) (string, string) {
			c := t.at(m, f)
			return c.text(), c.state()
		}}
		if width > 0 && room() < 2+c.width(modes) {
			break
		}
		columns = append(columns, c)
	}
	columns = append(columns, right...)

	note := ""
	if len(t.differing()) > 0 {
		note = "several glyphs in a cell: on " + strings.Join(platformNames(t.On), ", ") + ", in this order"
	}
	return grid(modes, names, columns, note, width, color)
}

// grid is a row for each mode, a note where there is one, and the legend of the glyphs that are used.
func grid(modes []Mode, names map[modeKey]string, columns []column, note string, width int, color bool) string {
	name, lines := 4, 0
	for _, m := range modes {
		name = max(name, utf8.RuneCountInString(names[m.key()]))
	}
	for _, c := range columns {
		lines = max(lines, len(c.head))
	}
	var b strings.Builder
	line := func(cells []string) {
		b.WriteString(strings.TrimRight("  "+strings.Join(cells, "  "), " ") + "\n")
	}
	for i := range lines {
		cells := []string{pad("", name)}
		for _, c := range columns {
			text := ""
			if j := i - (lines - len(c.head)); j >= 0 {
				text = c.head[j]
			}
			cells = append(cells, center(text, c.width(modes)))
		}
		line(cells)
	}
	used := map[string]bool{}
	for _, m := range modes {
		cells := []string{pad(names[m.key()], name)}
		for _, c := range columns {
			text, state := c.text(m)
			for s, glyph := range glyphs {
				if c.states && strings.Contains(text, glyph) {
					used[s] = true
				}
			}
			cells = append(cells, paint(center(text, c.width(modes)), state, color))
		}
		line(cells)
	}
	if note != "" {
		line([]string{note})
	}
	var legend []string
	length := 0
	for _, m := range meanings {
		if !used[m.State] {
			continue
		}
		more := 3 + utf8.RuneCountInString(glyphs[m.State]+" "+m.Text)
		if length += more; width > 0 && length > width && len(legend) > 0 {
			line([]string{strings.Join(legend, "   ")})
			legend, length = nil, more
		}
		legend = append(legend, paint(glyphs[m.State], m.State, color)+" "+m.Text)
	}
	if len(legend) > 0 {
		line([]string{strings.Join(legend, "   ")})
	}
	return b.String()
}

type column struct {
	head   []string
	states bool // text is glyphs of states
	text   func(Mode) (text, state string)
}

func (c column) width(modes []Mode) int {
	w := 0
	for _, h := range c.head {
		w = max(w, utf8.RuneCountInString(h))
	}
	for _, m := range modes {
		text, _ := c.text(m)
		w = max(w, utf8.RuneCountInString(text))
	}
	return w
}

// kernelsText names a mode's kernels in a column: one by its name, several by their number.
func kernelsText(on []platform) string {
	switch len(on) {
	case 0:
		return ""
	case 1:
		return on[0].String()
	}
	return plural(len(on), "kernel")
}

// telling returns the features worth a column where there is room for few: those with a cell that is not as expected or depends on the kernel, then,
// in the order of the matrix, those that set modes apart in a way that none before them does.
func telling(t table) []Feature {
	seen := map[string]bool{}
	var failed, fresh []Feature
	for _, f := range t.Features {
		var states []string
		fails := false
		for _, m := range t.Modes {
			state := t.at(m, f).state()
			fails = fails || state == stateFail || t.at(m, f).differs()
			states = append(states, state)
		}
		pattern := strings.Join(states, " ")
		differs := strings.Contains(pattern, stateWorks) && strings.Contains(pattern, stateBlocked)
		switch {
		case fails:
			failed = append(failed, f)
		case differs && !seen[pattern]:
			fresh = append(fresh, f)
		}
		seen[pattern] = true
	}
	return append(failed, fresh...)
}

// headlines returns the summary of each headline metric of each mode: same host and pinned where there is a choice.
func headlines(all []Summary) map[modeKey]map[int]Summary {
	byMode := map[modeKey]map[int]Summary{}
	better := func(s, than Summary) bool {
		rank := func(s Summary) int {
			n := 0
			if s.Path == "same-host" {
				n += 2
			}
			if s.Profile == "pinned" {
				n++
			}
			return n
		}
		return than.Unit == "" || rank(s) > rank(than)
	}
	for _, s := range all {
		if s.Variant != "" || s.Suite != "throughput" {
			continue
		}
		for i, m := range metrics {
			if m.Feature != s.Feature || m.Unit != s.Unit {
				continue
			}
			k := modeKey{s.Mode, s.Implementation}
			if byMode[k] == nil {
				byMode[k] = map[int]Summary{}
			}
			if better(s, byMode[k][i]) {
				byMode[k][i] = s
			}
		}
	}
	return byMode
}

// wrapName breaks a name at its hyphens into lines of at most width characters where it can.
func wrapName(name string, width int) []string {
	var lines []string
	for _, part := range strings.SplitAfter(name, "-") {
		if n := len(lines); n > 0 && len(lines[n-1])+len(part) <= width {
			lines[n-1] += part
		} else {
			lines = append(lines, part)
		}
	}
	for i := range lines[:len(lines)-1] {
		lines[i] = strings.TrimSuffix(lines[i], "-")
	}
	return lines
}

func pad(s string, width int) string {
	return s + strings.Repeat(" ", max(0, width-utf8.RuneCountInString(s)))
}

func center(s string, width int) string {
	free := max(0, width-utf8.RuneCountInString(s))
	return strings.Repeat(" ", free/2) + s + strings.Repeat(" ", free-free/2)
}

func paint(s, state string, color bool) string {
	code := map[string]string{stateWorks: "32", stateBlocked: "36", stateFail: "1;31", stateUnable: "33", stateMissing: "33", stateNone: "2"}[state]
	if !color || code == "" {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}
