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
	done    chan struct{} // closed when there is nobody to program for any more

	mu        sync.Mutex
	wanted    map[netip.Prefix][]netip.Addr // next hops, sorted, whether the kernel has them now or not
	installed map[netip.Prefix][]netip.Addr // next hops, sorted
	refused   map[netip.Prefix]string       // why the kernel has it not
}

// newFIB opens a socket in the namespace of the calling thread.
func newFIB(j *journal) (*fib, error) {
	nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("netlink: %w", err)
	}
	f := &fib{
		nl: nl, journal: j, done: make(chan struct{}),
		wanted: map[netip.Prefix][]netip.Addr{}, installed: map[netip.Prefix][]netip.Addr{}, refused: map[netip.Prefix]string{},
	}
	links, addrs := make(chan netlink.LinkUpdate), make(chan netlink.AddrUpdate)
	if err := errors.Join(netlink.LinkSubscribe(links, f.done), netlink.AddrSubscribe(addrs, f.done)); err != nil {
		f.close()
		return nil, fmt.Errorf("netlink: %w", err)
	}
	go func() {
		for links != nil && addrs != nil { // both end with done
			select {
			case _, open := <-links:
				if !open {
					links = nil
				}
			case _, open := <-addrs:
				if !open {
					addrs = nil
				}
			}
			f.mend()
		}
	}()
	return f, nil
}

func (f *fib) close() {
	close(f.done)
	f.nl.Close()
}

// mend puts back what the kernel took out with a link that went down, once the link is up again: it says nothing of routes
// that go that way (fib_sync_down_dev() of net/ipv4/fib_semantics.c).
func (f *fib) mend() {
	f.mu.Lock()
	defer f.mu.Unlock()
	there, err := f.nl.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Protocol: unix.RTPROT_BGP}, netlink.RT_FILTER_PROTOCOL)
	if err != nil {
		return // the next change of a link tells again
	}
	for p, hops := range f.wanted {
		has := slices.ContainsFunc(there, func(r netlink.Route) bool {
			return r.Priority == distance && r.Dst != nil && r.Dst.String() == p.Masked().String() && max(1, len(r.MultiPath)) == len(hops)
		})
		if has {
			continue
		}
		if _, was := f.installed[p]; was {
			delete(f.installed, p)
			f.journal.add("removed", netip.Addr{}, p, "its link went down")
		}
		f.install(p, hops)
	}
}

// set makes the table hold a prefix by next hops on the machine's links; by none: not at all.
func (f *fib) set(p netip.Prefix, hops []netip.Addr) {
	f.mu.Lock()
	defer f.mu.Unlock()
	slices.SortFunc(hops, netip.Addr.Compare)
	hops = slices.Compact(hops)
	was, there := f.installed[p]
	if len(hops) == 0 {
		delete(f.refused, p)
		delete(f.wanted, p)
		if there {
			_ = f.remove(p)
		}
		return
	}
	if there && slices.Equal(was, hops) {
		return
	}
	f.wanted[p] = hops
	f.install(p, hops)
}

// install has the kernel hold a prefix by one or more next hops.
func (f *fib) install(p netip.Prefix, hops []netip.Addr) {
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
	delete(f.wanted, p)
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
