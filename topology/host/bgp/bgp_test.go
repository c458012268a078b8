package bgp

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/rpc"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/modebench/modebench/topology"
	"github.com/modebench/modebench/topology/lab"
	"github.com/modebench/modebench/topology/space"
)

const asMachine = "MODEBENCH_BGP_TEST_MACHINE"

// TestMain runs the tests in an isolated process, and, started by one of them, a machine's speaker.
func TestMain(m *testing.M) {
	if name := os.Getenv(asMachine); name != "" {
		s := rpc.NewServer()
		if err := s.RegisterName("BGP", &served{Service: New(name), undo: map[netip.Prefix]func() error{}}); err != nil {
			panic(err)
		}
		s.ServeConn(struct {
			io.ReadCloser
			io.Writer
		}{os.Stdin, os.Stdout})
		return
	}
	os.Exit(space.Rerun(m.Run, os.Args[1:], os.Getenv))
}

// served is a service with verbs for what steps do.
type served struct {
	*Service
	stop func() error
	undo map[netip.Prefix]func() error
}

func (s *served) Begin(c topology.BGP, _ *lab.Nothing) (err error) {
	s.stop, err = s.Start(c)
	return err
}

func (s *served) Finish(lab.Nothing, *lab.Nothing) error { return s.stop() }

func (s *served) Add(p netip.Prefix, _ *lab.Nothing) (err error) {
	s.undo[p], err = s.Announce(p)
	return err
}

func (s *served) Drop(p netip.Prefix, _ *lab.Nothing) error { return s.undo[p]() }

// machine is a namespace with a process in it that speaks.
type machine struct {
	t      *testing.T
	name   string
	space  *space.Space
	client *rpc.Client
}

func (m *machine) call(verb string, args any) {
	m.t.Helper()
	if err := m.client.Call("BGP."+verb, args, &lab.Nothing{}); err != nil {
		m.t.Fatalf("%s: BGP.%s %v: %v", m.name, verb, args, err)
	}
}

func (m *machine) state() (s lab.BGPState) {
	m.t.Helper()
	if err := m.client.Call("BGP.State", lab.Nothing{}, &s); err != nil {
		m.t.Fatal(err)
	}
	return s
}

// route is what the kernel has for a prefix by this protocol: its next hops, sorted; empty: none.
func (m *machine) route(prefix string) string {
	m.t.Helper()
	var hops []string
	p := netip.MustParsePrefix(prefix)
	if err := m.space.Do(func() error {
		all, err := netlink.RouteListFiltered(map[bool]int{true: unix.AF_INET, false: unix.AF_INET6}[p.Addr().Is4()],
			&netlink.Route{Protocol: unix.RTPROT_BGP}, netlink.RT_FILTER_PROTOCOL)
		for _, r := range all {
			if of, _ := netip.ParsePrefix(r.Dst.String()); of != p {
				continue
			}
			if len(r.Gw) > 0 {
				hops = append(hops, r.Gw.String())
			}
			for _, h := range r.MultiPath {
				hops = append(hops, h.Gw.String())
			}
		}
		return err
	}); err != nil {
		m.t.Fatal(err)
	}
	slices.Sort(hops)
	return strings.Join(hops, " ")
}

// until waits for a condition that a deadline holds to be certain; what says what it is, after which the states are shown.
func until(t *testing.T, what string, ok func() bool, all ...*machine) {
	t.Helper()
	end := time.After(30 * time.Second)
	every := time.NewTicker(5 * time.Millisecond)
	defer every.Stop()
	for !ok() {
		select {
		case <-end:
			for _, m := range all {
				t.Logf("%s: %+v", m.name, m.state())
			}
			t.Fatalf("%s: not after 30 s", what)
		case <-every.C:
		}
	}
}

func (m *machine) established() bool {
	return !slices.ContainsFunc(m.state().Peers, func(p lab.BGPPeer) bool { return p.State != "established" })
}

