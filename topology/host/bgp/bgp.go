// Package bgp is a machine's speaker of BGP (RFC 4271, RFC 4760): GoBGP's protocol engine, and the kernel's routing table
// programmed from what it chooses. GoBGP opens sockets from goroutines of its own, so the process has to be in the
// machine's network namespace. It keeps settings in package variables: there is one speaker a process. A message that
// makes it panic in one of those goroutines ends the machine's program, and no other.
//
// What a neighbour announced and what became of it in the routing table are noticed apart: events less than a tenth of
// a millisecond apart may stand the other way round.
package bgp

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/modebench/modebench/topology"
	"github.com/modebench/modebench/topology/lab"
)

// Service has the verbs BGP.* of one machine. Its methods may be called at the same time.
type Service struct {
	machine string

	mu        sync.Mutex // of whole operations
	config    topology.BGP
	fib       *fib           // nil: there is no speaker
	running   *speaker       // nil: none, or crashed
	announced map[string]int // how often, by prefix

	journal journal
}

// New is the service of the machine called name, without a speaker yet.
func New(machine string) *Service { return &Service{machine: machine, announced: map[string]int{}} }

// Start makes the speaker. A machine has one at most: EEXIST where there is one already. Call it on a thread that is in the
// machine's own namespace. The undo ends the sessions and takes out all routes that the speaker programmed.
func (s *Service) Start(c topology.BGP) (undo func() error, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fib != nil {
		return nil, fmt.Errorf("%s: speaker exists: %w", s.machine, unix.EEXIST)
	}
	s.journal.clear()
	f, err := newFIB(&s.journal)
	if err != nil {
		return nil, err
	}
	clear(s.announced)
	running, err := start(c, f, &s.journal, nil, false)
	if err != nil {
		f.close()
		return nil, fmt.Errorf("%s: speaker: %w", s.machine, err)
	}
	s.config, s.fib, s.running = c, f, running
	return s.Close, nil
}

// Close ends the speaker and takes its routes out; without one it does nothing.
func (s *Service) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fib == nil {
		return nil
	}
	if s.running != nil {
		s.running.end()
	}
	err := s.fib.flush()
	s.fib.close()
	s.fib, s.running = nil, nil
	return err
}

var errNone = errors.New("no speaker on this machine")

// Announce has the speaker announce prefixes, each until as many undos as Announces were called for it. The undo is no error
// where the speaker is gone. A crashed speaker announces them when it is revived.
func (s *Service) Announce(ps ...netip.Prefix) (undo func() error, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fib == nil {
		return nil, fmt.Errorf("%s: announce %v: %w", s.machine, ps[0], errNone)
	}
	of := s.fib
	for i, p := range ps {
		key := p.Masked().String()
		if s.announced[key] == 0 && s.running != nil {
			if err := s.running.announce(p.Masked()); err != nil {
				return nil, errors.Join(fmt.Errorf("%s: announce %v: %w", s.machine, p, err), s.withdraw(ps[:i]))
			}
		}
		s.announced[key]++
	}
	return func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.fib != of {
			return nil // another speaker's, or none
		}
		return s.withdraw(ps)
	}, nil
}

// withdraw takes an announcement of each back.
func (s *Service) withdraw(ps []netip.Prefix) error {
	var errs []error
	for _, p := range ps {
		key := p.Masked().String()
		if s.announced[key]--; s.announced[key] > 0 {
			continue
		}
		delete(s.announced, key)
		if s.running != nil {
			errs = append(errs, s.running.withdraw(p.Masked()))
		}
	}
	return errors.Join(errs...)
}

// State is the verb BGP.State.
func (s *Service) State(_ lab.Nothing, reply *lab.BGPState) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	reply.Events = s.journal.read()
	if s.fib == nil {
		return nil
	}
	if s.running == nil {
		for _, p := range s.config.Peers {
			reply.Peers = append(reply.Peers, lab.BGPPeer{Addr: p.Addr, AS: p.AS, State: "idle"})
		}
		return nil
	}
	reply.Running = true
	var err error
	if reply.Peers, err = s.running.peers(); err != nil {
		return err
	}
	reply.Routes, err = s.running.routes()
	return err
}

// Reset is the verb BGP.Reset. A neighbour that was shut out for announcing too much may come again.
func (s *Service) Reset(peer netip.Addr, _ *lab.Nothing) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running == nil {
		return fmt.Errorf("%s: %w", s.machine, errNone)
	}
	return s.running.reset(peer)
}

// Crash is the verb BGP.Crash. Neighbours see what the kernel makes of a process that was killed: the connections end,
// without a NOTIFICATION.
func (s *Service) Crash(_ lab.Nothing, _ *lab.Nothing) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running == nil {
		return fmt.Errorf("%s: %w", s.machine, errNone)
	}
	err := s.running.crash()
	s.running = nil
	return err
}

// Revive is the verb BGP.Revive. Routes that were programmed before the crash are taken out when all neighbours have sent
// what they have (End-of-RIB, RFC 4724 section 4.1) and it is not in there, or when the restart time is over.
func (s *Service) Revive(_ lab.Nothing, _ *lab.Nothing) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fib == nil {
		return fmt.Errorf("%s: %w", s.machine, errNone)
	}
	if s.running != nil {
		return fmt.Errorf("%s: speaker runs: %w", s.machine, unix.EEXIST)
	}
	var own []netip.Prefix
	for key := range s.announced {
		own = append(own, netip.MustParsePrefix(key))
	}
	running, err := start(s.config, s.fib, &s.journal, own, true)
	if err != nil {
		return fmt.Errorf("%s: speaker: %w", s.machine, err)
	}
	s.running = running
	return nil
}

// journal is what a speaker noticed and did.
type journal struct {
	mu     sync.Mutex
	events []lab.BGPEvent
}

func (j *journal) add(kind string, peer netip.Addr, p netip.Prefix, text string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.events = append(j.events, lab.BGPEvent{When: time.Now(), Kind: kind, Peer: peer, Prefix: p, Text: text})
}

func (j *journal) read() []lab.BGPEvent {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.events)
}

func (j *journal) clear() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.events = nil
}
