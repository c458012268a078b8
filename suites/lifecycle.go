package suites

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"net/rpc"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/modebench/modebench/reports"
	"github.com/modebench/modebench/topology"
	"github.com/modebench/modebench/topology/lab"
)

// another is a container that is not attached at the start, nor is one of its name on any host; n counts them from 1.
func another(b *Bench, host, network string, n int) (topology.Container, error) {
	most := 0
	for _, h := range b.plan.Hosts() {
		most = max(most, len(h.Containers))
	}
	return b.plan.Container(host, network, most+n)
}

// aside detaches containers of one host until the spec ends.
func aside(ctx context.Context, b *Bench, places ...Place) error {
	if len(places) == 0 {
		return nil
	}
	var away []topology.Container
	for _, p := range places {
		b.mu.Lock()
		a := b.attached[p.String()]
		b.mu.Unlock()
		away = append(away, a.container)
	}
	b.atEnd(func(ctx context.Context) error {
		for _, c := range away {
			if _, err := b.attach(ctx, c, places[0].Machine); err != nil {
				return err
			}
		}
		return b.settled(ctx, places[0].Machine)
	})
	for _, p := range slices.Backward(places) {
		if err := b.Detach(ctx, p); err != nil {
			return err
		}
	}
	return nil
}

// room makes room for one more container where the mode limits their number.
func room(ctx context.Context, b *Bench, host, network string) error {
	cs := b.Containers(host, network)
	if b.mode.Limit == 0 || len(cs) < b.mode.Limit {
		return nil
	}
	return aside(ctx, b, cs[b.mode.Limit-1:]...)
}

// attaching are the steps that attach a container, a sabotage's changes among them.
func attaching(b *Bench, c topology.Container, host string) []topology.Step {
	steps := b.mode.Attach(b.plan, b.plan.Machine(host), c)
	if b.rewire != nil {
		steps = b.rewire(steps)
	}
	return steps
}

// deviceStep is the index of the first step that makes a device; -1 where none does.
func deviceStep(steps []topology.Step) int {
	return slices.IndexFunc(steps, func(s topology.Step) bool { return s.Link != nil })
}

// trial tries whether the kernel would make the device that attaching a container needs, and leaves nothing.
func trial(ctx context.Context, b *Bench, c topology.Container, host string) (refusal lab.Refusal, err error) {
	steps := attaching(b, c, host)
	at := deviceStep(steps)
	if at < 0 {
		return refusal, nil
	}
	const owner = "trial"
	if err := b.lab.Apply(ctx, owner, steps[:at]); err != nil {
		return refusal, err
	}
	refusal, err = b.Attempt(ctx, steps[at])
	return refusal, errors.Join(err, b.lab.Undo(ctx, owner))
}

// refused tells whether it was a machine that said no, and not the way to it that is broken.
func refused(err error) bool { return errors.As(err, new(rpc.ServerError)) }

// describe is a state as lines that compare: without counters, and without what comes and goes by itself. Left out are
// neighbour entries other than those that were made (they are a cache, and age; arp(7)), forwarding entries that a bridge
// learned (likewise; bridge(8)), and connections (see lingering).
func describe(s lab.State) []string {
	var all []string
	for name, space := range s.Spaces {
		add := func(kind string, what any) { all = append(all, fmt.Sprintf("namespace %q: %s %+v", name, kind, what)) }
		add("inode", space.Inode)
		for _, l := range space.Links {
			l.RxPackets, l.TxPackets, l.RxDropped = 0, 0, 0
			add("link", l)
		}
		for _, a := range space.Addrs {
			add("address", a)
		}
		for _, r := range space.Routes {
			add("route", r.Text)
		}
		for _, n := range space.Neighs {
			if n.State == "permanent" || n.State == "proxy" {
				add("neighbour", n)
			}
		}
		for _, f := range space.FDB {
			if f.Self || f.Local {
				add("forwarding entry", f)
			}
		}
		for _, r := range space.Rules {
			r.Packets, r.Bytes = 0, 0
			add("rule", r)
		}
		for key, value := range space.Sysctls {
			add("setting", key+"="+value)
		}
		for _, q := range space.Qdiscs {
			add("qdisc", q)
		}
		add("sockets", space.Sockets)
	}
	slices.Sort(all)
	return all
}

// changes are the lines that one state has and the other has not: + for what came, - for what went.
func changes(before, after lab.State) (came, went []string) {
	was, is := describe(before), describe(after)
	count := map[string]int{}
	for _, l := range was {
		count[l]--
	}
	for _, l := range is {
		count[l]++
	}
	for _, l := range is {
		if count[l] > 0 {
			came, count[l] = append(came, "+ "+l), count[l]-1
		}
	}
	for _, l := range was {
		if count[l] < 0 {
			went, count[l] = append(went, "- "+l), count[l]+1
		}
	}
	return came, went
}

