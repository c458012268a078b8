package suites

import (
	"bytes"
	"context"
	"errors"
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

// allStations is the broadcast address of Ethernet.
var allStations = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// leasing is a DHCP server on the segment of the first host's uplink, and containers of that host that are its clients.
type leasing struct {
	b      *Bench
	f      Family
	host   string
	at     Place // of the server
	server topology.DHCPServer
	named  int // clients so far
}

// leases starts a server that has so many addresses, until the spec ends, and makes room for a container.
func leases(ctx context.Context, b *Bench, f Family, size int, lease time.Duration) (*leasing, error) {
	const far = 30 // from the containers that specs attach otherwise
	l := &leasing{b: b, f: f, host: firstHost(b), at: station(b)}
	if _, err := another(b, l.host, network(b), far+size); err != nil {
		return nil, err
	}
	first, last := segmentOf(spareOf(b.plan, l.host, far+1), f), segmentOf(spareOf(b.plan, l.host, far+size), f)
	nic := wire(b, l.at)
	l.server = topology.DHCPServer{
		Link: nic.Name, Addr: either(f, nic.V4, nic.V6).Addr(), Lease: lease,
		Range: topology.Range{Subnet: first.Masked(), First: first.Addr(), Last: last.Addr()},
	}
	b.atEnd(l.end)
	if err := l.begin(ctx); err != nil {
		return nil, err
	}
	return l, room(ctx, b, l.host, network(b))
}

// serverOwner owns the step of a server, which may end before the spec does.
const serverOwner = specOwner + " DHCP server"

func (l *leasing) begin(ctx context.Context) error {
	return l.b.lab.Apply(ctx, serverOwner, []topology.Step{{On: l.at.Machine, DHCPServer: &l.server}})
}

func (l *leasing) end(ctx context.Context) error { return l.b.lab.Undo(ctx, serverOwner) }

// registerLeases adds a spec of leases for each family: dhcp-NAME, and dhcpv6-NAME of RFC 8415.
func registerLeases(of func(Family) Spec) bool {
	for _, f := range []Family{IPv4, IPv6} {
		s := of(f)
		s.Feature.Name = either(f, "dhcp-", "dhcpv6-") + s.Feature.Name
		register(s)
	}
	return true
}

// either is what is of IPv4, or else what is of IPv6.
func either[T any](f Family, four, six T) T {
	if f == IPv4 {
		return four
	}
	return six
}

// segmentOf is the container's address on the segment.
func segmentOf(c topology.Container, f Family) netip.Prefix {
	return either(f, c.Segment4, c.Segment6)
}

// unstationed says why a question about leases makes no sense where containers are no stations of the segment on which a server would
// be; nil where they are.
func unstationed(b *Bench) *Observation {
	if o := unmanaged(b); o != nil {
		return o
	}
	if c := spareOf(b.plan, firstHost(b), 1); b.mode.Addrs(b.plan, b.plan.Machine(firstHost(b)), c)[0] != c.Segment4 {
		o := notApplicable("containers are no stations of the segment, and get no lease there")
		return &o
	}
	return nil
}

// client is a container that has, or wants, a lease.
type client struct {
	Place
	id   []byte // by which the server knows it, of a name as CNI's plugin makes it (plugins/ipam/dhcp/lease.go)
	addr netip.Addr
}

// shortly is how long a client tries for a lease that it will not get.
const shortly = 500 * time.Millisecond

// attach attaches a container that has no address of the family but what it is leased, and of IPv6 what it makes itself. Without a lease it is not attached, and refusal says why.
func (l *leasing) attach(ctx context.Context, broadcast bool, within time.Duration) (who client, refusal error, err error) {
	l.named++
	b, c := l.b, spareOf(l.b.plan, l.host, l.named)
	device := b.mode.Device
	asks := topology.DHCP{
		Link: device, Six: l.f == IPv6, ClientID: strings.Join([]string{c.ID(), c.Network, device}, "/"), Broadcast: broadcast && l.f == IPv4, Within: within,
	}
	if who.id = asks.DUID(); l.f == IPv4 {
		who.id = append([]byte{0}, asks.ClientID...) // of no hardware's type (RFC 2132 section 9.14)
	}
	step := topology.Step{On: l.host, In: c.Name, DHCP: &asks}
	who.Place, err = b.attachAs(ctx, c, l.host, func(steps []topology.Step) []topology.Step {
		unnumbered := slices.DeleteFunc(slices.Clone(steps), func(s topology.Step) bool {
			return s.In == c.Name && numbers(s, l.f)
		})
		return append(unnumbered, step)
	})
	if refused(err) {
		return who, err, nil
	} else if err != nil {
		return who, nil, err
	}
	b.atEnd(func(ctx context.Context) error { return b.Detach(ctx, who.Place) })
	if who.addr, err = l.addrOf(ctx, who.Place, device); err != nil {
		return who, nil, err
	}
	if !who.addr.IsValid() {
		return who, nil, fmt.Errorf("%s was attached, and has no address", who)
	}
	return who, nil, b.settled(ctx, l.host)
}

// addrOf is the address of the server's subnet that a container's device has; invalid: it has none.
func (l *leasing) addrOf(ctx context.Context, p Place, device string) (has netip.Addr, err error) {
	s, err := l.b.devices(ctx, p.Machine)
	for _, a := range s.Spaces[p.Container].Addrs {
		if a.Link == device && l.server.Range.Subnet.Contains(a.Prefix.Addr()) {
			has = a.Prefix.Addr()
		}
	}
	return has, err
}

func (l *leasing) state(ctx context.Context) (s lab.DHCPState, err error) {
	err = l.b.Do(ctx, l.at.Machine, "DHCP.State", lab.Nothing{}, &s)
	return s, err
}

// control shows that the server answers the host, which has an address and asks for none. A cloud drops what is for a group, as questions of IPv6
// are: there the server has to run, and its machine to answer the host.
func (l *leasing) control(ctx context.Context) (reports.Evidence, error) {
	dead := func(err error) error {
		return fmt.Errorf("no control is alive: nothing can be concluded from silence: %s: %w", l.host, err)
	}
	if l.f == IPv6 && l.b.plan.Topology.Fabric == topology.VPC {
		s, err := l.state(ctx)
		if err == nil && !s.Running {
			err = dead(fmt.Errorf("there is no server on %s", l.at))
		}
		if err != nil {
			return reports.Evidence{}, err
		}
		alive, err := control(ctx, l.b, Place{Machine: l.host}, l.at, l.server.Addr)
		if err != nil {
			return reports.Evidence{}, err
		}
		return alive[0], nil
	}
	var took time.Duration
	nic := uplink(l.b)
	err := l.b.Do(ctx, l.host, "DHCP.Inform", lab.Inform{Device: nic.Name, From: nic.V4.Addr(), Server: l.server.Addr}, &took) // of IPv6: from the link-local address
	if err != nil {
		return reports.Evidence{}, dead(err)
	}
	return reports.Evidence{At: l.host, Saw: fmt.Sprintf("control: %s, at %s, answered a question for parameters after %s", l.at, l.server.Addr, took.Round(time.Microsecond))}, nil
}

// of are a client's messages and their answers, which repeat its identifier (RFC 6842).
func (c client) of(p lab.Packet) bool {
	d := carriedIn(p).DHCP
	return d != nil && bytes.Equal(d.ClientID, c.id)
}

// here tells whether a packet is at the client's own device, on its way in or out.
func (c client) here(p lab.Packet, outgoing bool) bool {
	return p.Machine == c.Machine && p.In == c.Container && p.Outgoing == outgoing
}

// lease has a container get a lease and shows that it is reached by it, or where its question, or the answer, was last seen.
func lease(ctx context.Context, b *Bench, f Family, broadcast bool) (Observation, error) {
	l, err := leases(ctx, b, f, 4, time.Minute)
	if err != nil {
		return Observation{}, err
	}
	recorded, err := b.Record(ctx)
	if err != nil {
		return Observation{}, err
	}
	var who client
	var refusal error
	var alive reports.Evidence
	var packets []lab.Packet
	// Once more with time where the first try does not decide: nothing was sent yet, the server still has the question, or all are slow.
	for _, within := range []time.Duration{shortly, 4 * shortly, 20 * shortly} {
		if who, refusal, err = l.attach(ctx, broadcast, within); err != nil {
			return Observation{}, err
		}
		if refusal == nil {
			return l.reached(ctx, who)
		}
		began := time.Now()
		if alive, err = l.control(ctx); err != nil {
			return Observation{}, err
		}
		took := time.Since(began)
		if packets, err = recorded(ctx, who.of); err != nil {
			return Observation{}, err
		}
		reply := func(p lab.Packet) bool { return carriedIn(p).DHCP.Reply }
		first := slices.IndexFunc(packets, func(p lab.Packet) bool { return who.here(p, true) })
		sent := first >= 0
		there := slices.ContainsFunc(packets, func(p lab.Packet) bool { return p.Machine == l.at.Machine && p.Inner == nil }) // a tunnel's packet is not the server's
		// A broadcast of answers may wait for a worker of the kernel; answers to one station do not. One that left late found the client gone.
		answered := sent && (f == IPv6 || !broadcast) && slices.ContainsFunc(packets, func(p lab.Packet) bool {
			return p.Machine == l.at.Machine && reply(p) && p.When.Sub(packets[first].When) < within/2
		})
		came := slices.ContainsFunc(packets, func(p lab.Packet) bool { return who.here(p, false) && reply(p) })
		if (sent && (!there || answered && !came) || noRoom(refusal)) && 2*took < within {
			break
		}
	}
	if len(packets) == 0 {
		if !noRoom(refusal) { // its own device dropped what it sent (net_xmit_errno of the kernel)
			return Observation{}, fmt.Errorf("%s sent nothing: %w", who, refusal)
		}
		o := blocked("%s asked for a lease: its own device dropped the question as it was sent", who).with(l.host, "%v", refusal)
		o.Evidence = append(o.Evidence, alive)
		return o, nil
	}
	// An answer went further than the question did.
	last := packets[0]
	for _, p := range packets {
		if d := carriedIn(p).DHCP; d.Reply || !carriedIn(last).DHCP.Reply {
			last = p
		}
	}
	how := fmt.Sprintf(", by broadcast of answers: %t", broadcast)
	if f == IPv6 {
		how = ""
	}
	o := blocked("%s asked for a lease%s; it got none; last seen at %s (%s)", who, how, at(last), last.Text)
	for _, p := range packets {
		if e := seen(p); !slices.Contains(o.Evidence, e) && len(o.Evidence) < 16 {
			o.Evidence = append(o.Evidence, e)
		}
	}
	o.Evidence = append(o.Evidence, alive)
	return o.with(l.host, "%v", refusal), nil
}

// leased is an experiment on a container with a lease of a server that has so many addresses, where containers are stations of the segment.
// What was recorded since before it asked can be had.
func leased(f Family, size int, lease time.Duration, run func(ctx context.Context, l *leasing, who client, recorded recording) (Observation, error)) func(context.Context, *Bench) (Observation, error) {
	return func(ctx context.Context, b *Bench) (Observation, error) {
		if o := unstationed(b); o != nil {
			return *o, nil
		}
		l, err := leases(ctx, b, f, size, lease)
		if err != nil {
			return Observation{}, err
		}
		recorded, err := b.Record(ctx)
		if err != nil {
			return Observation{}, err
		}
		who, refusal, err := l.attach(ctx, true, patience)
		if err != nil {
			return Observation{}, err
		}
		if refusal != nil {
			return Observation{Status: "mixed", Detail: fmt.Sprintf("%s got no lease: %v", who, refusal)}, nil
		}
		return run(ctx, l, who, recorded)
	}
}

// recording is what Bench.Record returns.
type recording = func(context.Context, func(lab.Packet) bool) ([]lab.Packet, error)

// reached observes whether an external machine reaches a client at the address that it was leased.
func (l *leasing) reached(ctx context.Context, who client) (Observation, error) {
	if l.f == IPv6 {
		if err := l.advertise(ctx, who); err != nil {
			return Observation{}, err
		}
	}
	port, err := serve(ctx, l.b, who.Place, unspecified(l.f))
	if err != nil {
		return Observation{}, err
	}
	t, err := try(ctx, l.b, external(l.b), who.Place, netip.AddrPortFrom(who.addr, port), protos...)
	o := t.observation()
	o.Detail = fmt.Sprintf("%s was leased %s by %s; %s", who, who.addr, l.at, o.Detail)
	return o, err
}

// advertise has the server's machine tell a client what is on the link, and that addresses there are had by DHCP, as a router does (RFC 4861
// section 4.2): a lease of IPv6 is an address and nothing else. It waits until the client knows.
func (l *leasing) advertise(ctx context.Context, who client) error {
	device, prefix := l.b.mode.Device, l.server.Range.Subnet
	for _, s := range accepting(device) {
		s.On, s.In = who.Machine, who.Container
		if err := l.b.Apply(ctx, s); err != nil {
			return err
		}
	}
	if err := l.b.Send(ctx, l.at, l.server.Link, lab.Packet{
		EthDst: net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1}, Src: netip.MustParseAddrPort("[fe80::5aac]:0"), Dst: netip.MustParseAddrPort("[ff02::1]:0"),
		NDP: &lab.NDP{Kind: "ra", Prefix: prefix, Managed: true},
	}); err != nil {
		return err
	}
	_, err := eventually(ctx, patience, func() (bool, error) {
		s, err := l.b.State(ctx, who.Machine)
		return slices.ContainsFunc(s.Spaces[who.Container].Routes, func(r lab.Route) bool { return r.Dst == prefix && r.Link == device }), err
	})
	return err
}

