package suites

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/modebench/modebench/modes"
	"github.com/modebench/modebench/reports"
	"github.com/modebench/modebench/topology"
	"github.com/modebench/modebench/topology/lab"
)

// everybody is the limited broadcast address (RFC 919 section 7).
var everybody = netip.AddrFrom4([4]byte{255, 255, 255, 255})

// groupAddr is a group that nobody joins but specs: of local scope (RFC 2365 section 6.1), of site-local scope (RFC 4291
// section 2.7).
func groupAddr(f Family, number byte) netip.Addr {
	if f == IPv4 {
		return netip.AddrFrom4([4]byte{239, 1, 1, number})
	}
	return netip.AddrFrom16([16]byte{0: 0xff, 1: 0x15, 15: number})
}

// ownDevice is the device that a place sends and joins by; empty where it has none beyond the loopback.
func ownDevice(b *Bench, p Place) string {
	if p.Container == "" {
		return b.face(p.Machine).Name
	}
	return b.mode.DeviceOf(b.plan, b.plan.Machine(p.Machine), attachedAt(b, p))
}

// exitDevice is the interface by which a container asks what is outside of its network.
func exitDevice(b *Bench, p Place) string {
	if p.Container != "" && b.mode.Exit != "" {
		return b.mode.Exit
	}
	return ownDevice(b, p)
}

// exitAddr is the container's address there, which translation begins with: where an engine chose it, the one that it has now.
func exitAddr(ctx context.Context, b *Bench, p Place, f Family) (netip.Addr, error) {
	switch {
	case p.Container == "" || b.mode.Exit == "":
		return addrOf(b, p, f), nil
	case b.mode.Carrier() == modes.ByDocker:
		s, err := b.State(ctx, p.Machine)
		if err != nil {
			return netip.Addr{}, err
		}
		_, has := holds(s.Spaces[p.Container], b.mode.Exit)
		if i := slices.IndexFunc(has, func(a netip.Addr) bool { return familyOf(a) == f }); i >= 0 {
			return has[i], nil
		}
		return netip.Addr{}, fmt.Errorf("%s has no address of %s at %s", p, f, b.mode.Exit)
	case f == IPv4:
		return attachedAt(b, p).Private4.Addr(), nil
	}
	return attachedAt(b, p).Private6.Addr(), nil
}

// hops lets a packet to a group pass routers, if any would forward it.
const hops = 8

