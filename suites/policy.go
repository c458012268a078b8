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

// policies has a container's host enforce a policy, and asks what that leaves open and what it denies: before, all comes to where it is for, and
// afterwards only the first is to. The policy's own rules tell that it was they who dropped the others.
func policies(ctx context.Context, b *Bench, c Place, policy modes.Policy, open leg, closed ...leg) (Observation, error) {
	if b.mode.Policy == nil {
		return notApplicable("nobody says where the host could deny a container of the mode anything"), nil
	}
	tokens, past := make([]string, len(closed)), make([]bool, len(closed))
	asks := func() error { // what is denied, all at the same time
		var fs []func() error
		for i, l := range closed {
			tokens[i] = b.newToken()
			fs = append(fs, func() error {
				a, err := b.Ask(ctx, l.from, lab.Ask{Proto: l.proto, To: l.addr, Token: tokens[i], Wait: hopeful})
				// It came there also where the machine that was asked refuses it.
				past[i] = past[i] || a.Answered || a.Refusal.Errno == unix.ErrnoName(unix.ECONNREFUSED)
				return err
			})
		}
		return all(fs...)
	}
	insist := func() (bool, error) {
		return eventually(ctx, patience, func() (bool, error) { return !slices.Contains(past, false), asks() })
	}
	if yes, err := insists(ctx, b, open.from, open.addr); err != nil || !yes {
		return Observation{}, errors.Join(err, fmt.Errorf("without a policy %s does not reach %s: there is nothing to deny", open.from, open.addr))
	}
	if yes, err := insist(); err != nil || !yes {
		l := closed[max(0, slices.Index(past, false))]
		return Observation{}, errors.Join(err, fmt.Errorf("without a policy nothing of %s comes to %s by %s: there is nothing to deny", l.from, l.addr, l.proto))
	}
	steps := b.mode.Policy(b.plan, b.plan.Machine(c.Machine), attachedAt(b, c), policy)
	if err := b.Apply(ctx, steps...); err != nil {
		return Observation{}, err
	}
	recorded, err := b.Record(ctx)
	if err != nil {
		return Observation{}, err
	}
	clear(past)
	if err := asks(); err != nil {
		return Observation{}, err
	}
	allowed, err := insists(ctx, b, open.from, open.addr) // after them
	if err != nil {
		return Observation{}, err
	}
	packets, err := recorded(ctx, func(p lab.Packet) bool { return p.Token != "" && slices.Contains(tokens, p.Token) })
	if err != nil {
		return Observation{}, err
	}
	s, err := b.own(ctx, c.Machine)
	if err != nil {
		return Observation{}, err
	}
	o := Observation{Reproduce: lines(steps)}
	var where []string
	for _, r := range s.Rules {
		if r.Table != modes.PolicyTable || r.Packets == 0 {
			continue
		}
		o = o.with(c.Machine, "table %s %s, chain %s: rule %q met %d packets", r.Family, r.Table, r.Chain, r.Comment, r.Packets)
		if by := fmt.Sprintf("%s %s", r.Family, r.Chain); strings.Contains(r.Comment, "drop") && !slices.Contains(where, by) {
			where = append(where, by)
		}
	}
	if len(where) == 0 { // no rule dropped anything: where nothing came, it is slow
		if _, err := insist(); err != nil {
			return Observation{}, err
		}
	}
	last := "nothing of it was seen"
	if n := len(packets); n > 0 {
		last = "last seen at " + at(packets[n-1])
		o.Evidence = append(o.Evidence, seen(packets[n-1]))
	}
	o = o.with(open.from.String(), "control: %s was answered after them: %t", open.addr, allowed)
	var asked, came []string
	for i, l := range closed {
		q := fmt.Sprintf("%s to %s by %s", l.from, l.addr, l.proto)
		if asked = append(asked, q); past[i] {
			came = append(came, q)
		}
	}
	whom := "anybody"
	if policy.Peer.IsValid() {
		whom = policy.Peer.String()
	}
	what := fmt.Sprintf("%s had a policy for %s that leaves port %d open for %s; besides %s to %s, there asked %s", c.Machine, c, policy.Port, whom, open.from, open.addr, strings.Join(asked, ", "))
	switch {
	case allowed && len(where) > 0 && len(came) == 0:
		o.Status, o.Detail = reports.Works, fmt.Sprintf("%s: dropped by %s, and the first answered; %s", what, strings.Join(where, ", "), last)
	case allowed && len(came) == len(closed):
		o.Status, o.Detail = reports.Blocked, fmt.Sprintf("%s: all came there, past the policy", what)
	default:
		o.Status = "mixed"
		o.Detail = fmt.Sprintf("%s: the first answered %t; of the others came: %s; dropped by %s; %s", what, allowed, orNone(came), orNone(where), last)
	}
	return o, nil
}

