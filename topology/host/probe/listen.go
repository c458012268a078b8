package probe

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/modebench/modebench/topology/lab"
)

const (
	seenMax   = 1 << 16          // messages that a listener remembers
	beginning = 256              // bytes of a message, in which its token is
	waiting   = 4 << 20          // bytes of memory for datagrams that wait to be answered
	patience  = 10 * time.Second // for the rest of a message on a connection
)

// listener is an open socket that answers each message with what it saw of it.
type listener struct {
	*socket
	asked  lab.Listen // with the port that it got
	silent bool
	done   chan struct{}

	mu    sync.Mutex
	seen  []lab.Seen
	tally lab.Tally
	conns map[*socket]struct{} // accepted, and not closed yet
}

// Listen is the verb Probe.Listen. A Device binds the listener to it.
func (s *Service) Listen(a lab.Listen, reply *lab.Listening) error {
	h, port, err := s.listen(a)
	*reply = lab.Listening{Handle: h, Port: port}
	if err := refusal(err, &reply.Refusal); err != nil {
		return fmt.Errorf("listen %s %v in %q: %w", a.Proto, a.Addr, a.In, err)
	}
	return nil
}

func (s *Service) listen(a lab.Listen) (h lab.Handle, port uint16, err error) {
	l, serve, err := s.listener(a)
	if err != nil {
		return h, 0, err
	}
	if h, err = s.start(l, func() { defer close(l.done); serve() }); err != nil {
		l.close()
	}
	return h, l.asked.Addr.Port(), err
}

// Again has what listened in a container's namespace, before that was forgotten, listen in the one that it has now, and remember what it has seen.
func (s *Service) Again(container string) error {
	s.mu.Lock()
	old := map[uint64]*listener{}
	for id, r := range s.running {
		if l, ok := r.(*listener); ok && l.in == container {
			old[id] = l
		}
	}
	s.mu.Unlock()
	for id, was := range old {
		was.stop()
		l, serve, err := s.listener(was.asked)
		if err != nil {
			return fmt.Errorf("listen %s %v in %q again: %w", was.asked.Proto, was.asked.Addr, container, err)
		}
		l.seen, l.tally = was.seen, was.tally
		s.mu.Lock()
		s.running[id] = l
		s.wait.Go(func() { defer close(l.done); serve() })
		s.mu.Unlock()
	}
	return nil
}

// listener is one whose socket is open, and what serves it until that is closed.
func (s *Service) listener(a lab.Listen) (l *listener, serve func(), err error) {
	addr := a.Addr.Addr().Unmap()
	if !addr.IsValid() {
		return nil, nil, errors.New("no address, which tells the family")
	}
	domain, kind := unix.AF_INET, unix.SOCK_DGRAM
	if addr.Is6() {
		domain = unix.AF_INET6
	}
	switch a.Proto {
	case "udp":
	case "tcp":
		kind = unix.SOCK_STREAM
	default:
		return nil, nil, fmt.Errorf("protocol %q: want udp or tcp", a.Proto)
	}
	if a.Group.IsValid() && (a.Proto != "udp" || a.Group.Is6() != addr.Is6()) {
		return nil, nil, fmt.Errorf("group %v: wants udp and an address of its family", a.Group)
	}
	k, err := s.open(a.In, domain, kind, 0)
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			k.close()
		}
	}()
	if err := k.prepareListener(a); err != nil {
		return nil, nil, err
	}
	sa, err := k.sockaddr(netip.AddrPortFrom(addr, a.Addr.Port()), a.Device)
	if err != nil {
		return nil, nil, err
	}
	if err := refuse("bind", unix.Bind(k.fd, sa)); err != nil {
		return nil, nil, err
	}
	l = &listener{socket: k, asked: a, silent: a.Silent, done: make(chan struct{}), conns: map[*socket]struct{}{}}
	serve = l.datagrams
	if a.Proto == "tcp" {
		if err := refuse("listen", unix.Listen(k.fd, 1024)); err != nil {
			return nil, nil, err
		}
		serve = l.connections
	}
	l.asked.Addr = netip.AddrPortFrom(a.Addr.Addr(), k.local().Port())
	return l, serve, nil
}

func (k *socket) prepareListener(a lab.Listen) error {
	if err := k.attach(a.Device); err != nil {
		return err
	}
	err := errors.Join(k.set(recvTTL, 1), k.set(recvInfo, 1))
	if k.v6 {
		err = errors.Join(err, named("IPV6_V6ONLY", unix.SetsockoptInt(k.fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1)))
	}
	if a.ReusePort {
		err = errors.Join(err, named("SO_REUSEPORT", unix.SetsockoptInt(k.fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)))
	}
	if a.Proto == "tcp" {
		// Connections that wait out their time do not keep a port; another listener still does.
		return errors.Join(err, named("SO_REUSEADDR", unix.SetsockoptInt(k.fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)))
	}
	// A flow must not crowd out the question that comes after it, on a machine too busy to answer at once. Who may not pass
	// net.core.rmem_max has that (socket(7)).
	if unix.SetsockoptInt(k.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, waiting) != nil {
		err = errors.Join(err, named("SO_RCVBUF", unix.SetsockoptInt(k.fd, unix.SOL_SOCKET, unix.SO_RCVBUF, waiting)))
	}
	// Only groups that this socket joined count, not those of others in the namespace; an answer may be fragmented.
	err = errors.Join(err, k.set(groupAll, 0), k.set(discover, unix.IP_PMTUDISC_DONT))
	if err != nil || !a.Group.IsValid() {
		return err
	}
	index := 0
	if a.Device != "" {
		if index, err = k.index(a.Device); err != nil {
			return err
		}
	}
	if k.v6 {
		return refuse("join", unix.SetsockoptIPv6Mreq(k.fd, unix.IPPROTO_IPV6, unix.IPV6_JOIN_GROUP,
			&unix.IPv6Mreq{Multiaddr: a.Group.As16(), Interface: uint32(index)}))
	}
	return refuse("join", unix.SetsockoptIPMreqn(k.fd, unix.IPPROTO_IP, unix.IP_ADD_MEMBERSHIP,
		&unix.IPMreqn{Multiaddr: a.Group.As4(), Ifindex: int32(index)}))
}

