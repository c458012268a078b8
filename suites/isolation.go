package suites

import (
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

var _ = registerFamilies(func(f Family) Spec {
	return Spec{
		Suite:   "conformance",
		Feature: Feature{Name: "network-isolation", Group: "isolation", Doc: "Are containers of different networks on one host kept apart?"},
		Name:    "containers of two networks of one host ask each other, at the address of each, by ICMP echo, UDP and TCP",
		Run: func(ctx context.Context, b *Bench) (Observation, error) {
			first, second := container(b), b.Containers(firstHost(b), b.plan.Networks[1].Name)[0]
			got := make([]Observation, 2)
			for i, way := range [][2]Place{{first, second}, {second, first}} {
				var err error
				if got[i], _, err = reach(ctx, b, way[0], way[1], f); err != nil {
					return Observation{}, err
				}
			}
			o := Observation{Detail: got[0].Detail + "; " + got[1].Detail, Evidence: append(got[0].Evidence, got[1].Evidence...)}
			// Kept apart is what the two reaching each other is not.
			switch {
			case got[0].Status != got[1].Status:
				o.Status = "mixed"
			case got[0].Status == reports.Blocked:
				o.Status = reports.Works
			case got[0].Status == reports.Works:
				o.Status = reports.Blocked
			default:
				o.Status = "mixed"
			}
			return o, nil
		},
		Sabotage: []Sabotage{
			{Mode: "bridge", Doc: "no rules keep networks apart", Steps: tableRemoved("bridge", "filter-")},
			{Mode: "ptp", Doc: "no rules keep networks apart", Steps: tableRemoved("ptp", "filter-")},
			{Mode: "host", Doc: "each container has an empty namespace of its own", Rewire: separated},
			{Mode: "ipvlan-l3", Doc: "what is for the host's other network goes by the router", Steps: reachable},
			{Mode: "ipvlan-l3s", Doc: "what is for the host's other network goes by the router", Steps: reachable},
		},
	}
})

// firewall drops, at each hook of a host's IP packet filter, what comes from or goes to an external machine. Each of its
// rules is called by the hook and the family. A table of each family: not every kernel has those of both (inet).
func firewall(b *Bench, host string, x Place) (steps []topology.Step) {
	for _, f := range []Family{IPv4, IPv6} {
		t := topology.Table{Family: map[Family]string{IPv4: "ip", IPv6: "ip6"}[f], Name: "firewall"}
		for _, hook := range []string{"input", "forward", "output"} {
			match := destined(addrOf(b, x, f))
			if hook == "input" {
				match.Field = strings.Replace(match.Field, "daddr", "saddr", 1)
			}
			t.Chains = append(t.Chains, topology.Chain{Name: hook, Type: "filter", Hook: hook, Rules: []topology.Rule{{
				Match: []topology.Match{match}, Verdict: topology.Verdict{Kind: "drop"}, Comment: fmt.Sprintf("%s %s", hook, f),
			}}})
		}
		steps = append(steps, topology.Step{On: host, Table: &t})
	}
	return steps
}

var _ = register(Spec{
	Suite: "conformance",
	Feature: Feature{
		Name: "host-firewall", Group: "isolation",
		Doc: "Can the host's IP packet filter (hooks input, forward, output) stop a container's traffic to an external machine?",
	},
	Name:  "a host drops all packets from and to an external machine in its input, forward and output hooks, and a container asks that machine",
	Needs: []modes.Kernel{modes.NFTables},
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		if o := numberless(b); o != nil {
			return *o, nil
		}
		c, x, y := container(b), external(b), Place{Machine: b.plan.Externals()[1].Name}
		families := b.families()
		for _, f := range families {
			if _, err := echoed(ctx, b, c, x, f); err != nil {
				return Observation{}, err
			}
		}
		rules := firewall(b, c.Machine, x)
		if err := b.Apply(ctx, rules...); err != nil {
			return Observation{}, err
		}
		var stopped []string
		var o Observation
		for _, f := range families {
			t, err := try(ctx, b, c, x, netip.AddrPortFrom(addrOf(b, x, f), controlPort), "icmp", "udp")
			if err != nil {
				return Observation{}, err
			}
			yes, no := t.answered()
			for _, proto := range no {
				stopped = append(stopped, proto+" by "+string(f))
			}
			e, err := echoed(ctx, b, c, y, f)
			if err != nil {
				return Observation{}, err
			}
			o = o.with(c.String(), "%s of %s by %s: answered %s, not answered %s", strings.Join(slices.Concat(yes, no), ", "), x, f, orNone(yes), orNone(no))
			o.Evidence = append(o.Evidence, e)
		}
		s, err := b.own(ctx, c.Machine)
		if err != nil {
			return Observation{}, err
		}
		hit := map[Family]bool{}
		for _, r := range s.Rules {
			if r.Table != "firewall" || r.Packets == 0 {
				continue
			}
			for _, f := range families {
				hit[f] = hit[f] || strings.HasSuffix(r.Comment, string(f))
			}
			o = o.with(c.Machine, "rule %q dropped %d packets", r.Comment, r.Packets)
		}
		counted := !slices.ContainsFunc(families, func(f Family) bool { return !hit[f] })
		asked := fmt.Sprintf("%s dropped what is from or to %s at its IP hooks, and %s asked %s by %s", c.Machine, x, c, x, b.span())
		switch {
		case len(stopped) == 2*len(families) && counted:
			o.Status, o.Detail = reports.Works, asked+": nothing was answered, and the rules counted it"
		case len(stopped) == 0:
			o.Status, o.Detail = reports.Blocked, asked+": all was answered, past the filter"
		default:
			o.Status, o.Detail = "mixed", fmt.Sprintf("%s: not answered: %s; rules counted IPv4 %t, IPv6 %t", asked, orNone(stopped), hit[IPv4], hit[IPv6])
		}
		o.Reproduce = lines(rules)
		return o, nil
	},
	Sabotage: []Sabotage{
		{Mode: "bridge", Doc: "the container has a macvlan device on the host's interface, too", Steps: beside},
	},
})

