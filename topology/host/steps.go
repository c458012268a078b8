package host

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/modebench/modebench/topology"
	"github.com/modebench/modebench/topology/host/docker"
	"github.com/modebench/modebench/topology/space"
)

// netlinks are sockets into one namespace.
type netlinks struct {
	*netlink.Handle
	fd int // for ioctl(2)
}

// openNetlinks opens them in the namespace of the calling thread.
func openNetlinks() (*netlinks, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	// Not NewHandleAt: it reads the namespace to come back to by process id, which is another's in a PID namespace of
	// its own below the machine's /proc.
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("netlink: %w", err), unix.Close(fd))
	}
	return &netlinks{h, fd}, nil
}

func (n *netlinks) close() {
	n.Close()
	_ = unix.Close(n.fd)
}

// walk carries steps out on a thread that goes from namespace to namespace as they ask. It keeps what it opened in the
// container where it was last: the next step is likely to be there too.
type walk struct {
	*Host
	thread   *space.Walker
	last     string
	nl       *netlinks    // of last; nil: none
	settings settings     // of last
	ahead    <-chan ready // namespaces that are being made ahead; nil: none are
	restock  bool         // the spare namespace was asked for
}

// ready is a namespace with its loopback up, or why there is none.
type ready struct {
	space *space.Space
	err   error
}

// prepare makes the namespaces that the steps ask for ahead of them, on another thread, until what it returns is
// called. That is most of the work that needs no lock of all devices (RTNL); a third thread would only wait for that.
func (w *walk) prepare(steps []topology.Step) (stop func()) {
	var want []bool // of each, whether it begins with the settings of Defaults
	for _, s := range steps {
		if s.Space != nil && s.Space.Share == "" && s.Space.Run == nil && !s.Remove {
			want = append(want, s.Space.Defaults)
		}
	}
	if len(want) < 2 {
		return func() {}
	}
	made, quit := make(chan ready, 16), make(chan struct{})
	go func() {
		defer close(made)
		err := w.Host.walk(func(w *walk) error {
			for _, defaults := range want {
				s, err := w.newSpace(defaults)
				if err != nil {
					return err
				}
				select {
				case made <- ready{space: s}:
				case <-quit:
					return s.Close()
				}
			}
			return nil
		})
		if err != nil {
			select {
			case made <- ready{err: err}:
			case <-quit:
			}
		}
	}()
	w.ahead = made
	return func() {
		close(quit)
		for r := range made {
			if r.err == nil {
				_ = r.space.Close()
			}
		}
		w.ahead = nil
	}
}

// takeSpace takes a namespace that was made ahead, or else the spare one, or else makes one. The spare one is as those are that come one by one: with
// settings.
func (w *walk) takeSpace(defaults bool) (*space.Space, error) {
	if w.ahead != nil {
		if r, ok := <-w.ahead; ok {
			return r.space, r.err
		}
	}
	if !defaults {
		return w.newSpace(false)
	}
	w.mu.Lock()
	s := w.spare
	w.spare, w.restock = nil, true
	w.mu.Unlock()
	if s != nil {
		return s, nil
	}
	return w.newSpace(true)
}

// aside is how long the spare namespace has time: whoever waits for the answer to the call that took it needs the processors first.
const aside = 2 * time.Millisecond

