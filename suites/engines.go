package suites

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/modebench/modebench/modes"
	"github.com/modebench/modebench/topology"
	"github.com/modebench/modebench/topology/lab"
)

// Engined is the suite that asks an engine for what the Container Network Model has: sandboxes, endpoints and networks (libnetwork docs/design.md); and the
// group of its features.
const Engined = "cnm"

// registerEngined registers a question of engines.
func registerEngined(s Spec) bool {
	s.Suite, s.Feature.Group, s.By = Engined, Engined, modes.ByDocker
	return register(s)
}

// containers changes what an engine is to run.
func containers(change func(*topology.Space)) func([]topology.Step) []topology.Step {
	return mapped(func(s *topology.Step) **topology.Space { return &s.Space }, func(s *topology.Space) {
		run := *s.Run
		s.Run = &run
		change(s)
	})
}

// unjoined runs a container without a network.
func unjoined(steps []topology.Step) []topology.Step {
	return containers(func(s *topology.Space) { s.Run.Network, s.Run.Addrs = "none", nil })(steps)
}

// atHost runs a container in its host's namespace, of which no setting is changed for it.
func atHost(steps []topology.Step) []topology.Step {
	steps = slices.DeleteFunc(slices.Clone(steps), func(s topology.Step) bool { return s.In != "" })
	return containers(func(s *topology.Space) { s.Share, s.Run.Network, s.Run.Addrs = "host", "host", nil })(steps)
}

// runOne runs one more container on a network of the mode's; change is of its steps, before those of a sabotage. It is removed when the spec ends.
func runOne(ctx context.Context, b *Bench, change func([]topology.Step) []topology.Step) (Place, error) {
	host := firstHost(b)
	if err := room(ctx, b, host, network(b)); err != nil {
		return Place{}, err
	}
	c, err := another(b, host, network(b), 5)
	if err != nil {
		return Place{}, err
	}
	p, err := b.attachAs(ctx, c, host, change)
	if err == nil {
		b.atEnd(func(ctx context.Context) error { return b.Detach(ctx, p) })
	}
	return p, err
}

// boxed is what the engine says of a container's sandbox, and what the kernel has there and on the whole host.
type boxed struct {
	said  lab.Sandbox
	there lab.SpaceState
	all   lab.State
}

func sandbox(ctx context.Context, b *Bench, p Place) (s boxed, err error) {
	if err := b.Do(ctx, p.Machine, "Docker.Sandbox", p.Container, &s.said); err != nil {
		return s, err
	}
	s.all, err = b.State(ctx, p.Machine)
	s.there = s.all.Spaces[p.Container]
	return s, err
}

// ofOne is a spec's run once one more container runs, with its sandbox as it is then.
func ofOne(run func(ctx context.Context, b *Bench, p Place, s boxed) (Observation, error)) func(context.Context, *Bench) (Observation, error) {
	return func(ctx context.Context, b *Bench) (Observation, error) {
		p, err := runOne(ctx, b, asIs)
		if err != nil {
			return Observation{}, err
		}
		s, err := sandbox(ctx, b, p)
		if err != nil {
			return Observation{}, err
		}
		return run(ctx, b, p, s)
	}
}

// endpoint is the first of a container's that is as wanted, with its addresses; none has no network.
func (s boxed) endpoint(wanted func(lab.EnginePoint) bool) (e lab.EnginePoint, addrs []netip.Addr) {
	i := slices.IndexFunc(s.said.Endpoints, wanted)
	if i < 0 {
		return e, nil
	}
	for _, a := range s.said.Endpoints[i].Addrs {
		addrs = append(addrs, a.Addr())
	}
	return s.said.Endpoints[i], addrs
}

