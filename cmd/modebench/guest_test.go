package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/modebench/modebench/modes"
	"github.com/modebench/modebench/reports"
	"github.com/modebench/modebench/suites"
	"github.com/modebench/modebench/topology"
	"github.com/modebench/modebench/topology/host"
	"github.com/modebench/modebench/topology/vm"
)

// guestKernel is the name of a kernel that boots here without being fetched, or skips.
func guestKernel(t *testing.T) string {
	t.Helper()
	isolated(t)
	ks, lacking := vm.Kernels(DefaultCache())
	if len(ks) == 0 {
		unable(t, "no guest kernel: %v: modebench kernel fetch uml brings one", lacking)
	}
	return ks[0].Name
}

// readReport reads the results of the report in dir.
func readReport(t *testing.T, dir string) reports.Results {
	t.Helper()
	res, err := readResults(filepath.Join(dir, "modebench-report", "results.json"))
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// TestGuest observes and measures a mode in a guest and on the machine's own kernel: the same cells of both, each with its
// fidelity, and what was measured has a baseline of its own.
func TestGuest(t *testing.T) {
	t.Parallel()
	name := guestKernel(t)
	dir := t.TempDir()
	code, stdout, stderr := result(t, modebench(t, dir, "run", "-m", "none,macvlan-bridge", "--kernel", "host,"+name,
		"--suite", "conformance,throughput", "--blocks", "1", "--seed", "7"))
	if code != exitExpected {
		t.Fatalf("exit code %d: want 0: %s", code, stderr)
	}
	if !strings.Contains(stdout, "2 kernels") || !strings.Contains(stderr, "none on "+name) {
		t.Errorf("nobody says on which kernels: %s%s", stdout, stderr)
	}
	res := readReport(t, dir)
	if !res.Run.Complete {
		t.Errorf("missing: %v", res.Run.Missing)
	}
	cells := map[string]map[string]string{} // by kernel, what was observed of each mode's feature
	for _, r := range res.Results {
		if r.Fidelity.Driver != "netns" || (r.Fidelity.Kernel == release()) != (r.Fidelity.Accelerator == "") {
			t.Fatalf("%s %s: fidelity %+v", r.Mode, r.Feature, r.Fidelity)
		}
		if cells[r.Fidelity.Kernel] == nil {
			cells[r.Fidelity.Kernel] = map[string]string{}
		}
		if r.Suite == "conformance" {
			cells[r.Fidelity.Kernel][r.Mode+"/"+r.Feature] = r.Outcome
		}
	}
	if len(cells) != 2 {
		t.Fatalf("results of %d kernels: want 2", len(cells))
	}
	for kernel, of := range cells {
		for cell := range cells[release()] {
			if of[cell] != reports.Pass && of[cell] != reports.Unable { // a kernel may lack what a spec needs
				t.Errorf("%s on %s: %q", cell, kernel, of[cell])
			}
		}
	}
	paired := map[string]int{}
	for _, s := range reports.Summarise(res) {
		if s.Mode != reports.Baseline && s.Blocks > 0 {
			paired[s.Fidelity.Kernel]++
		}
	}
	if len(paired) != 2 {
		t.Errorf("measurements with a baseline of their own: %v: want some on both kernels", paired)
	}
	var phases []string
	for _, p := range res.Run.Phases {
		phases = append(phases, p.Name)
	}
	for _, want := range []string{"boot " + name, "load modules of " + name, "observe here and on " + name, "measure on " + name} {
		if !strings.Contains(strings.Join(phases, "\n"), want) {
			t.Errorf("no phase %q in %q", want, phases)
		}
	}
}

// descendants are the processes that a process started, and those that these did.
func descendants(t *testing.T, of int) (pids []int) {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	children := map[int][]int{}
	for _, f := range files {
		child, _ := strconv.Atoi(filepath.Base(filepath.Dir(f)))
		parent := stat(child, 1)
		children[parent] = append(children[parent], child)
	}
	for next := []int{of}; len(next) > 0; {
		pids = append(pids, children[next[0]]...)
		next = append(next[1:], children[next[0]]...)
	}
	return pids
}

// emulators are the descendants that run a guest's kernel, in the order of their birth. User-mode Linux has processes of its own
// for those of its guest, which are not among them.
func emulators(t *testing.T, of int) (pids []int) {
	t.Helper()
	emulates := func(pid int) bool {
		exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
		return err == nil && (strings.HasSuffix(exe, "linux.uml") || strings.Contains(exe, "qemu-system"))
	}
	for _, pid := range descendants(t, of) {
		if emulates(pid) && !emulates(stat(pid, 1)) {
			pids = append(pids, pid)
		}
	}
	slices.Sort(pids)
	return pids
}

// stat is a number that a process's stat (proc(5)) has after its name, counted from 0, which is the state; 0 where it is gone.
func stat(pid, field int) (n int) {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if _, rest, ok := strings.Cut(string(b), ") "); ok { // a name may hold anything but ends there
		n, _ = strconv.Atoi(strings.Fields(rest)[field])
	}
	return n
}

// alive are those of some processes that there still are. In a container whose first process waits for none but its own child, what
// has ended stays a name.
func alive(pids []int) []int {
	return slices.DeleteFunc(slices.Clone(pids), func(pid int) bool {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		_, rest, _ := strings.Cut(string(b), ") ")
		return err != nil || strings.HasPrefix(rest, "Z")
	})
}

// busy is the processor time that a process has taken.
func busy(pid int) time.Duration {
	return time.Duration(stat(pid, 11)+stat(pid, 12)) * 10 * time.Millisecond // USER_HZ is 100 everywhere
}

// bootTime is the processor time that a guest of the first kernel takes until it could do something.
func bootTime(t *testing.T) time.Duration {
	t.Helper()
	ks, _ := vm.Kernels(DefaultCache())
	m, err := vm.Boot(t.Context(), ks[0], vm.Guest{Cache: DefaultCache(), Features: host.Features(), Args: []string{"worker"}})
	if err != nil {
		t.Fatal(err)
	}
	took := busy(emulators(t, os.Getpid())[0])
	if err := m.Stop(); err != nil {
		t.Fatal(err)
	}
	t.Logf("a boot takes %v", took)
	return took
}

// TestGuestFails has the guest of one mode killed, panic or hang, at its boot or amid its specs: what that mode still owed is
// unable, with the console's last lines, and the other mode is observed. Where it is one host of a lab, that is one spec, or a few.
func TestGuestFails(t *testing.T) {
	name := guestKernel(t)
	boot := bootTime(t)
	two := []string{"-m", "none,macvlan-bridge"}
	for _, c := range []struct {
		fault string
		by    syscall.Signal
		after float64 // how often the processor time of a boot it has had
		want  string
		said  string // by the console
		args  []string
	}{
		{"killed at boot", syscall.SIGKILL, 0, "the machine ended", "", two},
		{"killed amid specs", syscall.SIGKILL, 2, "the machine ended", "", two},
		// User-mode Linux takes it for memory that is not there, as where the directory of its memory is full.
		{"panics amid specs", syscall.SIGBUS, 2, "the machine ended", "Kernel panic", two},
		{"hangs amid specs", syscall.SIGSTOP, 2, "it has said nothing for " + patience.String(), "", two},
		// One of several, which share the work: of a mode that gives them enough, or it has ended before it is killed.
		{"a host killed amid specs", syscall.SIGKILL, 1.2, "the machine ended", "", []string{"--driver", "vm", "-m", "macvlan-private,macvlan-bridge"}},
	} {
		t.Run(c.fault, func(t *testing.T) {
			if c.by == syscall.SIGBUS && name != vm.UML {
				unable(t, "only User-mode Linux panics by a signal: modebench kernel fetch uml")
			}
			t.Parallel()
			dir := t.TempDir()
			cmd := modebench(t, dir, append([]string{"run", "--kernel", name, "--suite", "conformance", "--seed", "7"}, c.args...)...)
			var words bytes.Buffer
			cmd.Stderr = &words
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			var first int
			until(t, "a guest", func() bool {
				pids := slices.DeleteFunc(emulators(t, cmd.Process.Pid), func(pid int) bool { return busy(pid).Seconds() < c.after*boot.Seconds() })
				if len(pids) > 0 {
					first = pids[0]
				}
				return len(pids) > 0
			})
			all := descendants(t, cmd.Process.Pid)
			if err := syscall.Kill(first, c.by); err != nil {
				t.Fatal(err)
			}
			_ = cmd.Wait() // the exit code tells
			res := readReport(t, dir)
			if !res.Run.Complete {
				t.Errorf("missing: %v: want every cell, unable where the guest failed", res.Run.Missing)
			}
			unable, passed, others := map[string]int{}, map[string]int{}, map[string]int{}
			for _, r := range res.Results {
				switch {
				case r.Outcome == reports.Unable && strings.Contains(r.Detail, "kernel "+name) && strings.Contains(r.Detail, c.want):
					unable[r.Mode]++
					if c.after > 0 && !strings.Contains(r.Detail, "its console:\n") && !slices.ContainsFunc(r.Evidence, func(e reports.Evidence) bool { return e.At == "console" }) {
						t.Fatalf("%s: %+v: want the console's last lines", r.Feature, r)
					}
					if c.said != "" && !slices.ContainsFunc(r.Evidence, func(e reports.Evidence) bool { return strings.Contains(e.Saw, c.said) }) {
						t.Fatalf("%s: %+v: want %q by the console", r.Feature, r, c.said)
					}
				case r.Outcome == reports.Pass:
					passed[r.Mode]++
				default:
					others[r.Detail]++
				}
			}
			if len(unable) != 1 || len(passed) == 0 {
				t.Errorf("unable for the guest: %v; passed: %v; otherwise: %v: want one mode's cells unable, and the other's to pass: %s", unable, passed, others, words.String())
			}
			until(t, "no process to be left", func() bool { return len(alive(all)) == 0 && len(ours(t, dir)) == 0 })
		})
	}
}

// TestBrokenKernel has, beside the machine's own kernel, one that is not whole, and one that panics before it greets: their cells
// are unable, with the console's last lines where there is a console, and those on the machine's own kernel are observed.
func TestBrokenKernel(t *testing.T) {
	t.Parallel()
	isolated(t)
	ks, lacking := vm.Kernels(DefaultCache())
	i := slices.IndexFunc(ks, func(k vm.Kernel) bool { return k.Kind == vm.UML })
	if i < 0 {
		unable(t, "no kernel to break: %v", lacking)
	}
	whole, err := os.ReadFile(ks[i].Path)
	if err != nil {
		t.Fatal(err)
	}
	initless := bytes.ReplaceAll(whole, []byte("/init\x00"), []byte("/none\x00")) // what it runs first
	if bytes.Equal(initless, whole) {
		t.Fatal("the kernel names no init")
	}
	dir := t.TempDir()
	if err := errors.Join(os.WriteFile(filepath.Join(dir, "half"), whole[:len(whole)/2], 0o644), os.WriteFile(filepath.Join(dir, "initless"), initless, 0o755)); err != nil {
		t.Fatal(err)
	}
	args := []string{"run", "-m", "none", "--feature", "own-stack", "--suite", "conformance", "--seed", "7"}
	code, _, stderr := result(t, modebench(t, dir, append(args, "--kernel", "host,./half,./initless")...))
	if code != exitExpected || !strings.Contains(stderr, "nothing on ./half: ./half: kernel cannot be booted: truncated") || !strings.Contains(stderr, "nothing on ./initless: ") {
		t.Errorf("exit code %d: want 0, and what is the matter with the kernels: %s", code, stderr)
	}
	res := readReport(t, dir)
	if !res.Run.Complete || len(res.Results) != 3 {
		t.Fatalf("%d results, missing %v: want one on each kernel", len(res.Results), res.Run.Missing)
	}
	for _, r := range res.Results {
		panicked := slices.ContainsFunc(r.Evidence, func(e reports.Evidence) bool { return e.At == "console" && strings.Contains(e.Saw, "Kernel panic") })
		switch r.Fidelity.Kernel {
		case release():
			if r.Outcome != reports.Pass {
				t.Errorf("%+v: want it observed on the machine's own kernel", r)
			}
		case "./half":
			if r.Outcome != reports.Unable || !strings.Contains(r.Detail, "truncated") {
				t.Errorf("%+v: want it unable, since the kernel is truncated", r)
			}
		default:
			if r.Outcome != reports.Unable || !strings.Contains(r.Detail, "the machine ended") || !panicked {
				t.Errorf("%+v: want it unable, with the console's last lines", r)
			}
		}
	}
	code, _, stderr = result(t, modebench(t, dir, append(args, "--kernel", "./half")...))
	if code != exitNothing || !strings.Contains(stderr, "kernel cannot be booted: truncated") {
		t.Errorf("that kernel alone: exit code %d: want 3, and why: %s", code, stderr)
	}
	if left := ours(t, dir); len(left) > 0 {
		t.Errorf("processes %v are left", left)
	}
}

// TestMissingModule has a kernel without one of its modules: the mode that needs it is unable, and the other is observed.
func TestMissingModule(t *testing.T) {
	t.Parallel()
	isolated(t)
	ks, lacking := vm.Kernels(DefaultCache())
	if len(ks) == 0 || ks[0].Modules == "" {
		unable(t, "no guest kernel with modules: %v", lacking)
	}
	dir := t.TempDir()
	if err := os.Symlink(ks[0].Path, filepath.Join(dir, "kernel")); err != nil {
		t.Fatal(err)
	}
	if err := filepath.WalkDir(ks[0].Modules, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.HasPrefix(d.Name(), "ipvlan.ko") {
			return err
		}
		to := filepath.Join(dir, "modules", strings.TrimPrefix(path, ks[0].Modules))
		return errors.Join(os.MkdirAll(filepath.Dir(to), 0o755), os.Symlink(path, to))
	}); err != nil {
		t.Fatal(err)
	}
	code, _, stderr := result(t, modebench(t, dir, "run", "-m", "none,ipvlan-l2", "--kernel", "./kernel", "--feature", "same-host-ipv4", "--seed", "7"))
	if code != exitExpected {
		t.Fatalf("exit code %d: want 0: %s", code, stderr)
	}
	want := map[string]string{"none": reports.Pass, "ipvlan-l2": reports.Unable}
	for _, r := range readReport(t, dir).Results {
		if r.Outcome != want[r.Mode] || r.Outcome == reports.Unable && !strings.Contains(r.Detail, "lacks ipvlan") {
			t.Errorf("%s: %s, %q: want %s", r.Mode, r.Outcome, r.Detail, want[r.Mode])
		}
		delete(want, r.Mode)
	}
	if len(want) > 0 {
		t.Errorf("not told of: %v", want)
	}
}

