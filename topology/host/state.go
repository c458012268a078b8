package host

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/modebench/modebench/topology"
	"github.com/modebench/modebench/topology/lab"
	"github.com/modebench/modebench/topology/space"
)

// state reads parts of namespaces without changing them. What has no order of its own is sorted: the same state reads the same.
func state(spaces map[string]*space.Space, of []part) (lab.State, error) {
	all := lab.State{Spaces: map[string]lab.SpaceState{}}
	for _, name := range slices.Sorted(maps.Keys(spaces)) {
		s := spaces[name]
		err := s.Do(func() error {
			here, err := snapshot(of)
			here.Inode = s.Inode()
			all.Spaces[name] = here
			return err
		})
		if err != nil {
			return lab.State{}, fmt.Errorf("state of namespace %q: %w", name, err)
		}
	}
	return all, nil
}

// reader reads the namespace of the thread that made it.
type reader struct {
	*netlink.Handle
	names map[int]string // of devices, by index
}

// part is something of a namespace's state, and who reads it.
type part struct {
	name string
	read func(reader, *lab.SpaceState) error
}

// everything of a namespace, but for its connections. Devices come first: the others name them.
var (
	everything = slices.Concat(devices, []part{
		{"routes", reader.routes},
		{"neighbours", reader.neighs},
		{"forwarding table", reader.fdb},
		{"rules", func(_ reader, s *lab.SpaceState) (err error) { s.Rules, err = rules(); return err }},
		{"sysctls", reader.sysctls},
		{"qdiscs", reader.qdiscs},
		{"sockets", func(_ reader, s *lab.SpaceState) error { return sockets(s) }},
	})
	devices = []part{{"links", reader.links}, {"addresses", reader.addrs}}
	// The kernel's table of connections is one for all namespaces, and takes longer to be gone through than all the rest.
	tracked = slices.Concat(everything, []part{{"connections", reader.conntrack}, {"statistics of connections", reader.crowding}})
)

// snapshot reads parts of the namespace of the calling thread.
func snapshot(of []part) (s lab.SpaceState, err error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE, unix.NETLINK_NETFILTER)
	if err != nil {
		return s, fmt.Errorf("netlink socket: %w", err)
	}
	defer h.Close()
	r := reader{h, map[int]string{}}
	for _, p := range of {
		if err := p.read(r, &s); err != nil {
			return s, fmt.Errorf("%s: %w", p.name, err)
		}
	}
	return s, nil
}

// dump reads a list again where it changed meanwhile (NLM_F_DUMP_INTR, netlink(7)).
func dump[T any](list func() ([]T, error)) (all []T, err error) {
	for range 20 {
		all, err = list()
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			return all, err
		}
	}
	return nil, err
}

func addrOf(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}

func prefixOf(n *net.IPNet) netip.Prefix {
	if n == nil {
		return netip.Prefix{}
	}
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(addrOf(n.IP), ones)
}

// linkFlags in the order and by the names of ip-link(8).
var linkFlags = []struct {
	bit  uint32
	name string
}{
	{unix.IFF_LOOPBACK, "LOOPBACK"},
	{unix.IFF_BROADCAST, "BROADCAST"},
	{unix.IFF_POINTOPOINT, "POINTOPOINT"},
	{unix.IFF_MULTICAST, "MULTICAST"},
	{unix.IFF_NOARP, "NOARP"},
	{unix.IFF_ALLMULTI, "ALLMULTI"},
	{unix.IFF_PROMISC, "PROMISC"},
	{unix.IFF_MASTER, "MASTER"},
	{unix.IFF_SLAVE, "SLAVE"},
	{unix.IFF_UP, "UP"},
	{unix.IFF_LOWER_UP, "LOWER_UP"},
	{unix.IFF_DORMANT, "DORMANT"},
}

var macvlanModes = map[netlink.MacvlanMode]string{
	netlink.MACVLAN_MODE_PRIVATE: "private", netlink.MACVLAN_MODE_VEPA: "vepa", netlink.MACVLAN_MODE_BRIDGE: "bridge",
	netlink.MACVLAN_MODE_PASSTHRU: "passthru", netlink.MACVLAN_MODE_SOURCE: "source",
}

