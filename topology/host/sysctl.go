package host

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

const sysctls = "/proc/sys/"

// sysctl reads a setting of the namespace of the calling thread: below net, /proc/sys shows each thread its own
// namespace. A setting that this kernel does not have is fs.ErrNotExist.
func sysctl(key string) (string, error) {
	dirs := settings{}
	defer dirs.close()
	return dirs.get(key)
}

// settings are directories of the settings of one namespace, open, by name such as net/ipv4. The kernel finds one of
// these by comparing it with that of every other namespace (proc_sys_compare in fs/proc/proc_sysctl.c): among a thousand
// namespaces that takes longer than all that is set below it.
type settings map[string]int

// open opens a setting of the namespace of the calling thread, which is always the same one.
func (dirs settings) open(key string, how int) (int, error) {
	i := len("net/") + strings.IndexByte(key[len("net/"):], '/')
	if i < len("net/") {
		return unix.Open(sysctls+key, how|unix.O_CLOEXEC, 0)
	}
	dir, ok := dirs[key[:i]]
	if !ok {
		var err error
		if dir, err = unix.Open(sysctls+key[:i], unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
			return -1, err
		}
		dirs[key[:i]] = dir
	}
	return unix.Openat(dir, key[i+1:], how|unix.O_CLOEXEC, 0)
}

func (dirs settings) close() {
	for name, fd := range dirs {
		_ = unix.Close(fd)
		delete(dirs, name)
	}
}

// get reads a setting.
func (dirs settings) get(key string) (string, error) {
	if err := checkSysctl(key); err != nil {
		return "", err
	}
	// A state reads hundreds of them; os.File would make each known to the poller.
	fd, err := dirs.open(key, unix.O_RDONLY)
	if err != nil {
		return "", &os.PathError{Op: "open", Path: sysctls + key, Err: err}
	}
	defer unix.Close(fd)
	var b [4096]byte // the longest there are
	n, err := unix.Read(fd, b[:])
	if err != nil {
		return "", &os.PathError{Op: "read", Path: sysctls + key, Err: err}
	}
	return strings.TrimSpace(string(b[:n])), nil
}

// set changes a setting and returns what it was.
func (dirs settings) set(key, value string) (was string, err error) {
	if err := checkSysctl(key); err != nil {
		return "", fmt.Errorf("sysctl %s: %w", key, err)
	}
	fd, err := dirs.open(key, unix.O_RDWR)
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("sysctl %s: %w", key, err)
	}
	if err != nil {
		return "", fmt.Errorf("sysctl %s=%s: %w", key, value, err)
	}
	defer unix.Close(fd)
	var b [4096]byte
	n, err := unix.Pread(fd, b[:], 0)
	if err != nil {
		return "", fmt.Errorf("sysctl %s: %w", key, err)
	}
	was = strings.TrimSpace(string(b[:n]))
	if was == value {
		return was, nil // writing some takes the lock of all devices, also for nothing
	}
	// The kernel takes a setting in one write and answers it there.
	if _, err := unix.Pwrite(fd, []byte(value), 0); err != nil {
		return "", fmt.Errorf("sysctl %s=%s: %w", key, value, err)
	}
	return was, nil
}

// setSysctl changes a setting of the namespace of the calling thread and returns what it was.
func setSysctl(key, value string) (was string, err error) {
	dirs := settings{}
	defer dirs.close()
	return dirs.set(key, value)
}

// checkSysctl refuses keys outside of net: other settings are the whole machine's.
func checkSysctl(key string) error {
	if !strings.HasPrefix(key, "net/") || path.Clean(key) != key {
		return fmt.Errorf("%q: want a path below net with slashes, such as net/ipv4/ip_forward", key)
	}
	return nil
}
