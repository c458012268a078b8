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

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/modebench/modebench/modes"
	"github.com/modebench/modebench/reports"
	"github.com/modebench/modebench/topology"
	"github.com/modebench/modebench/topology/lab"
)

// netem is what cables are impaired by.
const netem modes.Kernel = "netem"

// The impairments of a cable, which are large beside what a busy machine does by itself.
const (
	late      = 50 * time.Millisecond
	varying   = 10 * time.Millisecond // either way, of twice as much
	lossy     = 0.1
	overtaken = 0.25
)

// misjudged is how likely a count of packets may be to lie outside of what chance allows, where the impairment is just what was set.
const misjudged = 1e-6

// numbered is of how many packets a share is counted, which an emulated processor sends in a few seconds.
const numbered = 500

// spread is of how many round trips their spread is told: that all have less than the delay in the middle is as likely as so many throws of a coin
// that all show one side, 1e-9.
const spread = 30

// uplinkEnds are the host's and the switch's end of the first host's cable.
func uplinkEnds(b *Bench) []topology.Port {
	host := firstHost(b)
	return []topology.Port{{Machine: host, Interface: cable(b.plan.Machine(host), uplink(b)).Name}, uplinkPort(b)}
}

// impair impairs what is sent at ends of cables. What it returns takes that back, and may be called again.
func impair(ctx context.Context, b *Bench, s topology.Shape, ends ...topology.Port) (steps []topology.Step, whole func() error, err error) {
	const owner = "impairment"
	for _, end := range ends {
		s.Link = end.Interface
		steps = append(steps, topology.Step{On: end.Machine, Shape: &topology.Shape{Link: s.Link, Delay: s.Delay, Jitter: s.Jitter, Loss: s.Loss, Reorder: s.Reorder}})
	}
	whole = func() error { return b.lab.Undo(context.WithoutCancel(ctx), owner) }
	b.atEnd(func(context.Context) error { return whole() })
	return steps, whole, b.lab.Apply(ctx, owner, steps)
}

// trips are so many round trips from a place to the external machine, shortest first.
func trips(ctx context.Context, b *Bench, from Place, n int) (rtts []time.Duration, err error) {
	to := netip.AddrPortFrom(addrOf(b, external(b), IPv4), controlPort)
	for range n {
		a, err := b.Ask(ctx, from, lab.Ask{Proto: "udp", To: to, Wait: time.Second})
		if err != nil {
			return nil, err
		}
		if a.Answered {
			rtts = append(rtts, a.RTT)
		}
	}
	if len(rtts) < n {
		return nil, fmt.Errorf("%s asked %s %d times, and was answered %d times where nothing is lost", from, to, n, len(rtts))
	}
	slices.Sort(rtts)
	return rtts, nil
}

// march is what came of numbered packets, one a millisecond.
type march struct {
	sent, came int
	ahead      int // of those that came: sent after one that came later
}

// march has a place send numbered packets to the external machine, which tells which came, and in which order.
func (b *Bench) march(ctx context.Context, from Place) (m march, err error) {
	x := external(b)
	s, err := serveUDP(ctx, b, x, IPv4, b.freePort())
	if err != nil {
		return m, err
	}
	token := b.newToken()
	to := netip.AddrPortFrom(addrOf(b, x, IPv4), s.Port)
	f, err := flowing(ctx, b, from, to, token)
	if err != nil {
		return m, err
	}
	if ok, err := eventually(ctx, 2*specTimeout, func() (bool, error) {
		var t lab.Tally
		err := b.Do(ctx, from.Machine, "Probe.Tally", f.handle, &t)
		return t.Sent >= numbered, err
	}); err != nil || !ok {
		return m, errors.Join(err, fmt.Errorf("%s sent less than %d packets within %s", from, numbered, 2*specTimeout))
	}
	t, err := f.stop()
	if err != nil {
		return m, err
	}
	for range echoes { // which come after them, at least one that is not ahead
		if _, err := b.Ask(ctx, from, lab.Ask{Proto: "udp", To: to, Wait: time.Second}); err != nil {
			return m, err
		}
	}
	var seen []lab.Seen
	if err := b.Do(ctx, x.Machine, "Probe.Seen", s.Handle, &seen); err != nil {
		return m, err
	}
	m.sent = t.Sent
	order, least := make([]int, 0, len(seen)), t.Sent
	for _, s := range seen {
		if n, err := strconv.Atoi(strings.TrimPrefix(s.Token, token+".")); err == nil && !slices.Contains(order[max(0, len(order)-100):], n) {
			order = append(order, n)
		}
	}
	m.came = len(order)
	for _, n := range slices.Backward(order) {
		if n > least {
			m.ahead++
		}
		least = min(least, n)
	}
	return m, s.stop()
}

