package suites

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/modebench/modebench/topology"
	"github.com/modebench/modebench/topology/lab"
)

// crowdOf is how many entries a table is given. Tests make do with fewer.
var crowdOf = 10000

// stationOf is the first MAC address of stations that do not exist, after which so many others come.
var stationOf = net.HardwareAddr{0x02, 0x5e, 0x11, 0, 0, 0}

// forwarding is the table of the tunnel that leads from the first host to containers of others, and its device.
type forwarding struct {
	host, device string
	entries      []lab.FDB
}

// stations are how many MAC addresses the table has: one may be behind several hosts.
func (f forwarding) stations() int {
	known := map[string]bool{}
	for _, e := range f.entries {
		known[e.MAC.String()] = true
	}
	return len(known)
}

// forwards is the table as it is now. The observation is the answer of the modes that have none.
func forwards(ctx context.Context, b *Bench) (f forwarding, none *Observation, err error) {
	if o := numberless(b, IPv4); o != nil {
		return f, o, nil
	}
	f.host = firstHost(b)
	own, err := b.own(ctx, f.host)
	if err != nil {
		return f, nil, err
	}
	if l, err := tunnelOf(b, f.host); err == nil {
		f.device = l.Name
	} else if i := slices.IndexFunc(own.Links, func(l lab.Link) bool { return l.Kind == "vxlan" }); i >= 0 {
		f.device = own.Links[i].Name // that of a daemon, which has one
	} else {
		o := notApplicable("no packet of a container goes through a VXLAN")
		return f, &o, nil
	}
	for _, e := range own.FDB {
		if e.Link == f.device && e.Dst.IsValid() {
			f.entries = append(f.entries, e)
		}
	}
	return f, nil, nil
}

// median asks several times by UDP, and tells how many questions were answered and how long the middle one of those took.
func median(ctx context.Context, b *Bench, from Place, to netip.AddrPort, times int) (rtt time.Duration, answered int, err error) {
	var rtts []time.Duration
	for range times {
		a, err := b.Ask(ctx, from, lab.Ask{Proto: "udp", To: to, Wait: time.Second})
		if err != nil {
			return 0, 0, err
		}
		if a.Answered {
			rtts = append(rtts, a.RTT)
		}
	}
	if len(rtts) == 0 {
		return 0, 0, nil
	}
	slices.Sort(rtts)
	return rtts[len(rtts)/2], len(rtts), nil
}

// arrival attaches one more container to the second host, serves a port there, and tells whether a container of the first one is answered by it.
func arrival(ctx context.Context, b *Bench) (at Place, target netip.AddrPort, answered bool, err error) {
	c, err := another(b, secondHost(b), network(b), 1)
	if err != nil {
		return at, target, false, err
	}
	if at, err = b.Attach(ctx, c, secondHost(b)); err != nil {
		return at, target, false, err
	}
	port, err := serve(ctx, b, at, unspecified(IPv4))
	if err != nil {
		return at, target, false, err
	}
	target = netip.AddrPortFrom(addrOf(b, at, IPv4), port)
	answered, err = insists(ctx, b, container(b), target)
	return at, target, answered, err
}