// TestGuestEndsWithTheCommand ends the command by a signal of the terminal and by force, at random instants: no guest stays.
func TestGuestEndsWithTheCommand(t *testing.T) {
	name := guestKernel(t)
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 0))
	t.Logf("seed %d", seed)
	for i, by := range []syscall.Signal{syscall.SIGINT, syscall.SIGKILL, syscall.SIGINT, syscall.SIGKILL} {
		dir := t.TempDir()
		guests := []string{"--quick"} // whole labs, then hosts alone
		if i > 1 {
			guests = []string{"--driver", "vm", "--suite", "conformance"}
		}
		cmd := modebench(t, dir, append([]string{"run", "-m", "none,macvlan-bridge", "--kernel", name, "--seed", "7"}, guests...)...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		until(t, "a guest", func() bool { return len(emulators(t, cmd.Process.Pid)) > 0 })
		ctx, cancel := context.WithTimeout(context.Background(), time.Duration(random.Int64N(int64(4*time.Second))))
		<-ctx.Done()
		cancel()
		all := append(descendants(t, cmd.Process.Pid), cmd.Process.Pid)
		if err := cmd.Process.Signal(by); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // it was asked to end
		until(t, "no process to be left by "+by.String(), func() bool { return len(alive(all)) == 0 && len(ours(t, dir)) == 0 })
	}
}

