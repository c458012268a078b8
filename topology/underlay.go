package topology

import (
	"cmp"
	"net/netip"
	"slices"
	"time"
)

// Underlay is what makes the machines of a plan a network, once the ends of every cable exist with name, MAC and MTU,
// and are down: the settings of each machine's namespace, a tor's bridge for each of its segments, addresses and rates;
// on a Trunk fabric 802.1Q devices and a tor's one filtering bridge, on a Routed one routes and a tor's speaker instead, on a
// VPC one routes and a tor's rules.
// Its steps are in the plan's order of machines.
func Underlay(p *Plan) []Step {
	var steps []Step
	for i := range p.Machines {
		m := &p.Machines[i]
		steps = append(steps, Defaults(m.Name, "")...)
		add := func(s Step) {
			s.On = m.Name
			steps = append(steps, s)
		}
		sysctl := func(key, value string) { add(Step{Sysctl: &Sysctl{Key: key, Value: value}}) }
		// A new namespace passes bridged frames to the layer-3 rules where the kernel can: what a rule does would
		// otherwise depend on the machine. A mode that wants it says so.
		for _, family := range []string{"ip", "ip6", "arp"} {
			add(Step{Sysctl: &Sysctl{Key: "net/bridge/bridge-nf-call-" + family + "tables", Value: "0", Optional: true}})
		}
		router := m.Role == RoleTor && p.Topology.Fabric == Routed
		cloud := m.Role == RoleTor && p.Topology.Fabric == VPC
		if router || cloud {
			sysctl("net/ipv4/ip_forward", "1")
			sysctl("net/ipv6/conf/all/forwarding", "1")
			// A router has its addresses whether or not somebody is at the other end: those of IPv6 would go with the link.
			sysctl("net/ipv6/conf/all/keep_addr_on_down", "1")
		}
		switch {
		case cloud:
			p.cloud(m, add)
		case m.Role == RoleTor && !router:
			// A switch says nothing itself: no neighbour discovery and no MLD from its bridges and ports.
			for _, device := range []string{"all", "default"} {
				sysctl("net/ipv6/conf/"+device+"/disable_ipv6", "1")
			}
			p.bridges(m, add)
			if p.Topology.Fabric.Kind == security {
				t := p.security(m)
				add(Step{Table: &t})
			}
			for _, port := range m.NICs {
				if p.Filters(p.Machine(port.Peer.Machine)) {
					t := p.nicFilter(port)
					add(Step{Table: &t})
				}
			}
		default:
			for _, device := range []string{"all", "default"} {
				// A machine's own link-local addresses are usable at once: a router without one cannot ask for neighbours.
				sysctl("net/ipv6/conf/"+device+"/accept_dad", "0")
			}
			for _, nic := range m.NICs {
				p.connect(nic, add)
			}
		}
		switch {
		case router:
			if speaker := p.speaker(m); len(speaker.Peers) > 0 {
				add(Step{BGP: &speaker})
			}
		case p.Topology.Fabric == Routed, p.Topology.Fabric == VPC && !cloud:
			p.defaultRoutes(m, add)
		}
		for _, nic := range m.NICs {
			if late := delay(nic.Delay); nic.Rate != 0 || late != 0 || nic.Loss != 0 {
				add(Step{Shape: &Shape{Link: nic.Name, Rate: nic.Rate, Delay: late, Jitter: delay(nic.Jitter), Loss: nic.Loss, Reorder: nic.Reorder}})
			}
		}
	}
	return steps
}

