package modes

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/modebench/modebench/topology"
)

// backend is how flannel takes packets from host to host.
type backend struct {
	kind     string // as flannel's configuration names it
	overhead int    // bytes that it adds to a packet
	six      bool   // it has IPv6
}

// leaseBridge is the bridge of a host's containers, by the name that flannel's CNI configuration gives it.
const leaseBridge = "cni0"

// flannel's daemon listens on the loopback once a host is ready, and so does the store.
const (
	etcdPort   = 2379 // for clients, as registered
	readyPort  = 2378 // of the store
	healthPort = 8471 // of the daemons
)

// flannel is a mode with flannel's daemon on every host, and one etcd. The daemon knows one network, which all containers are in whatever
// network the plan has them in: there is one bridge on a host, and one interface that hosts reach each other by, that of the
// plan's first network. The daemon makes tunnels, routes and rules; the bridge is made as flannel's CNI plugin has it made.
func flannel(m Mode, by backend) Mode {
	m.Needs = append(m.Needs, Veth, Bridge, NFTNAT)
	m.Programs = []string{"etcd", "etcdctl", "flanneld"}
	families := func(v4, v6 netip.Prefix) []netip.Prefix {
		if !by.six {
			return []netip.Prefix{v4}
		}
		return []netip.Prefix{v4, v6}
	}
	up := func(p *topology.Plan, host *topology.Machine) *topology.Interface {
		return nic(p, host, p.Networks[0].Name)
	}
	m.Addrs = func(p *topology.Plan, host *topology.Machine, c topology.Container) []netip.Prefix {
		return families(p.SubnetAddr(host.Name, c.Number+1))
	}
	m.Policy, m.Rate = byDevices("bridge", ownDevice), ratedAt(ownDevice)
	m.Device = eth0
	m.Admit = func(p *topology.Plan, host *topology.Machine, c topology.Container) error {
		if v4, _ := p.SubnetAddr(host.Name, c.Number+1); !v4.IsValid() {
			return fmt.Errorf("container %d of host %s: a lease has addresses for the containers 1 to 253, and there are leases for 254 hosts", c.Number, host.Name)
		}
		return nil
	}
	m.Setup = func(p *topology.Plan, host *topology.Machine) []topology.Step {
		s := steps{on: host.Name}
		store, at := storeAt(p)
		if host.Name == p.Hosts()[0].Name {
			s.all = append(s.all, topology.Step{On: store, Program: etcd(at, network(by))})
		}
		own := up(p, host)
		s.host(forwarding()...)
		// The addresses that the daemon gives its devices are its own by the lease: nobody could object to them.
		s.host(sysctl("net/ipv6/conf/default/accept_dad", "0"))
		s.host(topology.Step{Link: &topology.Link{Name: leaseBridge, Kind: "bridge", MAC: besides(own, 0xfd00), MTU: own.MTU - by.overhead}})
		for _, gateway := range families(p.SubnetAddr(host.Name, 1)) {
			s.host(topology.Step{Addr: &topology.Addr{Link: leaseBridge, Prefix: gateway, NoDAD: gateway.Addr().Is6()}})
		}
		s.host(
			topology.Step{Set: &topology.LinkSet{Name: leaseBridge, State: "up"}},
			topology.Step{Program: flanneld(p, host, own, at, by)},
		)
		return s.all
	}
	m.Attach = func(p *topology.Plan, host *topology.Machine, c topology.Container) []topology.Step {
		s := steps{on: host.Name}
		s.own(c)
		s.pair(c, leaseBridge, up(p, host).MTU-by.overhead)
		s.join(c, c.Device, eth0, c.MAC, m.Addrs(p, host, c)...)
		for _, gateway := range families(p.SubnetAddr(host.Name, 1)) {
			s.in(c.Name, topology.Step{Route: &topology.Route{Dst: everywhere(gateway.Addr()), Via: gateway.Addr(), Link: eth0}})
		}
		return s.all
	}
	m.Publish = func(p *topology.Plan, host *topology.Machine, c topology.Container, port Port) []topology.Step {
		var to []netip.Addr
		for _, a := range m.Addrs(p, host, c) {
			to = append(to, a.Addr())
		}
		out := portMap(host, port, to...)
		// The plugin for published ports masquerades what a container of the host sends back to it, flannel does not.
		back := topology.Chain{Name: "postrouting", Type: "nat", Hook: "postrouting", Priority: srcnat - 1}
		for _, block := range families(p.Subnet(host.Name)) {
			f := familyOf(block.Addr())
			back.Rules = append(back.Rules, topology.Rule{
				Match: []topology.Match{
					{Field: f.ip + " saddr", Value: block.String()},
					{Field: f.ip + " daddr", Value: block.String()},
					{Field: "ct status", Value: "dnat"},
				},
				Verdict: topology.Verdict{Kind: "masquerade"},
				Comment: fmt.Sprintf("hairpin %s %d %s", port.Proto, port.Host, f.name),
			})
		}
		out[0].Table.Chains = append(out[0].Table.Chains, back)
		return out
	}
	return m
}