// accepting has a device form addresses and routes of what is advertised by one that is no router.
func accepting(device string) (steps []topology.Step) {
	for _, s := range []struct{ key, value string }{{"accept_ra_defrtr", "0"}, {"accept_ra", "1"}} {
		steps = append(steps, topology.Step{Sysctl: &topology.Sysctl{Key: "net/ipv6/conf/" + device + "/" + s.key, Value: s.value}})
	}
	return steps
}

// unheard drops what a server gets that is for it alone, from clients that have an address; unserved all that is for servers.
func unheard(p *topology.Plan) []topology.Step {
	x := p.Externals()[0]
	return []topology.Step{dropping(topology.Step{On: x.Name}, "input", destined(x.NICs[0].V4.Addr()), topology.Match{Field: "udp dport", Value: "67"})}
}

func unserved(p *topology.Plan) []topology.Step {
	return []topology.Step{dropping(topology.Step{On: p.Externals()[0].Name}, "input", topology.Match{Field: "udp dport", Value: "67"}, topology.Match{Field: "ip saddr", Value: "0.0.0.0"})}
}

// dhcpv6Kinds are types of messages (RFC 8415 section 7.3).
var dhcpv6Kinds = map[string]string{"solicit": "1", "renew": "5", "release": "8"}

// ignored drops messages of kinds of RFC 8415 before the server gets them.
func ignored(kinds ...string) func(*topology.Plan) []topology.Step {
	return func(p *topology.Plan) []topology.Step {
		s := topology.Step{On: p.Externals()[0].Name, Table: &topology.Table{Family: "inet", Name: "sabotage", Chains: []topology.Chain{{Name: "input", Type: "filter", Hook: "input"}}}}
		chain := &s.Table.Chains[0]
		for _, k := range kinds {
			chain.Rules = append(chain.Rules, topology.Rule{
				Match:   []topology.Match{{Field: "udp dport", Value: "547"}, {Field: "@th,64,8", Value: dhcpv6Kinds[k]}},
				Verdict: topology.Verdict{Kind: "drop"},
			})
		}
		return []topology.Step{s}
	}
}

