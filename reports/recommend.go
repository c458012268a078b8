package reports

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Need is something that a user may ask of a mode, as conditions on cells.
type Need struct {
	Name, Doc string
	Cells     []Condition // all of them are to hold
}

// Condition is what is to have been observed of a feature.
type Condition struct{ Feature, Observed string }

// observed are the conditions that each of some features was observed as a word says.
func observed(as string, features ...string) (list []Condition) {
	for _, f := range features {
		list = append(list, Condition{f, as})
	}
	return list
}

var needs = []Need{
	{"same-host", "containers of one host reach each other by their own addresses", observed(Works, "same-host-ipv4")},
	{"cross-host", "containers of different hosts reach each other by their own addresses", observed(Works, "cross-host-ipv4")},
	{"reachable", "machines outside reach a container by its own address", observed(Works, "external-to-container-ipv4")},
	{"outbound", "a container reaches machines outside", observed(Works, "container-to-external-ipv4")},
	{"published-ports", "ports of the host lead to a container", observed(Works, "publish-tcp-ipv4", "publish-udp-ipv4")},
	{"ipv6", "a container reaches its siblings and machines outside by IPv6", observed(Works, "same-host-ipv6", "container-to-external-ipv6")},
	{"multicast", "multicast comes in and goes out", observed(Works, "multicast-in-ipv4", "multicast-out-ipv4")},
	{"broadcast", "broadcasts come in and go out", observed(Works, "broadcast-in", "broadcast-out")},
	{"no-nat", "no address is translated", observed(Works, "no-nat")},
	{"client-address", "a server sees the address of its client outside", observed(Works, "source-in-ipv4")},
	{"own-address", "machines outside see the container's own address", observed(Works, "source-out-ipv4")},
	{"own-mac", "each container has a MAC address of its own on the wire", observed(Works, "own-mac")},
	{"one-mac", "a switch's port sees one MAC address, however many containers there are", observed(Works, "one-mac")},
	{"no-promiscuous", "the host's interface need not be promiscuous", observed(Works, "no-promiscuous")},
	{"host-access", "a host and its containers reach each other", observed(Works, "container-to-host-ipv4", "host-to-container-ipv4")},
	{"other-hosts", "a host and the containers of other hosts reach each other", observed(Works, "remote-host-to-container-ipv4", "container-to-remote-host-ipv4")},
	{"kubernetes", "all containers reach each other by their own addresses, and a host its own, as Kubernetes asks of a network", observed(Works, "same-host-ipv4", "cross-host-ipv4", "source-cross-host-ipv4", "host-to-container-ipv4")},
	{"host-isolation", "a host and its containers do not reach each other", observed(Blocked, "container-to-host-ipv4", "host-to-container-ipv4")},
	{"network-isolation", "containers of different networks do not reach each other", observed(Works, "network-isolation-ipv4")},
	{"policy", "the host's packet filter sees what its containers send and get", observed(Works, "host-firewall", "host-firewall-in")},
	{"moving", "a container keeps its address when it moves to another host", observed(Works, "move-ipv4")},
	{"overlapping-addresses", "containers of different hosts may have the same address", observed(Works, "overlap-hosts")},
	{"several-containers", "a host has more than one container", observed(Works, "several-containers")},
	{"full-mtu", "packets of a container may be as large as the host's", observed(Works, "mtu-full-ipv4")},
	{"link-loss", "containers of one host reach each other while the host's cable is out", observed(Works, "link-loss-siblings")},
}

// Needs returns what may be needed, in the order of documents.
func Needs() []Need { return slices.Clone(needs) }

// first is something that modes can be ordered by: one of the headlines.
type first struct {
	name   string
	metric metric
}

var firsts = []first{{"latency", metrics[0]}, {"connections", metrics[2]}, {"throughput", metrics[3]}, {"cpu", metrics[6]}}

// Firsts returns by what modes can be ordered.
func Firsts() (names []string) {
	for _, f := range firsts {
		names = append(names, f.name)
	}
	return names
}

