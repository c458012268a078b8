package modes_test

import (
	"bytes"
	"fmt"
	"net/netip"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/modebench/modebench/modes"
	"github.com/modebench/modebench/topology"
)

// anyPlan draws a topology of up to three hosts, interfaces and networks, some of which share an interface, and plans it for
// a mode.
func anyPlan(t *rapid.T, m modes.Mode) *topology.Plan {
	top := topology.Topology{
		Name: "any", Segments: map[string]topology.Segment{}, Tors: map[string]topology.Tor{},
		Hosts: map[string]topology.Host{}, Networks: map[string]topology.Network{},
	}
	nics := map[string]topology.NIC{}
	var segments []string
	for i := range rapid.IntRange(1, 3).Draw(t, "segments") {
		name := fmt.Sprintf("s%d", i)
		segments = append(segments, name)
		top.Segments[name] = topology.Segment{
			V4:  netip.MustParsePrefix(fmt.Sprintf("198.18.%d.0/22", 4*i)),
			V6:  netip.MustParsePrefix(fmt.Sprintf("2001:db8:%d::/64", i)),
			MTU: rapid.SampledFrom([]int{0, 1280, 9000}).Draw(t, "mtu"),
		}
		nics[fmt.Sprintf("eth%d", i)] = topology.NIC{Segment: name}
	}
	top.Tors["tor"] = topology.Tor{Joins: segments}
	for i := range rapid.IntRange(1, 3).Draw(t, "networks") {
		top.Networks[fmt.Sprintf("network%d", i)] = topology.Network{
			NIC: fmt.Sprintf("eth%d", rapid.IntRange(0, len(segments)-1).Draw(t, "nic")),
			V4:  netip.MustParsePrefix(fmt.Sprintf("172.17.%d.0/24", i)),
			V6:  netip.MustParsePrefix(fmt.Sprintf("fd17:%d::/64", i)),
		}
	}
	for i := range rapid.IntRange(1, 3).Draw(t, "hosts") {
		h := topology.Host{NICs: nics, Containers: map[string]int{}}
		for n := range len(top.Networks) {
			h.Containers[fmt.Sprintf("network%d", n)] = rapid.IntRange(0, 3).Draw(t, "containers")
		}
		top.Hosts[fmt.Sprintf("h%d", i+1)] = h
	}
	p, err := m.Plan(top)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// everything is all that a mode may be asked for in a plan, by what it is: the wiring; a spare container of each network
// and host; one that comes from another host; and published ports.
func everything(t *rapid.T, m modes.Mode, p *topology.Plan) map[string][]topology.Step {
	w := m.Wire(p)
	all := map[string][]topology.Step{"setup": w.Setup}
	for _, a := range w.Attached {
		all["attach "+a.Container.ID()+" to "+a.Host] = a.Steps
	}
	for _, host := range p.Hosts() {
		for _, n := range p.Networks {
			for _, from := range p.Hosts() {
				c, err := p.Container(from.Name, n.Name, 20)
				if err != nil {
					t.Fatal(err)
				}
				all["attach "+c.ID()+" of "+n.Name+" to "+host.Name] = m.Attach(p, host, c)
				if m.Publish != nil {
					all["publish "+c.ID()+" of "+n.Name+" on "+host.Name] = m.Publish(p, host, c, modes.Port{Proto: "udp", Host: 53, Container: 5353})
				}
			}
		}
	}
	return all
}

func forEachMode(t *testing.T, check func(*rapid.T, modes.Mode, *topology.Plan)) {
	for _, m := range modes.All() {
		t.Run(m.Name, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) { check(t, m, anyPlan(t, m)) })
		})
	}
}

func TestModesAreDescribed(t *testing.T) {
	name := regexp.MustCompile(`^[a-z][a-z0-9-]*$`)
	seen := map[string]bool{}
	for _, m := range modes.All() {
		if !name.MatchString(m.Name) || seen[m.Name] {
			t.Errorf("mode %q: want a name of its own in small letters", m.Name)
		}
		seen[m.Name] = true
		for what, text := range map[string]string{"Doc": m.Doc, "GoodFor": m.GoodFor, "BadFor": m.BadFor} {
			if !strings.HasSuffix(text, ".") {
				t.Errorf("mode %s: %s %q is no sentence", m.Name, what, text)
			}
		}
		if found, ok := modes.Find(m.Name); !ok || found.Doc != m.Doc {
			t.Errorf("mode %s is not found by its name", m.Name)
		}
	}
	if len(seen) == 0 {
		t.Error("there is no mode")
	}
	if _, ok := modes.Find("bridges"); ok {
		t.Error("a mode that does not exist is found")
	}
}

