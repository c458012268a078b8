package reports

import (
	"cmp"
	"embed"
	"fmt"
	"html/template"
	"io"
	"slices"
	"strings"
)

//go:embed page/page.html page/page.css page/page.js
var pageFiles embed.FS

var pageTemplate = template.Must(template.New("page.html").Funcs(template.FuncMap{
	"quantity":   quantity,
	"duration":   duration,
	"times":      times,
	"shell":      shell,
	"plural":     plural,
	"memory":     gibibytes,
	"bar":        bar,
	"glyph":      func(state string) string { return glyphs[state] },
	"join":       strings.Join,
	"outageText": func() string { return outageText }, "attachingText": func() string { return attachingText },
	"css": func() template.CSS { return template.CSS(pageFile("page.css")) },
	"js":  func() template.JS { return template.JS(pageFile("page.js")) },
}).ParseFS(pageFiles, "page/page.html"))

func pageFile(name string) string {
	data, err := pageFiles.ReadFile("page/" + name)
	if err != nil {
		panic(err) // it is embedded: it cannot be missing
	}
	return string(data)
}

// page is what the template shows, in the order in which it shows it.
type page struct {
	Results
	Headline   string
	Warnings   []string
	Provenance string
	Unexpected []unexpectedView
	Answers    []answer
	Costs      []string // titles of the ratios in the answers
	Matrix     matrixView
	Meanings   []struct{ State, Text string }
	Charts     []chartGroup
	NAT        []natView
	Fabrics    places
	Places     []placeView
	Apart      []matrixView
	Attachings []Attaching
	Growths    []Growth
	Failures   []string // heads of the outages
	Outages    []Outages
	Claims     []topicView
	ClaimKinds []claimKind
	Wirings    []wiringView
	Drawing    template.HTML
	Unable     []unableView
	Manifest   []manifestRow
	Fidelities []Fidelity
}

type answer struct {
	Mode
	Title, Slug string
	As          string   // the column before it that is the same mode by another implementation; empty: there is none
	Others      int      // answers that are not that one's
	On          []string // kernels, where modes have different ones
	Tally       tally
	Bar         template.HTML
	Costs       []costView
}

type unexpectedView struct {
	Result
	Href string
}

type costView struct {
	Summary
	Short string
}

type matrixView struct {
	Name     string
	Modes    []modeView
	Groups   []groupView
	On       []string // kernels, where there are several
	Compared bool     // some mode was observed on several of them
	Kernels  []kernelRow
	By       []string // implementations, where some mode has several
	Carriers []carrierRow
}

type modeView struct {
	Title, Slug string
	On          string // kernel, where modes have different ones
	First       bool   // of a group of modes on another kernel than those before it
}

// kernelRow is a cell whose answer depends on the kernel.
type kernelRow struct {
	Feature, Mode, Href string
	Parts               []kernelPart // of each kernel of the run
}

type kernelPart struct{ State, Glyph, Meaning string }

// carrierRow is a feature of a mode that its implementations answer differently.
type carrierRow struct {
	Mode, Feature string
	Cells         []cellView // of each implementation; one without an ID: it does not have the mode
}

type groupView struct {
	Name, Slug string
	Tally      tally
	Rows       []rowView
}

type rowView struct {
	Feature
	Slug   string
	Tally  tally
	Cells  []cellView
	Differ bool // some mode works where another is blocked
}

type cellView struct {
	Mode         string
	ID, Href     string
	State, Glyph string
	Differs      bool // the answer depends on the kernel
	First        bool // as of its mode
	Meaning      string
	Title        string
	Results      []Result
}

// chartGroup is what was measured on one fidelity.
type chartGroup struct {
	On   string // empty: there is only one
	Sets []chartSet
}

// chartSet is what was measured over one path with one profile.
type chartSet struct {
	Title, Doc, Slug string
	Open             bool
	Charts           []chartView
	Latency          *latencyView
	Losses           *lossView
}

// lossView is the counts that have no ratio, as the baseline's are often 0.
type lossView struct {
	Heads []string
	Rows  []lossRow
}

