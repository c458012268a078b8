package suites

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/modebench/modebench/modes"
	"github.com/modebench/modebench/reports"
	"github.com/modebench/modebench/topology"
	"github.com/modebench/modebench/topology/lab"
)

// echoed asks a machine's control port from a place: a live control of the way to it.
func echoed(ctx context.Context, b *Bench, from, to Place, f Family) (reports.Evidence, error) {
	return echoedAt(ctx, b, from, to, netip.AddrPortFrom(addrOf(b, to, f), controlPort))
}

// echoedAt does so at a port of the other place's own.
func echoedAt(ctx context.Context, b *Bench, from, to Place, a netip.AddrPort) (reports.Evidence, error) {
	r, err := b.Ask(ctx, from, lab.Ask{Proto: "udp", To: a})
	if err == nil && !r.Answered {
		err = fmt.Errorf("%s does not reach %s at %s: nothing can be concluded", from, to, a)
	}
	return reports.Evidence{At: from.String(), Saw: fmt.Sprintf("control: udp of %s at %s was answered after %s", to, a, r.RTT.Round(time.Microsecond))}, err
}

var _ = register(Spec{
	Suite:   "packets",
	Feature: Feature{Name: "no-redirect", Group: "packets", Doc: "Is the container never sent an ICMP redirect by its host while it talks to siblings and externals?"},
	Name:    "a container talks to an external machine and to its neighbour, and its host's redirects are looked for",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		if o := numberless(b); o != nil {
			return *o, nil
		}
		c, x := container(b), external(b)
		recorded, err := b.Record(ctx)
		if err != nil {
			return Observation{}, err
		}
		var asks []func() error
		with := []string{x.String()}
		families := b.families()
		answered := make([]bool, len(families))
		// Twice by the same flow, with a pause: as long as the translation of a flow is not settled, which is after its first
		// packet was forwarded, the kernel drops redirects about it (nf_nat_icmp_reply_translation() of
		// net/netfilter/nf_nat_proto.c), and then holds back the next (ip_rt_send_redirect() of net/ipv4/route.c).
		talk := func(f Family, port uint16, to netip.AddrPort, wait time.Duration) (answered bool, err error) {
			a := lab.Ask{Proto: "udp", From: netip.AddrPortFrom(unspecified(f), port), To: to, Wait: wait}
			first, err := b.Ask(ctx, c, a)
			if err != nil {
				return false, err
			}
			select {
			case <-time.After(redirectPause):
			case <-ctx.Done():
				return false, context.Cause(ctx)
			}
			second, err := b.Ask(ctx, c, a)
			return first.Answered && second.Answered, err
		}
		for i, f := range families {
			port := b.freePort()
			asks = append(asks, func() (err error) {
				answered[i], err = talk(f, port, netip.AddrPortFrom(addrOf(b, x, f), controlPort), time.Second)
				return err
			})
		}
		if _, second, ok := pair(b, c.Machine, network(b)); ok {
			with = append(with, second.String())
			for _, f := range families {
				port, err := serve(ctx, b, second, unspecified(f))
				if err != nil {
					return Observation{}, err
				}
				from := b.freePort()
				asks = append(asks, func() error {
					// Where siblings are kept apart no answer comes, which is not what is asked here.
					_, err := talk(f, from, netip.AddrPortFrom(addrOf(b, second, f), port), hopeful)
					return err
				})
			}
		}
		if err := all(asks...); err != nil {
			return Observation{}, err
		}
		redirects, err := recorded(ctx, func(p lab.Packet) bool {
			return p.Machine == c.Machine && (p.Proto == "icmp" && p.ICMP != nil && p.ICMP.Type == 5 || p.NDP != nil && p.NDP.Kind == "redirect")
		})
		if err != nil {
			return Observation{}, err
		}
		talked := fmt.Sprintf("%s talked to %s by %s", c, strings.Join(with, " and "), b.span())
		if len(redirects) > 0 {
			o := blocked("%s: %s", talked, redirects[0].Text)
			for _, p := range redirects {
				o.Evidence = append(o.Evidence, seen(p))
			}
			return o, nil
		}
		for i, ok := range answered {
			if !ok {
				return Observation{}, fmt.Errorf("%s does not reach %s (%s): nothing can be concluded", c, x, families[i])
			}
		}
		return works("%s: no redirect was seen at any device of %s", talked, c.Machine).with(c.String(), "%s answered by %s", x, b.span()), nil
	},
	Sabotage: []Sabotage{
		{Mode: "bridge", Doc: "the container's IPv4 route to its neighbour leads by the host, which sends redirects", Steps: func(p *topology.Plan) []topology.Step {
			h := p.Hosts()[0]
			return []topology.Step{
				{On: h.Name, Sysctl: &topology.Sysctl{Key: "net/ipv4/conf/all/send_redirects", Value: "1"}},
				{On: h.Name, In: h.Containers[0].Name, Route: detour(h.Containers[1].Private4.Addr(), p.Networks[0].Gateway4)},
			}
		}},
		{Mode: "bridge", Doc: "the container's IPv6 route to its neighbour leads by the host", Steps: func(p *topology.Plan) []topology.Step {
			h := p.Hosts()[0]
			return []topology.Step{{On: h.Name, In: h.Containers[0].Name, Route: detour(h.Containers[1].Private6.Addr(), p.Networks[0].Gateway6)}}
		}},
	},
})