// cast sends a datagram to a group or to everybody, and observes whether a place receives it. Where it does not, that
// says something only if each witness does.
func cast(ctx context.Context, b *Bench, from, to Place, dst netip.Addr, witnesses ...Place) (Observation, error) {
	f := familyOf(dst)
	port := b.freePort()
	listeners := map[Place]lab.Listening{}
	for _, p := range append([]Place{to}, witnesses...) {
		l := lab.Listen{Proto: "udp", Addr: netip.AddrPortFrom(unspecified(f), port), Device: ownDevice(b, p), Silent: true}
		if dst.IsMulticast() {
			l.Group = dst
		}
		var err error
		if listeners[p], err = b.Listen(ctx, p, l); err != nil {
			return Observation{}, err
		}
	}
	recorded, err := b.Record(ctx)
	if err != nil {
		return Observation{}, err
	}
	t := trip{from: from, to: to, target: netip.AddrPortFrom(dst, port), tokens: map[string]string{"udp": b.newToken()}, answers: map[string]lab.Answer{}}
	token := t.tokens["udp"]
	var got lab.Seen
	heard := func(p Place) func() (bool, error) {
		return func() (bool, error) {
			if listeners[p].Refusal.Errno != "" {
				return false, nil
			}
			var all []lab.Seen
			err := b.Do(ctx, p.Machine, "Probe.Seen", listeners[p].Handle, &all)
			at := slices.IndexFunc(all, func(s lab.Seen) bool { return s.Token == token })
			if at >= 0 {
				got = all[at]
			}
			return at >= 0, err
		}
	}
	a := lab.Ask{Proto: "udp", To: t.target, Token: token, Device: ownDevice(b, from), Wait: patience, Broadcast: dst == everybody}
	if dst.IsMulticast() {
		a.TTL = hops
	}
	asked := make(chan error, 1)
	var answer lab.Answer
	go func() {
		var err error
		answer, err = b.Ask(ctx, from, a)
		asked <- err
	}()
	var failed error
	over, received := false, false
	look := func() error {
		t.packets, err = recorded(ctx, func(p lab.Packet) bool { return p.Token == token })
		return err
	}
	// Until it is received, refused, or seen on its way.
	if _, err := eventually(ctx, patience, func() (bool, error) {
		select {
		case failed = <-asked:
			over = true
			return true, failed
		default:
		}
		if received, err = heard(to)(); received || err != nil {
			return received, err
		}
		err := look()
		return len(t.packets) > 0, err
	}); err != nil {
		return Observation{}, err
	}
	if !received && !over {
		if received, err = eventually(ctx, grace, heard(to)); err != nil {
			return Observation{}, err
		}
	}
	if !received {
		for _, w := range witnesses {
			ok, err := eventually(ctx, patience, heard(w))
			if err == nil && !ok {
				err = fmt.Errorf("%s sent to %s, and not even %s received it: nothing can be concluded from silence", from, dst, w)
			}
			if err != nil {
				return Observation{}, err
			}
			t.control = append(t.control, reports.Evidence{At: w.String(), Saw: fmt.Sprintf("received it by %s from %s", got.Device, got.Source)})
		}
		alive, took, err := working(ctx, b, from, to, f)
		if err != nil {
			return Observation{}, err
		}
		t.control = append(t.control, alive...)
		came := func(p lab.Packet) bool { return p.Machine == to.Machine && !p.Outgoing }
		wait := 5*took + grace
		if err := look(); err != nil {
			return Observation{}, err
		}
		if slices.ContainsFunc(t.packets, came) {
			wait = max(wait, slow)
			if queued, err := queues(ctx, b, to); err != nil {
				return Observation{}, err
			} else if queued {
				wait = retry // a worker of the kernel may have it still, and what controls ask overtakes it
			}
		}
		if received, err = eventually(ctx, wait, heard(to)); err != nil {
			return Observation{}, err
		}
		if err := look(); err != nil {
			return Observation{}, err
		}
		if !received && slices.ContainsFunc(t.packets, func(p lab.Packet) bool { return came(p) && p.In == to.Container }) {
			// It came as far as the receiver's device: the program may be slow.
			if received, err = eventually(ctx, retry, heard(to)); err != nil {
				return Observation{}, err
			}
		}
	}
	if !over {
		if err := b.Do(ctx, from.Machine, "Probe.Enough", token, &lab.Nothing{}); err != nil {
			return Observation{}, err
		}
		if err := <-asked; err != nil {
			return Observation{}, err
		}
	}
	t.answers["udp"] = answer
	if err := look(); err != nil {
		return Observation{}, err
	}
	t.packets = slices.DeleteFunc(t.packets, func(p lab.Packet) bool { return !between(b, p, from, to) })
	if received {
		o := works("%s sent to %s: %s received it by %s from %s", from, dst, to, got.Device, got.Source)
		for _, p := range t.delivered() {
			o.Evidence = append(o.Evidence, seen(p))
		}
		return o, nil
	}
	why := ""
	if r := listeners[to].Refusal; r.Errno != "" {
		why = fmt.Sprintf(" (its join was refused with %s)", r.Errno)
	}
	o := blocked("%s sent to %s: %s did not receive it%s; %s", from, dst, to, why, t.lost())
	o.Evidence = append(t.sightings(), t.control...)
	return o, nil
}

