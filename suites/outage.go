package suites

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/modebench/modebench/modes"
	"github.com/modebench/modebench/reports"
	"github.com/modebench/modebench/topology"
	"github.com/modebench/modebench/topology/lab"
)

const failure = "failure"

// trials are how often each failure is brought about, so that a spread can be told.
const trials = 3

// lasting is after how long what is not answered again is taken not to come back by itself: longer than a kernel takes for a carrier
// (a second), for a neighbour (three) and a speaker for its next attempt.
const lasting = 2 * patience

// vigil is what an outage is measured by: a program of a container that is asked a thousand times a second from elsewhere.
type vigil struct {
	*Bench
	family   Family
	from, at Place
	target   netip.AddrPort
	server   server
	flow
}

// asker is who asks a container while something fails, and where. It is asked at its own address where somebody elsewhere reaches it there: an
// external machine, or else a container of another host; and otherwise by an external machine, at a port that its host publishes.
func asker(ctx context.Context, b *Bench, p Place, f Family, port uint16) (from Place, target netip.AddrPort, err error) {
	own := netip.AddrPortFrom(addrOf(b, p, f), port)
	if visible(b, own.Addr()) {
		return external(b), own, nil
	}
	ok, err := eventually(ctx, retry, func() (bool, error) {
		a, err := b.Ask(ctx, far(b), lab.Ask{Proto: "udp", To: own, Wait: hopeful})
		return a.Answered, err
	})
	if ok || err != nil {
		return far(b), own, err
	}
	if b.mode.Publish == nil {
		return from, target, fmt.Errorf("%s is reached at %s from nowhere else, and the mode publishes no ports", p, own.Addr())
	}
	steps := publication(b, p, modes.Port{Proto: "udp", Host: port, Container: port})
	return external(b), netip.AddrPortFrom(addrOf(b, Place{Machine: p.Machine}, f), port), b.Apply(ctx, steps...)
}

// streaming has a container of the first host asked until the spec ends or the stream is stopped. It is answered when this returns.
func streaming(ctx context.Context, b *Bench, at Place, f Family) (*vigil, error) {
	s := &vigil{Bench: b, family: f, at: at}
	var err error
	if s.server, err = serveUDP(ctx, b, s.at, f, b.freePort()); err != nil {
		return nil, err
	}
	if s.from, s.target, err = asker(ctx, b, s.at, f, s.server.Port); err != nil {
		return nil, err
	}
	if ok, err := insists(ctx, b, s.from, s.target); err != nil || !ok {
		return nil, errors.Join(err, fmt.Errorf("%s does not reach %s at %s before anything failed", s.from, s.at, s.target))
	}
	if s.flow, err = flowing(ctx, b, s.from, s.target, b.newToken()); err != nil {
		return nil, err
	}
	if ok, err := s.goesOn(ctx, patience); err != nil || !ok {
		return nil, errors.Join(err, fmt.Errorf("%s asks %s at %s a thousand times a second, and is not answered before anything failed", s.from, s.at, s.target))
	}
	return s, nil
}

// steadily is how many answers in a row show that a stream is answered.
const steadily = 50

// goesOn waits until more of the stream is answered.
func (s *vigil) goesOn(ctx context.Context, within time.Duration) (bool, error) {
	begun := -1
	return eventually(ctx, within, func() (bool, error) {
		var t lab.Tally
		err := s.Do(ctx, s.from.Machine, "Probe.Tally", s.handle, &t)
		if begun < 0 {
			begun = t.Answered
		}
		return t.Answered >= begun+steadily, err
	})
}

// pause is for how long cables and switches are away: longer than the second in which a kernel does not look at carriers again once it has
// (linkwatch_schedule_work() of net/core/link_watch.c), which would else be what is measured.
const pause = 1500 * time.Millisecond

// silent waits until the container has not answered for so long; if it answers all the time, that is to be told as it is.
func (s *vigil) silent(ctx context.Context) error {
	_, err := eventually(ctx, patience, func() (bool, error) {
		var t lab.Tally
		err := s.Do(ctx, s.from.Machine, "Probe.Tally", s.handle, &t)
		return t.Longest >= pause, err
	})
	return err
}

// failing makes and unmakes a failure, and gives the moment from which on its cause was gone.
type failing = func(context.Context, *vigil) (what string, back time.Time, err error)

