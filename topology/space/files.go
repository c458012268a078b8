package space

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// Own is where the files of a machine's programs lie. Every kernel has the directory, and no program wants what else is below it.
const Own = "/proc/driver"

// Private is a thread with a view of its own of the machine's files (mount_namespaces(7)), in which a directory in memory
// (tmpfs(5)) lies at one place. It is the Root of that directory, for every thread. What is in it goes with it and with the last
// process that was started there, however they end.
type Private struct {
	*os.Root
	at   string
	jobs chan errand
}

// NewPrivate makes one in a network namespace, with the directory at a place empty, whatever others see there.
func NewPrivate(in *Space, at string) (*Private, error) { return newPrivate(in, at, nil) }

// Seal is what is left of the machine's files in a view that changes none of them, but for the kernel's settings in /proc.
type Seal struct {
	Show, As string   // a directory of the machine that is seen in the one in memory, too, by a name; empty: none
	Self     string   // what this very program is seen as there; empty: it is not
	Empty    []string // directories that are empty, and in memory; those that the machine does not have are left out
	Made     []string // the same, but those are made, where the directory that one would be in is covered for it (overlayfs)
}

// NewSealed makes one with such a view (mount_setattr(2), of Linux 5.12).
func NewSealed(in *Space, at string, seal Seal) (*Private, error) { return newPrivate(in, at, &seal) }

func newPrivate(in *Space, at string, seal *Seal) (*Private, error) {
	p := &Private{at: at, jobs: make(chan errand)}
	made := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		err := errors.Join(new(Walker).Enter(in), p.move(seal))
		made <- err
		if err != nil {
			return
		}
		for j := range p.jobs {
			j.done <- j.f()
		}
	}()
	return p, <-made
}

// move takes the calling thread to a mount namespace of its own.
func (p *Private) move(seal *Seal) (err error) {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("unshare mount namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("keep mounts apart: %w", err)
	}
	if seal != nil {
		if err := unix.MountSetattr(unix.AT_FDCWD, "/", unix.AT_RECURSIVE, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}); err != nil {
			return fmt.Errorf("make files read-only: %w", err)
		}
		if err := ownProcesses(); err != nil {
			return err
		}
		if err := unix.MountSetattr(unix.AT_FDCWD, "/proc", 0, &unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_RDONLY}); err != nil {
			return fmt.Errorf("keep settings in /proc: %w", err)
		}
	}
	if err := unix.Mount("tmpfs", p.at, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755"); err != nil {
		return fmt.Errorf("mount tmpfs at %s: %w", p.at, err)
	}
	if p.Root, err = os.OpenRoot(p.at); err != nil {
		return err
	}
	if seal == nil {
		return nil
	}
	if seal.Show != "" {
		if err := errors.Join(p.Mkdir(seal.As, 0o755), p.bind(seal.Show, seal.As)); err != nil {
			return err
		}
	}
	if seal.Self != "" {
		path, err := os.Executable() // by its path: what /proc leads to belongs to the view of before
		if err = errors.Join(err, p.WriteFile(seal.Self, nil, 0o755), p.bind(path, seal.Self)); err != nil {
			return err
		}
	}
	for i, dir := range seal.Made {
		if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
			err = p.cover(filepath.Dir(dir), fmt.Sprintf("over-%d", i))
			if err = errors.Join(err, os.MkdirAll(dir, 0o755)); err != nil {
				return fmt.Errorf("make %s: %w", dir, err)
			}
		}
	}
	for _, dir := range slices.Concat(seal.Made, seal.Empty) { // last: what is shown may lie in one
		if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755"); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("mount tmpfs at %s: %w", dir, err)
		}
	}
	return nil
}

// cover has what is written to a directory go to one in memory, by a name there. It is called on the thread.
func (p *Private) cover(dir, name string) error {
	up, work := filepath.Join(name, "up"), filepath.Join(name, "work")
	if err := errors.Join(p.MkdirAll(up, 0o755), p.MkdirAll(work, 0o755)); err != nil {
		return err
	}
	layers := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", dir, filepath.Join(p.at, up), filepath.Join(p.at, work))
	if err := unix.Mount("overlay", dir, "overlay", 0, layers); err != nil {
		return fmt.Errorf("cover %s: %w", dir, err)
	}
	return nil
}

// ownProcesses has /proc show the processes of this PID namespace, by the numbers that they know themselves by. Where it is not let, as in some
// sandboxes, that is as well if it shows them already.
func ownProcesses() error {
	err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	if self, _ := os.Readlink("/proc/self"); err != nil && self != strconv.Itoa(os.Getpid()) {
		return fmt.Errorf("mount proc: %w", err)
	}
	return nil
}