// connect brings up an interface that has addresses, or, of an 802.1Q device, makes it.
func (p *Plan) connect(nic Interface, add func(Step)) {
	if nic.Trunk != "" {
		// With its parent's MAC, as the kernel chooses, and with the settings that new devices have.
		add(Step{Link: &Link{Name: nic.Name, Kind: "vlan", MTU: nic.MTU, Up: true, Parent: nic.Trunk, VID: nic.VLAN}})
	} else {
		// Unlike IPv4's, IPv6's defaults do not reach devices that exist.
		for _, s := range append(slices.Clone(ipv6Defaults), setting{"accept_dad", "0"}) {
			add(Step{Sysctl: &Sysctl{Key: "net/ipv6/conf/" + nic.Name + "/" + s.key, Value: s.value}})
		}
		add(Step{Set: &LinkSet{Name: nic.Name, State: "up"}})
	}
	if nic.V4.IsValid() {
		add(Step{Addr: &Addr{Link: nic.Name, Prefix: nic.V4}})
		add(Step{Addr: &Addr{Link: nic.Name, Prefix: nic.V6, NoDAD: true}})
	}
}

// defaultRoutes lead over each link of a machine, and over the first one for what need not leave by another.
func (p *Plan) defaultRoutes(m *Machine, add func(Step)) {
	for i, nic := range m.NICs {
		tor := p.Machine(nic.Peer.Machine).NIC(nic.Peer.Interface)
		metric := 0
		if i > 0 {
			metric = 1024 + i // 1024 is the kernel's own choice for IPv6
		}
		add(Step{Route: &Route{Dst: netip.PrefixFrom(netip.IPv4Unspecified(), 0), Via: tor.V4.Addr(), Link: nic.Name, Metric: metric}})
		add(Step{Route: &Route{Dst: netip.PrefixFrom(netip.IPv6Unspecified(), 0), Via: tor.V6.Addr(), Link: nic.Name, Metric: metric}})
	}
}

// What a tor's speaker offers and bears. Hosts keep to the hold time; the rest is its own.
const (
	holdTime    = 9 * time.Second
	restartTime = 30 * time.Second // how long what a neighbour announced is kept when it restarts (RFC 4724)
	mostRoutes  = 100              // of one neighbour and family, where the topology says nothing (Tor.Routes): its slice, and containers that moved to it
)

// speaker is a tor's: it waits for the hosts, each of which may come over every link that a network uses. Over a link it
// takes the host's slice of the link's segment, and routes to single containers of that segment, which is how a moved one is
// found: nothing that would draw the traffic of machines, of everybody, or of another host's slice as a whole.
func (p *Plan) speaker(tor *Machine) BGP {
	b := BGP{AS: tor.AS, Hold: holdTime, Restart: restartTime, Multipath: true}
	for _, port := range tor.NICs {
		if !b.ID.IsValid() {
			b.ID = port.V4.Addr()
		}
		end := p.Machine(port.Peer.Machine)
		used := slices.ContainsFunc(p.Networks, func(n PlannedNetwork) bool { return n.NIC == port.Peer.Interface })
		if end.Role != RoleHost || !used {
			continue
		}
		segment := p.segment(port.Segment)
		var accept []Accept
		v4, v6 := p.slice(end.Name, segment)
		for _, own := range []netip.Prefix{v4, v6} {
			accept = append(accept, Accept{own, own.Bits(), own.Bits()})
		}
		for _, part := range p.containers(segment) {
			accept = append(accept, Accept{part, part.Addr().BitLen(), part.Addr().BitLen()})
		}
		b.Peers = append(b.Peers, Peer{
			Addr: end.NIC(port.Peer.Interface).V4.Addr(), AS: end.AS, Local: port.V4.Addr(), Local6: port.V6.Addr(),
			Passive: true, Accept: accept, MaxPrefixes: cmp.Or(uint32(p.Topology.Tors[tor.Name].Routes), mostRoutes),
		})
	}
	return b
}