// outages observes what a failure costs who asks the first host's first container.
func outages(f Family, fail failing) func(context.Context, *Bench) (Observation, error) {
	return outagesOf(f, func(_ context.Context, b *Bench) (Place, error) { return container(b), nil }, fail)
}

// outagesOf observes what a failure costs who asks a container of the first host. It is repeated, as long as the container is answered again each time.
func outagesOf(f Family, who func(context.Context, *Bench) (Place, error), fail failing) func(context.Context, *Bench) (Observation, error) {
	return func(ctx context.Context, b *Bench) (Observation, error) {
		if o := numberless(b, f); o != nil {
			return *o, nil
		}
		o := works("")
		var whole, after []string
		var said string
		var sent, lost int
		for i := range trials {
			if i > 0 {
				if err := b.reset(ctx); err != nil {
					return Observation{}, err
				}
			}
			at, err := who(ctx, b)
			if err != nil {
				return Observation{}, err
			}
			s, err := streaming(ctx, b, at, f)
			if err != nil {
				return Observation{}, err
			}
			what, back, err := fail(ctx, s)
			if declined(ctx, b, err) {
				return blocked("%s asked %s at %s a thousand times a second, and after the failure it is not run again: %s", s.from, at, s.target, objection(err)), nil
			} else if err != nil {
				return Observation{}, err
			}
			again, err := s.goesOn(ctx, lasting)
			if err != nil {
				return Observation{}, err
			}
			if !again {
				return s.over(ctx, what)
			}
			t, err := s.stop()
			if err != nil {
				return Observation{}, err
			}
			var silence, rest time.Duration // a stream of which nothing is lost knows no outage
			if t.Answered < t.Sent {
				silence = t.Longest
				rest = min(silence, max(0, t.Since.Add(-b.ahead(s.from.Machine)).Add(silence).Sub(back)))
			}
			sent, lost = sent+t.Sent, lost+t.Sent-t.Answered
			said = fmt.Sprintf("%s while %s asked %s at %s a thousand times a second", what, s.from, s.at, s.target)
			whole, after = append(whole, milliseconds(silence)), append(after, milliseconds(rest))
			o = o.value(reports.OutageUnit, silence.Seconds()).value(reports.BackUnit, rest.Seconds())
		}
		o.Detail = fmt.Sprintf("%s, %d times: no answer for %s ms, of which %s ms after the cause was gone; of %d questions %d were lost",
			said, trials, strings.Join(whole, ", "), strings.Join(after, ", "), sent, lost)
		return o, nil
	}
}

func milliseconds(d time.Duration) string {
	return fmt.Sprintf("%.1f", float64(d)/float64(time.Millisecond))
}

// over is that a stream is not answered any more. That a new question is would be another thing.
func (s *vigil) over(ctx context.Context, what string) (Observation, error) {
	a, err := s.Ask(ctx, s.from, lab.Ask{Proto: "udp", To: s.target, Wait: time.Second})
	if err != nil {
		return Observation{}, err
	}
	o := blocked("%s: %s at %s does not answer %s again within %s", what, s.at, s.target, s.from, lasting)
	if a.Answered {
		o.Status = "mixed"
		o.Detail += ", but a new question, after " + a.RTT.String()
	}
	return unharmed(ctx, s.Bench, o)
}

var estrangements = []Sabotage{
	{Mode: "bridge", Doc: "the host cannot find its neighbours again", Before: acquainted, Steps: forgetful},
	{Mode: "ptp", Doc: "the host cannot find its neighbours again", Before: acquainted, Steps: forgetful},
}

var _ = register(Spec{
	Suite:   failure,
	Feature: Feature{Name: "outage-link", Group: failure, Doc: "When a host's uplink is lost and comes back, is a container there answered again by itself?"},
	Name:    "the switch's port of the host goes down for a second and a half, and up again, while a container there is asked a thousand times a second",
	Within:  4 * specTimeout,
	Run: outages(IPv4, func(ctx context.Context, s *vigil) (string, time.Time, error) {
		plug, err := unplug(ctx, s.Bench, s.at.Machine)
		if err != nil {
			return "", time.Time{}, err
		}
		if err := s.silent(ctx); err != nil {
			return "", time.Time{}, err
		}
		back := time.Now()
		return fmt.Sprintf("the uplink of %s was lost and came back", s.at.Machine), back, plug()
	}),
	Sabotage: estrangements,
})

