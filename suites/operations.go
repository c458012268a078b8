package suites

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/modebench/modebench/modes"
	"github.com/modebench/modebench/reports"
	"github.com/modebench/modebench/topology"
	"github.com/modebench/modebench/topology/lab"
)

// server is a listener of a container that may end before the spec does.
type server struct {
	lab.Listening
	stop func() error
}

func serveUDP(ctx context.Context, b *Bench, at Place, f Family, port uint16) (s server, err error) {
	l := lab.Listen{In: at.Container, Proto: "udp", Addr: netip.AddrPortFrom(unspecified(f), port)}
	if err := b.Do(ctx, at.Machine, "Probe.Listen", l, &s.Listening); err != nil {
		return s, err
	}
	if s.Refusal.Errno != "" {
		return s, fmt.Errorf("%s listens on port %d: %s", at, port, s.Refusal.Text)
	}
	s.stop = sync.OnceValue(func() error {
		return b.Do(context.WithoutCancel(ctx), at.Machine, "Probe.Stop", s.Handle, &lab.Tally{})
	})
	b.atEnd(func(context.Context) error { return s.stop() })
	return s, nil
}

// heardOf tells whether a server has received a message of a flow.
func heardOf(ctx context.Context, b *Bench, at Place, s server, token string) (bool, error) {
	var seen []lab.Seen
	err := b.Do(ctx, at.Machine, "Probe.Seen", s.Handle, &seen)
	return slices.ContainsFunc(seen, func(s lab.Seen) bool { return strings.HasPrefix(s.Token, token+".") }), err
}

// flow asks by UDP once every millisecond. Its stop ends that, and may be called again.
type flow struct {
	handle lab.Handle
	stop   func() (lab.Tally, error)
}

func flowing(ctx context.Context, b *Bench, from Place, to netip.AddrPort, token string) (flow, error) {
	return begin(ctx, b, from.Machine, lab.Flow{
		Ask: lab.Ask{In: from.Container, Proto: "udp", To: to, Token: token, Wait: 100 * time.Millisecond}, Every: time.Millisecond,
	})
}

// begin begins any flow.
func begin(ctx context.Context, b *Bench, machine string, asks lab.Flow) (f flow, err error) {
	if err := b.Do(ctx, machine, "Probe.Flow", asks, &f.handle); err != nil {
		return f, err
	}
	f.stop = sync.OnceValues(func() (t lab.Tally, err error) {
		err = b.Do(context.WithoutCancel(ctx), machine, "Probe.Stop", f.handle, &t)
		return t, err
	})
	b.atEnd(func(context.Context) error { _, err := f.stop(); return err })
	return f, nil
}

// visible tells whether an address is on a segment of the external machine's, or behind a router.
func visible(b *Bench, a netip.Addr) bool {
	return routers(b) > 0 || slices.ContainsFunc(b.plan.Machine(external(b).Machine).NICs, func(n topology.Interface) bool {
		return n.V4.Contains(a) || n.V6.Contains(a)
	})
}

// known is where the outside reaches a port of a container on a host: at its own address, where that is on a segment of
// the external machine's or behind a router, else at the host's, by a port that is
// published for the protocols. What it returns takes the publication back.
func known(ctx context.Context, b *Bench, c topology.Container, host string, f Family, port uint16, protos ...string) (netip.AddrPort, func() error, error) {
	own := b.mode.Addrs(b.plan, b.plan.Machine(host), c)[map[Family]int{IPv4: 0, IPv6: 1}[f]].Addr()
	if visible(b, own) {
		return netip.AddrPortFrom(own, port), func() error { return nil }, nil
	}
	if b.mode.Publish == nil {
		return netip.AddrPort{}, nil, fmt.Errorf("%s is on no segment of %s, and the mode publishes no ports", own, external(b))
	}
	owner := "published on " + host
	withdraw := sync.OnceValue(func() error { return b.lab.Undo(context.WithoutCancel(ctx), owner) })
	b.atEnd(func(context.Context) error { return withdraw() })
	var steps []topology.Step
	for _, proto := range protos {
		steps = append(steps, b.mode.Publish(b.plan, b.plan.Machine(host), c, modes.Port{Proto: proto, Host: port, Container: port})...)
	}
	return netip.AddrPortFrom(addrOf(b, Place{Machine: host}, f), port), withdraw, b.lab.Apply(ctx, owner, steps)
}

