package topology

import (
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"path"
	"slices"
	"strings"
	"time"
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

	Space    *Space
	Link     *Link
	Set      *LinkSet
	Addr     *Addr
	Route    *Route
	Neigh    *Neigh
	Sysctl   *Sysctl
	Table    *Table
	Offload  *Offload
	Shape    *Shape
	Redirect *Redirect
	Forget   *Forget
	Await    *Await
	VLAN     *VLAN
	BGP      *BGP
	Announce *Announcement
	Gossip   *Gossip
	Endpoint *Endpoint
	Program  *Program
	Reserve  *Reserve
	Resolver *Resolver
	Hosts    *Hosts
	Process  *Process
	Relay    *Relay
	Name     *Name

	DHCPServer *DHCPServer
	DHCP       *DHCP
	CNI        *CNI

	Engine        *Engine
	EngineNetwork *EngineNetwork
	EnginePort    *EnginePort
	EngineJoin    *EngineJoin
	EngineSwarm   *EngineSwarm
}

// Space makes the network namespace of a container, with its loopback up.
// It has no name on the machine: the program that made it holds it. In is empty.
type Space struct {
	Name string // the container
	// Share names whose namespace it is instead of one of its own: a container of the same machine, or "host" for the machine's.
	Share string
	// Defaults has a namespace of its own begin with the settings of the function Defaults.
	Defaults bool
	// Run has the machine's engine make it, by running a container; nil: nobody does.
	Run *EngineContainer
}

// begins tells whether a step makes a namespace that begins with settings.
func (s Step) begins() bool {
	return s.Space != nil && s.Space.Defaults && s.Space.Share == "" && !s.Remove
}

// Link makes a device. Its kind's fields follow ip-link(8).
type Link struct {
	Name   string
	Kind   string           // bridge, veth, macvlan, ipvlan, vlan, vxlan, ipip, tun, ifb
	MAC    net.HardwareAddr // nil: the kernel's choice
	MTU    int              // 0: the kernel's choice
	Master string           // bridge of the same namespace; empty: none
	Up     bool

	// veth
	PeerName string
	PeerIn   string // container whose namespace gets the peer; empty: the machine's own
	PeerMAC  net.HardwareAddr
	PeerMTU  int

	// bridge
	NoSnooping    bool // flood all multicast: no IGMP and MLD snooping
	Querier       bool // ask for members of groups itself (RFC 3376, RFC 3810), and believe after a second that all have told
	MaxLearned    int  // how many addresses it learns at most (Linux 6.7); 0: any number
	VLANFiltering bool // keep VLANs apart (IEEE 802.1Q); ports are in none until a step VLAN puts them there

	// macvlan, ipvlan, vlan: made in In on a parent of the machine's own namespace, as is a vxlan with a group
	Parent     string
	ParentMode string // macvlan: private, vepa, bridge, passthru; ipvlan: l2, l3, l3s
	VID        int    // vlan: 0 to 4094

	// vxlan, ipip: tunnels. Where their packets go is said by entries (Neigh.FDB) of a vxlan, and by the next hops of routes
	// over an ipip.
	Local    netip.Addr // of their packets
	VNI      int        // vxlan
	Port     int        // vxlan: where their packets are sent (UDP)
	Proxy    bool       // vxlan: answer ARP and neighbour solicitations for the neighbours that it has, and carry none
	Learning bool       // vxlan: make entries for senders of what arrives; else it has those alone that it is given
	Entries  int        // vxlan: how many its forwarding table may have; 0: any number
	Group    netip.Addr // vxlan: multicast group, joined on Parent, for frames that no entry is for; invalid: none
	// vxlan over IPv6: send its packets without a UDP checksum, and take in those that have none (RFC 6935 section 5)
	UDP6ZeroCSumTx, UDP6ZeroCSumRx bool
}

// QueryResponse is the time in which members of groups answer a bridge that asks (Link.Querier).
const QueryResponse = time.Second

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
	Mode     string // of a macvlan, or one of IPVLANModes of an ipvlan, which all on its parent then have
}

// IPVLANModes are the modes of ipvlan (Documentation/networking/ipvlan.rst).
var IPVLANModes = []string{"l2", "l3", "l3s"}

// Addr is an address of a device.
type Addr struct {
	Link          string
	Prefix        netip.Prefix
	Peer          netip.Prefix // point-to-point peer; zero: none
	NoDAD         bool         // IPv6: skip duplicate address detection (RFC 4862 section 5.4)
	NoPrefixRoute bool         // do not add the route of the prefix
}

// Route is a route of the main table.
type Route struct {
	Type   string       // blackhole, unreachable; empty: unicast
	Metric int          // of several routes to Dst the one with the least is used; 0: the kernel's choice (1024 in IPv6)
	Dst    netip.Prefix // the zero prefix of a family is its default route
	Via    netip.Addr   // invalid: on link
	Link   string       // empty: by Via
	Scope  string       // link, global; empty: the kernel's choice
	Src    netip.Addr
	OnLink bool
	MTU    int
	// Limit refuses the route (ENOSPC) where the machine has as many of the family by a gateway as a cloud's table holds; 0: it does not.
	Limit int
}

// VLAN puts a bridge's port into a VLAN, after bridge(8).
type VLAN struct {
	Link     string // the port
	VID      int    // 1 to 4094
	Untagged bool   // an access port: frames leave without a tag, and those that come without one belong to the VLAN
}

// BGP is a machine's speaker (RFC 4271). It programs the best paths that it learns into the machine's main routing table,
// as routes of the protocol bgp (186), and takes them out when they are withdrawn. Undoing it ends its sessions.
type BGP struct {
	AS        uint32
	ID        netip.Addr // BGP identifier (RFC 4271 section 1.1)
	Peers     []Peer
	Hold      time.Duration // proposed hold time; keepalives are sent every third of it
	Restart   time.Duration // graceful restart time (RFC 4724); 0: not offered
	Multipath bool          // program all equally good paths of a prefix, not only the best one
}

// Peer is one neighbour of a speaker, on a link that the two share. One session carries both families (RFC 4760).
type Peer struct {
	Addr        netip.Addr // the neighbour's IPv4 address: of the session
	AS          uint32     // its
	Local       netip.Addr // own IPv4 address: of the session, and next hop of what is announced
	Local6      netip.Addr // next hop of what is announced of IPv6: own address on the link
	Passive     bool       // wait for it to connect
	Accept      []Accept   // import policy: what any of these holds; empty: whatever it announces
	MaxPrefixes uint32     // that it may announce in each family before the session is ended (RFC 4486 subcode 1); 0: no limit
}

// Accept holds the prefixes in Prefix whose lengths are MinBits to MaxBits, as a prefix list with ge and le does.
type Accept struct {
	Prefix           netip.Prefix
	MinBits, MaxBits int
}

// Announcement has the machine's speaker announce a prefix to its peers. Several may announce the same: it is withdrawn
// when the last of them is undone.
type Announcement struct {
	Prefix netip.Prefix
	// Link is the device of the machine that leads there; empty: none does alone. What has just come up takes no packet until its operational state
	// has followed its carrier (RFC 2863, ifOperStatus), and what was announced before that loses the first of those that
	// come, and a second with the neighbour's resolution. It is waited for, a second at most.
	Link string
	Many int // so many, of single IPv4 addresses one after another; 0: one
}

// All are the prefixes.
func (a Announcement) All() []netip.Prefix {
	all := make([]netip.Prefix, 0, max(1, a.Many))
	for p := a.Prefix; len(all) < cap(all); p = netip.PrefixFrom(p.Addr().Next(), p.Bits()) {
		all = append(all, p)
	}
	return all
}

// Gossip makes the machine a member of a cluster that knows who of it is alive and where endpoints are, by gossip (SWIM, as in
// HashiCorp's memberlist), or from a store that all members write to and watch (etcd). For each endpoint of another living member it keeps entries in the tunnel of its VNI: of the
// forwarding table, and of the neighbour table for each address. Undoing it leaves the cluster.
type Gossip struct {
	Name    string         // of the member: unique
	Addr    netip.Addr     // own, by which members talk
	Port    int            // of all members (UDP and TCP)
	Join    []netip.Addr   // members that are asked for the others, again and again while they are not alive
	Store   netip.AddrPort // instead of Port and Join: what all members write to; invalid: there is none
	Tunnels []Tunnel
}

