package host

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"
	"syscall"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	mdl "github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/modebench/modebench/topology"
	"github.com/modebench/modebench/topology/lab"
)

var families = map[string]nftables.TableFamily{
	"ip": nftables.TableFamilyIPv4, "ip6": nftables.TableFamilyIPv6, "inet": nftables.TableFamilyINet,
	"arp": nftables.TableFamilyARP, "bridge": nftables.TableFamilyBridge, "netdev": nftables.TableFamilyNetdev,
}

// hooks of the families that number them their own way; the others share inetHooks.
var (
	inetHooks = map[string]nftables.ChainHook{
		"prerouting": unix.NF_INET_PRE_ROUTING, "input": unix.NF_INET_LOCAL_IN, "forward": unix.NF_INET_FORWARD,
		"output": unix.NF_INET_LOCAL_OUT, "postrouting": unix.NF_INET_POST_ROUTING, "ingress": 5, // NF_INET_INGRESS of linux/netfilter.h
	}
	arpHooks    = map[string]nftables.ChainHook{"input": 0, "output": 1, "forward": 2} // linux/netfilter_arp.h
	netdevHooks = map[string]nftables.ChainHook{"ingress": unix.NF_NETDEV_INGRESS, "egress": unix.NF_NETDEV_EGRESS}
)

// addTable makes a table in the namespace of the calling thread, in one transaction: all of it, or nothing and an
// error that names the chain, the rule and the field. A table of that family and name must not be there yet.
func addTable(t topology.Table) error {
	changes, err := compile(t)
	if err != nil {
		return fmt.Errorf("table %s %s: %w", t.Family, t.Name, err)
	}
	had, err := hasTable(t)
	if err != nil {
		return fmt.Errorf("table %s %s: %w", t.Family, t.Name, err)
	}
	if had {
		return fmt.Errorf("table %s %s: %w", t.Family, t.Name, unix.EEXIST)
	}
	err = commit(changes)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.ENOBUFS):
		// So many answers overran the socket. The transaction is whole all the same, one way or the other.
		if has, again := hasTable(t); again == nil && has {
			return nil
		}
		return fmt.Errorf("table %s %s: %w", t.Family, t.Name, err)
	case errors.Is(err, unix.EMSGSIZE):
		return fmt.Errorf("table %s %s: %d parts in one transaction: %w: net.core.wmem_max is too small", t.Family, t.Name, len(changes), err)
	}
	// A transaction that ends by deleting the table changes nothing: the shortest that is refused names the culprit.
	undo := change{"", func(c *nftables.Conn) { c.DelTable(&nftables.Table{Family: families[t.Family], Name: t.Name}) }}
	i := sort.Search(len(changes), func(i int) bool { return commit(append(slices.Clone(changes[:i+1]), undo)) != nil })
	if i < len(changes) && changes[i].place != "" {
		return fmt.Errorf("table %s %s: %s: %w", t.Family, t.Name, changes[i].place, err)
	}
	return fmt.Errorf("table %s %s: %w", t.Family, t.Name, err)
}

// removeTable deletes a table with all its chains and rules from the namespace of the calling thread.
func removeTable(t topology.Table) error {
	family, ok := families[t.Family]
	if !ok {
		return fmt.Errorf("table %s %s: family %q: want one of %s", t.Family, t.Name, t.Family, names(families))
	}
	err := commit([]change{{"", func(c *nftables.Conn) { c.DelTable(&nftables.Table{Family: family, Name: t.Name}) }}})
	if err != nil {
		return fmt.Errorf("delete table %s %s: %w", t.Family, t.Name, err)
	}
	return nil
}

func hasTable(t topology.Table) (bool, error) {
	c, err := nftables.New()
	if err != nil {
		return false, err
	}
	tables, err := c.ListTablesOfFamily(families[t.Family])
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(tables, func(have *nftables.Table) bool { return have.Name == t.Name }), nil
}

// change is one part of a transaction; place is where in its table it stands.
type change struct {
	place string
	make  func(*nftables.Conn)
}

