package suites

import (
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

// Programs of modes, as their steps name them.
const (
	store  = "etcd"
	daemon = "flanneld" // of those whose hosts lease subnets
)

// leaseless is the answer of the modes whose hosts lease no subnets from a store.
func leaseless(b *Bench) *Observation {
	if _, at := programOf(b.plan, b.mode, daemon); at == "" {
		o := notApplicable("no daemon of the mode leases a subnet for its host from a store")
		return &o
	}
	return nil
}

// programOf is a program of a mode and the machine that it runs on; empty: the mode has none of that name.
func programOf(p *topology.Plan, m modes.Mode, name string) (topology.Program, string) {
	if m.Setup == nil {
		return topology.Program{}, ""
	}
	for _, s := range m.Setup(p, p.Hosts()[0]) {
		if s.Program != nil && s.Program.Name == name {
			return *s.Program, s.On
		}
	}
	return topology.Program{}, ""
}

// revived has the store and the daemons of all hosts run again when the spec ends.
func revived(b *Bench) {
	b.atEnd(func(ctx context.Context) error {
		_, at := programOf(b.plan, b.mode, store)
		ends := []Place{{at, store}}
		for _, h := range hostNames(b) {
			ends = append(ends, Place{h, daemon})
		}
		for _, e := range ends {
			var s lab.ProgramState
			if err := b.Do(ctx, e.Machine, "Program.State", e.Container, &s); err != nil {
				return err
			}
			if s.Running {
				continue
			}
			if err := b.Do(ctx, e.Machine, "Program.Start", e.Container, &lab.Nothing{}); err != nil {
				return err
			}
		}
		return b.told(ctx)
	})
}

// reaches tells whether a container of the first host is answered by one of the second host.
func reaches(ctx context.Context, b *Bench) (bool, error) {
	a, err := b.Ask(ctx, container(b), lab.Ask{Proto: "icmp", To: netip.AddrPortFrom(addrOf(b, far(b), IPv4), 0), Wait: hopeful})
	return a.Answered, err
}

// cut leaves a mode's first host without a way to the second one's container.
func cut(mode string) Sabotage {
	return Sabotage{Mode: mode, Doc: "the first host has no way to the second one's container", Steps: func(p *topology.Plan) []topology.Step {
		m, _ := modes.Find(mode)
		h := p.Hosts()[1]
		to := m.Addrs(p, h, h.Containers[0])[0].Addr()
		return []topology.Step{{On: p.Hosts()[0].Name, Route: &topology.Route{Type: "unreachable", Dst: netip.PrefixFrom(to, to.BitLen())}}}
	}}
}

// configured changes the words of the configuration that a mode's store begins with.
func configured(mode, doc, was, is string) Sabotage {
	return Sabotage{Mode: mode, Doc: doc, Setup: mapPrograms(func(_ string, p *topology.Program) {
		if p.Name == store {
			p.Files = replaced(p.Files, strings.NewReplacer(was, is))
		}
	})}
}

// mapPrograms changes the programs of hosts.
func mapPrograms(change func(on string, p *topology.Program)) func([]topology.Step) []topology.Step {
	return func(steps []topology.Step) []topology.Step {
		steps = slices.Clone(steps)
		for i, s := range steps {
			if s.Program != nil {
				p := *s.Program
				change(s.On, &p)
				steps[i].Program = &p
			}
		}
		return steps
	}
}

// replaced are files with other words.
func replaced(files map[string]string, words *strings.Replacer) map[string]string {
	out := map[string]string{}
	for name, text := range files {
		out[name] = words.Replace(text)
	}
	return out
}

// crossing asks a container of another host by UDP, and gives the question as it entered the switch by the port of the asker's
// host; nil where it did not.
func crossing(ctx context.Context, b *Bench, ask lab.Ask) (p *lab.Packet, a lab.Answer, evidence []reports.Evidence, err error) {
	port, err := serve(ctx, b, far(b), unspecified(IPv4))
	if err != nil {
		return nil, a, nil, err
	}
	recorded, err := b.Record(ctx)
	if err != nil {
		return nil, a, nil, err
	}
	ask.Proto, ask.To, ask.Token = "udp", netip.AddrPortFrom(addrOf(b, far(b), IPv4), port), b.newToken()
	// Twice where nothing came back: the first may have waited for a link-layer address for too long.
	for range 2 {
		if a, err = b.Ask(ctx, container(b), ask); err != nil {
			return nil, a, nil, err
		}
		if a.Answered || a.Refusal.Errno != "" {
			break
		}
	}
	by := entering(b, container(b).Machine)
	packets, err := recorded(ctx, func(p lab.Packet) bool { return p.Token == ask.Token && onSegment(b, p) })
	if err != nil {
		return nil, a, nil, err
	}
	for i, q := range packets {
		if evidence = append(evidence, seen(q)); p == nil && by(q) {
			p = &packets[i]
		}
	}
	return p, a, evidence, nil
}

var _ = register(Spec{
	Suite: "packets",
	Feature: Feature{
		Name: "lease-tunnel", Group: "packets",
		Doc: "Do packets between the subnets of two hosts cross the segment in flannel's own encapsulation: VXLAN with the VNI 1 to UDP port 8472 around a frame between the tunnels' devices, or the bare IPv4 packet in UDP from port 8285 to port 8285? No: they cross as they are.",
	},
	Name: "a container asks one of another host, and what crosses the segment is read, header by header",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		if o := leaseless(b); o != nil {
			return *o, nil
		}
		from, to := container(b), far(b)
		p, a, evidence, err := crossing(ctx, b, lab.Ask{})
		if err != nil {
			return Observation{}, err
		}
		if p == nil || !a.Answered {
			return astray(b, a, evidence), nil
		}
		var wrong []string
		check := func(what string, got, want any) {
			if fmt.Sprint(got) != fmt.Sprint(want) {
				wrong = append(wrong, fmt.Sprintf("%s is %v, not %v", what, got, want))
			}
		}
		own, peer := addrOf(b, from, IPv4), addrOf(b, to, IPv4)
		check("the packet's header checksum", p.IP.HeaderOK, true)
		check("a fragment", p.IP.MoreFragments || p.IP.Offset > 0, false)
		o := Observation{}
		switch {
		case p.Inner == nil:
			check("the source", p.Src.Addr(), own)
			check("the destination", p.Dst.Addr(), peer)
			check("the TTL", p.IP.TTL, 63)
			o = blocked("%s asked %s: the packet crossed the segment as it was, from %s to %s", from, to, own, peer)
		default:
			check("the source", p.Src.Addr(), underlayOf(b, from.Machine))
			check("the destination", p.Dst.Addr(), underlayOf(b, to.Machine))
			check("the carried source", p.Inner.Src.Addr(), own)
			check("the carried destination", p.Inner.Dst.Addr(), peer)
			check("the carried header's checksum", p.Inner.IP.HeaderOK, true)
			if p.VXLAN != nil {
				check("the port", p.Dst.Port(), 8472)
				check("the VNI", p.VXLAN.VNI, 1)
				check("the byte of flags", p.VXLAN.Flags, 0x08)
				check("what is reserved", p.VXLAN.Reserved, 0)
				check("the carried TTL", p.Inner.IP.TTL, 63)
				for _, end := range []struct {
					what, host string
					mac        fmt.Stringer
				}{{"the source", from.Machine, p.Inner.EthSrc}, {"the destination", to.Machine, p.Inner.EthDst}} {
					s, err := b.State(ctx, end.host)
					if err != nil {
						return Observation{}, err
					}
					if !slices.ContainsFunc(s.Spaces[""].Links, func(l lab.Link) bool { return l.Kind == "vxlan" && l.MAC.String() == end.mac.String() }) {
						wrong = append(wrong, fmt.Sprintf("%s of the carried frame, %s, is no tunnel's of %s", end.what, end.mac, end.host))
					}
				}
			} else {
				check("the source's port", p.Src.Port(), 8285)
				check("the port", p.Dst.Port(), 8285)
				check("the carried TTL", p.Inner.IP.TTL, 62) // the host's and the daemon's
			}
			o = works("%s asked %s: the packet crossed the segment in %s from %s to %s", from, to, map[bool]string{true: "VXLAN", false: "UDP"}[p.VXLAN != nil], p.Src, p.Dst)
		}
		o.Evidence = evidence
		if len(wrong) > 0 {
			o.Status, o.Detail = "mixed", strings.Join(wrong, "; ")
		}
		return o, nil
	},
	Sabotage: []Sabotage{
		cut("flannel-host-gw"),
		configured("flannel-vxlan", "another VNI is configured", `"Type": "vxlan"`, `"Type": "vxlan", "VNI": 7`),
		configured("flannel-udp", "the daemons do not use flannel's port", `"Type": "udp"`, `"Type": "udp", "Port": 8286`),
	},
})