// stage is an impairment, and how it is seen.
type stage struct {
	shape topology.Shape
	both  bool // ends of the cable; else only what the host sends
	// seen says what was seen; wrong is how that is not what was set.
	seen func(context.Context, *Bench, Place) (saw string, wrong bool, err error)
}

// timed reads round trips until they are as they should be, since a busy machine takes longer at times, or there were enough of them.
func timed(ctx context.Context, b *Bench, from Place, n int, should func(rtts []time.Duration) bool) (saw string, wrong bool, err error) {
	var rtts []time.Duration
	for range readings {
		if rtts, err = trips(ctx, b, from, n); err != nil {
			return "", false, err
		}
		if should(rtts) {
			break
		}
	}
	return fmt.Sprintf("the round trip took %s to %s ms", milliseconds(rtts[0]), milliseconds(rtts[n-1])), !should(rtts), nil
}

// outside tells whether a count is more or less than chance allows.
func outside(n int, p float64, count int) (saw string, wrong bool) {
	least, most := reports.Binomial(n, p, misjudged)
	return fmt.Sprintf("%d of %d, where chance allows %d to %d", count, n, least, most), count < least || count > most
}

var _ = register(Spec{
	Suite: failure, Needs: []modes.Kernel{netem}, Within: 8 * specTimeout,
	Feature: Feature{Name: "impaired-link", Group: failure, Doc: "Does what a container sends over an impaired uplink meet just what was set: the delay each way, its variation, the loss, the reordering?"},
	Name:    "the host's cable delays what is sent each way, then what the host sends varies in delay, is lost, is reordered; each time a container's packets to an external machine are timed, counted and put in order",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		if o := numberless(b, IPv4); o != nil {
			return *o, nil
		}
		p := container(b)
		if a, err := persists(ctx, b, p); err != nil || !a {
			return Observation{}, errors.Join(err, fmt.Errorf("%s does not reach %s where nothing is impaired", p, external(b)))
		}
		before, err := trips(ctx, b, p, echoes)
		if err != nil {
			return Observation{}, err
		}
		clean, err := b.march(ctx, p)
		if err != nil {
			return Observation{}, err
		}
		if clean.came < clean.sent || clean.ahead > 0 {
			return Observation{}, fmt.Errorf("without an impairment, of %d packets %d came, and %d before one that was sent earlier: nothing can be told of a loss or an order that is set", clean.sent, clean.came, clean.ahead)
		}
		o := works("")
		said := []string{fmt.Sprintf("before, it took %s to %s ms, and %d packets came in order", milliseconds(before[0]), milliseconds(before[len(before)-1]), clean.came)}
		var wrong []string
		for _, s := range []stage{
			{topology.Shape{Delay: late}, true, func(ctx context.Context, b *Bench, p Place) (string, bool, error) {
				return timed(ctx, b, p, echoes, func(rtts []time.Duration) bool { return rtts[0] >= 2*late && rtts[0] < 2*late+late/2+before[0] })
			}},
			{topology.Shape{Delay: late, Jitter: varying}, false, func(ctx context.Context, b *Bench, p Place) (string, bool, error) {
				return timed(ctx, b, p, spread, func(rtts []time.Duration) bool {
					return rtts[0] >= late-varying && rtts[0] < late && rtts[spread-1] >= late
				})
			}},
			{topology.Shape{Loss: lossy}, false, func(ctx context.Context, b *Bench, p Place) (string, bool, error) {
				m, err := b.march(ctx, p)
				saw, bad := outside(m.sent, lossy, m.sent-m.came)
				return "lost were " + saw, bad, err
			}},
			{topology.Shape{Delay: late, Reorder: overtaken}, false, func(ctx context.Context, b *Bench, p Place) (string, bool, error) {
				m, err := b.march(ctx, p)
				saw, bad := outside(m.came, overtaken, m.ahead)
				return "came before one that was sent earlier " + saw, bad, err
			}},
		} {
			ends := uplinkEnds(b)
			if !s.both {
				ends = ends[:1]
			}
			steps, whole, err := impair(ctx, b, s.shape, ends...)
			if err != nil {
				return Observation{}, err
			}
			saw, bad, err := s.seen(ctx, b, p)
			if err = errors.Join(err, whole()); err != nil {
				return Observation{}, fmt.Errorf("%s: %w", steps[0], err)
			}
			saw = fmt.Sprintf("%s: %s", strings.Join(lines(steps), "; "), saw)
			said, o.Reproduce = append(said, saw), append(o.Reproduce, lines(steps)...)
			if bad {
				wrong = append(wrong, saw)
			}
		}
		o.Detail = fmt.Sprintf("%s to %s: %s", p, external(b), strings.Join(said, "; "))
		if len(wrong) > 0 {
			o.Status, o.Detail = "mixed", o.Detail+"; not as it was set: "+strings.Join(wrong, "; ")
		}
		return o, nil
	},
	Sabotage: []Sabotage{
		{
			Mode: "ipvlan-l2", Doc: "containers are on the host's other cable, which leads to the same segment and is not impaired", Steps: recabled,
			Rewire: mapLinks(func(l *topology.Link) { l.Parent = "eth1" }),
		},
	},
})