var _ = registerFamilies(func(f Family) Spec {
	return Spec{
		Suite: "lifecycle",
		Feature: Feature{
			Name: "move", Group: "operations",
			Doc: "Does a container that moves to another host keep its address, and does an external machine reach it there again?",
		},
		Name: "an external machine asks a container a thousand times a second while it is detached from one host and attached to another",
		Run:  func(ctx context.Context, b *Bench) (Observation, error) { return move(ctx, b, f) },
		Sabotage: []Sabotage{
			{Mode: "macvlan-bridge", Doc: "the container gets another address on the other host", Rewire: sparesOn("h2", selfNumbered)},
			{Mode: "macvlan-passthru", Doc: "the devices are of mode private", Rewire: parentMode("private")},
			{Mode: "ipvlan-l3", Doc: "the other host does not announce it", Rewire: sparesOn("h2", unannounced)},
			{Mode: "direct-bgp", Doc: "hosts announce nothing that was moved", Rewire: ofSpares(unannounced)},
		},
	}
})

func move(ctx context.Context, b *Bench, f Family) (Observation, error) {
	if o := numberless(b, f); o != nil {
		return *o, nil
	}
	x, from, to := external(b), firstHost(b), secondHost(b)
	if err := room(ctx, b, from, network(b)); err != nil {
		return Observation{}, err
	}
	c, err := another(b, from, network(b), 1)
	if err != nil {
		return Observation{}, err
	}
	here, err := b.Attach(ctx, c, from)
	if err != nil {
		return Observation{}, err
	}
	port := b.freePort()
	first, err := serveUDP(ctx, b, here, f, port)
	if err != nil {
		return Observation{}, err
	}
	target, withdraw, err := known(ctx, b, c, from, f, port, "udp")
	if err != nil {
		return Observation{}, err
	}
	if ok, err := eventually(ctx, patience, func() (bool, error) {
		a, err := b.Ask(ctx, x, lab.Ask{Proto: "udp", To: target, Wait: 50 * time.Millisecond})
		return a.Answered, err
	}); err != nil || !ok {
		return Observation{}, errors.Join(err, fmt.Errorf("%s does not reach %s at %s before it moves", x, here, target))
	}
	token := b.newToken()
	asked, err := flowing(ctx, b, x, target, token)
	if err != nil {
		return Observation{}, err
	}
	if ok, err := eventually(ctx, patience, func() (bool, error) { return heardOf(ctx, b, here, first, token) }); err != nil || !ok {
		return Observation{}, errors.Join(err, fmt.Errorf("%s does not hear the flow from %s", here, x))
	}
	// The container's process ends with it: where the namespace is another's too, its sockets would stay.
	if err := errors.Join(first.stop(), withdraw(), b.Detach(ctx, here)); err != nil {
		return Observation{}, err
	}
	if no, err := unwelcome(ctx, b, c, to, f); no != nil || err != nil {
		return *cmp.Or(no, &Observation{}), err
	}
	there, err := b.Attach(ctx, c, to)
	if err != nil {
		return Observation{}, err
	}
	second, err := serveUDP(ctx, b, there, f, port)
	if err != nil {
		return Observation{}, err
	}
	now, _, err := known(ctx, b, c, to, f, port, "udp")
	if err != nil {
		return Observation{}, err
	}
	t, err := try(ctx, b, x, there, target, "udp")
	if err != nil {
		return Observation{}, err
	}
	o := t.observation()
	if o.Status != reports.Works {
		_, err := asked.stop()
		if err != nil || now == target {
			return o, err
		}
		a, err := b.Ask(ctx, x, lab.Ask{Proto: "udp", To: now, Wait: time.Second})
		if err != nil {
			return Observation{}, err
		}
		o.Detail = fmt.Sprintf("%s moved from %s, where %s knew it at %s: not answered there any more; %s", c.Name, from, x, target, t.lost())
		return o.with(x.String(), "at %s, where it is now, answered: %t", now, a.Answered), nil
	}
	if ok, err := eventually(ctx, patience, func() (bool, error) { return heardOf(ctx, b, there, second, token) }); err != nil || !ok {
		return Observation{}, errors.Join(err, fmt.Errorf("%s is answered by %s again, but not its flow", x, there))
	}
	tally, err := asked.stop()
	if err != nil {
		return Observation{}, err
	}
	o.Detail = fmt.Sprintf("%s moved from %s to %s: %s reached it at %s again, after %.3f s without an answer", c.Name, from, to, x, target, tally.Longest.Seconds())
	return o.value("sec", tally.Longest.Seconds()), nil
}

