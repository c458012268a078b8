package suites

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/modebench/modebench/modes"
	"github.com/modebench/modebench/topology"
	"github.com/modebench/modebench/topology/lab"
)

// cloudless is the answer of the modes that ask nothing of a cloud.
func cloudless(b *Bench) *Observation {
	if b.mode.Fabric != topology.VPC {
		o := notApplicable("the mode asks for no cloud's network")
		return &o
	}
	return nil
}

// fabric counts what rules of the uplink's tor have dropped, by a rule's comment.
func fabric(ctx context.Context, b *Bench) (map[string]uint64, error) {
	s, err := b.own(ctx, uplinkPort(b).Machine)
	if err != nil {
		return nil, err
	}
	counts := map[string]uint64{}
	for _, r := range s.Rules {
		counts[r.Comment] += r.Packets
	}
	return counts, nil
}

// lost asks a message of a place that a cloud is to drop, and observes whether it went no further than the tor, by which rule's
// count, and whether the sender heard nothing.
func lost(ctx context.Context, b *Bench, from Place, comment string, a lab.Ask) (Observation, error) {
	before, err := fabric(ctx, b)
	if err != nil {
		return Observation{}, err
	}
	recorded, err := b.Record(ctx)
	if err != nil {
		return Observation{}, err
	}
	a.Token, a.Wait = b.newToken(), hopeful
	answer, err := b.Ask(ctx, from, a)
	if err != nil {
		return Observation{}, err
	}
	after, err := fabric(ctx, b)
	if err != nil {
		return Observation{}, err
	}
	packets, err := recorded(ctx, func(p lab.Packet) bool { return p.Token == a.Token && p.Dst == a.To })
	if err != nil {
		return Observation{}, err
	}
	if len(packets) == 0 {
		return Observation{}, fmt.Errorf("%s sent nothing to %s: %s", from, a.To, answer.Refusal.Text)
	}
	tor := uplinkPort(b).Machine
	count := after[comment] - before[comment]
	i := slices.IndexFunc(packets, func(p lab.Packet) bool { return p.Machine != from.Machine && p.Machine != tor })
	what := fmt.Sprintf("%s sent to %s", from, a.To)
	var o Observation
	switch {
	case i >= 0:
		o = blocked("%s: it came as far as %s", what, at(packets[i])).with(at(packets[i]), "%s", packets[i].Text)
	case answer.Answered || answer.Refusal.Errno != "":
		o = blocked("%s: answered %t; refused: %s", what, answer.Answered, orNone([]string{answer.Refusal.Text}))
	case count == 0:
		o = blocked("%s: nothing came of it, but not by the rule %q", what, comment)
	default:
		o = works("%s: the rule %q of %s dropped it", what, comment, tor)
	}
	last := packets[len(packets)-1]
	return o.with(tor, "rule %q: %d packets, %d before", comment, after[comment], before[comment]).with(at(last), "%s", last.Text), nil
}

// answered is the control of something that was lost.
func answered(ctx context.Context, b *Bench, from Place, to netip.AddrPort) error {
	var a lab.Answer
	ok, err := eventually(ctx, patience, func() (_ bool, err error) {
		a, err = b.Ask(ctx, from, lab.Ask{Proto: "udp", To: to})
		return a.Answered, err
	})
	if err == nil && !ok {
		err = fmt.Errorf("control: %s did not answer %s: %s", to, from, orNone([]string{a.Refusal.Text}))
	}
	return err
}

// cloudTable is a table of the tor's that the fabric is made with.
func cloudTable(p *topology.Plan, name string) topology.Step {
	for _, s := range topology.Underlay(p) {
		if s.Table != nil && s.Table.Name == name {
			return s
		}
	}
	panic("suites: the fabric has no table " + name)
}

// withoutTable removes a table of the tor's.
func withoutTable(name string) func(*topology.Plan) []topology.Step {
	return func(p *topology.Plan) []topology.Step {
		s := cloudTable(p, name)
		s.Remove = true
		return []topology.Step{s}
	}
}

