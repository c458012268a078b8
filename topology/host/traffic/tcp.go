package traffic

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

func connect(f *flow) error {
	fd, err := f.socket()
	if err != nil {
		return err
	}
	f.fd.Store(int64(fd))
	if err := within(fd, unix.SO_SNDTIMEO, unix.NsecToTimeval(int64(patience))); err != nil {
		return err
	}
	if err := join(fd, &f.addr); err != nil {
		return err
	}
	return within(fd, unix.SO_SNDTIMEO, unix.Timeval{})
}

func accept(f *flow) error {
	fd, err := f.next()
	if err != nil {
		return err
	}
	f.fd.Store(int64(fd))
	return nil
}

// next is the next connection.
func (f *flow) next() (int, error) {
	fd, err := call(unix.SYS_ACCEPT4, uintptr(f.listener), 0, 0, unix.SOCK_CLOEXEC, 0)
	if err != nil && f.closing.Load() {
		return -1, errNobody
	}
	return fd, os.NewSyscallError("accept", err)
}

var errNobody = errors.New("nothing came")

// pace is after how many writes to look at the clock: with small ones that would cost more than they do.
func (f *flow) pace() int { return max(1, 16<<10/f.Size) }

func write(f *flow) error {
	fd, buf := int(f.fd.Load()), f.buf
	for every := f.pace(); f.last < f.For; f.last = f.now() {
		for range every {
			if err := put(fd, buf); err != nil {
				return err
			}
		}
		f.bytes += uint64(every * len(buf))
	}
	return f.hangUp(fd)
}

func sendfile(f *flow) error {
	file, err := unix.MemfdCreate("payload", unix.MFD_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("memfd_create", err)
	}
	defer unix.Close(file)
	if _, err := unix.Write(file, f.buf); err != nil { // a hole would be one page of zeros, always in cache
		return os.NewSyscallError("write", err)
	}
	fd, offset := int(f.fd.Load()), new(int64)
	for every := f.pace(); f.last < f.For; f.last = f.now() {
		for range every {
			for *offset = 0; *offset < int64(f.Size); {
				n, err := call(unix.SYS_SENDFILE, uintptr(fd), uintptr(file), uintptr(unsafe.Pointer(offset)), uintptr(f.Size)-uintptr(*offset), 0)
				if err != nil {
					return os.NewSyscallError("sendfile", err)
				}
				f.bytes += uint64(n)
			}
		}
	}
	return f.hangUp(fd)
}

// hangUp waits until the peer has read all, so that no trial runs into the one before it.
func (f *flow) hangUp(fd int) error {
	if err := unix.Shutdown(fd, unix.SHUT_WR); err != nil {
		return os.NewSyscallError("shutdown", err)
	}
	return hungUp(fd)
}

// hungUp waits for the peer's end of file.
func hungUp(fd int) error {
	switch _, err := get(fd, make([]byte, 1)); err {
	case errHungUp:
		return nil
	case nil:
		return errors.New("peer says more than was asked")
	default:
		return err
	}
}

func read(f *flow) error    { return f.read(0) }
func discard(f *flow) error { return f.read(unix.MSG_TRUNC) } // tcp(7): bytes are thrown away instead of copied

func (f *flow) read(flags uintptr) error {
	fd, buf := int(f.fd.Load()), f.buf
	for {
		n, err := call(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(&buf[0])), uintptr(len(buf)), flags, 0)
		if err != nil {
			return os.NewSyscallError("recv", err)
		}
		if n == 0 {
			f.last = f.now()
			return f.part(fd)
		}
		if f.bytes == 0 {
			f.begun()
		}
		f.bytes += uint64(n)
	}
}

// part closes the flow's socket at once: the peer waits for it.
func (f *flow) part(fd int) error {
	f.fd.Store(-1)
	return os.NewSyscallError("close", unix.Close(fd))
}

func request(f *flow) error {
	fd, buf := int(f.fd.Load()), f.buf
	for f.last < f.For {
		if err := put(fd, buf); err != nil {
			return err
		}
		if _, err := get(fd, buf); err != nil {
			return err
		}
		if err := f.operation(); err != nil {
			return err
		}
	}
	return nil
}

// operation notes that one was completed. The clock is read once for each: one begins when the one before it ends.
func (f *flow) operation() error {
	now := f.now()
	err := f.latency.RecordValue(int64(now - f.last))
	f.last = now
	f.operations++
	f.bytes += uint64(f.Size)
	return err
}

func respond(f *flow) error {
	fd, buf := int(f.fd.Load()), f.buf
	for {
		switch n, err := get(fd, buf); {
		case n == 0 && err == errHungUp:
			f.last = f.now()
			return f.part(fd)
		case err != nil:
			return err
		}
		if f.operations == 0 {
			f.begun()
		}
		if err := put(fd, buf); err != nil {
			return err
		}
		f.operations++
		f.bytes += uint64(len(buf))
	}
}

// knock connects once and says nothing: whether there is a peer is known before the time begins.
func knock(f *flow) error {
	if err := connect(f); err != nil {
		return err
	}
	return f.part(int(f.fd.Load()))
}

// listen has nothing to wait for: each request comes by a connection of its own.
func listen(*flow) error { return nil }

// requestEach lets the peer close first: what stays in TIME-WAIT stays with its one port, where a later connection may
// take over (RFC 6191), instead of using up the ports at this end.
func requestEach(f *flow) error {
	for f.last < f.For {
		if err := f.requestOnce(f.buf); err != nil {
			return fmt.Errorf("after %d connections: %w", f.operations, err)
		}
		if err := f.operation(); err != nil {
			return err
		}
	}
	return nil
}

func (f *flow) requestOnce(buf []byte) error {
	fd, err := f.socket()
	if err != nil {
		return err
	}
	f.fd.Store(int64(fd))
	if err := join(fd, &f.addr); err != nil {
		return err
	}
	if err := put(fd, buf); err != nil {
		return err
	}
	if _, err := get(fd, buf); err != nil {
		return err
	}
	if err := hungUp(fd); err != nil {
		return err
	}
	return f.part(fd)
}

func respondEach(f *flow) error {
	for buf := f.buf; ; {
		fd, err := f.next()
		if err == errNobody {
			return nil
		}
		if err != nil {
			return err
		}
		f.fd.Store(int64(fd))
		switch n, err := get(fd, buf); {
		case n == 0 && err == errHungUp: // knocked
		case err != nil:
			return err
		default:
			if f.operations == 0 {
				f.begun()
			}
			if err := put(fd, buf); err != nil {
				return err
			}
			f.operations++
			f.bytes += uint64(len(buf))
			f.last = f.now()
		}
		if err := f.part(fd); err != nil {
			return err
		}
	}
}
