package modes

var _ = register(300, flannel(Mode{
	Name: "flannel-vxlan",
	Doc: "flannel's daemon on each host takes a lease of a subnet for its containers from etcd, and leads what is for others' subnets " +
		"to their hosts in VXLAN: one route, one neighbour and one forwarding entry for each host. Between hosts it is routed. What " +
		"leaves the network is masqueraded.",
	GoodFor: "Many hosts, each with containers that have addresses of their own throughout, over any network that carries UDP between the " +
		"hosts: hosts come and go, and nobody writes down routes.",
	BadFor: "Containers that keep their address when they move, broadcast and multicast between hosts, networks of containers that are to " +
		"be kept apart, and whoever does not want to run etcd. And the last bit of throughput and of packet size.",
	Needs: []Kernel{VXLAN},
}, backend{kind: "vxlan", overhead: vxlanOverhead, six: true}))