// has waits until the kernel's route to a prefix has these next hops, and returns which they are.
func (m *machine) has(prefix, hops string) {
	m.t.Helper()
	until(m.t, fmt.Sprintf("%s: %s by %q", m.name, prefix, hops), func() bool { return m.route(prefix) == hops }, m)
}

func (m *machine) down(reason string) {
	m.t.Helper()
	until(m.t, fmt.Sprintf("%s: a session ended by %q", m.name, reason), func() bool {
		return slices.ContainsFunc(m.state().Events, func(e lab.BGPEvent) bool {
			return e.Kind == "down" && strings.Contains(e.Text, reason)
		})
	}, m)
}

// when is the time of the last event of a kind about a prefix.
func (m *machine) when(kind string, prefix string) (at time.Time) {
	m.t.Helper()
	for _, e := range m.state().Events {
		if e.Kind == kind && (prefix == "" || e.Prefix == netip.MustParsePrefix(prefix)) {
			at = e.When
		}
	}
	if at.IsZero() {
		m.t.Errorf("%s: no event %s %s", m.name, kind, prefix)
	}
	return at
}

func at(c, d int) netip.Addr  { return netip.AddrFrom4([4]byte{10, 0, byte(c), byte(d)}) }
func at6(c, d int) netip.Addr { return netip.MustParseAddr(fmt.Sprintf("fd00::%d:%d", c, d)) }

func newMachine(t *testing.T, name string) *machine {
	t.Helper()
	s, err := space.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	m := &machine{t: t, name: name, space: s}
	m.do(func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(lo)
	})
	return m
}

func (m *machine) do(f func() error) {
	m.t.Helper()
	if err := m.space.Do(f); err != nil {
		m.t.Fatalf("%s: %v", m.name, err)
	}
}

// cable joins host i to the tor: a /31 and a /127, of which the tor has the even address.
func cable(tor, h *machine, i int) {
	tor.t.Helper()
	device := fmt.Sprint("p", i)
	tor.do(func() error {
		return netlink.LinkAdd(&netlink.Veth{
			LinkAttrs: netlink.LinkAttrs{Name: device}, PeerName: "eth0", PeerNamespace: netlink.NsFd(h.space.File().Fd()),
		})
	})
	up := func(m *machine, device string, last int) {
		m.do(func() error {
			l, err := netlink.LinkByName(device)
			if err != nil {
				return err
			}
			for _, a := range []netlink.Addr{
				{IPNet: &net.IPNet{IP: at(i, last).AsSlice(), Mask: net.CIDRMask(31, 32)}},
				{IPNet: &net.IPNet{IP: at6(i, last).AsSlice(), Mask: net.CIDRMask(127, 128)}, Flags: unix.IFA_F_NODAD},
			} {
				if err := netlink.AddrAdd(l, &a); err != nil {
					return err
				}
			}
			return netlink.LinkSetUp(l)
		})
	}
	up(tor, device, 0)
	up(h, "eth0", 1)
}

// run starts the machine's program and its speaker.
func (m *machine) run(c topology.BGP) {
	m.t.Helper()
	cmd := exec.Command(space.Self)
	cmd.Env = append(os.Environ(), asMachine+"="+m.name)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		m.t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		m.t.Fatal(err)
	}
	if err := m.space.Start(cmd); err != nil {
		m.t.Fatal(err)
	}
	m.client = rpc.NewClient(struct {
		io.Reader
		io.WriteCloser
	}{out, in})
	m.t.Cleanup(func() { _ = m.client.Close(); _ = cmd.Wait() })
	m.call("Begin", c)
}

func of(c topology.BGP, i int) topology.BGP {
	c.AS, c.ID = 65000+uint32(i), at(i, 1)
	c.Peers = []topology.Peer{{Addr: at(i, 0), AS: 65000, Local: at(i, 1), Local6: at6(i, 1)}}
	return c
}

