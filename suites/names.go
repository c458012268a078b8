package suites

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/modebench/modebench/reports"
	"github.com/modebench/modebench/topology"
	"github.com/modebench/modebench/topology/lab"
)

// dns is the protocol of questions to resolvers, and its port.
const (
	dns     = "dns"
	dnsPort = 53
)

// keptFor is how long an answer of a resolver may be kept: what Docker's say (libnetwork resolver.go, respTTL).
const keptFor = 600 * time.Second

// embedded is where a container's own resolver is: where Docker's are (libnetwork resolver.go, resolverIPSandbox).
var embedded = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 11}), dnsPort)

// nameOf is what resolvers call a container, wherever it is: by where it was planned, as its ID does, and its network.
func nameOf(c topology.Container) string { return fmt.Sprintf("%s-%s.%s", c.Host, c.Name, c.Network) }

// called has the resolvers of machines know a container by a name, until what it returns is called or the spec ends.
func called(ctx context.Context, b *Bench, at Place, by string, machines ...string) (forget func() error, err error) {
	owner := "name of " + at.String()
	name := topology.Name{Name: by, Addrs: addrsOf(b, at)}
	var steps []topology.Step
	for _, m := range machines {
		steps = append(steps, topology.Step{On: m, Name: &name})
	}
	forget = sync.OnceValue(func() error { return b.lab.Undo(context.WithoutCancel(ctx), owner, machines...) })
	b.atEnd(func(context.Context) error { return forget() })
	return forget, b.lab.Apply(ctx, owner, steps)
}

// addrsOf are a place's addresses in the mode's families.
func addrsOf(b *Bench, p Place) (as []netip.Addr) {
	for _, f := range b.families() {
		as = append(as, addrOf(b, p, f))
	}
	return as
}

// resolving makes a resolver at a place.
func resolving(ctx context.Context, b *Bench, at Place, addr netip.AddrPort) (topology.Step, error) {
	s := topology.Step{On: at.Machine, In: at.Container, Resolver: &topology.Resolver{Addr: addr, TTL: keptFor}}
	return s, b.Apply(ctx, s)
}

// recordType is that of addresses of a family.
func recordType(f Family) string { return map[Family]string{IPv4: "A", IPv6: "AAAA"}[f] }

// lookup asks a resolver about a name.
func lookup(ctx context.Context, b *Bench, from Place, server netip.AddrPort, kind, name, token string) (found lab.Found, err error) {
	err = b.Do(ctx, from.Machine, "DNS.Lookup", lab.Lookup{In: from.Container, Server: server, Type: kind, Name: name, Token: token, Wait: patience}, &found)
	return found, err
}

// inWords is what a resolver answered, in a line.
func inWords(f lab.Found) string {
	if !f.Answered {
		return "nothing (" + f.Refusal.Text + ")"
	}
	var data []string
	for _, r := range f.Records {
		data = append(data, fmt.Sprintf("%s for %s", r.Data, r.TTL))
	}
	return strings.TrimSpace(f.Code + " " + strings.Join(data, ", "))
}

// tells tells whether a resolver answered with this and nothing else, by itself and for as long as it should.
func tells(f lab.Found, data ...string) bool {
	var got []string
	for _, r := range f.Records {
		if r.TTL != keptFor {
			return false
		}
		got = append(got, r.Data)
	}
	return f.Code == "NOERROR" && slices.Equal(got, data)
}

// resolve asks a resolver that is at a place for the address of a container of the lab, and follows the question.
func resolve(ctx context.Context, b *Bench, from, at Place, server netip.AddrPort, whom Place, f Family) (Observation, error) {
	name := nameOf(attachedAt(b, whom))
	if _, err := called(ctx, b, whom, name, at.Machine); err != nil {
		return Observation{}, err
	}
	step, err := resolving(ctx, b, at, server)
	if err != nil {
		return Observation{}, err
	}
	var found lab.Found
	t, err := tryBy(ctx, b, from, at, server, func(ctx context.Context, _, token string) (lab.Answer, error) {
		got, err := lookup(ctx, b, from, server, recordType(f), name, token)
		found = got
		return got.Answer, err
	}, dns)
	if err != nil {
		return Observation{}, err
	}
	o := t.observation()
	if o.Status == reports.Works {
		var want []string
		if slices.Contains(b.families(), f) {
			want = []string{addrOf(b, whom, f).String()}
		}
		if o.Detail += "; " + name + " is " + inWords(found); !tells(found, want...) {
			o.Status = "mixed"
		}
	}
	o.Reproduce = []string{step.String(), topology.Step{On: at.Machine, Name: &topology.Name{Name: name, Addrs: addrsOf(b, whom)}}.String()}
	return o, nil
}

