package probe

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/modebench/modebench/topology/lab"
)

// question is an Ask with its address family and what was left out of it settled.
type question struct {
	lab.Ask
	v6   bool
	icmp bool
}

var tokens, echoes atomic.Uint32

func newQuestion(a lab.Ask) (q question, err error) {
	a.To = netip.AddrPortFrom(a.To.Addr().Unmap().WithZone(""), a.To.Port())
	to := a.To.Addr()
	q = question{Ask: a, v6: to.Is6(), icmp: a.Proto == "icmp"}
	q.Wait = cmp.Or(q.Wait, time.Second)
	if q.Token == "" {
		q.Token = fmt.Sprintf("probe%d", tokens.Add(1))
	}
	if q.icmp {
		q.To, q.From = netip.AddrPortFrom(to, 0), netip.AddrPortFrom(q.From.Addr(), 0)
	}
	if from := q.From.Addr(); !from.IsValid() {
		q.From = netip.AddrPortFrom(netip.IPv4Unspecified(), q.From.Port())
		if q.v6 {
			q.From = netip.AddrPortFrom(netip.IPv6Unspecified(), q.From.Port())
		}
	} else {
		q.From = netip.AddrPortFrom(from.Unmap().WithZone(""), q.From.Port())
	}
	switch {
	case !to.IsValid():
		return q, errors.New("no address to ask")
	case q.From.Addr().Is6() != q.v6:
		return q, fmt.Errorf("from %v: not of the family of %v", q.From, to)
	case a.Message != nil && a.Proto != "udp":
		return q, fmt.Errorf("a message of its own by %s: is of udp", a.Proto)
	case a.Proto != "udp" && a.Proto != "tcp" && a.Proto != "icmp":
		return q, fmt.Errorf("protocol %q: want udp, tcp or icmp", a.Proto)
	case len(q.Token) > lab.TokenMax:
		return q, fmt.Errorf("token %q: longer than %d bytes", q.Token, lab.TokenMax)
	case q.Wait < 0 || q.Size < 0 || q.TTL < 0 || q.TTL > 255:
		return q, fmt.Errorf("wait %v, size %d, TTL %d: out of range", q.Wait, q.Size, q.TTL)
	}
	return q, nil
}

// open makes the socket that a question is asked by.
func (q question) open(s *Service) (*socket, error) {
	domain, kind, proto := unix.AF_INET, unix.SOCK_DGRAM, 0
	if q.v6 {
		domain = unix.AF_INET6
	}
	switch {
	case q.Proto == "tcp":
		kind = unix.SOCK_STREAM
	case q.icmp && q.v6:
		kind, proto = unix.SOCK_RAW, unix.IPPROTO_ICMPV6
	case q.icmp:
		kind, proto = unix.SOCK_RAW, unix.IPPROTO_ICMP
	}
	k, err := s.open(q.In, domain, kind, proto)
	if err != nil {
		return nil, err
	}
	if err := q.prepare(k); err != nil {
		k.close()
		return nil, err
	}
	return k, nil
}

