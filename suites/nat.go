package suites

import (
	"fmt"
	"slices"

	"github.com/modebench/modebench/modes"
	"github.com/modebench/modebench/topology"
)

// natCost isolates what translating addresses costs: one mode's wiring without its filter, and with and without its
// translation, between a container and an external machine.
var natCost = struct {
	mode     string
	features []string
	variants []variant // the first is the baseline
}{
	mode:     "bridge",
	features: []string{"tcp-rr", "tcp-crr", "tcp-stream-1"},
	variants: []variant{
		{name: "routed"},
		{name: "masqueraded", translated: true},
		{name: "port-mapped", translated: true, inward: true},
		{name: "routed+br_netfilter", bridged: true},
		{name: "masqueraded+br_netfilter", translated: true, bridged: true},
		{name: "port-mapped+br_netfilter", translated: true, inward: true, bridged: true},
	},
}

// variant is a variation of the wiring.
type variant struct {
	name       string
	translated bool // with the mode's translation; otherwise the external machine has a route to the containers
	inward     bool // the external machine calls a published port; otherwise the container calls
	bridged    bool // the bridge passes frames to the IP packet filter (br_netfilter)
}

// steps are what makes the mode's wiring the variant's.
func (v variant) steps(p *topology.Plan, m modes.Mode, c topology.Container) (out []topology.Step) {
	host, n := p.Machine(c.Host), p.Network(c.Network)
	for _, s := range m.Wire(p).Setup {
		if s.On != host.Name || s.Table == nil {
			continue
		}
		translates := slices.ContainsFunc(s.Table.Chains, func(c topology.Chain) bool { return c.Type == "nat" })
		if !translates || !v.translated {
			s.Remove = true
			out = append(out, s)
		}
	}
	if !v.translated {
		out = append(out, topology.Step{On: p.Externals()[0].Name, Route: &topology.Route{Dst: n.V4, Via: host.NIC(n.NIC).V4.Addr()}})
	}
	if v.inward {
		out = append(out, publishing(p, m, host.Name, c)...)
	}
	if v.bridged {
		for _, family := range []string{"ip", "ip6"} {
			out = append(out, topology.Step{On: host.Name, Sysctl: &topology.Sysctl{Key: "net/bridge/bridge-nf-call-" + family + "tables", Value: "1"}})
		}
	}
	return out
}

// natGroups are the groups of the suite that isolates translation, each variant in a lab of its own.
func (r *Run) natGroups(cells []Cell) (groups []group, rigs []*rig, needless []*lane) {
	m, ok := modes.Find(natCost.mode)
	if !ok || !slices.ContainsFunc(cells, func(c Cell) bool { return c.Suite == nat }) {
		return nil, nil, nil
	}
	p, err := m.Plan(r.Topology)
	if err != nil {
		for _, gauge := range gauges {
			if slices.Contains(cells, Cell{nat, m.Name, gauge.feature}) {
				needless = append(needless, &lane{gauge: gauge, suite: nat, mode: m, path: crossHost, fabric: fabricOf(m), failed: err})
			}
		}
		return nil, nil, needless
	}
	host, x := p.Hosts()[0], Place{Machine: p.Externals()[0].Name}
	container := attached(p, m, host)[0]
	inside := Place{host.Name, container.Name}
	for _, v := range natCost.variants {
		rigs = append(rigs, &rig{run: r, plan: p, mode: m, outside: true, steps: v.steps(p, m, container)})
	}
	outside := p.Externals()[0].NICs[0].V4.Addr()
	for _, gauge := range gauges {
		if !slices.Contains(cells, Cell{nat, m.Name, gauge.feature}) {
			continue
		}
		var all group
		for i, v := range natCost.variants {
			c := course{client: inside, server: x, to: outside}
			if v.inward {
				c = course{client: x, server: inside, to: host.NIC(p.Network(container.Network).NIC).V4.Addr()}
			}
			all = append(all, &lane{
				gauge: gauge, suite: nat, mode: m, variant: v.name, path: crossHost, fabric: fabricOf(m), course: c, rig: rigs[i],
				spec: fmt.Sprintf("from %s to %s at %s", c.client, c.server, c.to),
			})
		}
		groups = append(groups, all)
	}
	return groups, rigs, nil
}
