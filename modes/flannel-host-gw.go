package modes

var _ = register(310, flannel(Mode{
	Name: "flannel-host-gw",
	Doc: "flannel's daemon on each host takes a lease of a subnet for its containers from etcd, and makes a route to each other host's " +
		"subnet by that host itself. Packets between hosts are those of the containers, without encapsulation. What leaves the network is masqueraded.",
	GoodFor: "Hosts on one segment, whose containers are to reach each other as fast and with packets as large as the hosts do.",
	BadFor: "Hosts with a router between them, and clouds, which forward by their own tables; containers that keep their address when they move, " +
		"broadcast and multicast between hosts, networks of containers that are to be kept apart, and whoever does not want to run etcd.",
}, backend{kind: "host-gw", six: true}))
