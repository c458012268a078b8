package traffic

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/modebench/modebench/topology/lab"
	"github.com/modebench/modebench/topology/space"
)

// TestMain runs the tests inside an empty network namespace, and agents where the package starts this binary as one.
func TestMain(m *testing.M) {
	roles := map[string]func() error{
		"agent":   Main,
		"dial":    func() error { return dial(os.Args[2]) },
		"dialled": func() error { return dialled(os.Args[2]) },
	}
	if len(os.Args) > 1 && roles[os.Args[1]] != nil {
		if err := roles[os.Args[1]](); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(space.Rerun(m.Run, os.Args[1:], os.Getenv))
}

// A pair is two namespaces joined by a veth pair.
type pair struct {
	*Service
	a, b   *space.Space
	v4, v6 netip.Addr // of b
}

func newPair(t testing.TB) *pair {
	t.Helper()
	p := &pair{v4: netip.MustParseAddr("192.0.2.2"), v6: netip.MustParseAddr("2001:db8::2")}
	for _, s := range []**space.Space{&p.a, &p.b} {
		made, err := space.New()
		must(t, err)
		t.Cleanup(func() { made.Close() })
		*s = made
	}
	must(t, p.a.Do(func() error {
		return netlink.LinkAdd(&netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: "eth0"}, PeerName: "eth0",
			PeerNamespace: netlink.NsFd(p.b.File().Fd()),
		})
	}))
	for i, s := range []*space.Space{p.a, p.b} {
		must(t, s.Do(func() error {
			h, err := netlink.NewHandle()
			if err != nil {
				return err
			}
			defer h.Close()
			for _, name := range []string{"lo", "eth0"} {
				link, err := h.LinkByName(name)
				if err != nil {
					return err
				}
				if err := h.LinkSetUp(link); err != nil {
					return err
				}
				if name == "lo" {
					continue
				}
				for _, a := range []string{fmt.Sprintf("192.0.2.%d/24", i+1), fmt.Sprintf("2001:db8::%d/64", i+1)} {
					addr, err := netlink.ParseAddr(a)
					if err != nil {
						return err
					}
					if addr.IP.To4() == nil {
						addr.Flags = unix.IFA_F_NODAD
					}
					if err := h.AddrAdd(link, addr); err != nil {
						return err
					}
				}
			}
			return nil
		}))
	}
	p.Service = New(func(name string) (*space.Space, error) {
		switch name {
		case "a":
			return p.a, nil
		case "b":
			return p.b, nil
		}
		return nil, fmt.Errorf("%q: no such container", name)
	})
	t.Cleanup(func() { must(t, p.Close()) })
	return p
}

func (p *pair) agent(t testing.TB, in string, cpu int) lab.Handle {
	t.Helper()
	var h lab.Handle
	must(t, p.Start(lab.AgentAt{In: in, CPU: cpu}, &h))
	return h
}