var _ = register(Spec{
	Suite:   "conformance",
	Feature: Feature{Name: "vpc-source-mac", Group: "isolation", Doc: "Does a cloud drop, and count, what a host sends from a MAC address that is not its interface's?"},
	Name:    "the host's interface takes the MAC address of a container, as a macvlan device has it, and the host asks an external machine",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		if o := cloudless(b); o != nil {
			return *o, nil
		}
		h, up := Place{Machine: firstHost(b)}, uplink(b)
		target := netip.AddrPortFrom(addrOf(b, external(b), IPv4), controlPort)
		if err := answered(ctx, b, h, target); err != nil {
			return Observation{}, err
		}
		s, err := b.State(ctx, h.Machine)
		if err != nil {
			return Observation{}, err
		}
		i := slices.IndexFunc(s.Spaces[""].Neighs, func(n lab.Neigh) bool { return n.IP == target.Addr() && len(n.MAC) > 0 })
		if i < 0 {
			return Observation{}, fmt.Errorf("%s has no neighbour %s", h, target.Addr())
		}
		set := func(mac net.HardwareAddr) error {
			return b.Apply(ctx, topology.Step{On: h.Machine, Set: &topology.LinkSet{Name: up.Name, MAC: mac}})
		}
		if err := set(attachedAt(b, container(b)).MAC); err != nil {
			return Observation{}, err
		}
		// A device that changes its address forgets its neighbours, and would not get to know one with this.
		if err := b.Apply(ctx, topology.Step{On: h.Machine, Neigh: &topology.Neigh{Link: up.Name, IP: target.Addr(), MAC: s.Spaces[""].Neighs[i].MAC}}); err != nil {
			return Observation{}, err
		}
		o, err := lost(ctx, b, h, "source MAC "+uplinkPort(b).Interface, lab.Ask{Proto: "udp", To: target})
		if err = errors.Join(err, set(up.MAC)); err != nil {
			return o, err
		}
		return o.with(h.String(), "control: with its own MAC address it is answered"), answered(ctx, b, h, target)
	},
	Sabotage: []Sabotage{{Mode: "flannel-aws-vpc", Doc: "no rule looks at MAC addresses", Steps: withoutTable("ports")}},
})

var _ = register(Spec{
	Suite: "conformance",
	Feature: Feature{
		Name: "vpc-source-check", Group: "isolation",
		Doc: "Does a cloud drop, and count, what containers send to another host's while it checks source and destination of their host?",
	},
	Name: "the check is switched on for the host, a container asks one of another host, and again with the check off",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		if o := cloudless(b); o != nil {
			return *o, nil
		}
		from, to := container(b), far(b)
		port, err := serve(ctx, b, to, unspecified(IPv4))
		if err != nil {
			return Observation{}, err
		}
		target := netip.AddrPortFrom(addrOf(b, to, IPv4), port)
		tor, check := b.plan.AddressCheck(from.Machine, uplink(b).Name)
		on := topology.Step{On: tor, Table: &check}
		if err := b.Apply(ctx, on); err != nil {
			return Observation{}, err
		}
		o, err := lost(ctx, b, from, "source address "+uplinkPort(b).Interface+" ipv4", lab.Ask{Proto: "udp", To: target})
		if err != nil {
			return o, err
		}
		off := on
		off.Remove = true
		if err := b.Apply(ctx, off); err != nil {
			return o, err
		}
		o.Reproduce = lines([]topology.Step{on})
		return o.with(from.String(), "control: with the check off it is answered"), answered(ctx, b, from, target)
	},
	Sabotage: []Sabotage{{Mode: "flannel-aws-vpc", Doc: "the host masquerades what containers send to other hosts'", Steps: func(p *topology.Plan) []topology.Step {
		h := p.Hosts()[0]
		return []topology.Step{{On: h.Name, Table: &topology.Table{Family: "inet", Name: "sabotage", Chains: []topology.Chain{{
			Name: "postrouting", Type: "nat", Hook: "postrouting", Priority: 90,
			Rules: []topology.Rule{{Match: []topology.Match{{Field: "oifname", Value: p.Networks[0].NIC}}, Verdict: topology.Verdict{Kind: "masquerade"}}},
		}}}}}
	}}},
})

