package host

import (
	"bytes"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/modebench/modebench/topology"
)

// TestWire sends frames both ways over a wire, and again when the cable under it was replaced by another.
func TestWire(t *testing.T) {
	here, there := fresh(t), fresh(t)
	lay := func() (end *os.File) {
		t.Helper()
		if err := here.Do(func() error {
			l := netlink.NewLinkAttrs()
			l.Name = "eth0"
			return netlink.LinkAdd(&netlink.Veth{LinkAttrs: l, PeerName: "port", PeerNamespace: netlink.NsFd(there.File().Fd())})
		}); err != nil {
			t.Fatal(err)
		}
		if err := there.Do(func() (err error) { end, _, err = tap("port"); return err }); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = end.Close() })
		return end
	}
	port := lay()
	carriers := make(chan bool, 100)
	w, err := NewWire(here, topology.Interface{Name: "eth0", Peer: topology.Port{Interface: "port"}}, there, func(up bool) { carriers <- up })
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := errors.Join(w.Close(), w.Machine.Close()); err != nil {
			t.Error(err)
		}
	}()
	machine, err := unix.Dup(int(w.Machine.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.SetNonblock(machine, true); err != nil {
		t.Fatal(err)
	}
	ours := os.NewFile(uintptr(machine), "machine")
	defer ours.Close()
	// crosses tells whether a frame gets from one end to the other; while a cable comes up, some are lost.
	crosses := func(from, to *os.File, mark byte) bool {
		frame := append(bytes.Repeat([]byte{0xff}, 12), 0x88, 0xb5, mark)
		late := time.Now().Add(10 * time.Second)
		for got := make([]byte, 2000); time.Now().Before(late); {
			if _, err := from.Write(frame); err != nil && !errors.Is(err, unix.ENETDOWN) {
				t.Fatal(err)
			}
			_ = to.SetReadDeadline(time.Now().Add(20 * time.Millisecond)) // a descriptor that does not block has deadlines
			if n, err := to.Read(got); err == nil && bytes.Equal(got[:n], frame) {
				return true
			}
		}
		return false
	}
	for i, what := range []string{"the first cable", "another cable"} {
		if i > 0 {
			if err := there.Do(func() error {
				l, err := netlink.LinkByName("port")
				if err != nil {
					return err
				}
				return netlink.LinkDel(l)
			}); err != nil {
				t.Fatal(err)
			}
			port = lay()
		}
		if !crosses(port, ours, byte(2*i)) || !crosses(ours, port, byte(2*i+1)) {
			t.Errorf("%s: no frame crosses it", what)
		}
	}
	for up := range carriers {
		if up {
			break // it was told
		}
	}
}