// restored waits until a host is as it was before, and gives what is not.
func restored(ctx context.Context, b *Bench, host string, before lab.State) (diff []string, err error) {
	// Namespaces are taken down by a worker of the kernel (cleanup_net() of net/core/net_namespace.c), and operational
	// states follow carriers within a second (net/core/link_watch.c).
	_, err = eventually(ctx, 3*time.Second, func() (bool, error) {
		after, err := b.State(ctx, host)
		came, went := changes(before, after)
		diff = append(came, went...)
		return err == nil && len(diff) == 0, err
	})
	return diff, err
}

// differences are evidence: the first of them.
func (o Observation) differences(at string, diff []string) Observation {
	for i, d := range diff {
		if i == 12 {
			return o.with(at, "and %d more", len(diff)-i)
		}
		o = o.with(at, "%s", d)
	}
	return o
}

// ofSpares changes the steps of those attachments that only specs make: of containers with higher numbers than any that
// the default lab attaches at the start.
func ofSpares(change func([]topology.Step) []topology.Step) func([]topology.Step) []topology.Step {
	return func(steps []topology.Step) []topology.Step {
		if name := steps[0].Space.Name; slices.Contains([]string{"c1", "c2", "c3", "c4"}, name) {
			return steps
		}
		return change(steps)
	}
}

// flushing takes an interface of the host down while the container is attached. It is put back, but not the addresses
// that the kernel then forgot: those of IPv6 (Documentation/networking/ip-sysctl.rst, keep_addr_on_down).
func flushing(steps []topology.Step) []topology.Step {
	return append(slices.Clone(steps), topology.Step{On: steps[0].On, Set: &topology.LinkSet{Name: "eth1", State: "down"}})
}

// mapLinks changes the devices that attaching makes.
func mapLinks(change func(*topology.Link)) func([]topology.Step) []topology.Step {
	return func(steps []topology.Step) []topology.Step {
		steps = slices.Clone(steps)
		for i, s := range steps {
			if s.Link != nil {
				l := *s.Link
				change(&l)
				steps[i].Link = &l
			}
		}
		return steps
	}
}

// parentMode gives macvlan devices another mode.
func parentMode(mode string) func([]topology.Step) []topology.Step {
	return mapLinks(func(l *topology.Link) { l.ParentMode = mode })
}

// stacked joins containers to the host's first interface by macvlan instead of by a veth pair.
func stacked(steps []topology.Step) []topology.Step {
	steps = slices.Clone(steps)
	for i, s := range steps {
		if s.Link != nil && s.Link.Kind == "veth" {
			steps[i] = topology.Step{On: s.On, In: s.Link.PeerIn, Link: &topology.Link{
				Name: s.Link.PeerName, Kind: "macvlan", MAC: s.Link.PeerMAC, Parent: "eth0", ParentMode: "bridge",
			}}
		}
	}
	return steps
}

// paired joins containers to the host by a veth pair that leads nowhere instead of by macvlan.
func paired(steps []topology.Step) []topology.Step {
	steps = slices.Clone(steps)
	for i, s := range steps {
		if s.Link != nil && s.Link.Kind == "macvlan" {
			steps[i] = topology.Step{On: s.On, Link: &topology.Link{
				Name: "veth-" + s.In, Kind: "veth", Up: true, PeerName: s.Link.Name, PeerIn: s.In, PeerMAC: s.Link.MAC,
			}}
		}
	}
	return steps
}

// callsOut asks an external machine from a container, or, in a mode without addresses, the container from itself.
func callsOut(ctx context.Context, b *Bench, p Place) (lab.Answer, string, error) {
	if b.mode.Addrs == nil {
		a, err := b.Ask(ctx, p, lab.Ask{Proto: "icmp", To: netip.MustParseAddrPort("127.0.0.1:0"), Wait: time.Second})
		return a, "itself", err
	}
	x := external(b)
	a, err := b.Ask(ctx, p, lab.Ask{Proto: "udp", To: netip.AddrPortFrom(addrOf(b, x, IPv4), controlPort), Wait: time.Second})
	return a, x.String(), err
}

// scratch is a lab of its own with one host only, for what cannot be put back. So many containers of the first network
// are attached.
func scratch(ctx context.Context, b *Bench, containers int) (*Bench, error) {
	t := b.plan.Topology
	host := firstHost(b)
	t.Hosts = map[string]topology.Host{host: {
		NICs: t.Hosts[host].NICs, Containers: map[string]int{network(b): containers},
	}}
	t.External = nil
	p, err := topology.NewPlan(t)
	if err != nil {
		return nil, err
	}
	return newBench(ctx, b.driver, p, b.mode, b.rewire)
}

