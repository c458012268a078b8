package modes

import (
	"net"
	"net/netip"

	"github.com/modebench/modebench/topology"
)

var _ = register(400, Mode{
	Name: "direct-bgp",
	Doc: "A veth pair joins each container to the host, which routes to its address alone and announces the block of its " +
		"containers to the router by BGP. There is no bridge, no encapsulation and no translation: a container's address " +
		"is good everywhere, and stays when it moves.",
	GoodFor: "Routed data centres, machines without containers among them, that call each container by its own address and filter " +
		"at its device, also what goes between two of one host.",
	BadFor: "Networks whose router does not take routes from hosts, addresses that overlap, broadcast and multicast, and " +
		"whoever takes an address that is not published for one that is not reached: all ports are open until filtered.",
	Fabric: topology.Routed,
	Needs:  []Kernel{Veth, NFTables},
	Setup: func(p *topology.Plan, host *topology.Machine) []topology.Step {
		s := steps{on: host.Name}
		s.host(forwarding()...)
		// The host's link-local address is the same on all pairs, and no pair has a third end that could object to it.
		s.host(sysctl("net/ipv6/conf/default/accept_dad", "0"))
		return append(s.all, speaks(p, host)...)
	},
	Attach: func(p *topology.Plan, host *topology.Machine, c topology.Container) []topology.Step {
		mtu := nic(p, host, c.Network).MTU
		own := hostAddrs(p, host, c)
		s := steps{on: host.Name}
		s.own(c)
		s.in(c.Name, sysctl("net/ipv6/conf/default/accept_dad", "0"))
		s.host(
			topology.Step{Link: &topology.Link{
				Name: c.Device, Kind: "veth", MAC: hopMAC, MTU: mtu, Up: true,
				PeerName: eth0, PeerIn: c.Name, PeerMAC: c.MAC, PeerMTU: mtu,
			}},
			// Answered at once: the random wait (proxy_delay of arp(7)) is for several that might answer.
			sysctl("net/ipv4/neigh/"+c.Device+"/proxy_delay", "0"),
			sysctl("net/ipv4/conf/"+c.Device+"/proxy_arp", "1"),
			topology.Step{Table: honest(c, own)},
		)
		for _, a := range own {
			s.host(topology.Step{Route: &topology.Route{Dst: a, Link: c.Device, Scope: scope(a)}})
		}
		s.start(c, eth0, own...)
		for i, hop := range []netip.Addr{hop4, hop6} {
			s.in(c.Name, topology.Step{Route: &topology.Route{
				Dst: everywhere(own[i].Addr()), Via: hop, Link: eth0, OnLink: true,
			}})
		}
		s.announce(p, host, c, c.Device)
		return s.all
	},
	Policy: byDevices("inet", ownDevice),
	Rate:   ratedAt(ownDevice),
	Addrs:  hostAddrs,
	Device: eth0,
})

// The next hop of every container is its host, by addresses that the containers of all hosts have in common, so that nothing
// in a container changes when it moves. The one of IPv4 is no machine's: hosts answer for it (proxy ARP, RFC 1027).
// That of IPv6 is the one that the MAC address gives the host's device (RFC 4291 appendix A).
var (
	hopMAC = net.HardwareAddr{0xee, 0xee, 0xee, 0xee, 0xee, 0xee}
	hop4   = netip.MustParseAddr("169.254.1.1")
	hop6   = netip.MustParseAddr("fe80::ecee:eeff:feee:eeee")
)

// scope is that of a route to a neighbour; IPv6 knows none (ip-route(8)).
func scope(to netip.Prefix) string {
	if to.Addr().Is4() {
		return "link"
	}
	return ""
}

// honest drops what comes from a container with a source that is not its own (RFC 2827). Its link-local address is, for
// the link alone: it resolves the next hop with it, and no router forwards it (RFC 4291 section 2.5.6).
func honest(c topology.Container, own []netip.Prefix) *topology.Table {
	chain := topology.Chain{Name: "prerouting", Type: "filter", Hook: "prerouting", Priority: raw}
	from := topology.Match{Field: "iifname", Value: c.Device}
	for i, f := range families {
		match := []topology.Match{from, {Field: f.ip + " saddr", Not: true, Value: own[i].Addr().String()}}
		if f.ip == "ip6" {
			match = append(match, topology.Match{Field: "ip6 saddr", Not: true, Value: "fe80::/10"})
		}
		chain.Rules = append(chain.Rules, topology.Rule{
			Match: match, Verdict: topology.Verdict{Kind: "drop"}, Comment: "foreign source " + f.name,
		})
	}
	return &topology.Table{Family: "inet", Name: "workload-" + c.Device, Chains: []topology.Chain{chain}}
}
