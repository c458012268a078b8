package suites

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/modebench/modebench/modes"
	"github.com/modebench/modebench/reports"
	"github.com/modebench/modebench/topology"
	"github.com/modebench/modebench/topology/lab"
)

// filters is what policies of all modes are made of, and what tells which hooks see a packet.
var filters = []modes.Kernel{modes.NFTables, modes.NFBridge, modes.NFNetdev}

// insists asks by UDP, again where nothing came: the first question may wait for a link-layer address, and an answer for a processor.
func insists(ctx context.Context, b *Bench, from Place, to netip.AddrPort) (answered bool, err error) {
	return eventually(ctx, patience, func() (bool, error) {
		a, err := b.Ask(ctx, from, lab.Ask{Proto: "udp", To: to, Wait: hopeful})
		return a.Answered, err
	})
}

// arrives tells whether a question comes to where it is for: it is answered, or the machine that was asked refuses it.
func arrives(ctx context.Context, b *Bench, from Place, proto string, to netip.AddrPort) (bool, error) {
	a, err := b.Ask(ctx, from, lab.Ask{Proto: proto, To: to, Wait: hopeful})
	return a.Answered || a.Refusal.Errno == unix.ErrnoName(unix.ECONNREFUSED), err
}

// policies denies a container what it gets, or what it sends, but for the port of the first of two questions, which a place asks: both are answered
// before, and afterwards only the first is to be. The policy's own rules tell that it was they who dropped the second. Where it is asked at an address
// of its own, the second port is asked by TCP, too, and the address by echo, where those may be denied: what is not allowed is denied, whatever it is.
func policies(ctx context.Context, b *Bench, c Place, out bool, from Place, open, closed netip.AddrPort) (Observation, error) {
	if b.mode.Policy == nil {
		return notApplicable("nobody says where the host could deny a container of the mode anything"), nil
	}
	for _, to := range []netip.AddrPort{open, closed} {
		if yes, err := insists(ctx, b, from, to); err != nil || !yes {
			return Observation{}, errors.Join(err, fmt.Errorf("without a policy %s does not reach %s: there is nothing to deny", from, to))
		}
	}
	var others []string // by which it is asked besides
	if f := familyOf(closed.Addr()); out || closed.Addr() == addrOf(b, c, f) {
		if others = []string{"tcp"}; f == IPv4 {
			others = append(others, "icmp")
		}
	}
	for _, proto := range others {
		yes, err := eventually(ctx, patience, func() (bool, error) { return arrives(ctx, b, from, proto, closed) })
		if err != nil || !yes {
			return Observation{}, errors.Join(err, fmt.Errorf("without a policy nothing of %s comes to %s by %s: there is nothing to deny", from, closed, proto))
		}
	}
	steps := b.mode.Policy(b.plan, b.plan.Machine(c.Machine), attachedAt(b, c), modes.Policy{Out: out, Port: open.Port()})
	if err := b.Apply(ctx, steps...); err != nil {
		return Observation{}, err
	}
	recorded, err := b.Record(ctx)
	if err != nil {
		return Observation{}, err
	}
	token := b.newToken()
	denied, err := b.Ask(ctx, from, lab.Ask{Proto: "udp", To: closed, Token: token, Wait: hopeful})
	if err != nil {
		return Observation{}, err
	}
	var past []string
	for _, proto := range others {
		yes, err := arrives(ctx, b, from, proto, closed)
		if err != nil {
			return Observation{}, err
		}
		if yes {
			past = append(past, proto)
		}
	}
	allowed, err := insists(ctx, b, from, open) // by the same way, after it
	if err != nil {
		return Observation{}, err
	}
	packets, err := recorded(ctx, func(p lab.Packet) bool { return p.Token == token })
	if err != nil {
		return Observation{}, err
	}
	s, err := b.State(ctx, c.Machine)
	if err != nil {
		return Observation{}, err
	}
	o := Observation{Reproduce: lines(steps)}
	var where []string
	for _, r := range s.Spaces[""].Rules {
		if r.Table != modes.PolicyTable || r.Packets == 0 {
			continue
		}
		o = o.with(c.Machine, "table %s %s, chain %s: rule %q met %d packets", r.Family, r.Table, r.Chain, r.Comment, r.Packets)
		if by := fmt.Sprintf("%s %s", r.Family, r.Chain); strings.Contains(r.Comment, "drop") && !slices.Contains(where, by) {
			where = append(where, by)
		}
	}
	if len(where) == 0 { // no rule dropped anything: where nothing came, it is slow
		if denied.Answered, err = insists(ctx, b, from, closed); err != nil {
			return Observation{}, err
		}
		past = nil
		for _, proto := range others {
			yes, err := eventually(ctx, patience, func() (bool, error) { return arrives(ctx, b, from, proto, closed) })
			if err != nil {
				return Observation{}, err
			}
			if yes {
				past = append(past, proto)
			}
		}
	}
	last := "it was seen nowhere"
	if n := len(packets); n > 0 {
		last = "it was last seen at " + at(packets[n-1])
		o.Evidence = append(o.Evidence, seen(packets[n-1]))
	}
	o = o.with(from.String(), "control: %s was answered after it: %t", open, allowed)
	asked := fmt.Sprintf("%s had a policy for %s that leaves port %d open; %s asked %s by %s", c.Machine, c, open.Port(), from, closed, strings.Join(append([]string{"udp"}, others...), ", "))
	switch {
	case !denied.Answered && allowed && len(where) > 0 && len(past) == 0:
		o.Status, o.Detail = reports.Works, fmt.Sprintf("%s: dropped by %s, and %s answered; %s", asked, strings.Join(where, ", "), open, last)
	case denied.Answered && allowed && len(past) == len(others):
		o.Status, o.Detail = reports.Blocked, fmt.Sprintf("%s: answered, past the policy", asked)
	default:
		o.Status = "mixed"
		o.Detail = fmt.Sprintf("%s: answered %t, and came by %s; %s answered %t; dropped by %s; %s", asked, denied.Answered, orNone(past), open, allowed, orNone(where), last)
	}
	return o, nil
}

