package reports

import (
	"bytes"
	"fmt"
	"io"
	"strings"
)

// md writes text from a result so that Markdown shows it as it is, on one line, also within a table.
func md(s string) string {
	return strings.NewReplacer("|", `\|`, "<", "&lt;", ">", "&gt;", "*", `\*`, "_", `\_`, "`", "\\`", "[", `\[`).Replace(oneLine(s))
}

// writeMarkdown writes the report as one reads it in a pull request: what is unexpected first.
func writeMarkdown(w io.Writer, res Results) error {
	var b bytes.Buffer
	t := tabulate(res, inMatrix)
	sums := Summarise(res)
	names := titles(res.Modes)
	fmt.Fprintf(&b, "## modebench: %s\n\n", headlineText(res))
	fmt.Fprintf(&b, "%s\n\n", provenance(res))
	for _, warning := range warnings(res) {
		fmt.Fprintf(&b, "> **Note** %s\n\n", md(warning))
	}
	all := tabulate(res, observation)
	markdownCells(&b, all, stateFail, "Not as expected")
	markdownMatrix(&b, t)
	markdownKernels(&b, t)
	markdownCarriers(&b, t)
	markdownPlaces(&b, res)
	markdownCosts(&b, res, sums, names)
	markdownAttachings(&b, res)
	markdownGrowth(&b, res)
	markdownOutages(&b, res)
	markdownClaims(&b, res)
	markdownCells(&b, all, stateUnable, "Unable to tell here")
	fmt.Fprintf(&b, "<sub>Repeat with `modebench %s`.</sub>\n", shell(res.Run.Command))
	_, err := w.Write(b.Bytes())
	return err
}

// headlineText is the run in a sentence without its full stop.
func headlineText(res Results) string {
	t := tabulate(res, observation)
	n := t.tallyAll()
	if n.All() == 0 {
		return countModes(res.Modes) + " measured"
	}
	modes := countModes(t.Modes)
	if t.several() {
		modes += " on " + plural(len(t.On), "kernel")
	}
	s := fmt.Sprintf("%s, %d of %d cells as expected", modes, n.AsExpected(), n.Told())
	if n.Fail > 0 {
		s += fmt.Sprintf(", %d not", n.Fail)
	}
	if n.Unable > 0 {
		s += fmt.Sprintf(", %d this machine cannot tell", n.Unable)
	}
	return s
}

// countModes says how many there are, and by how many they are carried out where some mode has several.
func countModes(modes []Mode) string {
	t := table{Modes: modes}
	if len(t.carriers()) == 0 {
		return plural(len(modes), "networking mode")
	}
	names := map[string]bool{}
	for _, m := range modes {
		names[m.Name] = true
	}
	return fmt.Sprintf("%s by %s", plural(len(names), "networking mode"), plural(len(t.implementations()), "implementation"))
}

// provenance is where and when, in a line.
func provenance(res Results) string {
	m := res.Run.Machine
	kernels := "kernel " + m.Kernel
	for _, p := range platforms(res, func(r Result) bool { return r.Fidelity.Accelerator != "" }) {
		kernels += " and guest " + p.String()
	}
	parts := []string{}
	for _, p := range []string{
		res.Run.Started.Format("2006-01-02 15:04 UTC"), kernels, m.OS, m.Model, plural(m.CPUs, "CPU"),
		fmt.Sprintf("seed %d", res.Run.Seed), "modebench " + res.Run.Version, duration(res.Run.Seconds),
	} {
		if p != "" {
			parts = append(parts, p)
		}
	}
	return strings.Join(parts, " · ")
}

// warnings is what a reader must know before anything else.
func warnings(res Results) []string {
	var list []string
	if !res.Run.Complete {
		s := "This run is not complete."
		if n := len(res.Run.Missing); n > 0 {
			s = fmt.Sprintf("This run is not complete: %s never ran.", plural(n, "planned cell"))
		}
		list = append(list, s)
	}
	if n := len(res.Run.Elsewhere); n > 0 {
		list = append(list, fmt.Sprintf("This is a shard of a run: other shards have %s of it.", plural(n, "cell")))
	}
	if res.Run.Quick {
		list = append(list, "A quick run: too few blocks for intervals, so none are claimed and ratios are rough.")
	}
	return append(list, res.Run.Notes...)
}

