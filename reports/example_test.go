package reports

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"time"
)

// The example is synthesised: nothing in it was observed or measured. It exists so that documents can be tested and looked
// at without a run, has the shape of a real one, and says in its notes what it is.

var exampleModes = []Mode{
	{Name: "none", Doc: "A network stack of its own with loopback and nothing else.", GoodFor: "batch work and for staging a connection that comes later", BadFor: "anything that talks to anyone", Host: &Counts{}},
	{Name: "host", Doc: "The container shares the host's network stack.", GoodFor: "the speed of the metal and for agents that must see the host's interfaces", BadFor: "two services that want one port, and for isolation", Host: &Counts{Hops: 1, MACsPort: 1}},
	{Name: "container", Doc: "The container joins another container's network stack, as in a pod.", GoodFor: "a helper that talks to its main container over loopback", BadFor: "containers that must not see each other's ports", Host: &Counts{Links: 2, Routes: 3, Rules: 9, Sysctls: 6, Hops: 2, MACsPort: 1}},
	{Name: "bridge", Doc: "A bridge on each host, address translation on the way out, port mapping on the way in.", GoodFor: "a single host with many services that publish a few ports each", BadFor: "traffic between hosts, multicast, and for seeing who calls from outside without translation", Host: &Counts{Links: 5, Routes: 2, Rules: 17, Sysctls: 9, Hops: 2, MACsPort: 1}},
	{Name: "ptp", Doc: "A routed pair of devices for each container, without a bridge.", GoodFor: "many containers on a host with nothing shared at layer 2", BadFor: "broadcast and multicast between containers", Host: &Counts{Links: 4, Routes: 8, Rules: 14, Sysctls: 9, Hops: 2, MACsPort: 1}},
	{Name: "macvlan-private", Doc: "A MAC address for each container on the host's own network; siblings never talk.", GoodFor: "appliances that belong on the LAN and must not see their siblings", BadFor: "switches that allow one address a port", Host: &Counts{Links: 4, Routes: 0, Rules: 0, Sysctls: 2, Hops: 1, MACsPort: 5}},
	{Name: "macvlan-vepa", Doc: "As private, but siblings talk through a switch that reflects.", GoodFor: "networks where the switch must see and police every frame", BadFor: "ordinary switches, which do not reflect", Host: &Counts{Links: 4, Sysctls: 2, Hops: 1, MACsPort: 5}},
	{Name: "macvlan-bridge", Doc: "A MAC address for each container on the host's own network; siblings talk within the host.", GoodFor: "containers that are citizens of the LAN, with multicast and without translation", BadFor: "talking to their own host, clouds, and for switches that count addresses", Host: &Counts{Links: 4, Sysctls: 2, Hops: 1, MACsPort: 5}},
	{Name: "macvlan-passthru", Doc: "One container takes over the host's device, MAC address included.", GoodFor: "a router or firewall in a container", BadFor: "more than one container, and for a host that needs the device itself", Host: &Counts{Links: 1, Sysctls: 2, Hops: 1, MACsPort: 1}},
}

