package host

import (
	"os"
	"slices"
	"strconv"
	"testing"

	"github.com/modebench/modebench/topology/space"
)

func TestHoldersAreThoseThatHoldADescriptor(t *testing.T) {
	fresh(t) // or there is nothing to test with
	s, err := space.New()
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Readlink("/proc/self") // as proc(5) numbers this process, which may be otherwise than it does itself
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(self)
	if err != nil {
		t.Fatal(err)
	}
	holders := func() (pids []int) {
		if err := new(Host).Holders([]uint64{s.Inode()}, &pids); err != nil {
			t.Fatal(err)
		}
		return pids
	}
	if got := holders(); !slices.Contains(got, pid) {
		t.Errorf("a namespace that process %d holds: held by %v", pid, got)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	// Others may have made a namespace that got the same inode meanwhile.
	if got := holders(); slices.Contains(got, pid) {
		t.Errorf("a namespace that process %d has let go: held by %v", pid, got)
	}
}
