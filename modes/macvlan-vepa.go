package modes

var _ = register(70, macvlan(Mode{
	Name: "macvlan-vepa",
	Doc: "Each container is a station on the segment with a MAC and an address of its own, on the host's interface. " +
		"All frames go to the switch, which alone decides: containers of one interface reach each other where it sends " +
		"frames back by the port they came from (IEEE 802.1Qbg reflective relay).",
	GoodFor: "Networks whose switch is to see, count and filter all traffic, also between containers of one host.",
	BadFor: "Switches without reflective relay, where containers of one host are cut off from each other; and networks that " +
		"admit one MAC address a port.",
}, "vepa", ownMAC))
