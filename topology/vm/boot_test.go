package vm

import (
	"bytes"
	"context"
	"crypto/rand"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The programs that guests of the tests run; the test's own binary is their init.
var programs = map[string]func([]string) error{
	"init": func([]string) error { return Init() },
	"uml":  Exec,
	"echo": func([]string) error {
		_, err := io.Copy(os.Stdout, os.Stdin)
		return err
	},
	"say": func(args []string) error {
		_, err := fmt.Print(strings.Join(args, " "))
		return err
	},
	"look": func(args []string) error { // prints files
		for _, name := range args {
			data, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			fmt.Printf("%s\n", bytes.TrimSpace(data))
		}
		return nil
	},
	"environ": func([]string) error {
		_, err := fmt.Print(strings.Join(os.Environ(), "\n"))
		return err
	},
	"fail": func([]string) error { return errors.New("these are its last words") },
	"panic": func([]string) error {
		if err := os.WriteFile("/proc/sysrq-trigger", []byte("c"), 0); err != nil {
			return err
		}
		select {}
	},
	"parent": func(args []string) error { // boots a guest, and waits to be killed
		ks, lacking := Kernels(args[1])
		i := slices.IndexFunc(ks, func(k Kernel) bool { return k.Kind == args[0] })
		if i < 0 {
			return errors.Join(lacking...)
		}
		m, err := Boot(context.Background(), ks[i], Guest{Cache: args[1]})
		if err != nil {
			return err
		}
		fmt.Println(m.cmd.Process.Pid)
		select {}
	},
	"full": func(args []string) error { // has a cache in a file system without room
		if err := unix.Mount("none", args[1], "tmpfs", 0, "size=8k"); err != nil {
			return err
		}
		var err error
		if args[0] == "initramfs" {
			_, err = initramfs(context.Background(), &tree{}, args[1], nil)
		} else {
			_, err = Fetch(context.Background(), cloudName, args[1], func(string) {})
		}
		var left []string
		walked := filepath.WalkDir(args[1], func(path string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() && d.Name() != "lock" {
				left = append(left, path)
			}
			return err
		})
		fmt.Printf("left %q: %v", left, errors.Join(err, walked))
		return nil
	},
}

func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		if p, ok := programs[os.Args[1]]; ok {
			if err := p(os.Args[2:]); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			os.Exit(0)
		}
	}
	code := m.Run()
	if shared.dir != "" {
		if err := os.RemoveAll(shared.dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// shared is the cache of all tests that boot: what one finds out, others need not.
var shared struct{ dir string }

func cacheOf(t *testing.T) string {
	t.Helper()
	if shared.dir == "" {
		dir, err := os.MkdirTemp("", "modebench-vm-")
		if err != nil {
			t.Fatal(err)
		}
		shared.dir = dir
	}
	return shared.dir
}

// unable skips a test for which this machine lacks something. In strict mode, where nothing may be lacking, that fails.
func unable(t *testing.T, format string, args ...any) {
	t.Helper()
	if os.Getenv("MODEBENCH_STRICT") != "" {
		t.Fatalf("unable: "+format, args...)
	}
	t.Skipf("unable: "+format, args...)
}

// each runs a test with a kernel of each kind.
func each(t *testing.T, f func(*testing.T, Kernel, string)) {
	for _, kind := range []string{UML, QEMU} {
		t.Run(kind, func(t *testing.T) { with(t, kind, f) })
	}
}

// with runs a test with a kernel of one kind, if this machine has one.
func with(t *testing.T, kind string, f func(*testing.T, Kernel, string)) {
	cache := cacheOf(t)
	ks, lacking := Kernels(cache)
	i := slices.IndexFunc(ks, func(k Kernel) bool { return k.Kind == kind })
	if i < 0 {
		unable(t, "no kernel of kind %s: %v", kind, errors.Join(lacking...))
	}
	f(t, ks[i], cache)
}

func boot(t *testing.T, k Kernel, g Guest) *Machine {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	m, err := Boot(ctx, k, g)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Stop(); err != nil {
			t.Error(err)
		}
	})
	return m
}

