package suites

import (
	"io"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/modebench/modebench/modes"
	"github.com/modebench/modebench/topology"
	"github.com/modebench/modebench/topology/host"
	"github.com/modebench/modebench/topology/vm"
)

// modules are what labs of all modes need a guest to load.
var modules = []string{"underlay", "macvlan", "ipvlan", "802.1q", "vlan-filtering", "br_netfilter", "nftables", "nft-nat", "tbf", "netem"}

// needsOf is what a mode's lab needs of a kernel.
func needsOf(t *testing.T, m modes.Mode, top topology.Topology) []string {
	p, err := m.Plan(top)
	if err != nil {
		t.Fatal(err)
	}
	needs := p.Needs()
	for _, k := range m.Needs {
		needs = append(needs, string(k))
	}
	return needs
}

// able are the modes that this kernel can carry, and the names of the others.
func able(t *testing.T, all []modes.Mode, top topology.Topology) (carried []modes.Mode, others []string) {
	for _, m := range all {
		missing, err := host.Kernel(needsOf(t, m, top))
		if err != nil {
			t.Fatal(err)
		}
		if len(missing) == 0 {
			carried = append(carried, m)
		} else {
			others = append(others, m.Name)
		}
	}
	return carried, others
}

// TestGuests observes, in guests, the modes that this kernel cannot carry: these very tests are the guest's first process, and
// TestSuites runs there. Specs that need more than their mode does go to a kernel that has it.
func TestGuests(t *testing.T) {
	if *guests != "" || *inGuest {
		t.Skip("not asked for: hosts or the tests themselves are guests")
	}
	_, all := able(t, chosenModes(t), twoHosts(t))
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
		case len(s.Needs) > 0:
			heavy = append(heavy, s.Feature.Name)
		default:
			light = append(light, s.Feature.Name)
		}
	}
	room := make(chan struct{}, runtime.NumCPU())
	for _, mode := range all {
		for _, run := range []struct {
			kernel   *vm.Kernel
			features []string
		}{{usual, light}, {whole, heavy}} {
			if len(run.features) == 0 {
				continue
			}
			t.Run(mode+" on "+run.kernel.Name, func(t *testing.T) {
				t.Parallel()
				room <- struct{}{}
				defer func() { <-room }()
				args := []string{
					"-test.run=^TestSuites$", "-test.v", "-in-guest", "-modes=" + mode, "-suites=" + *onlySuites, "-features=" + strings.Join(run.features, ","),
				}
				if *onlySabotage {
					args = append(args, "-only-sabotage")
				}
				if *noSabotage {
					args = append(args, "-no-sabotage")
				}
				m, err := vm.Boot(t.Context(), *run.kernel, vm.Guest{Name: "tests", Cache: cache, Memory: 1 << 30, CPUs: runtime.NumCPU(), Features: modules, Args: args})
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
}
