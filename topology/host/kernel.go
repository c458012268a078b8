package host

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/modebench/modebench/topology"
	"github.com/modebench/modebench/topology/space"
)

// kernels are the experiments that tell whether a kernel has something, by its name.
var kernels = map[string][]topology.Step{
	"underlay": {
		{Link: &topology.Link{Name: "br", Kind: "bridge"}},
		{Link: &topology.Link{Name: "a", Kind: "veth", PeerName: "b", Master: "br"}},
	},
	"veth":   {{Link: &topology.Link{Name: "a", Kind: "veth", PeerName: "b"}}},
	"bridge": {{Link: &topology.Link{Name: "br", Kind: "bridge"}}},
	"macvlan": {
		{Link: &topology.Link{Name: "a", Kind: "veth", PeerName: "b"}},
		{Link: &topology.Link{Name: "m", Kind: "macvlan", Parent: "a", ParentMode: "bridge"}},
	},
	"ipvlan": {
		{Link: &topology.Link{Name: "a", Kind: "veth", PeerName: "b"}},
		{Link: &topology.Link{Name: "i", Kind: "ipvlan", Parent: "a", ParentMode: "l2"}},
	},
	"802.1q": {
		{Link: &topology.Link{Name: "a", Kind: "veth", PeerName: "b"}},
		{Link: &topology.Link{Name: "a.10", Kind: "vlan", Parent: "a", VID: 10}},
	},
	"vxlan": {{Link: &topology.Link{Name: "v", Kind: "vxlan", Local: netip.AddrFrom4([4]byte{127, 0, 0, 1}), VNI: 1, Port: 4789}}},
	"ipip":  {{Link: &topology.Link{Name: "t", Kind: "ipip", Local: netip.AddrFrom4([4]byte{127, 0, 0, 1})}}},
	"tun":   {{Link: &topology.Link{Name: "t", Kind: "tun"}}},
	"vlan-filtering": {
		{Link: &topology.Link{Name: "br", Kind: "bridge", VLANFiltering: true}},
		{Link: &topology.Link{Name: "a", Kind: "veth", PeerName: "b", Master: "br"}},
		{VLAN: &topology.VLAN{Link: "a", VID: 10, Untagged: true}},
	},
	"fdb-limit": {{Link: &topology.Link{Name: "br", Kind: "bridge", MaxLearned: 2}}},
	"nftables": {{Table: &topology.Table{Family: "inet", Name: "t", Chains: []topology.Chain{{
		Name: "c", Type: "filter", Hook: "input",
		Rules: []topology.Rule{{Match: []topology.Match{{Field: "ct state", Value: "new"}}, Verdict: topology.Verdict{Kind: "accept"}}},
	}}}}},
	"nft-nat":     {natTable("ip"), natTable("ip6")},
	"nft-balance": {balanceTable("ip"), balanceTable("ip6")},
	"engine":      {natTable("ip"), natTable("ip6")}, // of its iptables: what these want besides is loaded when they ask
	"nft-bridge": {{Table: &topology.Table{Family: "bridge", Name: "t", Chains: []topology.Chain{{
		Name: "c", Type: "filter", Hook: "prerouting",
		Rules: []topology.Rule{{Match: []topology.Match{{Field: "iifname", Value: "a"}, {Field: "ether type", Value: "arp"}}, Verdict: topology.Verdict{Kind: "accept"}}},
	}}}}},
	"nft-sets": {{Table: &topology.Table{
		Family: "bridge", Name: "t", Sets: []topology.Set{{Name: "s", Size: 2, Dynamic: true, Values: []string{"02:00:00:00:00:01"}}, {Name: "r", Interval: true}},
		Chains: []topology.Chain{{Name: "c", Type: "filter", Hook: "prerouting", Rules: []topology.Rule{
			{Match: []topology.Match{{Field: "ether saddr", Value: "@s"}}, Verdict: topology.Verdict{Kind: "accept"}},
			{Match: []topology.Match{{Field: "ether daddr", Value: "@r"}}, Verdict: topology.Verdict{Kind: "accept"}},
			{Match: []topology.Match{{Field: "ether saddr", Value: "@s", Learn: true}}, Verdict: topology.Verdict{Kind: "accept"}},
		}}},
	}}},
	"nft-netdev": {
		{Link: &topology.Link{Name: "a", Kind: "veth", PeerName: "b"}},
		{Table: &topology.Table{Family: "netdev", Name: "t", Chains: []topology.Chain{
			{Name: "in", Type: "filter", Hook: "ingress", Device: "a"}, {Name: "out", Type: "filter", Hook: "egress", Device: "a"},
		}}},
	},
	"tbf": {
		{Link: &topology.Link{Name: "a", Kind: "veth", PeerName: "b"}},
		{Shape: &topology.Shape{Link: "a", Rate: 1e9}},
	},
	"ifb": {
		{Link: &topology.Link{Name: "a", Kind: "veth", PeerName: "b"}},
		{Link: &topology.Link{Name: "i", Kind: "ifb"}},
		{Redirect: &topology.Redirect{Link: "a", To: "i"}},
	},
	"netem": {
		{Link: &topology.Link{Name: "a", Kind: "veth", PeerName: "b"}},
		{Shape: &topology.Shape{Link: "a", Delay: time.Millisecond}},
	},
}