// queues tells whether what comes to a place for a group waits for a worker of the kernel, as it does for macvlan and ipvlan
// devices (macvlan_broadcast_enqueue, ipvlan_multicast_enqueue): on a busy machine for long. An ipvlan device of another mode than l2 gets none.
func queues(ctx context.Context, b *Bench, p Place) (bool, error) {
	device := ownDevice(b, p)
	if p.Container == "" || device == "" {
		return false, nil
	}
	l, err := linkOf(ctx, b, p, device)
	return l.Kind == "macvlan" || l.Kind == "ipvlan" && l.Mode == "l2", err
}

// byThen is how long a place may take to act on what was sent to all. A control does not shorten that where a worker of the kernel may have it still: what the control asks
// overtakes it.
func byThen(ctx context.Context, b *Bench, p Place) (time.Duration, error) {
	queued, err := queues(ctx, b, p)
	if queued {
		return patience, err
	}
	return slow, err
}

// working shows by controls that a sender's way out and a receiver's way in are alive: a machine's from another external
// one, a container's as where it is asked. Where nothing leads in or out, there is its own stack. took is the longest time
// that one needed.
func working(ctx context.Context, b *Bench, from, to Place, f Family) (got []reports.Evidence, took time.Duration, err error) {
	in := leg{to: to, addr: netip.AddrPortFrom(addrOf(b, to, f), controlPort), proto: "icmp"}
	ways := [][][]leg{outward(b, from, to, f), inward(b, from, in)}
	if to.Container == "" {
		var legs []leg
		for _, m := range b.plan.Externals() {
			if in.from = (Place{Machine: m.Name}); in.from != to {
				legs = append(legs, in)
			}
		}
		ways[1] = [][]leg{legs}
	}
	own := func(p Place) []leg { return []leg{leg{to: p, proto: "icmp"}.looped(f)} }
	ways[1] = append(ways[1], own(to))
	for i, p := range []Place{from, to} {
		if ownDevice(b, p) == "" {
			ways[i] = [][]leg{own(p)}
		}
	}
	return alive(ctx, b, f, ways...)
}

// between tells packets on the way between two places from the copies that a switch sends to everyone else.
func between(b *Bench, p lab.Packet, from, to Place) bool {
	if b.plan.Machine(p.Machine).Role == topology.RoleTor {
		return true
	}
	return slices.ContainsFunc([]Place{from, to}, func(end Place) bool {
		return p.Machine == end.Machine && (p.In == "" || p.In == end.Container)
	})
}

// siblings sends from one container to another of its network and host.
func siblings(dst netip.Addr) func(context.Context, *Bench) (Observation, error) {
	return func(ctx context.Context, b *Bench) (Observation, error) {
		first, second, ok := pair(b, firstHost(b), network(b))
		if !ok {
			return oneContainer(), nil
		}
		return cast(ctx, b, first, second, dst)
	}
}

// fromOutside sends from one external machine, with another as the witness; or from the router, with the host.
func fromOutside(dst netip.Addr) func(context.Context, *Bench) (Observation, error) {
	return func(ctx context.Context, b *Bench) (Observation, error) {
		witness := Place{Machine: b.plan.Externals()[1].Name}
		if routers(b) > 0 {
			witness = Place{Machine: firstHost(b)}
		}
		return cast(ctx, b, station(b), container(b), dst, witness)
	}
}

// toOutside sends to an external machine, or to the router.
func toOutside(dst netip.Addr) func(context.Context, *Bench) (Observation, error) {
	return func(ctx context.Context, b *Bench) (Observation, error) {
		return cast(ctx, b, container(b), station(b), dst)
	}
}

// bridged makes the interface of a network a port of the network's bridge.
func bridged(network int) func(*topology.Plan) []topology.Step {
	return func(p *topology.Plan) []topology.Step {
		n := p.Networks[network]
		return []topology.Step{{On: p.Hosts()[0].Name, Set: &topology.LinkSet{Name: n.NIC, Master: n.Bridge}}}
	}
}