var _ = register(Spec{
	Suite: "packets",
	Feature: Feature{
		Name: "lease-size", Group: "packets",
		Doc: "Is a packet as large as the container's device lets it be, on its way to another host's subnet, exactly as large as the segment allows, and whole?",
	},
	Name: "a container asks one of another host with a packet of its device's MTU that may not be fragmented, and its size on the segment is read",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		if o := leaseless(b); o != nil {
			return *o, nil
		}
		from, to := container(b), far(b)
		device, err := linkOf(ctx, b, from, ownDevice(b, from))
		if err != nil {
			return Observation{}, err
		}
		p, a, evidence, err := crossing(ctx, b, lab.Ask{Size: device.MTU - headers(IPv4), NoFragment: true})
		if err != nil {
			return Observation{}, err
		}
		if p == nil {
			return astray(b, a, evidence), nil
		}
		mtu := b.plan.Machine(from.Machine).NIC(b.plan.Network(network(b)).NIC).MTU
		size := p.Length - 14 // the frame's header
		o := whether(size == mtu && a.Answered && !p.IP.MoreFragments && p.IP.Offset == 0, "%s sent %s a packet of %d bytes: on the segment, whose MTU is %d, it had %d; answered %t",
			from, to, device.MTU, mtu, size, a.Answered).value("bytes", float64(size))
		o.Evidence = evidence
		return o, nil
	},
	Sabotage: []Sabotage{
		cut("flannel-udp"),
		{Mode: "flannel-vxlan", Doc: "containers' devices are smaller than the tunnel lets them be", Rewire: mapLinks(func(l *topology.Link) { l.PeerMTU -= 100 })},
	},
})