// commit carries out a transaction. Its error is the kernel's own where there is one.
func commit(changes []change) error {
	const buffer = 16 << 20 // a transaction goes in one message, and each of its parts is answered
	c, err := nftables.New(nftables.WithSockOptions(func(c *mdl.Conn) error {
		return errors.Join(c.SetWriteBuffer(buffer), c.SetReadBuffer(buffer))
	}))
	if err != nil {
		return err
	}
	for _, ch := range changes {
		ch.make(c)
	}
	err = c.Flush()
	if errno := syscall.Errno(0); errors.As(err, &errno) {
		return errno
	}
	return err
}

func names[V any](m map[string]V) string {
	return strings.Join(slices.Sorted(maps.Keys(m)), ", ")
}

// compile turns a table into the parts of the transaction that makes it: the table, its chains, then its rules.
func compile(t topology.Table) ([]change, error) {
	family, ok := families[t.Family]
	if !ok {
		return nil, fmt.Errorf("family %q: want one of %s", t.Family, names(families))
	}
	table := &nftables.Table{Family: family, Name: t.Name}
	changes := []change{{"", func(c *nftables.Conn) { c.CreateTable(table) }}}
	sets := map[string]*nftables.Set{}
	for _, of := range t.Sets {
		set, elements, err := compileSet(table, of)
		if err != nil {
			return nil, fmt.Errorf("set %s: %w", of.Name, err)
		}
		sets[of.Name] = set
		changes = append(changes, change{"set " + of.Name, func(c *nftables.Conn) {
			again := *set // each transaction numbers its own
			if err := c.AddSet(&again, elements); err != nil {
				panic("host: " + err.Error()) // of anonymous sets and maps, which none is
			}
		}})
	}
	chains := map[string]*nftables.Chain{}
	for _, c := range t.Chains {
		chain, err := compileChain(t.Family, table, c)
		if err != nil {
			return nil, fmt.Errorf("chain %s: %w", c.Name, err)
		}
		if chains[c.Name] != nil {
			return nil, fmt.Errorf("chain %s: twice in the table", c.Name)
		}
		chains[c.Name] = chain
		changes = append(changes, change{"chain " + c.Name, func(c *nftables.Conn) { c.AddChain(chain) }})
	}
	for _, c := range t.Chains {
		for i, r := range c.Rules {
			place := fmt.Sprintf("chain %s: rule %d", c.Name, i+1)
			if r.Comment != "" {
				place += fmt.Sprintf(" %q", r.Comment)
			}
			exprs, err := compileRule(t.Family, sets, c, r)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", place, err)
			}
			if r.Verdict.Kind == "jump" && chains[r.Verdict.Chain] == nil {
				return nil, fmt.Errorf("%s: jump %q: no such chain in the table", place, r.Verdict.Chain)
			}
			rule := &nftables.Rule{Table: table, Chain: chains[c.Name], Exprs: exprs}
			if r.Comment != "" {
				if len(r.Comment) > 127 {
					return nil, fmt.Errorf("%s: comment of %d bytes: want at most 127", place, len(r.Comment))
				}
				rule.UserData = userdata.AppendString(nil, userdata.TypeComment, r.Comment)
			}
			changes = append(changes, change{place, func(c *nftables.Conn) { c.AddRule(rule) }})
		}
	}
	return changes, nil
}

func compileChain(family string, table *nftables.Table, c topology.Chain) (*nftables.Chain, error) {
	chain := &nftables.Chain{Table: table, Name: c.Name}
	if c.Hook == "" {
		if c.Type != "" || c.Policy != "" || c.Priority != 0 || c.Device != "" {
			return nil, errors.New("type, policy, priority and device are of chains with a hook")
		}
		return chain, nil
	}
	hooks := inetHooks
	switch family {
	case "arp":
		hooks = arpHooks
	case "netdev":
		hooks = netdevHooks
	}
	hook, ok := hooks[c.Hook]
	if !ok {
		return nil, fmt.Errorf("hook %q: want one of %s", c.Hook, names(hooks))
	}
	switch c.Type {
	case "filter", "nat", "route":
	default:
		return nil, fmt.Errorf("type %q: want filter, nat or route", c.Type)
	}
	policy, ok := map[string]nftables.ChainPolicy{
		"": nftables.ChainPolicyAccept, "accept": nftables.ChainPolicyAccept, "drop": nftables.ChainPolicyDrop,
	}[c.Policy]
	if !ok {
		return nil, fmt.Errorf("policy %q: want accept or drop", c.Policy)
	}
	if ingress := c.Hook == "ingress" || c.Hook == "egress"; ingress != (c.Device != "") {
		return nil, fmt.Errorf("hook %s, device %q: a device is of ingress and egress, which need one", c.Hook, c.Device)
	}
	if c.Priority != int(int32(c.Priority)) {
		return nil, fmt.Errorf("priority %d: want %d to %d", c.Priority, math.MinInt32, math.MaxInt32)
	}
	chain.Type, chain.Hooknum, chain.Policy = nftables.ChainType(c.Type), &hook, &policy
	chain.Priority, chain.Device = nftables.ChainPriorityRef(nftables.ChainPriority(c.Priority)), c.Device
	return chain, nil
}

