package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"golang.org/x/term"

	"github.com/modebench/modebench/modes"
	"github.com/modebench/modebench/reports"
	"github.com/modebench/modebench/suites"
	"github.com/modebench/modebench/topology"
)

// options are what a user may say of a run.
type options struct {
	modes, suites, features []string
	topology, dir           string
	quick, strict           bool
	seed                    uint64
	blocks                  int
}

// Blocks of a run: with fewer than six, no interval at 95 % exists.
const (
	defaultBlocks = 10
	quickBlocks   = 3
	quickTrial    = 20 * time.Millisecond
)

func runCommand() *cobra.Command {
	var o options
	c := &cobra.Command{
		Use: "run", Short: "Observe and measure modes, and write a report", Args: cobra.NoArgs,
		Example: "  modebench run\n  modebench run -m bridge,macvlan-bridge --suite conformance\n  modebench run --quick -o /tmp/report",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !cmd.Flags().Changed("seed") {
				o.seed = rand.Uint64() >> 12 // readable, and exact as a JSON number
			}
			return run(cmd.Context(), o, cmd.Flags().Changed("blocks"))
		},
	}
	f := c.Flags()
	topologyFlag(c, &o.topology)
	f.StringSliceVarP(&o.modes, "modes", "m", nil, "modes, comma-separated; all where not given")
	f.StringSliceVar(&o.suites, "suite", nil, "suites: "+strings.Join(suites.Names(), ", ")+"; all where not given")
	f.StringSliceVar(&o.features, "feature", nil, "observe these features only")
	f.StringVarP(&o.dir, "out", "o", "modebench-report", "directory for the report")
	f.BoolVar(&o.quick, "quick", false, fmt.Sprintf("measure %d blocks, and claim no intervals", quickBlocks))
	f.IntVar(&o.blocks, "blocks", defaultBlocks, "interleaved blocks of measurements")
	f.Uint64Var(&o.seed, "seed", 0, "seed of everything random; drawn where not given")
	f.BoolVar(&o.strict, "strict", false, "exit with 1 where this machine could not say")
	if err := errors.Join(c.RegisterFlagCompletionFunc("modes", completeModes)); err != nil {
		panic(err)
	}
	return c
}

// check answers bad input before anything is started.
func (o *options) check() (*topology.Plan, string, []modes.Mode, error) {
	p, source, err := readPlan(o.topology)
	if err != nil {
		return nil, "", nil, err
	}
	ms, err := findModes(o.modes)
	if err != nil {
		return nil, "", nil, err
	}
	if len(o.suites) == 0 {
		o.suites = suites.Names()
	}
	for _, s := range o.suites {
		if !slices.Contains(suites.Names(), s) {
			return nil, "", nil, input("--suite %q: no such suite: want one of %s", s, strings.Join(suites.Names(), ", "))
		}
	}
	for _, f := range o.features {
		if !slices.ContainsFunc(suites.Specs(), func(s suites.Spec) bool { return s.Feature.Name == f }) {
			return nil, "", nil, input("--feature %q: no such feature: %s", f, nearest(f))
		}
	}
	if o.blocks < 1 || o.blocks > 1000 {
		return nil, "", nil, input("--blocks %d: want 1 to 1000", o.blocks)
	}
	if f := p.Topology.Fabric; f != "" && f != topology.Open {
		return nil, "", nil, input("%s: fabric %q: modes choose their fabric: want open, or none", o.topology, f)
	}
	if err := suites.Fits(p); err != nil {
		return nil, "", nil, input("%s: %w", o.topology, err)
	}
	return p, source, ms, writable(o.dir)
}

// nearest names features that share a beginning with what was typed.
func nearest(typed string) string {
	var all []string
	for _, s := range suites.Specs() {
		all = append(all, s.Feature.Name)
	}
	for n := len(typed); n > 0; n-- {
		like := slices.DeleteFunc(slices.Clone(all), func(name string) bool { return !strings.HasPrefix(name, typed[:n]) })
		if len(like) > 0 {
			return "want one such as " + strings.Join(like[:min(3, len(like))], ", ")
		}
	}
	return "want one such as " + strings.Join(all[:3], ", ")
}

