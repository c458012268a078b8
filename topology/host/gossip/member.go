package gossip

import (
	"bytes"
	"context"
	"encoding/gob"
	"io"
	"log"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/modebench/modebench/topology"
)

// How fast news spread and the dead are noticed. Those of memberlist for a local network are a second for a probe and some five
// for a death; here all machines are near.
const (
	interval = 50 * time.Millisecond  // of gossip
	probe    = 300 * time.Millisecond // of asking one member whether it is alive
	timeout  = 200 * time.Millisecond // for its answer, before others are asked to ask it
	pushPull = 5 * time.Second        // of comparing all that is known with one member
	rejoin   = 250 * time.Millisecond // of asking for members that are not alive
	goodbye  = time.Second            // at most, for telling that one leaves
)

// gossiper is one life in a cluster whose members talk to each other.
type gossiper struct {
	*memberlist.Memberlist
	service *Service
	queue   *memberlist.TransmitLimitedQueue
	alive   atomic.Int32 // members
	life    context.Context
	stop    context.CancelFunc
	done    sync.WaitGroup // looking for others
}

// join joins the cluster, in the namespace of the calling thread's process.
func join(s *Service, g topology.Gossip) (member, error) {
	m := &gossiper{service: s}
	m.life, m.stop = context.WithCancel(context.Background())
	m.queue = &memberlist.TransmitLimitedQueue{NumNodes: func() int { return int(m.alive.Load()) }, RetransmitMult: 4}
	c := memberlist.DefaultLANConfig()
	c.Name, c.BindAddr, c.BindPort, c.AdvertiseAddr, c.AdvertisePort = g.Name, g.Addr.String(), g.Port, g.Addr.String(), g.Port
	c.GossipInterval, c.ProbeInterval, c.ProbeTimeout, c.PushPullInterval, c.TCPTimeout = interval, probe, timeout, pushPull, time.Second
	c.Delegate, c.Events = m, m
	c.Logger = log.New(io.Discard, "", 0) // what became of members is in the service's events
	var err error
	if m.Memberlist, err = memberlist.Create(c); err != nil {
		m.stop()
		return nil, err
	}
	m.done.Add(1)
	go func() {
		defer m.done.Done()
		m.seek(g)
	}()
	return m, nil
}

// seek asks for the others while they are not alive: memberlist itself does not look for who was declared dead.
func (m *gossiper) seek(g topology.Gossip) {
	for {
		for _, a := range g.Join {
			if m.life.Err() == nil && !m.service.knows(a) {
				_, _ = m.Join([]string{netip.AddrPortFrom(a, uint16(g.Port)).String()}) // again later
			}
		}
		select {
		case <-time.After(rejoin):
		case <-m.life.Done():
			return
		}
	}
}

// knows tells whether a member with an address is alive.
func (s *Service) knows(a netip.Addr) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, addr := range s.alive {
		if addr == a.String() {
			return true
		}
	}
	return false
}

// end ends the member without a word.
func (m *gossiper) end() error {
	m.stop()
	err := m.Shutdown()
	m.done.Wait()
	return err
}

// leave tells the others first. That nobody is there to be told is no error.
func (m *gossiper) leave() error {
	m.stop()
	m.done.Wait()
	_ = m.Leave(goodbye)
	return m.Shutdown()
}

// tell spreads a record, in the place of an earlier one of the same endpoint.
func (m *gossiper) tell(r record) { m.queue.QueueBroadcast(news{r}) }

// news is a record on its way.
type news struct{ record }

func (n news) Name() string { return string(rune(n.VNI)) + n.MAC }
func (n news) Invalidates(b memberlist.Broadcast) bool {
	o, ok := b.(news)
	return ok && o.key() == n.key()
}
func (n news) Message() []byte { return packed([]record{n.record}) }
func (n news) Finished()       {}

func packed(rs []record) []byte {
	var b bytes.Buffer
	if err := gob.NewEncoder(&b).Encode(rs); err != nil {
		panic(err) // of types that all can be
	}
	return b.Bytes()
}

// unpacked takes what cannot be read for nothing: it is from somebody who speaks another language.
func unpacked(b []byte) (rs []record) {
	if gob.NewDecoder(bytes.NewReader(b)).Decode(&rs) != nil {
		return nil
	}
	return rs
}

// NodeMeta is of memberlist.Delegate, as are the next four.
func (m *gossiper) NodeMeta(int) []byte { return nil }

// NotifyMsg takes news.
func (m *gossiper) NotifyMsg(b []byte) { m.hear(b) }

// hear takes what somebody said while the member lives.
func (m *gossiper) hear(b []byte) {
	if m.life.Err() == nil {
		m.service.hear(unpacked(b)...)
	}
}

// GetBroadcasts gives news that are to go with the next packet.
func (m *gossiper) GetBroadcasts(overhead, limit int) [][]byte {
	return m.queue.GetBroadcasts(overhead, limit)
}

// LocalState is all that is known.
func (m *gossiper) LocalState(bool) []byte {
	m.service.mu.Lock()
	defer m.service.mu.Unlock()
	var all []record
	for _, r := range m.service.records {
		all = append(all, r)
	}
	return packed(all)
}

// MergeRemoteState takes all that another knows.
func (m *gossiper) MergeRemoteState(b []byte, _ bool) { m.hear(b) }

// NotifyJoin is of memberlist.EventDelegate, as are the next two.
func (m *gossiper) NotifyJoin(n *memberlist.Node) { m.turned(n, 1) }

// turned takes that a member came alive or died, while this one lives: what it leaves is not another's death.
func (m *gossiper) turned(n *memberlist.Node, by int32) {
	m.alive.Add(by)
	if m.life.Err() == nil {
		m.service.turned(n.Name, n.Addr.String(), by > 0)
	}
}

// NotifyLeave takes that a member left or died.
func (m *gossiper) NotifyLeave(n *memberlist.Node) { m.turned(n, -1) }

// NotifyUpdate takes that a member says something else of itself, of which there is nothing.
func (m *gossiper) NotifyUpdate(*memberlist.Node) {}
