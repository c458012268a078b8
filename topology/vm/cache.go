package vm

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/modebench/modebench/topology/space"
)

// The cache is a directory:
//
//	kernels/NAME/      a fetched kernel: its file, modules/, and manifest.json with the checksum of each file
//	initramfs/SUM.cpio made of this binary and a kernel's modules, by the checksum of both
//	answers/SUM        what was found out about a kernel by booting it
//	lock               held by whoever makes a kernel, an initramfs or daemons
//
// Each entry appears in one rename, whole or not at all.
const manifestFile = "manifest.json"

// manifest describes a fetched kernel.
type manifest struct {
	dir              string
	Package, Version string
	Kernel           string            // file
	Files            map[string]string // checksums (SHA-256, in hexadecimal) by path
}

func (m manifest) path(name string) string { return filepath.Join(m.dir, name) }

const fetchAgain = "delete %s, and fetch it again: modebench kernel fetch"

func readManifest(dir string) (manifest, error) {
	m := manifest{dir: dir}
	data, err := os.ReadFile(m.path(manifestFile))
	if err != nil {
		return m, err
	}
	if err := json.Unmarshal(data, &m); err != nil {
		return m, fmt.Errorf("%s: %w: "+fetchAgain, m.path(manifestFile), err, dir)
	}
	return m, nil
}

// verify reads a file of a kernel, and refuses one of a fetched kernel that is not as it was fetched.
func (k Kernel) verify(path string) ([]byte, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	m, err := readManifest(filepath.Dir(k.Path))
	if errors.Is(err, fs.ErrNotExist) {
		return data, nil // the machine's own, for which its package manager answers
	}
	if err != nil {
		return nil, err
	}
	name, err := filepath.Rel(m.dir, path)
	if err != nil {
		return nil, err
	}
	if got := sum(data); got != m.Files[name] {
		return nil, fmt.Errorf("%s: its checksum is %s, and was %q when it was fetched: "+fetchAgain, path, got, m.Files[name], m.dir)
	}
	return data, nil
}

func sum(data []byte) string {
	s := sha256.Sum256(data)
	return hex.EncodeToString(s[:])
}

// self is the checksum of this binary.
var self = sync.OnceValues(func() (string, error) {
	f, err := os.Open(space.Self)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
})

// place writes a file whole or not at all.
func place(path string, write func(io.Writer) error) (err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	if err := errors.Join(write(f), f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// Remember answers a question about a kernel from the cache, or by calling ask. An answer holds as long as the kernel's
// file and this binary are the same; an error is never remembered, nor is the lack of a place to write to an error.
func Remember(cache string, k Kernel, question string, ask func() ([]byte, error)) ([]byte, error) {
	own, err := self()
	if err != nil {
		return nil, err
	}
	kernel, err := os.ReadFile(k.Path)
	if err != nil {
		return nil, err
	}
	answer, _, err := remember(cache, own+sum(kernel)+k.Modules+"\n"+k.Accelerator+"\n"+question, ask)
	return answer, err
}

// remember answers from the cache by a key, or by calling ask, and tells where the answer is kept.
func remember(cache, key string, ask func() ([]byte, error)) (answer []byte, path string, err error) {
	path = filepath.Join(cache, "answers", sum([]byte(key)))
	if answer, err := os.ReadFile(path); err == nil {
		return answer, path, nil
	}
	if answer, err = ask(); err != nil {
		return nil, path, err
	}
	_ = place(path, func(w io.Writer) error {
		_, err := w.Write(answer)
		return err
	})
	return answer, path, nil
}
