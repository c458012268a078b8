// Package ssh is the driver whose hosts are real machines, reached by the system's ssh client. On each machine of a plan the driver's
// own program (Main) makes an empty network namespace, takes the interfaces that the inventory names into it, and has the program of a host live
// in it. So a machine's own addresses, routes, packet filters and settings are never touched, and what the lab makes goes with the namespace; what the
// machine has of the interfaces is recorded before and put back after, also when nothing is heard of the driver any more.
package ssh

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"os/signal"
	"time"

	"golang.org/x/sys/unix"

	"github.com/modebench/modebench/topology/host"
	"github.com/modebench/modebench/topology/space"
)

// greeting is the first line that the program on a real machine writes. What comes before it, as by a shell's own files, belongs to nobody.
const greeting = "modebench site 1\n"

// request is what a driver asks of its program on a real machine.
type request struct {
	Name     string     // of the plan's machine
	Owns     []host.Own // interfaces to take
	Cables   []cable    // to machines beside it
	Look     bool       // only find the interfaces
	Features []string   // with Look: tell which of these the kernel lacks
}

// cable is a veth pair to a machine of the plan that is on the same real one.
type cable struct {
	Near, Far host.NIC
	Process   int // of the far machine's program
}

// reply answers a request.
type reply struct {
	Error   string            // it cannot be; "": it can
	Process int               // of the machine's program
	Found   []host.Found      // its interfaces
	Release string            // of the kernel
	Missing map[string]string // of the features, with the kernel's words
}

// grace is how long the program of a host may take to end by itself.
const grace = 15 * time.Second

// Main is the program on a real machine, for one machine of a plan. session is what sshd says of its session in SSH_CONNECTION. The command calls it
// for `modebench site`. It ends with its input, when nothing was heard for a while, or at a signal, and has then put everything back.
func Main(session string, in io.Reader, out io.Writer) error {
	// A session that is gone must not end this program before it has put everything back.
	signal.Ignore(unix.SIGPIPE, unix.SIGHUP)
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	ctx, lost := context.WithCancel(ctx)
	defer lost()
	if _, err := io.WriteString(out, greeting); err != nil {
		return err
	}
	l := newLine(in, out, lost)
	over := make(chan struct{})
	defer close(over)
	go l.beats(over)
	from := json.NewDecoder(l)
	var r request
	if err := from.Decode(&r); err != nil {
		return fmt.Errorf("request: %w", err)
	}
	if r.Look {
		return l.say(look(r, session))
	}
	s := &site{words: &bytes.Buffer{}}
	said := &held{l, make(chan struct{})}
	process, found, err := s.start(ctx, r, session, said)
	a := reply{Process: process, Found: found}
	if err != nil {
		a.Error = err.Error()
	}
	gone := l.say(a)
	close(said.answered)
	if err != nil || gone != nil {
		return errors.Join(gone, s.end())
	}
	go func() {
		defer lost()
		_, _ = io.Copy(s.in, io.MultiReader(from.Buffered(), l)) // until either end is gone
	}()
	select {
	case <-ctx.Done():
	case <-s.ended:
	}
	return s.end()
}

// look finds what there is.
func look(r request, session string) (out reply) {
	found, err := host.Find(r.Owns, session)
	if err != nil {
		return reply{Error: err.Error()}
	}
	out.Found, out.Missing = found, map[string]string{}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return reply{Error: err.Error()}
	}
	out.Release = unix.ByteSliceToString(u.Release[:])
	missing, err := host.Kernel(r.Features)
	if err != nil {
		return reply{Error: "network namespaces cannot be made: " + err.Error()}
	}
	for name, err := range missing {
		out.Missing[name] = err.Error()
	}
	return out
}

// held writes to a line after the request was answered.
type held struct {
	io.Writer
	answered chan struct{}
}

func (h *held) Write(p []byte) (int, error) {
	<-h.answered
	return h.Writer.Write(p)
}

// site is a machine of a plan on a real one.
type site struct {
	cmd   *exec.Cmd // the host's program; nil: not started
	in    io.WriteCloser
	words *bytes.Buffer // what the program says when it fails
	ended chan struct{} // closed when it has ended
	err   error         // as it has
	space *space.Space
	taken *host.Taken // nil: nothing was
}

// start starts the program of a machine, whose output goes to out, in a namespace that has its interfaces.
func (s *site) start(ctx context.Context, r request, session string, out *held) (int, []host.Found, error) {
	cmd := exec.Command(space.Self, "host", r.Name)
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = out, s.words, time.Second
	var err error
	if s.in, err = cmd.StdinPipe(); err != nil {
		return 0, nil, err
	}
	space.Isolate(cmd)
	if err := space.Start(cmd); err != nil {
		return 0, nil, fmt.Errorf("network namespaces cannot be made: %w", err)
	}
	s.cmd, s.ended = cmd, make(chan struct{})
	go func() {
		s.err = cmd.Wait()
		close(s.ended)
	}()
	if s.space, err = space.Of(cmd.Process.Pid); err != nil {
		return 0, nil, err
	}
	var found []host.Found
	// A lab that was here may be ending still.
	late := time.NewTimer(2 * patience)
	defer late.Stop()
	again := time.NewTicker(100 * time.Millisecond)
	defer again.Stop()
	for {
		if s.taken, found, err = host.Take(r.Owns, session, s.space); !errors.Is(err, host.ErrAway) {
			break
		}
		select {
		case <-again.C:
			continue
		case <-late.C:
		case <-ctx.Done():
		}
		break
	}
	if err != nil {
		return 0, nil, err
	}
	for i, c := range r.Cables {
		far, err := space.Of(c.Process)
		if err != nil {
			return 0, nil, err
		}
		if err := errors.Join(host.Lay(i, c.Near, s.space, c.Far, far), far.Close()); err != nil {
			return 0, nil, fmt.Errorf("cable %s: %w", c.Near.Name, err)
		}
	}
	return cmd.Process.Pid, found, nil
}

// end ends the program and puts everything back.
func (s *site) end() (err error) {
	if s.cmd != nil {
		_ = s.in.Close() // its end is the signal to stop; it may have been closed before
		late := time.AfterFunc(grace, func() { _ = s.cmd.Process.Kill() })
		<-s.ended
		late.Stop()
		if s.err != nil {
			err = fmt.Errorf("program of the machine: %w: %s", s.err, bytes.TrimSpace(s.words.Bytes()))
		}
	}
	if s.taken != nil {
		err = errors.Join(err, s.taken.Back())
	}
	if s.space != nil {
		err = errors.Join(err, s.space.Close())
	}
	return err
}