// redirectPause is more than the 40 ms after which the kernel sends one station a second redirect (ip_rt_redirect_load of
// net/ipv4/route.c, doubled).
const redirectPause = 50 * time.Millisecond

// detour is a container's route to an address alone by a gateway.
func detour(to, gateway netip.Addr) *topology.Route {
	return &topology.Route{Dst: netip.PrefixFrom(to, to.BitLen()), Via: gateway, Link: "eth0"}
}

var _ = register(Spec{
	Suite:   "packets",
	Feature: Feature{Name: "sibling-off-wire", Group: "packets", Doc: "Does unicast between two containers of one host stay off the segment?"},
	Name:    "a container sends datagrams to its neighbour, whose link-layer address it knows, and the switch records",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		if o := numberless(b); o != nil {
			return *o, nil
		}
		first, second, ok := pair(b, firstHost(b), network(b))
		if !ok {
			return oneContainer(), nil
		}
		s, err := b.State(ctx, first.Machine)
		if err != nil {
			return Observation{}, err
		}
		from, to := s.Spaces[first.Container], s.Spaces[second.Container]
		recorded, err := b.Record(ctx)
		if err != nil {
			return Observation{}, err
		}
		families := b.families()
		tokens := map[string]Family{}
		var asks []func() error
		answers := make([]lab.Answer, len(families))
		var reproduce []string
		for i, f := range families {
			a := addrOf(b, second, f)
			if neighbour := onLink(from, a); neighbour != "" && from.Inode != to.Inode {
				// Else a question for the address would be all that is sent where no answer to it comes.
				l, err := linkWith(to, a)
				if err != nil {
					return Observation{}, err
				}
				step := topology.Step{On: first.Machine, In: first.Container, Neigh: &topology.Neigh{Link: neighbour, IP: a, MAC: l.MAC}}
				if err := b.Apply(ctx, step); err != nil {
					return Observation{}, err
				}
				reproduce = append(reproduce, step.String())
			}
			port, err := serve(ctx, b, second, unspecified(f))
			if err != nil {
				return Observation{}, err
			}
			token := b.newToken()
			tokens[token] = f
			asks = append(asks, func() (err error) {
				answers[i], err = b.Ask(ctx, first, lab.Ask{Proto: "udp", To: netip.AddrPortFrom(a, port), Token: token, Wait: patience})
				return err
			})
		}
		// At the host's own interface a frame between two devices on it is seen, too, as if it came in.
		onWire := func(p lab.Packet) bool {
			_, mine := tokens[p.Token]
			return mine && b.plan.Machine(p.Machine).Role == topology.RoleTor
		}
		asked := make(chan error, 1)
		go func() { asked <- all(asks...) }()
		// An answer is waited for until the question is seen on the wire, where it may be lost.
		if _, err := eventually(ctx, 2*patience, func() (bool, error) {
			select {
			case err := <-asked:
				return true, err
			default:
			}
			seen, err := recorded(ctx, onWire)
			for _, p := range seen {
				err = cmp.Or(err, b.Do(ctx, first.Machine, "Probe.Enough", p.Token, &lab.Nothing{}))
			}
			return false, err
		}); err != nil {
			return Observation{}, err
		}
		// What follows the datagrams out of the host has passed the switch, so they have, or never will.
		control, err := echoed(ctx, b, first, external(b), IPv4)
		if err != nil {
			return Observation{}, err
		}
		packets, err := recorded(ctx, func(p lab.Packet) bool { _, mine := tokens[p.Token]; return mine })
		if err != nil {
			return Observation{}, err
		}
		var o Observation
		wired, came := map[Family]bool{}, 0
		for _, a := range answers {
			if a.Answered {
				came++
			}
		}
		for _, p := range packets {
			if onWire(p) {
				wired[tokens[p.Token]] = true
			}
			if len(o.Evidence) < 16 {
				o.Evidence = append(o.Evidence, seen(p))
			}
		}
		o.Evidence, o.Reproduce = append(o.Evidence, control), reproduce
		sent := fmt.Sprintf("%s sent datagrams to %s by %s", first, second, b.span())
		switch {
		case len(wired) == len(families):
			o.Status, o.Detail = reports.Blocked, sent+": all were on the wire"
		case len(wired) == 0 && came == len(families):
			o.Status, o.Detail = reports.Works, sent+": all were answered, and none was on the wire"
		case len(wired) == 0 && came == 0:
			o.Status, o.Detail = reports.NotApplicable, sent+": none arrived, by the wire or off it"
		default:
			o.Status = "mixed"
			o.Detail = fmt.Sprintf("%s: of %d, %d were on the wire and %d were answered", sent, len(families), len(wired), came)
		}
		return o, nil
	},
	Sabotage: []Sabotage{
		{Mode: "macvlan-bridge", Doc: "the devices are in vepa mode", Steps: deviceMode("vepa")},
		{Mode: "macvlan-private", Doc: "the devices are in bridge mode", Steps: deviceMode("bridge")},
		{Mode: "macvlan-vepa", Doc: "the devices are in bridge mode", Steps: deviceMode("bridge")},
	},
})

