package suites

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/modebench/modebench/modes"
	"github.com/modebench/modebench/reports"
	"github.com/modebench/modebench/topology"
	"github.com/modebench/modebench/topology/lab"
)

// several makes three containers of one network on the first host that serve the same port; an observation says why there are none.
func several(ctx context.Context, b *Bench, families ...Family) ([]Place, *Observation, error) {
	if o := numberless(b, families...); o != nil {
		return nil, o, nil
	}
	first, second, ok := pair(b, firstHost(b), network(b))
	if !ok {
		o := oneContainer()
		return nil, &o, nil
	}
	c, err := another(b, firstHost(b), network(b), 1)
	if err != nil {
		return nil, nil, err
	}
	if with, own := sharers(b, c, firstHost(b)); !own || with != nil {
		o := notApplicable("the containers of a host share one namespace and its addresses, where one of them can have a port")
		return nil, &o, nil
	}
	third, err := b.Attach(ctx, c, firstHost(b))
	return []Place{first, second, third}, nil, err
}

// divider tells by which matches the i-th of n rules takes its part of what the rules before it left.
type divider func(f Family, n, i int) []topology.Match

// inTurn gives every connection to the next container: a third to the first, half of the rest to the second, and what is then left.
func inTurn(_ Family, n, i int) []topology.Match {
	if i == n-1 {
		return nil
	}
	return []topology.Match{{Field: fmt.Sprintf("numgen inc mod %d", n-i), Value: "0"}}
}

// byClient gives all connections from one address to the same container.
func byClient(f Family, n, i int) []topology.Match {
	return []topology.Match{{Field: fmt.Sprintf("jhash %s saddr mod %d seed 0x1", ipOf(f), n), Value: strconv.Itoa(i)}}
}

// ipOf is what nft(8) calls a family in fields.
func ipOf(f Family) string { return map[Family]string{IPv4: "ip", IPv6: "ip6"}[f] }

// service is a port of the first host, behind which several of its containers serve.
type service struct {
	b        *Bench
	f        Family
	target   netip.AddrPort // the containers' port is the same
	backends []Place
	heard    map[Place][]lab.Handle // their listeners
	divide   divider
	table    *topology.Table // in force
}

// balanced makes such a service, on a host that forwards in any case; an observation says why there is none.
func balanced(ctx context.Context, b *Bench, f Family, divide divider) (*service, *Observation, error) {
	backends, o, err := several(ctx, b, f)
	if o != nil || err != nil {
		return nil, o, err
	}
	host := firstHost(b)
	s := &service{
		b: b, f: f, divide: divide, backends: backends, heard: map[Place][]lab.Handle{},
		target: netip.AddrPortFrom(addrOf(b, Place{Machine: host}, f), b.freePort()),
	}
	steps := router(host, "")
	if f == IPv6 {
		steps = []topology.Step{{On: host, Sysctl: &topology.Sysctl{Key: "net/ipv6/conf/all/forwarding", Value: "1"}}}
	}
	if err := b.Apply(ctx, steps...); err != nil {
		return nil, nil, err
	}
	for _, p := range backends {
		for _, proto := range []string{"udp", "tcp"} {
			l, err := b.Listen(ctx, p, lab.Listen{Proto: proto, Addr: netip.AddrPortFrom(unspecified(f), s.target.Port())})
			if err == nil && l.Refusal.Errno != "" {
				err = fmt.Errorf("%s: listen %s: %s", p, proto, l.Refusal.Text)
			}
			if err != nil {
				return nil, nil, err
			}
			s.heard[p] = append(s.heard[p], l.Handle)
		}
		// Who asks is known by its neighbours from then on, also where its address was another's and nothing was announced.
		if _, err := b.Ask(ctx, p, lab.Ask{Proto: "udp", To: netip.AddrPortFrom(addrOf(b, external(b), f), controlPort), Wait: hopeful}); err != nil {
			return nil, nil, err
		}
	}
	return s, nil, s.over(ctx, backends...)
}

