package suites

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/modebench/modebench/modes"
	"github.com/modebench/modebench/reports"
	"github.com/modebench/modebench/topology"
	"github.com/modebench/modebench/topology/lab"
)

// fabrics are those that modes are put on in the suite of that name, by their names, in the order of documents. NICs have as many
// filters as the first host has containers of the first network to begin with, and one container more is attached. Tables have room for the machines and
// their tags.
var fabrics = []string{
	"open", "open-reflective", "open-snooping", "port-security", "port-security-5", "port-security-shutdown", "mac-table-6", "nic-3", "nic-3-promisc", "routed-bgp", "vpc",
}

// Fabrics are those that modes are put on in the suite fabrics.
func Fabrics() []string { return slices.Clone(fabrics) }

// FeaturesOn are the features that are asked on some fabrics.
func FeaturesOn(of []string) (names []string) {
	for _, s := range Specs() {
		if s.On != nil && slices.Contains(of, s.On.String()) {
			names = append(names, s.Feature.Name)
		}
	}
	return names
}

// OnFabrics is the suite that puts modes on fabrics.
const OnFabrics = "fabrics"

// onFabric is what is asked on a fabric, and how it is said.
type onFabric struct {
	name, doc, spec string
	only            []string // fabrics that it is asked on; nil: all
	run             func(context.Context, *Bench) (Observation, error)
	sabotage        func(topology.Fabric) []Sabotage
}

