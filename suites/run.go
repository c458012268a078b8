package suites

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/onsi/ginkgo/v2"

	"github.com/modebench/modebench/modes"
	"github.com/modebench/modebench/reports"
	"github.com/modebench/modebench/topology"
	"github.com/modebench/modebench/topology/lab"
)

// Run is everything that observing modes needs. Its functions are called one at a time.
type Run struct {
	Driver       lab.Driver
	Topology     topology.Topology // which each mode plans on its fabric
	Modes        []modes.Mode
	Suites       []string                                // those of specs, and throughput
	Features     []string                                // empty: all
	Expectations map[string]map[string]modes.Expectation // by mode and feature
	Fidelity     reports.Fidelity                        // without the fabric, which is the mode's
	Measure      Measure                                 // how throughput is measured
	Soak         time.Duration                           // how long sessions are watched by what soaks; 0: UsualSoak
	// What makes results reproducible: the flags of the command that name the topology, and those that name what the labs stand
	// on, as words of a shell.
	File, Ground []string
	Conf         []string // likewise, those that name somebody's own list of plugins

	Emit func(Event)                                        // what happens, as it happens
	Keep func(name string, ps []lab.Packet) (string, error) // keeps a failed spec's packets; gives the file's name
	// Leave takes over the lab in which a spec failed, as the spec left it, and tells whether it did. Nil: none is left.
	Leave func(b *Bench, feature string) bool
}

// Event is one thing that happened: a mode's lab is being started or was, a cell has its result.
type Event struct {
	Kind   string          `json:"kind"`             // starting, started, cell, block, phase
	Mode   string          `json:"mode"`             // its label
	Result *reports.Result `json:"result,omitempty"` // of a cell
	Phase  *reports.Phase  `json:"phase,omitempty"`
	Counts *reports.Counts `json:"counts,omitempty"` // started: what the mode put on the first host
	Block  int             `json:"block,omitempty"`  // of a block: how many are done
	Blocks int             `json:"blocks,omitempty"` // of a block: of how many
}

// Names are the suites, in the order of documents.
func Names() []string {
	return []string{"conformance", "packets", "lifecycle", "routing", Plugged, Engined, OnFabrics, scale, failure, throughput, nat}
}

// Usual are those that run where none is named: all but what takes long.
func Usual() []string {
	return slices.DeleteFunc(Names(), func(s string) bool { return s == OnFabrics || Alone(s) })
}

// Asking are the suites that observe or measure some of these features; none for names that are no features'.
func Asking(features []string) []string {
	return slices.DeleteFunc(Names(), func(suite string) bool {
		if Measured(suite) {
			return !slices.ContainsFunc(gauges, func(g gauge) bool { return slices.Contains(features, g.feature) })
		}
		return !slices.ContainsFunc(sorted(), func(s Spec) bool { return s.Suite == suite && slices.Contains(features, s.Feature.Name) })
	})
}

// Alone tells whether a suite of specs wants the machine for itself: it loads it or measures times.
func Alone(suite string) bool { return suite == scale || suite == failure }

// Measured tells whether a suite measures.
func Measured(suite string) bool { return suite == throughput || suite == nat }

// Fits tells what a plan lacks for the suites: they ask of containers on one host and across two, and of machines outside.
func Fits(p *topology.Plan) error {
	hosts := p.Hosts()
	if len(hosts) < 2 || len(p.Externals()) < 2 {
		return fmt.Errorf("%d hosts and %d external machines: the suites want at least two of each", len(hosts), len(p.Externals()))
	}
	if len(p.Networks) < 2 {
		return fmt.Errorf("one network: the suites want two, to see whether they are kept apart")
	}
	for _, h := range hosts[:2] {
		n := map[string]int{}
		for _, c := range h.Containers {
			n[c.Network]++
		}
		if n[p.Networks[0].Name] < 2 || n[p.Networks[1].Name] < 1 {
			return fmt.Errorf("%s: %d containers on %s and %d on %s: the suites want at least 2 and 1",
				h.Name, n[p.Networks[0].Name], p.Networks[0].Name, n[p.Networks[1].Name], p.Networks[1].Name)
		}
	}
	return nil
}

// Cell is one planned result.
type Cell struct{ Suite, Mode, Feature string } // the mode by its label, see modes.Label

// String is the cell as reports name it.
func (c Cell) String() string { return c.Suite + "/" + c.Mode + "/" + c.Feature }

// fabricOf is the fabric of the mode's plan.
func fabricOf(m modes.Mode) topology.Fabric { return m.Fabric }

// on is the run's fidelity on a fabric.
func (r *Run) on(f topology.Fabric) reports.Fidelity {
	out := r.Fidelity
	if f != topology.Open {
		out.Fabric = f.String()
	}
	return out
}

