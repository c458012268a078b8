// Package ipam gives addresses out, one of each range of a pool, as the CNI plugin host-local does: round robin, each to one holder.
package ipam

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/modebench/modebench/topology"
)

// Holder is who has addresses: an interface of a container, or whatever else has a name of its own.
type Holder struct{ ID, Link string }

// String is both, as errors name a holder.
func (h Holder) String() string { return h.ID + " " + h.Link }

// Pool is ranges of addresses, and who holds which. Its methods may not overlap.
type Pool struct {
	ranges []topology.Range // whole: nothing is left to defaults
	last   []netip.Addr     // that was given out of each; invalid: none
	held   map[Holder][]netip.Addr
	taken  map[netip.Addr]Holder
}

// Why a pool gives nothing. The words are host-local's.
var (
	ErrExhausted = errors.New("no IP addresses available in range set")
	ErrTaken     = errors.New("is taken")
	ErrReserved  = errors.New("is the gateway's")
	ErrOutside   = errors.New("is not in the range set")
	ErrTwice     = errors.New("has addresses: duplicate allocation is not allowed")
)

// New is a pool of ranges, one of a family at most. It refuses subnets that are too small for a gateway and a container, and
// ranges that do not lie in their subnet.
func New(ranges []topology.Range) (*Pool, error) {
	p := &Pool{held: map[Holder][]netip.Addr{}, taken: map[netip.Addr]Holder{}}
	for _, r := range ranges {
		whole, err := canonical(r)
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(p.ranges, func(other topology.Range) bool { return other.First.Is4() == whole.First.Is4() }) {
			return nil, fmt.Errorf("range %s: a second one of its family", r.Subnet)
		}
		p.ranges = append(p.ranges, whole)
	}
	if len(p.ranges) == 0 {
		return nil, errors.New("a pool without a range")
	}
	p.last = make([]netip.Addr, len(p.ranges))
	return p, nil
}

// canonical fills in what a range leaves open.
func canonical(r topology.Range) (topology.Range, error) {
	if !r.Subnet.IsValid() || r.Subnet != r.Subnet.Masked() {
		return r, fmt.Errorf("subnet %s: want the block that it is in", r.Subnet)
	}
	if r.Subnet.Addr().BitLen()-r.Subnet.Bits() < 2 {
		return r, fmt.Errorf("subnet %s is too small to allocate from: want two bits of addresses at least", r.Subnet)
	}
	// The first address of a subnet is its own (RFC 1122 section 3.2.1.3), or that of its routers (RFC 4291 section 2.6.1).
	first, last := r.Subnet.Addr().Next(), lastOf(r.Subnet)
	for _, end := range []struct {
		name string
		of   *netip.Addr
		open netip.Addr
	}{{"first", &r.First, first}, {"last", &r.Last, last}, {"gateway", &r.Gateway, first}} {
		if !end.of.IsValid() {
			*end.of = end.open
		}
		if !r.Subnet.Contains(*end.of) || end.of.Less(first) || last.Less(*end.of) {
			return r, fmt.Errorf("%s address %s: want one of %s to %s", end.name, *end.of, first, last)
		}
	}
	if r.Last.Less(r.First) {
		return r, fmt.Errorf("range %s to %s: want the first address first", r.First, r.Last)
	}
	return r, nil
}

// lastOf is the last address of a subnet that a station may have: in IPv4 the one after it is the broadcast address.
func lastOf(p netip.Prefix) netip.Addr {
	raw := p.Addr().AsSlice()
	for i := p.Bits(); i < p.Addr().BitLen(); i++ {
		raw[i/8] |= 1 << (7 - i%8)
	}
	last, _ := netip.AddrFromSlice(raw)
	if last.Is4() {
		return last.Prev()
	}
	return last
}

// Reserve gives a holder an address of each range, in the order of the ranges: of those that it wants by name, and else the next
// one that is free after the last that was given out. Either it has one of each, or the pool is as before.
func (p *Pool) Reserve(h Holder, want ...netip.Addr) ([]netip.Addr, error) {
	if _, twice := p.held[h]; twice {
		return nil, fmt.Errorf("%s %w", h, ErrTwice)
	}
	for _, a := range want {
		if err := p.grants(a); err != nil {
			return nil, fmt.Errorf("requested address %s %w", a, err)
		}
	}
	var got []netip.Addr
	for i, r := range p.ranges {
		a := p.next(i)
		if at := slices.IndexFunc(want, r.Subnet.Contains); at >= 0 {
			a = want[at]
		}
		if !a.IsValid() {
			return nil, fmt.Errorf("%w: %s-%s", ErrExhausted, r.First, r.Last)
		}
		got = append(got, a)
	}
	for i, a := range got {
		p.taken[a], p.last[i] = h, a
	}
	p.held[h] = got
	return slices.Clone(got), nil
}

// grants says why an address cannot be had by name.
func (p *Pool) grants(a netip.Addr) error {
	i := slices.IndexFunc(p.ranges, func(r topology.Range) bool { return !a.Less(r.First) && !r.Last.Less(a) })
	switch {
	case slices.ContainsFunc(p.ranges, func(r topology.Range) bool { return a == r.Gateway }):
		return ErrReserved
	case i < 0:
		return ErrOutside
	}
	if by, ok := p.taken[a]; ok {
		return fmt.Errorf("%w by %s", ErrTaken, by)
	}
	return nil
}

// next is the first free address of a range after the last that was given out, around its end; invalid where there is none.
func (p *Pool) next(i int) netip.Addr {
	r, a := p.ranges[i], p.last[i]
	for range len(p.taken) + 2 { // one of so many is neither taken nor the gateway's, or else these are all there are
		if !a.IsValid() || !a.Less(r.Last) {
			a = r.First
		} else {
			a = a.Next()
		}
		if p.grants(a) == nil {
			return a
		}
	}
	return netip.Addr{}
}

// Release takes a holder's addresses back; one that has none is no error.
func (p *Pool) Release(h Holder) {
	for _, a := range p.held[h] {
		delete(p.taken, a)
	}
	delete(p.held, h)
}

// Held are the addresses of a holder, in the order of the ranges; none where it has none.
func (p *Pool) Held(h Holder) []netip.Addr { return slices.Clone(p.held[h]) }

// Holders are all who have addresses.
func (p *Pool) Holders() []Holder {
	hs := make([]Holder, 0, len(p.held))
	for h := range p.held {
		hs = append(hs, h)
	}
	slices.SortFunc(hs, func(a, b Holder) int { return p.held[a][0].Compare(p.held[b][0]) })
	return hs
}