// neighbour is another container of the first one's network: of its host, or where that has only one, of the next host.
func neighbour(b *Bench) Place {
	if _, second, ok := pair(b, firstHost(b), network(b)); ok {
		return second
	}
	return b.Containers(secondHost(b), network(b))[0]
}

// deaf drops what the first container is asked or asks by DNS.
func deaf(p *topology.Plan) []topology.Step {
	c := p.Hosts()[0].Containers[0]
	return []topology.Step{dropping(topology.Step{On: c.Host, In: c.Name}, "input", topology.Match{Field: "udp dport", Value: fmt.Sprint(dnsPort)})}
}

// misnamed has all machines know one more address of each family by a name: one that nobody has (RFC 5737, RFC 3849).
func misnamed(name func(*topology.Plan) string) func(*topology.Plan) []topology.Step {
	return func(p *topology.Plan) (steps []topology.Step) {
		wrong := topology.Name{Name: name(p), Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")}}
		for _, m := range slices.Concat(p.Hosts(), p.Externals()) {
			steps = append(steps, topology.Step{On: m.Name, Name: &wrong})
		}
		return steps
	}
}

var _ = register(Spec{
	Suite: "conformance",
	Feature: Feature{
		Name: "resolver-own", Group: "services",
		Doc: "Does a container find a neighbour by its name, and the name by its addresses, with a resolver in its own network namespace?",
	},
	Name: "a container asks a resolver at 127.0.0.11 of its own namespace for addresses (A, AAAA) and names (PTR) of its neighbour, and for a name that there is not",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		if o := numberless(b); o != nil {
			return *o, nil
		}
		from, whom := container(b), neighbour(b)
		o, err := resolve(ctx, b, from, from, embedded, whom, IPv4)
		if err != nil || o.Status != reports.Works {
			return o, err
		}
		name := nameOf(attachedAt(b, whom))
		good := 0
		check := func(kind, of string, ok func(lab.Found) bool) error {
			found, err := lookup(ctx, b, from, embedded, kind, of, b.newToken())
			if ok(found) {
				good++
			}
			o = o.with(from.String(), "%s %s: %s", kind, of, inWords(found))
			return err
		}
		checks := []func() error{
			func() error {
				var six []string // none, where the mode has no IPv6: the name exists all the same
				if slices.Contains(b.families(), IPv6) {
					six = []string{addrOf(b, whom, IPv6).String()}
				}
				return check("AAAA", name, func(f lab.Found) bool { return tells(f, six...) })
			},
			func() error {
				return check("A", "nobody."+network(b), func(f lab.Found) bool { return f.Code == "NXDOMAIN" && len(f.Records) == 0 })
			},
		}
		for _, a := range addrsOf(b, whom) {
			checks = append(checks, func() error {
				return check("PTR", a.String(), func(f lab.Found) bool { // of two who share an address either may be told
					return tells(f, name) || slices.Contains(addrsOf(b, from), a) && tells(f, nameOf(attachedAt(b, from)))
				})
			})
		}
		for _, c := range checks {
			if err := c(); err != nil {
				return o, err
			}
		}
		return concluded(o, good == len(checks), "%s asked its own resolver at %s: %s has %v and no others, %d of %d other answers are right",
			from, embedded, name, addrsOf(b, whom), good, len(checks)), nil
	},
	Sabotage: []Sabotage{
		{Mode: "bridge", Doc: "the container's packet filter drops what is for its resolver", Steps: deaf},
		{Mode: "macvlan-bridge", Doc: "the container's packet filter drops what is for its resolver", Steps: deaf},
		{Mode: "host", Doc: "the neighbour's name is also that of somebody else", Steps: misnamed(func(p *topology.Plan) string { return nameOf(p.Hosts()[0].Containers[1]) })},
	},
})

var _ = registerFamilies(func(f Family) Spec {
	return Spec{
		Suite:   "conformance",
		Feature: Feature{Name: "resolver-host", Group: "services", Doc: "Does a container get answers of a resolver at its host's address?"},
		Name:    "a container asks a resolver at its host's address on the segment for the address of its neighbour",
		Run: func(ctx context.Context, b *Bench) (Observation, error) {
			at := Place{Machine: firstHost(b)}
			return resolve(ctx, b, container(b), at, netip.AddrPortFrom(addrOf(b, at, f), dnsPort), neighbour(b), f)
		},
		Sabotage: hostward(f),
	}
})