var _ = register(Spec{
	Suite: "packets",
	Feature: Feature{
		Name: "lease-time-exceeded", Group: "packets",
		Doc: "Does a packet whose TTL ends on the way from one host's subnet to another's give an ICMP time exceeded, so that traceroute shows the hop (RFC 1812 section 5.3.1)?",
	},
	Name: "a container asks one of another host with a TTL that lasts for the first host only",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		if o := leaseless(b); o != nil {
			return *o, nil
		}
		from, to := container(b), far(b)
		p, a, evidence, err := crossing(ctx, b, lab.Ask{TTL: 2, Wait: hopeful})
		if err != nil {
			return Observation{}, err
		}
		var o Observation
		switch {
		case a.Answered, a.Refusal.Errno != "" && !a.ICMPFrom.IsValid():
			o = Observation{Status: "mixed", Detail: fmt.Sprintf("%s asked %s with a TTL of 2: answered %t %s", from, to, a.Answered, a.Refusal.Text)}
		case a.ICMPFrom.IsValid():
			o = works("%s asked %s with a TTL of 2: %s reported it: %s", from, to, a.ICMPFrom, a.Refusal.Text)
			if p == nil {
				o.Status = "mixed" // it never came to where its TTL ends
			}
		default:
			ok, err := eventually(ctx, retry, func() (bool, error) { return reaches(ctx, b) })
			if err != nil {
				return Observation{}, err
			}
			if !ok {
				return astray(b, a, evidence), nil
			}
			o = blocked("%s asked %s with a TTL of 2: nothing came back, nor did the packet come to the segment; with a TTL that lasts it was answered", from, to).
				with(from.String(), "control: %s answered an echo with the usual TTL", to)
			if p != nil {
				o.Status = "mixed"
			}
		}
		o.Evidence = append(o.Evidence, evidence...)
		return o, nil
	},
	Sabotage: []Sabotage{cut("flannel-vxlan"), cut("flannel-udp")},
})

var _ = register(Spec{
	Suite: "lifecycle",
	Feature: Feature{
		Name: "daemon-death", Group: "operations",
		Doc: "Do containers of two hosts go on reaching each other while the daemon of one host is dead, and afterwards?",
	},
	Name: "the daemon of the first host is killed, a container there asks one of the second host, and the daemon is started again",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		if o := leaseless(b); o != nil {
			return *o, nil
		}
		host := firstHost(b)
		before, err := reaches(ctx, b)
		if err != nil {
			return Observation{}, err
		}
		revived(b)
		if err := b.Do(ctx, host, "Program.Kill", daemon, &lab.Nothing{}); err != nil {
			return Observation{}, err
		}
		dead, err := reaches(ctx, b)
		if err != nil {
			return Observation{}, err
		}
		began := time.Now()
		if err := b.Do(ctx, host, "Program.Start", daemon, &lab.Nothing{}); err != nil {
			return Observation{}, err
		}
		after, err := eventually(ctx, patience, func() (bool, error) { return reaches(ctx, b) })
		if err != nil {
			return Observation{}, err
		}
		took := time.Since(began)
		o := whether(dead, "%s reached %s before the daemon of %s was killed: %t; while it was dead: %t; after it was started again: %t",
			container(b), far(b), host, before, dead, after).value("sec", took.Seconds())
		o = o.with(container(b).String(), "control: after the daemon was started again, %s answered within %s: %t", far(b), took.Round(time.Millisecond), after)
		if !before || !after {
			o.Status = "mixed"
		}
		return o, nil
	},
	Sabotage: []Sabotage{cut("flannel-vxlan"), cut("flannel-host-gw")},
})

var _ = register(Spec{
	Suite: "lifecycle",
	Feature: Feature{
		Name: "store-loss", Group: "operations",
		Doc: "Do containers of two hosts go on reaching each other while the store of leases is gone, do the daemons live through it, and do they hear again of what changes when it is back?",
	},
	Name: "the store is killed, a container asks one of another host, the store is started again with what it held, and the other host's lease is revoked",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		if o := leaseless(b); o != nil {
			return *o, nil
		}
		before, err := reaches(ctx, b)
		if err != nil {
			return Observation{}, err
		}
		_, at := programOf(b.plan, b.mode, store)
		revived(b)
		if err := b.Do(ctx, at, "Program.Kill", store, &lab.Nothing{}); err != nil {
			return Observation{}, err
		}
		gone, err := reaches(ctx, b)
		if err != nil {
			return Observation{}, err
		}
		if err := b.Do(ctx, at, "Program.Start", store, &lab.Nothing{}); err != nil {
			return Observation{}, err
		}
		lived := 0
		for _, h := range hostNames(b) {
			var s lab.ProgramState
			if err := b.Do(ctx, h, "Program.State", daemon, &s); err != nil {
				return Observation{}, err
			}
			if s.Running {
				lived++
			}
		}
		began := time.Now()
		heard, evidence, err := revoked(ctx, b)
		if err != nil {
			return Observation{}, err
		}
		took := time.Since(began)
		o := whether(before && gone && lived == len(hostNames(b)) && heard,
			"%s reached %s before the store was killed: %t; while it was gone: %t; of %d daemons %d lived through it; a lease that was revoked when it was back was let go: %t",
			container(b), far(b), before, gone, len(hostNames(b)), lived, heard).value("sec", took.Seconds())
		o.Evidence = evidence
		return o, nil
	},
	Sabotage: []Sabotage{cut("flannel-vxlan"), cut("flannel-udp")},
})

// revoke deletes a host's lease from the store.
func revoke(ctx context.Context, b *Bench, host string) (reports.Evidence, error) {
	p, at := programOf(b.plan, b.mode, store)
	v4, v6 := b.plan.Subnet(host)
	dashed := func(p netip.Prefix) string { return fmt.Sprintf("%s-%d", p.Addr(), p.Bits()) }
	key := "/coreos.com/network/subnets/" + dashed(v4)
	if len(b.mode.Addrs(b.plan, b.plan.Machine(host), attachedAt(b, b.Containers(host, network(b))[0]))) > 1 {
		key += "&" + dashed(v6)
	}
	i := slices.IndexFunc(p.Args, func(a string) bool { return strings.HasPrefix(a, "-listen-client-urls=") })
	endpoint := strings.TrimPrefix(p.Args[i], "-listen-client-urls=")
	const done = "127.0.0.1:2377"
	return reports.Evidence{At: at, Saw: "the key " + key + " was deleted"}, b.Apply(ctx, topology.Step{On: at, Program: &topology.Program{
		Name: "etcdctl", Path: "etcdctl", Args: []string{"-endpoints=" + endpoint, "-del=" + key, "-ready=" + done},
		Ready: topology.Ready{Addr: netip.MustParseAddrPort(done)},
	}})
}

