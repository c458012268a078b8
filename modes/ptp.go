package modes

import (
	"net/netip"

	"github.com/modebench/modebench/topology"
)

var _ = register(50, Mode{
	Name: "ptp",
	Doc: "A veth pair joins each container to the host, which routes: no bridge, no broadcast domain. Private addresses " +
		"leave masqueraded as the host's, and come in by published ports only.",
	GoodFor: "Containers that have nothing to do with each other: each packet between them passes the host's router, and " +
		"with it whatever filters there.",
	BadFor: "Applications that find each other by broadcast or multicast, and containers on several hosts that talk to " +
		"each other.",
	Needs: []Kernel{Veth, NFTNAT},
	Setup: func(p *topology.Plan, host *topology.Machine) []topology.Step {
		s := steps{on: host.Name}
		s.host(forwarding()...)
		for _, n := range p.Networks {
			s.host(topology.Step{Table: masquerade(n)}, topology.Step{Table: guard(p, host, n, byBlock)})
		}
		return s.all
	},
	Attach: func(p *topology.Plan, host *topology.Machine, c topology.Container) []topology.Step {
		n := p.Network(c.Network)
		s := steps{on: host.Name}
		s.own(c)
		s.veth(p, host, c, "")
		for _, a := range []struct{ gateway, container netip.Addr }{
			{n.Gateway4, c.Private4.Addr()},
			{n.Gateway6, c.Private6.Addr()},
		} {
			s.host(
				// The same on the host's end of every pair: a container needs a neighbour to route by, not a subnet.
				topology.Step{Addr: &topology.Addr{Link: c.Device, Prefix: alone(a.gateway), NoDAD: a.gateway.Is6()}},
				topology.Step{Route: &topology.Route{Dst: alone(a.container), Link: c.Device, Scope: "link"}},
			)
		}
		s.start(c, eth0, ptpAddrs(p, host, c)...)
		for _, gateway := range []netip.Addr{n.Gateway4, n.Gateway6} {
			s.in(c.Name,
				topology.Step{Route: &topology.Route{Dst: alone(gateway), Link: eth0, Scope: "link"}},
				topology.Step{Route: &topology.Route{Dst: everywhere(gateway), Via: gateway, Link: eth0}},
			)
		}
		return s.all
	},
	Publish: publish,
	Policy:  byDevices("inet", ownDevice),
	Rate:    ratedAt(ownDevice),
	Addrs:   ptpAddrs,
	Device:  eth0,
	CNI: &Plugged{
		Chain: func(p *topology.Plan, host *topology.Machine, n topology.PlannedNetwork) []Plugin {
			return translated(p, host, n, Plugin{"type": "ptp", "capabilities": map[string]bool{"ips": true}})
		},
		Publish: portmap, Rate: bandwidth,
		Policy: byAddresses("inet", privateAddrs),
		Addrs:  privateAddrs, // with the length of the network's block, to which the plugin routes by the gateway
	},
})

// ptpAddrs are private ones, each alone in its subnet: siblings too are reached through the gateway.
func ptpAddrs(_ *topology.Plan, _ *topology.Machine, c topology.Container) []netip.Prefix {
	return []netip.Prefix{alone(c.Private4.Addr()), alone(c.Private6.Addr())}
}

// byBlock knows a network by its addresses: its containers have no device in common.
func byBlock(n topology.PlannedNetwork, f family) (from, to []topology.Match) {
	block := f.block(n).String()
	return []topology.Match{{Field: f.ip + " saddr", Value: block}}, []topology.Match{{Field: f.ip + " daddr", Value: block}}
}
