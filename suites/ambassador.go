package suites

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/modebench/modebench/modes"
	"github.com/modebench/modebench/reports"
	"github.com/modebench/modebench/topology"
	"github.com/modebench/modebench/topology/lab"
)

// mission is a container that was linked to an ambassador on its host, the source of the link, for a server on another one.
type mission struct {
	*linking
	family   Family // of what goes between the hosts
	server   Place
	envoy    Place            // the server's own ambassador, on its host
	at       netip.AddrPort   // where that is published
	withdraw func() error     // what publishes it
	carries  []topology.Relay // what the container's ambassador does
	done     []topology.Step
}

// The numbers of spare containers. No other spec has one of these addresses on the second host: neighbours remember for a while who had one last.
const (
	spareAmbassador = 11 + iota
	spareServer
	spareEnvoy
	spareEnvoyThere // where the server moves to
)

// represented attaches a server that serves two ports to the second host, ambassadors for one of them to both hosts, and links the first container
// to that of its own. Nil: the mode has no ambassadors.
func represented(ctx context.Context, b *Bench, f Family) (*mission, error) {
	if b.mode.Ambassador == nil {
		return nil, nil
	}
	own, err := another(b, firstHost(b), network(b), spareAmbassador)
	if err != nil {
		return nil, err
	}
	c, err := another(b, secondHost(b), network(b), spareServer)
	if err != nil {
		return nil, err
	}
	m := &mission{linking: &linking{b: b, to: container(b)}, family: f}
	if m.source, err = b.Attach(ctx, own, firstHost(b)); err != nil {
		return nil, err
	}
	if m.server, err = b.Attach(ctx, c, secondHost(b)); err != nil {
		return nil, err
	}
	if m.open, err = serve(ctx, b, m.server, unspecified(IPv4)); err != nil {
		return nil, err
	}
	if m.shut, err = serve(ctx, b, m.server, unspecified(IPv4)); err != nil {
		return nil, err
	}
	if err := m.represent(ctx, spareEnvoy); err != nil {
		return nil, err
	}
	if err := m.direct(ctx); err != nil {
		return nil, err
	}
	if err := m.tell(ctx, own); err != nil {
		return nil, err
	}
	m.done = append(m.done, m.steps...)
	return m, nil
}

// represent attaches an ambassador, a spare container of that number, to the server's host, links it to the server and publishes it.
func (m *mission) represent(ctx context.Context, number int) error {
	c, err := another(m.b, m.server.Machine, network(m.b), number)
	if err != nil {
		return err
	}
	if m.envoy, err = m.b.Attach(ctx, c, m.server.Machine); err != nil {
		return err
	}
	l := &linking{b: m.b, to: m.envoy, source: m.server, open: m.open}
	if err := l.tell(ctx, attachedAt(m.b, m.server)); err != nil {
		return err
	}
	m.done = append(m.done, l.steps...)
	if _, err := m.carry(ctx, m.envoy, nil, netip.AddrPortFrom(addrOf(m.b, m.server, IPv4), m.open)); err != nil {
		return err
	}
	m.at = netip.AddrPortFrom(addrOf(m.b, Place{Machine: m.server.Machine}, m.family), m.b.freePort())
	var steps []topology.Step
	for _, proto := range []string{"udp", "tcp"} {
		steps = append(steps, publication(m.b, m.envoy, modes.Port{Proto: proto, Host: m.at.Port(), Container: m.open})...)
	}
	m.done = append(m.done, steps...)
	owner := "published on " + m.server.Machine
	m.withdraw = sync.OnceValue(func() error { return m.b.lab.Undo(context.WithoutCancel(ctx), owner) })
	m.b.atEnd(func(context.Context) error { return m.withdraw() })
	return m.b.lab.Apply(ctx, owner, steps)
}

// direct has the container's ambassador carry on to where the server's is published.
func (m *mission) direct(ctx context.Context) (err error) {
	m.carries, err = m.carry(ctx, m.source, m.carries, m.at)
	return err
}

// carry has an ambassador carry the open port on to an address by both protocols, instead of what it carried before.
func (m *mission) carry(ctx context.Context, by Place, was []topology.Relay, to netip.AddrPort) (now []topology.Relay, err error) {
	for _, proto := range []string{"udp", "tcp"} {
		now = append(now, topology.Relay{Proto: proto, Port: m.open, To: to})
	}
	steps := m.b.mode.Ambassador(m.b.plan, m.b.plan.Machine(by.Machine), attachedAt(m.b, by), was, now)
	if m.b.rewire != nil {
		steps = m.b.rewire(steps)
	}
	m.done = append(m.done, steps...)
	return now, m.b.Apply(ctx, steps...)
}

