package probe

import (
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/modebench/modebench/topology/lab"
)

// flow asks at a steady pace from one socket.
type flow struct {
	*socket
	question
	every  time.Duration
	to     unix.Sockaddr
	ending chan struct{} // closed by stop: no more questions
	sent   chan struct{} // closed after the last question
	got    chan struct{} // closed after the last answer

	mu       sync.Mutex
	tally    lab.Tally
	answered []bool    // by question
	last     time.Time // answer, or the beginning
	complete chan struct{}
}

// Flow is the verb Probe.Flow, for udp. The token of each message is the flow's, a dot and a number that counts from 0.
// What the kernel refuses is a message that is not answered; only a flow that cannot begin is an error.
func (s *Service) Flow(a lab.Flow, reply *lab.Handle) error {
	h, err := s.flow(a)
	if err != nil {
		return fmt.Errorf("flow to %v from %q: %w", a.To, a.In, err)
	}
	*reply = h
	return nil
}

// digits are kept free for the number of a message.
const digits = 8

func (s *Service) flow(a lab.Flow) (h lab.Handle, err error) {
	q, err := newQuestion(a.Ask)
	switch {
	case err != nil:
		return h, err
	case q.Proto != "udp":
		return h, fmt.Errorf("protocol %q: want udp", q.Proto)
	case a.Every <= 0:
		return h, fmt.Errorf("every %v: want a time", a.Every)
	case len(q.Token)+1+digits > lab.TokenMax:
		return h, fmt.Errorf("token %q: want at most %d bytes, since a number follows", q.Token, lab.TokenMax-1-digits)
	}
	k, err := q.open(s)
	if err != nil {
		return h, err
	}
	f := &flow{
		socket: k, question: q, every: a.Every, ending: make(chan struct{}), sent: make(chan struct{}), got: make(chan struct{}),
		complete: make(chan struct{}, 1), last: time.Now(),
	}
	if f.to, err = k.sockaddr(q.To, q.Device); err == nil {
		h, err = s.start(f, f.ask, f.listen)
	}
	if err != nil {
		k.close()
	}
	return h, err
}

func (f *flow) ask() {
	defer close(f.sent)
	tick := time.NewTicker(f.every)
	defer tick.Stop()
	for {
		f.mu.Lock()
		n := f.tally.Sent
		f.tally.Sent++
		f.answered = append(f.answered, false)
		f.mu.Unlock()
		// Not connected: each message takes the way that there is now. A refused one stays unanswered.
		err := f.conn.Control(func(uintptr) {
			_, _ = unix.SendmsgN(f.fd, lab.Payload(f.Token+"."+strconv.Itoa(n), f.Size), nil, f.to, 0)
		})
		if err != nil {
			return // closed
		}
		select {
		case <-tick.C:
		case <-f.ending:
			return
		case <-f.got:
			return
		}
	}
}

func (f *flow) listen() {
	defer close(f.got)
	buf, oob := make([]byte, 2048), make([]byte, 256)
	_ = f.conn.Read(func(uintptr) bool { // until closed
		for {
			m, err := f.receive(buf, oob, 0)
			if err == unix.EAGAIN {
				return false
			}
			if err == nil {
				f.count(m.data)
			}
		}
	})
}

func (f *flow) count(b []byte) {
	now := time.Now()
	seen, ok := parseAnswer(b)
	number, mine := strings.CutPrefix(seen.Token, f.Token+".")
	n, err := strconv.Atoi(number)
	f.mu.Lock()
	defer f.mu.Unlock()
	if !ok || !mine || err != nil || n < 0 || n >= len(f.answered) || f.answered[n] {
		return
	}
	f.answered[n] = true
	f.tally.Answered++
	f.silent(now)
	f.last = now
	select {
	case f.complete <- struct{}{}:
	default:
	}
}

// stop asks no more, and waits for the answer to the last question as long as answers count.
func (f *flow) stop() lab.Tally {
	close(f.ending)
	<-f.sent
	ended := time.Now()
	deadline := time.NewTimer(f.Wait)
	defer deadline.Stop()
	for over := false; !over; {
		f.mu.Lock()
		over = f.answered[len(f.answered)-1]
		f.mu.Unlock()
		if over {
			break
		}
		select {
		case <-f.complete:
		case <-deadline.C:
			over = true
		case <-f.got:
			over = true
		}
	}
	f.close()
	<-f.got
	f.mu.Lock()
	defer f.mu.Unlock()
	f.silent(ended)
	return f.tally
}

// silent counts the time since the last answer, with the lock held.
func (f *flow) silent(until time.Time) {
	if d := until.Sub(f.last); d > f.tally.Longest {
		f.tally.Longest, f.tally.Since = d, f.last
	}
}

// Tally is the verb Probe.Tally. Silence that is not over counts as long as it has lasted.
func (s *Service) Tally(h lab.Handle, reply *lab.Tally) error {
	r, err := s.runner(h)
	if err != nil {
		return err
	}
	f, ok := r.(*flow)
	if !ok {
		return fmt.Errorf("%d is no flow", h.ID)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.silent(time.Now())
	*reply = f.tally
	return nil
}
