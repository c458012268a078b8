package main

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/google/gopacket/pcapgo"
	"golang.org/x/sys/unix"

	"github.com/modebench/modebench/modes"
)

// owner is somebody who has labs: their directory, and whom the command runs as.
type owner struct {
	dir string
	as  *syscall.Credential // nil: whoever runs the tests
}

// owners are who runs the tests and, where that is root, an ordinary user.
func owners(t *testing.T) map[string]owner {
	t.Helper()
	isolated(t)
	all := map[string]owner{"own": {}}
	if os.Geteuid() == 0 {
		all["ordinary"] = owner{as: &syscall.Credential{Uid: 65534, Gid: 65534}}
	}
	for name, o := range all {
		dir, err := os.MkdirTemp("/tmp", "labs") // a socket's path is short
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.RemoveAll(dir) })
		if o.as != nil {
			if err := os.Chown(dir, int(o.as.Uid), int(o.as.Gid)); err != nil {
				t.Fatal(err)
			}
		}
		o.dir = dir
		all[name] = o
	}
	return all
}

// command is modebench lab with arguments.
func (o owner) command(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	cmd := modebench(t, o.dir, args...)
	cmd.Env = append(cmd.Env, "XDG_RUNTIME_DIR="+o.dir, "SHELL=/bin/sh", "HOME="+o.dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: o.as}
	return cmd
}

// lab runs it, and fails the test where it does not end with that code.
func (o owner) lab(t *testing.T, code int, args ...string) (stdout, stderr string) {
	t.Helper()
	got, stdout, stderr := result(t, o.command(t, append([]string{"lab"}, args...)...))
	if got != code {
		t.Fatalf("lab %q: exit code %d: want %d: %s%s", args, got, code, stdout, stderr)
	}
	return stdout, stderr
}

// up starts a lab, which ends with the test.
func (o owner) up(t *testing.T, args ...string) {
	t.Helper()
	o.lab(t, exitExpected, append([]string{"up"}, args...)...)
	t.Cleanup(func() {
		for _, pid := range o.supervisors(t) {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may have ended
		}
	})
}

// supervisors are the processes of labs, as this test sees them.
func (o owner) supervisors(t *testing.T) (pids []int) {
	t.Helper()
	for _, pid := range ours(t, o.dir) {
		if b, err := os.ReadFile("/proc/" + pid + "/cmdline"); err == nil && strings.HasSuffix(string(b), "\x00worker\x00") {
			n, err := strconv.Atoi(pid)
			if err != nil {
				t.Fatal(err)
			}
			pids = append(pids, n)
		}
	}
	return pids
}

// gone waits until nothing of labs is left.
func (o owner) gone(t *testing.T) {
	t.Helper()
	until(t, "no process to be left", func() bool { return len(ours(t, o.dir)) == 0 })
	o.lab(t, exitExpected, "ls")
	if left, err := os.ReadDir(o.dir); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
}

func eachOwner(t *testing.T, f func(*testing.T, owner)) {
	t.Helper()
	for name, o := range owners(t) {
		t.Run(name, func(t *testing.T) { f(t, o) })
	}
}

