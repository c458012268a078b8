// Package host is the program on each machine of a lab. It lives in the machine's network namespace, makes the
// namespaces of its containers, carries steps out in them and undoes them, and offers the services that probe,
// capture and make traffic. It decides nothing: what is done stands in the steps.
package host

import (
	"errors"
	"fmt"
	"io"
	"net/rpc"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/modebench/modebench/topology/host/bgp"
	"github.com/modebench/modebench/topology/host/capture"
	"github.com/modebench/modebench/topology/host/cni"
	"github.com/modebench/modebench/topology/host/dhcp"
	"github.com/modebench/modebench/topology/host/dns"
	"github.com/modebench/modebench/topology/host/docker"
	"github.com/modebench/modebench/topology/host/gossip"
	"github.com/modebench/modebench/topology/host/ipam"
	"github.com/modebench/modebench/topology/host/probe"
	"github.com/modebench/modebench/topology/host/program"
	"github.com/modebench/modebench/topology/host/traffic"
	"github.com/modebench/modebench/topology/lab"
	"github.com/modebench/modebench/topology/space"
)

// Host is a machine's program: the namespaces that it holds, and what undoes every step that it carried out.
// Its exported methods are the Host verbs of package lab; they may overlap.
type Host struct {
	name     string
	capture  *capture.Service
	probes   *probe.Service
	speaker  *bgp.Service
	gossip   *gossip.Service
	programs *program.Service
	pools    *ipam.Service
	dhcp     *dhcp.Service
	names    *dns.Service
	plugins  *cni.Service
	engine   *docker.Service
	made     atomic.Int32             // devices with another end elsewhere
	sockets  map[int]*nl.SocketHandle // into the machine's own namespace, by protocol; nil: one is opened for each request

	mu     sync.Mutex
	spaces map[string]*space.Space // by container; "": the machine's own
	shared map[string]bool         // containers that live in another's namespace
	own    *netlinks               // sockets into the machine's own; nil: not needed yet
	owners map[string][]undo       // oldest first
	spare  *space.Space            // made while nothing asked for one; nil: none
	spawn  map[int]*process
	homes  map[string]*home // of containers, by name
}

// undo takes one step back. An undo inside of a container's namespace is needless where the namespace goes too.
type undo struct {
	in   string // the container whose namespace is changed; empty: the machine's own
	made string // the container whose namespace the step made; empty: none
	also bool   // done even where the namespace goes: it removes a device, whose parent or peer is then free at once, or tells others
	back func(*walk) error
}

// Collect lets the memory of a lab's programs grow to five times what is in use before it is collected, unless GOGC says something else, as it does in guests, which have little. What is
// in use is little, and most such programs live for seconds: to go through what packages have set up, again and again, took a seventh of the processor time of starting
// labs and asking in them.
func Collect() {
	if set := debug.SetGCPercent(400); set != 100 {
		debug.SetGCPercent(set)
	}
}

// Serve runs the program of the machine called name over one byte stream, until the stream ends. It then lets go of
// everything. The process must already be in the machine's network namespace, with all capabilities over it.
func Serve(name string, stream io.ReadWriteCloser) error {
	Collect()
	own, err := space.Current()
	if err != nil {
		return err
	}
	sockets, err := nl.Subscribe(unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("netlink: %w", err)
	}
	defer sockets.Close()
	h := &Host{
		name: name, sockets: map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: {Socket: sockets}}, capture: capture.New(name),
		spaces: map[string]*space.Space{"": own}, shared: map[string]bool{},
		owners: map[string][]undo{}, spawn: map[int]*process{}, homes: map[string]*home{},
	}
	defer h.capture.Close()
	if err := h.capture.Watch("", own); err != nil {
		return err
	}
	if err := h.walk(func(w *walk) error { return w.loopback(own) }); err != nil {
		return err
	}
	h.probes, h.speaker = probe.New(h.find), bgp.New(name)
	defer h.speaker.Close()
	h.gossip = gossip.New(name)
	defer h.gossip.Close()
	h.programs = program.New(name)
	defer h.programs.Close()
	h.pools = ipam.NewService(name)
	h.dhcp = dhcp.New(name, h.find)
	defer h.dhcp.Close()
	h.names = dns.New(h.find, h.probes.Ask)
	defer h.names.Close()
	h.plugins = cni.New(name, h.find)
	defer h.plugins.Close()
	h.engine = docker.New(name)
	defer h.engine.Close()
	agents := traffic.New(h.find)
	// Verbs that still wait for something when the stream ends would hold its end up.
	ended := sync.OnceFunc(func() {
		_ = h.probes.Close()
		_ = agents.Close()
		h.endSpawned()
		for _, c := range h.housed() {
			h.vacate(c)
		}
	})
	defer ended()
	s := rpc.NewServer()
	for verb, service := range map[string]any{"Host": h, "Capture": h.capture, "Probe": h.probes, "Traffic": agents, "BGP": h.speaker, "Gossip": h.gossip, "Program": h.programs, "IPAM": h.pools, "DHCP": h.dhcp, "DNS": h.names, "CNI": h.plugins, "Docker": h.engine} {
		if err := s.RegisterName(verb, service); err != nil {
			return err
		}
	}
	s.ServeConn(watched{stream, ended})
	return nil
}

// watched calls ended when the stream does.
type watched struct {
	io.ReadWriteCloser
	ended func()
}

