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

// linking is a container that was linked to another one of its host.
type linking struct {
	b      *Bench
	to     Place // the container
	source Place
	open   uint16 // of the source: exposed
	shut   uint16 // of the source: not
	told   []modes.Link
	steps  []topology.Step
}

// alias is by what the container knows the source.
const alias = "db-1"

// linked attaches a source that serves two ports, and links the first container to it. Nil: the mode has no links.
func linked(ctx context.Context, b *Bench) (*linking, error) {
	if b.mode.Link == nil {
		return nil, nil
	}
	c, err := another(b, firstHost(b), network(b), 1)
	if err != nil {
		return nil, err
	}
	l := &linking{b: b, to: container(b)}
	if l.source, err = b.Attach(ctx, c, firstHost(b)); err != nil {
		return nil, err
	}
	if l.open, err = serve(ctx, b, l.source, unspecified(IPv4)); err != nil {
		return nil, err
	}
	if l.shut, err = serve(ctx, b, l.source, unspecified(IPv4)); err != nil {
		return nil, err
	}
	return l, l.tell(ctx, c)
}

// tell links the container to a source at its addresses, in place of what it was told of before.
func (l *linking) tell(ctx context.Context, source topology.Container) error {
	now := []modes.Link{{
		Alias: alias, Source: source, Env: given,
		Exposed: []modes.Port{{Proto: "udp", Container: l.open}, {Proto: "tcp", Container: l.open}},
	}}
	l.steps = l.b.mode.Link(l.b.plan, l.b.plan.Machine(l.to.Machine), attachedAt(l.b, l.to), l.told, now)
	if l.b.rewire != nil {
		l.steps = l.b.rewire(l.steps)
	}
	l.told = now
	return l.b.Apply(ctx, l.steps...)
}

// environment is that of the process that the container lives for.
func (l *linking) environment(ctx context.Context) (env []string, err error) {
	err = l.b.Do(ctx, l.to.Machine, "Host.Environ", l.to.Container, &env)
	slices.Sort(env)
	return env, err
}

// resolve is what a process in the container finds of a name.
func (l *linking) resolve(ctx context.Context, name string) (found []netip.Addr, err error) {
	err = l.b.Do(ctx, l.to.Machine, "Host.Resolve", lab.Resolve{In: l.to.Container, Name: name}, &found)
	return found, err
}

// ask asks the source at an address, at a port, from a place.
func (l *linking) ask(ctx context.Context, from Place, to netip.AddrPort) (Observation, error) {
	t, err := try(ctx, l.b, from, l.source, to, "udp", "tcp")
	return t.observation(), err
}

func linkless() Observation { return notApplicable("the mode has no links") }

var _ = register(Spec{
	Suite: "conformance",
	Feature: Feature{
		Name: "link-environment", Group: "services",
		Doc: "Does a process in a linked container find in its environment where the other container is, and what that one was given, and does it reach it there?",
	},
	Name: "a container is linked to another that exposes a port by TCP and UDP; the environment of its process is read from the kernel, and what it says is asked",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		l, err := linked(ctx, b)
		if l == nil || err != nil {
			return linkless(), err
		}
		got, err := l.environment(ctx)
		if err != nil {
			return Observation{}, err
		}
		source := addrOf(b, l.source, IPv4)
		own := attachedAt(b, l.to)
		want := documented(own.Host+"-"+own.Name, netip.AddrPortFrom(source, l.open))
		at, ok := pointed(got, l.open)
		if !ok {
			return Observation{Status: "mixed", Detail: "the environment points nowhere"}.with(l.to.String(), "environment: %s", strings.Join(got, " ")), nil
		}
		o, err := l.ask(ctx, l.to, at)
		if err != nil {
			return o, err
		}
		o = o.with(l.to.String(), "environment: %s", strings.Join(got, " "))
		return concluded(o, o.Status == reports.Works && slices.Equal(got, want),
			"the environment of %s has %d variables, those documented: %t; %s, which it names, answers: %t", l.to, len(got), slices.Equal(got, want), at, o.Status == reports.Works).by(l.steps), nil
	},
	Sabotage: []Sabotage{
		{Mode: "links", Doc: "the process starts without what it should be told", Rewire: mapSteps(func(s *topology.Step) bool {
			if s.Process != nil {
				s.Process = &topology.Process{}
			}
			return true
		})},
		{Mode: "links", Doc: "the links let nothing through", Rewire: mapSteps(unpierced)},
	},
})

// given is what a source was given itself.
var given = []string{"PATH=/bin", "PASSWORD=open=sesame"}