// over divides new connections among these containers. What was translated before stays so (nft(8), nat statements).
func (s *service) over(ctx context.Context, places ...Place) error {
	chain := topology.Chain{Name: "prerouting", Type: "nat", Hook: "prerouting", Priority: -100}
	exits := make([]netip.Addr, len(places))
	for i, p := range places {
		var err error
		if exits[i], err = exitAddr(ctx, s.b, p, s.f); err != nil {
			return err
		}
	}
	for _, proto := range []string{"udp", "tcp"} {
		for i, p := range places {
			chain.Rules = append(chain.Rules, topology.Rule{
				Match: slices.Concat([]topology.Match{
					{Field: ipOf(s.f) + " daddr", Value: s.target.Addr().String()},
					{Field: proto + " dport", Value: strconv.Itoa(int(s.target.Port()))},
				}, s.divide(s.f, len(places), i)),
				Verdict: topology.Verdict{Kind: "dnat", To: netip.AddrPortFrom(exits[i], 0)},
				Comment: fmt.Sprintf("%s to %s", proto, p),
			})
		}
	}
	var steps []topology.Step
	if s.table != nil {
		steps = append(steps, topology.Step{On: firstHost(s.b), Remove: true, Table: s.table})
	}
	s.table = &topology.Table{Family: "inet", Name: "balance", Chains: []topology.Chain{chain}}
	return s.b.Apply(ctx, append(steps, topology.Step{On: firstHost(s.b), Table: s.table})...)
}

// served counts the messages that each container heard, of those whose token is one of these.
func (s *service) served(ctx context.Context, is func(token string) bool) (map[Place]int, error) {
	return heardBy(ctx, s.b, s.heard, is)
}

// heardBy does so by the listeners that places have.
func heardBy(ctx context.Context, b *Bench, heard map[Place][]lab.Handle, is func(token string) bool) (map[Place]int, error) {
	count := map[Place]int{}
	for p, listeners := range heard {
		for _, h := range listeners {
			var seen []lab.Seen
			if err := b.Do(ctx, p.Machine, "Probe.Seen", h, &seen); err != nil {
				return nil, err
			}
			for _, m := range seen {
				if is(m.Token) {
					count[p]++
				}
			}
		}
	}
	return count, nil
}

// ask has a place make so many connections and as many UDP flows, each from a port of its own, and counts who served them.
func (s *service) ask(ctx context.Context, from Place, flows int) (served map[Place]int, lost int, err error) {
	var tokens []string
	var asks []func() error
	answers := make([]bool, 2*flows)
	for i := range answers {
		token := s.b.newToken()
		tokens = append(tokens, token)
		ask := lab.Ask{Proto: []string{"udp", "tcp"}[i%2], From: netip.AddrPortFrom(unspecified(s.f), s.b.freePort()), To: s.target, Token: token, Wait: patience}
		asks = append(asks, func() error {
			a, err := s.b.Ask(ctx, from, ask)
			answers[i] = a.Answered
			return err
		})
	}
	if err := all(asks...); err != nil {
		return nil, 0, err
	}
	for _, answered := range answers {
		if !answered {
			lost++
		}
	}
	served, err = s.served(ctx, func(token string) bool { return slices.Contains(tokens, token) })
	return served, lost, err
}

// shares is who served how many.
func (s *service) shares(served map[Place]int) string {
	var out []string
	for _, p := range s.backends {
		out = append(out, fmt.Sprintf("%s %d", p, served[p]))
	}
	return strings.Join(out, ", ")
}

// counted adds what the rules in force counted.
func (s *service) counted(ctx context.Context, o Observation) (Observation, error) {
	state, err := s.b.own(ctx, firstHost(s.b))
	for _, r := range state.Rules {
		if r.Table == s.table.Name {
			o = o.with(firstHost(s.b), "rule %q counted %d new connections", r.Comment, r.Packets)
		}
	}
	return o, err
}

// balancing is a spec's run for modes in which there are several containers, once an external machine was answered by the service.
func balancing(f Family, divide divider, run func(context.Context, *Bench, *service, Observation) (Observation, error)) func(context.Context, *Bench) (Observation, error) {
	return func(ctx context.Context, b *Bench) (Observation, error) {
		s, o, err := balanced(ctx, b, f, divide)
		if o != nil || err != nil {
			return orNothing(o), err
		}
		t, err := try(ctx, b, external(b), s.backends[0], s.target, "udp", "tcp")
		if err != nil {
			return Observation{}, err
		}
		got := t.observation()
		got.Reproduce = []string{topology.Step{On: firstHost(b), Table: s.table}.String()}
		if got.Status != reports.Works {
			return s.counted(ctx, got)
		}
		return run(ctx, b, s, got)
	}
}

