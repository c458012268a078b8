package suites

import (
	"context"

	"github.com/modebench/modebench/topology"
)

// The default lab's words: the machines and networks that specs speak of are found by their roles, not by names.
func firstHost(b *Bench) string  { return b.plan.Hosts()[0].Name }
func secondHost(b *Bench) string { return b.plan.Hosts()[1].Name }
func external(b *Bench) Place    { return Place{Machine: b.plan.Externals()[0].Name} }
func network(b *Bench) string    { return b.plan.Networks[0].Name }

// container is the first container of the first network on the first host.
func container(b *Bench) Place { return b.Containers(firstHost(b), network(b))[0] }

var _ = registerFamilies(func(f Family) Spec {
	return Spec{
		Suite:   "conformance",
		Feature: Feature{Name: "same-host", Group: "reach", Doc: "Do two containers of one network on one host reach each other?"},
		Name:    "a container asks its neighbour on the same host by ICMP echo, UDP and TCP",
		Run: func(ctx context.Context, b *Bench) (Observation, error) {
			first, second, ok := pair(b, firstHost(b), network(b))
			if !ok {
				return notApplicable("the mode has one container a network and host"), nil
			}
			o, _, err := reach(ctx, b, first, second, f)
			return o, err
		},
		Sabotage: []Sabotage{
			{Mode: "bridge", Doc: "the first container's link is down", Steps: func(p *topology.Plan) []topology.Step {
				h := p.Hosts()[0]
				return []topology.Step{{On: h.Name, In: h.Containers[0].Name, Set: &topology.LinkSet{Name: "eth0", State: "down"}}}
			}},
		},
	}
})

var _ = registerFamilies(func(f Family) Spec {
	return Spec{
		Suite:   "conformance",
		Feature: Feature{Name: "container-to-external", Group: "reach", Doc: "Does a container reach an external machine?"},
		Name:    "a container asks an external machine by ICMP echo, UDP and TCP",
		Run: func(ctx context.Context, b *Bench) (Observation, error) {
			o, _, err := reach(ctx, b, container(b), external(b), f)
			return o, err
		},
		Sabotage: []Sabotage{
			{Mode: "bridge", Doc: "forwarding is off", Steps: func(p *topology.Plan) []topology.Step {
				key := map[Family]string{IPv4: "net/ipv4/ip_forward", IPv6: "net/ipv6/conf/all/forwarding"}[f]
				return []topology.Step{{On: p.Hosts()[0].Name, Sysctl: &topology.Sysctl{Key: key, Value: "0"}}}
			}},
		},
	}
})
