package lab

import (
	"net"
	"net/netip"
	"time"

	"github.com/modebench/modebench/topology"
)

// The verbs of the program on a host, each with what it takes and what it gives. They travel by net/rpc over the
// one byte stream that a Driver returns. Verbs may overlap; an error carries the place and the cause.
//
//	Host.Apply    Apply    → Nothing     all steps or none
//	Host.Undo     Undo     → Nothing     everything its owner applied, last first; no such owner is no error
//	Host.Attempt  Attempt  → Refusal     one step that may be refused; undone at once where it is not
//	Host.State    Nothing  → State       but for connections
//	Host.Tracked  Nothing  → State       with the connections that its kernel tracks
//	Host.Devices  Nothing  → State       its links and addresses alone
//	Host.Space    string   → SpaceState  of one namespace alone
//	Host.Spawn    Spawn    → Process
//	Host.Kill     Kill     → Nothing     ends a process that Spawn started
//	Host.Environ  string   → []string    of the process that a container lives for, as the kernel shows it to that process
//	Host.Resolve  Resolve  → []Addr      of a name, as a process that is started in a container finds it; none: it finds none
//	Host.Crash    Nothing  →             the program is killed where it stands: no answer comes, nothing is put back
//	Host.Usage    Nothing  → Usage       what the program itself holds
//	Host.Holders  []uint64 → []int       processes that keep network namespaces of these inodes alive
//	Probe.Listen  Listen   → Listening
//	Probe.Seen    Handle   → []Seen      what a listener received so far
//	Probe.Ask     Ask      → Answer
//	Probe.Enough  string   → Nothing     ends the Ask with this token now, as if its time were over; no such Ask is no error
//	Probe.Flow    Flow     → Handle      sends at a steady pace until Stop
//	Probe.Tally   Handle   → Tally       of a flow so far
//	Probe.Stop    Handle   → Tally       ends a flow or a listener
//	Probe.Send    Send     → Nothing     one frame exactly as described
//	Capture.Arm   Nothing  → Nothing     from now on every namespace of the machine is recorded
//	Capture.Mark  Nothing  → Mark        a moment, after all that was received before
//	Capture.Since Mark     → []Packet    what was recorded after it, in order
//	Capture.Storms Nothing → []string    devices of which so much was recorded that they were taken down
//	BGP.State     Nothing  → BGPState    of the machine's speaker; zero where there is none
//	BGP.Reset     Addr     → Nothing     ends the session with that neighbour as if by an operator (RFC 4486 subcode 4)
//	BGP.Crash     Nothing  → Nothing     ends the speaker without a word to its neighbours; the routes it programmed stay
//	BGP.Revive    Nothing  → Nothing     starts a crashed speaker again, with what is announced
//	Gossip.State  Nothing  → GossipState of the machine's member of a cluster; zero where there is none
//	Gossip.Crash  Nothing  → Nothing     ends the member without a word to the others; the entries that it made stay
//	Gossip.Revive Nothing  → Nothing     starts a crashed member again, with what it tells of
//	Program.State string  → ProgramState of the program of that name, which a step asked for
//	Program.Stop  string  → Nothing      asks it to end (SIGTERM) and waits until it has; one that has ended is no error
//	Program.Kill  string  → Nothing      the same by SIGKILL; its files stay
//	Program.Start string  → Nothing      starts one that has ended again, with the files that it left, and waits until it is ready
//	Program.Find  string  → string       where the machine has a program (as topology.Program.Path); empty: it has none
//	IPAM.State    string → []Reservation of the pool of that name, by address; none where there is no such pool
//	DHCP.State    Nothing  → DHCPState   of the machine's servers; zero where there is none
//	DHCP.Inform   Inform   → Duration    until a DHCP server has answered
//	DNS.Lookup    Lookup → Found         asks a DNS server
//	CNI.Ask       CNIAsk → CNIAnswer     has plugins do something else than to attach by a step; nothing is undone
//	Docker.Ended  Nothing  → string      how the machine's engine ended, and what it said last; empty: it runs, or there is none
//	Docker.Token  Duration → string      with which others join the swarm that the machine's engine manages, to run containers; it has so long to begin one
//	Docker.Sandbox string → Sandbox      what the machine's engine says of a container's
//	Docker.Told   string  → Told         what a container's process is told by the machine's engine
//	Traffic.*     see traffic.go