// TestNoKernel asks for a kernel that is not there and may not be fetched: what needs it is unable, and told how it comes.
func TestNoKernel(t *testing.T) {
	var said bytes.Buffer
	own := &ground{name: hostKernel, missing: map[string]string{"macvlan": "operation not supported"}}
	ks := &kernels{noFetch: true, say: &said, grounds: []*ground{own}, span: func(_ string, f func() error) error { return f() }}
	g := ks.fetch(t.Context(), "uml")
	if g.failed == nil || !strings.Contains(g.failed.Error(), "modebench kernel fetch uml") || said.Len() > 0 {
		t.Errorf("%v, said %q: want the remedy, and nothing fetched", g.failed, said.String())
	}
	if why := g.lacks([]string{"underlay"}); why != g.failed.Error() {
		t.Errorf("a kernel that is not there lacks %q", why)
	}
	p, _, err := readPlan(defaultTopology)
	if err != nil {
		t.Fatal(err)
	}
	all, err := findModes([]string{"macvlan-bridge"})
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range []assignment{{Mode: all[0], plan: p, ground: g, why: g.failed.Error()}} {
		var res reports.Results
		b := &book{o: options{kernels: []string{hostKernel, "uml"}}, res: &res, got: map[cell]bool{}}
		b.unable(a, []string{"conformance"}, a.why)
		if len(res.Results) == 0 || res.Results[0].Fidelity.Kernel != "uml" || res.Results[0].Fidelity == own.fidelity() {
			t.Errorf("%+v: want cells of a kernel that nobody takes for the machine's own", res.Results[:min(1, len(res.Results))])
		}
	}
}

