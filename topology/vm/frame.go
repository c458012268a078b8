package vm

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
)

// greeting is the first thing that a guest says on its line. A line knows no connections, so what comes before the
// greeting belongs to nobody.
const greeting = "\nmodebench guest 1\n"

// What is said on a line after the greeting are frames: a kind, the length of what follows in four bytes, most
// significant first, and as many bytes. A line has no end of file, nor a place for an exit status; these have both.
const (
	frameRequest = 'r' // outside: request; guest: reply
	frameData    = 'd' // the program's input, or output
	frameEnd     = 'e' // outside: the program's input ended; guest: ended, as JSON
	frameRead    = 'k' // guest, of UML: it has read creditMax bytes more
)

// frameMax bounds a frame: no more is ever written in one, and a longer one is a sign of a line that garbles.
const frameMax = 64 << 10

// frames writes frames to a line. Its methods may be called at the same time.
type frames struct {
	mu sync.Mutex
	w  io.Writer
}

func (f *frames) write(kind byte, payload []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	head := binary.BigEndian.AppendUint32([]byte{kind}, uint32(len(payload)))
	_, err := f.w.Write(append(head, payload...))
	return err
}

// Write sends data.
func (f *frames) Write(p []byte) (n int, err error) {
	for len(p) > 0 {
		part := p[:min(len(p), frameMax)]
		if err := f.write(frameData, part); err != nil {
			return n, err
		}
		n += len(part)
		p = p[len(part):]
	}
	return n, nil
}

func readFrame(r io.Reader) (kind byte, payload []byte, err error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(head[1:])
	if n > frameMax || !strings.ContainsRune("rdek", rune(head[0])) {
		return 0, nil, fmt.Errorf("line to the guest: a frame begins with % x: want one of kind r, d, e or k of at most %d bytes", head, frameMax)
	}
	payload = make([]byte, n)
	if _, err := io.ReadFull(r, payload); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return 0, nil, err
	}
	return head[0], payload, nil
}

// A serial line of UML must never hold as much unread as makes its terminal ask for a pause, which are 3968 of the 4096 bytes
// that it can hold (n_tty_check_throttle() of Linux drivers/tty/n_tty.c). UML then no longer waits for input of the line, and
// nothing has it wait again: line_throttle() of arch/um/drivers/line.c takes the descriptor out of those that interrupt, and
// line_unthrottle() reads what there is at that moment, but does not put it back. So no more than two credits are ever
// unread, and the guest says when it has read one.
const creditMax = 1 << 10

// paced writes to a line no faster than the guest reads.
type paced struct {
	w    io.Writer
	left int           // bytes that may be written now
	more chan struct{} // one for each credit that was read; closed: nobody reads any more
}

func newPaced(w io.Writer) *paced {
	return &paced{w: w, left: 2 * creditMax, more: make(chan struct{}, 2)}
}

func (p *paced) Write(b []byte) (n int, err error) {
	for n < len(b) {
		if p.left == 0 {
			if _, ok := <-p.more; !ok {
				return n, io.ErrClosedPipe
			}
			p.left = creditMax
		}
		m, err := p.w.Write(b[n:min(len(b), n+p.left)])
		n, p.left = n+m, p.left-m
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// confirming reads a line, and says how much was read.
type confirming struct {
	r    io.Reader
	out  *frames
	read int // bytes of a credit
}

func (c *confirming) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	for c.read += n; c.read >= creditMax; c.read -= creditMax {
		err = errors.Join(err, c.out.write(frameRead, nil))
	}
	return n, err
}

// awaitGreeting reads until after the greeting.
func awaitGreeting(r *bufio.Reader) error {
	matched := 0
	for matched < len(greeting) {
		c, err := r.ReadByte()
		if err != nil {
			return err
		}
		switch c {
		case greeting[matched]:
			matched++
		case greeting[0]: // occurs at the beginning and the end only, so no other prefix can be under way
			matched = 1
		default:
			matched = 0
		}
	}
	return nil
}

// request is what a guest is asked to do.
type request struct {
	Name    string   // host name
	Modules []string // names, in the order to load them
	Args    []string // of the program; none: only be there
}

// reply answers a request, before the program starts.
type reply struct {
	Seconds float64           // for the modules
	Refused map[string]string // modules that the kernel did not take, with its words
}

// ended tells how the program ended.
type ended struct {
	Error string // "": well
	Words string // the last of its standard error
}
