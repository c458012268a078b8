package modes

var _ = register(80, macvlan(Mode{
	Name: "macvlan-bridge",
	Doc: "Each container is a station on the segment with a MAC and an address of its own, on the host's interface. " +
		"Containers of one interface reach each other directly, without a bridge and without the switch.",
	GoodFor: "Services that are to stand on the existing network under addresses of their own, without translation, with " +
		"broadcast and multicast.",
	BadFor: "Containers that talk to their own host, rules of the host's IP packet filter, which never sees their packets, " +
		"and networks that admit one MAC address a port.",
}, "bridge", ownMAC))