// clients changes the clients that attaching makes.
func clients(change func(*topology.DHCP)) func([]topology.Step) []topology.Step {
	return func(steps []topology.Step) []topology.Step {
		steps = slices.Clone(steps)
		for i, s := range steps {
			if s.DHCP != nil {
				d := *s.DHCP
				change(&d)
				steps[i].DHCP = &d
			}
		}
		return steps
	}
}

var _ = registerLeases(func(f Family) Spec {
	return Spec{
		Suite: "conformance",
		Feature: Feature{
			Name: "lease", Group: "addresses",
			Doc: either(f,
				"Does a container get its IPv4 address from a DHCP server on the segment, if it asks for answers by broadcast, and is it reached at that address?",
				"Does a container get an IPv6 address from a DHCP server on the segment (RFC 8415), and is it reached at that address?"),
		},
		Name: "a container is attached whose address a server on the segment of the host's interface is to lease, and an external machine asks it there",
		Run: func(ctx context.Context, b *Bench) (Observation, error) {
			if o := unmanaged(b); o != nil {
				return *o, nil
			}
			return lease(ctx, b, f, true)
		},
		Sabotage: either(f, []Sabotage{
			{Mode: "macvlan-bridge", Doc: "the server hears nobody without an address", Steps: unserved},
			{Mode: "bridge", Doc: "the host's interface is a port of the bridge", Steps: bridged(0)},
			{Mode: "ipvlan-l2", Doc: "clients want answers for themselves alone", Rewire: clients(func(d *topology.DHCP) { d.Broadcast = false })},
		}, []Sabotage{
			{Mode: "macvlan-bridge", Doc: "the server hears nobody who wants an address", Steps: ignored("solicit")},
			{Mode: "bridge", Doc: "the host's interface is a port of the bridge", Steps: bridged(0)},
			{Mode: "ipvlan-l2", Doc: "the devices are of mode l3", Rewire: parentMode("l3")},
		}),
	}
})

