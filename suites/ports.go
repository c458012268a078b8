package suites

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/modebench/modebench/modes"
	"github.com/modebench/modebench/reports"
	"github.com/modebench/modebench/topology"
	"github.com/modebench/modebench/topology/lab"
)

// publication is what publishes a port for a container, with what a sabotage makes of it.
func publication(b *Bench, to Place, port modes.Port) []topology.Step {
	b.mu.Lock()
	c := b.attached[to.String()].container
	b.mu.Unlock()
	steps := b.mode.Publish(b.plan, b.plan.Machine(to.Machine), c, port)
	if b.rewire != nil {
		steps = b.rewire(steps)
	}
	return steps
}

// published publishes a port for a service of a container, which answers datagrams and connections. Target is where the
// service is published, in its host's own address; inner is the container's port.
func published(ctx context.Context, b *Bench, to Place, f Family, protos ...string) (target netip.AddrPort, inner uint16, reproduce []string, err error) {
	if inner, err = serve(ctx, b, to, unspecified(f)); err != nil {
		return target, inner, nil, err
	}
	target = netip.AddrPortFrom(addrOf(b, Place{Machine: to.Machine}, f), b.freePort())
	for _, proto := range protos {
		steps := publication(b, to, modes.Port{Proto: proto, Host: target.Port(), Container: inner})
		if err := b.Apply(ctx, steps...); err != nil {
			return target, inner, nil, err
		}
		for _, s := range steps {
			reproduce = append(reproduce, s.String())
		}
	}
	return target, inner, reproduce, nil
}

// mapsNoPorts is the answer of the modes in which nothing is published.
func mapsNoPorts() Observation { return notApplicable("the mode maps no ports") }

// edited replaces a table that a mode sets up on the first host by another, without the rules that edit does not keep.
func edited(p *topology.Plan, mode, table string, edit func(*topology.Rule) (keep bool)) []topology.Step {
	m, ok := modes.Find(mode)
	if !ok {
		panic("no mode " + mode)
	}
	for _, s := range m.Setup(p, p.Hosts()[0]) {
		if s.Table == nil || s.Table.Name != table {
			continue
		}
		other := *s.Table
		other.Chains = slices.Clone(other.Chains)
		for i, c := range other.Chains {
			other.Chains[i].Rules = nil
			for _, r := range c.Rules {
				if edit(&r) {
					other.Chains[i].Rules = append(other.Chains[i].Rules, r)
				}
			}
		}
		return []topology.Step{{On: s.On, Remove: true, Table: s.Table}, {On: s.On, Table: &other}}
	}
	panic("mode " + mode + " has no table " + table)
}

// unruled is the same without the rules whose comments begin so.
func unruled(mode, tablePrefix string, comments ...string) func(*topology.Plan) []topology.Step {
	return func(p *topology.Plan) []topology.Step {
		return edited(p, mode, tablePrefix+p.Networks[0].Name, func(r *topology.Rule) bool {
			return !slices.ContainsFunc(comments, func(c string) bool { return strings.HasPrefix(r.Comment, c) })
		})
	}
}

// unforwarded switches the first host's forwarding off.
func unforwarded(families ...Family) func(*topology.Plan) []topology.Step {
	keys := map[Family]string{IPv4: "net/ipv4/ip_forward", IPv6: "net/ipv6/conf/all/forwarding"}
	return func(p *topology.Plan) (steps []topology.Step) {
		for _, f := range families {
			steps = append(steps, topology.Step{On: p.Hosts()[0].Name, Sysctl: &topology.Sysctl{Key: keys[f], Value: "0"}})
		}
		return steps
	}
}