// stock makes the spare namespace: a container that is attached by itself, and perhaps another after it, need not wait
// for the making of its own. Where it cannot be made, who asks for one is told why.
func (h *Host) stock() {
	_ = h.walk(func(w *walk) error {
		s, err := w.newSpace(true)
		if err != nil {
			return err
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.spare != nil {
			return s.Close() // two were taken at the same time
		}
		h.spare = s
		return nil
	})
}

// newSpace makes a namespace with its loopback up, and with the settings of Defaults where they are asked for.
func (w *walk) newSpace(defaults bool) (*space.Space, error) {
	s, err := w.thread.New()
	if err != nil {
		return nil, err
	}
	err = w.loopback(s)
	if err == nil && defaults {
		err = w.begin(s)
	}
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// begin gives a namespace the settings of Defaults.
func (w *walk) begin(s *space.Space) error {
	if err := w.thread.Enter(s); err != nil {
		return err
	}
	dirs := settings{}
	defer dirs.close()
	for _, d := range topology.Defaults("", "") {
		if _, err := dirs.set(d.Sysctl.Key, d.Sysctl.Value); err != nil && !(d.Sysctl.Optional && errors.Is(err, fs.ErrNotExist)) {
			return err
		}
	}
	return nil
}

func (h *Host) walk(f func(*walk) error) error {
	return space.Walk(func(t *space.Walker) error {
		w := &walk{Host: h, thread: t, settings: settings{}}
		defer func() {
			w.leave()
			if w.restock {
				time.AfterFunc(aside, h.stock)
			}
		}()
		return f(w)
	})
}

// leave closes what is open of the last namespace.
func (w *walk) leave() {
	w.settings.close()
	if w.nl != nil {
		w.nl.close()
		w.nl = nil
	}
}

// enter takes the thread to a container, or to the machine's own namespace.
func (w *walk) enter(in string) error {
	s, err := w.find(in)
	if err != nil {
		return err
	}
	if w.last != in {
		w.leave()
		w.last = in
	}
	return w.thread.Enter(s)
}

// netlink returns sockets into a container's namespace, for which the thread need not be there.
func (w *walk) netlink(in string) (*netlinks, error) {
	if in == "" {
		w.mu.Lock()
		own := w.own
		w.mu.Unlock()
		if own != nil {
			return own, nil
		}
	} else if w.nl != nil && w.last == in {
		return w.nl, nil
	}
	if err := w.enter(in); err != nil {
		return nil, err
	}
	nl, err := openNetlinks()
	if err != nil {
		return nil, err
	}
	if in != "" {
		w.nl = nl
		return nl, nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.own == nil {
		w.own = nl
	} else {
		nl.close() // somebody else was faster
	}
	return w.own, nil
}

// do carries one step out and returns what takes it back; nil where nothing can or must.
func (w *walk) do(s topology.Step) (func(*walk) error, error) {
	there := func(f func() error) func(*walk) error {
		return func(w *walk) error {
			if err := w.enter(s.In); err != nil {
				return err
			}
			return f()
		}
	}
	switch {
	case s.Space != nil && s.Remove:
		return nil, errors.Join(w.letGo(s.Space.Name), w.engine.Kill(s.Space.Name))
	case s.Space != nil:
		return w.makeSpace(*s.Space)
	case s.Table != nil:
		table := *s.Table
		return w.either(s.Remove,
			there(func() error { return addTable(table) }),
			there(func() error { return removeTable(table) }))
	case s.Sysctl != nil:
		return w.setSysctl(s.In, *s.Sysctl)
	case s.Offload != nil:
		off := *s.Offload
		was := off
		err := there(func() (err error) { was.On, err = setOffload(off); return err })(w)
		return there(func() error { _, err := setOffload(was); return err }), err
	case s.Forget != nil:
		return nil, there(func() error { return forget(*s.Forget) })(w)
	case s.Await != nil:
		return nil, w.forwarding(s)
	case s.BGP != nil || s.Announce != nil:
		return w.speak(s)
	case s.Gossip != nil || s.Endpoint != nil:
		return w.spread(s)
	case s.Program != nil:
		return w.run(s)
	case s.Reserve != nil:
		return w.reserve(s)
	case s.DHCPServer != nil || s.DHCP != nil:
		return w.lease(s)
	case s.Resolver != nil || s.Name != nil:
		return w.name(s)
	case s.CNI != nil:
		return w.plug(s)
	case s.Engine != nil || s.EngineNetwork != nil || s.EnginePort != nil || s.EngineJoin != nil || s.EngineSwarm != nil:
		return w.engined(s)
	case s.Hosts != nil || s.Process != nil:
		return w.furnish(s)
	case s.Relay != nil:
		return w.relay(s)
	}
	nl, err := w.netlink(s.In)
	if err != nil {
		return nil, err
	}
	// Undone by sockets of its own time, with what was found out now.
	asked := func(f func(*netlinks) error) func(*walk) error {
		return func(w *walk) error {
			nl, err := w.netlink(s.In)
			if err != nil {
				return err
			}
			return f(nl)
		}
	}
	switch {
	case s.Link != nil && s.Remove:
		return nil, removeLink(nl, s.Link.Name)
	case s.Link != nil:
		name := s.Link.Name
		return asked(func(nl *netlinks) error { return removeLink(nl, name) }), w.addLink(nl, s.In, *s.Link)
	case s.Set != nil:
		return w.setLink(nl, s.In, *s.Set)
	case s.Addr != nil:
		link, err := index(nl, s.Addr.Link)
		if err != nil {
			return nil, err
		}
		a := address(*s.Addr)
		return w.either(s.Remove,
			asked(func(nl *netlinks) error { return nl.AddrAdd(link, a) }),
			asked(func(nl *netlinks) error { return nl.AddrDel(link, a) }))
	case s.Route != nil:
		r, err := route(nl, *s.Route)
		if err != nil {
			return nil, err
		}
		whose := *r
		if s.Remove {
			whose.Protocol = 0 // whoever added it, as for ip-route(8)
		}
		if s.Route.Limit > 0 && !s.Remove {
			if err := room(nl, *s.Route); err != nil {
				return nil, err
			}
		}
		return w.either(s.Remove,
			asked(func(nl *netlinks) error { return nl.RouteAdd(r) }),
			asked(func(nl *netlinks) error { return nl.RouteDel(&whose) }))
	case s.Neigh != nil:
		if s.Neigh.Many > 1 {
			return w.neighs(s)
		}
		n, err := neigh(nl, *s.Neigh)
		if err != nil {
			return nil, err
		}
		add := (*netlink.Handle).NeighSet
		if s.Neigh.FDB && s.Neigh.IP.IsValid() {
			add = (*netlink.Handle).NeighAppend // one MAC address may have several destinations
		}
		return w.either(s.Remove,
			asked(func(nl *netlinks) error { return add(nl.Handle, n) }),
			asked(func(nl *netlinks) error { return nl.NeighDel(n) }))
	case s.VLAN != nil:
		return w.setVLAN(nl, s.In, s.Remove, *s.VLAN)
	case s.Shape != nil:
		q, err := queue(nl, *s.Shape)
		if err != nil {
			return nil, err
		}
		return w.either(s.Remove,
			asked(func(nl *netlinks) error {
				if err := nl.QdiscReplace(q); err != nil {
					return err
				}
				return taken(nl, q)
			}),
			asked(func(nl *netlinks) error { return nl.QdiscDel(q) }))
	case s.Redirect != nil:
		q, filter, err := redirect(nl, *s.Redirect)
		if err != nil {
			return nil, err
		}
		return w.either(s.Remove,
			asked(func(nl *netlinks) error {
				if err := nl.QdiscAdd(q); err != nil {
					return err
				}
				if err := nl.FilterAdd(filter); err != nil {
					return errors.Join(err, nl.QdiscDel(q))
				}
				return nil
			}),
			asked(func(nl *netlinks) error { return nl.QdiscDel(q) }))
	}
	return nil, errors.New("a step that asks for nothing")
}

// neighs makes many entries, or takes them away: all of them or none.
func (w *walk) neighs(s topology.Step) (func(*walk) error, error) {
	all := s.Neigh.All()
	each := func(remove bool, of []topology.Neigh) func(*walk) error {
		return func(w *walk) error {
			var errs []error
			for i, n := range of {
				_, err := w.do(topology.Step{In: s.In, Remove: remove, Neigh: &n})
				if err != nil && !remove {
					for _, n := range of[:i] {
						_, _ = w.do(topology.Step{In: s.In, Remove: true, Neigh: &n})
					}
					return fmt.Errorf("entry %d of %d: %w", i+1, len(of), err)
				}
				errs = append(errs, err)
			}
			return errors.Join(errs...)
		}
	}
	return w.either(s.Remove, each(false, all), each(true, all))
}

// forget deletes connections, of both families. None is no error, nor is a kernel without connection tracking, which has none.
func forget(f topology.Forget) error {
	protocol, ok := map[string]uint8{"tcp": unix.IPPROTO_TCP, "udp": unix.IPPROTO_UDP}[f.Proto]
	if !ok {
		return fmt.Errorf("connections of %q: want tcp or udp", f.Proto)
	}
	var which netlink.ConntrackFilter
	if err := errors.Join(which.AddProtocol(protocol), which.AddPort(netlink.ConntrackOrigDstPort, f.Port)); err != nil {
		return err
	}
	h, err := netlink.NewHandle(unix.NETLINK_NETFILTER)
	if err != nil {
		return err
	}
	defer h.Close()
	for _, family := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
		_, err := h.ConntrackDeleteFilters(netlink.ConntrackTable, family, &which)
		switch {
		case untracking(err):
			return nil
		case err != nil && !errors.Is(err, netlink.ErrDumpInterrupted): // what came meanwhile came after the rules
			return err
		}
	}
	return nil
}

// speak makes the machine's speaker, or has it announce.
func (w *walk) speak(s topology.Step) (func(*walk) error, error) {
	if s.In != "" || s.Remove {
		return nil, errors.New("a speaker is a machine's own, and is taken away by undoing its step only")
	}
	if err := w.enter(""); err != nil {
		return nil, err
	}
	var undo func() error
	var err error
	if s.BGP != nil {
		undo, err = w.speaker.Start(*s.BGP)
	} else {
		if s.Announce.Link != "" {
			if err := w.operating(s.Announce.Link); err != nil {
				return nil, err
			}
		}
		undo, err = w.speaker.Announce(s.Announce.All()...)
	}
	return func(*walk) error { return undo() }, err
}

// forwarding waits, a second and a half at most, until a bridge forwards by its port. What is no port is not waited for.
func (w *walk) forwarding(s topology.Step) error {
	if s.In != "" || s.Remove {
		return errors.New("a port that is waited for is one of the machine's own bridges, and nothing is taken away by it")
	}
	own, err := w.netlink("")
	if err != nil {
		return err
	}
	port, err := index(own, s.Await.Port)
	if err != nil {
		return nil // as with what is no port: there is nothing to wait for
	}
	home, err := w.find("")
	if err == nil {
		err = w.thread.Enter(home) // and keeps what is open of the container, which comes next
	}
	if err != nil {
		return err
	}
	for end, again := time.Now().Add(1500*time.Millisecond), time.Tick(500*time.Microsecond); ; <-again {
		state, is, err := w.portState(port.Attrs().Index)
		if err != nil {
			return fmt.Errorf("%s: %w", s.Await.Port, err)
		}
		if !is || state == portForwards || time.Now().After(end) {
			return nil
		}
	}
}

// portForwards is BR_STATE_FORWARDING of linux/if_bridge.h.
const portForwards = 3

// portState is the state of a bridge's port (IFLA_BRPORT_STATE) on this machine; is tells whether a device is one. It asks for
// that device alone, where bridge(8) reads all ports.
func (h *Host) portState(device int) (state uint8, is bool, err error) {
	value, is, err := linkAttr(h.sockets, device, unix.IFLA_LINKINFO, nl.IFLA_INFO_SLAVE_DATA, nl.IFLA_BRPORT_STATE)
	if err != nil || !is {
		return 0, false, err
	}
	return value[0], true, nil
}

// linkAttr is an attribute of a device of the namespace that sockets are of, or else of the one of the calling thread, by the types of those that it is in and its own; is tells
// whether the device has it.
func linkAttr(sockets map[int]*nl.SocketHandle, device int, types ...uint16) (value []byte, is bool, err error) {
	req := nl.NewNetlinkRequest(unix.RTM_GETLINK, 0)
	req.Sockets = sockets
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(device)
	req.AddData(msg)
	replies, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWLINK)
	if err != nil {
		return nil, false, err
	}
	for _, reply := range replies {
		at, err := nl.ParseRouteAttr(reply[msg.Len():])
		for n, kind := range types {
			i := slices.IndexFunc(at, func(a syscall.NetlinkRouteAttr) bool { return a.Attr.Type&^unix.NLA_F_NESTED == kind })
			switch {
			case err != nil || i < 0:
				return nil, false, err
			case n == len(types)-1:
				return at[i].Value, true, nil
			}
			at, err = nl.ParseRouteAttr(at[i].Value)
		}
	}
	return nil, false, nil
}

// operating waits, a second at most, until a device of the machine follows its carrier and none of its own addresses is tentative: until it takes and
// sends packets, and answers for itself.
func (w *walk) operating(link string) error {
	nl, err := w.netlink("")
	if err != nil {
		return err
	}
	for end, again := time.Now().Add(time.Second), time.Tick(time.Millisecond); ; <-again {
		l, err := nl.LinkByName(link)
		if err != nil {
			return fmt.Errorf("%s: %w", link, err)
		}
		addrs, err := nl.AddrList(l, netlink.FAMILY_V6)
		if err != nil {
			return fmt.Errorf("addresses of %s: %w", link, err)
		}
		tentative := slices.ContainsFunc(addrs, func(a netlink.Addr) bool { return a.Flags&unix.IFA_F_TENTATIVE != 0 })
		if l.Attrs().OperState == netlink.OperUp && !tentative || time.Now().After(end) {
			return nil
		}
	}
}

// spread makes the machine's member of a cluster, or has it tell of an endpoint.
func (w *walk) spread(s topology.Step) (func(*walk) error, error) {
	if s.In != "" || s.Remove {
		return nil, errors.New("a member is a machine's own, and is taken away by undoing its step only")
	}
	if err := w.enter(""); err != nil {
		return nil, err
	}
	var undo func() error
	var err error
	if s.Gossip != nil {
		undo, err = w.gossip.Start(*s.Gossip)
	} else {
		undo, err = w.gossip.Announce(*s.Endpoint)
	}
	return func(*walk) error { return undo() }, err
}

// run runs another program on the machine.
func (w *walk) run(s topology.Step) (func(*walk) error, error) {
	if s.In != "" || s.Remove {
		return nil, errors.New("a program is a machine's own, and is taken away by undoing its step only")
	}
	if err := w.enter(""); err != nil {
		return nil, err
	}
	undo, err := w.programs.Run(*s.Program)
	return func(*walk) error { return undo() }, err
}

// plug has plugins attach a container.
func (w *walk) plug(s topology.Step) (func(*walk) error, error) {
	if s.In != "" || s.Remove {
		return nil, errors.New("plugins run in the machine's own namespace, and detach by being undone only")
	}
	if err := w.enter(""); err != nil {
		return nil, err
	}
	undo, err := w.plugins.Add(*s.CNI)
	return func(w *walk) error {
		if err := w.enter(""); err != nil {
			return err
		}
		err := undo()
		if s.CNI.Queues {
			err = errors.Join(err, w.unqueue(w.plugins.Ends(s.CNI.Name(), s.CNI.After, s.CNI.Link)...))
		}
		return err
	}, err
}

// unqueue takes queues off devices of the machine's own namespace, where they have any.
func (w *walk) unqueue(devices ...string) error {
	nl, err := w.netlink("")
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range devices {
		link, err := index(nl, name)
		if err != nil {
			continue // it went
		}
		for _, parent := range []uint32{netlink.HANDLE_ROOT, netlink.HANDLE_INGRESS} {
			q := &netlink.GenericQdisc{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: link.Attrs().Index, Parent: parent}}
			if err := nl.QdiscDel(q); err != nil && !gone(err) && !errors.Is(err, unix.EINVAL) { // EINVAL: there is no such queue
				errs = append(errs, fmt.Errorf("queue of %s: %w", name, err))
			}
		}
	}
	return errors.Join(errs...)
}

