package suites

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

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

// joinable has a container that should have no network run in one.
var joinable = Sabotage{
	Mode: "none", Doc: "the host has a network, and the container is run in it",
	Steps: func(p *topology.Plan) []topology.Step {
		n := p.Networks[0]
		return []topology.Step{{On: p.Hosts()[0].Name, EngineNetwork: &topology.EngineNetwork{
			Name: n.Name, Driver: "bridge", Blocks: []netip.Prefix{n.V4, n.V6}, Gateways: make([]netip.Addr, 2),
			Options: map[string]string{"com.docker.network.bridge.name": n.Bridge},
		}}}
	},
	Spares: containers(func(s *topology.Space) { s.Run.Network = "blue" }),
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

// refusal is what an engine's begins with.
const refusal = "Error response from daemon: "

// declined tells whether an engine said no that runs on.
func declined(ctx context.Context, b *Bench, err error) bool {
	return refused(err) && strings.Contains(err.Error(), refusal) && b.lost(ctx) == nil
}

// objection is an engine's refusal in words.
func objection(err error) string {
	_, text, found := strings.Cut(err.Error(), refusal)
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
	Sabotage: []Sabotage{joinable},
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
	Sabotage: []Sabotage{joinable},
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

// swarm is a lab of its own, of two hosts whose engines have default bridges, the second one's with its containers kept apart, and are in one swarm, with a container on each in
// a network across them.
type swarm struct {
	*Bench
	places [2]Place
	names  [2]string // of the containers, as the engines have them
	addrs  [2]netip.Addr
}

// across is the network of a swarm's, and acrossToo another one, that has IPv6 as well: of an engine's that is another matter.
var (
	across    = overlaid("across", "192.0.2.0/26")
	acrossToo = overlaid("across-too", "192.0.2.64/26", "2001:db8:c::/64")
)

func overlaid(name string, blocks ...string) topology.EngineNetwork {
	n := topology.EngineNetwork{Name: name, Driver: "overlay", Gateways: make([]netip.Addr, len(blocks))}
	for _, b := range blocks {
		n.Blocks = append(n.Blocks, netip.MustParsePrefix(b))
	}
	return n
}

// acrossAddr is a container's IPv4 address in a network of a swarm's. The first ones of the block are the gateway's and, for its load balancing, each node's
// (moby libnetwork/network.go createLoadBalancerSandbox).
func acrossAddr(n topology.EngineNetwork, number int) netip.Addr {
	at := n.Blocks[0].Addr().As4()
	at[3] += byte(40 + number)
	return netip.AddrFrom4(at)
}

// swarming is a spec's run in a swarm, which specs one after another share. An engine has overlay networks and a default bridge of whichever mode its others are: of one
// mode they are asked.
func swarming(run func(ctx context.Context, s *swarm) (Observation, error)) func(context.Context, *Bench) (Observation, error) {
	return func(ctx context.Context, b *Bench) (o Observation, err error) {
		c, err := another(b, firstHost(b), network(b), 5)
		if err != nil {
			return o, err
		}
		host := b.plan.Machine(c.Host)
		bridged := slices.ContainsFunc(b.mode.Setup(b.plan, host), func(s topology.Step) bool { return s.EngineNetwork != nil && s.EngineNetwork.Driver == "bridge" })
		if !bridged || slices.ContainsFunc(b.mode.Attach(b.plan, host, c), func(s topology.Step) bool { return s.Space != nil && s.Space.Share != "" }) {
			return notApplicable("an engine's overlay networks and default bridge are asked of the mode whose own networks are bridges"), nil
		}
		if b.swarm == nil {
			if b.swarm, err = swarmOf(ctx, b); err != nil {
				return o, err
			}
		}
		o, err = run(ctx, b.swarm)
		if undone := b.swarm.reset(context.WithoutCancel(ctx)); undone != nil || err != nil {
			err = errors.Join(err, undone, b.dissolve())
		}
		return o, err
	}
}

// dissolve ends the swarm, if there is one.
func (b *Bench) dissolve() error {
	s := b.swarm
	if b.swarm = nil; s == nil {
		return nil
	}
	return s.Close()
}

func swarmOf(ctx context.Context, b *Bench) (s *swarm, err error) {
	m := b.mode
	m.Setup = func(p *topology.Plan, host *topology.Machine) []topology.Step {
		return mapped(func(s *topology.Step) **topology.Engine { return &s.Engine }, func(e *topology.Engine) {
			e.Default, e.Apart = defaultBlocks, host.Name != p.Hosts()[0].Name
		})(b.mode.Setup(p, host))
	}
	l, err := among(ctx, b, 2, m)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.Close())
		}
	}()
	s = &swarm{Bench: l}
	hosts := hostNames(l)
	node := topology.EngineSwarm{Addr: underlayOf(l, hosts[0])}
	joins := topology.EngineSwarm{Addr: underlayOf(l, hosts[1]), Manager: hosts[0], At: node.Addr}
	if err := l.lab.Apply(ctx, "swarm", []topology.Step{
		{On: hosts[0], EngineSwarm: &node},
		{On: hosts[0], EngineNetwork: &across},
		{On: hosts[0], EngineNetwork: &acrossToo},
		{On: hosts[1], EngineSwarm: &joins},
	}); err != nil {
		return nil, err
	}
	for i, h := range hosts {
		s.addrs[i] = acrossAddr(across, i)
		if s.places[i], s.names[i], err = s.run(ctx, h, 5+i, inNetwork(across, s.addrs[i])); err != nil {
			return nil, err
		}
	}
	for _, p := range s.places {
		seen, err := sandbox(ctx, l, p)
		if err != nil {
			return nil, err
		}
		if e, _ := seen.endpoint(func(e lab.EnginePoint) bool { return e.Network == across.Name }); e.Network == "" {
			return s, nil // nobody tells a container anything of a network that it is not in
		}
	}
	for i, p := range s.places {
		if err := l.toldOf(ctx, p, s.addrs[1-i], rejoining); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// inNetwork has a container run in a network of a swarm's.
func inNetwork(n topology.EngineNetwork, at netip.Addr) func(*topology.EngineContainer) {
	return func(c *topology.EngineContainer) { c.Network, c.Addrs = n.Name, []netip.Addr{at} }
}

// run runs a container on a node, which is changed.
func (s *swarm) run(ctx context.Context, node string, number int, change func(*topology.EngineContainer)) (p Place, name string, err error) {
	c, err := another(s.Bench, node, network(s.Bench), number)
	if err != nil {
		return p, "", err
	}
	p, err = s.attachAs(ctx, c, node, containers(func(m *topology.Space) {
		change(m.Run)
		name = m.Run.Name
	}))
	return p, name, err
}

// defaultBlocks are those of engines' default bridges, and defaultBridge is the network.
var defaultBlocks = []netip.Prefix{netip.MustParsePrefix("192.0.2.129/26"), netip.MustParsePrefix("2001:db8:d::1/64")}

const defaultBridge = "bridge"

// defaulted is a container of a default bridge, with the addresses that the engine chose for it.
type defaulted struct {
	Place
	name  string
	addrs []netip.Addr
}

// addr is its address of a family; zero: it has none.
func (c defaulted) addr(f Family) netip.Addr {
	i := slices.IndexFunc(c.addrs, func(a netip.Addr) bool { return familyOf(a) == f })
	if i < 0 {
		return netip.Addr{}
	}
	return c.addrs[i]
}

// ask asks another container at a port until it answers and has seen the address that the first one has, for so long, or once.
func (c defaulted) ask(ctx context.Context, s *swarm, proto string, to defaulted, f Family, port uint16, within time.Duration) (answered bool, a lab.Answer, err error) {
	answered, err = eventually(ctx, within, func() (right bool, err error) {
		a, err = s.Ask(ctx, c.Place, lab.Ask{Proto: proto, To: netip.AddrPortFrom(to.addr(f), port), Token: s.newToken(), Wait: 10 * hopeful})
		return a.Answered && a.Seen.Source.Addr() == c.addr(f), err
	})
	return answered, a, err
}

// byDefault runs a container on a node's default bridge, with what else it is to have. It is removed when the spec ends.
func (s *swarm) byDefault(ctx context.Context, node string, number int, change func(*topology.EngineContainer)) (c defaulted, err error) {
	c.Place, c.name, err = s.run(ctx, node, number, func(r *topology.EngineContainer) {
		r.Network, r.Addrs = defaultBridge, nil
		change(r)
	})
	if err != nil {
		return c, err
	}
	s.atEnd(func(ctx context.Context) error { return s.Detach(ctx, c.Place) })
	seen, err := sandbox(ctx, s.Bench, c.Place)
	_, c.addrs = seen.endpoint(func(e lab.EnginePoint) bool { return len(e.Addrs) > 0 })
	return c, err
}

// plainly changes nothing of a container.
func plainly(*topology.EngineContainer) {}

// twoByDefault are two containers of the first host's default bridge.
func (s *swarm) twoByDefault(ctx context.Context) (two [2]defaulted, err error) {
	for i := range two {
		if two[i], err = s.byDefault(ctx, hostNames(s.Bench)[0], 7+i, plainly); err != nil {
			return two, err
		}
	}
	return two, nil
}

// pinged is the control of a spec that concludes from silence or from a name that nobody knows: an address answers a place.
func pinged(ctx context.Context, b *Bench, from Place, to netip.Addr) error {
	a, err := insisted(ctx, b, from, lab.Ask{Proto: "icmp", To: netip.AddrPortFrom(to, 0), Wait: hopeful})
	if err == nil && !a.Answered {
		err = fmt.Errorf("%s does not reach %s by icmp: nothing can be concluded", from, to)
	}
	return err
}

// ofBoth concludes from how many of the two containers of a swarm did what is asked, with the evidence of an observation.
func ofBoth(o Observation, did int, format string, args ...any) Observation {
	seen := whether(did > 0, format, args...)
	if did == 1 {
		seen.Status = "mixed"
	}
	seen.Evidence = o.Evidence
	return seen
}

// offSwarm runs the containers without a network.
var offSwarm = spared("the containers are run without a network", unjoined, "bridge")

var _ = registerEngined(Spec{
	Feature: Feature{Name: "cnm-overlay-ipv4", Doc: "Do containers of two hosts, whose engines are in one swarm, reach each other by IPv4 over an overlay network, by the addresses that they have there, in VXLAN between the hosts?"},
	Name:    "in a lab apart, two engines are made a swarm with an overlay network; a container on each host asks the other by UDP, and what crosses the segment is read",
	Within:  2 * specTimeout,
	Run: swarming(func(ctx context.Context, s *swarm) (o Observation, err error) {
		good := 0
		for i, from := range s.places {
			to := s.places[1-i]
			port, err := serve(ctx, s.Bench, to, unspecified(IPv4))
			if err != nil {
				return o, err
			}
			recorded, err := s.Record(ctx)
			if err != nil {
				return o, err
			}
			ask := lab.Ask{Proto: "udp", To: netip.AddrPortFrom(s.addrs[1-i], port), Token: s.newToken(), Wait: slow}
			a, err := insisted(ctx, s.Bench, from, ask) // engines have yet to tell each other
			if err != nil {
				return o, err
			}
			packets, err := recorded(ctx, func(p lab.Packet) bool { return p.Token == ask.Token && onSegment(s.Bench, p) })
			if err != nil {
				return o, err
			}
			told := len(packets) > 0
			for _, p := range packets {
				ends := [2]netip.Addr{underlayOf(s.Bench, from.Machine), underlayOf(s.Bench, to.Machine)}
				told = told && p.VXLAN != nil && p.Dst.Port() == 4789 && (p.Src.Addr() == ends[0] && p.Dst.Addr() == ends[1] || p.Src.Addr() == ends[1] && p.Dst.Addr() == ends[0])
			}
			o = o.sampled(packets, 1).with(to.String(), "a question of %s came from %s", from, a.Seen.Source)
			if a.Answered && told && a.Seen.Source.Addr() == s.addrs[i] {
				good++
			}
		}
		return ofBoth(o, good, "of %s at %s and %s at %s, %d were answered by the other, which saw the address that they have, and all that crossed the segment was in VXLAN to port 4789 between the hosts",
			s.places[0], s.addrs[0], s.places[1], s.addrs[1], good), nil
	}),
	Sabotage: offSwarm,
})

var _ = registerEngined(Spec{
	Feature: Feature{Name: "cnm-overlay-ipv6", Doc: "Do containers of two hosts, whose engines are in one swarm, reach each other by IPv6 over an overlay network that has an IPv6 block?"},
	Name:    "in a lab apart, two engines are made a swarm with an overlay network of an IPv4 and an IPv6 block; the containers' IPv6 addresses are read, and each is asked for by the other",
	Within:  2 * specTimeout,
	Run: swarming(func(ctx context.Context, s *swarm) (o Observation, err error) {
		var six [2]netip.Addr
		var places [2]Place
		var refusal error
		for i, h := range hostNames(s.Bench) {
			p, _, err := s.run(ctx, h, 7+i, inNetwork(acrossToo, acrossAddr(acrossToo, i)))
			if refused(err) {
				refusal = err
				break
			} else if err != nil {
				return o, err
			}
			s.atEnd(func(ctx context.Context) error { return s.Detach(ctx, p) })
			places[i] = p
			state, err := s.devices(ctx, p.Machine)
			if err != nil {
				return o, err
			}
			for _, a := range state.Spaces[p.Container].Addrs {
				if acrossToo.Blocks[1].Contains(a.Prefix.Addr()) {
					six[i] = a.Prefix.Addr()
				}
			}
		}
		switch {
		case refusal != nil:
			o = blocked("a container was to be run in a network across the hosts that has %s: %s", acrossToo.Blocks[1], objection(refusal))
		case !six[0].IsValid() || !six[1].IsValid():
			o = blocked("of %s and %s, whose network has %s, one has no address of it: they have %s and %s", places[0], places[1], acrossToo.Blocks[1], six[0], six[1])
		case six[0] == six[1]:
			o = blocked("%s and %s, which are in one network, have one address of it, %s", places[0], places[1], six[0])
		default:
			answered := 0
			for i, p := range places {
				a, err := s.Ask(ctx, p, lab.Ask{Proto: "icmp", To: netip.AddrPortFrom(six[1-i], 0), Wait: slow})
				if err != nil {
					return o, err
				}
				if o = o.with(p.String(), "asked %s by icmp: answered %t %s", six[1-i], a.Answered, a.Refusal.Text); a.Answered {
					answered++
				}
			}
			o = ofBoth(o, answered, "%s with %s and %s with %s asked each other by icmp: %d were answered", places[0], six[0], places[1], six[1], answered)
		}
		if o.Status != "blocked" {
			return o, nil
		}
		return o.with(s.places[0].String(), "control: in a network across the hosts without IPv6, asked %s by icmp: answered", s.addrs[1]), pinged(ctx, s.Bench, s.places[0], s.addrs[1])
	}),
	Sabotage: spared("the containers are run in the network without IPv6, and told addresses and each other's link-layer addresses by hand", func(steps []topology.Step) []topology.Step {
		run, in := steps[0].Space.Run, steps[0].Space.Name
		if run.Network != acrossToo.Name {
			return steps
		}
		own := 0
		if run.Addrs[0] == acrossAddr(acrossToo, 1) {
			own = 1
		}
		six := func(of int) netip.Addr {
			to := acrossToo.Blocks[1].Addr().As16()
			to[15] = byte(0x40 + of)
			return netip.AddrFrom16(to)
		}
		four := func(of int) netip.Addr { return acrossAddr(across, 2+of) }
		peer := append(net.HardwareAddr{2, 0x42}, four(1-own).AsSlice()...) // libnetwork netutils/utils.go GenerateMACFromIP
		steps = containers(func(m *topology.Space) { m.Run.Network, m.Run.Addrs = across.Name, []netip.Addr{four(own)} })(steps)
		return append(steps,
			topology.Step{On: steps[0].On, In: in, Addr: &topology.Addr{Link: "eth0", Prefix: netip.PrefixFrom(six(own), 64), NoDAD: true}},
			topology.Step{On: steps[0].On, In: in, Neigh: &topology.Neigh{Link: "eth0", IP: six(1 - own), MAC: peer}},
		)
	}, "bridge"),
})

var _ = registerEngined(Spec{
	Feature: Feature{Name: "cnm-overlay-names", Doc: "Does the engine's resolver tell a container in an overlay network the address of one on another host by its name?"},
	Name:    "in a lab apart, two engines are made a swarm with an overlay network; a container on each host asks its resolver for the other's name",
	Within:  2 * specTimeout,
	Run: swarming(func(ctx context.Context, s *swarm) (o Observation, err error) {
		good := 0
		for i, from := range s.places {
			var found lab.Found
			right, err := eventually(ctx, patience, func() (bool, error) {
				found, err = lookup(ctx, s.Bench, from, embedded, "A", s.names[1-i], s.newToken())
				return len(found.Records) == 1 && found.Records[0].Data == s.addrs[1-i].String(), err
			})
			if err != nil {
				return o, err
			}
			if o = o.with(from.String(), "A %s: %s", s.names[1-i], inWords(found)); right {
				good++
			}
		}
		return ofBoth(o, good, "of %s and %s, %d were told the address of the other by its name", s.places[0], s.places[1], good), nil
	}),
	Sabotage: offSwarm,
})

var _ = registerEngined(Spec{
	Feature: Feature{Name: "cnm-overlay-exit", Doc: "Does a container in an overlay network reach what is outside of it, from its host's address?"},
	Name:    "in a lab apart, two engines are made a swarm with an overlay network; a container there asks an external machine, and the source that arrives is compared",
	Within:  2 * specTimeout,
	Run: swarming(func(ctx context.Context, s *swarm) (Observation, error) {
		x, from := external(s.Bench), s.places[0]
		port, err := serve(ctx, s.Bench, x, unspecified(IPv4))
		if err != nil {
			return Observation{}, err
		}
		a, err := insisted(ctx, s.Bench, from, lab.Ask{Proto: "udp", To: netip.AddrPortFrom(addrOf(s.Bench, x, IPv4), port), Wait: hopeful})
		own := underlayOf(s.Bench, from.Machine)
		return whether(a.Answered && a.Seen.Source.Addr() == own, "%s asked %s: answered %t; the question came from %s, and its host has %s", from, x, a.Answered, a.Seen.Source, own), err
	}),
	Sabotage: offSwarm,
})

var (
	_ = registerEngined(defaultReach(IPv4))
	_ = registerEngined(defaultReach(IPv6))
)

func defaultReach(f Family) Spec {
	return Spec{
		Feature: Feature{Name: "cnm-default-" + string(f), Doc: fmt.Sprintf("Do two containers of an engine's default bridge reach each other by %s, by the addresses that the engine gave them?", f)},
		Name:    "in a lab apart, whose engines have default bridges, two containers of one ask each other by UDP, and the source that arrives is compared",
		Within:  2 * specTimeout,
		Run: swarming(func(ctx context.Context, s *swarm) (o Observation, err error) {
			two, err := s.twoByDefault(ctx)
			if err != nil {
				return o, err
			}
			good := 0
			for i, from := range two {
				to := two[1-i]
				if !to.addr(f).IsValid() || !from.addr(f).IsValid() {
					continue
				}
				port, err := serve(ctx, s.Bench, to.Place, unspecified(f))
				if err != nil {
					return o, err
				}
				right, a, err := from.ask(ctx, s, "udp", to, f, port, patience) // an address may have yet to be found unique
				if err != nil {
					return o, err
				}
				if o = o.with(to.String(), "a question of %s came from %s", from, a.Seen.Source); right {
					good++
				}
			}
			return ofBoth(o, good, "of %s with %s and %s with %s, %d were answered by the other, which saw the address that they have", two[0], two[0].addrs, two[1], two[1].addrs, good), nil
		}),
		Sabotage: offSwarm,
	}
}

var _ = registerEngined(Spec{
	Feature: Feature{Name: "cnm-default-names", Doc: "Does a container of an engine's default bridge find another one of it by its name?"},
	Name:    "in a lab apart, whose engines have default bridges, a container of one asks the engine's resolver for another's name, and its /etc/hosts is read; it asks the other by its address",
	Within:  2 * specTimeout,
	Run: swarming(func(ctx context.Context, s *swarm) (o Observation, err error) {
		two, err := s.twoByDefault(ctx)
		if err != nil {
			return o, err
		}
		from, to := two[0], two[1]
		if err := pinged(ctx, s.Bench, from.Place, to.addr(IPv4)); err != nil {
			return o, err
		}
		found, err := lookup(ctx, s.Bench, from.Place, embedded, "A", to.name, s.newToken())
		if err != nil {
			return o, err
		}
		var told lab.Told
		if err := s.Do(ctx, from.Machine, "Docker.Told", from.Container, &told); err != nil {
			return o, err
		}
		named := len(found.Records) == 1 && found.Records[0].Data == to.addr(IPv4).String() || slices.Contains(strings.Fields(told.Hosts), to.name)
		return whether(named, "%s, which reaches %s at %s, finds it by the name %s: %t", from, to, to.addr(IPv4), to.name, named).
			with(from.String(), "A %s at %s: %s", to.name, embedded, inWords(found)).
			with(from.String(), "/etc/hosts: %q; /etc/resolv.conf: %q", told.Hosts, told.Resolver), nil
	}),
	Sabotage: spared("the containers are run in a network that is not the default bridge", containers(func(m *topology.Space) {
		if m.Run.Network == defaultBridge {
			m.Run.Network = across.Name
		}
	}), "bridge"),
})

var _ = registerEngined(Spec{
	Feature: Feature{
		Name: "cnm-default-link",
		Doc:  "Where containers of an engine's default bridge are kept apart, does one that is linked to another learn of it by its environment and its /etc/hosts, and reach it at its exposed port alone?",
	},
	Name: "in a lab apart, whose second engine keeps containers of its default bridge apart (icc=false), one is linked to another that exposes a port: its environment and /etc/hosts " +
		"are read, it asks at that port and at another, and one that is not linked asks at that port",
	Within: 2 * specTimeout,
	Run: swarming(func(ctx context.Context, s *swarm) (o Observation, err error) {
		const open = 7001
		node := hostNames(s.Bench)[1]
		source, err := s.byDefault(ctx, node, 7, func(c *topology.EngineContainer) {
			c.Exposed, c.Env = []string{fmt.Sprintf("%d/tcp", open), fmt.Sprintf("%d/udp", open)}, given
		})
		if err != nil {
			return o, err
		}
		for _, proto := range []string{"tcp", "udp"} {
			if _, err := s.Listen(ctx, source.Place, lab.Listen{Proto: proto, Addr: netip.AddrPortFrom(unspecified(IPv4), open)}); err != nil {
				return o, err
			}
		}
		shut, err := serve(ctx, s.Bench, source.Place, unspecified(IPv4))
		if err != nil {
			return o, err
		}
		linked, err := s.byDefault(ctx, node, 8, func(c *topology.EngineContainer) { c.Links = []topology.EngineLink{{To: source.name, Alias: alias}} })
		if err != nil {
			return o, err
		}
		stranger, err := s.byDefault(ctx, node, 9, plainly)
		if err != nil {
			return o, err
		}
		if err := pinged(ctx, s.Bench, stranger.Place, defaultBlocks[0].Addr()); err != nil { // its gateway
			return o, err
		}
		var told lab.Told
		if err := s.Do(ctx, node, "Docker.Told", linked.Container, &told); err != nil {
			return o, err
		}
		env := slices.DeleteFunc(told.Env, func(v string) bool { return !strings.HasPrefix(v, "DB_1_") })
		slices.Sort(env)
		var names []string
		for line := range strings.Lines(told.Hosts) {
			if of := strings.Fields(line); len(of) > 1 && of[0] == source.addr(IPv4).String() {
				names = of[1:]
			}
		}
		learnt := slices.Equal(env, documented(linked.name, netip.AddrPortFrom(source.addr(IPv4), open)))
		named := slices.Contains(names, alias) && slices.Contains(names, source.name)
		o = o.with(linked.String(), "environment: %s", strings.Join(env, " ")).with(linked.String(), "/etc/hosts: %q", told.Hosts)
		right := 0
		questions := []struct {
			from defaulted
			port uint16
			want bool
		}{{linked, open, true}, {linked, shut, false}, {stranger, open, false}, {linked, open, true}} // the last shows that the source still answers
		for _, q := range questions {
			both := true
			for _, proto := range []string{"udp", "tcp"} {
				within := patience
				if !q.want {
					within = 0 // asked once
				}
				answered, _, err := q.from.ask(ctx, s, proto, source, IPv4, q.port, within)
				if err != nil {
					return o, err
				}
				both = both && answered == q.want
				o = o.with(q.from.String(), "asked %s at port %d by %s: answered %t", source, q.port, proto, answered)
			}
			if both {
				right++
			} else if q.want {
				break // what is asked next is asked of one that does not answer
			}
		}
		return concluded(o, learnt && named && right == len(questions), "%s is linked to %s, which exposes port %d: its environment is as documented: %t; its /etc/hosts names it: %t; of %d questions, by it at that port and at %d and by %s, which is not linked, %d went as they should",
			linked, source, open, learnt, named, len(questions), shut, stranger, right), nil
	}),
	Sabotage: spared("the container is not linked", containers(func(m *topology.Space) { m.Run.Links = nil }), "bridge"),
})
