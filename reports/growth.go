package reports

import (
	"bytes"
	"fmt"
	"html/template"
	"math"
	"strings"
)

// Growth is how far one mode goes on one host, and what that costs as it grows.
type Growth struct {
	Mode     Mode
	Title    string
	On       Fidelity
	Most     int           // containers that were attached
	Limit    string        // why there were no more; empty: no more were wanted
	Attach   []growthPoint // seconds to attach all of them
	Memory   []growthPoint // bytes that the machine had less
	RTT      []growthPoint // seconds of a round trip from the last one
	Exponent float64       // of the time to attach, as a power of the number; 0: too few points
}

type growthPoint struct {
	Count int
	Value float64
}

// Growths are what the scale suite measured, in the order of the results.
func Growths(res Results) (list []Growth) {
	titles := titles(res.Modes)
	for _, r := range res.Results {
		g := Growth{Mode: Mode{Name: r.Mode, Implementation: r.Implementation}, On: r.Fidelity}
		for _, v := range r.Values {
			p := growthPoint{v.Count, v.Value}
			switch {
			case v.Unit == "containers":
				g.Most = int(v.Value)
			case v.Count == 0:
			case v.Unit == "attach-sec":
				g.Attach = append(g.Attach, p)
			case v.Unit == "mem-bytes":
				g.Memory = append(g.Memory, p)
			case v.Unit == "rtt-sec":
				g.RTT = append(g.RTT, p)
			}
		}
		if len(g.Attach) == 0 {
			continue
		}
		if g.Title = titles[g.Mode.key()]; g.Title == "" {
			g.Title = r.Mode
		}
		if r.Observed == Blocked && len(r.Evidence) > 0 {
			g.Limit = oneLine(r.Evidence[0].Saw)
		}
		g.Exponent = exponent(g.Attach)
		list = append(list, g)
	}
	return list
}

// exponent is the slope of a line through the logarithms, by least squares: the k of values that grow as count^k.
func exponent(points []growthPoint) float64 {
	var n, sx, sy, sxx, sxy float64
	for _, p := range points {
		if p.Count > 0 && p.Value > 0 {
			x, y := math.Log(float64(p.Count)), math.Log(p.Value)
			n, sx, sy, sxx, sxy = n+1, sx+x, sy+y, sxx+x*x, sxy+x*y
		}
	}
	if d := n*sxx - sx*sx; n >= 3 && d > 0 {
		return (n*sxy - sx*sy) / d
	}
	return 0
}

// perContainer is what one container took between the point before and this one.
func perContainer(points []growthPoint, i int) float64 {
	before := growthPoint{}
	if i > 0 {
		before = points[i-1]
	}
	return (points[i].Value - before.Value) / float64(points[i].Count-before.Count)
}

// First and Last are what one more container takes up to the first mark, and from the last but one to the last.
func (g Growth) First() string { return milliseconds(perContainer(g.Attach, 0)) }

// Last is told at First.
func (g Growth) Last() string { return milliseconds(perContainer(g.Attach, len(g.Attach)-1)) }

func milliseconds(s float64) string { return fmt.Sprintf("%.2f ms", 1000*s) }

// EachMemory is what a container takes of the machine's memory, over all of them.
func (g Growth) EachMemory() string {
	if len(g.Memory) == 0 {
		return "–"
	}
	last := g.Memory[len(g.Memory)-1]
	return fmt.Sprintf("%.0f KiB", last.Value/float64(last.Count)/1024)
}

// RoundTrip is that of the newest container, with few and with many.
func (g Growth) RoundTrip() string {
	if len(g.RTT) == 0 {
		return "–"
	}
	return fmt.Sprintf("%.0f → %.0f µs", 1e6*g.RTT[0].Value, 1e6*g.RTT[len(g.RTT)-1].Value)
}

// Power is the exponent in words.
func (g Growth) Power() string {
	if g.Exponent == 0 {
		return "–"
	}
	return fmt.Sprintf("n^%.2f", g.Exponent)
}

// Reached is how many there were, and why no more.
func (g Growth) Reached() string {
	if g.Limit == "" {
		return fmt.Sprintf("%d, all that were wanted", g.Most)
	}
	return fmt.Sprintf("%d, then: %s", g.Most, g.Limit)
}

// Curve draws the cost of one more container against how many there are, both by their logarithms: a level line is a cost that stays.
func (g Growth) Curve() template.HTML {
	const width, height, pad = 120.0, 28.0, 4.0
	lowX, highX := math.Log(float64(g.Attach[0].Count)), math.Log(float64(g.Attach[len(g.Attach)-1].Count))
	low, high := math.Inf(1), math.Inf(-1)
	for i := range g.Attach {
		y := math.Log(max(perContainer(g.Attach, i), 1e-9))
		low, high = min(low, y), max(high, y)
	}
	if high-low < math.Ln2 { // noise is not to look like growth
		middle := (high + low) / 2
		low, high = middle-math.Ln2/2, middle+math.Ln2/2
	}
	var path strings.Builder
	for i, p := range g.Attach {
		x, y := width/2, math.Log(max(perContainer(g.Attach, i), 1e-9))
		if highX > lowX {
			x = pad + (width-2*pad)*(math.Log(float64(p.Count))-lowX)/(highX-lowX)
		}
		fmt.Fprintf(&path, "%c%.1f %.1f", "ML"[min(i, 1)], x, height-pad-(height-2*pad)*(y-low)/(high-low))
	}
	label := fmt.Sprintf("%s: %s at %d, %s at %d containers", g.Title, g.First(), g.Attach[0].Count, g.Last(), g.Attach[len(g.Attach)-1].Count)
	return template.HTML(fmt.Sprintf(`<svg class="curve" viewBox="0 0 %.0f %.0f" width="%.0f" height="%.0f" role="img" aria-label="%s"><path fill="none" stroke="currentColor" stroke-width="1.5" d="%s"/></svg>`,
		width, height, width, height, template.HTMLEscapeString(label), path.String()))
}

func markdownGrowth(b *bytes.Buffer, res Results) {
	list := Growths(res)
	if len(list) == 0 {
		return
	}
	fmt.Fprintf(b, "### How far it goes\n\nContainers of one network on one host.\n\n| | kernel | containers | one more, at first | at last | time to attach n | memory each | round trip |\n|---|---|---|--:|--:|--:|--:|--:|\n")
	for _, g := range list {
		fmt.Fprintf(b, "| %s | %s | %s | %s | %s | %s | %s | %s |\n", md(g.Title), md(g.On.String()), md(g.Reached()), g.First(), g.Last(), g.Power(), g.EachMemory(), g.RoundTrip())
	}
	fmt.Fprintln(b)
}