// modeOf is the mode of a device whose kind has modes.
func modeOf(l netlink.Link) string {
	switch l := l.(type) {
	case *netlink.Macvlan:
		return macvlanModes[l.Mode]
	case *netlink.IPVlan:
		if int(l.Mode) < len(topology.IPVLANModes) {
			return topology.IPVLANModes[l.Mode]
		}
	}
	return ""
}

// vlans are those of bridges and their ports, by index.
func vlans(h *netlink.Handle) (map[int32][]*nl.BridgeVlanInfo, error) {
	var all map[int32][]*nl.BridgeVlanInfo
	_, err := dump(func() (_ []int, err error) { all, err = h.BridgeVlanList(); return nil, err })
	return all, err
}

func (r reader) links(s *lab.SpaceState) error {
	links, err := dump(r.LinkList)
	if err != nil {
		return err
	}
	filtering := false
	for _, l := range links {
		r.names[l.Attrs().Index] = l.Attrs().Name
		if b, ok := l.(*netlink.Bridge); ok && b.VlanFiltering != nil && *b.VlanFiltering {
			filtering = true
		}
	}
	var in map[int32][]*nl.BridgeVlanInfo
	if filtering {
		if in, err = vlans(r.Handle); err != nil {
			return err
		}
	}
	for _, l := range links {
		a := l.Attrs()
		link := lab.Link{
			Name: a.Name, Index: a.Index, Kind: l.Type(), MAC: a.HardwareAddr, MTU: a.MTU,
			Up: a.RawFlags&unix.IFF_UP != 0, Oper: strings.ReplaceAll(a.OperState.String(), "-", ""),
			Master: r.names[a.MasterIndex], Parent: a.ParentIndex, Promiscuity: a.Promisc, Alias: a.Alias,
		}
		if a.RawFlags&unix.IFF_LOOPBACK != 0 {
			link.Kind = "loopback"
		}
		if link.Kind == "device" {
			if link.Driver, err = driverOf(a.Name); err != nil {
				return err
			}
		}
		link.Mode = modeOf(l)
		if v, ok := l.(*netlink.Vlan); ok {
			link.VID = v.VlanId
		}
		for _, v := range in[int32(a.Index)] {
			link.VLANs = append(link.VLANs, lab.VLAN{VID: int(v.Vid), PVID: v.PortVID(), Untagged: v.EngressUntag()})
		}
		for _, f := range linkFlags {
			if a.RawFlags&f.bit != 0 {
				link.Flags = append(link.Flags, f.name)
			}
		}
		if st := a.Statistics; st != nil {
			link.RxPackets, link.TxPackets, link.RxDropped = st.RxPackets, st.TxPackets, st.RxDropped
		}
		s.Links = append(s.Links, link)
	}
	slices.SortFunc(s.Links, func(a, b lab.Link) int { return cmp.Compare(a.Index, b.Index) })
	return nil
}

func (r reader) addrs(s *lab.SpaceState) error {
	addrs, err := dump(func() ([]netlink.Addr, error) { return r.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return err
	}
	for _, a := range addrs {
		p := prefixOf(a.IPNet)
		s.Addrs = append(s.Addrs, lab.Addr{
			Link: r.names[a.LinkIndex], Prefix: p,
			Tentative: a.Flags&unix.IFA_F_TENTATIVE != 0, DADFailed: a.Flags&unix.IFA_F_DADFAILED != 0,
			LinkLocal: p.Addr().IsLinkLocalUnicast(),
		})
	}
	slices.SortFunc(s.Addrs, func(a, b lab.Addr) int {
		return cmp.Or(cmp.Compare(a.Link, b.Link), a.Prefix.Compare(b.Prefix))
	})
	return nil
}

func (r reader) routes(s *lab.SpaceState) error {
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := dump(func() ([]netlink.Route, error) {
			return r.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
		})
		if err != nil {
			return err
		}
		for _, rt := range routes {
			dst := prefixOf(rt.Dst)
			if !dst.IsValid() && family == netlink.FAMILY_V4 {
				dst = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
			} else if !dst.IsValid() {
				dst = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
			}
			s.Routes = append(s.Routes, lab.Route{Dst: dst, Via: gateway(rt.Gw, rt.Via), Link: r.names[rt.LinkIndex], Text: r.routeText(dst, rt)})
		}
	}
	slices.SortFunc(s.Routes, func(a, b lab.Route) int {
		return cmp.Or(a.Dst.Compare(b.Dst), cmp.Compare(a.Text, b.Text))
	})
	return nil
}

