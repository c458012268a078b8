package ipam

import (
	"fmt"
	"reflect"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/modebench/modebench/topology"
	"github.com/modebench/modebench/topology/lab"
)

// Service has the verbs IPAM.* of one machine: its pools, each made by the first who reserves from it. Its methods may be called at
// the same time.
type Service struct {
	machine string

	mu    sync.Mutex
	pools map[string]*pool
}

type pool struct {
	*Pool
	of []topology.Range // as they were asked for
}

// NewService is that of the machine called name, without pools yet.
func NewService(machine string) *Service {
	return &Service{machine: machine, pools: map[string]*pool{}}
}

// Reserve gives a container addresses. The undo takes them back. Where nothing can be given, all is as before.
func (s *Service) Reserve(r topology.Reserve) (undo func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.pools[r.Pool]
	if p == nil || len(p.held) == 0 && !reflect.DeepEqual(p.of, r.Ranges) { // nobody has anything of the old ranges
		made, err := New(r.Ranges)
		if err != nil {
			return nil, fmt.Errorf("%s: pool %s: %w", s.machine, r.Pool, err)
		}
		p = &pool{made, r.Ranges}
	}
	if !reflect.DeepEqual(p.of, r.Ranges) {
		return nil, fmt.Errorf("%s: pool %s has other ranges: %w", s.machine, r.Pool, unix.EEXIST)
	}
	h := Holder{r.ID, r.Link}
	if _, err := p.Reserve(h, r.Want...); err != nil {
		return nil, fmt.Errorf("%s: pool %s: %w", s.machine, r.Pool, err)
	}
	s.pools[r.Pool] = p
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		p.Release(h)
	}, nil
}

// State is the verb IPAM.State.
func (s *Service) State(name string, reply *[]lab.Reservation) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.pools[name]
	if p == nil {
		return nil
	}
	for _, h := range p.Holders() {
		*reply = append(*reply, lab.Reservation{ID: h.ID, Link: h.Link, Addrs: p.Held(h)})
	}
	return nil
}
