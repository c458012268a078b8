// Package modes describes the ways to network containers. A mode returns steps and touches nothing: carrying them
// out, undoing them and checking them is the same for all modes and stands elsewhere.
package modes

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"github.com/modebench/modebench/topology"
)

// Mode is one way to network containers. Its functions are pure.
type Mode struct {
	Name    string
	Doc     string // what it is, in a sentence or two
	GoodFor string // who should choose it, by its documented nature
	BadFor  string // who should not

	Fabric   topology.Fabric // what the underlay must be; empty: any that carries frames, such as topology.Open
	Needs    []Kernel        // what it cannot do without
	Programs []string        // other people's that run on machines, by name: built from source where the machine has a compiler for it
	Limit    int             // containers that one network of one host can have; 0: no limit of the mode's own

	// Admit says why a host cannot have a container that the plan numbers; nil: it can. Nil: every host can have every one.
	Admit func(*topology.Plan, *topology.Machine, topology.Container) error
	// Setup prepares a host, before any container is attached to it. Nil: nothing to prepare.
	Setup func(*topology.Plan, *topology.Machine) []topology.Step
	// Attach attaches a container to a host, beginning with its namespace. Undoing the steps detaches it.
	Attach func(*topology.Plan, *topology.Machine, topology.Container) []topology.Step
	// Publish maps a port of the host to a port of a container that is attached to it. Nil: the mode maps no ports.
	Publish func(*topology.Plan, *topology.Machine, topology.Container, Port) []topology.Step
	// Policy denies a container that is attached to the host all but one port, at the place that the host has for it. Nil: it has none.
	Policy func(*topology.Plan, *topology.Machine, topology.Container, Policy) []topology.Step
	// Link tells a container that is attached to the host of others there and lets it through to them, when it starts (was is nil), or when
	// one that it was told of was started again since: then was is what it was told. Nil: the mode has no links.
	Link func(p *topology.Plan, host *topology.Machine, c topology.Container, was, now []Link) []topology.Step
	// Ambassador has a container that is attached to the host carry ports on (was is nil), or on to others than it did (was). Nil: the mode has no
	// ambassadors.
	Ambassador func(p *topology.Plan, host *topology.Machine, c topology.Container, was, now []topology.Relay) []topology.Step
	// Rate holds a container that is attached to the host to a rate. Nil: nothing of its own could be.
	Rate func(*topology.Plan, *topology.Machine, topology.Container, Rate) []topology.Step
	// Addrs are the addresses, IPv4 before IPv6, by which the container is reached when attached to the host, with the
	// length of their subnet. Nil: none beyond the loopback's.
	Addrs func(*topology.Plan, *topology.Machine, topology.Container) []netip.Prefix
	// Device is the interface with these addresses, as the container sees it. Empty: the host's own of the container's
	// network, or, without addresses, none beyond the loopback. See DeviceOf.
	Device string
	// Exit is the container's interface by which it asks what is outside of its network, and by which published ports lead to it,
	// where that is another than Device. Its addresses there are the plan's private ones.
	Exit string

	// CNI is the mode by plugins of the Container Network Interface; nil: the reference plugins do not have it.
	CNI *Plugged
	// Docker is the mode by an engine of Docker's; nil: engines do not have it.
	Docker *Engined
	// Implementation is who carries the mode out, by which the functions above are others than the mode's own; empty: this program. See By.
	Implementation string

	order int
}

// Port is a published port: Host on all addresses of the host leads to Container in the container.
type Port struct {
	Proto     string // tcp, udp
	Host      uint16
	Container uint16
}

// Kernel is something that a kernel may or may not have. It is probed by doing.
type Kernel string

