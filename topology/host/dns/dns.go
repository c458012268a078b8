// Package dns is a machine's names: resolvers that tell them, in namespaces that ask for one, and questions to any resolver.
package dns

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	miekg "github.com/miekg/dns"

	"github.com/modebench/modebench/topology"
	"github.com/modebench/modebench/topology/lab"
	"github.com/modebench/modebench/topology/space"
)

// Service has the verbs DNS.* of one machine. All its resolvers know the same names. Its methods may be called at the same time.
type Service struct {
	find func(container string) (*space.Space, error)
	ask  func(lab.Ask, *lab.Answer) error

	mu      sync.Mutex
	names   []*topology.Name // in the order in which they were given
	asked   map[string]int   // how often, by name
	running map[*resolver]struct{}
}

// resolver is a server with a socket of each protocol.
type resolver struct {
	in      string // container
	ttl     uint32 // seconds
	servers []*miekg.Server
	end     func()
}

// New is the service of a machine without names. find gives the namespace of a container, or the machine's own for ""; ask sends a
// message and waits for its answer.
func New(find func(container string) (*space.Space, error), ask func(lab.Ask, *lab.Answer) error) *Service {
	return &Service{find: find, ask: ask, asked: map[string]int{}, running: map[*resolver]struct{}{}}
}

// Close ends all resolvers.
func (s *Service) Close() {
	s.stop(func(*resolver) bool { return true })
}

// Forget ends the resolvers in a container's namespace, which their sockets would keep alive.
func (s *Service) Forget(container string) {
	s.stop(func(r *resolver) bool { return r.in == container })
}

func (s *Service) stop(which func(*resolver) bool) {
	s.mu.Lock()
	var ending []*resolver
	for r := range s.running {
		if which(r) {
			ending = append(ending, r)
		}
	}
	s.mu.Unlock()
	for _, r := range ending {
		r.end()
	}
}

// Know has the resolvers tell a name. The undo takes it back.
func (s *Service) Know(n topology.Name) (undo func(), err error) {
	if _, ok := miekg.IsDomainName(n.Name); !ok || n.Name == "" || len(n.Addrs) == 0 {
		return nil, fmt.Errorf("name %q for %v: want a domain name and an address", n.Name, n.Addrs)
	}
	known := topology.Name{Name: miekg.CanonicalName(n.Name), Addrs: slices.Clone(n.Addrs)}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.names = append(s.names, &known)
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.names = slices.DeleteFunc(s.names, func(have *topology.Name) bool { return have == &known })
	}, nil
}