var _ = register(Spec{
	Suite: "conformance",
	Feature: Feature{
		Name: "dhcp-unicast", Group: "addresses",
		Doc: "Does a container get a lease without asking for answers by broadcast (RFC 2131 section 4.1)?",
	},
	Name: "a container is attached that wants a lease, with the flag BROADCAST clear",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		if o := unstationed(b); o != nil {
			return *o, nil
		}
		return lease(ctx, b, IPv4, false)
	},
	Sabotage: []Sabotage{
		{Mode: "macvlan-bridge", Doc: "the server hears nobody without an address", Steps: unserved},
		{Mode: "ipvlan-l2", Doc: "clients want answers by broadcast", Rewire: clients(func(d *topology.DHCP) { d.Broadcast = true })},
	},
})

var _ = registerLeases(func(f Family) Spec {
	return Spec{
		Suite: "conformance",
		Feature: Feature{
			Name: "two-clients", Group: "addresses",
			Doc: "Do two containers of one host get two leases, told apart by their client identifiers?",
		},
		Name: "two containers of one host are attached that want leases",
		Run: leased(f, 4, time.Minute, func(ctx context.Context, l *leasing, first client, _ recording) (Observation, error) {
			if l.b.mode.Limit == 1 {
				return oneContainer(), nil
			}
			second, refusal, err := l.attach(ctx, true, 4*shortly)
			if err != nil {
				return Observation{}, err
			}
			if refusal != nil {
				return Observation{Status: "mixed", Detail: fmt.Sprintf("%s got no lease beside the first: %v", second, refusal)}, nil
			}
			s, err := l.state(ctx)
			if err != nil {
				return Observation{}, err
			}
			var wrong []string
			var o Observation
			macs := map[string]bool{}
			st, err := l.b.devices(ctx, l.host)
			if err != nil {
				return Observation{}, err
			}
			for _, who := range []client{first, second} {
				link, err := linkWith(st.Spaces[who.Container], who.addr)
				if err != nil {
					return Observation{}, err
				}
				macs[link.MAC.String()] = true
				o = o.with(who.String(), "has %s on %s with %s", who.addr, link.Name, link.MAC)
			}
			if len(s.Leases) != 2 {
				wrong = append(wrong, fmt.Sprintf("the server has %d leases", len(s.Leases)))
			}
			for i, lease := range s.Leases {
				o = o.with(l.at.String(), "leased %s to client %q", lease.Addr, lease.ClientID)
				if i > 0 && bytes.Equal(lease.ClientID, s.Leases[i-1].ClientID) {
					wrong = append(wrong, fmt.Sprintf("both are client %q", lease.ClientID))
				}
			}
			return summed(wrong, o.Evidence, "two containers of %s got %d leases with %d client identifiers, and %d hardware addresses", l.host, len(s.Leases), len(s.Leases), len(macs)), nil
		}),
		Sabotage: []Sabotage{
			{Mode: "macvlan-bridge", Doc: "the server has lost its clients' messages", Steps: either(f, unserved, ignored("solicit"))},
			{Mode: "ipvlan-l2", Doc: "clients name themselves by their hardware address", Rewire: clients(func(d *topology.DHCP) { d.ClientID = "the host's" })},
		},
	}
})

