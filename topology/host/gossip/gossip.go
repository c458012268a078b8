// Package gossip is a machine's member of a cluster that spreads where the endpoints of overlays are, and the kernel's forwarding and
// neighbour tables, written from it. Who is alive and what members say goes from one to another by HashiCorp's memberlist (SWIM),
// or through a store that all of them write to and watch. Both open sockets from goroutines of their own, so the process has to be in
// the machine's network namespace.
package gossip

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/modebench/modebench/topology"
	"github.com/modebench/modebench/topology/lab"
)

// Service has the verbs Gossip.* of one machine. Its methods may be called at the same time.
type Service struct {
	machine string

	whole  sync.Mutex // of whole operations; taken before mu
	config topology.Gossip
	member member // nil: none, or crashed; written with mu, too

	mu      sync.Mutex
	tables  *tables           // nil: there is no member
	own     map[key]*own      // what this machine tells of
	records map[key]record    // the last that was said of each endpoint, by anybody
	alive   map[string]string // members' addresses
	events  []lab.GossipEvent
}

type key struct {
	vni int
	mac string
}

// member is one life in the cluster.
type member interface {
	tell(r record) // spreads it, in the place of an earlier one of the same endpoint; called with the service's mu
	leave() error  // ends the member; the others are told first. That nobody is there to be told is no error
	end() error    // ends the member without a word
}

// own is an endpoint of this machine.
type own struct {
	endpoint topology.Endpoint
	times    int // how often it was announced and not taken back
}

// record is what one member said of an endpoint. It travels.
type record struct {
	VNI   int
	MAC   string // six bytes
	IPs   []netip.Addr
	VTEP  netip.Addr
	Owner string
	Clock int64 // of two records of one endpoint the one with the higher clock holds
	Gone  bool  // it is taken back
}

func (r record) key() key { return key{r.VNI, r.MAC} }

// newer tells whether r holds against another. Of two at one time, a place beats none, and else a name the other, so that all
// members choose alike.
func (r record) newer(than record) bool {
	switch {
	case r.Clock != than.Clock:
		return r.Clock > than.Clock
	case r.Gone != than.Gone:
		return than.Gone
	}
	return r.Owner > than.Owner
}

// New is the service of the machine called name, without a member yet.
func New(machine string) *Service { return &Service{machine: machine} }

// Start makes the member. A machine has one at most: EEXIST where there is one already. Call it on a thread that is in the
// machine's own namespace. It does not wait for other members. The undo leaves the cluster and takes all entries out.
func (s *Service) Start(c topology.Gossip) (undo func() error, err error) {
	s.whole.Lock()
	defer s.whole.Unlock()
	if s.tables != nil {
		return nil, fmt.Errorf("%s: member exists: %w", s.machine, unix.EEXIST)
	}
	t, err := newTables(c.Tunnels, func(t *tables) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.tables == t {
			t.mend()
		}
	})
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.tables, s.config, s.events = t, c, nil
	s.own, s.records = map[key]*own{}, map[key]record{}
	s.mu.Unlock()
	if err := s.live(); err != nil {
		s.tables = nil
		t.close()
		return nil, err
	}
	return s.Close, nil
}

// live begins a life of the member, with nothing known of others. It has whole.
func (s *Service) live() error {
	s.mu.Lock()
	s.alive = map[string]string{}
	s.leaveOut()
	s.mu.Unlock()
	begin := join
	if s.config.Store.IsValid() {
		begin = watch
	}
	m, err := begin(s, s.config)
	if err != nil {
		return fmt.Errorf("%s: member: %w", s.machine, err)
	}
	s.mu.Lock()
	s.member = m
	s.mu.Unlock()
	return nil
}

// leaveOut forgets what others said: it is to be heard of again. It has mu.
func (s *Service) leaveOut() {
	maps.DeleteFunc(s.records, func(_ key, r record) bool { return r.Owner != s.config.Name })
}

// Close leaves the cluster and takes the entries out; without a member it does nothing.
func (s *Service) Close() error {
	s.whole.Lock()
	defer s.whole.Unlock()
	if s.tables == nil {
		return nil
	}
	var err error
	if s.member != nil {
		err = s.member.leave()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	err = errors.Join(err, s.tables.set(nil, s.note))
	s.tables.close()
	s.tables, s.member = nil, nil
	return err
}

var errNone = errors.New("no member of a cluster on this machine")

// Announce has the member tell of an endpoint until as many undos as Announces were called for it. The undo is no error where the
// member is gone. A crashed member tells of it when it is revived.
func (s *Service) Announce(e topology.Endpoint) (undo func() error, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	of, k := s.tables, key{e.VNI, string(e.MAC)}
	switch {
	case of == nil:
		return nil, fmt.Errorf("%s: endpoint %s: %w", s.machine, e.MAC, errNone)
	case e.Store != s.config.Store:
		return nil, fmt.Errorf("%s: endpoint %s: for a store at %s, while the member's is at %s: %w", s.machine, e.MAC, e.Store, s.config.Store, unix.EINVAL)
	}
	if s.own[k] == nil {
		s.own[k] = &own{endpoint: e}
		s.say(e, false)
	}
	s.own[k].times++
	return func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.tables != of { // another member, or none
			return nil
		}
		if s.own[k].times--; s.own[k].times > 0 {
			return nil
		}
		delete(s.own, k)
		if s.records[k].Owner == s.config.Name { // else somebody else has it by now
			s.say(e, true)
		}
		return nil
	}, nil
}