// revoked deletes the second host's lease from the store, and tells whether its daemon ended, as a daemon does that has lost its lease, and
// whether the first host let go of its way to the lease: no packet for it comes to the segment any more.
func revoked(ctx context.Context, b *Bench) (bool, []reports.Evidence, error) {
	host := secondHost(b)
	v4, _ := b.plan.Subnet(host)
	gone, err := revoke(ctx, b, host)
	if err != nil {
		return false, nil, err
	}
	var s lab.ProgramState
	ended, err := eventually(ctx, patience, func() (bool, error) {
		s = lab.ProgramState{} // what is zero is not sent
		err := b.Do(ctx, host, "Program.State", daemon, &s)
		return !s.Running, err
	})
	if err != nil {
		return false, nil, err
	}
	said := ""
	if !ended {
		said = ", and said last: " + s.Output
	}
	last := true // whether a packet was seen
	let, err := eventually(ctx, patience, func() (bool, error) {
		p, a, _, err := crossing(ctx, b, lab.Ask{Wait: brief})
		last = p != nil || a.Answered
		return !last, err
	})
	return ended && let, []reports.Evidence{
		gone,
		{At: host, Saw: fmt.Sprintf("its daemon ended: %t%s", ended, said)},
		{At: firstHost(b), Saw: fmt.Sprintf("packets for %s come to the segment: %t", v4, last)},
	}, err
}

// brief is how long an answer is waited for where none is expected.
const brief = 50 * time.Millisecond

var _ = register(Spec{
	Suite: "lifecycle",
	Feature: Feature{
		Name: "lease-change", Group: "operations",
		Doc: "Do hosts let go of another host's subnet when its lease is revoked, and have a way there again when it is leased anew?",
	},
	Name: "the second host's lease is revoked in the store, a container of the first host asks there, and the second host's daemon is started again",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		if o := leaseless(b); o != nil {
			return *o, nil
		}
		before, err := reaches(ctx, b)
		if err != nil {
			return Observation{}, err
		}
		revived(b)
		let, evidence, err := revoked(ctx, b)
		if err != nil {
			return Observation{}, err
		}
		var again error
		if err := b.Do(ctx, secondHost(b), "Program.Start", daemon, &lab.Nothing{}); err != nil {
			again = fmt.Errorf("start the daemon again: %w", err)
		}
		began := time.Now()
		after, err := eventually(ctx, patience, func() (bool, error) { return reaches(ctx, b) })
		if err = errors.Join(err, again); err != nil && let {
			return Observation{}, err
		}
		took := time.Since(began)
		o := whether(before && let && after, "%s reached %s before the lease of %s was revoked: %t; the way there was let go: %t; leased again, it was reached: %t",
			container(b), far(b), secondHost(b), before, let, after).value("sec", took.Seconds())
		o.Evidence = evidence
		return o, nil
	},
	Sabotage: []Sabotage{
		{Mode: "flannel-vxlan", Doc: "the first host's daemon is dead", Before: func(ctx context.Context, b *Bench) error {
			return b.Do(ctx, firstHost(b), "Program.Kill", daemon, &lab.Nothing{})
		}},
		cut("flannel-udp"),
	},
})

// oneMore is a lab of its own of a mode whose hosts lease subnets: so many hosts have one and a container each, and one more, the last, has nothing yet.
// words are replaced in the files of all programs.
func oneMore(ctx context.Context, b *Bench, having int, words ...string) (*Bench, error) {
	t := b.plan.Topology
	t.Hosts = moreHosts(b, having+1, map[string]int{network(b): 1})
	last := slices.Max(slices.Collect(maps.Keys(t.Hosts)))
	t.Hosts[last] = topology.Host{NICs: t.Hosts[last].NICs}
	p, err := topology.NewPlan(t)
	if err != nil {
		return nil, err
	}
	m := b.mode
	m.Setup = func(p *topology.Plan, host *topology.Machine) []topology.Step {
		if host.Name == last {
			return nil
		}
		return mapPrograms(func(_ string, p *topology.Program) { p.Files = replaced(p.Files, strings.NewReplacer(words...)) })(b.mode.Setup(p, host))
	}
	return newBench(ctx, b.driver, p, m, b.rewire)
}

// fewSubnets is such a lab of a network that has just three subnets to give: of a block of four the first is not given out (flannel
// Documentation/configuration.md, SubnetMin).
func fewSubnets(ctx context.Context, b *Bench) (*Bench, error) {
	all4, all6 := topology.Spanned()
	four := func(all netip.Prefix, subnet int) string { return netip.PrefixFrom(all.Addr(), subnet-2).String() }
	return oneMore(ctx, b, 3, all4.String(), four(all4, 24), all6.String(), four(all6, 64))
}

// carriedOver are a host's steps but its programs, on another host.
func carriedOver(steps []topology.Step, by string) (out []topology.Step) {
	for _, s := range steps {
		if s.Program == nil {
			s.On = by
			out = append(out, s)
		}
	}
	return out
}