// One line a feature: name, group, what is asked, and for each mode in order w(orks), b(locked) or - (not applicable).
const exampleFeatures = `
same-host|reach|Does one container reach another on its host?|bwwwwbbw-
same-host-v6|reach|The same with IPv6.|bwwwwbbw-
cross-host|reach|Does a container reach one on another host at its own address?|bwbbbwwww
cross-host-v6|reach|The same with IPv6.|bwbbbwwww
container-to-host|reach|Does a container reach its own host?|bwwwwbbbb
host-to-container|reach|Does the host reach its own container?|bwwwwbbbb
external-to-container|reach|Does a machine outside reach the container's own address?|bwbbbwwww
external-to-container-v6|reach|The same with IPv6.|bwbbbwwww
container-to-external|reach|Does a container reach a machine outside?|bwwwwwwww
container-to-external-v6|reach|The same with IPv6.|bwwwwwwww
loopback|reach|Do the processes of a container reach each other over loopback?|wwwwwwwww
pod-loopback|reach|Do two containers of a pod reach each other over loopback?|bwwwwwwww
broadcast-same-host|reach|Does a broadcast reach the other containers of the host?|b-bwbbbw-
broadcast-from-outside|reach|Does a broadcast of the segment reach the container?|bwbbbwwww
multicast-same-host|reach|Does a multicast datagram reach a member on the same host?|b-bwbbbw-
multicast-cross-host|reach|Does a multicast datagram reach a member on another host?|bwbbbwwww
own-address|addresses|Does a container have an address of its own?|bbbwwwwww
source-inbound|addresses|Does the container see the real address of a client outside?|-wwwwwwww
source-outbound|addresses|Does a machine outside see the container's own address?|-wbbbwwww
own-mac|addresses|Is the container's own MAC address on the wire?|bbbbbwwwb
overlapping-addresses|addresses|May containers on two hosts have the same address?|wbbwwbbbb
duplicate-v6|addresses|Is a duplicate IPv6 address found?|-wbwbwww-
slaac|addresses|Does a container get an address from router advertisements of the segment?|bwbbbwwww
ttl-same-host|packets|Does a packet between containers keep its TTL?|-wwwb--w-
ttl-cross-host|packets|Does a packet between hosts keep its TTL?|-w---wwww
igmp-report|packets|Does joining a group send an IGMP report on the segment?|bwbbbwwww
mld-report|packets|Does joining a group send an MLD report on the segment?|bwbbbwwww
gratuitous-arp|packets|Does a new container announce itself on the segment?|b-bbbwwww
path-mtu|packets|Does a sender learn of a smaller MTU on the path?|-wwwwwwww
mtu-above-parent|packets|Is an MTU above that of the parent refused?|---wwbbbb
df-honoured|packets|Is a packet that must not be fragmented left whole?|-wwwwwwww
isolated-networks|isolation|Are two networks on a host kept apart?|w-wwwwwww
unpublished-port|isolation|Is a port that was not published closed to the outside?|wbwwwbbbb
sees-host-interfaces|isolation|Is the container kept from seeing the host's interfaces?|wbwwwwwww
host-filter|isolation|Does the host's packet filter see the container's traffic?|-wwwwbbbb
port-map-tcp|services|Does a published TCP port of the host lead to the container?|---ww----
port-map-udp|services|Does a published UDP port of the host lead to the container?|---ww----
port-conflict|services|May two containers listen on the same port?|wbbwwwwww
hairpin-own|services|Does a container reach itself through its published port?|---ww----
hairpin-sibling|services|Does a container reach its sibling through a published port?|---ww----
moved-container|operations|Is a container that moved with its address found again?|-bb--wwwb
link-loss|operations|Is traffic back within 3 s after the link returned?|-wwwwwwww
sibling-link-loss|operations|Does same-host traffic survive the loss of the link?|-wwww--b-
tor-restart|operations|Is traffic back after the switch restarted?|-wwwwwwww
attach-running|operations|Can a running container be attached?|w--wwwwww
leftovers|operations|Does the host look as before after the last container left?|wwwwwwwww
own-macs|limits|Is one MAC address at the switch port enough?|wwwwwbbbw
second-container|limits|Can a second container be added on the same device?|wwwwwwwwb
`

var exampleWords = map[byte]string{'w': Works, 'b': Blocked, '-': NotApplicable}

