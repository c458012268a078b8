package modes

import "github.com/modebench/modebench/topology"

var _ = register(10, Mode{
	Name:    "none",
	Doc:     "A network namespace of its own with nothing in it but the loopback.",
	GoodFor: "Batch jobs that must not reach anything, and containers that get their network later.",
	BadFor:  "Whatever has to talk to anyone.",
	Attach: func(_ *topology.Plan, host *topology.Machine, c topology.Container) []topology.Step {
		s := steps{on: host.Name}
		s.own(c)
		return s.all
	},
	Docker: &Engined{},
})
