package host

import (
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/modebench/modebench/topology"
	"github.com/modebench/modebench/topology/lab"
)

// A port is carried on while the step says so, to where the last one says, and the process ends with the container.
func TestRelay(t *testing.T) {
	h := machine(t)
	h.homes = map[string]*home{}
	if err := h.walk(func(w *walk) error { return w.loopback(h.spaces["c"]) }); err != nil {
		t.Fatal(err)
	}
	// listen answers every connection with one byte.
	listen := func(says byte) (at netip.AddrPort) {
		if err := h.spaces["c"].Do(func() error {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				return err
			}
			t.Cleanup(func() { _ = l.Close() })
			at = netip.MustParseAddrPort(l.Addr().String())
			go func() {
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					_, _ = c.Write([]byte{says})
					_ = c.Close()
				}
			}()
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		return at
	}
	step := func(to netip.AddrPort) topology.Step {
		return topology.Step{In: "c", Relay: &topology.Relay{Proto: "tcp", Port: 6379, To: to}}
	}
	remove := func(s topology.Step) topology.Step { s.Remove = true; return s }
	apply := func(owner string, s ...topology.Step) error {
		return h.Apply(lab.Apply{Owner: owner, Steps: s}, nil)
	}
	ask := func() string {
		said := ""
		_ = h.spaces["c"].Do(func() error {
			c, err := net.Dial("tcp", "[::1]:6379")
			if err != nil {
				said = "refused"
				return nil
			}
			defer c.Close()
			b := make([]byte, 1)
			n, _ := c.Read(b)
			said = string(b[:n])
			return nil
		})
		return said
	}
	check := func(when, want string) {
		t.Helper()
		if got := ask(); got != want {
			t.Errorf("%s: %q: want %q", when, got, want)
		}
	}
	a, b := listen('a'), listen('b')
	if err := apply("first", step(a)); err != nil {
		t.Fatal(err)
	}
	check("first", "a")
	if err := apply("", step(b)); !errors.Is(err, unix.EEXIST) {
		t.Errorf("a second one of the port: %v", err)
	}
	if err := apply("second", remove(step(a)), step(b)); err != nil {
		t.Fatal(err)
	}
	check("second", "b")
	if err := h.Undo(lab.Undo{Owner: "second"}, nil); err != nil {
		t.Fatal(err)
	}
	check("taken back", "a")
	if err := apply("", topology.Step{In: "c", Relay: &topology.Relay{Proto: "tcp", Port: a.Port(), To: b}}); err == nil || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("a port that is another's: %v", err)
	}
	if err := apply("", topology.Step{Relay: &topology.Relay{Proto: "tcp", Port: 80, To: b}}); err == nil {
		t.Error("a relay of the machine's own")
	}
	if err := apply("hosts", topology.Step{In: "c", Hosts: &topology.Hosts{Text: "127.0.0.1\tlocalhost\n"}}); err != nil {
		t.Fatal(err)
	}
	process := h.homes["c"].relays["tcp 6379"].cmd
	h.vacate("c")
	check("vacated", "refused")
	if process.ProcessState == nil {
		t.Error("the process runs on")
	}
	for _, owner := range []string{"hosts", "first"} {
		if err := h.Undo(lab.Undo{Owner: owner}, nil); err != nil {
			t.Errorf("what is gone is taken back: %v", err)
		}
	}
	h.vacate("c")
}
