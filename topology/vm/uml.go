package vm

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Exec runs User-mode Linux, the program of args, under a filter that answers PTRACE_GETREGSET with EIO, and waits for
// its end. The command calls it for `modebench uml PROGRAM ARGS`, as the first process of a PID namespace: UML cannot be
// that itself, since it ends a panic by a signal that a first process does not get.
//
// UML saves and restores the floating-point registers of the processes in the guest by ptrace(2), in a buffer of a
// fixed size. On processors with a larger state (AMX) that is refused, and the guest panics at its first process. Where
// PTRACE_GETREGSET fails from the start, UML takes the registers of FXSAVE instead, which are the same everywhere. AVX
// registers then are not switched between processes in the guest, so programs in it must not use them: umlArgs sees to
// that. Both is done on every machine, so that a guest does not depend on the processor.
func Exec(args []string) error {
	if len(args) == 0 {
		return errors.New("uml: no program")
	}
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0}, // seccomp_data.nr
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_PTRACE, Jf: 3},
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 16}, // seccomp_data.args[0]
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.PTRACE_GETREGSET, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EIO)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("uml: no new privileges: %w", err)
	}
	// The filter holds for all threads, since execve is free to happen on any.
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&program)))
	runtime.KeepAlive(filter)
	if errno != 0 {
		return fmt.Errorf("uml: seccomp filter: %w", errno)
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr         // and the descriptors from 3 on, which nobody closes
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // UML ends its process group when it panics
	return cmd.Run()
}

// shm is where UML's memory is, a file: in memory itself, where it may be.
const shm = "/dev/shm"

// roomFor finds a directory for a file of so many bytes that may be run from, as UML maps its memory.
func roomFor(bytes int64, dirs ...string) (string, error) {
	var why []error
	for _, dir := range dirs {
		var st unix.Statfs_t
		if err := unix.Statfs(dir, &st); err != nil {
			why = append(why, fmt.Errorf("%s: %w", dir, err))
			continue
		}
		switch room := int64(st.Bavail) * st.Bsize; {
		case st.Flags&unix.ST_NOEXEC != 0:
			why = append(why, fmt.Errorf("%s: mounted noexec", dir))
		case room < bytes:
			why = append(why, fmt.Errorf("%s: room for %d MiB", dir, room>>20))
		case unix.Access(dir, unix.W_OK) != nil:
			why = append(why, fmt.Errorf("%s: may not be written to", dir))
		default:
			return dir, nil
		}
	}
	return "", fmt.Errorf("no directory for the guest's memory, %d MiB: %w: make room, or name one by TMPDIR", bytes>>20, errors.Join(why...))
}
