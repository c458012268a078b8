package probe

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/modebench/modebench/topology/lab"
)

// socket is one socket in a namespace. It belongs to that namespace wherever it is used from.
type socket struct {
	enough atomic.Bool // no answer is waited for any more
	of     *Service
	in     string // container
	file   *os.File
	conn   syscall.RawConn
	fd     int // for options, while the file is open
	v6     bool
}

// wait sets until when an answer counts, which is not at all where there was enough before it was set or while it is.
func (k *socket) wait(until func(time.Time) error, long time.Duration) error {
	err := until(time.Now().Add(long))
	if err == nil && k.enough.Load() {
		err = until(time.Unix(1, 0))
	}
	return err
}

func newSocket(s *Service, container string, fd int, v6 bool) (*socket, error) {
	file := os.NewFile(uintptr(fd), "socket") // in the poller, since it is nonblocking
	conn, err := file.SyscallConn()
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return &socket{of: s, in: container, file: file, conn: conn, fd: fd, v6: v6}, nil
}

func (k *socket) close() { k.of.drop(k) }

// refused is a call that the kernel refused, or an error that it reported.
type refused struct {
	call  string
	errno unix.Errno
	from  netip.Addr // who sent the ICMP error
}

func (r refused) Error() string { return r.call + ": " + r.errno.Error() }

// refuse wraps what a system call returned.
func refuse(call string, err error) error {
	var errno unix.Errno
	if errors.As(err, &errno) {
		return refused{call: call, errno: errno}
	}
	if err != nil {
		return fmt.Errorf("%s: %w", call, err)
	}
	return nil
}

// refusal makes a result of an error of the kernel's, and leaves any other error.
func refusal(err error, to *lab.Refusal) error {
	var r refused
	if !errors.As(err, &r) {
		return err
	}
	*to = lab.Refusal{Errno: unix.ErrnoName(r.errno), Text: r.Error()}
	return nil
}

// option is a socket option of each family.
type option struct{ level4, name4, level6, name6 int }

var (
	recvErr     = option{unix.IPPROTO_IP, unix.IP_RECVERR, unix.IPPROTO_IPV6, unix.IPV6_RECVERR}
	recvTTL     = option{unix.IPPROTO_IP, unix.IP_RECVTTL, unix.IPPROTO_IPV6, unix.IPV6_RECVHOPLIMIT}
	recvInfo    = option{unix.IPPROTO_IP, unix.IP_PKTINFO, unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO}
	hops        = option{unix.IPPROTO_IP, unix.IP_TTL, unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS}
	groupHops   = option{unix.IPPROTO_IP, unix.IP_MULTICAST_TTL, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS}
	groupAll    = option{unix.IPPROTO_IP, unix.IP_MULTICAST_ALL, unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_ALL}
	discover    = option{unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER}
	pathMTU     = option{unix.IPPROTO_IP, unix.IP_MTU, unix.IPPROTO_IPV6, unix.IPV6_MTU}
	packetTTL   = option{unix.IPPROTO_IP, unix.IP_TTL, unix.IPPROTO_IPV6, unix.IPV6_HOPLIMIT}
	packetInfo  = option{unix.IPPROTO_IP, unix.IP_PKTINFO, unix.IPPROTO_IPV6, unix.IPV6_PKTINFO}
	connOptions = option{unix.IPPROTO_IP, unix.IP_PKTOPTIONS, unix.IPPROTO_IPV6, unix.IPV6_2292PKTOPTIONS}
)

func (k *socket) of4or6(o option) (level, name int) {
	if k.v6 {
		return o.level6, o.name6
	}
	return o.level4, o.name4
}

func (k *socket) set(o option, value int) error {
	level, name := k.of4or6(o)
	return os.NewSyscallError("setsockopt", unix.SetsockoptInt(k.fd, level, name, value))
}

func (k *socket) is(o option, m unix.SocketControlMessage) bool {
	level, name := k.of4or6(o)
	return int(m.Header.Level) == level && int(m.Header.Type) == name
}

// index is a device's, in the socket's namespace.
func (k *socket) index(device string) (int, error) {
	ifr, err := unix.NewIfreq(device)
	if err != nil {
		return 0, refuse("device "+device, err)
	}
	if err := unix.IoctlIfreq(k.fd, unix.SIOCGIFINDEX, ifr); err != nil {
		return 0, refuse("device "+device, err)
	}
	return int(ifr.Uint32()), nil
}

// name is a device's, in the socket's namespace; empty where it is gone.
func (k *socket) name(index int) string {
	var ifr unix.Ifreq
	ifr.SetUint32(uint32(index))
	if unix.IoctlIfreq(k.fd, unix.SIOCGIFNAME, &ifr) != nil {
		return ""
	}
	return ifr.Name()
}

// attach binds the socket to a device; none is no matter.
func (k *socket) attach(device string) error {
	if device == "" {
		return nil
	}
	return refuse("bind to device "+device, unix.BindToDevice(k.fd, device))
}

