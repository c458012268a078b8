package main

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/modebench/modebench/reports"
	"github.com/modebench/modebench/topology/space"
)

const threeMachines = `config: config
machines:
  tor: {ssh: tor, nics: {h1-eth0: h1-u0, h1-eth1: h1-u1, h2-eth0: h2-u0, h2-eth1: h2-u1}}
  h1: {ssh: h1, nics: {eth0: u0, eth1: u1}}
  h2: {ssh: h2, nics: {eth0: u0, eth1: u1}}
`

// overSSH runs a program in a directory on whose machines ssh leads, and fails where they are not as they were after it. Without root,
// where sshd does not serve, a stand-in for ssh leads there.
func overSSH(t *testing.T, dir, lose string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	isolated(t)
	tools := map[string]string{"ip": "iproute2", "tc": "iproute2", "nft": "nftables", "sysctl": "procps", "pgrep": "procps", "nsenter": "util-linux"}
	if os.Geteuid() == 0 {
		tools["sshd"] = "openssh-server"
	}
	for _, tool := range slices.Sorted(maps.Keys(tools)) {
		if exec.Command("sh", "-c", "PATH=$PATH:/usr/sbin:/sbin command -v "+tool).Run() != nil {
			unable(t, "no %s: sudo apt install %s", tool, tools[tool])
		}
	}
	lab, err := filepath.Abs("testdata/machines/lab")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("unshare", append([]string{"-m", "--mount-proc", lab, dir}, args...)...)
	cmd.Env = append(os.Environ(), asCommand+"="+dir, "MACHINES=tor h1 h2", "LOSE="+lose)
	space.Isolate(cmd)
	code, stdout, stderr = result(t, cmd)
	if strings.Contains(stdout, "not as it was") {
		t.Errorf("a machine is left otherwise than it was found: %s", stdout)
	}
	return code, stdout, stderr
}

// inventory writes one into a directory.
func inventory(t *testing.T, dir, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestRealMachines observes modes on machines that sshd makes reachable, by the same specs as elsewhere, and leaves them as they were; and
// where one is lost amid a run, the others.
func TestRealMachines(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	inventory(t, dir, "inventory.yaml", threeMachines)
	code, _, stderr := overSSH(t, dir, "", os.Args[0], "run", "--driver", "ssh", "--inventory", "inventory.yaml", "-m", "macvlan-bridge,vxlan-static",
		"--suite", "conformance,lifecycle", "--feature", "same-host-ipv4,cross-host-ipv6,host-reboot,link-loss", "--seed", "7")
	if code != exitExpected {
		t.Fatalf("exit code %d: want 0: %s", code, stderr)
	}
	got := map[string]string{}
	for _, r := range readReport(t, dir).Results {
		got[r.Outcome] += " " + r.Mode + "/" + r.Feature
		if r.Fidelity != (reports.Fidelity{Kernel: release(), Driver: "ssh"}) {
			t.Errorf("%s: fidelity %+v", r.Feature, r.Fidelity)
		}
		if line := r.Reproduce[0]; line != "modebench run -m "+r.Mode+" --feature "+r.Feature+" --driver ssh --inventory inventory.yaml" {
			t.Errorf("%s: %q leads elsewhere", r.Feature, line)
		}
		if r.Feature == "host-reboot" && (r.Outcome != reports.Unable || !strings.Contains(r.Detail, "real machines")) {
			t.Errorf("host-reboot: %s: %s", r.Outcome, r.Detail)
		}
	}
	if n := len(strings.Fields(got[reports.Pass])); n != 6 || len(got) != 2 {
		t.Errorf("got %v: want six that pass, and both restarts unable", got)
	}
}

// TestLostMachine loses one of the machines amid a run: the rest of its cells are unable, and say why, and every machine is as it was.
func TestLostMachine(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Log("without root sshd does not serve: nothing is lost")
		return
	}
	dir := t.TempDir()
	inventory(t, dir, "inventory.yaml", threeMachines)
	code, _, stderr := overSSH(t, dir, "h2", os.Args[0], "run", "--driver", "ssh", "--inventory", "inventory.yaml", "-m", "bridge", "--suite", "conformance", "--seed", "7")
	if code != exitExpected && code != exitNothing {
		t.Errorf("exit code %d: want 0 or 3: %s", code, stderr)
	}
	res := readReport(t, dir)
	last := res.Results[len(res.Results)-1]
	if !res.Run.Complete || last.Outcome != reports.Unable || !strings.Contains(last.Detail, "h2") {
		t.Errorf("%s: %s: want it unable for h2; missing: %v", last.Feature, last.Detail, res.Run.Missing)
	}
}

// TestRefusedMachines finds what makes machines unusable before anything starts, and says what to do.
func TestRefusedMachines(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	refused := map[string]struct{ instead, by, want string }{
		"session":   {"eth1: u1", "eth1: mgmt", "mgmt carries the ssh session"},
		"interface": {"eth1: u1", "eth1: u7", "no such device as u7: want one of mgmt"},
		"machine":   {"ssh: h2", "ssh: h3", "h2 at h3: "},
	}
	if os.Geteuid() != 0 { // then there is no session
		delete(refused, "session")
	}
	for name, c := range refused {
		inventory(t, dir, name+".yaml", strings.Replace(threeMachines, c.instead, c.by, 1))
	}
	_, stdout, stderr := overSSH(t, dir, "", "sh", "-c", `for i in *.yaml; do
		`+os.Args[0]+` run --driver ssh --inventory $i -m none --suite conformance 2>$i.said || echo $i $?
	done`)
	for name, c := range refused {
		said, err := os.ReadFile(filepath.Join(dir, name+".yaml.said"))
		if err != nil || !strings.Contains(stdout, name+".yaml 3") || !strings.Contains(string(said), c.want) {
			t.Errorf("%s: %s%s%s: want 3 and %q; %v", name, stdout, stderr, said, c.want, err)
		}
	}
}
