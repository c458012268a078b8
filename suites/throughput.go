package suites

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/onsi/ginkgo/v2"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/modebench/modebench/modes"
	"github.com/modebench/modebench/reports"
	"github.com/modebench/modebench/topology"
	"github.com/modebench/modebench/topology/lab"
)

// Measure is how throughput is measured.
type Measure struct {
	Blocks int           // interleaved blocks; 0: 1
	Trial  time.Duration // of one trial of a stream, of which other trials take a share; 0: 50 ms
	Seed   uint64        // of every order
}

const usualTrial = 50 * time.Millisecond

// The suites that measure.
const (
	throughput = "throughput"
	nat        = "nat"
)

// The two paths: between containers of one host, and from a container of another host.
const (
	sameHost  = "same-host"
	crossHost = "cross-host"
)

// The two profiles of processors.
const (
	onOne = "pinned"  // both ends on one processor: what a mode costs, unspoilt by where the kernel put what
	onTwo = "steered" // the sending end on one processor, the receiving end and all that devices receive on another
)

// steered are the steps of an attachment with every device in it made to receive on one processor, and TCP to be patient.
// Bridges are made before and are not steered: what they hand up to the host would wait in one more queue.
func steered(steps []topology.Step, cpu *int) (out []topology.Step) {
	set := func(in string, to topology.Sysctl) {
		out = append(out, topology.Step{On: steps[0].On, In: in, Sysctl: &to})
	}
	set("", topology.Steering(cpu))
	set("", unprobed)
	for _, s := range steps {
		out = append(out, s)
		if s.Space != nil && s.Space.Share == "" {
			set(s.Space.Name, topology.Steering(cpu))
			set(s.Space.Name, unprobed)
		}
	}
	set("", topology.Steering(nil))
	return out
}

// unprobed has TCP send no tail loss probes (RFC 8985). Nothing is lost here, but where eight flows wait for one processor
// an acknowledgement comes later than they wait for it, and a segment would be sent again for nothing.
var unprobed = topology.Sysctl{Key: "net/ipv4/tcp_early_retrans", Value: "0"}

// gauge is a test as it is measured everywhere.
type gauge struct {
	feature  string
	doc      string // what is done, and is followed by between whom
	trial    lab.Trial
	share    float64 // of Measure.Trial, that one of it takes
	turns    int     // in a block: what wavers from second to second is told better by many short trials than by a long one
	profile  string
	headline string // unit by which two readings are compared
	read     func(sent, received lab.Measured) ([]reports.Value, error)
}

var gauges = []gauge{
	{
		"tcp-rr", "64 bytes are sent and 64 come back, over one TCP connection, again and again",
		lab.Trial{Test: "tcp-rr"},
		0.8, 1, onOne, "p50-sec",
		func(sent, received lab.Measured) ([]reports.Value, error) {
			h, err := hdrhistogram.Decode(sent.Latency)
			if err != nil {
				return nil, fmt.Errorf("histogram: %w", err)
			}
			return append([]reports.Value{
				quantile(h, "p50-sec", 50), quantile(h, "p90-sec", 90), quantile(h, "p99-sec", 99), quantile(h, "p999-sec", 99.9),
				{Unit: "max-sec", Value: float64(h.Max()) / 1e9},
			}, operations(sent, received, "op/s")...), nil
		},
	},
	{
		"tcp-crr", "a TCP connection is made, 64 bytes are sent, 64 come back, and it is closed, again and again",
		lab.Trial{Test: "tcp-crr"},
		0.4, 2, onOne, "conn/s",
		func(sent, received lab.Measured) ([]reports.Value, error) {
			h, err := hdrhistogram.Decode(sent.Latency)
			if err != nil {
				return nil, fmt.Errorf("histogram: %w", err)
			}
			return append([]reports.Value{quantile(h, "p50-sec", 50), quantile(h, "p99-sec", 99)}, operations(sent, received, "conn/s")...), nil
		},
	},
	{"tcp-stream-1", "as much as possible is sent over one TCP connection", lab.Trial{Test: "tcp-stream"}, 1.2, 1, onOne, "bit/s", stream},
	{"tcp-stream-8", "as much as possible is sent over eight TCP connections", lab.Trial{Test: "tcp-stream", Streams: 8}, 1.5, 2, onTwo, "bit/s", stream},
	{
		"udp-stream", "as many datagrams of 1400 bytes as possible are sent",
		lab.Trial{Test: "udp-stream"},
		1.1, 1, onOne, "bit/s",
		func(sent, received lab.Measured) ([]reports.Value, error) {
			return []reports.Value{
				{Unit: "bit/s", Value: 8 * float64(received.Bytes) / received.Seconds},
				{Unit: "pkt/s", Value: float64(received.Operations) / received.Seconds},
				{Unit: "loss-fraction", Value: float64(received.Lost) / float64(received.Operations+received.Lost)},
				perByte(sent, received),
			}, nil
		},
	},
}