// led is where the container's environment says that the server is.
func (m *mission) led(ctx context.Context) (netip.AddrPort, error) {
	env, err := m.environment(ctx)
	at, ok := pointed(env, m.open)
	if err == nil && !ok {
		err = fmt.Errorf("the environment of %s names no port: %s", m.to, strings.Join(env, " "))
	}
	return at, err
}

// call asks the server where the container is led to.
func (m *mission) call(ctx context.Context) (trip, error) {
	at, err := m.led(ctx)
	if err != nil {
		return trip{}, err
	}
	return try(ctx, m.b, m.to, m.server, at, "udp", "tcp")
}

func unrepresented() Observation { return notApplicable("the mode has no ambassadors") }

// unrelayed leaves out what carries ports on.
func unrelayed(s *topology.Step) bool { return s.Relay == nil }

var _ = registerFamilies(func(f Family) Spec {
	return Spec{
		Suite: "conformance",
		Feature: Feature{
			Name: "ambassador", Group: "services",
			Doc: "Does a linked container reach a service on another host through ambassadors, by UDP and TCP, which cross between the hosts in this family?",
		},
		Name: "a container asks where its environment says, which is an ambassador on its host, that carries on to a published one of another host, that is linked to the server",
		Run: func(ctx context.Context, b *Bench) (Observation, error) {
			m, err := represented(ctx, b, f)
			if m == nil || err != nil {
				return unrepresented(), err
			}
			t, err := m.call(ctx)
			if err != nil {
				return Observation{}, err
			}
			o := t.observation().by(m.done)
			if o.Status != reports.Works {
				return o, nil
			}
			crossed := 0
			for _, proto := range []string{"udp", "tcp"} {
				i := slices.IndexFunc(t.packets, func(p lab.Packet) bool {
					return p.Token == t.tokens[proto] && p.Machine == m.server.Machine && onSegment(b, p) && !p.Outgoing && p.Dst == m.at
				})
				if i >= 0 {
					crossed++
					o.Evidence = append(o.Evidence, seen(t.packets[i]))
				}
			}
			return concluded(o, crossed == 2, "%s asked %s by UDP and TCP at %s, which is %s, and was answered: %d of 2 questions came to %s at %s, where %s is published",
				m.to, m.server, t.target, m.source, crossed, m.server.Machine, m.at, m.envoy), nil
		},
		Sabotage: []Sabotage{
			{Mode: "ambassador", Doc: "ambassadors carry nothing", Rewire: mapSteps(unrelayed)},
			{Mode: "ambassador", Doc: "the links let nothing through", Rewire: mapSteps(unpierced)},
			{Mode: "ambassador", Doc: "the server's ambassador is not published", Rewire: mapSteps(func(s *topology.Step) bool {
				return s.Table == nil || !strings.HasPrefix(s.Table.Name, "publish-")
			})},
		},
	}
})

var _ = register(Spec{
	Suite: "conformance",
	Feature: Feature{
		Name: "ambassador-source", Group: "addresses",
		Doc: "Does a server that is asked through ambassadors see the address of the container that asks?",
	},
	Name: "a container asks through ambassadors, and the server tells who it was asked by",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		m, err := represented(ctx, b, IPv4)
		if m == nil || err != nil {
			return unrepresented(), err
		}
		t, err := m.call(ctx)
		if err == nil && t.observation().Status != reports.Works { // who asked is told by what was delivered: once more
			t, err = m.call(ctx)
		}
		if err != nil {
			return Observation{}, err
		}
		client, envoy := addrOf(b, m.to, IPv4), addrOf(b, m.envoy, IPv4)
		if client == envoy {
			return Observation{}, fmt.Errorf("%s and %s have the same address, %s: the server cannot tell them apart", m.to, m.envoy, client)
		}
		o := t.observation().by(m.done)
		if o.Status != reports.Works {
			o.Status, o.Detail = "mixed", "nothing was delivered whose source could be told: "+o.Detail
			return o, nil
		}
		var sources []string
		own, its := 0, 0
		for _, proto := range []string{"udp", "tcp"} {
			from := t.answers[proto].Seen.Source
			sources = append(sources, from.String())
			o = o.with(m.server.String(), "%s: asked by %s", proto, from)
			switch from.Addr() {
			case client:
				own++
			case envoy:
				its++
			}
		}
		verdict := whether(own == 2, "%s asked %s by UDP and TCP through ambassadors: it saw %s; %s is the address of %s, %s that of %s",
			m.to, m.server, strings.Join(sources, " and "), client, m.to, envoy, m.envoy)
		if o.Detail = verdict.Detail; own < 2 && its < 2 {
			o.Status = "mixed"
			return o, nil
		}
		o.Status = verdict.Status
		return o, nil
	},
	Sabotage: []Sabotage{
		{Mode: "ambassador", Doc: "what is published leads past the ambassador to the server", Rewire: func(steps []topology.Step) []topology.Step {
			return republished(steps, func(_ *topology.Table, r *topology.Rule) { // which has the number before
				r.Verdict.To = netip.AddrPortFrom(r.Verdict.To.Addr().Prev(), r.Verdict.To.Port())
			})
		}},
		{Mode: "ambassador", Doc: "ambassadors carry nothing", Rewire: mapSteps(unrelayed)},
	},
})