func publishSpecs(proto, by string) bool {
	return registerFamilies(func(f Family) Spec {
		return Spec{
			Suite: "conformance",
			Feature: Feature{
				Name: "publish-" + proto, Group: "ports",
				Doc: "Does an external machine reach the container's " + strings.ToUpper(proto) + " service through a published port of the host?",
			},
			Name: "an external machine asks the host's address and a published port by " + by,
			Run: func(ctx context.Context, b *Bench) (Observation, error) {
				if b.Mode().Publish == nil {
					return mapsNoPorts(), nil
				}
				to := container(b)
				target, _, reproduce, err := published(ctx, b, to, f, proto)
				if err != nil {
					return Observation{}, err
				}
				t, err := try(ctx, b, external(b), to, target, proto)
				o := t.observation()
				o.Reproduce = reproduce
				return o, err
			},
			Sabotage: []Sabotage{
				{Mode: "bridge", Doc: "forwarding is off", Steps: unforwarded(f)},
				{Mode: "ptp", Doc: "what is published is not let in", Steps: unruled("ptp", "filter-", "published ")},
				{Mode: "container", Doc: "the port leads to another port of the container", Rewire: func(steps []topology.Step) []topology.Step {
					return republished(steps, func(table *topology.Table, r *topology.Rule) {
						r.Verdict.To = netip.AddrPortFrom(r.Verdict.To.Addr(), r.Verdict.To.Port()+1)
					})
				}},
			},
		}
	})
}

var _ = publishSpecs("tcp", "a connection") && publishSpecs("udp", "a datagram")

// republished changes what publishes a port, and nothing else.
func republished(steps []topology.Step, edit func(*topology.Table, *topology.Rule)) []topology.Step {
	steps = slices.Clone(steps)
	for i, s := range steps {
		if s.Table == nil || !strings.HasPrefix(s.Table.Name, "publish-") {
			continue
		}
		table := *s.Table
		table.Chains = slices.Clone(table.Chains)
		for j, c := range table.Chains {
			table.Chains[j].Rules = slices.Clone(c.Rules)
			for k := range c.Rules {
				edit(&table, &table.Chains[j].Rules[k])
			}
		}
		steps[i].Table = &table
	}
	return steps
}

var _ = register(Spec{
	Suite:   "conformance",
	Feature: Feature{Name: "publish-conflict-refused", Group: "ports", Doc: "Is publishing a host port a second time refused?"},
	Name:    "a published port of the host is published once more, for another container where there is one",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		if b.Mode().Publish == nil {
			return mapsNoPorts(), nil
		}
		to := container(b)
		other := to
		if _, sibling, ok := pair(b, to.Machine, network(b)); ok {
			other = sibling
		}
		target, inner, reproduce, err := published(ctx, b, to, IPv4, "tcp")
		if err != nil {
			return Observation{}, err
		}
		attempt := func(port uint16) (lab.Refusal, string, error) {
			for _, s := range publication(b, other, modes.Port{Proto: "tcp", Host: port, Container: inner}) {
				if r, err := b.Attempt(ctx, s); err != nil || r.Errno != "" {
					return r, s.String(), err
				}
			}
			return lab.Refusal{}, "", nil
		}
		free := b.freePort()
		if r, _, err := attempt(free); err != nil || r.Errno != "" {
			return Observation{}, fmt.Errorf("control: publishing the free port %d: %s: %w", free, r.Text, err)
		}
		r, step, err := attempt(target.Port())
		if err != nil {
			return Observation{}, err
		}
		if r.Errno == "" {
			return blocked("port %d of %s, which leads to %s, was published for %s too", target.Port(), to.Machine, to, other), nil
		}
		t, err := try(ctx, b, external(b), to, target, "tcp")
		if err != nil {
			return Observation{}, err
		}
		o := works("publishing port %d of %s again for %s was refused (%s), and it still leads to %s", target.Port(), to.Machine, other, r.Errno, to)
		if !t.answers["tcp"].Answered {
			o = t.observation()
			o.Status, o.Detail = "mixed", fmt.Sprintf("publishing port %d of %s again was refused (%s), but the first does not work: %s", target.Port(), to.Machine, r.Errno, o.Detail)
		}
		o.Reproduce = append(reproduce, step)
		return o.with(to.Machine, "the kernel's answer to the second: %s", r.Text).with(to.Machine, "control: publishing the free port %d was not refused", free), nil
	},
	Sabotage: []Sabotage{
		{Mode: "bridge", Doc: "publications are named after the container, too", Rewire: func(steps []topology.Step) []topology.Step {
			return republished(steps, func(table *topology.Table, r *topology.Rule) {
				if r.Verdict.To.Addr().Is4() && !strings.HasSuffix(table.Name, r.Verdict.To.Addr().String()) {
					table.Name += "-" + r.Verdict.To.Addr().String()
				}
			})
		}},
		{Mode: "ptp", Doc: "forwarding is off", Steps: unforwarded(IPv4)},
	},
})

