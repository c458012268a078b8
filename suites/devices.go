package suites

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/modebench/modebench/modes"
	"github.com/modebench/modebench/reports"
	"github.com/modebench/modebench/topology"
	"github.com/modebench/modebench/topology/lab"
)

// besides is a device that only specs and sabotages make, next to those of containers.
const besides = "beside"

var _ = register(Spec{
	Suite:   "conformance",
	Feature: Feature{Name: "mac-change", Group: "addresses", Doc: "Can the MAC address of a container's device be changed?"},
	Name:    "a container's device is given another MAC address, and its own again",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		if o := deviceless(b); o != nil {
			return *o, nil
		}
		c := container(b)
		other := net.HardwareAddr{0x02, 0x5e, 0x10, 0, 0, 3}
		step := topology.Step{On: c.Machine, In: c.Container, Set: &topology.LinkSet{Name: ownDevice(b, c), MAC: other}}
		refusal, err := b.Attempt(ctx, step)
		if err != nil {
			return Observation{}, err
		}
		o := Observation{Status: "mixed", Detail: fmt.Sprintf("%s was to have the MAC address %s: %s", c, other, refusal.Text)}
		switch refusal.Errno {
		case "EOPNOTSUPP", "ENOTSUP": // one number (errno(3))
			o = blocked("%s was to have the MAC address %s: refused with EOPNOTSUPP", c, other).with(c.String(), "%s", refusal.Text)
		case "":
			const owner = specOwner + " mac"
			if err := b.lab.Apply(ctx, owner, []topology.Step{step}); err != nil {
				return Observation{}, err
			}
			b.atEnd(func(ctx context.Context) error { return b.lab.Undo(ctx, owner) })
			l, err := linkOf(ctx, b, c, ownDevice(b, c))
			if err != nil {
				return Observation{}, err
			}
			o = whether(bytes.Equal(l.MAC, other), "%s was to have the MAC address %s: it has %s", c, other, l.MAC)
		}
		o.Reproduce = []string{step.String()}
		return o, nil
	},
	Sabotage: []Sabotage{
		{Mode: "macvlan-bridge", Doc: "another device on the host's interface has that MAC address", Steps: func(p *topology.Plan) []topology.Step {
			h := p.Hosts()[0]
			return []topology.Step{{On: h.Name, Link: &topology.Link{
				Name: besides, Kind: "macvlan", MAC: net.HardwareAddr{0x02, 0x5e, 0x10, 0, 0, 3}, Parent: p.Networks[0].NIC, ParentMode: "bridge", Up: true,
			}}}
		}},
		{Mode: "ipvlan-l2", Doc: "the devices are macvlan devices", Rewire: kindOf("macvlan", "bridge")},
	},
})

// kindOf makes the devices that attaching stacks on the host's interface of another kind.
func kindOf(kind, mode string) func([]topology.Step) []topology.Step {
	return mapLinks(func(l *topology.Link) {
		if l.Parent != "" {
			l.Kind, l.ParentMode = kind, mode
		}
	})
}

var _ = registerFamilies(func(f Family) Spec {
	return Spec{
		Suite: "conformance",
		Feature: Feature{
			Name: "duplicate-address-refused", Group: "addresses",
			Doc: "Is an address that a container has refused to another of its network and host?",
		},
		Name: "a container is to have the address of its neighbour, too",
		Run: func(ctx context.Context, b *Bench) (Observation, error) {
			if o := deviceless(b, f); o != nil {
				return *o, nil
			}
			first, second, ok := pair(b, firstHost(b), network(b))
			if !ok {
				return oneContainer(), nil
			}
			a := addrOf(b, first, f)
			if a == addrOf(b, second, f) {
				return notApplicable("the containers share one interface, and with it its addresses"), nil
			}
			step := topology.Step{On: second.Machine, In: second.Container, Addr: &topology.Addr{
				Link: ownDevice(b, second), Prefix: netip.PrefixFrom(a, a.BitLen()), NoDAD: true,
			}}
			refusal, err := b.Attempt(ctx, step)
			if err != nil {
				return Observation{}, err
			}
			o := Observation{Status: "mixed", Detail: fmt.Sprintf("%s was to have %s, which %s has: %s", second, a, first, refusal.Text)}
			switch refusal.Errno {
			case "EADDRINUSE":
				o = works("%s was to have %s, which %s has: refused with EADDRINUSE", second, a, first).with(second.String(), "%s", refusal.Text)
			case "":
				o = blocked("%s was to have %s, which %s has: the kernel took it", second, a, first)
			}
			o.Reproduce = []string{step.String()}
			return o, nil
		},
		Sabotage: []Sabotage{
			{Mode: "bridge", Doc: "the second container has the address already", Steps: func(p *topology.Plan) []topology.Step {
				h := p.Hosts()[0]
				prefix := map[Family]netip.Prefix{IPv4: h.Containers[0].Private4, IPv6: h.Containers[0].Private6}[f]
				return []topology.Step{{On: h.Name, In: h.Containers[1].Name, Addr: &topology.Addr{
					Link: "eth0", Prefix: netip.PrefixFrom(prefix.Addr(), prefix.Addr().BitLen()), NoDAD: true,
				}}}
			}},
			{Mode: "ipvlan-l2", Doc: "the devices are macvlan devices", Rewire: kindOf("macvlan", "bridge")},
		},
	}
})