var _ = register(Spec{
	Suite: "lifecycle",
	Feature: Feature{
		Name: "subnet-exhaustion", Group: "lifecycle",
		Doc: "When every subnet of the network is leased, is one more host refused a lease with the reason and without harm to the others, and does it get one, and is reached, once another host's was revoked?",
	},
	Name:   "in a lab of its own, with a network of four subnets, of which three are given out, three hosts have a lease and a fourth asks for one; a lease is revoked, and it asks again",
	Within: 2 * specTimeout,
	Run: func(ctx context.Context, b *Bench) (o Observation, err error) {
		if o := leaseless(b); o != nil {
			return *o, nil
		}
		l, err := fewSubnets(ctx, b)
		if err != nil {
			return o, err
		}
		defer func() { err = errors.Join(err, l.Close()) }()
		hosts := hostNames(l)
		leaving, coming := hosts[len(hosts)-2], hosts[len(hosts)-1]
		// others tells how many of the hosts that have a lease run their daemon, and reach the others and are reached.
		others := func(among []string) (well int, err error) {
			for i, h := range among {
				var s lab.ProgramState
				if err := l.Do(ctx, h, "Program.State", daemon, &s); err != nil {
					return 0, err
				}
				from, to := l.Containers(h, network(l))[0], l.Containers(among[(i+1)%len(among)], network(l))[0]
				a, err := l.Ask(ctx, from, lab.Ask{Proto: "icmp", To: netip.AddrPortFrom(addrOf(l, to, IPv4), 0), Wait: slow})
				if err != nil {
					return 0, err
				}
				if s.Running && a.Answered {
					well++
				}
			}
			return well, nil
		}
		having := hosts[:len(hosts)-1]
		before, err := others(having)
		if err != nil {
			return o, err
		}
		var asks topology.Program
		for _, s := range b.mode.Setup(l.plan, l.plan.Machine(coming)) {
			if s.Program != nil && s.Program.Name == daemon {
				asks = *s.Program
			}
		}
		asks.Files = nil // it never had a lease
		ask := topology.Step{On: coming, Program: &asks}
		bare, err := l.State(ctx, coming)
		if err != nil {
			return o, err
		}
		began := time.Now()
		refusal := l.Apply(ctx, ask)
		took := time.Since(began)
		if refusal != nil && !refused(refusal) {
			return o, refusal
		}
		during, err := others(having)
		if err != nil {
			return o, err
		}
		state, err := l.State(ctx, coming)
		if err != nil {
			return o, err
		}
		left, _ := changes(bare, state)
		left = slices.DeleteFunc(left, func(l string) bool { return !strings.Contains(l, ": link ") }) // a tunnel is made before the lease is asked for (flannel pkg/backend/vxlan/vxlan.go RegisterNetwork)
		o = o.with(coming, "asked for a lease: %v", refusal).differences(coming, left)
		clear := refusal != nil && strings.Contains(refusal.Error(), "out of subnets")
		if !clear {
			return concluded(o, false, "%d hosts have all subnets of the network; one more, %s, asked for one: %v", len(having), coming, refusal), nil
		}
		gone, err := revoke(ctx, l, leaving)
		if err != nil {
			return o, err
		}
		o.Evidence = append(o.Evidence, gone)
		if err := l.Apply(ctx, ask); refused(err) {
			return concluded(o.with(coming, "asked again: %v", err), false, "%s, once the lease of %s was revoked, was refused again", coming, leaving), nil
		} else if err != nil {
			return o, err
		}
		// It numbers its bridge and a container of that subnet's: there is no other.
		was := l.plan.Machine(leaving)
		c := spareOf(l.plan, leaving, 1)
		steps := carriedOver(slices.Concat(b.mode.Setup(l.plan, was), b.mode.Attach(l.plan, was, c)), coming)
		if err := l.Apply(ctx, steps...); err != nil {
			return o, err
		}
		remaining := having[:len(having)-1]
		reached := 0
		for _, h := range remaining {
			to := netip.AddrPortFrom(b.mode.Addrs(l.plan, was, c)[0].Addr(), 0)
			yes, err := eventually(ctx, patience, func() (bool, error) {
				a, err := l.Ask(ctx, l.Containers(h, network(l))[0], lab.Ask{Proto: "icmp", To: to, Wait: slow})
				return a.Answered, err
			})
			if err != nil {
				return o, err
			}
			if yes {
				reached++
			}
		}
		after, err := others(remaining)
		if err != nil {
			return o, err
		}
		well := before == len(having) && during == len(having) && after == len(remaining)
		return concluded(o, well && reached == len(remaining),
			"%d hosts lease all subnets of the network, and %d of them reach each other; one more, %s, is refused one after %s, and %d of them do so still; once the lease of %s was revoked, it has that one: %d of %d hosts reach a container of it, and %d of %d each other",
			len(having), before, coming, took.Round(time.Millisecond), during, leaving, reached, len(remaining), after, len(remaining)).value("sec", took.Seconds()), nil
	},
	Sabotage: []Sabotage{
		configured("flannel-udp", "the first subnet is given out, too", `"SubnetLen": 24`, `"SubnetLen": 24, "SubnetMin": "10.244.0.0"`),
		{Mode: "flannel-host-gw", Doc: "the last host's daemon names another interface of it", Setup: mapPrograms(func(on string, p *topology.Program) {
			if on == "h4" && p.Name == daemon {
				p.Args = slices.Clone(p.Args)
				p.Args[slices.Index(p.Args, "-iface=eth0")] = "-iface=eth1"
			}
		})},
		configured("flannel-vxlan", "the first subnet is given out, too", `"SubnetLen": 24`, `"SubnetLen": 24, "SubnetMin": "10.244.0.0", "IPv6SubnetMin": "fd10:244::"`),
	},
})

// delicate are the header checksums at which taking one from the TTL carries, or does not, in one's complement (RFC 1624 section 3).
var delicate = []uint16{0xfcff, 0xfdff, 0xfe00, 0xfefe, 0xfeff, 0xff00, 0xfffe, 0x0000, 0x00ff, 0x0100, 0x1234}