// unwelcome is that a host has no place for a container of another one, whose own containers are reached; nil: it has.
func unwelcome(ctx context.Context, b *Bench, c topology.Container, to string, f Family) (*Observation, error) {
	refusal, err := trial(ctx, b, c, to)
	if err != nil || refusal.Errno == "" {
		return nil, err
	}
	x := external(b)
	o := blocked("%s cannot be attached to %s: its device is refused with %s", c.ID(), to, refusal.Errno).with(to, "%s", refusal.Text)
	for _, p := range b.Containers(to, network(b)) {
		a, err := b.Ask(ctx, x, lab.Ask{Proto: "icmp", To: netip.AddrPortFrom(addrOf(b, p, f), 0), Wait: time.Second})
		if err != nil {
			return nil, err
		}
		if !a.Answered {
			return nil, fmt.Errorf("%s does not reach %s either", x, p)
		}
		o = o.with(x.String(), "control: %s, which is there, answered", p)
	}
	return &o, nil
}

// unknowing is the state of an interface whose driver never tells the kernel of a carrier (RFC 2863, ifOperStatus).
const unknowing = "unknown"

// carriers waits until all interfaces of a machine that know of carriers have one, or all are without, as the kernel's link
// watch has it: it may take a second (net/core/link_watch.c).
func carriers(ctx context.Context, b *Bench, machine string, up bool, nics ...string) error {
	var last string
	ok, err := eventually(ctx, patience, func() (bool, error) {
		s, err := b.devices(ctx, machine)
		for _, l := range s.Spaces[""].Links {
			if slices.Contains(nics, l.Name) && l.Oper != unknowing && (l.Oper == "up") != up {
				last = l.Name + " is " + l.Oper
				return false, err
			}
		}
		return err == nil, err
	})
	if err == nil && !ok {
		err = fmt.Errorf("%s: %s after %s", machine, last, patience)
		if !up {
			err = fmt.Errorf("%w: the machine does not see the carrier of its cable", err)
		}
	}
	return err
}

// unplug takes the carrier from the host's interface of the first network: its port of the switch goes down. It returns
// what brings it back, once the host has noticed.
func unplug(ctx context.Context, b *Bench, host string) (plug func() error, err error) {
	m := b.plan.Machine(host)
	nic := m.NIC(b.plan.Network(network(b)).NIC)
	port := cable(m, nic).Peer
	if l, err := linkOf(ctx, b, Place{Machine: host}, cable(m, nic).Name); err != nil || l.Oper == unknowing {
		return nil, errors.Join(err, fmt.Errorf("%s of %s: its driver, %s, tells of no carrier, so a host cannot notice that it is lost", l.Name, host, l.Driver))
	}
	const owner = "unplugged"
	plug = sync.OnceValue(func() error { return b.lab.Undo(context.WithoutCancel(ctx), owner) })
	b.atEnd(func(ctx context.Context) error { return errors.Join(plug(), carriers(ctx, b, host, true, nic.Name)) })
	err = b.lab.Apply(ctx, owner, []topology.Step{{On: port.Machine, Set: &topology.LinkSet{Name: port.Interface, State: "down"}}})
	if err != nil {
		return nil, err
	}
	return plug, carriers(ctx, b, host, false, nic.Name)
}