// engined starts the machine's engine, or has it do something.
func (w *walk) engined(s topology.Step) (func(*walk) error, error) {
	if s.In != "" || s.Remove && s.EngineNetwork == nil && s.EngineJoin == nil {
		return nil, errors.New("an engine and what it makes are a machine's own, and are taken away by undoing their steps only, but for networks and endpoints")
	}
	if err := w.enter(""); err != nil {
		return nil, err
	}
	var undo func() error
	var err error
	switch {
	case s.EngineNetwork != nil && s.Remove:
		return nil, w.engine.RemoveNetwork(s.EngineNetwork.Name)
	case s.EngineJoin != nil && s.Remove:
		return nil, w.engine.Leave(*s.EngineJoin)
	case s.EngineJoin != nil:
		undo, err = w.engine.Join(*s.EngineJoin)
	case s.Engine != nil:
		undo, err = w.engine.Start(*s.Engine)
	case s.EngineNetwork != nil:
		undo, err = w.engine.Network(*s.EngineNetwork)
	case s.EngineSwarm != nil:
		undo, err = w.engine.Swarm(*s.EngineSwarm)
	default:
		return w.publish(*s.EnginePort)
	}
	return func(*walk) error { return undo() }, err
}

// runContainer has the engine run a container.
func (w *walk) runContainer(s topology.Space) (func(*walk) error, error) {
	r, undo, err := w.engine.Run(s)
	if err != nil {
		return nil, err
	}
	back := func(w *walk) error {
		err := w.letGo(s.Name)
		if gone(err) {
			err = nil
		}
		return errors.Join(err, undo())
	}
	if err := w.adopt(r); err != nil {
		return nil, errors.Join(err, back(w))
	}
	return back, nil
}

