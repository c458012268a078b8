// Package probe asks and answers from within namespaces, with plain sockets: what a program in a container would see.
// It judges nothing.
package probe

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/modebench/modebench/topology/host/capture"
	"github.com/modebench/modebench/topology/lab"
	"github.com/modebench/modebench/topology/space"
)

// Service has the verbs Probe.* of one machine. Its methods may be called at the same time.
type Service struct {
	find      func(container string) (*space.Space, error)
	overflows func() (uint64, error) // of the kernel's tables of neighbours, so far

	mu      sync.Mutex
	closed  bool
	last    uint64
	running map[uint64]runner
	sockets map[*socket]struct{}
	asking  map[string]func(time.Time) error // sets until when the answer is waited for, by token
	wait    sync.WaitGroup                   // of the goroutines that belong to running
}

// runner is what goes on until it is stopped: a listener or a flow.
type runner interface{ stop() lab.Tally }

// New is the prober of a machine; find gives the namespace of a container, or the machine's own for "".
func New(find func(container string) (*space.Space, error)) *Service {
	return &Service{find: find, overflows: neighbourOverflows, running: map[uint64]runner{}, sockets: map[*socket]struct{}{}, asking: map[string]func(time.Time) error{}}
}

// Close ends all that runs and waits for it; questions that wait for an answer get an error.
func (s *Service) Close() error {
	s.mu.Lock()
	s.closed = true
	for k := range s.sockets {
		_ = k.file.Close() // whoever uses it notices
	}
	clear(s.running)
	s.mu.Unlock()
	s.wait.Wait()
	return nil
}

// Forget closes what is open in a container's namespace, which sockets would keep alive. Listeners and flows there see
// and ask no more; Seen and Stop still tell of them.
func (s *Service) Forget(container string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k := range s.sockets {
		if k.in == container {
			_ = k.file.Close() // whoever uses it notices, and drops it
		}
	}
}

// open makes a socket in a container's namespace.
func (s *Service) open(container string, domain, kind, proto int) (*socket, error) {
	sp, err := s.find(container)
	if err != nil {
		return nil, err
	}
	fd := -1
	err = sp.Do(func() (err error) {
		fd, err = unix.Socket(domain, kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, proto)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	return s.keep(container, fd, domain == unix.AF_INET6)
}

// keep takes a nonblocking socket into care: it is closed by its close, or by Close.
func (s *Service) keep(container string, fd int, v6 bool) (*socket, error) {
	k, err := newSocket(s, container, fd, v6)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, errors.Join(net.ErrClosed, k.file.Close())
	}
	s.sockets[k] = struct{}{}
	return k, nil
}

func (s *Service) drop(k *socket) {
	s.mu.Lock()
	delete(s.sockets, k)
	s.mu.Unlock()
	_ = k.file.Close() // what was to be sent is sent; nothing else can be lost
}

// start gives a runner its handle, and lets its goroutines run.
func (s *Service) start(r runner, goroutines ...func()) (lab.Handle, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return lab.Handle{}, net.ErrClosed
	}
	s.last++
	s.running[s.last] = r
	for _, f := range goroutines {
		s.wait.Go(f)
	}
	return lab.Handle{ID: s.last}, nil
}

func (s *Service) runner(h lab.Handle) (runner, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.running[h.ID]
	if r == nil {
		return nil, fmt.Errorf("probe %d: nothing of this number runs", h.ID)
	}
	return r, nil
}

// Stop is the verb Probe.Stop. Of a listener, the tally has what it received (Sent) and answered.
func (s *Service) Stop(h lab.Handle, reply *lab.Tally) error {
	r, err := s.runner(h)
	if err != nil {
		return err
	}
	s.mu.Lock()
	delete(s.running, h.ID)
	s.mu.Unlock()
	*reply = r.stop()
	return nil
}

// Send is the verb Probe.Send. A frame without a source address gets the device's.
func (s *Service) Send(a lab.Send, _ *lab.Nothing) error {
	if err := s.send(a); err != nil {
		return fmt.Errorf("send by %q: %w", a.Device, err)
	}
	return nil
}

func (s *Service) send(a lab.Send) error {
	sp, err := s.find(a.In)
	if err != nil {
		return err
	}
	var dev *net.Interface
	if err := sp.Do(func() (err error) { dev, err = net.InterfaceByName(a.Device); return err }); err != nil {
		return err
	}
	if a.Packet.EthSrc == nil {
		a.Packet.EthSrc = dev.HardwareAddr
	}
	frame, err := capture.Build(a.Packet)
	if err != nil {
		return err
	}
	k, err := s.open(a.In, unix.AF_PACKET, unix.SOCK_RAW, 0)
	if err != nil {
		return err
	}
	defer s.drop(k)
	to := &unix.SockaddrLinklayer{Ifindex: dev.Index, Halen: 6, Protocol: uint16(frame[13])<<8 | uint16(frame[12])}
	copy(to.Addr[:], frame[:6])
	if err := k.file.SetWriteDeadline(time.Now().Add(time.Second)); err != nil {
		return err
	}
	return k.send(frame, nil, to)
}
