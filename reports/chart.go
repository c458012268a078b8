package reports

import (
	"fmt"
	"html/template"
	"math"
	"slices"
	"strings"
	"unicode/utf8"
)

// Sizes of a chart in its own units; the page scales it to its column.
const (
	chartWidth = 400.0
	chartRune  = 6.4  // room for one letter of the names on the left
	chartValue = 50.0 // room for the numbers on the right
	chartRow   = 19.0
	chartHead  = 20.0
)

// Names are 20 letters wide at least, so that charts of one page mostly have the same plot, and 30 at most.
const leastName, mostName = 20, 30

// scale maps a logarithmic axis to the plot.
type scale struct{ low, high, left float64 }

func (s scale) x(v float64) float64 {
	v = min(max(v, s.low), s.high)
	return s.left + (chartWidth-s.left-chartValue)*math.Log(v/s.low)/math.Log(s.high/s.low)
}

// nameWidth is the room for a name.
func nameWidth(name string) float64 {
	return chartRune * float64(min(utf8.RuneCountInString(name), mostName))
}

// chartRowOf is one row of a ratio chart.
type chartRowOf struct {
	Name string
	Summary
}

// ratioChart draws ratios to the baseline: a dot for the median, hollow where no difference is shown, a whisker for the
// interval, a band for the noise floor.
func ratioChart(rows []chartRowOf, label string) template.HTML {
	s := scale{0.92, 1.08, chartRune * leastName}
	var noise float64
	for _, r := range rows {
		s.left = max(s.left, nameWidth(r.Name))
		if r.Blocks == 0 {
			continue
		}
		low, high := r.Ratio, r.Ratio
		if r.Interval {
			low, high = r.Low, r.High
		}
		if low > 0 {
			s.low = min(s.low, low*0.97)
		}
		s.high = max(s.high, high*1.03)
		noise = max(noise, r.Noise)
	}
	height := chartHead + chartRow*float64(len(rows)) + 4
	var b strings.Builder
	fmt.Fprintf(&b, `<svg class="chart" viewBox="0 0 %.0f %.0f" role="img" aria-label="%s">`, chartWidth, height, template.HTMLEscapeString(label))
	if noise > 0 {
		left, right := s.x(1-min(noise, 0.99)), s.x(1+noise)
		fmt.Fprintf(&b, `<rect class="noise" x="%.1f" y="%.1f" width="%.1f" height="%.1f"><title>noise floor: ±%.1f %%</title></rect>`,
			left, chartHead-2, right-left, height-chartHead, noise*100)
	}
	axis(&b, s, height, ratioTicks(s), func(v float64) string {
		return strings.TrimSuffix(strings.TrimRight(fmt.Sprintf("%.2f", v), "0"), ".") + "×"
	})
	for i, r := range rows {
		y := chartHead + chartRow*(float64(i)+0.5)
		s.row(&b, r.Name, y)
		if r.Blocks == 0 {
			fmt.Fprintf(&b, `<text class="v" x="%.0f" y="%.1f">–</text></g>`, chartWidth, y+4)
			continue
		}
		class := "none"
		switch {
		case r.Verdict == Reference:
			class = "base"
		case r.Verdict == NoDifference || !r.Interval:
		case r.worse():
			class = "worse"
		default:
			class = "better"
		}
		fmt.Fprintf(&b, `<title>%s: %s, %s</title>`, template.HTMLEscapeString(r.Name), r.interval(), r.Verdict)
		fmt.Fprintf(&b, `<g class="m %s">`, class)
		if r.Interval && r.Verdict != Reference {
			fmt.Fprintf(&b, `<path d="M%.1f %.1fH%.1fM%.1f %.1fv7M%.1f %.1fv7"/>`, s.x(r.Low), y, s.x(r.High), s.x(r.Low), y-3.5, s.x(r.High), y-3.5)
		}
		fmt.Fprintf(&b, `<circle cx="%.1f" cy="%.1f" r="3.6"/></g><text class="v" x="%.0f" y="%.1f">%s</text></g>`, s.x(r.Ratio), y, chartWidth, y+4, times(r.Ratio))
	}
	b.WriteString(`</svg>`)
	return template.HTML(b.String())
}

// axis draws the ticks that fit and the line at 1.
func axis(b *strings.Builder, s scale, height float64, ticks []float64, text func(float64) string) {
	var taken []float64
	for _, tick := range ticks {
		x := s.x(tick)
		if slices.ContainsFunc(taken, func(t float64) bool { return math.Abs(t-x) < 34 }) {
			continue
		}
		taken = append(taken, x)
		class := "tick"
		if tick == 1 {
			class = "one"
		}
		fmt.Fprintf(b, `<path class="%s" d="M%.1f %.1fV%.1f"/><text class="t" x="%.1f" y="11">%s</text>`, class, x, chartHead-4, height, x, text(tick))
	}
}