var _ = register(Spec{
	Suite: "packets",
	Feature: Feature{
		Name: "lease-checksum", Group: "packets",
		Doc: "Is the header checksum of every packet right when it comes to another host's container, whatever it was when it left, through all that take one from its TTL?",
	},
	Name: "a container sends one of another host packets whose identification is chosen so that their header checksums are those at which arithmetic carries",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		if o := leaseless(b); o != nil {
			return *o, nil
		}
		from, to := container(b), far(b)
		if ok, err := reaches(ctx, b); err != nil || !ok {
			return Observation{Status: "mixed", Detail: fmt.Sprintf("%s does not reach %s", from, to)}, err
		}
		s, err := b.State(ctx, from.Machine)
		if err != nil {
			return Observation{}, err
		}
		router := slices.IndexFunc(s.Spaces[""].Links, func(l lab.Link) bool { return l.Kind == "bridge" })
		if router < 0 {
			return Observation{}, fmt.Errorf("%s has no bridge", from.Machine)
		}
		send := func(id uint16) (string, error) {
			token := b.newToken()
			return token, b.Send(ctx, from, ownDevice(b, from), lab.Packet{
				EthSrc: attachedAt(b, from).MAC, EthDst: s.Spaces[""].Links[router].MAC, Proto: "udp", Token: token,
				IP:  &lab.IP{TTL: 64, ID: int(id)},
				Src: netip.AddrPortFrom(addrOf(b, from, IPv4), 30000), Dst: netip.AddrPortFrom(addrOf(b, to, IPv4), controlPort),
			})
		}
		recorded, err := b.Record(ctx)
		if err != nil {
			return Observation{}, err
		}
		// at gives the packet with a token as it was seen in a container.
		at := func(token string, in Place) (p *lab.Packet, err error) {
			_, err = eventually(ctx, hopeful, func() (bool, error) {
				packets, err := recorded(ctx, func(p lab.Packet) bool {
					return p.Token == token && p.Machine == in.Machine && p.In == in.Container && p.Dst.Port() == controlPort && len(p.Frame) > 34
				})
				if len(packets) > 0 {
					p = &packets[0]
				}
				return p != nil, err
			})
			return p, err
		}
		sum := func(p *lab.Packet) uint16 { return uint16(p.Frame[24])<<8 | uint16(p.Frame[25]) } // behind the frame's header
		const known = 1
		token, err := send(known)
		if err != nil {
			return Observation{}, err
		}
		first, err := at(token, from)
		if err != nil || first == nil {
			return Observation{}, errors.Join(err, fmt.Errorf("the first packet was not seen in %s", from))
		}
		// The sum of all words but the identification and the checksum, in one's complement.
		rest := uint32(^sum(first)) + uint32(^uint16(known))
		rest = rest&0xffff + rest>>16
		var wrong []string
		var evidence []reports.Evidence
		for _, want := range delicate {
			id := uint32(^want) + uint32(^uint16(rest))
			token, err := send(uint16(id&0xffff + id>>16))
			if err != nil {
				return Observation{}, err
			}
			left, err := at(token, from)
			if err != nil {
				return Observation{}, err
			}
			came, err := at(token, to)
			if err != nil {
				return Observation{}, err
			}
			switch {
			case left == nil:
				return Observation{}, fmt.Errorf("a packet was not seen in %s", from)
			case came == nil:
				wrong = append(wrong, fmt.Sprintf("the packet that left with the checksum %#04x did not come", sum(left)))
			case !came.IP.HeaderOK:
				wrong = append(wrong, fmt.Sprintf("the packet that left with the checksum %#04x came with %#04x, which is wrong", sum(left), sum(came)))
			default:
				evidence = append(evidence, reports.Evidence{At: to.String(), Saw: fmt.Sprintf("left with the checksum %#04x and the TTL %d, came with %#04x and %d", sum(left), left.IP.TTL, sum(came), came.IP.TTL)})
			}
		}
		return summed(wrong, evidence, "%d packets of %s, with header checksums from %#04x to %#04x, came to %s with right ones", len(delicate), from, delicate[0], delicate[len(delicate)-1], to).
			value("count", float64(len(delicate)-len(wrong))), nil
	},
	Sabotage: []Sabotage{cut("flannel-udp"), cut("flannel-host-gw")},
})

var _ = register(Spec{
	Suite: "packets",
	Feature: Feature{
		Name: "lease-unleased", Group: "packets",
		Doc: "Is a packet for a subnet of flannel's network that no host has leased answered with an ICMP destination unreachable (RFC 1812 section 4.3.3.1), so that the asker hears of it?",
	},
	Name: "a container asks an address of a subnet of the network that no host has leased",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		if o := leaseless(b); o != nil {
			return *o, nil
		}
		from := container(b)
		to := unleased().Addr().Next()
		for _, h := range hostNames(b) {
			if subnet, _ := b.plan.Subnet(h); subnet.Contains(to) {
				return Observation{}, fmt.Errorf("%s has leased %s, the last subnet of the network", h, subnet)
			}
		}
		ask := lab.Ask{Proto: "udp", To: netip.AddrPortFrom(to, controlPort), Wait: hopeful, Token: b.newToken()}
		recorded, err := b.Record(ctx)
		if err != nil {
			return Observation{}, err
		}
		var a lab.Answer
		_, err = eventually(ctx, patience, func() (bool, error) { // a daemon may have much else to do
			a, err = b.Ask(ctx, from, ask)
			return a.Answered || a.Refusal.Errno != "", err
		})
		if err != nil {
			return Observation{}, err
		}
		packets, err := recorded(ctx, func(p lab.Packet) bool { return p.Token == ask.Token })
		if err != nil {
			return Observation{}, err
		}
		var evidence []reports.Evidence
		out := false // on the segment
		for _, p := range packets {
			evidence, out = append(evidence, seen(p)), out || onSegment(b, p)
		}
		var o Observation
		switch {
		case a.ICMPFrom.IsValid() && !a.Answered:
			o = works("%s asked %s, which is of no lease: %s reported %s; on the segment the question was seen: %t", from, to, a.ICMPFrom, a.Refusal.Text, out)
		case a.Answered, a.Refusal.Errno != "":
			return Observation{Status: "mixed", Detail: fmt.Sprintf("%s asked %s, which is of no lease: answered %t %s", from, to, a.Answered, a.Refusal.Text), Evidence: evidence}, nil
		default:
			ok, err := eventually(ctx, retry, func() (bool, error) { return reaches(ctx, b) })
			if err != nil {
				return Observation{}, err
			}
			if !ok {
				return astray(b, a, evidence), nil
			}
			o = blocked("%s asked %s, which is of no lease: nothing came back; on the segment the question was seen: %t", from, to, out).
				with(from.String(), "control: %s, which is leased, answered an echo", far(b))
		}
		o.Evidence = append(o.Evidence, evidence...)
		return o, nil
	},
	Sabotage: []Sabotage{
		{Mode: "flannel-udp", Doc: "the hosts take in what comes from an address of their own", Steps: func(p *topology.Plan) (steps []topology.Step) {
			for _, h := range p.Hosts() {
				steps = append(steps, topology.Step{On: h.Name, Sysctl: &topology.Sysctl{Key: "net/ipv4/conf/all/accept_local", Value: "1"}})
			}
			return steps
		}},
		wordless("flannel-vxlan"), wordless("flannel-host-gw"),
	},
})