// compileSet is a set of MAC addresses, and what is in it.
func compileSet(table *nftables.Table, s topology.Set) (*nftables.Set, []nftables.SetElement, error) {
	set := &nftables.Set{Table: table, Name: s.Name, KeyType: nftables.TypeEtherAddr, Dynamic: s.Dynamic, Interval: s.Interval, Size: uint32(s.Size)}
	var elements []nftables.SetElement
	for _, v := range s.Values {
		t, err := etherAddr(v)
		if err != nil {
			return nil, nil, fmt.Errorf("%q: %w", v, err)
		}
		elements = append(elements, nftables.SetElement{Key: t.want})
	}
	return set, elements, nil
}

func compileRule(family string, sets map[string]*nftables.Set, c topology.Chain, r topology.Rule) ([]expr.Any, error) {
	known := protocols{}
	maps.Copy(known, carries[family])
	var exprs []expr.Any
	for _, m := range r.Match {
		es, err := compileMatch(family, sets, known, m)
		if err != nil {
			return nil, fmt.Errorf("%s %q: %w", m.Field, m.Value, err)
		}
		exprs = append(exprs, es...)
	}
	switch r.Verdict.Kind {
	case "masquerade", "snat", "dnat":
		// The kernel refuses this too, but only the transaction as a whole.
		if c.Hook != "" && c.Type != "nat" {
			return nil, fmt.Errorf("%s: is of nat chains, not of %s", r.Verdict.Kind, c.Type)
		}
	}
	verdict, err := compileVerdict(family, known, r.Verdict)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", cmp.Or(r.Verdict.Kind, "verdict"), err)
	}
	return append(append(exprs, &expr.Counter{}), verdict...), nil
}

// protocols is what a rule's packets are known to be, by layer: link, network, transport.
type protocols map[string]string

// carries is what the packets of a family always are. The packets of arp tables are no IP.
var carries = map[string]protocols{
	"ip": {"network": "ip"}, "ip6": {"network": "ip6"}, "arp": {"network": "arp"}, "bridge": {"link": "ether"},
}

// need makes a rule's packets those of a protocol, by the same expressions as nft(8), unless they are known to be.
func (p protocols) need(family, layer, proto string) ([]expr.Any, error) {
	switch p[layer] {
	case proto:
		return nil, nil
	case "":
		p[layer] = proto
	default:
		return nil, fmt.Errorf("is of %s, but here packets are %s", proto, p[layer])
	}
	key, want := expr.MetaKeyL4PROTO, []byte(nil)
	switch layer {
	case "link":
		key, want = expr.MetaKeyIIFTYPE, binaryutil.NativeEndian.PutUint16(unix.ARPHRD_ETHER)
	case "network":
		if family == "inet" {
			key, want = expr.MetaKeyNFPROTO, []byte{byte(families[proto])}
			break
		}
		etherType := map[string]uint16{"ip": unix.ETH_P_IP, "ip6": unix.ETH_P_IPV6}[proto]
		key, want = expr.MetaKeyPROTOCOL, binaryutil.BigEndian.PutUint16(etherType)
	case "transport":
		want = []byte{byte(transports[proto])}
	}
	return []expr.Any{&expr.Meta{Key: key, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: want}}, nil
}

