package topology_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/modebench/modebench/topology"
)

// An edit makes a good topology bad.
type edit struct {
	name     string
	old, new string // the first old is replaced; without an old, new is the whole file
	schema   bool   // the schema refuses it too
}

func (e edit) apply(t testing.TB) []byte {
	t.Helper()
	good := string(source(t, "topologies/two-hosts.yaml"))
	if e.old == "" {
		return []byte(e.new)
	}
	bad := strings.Replace(good, e.old, e.new, 1)
	if bad == good {
		t.Fatalf("%s: %q is not in the file", e.name, e.old)
	}
	return []byte(bad)
}

var edits = []edit{
	{"empty file", "", "", false},
	{"only a comment", "", "# nothing\n", false},
	{"only a document start", "", "---\n", false},
	{"second document", "name: two-hosts", "name: two-hosts\n---\nname: other", false},
	{"not a mapping", "", "- a\n- b\n", true},
	{"broken YAML", "joins: [rack, annex]", "joins: [rack, annex", false},
	{"tab", "    v4: 198.18.0.0/22", "\tv4: 198.18.0.0/22", false},
	{"nested too deeply", "", strings.Repeat("[", 1e5), false},
	{"nested too deeply in a line", "", strings.Repeat("- ", 1e3), false},
	{"control character", "", "na\x1bme: a\n", false},
	{"far along a line", "", "name: a\nsegments: {" + strings.Repeat(" ", 300) + "a: 5, " + strings.Repeat(" ", 30) + "b: {}}\n", true},
	{"too large", "", "# " + strings.Repeat("a", 1<<17), false},
	{"anchor", "nics: {eth0: rack}", "nics: &n {eth0: rack}", false},
	{"alias", "nic: eth1", "nic: *n", false},
	{"merge key", "nics: {eth0: rack}", "<<: {eth0: rack}", true},
	{"tag", "nic: eth1", "nic: !!str eth1", false},
	{"block text", "nic: eth1", "nic: |\n      eth1", false},

	{"unknown key", "name: two-hosts", "name: two-hosts\nracks: {}", true},
	{"unknown key of a segment", "v6: 2001:db8:18::/64", "ipv6: 2001:db8:18::/64", true},
	{"key in capitals", "tors:", "Tors:", true},
	{"duplicate key", "  annex:", "  rack:", false},
	{"duplicate host", "  h2:", "  h1:", false},
	{"number as a key", "  h2:", "  2:", true},
	{"text for a number", "containers: {blue: 3,", "containers: {blue: three,", true},
	{"quoted number", "containers: {blue: 3,", "containers: {blue: '3',", true},
	{"fraction for a whole number", "containers: {blue: 3,", "containers: {blue: 3.5,", true},
	{"number too large", "containers: {blue: 3,", "containers: {blue: 99999999999999999999,", false},
	{"number larger than an int", "containers: {blue: 3,", "containers: {blue: 9999999999999999999,", false},
	{"truth value for a text", "nic: eth0", "nic: true", true},
	{"list for a mapping", "nics: {eth0: rack, eth1: annex}", "nics: [rack, annex]", true},
	{"mapping for a list", "joins: [rack, annex]", "joins: {rack: annex}", true},
	{"nothing for a mapping", "  x:\n    nics: {eth0: rack}\n  y:\n    nics: {eth0: rack}\n", "", true},
	{"nothing for a value", "nic: eth0", "nic:", true},
	{"number for a block", "v4: 172.17.0.0/24", "v4: 172", true},
	{"not a block", "v4: 172.17.0.0/24", "v4: 172.17.0/24", false},
	{"block without a length", "v4: 172.17.0.0/24", "v4: 172.17.0.0", true},

	{"no name", "name: two-hosts", "fabric: open", true},
	{"name with a space", "name: two-hosts", "name: two hosts", true},
	{"unknown fabric", "name: two-hosts", "name: two-hosts\nfabric: filtered", true},
	{"fabric with what another has", "name: two-hosts", "name: two-hosts\nfabric: {kind: vpc, filters: 512}", false},
	{"fabric with an unknown violation", "name: two-hosts", "name: two-hosts\nfabric:\n  kind: port-security\n  violation: ignore", true},
	{"fabric with an unknown setting", "name: two-hosts", "name: two-hosts\nfabric: {kind: port-security, mac: 4}", true},
	{"fabric with a text for a truth value", "name: two-hosts", "name: two-hosts\nfabric: {reflective: maybe}", true},
	{"block too small for links", "name: two-hosts\n\n# A segment is a layer-2 network. The first quarter of its block numbers machines; the rest is divided among the\n# hosts, for the containers of modes that put them on the segment itself.\nsegments:\n  rack:\n    v4: 198.18.0.0/22", "name: two-hosts\nfabric: routed-bgp\nsegments:\n  rack:\n    v4: 198.18.0.0/27", false},
	{"host name too long", "  h2:", "  host00002:", true},
	{"host name with a hyphen", "  h2:", "  h-2:", true},
	{"host called like an external", "  h2:", "  x:", false},
	{"host called like a tor", "  h2:", "  tor:", false},
	{"segment called lo", "  annex:", "  lo:", false},
	{"port name too long", "nics: {eth0: rack, eth1: annex}\n    containers: {blue: 3, green: 1}\n  h2:\n    nics: {eth0: rack, eth1: annex}", "nics: {eth0: rack, eth1: annex}\n    containers: {blue: 3, green: 1}\n  h2345678:\n    nics: {eth0: rack, ethernet: annex}", false},
	{"no hosts", "", "name: a\nsegments: {s: {v4: 198.18.0.0/22, v6: '2001:db8::/64'}}\ntors: {t: {joins: [s]}}\nhosts: {}\nnetworks: {n: {nic: eth0, v4: 172.17.0.0/24, v6: 'fd17::/64'}}\n", false},
	{"no hosts key", "", "name: a\nsegments: {s: {v4: 198.18.0.0/22, v6: '2001:db8::/64'}}\ntors: {t: {joins: [s]}}\nnetworks: {n: {nic: eth0, v4: 172.17.0.0/24, v6: 'fd17::/64'}}\n", true},

	{"MTU too small", "v4: 198.18.0.0/22", "v4: 198.18.0.0/22\n    mtu: 1279", true},
	{"MTU too large", "v4: 198.18.0.0/22", "v4: 198.18.0.0/22\n    mtu: 65536", true},
	{"MTU negative", "v4: 198.18.0.0/22", "v4: 198.18.0.0/22\n    mtu: -1", true},
	{"no IPv6 block", "    v6: 2001:db8:18::/64\n", "", true},
	{"IPv6 for IPv4", "v4: 198.18.0.0/22", "v4: 2001:db8:17::/64", false},
	{"IPv4 for IPv6", "v6: 2001:db8:18::/64", "v6: 198.18.0.0/22", false},
	{"mapped IPv4", "v6: 2001:db8:18::/64", "v6: ::ffff:198.18.0.0/120", false},
	{"host bits", "v4: 198.18.0.0/22", "v4: 198.18.1.0/22", false},
	{"IPv4 block too long", "v4: 198.18.0.0/22", "v4: 198.18.0.0/30", false},
	{"IPv6 block too long", "v6: 2001:db8:18::/64", "v6: 2001:db8:18::/120", false},
	{"multicast block", "v4: 198.18.0.0/22", "v4: 224.0.0.0/22", false},
	{"loopback block", "v4: 172.17.0.0/24", "v4: 127.0.0.0/24", false},
	{"reserved block", "v4: 172.17.0.0/24", "v4: 240.0.0.0/24", false},
	{"link-local block", "v6: fd17::/64", "v6: fe80::/64", false},
	{"segments overlap", "v4: 198.18.4.0/22", "v4: 198.18.0.0/20", false},
	{"network overlaps a segment", "v6: fd18::/64", "v6: 2001:db8:18::/64", false},
	{"block too small for machines", "v4: 198.18.0.0/22", "v4: 198.18.0.0/28", false},

	{"tor joins nothing", "joins: [rack, annex]", "joins: []", false},
	{"tor joins an unknown segment", "joins: [rack, annex]", "joins: [rack, anex]", false},
	{"segment joined by no tor", "joins: [rack, annex]", "joins: [rack]", false},
	{"segment joined twice", "joins: [rack, annex]", "joins: [rack, annex, rack]", false},
	{"too many routes", "joins: [rack, annex]", "joins: [rack, annex]\n    routes: 1001", false},
	{"segment joined by two tors", "joins: [rack, annex]", "joins: [rack, annex]\n  tor2:\n    joins: [annex]", false},

	{"no interfaces", "nics: {eth0: rack}", "nics: {}", false},
	{"unknown segment", "nics: {eth0: rack, eth1: annex}", "nics: {eth0: rock, eth1: annex}", false},
	{"unknown segment in a mapping", "nics: {eth0: rack, eth1: annex}", "nics: {eth0: {segment: rock}, eth1: annex}", false},
	{"interface without a segment", "nics: {eth0: rack, eth1: annex}", "nics: {eth0: {rate: 1Gbit/s}, eth1: annex}", true},
	{"interface called all", "nics: {eth0: rack}", "nics: {all: rack}", false},
	{"two interfaces on a segment", "nics: {eth0: rack, eth1: annex}", "nics: {eth0: rack, eth1: rack}", false},
	{"rate without sense", "nics: {eth0: rack}", "nics: {eth0: {segment: rack, rate: fast}}", true},
	{"rate negative", "nics: {eth0: rack}", "nics: {eth0: {segment: rack, rate: -1}}", true},
	{"rate of a fraction of a bit", "nics: {eth0: rack}", "nics: {eth0: {segment: rack, rate: 0.0001kbit/s}}", false},
	{"rate too low", "nics: {eth0: rack}", "nics: {eth0: {segment: rack, rate: 1bit/s}}", false},
	{"delay without a unit", "nics: {eth0: rack}", "nics: {eth0: {segment: rack, delay: '5'}}", false},
	{"delay negative", "nics: {eth0: rack}", "nics: {eth0: {segment: rack, delay: -5ms}}", false},
	{"delay too long", "nics: {eth0: rack}", "nics: {eth0: {segment: rack, delay: 1h}}", false},
	{"loss above 1", "nics: {eth0: rack}", "nics: {eth0: {segment: rack, loss: 1.5}}", true},
	{"loss negative", "nics: {eth0: rack}", "nics: {eth0: {segment: rack, loss: -0.1}}", true},
	{"jitter without a delay", "nics: {eth0: rack}", "nics: {eth0: {segment: rack, jitter: 1ms}}", false},
	{"jitter above the delay", "nics: {eth0: rack}", "nics: {eth0: {segment: rack, delay: 5ms, jitter: 6ms}}", false},
	{"reorder without a delay", "nics: {eth0: rack}", "nics: {eth0: {segment: rack, reorder: 0.1}}", false},
	{"reorder above 1", "nics: {eth0: rack}", "nics: {eth0: {segment: rack, delay: 5ms, reorder: 2}}", true},
	{"loss not a number", "nics: {eth0: rack}", "nics: {eth0: {segment: rack, loss: .nan}}", false},

	{"network without an interface", "    nic: eth1\n", "", true},
	{"network's interface missing on a host", "nic: eth1", "nic: eth2", false},
	{"containers of an unknown network", "containers: {blue: 3, green: 1}", "containers: {blue: 3, gren: 1}", false},
	{"containers negative", "containers: {blue: 3, green: 1}", "containers: {blue: -3}", false},
	{"containers exceed a segment", "containers: {blue: 3, green: 1}", "containers: {blue: 255}", false},
	{"containers exceed a private block", "containers: {blue: 3, green: 1}", "containers: {blue: 3, green: 251}", false},
}