func run(ctx context.Context, o options, blocksGiven bool) error {
	p, source, ms, err := o.check()
	if err != nil {
		return err
	}
	if o.quick && !blocksGiven {
		o.blocks = quickBlocks
	}
	began := time.Now()
	res := reports.Results{Schema: reports.Schema, Run: reports.Run{
		Version: version(), Command: os.Args[1:], Seed: o.seed, Started: began.UTC().Truncate(time.Second), Quick: o.quick || o.blocks < 6,
		Topology: draw(p, topology.Wiring{}), Source: source, Machine: machine(),
	}}
	missing, err := lacks(ctx, kernelsOf(ms, p))
	if errors.Is(err, errIsolation) {
		return coded{fmt.Errorf("%w; %s", err, isolationRemedy()), exitNothing}
	}
	if err != nil {
		return coded{err, exitNothing}
	}
	if why := missing["underlay"]; why != "" {
		return coded{fmt.Errorf("this kernel cannot carry a lab: %s", why), exitNothing}
	}
	able, unable := divide(ms, missing, p, o)
	res.Results = unable
	res.Run.Phases = append(res.Run.Phases, reports.Phase{Name: "look at the kernel", Seconds: time.Since(began).Seconds()})

	view := newProgress(os.Stderr, term.IsTerminal(int(os.Stderr.Fd())))
	view.begin(res.Run, p, able, o)
	counts := map[string]*reports.Counts{}
	var failures []string
	var mu sync.Mutex
	gather := func(m message) {
		mu.Lock()
		defer mu.Unlock()
		switch m.Kind {
		case "cell":
			res.Results = append(res.Results, *m.Result)
		case "started":
			if m.Counts != nil {
				counts[m.Mode] = m.Counts
			}
		case "phase":
			res.Run.Phases = append(res.Run.Phases, *m.Phase)
		}
		if m.File != nil {
			if err := keep(o.dir, *m.File); err != nil {
				failures = append(failures, fmt.Sprintf("out directory: %v", err))
			}
		}
		view.event(m.Event)
	}
	for _, phase := range phases(o, able, p, source) {
		if ctx.Err() != nil {
			break
		}
		start := time.Now()
		var workers errgroup.Group
		workers.SetLimit(phase.atOnce)
		for _, j := range phase.jobs {
			workers.Go(func() error {
				if ctx.Err() != nil {
					return nil
				}
				if err := employ(ctx, j, gather); err != nil {
					mu.Lock()
					defer mu.Unlock()
					failures = append(failures, fmt.Sprintf("%s of %s: %v", phase.name, strings.Join(j.Modes, ", "), err))
				}
				return nil
			})
		}
		_ = workers.Wait() // what failed was noted
		res.Run.Phases = append(res.Run.Phases, reports.Phase{Name: phase.name, Seconds: time.Since(start).Seconds()})
	}
	view.end()

	if err := describe(&res, p, ms, counts, owed(o, able, p)); err != nil {
		return err
	}
	res.Run.Notes = append(notes(o, res), failures...)
	res.Run.Seconds = time.Since(began).Seconds()
	if err := write(o.dir, res); err != nil {
		return input("out directory: %w", err)
	}
	return conclude(o, res, failures, ctx.Err() != nil)
}

// phase is jobs, of which some run at the same time.
type phase struct {
	name   string
	jobs   []job
	atOnce int
}

// phases divides a run: modes are observed by workers of their own, several at the same time; measuring has the machine
// for itself.
func phases(o options, able []modes.Mode, p *topology.Plan, source string) []phase {
	base := job{Topology: source, Name: o.topology, Features: o.features, Seed: o.seed}
	var out []phase
	var observing, measuring []string
	for _, s := range o.suites {
		if suites.Measured(s) {
			measuring = append(measuring, s)
		} else {
			observing = append(observing, s)
		}
	}
	if len(observing) > 0 {
		var jobs []job
		for _, m := range able {
			j := base
			j.Suites, j.Modes = observing, []string{m.Name}
			jobs = append(jobs, j)
		}
		// A spec waits more than it computes: two for a processor keep it busy.
		out = append(out, phase{"observe", jobs, max(2, min(2*runtime.NumCPU(), 16))})
	}
	if len(measuring) > 0 && len(able) > 0 && len(o.features) == 0 {
		j := base
		j.Suites, j.Modes = measuring, names(able)
		j.Measure = suites.Measure{Blocks: o.blocks, Seed: o.seed}
		if o.quick {
			j.Measure.Trial = quickTrial
		}
		out = append(out, phase{"measure", []job{j}, 1})
	}
	return out
}

