package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/modebench/modebench/modes"
	"github.com/modebench/modebench/reports"
	"github.com/modebench/modebench/suites"
	"github.com/modebench/modebench/topology/daemons"
	"github.com/modebench/modebench/topology/space"
)

var update = flag.Bool("update", false, "write the golden files anew")

// asCommand makes this test binary be the command; its value marks the processes of one test.
const asCommand = "MODEBENCH_AS_COMMAND"

func TestMain(m *testing.M) {
	// In a guest nobody passes the variable on.
	inside := len(os.Args) > 1 && slices.Contains([]string{"init", "guest", "uml", "lacks", "worker", "host", "agent", "idle", "lookup", "relay", "confined", "runtime", "record", "site"}, os.Args[1])
	if os.Getenv(asCommand) != "" || inside {
		if file, value, ok := strings.Cut(os.Getenv(forbidding), "="); ok {
			if err := os.WriteFile(file, []byte(value), 0o644); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			os.Unsetenv(forbidding)
		}
		if mode, feature, ok := strings.Cut(os.Getenv(misled), "/"); ok {
			right := expectations
			expectations = func() (map[string]map[string]modes.Expectation, error) {
				all, err := right()
				if err == nil {
					all[mode][feature] = modes.Expectation{Expect: reports.Blocked, Reason: "a test says so", Source: "this test"}
				}
				return all, err
			}
		}
		os.Exit(program(os.Args[1:]))
	}
	// Most of the tests wait for a command more than they compute, but where system calls are slow.
	most := 2 * runtime.NumCPU()
	if space.Slow() {
		most = max(1, runtime.NumCPU()/2) // the tests of suites are under way, too
	}
	if err := flag.Lookup("test.parallel").Value.Set(strconv.Itoa(most)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// forbidding makes the command set a sysctl of its user namespace first: FILE=VALUE.
const forbidding = "MODEBENCH_FORBIDDING"

// misled makes the command expect that a mode blocks a feature: MODE/FEATURE.
const misled = "MODEBENCH_MISLED"

// modebench is the command with arguments, in a directory of its own.
func modebench(t *testing.T, dir string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(space.Self, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), asCommand+"="+dir)
	return cmd
}

// result runs it and gives its exit code and what it printed.
func result(t *testing.T, cmd *exec.Cmd) (code int, stdout, stderr string) {
	t.Helper()
	var out, words bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &words
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), words.String()
}

