package bgp

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	api "github.com/osrg/gobgp/v3/api"
	"github.com/osrg/gobgp/v3/pkg/apiutil"
	packet "github.com/osrg/gobgp/v3/pkg/packet/bgp"
	"github.com/osrg/gobgp/v3/pkg/server"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/modebench/modebench/topology"
	"github.com/modebench/modebench/topology/lab"
)

const port = 179

var families = []*api.Family{
	{Afi: api.Family_AFI_IP, Safi: api.Family_SAFI_UNICAST},
	{Afi: api.Family_AFI_IP6, Safi: api.Family_SAFI_UNICAST},
}

func family(p netip.Prefix) *api.Family {
	if p.Addr().Is4() {
		return families[0]
	}
	return families[1]
}

// speaker is one life of a machine's speaker.
type speaker struct {
	config  topology.BGP
	server  *server.BgpServer
	fib     *fib
	journal *journal
	words   *words
	alive   context.Context // until it ends or crashes
	kill    context.CancelFunc

	programming sync.Mutex // choosing next hops and setting them is one
	sweep       *time.Timer
	ends        map[string]bool      // End-of-RIBs seen, by neighbour and family; of one goroutine
	states      map[netip.Addr]int32 // of sessions, as last heard of; of one goroutine
}

// start brings a speaker up that announces own. Where it comes back after a crash it tells its neighbours so, and what is
// in the routing table stays until they have told what they have.
func start(c topology.BGP, f *fib, j *journal, own []netip.Prefix, again bool) (s *speaker, err error) {
	s = &speaker{config: c, fib: f, journal: j, words: &words{}, ends: map[string]bool{}, states: map[netip.Addr]int32{}}
	s.alive, s.kill = context.WithCancel(context.Background())
	s.server = server.NewBgpServer(server.LoggerOption(s.words))
	go s.server.Serve()
	defer func() {
		if err != nil {
			s.end()
		}
	}()
	g := &api.Global{
		Asn: c.AS, RouterId: c.ID.String(), ListenPort: -1, UseMultiplePaths: c.Multipath,
		// Of equally good paths the one by RFC 4271 section 9.1.2.2, f and g, not the oldest: the same whatever came first.
		RouteSelectionOptions: &api.RouteSelectionOptionsConfig{ExternalCompareRouterId: true},
	}
	for _, p := range c.Peers {
		if local := p.Local.String(); !slices.Contains(g.ListenAddresses, local) {
			g.ListenAddresses, g.ListenPort = append(g.ListenAddresses, local), port
		}
	}
	if err := s.server.StartBgp(s.alive, &api.StartBgpRequest{Global: g}); err != nil {
		return nil, err
	}
	for _, p := range c.Peers {
		if err := s.policies(p); err != nil {
			return nil, fmt.Errorf("peer %v: %w", p.Addr, err)
		}
	}
	for _, p := range own {
		if err := s.announce(p); err != nil {
			return nil, err
		}
	}
	if err := s.watch(); err != nil {
		return nil, err
	}
	for _, p := range c.Peers {
		if err := s.server.AddPeer(s.alive, &api.AddPeerRequest{Peer: s.peer(p, again)}); err != nil {
			return nil, fmt.Errorf("peer %v: %w", p.Addr, err)
		}
	}
	if again {
		s.sweep = time.AfterFunc(max(c.Restart, c.Hold), func() { s.program(s.fib.prefixes()) })
	}
	return s, nil
}

func seconds(d time.Duration) uint64 { return uint64(d / time.Second) }

