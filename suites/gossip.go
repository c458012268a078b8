package suites

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
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

// spread tells whether every other host that is a member of a cluster has entries of all endpoints of the host's containers.
func (b *Bench) spread(ctx context.Context, host string) (bool, error) {
	var endpoints []topology.Endpoint
	b.mu.Lock()
	for place, a := range b.attached {
		if machine, _, _ := strings.Cut(place, "/"); machine != host {
			continue
		}
		for _, s := range attaching(b, a.container, host) {
			if s.Endpoint != nil {
				endpoints = append(endpoints, *s.Endpoint)
			}
		}
	}
	b.mu.Unlock()
	if len(endpoints) == 0 {
		return true, nil
	}
	for _, h := range b.plan.Hosts() {
		if h.Name == host {
			continue
		}
		var s lab.GossipState
		if err := b.Do(ctx, h.Name, "Gossip.State", lab.Nothing{}, &s); err != nil {
			return false, err
		}
		for _, e := range endpoints {
			if s.Running && !has(s, e) {
				return false, nil
			}
		}
	}
	return true, nil
}

// has tells whether a member has the entries of an endpoint where it is.
func has(s lab.GossipState, e topology.Endpoint) bool {
	return slices.ContainsFunc(s.Endpoints, func(got lab.GossipEndpoint) bool {
		return got.Installed && got.VNI == e.VNI && bytes.Equal(got.MAC, e.MAC) && got.VTEP == e.VTEP
	})
}

// gossipless is the answer of the modes whose hosts do not tell each other of endpoints.
func gossipless(b *Bench) *Observation {
	if o := unspanned(b); o == nil && clusterOf(b, firstHost(b)) != nil {
		return nil
	}
	o := notApplicable("the mode's hosts do not tell each other where containers are")
	return &o
}

// clusterOf is the host's member of a cluster, as the mode makes it; nil: none.
func clusterOf(b *Bench, host string) *topology.Gossip {
	if b.mode.Setup == nil {
		return nil
	}
	for _, s := range b.mode.Setup(b.plan, b.plan.Machine(host)) {
		if s.Gossip != nil {
			return s.Gossip
		}
	}
	return nil
}