// onLink is the device whose subnet has an address; empty where it is behind a router.
func onLink(s lab.SpaceState, a netip.Addr) string {
	for _, own := range s.Addrs {
		if own.Prefix.Contains(a) {
			return own.Link
		}
	}
	return ""
}

// headers is how many bytes of an IP packet with a datagram are not its payload (RFC 791, RFC 8200, RFC 768).
func headers(f Family) int {
	if f == IPv4 {
		return 20 + 8
	}
	return 40 + 8
}

// full asks a place, at a port of which a program answers, by a datagram that makes an IP packet of a length, which nothing may fragment.
func full(ctx context.Context, b *Bench, to Place, target netip.AddrPort, length int) (t trip, err error) {
	from, f := container(b), familyOf(target.Addr())
	t = trip{from: from, to: to, target: target, tokens: map[string]string{"udp": b.newToken()}, answers: map[string]lab.Answer{}}
	recorded, err := b.Record(ctx)
	if err != nil {
		return t, err
	}
	a, err := b.Ask(ctx, from, lab.Ask{Proto: "udp", To: target, Token: t.tokens["udp"], Size: length - headers(f), NoFragment: true})
	if err != nil {
		return t, err
	}
	t.answers["udp"] = a
	if !a.Answered { // that a short one is shows that it is the length
		control, err := echoedAt(ctx, b, from, to, target)
		if err != nil {
			return t, err
		}
		t.control = append(t.control, control)
	}
	t.packets, err = recorded(ctx, func(p lab.Packet) bool { return p.Token == t.tokens["udp"] && between(b, p, from, to) })
	return t, err
}