// beside gives the first container a macvlan device on its host's interface, too, with its address on the segment.
func beside(p *topology.Plan) []topology.Step {
	h := p.Hosts()[0]
	c := h.Containers[0]
	steps := []topology.Step{
		{Link: &topology.Link{Name: "beside", Kind: "macvlan", Parent: h.NICs[0].Name, ParentMode: "bridge"}},
		{Addr: &topology.Addr{Link: "beside", Prefix: c.Segment4}},
		{Addr: &topology.Addr{Link: "beside", Prefix: c.Segment6, NoDAD: true}},
		{Set: &topology.LinkSet{Name: "beside", State: "up"}},
	}
	for i := range steps {
		steps[i].On, steps[i].In = h.Name, c.Name
	}
	return steps
}

// spawn starts a process in a place until the spec ends.
func spawn(ctx context.Context, b *Bench, at Place, separate ...string) (lab.Process, error) {
	var p lab.Process
	if err := b.Do(ctx, at.Machine, "Host.Spawn", lab.Spawn{In: at.Container, Separate: separate}, &p); err != nil {
		return p, err
	}
	b.atEnd(func(ctx context.Context) error {
		return b.Do(ctx, at.Machine, "Host.Kill", lab.Kill{PID: p.PID}, &lab.Nothing{})
	})
	return p, nil
}

