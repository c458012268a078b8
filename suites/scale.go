package suites

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/modebench/modebench/modes"
	"github.com/modebench/modebench/reports"
	"github.com/modebench/modebench/topology"
	"github.com/modebench/modebench/topology/lab"
)

const scale = "scale"

// thousand is how many containers of one network a host is to carry: one more than a bridge has room for (BR_PORT_BITS of
// net/bridge/br_private.h numbers ports with ten bits, and not by 0).
const thousand = 1024

// marks are the numbers of containers at which growth is measured, besides the last.
var marks = []int{64, 128, 256, heard}

// heard is up to how many containers are asked whether they work. What one of a thousand asks of all others, as ARP does, is so many packets that
// a processor's queue has no room for (netdev_max_backlog, 1,000 for all namespaces of a kernel): the answer, or the question's way to a
// veth pair that stands for a cable, is dropped with the rest.
const heard = 512

// handful is how many containers are attached by one call.
const handful = 32

// roomy is a topology of one host and two machines outside, with room for so many containers that no block is what ends them.
func roomy() topology.Topology {
	segment := func(v4, v6 string) topology.Segment {
		return topology.Segment{V4: netip.MustParsePrefix(v4), V6: netip.MustParsePrefix(v6)}
	}
	network := func(nic, v4, v6 string) topology.Network {
		return topology.Network{NIC: nic, V4: netip.MustParsePrefix(v4), V6: netip.MustParsePrefix(v6)}
	}
	return topology.Topology{
		Name:     "roomy",
		Segments: map[string]topology.Segment{"rack": segment("198.18.0.0/17", "2001:db8:18::/64"), "annex": segment("198.18.128.0/17", "2001:db8:19::/64")},
		Tors:     map[string]topology.Tor{"tor": {Joins: []string{"rack", "annex"}}},
		Hosts: map[string]topology.Host{"h1": {
			NICs: map[string]topology.NIC{"eth0": {Segment: "rack"}, "eth1": {Segment: "annex"}}, Containers: map[string]int{"blue": 1},
		}},
		External: map[string]topology.External{"x": {NICs: map[string]topology.NIC{"eth0": {Segment: "rack"}}}},
		Networks: map[string]topology.Network{"blue": network("eth0", "172.17.0.0/16", "fd17::/64"), "green": network("eth1", "172.18.0.0/16", "fd18::/64")},
	}
}

// numbers tells whether a step gives a container an address, a route or a neighbour of a family.
func numbers(s topology.Step, f Family) bool {
	var a netip.Addr
	switch {
	case s.Addr != nil:
		a = s.Addr.Prefix.Addr()
	case s.Route != nil:
		a = s.Route.Dst.Addr()
	case s.Neigh != nil:
		a = s.Neigh.IP
	}
	return s.In != "" && a.IsValid() && familyOf(a) == f
}

// quietly has containers numbered by IPv4 alone, without a word of IPv6: what a thousand tell each other of theirs, each to all, is a
// million packets that say nothing of how many there may be.
func quietly(steps []topology.Step) (out []topology.Step) {
	for _, s := range steps {
		if numbers(s, IPv6) {
			continue
		}
		out = append(out, s)
		if s.Space != nil && s.Space.Share == "" {
			for _, of := range []string{"all", "default"} {
				out = append(out, topology.Step{On: s.On, In: s.Space.Name, Sysctl: &topology.Sysctl{Key: "net/ipv6/conf/" + of + "/disable_ipv6", Value: "1"}})
			}
		}
	}
	return out
}

// attachAll attaches containers by one call: all of them or none.
func (b *Bench) attachAll(ctx context.Context, cs []topology.Container, host string) error {
	owner := "attach " + (Place{host, cs[0].Name}).String() + " and others"
	var all []topology.Step
	for _, c := range cs {
		if b.mode.Admit != nil {
			if err := b.mode.Admit(b.plan, b.plan.Machine(host), c); err != nil {
				return err
			}
		}
		all = append(all, attaching(b, c, host)...)
	}
	if err := b.lab.Apply(ctx, owner, all); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range cs {
		b.attached[Place{host, c.Name}.String()] = attachment{c, owner}
	}
	return nil
}

