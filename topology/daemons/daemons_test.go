package daemons_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/modebench/modebench/topology/daemons"
)

func TestBuild(t *testing.T) {
	cache, err := os.UserCacheDir()
	if err != nil {
		unable(t, "%v", err)
	}
	cache = filepath.Join(cache, "modebench")
	if err := daemons.Programs.Lacking(t.Context(), cache); err != nil {
		unable(t, "%v", err)
	}
	dir, err := daemons.Programs.Build(t.Context(), cache, false, func(line string) { t.Log(line) })
	if err != nil {
		unable(t, "%v", err) // no module proxy can be reached
	}
	if dir != daemons.Programs.Built(cache) {
		t.Errorf("built in %s, found in %q", dir, daemons.Programs.Built(cache))
	}
	for _, name := range daemons.Programs.Names() {
		words, err := exec.Command(filepath.Join(dir, name), "-help").CombinedOutput()
		var ended *exec.ExitError
		if err != nil && !errors.As(err, &ended) || !strings.Contains(string(words), "-etcd-prefix") && !strings.Contains(string(words), "-ready") {
			t.Errorf("%s -help: %v: %s", name, err, words)
		}
	}
	again, err := daemons.Programs.Build(t.Context(), cache, true, func(line string) { t.Errorf("built again: %s", line) })
	if err != nil || again != dir {
		t.Errorf("built in %s, then in %q: %v", dir, again, err)
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

// Without a C compiler only what is written in C lacks something.
func TestLackingC(t *testing.T) {
	if _, err := exec.LookPath("go"); err != nil {
		unable(t, "%v", err)
	}
	t.Setenv("CC", "no-such-compiler")
	cache := t.TempDir()
	if err := daemons.Programs.Lacking(t.Context(), cache, "etcd", "etcdctl"); err != nil {
		t.Errorf("etcd: %v: want it to lack nothing", err)
	}
	if err := daemons.Programs.Lacking(t.Context(), cache, "etcd", "flanneld"); err == nil || !strings.Contains(err.Error(), "install gcc") {
		t.Errorf("flannel: %v: want what to install", err)
	}
}

// What is not built is refused with what to install, and leaves nothing half made.
func TestLacking(t *testing.T) {
	cache := t.TempDir()
	t.Setenv("PATH", t.TempDir())
	if dir := daemons.Programs.Built(cache); dir != "" {
		t.Errorf("an empty cache has %s", dir)
	}
	_, err := daemons.Programs.Build(t.Context(), cache, true, func(string) {})
	if err == nil || !strings.Contains(err.Error(), "install Go") {
		t.Errorf("without Go: %v: want what to install", err)
	}
	if err := daemons.Needs([]string{"etcd"}); err != nil {
		t.Errorf("etcd needs nothing to run: %v", err)
	}
	if left, err := os.ReadDir(cache); err != nil || len(left) > 0 {
		t.Errorf("left %v: %v", left, err)
	}
}