var _ = register(Spec{
	Suite:   failure,
	Feature: Feature{Name: "outage-switch", Group: failure, Doc: "When the switch restarts, is a container answered again by itself?"},
	Name:    "the switch's ports go down and its bridges are deleted for a second and a half, then they are made again, while a container is asked a thousand times a second",
	Within:  4 * specTimeout,
	Run: outages(IPv4, func(ctx context.Context, s *vigil) (string, time.Time, error) {
		up, err := restart(ctx, s.Bench, func() error { return s.silent(ctx) })
		return "the switch restarted", up, err
	}),
	Sabotage: estrangements,
})

var _ = register(Spec{
	Suite:   failure,
	Feature: Feature{Name: "outage-host", Group: failure, Doc: "When a host dies and is started again, and the mode has set it up again, is a container there answered as before?"},
	Name:    "a host is restarted, the mode's steps are carried out again and the container's program is started, while it is asked a thousand times a second",
	Within:  4 * specTimeout,
	Run: outages(IPv4, func(ctx context.Context, s *vigil) (string, time.Time, error) {
		if err := s.server.stop(); err != nil { // it dies with the host, where nobody can end it later
			return "", time.Time{}, err
		}
		restore, err := s.Reboot(ctx, s.at.Machine)
		if err != nil {
			return "", time.Time{}, err
		}
		back := time.Now()
		if err := restore(ctx); err != nil {
			return "", time.Time{}, err
		}
		_, err = serveUDP(ctx, s.Bench, s.at, s.family, s.server.Port)
		return fmt.Sprintf("%s died, was started with nothing on it, and was set up again", s.at.Machine), back, err
	}),
	Sabotage: []Sabotage{
		{Mode: "bridge", Doc: "who asked before the port was published stays tracked as a client of the host's", Rewire: func(steps []topology.Step) []topology.Step {
			return slices.DeleteFunc(slices.Clone(steps), func(s topology.Step) bool { return s.Forget != nil })
		}},
		{
			Mode: "macvlan-bridge", Doc: "the container's MAC address is drawn anew, and the external machine keeps the old one",
			Rewire: mapLinks(func(l *topology.Link) { l.MAC = nil }), Before: engraved,
		},
	},
})

// engraved has an external machine keep the container's link-layer address for ever.
func engraved(ctx context.Context, b *Bench) error {
	p := container(b)
	l, err := linkOf(ctx, b, p, ownDevice(b, p))
	if err != nil {
		return err
	}
	return b.Apply(ctx, topology.Step{On: external(b).Machine, Neigh: &topology.Neigh{
		Link: b.plan.Machine(external(b).Machine).NICs[0].Name, IP: addrOf(b, p, IPv4), MAC: l.MAC,
	}})
}

var _ = register(Spec{
	Suite:   failure,
	Feature: Feature{Name: "outage-session", Group: failure, Doc: "When the router resets its session with a host, is it established again by itself, and is a container there answered meanwhile or afterwards?"},
	Name:    "the router resets the session of the host, while a container there is asked a thousand times a second",
	Within:  4 * specTimeout,
	Run: speaking(func(ctx context.Context, b *Bench) (Observation, error) {
		// By IPv6: its routes go by the same sessions.
		return outages(IPv6, func(ctx context.Context, s *vigil) (string, time.Time, error) {
			at := sessionOf(s.Bench, s.at.Machine)
			if err := s.Do(ctx, at.tor, "BGP.Reset", at.own(IPv4), &lab.Nothing{}); err != nil {
				return "", time.Time{}, err
			}
			back := time.Now()
			if down, err := eventually(ctx, patience, func() (bool, error) { up, err := at.up(ctx, s.Bench); return !up, err }); err != nil || !down {
				return "", time.Time{}, errors.Join(err, fmt.Errorf("%s was told to reset its session with %s, which is still up after %s", at.tor, at.host, patience))
			}
			what := fmt.Sprintf("%s reset its session with %s", at.tor, at.host)
			if err := converged(ctx, s.Bench); err != nil { // which the container pays for, or else it is to be told
				what += ", and " + err.Error()
			}
			return what, back, nil
		})(ctx, b)
	}),
	Sabotage: []Sabotage{
		muted("direct-bgp"), muted(speaks),
	},
})

// remembering has the router keep a route of its own to the first of the addresses that are withdrawn.
func remembering(p *topology.Plan) []topology.Step {
	h := p.Hosts()[0]
	slice, _ := p.Slice(h.Name, p.Networks[0].Name)
	nic := h.NIC(p.Networks[0].NIC)
	return []topology.Step{{On: nic.Peer.Machine, Route: &topology.Route{Dst: alone(upper(slice)), Via: nic.V4.Addr(), Metric: 100}}}
}

