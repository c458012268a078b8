// Package daemons makes programs of other people's packages that hosts run: for some modes etcd with a client and flannel's daemon, and the
// reference plugins of CNI. Their sources are Go modules of their own, which this program carries along, and which the machine's compilers build
// once, into the cache.
package daemons

import (
	"cmp"
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/modebench/modebench/topology/cached"
)

// source are the modules. Their go.mod and go.sum have other names here: a directory with a go.mod is not embedded.
//
//go:embed _source _plugins
var source embed.FS

// Set is the programs of one module.
type Set struct {
	what     string                  // for readers
	dir      string                  // of the module
	names    []string                // of the programs
	packages func([]string) []string // of programs, in the module's terms
	c        map[string]string       // by program, what of it is written in C
}

// Programs are those of modes: see modes.Mode.Programs.
var Programs = Set{
	what: "etcd and flannel's daemon", dir: "_source",
	names: []string{"etcd", "etcdctl", "flanneld"}, c: map[string]string{"flanneld": "flannel's backend udp"},
	packages: func(names []string) (all []string) {
		for _, name := range names {
			all = append(all, "./"+name)
		}
		return all
	},
}

// Plugins are the reference plugins of CNI (github.com/containernetworking/plugins).
var Plugins = Set{
	what: "the reference plugins of CNI", dir: "_plugins",
	names: []string{
		"bandwidth", "bridge", "dhcp", "firewall", "host-device", "host-local", "ipvlan", "loopback", "macvlan", "portmap", "ptp", "sbr", "static", "tuning", "vlan",
	},
	packages: func([]string) []string { return []string{"tool"} },
}

// Names are the programs.
func (s Set) Names() []string { return slices.Clone(s.names) }

// files are the module's, by their names in it.
func (s Set) files() (map[string][]byte, error) {
	all := map[string][]byte{}
	err := fs.WalkDir(source, s.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name := strings.TrimSuffix(strings.TrimPrefix(path, s.dir+"/"), ".txt")
		all[name], err = source.ReadFile(path)
		return err
	})
	return all, err
}

// Place is where Build puts programs in a cache, and Built finds them.
func (s Set) Place(cache string) (string, error) {
	files, err := s.files()
	if err != nil {
		return "", err
	}
	if cache, err = filepath.Abs(cache); err != nil {
		return "", err
	}
	h := sha256.New()
	var names []string
	for name := range files {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		fmt.Fprintf(h, "%s %d\n%s", name, len(files[name]), files[name])
	}
	return filepath.Join(cache, "daemons", hex.EncodeToString(h.Sum(nil))[:16]+"-"+runtime.GOARCH), nil
}

// Built is the directory in the cache that programs are in, of the set all where none is named; empty: they are not built yet.
func (s Set) Built(cache string, programs ...string) string {
	dir, err := s.Place(cache)
	if err != nil || len(s.unbuilt(dir, programs)) > 0 {
		return ""
	}
	return dir
}

// unbuilt are the programs, or of the set those, that are not in a directory: each is there whole or not at all.
func (s Set) unbuilt(dir string, programs []string) []string {
	if len(programs) == 0 {
		programs = s.names
	}
	return slices.DeleteFunc(slices.Clone(programs), func(name string) bool {
		_, err := os.Stat(filepath.Join(dir, name))
		return err == nil
	})
}

// writers are those of the programs that write rules by nft.
var writers = []string{"flanneld", "bridge", "portmap", "ptp"}

// WriteRules tells whether some of the programs write rules, by nft.
func WriteRules(programs []string) bool {
	return slices.ContainsFunc(programs, func(name string) bool { return slices.Contains(writers, name) })
}

// Needs says what the machine has to be given for some of the programs to run, once they are built; nil: nothing.
func Needs(programs []string) error {
	if !WriteRules(programs) {
		return nil
	}
	for _, name := range []string{"nft", "/usr/sbin/nft", "/sbin/nft"} {
		if _, err := exec.LookPath(name); err == nil {
			return nil
		}
	}
	who := "CNI's plugins write their"
	if slices.Contains(programs, writers[0]) {
		who = "flannel's daemon writes its"
	}
	return errors.New(who + " rules by nft: install nftables")
}