// Tunnel is a VXLAN device of the machine and its VNI.
type Tunnel struct {
	VNI  int
	Link string
}

// Endpoint is a station in an overlay that the machine's member of the cluster tells the others about. Of two that say to have
// it, the one that said so last does.
type Endpoint struct {
	VNI  int
	MAC  net.HardwareAddr
	IPs  []netip.Addr
	VTEP netip.Addr // where frames for it are to be sent: the machine's own

	Store netip.AddrPort // that of the member, where it has one
}

// Program is another program that runs on the machine, beside its own: a daemon of somebody else's. It is started in the machine's
// network namespace, and the step is carried out when it is ready. Undoing it asks it to end (SIGTERM), kills it where it does not,
// and removes its files. It never outlives the machine's own program.
type Program struct {
	Name  string            // of the program on the machine: unique
	Path  string            // absolute, or a name that is looked for in PATH and in the directories of daemons
	Args  []string          // without the program itself
	Env   []string          // NAME=value, beside those of the machine's program
	Files map[string]string // contents by name, in a directory of its own that nobody else sees; it is started there
	Ready Ready
}

// Dir stands for a program's directory in its Args, its Env and the contents of its Files.
const Dir = "{dir}"

// Ready is when a program is: when all that is set here holds.
type Ready struct {
	Addr   netip.AddrPort // a TCP connection to it is accepted; invalid: not asked
	File   string         // it exists in the program's directory, made by the program; empty: not asked
	Within time.Duration  // or else it is an error; 0: 10 s
}

// Reserve has the machine's address manager give a container an address of each range of a pool, in the way of the CNI plugin
// host-local. Undoing it gives them back.
type Reserve struct {
	Pool   string       // of the machine: of these ranges while somebody has an address of it
	ID     string       // the container
	Link   string       // its interface
	Ranges []Range      // one for each family
	Want   []netip.Addr // these; of a range that none of them is in, the next
}

// Range is addresses of a subnet that are given out. Never given out are the subnet's own, the broadcast and the gateway's.
type Range struct {
	Subnet      netip.Prefix
	First, Last netip.Addr // invalid: the subnet's
	Gateway     netip.Addr // invalid: the first of the subnet
}

// DHCPServer has the machine give out addresses on the segment of a device: by RFC 2131, or those of IPv6 by RFC 8415. A machine has one for
// each family. Undoing it forgets all leases.
type DHCPServer struct {
	Link  string
	Addr  netip.Addr // own, on that segment
	Range Range
	Lease time.Duration // whole seconds; clients renew after half of it
}

// DHCP has a device get an address from a server on its segment, which it renews. The step is carried out when it has it. Undoing it gives
// the address back.
type DHCP struct {
	Link      string
	Six       bool          // it is to be one of IPv6 (RFC 8415), alone: which others are on the link is for routers to say
	ClientID  string        // by which servers know the client, whatever its hardware address
	Broadcast bool          // have answers sent to all: the device hears none that is for an address which it does not have yet
	Within    time.Duration // or else it is an error; 0: 1.5 s
}

// DUID is the identifier by which servers of IPv6 know the client: a UUID (RFC 6355) made of ClientID (RFC 9562 section 5.8).
func (d DHCP) DUID() []byte {
	sum := sha256.Sum256([]byte(d.ClientID))
	uuid := sum[:16]
	uuid[6], uuid[8] = uuid[6]&0x0f|0x80, uuid[8]&0x3f|0x80
	return append([]byte{0, 4}, uuid...)
}

// Resolver is a DNS server (RFC 1035), by UDP and TCP, that knows the names which its machine was given and answers that there are
// no others. In a container's namespace it is what Docker has at 127.0.0.11.
type Resolver struct {
	Addr netip.AddrPort
	TTL  time.Duration // for which who asks may keep an answer, in whole seconds
}

// Name gives addresses of the lab a name that resolvers of the machine tell: by records A, AAAA and PTR. Several may have the same one;
// then each question is answered with all their addresses, each time another one first.
type Name struct {
	Name  string // without a dot at its end, such as h1-c1.blue
	Addrs []netip.Addr
}

// Hosts is all of a container's file /etc/hosts, after hosts(5). Undoing it puts back what was in it.
type Hosts struct{ Text string }

// Process is what a container lives for: one that does nothing, in the container's namespace, with its /etc. Its environment
// is given to it when it starts and is nobody's to change after that (environ(7)).
type Process struct{ Env []string } // NAME=value, and no others

// Relay is a process in a container's namespace that carries one of its ports on: what comes there by TCP or UDP is sent to another
// address from the container's own, and what comes back, to who asked. The step is carried out when the port is bound. Undoing it ends the
// process, and all connections with it.
type Relay struct {
	Proto string         // tcp, udp
	Port  uint16         // on all addresses of both families
	To    netip.AddrPort // of either family
}

// CNI has plugins of the Container Network Interface attach a container (CNI specification 1.1.0, ADD). Undoing it detaches it (DEL). They run
// in the machine's own namespace. Of the machine's files they can change none: where plugins keep what they know, in /run, /var and /tmp, they
// find directories of their own, which are empty at first and end with the machine.
type CNI struct {
	Container string // whose namespace is CNI_NETNS
	ID        string // CNI_CONTAINERID: unique on the machine together with Link and the list's name
	Link      string // CNI_IFNAME
	List      string // network configuration list, as JSON (section 1)
	Args      string // capability arguments, as a JSON object, of which a plugin gets what its capabilities name ("runtimeConfig"); empty: none
	After     string // ID whose ADD by the list of that name gave the result that the first plugin gets ("prevResult"); empty: there is none
	Path      string // absolute directory of the plugins
	// Queues says that the plugin puts queues on the ends of the container's pairs on the machine, and leaves it to the ends to take them along.
	// Undoing the step takes them away where the ends stay.
	Queues bool
}

// Engine is Docker's on the machine: dockerd, in the machine's own namespace, with a containerd, an API, data and an image of its own, which is made of this
// very program. It can change none of the machine's files, and makes no control groups. Undoing the step ends it, and all that it started.
type Engine struct {
	Path    string         // absolute directory with dockerd and what it starts; empty: where the machine has them
	Default []netip.Prefix // of its default bridge, docker0, with the bridge's own address, of IPv4 and then, if at all, of IPv6; none: it has no such bridge
	Apart   bool           // containers on the default bridge do not reach each other, but where one is linked (icc=false)
}

// EngineNetwork is a network of the machine's engine (docker network create). Undoing it removes it.
type EngineNetwork struct {
	Name     string
	Driver   string // bridge, macvlan, ipvlan; or overlay, of a node that manages a swarm, which containers of all its nodes may join
	Blocks   []netip.Prefix
	Gateways []netip.Addr // one for each block; zero: the engine chooses
	Options  map[string]string
}

// Attachable tells whether the network is one of a swarm's, in which containers are only where it says that they may be.
func (n EngineNetwork) Attachable() bool { return n.Driver == "overlay" }

// EngineContainer is a container that an engine runs (docker run), which does nothing but wait.
type EngineContainer struct {
	Name    string       // by which the engine's resolver tells it
	Network string       // of the engine's; or, as in docker run --network, none, host or container:NAME
	Addrs   []netip.Addr // in the network; none: the engine's choice
	Exposed []string     // ports, such as 80/tcp
	Env     []string     // NAME=value
	Links   []EngineLink // to others of the default bridge, which run
}

// EngineLink is what a container of the default bridge is told of another one (docker run --link), and where it is let through to it.
type EngineLink struct{ To, Alias string }

// EnginePort publishes a port of a container. An engine does so when it makes a container: hence it is removed, with those that share its
// namespace, and run again with the ports that it had and this one. What listens there does so again. Undoing it does the same without this port.
type EnginePort struct {
	Container       string
	Proto           string // tcp, udp
	Host, Published uint16 // port of the host's, and of the container's
}

// EngineJoin joins a container that an engine runs to one more of its networks (docker network connect), by an endpoint. Undoing it takes that away, and so
// does removing it, of an endpoint that the container already has.
type EngineJoin struct {
	Container, Network string
	Addrs              []netip.Addr // in the network; none: the engine's choice
}