// hairpin has a container ask a published service of its own host.
func hairpin(ctx context.Context, b *Bench, from, to Place, f Family) (t trip, inner uint16, reproduce []string, err error) {
	target, inner, reproduce, err := published(ctx, b, to, f, "tcp", "udp")
	if err != nil {
		return t, inner, nil, err
	}
	t, err = try(ctx, b, from, to, target, "tcp", "udp")
	return t, inner, reproduce, err
}

var _ = registerFamilies(func(f Family) Spec {
	return Spec{
		Suite: "conformance",
		Feature: Feature{
			Name: "hairpin-own", Group: "ports",
			Doc: "Does a container reach its own service through the host's address and the published port?",
		},
		Name: "a container asks its host's address and the port published for itself by UDP and TCP",
		Run: func(ctx context.Context, b *Bench) (Observation, error) {
			if b.Mode().Publish == nil {
				return mapsNoPorts(), nil
			}
			t, _, reproduce, err := hairpin(ctx, b, container(b), container(b), f)
			o := t.observation()
			o.Reproduce = reproduce
			return o, err
		},
		Sabotage: []Sabotage{
			{Mode: "bridge", Doc: "masquerade of the hairpin flow is missing", Steps: unruled("bridge", "nat-", "hairpin ")},
			{Mode: "ptp", Doc: "masquerade of the hairpin flow is missing", Steps: unruled("ptp", "nat-", "hairpin ")},
		},
	}
})

var _ = registerFamilies(func(f Family) Spec {
	return Spec{
		Suite: "conformance",
		Feature: Feature{
			Name: "hairpin-sibling", Group: "ports",
			Doc: "Does another container of the same host reach a service through the host's address and the published port?",
		},
		Name: "a container asks its host's address and the port published for its neighbour by UDP and TCP",
		Run: func(ctx context.Context, b *Bench) (Observation, error) {
			if b.Mode().Publish == nil {
				return mapsNoPorts(), nil
			}
			to, from, ok := pair(b, firstHost(b), network(b))
			if !ok {
				return oneContainer(), nil
			}
			t, _, reproduce, err := hairpin(ctx, b, from, to, f)
			o := t.observation()
			o.Reproduce = reproduce
			return o, err
		},
		Sabotage: []Sabotage{
			{Mode: "bridge", Doc: "masquerade of the hairpin flow is missing", Steps: unruled("bridge", "nat-", "hairpin ")},
			{Mode: "ptp", Doc: "forwarding is off", Steps: unforwarded(f)},
		},
	}
})

