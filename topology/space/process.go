package space

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Isolate makes cmd start as root in a network namespace that is empty and in a PID namespace of its own: whatever it
// starts ends with it, and what escapes from a lab finds no network. For an ordinary user both hang on a user namespace
// in which the user is root (user_namespaces(7)); root needs none. The process is killed when this one ends, unless it calls
// Outlive, and is in a session of its own, so that a terminal's signals reach only this one.
func Isolate(cmd *exec.Cmd) {
	Contain(cmd)
	cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWNET
}

// Contain does as Isolate does, and leaves cmd in the network namespace that it is started in.
func Contain(cmd *exec.Cmd) {
	a := &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWPID,
		Pdeathsig:  syscall.SIGKILL,
		Setsid:     true,
	}
	if uid := os.Geteuid(); uid != 0 {
		a.Cloneflags |= syscall.CLONE_NEWUSER
		a.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: uid, Size: 1}}
		a.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	cmd.SysProcAttr = a
}

// Attend makes cmd be killed when this process ends, and be in a session of its own. It is not kept apart from anything.
func Attend(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setsid: true}
}

// Rerun is what a TestMain is made of: it calls run in an isolated process, which is this program started again with args,
// and returns what the test's process is to exit with. getenv is os.Getenv. Where no process can be isolated nothing runs,
// and that is an error only if MODEBENCH_STRICT is set.
func Rerun(run func() int, args []string, getenv func(string) string) (exit int) {
	const isolated = "MODEBENCH_ISOLATED"
	if getenv(isolated) != "" {
		return run()
	}
	cmd := exec.Command(Self, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(cmd.Environ(), isolated+"=1")
	Isolate(cmd)
	err := Start(cmd)
	if err == nil {
		err = cmd.Wait()
	}
	if ended := (*exec.ExitError)(nil); errors.As(err, &ended) {
		return ended.ExitCode()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "unable: no network namespace can be made here:", err)
		if getenv("MODEBENCH_STRICT") != "" {
			return 1
		}
	}
	return 0
}

// Slow tells whether a system call takes more than 0.7 µs here, at best. Elsewhere it takes a tenth or two of that; where it does not, labs compute more than
// they wait, and a TestMain does with fewer of them at a time.
func Slow() bool {
	const calls = 1000
	best := time.Hour
	for range 10 {
		began := time.Now()
		for range calls {
			syscall.Getppid()
		}
		best = min(best, time.Since(began)/calls)
	}
	return best > 700*time.Nanosecond
}

// Mortal makes cmd be killed when this process ends.
func Mortal(cmd *exec.Cmd) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
}

// Outlive makes this process, which another one made Mortal, go on when that one ends. Call it on the first thread, where main is.
func Outlive() error {
	return os.NewSyscallError("prctl", unix.Prctl(unix.PR_SET_PDEATHSIG, 0, 0, 0, 0))
}

// Start starts cmd from a thread that lasts as long as the process: a parent-death signal follows the thread that
// forked (prctl(2), PR_SET_PDEATHSIG).
func Start(cmd *exec.Cmd) error { return send(errand{f: cmd.Start, stays: true}) }

// Start starts cmd inside the namespace, likewise.
func (s *Space) Start(cmd *exec.Cmd) error { return s.Do(cmd.Start) }

// Self is this very program, to be started again.
const Self = "/proc/self/exe"