var _ = register(Spec{
	Suite: scale, Within: 4 * specTimeout,
	Feature: Feature{Name: "fdb-10000", Group: "limits", Doc: "Does a host reach containers of another host through a tunnel whose forwarding table has 10,000 more stations, also one that comes last?"},
	Name:    "in a lab of its own where nothing is recorded, the first host's tunnel is given 10,000 stations behind the second host; a container asks one there before and after, and at last one that is attached to it then",
	Run: func(ctx context.Context, b *Bench) (_ Observation, err error) {
		if _, none, err := forwards(ctx, b); err != nil {
			return Observation{}, err
		} else if none != nil {
			return *none, nil
		}
		s, err := startBench(ctx, &Bench{driver: b.driver, plan: b.plan, mode: b.mode, quiet: true, rewire: b.rewire})
		if err != nil {
			return Observation{}, err
		}
		defer func() { _ = s.Close() }()
		const times = 101
		from, to := container(s), far(s)
		port, err := serve(ctx, s, to, unspecified(IPv4))
		if err != nil {
			return Observation{}, err
		}
		target := netip.AddrPortFrom(addrOf(s, to, IPv4), port)
		if ok, err := eventually(ctx, crowded, func() (bool, error) {
			a, err := s.Ask(ctx, from, lab.Ask{Proto: "udp", To: target, Wait: slow})
			return a.Answered, err
		}); err != nil || !ok {
			return Observation{}, errors.Join(err, fmt.Errorf("%s does not reach %s at all", from, to))
		}
		few, n, err := median(ctx, s, from, target, times)
		if err != nil || n == 0 {
			return Observation{}, errors.Join(err, fmt.Errorf("%s does not reach %s any more", from, to))
		}
		before, _, err := forwards(ctx, s)
		if err != nil {
			return Observation{}, err
		}
		step := topology.Step{On: before.host, Neigh: &topology.Neigh{Link: before.device, MAC: stationOf, IP: underlayOf(s, secondHost(s)), FDB: true, Many: crowdOf}}
		var took time.Duration
		var memory float64
		for range 2 { // the first time memory is what the programs of the lab need for it, too
			if err := s.lab.Undo(ctx, specOwner); err != nil {
				return Observation{}, err
			}
			had, began := kernelMemory(), time.Now()
			if err := s.Apply(ctx, step); refused(err) {
				return blocked("%s of %s, with %d stations in its table, takes no %d more: %v", before.device, before.host, before.stations(), crowdOf, err), nil
			} else if err != nil {
				return Observation{}, err
			}
			took, memory = time.Since(began), kernelMemory()-had
		}
		after, _, err := forwards(ctx, s)
		if err != nil {
			return Observation{}, err
		}
		many, known, err := median(ctx, s, from, target, times)
		if err != nil {
			return Observation{}, err
		}
		late, lately, came, err := arrival(ctx, s)
		if err != nil {
			return Observation{}, err
		}
		last, n, err := median(ctx, s, from, lately, times)
		if err != nil {
			return Observation{}, err
		}
		o := whether(known > 0 && came && n > 0, "%s of %s was given %d stations in %.2f s, besides %d; of %d questions from %s to %s %d were answered, and of as many to %s, which came then, %d; the middle one took %s ms, and %s ms to the newcomer, after %s ms before",
			after.device, after.host, crowdOf, took.Seconds(), before.stations(), times, from, to, known, late, n, milliseconds(many), milliseconds(last), milliseconds(few))
		if got := after.stations() - before.stations(); got < crowdOf*99/100 { // those that were learned may age meanwhile
			o.Status = "mixed"
			o.Detail = fmt.Sprintf("%s of %s was given %d stations, and has %d more than before: %s", after.device, after.host, crowdOf, got, o.Detail)
		} else if (known > 0) != (came && n > 0) {
			o.Status = "mixed"
		}
		o = o.by([]topology.Step{step}).value("add-sec", took.Seconds()/float64(crowdOf))
		if memory > 0 {
			o = o.value("mem-bytes", memory/float64(crowdOf))
		}
		if few > 0 && many > 0 && last > 0 {
			o = o.value("few-rtt-sec", few.Seconds()).value("rtt-sec", many.Seconds()).value("last-rtt-sec", last.Seconds())
		}
		return o, nil
	},
	Sabotage: []Sabotage{
		{Mode: "vxlan-static", Doc: "the tunnel takes 100 entries", Setup: roomFor(100)},
		{Mode: "vxlan-gossip", Doc: "the tunnel takes 100 entries", Setup: roomFor(100)},
		{Mode: "vxlan-static", Doc: "a container that comes later has no device that is up", Rewire: ofSpares(lifeless)},
	},
})

