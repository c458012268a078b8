package space

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// Of is the network namespace that a process is in, by its number in the PID namespace of this one.
func Of(pid int) (s *Space, err error) {
	process, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, fmt.Errorf("process %d: %w", pid, err)
	}
	defer unix.Close(process)
	err = Walk(func(*Walker) error {
		if err := unix.Setns(process, unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace of process %d: %w", pid, err)
		}
		s, err = open()
		return err
	})
	return s, err
}

// Visit runs cmd inside the namespace, in a session of its own, with the machine's files as a machine of that name would show
// them: in /sys are the devices of the namespace, and in /proc the processes of this PID namespace. Where this machine lets
// neither be shown, as some sandboxes do not, they are the machine's own. It calls started once cmd has started, and returns when cmd
// has ended. What cmd leaves behind is not Mortal: it ends with the PID namespace.
func (s *Space) Visit(cmd *exec.Cmd, name string, started func()) error {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setsid = true
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		err := s.visit(cmd, name)
		if err == nil {
			started()
			err = cmd.Wait() // here, since cmd is the child of this thread: Adopt knows by that that it is nobody's orphan
		}
		done <- err
	}()
	return <-done
}

// Adopt waits for the orphans of this PID namespace, whose first process this is, until over is closed: they are children of its first
// thread, on which it must be called (where main is), and which must have started nothing. Other threads' children are not touched.
func Adopt(over <-chan struct{}) {
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, unix.SIGCHLD)
	defer signal.Stop(ended)
	for {
		for pid := 1; pid > 0; {
			pid, _ = unix.Wait4(-1, nil, unix.WNOHANG|unix.WNOTHREAD|unix.WALL, nil) // fails where there is none
		}
		select {
		case <-ended:
		case <-over:
			return
		}
	}
}

func (s *Space) visit(cmd *exec.Cmd, name string) error {
	if err := unix.Setns(int(s.fd.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter network namespace: %w", err)
	}
	if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_NEWUTS); err != nil {
		return fmt.Errorf("unshare mount namespace: %w", err)
	}
	if err := errors.Join(unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""), unix.Sethostname([]byte(name))); err != nil {
		return fmt.Errorf("keep mounts and name apart: %w", err)
	}
	const own = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	// The groups of processes below /sys are the machine's: what looks for them must find them where they were.
	groups, err := unix.OpenTree(unix.AT_FDCWD, "/sys/fs/cgroup", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err == nil {
		defer unix.Close(groups)
	}
	mount := func(flags uintptr) bool { return unix.Mount("sysfs", "/sys", "sysfs", own|flags, "") == nil }
	// Where the machine's may only be read, as in a container, nobody but root gets one that may be written to.
	if (err == nil || err == unix.ENOENT) && (mount(0) || mount(unix.MS_RDONLY)) && err == nil {
		_ = unix.MoveMount(groups, "", unix.AT_FDCWD, "/sys/fs/cgroup", unix.MOVE_MOUNT_F_EMPTY_PATH)
	}
	_ = unix.Mount("proc", "/proc", "proc", own, "")
	return cmd.Start()
}