// TestLab has a lab from its start to its end: it outlives the command, and nothing of it stays.
func TestLab(t *testing.T) {
	eachOwner(t, func(t *testing.T, o owner) {
		if _, stderr := o.lab(t, exitNothing, "exec", "h1", "true"); !strings.Contains(stderr, "modebench lab up") {
			t.Errorf("without a lab: %q: want the remedy", stderr)
		}
		open := filepath.Join(o.dir, "modebench")
		if err := errors.Join(os.Mkdir(open, 0o755), os.Chmod(open, 0o755)); err != nil {
			t.Fatal(err)
		}
		if _, stderr := o.lab(t, exitNothing, "up"); !strings.Contains(stderr, open+": want a directory of your own that nobody else may enter (mode 0700)") {
			t.Errorf("in a directory that others may enter: %q", stderr)
		}
		if err := os.Remove(open); err != nil {
			t.Fatal(err)
		}
		o.up(t, "-m", "bridge")
		if out, _ := o.lab(t, exitExpected, "ls"); !strings.Contains(out, "two-hosts  bridge  open ") || !strings.Contains(out, " h1/c4 h2 ") {
			t.Errorf("ls: %s", out)
		}
		if _, stderr := o.lab(t, exitInput, "up"); !strings.Contains(stderr, "--name lab: a lab of this name is up already") {
			t.Errorf("a second lab of the same name: %s", stderr)
		}
		o.up(t, "--name", "bare", "--fabric", "vpc")
		for place, want := range map[string]string{"h1/c1": `no such place in the lab: want one of tor, h1, h2, x, y`, "h3": "no such place"} {
			if _, stderr := o.lab(t, exitInput, "exec", "--name", "bare", place, "true"); !strings.Contains(stderr, want) {
				t.Errorf("%s: %s", place, stderr)
			}
		}
		if _, stderr := o.lab(t, exitInput, "exec", "h1", "true"); !strings.Contains(stderr, "want --name with one of bare, lab") {
			t.Errorf("of two labs: %s", stderr)
		}
		if _, stderr := o.lab(t, exitInput, "graph", "--name", "other"); !strings.Contains(stderr, `"other": no such lab`) {
			t.Errorf("no such lab: %s", stderr)
		}
		o.lab(t, 128+9, "exec", "--name", "bare", "h1", "--", "sh", "-c", "kill -9 $(grep -lxz h2 /proc/[0-9]*/cmdline | cut -d/ -f3); kill -9 $$")
		if out, _ := o.lab(t, exitExpected, "graph", "--name", "bare", "--text"); !strings.Contains(out, "h2   host  does not answer") || !strings.Contains(out, "198.18.0.1/22") || !strings.Contains(out, "  fabric vpc") || !strings.Contains(out, "no.route") {
			t.Errorf("with a host that was killed: %s", out)
		}
		o.lab(t, exitExpected, "down", "--name", "bare")
		if n := len(o.supervisors(t)); n != 1 {
			t.Errorf("%d supervisors after one lab of two is down: want 1", n)
		}
		o.lab(t, exitExpected, "down")
		o.gone(t)
	})
}

// TestLabImplementations has labs whose containers are attached by plugins, and by an engine.
func TestLabImplementations(t *testing.T) {
	cache := DefaultCache()
	for by, bridge := range map[string]string{modes.ByCNI: "cni-br0", modes.ByDocker: "br-blue"} {
		t.Run(by, func(t *testing.T) {
			o := owners(t)["own"]
			if by == modes.ByCNI {
				referencePlugins(t, cache)
			} else if _, why := (&kernels{}).engine(&ground{}); why != "" {
				unable(t, "%s", why)
			}
			o.up(t, "-t", "one-host", "-m", "bridge", "-i", by, "--cache", cache)
			if out, _ := o.lab(t, exitExpected, "ls"); !strings.Contains(out, "bridge ("+by+")") || !strings.Contains(out, " h1/c2 ") {
				t.Errorf("ls: %s", out)
			}
			if out, _ := o.lab(t, exitExpected, "graph", "--text"); strings.Count(out, " — h1:"+bridge+" ") != 2 {
				t.Errorf("two containers on %s: %s", bridge, out)
			}
			o.lab(t, exitExpected, "exec", "h1/c1", "--", "sh", "-c", "ls /sys/class/net | grep -x eth0")
			o.lab(t, exitExpected, "down")
			o.gone(t)
		})
	}
}

// TestLabKilled kills a lab's supervisor, while a program runs in the lab: nothing is left, and a new lab takes the name.
func TestLabKilled(t *testing.T) {
	before := belongings(t)
	eachOwner(t, func(t *testing.T, o owner) {
		o.up(t, "-m", "macvlan-bridge")
		o.lab(t, exitExpected, "exec", "h1/c1", "--", "sh", "-c", "sleep 1000 </dev/null >/dev/null 2>&1 &")
		for _, pid := range o.supervisors(t) {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
		}
		until(t, "no process to be left", func() bool { return len(ours(t, o.dir)) == 0 })
		o.lab(t, exitNothing, "shell", "h1")
		o.up(t)
		o.lab(t, exitExpected, "down")
		o.gone(t)
	})
	until(t, "the machine to be as before", func() bool { return cmp.Equal(before, belongings(t)) })
}

