// Package dhcp is a machine's DHCP server, and the clients of its containers (RFC 2131), by insomniacslk's library. It adds what
// that leaves to others: who gets which address, frames for clients that have none yet, and what a client does with its lease.
package dhcp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/modebench/modebench/topology"
	"github.com/modebench/modebench/topology/host/capture"
	"github.com/modebench/modebench/topology/lab"
	"github.com/modebench/modebench/topology/space"
)

// Service has the verbs DHCP.* of one machine. Its methods may be called at the same time.
type Service struct {
	machine string
	find    func(container string) (*space.Space, error)
	end     context.CancelFunc // of all clients
	ctx     context.Context
	clients sync.WaitGroup

	mu     sync.Mutex
	server *server // nil: none
}

// New is the service of the machine called name; find gives the namespace of a container, or the machine's own for "".
func New(machine string, find func(container string) (*space.Space, error)) *Service {
	s := &Service{machine: machine, find: find}
	s.ctx, s.end = context.WithCancel(context.Background())
	return s
}

// Close ends the server and all clients without a word to anybody.
func (s *Service) Close() error {
	s.end()
	s.clients.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.server == nil {
		return nil
	}
	err := s.server.close()
	s.server = nil
	return err
}

// Serve starts the machine's server: EEXIST where there is one already. The undo ends it, and with it all leases are forgotten.
func (s *Service) Serve(c topology.DHCPServer) (undo func() error, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.server != nil {
		return nil, fmt.Errorf("%s: DHCP server exists: %w", s.machine, unix.EEXIST)
	}
	own, err := s.find("")
	if err != nil {
		return nil, err
	}
	var made *server
	if err := own.Do(func() (err error) { made, err = serve(own, c); return err }); err != nil {
		return nil, fmt.Errorf("%s: DHCP server on %s: %w", s.machine, c.Link, err)
	}
	s.server = made
	return func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.server != made {
			return nil
		}
		s.server = nil
		return made.close()
	}, nil
}

// State is the verb DHCP.State.
func (s *Service) State(_ lab.Nothing, reply *lab.DHCPState) error {
	s.mu.Lock()
	server := s.server
	s.mu.Unlock()
	if server != nil {
		*reply = server.state()
	}
	return nil
}

// transmit puts a frame on a device of a namespace.
func transmit(sp *space.Space, link string, p lab.Packet) error {
	return sp.Do(func() (err error) {
		dev, err := net.InterfaceByName(link)
		if err != nil {
			return err
		}
		p.EthSrc = dev.HardwareAddr
		frame, err := capture.Build(p)
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, unix.Close(fd)) }()
		return unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: dev.Index, Halen: 6})
	})
}

// addr is an IPv4 address of the library's; invalid for none.
func addr(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip.To4())
	if !a.IsValid() || a.IsUnspecified() {
		return netip.Addr{}
	}
	return a
}

// seconds is a time as options have it.
func seconds(d time.Duration) time.Duration { return max(d.Truncate(time.Second), time.Second) }

// identifier is the option by which a client is known: of the type 0, which is no hardware's (RFC 2132 section 9.14).
func identifier(id string) []byte { return slices.Concat([]byte{0}, []byte(id)) }