type lossRow struct {
	Name   string
	Values []string
}

type chartView struct {
	Title, Doc, Sense string
	SVG               template.HTML
	Rows              []chartRowOf
	Noise             float64
}

type latencyView struct {
	SVG   template.HTML
	Names []string
	Rows  []latencyRow
}

type natView struct {
	On       string // empty: there is only one fidelity
	Sentence string
	Charts   []chartView
}

type topicView struct {
	Topic  string
	Claims []claimView
}

type claimView struct {
	ClaimVerdict
	Documented, Class string
	Cells             []claimCellView
}

type claimCellView struct {
	ClaimCell
	Href, State, Glyph string
}

type claimKind struct {
	Class, Text string
	N           int
}

type wiringView struct {
	Mode
	Title, Slug string
	Drawing     template.HTML
}

type unableView struct {
	Reason string
	Cells  []string
}

type manifestRow struct {
	Suite, Mode, On string
	N               map[string]int
}

func writePage(w io.Writer, res Results) error {
	t := tabulate(res, inMatrix)
	sums := Summarise(res)
	heads := headlines(sums)
	names := titles(allModes(res, t))
	p := page{
		Results: res, Headline: headlineText(res), Warnings: warnings(res), Provenance: provenance(res),
		Meanings: meanings, Attachings: Attachings(res), Growths: Growths(res), Drawing: drawGraph(res.Run.Topology, "The lab: its machines and what joins them."),
	}
	p.Matrix = viewMatrix(t, names, "")
	for _, i := range []int{0, 2} {
		p.Costs = append(p.Costs, metrics[i].Title)
	}
	for _, m := range allModes(res, t) {
		a := answer{Mode: m, Title: names[m.key()], Slug: slug(names[m.key()]), Tally: t.tally(m)}
		a.Bar = bar(a.Tally)
		if i := slices.IndexFunc(p.Answers, func(o answer) bool { return o.Name == m.Name }); i >= 0 {
			a.As, a.Others = p.Answers[i].Title, t.others(p.Answers[i].Mode, m)
		}
		if t.label(m) != "" {
			a.On = platformNames(t.on[m.key()])
		}
		for _, i := range []int{0, 2} {
			a.Costs = append(a.Costs, costView{heads[m.key()][i], metrics[i].Short})
		}
		p.Answers = append(p.Answers, a)
		p.Wirings = append(p.Wirings, wiringView{m, a.Title, a.Slug, drawGraph(m.Graph, "The lab with the devices of "+a.Title+".")})
	}
	p.Charts = chartGroups(sums, names)
	p.NAT = viewNATs(NATCost(res))
	for _, suite := range apartSuites {
		apart := tabulate(res, func(r Result) bool { return r.Suite == suite })
		if len(apart.Features) > 0 {
			p.Apart = append(p.Apart, viewMatrix(apart, names, suite))
		}
	}
	if p.Fabrics = placesOf(res); len(p.Fabrics.Modes) > 0 {
		p.Places = viewPlaces(p.Fabrics, p.Apart[0])
	}
	p.Failures, p.Outages = outageTable(res)
	linkOutages(p.Outages, p.Apart)
	for _, v := range append([]matrixView{p.Matrix}, p.Apart...) {
		for _, g := range v.Groups {
			for _, row := range g.Rows {
				for _, c := range row.Cells {
					for _, r := range c.Results {
						if r.Outcome == Fail {
							p.Unexpected = append(p.Unexpected, unexpectedView{r, c.Href})
						}
					}
				}
			}
		}
	}
	p.Claims, p.ClaimKinds = viewClaims(res, t, names)
	p.Unable = unables(res)
	p.Manifest = manifest(res)
	for _, r := range res.Results {
		if !slices.Contains(p.Fidelities, r.Fidelity) {
			p.Fidelities = append(p.Fidelities, r.Fidelity)
		}
	}
	return pageTemplate.Execute(w, p)
}

