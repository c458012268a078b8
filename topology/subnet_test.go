package topology

import (
	"fmt"
	"net/netip"
	"testing"
)

func TestSubnet(t *testing.T) {
	p := &Plan{}
	for i := range 256 {
		p.Machines = append(p.Machines, Machine{Name: fmt.Sprintf("h%d", i+1), Role: RoleHost})
	}
	p.Machines = append(p.Machines, Machine{Name: "x", Role: RoleExternal})
	all4, all6 := Spanned()
	seen := map[netip.Prefix]string{}
	for i, m := range p.Hosts() {
		v4, v6 := p.Subnet(m.Name)
		if i >= 254 {
			if v4.IsValid() || v6.IsValid() {
				t.Errorf("%s has %s and %s: want none, all are taken", m.Name, v4, v6)
			}
			continue
		}
		for _, b := range []struct{ block, all netip.Prefix }{{v4, all4}, {v6, all6}} {
			if b.block != b.block.Masked() || !b.all.Contains(b.block.Addr()) || b.block.Addr() == b.all.Addr() || seen[b.block] != "" {
				t.Errorf("%s has %s (%s has it too): want a block of its own in %s, and not the first", m.Name, b.block, seen[b.block], b.all)
			}
			seen[b.block] = m.Name
		}
	}
	for _, c := range []struct {
		host   string
		number int
		v4, v6 string
	}{
		{"h1", 1, "10.244.1.1/24", "fd10:244:0:1::1/64"},
		{"h2", 2, "10.244.2.2/24", "fd10:244:0:2::2/64"},
		{"h254", 254, "10.244.254.254/24", "fd10:244:0:fe::fe/64"},
		{"h1", 0, "invalid Prefix", "invalid Prefix"},
		{"h1", 255, "invalid Prefix", "invalid Prefix"},
		{"x", 1, "invalid Prefix", "invalid Prefix"},
	} {
		if v4, v6 := p.SubnetAddr(c.host, c.number); v4.String() != c.v4 || v6.String() != c.v6 {
			t.Errorf("%d of %s: %s and %s: want %s and %s", c.number, c.host, v4, v6, c.v4, c.v6)
		}
	}
}
