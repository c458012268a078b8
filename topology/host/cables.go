package host

import (
	"errors"
	"fmt"
	"io/fs"
	"net"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/modebench/modebench/topology"
	"github.com/modebench/modebench/topology/space"
)

// firstIndex is where the indexes of a machine's ends of veth pairs begin. The kernel handles a change of carrier at once
// where a device's index is not that of its other end, and up to a second later where the two happen to be equal
// (net/core/link_watch.c, linkwatch_urgent_event); until then a bridge does not forward to its port. The other end's is
// the kernel's choice, which is small.
const firstIndex = 10000

// Cables joins the machines of a plan, each of which has its namespace in spaces: every cable is a veth pair, both ends
// of which are made in their places, down, by one request. Drivers whose machines are namespaces call it.
func Cables(p *topology.Plan, spaces map[string]*space.Space) error {
	return cables(p, spaces, p.Machines)
}

// Recable makes the cables of one machine, which is not a tor, anew: the old ones are pulled out of the tors, whatever is
// left of their other ends. Only the machine and its tors need be in spaces.
func Recable(p *topology.Plan, spaces map[string]*space.Space, m *topology.Machine) error {
	for _, n := range m.NICs {
		if n.Trunk != "" {
			continue
		}
		err := spaces[n.Peer.Machine].Do(func() error {
			port, err := netlink.LinkByName(n.Peer.Interface)
			if err == nil {
				err = netlink.LinkDel(port)
			}
			if errors.As(err, &netlink.LinkNotFoundError{}) || errors.Is(err, unix.ENODEV) { // gone with its other end
				return nil
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("pull %s %s: %w", n.Peer.Machine, n.Peer.Interface, err)
		}
	}
	return cables(p, spaces, []topology.Machine{*m})
}

func cables(p *topology.Plan, spaces map[string]*space.Space, of []topology.Machine) (err error) {
	nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("netlink: %w", err)
	}
	defer nl.Close()
	if p.Steer != nil {
		if err := steer(spaces, topology.Steering(p.Steer)); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, steer(spaces, topology.Steering(nil))) }()
	}
	for _, m := range of {
		if m.Role == topology.RoleTor {
			continue // its ports are the other ends
		}
		for i, n := range m.NICs {
			if n.Trunk != "" {
				continue // made on another one's cable
			}
			port := p.Machine(n.Peer.Machine).NIC(n.Peer.Interface)
			err := lay(nl, i, NIC{n.Name, n.MAC.String(), n.MTU}, spaces[m.Name], NIC{port.Name, port.MAC.String(), port.MTU}, spaces[n.Peer.Machine])
			if err != nil {
				return fmt.Errorf("cable %s %s to %s %s: %w", m.Name, n.Name, n.Peer.Machine, port.Name, err)
			}
		}
	}
	return nil
}

// Lay lays one cable, which is number i of a machine in the space in, to a machine in the space at.
func Lay(i int, near NIC, in *space.Space, far NIC, at *space.Space) error {
	nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("netlink: %w", err)
	}
	defer nl.Close()
	return lay(nl, i, near, in, far, at)
}

func lay(nl *netlink.Handle, i int, near NIC, in *space.Space, far NIC, at *space.Space) error {
	mac, err := net.ParseMAC(near.MAC)
	if err != nil {
		return err
	}
	peer, err := net.ParseMAC(far.MAC)
	if err != nil {
		return err
	}
	base := netlink.NewLinkAttrs()
	base.Name, base.HardwareAddr, base.MTU = near.Name, mac, near.MTU
	base.Index = firstIndex + i
	base.NumTxQueues, base.NumRxQueues = 1, 1 // see addLink
	base.Namespace = netlink.NsFd(in.File().Fd())
	return nl.LinkAdd(&netlink.Veth{
		LinkAttrs: base, PeerName: far.Name, PeerHardwareAddr: peer, PeerMTU: uint32(far.MTU),
		PeerNamespace: netlink.NsFd(at.File().Fd()),
	})
}

func steer(spaces map[string]*space.Space, to topology.Sysctl) error {
	for name, s := range spaces {
		err := s.Do(func() error { _, err := setSysctl(to.Key, to.Value); return err })
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}