var _ = register(Spec{
	Suite: "conformance",
	Feature: Feature{
		Name: "separate-processes", Group: "isolation",
		Doc: "Have two containers mount, PID and UTS namespaces of their own, whatever they share of the network?",
	},
	Name: "a process of each of two containers is started with mount, PID and UTS namespaces of its own, and its namespaces are read",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		kinds := []string{"mnt", "pid", "uts"}
		first, second := container(b), companion(b)
		host := Place{Machine: first.Machine}
		s, err := b.devices(ctx, host.Machine)
		if err != nil {
			return Observation{}, err
		}
		var got []lab.Process
		var shared, elsewhere []string
		var o Observation
		for _, at := range []Place{host, first, second} {
			separate := kinds
			if at == host {
				separate = nil
			}
			p, err := spawn(ctx, b, at, separate...)
			if err != nil {
				return Observation{}, err
			}
			o = o.with(at.String(), "process %d: net:[%d] mnt:[%d] pid:[%d] uts:[%d]", p.PID, p.Namespaces["net"], p.Namespaces["mnt"], p.Namespaces["pid"], p.Namespaces["uts"])
			for i, other := range got {
				for _, kind := range kinds {
					if p.Namespaces[kind] == other.Namespaces[kind] {
						shared = append(shared, fmt.Sprintf("%s has the %s namespace of %s", at, kind, []Place{host, first, second}[i]))
					}
				}
			}
			got = append(got, p)
			// That it is the container's process shows in its network: the namespace of the mode, with the mode's address.
			space := s.Spaces[at.Container]
			if _, err := linkWith(space, addrOf(b, at, IPv4)); p.Namespaces["net"] != space.Inode || at != host && b.mode.Addrs != nil && err != nil {
				elsewhere = append(elsewhere, at.String())
			}
		}
		network := "networks of their own"
		if got[1].Namespaces["net"] == got[2].Namespaces["net"] {
			network = "one network"
		}
		running := fmt.Sprintf("processes of %s and %s, in %s,", first, second, network)
		switch {
		case len(elsewhere) > 0:
			o.Status, o.Detail = "mixed", fmt.Sprintf("%s are not in the network of the mode: %s", running, strings.Join(elsewhere, ", "))
		case len(shared) > 0:
			o.Status, o.Detail = reports.Blocked, fmt.Sprintf("%s share: %s", running, strings.Join(shared, "; "))
		default:
			o.Status, o.Detail = reports.Works, running+" have mount, PID and UTS namespaces of their own"
		}
		return o, nil
	},
	Sabotage: []Sabotage{
		{Mode: "bridge", Doc: "the containers are in namespaces without the mode's devices", Rewire: unnumbered},
	},
})

// unnumbered leaves nothing of attaching but the namespace.
func unnumbered(steps []topology.Step) []topology.Step { return steps[:1] }

var _ = register(Spec{
	Suite:   "conformance",
	Feature: Feature{Name: "config-denied", Group: "isolation", Doc: "Is a process without CAP_NET_ADMIN refused to change the container's interfaces?"},
	Name:    "a thread in a container gives up CAP_NET_ADMIN, and tries to change the device, its addresses and the routes",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		c := container(b)
		device := ownDevice(b, c)
		if device == "" {
			device = "lo"
		}
		documentation := netip.MustParsePrefix("192.0.2.1/32") // RFC 5737
		steps := []topology.Step{
			{Addr: &topology.Addr{Link: device, Prefix: documentation}},
			{Route: &topology.Route{Dst: netip.MustParsePrefix("198.51.100.0/24"), Link: device}},
			{Set: &topology.LinkSet{Name: device, MTU: 1300}},
		}
		said := map[string]int{}
		var o Observation
		for _, step := range steps {
			step.On, step.In = c.Machine, c.Container
			r, err := b.Attempt(ctx, step, "net_admin")
			if err != nil {
				return Observation{}, err
			}
			said[r.Errno]++
			o = o.with(c.String(), "without CAP_NET_ADMIN: %s: %s", step, orNone(strings.Fields(r.Errno)))
			o.Reproduce = append(o.Reproduce, step.String())
		}
		asked := fmt.Sprintf("%s was to give %s an address, a route and an MTU without CAP_NET_ADMIN", c, device)
		switch {
		case said["EPERM"] == len(steps):
			// With the capability the first is let: what is refused is the right, not the change.
			step := steps[0]
			step.On, step.In = c.Machine, c.Container
			r, err := b.Attempt(ctx, step)
			if err == nil && r.Errno != "" {
				err = fmt.Errorf("%s: refused even with CAP_NET_ADMIN: %s", step, r.Text)
			}
			if err != nil {
				return Observation{}, err
			}
			o.Status, o.Detail = reports.Works, asked+": all refused with EPERM"
			return o.with(c.String(), "control: with CAP_NET_ADMIN the address is taken"), nil
		case said[""] == len(steps):
			o.Status, o.Detail = reports.Blocked, asked+": none refused"
		default:
			o.Status, o.Detail = "mixed", fmt.Sprintf("%s: only %d of %d refused with EPERM", asked, said["EPERM"], len(steps))
		}
		return o, nil
	},
	Sabotage: []Sabotage{
		{Mode: "bridge", Doc: "the container has no device that could be protected", Rewire: unnumbered},
	},
})