// due are the entries that a host should have in its tunnels: of all containers that are attached to others.
func due(b *Bench, host string) (out []string) {
	m, _ := modes.Find(b.mode.Name)
	links := map[int]string{}
	for _, t := range clusterOf(b, host).Tunnels {
		links[t.VNI] = t.Link
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for place, a := range b.attached {
		machine, _, _ := strings.Cut(place, "/")
		if machine == host {
			continue
		}
		for _, s := range m.Attach(b.plan, b.plan.Machine(machine), a.container) {
			if e := s.Endpoint; e != nil {
				out = append(out, fmt.Sprintf("%s: %s at %s", links[e.VNI], e.MAC, e.VTEP))
				for _, ip := range e.IPs {
					out = append(out, fmt.Sprintf("%s: %s is-at %s", links[e.VNI], ip, e.MAC))
				}
			}
		}
	}
	slices.Sort(out)
	return out
}

// written are those that the kernel has.
func written(ctx context.Context, b *Bench, host string) (out []string, err error) {
	s, err := b.State(ctx, host)
	if err != nil {
		return nil, err
	}
	tunnel := map[string]bool{}
	for _, t := range clusterOf(b, host).Tunnels {
		tunnel[t.Link] = true
	}
	for _, e := range s.Spaces[""].FDB {
		if tunnel[e.Link] && e.Dst.IsValid() {
			out = append(out, fmt.Sprintf("%s: %s at %s", e.Link, e.MAC, e.Dst))
		}
	}
	for _, n := range s.Spaces[""].Neighs {
		if tunnel[n.Link] && n.State == "permanent" {
			out = append(out, fmt.Sprintf("%s: %s is-at %s", n.Link, n.IP, n.MAC))
		}
	}
	slices.Sort(out)
	return out, nil
}

// agreed waits until the hosts have exactly the entries that are due, and tells what the first one that has not has instead.
func agreed(ctx context.Context, b *Bench, within time.Duration, hosts ...string) (ok bool, odd []string, entries int, err error) {
	ok, err = eventually(ctx, within, func() (bool, error) {
		odd, entries = nil, 0
		for _, h := range hosts {
			want := due(b, h)
			got, err := written(ctx, b, h)
			if err != nil {
				return false, err
			}
			entries += len(got)
			for _, e := range want {
				if !slices.Contains(got, e) {
					odd = append(odd, h+" lacks "+e)
				}
			}
			for _, e := range got {
				if !slices.Contains(want, e) {
					odd = append(odd, h+" has "+e)
				}
			}
		}
		return len(odd) == 0, nil
	})
	return ok, odd, entries, err
}

// hostNames are those of the plan.
func hostNames(b *Bench) (names []string) {
	for _, h := range b.plan.Hosts() {
		names = append(names, h.Name)
	}
	return names
}

// gossiped gives when a member last noticed something, of a MAC address where one is given, by the clock of this process; zero: it
// did not.
func gossiped(ctx context.Context, b *Bench, host, kind string, mac net.HardwareAddr) (last time.Time, err error) {
	var s lab.GossipState
	err = b.Do(ctx, host, "Gossip.State", lab.Nothing{}, &s)
	for _, e := range s.Events {
		if e.Kind == kind && (mac == nil || bytes.Equal(e.MAC, mac)) {
			last = e.When.Add(-b.ahead(host))
		}
	}
	return last, err
}

var _ = register(Spec{
	Suite: "routing",
	Feature: Feature{
		Name: "gossip-members", Group: "routing",
		Doc: "Do the hosts find each other, and has each of them the forwarding and neighbour entries of all containers of the others, and no other?",
	},
	Name: "what members know of each other is read, and the entries of their tunnels are compared with the containers that are attached",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		if o := gossipless(b); o != nil {
			return *o, nil
		}
		hosts := hostNames(b)
		ok, odd, entries, err := agreed(ctx, b, patience, hosts...)
		if err != nil {
			return Observation{}, err
		}
		var o Observation
		for _, h := range hosts {
			var s lab.GossipState
			if err := b.Do(ctx, h, "Gossip.State", lab.Nothing{}, &s); err != nil {
				return Observation{}, err
			}
			ok = ok && slices.Equal(s.Alive, hosts)
			o = o.with(h, "knows %s, and of %d endpoints", strings.Join(s.Alive, ", "), len(s.Endpoints))
		}
		seen := whether(ok, "%d hosts know each other and have %d entries of each other's containers; not as they should be: %s", len(hosts), entries, orNone(odd)).value("count", float64(entries))
		seen.Evidence = o.Evidence
		return seen, nil
	},
	Sabotage: []Sabotage{
		{Mode: "vxlan-gossip", Doc: "no host knows whom to ask for the others", Setup: askless},
		{Mode: "vxlan-kv", Doc: "the second host writes for another member of the same name", Setup: mapClusters(func(on string, g *topology.Gossip) {
			if on == "h2" {
				g.Name = "h1"
			}
		})},
	},
})

// askless leaves out whom members ask for the others.
func askless(steps []topology.Step) []topology.Step {
	return mapClusters(func(_ string, g *topology.Gossip) { g.Join = nil })(steps)
}

// mapClusters changes the members of hosts.
func mapClusters(change func(on string, g *topology.Gossip)) func([]topology.Step) []topology.Step {
	return func(steps []topology.Step) []topology.Step {
		steps = slices.Clone(steps)
		for i, s := range steps {
			if s.Gossip != nil {
				g := *s.Gossip
				change(s.On, &g)
				steps[i].Gossip = &g
			}
		}
		return steps
	}
}

var _ = register(Spec{
	Suite: "routing",
	Feature: Feature{
		Name: "gossip-spread", Group: "routing",
		Doc: "When a container comes or goes, do the entries of it come and go on the other hosts? (Measured from its host's word to the last other host's entries.)",
	},
	Name: "a container is attached to one host and detached again, five times, and the moments are read at which the others wrote and removed its entries",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		if o := gossipless(b); o != nil {
			return *o, nil
		}
		return spreading(ctx, b, patience)
	},
	Sabotage: []Sabotage{
		{Mode: "vxlan-gossip", Doc: "hosts tell of no container that comes later", Rewire: ofSpares(unspoken)},
		{Mode: "vxlan-kv", Doc: "hosts write of no container that comes later", Rewire: ofSpares(unspoken)},
	},
})

