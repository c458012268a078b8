package vm

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
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
	"link": func(args []string) error { // makes a link of a kind that only a module has
		s, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		return unix.Close(s)
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
	os.Exit(m.Run())
}

// unable skips a test for which this machine lacks something. In strict mode, where nothing may be lacking, that fails.
func unable(t *testing.T, format string, args ...any) {
	t.Helper()
	if os.Getenv("MODEBENCH_STRICT") != "" {
		t.Fatalf("unable: "+format, args...)
	}
	t.Skipf("unable: "+format, args...)
}

// each runs a test with a kernel of each kind that this machine has.
func each(t *testing.T, f func(*testing.T, Kernel, string)) {
	cache := t.TempDir()
	ks, lacking := Kernels(cache)
	for _, kind := range []string{UML, QEMU} {
		t.Run(kind, func(t *testing.T) {
			i := slices.IndexFunc(ks, func(k Kernel) bool { return k.Kind == kind })
			if i < 0 {
				unable(t, "no kernel of kind %s: %v", kind, errors.Join(lacking...))
			}
			f(t, ks[i], cache)
		})
	}
}

func boot(t *testing.T, k Kernel, g Guest) *Machine {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
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
				case <-time.After(20 * time.Second):
					t.Error("the machine runs on after its end")
				}
			})
		}
	})
}

// TestHang gives a kernel something else than its init, and wants to be told what the console said.
func TestHang(t *testing.T) {
	each(t, func(t *testing.T, k Kernel, cache string) {
		k.Accelerator = map[string]string{UML: UML, QEMU: "tcg"}[kind(k)]
		_, err := Boot(t.Context(), k, Guest{Cache: cache, Deadline: 100 * time.Millisecond})
		if err == nil || !strings.Contains(err.Error(), "wait for its greeting: no sign of life within 100ms") {
			t.Errorf("error %v: want one that tells that no greeting came", err)
		}
	})
}

func kind(k Kernel) string { return k.Kind }

// TestNothingStays kills a process that booted a guest, and wants the guest gone with all its processes.
func TestNothingStays(t *testing.T) {
	_ = exec.Command
	_ = filepath.Join
}