func named(option string, err error) error {
	if err != nil {
		return fmt.Errorf("%s: %w", option, err)
	}
	return nil
}

// Seen is the verb Probe.Seen. It is an error where more came than a listener remembers.
func (s *Service) Seen(h lab.Handle, reply *[]lab.Seen) error {
	r, err := s.runner(h)
	if err != nil {
		return err
	}
	l, ok := r.(*listener)
	if !ok {
		return fmt.Errorf("probe %d: not a listener", h.ID)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.tally.Sent > len(l.seen) {
		return fmt.Errorf("probe %d: %d messages came, of which the first %d are remembered", h.ID, l.tally.Sent, len(l.seen))
	}
	*reply = slices.Clone(l.seen)
	return nil
}

// stop ends the listener and its connections.
func (l *listener) stop() lab.Tally {
	l.close()
	<-l.done
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.tally
}

func (l *listener) record(m lab.Seen) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tally.Sent++
	if len(l.seen) < seenMax {
		l.seen = append(l.seen, m)
	}
}

func (l *listener) answered() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tally.Answered++
}

// answer is the message that tells what was seen of one: the same token, then lab.Seen as JSON. With less than 300
// bytes it fits any path.
func answer(m lab.Seen) []byte {
	b, err := json.Marshal(m)
	if err != nil { // a Seen is made of plain values
		panic(err)
	}
	return append(lab.Payload(m.Token, 0), b...)
}

// parseAnswer reads such a message.
func parseAnswer(b []byte) (m lab.Seen, ok bool) {
	token, rest := lab.Token(b)
	if json.Unmarshal(rest, &m) != nil || m.Token != token {
		return lab.Seen{}, false
	}
	return m, true
}

func (l *listener) datagrams() {
	buf, oob := make([]byte, beginning), make([]byte, 256)
	_ = l.conn.Read(func(uintptr) bool { // until closed
		for {
			m, err := l.receive(buf, oob, 0)
			if err == unix.EAGAIN {
				return false
			}
			if err != nil {
				continue // the error of an earlier answer: it concerns no message to come
			}
			token, _ := lab.Token(m.data)
			seen := lab.Seen{
				Token: token, Source: addrPort(m.from), Dest: m.dest, Device: l.name(m.device), TTL: m.ttl, Size: m.size,
				When: time.Now(),
			}
			l.record(seen)
			if l.silent {
				continue
			}
			// Not repeated where the queue is full: then it is lost like any datagram.
			if _, err := unix.SendmsgN(l.fd, answer(seen), l.answerFrom(m.local), m.from, 0); err == nil {
				l.answered()
			}
		}
	})
}

func (l *listener) connections() {
	var serving sync.WaitGroup
	_ = l.conn.Read(func(uintptr) bool { // until closed
		for {
			fd, from, err := unix.Accept4(l.fd, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
			if err == unix.EAGAIN {
				return false
			}
			if err == unix.EMFILE || err == unix.ENFILE {
				return false // tried again when the next one comes
			}
			if err != nil {
				continue // that connection is gone already: accept(2)
			}
			k, err := l.of.keep(l.in, fd, l.v6)
			if err != nil {
				return true // closed meanwhile
			}
			l.mu.Lock()
			l.conns[k] = struct{}{}
			l.mu.Unlock()
			serving.Go(func() { l.connection(k, addrPort(from)) })
		}
	})
	l.mu.Lock()
	for k := range l.conns {
		k.close()
	}
	l.mu.Unlock()
	serving.Wait()
}

// connection takes one message, which begins with its length, and answers it.
func (l *listener) connection(k *socket, from netip.AddrPort) {
	defer func() {
		l.mu.Lock()
		delete(l.conns, k)
		l.mu.Unlock()
		k.close()
	}()
	opened := k.arrival()
	if err := k.file.SetDeadline(time.Now().Add(patience)); err != nil {
		return
	}
	head := make([]byte, 4)
	if _, err := io.ReadFull(k.file, head); err != nil {
		return
	}
	size := int64(binary.BigEndian.Uint32(head))
	data := make([]byte, min(max(size-4, 0), beginning))
	if _, err := io.ReadFull(k.file, data); err != nil {
		return
	}
	if _, err := io.CopyN(io.Discard, k.file, max(size-4-beginning, 0)); err != nil {
		return
	}
	token, _ := lab.Token(data)
	seen := lab.Seen{
		Token: token, Source: from, Dest: k.local().Addr(), Device: k.name(opened.device), TTL: opened.ttl,
		Size: int(size), When: time.Now(),
	}
	l.record(seen)
	if l.silent {
		return
	}
	if _, err := k.file.Write(answer(seen)); err == nil {
		l.answered()
	}
}