// Lacking says what the machine has to be given before programs can be built, of the set all where none is named; nil: nothing.
func (s Set) Lacking(ctx context.Context, cache string, programs ...string) error {
	dir, err := s.Place(cache)
	if err != nil {
		return err
	}
	missing := s.unbuilt(dir, programs)
	if len(missing) == 0 {
		return nil
	}
	if _, err := exec.LookPath("go"); err != nil {
		return fmt.Errorf("%w: %s are built from source: install Go 1.26 or later (https://go.dev/dl)", err, s.what)
	}
	part := s.inC(missing)
	if part == "" {
		return nil
	}
	out, err := exec.CommandContext(ctx, "go", "env", "CC").Output()
	if err != nil {
		return fmt.Errorf("go env CC: %w", err)
	}
	cc := strings.Fields(string(out))
	if len(cc) == 0 {
		return fmt.Errorf("go env CC names no C compiler: %s is written in C: install gcc", part)
	}
	if _, err := exec.LookPath(cc[0]); err != nil {
		return fmt.Errorf("%w: %s is written in C: install gcc and the C library's headers", err, part)
	}
	return nil
}

// inC is what of the programs is written in C; empty: nothing.
func (s Set) inC(programs []string) (part string) {
	for _, name := range programs {
		part = cmp.Or(part, s.c[name])
	}
	return part
}

// Build builds programs, of the set all where none is named, unless they are built already, and gives the directory that they are in.
// It says line by line what takes long. Offline, it takes modules from Go's cache alone. Of several at the same time one builds, and
// the others wait for it. On error the cache is as it was.
func (s Set) Build(ctx context.Context, cache string, offline bool, say func(line string), programs ...string) (string, error) {
	if err := s.Lacking(ctx, cache, programs...); err != nil {
		return "", err
	}
	files, err := s.files()
	if err != nil {
		return "", err
	}
	dir, err := s.Place(cache)
	if err != nil {
		return "", err
	}
	if len(s.unbuilt(dir, programs)) == 0 {
		return dir, nil
	}
	unlock, err := cached.Lock(ctx, cache, func() { say("another modebench is at work in " + cache + ": waiting for it") })
	if err != nil {
		return "", err
	}
	defer unlock()
	missing := s.unbuilt(dir, programs)
	if len(missing) == 0 {
		return dir, nil
	}
	say("building " + strings.Join(missing, ", ") + " into " + dir + " (once; up to a minute of a processor)")
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return "", err
	}
	stage, err := os.MkdirTemp(filepath.Dir(dir), ".new-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(stage)
	module, out := filepath.Join(stage, "source"), filepath.Join(stage, "out")
	for name, data := range files {
		path := filepath.Join(module, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, data, 0o644)); err != nil {
			return "", err
		}
	}
	args := []string{"build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", out + "/"}
	cmd := exec.CommandContext(ctx, "go", append(args, s.packages(missing)...)...)
	cmd.Dir = module
	cmd.Env = append(cmd.Environ(), "GOFLAGS=-mod=readonly", "GOWORK=off", "CGO_ENABLED="+map[bool]string{true: "0", false: "1"}[s.inC(missing) == ""], "GOOS=linux", "GOARCH="+runtime.GOARCH)
	if offline {
		cmd.Env = append(cmd.Env, "GOPROXY=off")
	}
	if words, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build of %s: %w: %s", strings.Join(missing, ", "), err, last(string(words)))
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	for _, name := range missing {
		if err := os.Rename(filepath.Join(out, name), filepath.Join(dir, name)); err != nil {
			return "", err
		}
	}
	return dir, nil
}

// last is the last line that a program wrote.
func last(words string) string {
	lines := strings.Split(strings.TrimSpace(words), "\n")
	return lines[len(lines)-1]
}