// adopt takes the namespace of a container that the engine runs.
func (w *walk) adopt(r docker.Running) error {
	if r.Share != "" {
		_, err := w.makeSpace(topology.Space{Name: r.Name, Share: r.Share})
		return err
	}
	if r.Defaults {
		if err := w.begin(r.Made); err != nil {
			return errors.Join(err, r.Made.Close())
		}
	}
	return w.keep(r.Name, r.Made)
}

// publish has the engine publish a port, for which it runs containers again.
func (w *walk) publish(p topology.EnginePort) (func(*walk) error, error) {
	letGo := func(w *walk) func([]string) error {
		return func(containers []string) error {
			var errs []error
			for _, c := range slices.Backward(containers) {
				if err := w.letGo(c); err != nil && !gone(err) {
					errs = append(errs, err)
				}
			}
			return errors.Join(errs...)
		}
	}
	adopt := func(w *walk, again []docker.Running) error {
		for _, r := range again {
			if err := errors.Join(w.adopt(r), w.probes.Again(r.Name)); err != nil {
				return err
			}
		}
		return nil
	}
	again, undo, err := w.engine.Publish(p, letGo(w))
	if err = errors.Join(err, adopt(w, again)); err != nil {
		return nil, err
	}
	return func(w *walk) error {
		again, err := undo(letGo(w))
		return errors.Join(err, adopt(w, again))
	}, nil
}

// reserve has a container get addresses from a pool of the machine.
func (w *walk) reserve(s topology.Step) (func(*walk) error, error) {
	if s.In != "" || s.Remove {
		return nil, errors.New("addresses are given out by the machine, and given back by undoing that only")
	}
	undo, err := w.pools.Reserve(*s.Reserve)
	return func(*walk) error { undo(); return nil }, err
}

// lease makes the machine's DHCP server, or has a device get an address from one.
func (w *walk) lease(s topology.Step) (func(*walk) error, error) {
	if s.Remove || s.DHCPServer != nil && s.In != "" {
		return nil, errors.New("a DHCP server is a machine's own, and leases and servers end by being undone only")
	}
	var undo func() error
	var err error
	if s.DHCPServer != nil {
		undo, err = w.dhcp.Serve(*s.DHCPServer)
	} else {
		undo, err = w.dhcp.Lease(s.In, *s.DHCP)
	}
	return func(*walk) error { return undo() }, err
}

// name has the machine's resolvers know a name, or makes a resolver in a namespace.
func (w *walk) name(s topology.Step) (func(*walk) error, error) {
	if s.Remove || s.Name != nil && s.In != "" {
		return nil, errors.New("names are a machine's, and are taken away by undoing their step only, as resolvers are")
	}
	undo, err := func() {}, error(nil)
	if s.Name != nil {
		undo, err = w.names.Know(*s.Name)
	} else {
		undo, err = w.names.Serve(s.In, *s.Resolver)
	}
	return func(*walk) error { undo(); return nil }, err
}

// furnish gives a container its /etc/hosts, or the process that it lives for.
func (w *walk) furnish(s topology.Step) (func(*walk) error, error) {
	if s.In == "" || s.Remove {
		return nil, errors.New("a hosts file and a process are a container's, and are taken away by undoing their step only")
	}
	home, err := w.home(s.In)
	if err != nil {
		return nil, err
	}
	undo := home.end
	if s.Hosts != nil {
		undo, err = home.tell(s.Hosts.Text)
	} else {
		err = home.live(s.Process.Env)
	}
	return func(w *walk) error {
		if !w.isHome(s.In, home) {
			return nil // it went with the container
		}
		return undo()
	}, err
}