// spreading attaches a container to the second host and detaches it, again and again, and times what the others hear of it. They have so long to have
// the entries that they should.
func spreading(ctx context.Context, b *Bench, within time.Duration) (Observation, error) {
	const rounds = 5
	owner := secondHost(b)
	others := slices.DeleteFunc(hostNames(b), func(h string) bool { return h == owner })
	c, err := another(b, owner, network(b), 5) // beyond those that any lab begins with
	if err != nil {
		return Observation{}, err
	}
	var came, went []time.Duration
	var o Observation
	for range rounds {
		p, err := b.attach(ctx, c, owner)
		if err != nil {
			return Observation{}, err
		}
		gone := sync.OnceValue(func() error { return b.Detach(context.WithoutCancel(ctx), p) })
		b.atEnd(func(context.Context) error { return gone() })
		for _, turn := range []struct {
			said, done string
			took       *[]time.Duration
		}{{"told", "installed", &came}, {"untold", "removed", &went}} {
			if turn.said == "untold" {
				if err := gone(); err != nil {
					return Observation{}, err
				}
			}
			if ok, odd, _, err := agreed(ctx, b, within, hostNames(b)...); err != nil || !ok {
				return blocked("%s %s of %s: after %s, not as it should be: %s", owner, turn.said, c.MAC, within, orNone(odd)), err
			}
			began, err := gossiped(ctx, b, owner, turn.said, c.MAC)
			if err != nil {
				return Observation{}, err
			}
			if began.IsZero() {
				return blocked("%s has not %s of %s", owner, turn.said, c.MAC), nil
			}
			var last time.Duration
			for _, h := range others {
				ended, err := gossiped(ctx, b, h, turn.done, c.MAC)
				if err != nil {
					return Observation{}, err
				}
				last = max(last, ended.Sub(began))
			}
			*turn.took = append(*turn.took, last)
		}
	}
	slices.Sort(came)
	slices.Sort(went)
	o = works("%s was attached to %s and detached %d times: %d other hosts had its entries within %s and were rid of them within %s",
		c.ID(), owner, rounds, len(others), came[rounds-1].Round(time.Millisecond), went[rounds-1].Round(time.Millisecond))
	o = o.with(owner, "entries came after %v and went after %v", came, went)
	return o.value("sec", came[rounds-1].Seconds()).value("sec", went[rounds-1].Seconds()), nil
}

// leaky is the comment of rules that lose a tenth of what a host sends.
const leaky = "lost by chance"

var _ = register(Spec{
	Suite: "routing", Needs: []modes.Kernel{modes.NFTables, modes.NFNetdev, modes.Balance},
	Feature: Feature{
		Name: "gossip-loss", Group: "routing",
		Doc: "When the switch loses a tenth of all that hosts send, by chance, do the entries of a container that comes or goes still come and go on the other hosts within ten seconds?",
	},
	Name: "at the switch's ports of hosts one in ten packets is dropped; a container is attached to one host and detached again, five times, and the moments are read at which the others wrote and removed its entries",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		if o := gossipless(b); o != nil {
			return *o, nil
		}
		var steps []topology.Step
		for _, h := range hostNames(b) {
			steps = append(steps, entrance(b, h, "loss", topology.Rule{
				Match: []topology.Match{{Field: "numgen random mod 10", Value: "0"}}, Verdict: topology.Verdict{Kind: "drop"}, Comment: leaky,
			}))
		}
		if _, err := disturbed(ctx, b, steps); err != nil {
			return Observation{}, err
		}
		o, err := spreading(ctx, b, 2*patience)
		if err != nil {
			return o, err
		}
		lost, err := b.counted(ctx, uplinkPort(b).Machine, leaky)
		if err == nil && lost == 0 {
			err = errors.New("nothing was lost")
		}
		return o.with(uplinkPort(b).Machine, "%d packets of hosts were lost", lost).by(steps), err
	},
	Sabotage: []Sabotage{
		{Mode: "vxlan-gossip", Doc: "hosts tell of no container that comes later", Rewire: ofSpares(unspoken)},
		{Mode: "vxlan-kv", Doc: "hosts write of no container that comes later", Rewire: ofSpares(unspoken)},
	},
})

