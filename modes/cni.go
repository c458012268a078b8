package modes

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"

	"github.com/modebench/modebench/topology"
)

// Who carries a mode out.
const (
	ByKernel = "kernel" // this program, by the mode's own steps
	ByCNI    = "cni"    // plugins of the Container Network Interface
	ByDocker = "docker" // an engine of Docker's on each host
)

// Plugin is the configuration of one plugin of the Container Network Interface, without what all of a list have in common.
type Plugin map[string]any

// Plugged is a mode as CNI's reference plugins carry it out (github.com/containernetworking/plugins).
type Plugged struct {
	// Chain attaches a container to a network of a host: plugins in their order. It gets the addresses that the plan has for the
	// container by the capability ips, and the MAC address by mac.
	Chain func(*topology.Plan, *topology.Machine, topology.PlannedNetwork) []Plugin
	// Publish maps ports (capability portMappings), and Rate holds a container to a rate (capability bandwidth). Runtimes ask for both when they
	// attach; here they come after it, by the result that it gave. Nil: there is no such plugin for the mode.
	Publish, Rate Plugin
	// Policy is as in Mode: its place is the host's, whoever attaches.
	Policy policing
	// Addrs are as in Mode; nil: those of the mode.
	Addrs addressing
	// Setup is as in Mode, and Beside ends an attachment: what the host does besides plugins, such as to announce routes. Nil: nothing.
	Setup  func(*topology.Plan, *topology.Machine) []topology.Step
	Beside func(*topology.Plan, *topology.Machine, topology.Container) []topology.Step
}

// The version of the specification that lists are of.
const cniVersion = "1.1.0"

// Carrier is who carries the mode out: ByKernel where Implementation is empty.
func (m Mode) Carrier() string {
	if m.Implementation == "" {
		return ByKernel
	}
	return m.Implementation
}

// Plugged tells whether plugins carry the mode out: the reference plugins, or somebody's own.
func (m Mode) Plugged() bool { return m.Carrier() != ByKernel && m.Carrier() != ByDocker }

// String is the mode's name, and who carries it out where that is not this program.
func (m Mode) String() string { return Label(m.Name, m.Carrier()) }

// Label names a mode and who carries it out, such as "bridge (cni)".
func Label(name, implementation string) string {
	if implementation == ByKernel {
		return name
	}
	return name + " (" + implementation + ")"
}

// Dirs are the directories, absolute, of the programs of those who carry modes out, by their names; none: where the machine has them.
type Dirs map[string]string

// Named returns the mode of a label.
func Named(label string, dirs Dirs) (Mode, bool) {
	name, by, implemented := strings.Cut(strings.TrimSuffix(label, ")"), " (")
	m, ok := Find(name)
	if !ok || !implemented {
		return m, ok
	}
	return m.By(by, dirs)
}

// Implementations are the names of those that modes can be carried out by.
func Implementations() []string { return []string{ByKernel, ByCNI, ByDocker} }

// By is the mode carried out by another; false: it does not have the mode. What a mode is stays the same, and with it what specs ask.
func (m Mode) By(implementation string, dirs Dirs) (Mode, bool) {
	if implementation == ByKernel {
		return m, true
	}
	if implementation == ByDocker && m.Docker != nil {
		return m.engined(dirs[ByDocker]), true
	}
	if implementation != ByCNI || m.CNI == nil {
		return m, false
	}
	by := *m.CNI
	if by.Addrs != nil {
		m.Addrs = by.Addrs
	}
	listed := func(network string, chain ...Plugin) list {
		return list{"cniVersion": cniVersion, "name": network, "plugins": chain}
	}
	with := lists{attach: func(p *topology.Plan, host *topology.Machine, n topology.PlannedNetwork) list {
		return listed(n.Name, by.Chain(p, host, n)...)
	}}
	if by.Publish != nil {
		with.publish = func(_ *topology.Plan, _ *topology.Machine, n topology.PlannedNetwork) list {
			return listed(n.Name, by.Publish)
		}
	}
	if by.Rate != nil {
		with.rate = func(_ *topology.Plan, _ *topology.Machine, n topology.PlannedNetwork) list {
			return listed(n.Name, by.Rate)
		}
	}
	out := m.plugged(implementation, dirs[ByCNI], by.Policy, with)
	out.Setup = by.Setup
	if attach := out.Attach; by.Beside != nil {
		out.Attach = func(p *topology.Plan, host *topology.Machine, c topology.Container) []topology.Step {
			return append(attach(p, host, c), by.Beside(p, host, c)...)
		}
	}
	return out, true
}

// list is a network configuration list.
type list map[string]any

// lists are those of a network on a host: by which a container is attached, and, after that, by one plugin, a port published and a rate
// kept; nil: none.
type lists struct {
	attach, publish, rate func(*topology.Plan, *topology.Machine, topology.PlannedNetwork) list
}