func exampleRun() Results {
	rng := rand.New(rand.NewPCG(1, 2))
	fidelity := Fidelity{Kernel: "6.18.0-example", Driver: "netns"}
	res := Results{Schema: Schema, Run: Run{
		Version: "0.1.0", Command: []string{"run"}, Seed: 42, Started: time.Date(2026, 1, 2, 15, 4, 5, 0, time.UTC), Seconds: 74.2,
		Complete: true, Topology: exampleGraph(nil),
		Source:  "name: two-hosts\nfabric: open\nsegments: {rack: {v4: 10.9.0.0/24, v6: fd09::/64, mtu: 1500}}\ntors: {tor: {joins: [rack]}}\nhosts:\n  h1: {nics: {eth0: rack}, containers: 4}\n  h2: {nics: {eth0: rack}, containers: 4}\nexternal: {x: {nics: {eth0: rack}}}\n",
		Machine: Machine{OS: "Example GNU/Linux", Kernel: "6.18.0-example", Arch: "amd64", Model: "Example Processor", CPUs: 2, MemoryBytes: 8 << 30, Rootless: true},
		Phases:  []Phase{{"probe", 0.3}, {"start labs", 1.9}, {"conformance", 13.1}, {"throughput", 56.4}, {"nat", 2.3}, {"report", 0.2}},
		Notes:   []string{"Example data: synthesised by a test, nothing was observed or measured."},
	}}
	for i, m := range exampleModes {
		m.Implementation = "kernel"
		m.GoodFor, m.BadFor = sentence(m.GoodFor), sentence(m.BadFor)
		m.Graph = exampleGraph(&exampleModes[i])
		m.Wiring = fmt.Sprintf("# h1\nip link add link eth0 name %s0 type dummy\nip addr add 10.9.0.11/24 dev %s0\nip link set %s0 up\n# h2\nip link add link eth0 name %s0 type dummy\nip addr add 10.9.0.21/24 dev %s0\nip link set %s0 up\n", "x", "x", "x", "x", "x", "x")
		res.Modes = append(res.Modes, m)
	}
	claimOf := map[string]string{"external-to-container": "C23", "container-to-host": "C58", "own-mac": "C53", "port-conflict": "C35", "own-macs": "C57"}
	cells := map[string][]string{}
	for _, line := range strings.Split(strings.TrimSpace(exampleFeatures), "\n") {
		part := strings.Split(line, "|")
		f := Feature{Name: part[0], Group: part[1], Doc: part[2]}
		if id := claimOf[f.Name]; id != "" {
			f.Claims = []string{id}
		}
		res.Features = append(res.Features, f)
		for i, m := range res.Modes {
			word := exampleWords[part[3][i]]
			r := Result{
				Suite: "conformance", Mode: m.Name, Implementation: "kernel", Feature: f.Name, Spec: "a probe is sent and what becomes of it observed",
				Claims: f.Claims, Expected: word, Observed: word, Outcome: Pass, Reason: exampleReason(word), Source: "example",
				Detail:   "h1/c1 asked h2/c1 over TCP and UDP; " + map[string]string{Works: "all 6 probes were answered", Blocked: "none of 6 probes was answered, the control was", NotApplicable: "there is nothing to ask"}[word],
				Fidelity: fidelity, Seconds: 0.02 + 0.05*rng.Float64(),
			}
			if word != NotApplicable {
				r.Evidence = []Evidence{{"h1/c1:eth0", "IP 10.9.0.11 > 10.9.0.21: ICMP echo request, id 7, seq 1, length 64"}, {"h1:eth0", "live control: 3 requests, 3 replies"}}
				r.Reproduce = []string{"modebench run -m " + m.Name + " --suite conformance --focus " + f.Name, "modebench plan " + m.Name}
			}
			switch {
			case f.Name == "slaac" && m.Name == "macvlan-vepa":
				r.Observed, r.Outcome, r.Detail = Blocked, Fail, "no router advertisement in 3 s; last seen at h1:eth0"
				r.Capture = "captures/macvlan-vepa-slaac.pcapng"
			case f.Name == "mld-report" && strings.HasPrefix(m.Name, "macvlan"):
				r.Observed, r.Outcome, r.Detail, r.Evidence = "", Unable, "the kernel has no querier that speaks MLDv2", nil
			}
			res.Results = append(res.Results, r)
			if id := claimOf[f.Name]; id != "" {
				cells[id] = append(cells[id], m.Name+"/"+f.Name)
			}
		}
	}
	res.Claims = []Claim{
		{ID: "C23", Topic: "Bridge", Text: "Container addresses are unreachable from outside the host.", Modes: []string{"bridge"}, Verdict: "nuance", Nuance: "false on a plain bridge that forwards: a neighbour with a route gets in", Source: "example", Specs: []string{"external-to-container"}, Cells: []string{"bridge/external-to-container"}},
		{ID: "C31", Topic: "Bridge", Text: "NAT costs performance.", Modes: []string{"bridge"}, Verdict: "measure", Source: "example", Specs: []string{"tcp-rr", "tcp-crr"}, Cells: []string{"bridge/tcp-rr", "bridge/tcp-crr"}},
		{ID: "C35", Topic: "Host", Text: "Two services on one host compete for a port.", Modes: []string{"host"}, Verdict: "true", Source: "example", Specs: []string{"port-conflict"}, Cells: []string{"host/port-conflict", "container/port-conflict"}},
		{ID: "C37", Topic: "Host", Text: "Some schedulers use the host's stack when nothing else is named.", Modes: []string{"host"}, Verdict: "historic", Source: "example", Untried: "about a scheduler, not a data path"},
		{ID: "C53", Topic: "MACvlan", Text: "Each container has a MAC address of its own.", Modes: []string{"macvlan-private", "macvlan-vepa", "macvlan-bridge", "macvlan-passthru"}, Verdict: "nuance", Nuance: "except passthru, which has the parent's", Source: "example", Specs: []string{"own-mac"}, Cells: cells["C53"][5:]},
		{ID: "C58", Topic: "MACvlan", Text: "A host and its own macvlan containers cannot reach each other.", Verdict: "true", Source: "example", Specs: []string{"container-to-host"}, Cells: cells["C58"][5:]},
		{ID: "C60", Topic: "MACvlan", Text: "The parent must be promiscuous.", Verdict: "false", Source: "example", Specs: []string{"own-macs"}, Cells: []string{"macvlan-bridge/own-macs"}},
		{ID: "C64", Topic: "MACvlan", Text: "Containers configure themselves from router advertisements.", Verdict: "true", Source: "example", Specs: []string{"slaac"}, Cells: []string{"macvlan-bridge/slaac", "macvlan-vepa/slaac"}},
		{ID: "C65", Topic: "MACvlan", Text: "Joining a group is announced with MLD.", Verdict: "true", Source: "example", Specs: []string{"mld-report"}, Cells: []string{"macvlan-bridge/mld-report"}},
	}
	res.Results = append(res.Results, exampleMeasurements(rng, fidelity, 10)...)
	return normal(res)
}

