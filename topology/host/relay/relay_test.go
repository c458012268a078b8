package relay

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/modebench/modebench/topology/space"
)

// TestMain runs the tests in an empty network namespace whose loopback is up.
func TestMain(m *testing.M) {
	os.Exit(space.Rerun(func() int {
		lo, err := netlink.LinkByName("lo")
		if err == nil {
			err = netlink.LinkSetUp(lo)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return m.Run()
	}, os.Args[1:], os.Getenv))
}

const port = 6379

// carrying has a port carried on to an address.
func carrying(t *testing.T, proto string, to net.Addr) *Relay {
	t.Helper()
	r, err := Open(proto, port, netip.MustParseAddrPort(to.String()))
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- r.Serve() }()
	t.Cleanup(func() {
		r.Close()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return r
}

func server(t *testing.T, serve func(*net.TCPConn)) net.Addr {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go serve(c.(*net.TCPConn))
		}
	}()
	return l.Addr()
}

func call(t *testing.T, host string) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", net.JoinHostPort(host, fmt.Sprint(port)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c.(*net.TCPConn)
}

// Both families, many at a time, each with more than any buffer holds, and answers after the client has said that it ends.
func TestConnections(t *testing.T) {
	r := carrying(t, "tcp", server(t, func(c *net.TCPConn) {
		defer c.Close()
		all, err := io.ReadAll(c)
		if err == nil {
			_, _ = c.Write(append([]byte("all of "), all...))
		}
	}))
	var each sync.WaitGroup
	for i := range 40 {
		host := []string{"127.0.0.1", "::1"}[i%2]
		c := call(t, host)
		each.Go(func() {
			said := bytes.Repeat([]byte{byte(i)}, 8<<20/40*(i%4+1))
			go func() {
				_, _ = c.Write(said)
				_ = c.CloseWrite()
			}()
			got, err := io.ReadAll(c)
			if err != nil || !bytes.Equal(got, append([]byte("all of "), said...)) {
				t.Errorf("%s: %d bytes came back of %d: %v", host, len(got), len(said), err)
			}
		})
	}
	each.Wait()
	for _, c := range []string{"127.0.0.1", "::1"} { // what has ended is let go of
		_ = call(t, c).Close()
	}
	late, look := time.After(20*time.Second), time.NewTicker(time.Millisecond)
	defer look.Stop()
	for {
		r.mu.Lock()
		n := len(r.open)
		r.mu.Unlock()
		if n == 0 {
			return
		}
		select {
		case <-late:
			t.Fatalf("%d are still open", n)
		case <-look.C:
		}
	}
}

// A connection that breaks, or behind which there is nobody, does not end as if all had been said.
func TestBrokenConnections(t *testing.T) {
	r := carrying(t, "tcp", server(t, func(c *net.TCPConn) {
		_, _ = c.Read(make([]byte, 1))
		broken(c)
	}))
	c := call(t, "127.0.0.1")
	if _, err := c.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if n, err := c.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("the server broke it: %d, %v", n, err)
	}
	r.Close()
	if _, err := net.Dial("tcp", c.RemoteAddr().String()); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("after its end: %v", err)
	}
}

func TestNobodyThere(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0") // a port that nobody has after this
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	carrying(t, "tcp", l.Addr())
	c, err := net.Dial("tcp", net.JoinHostPort("::1", fmt.Sprint(port)))
	if err == nil {
		defer c.Close()
		_, err = c.Read(make([]byte, 1))
	}
	if !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("nobody listens there: %v", err)
	}
}

// echo answers each datagram with who sent it and what was in it.
func echo(t *testing.T) net.Addr {
	t.Helper()
	s, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	go func() {
		b := make([]byte, datagram)
		for {
			n, from, err := s.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = s.WriteTo(append([]byte(from.String()+" "), b[:n]...), from)
		}
	}()
	return s.LocalAddr()
}

func ask(t *testing.T, c *net.UDPConn, what string) (source, said string) {
	t.Helper()
	if _, err := c.Write([]byte(what)); err != nil {
		t.Fatal(err)
	}
	_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
	b := make([]byte, datagram)
	n, err := c.Read(b)
	if err != nil {
		t.Fatal(err)
	}
	source, said, _ = strings.Cut(string(b[:n]), " ")
	return source, said
}

