package reports

import (
	"bytes"
	"fmt"
	"slices"
)

// What the suite of scale measures of one container that is attached and detached again and again: seconds of each.
const (
	AttachUnit = "attach-each-sec"
	DetachUnit = "detach-each-sec"
)

// Attaching is how long one container of one mode takes, by one implementation, on one kernel. Text is a median; in brackets is what holds it with a
// confidence of 95 %.
type Attaching struct {
	Mode           Mode
	Title          string
	On             Fidelity
	Attach, Detach string
	Ratio          string // to what modebench's own steps took in the same run; empty: they are meant, or were not measured

	attach spread
}

// spread is a median, and the interval that holds it.
type spread struct{ centre, low, high float64 }

func spreadOf(values []float64) spread {
	var s spread
	if len(values) > 0 {
		s.centre, s.low, s.high = interval(values)
	}
	return s
}

func (s spread) String() string {
	if s.centre == 0 {
		return "–"
	}
	return fmt.Sprintf("%s [%s to %s]", quantity(s.centre, "sec"), quantity(s.low, "sec"), quantity(s.high, "sec"))
}

// Attachings are the rows, by mode, modebench's own steps first. The interval of a ratio holds both of what it is made of at their worst.
func Attachings(res Results) (rows []Attaching) {
	names := titles(res.Modes)
	for _, r := range res.Results {
		values := map[string][]float64{}
		for _, v := range r.Values {
			values[v.Unit] = append(values[v.Unit], v.Value)
		}
		if len(values[AttachUnit]) == 0 {
			continue
		}
		a := Attaching{Mode: Mode{Name: r.Mode, Implementation: r.Implementation}, On: r.Fidelity, attach: spreadOf(values[AttachUnit])}
		if a.Title = names[a.Mode.key()]; a.Title == "" {
			a.Title = r.Mode
		}
		a.Attach, a.Detach = a.attach.String(), spreadOf(values[DetachUnit]).String()
		rows = append(rows, a)
	}
	for i, a := range rows {
		own := slices.IndexFunc(rows, func(o Attaching) bool {
			return o.Mode.Name == a.Mode.Name && o.Mode.Implementation == kernel && o.On.platform() == a.On.platform()
		})
		if own < 0 || own == i || rows[own].attach.low == 0 {
			continue
		}
		by := rows[own].attach
		rows[i].Ratio = fmt.Sprintf("%.1f times [%.1f to %.1f]", a.attach.centre/by.centre, a.attach.low/by.high, a.attach.high/by.low)
	}
	return rows
}

// attachingText is what the table says of itself, wherever it stands.
const attachingText = "One container, attached and detached one at a time, from its namespace to its last step: the median, and in brackets what holds it with a confidence of 95 %. " +
	"By an engine that is the whole container, its process and files included."

func markdownAttachings(b *bytes.Buffer, res Results) {
	rows := Attachings(res)
	if len(rows) == 0 {
		return
	}
	fmt.Fprintf(b, "### How long one container takes\n\n%s\n\n| | kernel | attach | detach | attach, to modebench's own steps |\n|---|---|--:|--:|--:|\n", attachingText)
	for _, a := range rows {
		fmt.Fprintf(b, "| %s | %s | %s | %s | %s |\n", md(a.Title), md(a.On.String()), a.Attach, a.Detach, a.Ratio)
	}
	fmt.Fprintln(b)
}
