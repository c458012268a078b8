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

// Set is programs that are built together.
type Set struct {
	what     string   // for readers
	dir      string   // of the module
	names    []string // of the programs
	packages []string // in the module's terms
	c        string   // what of it is written in C; empty: nothing
}

// Programs are those of modes: see modes.Mode.Programs.
var Programs = Set{
	what: "etcd and flannel's daemon", dir: "_source",
	names: []string{"etcd", "etcdctl", "flanneld"}, packages: []string{"./etcd", "./etcdctl", "./flanneld"}, c: "flannel's backend udp",
}

// Plugins are the reference plugins of CNI (github.com/containernetworking/plugins).
var Plugins = Set{
	what: "the reference plugins of CNI", dir: "_plugins",
	names: []string{
		"bandwidth", "bridge", "dhcp", "firewall", "host-device", "host-local", "ipvlan", "loopback", "macvlan", "portmap", "ptp", "sbr", "static", "tuning", "vlan",
	},
	packages: []string{"tool"},
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

// Place is where Build puts the programs in a cache, and Built finds them.
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

// Built is the directory in the cache that the programs are in; empty: they are not built yet.
func (s Set) Built(cache string) string {
	dir, err := s.Place(cache)
	if err != nil {
		return ""
	}
	if _, err := os.Stat(dir); err != nil { // it is there whole or not at all
		return ""
	}
	return dir
}

// Needs says what the machine has to be given for some of the programs to run, once they are built; nil: nothing.
func Needs(programs []string) error {
	writers := map[string]string{"flanneld": "flannel's daemon writes its", "bridge": "CNI's plugins write their"}
	var who string
	for _, name := range programs {
		who = cmp.Or(who, writers[name])
	}
	if who == "" {
		return nil
	}
	for _, name := range []string{"nft", "/usr/sbin/nft", "/sbin/nft"} {
		if _, err := exec.LookPath(name); err == nil {
			return nil
		}
	}
	return errors.New(who + " rules by nft: install nftables")
}

// Lacking says what the machine has to be given before the programs can be built; nil: nothing.
func (s Set) Lacking(ctx context.Context, cache string) error {
	if s.Built(cache) != "" {
		return nil
	}
	if _, err := exec.LookPath("go"); err != nil {
		return fmt.Errorf("%w: %s are built from source: install Go 1.26 or later (https://go.dev/dl)", err, s.what)
	}
	if s.c == "" {
		return nil
	}
	out, err := exec.CommandContext(ctx, "go", "env", "CC").Output()
	if err != nil {
		return fmt.Errorf("go env CC: %w", err)
	}
	cc := strings.Fields(string(out))
	if len(cc) == 0 {
		return fmt.Errorf("go env CC names no C compiler: %s is written in C: install gcc", s.c)
	}
	if _, err := exec.LookPath(cc[0]); err != nil {
		return fmt.Errorf("%w: %s, which is built with the others, is written in C: install gcc and the C library's headers", err, s.c)
	}
	return nil
}

// Build builds the programs, unless they are built already, and gives the directory that they are in. It says line by line what
// takes long. Offline, it takes modules from Go's cache alone. Of several at the same time one builds, and the others wait for it.
// On error the cache is as it was.
func (s Set) Build(ctx context.Context, cache string, offline bool, say func(line string)) (string, error) {
	if err := s.Lacking(ctx, cache); err != nil {
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
	if s.Built(cache) != "" {
		return dir, nil
	}
	unlock, err := cached.Lock(ctx, cache, func() { say("another modebench is at work in " + cache + ": waiting for it") })
	if err != nil {
		return "", err
	}
	defer unlock()
	if s.Built(cache) != "" {
		return dir, nil
	}
	say("building " + strings.Join(s.names, ", ") + " into " + dir + " (once; a minute of a processor)")
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
	cmd := exec.CommandContext(ctx, "go", append(args, s.packages...)...)
	cmd.Dir = module
	cmd.Env = append(cmd.Environ(), "GOFLAGS=-mod=readonly", "GOWORK=off", "CGO_ENABLED="+map[bool]string{true: "0", false: "1"}[s.c == ""], "GOOS=linux", "GOARCH="+runtime.GOARCH)
	if offline {
		cmd.Env = append(cmd.Env, "GOPROXY=off")
	}
	if words, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build of %s: %w: %s", strings.Join(s.names, ", "), err, last(string(words)))
	}
	if err := os.Rename(out, dir); err != nil {
		return "", err
	}
	return dir, nil
}

// last is the last line that a program wrote.
func last(words string) string {
	lines := strings.Split(strings.TrimSpace(words), "\n")
	return lines[len(lines)-1]
}
