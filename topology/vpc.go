package topology

import (
	"cmp"
	"net/netip"
)

// noRoute is the device to which a tor of a VPC fabric sends what its table has no route for. Unlike a route that refuses,
// it leaves the packet to be counted, and the sender without an answer. No segment, machine or port has a name with a dot.
const noRoute = "no.route"

// cloud makes a tor the router of a VPC fabric. All interfaces of a segment are ports of one bridge that are isolated from one
// another: they reach the router alone (RFC 5517). It answers ARP for every address of the segment (proxy_arp_pvlan of
// Documentation/networking/ip-sysctl.rst, RFC 3069), and neighbour solicitations for those that machines have. It knows
// where each of these is, and asks nobody.
func (p *Plan) cloud(tor *Machine, add func(Step)) {
	sysctl := func(key, value string) { add(Step{Sysctl: &Sysctl{Key: key, Value: value}}) }
	// Its devices have no link-local address (IN6_ADDR_GEN_MODE_NONE of linux/if_link.h), without which they send no redirects:
	// that a packet leaves by the bridge that it came by is how all of them go.
	sysctl("net/ipv6/conf/default/addr_gen_mode", "1")
	add(Step{Link: &Link{Name: noRoute, Kind: "bridge", Up: true}})
	for _, all := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
		add(Step{Route: &Route{Dst: netip.PrefixFrom(all, 0), Link: noRoute}})
	}
	p.bridges(tor, add)
	known := map[string]bool{}
	for _, port := range tor.NICs {
		bridge := port.Segment
		if !known[bridge] {
			known[bridge] = true
			sysctl("net/ipv4/conf/"+bridge+"/proxy_arp", "1")
			sysctl("net/ipv4/conf/"+bridge+"/proxy_arp_pvlan", "1")
			sysctl("net/ipv6/conf/"+bridge+"/proxy_ndp", "1")
			for _, family := range []string{"ipv4", "ipv6"} {
				// Answered at once: the random wait (proxy_delay of arp(7)) is for several that might answer.
				sysctl("net/"+family+"/neigh/"+bridge+"/proxy_delay", "0")
			}
			add(Step{Addr: &Addr{Link: bridge, Prefix: port.V4}})
			add(Step{Addr: &Addr{Link: bridge, Prefix: port.V6, NoDAD: true}})
		}
		nic := p.Machine(port.Peer.Machine).NIC(port.Peer.Interface)
		add(Step{Set: &LinkSet{Name: port.Name, Isolated: "on"}})
		add(Step{Neigh: &Neigh{Link: port.Name, MAC: nic.MAC, FDB: true}})
		for _, own := range []netip.Prefix{alone(nic.V4), alone(nic.V6)} {
			add(Step{Route: &Route{Dst: own, Link: bridge}})
			add(Step{Neigh: &Neigh{Link: bridge, IP: own.Addr(), MAC: nic.MAC}})
		}
		add(Step{Neigh: &Neigh{Link: bridge, IP: nic.V6.Addr(), Proxy: true}})
	}
	for _, t := range p.guards(tor) {
		add(Step{Table: &t})
	}
	for _, port := range tor.NICs {
		t := p.addressCheck(port)
		add(Step{Table: &t})
	}
}

const broadcast = "ff:ff:ff:ff:ff:ff"

