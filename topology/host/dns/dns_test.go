package dns

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	miekg "github.com/miekg/dns"
	"github.com/vishvananda/netlink"
	"pgregory.net/rapid"

	"github.com/modebench/modebench/topology"
	"github.com/modebench/modebench/topology/host/probe"
	"github.com/modebench/modebench/topology/lab"
	"github.com/modebench/modebench/topology/space"
)

func TestMain(m *testing.M) { os.Exit(space.Rerun(m.Run, os.Args[1:], os.Getenv)) }

func addrs(s ...string) (out []netip.Addr) {
	for _, a := range s {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

// served is a service with a resolver on the loopback of the namespace that the test is in.
func served(t *testing.T) (*Service, netip.AddrPort) {
	t.Helper()
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil {
		t.Fatal(err)
	}
	own, err := space.Current()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = own.Close() })
	find := func(string) (*space.Space, error) { return own, nil }
	probes := probe.New(find)
	t.Cleanup(func() { _ = probes.Close() })
	s := New(find, probes.Ask)
	t.Cleanup(s.Close)
	l, err := net.Listen("tcp", "127.0.0.1:0") // a port that is free
	if err != nil {
		t.Fatal(err)
	}
	at := netip.MustParseAddrPort(l.Addr().String())
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Serve("c1", topology.Resolver{Addr: at, TTL: 600 * time.Second}); err != nil {
		t.Fatal(err)
	}
	return s, at
}

// look is the answer to a question in one line.
func look(t *testing.T, s *Service, at netip.AddrPort, kind, name string) string {
	t.Helper()
	var f lab.Found
	if err := s.Lookup(lab.Lookup{Server: at, Type: kind, Name: name, Token: "t1", Wait: 10 * time.Second}, &f); err != nil {
		t.Fatal(err)
	}
	if !f.Answered || !f.Authoritative {
		t.Fatalf("%s %s: %+v", kind, name, f)
	}
	said := []string{f.Code}
	for _, r := range f.Records {
		if r.TTL != 600*time.Second || r.Type != kind {
			t.Errorf("%s %s: %+v", kind, name, r)
		}
		said = append(said, r.Data)
	}
	return strings.Join(said, " ")
}