var _ = register(Spec{
	Suite: "packets",
	Feature: Feature{
		Name: "hairpin-source", Group: "ports",
		Doc: "Does the delivered hairpin packet carry an address of the host's as its source, not the client's own?",
	},
	Name: "a container asks the port published for its neighbour, and the source of what is delivered is read from the packet",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		if b.Mode().Publish == nil {
			return mapsNoPorts(), nil
		}
		to, from, ok := pair(b, firstHost(b), network(b))
		if !ok {
			return oneContainer(), nil
		}
		hosts, err := hostAddrs(ctx, b, to.Machine)
		if err != nil {
			return Observation{}, err
		}
		own := 0
		var o Observation
		for _, f := range b.families() {
			recorded, err := b.Record(ctx)
			if err != nil {
				return Observation{}, err
			}
			t, inner, reproduce, err := hairpin(ctx, b, from, to, f)
			if err != nil {
				return Observation{}, err
			}
			o.Reproduce = append(o.Reproduce, reproduce...)
			theirs, err := exitAddr(ctx, b, to, f)
			if err != nil {
				return Observation{}, err
			}
			mine, err := exitAddr(ctx, b, from, f)
			if err != nil {
				return Observation{}, err
			}
			delivered, err := recorded(ctx, func(p lab.Packet) bool {
				return p.Machine == to.Machine && p.In == to.Container && !p.Outgoing && p.Dst == netip.AddrPortFrom(theirs, inner)
			})
			if err != nil {
				return Observation{}, err
			}
			if yes, _ := t.answered(); len(yes) == 0 && len(delivered) == 0 {
				void := t.observation()
				void.Status, void.Detail = reports.NotApplicable, "nothing is delivered, which would have a source: "+void.Detail
				return void, nil
			}
			for _, proto := range []string{"tcp", "udp"} {
				i := slices.IndexFunc(delivered, func(p lab.Packet) bool { return p.Proto == proto })
				if i < 0 {
					lost := t.observation()
					lost.Status, lost.Detail = "mixed", "nothing was delivered whose source could be read: "+lost.Detail
					return lost, nil
				}
				p := delivered[i]
				o.Evidence = append(o.Evidence, seen(p))
				switch {
				case p.Src.Addr() == mine:
					own++
				case !hosts[p.Src.Addr()]:
					return Observation{Status: "mixed", Detail: fmt.Sprintf("the source %s is neither the client's nor the host's", p.Src), Evidence: o.Evidence}, nil
				}
			}
		}
		verdict := whether(own == 0, "%s asked a port of %s published for %s by TCP and UDP over %s: %d of %d arrived with the client's own address as the source, the others with the host's", from, to.Machine, to, b.span(), own, 2*len(b.families()))
		o.Status, o.Detail = verdict.Status, verdict.Detail
		return o, nil
	},
	Sabotage: []Sabotage{
		{Mode: "bridge", Doc: "masquerade of the hairpin flow is missing", Steps: unruled("bridge", "nat-", "hairpin ")},
		{Mode: "ptp", Doc: "masquerade of the hairpin flow is missing", Steps: unruled("ptp", "nat-", "hairpin ")},
	},
})

// hostAddrs are the addresses that a machine has in its own namespace.
func hostAddrs(ctx context.Context, b *Bench, machine string) (map[netip.Addr]bool, error) {
	s, err := b.devices(ctx, machine)
	if err != nil {
		return nil, err
	}
	out := map[netip.Addr]bool{}
	for _, a := range s.Spaces[""].Addrs {
		out[a.Prefix.Addr()] = true
	}
	return out, nil
}

// finished makes the devices of places finish checksums themselves, as a wire would carry them, instead of leaving them
// to the next device: veth has no wire, and passes them on undone.
func finished(ctx context.Context, b *Bench, places ...Place) error {
	var steps []topology.Step
	for _, p := range places {
		device := b.plan.Machine(p.Machine).NICs[0].Name
		if p.Container != "" {
			device = exitDevice(b, p)
		}
		steps = append(steps, topology.Step{On: p.Machine, In: p.Container, Offload: &topology.Offload{Link: device, Feature: "tx-checksum"}})
	}
	return b.Apply(ctx, steps...)
}

// wrong tells packets with a checksum that is not right.
func wrong(p lab.Packet) bool { return p.IP != nil && (!p.IP.HeaderOK || p.IP.Transport != "ok") }

// onSegment tells packets on the wires between machines from those inside of hosts.
func onSegment(b *Bench, p lab.Packet) bool {
	m := b.plan.Machine(p.Machine)
	return p.In == "" && (m.Role == topology.RoleTor || m.NIC(p.Device) != nil)
}