// gateway is that of a route, which may be of the other family (RFC 5549).
func gateway(gw net.IP, via netlink.Destination) netip.Addr {
	if v, ok := via.(*netlink.Via); ok {
		return addrOf(v.Addr)
	}
	return addrOf(gw)
}

var routeTypes = map[int]string{
	unix.RTN_LOCAL: "local", unix.RTN_BROADCAST: "broadcast", unix.RTN_ANYCAST: "anycast", unix.RTN_MULTICAST: "multicast",
	unix.RTN_BLACKHOLE: "blackhole", unix.RTN_UNREACHABLE: "unreachable", unix.RTN_PROHIBIT: "prohibit", unix.RTN_THROW: "throw",
}

var routeScopes = map[netlink.Scope]string{
	netlink.SCOPE_SITE: "site", netlink.SCOPE_LINK: "link", netlink.SCOPE_HOST: "host", netlink.SCOPE_NOWHERE: "nowhere",
}

// routeText is a route as ip-route(8) lists it, without what changes by itself, such as how long it still lives.
func (r reader) routeText(dst netip.Prefix, rt netlink.Route) string {
	var w []string
	if t := routeTypes[rt.Type]; t != "" {
		w = append(w, t)
	}
	switch {
	case dst.Bits() == 0:
		w = append(w, "default")
	case dst.IsSingleIP():
		w = append(w, dst.Addr().String())
	default:
		w = append(w, dst.String())
	}
	hop := func(via netip.Addr, link int) {
		if via.IsValid() {
			if via.Is6() != dst.Addr().Is6() {
				w = append(w, "via", "inet6", via.String())
			} else {
				w = append(w, "via", via.String())
			}
		}
		if name := r.names[link]; name != "" {
			w = append(w, "dev", name)
		}
	}
	hop(gateway(rt.Gw, rt.Via), rt.LinkIndex)
	if rt.Protocol != unix.RTPROT_BOOT && rt.Protocol != unix.RTPROT_UNSPEC {
		w = append(w, "proto", rt.Protocol.String())
	}
	if scope := routeScopes[rt.Scope]; scope != "" {
		w = append(w, "scope", scope)
	}
	if src := addrOf(rt.Src); src.IsValid() {
		w = append(w, "src", src.String())
	}
	if rt.Priority != 0 {
		w = append(w, "metric", strconv.Itoa(rt.Priority))
	}
	w = append(w, hopFlags(rt.Flags)...)
	if rt.MTU != 0 {
		w = append(w, "mtu")
		if rt.MTULock {
			w = append(w, "lock")
		}
		w = append(w, strconv.Itoa(rt.MTU))
	}
	for _, h := range rt.MultiPath {
		w = append(w, "nexthop")
		hop(gateway(h.Gw, h.Via), h.LinkIndex)
		w = append(w, "weight", strconv.Itoa(h.Hops+1))
		w = append(w, hopFlags(h.Flags)...)
	}
	return strings.Join(w, " ")
}

func hopFlags(flags int) (names []string) {
	for _, f := range []struct {
		bit  int
		name string
	}{{unix.RTNH_F_DEAD, "dead"}, {unix.RTNH_F_ONLINK, "onlink"}, {unix.RTNH_F_LINKDOWN, "linkdown"}} {
		if flags&f.bit != 0 {
			names = append(names, f.name)
		}
	}
	return names
}

var neighStates = map[int]string{
	netlink.NUD_INCOMPLETE: "incomplete", netlink.NUD_REACHABLE: "reachable", netlink.NUD_STALE: "stale",
	netlink.NUD_DELAY: "delay", netlink.NUD_PROBE: "probe", netlink.NUD_FAILED: "failed", netlink.NUD_PERMANENT: "permanent",
}

