package traffic

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"net/rpc"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"golang.org/x/sys/unix"

	"github.com/modebench/modebench/topology/lab"
)

// patience is how long an end waits for a peer beyond what the trial takes.
const patience = 2 * time.Second

// Main is an agent: it serves Serve, Run and Finish to the process that started it, by net/rpc on standard input and
// output, until that closes its end. The caller then ends the process.
//
// Loops that measure call the kernel behind the scheduler's back (unix.RawSyscall), which is what makes them as quick
// as C: a blocked call keeps its P, so no goroutine can be stopped meanwhile. Hence no collector while a trial runs,
// more Ps than loops, and a process that does nothing else.
func Main() error {
	debug.SetGCPercent(-1)
	server := rpc.NewServer()
	if err := server.RegisterName("Agent", &agent{}); err != nil {
		return err
	}
	gone := make(chan struct{})
	go server.ServeConn(stdio{&watched{Reader: os.Stdin, gone: gone}, os.Stdout})
	<-gone
	return nil
}

type stdio struct {
	io.Reader
	io.WriteCloser
}

// watched tells when there is no more to read: the server itself would wait for calls in progress first.
type watched struct {
	io.Reader
	gone chan struct{}
	once sync.Once
}

func (w *watched) Read(b []byte) (int, error) {
	n, err := w.Reader.Read(b)
	if err != nil {
		w.once.Do(func() { close(w.gone) })
	}
	return n, err
}

type agent struct {
	busy    atomic.Bool
	mu      sync.Mutex
	serving *end
}

// An end is one end of a trial.
type end struct {
	lab.Trial
	tool
	addr       address
	congestion string // to be set on each socket; empty: need not
	inForce    string
	listener   int
	flows      []*flow
	epoch      time.Time
	memory     []byte      // of all flows
	closing    atomic.Bool // what ends now is meant to end
	done       chan struct{}
	before     counters
	first      sync.Once
	cpu        time.Duration // at the start
	accepting  sync.Mutex
}

// A flow is one of a trial's parallel streams at one end, worked by a goroutine of its own. Times are since the epoch.
type flow struct {
	*end
	fd         atomic.Int64 // -1: none
	buf        []byte       // to send from or to receive into
	from, last time.Duration
	operations uint64
	bytes      uint64
	outOfOrder uint64
	lost       uint64
	dropped    uint64
	buffer     int
	latency    *hdrhistogram.Histogram
	err        error
}

// A tool is how one test is done.
type tool struct {
	kind            int // of socket
	size, least     int // of a message, bytes: where the trial leaves it open; at least
	usual           string
	sends, receives map[string]func(*flow) error // by Trial.Send and Trial.Receive
	dial            func(*flow) error            // what comes before the sending end's time begins
	accept          func(*flow) error            // its counterpart
	records         bool                         // latencies
}

var tools = map[string]tool{
	"tcp-stream": {
		kind: unix.SOCK_STREAM, size: 128 << 10, least: 1, usual: "copy", dial: connect, accept: accept,
		sends:    map[string]func(*flow) error{"copy": write, "sendfile": sendfile},
		receives: map[string]func(*flow) error{"copy": read, "trunc": discard},
	},
	"tcp-rr": {
		kind: unix.SOCK_STREAM, size: 64, least: 1, usual: "copy", dial: connect, accept: accept, records: true,
		sends:    map[string]func(*flow) error{"copy": request},
		receives: map[string]func(*flow) error{"copy": respond},
	},
	"tcp-crr": {
		kind: unix.SOCK_STREAM, size: 64, least: 1, usual: "copy", dial: knock, accept: listen, records: true,
		sends:    map[string]func(*flow) error{"copy": requestEach},
		receives: map[string]func(*flow) error{"copy": respondEach},
	},
	"udp-stream": {
		kind: unix.SOCK_DGRAM, size: 1400, least: header, usual: "batch", dial: hello, accept: welcome,
		sends:    map[string]func(*flow) error{"copy": sendOne, "batch": sendBatch, "gso": sendSegments},
		receives: map[string]func(*flow) error{"copy": receiveOne, "batch": receiveBatch, "gro": receiveSegments},
	},
}

// garbage is how much an agent lets lie between trials, bytes.
const garbage = 32 << 20

var heap = []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}} // read by begin alone, one at a time