func quantile(h *hdrhistogram.Histogram, unit string, percent float64) reports.Value {
	return reports.Value{Unit: unit, Value: float64(h.ValueAtQuantile(percent)) / 1e9}
}

func operations(sent, received lab.Measured, unit string) []reports.Value {
	n := float64(sent.Operations)
	return []reports.Value{
		{Unit: unit, Value: n / sent.Seconds},
		{Unit: "cpu-sec/op", Value: (sent.CPUSeconds + received.CPUSeconds) / n},
	}
}

func stream(sent, received lab.Measured) ([]reports.Value, error) {
	return []reports.Value{
		{Unit: "bit/s", Value: 8 * float64(received.Bytes) / received.Seconds},
		perByte(sent, received),
		{Unit: "retransmits", Value: float64(sent.Retransmits)},
		{Unit: "dsacks", Value: float64(sent.DSACKs)},
	}, nil
}

func perByte(sent, received lab.Measured) reports.Value {
	return reports.Value{Unit: "cpu-sec/B", Value: (sent.CPUSeconds + received.CPUSeconds) / float64(received.Bytes)}
}

// course is from where to where a path leads in a mode.
type course struct {
	server, client Place
	to             netip.Addr
	published      *topology.Container // whose port is published for it; nil: no need to
}

// courseOf finds the course of a path, by IPv4, or the reason why the mode has none.
func (r *Run) courseOf(p *topology.Plan, m modes.Mode, path string) (c course, why string) {
	if m.Addrs == nil {
		return c, "The mode gives a container no address."
	}
	want := r.Expectations[m.String()][path+"-"+string(IPv4)]
	reached := want.Expect == reports.Works
	hosts := p.Hosts()
	near := attached(p, m, hosts[0])
	client, far := hosts[0], near[1:]
	if path == crossHost {
		client = hosts[1]
		far = attached(p, m, client)
	}
	switch {
	case !reached && path == crossHost && m.Publish != nil:
		c.to, c.published = hosts[0].NIC(p.Network(near[0].Network).NIC).V4.Addr(), &near[0]
	case !reached:
		return c, want.Reason
	default:
		c.to = m.Addrs(p, hosts[0], near[0])[0].Addr()
	}
	if len(far) == 0 {
		return c, "The mode has one container a network and host."
	}
	c.server, c.client = Place{hosts[0].Name, near[0].Name}, Place{client.Name, far[0].Name}
	return c, ""
}

// attached are the containers of the first network that the mode attaches to a host.
func attached(p *topology.Plan, m modes.Mode, host *topology.Machine) (out []topology.Container) {
	for _, a := range m.Wire(p).Attached {
		if a.Host == host.Name && a.Container.Network == p.Networks[0].Name {
			out = append(out, a.Container)
		}
	}
	return out
}

// port is where every receiving end serves.
const port = 5201

func publishing(p *topology.Plan, m modes.Mode, host string, c topology.Container) (steps []topology.Step) {
	for _, proto := range []string{"tcp", "udp"} {
		steps = append(steps, m.Publish(p, p.Machine(host), c, modes.Port{Proto: proto, Host: port, Container: port})...)
	}
	return steps
}

