package gossip

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/modebench/modebench/topology"
	"github.com/modebench/modebench/topology/lab"
	"github.com/modebench/modebench/topology/space"
)

// The tests are in a network namespace of their own, in which two members talk over the loopback.
func TestMain(m *testing.M) { os.Exit(space.Rerun(m.Run, os.Args[1:], os.Getenv)) }

const patience = 10 * time.Second

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// entries are those of a tunnel, of both tables.
func entries(t *testing.T, link string) (out []string) {
	t.Helper()
	l, err := netlink.LinkByName(link)
	must(t, err)
	for _, family := range []int{unix.AF_BRIDGE, unix.AF_INET, unix.AF_INET6} {
		ns, err := netlink.NeighList(l.Attrs().Index, family)
		must(t, err)
		for _, n := range ns {
			if n.State&netlink.NUD_PERMANENT != 0 && n.IP != nil && !n.IP.IsMulticast() {
				out = append(out, fmt.Sprintf("%s %s", n.HardwareAddr, n.IP))
			}
		}
	}
	slices.Sort(out)
	return out
}

// becomes waits until a tunnel has some entries and no other.
func becomes(t *testing.T, link string, want ...string) {
	t.Helper()
	slices.Sort(want)
	var got []string
	for end := time.Now().Add(patience); time.Now().Before(end); {
		if got = entries(t, link); slices.Equal(got, want) {
			return
		}
		<-time.After(5 * time.Millisecond)
	}
	t.Fatalf("entries of %s (-want +got):\n%s", link, cmp.Diff(want, got))
}

// unable skips a test for which this machine lacks something; in strict mode it fails.
func unable(t *testing.T, format string, args ...any) {
	t.Helper()
	if os.Getenv("MODEBENCH_STRICT") != "" {
		t.Fatalf("unable: "+format, args...)
	}
	t.Skipf("unable: "+format, args...)
}

func TestMembers(t *testing.T) {
	lo, err := netlink.LinkByName("lo")
	must(t, err, netlink.LinkSetUp(lo))
	member := func(n int) (*Service, topology.Gossip) {
		name := fmt.Sprintf("v%d", n)
		own := netip.AddrFrom4([4]byte{127, 0, 0, byte(n)})
		l := &netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: name}, VxlanId: n, SrcAddr: own.AsSlice(), Port: 4789, Proxy: true}
		if err := netlink.LinkAdd(l); errors.Is(err, unix.EOPNOTSUPP) {
			unable(t, "the kernel has no vxlan: %v", err)
		} else {
			must(t, err, netlink.LinkSetUp(l))
		}
		t.Cleanup(func() { must(t, netlink.LinkDel(l)) })
		s := New(name)
		t.Cleanup(func() { must(t, s.Close()) })
		return s, topology.Gossip{
			Name: name, Addr: own, Port: 7946, Join: []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, byte(3 - n)})},
			Tunnels: []topology.Tunnel{{VNI: 4097, Link: name}},
		}
	}
	first, g1 := member(1)
	second, g2 := member(2)
	if _, err := first.Announce(topology.Endpoint{}); !errors.Is(err, errNone) {
		t.Errorf("announced without a member: %v", err)
	}
	_, err = first.Start(g1)
	must(t, err)
	_, err = second.Start(g2)
	must(t, err)
	if _, err := first.Start(g1); !errors.Is(err, unix.EEXIST) {
		t.Errorf("started twice: %v", err)
	}
	e := topology.Endpoint{
		VNI: 4097, MAC: net.HardwareAddr{2, 3, 0, 1, 0, 1}, VTEP: g1.Addr,
		IPs: []netip.Addr{netip.MustParseAddr("100.127.1.1"), netip.MustParseAddr("fd64::1")},
	}
	want := []string{"02:03:00:01:00:01 127.0.0.1", "02:03:00:01:00:01 100.127.1.1", "02:03:00:01:00:01 fd64::1"}
	undo, err := first.Announce(e)
	must(t, err)
	again, err := first.Announce(e)
	must(t, err)
	becomes(t, "v2", want...)
	becomes(t, "v1") // its own are not its tunnel's

	l, err := netlink.LinkByName("v2")
	must(t, err, netlink.LinkSetDown(l), netlink.LinkSetUp(l))
	becomes(t, "v2", want...)

	must(t, again())
	other, err := first.Announce(topology.Endpoint{VNI: 4097, MAC: net.HardwareAddr{2, 3, 0, 1, 0, 2}, VTEP: g1.Addr})
	must(t, err)
	becomes(t, "v2", append(want, "02:03:00:01:00:02 127.0.0.1")...) // announced twice, undone once
	must(t, other())
	becomes(t, "v2", want...)

	// It moves: the later word holds, also when the earlier one is taken back after it.
	moved := e
	moved.VTEP = g2.Addr
	back, err := second.Announce(moved)
	must(t, err)
	becomes(t, "v1", "02:03:00:01:00:01 127.0.0.2", "02:03:00:01:00:01 100.127.1.1", "02:03:00:01:00:01 fd64::1")
	becomes(t, "v2")
	must(t, undo(), back())
	becomes(t, "v1")

	_, err = first.Announce(e)
	must(t, err)
	becomes(t, "v2", want...)
	must(t, first.Crash(lab.Nothing{}, nil))
	becomes(t, "v2")
	var s lab.GossipState
	must(t, first.State(lab.Nothing{}, &s))
	if s.Running || first.Crash(lab.Nothing{}, nil) == nil {
		t.Errorf("a member that crashed runs: %+v", s)
	}
	must(t, first.Revive(lab.Nothing{}, nil))
	becomes(t, "v2", want...)
	if err := first.Revive(lab.Nothing{}, nil); !errors.Is(err, unix.EEXIST) {
		t.Errorf("revived while it runs: %v", err)
	}
	must(t, first.Close(), first.Close())
	becomes(t, "v2")
}
