package suites

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/modebench/modebench/reports"
	"github.com/modebench/modebench/topology"
	"github.com/modebench/modebench/topology/lab"
)

// session is one of BGP, between a host and its router over the link that they share.
type session struct {
	host string
	nic  topology.Interface // the host's end
	tor  string
	port topology.Interface // the router's end
}

func (s session) String() string { return s.host + ":" + s.nic.Name + " and " + s.tor }

// own is the host's address on the link.
func (s session) own(f Family) netip.Addr { return endOf(s.nic, f) }

// routers is the router's.
func (s session) router(f Family) netip.Addr { return endOf(s.port, f) }

func endOf(i topology.Interface, f Family) netip.Addr {
	if f == IPv4 {
		return i.V4.Addr()
	}
	return i.V6.Addr()
}

// speaker is what a mode makes speak BGP on a host; nil: nothing.
func speaker(b *Bench, host string) *topology.BGP {
	if b.mode.Setup == nil {
		return nil
	}
	for _, s := range b.mode.Setup(b.plan, b.plan.Machine(host)) {
		if s.BGP != nil {
			return s.BGP
		}
	}
	return nil
}

// sessions are those of the mode's speakers, a host's first network first.
func sessions(b *Bench) (all []session) {
	for _, h := range b.plan.Hosts() {
		bgp := speaker(b, h.Name)
		if bgp == nil {
			continue
		}
		for _, nic := range h.NICs {
			tor := b.plan.Machine(nic.Peer.Machine)
			if tor == nil || tor.NIC(nic.Peer.Interface) == nil {
				continue
			}
			port := *tor.NIC(nic.Peer.Interface)
			if !slices.ContainsFunc(bgp.Peers, func(p topology.Peer) bool { return p.Addr == port.V4.Addr() }) {
				continue
			}
			s := session{h.Name, nic, tor.Name, port}
			if nic.Name == b.plan.Networks[0].NIC {
				all = slices.Insert(all, slices.IndexFunc(append(all, s), func(o session) bool { return o.host == h.Name }), s)
				continue
			}
			all = append(all, s)
		}
	}
	return all
}

// sessionOf is a host's over the interface of the first network.
func sessionOf(b *Bench, host string) session {
	all := sessions(b)
	return all[slices.IndexFunc(all, func(s session) bool { return s.host == host })]
}

// speechless is the answer of the modes in whose wiring nothing speaks BGP.
func speechless(b *Bench) *Observation {
	if len(sessions(b)) > 0 {
		return nil
	}
	o := notApplicable("nothing in the mode's wiring speaks BGP")
	return &o
}

// speaking is a spec's run for modes that speak BGP, once everything is established and known.
func speaking(run func(context.Context, *Bench) (Observation, error)) func(context.Context, *Bench) (Observation, error) {
	return func(ctx context.Context, b *Bench) (Observation, error) {
		if o := speechless(b); o != nil {
			return *o, nil
		}
		if err := converged(ctx, b); err != nil {
			return Observation{}, err
		}
		return run(ctx, b)
	}
}

func bgpState(ctx context.Context, b *Bench, machine string) (s lab.BGPState, err error) {
	err = b.Do(ctx, machine, "BGP.State", lab.Nothing{}, &s)
	return s, err
}

const established = "established"

// up tells whether a session is established, as both ends have it.
func (s session) up(ctx context.Context, b *Bench) (bool, error) {
	for _, end := range []struct {
		machine string
		peer    netip.Addr
	}{{s.host, s.port.V4.Addr()}, {s.tor, s.nic.V4.Addr()}} {
		state, err := bgpState(ctx, b, end.machine)
		if err != nil || !slices.ContainsFunc(state.Peers, func(p lab.BGPPeer) bool { return p.Addr == end.peer && p.State == established }) {
			return false, err
		}
	}
	return true, nil
}

// convergence bounds what sessions need to be established again, with all that is announced over them: speakers keep idle
// for a second and connect after one or two, and do so again where the neighbour was not ready, which it may not be several
// times on a machine with other work.
const convergence = 20 * time.Second