var _ = register(Spec{
	Suite: "packets",
	Feature: Feature{
		Name: "dhcp-exchange", Group: "packets",
		Doc: "Are the four messages by which a container gets a lease as RFC 2131 has them: transaction, hardware address, client identifier, what is asked for and offered, and to whom they go?",
	},
	Name: "a container is attached that wants a lease, and each field of DISCOVER, OFFER, REQUEST and ACK is read at its device",
	Run: leased(IPv4, 4, time.Minute, func(ctx context.Context, l *leasing, who client, recorded recording) (Observation, error) {
		s, err := l.b.devices(ctx, who.Machine)
		if err != nil {
			return Observation{}, err
		}
		link, err := linkWith(s.Spaces[who.Container], who.addr)
		if err != nil {
			return Observation{}, err
		}
		packets, err := recorded(ctx, func(p lab.Packet) bool { return p.DHCP != nil && who.here(p, !p.DHCP.Reply) })
		if err == nil && len(packets) == 0 {
			err = fmt.Errorf("%s has %s, and no message of its was recorded", who, who.addr)
		}
		if err != nil {
			return Observation{}, err
		}
		var wrong, kinds []string
		var evidence []reports.Evidence
		xid := packets[0].DHCP.XID
		for _, p := range packets {
			d := p.DHCP
			kinds = append(kinds, d.Kind)
			evidence = append(evidence, seen(p))
			check := func(ok bool, format string, args ...any) {
				if !ok {
					wrong = append(wrong, d.Kind+": "+fmt.Sprintf(format, args...))
				}
			}
			check(d.XID == xid, "transaction %08x, after %08x", d.XID, xid)
			check(bytes.Equal(d.MAC, link.MAC), "hardware address %s of a device that has %s", d.MAC, link.MAC)
			check(bytes.Equal(d.ClientID, who.id), "client identifier %q", d.ClientID)
			check(d.Broadcast, "the flag BROADCAST is clear")
			check(!d.Client.IsValid(), "from client address %s", d.Client)
			check(p.Dst.Addr() == everybody && bytes.Equal(p.EthDst, allStations), "to %s in a frame to %s", p.Dst, p.EthDst)
			check(d.Reply == (p.Dst.Port() == 68) && p.Src.Port()+p.Dst.Port() == 67+68, "from port %d to port %d", p.Src.Port(), p.Dst.Port())
			check(p.IP.Transport == "ok" || p.IP.Transport == "unfinished" || p.IP.Transport == "none", "checksum %s", p.IP.Transport)
			if d.Reply {
				check(d.Your == who.addr && l.server.Range.Subnet.Contains(d.Your), "address %s, and the container has %s", d.Your, who.addr)
				check(d.Server == l.server.Addr && p.Src.Addr() == l.server.Addr, "server %s at %s", d.Server, p.Src)
				check(d.Lease == l.server.Lease && d.Renewal == d.Lease/2, "lease %s, to be renewed after %s", d.Lease, d.Renewal)
			} else {
				check(p.Src.Addr().IsUnspecified(), "from %s", p.Src)
				check(!d.Your.IsValid(), "your address %s", d.Your)
				is := d.Requested == who.addr && d.Server == l.server.Addr
				check(d.Kind == "discover" && !d.Server.IsValid() || d.Kind == "request" && is, "wants %s of server %s", d.Requested, d.Server)
			}
		}
		if !slices.Equal(kinds, []string{"discover", "offer", "request", "ack"}) {
			// What was lost on its way is sent again, and is no fault of the exchange.
			if sorted := slices.Compact(slices.Clone(kinds)); len(kinds) < 4 || sorted[0] != "discover" || sorted[len(sorted)-1] != "ack" {
				wrong = append(wrong, "the messages were "+strings.Join(kinds, ", "))
			}
		}
		return summed(wrong, evidence, "%s got %s in transaction %08x: %s", who, who.addr, xid, strings.Join(kinds, ", ")), nil
	}),
	Sabotage: []Sabotage{
		{Mode: "macvlan-bridge", Doc: "clients name themselves otherwise", Rewire: clients(func(d *topology.DHCP) { d.ClientID += "x" })},
		{Mode: "macvlan-private", Doc: "clients want answers for themselves alone", Rewire: clients(func(d *topology.DHCP) { d.Broadcast = false })},
	},
})