var onFabrics = []onFabric{
	{
		name: "host", doc: "Does a host reach an external machine on the fabric %s while it has containers?",
		spec: "a host with containers asks an external machine by ICMP echo, UDP and TCP",
		run: func(ctx context.Context, b *Bench) (Observation, error) {
			if _, err := newest(ctx, b); err != nil {
				return Observation{}, err
			}
			return reachesAll(ctx, b, Place{Machine: firstHost(b)}, external(b))
		},
		sabotage: func(f topology.Fabric) []Sabotage {
			if f.Violation != "shutdown" {
				return []Sabotage{pulled("bridge")}
			}
			return []Sabotage{{Mode: "bridge", Doc: "the host has another MAC address than its port knows", Steps: func(p *topology.Plan) []topology.Step {
				h := p.Hosts()[0]
				return []topology.Step{{On: h.Name, Set: &topology.LinkSet{Name: h.NICs[0].Name, MAC: h.Containers[0].MAC}}}
			}}}
		},
	},
	{
		name: "external", doc: "Does a container reach an external machine on the fabric %s?",
		spec: "a container asks an external machine by ICMP echo, UDP and TCP",
		run: func(ctx context.Context, b *Bench) (Observation, error) {
			c, err := newest(ctx, b)
			if err != nil {
				return Observation{}, err
			}
			return reachesAll(ctx, b, c, external(b))
		},
		sabotage: func(f topology.Fabric) []Sabotage { return append(unguarded(f), pulled("ptp")) },
	},
	{
		name: "cross-host", doc: "Do containers of two hosts reach each other by their own addresses on the fabric %s?",
		spec: "a container asks one of another host by ICMP echo, UDP and TCP",
		run: func(ctx context.Context, b *Bench) (Observation, error) {
			c, err := newest(ctx, b)
			if err != nil {
				return Observation{}, err
			}
			return reachesAll(ctx, b, c, far(b))
		},
		sabotage: func(topology.Fabric) []Sabotage { return []Sabotage{pulled("vxlan-static")} },
	},
	{
		name: "same-host", doc: "Do containers of one host reach each other on the fabric %s?", only: []string{"open-reflective"},
		spec: "a container asks its neighbour by ICMP echo, UDP and TCP",
		run: func(ctx context.Context, b *Bench) (Observation, error) {
			first, second, ok := pair(b, firstHost(b), network(b))
			if !ok {
				return oneContainer(), nil
			}
			return reachesAll(ctx, b, first, second)
		},
		sabotage: func(topology.Fabric) []Sabotage {
			return []Sabotage{{Mode: "macvlan-vepa", Doc: "the host's port sends nothing back by the way it came", Steps: func(p *topology.Plan) []topology.Step {
				port := p.Hosts()[0].NICs[0].Peer
				return []topology.Step{{On: port.Machine, Set: &topology.LinkSet{Name: port.Interface, Hairpin: "off"}}}
			}}}
		},
	},
	{
		name: "freed", doc: "On the fabric %s, does a container that came when the NIC's filter was full reach an external machine once another has gone?", only: []string{"nic-3"},
		spec: "one more container is attached than the NIC has filters, another is detached, and the new one asks an external machine",
		run:  freed,
		sabotage: func(topology.Fabric) []Sabotage {
			return []Sabotage{{Mode: "macvlan-bridge", Doc: "the NIC lets in nothing but what is for the host itself", Steps: func(p *topology.Plan) []topology.Step {
				h := p.Hosts()[0]
				out := topology.Match{Field: "oifname", Value: h.NICs[0].Peer.Interface}
				return []topology.Step{{On: h.NICs[0].Peer.Machine, Table: &topology.Table{Family: "bridge", Name: "sabotage", Chains: []topology.Chain{{
					Name: "out", Type: "filter", Hook: "postrouting",
					Rules: []topology.Rule{{Match: []topology.Match{out, {Field: "ether daddr", Not: true, Value: h.NICs[0].MAC.String()}}, Verdict: topology.Verdict{Kind: "drop"}}},
				}}}}}
			}}}
		},
	},
	{
		name: "alone", doc: "On the fabric %s, does what is for a container that has just come leave the switch by the container's port alone?", only: []string{"mac-table-6"},
		spec: "a container is attached when all others have been heard, and asks an external machine; the answers are looked for at another machine's port",
		run:  unflooded,
		sabotage: func(topology.Fabric) []Sabotage {
			return []Sabotage{
				{Mode: "macvlan-bridge", Doc: "the switch sends the other machine nothing that is for others", Steps: func(p *topology.Plan) []topology.Step {
					nic := p.Externals()[1].NICs[0]
					return []topology.Step{{On: nic.Peer.Machine, Table: &topology.Table{Family: "bridge", Name: "sabotage", Chains: []topology.Chain{{
						Name: "out", Type: "filter", Hook: "postrouting", Rules: []topology.Rule{{Match: []topology.Match{
							{Field: "oifname", Value: nic.Peer.Interface},
							{Field: "ether daddr", Not: true, Value: nic.MAC.String()},
							{Field: "ether daddr", Not: true, Value: "01:00:00:00:00:00/01:00:00:00:00:00"},
						}, Verdict: topology.Verdict{Kind: "drop"}}},
					}}}}}
				}},
				{
					Mode: "bridge", Doc: "the switch's table is full before the host has another MAC address",
					Before: func(ctx context.Context, b *Bench) error {
						x := Place{Machine: b.plan.Externals()[1].Name}
						for i := range byte(6) {
							frame := discarded(nobody, b.newToken())
							frame.EthSrc = net.HardwareAddr{0x02, 0x5e, 0x10, 0, 1, i}
							if err := b.Send(ctx, x, b.face(x.Machine).Name, frame); err != nil {
								return err
							}
						}
						return nil
					},
					Steps: func(p *topology.Plan) []topology.Step {
						h := p.Hosts()[0]
						return []topology.Step{{On: h.Name, Set: &topology.LinkSet{Name: h.NICs[0].Name, MAC: h.Containers[0].MAC}}}
					},
				},
			}
		},
	},
	{
		name: "spared", doc: "On the fabric %s, is a host spared frames for other stations while it has one container more than its NIC has filters?", only: []string{"nic-3-promisc"},
		spec: "one more container is attached than the NIC has filters, and the switch sends the host a frame for nobody",
		run: func(ctx context.Context, b *Bench) (Observation, error) {
			if o := deviceless(b); o != nil {
				return *o, nil
			}
			if _, err := newest(ctx, b); err != nil {
				return Observation{}, err
			}
			host := b.plan.Machine(firstHost(b))
			nic := cable(host, uplink(b))
			out := external(b) // beyond the switch, which sends to all ports what it does not know
			came, err := letIn(ctx, b, host, nic, out, b.face(out.Machine).Name)
			o := whether(len(came) == 1, "%s of %s let a frame for %s in: %t", nic.Name, host.Name, nobody, len(came) > 1)
			o.Evidence = came
			return o, err
		},
		sabotage: func(topology.Fabric) []Sabotage {
			return []Sabotage{{Mode: "bridge", Doc: "the NIC has no filter", Steps: func(p *topology.Plan) []topology.Step { return withoutTable(filterOf(p))(p) }}}
		},
	},
}