var _ = registerFamilies(func(f Family) Spec {
	return Spec{
		Suite:   "conformance",
		Feature: Feature{Name: "resolver-outside", Group: "services", Doc: "Does a container get answers of a resolver on an external machine?"},
		Name:    "a container asks a resolver at an external machine's address for the address of its neighbour",
		Run: func(ctx context.Context, b *Bench) (Observation, error) {
			at := external(b)
			return resolve(ctx, b, container(b), at, netip.AddrPortFrom(addrOf(b, at, f), dnsPort), neighbour(b), f)
		},
		Sabotage: []Sabotage{
			{Mode: "bridge", Doc: "the host does not forward", Steps: forwardingOff(f)},
			{Mode: "ptp", Doc: "no rules masquerade", Steps: tableRemoved("ptp", "nat-")},
			{Mode: "macvlan-vepa", Doc: "the first host's port is out of the switch", Steps: unplugged},
			{Mode: "ipvlan-l3", Doc: "hosts announce nothing", Rewire: unannounced},
		},
	}
})

// common is the name that several containers of a network have.
func common(network string) string { return "service." + network }

var _ = register(Spec{
	Suite: "conformance",
	Feature: Feature{
		Name: "balance-names", Group: "services",
		Doc: "Does a name that several containers have lead to each of them in turn, and no more to one that was taken out?",
	},
	Name: "a container asks its own resolver again and again for a name that three containers have, one of which then loses it",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		places, none, err := several(ctx, b)
		if none != nil || err != nil {
			return orNothing(none), err
		}
		from, name := places[0], common(network(b))
		step, err := resolving(ctx, b, from, embedded)
		if err != nil {
			return Observation{}, err
		}
		o := Observation{Reproduce: []string{step.String()}}
		forget := func() error { return nil }
		for _, p := range places {
			if forget, err = called(ctx, b, p, name, from.Machine); err != nil {
				return Observation{}, err
			}
		}
		// turns tells whether each of these places is first as often as the others, with all of them in each answer.
		turns := func(of []Place) (fair bool, err error) {
			fair = true
			for i, f := range b.families() {
				first, all := map[string]int{}, map[string]bool{}
				for _, p := range of {
					all[addrsOf(b, p)[i].String()] = true
				}
				const rounds = 2
				for range rounds * len(of) {
					found, err := lookup(ctx, b, from, embedded, recordType(f), name, b.newToken())
					if err != nil {
						return false, err
					}
					if o = o.with(from.String(), "%s %s: %s", recordType(f), name, inWords(found)); !found.Answered {
						return false, nil
					}
					fair = fair && len(found.Records) == len(of)
					for n, r := range found.Records {
						if fair = fair && all[r.Data]; n == 0 {
							first[r.Data]++
						}
					}
				}
				for a := range all {
					fair = fair && first[a] == rounds
				}
			}
			return fair, nil
		}
		three, err := turns(places)
		if err != nil {
			return o, err
		}
		if err := forget(); err != nil {
			return o, err
		}
		two, err := turns(places[:2])
		if err != nil {
			return o, err
		}
		return concluded(o, three && two, "%s asked for %s, which %v have: each was first as often as the others: %t; after %s lost it, the same of the other two: %t", from, name, places, three, places[2], two), nil
	},
	Sabotage: []Sabotage{
		{Mode: "bridge", Doc: "somebody else has the name, too", Steps: misnamed(func(p *topology.Plan) string { return common(p.Networks[0].Name) })},
		{Mode: "macvlan-bridge", Doc: "somebody else has the name, too", Steps: misnamed(func(p *topology.Plan) string { return common(p.Networks[0].Name) })},
	},
})

