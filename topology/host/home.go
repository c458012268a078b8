package host

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/modebench/modebench/topology"
	"github.com/modebench/modebench/topology/lab"
	"github.com/modebench/modebench/topology/space"
)

// home is what a container has besides its network: an /etc that its processes alone see, one that it lives for, and those that carry its
// ports on.
type home struct {
	etc *space.Private

	mu     sync.Mutex
	life   *process            // nil: it lives for none
	says   *json.Decoder       // what the process writes
	relays map[string]*process // by protocol and port
}

// home is that of a container, made when it is first asked for.
func (h *Host) home(container string) (*home, error) {
	in, err := h.find(container)
	if err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.homes[container] == nil {
		if err := os.Mkdir("/etc", 0o755); err != nil && !errors.Is(err, fs.ErrExist) { // a guest's first files hold none
			return nil, err
		}
		etc, err := space.NewPrivate(in, "/etc")
		if err != nil {
			return nil, err
		}
		h.homes[container] = &home{etc: etc, relays: map[string]*process{}}
	}
	return h.homes[container], nil
}

// isHome tells whether a container still has this one.
func (h *Host) isHome(container string, of *home) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.homes[container] == of
}

func (h *Host) housed() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Collect(maps.Keys(h.homes))
}

// vacate ends what a container has besides its network, which would keep that alive.
func (h *Host) vacate(container string) {
	h.mu.Lock()
	of := h.homes[container]
	delete(h.homes, container)
	h.mu.Unlock()
	if of != nil {
		_ = of.end()
		of.mu.Lock()
		defer of.mu.Unlock()
		for _, p := range of.relays {
			_ = p.end()
		}
		_ = of.etc.Close()
	}
}

// tell writes /etc/hosts. Processes that run already read it, too.
func (o *home) tell(text string) (undo func() error, err error) {
	was, err := o.etc.ReadFile("hosts")
	undo = func() error { return o.etc.WriteFile("hosts", was, 0o644) }
	if errors.Is(err, fs.ErrNotExist) {
		undo, err = func() error { return o.etc.Remove("hosts") }, nil
	}
	if err != nil {
		return nil, err
	}
	return undo, o.etc.WriteFile("hosts", []byte(text), 0o644)
}

// launch starts a process of the container's, which ends with its standard input, and gives what it writes.
func (o *home) launch(cmd *exec.Cmd) (*process, io.Reader, error) {
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, nil, err
	}
	return &process{cmd: cmd, in: in}, out, o.etc.Start(cmd)
}

// live starts the process with that environment.
func (o *home) live(env []string) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.life != nil {
		return fmt.Errorf("a process that the container lives for: %w", unix.EEXIST)
	}
	cmd := exec.Command(space.Self, "idle")
	cmd.Env, cmd.Stderr = append([]string{}, env...), os.Stderr
	p, out, err := o.launch(cmd)
	if err != nil {
		return err
	}
	says := json.NewDecoder(out)
	if err := says.Decode(&map[string]uint64{}); err != nil { // it is there
		return errors.Join(err, p.end())
	}
	o.life, o.says = p, says
	return nil
}

// end ends the process.
func (o *home) end() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	p := o.life
	if o.life = nil; p == nil {
		return nil
	}
	return p.end()
}

// carried is what a relay is called.
func carried(r topology.Relay) string { return fmt.Sprintf("%s %d", r.Proto, r.Port) }

// carry starts a process that carries a port on, and returns when it has the port.
func (o *home) carry(r topology.Relay) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.relays[carried(r)] != nil {
		return fmt.Errorf("relay of %s: %w", carried(r), unix.EEXIST)
	}
	var failed bytes.Buffer
	cmd := exec.Command(space.Self, "relay", r.Proto, fmt.Sprint(r.Port), r.To.String())
	cmd.Env, cmd.Stderr = []string{}, &failed
	p, out, err := o.launch(cmd)
	if err != nil {
		return err
	}
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil { // it has ended, and said why
		_ = cmd.Wait()
		return fmt.Errorf("relay of %s: %s", carried(r), bytes.TrimSpace(failed.Bytes()))
	}
	o.relays[carried(r)] = p
	return nil
}

// stopCarrying ends the process.
func (o *home) stopCarrying(r topology.Relay) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	p := o.relays[carried(r)]
	if p == nil {
		return fmt.Errorf("relay of %s: %w", carried(r), unix.ENOENT)
	}
	delete(o.relays, carried(r))
	return p.end()
}

// Environ is the verb Host.Environ.
func (h *Host) Environ(container string, reply *[]string) error {
	h.mu.Lock()
	of := h.homes[container]
	h.mu.Unlock()
	if of != nil {
		of.mu.Lock()
		defer of.mu.Unlock()
	}
	if of == nil || of.life == nil {
		return fmt.Errorf("%s/%s: lives for no process", h.name, container)
	}
	if _, err := io.WriteString(of.life.in, "\n"); err != nil {
		return err
	}
	return of.says.Decode(reply)
}

// Resolve is the verb Host.Resolve.
func (h *Host) Resolve(a lab.Resolve, reply *[]netip.Addr) error {
	of, err := h.home(a.In)
	if err != nil {
		return err
	}
	var out bytes.Buffer
	cmd := exec.Command(space.Self, "lookup", a.Name)
	cmd.Env, cmd.Stdout, cmd.Stderr = []string{}, &out, os.Stderr
	if err := of.etc.Start(cmd); err != nil {
		return err
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("%s/%s: look %q up: %w", h.name, a.In, a.Name, err)
	}
	return json.Unmarshal(out.Bytes(), reply)
}

// Resolve is what is run in a container to look a name up: it writes the addresses. A fresh process, since one that runs keeps
// what it read of /etc/hosts for a while.
func Resolve(name string, out io.Writer) error {
	found, err := (&net.Resolver{PreferGo: true}).LookupNetIP(context.Background(), "ip4", name)
	if unknown := (*net.DNSError)(nil); err != nil && !errors.As(err, &unknown) {
		return err
	}
	for i, a := range found {
		found[i] = a.Unmap()
	}
	return json.NewEncoder(out).Encode(found)
}