// flaps are how often a session is reset in a row.
const flaps = 5

// flapped is the address that a host announces before one of them, and withdraws while the session is down.
func flapped(b *Bench, host string, i int) netip.Prefix {
	slice, _ := b.plan.Slice(host, network(b))
	a := upper(slice)
	for range i {
		a = a.Next()
	}
	return alone(a)
}

var _ = register(Spec{
	Suite:   failure,
	Feature: Feature{Name: "session-flaps", Group: failure, Doc: "When the session of a host is reset five times in a row, and something is withdrawn each time it is down, is there one session again each time, and no route left behind?"},
	Name:    "five times a host announces one address more, the router resets its session, and the address is withdrawn before it is established again; the router's routes, and sessions and sockets of both, are compared with before",
	Within:  6 * specTimeout,
	Run: speaking(func(ctx context.Context, b *Bench) (Observation, error) {
		s := sessionOf(b, firstHost(b))
		ways := func() (texts []string, sockets map[string]int, err error) {
			sockets = map[string]int{}
			for _, machine := range []string{s.tor, s.host} {
				state, err := b.own(ctx, machine)
				if err != nil {
					return nil, nil, err
				}
				sockets[machine] = state.Sockets
				if machine == s.tor {
					for _, r := range state.Routes {
						texts = append(texts, r.Text)
					}
				}
			}
			slices.Sort(texts)
			return texts, sockets, nil
		}
		turns := func() (ups, downs int, err error) {
			state, err := bgpState(ctx, b, s.tor)
			for _, e := range state.Events {
				switch {
				case e.Peer != s.own(IPv4):
				case e.Kind == "established":
					ups++
				case e.Kind == "down":
					downs++
				}
			}
			return ups, downs, err
		}
		before, opened, err := ways()
		if err != nil {
			return Observation{}, err
		}
		ups, downs, err := turns()
		if err != nil {
			return Observation{}, err
		}
		const owner = specOwner + " flap"
		b.atEnd(func(ctx context.Context) error { return b.lab.Undo(ctx, owner) })
		var o Observation
		for i := range flaps {
			p := flapped(b, s.host, i)
			if err := b.lab.Apply(ctx, owner, announcing(s.host, p)); err != nil {
				return o, err
			}
			if ok, err := eventually(ctx, patience, func() (bool, error) {
				routes, err := routesTo(ctx, b, s.tor, p)
				return len(routes) > 0, err
			}); err != nil || !ok {
				return o, errors.Join(err, fmt.Errorf("%s does not learn %s from %s", s.tor, p, s.host))
			}
			began := time.Now()
			if err := b.Do(ctx, s.tor, "BGP.Reset", s.own(IPv4), &lab.Nothing{}); err != nil {
				return o, err
			}
			if down, err := eventually(ctx, patience, func() (bool, error) { up, err := s.up(ctx, b); return !up, err }); err != nil || !down {
				return o, errors.Join(err, fmt.Errorf("%s was told to reset its session with %s, which is still up after %s", s.tor, s.host, patience))
			}
			if err := b.lab.Undo(ctx, owner); err != nil {
				return o, err
			}
			if err := converged(ctx, b); ctx.Err() == nil && err != nil {
				return blocked("%s reset its session with %s, %d times before: %v", s.tor, s.host, i, err), nil
			} else if err != nil {
				return o, err
			}
			o = o.value("up-again-sec", time.Since(began).Seconds())
		}
		var now, left []string
		var sockets map[string]int
		_, err = eventually(ctx, patience, func() (bool, error) {
			now, sockets, err = ways()
			return slices.Equal(now, before) && maps.Equal(sockets, opened), err
		})
		if err != nil {
			return o, err
		}
		for i := range flaps {
			routes, err := routesTo(ctx, b, s.tor, flapped(b, s.host, i))
			if err != nil {
				return o, err
			}
			for _, r := range routes {
				left = append(left, r.Text)
			}
		}
		ups2, downs2, err := turns()
		if err != nil {
			return o, err
		}
		same := len(left) == 0 && slices.Equal(now, before) && maps.Equal(sockets, opened) && ups2-ups == flaps && downs2-downs == flaps
		out := whether(same, "%s reset its session with %s %d times: it went down %d times and was established %d times; of what was withdrawn meanwhile %s is left; %s has %d routes, and had %d; sockets of %s and %s: %d and %d, before %d and %d",
			s.tor, s.host, flaps, downs2-downs, ups2-ups, orNone(left), s.tor, len(now), len(before), s.tor, s.host, sockets[s.tor], sockets[s.host], opened[s.tor], opened[s.host])
		out.Values = o.Values
		return out, nil
	}),
	Sabotage: []Sabotage{
		{Mode: "direct-bgp", Doc: "the router has a static route to what is withdrawn, too", Steps: remembering},
		{Mode: speaks, Doc: "the router has a static route to what is withdrawn, too", Steps: remembering},
	},
})

