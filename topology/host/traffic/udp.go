package traffic

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A datagram begins with its kind and its number; the rest is padding.
const (
	header  = 16
	largest = 65507 - 20 // of IPv6's or IPv4's payload, whichever is less (RFC 768)

	kindData    = 1
	kindHello   = 2 // answered with itself: this is a peer
	kindGoodbye = 3 // answered with itself; its number: how many there were
)

func mark(b []byte, kind uint32, number uint64) {
	binary.BigEndian.PutUint32(b, kind)
	binary.BigEndian.PutUint64(b[8:], number)
}

func marked(b []byte) (kind uint32, number uint64) {
	if len(b) < header {
		return 0, 0
	}
	return binary.BigEndian.Uint32(b), binary.BigEndian.Uint64(b[8:])
}

// hello connects to the peer, which answers from a socket of its own.
func hello(f *flow) error {
	fd, err := f.socket()
	if err != nil {
		return err
	}
	f.fd.Store(int64(fd))
	if err := join(fd, &f.addr); err != nil {
		return err
	}
	return converse(fd, kindHello, 0)
}

// converse says something until it is answered.
func converse(fd int, kind uint32, number uint64) error {
	const wait = 100 * time.Millisecond
	if err := within(fd, unix.SO_RCVTIMEO, unix.NsecToTimeval(int64(wait))); err != nil {
		return err
	}
	said, heard := make([]byte, header), make([]byte, header)
	mark(said, kind, number)
	for range patience / wait {
		if err := put(fd, said); err != nil {
			return err
		}
		for {
			n, err := call(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(&heard[0])), header, 0, 0)
			if err == unix.EAGAIN || err == nil && n == 0 { // shut, which the next put finds out
				break
			}
			if err != nil {
				return os.NewSyscallError("read", err)
			}
			if k, _ := marked(heard[:n]); k == kind {
				return nil
			}
		}
	}
	return fmt.Errorf("peer silent for %s", patience)
}

// welcome waits for a peer and gives it a socket of its own, as accept does for TCP.
func welcome(f *flow) error {
	f.accepting.Lock()
	defer f.accepting.Unlock()
	for heard := make([]byte, header); ; {
		var from address
		from.size = unix.SizeofSockaddrInet6
		n, err := recvfrom(f.listener, heard, &from)
		if f.closing.Load() {
			return errNobody
		}
		if err != nil {
			return os.NewSyscallError("recvfrom", err)
		}
		if kind, _ := marked(heard[:n]); kind != kindHello {
			continue
		}
		fd, err := f.socket()
		if err != nil {
			return err
		}
		f.fd.Store(int64(fd))
		if _, err := f.bind(fd); err != nil {
			return err
		}
		if err := join(fd, &from); err != nil {
			return err
		}
		if f.buffer, err = enlarge(fd); err != nil {
			return err
		}
		return put(fd, heard)
	}
}

func recvfrom(fd int, b []byte, from *address) (int, error) {
	for {
		n, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(&b[0])), uintptr(len(b)), 0,
			uintptr(unsafe.Pointer(&from.raw)), uintptr(unsafe.Pointer(&from.size)))
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}

// enlarge makes a socket's buffer as large as it may become, up to 32 MiB, and returns what the kernel grants: twice
// that much, or twice net.core.rmem_max for an ordinary user (socket(7)).
func enlarge(fd int) (int, error) {
	const want = 32 << 20
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, want) != nil {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, want); err != nil {
			return 0, os.NewSyscallError("setsockopt", err)
		}
	}
	got, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF)
	return got, os.NewSyscallError("getsockopt", err)
}

// A batch is messages for sendmmsg(2) and recvmmsg(2), in buffers of their own.
type batch struct {
	messages []unix.Mmsghdr
	buffers  [][]byte
	controls [][]byte
}

// newBatch makes so many of a size, in the flow's memory.
func (f *flow) newBatch(messages, size, control int) *batch {
	b := &batch{messages: make([]unix.Mmsghdr, messages)}
	vectors := make([]unix.Iovec, messages)
	for i := range b.messages {
		buf := f.buf[i*size:][:size]
		b.buffers = append(b.buffers, buf)
		vectors[i].Base = &buf[0]
		vectors[i].SetLen(size)
		h := &b.messages[i].Hdr
		h.Iov = &vectors[i]
		h.SetIovlen(1)
		if control > 0 {
			c := make([]byte, control)
			b.controls = append(b.controls, c)
			h.Control = &c[0]
		}
	}
	return b
}

// most of a trial's datagrams in one system call, and joint ones, bytes.
const (
	most  = 64
	joint = 4 << 16
)

func sendOne(f *flow) error   { return f.send(f.newBatch(1, f.Size, 0)) }
func sendBatch(f *flow) error { return f.send(f.newBatch(most, f.Size, 0)) }

// sendSegments has the kernel cut datagrams from larger ones, as late as it can (udp(7), UDP_SEGMENT).
func sendSegments(f *flow) error {
	if err := unix.SetsockoptInt(int(f.fd.Load()), unix.IPPROTO_UDP, unix.UDP_SEGMENT, f.Size); err != nil {
		return fmt.Errorf("UDP_SEGMENT: %w", err)
	}
	return f.send(f.newBatch(4, f.Size*min(most, largest/f.Size), 0))
}