func (r reader) neighs(s *lab.SpaceState) error {
	for _, ask := range []netlink.Ndmsg{
		{Family: netlink.FAMILY_V4},
		{Family: netlink.FAMILY_V6},
		{Family: netlink.FAMILY_V4, Flags: netlink.NTF_PROXY},
		{Family: netlink.FAMILY_V6, Flags: netlink.NTF_PROXY},
	} {
		neighs, err := dump(func() ([]netlink.Neigh, error) { return r.NeighListExecute(ask) })
		if err != nil {
			return err
		}
		for _, n := range neighs {
			entry := lab.Neigh{Link: r.names[n.LinkIndex], IP: addrOf(n.IP), MAC: n.HardwareAddr, State: neighStates[n.State]}
			if ask.Flags != 0 {
				entry.State = "proxy"
			}
			// As ip-neigh(8) does, leave out what the kernel needs no resolution for, such as its groups.
			if entry.State != "" {
				s.Neighs = append(s.Neighs, entry)
			}
		}
	}
	slices.SortFunc(s.Neighs, func(a, b lab.Neigh) int {
		return cmp.Or(cmp.Compare(a.Link, b.Link), a.IP.Compare(b.IP), cmp.Compare(a.State, b.State))
	})
	return nil
}

func (r reader) fdb(s *lab.SpaceState) error {
	entries, err := dump(func() ([]netlink.Neigh, error) {
		return r.NeighListExecute(netlink.Ndmsg{Family: unix.AF_BRIDGE})
	})
	if err != nil {
		return err
	}
	for _, e := range entries {
		self := e.Flags&netlink.NTF_SELF != 0
		s.FDB = append(s.FDB, lab.FDB{
			Link: r.names[e.LinkIndex], MAC: e.HardwareAddr, Self: self, Local: !self && e.State&netlink.NUD_PERMANENT != 0,
			Dst: addrOf(e.IP),
		})
	}
	slices.SortFunc(s.FDB, func(a, b lab.FDB) int {
		return cmp.Or(cmp.Compare(a.Link, b.Link), bytes.Compare(a.MAC, b.MAC), cmp.Compare(onOff(a.Self), onOff(b.Self)),
			cmp.Compare(onOff(a.Local), onOff(b.Local)), a.Dst.Compare(b.Dst))
	})
	return nil
}

// connProtos are the protocols of connections, by the names that captures give them.
var connProtos = map[uint8]string{
	unix.IPPROTO_TCP: "tcp", unix.IPPROTO_UDP: "udp", unix.IPPROTO_ICMP: "icmp", unix.IPPROTO_ICMPV6: "icmp6",
}

// untracking tells whether a kernel has no connection tracking, or not its netlink.
func untracking(err error) bool {
	return errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP)
}

func (r reader) conntrack(s *lab.SpaceState) error {
	// The table is the whole machine's, and long: look only where the namespace has entries in it.
	if n, err := sysctl("net/netfilter/nf_conntrack_count"); err == nil && n == "0" {
		return nil
	}
	// Both families in one walk through it.
	flows, err := dump(func() ([]*netlink.ConntrackFlow, error) {
		return r.ConntrackTableList(netlink.ConntrackTable, unix.AF_UNSPEC)
	})
	switch {
	case untracking(err):
		return nil
	case err != nil:
		return err
	}
	for _, f := range flows {
		proto, ok := connProtos[f.Forward.Protocol]
		if !ok {
			proto = strconv.Itoa(int(f.Forward.Protocol))
		}
		c := lab.Conntrack{
			Proto:    proto,
			Src:      netip.AddrPortFrom(addrOf(f.Forward.SrcIP), f.Forward.SrcPort),
			Dst:      netip.AddrPortFrom(addrOf(f.Forward.DstIP), f.Forward.DstPort),
			ReplySrc: netip.AddrPortFrom(addrOf(f.Reverse.SrcIP), f.Reverse.SrcPort),
			ReplyDst: netip.AddrPortFrom(addrOf(f.Reverse.DstIP), f.Reverse.DstPort),
			Timeout:  time.Duration(f.TimeOut) * time.Second,
		}
		c.NAT = c.Src != c.ReplyDst || c.Dst != c.ReplySrc
		s.Conntrack = append(s.Conntrack, c)
	}
	slices.SortFunc(s.Conntrack, func(a, b lab.Conntrack) int {
		return cmp.Or(cmp.Compare(a.Proto, b.Proto), a.Src.Compare(b.Src), a.Dst.Compare(b.Dst), a.ReplySrc.Compare(b.ReplySrc))
	})
	return nil
}