// TestGuest boots a guest, and holds what its program sees against what was asked for.
func TestGuest(t *testing.T) {
	each(t, func(t *testing.T, k Kernel, cache string) {
		m := boot(t, k, Guest{Cache: cache, Name: "h1", Features: []string{"ipvlan", "802.1q", "ipv6"}, Args: []string{
			"look", "/proc/sys/kernel/hostname", "/proc/sys/kernel/osrelease", "/proc/modules", "/sys/class/net/lo/operstate", "/proc/net/if_inet6",
		}})
		out, err := io.ReadAll(m.Stream)
		if err != nil {
			t.Fatal(err)
		}
		got := string(out)
		for _, want := range []string{"h1\n" + k.Release + "\n", "\nipvlan ", "\n8021q ", " lo"} {
			if !strings.Contains(got, want) {
				t.Errorf("guest shows %q: want %q in it", got, want)
			}
		}
		if len(m.Lacking) > 0 {
			t.Errorf("lacking %v: want none", m.Lacking)
		}
		t.Logf("%s: greeting %.2f s, modules %.2f s", m.Kernel.Accelerator, m.Boot, m.Load)
	})
}

// TestStream sends every byte, and more than any buffer holds, there and back.
func TestStream(t *testing.T) {
	each(t, func(t *testing.T, k Kernel, cache string) {
		m := boot(t, k, Guest{Cache: cache, Args: []string{"echo"}})
		want := make([]byte, 1<<20)
		_, _ = rand.Read(want)
		for i := range 256 {
			want[i] = byte(i)
		}
		sent := make(chan error, 1)
		go func() {
			_, err := m.Stream.Write(want)
			sent <- errors.Join(err, m.Stream.Close())
		}()
		began := time.Now()
		got, err := io.ReadAll(m.Stream)
		if err := errors.Join(err, <-sent); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%d bytes came back, the same up to byte %d: want all %d", len(got), common(got, want), len(want))
		}
		t.Logf("%d bytes there and back in %v", len(want), time.Since(began))
	})
}

// TestTurns talks with a guest in turns, each longer than what its terminal holds: a guest that was once asked to pause must
// not be deaf afterwards.
func TestTurns(t *testing.T) {
	each(t, func(t *testing.T, k Kernel, cache string) {
		m := boot(t, k, Guest{Cache: cache, Args: []string{"echo"}})
		deaf := time.AfterFunc(time.Minute, func() { _ = m.Stop() })
		defer deaf.Stop()
		said := make([]byte, 20000)
		for i := range 20 {
			sent := make(chan error, 1)
			go func() {
				_, err := m.Stream.Write(said)
				sent <- err
			}()
			if n, err := io.ReadFull(m.Stream, said); err != nil {
				t.Fatalf("turn %d: %d bytes of %d came back: %v", i, n, len(said), err)
			}
			if err := <-sent; err != nil {
				t.Fatal(err)
			}
		}
	})
}

func common(a, b []byte) int {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	return min(len(a), len(b))
}

// TestEnds ends guests in the ways that they end, and holds the errors against what happened.
func TestEnds(t *testing.T) {
	each(t, func(t *testing.T, k Kernel, cache string) {
		for _, c := range []struct {
			program, want string
			kill          bool
		}{
			{program: "fail", want: "these are its last words"},
			{program: "panic", want: "Kernel panic"},
			{program: "echo", want: "the machine ended", kill: true},
		} {
			t.Run(c.program, func(t *testing.T) {
				m := boot(t, k, Guest{Cache: cache, Args: []string{c.program}})
				if c.kill {
					if err := m.cmd.Process.Kill(); err != nil {
						t.Fatal(err)
					}
				}
				_, err := io.ReadAll(m.Stream)
				if err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("error %v: want one with %q", err, c.want)
				}
				select {
				case <-m.over:
				case <-time.After(time.Minute):
					t.Error("the machine runs on after its end")
				}
			})
		}
	})
}