// dropped drops what is sent to an address, at a hook in the namespace of one of the first host's containers.
func dropped(container int, hook string, dst netip.Addr) func(*topology.Plan) []topology.Step {
	return func(p *topology.Plan) []topology.Step {
		c := p.Hosts()[0].Containers[container]
		return []topology.Step{dropping(topology.Step{On: c.Host, In: c.Name}, hook, destined(dst))}
	}
}

// destined matches what is sent to an address.
func destined(a netip.Addr) topology.Match {
	return topology.Match{Field: map[Family]string{IPv4: "ip daddr", IPv6: "ip6 daddr"}[familyOf(a)], Value: a.String()}
}

func toSiblingSabotage(dst netip.Addr) []Sabotage {
	return []Sabotage{
		{Mode: "bridge", Doc: "the sibling's packet filter drops it", Steps: dropped(1, "input", dst)},
		{Mode: "host", Doc: "the second container has a namespace of its own", Rewire: func(steps []topology.Step) []topology.Step {
			if steps[0].Space.Name != "c2" {
				return steps
			}
			return separated(steps)
		}},
		{Mode: "ptp", Doc: "the second container enters the first one's namespace", Rewire: joined},
		{Mode: "macvlan-bridge", Doc: "the devices are in private mode", Steps: deviceMode("private")},
		{Mode: "macvlan-private", Doc: "the devices are in bridge mode", Steps: deviceMode("bridge")},
		{Mode: "macvlan-vepa", Doc: "the switch sends frames back by the port they came from", Steps: reflective},
		{Mode: "ipvlan-l2", Doc: "the devices are of mode l3", Rewire: parentMode("l3")},
		{Mode: "ipvlan-l3", Doc: "the devices are of mode l2", Rewire: parentMode("l2")},
		{Mode: "vlan-macvlan", Doc: "the devices are in private mode", Steps: deviceMode("private")},
	}
}

func fromOutsideSabotage(dst netip.Addr) []Sabotage {
	return []Sabotage{
		{Mode: "bridge", Doc: "the host's interface is a port of the bridge", Steps: bridged(0)},
		{Mode: "macvlan-bridge", Doc: "the container's packet filter drops it", Steps: dropped(0, "input", dst)},
		{Mode: "ipvlan-l2", Doc: "the devices are of mode l3", Rewire: parentMode("l3")},
		{Mode: "ipvlan-l3", Doc: "the devices are of mode l2", Rewire: parentMode("l2")},
	}
}

func toOutsideSabotage(dst netip.Addr) []Sabotage {
	return []Sabotage{
		{Mode: "bridge", Doc: "the host's interface is a port of the bridge", Steps: bridged(0)},
		{Mode: "macvlan-vepa", Doc: "the container's packet filter drops it", Steps: dropped(0, "output", dst)},
		{Mode: "ipvlan-l2", Doc: "the devices are of mode l3", Rewire: parentMode("l3")},
		{Mode: "ipvlan-l3", Doc: "the devices are of mode l2", Rewire: parentMode("l2")},
	}
}

var _ = register(Spec{
	Suite:    "conformance",
	Feature:  Feature{Name: "broadcast-siblings", Group: "multicast", Doc: "Does a limited broadcast by a container reach another of the same host?"},
	Name:     "a container sends a datagram to 255.255.255.255, and its neighbour on the same host listens",
	Run:      siblings(everybody),
	Sabotage: toSiblingSabotage(everybody),
})

var _ = register(Spec{
	Suite:    "conformance",
	Feature:  Feature{Name: "broadcast-in", Group: "multicast", Doc: "Does a broadcast by an external machine on the segment reach the container?"},
	Name:     "an external machine sends a datagram to 255.255.255.255; a container and another external machine listen",
	Run:      fromOutside(everybody),
	Sabotage: fromOutsideSabotage(everybody),
})