var _ = register(Spec{
	Suite: scale,
	Feature: Feature{
		Name: "gossip-24", Group: "limits",
		Doc: "When a container comes or goes, do the entries of it come and go on the other twenty-three hosts of twenty-four? (Measured from its host's word to the last other host's entries.)",
	},
	Name:   "in a lab of its own, with twenty-four hosts, a container is attached to one of them and detached again, five times, and the moments are read at which the others wrote and removed its entries",
	Within: 2 * specTimeout,
	Run: func(ctx context.Context, b *Bench) (o Observation, err error) {
		if o := gossipless(b); o != nil {
			return *o, nil
		}
		const hosts = 24
		m := b.mode
		m.Setup = func(p *topology.Plan, host *topology.Machine) []topology.Step {
			return append(introduced(p, host), b.mode.Setup(p, host)...)
		}
		l, err := among(ctx, b, hosts, m)
		if err != nil {
			return o, err
		}
		defer func() { err = errors.Join(err, l.Close()) }()
		const long = restless // of as many hosts' kernels one is asked after the other, and all share the processors
		if ok, odd, _, err := agreed(ctx, l, long, hostNames(l)...); err != nil || !ok {
			return o, errors.Join(err, fmt.Errorf("after %s, of what was attached at the start: %s", long, orNone(odd)))
		}
		return spreading(ctx, l, long)
	},
	Sabotage: []Sabotage{
		{Mode: "vxlan-gossip", Doc: "hosts tell of no container that comes later", Rewire: ofSpares(unspoken)},
		{Mode: "vxlan-kv", Doc: "hosts write of no container that comes later", Rewire: ofSpares(unspoken)},
	},
})

// introduced tells a host the link-layer addresses of all others, for good: all namespaces of a kernel have one table of neighbours, and many hosts
// that talk to each other fill it, where a kernel each would not notice (net.ipv4.neigh.default.gc_thresh3).
func introduced(p *topology.Plan, host *topology.Machine) (steps []topology.Step) {
	own := host.NIC(p.Networks[0].NIC)
	for _, o := range p.Hosts() {
		if nic := o.NIC(p.Networks[0].NIC); o != host {
			steps = append(steps, topology.Step{On: host.Name, Neigh: &topology.Neigh{Link: own.Name, IP: nic.V4.Addr(), MAC: nic.MAC}})
		}
	}
	return steps
}

// split cuts some hosts off from the others, and from their store where they have one, and gives what brings them together again. It cuts them
// off from all: two that a third one still hears of hold each other for alive, by its word.
func split(ctx context.Context, b *Bench, off ...string) (steps []topology.Step, heal func() error, err error) {
	for _, h := range b.plan.Hosts() {
		var rules []topology.Rule
		drop := func(to string, at netip.Addr) {
			rules = append(rules, topology.Rule{
				Match:   []topology.Match{{Field: "ip daddr", Value: at.String()}},
				Verdict: topology.Verdict{Kind: "drop"}, Comment: "from " + h.Name + " to " + to,
			})
		}
		for _, to := range b.plan.Hosts() {
			if slices.Contains(off, to.Name) != slices.Contains(off, h.Name) {
				drop(to.Name, underlayOf(b, to.Name))
			}
		}
		if at := clusterOf(b, h.Name).Store; slices.Contains(off, h.Name) && at.IsValid() {
			drop("the store", at.Addr())
		}
		steps = append(steps, entrance(b, h.Name, "split", rules...))
	}
	heal, err = disturbed(ctx, b, steps)
	return steps, heal, err
}