// holds tells whether a device of a namespace has all of some addresses; has are those that it has.
func holds(at lab.SpaceState, device string, addrs ...netip.Addr) (yes bool, has []netip.Addr) {
	for _, a := range at.Addrs {
		if a.Link == device && !a.LinkLocal {
			has = append(has, a.Prefix.Addr())
		}
	}
	return len(addrs) > 0 && !slices.ContainsFunc(addrs, func(a netip.Addr) bool { return !slices.Contains(has, a) }), has
}

var _ = registerEngined(Spec{
	Feature: Feature{Name: "cnm-sandbox", Doc: "Does the engine give each container a sandbox of its own: a network namespace that it names, and that nobody else is in?"},
	Name:    "a container is run; the namespace that the engine names is held against its own, its host's and those of others",
	Run: ofOne(func(_ context.Context, _ *Bench, p Place, s boxed) (Observation, error) {
		said := s.said
		switch {
		case said.Inode == 0:
			return blocked("the engine names no sandbox of %s", p), nil
		case said.Inode == s.all.Spaces[""].Inode:
			return blocked("the sandbox of %s is its host's own namespace, net:[%d]", p, said.Inode), nil
		case said.Inode != s.there.Inode:
			return blocked("the engine says that %s is in net:[%d], and it is in net:[%d]", p, said.Inode, s.there.Inode), nil
		}
		for name, other := range s.all.Spaces {
			if name != p.Container && other.Inode == said.Inode {
				return blocked("%s is in the sandbox of %s, net:[%d]", p, cmp.Or(name, p.Machine), said.Inode), nil
			}
		}
		return works("%s is in the sandbox that the engine names, net:[%d], and nobody else is", p, said.Inode), nil
	}),
	Sabotage: spared("the container is run in its host's namespace", atHost, "bridge", "none", "macvlan-private"),
})

var _ = registerEngined(Spec{
	Feature: Feature{Name: "cnm-endpoint", Doc: "Has a container's device the MAC address and the IP addresses that the engine says of its endpoint?"},
	Name:    "a container is run, and what the engine says of its endpoint is held against its device",
	Run: ofOne(func(_ context.Context, b *Bench, p Place, s boxed) (Observation, error) {
		e, addrs := s.endpoint(func(e lab.EnginePoint) bool { return len(e.Addrs) > 0 })
		if e.Network == "" {
			return notApplicable("%s has no endpoint with an address", p), nil
		}
		device := b.mode.Device
		same, has := holds(s.there, device, addrs...)
		var mac net.HardwareAddr
		for _, l := range s.there.Links {
			if l.Name == device {
				mac = l.MAC
			}
		}
		return whether(same && (len(e.MAC) == 0 || e.MAC.String() == mac.String()),
			"the engine says that the endpoint of %s in %s has %s and %s; its device %s has %s and %s", p, e.Network, cmp.Or(e.MAC.String(), "no MAC address"), addrs, device, mac, has), nil
	}),
	Sabotage: spared("the container's device is given another MAC address", func(steps []topology.Step) []topology.Step {
		return append(slices.Clone(steps), topology.Step{
			On: steps[0].On, In: steps[0].Space.Name, Set: &topology.LinkSet{Name: "eth0", MAC: net.HardwareAddr{2, 0xbd, 0, 0, 0, 1}},
		})
	}, "bridge", "macvlan-private"),
})

// spareBlocks are those of a network that specs make: of the blocks for documentation (RFC 5737, RFC 3849), as all that labs have.
var spareBlocks = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/26"), netip.MustParsePrefix("2001:db8:c::/64")}

// spareNetwork has the engine make one more network, a bridge, which is removed when the spec ends.
func spareNetwork(ctx context.Context, b *Bench) (topology.EngineNetwork, error) {
	n := topology.EngineNetwork{
		Name: "beside", Driver: "bridge", Blocks: spareBlocks, Gateways: make([]netip.Addr, len(spareBlocks)),
		Options: map[string]string{"com.docker.network.bridge.name": "br-beside"},
	}
	return n, b.Apply(ctx, topology.Step{On: firstHost(b), EngineNetwork: &n})
}