func (f *flow) send(b *batch) error {
	fd := int(f.fd.Load())
	for f.last < f.For {
		for _, buf := range b.buffers {
			for ; len(buf) > 0; buf = buf[f.Size:] {
				mark(buf, kindData, f.operations)
				f.operations++
			}
		}
		for todo := b.messages; len(todo) > 0; {
			n, err := call(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&todo[0])), uintptr(len(todo)), 0, 0)
			if err != nil {
				return os.NewSyscallError("sendmmsg", err)
			}
			todo = todo[n:]
		}
		f.last = f.now()
	}
	f.bytes = f.operations * uint64(f.Size)
	return converse(fd, kindGoodbye, f.operations)
}

func receiveOne(f *flow) error { return f.receive(f.newBatch(1, f.Size, 0), 0) }

// receiveBatch naps whenever it has emptied the socket: were it waiting there, the sender would have to wake it up for
// each datagram, which costs more than the datagram does.
func receiveBatch(f *flow) error { return f.receive(f.newBatch(most, f.Size, 0), 50*time.Microsecond) }

// receiveSegments takes datagrams joined as they came (udp(7), UDP_GRO).
func receiveSegments(f *flow) error {
	if err := unix.SetsockoptInt(int(f.fd.Load()), unix.IPPROTO_UDP, unix.UDP_GRO, 1); err != nil {
		return fmt.Errorf("UDP_GRO: %w", err)
	}
	return f.receive(f.newBatch(joint>>16, 1<<16, unix.CmsgSpace(4)), 0)
}

func (f *flow) receive(b *batch, nap time.Duration) error {
	fd := int(f.fd.Load())
	rest := unix.NsecToTimespec(int64(nap))
	var seen sequence
	for {
		for i, c := range b.controls {
			b.messages[i].Hdr.SetControllen(len(c))
		}
		n, err := call(unix.SYS_RECVMMSG, uintptr(fd), uintptr(unsafe.Pointer(&b.messages[0])), uintptr(len(b.messages)), unix.MSG_WAITFORONE, 0)
		if err == unix.ECONNREFUSED { // the peer heard an earlier answer and left
			continue
		}
		if err != nil {
			return os.NewSyscallError("recvmmsg", err)
		}
		if b.messages[0].Len == 0 && f.closing.Load() {
			break
		}
		before := f.operations
		for i := range n {
			joined := b.buffers[i][:b.messages[i].Len]
			for each := b.segment(i); len(joined) > 0; {
				one := joined[:min(each, len(joined))]
				joined = joined[len(one):]
				switch kind, number := marked(one); kind {
				case kindData:
					if f.operations == 0 {
						f.begun()
					}
					f.operations++
					f.bytes += uint64(len(one))
					seen.add(number)
				case kindHello, kindGoodbye:
					if kind == kindGoodbye {
						seen.end(number)
					}
					if err := put(fd, one); err != nil && !errors.Is(err, unix.ECONNREFUSED) {
						return err
					}
				}
			}
		}
		if f.operations > before {
			f.last = f.now()
		}
		if nap > 0 && n < len(b.messages) {
			if _, err := call(unix.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&rest)), 0, 0, 0, 0); err != nil {
				return os.NewSyscallError("nanosleep", err)
			}
		}
	}
	f.lost, f.outOfOrder = seen.lost, seen.late
	return f.drops(fd)
}

// segment is how long each of the datagrams is that message i was joined from.
func (b *batch) segment(i int) int {
	m := &b.messages[i]
	if len(b.controls) == 0 || int(m.Hdr.Controllen) < unix.CmsgLen(4) {
		return int(m.Len)
	}
	c := b.controls[i]
	if h := (*unix.Cmsghdr)(unsafe.Pointer(&c[0])); h.Level != unix.IPPROTO_UDP || h.Type != unix.UDP_GRO {
		return int(m.Len)
	}
	return int(binary.NativeEndian.Uint32(c[unix.CmsgLen(0):]))
}

// drops notes what the kernel could not put into the socket's buffer (sock_diag(7), SK_MEMINFO_DROPS).
func (f *flow) drops(fd int) error {
	var info [9]uint32
	size := uint32(unsafe.Sizeof(info))
	if _, err := call(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_MEMINFO, uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size))); err != nil {
		return os.NewSyscallError("getsockopt", err)
	}
	if size < uint32(unsafe.Sizeof(info)) {
		return errors.New("the kernel does not count drops of sockets")
	}
	f.dropped = min(uint64(info[8]), f.lost) // a goodbye that was dropped was said again
	return nil
}

// A sequence finds out what is missing among consecutive numbers from 0.
type sequence struct{ next, lost, late uint64 }

func (s *sequence) add(n uint64) {
	switch {
	case n >= s.next:
		s.lost += n - s.next
		s.next = n + 1
	case s.lost > 0: // was taken for lost
		s.lost--
		s.late++
	default: // came twice
		s.late++
	}
}

// end says how many there were.
func (s *sequence) end(n uint64) {
	if n > s.next {
		s.lost += n - s.next
		s.next = n
	}
}