var _ = register(Spec{
	Suite: "packets",
	Feature: Feature{
		Name: "dhcpv6-exchange", Group: "packets",
		Doc: "Are the four messages by which a container gets a lease as RFC 8415 has them: transactions, identifiers of client and server, what is asked for and given, and to whom they go?",
	},
	Name: "a container is attached that wants a lease of IPv6, and each field of Solicit, Advertise, Request and Reply is read at its device",
	Run: leased(IPv6, 4, time.Minute, func(ctx context.Context, l *leasing, who client, recorded recording) (Observation, error) {
		packets, err := recorded(ctx, func(p lab.Packet) bool { return p.DHCP != nil && p.Src.Addr().Is6() && who.here(p, !p.DHCP.Reply) })
		if err == nil && len(packets) == 0 {
			err = fmt.Errorf("%s has %s, and no message of its was recorded", who, who.addr)
		}
		if err != nil {
			return Observation{}, err
		}
		var wrong, kinds []string
		var evidence []reports.Evidence
		var server []byte
		own := packets[0].Src.Addr()
		asked := map[uint32]string{} // by transaction, what its question was
		for _, p := range packets {
			d := p.DHCP
			kinds = append(kinds, d.Kind)
			evidence = append(evidence, seen(p))
			check := func(ok bool, format string, args ...any) {
				if !ok {
					wrong = append(wrong, d.Kind+": "+fmt.Sprintf(format, args...))
				}
			}
			check(bytes.Equal(d.ClientID, who.id), "client identifier %x", d.ClientID)
			check(d.IAID == packets[0].DHCP.IAID, "identity association %08x, after %08x", d.IAID, packets[0].DHCP.IAID)
			check(p.IP.Transport == "ok" || p.IP.Transport == "unfinished", "checksum %s", p.IP.Transport) // RFC 8200 section 8.1
			if d.Reply {
				check(asked[d.XID] == map[string]string{"advertise": "solicit", "reply": "request"}[d.Kind], "transaction %06x was a question of kind %q", d.XID, asked[d.XID])
				check(p.Dst == netip.AddrPortFrom(own, 546) && p.Src.Addr().IsLinkLocalUnicast(), "from %s to %s", p.Src, p.Dst)
				check(d.Your == who.addr && l.server.Range.Subnet.Contains(d.Your) && d.Status == 0, "address %s with status %d, and the container has %s", d.Your, d.Status, who.addr)
				check(d.ServerID != nil && (server == nil || bytes.Equal(d.ServerID, server)), "server %x, after %x", d.ServerID, server)
				check(d.Lease == l.server.Lease && d.Renewal == d.Lease/2, "lease %s, to be renewed after %s", d.Lease, d.Renewal)
				server = d.ServerID
				continue
			}
			asked[d.XID] = d.Kind
			check(p.Src == netip.AddrPortFrom(own, 546) && own.IsLinkLocalUnicast(), "from %s", p.Src)
			check(p.Dst == netip.AddrPortFrom(dhcpServers, 547) && slices.Equal(p.EthDst, net.HardwareAddr{0x33, 0x33, 0, 1, 0, 2}), "to %s in a frame to %s", p.Dst, p.EthDst)
			check(bytes.Equal(d.ServerID, server), "to server %x", d.ServerID)
			check(d.Kind == "solicit" && d.ServerID == nil || d.Kind == "request" && d.ServerID != nil && d.Requested == who.addr, "wants %s of server %x", d.Requested, d.ServerID)
		}
		if sorted := slices.Compact(slices.Clone(kinds)); !slices.Equal(sorted, []string{"solicit", "advertise", "request", "reply"}) { // a question may be asked again
			wrong = append(wrong, "the messages were "+strings.Join(kinds, ", "))
		}
		return summed(wrong, evidence, "%s got %s of %x: %s", who, who.addr, server, strings.Join(kinds, ", ")), nil
	}),
	Sabotage: []Sabotage{
		{Mode: "macvlan-bridge", Doc: "clients name themselves otherwise", Rewire: clients(func(d *topology.DHCP) { d.ClientID += "x" })},
		{Mode: "macvlan-private", Doc: "the server hears nobody who wants an address", Steps: ignored("solicit")},
	},
})

// short is a lease that is renewed while one watches.
const short = 2 * time.Second

// dhcpServers is where servers of IPv6 are asked, by clients that know one of them, too (RFC 8415 sections 7.1 and 18.2).
var dhcpServers = netip.MustParseAddr("ff02::1:2")

