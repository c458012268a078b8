package main

import (
	"bufio"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/modebench/modebench/fixtures"
	"github.com/modebench/modebench/modes"
	"github.com/modebench/modebench/reports"
	"github.com/modebench/modebench/suites"
	"github.com/modebench/modebench/topology"
)

// machine is what this run is obtained on.
func machine() reports.Machine {
	m := reports.Machine{OS: "unknown", Kernel: release(), Arch: runtime.GOARCH, CPUs: runtime.NumCPU(), Rootless: os.Geteuid() != 0}
	if v, ok := field("/etc/os-release", "PRETTY_NAME", "="); ok {
		m.OS = strings.Trim(v, `"`)
	}
	if v, ok := field("/proc/cpuinfo", "model name", ":"); ok {
		m.Model = v
	}
	m.MemoryBytes = memory("MemTotal")
	return m
}

// memory is a line of proc_meminfo(5), in bytes; 0: unknown.
func memory(line string) uint64 {
	v, _ := field("/proc/meminfo", line, ":")
	kB, _ := strconv.ParseUint(strings.TrimSuffix(v, " kB"), 10, 64)
	return kB * 1024
}

// field finds the first line of a file with a key, and gives what stands after the separator.
func field(file, key, separator string) (string, bool) {
	f, err := os.Open(file)
	if err != nil {
		return "", false
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if k, v, ok := strings.Cut(lines.Text(), separator); ok && strings.TrimSpace(k) == key {
			return strings.TrimSpace(v), true
		}
	}
	return "", false
}

// describe fills in what results need besides cells: modes, features, claims, and what is missing.
func describe(res *reports.Results, p *topology.Plan, ms []modes.Mode, counts map[string]*reports.Counts) error {
	claims, err := modes.Claims(fixtures.FS)
	if err != nil {
		return err
	}
	ofCell, ofFeature := map[string][]string{}, map[string][]string{}
	for _, c := range claims {
		var specs []string
		for _, cell := range c.Cells {
			_, feature, _ := strings.Cut(cell, "/")
			ofCell[cell] = append(ofCell[cell], c.ID)
			if !slices.Contains(specs, feature) {
				specs = append(specs, feature)
			}
			if !slices.Contains(ofFeature[feature], c.ID) {
				ofFeature[feature] = append(ofFeature[feature], c.ID)
			}
		}
		res.Claims = append(res.Claims, reports.Claim{
			ID: c.ID, Topic: c.Topic, Text: c.Text, Modes: c.Modes, Verdict: c.Verdict, Nuance: c.Nuance, Source: c.Source,
			Specs: specs, Cells: c.Cells, Untried: c.Untried,
		})
	}
	for _, s := range suites.Specs() {
		res.Features = append(res.Features, reports.Feature{Name: s.Feature.Name, Group: s.Feature.Group, Doc: s.Feature.Doc, Claims: ofFeature[s.Feature.Name]})
	}
	for _, m := range ms {
		p := p
		if own, err := m.Plan(p.Topology); err == nil { // else its cells tell
			p = own
		}
		w := m.Wire(p)
		c := counts[m.String()] // nil: its lab was not started
		for _, r := range res.Results {
			for _, v := range r.Values {
				switch {
				case c == nil || r.Mode != m.Name || r.Implementation != m.Carrier():
				case r.Feature == "ttl-out" && v.Unit == "hops":
					c.Hops = int(v.Value)
				case r.Feature == "one-mac" && v.Unit == "count":
					c.MACsPort = int(v.Value)
				}
			}
		}
		res.Modes = append(res.Modes, reports.Mode{
			Name: m.Name, Implementation: m.Carrier(), Doc: m.Doc, GoodFor: m.GoodFor, BadFor: m.BadFor,
			Wiring: w.String(), Graph: draw(p, w), Host: c,
		})
	}
	for i := range res.Results {
		r := &res.Results[i]
		if r.Implementation == modes.ByKernel { // claims are of modes, whoever carries them out badly
			r.Claims = ofCell[r.Mode+"/"+r.Feature]
		}
	}
	reports.Sort(res, suites.Names())
	return nil
}

// draw is the lab as a graph: its machines, what joins them, and what a wiring puts on the hosts.
func draw(p *topology.Plan, w topology.Wiring) reports.Graph {
	var g reports.Graph
	for i := range p.Machines {
		m := &p.Machines[i]
		node := reports.Node{ID: m.Name, Kind: string(m.Role), Label: m.Name}
		for _, n := range m.NICs {
			if n.V4.IsValid() {
				node.Notes = append(node.Notes, fmt.Sprintf("%s %s %s", n.Name, n.V4, n.V6))
				g.Edges = append(g.Edges, reports.Edge{From: m.Name, To: n.Peer.Machine, Label: n.Segment})
			}
		}
		g.Nodes = append(g.Nodes, node)
		if w.Mode == "" {
			for _, c := range m.Containers {
				g.Nodes = append(g.Nodes, reports.Node{ID: c.ID(), Kind: "container", Label: c.Name, Parent: m.Name, Notes: []string{"network " + c.Network}})
			}
		}
	}
	for _, s := range w.Setup {
		if s.Link != nil {
			g.Nodes = append(g.Nodes, reports.Node{ID: s.On + ":" + s.Link.Name, Kind: s.Link.Kind, Label: s.Link.Name, Parent: s.On})
		}
	}
	for _, a := range w.Attached {
		id := a.Host + "/" + a.Container.Name
		node := reports.Node{ID: id, Kind: "container", Label: a.Container.Name, Parent: a.Host}
		for _, s := range a.Steps {
			switch {
			case s.Space != nil && s.Space.Run != nil && s.Space.Share == "":
				for _, a := range s.Space.Run.Addrs {
					node.Notes = append(node.Notes, a.String())
				}
				g.Edges = append(g.Edges, reports.Edge{From: id, To: a.Host, Label: "docker network " + s.Space.Run.Network})
			case s.Space != nil && s.Space.Share == "host":
				g.Edges = append(g.Edges, reports.Edge{From: id, To: a.Host, Label: "shares the host's namespace"})
			case s.Space != nil && s.Space.Share != "":
				g.Edges = append(g.Edges, reports.Edge{From: id, To: a.Host + "/" + s.Space.Share, Label: "shares its namespace"})
			case s.Addr != nil && s.In == a.Container.Name:
				node.Notes = append(node.Notes, s.Addr.Prefix.String())
			case s.CNI != nil:
				g.Edges = append(g.Edges, reports.Edge{From: id, To: a.Host, Label: "CNI " + strings.Join(s.CNI.Plugins(), ", ")})
			case s.Link != nil && s.Link.Master != "":
				g.Edges = append(g.Edges, reports.Edge{From: id, To: a.Host + ":" + s.Link.Master, Label: s.Link.Kind})
			case s.Link != nil && s.Link.Parent != "":
				g.Edges = append(g.Edges, reports.Edge{From: id, To: a.Host, Label: s.Link.Kind + " on " + s.Link.Parent})
			case s.Link != nil:
				g.Edges = append(g.Edges, reports.Edge{From: id, To: a.Host, Label: s.Link.Kind + ", routed"})
			}
		}
		g.Nodes = append(g.Nodes, node)
	}
	return g
}
