package modes

import "github.com/modebench/modebench/topology"

var _ = register(46, Mode{
	Name: "ambassador",
	Doc: "Links to another host: as the mode links, but what a container is linked to is an ambassador, a container of its own host that carries " +
		"each configured port on to a published one of the other host, by a process for each.",
	GoodFor: "Old set-ups of linked containers that have to be spread over hosts, or whose servers move: only the ambassador is set anew, and " +
		"nothing that is linked to it.",
	BadFor: "Anything new, and servers that want to know who asks: they see an ambassador's address. Each port is configured by hand on both hosts, nothing " +
		"but TCP and UDP gets through, and every byte passes two more processes.",
	Needs:      []Kernel{Veth, Bridge, NFTNAT, NFBridge},
	Setup:      linksSetup,
	Attach:     linksAttach,
	Publish:    publish,
	Policy:     byDevices("bridge", ownDevice),
	Rate:       ratedAt(ownDevice),
	Link:       link,
	Ambassador: carry,
	Addrs:      privateAddrs,
	Device:     eth0,
})

// carry is Mode.Ambassador: a relay for each port, as Docker's image for it had a socat for each (moby docs/articles/ambassador_pattern_linking.md). The
// container stays, and with it its address, which those that are linked to it know.
func carry(_ *topology.Plan, host *topology.Machine, c topology.Container, was, now []topology.Relay) []topology.Step {
	s := steps{on: host.Name}
	for _, r := range was {
		s.in(c.Name, topology.Step{Remove: true, Relay: &r})
	}
	for _, r := range now {
		s.in(c.Name, topology.Step{Relay: &r})
	}
	return s.all
}