var _ = register(Spec{
	Suite:   "lifecycle",
	Feature: Feature{Name: "attach-detach", Group: "lifecycle", Doc: "Do attaching, detaching and detaching again all succeed and leave nothing?"},
	Name:    "a container is attached, detached and detached again, and the host is compared with before",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		host := firstHost(b)
		if err := room(ctx, b, host, network(b)); err != nil {
			return Observation{}, err
		}
		before, err := b.State(ctx, host)
		if err != nil {
			return Observation{}, err
		}
		c, err := another(b, host, network(b), 1)
		if err != nil {
			return Observation{}, err
		}
		p, err := b.attach(ctx, c, host) // without a wait for its addresses: a container may end early
		if refused(err) {
			return blocked("%v", err), nil
		} else if err != nil {
			return Observation{}, err
		}
		b.atEnd(func(ctx context.Context) error { return b.Detach(ctx, p) })
		for _, time := range []string{"first", "second"} {
			if err := b.Detach(ctx, p); refused(err) {
				return blocked("%s was attached; the %s detach gave an error: %v", p, time, err), nil
			} else if err != nil {
				return Observation{}, err
			}
		}
		diff, err := restored(ctx, b, host, before)
		if err != nil {
			return Observation{}, err
		}
		o := whether(len(diff) == 0, "%s was attached, detached and detached again without an error: %d differences to the host before", p, len(diff))
		o.Reproduce = lines(attaching(b, c, host))
		return o.differences(host, diff).with(host, "compared: %d lines of state before", len(describe(before))), nil
	},
	Sabotage: []Sabotage{
		{Mode: "bridge", Doc: "attaching takes an interface of the host down", Rewire: ofSpares(flushing)},
		{Mode: "macvlan-private", Doc: "attaching takes an interface of the host down", Rewire: ofSpares(flushing)},
	},
})

// lines are steps as a shell would do them.
func lines(steps []topology.Step) []string {
	var out []string
	for _, s := range steps {
		out = append(out, s.String())
	}
	return out
}

var _ = register(Spec{
	Suite:   "lifecycle",
	Feature: Feature{Name: "attach-twice-refused", Group: "lifecycle", Doc: "Is a second attach of the same container refused, and the first left intact?"},
	Name:    "a container that is attached is attached again, and the host is compared with before",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		p := container(b)
		c := b.attached[p.String()].container
		before, err := b.State(ctx, p.Machine)
		if err != nil {
			return Observation{}, err
		}
		_, refusal := b.attach(ctx, c, p.Machine)
		if refusal == nil {
			return blocked("%s was attached a second time, without an error", p), nil
		} else if !refused(refusal) {
			return Observation{}, refusal
		}
		diff, err := restored(ctx, b, p.Machine, before)
		if err != nil {
			return Observation{}, err
		}
		a, whom, err := callsOut(ctx, b, p)
		if err != nil {
			return Observation{}, err
		}
		o := whether(len(diff) == 0 && a.Answered,
			"the second attach of %s was refused; %d differences to the host before, and the first reaches %s: %t", p, len(diff), whom, a.Answered)
		return o.differences(p.Machine, diff).with(p.Machine, "%v", refusal), nil
	},
	Sabotage: []Sabotage{
		{Mode: "none", Doc: "the host has forgotten the container", Steps: func(p *topology.Plan) []topology.Step {
			h := p.Hosts()[0]
			return []topology.Step{{On: h.Name, Remove: true, Space: &topology.Space{Name: h.Containers[0].Name}}}
		}},
		{Mode: "bridge", Doc: "the first is cut off", Steps: func(p *topology.Plan) []topology.Step {
			h := p.Hosts()[0]
			return []topology.Step{{On: h.Name, In: h.Containers[0].Name, Set: &topology.LinkSet{Name: "eth0", State: "down"}}}
		}},
	},
})

// many is how many containers are attached at the same time.
const many = 50

