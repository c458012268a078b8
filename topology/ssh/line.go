package ssh

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"io"
	"sync"
	"time"
)

// line carries a stream in both directions between a driver and its program on a real machine, and shows that the other end is there: what is
// said on it are frames of two bytes of length, most significant first, and as many bytes. An empty one says nothing but that. Without it, a machine
// whose network is gone would not learn for hours that its lab is (tcp(7), tcp_keepalive_time).
type line struct {
	from   *bufio.Reader
	left   int         // bytes of the frame that is being read
	silent *time.Timer // runs out where nothing was heard for patience

	mu sync.Mutex
	to io.Writer
}

const (
	beat     = 2 * time.Second
	patience = time.Minute     // many beats: a machine may have much else to do
	starting = 3 * time.Minute // a session and the program take long on emulated processors
)

// newLine makes a line. lost is called once nothing was heard for patience, and at first for starting.
func newLine(from io.Reader, to io.Writer, lost func()) *line {
	return &line{from: bufio.NewReader(from), to: to, silent: time.AfterFunc(starting, lost)}
}

// beats says that this end is there until over is closed.
func (l *line) beats(over <-chan struct{}) {
	tick := time.NewTicker(beat)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if l.frame(nil) != nil {
				return
			}
		case <-over:
			return
		}
	}
}

func (l *line) frame(p []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, err := l.to.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(p))), p...))
	return err
}

// say sends a value as JSON, and nothing after it: what follows it on the line is somebody else's.
func (l *line) say(v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = l.Write(data)
	return err
}

// Write sends data.
func (l *line) Write(p []byte) (n int, err error) {
	for n < len(p) {
		part := p[n:min(len(p), n+0xffff)]
		if err := l.frame(part); err != nil {
			return n, err
		}
		n += len(part)
	}
	return n, nil
}

// Read reads data. It is called all the time, or the line would be taken for a silent one.
func (l *line) Read(p []byte) (int, error) {
	for l.left == 0 {
		var head [2]byte
		if _, err := io.ReadFull(l.from, head[:]); err != nil {
			l.silent.Stop()
			return 0, err
		}
		l.silent.Reset(patience)
		l.left = int(binary.BigEndian.Uint16(head[:]))
	}
	n, err := l.from.Read(p[:min(len(p), l.left)])
	l.left -= n
	return n, err
}
