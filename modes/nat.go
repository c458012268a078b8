package modes

import (
	"fmt"
	"net/netip"
	"strconv"

	"github.com/modebench/modebench/topology"
)

// family is what nft(8) calls the two IP families, and their addresses that are never translated.
type family struct {
	name      string // of meta nfproto
	ip        string // of the header's fields
	multicast string
	loopback  string
}

var families = []family{
	{"ipv4", "ip", "224.0.0.0/4", "127.0.0.0/8"},
	{"ipv6", "ip6", "ff00::/8", "::1"},
}

func (f family) block(n topology.PlannedNetwork) netip.Prefix {
	if f.ip == "ip" {
		return n.V4
	}
	return n.V6
}

// familyOf is that of an address.
func familyOf(a netip.Addr) family {
	if a.Is4() {
		return families[0]
	}
	return families[1]
}

// Priorities of hooks, as nft(8) names them.
const (
	raw    = -300
	dstnat = -100
	filter = 0
	srcnat = 100
)

// forwarding makes a host a router.
func forwarding() []topology.Step {
	return append(forwarding4(), sysctl("net/ipv6/conf/all/forwarding", "1"))
}

// forwarding4 makes a host a router of IPv4 alone.
func forwarding4() []topology.Step {
	return []topology.Step{
		// Switching IPv4 forwarding switches this too, the other way (inet_forward_change() of net/ipv4/devinet.c).
		// Said before, it is also what is put back last.
		sysctl("net/ipv4/conf/all/accept_redirects", "0"),
		sysctl("net/ipv4/ip_forward", "1"),
	}
}

// masquerade is the source translation of a network's private blocks.
func masquerade(n topology.PlannedNetwork) *topology.Table { return translation(n.Name, n.V4, n.V6) }

// translation is the source translation of a network: of what leaves one of its blocks, and of what comes back into it
// through a published port (hairpin), whose answer would otherwise go straight to the client, from an address that the
// client never called (RFC 4787 REQ-9).
func translation(network string, blocks ...netip.Prefix) *topology.Table {
	chain := topology.Chain{Name: "postrouting", Type: "nat", Hook: "postrouting", Priority: srcnat}
	for _, b := range blocks {
		f, block := familyOf(b.Addr()), b.String()
		from, to := topology.Match{Field: f.ip + " saddr", Value: block}, topology.Match{Field: f.ip + " daddr", Value: block}
		abroad := to
		abroad.Not = true
		chain.Rules = append(chain.Rules,
			topology.Rule{
				Match:   []topology.Match{from, abroad, {Field: f.ip + " daddr", Not: true, Value: f.multicast}},
				Verdict: topology.Verdict{Kind: "masquerade"},
				Comment: fmt.Sprintf("masquerade %s %s", network, f.name),
			},
			topology.Rule{
				Match:   []topology.Match{from, to, {Field: "ct status", Value: "dnat"}},
				Verdict: topology.Verdict{Kind: "masquerade"},
				Comment: fmt.Sprintf("hairpin %s %s", network, f.name),
			},
		)
	}
	return &topology.Table{Family: "inet", Name: "nat-" + network, Chains: []topology.Chain{chain}}
}