// rival sends an external machine's datagrams to the first two containers, one after the other, before anything else is asked.
func rival(f Family) func(*topology.Plan) []topology.Step {
	return func(p *topology.Plan) []topology.Step {
		h, x := p.Hosts()[0], p.Externals()[0].NICs[0]
		chain := topology.Chain{Name: "rival", Type: "nat", Hook: "prerouting", Priority: -101}
		for i, c := range h.Containers[:2] {
			from, to := x.V4.Addr(), c.Private4.Addr()
			if f == IPv6 {
				from, to = x.V6.Addr(), c.Private6.Addr()
			}
			chain.Rules = append(chain.Rules, topology.Rule{
				Match: slices.Concat([]topology.Match{
					{Field: ipOf(f) + " saddr", Value: from.String()}, {Field: "meta l4proto", Value: "udp"}, {Field: "fib daddr type", Value: "local"},
				}, inTurn(f, 2, i)),
				Verdict: topology.Verdict{Kind: "dnat", To: netip.AddrPortFrom(to, 0)},
			})
		}
		return []topology.Step{{On: h.Name, Table: &topology.Table{Family: "inet", Name: "sabotage", Chains: []topology.Chain{chain}}}}
	}
}

// sideways gives the first host a device beside those of its containers, by which what it translates for them reaches them, in its own name.
func sideways(f Family, kind, mode string) func(*topology.Plan) []topology.Step {
	return func(p *topology.Plan) []topology.Step {
		h := p.Hosts()[0]
		steps := shim(f, kind, mode)(p)
		for _, c := range []topology.Container{h.Containers[1], spareOf(p, h.Name, 1)} {
			to := c.Segment4.Addr()
			if f == IPv6 {
				to = c.Segment6.Addr()
			}
			steps = append(steps, topology.Step{On: h.Name, Route: &topology.Route{Dst: alone(to), Link: "shim"}})
		}
		// What answers the host's own address comes to that device: the host asks its interface in vain who its clients are.
		for _, x := range p.Externals() {
			to := x.NICs[0].V4.Addr()
			if f == IPv6 {
				to = x.NICs[0].V6.Addr()
			}
			steps = append(steps, topology.Step{On: h.Name, Neigh: &topology.Neigh{Link: h.NICs[0].Name, IP: to, MAC: x.NICs[0].MAC}})
		}
		return append(steps, topology.Step{On: h.Name, Table: &topology.Table{Family: "inet", Name: "sabotage", Chains: []topology.Chain{{
			Name: "postrouting", Type: "nat", Hook: "postrouting", Priority: 100,
			Rules: []topology.Rule{{Match: []topology.Match{{Field: "ct status", Value: "dnat"}}, Verdict: topology.Verdict{Kind: "masquerade"}}},
		}}}})
	}
}

// unbalanced are what changes whether, or how, a host's service reaches its containers.
func unbalanced(f Family) []Sabotage {
	return []Sabotage{
		{Mode: "bridge", Doc: "another rule divides before", Steps: rival(f)},
		{Mode: "ptp", Doc: "the host drops what it forwards for clients", Steps: func(p *topology.Plan) []topology.Step {
			h := p.Hosts()[0]
			return []topology.Step{dropping(topology.Step{On: h.Name}, "forward", topology.Match{Field: "iifname", Value: h.NIC(p.Networks[0].NIC).Name})}
		}},
		{Mode: "macvlan-bridge", Doc: "the host has a macvlan device of its own on the interface, and calls containers in its own name", Steps: sideways(f, "macvlan", "bridge")},
		{Mode: "ipvlan-l2", Doc: "the host has an ipvlan device of its own on the interface, and calls containers in its own name", Steps: sideways(f, "ipvlan", "l2")},
		{Mode: "ipvlan-l3s", Doc: "the containers are of mode l3, which the host's rules do not see", Rewire: parentMode("l3")},
	}
}