var _ = register(Spec{
	Suite:   failure,
	Feature: Feature{Name: "outage-move", Group: failure, Doc: "When a container moves to another host, do those that know it reach it there at the same address?"},
	Name:    "a container is detached from one host and attached to another, while an external machine, or in an overlay another container, asks it a thousand times a second",
	Within:  4 * specTimeout,
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		run := move
		if unspanned(b) == nil {
			run = overlayMove
		}
		var all Observation
		for i := range trials {
			if i > 0 {
				if err := b.reset(ctx); err != nil {
					return Observation{}, err
				}
			}
			o, err := run(ctx, b, IPv4)
			if err != nil || o.Status != reports.Works {
				return o, err
			}
			o.Values = append(slices.Clone(all.Values), reports.Value{Unit: reports.OutageUnit, Value: o.Values[len(o.Values)-1].Value})
			all = o
		}
		all.Detail = fmt.Sprintf("%d times; at last %s", trials, all.Detail)
		return all, nil
	},
	Sabotage: []Sabotage{
		{Mode: "macvlan-bridge", Doc: "the container gets another address on the other host", Rewire: sparesOn("h2", selfNumbered)},
		{Mode: "vxlan-static", Doc: "the container gets another address on the other host", Rewire: renumbered},
		{Mode: "direct-bgp", Doc: "hosts announce nothing that was moved", Rewire: ofSpares(unannounced)},
	},
})

var _ = register(Spec{
	Suite: failure,
	Feature: Feature{
		Name: "outage-failover", Group: failure,
		Doc: "When a host dies and does not come back, is a container that was there, and is started on another host, answered again at the same address?",
	},
	Name:   "in a lab of its own, the first of three hosts is restarted with nothing on it, and a container that was there is attached to the third, while it is asked a thousand times a second",
	Within: 4 * specTimeout,
	Run: func(ctx context.Context, b *Bench) (o Observation, err error) {
		if o := numberless(b, IPv4); o != nil {
			return *o, nil
		}
		l, err := among(ctx, b, 3, b.mode)
		if err != nil {
			return o, err
		}
		defer func() { err = errors.Join(err, l.Close()) }()
		from, to := firstHost(l), l.plan.Hosts()[2].Name
		c, err := another(l, from, network(l), 5) // beyond those that any lab begins with
		if err != nil {
			return o, err
		}
		if no, err := unwelcome(ctx, l, c, to, IPv4); no != nil || err != nil {
			return *cmp.Or(no, &Observation{}), err
		}
		return outagesOf(IPv4, func(ctx context.Context, l *Bench) (Place, error) { return l.Attach(ctx, c, from) }, func(ctx context.Context, s *vigil) (string, time.Time, error) {
			if err := s.server.stop(); err != nil { // it dies with the host, where nobody can end it later
				return "", time.Time{}, err
			}
			if _, err := s.Reboot(ctx, from); err != nil {
				return "", time.Time{}, err
			}
			there, err := s.Attach(ctx, c, to)
			if err != nil {
				return "", time.Time{}, err
			}
			back := time.Now()
			_, err = serveUDP(ctx, s.Bench, there, s.family, s.server.Port)
			return fmt.Sprintf("%s died, and %s, which was there, was started on %s", from, c.Name, to), back, err
		})(ctx, l)
	},
	Sabotage: []Sabotage{
		{Mode: "macvlan-bridge", Doc: "the container gets another address on the other host", Rewire: sparesOn("h3", selfNumbered)},
		{Mode: "vxlan-gossip", Doc: "the third host tells of no container that comes later", Rewire: sparesOn("h3", unspoken)},
		{Mode: "direct-bgp", Doc: "the third host announces nothing that comes later", Rewire: sparesOn("h3", unannounced)},
	},
})