// available is how many bytes of memory the kernel could still give (MemAvailable of proc_meminfo(5)); 0: it does not tell.
func available() float64 { return meminfo("MemAvailable") }

// kernelMemory is how many bytes the kernel has for its own objects that it cannot take back (SUnreclaim and Percpu); 0: it does not tell.
func kernelMemory() float64 { return meminfo("SUnreclaim") + meminfo("Percpu") }

// meminfo is a number of proc_meminfo(5), in bytes.
func meminfo(of string) float64 {
	text, _ := os.ReadFile("/proc/meminfo")
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, of+":"); ok {
			kB, _ := strconv.ParseFloat(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 64)
			return 1024 * kB
		}
	}
	return 0
}

// growth is a host that more and more containers are attached to.
type growth struct {
	*Bench
	host   string
	n      int           // containers of the first network
	took   time.Duration // to attach them
	began  float64       // memory that was available before, in bytes
	reason error         // why there cannot be more; nil: none was refused
	values []reports.Value
}

// grow starts a lab of one host with one container, to which more are attached. It is to be closed.
func grow(ctx context.Context, b *Bench) (*growth, error) {
	p, err := b.mode.Plan(roomy())
	if err != nil {
		return nil, err
	}
	o, err := startBench(ctx, &Bench{driver: b.driver, plan: p, mode: b.mode, quiet: true, rewire: func(steps []topology.Step) []topology.Step {
		if steps = quietly(steps); b.rewire != nil {
			steps = b.rewire(steps)
		}
		return steps
	}})
	if err != nil {
		return nil, err
	}
	g := &growth{Bench: o, host: firstHost(o), began: available()}
	g.n = len(o.Containers(g.host, network(o)))
	return g, nil
}

// until attaches containers until there are as many as wanted or one is refused, and measures.
func (g *growth) until(ctx context.Context, mark int) error {
	for g.n < mark && g.reason == nil {
		var cs []topology.Container
		for number := g.n + 1; number <= min(g.n+handful, mark); number++ {
			c, err := g.plan.Container(g.host, network(g.Bench), number)
			if err != nil {
				return err
			}
			cs = append(cs, c)
		}
		start := time.Now()
		err := g.attachAll(ctx, cs, g.host)
		g.took += time.Since(start)
		switch {
		case err == nil:
			g.n += len(cs)
			continue
		case ctx.Err() != nil:
			return context.Cause(ctx)
		}
		for _, c := range cs { // one of them is refused: those before it are not
			if _, g.reason = g.attach(ctx, c, g.host); g.reason != nil {
				return nil
			}
			g.n++
		}
		return fmt.Errorf("%d containers cannot be attached by one call, but one by one they can: %w", len(cs), err)
	}
	g.value("attach-sec", g.took.Seconds())
	if now := available(); now > 0 && g.began > now {
		g.value("mem-bytes", g.began-now)
	}
	if g.mode.Addrs == nil || g.n > heard {
		return nil
	}
	rtt, err := latecomer(ctx, g.Bench, g.host)
	if rtt > 0 {
		g.value("rtt-sec", rtt.Seconds())
	}
	return err
}

func (g *growth) value(unit string, v float64) {
	g.values = append(g.values, reports.Value{Unit: unit, Value: v, Count: g.n})
}

// echoes are how many round trips a median is of.
const echoes = 9

// latecomer is the median round trip from the container that was attached last to an external machine; 0: it has none.
func latecomer(ctx context.Context, b *Bench, host string) (time.Duration, error) {
	places := b.Containers(host, network(b))
	p := places[len(places)-1]
	if a, err := persists(ctx, b, p); err != nil || !a {
		return 0, err
	}
	var rtts []time.Duration
	for range echoes {
		a, err := b.Ask(ctx, p, lab.Ask{Proto: "udp", To: netip.AddrPortFrom(addrOf(b, external(b), IPv4), controlPort), Wait: time.Second})
		if err != nil {
			return 0, err
		}
		if a.Answered {
			rtts = append(rtts, a.RTT)
		}
	}
	if len(rtts) == 0 {
		return 0, nil
	}
	slices.Sort(rtts)
	return rtts[len(rtts)/2], nil
}