// rig is a lab to measure in: nothing in it records packets. Its agents stay.
type rig struct {
	run     *Run
	plan    *topology.Plan
	mode    modes.Mode
	two     bool            // profile: on two processors
	outside bool            // external machines take part
	steps   []topology.Step // after the mode is set up
	bench   *Bench
	failed  error

	mu     sync.Mutex
	agents map[post]lab.Handle
}

// post is where an agent is.
type post struct {
	Place
	cpu int
}

func (g *rig) start(ctx context.Context) {
	g.agents = map[post]lab.Handle{}
	p := *g.plan
	if !g.outside {
		p.Machines = inner(g.plan)
	}
	if g.two {
		var cpu int
		if _, cpu, g.failed = processors(onTwo); g.failed != nil {
			return
		}
		p.Steer = &cpu
	}
	if g.bench, g.failed = NewQuietBench(ctx, g.run.Driver, &p, g.mode); g.failed == nil {
		g.failed = g.bench.Apply(ctx, g.steps...)
	}
}

// inner are the machines of a plan without the external ones and the switches' ports to those.
func inner(p *topology.Plan) (out []topology.Machine) {
	for _, m := range p.Machines {
		if m.Role == topology.RoleExternal {
			continue
		}
		m.NICs = slices.DeleteFunc(slices.Clone(m.NICs), func(n topology.Interface) bool {
			peer := p.Machine(n.Peer.Machine)
			return peer != nil && peer.Role == topology.RoleExternal
		})
		out = append(out, m)
	}
	return out
}

// warming is how long every lane is tried once before anything counts: agents have started by then, and neighbours are
// known to each other.
const warming = 2 * time.Millisecond

// warm tries the lanes of the lab, and finds out those that do not work.
func (g *rig) warm(ctx context.Context, groups []group) {
	for _, lanes := range groups {
		for _, l := range lanes {
			if l.rig != g {
				continue
			}
			_, err := l.exchange(ctx, warming)
			if err != nil && g.failed == nil {
				_, err = l.exchange(ctx, warming) // a first packet may be late on a machine that has much else to do
			}
			if ctx.Err() == nil {
				l.failed = err
			}
		}
	}
}

func (g *rig) stop() error {
	if g.bench == nil {
		return nil
	}
	return g.bench.Close()
}

func (g *rig) agent(ctx context.Context, at post) (lab.Handle, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	h, ok := g.agents[at]
	if ok {
		return h, nil
	}
	if err := g.bench.Do(ctx, at.Machine, "Traffic.Start", lab.AgentAt{In: at.Container, CPU: at.cpu}, &h); err != nil {
		return h, err
	}
	g.agents[at] = h
	return h, nil
}

// lane is what is measured once a block, and twice where it is a baseline: one result.
type lane struct {
	gauge
	mode                 modes.Mode
	suite, variant, path string
	fabric               topology.Fabric
	course
	spec string // between whom
	rig  *rig
	why  string // it cannot be measured in this mode, and needs not be; then, and where its plan failed, it has no rig

	failed error // why it is measured no more
	values []reports.Value
	notes  []string
	remark string
	took   time.Duration
}

// reading is what came of one trial.
type reading struct {
	values []reports.Value
	remark string // what it was obtained with
}

// lasting is how long a trial takes where a stream's takes so long.
func (l *lane) lasting(of time.Duration) time.Duration { return time.Duration(l.share * float64(of)) }

// headlined is the value by which two readings are compared.
func (l *lane) headlined(r reading) float64 {
	i := slices.IndexFunc(r.values, func(v reports.Value) bool { return v.Unit == l.headline })
	return r.values[i].Value
}

// processors are those of the sending and of the receiving end.
func processors(profile string) (sending, receiving int, err error) {
	var usable unix.CPUSet
	if err := unix.SchedGetaffinity(0, &usable); err != nil {
		return 0, 0, err
	}
	sending, receiving = -1, -1
	for i := range len(usable) * 64 {
		if usable.IsSet(i) {
			if sending < 0 {
				sending = i
			}
			receiving = i
		}
	}
	if profile == onOne {
		return receiving, receiving, nil
	}
	if sending == receiving {
		return 0, 0, errors.New("there is one processor only")
	}
	return sending, receiving, nil
}