// allModes are the listed modes, then those that only results name.
func allModes(res Results, t table) []Mode {
	modes := slices.Clone(res.Modes)
	for _, m := range t.Modes {
		if !slices.ContainsFunc(modes, func(o Mode) bool { return o.key() == m.key() }) {
			modes = append(modes, m)
		}
	}
	return modes
}

// slug makes an anchor of a name.
func slug(name string) string {
	clean := strings.Map(func(c rune) rune {
		switch {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9':
			return c
		case 'A' <= c && c <= 'Z':
			return c - 'A' + 'a'
		default:
			return '-'
		}
	}, name)
	return strings.Trim(clean, "-")
}

func viewMatrix(t table, names map[modeKey]string, suite string) matrixView {
	v := matrixView{Name: suite}
	prefix := "cell-"
	if suite != "" {
		prefix = suite + "-"
	}
	text := map[string]string{}
	for _, m := range meanings {
		text[m.State] = m.Text
	}
	if t.several() {
		v.On, v.Compared = platformNames(t.On), t.compared()
	}
	for i, m := range t.Modes {
		on := t.label(m)
		v.Modes = append(v.Modes, modeView{names[m.key()], slug(names[m.key()]), on, i > 0 && on != v.Modes[i-1].On})
	}
	cellOf := func(c cell) cellView {
		state, id := c.state(), prefix+slug(c.Feature.Name)+"--"+slug(names[c.Mode.key()])
		view := cellView{
			Mode: names[c.Mode.key()], ID: id, Href: "#" + id, State: state, Glyph: c.text(), Meaning: text[state], Results: c.Results, Differs: c.differs(),
		}
		if parts := c.parts(); view.Glyph != glyphs[state] {
			var each []string
			for _, p := range parts {
				each = append(each, p.On.String()+" "+text[p.State])
			}
			view.Meaning = strings.Join(each, "; ")
		}
		view.Title = view.Meaning
		if len(c.Results) > 0 {
			why := c.Results[0].Reason
			if !asExpected(state) {
				why = c.Results[0].Detail
			}
			if why != "" {
				view.Title += ": " + why
			}
		}
		return view
	}
	for _, c := range t.differing() {
		row := kernelRow{Feature: c.Feature.Name, Mode: names[c.Mode.key()], Href: cellOf(c).Href}
		for _, state := range c.statesOn(t.On) {
			row.Parts = append(row.Parts, kernelPart{state, glyphs[state], text[state]})
		}
		v.Kernels = append(v.Kernels, row)
	}
	if len(t.carriers()) > 0 {
		v.By = t.implementations()
	}
	for _, of := range t.byCarrier() {
		row := carrierRow{Mode: of.Mode, Feature: of.Feature.Name}
		for _, c := range of.By {
			if c == nil {
				row.Cells = append(row.Cells, cellView{Meaning: uncarried})
				continue
			}
			row.Cells = append(row.Cells, cellOf(*c))
		}
		v.Carriers = append(v.Carriers, row)
	}
	for _, f := range t.Features {
		if n := len(v.Groups); n == 0 || v.Groups[n-1].Name != f.Group {
			v.Groups = append(v.Groups, groupView{Name: f.Group, Slug: slug(f.Group)})
		}
		g := &v.Groups[len(v.Groups)-1]
		row := rowView{Feature: f, Slug: prefix + slug(f.Name)}
		for i, m := range t.Modes {
			c := t.at(m, f)
			view := cellOf(c)
			view.First = v.Modes[i].First
			row.Cells = append(row.Cells, view)
			row.Tally.addAll(c)
			g.Tally.addAll(c)
		}
		row.Differ = row.Tally.Works > 0 && row.Tally.Blocked > 0 || row.Tally.Fail > 0
		g.Rows = append(g.Rows, row)
	}
	return v
}

// chartGroups parts the headline measurements by fidelity: numbers of two fidelities never share a chart.
func chartGroups(sums []Summary, names map[modeKey]string) (groups []chartGroup) {
	all := byFidelity(sums)
	for _, of := range all {
		g := chartGroup{Sets: chartSets(of, names, len(groups) == 0)}
		if len(all) > 1 {
			g.On = of[0].Fidelity.String()
		}
		if len(g.Sets) > 0 {
			groups = append(groups, g)
		}
	}
	return groups
}

