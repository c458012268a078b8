package suites

import (
	"slices"
	"strings"
	"testing"

	"github.com/modebench/modebench/fixtures"
	"github.com/modebench/modebench/modes"
	"github.com/modebench/modebench/reports"
	"github.com/modebench/modebench/topology"
	"github.com/modebench/modebench/topology/netns"
)

// byPlugins are the modes that CNI's reference plugins carry out on this kernel.
func byPlugins(t *testing.T, names ...string) []modes.Mode {
	t.Helper()
	if plugins == "" {
		unable(t, "CNI's reference plugins are not built")
	}
	var all []modes.Mode
	for _, name := range names {
		m, ok := modes.Named(modes.Label(name, modes.ByCNI), modes.Dirs{modes.ByCNI: plugins})
		if !ok {
			t.Fatalf("mode %s is not carried out by plugins", name)
		}
		all = append(all, m)
	}
	carried, others := able(t, all, twoHosts(t))
	if len(carried) < len(all) {
		unable(t, "this machine carries no lab of %v by plugins", others)
	}
	return carried
}

func runOf(t *testing.T, ms ...modes.Mode) *Run {
	t.Helper()
	expectations, err := modes.Expectations(fixtures.FS)
	if err != nil {
		t.Fatal(err)
	}
	return &Run{Driver: netns.Driver{}, Topology: twoHosts(t), Modes: ms, Suites: chosen(observing, nil), Expectations: expectations, Emit: func(Event) {}}
}

// TestCNI observes modes as CNI's reference plugins carry them out, by the same specs.
func TestCNI(t *testing.T) {
	if *onlyFeatures != "" || *onlyModes != "" || *guests != "" || *inGuest || *onlySabotage {
		t.Skip("not asked for")
	}
	t.Parallel()
	run := runOf(t, byPlugins(t, "bridge", "ptp", "macvlan-bridge")...)
	for _, m := range run.Modes {
		run := *run
		if m.Name == "ptp" { // its plugin is made of the same parts as the one of bridge
			run.Suites = slices.DeleteFunc(slices.Clone(run.Suites), func(s string) bool { return s == Plugged })
		}
		for _, specs := range labs(slices.DeleteFunc(run.specs(m), func(s Spec) bool { return s.By == modes.ByCNI && elsewhere(t, s) })) {
			t.Run(m.Name, func(t *testing.T) {
				t.Parallel()
				observeAll(t, run.observer(m, specs[0].On), specs)
			})
		}
	}
	run.Suites = []string{Plugged} // the others' are broken by TestSuites
	sabotageBeside(t, run)
}

// TestCNISabotage configures plugins wrongly, in the ways in which people do: each has to turn a spec red.
func TestCNISabotage(t *testing.T) {
	if *onlyFeatures != "" || *onlyModes != "" || *guests != "" || *inGuest || *noSabotage {
		t.Skip("not asked for")
	}
	t.Parallel()
	in := func(old, new string) func([]topology.Step) []topology.Step {
		return func(steps []topology.Step) []topology.Step {
			steps = slices.Clone(steps)
			for i, s := range steps {
				if s.CNI != nil {
					c := *s.CNI
					c.List = strings.ReplaceAll(c.List, old, new)
					steps[i].CNI = &c
				}
			}
			return steps
		}
	}
	for _, how := range []struct {
		mode, doc string
		rewire    func([]topology.Step) []topology.Step
		features  []string
	}{
		{"bridge", "no masquerading", in(`"ipMasq":true`, `"ipMasq":false`), []string{"container-to-external-ipv4", "container-to-external-ipv6"}},
		{"bridge", "no gateway on the bridge", in(`"isGateway":true`, `"isGateway":false`), []string{"container-to-host-ipv4", "container-to-external-ipv4"}},
		{"bridge", "ports isolated from each other", in(`"isGateway":true`, `"isGateway":true,"portIsolation":true`), []string{"same-host-ipv4", "broadcast-siblings"}},
		{"bridge", "an MTU of its own", in(`"mtu":1500`, `"mtu":1400`), []string{"mtu-full-ipv4"}},
		{"ptp", "no masquerading", in(`"ipMasq":true`, `"ipMasq":false`), []string{"container-to-external-ipv4"}},
		{"ptp", "no default routes", in(`{"dst":"0.0.0.0/0"},{"dst":"::/0"}`, ``), []string{"container-to-external-ipv4"}},
		{"macvlan-bridge", "mode private", in(`"mode":"bridge"`, `"mode":"private"`), []string{"same-host-ipv4", "broadcast-siblings"}},
		{"macvlan-bridge", "on the other interface", in(`"master":"eth0"`, `"master":"eth1"`), []string{"external-to-container-ipv4"}},
	} {
		t.Run(how.mode+": "+how.doc, func(t *testing.T) {
			t.Parallel()
			run := runOf(t, byPlugins(t, how.mode)...)
			run.Features = how.features
			specs := run.specs(run.Modes[0])
			if len(specs) != len(how.features) {
				t.Fatalf("%d of the features %v exist", len(specs), how.features)
			}
			o := run.observer(run.Modes[0], nil)
			o.rewire = how.rewire
			o.start(t.Context())
			for _, s := range specs {
				if r := o.observe(t.Context(), s); r.Outcome != reports.Fail {
					t.Errorf("%s: outcome %s: want fail: %s", s.Feature.Name, r.Outcome, r.Detail)
				}
			}
			if err := o.stop(); err != nil {
				t.Error(err)
			}
		})
	}
}