// trialPatience is what a trial may take beyond its time: an agent gives up earlier.
const trialPatience = 30 * time.Second

// figures are both ends' of one trial.
type figures struct {
	sent, received     lab.Measured
	sending, receiving int // processors
}

// exchange makes one trial.
func (l *lane) exchange(ctx context.Context, of time.Duration) (f figures, err error) {
	if l.rig.failed != nil {
		return f, l.rig.failed
	}
	ctx, cancel := context.WithTimeoutCause(ctx, of+trialPatience, errors.New("the trial does not end"))
	defer cancel()
	if f.sending, f.receiving, err = processors(l.profile); err != nil {
		return f, err
	}
	server, err := l.rig.agent(ctx, post{l.server, f.receiving})
	if err != nil {
		return f, err
	}
	client, err := l.rig.agent(ctx, post{l.client, f.sending})
	if err != nil {
		return f, err
	}
	t := l.trial
	t.For = of
	t.Agent, t.To = server, netip.AddrPortFrom(netip.IPv4Unspecified(), port)
	if err := l.rig.bench.Do(ctx, l.server.Machine, "Traffic.Serve", t, &lab.Serving{}); err != nil {
		return f, err
	}
	t.Agent, t.To = client, netip.AddrPortFrom(l.to, port)
	err = l.rig.bench.Do(ctx, l.client.Machine, "Traffic.Run", t, &f.sent)
	// Also where it failed: the receiving end is to be free again.
	if finished := l.rig.bench.Do(ctx, l.server.Machine, "Traffic.Finish", server, &f.received); err == nil {
		err = finished
	}
	return f, err
}

// try makes one trial and reads it, where a stream's takes so long.
func (l *lane) try(ctx context.Context, of time.Duration) (out reading, err error) {
	of = l.lasting(of)
	f, err := l.exchange(ctx, of)
	if err != nil {
		return out, err
	}
	if out.values, err = l.read(f.sent, f.received); err != nil {
		return out, err
	}
	for _, v := range out.values {
		if math.IsNaN(v.Value) || math.IsInf(v.Value, 0) {
			return out, fmt.Errorf("%s: a trial of %s is too short to tell", v.Unit, of)
		}
	}
	out.remark = "congestion control " + f.sent.Congestion
	if f.sent.Congestion == "" {
		out.remark = fmt.Sprintf("socket buffer of %d bytes", f.received.Buffer)
	}
	if f.sending == f.receiving {
		out.remark += fmt.Sprintf("; both ends on processor %d", f.sending)
	} else {
		out.remark += fmt.Sprintf("; sent on processor %d, received on processor %d", f.sending, f.receiving)
	}
	return out, nil
}

// A group is what is compared: lanes that differ in mode or variant alone. The first is the baseline.
type group []*lane

// order is the order of one block: of groups, each as often as its gauge has turns, and in each turn of its lanes. The
// baseline comes first and last, the others between, each once. Equal seeds and blocks give equal orders.
func order(groups []group, seed uint64, block int) []group {
	var all, out []group
	for _, g := range groups {
		all = append(all, slices.Repeat([]group{g}, g[0].turns)...)
	}
	random := rand.New(rand.NewPCG(seed, uint64(block)))
	for _, at := range random.Perm(len(all)) {
		g := all[at]
		turn := group{g[0]}
		for _, i := range random.Perm(len(g) - 1) {
			turn = append(turn, g[1+i])
		}
		out = append(out, append(turn, g[0]))
	}
	return out
}

// drifting is by how much two readings of a baseline may differ, as a fraction, before those who read the results are told.
const drifting = 0.10

func drift(first, last float64) float64 { return 2 * math.Abs(first-last) / (first + last) }

// meter measures blocks.
type meter struct {
	try   func(context.Context, *lane) (reading, error)
	block func(done int) // after each
}

