package topology

import (
	"net/netip"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// anyFan draws a mapping that leaves room for containers.
func anyFan(t *rapid.T) Fan {
	underlay := rapid.IntRange(4, 32).Draw(t, "bits of the underlay")
	overlay := rapid.IntRange(0, underlay-2).Draw(t, "bits of the overlay")
	block := func(name string, bits int) netip.Prefix {
		return netip.PrefixFrom(addr4(rapid.Uint32().Draw(t, name)), bits).Masked()
	}
	return Fan{Overlay: block("overlay", overlay), Underlay: block("underlay", underlay)}
}

// anyHost draws a host of a mapping's underlay.
func anyHost(t *rapid.T, f Fan, name string) netip.Addr {
	open := uint32(uint64(1)<<(32-f.Underlay.Bits()) - 1)
	return addr4(number(f.Underlay.Addr()) | rapid.Uint32().Draw(t, name)&open)
}

func TestFanExamples(t *testing.T) {
	type is struct{ overlay, underlay, host, block, gateway, first, last string }
	for _, want := range []is{
		{"250.0.0.0/8", "172.16.0.0/16", "172.16.3.4", "250.3.4.0/24", "250.3.4.1/24", "250.3.4.2/24", "250.3.4.254/24"}, // fanctl(8)
		{"250.0.0.0/8", "172.16.0.0/16", "172.16.5.6", "250.5.6.0/24", "250.5.6.1/24", "250.5.6.2/24", "250.5.6.254/24"},
		{"241.0.0.0/8", "192.168.7.0/24", "192.168.7.9", "241.9.0.0/16", "241.9.0.1/16", "241.9.0.2/16", "241.9.255.254/16"},
		{"10.64.0.0/12", "198.18.0.0/22", "198.18.3.255", "10.79.252.0/22", "10.79.252.1/22", "10.79.252.2/22", "10.79.255.254/22"},
	} {
		f := Fan{netip.MustParsePrefix(want.overlay), netip.MustParsePrefix(want.underlay)}
		host := netip.MustParseAddr(want.host)
		block, err := f.Block(host)
		if err != nil {
			t.Fatal(err)
		}
		gateway, gatewayErr := f.Gateway(host)
		first, firstErr := f.Container(host, 1)
		last, lastErr := f.Container(host, size(block)-3)
		for _, err := range []error{gatewayErr, firstErr, lastErr} {
			if err != nil {
				t.Error(err)
			}
		}
		got := want
		got.block, got.gateway, got.first, got.last = block.String(), gateway.String(), first.String(), last.String()
		if got != want {
			t.Errorf("got  %v\nwant %v", got, want)
		}
	}
}

func TestFanLeadsBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := anyFan(t)
		host := anyHost(t, f, "host")
		block, err := f.Block(host)
		if err != nil {
			t.Fatal(err)
		}
		if !f.Overlay.Contains(block.Addr()) || block != block.Masked() || block.Bits() < f.Overlay.Bits() {
			t.Fatalf("%s is no block of %s", block, f.Overlay)
		}
		n := rapid.IntRange(1, size(block)-3).Draw(t, "container")
		c, err := f.Container(host, n)
		if err != nil {
			t.Fatal(err)
		}
		gateway, err := f.Gateway(host)
		if err != nil {
			t.Fatal(err)
		}
		last := addr4(number(block.Addr()) + uint32(size(block)-1))
		if c.Masked() != block || c.Addr() == block.Addr() || c.Addr() == gateway.Addr() || c.Addr() == last {
			t.Fatalf("container %d has %s in %s with the gateway %s", n, c, block, gateway)
		}
		for _, a := range []netip.Addr{block.Addr(), gateway.Addr(), c.Addr(), last} {
			if got, err := f.Host(a); err != nil || got != host {
				t.Fatalf("%s leads to %s (%v): want %s", a, got, err, host)
			}
		}
	})
}