// TestHang gives a kernel something else than its init, and wants to be told what the console said.
func TestHang(t *testing.T) {
	each(t, func(t *testing.T, k Kernel, cache string) {
		_, err := Boot(t.Context(), k, Guest{Cache: cache, Deadline: 100 * time.Millisecond})
		if err == nil || !strings.Contains(err.Error(), "wait for its greeting: no sign of life within 100ms") {
			t.Errorf("error %v: want one that tells that no greeting came", err)
		}
	})
}

// TestCrash has QEMU fall before the guest greets: once, which is made good, and always, which is told.
func TestCrash(t *testing.T) {
	with(t, QEMU, func(t *testing.T, k Kernel, cache string) {
		k.Accelerator = "tcg" // else it is tried whether there is another, too
		dir := t.TempDir()
		file := func(name, content string) {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		qemu, err := exec.LookPath(qemuProgram)
		if err != nil {
			t.Fatal(err)
		}
		// A program of one instruction, which only kernels may use: the first process of a namespace does not end by signals that it sends itself.
		var fall bytes.Buffer
		const at = 0x400000
		for _, part := range []any{
			elf.Header64{
				Ident: [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
				Type:  uint16(elf.ET_EXEC), Machine: uint16(elf.EM_X86_64), Version: uint32(elf.EV_CURRENT), Entry: at + 120, Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 1,
			},
			elf.Prog64{Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_X), Vaddr: at, Paddr: at, Filesz: 121, Memsz: 121, Align: 0x1000},
			byte(0xf4), // hlt
		} {
			if err := binary.Write(&fall, binary.LittleEndian, part); err != nil {
				t.Fatal(err)
			}
		}
		file("fall", fall.String())
		t.Setenv("PATH", dir+":"+os.Getenv("PATH"))

		file(qemuProgram, fmt.Sprintf("#!/bin/sh\ncd %s && [ -e fell ] && exec %s \"$@\"\ntouch fell && exec ./fall\n", dir, qemu))
		m := boot(t, k, Guest{Cache: cache, Args: []string{"look", "/proc/sys/kernel/hostname"}})
		if out, err := io.ReadAll(m.Stream); err != nil || string(out) != "guest\n" {
			t.Errorf("the guest shows %q, error %v: want its name", out, err)
		}
		if _, err := os.Stat(filepath.Join(dir, "fell")); err != nil {
			t.Errorf("QEMU has not fallen: %v", err)
		}

		file(qemuProgram, fmt.Sprintf("#!/bin/sh\necho x >> %s/falls\nexec %[1]s/fall\n", dir))
		if _, err := Boot(t.Context(), k, Guest{Cache: cache}); err == nil || !strings.Contains(err.Error(), "wait for its greeting: the machine ended") {
			t.Errorf("error %v: want one that tells that the machine ended", err)
		}
		if falls, err := os.ReadFile(filepath.Join(dir, "falls")); err != nil || string(falls) != "x\nx\n" {
			t.Errorf("QEMU fell %q, error %v: want it tried twice", falls, err)
		}
	})
}

// TestNothingStays kills a process that booted a guest, and wants every process of the guest gone.
func TestNothingStays(t *testing.T) {
	each(t, func(t *testing.T, k Kernel, cache string) {
		cmd := exec.Command("/proc/self/exe", "parent", k.Kind, cache)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		cmd.Stderr = os.Stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var pid int
		_, err = fmt.Fscan(out, &pid)
		if before := running(t, cache); err == nil && before < 2 {
			t.Errorf("%d processes name the cache: want the parent and the machine", before)
		}
		if err := errors.Join(err, cmd.Process.Kill()); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		late := time.After(time.Minute)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for running(t, cache) > 0 || !errors.Is(unix.Kill(pid, 0), unix.ESRCH) {
			select {
			case <-late:
				t.Fatalf("%d processes of the guest run on", running(t, cache))
			case <-tick.C:
			}
		}
	})
}

// running counts processes whose command line names the cache.
func running(t *testing.T, cache string) (n int) {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil || len(all) == 0 {
		t.Fatalf("processes: %d, %v", len(all), err)
	}
	for _, path := range all {
		if line, err := os.ReadFile(path); err == nil && bytes.Contains(line, []byte(cache)) {
			n++
		}
	}
	return n
}

// TestEnvironment looks at what a program is told, so that it stays away from registers that UML does not switch.
func TestEnvironment(t *testing.T) {
	each(t, func(t *testing.T, k Kernel, cache string) {
		m := boot(t, k, Guest{Cache: cache, Args: []string{"environ"}})
		out, err := io.ReadAll(m.Stream)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range noAVX {
			if got := strings.Contains(string(out), want); got != (k.Kind == UML) {
				t.Errorf("environment has %q: %v: want it under UML alone", want, got)
			}
		}
	})
}

// TestFullDisk has no room in the cache for an initramfs, or for a kernel: nothing half written stays.
func TestFullDisk(t *testing.T) {
	apart(t)
	for what, remedy := range map[string]string{"initramfs": "make room", "fetch": "fetch kernel debian-cloud"} {
		t.Run(what, func(t *testing.T) {
			cmd := exec.Command("/proc/self/exe", "full", what, t.TempDir())
			cmd.SysProcAttr = &syscall.SysProcAttr{
				Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
				UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}, GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
			}
			out, err := cmd.CombinedOutput()
			if err != nil {
				unable(t, "no file system can be mounted here: %v: %s", err, out)
			}
			got := string(out)
			if !strings.HasPrefix(got, "left []: ") || !strings.Contains(strings.ToLower(got), "no space left on device") || !strings.Contains(got, remedy) {
				t.Errorf("got %q: want nothing left, and the cause with %q", got, remedy)
			}
		})
	}
}