// documented is the environment of a container that is linked to a source of which a port by TCP and by UDP is exposed: in the words of Docker's documentation, and not of
// what derives them.
func documented(container string, at netip.AddrPort) []string {
	env := strings.Fields(strings.NewReplacer("{c}", container, "{a}", at.Addr().String(), "{p}", fmt.Sprint(at.Port())).Replace(`
		DB_1_NAME=/{c}/db-1 DB_1_PORT=tcp://{a}:{p}
		DB_1_PORT_{p}_TCP=tcp://{a}:{p} DB_1_PORT_{p}_TCP_ADDR={a} DB_1_PORT_{p}_TCP_PORT={p} DB_1_PORT_{p}_TCP_PROTO=tcp
		DB_1_PORT_{p}_UDP=udp://{a}:{p} DB_1_PORT_{p}_UDP_ADDR={a} DB_1_PORT_{p}_UDP_PORT={p} DB_1_PORT_{p}_UDP_PROTO=udp
		DB_1_ENV_PASSWORD=open=sesame`))
	slices.Sort(env)
	return env
}

// pointed is where an environment says that a port by TCP is.
func pointed(env []string, port uint16) (at netip.AddrPort, ok bool) {
	for _, e := range env {
		if url, found := strings.CutPrefix(e, fmt.Sprintf("DB_1_PORT_%d_TCP=tcp://", port)); found {
			at, err := netip.ParseAddrPort(url)
			return at, err == nil
		}
	}
	return at, false
}

// by adds how to do the same by hand.
func (o Observation) by(steps []topology.Step) Observation {
	o.Reproduce = lines(steps)
	return o
}

// mapSteps changes each of some steps, or leaves it out where keep is false.
func mapSteps(change func(*topology.Step) (keep bool)) func([]topology.Step) []topology.Step {
	return func(steps []topology.Step) (out []topology.Step) {
		for _, s := range steps {
			if change(&s) {
				out = append(out, s)
			}
		}
		return out
	}
}

// unpierced leaves out what lets a linked container through.
func unpierced(s *topology.Step) bool {
	return s.Table == nil || !strings.HasPrefix(s.Table.Name, "link-")
}

// unkept leaves out what keeps containers apart on their bridge.
func unkept(s *topology.Step) bool { return s.Table == nil || !strings.HasPrefix(s.Table.Name, "icc-") }

// untold leaves out what containers are told by /etc/hosts, unless they start.
func untold(steps []topology.Step) []topology.Step {
	starts := slices.ContainsFunc(steps, func(s topology.Step) bool { return s.Process != nil })
	return mapSteps(func(s *topology.Step) bool { return s.Hosts == nil || starts })(steps)
}

var _ = register(Spec{
	Suite: "conformance",
	Feature: Feature{
		Name: "link-hosts", Group: "services",
		Doc: "Does a process in a linked container find the other one by its alias, its identifier and its name, and does it reach it there?",
	},
	Name: "a container is linked to another; a process that is started in it looks the three names up, and one that nobody has, by its /etc/hosts",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		l, err := linked(ctx, b)
		if l == nil || err != nil {
			return linkless(), err
		}
		source := addrOf(b, l.source, IPv4)
		o, err := l.ask(ctx, l.to, netip.AddrPortFrom(source, l.open))
		if err != nil {
			return o, err
		}
		right := 0
		names := append(l.told[0].Names(), "localhost", "nobody")
		for _, name := range names {
			found, err := l.resolve(ctx, name)
			if err != nil {
				return o, err
			}
			want := []netip.Addr{source}
			switch name {
			case "localhost":
				want[0] = loopback(IPv4)
			case "nobody":
				want = nil
			}
			if slices.Equal(found, want) {
				right++
			}
			o = o.with(l.to.String(), "%s: %v", name, found)
		}
		return concluded(o, o.Status == reports.Works && right == len(names),
			"of %d names %d are as they should be in %s; %s, which is the source, answers: %t", len(names), right, l.to, source, o.Status == reports.Works).by(l.steps), nil
	},
	Sabotage: []Sabotage{
		{Mode: "links", Doc: "the container has no hosts file", Rewire: mapSteps(func(s *topology.Step) bool { return s.Hosts == nil })},
		{Mode: "links", Doc: "the links let nothing through", Rewire: mapSteps(unpierced)},
	},
})

var _ = register(Spec{
	Suite: "conformance",
	Feature: Feature{
		Name: "link-pinhole", Group: "isolation",
		Doc: "Does a linked container reach the other one at its exposed ports and nowhere else, and one that is not linked nowhere?",
	},
	Name: "a linked container asks the other one at an exposed port and at another, and a third one asks it at the exposed port",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		l, err := linked(ctx, b)
		if l == nil || err != nil {
			return linkless(), err
		}
		_, stranger, ok := pair(b, l.to.Machine, network(b))
		if !ok {
			return oneContainer(), nil
		}
		source := addrOf(b, l.source, IPv4)
		var o Observation
		right := 0
		for _, q := range []struct {
			from Place
			port uint16
			want string
		}{{l.to, l.open, reports.Works}, {l.to, l.shut, reports.Blocked}, {stranger, l.open, reports.Blocked}} {
			got, err := l.ask(ctx, q.from, netip.AddrPortFrom(source, q.port))
			if err != nil {
				return o, err
			}
			if got.Status == q.want {
				right++
			}
			o.Evidence = append(o.with(q.from.String(), "%s", got.Detail).Evidence, got.Evidence...)
		}
		return concluded(o, right == 3, "%s, which is linked to %s, reaches it at its exposed port %d, not at %d, and %s, which is not, not at all: %d of 3 are so",
			l.to, l.source, l.open, l.shut, stranger, right).by(l.steps), nil
	},
	Sabotage: []Sabotage{
		{Mode: "links", Doc: "nothing keeps containers apart", Rewire: mapSteps(unkept)},
		{Mode: "links", Doc: "the links let nothing through", Rewire: mapSteps(unpierced)},
	},
})