// unleased is the last subnet of flannel's network, which only a host of very many has a lease of.
func unleased() netip.Prefix {
	all4, _ := topology.Spanned()
	last := all4.Addr().As4()
	last[2] = 254
	return netip.PrefixFrom(netip.AddrFrom4(last), 24)
}

// wordless has the hosts of a mode drop what is for the last subnet of its network without a word.
func wordless(mode string) Sabotage {
	return Sabotage{Mode: mode, Doc: "the hosts drop what is for no lease without a word", Steps: func(p *topology.Plan) (steps []topology.Step) {
		for _, h := range p.Hosts() {
			steps = append(steps, topology.Step{On: h.Name, Route: &topology.Route{Type: "blackhole", Dst: unleased()}})
		}
		return steps
	}}
}

var _ = register(Spec{
	Suite: "lifecycle",
	Feature: Feature{
		Name: "lease-public-address", Group: "operations",
		Doc: "Does a host whose public address is not its interface's, as behind a NAT, get a lease, and are its containers reached?",
	},
	Name:   "in a lab of its own, one more host says that others reach it by an address that its interface has not got, and to which what is sent is translated to its own; a container of another host asks one there",
	Within: 2 * specTimeout,
	Run: func(ctx context.Context, b *Bench) (o Observation, err error) {
		if o := leaseless(b); o != nil {
			return *o, nil
		}
		l, err := oneMore(ctx, b, 2)
		if err != nil {
			return o, err
		}
		defer func() { err = errors.Join(err, l.Close()) }()
		hosts := hostNames(l)
		from, coming := l.Containers(hosts[0], network(l))[0], l.plan.Machine(hosts[len(hosts)-1])
		own, c := coming.NIC(l.plan.Network(network(l)).NIC).V4.Addr(), spareOf(l.plan, coming.Name, 1)
		public := c.Segment4.Addr() // of the segment, and nobody's: containers have addresses of the leases
		steps := append([]topology.Step{
			{On: coming.Name, Addr: &topology.Addr{Link: "lo", Prefix: netip.PrefixFrom(public, public.BitLen())}},
			{On: coming.Name, Table: &topology.Table{Family: "inet", Name: "public", Chains: []topology.Chain{{
				Name: "prerouting", Type: "nat", Hook: "prerouting", Priority: -100,
				Rules: []topology.Rule{{
					Match:   []topology.Match{{Field: "ip daddr", Value: public.String()}},
					Verdict: topology.Verdict{Kind: "dnat", To: netip.AddrPortFrom(own, 0)},
				}},
			}}}},
		}, mapPrograms(func(_ string, p *topology.Program) {
			p.Args = append([]string{"-public-ip=" + public.String()}, p.Args...)
		})(b.mode.Setup(l.plan, coming))...)
		if err := l.Apply(ctx, steps...); refused(err) && strings.Contains(err.Error(), "PublicIP differs from interface IP") {
			return blocked("%s, whose interface has %s and which others reach by %s, asked for a lease, and its daemon ended: %v", coming.Name, own, public, err), nil
		} else if err != nil {
			return o, err
		}
		if err := l.Apply(ctx, b.mode.Attach(l.plan, coming, c)...); err != nil {
			return o, err
		}
		to := Place{coming.Name, c.Name}
		port, err := serve(ctx, l, to, unspecified(IPv4))
		if err != nil {
			return o, err
		}
		recorded, err := l.Record(ctx)
		if err != nil {
			return o, err
		}
		ask := lab.Ask{Proto: "udp", To: netip.AddrPortFrom(b.mode.Addrs(l.plan, coming, c)[0].Addr(), port), Token: l.newToken(), Wait: slow}
		a, err := insisted(ctx, l, from, ask) // others have yet to hear of the lease
		if err != nil {
			return o, err
		}
		packets, err := recorded(ctx, func(p lab.Packet) bool { return p.Token == ask.Token && onSegment(l, p) && p.Dst.Addr() == public })
		if err != nil {
			return o, err
		}
		return concluded(o.sampled(packets, 1), a.Answered && len(packets) > 0, "%s, whose interface has %s and which others reach by %s, has a lease; %s reached a container of it: %t; to that address packets crossed the segment: %d",
			coming.Name, own, public, from, a.Answered, len(packets)), nil
	},
	Sabotage: []Sabotage{unnamed("flannel-host-gw"), unnamed("flannel-udp"), unnamed("flannel-vxlan")},
})

