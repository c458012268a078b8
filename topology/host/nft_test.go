package host

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"github.com/modebench/modebench/topology"
	"github.com/modebench/modebench/topology/lab"
	"github.com/modebench/modebench/topology/space"
)

// fresh is a new namespace whose loopback is up.
func fresh(t *testing.T) *space.Space {
	t.Helper()
	s, err := space.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	err = s.Do(func() error {
		return netlink.LinkSetUp(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: 1}})
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func match(words ...string) []topology.Match {
	var all []topology.Match
	for _, w := range words {
		field, value, not := strings.Cut(w, " != ")
		if !not {
			field, value, _ = strings.Cut(w, " == ")
		}
		all = append(all, topology.Match{Field: field, Value: value, Not: not})
	}
	return all
}

func rule(kind, comment string, words ...string) topology.Rule {
	return topology.Rule{Match: match(words...), Verdict: topology.Verdict{Kind: kind}, Comment: comment}
}

func nat(kind, to string, random bool, words ...string) topology.Rule {
	v := topology.Verdict{Kind: kind, FullyRandom: random}
	if to != "" {
		v.To = netip.MustParseAddrPort(to)
	}
	return topology.Rule{Match: match(words...), Verdict: v}
}

// samples are tables of every family that together use each field and verdict.
var samples = []topology.Table{
	{Family: "inet", Name: "broad", Chains: []topology.Chain{
		{Name: "in", Type: "filter", Hook: "input", Priority: 10, Policy: "drop", Rules: []topology.Rule{
			rule("accept", "known", "ct state == established,related"),
			rule("drop", "", "ct state == invalid"),
			rule("count", "", "ct state != new,untracked"),
			rule("accept", "translated", "ct status == dnat"),
			rule("count", "", "ct status != dnat"),
			rule("return", "", "iifname == eth*"),
			rule("count", "", "iifname != lo", "oifname == br0"),
			rule("count", "", "ip saddr == 10.0.0.1", "ip daddr == 10.0.16.0/20"),
			rule("count", "", "ip saddr != 10.0.0.0/8"),
			rule("count", "", "ip frag-off != 0x0/0x3fff"),
			rule("count", "", "ip frag-off == 0x4000"),
			rule("count", "", "ip6 saddr == fd00::1", "ip6 daddr != fd00::/61"),
			rule("count", "", "ether daddr == 02:00:00:00:00:02", "ether saddr == 02:00:00:00:00:01"),
			rule("count", "", "tcp dport == 80", "ip daddr == 192.0.2.1"),
			rule("count", "", "udp sport != 53", "udp dport == 5353"),
			rule("count", "", "meta l4proto == tcp", "tcp sport == 1024", "th dport == 443"),
			rule("count", "", "meta l4proto != udp"),
			rule("count", "", "meta nfproto == ipv6"),
			rule("count", "", "meta nfproto != ipv4"),
			rule("count", "", "fib daddr type == local"),
			{Match: match("ip daddr == 0.0.0.0/0"), Verdict: topology.Verdict{Kind: "jump", Chain: "more"}},
		}},
		{Name: "more", Rules: []topology.Rule{rule("reject", "")}},
		{Name: "pre", Type: "nat", Hook: "prerouting", Priority: -100, Rules: []topology.Rule{
			nat("dnat", "10.0.0.2:8080", false, "fib daddr type == local", "tcp dport == 80"),
			nat("dnat", "[fd00::2]:53", false, "udp dport == 53"),
			nat("dnat", "10.0.0.3:0", false, "ip daddr == 192.0.2.3"),
			nat("dnat", "10.0.0.4:0", false, "udp dport == 81", "numgen inc mod 3 == 0"),
			nat("dnat", "10.0.0.5:0", false, "udp dport == 81", "numgen random mod 2 != 1"),
			nat("dnat", "10.0.0.6:0", false, "tcp dport == 82", "jhash ip saddr mod 3 seed 0x1 == 2"),
			nat("dnat", "[fd00::6]:0", false, "tcp dport == 82", "jhash ip6 saddr mod 9999 seed 0x1 == 9998"),
		}},
		{Name: "post", Type: "nat", Hook: "postrouting", Priority: 100, Rules: []topology.Rule{
			nat("masquerade", "", true, "ip saddr == 10.0.0.0/24"),
			nat("snat", "[fd00::9]:0", false, "ip6 saddr == fd00::/64"),
			nat("snat", "192.0.2.9:0", true, "ip saddr == 10.1.0.0/24"),
			nat("masquerade", "", false),
		}},
	}},
	{Family: "ip", Name: "four", Chains: []topology.Chain{
		{Name: "through", Type: "filter", Hook: "forward", Rules: []topology.Rule{
			rule("reject", "", "ip saddr == 10.0.0.1", "tcp dport == 80"),
			rule("count", "", "ether daddr == 02:00:00:00:00:02"),
		}},
		{Name: "marks", Type: "route", Hook: "output", Priority: -150},
	}},
	{Family: "ip6", Name: "six", Chains: []topology.Chain{
		{Name: "through", Type: "filter", Hook: "forward", Rules: []topology.Rule{
			rule("reject", "", "ip6 saddr == fd00::1", "udp dport == 80"),
			rule("count", "", "meta l4proto == ipv6-icmp"),
		}},
	}},
	{Family: "arp", Name: "resolve", Chains: []topology.Chain{
		{Name: "in", Type: "filter", Hook: "input", Rules: []topology.Rule{
			rule("drop", "", "iifname == lo", "ether saddr == 02:00:00:00:00:01"),
		}},
	}},
	{Family: "bridge", Name: "switch", Chains: []topology.Chain{
		{Name: "through", Type: "filter", Hook: "forward", Priority: -200, Rules: []topology.Rule{
			rule("drop", "one address", "iifname == p1", "ether saddr != 02:00:00:00:00:01"),
			rule("count", "", "ip saddr == 10.0.0.1", "tcp dport == 80"),
			rule("count", "", "ip6 daddr == fd00::1"),
			rule("drop", "broadcast", "ether daddr == ff:ff:ff:ff:ff:ff", "ether type != arp"),
		}},
	}},
	{Family: "bridge", Name: "secure", Sets: []topology.Set{
		{Name: "p1", Size: 2, Dynamic: true, Values: []string{"02:00:00:00:00:01"}},
		{Name: "every", Size: 9, Dynamic: true},
		{Name: "ranges", Interval: true},
	}, Chains: []topology.Chain{
		{Name: "ports", Type: "filter", Hook: "prerouting", Priority: -300, Rules: []topology.Rule{
			rule("accept", "", "iifname == p1", "ether saddr == @p1"),
			rule("drop", "elsewhere", "ether saddr != @every"),
			{Match: []topology.Match{{Field: "ether saddr", Value: "@p1,@every", Learn: true}}, Verdict: topology.Verdict{Kind: "accept"}},
			rule("count", "", "ether daddr == @ranges", "ether daddr == 01:00:00:00:00:00/01:00:00:00:00:00"),
		}},
	}},
	{Family: "netdev", Name: "port", Chains: []topology.Chain{
		{Name: "rx", Type: "filter", Hook: "ingress", Device: "lo", Priority: -500, Rules: []topology.Rule{
			rule("drop", "", "ip6 daddr == fd00::5", "udp dport == 53"),
			rule("count", "", "ether saddr == 02:00:00:00:00:01", "ip daddr == 10.0.0.0/8"),
		}},
	}},
}

// nft(8), an implementation of its own, must read the samples as it reads the same tables written by a person.
func TestTablesAsNftListsThem(t *testing.T) {
	nft, err := exec.LookPath("nft")
	if err != nil {
		unable(t, "nft(8) is not installed")
	}
	var want, got []byte
	inside(t, func() error {
		if out, err := exec.Command(nft, "-f", "testdata/ruleset.nft").CombinedOutput(); err != nil {
			return fmt.Errorf("%s %w", out, err)
		}
		want, err = exec.Command(nft, "list", "ruleset").Output()
		return err
	})
	inside(t, func() error {
		for _, s := range samples {
			if err := addTable(s); err != nil {
				return err
			}
		}
		if got, err = exec.Command(nft, "list", "ruleset").Output(); err != nil {
			return err
		}
		for _, s := range samples {
			if err := removeTable(s); err != nil {
				return err
			}
		}
		if left, err := exec.Command(nft, "list", "ruleset").Output(); err != nil || len(left) > 0 {
			return fmt.Errorf("after removal: %s %w", left, err)
		}
		return nil
	})
	if d := cmp.Diff(string(want), string(got)); d != "" || len(got) == 0 {
		t.Errorf("ruleset (-want +got):\n%s", d)
	}
}

func TestRulesCount(t *testing.T) {
	table := topology.Table{Family: "inet", Name: "t", Chains: []topology.Chain{
		{Name: "out", Type: "filter", Hook: "output", Rules: []topology.Rule{
			rule("count", "hit", "ip daddr == 127.0.0.0/9", "udp dport == 4000"),
			rule("count", "not loopback", "oifname != l*"),
			rule("count", "other port", "udp dport == 4001"),
			rule("count", "six", "ip6 daddr == ::1"),
			rule("count", "new", "ct state == new"),
			rule("count", "not udp", "meta l4proto != udp"),
		}},
	}}
	inside(t, func() error {
		if err := addTable(table); err != nil {
			return err
		}
		c, err := net.Dial("udp", "127.0.0.1:4000")
		if err != nil {
			return err
		}
		defer c.Close()
		if _, err := c.Write(make([]byte, 72)); err != nil {
			return err
		}
		// The port is closed: an ICMP error goes back on the same path.
		got, err := rules()
		if err != nil {
			return err
		}
		want := []lab.Rule{
			{Comment: "hit", Packets: 1, Bytes: 100},
			{Comment: "not loopback"},
			{Comment: "other port"},
			{Comment: "six"},
			{Comment: "new", Packets: 1, Bytes: 100},
			{Comment: "not udp", Packets: 1, Bytes: 128},
		}
		for i := range want {
			want[i].Family, want[i].Table, want[i].Chain = "inet", "t", "out"
		}
		if d := cmp.Diff(want, got); d != "" {
			return fmt.Errorf("counters (-want +got):\n%s", d)
		}
		return nil
	})
}

func TestRulesThatTranslateAreKnown(t *testing.T) {
	table := topology.Table{Family: "inet", Name: "t", Chains: []topology.Chain{
		{Name: "post", Type: "nat", Hook: "postrouting", Priority: 100, Rules: []topology.Rule{
			nat("snat", "192.0.2.9:0", false, "ip saddr == 10.1.0.0/24"), nat("masquerade", "", false), rule("count", ""),
		}},
		{Name: "pre", Type: "nat", Hook: "prerouting", Priority: -100, Rules: []topology.Rule{
			nat("dnat", "10.0.0.2:80", false, "tcp dport == 80"), rule("accept", ""),
		}},
	}}
	inside(t, func() error {
		if err := addTable(table); err != nil {
			return err
		}
		all, err := rules()
		var got []bool
		for _, r := range all {
			got = append(got, r.NAT)
		}
		if d := cmp.Diff([]bool{true, true, false, true, false}, got); d != "" {
			return fmt.Errorf("(-want +got):\n%s", d)
		}
		return err
	})
}

func TestTableTwice(t *testing.T) {
	inside(t, func() error {
		if err := addTable(samples[0]); err != nil {
			return err
		}
		before, err := rules()
		if err != nil {
			return err
		}
		other := topology.Table{Family: samples[0].Family, Name: samples[0].Name}
		if err := addTable(other); !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("second table: %w", err)
		}
		after, err := rules()
		if err != nil {
			return err
		}
		if d := cmp.Diff(before, after); d != "" || len(before) == 0 {
			return fmt.Errorf("rules changed:\n%s", d)
		}
		if err := removeTable(samples[0]); err != nil {
			return err
		}
		if err := removeTable(samples[0]); !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("second removal: %w", err)
		}
		return nil
	})
}