// TestLabExec hands on input, output, exit codes and signals, and shows a container as its own machine.
func TestLabExec(t *testing.T) {
	eachOwner(t, func(t *testing.T, o owner) {
		o.up(t, "-m", "bridge")
		cmd := o.command(t, "lab", "exec", "h1/c1", "--", "sh", "-c", "cat; ls /sys/class/net; cat /proc/1/comm /proc/sys/kernel/hostname; echo wrong >&2; exit 7")
		cmd.Stdin = strings.NewReader("given\n")
		code, stdout, stderr := result(t, cmd)
		if code != 7 || stdout != "given\neth0\nlo\nexe\nh1-c1\n" || stderr != "wrong\n" {
			t.Errorf("exit code %d, %q, %q: want what the program says", code, stdout, stderr)
		}
		for want, program := range map[int]string{128 + 9: "kill -9 $$", 3: "trap 'exit 3' USR1; kill -USR1 $$"} {
			o.lab(t, want, "exec", "tor", "sh", "-c", program)
		}
		o.lab(t, exitNotFound, "exec", "h1", "no-such-program")
		o.lab(t, exitNotRun, "exec", "h1", "/etc/passwd")

		cmd = o.command(t, "lab", "exec", "h1/c2", "--", "sh", "-c", "trap 'exit 9' TERM; echo ready; while :; do sleep 1000 & wait; done")
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(out, make([]byte, len("ready\n"))); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if _ = cmd.Wait(); cmd.ProcessState.ExitCode() != 9 {
			t.Errorf("exit code %d after a signal: want the program's answer to it, 9", cmd.ProcessState.ExitCode())
		}

		cmd = o.command(t, "lab", "exec", "h1/c2", "--", "sh", "-c", "echo ready; tail -f /dev/null")
		if out, err = cmd.StdoutPipe(); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(out, make([]byte, len("ready\n"))); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // it was killed
		until(t, "a program to end with the command that ran it", func() bool {
			out, _ := o.lab(t, exitExpected, "exec", "h1", "--", "sh", "-c", "cat /proc/[0-9]*/comm || true") // some end meanwhile
			return !strings.Contains(out, "tail")
		})
		o.lab(t, exitExpected, "down")
	})
}

// TestLabShell has a shell on a terminal: with job control, the window's size and its exit code.
func TestLabShell(t *testing.T) {
	eachOwner(t, func(t *testing.T, o owner) {
		o.up(t, "-m", "bridge")
		outer, inner, err := openTerminal()
		if err != nil {
			unable(t, "%v", err)
		}
		defer outer.Close()
		resize := func(rows, columns uint16) {
			if err := control(outer, func(fd int) error {
				return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: columns})
			}); err != nil {
				t.Fatal(err)
			}
		}
		resize(24, 100)
		if o.as != nil {
			if err := inner.Chown(int(o.as.Uid), int(o.as.Gid)); err != nil {
				t.Fatal(err)
			}
		}
		cmd := o.command(t, "lab", "shell", "h1/c1")
		cmd.Stdin, cmd.Stdout, cmd.Stderr = inner, inner, inner
		cmd.SysProcAttr.Setsid, cmd.SysProcAttr.Setctty = true, true
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		_ = inner.Close()
		stuck := time.AfterFunc(20*time.Second, func() { _ = cmd.Process.Kill() })
		defer stuck.Stop()
		var shown bytes.Buffer
		say := func(line string, want string) {
			t.Helper()
			if _, err := outer.WriteString(line); err != nil {
				t.Fatal(err)
			}
			b := make([]byte, 4096)
			for from := shown.Len(); !strings.Contains(shown.String()[from:], want); {
				n, err := outer.Read(b)
				if shown.Write(b[:n]); err != nil {
					t.Fatalf("%q: no %q: %v: %s", line, want, err, shown.String())
				}
			}
		}
		say("stty size; echo at $(hostname)\n", "24 100\r\nat h1-c1")
		resize(33, 77)
		say("while [ \"$(stty size)\" != '33 77' ]; do :; done; echo siz''ed\n", "sized")
		say("sed -u s/given/taken/\n", "")
		say("given 1\n", "taken 1")
		say("\x1a", "Stopped") // job control
		say("fg\n", "")
		say("given 2\n", "taken 2")
		say("\x03", "# ") // what is typed before is lost
		say("echo inter''rupted $?\n", "interrupted 130")
		if _, err := outer.WriteString("exit 9\n"); err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, outer) // ends in EIO
		if _ = cmd.Wait(); cmd.ProcessState.ExitCode() != 9 {
			t.Errorf("exit code %d: want the shell's, 9: %s", cmd.ProcessState.ExitCode(), shown.String())
		}
		o.lab(t, exitExpected, "down")
	})
}

