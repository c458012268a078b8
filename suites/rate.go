package suites

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/modebench/modebench/modes"
	"github.com/modebench/modebench/reports"
	"github.com/modebench/modebench/topology"
	"github.com/modebench/modebench/topology/lab"
)

const (
	limit     = topology.BitRate(20_000_000) // to which containers are held: little enough that a busy, emulated machine carries far more without it
	tolerance = 0.05                         // of it
	unheld    = 2 * float64(limit)           // is more than any limit lets through
	sampled   = 500 * time.Millisecond       // for one reading
	readings  = 7                            // at most
)

// shapers is what rates of all modes are made of.
var shapers = []modes.Kernel{modes.TBF, modes.IFB}

// stretch is a way of TCP connections between a container and an external machine, or one of another host.
type stretch struct {
	sender, receiver Place
	target           netip.AddrPort // whom the sender connects to
	port             uint16         // where the receiver serves
	mtu              int            // of the container's device, for read
	ends             [2]lab.Handle  // agents: the sender's, the receiver's
	end              func() error   // ends them
}

// stretchOf is that from a container to an external machine, or from that to it, where a port has to be published by that.
func stretchOf(ctx context.Context, b *Bench, c Place, out bool) (w stretch, err error) {
	x := external(b)
	w = stretch{sender: x, receiver: c, port: b.freePort()}
	if out {
		w.sender, w.receiver = c, x
		w.target = netip.AddrPortFrom(addrOf(b, x, IPv4), w.port)
	} else if w.target, _, err = known(ctx, b, attachedAt(b, c), c.Machine, IPv4, w.port, "tcp"); err != nil {
		return w, err
	}
	l, err := linkOf(ctx, b, c, exitDevice(b, c))
	if err != nil {
		return w, err
	}
	w.mtu = l.MTU
	return w.started(ctx, b)
}

// started has agents at the ends of a stretch.
func (w stretch) started(ctx context.Context, b *Bench) (stretch, error) {
	for i, at := range []Place{w.sender, w.receiver} {
		if err := b.Do(ctx, at.Machine, "Traffic.Start", lab.AgentAt{In: at.Container, CPU: -1}, &w.ends[i]); err != nil {
			return w, err
		}
	}
	done := context.WithoutCancel(ctx)
	w.end = sync.OnceValue(func() error {
		return errors.Join(b.Do(done, w.sender.Machine, "Traffic.End", w.ends[0], &lab.Nothing{}), b.Do(done, w.receiver.Machine, "Traffic.End", w.ends[1], &lab.Nothing{}))
	})
	b.atEnd(func(context.Context) error { return w.end() })
	return w, nil
}

// read is what the connections carry in a second, in bits of frames: each segment has 52 bytes of headers within the MTU (RFC 7323 section 3.2), and
// 14 of the frame's beyond it.
func (w stretch) read(ctx context.Context, b *Bench) (bits float64, err error) {
	_, got, err := w.carry(ctx, b, lab.Trial{Test: "tcp-stream", Streams: 4, For: sampled})
	return payload(got) * float64(w.mtu+14) / float64(w.mtu-52), err
}

// carry does a trial along the stretch, and gives what each end has to say.
func (w stretch) carry(ctx context.Context, b *Bench, t lab.Trial) (sent, got lab.Measured, err error) {
	ctx, cancel := context.WithTimeout(ctx, t.For+trialPatience)
	defer cancel()
	t.Agent, t.To = w.ends[1], netip.AddrPortFrom(netip.IPv4Unspecified(), w.port)
	if err := b.Do(ctx, w.receiver.Machine, "Traffic.Serve", t, &lab.Serving{}); err != nil {
		return sent, got, err
	}
	t.Agent, t.To = w.ends[0], w.target
	err = b.Do(ctx, w.sender.Machine, "Traffic.Run", t, &sent)
	// Also where it failed: the receiving end is to be free again.
	if finished := b.Do(ctx, w.receiver.Machine, "Traffic.Finish", w.ends[1], &got); err == nil {
		err = finished
	}
	if err != nil {
		err = fmt.Errorf("%s to %s at %s: %w", w.sender, w.receiver, w.target, err)
	}
	return sent, got, err
}