func (w watched) Read(p []byte) (int, error) {
	n, err := w.ReadWriteCloser.Read(p)
	if err != nil {
		w.ended()
	}
	return n, err
}

// find returns the namespace of a container, or the machine's own for the empty name.
func (h *Host) find(container string) (*space.Space, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if s := h.spaces[container]; s != nil {
		return s, nil
	}
	return nil, fmt.Errorf("%s/%s: %w", h.name, container, errNoSpace)
}

// Apply is the verb Host.Apply.
func (h *Host) Apply(a lab.Apply, _ *lab.Nothing) error {
	return h.walk(func(w *walk) error {
		defer w.prepare(a.Steps)()
		var done []undo
		for _, s := range a.Steps {
			back, err := w.do(s)
			if err != nil {
				what := s.String()
				switch {
				case s.Engine != nil:
					what = "dockerd"
				case s.Space != nil && s.Space.Run == nil:
					what, _, _ = strings.Cut(what, "\n") // the settings that it begins with are many, and what is wrong with one says which
				case s.Space != nil && s.Space.Run != nil:
					what = "docker run " + s.Space.Run.Name
				case s.CNI != nil:
					what = "CNI plugins " + strings.Join(s.CNI.Plugins(), ", ") // the configuration is long, and the plan shows it
				}
				return errors.Join(fmt.Errorf("%s: %w", what, err), w.back(done))
			}
			if back != nil {
				u := undo{in: s.In, also: s.Link != nil || s.DHCP != nil, back: back}
				if s.Space != nil {
					u.made = s.Space.Name
				}
				done = append(done, u)
			}
		}
		if a.Owner == "" {
			return nil
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		h.owners[a.Owner] = append(h.owners[a.Owner], done...)
		return nil
	})
}

// Undo is the verb Host.Undo.
func (h *Host) Undo(u lab.Undo, _ *lab.Nothing) error {
	h.mu.Lock()
	done := h.owners[u.Owner]
	delete(h.owners, u.Owner)
	h.mu.Unlock()
	return h.walk(func(w *walk) error { return w.back(done) })
}

// back takes steps back, last first. What is gone already is as it should be.
func (w *walk) back(done []undo) error {
	going := map[string]bool{}
	for _, u := range done {
		if u.made != "" && !w.isShared(u.made) {
			going[u.made] = true
		}
	}
	var errs []error
	for i := len(done) - 1; i >= 0; i-- {
		u := done[i]
		if going[u.in] && !u.also {
			continue
		}
		if err := u.back(w); err != nil && !gone(err) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (h *Host) isShared(container string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.shared[container]
}

var (
	errNoSpace = errors.New("no such container here")
	errNoLink  = errors.New("no such device")
)

// gone tells whether an error says that what was to be removed is not there.
func gone(err error) bool {
	for _, e := range []error{unix.ENODEV, unix.ENOENT, unix.ESRCH, unix.EADDRNOTAVAIL, unix.ENXIO, errNoSpace, errNoLink} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// Attempt is the verb Host.Attempt.
func (h *Host) Attempt(a lab.Attempt, reply *lab.Refusal) error {
	var back func(*walk) error
	err := h.walk(func(w *walk) (err error) {
		if len(a.Without) == 0 {
			back, err = w.do(a.Step)
			return err
		}
		return space.Without(a.Without, func() error {
			back, err = w.do(a.Step)
			return err
		})
	})
	var errno unix.Errno
	var no *cni.Error
	var refused *docker.Error
	switch {
	case err == nil && back != nil:
		return h.walk(back)
	case err == nil:
		return nil
	case errors.As(err, &no):
		*reply = lab.Refusal{Errno: no.Symbol(), Text: err.Error()}
		return nil
	case errors.As(err, &refused):
		*reply = lab.Refusal{Errno: "Docker error", Text: err.Error()}
		return nil
	case errors.As(err, &errno):
		*reply = lab.Refusal{Errno: unix.ErrnoName(errno), Text: err.Error()}
		return nil
	default:
		return fmt.Errorf("%s: %w", a.Step, err)
	}
}

// Space is the verb Host.Space.
func (h *Host) Space(name string, reply *lab.SpaceState) error {
	of, err := h.find(name)
	if err != nil {
		return err
	}
	s, err := state(map[string]*space.Space{name: of}, everything)
	*reply = s.Spaces[name]
	return err
}

// State is the verb Host.State. A container that lives in another's namespace shows that one's state.
func (h *Host) State(_ lab.Nothing, reply *lab.State) error { return h.state(everything, reply) }

// Tracked is the verb Host.Tracked.
func (h *Host) Tracked(_ lab.Nothing, reply *lab.State) error { return h.state(tracked, reply) }

// Devices is the verb Host.Devices.
func (h *Host) Devices(_ lab.Nothing, reply *lab.State) error { return h.state(devices, reply) }

func (h *Host) state(of []part, reply *lab.State) error {
	h.mu.Lock()
	spaces, sharers := map[string]*space.Space{}, map[string]uint64{}
	for name, s := range h.spaces {
		if h.shared[name] {
			sharers[name] = s.Inode()
		} else {
			spaces[name] = s
		}
	}
	h.mu.Unlock()
	s, err := state(spaces, of)
	if err != nil {
		return err
	}
	for name, inode := range sharers {
		for owner, of := range spaces {
			if of.Inode() == inode {
				s.Spaces[name] = s.Spaces[owner]
			}
		}
	}
	*reply = s
	return nil
}
