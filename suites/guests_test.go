package suites

import (
	"fmt"
	"io"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/modebench/modebench/fixtures"
	"github.com/modebench/modebench/modes"
	"github.com/modebench/modebench/topology"
	"github.com/modebench/modebench/topology/daemons"
	"github.com/modebench/modebench/topology/host"
	"github.com/modebench/modebench/topology/vm"
)

// modules are what labs of all modes need a guest to load.
var modules = []string{"underlay", "macvlan", "ipvlan", "802.1q", "vlan-filtering", "vxlan", "ipip", "br_netfilter", "nftables", "nft-nat", "nft-bridge", "nft-balance", "nft-netdev", "tbf", "ifb", "netem"}

// able are the modes that this kernel can carry, and the names of the others.
func able(t *testing.T, all []modes.Mode, top topology.Topology) (carried []modes.Mode, others []string) {
	for _, m := range all {
		p, err := m.Plan(top)
		if err != nil {
			t.Fatal(err)
		}
		missing, err := host.Kernel(m.Requires(p))
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case m.Implementation != "" && daemons.Needs(daemons.Plugins.Names()) != nil, m.Implementation != "" && plugins == "":
			if strict() {
				t.Errorf("unable: mode %s: there are no plugins, or what they need", m)
			}
		case len(m.Programs) > 0 && !found(m.Programs): // in no guest either
			if strict() {
				t.Errorf("unable: mode %s runs %v, which are not built", m.Name, m.Programs)
			}
		case len(m.Programs) > 0 && (*inGuest || *guests != ""): // there is no program but this one
		case len(missing) == 0:
			carried = append(carried, m)
		default:
			others = append(others, m.Name)
		}
	}
	return carried, others
}

// found tells whether the machine has programs.
func found(names []string) bool {
	return daemons.Needs(names) == nil && !slices.ContainsFunc(names, func(name string) bool { _, err := exec.LookPath(name); return err != nil })
}

