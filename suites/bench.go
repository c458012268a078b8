package suites

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/modebench/modebench/modes"
	"github.com/modebench/modebench/reports"
	"github.com/modebench/modebench/topology"
	"github.com/modebench/modebench/topology/lab"
)

// Place is a network namespace of the lab: a machine's own, or a container's on the machine where it is attached.
type Place struct{ Machine, Container string }

// String is the place as evidence names it, such as h1 or h1/c1.
func (p Place) String() string {
	if p.Container == "" {
		return p.Machine
	}
	return p.Machine + "/" + p.Container
}

// Bench is a lab with one mode set up, as a spec may use it.
type Bench struct {
	driver lab.Driver
	lab    *lab.Lab
	plan   *topology.Plan
	mode   modes.Mode
	rewire func([]topology.Step) []topology.Step // a sabotage's
	counts reports.Counts                        // what the mode put on the first host
	quiet  bool                                  // nothing is recorded
	soak   time.Duration                         // how long sessions are watched by what soaks

	mu       sync.Mutex
	attached map[string]attachment // by place
	port     uint16                // last that was given out
	token    int
	closers  []func(context.Context) error // what ends with the spec
	leads    map[string]lead               // of the machines' clocks
	swarm    *swarm                        // once a spec has asked for one
}

type attachment struct {
	container topology.Container
	owner     string
}

// specOwner owns the steps of a spec.
const specOwner = "spec"

// newBench starts a lab, sets the mode up and attaches the containers that the plan has. rewire, where it is not nil,
// changes the steps of every attachment.
func newBench(ctx context.Context, d lab.Driver, p *topology.Plan, m modes.Mode, rewire func([]topology.Step) []topology.Step) (*Bench, error) {
	return startBench(ctx, &Bench{driver: d, plan: p, mode: m, rewire: rewire})
}

// NewQuietBench is the same without any recording: no socket sees a packet that is not its own.
func NewQuietBench(ctx context.Context, d lab.Driver, p *topology.Plan, m modes.Mode) (*Bench, error) {
	b := &Bench{driver: d, plan: p, mode: m, quiet: true}
	if p.Steer != nil {
		b.rewire = func(steps []topology.Step) []topology.Step { return steered(steps, p.Steer) }
	}
	return startBench(ctx, b)
}

func startBench(ctx context.Context, b *Bench) (_ *Bench, err error) {
	if b.lab, err = lab.Start(ctx, b.driver, b.plan); err != nil {
		return nil, err
	}
	b.attached, b.leads, b.port = map[string]attachment{}, map[string]lead{}, 20000
	if err := b.start(ctx); err != nil {
		if lost := b.lost(context.WithoutCancel(ctx)); lost != nil { // then that is why
			err = lost
		}
		return nil, errors.Join(fmt.Errorf("mode %s: %w", b.mode, err), b.lab.Close())
	}
	return b, nil
}

// unfitError is that a machine could not do what the mode asked of it.
type unfitError struct{ cause error }

func (e *unfitError) Error() string { return e.cause.Error() }
func (e *unfitError) Unwrap() error { return e.cause }