func TestSamePlanSameSteps(t *testing.T) {
	forEachMode(t, func(t *rapid.T, m modes.Mode, p *topology.Plan) {
		again, err := topology.NewPlan(p.Topology)
		if err != nil {
			t.Fatal(err)
		}
		first, second := everything(t, m, p), everything(t, m, again)
		for what := range first {
			if !reflect.DeepEqual(first[what], second[what]) {
				t.Fatalf("%s: two plans of one topology are wired in two ways:\n%v\n%v", what, first[what], second[what])
			}
		}
	})
}

func samePrefix(a, b netip.Prefix) bool { return a == b }

// Undoing an attachment undoes its steps from the last to the first, so the namespace must be the first of them.
func TestAttachBeginsWithTheNamespace(t *testing.T) {
	forEachMode(t, func(t *rapid.T, m modes.Mode, p *topology.Plan) {
		for what, all := range everything(t, m, p) {
			for i, s := range all {
				if first := strings.HasPrefix(what, "attach") && i == 0; (s.Space != nil) != first {
					t.Fatalf("%s: step %d of %d: %s", what, i+1, len(all), s)
				}
			}
			if strings.HasPrefix(what, "attach") && len(all) == 0 {
				t.Fatalf("%s: no step", what)
			}
		}
	})
}

// Every step is on the host that it was asked of, in its own namespace or in one that the same steps made, and is one thing.
func TestStepsAreInPlace(t *testing.T) {
	forEachMode(t, func(t *rapid.T, m modes.Mode, p *topology.Plan) {
		for what, all := range everything(t, m, p) {
			made := ""
			for _, s := range all {
				if s.Space != nil && s.Space.Share == "" {
					made = s.Space.Name
				}
				if p.Topology.Fabric == topology.VPC && what == "setup" && p.Machine(s.On) != nil && p.Machine(s.On).Role == topology.RoleTor && (s.Route != nil || s.Table != nil && s.Remove) {
					continue // what a host asks of the cloud
				}
				if on := p.Machine(s.On); on == nil || on.Role != topology.RoleHost && (s.Program == nil || on.Role != topology.RoleExternal) {
					t.Fatalf("%s: on %q: %s", what, s.On, s)
				}
				if what != "setup" && !strings.HasSuffix(what, " "+s.On) {
					t.Fatalf("%s: on %q: %s", what, s.On, s)
				}
				if s.In != "" && s.In != made {
					t.Fatalf("%s: in %q, while %q was made: %s", what, s.In, made, s)
				}
				set := 0
				for _, is := range []bool{s.Space != nil, s.Link != nil, s.Set != nil, s.Addr != nil, s.Route != nil, s.Neigh != nil, s.Sysctl != nil, s.Table != nil, s.Offload != nil, s.Shape != nil, s.Redirect != nil, s.Forget != nil, s.Await != nil, s.VLAN != nil, s.BGP != nil, s.Announce != nil, s.Gossip != nil, s.Endpoint != nil, s.Program != nil, s.CNI != nil} {
					if is {
						set++
					}
				}
				if set != 1 {
					t.Fatalf("%s: %d things in one step: %s", what, set, s)
				}
			}
		}
	})
}