var _ = register(Spec{
	Suite:    "conformance",
	Feature:  Feature{Name: "broadcast-out", Group: "multicast", Doc: "Does a broadcast by the container reach an external machine?"},
	Name:     "a container sends a datagram to 255.255.255.255, and an external machine listens",
	Run:      toOutside(everybody),
	Sabotage: toOutsideSabotage(everybody),
})

var _ = registerFamilies(func(f Family) Spec {
	return Spec{
		Suite:    "conformance",
		Feature:  Feature{Name: "multicast-siblings", Group: "multicast", Doc: "Does multicast by a container reach another of the same host that has joined the group?"},
		Name:     "a container sends a datagram to a group that its neighbour on the same host has joined",
		Run:      siblings(groupAddr(f, 1)),
		Sabotage: toSiblingSabotage(groupAddr(f, 1)),
	}
})

var _ = registerFamilies(func(f Family) Spec {
	return Spec{
		Suite:    "conformance",
		Feature:  Feature{Name: "multicast-in", Group: "multicast", Doc: "Does multicast by an external machine reach a container that has joined the group?"},
		Name:     "an external machine sends a datagram to a group that a container and another external machine have joined",
		Run:      fromOutside(groupAddr(f, 1)),
		Sabotage: fromOutsideSabotage(groupAddr(f, 1)),
	}
})

var _ = registerFamilies(func(f Family) Spec {
	return Spec{
		Suite:    "conformance",
		Feature:  Feature{Name: "multicast-out", Group: "multicast", Doc: "Does multicast by a container reach an external machine that has joined the group?"},
		Name:     "a container sends a datagram to a group that an external machine has joined",
		Run:      toOutside(groupAddr(f, 1)),
		Sabotage: toOutsideSabotage(groupAddr(f, 1)),
	}
})

// linkLocal is a place's own link-local address.
func linkLocal(ctx context.Context, b *Bench, p Place, device string) (netip.Addr, error) {
	s, err := b.devices(ctx, p.Machine)
	if err != nil {
		return netip.Addr{}, err
	}
	for _, a := range s.Spaces[p.Container].Addrs {
		if a.Link == device && a.LinkLocal {
			return a.Prefix.Addr(), nil
		}
	}
	return netip.Addr{}, fmt.Errorf("%s: no link-local address on %s", p, device)
}

