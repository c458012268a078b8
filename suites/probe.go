package suites

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/modebench/modebench/reports"
	"github.com/modebench/modebench/topology"
	"github.com/modebench/modebench/topology/lab"
)

// addresses returns the container's addresses in this mode as they were decided; where the mode gives none, those that
// the plan has for it on the segment, so that there is something to ask for in vain.
func (b *Bench) addresses(p Place) (v4, v6 netip.Addr) {
	if p.Container == "" {
		m := b.plan.Machine(p.Machine)
		for _, n := range m.NICs {
			if n.V4.IsValid() {
				return n.V4.Addr(), n.V6.Addr() // the first interface's: where machines are known by
			}
		}
		return netip.Addr{}, netip.Addr{}
	}
	b.mu.Lock()
	a := b.attached[p.String()]
	b.mu.Unlock()
	if b.mode.Addrs != nil {
		for _, prefix := range b.mode.Addrs(b.plan, b.plan.Machine(p.Machine), a.container) {
			if prefix.Addr().Is4() {
				v4 = prefix.Addr()
			} else {
				v6 = prefix.Addr()
			}
		}
		return v4, v6
	}
	return a.container.Segment4.Addr(), a.container.Segment6.Addr()
}

func addrOf(b *Bench, p Place, f Family) netip.Addr {
	v4, v6 := b.addresses(p)
	if f == IPv4 {
		return v4
	}
	return v6
}