var _ = registerFamilies(func(f Family) Spec {
	return Spec{
		Suite: "conformance",
		Feature: Feature{
			Name: "policy-in", Group: "isolation",
			Doc: "Can the host deny all that an external machine sends to a container, but for one port?",
		},
		Name:  "an external machine asks a container at two ports, which are published where they have to be; the host then denies all but one, and it asks again",
		Needs: filters,
		Run: func(ctx context.Context, b *Bench) (Observation, error) {
			if o := numberless(b, f); o != nil {
				return *o, nil
			}
			c := container(b)
			var to [2]netip.AddrPort
			for i := range to {
				port := b.freePort()
				if _, err := serveUDP(ctx, b, c, f, port); err != nil {
					return Observation{}, err
				}
				var err error
				if to[i], _, err = known(ctx, b, attachedAt(b, c), c.Machine, f, port, "udp"); err != nil {
					return Observation{}, err
				}
			}
			return policies(ctx, b, c, false, external(b), to[0], to[1])
		},
		Sabotage: []Sabotage{
			{Mode: "bridge", Doc: "the host's end of the pair has another name", Rewire: unfamiliar},
		},
	}
})

var _ = registerFamilies(func(f Family) Spec {
	return Spec{
		Suite: "conformance",
		Feature: Feature{
			Name: "policy-out", Group: "isolation",
			Doc: "Can the host deny all that a container sends to an external machine, but for one port?",
		},
		Name:  "a container asks an external machine at two ports; its host then denies it all but one, and it asks again",
		Needs: filters,
		Run: func(ctx context.Context, b *Bench) (Observation, error) {
			if o := numberless(b, f); o != nil {
				return *o, nil
			}
			c, x := container(b), external(b)
			var to [2]netip.AddrPort
			for i := range to {
				to[i] = netip.AddrPortFrom(addrOf(b, x, f), b.freePort())
				if _, err := serveUDP(ctx, b, x, f, to[i].Port()); err != nil {
					return Observation{}, err
				}
			}
			return policies(ctx, b, c, true, c, to[0], to[1])
		},
		Sabotage: []Sabotage{
			{Mode: "bridge", Doc: "the host's end of the pair has another name", Rewire: unfamiliar},
			{Mode: "bridge", Doc: "the container has a macvlan device on the host's interface, too", Steps: beside},
			{Mode: "macvlan-bridge", Doc: "containers have other addresses than the mode says", Rewire: selfNumbered},
		},
	}
})