func (b *Bench) start(ctx context.Context) error {
	if err := b.each(ctx, func(ctx context.Context, _ int, m string) error { return b.instrument(ctx, b.plan.Machine(m)) }); err != nil {
		return err
	}
	if err := b.ready(ctx); err != nil { // before the mode is there, which may cut a host off
		return err
	}
	first := b.plan.Hosts()[0].Name
	before, err := b.State(ctx, first)
	if err != nil {
		return err
	}
	w := b.mode.Wire(b.plan)
	if err := b.lab.Apply(ctx, "mode", w.Setup); err != nil {
		return &unfitError{err}
	}
	perHost := map[string][]topology.Container{}
	for _, a := range w.Attached {
		perHost[a.Host] = append(perHost[a.Host], a.Container)
	}
	g, attaching := errgroup.WithContext(ctx)
	for host, cs := range perHost {
		g.Go(func() error { // in order: where containers share a namespace, its owner comes first
			for _, c := range cs {
				if _, err := b.attach(attaching, c, host); err != nil {
					return &unfitError{err}
				}
			}
			return b.settled(attaching, host)
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if err := b.told(ctx); err != nil {
		return err
	}
	after, err := b.State(ctx, first)
	b.counts = count(before.Spaces[""], after.Spaces[""])
	return err
}

// count tells what there is more of on a host.
func count(before, after lab.SpaceState) reports.Counts {
	c := reports.Counts{
		Links: len(after.Links) - len(before.Links), Routes: len(after.Routes) - len(before.Routes), Rules: len(after.Rules) - len(before.Rules),
	}
	for key, value := range after.Sysctls {
		if was, ok := before.Sysctls[key]; ok && was != value {
			c.Sysctls++
		}
	}
	return c
}

// instrumenting bounds what takes a machine milliseconds: one that does not answer by then never will.
const instrumenting = time.Minute

// instrument records a machine's devices, and makes hosts and externals answer controls.
func (b *Bench) instrument(ctx context.Context, m *topology.Machine) error {
	ctx, cancel := context.WithTimeoutCause(ctx, instrumenting, fmt.Errorf("no answer within %s", instrumenting))
	defer cancel()
	if !b.quiet {
		if err := b.lab.Do(ctx, m.Name, "Capture.Arm", lab.Nothing{}, &lab.Nothing{}); err != nil {
			return err
		}
	}
	if m.Role == topology.RoleTor {
		return nil
	}
	for _, f := range []Family{IPv4, IPv6} {
		var r lab.Listening
		err := b.lab.Do(ctx, m.Name, "Probe.Listen", lab.Listen{Proto: "udp", Addr: netip.AddrPortFrom(unspecified(f), controlPort)}, &r)
		if err == nil && r.Refusal.Errno != "" {
			err = errors.New(r.Refusal.Text)
		}
		if err != nil {
			return fmt.Errorf("control listener: %w", err)
		}
	}
	return nil
}

// cabled tells whether a device of a namespace has a carrier.
func cabled(s lab.SpaceState, device string) bool {
	return slices.ContainsFunc(s.Links, func(l lab.Link) bool { return l.Name == device && slices.Contains(l.Flags, "LOWER_UP") })
}

// probing is an address that duplicate address detection has not decided on; empty: there is none.
func probing(host string, s lab.State) string {
	for name, space := range s.Spaces {
		for _, a := range space.Addrs {
			if a.Tentative && !a.DADFailed && cabled(space, a.Link) {
				return fmt.Sprintf("%s %s %s is tentative", Place{host, name}, a.Link, a.Prefix)
			}
		}
	}
	return ""
}

// settled waits until the devices of a host that have a carrier operate, duplicate address detection has passed or failed every
// address of theirs (RFC 4862 section 5.4), and the routers, and other hosts, have what is announced for its containers. What they do
// not take in time is for the questions to find.
func (b *Bench) settled(ctx context.Context, host string) error {
	var last string
	ok, err := eventually(ctx, restless, func() (bool, error) {
		s, err := b.devices(ctx, host)
		if err != nil {
			return false, err
		}
		last = cmp.Or(lagging(host, s), probing(host, s))
		return last == "", nil
	})
	if err == nil && !ok {
		err = fmt.Errorf("%s, still after %s", last, restless)
	}
	if err != nil {
		return err
	}
	if _, err = eventually(ctx, patience, func() (bool, error) { return b.announced(ctx, host) }); err != nil {
		return err
	}
	_, err = eventually(ctx, patience, func() (bool, error) { return b.spread(ctx, host) })
	return err
}

// rejoining bounds how long engines of one swarm need to tell each other where containers are: one that does not find the others as it joins asks them again every
// minute, and what is lost of what they tell is sent again every 30 s (moby libnetwork/networkdb/cluster.go clusterInit, of memberlist's DefaultLANConfig).
const rejoining = 90 * time.Second

// told waits, where hosts run programs of others that tell each other of their hosts, or engines of one swarm, until these have: until a container of each host
// is answered from one of each other. What they do not tell in time is for the questions to find.
func (b *Bench) told(ctx context.Context) error {
	within := crowded
	switch {
	case b.mode.Implementation == modes.ByDocker && b.mode.Docker.Swarm:
		within = rejoining
	case len(b.mode.Programs) == 0:
		return nil
	}
	network := b.plan.Networks[0].Name
	pairs, asking := errgroup.WithContext(ctx)
	for _, from := range b.plan.Hosts() {
		for _, to := range b.plan.Hosts() {
			asks, asked := b.Containers(from.Name, network), b.Containers(to.Name, network)
			if from == to || len(asks) == 0 || len(asked) == 0 {
				continue
			}
			pairs.Go(func() error { return b.toldOf(asking, asks[0], addrOf(b, asked[0], IPv4), within) })
		}
	}
	return pairs.Wait()
}

// toldOf waits for so long until a container is answered from an address.
func (b *Bench) toldOf(ctx context.Context, from Place, to netip.Addr, within time.Duration) error {
	_, err := eventually(ctx, within, func() (bool, error) {
		r, err := b.Ask(ctx, from, lab.Ask{Proto: "icmp", To: netip.AddrPortFrom(to, 0), Wait: 50 * time.Millisecond})
		return r.Answered, err
	})
	return err
}

// announced tells whether every router has, by a host, a route to all that is announced for its containers.
func (b *Bench) announced(ctx context.Context, host string) (bool, error) {
	var prefixes []netip.Prefix
	b.mu.Lock()
	for place, a := range b.attached {
		if machine, _, _ := strings.Cut(place, "/"); machine != host {
			continue
		}
		for _, s := range attaching(b, a.container, host) {
			if s.Announce != nil && !slices.Contains(prefixes, s.Announce.Prefix) {
				prefixes = append(prefixes, s.Announce.Prefix)
			}
		}
	}
	b.mu.Unlock()
	if len(prefixes) == 0 {
		return true, nil
	}
	by := func(neighbour netip.Addr) bool {
		return slices.ContainsFunc(b.plan.Machine(host).NICs, func(n topology.Interface) bool { return n.V4.Addr() == neighbour })
	}
	for _, tor := range b.plan.Tors() {
		var s lab.BGPState
		if err := b.Do(ctx, tor.Name, "BGP.State", lab.Nothing{}, &s); err != nil {
			return false, err
		}
		for _, p := range prefixes {
			if !slices.ContainsFunc(s.Routes, func(r lab.BGPRoute) bool { return r.Prefix == p && r.Installed && by(r.From) }) {
				return false, nil
			}
		}
	}
	return true, nil
}

// ready waits until every host answers every external machine: until then, silence would say nothing.
func (b *Bench) ready(ctx context.Context) error {
	for _, x := range b.plan.Externals() {
		for _, h := range b.plan.Hosts() {
			for _, f := range []Family{IPv4, IPv6} {
				to := addrOf(b, Place{Machine: h.Name}, f)
				ok, err := eventually(ctx, restless, func() (bool, error) {
					r, err := b.Ask(ctx, Place{Machine: x.Name}, lab.Ask{Proto: "udp", To: netip.AddrPortFrom(to, controlPort), Wait: 50 * time.Millisecond})
					return r.Answered, err
				})
				if err != nil || !ok {
					return errors.Join(err, fmt.Errorf("the underlay is not ready after %s: %s does not reach %s at %s", restless, x.Name, h.Name, to))
				}
			}
		}
	}
	return nil
}

// controlPort is where every host and external machine answers controls: the echo port of RFC 862.
const controlPort = 7

// Close ends the lab.
func (b *Bench) Close() error { return errors.Join(b.dissolve(), b.lab.Close()) }

// reset undoes what a spec did.
func (b *Bench) reset(ctx context.Context) error {
	b.mu.Lock()
	closers := b.closers
	b.closers = nil
	b.mu.Unlock()
	var errs []error
	for _, c := range slices.Backward(closers) {
		errs = append(errs, c(ctx))
	}
	return errors.Join(append(errs, b.lab.Undo(ctx, specOwner), b.lost(ctx))...)
}

// lostError is that the lab was lost, by no doing of the mode that was asked about: what else was seen says nothing of it.
type lostError struct{ how error }

func (e *lostError) Error() string { return e.how.Error() }

// lost is a lostError where an engine, by which the mode was carried out, has ended, or a storm has taken devices down; nil: neither.
func (b *Bench) lost(ctx context.Context) error {
	return b.each(ctx, func(ctx context.Context, _ int, m string) error {
		var storms []string
		if err := b.lab.Do(ctx, m, "Capture.Storms", lab.Nothing{}, &storms); err != nil {
			return err
		}
		if len(storms) > 0 {
			return &lostError{fmt.Errorf("%s: %s", m, strings.Join(storms, "; "))}
		}
		if b.mode.Carrier() != modes.ByDocker || b.plan.Machine(m).Role == topology.RoleTor {
			return nil
		}
		var how string
		if err := b.lab.Do(ctx, m, "Docker.Ended", lab.Nothing{}, &how); err != nil {
			return err
		}
		if how != "" {
			return &lostError{fmt.Errorf("%s: %s", m, how)}
		}
		return nil
	})
}

func (b *Bench) atEnd(f func(context.Context) error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closers = append(b.closers, f)
}

// Plan is what the lab runs.
func (b *Bench) Plan() *topology.Plan { return b.plan }

// Mode is the mode that is set up.
func (b *Bench) Mode() modes.Mode { return b.mode }

// Containers are the attached containers, each at its place: by machine, then by number.
func (b *Bench) Containers(host, network string) []Place {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []Place
	for place, a := range b.attached {
		machine, _, _ := strings.Cut(place, "/")
		if machine == host && a.container.Network == network {
			out = append(out, Place{machine, a.container.Name})
		}
	}
	slices.SortFunc(out, func(x, y Place) int {
		return b.attached[x.String()].container.Number - b.attached[y.String()].container.Number
	})
	return out
}

// Apply carries steps out until the spec ends.
func (b *Bench) Apply(ctx context.Context, steps ...topology.Step) error {
	return b.lab.Apply(ctx, specOwner, steps)
}

// Attempt tries a step that the kernel may refuse, without the capabilities named (such as net_admin). It is undone at
// once where it is not refused. The refusal's Errno is empty then.
func (b *Bench) Attempt(ctx context.Context, s topology.Step, without ...string) (lab.Refusal, error) {
	var r lab.Refusal
	err := b.lab.Do(ctx, s.On, "Host.Attempt", lab.Attempt{Step: s, Without: without}, &r)
	return r, err
}

// Attach attaches a container to a host as the mode does, and waits until its addresses can be used. It is detached when
// the spec ends, if not before.
func (b *Bench) Attach(ctx context.Context, c topology.Container, host string) (Place, error) {
	p, err := b.attach(ctx, c, host)
	if err != nil {
		return p, err
	}
	b.atEnd(func(ctx context.Context) error { return b.Detach(ctx, p) })
	return p, b.settled(ctx, host)
}

func (b *Bench) attach(ctx context.Context, c topology.Container, host string) (Place, error) {
	return b.attachAs(ctx, c, host, asIs)
}

// asIs changes nothing of steps.
func asIs(steps []topology.Step) []topology.Step { return steps }

// attachAs attaches a container as the mode does, but for a change of its steps.
func (b *Bench) attachAs(ctx context.Context, c topology.Container, host string, change func([]topology.Step) []topology.Step) (Place, error) {
	p := Place{host, c.Name}
	if b.mode.Admit != nil {
		if err := b.mode.Admit(b.plan, b.plan.Machine(host), c); err != nil {
			return p, fmt.Errorf("attach %s: %w", p, err)
		}
	}
	steps := change(b.mode.Attach(b.plan, b.plan.Machine(host), c))
	if b.rewire != nil {
		steps = b.rewire(steps)
	}
	owner := "attach " + p.String()
	if err := b.lab.Apply(ctx, owner, steps); err != nil {
		return p, fmt.Errorf("attach %s: %w", p, err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.attached[p.String()] = attachment{c, owner}
	return p, nil
}

// Detach detaches a container. One that is not attached is no error.
func (b *Bench) Detach(ctx context.Context, p Place) error {
	b.mu.Lock()
	a, ok := b.attached[p.String()]
	delete(b.attached, p.String())
	b.mu.Unlock()
	if !ok {
		a.owner = "attach " + p.String()
	}
	if err := b.lab.Undo(ctx, a.owner, p.Machine); err != nil {
		return fmt.Errorf("detach %s: %w", p, err)
	}
	return nil
}

// Reboot restarts a host, which comes up with nothing but its cables, and asks for what is needed to observe it. What it
// returns restores what was applied there; it may be called again, and is when the spec ends: a host that could not be
// restarted or restored is not put back.
func (b *Bench) Reboot(ctx context.Context, host string) (restore func(context.Context) error, err error) {
	var once sync.Once
	restore = func(ctx context.Context) error {
		once.Do(func() {
			if err == nil {
				err = b.lab.Restore(ctx, host)
			}
			if err == nil {
				err = b.settled(ctx, host)
			}
		})
		return err
	}
	b.atEnd(func(ctx context.Context) error {
		if errors.Is(err, lab.ErrNotRestarted) {
			return nil
		}
		return restore(ctx)
	})
	if err = b.lab.Reboot(ctx, host); err == nil {
		err = b.instrument(ctx, b.plan.Machine(host))
	}
	return restore, err
}

// State is everything of a machine that modes change, but for connections.
func (b *Bench) State(ctx context.Context, machine string) (lab.State, error) {
	var s lab.State
	err := b.lab.Do(ctx, machine, "Host.State", lab.Nothing{}, &s)
	return s, err
}

// tracked is the same, with the connections that its kernel tracks.
func (b *Bench) tracked(ctx context.Context, machine string) (s lab.State, err error) {
	err = b.lab.Do(ctx, machine, "Host.Tracked", lab.Nothing{}, &s)
	return s, err
}

// devices is the same, with the links and addresses alone.
func (b *Bench) devices(ctx context.Context, machine string) (s lab.State, err error) {
	err = b.lab.Do(ctx, machine, "Host.Devices", lab.Nothing{}, &s)
	return s, err
}

// own is the same of the machine's own namespace alone, where it has a crowd of others.
func (b *Bench) own(ctx context.Context, machine string) (s lab.SpaceState, err error) {
	err = b.lab.Do(ctx, machine, "Host.Space", "", &s)
	return s, err
}

// Listen opens a listener until the spec ends. Port 0 is replaced by one that nothing else of the lab uses. A refusal is
// no error.
func (b *Bench) Listen(ctx context.Context, at Place, l lab.Listen) (lab.Listening, error) {
	l.In = at.Container
	if l.Addr.Port() == 0 {
		l.Addr = netip.AddrPortFrom(l.Addr.Addr(), b.freePort())
	}
	var r lab.Listening
	if err := b.lab.Do(ctx, at.Machine, "Probe.Listen", l, &r); err != nil || r.Refusal.Errno != "" {
		return r, err
	}
	b.atEnd(func(ctx context.Context) error {
		return b.lab.Do(ctx, at.Machine, "Probe.Stop", r.Handle, &lab.Tally{})
	})
	return r, nil
}

func (b *Bench) freePort() uint16 {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.port++
	return b.port
}

// Ask sends one message from a place and waits for its answer. Without a token it gets one of its own.
func (b *Bench) Ask(ctx context.Context, at Place, a lab.Ask) (lab.Answer, error) {
	a.In = at.Container
	if a.Token == "" {
		a.Token = b.newToken()
	}
	var r lab.Answer
	err := b.lab.Do(ctx, at.Machine, "Probe.Ask", a, &r)
	return r, err
}

func (b *Bench) newToken() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.token++
	return "t" + strconv.Itoa(b.token)
}

// Send puts one frame on a device, as described.
func (b *Bench) Send(ctx context.Context, at Place, device string, p lab.Packet) error {
	return b.lab.Do(ctx, at.Machine, "Probe.Send", lab.Send{In: at.Container, Device: device, Packet: p}, &lab.Nothing{})
}

// Record begins a recording of every device of the lab. The function that it returns gives what was recorded since, in
// the order of time, of all packets for which keep is true. Their times are by the clock of this process, as exactly as that
// of another kernel can be known by asking: no verdict may follow from the order of packets of two machines.
func (b *Bench) Record(ctx context.Context) (func(context.Context, func(lab.Packet) bool) ([]lab.Packet, error), error) {
	marks, err := b.marks(ctx)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, keep func(lab.Packet) bool) ([]lab.Packet, error) {
		got := make([][]lab.Packet, len(b.plan.Machines))
		if err := b.each(ctx, func(ctx context.Context, i int, m string) error {
			return b.lab.Do(ctx, m, "Capture.Since", marks[m], &got[i])
		}); err != nil {
			return nil, err
		}
		var all []lab.Packet
		for i, ps := range got {
			ahead := b.ahead(b.plan.Machines[i].Name)
			for _, p := range ps {
				p.When = p.When.Add(-ahead)
				if keep == nil || keep(p) {
					all = append(all, p)
				}
			}
		}
		slices.SortStableFunc(all, func(x, y lab.Packet) int { return x.When.Compare(y.When) })
		return all, nil
	}, nil
}

// marks are this moment in the recordings of all machines.
func (b *Bench) marks(ctx context.Context) (map[string]lab.Mark, error) {
	got := map[string]lab.Mark{}
	err := b.each(ctx, func(ctx context.Context, _ int, m string) error {
		var mark lab.Mark
		asked := time.Now()
		if err := b.lab.Do(ctx, m, "Capture.Mark", lab.Nothing{}, &mark); err != nil {
			return err
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		got[m] = mark
		seen := lead{-time.Since(mark.Now), mark.Now.Sub(asked)}
		if known, ok := b.leads[m]; ok {
			seen = seen.and(known)
		}
		b.leads[m] = seen
		return nil
	})
	return got, err
}

// ahead is how far a machine's clock goes before this one's. One that may be the same is taken as such: all namespaces of a
// kernel have one clock, and what they recorded is in order to the nanosecond.
func (b *Bench) ahead(machine string) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.leads[machine].likely()
}

// lead bounds how far a clock goes before another. It was read after that was, and before that was again.
type lead struct{ least, most time.Duration }

// and is what is known after an earlier look, too, unless the clock was set or drifts.
func (l lead) and(earlier lead) lead {
	both := lead{max(l.least, earlier.least), min(l.most, earlier.most)}
	if both.least > both.most {
		return l
	}
	return both
}

func (l lead) likely() time.Duration {
	if l.least <= 0 && l.most >= 0 {
		return 0
	}
	return (l.least + l.most) / 2
}

func (b *Bench) each(ctx context.Context, f func(ctx context.Context, i int, machine string) error) error {
	g, ctx := errgroup.WithContext(ctx)
	for i, m := range b.plan.Machines {
		g.Go(func() error { return f(ctx, i, m.Name) })
	}
	return g.Wait()
}

// Do asks a machine for a verb that the bench has no word of its own for.
func (b *Bench) Do(ctx context.Context, machine, verb string, args, reply any) error {
	return b.lab.Do(ctx, machine, verb, args, reply)
}

// Eventually waits until true, asking again and again, and tells whether it came true before the deadline. Questions take
// no more than half of the time: where they are slow, they would keep the processor from what is waited for.
func eventually(ctx context.Context, within time.Duration, f func() (bool, error)) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	for {
		asked := time.Now()
		ok, err := f()
		if ok || err != nil {
			return ok, err
		}
		select {
		case <-time.After(max(2*time.Millisecond, time.Since(asked))):
		case <-ctx.Done():
			return false, nil
		}
	}
}

// at names a packet's device as evidence does.
func at(p lab.Packet) string { return Place{p.Machine, p.In}.String() + ":" + p.Device }

// seen is a packet as evidence.
func seen(p lab.Packet) reports.Evidence {
	way := "in"
	if p.Outgoing {
		way = "out"
	}
	return reports.Evidence{At: at(p), Saw: way + " " + p.Text}
}

// sampled adds the first of some packets to the evidence.
func (o Observation) sampled(packets []lab.Packet, most int) Observation {
	for _, p := range packets[:min(len(packets), most)] {
		o.Evidence = append(o.Evidence, seen(p))
	}
	return o
}