// storeAt is where etcd runs, and the address by which hosts reach it: the first external machine on the segment of the hosts,
// or else the first host.
func storeAt(p *topology.Plan) (machine string, at netip.Addr) {
	first := p.Hosts()[0]
	own := nic(p, first, p.Networks[0].Name)
	for _, x := range p.Externals() {
		for _, n := range x.NICs {
			if n.Segment == own.Segment {
				return x.Name, n.V4.Addr()
			}
		}
	}
	return first.Name, own.V4.Addr()
}

// network is the configuration of flannel's network, as the store begins with it.
func network(by backend) string {
	v4, v6 := topology.Spanned()
	six := ""
	if by.six {
		six = fmt.Sprintf(`"EnableIPv6": true, "IPv6Network": %q, "IPv6SubnetLen": 64, `, v6)
	}
	return fmt.Sprintf(`{"/coreos.com/network/config": {"Network": %q, "SubnetLen": 24, %s"EnableNFTables": true, "Backend": {"Type": %q}}}`+"\n", v4, six, by.kind)
}

// etcd is the store, which begins with some keys, as JSON.
func etcd(at netip.Addr, keys string) *topology.Program {
	return &topology.Program{
		Name: "etcd", Path: "etcd",
		Args:  []string{"-keys=keys.json", fmt.Sprintf("-listen-client-urls=http://%s:%d", at, etcdPort), fmt.Sprintf("-ready=127.0.0.1:%d", readyPort)},
		Files: map[string]string{"keys.json": keys},
		Ready: topology.Ready{Addr: loopback(readyPort)},
	}
}

// flanneld is flannel's daemon of a host. The file of an earlier lease has it ask for the one that the plan says.
func flanneld(p *topology.Plan, host *topology.Machine, own *topology.Interface, store netip.Addr, by backend) *topology.Program {
	var lease strings.Builder
	all4, all6 := topology.Spanned()
	v4, v6 := p.SubnetAddr(host.Name, 1)
	fmt.Fprintf(&lease, "FLANNEL_NETWORK=%s\nFLANNEL_SUBNET=%s\n", all4, v4)
	if by.six {
		fmt.Fprintf(&lease, "FLANNEL_IPV6_NETWORK=%s\nFLANNEL_IPV6_SUBNET=%s\n", all6, v6)
	}
	return &topology.Program{
		Name: "flanneld", Path: "flanneld",
		Args: slices.Concat([]string{
			fmt.Sprintf("-etcd-endpoints=http://%s:%d", store, etcdPort), "-iface=" + own.Name, "-subnet-file=subnet.env", "-ip-masq",
			fmt.Sprintf("-healthz-port=%d", healthPort),
		}),
		Files: map[string]string{"subnet.env": lease.String()},
		Ready: topology.Ready{Addr: loopback(healthPort)},
	}
}

func loopback(port uint16) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port)
}
