package gossip

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/modebench/modebench/topology"
	"github.com/modebench/modebench/topology/lab"
)

// tables are the entries that a member wrote into the tunnels of its machine. They outlive its crashes.
type tables struct {
	nl      *netlink.Handle
	tunnels map[int]int // devices' indices, by VNI
	written map[key]record
	done    chan struct{} // closed when there is nobody to write for any more
}

// newTables opens sockets in the namespace of the calling thread. mend is called when a tunnel has come up.
func newTables(tunnels []topology.Tunnel, mend func(*tables)) (*tables, error) {
	nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("netlink: %w", err)
	}
	t := &tables{nl: nl, tunnels: map[int]int{}, written: map[key]record{}, done: make(chan struct{})}
	for _, tunnel := range tunnels {
		l, err := nl.LinkByName(tunnel.Link)
		if err != nil {
			t.close()
			return nil, fmt.Errorf("%s: %w", tunnel.Link, err)
		}
		t.tunnels[tunnel.VNI] = l.Attrs().Index
	}
	indices := slices.Collect(maps.Values(t.tunnels))
	links := make(chan netlink.LinkUpdate)
	if err := netlink.LinkSubscribe(links, t.done); err != nil {
		t.close()
		return nil, fmt.Errorf("netlink: %w", err)
	}
	go func() {
		for u := range links { // ends with done
			if u.Header.Type == unix.RTM_NEWLINK && u.IfInfomsg.Flags&unix.IFF_UP != 0 && slices.Contains(indices, int(u.Index)) {
				mend(t)
			}
		}
	}()
	return t, nil
}

func (t *tables) close() {
	close(t.done)
	t.nl.Close()
}

// mend writes all entries again: the kernel drops the neighbours of a device that goes down, permanent ones too (neigh_ifdown() of
// net/core/neighbour.c), and says nothing of it. Those that it refuses, it has, or their device is gone.
func (t *tables) mend() {
	for _, r := range t.written {
		_ = t.each(r, t.nl.NeighSet)
	}
}

// has tells whether all entries of an endpoint are written.
func (t *tables) has(k key) bool {
	_, ok := t.written[k]
	return ok
}

// set makes the tables hold exactly the entries of some endpoints.
func (t *tables) set(wanted map[key]record, note func(lab.GossipEvent)) error {
	var errs []error
	about := func(kind string, r record, err error) {
		e := lab.GossipEvent{Kind: kind, Member: r.Owner, MAC: net.HardwareAddr(r.MAC), VTEP: r.VTEP}
		if err != nil {
			e.Kind, e.Text = "refused", kind+": "+err.Error()
			errs = append(errs, err)
		}
		note(e)
	}
	for k, was := range maps.Clone(t.written) {
		if is, ok := wanted[k]; ok && is.VTEP == was.VTEP && slices.Equal(is.IPs, was.IPs) {
			continue
		}
		about("removed", was, t.each(was, t.remove))
		delete(t.written, k)
	}
	for k, r := range wanted {
		if t.has(k) || t.tunnels[r.VNI] == 0 {
			continue
		}
		err := t.each(r, t.nl.NeighSet)
		about("installed", r, err)
		if err == nil {
			t.written[k] = r
			continue
		}
		_ = t.each(r, t.remove) // what of it was written: nobody would know of it
	}
	return errors.Join(errs...)
}

// remove takes an entry away that may be gone already, or its device.
func (t *tables) remove(n *netlink.Neigh) error {
	if err := t.nl.NeighDel(n); err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENODEV) && !errors.Is(err, unix.ENXIO) {
		return err
	}
	return nil
}

// each does something with all entries of an endpoint: where its frames are to be sent, and who has its addresses.
func (t *tables) each(r record, do func(*netlink.Neigh) error) error {
	base := netlink.Neigh{LinkIndex: t.tunnels[r.VNI], State: netlink.NUD_PERMANENT, HardwareAddr: net.HardwareAddr(r.MAC)}
	way := base
	way.Family, way.Flags, way.IP = unix.AF_BRIDGE, netlink.NTF_SELF, r.VTEP.AsSlice()
	errs := []error{do(&way)}
	for _, a := range r.IPs {
		who := base
		who.Family, who.IP = family(a), a.AsSlice()
		errs = append(errs, do(&who))
	}
	return errors.Join(errs...)
}

func family(a netip.Addr) int {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}