func names(ms []modes.Mode) []string {
	out := make([]string, len(ms))
	for i, m := range ms {
		out[i] = m.Name
	}
	return out
}

// kernelsOf is what the modes and the lab's own underlay need of a kernel.
func kernelsOf(ms []modes.Mode, p *topology.Plan) []string {
	need := []string{"underlay"}
	for _, m := range p.Machines {
		for _, n := range m.NICs {
			if n.Rate != 0 {
				need = append(need, "tbf")
			}
			if n.Delay != "" || n.Loss != 0 {
				need = append(need, "netem")
			}
		}
	}
	for _, m := range ms {
		for _, k := range m.Needs {
			need = append(need, string(k))
		}
	}
	slices.Sort(need)
	return slices.Compact(need)
}

// divide tells the modes that this kernel can carry out, and gives the others' cells as unable.
func divide(ms []modes.Mode, missing map[string]string, p *topology.Plan, o options) (able []modes.Mode, unable []reports.Result) {
	for _, m := range ms {
		why := ""
		for _, k := range m.Needs {
			if text := missing[string(k)]; text != "" {
				why = fmt.Sprintf("this kernel lacks %s: %s", k, text)
			}
		}
		if why == "" {
			able = append(able, m)
			continue
		}
		for _, c := range owed(o, []modes.Mode{m}, p) {
			unable = append(unable, reports.Result{
				Suite: c.Suite, Mode: c.Mode, Implementation: "kernel", Feature: c.Feature, Outcome: reports.Unable, Detail: why,
				Fidelity: reports.Fidelity{Kernel: release(), Driver: "netns"},
			})
		}
	}
	return able, unable
}

// owed is the manifest.
func owed(o options, able []modes.Mode, p *topology.Plan) []suites.Cell {
	r := &suites.Run{Modes: able, Suites: o.suites, Features: o.features, Measure: suites.Measure{Blocks: o.blocks}}
	return r.Cells()
}

// notes are what a reader must know before believing a number.
func notes(o options, res reports.Results) []string {
	var out []string
	if o.quick {
		out = append(out, fmt.Sprintf("This was a quick run of %d blocks: ratios without intervals.", o.blocks))
	}
	if !res.Run.Complete {
		out = append(out, fmt.Sprintf("This run is not complete: %d cells that it owes are missing.", len(res.Run.Missing)))
	}
	out = append(out,
		"Hosts are network namespaces of one kernel, joined by veth pairs and a bridge: ratios to the host mode of the same run carry over to other machines, absolute figures do not.",
		"A veth device has no unicast filter, so a macvlan makes its parent promiscuous here; network interfaces that have one are not made so.")
	return out
}

// conclude prints what came of the run, and decides the exit code.
func conclude(o options, res reports.Results, failures []string, interrupted bool) error {
	width := 0
	color := term.IsTerminal(int(os.Stdout.Fd())) && os.Getenv("NO_COLOR") == ""
	if w, _, err := term.GetSize(int(os.Stdout.Fd())); err == nil {
		width = w
	}
	fmt.Print(reports.Matrix(res, width, color))
	for _, f := range failures {
		fmt.Fprintln(os.Stderr, "modebench:", f)
	}
	outcomes := map[string]int{}
	for _, r := range res.Results {
		outcomes[r.Outcome]++
	}
	fmt.Fprintf(os.Stderr, "\n  %d as expected, %d not, %d unable; %.1f s, seed %d\n", outcomes[reports.Pass], outcomes[reports.Fail], outcomes[reports.Unable], res.Run.Seconds, res.Run.Seed)
	fmt.Fprintln(os.Stderr, "  report:", filepath.Join(o.dir, "index.html"))
	switch {
	case interrupted:
		return coded{errors.New("interrupted: the report is of what was done until then"), exitUnexpected}
	case outcomes[reports.Pass]+outcomes[reports.Fail] == 0:
		return coded{errors.New("nothing could be run: modebench doctor tells why"), exitNothing}
	case !res.Run.Complete:
		return coded{fmt.Errorf("%d cells were never run, such as %s", len(res.Run.Missing), res.Run.Missing[0]), exitUnexpected}
	case outcomes[reports.Fail] > 0, o.strict && outcomes[reports.Unable] > 0:
		return coded{nil, exitUnexpected}
	}
	return nil
}
