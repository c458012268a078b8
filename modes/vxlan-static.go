package modes

import "github.com/modebench/modebench/topology"

var _ = register(200, overlay(Mode{
	Name: "vxlan-static",
	Doc: "Each network is one segment across all hosts, in VXLAN, and containers have one subnet wherever they are. Which hosts there " +
		"are is written down: what is for all, or for a station not yet seen, is sent to each of them (head-end replication), and " +
		"who is where is learned from the frames that come. A second device of each container leads to the outside, masqueraded.",
	GoodFor: "Containers of a few known hosts that are to be neighbours with addresses of their own, over any network that carries " +
		"UDP between the hosts, and without a daemon or a database.",
	BadFor: "Many hosts, or hosts that come and go: each must be told to all, and every broadcast is sent as often as there are hosts. " +
		"And the last bit of throughput and of packet size.",
}, func(p *topology.Plan, host *topology.Machine, n topology.PlannedNetwork, device *topology.Link) (after []topology.Step) {
	device.Learning = true
	for _, peer := range p.Hosts() {
		if peer.Name != host.Name {
			after = append(after, topology.Step{Neigh: &topology.Neigh{
				Link: device.Name, MAC: everybody, IP: nic(p, peer, n.Name).V4.Addr(), FDB: true,
			}})
		}
	}
	return after
}))
