// Package daemons makes programs of other people's packages that hosts of some modes run: etcd with a client, and flannel's daemon. Their sources are a Go
// module of their own, which this program carries along, and which the machine's Go and C compiler build once, into the cache.
package daemons

import (
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

// source is the module. Its go.mod and go.sum have another name here: a directory with a go.mod is not embedded.
//
//go:embed _source
var source embed.FS

// Names are the programs.
func Names() []string { return []string{"etcd", "etcdctl", "flanneld"} }

// files are the module's, by their names in it.
func files() (map[string][]byte, error) {
	all := map[string][]byte{}
	err := fs.WalkDir(source, "_source", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name := strings.TrimSuffix(strings.TrimPrefix(path, "_source/"), ".txt")
		all[name], err = source.ReadFile(path)
		return err
	})
	return all, err
}

// place is where the programs of these sources are kept in a cache.
func place(cache string, files map[string][]byte) (string, error) {
	cache, err := filepath.Abs(cache)
	if err != nil {
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
func Built(cache string) string {
	files, err := files()
	if err != nil {
		return ""
	}
	dir, err := place(cache, files)
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
	if !slices.Contains(programs, "flanneld") {
		return nil
	}
	for _, name := range []string{"nft", "/usr/sbin/nft", "/sbin/nft"} {
		if _, err := exec.LookPath(name); err == nil {
			return nil
		}
	}
	return errors.New("flannel's daemon writes its rules by nft: install nftables")
}

// Lacking says what the machine has to be given before the programs can be built; nil: nothing.
func Lacking(ctx context.Context, cache string) error {
	if Built(cache) != "" {
		return nil
	}
	if _, err := exec.LookPath("go"); err != nil {
		return fmt.Errorf("%w: etcd and flannel's daemon are built from source: install Go 1.26 or later (https://go.dev/dl)", err)
	}
	out, err := exec.CommandContext(ctx, "go", "env", "CC").Output()
	if err != nil {
		return fmt.Errorf("go env CC: %w", err)
	}
	cc := strings.Fields(string(out))
	if len(cc) == 0 {
		return errors.New("go env CC names no C compiler: flannel's backend udp is written in C: install gcc")
	}
	if _, err := exec.LookPath(cc[0]); err != nil {
		return fmt.Errorf("%w: flannel's backend udp, which is built with the others, is written in C: install gcc and the C library's headers", err)
	}
	return nil
}

// Build builds the programs, unless they are built already, and gives the directory that they are in. It says line by line what
// takes long. Offline, it takes modules from Go's cache alone. Of several at the same time one builds, and the others wait for it.
// On error the cache is as it was.
func Build(ctx context.Context, cache string, offline bool, say func(line string)) (string, error) {
	if err := Lacking(ctx, cache); err != nil {
		return "", err
	}
	files, err := files()
	if err != nil {
		return "", err
	}
	dir, err := place(cache, files)
	if err != nil {
		return "", err
	}
	if Built(cache) != "" {
		return dir, nil
	}
	unlock, err := cached.Lock(ctx, cache, func() { say("another modebench is at work in " + cache + ": waiting for it") })
	if err != nil {
		return "", err
	}
	defer unlock()
	if Built(cache) != "" {
		return dir, nil
	}
	say("building " + strings.Join(Names(), ", ") + " into " + dir + " (once; a minute of a processor)")
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
	for _, name := range Names() {
		args = append(args, "./"+name)
	}
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = module
	cmd.Env = append(cmd.Environ(), "GOFLAGS=-mod=readonly", "GOWORK=off", "CGO_ENABLED=1", "GOOS=linux", "GOARCH="+runtime.GOARCH)
	if offline {
		cmd.Env = append(cmd.Env, "GOPROXY=off")
	}
	if words, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build of %s: %w: %s", strings.Join(Names(), ", "), err, last(string(words)))
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