func sentence(s string) string { return strings.ToUpper(s[:1]) + s[1:] + "." }

func exampleReason(word string) string {
	return map[string]string{
		Works: "both ends are in one broadcast domain", Blocked: "the address is known on its own host only",
		NotApplicable: "the mode has nothing that the question is about",
	}[word]
}

// exampleMeasurements draws blocks around factors that are plausible, with noise that a block's measurements share.
func exampleMeasurements(rng *rand.Rand, fidelity Fidelity, blocks int) []Result {
	factor := map[string]float64{"host": 1, "host again": 1, "container": 1.001, "bridge": 1.33, "ptp": 1.03, "macvlan-private": 1.05, "macvlan-vepa": 1.05, "macvlan-bridge": 1.04, "macvlan-passthru": 1.04}
	type test struct {
		feature string
		units   []string
		base    []float64
		power   []float64 // of the factor
	}
	tests := []test{
		{"tcp-rr", []string{"p50-sec", "p90-sec", "p99-sec", "p999-sec", "max-sec", "op/s", "cpu-sec/op"}, []float64{14.5e-6, 16e-6, 24e-6, 61e-6, 240e-6, 66e3, 15e-6}, []float64{1, 1, 1.1, 1.3, 1, -1, 1}},
		{"tcp-crr", []string{"p50-sec", "p99-sec", "conn/s", "cpu-sec/op"}, []float64{62e-6, 110e-6, 15.7e3, 63e-6}, []float64{1.3, 1.3, -1.4, 1.3}},
		{"tcp-stream-1", []string{"bit/s", "cpu-sec/B", "retransmits", "dsacks"}, []float64{40.7e9, 196e-12, 0, 0}, []float64{-1.6, 1.5, 1, 1}},
		{"tcp-stream-8", []string{"bit/s", "cpu-sec/B", "retransmits", "dsacks"}, []float64{39e9, 201e-12, 0, 0}, []float64{-1.5, 1.5, 1, 1}},
		{"udp-stream", []string{"pkt/s", "bit/s", "loss-fraction", "cpu-sec/B"}, []float64{178e3, 1.99e9, 0, 4.2e-9}, []float64{-1.2, -1.2, 1, 1.2}},
	}
	var list []Result
	measure := func(suite, mode, variant, path, profile string, t test, f float64, drift []float64) {
		r := Result{Suite: suite, Mode: mode, Implementation: "kernel", Feature: t.feature, Variant: variant, Path: path, Profile: profile, Spec: "trials of 100 ms, interleaved over modes in random order", Outcome: Pass, Fidelity: fidelity, Seconds: 0.1 * float64(blocks), Reproduce: []string{"modebench run -m " + mode + " --suite " + suite}}
		twice := 1
		if suite == "throughput" && mode == Baseline && variant == "" {
			twice = 2
		}
		for block := range blocks {
			for range twice {
				for i, u := range t.units {
					if u == "loss-fraction" || u == "retransmits" || u == "dsacks" {
						r.Values = append(r.Values, Value{Unit: u, Value: t.base[i] + float64(block/9)*map[string]float64{"retransmits": 2, "loss-fraction": 0.001}[u], Block: block})
						continue
					}
					v := t.base[i] * math.Pow(f, t.power[i]) * math.Pow(drift[block], t.power[i]) * math.Exp(0.008*rng.NormFloat64())
					r.Values = append(r.Values, Value{Unit: u, Value: v, Block: block})
				}
			}
		}
		list = append(list, r)
	}
	for _, path := range []string{"same-host", "cross-host"} {
		for _, profile := range []string{"pinned", "steered"} {
			drift := make([]float64, blocks)
			for i := range drift {
				drift[i] = math.Exp(0.05 * rng.NormFloat64())
			}
			for _, t := range tests {
				for _, m := range exampleModes {
					if m.Name == "none" || path == "cross-host" && m.Name == "container" {
						continue
					}
					f := factor[m.Name]
					if path == "cross-host" && m.Name == "bridge" {
						f = 1.45
					}
					measure("throughput", m.Name, "", path, profile, t, f, drift)
					if m.Name == Baseline {
						measure("throughput", m.Name, Twin, path, profile, t, 1, drift)
					}
				}
			}
		}
	}
	drift := make([]float64, blocks)
	for i := range drift {
		drift[i] = math.Exp(0.05 * rng.NormFloat64())
	}
	for _, t := range tests[:3] {
		for _, v := range []struct {
			name string
			f    float64
		}{{"routed", 1.31}, {"masqueraded", 1.42}, {"port-mapped", 1.43}, {"routed+br_netfilter", 1.36}, {"masqueraded+br_netfilter", 1.5}, {"port-mapped+br_netfilter", 1.51}} {
			measure(natSuite, "bridge", v.name, "cross-host", "pinned", t, v.f, drift)
		}
	}
	return list
}