// persists asks an external machine, or without an address itself, from a container until it is answered: a crowd that has just come is
// busy with itself.
func persists(ctx context.Context, b *Bench, p Place) (bool, error) {
	q := lab.Ask{Proto: "icmp", To: netip.MustParseAddrPort("127.0.0.1:0"), Wait: retry / 2}
	if b.mode.Addrs != nil {
		q = lab.Ask{Proto: "udp", To: netip.AddrPortFrom(addrOf(b, external(b), IPv4), controlPort), Wait: retry / 2}
	}
	return eventually(ctx, crowded, func() (bool, error) {
		a, err := b.Ask(ctx, p, q)
		return a.Answered, err
	})
}

// every is of how many containers one is asked, and the last: the table of neighbours is one for all namespaces of a kernel, and has no room
// for a thousand that all were heard of in the last seconds (gc_thresh3 of arp(7)).
const every = 8

// silentOnes asks from some containers of a host, and tells which were not answered.
func silentOnes(ctx context.Context, b *Bench, host string) (asked int, mute []string, err error) {
	var mu sync.Mutex
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(handful)
	places := b.Containers(host, network(b))
	for i, p := range places {
		if i%every != 0 && i != len(places)-1 {
			continue
		}
		asked++
		g.Go(func() error {
			ok, err := persists(ctx, b, p)
			if !ok {
				mu.Lock()
				defer mu.Unlock()
				mute = append(mute, p.String())
			}
			return err
		})
	}
	err = g.Wait()
	slices.Sort(mute)
	return asked, mute, err
}

var _ = register(Spec{
	Suite:   scale,
	Feature: Feature{Name: "containers-1024", Group: "limits", Doc: "Does a host take 1,024 containers of one network, and do those work that are asked?"},
	Name:    "in a lab of one host, containers are attached until there are 1,024 or one is refused; when there are 512, or at the end, every eighth and the last ask an external machine",
	Within:  4 * specTimeout,
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		if b.mode.Limit > 0 {
			return notApplicable("the mode attaches no more than %d containers of a network to a host", b.mode.Limit), nil
		}
		g, err := grow(ctx, b)
		if err != nil {
			return Observation{}, err
		}
		o := g.Bench
		defer func() { _ = o.Close() }()
		for _, mark := range marks {
			if err := g.until(ctx, mark); err != nil {
				return Observation{}, err
			}
			if mark == heard || g.reason != nil {
				break
			}
		}
		crowd := g.n
		asked, mute, err := silentOnes(ctx, o, g.host)
		if err != nil {
			return Observation{}, err
		}
		if g.reason == nil {
			if err := g.until(ctx, thousand); err != nil {
				return Observation{}, err
			}
		}
		result := works("%d containers were attached to %s; when there were %d, %d of them asked, and each was answered", g.n, g.host, crowd, asked)
		switch {
		case len(mute) > 0:
			result.Status = "mixed"
			result.Detail = fmt.Sprintf("%d containers were attached to %s; when there were %d, %d of them asked, and %d were not answered, such as %s", g.n, g.host, crowd, asked, len(mute), strings.Join(mute[:min(3, len(mute))], ", "))
		case g.reason != nil:
			result = Observation{Status: "mixed"}
			if exhausted(g.reason) {
				result.Status = reports.Blocked
			}
			result.Detail = fmt.Sprintf("%d containers were attached to %s; when there were %d, %d of them asked, and each was answered; one more is refused: %v", g.n, g.host, crowd, asked, innermost(g.reason))
			result = result.with(g.host, "%v", g.reason)
		}
		result.Values = append([]reports.Value{{Unit: "containers", Value: float64(g.n)}}, g.values...)
		return result, nil
	},
	Sabotage: []Sabotage{
		{Mode: "macvlan-bridge", Doc: "the device of one of them is down", Rewire: unlike(505, lifeless)},
		{Mode: "bridge", Doc: "the device of one of them is down", Rewire: unlike(505, lifeless)},
		{Mode: "ptp", Doc: "the two hundredth has another's name", Rewire: unlike(200, func(steps []topology.Step) []topology.Step {
			steps = slices.Clone(steps)
			for i, s := range steps {
				if s.Link != nil && s.Link.Kind == "veth" {
					l := *s.Link
					l.Name = "veth-c1"
					steps[i].Link = &l
				}
			}
			return steps
		})},
	},
})