// denial is an experiment with a policy of a container, which leaves open what the first of others exchanges with it at one port.
type denial struct {
	name, doc, what string
	out             bool                 // the container asks; else it is asked
	peer            bool                 // the policy is for the first of the others alone
	places          func(*Bench) []Place // the container, and the others; fewer than two: it has no neighbour
	sabotage        []Sabotage
}

func (d denial) register() bool {
	return registerFamilies(func(f Family) Spec {
		return Spec{
			Suite: "conformance", Feature: Feature{Name: d.name, Group: "isolation", Doc: d.doc},
			Name: d.what, Needs: filters, Sabotage: d.sabotage,
			Run: func(ctx context.Context, b *Bench) (Observation, error) {
				if o := numberless(b, f); o != nil {
					return *o, nil
				}
				places := d.places(b)
				if len(places) < 2 {
					return oneContainer(), nil
				}
				c, others := places[0], places[1:]
				near := others[0].Container != ""
				if near {
					from, to := others[0], c
					if d.out {
						from, to = to, from
					}
					t, err := try(ctx, b, from, to, netip.AddrPortFrom(addrOf(b, to, f), 0), "icmp")
					if err != nil {
						return Observation{}, err
					}
					if !t.answers["icmp"].Answered {
						o := t.observation()
						o.Status, o.Detail = reports.NotApplicable, "containers of one host do not reach each other: "+o.Detail
						return o, nil
					}
				}
				var all []leg
				for range 2 { // ports
					port := b.freePort()
					at := netip.AddrPortFrom(addrOf(b, c, f), port) // where others ask the container
					if !d.out {
						if _, err := serveUDP(ctx, b, c, f, port); err != nil {
							return Observation{}, err
						}
						if !near {
							var err error
							if at, _, err = known(ctx, b, attachedAt(b, c), c.Machine, f, port, "udp"); err != nil {
								return Observation{}, err
							}
						}
					}
					for _, other := range others {
						l := leg{other, c, at, "udp"}
						if d.out {
							l = leg{c, other, netip.AddrPortFrom(addrOf(b, other, f), port), "udp"}
							if _, err := serveUDP(ctx, b, other, f, port); err != nil {
								return Observation{}, err
							}
						}
						all = append(all, l)
					}
				}
				// What is not allowed is denied, whatever it is: where the address asked is the one who is asked, by all protocols.
				open, closed := all[0], all[1:]
				for _, l := range closed {
					if l.addr.Addr() != addrOf(b, l.to, f) {
						continue
					}
					closed = append(closed, leg{l.from, l.to, l.addr, "tcp"})
					if f == IPv4 {
						closed = append(closed, leg{l.from, l.to, l.addr, "icmp"})
					}
				}
				policy := modes.Policy{Out: d.out, Port: open.addr.Port()}
				if d.peer {
					policy.Peer = addrOf(b, map[bool]Place{false: open.from, true: open.to}[d.out], f)
				}
				return policies(ctx, b, c, policy, open, closed...)
			},
		}
	})
}

// outsider are a container and an external machine, outsiders a container and all of these.
func outsider(b *Bench) []Place { return outsiders(b)[:2] }

func outsiders(b *Bench) []Place {
	places := []Place{container(b)}
	for _, x := range b.plan.Externals() {
		places = append(places, Place{Machine: x.Name})
	}
	return places
}

// asked is a container and its neighbour on the host, asking these the other way round; none where the mode has only one there.
func asked(b *Bench) []Place {
	if first, second, ok := pair(b, firstHost(b), network(b)); ok {
		return []Place{first, second}
	}
	return nil
}

func asking(b *Bench) []Place {
	places := asked(b)
	slices.Reverse(places)
	return places
}

var (
	strangePair = Sabotage{Mode: "bridge", Doc: "the host's end of the pair has another name", Rewire: unfamiliar}
	joinedSpace = Sabotage{Mode: "ptp", Doc: "the second container enters the first one's namespace", Rewire: joined}
)

var _ = denial{
	name: "policy-in", doc: "Can the host deny all that an external machine sends to a container, but for one port?",
	what:   "an external machine asks a container at two ports, which are published where they have to be; the host then denies all but one, and it asks again",
	places: outsider, sabotage: []Sabotage{strangePair},
}.register()