// alone says what of a message from a client that has its address is not for the server alone.
func (l *leasing) alone(p lab.Packet, who client) (wrong []string) {
	d := p.DHCP
	if l.f == IPv6 {
		if p.Dst.Addr() != dhcpServers || !p.Src.Addr().IsLinkLocalUnicast() {
			wrong = append(wrong, fmt.Sprintf("%s: from %s to %s", d.Kind, p.Src, p.Dst))
		}
		if d.Requested != who.addr || !bytes.Equal(d.ClientID, who.id) || d.ServerID == nil {
			wrong = append(wrong, fmt.Sprintf("%s: about %s, client %x, server %x", d.Kind, d.Requested, d.ClientID, d.ServerID))
		}
		return wrong
	}
	if p.Dst.Addr() != l.server.Addr || p.Src.Addr() != who.addr || bytes.Equal(p.EthDst, allStations) {
		wrong = append(wrong, fmt.Sprintf("%s: from %s to %s in a frame to %s", d.Kind, p.Src, p.Dst, p.EthDst))
	}
	if d.Client != who.addr || d.Requested.IsValid() || !bytes.Equal(d.ClientID, who.id) {
		wrong = append(wrong, fmt.Sprintf("%s: client address %s, wants %s, client identifier %q", d.Kind, d.Client, d.Requested, d.ClientID))
	}
	return wrong
}

// renewed observes a client until its first lease is over, and whether it then still has its address.
func (l *leasing) renewed(ctx context.Context, who client, recorded recording) (o Observation, kept bool, err error) {
	got, again := either(l.f, "ack", "reply"), either(l.f, "request", "renew")
	lease := l.server.Lease
	var said, acks, renewals []lab.Packet
	if _, err = eventually(ctx, max(patience, 2*lease), func() (bool, error) {
		packets, err := recorded(ctx, func(p lab.Packet) bool { return who.of(p) && who.here(p, !p.DHCP.Reply) })
		said, acks, renewals = nil, nil, nil
		for _, p := range packets {
			switch {
			case p.DHCP.Kind == got:
				acks = append(acks, p)
			case p.DHCP.Kind == again && len(acks) > 0:
				renewals = append(renewals, p)
			}
			if len(acks) > 0 {
				said = append(said, p)
			}
		}
		kept = len(acks) > 1 && acks[len(acks)-1].When.Sub(acks[0].When) >= lease
		if kept || err != nil {
			return kept, err
		}
		has, err := l.addrOf(ctx, who.Place, l.b.mode.Device)
		return has != who.addr, err // over: who has no address any more asks for nothing
	}); err != nil {
		return o, false, err
	}
	var wrong []string
	var evidence []reports.Evidence
	for _, p := range said {
		evidence = append(evidence, seen(p))
	}
	for _, p := range renewals {
		wrong = append(wrong, l.alone(p, who)...)
		if p.DHCP.Server.IsValid() {
			wrong = append(wrong, fmt.Sprintf("a renewal names the server %s", p.DHCP.Server))
		}
	}
	if !kept || len(renewals) == 0 {
		return summed(append(wrong, fmt.Sprintf("%d renewals of a lease of %s were sent, and %d leases got", len(renewals), lease, len(acks))), evidence, ""), false, nil
	}
	var lost error
	if _, err := eventually(ctx, retry, func() (bool, error) { // what came was not yet heeded
		s, err := l.b.devices(ctx, who.Machine)
		_, lost = linkWith(s.Spaces[who.Container], who.addr)
		return lost == nil, err
	}); err != nil {
		return o, false, err
	}
	if lost != nil {
		wrong = append(wrong, lost.Error())
	}
	after := renewals[0].When.Sub(acks[0].When)
	if after < lease/2 {
		wrong = append(wrong, fmt.Sprintf("renewed after %s", after))
	}
	return summed(wrong, evidence, "%s has %s for %s, asked %s for it again after %.3f s, and had it %.3f s later", who, who.addr, lease, l.at,
		after.Seconds(), acks[len(acks)-1].When.Sub(acks[0].When).Seconds()).value("sec", after.Seconds()), lost == nil, nil
}

var _ = registerLeases(func(f Family) Spec {
	return Spec{
		Suite: "packets",
		Feature: Feature{
			Name: "renewal", Group: "packets",
			Doc: either(f,
				"Does a container renew its lease after half of its time, by asking the server alone from the address that it has, and keep the address beyond the first lease?",
				"Does a container renew its lease of IPv6 after half of its time, by asking the server that it names, and keep the address beyond the first lease?"),
		},
		Name: "a container has a lease of two seconds, or of eight where those ran out, and is watched for longer than that",
		Run: leased(f, 4, short, func(ctx context.Context, l *leasing, who client, recorded recording) (Observation, error) {
			o, kept, err := l.renewed(ctx, who, recorded)
			if kept || err != nil {
				return o, err
			}
			// Once more with time: a machine with much else to do lets a short lease run out before it can ask, or answer.
			if err := l.end(ctx); err != nil {
				return o, err
			}
			l.server.Lease = 4 * short
			if err := l.begin(ctx); err != nil {
				return o, err
			}
			var refusal error
			if who, refusal, err = l.attach(ctx, true, patience); err != nil || refusal != nil {
				return o, errors.Join(refusal, err)
			}
			o, _, err = l.renewed(ctx, who, recorded)
			return o, err
		}),
		Sabotage: []Sabotage{
			{Mode: "macvlan-bridge", Doc: "the server does not hear what is for it alone", Steps: either(f, unheard, ignored("renew"))},
		},
	}
})