// field is a part of a packet, or of what is known of it, that rules match.
type field struct {
	layer, proto string     // what packets must be to have it; empty: all have it
	load         []expr.Any // into register 1
	parse        func(string) (test, error)
}

// test holds where the bits of a field under mask are want; with any, where one of them is set.
type test struct {
	mask []byte // nil: all
	want []byte
	any  bool
}

func meta(key expr.MetaKey) []expr.Any { return []expr.Any{&expr.Meta{Key: key, Register: 1}} }

func payload(base expr.PayloadBase, offset, length uint32) []expr.Any {
	return []expr.Any{&expr.Payload{DestRegister: 1, Base: base, Offset: offset, Len: length}}
}

const (
	link      = expr.PayloadBaseLLHeader
	network   = expr.PayloadBaseNetworkHeader
	transport = expr.PayloadBaseTransportHeader
)

var fields = map[string]field{
	"iifname":      {"", "", meta(expr.MetaKeyIIFNAME), device},
	"oifname":      {"", "", meta(expr.MetaKeyOIFNAME), device},
	"ether saddr":  {"link", "ether", payload(link, 6, 6), etherAddr},
	"ether daddr":  {"link", "ether", payload(link, 0, 6), etherAddr},
	"ether type":   {"link", "ether", payload(link, 12, 2), etherType},
	"ip saddr":     {"network", "ip", payload(network, 12, 4), prefix(32)},
	"ip daddr":     {"network", "ip", payload(network, 16, 4), prefix(32)},
	"ip frag-off":  {"network", "ip", payload(network, 6, 2), fragment},
	"ip6 saddr":    {"network", "ip6", payload(network, 8, 16), prefix(128)},
	"ip6 daddr":    {"network", "ip6", payload(network, 24, 16), prefix(128)},
	"tcp sport":    {"transport", "tcp", payload(transport, 0, 2), port},
	"tcp dport":    {"transport", "tcp", payload(transport, 2, 2), port},
	"udp sport":    {"transport", "udp", payload(transport, 0, 2), port},
	"udp dport":    {"transport", "udp", payload(transport, 2, 2), port},
	"th dport":     {"", "", payload(transport, 2, 2), port},
	"@th,64,8":     {"", "", payload(transport, 8, 1), octet}, // the first one that a datagram of UDP carries
	"meta nfproto": {"", "", meta(expr.MetaKeyNFPROTO), one(nfprotos, 1)},
	"meta l4proto": {"", "", meta(expr.MetaKeyL4PROTO), one(transports, 1)},
	"meta mark":    {"", "", meta(expr.MetaKeyMARK), number},
	"ct state":     {"", "", []expr.Any{&expr.Ct{Key: expr.CtKeySTATE, Register: 1}}, bits(ctStates)},
	"ct status":    {"", "", []expr.Any{&expr.Ct{Key: expr.CtKeySTATUS, Register: 1}}, bits(ctStatus)},
	"fib daddr type": {
		"", "", []expr.Any{&expr.Fib{Register: 1, ResultADDRTYPE: true, FlagDADDR: true}}, one(addrTypes, 4),
	},
}

// Names as nft(8) knows them.
var (
	nfprotos   = map[string]uint32{"ipv4": unix.NFPROTO_IPV4, "ipv6": unix.NFPROTO_IPV6}
	transports = map[string]uint32{
		"icmp": unix.IPPROTO_ICMP, "igmp": unix.IPPROTO_IGMP, "tcp": unix.IPPROTO_TCP, "udp": unix.IPPROTO_UDP,
		"gre": unix.IPPROTO_GRE, "esp": unix.IPPROTO_ESP, "ah": unix.IPPROTO_AH, "icmpv6": unix.IPPROTO_ICMPV6,
		"ipv6-icmp": unix.IPPROTO_ICMPV6, "sctp": unix.IPPROTO_SCTP,
	}
	ctStates = map[string]uint32{
		"invalid": expr.CtStateBitINVALID, "established": expr.CtStateBitESTABLISHED,
		"related": expr.CtStateBitRELATED, "new": expr.CtStateBitNEW, "untracked": expr.CtStateBitUNTRACKED,
	}
	ctStatus = map[string]uint32{ // enum ip_conntrack_status of linux/netfilter/nf_conntrack_common.h
		"expected": 1 << 0, "seen-reply": 1 << 1, "assured": 1 << 2, "confirmed": 1 << 3,
		"snat": 1 << 4, "dnat": 1 << 5, "dying": 1 << 9,
	}
	addrTypes = map[string]uint32{
		"unspec": unix.RTN_UNSPEC, "unicast": unix.RTN_UNICAST, "local": unix.RTN_LOCAL,
		"broadcast": unix.RTN_BROADCAST, "anycast": unix.RTN_ANYCAST, "multicast": unix.RTN_MULTICAST,
		"blackhole": unix.RTN_BLACKHOLE, "unreachable": unix.RTN_UNREACHABLE, "prohibit": unix.RTN_PROHIBIT,
	}
)

