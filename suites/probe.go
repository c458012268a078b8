package suites

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/modebench/modebench/modes"
	"github.com/modebench/modebench/reports"
	"github.com/modebench/modebench/topology"
	"github.com/modebench/modebench/topology/lab"
)

// addresses returns the container's addresses in this mode as they were decided; where the mode gives none, those that
// the plan has for it on the segment, so that there is something to ask for in vain.
func (b *Bench) addresses(p Place) (v4, v6 netip.Addr) {
	if p.Container == "" {
		n := b.face(p.Machine)
		return n.V4.Addr(), n.V6.Addr()
	}
	b.mu.Lock()
	a := b.attached[p.String()]
	b.mu.Unlock()
	// Where the mode gives it none: that which it would have on the segment, which is then nobody's.
	v4, v6 = a.container.Segment4.Addr(), a.container.Segment6.Addr()
	if b.mode.Addrs != nil {
		for _, prefix := range b.mode.Addrs(b.plan, b.plan.Machine(p.Machine), a.container) {
			if prefix.Addr().Is4() {
				v4 = prefix.Addr()
			} else {
				v6 = prefix.Addr()
			}
		}
	}
	return v4, v6
}

// families are those in which the mode gives containers addresses.
func (b *Bench) families() []Family { return familiesIn(b.plan, b.mode) }

// familiesIn are those in which a mode gives containers addresses, IPv4 first; both where it leaves them to their loopbacks.
func familiesIn(p *topology.Plan, m modes.Mode) []Family {
	if m.Addrs == nil {
		return []Family{IPv4, IPv6}
	}
	var fs []Family
	h := p.Hosts()[0]
	for _, prefix := range m.Addrs(p, h, h.Containers[0]) {
		fs = append(fs, familyOf(prefix.Addr()))
	}
	return fs
}

// span says over which families a container was asked or asks.
func (b *Bench) span() string {
	switch fs := b.families(); {
	case len(fs) == 2:
		return "both families"
	case fs[0] == IPv6:
		return "IPv6"
	}
	return "IPv4"
}