// trial measures from one agent to another.
func (p *pair) trial(from, to lab.Handle, trial lab.Trial) (sent, received lab.Measured, err error) {
	trial.Agent = to
	var s lab.Serving
	if err = p.Serve(trial, &s); err != nil {
		return
	}
	trial.Agent, trial.To = from, netip.AddrPortFrom(trial.To.Addr(), s.Port)
	err = p.Run(trial, &sent)
	return sent, received, errors.Join(err, p.Finish(to, &received))
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestTrials(t *testing.T) {
	p := newPair(t)
	from, to := p.agent(t, "a", -1), p.agent(t, "b", -1)
	for _, trial := range []lab.Trial{
		{Test: "tcp-stream"},
		{Test: "tcp-stream", Streams: 3},
		{Test: "tcp-stream", Size: 100},
		{Test: "tcp-stream", Send: "sendfile"},
		{Test: "tcp-stream", Receive: "trunc"},
		{Test: "tcp-stream", Size: 512 << 10, Send: "sendfile", Receive: "trunc", Streams: 2},
		{Test: "tcp-rr"},
		{Test: "tcp-rr", Streams: 3, Size: 5000},
		{Test: "tcp-crr"},
		{Test: "tcp-crr", Streams: 2, Size: 3000},
		{Test: "udp-stream"},
		{Test: "udp-stream", Streams: 2},
		{Test: "udp-stream", Size: 64},
		{Test: "udp-stream", Send: "copy", Receive: "copy"},
		{Test: "udp-stream", Send: "gso", Receive: "gro"},
		{Test: "udp-stream", Send: "gso", Receive: "batch"},
	} {
		for _, to46 := range []netip.Addr{p.v4, p.v6} {
			trial.To, trial.For = netip.AddrPortFrom(to46, 0), 50*time.Millisecond
			name := fmt.Sprintf("%s/%d/%d/%s%s/%s", trial.Test, trial.Streams, trial.Size, trial.Send, trial.Receive, to46)
			t.Run(name, func(t *testing.T) {
				sent, received, err := p.trial(from, to, trial)
				must(t, err)
				check(t, trial, sent, received)
			})
		}
	}
}

func check(t *testing.T, trial lab.Trial, sent, received lab.Measured) {
	t.Helper()
	if sent.Bytes == 0 || sent.Bytes != received.Bytes+received.Lost*uint64(sizeOf(trial)) {
		t.Errorf("%d bytes sent, %d received, %d datagrams lost", sent.Bytes, received.Bytes, received.Lost)
	}
	if sent.Operations != received.Operations+received.Lost {
		t.Errorf("%d operations at one end, %d at the other, %d lost", sent.Operations, received.Operations, received.Lost)
	}
	if received.Dropped > received.Lost {
		t.Errorf("%d datagrams dropped of %d lost", received.Dropped, received.Lost)
	}
	for _, m := range []lab.Measured{sent, received} {
		if m.Seconds <= 0 || m.CPUSeconds <= 0 {
			t.Errorf("%g s, of them %g s of processor time", m.Seconds, m.CPUSeconds)
		}
	}
	if sent.Seconds < trial.For.Seconds() {
		t.Errorf("measured %g s of %s", sent.Seconds, trial.For)
	}
	switch udp := trial.Test == "udp-stream"; {
	case udp && (received.Buffer == 0 || sent.Congestion != ""):
		t.Errorf("buffer %d, congestion control %q", received.Buffer, sent.Congestion)
	case !udp && (sent.Congestion != "cubic" || received.Congestion != "cubic"):
		t.Errorf("congestion control %q and %q", sent.Congestion, received.Congestion)
	}
	if recorded := len(sent.Latency) > 0; recorded != strings.HasSuffix(trial.Test, "rr") {
		t.Fatalf("latencies recorded: %v", recorded)
	} else if !recorded {
		return
	}
	h, err := hdrhistogram.Decode(sent.Latency)
	must(t, err)
	if uint64(h.TotalCount()) != sent.Operations {
		t.Errorf("%d latencies of %d operations", h.TotalCount(), sent.Operations)
	}
	// What all operations of a stream took is the time measured; a histogram keeps three digits. On a machine with other work a stream
	// may begin long after the others.
	streams := float64(max(1, trial.Streams))
	if sum := h.Mean() * float64(h.TotalCount()) / 1e9 / streams; sum < sent.Seconds*0.1 || sum > sent.Seconds*1.01 {
		t.Errorf("latencies add up to %g s of %g s", sum, sent.Seconds)
	}
}

func sizeOf(trial lab.Trial) int {
	if trial.Size != 0 {
		return trial.Size
	}
	return tools[trial.Test].size
}

func TestSameNamespace(t *testing.T) {
	p := newPair(t)
	from, to := p.agent(t, "b", 0), p.agent(t, "b", 0)
	trial := lab.Trial{Test: "tcp-rr", To: netip.AddrPortFrom(p.v4, 0), For: 20 * time.Millisecond}
	sent, received, err := p.trial(from, to, trial)
	must(t, err)
	check(t, trial, sent, received)
}

func TestRefusals(t *testing.T) {
	p := newPair(t)
	to := p.agent(t, "b", -1)
	here := netip.AddrPortFrom(p.v4, 0)
	for want, trial := range map[string]lab.Trial{
		`no test "tcp"`:               {Test: "tcp", To: here},
		"65 streams":                  {Test: "tcp-rr", Streams: 65, To: here},
		"size 15: out of range":       {Test: "udp-stream", Size: 15, To: here},
		`no way to send "gso"`:        {Test: "tcp-stream", Send: "gso", To: here},
		`no way to receive "gro"`:     {Test: "tcp-rr", Receive: "gro", To: here},
		`congestion control "nosuch"`: {Test: "tcp-stream", Congestion: "nosuch", To: here},
		"cannot assign requested":     {Test: "tcp-stream", To: netip.MustParseAddrPort("192.0.2.77:0")},
		"no address":                  {Test: "tcp-stream"},
	} {
		trial.Agent = to
		refused(t, want, p.Serve(trial, &lab.Serving{}))
	}
	refused(t, "serves no trial", p.Finish(to, &lab.Measured{}))
	trial := lab.Trial{Agent: to, Test: "tcp-rr", To: here}
	must(t, p.Serve(trial, &lab.Serving{}))
	refused(t, "busy", p.Serve(trial, &lab.Serving{}))
	refused(t, "nothing came", p.Finish(to, &lab.Measured{}))
	refused(t, "must be positive", p.Run(trial, &lab.Measured{}))
	refused(t, "no such agent", p.Run(lab.Trial{}, &lab.Measured{}))
	refused(t, "no such container", p.Start(lab.AgentAt{In: "c"}, &lab.Handle{}))
	refused(t, "processor 1000", p.Start(lab.AgentAt{In: "a", CPU: 1000}, &lab.Handle{}))
}

func refused(t *testing.T, want string, err error) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want an error with %q", err, want)
	}
}