func compileMatch(family string, sets map[string]*nftables.Set, known protocols, m topology.Match) ([]expr.Any, error) {
	f, ok := fields[m.Field]
	if !ok {
		if f, ok = divided(m.Field); !ok {
			return nil, fmt.Errorf("no such field: want one of %s, numgen inc mod N, numgen random mod N, jhash ip saddr mod N seed 0x1 or jhash ip6 saddr mod N seed 0x1", names(fields))
		}
	}
	var t test
	var in []expr.Any
	var err error
	look, looked := strings.CutPrefix(m.Value, "@")
	switch {
	case m.Learn:
		for name := range strings.SplitSeq(m.Value, ",") {
			name = strings.TrimPrefix(name, "@")
			if sets[name] == nil || !sets[name].Dynamic {
				return nil, fmt.Errorf("no such dynamic set in the table: %s", name)
			}
			in = append(in, &expr.Dynset{SrcRegKey: 1, SetName: name, Operation: uint32(unix.NFT_DYNSET_OP_ADD)})
		}
	case looked:
		if sets[look] == nil {
			return nil, errors.New("no such set in the table")
		}
		in = append(in, &expr.Lookup{SourceRegister: 1, SetName: look, Invert: m.Not})
	default:
		if t, err = f.parse(m.Value); err != nil {
			return nil, err
		}
	}
	var exprs []expr.Any
	if f.layer != "" {
		if exprs, err = known.need(family, f.layer, f.proto); err != nil {
			return nil, err
		}
	}
	switch m.Field {
	case "meta nfproto":
		if family != "inet" {
			return nil, fmt.Errorf("is of inet tables, not of %s", family)
		}
		if !m.Not {
			// In other words the same test that need makes.
			return known.need(family, "network", map[string]string{"ipv4": "ip", "ipv6": "ip6"}[m.Value])
		}
	case "meta l4proto":
		if !m.Not {
			if was := known["transport"]; was != "" && was != m.Value {
				return nil, fmt.Errorf("packets are %s here", was)
			}
			known["transport"] = m.Value
		}
	}
	exprs = append(exprs, f.load...)
	if in != nil {
		return append(exprs, in...), nil
	}
	if t.mask != nil {
		exprs = append(exprs, &expr.Bitwise{
			SourceRegister: 1, DestRegister: 1, Len: uint32(len(t.mask)), Mask: t.mask, Xor: make([]byte, len(t.mask)),
		})
	}
	op := expr.CmpOpEq
	if m.Not != t.any {
		op = expr.CmpOpNeq
	}
	return append(exprs, &expr.Cmp{Op: op, Register: 1, Data: t.want}), nil
}

var division = regexp.MustCompile(`^(?:numgen (inc|random) mod ([1-9][0-9]{0,3})|jhash (ip6? saddr) mod ([1-9][0-9]{0,3}) seed 0x1)$`)