// Wanted is what a mode is looked for by.
type Wanted struct {
	Needs []string // names of [Needs]
	// Fabric is one that the mode is to work on: there, its host and its containers reach what they do on an open one. Empty: none that is asked for.
	Fabric string
	// Containers is how many a host is to have. More than were attached before one was refused rules a mode out.
	Containers int
	First      string // one of [Firsts]: what it should be best in
	Path       string // same-host or cross-host: between whom
}

// Advice is what results say about the modes that were wanted.
type Advice struct {
	Wanted Wanted
	Runs   []Ranking // one for each fidelity on which modes were measured: those are not compared with each other
	// Unmeasured meet all needs, but there is no measurement to order them by.
	Unmeasured []Rank
	Excluded   []Exclusion
	Undecided  []Exclusion // of which the results do not tell
}

// Ranking is an order of modes that were measured on one fidelity.
type Ranking struct {
	On    Fidelity
	Ranks []Rank
}

// Rank is the place of one mode. Equal places are ties.
type Rank struct {
	Place int // from 1
	Mode  Mode
	Title string // its name, with its implementation where there are several
	Cost  Summary
	// Costs are its headlines on the same path and fidelity.
	Costs []Summary
	// Also are needs that were not asked for and that it meets too, and Not those that it does not.
	Also, Not []string
}

// Exclusion is why a mode is out, or why nothing can be said about it.
type Exclusion struct {
	Title  string // of the mode
	Need   string
	Cell   Condition
	Result *Result // what was seen instead; nil: it never ran
}

// Rule is how [Recommend] decides, for people.
const Rule = "A mode is out where a cell of something needed was observed otherwise, and undecided where one was not observed or could not be told. " +
	"On a fabric it is out where a host or container does not reach what it does on the open one. " +
	"The others are in the order of their ratio to the host. Two tie where the interval of the later one reaches that of the first of the tie; without intervals, within 2 %. " +
	"Nothing else counts, and modes measured on different kernels, drivers or fabrics are not compared."

// Recommend answers from results which modes have what is wanted. It is by [Rule]. An unknown name is the caller's error.
func Recommend(res Results, w Wanted) Advice {
	advice := Advice{Wanted: w}
	t := tabulate(res, func(Result) bool { return true })
	by := firsts[slices.IndexFunc(firsts, func(f first) bool { return f.name == w.First })].metric
	names := titles(res.Modes)
	var wanted, others []Need
	for _, n := range needs {
		if slices.Contains(w.Needs, n.Name) {
			wanted = append(wanted, n)
		} else {
			others = append(others, n)
		}
	}
	summaries := slices.DeleteFunc(Summarise(res), func(s Summary) bool { return s.Path != w.Path || s.Variant != "" || s.Blocks == 0 })
	ranked := map[Fidelity]*Ranking{}
	for _, m := range res.Modes {
		verdict, out := t.judge(m, append(slices.Clone(wanted), t.place(m, w.Fabric)...))
		if at := t.ended(m, w.Containers); verdict == Works && at != nil {
			verdict, out = Blocked, Exclusion{Need: fmt.Sprintf("%d containers", w.Containers), Cell: Condition{at.Feature, Works}, Result: at}
		}
		out.Title = names[m.key()]
		switch verdict {
		case Blocked:
			advice.Excluded = append(advice.Excluded, out)
			continue
		case Unable:
			advice.Undecided = append(advice.Undecided, out)
			continue
		}
		var also, not []string
		for _, n := range others {
			switch verdict, _ := t.judge(m, []Need{n}); verdict {
			case Works:
				also = append(also, n.Name)
			case Blocked:
				not = append(not, n.Name)
			}
		}
		measured := false
		for _, s := range summaries {
			if s.key() != m.key() || !by.of(s) {
				continue
			}
			if s.Mode == Baseline && s.Fidelity.Fabric != "" {
				continue // it is there for the sake of those that need the fabric
			}
			measured = true
			r := ranked[s.Fidelity]
			if r == nil {
				r = &Ranking{On: s.Fidelity}
				ranked[s.Fidelity] = r
			}
			rank := Rank{Mode: m, Title: names[m.key()], Cost: s, Also: also, Not: not}
			for _, f := range firsts {
				for _, c := range summaries {
					if c.key() == m.key() && c.Fidelity == s.Fidelity && f.metric.of(c) {
						rank.Costs = append(rank.Costs, c)
					}
				}
			}
			r.Ranks = append(r.Ranks, rank)
		}
		if !measured {
			advice.Unmeasured = append(advice.Unmeasured, Rank{Mode: m, Title: names[m.key()], Also: also, Not: not})
		}
	}
	for _, r := range ranked {
		r.order(units[by.Unit].better)
		advice.Runs = append(advice.Runs, *r)
	}
	slices.SortFunc(advice.Runs, func(a, b Ranking) int {
		return cmp.Or(cmp.Compare(a.On.Accelerator, b.On.Accelerator), cmp.Compare(a.On.String(), b.On.String()))
	})
	return advice
}

