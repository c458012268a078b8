package host

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/modebench/modebench/topology"
	"github.com/modebench/modebench/topology/space"
)

// Wire carries frames between an end of a cable and a machine that has a descriptor instead of a namespace.
type Wire struct {
	// Machine is the machine's end: a datagram socket, each message of which is one whole frame with its tags and without
	// its check sequence. It is to be closed here once the machine has it.
	Machine *os.File

	ours    *os.File
	cut     chan struct{} // closed with the wire
	cutting sync.Once

	mu  sync.Mutex
	end *os.File
}

// frameMost is the longest frame with a tag, of an MTU of 65535.
const frameMost = 65535 + 14 + 4

// NewWire takes over the machine's end of a cable, which is laid, in the namespace s; far is that of its other end.
// Unlike on a cable between namespaces, what the other end sends is complete: checksums are computed there, and nothing is longer
// than the MTU allows. carrier is told whether the end has a carrier, at first and whenever that changes, by one goroutine.
// When the cable is replaced by another whose end has the same name, the wire goes on with that one.
func NewWire(s *space.Space, nic topology.Interface, far *space.Space, carrier func(up bool)) (_ *Wire, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("wire of %s: %w", nic.Name, err)
		}
	}()
	if err := far.Do(func() error {
		_, err := setOffload(topology.Offload{Link: nic.Peer.Interface, Feature: "tx-checksum"})
		return err
	}); err != nil {
		return nil, err
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	// Ours, so that closing it ends a read; the machine's, which User-mode Linux would else wait at, and stand still. Go's file
	// does not know of the latter, or handing it to a child would take it back.
	err = errors.Join(unix.SetNonblock(pair[0], true), unix.SetNonblock(pair[1], true))
	w := &Wire{Machine: os.NewFile(uintptr(pair[1]), "machine's end of "+nic.Name), ours: os.NewFile(uintptr(pair[0]), "wire of "+nic.Name), cut: make(chan struct{})}
	links := make(chan netlink.LinkUpdate)
	var index int
	err = errors.Join(err, s.Do(func() (err error) {
		if index, err = w.take(nic.Name); err != nil {
			return err
		}
		return netlink.LinkSubscribeWithOptions(links, w.cut, netlink.LinkSubscribeOptions{ListExisting: true})
	}))
	if err != nil {
		return nil, errors.Join(err, w.Machine.Close(), w.Close())
	}
	go func() {
		known, was := false, false
		for l := range links {
			if l.Attrs().Name != nic.Name {
				continue
			}
			if l.Header.Type == unix.RTM_NEWLINK && l.Attrs().Index != index {
				// Where that fails, the wire is as dead as its cable.
				_ = s.Do(func() (err error) { index, err = w.take(nic.Name); return err })
			}
			if is := l.Attrs().RawFlags&unix.IFF_LOWER_UP != 0; !known || is != was {
				known, was = true, is
				carrier(is)
			}
		}
	}()
	go w.outward()
	return w, nil
}

// take goes on with the device of a name of the namespace of the calling thread.
func (w *Wire) take(device string) (index int, err error) {
	end, index, err := tap(device)
	if err != nil {
		return 0, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.end != nil {
		_ = w.end.Close() // its device is gone
	}
	w.end = end
	go w.inward(end)
	return index, nil
}

// Close cuts the wire.
func (w *Wire) Close() error {
	err := errors.Join(w.ours.Close(), w.stop())
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.end != nil {
		err = errors.Join(err, w.end.Close())
	}
	return err
}

// stop ends the watch over the carrier.
func (w *Wire) stop() error {
	w.cutting.Do(func() { close(w.cut) })
	return nil
}

// allProtocols is ETH_P_ALL in the order of the network.
var allProtocols = binary.NativeEndian.Uint16([]byte{unix.ETH_P_ALL >> 8, unix.ETH_P_ALL & 0xff})

// tap opens a device of the namespace of the calling thread: all that it receives, and what is sent by it. Nothing else
// of the namespace says anything there.
func tap(device string) (end *os.File, index int, err error) {
	if _, err := setSysctl("net/ipv6/conf/"+device+"/disable_ipv6", "1"); err != nil {
		return nil, 0, err
	}
	link, err := netlink.LinkByName(device)
	if err != nil {
		return nil, 0, err
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return nil, 0, err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, 0, err
	}
	if err := errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1),
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1), // where the kernel puts a frame's tag (packet(7))
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: allProtocols, Ifindex: link.Attrs().Index}),
	); err != nil {
		return nil, 0, errors.Join(err, unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), "end of "+device), link.Attrs().Index, nil
}

