package host

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/modebench/modebench/topology/space"
)

// Own is an interface of a real machine that a lab has for a while.
type Own struct {
	NIC           // what becomes of it in the lab
	Device string // its name on the machine; empty: it is the one with the NIC's MAC address
}

// Found is an interface of a real machine.
type Found struct {
	Name   string // in the lab
	Device string // on the machine
	Driver string // as ethtool(8) tells; empty: it is no NIC but a device of the kernel's
}

// ErrAway is that the machine has no such interface, or a lab has it.
var ErrAway = errNoLink

// Find finds interfaces of the machine, in whose own namespace the calling process is, and tells why one cannot be taken. One that something hangs on,
// or that has what could not be put back, is not taken, nor is the one that carries an ssh session, which is what sshd(8) says of
// it in SSH_CONNECTION; empty: there is none.
func Find(owns []Own, session string) ([]Found, error) {
	var out []Found
	for _, o := range owns {
		l, err := o.link()
		if err == nil {
			err = takeable(l, session)
		}
		if err != nil {
			return nil, fmt.Errorf("interface %s: %w", o.Name, err)
		}
		f := Found{Name: o.Name, Device: l.Attrs().Name}
		if l.Type() == "device" { // it has no kind of rtnetlink(7)
			f.Driver = driver(f.Device)
		}
		if i := slices.IndexFunc(out, func(other Found) bool { return other.Device == f.Device }); i >= 0 {
			return nil, fmt.Errorf("interfaces %s and %s: both are %s: want one for each", out[i].Name, o.Name, f.Device)
		}
		out = append(out, f)
	}
	return out, nil
}

// driver is that of a device; empty: none is told.
func driver(device string) string {
	info, err := unixDriver(device)
	if err != nil {
		return ""
	}
	return info
}

func unixDriver(device string) (string, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	info, err := unix.IoctlGetEthtoolDrvinfo(fd, device)
	if err != nil {
		return "", err
	}
	return unix.ByteSliceToString(info.Driver[:]), nil
}

// link is the interface.
func (o Own) link() (netlink.Link, error) {
	all, err := dump(netlink.LinkList)
	if err != nil {
		return nil, err
	}
	var have []string
	var found []netlink.Link
	for _, l := range all {
		a := l.Attrs()
		if o.Device == a.Name || o.Device == "" && a.HardwareAddr.String() == o.MAC && !stackedOn(l) {
			found = append(found, l)
		}
		if a.Flags&net.FlagLoopback == 0 {
			have = append(have, fmt.Sprintf("%s (%s)", a.Name, a.HardwareAddr))
		}
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1:
		return nil, fmt.Errorf("%s and %s have the address %s: want the one named in the inventory", found[0].Attrs().Name, found[1].Attrs().Name, o.MAC)
	case o.Device == "":
		return nil, fmt.Errorf("%w with the address %s, and the inventory names none: want nics: {%s: …} with one of %s", errNoLink, o.MAC, o.Name, strings.Join(have, ", "))
	}
	return nil, fmt.Errorf("%w as %s: want one of %s", errNoLink, o.Device, strings.Join(have, ", "))
}

// stackedOn tells whether a device has another one of its namespace as its parent.
func stackedOn(l netlink.Link) bool {
	return l.Attrs().ParentIndex != 0 && l.Attrs().NetNsID < 0 && l.Type() != "veth"
}