// As many rules as fill buffers of the usual size many times over.
func TestLargeTable(t *testing.T) {
	table := topology.Table{Family: "inet", Name: "large", Chains: []topology.Chain{{Name: "c"}}}
	for i := range 500 {
		table.Chains[0].Rules = append(table.Chains[0].Rules,
			rule("accept", fmt.Sprint("rule ", i), fmt.Sprintf("ip saddr == 10.0.%d.%d", i/256, i%256), "tcp dport == 80"))
	}
	inside(t, func() error {
		if err := addTable(table); err != nil {
			return err
		}
		got, err := rules()
		if err != nil || len(got) != len(table.Chains[0].Rules) || got[499].Comment != "rule 499" {
			return fmt.Errorf("%d rules, %w", len(got), err)
		}
		return nil
	})
}

func TestWrongTables(t *testing.T) {
	in := func(family string, rules ...topology.Rule) topology.Table {
		return topology.Table{Family: family, Name: "t", Chains: []topology.Chain{
			{Name: "c", Type: "filter", Hook: "input", Rules: rules},
		}}
	}
	for _, c := range []struct {
		want  string
		table topology.Table
	}{
		{`table ipx t: family "ipx": want one of arp, bridge, inet, ip, ip6, netdev`, in("ipx")},
		{
			`table inet t: chain c: rule 2 "second": tcp port "80": no such field: want one of @th,64,8, ct state`,
			in("inet", rule("accept", ""), rule("accept", "second", "tcp port == 80")),
		},
		{`chain c: rule 1: ip saddr "fd00::1": want an IPv4 address or prefix`, in("inet", rule("drop", "", "ip saddr == fd00::1"))},
		{`ip frag-off "0/MF": want a number of 16 bits`, in("ip", rule("count", "", "ip frag-off == 0/MF"))},
		{`ip6 saddr "10.0.0.0/8": want an IPv6 address or prefix`, in("inet", rule("drop", "", "ip6 saddr == 10.0.0.0/8"))},
		{`ip6 saddr "fd00::1": is of ip6, but here packets are ip`, in("ip", rule("drop", "", "ip6 saddr == fd00::1"))},
		{`ip saddr "10.0.0.1": is of ip, but here packets are arp`, in("arp", rule("drop", "", "ip saddr == 10.0.0.1"))},
		{`udp dport "1": is of udp, but here packets are tcp`, in("inet", rule("drop", "", "tcp dport == 1", "udp dport == 1"))},
		{`tcp dport "65536": want a port`, in("inet", rule("drop", "", "tcp dport == 65536"))},
		{`ct state "old": want a comma-separated list of established`, in("inet", rule("drop", "", "ct state == old"))},
		{`numgen inc mod 3 "3": want a part, 0 to 2`, in("inet", rule("drop", "", "numgen inc mod 3 == 3"))},
		{`numgen inc mod 0 "0": no such field`, in("inet", rule("drop", "", "numgen inc mod 0 == 0"))},
		{`iifname "abcdefghijklmnop": want a device name`, in("inet", rule("drop", "", "iifname == abcdefghijklmnop"))},
		{`ether saddr "1:2": want an Ethernet address`, in("inet", rule("drop", "", "ether saddr == 1:2"))},
		{`meta nfproto "ipv4": is of inet tables`, in("ip", rule("drop", "", "meta nfproto == ipv4"))},
		{`verdict: verdict "": want accept`, in("inet", topology.Rule{})},
		{
			`dnat: 10.0.0.1:80: a port needs a match`,
			topology.Table{Family: "ip", Name: "t", Chains: []topology.Chain{
				{Name: "c", Rules: []topology.Rule{nat("dnat", "10.0.0.1:80", false)}},
			}},
		},
		{`chain c: rule 1: masquerade: is of nat chains, not of filter`, in("inet", nat("masquerade", "", false))},
		{`jump "nowhere": no such chain`, in("inet", topology.Rule{Verdict: topology.Verdict{Kind: "jump", Chain: "nowhere"}})},
		{
			`chain c: hook "ingress": want one of forward, input, output`,
			topology.Table{Family: "arp", Name: "t", Chains: []topology.Chain{{Name: "c", Hook: "ingress"}}},
		},
		// These the kernel refuses.
		{`table arp t: chain c: rule 2 "here": no such file or directory`, in("arp", rule("accept", ""), rule("reject", "here"), rule("drop", ""))},
		{
			`table ip t: chain second: `,
			topology.Table{Family: "ip", Name: "t", Chains: []topology.Chain{
				{Name: "first"}, {Name: "second", Type: "route", Hook: "input"}, {Name: "third"},
			}},
		},
	} {
		inside(t, func() error {
			err := addTable(c.table)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got  %v\nwant %s", err, c.want)
			}
			if has, err := hasTable(c.table); err != nil || has {
				t.Errorf("a refused table is there: %v, %v", has, err)
			}
			return nil
		})
	}
}
