package suites

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/modebench/modebench/topology"
	"github.com/modebench/modebench/topology/lab"
)

var _ = registerFamilies(func(f Family) Spec {
	return Spec{
		Suite: "packets",
		Feature: Feature{
			Name: "anti-spoofing", Group: "isolation",
			Doc: "Is what a container sends from an address that it was not given stopped before it leaves the host (RFC 2827)?",
		},
		Name: "a container takes an address that is nobody's, and sends a datagram from it, and one from its own, to an external machine",
		Run: func(ctx context.Context, b *Bench) (Observation, error) {
			if o := numberless(b, f); o != nil {
				return *o, nil
			}
			c, x := container(b), external(b)
			foreign := map[Family]netip.Addr{ // of documentation: RFC 5737, RFC 3849
				IPv4: netip.MustParseAddr("203.0.113.77"), IPv6: netip.MustParseAddr("2001:db8:77::77"),
			}[f]
			target := netip.AddrPortFrom(addrOf(b, x, f), controlPort)
			if err := b.Apply(ctx, topology.Step{On: c.Machine, In: c.Container, Addr: &topology.Addr{
				Link: exitDevice(b, c), Prefix: alone(foreign), NoDAD: f == IPv6,
			}}); err != nil {
				return Observation{}, err
			}
			recorded, err := b.Record(ctx)
			if err != nil {
				return Observation{}, err
			}
			token := b.newToken()
			ask := lab.Ask{Proto: "udp", From: netip.AddrPortFrom(foreign, 0), To: target, Token: token, Wait: hopeful}
			if _, err := b.Ask(ctx, c, ask); err != nil {
				return Observation{}, err
			}
			exit, err := exitAddr(ctx, b, c, f)
			if err != nil {
				return Observation{}, err
			}
			own := netip.AddrPortFrom(exit, 0)
			control, err := b.Ask(ctx, c, lab.Ask{Proto: "udp", From: own, To: target}) // after it, by the same way
			if err != nil || !control.Answered {
				return Observation{}, errors.Join(err, fmt.Errorf("control: %s did not answer %s", x, own.Addr()))
			}
			sent, err := recorded(ctx, func(p lab.Packet) bool { return p.Token == token && p.Dst == target })
			if err != nil {
				return Observation{}, err
			}
			if len(sent) == 0 {
				return Observation{}, fmt.Errorf("%s sent nothing from %s", c, foreign)
			}
			i := slices.IndexFunc(sent, func(p lab.Packet) bool { return p.Machine != c.Machine })
			last := sent[len(sent)-1]
			o := whether(i < 0, "%s sent a datagram from %s to %s: it was last seen at %s", c, foreign, x, at(last))
			o.Evidence = append(o.Evidence, seen(last))
			return o.with(c.String(), "control: from %s it was answered after %s", own.Addr(), control.RTT.Round(time.Microsecond)), nil
		},
		Sabotage: []Sabotage{
			{Mode: "direct-bgp", Doc: "no rule looks at sources", Rewire: trusted},
			{Mode: "bridge", Doc: "the host's packet filter drops what the container was not given", Steps: func(p *topology.Plan) []topology.Step {
				h := p.Hosts()[0]
				field, own := "ip saddr", h.Containers[0].Private4.Addr()
				if f == IPv6 {
					field, own = "ip6 saddr", h.Containers[0].Private6.Addr()
				}
				return []topology.Step{dropping(topology.Step{On: h.Name}, "forward",
					topology.Match{Field: "iifname", Value: p.Networks[0].Bridge},
					topology.Match{Field: field, Value: own.String(), Not: true})}
			}},
		},
	}
})

// trusted leaves out the rules of an attachment.
func trusted(steps []topology.Step) []topology.Step {
	return slices.DeleteFunc(slices.Clone(steps), func(s topology.Step) bool { return s.Table != nil })
}