func (s *speaker) peer(p topology.Peer, again bool) *api.Peer {
	restart := &api.GracefulRestart{
		Enabled: s.config.Restart > 0, RestartTime: uint32(seconds(s.config.Restart)),
		DeferralTime:        uint32(seconds(s.config.Restart)),
		NotificationEnabled: s.config.Restart > 0, // RFC 8538
		LocalRestarting:     again && s.config.Restart > 0,
	}
	out := &api.Peer{
		Conf: &api.PeerConf{NeighborAddress: p.Addr.String(), PeerAsn: p.AS},
		Timers: &api.Timers{Config: &api.TimersConfig{
			HoldTime: seconds(s.config.Hold), KeepaliveInterval: seconds(s.config.Hold / 3),
			ConnectRetry: 1, IdleHoldTimeAfterReset: 1,
		}},
		Transport:       &api.Transport{LocalAddress: p.Local.String(), PassiveMode: p.Passive},
		GracefulRestart: restart,
	}
	for _, f := range families {
		safi := &api.AfiSafi{
			Config:            &api.AfiSafiConfig{Family: f, Enabled: true},
			MpGracefulRestart: &api.MpGracefulRestart{Config: &api.MpGracefulRestartConfig{Enabled: s.config.Restart > 0}},
		}
		if p.MaxPrefixes > 0 {
			safi.PrefixLimits = &api.PrefixLimit{Family: f, MaxPrefixes: p.MaxPrefixes}
		}
		out.AfiSafis = append(out.AfiSafis, safi)
	}
	return out
}

// policies are those of one peer, in the tables that hold for all: its address is a condition of each statement.
func (s *speaker) policies(p topology.Peer) error {
	name := p.Addr.String()
	var errs []error
	define := func(d *api.DefinedSet) *api.MatchSet {
		errs = append(errs, s.server.AddDefinedSet(s.alive, &api.AddDefinedSetRequest{DefinedSet: d}))
		return &api.MatchSet{Type: api.MatchSet_ANY, Name: d.Name}
	}
	from := define(&api.DefinedSet{DefinedType: api.DefinedType_NEIGHBOR, Name: name, List: []string{p.Addr.String() + "/32"}})
	assign := func(direction api.PolicyDirection, statements ...*api.Statement) {
		policy := &api.Policy{Name: fmt.Sprint(name, " ", direction), Statements: statements}
		errs = append(errs,
			s.server.AddPolicy(s.alive, &api.AddPolicyRequest{Policy: policy}),
			s.server.AddPolicyAssignment(s.alive, &api.AddPolicyAssignmentRequest{Assignment: &api.PolicyAssignment{
				Name: "global", Direction: direction, Policies: []*api.Policy{policy}, DefaultAction: api.RouteAction_ACCEPT,
			}}))
	}
	if len(p.Accept) > 0 {
		var statements []*api.Statement
		for i, a := range p.Accept { // each a set of its own: of one that has several, GoBGP asks the longest only
			set := define(&api.DefinedSet{
				DefinedType: api.DefinedType_PREFIX, Name: fmt.Sprint(name, " ", i),
				Prefixes: []*api.Prefix{{
					IpPrefix: a.Prefix.Masked().String(), MaskLengthMin: uint32(a.MinBits), MaskLengthMax: uint32(a.MaxBits),
				}},
			})
			statements = append(statements, &api.Statement{
				Name:       fmt.Sprint(name, " accept ", i),
				Conditions: &api.Conditions{NeighborSet: from, PrefixSet: set},
				Actions:    &api.Actions{RouteAction: api.RouteAction_ACCEPT},
			})
		}
		assign(api.PolicyDirection_IMPORT, append(statements, &api.Statement{
			Name:       name + " reject",
			Conditions: &api.Conditions{NeighborSet: from},
			Actions:    &api.Actions{RouteAction: api.RouteAction_REJECT},
		})...)
	}
	if p.Local6.IsValid() {
		assign(api.PolicyDirection_EXPORT, &api.Statement{
			Name:       name + " next hop",
			Conditions: &api.Conditions{NeighborSet: from, AfiSafiIn: families[1:]},
			Actions:    &api.Actions{RouteAction: api.RouteAction_ACCEPT, Nexthop: &api.NexthopAction{Address: p.Local6.String()}},
		})
	}
	return errors.Join(errs...)
}