// overheard are the packets with some tokens that a capture in a place sees. A container that shares its namespace sees
// what is recorded there by another name.
func overheard(ctx context.Context, b *Bench, by Place, packets []lab.Packet, tokens ...string) ([]lab.Packet, error) {
	s, err := b.devices(ctx, by.Machine)
	if err != nil {
		return nil, err
	}
	var out []lab.Packet
	for _, p := range packets {
		if p.Machine == by.Machine && s.Spaces[p.In].Inode == s.Spaces[by.Container].Inode && slices.Contains(tokens, p.Token) {
			out = append(out, p)
		}
	}
	return out, nil
}

// within sends a message within a place's own stack, which a capture there must see: that it is alive.
func within(ctx context.Context, b *Bench, p Place) (token string, err error) {
	token = b.newToken()
	r, err := b.Ask(ctx, p, lab.Ask{Proto: "icmp", To: netip.AddrPortFrom(loopback(IPv4), 0), Token: token})
	if err == nil && !r.Answered {
		err = fmt.Errorf("%s: its own loopback does not answer", p)
	}
	return token, err
}

// listening is what came of a capture of others' traffic.
func listening(ctx context.Context, b *Bench, by Place, packets []lab.Packet, alive string, of []string) (heard []lab.Packet, evidence []reports.Evidence, err error) {
	own, err := overheard(ctx, b, by, packets, alive)
	if err == nil && len(own) == 0 {
		err = fmt.Errorf("%s: its capture does not even see its own loopback", by)
	}
	if err != nil {
		return nil, nil, err
	}
	if heard, err = overheard(ctx, b, by, packets, of...); err != nil {
		return nil, nil, err
	}
	for _, p := range packets {
		if slices.Contains(of, p.Token) && len(evidence) < 12 {
			evidence = append(evidence, seen(p))
		}
	}
	control := seen(own[0])
	control.Saw = "control: " + control.Saw
	return heard, append(evidence, control), nil
}