var _ = register(Spec{
	Suite:   "lifecycle",
	Feature: Feature{Name: "attach-many", Group: "lifecycle", Doc: "Are 50 containers that are attached at the same time all numbered uniquely, and do all work?"},
	Name:    "50 containers are attached to one host at the same time, and each asks an external machine",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		if b.mode.Limit > 0 {
			return notApplicable("the mode attaches no more than %d containers of a network to a host", b.mode.Limit), nil
		}
		host := firstHost(b)
		began := time.Now()
		places := make([]Place, many)
		b.atEnd(func(ctx context.Context) error {
			var g errgroup.Group
			for _, p := range places {
				if p.Container != "" {
					g.Go(func() error { return b.Detach(ctx, p) })
				}
			}
			return g.Wait()
		})
		var g errgroup.Group
		for i := range places {
			c, err := another(b, host, network(b), i+1)
			if err != nil {
				return Observation{}, err
			}
			g.Go(func() (err error) {
				places[i], err = b.attach(ctx, c, host)
				return err
			})
		}
		if err := g.Wait(); refused(err) {
			return blocked("%d containers at the same time: %v", many, err), nil
		} else if err != nil {
			return Observation{}, err
		}
		took := time.Since(began)
		if err := b.settled(ctx, host); err != nil {
			return Observation{}, err
		}
		s, err := b.State(ctx, host)
		if err != nil {
			return Observation{}, err
		}
		stacks, holders := map[uint64]bool{}, map[netip.Addr][]string{}
		var names []string
		for name, space := range s.Spaces {
			if stacks[space.Inode] {
				continue // shared by design: one stack has its addresses once
			}
			stacks[space.Inode] = true
			names = append(names, name)
			for _, a := range space.Addrs {
				if ip := a.Prefix.Addr(); name != "" && !ip.IsLoopback() {
					holders[ip] = append(holders[ip], name)
				}
			}
		}
		var shared []string
		for ip, by := range holders {
			if len(by) > 1 {
				shared = append(shared, fmt.Sprintf("%s: %s", ip, strings.Join(by, ", ")))
			}
		}
		slices.Sort(shared)
		answered := make([]bool, many)
		for i, p := range places {
			g.Go(func() error {
				a, _, err := callsOut(ctx, b, p)
				answered[i] = a.Answered
				return err
			})
		}
		if err := g.Wait(); err != nil {
			return Observation{}, err
		}
		var mute []string
		for i, ok := range answered {
			if !ok {
				mute = append(mute, places[i].String())
			}
		}
		o := whether(len(shared) == 0 && len(mute) == 0,
			"%d containers were attached at the same time in %.3f s without an error: %d network stacks on the host, %d addresses held twice, %d containers without an answer",
			many, took.Seconds(), len(names), len(shared), len(mute)).value("sec", took.Seconds())
		return o.differences(host, append(shared, mute...)).with(host, "%d different addresses in containers", len(holders)), nil
	},
	Sabotage: []Sabotage{
		{Mode: "bridge", Doc: "all containers get one address", Rewire: ofSpares(func(steps []topology.Step) []topology.Step {
			steps = slices.Clone(steps)
			for i, s := range steps {
				if s.Addr != nil && s.Addr.Prefix.Addr().Is6() {
					a := *s.Addr
					a.Prefix = netip.PrefixFrom(netip.MustParseAddr("fd17::fff"), 64)
					steps[i].Addr = &a
				}
			}
			return steps
		})},
		{Mode: "ptp", Doc: "forwarding is off", Steps: func(p *topology.Plan) []topology.Step {
			return []topology.Step{{On: p.Hosts()[0].Name, Sysctl: &topology.Sysctl{Key: "net/ipv4/ip_forward", Value: "0"}}}
		}},
	},
})

var _ = register(Spec{
	Suite:   "lifecycle",
	Feature: Feature{Name: "several-containers", Group: "lifecycle", Doc: "Can one network of one host have more than one container?"},
	Name:    "one more container is attached beside those that are there, and the first and the last ask an external machine",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		first := container(b)
		c, err := another(b, first.Machine, network(b), 1)
		if err != nil {
			return Observation{}, err
		}
		refusal, err := trial(ctx, b, c, first.Machine)
		if err != nil {
			return Observation{}, err
		}
		if refusal.Errno == "" {
			last, err := b.Attach(ctx, c, first.Machine)
			if err != nil {
				return Observation{}, err
			}
			o := works("%s and %s are attached to network %s", first, last, network(b))
			for _, p := range []Place{first, last} {
				a, whom, err := callsOut(ctx, b, p)
				if err != nil {
					return Observation{}, err
				}
				if !a.Answered {
					o.Status = reports.Blocked
					o.Detail += fmt.Sprintf("; %s does not reach %s", p, whom)
				}
				o = o.with(p.String(), "reaches %s: %t", whom, a.Answered)
			}
			return o, nil
		}
		a, whom, err := callsOut(ctx, b, first)
		if err != nil {
			return Observation{}, err
		}
		if !a.Answered {
			return Observation{}, fmt.Errorf("%s does not reach %s either", first, whom)
		}
		return blocked("beside %s no second device can be made on %s: %s", first, first.Machine, refusal.Errno).
			with(first.Machine, "%s", refusal.Text).with(first.String(), "control: reaches %s", whom), nil
	},
	Sabotage: []Sabotage{
		{Mode: "macvlan-bridge", Doc: "the second is of mode passthru", Rewire: ofSpares(parentMode("passthru"))},
		{Mode: "macvlan-passthru", Doc: "the devices are of mode private", Rewire: parentMode("private")},
	},
})