// An agent ends a trial in bounded time, and can do the next, whether or not there is a peer. The test itself would
// wait without end.
func TestDeadPeer(t *testing.T) {
	for test := range tools {
		t.Run(test, func(t *testing.T) {
			t.Parallel()
			p := newPair(t)
			from, to := p.agent(t, "a", -1), p.agent(t, "b", -1)
			trial := lab.Trial{Agent: from, Test: test, To: netip.AddrPortFrom(p.v4, 9), For: 20 * time.Millisecond}
			refused(t, "connection refused", p.Run(trial, &lab.Measured{}))

			trial.To = netip.MustParseAddrPort("192.0.2.99:9")
			if err := p.Run(trial, &lab.Measured{}); err == nil {
				t.Error("measured to an address that nobody has")
			}

			// Cut the cable once traffic flows. A busy machine may do that only when the trial is over: then again.
			err := error(nil)
			for attempt := 0; err == nil && attempt < 5; attempt++ {
				trial.Agent, trial.To, trial.For = to, netip.AddrPortFrom(p.v4, 0), 500*time.Millisecond
				var s lab.Serving
				must(t, p.Serve(trial, &s))
				before := carried(t, p.b)
				cut := make(chan error, 1)
				go func() {
					for end := time.Now().Add(10 * time.Second); carried(t, p.b) < before+100; time.Sleep(time.Millisecond) {
						if time.Now().After(end) {
							cut <- errors.New("no traffic flows")
							return
						}
					}
					cut <- p.b.Do(func() error { return set(false) })
				}()
				trial.Agent, trial.To = from, netip.AddrPortFrom(p.v4, s.Port)
				err = p.Run(trial, &lab.Measured{})
				must(t, <-cut)
				_ = p.Finish(to, &lab.Measured{}) // datagrams may well have come before
				must(t, p.b.Do(func() error { return set(true) }))
			}
			if err == nil {
				t.Error("measured without a cable")
			}

			trial.To, trial.For = netip.AddrPortFrom(p.v4, 0), 20*time.Millisecond
			sent, received, err := p.trial(from, to, trial)
			// On a busy machine a neighbour that was looked for without a cable is taken for lost for a while.
			for end := time.Now().Add(10 * time.Second); err != nil && strings.Contains(err.Error(), unix.EHOSTUNREACH.Error()) && time.Now().Before(end); {
				sent, received, err = p.trial(from, to, trial)
			}
			must(t, err)
			check(t, trial, sent, received)
		})
	}
}