// report joins a group in a container and leaves it, and observes whether an external machine sees both reports.
func report(ctx context.Context, b *Bench, f Family) (Observation, error) {
	c, x, group := container(b), station(b), groupAddr(f, 2)
	device := ownDevice(b, c)
	// The link-local address is what MLD reports from (RFC 3810 section 5.1.14), the device's own what IGMP does.
	own := addrOf(b, c, IPv4)
	if f == IPv6 && device != "" {
		var err error
		if own, err = linkLocal(ctx, b, c, device); err != nil {
			return Observation{}, err
		}
	}
	recorded, err := b.Record(ctx)
	if err != nil {
		return Observation{}, err
	}
	// find finds the reports of one kind: wherever they are seen, or by the external machine.
	find := func(kind string) (all, outside []lab.Packet, err error) {
		all, err = recorded(ctx, func(p lab.Packet) bool {
			return slices.Contains(p.Groups, lab.Group{Addr: group, Kind: kind}) && between(b, p, c, x)
		})
		for _, p := range all {
			if p.Machine == x.Machine && !p.Outgoing {
				outside = append(outside, p)
			}
		}
		return all, outside, err
	}
	var l lab.Listening
	if err := b.Do(ctx, c.Machine, "Probe.Listen", lab.Listen{
		In: c.Container, Proto: "udp", Addr: netip.AddrPortFrom(unspecified(f), b.freePort()), Group: group, Device: device, Silent: true,
	}, &l); err != nil {
		return Observation{}, err
	}
	if r := l.Refusal; r.Errno != "" {
		control, _, err := working(ctx, b, c, x, f)
		o := blocked("%s was to join %s: refused with %s", c, group, r.Errno)
		o.Evidence = append(control, reports.Evidence{At: c.String(), Saw: r.Text})
		return o, err
	}
	listening := true
	leave := func(ctx context.Context) error {
		if !listening {
			return nil
		}
		listening = false
		return b.Do(ctx, c.Machine, "Probe.Stop", l.Handle, &lab.Tally{})
	}
	b.atEnd(leave)

	var evidence, control []reports.Evidence
	var odd, missing []string
	for _, kind := range []string{"join", "leave"} {
		if kind == "leave" {
			if err := leave(ctx); err != nil {
				return Observation{}, err
			}
		}
		var all, outside []lab.Packet
		look := func(enough func() bool) func() (bool, error) {
			return func() (bool, error) {
				all, outside, err = find(kind)
				return enough(), err
			}
		}
		ok, err := eventually(ctx, patience, look(func() bool { return len(all) > 0 }))
		if err == nil && !ok {
			err = fmt.Errorf("%s sent no report of its %s of %s at all", c, kind, group)
		}
		if err != nil {
			return Observation{}, err
		}
		if _, err := eventually(ctx, grace, look(func() bool { return len(outside) > 0 })); err != nil {
			return Observation{}, err
		}
		if len(outside) == 0 {
			alive, took, err := working(ctx, b, c, x, f)
			if err != nil {
				return Observation{}, err
			}
			if control == nil {
				control = alive
			}
			if _, err := eventually(ctx, 5*took+grace, look(func() bool { return len(outside) > 0 })); err != nil {
				return Observation{}, err
			}
		}
		for _, p := range all {
			evidence = append(evidence, seen(p))
		}
		if len(outside) == 0 {
			missing = append(missing, fmt.Sprintf("its %s was last seen at %s", kind, at(all[len(all)-1])))
			continue
		}
		p := outside[0]
		for _, check := range []struct {
			ok   bool
			what string
		}{
			{p.Src.Addr() == own, fmt.Sprintf("comes from %s instead of %s", p.Src.Addr(), own)},
			{p.IP.TTL == 1, fmt.Sprintf("has TTL %d instead of 1", p.IP.TTL)},
			{p.IP.RouterAlert, "has no Router Alert"},
			{!wrong(p), "has a wrong checksum"},
		} {
			if !check.ok {
				odd = append(odd, fmt.Sprintf("its %s %s", kind, check.what))
			}
		}
	}
	o := works("%s joined and left %s: %s saw both reports, from %s, with TTL 1 and Router Alert", c, group, x, own)
	switch {
	case len(missing) == 2 && len(odd) == 0:
		o = blocked("%s joined and left %s: %s saw no report; %s", c, group, x, strings.Join(missing, ", "))
	case len(missing) > 0 || len(odd) > 0:
		o = Observation{Status: "mixed", Detail: fmt.Sprintf("%s joined and left %s: %s", c, group, strings.Join(append(missing, odd...), "; "))}
	}
	o.Evidence = append(evidence, control...)
	return o, nil
}

var _ = register(Spec{
	Suite: "packets",
	Feature: Feature{
		Name: "igmp-report", Group: "multicast",
		Doc: "Do the container's join and leave appear on the segment as IGMP reports with its own address, TTL 1 and Router Alert?",
	},
	Name:     "a container joins and leaves an IPv4 group, and an external machine records what it sees of it",
	Run:      func(ctx context.Context, b *Bench) (Observation, error) { return report(ctx, b, IPv4) },
	Sabotage: reportSabotage(netip.AddrFrom4([4]byte{224, 0, 0, 22})), // RFC 3376 section 4.2.14
})

var _ = register(Spec{
	Suite: "packets",
	Feature: Feature{
		Name: "mld-report", Group: "multicast",
		Doc: "Do the container's join and leave appear on the segment as MLD reports with its own address, hop limit 1 and Router Alert?",
	},
	Name:     "a container joins and leaves an IPv6 group, and an external machine records what it sees of it",
	Run:      func(ctx context.Context, b *Bench) (Observation, error) { return report(ctx, b, IPv6) },
	Sabotage: reportSabotage(netip.AddrFrom16([16]byte{0: 0xff, 1: 0x02, 15: 0x16})), // RFC 3810 section 5.2.14
})