func unspecified(f Family) netip.Addr {
	if f == IPv4 {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

// protos are what reaching means: an echo, a datagram and a connection.
var protos = []string{"icmp", "udp", "tcp"}

// trip is what came of asking a place by several protocols.
type trip struct {
	from, to Place
	target   netip.AddrPort
	tokens   map[string]string     // by protocol
	answers  map[string]lab.Answer // those that came
	control  []reports.Evidence    // what worked meanwhile, where something did not come
	packets  []lab.Packet          // of the messages, and of looking for the target's link-layer address
}

func (t trip) answered() (yes, no []string) {
	for _, p := range slices.Sorted(maps.Keys(t.tokens)) {
		if t.answers[p].Answered {
			yes = append(yes, p)
		} else {
			no = append(no, p)
		}
	}
	return yes, no
}

// patience bounds what no answer and no control decides.
const patience = 5 * time.Second

// try asks to's address (or target, where that is given) from a place, by each protocol, and waits until everything is
// answered, refused, or shown to be lost: a control sent after the messages, over the same first hop where there is one,
// has come back and gone on to the target, and the messages have not.
func try(ctx context.Context, b *Bench, from, to Place, target netip.AddrPort, protos ...string) (trip, error) {
	t := trip{from: from, to: to, target: target, tokens: map[string]string{}, answers: map[string]lab.Answer{}}
	recorded, err := b.Record(ctx)
	if err != nil {
		return t, err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*patience)
	defer cancel()
	type reply struct {
		proto  string
		answer lab.Answer
		err    error
	}
	replies := make(chan reply, len(protos))
	for _, proto := range protos {
		token := b.newToken()
		t.tokens[proto] = token
		go func() {
			a, err := b.Ask(ctx, from, lab.Ask{Proto: proto, To: target, Token: token, Wait: patience})
			replies <- reply{proto, a, err}
		}()
	}
	gather := func(until <-chan time.Time) error {
		for len(t.answers) < len(protos) {
			select {
			case r := <-replies:
				if r.err != nil {
					return r.err
				}
				t.answers[r.proto] = r.answer
			case <-until:
				return nil
			case <-ctx.Done():
				return fmt.Errorf("%s asks %s: %w", from, target, context.Cause(ctx))
			}
		}
		return nil
	}
	if err := gather(time.After(30 * time.Millisecond)); err != nil {
		return t, err
	}
	if yes, _ := t.answered(); len(yes) < len(protos) {
		began := time.Now()
		if t.control, err = control(ctx, b, from, to, target.Addr()); err != nil {
			return t, err
		}
		// The control took the same first hop after the messages did. What it needed, and ten times that for the order
		// of the scheduler, is what they had besides.
		if err := gather(time.After(10*time.Since(began) + 20*time.Millisecond)); err != nil {
			return t, err
		}
	}
	t.packets, err = recorded(ctx, func(p lab.Packet) bool {
		for _, token := range t.tokens {
			if p.Token == token {
				return true
			}
		}
		return p.ARP != nil && p.ARP.TargetIP == target.Addr() || p.NDP != nil && p.NDP.Target == target.Addr() ||
			p.Proto == "tcp" && (p.Dst == target || p.Src == target)
	})
	return t, err
}

// control shows that the sender's way out and the target's way in are alive: the sender asks a machine that answers, and
// a machine asks the target. Where no machine can, an end's own loopback is what is left to show.
func control(ctx context.Context, b *Bench, from, to Place, target netip.Addr) ([]reports.Evidence, error) {
	f := IPv4
	if target.Is6() && !target.Is4In6() {
		f = IPv6
	}
	var relays []Place
	for _, m := range slices.Concat(b.plan.Externals(), b.plan.Hosts()) {
		relays = append(relays, Place{Machine: m.Name})
	}
	ask := func(from, to Place, proto string) (reports.Evidence, bool, error) {
		a := addrOf(b, to, f)
		if from == to {
			a = map[Family]netip.Addr{IPv4: netip.MustParseAddr("127.0.0.1"), IPv6: netip.IPv6Loopback()}[f]
		}
		r, err := b.Ask(ctx, from, lab.Ask{Proto: proto, To: netip.AddrPortFrom(a, controlPort), Wait: 200 * time.Millisecond})
		return reports.Evidence{At: from.String(), Saw: fmt.Sprintf("control: %s echo to %s at %s answered", proto, to, a)}, r.Answered, err
	}
	leg := func(candidates [][2]Place, proto string) (*reports.Evidence, error) {
		for _, c := range candidates {
			e, ok, err := ask(c[0], c[1], proto)
			if err != nil {
				return nil, err
			}
			if ok {
				return &e, nil
			}
		}
		return nil, nil
	}
	var out, in [][2]Place
	for _, r := range relays {
		if r != from && r != to {
			out, in = append(out, [2]Place{from, r}), append(in, [2]Place{r, to})
		}
	}
	if to.Container != "" {
		in = append(in, [2]Place{{Machine: to.Machine}, to})
	}
	if from.Container != "" {
		out = append(out, [2]Place{from, {Machine: from.Machine}})
	}
	var got []reports.Evidence
	for _, way := range [][][2]Place{append(out, [2]Place{from, from}), append(in, [2]Place{to, to})} {
		e, err := leg(way, "icmp")
		if err != nil {
			return nil, err
		}
		if e == nil {
			return nil, fmt.Errorf("no control is alive between %s and %s: nothing can be concluded from silence", from, to)
		}
		got = append(got, *e)
	}
	return got, nil
}

// reach observes whether a place reaches another at its own address, by echo, datagram and connection.
func reach(ctx context.Context, b *Bench, from, to Place, f Family) (Observation, trip, error) {
	a := addrOf(b, to, f)
	l, err := b.Listen(ctx, to, lab.Listen{Proto: "udp", Addr: netip.AddrPortFrom(unspecified(f), 0)})
	if err != nil {
		return Observation{}, trip{}, err
	}
	if _, err := b.Listen(ctx, to, lab.Listen{Proto: "tcp", Addr: netip.AddrPortFrom(unspecified(f), l.Port)}); err != nil {
		return Observation{}, trip{}, err
	}
	t, err := try(ctx, b, from, to, netip.AddrPortFrom(a, l.Port), protos...)
	return t.observation(), t, err
}

// observation is works where all was answered, blocked where nothing was. Where some was, the status is neither: no
// expectation holds, and the detail says what did.
func (t trip) observation() Observation {
	yes, no := t.answered()
	asked := fmt.Sprintf("%s asked %s at %s by %s", t.from, t.to, t.target, strings.Join(slices.Concat(yes, no), ", "))
	switch {
	case len(no) == 0:
		a := t.answers[yes[0]]
		o := works("%s: all answered, the first after %s", asked, a.RTT.Round(time.Microsecond))
		for _, p := range t.delivered() {
			o.Evidence = append(o.Evidence, seen(p))
		}
		return o
	case len(yes) == 0:
		o := blocked("%s: none answered; %s", asked, t.lost())
		o.Evidence = append(t.sightings(), t.control...)
		return o
	default:
		o := Observation{Status: "mixed", Detail: fmt.Sprintf("%s: only %s answered; %s", asked, strings.Join(yes, ", "), t.lost())}
		o.Evidence = append(t.sightings(), t.control...)
		return o
	}
}

// lost tells where the unanswered messages ended.
func (t trip) lost() string {
	_, no := t.answered()
	var refused []string
	for _, p := range no {
		if r := t.answers[p].Refusal; r.Errno != "" && !slices.Contains(refused, r.Errno) {
			refused = append(refused, r.Errno)
		}
	}
	why := ""
	if len(refused) > 0 {
		why = ", the sender's kernel said " + strings.Join(refused, ", ")
	}
	var last *lab.Packet
	for i, p := range t.packets {
		if slices.ContainsFunc(no, func(proto string) bool { return t.tokens[proto] == p.Token }) || p.Token == "" {
			last = &t.packets[i]
		}
	}
	if last == nil {
		return "no packet of it was seen at any device of the lab" + why
	}
	return fmt.Sprintf("last seen at %s (%s)%s", at(*last), last.Text, why)
}

// sightings are the first sight of each message at each device, in the order of time.
func (t trip) sightings() []reports.Evidence {
	var out []reports.Evidence
	for _, p := range t.packets {
		if e := seen(p); !slices.Contains(out, e) && len(out) < 16 {
			out = append(out, e)
		}
	}
	if len(out) == 0 {
		var said []string
		for _, p := range slices.Sorted(maps.Keys(t.answers)) {
			if r := t.answers[p].Refusal; r.Text != "" {
				said = append(said, p+": "+r.Text)
			}
		}
		out = append(out, reports.Evidence{At: t.from.String(), Saw: "nothing was sent: " + strings.Join(said, "; ")})
	}
	return out
}

// delivered are the devices that the datagram (or else the echo) crossed.
func (t trip) delivered() []lab.Packet {
	token := t.tokens["udp"]
	if token == "" {
		token = t.tokens["icmp"]
	}
	var out []lab.Packet
	for _, p := range t.packets {
		if p.Token == token && len(out) < 12 {
			out = append(out, p)
		}
	}
	return out
}

// pair returns two containers of one network of a host; ok is false where the mode has only one there.
func pair(b *Bench, host, network string) (first, second Place, ok bool) {
	cs := b.Containers(host, network)
	if len(cs) < 2 {
		return Place{}, Place{}, false
	}
	return cs[0], cs[1], true
}

// routed gives a machine the route to a container's block by its host, where the block is not on the machine's segment.
func routed(ctx context.Context, b *Bench, from Place, to Place, f Family) error {
	a := addrOf(b, to, f)
	for _, n := range b.plan.Machine(from.Machine).NICs {
		if n.V4.Contains(a) || n.V6.Contains(a) {
			return nil
		}
	}
	dst := netip.PrefixFrom(a, a.BitLen())
	return b.Apply(ctx, topology.Step{On: from.Machine, Route: &topology.Route{Dst: dst, Via: addrOf(b, Place{Machine: to.Machine}, f)}})
}

// all runs functions at the same time and returns the first error.
func all(fs ...func() error) error {
	var g errgroup.Group
	for _, f := range fs {
		g.Go(f)
	}
	return g.Wait()
}
