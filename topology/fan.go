package topology

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

// Fan maps addresses of hosts to blocks of addresses for containers, after Ubuntu's Fan networking (fanctl(8)): the bits of
// a host's address that Underlay leaves open follow Overlay's own, and what is then left numbers the containers. With an
// overlay of 250.0.0.0/8 and an underlay of 172.16.0.0/16 the host 172.16.3.4 has 250.3.4.0/24. Nobody has to be asked
// where a container is: the address says it. All of it is IPv4.
type Fan struct{ Overlay, Underlay netip.Prefix }

// blockBits is the length of each host's block.
func (f Fan) blockBits() (int, error) {
	for _, p := range []struct {
		name string
		netip.Prefix
	}{{"overlay", f.Overlay}, {"underlay", f.Underlay}} {
		switch {
		case !p.IsValid():
			return 0, fmt.Errorf("no %s", p.name)
		case !p.Addr().Is4():
			return 0, fmt.Errorf("%s %s: want a block of IPv4 addresses", p.name, p.Prefix)
		case p.Prefix != p.Masked():
			return 0, fmt.Errorf("%s %s: want %s, the block that it is in", p.name, p.Prefix, p.Masked())
		}
	}
	// A gateway and one container at least, besides the block's first and last address (RFC 1122 section 3.2.1.3).
	bits := f.Overlay.Bits() + 32 - f.Underlay.Bits()
	if bits > 30 {
		return 0, fmt.Errorf("overlay %s on underlay %s: each host's block would have %d bits: want at most 30", f.Overlay, f.Underlay, bits)
	}
	return bits, nil
}

// Block is the part of the overlay that belongs to the host with an address of the underlay.
func (f Fan) Block(host netip.Addr) (netip.Prefix, error) {
	bits, err := f.blockBits()
	if err != nil {
		return netip.Prefix{}, err
	}
	if !f.Underlay.Contains(host) {
		return netip.Prefix{}, fmt.Errorf("host %s is not in the underlay %s", host, f.Underlay)
	}
	within := number(host) &^ number(f.Underlay.Addr())
	return netip.PrefixFrom(addr4(number(f.Overlay.Addr())|within<<(32-bits)), bits), nil
}

// Host is the address on the underlay of the host that has an address of the overlay in its block: where what is sent to
// it goes.
func (f Fan) Host(a netip.Addr) (netip.Addr, error) {
	bits, err := f.blockBits()
	if err != nil {
		return netip.Addr{}, err
	}
	if !f.Overlay.Contains(a) {
		return netip.Addr{}, fmt.Errorf("%s is not in the overlay %s", a, f.Overlay)
	}
	within := (number(a) &^ number(f.Overlay.Addr())) >> (32 - bits)
	return addr4(number(f.Underlay.Addr()) | within), nil
}

// Gateway is the host's own address in its block, with the block's length: the first.
func (f Fan) Gateway(host netip.Addr) (netip.Prefix, error) {
	block, err := f.Block(host)
	if err != nil {
		return netip.Prefix{}, err
	}
	return offset(block, 1), nil
}

// Container is the address of a host's container n, counted from 1, with the block's length. A block of 24 bits has 253.
func (f Fan) Container(host netip.Addr, n int) (netip.Prefix, error) {
	block, err := f.Block(host)
	if err != nil {
		return netip.Prefix{}, err
	}
	if room := size(block) - 3; n < 1 || n > room {
		return netip.Prefix{}, fmt.Errorf("container %d of host %s: the block %s has addresses for the containers 1 to %d", n, host, block, room)
	}
	return offset(block, n+1), nil
}

// addr4 is the IPv4 address of a number.
func addr4(n uint32) netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], n)
	return netip.AddrFrom4(b)
}