// do calls f on the thread.
func (p *Private) do(f func() error) error {
	done := make(chan error, 1)
	p.jobs <- errand{f: f, done: done}
	return <-done
}

// Hold gives a network namespace a name there, as ip-netns(8) does: a file in the directory, by whose path programs enter it.
func (p *Private) Hold(s *Space, name string) error {
	if err := p.WriteFile(name, nil, 0o444); err != nil {
		return err
	}
	return p.do(func() error { return p.bind(fmt.Sprintf("/proc/self/fd/%d", s.fd.Fd()), name) })
}

// bind is called on the thread.
func (p *Private) bind(what, name string) error {
	if err := unix.Mount(what, filepath.Join(p.at, name), "", unix.MS_BIND, ""); err != nil {
		return errors.Join(fmt.Errorf("bind %s: %w", name, err), p.Remove(name))
	}
	return nil
}

// Release takes back what Hold did.
func (p *Private) Release(name string) error {
	return p.do(func() error {
		if err := unix.Unmount(filepath.Join(p.at, name), unix.MNT_DETACH); err != nil {
			return fmt.Errorf("unbind %s: %w", name, err)
		}
		return p.Remove(name)
	})
}

// Start starts cmd with that view, in the network namespace of p. It is killed when p is closed and when this
// process ends (see Mortal).
func (p *Private) Start(cmd *exec.Cmd) error {
	Mortal(cmd)
	return p.do(cmd.Start)
}

// Replace gives a file other content for those that are started there. The name of its last element is taken in the directory in memory.
func (p *Private) Replace(path string, content []byte) error {
	name := filepath.Base(path)
	if err := p.WriteFile(name, content, 0o644); err != nil {
		return err
	}
	return p.do(func() error {
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) { // a link into what is in memory
			to, err := os.Readlink(path)
			if err != nil {
				return err
			}
			if !filepath.IsAbs(to) {
				to = filepath.Join(filepath.Dir(path), to)
			}
			if err := errors.Join(os.MkdirAll(filepath.Dir(to), 0o755), os.WriteFile(to, nil, 0o644)); err != nil {
				return err
			}
		}
		if err := unix.Mount(filepath.Join(p.at, name), path, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("bind %s: %w", path, err)
		}
		return nil
	})
}

// StartConfined does as Start, and gives cmd a PID namespace and files of its own: nothing that it starts, nor what it mounts, outlives it.
// This very program is started first, which calls Confined with cmd's arguments.
func (p *Private) StartConfined(cmd *exec.Cmd) error {
	cmd.Args = append([]string{Self, "confined", cmd.Path}, cmd.Args[1:]...)
	cmd.Path = Self
	cmd.SysProcAttr = &unix.SysProcAttr{Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS, Setsid: true}
	return p.Start(cmd)
}

// Confined becomes another program, whose path and arguments these are, in an environment, as the first process of a PID namespace: /proc shows that, and no module can be
// loaded into the machine's kernel.
func Confined(args, env []string) error {
	if len(args) == 0 {
		return errors.New("no program: want a path")
	}
	if err := ownProcesses(); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_CAPBSET_DROP, unix.CAP_SYS_MODULE, 0, 0, 0); err != nil {
		return fmt.Errorf("keep modules apart: %w", err)
	}
	return fmt.Errorf("%s: %w", args[0], unix.Exec(args[0], args, env))
}

// Named is the network namespace that a process which was started there sees by a path.
func (p *Private) Named(pid int, path string) (s *Space, err error) {
	err = p.do(func() error {
		s, err = openAt(fmt.Sprintf("/proc/%d/root%s", pid, path))
		return err
	})
	return s, err
}

// See reads a file that a process which was started there sees by a path.
func (p *Private) See(pid int, path string) (content []byte, err error) {
	err = p.do(func() error {
		content, err = os.ReadFile(fmt.Sprintf("/proc/%d/root%s", pid, path))
		return err
	})
	return content, err
}

// Listening tells whether a program listens at a socket that programs which were started there see by a path; nil: one does.
func (p *Private) Listening(socket string) error {
	return p.do(func() error {
		c, err := net.Dial("unix", socket)
		if err != nil {
			return err
		}
		return c.Close()
	})
}

// Close ends the thread. Start must not be called any more.
func (p *Private) Close() error {
	close(p.jobs)
	return p.Root.Close()
}