// followed links a container to another one, which is then started again with another address, and asks it where lead says.
func followed(lead func(context.Context, *linking) (netip.AddrPort, error)) func(context.Context, *Bench) (Observation, error) {
	return func(ctx context.Context, b *Bench) (Observation, error) {
		l, err := linked(ctx, b)
		if l == nil || err != nil {
			return linkless(), err
		}
		c, before := attachedAt(b, l.source), addrOf(b, l.source, IPv4)
		first, err := lead(ctx, l)
		if err != nil {
			return Observation{}, err
		}
		if o, err := l.ask(ctx, l.to, first); err != nil || o.Status != reports.Works {
			o.Status, o.Detail = "mixed", "before it was started again: "+o.Detail
			return o, err
		}
		if err := b.Detach(ctx, l.source); err != nil {
			return Observation{}, err
		}
		again, err := another(b, firstHost(b), network(b), 2)
		if err != nil {
			return Observation{}, err
		}
		again.Name, again.MAC, again.Device = c.Name, c.MAC, c.Device
		if l.source, err = b.Attach(ctx, again, l.to.Machine); err != nil {
			return Observation{}, err
		}
		for _, proto := range []string{"udp", "tcp"} {
			if _, err := b.Listen(ctx, l.source, lab.Listen{Proto: proto, Addr: netip.AddrPortFrom(unspecified(IPv4), l.open)}); err != nil {
				return Observation{}, err
			}
		}
		if err := l.tell(ctx, again); err != nil {
			return Observation{}, err
		}
		after := addrOf(b, l.source, IPv4)
		control, err := l.ask(ctx, l.to, netip.AddrPortFrom(after, l.open))
		if err != nil {
			return control, err
		}
		at, err := lead(ctx, l)
		if err != nil {
			return control, err
		}
		o, err := l.ask(ctx, l.to, at)
		o = o.with(l.to.String(), "the source was at %s and is at %s, where it says: %s; the container is led to %s", before, after, control.Detail, at)
		return o.by(l.steps), err
	}
}

var _ = register(Spec{
	Suite: "lifecycle",
	Feature: Feature{
		Name: "link-environment-follows", Group: "operations",
		Doc: "After the other container was started again with another address, does the environment of a linked container that runs lead to it?",
	},
	Name: "a container is detached and attached again with another address, and one that is linked to it asks where its environment says",
	Run: followed(func(ctx context.Context, l *linking) (netip.AddrPort, error) {
		env, err := l.environment(ctx)
		at, ok := pointed(env, l.open)
		if err == nil && !ok {
			err = fmt.Errorf("the environment of %s names no port: %s", l.to, strings.Join(env, " "))
		}
		return at, err
	}),
	Sabotage: []Sabotage{
		// Docker gives it another one (moby/moby#10170).
		{Mode: "links", Doc: "the source keeps the address that it had, and nothing keeps containers apart", Rewire: func(steps []topology.Step) (out []topology.Step) {
			for _, s := range mapSteps(unkept)(steps) {
				if out = append(out, s); s.Addr != nil && s.Addr.Prefix.Addr().Is4() && steps[0].Space != nil && !slices.Contains([]string{"c1", "c2", "c3", "c4"}, s.In) {
					kept := *s.Addr
					kept.Prefix = netip.PrefixFrom(kept.Prefix.Addr().Prev(), kept.Prefix.Bits())
					s.Addr = &kept
					out = append(out, s)
				}
			}
			return out
		}},
	},
})

var _ = register(Spec{
	Suite: "lifecycle",
	Feature: Feature{
		Name: "link-hosts-follows", Group: "operations",
		Doc: "After the other container was started again with another address, does a process in a linked container find it by its alias?",
	},
	Name: "a container is detached and attached again with another address, and one that is linked to it asks where its /etc/hosts says",
	Run: followed(func(ctx context.Context, l *linking) (netip.AddrPort, error) {
		found, err := l.resolve(ctx, alias)
		if err == nil && len(found) != 1 {
			err = fmt.Errorf("%s finds %v as %s", l.to, found, alias)
		}
		if err != nil {
			return netip.AddrPort{}, err
		}
		return netip.AddrPortFrom(found[0], l.open), nil
	}),
	Sabotage: []Sabotage{
		{Mode: "links", Doc: "/etc/hosts is written when the container starts only", Rewire: untold},
		{Mode: "links", Doc: "rules still let the container through to the address that the source had", Rewire: func(steps []topology.Step) []topology.Step {
			if slices.ContainsFunc(steps, func(s topology.Step) bool { return s.Process != nil || s.Space != nil }) {
				return steps
			}
			return mapSteps(unpierced)(steps)
		}},
	},
})