var _ = registerFamilies(func(f Family) Spec {
	return Spec{
		Suite:   "packets",
		Feature: Feature{Name: "mtu-full", Group: "packets", Doc: "Does a packet of the segment's full MTU, not to be fragmented, cross to an external machine?"},
		Name:    "a container sends a datagram that fills the MTU of its host's interface, with DF, to an external machine",
		Run: func(ctx context.Context, b *Bench) (Observation, error) {
			if o := numberless(b, f); o != nil {
				return *o, nil
			}
			mtu := uplink(b).MTU
			t, err := full(ctx, b, external(b), netip.AddrPortFrom(addrOf(b, external(b), f), controlPort), mtu)
			if err != nil {
				return Observation{}, err
			}
			o := t.observation()
			if o.Status != reports.Works {
				return o, nil
			}
			whole := 0
			for _, p := range t.packets {
				if p.IP.MoreFragments || p.IP.Offset > 0 {
					return Observation{Status: "mixed", Detail: fmt.Sprintf("a packet of %d bytes was fragmented at %s", mtu, at(p)), Evidence: o.Evidence}, nil
				}
				if p.Machine == t.to.Machine && !p.Outgoing && p.Length == mtu+14 && p.Dst == t.target { // with the Ethernet header
					whole++
				}
			}
			if whole != 1 {
				return Observation{Status: "mixed", Detail: fmt.Sprintf("of one packet of %d bytes, %d came to %s", mtu, whole, t.to), Evidence: o.Evidence}, nil
			}
			o.Detail = fmt.Sprintf("%s sent a packet of %d bytes with DF: %s received it whole", t.from, mtu, t.to)
			return o, nil
		},
		Sabotage: []Sabotage{
			{Mode: "bridge", Doc: "the container's MTU is 100 bytes less", Steps: lessMTU},
			{Mode: "macvlan-vepa", Doc: "the host's interface has 100 bytes less", Steps: func(p *topology.Plan) []topology.Step {
				return append(lessMTU(p), topology.Step{On: p.Hosts()[0].Name, Set: &topology.LinkSet{Name: p.Hosts()[0].NICs[0].Name, MTU: p.Hosts()[0].NICs[0].MTU - 100}})
			}},
		},
	}
})

// lessMTU lowers the MTU of the devices of the first host's containers of the first network.
func lessMTU(p *topology.Plan) (steps []topology.Step) {
	h := p.Hosts()[0]
	for _, c := range h.Containers {
		if c.Network == p.Networks[0].Name {
			steps = append(steps, topology.Step{On: h.Name, In: c.Name, Set: &topology.LinkSet{Name: "eth0", MTU: h.NICs[0].MTU - 100}})
		}
	}
	return steps
}

var _ = register(Spec{
	Suite:   "packets",
	Feature: Feature{Name: "mtu-bounded", Group: "packets", Doc: "Is a container MTU above that of its host's interface refused?"},
	Name:    "the MTU of a container's device is set to one byte more than that of its host's interface",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		if o := deviceless(b); o != nil {
			return *o, nil
		}
		c := container(b)
		parent, err := linkOf(ctx, b, Place{Machine: c.Machine}, uplink(b).Name)
		if err != nil {
			return Observation{}, err
		}
		set := func(mtu int) (topology.Step, lab.Refusal, error) {
			step := topology.Step{On: c.Machine, In: c.Container, Set: &topology.LinkSet{Name: ownDevice(b, c), MTU: mtu}}
			r, err := b.Attempt(ctx, step)
			return step, r, err
		}
		less, r, err := set(parent.MTU - 1)
		if err == nil && r.Errno != "" {
			err = fmt.Errorf("%s: even %s is refused: %s", c, less, r.Text)
		}
		if err != nil {
			return Observation{}, err
		}
		more, r, err := set(parent.MTU + 1)
		if err != nil {
			return Observation{}, err
		}
		asked := fmt.Sprintf("%s was to have an MTU of %d bytes on an interface of %d", c, parent.MTU+1, parent.MTU)
		o := blocked("%s: it was let", asked)
		switch r.Errno {
		case "":
		case "EINVAL":
			o = works("%s: refused with EINVAL", asked)
		default:
			o = Observation{Status: "mixed", Detail: fmt.Sprintf("%s: refused with %s", asked, r.Text)}
		}
		o.Reproduce = []string{more.String()}
		return o.with(c.String(), "control: an MTU of %d bytes is taken", parent.MTU-1), nil
	},
	Sabotage: []Sabotage{
		{Mode: "macvlan-bridge", Doc: "the container hangs on a veth pair", Rewire: paired},
		{Mode: "bridge", Doc: "the container hangs on the host's interface by macvlan", Rewire: stacked},
	},
})

// linkOf is a device of a place as it is now.
func linkOf(ctx context.Context, b *Bench, p Place, name string) (lab.Link, error) {
	s, err := b.devices(ctx, p.Machine)
	if err != nil {
		return lab.Link{}, err
	}
	return linkIn(s, p, name)
}