var _ = register(Spec{
	Suite: "conformance",
	Feature: Feature{
		Name: "ambassador-ports", Group: "isolation",
		Doc: "Does an ambassador carry the ports on that are configured, by UDP and TCP, and nothing else to the other host: no other port, and no echo?",
	},
	Name: "the container and its host ask the ambassador at a configured port, at another that the server serves too, and by echo, and packets of the questions are looked for on the other host",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		m, err := represented(ctx, b, IPv4)
		if m == nil || err != nil {
			return unrepresented(), err
		}
		recorded, err := b.Record(ctx)
		if err != nil {
			return Observation{}, err
		}
		host, near := Place{Machine: m.to.Machine}, addrOf(b, m.source, IPv4)
		open, shut := netip.AddrPortFrom(near, m.open), netip.AddrPortFrom(near, m.shut)
		o := Observation{}.by(m.done)
		right, tokens := 0, map[bool][]string{} // by whether it is configured
		questions := []struct {
			from       Place
			to         Place // who is to answer
			at         netip.AddrPort
			proto      string
			configured bool
			want       string
		}{
			{m.to, m.server, open, "udp", true, reports.Works},
			{m.to, m.server, open, "tcp", true, reports.Works},
			{host, m.server, open, "udp", true, reports.Works},
			{host, m.server, open, "tcp", true, reports.Works},
			// The link keeps the container from all else of its ambassador's. Its host is kept from nothing: the ambassador itself refuses, and answers echoes.
			{m.to, m.server, shut, "udp", false, reports.Blocked},
			{m.to, m.server, shut, "tcp", false, reports.Blocked},
			{m.to, m.source, shut, "icmp", false, reports.Blocked},
			{host, m.server, shut, "udp", false, reports.Blocked},
			{host, m.server, shut, "tcp", false, reports.Blocked},
			{host, m.source, shut, "icmp", false, reports.Works},
		}
		for _, q := range questions {
			t, err := try(ctx, b, q.from, q.to, q.at, q.proto)
			if err != nil {
				return o, err
			}
			got := t.observation()
			if got.Status == q.want {
				right++
			}
			o = o.with(q.from.String(), "%s", got.Detail)
			if q.want == reports.Blocked {
				o.Evidence = append(o.Evidence, t.control...)
			}
			tokens[q.configured] = append(tokens[q.configured], t.tokens[q.proto])
		}
		crossed := map[bool][]string{}
		packets, err := recorded(ctx, func(p lab.Packet) bool { return p.Machine == m.server.Machine })
		if err != nil {
			return o, err
		}
		for _, p := range packets {
			for _, configured := range []bool{true, false} {
				if slices.Contains(tokens[configured], p.Token) && !slices.Contains(crossed[configured], p.Token) {
					crossed[configured] = append(crossed[configured], p.Token)
					o.Evidence = append(o.Evidence, seen(p))
				}
			}
		}
		return concluded(o, right == len(questions) && len(crossed[true]) == 4 && len(crossed[false]) == 0,
			"%s and its host asked %s, an ambassador for port %d by UDP and TCP, at that port, at %d and by echo: %d of %d were answered or not as should be; of 4 questions at the port, %d came to %s, of 6 others %d",
			m.to, m.source, m.open, m.shut, right, len(questions), len(crossed[true]), m.server.Machine, len(crossed[false])), nil
	},
	Sabotage: []Sabotage{
		{Mode: "ambassador", Doc: "ambassadors carry the next port, too", Rewire: func(steps []topology.Step) (out []topology.Step) {
			for _, s := range steps {
				if out = append(out, s); s.Relay != nil {
					r := *s.Relay
					r.Port++
					s.Relay = &r
					out = append(out, s)
				}
			}
			return out
		}},
		{Mode: "ambassador", Doc: "nothing keeps containers apart", Rewire: mapSteps(unkept)},
		{Mode: "ambassador", Doc: "ambassadors carry what comes by TCP alone", Rewire: mapSteps(func(s *topology.Step) bool { return s.Relay == nil || s.Relay.Proto == "tcp" })},
	},
})