// Nothing is sent or answered where a verb needs no value.
type Nothing struct{}

// Apply carries steps out in their order. Where one fails, those before it are undone and the error names the step.
type Apply struct {
	Owner string // whose steps these are: what Undo names
	Steps []topology.Step
}

// Undo undoes all that an owner applied.
type Undo struct{ Owner string }

// Attempt carries one step out on trial.
type Attempt struct {
	Step    topology.Step
	Without []string // capabilities that the attempting thread gives up first, such as net_admin
}

// Refusal is how a kernel refused; empty where it did not.
type Refusal struct {
	Errno string // symbol, such as EBUSY
	Text  string
}

// Spawn starts a process that does nothing in a container's network namespace.
type Spawn struct {
	In       string   // container; empty: the machine's own namespace
	Separate []string // namespaces of its own: mnt, pid, uts, ipc
}

// Process is what Spawn started. Namespaces maps net, mnt, pid, uts, ipc to their inodes.
type Process struct {
	PID        int
	Namespaces map[string]uint64
}

// Resolve asks the C library's way: /etc/hosts first (nsswitch.conf(5)).
type Resolve struct{ In, Name string }

// Kill ends what Spawn started and waits for it.
type Kill struct{ PID int }

// Usage is what a machine's program holds once it has given back what it can.
type Usage struct {
	Descriptors int    // open ones
	Memory      uint64 // bytes of its heap that are in use
}

// CNIAsk is what plugins are asked for, with what the step that attaches has: its list, capability arguments, and attachment.
type CNIAsk struct {
	Command string       // ADD, DEL, CHECK, GC, STATUS (CNI specification 1.1.0 section 2)
	Call    topology.CNI // without After
	Valid   []string     // GC: IDs of the attachments that are to stay, each with the call's link

	// Forgotten has nothing done but what plugins do by themselves: of attachments the library knows nothing.
	Forgotten bool
	// Plugin calls the one with this number in the list, from 1, past the library, which would refuse some of what may be asked so. Zero: all of them.
	Plugin int
	Env    map[string]string // variables in place of those that Plugin would find; empty: none of that name
	Conf   string            // what Plugin reads in place of its part of the list
}

// CNIAnswer is what came of it: a result, or a refusal whose Errno is "CNI error" with the code that the specification has (section 5), or "no CNI error".
type CNIAnswer struct {
	Refusal Refusal
	Result  string // what they wrote: JSON, unless it is wrong; empty: nothing
}

// Sandbox is what an engine says of a container's: the namespace that it names, and the endpoints in it, by network.
type Sandbox struct {
	Inode     uint64 // zero: it names none
	Endpoints []EnginePoint
}

// Told is what a process in a container learns from its engine: its environment, /etc/hosts and /etc/resolv.conf.
type Told struct {
	Env             []string // NAME=value
	Hosts, Resolver string
}

// EnginePoint is an endpoint of a container in a network of an engine's.
type EnginePoint struct {
	Network string
	MAC     net.HardwareAddr // empty: the engine says none
	Addrs   []netip.Prefix
}

// State is everything of a machine that modes change, by namespace: "" is the machine's own, else a container's name.
type State struct {
	Spaces map[string]SpaceState
}

// SpaceState is one network namespace.
type SpaceState struct {
	Inode     uint64
	Links     []Link // by index
	Addrs     []Addr
	Routes    []Route // main tables of both families
	Neighs    []Neigh
	FDB       []FDB
	Rules     []Rule
	Conntrack []Conntrack
	NoRoom    uint64            // packets of new connections that were dropped since the table of connections was full (drop of nf_conntrack's statistics)
	Evicted   uint64            // connections that were forgotten to make room there (early_drop)
	Sysctls   map[string]string // those that modes set: forwarding, rp_filter, proxy_arp, bridge-nf-call-*, …
	Qdiscs    []string          // other than the kernel's own
	Sockets   int               // bound sockets of the IP families
}

