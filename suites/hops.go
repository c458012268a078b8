package suites

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/modebench/modebench/reports"
	"github.com/modebench/modebench/topology"
	"github.com/modebench/modebench/topology/lab"
)

var _ = register(Spec{
	Suite: "packets",
	Feature: Feature{
		Name: "hop-checksum", Group: "packets",
		Doc: "Where the host forwards: is the TTL one less and the IPv4 header checksum right on the segment?",
	},
	Name: "a container asks an external machine by ICMP echo, UDP and TCP, and the packets are read where they begin and on the switch's port",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		from := container(b)
		if b.Mode().Addrs == nil {
			return notApplicable("%s has no address and asks nobody outside", from), nil
		}
		o := works("packets of %s by ICMP, UDP and TCP over %s left %s with a TTL one less and the right header checksum", from, b.span(), from.Machine)
		for _, f := range b.families() {
			_, t, err := reach(ctx, b, from, external(b), f)
			if err != nil {
				return Observation{}, err
			}
			for _, proto := range protos {
				first := t.sent(proto)
				wire := t.find(func(p lab.Packet) bool {
					return p.Token == t.tokens[proto] && !p.Outgoing && b.plan.Machine(p.Machine).Role == topology.RoleTor
				})
				if first == nil || wire == nil {
					lost := t.observation()
					lost.Status, lost.Detail = "mixed", fmt.Sprintf("the message by %s was not seen on the segment: %s", proto, lost.Detail)
					return lost, nil
				}
				o.Evidence = append(o.Evidence, seen(*first), seen(*wire))
				switch {
				case wire.IP.TTL == first.IP.TTL:
					own := notApplicable("the host does not forward for the container: %s leaves it with the TTL of %d that it began with", proto, first.IP.TTL)
					own.Evidence = o.Evidence
					return own, nil
				case wire.IP.TTL != first.IP.TTL-1 || !wire.IP.HeaderOK:
					o.Status = reports.Blocked
					o.Detail = fmt.Sprintf("%s began with a TTL of %d and was on the segment with %d, its header checksum right: %t", proto, first.IP.TTL, wire.IP.TTL, wire.IP.HeaderOK)
					return o, nil
				}
			}
		}
		return o, nil
	},
	Sabotage: []Sabotage{
		{Mode: "bridge", Doc: "forwarding is off", Steps: unforwarded(IPv4, IPv6)},
		{Mode: "bridge", Doc: "a neighbour routes before the host does", Steps: func(p *topology.Plan) []topology.Step {
			h, x := p.Hosts()[0], p.Externals()[0].NICs[0]
			c, neighbour := h.Containers[0], h.Containers[1]
			return append(router(h.Name, neighbour.Name), topology.Step{On: h.Name, In: c.Name, Route: &topology.Route{
				Dst: netip.PrefixFrom(x.V4.Addr(), 32), Via: neighbour.Private4.Addr(),
			}})
		}},
	},
})

// router makes a namespace forward IPv4.
func router(machine, container string) []topology.Step {
	return []topology.Step{
		// Switching forwarding off again when it is undone would switch this on; said before, it is put back last.
		{On: machine, In: container, Sysctl: &topology.Sysctl{Key: "net/ipv4/conf/all/accept_redirects", Value: "0"}},
		{On: machine, In: container, Sysctl: &topology.Sysctl{Key: "net/ipv4/ip_forward", Value: "1"}},
	}
}

var _ = register(Spec{
	Suite: "packets",
	Feature: Feature{
		Name: "time-exceeded", Group: "packets",
		Doc: "Does a packet whose TTL ends at the host give an ICMP time exceeded from the host (its gateway)?",
	},
	Name: "a container asks an external machine by UDP with a TTL of one",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		from, x := container(b), external(b)
		if b.Mode().Addrs == nil {
			return notApplicable("%s has no address and asks nobody outside", from), nil
		}
		hosts, err := hostAddrs(ctx, b, from.Machine)
		if err != nil {
			return Observation{}, err
		}
		o := works("datagrams of %s to %s with a TTL of one, over %s, were reported back by %s", from, x, b.span(), from.Machine)
		for _, f := range b.families() {
			port, err := serve(ctx, b, x, unspecified(f))
			if err != nil {
				return Observation{}, err
			}
			to := netip.AddrPortFrom(addrOf(b, x, f), port)
			recorded, err := b.Record(ctx)
			if err != nil {
				return Observation{}, err
			}
			// Sent again where nothing came back: the first may have waited for a link-layer address for too long.
			var a lab.Answer
			token := b.newToken()
			for range 2 {
				if a, err = b.Ask(ctx, from, lab.Ask{Proto: "udp", To: to, TTL: 1, Token: token, Wait: hopeful}); err != nil {
					return Observation{}, err
				}
				if a.Answered || a.Refusal.Errno != "" {
					break
				}
			}
			packets, err := recorded(ctx, func(p lab.Packet) bool { return p.Token == token })
			if err != nil {
				return Observation{}, err
			}
			if a.Answered {
				own := notApplicable("the host does not forward for the container: a datagram of %s with a TTL of one arrived at %s", from, x)
				for _, p := range packets {
					own.Evidence = append(own.Evidence, seen(p))
				}
				return own, nil
			}
			for _, tor := range b.plan.Tors() {
				for _, n := range tor.NICs {
					if a.ICMPFrom.IsValid() && (n.V4.Addr() == a.ICMPFrom || n.V6.Addr() == a.ICMPFrom) {
						own := notApplicable("the host does not forward for the container: a datagram of %s with a TTL of one passed it and ended at %s", from, tor.Name)
						for _, p := range packets {
							own.Evidence = append(own.Evidence, seen(p))
						}
						return own, nil
					}
				}
			}
			for _, p := range packets {
				exceeded := p.ICMP != nil && (f == IPv4 && p.ICMP.Type == 11 || f == IPv6 && p.ICMP.Type == 3) // RFC 792, RFC 4443
				if exceeded && !p.Outgoing && p.Machine == from.Machine && p.In == from.Container && hosts[p.Src.Addr()] && a.ICMPFrom == p.Src.Addr() {
					o.Evidence = append(o.Evidence, seen(p))
					o = o.with(from.String(), "the kernel told the sender %s, from %s", a.Refusal.Errno, a.ICMPFrom)
					packets = nil
					break
				}
			}
			if packets == nil {
				continue
			}
			lost := blocked("a datagram of %s to %s with a TTL of one was not reported back (told: %q)", from, to, a.Refusal.Text)
			for _, p := range packets {
				lost.Evidence = append(lost.Evidence, seen(p))
			}
			alive, err := control(ctx, b, from, x, to.Addr())
			lost.Evidence = append(lost.Evidence, alive...)
			return lost, err
		}
		return o, nil
	},
	Sabotage: []Sabotage{
		{Mode: "bridge", Doc: "forwarding is off", Steps: unforwarded(IPv4, IPv6)},
		{Mode: "ptp", Doc: "the host filters its own ICMP", Steps: func(p *topology.Plan) []topology.Step {
			return []topology.Step{{On: p.Hosts()[0].Name, Table: &topology.Table{Family: "ip", Name: "filter", Chains: []topology.Chain{{
				Name: "output", Type: "filter", Hook: "output",
				Rules: []topology.Rule{{
					Match:   []topology.Match{{Field: "meta l4proto", Value: "icmp"}},
					Verdict: topology.Verdict{Kind: "drop"}, Comment: "own ICMP",
				}},
			}}}}}
		}},
	},
})