// relay has a container carry a port on.
func (w *walk) relay(s topology.Step) (func(*walk) error, error) {
	if s.In == "" {
		return nil, errors.New("a relay is a container's")
	}
	at := func(f func(*home, topology.Relay) error) func(*walk) error {
		return func(w *walk) error {
			home, err := w.home(s.In)
			if err != nil {
				return err
			}
			return f(home, *s.Relay)
		}
	}
	return w.either(s.Remove, at((*home).carry), at((*home).stopCarrying))
}

// either does a thing or its opposite, and returns the other one.
func (w *walk) either(remove bool, add, del func(*walk) error) (func(*walk) error, error) {
	if remove {
		add, del = del, add
	}
	return del, add(w)
}

// loopback brings the loopback device of a namespace up.
func (w *walk) loopback(s *space.Space) error {
	if err := w.thread.Enter(s); err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo); err != nil {
		return fmt.Errorf("ip link set lo up: %w", err)
	}
	return nil
}

func (w *walk) makeSpace(s topology.Space) (func(*walk) error, error) {
	h := w.Host
	h.mu.Lock()
	_, exists := h.spaces[s.Name]
	h.mu.Unlock()
	if exists {
		return nil, fmt.Errorf("%s/%s: container exists: %w", h.name, s.Name, unix.EEXIST)
	}
	if s.Run != nil {
		return w.runContainer(s)
	}
	back := func(w *walk) error { return w.letGo(s.Name) }
	if s.Share != "" {
		of := s.Share
		if of == "host" {
			of = ""
		}
		owner, err := h.find(of)
		if err != nil {
			return nil, err
		}
		own, err := owner.Again()
		if err != nil {
			return nil, err
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		h.spaces[s.Name], h.shared[s.Name] = own, true
		return back, nil
	}
	made, err := w.takeSpace(s.Defaults)
	if err != nil {
		return nil, err
	}
	return back, w.keep(s.Name, made)
}

// keep holds a container's namespace and has it recorded, or closes it.
func (w *walk) keep(container string, made *space.Space) error {
	w.mu.Lock()
	w.spaces[container] = made
	w.mu.Unlock()
	if err := w.capture.Watch(container, made); err != nil {
		return errors.Join(err, w.letGo(container))
	}
	return nil
}

// letGo closes what this program holds of a container's namespace. Its devices go when nobody else holds it.
func (w *walk) letGo(container string) error {
	h := w.Host
	h.mu.Lock()
	s, shared := h.spaces[container], h.shared[container]
	delete(h.spaces, container)
	delete(h.shared, container)
	h.mu.Unlock()
	if s == nil {
		return fmt.Errorf("%s/%s: %w", h.name, container, errNoSpace)
	}
	if w.last == container {
		w.leave()
	}
	h.vacate(container)
	if !shared {
		// A socket would keep the namespace alive.
		h.capture.Forget(container)
		h.probes.Forget(container)
		h.names.Forget(container)
	}
	return errors.Join(h.plugins.Forget(container), s.Close())
}

func (w *walk) setSysctl(in string, s topology.Sysctl) (func(*walk) error, error) {
	if err := w.enter(in); err != nil {
		return nil, err
	}
	was, err := w.settings.set(s.Key, s.Value)
	if s.Optional && errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return func(w *walk) error {
		if err := w.enter(in); err != nil {
			return err
		}
		_, err := w.settings.set(s.Key, was)
		return err
	}, err
}

// index finds a device without asking for all of it, and without waiting for those who change devices.
func index(nl *netlinks, name string) (netlink.Link, error) {
	r, err := unix.NewIfreq(name)
	if err == nil {
		err = unix.IoctlIfreq(nl.fd, unix.SIOCGIFINDEX, r)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", name, errNoLink, unix.ENODEV)
	}
	return &netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Name: name, Index: int(r.Uint32())}}, nil
}