// path is an own announcement. GoBGP puts the next hop in where the path leaves.
func path(p netip.Prefix) (*api.Path, error) {
	var errs []error
	nlri, err := anypb.New(&api.IPAddressPrefix{Prefix: p.Addr().String(), PrefixLen: uint32(p.Bits())})
	errs = append(errs, err)
	origin, err := anypb.New(&api.OriginAttribute{Origin: 0}) // IGP
	errs = append(errs, err)
	var hop *anypb.Any
	if p.Addr().Is4() {
		hop, err = anypb.New(&api.NextHopAttribute{NextHop: "0.0.0.0"})
	} else {
		hop, err = anypb.New(&api.MpReachNLRIAttribute{Family: families[1], NextHops: []string{"::"}, Nlris: []*anypb.Any{nlri}})
	}
	errs = append(errs, err)
	return &api.Path{Family: family(p), Nlri: nlri, Pattrs: []*anypb.Any{origin, hop}}, errors.Join(errs...)
}

func (s *speaker) announce(p netip.Prefix) error {
	a, err := path(p)
	if err != nil {
		return err
	}
	_, err = s.server.AddPath(s.alive, &api.AddPathRequest{TableType: api.TableType_GLOBAL, Path: a})
	return err
}

func (s *speaker) withdraw(p netip.Prefix) error {
	a, err := path(p)
	if err != nil {
		return err
	}
	return s.server.DeletePath(s.alive, &api.DeletePathRequest{TableType: api.TableType_GLOBAL, Family: a.Family, Path: a})
}

// prefix is what a path leads to; false for an End-of-RIB.
func prefix(p *api.Path) (netip.Prefix, bool) {
	nlri, err := apiutil.GetNativeNlri(p)
	if err != nil {
		return netip.Prefix{}, false
	}
	out, err := netip.ParsePrefix(nlri.String())
	return out, err == nil
}

func neighbour(p *api.Path) netip.Addr {
	a, err := netip.ParseAddr(p.NeighborIp)
	if err != nil || a.IsUnspecified() {
		return netip.Addr{} // an own announcement's
	}
	return a
}

// watch has three watchers: GoBGP does not tell in an event which of them it is for.
func (s *speaker) watch() error {
	table := func(of api.WatchEventRequest_Table_Filter_Type) *api.WatchEventRequest_Table {
		return &api.WatchEventRequest_Table{Filters: []*api.WatchEventRequest_Table_Filter{{Type: of}}}
	}
	return errors.Join(
		s.server.WatchEvent(s.alive, &api.WatchEventRequest{
			Peer: &api.WatchEventRequest_Peer{}, Table: table(api.WatchEventRequest_Table_Filter_ADJIN),
		}, func(e *api.WatchEventResponse) {
			if p := e.GetPeer(); p != nil {
				s.session(p.Peer)
			}
			for _, p := range e.GetTable().GetPaths() {
				if what, ok := prefix(p); ok {
					s.journal.add(map[bool]string{false: "announced", true: "withdrawn"}[p.IsWithdraw], neighbour(p), what, "")
				}
			}
		}),
		s.server.WatchEvent(s.alive, &api.WatchEventRequest{Table: table(api.WatchEventRequest_Table_Filter_BEST)},
			func(e *api.WatchEventResponse) {
				var changed []netip.Prefix
				for _, p := range e.GetTable().GetPaths() {
					if what, ok := prefix(p); ok {
						changed = append(changed, what)
					}
				}
				s.program(changed)
			}),
		s.server.WatchEvent(s.alive, &api.WatchEventRequest{Table: table(api.WatchEventRequest_Table_Filter_EOR)},
			func(e *api.WatchEventResponse) {
				for _, p := range e.GetTable().GetPaths() {
					s.ends[fmt.Sprint(p.NeighborIp, p.Family)] = true
				}
				if s.sweep != nil && len(s.ends) == len(s.config.Peers)*len(families) && s.sweep.Stop() {
					s.program(s.fib.prefixes())
				}
			}),
	)
}