// TestBadInput answers each mistake with one line: where, what is wrong, what would be right; and leaves nothing behind.
func TestBadInput(t *testing.T) {
	type mistake struct {
		name  string
		files map[string]string
		args  []string
	}
	topology := func(replace ...string) string {
		text := `name: small
segments: {rack: {v4: 198.18.0.0/24, v6: "2001:db8:18::/64"}, annex: {v4: 198.18.1.0/24, v6: "2001:db8:19::/64"}}
tors: {tor: {joins: [rack, annex]}}
hosts:
  h1: {nics: {eth0: rack, eth1: annex}, containers: {blue: 2, green: 1}}
  h2: {nics: {eth0: rack, eth1: annex}, containers: {blue: 2, green: 1}}
external: {x: {nics: {eth0: rack}}, y: {nics: {eth0: rack}}}
networks: {blue: {nic: eth0, v4: 172.17.0.0/24, v6: "fd17::/64"}, green: {nic: eth1, v4: 172.18.0.0/24, v6: "fd18::/64"}}
`
		return strings.NewReplacer(replace...).Replace(text)
	}
	withTopology := func(name string, replace ...string) mistake {
		return mistake{name, map[string]string{"lab.yaml": topology(replace...)}, []string{"run", "-t", "lab.yaml"}}
	}
	list := func(replace ...string) string {
		return strings.NewReplacer(replace...).Replace(`{
  "cniVersion": "1.0.0",
  "name": "mine",
  "plugins": [{"type": "one", "capabilities": {"ips": true}, "subnet": "{subnet4}"}]
}
`)
	}
	withList := func(name string, replace ...string) mistake {
		return mistake{name, map[string]string{"my.conflist": list(replace...)}, []string{"run", "--cni-conf", "my.conflist", "--expect", "bridge"}}
	}
	for _, m := range []mistake{
		{"mode", nil, []string{"run", "-m", "bridge,macvlan"}},
		{"suite", nil, []string{"run", "--suite", "speed"}},
		{"suite-plugins", nil, []string{"run", "--suite", "cni"}},
		{"suite-engines", nil, []string{"run", "--suite", "cnm", "-i", "cni"}},
		{"feature", nil, []string{"run", "--feature", "same-hots-ipv4"}},
		{"feature-suite", nil, []string{"run", "--suite", "conformance,failure", "--feature", "tcp-rr"}},
		{"implementation", nil, []string{"run", "-i", "kernel,cnni"}},
		{"implementation-mode", nil, []string{"run", "-m", "bridge,host", "-i", "cni"}},
		{"plan-implementation", nil, []string{"plan", "fan", "-i", "cni"}},
		{"lab-implementation", nil, []string{"lab", "up", "-i", "cni"}},
		{"lab-implementation-mode", nil, []string{"lab", "up", "-m", "fan", "-i", "cni"}},
		{"docker-mode", nil, []string{"run", "-m", "ptp", "-i", "docker"}},
		{"docker-bin", nil, []string{"run", "-i", "docker", "--docker-bin", "nowhere"}},
		{"docker-nothing", nil, []string{"run", "--docker-bin", "/usr/bin"}},
		{"cni-missing", nil, []string{"run", "--cni-conf", "my.conflist", "--expect", "bridge"}},
		{"cni-shard", map[string]string{"my.conflist": list()}, []string{"run", "--cni-conf", "my.conflist", "--shard", "1/2"}},
		{"cni-mode", map[string]string{"my.conflist": list()}, []string{"run", "--cni-conf", "my.conflist", "--expect", "host"}},
		{"cni-nothing", nil, []string{"run", "--expect", "bridge"}},
		{"cni-bin", map[string]string{"my.conflist": list()}, []string{"run", "--cni-conf", "my.conflist", "--cni-bin", "nowhere", "--expect", "bridge"}},
		withList("cni-json", `"plugins": [`, `"plugins": [[`),
		withList("cni-name", `"mine"`, `"My Net"`),
		withList("cni-plugins", `{"type": "one", "capabilities": {"ips": true}, "subnet": "{subnet4}"}`, ""),
		withList("cni-type", `"type": "one", `, ""),
		withList("cni-ips", `"ips"`, `"mac"`),
		withList("cni-same", `{subnet4}`, `10.22.0.0/16`),
		{"flag", nil, []string{"run", "--fast"}},
		{"command", nil, []string{"start"}},
		{"blocks", nil, []string{"run", "--blocks", "0"}},
		{"soak", nil, []string{"run", "--soak", "25h"}},
		{"argument", nil, []string{"plan"}},
		{"plan-mode", nil, []string{"plan", "bridges"}},
		{"no-topology", nil, []string{"run", "-t", "nowhere.yaml"}},
		withTopology("topology-key", "joins", "join"),
		withTopology("topology-overlap", "198.18.1.0/24", "198.18.0.128/25"),
		withTopology("topology-exhausted", "{blue: 2, green: 1}", "{blue: 200, green: 1}"),
		withTopology("topology-mtu", "rack: {v4", "rack: {mtu: 1000, v4"),
		withTopology("topology-small", "{blue: 2, green: 1}", "{blue: 1, green: 1}"),
		{"results-truncated", map[string]string{"results.json": `{"schema": "modebench.results/v1", "run"`}, []string{"report", "results.json"}},
		{"results-schema", map[string]string{"results.json": `{"schema": "modebench.results/v9"}`}, []string{"report", "results.json"}},
		{"results-missing", nil, []string{"compare", "a.json", "b.json"}},
		{"shard", nil, []string{"run", "--shard", "3/2"}},
		{"shards", nil, []string{"run", "-m", "bridge", "--suite", "conformance", "--shard", "1/2"}},
		{"annotate", nil, []string{"report", "--annotate", "gitlab", "results.json"}},
		{"need", nil, []string{"recommend", "--need", "multicast,speed", "results.json"}},
		{"needs-key", map[string]string{"needs.yaml": "need: [multicast]\n"}, []string{"recommend", "--needs", "needs.yaml", "results.json"}},
		{"first", nil, []string{"recommend", "--first", "beauty", "results.json"}},
		{"fail-on", nil, []string{"compare", "--fail-on", "speed", "a.json", "b.json"}},
		{"out-directory", map[string]string{"taken": ""}, []string{"run", "-o", "taken/report"}},
		{"schema", nil, []string{"schema", "claims"}},
		{"kernel", nil, []string{"run", "--kernel", "umx"}},
		{"kernel-auto", nil, []string{"run", "--kernel", "auto,host"}},
		{"kernel-missing", nil, []string{"run", "--kernel", "host,./vmlinuz"}},
		{"driver", nil, []string{"run", "--driver", "kvm"}},
		{"driver-kernel", nil, []string{"run", "--driver", "vm", "--kernel", "host"}},
		{"driver-measuring", nil, []string{"run", "--driver", "vm", "--suite", "conformance,throughput"}},
		{"driver-inventory", nil, []string{"run", "--driver", "ssh"}},
		{"inventory-driver", nil, []string{"run", "--inventory", "lab.yaml"}},
		{"inventory-missing", nil, []string{"run", "--driver", "ssh", "--inventory", "lab.yaml"}},
		{"inventory-key", map[string]string{"lab.yaml": "machines:\n  h1: {ssh: root@192.0.2.1, nic: {eth0: enp2s0}}\n"}, []string{"run", "--driver", "ssh", "--inventory", "lab.yaml"}},
		{"inventory-config", map[string]string{"lab.yaml": "config: lab.conf\nmachines: {tor: tor, h1: h1, h2: h2}\n"}, []string{"doctor", "--inventory", "lab.yaml"}},
		{"inventory-kernel", nil, []string{"run", "--driver", "ssh", "--inventory", "lab.yaml", "--kernel", "uml"}},
		{"inventory-measuring", nil, []string{"run", "--driver", "ssh", "--inventory", "lab.yaml", "--suite", "throughput"}},
		{"nic", nil, []string{"run", "--driver", "vm", "--nic", "e1000"}},
		{"nic-uml", nil, []string{"run", "--driver", "vm", "--kernel", "uml", "--nic", "e1000e"}},
		{"nic-namespaces", nil, []string{"run", "--nic", "virtio-net"}},
		{"keep-machines", nil, []string{"run", "--driver", "vm", "--keep-on-fail"}},
		{"lab-mode", nil, []string{"lab", "up", "-m", "bridged"}},
		{"lab-fabric", nil, []string{"lab", "up", "--fabric", "nic"}},
		{"lab-fabric-settings", nil, []string{"lab", "up", "--fabric", "nic-0"}},
		{"lab-fabric-mode", nil, []string{"lab", "up", "-m", "ipvlan-l3", "--fabric", "port-security"}},
		{"lab-name", nil, []string{"lab", "up", "--name", "../mine"}},
		{"lab-topology", nil, []string{"lab", "up", "-t", "nowhere.yaml"}},
		{"lab-exec", nil, []string{"lab", "exec"}},
		{"lab-program", nil, []string{"lab", "exec", "h1/c1", "--"}},
		{"lab-shell", nil, []string{"lab", "shell"}},
		{"lab-command", nil, []string{"lab", "start"}},
		{"kernel-file", map[string]string{"vmlinuz": "no kernel at all"}, []string{"run", "--kernel", "./vmlinuz"}},
	} {
		t.Run(m.name, func(t *testing.T) {
			dir := t.TempDir()
			for name, text := range m.files {
				if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			code, stdout, stderr := result(t, modebench(t, dir, m.args...))
			if code != exitInput || stdout != "" {
				t.Errorf("exit code %d, standard output %q: want 2 and nothing", code, stdout)
			}
			golden(t, "input/"+m.name+".txt", stderr)
			left, err := os.ReadDir(dir)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range left {
				if _, given := m.files[e.Name()]; !given {
					t.Errorf("left behind: %s", e.Name())
				}
			}
		})
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(got), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), got); d != "" {
		t.Errorf("%s (-want +got):\n%s", name, d)
	}
}

