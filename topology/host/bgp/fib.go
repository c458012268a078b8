package bgp

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// distance is the metric of the routes. No other route of a machine has it, so that none is replaced: one with
// a smaller metric, such as a static IPv4 route, is preferred to what is learned.
const distance = 20

// fib is what a speaker programmed into the routing table of its machine. It outlives the speaker's crashes.
type fib struct {
	nl      *netlink.Handle
	journal *journal

	mu        sync.Mutex
	installed map[netip.Prefix][]netip.Addr // next hops, sorted
	refused   map[netip.Prefix]string       // why the kernel has it not
}

// newFIB opens a socket in the namespace of the calling thread.
func newFIB(j *journal) (*fib, error) {
	nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("netlink: %w", err)
	}
	return &fib{nl: nl, journal: j, installed: map[netip.Prefix][]netip.Addr{}, refused: map[netip.Prefix]string{}}, nil
}

func (f *fib) close() { f.nl.Close() }

// set makes the table hold a prefix by next hops on the machine's links; by none: not at all.
func (f *fib) set(p netip.Prefix, hops []netip.Addr) {
	f.mu.Lock()
	defer f.mu.Unlock()
	slices.SortFunc(hops, netip.Addr.Compare)
	hops = slices.Compact(hops)
	was, there := f.installed[p]
	if len(hops) == 0 {
		delete(f.refused, p)
		if there {
			_ = f.remove(p)
		}
		return
	}
	if there && slices.Equal(was, hops) {
		return
	}
	r := route(p)
	if len(hops) == 1 {
		r.Gw = hops[0].AsSlice()
	} else {
		for _, h := range hops {
			r.MultiPath = append(r.MultiPath, &netlink.NexthopInfo{Gw: h.AsSlice()})
		}
	}
	if err := f.nl.RouteReplace(r); err != nil {
		if why := err.Error(); f.refused[p] != why {
			f.refused[p] = why
			f.journal.add("refused", netip.Addr{}, p, why)
		}
		return
	}
	delete(f.refused, p)
	f.installed[p] = hops
	f.journal.add("installed", netip.Addr{}, p, "")
}

// remove takes a route out that may be gone already, with its device.
func (f *fib) remove(p netip.Prefix) error {
	delete(f.installed, p)
	err := f.nl.RouteDel(route(p))
	if errors.Is(err, unix.ESRCH) {
		err = nil
	}
	f.journal.add("removed", netip.Addr{}, p, "")
	return err
}

// flush takes everything out.
func (f *fib) flush() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	var errs []error
	for p := range f.installed {
		if err := f.remove(p); err != nil {
			errs = append(errs, fmt.Errorf("%v: %w", p, err))
		}
	}
	return errors.Join(errs...)
}

func (f *fib) has(p netip.Prefix) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, ok := f.installed[p]
	return ok
}

func (f *fib) prefixes() []netip.Prefix {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []netip.Prefix
	for p := range f.installed {
		all = append(all, p)
	}
	return all
}

func route(p netip.Prefix) *netlink.Route {
	return &netlink.Route{
		Dst:      &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())},
		Protocol: unix.RTPROT_BGP, Priority: distance,
	}
}