// specs are the chosen ones that a mode is asked.
func (r *Run) specs(m modes.Mode) []Spec {
	return slices.DeleteFunc(Specs(), func(s Spec) bool {
		return !slices.Contains(r.Suites, s.Suite) || len(r.Features) > 0 && !slices.Contains(r.Features, s.Feature.Name) ||
			!s.Asks(m)
	})
}

// expectation is what should be seen of a mode on the run's hosts.
func (r *Run) expectation(m modes.Mode, s Spec) (modes.Expectation, bool) {
	e, ok := r.Expectations[m.String()][s.Feature.Name]
	return e.On(r.Fidelity.Machines()), ok || m.Name == modes.Unknown
}

// command is the line that runs a part of the run again, where it ran.
func (r *Run) command(format string, args ...any) string {
	return strings.Join(slices.Concat([]string{"modebench run", fmt.Sprintf(format, args...)}, r.File, r.Ground), " ")
}

// Cells is the manifest: every result that the run owes.
func (r *Run) Cells() []Cell {
	var out []Cell
	for _, m := range r.Modes {
		for _, s := range r.specs(m) {
			out = append(out, Cell{s.Suite, m.String(), s.Feature.Name})
		}
	}
	return append(out, r.measuredCells()...)
}

// UsualSoak is for how long sessions are watched where nothing else is said.
const UsualSoak = time.Minute

// specTimeout bounds one spec, and what has to be put back after it, which may take another lab: where system calls are slow and the
// machine has much else to do, that alone takes half a minute in a guest. One that takes longer is not decided.
const specTimeout = 4 * time.Minute

// Declare declares a container of specs for each mode. It is called while ginkgo builds its tree.
func (r *Run) Declare() {
	for _, m := range r.Modes {
		for _, specs := range labs(r.specs(m)) {
			r.declare(m, specs)
		}
	}
	r.declareMeasurement()
}

// labs divides specs by the fabric that they are done on: those of one share a lab.
func labs(specs []Spec) (divided [][]Spec) {
	var last *topology.Fabric
	for _, s := range slices.SortedStableFunc(slices.Values(specs), func(a, b Spec) int { return cmp.Compare(place(a), place(b)) }) {
		if len(divided) == 0 || s.On != last {
			divided, last = append(divided, nil), s.On
		}
		divided[len(divided)-1] = append(divided[len(divided)-1], s)
	}
	return divided
}

// place is that of a spec's fabric among those that modes are put on; -1: it is done on that of the mode.
func place(s Spec) int {
	if s.On == nil {
		return -1
	}
	return slices.Index(fabrics, s.On.String())
}

// declare declares a container of specs of a mode, which share a lab.
func (r *Run) declare(m modes.Mode, specs []Spec) {
	ginkgo.Describe(m.String(), ginkgo.Ordered, ginkgo.ContinueOnFailure, func() {
		o := r.observer(m, specs[0].On)
		ginkgo.BeforeAll(func(ctx ginkgo.SpecContext) { o.start(ctx) })
		for _, s := range specs {
			ginkgo.It(s.Feature.Name, func(ctx ginkgo.SpecContext) {
				result := o.observe(ctx, s)
				r.Emit(Event{Kind: "cell", Mode: m.String(), Result: &result})
				switch result.Outcome {
				case reports.Fail:
					ginkgo.Fail(Failure(result))
				case reports.Unable:
					ginkgo.Skip(result.Detail)
				}
			})
		}
		ginkgo.AfterAll(func() {
			if err := o.stop(); err != nil {
				ginkgo.Fail(err.Error())
			}
		})
	})
}

// observer runs a mode's specs one after another in one lab, and starts another lab where one is spoilt.
type observer struct {
	run     *Run
	mode    modes.Mode       // on the fabric of the lab
	on      *topology.Fabric // that the specs are done on; nil: that of the mode
	nowhere error            // why the mode has no place on it
	bench   *Bench
	failed  error                                 // why there is no bench
	rewire  func([]topology.Step) []topology.Step // what a sabotage does to the steps of attaching
}

func (r *Run) observer(m modes.Mode, on *topology.Fabric) *observer {
	o := &observer{run: r, mode: m, on: on}
	if on != nil {
		o.mode, o.nowhere = m.On(*on)
	}
	return o
}

func (o *observer) start(ctx context.Context) {
	if o.nowhere != nil {
		return
	}
	began := time.Now()
	o.run.Emit(Event{Kind: "starting", Mode: o.mode.String()})
	o.bench, o.failed = o.boot(ctx)
	if lost := new(lostError); errors.As(o.failed, &lost) { // which says nothing of the mode
		o.bench, o.failed = o.boot(ctx)
	}
	if o.failed != nil {
		return
	}
	name, counts := "lab "+o.mode.String(), &o.bench.counts
	if o.on != nil {
		name, counts = name+" on "+o.on.String(), nil // it is told what the mode puts on a host of its own fabric
	}
	o.run.Emit(Event{Kind: "phase", Mode: o.mode.String(), Phase: &reports.Phase{Name: name, Seconds: time.Since(began).Seconds()}})
	o.run.Emit(Event{Kind: "started", Mode: o.mode.String(), Counts: counts})
}