var _ = denial{
	name: "policy-out", doc: "Can the host deny all that a container sends to an external machine, but for one port?",
	what: "a container asks an external machine at two ports; its host then denies it all but one, and it asks again",
	out:  true, places: outsider,
	sabotage: []Sabotage{
		strangePair,
		{Mode: "bridge", Doc: "the container has a macvlan device on the host's interface, too", Steps: beside},
		{Mode: "macvlan-bridge", Doc: "containers have other addresses than the mode says", Rewire: selfNumbered},
	},
}.register()

var _ = denial{
	name: "policy-same-host", doc: "Can the host deny all that another container on it sends to a container, but for one port?",
	what:   "a container asks its neighbour on the same host at two ports; the host then denies the neighbour all but one, and it asks again",
	places: asked, sabotage: []Sabotage{strangePair, joinedSpace},
}.register()

var _ = denial{
	name: "policy-same-host-out", doc: "Can the host deny all that a container sends to another container on it, but for one port?",
	what: "a container asks its neighbour on the same host at two ports; the host then denies it all but one, and it asks again",
	out:  true, places: asking, sabotage: []Sabotage{strangePair, joinedSpace},
}.register()

var _ = denial{
	name: "policy-peer", doc: "Can the host let one external machine have one port of a container, and deny everything else, to it and to others?",
	what: "two external machines ask a container at two ports, which are published where they have to be; the host then denies all but one of them at one port, and they ask again",
	peer: true, places: outsiders,
	sabotage: []Sabotage{
		{Mode: "bridge", Doc: "the host gives what comes from the other external machine the peer's address", Steps: func(p *topology.Plan) []topology.Step {
			return disguised(p, p.Hosts()[0].Name)
		}},
		{Mode: "direct-bgp", Doc: "the router gives what comes from the other external machine the peer's address", Steps: func(p *topology.Plan) []topology.Step {
			return disguised(p, p.Tors()[0].Name)
		}},
	},
}.register()

var _ = denial{
	name: "policy-peer-out", doc: "Can the host let a container have one port of one external machine, and deny it everything else, there and elsewhere?",
	what: "a container asks two external machines at two ports each; its host then denies it all but one port of one of them, and it asks again",
	out:  true, peer: true, places: outsiders,
	sabotage: []Sabotage{
		strangePair,
		{Mode: "bridge", Doc: "the container has a macvlan device on the host's interface, too", Steps: beside},
	},
}.register()

// disguised has a machine give what it forwards of the second external machine the first one's address.
func disguised(p *topology.Plan, on string) []topology.Step {
	chain := topology.Chain{Name: "postrouting", Type: "nat", Hook: "postrouting", Priority: 100}
	peer, other := p.Externals()[0].NICs[0], p.Externals()[1].NICs[0]
	for _, r := range []struct {
		field    string
		from, as netip.Prefix
	}{{"ip saddr", other.V4, peer.V4}, {"ip6 saddr", other.V6, peer.V6}} {
		chain.Rules = append(chain.Rules, topology.Rule{
			Match:   []topology.Match{{Field: r.field, Value: r.from.Addr().String()}},
			Verdict: topology.Verdict{Kind: "snat", To: netip.AddrPortFrom(r.as.Addr(), 0)},
		})
	}
	return []topology.Step{{On: on, Table: &topology.Table{Family: "inet", Name: "sabotage", Chains: []topology.Chain{chain}}}}
}

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
func hooks(ctx context.Context, b *Bench, c, x Place) (steps []topology.Step, err error) {
	exits := map[Family]string{}
	for _, f := range b.families() {
		own, err := exitAddr(ctx, b, c, f)
		if err != nil {
			return nil, err
		}
		exits[f] = own.String()
	}
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
					match = append(match, topology.Match{Field: ip + own, Value: exits[f]})
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
	return steps, nil
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
			steps, err := hooks(ctx, b, c, x)
			if err != nil {
				return Observation{}, err
			}
			if err := b.Apply(ctx, steps...); err != nil {
				return Observation{}, err
			}
			for _, f := range b.families() {
				to := netip.AddrPortFrom(addrOf(b, x, f), controlPort)
				if yes, err := insists(ctx, b, c, to); err != nil || !yes {
					return Observation{}, errors.Join(err, fmt.Errorf("%s does not reach %s: there is nothing to count", c, to))
				}
			}
			s, err := b.own(ctx, c.Machine)
			if err != nil {
				return Observation{}, err
			}
			o := Observation{Reproduce: lines(steps)}
			var met, missed []string
			for _, r := range s.Rules {
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