// flagged finds a device and whether it is up.
func flagged(nl *netlinks, name string) (netlink.Link, error) {
	l, err := index(nl, name)
	if err != nil {
		return nil, err
	}
	r, err := unix.NewIfreq(name)
	if err == nil {
		err = unix.IoctlIfreq(nl.fd, unix.SIOCGIFFLAGS, r)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if r.Uint16()&unix.IFF_UP != 0 {
		l.Attrs().Flags |= net.FlagUp
	}
	return l, nil
}

// wholeLink finds a device with all there is to know of it.
func wholeLink(nl *netlinks, name string) (netlink.Link, error) {
	l, err := nl.LinkByName(name)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return nil, fmt.Errorf("%s: %w: %w", name, errNoLink, unix.ENODEV)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return l, nil
}

func removeLink(nl *netlinks, name string) error {
	l, err := index(nl, name)
	if err != nil {
		return err
	}
	return nl.LinkDel(l)
}

// addLink makes a device in its place: a device that is moved to another namespace afterwards costs an RCU grace period.
func (w *walk) addLink(nl *netlinks, in string, l topology.Link) error {
	base := netlink.NewLinkAttrs()
	base.Name, base.HardwareAddr, base.MTU = l.Name, l.MAC, l.MTU
	if l.Up {
		base.Flags |= net.FlagUp
	}
	if l.Master != "" {
		m, err := index(nl, l.Master)
		if err != nil {
			return err
		}
		base.MasterIndex = m.Attrs().Index
	}
	request := nl
	var link netlink.Link
	switch l.Kind {
	case "bridge":
		snooping := !l.NoSnooping
		bridge := &netlink.Bridge{LinkAttrs: base, MulticastSnooping: &snooping}
		if l.VLANFiltering {
			bridge.VlanFiltering, bridge.VlanDefaultPVID = &l.VLANFiltering, new(uint16)
		}
		link = bridge
	case "veth":
		return w.addPair(in, l, base.MasterIndex)
	case "macvlan", "ipvlan", "vlan":
		own, err := w.netlink("")
		if err != nil {
			return err
		}
		parent, err := index(own, l.Parent)
		if err != nil {
			return err
		}
		target, err := w.find(in)
		if err != nil {
			return err
		}
		base.Index = w.newIndex()
		base.ParentIndex, base.Namespace = parent.Attrs().Index, netlink.NsFd(target.File().Fd())
		request = own
		if link, err = stacked(base, l); err != nil {
			return err
		}
	case "vxlan":
		device := &netlink.Vxlan{
			LinkAttrs: base, VxlanId: l.VNI, SrcAddr: l.Local.AsSlice(), Port: l.Port, Learning: l.Learning, Proxy: l.Proxy, Limit: l.Entries,
			UDP6ZeroCSumTx: l.UDP6ZeroCSumTx, UDP6ZeroCSumRx: l.UDP6ZeroCSumRx,
		}
		if l.Group.IsValid() {
			parent, err := index(nl, l.Parent)
			if err != nil {
				return err
			}
			device.Group, device.VtepDevIndex = l.Group.AsSlice(), parent.Attrs().Index
		}
		link = device
	case "ipip": // as ip-link(8) makes it: the TTL inherited, path MTU discovery on
		link = &netlink.Iptun{LinkAttrs: base, Local: l.Local.AsSlice(), PMtuDisc: 1, Proto: unix.IPPROTO_IPIP}
	case "ifb":
		link = &netlink.Ifb{LinkAttrs: base}
	case "tun": // it stays while no process has it open, as ip-tuntap(8) makes it
		link = &netlink.Tuntap{LinkAttrs: base, Mode: netlink.TUNTAP_MODE_TUN, Flags: netlink.TUNTAP_NO_PI}
	default:
		return fmt.Errorf("link kind %q is not known here", l.Kind)
	}
	if err := request.LinkAdd(link); err != nil || !l.Querier && l.MaxLearned == 0 {
		return err
	}
	if err := w.enter(in); err != nil {
		return err
	}
	if l.MaxLearned != 0 {
		if err := bounded(l.Name, uint32(l.MaxLearned)); err != nil {
			return err
		}
	}
	if l.Querier {
		return asking(l.Name)
	}
	return nil
}

// bounded has a bridge of the namespace of the calling thread learn so many addresses at most. Kernels before 6.7 take that without a word, and do not.
func bounded(bridge string, most uint32) error {
	at, err := setBridge(bridge, func(data *nl.RtAttr) { data.AddRtAttr(unix.IFLA_BR_FDB_MAX_LEARNED, nl.Uint32Attr(most)) })
	if err != nil {
		return err
	}
	has, is, err := linkAttr(nil, at, unix.IFLA_LINKINFO, nl.IFLA_INFO_DATA, unix.IFLA_BR_FDB_MAX_LEARNED)
	if err != nil || is && nl.NativeEndian().Uint32(has) == most {
		return err
	}
	return fmt.Errorf("%s: this kernel has no bound for what a bridge learns: %w", bridge, unix.EOPNOTSUPP)
}

// asking has a bridge of the namespace of the calling thread ask for members of groups: over IPv6 by an address of its own, which
// it needs for that.
func asking(bridge string) error {
	if _, err := setSysctl("net/ipv6/conf/"+bridge+"/disable_ipv6", "0"); err != nil {
		return err
	}
	_, err := setBridge(bridge, func(data *nl.RtAttr) {
		data.AddRtAttr(nl.IFLA_BR_MCAST_QUERY_RESPONSE_INTVL, nl.Uint64Attr(uint64(topology.QueryResponse.Milliseconds()/10))) // in clock_t: 10 ms
		data.AddRtAttr(nl.IFLA_BR_MCAST_QUERIER, nl.Uint8Attr(1))
	})
	return err
}

// setBridge sets attributes of a bridge of the namespace of the calling thread, which has the index that is returned.
func setBridge(bridge string, attrs func(*nl.RtAttr)) (index int, err error) {
	link, err := netlink.LinkByName(bridge)
	if err != nil {
		return 0, err
	}
	index = link.Attrs().Index
	req := nl.NewNetlinkRequest(unix.RTM_NEWLINK, unix.NLM_F_ACK)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(index)
	req.AddData(msg)
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated("bridge"))
	attrs(info.AddRtAttr(nl.IFLA_INFO_DATA, nil))
	req.AddData(info)
	_, err = req.Execute(unix.NETLINK_ROUTE, 0)
	return index, err
}

// stacked is a device on a parent.
func stacked(base netlink.LinkAttrs, l topology.Link) (netlink.Link, error) {
	switch l.Kind {
	case "macvlan":
		mode, err := macvlanMode(l.ParentMode)
		return &netlink.Macvlan{LinkAttrs: base, Mode: mode}, err
	case "ipvlan":
		mode, err := ipvlanMode(l.ParentMode)
		return &netlink.IPVlan{LinkAttrs: base, Mode: mode}, err
	}
	return &netlink.Vlan{LinkAttrs: base, VlanId: l.VID}, nil
}

// newIndex is for a device whose other end is elsewhere (see firstIndex). Its place has one of its own for every device.
func (h *Host) newIndex() int { return firstIndex + 1000 + int(h.made.Add(1)) }

// macvlanMode is the mode of a name; the empty name is the kernel's own default.
func macvlanMode(name string) (netlink.MacvlanMode, error) {
	if name == "" {
		return netlink.MACVLAN_MODE_DEFAULT, nil
	}
	for mode, of := range macvlanModes {
		if of == name {
			return mode, nil
		}
	}
	return 0, fmt.Errorf("macvlan mode %q: want private, vepa, bridge or passthru", name)
}

// ipvlanMode is the mode of a name; the empty name is what ip-link(8) takes for it.
func ipvlanMode(name string) (netlink.IPVlanMode, error) {
	if name == "" {
		return netlink.IPVLAN_MODE_L3, nil
	}
	for mode, of := range topology.IPVLANModes {
		if of == name {
			return netlink.IPVlanMode(mode), nil // IPVLAN_MODE_L2, _L3 and _L3S are 0, 1 and 2
		}
	}
	return 0, fmt.Errorf("ipvlan mode %q: want l2, l3 or l3s", name)
}

// setMode changes the mode of a macvlan or of an ipvlan.
func setMode(nl *netlinks, l netlink.Link, name string) error {
	if v, ok := l.(*netlink.IPVlan); ok {
		mode, err := ipvlanMode(name)
		if err != nil {
			return err
		}
		same := netlink.NewLinkAttrs() // names the device and changes none of its attributes
		same.Name, same.Index, same.ParentIndex = v.Name, v.Index, v.ParentIndex
		return nl.LinkModify(&netlink.IPVlan{LinkAttrs: same, Mode: mode, Flag: v.Flag})
	}
	mode, err := macvlanMode(name)
	if err != nil {
		return err
	}
	return nl.LinkSetMacvlanMode(l, mode)
}