// blocks are what the hosts announce for the containers that are attached where they are planned: by network.
func blocks(b *Bench) (all []block) {
	for _, s := range sessions(b) {
		for _, n := range b.plan.Networks {
			if n.NIC != s.nic.Name || len(b.Containers(s.host, n.Name)) == 0 {
				continue
			}
			v4, v6 := b.plan.Slice(s.host, n.Name)
			all = append(all, block{v4, s}, block{v6, s})
		}
	}
	return all
}

// block is a prefix that came by a session.
type block struct {
	netip.Prefix
	session
}

// installed tells by how ip-route(8) would list a route of the router's to the host that announced it.
func (a block) installed(routes []lab.Route) bool {
	return slices.ContainsFunc(routes, func(r lab.Route) bool {
		return r.Dst == a.Prefix && strings.Contains(r.Text, "proto bgp") &&
			strings.Contains(r.Text+" ", "via "+a.own(familyOf(a.Addr())).String()+" ")
	})
}

// converged waits until all sessions are established, and every block is in the router's table and known afresh.
func converged(ctx context.Context, b *Bench) error {
	var missing string
	ok, err := eventually(ctx, convergence, func() (bool, error) {
		for _, s := range sessions(b) {
			if up, err := s.up(ctx, b); err != nil || !up {
				missing = fmt.Sprintf("the session of %s is not established", s)
				return false, err
			}
		}
		for _, a := range blocks(b) {
			state, err := bgpState(ctx, b, a.tor)
			if err != nil {
				return false, err
			}
			if !slices.ContainsFunc(state.Routes, func(r lab.BGPRoute) bool {
				return r.Prefix == a.Prefix && r.From == a.own(IPv4) && r.Installed && !r.Stale
			}) {
				missing = fmt.Sprintf("%s has no route to %s by %s", a.tor, a.Prefix, a.session)
				return false, nil
			}
		}
		return true, nil
	})
	if err == nil && !ok {
		err = fmt.Errorf("after %s %s", convergence, missing)
	}
	return err
}

// said is a message on the wire, at the router's end of a link.
type said struct {
	lab.Packet
	lab.BGPMessage
}

// toRouter and toHost tell which way it went, and that the other end took it.
func (m said) toRouter(s session) bool {
	return m.Machine == s.tor && m.Device == s.port.Name && !m.Outgoing && bytes.Equal(m.EthDst, s.port.MAC)
}

func (m said) toHost(s session) bool {
	return m.Machine == s.tor && m.Device == s.port.Name && m.Outgoing
}

// conversation is what was recorded of BGP.
func conversation(ctx context.Context, recorded func(context.Context, func(lab.Packet) bool) ([]lab.Packet, error)) (all []said, err error) {
	packets, err := recorded(ctx, func(p lab.Packet) bool { return len(p.BGP) > 0 })
	for _, p := range packets {
		for _, m := range p.BGP {
			all = append(all, said{p, m})
		}
	}
	return all, err
}

// hears waits for a message.
func hears(ctx context.Context, within time.Duration, recorded func(context.Context, func(lab.Packet) bool) ([]lab.Packet, error), f func(said) bool) (m *said, err error) {
	_, err = eventually(ctx, within, func() (bool, error) {
		all, err := conversation(ctx, recorded)
		if i := slices.IndexFunc(all, f); i >= 0 {
			m = &all[i]
		}
		return m != nil, err
	})
	return m, err
}

// guest is a container of the second host that specs attach to the first, which has to announce it alone.
func guest(b *Bench, n int) (topology.Container, error) {
	return another(b, secondHost(b), network(b), n)
}

