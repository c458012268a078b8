package main

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/modebench/modebench/reports"
	"github.com/modebench/modebench/topology/vm"
)

// TestMachines observes a mode on hosts that are guests, by the same specs as elsewhere: what their NICs filter, a carrier
// that goes and comes, and a NIC that cannot be deleted. NICs of User-mode Linux have neither filter nor carrier. A trunk's switch
// is a guest, too, where this kernel cannot be one.
func TestMachines(t *testing.T) {
	t.Parallel()
	isolated(t)
	ks, lacking := vm.Kernels(DefaultCache())
	for _, c := range []struct {
		kind, nic, mode string
		want            map[string]string
	}{
		{vm.QEMU, "virtio-net", "macvlan-bridge", map[string]string{"same-host-ipv4": reports.Pass, "nic-filters": reports.Pass, "link-loss": reports.Pass, "follows-parent": reports.Unable}},
		{vm.UML, "", "macvlan-bridge", map[string]string{"same-host-ipv4": reports.Pass, "nic-filters": reports.Pass, "link-loss": reports.Unable, "follows-parent": reports.Unable}},
		{vm.UML, "", "vlan-macvlan", map[string]string{"cross-host-ipv6": reports.Pass, "host-reboot": reports.Pass, "killed-midway": reports.Unable}},
	} {
		t.Run(c.kind+" "+c.mode, func(t *testing.T) {
			t.Parallel()
			i := slices.IndexFunc(ks, func(k vm.Kernel) bool { return k.Kind == c.kind })
			if i < 0 {
				unable(t, "no kernel for machines: %v", lacking)
			}
			dir := t.TempDir()
			code, _, stderr := result(t, modebench(t, dir, "run", "--driver", "vm", "--kernel", ks[i].Name, "-m", c.mode,
				"--suite", "conformance,lifecycle", "--feature", strings.Join(slices.Sorted(maps.Keys(c.want)), ","), "--seed", "7"))
			if code != exitExpected {
				t.Fatalf("exit code %d: want 0: %s", code, stderr)
			}
			reasons := map[string]string{
				"follows-parent": "eth0: operation not supported", "link-loss": "uml-vector, tells of no carrier", "killed-midway": "no process is seen to hold",
			}
			for _, r := range readReport(t, dir).Results {
				if r.Outcome != c.want[r.Feature] {
					t.Errorf("%s: %s: want %s: %s", r.Feature, r.Outcome, c.want[r.Feature], r.Detail)
				}
				if r.Outcome == reports.Unable && !strings.Contains(r.Detail, reasons[r.Feature]) {
					t.Errorf("%s: %q: want the reason", r.Feature, r.Detail)
				}
				if f := r.Fidelity; f.Driver != "vm" || f.Kernel != ks[i].Release || f.Accelerator == "" || f.NIC != c.nic {
					t.Errorf("%s: fidelity %+v: want guests with %s", r.Feature, f, ks[i].Release)
				}
				if line := r.Reproduce[0]; line != "modebench run -m "+c.mode+" --feature "+r.Feature+" --driver vm --kernel "+ks[i].Name {
					t.Errorf("%s: %q leads elsewhere", r.Feature, line)
				}
				delete(c.want, r.Feature)
			}
			if len(c.want) > 0 {
				t.Errorf("not observed: %v", c.want)
			}
		})
	}
}
