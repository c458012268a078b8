package suites

import (
	"bytes"
	"context"
	"net"
	"net/netip"
	"slices"

	"github.com/modebench/modebench/topology"
	"github.com/modebench/modebench/topology/lab"
)

// entry is a neighbour's link-layer address as a place has it in its table; nil: it has none.
func entry(ctx context.Context, b *Bench, p Place, a netip.Addr) (net.HardwareAddr, error) {
	s, err := b.State(ctx, p.Machine)
	if err != nil {
		return nil, err
	}
	for _, n := range s.Spaces[p.Container].Neighs {
		if n.IP == a && len(n.MAC) > 0 && n.State != "proxy" && n.State != "failed" && n.State != "incomplete" {
			return n.MAC, nil
		}
	}
	return nil, nil
}

// succeeded attaches a container with the address of one that was detached, and observes whether a neighbour on the same host, which has that one in its table and asks
// for nothing, learns of it.
func succeeded(ctx context.Context, b *Bench, f Family) (Observation, error) {
	if o := numberless(b, f); o != nil {
		return *o, nil
	}
	if o := unmanaged(b); o != nil {
		return *o, nil
	}
	host := firstHost(b)
	neighbour, _, ok := pair(b, host, network(b))
	if !ok {
		return oneContainer(), nil
	}
	var spare [2]topology.Container
	for i := range spare {
		var err error
		if spare[i], err = another(b, host, network(b), i+1); err != nil {
			return Observation{}, err
		}
	}
	old, err := b.Attach(ctx, spare[0], host)
	if err != nil {
		return Observation{}, err
	}
	a := addrOf(b, old, f)
	if err := forgets(ctx, b, host, a); err != nil { // whoever had it before
		return Observation{}, err
	}
	// As long as it may take until it is looked for a second time: a port that forwards late has not carried the first.
	if _, err := b.Ask(ctx, neighbour, lab.Ask{Proto: "icmp", To: netip.AddrPortFrom(a, 0), Wait: retry + slow}); err != nil {
		return Observation{}, err
	}
	before, err := entry(ctx, b, neighbour, a)
	if err != nil {
		return Observation{}, err
	}
	if before == nil {
		return notApplicable("%s asked %s, and has no other container's address in its table of neighbours", neighbour, old).
			with(neighbour.String(), "no entry for %s after it was asked", a), nil
	}
	if err := b.Detach(ctx, old); err != nil {
		return Observation{}, err
	}
	recorded, err := b.Record(ctx)
	if err != nil {
		return Observation{}, err
	}
	heir := spare[0]
	heir.Name, heir.MAC, heir.Device = spare[1].Name, spare[1].MAC, spare[1].Device
	now, err := b.Attach(ctx, heir, host)
	if err != nil {
		return Observation{}, err
	}
	own, err := linkOf(ctx, b, now, ownDevice(b, now))
	if err != nil {
		return Observation{}, err
	}
	if bytes.Equal(own.MAC, before) {
		return notApplicable("%s was attached with the address %s of %s, and has its MAC address %s, too: there is nothing to learn", now, a, old, own.MAC), nil
	}
	var after net.HardwareAddr
	learned := func() (bool, error) {
		after, err = entry(ctx, b, neighbour, a)
		return bytes.Equal(after, own.MAC), err
	}
	wait, err := byThen(ctx, b, neighbour)
	if err != nil {
		return Observation{}, err
	}
	yes, err := eventually(ctx, wait, learned)
	if err != nil {
		return Observation{}, err
	}
	said, err := recorded(ctx, func(p lab.Packet) bool { return p.Machine == host && announces(p, a) })
	if err != nil {
		return Observation{}, err
	}
	where := "nothing announced it"
	if len(said) > 0 {
		where = "its announcement was last seen at " + at(said[len(said)-1])
	}
	o := whether(yes, "%s was attached with the address %s of %s, and %s, which asked for nothing, has %s for it, after %s; %s", now, a, old, neighbour, after, before, where)
	for _, p := range said {
		if len(o.Evidence) < 12 {
			o.Evidence = append(o.Evidence, seen(p))
		}
	}
	if yes {
		return o, nil
	}
	// An announcement of now shows that what is announced arrives; else a question must be answered.
	if err := announce(ctx, b, now, a); err != nil {
		return Observation{}, err
	}
	if yes, err = eventually(ctx, max(wait, 5*slow), learned); err != nil {
		return Observation{}, err
	}
	if yes {
		return o.with(neighbour.String(), "control: of an announcement that was sent later it learnt %s", after), nil
	}
	control, _, err := alive(ctx, b, f, [][]leg{{{now, neighbour, netip.AddrPortFrom(addrOf(b, neighbour, f), controlPort), "icmp"}}, {leg{to: now, proto: "icmp"}.looped(f)}})
	o.Evidence = append(o.Evidence, control...)
	return o, err
}

// announces tells a packet by which the holder of an address tells all who it is (RFC 5227 section 3; RFC 4861 section 7.2.6).
func announces(p lab.Packet, a netip.Addr) bool {
	return p.ARP != nil && p.ARP.SenderIP == a && p.ARP.TargetIP == a || p.NDP != nil && p.NDP.Kind == "na" && p.NDP.Target == a && !p.NDP.Solicited
}

var _ = registerFamilies(func(f Family) Spec {
	silent := announcedSabotage(map[Family]string{IPv4: "net/ipv4/conf/default/arp_notify", IPv6: "net/ipv6/conf/default/ndisc_notify"}[f])[0].Rewire
	quiet := func(mode string) Sabotage {
		return Sabotage{Mode: mode, Doc: "the container's namespace does not announce", Spares: silent}
	}
	s := Spec{
		Suite: "conformance",
		Feature: Feature{
			Name: "announced-same-host", Group: "multicast",
			Doc: "Does another container of the host learn, without asking, that an address has a new holder, which was attached in the place of another?",
		},
		Name: "a container asks another one, which is detached; a third is attached with its address, and the first one's table of neighbours is read",
		Run:  func(ctx context.Context, b *Bench) (Observation, error) { return succeeded(ctx, b, f) },
		Sabotage: []Sabotage{
			quiet("bridge"), quiet("vxlan-static"), quiet("macvlan-bridge"), quiet("vlan-macvlan"),
			{Mode: "macvlan-private", Doc: "the devices are in bridge mode", Rewire: parentMode("bridge")},
			{Mode: "ipvlan-l2", Doc: "the devices are macvlan devices in bridge mode", Rewire: kindOf("macvlan", "bridge")},
		},
	}
	if f == IPv4 { // of IPv6 a worker of the kernel announces, in its own time
		s.Sabotage = append(s.Sabotage, Sabotage{Mode: "bridge", Doc: "the bridge gets the port after the address was announced by it", Spares: belated})
	}
	return s
})

// belated has a container's device become a port of the bridge last, with nothing announced after that.
func belated(steps []topology.Step) []topology.Step {
	master := topology.LinkSet{}
	steps = mapLinks(func(l *topology.Link) {
		if l.Master != "" {
			master.Name, master.Master, l.Master = l.Name, l.Master, ""
		}
	})(steps)
	steps = slices.DeleteFunc(steps, func(s topology.Step) bool { return s.Await != nil || s.Set != nil && s.Set.MAC != nil })
	return append(steps, topology.Step{On: steps[0].On, Set: &master})
}