func (q question) prepare(k *socket) error {
	err := errors.Join(k.set(recvTTL, 1), k.set(recvInfo, 1))
	if q.TTL > 0 {
		err = errors.Join(err, k.set(hops, q.TTL))
		if q.Proto != "tcp" {
			err = errors.Join(err, k.set(groupHops, q.TTL))
		}
	}
	switch {
	case q.NoFragment:
		err = errors.Join(err, k.set(discover, unix.IP_PMTUDISC_DO))
	case q.Proto != "tcp":
		err = errors.Join(err, k.set(discover, unix.IP_PMTUDISC_DONT))
	}
	if q.Broadcast {
		err = errors.Join(err, named("SO_BROADCAST", unix.SetsockoptInt(k.fd, unix.SOL_SOCKET, unix.SO_BROADCAST, 1)))
	}
	if q.Reuse {
		err = errors.Join(err, named("SO_REUSEADDR", unix.SetsockoptInt(k.fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)))
	}
	if q.icmp { // a busy namespace must not fill the queue with what is no answer
		if q.v6 {
			var f unix.ICMPv6Filter
			for i := range f.Data {
				f.Data[i] = ^uint32(0)
			}
			f.Data[echoReply6/32] &^= 1 << (echoReply6 % 32)
			err = errors.Join(err, named("ICMP6_FILTER", unix.SetsockoptICMPv6Filter(k.fd, unix.IPPROTO_ICMPV6, unix.ICMPV6_FILTER, &f)))
		} else {
			err = errors.Join(err, named("ICMP_FILTER", unix.SetsockoptInt(k.fd, unix.SOL_RAW, icmpFilter, ^(1<<echoReply4))))
		}
	}
	if err != nil {
		return err
	}
	if err := k.attach(q.Device); err != nil {
		return err
	}
	if q.From.Addr().IsUnspecified() && q.From.Port() == 0 {
		return nil
	}
	sa, err := k.sockaddr(q.From, q.Device)
	if err != nil {
		return err
	}
	return refuse("bind", unix.Bind(k.fd, sa))
}

const (
	icmpFilter  = 1 // linux/icmp.h: ICMP_FILTER
	echoReply4  = 0
	echoReply6  = 129
	echoAsking4 = 8
	echoAsking6 = 128
)

// Ask is the verb Probe.Ask. Without NoFragment, a datagram may be fragmented anywhere that its family allows. A TCP
// message is preceded by a connection of its own; RTT covers both. It is an error where a message was refused while the kernel had no
// room for another neighbour of any namespace: then it tells nothing of the network.
func (s *Service) Ask(a lab.Ask, reply *lab.Answer) error {
	*reply = lab.Answer{}
	before, err := s.overflows()
	if err != nil {
		return err
	}
	err = s.ask(a, reply)
	var r refused
	if errors.As(err, &r) && r.from != reply.From.Addr() {
		reply.ICMPFrom = r.from
	}
	if err := refusal(err, &reply.Refusal); err != nil {
		return fmt.Errorf("ask %s %v from %q: %w", a.Proto, a.To, a.In, err)
	}
	if reply.Refusal.Errno == unix.ErrnoName(unix.ENOBUFS) {
		if after, err := s.overflows(); err != nil || after > before {
			return cmp.Or(err, fmt.Errorf("ask %s %v from %q: %s, of all namespaces together: repeat it when less runs here, or raise net.ipv4.neigh.default.gc_thresh3 and net.ipv6.neigh.default.gc_thresh3", a.Proto, a.To, a.In, lab.NeighboursFull))
		}
	}
	return nil
}

// Enough is the verb Probe.Enough.
func (s *Service) Enough(token string, _ *lab.Nothing) error {
	s.mu.Lock()
	defer s.mu.Unlock() // a socket is not closed while its question is among these
	until := s.asking[token]
	if until == nil {
		return nil
	}
	if err := until(time.Unix(1, 0)); err != nil {
		return fmt.Errorf("enough of %q: %w", token, err)
	}
	return nil
}

func (s *Service) ask(a lab.Ask, reply *lab.Answer) error {
	q, err := newQuestion(a)
	if err != nil {
		return err
	}
	k, err := q.open(s)
	if err != nil {
		return err
	}
	defer k.close()
	until := k.file.SetReadDeadline
	if q.Proto == "tcp" {
		until = k.file.SetDeadline // it waits for the connection, too
	}
	s.mu.Lock()
	s.asking[q.Token] = func(t time.Time) error {
		k.enough.Store(true)
		return until(t)
	}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.asking, q.Token)
	}()
	// Errors of ICMP are wanted as they were reported, with their sender.
	if err := k.set(recvErr, 1); err != nil {
		return err
	}
	to, err := k.sockaddr(q.To, q.Device)
	if err != nil {
		return err
	}
	if q.Proto == "tcp" {
		err = q.overConnection(k, to, reply)
	} else {
		err = q.byDatagram(k, to, reply)
	}
	return errors.Join(err, q.path(s, k, reply))
}