// plugged is the mode with all that plugins do done by them.
func (m Mode) plugged(implementation, plugins string, policy policing, with lists) Mode {
	m.Implementation, m.Setup, m.Policy, m.Link, m.Publish, m.Rate = implementation, nil, policy, nil, nil, nil
	call := func(host *topology.Machine, c topology.Container, id, after string, args map[string]any, l list) topology.Step {
		return topology.Step{On: host.Name, CNI: &topology.CNI{
			Container: c.Name, ID: id, Link: eth0, After: after, Path: plugins, List: encoded(l), Args: encoded(args),
		}}
	}
	m.Attach = func(p *topology.Plan, host *topology.Machine, c topology.Container) []topology.Step {
		s := steps{on: host.Name}
		s.host(topology.Step{Space: &topology.Space{Name: c.Name, Defaults: true}})
		var ips []string
		for _, a := range m.Addrs(p, host, c) {
			ips = append(ips, a.String())
		}
		args := map[string]any{"ips": ips, "mac": c.MAC.String()}
		s.all = append(s.all, call(host, c, c.Name, "", args, with.attach(p, host, *p.Network(c.Network))))
		return s.all
	}
	if with.publish != nil {
		m.Publish = func(p *topology.Plan, host *topology.Machine, c topology.Container, port Port) []topology.Step {
			args := map[string]any{"portMappings": []any{map[string]any{"hostPort": port.Host, "containerPort": port.Container, "protocol": port.Proto}}}
			id := fmt.Sprintf("%s-%s-%d", c.Name, port.Proto, port.Host)
			return []topology.Step{call(host, c, id, c.Name, args, with.publish(p, host, *p.Network(c.Network)))}
		}
	}
	if with.rate != nil {
		m.Rate = func(p *topology.Plan, host *topology.Machine, c topology.Container, r Rate) []topology.Step {
			burst, _ := topology.Shape{Rate: r.Bits, Burst: slack}.Bucket()
			way := map[bool]string{false: "ingress", true: "egress"}[r.Out] // of the container
			args := map[string]any{"bandwidth": map[string]any{way + "Rate": uint64(r.Bits), way + "Burst": 8 * uint64(burst)}}
			s := call(host, c, c.Name+"-"+way, c.Name, args, with.rate(p, host, *p.Network(c.Network)))
			s.CNI.Queues = true // the plugin bandwidth takes away its ifb only
			return []topology.Step{s}
		}
	}
	return m
}

// encoded is a value as JSON.
func encoded(v any) string {
	text, err := json.Marshal(v)
	if err != nil { // of what stands in this package
		panic(err)
	}
	return string(text)
}

// portmap and bandwidth are chained plugins. Rules are written by nft: the machine needs no iptables.
var (
	portmap   = Plugin{"type": "portmap", "backend": "nftables", "capabilities": map[string]bool{"portMappings": true}}
	bandwidth = Plugin{"type": "bandwidth", "capabilities": map[string]bool{"bandwidth": true}}
)

// translated is what bridge and ptp have in common: addresses of the network's private blocks, by host-local, which leave masqueraded.
func translated(p *topology.Plan, host *topology.Machine, n topology.PlannedNetwork, plugin Plugin) []Plugin {
	var ranges, routes []any
	for _, b := range []struct {
		block   netip.Prefix
		gateway netip.Addr
	}{{n.V4, n.Gateway4}, {n.V6, n.Gateway6}} {
		ranges = append(ranges, []any{map[string]any{"subnet": b.block.String(), "gateway": b.gateway.String()}})
		routes = append(routes, map[string]any{"dst": everywhere(b.gateway).String()})
	}
	plugin["mtu"], plugin["ipMasq"], plugin["ipMasqBackend"] = nic(p, host, n.Name).MTU, true, "nftables"
	plugin["ipam"] = map[string]any{"type": "host-local", "ranges": ranges, "routes": routes}
	return []Plugin{plugin, portmap}
}

// stationed is a device on the host's interface with an address of the segment, which whoever runs the segment gave.
func stationed(plugin, parentMode string, capabilities ...string) *Plugged {
	can := map[string]bool{"ips": true}
	for _, c := range capabilities {
		can[c] = true
	}
	return &Plugged{Policy: onParent(segmentAddrs), Chain: func(p *topology.Plan, host *topology.Machine, n topology.PlannedNetwork) []Plugin {
		return []Plugin{onto(p, host, n, plugin, parentMode, can)}
	}}
}

// onto is a plugin that makes a device on the host's interface, with the addresses that are asked for, and routes.
func onto(p *topology.Plan, host *topology.Machine, n topology.PlannedNetwork, plugin, parentMode string, can map[string]bool, routes ...any) Plugin {
	ipam := map[string]any{"type": "static"}
	if routes != nil {
		ipam["routes"] = routes
	}
	return Plugin{"type": plugin, "master": nic(p, host, n.Name).Name, "mode": parentMode, "capabilities": can, "ipam": ipam}
}