// recovers waits until a container reaches an external machine by its families, and tells by which it does.
func recovers(ctx context.Context, b *Bench, p Place) (yes, no []string, err error) {
	for _, f := range b.families() {
		ok, err := eventually(ctx, patience, func() (bool, error) {
			a, err := b.Ask(ctx, p, lab.Ask{Proto: "udp", To: netip.AddrPortFrom(addrOf(b, external(b), f), controlPort), Wait: 20 * time.Millisecond})
			return a.Answered, err
		})
		if err != nil {
			return nil, nil, err
		}
		if ok {
			yes = append(yes, string(f))
		} else {
			no = append(no, string(f))
		}
	}
	return yes, no, nil
}

// recovery observes whether a container's traffic to an external machine comes back by itself after a failure, which
// fail makes and unmakes; it returns the moment from which on everything was there again.
func recovery(ctx context.Context, b *Bench, what string, fail func(context.Context) (time.Time, error)) (Observation, error) {
	if b.mode.Addrs == nil {
		return notApplicable("the mode gives a container no address: there is no traffic"), nil
	}
	p, x := container(b), external(b)
	if err := acquainted(ctx, b); err != nil {
		return Observation{}, fmt.Errorf("before anything failed: %w", err)
	}
	began, err := fail(ctx)
	if err != nil {
		return Observation{}, err
	}
	yes, no, err := recovers(ctx, b, p)
	if err != nil {
		return Observation{}, err
	}
	took := time.Since(began)
	o := Observation{Status: "mixed"}
	switch {
	case len(no) == 0:
		o = works("%s, and %s reached %s again %.3f s after everything was back", what, p, x, took.Seconds()).value("sec", took.Seconds())
	case len(yes) == 0:
		o.Status = reports.Blocked
		fallthrough
	default:
		o.Detail = fmt.Sprintf("%s, and %s does not reach %s again by %s within %s of everything being back", what, p, x, orNone(no), patience)
	}
	return unharmed(ctx, b, o)
}

// unharmed adds the control of what is observed after a failure: that nothing is left of it but what it did to the mode.
func unharmed(ctx context.Context, b *Bench, o Observation) (Observation, error) {
	x := external(b)
	// Each port of the switch has to wait for the kernel's link watch, as the host's had.
	for _, other := range b.plan.Externals()[1:] {
		ok, err := eventually(ctx, patience, func() (bool, error) {
			a, err := b.Ask(ctx, x, lab.Ask{Proto: "udp", To: netip.AddrPortFrom(addrOf(b, Place{Machine: other.Name}, IPv4), controlPort), Wait: 20 * time.Millisecond})
			return a.Answered, err
		})
		if err != nil {
			return Observation{}, err
		}
		if !ok {
			return Observation{}, fmt.Errorf("%s does not reach %s: the switch has not recovered", x, other.Name)
		}
		o = o.with(x.String(), "control: %s answered over the same switch", other.Name)
	}
	return o, nil
}

// acquainted has a container reach the external machine, by which its host gets to know the link-layer addresses on the way.
func acquainted(ctx context.Context, b *Bench) error {
	_, no, err := recovers(ctx, b, container(b))
	if err == nil && len(no) > 0 {
		err = fmt.Errorf("%s does not reach %s by %s", container(b), external(b), orNone(no))
	}
	return err
}

