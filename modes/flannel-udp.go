package modes

var _ = register(320, flannel(Mode{
	Name: "flannel-udp",
	Doc: "flannel's daemon on each host takes a lease of a subnet for its containers from etcd, reads what is for others' subnets from a " +
		"TUN device, and sends each packet to its host in a UDP datagram. What leaves the network is masqueraded.",
	GoodFor: "Kernels without VXLAN, and finding out what goes wrong with the other backends.",
	BadFor: "Throughput and latency: each packet passes the daemon on both hosts, and traffic between hosts ends with it. And IPv6, containers " +
		"that keep their address when they move, broadcast and multicast between hosts.",
	Needs: []Kernel{TUN},
}, backend{kind: "udp", overhead: 20 + 8})) // an outer IPv4 and UDP header
