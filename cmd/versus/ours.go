package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"time"

	"golang.org/x/sys/unix"

	"github.com/modebench/modebench/modes"
	"github.com/modebench/modebench/topology"
	"github.com/modebench/modebench/topology/lab"
	"github.com/modebench/modebench/topology/netns"
	"github.com/modebench/modebench/topology/space"
)

// ports is how many containers a network has at most: what a bridge port costs grows with the number of ports.
const ports = 125

// oneHost plans a lab of one host, one switch and so many containers, in networks of ports.
func oneHost(containers int) (*topology.Plan, error) {
	t := topology.Topology{
		Name:     "versus",
		Fabric:   topology.Open,
		Segments: map[string]topology.Segment{"rack": {V4: netip.MustParsePrefix("198.18.0.0/15"), V6: netip.MustParsePrefix("2001:db8:18::/64")}},
		Tors:     map[string]topology.Tor{"tor": {Joins: []string{"rack"}}},
		Hosts:    map[string]topology.Host{"h": {NICs: map[string]topology.NIC{"eth0": {Segment: "rack"}}, Containers: map[string]int{}}},
		External: map[string]topology.External{},
		Networks: map[string]topology.Network{},
	}
	for i := 0; i*ports < max(containers, 1); i++ {
		name := fmt.Sprintf("n%d", i+1)
		t.Networks[name] = topology.Network{
			NIC: "eth0",
			V4:  netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i), 0, 0}), 16),
			V6:  netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 0, byte(i)}), 64),
		}
		t.Hosts["h"].Containers[name] = min(ports, containers-i*ports)
	}
	return topology.NewPlan(t)
}

// plain wires what the others do and no more: a namespace, a veth pair, a port of a bridge, an IPv4 address, a default
// route. Unlike a mode it numbers no IPv6, sets nothing in containers and writes no rules. The bridges come up last: until
// then what the containers' IPv6 says of itself is not flooded to all of them.
func plain(p *topology.Plan) []topology.Step {
	host := p.Hosts()[0]
	var steps []topology.Step
	add := func(in string, s topology.Step) {
		s.On, s.In = host.Name, in
		steps = append(steps, s)
	}
	add("", topology.Step{Sysctl: &topology.Sysctl{Key: "net/ipv6/conf/default/disable_ipv6", Value: "1"}}) // of the host's ends
	for _, n := range p.Networks {
		add("", topology.Step{Link: &topology.Link{Name: n.Bridge, Kind: "bridge"}})
		add("", topology.Step{Addr: &topology.Addr{Link: n.Bridge, Prefix: netip.PrefixFrom(n.Gateway4, n.V4.Bits())}})
	}
	for _, c := range host.Containers {
		n := p.Network(c.Network)
		add("", topology.Step{Space: &topology.Space{Name: c.Name}})
		add("", topology.Step{Link: &topology.Link{
			Name: c.Device, Kind: "veth", Master: n.Bridge, Up: true, PeerName: "eth0", PeerIn: c.Name,
		}})
		add(c.Name, topology.Step{Set: &topology.LinkSet{Name: "eth0", State: "up"}})
		add(c.Name, topology.Step{Addr: &topology.Addr{Link: "eth0", Prefix: c.Private4}})
		add(c.Name, topology.Step{Route: &topology.Route{Dst: netip.MustParsePrefix("0.0.0.0/0"), Via: n.Gateway4, Link: "eth0"}})
	}
	for _, n := range p.Networks {
		add("", topology.Step{Set: &topology.LinkSet{Name: n.Bridge, State: "up"}})
	}
	return steps
}

// ours starts a lab with so many containers, reaches the first and the last, and stops it. A mode's wiring is what the
// suites use.
func (b *bench) ours(containers int, wire func(*topology.Plan) []topology.Step) func() (map[string]float64, error) {
	return func() (map[string]float64, error) {
		p, err := oneHost(containers)
		if err != nil {
			return nil, err
		}
		start := time.Now()
		l, err := lab.Start(ctx, netns.Driver{}, p)
		if err != nil {
			return nil, err
		}
		host := p.Hosts()[0]
		err = l.Apply(ctx, "mode", wire(p))
		for _, c := range []topology.Container{host.Containers[0], host.Containers[len(host.Containers)-1]} {
			if err == nil {
				err = answers(l, host.Name, c.Private4.Addr())
			}
		}
		started := time.Since(start)
		if err != nil {
			return nil, errors.Join(err, l.Close())
		}
		stopped, err := gone(l.Close)
		return map[string]float64{"start": started.Seconds(), "stop": stopped.Seconds()}, err
	}
}

// mode is the wiring of a mode as it stands in package modes.
func mode(name string) func(*topology.Plan) []topology.Step {
	return func(p *topology.Plan) []topology.Step {
		m, ok := modes.Find(name)
		if !ok {
			panic("no mode " + name)
		}
		w := m.Wire(p)
		steps := w.Setup
		for _, a := range w.Attached {
			steps = append(steps, a.Steps...)
		}
		return steps
	}
}

// answers waits for an echo.
func answers(l *lab.Lab, machine string, to netip.Addr) error {
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); {
		var a lab.Answer
		ask := lab.Ask{Proto: "icmp", To: netip.AddrPortFrom(to, 0), Token: "versus", Wait: 100 * time.Millisecond}
		if err := l.Do(ctx, machine, "Probe.Ask", ask, &a); err != nil {
			return err
		}
		if a.Answered {
			return nil
		}
	}
	return fmt.Errorf("%s does not answer", to)
}

// gone measures from the call of stop until the kernel has removed every device of the namespaces that it lets go of. It
// tells by a device of a namespace that is let go of afterwards: the kernel ends namespaces in their order, and those
// that wait at the same time together (cleanup_net in net/core/net_namespace.c).
func gone(stop func() error) (time.Duration, error) {
	last, err := space.New()
	if err != nil {
		return 0, err
	}
	var sock int
	// As in the namespaces before it, a netlink socket ends later than the descriptor that holds it.
	if err := last.Do(func() (err error) {
		sock, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
		return err
	}); err != nil {
		return 0, err
	}
	cmd := exec.Command("ip", "link", "add", "last", "type", "veth", "peer", "name", "eth0", "netns", "/proc/self/fd/3")
	cmd.ExtraFiles = []*os.File{last.File()}
	if out, err := cmd.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("ip link add last: %w: %s", err, out)
	}
	start := time.Now()
	if err := errors.Join(stop(), unix.Close(sock), last.Close()); err != nil {
		return 0, err
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for range tick.C {
		if _, err := net.InterfaceByName("last"); err != nil {
			break
		}
	}
	return time.Since(start), nil
}