func markdownCells(b *bytes.Buffer, t table, state, title string) {
	type line struct{ where, text string }
	var lines []line
	names := titles(t.Modes)
	for _, f := range t.Features {
		for _, m := range t.Modes {
			for _, r := range t.at(m, f).Results {
				if r.state() == state {
					where := names[m.key()] + " / " + f.Name
					if t.several() {
						where += " on " + r.Fidelity.platform().String()
					}
					text := r.Detail
					if state == stateFail {
						text = fmt.Sprintf("expected %s (%s), observed %s: %s", r.Expected, r.Reason, r.Observed, r.Detail)
					}
					lines = append(lines, line{where, text})
				}
			}
		}
	}
	if len(lines) == 0 {
		return
	}
	if state == stateFail {
		fmt.Fprintf(b, "### %s\n\n", title)
	} else {
		fmt.Fprintf(b, "<details><summary>%s: %d</summary>\n\n", title, len(lines))
	}
	for _, l := range lines {
		fmt.Fprintf(b, "- **%s**: %s\n", md(l.where), md(l.text))
	}
	if state != stateFail {
		b.WriteString("\n</details>\n")
	}
	b.WriteByte('\n')
}

func markdownMatrix(b *bytes.Buffer, t table) {
	if len(t.Features) == 0 {
		return
	}
	names := titles(t.Modes)
	b.WriteString("### What works\n\n")
	for i := 0; i < len(t.Features); {
		group := t.Features[i].Group
		var sum tally
		var rows bytes.Buffer
		for ; i < len(t.Features) && t.Features[i].Group == group; i++ {
			fmt.Fprintf(&rows, "| %s |", md(t.Features[i].Name))
			for _, m := range t.Modes {
				c := t.at(m, t.Features[i])
				sum.addAll(c)
				text := c.text()
				if c.differs() {
					text = "**" + text + "**"
				}
				fmt.Fprintf(&rows, " %s |", text)
			}
			rows.WriteByte('\n')
		}
		open := ""
		if sum.Fail > 0 {
			open = " open"
		}
		fmt.Fprintf(b, "<details%s><summary><b>%s</b>: %d of %d as expected</summary>\n\n| |", open, md(group), sum.AsExpected(), sum.Told())
		for _, m := range t.Modes {
			fmt.Fprintf(b, " %s", md(names[m.key()]))
			if on := t.label(m); on != "" {
				fmt.Fprintf(b, "<br><sub>%s</sub>", md(on))
			}
			b.WriteString(" |")
		}
		b.WriteString("\n|---|" + strings.Repeat(":-:|", len(t.Modes)) + "\n")
		b.Write(rows.Bytes())
		b.WriteString("\n</details>\n\n")
	}
	var legend []string
	for _, m := range meanings {
		legend = append(legend, glyphs[m.State]+" "+m.Text)
	}
	fmt.Fprintf(b, "%s\n\n", strings.Join(legend, " · "))
}

// markdownKernels lists the cells whose answer depends on the kernel.
func markdownKernels(b *bytes.Buffer, t table) {
	if !t.compared() {
		return
	}
	on := md(strings.Join(platformNames(t.On), ", "))
	list := t.differing()
	if len(list) == 0 {
		fmt.Fprintf(b, "No answer depends on the kernel: %s.\n\n", on)
		return
	}
	fmt.Fprintf(b, "### What depends on the kernel\n\nSeveral glyphs in a cell above are in the order of the kernels: %s.\n\n| | |", on)
	for _, p := range t.On {
		fmt.Fprintf(b, " %s |", md(p.String()))
	}
	b.WriteString("\n|---|---|" + strings.Repeat(":-:|", len(t.On)) + "\n")
	names := titles(t.Modes)
	for _, c := range list {
		fmt.Fprintf(b, "| %s | %s |", md(c.Feature.Name), md(names[c.Mode.key()]))
		for _, state := range c.statesOn(t.On) {
			fmt.Fprintf(b, " %s |", strings.TrimSpace(glyphs[state]+" "+state))
		}
		b.WriteByte('\n')
	}
	b.WriteByte('\n')
}