// divided is the field of that name by which packets are divided into parts: in turn, at random, or by what hashes alike. The seed is
// said, since the kernel would choose another one for each rule.
func divided(name string) (f field, ok bool) {
	parts := division.FindStringSubmatch(name)
	if parts == nil {
		return f, false
	}
	n, _ := strconv.Atoi(parts[2] + parts[4])
	if of := parts[3]; of != "" {
		f = fields[of]
		f.load = append(slices.Clone(f.load), &expr.Hash{
			SourceRegister: 1, DestRegister: 1, Length: f.load[0].(*expr.Payload).Len, Modulus: uint32(n), Seed: 1, Type: expr.HashTypeJenkins,
		})
	} else {
		kinds := map[string]uint32{"inc": unix.NFT_NG_INCREMENTAL, "random": unix.NFT_NG_RANDOM}
		f.load = []expr.Any{&expr.Numgen{Register: 1, Modulus: uint32(n), Type: kinds[parts[1]]}}
	}
	f.parse = func(v string) (test, error) {
		i, err := strconv.Atoi(v)
		if err != nil || i < 0 || i >= n {
			return test{}, fmt.Errorf("want a part, 0 to %d", n-1)
		}
		return test{want: binaryutil.NativeEndian.PutUint32(uint32(i))}, nil
	}
	return f, true
}

// device compares whole names, or what stands before a trailing asterisk.
func device(v string) (test, error) {
	start, wild := strings.CutSuffix(v, "*")
	if start == "" || len(start) >= unix.IFNAMSIZ || strings.Contains(start, "*") {
		return test{}, errors.New("want a device name of at most 15 bytes, or the start of one and an asterisk")
	}
	if wild {
		return test{want: []byte(start)}, nil
	}
	want := make([]byte, unix.IFNAMSIZ)
	copy(want, start)
	return test{want: want}, nil
}

func etherAddr(v string) (t test, err error) {
	value, mask, masked := strings.Cut(v, "/")
	mac, err := net.ParseMAC(value)
	t.want = mac
	if masked && err == nil {
		mac, err = net.ParseMAC(mask)
		t.mask = mac
	}
	if err != nil || len(t.want) != 6 || masked && len(t.mask) != 6 {
		return test{}, errors.New("want an Ethernet address such as 02:00:00:00:00:01, or one and a mask of its bits after a slash")
	}
	return t, nil
}

// etherTypes are names as nft(8) knows them, of linux/if_ether.h.
var etherTypes = map[string]uint16{"arp": unix.ETH_P_ARP, "ip": unix.ETH_P_IP, "ip6": unix.ETH_P_IPV6, "vlan": unix.ETH_P_8021Q}

func etherType(v string) (test, error) {
	n, ok := etherTypes[v]
	if !ok {
		return test{}, fmt.Errorf("want one of %s", names(etherTypes))
	}
	return test{want: binaryutil.BigEndian.PutUint16(n)}, nil
}

// prefix parses addresses of as many bits, and prefixes of them.
func prefix(bits int) func(string) (test, error) {
	return func(v string) (test, error) {
		p, err := netip.ParsePrefix(v)
		if !strings.Contains(v, "/") {
			a, e := netip.ParseAddr(v)
			p, err = netip.PrefixFrom(a, a.BitLen()), e
		}
		if err != nil || p.Addr().BitLen() != bits || p.Addr().Zone() != "" {
			family := map[int]string{32: "IPv4", 128: "IPv6"}[bits]
			return test{}, fmt.Errorf("want an %s address or prefix", family)
		}
		if p.IsSingleIP() {
			return test{want: p.Addr().AsSlice()}, nil
		}
		return test{mask: net.CIDRMask(p.Bits(), bits), want: p.Masked().Addr().AsSlice()}, nil
	}
}

func port(v string) (test, error) {
	n, err := strconv.ParseUint(v, 10, 16)
	if err != nil {
		return test{}, errors.New("want a port, 0 to 65535")
	}
	return test{want: binaryutil.BigEndian.PutUint16(uint16(n))}, nil
}

// fragment is a number of the 16 bits that hold a packet's flags of fragmentation and its offset, or one and a mask of them.
func fragment(v string) (t test, err error) {
	value, mask, masked := strings.Cut(v, "/")
	n, err := strconv.ParseUint(value, 0, 16)
	t.want = binaryutil.BigEndian.PutUint16(uint16(n))
	if masked && err == nil {
		n, err = strconv.ParseUint(mask, 0, 16)
		t.mask = binaryutil.BigEndian.PutUint16(uint16(n))
	}
	if err != nil {
		return test{}, errors.New("want a number of 16 bits, or one and a mask of its bits after a slash, such as 0x0/0x3fff")
	}
	return t, nil
}