func (o *observer) boot(ctx context.Context) (*Bench, error) {
	p, err := o.mode.Plan(o.run.Topology)
	if err != nil {
		return nil, err
	}
	b, err := newBench(ctx, o.run.Driver, p, o.mode, o.rewire)
	if err == nil {
		b.soak = cmp.Or(o.run.Soak, UsualSoak)
	}
	return b, err
}

func (o *observer) stop() error {
	if o.bench == nil {
		return nil
	}
	return o.bench.Close()
}

func (o *observer) observe(ctx context.Context, s Spec) (result reports.Result) {
	began := time.Now()
	want, ok := o.run.expectation(o.mode, s)
	defer func() {
		on := fabricOf(o.mode)
		if o.on != nil {
			on = *o.on
		}
		result.Fidelity, result.Seconds = o.run.on(on), time.Since(began).Seconds()
	}()
	var unfit *unfitError
	switch {
	case !ok:
		return o.judge(s, want, Observation{}, fmt.Errorf("fixtures/expectations/%s.yaml says nothing of %s", o.mode.Name, s.Feature.Name))
	case o.nowhere != nil:
		return o.judge(s, want, notApplicable("%s", o.nowhere), nil)
	case s.Machines && !o.run.Fidelity.Machines():
		return o.judge(s, want, notApplicable("the hosts are namespaces of one kernel, and this is asked of machines"), nil)
	case o.on != nil && errors.As(o.failed, &unfit):
		return o.judge(s, want, blocked("the mode cannot be set up: %s", unfit.cause), nil)
	case o.mode.Implementation != "" && errors.As(o.failed, &unfit) && !errors.Is(o.failed, context.DeadlineExceeded): // the machine could; who carries the mode out did not
		return o.judge(s, want, Observation{Detail: fmt.Sprintf("the mode cannot be set up: %s", unfit.cause)}, nil)
	case o.failed != nil:
		return o.judge(s, want, Observation{}, o.failed)
	}
	got, whole, err := o.try(ctx, s)
	if first := err; first != nil && whole { // nothing was told, and the lab is as it was: a machine with much else to do may answer in time now
		if got, _, err = o.try(ctx, s); err == nil {
			got = got.with("lab", "at the second try; the first told nothing: %v", first)
		}
	}
	result = o.judge(s, want, got, err)
	return result
}

// try runs one spec and puts the bench back. A bench that cannot be put back, or in which the spec's time was up, is replaced, and not whole.
func (o *observer) try(ctx context.Context, s Spec) (got Observation, whole bool, err error) {
	within := cmp.Or(s.Within, specTimeout)
	if s.Machines || o.mode.Implementation == modes.ByDocker {
		within *= 4 // emulated processors, and many containers; an engine takes seconds for one where the machine has much else to do
	}
	if s.Soaks {
		within += o.bench.soak
	}
	ctx, cancel := context.WithTimeoutCause(ctx, within, fmt.Errorf("undecided after %s", within))
	defer cancel()
	recorded, err := o.bench.Record(ctx)
	if err != nil {
		return got, false, err
	}
	got, err = s.Run(ctx, o.bench)
	late := context.Cause(ctx) // what was asked for last may still be under way
	want, _ := o.run.expectation(o.mode, s)
	failed := err == nil && want.Expect != "" && got.Status != want.Expect
	if o.run.Keep != nil && (err != nil || failed) {
		if ps, recordErr := recorded(context.WithoutCancel(ctx), nil); recordErr == nil && len(ps) > 0 {
			if name, keepErr := o.run.Keep(strings.TrimSuffix(o.mode.Name+"-"+o.mode.Implementation, "-")+"-"+s.Feature.Name, ps); keepErr == nil {
				got.capture = name
			}
		}
	}
	ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), within)
	defer cancel()
	if failed && o.run.Leave != nil && o.run.Leave(o.bench, s.Feature.Name) {
		o.start(ctx)
		return got, false, err
	}
	spoilt := errors.Join(late, o.bench.reset(ctx))
	if spoilt != nil {
		closed := o.bench.Close()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), within) // what is left of the other one is for what spoilt it
		defer cancel()
		o.start(ctx)
		var lost *lostError
		switch {
		case errors.As(spoilt, &lost) && (err != nil || failed):
			err = lost
		case err == nil && (o.failed != nil || closed != nil):
			err = fmt.Errorf("put back: %w", spoilt)
		}
	}
	return got, spoilt == nil, err
}