// inward carries frames to the machine, until the wire is cut, or goes on with another end.
func (w *Wire) inward(end *os.File) {
	conn, err := end.SyscallConn()
	if err != nil {
		return // it was closed already
	}
	frame, oob := make([]byte, frameMost), make([]byte, unix.CmsgSpace(20))
	for {
		var n, m int
		if err := conn.Read(func(fd uintptr) bool {
			n, m, _, _, err = unix.Recvmsg(int(fd), frame[:frameMost-4], oob, 0)
			return !errors.Is(err, unix.EAGAIN)
		}); err != nil {
			return
		}
		if err != nil || n < 14 { // the device went down: its next frame may come
			if errors.Is(err, unix.ENETDOWN) || err == nil {
				continue
			}
			return
		}
		whole := frame[:n]
		if tag := tagOf(oob[:m]); tag != nil {
			whole = slices.Insert(whole, 12, tag...)
		}
		if _, err := w.ours.Write(whole); errors.Is(err, os.ErrClosed) {
			return // else the machine is not there, and the frame is lost
		}
	}
}

// tagOf is the tag that a kernel took out of a frame (struct tpacket_auxdata of linux/if_packet.h); nil: it had none.
func tagOf(oob []byte) []byte {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil
	}
	for _, m := range messages {
		if m.Header.Level != unix.SOL_PACKET || m.Header.Type != unix.PACKET_AUXDATA || len(m.Data) < 20 {
			continue
		}
		status := binary.NativeEndian.Uint32(m.Data)
		if status&unix.TP_STATUS_VLAN_VALID == 0 {
			return nil
		}
		tag := binary.BigEndian.AppendUint16(nil, binary.NativeEndian.Uint16(m.Data[18:]))
		return binary.BigEndian.AppendUint16(tag, binary.NativeEndian.Uint16(m.Data[16:]))
	}
	return nil
}

// outward carries frames from the machine, until the wire is cut. What the device does not take, as one longer than its MTU, is
// lost.
func (w *Wire) outward() {
	frame := make([]byte, frameMost)
	for {
		n, err := w.ours.Read(frame)
		if err != nil || n == 0 {
			return
		}
		w.mu.Lock()
		end := w.end
		w.mu.Unlock()
		_, _ = end.Write(frame[:n])
	}
}

// NIC is what a plan says of an interface of a machine that is there already: how it is known, and what becomes of it.
type NIC struct {
	Name string
	MAC  string
	MTU  int // bytes
}

// String is the NIC as an argument of a program.
func (n NIC) String() string { return fmt.Sprintf("%s=%s/%d", n.Name, n.MAC, n.MTU) }

// ReadNIC reads what String wrote.
func ReadNIC(s string) (NIC, error) {
	name, rest, _ := strings.Cut(s, "=")
	mac, mtu, _ := strings.Cut(rest, "/")
	n, err := strconv.Atoi(mtu)
	if name == "" || mac == "" || err != nil {
		return NIC{}, fmt.Errorf("interface %q: want NAME=MAC/MTU", s)
	}
	return NIC{name, mac, n}, nil
}

// NameNICs gives the interfaces of a machine, known by their MAC addresses, the names and MTUs of its plan.
func NameNICs(nics []NIC) error {
	links, err := netlink.LinkList()
	if err != nil {
		return fmt.Errorf("interfaces: %w", err)
	}
	found := map[string]netlink.Link{}
	for _, l := range links {
		for _, n := range nics {
			if l.Attrs().HardwareAddr.String() == n.MAC {
				found[n.Name] = l
				// Out of the way: the kernel may have given its name to another.
				if err := netlink.LinkSetName(l, "nic"+strconv.Itoa(l.Attrs().Index)); err != nil {
					return fmt.Errorf("interface %s: %w", n.Name, err)
				}
			}
		}
	}
	for _, n := range nics {
		l := found[n.Name]
		if l == nil {
			return fmt.Errorf("interface %s: %w with the address %s", n.Name, errNoLink, n.MAC)
		}
		if err := errors.Join(netlink.LinkSetName(l, n.Name), netlink.LinkSetMTU(l, n.MTU)); err != nil {
			return fmt.Errorf("interface %s: %w", n.Name, err)
		}
	}
	return nil
}