// TestFetchRefused has a package client that refuses: fetching a kernel ends with its words, and what needs the kernel is unable.
func TestFetchRefused(t *testing.T) {
	for _, program := range []string{"apt-get", "apt-cache", "dpkg-deb"} {
		if _, err := exec.LookPath(program); err != nil {
			unable(t, "%v", err)
		}
	}
	dir := t.TempDir()
	for name, text := range map[string]string{"apt-get": "echo 'E: no network' >&2; exit 100", "apt-cache": `echo "$2 | 1 | origin Packages"`} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	cache := filepath.Join(dir, "cache")
	code, _, stderr := result(t, modebench(t, dir, "kernel", "fetch", "uml", "--cache", cache))
	if code != exitNothing || !strings.Contains(stderr, "fetch kernel uml: ") || !strings.Contains(stderr, "E: no network") {
		t.Errorf("exit code %d: want 3, and the client's words: %s", code, stderr)
	}
	ks := &kernels{cache: cache, say: &bytes.Buffer{}, span: func(_ string, f func() error) error { return f() }}
	if why := ks.fetch(t.Context(), "uml").lacks([]string{"ipvlan"}); !strings.Contains(why, "E: no network") {
		t.Errorf("what needs the kernel: %q: want the client's words", why)
	}
	if left, _ := filepath.Glob(filepath.Join(cache, "kernels", "*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// TestNothingBoots fetches no kernel that nothing here would boot.
func TestNothingBoots(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	var said bytes.Buffer
	ks := &kernels{cache: t.TempDir(), say: &said, span: func(_ string, f func() error) error { return f() }}
	if why := ks.fetch(t.Context(), "debian-cloud").lacks([]string{"ipvlan"}); !strings.Contains(why, "apt-get install qemu-system-x86") || said.Len() > 0 {
		t.Errorf("what needs the kernel: %q, said meanwhile %q: want what to install, and nothing fetched", why, said.String())
	}
}

// TestSeveralReasons has the console of a guest that failed as evidence, and its cells once.
func TestSeveralReasons(t *testing.T) {
	all, err := findModes([]string{"none", "bridge"})
	if err != nil {
		t.Fatal(err)
	}
	p, _, err := readPlan(defaultTopology)
	if err != nil {
		t.Fatal(err)
	}
	g := &ground{name: "uml", guest: &vm.Kernel{Name: "uml", Release: "6.1.0", Accelerator: "uml"}}
	var as []assignment
	for _, m := range all {
		as = append(as, assignment{Mode: m, plan: &topology.Plan{Topology: p.Topology}, ground: g})
	}
	o := options{kernels: []string{autoKernel}, suites: []string{"conformance"}}
	var res reports.Results
	b := &book{o: o, res: &res, grounds: []*ground{g}, got: map[cell]bool{}, view: newProgress(&bytes.Buffer{}, false)}
	owes := owed(o, as[0], o.suites)
	for i := range 2 {
		b.note(task{ground: g}, message{Event: suites.Event{Kind: "cell", Mode: "none", Result: &reports.Result{
			Suite: owes[i].Suite, Mode: "none", Implementation: "kernel", Feature: owes[i].Feature, Outcome: reports.Pass,
		}}})
	}
	broke := errors.New("guest kernel uml: it ended: signal: killed\n[    1.0] Kernel panic - not syncing\n\n[    1.1] end")
	b.close(t.Context(), "observe on uml", task{job: job{Guest: g.guest, Modes: []string{"none"}, Suites: o.suites}, ground: g, of: as[:1]}, broke)
	if len(res.Results) != len(owes) || len(b.failures) != 1 || strings.Contains(b.failures[0], "panic") {
		t.Fatalf("%d results, failures %q: want %d, and one line", len(res.Results), b.failures, len(owes))
	}
	for i, r := range res.Results[2:] {
		if r.Outcome != reports.Unable || r.Mode != "none" || len(r.Evidence) != 2 || r.Evidence[0].Saw != "[    1.0] Kernel panic - not syncing" || r.Fidelity.Accelerator != "uml" {
			t.Fatalf("result %d: %+v: want unable, with the console's lines", i, r)
		}
	}
}

// TestReproduce leads back to the topology, the hosts and the kernel of a result, in the words of a shell.
func TestReproduce(t *testing.T) {
	guest := &vm.Kernel{Name: "uml"}
	for want, c := range map[string]struct {
		o options
		g ground
	}{
		"":                                      {options{topology: defaultTopology, kernels: []string{autoKernel}}, ground{name: hostKernel}},
		"--kernel uml":                          {options{topology: defaultTopology, kernels: []string{autoKernel}}, ground{name: "uml", guest: guest}},
		"--kernel uml --soak 1h0m0s":            {options{topology: defaultTopology, kernels: []string{autoKernel}, soak: time.Hour}, ground{name: "uml", guest: guest}},
		"--kernel host":                         {options{topology: defaultTopology, kernels: []string{hostKernel, "uml"}}, ground{name: hostKernel}},
		"--driver vm --nic e1000e --kernel k":   {options{topology: defaultTopology, kernels: []string{"k"}}, ground{name: "k", driver: vmDriver, nic: "e1000e", guest: guest}},
		"-t ./a.yaml --driver vm --kernel k/v1": {options{topology: "./a.yaml", kernels: []string{"k/v1"}}, ground{name: "k/v1", driver: vmDriver, guest: guest}},
		`-t 'it'\''s mine.yaml'`:                {options{topology: "it's mine.yaml", kernels: []string{autoKernel}}, ground{name: hostKernel}},
	} {
		if got := strings.Join(append(c.o.file(), c.o.flags(&c.g)...), " "); got != want {
			t.Errorf("%s: want %s", got, want)
		}
	}
}

// What is named is asked: the suite that asks it need not be named, too, as in the commands that results give.
func TestFeatureBringsItsSuite(t *testing.T) {
	for features, want := range map[string][]string{
		"outage-link":           {"failure"},
		"tcp-rr":                {"throughput", "nat"},
		"own-stack,outage-link": {"conformance", "failure"},
	} {
		o := options{
			topology: defaultTopology, kernels: []string{autoKernel}, driver: netnsDriver, implementations: []string{modes.ByKernel},
			features: strings.Split(features, ","), blocks: 1, soak: time.Second, dir: t.TempDir(),
		}
		if _, _, _, err := o.check(); err != nil || !slices.Equal(o.suites, want) {
			t.Errorf("%s: suites %v, %v: want %v", features, o.suites, err, want)
		}
	}
}

// TestEngineInGuest has an engine carried into a guest, with what it starts, but for one whose processors are emulated and that nobody named.
func TestEngineInGuest(t *testing.T) {
	if _, why := (&kernels{}).engine(&ground{}); why != "" {
		unable(t, "%s", why)
	}
	for _, c := range []struct {
		accelerator  string
		auto, refuse bool
	}{{"tcg", true, true}, {"tcg", false, false}, {"kvm", true, false}} {
		carried, why := (&kernels{auto: c.auto}).engine(&ground{name: "debian-cloud", guest: &vm.Kernel{Accelerator: c.accelerator}})
		if c.refuse {
			if len(carried) > 0 || !strings.Contains(why, "--kernel debian-cloud") {
				t.Errorf("%+v: %v, %q: want it refused, and what to do", c, carried, why)
			}
			continue
		}
		for _, want := range []string{"dockerd", "runc", "iptables", "sh"} {
			if !slices.ContainsFunc(carried, func(path string) bool { return filepath.Base(path) == want }) {
				t.Errorf("%+v: %v, %q: want %s among them", c, carried, why, want)
			}
		}
	}
}

// Of engines on emulated processors one is observed at a time, and what is not theirs does not wait for that.
func TestEnginesOneByOne(t *testing.T) {
	top, _, err := readPlan(defaultTopology)
	if err != nil {
		t.Fatal(err)
	}
	for accelerator, want := range map[string]map[string]int{
		"tcg": {"observe on debian-cloud": 1, "observe engines on debian-cloud": 2},
		"kvm": {"observe on debian-cloud": 3},
	} {
		g := &ground{name: "debian-cloud", guest: &vm.Kernel{Accelerator: accelerator}}
		var all []assignment
		for _, label := range []string{"ipvlan-l2", "ipvlan-l2 (docker)", "ipvlan-l3 (docker)"} {
			m, ok := modes.Named(label, modes.Dirs{})
			if !ok {
				t.Fatalf("%q is no mode", label)
			}
			all = append(all, assignment{Mode: m, plan: top, ground: g})
		}
		got := map[string]int{}
		for _, p := range phases(options{topology: defaultTopology, kernels: []string{"debian-cloud"}, suites: []string{"conformance"}}, all, "") {
			got[p.name] = len(p.tasks)
			if strings.Contains(p.name, "engines") && p.atOnce != 1 {
				t.Errorf("%s: %d at once", p.name, p.atOnce)
			}
		}
		if !maps.Equal(got, want) {
			t.Errorf("%s: tasks by phase %v: want %v", accelerator, got, want)
		}
	}
}

// What all cells of a mode say of themselves is written once where there is no terminal.
func TestProgressSaysOnce(t *testing.T) {
	var out bytes.Buffer
	v, g := newProgress(&out, false), &ground{name: hostKernel}
	v.add("bridge", 6, 4)
	for _, detail := range []string{"no engine", "no engine", "no answer", "no engine"} {
		v.event(g, suites.Event{Kind: "cell", Mode: "bridge", Result: &reports.Result{Suite: "conformance", Feature: "f", Outcome: reports.Fail, Detail: detail}})
	}
	want := "  bridge: f not as expected: no engine\n  bridge: f not as expected: the same\n  bridge: f not as expected: no answer\n  bridge: f not as expected: no engine\n  bridge  4/4  4 not as expected\n"
	if out.String() != want {
		t.Errorf("%q: want %q", out.String(), want)
	}
}
