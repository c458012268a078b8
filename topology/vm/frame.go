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
	if n > frameMax || !strings.ContainsRune("rde", rune(head[0])) {
		return 0, nil, fmt.Errorf("line to the guest: a frame begins with % x: want one of kind r, d or e of at most %d bytes", head, frameMax)
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