// roomFor has the tunnels of hosts take so many entries.
func roomFor(entries int) func([]topology.Step) []topology.Step {
	return mapLinks(func(l *topology.Link) {
		if l.Kind == "vxlan" {
			l.Entries = entries
		}
	})
}

var _ = register(Spec{
	Suite:   scale,
	Feature: Feature{Name: "fdb-full", Group: "limits", Doc: "When the forwarding table of a host's tunnel has come to the number of entries that it may have, is a container that comes to another host then still reached?"},
	Name:    "in a lab of its own, where tunnels may have 16 entries (maxaddress), the first host's is given one after another until one is refused; a container asks one of another host that it knows, and one that comes then",
	Run: func(ctx context.Context, b *Bench) (_ Observation, err error) {
		const most = 16
		if _, none, err := forwards(ctx, b); err != nil {
			return Observation{}, err
		} else if none != nil {
			return *none, nil
		}
		if _, err := tunnelOf(b, firstHost(b)); err != nil {
			return notApplicable("the tunnel's device is made by a daemon, which sets no limit"), nil
		}
		m := b.mode
		m.Setup = func(p *topology.Plan, host *topology.Machine) []topology.Step {
			return roomFor(most)(b.mode.Setup(p, host))
		}
		l, err := newBench(ctx, b.driver, b.plan, m, b.rewire)
		if err != nil {
			return Observation{}, err
		}
		defer func() { err = errors.Join(err, l.Close()) }()
		from, to := container(l), far(l)
		port, err := serve(ctx, l, to, unspecified(IPv4))
		if err != nil {
			return Observation{}, err
		}
		known := netip.AddrPortFrom(addrOf(l, to, IPv4), port)
		if ok, err := insists(ctx, l, from, known); err != nil || !ok {
			return Observation{}, errors.Join(err, fmt.Errorf("%s does not reach %s at all", from, to))
		}
		f, _, err := forwards(ctx, l)
		if err != nil {
			return Observation{}, err
		}
		if f.stations() >= most {
			return Observation{}, fmt.Errorf("%s of %s has %d entries already: there is no room to be filled", f.device, f.host, f.stations())
		}
		var steps []topology.Step
		var refusal error
		station := topology.Neigh{MAC: stationOf, FDB: true, Many: most + 1}
		for _, one := range station.All() {
			one.Link, one.IP = f.device, underlayOf(l, secondHost(l))
			step := topology.Step{On: f.host, Neigh: &one}
			if err := l.Apply(ctx, step); refused(err) {
				refusal = err
				break
			} else if err != nil {
				return Observation{}, err
			}
			steps = append(steps, step)
		}
		if f, _, err = forwards(ctx, l); err != nil {
			return Observation{}, err
		}
		late, _, came, err := arrival(ctx, l)
		if err != nil {
			return Observation{}, err
		}
		goes, err := insists(ctx, l, from, known)
		if err != nil {
			return Observation{}, err
		}
		o := whether(came, "%s of %s may have %d entries, and has %d; one more is refused: %v; %s, which came to %s then, answers %s: %t", f.device, f.host, most, f.stations(), why(refusal), late, late.Machine, from, came)
		o = o.by(steps)
		switch {
		case refusal == nil || why(refusal) != unix.ENOSPC.Error() || f.stations() != most:
			o.Status = "mixed"
		case !goes:
			o.Status = "mixed"
			o.Detail += fmt.Sprintf("; and %s, which was known before, does not any more", to)
		default:
			o = o.with(from.String(), "control: %s, which was known before, answers", to)
		}
		var told lab.GossipState
		if err := l.Do(ctx, f.host, "Gossip.State", lab.Nothing{}, &told); err != nil {
			return o, err
		}
		for _, e := range told.Events {
			if e.Kind == "refused" {
				return o.with(f.host, "its member wrote nothing of %s: %s", e.MAC, e.Text), nil
			}
		}
		return o, nil
	},
	Sabotage: []Sabotage{
		{Mode: "vxlan-static", Doc: "a container that comes later has no device that is up", Rewire: ofSpares(lifeless)},
		{Mode: "vxlan-gossip", Doc: "what no entry is for goes to the second host", Setup: flooding},
	},
})