var (
	possible sync.Once
	whyNot   string
)

// isolated skips where the machine lets no lab be made, with the remedy.
func isolated(t *testing.T) {
	t.Helper()
	possible.Do(func() { // a doctor asks guests, too
		if code, stdout, _ := result(t, modebench(t, t.TempDir(), "doctor")); code != exitExpected {
			whyNot = stdout
		}
	})
	if whyNot != "" {
		unable(t, "%s", whyNot)
	}
}

// unable skips a test for which this machine lacks something. In strict mode, where nothing may be lacking, that fails.
func unable(t *testing.T, format string, args ...any) {
	t.Helper()
	if os.Getenv("MODEBENCH_STRICT") != "" {
		t.Fatalf("unable: "+format, args...)
	}
	t.Skipf("unable: "+format, args...)
}

func TestRoomForReport(t *testing.T) {
	dir := t.TempDir()
	if err := room(dir, 1); err != nil {
		t.Errorf("room for a byte: %v", err)
	}
	var c coded
	if err := room(dir, 1<<60); !errors.As(err, &c) || c.code != exitInput || !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), "-o DIR") {
		t.Errorf("no room: %v: want the directory and a remedy, with exit code 2", err)
	}
}

// TestNoPrivileges runs the command where no network namespace can be made: it says so, with a remedy, and makes nothing.
func TestNoPrivileges(t *testing.T) {
	isolated(t)
	for _, args := range [][]string{{"run"}, {"doctor"}} {
		dir := t.TempDir()
		cmd := modebench(t, dir, args...)
		cmd.Env = append(cmd.Env, forbidding+"=/proc/sys/user/max_net_namespaces=0")
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWUSER,
			UidMappings: []syscall.SysProcIDMap{{HostID: os.Geteuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}},
		}
		code, stdout, stderr := result(t, cmd)
		said := stdout + stderr
		if code != exitNothing || !strings.Contains(said, "network namespaces cannot be made here") || !strings.Contains(said, "CAP_SYS_ADMIN") {
			t.Errorf("%v: exit code %d, %q: want 3, the reason and a remedy", args, code, said)
		}
		if strings.Contains(said, "goroutine") {
			t.Errorf("%v: a stack trace: %s", args, said)
		}
	}
}