var _ = register(Spec{
	Suite: "conformance",
	Feature: Feature{
		Name: "host-capture-denied", Group: "isolation",
		Doc: "Is a container process with CAP_NET_RAW kept from seeing the host's own traffic?",
	},
	Name: "a host and an external machine send each other datagrams, and a capture in a container is searched for them",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		c, x := container(b), external(b)
		host := Place{Machine: c.Machine}
		recorded, err := b.Record(ctx)
		if err != nil {
			return Observation{}, err
		}
		out, in := b.newToken(), b.newToken()
		ask := func(from, to Place, token string) func() error {
			return func() error {
				// Not answered is an answer, too: a mode may take the host's own traffic away from it.
				_, err := b.Ask(ctx, from, lab.Ask{Proto: "udp", To: netip.AddrPortFrom(addrOf(b, to, IPv4), controlPort), Token: token, Wait: hopeful})
				return err
			}
		}
		if err := all(ask(host, x, out), ask(x, host, in)); err != nil {
			return Observation{}, err
		}
		alive, err := within(ctx, b, c)
		if err != nil {
			return Observation{}, err
		}
		packets, err := recorded(ctx, func(p lab.Packet) bool { return slices.Contains([]string{out, in, alive}, p.Token) })
		if err != nil {
			return Observation{}, err
		}
		if !slices.ContainsFunc(packets, func(p lab.Packet) bool {
			return p.Token == in && p.Machine == host.Machine && p.In == "" && !p.Outgoing
		}) {
			return Observation{}, fmt.Errorf("nothing that %s sent came to %s: there was nothing to see", x, host)
		}
		heard, evidence, err := listening(ctx, b, c, packets, alive, []string{out, in})
		if err != nil {
			return Observation{}, err
		}
		o := works("%s and %s sent each other datagrams: a capture in %s saw nothing of it", host, x, c)
		if len(heard) > 0 {
			o = blocked("%s and %s sent each other datagrams: a capture in %s saw %s", host, x, c, heard[0].Text)
		}
		o.Evidence = evidence
		return o, nil
	},
	Sabotage: []Sabotage{
		{Mode: "bridge", Doc: "the container has a passthru device on the host's interface, too", Steps: func(p *topology.Plan) []topology.Step {
			h := p.Hosts()[0]
			return []topology.Step{
				{On: h.Name, In: h.Containers[0].Name, Link: &topology.Link{Name: "beside", Kind: "macvlan", Parent: h.NICs[0].Name, ParentMode: "passthru"}},
				{On: h.Name, In: h.Containers[0].Name, Set: &topology.LinkSet{Name: "beside", State: "up"}},
			}
		}},
		{Mode: "host", Doc: "each container has an empty namespace of its own", Rewire: separated},
	},
})

var _ = register(Spec{
	Suite: "conformance",
	Feature: Feature{
		Name: "neighbour-capture", Group: "isolation",
		Doc: "Can a neighbour container with CAP_NET_RAW record the container's traffic without changing anything?",
	},
	Name: "a container talks to an external machine (or, without an address, to itself), and a capture in its neighbour is searched for it",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		first, second, ok := pair(b, firstHost(b), network(b))
		if !ok {
			return oneContainer(), nil
		}
		recorded, err := b.Record(ctx)
		if err != nil {
			return Observation{}, err
		}
		a := lab.Ask{Proto: "udp", To: netip.AddrPortFrom(addrOf(b, external(b), IPv4), controlPort), Token: b.newToken()}
		if b.mode.Addrs == nil {
			a.Proto, a.To = "icmp", netip.AddrPortFrom(loopback(IPv4), 0)
		}
		r, err := b.Ask(ctx, first, a)
		if err != nil {
			return Observation{}, err
		}
		alive, err := within(ctx, b, second)
		if err != nil {
			return Observation{}, err
		}
		packets, err := recorded(ctx, func(p lab.Packet) bool { return p.Token == a.Token || p.Token == alive })
		if err != nil {
			return Observation{}, err
		}
		heard, evidence, err := listening(ctx, b, second, packets, alive, []string{a.Token})
		if err == nil && !r.Answered && len(heard) == 0 {
			err = fmt.Errorf("%s asked %s in vain: there was nothing to record", first, a.To)
		}
		if err != nil {
			return Observation{}, err
		}
		o := blocked("%s asked %s and was answered: a capture in %s saw nothing of it", first, a.To, second)
		if len(heard) > 0 {
			o = works("%s asked %s: a capture in %s saw %d packets of it, such as %s", first, a.To, second, len(heard), heard[0].Text)
		}
		o.Evidence = evidence
		return o, nil
	},
	Sabotage: []Sabotage{
		{Mode: "bridge", Doc: "the second container enters the first one's namespace", Rewire: joined},
		{Mode: "container", Doc: "each container has an empty namespace of its own", Rewire: separated},
		{Mode: "macvlan-private", Doc: "the second container enters the first one's namespace", Rewire: joined},
	},
})

