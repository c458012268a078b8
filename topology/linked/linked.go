// Package linked tells what a program needs to be run where nothing else is, in a guest or in a container.
package linked

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

// File is one that a binary needs to be run, where it was not linked statically: as by `go run` on a machine that
// has a C compiler.
type File struct {
	Name string // its path there, without the first slash
	Data []byte
}

// Dir is where they are, but for the loader, whose place is written into the binary.
const Dir = "lib"

// Files are the loader of a binary, and all libraries that it loads.
func Files(binary string) ([]File, error) {
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
	libs := []File{{strings.TrimPrefix(loader, "/"), data}}
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
		var l File
		if l, err = find(name, dirs); err != nil {
			return nil, err
		}
		libs = append(libs, l)
		var more []string
		if f, err = elf.NewFile(bytes.NewReader(l.Data)); err == nil {
			more, err = f.ImportedLibraries()
		}
		needed = append(needed, more...)
	}
	return libs, err
}

func find(name string, dirs []string) (File, error) {
	for _, d := range dirs {
		data, err := os.ReadFile(filepath.Join(d, name))
		if err == nil {
			return File{Dir + "/" + name, data}, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return File{}, err
		}
	}
	return File{}, fmt.Errorf("library %s: in none of %s: build with CGO_ENABLED=0", name, strings.Join(dirs, ", "))
}