// Serve makes a resolver in a container's namespace, or in the machine's own for "". It answers when Serve returns, and the undo ends it.
func (s *Service) Serve(in string, of topology.Resolver) (undo func(), err error) {
	sp, err := s.find(in)
	if err != nil {
		return nil, err
	}
	r := &resolver{in: in, ttl: uint32(of.TTL / time.Second)}
	var datagrams net.PacketConn
	var connections net.Listener
	// A single address: both are opened on the thread that is in the namespace.
	if err := sp.Do(func() (err error) {
		if datagrams, err = net.ListenPacket("udp", of.Addr.String()); err != nil {
			return err
		}
		if connections, err = net.Listen("tcp", of.Addr.String()); err != nil {
			return errors.Join(err, datagrams.Close())
		}
		return nil
	}); err != nil {
		return nil, fmt.Errorf("resolver at %s: %w", of.Addr, err)
	}
	answer := miekg.HandlerFunc(func(w miekg.ResponseWriter, question *miekg.Msg) {
		_ = w.WriteMsg(s.answer(question, r.ttl, w.LocalAddr().Network() == "udp")) // or it is lost, like any datagram
	})
	var serving sync.WaitGroup
	for _, server := range []*miekg.Server{{PacketConn: datagrams, Handler: answer}, {Listener: connections, Handler: answer}} {
		started := make(chan struct{})
		server.NotifyStartedFunc = func() { close(started) }
		r.servers = append(r.servers, server)
		serving.Go(func() { _ = server.ActivateAndServe() }) // until it is shut down
		<-started
	}
	r.end = sync.OnceFunc(func() {
		for _, server := range r.servers {
			_ = server.Shutdown()
		}
		serving.Wait()
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.running, r)
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running[r] = struct{}{}
	return r.end, nil
}

// answer is that to a question, of which there is one: others were refused by the server.
func (s *Service) answer(question *miekg.Msg, ttl uint32, datagram bool) *miekg.Msg {
	m := new(miekg.Msg).SetReply(question)
	m.Authoritative = true
	q := question.Question[0]
	records, known := s.records(q, ttl)
	if m.Answer = records; !known {
		m.Rcode = miekg.RcodeNameError
	}
	size := miekg.MinMsgSize
	if o := question.IsEdns0(); o != nil { // with the options that came, the asker's token among them
		size = max(size, int(o.UDPSize()))
		m.Extra = append(m.Extra, o)
	}
	if datagram {
		m.Truncate(size)
	}
	return m
}

// records are those of a name, and whether there is such a name: one with records of other types has none of this (RFC 2308 section 2.2).
func (s *Service) records(q miekg.Question, ttl uint32) (out []miekg.RR, known bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	name := miekg.CanonicalName(q.Name)
	head := miekg.RR_Header{Name: q.Name, Rrtype: q.Qtype, Class: miekg.ClassINET, Ttl: ttl}
	for _, n := range s.names {
		known = known || n.Name == name
		for _, a := range n.Addrs {
			switch {
			case n.Name == name && q.Qtype == miekg.TypeA && a.Is4():
				out = append(out, &miekg.A{Hdr: head, A: a.AsSlice()})
			case n.Name == name && q.Qtype == miekg.TypeAAAA && a.Is6():
				out = append(out, &miekg.AAAA{Hdr: head, AAAA: a.AsSlice()})
			case reverse(a) == name:
				known = true
				if q.Qtype == miekg.TypePTR {
					out = append(out, &miekg.PTR{Hdr: head, Ptr: n.Name})
				}
			}
		}
	}
	if n := len(out); n > 1 {
		at := s.asked[name] % n
		s.asked[name]++
		out = slices.Concat(out[at:], out[:at])
	}
	return out, known
}

// reverse is the name of an address for questions of type PTR (RFC 1035 section 3.5, RFC 3596 section 2.5).
func reverse(a netip.Addr) string {
	name, err := miekg.ReverseAddr(a.String())
	if err != nil {
		return ""
	}
	return name
}

// Lookup is the verb DNS.Lookup.
func (s *Service) Lookup(l lab.Lookup, reply *lab.Found) error {
	*reply = lab.Found{}
	if err := s.lookup(l, reply); err != nil {
		return fmt.Errorf("look %s %s up at %s from %q: %w", l.Type, l.Name, l.Server, l.In, err)
	}
	return nil
}

func (s *Service) lookup(l lab.Lookup, reply *lab.Found) error {
	name := miekg.Fqdn(l.Name)
	switch l.Type {
	case "A", "AAAA":
	case "PTR":
		a, err := netip.ParseAddr(l.Name)
		if err != nil {
			return err
		}
		name = reverse(a)
	default:
		return fmt.Errorf("type %q: want A, AAAA or PTR", l.Type)
	}
	question := new(miekg.Msg).SetQuestion(name, miekg.StringToType[l.Type])
	question.SetEdns0(miekg.DefaultMsgSize, false)
	o := question.IsEdns0()
	o.Option = append(o.Option, &miekg.EDNS0_LOCAL{Code: miekg.EDNS0LOCALSTART, Data: lab.Payload(l.Token, 0)})
	packed, err := question.Pack()
	if err != nil {
		return err
	}
	if err := s.ask(lab.Ask{In: l.In, Proto: "udp", To: l.Server, Token: l.Token, Wait: l.Wait, Message: packed}, &reply.Answer); err != nil || !reply.Answered {
		return err
	}
	var m miekg.Msg
	if err := m.Unpack(reply.Message); err != nil {
		return fmt.Errorf("the answer: %w", err)
	}
	if m.Id != question.Id || !m.Response || len(m.Question) != 1 || m.Question[0] != question.Question[0] {
		return errors.New("what came is no answer to the question")
	}
	reply.Code, reply.Authoritative = miekg.RcodeToString[m.Rcode], m.Authoritative
	for _, rr := range m.Answer {
		h := rr.Header()
		r := lab.Record{Name: strings.TrimSuffix(h.Name, "."), Type: miekg.TypeToString[h.Rrtype], TTL: time.Duration(h.Ttl) * time.Second}
		switch rr := rr.(type) {
		case *miekg.A:
			r.Data = rr.A.String()
		case *miekg.AAAA:
			r.Data = rr.AAAA.String()
		case *miekg.PTR:
			r.Data = strings.TrimSuffix(rr.Ptr, ".")
		}
		reply.Records = append(reply.Records, r)
	}
	return nil
}
