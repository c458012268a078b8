package topology

import (
	"net"
	"net/netip"
)

// Wiring is what a mode asks of the machines of a plan.
type Wiring struct {
	Mode     string
	Setup    []Step       // on the hosts, before any container
	Attached []Attachment // the containers of the plan, in its order
}

// Attachment is what attaches one container to one host. Undoing its steps detaches it.
type Attachment struct {
	Container Container
	Host      string // where it is attached
	Steps     []Step
}

// Step is one change of one network namespace. Exactly one of its pointers is set.
//
// A step is carried out by the program on the machine On, which records what undoes it. Steps are plain data: they
// travel, compare and print as the shell line that does the same.
type Step struct {
	On     string // machine
	In     string // container whose namespace is changed; empty: the machine's own
	Remove bool   // do the opposite: delete the link, address, route, neighbour, rules; undone by putting them back

	Space   *Space
	Link    *Link
	Set     *LinkSet
	Addr    *Addr
	Route   *Route
	Neigh   *Neigh
	Sysctl  *Sysctl
	Table   *Table
	Offload *Offload
	Shape   *Shape
}

// Space makes the network namespace of a container, with its loopback up.
// It has no name on the machine: the program that made it holds it. In is empty.
type Space struct {
	Name string // the container
	// Share names whose namespace it is instead of one of its own: a container of the same machine, or "host" for the machine's.
	Share string
}

// Link makes a device. Its kind's fields follow ip-link(8).
type Link struct {
	Name   string
	Kind   string           // bridge, veth, macvlan, vxlan, …
	MAC    net.HardwareAddr // nil: the kernel's choice
	MTU    int              // 0: the kernel's choice
	Master string           // bridge of the same namespace; empty: none
	Up     bool

	// veth
	PeerName string
	PeerIn   string // container whose namespace gets the peer; empty: the machine's own
	PeerMAC  net.HardwareAddr
	PeerMTU  int

	// macvlan (and later ipvlan, vlan): made in In on a parent of the machine's own namespace
	Parent     string
	ParentMode string // private, vepa, bridge, passthru
	NoPromisc  bool   // macvlan passthru's flag
}

// LinkSet changes a device. Zero fields stay as they are.
type LinkSet struct {
	Name     string
	State    string // up, down
	MTU      int
	Master   string // a bridge; "none" takes the port out of its bridge
	MAC      net.HardwareAddr
	Hairpin  string // on, off: of a bridge port
	Isolated string // on, off: of a bridge port
	Promisc  string // on, off
	Mode     string // macvlan mode
}

// Addr is an address of a device.
type Addr struct {
	Link          string
	Prefix        netip.Prefix
	Peer          netip.Prefix // point-to-point peer; zero: none
	NoDAD         bool         // IPv6: skip duplicate address detection (RFC 4862 section 5.4)
	NoPrefixRoute bool         // do not add the route of the prefix
}

// Route is a unicast route of the main table.
type Route struct {
	Dst    netip.Prefix // the zero prefix of a family is its default route
	Via    netip.Addr   // invalid: on link
	Link   string       // empty: by Via
	Scope  string       // link, global; empty: the kernel's choice
	Src    netip.Addr
	OnLink bool
	MTU    int
}

// Neigh is a permanent entry: of the neighbour table, or, with FDB, of a bridge's or VXLAN's forwarding table.
type Neigh struct {
	Link  string
	IP    netip.Addr
	MAC   net.HardwareAddr
	Proxy bool // answer for IP on Link (proxy ARP or NDP)
	FDB   bool
}

// Sysctl is a setting below /proc/sys of the namespace.
type Sysctl struct {
	Key   string // path with slashes, such as net/ipv4/ip_forward
	Value string
}

// Offload switches a feature of a device, as ethtool -K does.
type Offload struct {
	Link    string
	Feature string // tx-checksum, tso, gso, gro
	On      bool
}

// Shape limits what a device sends by a token bucket (tc-tbf(8)).
type Shape struct {
	Link string
	Rate BitRate
}

// Table is an nftables table with its chains, all of which are its own: removing the table removes them.
type Table struct {
	Family string // ip, ip6, inet, arp, bridge, netdev
	Name   string
	Chains []Chain
}

// Chain is a base chain where Hook is set, else a regular one.
type Chain struct {
	Name     string
	Type     string // filter, nat, route
	Hook     string // prerouting, input, forward, output, postrouting, ingress
	Priority int
	Policy   string // accept, drop; empty: accept
	Rules    []Rule
}

// Rule is matches, all of which must hold, and then a verdict. Every rule counts packets and bytes.
type Rule struct {
	Match   []Match
	Verdict Verdict
	Comment string // unique in its table where a spec reads the rule's counter
}

// Match compares one field. Fields are named as nft(8) names them: iifname, oifname, ip saddr, ip daddr, ip6 saddr,
// ip6 daddr, meta l4proto, tcp dport, udp dport, tcp sport, udp sport, th dport, ct state, ct status, ether saddr, ether daddr, fib daddr type,
// meta nfproto.
type Match struct {
	Field string
	Not   bool
	Value string // an address, a prefix, a port, a name, or for ct state a comma-separated list
}

// Verdict is what a rule does.
type Verdict struct {
	Kind        string         // accept, drop, return, masquerade, snat, dnat, reject, count (only counts), jump
	To          netip.AddrPort // snat, dnat; port 0: keeps it
	Chain       string         // jump
	FullyRandom bool           // masquerade, snat
}