// setVLAN puts a bridge's port into a VLAN, or takes it out. Undone, the port is in it or not as before, and so is the VLAN
// that what comes untagged belongs to.
func (w *walk) setVLAN(nl *netlinks, in string, remove bool, v topology.VLAN) (func(*walk) error, error) {
	l, err := index(nl, v.Link)
	if err != nil {
		return nil, err
	}
	ports, err := vlans(nl.Handle)
	if err != nil {
		return nil, err
	}
	before := ports[int32(l.Attrs().Index)]
	back := func(w *walk) error {
		nl, err := w.netlink(in)
		if err != nil {
			return err
		}
		l, err := index(nl, v.Link)
		if err != nil {
			return err
		}
		was := false
		for _, b := range before {
			if int(b.Vid) == v.VID || b.PortVID() {
				was = was || int(b.Vid) == v.VID
				if err := nl.BridgeVlanAdd(l, b.Vid, b.PortVID(), b.EngressUntag(), false, false); err != nil {
					return err
				}
			}
		}
		if was {
			return nil
		}
		return nl.BridgeVlanDel(l, uint16(v.VID), false, false, false, false)
	}
	if remove {
		return back, nl.BridgeVlanDel(l, uint16(v.VID), false, false, false, false)
	}
	return back, nl.BridgeVlanAdd(l, uint16(v.VID), v.Untagged, v.Untagged, false, false)
}

// setLink changes what is asked for, and takes back the same fields only.
func (w *walk) setLink(nl *netlinks, in string, s topology.LinkSet) (func(*walk) error, error) {
	find := wholeLink
	if s.MAC == nil && s.MTU == 0 && s.Master == "" && s.Promisc == "" && s.Mode == "" {
		find = flagged
	}
	l, err := find(nl, s.Name)
	if err != nil {
		return nil, err
	}
	was := l.Attrs()
	back := topology.LinkSet{Name: s.Name}
	var errs []error
	change := func(asked bool, note, set func()) {
		if asked && errors.Join(errs...) == nil {
			note()
			set()
		}
	}
	try := func(err error) { errs = append(errs, err) }
	onOff := map[bool]string{true: "on", false: "off"}
	port := func() netlink.Protinfo {
		p, err := nl.LinkGetProtinfo(l)
		try(err)
		return p
	}
	change(s.MAC != nil, func() { back.MAC = was.HardwareAddr }, func() { try(nl.LinkSetHardwareAddr(l, s.MAC)) })
	change(s.MTU != 0, func() { back.MTU = was.MTU }, func() { try(nl.LinkSetMTU(l, s.MTU)) })
	change(s.Master != "", func() { back.Master = masterName(nl, was.MasterIndex) }, func() {
		if s.Master == "none" {
			try(nl.LinkSetNoMaster(l))
			return
		}
		m, err := index(nl, s.Master)
		if err != nil {
			try(err)
			return
		}
		try(nl.LinkSetMaster(l, m))
	})
	change(s.Hairpin != "", func() { back.Hairpin = onOff[port().Hairpin] }, func() { try(nl.LinkSetHairpin(l, s.Hairpin == "on")) })
	change(s.Isolated != "", func() { back.Isolated = onOff[port().Isolated] }, func() { try(nl.LinkSetIsolated(l, s.Isolated == "on")) })
	change(s.Promisc != "", func() { back.Promisc = onOff[was.Promisc > 0] }, func() {
		if s.Promisc == "on" {
			try(nl.SetPromiscOn(l))
		} else {
			try(nl.SetPromiscOff(l))
		}
	})
	change(s.Mode != "", func() {
		back.Mode = modeOf(l)
	}, func() { try(setMode(nl, l, s.Mode)) })
	var lost upon
	change(s.State == "down", func() {
		var err error
		lost, err = readUpon(nl.Handle, was.Index)
		try(err)
	}, func() {})
	change(s.State != "", func() { back.State = map[bool]string{true: "up", false: "down"}[was.Flags&net.FlagUp != 0] }, func() {
		if s.State == "up" {
			try(nl.LinkSetUp(l))
		} else {
			try(nl.LinkSetDown(l))
		}
	})
	return func(w *walk) error {
		if _, err := w.do(topology.Step{In: in, Set: &back}); err != nil || back.State != "up" {
			return err
		}
		nl, err := w.netlink(in)
		if err != nil {
			return err
		}
		var errs []error
		lost.back(nl.Handle, l, func(what any, err error) {
			if err != nil && !errors.Is(err, unix.EEXIST) {
				errs = append(errs, fmt.Errorf("%s: put back %v: %w", s.Name, what, err))
			}
		})
		return errors.Join(errs...)
	}, errors.Join(errs...)
}

func masterName(nl *netlinks, index int) string {
	if index != 0 {
		if m, err := nl.LinkByIndex(index); err == nil {
			return m.Attrs().Name
		}
	}
	return "none"
}

func address(a topology.Addr) *netlink.Addr {
	out := &netlink.Addr{IPNet: ipnet(a.Prefix)}
	if a.Peer.IsValid() {
		out.Peer = ipnet(a.Peer)
	}
	if a.NoDAD {
		out.Flags |= unix.IFA_F_NODAD
	}
	if a.NoPrefixRoute {
		out.Flags |= unix.IFA_F_NOPREFIXROUTE
	}
	if a.Prefix.Addr().Is4() && a.Prefix.Bits() < 31 && !a.Peer.IsValid() {
		// The kernel derives no broadcast address for one given by netlink; ip(8) and its users expect it.
		b := a.Prefix.Masked().Addr().As4()
		for i := a.Prefix.Bits(); i < 32; i++ {
			b[i/8] |= 1 << (7 - i%8)
		}
		out.Broadcast = net.IP(b[:])
	}
	return out
}