// unnamed has the last of three hosts tell others no address but its interface's.
func unnamed(mode string) Sabotage {
	return Sabotage{Mode: mode, Doc: "the last host's daemon names no address but its interface's", Setup: mapPrograms(func(on string, p *topology.Program) {
		if on == "h3" && p.Name == daemon {
			p.Args = append(slices.Clone(p.Args), "-public-ip=")
		}
	})}
}

// undone is an experiment on what a daemon has made on the first host for the second one's lease, in a lab of its own: something of it is deleted, by a
// route that leads there, and a container asks one of the second host until it is answered, or as long as a daemon may take that looks every ten
// seconds. Where it is not, the daemon is started again, which makes all anew, as a control.
func undone(lose func(host string, r lab.Route) (step topology.Step, what string)) func(context.Context, *Bench) (Observation, error) {
	return func(ctx context.Context, b *Bench) (o Observation, err error) {
		if o := leaseless(b); o != nil {
			return *o, nil
		}
		l, err := newBench(ctx, b.driver, b.plan, b.mode, b.rewire)
		if err != nil {
			return o, err
		}
		defer func() { err = errors.Join(err, l.Close()) }()
		again := func(within time.Duration) (bool, error) {
			return eventually(ctx, within, func() (bool, error) { return reaches(ctx, l) })
		}
		host, to := firstHost(l), addrOf(l, far(l), IPv4)
		if ok, err := again(patience); err != nil || !ok {
			return o, errors.Join(err, fmt.Errorf("%s does not reach %s at all", container(l), far(l)))
		}
		s, err := l.own(ctx, host)
		if err != nil {
			return o, err
		}
		at := slices.IndexFunc(s.Routes, func(r lab.Route) bool { return r.Dst.Bits() > 0 && r.Dst.Contains(to) })
		if at < 0 {
			return o, fmt.Errorf("%s has no route to %s but its default one", host, to)
		}
		step, what := lose(host, s.Routes[at])
		if what == "" {
			return notApplicable("the daemon has no device of its own: its routes lead over the host's interface"), nil
		}
		began := time.Now()
		if err := l.Apply(ctx, step); err != nil {
			return o, err
		}
		if still, err := reaches(ctx, l); err != nil || still {
			return o, errors.Join(err, fmt.Errorf("%s still reaches %s without %s: nothing was lost", container(l), far(l), what))
		}
		const looks = 10 * time.Second // pkg/backend/route_network.go, routeCheckRetries
		back, err := again(5 * looks / 2)
		if err != nil {
			return o, err
		}
		took := time.Since(began)
		if back {
			return works("%s of %s was deleted, and %s reached %s again after %.1f s", what, host, container(l), far(l), took.Seconds()).value("sec", took.Seconds()), nil
		}
		if s, err = l.own(ctx, host); err != nil {
			return o, err
		}
		o = blocked("%s of %s was deleted, and %s did not reach %s for %.1f s", what, host, container(l), far(l), took.Seconds())
		var now []string
		for _, r := range s.Routes {
			if r.Dst.Bits() > 0 && r.Dst.Contains(to) {
				now = append(now, r.Text)
			}
		}
		o = o.with(host, "routes to %s then: %s", far(l), orNone(now))
		for _, k := range s.Links {
			if step.Link != nil && k.Name == step.Link.Name {
				o = o.with(host, "%s is there again", k.Name)
			}
		}
		if err := errors.Join(l.Do(ctx, host, "Program.Kill", daemon, &lab.Nothing{}), l.Do(ctx, host, "Program.Start", daemon, &lab.Nothing{})); err != nil {
			return o, err
		}
		if ok, err := again(patience); err != nil || !ok {
			return o, errors.Join(err, fmt.Errorf("%s does not reach %s when the daemon was started again either: nothing can be concluded from silence", container(l), far(l)))
		}
		return o.with(host, "control: when the daemon was started again, %s answered", far(l)), nil
	}
}

var _ = register(Spec{
	Suite: failure,
	Feature: Feature{
		Name: "lease-route-lost", Group: failure,
		Doc: "When a host's route to another host's lease is deleted, does its daemon put it back by itself?",
	},
	Name:   "in a lab of its own, the first host's route to the second one's lease is deleted, and a container asks one there until it is answered, or for 25 seconds",
	Within: 2 * specTimeout,
	Run: undone(func(host string, r lab.Route) (topology.Step, string) {
		return topology.Step{On: host, Remove: true, Route: &topology.Route{Dst: r.Dst, Via: r.Via, Link: r.Link, Scope: "global"}}, "the route to " + r.Dst.String()
	}),
	Sabotage: []Sabotage{configured("flannel-host-gw", "the daemons tunnel, and look after no routes", `"Type": "host-gw"`, `"Type": "vxlan"`)},
})

var _ = register(Spec{
	Suite: failure,
	Feature: Feature{
		Name: "lease-device-lost", Group: failure,
		Doc: "When the device of a host's tunnel is deleted, does its daemon make all that led to other hosts again by itself?",
	},
	Name:   "in a lab of its own, the device by which the first host's route leads to the second one's lease is deleted, and a container asks one there until it is answered, or for 25 seconds",
	Within: 2 * specTimeout,
	Run: undone(func(host string, r lab.Route) (topology.Step, string) {
		if !strings.HasPrefix(r.Link, "flannel") {
			return topology.Step{}, ""
		}
		return topology.Step{On: host, Remove: true, Link: &topology.Link{Name: r.Link}}, "the device " + r.Link
	}),
	Sabotage: []Sabotage{configured("flannel-host-gw", "the daemons tunnel", `"Type": "host-gw"`, `"Type": "vxlan"`)},
})