var _ = register(Spec{
	Suite: "lifecycle",
	Feature: Feature{
		Name: "name-follows-move", Group: "services",
		Doc: "After a container moved to another host, with whatever address it has there, does its name lead to it, and does nobody answer at an address that it had before?",
	},
	Name: "a container with a name is detached from one host and attached to another, and containers and machines ask their own resolvers for it before, between and after",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		if o := numberless(b); o != nil {
			return *o, nil
		}
		from, to := firstHost(b), secondHost(b)
		for _, host := range []string{from, to} {
			if err := room(ctx, b, host, network(b)); err != nil {
				return Observation{}, err
			}
		}
		// Modes differ in who reaches a container: somebody does.
		askers := []Place{external(b)}
		for _, host := range []string{from, to} {
			if there := b.Containers(host, network(b)); len(there) > 0 {
				askers = slices.Insert(askers, 0, there[0])
			}
		}
		var machines []string
		for _, a := range askers {
			machines = append(machines, a.Machine)
			if _, err := resolving(ctx, b, a, embedded); err != nil {
				return Observation{}, err
			}
		}
		c, err := another(b, from, network(b), 1)
		if err != nil {
			return Observation{}, err
		}
		name := nameOf(c)
		var o Observation
		// leads tells whether every asker's resolver soon leads to these addresses alone: to none where there is no such name. Where hosts tell each other, that takes
		// them a moment.
		leads := func(when string, want []netip.Addr) (bool, error) {
			had := o
			return eventually(ctx, patience, func() (all bool, err error) {
				o, all = had, true
				for _, a := range askers {
					for _, f := range []Family{IPv4, IPv6} {
						var data []string
						for _, w := range want {
							if familyOf(w) == f {
								data = append(data, w.String())
							}
						}
						found, err := lookup(ctx, b, a, embedded, recordType(f), name, b.newToken())
						if err != nil {
							return false, err
						}
						o = o.with(a.String(), "%s, %s %s: %s", when, recordType(f), name, inWords(found))
						all = all && (want != nil && tells(found, data...) || want == nil && found.Code == "NXDOMAIN")
					}
				}
				return all, nil
			})
		}
		here, err := b.Attach(ctx, c, from)
		if err != nil {
			return Observation{}, err
		}
		forget, err := called(ctx, b, here, name, machines...)
		if err != nil {
			return Observation{}, err
		}
		before := addrsOf(b, here)
		first, err := leads("before", before)
		if err != nil {
			return o, err
		}
		if err := forget(); err != nil {
			return o, err
		}
		if err := b.Detach(ctx, here); err != nil {
			return o, err
		}
		between, err := leads("between", nil)
		if err != nil {
			return o, err
		}
		// Where hosts number containers each for itself, this one gets the next that the other host has.
		if numbered, err := another(b, from, network(b), 2); err != nil {
			return o, err
		} else if slices.Equal(addrsAt(b, from), addrsAt(b, to)) {
			numbered.Name, numbered.MAC, numbered.Device = c.Name, c.MAC, c.Device
			c = numbered
		}
		there, err := b.Attach(ctx, c, to)
		if err != nil {
			return o, err
		}
		if _, err := called(ctx, b, there, name, machines...); err != nil {
			return o, err
		}
		after := addrsOf(b, there)
		second, err := leads("after", after)
		if err != nil {
			return o, err
		}
		var silent, reached []string
		for i, f := range b.families() {
			port := b.freePort()
			if _, err := serveUDP(ctx, b, there, f, port); err != nil {
				return o, err
			}
			var by Place
			if _, err := eventually(ctx, patience, func() (bool, error) {
				for _, by = range append(slices.Clone(askers), Place{Machine: to}) { // the host itself where it lets nobody else through
					a, err := b.Ask(ctx, by, lab.Ask{Proto: "udp", To: netip.AddrPortFrom(after[i], port), Wait: hopeful})
					if a.Answered || err != nil {
						reached = append(reached, fmt.Sprintf("%s by %s", after[i], by))
						return true, err
					}
				}
				return false, nil
			}); err != nil {
				return o, err
			}
			if before[i] == after[i] || len(reached) <= i {
				continue
			}
			t, err := try(ctx, b, by, there, netip.AddrPortFrom(before[i], port), "udp")
			if err != nil {
				return o, err
			}
			if yes, _ := t.answered(); len(yes) == 0 {
				silent = append(silent, before[i].String())
			}
			o.Evidence = append(o.Evidence, t.observation().Evidence...)
		}
		stale := 0
		for i := range before {
			if before[i] != after[i] {
				stale++
			}
		}
		return concluded(o, first && between && second && len(reached) == len(after) && len(silent) == stale,
			"%s was %v on %s (all resolvers said so: %t), nobody while it was nowhere (%t), and %v on %s (%t), reached at %s; of %d addresses that it had before and has no more, these are silent: %s",
			name, before, from, first, between, after, to, second, orNone(reached), stale, orNone(silent)), nil
	},
	Sabotage: []Sabotage{
		{Mode: "bridge", Doc: "resolvers still know an old address of the container", Steps: misnamed(func(p *topology.Plan) string { return nameOf(spareOf(p, p.Hosts()[0].Name, 1)) })},
		{Mode: "macvlan-bridge", Doc: "containers number themselves", Rewire: ofSpares(selfNumbered)},
		{Mode: "direct-bgp", Doc: "hosts have no routes to what was moved", Rewire: ofSpares(unrouted)},
	},
})

// addrsAt are those of the container that the plan has first on a host.
func addrsAt(b *Bench, host string) []netip.Prefix {
	h := b.plan.Machine(host)
	return b.mode.Addrs(b.plan, h, h.Containers[0])
}