var _ = registerFamilies(func(f Family) Spec {
	const flows = 24 // divisible by three and by two
	return Spec{
		Suite: "conformance",
		Feature: Feature{
			Name: "balance-turns", Group: "services",
			Doc: "Does a port of the host spread connections evenly over several of its containers, does each flow stay with its container, and do new ones go to the rest when one is taken out?",
		},
		Name:  "an external machine asks a port of the host behind which three containers serve (nft numgen and dnat), by many flows, and goes on with one of them while a container is taken out",
		Needs: []modes.Kernel{modes.Balance},
		Run: balancing(f, inTurn, func(ctx context.Context, b *Bench, s *service, got Observation) (Observation, error) {
			x := external(b)
			first, lost, err := s.ask(ctx, x, flows)
			if err != nil {
				return Observation{}, err
			}
			if got, err = s.counted(ctx, got); err != nil {
				return Observation{}, err
			}
			// Connection tracking keeps to a container from the first message that left the host. Of several that came in one go before, each
			// may get one of its own: a list passes prerouting whole before any of it is confirmed (ip_list_rcv, nf_ct_resolve_clash).
			token := b.newToken()
			ask := lab.Ask{Proto: "udp", From: netip.AddrPortFrom(unspecified(f), b.freePort()), To: s.target, Token: token + ".0", Wait: patience}
			if a, err := b.Ask(ctx, x, ask); err != nil || !a.Answered {
				return Observation{}, errors.Join(err, fmt.Errorf("%s asked %s again, and was not answered", x, s.target))
			}
			ask.Token, ask.Wait = token, 100*time.Millisecond
			asked, err := begin(ctx, b, x.Machine, lab.Flow{Ask: ask, Every: 10 * time.Millisecond})
			if err != nil {
				return Observation{}, err
			}
			ofFlow := func(t string) bool { return strings.HasPrefix(t, token+".") }
			var kept Place
			more := func(than int) error {
				ok, err := eventually(ctx, patience, func() (bool, error) {
					heard, err := s.served(ctx, ofFlow)
					for p, n := range heard {
						if n > than {
							kept = p
						}
					}
					return kept != (Place{}), err
				})
				if err == nil && !ok {
					err = fmt.Errorf("%d messages of the flow of %s to %s do not arrive", than+1, x, s.target)
				}
				return err
			}
			if err := more(flows); err != nil {
				return Observation{}, err
			}
			rest := slices.DeleteFunc(slices.Clone(s.backends), func(p Place) bool { return p == kept })
			gone := rest[0]
			if err := s.over(ctx, kept, rest[1]); err != nil {
				return Observation{}, err
			}
			second, lostThen, err := s.ask(ctx, x, flows)
			if err != nil {
				return Observation{}, err
			}
			if got, err = s.counted(ctx, got); err != nil {
				return Observation{}, err
			}
			before, err := s.served(ctx, ofFlow)
			if err != nil {
				return Observation{}, err
			}
			if err := more(before[kept]); err != nil {
				return Observation{}, err
			}
			if _, err := asked.stop(); err != nil {
				return Observation{}, err
			}
			flow, err := s.served(ctx, ofFlow)
			if err != nil {
				return Observation{}, err
			}
			even := func(served map[Place]int, of ...Place) bool {
				for _, p := range of {
					if d := served[p] - 2*flows/len(of); d < -2 || d > 2 {
						return false
					}
				}
				return len(served) == len(of)
			}
			return concluded(got, lost+lostThen == 0 && even(first, s.backends...) && even(second, kept, rest[1]) && len(flow) == 1,
				"%d flows of %s to %s: %s, unanswered %d; without %s: %s, unanswered %d; the messages of one flow: %s",
				2*flows, x, s.target, s.shares(first), lost, gone, s.shares(second), lostThen, s.shares(flow)), nil
		}),
		Sabotage: unbalanced(f),
	}
})

var _ = registerFamilies(func(f Family) Spec {
	const flows = 12
	return Spec{
		Suite: "conformance",
		Feature: Feature{
			Name: "balance-clients", Group: "services",
			Doc: "Does a port of the host that chooses among several of its containers by the client's address lead all connections of a client to the same one?",
		},
		Name:  "two external machines ask a port of the host behind which three containers serve (nft jhash and dnat), by many flows each",
		Needs: []modes.Kernel{modes.Balance},
		Run: balancing(f, byClient, func(ctx context.Context, b *Bench, s *service, got Observation) (Observation, error) {
			good, said := true, ""
			for _, x := range b.plan.Externals() {
				served, lost, err := s.ask(ctx, Place{Machine: x.Name}, flows)
				if err != nil {
					return Observation{}, err
				}
				good = good && lost == 0 && len(served) == 1
				said += fmt.Sprintf("; %d flows of %s: %s, unanswered %d", 2*flows, x.Name, s.shares(served), lost)
			}
			got, err := s.counted(ctx, got)
			if err != nil {
				return Observation{}, err
			}
			return concluded(got, good, "three containers behind %s%s", s.target, said), nil
		}),
		Sabotage: unbalanced(f),
	}
})