// alone is a container's address as a route to nothing else.
func alone(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// guestAddrs are those by which it is reached.
func guestAddrs(b *Bench, c topology.Container) (out []netip.Prefix) {
	for _, p := range b.mode.Addrs(b.plan, b.plan.Machine(firstHost(b)), c) {
		out = append(out, alone(p.Addr()))
	}
	return out
}

// routesTo are the router's routes to a prefix.
func routesTo(ctx context.Context, b *Bench, tor string, p netip.Prefix) (out []lab.Route, err error) {
	s, err := b.State(ctx, tor)
	for _, r := range s.Spaces[""].Routes {
		if r.Dst == p {
			out = append(out, r)
		}
	}
	return out, err
}

// Sabotages that several specs have in common. The modes that speak BGP are the same to these specs.
const speaks = "ipvlan-l3"

// muted loses what a mode's first host sends to its router, where all sessions are established.
func muted(mode string) Sabotage {
	return Sabotage{Mode: mode, Doc: "what the first host sends to its router is lost", Before: converged, Steps: mute}
}

// mute has the first host send all that is for its router by IPv4 to a station that does not exist.
func mute(p *topology.Plan) []topology.Step {
	h := p.Hosts()[0]
	nic := h.NIC(p.Networks[0].NIC)
	return []topology.Step{{On: h.Name, Neigh: &topology.Neigh{
		Link: nic.Name, IP: p.Machine(nic.Peer.Machine).NIC(nic.Peer.Interface).V4.Addr(), MAC: net.HardwareAddr{0x02, 0x5e, 0x10, 0, 0, 5},
	}}}
}

// silent leaves out what attaching announces.
func silent(steps []topology.Step) []topology.Step {
	return slices.DeleteFunc(slices.Clone(steps), func(s topology.Step) bool { return s.Announce != nil })
}

// spoken changes the speakers that the mode makes.
func spoken(change func(*topology.BGP)) func([]topology.Step) []topology.Step {
	return func(steps []topology.Step) []topology.Step {
		steps = slices.Clone(steps)
		for i, s := range steps {
			if s.BGP != nil {
				c := *s.BGP
				c.Peers = slices.Clone(c.Peers)
				change(&c)
				steps[i].BGP = &c
			}
		}
		return steps
	}
}

var _ = register(Spec{
	Suite:   "routing",
	Feature: Feature{Name: "bgp-session", Group: "routing", Doc: "Does each host keep a session of BGP with its router over each link, by TCP port 179 and with a TTL of one?"},
	Name:    "a host announces one more address, and the packets of the session are read at the router",
	Run: speaking(func(ctx context.Context, b *Bench) (Observation, error) {
		c, err := guest(b, 1)
		if err != nil {
			return Observation{}, err
		}
		recorded, err := b.Record(ctx)
		if err != nil {
			return Observation{}, err
		}
		s, prefix := sessionOf(b, firstHost(b)), guestAddrs(b, c)[0]
		if err := b.Apply(ctx, topology.Step{On: s.host, Announce: &topology.Announcement{Prefix: prefix}}); err != nil {
			return Observation{}, err
		}
		m, err := hears(ctx, patience, recorded, func(m said) bool { return m.toRouter(s) && slices.Contains(m.Announced, prefix) })
		if err != nil {
			return Observation{}, err
		}
		if m == nil {
			return blocked("the sessions are established, but an announcement of %s did not reach %s within %s", s.host, s.tor, patience), nil
		}
		packets, err := recorded(ctx, func(p lab.Packet) bool {
			return p.Machine == s.tor && p.Device == s.port.Name && p.Proto == "tcp" && (p.Src.Addr() == s.own(IPv4) || p.Dst.Addr() == s.own(IPv4)) &&
				(p.Src.Port() == 179 || p.Dst.Port() == 179)
		})
		if err != nil {
			return Observation{}, err
		}
		o := works("%d sessions are established, each over the one link between a host and its router, by TCP port 179 and with a TTL of one", len(sessions(b))).
			value("count", float64(len(sessions(b))))
		for _, p := range packets {
			if len(o.Evidence) < 8 {
				o.Evidence = append(o.Evidence, seen(p))
			}
			if p.IP.TTL != 1 {
				o.Status, o.Detail = reports.Blocked, fmt.Sprintf("a packet of the session has a TTL of %d: %s", p.IP.TTL, p.Text)
			}
		}
		return o, nil
	}),
	Sabotage: []Sabotage{muted(speaks)},
})

// capabilities that a speaker has to offer: multiprotocol (RFC 4760), route refresh (RFC 2918), 4-octet AS (RFC 6793),
// graceful restart (RFC 4724).
var capabilities = []int{1, 2, 64, 65}

const asTrans = 23456 // RFC 6793 section 9

// reopened resets a host's session and gives the OPENs of both ends.
func reopened(ctx context.Context, b *Bench, s session) (host, tor *said, err error) {
	recorded, err := b.Record(ctx)
	if err != nil {
		return nil, nil, err
	}
	b.atEnd(func(ctx context.Context) error { return converged(ctx, b) })
	if err := b.Do(ctx, s.tor, "BGP.Reset", s.own(IPv4), &lab.Nothing{}); err != nil {
		return nil, nil, err
	}
	if host, err = hears(ctx, convergence, recorded, func(m said) bool { return m.Kind == "open" && m.toRouter(s) }); err != nil || host == nil {
		return nil, nil, err
	}
	tor, err = hears(ctx, patience, recorded, func(m said) bool { return m.Kind == "open" && m.toHost(s) })
	return host, tor, err
}

var _ = register(Spec{
	Suite: "routing",
	Feature: Feature{
		Name: "bgp-open", Group: "routing",
		Doc: "Do the OPEN messages of hosts and routers name version 4, their systems, identifiers and hold times, and offer both families, 4-octet systems, route refresh and graceful restart?",
	},
	Name: "the router resets a host's session, and the OPEN messages of both are read on the wire",
	Run: speaking(func(ctx context.Context, b *Bench) (Observation, error) {
		s := sessionOf(b, firstHost(b))
		host, tor, err := reopened(ctx, b, s)
		if err != nil {
			return Observation{}, err
		}
		if host == nil || tor == nil {
			return blocked("after a reset no OPEN of both ends was seen for %s", s), nil
		}
		var wrong []string
		o := Observation{}
		for _, end := range []struct {
			name string
			as   uint32
			*said
		}{{s.host, b.plan.Machine(s.host).AS, host}, {s.tor, b.plan.Machine(s.tor).AS, tor}} {
			m := end.BGPMessage
			o.Evidence = append(o.Evidence, seen(end.Packet))
			as := end.as
			if as > 0xffff {
				as = asTrans
			}
			for _, check := range []struct {
				ok   bool
				what string
			}{
				{m.Version == 4, fmt.Sprintf("version %d", m.Version)},
				{m.AS == as && m.AS4 == end.as, fmt.Sprintf("system %d, of 4 octets %d, where it is %d", m.AS, m.AS4, end.as)},
				{m.Hold == 0 || m.Hold >= 3*time.Second, fmt.Sprintf("hold time %s", m.Hold)},
				{m.ID.Is4() && !m.ID.IsUnspecified(), fmt.Sprintf("identifier %s", m.ID)},
			} {
				if !check.ok {
					wrong = append(wrong, end.name+": "+check.what)
				}
			}
			for _, c := range capabilities {
				if !slices.Contains(m.Capabilities, c) {
					wrong = append(wrong, fmt.Sprintf("%s does not offer capability %d", end.name, c))
				}
			}
		}
		ids := map[netip.Addr]string{tor.ID: s.tor}
		for _, h := range b.plan.Hosts() {
			id := speaker(b, h.Name).ID
			if h.Name == s.host {
				id = host.ID
			}
			if other, taken := ids[id]; taken {
				wrong = append(wrong, fmt.Sprintf("%s and %s have the identifier %s", h.Name, other, id))
			}
			ids[id] = h.Name
		}
		seen := whether(len(wrong) == 0, "OPENs of %s: system %d, identifier %s, hold time %s, capabilities %v; and %d, %s, %s, %v; not as it should be: %s", s,
			host.AS4, host.ID, host.Hold, host.Capabilities, tor.AS4, tor.ID, tor.Hold, tor.Capabilities, orNone(wrong))
		seen.Evidence = o.Evidence
		return seen, nil
	}),
	Sabotage: []Sabotage{
		{Mode: speaks, Doc: "all hosts have one identifier", Setup: spoken(func(c *topology.BGP) { c.ID = netip.MustParseAddr("192.0.2.1") })},
		{Mode: speaks, Doc: "graceful restart is not offered", Setup: spoken(func(c *topology.BGP) { c.Restart = 0 })},
	},
})

var _ = register(Spec{
	Suite:   "routing",
	Feature: Feature{Name: "bgp-keepalive", Group: "routing", Doc: "Do both ends of a session send KEEPALIVE messages at least three times in a hold time?"},
	Name:    "the router's recording of a session is read until each end has sent one more KEEPALIVE",
	Run: speaking(func(ctx context.Context, b *Bench) (Observation, error) {
		s := sessionOf(b, firstHost(b))
		state, err := bgpState(ctx, b, s.tor)
		if err != nil {
			return Observation{}, err
		}
		i := slices.IndexFunc(state.Peers, func(p lab.BGPPeer) bool { return p.Addr == s.own(IPv4) })
		hold := state.Peers[i].Hold
		recorded, err := b.Record(ctx)
		if err != nil {
			return Observation{}, err
		}
		ways := []func(said) bool{
			func(m said) bool { return m.Kind == "keepalive" && m.toRouter(s) },
			func(m said) bool { return m.Kind == "keepalive" && m.toHost(s) },
		}
		var all []said
		gaps := make([]time.Duration, len(ways))
		if _, err := eventually(ctx, 2*hold, func() (bool, error) {
			if all, err = conversation(ctx, recorded); err != nil {
				return false, err
			}
			done := true
			for i, mine := range ways {
				var last time.Time
				for _, m := range all {
					if !mine(m) {
						continue
					}
					// The shortest: a machine that is busy sends one late, and so the next one sooner after it.
					if gap := m.When.Sub(last); !last.IsZero() && (gaps[i] == 0 || gap < gaps[i]) {
						gaps[i] = gap
					}
					last = m.When
				}
				done = done && gaps[i] > 0 && gaps[i] < hold/2
			}
			return done, nil
		}); err != nil {
			return Observation{}, err
		}
		o := Observation{Detail: fmt.Sprintf("%s agreed on a hold time of %s: KEEPALIVEs came %.3f s apart from the host and %.3f s from the router", s, hold, gaps[0].Seconds(), gaps[1].Seconds())}
		o.Status = whether(min(gaps[0], gaps[1]) > 0 && max(gaps[0], gaps[1]) < hold/2, "").Status
		for _, m := range all {
			if m.Kind == "keepalive" && len(o.Evidence) < 6 && (ways[0](m) || ways[1](m)) {
				o.Evidence = append(o.Evidence, seen(m.Packet))
			}
		}
		return o.value("gap-sec", max(gaps[0], gaps[1]).Seconds()), nil
	}),
	Sabotage: []Sabotage{muted(speaks)},
})

var _ = registerFamilies(func(f Family) Spec {
	attribute := map[Family][]int{IPv4: {1, 2, 3}, IPv6: {1, 2, 14}}[f] // ORIGIN, AS_PATH, NEXT_HOP or MP_REACH_NLRI
	return Spec{
		Suite: "routing",
		Feature: Feature{
			Name: "bgp-update", Group: "routing",
			Doc: "When a container of another host is attached, does the host announce its address with its own system as the path and itself as the next hop, and the router to the other host with both systems and the router?",
		},
		Name: "a container that is planned on the second host is attached to the first, and the UPDATE messages of the host and of the router are read",
		Run: speaking(func(ctx context.Context, b *Bench) (Observation, error) {
			c, err := guest(b, 1)
			if err != nil {
				return Observation{}, err
			}
			recorded, err := b.Record(ctx)
			if err != nil {
				return Observation{}, err
			}
			if _, err := b.Attach(ctx, c, firstHost(b)); err != nil {
				return Observation{}, err
			}
			prefix := guestAddrs(b, c)[map[Family]int{IPv4: 0, IPv6: 1}[f]]
			in, out := sessionOf(b, firstHost(b)), sessionOf(b, secondHost(b))
			told, err := hears(ctx, patience, recorded, func(m said) bool { return m.toRouter(in) && slices.Contains(m.Announced, prefix) })
			if err != nil {
				return Observation{}, err
			}
			if told == nil {
				return blocked("%s was attached to %s: no UPDATE for %s came to %s within %s", c.ID(), in.host, prefix, in.tor, patience), nil
			}
			passed, err := hears(ctx, patience, recorded, func(m said) bool { return m.toHost(out) && slices.Contains(m.Announced, prefix) })
			if err != nil {
				return Observation{}, err
			}
			if passed == nil {
				return blocked("%s announced %s to %s, which did not announce it to %s within %s", in.host, prefix, in.tor, out.host, patience).
					with(at(told.Packet), "%s", told.Text), nil
			}
			host, tor := b.plan.Machine(in.host).AS, b.plan.Machine(in.tor).AS
			var wrong []string
			for _, u := range []struct {
				*said
				path []uint32
				hop  netip.Addr
			}{{told, []uint32{host}, in.own(f)}, {passed, []uint32{tor, host}, out.router(f)}} {
				if !slices.Equal(u.Path, u.path) || u.NextHop != u.hop {
					wrong = append(wrong, fmt.Sprintf("path %v and next hop %s, not %v and %s", u.Path, u.NextHop, u.path, u.hop))
				}
				if u.LinkLocal.IsValid() && !u.LinkLocal.IsLinkLocalUnicast() {
					wrong = append(wrong, fmt.Sprintf("second next hop %s", u.LinkLocal))
				}
				if slices.Contains(u.Attributes, 5) {
					wrong = append(wrong, "LOCAL_PREF between systems")
				}
				for _, a := range attribute {
					if !slices.Contains(u.Attributes, a) {
						wrong = append(wrong, fmt.Sprintf("no attribute of type %d", a))
					}
				}
			}
			o := whether(len(wrong) == 0, "%s was attached to %s, which announced %s with path %v and next hop %s; %s announced it to %s with path %v and next hop %s; not as it should be: %s",
				c.ID(), in.host, prefix, told.Path, told.NextHop, in.tor, out.host, passed.Path, passed.NextHop, orNone(wrong)).
				value("relay-sec", passed.When.Sub(told.When).Seconds())
			o.Evidence = []reports.Evidence{seen(told.Packet), seen(passed.Packet)}
			return o, nil
		}),
		Sabotage: []Sabotage{{Mode: speaks, Doc: "the host announces no container alone", Rewire: ofSpares(silent)}},
	}
})

var _ = register(Spec{
	Suite: "routing",
	Feature: Feature{
		Name: "bgp-routes", Group: "routing",
		Doc: "Has the router one route for all containers of a host and network, of each family, which it learned from the host?",
	},
	Name: "the router's routing table is read and compared with the blocks of the hosts that have containers",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		if o := speechless(b); o != nil {
			return *o, nil
		}
		want := blocks(b)
		tor := want[0].tor
		var learned []lab.Route
		var missing []string
		_, err := eventually(ctx, convergence, func() (bool, error) {
			s, err := b.State(ctx, tor)
			learned, missing = nil, nil
			for _, r := range s.Spaces[""].Routes {
				if strings.Contains(r.Text, "proto bgp") {
					learned = append(learned, r)
				}
			}
			for _, a := range want {
				if !a.installed(learned) {
					missing = append(missing, a.Prefix.String()+" by "+a.host)
				}
			}
			return len(missing) == 0, err
		})
		if err != nil {
			return Observation{}, err
		}
		containers := 0
		for _, h := range b.plan.Hosts() {
			for _, n := range b.plan.Networks {
				containers += len(b.Containers(h.Name, n.Name))
			}
		}
		o := whether(len(missing) == 0 && len(learned) == len(want), "%s learned %d routes to %d containers; wanted are %d, and missing %s", tor, len(learned), containers, len(want), orNone(missing)).
			value("count", float64(len(learned)))
		if len(missing) > 0 && len(missing) < len(want) {
			o.Status = "mixed"
		}
		for _, r := range learned {
			o = o.with(tor, "%s", r.Text)
		}
		return o, nil
	},
	Sabotage: []Sabotage{{Mode: speaks, Doc: "nothing is announced", Rewire: silent}},
})