// network is a tor with n hosts, whose slices are 10.1.N.0/24 and fd01:N::/64. Every session is up.
func network(t *testing.T, n int, common topology.BGP) (tor *machine, hosts []*machine) {
	t.Helper()
	tor = newMachine(t, "tor")
	c := common
	c.AS, c.ID = 65000, at(0, 1)
	for i := 1; i <= n; i++ {
		h := newMachine(t, fmt.Sprint("h", i))
		cable(tor, h, i)
		hosts = append(hosts, h)
		c.Peers = append(c.Peers, topology.Peer{
			Addr: at(i, 1), AS: 65000 + uint32(i), Local: at(i, 0), Local6: at6(i, 0), Passive: true, MaxPrefixes: 4,
			Accept: []topology.Accept{
				{Prefix: netip.MustParsePrefix(fmt.Sprintf("10.1.%d.0/24", i)), MinBits: 24, MaxBits: 24},
				{Prefix: netip.MustParsePrefix(fmt.Sprintf("fd01:%d::/64", i)), MinBits: 64, MaxBits: 64},
				{Prefix: netip.MustParsePrefix("10.1.0.0/16"), MinBits: 32, MaxBits: 32},
				{Prefix: netip.MustParsePrefix("fd01::/16"), MinBits: 128, MaxBits: 128},
			},
		})
	}
	tor.run(c)
	began := time.Now()
	for i, h := range hosts {
		h.run(of(common, i+1))
	}
	until(t, "sessions", tor.established, tor)
	t.Logf("established after %v", time.Since(began))
	return tor, hosts
}

func TestRoutesComeAndGo(t *testing.T) {
	t.Parallel()
	tor, hosts := network(t, 2, topology.BGP{Hold: 9 * time.Second, Multipath: true})
	h1, h2 := hosts[0], hosts[1]
	began := time.Now()
	for _, p := range []string{"10.1.1.0/24", "fd01:1::/64"} {
		h1.call("Add", netip.MustParsePrefix(p))
	}
	tor.has("10.1.1.0/24", "10.0.1.1")
	tor.has("fd01:1::/64", "fd00::1:1")
	h2.has("10.1.1.0/24", "10.0.2.0")
	h2.has("fd01:1::/64", "fd00::2:0")
	t.Logf("announced to installed: %v, from the call %v", tor.when("installed", "10.1.1.0/24").Sub(tor.when("announced", "10.1.1.0/24")),
		tor.when("installed", "10.1.1.0/24").Sub(began))
	if got := h1.route("10.1.1.0/24"); got != "" {
		t.Errorf("h1 installed what it announces itself, by %s", got)
	}
	s := h2.state()
	i := slices.IndexFunc(s.Routes, func(r lab.BGPRoute) bool { return r.Prefix.String() == "fd01:1::/64" })
	if i < 0 || !slices.Equal(s.Routes[i].Path, []uint32{65000, 65001}) || !s.Routes[i].Installed || !s.Routes[i].Best {
		t.Errorf("h2 knows %+v: want fd01:1::/64 by 65000 65001, best and installed", s.Routes)
	}
	if got := tor.state().Peers[0]; got.Hold != 9*time.Second || got.Received != 2 || got.Accepted != 2 || !slices.Contains(got.Capabilities, 65) {
		t.Errorf("the tor's peer: %+v: want a hold time of 9 s, two prefixes and 4-octet AS numbers", got)
	}

	// One address announced by both.
	for _, h := range hosts {
		h.call("Add", netip.MustParsePrefix("10.1.3.9/32"))
		h.call("Add", netip.MustParsePrefix("fd01:3::9/128"))
	}
	tor.has("10.1.3.9/32", "10.0.1.1 10.0.2.1")
	tor.has("fd01:3::9/128", "fd00::1:1 fd00::2:1")
	h1.call("Drop", netip.MustParsePrefix("10.1.3.9/32"))
	h1.call("Drop", netip.MustParsePrefix("fd01:3::9/128"))
	tor.has("10.1.3.9/32", "10.0.2.1")
	tor.has("fd01:3::9/128", "fd00::2:1")

	began = time.Now()
	h1.call("Drop", netip.MustParsePrefix("10.1.1.0/24"))
	tor.has("10.1.1.0/24", "")
	h2.has("10.1.1.0/24", "")
	t.Logf("withdrawn to removed: %v, from the call %v", tor.when("removed", "10.1.1.0/24").Sub(tor.when("withdrawn", "10.1.1.0/24")),
		tor.when("removed", "10.1.1.0/24").Sub(began))

	// Reset: everything goes and comes back.
	tor.call("Reset", at(2, 1))
	tor.has("10.1.3.9/32", "")
	h2.down("6/4")
	tor.has("10.1.3.9/32", "10.0.2.1")

	h2.call("Finish", lab.Nothing{})
	tor.has("10.1.3.9/32", "")
	h2.has("fd01:1::/64", "")
}