// linkIn is a device of a place in a state of its machine.
func linkIn(s lab.State, p Place, name string) (lab.Link, error) {
	for _, l := range s.Spaces[p.Container].Links {
		if l.Name == name {
			return l, nil
		}
	}
	return lab.Link{}, fmt.Errorf("%s: no device %q", p, name)
}

// narrow lowers the MTU of the first host's uplink until the spec ends, and returns it.
func narrow(ctx context.Context, b *Bench) (mtu int, steps []topology.Step, err error) {
	host, up := firstHost(b), uplink(b)
	mtu = up.MTU - 100
	if b.mode.Device != "" {
		// What is lowered with the uplink is not raised with it: each container's own is noted, to be put back.
		for _, c := range b.Containers(host, network(b)) {
			l, err := linkOf(ctx, b, c, b.mode.Device)
			if err != nil {
				return 0, nil, err
			}
			if err := b.Apply(ctx, topology.Step{On: host, In: c.Container, Set: &topology.LinkSet{Name: l.Name, MTU: l.MTU}}); err != nil {
				return 0, nil, err
			}
		}
	}
	steps = []topology.Step{{On: host, Set: &topology.LinkSet{Name: up.Name, MTU: mtu}}}
	return mtu, steps, b.Apply(ctx, steps...)
}

var _ = register(Spec{
	Suite:   "packets",
	Feature: Feature{Name: "mtu-follows", Group: "packets", Doc: "When the host's interface gets a lower MTU, does the container's device get it too?"},
	Name:    "the MTU of a host's interface is lowered, and that of a container's device is read before and after",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		if o := numberless(b); o != nil {
			return *o, nil
		}
		c := container(b)
		before, err := linkOf(ctx, b, c, ownDevice(b, c))
		if err != nil {
			return Observation{}, err
		}
		mtu, steps, err := narrow(ctx, b)
		if err != nil {
			return Observation{}, err
		}
		// The kernel tells the devices above before it answers (NETDEV_CHANGEMTU).
		after, err := linkOf(ctx, b, c, before.Name)
		if err != nil {
			return Observation{}, err
		}
		did := fmt.Sprintf("the interface of %s was lowered to %d bytes: %s of %s, which had %d, has %d", c.Machine, mtu, before.Name, c, before.MTU, after.MTU)
		o := Observation{Status: "mixed", Detail: did}
		switch after.MTU {
		case mtu:
			o = works("%s", did)
		case before.MTU:
			o = blocked("%s", did)
		}
		o.Reproduce = []string{steps[0].String()}
		return o, nil
	},
	Sabotage: []Sabotage{
		{Mode: "macvlan-bridge", Doc: "the container hangs on a veth pair", Rewire: paired},
		{Mode: "bridge", Doc: "the container hangs on the host's interface by macvlan", Rewire: stacked},
	},
})

var _ = registerFamilies(func(f Family) Spec {
	return Spec{
		Suite: "packets",
		Feature: Feature{
			Name: "path-mtu", Group: "packets",
			Doc: "When the host's interface gets a lower MTU, does a container's sender learn it instead of losing packets silently?",
		},
		Name: "the MTU of a host's interface is lowered; a container sends what filled it before, with DF, and then what it learned",
		Run: func(ctx context.Context, b *Bench) (Observation, error) {
			if o := numberless(b, f); o != nil {
				return *o, nil
			}
			c := container(b)
			if err := routeOfItsOwn(ctx, b, c, addrOf(b, external(b), f)); err != nil {
				return Observation{}, err
			}
			own, err := linkOf(ctx, b, c, exitDevice(b, c)) // which may have less than the host's interface from the start
			if err != nil {
				return Observation{}, err
			}
			mtu, steps, err := narrow(ctx, b)
			if err != nil {
				return Observation{}, err
			}
			return pathMTU(ctx, b, external(b), netip.AddrPortFrom(addrOf(b, external(b), f), controlPort), own.MTU, mtu, steps)
		},
		Sabotage: []Sabotage{
			{Mode: "bridge", Doc: "the host's packet filter drops the errors that it sends", Steps: errorless},
		},
	}
})