// say tells the others of an endpoint of this machine's. It has mu.
func (s *Service) say(e topology.Endpoint, gone bool) {
	r := record{VNI: e.VNI, MAC: string(e.MAC), IPs: e.IPs, VTEP: e.VTEP, Owner: s.config.Name, Gone: gone}
	// Later than all that was heard of it, and than what was said elsewhere meanwhile as far as clocks agree.
	r.Clock = max(time.Now().UnixNano(), s.records[r.key()].Clock+1)
	s.records[r.key()] = r
	kind := "told"
	if gone {
		kind = "untold"
	}
	s.note(lab.GossipEvent{Kind: kind, Member: r.Owner, MAC: e.MAC, VTEP: e.VTEP})
	if s.member != nil {
		s.member.tell(r)
	}
	s.reconcile()
}

// hear takes what somebody said, and passes on what is news.
func (s *Service) hear(all ...record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.take(all) {
		s.reconcile()
	}
}

// take is hear, and tells whether there is news. It has mu.
func (s *Service) take(all []record) (news bool) {
	for _, r := range all {
		was, known := s.records[r.key()]
		if known && !r.newer(was) || len(r.MAC) != 6 {
			continue
		}
		mine := s.own[r.key()]
		if r.Owner == s.config.Name && (mine == nil) != r.Gone {
			// Said by this machine in an earlier life, and no longer true.
			s.records[r.key()] = r
			s.say(topology.Endpoint{VNI: r.VNI, MAC: net.HardwareAddr(r.MAC), IPs: r.IPs, VTEP: r.VTEP}, mine == nil)
			continue
		}
		if mine != nil && r.Owner != s.config.Name && !r.Gone {
			s.note(lab.GossipEvent{Kind: "taken", Member: r.Owner, MAC: net.HardwareAddr(r.MAC), VTEP: r.VTEP})
		}
		s.records[r.key()], news = r, true
		if s.member != nil {
			s.member.tell(r)
		}
	}
	return news
}

// learn takes all that a store knows in the place of what was known of others, and gives what is to be written of this machine's.
func (s *Service) learn(all []record, alive map[string]string) (own []record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name := range maps.Clone(s.alive) {
		if alive[name] == "" {
			s.turn(name, "", false)
		}
	}
	for name, addr := range alive {
		if s.alive[name] != addr {
			s.turn(name, addr, true)
		}
	}
	s.leaveOut()
	s.take(all)
	s.reconcile()
	for k := range s.own {
		if r := s.records[k]; r.Owner == s.config.Name {
			own = append(own, r)
		}
	}
	return own
}

// forget takes that a store holds some records no longer.
func (s *Service) forget(all ...record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range all {
		if is := s.records[r.key()]; is.Gone || is.Owner != s.config.Name {
			delete(s.records, r.key())
		}
	}
	s.reconcile()
}

// turned takes that a member came alive or died.
func (s *Service) turned(name, addr string, alive bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.turn(name, addr, alive)
	s.reconcile()
}

// turn has mu.
func (s *Service) turn(name, addr string, alive bool) {
	kind := "dead"
	if alive {
		kind = "alive"
		s.alive[name] = addr
	} else {
		delete(s.alive, name)
	}
	s.note(lab.GossipEvent{Kind: kind, Member: name})
}

// reconcile makes the tables hold what is known: the endpoints of other members that are alive. It has mu.
func (s *Service) reconcile() {
	if s.tables == nil {
		return
	}
	wanted := map[key]record{}
	for k, r := range s.records {
		if _, alive := s.alive[r.Owner]; alive && !r.Gone && r.Owner != s.config.Name {
			wanted[k] = r
		}
	}
	_ = s.tables.set(wanted, s.note) // what the kernel refuses is an event, and tried again with the next change
}

// note has mu.
func (s *Service) note(e lab.GossipEvent) {
	e.When = time.Now()
	s.events = append(s.events, e)
}

// State is the verb Gossip.State.
func (s *Service) State(_ lab.Nothing, reply *lab.GossipState) error {
	s.whole.Lock()
	defer s.whole.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	reply.Events = slices.Clone(s.events)
	if s.tables == nil {
		return nil
	}
	reply.Running = s.member != nil
	if s.member != nil {
		reply.Alive = slices.Sorted(maps.Keys(s.alive))
	}
	for k, r := range s.records {
		if !r.Gone {
			reply.Endpoints = append(reply.Endpoints, lab.GossipEndpoint{
				Endpoint: topology.Endpoint{VNI: r.VNI, MAC: net.HardwareAddr(r.MAC), IPs: r.IPs, VTEP: r.VTEP},
				Owner:    r.Owner, Installed: s.tables.has(k),
			})
		}
	}
	slices.SortFunc(reply.Endpoints, func(a, b lab.GossipEndpoint) int {
		return cmp.Or(cmp.Compare(a.VNI, b.VNI), slices.Compare(a.MAC, b.MAC))
	})
	return nil
}

// Crash is the verb Gossip.Crash. Others hear nothing more of the member, as if its machine had lost power.
func (s *Service) Crash(_ lab.Nothing, _ *lab.Nothing) error {
	s.whole.Lock()
	defer s.whole.Unlock()
	if s.member == nil {
		return fmt.Errorf("%s: %w", s.machine, errNone)
	}
	err := s.member.end()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.member = nil
	return err
}

// Revive is the verb Gossip.Revive. What it knew of others is forgotten, and their entries go until it is heard of again.
func (s *Service) Revive(_ lab.Nothing, _ *lab.Nothing) error {
	s.whole.Lock()
	defer s.whole.Unlock()
	if s.tables == nil {
		return fmt.Errorf("%s: %w", s.machine, errNone)
	}
	if s.member != nil {
		return fmt.Errorf("%s: member runs: %w", s.machine, unix.EEXIST)
	}
	return s.live()
}