// chartSets parts the headline measurements of one fidelity by path and profile.
func chartSets(sums []Summary, names map[modeKey]string, open bool) []chartSet {
	type key struct{ path, profile string }
	var order []key
	byKey := map[key][]Summary{}
	for _, s := range sums {
		if s.Suite != "throughput" {
			continue
		}
		k := key{s.Path, s.Profile}
		if byKey[k] == nil {
			order = append(order, k)
		}
		byKey[k] = append(byKey[k], s)
	}
	slices.SortStableFunc(order, func(a, b key) int {
		return cmp.Or(cmp.Compare(a.profile, b.profile), -cmp.Compare(a.path, b.path))
	})
	var rank []modeKey
	for _, s := range sums {
		if k := (modeKey{s.Mode, s.Implementation}); !slices.Contains(rank, k) {
			rank = append(rank, k)
		}
	}
	var sets []chartSet
	for _, k := range order {
		set := chartSet{
			Title: pathWords[k.path], Doc: profileWords[k.profile], Open: open && (len(sets) == 0 || k.profile == order[0].profile),
			Slug: "cost-" + slug(k.path+"-"+k.profile+"-"+sums[0].Fidelity.String()),
		}
		for _, m := range metrics {
			c := chartView{Title: m.Title, Doc: m.Doc, Sense: sense(m.Unit)}
			for _, s := range byKey[k] {
				if s.Feature == m.Feature && s.Unit == m.Unit {
					c.Rows = append(c.Rows, chartRowOf{rowTitle(s, names), s})
					c.Noise = max(c.Noise, s.Noise)
				}
			}
			if len(c.Rows) > 0 {
				c.SVG = ratioChart(c.Rows, c.Title+" as ratios to host, "+set.Title+"; the table below has the numbers")
				set.Charts = append(set.Charts, c)
			}
		}
		set.Latency = viewLatency(byKey[k], names, set.Title)
		set.Losses = viewLosses(byKey[k], names)
		if len(set.Charts) > 0 {
			sets = append(sets, set)
		}
	}
	return sets
}

var (
	pathWords    = map[string]string{"same-host": "On one host", "cross-host": "Between hosts", "": "Measured"}
	profileWords = map[string]string{"pinned": "both ends on one processor", "steered": "receive steering over two processors", "": ""}
)

func sense(unit string) string {
	if units[unit].better > 0 {
		return "more is better"
	}
	return "less is better"
}

func rowTitle(s Summary, names map[modeKey]string) string {
	title := names[modeKey{s.Mode, s.Implementation}]
	if title == "" {
		title = s.Mode
	}
	if s.Variant != "" {
		title += ", " + s.Variant
	}
	return title
}

func viewLatency(sums []Summary, names map[modeKey]string, where string) *latencyView {
	v := &latencyView{Names: latencyNames}
	at := map[string]int{}
	for _, s := range sums {
		i := slices.Index(latencyUnits, s.Unit)
		if s.Feature != metrics[0].Feature || i < 0 {
			continue
		}
		title := rowTitle(s, names)
		row, ok := at[title]
		if !ok {
			row = len(v.Rows)
			at[title] = row
			v.Rows = append(v.Rows, latencyRow{title, make([]float64, len(latencyUnits))})
		}
		v.Rows[row].Values[i] = s.Median
	}
	if len(v.Rows) == 0 {
		return nil
	}
	v.SVG = latencyChart(v.Rows, "Percentiles of the round trip, "+where+"; the table below has the numbers")
	return v
}

var losses = []metric{
	{Feature: "udp-stream", Unit: "loss-fraction", Title: "UDP datagrams lost"},
	{Feature: "tcp-stream-1", Unit: "retransmits", Title: "Retransmits, one stream"},
	{Feature: "tcp-stream-1", Unit: "dsacks", Title: "of them spurious"},
	{Feature: "tcp-stream-8", Unit: "retransmits", Title: "Retransmits, eight streams"},
	{Feature: "tcp-stream-8", Unit: "dsacks", Title: "of them spurious"},
}

