package suites

import (
	"context"
	"net/netip"
	"slices"

	"github.com/modebench/modebench/topology"
	"github.com/modebench/modebench/topology/lab"
)

// alternations is how often a MAC address changes the port that it is at.
const alternations = 10

var _ = register(Spec{
	Suite: "lifecycle",
	Feature: Feature{
		Name: "mac-flaps", Group: "operations",
		Doc: "While a container's MAC address is at two hosts by turns, does each time the one get what is for it that spoke last?",
	},
	Name: "a container is attached to two hosts with one MAC and IPv4 address; they ask an external machine in turn, and that one asks back each time",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		if o := unstationed(b); o != nil {
			return *o, nil
		}
		device, err := linkOf(ctx, b, container(b), ownDevice(b, container(b)))
		if err != nil {
			return Observation{}, err
		}
		nic, err := linkOf(ctx, b, Place{Machine: firstHost(b)}, b.face(firstHost(b)).Name)
		if err != nil {
			return Observation{}, err
		}
		if device.MAC.String() == nic.MAC.String() {
			return notApplicable("%s of %s has the MAC address of its host, %s, which does not move", device.Name, container(b), nic.MAC), nil
		}
		c, err := another(b, firstHost(b), network(b), 1)
		if err != nil {
			return Observation{}, err
		}
		port := b.freePort()
		var twins []Place
		served := map[Place][]lab.Handle{}
		for _, host := range []string{firstHost(b), secondHost(b)} {
			p, err := b.attachAs(ctx, c, host, fourth)
			if err != nil {
				return Observation{}, err
			}
			b.atEnd(func(ctx context.Context) error { return b.Detach(ctx, p) })
			s, err := serveUDP(ctx, b, p, IPv4, port)
			if err != nil {
				return Observation{}, err
			}
			twins, served[p] = append(twins, p), []lab.Handle{s.Handle}
		}
		x := external(b)
		target := netip.AddrPortFrom(c.Segment4.Addr(), port)
		var o Observation
		followed, again := 0, 0
		for i := range alternations {
			speaker := twins[i%len(twins)]
			// What the other one says of its own accord, such as which groups it is in, takes the address back: then it is tried again.
			for range 3 {
				out, err := b.Ask(ctx, speaker, lab.Ask{Proto: "udp", To: netip.AddrPortFrom(addrOf(b, x, IPv4), controlPort), Wait: retry})
				if err != nil {
					return Observation{}, err
				}
				token := b.newToken()
				back, err := b.Ask(ctx, x, lab.Ask{Proto: "udp", To: target, Token: token, Wait: retry})
				if err != nil {
					return Observation{}, err
				}
				count, err := heardBy(ctx, b, served, func(t string) bool { return t == token })
				if err != nil {
					return Observation{}, err
				}
				var heard []string
				for _, p := range twins {
					if count[p] > 0 {
						heard = append(heard, p.String())
					}
				}
				o = o.with(speaker.String(), "asked %s, answered: %t; then %s asked %s, and %s heard it", x, out.Answered, x, target, orNone(heard))
				if out.Answered && back.Answered && slices.Equal(heard, []string{speaker.String()}) {
					followed++
					break
				}
				again++
			}
		}
		seen := whether(followed == alternations, "%s was at %s and %s by turns, %d times: %d times the one that had spoken last was answered, and then got what was for it, alone; %d tries of it failed",
			c.MAC, twins[0], twins[1], alternations, followed, again)
		if followed > 0 && followed < alternations {
			seen.Status = "mixed"
		}
		seen.Evidence = o.Evidence
		return seen.value("failed", float64(again)), nil
	},
	Sabotage: []Sabotage{
		{Mode: "macvlan-bridge", Doc: "the switch takes nothing from the address at the second host's port", Steps: heldAt(1)},
		{Mode: "macvlan-private", Doc: "the switch takes nothing from the address at the first host's port", Steps: heldAt(0)},
	},
})

// fourth leaves out of attaching a container what it has of IPv6, of which one of two would be found to be a duplicate.
func fourth(steps []topology.Step) []topology.Step {
	return slices.DeleteFunc(slices.Clone(steps), func(s topology.Step) bool { return numbers(s, IPv6) })
}

// heldAt has the switch drop what comes from the containers that specs attach, by the port of a host.
func heldAt(host int) func(*topology.Plan) []topology.Step {
	return func(p *topology.Plan) []topology.Step {
		port, c := p.Hosts()[host].NICs[0].Peer, spareOf(p, p.Hosts()[0].Name, 1)
		return []topology.Step{{On: port.Machine, Table: &topology.Table{Family: "bridge", Name: "sabotage", Chains: []topology.Chain{{
			Name: "in", Type: "filter", Hook: "prerouting", Rules: []topology.Rule{{Match: []topology.Match{
				{Field: "iifname", Value: port.Interface}, {Field: "ether saddr", Value: c.MAC.String()},
			}, Verdict: topology.Verdict{Kind: "drop"}}},
		}}}}}
	}
}
