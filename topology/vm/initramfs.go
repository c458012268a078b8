package vm

import (
	"context"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/u-root/u-root/pkg/cpio"

	"github.com/modebench/modebench/topology/cached"
	"github.com/modebench/modebench/topology/linked"
	"github.com/modebench/modebench/topology/space"
)

// Where things are in the initramfs.
const (
	initPath   = "init"
	modulesDir = "modules"
	kindPath   = "kind"          // the kernel's kind
	firstPath  = "modules/first" // modules to load before the greeting, one name a line
)

// stale is how long an initramfs is kept that nobody uses.
const stale = 7 * 24 * time.Hour

// initramfs gives the file of an initramfs with this binary as its init, all modules that features are made of, and programs. It
// makes one where the cache has none of the same contents.
func initramfs(ctx context.Context, t *tree, cache string, programs []string) (path string, err error) {
	own, err := self()
	if err != nil {
		return "", err
	}
	ms, _, err := t.order(slices.Sorted(maps.Keys(features)))
	if err != nil {
		return "", err
	}
	var first []*module
	if t.k.Kind == QEMU {
		if first, _, err = t.order([]string{line}); err != nil {
			return "", err
		}
	}
	h := sha256.New()
	fmt.Fprintln(h, own, t.k.Kind)
	for _, m := range ms {
		fmt.Fprintln(h, m.name, sum(m.data))
	}
	libs, err := linked.Files(space.Self)
	if err != nil {
		return "", fmt.Errorf("this binary: %w", err)
	}
	more, err := carried(programs)
	if err != nil {
		return "", err
	}
	libs = append(libs, more...)
	slices.SortStableFunc(libs, func(a, b linked.File) int { return strings.Compare(a.Name, b.Name) })
	libs = slices.CompactFunc(libs, func(a, b linked.File) bool { return a.Name == b.Name })
	for _, l := range libs {
		fmt.Fprintln(h, l.Name, sum(l.Data))
	}
	dir := filepath.Join(cache, "initramfs")
	path = filepath.Join(dir, hex.EncodeToString(h.Sum(nil))+".cpio")
	now := time.Now()
	if os.Chtimes(path, now, now) == nil { // its time is when it was last used
		return path, nil
	}
	unlock, err := cached.Lock(ctx, cache, nil)
	if err != nil {
		return "", fmt.Errorf("cache: %w", err)
	}
	defer unlock()
	if _, err := os.Stat(path); err == nil { // made while this one waited
		return path, nil
	}
	old, _ := filepath.Glob(filepath.Join(dir, "*"))
	for _, o := range old {
		if st, err := os.Stat(o); err == nil && now.Sub(st.ModTime()) > stale {
			_ = os.Remove(o)
		}
	}
	binary, err := os.Open(space.Self)
	if err != nil {
		return "", err
	}
	defer binary.Close()
	info, err := binary.Stat()
	if err != nil {
		return "", err
	}
	program := io.NewSectionReader(binary, 0, info.Size())
	if len(programs) == 0 { // which may look into it
		if program, err = loaded(binary); err != nil {
			return "", fmt.Errorf("this binary: %w", err)
		}
	}
	if err := place(path, func(w io.Writer) error {
		to := cpio.Newc.Writer(w)
		if err := cpio.WriteRecords(to, records(program, t.k.Kind, libs, ms, first)); err != nil {
			return err
		}
		return cpio.WriteTrailer(to)
	}); err != nil {
		return "", fmt.Errorf("initramfs: %w: make room, or name another directory by --cache", err)
	}
	return path, nil
}

// loaded is a binary up to the end of what is loaded of it. Behind that is what debuggers read, a quarter of the whole: a guest's
// initramfs is kept in its memory.
func loaded(binary io.ReaderAt) (*io.SectionReader, error) {
	f, err := elf.NewFile(binary)
	if err != nil {
		return nil, err
	}
	var end uint64
	for _, p := range f.Progs {
		if p.Type == elf.PT_LOAD {
			end = max(end, p.Off+p.Filesz)
		}
	}
	return io.NewSectionReader(binary, 0, int64(end)), nil
}

// records are the contents of an initramfs.
func records(binary *io.SectionReader, kind string, libs []linked.File, ms, first []*module) []cpio.Record {
	rs := []cpio.Record{
		cpio.Directory("dev", 0o755), cpio.Directory("proc", 0o755), cpio.Directory("sys", 0o755), cpio.Directory("tmp", 0o1777), cpio.Directory("run", 0o755), cpio.Directory("var", 0o755), cpio.Directory("etc", 0o755), cpio.Directory(modulesDir, 0o755),
		cpio.CharDev("dev/console", 0o600, 5, 1),
		{ReaderAt: binary, Info: cpio.Info{Name: initPath, Mode: cpio.S_IFREG | 0o755, FileSize: uint64(binary.Size()), NLink: 1}},
		cpio.StaticFile(kindPath, kind, 0o644),
		cpio.StaticFile("etc/resolv.conf", "", 0o644), // as every machine has it
		cpio.StaticFile(firstPath, strings.Join(names(first), "\n"), 0o644),
	}
	for _, m := range ms {
		rs = append(rs, cpio.StaticFile(moduleFile(m.name), string(m.data), 0o644))
	}
	made := map[string]bool{}
	for _, l := range libs {
		for i, c := range l.Name {
			if dir := l.Name[:i]; c == '/' && !made[dir] {
				made[dir] = true
				rs = append(rs, cpio.Directory(dir, 0o755))
			}
		}
		rs = append(rs, cpio.StaticFile(l.Name, string(l.Data), 0o755))
	}
	cpio.MakeAllReproducible(rs)
	return rs
}

func moduleFile(name string) string { return modulesDir + "/" + name + ".ko" }

func names(ms []*module) []string {
	var ns []string
	for _, m := range ms {
		ns = append(ns, m.name)
	}
	return ns
}
