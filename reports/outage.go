package reports

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// What the suite of failures measures, several times each: how long who asked a container was not answered, and how much of that was after
// the cause was gone. Of an outage in which no question was lost, both are 0.
const (
	OutageUnit = "outage-sec"
	BackUnit   = "back-sec"
)

// outageFeatures are the failures, in the order of the table. Most are over at a moment that the bench chooses: what a mode costs is what comes after it.
var outageFeatures = []struct{ Name, Title, Unit string }{
	{"outage-link", "Uplink lost, from when it is back", BackUnit},
	{"outage-switch", "Switch restarts, from when it is up", BackUnit},
	{"outage-host", "Host dies, from when it is up", BackUnit},
	{"outage-session", "BGP session is reset", OutageUnit},
	{"outage-move", "Container moves to another host", OutageUnit},
	{"outage-failover", "Host dies, its container is on another, from when it is there", BackUnit},
}

// Outage is what one failure costs who asks a container of one mode.
type Outage struct {
	Text, More string // the median, and the least and the most
	State      string
	Href       string // of its cell, on the page
	feature    string
}

// Outages are what failures cost with one mode on one kernel.
type Outages struct {
	Mode  Mode
	Title string
	On    Fidelity
	Cells []Outage // one for each of the failures
}

// outageTable is the rows, for those failures that something is told of.
func outageTable(res Results) (heads []string, rows []Outages) {
	titles := titles(res.Modes)
	var asked []int
	for i, f := range outageFeatures {
		if slices.ContainsFunc(res.Results, func(r Result) bool { return r.Feature == f.Name }) {
			asked, heads = append(asked, i), append(heads, f.Title)
		}
	}
	for _, r := range res.Results {
		at := slices.IndexFunc(asked, func(i int) bool { return outageFeatures[i].Name == r.Feature })
		if at < 0 {
			continue
		}
		i := slices.IndexFunc(rows, func(o Outages) bool {
			return o.Mode.Name == r.Mode && o.Mode.Implementation == r.Implementation && o.On.platform() == r.Fidelity.platform()
		})
		if i < 0 {
			m := Mode{Name: r.Mode, Implementation: r.Implementation}
			rows = append(rows, Outages{Mode: m, Title: cmp.Or(titles[m.key()], r.Mode), On: r.Fidelity, Cells: make([]Outage, len(asked))})
			i = len(rows) - 1
		}
		rows[i].Cells[at] = outageOf(r, outageFeatures[asked[at]].Unit)
		rows[i].Cells[at].feature = r.Feature
	}
	return heads, rows
}

// outageOf is a result in words.
func outageOf(r Result, unit string) Outage {
	var all []float64
	for _, v := range r.Values {
		if v.Unit == unit {
			all = append(all, v.Value)
		}
	}
	switch {
	case r.Outcome == Unable:
		return Outage{Text: glyphs[stateUnable], State: stateUnable}
	case r.Observed == NotApplicable:
		return Outage{Text: glyphs[stateNone], State: stateNone}
	}
	o := Outage{State: stateWorks}
	if r.Outcome == Fail {
		o.State = stateFail
	}
	if len(all) == 0 {
		o.Text = "not again"
		if o.State == stateWorks {
			o.State = stateBlocked
		}
		return o
	}
	slices.Sort(all)
	least, most := all[0], all[len(all)-1]
	o.Text = thousandths(all[len(all)/2]) + " ms"
	if len(all) > 1 {
		o.More = thousandths(least) + " to " + thousandths(most)
	}
	return o
}

// thousandths are seconds as milliseconds, with as many digits as a stream of one question a millisecond can tell.
func thousandths(s float64) string {
	if s > 0 && s < 0.01 {
		return fmt.Sprintf("%.1f", 1000*s)
	}
	return fmt.Sprintf("%.0f", 1000*s)
}

func markdownOutages(b *bytes.Buffer, res Results) {
	heads, rows := outageTable(res)
	if len(rows) == 0 {
		return
	}
	fmt.Fprintf(b, "### What an outage costs\n\n%s\n\n| | kernel |", outageText)
	for _, h := range heads {
		fmt.Fprintf(b, " %s |", h)
	}
	fmt.Fprintf(b, "\n|---|---|%s\n", strings.Repeat("--:|", len(heads)))
	for _, r := range rows {
		fmt.Fprintf(b, "| %s | %s |", md(r.Title), md(r.On.String()))
		for _, c := range r.Cells {
			fmt.Fprintf(b, " %s", c.Text)
			if c.More != "" {
				fmt.Fprintf(b, " (%s)", c.More)
			}
			b.WriteString(" |")
		}
		b.WriteByte('\n')
	}
	fmt.Fprintln(b)
}

// outageText says what stands in the table.
const outageText = "A container is asked a thousand times a second while something fails: for how many milliseconds it did not answer, the median of several times, and the least and the most. What stands here came back by itself, but for a host that died, where nothing does until the mode has set it up again. “Not again”: the container was not answered at its address any more."

// linkOutages gives the rows the cells of the matrices that are behind them.
func linkOutages(rows []Outages, apart []matrixView) {
	at := map[string]string{}
	for _, v := range apart {
		for _, g := range v.Groups {
			for _, row := range g.Rows {
				for _, c := range row.Cells {
					at[row.Name+" "+c.Mode] = c.Href
				}
			}
		}
	}
	for _, r := range rows {
		for i := range r.Cells {
			r.Cells[i].Href = at[r.Cells[i].feature+" "+r.Title]
		}
	}
}
