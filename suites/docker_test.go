package suites

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/modebench/modebench/modes"
	"github.com/modebench/modebench/reports"
	"github.com/modebench/modebench/topology"
	"github.com/modebench/modebench/topology/host/docker"
	"github.com/modebench/modebench/topology/host/program"
)

// byEngine is a mode that an engine of Docker's carries out.
func byEngine(t *testing.T, name string) modes.Mode {
	t.Helper()
	if *onlyFeatures != "" || *onlyModes != "" || *guests != "" || *inGuest {
		t.Skip("not asked for")
	}
	for _, p := range docker.Programs("") {
		if _, err := program.Find(p); err != nil {
			unable(t, "%s is not there: apt-get install docker.io", p)
		}
	}
	m, ok := modes.Named(modes.Label(name, modes.ByDocker), nil)
	if !ok {
		t.Fatalf("mode %s is not carried out by Docker", name)
	}
	return m
}

// TestDocker observes a mode as an engine carries it out, by a few of the same specs: of reachability, ports, names and lifecycle.
func TestDocker(t *testing.T) {
	t.Parallel()
	run := runOf(t, byEngine(t, "bridge"))
	run.Features = []string{"same-host-ipv4", "container-to-external-ipv6", "network-isolation-ipv4", "publish-tcp-ipv4", "hairpin-sibling-ipv4", "resolver-own", "attach-detach"}
	observeAll(t, run.observer(run.Modes[0], nil), run.specs(run.Modes[0]))
}

// TestDockerSabotage has engines configured as they should not be: each has to turn a spec red.
func TestDockerSabotage(t *testing.T) {
	t.Parallel()
	m := byEngine(t, "bridge")
	setup := m.Setup
	m.Setup = func(p *topology.Plan, host *topology.Machine) []topology.Step {
		steps := setup(p, host)
		for i, s := range steps {
			if s.EngineNetwork != nil {
				n := *s.EngineNetwork
				n.Options = maps.Clone(n.Options)
				n.Options["com.docker.network.bridge.enable_icc"] = "false"
				n.Options["com.docker.network.bridge.enable_ip_masquerade"] = "false"
				steps[i].EngineNetwork = &n
			}
		}
		return steps
	}
	run := runOf(t, m)
	run.Features = []string{"container-to-external-ipv4"}
	o := run.observer(run.Modes[0], nil)
	o.start(t.Context())
	for _, s := range run.specs(run.Modes[0]) {
		if r := o.observe(t.Context(), s); r.Outcome != reports.Fail {
			t.Errorf("%s: outcome %s: want fail: %s", s.Feature.Name, r.Outcome, r.Detail)
		}
	}
	if err := o.stop(); err != nil {
		t.Error(err)
	}
}

// Where a container cannot be run, the mode says why, and what the engine said.
func TestDockerRefuses(t *testing.T) {
	t.Parallel()
	run := runOf(t, byEngine(t, "none"))
	run.Features = []string{"interface"}
	o := run.observer(run.Modes[0], nil)
	o.rewire = func(steps []topology.Step) []topology.Step {
		steps = slices.Clone(steps)
		for i, s := range steps {
			if s.Space != nil && s.Space.Run != nil {
				made, run := *s.Space, *s.Space.Run
				run.Network = "nowhere"
				made.Run, steps[i].Space = &run, &made
			}
		}
		return steps
	}
	o.start(t.Context())
	for _, s := range run.specs(run.Modes[0]) {
		if r := o.observe(t.Context(), s); r.Outcome != reports.Fail || !strings.Contains(r.Detail, "network nowhere not found") {
			t.Errorf("%s: outcome %s: want fail, and what the engine said: %s", s.Feature.Name, r.Outcome, r.Detail)
		}
	}
	if err := o.stop(); err != nil {
		t.Error(err)
	}
}