// recabled has the first host's other cable lead to the first one's segment.
func recabled(p *topology.Plan) []topology.Step {
	h := p.Hosts()[0]
	first, other := h.NIC(p.Networks[0].NIC), h.NIC(p.Networks[1].NIC)
	return []topology.Step{{On: other.Peer.Machine, Set: &topology.LinkSet{Name: other.Peer.Interface, Master: first.Segment}}}
}

// poor are the impairments that a TCP connection is to live with: a thousandth is lost, and delays of up to 20 ms vary so that packets overtake each other.
var poor = topology.Shape{Delay: varying, Jitter: varying, Loss: 0.001}

// faring is for how long it is watched.
const faring = 5 * time.Second

// stuck is less than a connection carries that lives with that. One that takes each loss for congestion and halves its window carries
// MSS/RTT·√(3/2p) (Mathis et al., The Macroscopic Behavior of the TCP Congestion Avoidance Algorithm, 1997): 22 Mbit/s with 1448 bytes,
// 20 ms and 0.001. A twentieth of that leaves room for packets that are taken to be lost since they were overtaken.
const stuck = 1e6

var _ = register(Spec{
	Suite: failure, Needs: []modes.Kernel{netem}, Within: 4 * specTimeout,
	Feature: Feature{Name: "impaired-tcp", Group: failure, Doc: "Does a container's TCP connection live with an uplink that loses one in a thousand packets each way, and delays them by up to 20 ms so that they overtake each other?"},
	Name:    "a container sends to an external machine by one TCP connection for five seconds, before and while the host's cable is impaired",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		if o := numberless(b, IPv4); o != nil {
			return *o, nil
		}
		w, err := stretchOf(ctx, b, container(b), true)
		if err != nil {
			return Observation{}, err
		}
		_, clean, err := w.carry(ctx, b, lab.Trial{Test: "tcp-stream", For: sampled})
		if err != nil {
			return Observation{}, fmt.Errorf("where nothing is impaired: %w", err)
		}
		steps, _, err := impair(ctx, b, poor, uplinkEnds(b)...)
		if err != nil {
			return Observation{}, err
		}
		var sent, got lab.Measured
		for range trials { // a machine that has much else to do may carry less, or let a connection wait
			if sent, got, err = w.carry(ctx, b, lab.Trial{Test: "tcp-stream", For: faring}); ctx.Err() != nil {
				return Observation{}, err
			}
			if err == nil && payload(got) >= stuck {
				break
			}
		}
		control := func(o Observation) Observation {
			return o.with(w.receiver.String(), "control: before, one connection carried %s", megabits(payload(clean))[0]).by(steps)
		}
		if err != nil {
			return control(blocked("%s, while its host's cable is impaired: %v", w.sender, err)), nil
		}
		o := whether(payload(got) >= stuck, "%s sent to %s by one TCP connection over an impaired cable: %s were carried, %d segments were sent again and %d came out of order",
			w.sender, w.receiver, megabits(payload(got))[0], sent.Retransmits, got.OutOfOrder)
		return control(o).value("bit/s", payload(got)).value("retransmits", float64(sent.Retransmits)), nil
	},
	Sabotage: []Sabotage{
		{Mode: "ipvlan-l2", Doc: "the external machine takes one segment at a time", Steps: cramped},
	},
})