// thousands is how many devices of a mode's kind a host's interface is to carry.
const thousands = 4000

// stackable are the steps that make a container's device on a host's interface, without its MAC address, and that bring it up. There are none where it is of another
// kind.
func stackable(b *Bench, host string, c topology.Container) (link topology.Step, up []topology.Step) {
	m, _ := modes.Find(b.mode.Name) // its own wiring: what the interface carries is not for who carries the mode out
	steps := m.Attach(b.plan, b.plan.Machine(host), c)
	if b.rewire != nil {
		steps = b.rewire(steps)
	}
	for _, s := range steps {
		switch {
		case s.Link != nil && s.In == c.Name && slices.Contains([]string{"macvlan", "ipvlan"}, s.Link.Kind):
			l := *s.Link
			l.MAC = nil
			link, link.Link = s, &l
		case s.Set != nil && link.Link != nil && s.Set.Name == link.Link.Name && s.Set.State == "up":
			up = []topology.Step{s}
		}
	}
	return link, up
}

var _ = register(Spec{
	Suite:   scale,
	Feature: Feature{Name: "devices-4000", Group: "limits", Doc: "Does a host's interface carry 4,000 devices of the mode's kind?"},
	Name:    "in a lab of one host, 4,000 devices as the mode gives to a container are made on its interface, up and with an address each, in one namespace; then their MAC addresses are compared, and the interface's promiscuity is read",
	Within:  4 * specTimeout,
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		host := firstHost(b)
		if link, _ := stackable(b, host, b.plan.Machine(host).Containers[0]); link.Link == nil || b.mode.Limit > 0 {
			return notApplicable("the mode makes no devices on the host's interface, or one alone"), nil
		}
		g, err := grow(ctx, b)
		if err != nil {
			return Observation{}, err
		}
		o := g.Bench
		defer func() { _ = o.Close() }()
		c, err := o.plan.Container(g.host, network(o), g.n+1)
		if err != nil {
			return Observation{}, err
		}
		link, up := stackable(o, g.host, c)
		steps := quietly([]topology.Step{{On: g.host, Space: &topology.Space{Name: c.Name}}})
		began, kind, parent := time.Now(), link.Link.Kind, link.Link.Parent
		for n, a := 0, netip.MustParseAddr("10.0.0.1"); n < thousands; n, a = n+1, a.Next() {
			l := *link.Link
			l.Name = fmt.Sprintf("d%d", n+1)
			link.Link = &l
			steps = append(steps, link)
			for _, s := range up {
				set := *s.Set
				set.Name, s.Set = l.Name, &set
				steps = append(steps, s)
			}
			steps = append(steps, topology.Step{On: g.host, In: c.Name, Addr: &topology.Addr{Link: l.Name, Prefix: netip.PrefixFrom(a, a.BitLen())}})
			if (n+1)%heard > 0 && n+1 < thousands {
				continue
			}
			if err := o.lab.Apply(ctx, "devices", steps); err != nil {
				if ctx.Err() != nil {
					return Observation{}, context.Cause(ctx)
				}
				return Observation{Status: "mixed", Detail: fmt.Sprintf("after %d devices of kind %s or more on %s of %s: %v", n/heard*heard, kind, parent, g.host, err)}, nil
			}
			steps = nil
		}
		took := time.Since(began)
		s, err := o.devices(ctx, g.host)
		if err != nil {
			return Observation{}, err
		}
		on, err := linkIn(s, Place{Machine: g.host}, parent)
		if err != nil {
			return Observation{}, err
		}
		there, own := 0, map[string]int{} // devices that are up, and by their MAC addresses
		for _, l := range s.Spaces[c.Name].Links {
			if l.Kind == kind && l.Up {
				there++
				own[l.MAC.String()]++
			}
		}
		shared := own[on.MAC.String()]
		right := there == thousands && len(own) == thousands && shared == 0
		if kind == "ipvlan" {
			right = shared == thousands && on.Promiscuity == 0
		}
		seen := works("%d devices of kind %s were up on %s of %s after %.1f s, and had %d MAC addresses, %d of them the interface's; it is promiscuous for %d", there, kind, parent, g.host, took.Seconds(), len(own), shared, on.Promiscuity)
		if !right {
			seen.Status = "mixed"
		}
		return seen.value("devices", float64(there)).value("add-sec", took.Seconds()/thousands), nil
	},
	Sabotage: []Sabotage{
		{Mode: "macvlan-bridge", Doc: "none of the devices is brought up", Rewire: unlike(2, lifeless)},
	},
})