func reportSabotage(routers netip.Addr) []Sabotage {
	return []Sabotage{
		{Mode: "bridge", Doc: "the host's interface is a port of the bridge", Steps: bridged(0)},
		{Mode: "macvlan-private", Doc: "the host's interface drops reports that leave", Steps: func(p *topology.Plan) []topology.Step {
			h := p.Hosts()[0]
			return []topology.Step{{On: h.Name, Table: &topology.Table{Family: "netdev", Name: "sabotage", Chains: []topology.Chain{{
				Name: "egress", Type: "filter", Hook: "egress", Device: h.NICs[0].Name,
				Rules: []topology.Rule{{Match: []topology.Match{destined(routers)}, Verdict: topology.Verdict{Kind: "drop"}}},
			}}}}}
		}},
	}
}

// renew detaches the containers of a network from a host, and attaches them again. A bench where that did not succeed
// cannot be put back.
func renew(ctx context.Context, b *Bench, host, network string) (err error) {
	defer func() {
		if err != nil {
			b.atEnd(func(context.Context) error { return fmt.Errorf("attach again: %w", err) })
		}
	}()
	var again []topology.Container
	for _, p := range slices.Backward(b.Containers(host, network)) { // where containers share a namespace, its owner is the first
		again = append(again, attachedAt(b, p))
		if err := b.Detach(ctx, p); err != nil {
			return err
		}
	}
	for _, c := range slices.Backward(again) {
		if _, err := b.attach(ctx, c, host); err != nil {
			return err
		}
	}
	return b.settled(ctx, host)
}

// announced attaches a container, and observes whether its address is announced on the segment. It is one of the network
// that has a single container on each host, and the other host is who sees it.
func announced(ctx context.Context, b *Bench, f Family) (Observation, error) {
	if o := deviceless(b, f); o != nil {
		return *o, nil
	}
	network := b.plan.Networks[1]
	c, other := b.Containers(firstHost(b), network.Name)[0], b.plan.Machine(secondHost(b))
	recorded, err := b.Record(ctx)
	if err != nil {
		return Observation{}, err
	}
	if err := renew(ctx, b, c.Machine, network.Name); err != nil {
		return Observation{}, err
	}
	s, err := b.devices(ctx, c.Machine)
	if err != nil {
		return Observation{}, err
	}
	var own net.HardwareAddr
	for _, l := range s.Spaces[c.Container].Links {
		if l.Name == ownDevice(b, c) {
			own = l.MAC
		}
	}
	a := addrOf(b, c, f)
	var all, outside []lab.Packet
	find := func() (bool, error) {
		all, err = recorded(ctx, func(p lab.Packet) bool {
			return p.ARP != nil && p.ARP.SenderIP == a && p.ARP.TargetIP == a ||
				p.NDP != nil && p.NDP.Kind == "na" && p.NDP.Target == a && !p.NDP.Solicited
		})
		outside = nil
		for _, p := range all {
			if p.Machine == other.Name && p.In == "" && p.Device == network.NIC && !p.Outgoing {
				outside = append(outside, p)
			}
		}
		return len(outside) > 0, err
	}
	on := fmt.Sprintf("%s was attached with %s", c, a)
	yes, err := find()
	if err != nil {
		return Observation{}, err
	}
	var control []reports.Evidence
	if !yes {
		to := other.NIC(network.NIC).V4.Addr()
		if f == IPv6 {
			to = other.NIC(network.NIC).V6.Addr()
		}
		tiers := [][]leg{
			{{c, Place{Machine: other.Name}, netip.AddrPortFrom(to, controlPort), "udp"}},
			{leg{to: c, proto: "icmp"}.looped(f)},
		}
		var took time.Duration
		if control, took, err = alive(ctx, b, f, tiers); err != nil {
			return Observation{}, err
		}
		if yes, err = eventually(ctx, 5*took+grace, find); err != nil {
			return Observation{}, err
		}
	}
	var o Observation
	switch wrong := ""; {
	case !yes && len(all) == 0:
		o = blocked("%s: no announcement of it was seen at any device of the lab", on)
	case !yes:
		o = blocked("%s: its announcement does not get to the segment; last seen at %s", on, at(all[len(all)-1]))
	default:
		if wrong = misannounced(outside[0], own); wrong != "" {
			o = Observation{Status: "mixed", Detail: fmt.Sprintf("%s: its announcement %s", on, wrong)}
			break
		}
		o = works("%s: %s saw it announced as that of %s", on, other.Name, own)
	}
	for _, p := range all {
		if len(o.Evidence) < 12 {
			o.Evidence = append(o.Evidence, seen(p))
		}
	}
	o.Evidence = append(o.Evidence, control...)
	return o, nil
}

