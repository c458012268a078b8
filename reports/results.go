// Package reports turns the results of a run into documents for people and programs.
//
// It is pure: it reads and writes bytes, and starts nothing. Everything a document shows stands in [Results],
// so that each document can be rebuilt, merged and compared from results.json alone.
package reports

import "time"

// Schema names the version of the results.json contract. Within v1 changes are only additive.
const Schema = "modebench.results/v1"

// Results is the whole of results.json.
type Results struct {
	Schema   string    `json:"schema"`   // always Schema
	Run      Run       `json:"run"`      // how these results were obtained
	Modes    []Mode    `json:"modes"`    // in the order in which documents list them
	Features []Feature `json:"features"` // rows of the matrix, in the order in which documents list them
	Claims   []Claim   `json:"claims"`   // in the order of their ids
	Results  []Result  `json:"results"`  // sorted by suite, mode, implementation, feature, spec
}

// Run tells how results were obtained: enough to repeat them.
type Run struct {
	Version  string    `json:"version"`  // of modebench
	Command  []string  `json:"command"`  // the arguments after the program's name
	Seed     uint64    `json:"seed"`     // of everything that was random
	Started  time.Time `json:"started"`  // UTC
	Seconds  float64   `json:"seconds"`  // wall time of the whole run
	Complete bool      `json:"complete"` // false: interrupted, or a cell that was planned never ran
	Missing  []string  `json:"missing"`  // planned cells that never ran, as "suite/mode/feature"; empty when complete
	// Elsewhere are the cells that other shards of the run were to run, named as in Missing; empty: it was no shard.
	Elsewhere []string `json:"elsewhere"`
	Quick     bool     `json:"quick"`    // too few blocks for intervals: none are claimed
	Topology  Graph    `json:"topology"` // the lab's underlay, drawn
	Source    string   `json:"source"`   // the topology file's text
	Machine   Machine  `json:"machine"`
	Phases    []Phase  `json:"phases"` // where the time went, in order
	Notes     []string `json:"notes"`  // what a reader must know before believing a number, one sentence each
}

// Machine is what the run was obtained on.
type Machine struct {
	OS          string `json:"os"`           // PRETTY_NAME of os-release(5)
	Kernel      string `json:"kernel"`       // release, as uname -r
	Arch        string `json:"arch"`         // GOARCH
	Model       string `json:"model"`        // of the processor
	CPUs        int    `json:"cpus"`         // usable by this process
	MemoryBytes uint64 `json:"memory_bytes"` // MemTotal
	Rootless    bool   `json:"rootless"`     // in a user namespace of an ordinary user
}

// Phase is one span of the run.
type Phase struct {
	Name    string  `json:"name"`
	Seconds float64 `json:"seconds"`
}

// Graph is a drawing of machines, devices and what joins them.
type Graph struct {
	Nodes []Node `json:"nodes"`
	Edges []Edge `json:"edges"`
}

// Node is one thing drawn.
type Node struct {
	ID     string   `json:"id"`     // unique in its graph, such as "h1" or "h1/c1"
	Kind   string   `json:"kind"`   // tor, host, external, container, bridge, nic, …
	Label  string   `json:"label"`  // what is written on it
	Parent string   `json:"parent"` // the node it is drawn inside of; empty: none
	Notes  []string `json:"notes"`  // addresses, MACs, MTUs: one a line
}

// Edge joins two nodes.
type Edge struct {
	From  string `json:"from"`
	To    string `json:"to"`
	Label string `json:"label"`
}

// Mode is one column of the matrix: a mode carried out by one implementation.
type Mode struct {
	Name           string  `json:"name"`
	Implementation string  `json:"implementation"` // kernel, cni, docker, flannel
	Doc            string  `json:"doc"`            // what it is, in a sentence or two
	GoodFor        string  `json:"good_for"`       // for whom it is the right choice, by its documented nature
	BadFor         string  `json:"bad_for"`        // for whom it is not
	Wiring         string  `json:"wiring"`         // what it does to each host, as shell lines
	Graph          Graph   `json:"graph"`          // the lab with this mode's devices
	Host           *Counts `json:"host"`           // what it put on one host, counted in the lab; null: its lab was not started
}

// Counts is what a mode put on one host, by difference of what was there before and after.
type Counts struct {
	Links    int `json:"links"`
	Routes   int `json:"routes"`
	Rules    int `json:"rules"` // packet filter rules
	Sysctls  int `json:"sysctls"`
	Hops     int `json:"hops"`      // IP hops from a container to an external machine; 0: not told
	MACsPort int `json:"macs_port"` // MAC addresses seen at the host's switch port; 0: not told
}