// face is the interface that a machine is known by: a host's of the first network, a router's towards the first host, or an
// external machine's first.
func (b *Bench) face(machine string) *topology.Interface {
	switch m := b.plan.Machine(machine); m.Role {
	case topology.RoleHost:
		return m.NIC(b.plan.Networks[0].NIC)
	case topology.RoleTor:
		port := *m.NIC(uplinkPort(b).Interface)
		if b.plan.Topology.Fabric == topology.VPC {
			port.Name = port.Segment // the bridge of all ports, where the router's address is
		}
		return &port
	default:
		return &m.NICs[0]
	}
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
	answers  map[string]lab.Answer // what came, answers and refusals
	control  []reports.Evidence    // what worked meanwhile, where something did not come
	before   map[string]lab.Mark   // by machine, what was recorded before the control; nil: there was none
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

// refused tells whether the sender's own kernel sent nothing of what was not answered.
func (t trip) refused() bool {
	_, no := t.answered()
	return !slices.ContainsFunc(no, func(p string) bool {
		a := t.answers[p]
		return a.Refusal.Errno == "" || a.ICMPFrom.IsValid()
	})
}

const (
	patience = 5 * time.Second         // bounds what no answer and no control decides
	restless = time.Minute             // of a host that is being set up, or was: an emulated one beside much else
	crowded  = 4 * patience            // of a host whose many containers' addresses are all being probed at once
	grace    = 15 * time.Millisecond   // what an answer needs at most, as a rule: then it is time for a control
	slow     = 100 * time.Millisecond  // of a program that has answered the control
	hopeful  = 80 * time.Millisecond   // for a control
	retry    = 1200 * time.Millisecond // after which a kernel has asked for a link-layer address again (RFC 4861 section 10, RETRANS_TIMER)
)

// try asks to's address (or target, where that is given) from a place, by each protocol, and waits until everything is
// answered, refused, or shown to be lost: a control that was sent after the messages, over the same first hop where there
// is one, has come back, the target has answered someone, and the messages have had as much time again as that took.
func try(ctx context.Context, b *Bench, from, to Place, target netip.AddrPort, protos ...string) (trip, error) {
	return tryBy(ctx, b, from, to, target, func(ctx context.Context, proto, token string) (lab.Answer, error) {
		return b.Ask(ctx, from, lab.Ask{Proto: proto, To: target, Token: token, Wait: patience})
	}, protos...)
}

// tryBy does so by questions that carry a token and wait for their answers as long as patience is.
func tryBy(ctx context.Context, b *Bench, from, to Place, target netip.AddrPort, ask func(ctx context.Context, proto, token string) (lab.Answer, error), protos ...string) (trip, error) {
	t := trip{from: from, to: to, target: target, tokens: map[string]string{}, answers: map[string]lab.Answer{}}
	recorded, err := b.Record(ctx)
	if err != nil {
		return t, err
	}
	look := func() error {
		t.packets, err = recorded(ctx, t.concerns)
		return err
	}
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
			a, err := ask(ctx, proto, token)
			replies <- reply{proto, a, err}
		}()
	}
	gather := func(within time.Duration) error {
		over := time.NewTimer(within)
		defer over.Stop()
		for len(t.answers) < len(protos) {
			select {
			case r := <-replies:
				if r.err != nil {
					return r.err
				}
				t.answers[r.proto] = r.answer
			case <-over.C:
				return nil
			}
		}
		return nil
	}
	enough := func() (err error) {
		for _, proto := range protos {
			if _, over := t.answers[proto]; !over {
				err = cmp.Or(err, b.Do(context.WithoutCancel(ctx), from.Machine, "Probe.Enough", t.tokens[proto], &lab.Nothing{}))
			}
		}
		return err
	}
	defer enough() // where nothing could be decided; else it was
	if err := gather(grace); err != nil {
		return t, err
	}
	if _, no := t.answered(); len(no) > 0 {
		if t.before, err = b.marks(ctx); err != nil {
			return t, err
		}
		var took time.Duration
		if t.control, took, err = t.controlled(ctx, b); err != nil {
			return t, err
		}
		if err := cmp.Or(gather(10*took+grace), look()); err != nil {
			return t, err
		}
		for waiting, had := time.Now(), len(t.packets); len(t.answers) < len(protos) && time.Since(waiting) < t.due(); {
			if err := cmp.Or(gather(grace), look()); err != nil {
				return t, err
			}
			if len(t.packets) > had { // they are still on their way
				waiting, had = time.Now(), len(t.packets)
			}
		}
		if err := cmp.Or(enough(), gather(patience)); err != nil {
			return t, err
		}
	}
	if err := look(); err != nil {
		return t, err
	}
	// Where the target's address is also another's, that one may have answered.
	for proto, a := range t.answers {
		if a.Answered && from.Machine != to.Machine &&
			!slices.ContainsFunc(t.packets, func(p lab.Packet) bool { return p.Machine == to.Machine && p.Token == t.tokens[proto] }) {
			a.Answered, a.Refusal.Text = false, "answered by another station with that address"
			t.answers[proto] = a
		}
	}
	if _, no := t.answered(); len(no) > 0 && t.control == nil {
		t.control, _, err = t.controlled(ctx, b)
	}
	return t, err
}

// concerns tells packets of the messages, or of looking for the target's link-layer address.
func (t trip) concerns(p lab.Packet) bool {
	for _, token := range t.tokens {
		if p.Token == token {
			return true
		}
	}
	if p.ARP != nil || p.NDP != nil {
		// Controls ask for the target, too.
		return (t.before == nil || p.Seq < t.before[p.Machine].Seq) &&
			(p.ARP != nil && p.ARP.TargetIP == t.target.Addr() || p.NDP != nil && p.NDP.Target == t.target.Addr())
	}
	own := t.answers["tcp"].From // the connection's packets keep it where the target is translated
	return p.Proto == "tcp" && (p.Dst == t.target || p.Src == t.target || own.IsValid() && (p.Src == own || p.Dst == own))
}

// due is how long open questions may still be answered after the last that was seen of them: what arrived, at the target or
// at a container that stands in for it, may be waiting for a slow program, and what was never seen for an answer to an earlier
// question of who has the address.
func (t trip) due() (longest time.Duration) {
	for proto, token := range t.tokens {
		if _, over := t.answers[proto]; over {
			continue
		}
		due := retry
		for _, p := range t.packets {
			mine := p.Token == token || proto == "tcp" && p.Proto == "tcp"
			if at := (Place{p.Machine, p.In}); mine && !p.Outgoing && (at == t.to || at.Container != "") {
				due = slow
				break
			}
			if mine || p.ARP != nil || p.NDP != nil {
				due = 0
			}
		}
		longest = max(longest, due)
	}
	return longest
}

