package gossip

import (
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/modebench/modebench/topology"
)

func draw(t *rapid.T) record {
	n := rapid.IntRange(1, 3).Draw(t, "owner")
	return record{
		VNI: rapid.IntRange(1, 2).Draw(t, "vni"), MAC: string([]byte{2, 3, 0, 0, 0, byte(rapid.IntRange(1, 2).Draw(t, "mac"))}),
		IPs: []netip.Addr{netip.MustParseAddr("100.127.0.1")}, VTEP: netip.AddrFrom4([4]byte{198, 18, 0, byte(n)}),
		Owner: fmt.Sprintf("h%d", n), Clock: int64(rapid.IntRange(1, 4).Draw(t, "clock")), Gone: rapid.Bool().Draw(t, "gone"),
	}
}

func listener() *Service {
	s := New("h9")
	s.config.Name, s.own, s.records, s.alive = "h9", map[key]*own{}, map[key]record{}, map[string]string{}
	return s
}

// Whatever the order in which members hear of endpoints, and however often, they hold the same for true.
func TestOrderOfNewsDoesNotMatter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all := rapid.SliceOfN(rapid.Custom(draw), 1, 12).Draw(t, "records")
		first, second := listener(), listener()
		for _, r := range all {
			first.hear(unpacked(packed([]record{r}))...)
		}
		for _, r := range append(rapid.Permutation(all).Draw(t, "order"), all...) {
			second.hear(r)
		}
		if d := cmp.Diff(first.records, second.records, cmp.AllowUnexported(record{}, key{}), cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); d != "" {
			t.Fatalf("two orders:\n%s", d)
		}
	})
}

// What a machine said in an earlier life is taken back when others tell it, and what it still has is said again.
func TestEarlierLifeIsTakenBack(t *testing.T) {
	s := listener()
	has, had := topology.Endpoint{VNI: 1, MAC: net.HardwareAddr{2, 3, 0, 0, 0, 1}}, topology.Endpoint{VNI: 1, MAC: net.HardwareAddr{2, 3, 0, 0, 0, 2}}
	s.own[key{1, string(has.MAC)}] = &own{endpoint: has, times: 1}
	late := int64(1) << 62
	s.hear(
		record{VNI: 1, MAC: string(has.MAC), Owner: "h9", Clock: late, Gone: true},
		record{VNI: 1, MAC: string(had.MAC), Owner: "h9", Clock: late},
		record{VNI: 2, MAC: "short", Owner: "h1", Clock: late},
	)
	for what, want := range map[string]bool{string(has.MAC): false, string(had.MAC): true} {
		r := s.records[key{1, what}]
		if r.Gone != want || r.Owner != "h9" || r.Clock != late+1 {
			t.Errorf("%x: %+v: want it said again, gone %t", what, r, want)
		}
	}
	if len(s.records) != 2 {
		t.Errorf("%d records: want none of a MAC address of other than six bytes", len(s.records))
	}
}

// An endpoint that another machine said to have later is that one's, and this one is told so.
func TestTaken(t *testing.T) {
	s := listener()
	e := topology.Endpoint{VNI: 1, MAC: net.HardwareAddr{2, 3, 0, 0, 0, 1}}
	k := key{1, string(e.MAC)}
	s.own[k] = &own{endpoint: e, times: 1}
	s.hear(record{VNI: 1, MAC: string(e.MAC), Owner: "h1", Clock: 5})
	if s.records[k].Owner != "h1" || len(s.events) != 1 || s.events[0].Kind != "taken" || s.events[0].Member != "h1" {
		t.Errorf("%+v, events %+v: want it taken by h1", s.records[k], s.events)
	}
}

func TestWhatIsNotARecordIsNothing(t *testing.T) {
	for _, b := range [][]byte{nil, {1}, []byte("endpoint")} {
		if rs := unpacked(b); rs != nil {
			t.Errorf("%q is %v", b, rs)
		}
	}
}