func exampleGraph(m *Mode) Graph {
	g := Graph{Nodes: []Node{
		{ID: "tor", Kind: "tor", Label: "tor", Notes: []string{"rack", "10.9.0.0/24", "fd09::/64"}},
		{ID: "x", Kind: "external", Label: "x"},
		{ID: "x/eth0", Kind: "nic", Label: "eth0", Parent: "x", Notes: []string{"10.9.0.9", "fd09::9"}},
	}, Edges: []Edge{{From: "x/eth0", To: "tor"}}}
	for h := 1; h <= 2; h++ {
		host := fmt.Sprintf("h%d", h)
		g.Nodes = append(g.Nodes, Node{ID: host, Kind: "host", Label: host},
			Node{ID: host + "/eth0", Kind: "nic", Label: "eth0", Parent: host, Notes: []string{fmt.Sprintf("10.9.0.%d", h), fmt.Sprintf("fd09::%d", h), "mtu 1500"}})
		g.Edges = append(g.Edges, Edge{From: "tor", To: host + "/eth0"})
		if m == nil || m.Name == "host" {
			continue
		}
		above := host + "/eth0"
		if m.Name == "bridge" || m.Name == "container" {
			above = host + "/br0"
			g.Nodes = append(g.Nodes, Node{ID: above, Kind: "bridge", Label: "br0", Parent: host, Notes: []string{"172.30.0.1/24"}})
			g.Edges = append(g.Edges, Edge{From: host + "/eth0", To: above, Label: "NAT"})
		}
		for c := 1; c <= 4; c++ {
			id := fmt.Sprintf("%s/c%d", host, c)
			g.Nodes = append(g.Nodes, Node{ID: id, Kind: "container", Label: fmt.Sprintf("c%d", c), Parent: host})
			if m.Name == "none" {
				continue
			}
			g.Nodes = append(g.Nodes, Node{ID: id + "/eth0", Kind: "nic", Label: "eth0", Parent: id, Notes: []string{fmt.Sprintf("172.30.0.%d", 10*h+c), "fd30::" + fmt.Sprint(10*h+c)}})
			label := ""
			if strings.HasPrefix(m.Name, "macvlan") {
				label = "macvlan"
			}
			g.Edges = append(g.Edges, Edge{From: above, To: id + "/eth0", Label: label})
		}
	}
	return g
}

