package vm

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// library is a file that a program needs to be run, where it was not linked statically: as this one by `go run` on a machine that
// has a C compiler.
type library struct {
	name string // in the initramfs
	data []byte
}

// librariesDir is where they are in the initramfs, but for the loader, whose place is written into the binary.
const librariesDir = "lib"

// libraries are the loader of a binary, and all libraries that it loads.
func libraries(binary string) ([]library, error) {
	f, err := elf.Open(binary)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	i := slices.IndexFunc(f.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP })
	if i < 0 {
		return nil, nil
	}
	name := make([]byte, f.Progs[i].Filesz)
	if _, err := f.Progs[i].ReadAt(name, 0); err != nil {
		return nil, err
	}
	loader := string(bytes.TrimRight(name, "\x00"))
	data, err := os.ReadFile(loader)
	if err != nil {
		return nil, err
	}
	libs := []library{{strings.TrimPrefix(loader, "/"), data}}
	real, err := filepath.EvalSymlinks(loader)
	if err != nil {
		return nil, err
	}
	dirs := []string{filepath.Dir(real), "/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64", "/lib", "/usr/lib"}
	needed, err := f.ImportedLibraries()
	for seen := map[string]bool{}; err == nil && len(needed) > 0; needed = needed[1:] {
		name := needed[0]
		if seen[name] || name == filepath.Base(loader) {
			continue
		}
		seen[name] = true
		var l library
		if l, err = find(name, dirs); err != nil {
			return nil, err
		}
		libs = append(libs, l)
		var more []string
		if f, err = elf.NewFile(bytes.NewReader(l.data)); err == nil {
			more, err = f.ImportedLibraries()
		}
		needed = append(needed, more...)
	}
	return libs, err
}

// Carried tells what keeps a guest from having a program of this machine: that it is a script, whose interpreter would be wanted, too, or that a library of it is
// not to be found; nil: nothing.
func Carried(program string) error {
	if _, err := libraries(program); err != nil {
		return fmt.Errorf("%s: %w", program, err)
	}
	return nil
}

// carried are programs of this machine for a guest, by their paths, and what they are linked with, each once.
func carried(programs []string) (all []library, err error) {
	for _, path := range programs {
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		libs, err := libraries(path)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		all = append(all, append(libs, library{strings.TrimPrefix(path, "/"), data})...)
	}
	return all, nil
}

func find(name string, dirs []string) (library, error) {
	for _, dir := range dirs {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err == nil {
			return library{librariesDir + "/" + name, data}, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return library{}, err
		}
	}
	return library{}, fmt.Errorf("library %s: in none of %s: build with CGO_ENABLED=0", name, strings.Join(dirs, ", "))
}
