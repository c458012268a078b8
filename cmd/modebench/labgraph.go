package main

import (
	"context"
	"strings"

	"github.com/modebench/modebench/reports"
	"github.com/modebench/modebench/topology"
	"github.com/modebench/modebench/topology/lab"
)

// draw is the lab as it is now: what its machines and containers tell of themselves, joined as the plan joins them.
func (s *supervisor) draw(ctx context.Context) *reports.Graph {
	p := s.bench.Plan()
	states := map[string]lab.State{}
	for _, m := range p.Machines {
		if st, err := s.bench.State(ctx, m.Name); err == nil {
			states[m.Name] = st
		}
	}
	g := sketch(p, states)
	return &g
}

// sketch draws machines from their states. One that has none does not answer.
func sketch(p *topology.Plan, states map[string]lab.State) (g reports.Graph) {
	for i := range p.Machines {
		m := &p.Machines[i]
		node := reports.Node{ID: m.Name, Kind: string(m.Role), Label: m.Name}
		if m.Role == topology.RoleTor {
			node.Notes = []string{"fabric " + p.Topology.Fabric.String()}
		}
		st, answers := states[m.Name]
		if !answers {
			node.Notes = append(node.Notes, "does not answer")
		}
		g.Nodes = append(g.Nodes, node)
		devices(&g, m.Name, "", st)
		for _, c := range containers(st) {
			id := m.Name + "/" + c
			node := reports.Node{ID: id, Kind: "container", Label: c, Parent: m.Name}
			if of := sharedWith(st, c); of != "" {
				node.Notes = []string{"in the namespace of " + strings.TrimSuffix(m.Name+"/"+of, "/"+own)}
				g.Nodes = append(g.Nodes, node)
				continue
			}
			g.Nodes = append(g.Nodes, node)
			devices(&g, m.Name, c, st)
		}
		for _, n := range m.NICs { // each cable once: from the machine to its tor
			if m.Role != topology.RoleTor && n.Peer.Machine != "" {
				g.Edges = append(g.Edges, reports.Edge{From: m.Name + ":" + n.Name, To: n.Peer.Machine + ":" + n.Peer.Interface, Label: n.Segment})
			}
		}
	}
	return g
}

// own stands for the machine's own namespace.
const own = "."

// sharedWith is whose namespace a container lives in, if not in one of its own: the machine's own, or another container's.
func sharedWith(st lab.State, container string) string {
	inode := st.Spaces[container].Inode
	if st.Spaces[""].Inode == inode {
		return own
	}
	for _, c := range containers(st) {
		switch {
		case c == container:
			return ""
		case st.Spaces[c].Inode == inode:
			return c
		}
	}
	return ""
}

// devices draws those of one namespace of a machine, but its loopback.
func devices(g *reports.Graph, machine, container string, st lab.State) {
	of := machine
	if container != "" {
		of += "/" + container
	}
	space := st.Spaces[container]
	at := func(in string, index int) *lab.Link {
		for i, l := range st.Spaces[in].Links {
			if l.Index == index && l.Kind != "loopback" {
				return &st.Spaces[in].Links[i]
			}
		}
		return nil
	}
	for _, l := range space.Links {
		if l.Kind == "loopback" {
			continue
		}
		n := reports.Node{ID: of + ":" + l.Name, Kind: l.Kind, Label: l.Name, Parent: of}
		what := strings.TrimSpace(l.Kind + " " + l.Mode)
		if l.MAC != nil {
			what += " " + l.MAC.String()
		}
		if !l.Up {
			what += " down"
		}
		n.Notes = append(n.Notes, what)
		for _, a := range space.Addrs {
			if a.Link == l.Name && !a.LinkLocal {
				n.Notes = append(n.Notes, a.Prefix.String())
			}
		}
		g.Nodes = append(g.Nodes, n)
		if l.Master != "" {
			g.Edges = append(g.Edges, reports.Edge{From: n.ID, To: of + ":" + l.Master})
		}
		switch {
		case l.Parent == 0:
		case container != "" && l.Kind != "veth" && at("", l.Parent) != nil:
			g.Edges = append(g.Edges, reports.Edge{From: n.ID, To: machine + ":" + at("", l.Parent).Name})
		case container != "" && at("", l.Parent) != nil && at("", l.Parent).Parent == l.Index:
			g.Edges = append(g.Edges, reports.Edge{From: n.ID, To: machine + ":" + at("", l.Parent).Name})
		case l.Kind != "veth" && at(container, l.Parent) != nil:
			g.Edges = append(g.Edges, reports.Edge{From: n.ID, To: of + ":" + at(container, l.Parent).Name})
		}
	}
}