// session notes how a session came and went.
func (s *speaker) session(p *api.Peer) {
	addr, err := netip.ParseAddr(p.State.NeighborAddress)
	if err != nil {
		return
	}
	const idle, established = int32(api.PeerState_IDLE), int32(api.PeerState_ESTABLISHED)
	was, is := s.states[addr], int32(p.State.SessionState)
	s.states[addr] = is
	switch {
	case was == is:
	case is == established:
		s.journal.add("established", addr, netip.Prefix{}, "")
	case was == established:
		s.journal.add("down", addr, netip.Prefix{}, s.words.why(addr.String()))
	}
	if is == idle && was > idle && p.State.AdminState == api.PeerState_UP {
		go s.hasten(addr)
	}
}

// hasten shortens the time for which a session that ended keeps idle, and closes what the neighbour opens, to a second.
// GoBGP has a constant of five that only the time after a reset replaces, when an idle session is switched off and on.
func (s *speaker) hasten(peer netip.Addr) {
	a := peer.String()
	if s.server.ResetPeer(s.alive, &api.ResetPeerRequest{Address: a}) != nil ||
		s.server.DisablePeer(s.alive, &api.DisablePeerRequest{Address: a}) != nil {
		return
	}
	// What switches it on again is dropped while the other request waits.
	every := time.NewTicker(time.Millisecond)
	defer every.Stop()
	for {
		down := false
		if s.server.ListPeer(s.alive, &api.ListPeerRequest{Address: a}, func(p *api.Peer) {
			down = p.State.AdminState == api.PeerState_DOWN
		}) != nil {
			return
		}
		if down {
			_ = s.server.EnablePeer(s.alive, &api.EnablePeerRequest{Address: a})
			return
		}
		select {
		case <-s.alive.Done():
			return
		case <-every.C:
		}
	}
}

// program makes the routing table hold of prefixes what is best now, which may be later than what asked for it.
func (s *speaker) program(changed []netip.Prefix) {
	s.programming.Lock()
	defer s.programming.Unlock()
	if s.alive.Err() != nil {
		return
	}
	for _, f := range families {
		hops := map[netip.Prefix][]netip.Addr{}
		var lookup []*api.TableLookupPrefix
		for _, p := range changed {
			if family(p).Afi == f.Afi {
				hops[p] = nil
				lookup = append(lookup, &api.TableLookupPrefix{Prefix: p.String()})
			}
		}
		if len(lookup) == 0 {
			continue
		}
		known, err := s.list(f, lookup)
		if err != nil {
			continue // the speaker ends
		}
		for _, r := range known {
			if r.Best && r.From.IsValid() {
				hops[r.Prefix] = append(hops[r.Prefix], r.NextHop)
			}
		}
		for p, h := range hops {
			s.fib.set(p, h)
		}
	}
}

// list gives the paths to prefixes, or to all there are.
func (s *speaker) list(f *api.Family, lookup []*api.TableLookupPrefix) ([]lab.BGPRoute, error) {
	var out []lab.BGPRoute
	err := s.server.ListPath(s.alive, &api.ListPathRequest{TableType: api.TableType_GLOBAL, Family: f, Prefixes: lookup},
		func(d *api.Destination) {
			var best merit
			for i, p := range d.Paths {
				to, ok := prefix(p)
				if !ok {
					continue
				}
				r := lab.BGPRoute{Prefix: to, From: neighbour(p), Stale: p.Stale}
				m := merit{own: !r.From.IsValid()}
				attributes, _ := apiutil.GetNativePathAttributes(p)
				for _, a := range attributes {
					switch a := a.(type) {
					case *packet.PathAttributeOrigin:
						m.origin = a.Value
					case *packet.PathAttributeMultiExitDisc:
						m.med = a.Value
					case *packet.PathAttributeAsPath:
						for _, segment := range a.Value {
							r.Path = append(r.Path, segment.GetAS()...)
							m.length += segment.ASLen()
						}
					case *packet.PathAttributeNextHop:
						r.NextHop = address(a.Value)
					case *packet.PathAttributeMpReachNLRI:
						r.NextHop = address(a.Nexthop)
					}
				}
				if m.own {
					r.NextHop = netip.Addr{}
				}
				if i == 0 { // the order is that of preference
					best = m
				}
				r.Best = i == 0 || s.config.Multipath && m == best
				out = append(out, r)
			}
		})
	return out, err
}

