package modes

var _ = register(110, routed(Mode{
	Name: "ipvlan-l3",
	Doc: "Each container has an address, no layer 2 and the MAC address of the host's interface. What it sends leaves by " +
		"the host's routes out of that interface. The host announces its containers' block to the router by BGP.",
	GoodFor: "Routed data centres with very many containers: one MAC address and one route for a whole host, no broadcast, " +
		"and no hop or translation on the host.",
	BadFor: "Networks whose router does not take routes from hosts, containers that talk to their own host, discovery by " +
		"broadcast or multicast, and stateful rules on the host, which sees only what leaves.",
	Policy: onParent(hostAddrs),
}, "l3"))
