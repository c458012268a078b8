package modes

import (
	"fmt"
	"net/netip"

	"github.com/modebench/modebench/topology"
)

var _ = register(330, leased(Mode{
	Name: "flannel-aws-vpc",
	Doc: "Each host leases a block of container addresses, joins its containers by a bridge, and has a route to the block put " +
		"into the cloud's own table, so that packets travel as they are. flannel did so in Amazon VPC, in its backend aws-vpc, " +
		"until it was removed in 2022 (last in v0.19.2); here the wiring does what that backend asked of the cloud, on a fabric " +
		"that is a model of one.",
	GoodFor: "A few dozen machines in Amazon VPC whose containers reach each other, and are reached by machines without containers, " +
		"by their own addresses, with the whole MTU and without a tunnel.",
	BadFor: "More hosts than a route table has room for, IPv6, containers that keep their address when they move, broadcast " +
		"and multicast, and whoever may not switch off the check of source and destination of a machine.",
}, 50, 0))

var _ = register(340, leased(Mode{
	Name: "flannel-gce",
	Doc: "The mode flannel-aws-vpc in Google Compute Engine: a route of the project leads to each host's block, with the priority " +
		"1000, and machines are made with IP forwarding. flannel had it as its backend gce until 2022 (last in v0.19.2); here " +
		"the wiring does what that backend asked of the cloud, on a fabric that is a model of one.",
	GoodFor: "Machines in one project of Google Compute Engine whose containers reach each other by their own addresses, " +
		"with the whole MTU and without a tunnel, up to a hundred hosts.",
	BadFor: "More hosts than a project may have routes, which all of its networks share, IPv6, containers that keep their address " +
		"when they move, and broadcast and multicast.",
}, 100, 1000))

// leased is a mode of flannel without encapsulation: hosts have blocks, and the cloud a route to each of them. Its table holds
// so many unless the topology says otherwise; priority is the routes' own, less being preferred.
func leased(m Mode, routes, priority int) Mode {
	m.Fabric, m.Needs = topology.VPC, []Kernel{Veth, Bridge, NFTNAT, NFBridge}
	m.Admit = func(p *topology.Plan, host *topology.Machine, c topology.Container) error {
		const room = 256 - 3 // but the network, the host and the broadcast address
		if lease := p.Lease(host.Name, c.Network); !lease.IsValid() || c.Number > room {
			return fmt.Errorf("container %d: a host leases %d addresses for containers, in the networks of the first 64 and on the first 255 hosts", c.Number, room)
		}
		return nil
	}
	m.Setup = func(p *topology.Plan, host *topology.Machine) []topology.Step {
		s := steps{on: host.Name}
		s.host(forwarding4()...)
		checked := map[string]bool{}
		for i, n := range p.Networks {
			up := nic(p, host, n.Name)
			gateway := leaseGateway(p, host, n.Name)
			s.host(
				topology.Step{Link: &topology.Link{Name: n.Bridge, Kind: "bridge", MAC: besides(up, 0xff00+i), MTU: up.MTU}},
				topology.Step{Addr: &topology.Addr{Link: n.Bridge, Prefix: gateway}},
				topology.Step{Set: &topology.LinkSet{Name: n.Bridge, State: "up"}},
				topology.Step{Table: leasedMasquerade(n.Name, across(gateway), gateway.Masked())},
			)
			if tor := p.Machine(up.Peer.Machine); up.Name != host.NICs[0].Name {
				// The default route is by the first interface, and a cloud takes from each what it knows to be behind it.
				s.host(topology.Step{Route: &topology.Route{Dst: across(gateway), Via: tor.NIC(up.Peer.Interface).V4.Addr(), Link: up.Name}})
			}
			if !checked[up.Name] {
				checked[up.Name] = true
				tor, check := p.AddressCheck(host.Name, up.Name)
				s.all = append(s.all, topology.Step{On: tor, Remove: true, Table: &check})
			}
			route := p.TableRoute(gateway.Masked(), host.Name, up.Name, routes)
			route.Route.Metric = priority
			s.all = append(s.all, route)
		}
		return s.all
	}
	m.Attach = func(p *topology.Plan, host *topology.Machine, c topology.Container) []topology.Step {
		gateway := leaseGateway(p, host, c.Network).Addr()
		s := steps{on: host.Name}
		s.own(c)
		s.veth(p, host, c, p.Network(c.Network).Bridge)
		s.join(c, c.Device, eth0, c.MAC, leaseAddrs(p, host, c)...)
		s.in(c.Name, topology.Step{Route: &topology.Route{Dst: everywhere(gateway), Via: gateway, Link: eth0}})
		return s.all
	}
	m.Publish = func(p *topology.Plan, host *topology.Machine, c topology.Container, port Port) []topology.Step {
		return portMap(host, port, leaseAddrs(p, host, c)[0].Addr())
	}
	m.Policy, m.Rate = byDevices("bridge", ownDevice), ratedAt(ownDevice)
	m.Addrs, m.Device = leaseAddrs, eth0
	return m
}

// leasedMasquerade is the source translation of a network's block across hosts, as flannel's option -ip-masq makes it: of what
// leaves the block, and of what comes from elsewhere by this host and is for a lease that is not its own.
func leasedMasquerade(network string, block, own netip.Prefix) *topology.Table {
	t := translation(network, block)
	chain := &t.Chains[0]
	chain.Rules = append(chain.Rules, topology.Rule{
		Match: []topology.Match{
			{Field: "ip saddr", Not: true, Value: block.String()},
			{Field: "ip daddr", Value: block.String()},
			{Field: "ip daddr", Not: true, Value: own.String()},
		},
		Verdict: topology.Verdict{Kind: "masquerade"},
		Comment: "masquerade toward " + network + " ipv4",
	})
	return t
}

// across is the block that the leases of all hosts are parts of.
func across(lease netip.Prefix) netip.Prefix {
	return netip.PrefixFrom(lease.Addr(), 16).Masked()
}

// leaseGateway is a host's own address in its block.
func leaseGateway(p *topology.Plan, host *topology.Machine, network string) netip.Prefix {
	lease := p.Lease(host.Name, network)
	if !lease.IsValid() {
		return lease // Admit has told why
	}
	return netip.PrefixFrom(lease.Addr().Next(), lease.Bits())
}

// leaseAddrs is the one in the host's block that the container's number makes.
func leaseAddrs(p *topology.Plan, host *topology.Machine, c topology.Container) []netip.Prefix {
	lease := p.Lease(host.Name, c.Network)
	if !lease.IsValid() || c.Number > 254 {
		return nil // Admit has told why
	}
	a := lease.Addr().As4()
	a[3] = byte(c.Number + 1)
	return []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4(a), lease.Bits())}
}
