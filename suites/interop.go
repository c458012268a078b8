package suites

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/modebench/modebench/reports"
	"github.com/modebench/modebench/topology"
	"github.com/modebench/modebench/topology/lab"
)

// bird has BIRD do on a host what a mode has the host's own speaker do: announce some prefixes, and program what it hears.
func bird(host string, bgp topology.BGP, announced []netip.Prefix) topology.Step {
	var c strings.Builder
	fmt.Fprintf(&c, "log stderr all;\nrouter id %s;\nprotocol device { scan time 1; }\n", bgp.ID)
	for _, f := range []Family{IPv4, IPv6} {
		fmt.Fprintf(&c, "protocol kernel { %s { import none; export where source = RTS_BGP; }; }\n", f)
		fmt.Fprintf(&c, "protocol static { %s;", f)
		for _, p := range announced {
			if familyOf(p.Addr()) == f {
				fmt.Fprintf(&c, " route %s unreachable;", p)
			}
		}
		fmt.Fprintf(&c, " }\n")
	}
	for i, p := range bgp.Peers {
		fmt.Fprintf(&c, "protocol bgp tor%d {\n  local %s as %d; neighbor %s as %d; hold time %d; connect delay time 1;\n", i, p.Local, bgp.AS, p.Addr, p.AS, int(bgp.Hold.Seconds()))
		fmt.Fprintf(&c, "  ipv4 { import all; export where source = RTS_STATIC; next hop self; };\n")
		fmt.Fprintf(&c, "  ipv6 { import all; export where source = RTS_STATIC; next hop address %s; };\n}\n", p.Local6)
	}
	return topology.Step{On: host, Program: &topology.Program{
		Name: otherSpeaker, Path: "bird", Args: []string{"-f", "-c", topology.Dir + "/bird.conf", "-s", topology.Dir + "/bird.ctl", "-P", topology.Dir + "/bird.pid"},
		Files: map[string]string{"bird.conf": c.String()}, Ready: topology.Ready{File: "bird.ctl"},
	}}
}

// otherSpeaker is the program that speaks BGP in place of the host's own.
const otherSpeaker = "speaker"

var _ = register(Spec{
	Suite: "routing",
	Feature: Feature{
		Name: "bgp-interop", Group: "routing",
		Doc: "Does a host whose speaker is another implementation of BGP, BIRD, exchange routes of both families with the router and by it with other hosts?",
	},
	Name:     "in a lab of its own, BIRD speaks on the first host in place of its own speaker; a container of the second host asks one of the first; then BIRD is stopped",
	Programs: map[string]string{"bird": "bird2"},
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		if o := speechless(b); o != nil {
			return *o, nil
		}
		host := firstHost(b)
		link := sessionOf(b, host)
		var own, far []block
		for _, a := range blocks(b) {
			switch {
			case a.host == host:
				own = append(own, a)
			case a.host == secondHost(b) && a.nic.Name == link.nic.Name:
				far = append(far, a)
			}
		}
		o, err := withOther(ctx, b, host, own)
		if err != nil {
			return Observation{}, err
		}
		defer func() { _ = o.Close() }()

		// The router has all that the host announces, by the host; and the host has what the other host announces, by the router.
		var missing string
		ok, err := eventually(ctx, convergence, func() (bool, error) {
			s, err := bgpState(ctx, o, link.tor)
			if err != nil {
				return false, err
			}
			for _, a := range own {
				if !slices.ContainsFunc(s.Routes, func(r lab.BGPRoute) bool { return r.Prefix == a.Prefix && r.From == a.own(IPv4) && r.Installed }) {
					missing = fmt.Sprintf("%s has no route to %s by %s", link.tor, a.Prefix, a.session)
					return false, nil
				}
			}
			h, err := o.State(ctx, host)
			if err != nil {
				return false, err
			}
			for _, a := range far {
				if !slices.ContainsFunc(h.Spaces[""].Routes, func(r lab.Route) bool { return r.Dst == a.Prefix && r.Via == link.router(familyOf(a.Addr())) }) {
					missing = fmt.Sprintf("%s has no route to %s by %s", host, a.Prefix, link.tor)
					return false, nil
				}
			}
			return true, nil
		})
		if err != nil {
			return Observation{}, err
		}
		var program lab.ProgramState
		if err := o.Do(ctx, host, "Program.State", otherSpeaker, &program); err != nil {
			return Observation{}, err
		}
		said := reports.Evidence{At: host, Saw: "BIRD said last: " + program.Output}
		if !ok {
			result := blocked("after %s %s", convergence, missing)
			result.Evidence = append(result.Evidence, said)
			return result, nil
		}

		var unanswered []string
		asking, asked := o.Containers(secondHost(o), network(o))[0], o.Containers(host, network(o))[0]
		for _, f := range o.families() {
			a, err := o.Ask(ctx, asking, lab.Ask{Proto: "icmp", To: netip.AddrPortFrom(addrOf(o, asked, f), 0), Wait: 2 * retry})
			if err != nil {
				return Observation{}, err
			}
			if !a.Answered {
				unanswered = append(unanswered, addrOf(o, asked, f).String())
			}
		}

		if err := o.Do(ctx, host, "Program.Stop", otherSpeaker, &lab.Nothing{}); err != nil {
			return Observation{}, err
		}
		stopped := time.Now()
		var left []lab.Route
		gone, err := eventually(ctx, patience, func() (bool, error) {
			left, err = routesTo(ctx, o, link.tor, own[0].Prefix)
			return len(left) == 0, err
		})
		if err != nil {
			return Observation{}, err
		}
		result := whether(len(unanswered) == 0 && gone,
			"%s took %d prefixes from BIRD on %s, and that host %d of another's; %s asked %s by %d families, and had no answer by %d%s; after BIRD had stopped, %s had %d routes to %s left",
			link.tor, len(own), host, len(far), asking, asked, len(o.families()), len(unanswered), strings.Join(append([]string{""}, unanswered...), " "), link.tor, len(left), own[0].Prefix)
		result.Evidence = append(result.Evidence, said)
		return result.value("withdraw-sec", time.Since(stopped).Seconds()), nil
	},
	Sabotage: []Sabotage{
		{Mode: "direct-bgp", Doc: "the host announces a next hop of IPv6 that is nobody", Setup: spoken(func(c *topology.BGP) {
			for i := range c.Peers {
				c.Peers[i].Local6 = netip.MustParseAddr("2001:db8:5e::1")
			}
		})},
	},
})

// withOther is a lab of its own with the bench's mode, in which BIRD announces the host's blocks in place of the host's own speaker.
func withOther(ctx context.Context, b *Bench, host string, own []block) (*Bench, error) {
	var announced []netip.Prefix
	for _, a := range own {
		announced = append(announced, a.Prefix)
	}
	m := b.mode
	m.Setup = func(p *topology.Plan, at *topology.Machine) (steps []topology.Step) {
		for _, s := range b.mode.Setup(p, at) {
			if s.BGP != nil && at.Name == host {
				s = bird(host, *s.BGP, announced)
			}
			steps = append(steps, s)
		}
		return steps
	}
	m.Attach = func(p *topology.Plan, at *topology.Machine, c topology.Container) []topology.Step {
		steps := b.mode.Attach(p, at, c)
		if at.Name == host {
			steps = silent(steps)
		}
		return steps
	}
	return newBench(ctx, b.driver, b.plan, m, b.rewire)
}