// merit is what makes paths of external neighbours equally good (RFC 4271 section 9.1.2.2, a to d).
type merit struct {
	own    bool
	length int
	origin uint8
	med    uint32
}

func address(ip []byte) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}

func (s *speaker) routes() ([]lab.BGPRoute, error) {
	var all []lab.BGPRoute
	for _, f := range families {
		of, err := s.list(f, nil)
		if err != nil {
			return nil, err
		}
		all = append(all, of...)
	}
	for i, r := range all {
		all[i].Installed = r.Best && r.From.IsValid() && s.fib.has(r.Prefix)
	}
	slices.SortStableFunc(all, func(a, b lab.BGPRoute) int {
		return cmp.Or(a.Prefix.Addr().Compare(b.Prefix.Addr()), cmp.Compare(a.Prefix.Bits(), b.Prefix.Bits()))
	})
	return all, nil
}

func (s *speaker) peers() ([]lab.BGPPeer, error) {
	found := map[netip.Addr]lab.BGPPeer{}
	err := s.server.ListPeer(s.alive, &api.ListPeerRequest{}, func(p *api.Peer) {
		out := lab.BGPPeer{
			AS: p.Conf.PeerAsn, State: strings.ToLower(p.State.SessionState.String()),
			Hold: time.Duration(p.GetTimers().GetState().GetNegotiatedHoldTime()) * time.Second,
		}
		capabilities, _ := apiutil.UnmarshalCapabilities(p.State.RemoteCap)
		for _, c := range capabilities {
			out.Capabilities = append(out.Capabilities, int(c.Code()))
		}
		slices.Sort(out.Capabilities)
		out.Capabilities = slices.Compact(out.Capabilities)
		for _, f := range p.AfiSafis {
			out.Received += int(f.GetState().GetReceived())
			out.Accepted += int(f.GetState().GetAccepted())
		}
		out.Addr, _ = netip.ParseAddr(p.Conf.NeighborAddress)
		found[out.Addr] = out
	})
	var out []lab.BGPPeer
	for _, p := range s.config.Peers {
		out = append(out, found[p.Addr])
	}
	return out, err
}

func (s *speaker) reset(peer netip.Addr) error {
	a, shut := peer.String(), false
	if err := s.server.ListPeer(s.alive, &api.ListPeerRequest{Address: a}, func(p *api.Peer) {
		shut = p.State.AdminState == api.PeerState_PFX_CT
	}); err != nil {
		return err
	}
	if shut {
		return s.server.EnablePeer(s.alive, &api.EnablePeerRequest{Address: a})
	}
	return s.server.ResetPeer(s.alive, &api.ResetPeerRequest{Address: a})
}

// silence has the routing table stay as it is, whatever the speaker still says.
func (s *speaker) silence() {
	if s.sweep != nil {
		s.sweep.Stop()
	}
	s.kill()
	s.programming.Lock() // who programs now is done
	defer s.programming.Unlock()
}

// end ends the sessions with a NOTIFICATION.
func (s *speaker) end() {
	s.silence()
	s.server.Stop()
}

// crash shuts the sockets down under GoBGP, so that no NOTIFICATION leaves.
func (s *speaker) crash() error {
	s.silence()
	err := s.cut()
	s.server.Stop()
	return err
}

func (s *speaker) cut() error {
	descriptors, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err
	}
	speaks := func(a unix.Sockaddr, err error) bool {
		v4, ok := a.(*unix.SockaddrInet4)
		return err == nil && ok && v4.Port == port
	}
	for _, d := range descriptors {
		fd, err := strconv.Atoi(d.Name())
		if err != nil {
			continue
		}
		if kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE); err != nil || kind != unix.SOCK_STREAM {
			continue
		}
		if speaks(unix.Getsockname(fd)) || speaks(unix.Getpeername(fd)) {
			_ = unix.Shutdown(fd, unix.SHUT_RDWR) // not connected yet: there is nothing to be said on it
		}
	}
	return nil
}