// What the modes of this package need.
const (
	Veth     Kernel = "veth"
	Bridge   Kernel = "bridge"
	MACVLAN  Kernel = "macvlan"
	NFTNAT   Kernel = "nft-nat" // nftables with NAT of both IP families
	NFTables Kernel = "nftables"
	IPVLAN   Kernel = "ipvlan"
	VLAN     Kernel = "802.1q" // VLAN devices
	VXLAN    Kernel = "vxlan"
	IPIP     Kernel = "ipip"
	TUN      Kernel = "tun"            // devices whose packets a program reads and writes
	Balance  Kernel = "nft-balance"    // nftables that divide connections of both IP families among addresses
	NFBridge Kernel = "nft-bridge"     // nftables for bridged frames, of which a topology.VPC fabric is made
	NFNetdev Kernel = "nft-netdev"     // nftables at devices, for what comes in by them and what leaves
	TBF      Kernel = "tbf"            // token buckets, of which rates are made
	IFB      Kernel = "ifb"            // queues for what comes in
	Engine   Kernel = "engine"         // what an engine of Docker's asks for: iptables with NAT of both IP families
	Trunk    Kernel = "vlan-filtering" // bridges that filter by VLAN, of which a topology.Trunk fabric is made
)

var registry []Mode

// register adds a mode at package initialisation. order is its place in lists: simplest first.
func register(order int, m Mode) Mode {
	m.order = order
	registry = append(registry, m)
	return m
}

// All returns every mode, simplest first.
func All() []Mode {
	return slices.SortedFunc(slices.Values(registry), func(a, b Mode) int {
		return cmp.Or(cmp.Compare(a.order, b.order), cmp.Compare(a.Name, b.Name))
	})
}

// Find returns the mode of that name.
func Find(name string) (Mode, bool) {
	i := slices.IndexFunc(registry, func(m Mode) bool { return m.Name == name })
	if i < 0 {
		return Mode{}, false
	}
	return registry[i], true
}

// Plan is NewPlan of the topology on the fabric that the mode asks for. A container that the mode does not admit is an error.
func (m Mode) Plan(t topology.Topology) (*topology.Plan, error) {
	if m.Fabric != (topology.Fabric{}) {
		t.Fabric = m.Fabric
	}
	p, err := topology.NewPlan(t)
	if err != nil || m.Admit == nil {
		return p, err
	}
	for _, host := range p.Hosts() {
		for _, c := range host.Containers {
			if err := m.Admit(p, host, c); err != nil {
				return nil, fmt.Errorf("%s of network %s: %w", c.ID(), c.Network, err)
			}
		}
	}
	return p, nil
}

// On is the mode on a fabric. The error says why it has no place on it.
func (m Mode) On(f topology.Fabric) (Mode, error) {
	switch {
	case m.Fabric == f || m.Fabric == (topology.Fabric{}):
	case m.Fabric == topology.Trunk && f.Switch():
		f.Tagged = true
	case m.Fabric == topology.Trunk:
		return m, fmt.Errorf("the mode's hosts tag frames, and the fabric %s has no VLANs", f)
	default:
		return m, fmt.Errorf("the mode needs what the fabric %s gives it, and this is %s", m.Fabric, f)
	}
	m.Fabric = f
	return m, nil
}

// Requires is what a lab of the mode needs of a kernel, sorted: the plan's fabric, its impairments, and the mode itself.
func (m Mode) Requires(p *topology.Plan) []string {
	needs := p.Needs()
	for _, k := range m.Needs {
		needs = append(needs, string(k))
	}
	slices.Sort(needs)
	return slices.Compact(needs)
}

// DeviceOf is the interface with the container's addresses, as it sees it when attached to the host; empty: none beyond
// the loopback.
func (m Mode) DeviceOf(p *topology.Plan, host *topology.Machine, c topology.Container) string {
	switch {
	case m.Addrs == nil:
		return ""
	case m.Device == "":
		return nic(p, host, c.Network).Name
	}
	return m.Device
}

// Wire is everything that the mode asks of the plan's hosts for the containers that are attached at the start.
// Where Limit says so, only the first containers of a network are attached.
func (m Mode) Wire(p *topology.Plan) topology.Wiring {
	w := topology.Wiring{Mode: m.String()}
	for i := range p.Machines {
		host := &p.Machines[i]
		if host.Role != topology.RoleHost {
			continue
		}
		if m.Setup != nil {
			w.Setup = append(w.Setup, m.Setup(p, host)...)
		}
		attached := map[string]int{}
		for _, c := range host.Containers {
			if m.Limit > 0 && attached[c.Network] == m.Limit {
				continue
			}
			attached[c.Network]++
			w.Attached = append(w.Attached, topology.Attachment{Container: c, Host: host.Name, Steps: m.Attach(p, host, c)})
		}
	}
	return w
}