var _ = func() bool {
	for _, name := range fabrics {
		var f topology.Fabric
		if err := f.UnmarshalText([]byte(name)); err != nil {
			panic(err)
		}
		var needs []modes.Kernel
		for _, n := range f.Needs() {
			needs = append(needs, modes.Kernel(n))
		}
		for _, ask := range onFabrics {
			if ask.only != nil && !slices.Contains(ask.only, name) {
				continue
			}
			register(Spec{
				Suite: OnFabrics, Feature: Feature{Name: "on-" + name + "-" + ask.name, Group: name, Doc: fmt.Sprintf(ask.doc, name)},
				Name: ask.spec, Needs: needs, On: &f, Sabotage: ask.sabotage(f),
				Run: func(ctx context.Context, b *Bench) (Observation, error) { return proven(ctx, b, ask.run) },
			})
		}
	}
	return true
}()

// newest is the container that is asked for: on hosts whose NICs filter, one more than has a filter, else the first.
func newest(ctx context.Context, b *Bench) (Place, error) {
	filters := b.plan.Topology.Fabric.Filters
	if filters == 0 || b.mode.Limit > 0 && b.mode.Limit <= filters {
		return container(b), nil
	}
	host := firstHost(b)
	if err := fill(ctx, b, host, filters); err != nil {
		return Place{}, err
	}
	c, err := another(b, host, network(b), filters)
	if err != nil {
		return Place{}, err
	}
	at, err := b.Attach(ctx, c, host)
	if err != nil || b.plan.Topology.Fabric.Overflow != "promisc" || numberless(b) != nil {
		return at, err
	}
	_, err = hearsBack(ctx, b, at) // the NIC is told soon after
	return at, err
}

// freed detaches one of the containers that have a filter, and has the one that has none ask.
func freed(ctx context.Context, b *Bench) (Observation, error) {
	if o := deviceless(b); o != nil {
		return *o, nil
	}
	_, gone, ok := pair(b, firstHost(b), network(b))
	if !ok {
		return oneContainer(), nil
	}
	last, err := newest(ctx, b)
	if err != nil {
		return Observation{}, err
	}
	leaving := []Place{gone}
	host := b.plan.Machine(gone.Machine)
	for _, n := range b.plan.Networks { // those that have a filter of the same NIC, too
		if n.Name != network(b) && cable(host, host.NIC(n.NIC)).Name == cable(host, uplink(b)).Name {
			leaving = append(leaving, b.Containers(host.Name, n.Name)...)
		}
	}
	for _, p := range leaving {
		c := attachedAt(b, p)
		b.atEnd(func(ctx context.Context) error {
			if _, err := b.attach(ctx, c, p.Machine); err != nil {
				return err
			}
			return b.settled(ctx, p.Machine)
		})
		if err := b.Detach(ctx, p); err != nil {
			return Observation{}, err
		}
	}
	if _, err := hearsBack(ctx, b, last); err != nil { // the NIC is told soon after
		return Observation{}, err
	}
	return reachesAll(ctx, b, last, external(b))
}