// viewLosses lists, for each mode, the median over the trials of what was lost or sent twice, and the most in one trial.
func viewLosses(sums []Summary, names map[modeKey]string) *lossView {
	v := &lossView{}
	for _, l := range losses {
		v.Heads = append(v.Heads, l.Title)
	}
	at := map[string]int{}
	for _, s := range sums {
		i := slices.IndexFunc(losses, func(l metric) bool { return l.Feature == s.Feature && l.Unit == s.Unit })
		if i < 0 {
			continue
		}
		title := rowTitle(s, names)
		row, ok := at[title]
		if !ok {
			row = len(v.Rows)
			at[title] = row
			v.Rows = append(v.Rows, lossRow{title, slices.Repeat([]string{"–"}, len(losses))})
		}
		text := func(x float64) string {
			if s.Unit == "loss-fraction" {
				return quantity(x, s.Unit)
			}
			return digits(x)
		}
		v.Rows[row].Values[i] = text(s.Median)
		if s.Most > s.Median {
			v.Rows[row].Values[i] += ", at most " + text(s.Most)
		}
	}
	if len(v.Rows) == 0 {
		return nil
	}
	return v
}

// viewNATs is what NAT costs on each fidelity.
func viewNATs(costs []Summary) (list []natView) {
	all := byFidelity(costs)
	for _, of := range all {
		if v := viewNAT(of); v != nil {
			if len(all) > 1 {
				v.On = of[0].Fidelity.String()
			}
			list = append(list, *v)
		}
	}
	return list
}

func viewNAT(costs []Summary) *natView {
	v := &natView{Sentence: natSentence(costs)}
	for _, i := range []int{0, 2, 3, 6} {
		m := metrics[i]
		c := chartView{Title: m.Title, Doc: m.Doc, Sense: sense(m.Unit)}
		for _, s := range costs {
			if s.Feature == m.Feature && s.Unit == m.Unit {
				c.Rows = append(c.Rows, chartRowOf{strings.Replace(s.Variant, netfilter, " + nf", 1), s})
				c.Noise = max(c.Noise, s.Noise)
			}
		}
		if len(c.Rows) > 0 {
			c.SVG = ratioChart(c.Rows, c.Title+" of a bridge with NAT as ratios to the same bridge without; the table below has the numbers")
			v.Charts = append(v.Charts, c)
		}
	}
	if len(v.Charts) == 0 {
		return nil
	}
	return v
}

func viewClaims(res Results, t table, names map[modeKey]string) ([]topicView, []claimKind) {
	ids := map[[2]string]string{}
	for _, m := range t.Modes {
		for _, f := range t.Features {
			k := [2]string{m.Name, f.Name}
			if ids[k] == "" {
				ids[k] = "#cell-" + slug(f.Name) + "--" + slug(names[m.key()])
			}
		}
	}
	var topics []topicView
	index := map[string]int{}
	var kinds []claimKind
	for _, c := range Claims(res) {
		v := claimView{ClaimVerdict: c, Documented: verdictWords[c.Verdict], Class: slug(c.Here)}
		for _, e := range c.Evidence {
			state := stateMissing
			switch {
			case e.Outcome == Fail:
				state = stateFail
			case e.Outcome == Unable:
				state = stateUnable
			case e.Outcome == Pass:
				state = Result{Outcome: Pass, Observed: e.Observed}.state()
			}
			href := ids[[2]string{e.Mode, e.Feature}]
			if href == "" {
				href = "#cost"
			}
			v.Cells = append(v.Cells, claimCellView{e, href, state, glyphs[state]})
		}
		slices.SortStableFunc(v.Cells, func(a, b claimCellView) int { return cmp.Compare(claimRank(a.State), claimRank(b.State)) })
		i, ok := index[c.Topic]
		if !ok {
			i = len(topics)
			index[c.Topic] = i
			topics = append(topics, topicView{Topic: c.Topic})
		}
		topics[i].Claims = append(topics[i].Claims, v)
		j := slices.IndexFunc(kinds, func(k claimKind) bool { return k.Text == c.Here })
		if j < 0 {
			j = len(kinds)
			kinds = append(kinds, claimKind{Class: v.Class, Text: c.Here})
		}
		kinds[j].N++
	}
	slices.SortStableFunc(kinds, func(a, b claimKind) int { return cmp.Compare(b.N, a.N) })
	return topics, kinds
}