// sockaddr is an address as the kernel takes it; a link-local one is of the device.
func (k *socket) sockaddr(ap netip.AddrPort, device string) (unix.Sockaddr, error) {
	a := ap.Addr()
	if !k.v6 {
		return &unix.SockaddrInet4{Addr: a.As4(), Port: int(ap.Port())}, nil
	}
	to := &unix.SockaddrInet6{Addr: a.As16(), Port: int(ap.Port())}
	if device != "" && (a.IsLinkLocalUnicast() || a.IsLinkLocalMulticast() || a.IsInterfaceLocalMulticast()) {
		index, err := k.index(device)
		if err != nil {
			return nil, err
		}
		to.ZoneId = uint32(index)
	}
	return to, nil
}

func addrPort(sa unix.Sockaddr) netip.AddrPort {
	switch a := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr), uint16(a.Port))
	}
	return netip.AddrPort{}
}

// local is the socket's own address.
func (k *socket) local() netip.AddrPort {
	sa, err := unix.Getsockname(k.fd)
	if err != nil {
		return netip.AddrPort{}
	}
	return addrPort(sa)
}

// send sends one message, within the write deadline.
func (k *socket) send(b, oob []byte, to unix.Sockaddr) error {
	var failed error
	err := k.conn.Write(func(fd uintptr) bool {
		_, failed = unix.SendmsgN(int(fd), b, oob, to, unix.MSG_NOSIGNAL)
		return failed != unix.EAGAIN
	})
	if err != nil {
		return err
	}
	return refuse("send", failed)
}

// message is what came in with one receive.
type message struct {
	data   []byte
	size   int // of the whole message, bytes
	from   unix.Sockaddr
	dest   netip.Addr
	local  netip.Addr // own address that stands for dest: the same, where dest is one of the own
	device int
	ttl    int
	err    *refused // of the error queue
}

// receive reads one message or, with MSG_ERRQUEUE, one error. It does not wait.
func (k *socket) receive(buf, oob []byte, flags int) (m message, err error) {
	n, on, _, from, err := unix.Recvmsg(k.fd, buf, oob, flags|unix.MSG_TRUNC)
	if err != nil {
		return m, err
	}
	m = message{data: buf[:min(n, len(buf))], size: n, from: from}
	k.control(oob[:on], &m)
	return m, nil
}

func (k *socket) control(oob []byte, m *message) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return // what it would have told stays unknown
	}
	for _, c := range messages {
		switch {
		case k.is(packetTTL, c) && len(c.Data) >= 4:
			m.ttl = int(binary.NativeEndian.Uint32(c.Data))
		case k.is(packetInfo, c) && k.v6 && len(c.Data) >= int(unsafe.Sizeof(unix.Inet6Pktinfo{})):
			info := (*unix.Inet6Pktinfo)(unsafe.Pointer(&c.Data[0]))
			m.dest, m.device = netip.AddrFrom16(info.Addr), int(info.Ifindex)
			if !m.dest.IsMulticast() {
				m.local = m.dest
			}
		case k.is(packetInfo, c) && !k.v6 && len(c.Data) >= int(unsafe.Sizeof(unix.Inet4Pktinfo{})):
			info := (*unix.Inet4Pktinfo)(unsafe.Pointer(&c.Data[0]))
			m.dest, m.local, m.device = netip.AddrFrom4(info.Addr), netip.AddrFrom4(info.Spec_dst), int(info.Ifindex)
		case k.is(recvErr, c) && len(c.Data) >= int(unsafe.Sizeof(unix.SockExtendedErr{})):
			ee := (*unix.SockExtendedErr)(unsafe.Pointer(&c.Data[0]))
			m.err = &refused{call: "reported", errno: unix.Errno(ee.Errno)}
			offender := c.Data[unsafe.Sizeof(*ee):] // a sockaddr_in or sockaddr_in6: ip(7), IP_RECVERR
			switch {
			case ee.Origin == unix.SO_EE_ORIGIN_ICMP && len(offender) >= 8:
				m.err.from = netip.AddrFrom4([4]byte(offender[4:8]))
			case ee.Origin == unix.SO_EE_ORIGIN_ICMP6 && len(offender) >= 24:
				m.err.from = netip.AddrFrom16([16]byte(offender[8:24]))
			}
			if m.err.from.IsValid() {
				m.err.call = fmt.Sprintf("ICMP type %d code %d from %v", ee.Type, ee.Code, m.err.from)
			}
		}
	}
}

// arrival is what the kernel remembers of the segment that opened a connection (tcp(7) tells nothing of it; Linux
// fills IP_PKTOPTIONS and IPV6_2292PKTOPTIONS of a stream socket from it).
func (k *socket) arrival() (m message) {
	buf := make([]byte, 256)
	length := uint32(len(buf))
	level, name := k.of4or6(connOptions)
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(k.fd), uintptr(level), uintptr(name),
		uintptr(unsafe.Pointer(&buf[0])), uintptr(unsafe.Pointer(&length)), 0)
	if errno == 0 && int(length) <= len(buf) {
		k.control(buf[:length], &m)
	}
	return m
}

// answerFrom is the control message that makes an answer leave from an address.
func (k *socket) answerFrom(a netip.Addr) []byte {
	switch {
	case !a.IsValid():
		return nil
	case k.v6:
		return unix.PktInfo6(&unix.Inet6Pktinfo{Addr: a.As16()})
	}
	return unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: a.As4()})
}