// why is the cause of a refusal, or that there was none.
func why(err error) string {
	if err == nil {
		return "none was"
	}
	return innermost(err)
}

// flooding has tunnels of hosts send what no entry is for to the second host, and ask there who is who.
func flooding(steps []topology.Step) (out []topology.Step) {
	for _, s := range mapLinks(func(l *topology.Link) { l.Proxy = false })(steps) {
		if out = append(out, s); s.Link != nil && s.Link.Kind == "vxlan" {
			out = append(out, topology.Step{On: s.On, Neigh: &topology.Neigh{Link: s.Link.Name, MAC: make(net.HardwareAddr, 6), IP: netip.MustParseAddr("198.18.0.2"), FDB: true}})
		}
	}
	return out
}

// lifeless leaves a container's device on its own network down.
func lifeless(steps []topology.Step) []topology.Step {
	return slices.DeleteFunc(slices.Clone(steps), func(s topology.Step) bool {
		return s.In != "" && s.Set != nil && s.Set.Name == eth0 && s.Set.State == "up"
	})
}

// fromTo is how many seconds went by from the first moment of some to the last of others; 0: there was none.
func fromTo(some, others []time.Time) float64 {
	if len(some) == 0 || len(others) == 0 {
		return 0
	}
	return slices.MaxFunc(others, time.Time.Compare).Sub(slices.MinFunc(some, time.Time.Compare)).Seconds()
}

// upper is the first address of a prefix's upper half.
func upper(p netip.Prefix) netip.Addr {
	a := p.Masked().Addr().AsSlice()
	a[p.Bits()/8] |= 0x80 >> (p.Bits() % 8)
	half, _ := netip.AddrFromSlice(a)
	return half
}

// alsoStatic has the router keep a route of its own to one of the addresses that are announced.
func alsoStatic(steps []topology.Step) []topology.Step {
	if steps[0].On != "h1" || steps[0].Space == nil || steps[0].Space.Name != "c1" {
		return steps
	}
	return append(slices.Clone(steps), topology.Step{On: "tor", Route: &topology.Route{Dst: netip.MustParsePrefix("198.18.64.9/32"), Via: netip.MustParseAddr("198.18.0.3"), Metric: 100}})
}

