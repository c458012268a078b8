package modes

var _ = register(100, switched(Mode{
	Name: "ipvlan-l2",
	Doc: "Each container is a station on the segment with an address of its own and the MAC address of the host's " +
		"interface, which it shares with the host and all others. The host tells them apart by IP address.",
	GoodFor: "Services that are to stand on the existing network under addresses of their own where a port of the switch " +
		"admits one MAC address, and hosts with more containers than the interface has room for MAC addresses.",
	BadFor: "Containers that talk to their own host, address management that tells stations apart by MAC address, such as " +
		"DHCP without client identifiers, and rules of the host's IP packet filter, which never sees their packets.",
}))