// neighbouring is the spec of a policy for what a container gets from its neighbour on the host, or sends to it.
func neighbouring(name, doc, what string, out bool, sabotage ...Sabotage) bool {
	return registerFamilies(func(f Family) Spec {
		return Spec{
			Suite:   "conformance",
			Feature: Feature{Name: name, Group: "isolation", Doc: doc},
			Name:    what,
			Needs:   filters,
			Run: func(ctx context.Context, b *Bench) (Observation, error) {
				if o := numberless(b, f); o != nil {
					return *o, nil
				}
				c, from, ok := pair(b, firstHost(b), network(b))
				if !ok {
					return oneContainer(), nil
				}
				t, err := try(ctx, b, from, c, netip.AddrPortFrom(addrOf(b, c, f), 0), "icmp")
				if err != nil {
					return Observation{}, err
				}
				if !t.answers["icmp"].Answered {
					o := t.observation()
					o.Status, o.Detail = reports.NotApplicable, "containers of one host do not reach each other: "+o.Detail
					return o, nil
				}
				var to [2]netip.AddrPort
				for i := range to {
					to[i] = netip.AddrPortFrom(addrOf(b, c, f), b.freePort())
					if _, err := serveUDP(ctx, b, c, f, to[i].Port()); err != nil {
						return Observation{}, err
					}
				}
				of := c
				if out {
					of = from
				}
				return policies(ctx, b, of, out, from, to[0], to[1])
			},
			Sabotage: sabotage,
		}
	})
}

var _ = neighbouring("policy-same-host", "Can the host deny all that another container on it sends to a container, but for one port?",
	"a container asks its neighbour on the same host at two ports; the host then denies the neighbour all but one, and it asks again", false,
	Sabotage{Mode: "bridge", Doc: "the host's end of the pair has another name", Rewire: unfamiliar},
	Sabotage{Mode: "ptp", Doc: "the second container enters the first one's namespace", Rewire: joined},
	Sabotage{Mode: "container", Doc: "the second container has a pair of its own", Rewire: separated},
)

var _ = neighbouring("policy-same-host-out", "Can the host deny all that a container sends to another container on it, but for one port?",
	"a container asks its neighbour on the same host at two ports; the host then denies it all but one, and it asks again", true,
	Sabotage{Mode: "bridge", Doc: "the host's end of the pair has another name", Rewire: unfamiliar},
	Sabotage{Mode: "ptp", Doc: "the second container enters the first one's namespace", Rewire: joined},
	Sabotage{Mode: "container", Doc: "the second container has a pair of its own", Rewire: separated},
)

// unfamiliar gives the host's end of a container's pair another name than the mode says.
func unfamiliar(steps []topology.Step) []topology.Step {
	steps = slices.Clone(steps)
	for i, s := range steps {
		if s.Link != nil && s.Link.PeerName != "" {
			link := *s.Link
			link.Name = "other-" + steps[0].Space.Name
			steps[i].Link = &link
		}
	}
	return steps
}

// hooks are the hooks of a host's packet filter, by family, and what each counts of an exchange between a container and an external machine. Rules
// have the hook's name and which way it is.
func hooks(b *Bench, c, x Place) (steps []topology.Step) {
	nic := b.plan.Machine(c.Machine).NIC(b.plan.Network(attachedAt(b, c).Network).NIC).Name
	chain := func(hook, device, feature string, ways ...string) topology.Chain {
		out := topology.Chain{Name: hook, Type: "filter", Hook: hook, Device: device}
		for _, f := range b.families() {
			ip := map[Family]string{IPv4: "ip ", IPv6: "ip6 "}[f]
			for _, way := range ways {
				theirs, own := "daddr", "saddr"
				if way == "in" {
					theirs, own = own, theirs
				}
				match := []topology.Match{{Field: ip + theirs, Value: addrOf(b, x, f).String()}}
				if device != "" {
					match = append(match, topology.Match{Field: ip + own, Value: exitAddr(b, c, f).String()})
				}
				out.Rules = append(out.Rules, topology.Rule{
					Match:   append(match, topology.Match{Field: "meta l4proto", Value: "udp"}),
					Verdict: topology.Verdict{Kind: "count"}, Comment: fmt.Sprintf("%s %s %s", feature, way, f),
				})
			}
		}
		return out
	}
	for _, t := range []topology.Table{
		{Family: "inet", Chains: []topology.Chain{
			chain("input", "", "hook-input", "in"), chain("output", "", "hook-output", "out"), chain("forward", "", "hook-forward", "in", "out"),
		}},
		{Family: "bridge", Chains: []topology.Chain{chain("prerouting", "", "hook-bridge", "out"), chain("postrouting", "", "hook-bridge", "in")}},
		{Family: "netdev", Chains: []topology.Chain{chain("ingress", nic, "hook-nic", "in"), chain("egress", nic, "hook-nic", "out")}},
	} {
		t.Name = "hooks"
		steps = append(steps, topology.Step{On: c.Machine, Table: &t})
	}
	return steps
}

