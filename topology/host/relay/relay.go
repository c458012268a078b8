// Package relay carries a port on to another one: what runs in the namespace of a container that is an ambassador. What comes is taken
// from who sent it, and sent from here as if it were of this container: none of its headers gets further.
package relay

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// idle is for how long a client that sends datagrams keeps a socket of its own when none come and go: as long as with Docker's proxy
	// (moby cmd/docker-proxy/udp_proxy_linux.go, DefaultConnTrackTimeout).
	idle = 90 * time.Second
	// connecting is how long a connection is tried to be made for a client that waits.
	connecting = 30 * time.Second
	// datagram is the longest that there is, bytes (RFC 768).
	datagram = 65535
)

// Relay is a port that is being carried on. Its methods may be called at the same time.
type Relay struct {
	to          netip.AddrPort
	idle        time.Duration
	connections []*net.TCPListener // one a family
	datagrams   []*net.UDPConn
	ended       chan struct{} // closed by Close
	end         func()

	mu    sync.Mutex
	open  map[io.Closer]struct{} // all but listeners
	talks map[talk]*net.UDPConn  // of datagrams: what is sent from for each client
}

// talk is a client that sends datagrams.
type talk struct {
	client netip.AddrPort
	own    string // address that it sends them to, as the kernel tells it and wants it told for answers (ip(7), IP_PKTINFO)
}

// Open binds a port of a protocol (tcp, udp) on all addresses of both families. What comes before Serve waits.
func Open(proto string, port uint16, to netip.AddrPort) (_ *Relay, err error) {
	r := &Relay{to: to, idle: idle, ended: make(chan struct{}), open: map[io.Closer]struct{}{}, talks: map[talk]*net.UDPConn{}}
	r.end = sync.OnceFunc(func() { close(r.ended) })
	defer func() {
		if err != nil {
			r.Close()
		}
	}()
	if port == 0 || !to.IsValid() || to.Port() == 0 || to.Addr().IsUnspecified() {
		return nil, fmt.Errorf("port %d to %s: want a port, and an address with a port", port, to)
	}
	bound := 0
	for _, family := range []string{"4", "6"} {
		at := ":" + strconv.Itoa(int(port))
		switch proto {
		case "tcp":
			var l net.Listener
			if l, err = net.Listen(proto+family, at); err == nil {
				r.connections = append(r.connections, l.(*net.TCPListener))
			}
		case "udp":
			var c *net.UDPConn
			if c, err = listen(proto+family, port); err == nil {
				r.datagrams = append(r.datagrams, c)
			}
		default:
			return nil, fmt.Errorf("protocol %q: want tcp or udp", proto)
		}
		switch {
		case err == nil:
			bound++
		case !errors.Is(err, unix.EAFNOSUPPORT): // a kernel without the family
			return nil, err
		}
	}
	if bound == 0 {
		return nil, err
	}
	return r, nil
}

// listen is a socket for datagrams that tells to which address each came.
func listen(network string, port uint16) (*net.UDPConn, error) {
	c, err := net.ListenUDP(network, &net.UDPAddr{Port: int(port)})
	if err != nil {
		return nil, err
	}
	level, option := unix.IPPROTO_IP, unix.IP_PKTINFO
	if network == "udp6" {
		level, option = unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	var failed error
	err = raw.Control(func(fd uintptr) { failed = unix.SetsockoptInt(int(fd), level, option, 1) })
	if err = errors.Join(err, os.NewSyscallError("setsockopt", failed)); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// Serve carries on until Close, or until a socket fails, which ends it, too.
func (r *Relay) Serve() error {
	var each []func() error
	for _, l := range r.connections {
		each = append(each, func() error { return r.accept(l) })
	}
	for _, c := range r.datagrams {
		each = append(each, func() error { return r.receive(c) })
	}
	errs := make(chan error, len(each))
	for _, f := range each {
		go func() { errs <- f() }()
	}
	err := <-errs
	r.Close()
	for range each[1:] {
		err = errors.Join(err, <-errs)
	}
	return err
}

// Close ends all connections and lets go of the port.
func (r *Relay) Close() {
	r.end()
	for _, l := range r.connections {
		_ = l.Close()
	}
	for _, c := range r.datagrams {
		_ = c.Close()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for c := range r.open {
		_ = c.Close()
	}
}

// keep has Close close c, too; false: it was called.
func (r *Relay) keep(c io.Closer) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	select {
	case <-r.ended:
		return false
	default:
		r.open[c] = struct{}{}
		return true
	}
}

func (r *Relay) drop(c io.Closer) {
	_ = c.Close()
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.open, c)
}

// over tells whether an error comes of Close.
func (r *Relay) over(err error) bool {
	select {
	case <-r.ended:
		return errors.Is(err, net.ErrClosed)
	default:
		return false
	}
}

// accept makes a connection of each that comes.
func (r *Relay) accept(l *net.TCPListener) error {
	for {
		client, err := l.AcceptTCP()
		switch {
		case r.over(err):
			return nil
		case errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) || errors.Is(err, unix.ECONNABORTED):
			// It goes on when others end.
			select {
			case <-time.After(10 * time.Millisecond):
			case <-r.ended:
			}
			continue
		case err != nil:
			return err
		}
		go r.connect(client)
	}
}

