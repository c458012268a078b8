package modes

import "github.com/modebench/modebench/topology"

var _ = register(130, macvlan(Mode{
	Name: "vlan-macvlan",
	Doc: "Each network is a VLAN on the host's one cable, with an 802.1Q device on the host and no bridge. Each container " +
		"is a station in its VLAN with a MAC and an address of its own, by macvlan on that device.",
	GoodFor: "Hosts with one interface and many networks that the switch already keeps apart by VLAN, for services under " +
		"addresses of their own, with broadcast and multicast.",
	BadFor: "Ports that carry no tags, as in most clouds, ports that admit one MAC address, and containers that talk to their " +
		"own host. The 802.1Q devices must be made again after each start of the host.",
	Fabric: topology.Trunk,
	Needs:  []Kernel{VLAN},
}, "bridge", ownMAC))