// TestLabPcap records a ping in a container, while it goes on, and finds it in the recording with the device's name.
func TestLabPcap(t *testing.T) {
	if _, err := exec.LookPath("ping"); err != nil {
		unable(t, "%v", err)
	}
	eachOwner(t, func(t *testing.T, o owner) {
		o.up(t, "-m", "bridge")
		cmd := o.command(t, "lab", "pcap", "h1/c1")
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		r, err := pcapgo.NewNgReader(out, pcapgo.DefaultNgReaderOptions)
		if err != nil {
			t.Fatal(err)
		}
		o.lab(t, exitExpected, "exec", "h1/c1", "--", "ping", "-c", "1", "172.17.0.3")
		seen := map[string]string{}
		for len(seen) < 2 {
			data, ci, err := r.ReadPacketData()
			if err != nil {
				t.Fatal(err)
			}
			p := gopacket.NewPacket(data, layers.LayerTypeEthernet, gopacket.Default)
			if icmp, ok := p.Layer(layers.LayerTypeICMPv4).(*layers.ICMPv4); ok {
				i, err := r.Interface(ci.InterfaceIndex)
				if err != nil {
					t.Fatal(err)
				}
				seen[icmp.TypeCode.String()] = i.Name
			}
		}
		for _, kind := range []string{"EchoRequest", "EchoReply"} {
			if seen[kind] != "h1/c1:eth0" {
				t.Errorf("%s at %q: want h1/c1:eth0", kind, seen[kind])
			}
		}
		if err := cmd.Process.Signal(os.Interrupt); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("interrupted: %v: want exit code 0", err)
		}
		file := filepath.Join(o.dir, "h1.pcapng")
		o.lab(t, exitInput, "pcap", "h1", "-i", "eth7", "-w", file)
		o.lab(t, exitInput, "pcap", "h1", "-w", filepath.Join(file, "in-a-file"))
		o.lab(t, exitExpected, "down")
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
		o.gone(t)
	})
}

// random are addresses that the kernel gives devices by chance.
var random = regexp.MustCompile(`(veth-c[0-9]+</text><text x="[0-9.]+" y="[0-9.]+">veth|veth-c[0-9]+ +veth) ([0-9a-f]{2}:){5}[0-9a-f]{2}`)

// TestLabGraph draws labs: devices and addresses, namespaces that are shared, and what joins them.
func TestLabGraph(t *testing.T) {
	o := owners(t)["own"]
	for _, mode := range []string{"bridge", "container", "macvlan-bridge", "host"} {
		o.up(t, "-m", mode, "-t", "one-host")
		text, _ := o.lab(t, exitExpected, "graph", "--text")
		golden(t, "lab/"+mode+".txt", random.ReplaceAllString(text, "$1 random"))
		o.lab(t, exitExpected, "graph", "-o", "lab.svg")
		svg, err := os.ReadFile(filepath.Join(o.dir, "lab.svg"))
		if err != nil {
			t.Fatal(err)
		}
		golden(t, "lab/"+mode+".svg", random.ReplaceAllString(string(svg), "$1 random"))
		o.lab(t, exitExpected, "down")
	}
}

// TestKeepOnFail has a run leave the lab of a failed spec, and goes on with another one.
func TestKeepOnFail(t *testing.T) {
	eachOwner(t, func(t *testing.T, o owner) {
		cmd := o.command(t, "run", "--kernel", "host", "-m", "bridge", "--suite", "conformance", "--feature", "same-host-ipv4,same-host-ipv6", "--keep-on-fail")
		cmd.Env = append(cmd.Env, misled+"=bridge/same-host-ipv4")
		code, _, stderr := result(t, cmd)
		if code != exitUnexpected || !strings.Contains(stderr, "1 as expected, 1 not") || !strings.Contains(stderr, "the lab of bridge is up, as same-host-ipv4 left it") {
			t.Fatalf("exit code %d: want 1, and a lab: %s", code, stderr)
		}
		line := regexp.MustCompile(`modebench lab exec (.*) -- `).FindStringSubmatch(stderr)
		if line == nil {
			t.Fatalf("no line that looks at the lab: %s", stderr)
		}
		if out, _ := o.lab(t, exitExpected, append(append([]string{"exec"}, strings.Fields(line[1])...), "cat", "/proc/net/dev")...); !strings.Contains(out, "eth0") {
			t.Errorf("in the lab: %s", out)
		}
		o.lab(t, exitExpected, "down")
		if err := os.RemoveAll(filepath.Join(o.dir, "modebench-report")); err != nil {
			t.Fatal(err)
		}
		o.gone(t)
	})
}