// objection is an engine's refusal in words.
func objection(err error) string {
	_, text, found := strings.Cut(err.Error(), "Error response from daemon: ")
	if !found {
		return err.Error()
	}
	return fmt.Sprintf("%q", text)
}

var _ = registerEngined(Spec{
	Feature: Feature{Name: "cnm-second-network", Doc: "Does a running container that is joined to a second network get an endpoint there, and keep the one that it has?"},
	Name:    "a container is run, and joined to a bridge network that was made meanwhile; it asks that one's gateway",
	Run: ofOne(func(ctx context.Context, b *Bench, p Place, before boxed) (Observation, error) {
		n, err := spareNetwork(ctx, b)
		if err != nil {
			return Observation{}, err
		}
		step := topology.Step{On: p.Machine, EngineJoin: &topology.EngineJoin{Container: p.Container, Network: n.Name}}
		if err := b.Apply(ctx, step); refused(err) {
			return blocked("joining %s to a second network: %s", p, objection(err)), nil
		} else if err != nil {
			return Observation{}, err
		}
		after, err := sandbox(ctx, b, p)
		if err != nil {
			return Observation{}, err
		}
		e, addrs := after.endpoint(func(e lab.EnginePoint) bool { return e.Network == n.Name })
		if e.Network == "" {
			return blocked("the engine joined %s to a second network, and names no endpoint there", p), nil
		}
		var fresh string
		for _, l := range after.there.Links {
			if !slices.ContainsFunc(before.there.Links, func(was lab.Link) bool { return was.Index == l.Index }) {
				fresh = l.Name
			}
		}
		_, had := holds(before.there, b.mode.Device)
		kept, has := holds(after.there, b.mode.Device, had...)
		if got, ofFresh := holds(after.there, fresh, addrs...); !got || !kept {
			return blocked("joined to a second network, %s has %s at %s and %s at %s: of the first it had %s, and of the second the engine says %s", p, has, b.mode.Device, ofFresh, cmp.Or(fresh, "no new device"), had, addrs), nil
		}
		a, err := insisted(ctx, b, p, lab.Ask{Proto: "icmp", To: netip.AddrPortFrom(n.Blocks[0].Addr().Next(), 0), Wait: hopeful})
		o := whether(a.Answered, "%s has %s at %s still, and %s at %s; it asked the second network's gateway by icmp: answered %v", p, has, b.mode.Device, addrs, fresh, a.Answered)
		o.Reproduce = []string{step.String()}
		return o, err
	}),
	Sabotage: spared("the container is run without a network", unjoined, "bridge", "macvlan-private"),
})

var _ = registerEngined(Spec{
	Feature: Feature{Name: "cnm-rejoin", Doc: "Does taking a container out of its network take the device away and leave the sandbox, and does the container get the same addresses when it comes back?"},
	Name:    "a running container is taken out of its network, and joined to it again",
	Run: ofOne(func(ctx context.Context, b *Bench, p Place, before boxed) (Observation, error) {
		e, addrs := before.endpoint(func(e lab.EnginePoint) bool { return e.Network == network(b) && len(e.Addrs) > 0 })
		if e.Network == "" {
			return notApplicable("%s has no endpoint in a network of the mode's", p), nil
		}
		join := topology.EngineJoin{Container: p.Container, Network: e.Network, Addrs: addrs}
		leave, again := topology.Step{On: p.Machine, Remove: true, EngineJoin: &join}, topology.Step{On: p.Machine, EngineJoin: &join}
		if err := b.Apply(ctx, leave); refused(err) {
			return blocked("taking %s out of its network: %s", p, objection(err)), nil
		} else if err != nil {
			return Observation{}, err
		}
		without, err := sandbox(ctx, b, p)
		if err != nil {
			return Observation{}, err
		}
		device := b.mode.Device
		if slices.ContainsFunc(without.there.Links, func(l lab.Link) bool { return l.Name == device }) || without.there.Inode != before.there.Inode {
			return blocked("out of its network, %s is in net:[%d], and was in net:[%d]; its devices are %s", p, without.there.Inode, before.there.Inode, devicesOf(without.there)), nil
		}
		if err := b.Apply(ctx, again); err != nil {
			return Observation{}, err
		}
		after, err := sandbox(ctx, b, p)
		at, linked := linkWith(after.there, join.Addrs[0]) // the engine counts devices on: it is called eth1 now
		same, has := holds(after.there, at.Name, join.Addrs...)
		o := whether(linked == nil && same && after.there.Inode == before.there.Inode, "out of its network, %s had %s alone, of %s at %s before; joined again, it has %s at %s, in the same sandbox",
			p, devicesOf(without.there), join.Addrs, device, has, cmp.Or(at.Name, "no device"))
		o.Reproduce = []string{leave.String(), again.String()}
		return o, err
	}),
	Sabotage: spared("the container is run without a network", unjoined, "bridge", "macvlan-private"),
})

