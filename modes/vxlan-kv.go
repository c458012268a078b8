package modes

var _ = register(225, clustered(overlay(Mode{
	Name: "vxlan-kv",
	Doc: "Each network is one segment across all hosts, in VXLAN, and containers have one subnet wherever they are. Hosts write which " +
		"containers they have to a store, a real etcd, and watch it for those of the others, which they write into the tables of their tunnels: " +
		"frames go to the right host from the first one on, and questions for MAC addresses are answered where they are asked. What a host " +
		"wrote is on a lease that ends with it. A second device of each container leads to the outside, masqueraded.",
	GoodFor: "Containers of hosts that come and go, where a store is kept running anyway: there is one place that knows where every container " +
		"is, in one order, and nothing is flooded.",
	BadFor: "Hosts without a store: while it is out of reach, containers that come or move are not reached from other hosts. Protocols that need " +
		"broadcast or multicast between hosts. And the last bit of throughput and of packet size.",
	Programs: []string{"etcd"},
}, proxying), true))
