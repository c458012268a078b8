package modes

import (
	"net/netip"

	"github.com/modebench/modebench/topology"
)

var _ = register(30, Mode{
	Name: "container",
	Doc: "Containers of one network on one host share one network namespace, as those of a pod do. The first of them is " +
		"wired as in the mode bridge; the others enter its namespace.",
	GoodFor: "Parts of one application that belong together: helpers beside a server, proxies, and tools that diagnose it " +
		"from within. They talk over loopback.",
	BadFor: "Parts that want the same port, or that must not see each other's traffic. Where the first container is all " +
		"that holds the namespace, one that is started again in its place gets another.",
	Needs: []Kernel{Veth, Bridge, NFTNAT},
	Setup: bridgeSetup,
	Attach: func(p *topology.Plan, host *topology.Machine, c topology.Container) []topology.Step {
		first := owner(host, c)
		if first.ID() == c.ID() {
			return bridgeAttach(p, host, c)
		}
		s := steps{on: host.Name}
		s.enter(c, first.Name)
		return s.all
	},
	Publish: func(p *topology.Plan, host *topology.Machine, c topology.Container, port Port) []topology.Step {
		return publish(p, host, owner(host, c), port)
	},
	Policy: byDevices("bridge", ownersDevice),
	Rate:   ratedAt(ownersDevice),
	Addrs:  ownersAddrs,
	Device: eth0,
	Docker: &Engined{
		Network: dockerBridge, Policy: byAddresses("bridge", ownersAddrs), Rate: ratedWithin(eth0),
		Share: func(host *topology.Machine, c topology.Container) (whose, network string) {
			if first := owner(host, c); first.ID() != c.ID() {
				return first.Name, "container:" + dockerName(first)
			}
			return "", ""
		},
	},
})

func ownersAddrs(p *topology.Plan, host *topology.Machine, c topology.Container) []netip.Prefix {
	return privateAddrs(p, host, owner(host, c))
}

// owner is the container whose namespace another one is in when attached to a host: the first of its network that is
// planned there, also for one that comes from another host; else the container itself.
func owner(host *topology.Machine, c topology.Container) topology.Container {
	for _, first := range host.Containers {
		if first.Network == c.Network {
			return first
		}
	}
	return c
}

// ownersDevice is the host's end of the one pair of all that share its namespace.
func ownersDevice(host *topology.Machine, c topology.Container) []string {
	return []string{owner(host, c).Device}
}