func natTable(family string) topology.Step {
	return topology.Step{Table: &topology.Table{Family: family, Name: "t", Chains: []topology.Chain{{
		Name: "c", Type: "nat", Hook: "postrouting", Priority: 100,
		Rules: []topology.Rule{{Match: []topology.Match{{Field: "oifname", Value: "a"}}, Verdict: topology.Verdict{Kind: "masquerade"}}},
	}}}}
}

// Features are the names of all that Kernel can try.
func Features() []string { return slices.Sorted(maps.Keys(kernels)) }

func balanceTable(family string) topology.Step {
	one := topology.Verdict{Kind: "dnat", To: netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), 0)}
	if family == "ip6" {
		one.To = netip.AddrPortFrom(netip.IPv6Loopback(), 0)
	}
	return topology.Step{Table: &topology.Table{Family: family, Name: "t", Chains: []topology.Chain{{
		Name: "c", Type: "nat", Hook: "prerouting", Priority: -100,
		Rules: []topology.Rule{
			{Match: []topology.Match{{Field: "fib daddr type", Value: "local"}, {Field: "numgen inc mod 2", Value: "0"}}, Verdict: one},
			{Match: []topology.Match{{Field: "jhash " + family + " saddr mod 2 seed 0x1", Value: "0"}}, Verdict: one},
		},
	}}}}
}

// Kernel tries what it is asked for in an empty namespace, and returns what cannot be had with the kernel's words.
// It changes nothing. The names are those of modes.Kernel and of Plan.Needs: underlay for what
// every lab is made of, 802.1q and vlan-filtering for trunks, nft-bridge and nft-sets for fabrics that filter, fdb-limit for one whose table is small, nft-balance for what divides connections, engine for what one of Docker's asks for, tbf and netem for impairments,
// nft-netdev for policies at interfaces, and ifb for rates of what comes in.
func Kernel(names []string) (missing map[string]error, err error) {
	missing = map[string]error{}
	for _, name := range names {
		steps, ok := kernels[name]
		if !ok {
			return nil, fmt.Errorf("kernel feature %q: no experiment tells whether it is there", name)
		}
		s, err := space.New()
		if err != nil {
			return nil, err
		}
		h := &Host{spaces: map[string]*space.Space{"": s}, shared: map[string]bool{}}
		_ = h.walk(func(w *walk) error {
			for _, step := range steps {
				step.On = "here"
				if _, err := w.do(step); err != nil {
					missing[name] = fmt.Errorf("%s: %w", step, err)
					return err
				}
			}
			return nil
		})
		if h.own != nil {
			h.own.close()
		}
		if err := s.Close(); err != nil {
			return nil, err
		}
	}
	return missing, nil
}
