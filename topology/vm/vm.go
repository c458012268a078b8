// Package vm brings kernels along: it finds and fetches them, and boots them as guests that need no rights, no KVM and no
// modules on the machine. A guest's first process is this very binary, which runs one program of it and joins the
// program's standard input and output to a stream outside.
package vm

import (
	"os"
	"time"

	"github.com/modebench/modebench/topology/space"
)

// Guest is what a kernel is booted for. Its zero value is a machine without NICs, whose program is to do nothing until Stop.
type Guest struct {
	Name     string        // the machine's host name; "": "guest"
	Cache    string        // directory of caches, where the initramfs is kept
	Memory   int64         // bytes; 0: 512 MiB
	CPUs     int           // 0: one. UML has one whatever is asked for
	Features []string      // kernel features by the names of Modules: what is no module is taken as built in or lacking
	Args     []string      // the program of this binary that the guest runs, as in os.Args[1:]
	Programs []string      // files of this machine that are there, too, at the same absolute paths, each with the libraries that it is linked with (see Carried)
	Devices  []string      // more arguments, for NICs: of linux.uml or of qemu-system-x86_64, by the kernel's kind
	Files    []*os.File    // inherited by it as descriptors FirstFile, FirstFile+1, …
	Space    *space.Space  // network namespace that it runs in; nil: that of the process
	Deadline time.Duration // for the greeting; 0: 30 s
}

// FirstFile is the number of the first descriptor of Guest.Files.
const FirstFile = 4
