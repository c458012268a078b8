package modes

import "github.com/modebench/modebench/topology"

var _ = register(140, switched(Mode{
	Name: "vlan-ipvlan",
	Doc: "Each network is a VLAN on the host's one cable, with an 802.1Q device on the host and no bridge. Each container " +
		"is a station in its VLAN with an address of its own and the host's MAC address, by ipvlan on that device.",
	GoodFor: "Hosts with one interface and many networks that the switch already keeps apart by VLAN, behind ports that " +
		"admit one MAC address.",
	BadFor: "Ports that carry no tags, as in most clouds, address management by MAC address, and containers that talk to " +
		"their own host. The 802.1Q devices must be made again after each start of the host.",
	Fabric: topology.Trunk,
	Needs:  []Kernel{VLAN},
}))