func TestPolicy(t *testing.T) {
	t.Parallel()
	tor, hosts := network(t, 2, topology.BGP{Hold: 9 * time.Second})
	h1, h2 := hosts[0], hosts[1]
	for _, p := range []string{"10.1.2.0/24", "0.0.0.0/0", "10.9.0.1/32", "::/0", "fd01:2::/64", "10.1.1.7/32"} {
		h1.call("Add", netip.MustParsePrefix(p))
	}
	tor.has("10.1.1.7/32", "10.0.1.1") // sent last of its family
	h1.call("Add", netip.MustParsePrefix("10.1.1.8/32"))
	until(t, "what is one too many", func() bool { return tor.state().Peers[0].State != "established" }, tor)
	// The fifth of a family ends the session, and stays out: the other host's lasts.
	h1.down("6/1")
	for _, p := range []string{"10.1.2.0/24", "0.0.0.0/0", "10.9.0.1/32", "::/0", "fd01:2::/64"} {
		for _, e := range tor.state().Events {
			if e.Kind == "installed" && e.Prefix == netip.MustParsePrefix(p) {
				t.Errorf("the tor installed %s: want it refused", p)
			}
		}
	}
	h2.call("Add", netip.MustParsePrefix("10.1.2.0/24"))
	tor.has("10.1.2.0/24", "10.0.2.1")
	tor.has("10.1.1.7/32", "")
}

// deafen has what the two ends of host i's cable send arrive nowhere, by neighbours of no such address.
func deafen(tor, h *machine, i int) {
	none := net.HardwareAddr{2, 0, 0, 0, 0, 9}
	for _, end := range []struct {
		m      *machine
		device string
		to     netip.Addr
	}{{tor, fmt.Sprint("p", i), at(i, 1)}, {h, "eth0", at(i, 0)}} {
		end.m.do(func() error {
			l, err := netlink.LinkByName(end.device)
			if err != nil {
				return err
			}
			return netlink.NeighSet(&netlink.Neigh{
				LinkIndex: l.Attrs().Index, IP: end.to.AsSlice(), HardwareAddr: none, State: netlink.NUD_PERMANENT,
			})
		})
	}
}

func TestHoldTimer(t *testing.T) {
	t.Parallel()
	tor, hosts := network(t, 1, topology.BGP{Hold: 3 * time.Second})
	hosts[0].call("Add", netip.MustParsePrefix("10.1.1.0/24"))
	tor.has("10.1.1.0/24", "10.0.1.1")
	deafen(tor, hosts[0], 1)
	tor.has("10.1.1.0/24", "")
	tor.down("hold")
}