// parentModes are what a device of a kind can be told to do, in the words of ip-link(8); passthru is not one that a second
// device of an interface could have.
var parentModes = map[string][]string{"macvlan": {"private", "vepa", "bridge"}, "ipvlan": topology.IPVLANModes}

var _ = register(Spec{
	Suite: "lifecycle",
	Feature: Feature{
		Name: "mode-kept", Group: "lifecycle",
		Doc: "Does a container's device keep its mode when a device of another mode is made on the same interface of the host?",
	},
	Name: "on the interface that a container's device is stacked on, a device of another mode is made, and the mode of the container's is read",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		c := container(b)
		own, err := made(ctx, b, c)
		if err != nil {
			return Observation{}, err
		}
		if own == nil || own.ParentMode == "" {
			return notApplicable("the mode stacks no device of its own on the host's interface"), nil
		}
		before, err := linkOf(ctx, b, c, own.Name)
		if err != nil {
			return Observation{}, err
		}
		device := func(mode string) topology.Step {
			return topology.Step{On: c.Machine, Link: &topology.Link{Name: besides, Kind: own.Kind, Parent: own.Parent, ParentMode: mode}}
		}
		modes := parentModes[own.Kind]
		other := device(modes[(slices.Index(modes, own.ParentMode)+1)%len(modes)])
		refusal, err := b.Attempt(ctx, other)
		if err != nil {
			return Observation{}, err
		}
		if refusal.Errno != "" {
			return notApplicable("the host's interface takes no second device: %s", refusal.Errno).with(c.Machine, "%s", refusal.Text), nil
		}
		const owner = specOwner + " other mode"
		if err := b.lab.Apply(ctx, owner, []topology.Step{other}); err != nil {
			return Observation{}, err
		}
		b.atEnd(func(ctx context.Context) error {
			if err := b.lab.Undo(ctx, owner); err != nil {
				return err
			}
			// Where the mode is the interface's, it is the last one that was asked for.
			_, err := b.Attempt(ctx, device(before.Mode))
			return err
		})
		after, err := linkOf(ctx, b, c, own.Name)
		if err != nil {
			return Observation{}, err
		}
		beside, err := linkOf(ctx, b, Place{Machine: c.Machine}, besides)
		if err != nil {
			return Observation{}, err
		}
		if beside.Mode != other.Link.ParentMode {
			return Observation{}, fmt.Errorf("%s of %s was to be of mode %s and is of mode %q", besides, c.Machine, other.Link.ParentMode, beside.Mode)
		}
		o := whether(after.Mode == before.Mode, "%s of %s was of mode %s; when a device of mode %s was made on the same interface, it was of mode %s",
			own.Name, c, before.Mode, beside.Mode, after.Mode)
		o.Reproduce = []string{other.String()}
		return o.with(c.String(), "flags before: %s; after: %s", strings.Join(before.Flags, ","), strings.Join(after.Flags, ",")), nil
	},
	Sabotage: []Sabotage{
		{Mode: "macvlan-passthru", Doc: "the devices are of mode private", Rewire: parentMode("private")},
		{Mode: "ipvlan-l2", Doc: "the devices are macvlan devices", Rewire: kindOf("macvlan", "bridge")},
	},
})

