package topology

import (
	"net"
	"net/netip"
)

// Plan is everything decided about a lab before anything is started: names, addresses, MACs, MTUs.
type Plan struct {
	Topology Topology         // what it was made from
	Segments []PlannedSegment // by name
	Networks []PlannedNetwork // by name
	Machines []Machine        // tors, then hosts, then externals, each by name
}

// PlannedSegment is a segment with its name and its MTU decided.
type PlannedSegment struct {
	Name   string
	V4, V6 netip.Prefix
	MTU    int
}

// PlannedNetwork is a network of containers with its name.
type PlannedNetwork struct {
	Name     string
	NIC      string // of each host
	V4, V6   netip.Prefix
	Gateway4 netip.Addr // the host's own address in V4 where a mode gives it one: the first of the block
	Gateway6 netip.Addr // likewise in V6
	Bridge   string     // device name for the modes that have one, such as br-blue
}

// Role is what a machine is for.
type Role string

// The three roles.
const (
	RoleTor      Role = "tor"
	RoleHost     Role = "host"
	RoleExternal Role = "external"
)

// Machine is one machine of the lab.
type Machine struct {
	Name       string
	Role       Role
	NICs       []Interface // hosts and externals: by name; tors: one port for each interface they join, by machine and name
	Containers []Container // attached when a lab starts: by network, then by number
}

// Interface is one end of a cable. The two ends name each other.
type Interface struct {
	Name    string // at most 15 bytes; a tor's port is MACHINE-NIC, such as h1-eth0
	Segment string
	MAC     net.HardwareAddr // locally administered
	MTU     int
	V4, V6  netip.Prefix // address with the segment's length; zero on a tor's port
	Peer    Port
	Rate    BitRate
	Delay   string
	Loss    float64
}

// Port names an interface of a machine.
type Port struct{ Machine, Interface string }

// Container is one container network namespace, numbered in every way a mode may want.
type Container struct {
	Name               string // unique on its host and in the lab's plan: c1, c2, …
	Host               string // where it is planned; a moved container keeps its Host
	Network            string
	Number             int              // counts from 1 within its host
	MAC                net.HardwareAddr // for the modes in which a container has one of its own
	Segment4, Segment6 netip.Prefix     // address on the segment of its network's NIC, with the segment's length
	Private4, Private6 netip.Prefix     // address in its network's private block, with the block's length
	Device             string           // name for a device that a mode makes on the host for it, such as veth-c1; at most 15 bytes
}

// ID is how the container is named across the lab, such as h1/c1.
func (c Container) ID() string { return c.Host + "/" + c.Name }