// path asks the kernel which way it would take now: the address that it asks from, and the path's MTU. That there is
// no way is not an error here.
func (q question) path(s *Service, k *socket, reply *lab.Answer) error {
	from := k.local()
	if q.icmp {
		from = netip.AddrPortFrom(from.Addr(), 0)
	}
	look := question{Ask: lab.Ask{
		In: q.In, Proto: "udp", To: q.To, From: netip.AddrPortFrom(q.From.Addr(), 0), Device: q.Device, Broadcast: q.Broadcast,
	}, v6: q.v6}
	var r refused
	p, err := look.open(s)
	if errors.As(err, &r) {
		return nil
	}
	if err != nil {
		return err
	}
	defer p.close()
	to, err := p.sockaddr(q.To, q.Device)
	if err != nil || unix.Connect(p.fd, to) != nil {
		return nil
	}
	level, name := p.of4or6(pathMTU)
	if mtu, err := unix.GetsockoptInt(p.fd, level, name); err == nil {
		reply.MTU = mtu
	}
	if !reply.From.IsValid() || reply.From.Addr().IsUnspecified() {
		if from.Addr().IsUnspecified() {
			from = netip.AddrPortFrom(p.local().Addr(), from.Port())
		}
		reply.From = from
	}
	return nil
}

// byDatagram sends one message and waits for its answer.
func (q question) byDatagram(k *socket, to unix.Sockaddr, reply *lab.Answer) error {
	// As a program would, which connects to take answers from whom it asked only; what has many receivers cannot.
	one := !q.Broadcast && !q.To.Addr().IsMulticast()
	if one {
		if err := refuse("connect", unix.Connect(k.fd, to)); err != nil {
			return err
		}
		to = nil
		reply.From = q.own(k)
	}
	data := lab.Payload(q.Token, q.Size)
	if q.Message != nil {
		data = q.Message
	}
	var id uint16
	if q.icmp {
		id = uint16(echoes.Add(1))
		data = echo(q.v6, id, data)
	}
	asked := time.Now()
	if err := k.send(data, nil, to); err != nil {
		return err
	}
	// From here on: on a busy machine, even sending may take as long as is waited for the answer, and who has enough may have
	// it before anything was sent.
	if err := k.wait(k.file.SetReadDeadline, q.Wait); err != nil {
		return err
	}
	buf, oob := make([]byte, 2048), make([]byte, 512)
	var failed error
	err := k.conn.Read(func(uintptr) bool {
		for {
			// The queue of errors first: it says more than the same error in place of a message.
			if m, err := k.receive(buf, oob, unix.MSG_ERRQUEUE); err == nil {
				if m.err != nil && (!q.icmp || len(m.data) < 6 || binary.BigEndian.Uint16(m.data[4:]) == id) {
					failed = *m.err
					return true
				}
				continue
			}
			m, err := k.receive(buf, oob, 0)
			switch {
			case err == unix.EAGAIN:
				return false
			case err != nil:
				if queued, none := k.receive(buf, oob, unix.MSG_ERRQUEUE); none == nil && queued.err != nil {
					failed = *queued.err
				} else {
					failed = refuse("receive", err)
				}
				return true
			}
			if q.answeredBy(m, id, reply) {
				reply.RTT, reply.TTL, reply.Peer = time.Since(asked), m.ttl, addrPort(m.from)
				if q.icmp {
					reply.Peer = netip.AddrPortFrom(reply.Peer.Addr(), 0)
				}
				if !one {
					reply.From = netip.AddrPortFrom(m.local, q.own(k).Port())
				}
				return true
			}
		}
	})
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil
	}
	return errors.Join(err, failed)
}

