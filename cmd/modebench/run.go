package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
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
	"github.com/modebench/modebench/topology/daemons"
	"github.com/modebench/modebench/topology/vm"
)

// options are what a user may say of a run.
type options struct {
	modes, suites, features []string
	fabrics                 []string // that modes are put on
	topology, dir           string
	kernels                 []string // autoKernel alone, or a matrix
	driver                  string   // what hosts are, one of drivers
	inventory               string   // file that says on which real machines they are; empty: on none
	sites                   topology.Inventory
	nic                     string // model of the hosts' NICs; empty: they have none, or the usual one
	cache                   string
	programs                string // directory of programs that hosts of some modes run
	implementations         []string
	confFile, confBin       string // somebody's own network configuration list and the directory of its plugins
	expect                  string // the mode that these are to be
	conf                    modes.Conf
	dirs                    modes.Dirs // of those who carry modes out
	dockerBin               string     // directory of dockerd and what it starts; empty: where the machine has them
	noFetch                 bool
	quick, strict           bool
	keep                    bool // leave the first lab in which a spec fails
	seed                    uint64
	blocks                  int
	soak                    time.Duration
	part                    string // --shard as it was given
	shard                   shard
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
	f.StringSliceVarP(&o.implementations, "implementation", "i", []string{modes.ByKernel}, "who carries modes out: "+strings.Join(modes.Implementations(), ", ")+"; several, comma-separated, side by side")
	dockerFlag(c, &o.dockerBin)
	f.StringVar(&o.confFile, "cni-conf", "", "have the plugins of this network configuration list carry a mode out, too, or alone where no modes are given")
	f.StringVar(&o.confBin, "cni-bin", "/opt/cni/bin", "with --cni-conf, the directory of its plugins")
	f.StringVar(&o.expect, "expect", "", "with --cni-conf, the mode that it is to be, by whose expectations it is judged; where not given, it is described, as the mode that it is nearest to")
	f.StringSliceVar(&o.suites, "suite", nil, "suites: "+strings.Join(suites.Names(), ", ")+"; where not given, those that ask what --feature names, or else all but those that take long: "+strings.Join(slices.DeleteFunc(suites.Names(), func(s string) bool { return slices.Contains(suites.Usual(), s) }), ", "))
	f.StringSliceVar(&o.features, "feature", nil, "observe or measure these features only")
	f.StringSliceVar(&o.fabrics, "fabric", nil, "put modes on these fabrics only, in the suite "+suites.OnFabrics+": "+strings.Join(suites.Fabrics(), ", "))
	f.StringSliceVar(&o.kernels, "kernel", []string{autoKernel}, "kernels that labs stand on: "+autoKernel+" (this machine's, and a guest's for what it lacks), "+hostKernel+", "+
		strings.Join(vm.Fetchable(), ", ")+" or a path; several, comma-separated, make a matrix")
	f.StringVar(&o.driver, "driver", netnsDriver, "what hosts are: "+netnsDriver+" (namespaces of one kernel) or "+vmDriver+" (machines, each with a guest kernel of its own; observing suites only) or "+sshDriver+" (real machines, by --inventory; likewise)")
	inventoryFlag(c, &o.inventory)
	f.StringVar(&o.nic, "nic", "", "with --driver vm, model of the hosts' NICs: "+strings.Join(vm.NICs(), ", ")+"; the first where not given")
	f.BoolVar(&o.noFetch, "no-fetch", false, "fetch no kernel and no source: what needs one that is not there is unable")
	cacheFlag(c, &o.cache)
	f.StringVarP(&o.dir, "out", "o", "modebench-report", "directory for the report")
	f.BoolVar(&o.quick, "quick", false, fmt.Sprintf("measure %d blocks, and claim no intervals", quickBlocks))
	f.IntVar(&o.blocks, "blocks", defaultBlocks, "interleaved blocks of measurements")
	f.DurationVar(&o.soak, "soak", suites.UsualSoak, "how long impaired-soak watches sessions, such as 1h")
	f.Uint64Var(&o.seed, "seed", 0, "seed of everything random; drawn where not given")
	f.BoolVar(&o.strict, "strict", false, "exit with 1 where this machine could not say")
	f.BoolVar(&o.keep, "keep-on-fail", false, "leave the first lab in which a spec fails up, as the spec left it, to look around in with modebench lab")
	f.StringVar(&o.part, "shard", "", "run part I of N parts of the same run, as I/N; modebench report puts their results together")
	if err := errors.Join(c.RegisterFlagCompletionFunc("modes", completeModes), c.RegisterFlagCompletionFunc("driver", cobra.FixedCompletions(drivers, cobra.ShellCompDirectiveNoFileComp))); err != nil {
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
	if o.dirs, err = places(o.cache, o.dockerBin, o.implementations); err != nil {
		return nil, "", nil, err
	}
	if ms, err = carried(ms, o.modes, o.implementations, o.dirs); err != nil {
		return nil, "", nil, err
	}
	if ms, err = o.own(ms, p); err != nil {
		return nil, "", nil, err
	}
	if len(o.suites) == 0 && len(o.fabrics) > 0 {
		o.suites = []string{suites.OnFabrics}
	}
	if len(o.suites) == 0 {
		o.suites = suites.Asking(o.features)
	}
	if len(o.suites) == 0 {
		o.suites = suites.Usual()
		if o.driver != netnsDriver || o.confFile != "" && o.expect == "" {
			o.suites = observed(o.suites)
		}
	}
	for _, s := range o.suites {
		if !slices.Contains(suites.Names(), s) {
			return nil, "", nil, input("--suite %q: no such suite: want one of %s", s, strings.Join(suites.Names(), ", "))
		}
	}
	if slices.Equal(o.suites, []string{suites.Plugged}) && !slices.ContainsFunc(ms, modes.Mode.Plugged) {
		return nil, "", nil, input("--suite %s: it asks plugins, and none carries a mode out: want -i %s with it, or --cni-conf FILE", suites.Plugged, modes.ByCNI)
	}
	if slices.Equal(o.suites, []string{suites.Engined}) && !slices.Contains(o.implementations, modes.ByDocker) {
		return nil, "", nil, input("--suite %s: it asks an engine, and none carries a mode out: want -i %s with it", suites.Engined, modes.ByDocker)
	}
	for _, f := range o.features {
		if all := suites.Features(); !slices.Contains(all, f) {
			return nil, "", nil, input("--feature %q: no such feature: %s", f, nearest(f, all))
		}
	}
	if err := o.checkFabrics(); err != nil {
		return nil, "", nil, err
	}
	for _, f := range o.features {
		asking := suites.Asking([]string{f})
		if !slices.ContainsFunc(asking, func(s string) bool { return slices.Contains(o.suites, s) }) {
			return nil, "", nil, input("--feature %q: it is not asked in the suite %s: want --suite %s, or none", f, strings.Join(o.suites, ","), strings.Join(asking, " or "))
		}
	}
	if o.blocks < 1 || o.blocks > 1000 {
		return nil, "", nil, input("--blocks %d: want 1 to 1000", o.blocks)
	}
	if o.soak < time.Second || o.soak > 24*time.Hour {
		return nil, "", nil, input("--soak %s: want 1s to 24h", o.soak)
	}
	if o.shard, err = parseShard(o.part); err != nil {
		return nil, "", nil, err
	}
	if n := o.parts(ms); o.shard.of > n {
		return nil, "", nil, input("--shard %s: want at most as many shards as this run has parts, %d", o.part, n)
	}
	if err := checkKernels(o.kernels, o.cache); err != nil {
		return nil, "", nil, err
	}
	if err := o.checkDriver(); err != nil {
		return nil, "", nil, err
	}
	if o.keep && o.driver == vmDriver {
		return nil, "", nil, input("--keep-on-fail: with --driver vm hosts are guests, where there are no programs to look around with: want --driver netns")
	}
	if f := cmp.Or(p.Topology.Fabric, topology.Open); f != topology.Open {
		return nil, "", nil, input("%s: fabric %s: modes choose their fabric: want open, or none", o.topology, f)
	}
	if err := suites.Fits(p); err != nil {
		return nil, "", nil, input("%s: %w", o.topology, err)
	}
	if o.driver == sshDriver {
		if o.sites, err = readInventory(o.inventory, p.Topology); err != nil {
			return nil, "", nil, err
		}
	}
	return p, source, ms, writable(o.dir)
}

func dockerFlag(c *cobra.Command, bin *string) {
	c.Flags().StringVar(bin, "docker-bin", "", "with -i docker, the directory of dockerd and what it starts; where the machine has them where not given")
}

// places are the directories of those who carry modes out: of plugins in the cache, and of an engine where it was given as --docker-bin.
func places(cache, dockerBin string, implementations []string) (modes.Dirs, error) {
	plugins, err := daemons.Plugins.Place(cache)
	if err != nil {
		return nil, err
	}
	dirs := modes.Dirs{modes.ByCNI: plugins}
	if dockerBin == "" {
		return dirs, nil
	}
	bin, err := filepath.Abs(dockerBin)
	if err != nil {
		return nil, input("--docker-bin: %w", err)
	}
	if !slices.Contains(implementations, modes.ByDocker) {
		return nil, input("--docker-bin %s: no engine is to carry modes out: want -i %s with it", dockerBin, modes.ByDocker)
	}
	if _, err := exec.LookPath(filepath.Join(bin, "dockerd")); err != nil {
		return nil, input("--docker-bin %s: there is no program dockerd in it: want the directory that has it", dockerBin)
	}
	dirs[modes.ByDocker] = bin
	return dirs, nil
}

// own adds the mode that somebody's own plugins are to carry out, where there are any, to those that were asked for.
func (o *options) own(ms []modes.Mode, p *topology.Plan) ([]modes.Mode, error) {
	if o.confFile == "" {
		if o.expect != "" {
			return nil, input("--expect %s: nothing is to be judged so: want --cni-conf FILE with it", o.expect)
		}
		return ms, nil
	}
	text, err := os.ReadFile(o.confFile)
	if err != nil {
		return nil, input("--cni-conf: %w", err)
	}
	bin, err := filepath.Abs(o.confBin)
	if err != nil {
		return nil, input("--cni-bin: %w", err)
	}
	m, ok := modes.Find(o.expect)
	switch {
	case o.expect == "" && o.part != "":
		return nil, input("--shard %s: what --cni-conf %s is nearest to is told by all of it: want --expect MODE, or no shards", o.part, o.confFile)
	case o.expect == "":
		m = modes.Conf{Text: string(text)}.Mode()
	case !ok:
		return nil, input("--expect %q: no such mode: want one such as bridge, macvlan-bridge", o.expect)
	case m.Addrs == nil || m.Device == "":
		return nil, input("--expect %s: its containers have no interface of their own, which plugins would make", m.Name)
	}
	on, err := m.Plan(p.Topology)
	if err != nil {
		return nil, input("--expect %s: %w", m.Name, err)
	}
	if o.conf, err = modes.ReadConf(text, bin, on); err != nil {
		return nil, input("%s: %w", o.confFile, err)
	}
	for _, name := range o.conf.Types(on) {
		if _, err := exec.LookPath(filepath.Join(bin, filepath.Base(name))); err != nil {
			return nil, input("%s: plugin %q: there is no such program in %s: want the directory that has it as --cni-bin", o.confFile, name, o.confBin)
		}
	}
	if len(o.modes) == 0 {
		ms = nil
	}
	return append(ms, m.ByConf(o.conf)), nil
}

// checkFabrics answers a --fabric that cannot be meant, and asks what is asked on those alone.
func (o *options) checkFabrics() error {
	if len(o.fabrics) == 0 {
		return nil
	}
	for _, f := range o.fabrics {
		if !slices.Contains(suites.Fabrics(), f) {
			return input("--fabric %q: modes are not put on it: want one of %s", f, strings.Join(suites.Fabrics(), ", "))
		}
	}
	for _, s := range o.suites {
		if s != suites.OnFabrics {
			return input("--fabric with the suite %s, in which modes choose their fabric: want --suite %s, or none", s, suites.OnFabrics)
		}
	}
	on := suites.FeaturesOn(o.fabrics)
	for _, f := range o.features {
		if !slices.Contains(on, f) {
			return input("--feature %q: it is not asked on %s: %s", f, strings.Join(o.fabrics, ", "), nearest(f, on))
		}
	}
	if len(o.features) == 0 {
		o.features = on
	}
	return nil
}

// nearest names features that share a beginning with what was typed.
func nearest(typed string, all []string) string {
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
	whole, elsewhere := ms, o.elsewhere(ms)
	ms, o.suites = o.share(ms)
	res := reports.Results{Schema: reports.Schema, Run: reports.Run{
		Version: version(), Command: os.Args[1:], Seed: o.seed, Started: began.UTC().Truncate(time.Second), Quick: o.quick || o.blocks < 6,
		Topology: draw(p, topology.Wiring{}), Source: source, Machine: machine(),
	}}
	ks := &kernels{cache: o.cache, plugins: o.conf.Plugins, driver: o.driver, nic: o.nic, noFetch: o.noFetch, dirs: o.dirs, say: os.Stderr, span: func(name string, f func() error) error {
		start := time.Now()
		defer func() {
			res.Run.Phases = append(res.Run.Phases, reports.Phase{Name: name, Seconds: time.Since(start).Seconds()})
		}()
		return f()
	}}
	if o.driver == sshDriver {
		ks.inventory = &o.sites
	}
	all, err := ks.assign(ctx, o.kernels, ms, p.Topology)
	if errors.Is(err, errIsolation) {
		return coded{fmt.Errorf("%w; %s", err, isolationRemedy()), exitNothing}
	}
	if err != nil {
		return coded{err, exitNothing}
	}
	all, o.programs = ks.share(ctx, all, o), ks.daemons
	expected, err := expectations()
	if err != nil {
		return err
	}
	for _, m := range whole {
		expect(expected, m)
	}
	b := &book{o: o, expectations: expected, res: &res, grounds: ks.grounds, got: map[cell]bool{}, counts: map[string]*reports.Counts{}}
	for _, a := range all {
		if a.why == "" {
			continue
		}
		b.unable(a, o.suites, a.why)
		if g := a.ground; g.failed != nil && o.kernels[0] != autoKernel { // one that was asked for by name
			first, _, _ := strings.Cut(g.failed.Error(), "\n")
			if says := fmt.Sprintf("nothing on %s: %s", g.name, first); !slices.Contains(b.failures, says) {
				b.failures = append(b.failures, says)
			}
		}
	}
	b.view = newProgress(os.Stderr, term.IsTerminal(int(os.Stderr.Fd())))
	b.view.begin(res.Run, p, all, o)
	for _, phase := range phases(o, all, source) {
		if ctx.Err() != nil {
			break
		}
		start := time.Now()
		var workers errgroup.Group
		workers.SetLimit(phase.atOnce)
		for _, t := range phase.tasks {
			workers.Go(func() error {
				if ctx.Err() == nil {
					b.close(ctx, phase.name, t, employ(ctx, t.job, func(m message) { b.note(t, m) }))
				}
				return nil
			})
		}
		_ = workers.Wait() // what failed was noted
		res.Run.Phases = append(res.Run.Phases, reports.Phase{Name: phase.name, Seconds: time.Since(start).Seconds()})
	}
	b.view.end()

	for _, a := range all {
		for _, c := range owed(o, a, o.suites) {
			if !b.got[c] {
				res.Run.Missing = append(res.Run.Missing, c.String())
			}
		}
	}
	res.Run.Complete = len(res.Run.Missing) == 0
	if o.confFile != "" && o.expect == "" {
		whole = b.liken(whole)
	}
	res.Run.Elsewhere = elsewhere
	if err := describe(&res, p, whole, b.counts); err != nil {
		return err
	}
	res.Run.Notes = slices.Concat(b.likeness, uncarried(whole, o.implementations), notes(o, all), b.failures)
	res.Run.Seconds = time.Since(began).Seconds()
	if err := write(o.dir, res); err != nil {
		return input("out directory: %w", err)
	}
	return conclude(o, res, b, ctx.Err() != nil)
}

// cell is one planned result on one kernel.
type cell struct {
	suites.Cell
	on string // ground; empty: the run's only one for the mode
}

// String is the cell as reports name it.
func (c cell) String() string {
	if c.on == "" {
		return c.Cell.String()
	}
	return c.Cell.String() + " on " + c.on
}

// on is the ground's name in cells: empty where the run does not have every mode on several.
func (o options) on(g *ground) string {
	if len(o.kernels) < 2 {
		return ""
	}
	return g.name
}

// file are the flags that lead a run to its topology.
func (o options) file() []string {
	if o.topology == defaultTopology {
		return nil
	}
	return []string{"-t", word(o.topology)}
}

// confFlags lead a run to the list that the user has given.
func (o options) confFlags() []string {
	if o.confFile == "" {
		return nil
	}
	return []string{"--cni-conf", word(o.confFile), "--cni-bin", word(o.confBin)}
}

// flags lead a run to a ground, and have it watch as long.
func (o options) flags(g *ground) (words []string) {
	if o.dockerBin != "" {
		words = append(words, "--docker-bin", word(o.dockerBin))
	}
	if g.driver == sshDriver {
		words = append(words, "--driver", g.driver, "--inventory", word(o.inventory))
	}
	if g.driver == vmDriver {
		words = append(words, "--driver", g.driver)
		if g.nic != "" && g.nic != vm.NICs()[0] {
			words = append(words, "--nic", g.nic)
		}
	}
	if g.guest != nil || len(o.kernels) > 1 {
		words = append(words, "--kernel", word(g.name))
	}
	if cmp.Or(o.soak, suites.UsualSoak) != suites.UsualSoak {
		words = append(words, "--soak", o.soak.String())
	}
	return words
}

// plain is what a shell takes as it is.
var plain = regexp.MustCompile(`^[A-Za-z0-9_./:@%+,=-]+$`)

// word is a text as one word of a shell.
func word(text string) string {
	if plain.MatchString(text) {
		return text
	}
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}

// owed is the manifest of one mode on its ground, of some suites.
func owed(o options, a assignment, of []string) (out []cell) {
	r := &suites.Run{Modes: []modes.Mode{a.Mode}}
	var cells []suites.Cell
	if features, any := a.asks(o); any {
		r.Suites, r.Features = observed(of), features
		cells = r.Cells()
	}
	if len(a.only) == 0 {
		r.Suites, r.Features = measured(of), o.features
		cells = append(cells, r.Cells()...)
	}
	for _, c := range cells {
		out = append(out, cell{c, o.on(a.ground)})
	}
	return out
}

// task is a job, and what it is for.
type task struct {
	job
	ground *ground
	of     []assignment
}

// book is what a run has come to know.
type book struct {
	o            options
	expectations map[string]map[string]modes.Expectation // by mode and feature
	grounds      []*ground
	view         *progress

	mu       sync.Mutex
	res      *reports.Results
	got      map[cell]bool
	counts   map[string]*reports.Counts // by mode, on the first of its grounds
	failures []string
	left     *status  // the lab that stays
	likeness []string // what somebody's own plugins are like, where they are described
}

// note takes note of a message.
func (b *book) note(t task, m message) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch m.Kind {
	case "cell":
		b.res.Results = append(b.res.Results, *m.Result)
		b.got[cell{suites.Cell{Suite: m.Result.Suite, Mode: modes.Label(m.Result.Mode, m.Result.Implementation), Feature: m.Result.Feature}, b.o.on(t.ground)}] = true
	case "started":
		if m.Counts != nil && (b.counts[m.Mode] == nil || t.ground == b.grounds[0]) {
			b.counts[m.Mode] = m.Counts
		}
	case "phase":
		b.res.Run.Phases = append(b.res.Run.Phases, *m.Phase)
	}
	if m.File != nil {
		if err := keep(b.o.dir, *m.File); err != nil {
			b.failures = append(b.failures, fmt.Sprintf("out directory: %v", err))
		}
	}
	if m.Lab != nil {
		b.left = m.Lab
	}
	b.view.event(t.ground, m.Event)
}