// openFabric is the fabric that takes nothing from a mode.
const openFabric = "open"

// Reaches are what is asked of every mode on every fabric, as the ends of features on-FABRIC-WHAT.
var Reaches = []string{"host", "external", "cross-host"}

// place is what a mode needs of a fabric: all that it does on the open one. What it does not do there either, no fabric takes from it.
func (t table) place(m Mode, fabric string) []Need {
	if fabric == "" {
		return nil
	}
	need := Need{Name: "fabric " + fabric}
	for _, what := range Reaches {
		here, open := "on-"+fabric+"-"+what, "on-"+openFabric+"-"+what
		switch {
		case t.saw(m, open, Blocked):
		case t.saw(m, here, Blocked) && !t.saw(m, open, Works) && !t.saw(m, open, NotApplicable): // nobody knows whose doing that is
			need.Cells = append(need.Cells, Condition{open, Works})
		default:
			need.Cells = append(need.Cells, Condition{here, Works})
		}
	}
	return []Need{need}
}

// saw tells whether a feature was observed as a word says.
func (t table) saw(m Mode, feature, as string) bool {
	return slices.ContainsFunc(t.at(m, Feature{Name: feature}).Results, func(r Result) bool { return r.Outcome != Unable && r.Observed == as })
}

// judge tells whether a mode has what is needed: Works, Blocked or Unable, and the first cell by which it is out or unknown.
func (t table) judge(m Mode, of []Need) (string, Exclusion) {
	unknown := Exclusion{}
	for _, n := range of {
		for _, c := range n.Cells {
			results := t.at(m, Feature{Name: c.Feature}).Results
			told := false
			for i := range results {
				r := &results[i]
				switch {
				case r.Outcome == Unable:
				case r.Observed == c.Observed:
					told = true
				default:
					return Blocked, Exclusion{Need: n.Name, Cell: c, Result: r}
				}
			}
			if !told && unknown.Need == "" {
				unknown = Exclusion{Need: n.Name, Cell: c}
				if len(results) > 0 {
					unknown.Result = &results[0]
				}
			}
		}
	}
	if unknown.Need != "" {
		return Unable, unknown
	}
	return Works, Exclusion{}
}

// ended is the result by which fewer containers than wanted could be attached to a host; nil: there is none.
func (t table) ended(m Mode, wanted int) *Result {
	for _, r := range t.at(m, Feature{Name: "containers-1024"}).Results {
		for _, v := range r.Values {
			if v.Unit == "containers" && r.Observed == Blocked && int(v.Value) < wanted {
				return &r
			}
		}
	}
	return nil
}

// order puts the best first, and gives places.
func (r *Ranking) order(better int) {
	slices.SortStableFunc(r.Ranks, func(a, b Rank) int { return -better * cmp.Compare(a.Cost.Ratio, b.Cost.Ratio) })
	first := 0
	for i := range r.Ranks {
		if i > 0 && !r.Ranks[first].Cost.reaches(r.Ranks[i].Cost) {
			first = i
		}
		r.Ranks[i].Place = first + 1
	}
}

