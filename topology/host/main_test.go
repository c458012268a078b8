package host

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"testing"

	"github.com/modebench/modebench/topology/space"
)

const isolated = "MODEBENCH_HOST_TEST_ISOLATED"

// TestMain runs the tests again in a namespace of their own, as root of it: the machine's is not theirs to change.
func TestMain(m *testing.M) {
	if os.Getenv(isolated) != "" {
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), isolated+"=1")
	space.Isolate(cmd)
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		os.Exit(exit.ExitCode())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "unable: no network namespace can be made here:", err)
		if os.Getenv("MODEBENCH_STRICT") != "" {
			os.Exit(1)
		}
	}
}

// inside runs f in a fresh namespace whose loopback is up.
func inside(t *testing.T, f func() error) {
	t.Helper()
	if err := fresh(t).Do(f); err != nil {
		t.Fatal(err)
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
