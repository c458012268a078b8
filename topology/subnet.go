package topology

import (
	"net/netip"
	"slices"
)

// Spanned are the blocks that Subnet divides: one network of containers that spans hosts, of which each host has a subnet.
func Spanned() (v4, v6 netip.Prefix) {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244}), 16), netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 0x10, 2: 0x02, 3: 0x44}), 48)
}

// Subnet is a host's subnet of the network that spans hosts: 24 bits of IPv4 and 64 of IPv6, by the host's place among all, from 1 on.
// It is zero if the host is unknown, or all subnets are taken.
func (p *Plan) Subnet(host string) (v4, v6 netip.Prefix) {
	at := slices.IndexFunc(p.Hosts(), func(m *Machine) bool { return m.Name == host }) + 1
	if at < 1 || at > 254 {
		return netip.Prefix{}, netip.Prefix{}
	}
	all4, all6 := Spanned()
	a4, a6 := all4.Addr().As4(), all6.Addr().As16()
	a4[2], a6[7] = byte(at), byte(at)
	return netip.PrefixFrom(netip.AddrFrom4(a4), 24), netip.PrefixFrom(netip.AddrFrom16(a6), 64)
}

// SubnetAddr are the addresses of a number in a subnet: the host's own at 1, and from 2 on those of its containers. They are zero
// where the subnet has no such number.
func (p *Plan) SubnetAddr(host string, number int) (v4, v6 netip.Prefix) {
	block4, block6 := p.Subnet(host)
	if !block4.IsValid() || number < 1 || number > 254 {
		return netip.Prefix{}, netip.Prefix{}
	}
	return offset(block4, number), offset(block6, number)
}