// guard keeps a network apart from the others of its host, and lets in from outside only what was published or is an
// answer. A host with forwarding on and no such rules routes to its containers for every neighbour that asks.
// by tells what comes from a network, and what goes to it.
func guard(p *topology.Plan, host *topology.Machine, n topology.PlannedNetwork, by func(topology.PlannedNetwork, family) (from, to []topology.Match)) *topology.Table {
	forward := topology.Chain{Name: "forward", Type: "filter", Hook: "forward", Priority: filter}
	outside := topology.Chain{Name: "outside", Rules: []topology.Rule{
		{
			Match:   []topology.Match{{Field: "ct state", Value: "established,related"}},
			Verdict: topology.Verdict{Kind: "accept"},
			Comment: "answers " + n.Name,
		},
		{
			Match:   []topology.Match{{Field: "ct status", Value: "dnat"}},
			Verdict: topology.Verdict{Kind: "accept"},
			Comment: "published " + n.Name,
		},
	}}
	for _, f := range families {
		_, to := by(n, f)
		for _, other := range p.Networks {
			if other.Name == n.Name {
				continue
			}
			from, _ := by(other, f)
			forward.Rules = append(forward.Rules, topology.Rule{
				Match:   join(from, to),
				Verdict: topology.Verdict{Kind: "drop"},
				Comment: fmt.Sprintf("isolate %s %s %s", other.Name, n.Name, f.name),
			})
		}
		outside.Rules = append(outside.Rules, topology.Rule{
			Match:   to,
			Verdict: topology.Verdict{Kind: "drop"},
			Comment: fmt.Sprintf("block unpublished %s %s", n.Name, f.name),
		})
	}
	for _, nic := range host.NICs {
		forward.Rules = append(forward.Rules, topology.Rule{
			Match:   []topology.Match{{Field: "iifname", Value: nic.Name}},
			Verdict: topology.Verdict{Kind: "jump", Chain: outside.Name},
			Comment: "outside " + nic.Name,
		})
	}
	return &topology.Table{Family: "inet", Name: "filter-" + n.Name, Chains: []topology.Chain{outside, forward}}
}

// join is all of some matches, each once.
func join(lists ...[]topology.Match) []topology.Match {
	var all []topology.Match
	seen := map[topology.Match]bool{}
	for _, list := range lists {
		for _, m := range list {
			if !seen[m] {
				seen[m] = true
				all = append(all, m)
			}
		}
	}
	return all
}

// publish maps a port to a container at its private addresses.
func publish(_ *topology.Plan, host *topology.Machine, c topology.Container, port Port) []topology.Step {
	return portMap(host, port, c.Private4.Addr(), c.Private6.Addr())
}

// portMap maps a port of every address of the host but the loopback's, for clients outside, for containers, and for the
// host itself, to addresses of a container, one of a family. What the host sends to its own loopback stays there: answering
// that would need net.ipv4.conf.*.route_localnet, with which neighbours reach loopback too.
//
// A port of UDP is forgotten by connection tracking after that, as Docker does (moby/moby#44742) and the CNI's portmap plugin (containernetworking/plugins#553).
//
// The table is named after the host's port alone, so that the kernel refuses to publish a port twice (EEXIST), no matter
// for whom.
func portMap(host *topology.Machine, port Port, to ...netip.Addr) []topology.Step {
	table := topology.Table{Family: "inet", Name: fmt.Sprintf("publish-%s-%d", port.Proto, port.Host)}
	for _, hook := range []string{"prerouting", "output"} {
		chain := topology.Chain{Name: hook, Type: "nat", Hook: hook, Priority: dstnat}
		for _, a := range to {
			f := familyOf(a)
			chain.Rules = append(chain.Rules, topology.Rule{
				Match: []topology.Match{
					{Field: f.ip + " daddr", Not: true, Value: f.loopback},
					{Field: "fib daddr type", Value: "local"},
					{Field: port.Proto + " dport", Value: strconv.Itoa(int(port.Host))},
				},
				Verdict: topology.Verdict{Kind: "dnat", To: netip.AddrPortFrom(a, port.Container)},
				Comment: fmt.Sprintf("publish %s %d %s %s", port.Proto, port.Host, f.name, hook),
			})
		}
		table.Chains = append(table.Chains, chain)
	}
	steps := []topology.Step{{On: host.Name, Table: &table}}
	if port.Proto == "udp" {
		// Who asked before there were rules is tracked as the host's own client, for as long as it goes on asking.
		steps = append(steps, topology.Step{On: host.Name, Forget: &topology.Forget{Proto: port.Proto, Port: port.Host}})
	}
	return steps
}
