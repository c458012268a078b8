package vm

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/modebench/modebench/topology/cached"
)

// Fetchable are the names of kernels that Fetch knows, best first.
func Fetchable() []string { return []string{umlName, cloudName} }

// Boots tells whether a kernel that Fetch knows could be booted once it is here: the error says what that lacks, and how it is had.
func Boots(name string) error {
	if name == cloudName {
		return haveQEMU()
	}
	return nil
}

// Fetch brings a kernel into the cache by apt-get, installing nothing, and returns it; one that is there already is not
// fetched again unless it is older than what apt-get has. Where the machine's lists of packages are empty or too old, others
// are read for this once, and thrown away. It says what it does line by line. Of several at the same time one fetches, and
// the others wait for it. On error the cache is as it was.
func Fetch(ctx context.Context, name, cache string, say func(line string)) (Kernel, error) {
	k, err := fetch(ctx, name, cache, say)
	if err != nil {
		return Kernel{}, fmt.Errorf("fetch kernel %s: %w", name, err)
	}
	return k, nil
}

func fetch(ctx context.Context, name, cache string, say func(line string)) (Kernel, error) {
	if !slices.Contains(Fetchable(), name) {
		return Kernel{}, fmt.Errorf("no such kernel: want one of %s", strings.Join(Fetchable(), ", "))
	}
	for _, program := range []string{"apt-get", "apt-cache", "dpkg-deb"} {
		if _, err := exec.LookPath(program); err != nil {
			return Kernel{}, fmt.Errorf("%w: kernels are fetched by the package client of Debian; elsewhere install a kernel and its modules, or name them: --kernel PATH", err)
		}
	}
	cache, err := filepath.Abs(cache)
	if err != nil {
		return Kernel{}, err
	}
	unlock, err := cached.Lock(ctx, cache, func() { say("another modebench is at work in " + cache + ": waiting for it") })
	if err != nil {
		return Kernel{}, err
	}
	defer unlock()
	stage, err := os.MkdirTemp(cache, ".fetch-")
	if err != nil {
		return Kernel{}, err
	}
	defer os.RemoveAll(stage)
	dir := filepath.Join(cache, "kernels", name)
	there, _ := readManifest(dir)
	attempt := func(c client) (pkg, version string, err error) {
		if pkg, version, err = c.candidate(ctx, name); err != nil {
			return "", "", err
		}
		if there.Package == pkg && there.Version == version && there.whole() == nil {
			return pkg, version, nil
		}
		say("fetching " + pkg + " " + version + " into " + cache + "; it is not installed")
		_, err = c.run(ctx, "apt-get", "download", pkg+"="+version)
		return pkg, version, err
	}
	machine := client{dir: stage}
	pkg, version, err := attempt(machine)
	if err != nil && ctx.Err() == nil {
		say("the machine's lists of packages do not lead to it: reading newer ones, which stay as they are")
		fresh, unread := machine.refreshed(ctx)
		if unread != nil {
			return Kernel{}, fmt.Errorf("%w; newer lists: %w", err, unread)
		}
		var again error
		if pkg, version, again = attempt(fresh); again == nil {
			err = nil
		} else {
			err = fmt.Errorf("%w; by newer lists: %w", err, again)
		}
	}
	if err != nil {
		return Kernel{}, err
	}
	debs, err := filepath.Glob(filepath.Join(stage, "*.deb"))
	if err == nil && len(debs) == 0 {
		say(pkg + " " + version + " is in " + dir)
		return there.kernel()
	}
	if err != nil || len(debs) != 1 {
		return Kernel{}, errors.Join(fmt.Errorf("apt-get download %s: left %d packages: want one", pkg, len(debs)), err)
	}
	say("unpacking " + filepath.Base(debs[0]))
	whole := filepath.Join(stage, "whole")
	if err := unpack(ctx, debs[0], whole, manifest{Package: pkg, Version: version}); err != nil {
		return Kernel{}, err
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return Kernel{}, err
	}
	// Exchanged in one step: a run that reads the old kernel meanwhile holds its files, or finds the new ones.
	err = unix.Renameat2(unix.AT_FDCWD, whole, unix.AT_FDCWD, dir, unix.RENAME_EXCHANGE)
	if errors.Is(err, unix.ENOENT) {
		err = os.Rename(whole, dir)
	}
	if err != nil {
		return Kernel{}, fmt.Errorf("%s: %w", dir, err)
	}
	m, err := readManifest(dir)
	if err != nil {
		return Kernel{}, err
	}
	k, err := m.kernel()
	if err == nil {
		say(fmt.Sprintf("kernel %s, release %s", name, k.Release))
	}
	return k, err
}

// kernel is the fetched kernel.
func (m manifest) kernel() (Kernel, error) {
	k, err := read(m.path(m.Kernel))
	k.Modules, k.Origin = m.path("modules"), "fetched: "+m.Package+" "+m.Version
	if k.Kind == QEMU {
		k.Name = cloudName
	}
	return k, err
}

// whole looks for files that are not as they were fetched.
func (m manifest) whole() error {
	k := Kernel{Path: m.path(m.Kernel)}
	for name := range m.Files {
		if _, err := k.verify(m.path(name)); err != nil {
			return err
		}
	}
	return nil
}

// cloudPackage is a package of a cloud kernel itself; linux-image-cloud-amd64 only depends on one.
var cloudPackage = regexp.MustCompile(`^linux-image-[0-9]+\.[0-9]+\.[0-9][^ ]*` + cloudSuffix + `$`)