var _ = register(Spec{
	Suite:   "conformance",
	Feature: Feature{Name: "vpc-flooding", Group: "multicast", Doc: "Does a cloud drop, and count, what a host sends to everybody, and to a group?"},
	Name:    "the host sends to the limited broadcast address and to groups of both families",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		if o := cloudless(b); o != nil {
			return *o, nil
		}
		h, up := Place{Machine: firstHost(b)}, uplink(b)
		port := b.freePort() // where nothing listens, the host itself included
		all := works("%s sent to everybody and to groups: the fabric dropped all of it", h)
		for _, c := range []struct {
			to      netip.Addr
			comment string
		}{
			{everybody, "broadcast"}, {groupAddr(IPv4, 1), "multicast ipv4"}, {groupAddr(IPv6, 1), "multicast ipv6"},
		} {
			a := lab.Ask{Proto: "udp", To: netip.AddrPortFrom(c.to, port), Device: up.Name, Broadcast: c.to == everybody}
			if c.to.IsMulticast() {
				a.TTL = hops
			}
			o, err := lost(ctx, b, h, c.comment, a)
			if err != nil {
				return o, err
			}
			if o.Status != all.Status {
				return o, nil
			}
			all.Evidence = append(all.Evidence, o.Evidence...)
		}
		target := netip.AddrPortFrom(addrOf(b, external(b), IPv4), controlPort)
		return all.with(h.String(), "control: %s answers it", target), answered(ctx, b, h, target)
	},
	Sabotage: []Sabotage{{Mode: "flannel-aws-vpc", Doc: "the fabric is a switch", Steps: func(p *topology.Plan) []topology.Step {
		steps := withoutTable("ports")(p)
		for _, port := range p.Tors()[0].NICs {
			steps = append(steps, topology.Step{On: p.Tors()[0].Name, Set: &topology.LinkSet{Name: port.Name, Isolated: "off"}})
		}
		return steps
	}}},
})

var _ = register(Spec{
	Suite:   "packets",
	Feature: Feature{Name: "vpc-no-route", Group: "packets", Doc: "Does a cloud drop, count and not answer what a container sends to a block that no host leased?"},
	Name:    "a container asks an address of its network's that is in no host's block",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		if o := cloudless(b); o != nil {
			return *o, nil
		}
		from := container(b)
		nobody := addrOf(b, from, IPv4).As4()
		nobody[2] = 255 // hosts are numbered from 1, and no topology of the suites has so many
		o, err := lost(ctx, b, from, "no route", lab.Ask{Proto: "udp", To: netip.AddrPortFrom(netip.AddrFrom4(nobody), controlPort)})
		if err != nil {
			return o, err
		}
		target := netip.AddrPortFrom(addrOf(b, external(b), IPv4), controlPort)
		return o.with(from.String(), "control: %s answers it", target), answered(ctx, b, from, target)
	},
	Sabotage: []Sabotage{{Mode: "flannel-aws-vpc", Doc: "the router refuses aloud", Steps: func(p *topology.Plan) []topology.Step {
		all := netip.PrefixFrom(netip.AddrFrom4([4]byte{100}), 8) // all leases are in it
		return []topology.Step{{On: p.Tors()[0].Name, Route: &topology.Route{Type: "unreachable", Dst: all}}}
	}}},
})

// byGateway are the routes of the uplink's tor to machines, as a cloud's table.
func byGateway(ctx context.Context, b *Bench) ([]string, error) {
	s, err := b.State(ctx, uplinkPort(b).Machine)
	if err != nil {
		return nil, err
	}
	var routes []string
	for _, r := range s.Spaces[""].Routes {
		if r.Via.IsValid() {
			routes = append(routes, fmt.Sprintf("%s via %s", r.Dst, r.Via))
		}
	}
	slices.Sort(routes)
	return routes, nil
}

// leasedRoutes are those that a table should have: of each host's block of each network, by the host.
func leasedRoutes(b *Bench) ([]string, error) {
	var routes []string
	for _, h := range b.plan.Hosts() {
		for _, n := range b.plan.Networks {
			c, err := b.plan.Container(h.Name, n.Name, 1)
			if err != nil {
				return nil, err
			}
			block := b.mode.Addrs(b.plan, h, c)[0].Masked()
			routes = append(routes, fmt.Sprintf("%s via %s", block, h.NIC(n.NIC).V4.Addr()))
		}
	}
	slices.Sort(routes)
	return routes, nil
}

// askedRoute is a route that a mode's host has put into the cloud's table.
func askedRoute(steps []topology.Step) *topology.Step {
	i := slices.IndexFunc(steps, func(s topology.Step) bool { return s.Route != nil && s.Route.Limit != 0 })
	if i < 0 {
		return nil
	}
	return &steps[i]
}