// Link is a device, after ip-link(8).
type Link struct {
	Name                            string
	Index                           int
	Kind                            string // bridge, veth, macvlan, …; "loopback"
	Mode                            string // of a macvlan or an ipvlan
	VID                             int    // of an 802.1Q device
	VLANs                           []VLAN // of a bridge that filters and of its ports, by VID
	MAC                             net.HardwareAddr
	MTU                             int
	Up                              bool
	Oper                            string // up, down, lowerlayerdown, unknown
	Master                          string // name of its bridge; empty: none
	Parent                          int    // ifindex it is stacked on or paired with; 0: none
	Promiscuity                     int
	Driver                          string // of a NIC, as ethtool(8) -i tells; empty: it is none
	Flags                           []string
	Alias                           string // what else it is called: of a switch's port that was taken down, why
	RxPackets, TxPackets, RxDropped uint64
}

// VLAN is a VLAN that a bridge or a port of it is in, after bridge(8).
type VLAN struct {
	VID            int
	PVID, Untagged bool // what comes untagged belongs to it; what leaves loses its tag
}

// Addr is an address of a device.
type Addr struct {
	Link      string
	Prefix    netip.Prefix
	Tentative bool
	DADFailed bool
	LinkLocal bool
}

// Route is a route of the main table. Text is the whole of it as ip-route(8) writes it.
type Route struct {
	Dst  netip.Prefix
	Via  netip.Addr
	Link string
	Text string
}

// Neigh is a neighbour table entry.
type Neigh struct {
	Link  string
	IP    netip.Addr
	MAC   net.HardwareAddr
	State string // reachable, stale, failed, permanent, …
}

// FDB is a bridge forwarding table entry, or an address of a device's own filter (Self).
type FDB struct {
	Link  string
	MAC   net.HardwareAddr
	Self  bool
	Local bool       // the port's own address
	Dst   netip.Addr // of a VXLAN's: the host that frames for the MAC address go to
}

// Rule is a packet filter rule with its counter.
type Rule struct {
	Family, Table, Chain string
	Comment              string
	NAT                  bool // it translates addresses
	Packets, Bytes       uint64
}

// Conntrack is a connection tracking entry.
type Conntrack struct {
	Proto              string
	Src, Dst           netip.AddrPort // of the original direction
	ReplySrc, ReplyDst netip.AddrPort
	NAT                bool // the two directions are not each other's mirror
	Timeout            time.Duration
}

// Handle names something that runs on a machine until it is stopped.
type Handle struct{ ID uint64 }

// Listen opens a socket that answers each message with what it saw of it.
type Listen struct {
	In        string         // container; empty: the machine's own namespace
	Proto     string         // udp, tcp
	Addr      netip.AddrPort // unspecified address: any of its family; port 0: the kernel's choice
	Group     netip.Addr     // multicast group to join on Device; invalid: none
	Device    string         // bind to it
	Silent    bool           // record, but answer nothing
	ReusePort bool
}

// Listening is an open listener, or the refusal of one.
type Listening struct {
	Handle
	Port    uint16
	Refusal Refusal
}

// Seen is what a listener saw of one message.
type Seen struct {
	Token  string
	Source netip.AddrPort // who sent it, as the listener sees it
	Dest   netip.Addr     // address it was sent to
	Device string         // it came in by
	TTL    int            // or hop limit
	Size   int            // payload, bytes
	When   time.Time
}