// claimRank orders evidence: what contradicts first, what says nothing last.
func claimRank(state string) int {
	switch state {
	case stateFail:
		return 0
	case stateUnable, stateMissing:
		return 2
	default:
		return 1
	}
}

// unables groups what this machine could not tell by the reason, the most frequent first.
func unables(res Results) []unableView {
	var list []unableView
	several := len(platforms(res, func(Result) bool { return true })) > 1
	index := map[string]int{}
	for _, r := range res.Results {
		if r.Outcome != Unable {
			continue
		}
		i, ok := index[r.Detail]
		if !ok {
			i = len(list)
			index[r.Detail] = i
			list = append(list, unableView{Reason: r.Detail})
		}
		name := strings.Join([]string{r.Suite, r.Mode, r.Feature}, "/")
		if several {
			name += " on " + r.Fidelity.String()
		}
		if !slices.Contains(list[i].Cells, name) { // of a measurement, one for both paths
			list[i].Cells = append(list[i].Cells, name)
		}
	}
	slices.SortStableFunc(list, func(a, b unableView) int { return cmp.Compare(len(b.Cells), len(a.Cells)) })
	return list
}

// manifest counts the cells that ran by suite, mode, kernel and outcome.
func manifest(res Results) []manifestRow {
	var rows []manifestRow
	index := map[[3]string]int{}
	for _, r := range res.Results {
		k := [3]string{r.Suite, r.Mode, r.Fidelity.platform().String()}
		i, ok := index[k]
		if !ok {
			i = len(rows)
			index[k] = i
			rows = append(rows, manifestRow{Suite: r.Suite, Mode: r.Mode, On: k[2], N: map[string]int{}})
		}
		rows[i].N[r.Outcome]++
		rows[i].N["all"]++
	}
	for _, missing := range res.Run.Missing {
		parts := missingParts(missing)
		if len(parts) != 3 {
			continue
		}
		k := [3]string{parts[0], parts[1], "not run"}
		i, ok := index[k]
		if !ok {
			i = len(rows)
			index[k] = i
			rows = append(rows, manifestRow{Suite: parts[0], Mode: parts[1], On: k[2], N: map[string]int{}})
		}
		rows[i].N["missing"]++
	}
	return rows
}

// Span is the number of columns of the matrix.
func (v matrixView) Span() int { return 2 + len(v.Modes) }

// NoiseText writes the noise floor of a chart.
func (c chartView) NoiseText() string { return fmt.Sprintf("±%.1f %%", 100*c.Noise) }

// Percent writes the share of a phase in the run.
func (p page) Percent(seconds float64) string {
	if p.Run.Seconds <= 0 {
		return ""
	}
	return fmt.Sprintf("%.0f %%", 100*seconds/p.Run.Seconds)
}

// More counts the unexpected results that the list at the top has no room for.
func (p page) More() int { return len(p.Unexpected) - 10 }

// Text writes the ratio of a summary and its interval.
func (s Summary) Text() string { return s.interval() }

// Shown tells whether the summary shows a difference to its baseline.
func (s Summary) Shown() bool {
	return s.Interval && s.Verdict != NoDifference && s.Verdict != Reference && s.Blocks > 0
}

// Width writes the interval without the ratio.
func (s Summary) Width() string {
	if !s.Interval {
		return "–"
	}
	return fmt.Sprintf("%.2f to %.2f", s.Low, s.High)
}

// Value writes the median the way people read it.
func (s Summary) Value() string { return quantity(s.Median, s.Unit) }
