package traffic

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// An address as the kernel takes it; the larger of the two families, of which size bytes count.
type address struct {
	raw  unix.RawSockaddrInet6
	size uint32
}

func resolve(a netip.AddrPort) (address, error) {
	ip := a.Addr().Unmap()
	port := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, a.Port()))
	var s address
	switch {
	case ip.Is4():
		s.size = unix.SizeofSockaddrInet4
		*(*unix.RawSockaddrInet4)(unsafe.Pointer(&s.raw)) = unix.RawSockaddrInet4{Family: unix.AF_INET, Port: port, Addr: ip.As4()}
	case ip.Is6():
		s.size = unix.SizeofSockaddrInet6
		s.raw = unix.RawSockaddrInet6{Family: unix.AF_INET6, Port: port, Addr: ip.As16()}
		if ip.Zone() != "" {
			dev, err := net.InterfaceByName(ip.Zone())
			if err != nil {
				return s, fmt.Errorf("%s: %w", ip, err)
			}
			s.raw.Scope_id = uint32(dev.Index)
		}
	default:
		return s, errors.New("no address")
	}
	return s, nil
}

// call is a system call that neither tells the scheduler nor is cut short by a signal.
//
//go:uintptrescapes
func call(trap, a, b, c, d, e uintptr) (int, error) {
	for {
		n, _, errno := unix.RawSyscall6(trap, a, b, c, d, e, 0)
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}

// socket opens one for the trial.
func (e *end) socket() (int, error) {
	fd, err := call(unix.SYS_SOCKET, uintptr(e.addr.raw.Family), uintptr(e.kind|unix.SOCK_CLOEXEC), 0, 0, 0)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	if e.congestion != "" {
		if err := unix.SetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION, e.congestion); err != nil {
			return -1, errors.Join(fmt.Errorf("congestion control %q: %w", e.congestion, err), unix.Close(fd))
		}
	}
	if e.records { // a message of more than one segment would wait for the peer's delayed acknowledgement
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
			return -1, errors.Join(os.NewSyscallError("setsockopt", err), unix.Close(fd))
		}
	}
	return fd, nil
}

// chooseCongestion finds out what sockets begin with and whether that is to be changed. It may be set where the process
// has CAP_NET_ADMIN over the namespace, even if tcp_allowed_congestion_control does not list it.
func (e *end) chooseCongestion() error {
	fd, err := e.socket()
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	given, err := unix.GetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION)
	if err != nil {
		return fmt.Errorf("congestion control: %w", err)
	}
	want := e.Congestion
	if want == "" {
		want = "cubic"
	}
	e.inForce = given
	if want == given {
		return nil
	}
	switch err := unix.SetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION, want); {
	case err == nil:
		e.congestion, e.inForce = want, want
	case e.Congestion != "":
		return fmt.Errorf("congestion control %q: %w", want, err)
	}
	return nil
}

// bind binds to the trial's address, and returns the port.
func (e *end) bind(fd int) (uint16, error) {
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return 0, os.NewSyscallError("setsockopt", err)
	}
	if _, err := call(unix.SYS_BIND, uintptr(fd), uintptr(unsafe.Pointer(&e.addr.raw)), uintptr(e.addr.size), 0, 0); err != nil {
		return 0, os.NewSyscallError("bind", err)
	}
	switch sa, err := unix.Getsockname(fd); sa := sa.(type) {
	case *unix.SockaddrInet4:
		return uint16(sa.Port), nil
	case *unix.SockaddrInet6:
		return uint16(sa.Port), nil
	default:
		return 0, os.NewSyscallError("getsockname", err)
	}
}

// join connects to a.
func join(fd int, a *address) error {
	_, err := call(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&a.raw)), uintptr(a.size), 0, 0)
	if err == unix.EINPROGRESS { // what a connection that took longer than SO_SNDTIMEO ends with
		err = unix.ETIMEDOUT
	}
	return os.NewSyscallError("connect", err)
}

// within bounds what comes before a trial; 0: not.
func within(fd, option int, t unix.Timeval) error {
	return os.NewSyscallError("setsockopt", unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, option, &t))
}

var errHungUp = errors.New("peer hung up")

// get fills b. recv(2) and send(2) take a shorter way to the socket than read(2) and write(2).
func get(fd int, b []byte) (n int, err error) {
	for n < len(b) {
		more, err := call(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(&b[n])), uintptr(len(b)-n), 0, 0)
		if err != nil {
			return n, os.NewSyscallError("recv", err)
		}
		if more == 0 {
			return n, errHungUp
		}
		n += more
	}
	return n, nil
}

// put sends all of b.
func put(fd int, b []byte) error {
	for len(b) > 0 {
		n, err := call(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), unix.MSG_NOSIGNAL, 0)
		if err != nil {
			return os.NewSyscallError("send", err)
		}
		b = b[n:]
	}
	return nil
}