func (q question) own(k *socket) netip.AddrPort {
	own := k.local()
	if q.icmp { // a raw socket has its protocol there
		own = netip.AddrPortFrom(own.Addr(), 0)
	}
	return own
}

// answeredBy tells the answer of this question from whatever else comes.
func (q question) answeredBy(m message, id uint16, reply *lab.Answer) bool {
	if q.Message != nil {
		reply.Answered, reply.Message = true, bytes.Clone(m.data)
		return true
	}
	if !q.icmp {
		seen, ok := parseAnswer(m.data)
		if !ok || seen.Token != q.Token {
			return false
		}
		reply.Answered, reply.Seen = true, seen
		return true
	}
	b, kind := m.data, byte(echoReply4)
	if q.v6 {
		kind = echoReply6
	} else if len(b) > 0 { // a raw IPv4 socket gets the header, too: raw(7)
		b = b[min(len(b), int(b[0]&0xf)*4):]
	}
	token := ""
	if len(b) >= 8 {
		token, _ = lab.Token(b[8:])
	}
	if token != q.Token || b[0] != kind || binary.BigEndian.Uint16(b[4:]) != id {
		return false
	}
	reply.Answered = true
	return true
}

// echo is an echo request. The kernel computes the checksum of ICMPv6 (RFC 3542, section 3.1), but not that of ICMP.
func echo(v6 bool, id uint16, data []byte) []byte {
	b := []byte{echoAsking4, 0, 0, 0, byte(id >> 8), byte(id), 0, 1}
	if v6 {
		b[0] = echoAsking6
		return append(b, data...)
	}
	b = append(b, data...)
	var sum uint32 // RFC 1071
	for i, c := range b {
		sum += uint32(c) << (8 * (1 - i%2))
	}
	for sum>>16 != 0 {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(b[2:], ^uint16(sum))
	return b
}

// overConnection connects, sends one message and waits for its answer.
func (q question) overConnection(k *socket, to unix.Sockaddr, reply *lab.Answer) error {
	asked := time.Now()
	if err := k.wait(k.file.SetDeadline, q.Wait); err != nil {
		return err
	}
	err := q.converse(k, to, reply)
	reply.From = k.local()
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil
	}
	if reply.Answered {
		reply.RTT = time.Since(asked)
	}
	var r refused
	if errors.As(err, &r) {
		// Who sent the ICMP error that ended the connection stands in the queue of errors.
		if m, none := k.receive(nil, make([]byte, 512), unix.MSG_ERRQUEUE); none == nil && m.err != nil && m.err.errno == r.errno {
			return *m.err
		}
	}
	return err
}

func (q question) converse(k *socket, to unix.Sockaddr, reply *lab.Answer) error {
	var failed error
	begun := false
	err := k.conn.Write(func(uintptr) bool {
		if !begun {
			begun = true
			failed = unix.Connect(k.fd, to)
			return failed != unix.EINPROGRESS
		}
		code, err := unix.GetsockoptInt(k.fd, unix.SOL_SOCKET, unix.SO_ERROR)
		if failed = err; err == nil && code != 0 {
			failed = unix.Errno(code)
		}
		if failed != nil {
			return true
		}
		_, err = unix.Getpeername(k.fd)
		return err == nil // else woken, but not connected yet
	})
	if err := errors.Join(err, refuse("connect", failed)); err != nil {
		return err
	}
	reply.Peer = q.To
	data := binary.BigEndian.AppendUint32(nil, 0)
	data = append(data, lab.Payload(q.Token, q.Size-len(data))...)
	binary.BigEndian.PutUint32(data, uint32(len(data)))
	if _, err := k.file.Write(data); err != nil {
		return refuse("send", err)
	}
	b, err := io.ReadAll(io.LimitReader(k.file, 4096))
	if err != nil {
		return refuse("receive", err)
	}
	if seen, ok := parseAnswer(b); ok && seen.Token == q.Token {
		reply.Answered, reply.Seen = true, seen
	}
	return nil
}