// client calls the distribution's package clients in a directory.
type client struct {
	dir     string
	options []string
}

// refreshed is a client with lists of packages of its own, read anew into its directory; the machine's stay as they are.
func (c client) refreshed(ctx context.Context) (client, error) {
	lists := filepath.Join(c.dir, "lists")
	if err := os.MkdirAll(filepath.Join(lists, "partial"), 0o755); err != nil {
		return client{}, err
	}
	c.options = []string{
		"-o", "Dir::State::Lists=" + lists, "-o", "Dir::Cache=" + filepath.Join(c.dir, "cache"),
		"-o", "Acquire::Languages=none", "-o", "APT::Sandbox::User=root", // the one that apt has for this may not enter the cache
	}
	_, err := c.run(ctx, "apt-get", "update")
	return c, err
}

// candidate is the package and the version that apt-get would install of a kernel.
func (c client) candidate(ctx context.Context, name string) (pkg, version string, err error) {
	pkg = "user-mode-linux"
	if name == cloudName {
		pkg = ""
		found, err := c.run(ctx, "apt-cache", "pkgnames", "linux-image-")
		if err != nil {
			return "", "", err
		}
		var all []string
		for p := range strings.FieldsSeq(found) {
			if cloudPackage.MatchString(p) {
				all = append(all, p)
			}
		}
		slices.SortFunc(all, func(a, b string) int { return -natural(a, b) })
		for _, p := range all { // what is installed and was withdrawn has a name, and nowhere to come from
			if version, err = c.origin(ctx, p); err != nil {
				return "", "", err
			}
			if version != "" {
				return p, version, nil
			}
		}
	} else if version, err = c.origin(ctx, pkg); err != nil || version != "" {
		return pkg, version, err
	}
	return "", "", errors.New("apt-get knows no package of it: add a source of packages that has one to /etc/apt, or name a kernel: --kernel PATH")
}

// origin is the newest version of a package that can be downloaded, "" where none can.
func (c client) origin(ctx context.Context, pkg string) (string, error) {
	lines, err := c.run(ctx, "apt-cache", "madison", pkg) // package | version | origin, newest first
	if err != nil {
		return "", err
	}
	for l := range strings.Lines(lines) {
		if f := strings.Split(l, "|"); len(f) == 3 && strings.Contains(f[2], "Packages") {
			return strings.TrimSpace(f[1]), nil
		}
	}
	return "", nil
}

// run runs a client of the distribution, and returns what it prints.
func (c client) run(ctx context.Context, program string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, program, append(slices.Clone(c.options), args...)...)
	cmd.Dir = c.dir
	var out bytes.Buffer
	words := &tail{}
	cmd.Stdout, cmd.Stderr = &out, words
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return "", fmt.Errorf("%s %s: %w: %s", program, strings.Join(args, " "), err, words)
	}
	return out.String(), nil
}

// kept are the files of a package that a guest is booted with, and where they go.
var kept = []struct {
	from *regexp.Regexp
	to   string
}{
	{regexp.MustCompile(`^\./usr/bin/(linux\.uml)$`), "$1"},
	{regexp.MustCompile(`^\./boot/(vmlinuz)-[^/]+$`), "$1"},
	{regexp.MustCompile(`^\./(?:usr/)?lib/(?:uml/)?modules/[^/]+/(modules\.builtin|kernel/.+\.ko(?:\.xz|\.zst|\.gz)?)$`), "modules/$1"},
}

// unpack makes a directory of a package, with the manifest m, whose files and checksums it fills in.
func unpack(ctx context.Context, deb, dir string, m manifest) (err error) {
	cmd := exec.CommandContext(ctx, "dpkg-deb", "--fsys-tarfile", deb)
	words := &tail{}
	cmd.Stderr = words
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	m.Files = map[string]string{}
	err = func() error {
		for archive := tar.NewReader(out); ; {
			h, err := archive.Next()
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			for _, k := range kept {
				if h.Typeflag != tar.TypeReg || !k.from.MatchString(h.Name) {
					continue
				}
				name := filepath.Clean(k.from.ReplaceAllString(h.Name, k.to))
				if !filepath.IsLocal(name) {
					return fmt.Errorf("%q: leads out of the package", h.Name)
				}
				data, err := io.ReadAll(archive)
				if err != nil {
					return err
				}
				path := filepath.Join(dir, name)
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					return err
				}
				if err := os.WriteFile(path, data, os.FileMode(h.Mode)&0o755|0o444); err != nil {
					return err
				}
				m.Files[name] = sum(data)
				if filepath.Dir(name) == "." {
					m.Kernel = name
				}
			}
		}
	}()
	if err != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return fmt.Errorf("unpack %s: %w", filepath.Base(deb), err)
	}
	if _, err := io.Copy(io.Discard, out); err != nil {
		return err
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("unpack %s: dpkg-deb: %w: %s", filepath.Base(deb), err, words)
	}
	if m.Kernel == "" {
		return fmt.Errorf("unpack %s: no kernel in it", filepath.Base(deb))
	}
	if _, err := read(filepath.Join(dir, m.Kernel)); err != nil {
		return err
	}
	return place(filepath.Join(dir, manifestFile), func(w io.Writer) error {
		e := json.NewEncoder(w)
		e.SetIndent("", "\t")
		return e.Encode(m)
	})
}
