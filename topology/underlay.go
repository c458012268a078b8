package topology

import "time"

// Underlay is what makes the machines of a plan a network, once the ends of every cable exist with name, MAC and MTU,
// and are down: the settings of each machine's namespace, a tor's bridge for each of its segments, addresses and rates.
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
		if m.Role == RoleTor {
			// A switch says nothing itself: no neighbour discovery and no MLD from its bridges and ports.
			for _, device := range []string{"all", "default"} {
				sysctl("net/ipv6/conf/"+device+"/disable_ipv6", "1")
			}
			p.bridges(m, add)
		} else {
			for _, device := range []string{"all", "default"} {
				// A machine's own link-local addresses are usable at once: a router without one cannot ask for neighbours.
				sysctl("net/ipv6/conf/"+device+"/accept_dad", "0")
			}
			for _, nic := range m.NICs {
				// Unlike IPv4's, IPv6's defaults do not reach devices that exist.
				for _, s := range ipv6Defaults {
					sysctl("net/ipv6/conf/"+nic.Name+"/"+s.key, s.value)
				}
				sysctl("net/ipv6/conf/"+nic.Name+"/accept_dad", "0")
				add(Step{Set: &LinkSet{Name: nic.Name, State: "up"}})
				add(Step{Addr: &Addr{Link: nic.Name, Prefix: nic.V4}})
				add(Step{Addr: &Addr{Link: nic.Name, Prefix: nic.V6, NoDAD: true}})
			}
		}
		for _, nic := range m.NICs {
			delay, _ := time.ParseDuration(nic.Delay) // NewPlan has parsed it
			if nic.Rate != 0 || delay != 0 || nic.Loss != 0 {
				add(Step{Shape: &Shape{Link: nic.Name, Rate: nic.Rate, Delay: delay, Loss: nic.Loss}})
			}
		}
	}
	return steps
}

// bridges are a tor's segments.
func (p *Plan) bridges(tor *Machine, add func(Step)) {
	number := 0
	for i, name := range names(p.Topology.Tors) {
		if name == tor.Name {
			number = i + 1
		}
	}
	for i, segment := range p.Segments {
		joined := false
		for _, name := range p.Topology.Tors[tor.Name].Joins {
			joined = joined || name == segment.Name
		}
		if !joined {
			continue
		}
		// Its own MAC, or the bridge would take its ports' lowest and change it when they do.
		add(Step{Link: &Link{Name: segment.Name, Kind: "bridge", MAC: mac(macTor, number, 0xff00+i), NoSnooping: true, Up: true}})
		// Set once it is there, the MTU stays; it would follow the ports' otherwise (br_mtu_auto_adjust).
		add(Step{Set: &LinkSet{Name: segment.Name, MTU: segment.MTU}})
		for _, port := range tor.NICs {
			if port.Segment == segment.Name {
				add(Step{Set: &LinkSet{Name: port.Name, Master: segment.Name, State: "up"}})
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