// forgetful makes a host unable to find link-layer addresses anew, and deaf to questions, which would tell it those of who asks: it lives on
// those that it has.
func forgetful(p *topology.Plan) []topology.Step {
	host, nic := p.Hosts()[0].Name, p.Networks[0].NIC
	return []topology.Step{
		{On: host, Sysctl: &topology.Sysctl{Key: "net/ipv4/neigh/" + nic + "/mcast_solicit", Value: "0"}},
		{On: host, Sysctl: &topology.Sysctl{Key: "net/ipv4/conf/" + nic + "/arp_ignore", Value: "8"}},
	}
}

var _ = register(Spec{
	Suite:   "lifecycle",
	Feature: Feature{Name: "link-loss", Group: "operations", Doc: "After the host's uplink was lost and came back, does traffic recover by itself?"},
	Name:    "the switch's port of the host goes down until the host has noticed, and up again, and a container asks an external machine",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		host := firstHost(b)
		nic := b.plan.Network(network(b)).NIC
		return recovery(ctx, b, fmt.Sprintf("%s of %s lost its carrier", nic, host), func(ctx context.Context) (time.Time, error) {
			plug, err := unplug(ctx, b, host)
			if err != nil {
				return time.Time{}, err
			}
			began := time.Now()
			return began, plug()
		})
	},
	Sabotage: []Sabotage{
		{Mode: "bridge", Doc: "the host cannot find its neighbours again", Before: acquainted, Steps: forgetful},
		{Mode: "ptp", Doc: "the host cannot find its neighbours again", Before: acquainted, Steps: forgetful},
	},
})

var _ = register(Spec{
	Suite:   "lifecycle",
	Feature: Feature{Name: "link-loss-siblings", Group: "operations", Doc: "Does traffic between two containers of one host go on while the uplink is down?"},
	Name:    "the switch's port of the host goes down, and when the host has noticed, a container asks its neighbour",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		host := firstHost(b)
		first, second, ok := pair(b, host, network(b))
		if !ok || b.mode.Addrs == nil {
			return notApplicable("the mode has no two containers on a network of a host that could talk"), nil
		}
		asks := func(within time.Duration) (a lab.Answer, err error) {
			_, err = eventually(ctx, within, func() (bool, error) {
				a, err = b.Ask(ctx, first, lab.Ask{Proto: "icmp", To: netip.AddrPortFrom(addrOf(b, second, IPv4), 0), Wait: 50 * time.Millisecond})
				return a.Answered, err
			})
			return a, err
		}
		if a, err := asks(retry); err != nil || !a.Answered {
			return notApplicable("%s and %s do not reach each other at any time", first, second), err
		}
		plug, err := unplug(ctx, b, host)
		if err != nil {
			return Observation{}, err
		}
		a, err := asks(5 * slow)
		if err != nil {
			return Observation{}, err
		}
		if a.Answered {
			return works("%s has no carrier, and %s reached %s, after %s", host, first, second, a.RTT.Round(time.Microsecond)), plug()
		}
		loop, err := b.Ask(ctx, first, lab.Ask{Proto: "icmp", To: netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), 0)})
		if err != nil {
			return Observation{}, err
		}
		s, err := b.devices(ctx, host)
		if err != nil {
			return Observation{}, err
		}
		if err := plug(); err != nil {
			return Observation{}, err
		}
		again, err := asks(patience)
		if err != nil {
			return Observation{}, err
		}
		if !loop.Answered || !again.Answered {
			return Observation{}, fmt.Errorf("%s: answers itself without the uplink: %t, is answered by %s with it: %t", first, loop.Answered, second, again.Answered)
		}
		o := blocked("%s has no carrier, and %s does not reach %s until it is back", host, first, second).
			with(first.String(), "%s", cmp.Or(a.Refusal.Text, "nothing was refused, and nothing came"))
		for _, l := range s.Spaces[first.Container].Links {
			o = o.with(first.String(), "meanwhile %s is %s", l.Name, l.Oper)
		}
		return o.with(first.String(), "control: answers itself meanwhile, and is answered by %s afterwards", second), nil
	},
	Sabotage: []Sabotage{
		{Mode: "bridge", Doc: "the containers are stacked on the uplink", Rewire: stacked},
	},
})

