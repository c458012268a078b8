package modes

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/modebench/modebench/topology"
)

// Engined is a mode as an engine of Docker's carries it out.
type Engined struct {
	// Network is a network of the plan's as the engine of a host makes it, or, of a swarm, that of the machine which manages it. Nil: containers join what
	// every engine has.
	Network func(*topology.Plan, *topology.Machine, topology.PlannedNetwork) topology.EngineNetwork
	// Swarm tells whether the hosts' engines are nodes of a swarm, which another machine manages: see storeAt.
	Swarm bool
	// Addrs are as in Mode; nil: those of the mode.
	Addrs addressing
	// Share is in whose namespace a container is instead of one of its own: as topology.Space and docker run --network name it. Nil: none is in another's.
	Share func(*topology.Machine, topology.Container) (whose, network string)
	// Policy and Rate are as in Mode: their places are the host's and the container's, whoever attaches.
	Policy policing
	Rate   rating
	// Setup and Beside are as in Plugged.
	Setup  func(*topology.Plan, *topology.Machine) []topology.Step
	Beside func(*topology.Plan, *topology.Machine, topology.Container) []topology.Step
}

// engined is the mode with all that an engine does done by it. Its programs are in a directory, absolute; empty: where the machine has them.
func (m Mode) engined(programs string) Mode {
	by := *m.Docker
	m.Implementation, m.Policy, m.Rate, m.Link = ByDocker, by.Policy, by.Rate, nil
	m.Needs = append(slices.Clone(m.Needs), Engine)
	if by.Addrs != nil {
		m.Addrs = by.Addrs
	}
	m.Setup = func(p *topology.Plan, host *topology.Machine) []topology.Step {
		s := steps{on: host.Name}
		if by.Setup != nil {
			s.all = by.Setup(p, host)
		}
		start := topology.Step{Engine: &topology.Engine{Path: programs}}
		var networks []topology.Step
		if by.Network != nil {
			for _, n := range p.Networks {
				made := by.Network(p, host, n)
				made.Name = n.Name
				networks = append(networks, topology.Step{EngineNetwork: &made})
			}
		}
		if by.Swarm {
			s.node(p, host, start, networks)
		} else {
			s.host(append([]topology.Step{start}, networks...)...)
		}
		if by.Network != nil {
			// What the engine's own does not know it asks the host's for (127.0.0.1 of the host's /etc/resolv.conf).
			s.host(topology.Step{Resolver: &topology.Resolver{Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), 53), TTL: 10 * time.Minute}})
		}
		return s.all
	}
	m.Attach = func(p *topology.Plan, host *topology.Machine, c topology.Container) []topology.Step {
		run := &topology.EngineContainer{Name: dockerName(c), Network: "none"}
		made := topology.Space{Name: c.Name, Run: run, Defaults: true}
		if by.Share != nil {
			made.Share, run.Network = by.Share(host, c)
		}
		if made.Share == "" && by.Network != nil {
			run.Network = c.Network
			for _, a := range m.Addrs(p, host, c) {
				run.Addrs = append(run.Addrs, a.Addr())
			}
		}
		s := steps{on: host.Name}
		s.host(topology.Step{Space: &made})
		if by.Beside != nil {
			s.all = append(s.all, by.Beside(p, host, c)...)
		}
		return s.all
	}
	if m.Publish != nil {
		m.Publish = func(_ *topology.Plan, host *topology.Machine, c topology.Container, port Port) []topology.Step {
			if by.Share != nil {
				c = owner(host, c)
			}
			published := topology.EnginePort{Container: c.Name, Proto: port.Proto, Host: port.Host, Published: port.Container}
			return []topology.Step{{On: host.Name, EnginePort: &published}}
		}
	}
	return m
}

// node makes the host's engine, which it starts, a node of a swarm. The first host's steps begin with those of the machine that manages the swarm and makes its networks, which may be
// the host itself.
func (s *steps) node(p *topology.Plan, host *topology.Machine, start topology.Step, networks []topology.Step) {
	manager, at := storeAt(p)
	if host.Name == p.Hosts()[0].Name {
		begins := steps{on: manager}
		begins.host(start, topology.Step{EngineSwarm: &topology.EngineSwarm{Addr: at}})
		begins.host(networks...)
		s.all = append(s.all, begins.all...)
	}
	if manager != host.Name {
		own := nic(p, host, p.Networks[0].Name).V4.Addr()
		s.host(start, topology.Step{EngineSwarm: &topology.EngineSwarm{Addr: own, Manager: manager, At: at}})
	}
}

