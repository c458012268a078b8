package host

import (
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/modebench/modebench/topology"
	"github.com/modebench/modebench/topology/space"
)

// Cables joins the machines of a plan, each of which has its namespace in spaces: every cable is a veth pair, both ends
// of which are made in their places, down, by one request. Drivers whose machines are namespaces call it.
func Cables(p *topology.Plan, spaces map[string]*space.Space) error {
	nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("netlink: %w", err)
	}
	defer nl.Close()
	for _, m := range p.Machines {
		if m.Role == topology.RoleTor {
			continue // its ports are the other ends
		}
		for _, n := range m.NICs {
			port := p.Machine(n.Peer.Machine).NIC(n.Peer.Interface)
			base := netlink.NewLinkAttrs()
			base.Name, base.HardwareAddr, base.MTU = n.Name, n.MAC, n.MTU
			base.Namespace = netlink.NsFd(spaces[m.Name].File().Fd())
			err := nl.LinkAdd(&netlink.Veth{
				LinkAttrs: base, PeerName: port.Name, PeerHardwareAddr: port.MAC, PeerMTU: uint32(port.MTU),
				PeerNamespace: netlink.NsFd(spaces[n.Peer.Machine].File().Fd()),
			})
			if err != nil {
				return fmt.Errorf("cable %s %s to %s %s: %w", m.Name, n.Name, n.Peer.Machine, port.Name, err)
			}
		}
	}
	return nil
}