// mentions tells whether a packet has or looks for an address.
func mentions(p lab.Packet, a netip.Addr) bool {
	return p.Src.Addr() == a || p.Dst.Addr() == a || p.ARP != nil && (p.ARP.SenderIP == a || p.ARP.TargetIP == a) || p.NDP != nil && p.NDP.Target == a
}

var _ = register(Spec{
	Suite: "packets",
	Feature: Feature{
		Name: "dnat-hidden", Group: "ports",
		Doc: "Is the container's private address never seen on the segment while a published port is used, with valid checksums?",
	},
	Name: "an external machine uses published ports by UDP and TCP, and the packets of the segment are looked through",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		if b.Mode().Publish == nil {
			return mapsNoPorts(), nil
		}
		to, x := container(b), external(b)
		o := works("%s used ports of %s published for %s by TCP and UDP over %s: the segment carried the host's address alone, and every checksum was right after translation", x, to.Machine, to, b.span())
		carried := 0
		own := b.plan.Machine(x.Machine).NICs[0].MAC
		for _, f := range b.families() {
			recorded, err := b.Record(ctx)
			if err != nil {
				return Observation{}, err
			}
			target, inner, reproduce, err := published(ctx, b, to, f, "tcp", "udp")
			if err != nil {
				return Observation{}, err
			}
			o.Reproduce = append(o.Reproduce, reproduce...)
			if err := finished(ctx, b, to, x); err != nil { // once the port is there: who publishes may have made the container's device anew
				return Observation{}, err
			}
			t, err := try(ctx, b, x, to, target, "tcp", "udp")
			if err != nil {
				return Observation{}, err
			}
			private, err := exitAddr(ctx, b, to, f)
			if err != nil {
				return Observation{}, err
			}
			packets, err := recorded(ctx, nil)
			if err != nil {
				return Observation{}, err
			}
			for _, p := range packets {
				delivered := p.Machine == to.Machine && p.In == to.Container && !p.Outgoing && p.Dst == netip.AddrPortFrom(private, inner)
				answered := p.Machine == x.Machine && !p.Outgoing && p.Src == target
				control := p.Token != "" && p.Token != t.tokens["tcp"] && p.Token != t.tokens["udp"] // it may call the container by its own address
				switch {
				case control:
				case onSegment(b, p) && mentions(p, private) && !bytes.Equal(p.EthSrc, own): // who asks for it is not who shows it
					return blocked("%s appeared on the segment while %s used port %d of %s", private, x, target.Port(), to.Machine).with(at(p), "%s", p.Text), nil
				case (delivered || answered) && wrong(p):
					return blocked("a checksum was wrong after translation").with(at(p), "%s; header right: %t; transport checksum: %s", p.Text, p.IP.HeaderOK, p.IP.Transport), nil
				case answered:
					carried++
				}
				if (delivered || answered) && p.Token == t.tokens["udp"] {
					o.Evidence = append(o.Evidence, seen(p))
				}
			}
			if _, no := t.answered(); len(no) > 0 {
				lost := t.observation()
				lost.Status, lost.Detail = "mixed", "the published port was of no use: "+lost.Detail
				return lost, nil
			}
		}
		return o.value("count", float64(carried)), nil
	},
	Sabotage: []Sabotage{
		{Mode: "bridge", Doc: "the host routes the container's address out onto the segment", Steps: func(p *topology.Plan) []topology.Step {
			h := p.Hosts()[0]
			y := p.Externals()[1].NICs[0]
			return []topology.Step{{On: h.Name, Route: &topology.Route{
				Dst: netip.PrefixFrom(h.Containers[0].Private4.Addr(), 32), Via: y.V4.Addr(), Link: p.Networks[0].NIC,
			}}}
		}},
		{Mode: "ptp", Doc: "forwarding is off", Steps: unforwarded(IPv4, IPv6)},
	},
})