var _ = register(Spec{
	Suite: "lifecycle",
	Feature: Feature{
		Name: "ambassador-follows", Group: "operations",
		Doc: "After the server moved to another host, does a linked container find it again when nothing but its ambassador is set anew?",
	},
	Name: "a server and its ambassador are detached and attached to another host, a third one where there is one; the container asks where its environment says, before its own ambassador is set anew and after",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		m, err := represented(ctx, b, IPv4)
		if m == nil || err != nil {
			return unrepresented(), err
		}
		told := func() (words string, err error) {
			env, err := m.environment(ctx)
			if err != nil {
				return "", err
			}
			found, err := m.resolve(ctx, alias)
			return fmt.Sprintf("%s; %s: %v", strings.Join(env, " "), alias, found), err
		}
		first, err := told()
		if err != nil {
			return Observation{}, err
		}
		t, err := m.call(ctx)
		if err != nil {
			return Observation{}, err
		}
		if o := t.observation().by(m.done); o.Status != reports.Works {
			o.Status, o.Detail = "mixed", "before the server moved: "+o.Detail
			return o, nil
		}
		c, from, was := attachedAt(b, m.server), m.server, m.at
		if err := m.withdraw(); err != nil {
			return Observation{}, err
		}
		for _, p := range []Place{m.envoy, m.server} {
			if err := b.Detach(ctx, p); err != nil {
				return Observation{}, err
			}
		}
		where := firstHost(b)
		if hosts := b.plan.Hosts(); len(hosts) > 2 {
			where = hosts[2].Name
		}
		if m.server, err = b.Attach(ctx, c, where); err != nil {
			return Observation{}, err
		}
		for _, proto := range []string{"udp", "tcp"} {
			if _, err := b.Listen(ctx, m.server, lab.Listen{Proto: proto, Addr: netip.AddrPortFrom(unspecified(IPv4), m.open)}); err != nil {
				return Observation{}, err
			}
		}
		if err := m.represent(ctx, spareEnvoyThere); err != nil {
			return Observation{}, err
		}
		if t, err = m.call(ctx); err != nil {
			return Observation{}, err
		}
		before := t.observation()
		if before.Status != reports.Blocked {
			before.Status, before.Detail = "mixed", "before the ambassador was set anew: "+before.Detail
			return before, nil
		}
		if err := m.direct(ctx); err != nil {
			return Observation{}, err
		}
		if t, err = m.call(ctx); err != nil {
			return Observation{}, err
		}
		last, err := told()
		if err != nil {
			return Observation{}, err
		}
		o := t.observation().by(m.done)
		o = o.with(m.to.String(), "was told before: %s", first).with(m.to.String(), "is told after: %s", last).
			with(m.to.String(), "when the server had moved, and its ambassador carried on to where it had been: %s", before.Detail)
		if first != last {
			o.Status, o.Detail = "mixed", fmt.Sprintf("what %s is told has changed: %s", m.to, o.Detail)
			return o, nil
		}
		o.Detail = fmt.Sprintf("%s moved to %s; %s, which carried on to %s, was set anew to %s, and %s, to which nothing was done, asked: %s", from, m.server, m.source, was, m.at, m.to, o.Detail)
		return o, nil
	},
	Sabotage: []Sabotage{
		{Mode: "ambassador", Doc: "the ambassador is not set anew", Rewire: func(steps []topology.Step) []topology.Step {
			if slices.ContainsFunc(steps, func(s topology.Step) bool { return s.Remove && s.Relay != nil }) {
				return nil
			}
			return steps
		}},
		{Mode: "ambassador", Doc: "the links let nothing through", Rewire: mapSteps(unpierced)},
	},
})