// What was found about KVM holds as long as nothing changed that it depends on, and is told with its reason.
func TestAccelerate(t *testing.T) {
	k := Kernel{Name: "k", Kind: QEMU, Path: write(t, bzImage("1.0.0"), t.TempDir(), "vmlinuz")}
	cache := t.TempDir()
	with := k
	with.Accelerator = "kvm"
	if f, err := os.OpenFile(kvmDevice, os.O_RDWR, 0); err != nil {
		got, err := Accelerate(t.Context(), k, cache)
		if err != nil || got.Accelerator != "tcg" || !strings.Contains(got.Unaccelerated, kvmDevice) {
			t.Errorf("without the device: %+v, %v: want tcg, and why", got, err)
		}
		return
	} else {
		_ = f.Close()
	}
	key, err := circumstances(with)
	if err != nil {
		unable(t, "%v: install qemu-system-x86", err)
	}
	for _, c := range []struct{ found, accelerator, why string }{{"hung, it did", "tcg", "hung, it did"}, {"", "kvm", ""}} {
		answers := filepath.Join(cache, "answers")
		if err := os.RemoveAll(answers); err != nil {
			t.Fatal(err)
		}
		if _, _, err := remember(cache, key, func() ([]byte, error) { return []byte(c.found), nil }); err != nil {
			t.Fatal(err)
		}
		got, err := Accelerate(t.Context(), k, cache)
		if err != nil || got.Accelerator != c.accelerator || !strings.Contains(got.Unaccelerated, c.why) || (c.why == "") != (got.Unaccelerated == "") {
			t.Errorf("%q was found: %+v, %v: want %s, told why", c.found, got, err, c.accelerator)
		}
	}
	write(t, bzImage("1.0.1"), k.Path)
	if other, err := circumstances(with); err != nil || other == key {
		t.Errorf("another kernel: %v: want other circumstances", err)
	}
}