func takeable(l netlink.Link, session string) error {
	a := l.Attrs()
	fail := func(format string, args ...any) error {
		return fmt.Errorf("%s %s: want an interface that the machine does not need", a.Name, fmt.Sprintf(format, args...))
	}
	if a.Flags&net.FlagLoopback != 0 {
		return fail("is the loopback")
	}
	carries, err := carriesSession(a.Index, session)
	if err != nil {
		return err
	}
	if carries {
		return fail("carries the ssh session, which would end with it")
	}
	all, err := dump(netlink.LinkList)
	if err != nil {
		return err
	}
	for _, other := range all {
		switch {
		case a.MasterIndex == other.Attrs().Index:
			return fail("belongs to %s", other.Attrs().Name)
		case stackedOn(other) && other.Attrs().ParentIndex == a.Index:
			return fail("carries %s", other.Attrs().Name)
		}
	}
	if a.Xdp != nil && a.Xdp.Attached {
		return fail("has an XDP program, which could not be put back")
	}
	qdiscs, err := dump(func() ([]netlink.Qdisc, error) { return netlink.QdiscList(l) })
	if err != nil {
		return err
	}
	for _, q := range qdiscs {
		if q.Attrs().Handle>>16 != 0 { // the kernel's own have no number (qdisc_create_dflt() of Linux net/sched/sch_generic.c)
			return fail("has the queueing discipline %s, which could not be put back", q.Type())
		}
	}
	return nil
}

// carriesSession tells whether a session's packets go by a device.
func carriesSession(index int, session string) (bool, error) {
	ends := strings.Fields(session) // client, its port, server, its port (ssh(1), ENVIRONMENT)
	if len(ends) != 4 {
		return false, nil
	}
	ip := func(s string) net.IP {
		s, _, _ = strings.Cut(s, "%")
		return net.ParseIP(s)
	}
	client, server := ip(ends[0]), ip(ends[2])
	addrs, err := dump(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return false, err
	}
	if slices.ContainsFunc(addrs, func(a netlink.Addr) bool { return a.LinkIndex == index && a.IP.Equal(server) }) {
		return true, nil
	}
	routes, err := netlink.RouteGet(client)
	if err != nil {
		return false, nil // its packets go nowhere
	}
	return slices.ContainsFunc(routes, func(r netlink.Route) bool { return r.LinkIndex == index }), nil
}

// Taken are interfaces that a lab has, and what is to be put back.
type Taken struct {
	in       *space.Space
	recorded []record // last taken last
}

// record is what a machine has of an interface.
type record struct {
	own      Own
	name     string
	mac      net.HardwareAddr
	mtu      int
	up       bool
	upon     upon
	settings map[string]string
	offloads map[string]bool
}

// Take records what the machine has of its interfaces, and takes them into a namespace, where they are down and have the name, MAC
// address and MTU that the lab gives them. On error all are put back.
func Take(owns []Own, session string, into *space.Space) (_ *Taken, _ []Found, err error) {
	found, err := Find(owns, session)
	if err != nil {
		return nil, nil, err
	}
	t := &Taken{in: into}
	defer func() {
		if err != nil {
			err = errors.Join(err, t.Back())
		}
	}()
	for i, o := range owns {
		l, err := netlink.LinkByName(found[i].Device)
		if err != nil {
			return nil, nil, err
		}
		r, err := look(l)
		if err != nil {
			return nil, nil, fmt.Errorf("record %s: %w", found[i].Device, err)
		}
		r.own = o
		t.recorded = append(t.recorded, r)
		if err := errors.Join(netlink.LinkSetDown(l), move(l, into, o.Name)); err != nil {
			return nil, nil, fmt.Errorf("take %s: %w", r.name, err)
		}
		mac, err := net.ParseMAC(o.MAC)
		if err != nil {
			return nil, nil, err
		}
		if err := into.Do(func() error { return dress(o.Name, mac, o.MTU) }); err != nil {
			return nil, nil, fmt.Errorf("take %s: %w", r.name, err)
		}
	}
	return t, found, nil
}