// TestKernelWithout has modes that no kernel can carry: their cells are unable, with the kernel's words, and all there.
func TestKernelWithout(t *testing.T) {
	o := options{suites: suites.Names(), blocks: 1, kernels: []string{hostKernel}}
	all, err := findModes(nil)
	if err != nil {
		t.Fatal(err)
	}
	p, _, err := readPlan(defaultTopology)
	if err != nil {
		t.Fatal(err)
	}
	own := &ground{name: hostKernel, missing: map[string]string{"macvlan": "ip link add m type macvlan: operation not supported"}}
	// What modes run besides this program is taken to be there: building it is tried elsewhere.
	nft := t.TempDir()
	if err := os.WriteFile(filepath.Join(nft, "nft"), nil, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", nft+":"+os.Getenv("PATH"))
	ks := &kernels{noFetch: true, built: map[string]error{strings.Join(daemons.Programs.Names(), ", "): nil, "etcd": nil}, grounds: []*ground{own}}
	as, err := ks.assign(t.Context(), o.kernels, all, p.Topology)
	if err != nil {
		t.Fatal(err)
	}
	var res reports.Results
	b := &book{o: o, res: &res, grounds: ks.grounds, got: map[cell]bool{}}
	for _, a := range as {
		if lacks := strings.Contains(a.Name, "macvlan"); lacks != (a.why != "") {
			t.Errorf("%s: %q: want a reason only of what needs macvlan", a.Name, a.why)
		}
		if a.why != "" {
			b.unable(a, o.suites, a.why)
		}
	}
	ofOne := map[string]int{}
	for _, r := range res.Results {
		if r.Outcome != reports.Unable || !strings.Contains(r.Detail, "lacks macvlan") || !strings.Contains(r.Detail, "operation not supported") {
			t.Errorf("%s %s: %s, %q: want unable, and what is lacking", r.Mode, r.Feature, r.Outcome, r.Detail)
		}
		ofOne[r.Mode]++
	}
	if len(ofOne) < 4 {
		t.Errorf("%d modes: want at least the four of macvlan", len(ofOne))
	}
	for mode, n := range ofOne {
		if want := len(slices.DeleteFunc(suites.Specs(), func(s suites.Spec) bool { return s.By != "" })); n < want {
			t.Errorf("%s: %d cells: want at least %d", mode, n, want)
		}
	}
}

// TestRun observes and measures a little, and finds every document whole.
func TestRun(t *testing.T) {
	t.Parallel()
	isolated(t)
	dir := t.TempDir()
	code, stdout, stderr := result(t, modebench(t, dir, "run", "-m", "none,bridge,host", "--suite", "conformance,throughput", "--blocks", "1", "--seed", "7"))
	if code != exitExpected {
		t.Fatalf("exit code %d: want 0: %s", code, stderr)
	}
	for _, want := range []string{"bridge", "as expected"} {
		if !strings.Contains(stderr, want) {
			t.Errorf("standard error does not say %q: %s", want, stderr)
		}
	}
	if !strings.Contains(stdout, "bridge") {
		t.Errorf("no matrix on standard output: %s", stdout)
	}
	for _, name := range []string{"index.html", "report.md", "results.json", "bench.txt", "junit.xml"} {
		if s, err := os.Stat(filepath.Join(dir, "modebench-report", name)); err != nil || s.Size() == 0 {
			t.Errorf("%s: %v: want a file that is not empty", name, err)
		}
	}
	f, err := os.Open(filepath.Join(dir, "modebench-report", "results.json"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	res, err := reports.Read(f, "results.json")
	if err != nil {
		t.Fatal(err)
	}
	if !res.Run.Complete || res.Run.Seed != 7 || len(res.Run.Missing) > 0 {
		t.Errorf("complete %v, seed %d, missing %v: want a complete run with seed 7", res.Run.Complete, res.Run.Seed, res.Run.Missing)
	}
	cells := 0
	for _, r := range res.Results {
		if r.Suite == "conformance" {
			cells++
		}
	}
	want := 0
	for _, s := range suites.Specs() {
		if s.Suite == "conformance" {
			want += 3
		}
	}
	if cells != want {
		t.Errorf("%d conformance cells: want %d", cells, want)
	}
	// The report can be written again from its results alone, and is the same.
	if code, _, stderr := result(t, modebench(t, dir, "report", "modebench-report/results.json", "-o", "again")); code != exitExpected {
		t.Fatal(stderr)
	}
	for _, name := range []string{"index.html", "report.md", "results.json", "bench.txt", "junit.xml"} {
		a, _ := os.ReadFile(filepath.Join(dir, "modebench-report", name))
		b, err := os.ReadFile(filepath.Join(dir, "again", name))
		if err != nil || !bytes.Equal(a, b) {
			t.Errorf("%s differs when it is written again: %v", name, err)
		}
	}
}

// TestInterrupt stops a run by a terminal's signal: its report says that it is partial.
func TestInterrupt(t *testing.T) {
	t.Parallel()
	isolated(t)
	dir := t.TempDir()
	cmd := modebench(t, dir, "run", "--kernel", "host", "--suite", "conformance", "--seed", "7")
	var words bytes.Buffer
	cmd.Stderr = &words
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	until(t, "a lab", func() bool { return len(ours(t, dir)) > 4 })
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != exitUnexpected {
		t.Errorf("exit code %d: want 1: %s", code, words.String())
	}
	b, err := os.ReadFile(filepath.Join(dir, "modebench-report", "results.json"))
	if err != nil {
		t.Fatal(err)
	}
	var res reports.Results
	if err := json.Unmarshal(b, &res); err != nil {
		t.Fatal(err)
	}
	if res.Run.Complete || len(res.Run.Missing) == 0 {
		t.Errorf("complete %v, %d missing: want a report that says it is partial", res.Run.Complete, len(res.Run.Missing))
	}
	until(t, "no process to be left", func() bool { return len(ours(t, dir)) == 0 })
}

// TestKill kills the command at random instants: no process, namespace, device, mount or file of it stays.
func TestKill(t *testing.T) {
	isolated(t)
	before := belongings(t)
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 0))
	t.Logf("seed %d", seed)
	for range 12 {
		dir := t.TempDir()
		cmd := modebench(t, dir, "run", "--kernel", "host", "-m", "bridge,macvlan-bridge,ptp", "--seed", "7", "--quick")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		after := time.Duration(random.Int64N(int64(1500 * time.Millisecond)))
		ctx, cancel := context.WithTimeout(context.Background(), after)
		<-ctx.Done()
		cancel()
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // it was killed
		until(t, fmt.Sprintf("no process to be left of a run killed after %s", after), func() bool { return len(ours(t, dir)) == 0 })
		left, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range left {
			if e.Name() != "modebench-report" {
				t.Errorf("killed after %s: left behind %s", after, e.Name())
			}
		}
	}
	var d string
	until(t, "the machine to be as before", func() bool { d = cmp.Diff(before, belongings(t)); return d == "" })
	if d != "" {
		t.Errorf("left behind (-before +after):\n%s", d)
	}
}

// until waits for a condition.
func until(t *testing.T, what string, f func() bool) {
	t.Helper()
	deadline := time.After(5 * time.Minute) // a slow machine, with much else to do
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !f() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// ours are the processes that a command in dir started, itself included: they inherit its environment.
func ours(t *testing.T, dir string) (pids []string) {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		// What ends meanwhile, or is another's, cannot be read and is none of ours.
		if b, err := os.ReadFile(f); err == nil && slices.Contains(strings.Split(string(b), "\x00"), asCommand+"="+dir) {
			pids = append(pids, filepath.Base(filepath.Dir(f)))
		}
	}
	return pids
}

// belongings are what of a machine a lab could leave something in: names of devices, mounts and namespaces.
func belongings(t *testing.T) map[string][]string {
	t.Helper()
	out := map[string][]string{}
	for what, pattern := range map[string]string{"devices": "/sys/class/net/*", "namespaces": "/run/netns/*", "temporary files": os.TempDir() + "/modebench*"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		out[what] = files
	}
	b, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	out["mounts"] = strings.Split(string(b), "\n")
	return out
}