var _ = registerLeases(func(f Family) Spec {
	return Spec{
		Suite: "packets",
		Feature: Feature{
			Name: "release", Group: "packets",
			Doc: either(f,
				"Does a container that is detached give its lease back, by telling the server alone from the address that it had, and does the server then have it to give?",
				"Does a container that is detached give its lease of IPv6 back, by telling the server that it names, and does the server then have it to give?"),
		},
		Name: "a container with a lease is detached, and what the server is told and has after that is read",
		Run: leased(f, 4, time.Minute, func(ctx context.Context, l *leasing, who client, recorded recording) (Observation, error) {
			if err := l.b.Detach(ctx, who.Place); err != nil {
				return Observation{}, err
			}
			var s lab.DHCPState
			free, err := eventually(ctx, retry, func() (yes bool, err error) {
				s, err = l.state(ctx)
				return len(s.Leases) == 0, err
			})
			if err != nil {
				return Observation{}, err
			}
			packets, err := recorded(ctx, func(p lab.Packet) bool { return who.of(p) && p.DHCP.Kind == "release" })
			if err != nil {
				return Observation{}, err
			}
			var wrong []string
			var evidence []reports.Evidence
			for _, p := range packets {
				evidence = append(evidence, seen(p))
				wrong = append(wrong, l.alone(p, who)...)
				if f == IPv4 && p.DHCP.Server != l.server.Addr {
					wrong = append(wrong, fmt.Sprintf("release: server %s", p.DHCP.Server))
				}
			}
			if len(packets) == 0 {
				wrong = append(wrong, "no release was sent")
			}
			if !free {
				wrong = append(wrong, fmt.Sprintf("%s still has %d leases", l.at, len(s.Leases)))
			}
			return summed(wrong, evidence, "%s was detached: %s was told that %s is free, and has no lease any more", who, l.at, who.addr), nil
		}),
		Sabotage: []Sabotage{
			{Mode: "macvlan-bridge", Doc: "the server does not hear what is for it alone", Steps: either(f, unheard, ignored("release"))},
		},
	}
})

var _ = registerLeases(func(f Family) Spec {
	return Spec{
		Suite: "lifecycle",
		Feature: Feature{
			Name: "exhaustion", Group: "lifecycle",
			Doc: "When a DHCP server has no address" + either(f, "", " of IPv6") + " left, does attaching a container end in bounded time with an error and nothing left of it, and does the next one work once a lease was given back?",
		},
		Name: "a server with one address leases it; a second container is to be attached; then the first is detached and a third attached",
		Run: leased(f, 1, time.Minute, func(ctx context.Context, l *leasing, first client, _ recording) (Observation, error) {
			b := l.b
			if b.mode.Limit == 1 {
				return oneContainer(), nil
			}
			before, err := steady(ctx, b, l.host)
			if err != nil {
				return Observation{}, err
			}
			began := time.Now()
			second, refusal, err := l.attach(ctx, true, shortly)
			if err != nil {
				return Observation{}, err
			}
			took := time.Since(began)
			if refusal == nil {
				return Observation{Status: "mixed", Detail: fmt.Sprintf("%s got %s, too, of a server with one address, which %s has", second, second.addr, first)}, nil
			}
			diff, err := restored(ctx, b, l.host, before)
			if err != nil {
				return Observation{}, err
			}
			s, err := l.state(ctx)
			if err != nil {
				return Observation{}, err
			}
			if err := b.Detach(ctx, first.Place); err != nil {
				return Observation{}, err
			}
			third, again, err := l.attach(ctx, true, patience)
			if err != nil {
				return Observation{}, err
			}
			o := Observation{}.with(l.host, "%v", refusal).differences(l.host, diff).with(l.at.String(), "%d questions for an address came when there was none left", s.Refused)
			if again != nil {
				o = o.with(l.host, "%v", again)
			}
			return concluded(o, len(diff) == 0 && s.Refused > 0 && again == nil && third.addr == first.addr && took < patience,
				"%s has the only address, %s; %s was refused after %.3f s, with %d differences to the host before; after %s was detached, %s got %s",
				first, first.addr, second, took.Seconds(), len(diff), first, third, third.addr).value("sec", took.Seconds()), nil
		}),
		Sabotage: []Sabotage{
			{Mode: "macvlan-bridge", Doc: "the server does not hear what is for it alone", Steps: either(f, unheard, ignored("release"))},
		},
	}
})