// disturbed applies what keeps hosts from telling each other, and gives what takes that back. At the end all have to be together again.
func disturbed(ctx context.Context, b *Bench, steps []topology.Step) (heal func() error, err error) {
	const owner = "disturbance"
	heal = sync.OnceValue(func() error { return b.lab.Undo(context.WithoutCancel(ctx), owner) })
	b.atEnd(func(ctx context.Context) error {
		if err := heal(); err != nil {
			return err
		}
		ok, odd, _, err := agreed(ctx, b, 2*patience, hostNames(b)...)
		if err == nil && !ok {
			err = fmt.Errorf("the hosts are not together again: %s", orNone(odd))
		}
		return err
	})
	return heal, b.lab.Apply(ctx, owner, steps)
}

// knowing waits until hosts do, or do not, hold each of some others for alive.
func knowing(ctx context.Context, b *Bench, alive bool, host string, others ...string) (bool, error) {
	return eventually(ctx, 2*patience, func() (bool, error) {
		var s lab.GossipState
		if err := b.Do(ctx, host, "Gossip.State", lab.Nothing{}, &s); err != nil {
			return false, err
		}
		return !slices.ContainsFunc(others, func(o string) bool { return slices.Contains(s.Alive, o) != alive }), nil
	})
}

var _ = register(Spec{
	Suite: "routing",
	Feature: Feature{
		Name: "gossip-partition", Group: "routing",
		Doc: "When hosts were cut off from each other, and a container moved meanwhile, do all agree on where it is once they are together again?",
	},
	Name:  "a host is cut off from the others, and from their store where they have one, until they hold each other for dead (without the store, nobody is told so), a container moves to it, and the cut is mended",
	Needs: []modes.Kernel{modes.NFTables},
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		if o := gossipless(b); o != nil {
			return *o, nil
		}
		return partition(ctx, b, 1, secondHost(b))
	},
	Sabotage: []Sabotage{
		{Mode: "vxlan-gossip", Doc: "the second host tells of what comes later as if the first one had it", Rewire: ofSpares(misplaced)},
		{Mode: "vxlan-kv", Doc: "the second host writes of what comes later as if the first one had it", Rewire: ofSpares(misplaced)},
	},
})

var _ = register(Spec{
	Suite: "routing",
	Feature: Feature{
		Name: "gossip-halves", Group: "routing",
		Doc: "When ten hosts were cut into two halves, and three containers moved from the one to the other meanwhile, do all agree on where they are once the hosts are together again?",
	},
	Name:   "in a lab of its own, five of ten hosts are cut off from the others, and from their store where they have one, until they hold each other for dead (without the store, nobody is told so), three containers move to them, and the cut is mended",
	Needs:  []modes.Kernel{modes.NFTables},
	Within: 2 * specTimeout,
	Run: func(ctx context.Context, b *Bench) (o Observation, err error) {
		if o := gossipless(b); o != nil {
			return *o, nil
		}
		const hosts, moving = 10, 3
		l, err := among(ctx, b, hosts, b.mode)
		if err != nil {
			return o, err
		}
		defer func() { err = errors.Join(err, l.Close()) }()
		return partition(ctx, l, moving, hostNames(l)[hosts/2:]...)
	},
	Sabotage: []Sabotage{
		{Mode: "vxlan-gossip", Doc: "the seventh host tells of what comes later as if the sixth one had it", Rewire: ofSpares(misplacedOn("h7"))},
		{Mode: "vxlan-kv", Doc: "the seventh host writes of what comes later as if the sixth one had it", Rewire: ofSpares(misplacedOn("h7"))},
	},
})

// moreHosts are so many hosts like the first one, each with containers: those of the plan, and others.
func moreHosts(b *Bench, n int, containers map[string]int) map[string]topology.Host {
	hosts := map[string]topology.Host{}
	for i := 1; len(hosts) < n; i++ {
		name := fmt.Sprintf("h%d", i)
		if m := b.plan.Machine(name); m == nil || m.Role == topology.RoleHost {
			hosts[name] = topology.Host{NICs: b.plan.Topology.Hosts[firstHost(b)].NICs, Containers: containers}
		}
	}
	return hosts
}

// among is a lab of its own, of a mode, with so many hosts that have a container each.
func among(ctx context.Context, b *Bench, hosts int, m modes.Mode) (*Bench, error) {
	t := b.plan.Topology
	t.Hosts = moreHosts(b, hosts, map[string]int{network(b): 1})
	p, err := topology.NewPlan(t)
	if err != nil {
		return nil, err
	}
	return newBench(ctx, b.driver, p, m, b.rewire)
}