// Ask sends one message and waits for its answer.
type Ask struct {
	In         string
	Proto      string         // udp, tcp, icmp (echo, of the address's family)
	From       netip.AddrPort // zero: the kernel's choice
	To         netip.AddrPort // port ignored by icmp
	Token      string         // carried in the payload; captures find the message by it
	TTL        int            // 0: the kernel's choice
	Size       int            // of the payload, bytes; at least the token's
	NoFragment bool           // set DF and let nothing fragment it locally
	Broadcast  bool
	Device     string        // bind to it
	Reuse      bool          // SO_REUSEADDR on From
	Wait       time.Duration // until when an answer counts; 0: 1 s
	Message    []byte        // udp: sent instead of a payload of the token, for captures to find the token in; whatever the target sends back answers it
}

// NeighboursFull is what an Ask says that was not sent since the kernel had no room for a neighbour more.
const NeighboursFull = "the kernel's tables of neighbours are full"

// Answer is what came of an Ask.
type Answer struct {
	Answered bool
	Refusal  Refusal        // of the local kernel, or an ICMP error as the socket reported it
	ICMPFrom netip.Addr     // who sent that ICMP error; invalid: none, or local
	From     netip.AddrPort // local address that was used
	Peer     netip.AddrPort // who answered
	Seen     Seen           // what the listener saw (udp, tcp)
	TTL      int            // of the answer; 0: unknown
	RTT      time.Duration  // of tcp with the time to connect
	MTU      int            // path MTU as the kernel knows it afterwards; 0: unknown
	Message  []byte         // that answered the Ask's
}

// Lookup asks a DNS server about a name, by udp (RFC 1035).
type Lookup struct {
	In     string
	Server netip.AddrPort
	Name   string        // of type PTR an address
	Type   string        // A, AAAA, PTR
	Token  string        // carried in an option of the question (RFC 6891) for captures to find it
	Wait   time.Duration // as that of an Ask
}

// Found is what came of a Lookup.
type Found struct {
	Answer
	Code          string // such as NOERROR or NXDOMAIN; empty: nobody answered
	Authoritative bool
	Records       []Record // in the order of the answer
}

// Record is one of a DNS server's.
type Record struct {
	Name, Type string // Name without the dot at its end
	Data       string // an address, or a name
	TTL        time.Duration
}

// Flow asks again and again, by udp. The tokens of its messages are Token.0, Token.1 and so on.
type Flow struct {
	Ask
	Every time.Duration // pace
}

// Tally is what came of a flow.
type Tally struct {
	Sent, Answered int
	Longest        time.Duration // the longest time in which nothing was answered
	Since          time.Time     // when that began, by the machine's clock
}

// Send puts one frame on a device, as described and without help from the kernel's stack.
type Send struct {
	In     string
	Device string
	Packet Packet
}

// Mark is a moment in a machine's recording.
type Mark struct {
	Seq uint64
	Now time.Time // by the machine's clock
}

// Packet is one frame at one device. To Send it, fill what the frame should hold; checksums and lengths are computed.
type Packet struct {
	Seq      uint64
	When     time.Time // the kernel's time stamp
	Machine  string
	In       string // container; empty: the machine's own namespace
	Device   string
	Outgoing bool // leaves by the device
	Length   int  // of the frame, bytes

	EthSrc, EthDst net.HardwareAddr
	EtherType      uint16
	VLAN           int  // 802.1Q VID; 0: untagged
	Tag            *Tag // outermost; nil: untagged. Not read by Send

	ARP      *ARP
	IP       *IP
	ICMP     *ICMP
	NDP      *NDP
	Src, Dst netip.AddrPort // ports 0 where there are none
	Proto    string         // udp, tcp, icmp, icmp6, igmp, mld, arp, …
	TCPFlags string         // such as "SA"
	Token    string         // found in the payload
	Payload  []byte         // at most 128 bytes of it
	BGP      []BGPMessage   // those that a segment from or to port 179 holds whole. Not read by Send
	Groups   []Group        // of an IGMP or MLD message
	DHCP     *DHCP          // of a datagram to port 67 or 68, or by IPv6 to 546 or 547. Not read by Send
	VXLAN    *VXLAN         // of a datagram to port 4789 or 8472. Not read by Send
	Inner    *Packet        // what a VXLAN, IP in IP or flannel (UDP port 8285) packet carries, without a place and without its frame. Not read by Send
	Text     string         // one line a person reads
	Frame    []byte         // as captured, at most 2 kB
}

