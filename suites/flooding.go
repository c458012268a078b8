package suites

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"github.com/modebench/modebench/reports"
	"github.com/modebench/modebench/topology"
	"github.com/modebench/modebench/topology/lab"
)

// flooded has a container send a frame to a MAC address that nobody has, and observes whether it comes as far as another one's device.
func flooded(ctx context.Context, b *Bench, from, to Place) (Observation, error) {
	device := ownDevice(b, from)
	token := b.newToken()
	recorded, err := b.Record(ctx)
	if err != nil {
		return Observation{}, err
	}
	if err := tell(ctx, b, from, device, lab.Packet{
		EthDst: nobody, Proto: "udp", Token: token,
		Src: netip.AddrPortFrom(addrOf(b, from, IPv4), 9), Dst: netip.MustParseAddrPort("198.51.100.1:9"), // RFC 5737, and discard
	}); err != nil {
		return Observation{}, err
	}
	alive, err := within(ctx, b, to)
	if err != nil {
		return Observation{}, err
	}
	var packets, heard []lab.Packet
	var evidence []reports.Evidence
	came := func() (bool, error) {
		if packets, err = recorded(ctx, func(p lab.Packet) bool { return p.Token == token && p.Inner == nil || p.Token == alive }); err != nil {
			return false, err
		}
		heard, evidence, err = listening(ctx, b, to, packets, alive, []string{token})
		return len(heard) > 0, err
	}
	if _, err := eventually(ctx, grace, came); err != nil {
		return Observation{}, err
	}
	if len(heard) == 0 {
		control, took, err := working(ctx, b, from, to, IPv4)
		if err != nil {
			return Observation{}, err
		}
		if _, err := eventually(ctx, 5*took+grace, came); err != nil {
			return Observation{}, err
		}
		evidence = append(evidence, control...)
	}
	if !slices.ContainsFunc(packets, func(p lab.Packet) bool { return p.Token == token }) {
		return Observation{}, fmt.Errorf("%s sent a frame to %s by %s, which was not even seen there", from, nobody, device)
	}
	o := blocked("%s sent a frame to %s, which nobody has: a capture in %s saw nothing of it", from, nobody, to)
	if len(heard) > 0 {
		o = works("%s sent a frame to %s, which nobody has: a capture in %s saw it (%s)", from, nobody, to, heard[0].Text)
	}
	o.Evidence = evidence
	return o, nil
}

// oneDevice is the answer of the modes in which two containers have one device, or the host's; nil where each has its own.
func oneDevice(b *Bench, p Place) *Observation {
	if o := deviceless(b); o != nil {
		return o
	}
	if with, _ := sharers(b, attachedAt(b, p), p.Machine); with != nil {
		o := notApplicable("containers that join others send by one device, at which each sees what the others do")
		return &o
	}
	return nil
}

var _ = register(Spec{
	Suite:   "conformance",
	Feature: Feature{Name: "unknown-unicast-same-host", Group: "multicast", Doc: "Does a frame to a MAC address that nobody has come to other containers of the sender's network and host (flooding)?"},
	Name:    "a container sends a frame to a MAC address that nobody has, and a capture in its neighbour is searched for it",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		first, second, ok := pair(b, firstHost(b), network(b))
		if !ok {
			return oneContainer(), nil
		}
		if o := oneDevice(b, second); o != nil {
			return *o, nil
		}
		return flooded(ctx, b, first, second)
	},
	Sabotage: []Sabotage{
		{Mode: "bridge", Doc: "the bridge's ports are isolated", Steps: isolated},
		{Mode: "vxlan-static", Doc: "the bridge's ports are isolated", Steps: isolated},
		{Mode: "ptp", Doc: "the host's ends of the pairs are ports of a bridge", Steps: gathered},
		{Mode: "direct-bgp", Doc: "the host's ends of the pairs are ports of a bridge", Steps: gathered},
	},
})

// gathered makes the host's ends of the first host's pairs ports of one bridge.
func gathered(p *topology.Plan) []topology.Step {
	bridge := topology.Step{On: p.Hosts()[0].Name, Link: &topology.Link{Name: "gathered", Kind: "bridge", Up: true}}
	return append([]topology.Step{bridge}, hostEnds(p, topology.LinkSet{Master: bridge.Link.Name})...)
}

var _ = register(Spec{
	Suite:   "conformance",
	Feature: Feature{Name: "unknown-unicast-cross-host", Group: "multicast", Doc: "Does a frame to a MAC address that nobody has come to containers of the sender's network on other hosts (flooding)?"},
	Name:    "a container sends a frame to a MAC address that nobody has, and a capture in one of its network on another host is searched for it",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		if o := oneDevice(b, far(b)); o != nil {
			return *o, nil
		}
		return flooded(ctx, b, container(b), far(b))
	},
	Sabotage: []Sabotage{
		{Mode: "vxlan-static", Doc: "no host is told of the others", Setup: unknown},
		{Mode: "vxlan-gossip", Doc: "the first host sends the second one what is for everybody", Steps: secondTold},
		{Mode: "vxlan-multicast", Doc: "the tunnels have no group", Setup: mapTunnels(func(l *topology.Link) { l.Group, l.Parent = netip.Addr{}, "" })},
		{Mode: "fan", Doc: "the hosts' interfaces are ports of the bridges", Steps: spanned("fan")},
		{Mode: "macvlan-passthru", Doc: "the first host's port is out of the switch", Steps: unplugged},
	},
})