// move has a device, which is down, go to another namespace and be called by another name there, in one request: it would have no name that is free in
// both in between.
func move(l netlink.Link, to *space.Space, name string) error {
	req := nl.NewNetlinkRequest(unix.RTM_NEWLINK, unix.NLM_F_ACK)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(l.Attrs().Index)
	req.AddData(msg)
	req.AddData(nl.NewRtAttr(unix.IFLA_NET_NS_FD, nl.Uint32Attr(uint32(to.File().Fd()))))
	req.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

// dress gives a device that is down its MAC address and MTU.
func dress(name string, mac net.HardwareAddr, mtu int) error {
	l, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	if !bytes.Equal(l.Attrs().HardwareAddr, mac) {
		if err := netlink.LinkSetHardwareAddr(l, mac); err != nil {
			return fmt.Errorf("set the address %s: %w", mac, err)
		}
	}
	if l.Attrs().MTU != mtu {
		if err := netlink.LinkSetMTU(l, mtu); err != nil {
			return fmt.Errorf("set the MTU %d: %w", mtu, err)
		}
	}
	return nil
}

// upon is what a device loses when it is set down, some or all of it.
type upon struct {
	addrs  []netlink.Addr
	routes []netlink.Route
	neighs []netlink.Neigh // permanent ones
}

func readUpon(nl *netlink.Handle, index int) (u upon, err error) {
	if u.addrs, err = dump(func() ([]netlink.Addr, error) {
		return nl.AddrList(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: index}}, netlink.FAMILY_ALL)
	}); err != nil {
		return u, err
	}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := dump(func() ([]netlink.Route, error) {
			return nl.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
		})
		if err != nil {
			return u, err
		}
		for _, route := range routes {
			over := route.LinkIndex == index || slices.ContainsFunc(route.MultiPath, func(hop *netlink.NexthopInfo) bool { return hop.LinkIndex == index })
			// What follows from addresses and from what routers advertise comes back with these.
			if over && !slices.Contains([]int{unix.RTPROT_KERNEL, unix.RTPROT_RA, unix.RTPROT_REDIRECT}, int(route.Protocol)) {
				route.Flags &= unix.RTNH_F_ONLINK
				u.routes = append(u.routes, route)
			}
		}
	}
	neighs, err := dump(func() ([]netlink.Neigh, error) { return nl.NeighList(index, netlink.FAMILY_ALL) })
	for _, n := range neighs {
		if n.State&netlink.NUD_PERMANENT != 0 {
			u.neighs = append(u.neighs, n)
		}
	}
	return u, err
}

// back gives a device that is up what it lacks of it.
func (u upon) back(nl *netlink.Handle, l netlink.Link, tell func(what any, err error)) {
	for _, a := range u.addrs {
		a.LinkIndex, a.Flags = 0, a.Flags&^(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED|unix.IFA_F_SECONDARY)
		if a.Broadcast == nil { // or it would get one
			a.Broadcast = net.IPv4zero
		}
		tell(a, nl.AddrAdd(l, &a))
	}
	for _, n := range u.neighs {
		n.LinkIndex = l.Attrs().Index
		tell(n, nl.NeighSet(&n))
	}
	for _, direct := range []bool{true, false} { // what a gateway is reached by first
		for _, route := range u.routes {
			if direct == (route.Gw == nil && len(route.MultiPath) == 0) {
				tell(route, nl.RouteAdd(&route))
			}
		}
	}
}

// look records a device of the calling thread's namespace.
func look(l netlink.Link) (record, error) {
	a := l.Attrs()
	r := record{name: a.Name, mac: a.HardwareAddr, mtu: a.MTU, up: a.Flags&net.FlagUp != 0, settings: map[string]string{}, offloads: map[string]bool{}}
	var err error
	if r.upon, err = readUpon(&netlink.Handle{}, a.Index); err != nil {
		return r, err
	}
	for _, dir := range []string{"net/ipv4/conf/", "net/ipv4/neigh/", "net/ipv6/conf/", "net/ipv6/neigh/"} {
		files, err := os.ReadDir(sysctls + dir + a.Name)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return r, err
		}
		for _, f := range files {
			if value, err := sysctl(dir + a.Name + "/" + f.Name()); err == nil { // one that was never set cannot be read
				r.settings[dir+a.Name+"/"+f.Name()] = value
			}
		}
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return r, err
	}
	defer unix.Close(fd)
	for name, f := range features {
		if on, err := ethtool(fd, a.Name, f.read, false); err == nil { // one that the device does not know cannot change
			r.offloads[name] = on
		}
	}
	return r, nil
}