// pathMTU observes what the container is told that sends a place a packet with DF that its own device takes and that does not fit the way,
// by what some steps did. mtu is what does fit; 0: that is not known before.
func pathMTU(ctx context.Context, b *Bench, to Place, target netip.AddrPort, length, mtu int, steps []topology.Step) (o Observation, err error) {
	t, err := full(ctx, b, to, target, length)
	if err != nil {
		return o, err
	}
	told := t.answers["udp"]
	asked := fmt.Sprintf("%s sent %d bytes with DF", t.from, length)
	if mtu > 0 {
		asked += fmt.Sprintf(", where %d fit the way", mtu)
	}
	by := "its own stack"
	if told.ICMPFrom.IsValid() {
		by = told.ICMPFrom.String()
	}
	switch {
	case told.Answered:
		o = blocked("%s: it was not told, and the packet left as it was: this kind of interface takes more than its MTU", asked)
	case told.Refusal.Errno == "":
		o = blocked("%s: lost without a word; %s", asked, t.lost())
	case told.Refusal.Errno == "ENOBUFS": // dropped further down (net_xmit_errno() of linux/netdevice.h)
		o = blocked("%s: told ENOBUFS by %s, which says nothing of the length", asked, by)
	case told.Refusal.Errno != "EMSGSIZE":
		o = Observation{Status: "mixed", Detail: fmt.Sprintf("%s: refused with %s", asked, told.Refusal.Errno)}
	case told.MTU >= length || mtu > 0 && told.MTU != mtu:
		o = Observation{Status: "mixed", Detail: fmt.Sprintf("%s: told EMSGSIZE by %s, but its path MTU is then %d", asked, by, told.MTU)}
	default:
		fits, err := full(ctx, b, to, target, told.MTU)
		if err != nil {
			return o, err
		}
		if !fits.answers["udp"].Answered {
			o = Observation{Status: "mixed", Detail: fmt.Sprintf("%s: told EMSGSIZE by %s, but what fits is lost; %s", asked, by, fits.lost())}
			break
		}
		o = works("%s: told EMSGSIZE by %s, and what fits %d bytes was answered", asked, by, told.MTU)
	}
	o.Evidence = append(t.sightings(), t.control...)
	return o.by(steps), nil
}

var _ = registerFamilies(func(f Family) Spec {
	return Spec{
		Suite: "packets",
		Feature: Feature{
			Name: "oversize-cross-host", Group: "packets",
			Doc: "When a container's device has the segment's MTU, though what leads to other hosts has less, does its sender learn that instead of losing packets silently?",
		},
		Name: "a container's device, and the host's end of it, get the MTU of the host's interface; the container sends one of another host what fills that, with DF, and then what it learned",
		Run: func(ctx context.Context, b *Bench) (Observation, error) {
			if o := numberless(b, f); o != nil {
				return *o, nil
			}
			c, to, device, whole := container(b), far(b), ownDevice(b, container(b)), uplink(b).MTU
			own, o, err := narrower(ctx, b)
			if err != nil || o.Status != "" {
				return o, err
			}
			port, err := serve(ctx, b, to, unspecified(f))
			if err != nil {
				return Observation{}, err
			}
			target := netip.AddrPortFrom(addrOf(b, to, f), port)
			if ok, err := insists(ctx, b, c, target); err != nil || !ok {
				return Observation{}, errors.Join(err, fmt.Errorf("%s does not reach %s at all", c, to))
			}
			if err := routeOfItsOwn(ctx, b, c, target.Addr()); err != nil {
				return Observation{}, err
			}
			steps := []topology.Step{{On: c.Machine, In: c.Container, Set: &topology.LinkSet{Name: device, MTU: whole}}}
			s, err := b.own(ctx, c.Machine)
			if err != nil {
				return Observation{}, err
			}
			for _, l := range s.Links {
				if l.Kind == "veth" && l.Index == own.Parent {
					steps = append(steps, topology.Step{On: c.Machine, Set: &topology.LinkSet{Name: l.Name, MTU: whole}})
				}
			}
			if err := b.Apply(ctx, steps...); err != nil {
				return Observation{}, err
			}
			return pathMTU(ctx, b, to, target, whole, 0, steps)
		},
		Sabotage: []Sabotage{
			{Mode: "vxlan-static", Doc: "the tunnels' devices take 50 bytes more", Setup: wide},
			either(f, Sabotage{Mode: "fan", Doc: "the host's packet filter drops the errors that it sends", Steps: errorless},
				Sabotage{Mode: "vxlan-gossip", Doc: "the tunnels' devices take 50 bytes more", Setup: wide}),
			{Mode: "flannel-vxlan", Doc: "the host's packet filter drops the errors that it sends", Steps: errorless},
		},
	}
})