// Tag is what an 802.1Q tag holds besides the VID (IEEE 802.1Q section 9.3).
type Tag struct {
	Type         uint16 // TPID, such as 0x8100
	Priority     int    // PCP
	DropEligible bool   // DEI
}

// ARP is RFC 826's message.
type ARP struct {
	Op                   int // 1 request, 2 reply
	SenderMAC, TargetMAC net.HardwareAddr
	SenderIP, TargetIP   netip.Addr
}

// IP is the network header, of either family.
type IP struct {
	TTL           int // or hop limit
	ID            int
	DontFragment  bool
	MoreFragments bool
	Offset        int
	RouterAlert   bool
	DSCP          int
	HeaderOK      bool   // the header checksum is right (IPv6 has none: true)
	Transport     string // transport checksum: ok, wrong, unfinished (left to the device), none; empty: a fragment, or cut
}

// VXLAN is the header between a datagram and the frame in it (RFC 7348 section 5).
type VXLAN struct {
	Flags    uint8 // 0x08: the VNI is valid
	VNI      int
	Reserved uint32 // the bits of both reserved fields
}

// ICMP is a message of either family, other than neighbour discovery.
type ICMP struct {
	Type, Code, ID, Seq int
	MTU                 int // of fragmentation needed, or packet too big
}

// NDP is a neighbour discovery message (RFC 4861).
type NDP struct {
	Kind                        string // ns, na, rs, ra, redirect
	Target                      netip.Addr
	LinkAddr                    net.HardwareAddr // source or target link-layer address option; nil: none
	Override, Solicited, Router bool
	Prefix                      netip.Prefix // of a router advertisement to be sent
	Managed                     bool         // of one to be sent: addresses in the prefix are had by DHCP, and not formed
}

// BGPMessage is one message of RFC 4271, as it was on the wire.
type BGPMessage struct {
	Kind string // open, update, notification, keepalive, route-refresh

	// open
	Version      int
	AS           uint32        // My Autonomous System; AS4 where the capability says more (RFC 6793)
	AS4          uint32        // 0: the capability was not offered
	Hold         time.Duration // proposed
	ID           netip.Addr
	Capabilities []int // codes, sorted (RFC 5492)
	Forwarding   int   // address families whose forwarding state is said to be kept (RFC 4724, F bit)

	// update
	Announced, Withdrawn []netip.Prefix // of both families (RFC 4760)
	Attributes           []int          // type codes, sorted
	Origin               int            // 0 IGP, 1 EGP, 2 incomplete
	Path                 []uint32       // AS_PATH
	NextHop              netip.Addr     // of NEXT_HOP or MP_REACH_NLRI
	LinkLocal            netip.Addr     // second next hop of MP_REACH_NLRI (RFC 2545 section 3); invalid: none
	EndOfRIB             bool           // RFC 4724 section 2

	// notification
	Code, Subcode int  // those within a Hard Reset
	Hard          bool // it came in a Hard Reset, which no graceful restart follows (RFC 8538 section 3)
}

// Group is one record of a multicast membership report.
type Group struct {
	Addr netip.Addr
	Kind string // join, leave, include, exclude, query
}

// GossipState is what a member of a cluster knows.
type GossipState struct {
	Running   bool
	Alive     []string // members, itself among them, sorted
	Endpoints []GossipEndpoint
	Events    []GossipEvent // since the member was made, in order, over crashes
}

// GossipEndpoint is an endpoint that somebody told of and did not take back.
type GossipEndpoint struct {
	topology.Endpoint
	Owner     string // the member that has it
	Installed bool   // the kernel has its entries
}