// partition cuts hosts off from the others, moves so many containers to them, one from and to each, and mends the cut.
func partition(ctx context.Context, b *Bench, moving int, off ...string) (Observation, error) {
	others := slices.DeleteFunc(hostNames(b), func(h string) bool { return slices.Contains(off, h) })
	var moved []topology.Container
	var here []Place
	for _, host := range others[:moving] {
		c, err := another(b, host, network(b), 5) // beyond those that any lab begins with
		if err != nil {
			return Observation{}, err
		}
		p, err := b.Attach(ctx, c, host)
		if err != nil {
			return Observation{}, err
		}
		moved, here = append(moved, c), append(here, p)
	}
	if ok, odd, _, err := agreed(ctx, b, patience, hostNames(b)...); err != nil || !ok {
		return Observation{}, errors.Join(err, fmt.Errorf("before the cut: %s", orNone(odd)))
	}
	steps, heal, err := split(ctx, b, off...)
	if err != nil {
		return Observation{}, err
	}
	began := time.Now()
	far := map[string][]string{} // by host: those on the other side of the cut
	for _, h := range off {
		far[h] = others
	}
	for _, h := range others {
		far[h] = off
	}
	noticing := hostNames(b)
	if clusterOf(b, off[0]).Store.IsValid() {
		noticing = others // nobody tells those that are without the store
	}
	for _, h := range noticing {
		if ok, err := knowing(ctx, b, false, h, far[h]...); err != nil || !ok {
			return blocked("%s still holds one of %s for alive, %s after they were cut off from each other", h, strings.Join(far[h], ", "), 2*patience), err
		}
	}
	noticed := time.Since(began)
	var stale []string
	for _, h := range noticing {
		got, err := written(ctx, b, h)
		if err != nil {
			return Observation{}, err
		}
		for _, e := range got {
			if slices.ContainsFunc(far[h], func(o string) bool { return strings.HasSuffix(e, " at "+underlayOf(b, o).String()) }) {
				stale = append(stale, h+" has "+e)
			}
		}
	}
	for i, c := range moved {
		if err := b.Detach(ctx, here[i]); err != nil {
			return Observation{}, err
		}
		there, err := b.attach(ctx, c, off[i]) // whose host cannot tell the others now
		if err != nil {
			return Observation{}, err
		}
		b.atEnd(func(ctx context.Context) error { return b.Detach(ctx, there) })
	}
	if err := heal(); err != nil {
		return Observation{}, err
	}
	began = time.Now()
	ok, odd, entries, err := agreed(ctx, b, 2*patience, hostNames(b)...)
	if err != nil {
		return Observation{}, err
	}
	took := time.Since(began)
	owners := map[string]string{} // by address
	var twice []string
	for _, h := range hostNames(b) {
		var s lab.GossipState
		if err := b.Do(ctx, h, "Gossip.State", lab.Nothing{}, &s); err != nil {
			return Observation{}, err
		}
		for _, e := range s.Endpoints {
			for _, ip := range e.IPs {
				key := fmt.Sprint(e.VNI, " ", ip)
				if was := owners[key]; was != "" && was != e.Owner {
					twice = append(twice, fmt.Sprintf("%s is held by %s and by %s", key, was, e.Owner))
				}
				owners[key] = e.Owner
			}
		}
	}
	o := whether(ok && len(stale) == 0 && len(twice) == 0,
		"%s cut off from %s: %s noticed it within %.3f s and removed the entries of the other side; containers moved across: %d; %.3f s after the cut was mended all had the %d entries that they should; otherwise: %s",
		strings.Join(off, ", "), strings.Join(others, ", "), strings.Join(noticing, ", "), noticed.Seconds(), moving, took.Seconds(), entries, orNone(slices.Concat(stale, odd, twice)))
	o.Reproduce = lines(steps)
	return o.value("sec", noticed.Seconds()).value("sec", took.Seconds()), nil
}