// narrower is the first container's device, where that has a lower MTU than the host's interface; else there is nothing to observe.
func narrower(ctx context.Context, b *Bench) (own lab.Link, o Observation, err error) {
	own, err = linkOf(ctx, b, container(b), ownDevice(b, container(b)))
	if err == nil && own.MTU >= uplink(b).MTU {
		o = notApplicable("containers have the MTU of the host's interface, and nothing that leads to other hosts is known to have less")
	}
	return own, o, err
}

// fragmented and unfragmented begin the comments of rules that count a host's packets of IPv4 by whether they are fragments.
const fragmented, unfragmented = "fragments of ", "whole of "

var _ = register(Spec{
	Suite: "packets", Needs: []modes.Kernel{modes.NFTables, modes.NFNetdev},
	Feature: Feature{
		Name: "tunnel-stream", Group: "packets",
		Doc: "Does a TCP stream between containers of two hosts, as fast as they can, cross the segment in a tunnel without one fragment (RFC 7348 section 4.3)?",
	},
	Name: "a container sends one of another host by one TCP connection, and at the switch's ports packets are counted that are fragments, and that are not",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		if o := numberless(b, IPv4); o != nil {
			return *o, nil
		}
		_, o, err := narrower(ctx, b)
		if err != nil || o.Status != "" {
			return o, err
		}
		w := stretch{sender: container(b), receiver: far(b), port: b.freePort()}
		w.target = netip.AddrPortFrom(addrOf(b, w.receiver, IPv4), w.port)
		if w, err = w.started(ctx, b); err != nil {
			return o, err
		}
		hosts := []string{w.sender.Machine, w.receiver.Machine}
		var steps []topology.Step
		for _, h := range hosts {
			one := topology.Match{Field: "ip frag-off", Value: "0x0/0x3fff"} // neither that more fragments follow nor an offset
			other := one
			other.Not = true
			steps = append(steps, entrance(b, h, "fragments",
				topology.Rule{Match: []topology.Match{one}, Verdict: topology.Verdict{Kind: "count"}, Comment: unfragmented + h},
				topology.Rule{Match: []topology.Match{other}, Verdict: topology.Verdict{Kind: "count"}, Comment: fragmented + h}))
		}
		if err := b.Apply(ctx, steps...); err != nil {
			return o, err
		}
		_, got, err := w.carry(ctx, b, lab.Trial{Test: "tcp-stream", For: sampled})
		if err != nil {
			return o, err
		}
		var pieces uint64
		for _, h := range hosts {
			at := portOf(b, h)
			ones, err := b.counted(ctx, at.Machine, unfragmented+h)
			if err != nil {
				return o, err
			}
			others, err := b.counted(ctx, at.Machine, fragmented+h)
			if err != nil {
				return o, err
			}
			if h == w.sender.Machine && ones+others < plenty {
				return o, fmt.Errorf("%d packets of %s entered %s by %s, of a stream of %s: too few to tell", ones+others, h, at.Machine, at.Interface, megabits(payload(got))[0])
			}
			pieces += others
			o = o.with(at.Machine, "%d packets came whole by %s, and %d that are fragments", ones, at.Interface, others)
		}
		seen := whether(pieces == 0, "%s sent %s %s by one TCP connection: %d packets of it crossed the segment that are fragments", w.sender, w.receiver, megabits(payload(got))[0], pieces)
		seen.Evidence = o.Evidence
		return seen.by(steps), nil
	},
	Sabotage: []Sabotage{
		{Mode: "vxlan-static", Doc: "tunnels and containers have 10 bytes less than the segment alone, and containers let their packets be fragmented", Setup: wide, Rewire: brimful},
		{Mode: "vxlan-gossip", Doc: "tunnels and containers have 10 bytes less than the segment alone, and containers let their packets be fragmented", Setup: wide, Rewire: brimful},
	},
})

// plenty is of how many packets a stream has at least; one that the kernel has not cut yet counts as one.
const plenty = 20