func octet(v string) (test, error) {
	n, err := strconv.ParseUint(v, 0, 8)
	if err != nil {
		return test{}, errors.New("want a number of 8 bits, such as 0x1")
	}
	return test{want: []byte{byte(n)}}, nil
}

func number(v string) (test, error) {
	n, err := strconv.ParseUint(v, 0, 32)
	if err != nil {
		return test{}, errors.New("want a number of 32 bits, such as 0x1")
	}
	return test{want: binaryutil.NativeEndian.PutUint32(uint32(n))}, nil
}

// one parses one name of known numbers, which the kernel keeps in so many bytes.
func one(known map[string]uint32, size int) func(string) (test, error) {
	return func(v string) (test, error) {
		n, ok := known[v]
		if !ok {
			return test{}, fmt.Errorf("want one of %s", names(known))
		}
		if size == 1 {
			return test{want: []byte{byte(n)}}, nil
		}
		return test{want: binaryutil.NativeEndian.PutUint32(n)}, nil
	}
}

// bits parses a comma-separated list of flags, one of which must be set.
func bits(known map[string]uint32) func(string) (test, error) {
	return func(v string) (test, error) {
		var mask uint32
		for name := range strings.SplitSeq(v, ",") {
			bit, ok := known[strings.TrimSpace(name)]
			if !ok {
				return test{}, fmt.Errorf("want a comma-separated list of %s", names(known))
			}
			mask |= bit
		}
		return test{mask: binaryutil.NativeEndian.PutUint32(mask), want: make([]byte, 4), any: true}, nil
	}
}

func compileVerdict(family string, known protocols, v topology.Verdict) ([]expr.Any, error) {
	if v.FullyRandom && v.Kind != "masquerade" && v.Kind != "snat" {
		return nil, errors.New("fully-random is of masquerade and snat")
	}
	if v.To != (netip.AddrPort{}) && v.Kind != "snat" && v.Kind != "dnat" {
		return nil, fmt.Errorf("to %s: is of snat and dnat", v.To)
	}
	if v.Chain != "" && v.Kind != "jump" {
		return nil, fmt.Errorf("chain %q: is of jump", v.Chain)
	}
	if v.Mark != 0 && v.Kind != "mark" {
		return nil, fmt.Errorf("mark %#x: is of mark", v.Mark)
	}
	switch v.Kind {
	case "count":
		return nil, nil
	case "mark":
		return []expr.Any{
			&expr.Immediate{Register: 1, Data: binaryutil.NativeEndian.PutUint32(v.Mark)},
			&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: 1},
		}, nil
	case "accept":
		return []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}}, nil
	case "drop":
		return []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}}, nil
	case "return":
		return []expr.Any{&expr.Verdict{Kind: expr.VerdictReturn}}, nil
	case "jump":
		return []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: v.Chain}}, nil
	case "masquerade":
		return []expr.Any{&expr.Masq{FullyRandom: v.FullyRandom}}, nil
	case "reject":
		// Port unreachable, as nft(8) does: by the family's own ICMP, or by that of each packet.
		switch family {
		case "ip":
			return []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH, Code: 3}}, nil
		case "ip6":
			return []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH, Code: 4}}, nil
		}
		return []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_PORT_UNREACH}}, nil
	case "snat", "dnat":
		return compileNAT(known, v)
	}
	return nil, fmt.Errorf("verdict %q: want accept, drop, return, masquerade, snat, dnat, reject, count, jump or mark", v.Kind)
}

func compileNAT(known protocols, v topology.Verdict) ([]expr.Any, error) {
	if !v.To.Addr().IsValid() {
		return nil, errors.New("want an address")
	}
	proto := "ip"
	if v.To.Addr().Is6() {
		proto = "ip6"
	}
	if was := known["network"]; was != "" && was != proto {
		return nil, fmt.Errorf("%s: is of %s, but here packets are %s", v.To.Addr(), proto, was)
	}
	nat := &expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(families[proto]), RegAddrMin: 1, FullyRandom: v.FullyRandom}
	if v.Kind == "snat" {
		nat.Type = expr.NATTypeSourceNAT
	}
	exprs := []expr.Any{&expr.Immediate{Register: 1, Data: v.To.Addr().AsSlice()}}
	if v.To.Port() != 0 {
		if known["transport"] == "" {
			return nil, fmt.Errorf("%s: a port needs a match of tcp, udp or meta l4proto", v.To)
		}
		exprs = append(exprs, &expr.Immediate{Register: 2, Data: binaryutil.BigEndian.PutUint16(v.To.Port())})
		nat.RegProtoMin, nat.Specified = 2, true
	}
	return append(exprs, nat), nil
}