// exampleKernels is the small example on the machine's own kernel and two of guests: kernel by kernel every cell, one mode
// on a guest's alone, and an answer that depends on the kernel.
func exampleKernels() Results {
	small := exampleSmall()
	res := small
	res.Run.Command = []string{"run", "--kernel", "host,uml,debian-cloud"}
	res.Results = nil
	on := []Fidelity{{Kernel: "6.18.0-example", Driver: "netns"}, {Kernel: "6.1.0-example", Driver: "netns", Accelerator: "uml"}, {Kernel: "6.12.0-example", Driver: "netns", Accelerator: "tcg"}}
	for _, r := range small.Results {
		for i, f := range on {
			r := r
			r.Fidelity = f
			switch {
			case r.Mode == "macvlan-vepa" && i == 0:
				continue
			case r.Mode == "bridge" && i == 1 && r.Outcome == Pass && !r.measured():
				r.Outcome, r.Observed, r.Detail = Unable, "", "guest kernel uml 6.1.0-example (uml) lacks nft-nat: operation not supported"
			case r.Mode == "host" && r.Feature == "own-address" && i == 2:
				r.Outcome, r.Observed, r.Detail = Fail, Works, "this kernel answers otherwise"
			}
			res.Results = append(res.Results, r)
		}
	}
	for _, r := range small.Results { // the baseline of another fabric
		if r.Mode == "host" && r.measured() {
			r.Fidelity = on[1]
			r.Fidelity.Fabric = "routed-bgp"
			res.Results = append(res.Results, r)
		}
	}
	return normal(res)
}

// exampleSmall is the part of the example that fits on a screen: three modes, two groups, one path.
func exampleSmall() Results {
	res := exampleRun()
	modes := map[string]bool{"host": true, "bridge": true, "macvlan-vepa": true}
	groups := map[string]bool{}
	small := res
	small.Modes, small.Features, small.Results = nil, nil, nil
	for _, m := range res.Modes {
		if modes[m.Name] {
			small.Modes = append(small.Modes, m)
		}
	}
	for _, f := range res.Features {
		if f.Group == "addresses" || f.Group == "limits" {
			small.Features = append(small.Features, f)
			groups[f.Name] = true
		}
	}
	for _, r := range res.Results {
		if modes[r.Mode] && (groups[r.Feature] || r.Feature == "tcp-rr" && r.Path != "cross-host" && r.Profile == "pinned" || r.Suite == natSuite) {
			small.Results = append(small.Results, r)
		}
	}
	return normal(small)
}
