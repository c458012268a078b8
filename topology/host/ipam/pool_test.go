package ipam

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/modebench/modebench/topology"
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func subnets(s ...string) (rs []topology.Range) {
	for _, p := range s {
		rs = append(rs, topology.Range{Subnet: netip.MustParsePrefix(p)})
	}
	return rs
}

func pooled(t *testing.T, ranges []topology.Range) *Pool {
	t.Helper()
	p, err := New(ranges)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// A released address comes again only when all others have had their turn (allocator.go GetIter of host-local).
func TestRoundRobin(t *testing.T) {
	p := pooled(t, subnets("10.0.0.0/29")) // .1 is the gateway's; .2 to .6
	var got []string
	for i := range 5 {
		a, err := p.Reserve(Holder{fmt.Sprint(i), "eth0"})
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, a[0].String())
		p.Release(Holder{fmt.Sprint(i), "eth0"})
	}
	a, err := p.Reserve(Holder{"again", "eth0"})
	if err != nil {
		t.Fatal(err)
	}
	if want := "10.0.0.2 10.0.0.3 10.0.0.4 10.0.0.5 10.0.0.6 10.0.0.2"; strings.Join(append(got, a[0].String()), " ") != want {
		t.Errorf("given out: %v %v: want %s", got, a, want)
	}
}

func TestSizes(t *testing.T) {
	for _, test := range []struct {
		subnet string
		usable int // 0: refused
	}{
		{"10.0.0.0/32", 0},
		{"10.0.0.0/31", 0},
		{"10.0.0.0/30", 1},
		{"250.3.4.0/24", 253},
		{"fd00::/128", 0},
		{"fd00::/127", 0},
		{"fd00::/126", 2},
		{"fd00::/120", 254},
	} {
		p, err := New(subnets(test.subnet))
		if err != nil {
			if test.usable > 0 || !strings.Contains(err.Error(), "too small") {
				t.Errorf("%s: %v", test.subnet, err)
			}
			continue
		}
		n := 0
		for ; err == nil; n++ {
			_, err = p.Reserve(Holder{fmt.Sprint(n), ""})
		}
		if n-1 != test.usable || !errors.Is(err, ErrExhausted) {
			t.Errorf("%s: %d addresses, then %v: want %d", test.subnet, n-1, err, test.usable)
		}
	}
}

func TestRequests(t *testing.T) {
	p := pooled(t, []topology.Range{{Subnet: netip.MustParsePrefix("10.0.0.0/24"), First: addr("10.0.0.10"), Last: addr("10.0.0.19"), Gateway: addr("10.0.0.15")}})
	if _, err := p.Reserve(Holder{"a", "eth0"}, addr("10.0.0.12")); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		who  Holder
		want string
		err  error
	}{
		{Holder{"b", "eth0"}, "10.0.0.12", ErrTaken},
		{Holder{"b", "eth0"}, "10.0.0.15", ErrReserved},
		{Holder{"b", "eth0"}, "10.0.0.20", ErrOutside},
		{Holder{"b", "eth0"}, "10.0.1.12", ErrOutside},
		{Holder{"b", "eth0"}, "10.0.0.0", ErrOutside},
		{Holder{"b", "eth0"}, "10.0.0.255", ErrOutside},
		{Holder{"b", "eth0"}, "fd00::12", ErrOutside},
		{Holder{"a", "eth0"}, "10.0.0.13", ErrTwice},
	} {
		if _, err := p.Reserve(test.who, addr(test.want)); !errors.Is(err, test.err) {
			t.Errorf("%s wants %s: %v: want %v", test.who, test.want, err, test.err)
		}
	}
	if a, err := p.Reserve(Holder{"a", "eth1"}); err != nil || a[0] != addr("10.0.0.13") {
		t.Errorf("another interface: %v, %v: want the one after that which was requested", a, err)
	}
}

func TestRefusedRanges(t *testing.T) {
	whole := netip.MustParsePrefix("10.0.0.0/24")
	for want, r := range map[string][]topology.Range{
		"without a range":  nil,
		"block that it is": {{Subnet: netip.MustParsePrefix("10.0.0.1/24")}},
		"subnet invalid":   {{}},
		"first address":    {{Subnet: whole, First: addr("10.0.1.1")}},
		"last address":     {{Subnet: whole, Last: addr("10.0.0.255")}},
		"gateway address":  {{Subnet: whole, Gateway: addr("10.0.0.0")}},
		"first first":      {{Subnet: whole, First: addr("10.0.0.9"), Last: addr("10.0.0.8")}},
		"second one":       subnets("10.0.0.0/24", "10.0.1.0/24"),
	} {
		want = strings.Replace(want, "first first", "the first address first", 1)
		if _, err := New(r); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v: want %q", r, err, want)
		}
	}
}

// TestAgainstTheObvious holds the pool against lists: whatever is asked for in whatever order.
func TestAgainstTheObvious(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		bits4, bits6 := rapid.IntRange(26, 30).Draw(t, "length of the IPv4 subnet"), rapid.IntRange(122, 126).Draw(t, "length of the IPv6 subnet")
		ranges := subnets(fmt.Sprintf("10.0.0.0/%d", bits4), fmt.Sprintf("fd00::/%d", bits6))
		p, err := New(ranges)
		if err != nil {
			t.Fatal(err)
		}
		usable := [2][]netip.Addr{} // in order
		for i, r := range ranges {
			for a := r.Subnet.Addr().Next().Next(); r.Subnet.Contains(a); a = a.Next() {
				usable[i] = append(usable[i], a)
			}
		}
		usable[0] = usable[0][:len(usable[0])-1] // the broadcast address
		held, last := map[Holder][]netip.Addr{}, [2]int{-1, -1}
		free := func(a netip.Addr) bool {
			return !slices.Contains(slices.Concat(slices.Collect(maps.Values(held))...), a)
		}
		for range rapid.IntRange(1, 150).Draw(t, "questions") {
			h := Holder{fmt.Sprint("c", rapid.IntRange(0, 40).Draw(t, "container")), "eth0"}
			if rapid.Bool().Draw(t, "release") {
				p.Release(h)
				delete(held, h)
				continue
			}
			var want []netip.Addr
			due, possible := make([]netip.Addr, 2), held[h] == nil
			for i := range ranges {
				if rapid.IntRange(0, 3).Draw(t, "by name") == 0 {
					a := ranges[i].Subnet.Addr()
					for range rapid.IntRange(0, 66).Draw(t, "which") {
						a = a.Next()
					}
					want, due[i] = append(want, a), a
					possible = possible && slices.Contains(usable[i], a) && free(a)
					continue
				}
				for n := range usable[i] {
					if a := usable[i][(last[i]+1+n)%len(usable[i])]; free(a) {
						due[i] = a
						break
					}
				}
				possible = possible && due[i].IsValid()
			}
			got, err := p.Reserve(h, want...)
			if (err == nil) != possible || err == nil && !slices.Equal(got, due) {
				t.Fatalf("%s wants %v: %v, %v: want %v, %t", h, want, got, err, due, possible)
			}
			if possible {
				held[h] = due
				for i, a := range due {
					last[i] = slices.Index(usable[i], a)
				}
			}
			if len(p.Holders()) != len(held) || !slices.Equal(p.Held(h), held[h]) || len(p.taken) != 2*len(held) {
				t.Fatalf("%d holders of %d addresses: want %d of 2 each", len(p.Holders()), len(p.taken), len(held))
			}
		}
	})
}
