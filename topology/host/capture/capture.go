// Package capture records every frame at every device of a machine, in the machine's own namespace and in those of
// its containers, and turns frames into lab.Packet and back. It observes only: what leaves the machine through Build
// is sent by package probe.
package capture

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"github.com/google/gopacket/layers"
	"golang.org/x/sys/unix"

	"github.com/modebench/modebench/topology/lab"
	"github.com/modebench/modebench/topology/space"
)

const (
	kept     = 2048     // bytes of a frame
	ringSize = 16 << 10 // records
	buffer   = 16 << 20 // of a socket, bytes; an ordinary user gets at most net.core.rmem_max
)

// Service has the verbs Capture.* of one machine. Its methods may be called at the same time.
type Service struct {
	machine string
	log     recording

	mu      sync.Mutex
	armed   bool
	watched map[string]*space.Space
	taps    map[string]*tap // of what is watched, once armed
}

// New is the recorder of a machine. It records nothing before Arm.
func New(machine string) *Service {
	return &Service{machine: machine, watched: map[string]*space.Space{}, taps: map[string]*tap{}}
}

// Watch makes a container's namespace ("": the machine's own) part of the recording. The namespace must stay open
// until Forget.
func (s *Service) Watch(container string, sp *space.Space) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.watched[container] != nil {
		return fmt.Errorf("capture %q: watched already", container)
	}
	if s.armed {
		t, err := s.log.tap(container, sp)
		if err != nil {
			return fmt.Errorf("capture %q: %w", container, err)
		}
		s.taps[container] = t
	}
	s.watched[container] = sp
	return nil
}

// Forget ends the recording of a namespace; what was recorded of it stays. One that is not watched is no matter.
func (s *Service) Forget(container string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t := s.taps[container]; t != nil {
		t.drain()
		t.close()
	}
	delete(s.taps, container)
	delete(s.watched, container)
}

// Close ends the recording of all namespaces.
func (s *Service) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.taps {
		t.close()
	}
	clear(s.taps)
	clear(s.watched)
	return nil
}

// Arm is the verb Capture.Arm.
func (s *Service) Arm(lab.Nothing, *lab.Nothing) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for container, sp := range s.watched {
		if s.taps[container] != nil {
			continue
		}
		t, err := s.log.tap(container, sp)
		if err != nil {
			return fmt.Errorf("capture %q: %w", container, err)
		}
		s.taps[container] = t
	}
	if !s.armed && len(s.taps) > 0 {
		if err := awaitStamps(); err != nil {
			return fmt.Errorf("capture: %w", err)
		}
	}
	s.armed = true
	return nil
}

// Mark is the verb Capture.Mark.
func (s *Service) Mark(_ lab.Nothing, reply *lab.Mark) error {
	if err := s.drain(); err != nil {
		return err
	}
	reply.Seq, reply.Now = s.log.end(), time.Now()
	return nil
}

// Since is the verb Capture.Since. Packets come in the order of the kernel's time stamps. It is an error where any
// frame since the mark was lost, by the kernel or by the bounded recording.
func (s *Service) Since(m lab.Mark, reply *[]lab.Packet) error {
	if err := s.drain(); err != nil {
		return err
	}
	records, _, err := s.log.since(m.Seq)
	if err != nil {
		return err
	}
	*reply = s.packets(records)
	return nil
}

// packets are records decoded, in the order of their time stamps.
func (s *Service) packets(records []record) []lab.Packet {
	packets := make([]lab.Packet, len(records))
	for i, r := range records {
		packets[i] = lab.Packet{
			Seq: r.seq, When: r.when, Machine: s.machine, In: r.in, Device: r.device, Outgoing: r.outgoing,
			Length: r.length, Frame: r.frame,
		}
		if r.tagged {
			tag(&packets[i], r.tpid, r.tci)
		}
		decode(&packets[i], r.ethernet, r.etherType, r.unfinished)
	}
	slices.SortStableFunc(packets, func(a, b lab.Packet) int { return a.When.Compare(b.When) })
	return packets
}