// cramped leaves the external machine room for one segment, so that there are none behind one that is lost by which that is noticed, and each takes a round trip.
func cramped(p *topology.Plan) []topology.Step {
	return []topology.Step{{On: p.Externals()[0].Name, Sysctl: &topology.Sysctl{Key: "net/ipv4/tcp_rmem", Value: "2304 2304 2304"}}}
}

// payload is what a trial carried, in bits a second.
func payload(m lab.Measured) float64 { return 8 * float64(m.Bytes) / m.Seconds }

// watchedTogether is how many connections are watched at the same time.
const watchedTogether = 8

var _ = register(Spec{
	Suite: failure, Needs: []modes.Kernel{netem}, Within: 4 * specTimeout, Soaks: true,
	Feature: Feature{Name: "impaired-soak", Group: failure, Doc: "Do a container's TCP sessions go on over an uplink that loses one in a thousand packets and delays them by up to 20 ms, none of them stuck for two seconds, and is the host the same after them?"},
	Name:    "a container asks an external machine over eight TCP connections, again and again, for a minute or as long as the run says, while the host's cable is impaired; the host is compared with before",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		if o := numberless(b, IPv4); o != nil {
			return *o, nil
		}
		host, p := firstHost(b), container(b)
		if a, err := persists(ctx, b, p); err != nil || !a {
			return Observation{}, errors.Join(err, fmt.Errorf("%s does not reach %s where nothing is impaired", p, external(b)))
		}
		w, err := stretchOf(ctx, b, p, true)
		if err != nil {
			return Observation{}, err
		}
		before, err := stilled(ctx, b, host)
		if err != nil {
			return Observation{}, err
		}
		var had, has lab.Usage
		if err := b.Do(ctx, host, "Host.Usage", lab.Nothing{}, &had); err != nil {
			return Observation{}, err
		}
		steps, whole, err := impair(ctx, b, poor, uplinkEnds(b)...)
		if err != nil {
			return Observation{}, err
		}
		sent, _, stuck := w.carry(ctx, b, lab.Trial{Test: "tcp-rr", Streams: watchedTogether, For: b.soak})
		if err := errors.Join(context.Cause(ctx), whole()); err != nil {
			return Observation{}, err
		}
		if stuck != nil {
			if a, err := persists(ctx, b, p); err != nil || !a {
				return Observation{}, errors.Join(err, fmt.Errorf("%w; and %s does not reach %s without the impairment either", stuck, p, external(b)))
			}
			return blocked("of %d sessions over an impaired cable one did not go on: %v", watchedTogether, stuck).
				with(p.String(), "control: without the impairment %s was answered", p).by(steps), nil
		}
		h, err := hdrhistogram.Decode(sent.Latency)
		if err != nil {
			return Observation{}, fmt.Errorf("histogram: %w", err)
		}
		diff, _, err := left(ctx, b, host, before)
		if err != nil {
			return Observation{}, err
		}
		if err := b.Do(ctx, host, "Host.Usage", lab.Nothing{}, &has); err != nil {
			return Observation{}, err
		}
		o := whether(len(diff) == 0 && has.Descriptors <= had.Descriptors,
			"for %s %s asked %s %d times over %d TCP connections, and was answered each time, after %s ms at most; %d segments were sent again; after it, %d differences to the host before, and %+d descriptors of its program",
			b.soak, p, w.receiver, sent.Operations, watchedTogether, milliseconds(time.Duration(h.Max())), sent.Retransmits, len(diff), has.Descriptors-had.Descriptors)
		return o.differences(host, diff).by(steps).value("max-sec", float64(h.Max())/1e9).value("count", float64(sent.Operations)).value("retransmits", float64(sent.Retransmits)), nil
	},
	Sabotage: []Sabotage{
		{Mode: "ipvlan-l2", Doc: "the external machine loses half of what it sends", Steps: func(p *topology.Plan) []topology.Step {
			x := p.Externals()[0]
			return []topology.Step{{On: x.Name, Shape: &topology.Shape{Link: x.NICs[0].Name, Loss: 0.5}}}
		}},
	},
})