// filtering is a fabric of NICs that filter as many addresses as good ones do, and overflowing one of NICs that let everything in once that is not enough.
var (
	filtering   = topology.Fabric{Kind: "nic", Filters: heard}
	overflowing = topology.Fabric{Kind: "nic", Filters: heard, Overflow: "promisc"}
)

// stages are how many containers a host has, one after another, whose NIC filters.
var stages = []int{heard - 1, heard, heard + 1, heard}

// brimming is the stage with one container more than the NIC has filters.
const brimming = 2

// staged is what is asked where containers come to be one more than a NIC filters addresses. It is not applicable where they do not.
func staged(run func(context.Context, *growth) (Observation, error)) func(context.Context, *Bench) (Observation, error) {
	return func(ctx context.Context, b *Bench) (Observation, error) {
		switch {
		case b.mode.Limit > 0:
			return notApplicable("the mode attaches no more than %d containers of a network to a host", b.mode.Limit), nil
		case b.mode.Addrs == nil:
			return notApplicable("the mode gives a container no address: there is no traffic"), nil
		}
		g, err := grow(ctx, b)
		if err != nil {
			return Observation{}, err
		}
		defer func() { _ = g.Close() }()
		o, err := run(ctx, g)
		if err == nil && g.reason != nil {
			return notApplicable("a host has no more than %d containers of a network: %s", g.n, innermost(g.reason)), nil
		}
		return o, err
	}
}

// stage attaches containers until there are so many, or detaches one, and has the newest and the host ask an external machine. The host has to
// be answered; a reason why there cannot be so many is no error.
func (g *growth) stage(ctx context.Context, n int) (answered bool, said string, err error) {
	if n < g.n {
		if err := g.Detach(ctx, g.Containers(g.host, network(g.Bench))[1]); err != nil {
			return false, "", err
		}
		g.n--
	}
	if err := g.until(ctx, n); err != nil || g.reason != nil {
		return false, "", err
	}
	places := g.Containers(g.host, network(g.Bench))
	newest := places[len(places)-1]
	if answered, err = hearsBack(ctx, g.Bench, newest); err != nil {
		return false, "", err
	}
	said = fmt.Sprintf("with %d containers %s was answered: %t", len(places), newest, answered)
	host, err := hearsBack(ctx, g.Bench, Place{Machine: g.host})
	if err == nil && !host {
		err = fmt.Errorf("%s itself is not answered: %s", g.host, said)
	}
	return answered, said, err
}

// counted is what a rule of a machine's own namespace has counted.
func (b *Bench) counted(ctx context.Context, machine, comment string) (packets uint64, err error) {
	s, err := b.own(ctx, machine)
	for _, r := range s.Rules {
		if r.Comment == comment {
			packets += r.Packets
		}
	}
	return packets, err
}

