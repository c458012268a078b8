package host

import (
	"fmt"
	"os"
	"testing"

	"github.com/modebench/modebench/topology/host/relay"
	"github.com/modebench/modebench/topology/space"
)

// TestMain runs the tests again in a namespace of their own, as root of it: the machine's is not theirs to change. This program is also what
// carries ports on.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "relay" {
		if err := relay.Main(os.Args[2:], os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(space.Rerun(m.Run, os.Args[1:], os.Getenv))
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