var _ = register(Spec{
	Suite: "lifecycle",
	Feature: Feature{
		Name: "macvlan-beside", Group: "lifecycle",
		Doc: "Can a macvlan device be made on the host's interface that the containers' traffic leaves by?",
	},
	Name: "a macvlan device is made on the host's interface while containers are attached, and on one that nothing uses",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		c := container(b)
		const unused = "unused"
		if err := b.Apply(ctx, topology.Step{On: c.Machine, Link: &topology.Link{Name: unused, Kind: "veth", PeerName: unused + "-end"}}); err != nil {
			return Observation{}, err
		}
		device := func(parent string) topology.Step {
			return topology.Step{On: c.Machine, Link: &topology.Link{Name: besides, Kind: "macvlan", Parent: parent, ParentMode: "bridge"}}
		}
		control, err := b.Attempt(ctx, device(unused))
		if err == nil && control.Errno != "" {
			err = fmt.Errorf("no macvlan device can be made on %s of %s either: %s", unused, c.Machine, control.Text)
		}
		if err != nil {
			return Observation{}, err
		}
		step := device(uplink(b).Name)
		refusal, err := b.Attempt(ctx, step)
		if err != nil {
			return Observation{}, err
		}
		o := whether(refusal.Errno == "", "a macvlan device was to be made on %s of %s: refused %q", uplink(b).Name, c.Machine, refusal.Errno).
			with(c.Machine, "control: one was made on an interface that nothing uses")
		o.Reproduce = []string{step.String()}
		if refusal.Errno != "" {
			o = o.with(c.Machine, "%s", refusal.Text)
		}
		// Two kinds that keep off each other do so whichever comes first.
		link, err := made(ctx, b, c)
		if err != nil {
			return Observation{}, err
		}
		if link == nil || link.Parent == "" || link.Kind == "macvlan" {
			return o, nil
		}
		if err := b.Apply(ctx, device(unused)); err != nil {
			return Observation{}, err
		}
		own := *link
		own.Name, own.Parent = "own", unused
		second, err := b.Attempt(ctx, topology.Step{On: c.Machine, Link: &own})
		if err != nil {
			return Observation{}, err
		}
		o.Detail += fmt.Sprintf("; a device of the mode's on an interface with a macvlan device: refused %q", second.Errno)
		if (second.Errno == "") != (refusal.Errno == "") {
			o.Status = "mixed"
		}
		return o, nil
	},
	Sabotage: []Sabotage{
		{Mode: "bridge", Doc: "the host's interface is a port of the bridge", Steps: bridged(0)},
		{Mode: "macvlan-passthru", Doc: "the devices are of mode private", Rewire: parentMode("private")},
		{Mode: "ipvlan-l2", Doc: "the devices are macvlan devices", Rewire: kindOf("macvlan", "bridge")},
	},
})

var _ = register(Spec{
	Suite:   "packets",
	Feature: Feature{Name: "no-bridge", Group: "packets", Doc: "Does the mode do without a bridge on the host?"},
	Name:    "the devices of a host are looked through for bridges",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		host := firstHost(b)
		s, err := b.devices(ctx, host)
		if err != nil {
			return Observation{}, err
		}
		var bridges, kinds []string
		for _, l := range s.Spaces[""].Links {
			kinds = append(kinds, l.Name+" ("+l.Kind+")")
			if l.Kind == "bridge" {
				bridges = append(bridges, l.Name)
			}
		}
		return whether(len(bridges) == 0, "%s has the bridges %s", host, orNone(bridges)).
			with(host, "devices: %s", strings.Join(kinds, ", ")).value("count", float64(len(bridges))), nil
	},
	Sabotage: []Sabotage{
		{Mode: "macvlan-bridge", Doc: "a bridge is made", Steps: func(p *topology.Plan) []topology.Step {
			return []topology.Step{{On: p.Hosts()[0].Name, Link: &topology.Link{Name: "br-more", Kind: "bridge"}}}
		}},
	},
})

// screened drops what comes from an external machine, at each hook of a host's IP packet filter that a packet to another
// may pass, and counts it before they do.
func screened(b *Bench, host string, x Place) topology.Step {
	t := topology.Table{Family: "inet", Name: "firewall"}
	for _, hook := range []string{"prerouting", "input", "forward"} {
		verdict := topology.Verdict{Kind: "drop"}
		chain := topology.Chain{Name: hook, Type: "filter", Hook: hook}
		if hook == "prerouting" {
			verdict.Kind, chain.Priority = "count", -300 // before addresses are translated
		}
		for _, f := range []Family{IPv4, IPv6} {
			match := topology.Match{Field: map[Family]string{IPv4: "ip saddr", IPv6: "ip6 saddr"}[f], Value: addrOf(b, x, f).String()}
			chain.Rules = append(chain.Rules, topology.Rule{Match: []topology.Match{match}, Verdict: verdict, Comment: fmt.Sprintf("%s %s", hook, f)})
		}
		t.Chains = append(t.Chains, chain)
	}
	return topology.Step{On: host, Table: &t}
}