func TestFanKeepsHostsApart(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := anyFan(t)
		one, other := anyHost(t, f, "one"), anyHost(t, f, "other")
		a, errA := f.Block(one)
		b, errB := f.Block(other)
		if errA != nil || errB != nil {
			t.Fatal(errA, errB)
		}
		if a.Overlaps(b) != (one == other) {
			t.Fatalf("%s of %s and %s of %s", a, one, b, other)
		}
		n, m := rapid.IntRange(1, size(a)-3).Draw(t, "n"), rapid.IntRange(1, size(a)-3).Draw(t, "m")
		c, errC := f.Container(one, n)
		d, errD := f.Container(other, m)
		if errC != nil || errD != nil {
			t.Fatal(errC, errD)
		}
		if (c == d) != (one == other && n == m) {
			t.Fatalf("container %d of %s has %s, and %d of %s has %s", n, one, c, m, other, d)
		}
	})
}

// 253 containers of a host have addresses, each its own; there is no 254th, and no zeroth.
func TestFanIsExhausted(t *testing.T) {
	f := Fan{netip.MustParsePrefix("250.0.0.0/8"), netip.MustParsePrefix("172.16.0.0/16")}
	host := netip.MustParseAddr("172.16.3.4")
	known := map[netip.Addr]int{}
	for n := 1; n <= 253; n++ {
		c, err := f.Container(host, n)
		if err != nil {
			t.Fatal(err)
		}
		if was, there := known[c.Addr()]; there {
			t.Errorf("containers %d and %d have %s", was, n, c)
		}
		known[c.Addr()] = n
	}
	for n, want := range map[int]string{
		254: "container 254 of host 172.16.3.4: the block 250.3.4.0/24 has addresses for the containers 1 to 253",
		0:   "container 0 of host 172.16.3.4: the block 250.3.4.0/24 has addresses for the containers 1 to 253",
	} {
		if c, err := f.Container(host, n); err == nil || err.Error() != want {
			t.Errorf("container %d has %s (%v): want the error %q", n, c, err, want)
		}
	}
}

func TestFanRefuses(t *testing.T) {
	host, container := netip.MustParseAddr("172.16.3.4"), netip.MustParseAddr("250.3.4.2")
	for _, bad := range []struct{ overlay, underlay, want string }{
		{"250.0.0.0/8", "172.17.0.0/16", "is not in the underlay 172.17.0.0/16"},
		{"251.0.0.0/8", "172.16.0.0/16", "is not in the overlay 251.0.0.0/8"},
		{"250.0.0.0/8", "172.16.3.4/16", "underlay 172.16.3.4/16: want 172.16.0.0/16, the block that it is in"},
		{"250.3.0.0/8", "172.16.0.0/16", "overlay 250.3.0.0/8: want 250.0.0.0/8, the block that it is in"},
		{"fd00::/8", "172.16.0.0/16", "overlay fd00::/8: want a block of IPv4 addresses"},
		{"250.0.0.0/8", "2001:db8::/32", "underlay 2001:db8::/32: want a block of IPv4 addresses"},
		{"250.0.0.0/16", "172.16.0.0/16", "each host's block would have 32 bits: want at most 30"},
		{"250.0.0.0/15", "172.16.0.0/16", "each host's block would have 31 bits: want at most 30"},
	} {
		f := Fan{netip.MustParsePrefix(bad.overlay), netip.MustParsePrefix(bad.underlay)}
		var said []string
		_, err := f.Block(host)
		_, again := f.Host(container)
		for _, err := range []error{err, again} {
			if err != nil {
				said = append(said, err.Error())
			}
		}
		if !strings.Contains(strings.Join(said, "\n"), bad.want) {
			t.Errorf("overlay %s on underlay %s: %q: want %q", bad.overlay, bad.underlay, said, bad.want)
		}
	}
	if _, err := (Fan{}).Container(host, 1); err == nil || err.Error() != "no overlay" {
		t.Errorf("a mapping of nothing: %v: want the error \"no overlay\"", err)
	}
}
