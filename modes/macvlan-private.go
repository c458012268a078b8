package modes

var _ = register(60, macvlan(Mode{
	Name: "macvlan-private",
	Doc: "Each container is a station on the segment with a MAC and an address of its own, on the host's interface. " +
		"Containers of one interface never reach each other, not even where the switch sends frames back.",
	GoodFor: "Tenants side by side on one host who may talk to the network, but not to each other.",
	BadFor: "Containers of one host that work together, containers that talk to their own host, and networks that admit " +
		"one MAC address a port, as most clouds and wireless networks do.",
}, "private", ownMAC))
