// Package dhcp is a machine's DHCP servers, and the clients of its containers (RFC 2131, RFC 8415), by insomniacslk's library. It adds what
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

	mu      sync.Mutex
	servers map[bool]serving // by whether they give out addresses of IPv6
}

// serving answers clients until it is closed.
type serving interface {
	state() lab.DHCPState
	close() error
}

// New is the service of the machine called name; find gives the namespace of a container, or the machine's own for "".
func New(machine string, find func(container string) (*space.Space, error)) *Service {
	s := &Service{machine: machine, find: find, servers: map[bool]serving{}}
	s.ctx, s.end = context.WithCancel(context.Background())
	return s
}

// Close ends the servers and all clients without a word to anybody.
func (s *Service) Close() error {
	s.end()
	s.clients.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, made := range s.servers {
		errs = append(errs, made.close())
	}
	clear(s.servers)
	return errors.Join(errs...)
}

// Serve starts the machine's server of a family: EEXIST where there is one already. The undo ends it, and with it all its leases are forgotten.
func (s *Service) Serve(c topology.DHCPServer) (undo func() error, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	six := c.Range.Subnet.Addr().Is6()
	if s.servers[six] != nil {
		return nil, fmt.Errorf("%s: DHCP server exists: %w", s.machine, unix.EEXIST)
	}
	own, err := s.find("")
	if err != nil {
		return nil, err
	}
	var made serving
	if err := own.Do(func() (err error) {
		if six {
			made, err = serve6(c)
		} else {
			made, err = serve(own, c)
		}
		return err
	}); err != nil {
		return nil, fmt.Errorf("%s: DHCP server on %s: %w", s.machine, c.Link, err)
	}
	s.servers[six] = made
	return func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.servers[six] != made {
			return nil
		}
		delete(s.servers, six)
		return made.close()
	}, nil
}

// State is the verb DHCP.State.
func (s *Service) State(_ lab.Nothing, reply *lab.DHCPState) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, six := range []bool{false, true} {
		if made := s.servers[six]; made != nil {
			st := made.state()
			reply.Running, reply.Refused = true, reply.Refused+st.Refused
			reply.Leases = append(reply.Leases, st.Leases...)
		}
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

// addr is an address of the library's; invalid for none.
func addr(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	if a = a.Unmap(); !a.IsValid() || a.IsUnspecified() {
		return netip.Addr{}
	}
	return a
}

// seconds is a time as options have it.
func seconds(d time.Duration) time.Duration { return max(d.Truncate(time.Second), time.Second) }

// identifier is the option by which a client is known: of the type 0, which is no hardware's (RFC 2132 section 9.14).
func identifier(id string) []byte { return slices.Concat([]byte{0}, []byte(id)) }
