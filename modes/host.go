package modes

import (
	"net/netip"

	"github.com/modebench/modebench/topology"
)

var _ = register(20, Mode{
	Name: "host",
	Doc:  "The container has no network namespace of its own: it uses the host's interfaces, addresses and ports.",
	GoodFor: "The host's own speed with nothing to set up and nothing to translate: network functions, agents of the " +
		"machine itself, and services that have a machine each.",
	BadFor: "Two services that want the same port, tenants who must not see each other's traffic, and whatever binds to " +
		"loopback in the belief that nobody else can reach it.",
	Attach: func(_ *topology.Plan, host *topology.Machine, c topology.Container) []topology.Step {
		s := steps{on: host.Name}
		s.enter(c, "host")
		return s.all
	},
	Policy: asHost(nicAddrs),
	Addrs:  nicAddrs,
	Docker: &Engined{
		Policy: asHost(nicAddrs),
		Share:  func(*topology.Machine, topology.Container) (string, string) { return "host", "host" },
	},
})

// nicAddrs are those of the host's own interface.
func nicAddrs(p *topology.Plan, host *topology.Machine, c topology.Container) []netip.Prefix {
	n := nic(p, host, c.Network)
	return []netip.Prefix{n.V4, n.V6}
}