// A name that the kernel refuses, or that is taken, is found here and not at the tenth container of somebody's lab.
func TestDevicesHaveNamesOfTheirOwn(t *testing.T) {
	forEachMode(t, func(t *rapid.T, m modes.Mode, p *topology.Plan) {
		w := m.Wire(p)
		all := slices.Clone(w.Setup)
		for _, a := range w.Attached {
			all = append(all, a.Steps...)
		}
		devices := map[string]bool{}
		for _, h := range p.Hosts() {
			devices[h.Name+"//lo"] = true
			for _, n := range h.NICs {
				devices[h.Name+"//"+n.Name] = true
			}
		}
		add := func(s topology.Step, in, name string) {
			place := s.On + "/" + in + "/" + name
			if devices[place] {
				t.Fatalf("%s is made twice: %s", place, s)
			}
			if devices[place] = true; name == "" || len(name) > 15 {
				t.Fatalf("device name %q has %d bytes: want 1 to 15", name, len(name))
			}
		}
		for _, s := range all {
			if s.Link == nil {
				continue
			}
			add(s, s.In, s.Link.Name)
			if s.Link.Kind == "veth" {
				add(s, s.Link.PeerIn, s.Link.PeerName)
			}
			for _, below := range []string{s.Link.Master, s.Link.Parent} {
				if below != "" && !devices[s.On+"//"+below] {
					t.Fatalf("%s does not exist: %s", below, s)
				}
			}
		}
	})
}

// A mode decides no address: each of a wiring is the plan's, and the container's are those that the mode says it has.
func TestAddressesAreThePlans(t *testing.T) {
	forEachMode(t, func(t *rapid.T, m modes.Mode, p *topology.Plan) {
		gateways := map[netip.Addr]bool{}
		for _, n := range p.Networks {
			gateways[n.Gateway4], gateways[n.Gateway6] = true, true
			for _, host := range p.Hosts() {
				if lease := p.Lease(host.Name, n.Name); lease.IsValid() {
					gateways[lease.Addr().Next()] = true
				}
				if fan, err := n.Fan.Gateway(host.NIC(n.NIC).V4.Addr()); err == nil {
					gateways[fan.Addr()] = true
				}
				leased4, leased6 := p.SubnetAddr(host.Name, 1)
				gateways[leased4.Addr()], gateways[leased6.Addr()] = true, true
			}
		}
		for _, host := range p.Hosts() {
			for _, c := range host.Containers {
				var want []netip.Prefix
				if m.Addrs != nil {
					want = m.Addrs(p, host, c)
				}
				var got []netip.Prefix
				up := map[string]bool{}
				all := m.Attach(p, host, c)
				for _, s := range all {
					if s.In != "" && s.Set != nil && s.Set.State == "up" {
						up[s.Set.Name] = true
					}
					switch {
					case s.Addr == nil:
					case s.In != "":
						if s.Addr.Link == m.DeviceOf(p, host, c) {
							got = append(got, s.Addr.Prefix)
						} else if s.Addr.Link != m.Exit || s.Addr.Prefix != c.Private4 && s.Addr.Prefix != c.Private6 {
							t.Fatalf("%s: neither on %q nor private on the exit %q: %s", c.ID(), m.DeviceOf(p, host, c), m.Exit, s)
						}
						if up[s.Addr.Link] && s.Addr.Prefix.Addr().Is4() {
							t.Fatalf("%s: after its device is up, when nobody is told of it any more: %s", c.ID(), s)
						}
					case !gateways[s.Addr.Prefix.Addr()]:
						t.Fatalf("%s: not of the plan: %s", c.ID(), s)
					}
					if s.Link == nil {
						continue
					}
					mac := s.Link.MAC
					if s.Link.PeerIn != "" {
						mac = s.Link.PeerMAC // its other end is the host's
					}
					if exit := s.Link.PeerIn != "" && s.Link.PeerName == m.Exit; mac != nil && bytes.Equal(mac, c.MAC) == exit {
						t.Fatalf("%s: not the container's MAC: %s", c.ID(), s)
					}
				}
				if all[0].Space.Share != "" {
					want = nil // somebody else's, which are there already
				}
				if diff := cmp.Diff(want, got, cmp.Comparer(samePrefix)); diff != "" {
					t.Fatalf("%s: addresses (-said +made):\n%s", c.ID(), diff)
				}
			}
		}
		if m.Setup == nil {
			return
		}
		for _, host := range p.Hosts() {
			for _, s := range m.Setup(p, host) {
				if s.Addr != nil && !gateways[s.Addr.Prefix.Addr()] {
					t.Fatalf("not of the plan: %s", s)
				}
			}
		}
	})
}