func ipnet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func route(nl *netlinks, r topology.Route) (*netlink.Route, error) {
	out := &netlink.Route{Dst: ipnet(r.Dst), MTU: r.MTU, Priority: r.Metric, Protocol: unix.RTPROT_STATIC}
	switch r.Type {
	case "":
	case "blackhole":
		out.Type = unix.RTN_BLACKHOLE
	case "unreachable":
		out.Type = unix.RTN_UNREACHABLE
	default:
		return nil, fmt.Errorf("route type %q: want blackhole or unreachable", r.Type)
	}
	if r.Via.IsValid() {
		out.Gw = r.Via.AsSlice()
	}
	if r.Src.IsValid() {
		out.Src = r.Src.AsSlice()
	}
	if r.OnLink {
		out.Flags |= int(netlink.FLAG_ONLINK)
	}
	switch r.Scope {
	case "link":
		out.Scope = netlink.SCOPE_LINK
	case "", "global":
		if !r.Via.IsValid() && r.Dst.Addr().Is4() && r.Scope == "" && r.Type == "" {
			out.Scope = netlink.SCOPE_LINK // as ip-route(8) does for a route without a gateway
		}
	default:
		return nil, fmt.Errorf("route scope %q: want link or global", r.Scope)
	}
	if r.Link != "" {
		l, err := index(nl, r.Link)
		if err != nil {
			return nil, err
		}
		out.LinkIndex = l.Attrs().Index
	}
	return out, nil
}

// room tells whether a table that holds so many routes by a gateway can take one more.
func room(nl *netlinks, r topology.Route) error {
	family := netlink.FAMILY_V4
	if r.Dst.Addr().Is6() {
		family = netlink.FAMILY_V6
	}
	routes, err := dump(func() ([]netlink.Route, error) {
		return nl.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return err
	}
	have := 0
	for _, other := range routes {
		if gateway(other.Gw, other.Via).IsValid() {
			have++
		}
	}
	if have >= r.Limit {
		return fmt.Errorf("route to %s: the table has %d of its family, and holds no more than %d: %w", r.Dst, have, r.Limit, unix.ENOSPC)
	}
	return nil
}

func neigh(nl *netlinks, n topology.Neigh) (*netlink.Neigh, error) {
	l, err := index(nl, n.Link)
	if err != nil {
		return nil, err
	}
	out := &netlink.Neigh{LinkIndex: l.Attrs().Index, State: netlink.NUD_PERMANENT, HardwareAddr: n.MAC}
	switch {
	case n.FDB && n.IP.IsValid():
		out.Family, out.Flags = unix.AF_BRIDGE, netlink.NTF_SELF
	case n.FDB:
		out.Family, out.Flags, out.State = unix.AF_BRIDGE, netlink.NTF_MASTER, netlink.NUD_NOARP
	case n.IP.Is4():
		out.Family = unix.AF_INET
	default:
		out.Family = unix.AF_INET6
	}
	if n.IP.IsValid() {
		out.IP = n.IP.AsSlice()
	}
	if n.Proxy {
		out.Flags, out.State = netlink.NTF_PROXY, 0
	}
	if n.Found {
		out.State = netlink.NUD_REACHABLE
	}
	return out, nil
}

// taken tells what of a discipline that impairs packets the kernel has otherwise than it was given.
func taken(nl *netlinks, q netlink.Qdisc) error {
	want, ok := q.(*netlink.Netem)
	if !ok {
		return nil
	}
	all, err := dump(func() ([]netlink.Qdisc, error) {
		return nl.QdiscList(&netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Index: want.LinkIndex}})
	})
	if err != nil {
		return err
	}
	for _, q := range all {
		if got, ok := q.(*netlink.Netem); ok && got.Parent == want.Parent {
			if was := impairments(got); was != impairments(want) {
				return fmt.Errorf("the kernel has netem%s: want%s", was, impairments(want))
			}
			return nil
		}
	}
	return errors.New("the kernel has no netem there after it was given one")
}

// impairments are those of a discipline, as tc-netem(8) takes them, by the kernel's clock.
func impairments(n *netlink.Netem) (text string) {
	if n.Latency != 0 {
		text += fmt.Sprintf(" delay %.0fus", float64(n.Latency)/netlink.TickInUsec())
	}
	if n.Jitter != 0 {
		text += fmt.Sprintf(" %.0fus", float64(n.Jitter)/netlink.TickInUsec())
	}
	for _, f := range []struct {
		word string
		of   uint32
	}{{"loss", n.Loss}, {"reorder", n.ReorderProb}} {
		if f.of != 0 {
			text += fmt.Sprintf(" %s %.4g%%", f.word, 100*float64(f.of)/math.MaxUint32)
		}
	}
	if n.Rate64 != 0 {
		text += fmt.Sprintf(" rate %dbit", 8*n.Rate64)
	}
	return text
}

// redirect is the queue through which a device receives, and its filter, which holds of every packet.
func redirect(nl *netlinks, r topology.Redirect) (netlink.Qdisc, netlink.Filter, error) {
	from, err := index(nl, r.Link)
	if err != nil {
		return nil, nil, err
	}
	to, err := index(nl, r.To)
	if err != nil {
		return nil, nil, err
	}
	at := from.Attrs().Index
	q := &netlink.Ingress{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: at, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_INGRESS}}
	return q, &netlink.U32{
		FilterAttrs: netlink.FilterAttrs{LinkIndex: at, Parent: q.Handle, Priority: 1, Protocol: unix.ETH_P_ALL},
		Actions:     []netlink.Action{netlink.NewMirredAction(to.Attrs().Index)},
	}, nil
}

// queue is the discipline that holds a device to a rate, or, where packets are late or lost too, to all three.
func queue(nl *netlinks, s topology.Shape) (netlink.Qdisc, error) {
	l, err := index(nl, s.Link)
	if err != nil {
		return nil, err
	}
	base := netlink.QdiscAttrs{LinkIndex: l.Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT}
	rate := uint64(s.Rate) / 8 // bytes a second
	if s.Netem() {
		return netlink.NewNetem(base, netlink.NetemQdiscAttrs{
			Latency: uint32(s.Delay.Microseconds()), Jitter: uint32(s.Jitter.Microseconds()), Loss: float32(100 * s.Loss), ReorderProb: float32(100 * s.Reorder), Rate64: rate,
		}), nil
	}
	burst, limit := s.Bucket()
	return &netlink.Tbf{QdiscAttrs: base, Rate: rate, Limit: limit, Buffer: netlink.Xmittime(rate, burst)}, nil
}