func TestACrash(t *testing.T) {
	t.Parallel()
	tor, hosts := network(t, 2, topology.BGP{Hold: 9 * time.Second})
	h1, h2 := hosts[0], hosts[1]
	h1.call("Add", netip.MustParsePrefix("10.1.1.0/24"))
	h2.call("Add", netip.MustParsePrefix("10.1.2.0/24"))
	tor.has("10.1.1.0/24", "10.0.1.1")
	h1.has("10.1.2.0/24", "10.0.1.0")
	h1.call("Crash", lab.Nothing{})
	tor.has("10.1.1.0/24", "")
	tor.down("read-failed")
	if got := h1.route("10.1.2.0/24"); got != "10.0.1.0" {
		t.Errorf("h1's route after its speaker's crash is by %q: want it to stay", got)
	}
	h2.call("Drop", netip.MustParsePrefix("10.1.2.0/24"))
	h1.call("Revive", lab.Nothing{})
	tor.has("10.1.1.0/24", "10.0.1.1")
	h1.has("10.1.2.0/24", "") // withdrawn meanwhile
}

func TestAGracefulRestart(t *testing.T) {
	t.Parallel()
	tor, hosts := network(t, 2, topology.BGP{Hold: 9 * time.Second, Restart: 15 * time.Second})
	h1, h2 := hosts[0], hosts[1]
	both := []string{"10.1.1.0/24", "fd01:1::/64"}
	for _, p := range both {
		h1.call("Add", netip.MustParsePrefix(p))
	}
	h1.call("Add", netip.MustParsePrefix("10.1.1.1/32"))
	h2.call("Add", netip.MustParsePrefix("10.1.2.0/24"))
	h2.has("fd01:1::/64", "fd00::2:0")
	tor.has("10.1.1.1/32", "10.0.1.1")
	h1.has("10.1.2.0/24", "10.0.1.0")
	h1.call("Crash", lab.Nothing{})
	tor.down("graceful")
	h1.call("Drop", netip.MustParsePrefix("10.1.1.1/32")) // and never announced again
	stale := 0
	for _, r := range tor.state().Routes {
		if r.Stale && r.Installed {
			stale++
		}
	}
	if stale != 3 {
		t.Errorf("the tor keeps %d stale routes: want 3", stale)
	}
	h1.call("Revive", lab.Nothing{})
	until(t, "the session again", tor.established, tor)
	tor.has("10.1.1.1/32", "")
	for _, m := range []*machine{tor, h2} {
		for _, e := range m.state().Events {
			if e.Kind == "removed" && slices.Contains(both, e.Prefix.String()) {
				t.Errorf("%s removed %v over the restart: want it kept", m.name, e.Prefix)
			}
		}
	}
	if got := h1.route("10.1.2.0/24"); got != "10.0.1.0" {
		t.Errorf("h1's route after the restart is by %q: want 10.0.1.0", got)
	}

	// One that does not come back is forgotten.
	h1.call("Crash", lab.Nothing{})
	tor.has("10.1.1.0/24", "")
}

// unable skips a test for which this machine lacks something; other speakers are not asked for in strict mode either.
func unable(t *testing.T, format string, args ...any) {
	t.Helper()
	t.Skipf("unable: "+format, args...)
}

// TestInterop has a host of another make: it announces 10.1.1.0/24 and learns what the tor has from the second host.
func TestInterop(t *testing.T) {
	for name, start := range map[string]func(*testing.T, *machine, string){"frr": frr, "bird": bird} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tor, h := newMachine(t, "tor"), newMachine(t, name)
			cable(tor, h, 1)
			dir, err := os.MkdirTemp("", "bgp") // not the test's own: others have to reach it
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = os.RemoveAll(dir) })
			if err := os.Chmod(dir, 0o777); err != nil {
				t.Fatal(err)
			}
			start(t, h, dir)
			tor.run(topology.BGP{AS: 65000, ID: at(0, 1), Hold: 9 * time.Second, Restart: 10 * time.Second, Peers: []topology.Peer{{
				Addr: at(1, 1), AS: 65001, Local: at(1, 0), Local6: at6(1, 0), Passive: true,
			}}})
			tor.call("Add", netip.MustParsePrefix("10.1.2.0/24"))
			tor.call("Add", netip.MustParsePrefix("fd01:2::/64"))
			tor.has("10.1.1.0/24", "10.0.1.1")
			tor.has("fd01:1::/64", "fd00::1:1")
			learned := func(p string) func() bool {
				return func() (found bool) {
					h.do(func() error {
						all, err := netlink.RouteList(nil, unix.AF_UNSPEC)
						found = slices.ContainsFunc(all, func(r netlink.Route) bool { return r.Dst != nil && r.Dst.String() == p })
						return err
					})
					return found
				}
			}
			until(t, name+" has 10.1.2.0/24", learned("10.1.2.0/24"), tor)
			until(t, name+" has fd01:2::/64", learned("fd01:2::/64"), tor)
			tor.call("Drop", netip.MustParsePrefix("10.1.2.0/24"))
			gone := learned("10.1.2.0/24")
			until(t, name+" lost 10.1.2.0/24", func() bool { return !gone() }, tor)
		})
	}
}