// unflooded has a container ask that came last, and looks for the answers at the port of a machine that has nothing to do with them.
func unflooded(ctx context.Context, b *Bench) (Observation, error) {
	if o := numberless(b, IPv4); o != nil {
		return *o, nil
	}
	asks, apart := container(b), b.plan.Externals()[1]
	if o := deviceless(b); o == nil && b.mode.Limit == 0 {
		c, err := another(b, asks.Machine, network(b), 1)
		if err != nil {
			return Observation{}, err
		}
		if asks, err = b.Attach(ctx, c, asks.Machine); err != nil {
			return Observation{}, err
		}
	}
	to := netip.AddrPortFrom(addrOf(b, external(b), IPv4), controlPort)
	if ok, err := hearsBack(ctx, b, asks); err != nil || !ok { // and both know each other's MAC address
		return blocked("%s asked %s: no answer", asks, to), err
	}
	recorded, err := b.Record(ctx)
	if err != nil {
		return Observation{}, err
	}
	var tokens []string
	for range echoes {
		token := b.newToken()
		a, err := b.Ask(ctx, asks, lab.Ask{Proto: "udp", To: to, Token: token, Wait: patience})
		if err != nil || !a.Answered {
			return Observation{}, errors.Join(err, fmt.Errorf("%s asked %s again: no answer", asks, to))
		}
		tokens = append(tokens, token)
	}
	// What the same machine sends to that port is seen there.
	alive := b.newToken()
	there := Place{Machine: apart.Name}
	if a, err := b.Ask(ctx, external(b), lab.Ask{Proto: "udp", To: netip.AddrPortFrom(addrOf(b, there, IPv4), controlPort), Token: alive, Wait: patience}); err != nil || !a.Answered {
		return Observation{}, errors.Join(err, fmt.Errorf("no control is alive: %s asked %s: no answer", external(b), there))
	}
	own := b.face(external(b).Machine).MAC
	came, err := recorded(ctx, func(p lab.Packet) bool {
		return p.Machine == apart.Name && !p.Outgoing && p.EthSrc.String() == own.String() && (p.Token == alive || slices.Contains(tokens, p.Token))
	})
	if err != nil {
		return Observation{}, err
	}
	strays := map[string]bool{}
	var evidence, control []reports.Evidence
	for _, p := range came {
		if p.Token == alive {
			control = append(control, reports.Evidence{At: at(p), Saw: "control: " + p.Text})
			continue
		}
		strays[p.Token] = true
		evidence = append(evidence, reports.Evidence{At: at(p), Saw: fmt.Sprintf("for %s: %s", p.EthDst, p.Text)})
	}
	if len(control) == 0 {
		return Observation{}, fmt.Errorf("no control is alive: what %s sent to %s was not seen there", external(b), there)
	}
	o := whether(len(strays) == 0, "%s asked %s %d times: %d of the answers came to %s, too", asks, external(b), len(tokens), len(strays), apart.Name)
	if n := len(strays); n > 0 && n < len(tokens) {
		o.Status = "mixed"
	}
	o.Evidence = append(evidence, control...)
	all, err := b.tors(ctx)
	if err != nil {
		return o, err
	}
	for _, tor := range b.plan.Tors() {
		o = o.with(tor.Name, "its switches have learned %d addresses", learned(tor, all[tor.Name].FDB))
	}
	return o, nil
}

// learned is how many addresses of others the switches of a tor have at its ports.
func learned(tor *topology.Machine, fdb []lab.FDB) (n int) {
	for _, e := range fdb {
		if tor.NIC(e.Link) != nil && !e.Local && !e.Self {
			n++
		}
	}
	return n
}

// reachesAll asks over each family that the mode has: all have to be answered, or none.
func reachesAll(ctx context.Context, b *Bench, from, to Place) (all Observation, err error) {
	var said []string
	for _, f := range b.families() {
		o, _, err := reach(ctx, b, from, to, f)
		if err != nil {
			return o, err
		}
		if all.Status == "" {
			all.Status = o.Status
		} else if all.Status != o.Status {
			all.Status = "mixed"
		}
		said = append(said, o.Detail)
		all.Evidence = append(all.Evidence, o.Evidence...)
	}
	all.Detail = strings.Join(said, "; ")
	return all, nil
}