// controlled shows that the sender's way out and the target's way in are alive. What the sender's own kernel refused
// says nothing of the target: then its own stack is shown to work. took is the longest time that one needed.
func (t trip) controlled(ctx context.Context, b *Bench) (got []reports.Evidence, took time.Duration, err error) {
	f := familyOf(t.target.Addr())
	in := leg{to: t.to, addr: netip.AddrPortFrom(addrOf(b, t.to, f), 0), proto: "icmp"}
	if t.tokens["udp"] != "" && t.target.Addr() == in.addr.Addr() {
		in.proto, in.addr = "udp", t.target
	}
	within := in.looped(f)
	if t.tokens["udp"] != "" && t.target.Addr().IsLoopback() {
		within.proto, within.addr = "udp", t.target
	}
	ways := [][]leg{{within}}
	if !t.refused() {
		ways = append(inward(b, t.from, in), ways...)
	}
	return alive(ctx, b, f, outward(b, t.from, t.to, f), ways)
}

// control shows by echoes that the sender's way out and the target's way in are alive.
func control(ctx context.Context, b *Bench, from, to Place, target netip.Addr) ([]reports.Evidence, error) {
	f := familyOf(target)
	in := leg{to: to, addr: netip.AddrPortFrom(addrOf(b, to, f), 0), proto: "icmp"}
	got, _, err := alive(ctx, b, f, outward(b, from, to, f), append(inward(b, from, in), []leg{in.looped(f)}))
	return got, err
}

func familyOf(a netip.Addr) Family {
	if a.Is4() || a.Is4In6() {
		return IPv4
	}
	return IPv6
}

// leg is one control.
type leg struct {
	from, to Place
	addr     netip.AddrPort
	proto    string
}

// looped is the same within to's own stack.
func (l leg) looped(f Family) leg {
	l.from = l.to
	l.addr = netip.AddrPortFrom(loopback(f), l.addr.Port())
	return l
}