// devicesOf are the names of a namespace's devices.
func devicesOf(s lab.SpaceState) (names []string) {
	for _, l := range s.Links {
		names = append(names, l.Name)
	}
	return names
}

var _ = registerEngined(Spec{
	Feature: Feature{Name: "cnm-network-in-use", Doc: "Is a network that a container is joined to kept from being removed?"},
	Name:    "a network is made, a container is joined to it, and the engine is asked to remove the network",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		n, err := spareNetwork(ctx, b)
		if err != nil {
			return Observation{}, err
		}
		p, err := runOne(ctx, b, asIs)
		if err != nil {
			return Observation{}, err
		}
		if err := b.Apply(ctx, topology.Step{On: p.Machine, EngineJoin: &topology.EngineJoin{Container: p.Container, Network: n.Name}}); refused(err) {
			return notApplicable("a container of the mode cannot be joined to one more network: %s", objection(err)), nil
		} else if err != nil {
			return Observation{}, err
		}
		remove := topology.Step{On: p.Machine, Remove: true, EngineNetwork: &n}
		err = b.Apply(ctx, remove)
		if err != nil && !refused(err) {
			return Observation{}, err
		}
		if err == nil {
			return blocked("the engine removed the network that %s is joined to", p), nil
		}
		o := works("removing the network that %s is joined to: %s", p, objection(err))
		o.Reproduce = []string{remove.String()}
		return o, nil
	},
	Sabotage: spared("the container is run without a network", unjoined, "bridge", "macvlan-private"),
})

var _ = registerEngined(Spec{
	Feature: Feature{Name: "cnm-address-foreign", Doc: "Is a container refused an address that is in none of its network's blocks?"},
	Name:    "a container is to be run with an address of other blocks than its network's",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		c, err := another(b, firstHost(b), network(b), 5)
		if err != nil {
			return Observation{}, err
		}
		if !slices.ContainsFunc(b.mode.Attach(b.plan, b.plan.Machine(firstHost(b)), c), func(s topology.Step) bool {
			return s.Space != nil && len(s.Space.Run.Addrs) > 0
		}) {
			return notApplicable("a container of the mode is given no address"), nil
		}
		var asked []netip.Addr
		for _, block := range spareBlocks {
			asked = append(asked, block.Addr().Next().Next())
		}
		p, err := runOne(ctx, b, containers(func(s *topology.Space) { s.Run.Addrs = asked }))
		switch {
		case refused(err):
			return works("%s was to have %s: %s", p, asked, objection(err)), nil
		case err != nil:
			return Observation{}, err
		}
		return blocked("the engine ran %s, which was to have %s", p, asked), nil
	},
	Sabotage: spared("the engine is to choose the address", containers(func(s *topology.Space) { s.Run.Addrs = nil }), "bridge", "macvlan-private"),
})
