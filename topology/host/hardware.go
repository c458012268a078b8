package host

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/modebench/modebench/topology"
	"github.com/modebench/modebench/topology/space"
)

// Hardware is what switches and NICs of a plan do by themselves, where its fabric has them do it: it takes down ports that violate
// what is secured, and keeps the sets of NICs' filters. Drivers whose machines are namespaces have one once cables are laid.
type Hardware struct {
	plan *topology.Plan
	mu   sync.Mutex
	stop map[string][]func() // by the machine at the far end of a tor's port
}

// NewHardware begins it for all machines of a plan.
func NewHardware(p *topology.Plan, spaces map[string]*space.Space) (*Hardware, error) {
	h := &Hardware{plan: p, stop: map[string][]func(){}}
	for i := range p.Machines {
		if err := h.begin(spaces, &p.Machines[i]); err != nil {
			h.Close()
			return nil, err
		}
	}
	return h, nil
}

// Replace begins it anew for a machine with new cables. Only the machine and its tors need be in spaces.
func (h *Hardware) Replace(spaces map[string]*space.Space, m *topology.Machine) error {
	h.end(m.Name)
	return h.begin(spaces, m)
}

// Close ends it.
func (h *Hardware) Close() {
	if h == nil {
		return
	}
	for _, m := range h.plan.Machines {
		h.end(m.Name)
	}
}

func (h *Hardware) end(machine string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, stop := range h.stop[machine] {
		stop()
	}
	delete(h.stop, machine)
}

func (h *Hardware) begin(spaces map[string]*space.Space, m *topology.Machine) error {
	for _, n := range m.NICs {
		if n.Trunk != "" || m.Role == topology.RoleTor {
			continue
		}
		if w := h.plan.Watch(n); w != nil {
			stop, err := guard(spaces[n.Peer.Machine], *w)
			if err != nil {
				return fmt.Errorf("watch %s %s: %w", n.Peer.Machine, n.Peer.Interface, err)
			}
			h.add(m.Name, stop)
		}
		if h.plan.Filters(m) {
			stop, err := filter(spaces[m.Name], spaces[n.Peer.Machine], n, h.plan.Topology.Fabric)
			if err != nil {
				return fmt.Errorf("filter of %s %s: %w", m.Name, n.Name, err)
			}
			h.add(m.Name, stop)
		}
	}
	return nil
}

func (h *Hardware) add(machine string, stop func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.stop[machine] = append(h.stop[machine], stop)
}

// guard takes a port down when a frame comes by it whose source is one more than it may have. What the device is called besides its
// name (its alias) tells why.
func guard(tor *space.Space, watch topology.Watch) (stop func(), err error) {
	var file *os.File
	var nl *netlink.Handle
	var link netlink.Link
	if err := tor.Do(func() (err error) {
		if nl, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
			return err
		}
		if link, err = nl.LinkByName(watch.Port); err != nil {
			return err
		}
		file, err = listen(link)
		return err
	}); err != nil {
		if nl != nil {
			nl.Close()
		}
		return nil, err
	}
	w := &watcher{Watch: watch, nl: nl, link: link, tor: tor}
	if w.tor, err = tor.Again(); err != nil {
		nl.Close()
		return nil, errors.Join(err, file.Close())
	}
	var done sync.WaitGroup
	done.Go(func() { w.watch(file) })
	return func() {
		_ = file.Close() // ends the watch
		done.Wait()
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.recovery != nil {
			w.recovery.Stop()
		}
		w.nl = nil
		nl.Close()
		_ = w.tor.Close()
	}, nil
}

type watcher struct {
	topology.Watch
	link  netlink.Link
	tor   *space.Space
	mu    sync.Mutex
	nl    *netlink.Handle // nil: the watch has ended
	known [][]byte        // besides the machine's own
	// recovery is when the port comes up again; nil: it is up, or does not by itself.
	recovery *time.Timer
}

func (w *watcher) watch(file *os.File) {
	conn, err := file.SyscallConn()
	if err != nil {
		return
	}
	frame, oob := make([]byte, 14), make([]byte, unix.CmsgSpace(16))
	for {
		var n, m int
		var failed error
		if err := conn.Read(func(fd uintptr) bool {
			n, m, _, _, failed = unix.Recvmsg(int(fd), frame, oob, 0)
			return !errors.Is(failed, unix.EAGAIN)
		}); err != nil {
			return
		}
		if errors.Is(failed, unix.ENETDOWN) { // the device is down; its next frame may come
			continue
		}
		if failed != nil {
			return
		}
		if n == 14 {
			w.frame(net.HardwareAddr(bytes.Clone(frame[6:12])), stamp(oob[:m]))
		}
	}
}

func (w *watcher) frame(from net.HardwareAddr, when time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	is := func(known []byte) bool { return bytes.Equal(known, from) }
	switch {
	case w.nl == nil || is(w.Own) || slices.ContainsFunc(w.known, is):
		return
	case len(w.known) < w.More:
		w.known = append(w.known, from)
		return
	}
	if err := w.nl.LinkSetDown(w.link); err != nil {
		return // it is gone
	}
	after := time.Since(when)
	_ = w.nl.LinkSetAlias(w.link, fmt.Sprintf("err-disabled: %s is one more than %d addresses; down after %s", from, w.More+1, after.Round(time.Microsecond)))
	w.known = nil // what was learned goes with the link
	if w.Recovery > 0 && w.recovery == nil {
		w.recovery = time.AfterFunc(w.Recovery, w.recover)
	}
}