// starved is the error of a limited stretch that carries less than the limit lets through: that says of the machine that it is busy, and nothing of
// the limit. Nil: it does not.
func (w stretch) starved(all []float64) error {
	if slices.Max(all) >= (1-tolerance)*float64(limit) {
		return nil
	}
	return fmt.Errorf("%s to %s: at most %s were carried in %d readings: too little to see whether more is let through than %s", w.sender, w.receiver, megabits(slices.Max(all))[0], len(all), limit)
}

// settle reads until a reading is as it should be, or there are enough of them. A rate is a bound: a machine that has much else to do now and then
// carries less, or reads late, and then at once, what came in time.
func (w stretch) settle(ctx context.Context, b *Bench, should func(float64) bool) (last float64, all []float64, err error) {
	for len(all) < readings && !should(last) {
		if last, err = w.read(ctx, b); err != nil {
			return 0, all, err
		}
		all = append(all, last)
	}
	return last, all, nil
}

func held(bits float64) bool {
	return bits >= (1-tolerance)*float64(limit) && bits <= (1+tolerance)*float64(limit)
}

func free(bits float64) bool { return bits > unheld }

// loose tells of the last of readings whether they were free, or held like the container's own. What is neither says of the machine that it is busy.
func loose(bits float64, all []float64) (bool, error) {
	if !free(bits) && bits > (1+tolerance)*float64(limit) {
		return false, fmt.Errorf("%v were carried: more than the limit of %s lets through, and less than without one", megabits(all...), limit)
	}
	return free(bits), nil
}

func megabits(all ...float64) (out []string) {
	for _, bits := range all {
		out = append(out, fmt.Sprintf("%.1f Mbit/s", bits/1e6))
	}
	return out
}

// unbound reads what a stretch carries where nothing limits it.
func (w stretch) unbound(ctx context.Context, b *Bench) (last float64, err error) {
	last, all, err := w.settle(ctx, b, free)
	if err == nil && !free(last) {
		err = fmt.Errorf("%s to %s: without a limit %s were carried: too little to see one of %s", w.sender, w.receiver, orNone(megabits(all...)), limit)
	}
	return last, err
}

// limits is the steps that hold a container to the limit; nil where the mode has nothing to do that by.
func limits(b *Bench, c Place, out bool) []topology.Step {
	if b.mode.Rate == nil {
		return nil
	}
	return b.mode.Rate(b.plan, b.plan.Machine(c.Machine), attachedAt(b, c), modes.Rate{Out: out, Bits: limit})
}

// shared is the answer of the modes in which no device is the container's own.
func shared() Observation { return notApplicable("no device carries a container's traffic alone") }

// rates holds a container to the limit, and reads what it still gets or sends.
func rates(out bool) func(context.Context, *Bench) (Observation, error) {
	return func(ctx context.Context, b *Bench) (Observation, error) {
		c := container(b)
		steps := limits(b, c, out)
		if steps == nil {
			return shared(), nil
		}
		w, err := stretchOf(ctx, b, c, out)
		if err != nil {
			return Observation{}, err
		}
		before, err := w.unbound(ctx, b)
		if err != nil {
			return Observation{}, err
		}
		if err := b.Apply(ctx, steps...); err != nil {
			return Observation{}, err
		}
		after, all, err := w.settle(ctx, b, func(bits float64) bool { return held(bits) || free(bits) })
		if err == nil {
			err = w.starved(all)
		}
		if err != nil {
			return Observation{}, err
		}
		o := Observation{Status: "mixed", Reproduce: lines(steps)}
		switch {
		case held(after):
			o.Status = reports.Works
		case free(after):
			o.Status = reports.Blocked
		}
		o.Detail = fmt.Sprintf("%s was held to %s: from %s to %s came %s, and before %s", c, limit, w.sender, w.receiver, megabits(after)[0], megabits(before)[0])
		return o.with(w.receiver.String(), "readings of %s: %v", sampled, megabits(all...)).value("bit/s", after), nil
	}
}