var _ = register(Spec{
	Suite: "lifecycle",
	Feature: Feature{
		Name: "survives-owner", Group: "isolation",
		Doc: "Does a container keep its network when the neighbour that was started first goes away?",
	},
	Name: "a container goes away, and its neighbour on the same host asks an external machine (or, without an address, itself)",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		first, second, ok := pair(b, firstHost(b), network(b))
		if !ok {
			return oneContainer(), nil
		}
		to, addrs := external(b), []netip.AddrPort{}
		for _, f := range b.families() {
			a := addrOf(b, to, f)
			if b.mode.Addrs == nil {
				a = loopback(f)
			}
			addrs = append(addrs, netip.AddrPortFrom(a, controlPort))
		}
		// Whether it is answered, in each family; by echoes, which need no server.
		ask := func() (answered []string, err error) {
			for _, a := range addrs {
				r, err := b.Ask(ctx, second, lab.Ask{Proto: "icmp", To: a})
				if err != nil {
					return nil, err
				}
				if r.Answered {
					answered = append(answered, a.Addr().String())
				}
			}
			return answered, nil
		}
		before, err := ask()
		if err == nil && len(before) < len(addrs) {
			err = fmt.Errorf("%s reaches only %s from the start: there is nothing to keep", second, orNone(before))
		}
		if err != nil {
			return Observation{}, err
		}
		gone := topology.Step{On: first.Machine, Remove: true, Space: &topology.Space{Name: first.Container}}
		s, err := b.devices(ctx, first.Machine)
		if err != nil {
			return Observation{}, err
		}
		if s.Spaces[first.Container].Inode == s.Spaces[second.Container].Inode {
			// To detach the first would take the device from both: it ends, as a process does, and lets its namespace go.
			// In the end all of the network is attached anew: what shares a namespace must share the new one.
			b.atEnd(func(ctx context.Context) error { return renew(ctx, b, first.Machine, network(b)) })
			err = b.Do(ctx, first.Machine, "Host.Apply", lab.Apply{Steps: []topology.Step{gone}}, &lab.Nothing{})
		} else {
			err = aside(ctx, b, first) // and not only let go: the kernel takes its time to clean a namespace up
		}
		if err != nil {
			return Observation{}, err
		}
		after, err := ask()
		if err != nil {
			return Observation{}, err
		}
		o := Observation{Status: "mixed", Detail: fmt.Sprintf("%s went away: %s, which reached %s, then reached %s", first, second, strings.Join(before, ", "), orNone(after))}
		switch len(after) {
		case len(addrs):
			o.Status = reports.Works
		case 0:
			o.Status = reports.Blocked
		}
		o.Reproduce = []string{gone.String()}
		return o.with(second.String(), "echoes answered before: %s", orNone(before)).with(second.String(), "echoes answered after: %s", orNone(after)), nil
	},
	Sabotage: []Sabotage{
		{Mode: "bridge", Doc: "the neighbour's route to the external machine leads by the first container", Steps: func(p *topology.Plan) []topology.Step {
			h := p.Hosts()[0]
			to := p.Externals()[0].NICs[0].V4.Addr()
			return []topology.Step{
				{On: h.Name, In: h.Containers[0].Name, Sysctl: &topology.Sysctl{Key: "net/ipv4/ip_forward", Value: "1"}},
				{On: h.Name, In: h.Containers[1].Name, Route: &topology.Route{Dst: netip.PrefixFrom(to, to.BitLen()), Via: h.Containers[0].Private4.Addr(), Link: "eth0"}},
			}
		}},
	},
})
