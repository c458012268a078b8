package modes

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/modebench/modebench/topology"
)

var _ = register(45, Mode{
	Name: "links",
	Doc: "Docker's legacy links on its default bridge: as the mode bridge, but containers do not reach each other (icc=false), " +
		"except one that is linked to another: at the ports that this exposes, which it learns from its environment and from /etc/hosts.",
	GoodFor: "Old set-ups of Docker on one host that expect variables such as DB_PORT in their environment, and containers that " +
		"need to reach few others and should reach no more.",
	BadFor: "Anything new: links know one host only, they hand all of a container's environment, passwords among it, to those that link to it, and " +
		"what they put into an environment is wrong as soon as the other container gets another address.",
	Needs:   []Kernel{Veth, Bridge, NFTNAT, NFBridge},
	Setup:   linksSetup,
	Attach:  linksAttach,
	Publish: publish,
	Policy:  byDevices("bridge", ownDevice),
	Rate:    ratedAt(ownDevice),
	Link:    link,
	Addrs:   privateAddrs,
	Device:  eth0,
})

// linksSetup is bridgeSetup with the containers of a network kept apart where the host routes.
func linksSetup(p *topology.Plan, host *topology.Machine) []topology.Step {
	s := steps{on: host.Name, all: bridgeSetup(p, host)}
	for _, n := range p.Networks {
		s.host(topology.Step{Table: unrelayed(n)})
	}
	return s.all
}

// linksAttach is bridgeAttach with the container kept apart from others on its bridge.
func linksAttach(p *topology.Plan, host *topology.Machine, c topology.Container) []topology.Step {
	s := steps{on: host.Name, all: bridgeAttach(p, host, c)}
	s.host(topology.Step{Table: aloof(c)})
	return s.all
}

// pinhole marks frames that a link lets through.
const pinhole = 1

// aloof keeps a container from what others send to it over its bridge: icc=false.
func aloof(c topology.Container) *topology.Table {
	chain := topology.Chain{Name: "forward", Type: "filter", Hook: "forward", Priority: filter}
	for _, f := range families {
		chain.Rules = append(chain.Rules, topology.Rule{
			Match: []topology.Match{
				{Field: "oifname", Value: c.Device}, {Field: "ether type", Value: f.ip}, {Field: "meta mark", Not: true, Value: fmt.Sprint(pinhole)},
			},
			Verdict: topology.Verdict{Kind: "drop"},
			Comment: fmt.Sprintf("icc %s %s", c.Name, f.name),
		})
	}
	return &topology.Table{Family: "bridge", Name: "icc-" + c.Name, Chains: []topology.Chain{chain}}
}

// unrelayed keeps a network's containers from reaching each other by way of their gateway, but at published ports.
func unrelayed(n topology.PlannedNetwork) *topology.Table {
	between := []topology.Match{{Field: "iifname", Value: n.Bridge}, {Field: "oifname", Value: n.Bridge}}
	rule := func(kind, comment string, more ...topology.Match) topology.Rule {
		return topology.Rule{Match: append(slices.Clone(between), more...), Verdict: topology.Verdict{Kind: kind}, Comment: comment + " " + n.Name}
	}
	return &topology.Table{Family: "inet", Name: "icc-" + n.Name, Chains: []topology.Chain{{
		Name: "forward", Type: "filter", Hook: "forward", Priority: filter, Rules: []topology.Rule{
			rule("accept", "published between", topology.Match{Field: "ct status", Value: "dnat"}),
			rule("drop", "icc"),
		},
	}}}
}

// Link is what a container is told of another one of its host, the source, when it starts, and for which it is let through to it.
type Link struct {
	Alias   string // by which the source is known to the container
	Source  topology.Container
	Exposed []Port   // by Proto and Container; Host is of no concern
	Env     []string // NAME=value: what the source was given
}

// id is a container's short identifier, for which Docker draws a random number.
func id(c topology.Container) string {
	sum := sha256.Sum256([]byte(c.ID()))
	return fmt.Sprintf("%x", sum[:6])
}

// called is the name that a container was started with.
func called(c topology.Container) string { return c.Host + "-" + c.Name }

// Names are by what /etc/hosts knows the source.
func (l Link) Names() []string { return []string{l.Alias, id(l.Source), called(l.Source)} }

