package topology

import (
	"cmp"
	"fmt"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Fabric is what the underlay is and allows. Its zero value is Open. In a file it is a name, as String gives it, or a mapping.
type Fabric struct {
	Kind string `yaml:"kind,omitempty" json:"kind,omitempty"` // port-security, mac-table, nic, routed-bgp, vpc; empty, or open in a file: open

	Tagged     bool `yaml:"tagged,omitempty" json:"tagged,omitempty"`         // of a switch: it keeps segments apart by tags
	Reflective bool `yaml:"reflective,omitempty" json:"reflective,omitempty"` // open: a frame may leave by the port that it came by
	Snooping   bool `yaml:"snooping,omitempty" json:"snooping,omitempty"`     // open: multicast goes to ports that asked for it, and the switch asks

	MACs      int    `yaml:"macs,omitempty" json:"macs,omitempty"`           // port-security: source MAC addresses of a port; 0: 1
	Violation string `yaml:"violation,omitempty" json:"violation,omitempty"` // port-security: protect, restrict, shutdown; empty: restrict
	Recovery  string `yaml:"recovery,omitempty" json:"recovery,omitempty"`   // port-security, shutdown: after which a port comes up again, a Go duration; empty: it does not by itself

	Entries int `yaml:"entries,omitempty" json:"entries,omitempty"` // mac-table: addresses that a switch's table has room for

	Filters  int    `yaml:"filters,omitempty" json:"filters,omitempty"`   // nic: unicast addresses that a host's interface filters besides its own
	Overflow string `yaml:"overflow,omitempty" json:"overflow,omitempty"` // nic: drop, promisc; empty: drop
}

// The fabrics without numbers.
var (
	// Open is a learning, flooding switch: every frame is switched, none is filtered.
	Open = Fabric{}
	// Trunk is an open switch that keeps segments apart by tags (IEEE 802.1Q): each segment is a VLAN, each host has one cable,
	// on which all its segments are tagged, and external machines have access ports.
	Trunk = Fabric{Tagged: true}
	// Routed is a router: each interface of a host or external machine has a link of its own to the tor (RFC 3021,
	// RFC 6164), which forwards between links and speaks BGP with hosts that do (RFC 4271).
	Routed = Fabric{Kind: "routed-bgp"}
	// VPC is what a public cloud gives machines instead of a segment: each interface has a port of its own to a router, which
	// answers for every address of the segment, forwards what has the source MAC and IP address that the interface was
	// given, by a table of routes to machines that holds so many (Tor.Routes), and drops and counts all else.
	VPC = Fabric{Kind: "vpc"}
)

// The kinds of fabric that have settings, which are switches.
const (
	open = "" // and in a file what openName says
	// security is a switch whose ports admit so many source MAC addresses, the first of which is their machine's own. What has
	// another is a violation: protect drops it without a word, restrict drops and counts it, shutdown takes the port down, too.
	security = "port-security"
	// table is a switch whose table has room for so many addresses of stations (and VLANs). It learns no more until one has aged, and sends what is for
	// others to all ports.
	table = "mac-table"
	// filtering is an open switch, and hosts with NICs that filter: each lets in what is for many, for itself, and for as many of
	// the unicast addresses as it was given as it has filters, the first ones. Given more, it drops what is for the others, or lets
	// everything in.
	filtering = "nic"
)

const openName = "open"

// Switch tells whether machines are on segments that they share.
func (f Fabric) Switch() bool { return f.Kind != Routed.Kind && f.Kind != VPC.Kind }

// String is the fabric's name: its kind, its number where it has one, and what else is not usual of it.
func (f Fabric) String() string {
	w := []string{f.Kind}
	add := func(is bool, word string) {
		if is {
			w = append(w, word)
		}
	}
	switch f.Kind {
	case open:
		w[0] = openName
	case security:
		add(f.macs() != 1, strconv.Itoa(f.MACs))
		add(f.Violation != "" && f.Violation != "restrict", f.Violation)
		add(f.Recovery != "", f.Recovery)
	case table:
		add(true, strconv.Itoa(f.Entries))
	case filtering:
		add(true, strconv.Itoa(f.Filters))
		add(f.Overflow == "promisc", f.Overflow)
	}
	add(f.Reflective, "reflective")
	add(f.Snooping, "snooping")
	if f == Trunk {
		return "trunk"
	}
	add(f.Tagged, "tagged")
	return strings.Join(w, "-")
}

// MarshalText is what String gives.
func (f Fabric) MarshalText() ([]byte, error) { return []byte(f.String()), nil }

// fabricForm are the names of fabrics.
var fabricForm = regexp.MustCompile(`^(?:trunk|routed-bgp|vpc|open(-reflective)?(-snooping)?(-tagged)?|` +
	`port-security(?:-([0-9]{1,4}))?(?:-(protect|shutdown(?:-[0-9][0-9a-z.]*)?))?(-tagged)?|nic-([0-9]{1,4})(-promisc)?(-tagged)?|` +
	`mac-table-([0-9]{1,6})(-tagged)?)$`)

// fabricNames says what they can be.
const fabricNames = "one of open, open-reflective, open-snooping, trunk, port-security, port-security-4, port-security-shutdown, mac-table-8192, nic-512, nic-512-promisc (any number), routed-bgp, vpc"

// UnmarshalText reads a fabric's name.
func (f *Fabric) UnmarshalText(text []byte) error {
	m := fabricForm.FindStringSubmatch(string(text))
	if m == nil {
		return fmt.Errorf("unknown fabric %q: want %s", text, fabricNames)
	}
	number := func(s string) int { n, _ := strconv.Atoi(s); return n }
	switch name := string(text); {
	case name == Trunk.String():
		*f = Trunk
	case strings.HasPrefix(name, openName):
		*f = Fabric{Kind: open, Reflective: m[1] != "", Snooping: m[2] != "", Tagged: m[3] != ""}
	case strings.HasPrefix(name, security):
		*f = Fabric{Kind: security, MACs: number(m[4]), Tagged: m[6] != ""}
		f.Violation, f.Recovery, _ = strings.Cut(m[5], "-")
	case strings.HasPrefix(name, table):
		*f = Fabric{Kind: table, Entries: number(m[10]), Tagged: m[11] != ""}
	case strings.HasPrefix(name, filtering):
		*f = Fabric{Kind: filtering, Filters: number(m[7]), Overflow: strings.TrimPrefix(m[8], "-"), Tagged: m[9] != ""}
	default:
		*f = Fabric{Kind: name}
	}
	return nil
}

func (f Fabric) macs() int { return max(f.MACs, 1) }

// needs is what the fabric needs of a kernel.
func (f Fabric) needs() (needs []string) {
	if f.Tagged {
		needs = append(needs, "802.1q", "vlan-filtering")
	}
	switch f.Kind {
	case VPC.Kind:
		needs = append(needs, "nft-bridge", "nftables")
	case security, filtering:
		needs = append(needs, "nft-bridge", "nft-sets")
	case table:
		needs = append(needs, "fdb-limit")
	}
	return needs
}

// Needs is what a lab on the fabric needs of a kernel, sorted, besides what its impairments do.
func (f Fabric) Needs() []string {
	needs := append(f.needs(), "underlay")
	slices.Sort(needs)
	return needs
}

// fabricWords are what settings can be.
var fabricWords = map[string][]string{
	"kind": {openName, security, table, filtering, Routed.Kind, VPC.Kind}, "violation": {"protect", "restrict", "shutdown"}, "overflow": {"drop", "promisc"},
}

// check is the first setting that the fabric cannot have, or nil.
func (f Fabric) check() *flaw {
	for _, s := range []struct{ key, value string }{{"kind", f.Kind}, {"violation", f.Violation}, {"overflow", f.Overflow}} {
		if s.value != "" && !slices.Contains(fabricWords[s.key], s.value) {
			return &flaw{path: []string{"fabric", s.key}, problem: fmt.Sprintf("%s %q", s.key, s.value), remedy: "one of " + list(fabricWords[s.key])}
		}
	}
	for _, s := range []struct {
		key   string
		set   bool
		of    bool
		whose string
	}{
		{"tagged", f.Tagged, f.Switch(), "switches"},
		{"reflective", f.Reflective, f.Kind == open, openName},
		{"snooping", f.Snooping, f.Kind == open, openName},
		{"macs", f.MACs != 0, f.Kind == security, security},
		{"violation", f.Violation != "", f.Kind == security, security},
		{"recovery", f.Recovery != "", f.Kind == security, security},
		{"entries", f.Entries != 0, f.Kind == table, table},
		{"filters", f.Filters != 0, f.Kind == filtering, filtering},
		{"overflow", f.Overflow != "", f.Kind == filtering, filtering},
	} {
		if s.set && !s.of {
			return &flaw{path: []string{"fabric", s.key}, key: true, problem: fmt.Sprintf("a fabric of the kind %s has no %s", cmp.Or(f.Kind, openName), s.key), remedy: "it of " + s.whose}
		}
	}
	switch d, err := time.ParseDuration(f.Recovery); {
	case f.MACs < 0 || f.MACs > mostMACs:
		return &flaw{path: []string{"fabric", "macs"}, problem: fmt.Sprintf("%d MAC addresses of a port", f.MACs), remedy: fmt.Sprintf("1 to %d", mostMACs)}
	case f.Kind == table && (f.Entries < 1 || f.Entries > mostEntries):
		return &flaw{path: []string{"fabric", "entries"}, problem: fmt.Sprintf("%d entries of a table of addresses", f.Entries), remedy: fmt.Sprintf("1 to %d", mostEntries)}
	case f.Kind == filtering && (f.Filters < 1 || f.Filters > mostMACs):
		return &flaw{path: []string{"fabric", "filters"}, problem: fmt.Sprintf("%d filters of a NIC", f.Filters), remedy: fmt.Sprintf("1 to %d", mostMACs)}
	case f.Recovery != "" && f.Violation != "shutdown":
		return &flaw{path: []string{"fabric", "recovery"}, problem: "nothing is shut down that could recover", remedy: "violation: shutdown with it"}
	case f.Recovery != "" && (err != nil || d < time.Millisecond || d > time.Hour):
		return &flaw{path: []string{"fabric", "recovery"}, problem: fmt.Sprintf("recovery %q", f.Recovery), remedy: "a duration from 1ms to 1h, such as 300s"}
	}
	return nil
}

// mostMACs is the most that a port of a switch secures (Cisco Catalyst 3650, 1 to 8192), and bounds what a NIC filters.
const mostMACs = 8192

// mostEntries bounds a switch's table of addresses.
const mostEntries = 1 << 18

// security are a tor's rules for its ports, where the fabric secures them. A port's own machine is always let in. Where a port may
// have more addresses it learns the first ones, each at one port.
func (p *Plan) security(tor *Machine) Table {
	f := p.Topology.Fabric
	t := Table{Family: "bridge", Name: "security"}
	ports := Chain{Name: "ports", Type: "filter", Hook: "prerouting", Priority: -300}
	violation := "violation "
	if f.Violation == "protect" { // nothing is said
		violation = ""
	}
	if f.macs() > 1 {
		all := Set{Name: "secured", Size: len(tor.NICs) * f.macs(), Dynamic: true}
		for _, port := range tor.NICs {
			all.Values = append(all.Values, p.far(port).MAC.String())
		}
		t.Sets = append(t.Sets, all)
	}
	for _, port := range tor.NICs {
		rule := func(v Verdict, comment string, match ...Match) {
			ports.Rules = append(ports.Rules, Rule{Match: append([]Match{{Field: "iifname", Value: port.Name}}, match...), Verdict: v, Comment: comment})
		}
		bad := func(match ...Match) {
			comment := violation
			if comment != "" {
				comment += port.Name
				if len(match) > 0 {
					comment += " elsewhere"
				}
			}
			rule(Verdict{Kind: "drop"}, comment, match...)
		}
		rule(Verdict{Kind: "accept"}, "", Match{Field: "ether saddr", Value: p.far(port).MAC.String()})
		if f.macs() > 1 {
			t.Sets = append(t.Sets, Set{Name: port.Name, Size: f.macs() - 1, Dynamic: true})
			rule(Verdict{Kind: "accept"}, "", Match{Field: "ether saddr", Value: "@" + port.Name})
			bad(Match{Field: "ether saddr", Value: "@secured"})
			rule(Verdict{Kind: "accept"}, "", Match{Field: "ether saddr", Value: "@" + port.Name + ",@secured", Learn: true})
		}
		bad()
	}
	t.Chains = []Chain{ports}
	return t
}

// far is what is at the other end of a tor's port.
func (p *Plan) far(port Interface) *Interface {
	return p.Machine(port.Peer.Machine).NIC(port.Peer.Interface)
}

// nicFilter is the table of the unicast filter of a host's interface, at the tor's port: what it does not let in never
// reaches the host. The driver keeps its sets: what is let in as long as there is room, and everything where that is the case.
func (p *Plan) nicFilter(port Interface) Table {
	chain := Chain{Name: "filter", Type: "filter", Hook: "postrouting"}
	rule := func(kind, comment string, to ...string) {
		match := []Match{{Field: "oifname", Value: port.Name}}
		for _, value := range to {
			match = append(match, Match{Field: "ether daddr", Value: value})
		}
		chain.Rules = append(chain.Rules, Rule{Match: match, Verdict: Verdict{Kind: kind}, Comment: comment})
	}
	rule("accept", "", "01:00:00:00:00:00/01:00:00:00:00:00")
	rule("accept", "", p.far(port).MAC.String())
	rule("accept", "", "@"+NICAddresses)
	rule("accept", "accept all "+port.Name, "@"+NICEverything)
	rule("drop", "no filter "+port.Name)
	return Table{
		Family: "bridge", Name: "nic-" + port.Name,
		Sets:   []Set{{Name: NICAddresses, Size: p.Topology.Fabric.Filters}, {Name: NICEverything, Interval: true}},
		Chains: []Chain{chain},
	}
}

// The sets of a NIC's filter.
const (
	NICAddresses  = "addresses"  // other than its own, which it lets in
	NICEverything = "everything" // that is let in: nothing, or every address
)

// Watch is a port of a tor that is taken down when it violates what its fabric secures.
type Watch struct {
	Port     string
	Own      net.HardwareAddr // of its machine
	More     int              // addresses that it may have besides
	Recovery time.Duration    // after which it comes up again; 0: it does not by itself
}

// Watch is that of the port at the other end of a machine's interface; nil: the fabric takes no ports down.
func (p *Plan) Watch(nic Interface) *Watch {
	f := p.Topology.Fabric
	if f.Kind != security || f.Violation != "shutdown" {
		return nil
	}
	recovery, _ := time.ParseDuration(f.Recovery) // as checked
	return &Watch{nic.Peer.Interface, nic.MAC, f.macs() - 1, recovery}
}

// Filters tells whether a machine's NICs filter.
func (p *Plan) Filters(m *Machine) bool {
	return p.Topology.Fabric.Kind == filtering && m.Role == RoleHost
}