// Every bad file is answered with its place, what is wrong and what would be right.
func TestReadRefuses(t *testing.T) {
	var b strings.Builder
	for _, c := range edits {
		got, err := topology.Read("lab.yaml", c.apply(t))
		if err == nil {
			t.Errorf("%s: accepted", c.name)
			continue
		}
		if got.Name != "" || got.Hosts != nil {
			t.Errorf("%s: a topology beside the error: %+v", c.name, got)
		}
		var e *topology.Error
		if !errors.As(err, &e) {
			t.Errorf("%s: error of type %T: %v", c.name, err, err)
			continue
		}
		if e.File != "lab.yaml" || e.Line < 1 || e.Column < 1 || e.Problem == "" || e.Remedy == "" || !strings.HasSuffix(e.Excerpt, "^") {
			t.Errorf("%s: incomplete: %#v", c.name, e)
		}
		fmt.Fprintf(&b, "# %s\n%v\n\n", c.name, err)
	}
	golden(t, "testdata/refused.txt", b.String())
}

func TestReadImpairments(t *testing.T) {
	const file = "topologies/one-host.yaml"
	data := strings.Replace(string(source(t, file)), "eth0: rack", "eth0: {segment: rack, rate: 2.5Mbit/s, delay: 5ms, jitter: 1ms, loss: 0.01, reorder: 0.25}", 1)
	lab, err := topology.Read(file, []byte(data))
	if err != nil {
		t.Fatal(err)
	}
	want := topology.NIC{Segment: "rack", Rate: 2_500_000, Delay: "5ms", Jitter: "1ms", Loss: 0.01, Reorder: 0.25}
	if diff := cmp.Diff(want, lab.Hosts["h1"].NICs["eth0"]); diff != "" {
		t.Fatalf("-want +got:\n%s", diff)
	}
	p, err := topology.NewPlan(lab)
	if err != nil {
		t.Fatal(err)
	}
	// Both ends of the cable, so that it holds in both directions.
	var got []string
	for _, s := range topology.Underlay(p) {
		if s.Shape != nil {
			got = append(got, s.String())
		}
	}
	if diff := cmp.Diff([]string{
		"tc -n tor qdisc add dev h1-eth0 root netem delay 5000us 1000us loss 1% reorder 25% rate 2500kbit",
		"tc -n h1 qdisc add dev eth0 root netem delay 5000us 1000us loss 1% reorder 25% rate 2500kbit",
	}, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// A topology is stored in results as JSON, and comes back as it was.
// A fabric's mapping is the fabric of a name, and the name is what it is called.
func TestReadFabrics(t *testing.T) {
	for name, mapping := range map[string]string{
		"open": "{kind: open}", "open-reflective": "{kind: open, reflective: true}", "open-snooping": "{snooping: true}", "trunk": "{tagged: true}",
		"port-security": "{kind: port-security}", "port-security-4-protect": "{kind: port-security, macs: 4, violation: protect}",
		"port-security-shutdown-1m30s-tagged": "{kind: port-security, violation: shutdown, recovery: 1m30s, tagged: true}",
		"nic-512":                             "{kind: nic, filters: 512}", "nic-8-promisc": "{kind: nic, filters: 8, overflow: promisc}",
		"routed-bgp": "{kind: routed-bgp}", "vpc": "{kind: vpc}",
	} {
		var said []topology.Fabric
		for _, text := range []string{name, mapping} {
			lab, err := topology.Read("lab.yaml", []byte(strings.Replace(string(source(t, "topologies/two-hosts.yaml")), "name: two-hosts", "name: two-hosts\nfabric: "+text, 1)))
			if err != nil {
				t.Fatal(err)
			}
			said = append(said, lab.Fabric)
		}
		if said[0] != said[1] || said[1].String() != name {
			t.Errorf("%s is %#v, and %s %#v, called %s", name, said[0], mapping, said[1], said[1])
		}
	}
}

func TestTopologyJSON(t *testing.T) {
	for _, name := range files(t) {
		lab, err := topology.Read(name, source(t, name))
		if err != nil {
			t.Fatal(err)
		}
		data, err := json.Marshal(lab)
		if err != nil {
			t.Fatal(err)
		}
		var again topology.Topology
		if err := json.Unmarshal(data, &again); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(lab, again, addresses); diff != "" {
			t.Errorf("%s: -before +after:\n%s", name, diff)
		}
	}
}

func TestBitRate(t *testing.T) {
	for text, want := range map[string]topology.BitRate{
		"100Mbit/s": 100e6, "1Gbit/s": 1e9, "0.7Gbit/s": 700e6, "64kbit/s": 64e3, "9600bit/s": 9600, "9600": 9600, "0": 0,
		"9007199254740991": 1<<53 - 1,
	} {
		var got, again topology.BitRate
		if err := got.UnmarshalText([]byte(text)); err != nil || got != want {
			t.Errorf("%s is %d, %v; want %d", text, uint64(got), err, uint64(want))
		}
		if err := again.UnmarshalText([]byte(got.String())); err != nil || again != got {
			t.Errorf("%s prints as %s, which is %d, %v", text, got, uint64(again), err)
		}
	}
	for _, text := range []string{"", "-1", "1e9", "1/3", "1Mbit", "1 Mbit/s", "0.5", "9007199254740992", "1Tbit/s", "NaN"} {
		var got topology.BitRate
		if err := got.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q is %s, want an error", text, got)
		}
	}
}
