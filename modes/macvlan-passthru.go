package modes

var _ = register(90, macvlan(Mode{
	Name: "macvlan-passthru",
	Doc: "One container has the host's interface for itself, under the interface's own MAC address and an address of its " +
		"own on the segment.",
	GoodFor: "A container that is the machine's reason to exist, such as a virtual appliance, on networks that admit one " +
		"MAC address a port.",
	BadFor: "Hosts with one interface: its own addresses there stop working. A second container needs a second interface.",
	Limit:  1,
}, "passthru", parentMAC))
