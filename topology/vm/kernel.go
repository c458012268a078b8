package vm

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"unicode"
)

// The kinds of kernels.
const (
	UML  = "uml"  // a kernel that is a program: User-mode Linux (Documentation/virt/uml)
	QEMU = "qemu" // a kernel for x86 machines, run by qemu-system-x86_64
)

// Kernel is a kernel that can be booted. It is plain data, and may travel as JSON.
type Kernel struct {
	Name          string // "uml", "debian-cloud" (the newest *-cloud-amd64), the release, or of a file its path
	Kind          string // UML or QEMU
	Path          string // of linux.uml or vmlinuz
	Modules       string // directory in which modules.builtin and kernel/ lie; "": the kernel has none
	Release       string // as uname -r tells in the guest
	Accelerator   string // "uml", "tcg" or "kvm"; "" of a QEMU kernel: not decided yet, Accelerate does
	Unaccelerated string // why "tcg" and not "kvm", for people; may have several lines
	Origin        string // where it came from, for people
}

const (
	qemuProgram = "qemu-system-x86_64"
	umlName     = "uml"
	cloudName   = "debian-cloud"
	cloudSuffix = "-cloud-amd64"
)

// Kernels are the kernels that can be booted without fetching anything, best first: UML, the newest cloud kernel, others by
// release, newest first. lacking says why others are left out, each with a remedy; an empty cache is no reason.
func Kernels(cache string) (ks []Kernel, lacking []error) {
	return kernels("/", cache)
}

func kernels(root, cache string) (ks []Kernel, lacking []error) {
	if runtime.GOARCH != "amd64" {
		return nil, []error{fmt.Errorf("guests are machines of amd64, and this one is of %s", runtime.GOARCH)}
	}
	add := func(path, modules, origin string) {
		k, err := read(path)
		if errors.Is(err, fs.ErrNotExist) {
			return
		}
		if err != nil {
			lacking = append(lacking, err)
			return
		}
		if modules == "" {
			modules = modulesOf(root, k)
		}
		k.Modules, k.Origin = modules, origin
		if k.Name == "" {
			k.Name = k.Release
		}
		ks = append(ks, k)
	}
	add(filepath.Join(root, "usr/bin/linux.uml"), "", "package user-mode-linux")
	boot, _ := filepath.Glob(filepath.Join(root, "boot/vmlinuz-*"))
	for _, path := range boot {
		add(path, "", "/boot")
	}
	fetched, _ := filepath.Glob(filepath.Join(cache, "kernels", "*", manifestFile))
	for _, path := range fetched {
		m, err := readManifest(filepath.Dir(path))
		if err != nil {
			lacking = append(lacking, err)
			continue
		}
		add(m.path(m.Kernel), m.path("modules"), "fetched: "+m.Package+" "+m.Version)
	}
	slices.SortStableFunc(ks, func(a, b Kernel) int { return rank(a) - rank(b) })
	slices.SortStableFunc(ks, func(a, b Kernel) int {
		if rank(a) != rank(b) {
			return rank(a) - rank(b)
		}
		return -natural(a.Release, b.Release)
	})
	ks = slices.CompactFunc(ks, func(a, b Kernel) bool { return a.Kind == b.Kind && a.Release == b.Release }) // installed before fetched
	if i := slices.IndexFunc(ks, func(k Kernel) bool { return rank(k) == 1 }); i >= 0 {
		ks[i].Name = cloudName
	}
	ks = slices.DeleteFunc(ks, func(k Kernel) bool { // older UML kernels, which have the name of the newest
		return k.Kind == UML && k != ks[0]
	})
	if slices.ContainsFunc(ks, func(k Kernel) bool { return k.Kind == QEMU }) {
		if err := haveQEMU(); err != nil {
			lacking = append(lacking, err)
			ks = slices.DeleteFunc(ks, func(k Kernel) bool { return k.Kind == QEMU })
		}
	}
	return ks, lacking
}

func rank(k Kernel) int {
	switch {
	case k.Kind == UML:
		return 0
	case strings.HasSuffix(k.Release, cloudSuffix):
		return 1
	}
	return 2
}

func haveQEMU() error {
	if _, err := exec.LookPath(qemuProgram); err != nil {
		return fmt.Errorf("%w; install it: apt-get install qemu-system-x86 (Debian, Ubuntu), dnf install qemu-system-x86-core (Fedora), pacman -S qemu-system-x86 (Arch)", err)
	}
	return nil
}

// File is the kernel in a file that a user named: a vmlinuz, or a linux.uml. Its modules are looked for in modules,
// modules/RELEASE and lib/modules/RELEASE beside it, then in the machine's /lib/modules. Where the file cannot be read, or is
// none of a kernel, that is the error; one that wraps ErrUnbootable is of a kernel that is not whole, or that nothing here runs.
func File(path string) (Kernel, error) {
	k, err := read(path)
	if err != nil {
		return Kernel{}, err
	}
	if k.Kind == QEMU {
		if err := haveQEMU(); err != nil {
			return Kernel{}, fmt.Errorf("%s: %w: %w", path, ErrUnbootable, err)
		}
	}
	if k.Path, err = filepath.Abs(path); err != nil {
		return Kernel{}, err
	}
	k.Name, k.Modules, k.Origin = path, modulesOf("/", k), "file"
	return k, nil
}