// Back puts the interfaces back: whatever the lab left in the namespace is removed, and each is on the machine again with what was recorded of
// it. Everything is tried; the error is what could not be, or is not as it was.
func (t *Taken) Back() error {
	own, err := space.Current()
	if err != nil {
		return err
	}
	defer own.Close()
	errs := []error{t.in.Do(func() error { return t.clear() })}
	for i, r := range slices.Backward(t.recorded) {
		if err := t.in.Do(func() error { return r.leave(i, own) }); err != nil {
			errs = append(errs, fmt.Errorf("put back %s: %w", r.name, err))
			continue
		}
		if err := r.restore(); err != nil {
			errs = append(errs, fmt.Errorf("put back %s: %w", r.name, err))
		}
	}
	t.recorded = nil
	return errors.Join(errs...)
}

// clear removes all devices of the namespace, where the calling thread is, but those that were taken, and gives these names that are nobody's.
func (t *Taken) clear() error {
	var errs []error
	for i, r := range t.recorded {
		l, err := netlink.LinkByName(r.own.Name)
		if err == nil {
			err = errors.Join(netlink.LinkSetNoMaster(l), netlink.LinkSetDown(l), netlink.LinkSetName(l, leaving(i)))
		}
		if !errors.As(err, &netlink.LinkNotFoundError{}) { // it was not taken yet
			errs = append(errs, err)
		}
	}
	links, err := dump(netlink.LinkList)
	for _, l := range links {
		if name := l.Attrs().Name; l.Attrs().Flags&net.FlagLoopback == 0 && !strings.HasPrefix(name, leaving(-1)) {
			_ = netlink.LinkDel(l) // one that the kernel keeps, as tunl0, goes with the namespace
		}
	}
	return errors.Join(append(errs, err)...)
}

// leaving is the name of the interface of a number on its way back; of -1 what all begin with.
func leaving(i int) string {
	if i < 0 {
		return "leaving"
	}
	return fmt.Sprintf("leaving%d", i)
}

// leave takes the interface of a number out of the lab's namespace, where the calling thread is. It comes back under its own name: what
// manages the machine's interfaces, such as udev(7), is told of it with the name that it had here (__dev_change_net_namespace() of Linux net/core/dev.c),
// and would take eth0 of the lab for the machine's own.
func (r record) leave(i int, to *space.Space) error {
	l, err := netlink.LinkByName(leaving(i))
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	if err != nil {
		return err
	}
	return errors.Join(
		netlink.SetPromiscOff(l), netlink.LinkSetAllmulticastOff(l), dress(leaving(i), r.mac, r.mtu), netlink.LinkSetName(l, r.name), move(l, to, r.name))
}

// restore gives an interface, which is back, what was recorded of it.
func (r record) restore() error {
	l, err := netlink.LinkByName(r.name)
	if err != nil {
		return err
	}
	var errs []error
	add := func(what any, err error) {
		if err != nil && !errors.Is(err, unix.EEXIST) {
			errs = append(errs, fmt.Errorf("%v: %w", what, err))
		}
	}
	settings := func() {
		for _, key := range slices.Sorted(maps.Keys(r.settings)) {
			if is, err := sysctl(key); err == nil && is == r.settings[key] {
				continue
			}
			if _, err := setSysctl(key, r.settings[key]); !errors.Is(err, unix.EACCES) && !errors.Is(err, unix.EPERM) { // that is only to be read
				add(key, err)
			}
		}
	}
	settings()
	for name, on := range r.offloads {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		if is, err := ethtool(fd, r.name, features[name].read, false); err == nil && is != on {
			_, err = ethtool(fd, r.name, features[name].write, on)
			add(name, err)
		}
		_ = unix.Close(fd)
	}
	if r.up {
		add("up", netlink.LinkSetUp(l))
	}
	r.upon.back(&netlink.Handle{}, l, add)
	settings() // those that changed as it came up
	return errors.Join(errs...)
}