func markdownCosts(b *bytes.Buffer, res Results, sums []Summary, names map[modeKey]string) {
	if len(headlines(sums)) == 0 {
		return
	}
	fmt.Fprintf(b, "### What it costs\n\nRatios to a process of the host, paired within blocks; the median and its 95 %% interval. "+
		"Bold: a difference is shown.\n\n")
	groups := byFidelity(sums)
	for _, of := range groups {
		if len(groups) > 1 {
			fmt.Fprintf(b, "On **%s**, as ratios to a process of the host there:\n\n", md(of[0].Fidelity.String()))
		}
		markdownCostsOf(b, res, headlines(of), names)
		b.WriteByte('\n')
	}
	if text := natSentence(NATCost(res)); text != "" {
		fmt.Fprintf(b, "%s\n\n", text)
	}
}

func markdownCostsOf(b *bytes.Buffer, res Results, heads map[modeKey]map[int]Summary, names map[modeKey]string) {
	b.WriteString("| |")
	shown := []int{0, 2, 3, 5, 6}
	for _, i := range shown {
		fmt.Fprintf(b, " %s |", metrics[i].Title)
	}
	b.WriteString("\n|---|" + strings.Repeat("---|", len(shown)) + "\n")
	for _, m := range res.Modes {
		row := heads[m.key()]
		if row == nil {
			continue
		}
		fmt.Fprintf(b, "| %s |", md(names[m.key()]))
		for _, i := range shown {
			s, ok := row[i]
			text := "–"
			switch {
			case !ok:
			case s.Verdict == Reference:
				text = quantity(s.Median, s.Unit)
			case s.Verdict == NoDifference || !s.Interval:
				text = s.interval()
			default:
				text = "**" + times(s.Ratio) + "**" + strings.TrimPrefix(s.interval(), times(s.Ratio))
			}
			fmt.Fprintf(b, " %s |", text)
		}
		b.WriteByte('\n')
	}
}

// natSentence says what NAT itself costs.
func natSentence(costs []Summary) string {
	type kind struct{ variant, text string }
	var parts []string
	for _, k := range []kind{{"masqueraded", "masquerading on the way out"}, {"port-mapped", "port mapping on the way in"}} {
		var numbers []string
		for _, i := range []int{0, 2, 6} {
			for _, s := range costs {
				if s.Variant != k.variant || s.Feature != metrics[i].Feature || s.Unit != metrics[i].Unit || s.Blocks == 0 {
					continue
				}
				text := fmt.Sprintf("%s %s", lowerFirst(metrics[i].Title), s.interval())
				if s.Verdict == NoDifference {
					text += " (" + NoDifference + ")"
				}
				numbers = append(numbers, text)
				break
			}
		}
		if len(numbers) > 0 {
			parts = append(parts, k.text+": "+strings.Join(numbers, ", "))
		}
	}
	if len(parts) == 0 {
		return ""
	}
	return "NAT by itself, as ratios to the same bridge without it, " + strings.Join(parts, "; ") + "."
}

func markdownClaims(b *bytes.Buffer, res Results) {
	claims := Claims(res)
	if len(claims) == 0 {
		return
	}
	count := map[string]int{}
	var order []string
	for _, c := range claims {
		if count[c.Here] == 0 {
			order = append(order, c.Here)
		}
		count[c.Here]++
	}
	var parts []string
	for _, here := range order {
		parts = append(parts, fmt.Sprintf("%d %s", count[here], here))
	}
	fmt.Fprintf(b, "### What was claimed\n\n<details><summary>%s: %s</summary>\n\n| | claim | documented | here |\n|---|---|---|---|\n",
		plural(len(claims), "claim"), strings.Join(parts, ", "))
	for _, c := range claims {
		here := c.Here
		if c.Why != "" {
			here += " (" + c.Why + ")"
		}
		documented := verdictWords[c.Verdict]
		if c.Nuance != "" {
			documented += ": " + c.Nuance
		}
		fmt.Fprintf(b, "| %s | %s | %s | %s |\n", c.ID, md(c.Text), md(documented), md(here))
	}
	b.WriteString("\n</details>\n\n")
}