// EngineSwarm makes the machine's engine a node of a swarm, which it begins, and manages, or joins. Undoing it takes it out, whatever it has there.
type EngineSwarm struct {
	Addr    netip.Addr // by which other nodes reach it
	Manager string     // the machine whose engine began the swarm that it joins; empty: it begins one
	At      netip.Addr // Addr of the manager's
	Token   string     // by which the manager lets it in; empty: the lab asks the manager for it, who may not have begun yet
}

// Neigh is an entry: of the neighbour table, or, with FDB, of a bridge's or VXLAN's forwarding table. It is permanent, unless it says otherwise.
type Neigh struct {
	Link  string
	IP    netip.Addr
	MAC   net.HardwareAddr
	Proxy bool // answer for IP on Link (proxy ARP or NDP)
	Found bool // of the neighbour table: as if the kernel had just found it, so that it may go again (NUD_REACHABLE)
	FDB   bool
	Many  int // so many entries; 0: one. Those of a forwarding table are of as many MAC addresses, one after another, others of as many IPv4 addresses
}

// All are the entries, each by itself.
func (n Neigh) All() []Neigh {
	all := make([]Neigh, 0, max(1, n.Many))
	for range cap(all) {
		one := n
		one.Many, one.MAC = 0, slices.Clone(n.MAC)
		all = append(all, one)
		if !n.FDB {
			n.IP = n.IP.Next()
			continue
		}
		n.MAC = slices.Clone(n.MAC)
		for i := len(n.MAC) - 1; i >= 0; i-- {
			if n.MAC[i]++; n.MAC[i] != 0 {
				break
			}
		}
	}
	return all
}

// Sysctl is a setting below /proc/sys of the namespace.
type Sysctl struct {
	Key      string // path with slashes, such as net/ipv4/ip_forward
	Value    string
	Optional bool // skipped where the kernel has no such key
}

// Steering is the setting by which devices that are made after it receive on one processor, or, where cpu is nil, on that
// which sends (net.core.rps_default_mask, Documentation/admin-guide/sysctl/net.rst).
func Steering(cpu *int) Sysctl {
	mask := "0"
	if cpu != nil {
		// Groups of 32 processors, the highest first (bitmap_parse()).
		mask = fmt.Sprintf("%x", uint32(1)<<(*cpu%32)) + strings.Repeat(",00000000", *cpu/32)
	}
	return Sysctl{Key: "net/core/rps_default_mask", Value: mask, Optional: true}
}

// Offload switches a feature of a device, as ethtool -K does.
type Offload struct {
	Link    string
	Feature string // tx-checksum, tso, gso, gro
	On      bool
}

// Shape impairs what a device sends: by a token bucket (tc-tbf(8)), or, with a delay or a loss, by tc-netem(8).
type Shape struct {
	Link    string
	Rate    BitRate       // 0: unlimited
	Burst   time.Duration // of the token bucket: as long as a timer may be late without losing any of the rate; 0: 5 ms
	Delay   time.Duration // needs netem
	Jitter  time.Duration // by which the delay varies either way; at most the delay
	Loss    float64       // fraction of packets, 0 to 1; needs netem
	Reorder float64       // fraction of packets, 0 to 1, that are sent without the delay
}

// Netem tells whether it takes tc-netem(8).
func (s Shape) Netem() bool { return s.Delay != 0 || s.Loss != 0 }

// Redirect has what comes in by a device wait in the queue of an ifb before it goes on, so that what comes in can be shaped
// (tc-mirred(8)).
type Redirect struct{ Link, To string }

// Forget has connection tracking forget what it knows of a port's: translation is decided by the first packet of a connection alone, and who asks by UDP
// without a pause never begins another (nf_conntrack_udp_timeout of Linux Documentation/networking/nf_conntrack-sysctl.rst). Nothing undoes it.
type Forget struct {
	Proto string // tcp or udp
	Port  uint16 // that they were begun with, as their destination's
}

// Await waits until a bridge forwards what comes by a port of its, in the machine's own namespace: a port does only once the kernel's link watch has seen
// its carrier (net/core/link_watch.c), which is after whatever gave it one has been done, and until then what is sent by it is lost. It is waited for
// a second and a half at most: longer than the second between two looks of the link watch. What is no port is not waited for. Nothing undoes it.
type Await struct{ Port string }

// Bucket is the token bucket of the rate, in bytes: what may be sent at once, and what may wait.
// The burst is so long of the rate and holds at least one 64 KiB segment, so that offloads are not split;
// the queue holds 50 ms more.
func (s Shape) Bucket() (burst, limit uint32) {
	const most = 1 << 30 // of a 32-bit attribute, with room to add
	burst = uint32(min(max(uint64(s.Rate)/8*uint64(cmp.Or(s.Burst, 5*time.Millisecond).Microseconds())/1e6, 64<<10), most))
	return burst, burst + uint32(min(uint64(s.Rate)/8/20, most))
}

// Table is an nftables table with its chains, all of which are its own: removing the table removes them.
type Table struct {
	Family string // ip, ip6, inet, arp, bridge, netdev
	Name   string
	Sets   []Set
	Chains []Chain
}

// Set is MAC addresses that rules of its table look up, by its name after an @.
type Set struct {
	Name     string
	Size     int  // most that it can have; 0: no limit
	Dynamic  bool // rules add to it (Match.Learn)
	Interval bool // its elements are ranges
	Values   []string
}