var _ = register(Spec{
	Suite: "conformance",
	Feature: Feature{
		Name: "host-firewall-in", Group: "isolation",
		Doc: "Can the host's IP packet filter (hooks input and forward) stop what an external machine sends to a container?",
	},
	Name:  "an external machine asks a container, where a port has to be published by that; then the host drops all packets from the machine in its input and forward hooks, and it asks again",
	Needs: []modes.Kernel{modes.NFTables},
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		if o := numberless(b); o != nil {
			return *o, nil
		}
		c, x := container(b), external(b)
		families := b.families()
		targets := map[Family]netip.AddrPort{}
		for _, f := range families {
			port := b.freePort()
			if _, err := b.Listen(ctx, c, lab.Listen{Proto: "udp", Addr: netip.AddrPortFrom(unspecified(f), port)}); err != nil {
				return Observation{}, err
			}
			target, _, err := known(ctx, b, attachedAt(b, c), c.Machine, f, port, "udp")
			if err != nil {
				return Observation{}, err
			}
			targets[f] = target
			if ok, err := insists(ctx, b, x, target); err != nil || !ok {
				return Observation{}, fmt.Errorf("%s does not reach %s at %s: %w", x, c, target, context.Cause(ctx))
			}
		}
		rules := screened(b, c.Machine, x)
		if err := b.Apply(ctx, rules); err != nil {
			return Observation{}, err
		}
		var o Observation
		var stopped []string
		for _, f := range families {
			t, err := try(ctx, b, x, c, targets[f], "udp")
			if err != nil {
				return Observation{}, err
			}
			if !t.answers["udp"].Answered {
				stopped = append(stopped, string(f))
			}
			o = o.with(x.String(), "asked %s at %s: answered %t", c, targets[f], t.answers["udp"].Answered)
			o.Evidence = append(o.Evidence, t.control...)
		}
		s, err := b.own(ctx, c.Machine)
		if err != nil {
			return Observation{}, err
		}
		var hit []string
		dropped := map[Family]bool{}
		for _, r := range s.Rules {
			if r.Table != rules.Table.Name || r.Packets == 0 {
				continue
			}
			hit = append(hit, r.Comment)
			for _, f := range families {
				dropped[f] = dropped[f] || r.Chain != "prerouting" && strings.HasSuffix(r.Comment, string(f))
			}
			o = o.with(c.Machine, "rule %q met %d packets", r.Comment, r.Packets)
		}
		counted := !slices.ContainsFunc(families, func(f Family) bool { return !dropped[f] })
		asked := fmt.Sprintf("%s dropped what is from %s at its input and forward hooks, and %s asked %s by %s", c.Machine, x, x, c, b.span())
		switch {
		case len(stopped) == len(families) && counted:
			o.Status, o.Detail = reports.Works, asked+": nothing was answered, and the rules counted it: "+strings.Join(hit, ", ")
		case len(stopped) == 0:
			o.Status, o.Detail = reports.Blocked, asked+": all was answered, past the filter; rules that met packets: "+orNone(hit)
		default:
			o.Status, o.Detail = "mixed", fmt.Sprintf("%s: not answered: %s; rules that met packets: %s", asked, orNone(stopped), orNone(hit))
		}
		o.Reproduce = []string{rules.String()}
		return o, nil
	},
	Sabotage: []Sabotage{
		{Mode: "bridge", Doc: "what the external machine sends is from another address", Steps: otherSource},
		{Mode: "host", Doc: "what the external machine sends is from another address", Steps: otherSource},
	},
})