var _ = register(Spec{
	Suite: "routing",
	Feature: Feature{
		Name: "gossip-death", Group: "routing",
		Doc: "When a host's member dies without a word, do the others remove its entries and send it nothing more, and do the entries come back when it lives again?",
	},
	Name: "a host's member is killed, a container of another host asks one of that host, and the member is started again",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		if o := gossipless(b); o != nil {
			return *o, nil
		}
		from, dead := container(b), secondHost(b)
		others := slices.DeleteFunc(hostNames(b), func(h string) bool { return h == dead })
		for _, h := range others {
			if ok, err := knowing(ctx, b, true, h, dead); err != nil || !ok {
				return Observation{}, errors.Join(err, fmt.Errorf("%s does not hold %s for alive", h, dead))
			}
		}
		crashed := time.Now()
		if err := b.Do(ctx, dead, "Gossip.Crash", lab.Nothing{}, &lab.Nothing{}); err != nil {
			return Observation{}, err
		}
		revive := sync.OnceValue(func() error {
			return b.Do(context.WithoutCancel(ctx), dead, "Gossip.Revive", lab.Nothing{}, &lab.Nothing{})
		})
		b.atEnd(func(ctx context.Context) error {
			err := revive()
			for _, h := range others {
				if ok, lost := knowing(ctx, b, true, h, dead); !ok && err == nil {
					err = errors.Join(lost, fmt.Errorf("%s does not hold %s for alive again", h, dead))
				}
			}
			return err
		})
		for _, h := range others {
			if ok, err := knowing(ctx, b, false, h, dead); err != nil || !ok {
				return blocked("%s still holds %s for alive, %s after its end", h, dead, 2*patience), err
			}
		}
		var noticed time.Duration
		var stale []string
		for _, h := range others {
			at, err := gossiped(ctx, b, h, "dead", nil)
			if err != nil {
				return Observation{}, err
			}
			noticed = max(noticed, at.Sub(crashed))
			got, err := written(ctx, b, h)
			if err != nil {
				return Observation{}, err
			}
			for _, e := range got {
				if strings.HasSuffix(e, " at "+underlayOf(b, dead).String()) {
					stale = append(stale, h+" has "+e)
				}
			}
		}
		recorded, err := b.Record(ctx)
		if err != nil {
			return Observation{}, err
		}
		token := b.newToken()
		if _, err := b.Ask(ctx, from, lab.Ask{Proto: "udp", To: netip.AddrPortFrom(addrOf(b, far(b), IPv4), controlPort), Token: token, Wait: hopeful}); err != nil {
			return Observation{}, err
		}
		_, shouts, control, err := shouted(ctx, b, from, b.freePort()) // and what is for everybody
		if err != nil {
			return Observation{}, err
		}
		by := entering(b, from.Machine)
		onWire, err := recorded(ctx, func(p lab.Packet) bool { return p.VXLAN != nil && by(p) && p.Dst.Addr() == underlayOf(b, dead) })
		if err != nil {
			return Observation{}, err
		}
		for _, p := range append(onWire, shouts...) {
			stale = append(stale, "on the segment: "+p.Text)
		}
		began := time.Now()
		if err := revive(); err != nil {
			return Observation{}, err
		}
		ok, odd, entries, err := agreed(ctx, b, patience, hostNames(b)...)
		if err != nil {
			return Observation{}, err
		}
		took := time.Since(began)
		o := whether(ok && len(stale) == 0,
			"the member of %s was killed: after %.3f s the others held it for dead, removed its entries and sent it nothing; started again, all had the %d entries that they should after %.3f s; otherwise: %s",
			dead, noticed.Seconds(), entries, took.Seconds(), orNone(slices.Concat(stale, odd)))
		o.Evidence = []reports.Evidence{control}
		return o.value("sec", noticed.Seconds()).value("sec", took.Seconds()), nil
	},
	Sabotage: []Sabotage{
		{Mode: "vxlan-gossip", Doc: "the first host sends the second one what is for everybody", Steps: secondTold},
		{Mode: "vxlan-kv", Doc: "the first host sends the second one what is for everybody", Steps: secondTold},
	},
})