// drain takes over what the kernel has queued on all sockets.
func (s *Service) drain() error {
	s.mu.Lock()
	armed, taps := s.armed, slices.Collect(maps.Values(s.taps))
	s.mu.Unlock()
	if !armed {
		return errors.New("capture: not armed")
	}
	for _, t := range taps {
		t.drain()
	}
	return nil
}

// Storms is the verb Capture.Storms.
func (s *Service) Storms(_ lab.Nothing, reply *[]string) error {
	s.log.mu.Lock()
	defer s.log.mu.Unlock()
	*reply = slices.Clone(s.log.storms)
	return nil
}

// record is one frame as it came, or a gap in the recording.
type record struct {
	seq        uint64
	when       time.Time
	in, device string
	outgoing   bool
	ethernet   bool   // the frame begins with an Ethernet header
	etherType  uint16 // as the kernel says
	tagged     bool   // by a tag that the kernel keeps beside the frame
	tci, tpid  uint16
	unfinished bool
	length     int
	frame      []byte
	gap        error // why frames are missing here
}

// recording is a ring of the last records.
type recording struct {
	grown chan struct{} // has a value when there may be more than somebody saw; nil: nobody waits for that

	mu     sync.Mutex
	ring   []record
	next   uint64
	storms []string // and what was done of them
}

func (l *recording) add(r record) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r.seq = l.next
	l.next++
	select {
	case l.grown <- struct{}{}:
	default: // it has one already, or nobody waits
	}
	if len(l.ring) < ringSize {
		l.ring = append(l.ring, r)
		return
	}
	l.ring[r.seq%ringSize] = r
}

func (l *recording) end() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.next
}

// since gives what was added from seq on, without gaps, and what comes next. Its error tells of what is missing.
func (l *recording) since(seq uint64) (records []record, next uint64, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if seq > l.next {
		return nil, l.next, fmt.Errorf("capture: mark %d is not of this recording, which ends at %d", seq, l.next)
	}
	if n := l.next - seq; n > ringSize {
		return nil, l.next, fmt.Errorf("capture: %d frames since the mark, of which the first %d are overwritten", n, n-ringSize)
	}
	records = make([]record, 0, l.next-seq)
	var gaps []error
	for ; seq < l.next; seq++ {
		r := l.ring[seq%ringSize]
		if r.gap != nil {
			gaps = append(gaps, r.gap)
			continue
		}
		records = append(records, r)
	}
	return records, l.next, errors.Join(gaps...)
}

// tap is one socket that receives all frames of a namespace.
type tap struct {
	log  *recording
	in   string
	file *os.File
	conn syscall.RawConn
	done chan struct{}

	mu     sync.Mutex // one reader at a time
	names  map[int]string
	groups map[int]*window // frames for groups, by device
	frame  []byte
	oob    []byte
}

func (l *recording) tap(container string, sp *space.Space) (*tap, error) {
	fd := -1
	err := sp.Do(func() (err error) {
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		return os.NewSyscallError("packet socket", err)
	})
	if err != nil {
		return nil, err
	}
	t := &tap{
		log: l, in: container, file: os.NewFile(uintptr(fd), "packet"), done: make(chan struct{}),
		names: map[int]string{}, groups: map[int]*window{}, frame: make([]byte, kept), oob: make([]byte, 256),
	}
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, buffer) != nil {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, buffer) // what an ordinary user may have
	}
	err = cmp.Or(err,
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1),
		// Bound last, so that each frame comes with what was asked for above.
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: network(unix.ETH_P_ALL)}))
	if err == nil {
		t.conn, err = t.file.SyscallConn()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("packet socket: %w", err), t.file.Close())
	}
	go func() {
		defer close(t.done)
		_ = t.conn.Read(func(fd uintptr) bool { t.read(int(fd)); return false }) // until closed
	}()
	return t, nil
}