// brimful gives containers' devices 40 of the 50 bytes that a VXLAN over IPv4 adds, and has their packets without DF: with that the tunnel tells them
// of its MTU (skb_tunnel_check_pmtu() of net/ipv4/ip_tunnel_core.c).
func brimful(steps []topology.Step) (out []topology.Step) {
	for _, s := range mapLinks(func(l *topology.Link) {
		if l.PeerName == "eth0" {
			l.MTU, l.PeerMTU = l.MTU+40, l.PeerMTU+40
		}
	})(steps) {
		out = append(out, s)
		if s.Link != nil && s.Link.PeerName == "eth0" {
			out = append(out, topology.Step{On: s.On, In: s.Link.PeerIn, Sysctl: &topology.Sysctl{Key: "net/ipv4/ip_no_pmtu_disc", Value: "1"}})
		}
	}
	return out
}

// wide gives tunnels the MTU of the interface that they leave by: a VXLAN over IPv4 adds 50 bytes.
var wide = mapTunnels(func(l *topology.Link) { l.MTU += 50 })

// errorless has the first host send no error about what others sent.
func errorless(p *topology.Plan) []topology.Step {
	return []topology.Step{dropping(topology.Step{On: p.Hosts()[0].Name}, "output", topology.Match{Field: "ct state", Value: "related"})}
}

// routeOfItsOwn gives a place a route to an address alone, which leads where it leads anyway. What the kernel learns of
// the path is kept with the route and goes with it; that the route has a source address keeps it from being merged with
// an equal one (fib_find_info() of net/ipv4/fib_semantics.c).
func routeOfItsOwn(ctx context.Context, b *Bench, p Place, dst netip.Addr) error {
	s, err := b.State(ctx, p.Machine)
	if err != nil {
		return err
	}
	var best *lab.Route
	for i, r := range s.Spaces[p.Container].Routes {
		if r.Dst.Contains(dst) && (best == nil || r.Dst.Bits() > best.Dst.Bits()) {
			best = &s.Spaces[p.Container].Routes[i]
		}
	}
	if best == nil {
		return fmt.Errorf("%s: no route to %s", p, dst)
	}
	src := addrOf(b, p, familyOf(dst))
	if best.Link == b.mode.Exit {
		if src, err = exitAddr(ctx, b, p, familyOf(dst)); err != nil {
			return err
		}
	}
	return b.Apply(ctx, topology.Step{On: p.Machine, In: p.Container, Route: &topology.Route{
		Dst: netip.PrefixFrom(dst, dst.BitLen()), Via: best.Via, Link: best.Link, Src: src,
		OnLink: strings.Contains(best.Text+" ", " onlink "),
	}})
}

var _ = register(Spec{
	Suite:   "packets",
	Feature: Feature{Name: "no-promiscuous", Group: "packets", Doc: "Does the host's interface stay out of promiscuous mode?"},
	Name:    "how often a host's interface was asked to be promiscuous is read while containers are attached",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		host := Place{Machine: firstHost(b)}
		l, err := linkOf(ctx, b, host, cable(b.plan.Machine(host.Machine), uplink(b)).Name)
		if err != nil {
			return Observation{}, err
		}
		return whether(l.Promiscuity == 0, "%s of %s is promiscuous for %d", l.Name, host, l.Promiscuity).
			with(host.String()+":"+l.Name, "kind %s, promiscuity %d", l.Kind, l.Promiscuity).value("count", float64(l.Promiscuity)), nil
	},
	Sabotage: []Sabotage{
		{Mode: "bridge", Doc: "the host's interface is promiscuous", Steps: func(p *topology.Plan) []topology.Step {
			h := p.Hosts()[0]
			return []topology.Step{{On: h.Name, Set: &topology.LinkSet{Name: h.NICs[0].Name, Promisc: "on"}}}
		}},
		{Mode: "macvlan-bridge", Doc: "the containers hang on veth pairs", Rewire: paired},
		{Mode: "ipvlan-l2", Doc: "the devices are macvlan devices", Rewire: kindOf("macvlan", "bridge")},
		{Mode: "vlan-ipvlan", Doc: "the devices are macvlan devices", Rewire: kindOf("macvlan", "bridge")},
		{Mode: "vlan-macvlan", Doc: "the devices are ipvlan devices", Rewire: kindOf("ipvlan", "l2")},
	},
})
