package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"github.com/modebench/modebench/modes"
	"github.com/modebench/modebench/reports"
	"github.com/modebench/modebench/suites"
	"github.com/modebench/modebench/topology"
)

// progress shows how far a run is: a line for each mode that is kept up to date on a terminal, plain lines elsewhere.
type progress struct {
	out      io.Writer
	terminal bool

	mu    sync.Mutex
	bars  *mpb.Progress
	lines map[string]*line
}

// line is one mode, or the measuring.
type line struct {
	bar               *mpb.Bar
	total, done, fail int
	unable            int
	doing             string
	told              string // of the last cell that is not as expected
}

func newProgress(out io.Writer, terminal bool) *progress {
	return &progress{out: out, terminal: terminal, lines: map[string]*line{}}
}

func (v *progress) begin(r reports.Run, p *topology.Plan, all []assignment, o options) {
	rights := "as root"
	if r.Machine.Rootless {
		rights = "rootless"
	}
	containers := 0
	var machines []string
	for _, m := range p.Machines {
		machines = append(machines, m.Name)
		containers += len(m.Containers)
	}
	fmt.Fprintf(v.out, "modebench %s   kernel %s   %d CPUs   %s, %s   seed %d\n", r.Version, r.Machine.Kernel, r.Machine.CPUs, o.driver, rights, r.Seed)
	fmt.Fprintf(v.out, "  %s: %s, %d containers\n\n", p.Topology.Name, strings.Join(machines, " "), containers)
	if v.terminal {
		v.bars = mpb.New(mpb.WithOutput(v.out), mpb.WithWidth(12))
	}
	width := len(measuring)
	measured := map[string]bool{}
	for _, a := range all {
		if a.why == "" {
			width = max(width, len(on(a.String(), a.ground)))
			measured[on(measuring, a.ground)] = true
		}
	}
	for _, a := range all {
		if n := len(owed(o, a, observed(o.suites))); n > 0 && a.why == "" {
			v.add(on(a.String(), a.ground), width, n)
		}
	}
	if o.measures() {
		for _, name := range slices.Sorted(maps.Keys(measured)) {
			v.add(name, width, o.blocks)
		}
	}
}

const measuring = "measuring"

// on names the line of what is done on a ground.
func on(what string, g *ground) string {
	if g.guest != nil {
		what += " on " + g.name
	}
	return what
}

func observed(names []string) []string {
	return slices.DeleteFunc(slices.Clone(names), suites.Measured)
}

// measured are the suites that measure.
func measured(names []string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(s string) bool { return !suites.Measured(s) })
}

// measures tells whether anything of the run is measured.
func (o options) measures() bool { return o.has(measured(o.suites)) }

// observes tells whether anything of it is observed.
func (o options) observes() bool { return o.has(observed(o.suites)) }

func (o options) has(of []string) bool {
	return len((&suites.Run{Modes: modes.All(), Suites: of, Features: o.features}).Cells()) > 0
}

func (v *progress) add(name string, width, total int) {
	l := &line{total: total, doing: "waiting"}
	v.lines[name] = l
	if v.bars == nil {
		return
	}
	said := func(decor.Statistics) string {
		v.mu.Lock()
		defer v.mu.Unlock()
		return fmt.Sprintf(" %3d/%d  %s", l.done, l.total, l.says())
	}
	l.bar = v.bars.New(int64(total), mpb.BarStyle().Lbound("").Rbound("").Filler("█").Tip("█").Padding("░"),
		mpb.PrependDecorators(decor.Name(fmt.Sprintf("  %-*s  ", width, name))), mpb.AppendDecorators(decor.Any(said)))
}

// says is what there is to say of a mode.
func (l *line) says() string {
	switch {
	case l.done < l.total:
		return l.doing
	case l.fail > 0:
		return fmt.Sprintf("%d not as expected", l.fail)
	case l.unable > 0:
		return fmt.Sprintf("as expected, %d unable", l.unable)
	case l.doing == "blocks":
		return "measured"
	}
	return "as expected"
}

// event shows what happened. It is called for one event at a time.
func (v *progress) event(g *ground, e suites.Event) {
	// Bars are moved without the lock, which drawing them takes.
	if l := v.note(g, e); l != nil && l.bar != nil {
		l.bar.SetTotal(int64(l.total), false)
		l.bar.SetCurrent(int64(l.done))
	}
}

// note takes note of an event, and returns the line that moved; nil where none did.
func (v *progress) note(g *ground, e suites.Event) *line {
	v.mu.Lock()
	defer v.mu.Unlock()
	name := on(e.Mode, g)
	if e.Kind == "block" {
		name = on(measuring, g)
	}
	l := v.lines[name]
	if l == nil {
		return nil
	}
	switch {
	case e.Kind == "booting":
		l.doing = "booting " + g.guest.Release
	case e.Kind == "starting":
		l.doing = "starting its lab"
	case e.Kind == "cell" && suites.Measured(e.Result.Suite):
		return nil
	case e.Kind == "cell":
		l.done++
		l.doing = e.Result.Feature
		switch e.Result.Outcome {
		case reports.Fail:
			l.fail++
			if !v.terminal {
				said := e.Result.Detail
				if said == l.told {
					said = "the same" // of a mode that cannot be set up all cells say it, in many lines
				}
				fmt.Fprintf(v.out, "  %s: %s not as expected: %s\n", e.Mode, e.Result.Feature, said)
				l.told = e.Result.Detail
			}
		case reports.Unable:
			l.unable++
		}
	case e.Kind == "block":
		l.done, l.total = e.Block, e.Blocks
		l.doing = "blocks"
	default:
		return nil
	}
	if !v.terminal && (l.done == l.total || e.Kind == "block") {
		fmt.Fprintf(v.out, "  %s  %d/%d  %s\n", name, l.done, l.total, l.says())
	}
	return l
}

// end leaves the lines as they are.
func (v *progress) end() {
	if v.bars == nil {
		return
	}
	for _, l := range v.lines {
		l.bar.Abort(false) // one that is complete stays so
	}
	v.bars.Wait()
}