// ratioTicks returns round ratios within the scale, 1 first as it always fits.
func ratioTicks(s scale) []float64 {
	ticks := []float64{1}
	for _, t := range []float64{0.01, 0.1, 100, 10, 0.5, 2, 5, 0.2, 50, 20, 0.05, 0.02, 1.5, 3, 0.75, 1.25, 0.9, 1.1, 0.8, 1.2, 0.6, 4, 0.3, 0.4, 0.7, 1.05, 0.95} {
		if s.low <= t && t <= s.high {
			ticks = append(ticks, t)
		}
	}
	return ticks
}

// row opens the group of a row and writes its name.
func (s scale) row(b *strings.Builder, name string, y float64) {
	if runes := []rune(name); len(runes) > mostName {
		name = string(runes[:mostName-1]) + "…"
	}
	fmt.Fprintf(b, `<g class="r"><path class="guide" d="M%.0f %.1fH%.0f"/><text class="n" x="0" y="%.1f">%s</text>`,
		s.left, y, chartWidth-chartValue, y+4, template.HTMLEscapeString(name))
}

// latencyRow is the percentiles of one mode's round trip.
type latencyRow struct {
	Name   string
	Values []float64 // one for each of latencyUnits, 0: not measured
}

var (
	latencyUnits = []string{"p50-sec", "p90-sec", "p99-sec", "p999-sec", "max-sec"}
	latencyNames = []string{"median", "90 %", "99 %", "99.9 %", "longest"}
)

// latencyChart draws where the round trips of each mode lie: a dot for the median, a line with marks up to 99.9 %, a ring
// for the longest.
func latencyChart(rows []latencyRow, label string) template.HTML {
	s := scale{math.Inf(1), 0, chartRune * leastName}
	for _, r := range rows {
		s.left = max(s.left, nameWidth(r.Name))
		for _, v := range r.Values {
			if v > 0 {
				s.low, s.high = min(s.low, v*0.9), max(s.high, v*1.1)
			}
		}
	}
	if s.high == 0 {
		return ""
	}
	height := chartHead + chartRow*float64(len(rows)) + 4
	var b strings.Builder
	fmt.Fprintf(&b, `<svg class="chart" viewBox="0 0 %.0f %.0f" role="img" aria-label="%s">`, chartWidth, height, template.HTMLEscapeString(label))
	var ticks []float64
	for decade := math.Pow(10, math.Floor(math.Log10(s.low))); decade <= s.high; decade *= 10 {
		for _, step := range []float64{1, 2, 5} {
			if t := decade * step; s.low <= t && t <= s.high {
				ticks = append(ticks, t)
			}
		}
	}
	axis(&b, s, height, ticks, func(v float64) string {
		number, unit, _ := strings.Cut(duration(v), " ")
		if strings.Contains(number, ".") {
			number = strings.TrimRight(strings.TrimRight(number, "0"), ".")
		}
		return number + " " + unit
	})
	for i, r := range rows {
		y := chartHead + chartRow*(float64(i)+0.5)
		s.row(&b, r.Name, y)
		var title []string
		for j, v := range r.Values {
			if v > 0 {
				title = append(title, latencyNames[j]+" "+duration(v))
			}
		}
		fmt.Fprintf(&b, `<title>%s: %s</title><g class="m none">`, template.HTMLEscapeString(r.Name), strings.Join(title, ", "))
		if last := r.Values[3]; r.Values[0] > 0 && last > 0 {
			fmt.Fprintf(&b, `<path d="M%.1f %.1fH%.1f"/>`, s.x(r.Values[0]), y, s.x(last))
		}
		for j, v := range r.Values {
			switch {
			case v == 0:
			case j == 0:
				fmt.Fprintf(&b, `<circle class="full" cx="%.1f" cy="%.1f" r="3.6"/>`, s.x(v), y)
			case j == len(r.Values)-1:
				fmt.Fprintf(&b, `<circle class="ring" cx="%.1f" cy="%.1f" r="2.2"/>`, s.x(v), y)
			default:
				fmt.Fprintf(&b, `<path d="M%.1f %.1fv8"/>`, s.x(v), y-4)
			}
		}
		fmt.Fprintf(&b, `</g><text class="v" x="%.0f" y="%.1f">%s</text></g>`, chartWidth, y+4, duration(r.Values[2]))
	}
	b.WriteString(`</svg>`)
	return template.HTML(b.String())
}

// bar draws a tally as a strip.
func bar(t tally) template.HTML {
	all := t.All()
	if all == 0 {
		return ""
	}
	var b strings.Builder
	b.WriteString(`<svg class="bar" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">`)
	x := 0.0
	for _, part := range []struct {
		state string
		n     int
	}{{stateFail, t.Fail}, {stateWorks, t.Works}, {stateBlocked, t.Blocked}, {stateNone, t.None}, {stateUnable, t.Unable + t.Missing}} {
		if part.n > 0 {
			w := 100 * float64(part.n) / float64(all)
			fmt.Fprintf(&b, `<rect class="s-%s" x="%.2f" width="%.2f" height="8"/>`, part.state, x, w)
			x += w
		}
	}
	b.WriteString(`</svg>`)
	return template.HTML(b.String())
}
