package suites

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/modebench/modebench/modes"
	"github.com/modebench/modebench/reports"
	"github.com/modebench/modebench/topology"
	"github.com/modebench/modebench/topology/host/docker"
	"github.com/modebench/modebench/topology/host/program"
	"github.com/modebench/modebench/topology/lab"
)

// byEngine is a mode that an engine of Docker's carries out.
func byEngine(t *testing.T, name string) modes.Mode {
	t.Helper()
	return byEngineOf(t, name, "")
}

// byEngineOf is one whose programs are in a directory.
func byEngineOf(t *testing.T, name, dir string) modes.Mode {
	t.Helper()
	if *onlyFeatures != "" || *onlyModes != "" || *guests != "" || *inGuest {
		t.Skip("not asked for")
	}
	for _, p := range docker.Programs("") {
		if _, err := program.Find(p); err != nil {
			unable(t, "%s is not there: apt-get install docker.io", p)
		}
	}
	m, ok := modes.Named(modes.Label(name, modes.ByDocker), modes.Dirs{modes.ByDocker: dir})
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

// TestDockerSwarm observes engines that are a swarm, by what goes by its overlay networks and what does not.
func TestDockerSwarm(t *testing.T) {
	t.Parallel()
	run := runOf(t, byEngine(t, "vxlan-gossip"))
	run.Features = []string{
		"cross-host-ipv4", "cross-host-ipv6", "multicast-siblings-ipv6", "overlay-header", "overlay-replication", "overlay-joins", "publish-tcp-ipv4", "hairpin-source", "name-follows-move", "attach-detach",
	}
	observeAll(t, run.observer(run.Modes[0], nil), run.specs(run.Modes[0]))
}

// TestDockerSwarmSabotage has a swarm whose networks leave no room for what VXLAN adds: that has to turn a spec red.
func TestDockerSwarmSabotage(t *testing.T) {
	t.Parallel()
	networked(t, byEngine(t, "vxlan-gossip"), "overlay-size", map[string]string{"com.docker.network.driver.mtu": "1550"})
}

// TestEngines asks engines what they alone are asked, of modes that differ in it.
func TestEngines(t *testing.T) {
	t.Parallel()
	run := runOf(t, byEngine(t, "none"), byEngine(t, "host"), byEngine(t, "container"), byEngine(t, "bridge"), byEngine(t, "macvlan-bridge"))
	run.Suites = []string{Engined}
	for _, m := range run.Modes {
		t.Run(m.Name, func(t *testing.T) {
			t.Parallel()
			observeAll(t, run.observer(m, nil), run.specs(m))
		})
	}
	if !*noSabotage {
		sabotageBeside(t, run)
	}
}

// TestDockerSabotage has engines configured as they should not be: each has to turn a spec red.
func TestDockerSabotage(t *testing.T) {
	t.Parallel()
	networked(t, byEngine(t, "bridge"), "container-to-external-ipv4", map[string]string{
		"com.docker.network.bridge.enable_icc": "false", "com.docker.network.bridge.enable_ip_masquerade": "false",
	})
}

// networked fails the test where a spec is not red once the engines' networks have other options.
func networked(t *testing.T, m modes.Mode, feature string, options map[string]string) {
	t.Helper()
	setup := m.Setup
	m.Setup = func(p *topology.Plan, host *topology.Machine) []topology.Step {
		return mapped(func(s *topology.Step) **topology.EngineNetwork { return &s.EngineNetwork }, func(n *topology.EngineNetwork) {
			n.Options = maps.Clone(n.Options)
			maps.Copy(n.Options, options)
		})(setup(p, host))
	}
	run := runOf(t, m)
	run.Features = []string{feature}
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

// An engine that ends while the mode is set up says nothing of the mode: neither does a second one.
func TestDockerEndsAtOnce(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	run := runOf(t, byEngineOf(t, "none", dir))
	for _, name := range docker.Programs("") {
		path, err := program.Find(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(path, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	// The first container's runtime ends what the engine runs containers by.
	runc := filepath.Join(dir, "runc")
	killing := "#!/bin/sh\nfor p in /proc/[0-9]*; do read -r name <$p/comm; [ \"$name\" != containerd ] || kill -KILL ${p#/proc/}; done\nexit 1\n"
	if err := errors.Join(os.Remove(runc), os.WriteFile(runc, []byte(killing), 0o755)); err != nil {
		t.Fatal(err)
	}
	run.Features = []string{"interface"}
	o := run.observer(run.Modes[0], nil)
	o.start(t.Context())
	for _, s := range run.specs(run.Modes[0]) {
		if r := o.observe(t.Context(), s); r.Outcome != reports.Unable || !strings.Contains(r.Detail, "it was killed: run h") {
			t.Errorf("outcome %s: want unable, and how the engine ended: %s", r.Outcome, r.Detail)
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

// A node that has left its swarm has none to let others into, nor a way out for containers of it.
func TestSwarmIsLeft(t *testing.T) {
	t.Parallel()
	run := runOf(t, byEngine(t, "none"))
	p, err := run.Modes[0].Plan(run.Topology)
	if err != nil {
		t.Fatal(err)
	}
	b, err := newBench(t.Context(), run.Driver, p, run.Modes[0], nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}()
	host := firstHost(b)
	// node tells whether the host's engine has a token for others, and the bridge that containers of a swarm leave by.
	node := func() (manages, exit bool) {
		var token string
		err := b.Do(t.Context(), host, "Docker.Token", time.Duration(0), &token)
		if err != nil && !refused(err) {
			t.Fatal(err)
		}
		s, failed := b.State(t.Context(), host)
		if failed != nil {
			t.Fatal(failed)
		}
		return err == nil && token != "", slices.ContainsFunc(s.Spaces[""].Links, func(l lab.Link) bool { return l.Name == "docker_gwbridge" })
	}
	if err := b.Apply(t.Context(), topology.Step{On: host, EngineSwarm: &topology.EngineSwarm{Addr: underlayOf(b, host)}}, topology.Step{On: host, EngineNetwork: &across}); err != nil {
		t.Fatal(err)
	}
	at, _, err := (&swarm{Bench: b}).run(t.Context(), host, 5, inNetwork(across, acrossAddr(across, 0))) // for which the way out is made
	if err != nil {
		t.Fatal(err)
	}
	if manages, exit := node(); !manages || !exit {
		t.Errorf("in a swarm: it has a token for others: %t; it has a way out: %t", manages, exit)
	}
	if err := b.Detach(t.Context(), at); err != nil {
		t.Fatal(err)
	}
	if err := b.reset(t.Context()); err != nil {
		t.Fatal(err)
	}
	if manages, exit := node(); manages || exit {
		t.Errorf("out of the swarm: it has a token for others: %t; it has a way out: %t", manages, exit)
	}
}

// pidsOf are those of a process in the PID namespaces that it is in, that of /proc first, which need not be the test's own; none: it has ended.
func pidsOf(t *testing.T, dir string) (pids []int) {
	t.Helper()
	status, _ := os.ReadFile(filepath.Join(dir, "status"))
	for line := range strings.Lines(string(status)) {
		if list, ok := strings.CutPrefix(line, "NSpid:"); ok {
			for _, f := range strings.Fields(list) {
				pid, err := strconv.Atoi(f)
				if err != nil {
					t.Fatal(err)
				}
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

// inSpace are the files of /proc by which processes are in the network namespace with an inode.
func inSpace(t *testing.T, inode uint64) []string {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(files, func(f string) bool {
		in, _ := os.Readlink(f) // what ends meanwhile is not there
		return in != fmt.Sprintf("net:[%d]", inode)
	})
}

// programsIn are the processes of a program, or of any where none is named, in the network namespace with an inode.
func programsIn(t *testing.T, inode uint64, program string) (pids []int) {
	t.Helper()
	for _, f := range inSpace(t, inode) {
		dir := filepath.Dir(filepath.Dir(f))
		comm, _ := os.ReadFile(filepath.Join(dir, "comm"))
		if name := strings.TrimSpace(string(comm)); program == "" || name == program {
			if own, of := pidsOf(t, "/proc/self"), pidsOf(t, dir); len(of) >= len(own) {
				pids = append(pids, of[len(own)-1])
			}
		}
	}
	return pids
}

// retain keeps the network namespace with an inode, in which there are processes, until the test ends: another could have its number.
func retain(t *testing.T, inode uint64) {
	t.Helper()
	for _, f := range inSpace(t, inode) {
		if kept, err := os.Open(f); err == nil {
			t.Cleanup(func() { _ = kept.Close() })
			return
		}
	}
	t.Fatalf("no process is in net:[%d]", inode)
}

// What cannot be told for want of an engine that ended or hung is unable, with how it ended. The next experiment has another lab, and of the old one nothing is left.
func TestDockerEnds(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		fault   string
		program string
		by      unix.Signal
		says    string
	}{
		{"it is killed", "dockerd", unix.SIGKILL, "it ended: signal: killed; it said:"},
		{"it hangs", "dockerd", unix.SIGSTOP, "it was killed: run h1-c5: no answer within 25s; it said:"},
		{"its containerd is killed", "containerd", unix.SIGKILL, "it was killed: run h1-c5: Error response from daemon: "},
	} {
		t.Run(c.fault, func(t *testing.T) {
			t.Parallel()
			run := runOf(t, byEngine(t, "none"))
			run.Features = []string{"attach-detach"}
			o := run.observer(run.Modes[0], nil)
			o.start(t.Context())
			if o.failed != nil {
				t.Fatal(o.failed)
			}
			s, err := o.bench.State(t.Context(), firstHost(o.bench))
			if err != nil {
				t.Fatal(err)
			}
			inode := s.Spaces[""].Inode
			retain(t, inode)
			pids := programsIn(t, inode, c.program)
			if len(pids) != 1 {
				t.Fatalf("%s of %s: %v", c.program, firstHost(o.bench), pids)
			}
			if err := unix.Kill(pids[0], c.by); err != nil {
				t.Fatal(err)
			}
			spec := run.specs(run.Modes[0])[0]
			if r := o.observe(t.Context(), spec); r.Outcome != reports.Unable || !strings.Contains(r.Detail, c.says) {
				t.Errorf("outcome %s: want unable, and %q: %s", r.Outcome, c.says, r.Detail)
			}
			if r := o.observe(t.Context(), spec); r.Outcome != reports.Pass {
				t.Errorf("in another lab: outcome %s: want pass: %s", r.Outcome, r.Detail)
			}
			if left := programsIn(t, inode, ""); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
			if err := o.stop(); err != nil {
				t.Error(err)
			}
		})
	}
}