var _ = register(Spec{
	Suite: scale, On: &filtering, Within: 4 * specTimeout, Needs: []modes.Kernel{modes.NFBridge},
	Feature: Feature{Name: "containers-nic-512", Group: "limits", Doc: "Does the 513th container of a host whose NIC filters 512 addresses reach an external machine?"},
	Name:    "in a lab of one host, whose NIC filters 512 addresses, 511 containers are attached, two more one by one, and one is detached; each time the newest and the host ask an external machine",
	Run: staged(func(ctx context.Context, g *growth) (Observation, error) {
		var said []string
		var lost []bool
		var dropped uint64
		for i, n := range stages {
			ok, words, err := g.stage(ctx, n)
			if err != nil || g.reason != nil {
				return Observation{}, err
			}
			said, lost = append(said, words), append(lost, !ok)
			if port := uplinkPort(g.Bench); i == brimming {
				if dropped, err = g.counted(ctx, port.Machine, "no filter "+port.Interface); err != nil {
					return Observation{}, err
				}
			}
		}
		o := whether(!lost[brimming], "%s, and so was the host each time; they took %.1f s to attach; the NIC dropped %d frames for lack of a filter", strings.Join(said, "; "), g.took.Seconds(), dropped)
		if lost[0] || lost[1] || lost[brimming+1] || lost[brimming] != (dropped > 0) {
			o.Status = "mixed"
		}
		return o.value("attach-all-sec", g.took.Seconds()), nil
	}),
	Sabotage: []Sabotage{
		{Mode: "macvlan-bridge", Doc: "the host's interface is promiscuous", Rewire: unlike(heard+1, func(steps []topology.Step) []topology.Step {
			return append(slices.Clone(steps), topology.Step{On: steps[0].On, Set: &topology.LinkSet{Name: "eth0", Promisc: "on"}})
		})},
		{Mode: "ptp", Doc: "the last has no default route", Rewire: unlike(heard+1, func(steps []topology.Step) []topology.Step {
			return slices.DeleteFunc(slices.Clone(steps), func(s topology.Step) bool { return s.In != "" && s.Route != nil && s.Route.Dst.Bits() == 0 })
		})},
	},
})

// strangers are the frames for nobody that a host is sent.
const strangers = 32

// forNobody is the comment of the rule that counts those that come in at the host's interface.
const forNobody = "for nobody"

// stranger is the rule, before whatever the interface's devices make of a frame.
func stranger(host, device string) topology.Step {
	return topology.Step{On: host, Table: &topology.Table{Family: "netdev", Name: "strangers", Chains: []topology.Chain{{
		Name: "in", Type: "filter", Hook: "ingress", Device: device,
		Rules: []topology.Rule{{Match: []topology.Match{{Field: "ether daddr", Value: nobody.String()}}, Verdict: topology.Verdict{Kind: "accept"}, Comment: forNobody}},
	}}}}
}

// letInOf has an external machine send frames for nobody, which the switch sends to all its ports, and then ask the host, which must answer; and
// tells how many of those came in there.
func letInOf(ctx context.Context, g *growth) (uint64, error) {
	before, err := g.counted(ctx, g.host, forNobody)
	if err != nil {
		return 0, err
	}
	x := external(g.Bench)
	for range strangers {
		if err := g.Send(ctx, x, g.face(x.Machine).Name, lab.Packet{
			EthDst: nobody, Proto: "udp", Token: g.newToken(),
			Src: netip.MustParseAddrPort("192.0.2.1:9"), Dst: netip.MustParseAddrPort("192.0.2.2:9"), // RFC 5737, and discard
		}); err != nil {
			return 0, err
		}
	}
	host := netip.AddrPortFrom(addrOf(g.Bench, Place{Machine: g.host}, IPv4), controlPort)
	if ok, err := eventually(ctx, patience, func() (bool, error) {
		a, err := g.Ask(ctx, x, lab.Ask{Proto: "udp", To: host, Wait: slow})
		return a.Answered, err
	}); err != nil || !ok {
		return 0, errors.Join(err, fmt.Errorf("control: %s does not reach %s: nothing can be concluded of frames for nobody", x, g.host))
	}
	after, err := g.counted(ctx, g.host, forNobody)
	return after - before, err
}