func loopback(f Family) netip.Addr {
	if f == IPv4 {
		return netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	return netip.IPv6Loopback()
}

// relays are the machines that answer controls, other than some places', and where it is wanted the host of a container.
func relays(b *Bench, of Place, but ...Place) (far, near []Place) {
	for _, m := range slices.Concat(b.plan.Externals(), b.plan.Hosts()) {
		switch p := (Place{Machine: m.Name}); {
		case slices.Contains(but, p) || p == of:
		case p.Machine == of.Machine:
			near = append(near, p)
		default:
			far = append(far, p)
		}
	}
	return far, near
}

// outward are controls of a sender's way out, the best first: to other machines, to its own host, in its own stack.
func outward(b *Bench, from, to Place, f Family) (tiers [][]leg) {
	far, near := relays(b, from, to)
	for _, tier := range [][]Place{far, near} {
		var legs []leg
		for _, r := range tier {
			legs = append(legs, leg{from, r, netip.AddrPortFrom(addrOf(b, r, f), controlPort), "udp"})
		}
		tiers = append(tiers, legs)
	}
	return append(tiers, []leg{leg{to: from, proto: "icmp"}.looped(f)})
}

// inward are controls of a target's way in, from other machines and from its own host. Another host than its own does
// not ask a container: the address may be one of its own containers', too. One without an address is not asked.
func inward(b *Bench, from Place, in leg) (tiers [][]leg) {
	if in.to.Container != "" && b.mode.Addrs == nil {
		return nil
	}
	far, near := relays(b, in.to, from)
	for _, tier := range [][]Place{far, near} {
		var legs []leg
		for _, r := range tier {
			if in.to.Container != "" && r.Machine != in.to.Machine && b.plan.Machine(r.Machine).Role == topology.RoleHost {
				continue
			}
			l := in
			l.from = r
			legs = append(legs, l)
		}
		if n := len(legs); n > 1 {
			legs = legs[n-1:] // who asks in vain is busy with it for seconds: not more than one
		}
		tiers = append(tiers, legs)
	}
	return tiers
}

// alive tries controls both ways at the same time. took is the longest time that one needed.
func alive(ctx context.Context, b *Bench, f Family, ways ...[][]leg) (got []reports.Evidence, took time.Duration, err error) {
	got = make([]reports.Evidence, len(ways))
	each := make([]time.Duration, len(ways))
	var fs []func() error
	for i, tiers := range ways {
		fs = append(fs, func() (err error) {
			// Twice more with time before all is given up: a busy machine answers late, and silence would decide nothing.
			for _, wait := range []time.Duration{hopeful, 10 * hopeful, patience} {
				for _, legs := range tiers {
					if got[i], each[i], err = first(ctx, b, legs, wait); err != nil || got[i].Saw != "" {
						return err
					}
				}
			}
			var tried []string
			for _, l := range slices.Concat(tiers...) {
				tried = append(tried, fmt.Sprintf("%s to %s by %s", l.from, l.to, l.proto))
			}
			return fmt.Errorf("no control is alive (%s; tried %s): nothing can be concluded from silence", f, strings.Join(tried, ", "))
		})
	}
	err = all(fs...)
	return got, slices.Max(each), err
}

// first is the first of some controls that comes back; nothing where none does in the time.
func first(ctx context.Context, b *Bench, legs []leg, wait time.Duration) (e reports.Evidence, took time.Duration, err error) {
	began := time.Now()
	type result struct {
		leg
		lab.Answer
		err error
	}
	results := make(chan result, len(legs))
	tokens := make([]string, len(legs))
	for i, l := range legs {
		tokens[i] = b.newToken()
		go func() {
			a, err := b.Ask(ctx, l.from, lab.Ask{Proto: l.proto, To: l.addr, Token: tokens[i], Wait: wait})
			results <- result{l, a, err}
		}()
	}
	for range legs {
		r := <-results
		err = cmp.Or(err, r.err)
		if !r.Answered || e.Saw != "" {
			continue
		}
		took = time.Since(began)
		e = reports.Evidence{At: r.from.String(), Saw: fmt.Sprintf("control: %s of %s at %s was answered after %s", r.proto, r.to, r.addr, r.RTT.Round(time.Microsecond))}
		for i, l := range legs {
			err = cmp.Or(err, b.Do(ctx, l.from.Machine, "Probe.Enough", tokens[i], &lab.Nothing{}))
		}
	}
	return e, took, err
}

// reach observes whether a place reaches another at its own address, by echo, datagram and connection.
func reach(ctx context.Context, b *Bench, from, to Place, f Family) (Observation, trip, error) {
	a := addrOf(b, to, f)
	port, err := serve(ctx, b, to, unspecified(f))
	if err != nil {
		return Observation{}, trip{}, err
	}
	t, err := try(ctx, b, from, to, netip.AddrPortFrom(a, port), protos...)
	return t.observation(), t, err
}

// serve answers datagrams and connections at an address of a place, and returns the port.
func serve(ctx context.Context, b *Bench, at Place, a netip.Addr) (port uint16, err error) {
	for _, proto := range []string{"udp", "tcp"} {
		l, err := b.Listen(ctx, at, lab.Listen{Proto: proto, Addr: netip.AddrPortFrom(a, port)})
		if err == nil && l.Refusal.Errno != "" {
			err = fmt.Errorf("%s: listen %s %s: %s", at, proto, a, l.Refusal.Text)
		}
		if err != nil {
			return 0, err
		}
		port = l.Port
	}
	return port, nil
}

// observation is works where all was answered, blocked where nothing was. Where some was, the status is neither: no
// expectation holds, and the detail says what did. It is nothing where nothing was asked: there is an error that says why.
func (t trip) observation() Observation {
	yes, no := t.answered()
	if len(yes)+len(no) == 0 {
		return Observation{}
	}
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
		a := t.answers[p]
		said := a.Refusal.Text
		if a.Refusal.Errno != "" {
			said = "the sender was told " + a.Refusal.Errno
		}
		if a.ICMPFrom.IsValid() {
			said += " by " + a.ICMPFrom.String()
		}
		if said != "" && !slices.Contains(refused, said) {
			refused = append(refused, said)
		}
	}
	why := ""
	if len(refused) > 0 {
		why = ", " + strings.Join(refused, ", ")
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

// delivered are the devices that the datagram (or else the echo, or the question to a resolver) crossed.
func (t trip) delivered() []lab.Packet {
	token := t.tokens["udp"]
	if token == "" {
		token = cmp.Or(t.tokens["icmp"], t.tokens[dns])
	}
	var out []lab.Packet
	for _, p := range t.packets {
		if p.Token == token && len(out) < 12 {
			out = append(out, p)
		}
	}
	return out
}

// oneContainer is the answer of the modes in which a container has no neighbour of its network.
func oneContainer() Observation {
	return notApplicable("the mode has one container a network and host")
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
	if routers(b) > 0 {
		return nil // the machine's way leads by a router, which has the routes
	}
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