// GossipEvent is something that a member noticed or did.
type GossipEvent struct {
	When   time.Time
	Kind   string // alive, dead (a member), told, untold (of an own endpoint), installed, removed (the entries of an endpoint), refused (by the kernel), taken (an own endpoint, by another)
	Member string
	MAC    net.HardwareAddr // of the endpoint; nil: none
	VTEP   netip.Addr
	Text   string
}

// ProgramState is how a program fares.
type ProgramState struct {
	Running bool
	PID     int    // of the last process
	Ended   string // how it ended, where nobody asked for that; empty: it did not
	Output  string // last lines that it wrote
}

// Reservation is what a container's interface has of a pool.
type Reservation struct {
	ID, Link string
	Addrs    []netip.Addr // one of each range, in their order
}

// DHCPState is what a machine's servers know.
type DHCPState struct {
	Running bool
	Leases  []DHCPLease // that hold, by address
	Refused int         // questions for an address that came when there was none left
}

// DHCPLease is an address of a client.
type DHCPLease struct {
	ClientID []byte           // with its type
	MAC      net.HardwareAddr // nil of one by RFC 8415
	Addr     netip.Addr
	Bound    bool // and not only offered
	Until    time.Time
}

// Inform asks a DHCP server for parameters, from an address that the device has (RFC 2131 section 4.4.3), or whatever server of IPv6 there is
// (RFC 8415 section 18.2.6). It asks for no address.
type Inform struct {
	In, Device   string
	From, Server netip.Addr
}

// DHCP is a message of RFC 2131, or of RFC 8415.
type DHCP struct {
	// Kind is discover, offer, request, decline, ack, nak, release or inform; of RFC 8415 solicit, advertise, request, renew, reply, release,
	// decline, information-request, or another's name.
	Kind           string
	Reply          bool // of a server
	XID            uint32
	Broadcast      bool             // the flag
	Client, Your   netip.Addr       // ciaddr, yiaddr; invalid: 0
	MAC            net.HardwareAddr // chaddr
	ClientID       []byte           // option 61
	Requested      netip.Addr       // option 50; invalid: none
	Server         netip.Addr       // option 54; invalid: none
	Lease, Renewal time.Duration    // options 51 and 58

	// Of RFC 8415: Your or Requested is the address of the first IA_NA, whose valid lifetime is Lease and whose T1 is Renewal. ClientID is a DUID.
	ServerID []byte // a DUID; nil: none
	IAID     uint32
	Status   int // code of the IA_NA or else of the message; 0: success
}

// BGPState is a speaker's view.
type BGPState struct {
	Running bool
	Peers   []BGPPeer  // in the order of the step
	Routes  []BGPRoute // all paths known, by prefix; the speaker's own announcements too
	Events  []BGPEvent // since the speaker was made, in order, over crashes
}

// BGPPeer is one session.
type BGPPeer struct {
	Addr               netip.Addr
	AS                 uint32
	State              string        // idle, connect, active, opensent, openconfirm, established (RFC 4271 section 8.2.2)
	Hold               time.Duration // negotiated
	Capabilities       []int         // codes that the neighbour offered, sorted (RFC 5492)
	Received, Accepted int           // prefixes, of both families
}

// BGPRoute is one path to a prefix.
type BGPRoute struct {
	Prefix    netip.Prefix
	NextHop   netip.Addr
	Path      []uint32   // AS_PATH; empty: the speaker's own announcement
	From      netip.Addr // neighbour; invalid: own
	Best      bool
	Stale     bool // kept over a restart of the neighbour (RFC 4724)
	Installed bool // in the machine's routing table by this speaker
}

// BGPEvent is something that a speaker noticed or did.
type BGPEvent struct {
	When   time.Time
	Kind   string       // established, down, announced, withdrawn (by the neighbour), installed, removed (in the routing table), refused (by the kernel)
	Peer   netip.Addr   // of a session, or who announced
	Prefix netip.Prefix // zero: not about one
	Text   string       // why a session went down, or a route was refused
}
