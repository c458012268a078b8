package modes

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/modebench/modebench/topology"
)

// Policy denies a container what it gets, or what it sends, but for one port: TCP and UDP to that port pass, and ICMPv6, without
// which there are no neighbours (RFC 4890 section 4.4). Where it filters in the host's own stack, which tracks connections, answers
// pass, too; elsewhere an answer is a packet like any other.
type Policy struct {
	Out  bool       // of what it sends; else of what it gets
	Port uint16     // that is open: of those that it asks, or of its own
	Peer netip.Addr // who alone it is open for; zero: everybody
}

// PolicyTable is the name of a policy's tables on a host.
const PolicyTable = "policy"

// policing is Mode.Policy.
type policing func(*topology.Plan, *topology.Machine, topology.Container, Policy) []topology.Step

// addressing is Mode.Addrs.
type addressing func(*topology.Plan, *topology.Machine, topology.Container) []netip.Prefix

// gate is a hook of the host's packet filter, and what passes it that is meant: each match by itself.
type gate struct {
	family, hook, device string
	meant                []topology.Match
}

// peer is what is exchanged with the policy's peer; nothing to match where it is for everybody.
func (p Policy) peer() []topology.Match {
	if !p.Peer.IsValid() {
		return nil
	}
	way := map[bool]string{false: " saddr", true: " daddr"}[p.Out]
	return []topology.Match{{Field: familyOf(p.Peer).ip + way, Value: p.Peer.String()}}
}

// mixed are matches that no packet meets, and which the kernel takes no rule of: of IPv4 and of IPv6.
func mixed(all []topology.Match) bool {
	of := func(family string) bool {
		return slices.ContainsFunc(all, func(m topology.Match) bool { return strings.HasPrefix(m.Field, family+" ") })
	}
	return of("ip") && of("ip6")
}

// policed are the tables of a policy whose packets pass gates, on the way in or on the way out.
func policed(host *topology.Machine, policy Policy, in, out []gate) (steps []topology.Step) {
	gates := in
	if policy.Out {
		gates = out
	}
	var family string
	for i, g := range gates {
		chain := topology.Chain{Name: fmt.Sprintf("%s-%d", g.hook, i), Type: "filter", Hook: g.hook, Device: g.device}
		if g.family == "inet" {
			chain.Rules = append(chain.Rules, topology.Rule{
				Match:   []topology.Match{{Field: "ct state", Value: "established,related"}},
				Verdict: topology.Verdict{Kind: "accept"}, Comment: fmt.Sprintf("policy accept answers %d", i),
			})
		}
		for j, m := range g.meant {
			add := func(verdict, proto string, more ...topology.Match) {
				chain.Rules = append(chain.Rules, topology.Rule{
					Match:   append([]topology.Match{m, {Field: "meta l4proto", Value: proto}}, more...),
					Verdict: topology.Verdict{Kind: verdict}, Comment: fmt.Sprintf("policy %s %s %d.%d", verdict, proto, i, j),
				})
			}
			if peer := policy.peer(); !mixed(append(peer, m)) {
				for _, proto := range []string{"tcp", "udp"} {
					add("accept", proto, append(peer, topology.Match{Field: "th dport", Value: strconv.Itoa(int(policy.Port))})...)
				}
			}
			for _, proto := range []string{"tcp", "udp", "icmp"} {
				add("drop", proto)
			}
		}
		if g.family != family {
			family = g.family
			steps = append(steps, topology.Step{On: host.Name, Table: &topology.Table{Family: family, Name: PolicyTable}})
		}
		t := steps[len(steps)-1].Table
		t.Chains = append(t.Chains, chain)
	}
	return steps
}

// byDevices has policies where the host's ends of a container's pairs are told apart: by the hooks of bridges, whose ports they are,
// which see also what goes from port to port, or, without one, by those of the host's own stack.
func byDevices(family string, devices func(*topology.Machine, topology.Container) []string) policing {
	return func(_ *topology.Plan, host *topology.Machine, c topology.Container, policy Policy) []topology.Step {
		var in, out []topology.Match
		for _, device := range devices(host, c) {
			in = append(in, topology.Match{Field: "oifname", Value: device})
			out = append(out, topology.Match{Field: "iifname", Value: device})
		}
		return policed(host, policy, []gate{{family: family, hook: "postrouting", meant: in}}, []gate{{family: family, hook: "prerouting", meant: out}})
	}
}

// byAddresses has policies where the host's ends of pairs have names that nobody chose: by the containers' addresses, at the same hooks.
func byAddresses(family string, addrs addressing) policing {
	return func(p *topology.Plan, host *topology.Machine, c topology.Container, policy Policy) []topology.Step {
		to, from := addrs.addressed(p, host, c)
		return policed(host, policy, []gate{{family: family, hook: "postrouting", meant: to}}, []gate{{family: family, hook: "prerouting", meant: from}})
	}
}

// ownDevice is the host's end of a container's one pair.
func ownDevice(_ *topology.Machine, c topology.Container) []string { return []string{c.Device} }

// addressed are what goes to a container and what comes from it, by its addresses.
func (addrs addressing) addressed(p *topology.Plan, host *topology.Machine, c topology.Container) (to, from []topology.Match) {
	for _, a := range addrs(p, host, c) {
		f, own := familyOf(a.Addr()), a.Addr().String()
		to = append(to, topology.Match{Field: f.ip + " daddr", Value: own})
		from = append(from, topology.Match{Field: f.ip + " saddr", Value: own})
	}
	return to, from
}

// onParent has policies where all of the parent's frames pass, before a container's are told from the host's: at the device itself.
// What goes from one container on it to another comes in by it, if it passes it at all.
func onParent(addrs addressing) policing {
	return func(p *topology.Plan, host *topology.Machine, c topology.Container, policy Policy) []topology.Step {
		parent := nic(p, host, c.Network).Name
		to, from := addrs.addressed(p, host, c)
		return policed(host, policy,
			[]gate{{"netdev", "ingress", parent, to}},
			[]gate{{"netdev", "egress", parent, from}, {"netdev", "ingress", parent, from}})
	}
}

// asHost has policies where the host filters what it gets and sends itself.
func asHost(addrs addressing) policing {
	return func(p *topology.Plan, host *topology.Machine, c topology.Container, policy Policy) []topology.Step {
		to, from := addrs.addressed(p, host, c)
		return policed(host, policy, []gate{{family: "inet", hook: "input", meant: to}}, []gate{{family: "inet", hook: "output", meant: from}})
	}
}