func TestAnswers(t *testing.T) {
	s, at := served(t)
	forget, err := s.Know(topology.Name{Name: "h1-c1.blue", Addrs: addrs("172.17.0.2", "fd17::2")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Know(topology.Name{Name: "only4.blue", Addrs: addrs("172.17.0.3")}); err != nil {
		t.Fatal(err)
	}
	check := func(kind, name, want string) {
		t.Helper()
		if got := look(t, s, at, kind, name); got != want {
			t.Errorf("%s %s: %s: want %s", kind, name, got, want)
		}
	}
	check("A", "h1-c1.blue", "NOERROR 172.17.0.2")
	check("A", "H1-C1.Blue", "NOERROR 172.17.0.2") // RFC 4343
	check("AAAA", "h1-c1.blue", "NOERROR fd17::2")
	check("AAAA", "only4.blue", "NOERROR") // the name exists: RFC 2308 section 2.2
	check("PTR", "172.17.0.2", "NOERROR h1-c1.blue")
	check("PTR", "fd17::2", "NOERROR h1-c1.blue")
	check("A", "h1-c9.blue", "NXDOMAIN")
	check("PTR", "172.17.0.9", "NXDOMAIN")
	forget()
	check("A", "h1-c1.blue", "NXDOMAIN")
	check("PTR", "fd17::2", "NXDOMAIN")
	check("A", "only4.blue", "NOERROR 172.17.0.3")
}

func TestSeveralTakeTurns(t *testing.T) {
	s, at := served(t)
	for i := range 3 {
		if _, err := s.Know(topology.Name{Name: "web.blue", Addrs: addrs(fmt.Sprint("172.17.0.", i+2))}); err != nil {
			t.Fatal(err)
		}
	}
	var first []string
	for range 6 {
		all := strings.Fields(look(t, s, at, "A", "web.blue"))[1:]
		if len(all) != 3 {
			t.Fatalf("%v: want all three", all)
		}
		first = append(first, all[0])
	}
	if want := []string{"172.17.0.2", "172.17.0.3", "172.17.0.4", "172.17.0.2", "172.17.0.3", "172.17.0.4"}; !slices.Equal(first, want) {
		t.Errorf("first: %v: want %v", first, want)
	}
}

// What does not fit into a datagram is said to be cut, and is whole by TCP (RFC 7766).
func TestLongAnswers(t *testing.T) {
	s, at := served(t)
	for i := range 60 {
		if _, err := s.Know(topology.Name{Name: "web.blue", Addrs: addrs(fmt.Sprint("172.17.0.", i+2))}); err != nil {
			t.Fatal(err)
		}
	}
	question := new(miekg.Msg).SetQuestion("web.blue.", miekg.TypeA)
	for proto, whole := range map[string]bool{"udp": false, "tcp": true} {
		m, _, err := (&miekg.Client{Net: proto, Timeout: 10 * time.Second}).Exchange(question, at.String())
		if err != nil {
			t.Fatal(err)
		}
		if m.Truncated == whole || (len(m.Answer) == 60) != whole {
			t.Errorf("%s: %d records, cut: %t", proto, len(m.Answer), m.Truncated)
		}
	}
}

func TestRefusals(t *testing.T) {
	s, at := served(t)
	for _, n := range []topology.Name{{Name: "a..b", Addrs: addrs("10.0.0.1")}, {Addrs: addrs("10.0.0.1")}, {Name: "nobody"}} {
		if _, err := s.Know(n); err == nil {
			t.Errorf("%+v: known", n)
		}
	}
	if _, err := s.Serve("c2", topology.Resolver{Addr: at}); err == nil {
		t.Errorf("a second resolver at %s", at)
	}
	s.Forget("c2")
	look(t, s, at, "A", "nobody.blue") // that of c1 goes on
	s.Forget("c1")
	var f lab.Found
	if err := s.Lookup(lab.Lookup{Server: at, Type: "A", Name: "nobody.blue", Token: "t1", Wait: 10 * time.Second}, &f); err != nil || f.Answered || f.Refusal.Errno != "ECONNREFUSED" {
		t.Errorf("after its end: %+v, %v", f, err)
	}
	if err := s.Lookup(lab.Lookup{Server: at, Type: "MX", Name: "nobody.blue"}, &f); err == nil {
		t.Error("a question of type MX")
	}
}

// Whatever is known, each address leads back to its name, and the name to it.
func TestBothWays(t *testing.T) {
	s := New(nil, nil)
	rapid.Check(t, func(t *rapid.T) {
		raw := rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, "address")
		kind := miekg.TypeA
		if rapid.Bool().Draw(t, "IPv6") {
			raw, kind = rapid.SliceOfN(rapid.Byte(), 16, 16).Filter(func(b []byte) bool { a, _ := netip.AddrFromSlice(b); return !a.Is4In6() }).Draw(t, "address"), miekg.TypeAAAA
		}
		a, _ := netip.AddrFromSlice(raw)
		name := rapid.StringMatching(`[a-z]{1,8}-c[0-9]{1,3}\.[a-z]{1,8}`).Draw(t, "name")
		forget, err := s.Know(topology.Name{Name: name, Addrs: []netip.Addr{a}})
		if err != nil {
			t.Fatal(err)
		}
		defer forget()
		to, known := s.records(miekg.Question{Name: name + ".", Qtype: kind}, 1)
		back, knownBack := s.records(miekg.Question{Name: reverse(a), Qtype: miekg.TypePTR}, 1)
		if !known || !knownBack || len(to) != 1 || len(back) != 1 || !strings.HasSuffix(to[0].String(), "\t"+a.String()) || back[0].(*miekg.PTR).Ptr != name+"." {
			t.Fatalf("%s, %s: %v, %v", name, a, to, back)
		}
	})
}