// A container that shares a namespace has the addresses and the device of whose it is.
func TestSharersHaveTheOwnersAddresses(t *testing.T) {
	forEachMode(t, func(t *rapid.T, m modes.Mode, p *topology.Plan) {
		for _, host := range p.Hosts() {
			for _, c := range host.Containers {
				share := m.Attach(p, host, c)[0].Space.Share
				var want []netip.Prefix
				switch share {
				case "":
					continue
				case "host":
					nic := host.NIC(p.Network(c.Network).NIC)
					want = []netip.Prefix{nic.V4, nic.V6}
				default:
					i := slices.IndexFunc(host.Containers, func(o topology.Container) bool { return o.Name == share })
					if i < 0 || host.Containers[i].Network != c.Network {
						t.Fatalf("%s enters the namespace of %q, no container of its network on %s", c.ID(), share, host.Name)
					}
					want = m.Addrs(p, host, host.Containers[i])
				}
				if diff := cmp.Diff(want, m.Addrs(p, host, c), cmp.Comparer(samePrefix)); diff != "" {
					t.Fatalf("%s: addresses (-those of %s +said):\n%s", c.ID(), share, diff)
				}
			}
		}
	})
}

// Specs read a rule's counter by its table and comment.
func TestRulesCanBeToldApart(t *testing.T) {
	forEachMode(t, func(t *rapid.T, m modes.Mode, p *topology.Plan) {
		for what, all := range everything(t, m, p) {
			tables := map[string]bool{}
			for _, s := range all {
				if s.Table == nil {
					continue
				}
				name := s.On + " " + s.Table.Family + " " + s.Table.Name
				if tables[name] {
					t.Fatalf("%s: table %s twice", what, name)
				}
				tables[name] = true
				comments := map[string]bool{}
				for _, chain := range s.Table.Chains {
					for _, r := range chain.Rules {
						if r.Comment == "" || len(r.Comment) > 127 || comments[r.Comment] {
							t.Fatalf("%s: table %s: comment %q is empty, too long or not the first", what, name, r.Comment)
						}
						comments[r.Comment] = true
					}
				}
			}
		}
	})
}

// The kernel refuses a table that is there, and with it a port that is published already, for whichever container.
func TestOnePortOneTable(t *testing.T) {
	table := func(m modes.Mode, p *topology.Plan, c topology.Container, port modes.Port) string {
		all := m.Publish(p, p.Hosts()[0], c, port)
		if all[0].Table == nil || slices.ContainsFunc(all[1:], func(s topology.Step) bool { return s.Table != nil }) {
			t.Fatalf("mode %s: publishing is not one table: %v", m.Name, all)
		}
		return all[0].Table.Family + " " + all[0].Table.Name
	}
	publishing := 0
	for _, m := range modes.All() {
		if m.Publish == nil {
			continue
		}
		publishing++
		p := defaultPlan(t, m)
		host := p.Hosts()[0]
		first, last := host.Containers[0], host.Containers[len(host.Containers)-1]
		port := modes.Port{Proto: "tcp", Host: 8080, Container: 80}
		if a, b := table(m, p, first, port), table(m, p, last, modes.Port{Proto: "tcp", Host: 8080, Container: 81}); a != b {
			t.Errorf("mode %s: one port of the host in two tables, %s and %s", m.Name, a, b)
		}
		for _, other := range []modes.Port{{Proto: "udp", Host: 8080, Container: 80}, {Proto: "tcp", Host: 8081, Container: 80}} {
			if a, b := table(m, p, first, port), table(m, p, first, other); a == b {
				t.Errorf("mode %s: ports %v and %v are both in table %s", m.Name, port, other, a)
			}
		}
	}
	if publishing == 0 {
		t.Error("no mode publishes ports")
	}
}

func TestLimit(t *testing.T) {
	for _, m := range modes.All() {
		p := defaultPlan(t, m)
		attached := map[string]int{}
		for _, a := range m.Wire(p).Attached {
			attached[a.Host+"/"+a.Container.Network]++
		}
		for _, host := range p.Hosts() {
			for _, n := range p.Networks {
				want := 0
				for _, c := range host.Containers {
					if c.Network == n.Name {
						want++
					}
				}
				if m.Limit > 0 {
					want = min(want, m.Limit)
				}
				if got := attached[host.Name+"/"+n.Name]; got != want {
					t.Errorf("mode %s: %d containers of %s on %s: want %d", m.Name, got, n.Name, host.Name, want)
				}
			}
		}
	}
}