// daemon runs another's program in the machine's namespace until the test ends.
func (m *machine) daemon(program string, args ...string) {
	m.t.Helper()
	if _, err := os.Stat(program); err != nil {
		unable(m.t, "%v", err)
	}
	cmd := exec.Command(program, args...)
	log, err := os.Create(filepath.Join(m.t.TempDir(), "log"))
	if err != nil {
		m.t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = log, log
	if err := m.space.Start(cmd); err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if words, err := os.ReadFile(log.Name()); err == nil && m.t.Failed() {
			m.t.Logf("%s: %s", program, words)
		}
	})
}

func write(t *testing.T, file, text string) string {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

func bird(t *testing.T, h *machine, dir string) {
	h.daemon("/usr/sbin/bird", "-f", "-s", dir+"/ctl", "-P", dir+"/pid", "-c", write(t, dir+"/conf", `
router id 10.0.1.1;
protocol device {}
protocol kernel { ipv4 { export where source = RTS_BGP; }; }
protocol kernel { ipv6 { export where source = RTS_BGP; }; }
protocol static { ipv4; route 10.1.1.0/24 blackhole; }
protocol static { ipv6; route fd01:1::/64 blackhole; }
protocol bgp {
	local 10.0.1.1 as 65001; neighbor 10.0.1.0 as 65000; connect delay time 1;
	ipv4 { import all; export where source = RTS_STATIC; };
	ipv6 { import all; export where source = RTS_STATIC; next hop address fd00::1:1; };
}
`))
}

func frr(t *testing.T, h *machine, dir string) {
	owner, err := user.Lookup("frr")
	if err != nil {
		unable(t, "%v", err)
	}
	uid, err := strconv.Atoi(owner.Uid)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(dir, uid, -1); err != nil { // in a user namespace there is no such user
		unable(t, "FRR becomes its own user: %v", err)
	}
	common := func(name string) []string {
		return []string{"-i", dir + "/" + name + ".pid", "-z", dir + "/zserv", "--vty_socket", dir, "-P", "0", "--log", "stdout"}
	}
	h.daemon("/usr/lib/frr/zebra", append(common("zebra"), "-f", write(t, dir+"/zebra.conf", ""))...)
	until(t, "zebra", func() bool { _, err := os.Stat(dir + "/zserv"); return err == nil })
	h.daemon("/usr/lib/frr/bgpd", append(common("bgpd"), "-p", "179", "-f", write(t, dir+"/bgpd.conf", `
router bgp 65001
 bgp router-id 10.0.1.1
 no bgp ebgp-requires-policy
 no bgp network import-check
 timers bgp 3 9
 neighbor 10.0.1.0 remote-as 65000
 neighbor 10.0.1.0 timers connect 1
 neighbor 10.0.1.0 advertisement-interval 0
 address-family ipv4 unicast
  network 10.1.1.0/24
 exit-address-family
 address-family ipv6 unicast
  neighbor 10.0.1.0 activate
  network fd01:1::/64
  neighbor 10.0.1.0 route-map global6 out
 exit-address-family
route-map global6 permit 10
 set ipv6 next-hop global fd00::1:1
`))...)
}