// modulesOf finds the directory of a kernel's modules.
func modulesOf(root string, k Kernel) string {
	beside := filepath.Dir(k.Path)
	for _, dir := range []string{
		filepath.Join(beside, "modules"),
		filepath.Join(beside, "modules", k.Release),
		filepath.Join(beside, "lib/modules", k.Release),
		filepath.Join(root, "usr/lib/uml/modules", k.Release),
		filepath.Join(root, "lib/modules", k.Release),
	} {
		if k.Kind == UML != strings.Contains(dir, "/uml/") && strings.HasPrefix(dir, filepath.Join(root, "usr/lib")) {
			continue
		}
		if st, err := os.Stat(filepath.Join(dir, "kernel")); err == nil && st.IsDir() {
			return dir
		}
	}
	return ""
}

// read tells what kernel a file is, from its contents, and refuses one that is not whole.
func read(path string) (Kernel, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrPermission) {
		return Kernel{}, fmt.Errorf("%w: let it be read: chmod a+r %s, or fetch a kernel: modebench kernel fetch", err, path)
	}
	if err != nil {
		return Kernel{}, err
	}
	k := Kernel{Path: path}
	if bytes.HasPrefix(data, []byte(elf.ELFMAG)) {
		k.Kind, k.Name, k.Accelerator = UML, umlName, UML
		k.Release, err = umlRelease(data)
	} else {
		k.Kind = QEMU
		k.Release, err = bzImageRelease(data)
	}
	if err != nil {
		return Kernel{}, fmt.Errorf("%s: %w", path, err)
	}
	return k, nil
}

// ErrUnbootable is that a file is a kernel's, but cannot be booted here.
var ErrUnbootable = errors.New("kernel cannot be booted")

var (
	errNoKernel  = errors.New("no kernel for guests: want a linux.uml or vmlinuz for amd64")
	errTruncated = fmt.Errorf("%w: truncated: install or fetch it again", ErrUnbootable)
)

// umlRelease is the release in a kernel that is a program.
func umlRelease(data []byte) (string, error) {
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return "", fmt.Errorf("%w (%w)", errTruncated, err)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_LOAD && p.Off+p.Filesz > uint64(len(data)) {
			return "", fmt.Errorf("%w (%d bytes, want %d)", errTruncated, len(data), p.Off+p.Filesz)
		}
	}
	if f.Machine != elf.EM_X86_64 || !bytes.Contains(data, []byte("User Mode Linux")) {
		return "", errNoKernel
	}
	return banner(data)
}

// banner finds linux_banner.
func banner(data []byte) (string, error) {
	const begin = "Linux version "
	for rest := data; ; {
		i := bytes.Index(rest, []byte(begin))
		if i < 0 {
			return "", fmt.Errorf("%w: tells no release: want a line \"Linux version …\" in it", ErrUnbootable)
		}
		rest = rest[i+len(begin):]
		if n := bytes.IndexAny(rest, " \x00"); n > 0 && n < 100 && unicode.IsDigit(rune(rest[0])) {
			return string(rest[:n]), nil
		}
	}
}

// bzImageRelease reads the header of Documentation/arch/x86/boot.rst.
func bzImageRelease(data []byte) (string, error) {
	if len(data) < 0x260 || string(data[0x202:0x206]) != "HdrS" {
		return "", errNoKernel
	}
	setup := int(data[0x1f1])
	if setup == 0 {
		setup = 4
	}
	whole := (setup+1)*512 + 16*int(binary.LittleEndian.Uint32(data[0x1f4:]))
	if len(data) < whole {
		return "", fmt.Errorf("%w (%d bytes, want %d)", errTruncated, len(data), whole)
	}
	at := 0x200 + int(binary.LittleEndian.Uint16(data[0x20e:]))
	if at >= len(data) {
		return "", fmt.Errorf("%w: tells no release in its header", ErrUnbootable)
	}
	release, _, _ := bytes.Cut(data[at:min(len(data), at+200)], []byte{0})
	first, _, _ := strings.Cut(string(release), " ")
	if first == "" {
		return "", fmt.Errorf("%w: tells no release in its header", ErrUnbootable)
	}
	return first, nil
}

// natural compares releases: runs of digits as numbers.
func natural(a, b string) int {
	for a != "" && b != "" {
		da, db := digits(a), digits(b)
		if da > 0 && db > 0 {
			x, y := strings.TrimLeft(a[:da], "0"), strings.TrimLeft(b[:db], "0")
			if len(x) != len(y) {
				return len(x) - len(y)
			}
			if c := strings.Compare(x, y); c != 0 {
				return c
			}
			a, b = a[da:], b[db:]
			continue
		}
		if a[0] != b[0] {
			return int(a[0]) - int(b[0])
		}
		a, b = a[1:], b[1:]
	}
	return len(a) - len(b)
}

func digits(s string) int {
	return len(s) - len(strings.TrimLeft(s, "0123456789"))
}