// begin readies the process for a trial, while none runs.
func (a *agent) begin(t lab.Trial) (e *end, err error) {
	if !a.busy.CompareAndSwap(false, true) {
		return nil, errors.New("busy with another trial")
	}
	defer func() {
		if err != nil {
			a.busy.Store(false)
		}
	}()
	tool, ok := tools[t.Test]
	if !ok {
		return nil, fmt.Errorf("no test %q", t.Test)
	}
	if t.Streams == 0 {
		t.Streams = 1
	}
	if t.Size == 0 {
		t.Size = tool.size
	}
	if t.Send == "" {
		t.Send = tool.usual
	}
	if t.Receive == "" {
		t.Receive = tool.usual
	}
	switch {
	case t.Streams < 1 || t.Streams > 64:
		return nil, fmt.Errorf("%d streams: 1 to 64", t.Streams)
	case t.Size < tool.least || tool.kind == unix.SOCK_DGRAM && t.Size > largest:
		return nil, fmt.Errorf("size %d: out of range", t.Size)
	case tool.sends[t.Send] == nil:
		return nil, fmt.Errorf("no way to send %q", t.Send)
	case tool.receives[t.Receive] == nil:
		return nil, fmt.Errorf("no way to receive %q", t.Receive)
	}
	if metrics.Read(heap); heap[0].Value.Uint64() > garbage { // it takes longer than a short trial's sockets
		runtime.GC()
	}
	if n := t.Streams + 3; runtime.GOMAXPROCS(0) < n {
		runtime.GOMAXPROCS(n)
	}
	e = &end{Trial: t, tool: tool, listener: -1, epoch: time.Now(), done: make(chan struct{})}
	if e.addr, err = resolve(t.To); err != nil {
		return nil, err
	}
	each := max(most*t.Size, joint) // a batch
	if tool.kind == unix.SOCK_STREAM {
		each = t.Size
		if err := e.chooseCongestion(); err != nil {
			return nil, err
		}
	}
	if e.memory, err = memory(t.Streams * each); err != nil {
		return nil, err
	}
	for i := range t.Streams {
		f := &flow{end: e, buf: e.memory[i*each:][:each]}
		f.fd.Store(-1)
		e.flows = append(e.flows, f)
	}
	return e, nil
}

// work has every flow do f, in a goroutine of its own, once start is closed.
func (e *end) work(start <-chan struct{}, f func(*flow) error) {
	var wg sync.WaitGroup
	for _, fl := range e.flows {
		wg.Go(func() {
			<-start
			fl.err = f(fl)
		})
	}
	go func() { wg.Wait(); close(e.done) }()
}

// ended waits for the flows.
func (e *end) ended(within time.Duration) bool {
	select {
	case <-e.done:
		return true
	case <-time.After(within):
		return false
	}
}

// shut wakes up whatever waits for the peer.
func (e *end) shut() {
	for _, f := range e.flows {
		if fd := f.fd.Load(); fd >= 0 {
			_ = unix.Shutdown(int(fd), unix.SHUT_RDWR) // unconnected ones are woken up all the same
		}
	}
}

var errStuck = errors.New("does not end")

// Run is the sending end.
func (a *agent) Run(t lab.Trial, m *lab.Measured) error {
	e, err := a.begin(t)
	if err != nil {
		return fmt.Errorf("%s: %w", t.Test, err)
	}
	if err := e.run(m); err != nil {
		if !errors.Is(err, errStuck) {
			a.busy.Store(false)
		}
		return fmt.Errorf("%s to %s: %w", t.Test, t.To, err)
	}
	a.busy.Store(false)
	return nil
}

func (e *end) run(m *lab.Measured) (err error) {
	if e.For <= 0 {
		return fmt.Errorf("time %s: must be positive", e.For)
	}
	for _, f := range e.flows {
		if e.records {
			f.latency = hdrhistogram.New(1, int64(time.Minute), 3)
		}
		if err := e.dial(f); err != nil {
			e.close()
			return err
		}
	}
	if e.before, err = count(); err != nil {
		e.close()
		return err
	}
	start := make(chan struct{})
	e.work(start, e.sends[e.Send])
	e.cpu = consumed()
	e.epoch = time.Now()
	close(start)
	if !e.ended(e.For + patience) {
		e.shut()
		if !e.ended(patience) {
			return errStuck
		}
		e.close()
		return fmt.Errorf("peer silent for %s", patience)
	}
	defer e.close()
	return e.measured(m)
}