// carried is how many packets came to a namespace's eth0.
func carried(t *testing.T, s *space.Space) (n uint64) {
	if err := s.Do(func() error {
		h, err := netlink.NewHandle()
		if err != nil {
			return err
		}
		defer h.Close()
		l, err := h.LinkByName("eth0")
		if err == nil {
			n = l.Attrs().Statistics.RxPackets
		}
		return err
	}); err != nil {
		t.Error(err)
	}
	return n
}

// set sets eth0 of the namespace up or down.
func set(up bool) error {
	h, err := netlink.NewHandle()
	if err != nil {
		return err
	}
	defer h.Close()
	l, err := h.LinkByName("eth0")
	if err != nil {
		return err
	}
	if up {
		return h.LinkSetUp(l)
	}
	return h.LinkSetDown(l)
}

func TestAgentsEnd(t *testing.T) {
	p := newPair(t)
	one, two := p.agent(t, "a", -1), p.agent(t, "b", 0)
	trial := lab.Trial{Agent: two, Test: "tcp-crr", To: netip.AddrPortFrom(p.v4, 0)}
	must(t, p.Serve(trial, &lab.Serving{}))
	var pids []int
	for _, h := range []lab.Handle{one, two} {
		pids = append(pids, p.agents[h.ID].cmd.Process.Pid)
	}
	must(t, p.End(one, &lab.Nothing{}))
	refused(t, "no such agent", p.End(one, &lab.Nothing{}))
	must(t, p.Close())
	for _, pid := range pids {
		if err := unix.Kill(pid, 0); err != unix.ESRCH {
			t.Errorf("agent %d: %v", pid, err)
		}
	}
}

// An agent ends with its standard input, even while it serves.
func TestAgentEndsWithParent(t *testing.T) {
	p := newPair(t)
	h := p.agent(t, "b", -1)
	trial := lab.Trial{Agent: h, Test: "tcp-rr", To: netip.AddrPortFrom(p.v4, 0)}
	must(t, p.Serve(trial, &lab.Serving{}))
	c := p.agents[h.ID]
	must(t, c.Client.Close())
	if err := c.cmd.Wait(); err != nil {
		t.Error(err)
	}
	delete(p.agents, h.ID)
}

func TestSequence(t *testing.T) {
	for name, c := range map[string]struct {
		come []uint64
		sent uint64
		want sequence
	}{
		"all":       {[]uint64{0, 1, 2}, 3, sequence{next: 3}},
		"none":      {nil, 3, sequence{next: 3, lost: 3}},
		"gap":       {[]uint64{0, 3, 4}, 5, sequence{next: 5, lost: 2}},
		"first":     {[]uint64{2}, 3, sequence{next: 3, lost: 2}},
		"last":      {[]uint64{0}, 3, sequence{next: 3, lost: 2}},
		"late":      {[]uint64{0, 2, 1}, 3, sequence{next: 3, late: 1}},
		"gap, late": {[]uint64{1, 4, 0, 3}, 5, sequence{next: 5, lost: 1, late: 2}},
		"twice":     {[]uint64{0, 1, 1}, 2, sequence{next: 2, late: 1}},
	} {
		var s sequence
		for _, n := range c.come {
			s.add(n)
		}
		s.end(c.sent)
		if s != c.want {
			t.Errorf("%s: got %+v, want %+v", name, s, c.want)
		}
	}
}

func TestParseCounters(t *testing.T) {
	got := map[string]uint64{}
	must(t, parse("Tcp: RtoMin MaxConn RetransSegs\nTcp: 200 -1 17\nUdp: InErrors\nUdp: 3\n", got))
	want := map[string]uint64{"Tcp.RtoMin": 200, "Tcp.RetransSegs": 17, "Udp.InErrors": 3}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	for text, want := range map[string]string{
		"Tcp: A B\nTcp: 1\n": "line 2: names and values differ",
		"Tcp: A\nUdp: 1\n":   "line 2: names and values differ",
		"Tcp: A\nTcp: x\n":   "line 2: A:",
	} {
		refused(t, want, parse(text, map[string]uint64{}))
	}
}