// A container that comes from another host is wired where it is now.
func TestMovedContainer(t *testing.T) {
	for _, m := range modes.All() {
		p := defaultPlan(t, m)
		h2 := p.Machine("h2")
		c, err := p.Container("h1", "blue", 9)
		if err != nil {
			t.Fatal(err)
		}
		steps := m.Attach(p, h2, c)
		for _, s := range steps {
			if s.On != "h2" {
				t.Errorf("mode %s: not on h2: %s", m.Name, s)
			}
		}
		share := steps[0].Space.Share
		if share == "" || share == "host" {
			continue
		}
		if share != "c1" {
			t.Errorf("mode %s: h1/c9 on h2 enters the namespace of %q: want c1, the first of its network there", m.Name, share)
		}
		if got, want := m.Addrs(p, h2, c), m.Addrs(p, h2, h2.Containers[0]); !slices.Equal(got, want) {
			t.Errorf("mode %s: addresses of h1/c9 on h2 are %v: want %v", m.Name, got, want)
		}
	}
}

// What a host announces, the router takes by the link of the container's network, or the container is not found.
func TestAnnouncementsAreAccepted(t *testing.T) {
	announcing := 0
	for _, m := range modes.All() {
		t.Run(m.Name, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				p := anyPlan(t, m)
				peers := map[topology.Port]topology.Peer{} // of the tor, by the interface of the host
				for _, s := range topology.Underlay(p) {
					if s.BGP == nil {
						continue
					}
					for _, peer := range s.BGP.Peers {
						for _, h := range p.Hosts() {
							for _, n := range h.NICs {
								if n.V4.Addr() == peer.Addr && h.AS == peer.AS {
									peers[topology.Port{Machine: h.Name, Interface: n.Name}] = peer
								}
							}
						}
					}
				}
				for _, h := range p.Hosts() {
					for _, n := range p.Networks {
						for _, from := range p.Hosts() {
							c, err := p.Container(from.Name, n.Name, 20)
							if err != nil {
								t.Fatal(err)
							}
							covered := map[netip.Addr]bool{}
							for _, s := range m.Attach(p, h, c) {
								if s.Announce == nil {
									continue
								}
								announcing++
								prefix := s.Announce.Prefix
								peer, ok := peers[topology.Port{Machine: h.Name, Interface: n.NIC}]
								if !ok || !slices.ContainsFunc(peer.Accept, func(a topology.Accept) bool {
									return a.Prefix.Overlaps(prefix) && a.MinBits <= prefix.Bits() && prefix.Bits() <= a.MaxBits
								}) {
									t.Fatalf("%s on %s: no neighbour takes %s", c.ID(), h.Name, prefix)
								}
								for _, a := range m.Addrs(p, h, c) {
									covered[a.Addr()] = covered[a.Addr()] || prefix.Contains(a.Addr())
								}
							}
							for a, ok := range covered {
								if !ok {
									t.Fatalf("%s on %s: nothing announced leads to %s", c.ID(), h.Name, a)
								}
							}
						}
					}
				}
			})
		})
	}
	if announcing == 0 {
		t.Error("no mode announces anything")
	}
}

// A speaker and the router's know each other by the same link, and exactly one of the two calls.
func TestSpeakersMeet(t *testing.T) {
	speaking := 0
	forEachMode(t, func(t *rapid.T, m modes.Mode, p *topology.Plan) {
		type session struct{ caller, called netip.Addr }
		waiting, calling := map[session]uint32{}, map[session]uint32{}
		for _, s := range append(topology.Underlay(p), m.Wire(p).Setup...) {
			if s.BGP == nil {
				continue
			}
			for _, peer := range s.BGP.Peers {
				if peer.Passive {
					waiting[session{peer.Addr, peer.Local}] = peer.AS - s.BGP.AS
				} else {
					calling[session{peer.Local, peer.Addr}] = s.BGP.AS - peer.AS
				}
			}
		}
		speaking += len(calling)
		if d := cmp.Diff(waiting, calling); d != "" && len(calling) > 0 {
			t.Fatalf("the router waits for others than those that call (-waits +call):\n%s", d)
		}
	})
	if speaking == 0 {
		t.Error("no mode has a speaker")
	}
}
