// Package space is the one place where threads enter network namespaces.
//
// A namespace is a value here: it is made without a name on the machine, held by a descriptor, and gone when that
// is closed and the last process in it has ended.
package space

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

// The first thread of a process cannot be ended. Were a goroutine that enters a namespace scheduled on it, the
// namespace could never be left again; main keeps it instead.
func init() { runtime.LockOSThread() }

// Space is a network namespace, held open. Its methods may be called at the same time.
type Space struct {
	fd    *os.File
	inode uint64
}

const own = "/proc/thread-self/ns/net"

func open() (*Space, error) { return openAt(own) }

func openAt(path string) (*Space, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("network namespace: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, errors.Join(fmt.Errorf("network namespace: %w", err), f.Close())
	}
	return &Space{fd: f, inode: st.Ino}, nil
}

// New makes an empty namespace, owned by the user namespace of the process.
func New() (s *Space, err error) {
	err = Walk(func(w *Walker) error {
		s, err = w.New()
		return err
	})
	return s, err
}

// Current is the namespace of the calling process.
func Current() (*Space, error) { return open() }

// Inode tells namespaces apart (namespaces(7)).
func (s *Space) Inode() uint64 { return s.inode }

// File is the descriptor that holds the namespace, for passing to the kernel or to a child. It stays the Space's.
func (s *Space) File() *os.File { return s.fd }

// Do calls f on a thread that is in the namespace. Sockets made by f stay in it; goroutines that f starts do not.
func (s *Space) Do(f func() error) error {
	return Walk(func(w *Walker) error {
		if err := w.Enter(s); err != nil {
			return err
		}
		return f()
	})
}

// Close lets go of the namespace.
func (s *Space) Close() error { return s.fd.Close() }

// Walker is a thread on its way from namespace to namespace. It begins in that of the process, and belongs to the
// function that Walk calls.
type Walker struct{ in *Space }

// Walk calls f on a thread that f may send elsewhere. Waking a thread costs more than what is done in most namespaces, so
// much to be done in many takes one walk, not as many calls of Do.
func Walk(f func(*Walker) error) error {
	return send(errand{f: func() error { return f(new(Walker)) }})
}

// Enter takes the calling thread to a namespace, where what follows happens as in Do.
func (w *Walker) Enter(s *Space) error {
	if w.in == s {
		return nil
	}
	if err := unix.Setns(int(s.fd.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter network namespace: %w", err)
	}
	w.in = s
	return nil
}

// New makes an empty namespace, as the function New does, with the calling thread in it.
func (w *Walker) New() (*Space, error) {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return nil, fmt.Errorf("unshare network namespace: %w", err)
	}
	w.in = nil
	s, err := open()
	if err != nil {
		return nil, err
	}
	w.in = s
	return s, nil
}

// visitors are threads that go from namespace to namespace. They are never unlocked, so no other goroutine ever runs
// in a namespace it did not choose; they wait for work instead of ending, since making a thread costs more than setns;
// and they wait at home, since a thread keeps the namespace that it is in alive.
var visitors struct {
	sync.Mutex
	home *Space
	idle []chan errand
}

type errand struct {
	f     func() error
	stays bool // f enters no namespace, so the thread need not come home, which takes CAP_SYS_ADMIN
	done  chan<- error
}

func send(e errand) error {
	visitors.Lock()
	if visitors.home == nil {
		home, err := open()
		if err != nil {
			visitors.Unlock()
			return err
		}
		visitors.home = home
	}
	var jobs chan errand
	if n := len(visitors.idle); n > 0 {
		jobs, visitors.idle = visitors.idle[n-1], visitors.idle[:n-1]
	} else {
		jobs = make(chan errand)
		go attend(jobs)
	}
	visitors.Unlock()
	done := make(chan error, 1)
	e.done = done
	jobs <- e
	return <-done
}

// attend makes its thread a visitor, until the thread cannot come home: then the thread ends with the goroutine.
func attend(jobs chan errand) {
	runtime.LockOSThread()
	for j := range jobs {
		err := j.f()
		if !j.stays {
			if back := unix.Setns(int(visitors.home.fd.Fd()), unix.CLONE_NEWNET); back != nil {
				j.done <- errors.Join(err, fmt.Errorf("leave network namespace: %w", back))
				return
			}
		}
		visitors.Lock()
		visitors.idle = append(visitors.idle, jobs)
		visitors.Unlock()
		j.done <- err
	}
}

// Again holds the same namespace a second time, to be closed apart.
func (s *Space) Again() (*Space, error) {
	fd, err := unix.FcntlInt(s.fd.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("hold network namespace: %w", err)
	}
	return &Space{fd: os.NewFile(uintptr(fd), own), inode: s.inode}, nil
}