// bridges are a tor's segments, or the one switch of all where VLANs keep them apart.
func (p *Plan) bridges(tor *Machine, add func(Step)) {
	fabric, number := p.Topology.Fabric, 0
	for i, name := range names(p.Topology.Tors) {
		if name == tor.Name {
			number = i + 1
		}
	}
	bridge := func(name string, at, mtu int, ports func(Interface) bool) {
		// Its own MAC, or the bridge would take its ports' lowest and change it when they do.
		add(Step{Link: &Link{Name: name, Kind: "bridge", MAC: mac(macTor, number, 0xff00+at), NoSnooping: !fabric.Snooping, Querier: fabric.Snooping, MaxLearned: fabric.Entries, VLANFiltering: fabric.Tagged, Up: true}})
		// Set once it is there, the MTU stays; it would follow the ports' otherwise (br_mtu_auto_adjust).
		add(Step{Set: &LinkSet{Name: name, MTU: mtu}})
		for _, port := range tor.NICs {
			if ports(port) {
				set := LinkSet{Name: port.Name, Master: name, State: "up"}
				if fabric.Reflective {
					set.Hairpin = "on"
				}
				add(Step{Set: &set})
			}
		}
	}
	joins := p.Topology.Tors[tor.Name].Joins
	if !fabric.Tagged {
		for i, segment := range p.Segments {
			if slices.Contains(joins, segment.Name) {
				bridge(segment.Name, i, segment.MTU, func(port Interface) bool { return port.Segment == segment.Name })
			}
		}
		return
	}
	mtu := 0
	for _, name := range joins {
		mtu = max(mtu, p.segment(name).MTU)
	}
	bridge("switch", 0, mtu, func(Interface) bool { return true })
	for _, port := range tor.NICs {
		if port.VLAN != 0 {
			add(Step{VLAN: &VLAN{Link: port.Name, VID: port.VLAN, Untagged: true}})
			continue
		}
		for _, device := range p.Machine(port.Peer.Machine).NICs {
			if device.Trunk != "" {
				add(Step{VLAN: &VLAN{Link: port.Name, VID: device.VLAN}})
			}
		}
	}
}

type setting struct{ key, value string }

// A new namespace may take its IPv4 settings from the machine's first one (net.core.devconf_inherit_init_net), so what
// a probe may meet is set, not assumed. The documents are Documentation/networking/ip-sysctl.rst of the kernel.
var (
	ipv4Defaults = []setting{
		{"rp_filter", "0"},
		{"accept_redirects", "0"},
		{"send_redirects", "0"},
		{"proxy_arp", "0"},
		{"arp_accept", "0"},
		{"arp_announce", "0"},
		{"arp_filter", "0"},
		{"arp_ignore", "0"},
		{"arp_notify", "0"},
	}
	ipv6Defaults = []setting{
		{"accept_ra", "0"}, // and then no router is solicited
		{"accept_redirects", "0"},
		{"router_solicitation_delay", "0"}, // also the random wait before duplicate address detection
	}
)

// Defaults are the settings that every namespace of a lab begins with, before its devices are made: of the machine on,
// or of its container in. Forwarding is off, and no address but a device's own is answered for; IPv6 is on, with duplicate
// address detection; errors that a probe waits for are not rate limited. A mode changes what it needs to.
func Defaults(on, in string) []Step {
	var steps []Step
	add := func(key, value string, optional bool) {
		steps = append(steps, Step{On: on, In: in, Sysctl: &Sysctl{Key: key, Value: value, Optional: optional}})
	}
	// First: switching forwarding resets other settings.
	add("net/ipv4/ip_forward", "0", false)
	add("net/ipv6/conf/all/forwarding", "0", false)
	for _, device := range []string{"all", "default"} {
		for _, s := range ipv4Defaults {
			add("net/ipv4/conf/"+device+"/"+s.key, s.value, false)
		}
		add("net/ipv6/conf/"+device+"/disable_ipv6", "0", false)
		for _, s := range ipv6Defaults {
			add("net/ipv6/conf/"+device+"/"+s.key, s.value, false)
		}
	}
	add("net/ipv4/icmp_ratelimit", "0", false)
	add("net/ipv4/icmp_msgs_per_sec", "100000", true) // the first namespace's alone before Linux 6.13
	add("net/ipv4/icmp_msgs_burst", "10000", true)
	add("net/ipv6/icmp/ratelimit", "0", false)
	return steps
}