// close takes note of how a task ended. What a guest that failed still owed is unable.
func (b *book) close(ctx context.Context, phase string, t task, err error) {
	if err == nil {
		return
	}
	first, _, _ := strings.Cut(err.Error(), "\n")
	b.mu.Lock()
	b.failures = append(b.failures, fmt.Sprintf("%s of %s: %s", phase, strings.Join(t.Modes, ", "), first))
	b.mu.Unlock()
	if t.ground.guest == nil || ctx.Err() != nil {
		return
	}
	for _, a := range t.of {
		b.unable(a, t.Suites, err.Error())
	}
}

// unable gives what an assignment still owes of some suites as unable. What follows the first line of the reason is what a
// guest's console said.
func (b *book) unable(a assignment, of []string, why string) {
	why, words, _ := strings.Cut(why, "\n")
	var console []reports.Evidence
	for line := range strings.Lines(words) {
		if line = strings.TrimSpace(line); line != "" {
			console = append(console, reports.Evidence{At: "console", Saw: line})
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	f := a.ground.fidelity()
	if a.plan != nil && cmp.Or(a.plan.Topology.Fabric, topology.Open) != topology.Open {
		f.Fabric = a.plan.Topology.Fabric.String()
	}
	for _, c := range owed(b.o, a, of) {
		if b.got[c] {
			continue
		}
		b.got[c] = true
		r := reports.Result{
			Suite: c.Suite, Mode: a.Name, Implementation: a.Carrier(), Feature: c.Feature, Outcome: reports.Unable, Detail: why, Evidence: console, Fidelity: f,
		}
		if !suites.Measured(c.Suite) {
			want := b.expectations[c.Mode][c.Feature].On(f.Machines())
			r.Expected, r.Reason, r.Source = want.Expect, want.Reason, want.Source
		}
		b.res.Results = append(b.res.Results, r)
		if b.view != nil {
			b.view.event(a.ground, suites.Event{Kind: "cell", Mode: c.Mode, Result: &r})
		}
	}
}

// phase is tasks, of which some run at the same time.
type phase struct {
	name   string
	tasks  []task
	atOnce int
}

// What a guest may take of the machine's memory, in bytes. Measuring has all labs of all modes at once. Engines have their programs, data and images in it.
const (
	observingMemory = 768 << 20
	measuringMemory = 2 << 30
	aloneMemory     = 2 << 30
	enginesMemory   = 2 << 30 // besides, of a mode that they carry out
)

// engines is what those of a mode take besides in a guest.
func engines(m modes.Mode) int64 {
	if m.Carrier() == modes.ByDocker {
		return enginesMemory
	}
	return 0
}

// phases divides a run, ground by ground: modes are observed by workers of their own, several at the same time; measuring
// has the machine for itself.
func phases(o options, all []assignment, source string) (out []phase) {
	observing, measuring := observed(o.suites), measured(o.suites)
	var grounds []*ground
	on := map[*ground][]assignment{}
	for _, a := range all {
		if a.why != "" {
			continue
		}
		if on[a.ground] == nil {
			grounds = append(grounds, a.ground)
		}
		on[a.ground] = append(on[a.ground], a)
	}
	slices.SortStableFunc(grounds, func(a, b *ground) int { // the machine's own first
		return cmp.Compare(a.fidelity().Accelerator, b.fidelity().Accelerator)
	})
	add := func(verb string, atOnce func(*ground) int, of func(g *ground, base job) []task) {
		for _, g := range grounds {
			name := verb
			if g.guest != nil {
				name += " on " + g.name
			}
			base := job{Topology: source, Name: o.topology, Features: o.features, Soak: o.soak, Seed: o.seed, Cache: o.cache, Programs: o.programs, Dirs: o.dirs, Conf: o.conf, ConfFlags: o.confFlags(), Fidelity: g.fidelity(), File: o.file(), Ground: o.flags(g)}
			if o.keep && g.guest == nil {
				base.Lab = &address{labsDir(), fmt.Sprintf("failed-%d", os.Getpid())}
			}
			base.Sites = g.sites
			if o.driver == vmDriver {
				base.Hosts, base.Lacking = g.guest, g.lacking
			} else {
				base.Guest = g.guest
			}
			tasks, most := of(g, base), atOnce(g)
			if len(tasks) == 0 {
				continue
			}
			if g.guest != nil {
				room := math.MaxInt
				for _, t := range tasks {
					room = min(room, int(memory("MemAvailable")/2)/int(t.Memory))
				}
				// Grounds need not wait for each other: where few are left of the one, there is room for the other.
				if last := len(out) - 1; last >= 0 && most > 1 && out[last].atOnce > 1 && room >= out[last].atOnce {
					before := out[last]
					if before.name == verb {
						before.name += " here"
					}
					out[last] = phase{before.name + " and on " + g.name, append(before.tasks, tasks...), before.atOnce}
					continue
				}
				most = max(1, min(most, room))
			}
			out = append(out, phase{name, tasks, most})
		}
	}
	observe := func(of []string, memory int64, which func(assignment) bool) func(g *ground, base job) []task {
		return func(g *ground, base job) (ts []task) {
			for _, a := range on[g] {
				if !which(a) || len(owed(o, a, of)) == 0 {
					continue // all that is asked for is measured, or observed elsewhere
				}
				j := base
				j.Suites, j.Modes, j.Memory, j.Carried = of, []string{a.String()}, memory+engines(a.Mode), a.carried
				j.Features, _ = a.asks(o)
				// A few features of several modes share a worker for each processor: what they take is the boot of a guest.
				var shared []int
				for i, t := range ts {
					if len(a.only) > 0 && len(t.of[0].only) > 0 && slices.Equal(t.Features, j.Features) {
						shared = append(shared, i)
					}
				}
				if len(shared) >= runtime.NumCPU() {
					t := &ts[slices.MinFunc(shared, func(a, b int) int { return cmp.Compare(len(ts[a].of), len(ts[b].of)) })]
					t.Carried = append(t.Carried, a.carried...)
					t.Modes, t.of = append(t.Modes, a.String()), append(t.of, a)
					continue
				}
				ts = append(ts, task{j, g, []assignment{a}})
			}
			return ts
		}
	}
	one := func(*ground) int { return 1 }
	beside := slices.DeleteFunc(slices.Clone(observing), suites.Alone)
	add("observe", together, observe(beside, observingMemory, func(a assignment) bool { return !a.laborious() }))
	add("observe engines", one, observe(beside, observingMemory, assignment.laborious))
	add("observe alone", one, observe(slices.DeleteFunc(slices.Clone(observing), func(s string) bool { return !suites.Alone(s) }), aloneMemory, func(assignment) bool { return true }))
	if o.measures() {
		add("measure", one, func(g *ground, j job) []task {
			j.Suites, j.Memory = measuring, measuringMemory
			of := slices.DeleteFunc(slices.Clone(on[g]), func(a assignment) bool { return len(a.only) > 0 })
			if len(of) == 0 {
				return nil
			}
			for _, a := range of {
				j.Modes, j.Carried, j.Memory = append(j.Modes, a.String()), append(j.Carried, a.carried...), j.Memory+engines(a.Mode)
			}
			j.Measure = suites.Measure{Blocks: o.blocks, Seed: o.seed}
			if o.quick || g.guest != nil { // in a guest a trial costs more than it lasts, and disturbances last longer still
				j.Measure.Trial = quickTrial
			}
			return []task{{j, g, of}}
		})
	}
	for _, p := range out {
		slices.SortStableFunc(p.tasks, func(a, b task) int { return cmp.Compare(b.weight(), a.weight()) })
	}
	return out
}

// weight tells which tasks of a phase come first, so that nobody waits for them in the end: what is emulated takes longest, then what is in a guest, and then what
// waits for programs of others.
func (t task) weight() int {
	switch {
	case t.ground.emulated():
		return 3
	case t.ground.guest != nil:
		return 2
	case slices.ContainsFunc(t.of, func(a assignment) bool { return len(a.Programs) > 0 }):
		return 1
	}
	return 0
}

// laborious tells whether an engine carries the mode out on emulated processors: it computes more than it waits, and one that waits for a processor answers too late.
func (a assignment) laborious() bool {
	return engines(a.Mode) > 0 && a.ground.emulated()
}

// together is how many workers observe at the same time on a ground.
func together(g *ground) int {
	n := max(2, min(3*runtime.NumCPU(), 16)) // a spec waits more than it computes: three for a processor keep it busy
	switch {
	case g.driver == sshDriver: // which have their interfaces once
		n = 1
	case g.driver == vmDriver: // a lab has several guests
		n = max(1, min(runtime.NumCPU()/2, int(memory("MemAvailable")/2/observingMemory)))
	case g.guest != nil:
		n = runtime.NumCPU() + 1 // they wait, too
	}
	return n
}

// notes are what a reader must know before believing a number.
func notes(o options, all []assignment) []string {
	var out []string
	guests := map[string][]string{}
	for _, a := range all {
		if a.ground.guest != nil && a.why == "" && !slices.Contains(guests[a.ground.String()], a.String()) {
			guests[a.ground.String()] = append(guests[a.ground.String()], a.String())
		}
	}
	for _, g := range slices.Sorted(maps.Keys(guests)) {
		if o.driver == vmDriver {
			out = append(out, fmt.Sprintf("Each host is a machine with the %s: %s.", g, strings.Join(guests[g], ", ")))
			continue
		}
		out = append(out, fmt.Sprintf("Observed in a %s, on one or few emulated processors: %s. What was measured there is compared with the host mode measured there.", g, strings.Join(guests[g], ", ")))
	}
	if o.driver == vmDriver {
		guests := map[string][]string{}
		for _, a := range all {
			if a.since != "" && a.why == "" && len(a.only) == 0 {
				guests[a.since] = append(guests[a.since], a.String())
			}
		}
		for _, why := range slices.Sorted(maps.Keys(guests)) {
			out = append(out, fmt.Sprintf("The switches of %s are guests, too: %s.", strings.Join(guests[why], ", "), why))
		}
		return append(out, "Other switches and external machines are network namespaces of this machine's kernel. The hosts' NICs cannot be deleted and their programs are no processes of this machine, so specs that delete or kill them are unable.")
	}
	if o.driver == sshDriver {
		return append(out, "Hosts are network namespaces of real machines, in which their interfaces are meanwhile; cables between machines of the topology that are on the same real one are veth pairs. A real machine is not restarted, its interfaces cannot be deleted and its programs are no processes of this machine, so specs that do so are unable.")
	}
	out = append(out,
		"Hosts are network namespaces of one kernel, joined by veth pairs and a bridge: ratios to the host mode of the same run carry over to other machines, absolute figures do not.",
		"A veth device has no unicast filter, so a macvlan makes its parent promiscuous here; network interfaces that have one are not made so.")
	return out
}

// uncarried says which modes of the run some of its implementations do not have.
func uncarried(ms []modes.Mode, implementations []string) (out []string) {
	for _, by := range modes.Implementations() {
		var lacking []string
		for _, m := range ms {
			if own, ok := modes.Find(m.Name); ok && !slices.Contains(lacking, m.Name) {
				if _, has := own.By(by, nil); !has {
					lacking = append(lacking, m.Name)
				}
			}
		}
		if slices.Contains(implementations, by) && len(lacking) > 0 {
			out = append(out, fmt.Sprintf("Not carried out by %s, which does not have it: %s.", by, strings.Join(lacking, ", ")))
		}
	}
	return out
}

// conclude prints what came of the run, and decides the exit code.
func conclude(o options, res reports.Results, b *book, interrupted bool) error {
	width := 0
	color := term.IsTerminal(int(os.Stdout.Fd())) && os.Getenv("NO_COLOR") == ""
	if w, _, err := term.GetSize(int(os.Stdout.Fd())); err == nil {
		width = w
	}
	fmt.Print(reports.Matrix(res, width, color), reports.Places(res, width, color))
	for _, line := range b.likeness {
		fmt.Fprintln(os.Stderr, " ", line)
	}
	for _, f := range b.failures {
		fmt.Fprintln(os.Stderr, "modebench:", f)
	}
	outcomes, wrong := map[string]int{}, 0
	for _, r := range res.Results {
		outcomes[r.Outcome]++
		if r.Outcome == reports.Fail && !(len(b.likeness) > 0 && r.Implementation == o.conf.Name) { // of what is described nothing was expected
			wrong++
		}
	}
	fmt.Fprintf(os.Stderr, "\n  %d as expected, %d not, %d unable; %.1f s, seed %d\n", outcomes[reports.Pass], outcomes[reports.Fail], outcomes[reports.Unable], res.Run.Seconds, res.Run.Seed)
	fmt.Fprintln(os.Stderr, "  report:", filepath.Join(o.dir, "index.html"))
	fmt.Fprintln(os.Stderr, "  choose:", "modebench recommend --need … "+filepath.Join(o.dir, "results.json"))
	switch {
	case b.left != nil:
		fmt.Fprintf(os.Stderr, "\n  the lab of %s is up, as %s left it:\n", b.left.Mode, b.left.Left)
		suggest(os.Stderr, *b.left, " --name "+b.left.Name)
	case o.keep && outcomes[reports.Fail] > 0:
		fmt.Fprintln(os.Stderr, "\n  no lab is left: what failed, failed in a guest, where there are no programs to look around with")
	}
	switch {
	case interrupted:
		return coded{errors.New("interrupted: the report is of what was done until then"), exitUnexpected}
	case outcomes[reports.Pass]+outcomes[reports.Fail] == 0:
		return coded{errors.New("nothing could be run: modebench doctor tells why"), exitNothing}
	case !res.Run.Complete:
		return coded{fmt.Errorf("%d cells were never run, such as %s", len(res.Run.Missing), res.Run.Missing[0]), exitUnexpected}
	case wrong > 0, o.strict && outcomes[reports.Unable] > 0:
		return coded{nil, exitUnexpected}
	}
	return nil
}
