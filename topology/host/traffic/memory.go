package traffic

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// hugePage is what memory comes in, bytes: on every processor a page of this size or a multiple of one.
const hugePage = 2 << 20

// memory is where a trial sends from or receives into, for a trial alone: at least size bytes. Those are written to, since
// pages that nobody wrote to are all one page of zeros and cost next to nothing to read; and they are one piece also
// physically where the kernel has a huge page to give, since how pages of small ones share the sets of a cache is a matter
// of luck, which a process would keep for as long as it lives. Where it has none, the rest is never paid for.
func memory(size int) ([]byte, error) {
	b, err := unix.Mmap(-1, 0, (size+hugePage-1)&^(hugePage-1), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, fmt.Errorf("memory: %w", os.NewSyscallError("mmap", err))
	}
	_ = unix.Madvise(b, unix.MADV_HUGEPAGE) // a kernel without them has small ones
	b[0] = 1
	for filled := 1; filled < size; filled *= 2 {
		copy(b[filled:size], b[:filled])
	}
	return b, nil
}