// dockerName is what a container is called, wherever it is: by where it was planned, as its ID does.
func dockerName(c topology.Container) string { return c.Host + "-" + c.Name }

// dockerBridge is a bridge that an engine makes, with the names, addresses and MTU of modebench's own.
func dockerBridge(p *topology.Plan, host *topology.Machine, n topology.PlannedNetwork) topology.EngineNetwork {
	return topology.EngineNetwork{
		Driver: "bridge", Blocks: []netip.Prefix{n.V4, n.V6}, Gateways: []netip.Addr{n.Gateway4, n.Gateway6},
		Options: map[string]string{
			"com.docker.network.bridge.name": n.Bridge, "com.docker.network.driver.mtu": strconv.Itoa(nic(p, host, n.Name).MTU),
		},
	}
}

// dockerOn is a network of devices on the host's interface, with addresses of the segment. An engine wants a gateway for it, and takes the segment's first
// address, which is a host's, where it gets none: it gets that of an external machine, or one that nobody has.
func dockerOn(driver, parentMode string) *Engined {
	return &Engined{
		Policy: onParent(segmentAddrs), Rate: ratedWithin(eth0),
		Network: func(p *topology.Plan, host *topology.Machine, n topology.PlannedNetwork) topology.EngineNetwork {
			made, up := ofParent(p, host, n, driver, parentMode)
			for i, block := range made.Blocks {
				made.Gateways[i] = highest(block)
			}
			for _, x := range p.Externals() {
				for _, n := range x.NICs {
					if n.Segment == up.Segment {
						made.Gateways = []netip.Addr{n.V4.Addr(), n.V6.Addr()}
					}
				}
			}
			return made
		},
	}
}

// dockerRouted is a network of ipvlan devices without a layer 2, with addresses that the host tells the routers: an engine asks for no gateway then.
func dockerRouted(parentMode string, policy policing) *Engined {
	return &Engined{
		Policy: policy, Rate: ratedWithin(eth0), Setup: speaks, Beside: announced,
		Network: func(p *topology.Plan, host *topology.Machine, n topology.PlannedNetwork) topology.EngineNetwork {
			made, _ := ofParent(p, host, n, "ipvlan", parentMode)
			return made
		},
	}
}

// ofParent is a network of devices on the host's interface for it, of the block of the interface's segment, without gateways.
func ofParent(p *topology.Plan, host *topology.Machine, n topology.PlannedNetwork, driver, parentMode string) (topology.EngineNetwork, *topology.Interface) {
	up := nic(p, host, n.Name)
	segment := p.Segments[slices.IndexFunc(p.Segments, func(s topology.PlannedSegment) bool { return s.Name == up.Segment })]
	return topology.EngineNetwork{
		Driver: driver, Options: map[string]string{"parent": up.Name, fmt.Sprint(driver, "_mode"): parentMode},
		Blocks: []netip.Prefix{segment.V4, segment.V6}, Gateways: make([]netip.Addr, 2),
	}, up
}

// dockerOverlay is a network across hosts, in VXLAN between the engines, of IPv4: a swarm's address manager knows nothing else (moby/moby#47125).
func dockerOverlay(p *topology.Plan, host *topology.Machine, n topology.PlannedNetwork) topology.EngineNetwork {
	block, _ := p.OverlayBlock(n.Name)
	return topology.EngineNetwork{
		Driver: "overlay", Blocks: []netip.Prefix{block}, Gateways: make([]netip.Addr, 1),
		Options: map[string]string{"com.docker.network.driver.mtu": strconv.Itoa(nic(p, host, n.Name).MTU)}, // of which the engine takes what VXLAN adds
	}
}

// highest is the last address of a subnet that is no broadcast address. Nobody in a plan has it, but for a segment that is full.
func highest(subnet netip.Prefix) netip.Addr {
	b := subnet.Masked().Addr().AsSlice()
	for bit := subnet.Bits(); bit < 8*len(b); bit++ {
		b[bit/8] |= 0x80 >> (bit % 8)
	}
	last, _ := netip.AddrFromSlice(b)
	return last.Prev()
}
