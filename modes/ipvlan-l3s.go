package modes

var _ = register(120, routed(Mode{
	Name: "ipvlan-l3s",
	Doc: "As ipvlan-l3, but what comes in passes the host's input hooks as well, as what goes out passes its output hooks: " +
		"the host's packet filter and connection tracking see both ways.",
	GoodFor: "What ipvlan-l3 is good for, where the host has to filter its containers' traffic by connection.",
	BadFor: "Networks whose router does not take routes from hosts, containers that talk to their own host, discovery by " +
		"broadcast or multicast, and captures in the container, which do not see what comes from outside.",
	Policy: asHost(hostAddrs),
}, "l3s"))