// proven adds to what did not work what the switches say of it: what their rules counted meanwhile, ports that were taken down, and the
// ways that routers have.
func proven(ctx context.Context, b *Bench, run func(context.Context, *Bench) (Observation, error)) (Observation, error) {
	before, err := b.tors(ctx)
	if err != nil {
		return Observation{}, err
	}
	o, err := run(ctx, b)
	if err != nil || o.Status == reports.Works || o.Status == reports.NotApplicable {
		return o, err
	}
	after, err := b.tors(ctx)
	if err != nil {
		return o, err
	}
	for _, tor := range b.plan.Tors() {
		was := map[lab.Rule]uint64{}
		rule := func(r lab.Rule) lab.Rule {
			return lab.Rule{Family: r.Family, Table: r.Table, Chain: r.Chain, Comment: r.Comment}
		}
		for _, r := range before[tor.Name].Rules {
			was[rule(r)] = r.Packets
		}
		now := after[tor.Name]
		for _, r := range now.Rules {
			if n := r.Packets - was[rule(r)]; r.Comment != "" && n > 0 {
				o = o.with(tor.Name, "rule %q: %d packets meanwhile, %d in all", r.Comment, n, r.Packets)
			}
		}
		for _, l := range now.Links {
			if l.Alias != "" {
				o = o.with(tor.Name, "%s is %s: %s", l.Name, l.Oper, l.Alias)
			}
		}
		if b.plan.Topology.Fabric == topology.Routed {
			var ways []string
			for _, r := range now.Routes {
				ways = append(ways, r.Dst.String())
			}
			o = o.with(tor.Name, "it has routes to %s, and to nothing else", orNone(ways))
		}
	}
	for _, step := range b.mode.Wire(b.plan).Setup {
		if step.Program == nil {
			continue
		}
		var s lab.ProgramState
		if err := b.Do(ctx, step.On, "Program.State", step.Program.Name, &s); err != nil {
			return o, err
		}
		for line := range strings.Lines(s.Output) {
			if strings.Contains(line, "rror") {
				o = o.with(step.On, "%s said: %s", step.Program.Name, strings.TrimSpace(line))
			}
		}
	}
	return o, nil
}

// tors are the states of all tors' own namespaces.
func (b *Bench) tors(ctx context.Context) (map[string]lab.SpaceState, error) {
	all := map[string]lab.SpaceState{}
	for _, tor := range b.plan.Tors() {
		s, err := b.State(ctx, tor.Name)
		if err != nil {
			return nil, err
		}
		all[tor.Name] = s.Spaces[""]
	}
	return all, nil
}

// pulled is the first host's cable, out of its port.
func pulled(mode string) Sabotage {
	return Sabotage{Mode: mode, Doc: "the first host's port is down", Steps: func(p *topology.Plan) []topology.Step {
		port := p.Hosts()[0].NICs[0].Peer
		return []topology.Step{{On: port.Machine, Set: &topology.LinkSet{Name: port.Interface, State: "down"}}}
	}}
}

// unguarded takes away what keeps a container from being heard, where one is.
func unguarded(f topology.Fabric) []Sabotage {
	without := func(table func(*topology.Plan) string) []Sabotage {
		return []Sabotage{{Mode: "macvlan-bridge", Doc: "the fabric filters nothing", Steps: func(p *topology.Plan) []topology.Step { return withoutTable(table(p))(p) }}}
	}
	switch f.String() {
	case "port-security":
		return without(func(*topology.Plan) string { return "security" })
	case "nic-3":
		return without(filterOf)
	}
	return nil
}

// filterOf is the table that the first host's first NIC filters by.
func filterOf(p *topology.Plan) string { return "nic-" + p.Hosts()[0].NICs[0].Peer.Interface }