// Each client has a socket of its own, which it keeps, and is answered from the address that it asked.
func TestDatagrams(t *testing.T) {
	carrying(t, "udp", echo(t))
	sources := map[string]bool{}
	for i, host := range []string{"127.0.0.1", "127.0.0.1", "127.0.0.2", "::1"} { // connected: they hear no other address
		c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(host), port)))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		source, said := ask(t, c, fmt.Sprint("question ", i))
		if said != fmt.Sprint("question ", i) || sources[source] || source == c.LocalAddr().String() {
			t.Errorf("%s: %q came back, sent from %s, of %v", host, said, source, sources)
		}
		sources[source] = true
		if again, said := ask(t, c, strings.Repeat("long ", 10000)); again != source || len(said) != 50000 {
			t.Errorf("%s: again from %s, %d bytes: want %s", host, again, len(said), source)
		}
	}
}

// One that is silent for long loses its socket, and gets another.
func TestDatagramsAreForgotten(t *testing.T) {
	r, err := Open("udp", port, netip.MustParseAddrPort(echo(t).String()))
	if err != nil {
		t.Fatal(err)
	}
	r.idle = 20 * time.Millisecond
	served := make(chan error, 1)
	go func() { served <- r.Serve() }()
	c, err := net.DialUDP("udp", nil, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ask(t, c, "x")
	late, look := time.After(20*time.Second), time.NewTicker(time.Millisecond)
	defer look.Stop()
	for n := 1; n > 0; {
		r.mu.Lock()
		n = len(r.talks) + len(r.open)
		r.mu.Unlock()
		select {
		case <-late:
			t.Fatalf("%d are still open", n)
		case <-look.C:
		}
	}
	if _, said := ask(t, c, "y"); said != "y" {
		t.Errorf("after that: %q", said)
	}
	r.Close()
	if err := <-served; err != nil {
		t.Error(err)
	}
}

func TestRefusals(t *testing.T) {
	to := netip.MustParseAddrPort("127.0.0.1:80")
	for name, of := range map[string]struct {
		proto string
		port  uint16
		to    netip.AddrPort
	}{
		"protocol": {"sctp", port, to}, "port": {"tcp", 0, to}, "no address": {"udp", port, netip.AddrPort{}},
		"no port there": {"udp", port, netip.MustParseAddrPort("127.0.0.1:0")}, "any address": {"tcp", port, netip.MustParseAddrPort("[::]:80")},
	} {
		if r, err := Open(of.proto, of.port, of.to); err == nil {
			r.Close()
			t.Errorf("%s: no error", name)
		}
	}
	for _, proto := range []string{"tcp", "udp"} {
		r, err := Open(proto, port, to)
		if err != nil {
			t.Fatal(err)
		}
		if second, err := Open(proto, port, to); !errors.Is(err, unix.EADDRINUSE) {
			second.Close()
			t.Errorf("%s: a second one at the port: %v", proto, err)
		}
		r.Close()
	}
}

// The process says that it is ready, and ends with its input.
func TestMainEndsWithItsInput(t *testing.T) {
	to := echo(t)
	in, hold := io.Pipe()
	heard, out := io.Pipe()
	ended := make(chan error, 1)
	go func() { ended <- Main([]string{"udp", fmt.Sprint(port), to.String()}, in, out) }()
	line := make([]byte, 6)
	if _, err := io.ReadFull(heard, line); err != nil || string(line) != "ready\n" {
		t.Fatalf("%q, %v", line, err)
	}
	c, err := net.DialUDP("udp", nil, &net.UDPAddr{IP: net.IPv6loopback, Port: port})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, said := ask(t, c, "x"); said != "x" {
		t.Errorf("%q", said)
	}
	_ = hold.Close()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	for _, args := range [][]string{nil, {"tcp", "x", "127.0.0.1:80"}, {"tcp", "80", "127.0.0.1"}, {"tcp", "70000", "127.0.0.1:80"}} {
		if err := Main(args, in, out); err == nil {
			t.Errorf("%q: no error", args)
		}
	}
}