// recover brings the port up again.
func (w *watcher) recover() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.recovery = nil
	if w.nl != nil {
		_ = w.nl.LinkSetAlias(w.link, "")
		_ = w.nl.LinkSetUp(w.link) // where it is gone, there is nothing to recover
	}
}

// listen opens what a device of the namespace of the calling thread receives, with the time at which it did.
func listen(link netlink.Link) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: allProtocols, Ifindex: link.Attrs().Index}),
	); err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), link.Attrs().Name), nil
}

// stamp is when a kernel received what it gives.
func stamp(oob []byte) time.Time {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return time.Now()
	}
	for _, m := range messages {
		if m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SCM_TIMESTAMPNS && len(m.Data) >= 16 {
			return time.Unix(int64(binary.NativeEndian.Uint64(m.Data)), int64(binary.NativeEndian.Uint64(m.Data[8:])))
		}
	}
	return time.Now()
}

// resync is how often a NIC's driver is asked what it was given. The kernel tells nobody when a device on another one gives it an
// address (dev_uc_add() of net/core/dev_addr_lists.c).
const resync = 20 * time.Millisecond

// filter keeps the sets of a NIC's filter at its tor, by the unicast addresses that the host's interface was given, in the order in
// which it was.
func filter(host, tor *space.Space, nic topology.Interface, f topology.Fabric) (stop func(), err error) {
	var nl *netlink.Handle
	var link netlink.Link
	if err := host.Do(func() (err error) {
		if nl, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
			return err
		}
		link, err = nl.LinkByName(nic.Name)
		return err
	}); err != nil {
		if nl != nil {
			nl.Close()
		}
		return nil, err
	}
	at, err := tor.Again()
	if err != nil {
		nl.Close()
		return nil, err
	}
	s := &sieve{nl: nl, index: link.Attrs().Index, tor: at, table: "nic-" + nic.Peer.Interface, Fabric: f}
	quit := make(chan struct{})
	var done sync.WaitGroup
	done.Go(func() {
		tick := time.NewTicker(resync)
		defer tick.Stop()
		for {
			_ = s.sync() // the table may not be there yet, or the interface not any more: it is tried again
			select {
			case <-tick.C:
			case <-quit:
				return
			}
		}
	})
	return func() {
		close(quit)
		done.Wait()
		nl.Close()
		_ = at.Close()
	}, nil
}

type sieve struct {
	topology.Fabric
	nl    *netlink.Handle // in the host's namespace
	index int             // of the interface
	tor   *space.Space
	table string
	has   [][]byte // addresses that are let in
	all   bool     // everything is
}

func (s *sieve) sync() error {
	given, err := dump(func() ([]netlink.Neigh, error) { return s.nl.NeighList(s.index, unix.AF_BRIDGE) })
	if err != nil {
		return err
	}
	link, err := s.nl.LinkByIndex(s.index)
	if err != nil {
		return err
	}
	var want [][]byte
	for _, n := range given {
		if n.Flags&netlink.NTF_SELF != 0 && len(n.HardwareAddr) == 6 && n.HardwareAddr[0]&1 == 0 {
			want = append(want, n.HardwareAddr)
		}
	}
	// A veth end has no filter: given an address, the kernel makes it promiscuous, once (__dev_set_rx_mode() of net/core/dev.c).
	// Beyond that, somebody wants everything.
	own := 0
	if len(want) > 0 {
		own = 1
	}
	all := link.Attrs().Promisc > own || len(want) > s.Filters && s.Overflow == "promisc"
	want = want[:min(len(want), s.Filters)]
	if all == s.all && slices.EqualFunc(want, s.has, bytes.Equal) {
		return nil
	}
	without := func(these, those [][]byte) (out []nftables.SetElement) {
		for _, a := range these {
			if !slices.ContainsFunc(those, func(b []byte) bool { return bytes.Equal(a, b) }) {
				out = append(out, nftables.SetElement{Key: a})
			}
		}
		return out
	}
	table := &nftables.Table{Family: nftables.TableFamilyBridge, Name: s.table}
	addresses := &nftables.Set{Table: table, Name: topology.NICAddresses, KeyType: nftables.TypeEtherAddr}
	everything := &nftables.Set{Table: table, Name: topology.NICEverything, KeyType: nftables.TypeEtherAddr, Interval: true}
	if err := s.tor.Do(func() error {
		var errs []error
		err := commit([]change{{"", func(c *nftables.Conn) {
			if gone := without(s.has, want); len(gone) > 0 {
				errs = append(errs, c.SetDeleteElements(addresses, gone))
			}
			if new := without(want, s.has); len(new) > 0 {
				errs = append(errs, c.SetAddElements(addresses, new))
			}
			from := []nftables.SetElement{{Key: make([]byte, 6)}} // without an end
			switch {
			case all && !s.all:
				errs = append(errs, c.SetAddElements(everything, from))
			case s.all && !all:
				errs = append(errs, c.SetDeleteElements(everything, from))
			}
		}}})
		return errors.Join(append(errs, err)...)
	}); err != nil {
		return err
	}
	s.has, s.all = want, all
	return nil
}
