package space

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"

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
func NewPrivate(in *Space, at string) (*Private, error) {
	p := &Private{at: at, jobs: make(chan errand)}
	made := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		err := errors.Join(new(Walker).Enter(in), p.move())
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
func (p *Private) move() (err error) {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("unshare mount namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("keep mounts apart: %w", err)
	}
	if err := unix.Mount("tmpfs", p.at, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755"); err != nil {
		return fmt.Errorf("mount tmpfs at %s: %w", p.at, err)
	}
	p.Root, err = os.OpenRoot(p.at)
	return err
}

// Start starts cmd with that view, in the network namespace of p. It is killed when p is closed and when this
// process ends (see Mortal).
func (p *Private) Start(cmd *exec.Cmd) error {
	Mortal(cmd)
	done := make(chan error, 1)
	p.jobs <- errand{f: cmd.Start, done: done}
	return <-done
}

// Close ends the thread. Start must not be called any more.
func (p *Private) Close() error {
	close(p.jobs)
	return p.Root.Close()
}