// measure measures groups in interleaved blocks until ctx ends. Of a turn that was not measured to its end, nothing is kept.
func (m *meter) measure(ctx context.Context, groups []group, how Measure) {
	for block := 1; block <= how.Blocks; block++ {
		for _, g := range order(groups, how.Seed, block) {
			got, drifted := m.pass(ctx, g)
			if ctx.Err() != nil {
				return
			}
			if drifted > drifting {
				g[0].notes = append(g[0].notes, fmt.Sprintf("it drifted by %.2f of itself in block %d", drifted, block))
			}
			for i, l := range g {
				for _, v := range got[i].values {
					v.Block = block
					l.values = append(l.values, v)
				}
				if got[i].remark != "" {
					l.remark = got[i].remark
				}
			}
		}
		m.block(block)
	}
}

// pass measures each lane of a group in its turn, and tells by how much the baseline drifted.
func (m *meter) pass(ctx context.Context, g group) (got []reading, drifted float64) {
	got = make([]reading, len(g))
	for i, l := range g {
		if l.failed != nil || ctx.Err() != nil {
			continue
		}
		began := time.Now()
		r, err := m.try(ctx, l)
		if err != nil && ctx.Err() == nil {
			l.notes = append(l.notes, fmt.Sprintf("a trial failed and was made again: %v", err))
			r, err = m.try(ctx, l)
		}
		l.took += time.Since(began)
		if err != nil && ctx.Err() == nil {
			l.failed = err
			continue
		}
		got[i] = r
	}
	base, last := g[0], len(g)-1
	if base.failed == nil && ctx.Err() == nil {
		drifted = drift(base.headlined(got[0]), base.headlined(got[last]))
	}
	return got, drifted
}

// result is the lane's, of a measurement of so many blocks.
func (l *lane) result(run *Run, how Measure) reports.Result {
	r := reports.Result{
		Suite: l.suite, Mode: l.mode.Name, Implementation: l.mode.Carrier(), Feature: l.feature, Variant: l.variant, Path: l.path, Profile: l.profile,
		Spec: l.doc + " " + l.spec, Fidelity: run.on(l.fabric), Seconds: l.took.Seconds(), Outcome: reports.Pass,
	}
	blocks := map[int]bool{}
	for _, v := range l.values {
		blocks[v.Block] = true
	}
	switch {
	case l.why != "":
		r.Spec = l.doc + ", " + l.path
		r.Expected, r.Observed, r.Detail = reports.NotApplicable, reports.NotApplicable, l.why
		return r
	case l.failed != nil:
		r.Outcome, r.Detail = reports.Unable, l.failed.Error()
		if len(blocks) > 0 {
			r.Detail += fmt.Sprintf("; after %d blocks", len(blocks))
		}
		return r
	}
	r.Values = l.values
	of := ""
	if len(blocks) < how.Blocks {
		of = fmt.Sprintf(" of %d", how.Blocks)
	}
	trials := fmt.Sprintf("%d%s blocks, trials of %s", len(blocks), of, l.lasting(how.Trial))
	if l.turns > 1 {
		trials = fmt.Sprintf("%d%s blocks of %d trials of %s", len(blocks), of, l.turns, l.lasting(how.Trial))
	}
	notes := append([]string{trials, l.remark}, l.notes...)
	r.Detail = strings.Join(notes, "; ")
	r.Reproduce = []string{run.command("--suite %s %s --blocks %d --seed %d", l.suite, run.flags(l.mode), how.Blocks, how.Seed)}
	return r
}

// measuredCells is the manifest of what measures.
func (r *Run) measuredCells() (out []Cell) {
	for _, g := range gauges {
		if len(r.Features) > 0 && !slices.Contains(r.Features, g.feature) {
			continue
		}
		for _, m := range r.Modes {
			if slices.Contains(r.Suites, throughput) {
				out = append(out, Cell{throughput, m.String(), g.feature})
			}
			if slices.Contains(r.Suites, nat) && m.String() == natCost.mode && slices.Contains(natCost.features, g.feature) {
				out = append(out, Cell{nat, m.Name, g.feature})
			}
		}
	}
	return out
}