// Feature is one row of the matrix: something that a user may want of a mode.
type Feature struct {
	Name   string   `json:"name"`
	Group  string   `json:"group"`
	Doc    string   `json:"doc"`    // what is asked, in a sentence
	Claims []string `json:"claims"` // ids of the claims that its specs test
}

// Claim is a statement of the field's literature, with what is documented about it and what this run saw.
type Claim struct {
	ID      string   `json:"id"`      // such as C23
	Topic   string   `json:"topic"`   // such as "Bridge"
	Text    string   `json:"text"`    // in our own words
	Modes   []string `json:"modes"`   // the modes that it speaks of; empty: all
	Verdict string   `json:"verdict"` // documented: true, nuance, false, historic, measure
	Nuance  string   `json:"nuance"`  // what the verdict leaves out; empty: nothing
	Source  string   `json:"source"`
	Specs   []string `json:"specs"`   // features whose cells are its evidence
	Cells   []string `json:"cells"`   // "mode/feature" cells that are its evidence; the claim's verdict holds when all of them are as expected
	Untried string   `json:"untried"` // why no spec tests it; empty: specs do
}

// The three things that an expectation or an observation can be.
const (
	Works         = "works"
	Blocked       = "blocked"
	NotApplicable = "not-applicable"
)

// The three outcomes of comparing them.
const (
	Pass   = "pass"   // as expected
	Fail   = "fail"   // not as expected
	Unable = "unable" // this machine cannot say; Reason tells why
)

// Result is one cell: what one spec saw of one mode.
type Result struct {
	Suite          string     `json:"suite"` // conformance, lifecycle, packets, throughput, …
	Mode           string     `json:"mode"`
	Implementation string     `json:"implementation"`
	Feature        string     `json:"feature"`
	Spec           string     `json:"spec"`    // what was done, in a sentence
	Variant        string     `json:"variant"` // a named variation of the mode's wiring, such as "masqueraded"; "again" for the twin of an A/A pair; empty: the mode as it is
	Path           string     `json:"path"`    // of a measurement: same-host or cross-host; empty otherwise
	Profile        string     `json:"profile"` // of a measurement: pinned (both ends on one processor) or steered (receive steering over two); empty otherwise
	Claims         []string   `json:"claims"`
	Expected       string     `json:"expected"` // Works, Blocked, NotApplicable; empty for a measurement
	Observed       string     `json:"observed"` // the same words; empty when unable or a measurement
	Outcome        string     `json:"outcome"`  // Pass, Fail, Unable
	Reason         string     `json:"reason"`   // why it is expected so
	Source         string     `json:"source"`   // where that is documented
	Detail         string     `json:"detail"`   // what was asked and what came; for unable: why
	Evidence       []Evidence `json:"evidence"`
	Reproduce      []string   `json:"reproduce"` // commands
	Capture        string     `json:"capture"`   // file of the report directory; empty: none was kept
	Values         []Value    `json:"values"`
	Fidelity       Fidelity   `json:"fidelity"`
	Seconds        float64    `json:"seconds"`
}

// Evidence is one thing seen at one place.
type Evidence struct {
	At  string `json:"at"`  // such as "h1:eth0" or "h1/c1:eth0"
	Saw string `json:"saw"` // a packet, a counter, an error; the live control says so
}

// Value is one measured number. Throughput results hold one value per block and unit.
type Value struct {
	Unit  string  `json:"unit"` // base units: sec, bit/s, op/s, pkt/s, conn/s, cpu-sec/B, cpu-sec/op, fraction, count; a prefix such as "p50-sec" names the statistic
	Value float64 `json:"value"`
	Block int     `json:"block"` // which block of an interleaved measurement; 0 outside of one
	Count int     `json:"count"` // how many containers there were, of a value that grows with them; 0: it is of none such
}

// Fidelity is what a result was obtained on. Numbers of different fidelities are never ranked together.
type Fidelity struct {
	Kernel      string `json:"kernel"`      // release
	Driver      string `json:"driver"`      // netns, vm, ssh
	Accelerator string `json:"accelerator"` // kvm, tcg, uml; empty: the machine's own processor
	Fabric      string `json:"fabric"`      // open, routed-bgp, trunk; empty: open
	NIC         string `json:"nic"`         // model of the hosts' interfaces, such as virtio-net; empty: ends of veth pairs, or those of User-mode Linux
}

// Machines tells whether hosts were machines with NICs of a model. User-mode Linux's are none: they filter nothing, as ends of
// veth pairs.
func (f Fidelity) Machines() bool { return f.NIC != "" }