// guards are a tor's rules for all of its ports: what has a source MAC address that is not the interface's is dropped, what is
// for more than one receiver but resolution, and what no route leads to.
func (p *Plan) guards(tor *Machine) []Table {
	drop := Verdict{Kind: "drop"}
	ports := Chain{Name: "source", Type: "filter", Hook: "prerouting", Priority: -300}
	for _, port := range tor.NICs {
		nic := p.Machine(port.Peer.Machine).NIC(port.Peer.Interface)
		ports.Rules = append(ports.Rules, Rule{
			Match:   []Match{{Field: "iifname", Value: port.Name}, {Field: "ether saddr", Not: true, Value: nic.MAC.String()}},
			Verdict: drop, Comment: "source MAC " + port.Name,
		})
	}
	many := Chain{Name: "receivers", Type: "filter", Hook: "prerouting", Priority: -100, Rules: []Rule{
		{
			Match:   []Match{{Field: "ether daddr", Value: broadcast}, {Field: "ether type", Not: true, Value: "arp"}},
			Verdict: drop, Comment: "broadcast",
		},
		{Match: []Match{{Field: "ip daddr", Value: "224.0.0.0/4"}}, Verdict: drop, Comment: "multicast ipv4"},
		{
			// Solicited-node groups (RFC 4291 section 2.7.1), by which the router is asked.
			Match:   []Match{{Field: "ip6 daddr", Not: true, Value: "ff02::1:ff00:0/104"}, {Field: "ip6 daddr", Value: "ff00::/8"}},
			Verdict: drop, Comment: "multicast ipv6",
		},
	}}
	nowhere := Chain{Name: "forward", Type: "filter", Hook: "forward", Rules: []Rule{
		{Match: []Match{{Field: "oifname", Value: noRoute}}, Verdict: drop, Comment: "no route"},
	}}
	return []Table{
		{Family: "bridge", Name: "ports", Chains: []Chain{ports, many}},
		{Family: "inet", Name: "routes", Chains: []Chain{nowhere}},
	}
}

// AddressCheck is the source and destination check of a machine's interface on a VPC fabric, with the tor that makes it: what
// the interface sends must have one of its addresses as source, and what it is sent as destination. A machine that forwards
// for others has it switched off, which is to remove the table.
func (p *Plan) AddressCheck(machine, nic string) (tor string, check Table) {
	at := p.Machine(machine).NIC(nic).Peer
	return at.Machine, p.addressCheck(*p.Machine(at.Machine).NIC(at.Interface))
}

func (p *Plan) addressCheck(port Interface) Table {
	nic := p.Machine(port.Peer.Machine).NIC(port.Peer.Interface)
	from := Chain{Name: "source", Type: "filter", Hook: "prerouting", Priority: -200}
	to := Chain{Name: "destination", Type: "filter", Hook: "postrouting"}
	rule := func(chain *Chain, what, device, field, family string, others ...string) {
		match := []Match{{Field: device, Value: port.Name}}
		for _, a := range others {
			match = append(match, Match{Field: field, Not: true, Value: a})
		}
		chain.Rules = append(chain.Rules, Rule{Match: match, Verdict: Verdict{Kind: "drop"}, Comment: what + " address " + port.Name + " " + family})
	}
	rule(&from, "source", "iifname", "ip saddr", "ipv4", nic.V4.Addr().String())
	// Also what has no address yet, and link-local ones, which no router forwards.
	rule(&from, "source", "iifname", "ip6 saddr", "ipv6", nic.V6.Addr().String(), "fe80::/10", "::")
	rule(&to, "destination", "oifname", "ip daddr", "ipv4", nic.V4.Addr().String())
	rule(&to, "destination", "oifname", "ip6 daddr", "ipv6", nic.V6.Addr().String(), "fe80::/10", "ff00::/8")
	return Table{Family: "bridge", Name: "check-" + port.Name, Chains: []Chain{from, to}}
}

// TableRoute is a route of a VPC fabric's table: what is for dst goes to a machine's interface. It is refused where the table
// holds as many of the family as it may: those that the topology says, or else as many as is usual.
func (p *Plan) TableRoute(dst netip.Prefix, machine, nic string, usual int) Step {
	to := p.Machine(machine).NIC(nic)
	tor, hop := to.Peer.Machine, to.V4.Addr()
	if dst.Addr().Is6() {
		hop = to.V6.Addr()
	}
	return Step{On: tor, Route: &Route{Dst: dst, Via: hop, Link: to.Segment, Limit: cmp.Or(p.Topology.Tors[tor].Routes, usual)}}
}