// reaches tells whether nothing shows that two ratios differ.
func (s Summary) reaches(other Summary) bool {
	a, b := [2]float64{s.Low, s.High}, [2]float64{other.Low, other.High}
	if !s.Interval || !other.Interval {
		a, b = [2]float64{s.Ratio * (1 - resolution), s.Ratio * (1 + resolution)}, [2]float64{other.Ratio, other.Ratio}
	}
	return a[0] <= b[1] && b[0] <= a[1]
}

// foremost is of how many modes the trade-offs are told.
const foremost = 3

// WriteText writes the advice for a terminal.
func (a Advice) WriteText(w io.Writer) error {
	var b strings.Builder
	list := func(names []string) string {
		if len(names) == 0 {
			return "none of the others"
		}
		return strings.Join(names, ", ")
	}
	asked := slices.Clone(a.Wanted.Needs)
	if a.Wanted.Fabric != "" {
		asked = append(asked, "fabric "+a.Wanted.Fabric)
	}
	if a.Wanted.Containers > 1 {
		asked = append(asked, fmt.Sprintf("%d containers a host", a.Wanted.Containers))
	}
	if len(asked) == 0 {
		asked = append(asked, "nothing")
	}
	b.WriteString("needed: " + strings.Join(asked, ", "))
	fmt.Fprintf(&b, "; then by %s, %s\n", a.Wanted.First, a.Wanted.Path)
	for _, r := range a.Runs {
		fmt.Fprintf(&b, "\nmeasured on %s\n", r.On)
		for i, rank := range r.Ranks {
			tie := ""
			if i > 0 && r.Ranks[i-1].Place == rank.Place || i+1 < len(r.Ranks) && r.Ranks[i+1].Place == rank.Place {
				tie = "  tie"
			}
			fmt.Fprintf(&b, "  %2d. %-18s %s %s%s\n", rank.Place, rank.Title, lowerFirst(metricOf(rank.Cost).Title), rank.Cost.interval(), tie)
		}
		for _, rank := range r.Ranks[:min(foremost, len(r.Ranks))] {
			fmt.Fprintf(&b, "\n  %s: %s\n", rank.Title, rank.Mode.Doc)
			var costs []string
			for _, c := range rank.Costs {
				costs = append(costs, fmt.Sprintf("%s %s", metricOf(c).Short, c.interval()))
			}
			fmt.Fprintf(&b, "    costs       %s\n", strings.Join(costs, ", "))
			fmt.Fprintf(&b, "    gives also  %s\n", list(rank.Also))
			fmt.Fprintf(&b, "    gives not   %s\n", list(rank.Not))
		}
	}
	if len(a.Unmeasured) > 0 {
		b.WriteString("\nhas what is needed, but was not measured " + a.Wanted.Path + ", so it has no place\n")
		for _, m := range a.Unmeasured {
			fmt.Fprintf(&b, "  %-18s %s\n", m.Title, m.Mode.Doc)
		}
	}
	exclusions := func(head string, of []Exclusion, text func(Exclusion) string) {
		if len(of) > 0 {
			b.WriteString("\n" + head + "\n")
		}
		for _, e := range of {
			fmt.Fprintf(&b, "  %-18s %s: %s %s\n", e.Title, e.Need, e.Cell.Feature, text(e))
		}
	}
	exclusions("out", a.Excluded, func(e Exclusion) string {
		return e.Result.Observed + ": " + oneLine(e.Result.Detail)
	})
	exclusions("undecided", a.Undecided, func(e Exclusion) string {
		if e.Result == nil {
			return "is not in these results"
		}
		return "could not be told: " + oneLine(e.Result.Detail)
	})
	fmt.Fprintf(&b, "\nrule: %s\n", Rule)
	_, err := io.WriteString(w, b.String())
	return err
}

// metricOf is the headline that a summary is of.
func metricOf(s Summary) metric {
	return metrics[slices.IndexFunc(metrics, func(m metric) bool { return m.of(s) })]
}

// of tells whether a summary is of the headline.
func (m metric) of(s Summary) bool { return s.Feature == m.Feature && s.Unit == m.Unit }

func (s Summary) key() modeKey { return modeKey{s.Mode, s.Implementation} }