var _ = register(Spec{
	Suite: scale, Within: 6 * specTimeout,
	Feature: Feature{Name: "bgp-10000", Group: "limits", Doc: "Does the router have a way to each of 10,000 addresses that a host announces, and to none of them any more once they are withdrawn?"},
	Name:    "in a lab of one host where nothing is recorded, the host announces 10,000 single addresses of its segment, and withdraws them; the router's table of BGP and the kernel's are counted each time",
	Run: func(ctx context.Context, b *Bench) (_ Observation, err error) {
		if o := speechless(b); o != nil {
			return *o, nil
		}
		t := roomy()
		tor := t.Tors["tor"]
		tor.Routes = 2 * crowdOf // of one neighbour
		t.Tors["tor"] = tor
		p, err := b.mode.Plan(t)
		if err != nil {
			return Observation{}, err
		}
		l, err := startBench(ctx, &Bench{driver: b.driver, plan: p, mode: b.mode, quiet: true, rewire: b.rewire})
		if err != nil {
			return Observation{}, err
		}
		defer func() { _ = l.Close() }()
		if err := converged(ctx, l); err != nil {
			return Observation{}, err
		}
		s := sessionOf(l, firstHost(l))
		segment := p.Segments[slices.IndexFunc(p.Segments, func(of topology.PlannedSegment) bool { return of.Name == s.nic.Segment })].V4
		announced := topology.Announcement{Prefix: alone(upper(segment)), Many: crowdOf}
		single := map[netip.Prefix]bool{}
		for _, p := range announced.All() {
			single[p] = true
		}
		look := func() (when map[string][]time.Time, rib int, err error) {
			state, err := bgpState(ctx, l, s.tor)
			when = map[string][]time.Time{}
			for _, e := range state.Events {
				if single[e.Prefix] || e.Kind == "down" {
					when[e.Kind] = append(when[e.Kind], e.When)
				}
			}
			for _, r := range state.Routes {
				if single[r.Prefix] && r.From == s.own(IPv4) {
					rib++
				}
			}
			return when, rib, err
		}
		fib := func() (n int, err error) {
			state, err := l.own(ctx, s.tor)
			there := map[netip.Prefix]bool{}
			for _, r := range state.Routes {
				if single[r.Dst] {
					there[r.Dst] = true
				}
			}
			return len(there), err
		}
		var had, has lab.Usage
		if err := l.Do(ctx, s.tor, "Host.Usage", lab.Nothing{}, &had); err != nil {
			return Observation{}, err
		}
		const owner = specOwner + " crowd"
		if err := l.lab.Apply(ctx, owner, []topology.Step{{On: s.host, Announce: &announced}}); err != nil {
			return Observation{}, err
		}
		// The kernel is asked meanwhile: to tell of its own table would keep the router from filling it.
		var inFIB, left int
		full, err := eventually(ctx, 3*specTimeout, func() (bool, error) {
			inFIB, err = fib()
			return inFIB == crowdOf, err
		})
		if err != nil {
			return Observation{}, err
		}
		came, inRIB, err := look()
		if err != nil {
			return Observation{}, err
		}
		if err := l.Do(ctx, s.tor, "Host.Usage", lab.Nothing{}, &has); err != nil {
			return Observation{}, err
		}
		if err := l.lab.Undo(ctx, owner); err != nil {
			return Observation{}, err
		}
		gone, err := eventually(ctx, convergence, func() (bool, error) {
			left, err = fib()
			return left == 0, err
		})
		if err != nil {
			return Observation{}, err
		}
		went, stale, err := look()
		if err != nil {
			return Observation{}, err
		}
		up, err := s.up(ctx, l)
		if err != nil {
			return Observation{}, err
		}
		learned, installed := fromTo(came["announced"], came["announced"]), fromTo(came["announced"], came["installed"])
		withdrawn, removed := fromTo(went["withdrawn"], went["withdrawn"]), fromTo(went["withdrawn"], went["removed"])
		o := whether(full && inRIB == crowdOf && gone && stale == 0,
			"%s announced %d addresses: %s heard of the last %.2f s after the first, and had %d of them in its own table and %d in the kernel's, the last after %.2f s; of what was withdrawn it heard within %.2f s, had taken the last out after %.2f s, and has %d of them left in its own table and %d in the kernel's; the session is as before: %t",
			s.host, crowdOf, s.tor, learned, inRIB, inFIB, installed, withdrawn, removed, stale, left, up && len(went["down"]) == 0)
		if full && gone && (!up || len(went["down"]) > 0) {
			o.Status = "mixed"
		}
		o = o.value("learned-sec", learned).value("installed-sec", installed).value("withdrawn-sec", withdrawn).value("removed-sec", removed)
		if has.Memory > had.Memory {
			o = o.value("heap-bytes", float64(has.Memory-had.Memory)/float64(crowdOf))
		}
		return o, nil
	},
	Sabotage: []Sabotage{
		{Mode: "direct-bgp", Doc: "the router has a static route to one of them, too", Rewire: alsoStatic},
		{Mode: speaks, Doc: "the router has a static route to one of them, too", Rewire: alsoStatic},
	},
})