func (r *Relay) connect(client *net.TCPConn) {
	defer r.drop(client)
	if !r.keep(client) {
		return
	}
	far, err := (&net.Dialer{Timeout: connecting}).Dial("tcp", r.to.String())
	if err != nil {
		// The client has its connection: that there is nothing behind it can be told by breaking it only.
		broken(client)
		return
	}
	defer r.drop(far)
	if !r.keep(far) {
		return
	}
	join(client, far.(*net.TCPConn))
}

// join copies both ways until both have ended. What ends is ended on the other side (RFC 9293 section 3.6), and what breaks, broken.
func join(a, b *net.TCPConn) {
	var both sync.WaitGroup
	for _, way := range []struct{ from, to *net.TCPConn }{{a, b}, {b, a}} {
		both.Go(func() {
			if _, err := io.Copy(way.to, way.from); err != nil {
				broken(a, b)
				return
			}
			_ = way.to.CloseWrite() // where it is gone already, that is as well
		})
	}
	both.Wait()
}

// broken resets connections.
func broken(cs ...*net.TCPConn) {
	for _, c := range cs {
		_ = c.SetLinger(0)
		_ = c.Close()
	}
}

// receive carries each datagram on, by a socket for each client, and what comes back by that to the client.
func (r *Relay) receive(c *net.UDPConn) error {
	b, oob := make([]byte, datagram), make([]byte, 128)
	for {
		n, on, _, client, err := c.ReadMsgUDPAddrPort(b, oob)
		switch {
		case r.over(err):
			return nil
		case err != nil:
			return err
		}
		// What cannot be sent is lost, as datagrams are: also where no more sockets are to be had.
		if far := r.talk(c, talk{client, string(oob[:on])}); far != nil {
			_ = far.SetReadDeadline(time.Now().Add(r.idle))
			_, _ = far.Write(b[:n])
		}
	}
}

// talk is the socket of a client, made where it has none; nil: none could be made.
func (r *Relay) talk(c *net.UDPConn, of talk) *net.UDPConn {
	r.mu.Lock()
	far := r.talks[of]
	r.mu.Unlock()
	if far != nil {
		return far
	}
	far, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(r.to))
	if err != nil {
		return nil
	}
	if !r.keep(far) {
		_ = far.Close()
		return nil
	}
	r.mu.Lock()
	r.talks[of] = far
	r.mu.Unlock()
	go func() {
		r.reply(c, of, far)
		r.mu.Lock()
		delete(r.talks, of)
		r.mu.Unlock()
		r.drop(far)
	}()
	return far
}

// reply sends a client what comes back for it, until nothing came or went for a while.
func (r *Relay) reply(c *net.UDPConn, to talk, far *net.UDPConn) {
	b := make([]byte, datagram)
	_ = far.SetReadDeadline(time.Now().Add(r.idle))
	for {
		n, err := far.Read(b)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			// That nobody listened there when the last one came: the next may find somebody.
			if errno := syscall.Errno(0); errors.As(err, &errno) {
				continue
			}
			return
		}
		_ = far.SetReadDeadline(time.Now().Add(r.idle))
		_, _, _ = c.WriteMsgUDPAddrPort(b[:n], []byte(to.own), to.client)
	}
}

// Main is a process that carries a port on: args are the protocol, the port, and the address and port that it carries to. It writes a line when the port is
// bound, and ends with its input.
func Main(args []string, in io.Reader, out io.Writer) error {
	if len(args) != 3 {
		return fmt.Errorf("%d arguments: want PROTOCOL PORT ADDRESS:PORT", len(args))
	}
	port, err := strconv.ParseUint(args[1], 10, 16)
	if err != nil {
		return fmt.Errorf("port: %w", err)
	}
	to, err := netip.ParseAddrPort(args[2])
	if err != nil {
		return err
	}
	r, err := Open(args[0], uint16(port), to)
	if err != nil {
		return err
	}
	go func() {
		_, _ = io.Copy(io.Discard, in)
		r.Close()
	}()
	if _, err := fmt.Fprintln(out, "ready"); err != nil {
		return err
	}
	return r.Serve()
}