var _ = register(Spec{
	Suite:   "routing",
	Feature: Feature{Name: "vpc-routes", Group: "routing", Doc: "Does a cloud's table hold one route for each block of a host, to that host, and nothing else?"},
	Name:    "the routes of the fabric's router by a machine are compared with the hosts' blocks",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		if o := cloudless(b); o != nil {
			return *o, nil
		}
		want, err := leasedRoutes(b)
		if err != nil {
			return Observation{}, err
		}
		got, err := byGateway(ctx, b)
		if err != nil {
			return Observation{}, err
		}
		return whether(slices.Equal(got, want), "the table of %s has %d routes: %s; wanted are %s",
			uplinkPort(b).Machine, len(got), orNone(got), orNone(want)).value("count", float64(len(got))), nil
	},
	Sabotage: []Sabotage{
		{Mode: "flannel-aws-vpc", Doc: "a host's route leads to another host", Steps: func(p *topology.Plan) []topology.Step {
			m, _ := modes.Find("flannel-aws-vpc")
			gone := *askedRoute(m.Setup(p, p.Hosts()[0]))
			wrong, route := gone, *gone.Route
			gone.Remove = true
			route.Via, wrong.Route = p.Hosts()[1].NIC(p.Networks[0].NIC).V4.Addr(), &route
			return []topology.Step{gone, wrong}
		}},
		{Mode: "flannel-gce", Doc: "hosts tell the cloud nothing", Setup: func(steps []topology.Step) []topology.Step {
			return slices.DeleteFunc(steps, func(s topology.Step) bool { return s.Route != nil && s.Route.Limit != 0 })
		}},
	},
})

var _ = register(Spec{
	Suite:   "routing",
	Feature: Feature{Name: "vpc-route-limit", Group: "routing", Doc: "Is a route more than a cloud's table holds refused, while those that it has go on?"},
	Name:    "routes are added until the table is full, and one more, and a container asks one of another host",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		if o := cloudless(b); o != nil {
			return *o, nil
		}
		leased, err := leasedRoutes(b)
		if err != nil {
			return Observation{}, err
		}
		like := askedRoute(b.mode.Setup(b.plan, b.plan.Machine(firstHost(b))))
		if like == nil {
			return Observation{}, errors.New("the host asks for no route")
		}
		// Single addresses of documentation (RFC 5737).
		var steps []topology.Step
		next := netip.AddrFrom4([4]byte{192, 0, 2, 0})
		for range like.Route.Limit - len(leased) + 1 {
			s, route := *like, *like.Route
			route.Dst = alone(next)
			s.Route, next = &route, next.Next()
			steps = append(steps, s)
		}
		last, beyond := steps[len(steps)-2], steps[len(steps)-1]
		if err := b.Apply(ctx, steps[:len(steps)-2]...); err != nil {
			return Observation{}, err
		}
		early, err := b.Attempt(ctx, last)
		if err != nil {
			return Observation{}, err
		}
		if early.Errno != "" {
			return blocked("route %d of %d was refused: %s", like.Route.Limit, like.Route.Limit, early.Text), nil
		}
		if err := b.Apply(ctx, last); err != nil {
			return Observation{}, err
		}
		refused, err := b.Attempt(ctx, beyond)
		if err != nil {
			return Observation{}, err
		}
		if refused.Errno != unix.ErrnoName(unix.ENOSPC) {
			return blocked("route %d of a table that holds %d: %s", like.Route.Limit+1, like.Route.Limit, orNone([]string{refused.Text})), nil
		}
		o, _, err := reach(ctx, b, container(b), far(b), IPv4)
		if err != nil {
			return Observation{}, err
		}
		if o.Status == works("").Status {
			o.Detail = fmt.Sprintf("route %d was refused with %s, and %s", like.Route.Limit+1, refused.Errno, o.Detail)
		}
		o.Reproduce = lines([]topology.Step{beyond})
		return o.with(uplinkPort(b).Machine, "%s", strings.TrimSpace(refused.Text)), nil
	},
	Sabotage: []Sabotage{
		{Mode: "flannel-aws-vpc", Doc: "a route of somebody else's takes a place", Steps: func(p *topology.Plan) []topology.Step {
			h := p.Hosts()[0].NICs[0]
			return []topology.Step{{On: h.Peer.Machine, Route: &topology.Route{
				Dst: netip.PrefixFrom(netip.AddrFrom4([4]byte{203, 0, 113}), 24), Via: h.V4.Addr(), Link: h.Segment,
			}}}
		}},
		{Mode: "flannel-gce", Doc: "a host's route is lost", Steps: func(p *topology.Plan) []topology.Step {
			m, _ := modes.Find("flannel-gce")
			gone := *askedRoute(m.Setup(p, p.Hosts()[1]))
			gone.Remove = true
			return []topology.Step{gone}
		}},
	},
})