// Environment are the variables by which a container learns of the source (Docker Docs, engine/network/links.md, Environment variables): of IPv4
// alone. Variables of the source that belong to its image (HOME, PATH) are not among them. Docker also names the first and the last of two and
// more ports of a protocol in a row, and its code gives ALIAS_PORT the lowest port of TCP where the documentation says the lowest of all (moby
// daemon/links/links.go).
func (l Link) Environment(of topology.Container) []string {
	alias := strings.ReplaceAll(strings.ToUpper(l.Alias), "-", "_")
	addr := l.Source.Private4.Addr()
	ports := slices.SortedFunc(slices.Values(l.Exposed), func(a, b Port) int {
		return cmp.Or(cmp.Compare(a.Container, b.Container), cmp.Compare(a.Proto, b.Proto)) // tcp before udp
	})
	env := []string{fmt.Sprintf("%s_NAME=/%s/%s", alias, called(of), l.Alias)}
	for i, p := range ports {
		url := fmt.Sprintf("%s://%s", p.Proto, netip.AddrPortFrom(addr, p.Container))
		if i == 0 {
			env = append(env, fmt.Sprintf("%s_PORT=%s", alias, url))
		}
		each := fmt.Sprintf("%s_PORT_%d_%s", alias, p.Container, strings.ToUpper(p.Proto))
		env = append(env, each+"="+url, each+"_ADDR="+addr.String(), fmt.Sprintf("%s_PORT=%d", each, p.Container), each+"_PROTO="+p.Proto)
	}
	for _, e := range l.Env {
		if name, _, _ := strings.Cut(e, "="); name != "HOME" && name != "PATH" {
			env = append(env, alias+"_ENV_"+e)
		}
	}
	return env
}

// hosts is /etc/hosts of a container with links.
func hosts(c topology.Container, links []Link) string {
	lines := []string{"127.0.0.1\tlocalhost", "::1\tlocalhost ip6-localhost ip6-loopback"}
	for _, l := range links {
		lines = append(lines, fmt.Sprintf("%s\t%s", l.Source.Private4.Addr(), strings.Join(l.Names(), " ")))
	}
	return strings.Join(append(lines, fmt.Sprintf("%s\t%s\n", c.Private4.Addr(), id(c))), "\n")
}

// link is Mode.Link: rules and /etc/hosts follow a source, the environment of what runs does not.
func link(_ *topology.Plan, host *topology.Machine, c topology.Container, was, now []Link) []topology.Step {
	s := steps{on: host.Name}
	for _, l := range was {
		s.host(topology.Step{Remove: true, Table: through(c, l)})
	}
	for _, l := range now {
		s.host(topology.Step{Table: through(c, l)})
	}
	s.in(c.Name, topology.Step{Hosts: &topology.Hosts{Text: hosts(c, now)}})
	if was == nil {
		var env []string
		for _, l := range now {
			env = append(env, l.Environment(c)...)
		}
		s.in(c.Name, topology.Step{Process: &topology.Process{Env: env}})
	}
	return s.all
}

// through lets a container through to exposed ports of a source, and answers back (moby daemon/libnetwork/iptables/iptables.go
// ChainInfo.Link): by IPv4 alone.
func through(c topology.Container, l Link) *topology.Table {
	chain := topology.Chain{Name: "forward", Type: "filter", Hook: "forward", Priority: filter - 1}
	own, source := c.Private4.Addr().String(), l.Source.Private4.Addr().String()
	for _, p := range l.Exposed {
		for _, way := range []struct{ name, from, to, port string }{{"question", own, source, "dport"}, {"answer", source, own, "sport"}} {
			chain.Rules = append(chain.Rules, topology.Rule{
				Match: []topology.Match{
					{Field: "ip saddr", Value: way.from}, {Field: "ip daddr", Value: way.to}, {Field: p.Proto + " " + way.port, Value: fmt.Sprint(p.Container)},
				},
				Verdict: topology.Verdict{Kind: "mark", Mark: pinhole},
				Comment: fmt.Sprintf("link %s %s %d %s", l.Alias, p.Proto, p.Container, way.name),
			})
		}
	}
	return &topology.Table{Family: "bridge", Name: fmt.Sprintf("link-%s-%s", c.Name, l.Alias), Chains: []topology.Chain{chain}}
}