// close is for when the flows have ended.
func (e *end) close() {
	for _, f := range e.flows {
		if fd := f.fd.Swap(-1); fd >= 0 {
			_ = unix.Close(int(fd))
		}
	}
	if e.listener >= 0 {
		_ = unix.Close(e.listener)
	}
	_ = unix.Munmap(e.memory)
}

// Serve is the receiving end.
func (a *agent) Serve(t lab.Trial, r *lab.Serving) error {
	e, err := a.begin(t)
	if err != nil {
		return fmt.Errorf("%s: %w", t.Test, err)
	}
	if err := e.serve(r); err != nil {
		e.close()
		a.busy.Store(false)
		return fmt.Errorf("%s at %s: %w", t.Test, t.To, err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.serving = e
	return nil
}

func (e *end) serve(r *lab.Serving) (err error) {
	if e.listener, err = e.socket(); err != nil {
		return err
	}
	bound, err := e.bind(e.listener)
	if err != nil {
		return err
	}
	if e.addr, err = resolve(netip.AddrPortFrom(e.To.Addr(), bound)); err != nil {
		return err
	}
	if e.kind == unix.SOCK_STREAM {
		if err := unix.Listen(e.listener, unix.SOMAXCONN); err != nil {
			return fmt.Errorf("listen: %w", err)
		}
	}
	if e.before, err = count(); err != nil {
		return err
	}
	e.cpu = consumed()
	start := make(chan struct{})
	close(start)
	receive := e.receives[e.Receive]
	e.work(start, func(f *flow) error {
		if err := e.accept(f); err != nil {
			return err
		}
		return receive(f)
	})
	r.Port = bound
	return nil
}

// Finish ends the receiving end.
func (a *agent) Finish(_ lab.Nothing, m *lab.Measured) error {
	a.mu.Lock()
	e := a.serving
	a.serving = nil
	a.mu.Unlock()
	if e == nil {
		return errors.New("serves no trial")
	}
	if err := e.finish(m); err != nil {
		if !errors.Is(err, errStuck) {
			a.busy.Store(false)
		}
		return fmt.Errorf("%s at %s: %w", e.Test, e.To, err)
	}
	a.busy.Store(false)
	return nil
}

func (e *end) finish(m *lab.Measured) error {
	e.closing.Store(true)
	_ = unix.Shutdown(e.listener, unix.SHUT_RDWR) // unconnected ones are woken up all the same
	if e.kind == unix.SOCK_DGRAM {
		e.shut() // datagrams know no end of file
	}
	if !e.ended(patience) {
		e.shut()
		if !e.ended(patience) {
			return errStuck
		}
		e.close()
		return errors.New("peer did not end its side")
	}
	defer e.close()
	return e.measured(m)
}

// now is the time since the epoch.
func (e *end) now() time.Duration { return time.Since(e.epoch) }

// begun is called by a flow of the receiving end with its first data.
func (f *flow) begun() {
	f.from = f.now()
	f.last = f.from
	f.first.Do(func() { f.cpu = consumed() })
}

// measured adds up what the flows saw.
func (e *end) measured(m *lab.Measured) error {
	m.CPUSeconds = (consumed() - e.cpu).Seconds()
	for _, f := range e.flows {
		if f.err != nil {
			return f.err
		}
	}
	after, err := count()
	if err != nil {
		return err
	}
	var from, last time.Duration
	var all *hdrhistogram.Histogram
	for _, f := range e.flows {
		if f.bytes == 0 { // of those that share a port, one may get nothing
			continue
		}
		if m.Bytes == 0 {
			from = f.from
		}
		from, last = min(from, f.from), max(last, f.last)
		m.Operations += f.operations
		m.Bytes += f.bytes
		m.OutOfOrder += f.outOfOrder
		m.Lost += f.lost
		m.Dropped += f.dropped
		m.Buffer = f.buffer
		if all == nil {
			all = f.latency
		} else {
			all.Merge(f.latency)
		}
	}
	if m.Bytes == 0 {
		return errNobody
	}
	m.Seconds = (last - from).Seconds()
	if all != nil {
		if m.Latency, err = all.Encode(hdrhistogram.V2CompressedEncodingCookieBase); err != nil {
			return fmt.Errorf("histogram: %w", err)
		}
	}
	if e.kind == unix.SOCK_STREAM {
		m.Retransmits = after.retransmits - e.before.retransmits
		m.DSACKs = after.dsacks - e.before.dsacks
		m.OutOfOrder = after.outOfOrder - e.before.outOfOrder
		m.Congestion = e.inForce
	}
	return nil
}
