package capture

import (
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/modebench/modebench/topology/lab"
)

// What a person reads of a DNS message, whatever is left of it.
func TestDNSMessages(t *testing.T) {
	question := new(dns.Msg).SetQuestion("h1-c2.blue.", dns.TypeA)
	answer, missing, name := new(dns.Msg).SetReply(question), new(dns.Msg).SetReply(question), new(dns.Msg).SetReply(new(dns.Msg).SetQuestion("3.0.17.172.in-addr.arpa.", dns.TypePTR))
	answer.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: "h1-c2.blue.", Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 600}, A: net.IPv4(172, 17, 0, 3)}}
	missing.Rcode = dns.RcodeNameError
	name.Answer = []dns.RR{&dns.PTR{Hdr: dns.RR_Header{Name: "3.0.17.172.in-addr.arpa.", Rrtype: dns.TypePTR, Class: dns.ClassINET, Ttl: 600}, Ptr: "h1-c2.blue."}}
	mac := net.HardwareAddr{2, 3, 0, 0, 0, 1}
	asker, server := netip.MustParseAddrPort("198.18.0.1:40000"), netip.MustParseAddrPort("198.18.0.254:53")
	for _, test := range []struct {
		m    *dns.Msg
		want string
	}{
		{question, ": udp A h1-c2.blue?, ttl"},
		{answer, ": udp A h1-c2.blue? 172.17.0.3 for 600 s, ttl"},
		{missing, ": udp A h1-c2.blue? non-existent domain, ttl"},
		{name, ": udp PTR 3.0.17.172.in-addr.arpa? h1-c2.blue for 600 s, ttl"},
	} {
		packed, err := test.m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		for cut := range len(packed) + 1 {
			p := lab.Packet{Proto: "udp", Src: asker, Dst: server, EthSrc: mac, EthDst: mac, Payload: packed[:cut]}
			if test.m.Response {
				p.Src, p.Dst = p.Dst, p.Src
			}
			frame, err := Build(p)
			if err != nil {
				t.Fatal(err)
			}
			got := lab.Packet{Frame: frame}
			decode(&got, true, 0, false)
			if cut == len(packed) && !strings.Contains(got.Text, test.want) || got.Src != p.Src || len(got.Payload) != min(cut, payloadKept) {
				t.Errorf("%d of %d bytes: %s: want %q of the whole", cut, len(packed), got.Text, test.want)
			}
		}
	}
}