var _ = register(Spec{
	Suite: "routing",
	Feature: Feature{
		Name: "store-outage", Group: "routing",
		Doc: "While the store that tells hosts where containers are is gone, do containers go on reaching each other, and do all hosts hear of what changed meanwhile once it is back?",
	},
	Name: "the store is killed, a container asks one of another host, another one is attached there and one is detached, and the store is started again with what it held",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		if o := gossipless(b); o != nil {
			return *o, nil
		}
		_, at := programOf(b.plan, b.mode, store)
		if at == "" {
			return notApplicable("the mode's hosts tell each other where containers are, without a store"), nil
		}
		first, second := firstHost(b), secondHost(b)
		goes, err := another(b, second, network(b), 1)
		if err != nil {
			return Observation{}, err
		}
		comes, err := another(b, second, network(b), 2)
		if err != nil {
			return Observation{}, err
		}
		going, err := b.Attach(ctx, goes, second)
		if err != nil {
			return Observation{}, err
		}
		before, err := reaches(ctx, b)
		if err != nil {
			return Observation{}, err
		}
		back := sync.OnceValue(func() error {
			return b.Do(context.WithoutCancel(ctx), at, "Program.Start", store, &lab.Nothing{})
		})
		b.atEnd(func(ctx context.Context) error {
			if err := back(); err != nil {
				return err
			}
			_, _, _, err := agreed(ctx, b, 2*patience, hostNames(b)...)
			return err
		})
		if err := b.Do(ctx, at, "Program.Kill", store, &lab.Nothing{}); err != nil {
			return Observation{}, err
		}
		if err := b.Detach(ctx, going); err != nil {
			return Observation{}, err
		}
		coming, err := b.attach(ctx, comes, second) // nobody can be told of it now
		if err != nil {
			return Observation{}, err
		}
		b.atEnd(func(ctx context.Context) error { return b.Detach(ctx, coming) })
		gone, err := reaches(ctx, b)
		if err != nil {
			return Observation{}, err
		}
		late, unheard, _, err := agreed(ctx, b, hopeful, first)
		if err != nil {
			return Observation{}, err
		}
		if err := back(); err != nil {
			return Observation{}, err
		}
		began := time.Now()
		ok, odd, entries, err := agreed(ctx, b, 2*patience, hostNames(b)...)
		if err != nil {
			return Observation{}, err
		}
		took := time.Since(began)
		after, err := reaches(ctx, b)
		if err != nil {
			return Observation{}, err
		}
		o := whether(gone && ok, "%s reached %s before the store was killed: %t; while it was gone: %t; back: %t; %.3f s after it was back all hosts had the %d entries that they should; otherwise: %s",
			container(b), far(b), before, gone, after, took.Seconds(), entries, orNone(odd)).value("sec", took.Seconds())
		o = o.with(first, "while the store was gone, its entries were not as they should be: %s", orNone(unheard))
		if !before || !after || late {
			o.Status = "mixed"
		}
		return o, nil
	},
	Sabotage: []Sabotage{
		{Mode: "vxlan-kv", Doc: "hosts write of no container that comes later", Rewire: ofSpares(unspoken)},
		{Mode: "vxlan-kv", Doc: "the second host writes of what comes later as if the first one had it", Rewire: ofSpares(misplaced)},
	},
})

// misplaced has the second host tell of containers as if the first one had them.
func misplaced(steps []topology.Step) []topology.Step { return misplacedOn("h2")(steps) }

// misplacedOn has hosts tell of containers as if the one before each had them.
func misplacedOn(hosts ...string) func([]topology.Step) []topology.Step {
	return func(steps []topology.Step) []topology.Step {
		steps = slices.Clone(steps)
		for i, s := range steps {
			if s.Endpoint != nil && slices.Contains(hosts, s.On) {
				e := *s.Endpoint
				e.VTEP = e.VTEP.Prev()
				steps[i].Endpoint = &e
			}
		}
		return steps
	}
}

// secondTold has the first host send the second one what is for everybody.
func secondTold(p *topology.Plan) []topology.Step {
	return []topology.Step{{On: p.Hosts()[0].Name, Neigh: &topology.Neigh{
		Link: "vx-blue", MAC: make(net.HardwareAddr, 6), IP: p.Hosts()[1].NIC(p.Networks[0].NIC).V4.Addr(), FDB: true,
	}}}
}
