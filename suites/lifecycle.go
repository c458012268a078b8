package suites

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"net/rpc"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/modebench/modebench/modes"
	"github.com/modebench/modebench/reports"
	"github.com/modebench/modebench/topology"
	"github.com/modebench/modebench/topology/lab"
)

// another is a container that is not attached at the start, nor is one of its name on any host; n counts them from 1.
func another(b *Bench, host, network string, n int) (topology.Container, error) {
	return b.plan.Container(host, network, planned(b.plan)+n)
}

// planned is the highest number of a container that is attached at the start.
func planned(p *topology.Plan) (most int) {
	for _, h := range p.Hosts() {
		most = max(most, len(h.Containers))
	}
	return most
}

// spareOf is another container of a plan's first network, for the steps of sabotages.
func spareOf(p *topology.Plan, host string, n int) topology.Container {
	c, err := p.Container(host, p.Networks[0].Name, planned(p)+n)
	if err != nil {
		panic(err)
	}
	return c
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
	return slices.IndexFunc(steps, func(s topology.Step) bool {
		return s.Link != nil || s.CNI != nil || s.Space != nil && s.Space.Run != nil && len(s.Space.Run.Addrs) > 0
	})
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

// noRoom tells whether that was for want of room in the kernel (ENOBUFS): of a queue, or of a table.
func noRoom(err error) bool { return strings.Contains(err.Error(), syscall.ENOBUFS.Error()) }

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
			if l.Oper == "unknown" {
				l.Oper = "up" // the same to the kernel (netif_oper_up() of linux/netdevice.h), until something makes it look
			}
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

// lagging tells of a device whose operational state does not follow its carrier yet, or is empty. The kernel's link watch,
// which does that, may take a second (net/core/link_watch.c), and until then the device drops what it is to send: then a
// neighbour that was asked for is asked for again only after another second.
func lagging(host string, s lab.State) string {
	for name, space := range s.Spaces {
		for _, l := range space.Links {
			if carrier := slices.Contains(l.Flags, "LOWER_UP"); carrier != (l.Oper == "up" || l.Oper == "unknown") {
				return fmt.Sprintf("%s of %s has a carrier: %t, and is %s", l.Name, Place{host, name}, carrier, l.Oper)
			}
		}
	}
	return ""
}

// steady is a host's state when it has come to rest.
func steady(ctx context.Context, b *Bench, host string) (s lab.State, err error) {
	var unrest string
	var last lab.State
	ok, err := eventually(ctx, restless, func() (bool, error) {
		last = s
		s, err = b.State(ctx, host)
		if unrest = cmp.Or(lagging(host, s), probing(host, s)); unrest != "" {
			return false, err
		}
		// A device may be told to be up a moment before it has what it gets with that, such as a link-local address.
		came, went := changes(last, s)
		unrest = fmt.Sprintf("still changing: %q", append(came, went...))
		return err == nil && len(came)+len(went) == 0, err
	})
	if err == nil && !ok {
		err = fmt.Errorf("%s after %s", unrest, restless)
	}
	return s, err
}

// cleanup bounds what the kernel has yet to do: namespaces are taken down by a worker of it (cleanup_net() of net/core/net_namespace.c), and
// operational states follow carriers within a second (net/core/link_watch.c).
const cleanup = 3 * time.Second

// swept waits until the kernel has taken down all namespaces that a host let go of before. It does so in their order, some at a time, and takes as long for those of
// others: one with a device whose other end can be seen comes last, and then everything that is still there is there to stay.
func swept(ctx context.Context, b *Bench, host string) error {
	const last = "last"
	if err := b.Apply(ctx,
		topology.Step{On: host, Space: &topology.Space{Name: last}},
		topology.Step{On: host, Link: &topology.Link{Name: last, Kind: "veth", PeerName: last, PeerIn: last}},
		topology.Step{On: host, Remove: true, Space: &topology.Space{Name: last}},
	); err != nil {
		return err
	}
	ok, err := eventually(ctx, time.Minute, func() (bool, error) {
		s, err := b.own(ctx, host)
		return !slices.ContainsFunc(s.Links, func(l lab.Link) bool { return l.Name == last }), err
	})
	if err == nil && !ok {
		err = fmt.Errorf("the kernel has not taken down a namespace of %s within a minute", host)
	}
	return err
}

// cleared waits until something holds of a host that the kernel has yet to clean up. Where it takes longer than it should, namespaces of others come first.
func cleared(ctx context.Context, b *Bench, host string, f func() (bool, error)) error {
	if ok, err := eventually(ctx, cleanup, f); ok || err != nil {
		return err
	}
	err := swept(ctx, b, host)
	if err == nil {
		_, err = f()
	}
	return err
}

// restored waits until a host is as it was before, and gives what is not.
func restored(ctx context.Context, b *Bench, host string, before lab.State) (diff []string, err error) {
	err = cleared(ctx, b, host, func() (bool, error) {
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

// sparesOn is the same of those that come to one host.
func sparesOn(host string, change func([]topology.Step) []topology.Step) func([]topology.Step) []topology.Step {
	return ofSpares(func(steps []topology.Step) []topology.Step {
		if steps[0].On != host {
			return steps
		}
		return change(steps)
	})
}

// flushing turns IPv6 off on an interface of the host while the container is attached. It is turned on again, but the addresses that the
// kernel then forgot do not come back (Documentation/networking/ip-sysctl.rst, disable_ipv6).
func flushing(steps []topology.Step) []topology.Step {
	return append(slices.Clone(steps), topology.Step{On: steps[0].On, Sysctl: &topology.Sysctl{Key: "net/ipv6/conf/eth1/disable_ipv6", Value: "1"}})
}

// mapped changes what steps of one kind say, and leaves the steps that it was given as they are.
func mapped[T any](of func(*topology.Step) **T, change func(*T)) func([]topology.Step) []topology.Step {
	return func(steps []topology.Step) []topology.Step {
		steps = slices.Clone(steps)
		for i := range steps {
			if said := of(&steps[i]); *said != nil {
				other := **said
				change(&other)
				*said = &other
			}
		}
		return steps
	}
}

// mapLinks changes the devices that attaching makes.
func mapLinks(change func(*topology.Link)) func([]topology.Step) []topology.Step {
	return mapped(func(s *topology.Step) **topology.Link { return &s.Link }, change)
}

// mapAddrs changes the addresses that attaching gives devices.
func mapAddrs(change func(*topology.Addr)) func([]topology.Step) []topology.Step {
	return mapped(func(s *topology.Step) **topology.Addr { return &s.Addr }, change)
}

// parentMode gives macvlan and ipvlan devices another mode.
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

// callsOut asks an external machine from a container, or, in a mode without addresses, the container from itself. It
// waits until the kernel has asked for a link-layer address again, should that question or its answer get lost.
func callsOut(ctx context.Context, b *Bench, p Place) (lab.Answer, string, error) {
	if b.mode.Addrs == nil {
		a, err := b.Ask(ctx, p, lab.Ask{Proto: "icmp", To: netip.MustParseAddrPort("127.0.0.1:0"), Wait: time.Second})
		return a, "itself", err
	}
	x := external(b)
	q := lab.Ask{Proto: "udp", To: netip.AddrPortFrom(addrOf(b, x, IPv4), controlPort), Wait: 2 * retry}
	a, err := b.Ask(ctx, p, q)
	if err == nil && !a.Answered { // a datagram may be lost where many ask at once on a slow machine
		q.Wait = patience
		a, err = b.Ask(ctx, p, q)
	}
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
		before, err := steady(ctx, b, host)
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
		{Mode: "bridge", Doc: "attaching turns IPv6 off on an interface of the host", Rewire: ofSpares(flushing)},
		{Mode: "macvlan-private", Doc: "attaching turns IPv6 off on an interface of the host", Rewire: ofSpares(flushing)},
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
		before, err := steady(ctx, b, p.Machine)
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

// standing counts a host's own devices and the hardware addresses that these take in: of a macvlan in a container, the second is all that a host sees, and
// until it is gone no other can have its address (macvlan_addr_busy() of drivers/net/macvlan.c).
func standing(ctx context.Context, b *Bench, host string) (int, error) {
	s, err := b.own(ctx, host)
	n := len(s.Links)
	for _, f := range s.FDB {
		if f.Self && !f.Dst.IsValid() {
			n++
		}
	}
	return n, err
}

// crowd attaches containers to a host at the same time until the spec ends, and tells how long that took.
func crowd(ctx context.Context, b *Bench, host string, cs []topology.Container) (places []Place, took time.Duration, err error) {
	before, err := standing(ctx, b, host)
	if err != nil {
		return nil, 0, err
	}
	places = make([]Place, len(cs))
	b.atEnd(func(ctx context.Context) error {
		attached := slices.DeleteFunc(slices.Clone(places), func(p Place) bool { return p == Place{} })
		// Their namespaces go first: the kernel takes the devices of many down together (cleanup_net() of
		// net/core/net_namespace.c), but waits for a grace period for each that is deleted.
		// Plugins, though, take back less of those whose namespaces have gone.
		var g errgroup.Group
		for _, p := range attached {
			if b.mode.Implementation != "" {
				break
			}
			g.Go(func() error {
				return b.Apply(ctx, topology.Step{On: host, Remove: true, Space: &topology.Space{Name: p.Container}})
			})
		}
		if err := g.Wait(); err != nil {
			return err
		}
		if b.mode.Implementation == "" {
			if err := cleared(ctx, b, host, func() (bool, error) {
				n, err := standing(ctx, b, host)
				return n <= before, err
			}); err != nil {
				return err
			}
		}
		for _, p := range attached {
			g.Go(func() error { return b.Detach(ctx, p) })
		}
		return g.Wait()
	})
	began := time.Now()
	var g errgroup.Group
	for i, c := range cs {
		g.Go(func() (err error) {
			places[i], err = b.attach(ctx, c, host)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return places, 0, err
	}
	took = time.Since(began)
	return places, took, b.settled(ctx, host)
}

var _ = register(Spec{
	Suite:   "lifecycle",
	Feature: Feature{Name: "attach-many", Group: "lifecycle", Doc: "Are 50 containers that are attached at the same time all numbered uniquely, and do all work?"},
	Name:    "50 containers are attached to one host at the same time, and each asks an external machine",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		if b.mode.Limit > 0 {
			return notApplicable("the mode attaches no more than %d containers of a network to a host", b.mode.Limit), nil
		}
		host := firstHost(b)
		var cs []topology.Container
		for i := range many {
			c, err := another(b, host, network(b), i+1)
			if err != nil {
				return Observation{}, err
			}
			cs = append(cs, c)
		}
		places, took, err := crowd(ctx, b, host, cs)
		if refused(err) {
			return blocked("%d containers at the same time: %v", many, err), nil
		} else if err != nil {
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
		var g errgroup.Group
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
		{Mode: "bridge", Doc: "all containers get one address", Rewire: ofSpares(mapAddrs(func(a *topology.Addr) {
			if a.Prefix.Addr().Is6() {
				a.Prefix = netip.PrefixFrom(netip.MustParseAddr("fd17::fff"), 64)
			}
		}))},
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

var _ = register(Spec{
	Suite: "lifecycle",
	Feature: Feature{
		Name: "leak-free", Group: "lifecycle",
		Doc: "Is a host the same after attaching, using and detaching a container as before: links, addresses, routes, rules, forwarding entries, settings, queues, sockets?",
	},
	Name: "a container is attached, asks outside, its host and a neighbour, is asked through a published port, and is detached; the host is compared with before",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		host := firstHost(b)
		if err := room(ctx, b, host, network(b)); err != nil {
			return Observation{}, err
		}
		once, err := pioneer(ctx, b, host)
		if err != nil {
			return Observation{}, err
		}
		before, err := stilled(ctx, b, host)
		if err != nil {
			return Observation{}, err
		}
		c, err := another(b, host, network(b), 1)
		if err != nil {
			return Observation{}, err
		}
		p, err := b.Attach(ctx, c, host)
		if err != nil {
			return Observation{}, err
		}
		used, err := use(ctx, b, p, c)
		if err != nil {
			return Observation{}, err
		}
		if err := b.Detach(ctx, p); refused(err) {
			return blocked("%s was attached and used; detaching gave an error: %v", p, err), nil
		} else if err != nil {
			return Observation{}, err
		}
		diff, ageing, err := left(ctx, b, host, before)
		if err != nil {
			return Observation{}, err
		}
		o := whether(len(diff) == 0, "%s was attached, got %d answers and was detached: %d differences to the host before", p, used, len(diff))
		if len(once) > 0 {
			o = o.with(host, "plugins leave what they made for all containers alike: %d differences after the first, such as %s", len(once), once[0])
		}
		return o.differences(host, diff).with(host, "compared: %d lines of state before", len(describe(before))).
			with(host, "%d connections that are over still age in connection tracking", ageing), nil
	},
	Sabotage: []Sabotage{
		{Mode: "bridge", Doc: "attaching turns IPv6 off on an interface of the host", Rewire: ofSpares(flushing)},
		{Mode: "macvlan-bridge", Doc: "attaching turns IPv6 off on an interface of the host", Rewire: ofSpares(flushing)},
	},
})

// pioneer has plugins, where they carry the mode out, make what they make once for all containers, and gives what that leaves on the host, such
// as tables that are empty by then: which spec comes first is nobody's choice.
func pioneer(ctx context.Context, b *Bench, host string) (left []string, err error) {
	if b.mode.Implementation == "" {
		return nil, nil
	}
	before, err := steady(ctx, b, host)
	if err != nil {
		return nil, err
	}
	c, err := another(b, host, network(b), 2)
	if err != nil {
		return nil, err
	}
	p, err := b.Attach(ctx, c, host)
	if err != nil {
		return nil, err
	}
	if _, err := use(ctx, b, p, c); err != nil {
		return nil, err
	}
	if err := b.Detach(ctx, p); refused(err) {
		return nil, nil // the next one tells
	} else if err != nil {
		return nil, err
	}
	return restored(ctx, b, host, before)
}

// use is what a container does in its life, as far as the mode lets it: it asks an external machine, its host and a
// neighbour, and is asked through a published port. It returns how many answers came.
func use(ctx context.Context, b *Bench, p Place, c topology.Container) (answers int, err error) {
	host := Place{Machine: p.Machine}
	ask := func(from Place, a lab.Ask) error {
		a.Wait = 20 * time.Millisecond
		r, err := b.Ask(ctx, from, a)
		if r.Answered {
			answers++
		}
		return err
	}
	for _, f := range b.families() {
		for _, to := range []Place{host, external(b), container(b)} {
			if to.Container == "" {
				if err := ask(p, lab.Ask{Proto: "udp", To: netip.AddrPortFrom(addrOf(b, to, f), controlPort)}); err != nil {
					return answers, err
				}
			}
			if err := ask(p, lab.Ask{Proto: "icmp", To: netip.AddrPortFrom(addrOf(b, to, f), 0)}); err != nil {
				return answers, err
			}
		}
	}
	if b.mode.Publish == nil {
		return answers, nil
	}
	for _, proto := range []string{"udp", "tcp"} {
		port := b.freePort()
		// Not by the bench's word: these listeners end with the container, not with the spec.
		var l lab.Listening
		at := netip.AddrPortFrom(netip.IPv4Unspecified(), port)
		if err := b.Do(ctx, p.Machine, "Probe.Listen", lab.Listen{In: p.Container, Proto: proto, Addr: at}, &l); err != nil {
			return answers, err
		}
		published := topology.Step{}
		for _, s := range b.mode.Publish(b.plan, b.plan.Machine(p.Machine), c, modes.Port{Proto: proto, Host: port, Container: port}) {
			published = s
			if err := b.lab.Apply(ctx, "published", []topology.Step{s}); err != nil {
				return answers, err
			}
		}
		err := ask(external(b), lab.Ask{Proto: proto, To: netip.AddrPortFrom(addrOf(b, host, IPv4), port)})
		err = errors.Join(err, b.Do(ctx, p.Machine, "Probe.Stop", l.Handle, &lab.Tally{}), b.lab.Undo(ctx, "published"))
		if err != nil {
			return answers, fmt.Errorf("%s: %w", published, err)
		}
	}
	return answers, nil
}

// stilled is a host's state when it has come to rest, with the connections that its kernel tracks.
func stilled(ctx context.Context, b *Bench, host string) (lab.State, error) {
	if _, err := steady(ctx, b, host); err != nil {
		return lab.State{}, err
	}
	return b.tracked(ctx, host)
}

// left is restored since stilled, and the connections that the host's kernel keeps for long; ageing is how many it keeps for less.
func left(ctx context.Context, b *Bench, host string, before lab.State) (diff []string, ageing int, err error) {
	if diff, err = restored(ctx, b, host, before); err != nil {
		return nil, 0, err
	}
	after, err := b.tracked(ctx, host)
	stay, ageing := lingering(before, after)
	return append(diff, stay...), ageing, err
}

// lingering are the connections that are new in a host's tracking. Those that are over age out by themselves, within two
// minutes (Documentation/networking/nf_conntrack-sysctl.rst: a stream of UDP 120 s, TCP's time wait 120 s), and within ten where
// their protocol is none that the tracking knows, such as IGMP (nf_conntrack_generic_timeout, 600 s); one that is
// kept for longer, as an established TCP connection is for days, has been left behind.
func lingering(before, after lab.State) (stay []string, ageing int) {
	type ends struct{ proto, src, dst string }
	known := map[ends]bool{}
	of := func(c lab.Conntrack) ends { return ends{c.Proto, c.Src.String(), c.Dst.String()} }
	for _, c := range before.Spaces[""].Conntrack {
		known[of(c)] = true
	}
	for _, c := range after.Spaces[""].Conntrack {
		ages := 2 * time.Minute
		if _, err := strconv.Atoi(c.Proto); err == nil { // a number stands for want of a name
			ages = 10 * time.Minute
		}
		switch {
		case known[of(c)]:
		case c.Timeout > ages:
			stay = append(stay, fmt.Sprintf("+ connection %s %s to %s, kept for %s", c.Proto, c.Src, c.Dst, c.Timeout))
		default:
			ageing++
		}
	}
	return stay, ageing
}

var _ = register(Spec{
	Suite:   "lifecycle",
	Feature: Feature{Name: "detach-under-traffic", Group: "lifecycle", Doc: "Does detaching one container under traffic leave an unrelated container's stream without loss?"},
	Name:    "two containers ask a thousand times a second each; one of them is detached, and the answers to the other are counted",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		if b.mode.Addrs == nil {
			return notApplicable("the mode gives a container no address: there is no traffic"), nil
		}
		host := firstHost(b)
		if err := room(ctx, b, host, network(b)); err != nil {
			return Observation{}, err
		}
		c, err := another(b, host, network(b), 1)
		if err != nil {
			return Observation{}, err
		}
		leaves, err := b.Attach(ctx, c, host)
		if err != nil {
			return Observation{}, err
		}
		stays, to, err := unrelated(b, leaves)
		if err != nil {
			return Observation{}, err
		}
		server, err := b.Listen(ctx, to, lab.Listen{Proto: "udp", Addr: netip.AddrPortFrom(netip.IPv4Unspecified(), 0)})
		if err != nil {
			return Observation{}, err
		}
		target := netip.AddrPortFrom(addrOf(b, to, IPv4), server.Port)
		flow := func(from Place, to netip.AddrPort) (lab.Handle, string, error) {
			var h lab.Handle
			token := b.newToken()
			err := b.Do(ctx, from.Machine, "Probe.Flow", lab.Flow{
				Ask: lab.Ask{In: from.Container, Proto: "udp", To: to, Token: token, Wait: time.Second}, Every: time.Millisecond,
			}, &h)
			return h, token, err
		}
		heard := func(token string, more int) error { // waits until so many more of its messages came to the server
			begun := -1
			ok, err := eventually(ctx, patience, func() (bool, error) {
				var seen []lab.Seen
				err := b.Do(ctx, to.Machine, "Probe.Seen", server.Handle, &seen)
				n := 0
				for _, s := range seen {
					if strings.HasPrefix(s.Token, token+".") {
						n++
					}
				}
				if begun < 0 {
					begun = n
				}
				return n >= begun+more, err
			})
			if err == nil && !ok {
				err = fmt.Errorf("%s at %s has not heard %d more messages of %s in %s", to, target, more, stays, patience)
			}
			return err
		}
		// A first answer resolves addresses on the way, which is no matter of the detaching.
		if ok, err := eventually(ctx, patience, func() (bool, error) {
			a, err := b.Ask(ctx, stays, lab.Ask{Proto: "udp", To: target, Wait: 20 * time.Millisecond})
			return a.Answered, err
		}); err != nil || !ok {
			return Observation{}, errors.Join(err, fmt.Errorf("%s does not reach %s at %s", stays, to, target))
		}
		going, _, err := flow(leaves, netip.AddrPortFrom(addrOf(b, external(b), IPv4), controlPort))
		if err != nil {
			return Observation{}, err
		}
		staying, token, err := flow(stays, target)
		if err != nil {
			return Observation{}, errors.Join(err, b.Do(ctx, host, "Probe.Stop", going, &lab.Tally{}))
		}
		err = heard(token, 20)
		began := time.Now()
		if err == nil {
			err = b.Detach(ctx, leaves)
		}
		took := time.Since(began)
		if err == nil {
			err = heard(token, 20)
		}
		var left, tally lab.Tally
		if err := errors.Join(err, b.Do(ctx, host, "Probe.Stop", staying, &tally), b.Do(ctx, host, "Probe.Stop", going, &left)); err != nil {
			return Observation{}, err
		}
		lost := tally.Sent - tally.Answered
		o := whether(lost == 0, "%s asked %s %d times, a thousand times a second, while %s was detached, which took %.3f s: %d lost", stays, to, tally.Sent, leaves, took.Seconds(), lost)
		return o.with(stays.String(), "%d sent, %d answered, at most %s without an answer", tally.Sent, tally.Answered, tally.Longest).
			with(leaves.String(), "%d sent, %d answered until it was detached", left.Sent, left.Answered).
			value("sec", tally.Longest.Seconds()).value("count", float64(lost)), nil
	},
	Sabotage: []Sabotage{
		{Mode: "bridge", Doc: "detaching takes the uplink down and up", Rewire: ofSpares(flapping)},
		{Mode: "ptp", Doc: "detaching takes the uplink down and up", Rewire: ofSpares(flapping)},
	},
})

// flapping has the host's uplink down while the container is being attached, and so again while that is undone.
func flapping(steps []topology.Step) []topology.Step {
	set := func(state string) topology.Step {
		return topology.Step{On: steps[0].On, Set: &topology.LinkSet{Name: "eth0", State: state}}
	}
	return append(slices.Insert(slices.Clone(steps), 1, set("down")), set("up"))
}

// unrelated are a container of the same host that has nothing to do with another one, and whom it can ask: an external
// machine, where there is another container of the network; else one of another network, and its like on another host.
func unrelated(b *Bench, of Place) (from, to Place, err error) {
	for _, n := range b.plan.Networks {
		for _, p := range b.Containers(of.Machine, n.Name) {
			if p == of {
				continue
			}
			if n.Name == network(b) {
				return p, external(b), nil
			}
			if there := b.Containers(secondHost(b), n.Name); len(there) > 0 {
				return p, there[0], nil
			}
		}
	}
	return from, to, fmt.Errorf("%s has no container besides %s", of.Machine, of)
}

// carried is a state without what follows from carriers: a switch that loses its last station loses its own.
func carried(s lab.State) lab.State {
	for _, space := range s.Spaces {
		for i := range space.Links {
			space.Links[i].Oper, space.Links[i].Flags = "", nil
		}
		for i := range space.Routes {
			space.Routes[i].Text = strings.TrimSuffix(space.Routes[i].Text, " linkdown")
		}
	}
	return s
}

// holders are the processes that keep namespaces alive, as a machine sees them; where some are named, those of them that
// do still. Whoever else holds namespaces with these inodes then holds others: an inode is given out anew as soon as it
// is free (proc_alloc_inum() of fs/proc/generic.c).
func holders(ctx context.Context, b *Bench, machine string, inodes []uint64, still ...int) (pids []int, err error) {
	err = b.Do(ctx, machine, "Host.Holders", inodes, &pids)
	if len(still) > 0 {
		pids = slices.DeleteFunc(pids, func(pid int) bool { return !slices.Contains(still, pid) })
	}
	return pids, err
}

var _ = register(Spec{
	Suite: "lifecycle",
	Feature: Feature{
		Name: "killed-midway", Group: "lifecycle",
		Doc: "Is nothing left when the program on a host is killed in the middle of attaching?",
	},
	Name: "in a lab of its own, the program of the host is killed when it has made the device of a container, and what is left is looked for",
	Run: func(ctx context.Context, b *Bench) (_ Observation, err error) {
		s, err := scratch(ctx, b, 1)
		if err != nil {
			return Observation{}, err
		}
		killed := false
		defer func() {
			if closed := s.Close(); !killed { // else it says that a program was killed
				err = errors.Join(err, closed)
			}
		}()
		host, tor := firstHost(s), s.plan.Tors()[0].Name
		before, err := s.State(ctx, tor)
		if err != nil {
			return Observation{}, err
		}
		// Of the last network: the first one's interface may be taken.
		c, err := s.plan.Container(host, s.plan.Networks[len(s.plan.Networks)-1].Name, 2)
		if err != nil {
			return Observation{}, err
		}
		steps := attaching(s, c, host)
		half := steps[:max(1, deviceStep(steps)+1)]
		if err := s.Apply(ctx, half...); err != nil {
			return Observation{}, err
		}
		at, err := s.State(ctx, host)
		if err != nil {
			return Observation{}, err
		}
		var inodes []uint64
		for _, space := range at.Spaces {
			if !slices.Contains(inodes, space.Inode) {
				inodes = append(inodes, space.Inode)
			}
		}
		alive, err := holders(ctx, s, tor, inodes)
		if err != nil {
			return Observation{}, err
		}
		// Kernels number alike: a namespace of another one may have the number of the tor's own.
		if len(alive) == 0 || slices.Contains(inodes, before.Spaces[""].Inode) {
			return Observation{}, fmt.Errorf("no process is seen to hold a namespace of %s, though its program runs", host)
		}
		began := time.Now()
		if err := s.Do(ctx, host, "Host.Crash", lab.Nothing{}, &lab.Nothing{}); err == nil || refused(err) {
			return Observation{}, fmt.Errorf("the program on %s was to be killed, and answered: %v", host, err)
		}
		killed = true
		var left []int
		var came, cables []string
		_, err = eventually(ctx, patience, func() (bool, error) {
			after, err := s.State(ctx, tor)
			if err != nil {
				return false, err
			}
			for name, space := range after.Spaces {
				space.Sockets = max(space.Sockets, before.Spaces[name].Sockets) // a router loses its sessions
				after.Spaces[name] = space
			}
			came, _ = changes(carried(before), carried(after))
			cables = nil
			for _, l := range after.Spaces[""].Links {
				if nic := s.plan.Machine(tor).NIC(l.Name); nic != nil && nic.Peer.Machine == host {
					cables = append(cables, l.Name)
				}
			}
			left, err = holders(ctx, s, tor, inodes, alive...)
			return len(left)+len(came)+len(cables) == 0, err
		})
		if err != nil {
			return Observation{}, err
		}
		took := time.Since(began)
		o := whether(len(left)+len(came)+len(cables) == 0,
			"the program on %s was killed after %d of the %d steps that attach %s: %d processes hold one of its %d namespaces, %d of its cables and %d other things are left on %s",
			host, len(half), len(steps), c.ID(), len(left), len(inodes), len(cables), len(came), tor)
		return o.differences(tor, append(cables, came...)).
			with(host, "%d processes held its namespaces before, the last was gone after %.3f s", len(alive), took.Seconds()).
			value("sec", took.Seconds()), nil
	},
	Sabotage: []Sabotage{
		{Mode: "bridge", Doc: "attaching changes the switch too", Rewire: func(steps []topology.Step) []topology.Step {
			name := fmt.Sprintf("x-%s-%s", steps[0].On, steps[0].Space.Name)
			return slices.Insert(slices.Clone(steps), 1, topology.Step{On: "tor", Link: &topology.Link{Name: name, Kind: "bridge"}})
		}},
	},
})

// sharers are the containers, from the first that is attached, whose namespace a container enters; none where it gets one
// of its own. own is false where the namespace is the host's.
func sharers(b *Bench, c topology.Container, host string) (with []Place, own bool) {
	switch share := b.mode.Attach(b.plan, b.plan.Machine(host), c)[0].Space.Share; share {
	case "":
		return nil, true
	case "host":
		return nil, false
	default:
		return b.Containers(host, c.Network), true
	}
}

// undetached is what a host has more than before of a container whose namespace is gone and that was not detached: what does not go with it.
func undetached(ctx context.Context, b *Bench, host string, before lab.State) (came []string, err error) {
	err = cleared(ctx, b, host, func() (bool, error) {
		now, err := b.State(ctx, host)
		came, _ = changes(before, now)
		return err == nil && len(came) == 0, err
	})
	return came, err
}

var _ = register(Spec{
	Suite: "lifecycle",
	Feature: Feature{
		Name: "namespace-deleted", Group: "lifecycle",
		Doc: "When a container's namespace goes away without a detach, does a later detach clean the host's side, without a dangling device, and can the same container be attached again?",
	},
	Name: "a container's namespace is let go, then the container is detached, and the host is compared with before; then it is attached again, and asks an external machine",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		host := firstHost(b)
		c, err := another(b, host, network(b), 1)
		if err != nil {
			return Observation{}, err
		}
		with, own := sharers(b, c, host)
		if !own {
			return notApplicable("the container's namespace is the host's"), nil
		}
		group := []topology.Container{}
		for _, p := range with {
			group = append(group, b.attached[p.String()].container)
		}
		group = append(group, c)
		if err := room(ctx, b, host, network(b)); err != nil {
			return Observation{}, err
		}
		if err := aside(ctx, b, with...); err != nil {
			return Observation{}, err
		}
		before, err := steady(ctx, b, host)
		if err != nil {
			return Observation{}, err
		}
		var places []Place
		for _, c := range group {
			p, err := b.Attach(ctx, c, host)
			if err != nil {
				return Observation{}, err
			}
			places = append(places, p)
		}
		made, err := b.devices(ctx, host)
		if err != nil {
			return Observation{}, err
		}
		inode := made.Spaces[c.Name].Inode
		alive, err := holders(ctx, b, host, []uint64{inode})
		if err != nil {
			return Observation{}, err
		}
		for _, p := range places {
			if err := b.Apply(ctx, topology.Step{On: host, Remove: true, Space: &topology.Space{Name: p.Container}}); err != nil {
				return Observation{}, err
			}
		}
		left, err := holders(ctx, b, host, []uint64{inode}, alive...)
		if err != nil {
			return Observation{}, err
		}
		if len(alive) == 0 || len(left) > 0 {
			return Observation{}, fmt.Errorf("the namespace of %s was to go away: of the processes %v that held it, %v do still", places, alive, left)
		}
		leftover, err := undetached(ctx, b, host, before)
		if err != nil {
			return Observation{}, err
		}
		for _, p := range slices.Backward(places) {
			if err := b.Detach(ctx, p); refused(err) {
				return blocked("the namespace of %s was gone, and detaching it gave an error: %v", p, err), nil
			} else if err != nil {
				return Observation{}, err
			}
		}
		diff, err := restored(ctx, b, host, before)
		if err != nil {
			return Observation{}, err
		}
		o := whether(len(diff) == 0, "the namespace of %s went away, then it was detached without an error: %d differences to the host before", c.ID(), len(diff)).
			differences(host, diff).with(host, "%d processes held namespace %d before, and none any more", len(alive), inode)
		if len(leftover) == 0 {
			o = o.with(host, "nothing was left of it even before it was detached")
		}
		for _, l := range leftover {
			o = o.with(host, "until it was detached: %s", l)
		}
		for _, c := range group {
			if _, err := b.Attach(ctx, c, host); refused(err) {
				o.Status, o.Detail = reports.Blocked, fmt.Sprintf("%s; attaching it again is refused: %v", o.Detail, err)
				return o, nil
			} else if err != nil {
				return Observation{}, err
			}
		}
		again, err := persists(ctx, b, places[len(places)-1])
		if err != nil {
			return Observation{}, err
		}
		o.Detail += fmt.Sprintf("; attached again, it was answered: %t", again)
		if !again && o.Status == reports.Works {
			o.Status = "mixed"
		}
		return o, nil
	},
	Sabotage: []Sabotage{
		{Mode: "bridge", Doc: "attaching turns IPv6 off on an interface of the host", Rewire: ofSpares(flushing)},
		{Mode: "ptp", Doc: "attaching turns IPv6 off on an interface of the host", Rewire: ofSpares(flushing)},
	},
})

var _ = register(Spec{
	Suite: "lifecycle",
	Feature: Feature{
		Name: "hot-plug", Group: "lifecycle",
		Doc: "Can a running container without a network be attached later, its process keeping its sockets?",
	},
	Name: "a server listens in a namespace with nothing but the loopback, then the container is attached, and the server is asked from outside, from the host, and by a neighbour",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		if b.mode.Addrs == nil {
			return notApplicable("the mode attaches nothing that could come later"), nil
		}
		host := firstHost(b)
		if err := room(ctx, b, host, network(b)); err != nil {
			return Observation{}, err
		}
		c, err := another(b, host, network(b), 1)
		if err != nil {
			return Observation{}, err
		}
		p := Place{host, c.Name}
		own := topology.Step{On: host, Space: &topology.Space{Name: c.Name}}
		if err := b.Apply(ctx, own); err != nil {
			return Observation{}, err
		}
		server, err := b.Listen(ctx, p, lab.Listen{Proto: "udp", Addr: netip.AddrPortFrom(netip.IPv4Unspecified(), 0)})
		if err != nil {
			return Observation{}, err
		}
		asked := func(from Place, to netip.Addr) (lab.Answer, error) {
			return b.Ask(ctx, from, lab.Ask{Proto: "udp", To: netip.AddrPortFrom(to, server.Port), Wait: 50 * time.Millisecond})
		}
		steps := attaching(b, c, host)
		if steps[0].Space.Share != "" {
			refusal, err := b.Attempt(ctx, steps[0])
			if err != nil {
				return Observation{}, err
			}
			a, err := asked(p, netip.AddrFrom4([4]byte{127, 0, 0, 1}))
			if err != nil {
				return Observation{}, err
			}
			if !a.Answered || refusal.Errno == "" {
				return Observation{}, fmt.Errorf("%s: answers itself: %t; entering another namespace was refused with %q", p, a.Answered, refusal.Errno)
			}
			return blocked("to attach %s means to enter another namespace, and it has one, with the server in it: %s", p, refusal.Errno).
				with(host, "%s", refusal.Text).with(p.String(), "control: the server answers over the loopback"), nil
		}
		if err := b.Apply(ctx, steps[1:]...); err != nil {
			return Observation{}, err
		}
		to := b.mode.Addrs(b.plan, b.plan.Machine(host), c)[0].Addr()
		o := Observation{Reproduce: lines(steps)}
		askers := []Place{external(b), {Machine: host}}
		if others := b.Containers(host, network(b)); len(others) > 0 { // none where the mode attaches one, and room was made
			askers = append(askers, others[0])
		}
		var from Place
		var a lab.Answer
		// A port may have to wait for the kernel's link watch, a second at most (net/core/link_watch.c).
		answered, err := eventually(ctx, 2*time.Second, func() (bool, error) {
			for _, from = range askers {
				if a, err = asked(from, to); err != nil || a.Answered {
					return a.Answered, err
				}
			}
			return false, nil
		})
		if err != nil {
			return Observation{}, err
		}
		if answered {
			o.Status, o.Detail = reports.Works, fmt.Sprintf("the server in %s was there before the network: asked from %s at %s, it answered", p, from, to)
			return o.with(p.String(), "the server saw %s come in by %s", a.Seen.Source, a.Seen.Device), nil
		}
		if a, err = asked(p, netip.AddrFrom4([4]byte{127, 0, 0, 1})); err != nil {
			return Observation{}, err
		}
		if !a.Answered {
			return Observation{}, fmt.Errorf("the server in %s does not answer over the loopback either", p)
		}
		o.Status, o.Detail = reports.Blocked, fmt.Sprintf("the server in %s was there before the network, and answers none of %v at %s", p, askers, to)
		return o.with(p.String(), "control: the server answers over the loopback"), nil
	},
	Sabotage: []Sabotage{
		{Mode: "bridge", Doc: "the bridge is down", Steps: func(p *topology.Plan) []topology.Step {
			return []topology.Step{{On: p.Hosts()[0].Name, Set: &topology.LinkSet{Name: p.Networks[0].Bridge, State: "down"}}}
		}},
		{Mode: "macvlan-vepa", Doc: "the device is not brought up", Rewire: ofSpares(func(steps []topology.Step) []topology.Step {
			return slices.DeleteFunc(slices.Clone(steps), func(s topology.Step) bool { return s.Set != nil })
		})},
	},
})

// made is the device that attaching a container made: as the step says, or, where a plugin made it, as the machine shows it. Nil: none was made.
func made(ctx context.Context, b *Bench, p Place) (*topology.Link, error) {
	steps := attaching(b, attachedAt(b, p), p.Machine)
	at := deviceStep(steps)
	if at < 0 || steps[at].Link != nil {
		if at < 0 {
			return nil, nil
		}
		return steps[at].Link, nil
	}
	s, err := b.State(ctx, p.Machine)
	if err != nil {
		return nil, err
	}
	for _, own := range s.Spaces[p.Container].Links {
		if own.Name != b.mode.Device {
			continue
		}
		for _, l := range s.Spaces[""].Links {
			switch {
			case l.Index != own.Parent:
			case own.Kind == "veth":
				return &topology.Link{Name: l.Name, Kind: own.Kind, Master: l.Master, PeerName: own.Name, PeerIn: p.Container}, nil
			default:
				return &topology.Link{Name: own.Name, Kind: own.Kind, Parent: l.Name, ParentMode: own.Mode}, nil
			}
		}
		if own.Kind == "veth" && b.mode.Carrier() == modes.ByDocker { // its other end is in a namespace of the engine's own, as those of overlay networks are
			return &topology.Link{Kind: own.Kind, PeerName: own.Name, PeerIn: p.Container}, nil
		}
	}
	return nil, fmt.Errorf("%s has no device %s that hangs on one of %s", p, b.mode.Device, p.Machine)
}

// hangsOn is the device of the host whose end would take a container's device with it, or cut it off: the bridge it is a
// port of, the parent it is stacked on, or else its own other end. Empty: none.
func hangsOn(l *topology.Link) string {
	switch {
	case l == nil:
		return ""
	case l.Master != "":
		return l.Master
	case l.Parent != "":
		return l.Parent
	default:
		return l.Name
	}
}

// bereft deletes a device of the host of a lab of its own, and tells what became of a container there: whether its
// namespace is the same and its server answers over the loopback, and whether it still has its own device.
func bereft(ctx context.Context, b *Bench, device func(*topology.Link) string) (survives, kept bool, o Observation, err error) {
	s, err := scratch(ctx, b, 1)
	if err != nil {
		return false, false, o, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	p := container(s)
	c := s.attached[p.String()].container
	link, err := made(ctx, s, p)
	if err != nil {
		return false, false, o, err
	}
	name := device(link)
	server, err := s.Listen(ctx, p, lab.Listen{Proto: "udp", Addr: netip.AddrPortFrom(netip.IPv4Unspecified(), 0)})
	if err != nil {
		return false, false, o, err
	}
	before, err := s.State(ctx, p.Machine)
	if err != nil {
		return false, false, o, err
	}
	own := s.mode.DeviceOf(s.plan, s.plan.Machine(p.Machine), c)
	remove := topology.Step{On: p.Machine, Remove: true, Link: &topology.Link{Name: name}}
	if err := s.Apply(ctx, remove); err != nil {
		return false, false, o, err
	}
	after, err := s.State(ctx, p.Machine)
	if err != nil {
		return false, false, o, err
	}
	has := func(space lab.SpaceState, name string) bool {
		return slices.ContainsFunc(space.Links, func(l lab.Link) bool { return l.Name == name })
	}
	if has(after.Spaces[""], name) || !has(before.Spaces[p.Container], own) {
		return false, false, o, fmt.Errorf("%s was to go from %s, and %s of %s was to be there before", name, p.Machine, own, p)
	}
	kept = has(after.Spaces[p.Container], own)
	a, err := s.Ask(ctx, p, lab.Ask{Proto: "udp", To: netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), server.Port)})
	if err != nil {
		return false, false, o, err
	}
	same := after.Spaces[p.Container].Inode == before.Spaces[p.Container].Inode
	o.Reproduce = []string{remove.String()}
	o = o.with(p.Machine, "%s is gone", name).
		with(p.String(), "namespace %d as before: %t; its server answers over the loopback: %t", after.Spaces[p.Container].Inode, same, a.Answered).
		with(p.String(), "still has %s: %t", own, kept)
	return same && a.Answered, kept, o, nil
}

var _ = register(Spec{
	Suite: "lifecycle",
	Feature: Feature{
		Name: "outlives-host-device", Group: "lifecycle",
		Doc: "Does the container's namespace survive the deletion of the host's device that it hangs on (bridge, parent)?",
	},
	Name: "in a lab of its own, the bridge, the parent or the other end of the container's device is deleted, and a server in the container is asked over the loopback",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		p := container(b)
		link, err := made(ctx, b, p)
		if err != nil {
			return Observation{}, err
		}
		device := hangsOn(link)
		if device == "" {
			return notApplicable("the container hangs on no device of the host"), nil
		}
		survives, _, o, err := bereft(ctx, b, hangsOn)
		o.Status = whether(survives, "").Status
		o.Detail = fmt.Sprintf("%s was deleted, which %s hangs on: the namespace is the same and its server answers: %t", device, p, survives)
		return o, err
	},
	Sabotage: []Sabotage{
		{Mode: "bridge", Doc: "the container has no working loopback", Rewire: func(steps []topology.Step) []topology.Step {
			s := steps[len(steps)-1]
			return append(slices.Clone(steps), topology.Step{On: s.On, In: s.In, Set: &topology.LinkSet{Name: "lo", State: "down"}})
		}},
	},
})

var _ = register(Spec{
	Suite:   "lifecycle",
	Feature: Feature{Name: "follows-parent", Group: "lifecycle", Doc: "Does the container's device vanish with the host's interface of its network?"},
	Name:    "in a lab of its own, the host's interface is deleted, and the container's device is looked for",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		p := container(b)
		if link, err := made(ctx, b, p); err != nil {
			return Observation{}, err
		} else if link == nil {
			return notApplicable("the mode makes no device for the container"), nil
		}
		nic := b.plan.Network(network(b)).NIC
		_, kept, o, err := bereft(ctx, b, func(*topology.Link) string { return nic })
		o.Status = whether(!kept, "").Status
		o.Detail = fmt.Sprintf("%s of %s was deleted: %s still has its device: %t", nic, p.Machine, p, kept)
		return o, err
	},
	Sabotage: []Sabotage{
		{Mode: "macvlan-bridge", Doc: "the device is one of a veth pair", Rewire: paired},
		{Mode: "bridge", Doc: "the device is stacked on the host's interface", Rewire: stacked},
	},
})

var _ = register(Spec{
	Suite: "lifecycle",
	Feature: Feature{
		Name: "parent-shareable", Group: "lifecycle",
		Doc: "Can the host's interface also become a port of a bridge while containers are attached?",
	},
	Name: "the host's interface is made a port of a bridge, as is a device that nothing else uses",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		host := firstHost(b)
		const bridge, unused = "br-share", "unused"
		if err := b.Apply(ctx,
			topology.Step{On: host, Link: &topology.Link{Name: bridge, Kind: "bridge"}},
			topology.Step{On: host, Link: &topology.Link{Name: unused, Kind: "veth", PeerName: unused + "-end"}},
		); err != nil {
			return Observation{}, err
		}
		port := func(name string) topology.Step {
			return topology.Step{On: host, Set: &topology.LinkSet{Name: name, Master: bridge}}
		}
		control, err := b.Attempt(ctx, port(unused))
		if err != nil {
			return Observation{}, err
		}
		if control.Errno != "" {
			return Observation{}, fmt.Errorf("%s of %s takes no port at all: %s", bridge, host, control.Text)
		}
		nic := b.plan.Network(network(b)).NIC
		refusal, err := b.Attempt(ctx, port(nic))
		if err != nil {
			return Observation{}, err
		}
		var o Observation
		switch refusal.Errno {
		case "":
			o = works("%s of %s became a port of a bridge while containers were attached", nic, host)
		case "EBUSY":
			o = blocked("%s of %s cannot become a port of a bridge while containers are attached: EBUSY", nic, host).with(host, "%s", refusal.Text)
		default:
			o = Observation{Status: "mixed", Detail: fmt.Sprintf("%s of %s cannot become a port of a bridge: %s, which says nothing of other users", nic, host, refusal.Text)}
		}
		o.Reproduce = []string{port(nic).String()}
		return o.with(host, "control: a device that nothing uses became a port"), nil
	},
	Sabotage: []Sabotage{
		{Mode: "bridge", Doc: "a macvlan device is stacked on the interface", Steps: func(p *topology.Plan) []topology.Step {
			return []topology.Step{{On: p.Hosts()[0].Name, Link: &topology.Link{
				Name: "upper", Kind: "macvlan", Parent: p.Networks[0].NIC, ParentMode: "bridge",
			}}}
		}},
		{Mode: "macvlan-private", Doc: "the devices are those of veth pairs", Rewire: paired},
	},
})

var _ = register(Spec{
	Suite: "lifecycle",
	Feature: Feature{
		Name: "mode-switch", Group: "lifecycle",
		Doc: "Can the mode of an attached container's device be changed at run time (macvlan: private, vepa, bridge)?",
	},
	Name: "the container's macvlan device is given each of the other modes, and its mode is read back",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		p := container(b)
		c := b.attached[p.String()].container
		own := b.mode.DeviceOf(b.plan, b.plan.Machine(p.Machine), c)
		device := func() (*lab.Link, error) {
			s, err := b.devices(ctx, p.Machine)
			for _, l := range s.Spaces[p.Container].Links {
				if l.Name == own {
					return &l, err
				}
			}
			return nil, err
		}
		was, err := device()
		if err != nil {
			return Observation{}, err
		}
		if was == nil || was.Kind != "macvlan" {
			return notApplicable("the container has no macvlan device"), nil
		}
		var o Observation
		var switched, refusedTo []string
		for _, mode := range []string{"private", "vepa", "bridge"} {
			if mode == was.Mode {
				continue
			}
			step := topology.Step{On: p.Machine, In: p.Container, Set: &topology.LinkSet{Name: own, Mode: mode}}
			o.Reproduce = append(o.Reproduce, step.String())
			refusal, err := b.Attempt(ctx, step)
			if err != nil {
				return Observation{}, err
			}
			if refusal.Errno != "" {
				refusedTo = append(refusedTo, mode+" ("+refusal.Errno+")")
				o = o.with(p.String(), "%s", refusal.Text)
				continue
			}
			if err := b.Apply(ctx, step); err != nil {
				return Observation{}, err
			}
			is, err := device()
			if err != nil {
				return Observation{}, err
			}
			if is == nil || is.Mode != mode || is.Index != was.Index {
				o = o.with(p.String(), "was to become %s, and is %+v", mode, is)
				continue
			}
			switched = append(switched, mode)
		}
		a, whom, err := callsOut(ctx, b, p)
		if err != nil {
			return Observation{}, err
		}
		switch {
		case len(refusedTo)+len(switched) < len(o.Reproduce) || !a.Answered:
			o.Status = "mixed"
		case len(refusedTo) == 0:
			o.Status = reports.Works
		case len(switched) == 0:
			o.Status = reports.Blocked
		default:
			o.Status = "mixed"
		}
		o.Detail = fmt.Sprintf("%s of %s, of mode %s: switched to %s; refused %s", own, p, was.Mode, orNone(switched), orNone(refusedTo))
		return o.with(p.String(), "reaches %s afterwards: %t", whom, a.Answered), nil
	},
	Sabotage: []Sabotage{
		{Mode: "macvlan-passthru", Doc: "the devices are of mode private", Rewire: parentMode("private")},
		{Mode: "macvlan-bridge", Doc: "only the first container is attached, and of mode passthru", Rewire: func(steps []topology.Step) []topology.Step {
			if name := steps[0].Space.Name; name != "c1" {
				return steps[:deviceStep(steps)]
			}
			return parentMode("passthru")(steps)
		}},
	},
})
