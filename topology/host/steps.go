package host

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/modebench/modebench/topology"
	"github.com/modebench/modebench/topology/space"
)

// netlinks is a netlink socket into one namespace.
type netlinks = *netlink.Handle

// hands says how steps are done. Bare hands do everything on the calling thread, with the capabilities that it has
// left; the thread must be in the step's namespace.
type hands struct{ bare bool }

func (h *Host) run(in string, hs hands, f func() error) error {
	if hs.bare {
		return f()
	}
	s, err := h.find(in)
	if err != nil {
		return err
	}
	return s.Do(f)
}

// netlink returns a socket into a container's namespace. Sockets are kept: opening one costs more than most steps.
func (h *Host) netlink(in string, hs hands) (netlinks, error) {
	if hs.bare {
		return netlink.NewHandle(unix.NETLINK_ROUTE)
	}
	s, err := h.find(in)
	if err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if nl := h.links[in]; nl != nil {
		return nl, nil
	}
	// Not NewHandleAt: it reads the namespace to come back to by process id, which is another's in a PID namespace of
	// its own below the machine's /proc.
	var nl netlinks
	if err := s.Do(func() (err error) { nl, err = netlink.NewHandle(unix.NETLINK_ROUTE); return err }); err != nil {
		return nil, fmt.Errorf("netlink: %w", err)
	}
	h.links[in] = nl
	return nl, nil
}

// do carries one step out and returns what takes it back; nil where nothing can or must.
func (h *Host) do(s topology.Step, hs hands) (func() error, error) {
	switch {
	case s.Space != nil && s.Remove:
		return nil, h.letGo(s.Space.Name)
	case s.Space != nil:
		return h.makeSpace(*s.Space)
	case s.Table != nil:
		table := *s.Table
		add := func() error { return h.run(s.In, hs, func() error { return addTable(table) }) }
		remove := func() error { return h.run(s.In, hs, func() error { return removeTable(table) }) }
		return either(s.Remove, add, remove)
	case s.Sysctl != nil:
		return h.setSysctl(s.In, *s.Sysctl, hs)
	case s.Offload != nil:
		off := *s.Offload
		var was bool
		err := h.run(s.In, hs, func() (err error) { was, err = setOffload(off); return err })
		off.On = was
		return func() error {
			return h.run(s.In, hs, func() error { _, err := setOffload(off); return err })
		}, err
	}
	nl, err := h.netlink(s.In, hs)
	if err != nil {
		return nil, err
	}
	if hs.bare {
		defer nl.Close()
	}
	switch {
	case s.Link != nil && s.Remove:
		return nil, removeLink(nl, s.Link.Name)
	case s.Link != nil:
		return h.addLink(nl, s.In, *s.Link)
	case s.Set != nil:
		return h.setLink(nl, s.In, *s.Set, hs)
	case s.Addr != nil:
		link, err := index(nl, s.Addr.Link)
		if err != nil {
			return nil, err
		}
		a := address(*s.Addr)
		return either(s.Remove,
			func() error { return nl.AddrAdd(link, a) },
			func() error { return nl.AddrDel(link, a) })
	case s.Route != nil:
		r, err := route(nl, *s.Route)
		if err != nil {
			return nil, err
		}
		return either(s.Remove, func() error { return nl.RouteAdd(r) }, func() error { return nl.RouteDel(r) })
	case s.Neigh != nil:
		n, err := neigh(nl, *s.Neigh)
		if err != nil {
			return nil, err
		}
		return either(s.Remove, func() error { return nl.NeighSet(n) }, func() error { return nl.NeighDel(n) })
	case s.Shape != nil:
		q, err := queue(nl, *s.Shape)
		if err != nil {
			return nil, err
		}
		return either(s.Remove, func() error { return nl.QdiscReplace(q) }, func() error { return nl.QdiscDel(q) })
	}
	return nil, errors.New("a step that asks for nothing")
}

// either does a thing or its opposite, and returns the other one.
func either(remove bool, add, del func() error) (func() error, error) {
	if remove {
		add, del = del, add
	}
	return del, add()
}

func (h *Host) loopback(in string) error {
	nl, err := h.netlink(in, hands{})
	if err != nil {
		return err
	}
	if err := nl.LinkSetUp(&netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Name: "lo", Index: 1}}); err != nil {
		return fmt.Errorf("ip link set lo up: %w", err)
	}
	return nil
}

func (h *Host) makeSpace(s topology.Space) (func() error, error) {
	h.mu.Lock()
	_, exists := h.spaces[s.Name]
	h.mu.Unlock()
	if exists {
		return nil, fmt.Errorf("%s/%s: container exists: %w", h.name, s.Name, unix.EEXIST)
	}
	back := func() error { return h.letGo(s.Name) }
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
	made, err := space.New()
	if err != nil {
		return nil, err
	}
	h.mu.Lock()
	h.spaces[s.Name] = made
	h.mu.Unlock()
	if err := h.capture.Watch(s.Name, made); err != nil {
		return nil, errors.Join(err, back())
	}
	if err := h.loopback(s.Name); err != nil {
		return nil, errors.Join(err, back())
	}
	return back, nil
}

// letGo closes what this program holds of a container's namespace. Its devices go when nobody else holds it.
func (h *Host) letGo(container string) error {
	h.mu.Lock()
	s, nl, shared := h.spaces[container], h.links[container], h.shared[container]
	delete(h.spaces, container)
	delete(h.links, container)
	delete(h.shared, container)
	h.mu.Unlock()
	if s == nil {
		return fmt.Errorf("%s/%s: %w", h.name, container, errNoSpace)
	}
	if nl != nil {
		nl.Close()
	}
	if !shared {
		// A socket would keep the namespace alive.
		h.capture.Forget(container)
		h.probes.Forget(container)
	}
	return s.Close()
}