// Settings that modes change, of the namespace and of each device.
var (
	spaceSysctls = []string{
		"net/ipv4/ip_forward", "net/ipv4/ip_nonlocal_bind", "net/bridge/bridge-nf-call-iptables",
		"net/bridge/bridge-nf-call-ip6tables", "net/bridge/bridge-nf-call-arptables",
	}
	ipv4Sysctls = []string{"forwarding", "rp_filter", "proxy_arp", "route_localnet", "arp_ignore", "arp_announce"}
	ipv6Sysctls = []string{"forwarding", "proxy_ndp", "accept_dad", "accept_ra", "disable_ipv6"}
)

func (r reader) sysctls(s *lab.SpaceState) error {
	keys := slices.Clone(spaceSysctls)
	for _, device := range append(slices.Collect(maps.Values(r.names)), "all", "default") {
		for _, k := range ipv4Sysctls {
			keys = append(keys, "net/ipv4/conf/"+device+"/"+k)
		}
		for _, k := range ipv6Sysctls {
			keys = append(keys, "net/ipv6/conf/"+device+"/"+k)
		}
	}
	s.Sysctls = map[string]string{}
	dirs := settings{}
	defer dirs.close()
	for _, k := range keys {
		v, err := dirs.get(k)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		s.Sysctls[k] = v
	}
	return nil
}

func (r reader) qdiscs(s *lab.SpaceState) error {
	qdiscs, err := dump(func() ([]netlink.Qdisc, error) { return r.QdiscList(nil) })
	if err != nil {
		return err
	}
	for _, q := range qdiscs {
		a := q.Attrs()
		if a.Handle == 0 {
			continue // the kernel's own have no handle
		}
		where := "parent " + netlink.HandleStr(a.Parent)
		switch a.Parent {
		case netlink.HANDLE_ROOT:
			where = "root"
		case netlink.HANDLE_INGRESS:
			where = "ingress"
		}
		text := fmt.Sprintf("dev %s %s %s", r.names[a.LinkIndex], where, q.Type())
		switch q := q.(type) {
		case *netlink.Tbf:
			text += fmt.Sprintf(" rate %dbit", q.Rate*8)
		case *netlink.Netem:
			text += impairments(q)
		}
		s.Qdiscs = append(s.Qdiscs, text)
	}
	slices.Sort(s.Qdiscs)
	return nil
}

// crowding sums what processors count of connections that found no room.
func (r reader) crowding(s *lab.SpaceState) error {
	text, err := os.ReadFile("/proc/thread-self/net/stat/nf_conntrack") // hexadecimal columns, a line for each processor
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	names := strings.Fields(lines[0])
	for _, line := range lines[1:] {
		for i, field := range strings.Fields(line) {
			n, err := strconv.ParseUint(field, 16, 32)
			if err != nil || i >= len(names) {
				return fmt.Errorf("nf_conntrack: %q: want a line for each processor of as many numbers as columns", line)
			}
			switch names[i] {
			case "drop":
				s.NoRoom += n
			case "early_drop":
				s.Evicted += n
			}
		}
	}
	return nil
}

// sockets counts by the kernel's own counters (proc_net(5), sockstat): listing sockets walks the tables of the whole
// machine. TCP sockets count from listening or connecting on, others from binding on.
func sockets(s *lab.SpaceState) error {
	for _, file := range []string{"/proc/thread-self/net/sockstat", "/proc/thread-self/net/sockstat6"} {
		b, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue // no IPv6
		}
		if err != nil {
			return err
		}
		for lines := bufio.NewScanner(bytes.NewReader(b)); lines.Scan(); {
			f := strings.Fields(lines.Text())
			if len(f) < 3 || f[1] != "inuse" || strings.HasPrefix(f[0], "FRAG") {
				continue
			}
			n, err := strconv.Atoi(f[2])
			if err != nil {
				return fmt.Errorf("%s: %w", file, err)
			}
			s.Sockets += n
		}
	}
	return nil
}