// misannounced says what is not as it should be with an announcement (RFC 5227 section 2.3; RFC 4861 section 7.2.6);
// empty where nothing is.
func misannounced(p lab.Packet, own net.HardwareAddr) string {
	if p.ARP != nil {
		switch {
		case !bytes.Equal(p.ARP.SenderMAC, own) || !bytes.Equal(p.EthSrc, own):
			return fmt.Sprintf("names %s instead of %s", p.ARP.SenderMAC, own)
		case p.EthDst.String() != "ff:ff:ff:ff:ff:ff":
			return "is not broadcast"
		}
		return ""
	}
	switch {
	case !bytes.Equal(p.NDP.LinkAddr, own):
		return fmt.Sprintf("names %s instead of %s", p.NDP.LinkAddr, own)
	case !p.NDP.Override:
		return "does not say Override"
	case p.Dst.Addr() != netip.AddrFrom16([16]byte{0: 0xff, 1: 0x02, 15: 1}):
		return "is not sent to all nodes"
	case p.IP.TTL != 255 || wrong(p):
		return "is not valid: hop limit or checksum"
	}
	return ""
}

var _ = register(Spec{
	Suite:    "packets",
	Feature:  Feature{Name: "gratuitous-arp", Group: "multicast", Doc: "Is the container's address announced on the segment by a gratuitous ARP when it is attached?"},
	Name:     "a container is detached and attached again, and another host records what it sees of it",
	Run:      func(ctx context.Context, b *Bench) (Observation, error) { return announced(ctx, b, IPv4) },
	Sabotage: announcedSabotage("net/ipv4/conf/default/arp_notify"),
})

var _ = register(Spec{
	Suite: "packets",
	Feature: Feature{
		Name: "unsolicited-na", Group: "multicast",
		Doc: "Is the container's address announced on the segment by an unsolicited neighbour advertisement when it is attached?",
	},
	Name:     "a container is detached and attached again, and another host records what it sees of it",
	Run:      func(ctx context.Context, b *Bench) (Observation, error) { return announced(ctx, b, IPv6) },
	Sabotage: announcedSabotage("net/ipv6/conf/default/ndisc_notify"),
})

func announcedSabotage(key string) []Sabotage {
	silent := func(steps []topology.Step) []topology.Step {
		return slices.DeleteFunc(slices.Clone(steps), func(s topology.Step) bool {
			return s.Sysctl != nil && s.Sysctl.Key == key && s.Sysctl.Value == "1"
		})
	}
	return []Sabotage{
		{Mode: "macvlan-bridge", Doc: "the container's namespace does not announce", Rewire: silent},
		{Mode: "ipvlan-l2", Doc: "the container's namespace does not announce", Rewire: silent},
		{Mode: "vlan-ipvlan", Doc: "the container's namespace does not announce", Rewire: silent},
		{Mode: "bridge", Doc: "the host's interface is a port of the bridge", Steps: bridged(1)},
	}
}
