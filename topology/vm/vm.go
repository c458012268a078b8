// Package vm brings kernels along: it finds and fetches them, and boots them as guests that need no rights, no KVM and no
// modules on the machine. A guest's first process is this very binary, which runs one program of it and joins the
// program's standard input and output to a stream outside.
package vm

import (
	"io"
	"os"
	"time"

	"github.com/modebench/modebench/topology/space"
)

// The kinds of kernels.
const (
	UML  = "uml"  // a kernel that is a program: User-mode Linux (Documentation/virt/uml)
	QEMU = "qemu" // a kernel for x86 machines, run by qemu-system-x86_64
)

// Kernel is a kernel that can be booted. It is plain data, and may travel as JSON.
type Kernel struct {
	Name        string // "uml", "debian-cloud", "host" (the release that the machine runs) or, of a file, its path
	Kind        string // UML or QEMU
	Path        string // of linux.uml or vmlinuz
	Modules     string // directory in which modules.builtin and kernel/ lie; "": the kernel has none
	Release     string // as uname -r tells in the guest
	Accelerator string // "uml", "tcg" or "kvm"; "" of a QEMU kernel: not decided yet, Accelerate does
	Origin      string // where it came from, for people
}

// Guest is what a kernel is booted for. Its zero value is a machine without NICs that runs nothing.
type Guest struct {
	Name     string        // the machine's host name; "": "guest"
	Cache    string        // directory of caches, where the initramfs is kept
	Memory   int64         // bytes; 0: 512 MiB
	CPUs     int           // 0: one. UML has one whatever is asked for
	Features []string      // kernel features by the names of Modules: what is no module is taken as built in or lacking
	Args     []string      // the program of this binary that the guest runs, as in os.Args[1:]
	Devices  []string      // more arguments, for NICs: of linux.uml or of qemu-system-x86_64, by the kernel's kind
	Files    []*os.File    // inherited by it as descriptors FirstFile, FirstFile+1, …
	Space    *space.Space  // network namespace that it runs in; nil: that of the process
	Deadline time.Duration // for the greeting; 0: 30 s
}

// FirstFile is the number of the first descriptor of Guest.Files.
const FirstFile = 4

// Machine is a guest that runs.
type Machine struct {
	// Stream is the program's standard input and output. Close ends the program's input; reading ends with io.EOF when the
	// program ended well, else with an error that tells how, with the console's last lines.
	Stream io.ReadWriteCloser
	// Lacking are the features that were asked for and that neither a module nor the kernel itself has.
	Lacking []string
	// Boot and Load are the seconds from the start to the greeting, and for the modules.
	Boot, Load float64
	m          *guest
}