var _ = register(Spec{
	Suite: scale, On: &overflowing, Within: 4 * specTimeout, Needs: []modes.Kernel{modes.NFBridge, modes.NFNetdev},
	Feature: Feature{
		Name: "containers-nic-512-promisc", Group: "limits",
		Doc: "Is a host whose NIC filters 512 addresses, and lets everything in once it is given more, still spared frames for other stations when it has 513 containers?",
	},
	Name: "in a lab of one host, whose NIC filters 512 addresses or lets everything in, 511 containers are attached, two more one by one, and one is detached; each time the newest asks an external machine, which sends 32 frames for nobody; with 513, every eighth asks",
	Run: staged(func(ctx context.Context, g *growth) (Observation, error) {
		port := uplinkPort(g.Bench)
		nic := cable(g.plan.Machine(g.host), uplink(g.Bench))
		if err := g.Apply(ctx, stranger(g.host, nic.Name)); err != nil {
			return Observation{}, err
		}
		var said, wrong []string
		var in []uint64
		o := Observation{Status: reports.Works}
		for i, n := range stages {
			ok, words, err := g.stage(ctx, n)
			if err != nil || g.reason != nil {
				return Observation{}, err
			}
			if !ok {
				wrong = append(wrong, words)
			}
			all, err := g.counted(ctx, port.Machine, "accept all "+port.Interface)
			if err != nil {
				return Observation{}, err
			}
			came, err := letInOf(ctx, g)
			if err != nil {
				return Observation{}, err
			}
			in = append(in, came)
			said = append(said, fmt.Sprintf("with %d containers, the newest of which was answered, %d of %d frames for nobody", n, came, strangers))
			o = o.with(port.Machine, "%q has counted %d packets, with %d containers", "accept all "+port.Interface, all, n)
			o.Values = append(o.Values, reports.Value{Unit: "count", Value: float64(came), Count: n})
			if i != brimming {
				if came > 0 {
					wrong = append(wrong, fmt.Sprintf("with %d containers %d frames for nobody came in", n, came))
				}
				continue
			}
			if (came > 0) != (all > 0) {
				wrong = append(wrong, fmt.Sprintf("with %d containers %d frames for nobody came in, and the NIC let %d frames in without a filter", n, came, all))
			}
			asked, mute, err := silentOnes(ctx, g.Bench, g.host)
			if err != nil {
				return Observation{}, err
			}
			if len(mute) > 0 {
				wrong = append(wrong, fmt.Sprintf("with %d containers, %d of %d that asked were not answered, such as %s", n, len(mute), asked, mute[0]))
			}
			rtt, err := latecomer(ctx, g.Bench, g.host)
			if err != nil {
				return Observation{}, err
			}
			g.value("rtt-sec", rtt.Seconds())
		}
		if in[brimming] > 0 {
			o.Status = reports.Blocked
		}
		o.Detail = fmt.Sprintf("%s came in at %s of %s", strings.Join(said, ", "), nic.Name, g.host)
		if len(wrong) > 0 {
			o.Status, o.Detail = "mixed", strings.Join(wrong, "; ")
		}
		for _, v := range g.values {
			if v.Unit == "rtt-sec" {
				o.Values = append(o.Values, v)
			}
		}
		return o, nil
	}),
	Sabotage: []Sabotage{
		{Mode: "macvlan-bridge", Doc: "the device of the 513th is down", Rewire: unlike(heard+1, lifeless)},
		{Mode: "bridge", Doc: "the host's interface is promiscuous", Rewire: unlike(heard+1, func(steps []topology.Step) []topology.Step {
			return append(slices.Clone(steps), topology.Step{On: steps[0].On, Set: &topology.LinkSet{Name: "eth0", Promisc: "on"}})
		})},
	},
})

// unlike changes the steps of the container with a number.
func unlike(number int, change func([]topology.Step) []topology.Step) func([]topology.Step) []topology.Step {
	return func(steps []topology.Step) []topology.Step {
		if steps[0].Space == nil || steps[0].Space.Name != fmt.Sprintf("c%d", number) {
			return steps
		}
		return change(steps)
	}
}

// exhausted tells whether a container was refused since something has come to its end: numbers of a plan, or of the kernel.
func exhausted(err error) bool {
	text := innermost(err)
	return !refused(err) || text == unix.EXFULL.Error() || text == unix.ENOSPC.Error()
}

// innermost is the cause at the end of a chain of places.
func innermost(err error) string {
	for u := errors.Unwrap(err); u != nil; u = errors.Unwrap(u) {
		err = u
	}
	text := err.Error()
	if i := strings.LastIndex(text, ": "); i >= 0 {
		return text[i+2:]
	}
	return text
}