var _ = register(Spec{
	Suite:   "lifecycle",
	Feature: Feature{Name: "tor-restart", Group: "operations", Doc: "After the switch was restarted, does traffic recover without touching the container?"},
	Name:    "the switch's ports go down and its bridges are deleted until the host has noticed, then they are made again, and a container asks an external machine",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		var names []string
		for _, t := range b.plan.Tors() {
			names = append(names, t.Name)
		}
		return recovery(ctx, b, "all of "+strings.Join(names, ", ")+" restarted", func(ctx context.Context) (time.Time, error) {
			return restart(ctx, b, func() error { return nil })
		})
	},
	Sabotage: []Sabotage{
		{Mode: "bridge", Doc: "the host cannot find its neighbours again", Before: acquainted, Steps: forgetful},
		{Mode: "ptp", Doc: "the host cannot find its neighbours again", Before: acquainted, Steps: forgetful},
	},
})

// restart takes all switches down, waits until every machine has noticed and for what it is told to, and brings them up as they were at
// first. It returns when they were up.
func restart(ctx context.Context, b *Bench, wait func() error) (up time.Time, err error) {
	var down, removed []topology.Step
	begin := map[string][]topology.Step{}
	for _, s := range topology.Underlay(b.plan) {
		// What a port is to a bridge goes with the bridge; addresses and routes of a router outlast its links, and so does the
		// bridge that a cloud's router has them on.
		if b.plan.Machine(s.On).Role != topology.RoleTor || s.Link == nil && s.Set == nil && s.VLAN == nil ||
			s.Link != nil && b.plan.Topology.Fabric == topology.VPC {
			continue
		}
		begin[s.On] = append(begin[s.On], s)
		switch {
		case s.Link != nil:
			removed = append(removed, topology.Step{On: s.On, Remove: true, Link: s.Link})
		case s.Set != nil && s.Set.State == "up":
			down = append(down, topology.Step{On: s.On, Set: &topology.LinkSet{Name: s.Set.Name, State: "down"}})
		}
	}
	// Without an owner: what was made at first is to be undone by the lab alone.
	apply := func(on string, steps []topology.Step) error {
		return b.Do(context.WithoutCancel(ctx), on, "Host.Apply", lab.Apply{Steps: steps}, &lab.Nothing{})
	}
	start := sync.OnceValue(func() error {
		var errs []error
		for on, steps := range begin {
			errs = append(errs, apply(on, steps))
		}
		return errors.Join(errs...)
	})
	noticed := func(ctx context.Context, up bool) error {
		return b.each(ctx, func(ctx context.Context, _ int, machine string) error {
			var nics []string
			for _, n := range b.plan.Machine(machine).NICs {
				nics = append(nics, n.Name)
			}
			if b.plan.Machine(machine).Role == topology.RoleTor && !up {
				return nil
			}
			return carriers(ctx, b, machine, up, nics...)
		})
	}
	b.atEnd(func(ctx context.Context) error { return errors.Join(start(), noticed(ctx, true)) })
	for on := range begin {
		mine := func(s topology.Step) bool { return s.On != on }
		if err := apply(on, slices.Concat(slices.DeleteFunc(slices.Clone(down), mine), slices.DeleteFunc(slices.Clone(removed), mine))); err != nil {
			return up, err
		}
	}
	if err := errors.Join(noticed(ctx, false), wait()); err != nil {
		return up, err
	}
	up = time.Now()
	return up, start()
}
