// Package topology describes labs: what a user wrote (Topology), what follows from it (Plan), and what a mode
// asks of the machines (Wiring). It is pure. It starts nothing, and the same file always gives the same plan.
package topology

import "net/netip"

// Topology is one topology file.
//
// Names are written in a file as the keys of a mapping and match [a-z][a-z0-9]{0,7}. Those of segments and of networks
// are one namespace each; those of tors, hosts and externals together are one.
type Topology struct {
	Name     string              `yaml:"name" json:"name"`
	Fabric   Fabric              `yaml:"fabric,omitempty" json:"fabric,omitempty"`
	Segments map[string]Segment  `yaml:"segments" json:"segments"`
	Tors     map[string]Tor      `yaml:"tors" json:"tors"`
	Hosts    map[string]Host     `yaml:"hosts" json:"hosts"`
	External map[string]External `yaml:"external,omitempty" json:"external,omitempty"`
	Networks map[string]Network  `yaml:"networks" json:"networks"`
}

// Segment is a layer-2 network.
type Segment struct {
	V4  netip.Prefix `yaml:"v4" json:"v4"`                       // the block that machines and containers on the segment are numbered from
	V6  netip.Prefix `yaml:"v6" json:"v6"`                       // likewise; of /49 to /64
	MTU int          `yaml:"mtu,omitempty" json:"mtu,omitempty"` // bytes; 0 means 1500; IPv6 needs 1280 (RFC 8200 section 5)
}

// Tor is a top-of-rack switch: it joins the machines of each of its segments, one bridge a segment.
type Tor struct {
	Joins  []string `yaml:"joins" json:"joins"`                       // segments
	Routes int      `yaml:"routes,omitempty" json:"routes,omitempty"` // of each family: that its table holds on the fabric vpc, 0: as many as is usual in the cloud that a mode is for; or that it bears of one neighbour on routed-bgp, 0: 100
}

// Host is a machine that carries containers.
type Host struct {
	NICs       map[string]NIC `yaml:"nics" json:"nics"`
	Containers map[string]int `yaml:"containers,omitempty" json:"containers,omitempty"` // network → how many are attached when a lab starts
}

// External is a machine outside of the container networks.
type External struct {
	NICs map[string]NIC `yaml:"nics" json:"nics"`
}

// NIC is a network interface of a machine. In a file it is either the segment's name or a mapping.
type NIC struct {
	Segment string  `yaml:"segment" json:"segment"`
	Rate    BitRate `yaml:"rate,omitempty" json:"rate,omitempty"`       // of what the machine sends and of what it is sent; 0: unlimited
	Delay   string  `yaml:"delay,omitempty" json:"delay,omitempty"`     // one way, a Go duration; needs netem
	Jitter  string  `yaml:"jitter,omitempty" json:"jitter,omitempty"`   // by which the delay varies either way, each packet's by itself, so that packets overtake each other: a Go duration, at most the delay
	Loss    float64 `yaml:"loss,omitempty" json:"loss,omitempty"`       // fraction of packets, 0 to 1; needs netem
	Reorder float64 `yaml:"reorder,omitempty" json:"reorder,omitempty"` // fraction of packets, 0 to 1, that are not delayed and so overtake those that are
}

// BitRate is in bit/s. In a file it is a number with an optional unit: 100Mbit/s, 1Gbit/s.
type BitRate uint64

// Network is a network of containers that every host has.
type Network struct {
	NIC string       `yaml:"nic" json:"nic"` // the host's interface that its traffic leaves by, or that modes hang containers on
	V4  netip.Prefix `yaml:"v4" json:"v4"`   // private block of the modes that number containers themselves; the same on every host
	V6  netip.Prefix `yaml:"v6" json:"v6"`   // likewise
}