// hookSpec is the spec of one of the hooks.
func hookSpec(name, doc string, sabotage ...Sabotage) bool {
	return register(Spec{
		Suite:   "conformance",
		Feature: Feature{Name: name, Group: "isolation", Doc: doc},
		Name:    "every hook of a host's packet filter counts what is from and to an external machine, and a container asks that machine",
		Needs:   filters,
		Run: func(ctx context.Context, b *Bench) (Observation, error) {
			if o := numberless(b); o != nil {
				return *o, nil
			}
			c, x := container(b), external(b)
			steps := hooks(b, c, x)
			if err := b.Apply(ctx, steps...); err != nil {
				return Observation{}, err
			}
			for _, f := range b.families() {
				to := netip.AddrPortFrom(addrOf(b, x, f), controlPort)
				if yes, err := insists(ctx, b, c, to); err != nil || !yes {
					return Observation{}, errors.Join(err, fmt.Errorf("%s does not reach %s: there is nothing to count", c, to))
				}
			}
			s, err := b.State(ctx, c.Machine)
			if err != nil {
				return Observation{}, err
			}
			o := Observation{Reproduce: lines(steps)}
			var met, missed []string
			for _, r := range s.Spaces[""].Rules {
				if r.Table != "hooks" {
					continue
				}
				o = o.with(c.Machine, "%s %s: rule %q met %d packets", r.Family, r.Chain, r.Comment, r.Packets)
				way, mine := strings.CutPrefix(r.Comment, name+" ")
				switch {
				case mine && r.Packets > 0:
					met = append(met, way)
				case mine:
					missed = append(missed, way)
				}
			}
			o.Status = "mixed"
			switch {
			case len(missed) == 0:
				o.Status = reports.Works
			case len(met) == 0:
				o.Status = reports.Blocked
			}
			o.Detail = fmt.Sprintf("%s asked %s by %s and was answered; of that %s met: %s; and did not meet: %s", c, x, b.span(), name, orNone(met), orNone(missed))
			return o, nil
		},
		Sabotage: sabotage,
	})
}

var _ = hookSpec("hook-forward", "Does the forward hook of the host's IP packet filter see what a container and an external machine send each other?",
	Sabotage{Mode: "bridge", Doc: "the container has a macvlan device on the host's interface, too", Steps: beside})

var _ = hookSpec("hook-input", "Does the input hook of the host's IP packet filter see what an external machine sends to a container?",
	Sabotage{Mode: "bridge", Doc: "containers enter the host's namespace", Rewire: inHost})

var _ = hookSpec("hook-output", "Does the output hook of the host's IP packet filter see what a container sends to an external machine?",
	Sabotage{Mode: "bridge", Doc: "containers enter the host's namespace", Rewire: inHost})

var _ = hookSpec("hook-bridge", "Do the hooks of the host's bridges (nftables family bridge) see what a container and an external machine send each other?",
	Sabotage{Mode: "bridge", Doc: "the container has a macvlan device on the host's interface, too", Steps: beside})

var _ = hookSpec("hook-nic", "Do the hooks of the host's own interface (nftables family netdev) see what a container and an external machine send each other, under the container's own address?",
	Sabotage{Mode: "macvlan-bridge", Doc: "containers have other addresses than the mode says", Rewire: selfNumbered})

// inHost has containers enter the host's namespace.
func inHost(steps []topology.Step) []topology.Step {
	return []topology.Step{{On: steps[0].On, Space: &topology.Space{Name: steps[0].Space.Name, Share: "host"}}}
}