var _ = register(Spec{
	Suite: "lifecycle",
	Feature: Feature{
		Name: "rate-in", Group: "operations",
		Doc: "Can what a container gets be held to a rate, within 5 %?",
	},
	Name:     "an external machine sends to a container as much as it can over four TCP connections, before and after the container is held to 20 Mbit/s",
	Needs:    shapers,
	Run:      rates(false),
	Sabotage: []Sabotage{{Mode: "macvlan-bridge", Doc: "the container has its address on a device that the mode does not know", Rewire: sidestepping}},
})

var _ = register(Spec{
	Suite: "lifecycle",
	Feature: Feature{
		Name: "rate-out", Group: "operations",
		Doc: "Can what a container sends be held to a rate, within 5 %?",
	},
	Name:  "a container sends to an external machine as much as it can over four TCP connections, before and after it is held to 20 Mbit/s",
	Needs: shapers,
	Run:   rates(true),
	Sabotage: []Sabotage{
		{Mode: "bridge", Doc: "the container has a macvlan device on the host's interface, too", Steps: beside},
		{Mode: "macvlan-bridge", Doc: "the container has its address on a device that the mode does not know", Rewire: sidestepping},
	},
})

var _ = register(Spec{
	Suite: "lifecycle",
	Feature: Feature{
		Name: "rate-alone", Group: "operations",
		Doc: "Is a container's neighbour free of a rate that the container is held to?",
	},
	Name:  "a container is held to 20 Mbit/s, and it and its neighbour on the same host send to an external machine in turn as much as they can",
	Needs: shapers,
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		steps := limits(b, container(b), true)
		if steps == nil {
			return shared(), nil
		}
		first, second, ok := pair(b, firstHost(b), network(b))
		if !ok {
			return oneContainer(), nil
		}
		var ways [2]stretch
		for i, c := range []Place{first, second} {
			var err error
			if ways[i], err = stretchOf(ctx, b, c, true); err != nil {
				return Observation{}, err
			}
		}
		if _, err := ways[1].unbound(ctx, b); err != nil {
			return Observation{}, err
		}
		if err := b.Apply(ctx, steps...); err != nil {
			return Observation{}, err
		}
		own, all, err := ways[0].settle(ctx, b, held)
		if err != nil {
			return Observation{}, err
		}
		if !held(own) {
			return Observation{}, fmt.Errorf("control: %s was held to %s, and sent %v", first, limit, megabits(all...))
		}
		others, all, err := ways[1].settle(ctx, b, free)
		if err != nil {
			return Observation{}, err
		}
		alone, err := loose(others, all)
		if err != nil {
			return Observation{}, err
		}
		o := whether(alone, "%s was held to %s and sent %s; its neighbour %s sent %s", first, limit, megabits(own)[0], second, megabits(others)[0])
		o.Reproduce = lines(steps)
		return o.with(ways[1].receiver.String(), "readings of %s: %v", sampled, megabits(all...)).value("bit/s", others), nil
	},
	Sabotage: []Sabotage{{Mode: "bridge", Doc: "the second container enters the first one's namespace", Rewire: joined}},
})

// shaping are the queues of a host that modes or specs made.
func shaping(ctx context.Context, b *Bench, host string) ([]string, error) {
	s, err := b.State(ctx, host)
	out := slices.Clone(s.Spaces[""].Qdiscs)
	for _, l := range s.Spaces[""].Links {
		if l.Kind == "ifb" {
			out = append(out, "dev "+l.Name)
		}
	}
	return out, err
}