func (h *Host) setSysctl(in string, s topology.Sysctl, hs hands) (func() error, error) {
	var was string
	set := func(value string) func() error {
		return func() error {
			return h.run(in, hs, func() (err error) { was, err = setSysctl(s.Key, value); return err })
		}
	}
	err := set(s.Value)()
	if s.Optional && errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return set(was), err
}

// index finds a device without asking for all of it.
func index(nl netlinks, name string) (netlink.Link, error) {
	l, err := nl.LinkByName(name)
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return nil, fmt.Errorf("%s: %w: %w", name, errNoLink, unix.ENODEV)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return l, nil
}

func removeLink(nl netlinks, name string) error {
	l, err := index(nl, name)
	if err != nil {
		return err
	}
	return nl.LinkDel(l)
}

// addLink makes a device in its place: a device that is moved to another namespace afterwards costs an RCU grace period.
func (h *Host) addLink(nl netlinks, in string, l topology.Link) (func() error, error) {
	base := netlink.NewLinkAttrs()
	base.Name, base.HardwareAddr, base.MTU = l.Name, l.MAC, l.MTU
	if l.Up {
		base.Flags |= net.FlagUp
	}
	if l.Master != "" {
		m, err := index(nl, l.Master)
		if err != nil {
			return nil, err
		}
		base.MasterIndex = m.Attrs().Index
	}
	request := nl
	var link netlink.Link
	switch l.Kind {
	case "bridge":
		snooping := !l.NoSnooping
		link = &netlink.Bridge{LinkAttrs: base, MulticastSnooping: &snooping}
	case "veth":
		peer, err := h.find(l.PeerIn)
		if err != nil {
			return nil, err
		}
		base.Index = int(h.veths.Add(1)) + firstIndex + 1000
		link = &netlink.Veth{
			LinkAttrs: base, PeerName: l.PeerName, PeerHardwareAddr: l.PeerMAC, PeerMTU: uint32(l.PeerMTU),
			PeerNamespace: netlink.NsFd(peer.File().Fd()),
		}
	case "macvlan":
		mode, err := macvlanMode(l.ParentMode)
		if err != nil {
			return nil, err
		}
		own, err := h.netlink("", hands{})
		if err != nil {
			return nil, err
		}
		parent, err := index(own, l.Parent)
		if err != nil {
			return nil, err
		}
		target, err := h.find(in)
		if err != nil {
			return nil, err
		}
		base.ParentIndex, base.Namespace = parent.Attrs().Index, netlink.NsFd(target.File().Fd())
		request, link = own, &netlink.Macvlan{LinkAttrs: base, Mode: mode}
	default:
		return nil, fmt.Errorf("link kind %q is not known here", l.Kind)
	}
	if err := request.LinkAdd(link); err != nil {
		return nil, err
	}
	return func() error { return removeLink(nl, l.Name) }, nil
}

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

// setLink changes what is asked for, and takes back the same fields only.
func (h *Host) setLink(nl netlinks, in string, s topology.LinkSet, hs hands) (func() error, error) {
	l, err := index(nl, s.Name)
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
		if m, ok := l.(*netlink.Macvlan); ok {
			back.Mode = macvlanModes[m.Mode]
		}
	}, func() {
		mode, err := macvlanMode(s.Mode)
		if err != nil {
			try(err)
			return
		}
		try(nl.LinkSetMacvlanMode(l, mode))
	})
	change(s.State != "", func() { back.State = map[bool]string{true: "up", false: "down"}[was.Flags&net.FlagUp != 0] }, func() {
		if s.State == "up" {
			try(nl.LinkSetUp(l))
		} else {
			try(nl.LinkSetDown(l))
		}
	})
	return func() error {
		_, err := h.do(topology.Step{In: in, Set: &back}, hands{})
		return err
	}, errors.Join(errs...)
}

func masterName(nl netlinks, index int) string {
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

func route(nl netlinks, r topology.Route) (*netlink.Route, error) {
	out := &netlink.Route{Dst: ipnet(r.Dst), MTU: r.MTU, Protocol: unix.RTPROT_STATIC}
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
		if !r.Via.IsValid() && r.Dst.Addr().Is4() && r.Scope == "" {
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

func neigh(nl netlinks, n topology.Neigh) (*netlink.Neigh, error) {
	l, err := index(nl, n.Link)
	if err != nil {
		return nil, err
	}
	out := &netlink.Neigh{LinkIndex: l.Attrs().Index, State: netlink.NUD_PERMANENT, HardwareAddr: n.MAC}
	switch {
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
	return out, nil
}

// queue is the discipline that holds a device to a rate, or, where packets are late or lost too, to all three.
func queue(nl netlinks, s topology.Shape) (netlink.Qdisc, error) {
	l, err := index(nl, s.Link)
	if err != nil {
		return nil, err
	}
	base := netlink.QdiscAttrs{LinkIndex: l.Attrs().Index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT}
	rate := uint64(s.Rate) / 8 // bytes a second
	if s.Delay != 0 || s.Loss != 0 {
		return netlink.NewNetem(base, netlink.NetemQdiscAttrs{
			Latency: uint32(s.Delay.Microseconds()), Loss: float32(100 * s.Loss), Rate64: rate,
		}), nil
	}
	burst, limit := s.Bucket()
	return &netlink.Tbf{QdiscAttrs: base, Rate: rate, Limit: limit, Buffer: netlink.Xmittime(rate, burst)}, nil
}
