// Package suites is what every mode is asked. A spec observes one feature of one mode in a running lab and never
// judges; what the mode should do stands in data, and the outcome is the two compared.
package suites

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/modebench/modebench/modes"
	"github.com/modebench/modebench/reports"
	"github.com/modebench/modebench/topology"
)

// Spec is the experiment that observes one feature.
type Spec struct {
	Suite   string // one of Names
	Feature Feature
	Name    string // what is done, in a sentence
	// Needs is what the experiment needs of a kernel besides what the mode does: one without it cannot say.
	Needs []modes.Kernel
	// Programs are programs of others that the experiment runs on a host, by name, each with the distribution's package that has it.
	Programs map[string]string
	// Machines says that the question is one of hosts that are machines: on others it is not applicable, and sabotages are
	// in vain.
	Machines bool
	// By says whose question it is: of modes that plugins carry out, whoever's they are (modes.ByCNI), or an engine (modes.ByDocker); empty: of all.
	By string
	// On is the fabric that the experiment is done on, in a lab of its own; nil: that of the mode. A mode that has no place on it is
	// not applicable there, and one that cannot be set up is blocked.
	On *topology.Fabric
	// Within bounds the experiment; 0: four minutes.
	Within time.Duration
	// Soaks says that the experiment lasts besides as long as the run says (Run.Soak).
	Soaks bool
	// Run observes the bench's mode. The bench is as after the mode was set up and its containers attached, and what Run
	// changes by the bench's verbs is undone after it. An error means that the experiment could not be done.
	Run func(context.Context, *Bench) (Observation, error)
	// Sabotage are the ways of breaking a mode that must turn the spec red; at least one.
	Sabotage []Sabotage
}

// Asks tells whether the question is one of a mode as it is carried out.
func (s Spec) Asks(m modes.Mode) bool {
	return s.By == "" || s.By == m.Carrier() || s.By == modes.ByCNI && m.Plugged()
}

// Feature is something that a user may want of a mode: a row of the matrix.
type Feature struct {
	Name  string
	Group string // reach, addresses, multicast, ports, nat, services, packets, isolation, lifecycle, operations, routing, limits, cni, failure; a fabric
	Doc   string // the question, answered yes (works), no (blocked) or not-applicable
}

// Observation is what a spec saw. Status is reports.Works, reports.Blocked or reports.NotApplicable.
type Observation struct {
	Status    string
	Detail    string             // what was asked, what came, and where a packet was last seen
	Evidence  []reports.Evidence // the live control of a blocked observation included
	Reproduce []string           // shell lines, in the words of the wiring
	Values    []reports.Value

	capture string // file that the packets were kept in
}

// Sabotage breaks one mode: by steps on a healthy lab, or by what happens to the steps of an attachment or of a
// publication, or to those that prepare a host.
type Sabotage struct {
	Mode   string
	Doc    string                              // what is broken, such as "masquerade missing"
	Before func(context.Context, *Bench) error // brings about what the break must find, with Steps; nil: nothing
	Steps  func(*topology.Plan) []topology.Step
	Rewire func([]topology.Step) []topology.Step
	Setup  func([]topology.Step) []topology.Step
	// Spares is what Rewire is, of the containers alone that only specs attach (see ofSpares), and where nothing of it stays when these are detached.
	Spares func([]topology.Step) []topology.Step
}

var registry []Spec

// register adds a spec at package initialisation.
func register(s Spec) bool {
	registry = append(registry, s)
	return true
}

// Family is an IP family, as a suffix of features.
type Family string

// The two families.
const (
	IPv4 Family = "ipv4"
	IPv6 Family = "ipv6"
)

// registerFamilies adds a spec for each family: the feature's name gets the family's.
func registerFamilies(of func(Family) Spec) bool {
	for _, f := range []Family{IPv4, IPv6} {
		s := of(f)
		s.Feature.Name += "-" + string(f)
		s.Feature.Doc = fmt.Sprintf("%s (%s)", s.Feature.Doc, map[Family]string{IPv4: "IPv4", IPv6: "IPv6"}[f])
		register(s)
	}
	return true
}

// Groups are the groups of features, in the order of documents.
var groups = append([]string{"reach", "addresses", "multicast", "ports", "nat", "services", "packets", "isolation", "lifecycle", "operations", "routing", "limits", Plugged, Engined, failure}, fabrics...)

// Specs returns all specs: by group, then by feature, then by name.
func Specs() []Spec { return slices.Clone(sorted()) }

var sorted = sync.OnceValue(func() []Spec {
	return slices.SortedFunc(slices.Values(registry), func(a, b Spec) int {
		return cmp.Or(
			cmp.Compare(slices.Index(groups, a.Feature.Group), slices.Index(groups, b.Feature.Group)),
			cmp.Compare(a.Feature.Name, b.Feature.Name), cmp.Compare(a.Name, b.Name))
	})
})

// Features are the names of all features, in the order of [Specs], and of what is measured.
func Features() (names []string) {
	for _, s := range Specs() {
		names = append(names, s.Feature.Name)
	}
	for _, g := range gauges {
		names = append(names, g.feature)
	}
	return names
}

func works(format string, args ...any) Observation {
	return Observation{Status: reports.Works, Detail: fmt.Sprintf(format, args...)}
}

func blocked(format string, args ...any) Observation {
	return Observation{Status: reports.Blocked, Detail: fmt.Sprintf(format, args...)}
}

func notApplicable(format string, args ...any) Observation {
	return Observation{Status: reports.NotApplicable, Detail: fmt.Sprintf(format, args...)}
}

// whether is works where the answer is yes, else blocked.
func whether(yes bool, format string, args ...any) Observation {
	if yes {
		return works(format, args...)
	}
	return blocked(format, args...)
}

// with adds evidence.
func (o Observation) with(at, format string, args ...any) Observation {
	o.Evidence = append(slices.Clone(o.Evidence), reports.Evidence{At: at, Saw: fmt.Sprintf(format, args...)})
	return o
}

// value adds a number.
func (o Observation) value(unit string, v float64) Observation {
	o.Values = append(slices.Clone(o.Values), reports.Value{Unit: unit, Value: v})
	return o
}