// Chain is a base chain where Hook is set, else a regular one.
type Chain struct {
	Name     string
	Type     string // filter, nat, route
	Hook     string // prerouting, input, forward, output, postrouting, ingress, egress
	Device   string // whose packets an ingress or egress hook sees; empty with the other hooks
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

// Match compares one field. Fields are named as nft(8) names them: iifname, oifname, ip saddr, ip daddr, ip frag-off, ip6 saddr,
// ip6 daddr, ether type, meta l4proto, tcp dport, udp dport, tcp sport, udp sport, th dport, ct state, ct status, ether saddr, ether daddr, fib daddr type,
// meta nfproto, meta mark. Fields that divide packets into n parts, numbered from 0, are numgen inc mod n (in turn), numgen random mod n, and
// jhash ip saddr mod n seed 0x1 (by source; also of ip6).
type Match struct {
	Field string
	Not   bool
	Value string // an address, a prefix, a port, a name, for ct state a comma-separated list; of MAC addresses and ip frag-off also one and a mask of its bits after a slash; of MAC addresses @ and a set, too
	Learn bool   // add the field to the set that Value names, or to several, instead of looking it up; holds where the sets have room
}

// Verdict is what a rule does.
type Verdict struct {
	Kind        string         // accept, drop, return, masquerade, snat, dnat, reject, count (only counts), jump, mark (and goes on)
	To          netip.AddrPort // snat, dnat; port 0: keeps it
	Chain       string         // jump
	FullyRandom bool           // masquerade, snat
	Mark        uint32         // mark
}

// String is a shell script that does the same with iproute2, sysctl, ethtool and nft: each host's steps below a heading of
// its own, then those of each container attached to it. Defaults are a function of the script.
func (w Wiring) String() string {
	var hosts []string
	setup := map[string][]Step{}
	attached := map[string][]Attachment{}
	meet := func(host string) {
		if !slices.Contains(hosts, host) {
			hosts = append(hosts, host)
		}
	}
	for _, s := range w.Setup {
		meet(s.On)
		setup[s.On] = append(setup[s.On], s)
	}
	for _, a := range w.Attached {
		meet(a.Host)
		attached[a.Host] = append(attached[a.Host], a)
	}
	var b strings.Builder
	write := func(heading string, steps []Step) {
		fmt.Fprintf(&b, "\n# %s\n", heading)
		for _, s := range steps {
			if s.begins() {
				fmt.Fprintf(&b, "%s\ndefaults %s\n", s.Space.line(s.On, false), space(s.On, s.Space.Name))
				continue
			}
			fmt.Fprintln(&b, s)
		}
	}
	for _, host := range hosts {
		if len(setup[host]) > 0 {
			write(host, setup[host])
		}
		for _, a := range attached[host] {
			heading := fmt.Sprintf("%s on network %s", a.Container.ID(), a.Container.Network)
			if a.Host != a.Container.Host {
				heading += ", attached to " + a.Host
			}
			write(heading, a.Steps)
		}
	}
	script := b.String()
	b.Reset()
	fmt.Fprintf(&b, "# mode %s\n", w.Mode)
	if strings.Contains(script, "\ndefaults ") {
		b.WriteString("\n# what every new namespace is set to\ndefaults() {\n")
		for _, s := range Defaults("$1", "") {
			fmt.Fprintf(&b, "\t%s\n", s)
		}
		b.WriteString("}\n")
	}
	return b.String() + script
}

// String is the shell line that does the same, with a machine's namespace named after the machine and a container's
// MACHINE-CONTAINER, as ip-netns(8) would name them. A table is several lines, and so is a namespace that begins with settings.
func (s Step) String() string {
	at := space(s.On, s.In)
	switch {
	case s.begins():
		lines := []string{s.Space.line(s.On, false)}
		for _, d := range Defaults(s.On, s.Space.Name) {
			lines = append(lines, d.String())
		}
		return strings.Join(lines, "\n")
	case s.Space != nil:
		return s.Space.line(s.On, s.Remove)
	case s.Link != nil:
		return s.Link.line(at, s.On, s.In, s.Remove)
	case s.Set != nil:
		return s.Set.line(at)
	case s.Addr != nil:
		return s.Addr.line(at, s.Remove)
	case s.Route != nil:
		return s.Route.line(at, s.Remove)
	case s.Neigh != nil:
		return s.Neigh.line(at, s.Remove)
	case s.Sysctl != nil:
		ignore := ""
		if s.Sysctl.Optional {
			ignore = "-e "
		}
		return fmt.Sprintf("ip netns exec %s sysctl %s-qw %s=%s", at, ignore, s.Sysctl.Key, quote(s.Sysctl.Value))
	case s.Table != nil:
		return s.Table.line(at, s.Remove)
	case s.Offload != nil:
		feature := s.Offload.Feature
		if feature == "tx-checksum" {
			feature = "tx" // ethtool's own short name for it
		}
		return fmt.Sprintf("ip netns exec %s ethtool -K %s %s %s", at, s.Offload.Link, feature, onOff(s.Offload.On))
	case s.Shape != nil:
		return s.Shape.line(at, s.Remove)
	case s.Redirect != nil:
		return s.Redirect.line(at, s.Remove)
	case s.Forget != nil:
		return fmt.Sprintf("ip netns exec %s conntrack -D -p %s --orig-port-dst %d || true", at, s.Forget.Proto, s.Forget.Port)
	case s.Await != nil:
		return fmt.Sprintf("until bridge -n %s link show dev %s | grep -q 'state forwarding'; do sleep 0.01; done", at, s.Await.Port)
	case s.VLAN != nil:
		return s.VLAN.line(at, s.Remove)
	case s.BGP != nil:
		return s.BGP.line(at, s.Remove)
	case s.Announce != nil:
		return s.Announce.line(at, s.Remove)
	case s.Gossip != nil:
		return s.Gossip.line(at, s.Remove)
	case s.Endpoint != nil:
		return s.Endpoint.line(at, s.Remove)
	case s.Program != nil:
		return s.Program.line(at, s.Remove)
	case s.Reserve != nil:
		return s.Reserve.line(at, s.Remove)
	case s.DHCPServer != nil:
		return s.DHCPServer.line(at, s.Remove)
	case s.DHCP != nil:
		return s.DHCP.line(at, s.Remove)
	case s.CNI != nil:
		return s.CNI.line(s.On, s.Remove)
	case s.Engine != nil:
		return s.Engine.line(s.On)
	case s.EngineNetwork != nil:
		return s.EngineNetwork.line(s.On, s.Remove)
	case s.EnginePort != nil:
		return s.EnginePort.line(s.On)
	case s.EngineJoin != nil:
		return s.EngineJoin.line(s.On, s.Remove)
	case s.EngineSwarm != nil:
		return s.EngineSwarm.line(s.On)
	case s.Resolver != nil:
		return s.Resolver.line(at, s.On, s.Remove)
	case s.Name != nil:
		return s.Name.line(at, s.Remove)
	case s.Hosts != nil:
		return s.Hosts.line(at, s.Remove)
	case s.Process != nil:
		return s.Process.line(at, s.Remove)
	case s.Relay != nil:
		return s.Relay.line(at, s.Remove)
	}
	return "# " + at + ": nothing"
}

func space(machine, container string) string {
	if container == "" {
		return machine
	}
	return machine + "-" + container
}

func (s Space) line(on string, remove bool) string {
	own := space(on, s.Name)
	switch {
	case s.Run != nil:
		return s.Run.line(on, s, remove)
	case s.Share == "" && remove:
		return "ip netns del " + own
	case s.Share == "":
		return fmt.Sprintf("ip netns add %s && ip -n %s link set dev lo up", own, own)
	case remove:
		return "rm /run/netns/" + own
	}
	of, whose := on, on
	if s.Share != "host" {
		of, whose = space(on, s.Share), on+"/"+s.Share
	}
	return fmt.Sprintf("ln -s %s /run/netns/%s # %s/%s enters the namespace of %s", of, own, on, s.Name, whose)
}

func (l Link) line(at, on, in string, remove bool) string {
	if remove {
		return fmt.Sprintf("ip -n %s link del dev %s", at, l.Name)
	}
	var w words
	if l.Kind == "tun" {
		return fmt.Sprintf("ip -n %s tuntap add dev %s mode tun", at, l.Name)
	}
	if l.Parent != "" && l.Kind != "vxlan" {
		w.add("ip -n", on, "link add link", l.Parent, "name", l.Name)
		if in != "" {
			w.add("netns", at)
		}
	} else {
		w.add("ip -n", at, "link add name", l.Name)
	}
	w.device(l.MAC, l.MTU)
	if l.Master != "" {
		w.add("master", l.Master)
	}
	if l.Up {
		w.add("up")
	}
	w.add("type", l.Kind)
	if l.NoSnooping {
		w.add("mcast_snooping 0")
	}
	if l.Querier {
		w.add("mcast_querier 1 mcast_query_response_interval", fmt.Sprint(QueryResponse.Milliseconds()/10))
	}
	if l.MaxLearned != 0 {
		w.add("fdb_max_learned", fmt.Sprint(l.MaxLearned))
	}
	if l.VLANFiltering {
		w.add("vlan_filtering 1 vlan_default_pvid 0")
	}
	if l.PeerName != "" {
		w.add("peer name", l.PeerName)
		if peer := space(on, l.PeerIn); peer != at {
			w.add("netns", peer)
		}
		w.device(l.PeerMAC, l.PeerMTU)
	}
	if l.ParentMode != "" {
		w.add("mode", l.ParentMode)
	}
	switch l.Kind {
	case "vlan":
		w.add("id", fmt.Sprint(l.VID))
	case "vxlan":
		w.add("id", fmt.Sprint(l.VNI), "local", l.Local.String())
		if l.Group.IsValid() {
			w.add("group", l.Group.String(), "dev", l.Parent)
		}
		w.add("dstport", fmt.Sprint(l.Port))
		if l.Proxy {
			w.add("proxy")
		}
		if !l.Learning {
			w.add("nolearning")
		}
		if l.Entries > 0 {
			w.add("maxaddress", fmt.Sprint(l.Entries))
		}
		if l.UDP6ZeroCSumTx {
			w.add("udp6zerocsumtx")
		}
		if l.UDP6ZeroCSumRx {
			w.add("udp6zerocsumrx")
		}
	case "ipip":
		w.add("local", l.Local.String())
	}
	return w.String()
}

func (l LinkSet) line(at string) string {
	var lines []string
	device := func(rest ...string) {
		w := words{"ip -n", at, "link set dev", l.Name}
		w.add(rest...)
		lines = append(lines, w.String())
	}
	var w words
	w.device(l.MAC, l.MTU)
	switch l.Master {
	case "":
	case "none":
		w.add("nomaster")
	default:
		w.add("master", l.Master)
	}
	if l.Promisc != "" {
		w.add("promisc", l.Promisc)
	}
	if l.State != "" {
		w.add(l.State)
	}
	if len(w) > 0 {
		device(w...)
	}
	var port words
	if l.Hairpin != "" {
		port.add("hairpin", l.Hairpin)
	}
	if l.Isolated != "" {
		port.add("isolated", l.Isolated)
	}
	if len(port) > 0 {
		device("type bridge_slave", port.String())
	}
	if l.Mode != "" {
		kind := "macvlan"
		if slices.Contains(IPVLANModes, l.Mode) {
			kind = "ipvlan"
		}
		device("type", kind, "mode", l.Mode)
	}
	return strings.Join(lines, " && ")
}

func (a Addr) line(at string, remove bool) string {
	w := words{"ip -n", at, "addr", addDel(remove), a.Prefix.String()}
	if a.Peer.IsValid() {
		w = words{"ip -n", at, "addr", addDel(remove), a.Prefix.Addr().String(), "peer", a.Peer.String()}
	}
	w.add("dev", a.Link)
	if a.NoDAD && !remove {
		w.add("nodad")
	}
	if a.NoPrefixRoute && !remove {
		w.add("noprefixroute")
	}
	return w.String()
}

func (r Route) line(at string, remove bool) string {
	var w words
	if r.Limit != 0 && !remove {
		w.add(fmt.Sprintf(`test "$(ip -n %s -%s route show | grep -c ' via ')" -lt %d &&`, at, strings.TrimPrefix(family(r.Dst), "ipv"), r.Limit))
	}
	w.add("ip -n", at)
	if r.Dst.Addr().Is6() {
		w.add("-6")
	}
	w.add("route", addDel(remove))
	if r.Type != "" {
		w.add(r.Type)
	}
	if r.Dst.Bits() == 0 {
		w.add("default")
	} else {
		w.add(r.Dst.String())
	}
	if r.Via.IsValid() {
		w.add("via")
		if r.Via.Is6() != r.Dst.Addr().Is6() {
			w.add("inet6")
		}
		w.add(r.Via.String())
	}
	if r.Link != "" {
		w.add("dev", r.Link)
	}
	if r.Scope != "" {
		w.add("scope", r.Scope)
	}
	if r.Src.IsValid() {
		w.add("src", r.Src.String())
	}
	if r.Metric != 0 {
		w.add("metric", fmt.Sprint(r.Metric))
	}
	if r.MTU != 0 {
		w.add("mtu", fmt.Sprint(r.MTU))
	}
	if r.OnLink {
		w.add("onlink")
	}
	return w.String()
}

func (n Neigh) line(at string, remove bool) string {
	mac, ip := n.MAC.String(), n.IP.String()
	if n.Many > 1 {
		one, first := n, uint64(0)
		if one.Many = 0; n.FDB {
			mac, first = macsInShell(n.MAC)
		} else {
			ip, first = addrsInShell(n.IP)
		}
		return repeated(first, n.Many, one.as(at, mac, ip, remove))
	}
	return n.as(at, mac, ip, remove)
}

// repeated is a line for each of so many numbers i.
func repeated(first uint64, many int, line string) string {
	return fmt.Sprintf("for i in $(seq %d %d); do %s; done", first, first+uint64(many)-1, line)
}

// addrsInShell is an IPv4 address by the number i in a shell, and that of a.
func addrsInShell(a netip.Addr) (text string, first uint64) {
	return "$((i>>24)).$((i>>16&255)).$((i>>8&255)).$((i&255))", uint64(number(a))
}

// macsInShell is a MAC address by its last three octets as the number i in a shell, and that of a.
func macsInShell(a net.HardwareAddr) (text string, first uint64) {
	return a[:3].String() + ":$(printf %02x:%02x:%02x $((i>>16)) $((i>>8&255)) $((i&255)))", uint64(a[3])<<16 | uint64(a[4])<<8 | uint64(a[5])
}

// as is the line of one entry, by the texts of its addresses.
func (n Neigh) as(at, mac, ip string, remove bool) string {
	switch {
	case n.FDB && n.IP.IsValid(): // a VXLAN's, where one MAC may have several destinations
		verb := "append"
		if remove {
			verb = "del"
		}
		return fmt.Sprintf("bridge -n %s fdb %s %s dev %s dst %s self permanent", at, verb, mac, n.Link, ip)
	case n.FDB:
		return fmt.Sprintf("bridge -n %s fdb %s %s dev %s master static", at, addDel(remove), mac, n.Link)
	case n.Proxy:
		return fmt.Sprintf("ip -n %s neigh %s proxy %s dev %s", at, addDel(remove), ip, n.Link)
	case remove:
		return fmt.Sprintf("ip -n %s neigh del %s dev %s", at, ip, n.Link)
	}
	state := "permanent"
	if n.Found {
		state = "reachable"
	}
	return fmt.Sprintf("ip -n %s neigh add %s lladdr %s dev %s nud %s", at, ip, mac, n.Link, state)
}

func (s Shape) line(at string, remove bool) string {
	if remove {
		return fmt.Sprintf("tc -n %s qdisc del dev %s root", at, s.Link)
	}
	w := words{"tc -n", at, "qdisc add dev", s.Link, "root"}
	if !s.Netem() {
		burst, limit := s.Bucket()
		w.add("tbf rate", s.Rate.tc(), "burst", fmt.Sprint(burst), "limit", fmt.Sprint(limit))
		return w.String()
	}
	w.add("netem")
	if s.Delay != 0 {
		w.add("delay", fmt.Sprintf("%dus", s.Delay.Microseconds()))
	}
	if s.Jitter != 0 {
		w.add(fmt.Sprintf("%dus", s.Jitter.Microseconds()))
	}
	if s.Loss != 0 {
		w.add("loss", fmt.Sprintf("%g%%", s.Loss*100))
	}
	if s.Reorder != 0 {
		w.add("reorder", fmt.Sprintf("%g%%", s.Reorder*100))
	}
	if s.Rate != 0 {
		w.add("rate", s.Rate.tc())
	}
	return w.String()
}

func (r Redirect) line(at string, remove bool) string {
	if remove {
		return fmt.Sprintf("tc -n %s qdisc del dev %s ingress", at, r.Link)
	}
	return fmt.Sprintf("tc -n %s qdisc add dev %s ingress && tc -n %s filter add dev %s ingress u32 match u32 0 0 action mirred egress redirect dev %s",
		at, r.Link, at, r.Link, r.To)
}

func (v VLAN) line(at string, remove bool) string {
	w := words{"bridge -n", at, "vlan", addDel(remove), "dev", v.Link, "vid", fmt.Sprint(v.VID)}
	if v.Untagged && !remove {
		w.add("pvid untagged")
	}
	return w.String()
}

// vtysh is the shell of the FRR whose daemons were started with the option -N of the machine's name, in its namespace.
func vtysh(at string) string { return fmt.Sprintf("ip netns exec %s vtysh -N %s", at, at) }

func family(p netip.Prefix) string {
	if p.Addr().Is4() {
		return "ipv4"
	}
	return "ipv6"
}

// StoreTTL is for how long a store holds what a member wrote that it no longer hears of.
const StoreTTL = 3 * time.Second

// The keys of members and endpoints in a store begin with these.
const (
	StoreMembers   = "overlay/members/"
	StoreEndpoints = "overlay/endpoints/"
)

// stored is etcd's client, on a machine.
func stored(at string, store netip.AddrPort) words {
	return words{"ip netns exec", at, "etcdctl", "--endpoints=http://" + store.String()}
}

// line is serf's agent, of which a handler writes the entries of endpoints that it is told of; or etcd's client.
func (g Gossip) line(at string, remove bool) string {
	w := words{"ip netns exec", at, "serf"}
	switch lease := "/run/" + at + ".lease"; {
	case g.Store.IsValid() && remove:
		w = stored(at, g.Store)
		w.add("lease revoke", "$(cat "+lease+")")
		return w.String()
	case g.Store.IsValid():
		grant, keep, put, watch := stored(at, g.Store), stored(at, g.Store), stored(at, g.Store), stored(at, g.Store)
		grant.add("lease grant", fmt.Sprint(StoreTTL.Seconds()), "| cut -d' ' -f2 >"+lease)
		keep.add("lease keep-alive $(cat "+lease+")", "&")
		put.add("put --lease=$(cat "+lease+")", StoreMembers+g.Name, g.Addr.String())
		watch.add("watch --prefix overlay/ -- entries")
		for _, t := range g.Tunnels {
			watch.add(fmt.Sprintf("%d=%s", t.VNI, t.Link))
		}
		watch.add("&")
		return strings.Join([]string{grant.String(), keep.String(), put.String(), watch.String()}, "\n")
	}
	if remove {
		w.add("leave")
		return w.String()
	}
	w.add("agent", "-node="+g.Name, fmt.Sprintf("-bind=%s", netip.AddrPortFrom(g.Addr, uint16(g.Port))))
	for _, a := range g.Join {
		w.add("-retry-join=" + a.String())
	}
	for _, t := range g.Tunnels {
		w.add(fmt.Sprintf("-event-handler='user:%d=entries %s'", t.VNI, t.Link))
	}
	w.add("&")
	return w.String()
}

func (e Endpoint) line(at string, remove bool) string {
	if e.Store.IsValid() {
		w, key := stored(at, e.Store), fmt.Sprintf("%s%d/%s", StoreEndpoints, e.VNI, e.MAC)
		if remove {
			w.add("del", key)
			return w.String()
		}
		said := words{e.VTEP.String()}
		for _, a := range e.IPs {
			said.add(a.String())
		}
		w.add("put --lease=$(cat /run/"+at+".lease)", key, quote(said.String()))
		return w.String()
	}
	w := words{"ip netns exec", at, "serf event", fmt.Sprint(e.VNI)}
	said := words{"at", e.MAC.String(), e.VTEP.String()}
	if remove {
		said[0] = "gone"
	}
	for _, a := range e.IPs {
		said.add(a.String())
	}
	w.add(quote(said.String()))
	return w.String()
}

// line keeps the program's files in a directory named after the machine and the program, and waits until it is ready.
func (p Program) line(at string, remove bool) string {
	dir := fmt.Sprintf("/run/%s-%s", at, p.Name)
	if remove {
		return fmt.Sprintf("kill $(cat %s/pid) && rm -r %s", dir, dir)
	}
	placed := func(s string) string { return strings.ReplaceAll(s, Dir, dir) }
	var b strings.Builder
	fmt.Fprintf(&b, "mkdir %s\n", dir)
	for _, name := range slices.Sorted(maps.Keys(p.Files)) {
		if in, _ := path.Split(name); in != "" {
			fmt.Fprintf(&b, "mkdir -p %s\n", quote(dir+"/"+in))
		}
		fmt.Fprintf(&b, "cat >%s <<'END'\n%s\nEND\n", quote(dir+"/"+name), strings.TrimSuffix(placed(p.Files[name]), "\n"))
	}
	w := words{"ip netns exec", at, "env -C", dir}
	for _, e := range p.Env {
		w.add(quote(placed(e)))
	}
	w.add(quote(p.Path))
	for _, a := range p.Args {
		w.add(quote(placed(a)))
	}
	fmt.Fprintf(&b, "%s & echo $! >%s/pid", w, dir)
	if p.Ready.File != "" {
		fmt.Fprintf(&b, "\nuntil test -e %s; do sleep 0.1; done", quote(dir+"/"+p.Ready.File))
	}
	if a := p.Ready.Addr; a.IsValid() {
		fmt.Fprintf(&b, "\nuntil ip netns exec %s nc -z %s %d; do sleep 0.1; done", at, a.Addr(), a.Port())
	}
	return b.String()
}

// line is the CNI plugin's, with what it keeps in a directory named after the machine.
func (r Reserve) line(at string, remove bool) string {
	var ranges, want words
	for _, of := range r.Ranges {
		fields := []string{fmt.Sprintf(`"subnet":%q`, of.Subnet)}
		for _, f := range []struct {
			key  string
			addr netip.Addr
		}{{"rangeStart", of.First}, {"rangeEnd", of.Last}, {"gateway", of.Gateway}} {
			if f.addr.IsValid() {
				fields = append(fields, fmt.Sprintf("%q:%q", f.key, f.addr))
			}
		}
		ranges.add("[{" + strings.Join(fields, ",") + "}]")
	}
	for _, a := range r.Want {
		want.add(fmt.Sprintf("%q", a))
	}
	args := ""
	if len(want) > 0 {
		args = fmt.Sprintf(`"args":{"cni":{"ips":[%s]}},`, strings.Join(want, ","))
	}
	return fmt.Sprintf(`CNI_COMMAND=%s CNI_CONTAINERID=%s CNI_IFNAME=%s CNI_NETNS=/run/netns/%s CNI_PATH=/opt/cni/bin host-local <<'END'
{"cniVersion":"1.1.0","name":%q,%s"ipam":{"type":"host-local","dataDir":"/run/%s-ipam","ranges":[%s]}}
END`, strings.ToUpper(addDel(remove)), r.ID, r.Link, space(at, r.ID), r.Pool, args, at, strings.Join(ranges, ","))
}

// line is ISC's dhcpd, with its files named after the machine.
func (d DHCPServer) line(at string, remove bool) string {
	file := "/run/" + at + "-dhcpd"
	if remove {
		return fmt.Sprintf("kill $(cat %s.pid) && rm %s.*", file, file)
	}
	first, last := d.Range.First, d.Range.Last
	if first.Is6() {
		return fmt.Sprintf(`cat >%s.conf <<'END'
authoritative; default-lease-time %d; max-lease-time %[2]d;
subnet6 %s { range6 %s %s; }
END
touch %[1]s.leases && ip netns exec %[6]s dhcpd -6 -cf %[1]s.conf -lf %[1]s.leases -pf %[1]s.pid %[7]s`,
			file, int(d.Lease.Seconds()), d.Range.Subnet, first, last, at, d.Link)
	}
	return fmt.Sprintf(`cat >%s.conf <<'END'
authoritative; default-lease-time %d; max-lease-time %[2]d;
subnet %s netmask %s { range %s %s; }
END
touch %[1]s.leases && ip netns exec %[7]s dhcpd -4 -cf %[1]s.conf -lf %[1]s.leases -pf %[1]s.pid %[8]s`,
		file, int(d.Lease.Seconds()), d.Range.Subnet.Addr(), net.IP(net.CIDRMask(d.Range.Subnet.Bits(), 32)), first, last, at, d.Link)
}

// line is dhcpcd's.
func (d DHCP) line(at string, remove bool) string {
	w := words{"ip netns exec", at, "dhcpcd"}
	switch {
	case remove && d.Six:
		w.add("-6 -k", d.Link)
		return w.String()
	case remove:
		w.add("-k", d.Link)
		return w.String()
	case d.Six:
		w.add("-6 -w --noipv6rs --ia_na", "--duid="+net.HardwareAddr(d.DUID()).String())
	default:
		w.add("-4 -w -I", quote(d.ClientID))
	}
	if d.Broadcast {
		w.add("-J")
	}
	if d.Within != 0 {
		w.add("-t", fmt.Sprintf("%.0f", max(d.Within.Seconds(), 1)))
	}
	w.add(d.Link)
	return w.String()
}

// Plugins are the types of the list's plugins, in their order.
func (c CNI) Plugins() (types []string) {
	for _, conf := range c.list().Plugins {
		types = append(types, fmt.Sprint(conf["type"]))
	}
	return types
}

// Programs are the plugins that the list names, its address managers among them.
func (c CNI) Programs() (types []string) {
	for _, conf := range c.list().Plugins {
		types = append(types, fmt.Sprint(conf["type"]))
		if ipam, ok := conf["ipam"].(map[string]any); ok && ipam["type"] != nil {
			types = append(types, fmt.Sprint(ipam["type"]))
		}
	}
	return types
}

// Name is the list's.
func (c CNI) Name() string { return c.list().Name }

// cniList is what is looked at of a network configuration list.
type cniList struct {
	Name    string
	Version string `json:"cniVersion"`
	Plugins []map[string]any
}

// list is empty where it is none: who carries the step out says so.
func (c CNI) list() (l cniList) {
	_ = json.Unmarshal([]byte(c.List), &l)
	return l
}

// line is cnitool's, with the list in a directory named after the machine; or, after an earlier list, that of its one plugin.
func (c CNI) line(on string, remove bool) string {
	list := c.list()
	if len(list.Plugins) == 0 {
		return fmt.Sprintf("# %s: no network configuration list", on)
	}
	netns := "/run/netns/" + space(on, c.Container)
	if c.After != "" {
		conf := maps.Clone(list.Plugins[0])
		conf["name"], conf["cniVersion"], conf["prevResult"] = list.Name, list.Version, "RESULT of "+c.After
		if c.Args != "" {
			conf["runtimeConfig"] = json.RawMessage(c.Args)
		}
		text, _ := json.Marshal(conf) // it came out of JSON
		return fmt.Sprintf("ip netns exec %s env CNI_COMMAND=%s CNI_CONTAINERID=%s CNI_NETNS=%s CNI_IFNAME=%s CNI_PATH=%s %s/%s <<'END'\n%s\nEND",
			on, strings.ToUpper(addDel(remove)), c.ID, netns, c.Link, c.Path, c.Path, conf["type"], text)
	}
	call := words{"ip netns exec", on, "env NETCONFPATH=/run/" + on + "-cni CNI_PATH=" + c.Path, "CNI_IFNAME=" + c.Link}
	if c.Args != "" {
		call.add("CAP_ARGS=" + quote(c.Args))
	}
	call.add("cnitool", addDel(remove), quote(list.Name), netns)
	if remove {
		return call.String()
	}
	return fmt.Sprintf("mkdir -p /run/%s-cni && cat >/run/%[1]s-cni/%s.conflist <<'END'\n%s\nEND\n%s", on, quote(list.Name), c.List, call)
}

// engine is the docker command for a machine's engine.
func engine(on string) string { return "docker -H unix:///run/" + on + "-docker.sock" }

// line is dockerd's, and what makes the image.
func (e Engine) line(on string) string {
	at := "/run/" + on + "-docker"
	w := words{"ip netns exec", on}
	if e.Path != "" {
		w.add("env PATH=" + e.Path + ":$PATH")
	}
	w.add("dockerd")
	if len(e.Default) == 0 {
		w.add("--bridge none")
	}
	for _, b := range e.Default {
		if b.Addr().Is4() {
			w.add("--bip", b.String())
		} else {
			w.add("--ipv6 --fixed-cidr-v6", b.Masked().String())
		}
	}
	if e.Apart {
		w.add("--icc=false")
	}
	w.add("--ip6tables --experimental -H unix://"+at+".sock --data-root", at+"-data --exec-root", at, "--pidfile", at+".pid &")
	return fmt.Sprintf("%s\ntar -cC $(dirname $(which modebench)) modebench | %s import -c 'ENTRYPOINT [\"/modebench\",\"idle\"]' - modebench", w, engine(on))
}

func (n EngineNetwork) line(on string, remove bool) string {
	if remove {
		return engine(on) + " network rm " + n.Name
	}
	w := words{engine(on), "network create -d", n.Driver}
	if n.Attachable() {
		w.add("--attachable")
	}
	for i, b := range n.Blocks {
		if b.Addr().Is6() {
			w.add("--ipv6")
		}
		w.add("--subnet", b.String())
		if n.Gateways[i].IsValid() {
			w.add("--gateway", n.Gateways[i].String())
		}
	}
	for _, name := range slices.Sorted(maps.Keys(n.Options)) {
		w.add("-o", name+"="+n.Options[name])
	}
	w.add(n.Name)
	return w.String()
}

// asking adds the options of docker run and of docker network connect that ask for addresses.
func (w *words) asking(addrs []netip.Addr) {
	for _, a := range addrs {
		w.add(map[bool]string{true: "--ip", false: "--ip6"}[a.Is4()], a.String())
	}
}

func (c EngineContainer) line(on string, s Space, remove bool) string {
	if remove {
		return engine(on) + " kill " + c.Name
	}
	w := words{engine(on), "run -di --name", c.Name, "--network", c.Network}
	w.asking(c.Addrs)
	for _, p := range c.Exposed {
		w.add("--expose", p)
	}
	for _, v := range c.Env {
		w.add("-e", "'"+v+"'")
	}
	for _, l := range c.Links {
		w.add("--link", l.To+":"+l.Alias)
	}
	own := space(on, s.Name)
	w.add("modebench &&")
	if s.Share == "host" {
		w.add("ln -s", on, "/run/netns/"+own)
	} else {
		w.add("ip netns attach", own, "$("+engine(on), "inspect -f '{{.State.Pid}}'", c.Name+")")
	}
	return w.String()
}

// line is that of a container that has no port yet.
func (e EnginePort) line(on string) string {
	return fmt.Sprintf("%s rm -f %s && %[1]s run -di --name %[2]s -p %d:%d/%s … modebench # as before, and with the port", engine(on), e.Container, e.Host, e.Published, e.Proto)
}

func (e EngineJoin) line(on string, remove bool) string {
	if remove {
		return fmt.Sprintf("%s network disconnect %s %s", engine(on), e.Network, e.Container)
	}
	w := words{engine(on), "network connect"}
	w.asking(e.Addrs)
	w.add(e.Network, e.Container)
	return w.String()
}

func (e EngineSwarm) line(on string) string {
	if e.Manager == "" {
		return fmt.Sprintf("%s swarm init --advertise-addr %s", engine(on), e.Addr)
	}
	token := e.Token
	if token == "" {
		token = fmt.Sprintf("$(%s swarm join-token -q worker)", engine(e.Manager))
	}
	return fmt.Sprintf("%s swarm join --advertise-addr %s --token %s %s", engine(on), e.Addr, token, e.At)
}

// line is dnsmasq's, of which all on a machine read the names in one directory, named after the machine.
func (r Resolver) line(at, on string, remove bool) string {
	pid := fmt.Sprintf("/run/%s-dns-%s-%d.pid", at, r.Addr.Addr(), r.Addr.Port())
	if remove {
		return fmt.Sprintf("kill $(cat %s)", pid)
	}
	return fmt.Sprintf("mkdir -p /run/%s-names && ip netns exec %s dnsmasq --conf-file=/dev/null --no-hosts --no-resolv --local=/#/ "+
		"--bind-interfaces --listen-address=%s --port=%d --local-ttl=%d --hostsdir=/run/%s-names --pid-file=%s",
		on, at, r.Addr.Addr(), r.Addr.Port(), int(r.TTL.Seconds()), on, pid)
}

// line is a file of hosts(5).
func (n Name) line(at string, remove bool) string {
	file := fmt.Sprintf("/run/%s-names/%s", at, n.Name)
	var lines words
	for _, a := range n.Addrs {
		file += "-" + a.String()
		lines.add(fmt.Sprintf("'%s %s'", a, n.Name))
	}
	if remove {
		return "rm " + file
	}
	return fmt.Sprintf("printf '%%s\\n' %s >%s", lines, file)
}

// line is the file that ip-netns(8) puts in place of /etc/hosts.
func (h Hosts) line(at string, remove bool) string {
	file := fmt.Sprintf("/etc/netns/%s/hosts", at)
	if remove {
		return "rm " + file
	}
	return fmt.Sprintf("mkdir -p /etc/netns/%s && cat >%s <<'END'\n%s\nEND", at, file, strings.TrimSuffix(h.Text, "\n"))
}

func (p Process) line(at string, remove bool) string {
	pid := fmt.Sprintf("/run/%s.pid", at)
	if remove {
		return fmt.Sprintf("kill $(cat %s)", pid)
	}
	w := words{"ip netns exec", at, "env -i"}
	for _, e := range p.Env {
		w.add(quote(e))
	}
	return fmt.Sprintf("%s sleep infinity & echo $! >%s", w, pid)
}

// line is socat's, which forks for each connection, and for each client that sends datagrams.
func (r Relay) line(at string, remove bool) string {
	pid := fmt.Sprintf("/run/%s-%s-%d.pid", at, r.Proto, r.Port)
	if remove {
		return fmt.Sprintf("kill $(cat %s)", pid)
	}
	kind := strings.ToUpper(r.Proto)
	return fmt.Sprintf("ip netns exec %s socat %s6-LISTEN:%d,ipv6-v6only=0,reuseaddr,fork %s & echo $! >%s", at, kind, r.Port, quote(fmt.Sprintf("%s:%s", kind, r.To)), pid)
}

// line configures FRR's bgpd.
func (b BGP) line(at string, remove bool) string {
	if remove {
		return fmt.Sprintf("%s -c 'configure terminal' -c 'no router bgp %d'", vtysh(at), b.AS)
	}
	var s strings.Builder
	line := func(format string, a ...any) { fmt.Fprintf(&s, format+"\n", a...) }
	line("%s <<'END'", vtysh(at))
	line("configure terminal")
	for _, p := range b.Peers {
		for i, a := range p.Accept {
			line("%s prefix-list from-%s seq %d permit %s", map[bool]string{true: "ip", false: "ipv6"}[a.Prefix.Addr().Is4()], p.Addr, i+1, a)
		}
		if p.Local6.IsValid() {
			line("route-map to-%s permit 10", p.Addr)
			line(" set ipv6 next-hop global %s", p.Local6)
			line("exit")
		}
	}
	line("router bgp %d", b.AS)
	line(" bgp router-id %s", b.ID)
	line(" no bgp ebgp-requires-policy")
	line(" no bgp default ipv4-unicast")
	line(" no bgp network import-check")
	line(" bgp bestpath compare-routerid")
	if b.Hold != 0 {
		line(" timers bgp %d %d", int((b.Hold / 3).Seconds()), int(b.Hold.Seconds()))
	}
	if b.Restart != 0 {
		line(" bgp graceful-restart")
		line(" bgp graceful-restart restart-time %d", int(b.Restart.Seconds()))
	}
	if b.Multipath {
		line(" bgp bestpath as-path multipath-relax")
	}
	for _, p := range b.Peers {
		line(" neighbor %s remote-as %d", p.Addr, p.AS)
		line(" neighbor %s update-source %s", p.Addr, p.Local)
		if p.Passive {
			line(" neighbor %s passive", p.Addr)
		}
	}
	for _, family := range []string{"ipv4", "ipv6"} {
		line(" address-family %s unicast", family)
		if !b.Multipath {
			line("  maximum-paths 1")
		}
		for _, p := range b.Peers {
			line("  neighbor %s activate", p.Addr)
			if len(p.Accept) > 0 {
				line("  neighbor %s prefix-list from-%s in", p.Addr, p.Addr)
			}
			if family == "ipv6" && p.Local6.IsValid() {
				line("  neighbor %s route-map to-%s out", p.Addr, p.Addr)
			}
			if p.MaxPrefixes != 0 {
				line("  neighbor %s maximum-prefix %d", p.Addr, p.MaxPrefixes)
			}
		}
		line(" exit-address-family")
	}
	line("end")
	return s.String() + "END"
}

// String is the prefix with bounds where they are not its own length.
func (a Accept) String() string {
	w := words{a.Prefix.String()}
	if a.MinBits > a.Prefix.Bits() {
		w.add("ge", fmt.Sprint(a.MinBits))
	}
	if a.MaxBits > a.Prefix.Bits() {
		w.add("le", fmt.Sprint(a.MaxBits))
	}
	return w.String()
}

func (a Announcement) line(at string, remove bool) string {
	network := "network"
	if remove {
		network = "no network"
	}
	line := func(prefix, quote string) string {
		return fmt.Sprintf("%s -c 'configure terminal' -c 'router bgp' -c 'address-family %s unicast' -c %s%s %s%[3]s", vtysh(at), family(a.Prefix), quote, network, prefix)
	}
	if a.Many > 1 {
		text, first := addrsInShell(a.Prefix.Addr())
		return repeated(first, a.Many, line(text+"/32", `"`))
	}
	return line(a.Prefix.String(), "'")
}

// line is nft(8)'s own syntax, as it would list the table.
func (t Table) line(at string, remove bool) string {
	if remove {
		return fmt.Sprintf("ip netns exec %s nft delete table %s %s", at, t.Family, t.Name)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "ip netns exec %s nft -f - <<'END'\ntable %s %s {\n", at, t.Family, t.Name)
	for _, set := range t.Sets {
		fmt.Fprintf(&b, "\tset %s {\n\t\ttype ether_addr\n", set.Name)
		if set.Size > 0 {
			fmt.Fprintf(&b, "\t\tsize %d\n", set.Size)
		}
		switch {
		case set.Dynamic:
			b.WriteString("\t\tflags dynamic\n")
		case set.Interval:
			b.WriteString("\t\tflags interval\n")
		}
		if len(set.Values) > 0 {
			fmt.Fprintf(&b, "\t\telements = { %s }\n", strings.Join(set.Values, ", "))
		}
		b.WriteString("\t}\n\n")
	}
	for i, c := range t.Chains {
		if i > 0 {
			b.WriteString("\n")
		}
		fmt.Fprintf(&b, "\tchain %s {\n", c.Name)
		if c.Hook != "" {
			policy := c.Policy
			if policy == "" {
				policy = "accept"
			}
			hook := c.Hook
			if c.Device != "" {
				hook += " device " + c.Device
			}
			fmt.Fprintf(&b, "\t\ttype %s hook %s priority %d; policy %s;\n", c.Type, hook, c.Priority, policy)
		}
		for _, r := range c.Rules {
			fmt.Fprintf(&b, "\t\t%s\n", r.line(t.Family))
		}
		b.WriteString("\t}\n")
	}
	b.WriteString("}\nEND")
	return b.String()
}

func (r Rule) line(family string) string {
	var w words
	for _, m := range r.Match {
		if m.Learn {
			for set := range strings.SplitSeq(m.Value, ",") {
				w.add("add", set, "{", m.Field, "}")
			}
			continue
		}
		w.add(m.Field)
		value, mask, masked := strings.Cut(m.Value, "/")
		masked = masked && (strings.HasPrefix(m.Field, "ether") || m.Field == "ip frag-off")
		if masked {
			w.add("&", mask)
			m.Value = value
		}
		switch {
		case m.Not:
			w.add("!=")
		case masked:
			w.add("==")
		}
		switch {
		case m.Field == "iifname" || m.Field == "oifname":
			w.add(fmt.Sprintf("%q", m.Value))
		case strings.Contains(m.Value, ","):
			w.add("{ " + strings.ReplaceAll(m.Value, ",", ", ") + " }")
		default:
			w.add(m.Value)
		}
	}
	w.add("counter")
	if verdict := r.Verdict.line(family); verdict != "" {
		w.add(verdict)
	}
	if r.Comment != "" {
		w.add(fmt.Sprintf("comment %q", r.Comment))
	}
	return w.String()
}

func (v Verdict) line(family string) string {
	w := words{v.Kind}
	switch v.Kind {
	case "count":
		return "" // every rule does
	case "mark":
		return fmt.Sprintf("meta mark set %#x", v.Mark)
	case "jump":
		w.add(v.Chain)
	case "snat", "dnat":
		if family == "inet" { // which of its two families is translated
			if v.To.Addr().Is4() {
				w.add("ip")
			} else {
				w.add("ip6")
			}
		}
		w.add("to")
		if v.To.Port() == 0 {
			w.add(v.To.Addr().String())
		} else {
			w.add(v.To.String())
		}
	}
	if v.FullyRandom {
		w.add("fully-random")
	}
	return w.String()
}

// words are a line being made.
type words []string

func (w *words) add(more ...string) { *w = append(*w, more...) }

func (w *words) device(mac net.HardwareAddr, mtu int) {
	if mac != nil {
		w.add("address", mac.String())
	}
	if mtu != 0 {
		w.add("mtu", fmt.Sprint(mtu))
	}
}

func (w words) String() string { return strings.Join(w, " ") }

func addDel(remove bool) string {
	if remove {
		return "del"
	}
	return "add"
}

func onOff(on bool) string {
	if on {
		return "on"
	}
	return "off"
}

// quote makes a value one word of a shell line.
func quote(s string) string {
	if s != "" && !strings.ContainsAny(s, " \t\n'\"\\$`&|;<>(){}*?[]#~!") {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