// rules reads every packet filter rule of the namespace of the calling thread, with its counter. Tables and chains are
// sorted, rules stand in their order. A kernel without nftables has none.
func rules() ([]lab.Rule, error) {
	// One dump of all families, where the library would ask chain by chain.
	req := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETRULE, unix.NLM_F_DUMP)
	req.AddData(&nl.Nfgenmsg{NfgenFamily: unix.NFPROTO_UNSPEC, Version: nl.NFNETLINK_V0})
	msgs, err := req.Execute(unix.NETLINK_NETFILTER, unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_NEWRULE)
	switch {
	case errors.Is(err, unix.EPROTONOSUPPORT), errors.Is(err, unix.EINVAL), errors.Is(err, unix.EOPNOTSUPP):
		return nil, nil // no netfilter netlink, or no nftables behind it
	case err != nil:
		return nil, fmt.Errorf("nft rules: %w", err)
	}
	family := map[byte]string{}
	for name, number := range families {
		family[byte(number)] = name
	}
	var all []lab.Rule
	for _, m := range msgs {
		r, err := decodeRule(m[nl.SizeofNfgenmsg:])
		if err != nil {
			return nil, fmt.Errorf("nft rules: %w", err)
		}
		r.Family = family[m[0]]
		all = append(all, r)
	}
	slices.SortStableFunc(all, func(a, b lab.Rule) int {
		return cmp.Or(cmp.Compare(a.Family, b.Family), cmp.Compare(a.Table, b.Table), cmp.Compare(a.Chain, b.Chain))
	})
	return all, nil
}

func decodeRule(attrs []byte) (r lab.Rule, err error) {
	ad, err := mdl.NewAttributeDecoder(attrs)
	if err != nil {
		return r, err
	}
	ad.ByteOrder = binary.BigEndian
	for ad.Next() {
		switch ad.Type() {
		case unix.NFTA_RULE_TABLE:
			r.Table = ad.String()
		case unix.NFTA_RULE_CHAIN:
			r.Chain = ad.String()
		case unix.NFTA_RULE_USERDATA:
			r.Comment = comment(ad.Bytes())
		case unix.NFTA_RULE_EXPRESSIONS:
			ad.Nested(func(list *mdl.AttributeDecoder) error {
				for list.Next() {
					list.Nested(func(e *mdl.AttributeDecoder) error { return decodeExpr(e, &r) })
				}
				return nil
			})
		}
	}
	return r, ad.Err()
}

// comment is the comment among a rule's user data, a list of type, length and value.
func comment(data []byte) string {
	for len(data) >= 2 && len(data) >= 2+int(data[1]) {
		value := data[2 : 2+int(data[1])]
		if data[0] == byte(userdata.TypeComment) {
			return string(bytes.TrimRight(value, "\x00"))
		}
		data = data[2+len(value):]
	}
	return ""
}

// decodeExpr adds what an expression counted, where it is a counter, and tells whether it is one that translates.
func decodeExpr(e *mdl.AttributeDecoder, r *lab.Rule) error {
	counter := false
	for e.Next() {
		switch e.Type() {
		case unix.NFTA_EXPR_NAME:
			switch e.String() {
			case "counter":
				counter = true
			case "nat", "masq", "redir":
				r.NAT = true
			}
		case unix.NFTA_EXPR_DATA:
			if !counter {
				continue
			}
			e.Nested(func(c *mdl.AttributeDecoder) error {
				for c.Next() {
					switch c.Type() {
					case unix.NFTA_COUNTER_BYTES:
						r.Bytes += c.Uint64()
					case unix.NFTA_COUNTER_PACKETS:
						r.Packets += c.Uint64()
					}
				}
				return nil
			})
		}
	}
	return nil
}