func (t *tap) close() {
	_ = t.file.Close() // nothing was written to it
	<-t.done
}

// drain takes over what the kernel has queued. Nothing, where the socket was closed meanwhile.
func (t *tap) drain() { _ = t.conn.Control(func(fd uintptr) { t.read(int(fd)) }) }

func (t *tap) read(fd int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	fresh := map[int]bool{}
	for {
		n, on, _, from, err := unix.Recvmsg(fd, t.frame, t.oob, unix.MSG_TRUNC)
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.EAGAIN:
			if st, err := unix.GetsockoptTpacketStats(fd, unix.SOL_PACKET, unix.PACKET_STATISTICS); err == nil && st.Drops > 0 {
				t.log.add(record{gap: fmt.Errorf("capture %q: the kernel dropped %d frames for want of buffer", t.in, st.Drops)})
			}
			return
		case err != nil:
			t.log.add(record{gap: fmt.Errorf("capture %q: packet socket: %w", t.in, err)})
			return
		}
		ll, ok := from.(*unix.SockaddrLinklayer)
		if !ok {
			continue
		}
		r := record{
			in: t.in, device: t.name(fd, ll.Ifindex, fresh), outgoing: ll.Pkttype == unix.PACKET_OUTGOING,
			ethernet:  ll.Hatype == unix.ARPHRD_ETHER || ll.Hatype == unix.ARPHRD_LOOPBACK,
			etherType: network(ll.Protocol), length: n, frame: slices.Clone(t.frame[:min(n, kept)]),
		}
		r.ancillary(t.oob[:on])
		t.log.add(r)
		if r.ethernet && n > 0 && t.frame[0]&1 == 1 {
			t.calm(fd, ll.Ifindex, r)
		}
	}
}

// name is that of a device now; of one that is gone, the last known.
func (t *tap) name(fd, index int, fresh map[int]bool) string {
	if fresh[index] {
		return t.names[index]
	}
	fresh[index] = true
	var ifr unix.Ifreq
	ifr.SetUint32(uint32(index))
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFNAME, &ifr); err == nil {
		t.names[index] = ifr.Name()
	} else if t.names[index] == "" {
		t.names[index] = fmt.Sprintf("#%d", index)
	}
	return t.names[index]
}

// ancillary reads the time stamp and packet(7)'s PACKET_AUXDATA.
func (r *record) ancillary(oob []byte) {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return // neither is there: a time of zero says so
	}
	for _, m := range msgs {
		switch {
		case m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SCM_TIMESTAMPNS && len(m.Data) >= int(unsafe.Sizeof(unix.Timespec{})):
			ts := *(*unix.Timespec)(unsafe.Pointer(&m.Data[0]))
			r.when = time.Unix(ts.Unix())
		case m.Header.Level == unix.SOL_PACKET && m.Header.Type == unix.PACKET_AUXDATA && len(m.Data) >= int(unsafe.Sizeof(auxdata{})):
			aux := *(*auxdata)(unsafe.Pointer(&m.Data[0]))
			r.unfinished = aux.status&unix.TP_STATUS_CSUMNOTREADY != 0
			if aux.status&unix.TP_STATUS_VLAN_VALID != 0 {
				r.tagged, r.tci, r.tpid = true, aux.vlanTCI, uint16(layers.EthernetTypeDot1Q)
				if aux.status&unix.TP_STATUS_VLAN_TPID_VALID != 0 {
					r.tpid = aux.vlanTPI
				}
			}
		}
	}
}

// auxdata is linux/if_packet.h's struct tpacket_auxdata.
type auxdata struct {
	status, length, snaplen    uint32
	mac, net, vlanTCI, vlanTPI uint16
}

// network changes a 16 bit value between the machine's byte order and the network's.
func network(v uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], v)
	return binary.NativeEndian.Uint16(b[:])
}