// TestGuests observes, in guests, the modes that this kernel cannot carry: these very tests are the guest's first process, and
// TestSuites runs there. Specs that need more than their mode does go to a kernel that has it. A spec that is sabotaged on a
// mode of this kernel is not sabotaged again there, unless sabotages are all that is asked for.
func TestGuests(t *testing.T) {
	if *guests != "" || *inGuest {
		t.Skip("not asked for: hosts or the tests themselves are guests")
	}
	t.Parallel()
	carried, all := able(t, chosenModes(t), twoHosts(t))
	var here []string
	for _, m := range carried {
		here = append(here, m.Name)
	}
	if len(all) == 0 {
		return
	}
	cache := t.TempDir()
	kernels, lacking := vm.Kernels(cache)
	at := func(kind string) *vm.Kernel {
		i := slices.IndexFunc(kernels, func(k vm.Kernel) bool { return k.Kind == kind })
		if i < 0 {
			return nil
		}
		return &kernels[i]
	}
	usual, whole := at(vm.UML), at(vm.QEMU)
	if usual == nil || whole == nil {
		unable(t, "this kernel cannot carry %v, and of the guest kernels uml and debian-cloud one is lacking: %v", all, lacking)
	}
	var light, heavy []string
	for _, s := range Specs() {
		switch {
		case *onlyFeatures != "" && !slices.Contains(chosen(*onlyFeatures, nil), s.Feature.Name):
		case len(s.Programs) > 0: // there is none but this one
		case slices.ContainsFunc(s.Needs, func(need modes.Kernel) bool { return need != netem && !slices.Contains(shapers, need) }): // those User-mode Linux has, and an emulator has no rates
			heavy = append(heavy, s.Feature.Name)
		default:
			light = append(light, s.Feature.Name)
		}
	}
	// What is observed and what a few sabotages of a suite do take a guest each, since a guest has one processor.
	const atOnce = 5
	type errand struct {
		name     string
		kernel   *vm.Kernel
		features []string
		args     []string
	}
	var errands []errand
	add := func(mode string, e errand) {
		if e.args = append(e.args, fmt.Sprintf("-every-sabotage=%v", !few()), "-modes="+mode, "-features="+strings.Join(e.features, ",")); len(e.features) > 0 {
			e.name = mode + " on " + e.kernel.Name + e.name
			errands = append(errands, e)
		}
	}
	for _, mode := range all {
		own, asked := usual, light
		if m, _ := modes.Find(mode); slices.Contains(m.Needs, modes.NFTNAT) { // which User-mode Linux lacks
			own, asked = whole, slices.Concat(light, heavy)
		}
		if !*noSabotage {
			for _, suite := range chosen(*onlySuites, nil) {
				sabotaged := slices.DeleteFunc(slices.Clone(asked), func(f string) bool {
					return !breaks(f, suite, mode) || !*onlySabotage && breaks(f, suite, here...) || few() && slices.Contains(families(), f)
				})
				for some := range slices.Chunk(sabotaged, atOnce) {
					add(mode, errand{": sabotages of " + suite, own, some, []string{"-only-sabotage", "-suites=" + suite}})
				}
			}
		}
		if !*onlySabotage {
			of := *onlySuites
			if of == observing { // a guest takes minutes for the others, of which modes of this kernel are asked, and of a guest's modes one
				of = "conformance"
				if mode == "ipvlan-l3" {
					of = "conformance,packets,routing"
				}
			}
			add(mode, errand{"", own, asked, []string{"-no-sabotage", "-suites=" + of}})
		}
		if own != whole && (mode == all[0] || *onlyModes != "") { // emulated: one of them stands for all
			add(mode, errand{"", whole, heavy, []string{
				"-suites=" + *onlySuites, fmt.Sprintf("-only-sabotage=%v", *onlySabotage), fmt.Sprintf("-no-sabotage=%v", *noSabotage),
			}})
		}
	}
	for _, e := range errands {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel()
			m, err := vm.Boot(t.Context(), *e.kernel, vm.Guest{
				Name: "tests", Cache: cache, Memory: 1 << 30, CPUs: runtime.NumCPU(), Features: modules,
				Args: append([]string{"-test.run=^TestSuites$", "-test.v", "-in-guest"}, e.args...),
			})
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := m.Stop(); err != nil {
					t.Error(err)
				}
			}()
			out, err := io.ReadAll(m.Stream)
			if err != nil {
				t.Errorf("%v", err)
			}
			t.Logf("%s", out)
			if !strings.Contains(string(out), "--- PASS: TestSuites") {
				t.Error("TestSuites has not passed there")
			}
		})
	}
}

// TestMachines shows that sabotages turn those specs red that are only of hosts that are machines.
func TestMachines(t *testing.T) {
	if *guests != "" || *inGuest || *noSabotage {
		t.Skip("not asked for: hosts or the tests themselves are guests, or nothing is to be sabotaged")
	}
	t.Parallel()
	kernels, lacking := vm.Kernels(t.TempDir())
	i := slices.IndexFunc(kernels, func(k vm.Kernel) bool { return k.Kind == vm.QEMU })
	if i < 0 {
		unable(t, "no kernel for machines: %v", lacking)
	}
	expectations, err := modes.Expectations(fixtures.FS)
	if err != nil {
		t.Fatal(err)
	}
	driver, fidelity := guestDriver(t, kernels[i].Name)
	run := &Run{
		Driver: driver, Fidelity: fidelity, Topology: twoHosts(t), Modes: chosenModes(t), Suites: chosen(*onlySuites, nil), Expectations: expectations,
	}
	for _, s := range Specs() {
		if s.Machines && slices.Contains(chosen(*onlyFeatures, []string{s.Feature.Name}), s.Feature.Name) {
			run.Features = append(run.Features, s.Feature.Name)
		}
	}
	if len(run.Features) > 0 {
		sabotageBeside(t, run)
	}
}

// breaks tells whether a spec has a sabotage of one of the modes.
func breaks(feature, suite string, modes ...string) bool {
	return slices.ContainsFunc(Specs(), func(s Spec) bool {
		return s.Suite == suite && s.Feature.Name == feature && slices.ContainsFunc(s.Sabotage, func(how Sabotage) bool { return slices.Contains(modes, how.Mode) })
	})
}