var _ = register(Spec{
	Suite: "lifecycle",
	Feature: Feature{
		Name: "rate-detached", Group: "operations",
		Doc: "When a container that was held to a rate is detached, does the rate go with it?",
	},
	Name:  "a container is attached, held to 20 Mbit/s as a part of that, and detached; it is attached once more, and sends as much as it can",
	Needs: shapers,
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		if limits(b, container(b), true) == nil {
			return shared(), nil
		}
		host := firstHost(b)
		if err := room(ctx, b, host, network(b)); err != nil {
			return Observation{}, err
		}
		before, err := shaping(ctx, b, host)
		if err != nil {
			return Observation{}, err
		}
		c, err := another(b, host, network(b), 1)
		if err != nil {
			return Observation{}, err
		}
		var steps []topology.Step
		at, err := b.attachAs(ctx, c, host, func(own []topology.Step) []topology.Step {
			steps = b.mode.Rate(b.plan, b.plan.Machine(host), c, modes.Rate{Out: true, Bits: limit})
			return slices.Concat(own, steps)
		})
		if err != nil {
			return Observation{}, err
		}
		b.atEnd(func(ctx context.Context) error { return b.Detach(ctx, at) })
		if err := b.settled(ctx, host); err != nil {
			return Observation{}, err
		}
		w, err := stretchOf(ctx, b, at, true)
		if err != nil {
			return Observation{}, err
		}
		own, all, err := w.settle(ctx, b, held)
		if err != nil {
			return Observation{}, err
		}
		if !held(own) {
			return Observation{}, fmt.Errorf("control: %s was held to %s, and sent %v", at, limit, megabits(all...))
		}
		if err := errors.Join(w.end(), b.Detach(ctx, at)); err != nil {
			return Observation{}, err
		}
		left, err := shaping(ctx, b, host)
		if err != nil {
			return Observation{}, err
		}
		left = slices.DeleteFunc(left, func(q string) bool { return slices.Contains(before, q) })
		if _, err := b.Attach(ctx, c, host); err != nil {
			return Observation{}, err
		}
		if w, err = stretchOf(ctx, b, at, true); err != nil {
			return Observation{}, err
		}
		now, all, err := w.settle(ctx, b, free)
		if err != nil {
			return Observation{}, err
		}
		gone, err := loose(now, all)
		if err != nil {
			return Observation{}, err
		}
		o := whether(len(left) == 0 && gone, "%s was held to %s and sent %s; detached and attached again it sent %s; of its queues there were left on %s: %s",
			at, limit, megabits(own)[0], megabits(now)[0], host, orNone(left))
		o.Reproduce = lines(steps)
		return o.with(w.receiver.String(), "readings of %s: %v", sampled, megabits(all...)).value("bit/s", now), nil
	},
	Sabotage: []Sabotage{{Mode: "bridge", Doc: "whatever is attached is held to the rate", Rewire: ofSpares(func(steps []topology.Step) []topology.Step {
		return append(slices.Clone(steps), topology.Step{On: steps[0].On, In: steps[0].Space.Name, Shape: &topology.Shape{Link: eth0, Rate: limit}})
	})}},
})

// sidestepping gives a container's address to a device beside the one that the mode makes.
func sidestepping(steps []topology.Step) (out []topology.Step) {
	const aside = "aside"
	for _, s := range steps {
		switch {
		case s.Link != nil:
			link := *s.Link
			link.Name, link.MAC = aside, slices.Clone(link.MAC)
			link.MAC[5] ^= 0x40
			out = append(out, s, topology.Step{On: s.On, In: s.In, Link: &link})
		case s.Set != nil:
			set := *s.Set
			set.Name = aside
			out = append(out, s, topology.Step{On: s.On, In: s.In, Set: &set})
		case s.Addr != nil:
			a := *s.Addr
			a.Link = aside
			out = append(out, topology.Step{On: s.On, In: s.In, Addr: &a})
		default:
			out = append(out, s)
		}
	}
	return out
}