// otherSource has the first external machine send from an address that it has besides the one that it is known by.
func otherSource(p *topology.Plan) []topology.Step {
	x := p.Externals()[0]
	nic := x.NICs[0]
	steps := []topology.Step{}
	chain := topology.Chain{Name: "postrouting", Type: "nat", Hook: "postrouting", Priority: 100}
	for _, own := range []netip.Prefix{nic.V4, nic.V6} {
		raw := own.Addr().AsSlice()
		raw[len(raw)-1] ^= 0x40
		a, _ := netip.AddrFromSlice(raw)
		steps = append(steps, topology.Step{On: x.Name, Addr: &topology.Addr{Link: nic.Name, Prefix: netip.PrefixFrom(a, a.BitLen()), NoDAD: true}})
		chain.Rules = append(chain.Rules, topology.Rule{
			Match:   []topology.Match{{Field: map[Family]string{IPv4: "ip saddr", IPv6: "ip6 saddr"}[familyOf(a)], Value: own.Addr().String()}},
			Verdict: topology.Verdict{Kind: "snat", To: netip.AddrPortFrom(a, 0)},
		})
	}
	return append(steps, topology.Step{On: x.Name, Table: &topology.Table{Family: "inet", Name: "sabotage", Chains: []topology.Chain{chain}}})
}

// comesBy is where frames that leave a host by one of its interfaces arrive: the tor's port, and the tag that tells
// which of several interfaces on one cable it was.
func comesBy(b *Bench, host string, nic *topology.Interface) func(lab.Packet) bool {
	cable := nic
	if nic.Trunk != "" {
		cable = b.plan.Machine(host).NIC(nic.Trunk)
	}
	return func(p lab.Packet) bool {
		return !p.Outgoing && p.Machine == cable.Peer.Machine && p.Device == cable.Peer.Interface && p.VLAN == nic.VLAN
	}
}

var _ = registerFamilies(func(f Family) Spec {
	return Spec{
		Suite: "packets",
		Feature: Feature{
			Name: "host-routes", Group: "packets",
			Doc: "Do the host's routes decide by which of its interfaces a container's packets leave?",
		},
		Name: "the host gets a route to an external machine by the interface of another network, and a container asks that machine",
		Run: func(ctx context.Context, b *Bench) (Observation, error) {
			if o := numberless(b, f); o != nil {
				return *o, nil
			}
			c, x := container(b), external(b)
			own, other := uplink(b), b.plan.Machine(c.Machine).NIC(b.plan.Networks[1].NIC)
			if own == other {
				return Observation{}, fmt.Errorf("%s has one interface for both networks: there is no other way", c.Machine)
			}
			control, err := echoed(ctx, b, c, x, f)
			if err != nil {
				return Observation{}, err
			}
			a := addrOf(b, x, f)
			steps := []topology.Step{
				// Some station there, which need not answer: it is the way that is asked for.
				{On: c.Machine, Neigh: &topology.Neigh{Link: other.Name, IP: a, MAC: net.HardwareAddr{0x02, 0x5e, 0x10, 0, 0, 4}}},
				{On: c.Machine, Route: &topology.Route{Dst: netip.PrefixFrom(a, a.BitLen()), Link: other.Name, Metric: 10}},
			}
			if err := b.Apply(ctx, steps...); err != nil {
				return Observation{}, err
			}
			recorded, err := b.Record(ctx)
			if err != nil {
				return Observation{}, err
			}
			token := b.newToken()
			if _, err := b.Ask(ctx, c, lab.Ask{Proto: "udp", To: netip.AddrPortFrom(a, controlPort), Token: token, Wait: hopeful}); err != nil {
				return Observation{}, err
			}
			packets, err := recorded(ctx, func(p lab.Packet) bool { return p.Token == token })
			if err != nil {
				return Observation{}, err
			}
			o := Observation{Evidence: []reports.Evidence{control}, Reproduce: lines(steps)}
			var by []*topology.Interface
			var names []string
			for _, nic := range []*topology.Interface{own, other} {
				if i := slices.IndexFunc(packets, comesBy(b, c.Machine, nic)); i >= 0 {
					by, names = append(by, nic), append(names, nic.Name)
					o.Evidence = append(o.Evidence, seen(packets[i]))
				}
			}
			o.Detail = fmt.Sprintf("%s had a route to %s by %s, where the network's interface is %s: what %s sent left by %s",
				c.Machine, x, other.Name, own.Name, c, orNone(names))
			o.Status = "mixed"
			if len(by) == 1 {
				o.Status = whether(by[0] == other, "").Status
			}
			return o, nil
		},
		Sabotage: []Sabotage{
			{Mode: "bridge", Doc: "a better route leads back by the network's interface", Steps: func(p *topology.Plan) []topology.Step {
				h, x := p.Hosts()[0], p.Externals()[0].NICs[0]
				a := endOf(x, f)
				return []topology.Step{{On: h.Name, Route: &topology.Route{Dst: netip.PrefixFrom(a, a.BitLen()), Link: p.Networks[0].NIC, Metric: 1}}}
			}},
		},
	}
})