// groups are all that the run measures, and the labs that it needs for it. Lanes without a lab are apart:
// they need not be measured, or cannot be planned.
func (r *Run) groups() (groups []group, rigs []*rig, needless []*lane) {
	cells := r.measuredCells()
	type key struct {
		mode, variant, profile string
		fabric                 topology.Fabric
	}
	rigOf := map[key]*rig{}
	throughputRig := func(p *topology.Plan, m modes.Mode, variant, profile string) *rig {
		k := key{m.String(), variant, profile, fabricOf(m)}
		g := rigOf[k]
		if g == nil {
			g = &rig{run: r, plan: p, mode: m, two: profile == onTwo}
			rigOf[k] = g
			rigs = append(rigs, g)
		}
		return g
	}
	var fabrics []topology.Fabric // each has a baseline of its own
	for _, m := range r.Modes {
		if f := fabricOf(m); !slices.Contains(fabrics, f) {
			fabrics = append(fabrics, f)
		}
	}
	for _, fabric := range fabrics {
		for _, path := range []string{sameHost, crossHost} {
			for _, gauge := range gauges {
				var all group
				add := func(m modes.Mode, variant string) {
					l := &lane{gauge: gauge, suite: throughput, mode: m, variant: variant, path: path, fabric: fabric}
					p, err := m.Plan(r.Topology)
					if err == nil {
						l.course, l.why = r.courseOf(p, m, path)
					}
					if l.failed = err; err != nil || l.why != "" {
						needless = append(needless, l)
						return
					}
					l.spec = fmt.Sprintf("from %s to %s at %s", l.client, l.server, l.to)
					l.rig = throughputRig(p, m, variant, gauge.profile)
					if l.published != nil {
						l.spec += ", by a published port"
						if l.rig.steps == nil {
							l.rig.steps = publishing(p, m, l.server.Machine, *l.published)
						}
					}
					all = append(all, l)
				}
				base, ok := modes.Find(reports.Baseline)
				if !ok || !slices.ContainsFunc(cells, func(c Cell) bool { return c.Suite == throughput && c.Feature == gauge.feature }) {
					continue
				}
				base.Fabric = fabric
				add(base, "")
				add(base, reports.Twin)
				for _, m := range r.Modes {
					if m.Name != base.Name && fabricOf(m) == fabric {
						add(m, "")
					}
				}
				if len(all) > 0 {
					groups = append(groups, all)
				}
			}
		}
	}
	more, moreRigs, none := r.natGroups(cells)
	return append(groups, more...), append(rigs, moreRigs...), append(needless, none...)
}

// declareMeasurement declares one spec that measures everything that was chosen. Results come at its end.
func (r *Run) declareMeasurement() {
	if len(r.measuredCells()) == 0 {
		return
	}
	ginkgo.Describe("measurement", func() {
		ginkgo.It("measures", func(ctx ginkgo.SpecContext) {
			if err := r.measure(ctx); err != nil {
				ginkgo.Fail(err.Error())
			}
		})
	})
}

func (r *Run) measure(ctx context.Context) error {
	how := r.Measure
	how.Blocks = max(how.Blocks, 1)
	if how.Trial == 0 {
		how.Trial = usualTrial
	}
	groups, rigs, lanes := r.groups()
	for _, g := range groups {
		lanes = append(lanes, g...)
	}
	var starting errgroup.Group
	starting.SetLimit(2 * runtime.NumCPU()) // they also wait: for addresses, and for processes
	for _, g := range rigs {
		starting.Go(func() error {
			g.start(ctx)
			g.warm(ctx, groups)
			return nil
		})
	}
	_ = starting.Wait() // a lab that failed says so to its lanes
	m := meter{
		try:   func(ctx context.Context, l *lane) (reading, error) { return l.try(ctx, how.Trial) },
		block: func(done int) { r.Emit(Event{Kind: "block", Block: done, Blocks: how.Blocks}) },
	}
	m.measure(ctx, groups, how)
	for _, l := range lanes {
		if l.why == "" && l.failed == nil && len(l.values) == 0 {
			continue // interrupted before there was anything
		}
		result := l.result(r, how)
		r.Emit(Event{Kind: "cell", Mode: l.mode.String(), Result: &result})
	}
	var stopping errgroup.Group
	for _, g := range rigs {
		stopping.Go(g.stop) // all together: the kernel takes namespaces apart in batches
	}
	return stopping.Wait()
}
