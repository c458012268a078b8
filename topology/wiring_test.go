package topology_test

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/modebench/modebench/topology"
)

var (
	mac4 = net.HardwareAddr{2, 3, 0, 1, 0, 4}
	mac5 = net.HardwareAddr{2, 3, 0, 1, 0, 5}
)

func pfx(s string) netip.Prefix  { return netip.MustParsePrefix(s) }
func addr(s string) netip.Addr   { return netip.MustParseAddr(s) }
func to(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

var table = topology.Table{
	Family: "inet", Name: "modebench",
	Chains: []topology.Chain{
		{Name: "prerouting", Type: "nat", Hook: "prerouting", Priority: -100, Rules: []topology.Rule{
			{Match: []topology.Match{{Field: "fib daddr type", Value: "local"}, {Field: "meta nfproto", Value: "ipv4"}, {Field: "tcp dport", Value: "8080"}}, Verdict: topology.Verdict{Kind: "dnat", To: to("172.17.0.2:80")}, Comment: "publish"},
			{Match: []topology.Match{{Field: "ip6 daddr", Value: "2001:db8:18::1"}, {Field: "udp dport", Value: "53"}}, Verdict: topology.Verdict{Kind: "dnat", To: to("[fd17::2]:53")}},
			{Match: []topology.Match{{Field: "ip daddr", Value: "198.18.0.1"}, {Field: "meta l4proto", Value: "icmp"}}, Verdict: topology.Verdict{Kind: "dnat", To: netip.AddrPortFrom(addr("172.17.0.2"), 0)}},
		}},
		{Name: "postrouting", Type: "nat", Hook: "postrouting", Priority: 100, Rules: []topology.Rule{
			{Match: []topology.Match{{Field: "ip saddr", Value: "172.17.0.0/24"}, {Field: "oifname", Not: true, Value: "br-blue"}}, Verdict: topology.Verdict{Kind: "masquerade", FullyRandom: true}},
			{Match: []topology.Match{{Field: "ip6 saddr", Value: "fd17::/64"}, {Field: "oifname", Value: "eth0"}}, Verdict: topology.Verdict{Kind: "snat", To: netip.AddrPortFrom(addr("2001:db8:18::1"), 0)}},
		}},
		{Name: "forward", Type: "filter", Hook: "forward", Policy: "drop", Rules: []topology.Rule{
			{Match: []topology.Match{{Field: "ct state", Value: "established,related"}}, Verdict: topology.Verdict{Kind: "accept"}},
			{Match: []topology.Match{{Field: "ct status", Value: "dnat"}}, Verdict: topology.Verdict{Kind: "accept"}},
			{Match: []topology.Match{{Field: "ct state", Not: true, Value: "new,untracked"}}, Verdict: topology.Verdict{Kind: "count"}, Comment: "old"},
			{Match: []topology.Match{{Field: "iifname", Value: "br-*"}}, Verdict: topology.Verdict{Kind: "jump", Chain: "leave"}},
		}},
		{Name: "leave", Rules: []topology.Rule{
			{Match: []topology.Match{{Field: "ether saddr", Value: mac4.String()}, {Field: "ether daddr", Not: true, Value: mac5.String()}}, Verdict: topology.Verdict{Kind: "return"}},
			{Match: []topology.Match{{Field: "meta l4proto", Value: "tcp,udp"}, {Field: "th dport", Value: "25"}}, Verdict: topology.Verdict{Kind: "reject"}},
			{Match: []topology.Match{{Field: "tcp sport", Value: "1-1023"}}, Verdict: topology.Verdict{Kind: "drop"}},
			{Match: []topology.Match{{Field: "udp sport", Value: "67"}}, Verdict: topology.Verdict{Kind: "drop"}},
		}},
	},
}

const tableText = `table inet modebench {
	chain prerouting {
		type nat hook prerouting priority -100; policy accept;
		fib daddr type local meta nfproto ipv4 tcp dport 8080 counter dnat ip to 172.17.0.2:80 comment "publish"
		ip6 daddr 2001:db8:18::1 udp dport 53 counter dnat ip6 to [fd17::2]:53
		ip daddr 198.18.0.1 meta l4proto icmp counter dnat ip to 172.17.0.2
	}

	chain postrouting {
		type nat hook postrouting priority 100; policy accept;
		ip saddr 172.17.0.0/24 oifname != "br-blue" counter masquerade fully-random
		ip6 saddr fd17::/64 oifname "eth0" counter snat ip6 to 2001:db8:18::1
	}

	chain forward {
		type filter hook forward priority 0; policy drop;
		ct state { established, related } counter accept
		ct status dnat counter accept
		ct state != { new, untracked } counter comment "old"
		iifname "br-*" counter jump leave
	}

	chain leave {
		ether saddr 02:03:00:01:00:04 ether daddr != 02:03:00:01:00:05 counter return
		meta l4proto { tcp, udp } th dport 25 counter reject
		tcp sport 1-1023 counter drop
		udp sport 67 counter drop
	}
}
`

func TestStepString(t *testing.T) {
	for _, c := range []struct {
		step        topology.Step
		does, again string // again: with Remove; empty: a step that has no opposite
	}{
		{
			topology.Step{Space: &topology.Space{Name: "c1"}},
			"ip netns add h1-c1 && ip -n h1-c1 link set dev lo up", "ip netns del h1-c1",
		},
		{
			topology.Step{Space: &topology.Space{Name: "c2", Share: "c1"}},
			"ln -s h1-c1 /run/netns/h1-c2 # h1/c2 enters the namespace of h1/c1", "rm /run/netns/h1-c2",
		},
		{
			topology.Step{Engine: &topology.Engine{Default: []netip.Prefix{pfx("192.0.2.129/26"), pfx("2001:db8:d::1/64")}, Apart: true}},
			"ip netns exec h1 dockerd --bip 192.0.2.129/26 --ipv6 --fixed-cidr-v6 2001:db8:d::/64 --icc=false --ip6tables --experimental " +
				"-H unix:///run/h1-docker.sock --data-root /run/h1-docker-data --exec-root /run/h1-docker --pidfile /run/h1-docker.pid &\n" +
				`tar -cC $(dirname $(which modebench)) modebench | docker -H unix:///run/h1-docker.sock import -c 'ENTRYPOINT ["/modebench","idle"]' - modebench`, "",
		},
		{
			topology.Step{Space: &topology.Space{Name: "c2", Run: &topology.EngineContainer{
				Name: "h1-c2", Network: "bridge", Exposed: []string{"80/tcp"}, Env: []string{"A=b c"}, Links: []topology.EngineLink{{To: "h1-c1", Alias: "db"}},
			}}},
			"docker -H unix:///run/h1-docker.sock run -di --name h1-c2 --network bridge --expose 80/tcp -e 'A=b c' --link h1-c1:db modebench && " +
				"ip netns attach h1-c2 $(docker -H unix:///run/h1-docker.sock inspect -f '{{.State.Pid}}' h1-c2)",
			"docker -H unix:///run/h1-docker.sock kill h1-c2",
		},
		{
			topology.Step{Space: &topology.Space{Name: "c3", Share: "host"}},
			"ln -s h1 /run/netns/h1-c3 # h1/c3 enters the namespace of h1", "rm /run/netns/h1-c3",
		},

		{
			topology.Step{Link: &topology.Link{Name: "br-blue", Kind: "bridge", MAC: mac4, MTU: 1500, NoSnooping: true, Up: true}},
			"ip -n h1 link add name br-blue address 02:03:00:01:00:04 mtu 1500 up type bridge mcast_snooping 0", "ip -n h1 link del dev br-blue",
		},
		{
			topology.Step{Link: &topology.Link{Name: "veth-c1", Kind: "veth", MTU: 1500, Master: "br-blue", Up: true, PeerName: "eth0", PeerIn: "c1", PeerMAC: mac4, PeerMTU: 1500}},
			"ip -n h1 link add name veth-c1 mtu 1500 master br-blue up type veth peer name eth0 netns h1-c1 address 02:03:00:01:00:04 mtu 1500", "ip -n h1 link del dev veth-c1",
		},
		{
			topology.Step{In: "c1", Link: &topology.Link{Name: "v0", Kind: "veth", PeerName: "v1"}},
			"ip -n h1-c1 link add name v0 type veth peer name v1 netns h1", "ip -n h1-c1 link del dev v0",
		},
		{
			topology.Step{Link: &topology.Link{Name: "v0", Kind: "veth", PeerName: "v1"}},
			"ip -n h1 link add name v0 type veth peer name v1", "ip -n h1 link del dev v0",
		},
		{
			topology.Step{In: "c1", Link: &topology.Link{Name: "eth0", Kind: "macvlan", MAC: mac4, Parent: "eth0", ParentMode: "bridge", Up: true}},
			"ip -n h1 link add link eth0 name eth0 netns h1-c1 address 02:03:00:01:00:04 up type macvlan mode bridge", "ip -n h1-c1 link del dev eth0",
		},
		{
			topology.Step{Link: &topology.Link{Name: "mv0", Kind: "macvlan", Parent: "eth0", ParentMode: "passthru"}},
			"ip -n h1 link add link eth0 name mv0 type macvlan mode passthru", "ip -n h1 link del dev mv0",
		},

		{
			topology.Step{In: "c1", Set: &topology.LinkSet{Name: "eth0", State: "up", MTU: 1400, MAC: mac5, Promisc: "on"}},
			"ip -n h1-c1 link set dev eth0 address 02:03:00:01:00:05 mtu 1400 promisc on up", "",
		},
		{
			topology.Step{Set: &topology.LinkSet{Name: "veth-c1", Master: "br-blue", Hairpin: "on", Isolated: "off"}},
			"ip -n h1 link set dev veth-c1 master br-blue && ip -n h1 link set dev veth-c1 type bridge_slave hairpin on isolated off", "",
		},
		{
			topology.Step{Set: &topology.LinkSet{Name: "veth-c1", Master: "none"}},
			"ip -n h1 link set dev veth-c1 nomaster", "",
		},
		{
			topology.Step{In: "c1", Set: &topology.LinkSet{Name: "eth0", Mode: "private"}},
			"ip -n h1-c1 link set dev eth0 type macvlan mode private", "",
		},

		{
			topology.Step{Addr: &topology.Addr{Link: "br-blue", Prefix: pfx("172.17.0.1/24")}},
			"ip -n h1 addr add 172.17.0.1/24 dev br-blue", "ip -n h1 addr del 172.17.0.1/24 dev br-blue",
		},
		{
			topology.Step{In: "c1", Addr: &topology.Addr{Link: "eth0", Prefix: pfx("fd17::2/64"), NoDAD: true, NoPrefixRoute: true}},
			"ip -n h1-c1 addr add fd17::2/64 dev eth0 nodad noprefixroute", "ip -n h1-c1 addr del fd17::2/64 dev eth0",
		},
		{
			topology.Step{Addr: &topology.Addr{Link: "veth-c1", Prefix: pfx("172.17.0.1/32"), Peer: pfx("172.17.0.2/32")}},
			"ip -n h1 addr add 172.17.0.1 peer 172.17.0.2/32 dev veth-c1", "ip -n h1 addr del 172.17.0.1 peer 172.17.0.2/32 dev veth-c1",
		},

		{
			topology.Step{In: "c1", Route: &topology.Route{Dst: pfx("0.0.0.0/0"), Via: addr("172.17.0.1")}},
			"ip -n h1-c1 route add default via 172.17.0.1", "ip -n h1-c1 route del default via 172.17.0.1",
		},
		{
			topology.Step{In: "c1", Route: &topology.Route{Dst: pfx("::/0"), Via: addr("fe80::1"), Link: "eth0"}},
			"ip -n h1-c1 -6 route add default via fe80::1 dev eth0", "ip -n h1-c1 -6 route del default via fe80::1 dev eth0",
		},
		{
			topology.Step{Route: &topology.Route{Dst: pfx("172.17.0.2/32"), Link: "veth-c1", Scope: "link", Src: addr("172.17.0.1"), MTU: 1400}},
			"ip -n h1 route add 172.17.0.2/32 dev veth-c1 scope link src 172.17.0.1 mtu 1400", "ip -n h1 route del 172.17.0.2/32 dev veth-c1 scope link src 172.17.0.1 mtu 1400",
		},
		{
			topology.Step{Route: &topology.Route{Dst: pfx("10.0.0.0/8"), Via: addr("fe80::2"), Link: "eth0", OnLink: true}},
			"ip -n h1 route add 10.0.0.0/8 via inet6 fe80::2 dev eth0 onlink", "ip -n h1 route del 10.0.0.0/8 via inet6 fe80::2 dev eth0 onlink",
		},
		{
			topology.Step{Route: &topology.Route{Dst: pfx("100.127.1.0/24"), Via: addr("198.18.0.1"), Link: "rack", Limit: 50}},
			`test "$(ip -n h1 -4 route show | grep -c ' via ')" -lt 50 && ip -n h1 route add 100.127.1.0/24 via 198.18.0.1 dev rack`,
			"ip -n h1 route del 100.127.1.0/24 via 198.18.0.1 dev rack",
		},

		{
			topology.Step{Route: &topology.Route{Dst: pfx("::/0"), Via: addr("2001:db8:19::2"), Link: "eth1", Metric: 1025}},
			"ip -n h1 -6 route add default via 2001:db8:19::2 dev eth1 metric 1025", "ip -n h1 -6 route del default via 2001:db8:19::2 dev eth1 metric 1025",
		},
		{
			topology.Step{Route: &topology.Route{Type: "unreachable", Dst: pfx("198.18.1.0/24")}},
			"ip -n h1 route add unreachable 198.18.1.0/24", "ip -n h1 route del unreachable 198.18.1.0/24",
		},
		{
			topology.Step{Route: &topology.Route{Type: "blackhole", Dst: pfx("2001:db8::/120")}},
			"ip -n h1 -6 route add blackhole 2001:db8::/120", "ip -n h1 -6 route del blackhole 2001:db8::/120",
		},

		{
			topology.Step{In: "c1", Link: &topology.Link{Name: "eth0", Kind: "ipvlan", Parent: "eth0", ParentMode: "l3s", Up: true}},
			"ip -n h1 link add link eth0 name eth0 netns h1-c1 up type ipvlan mode l3s", "ip -n h1-c1 link del dev eth0",
		},
		{
			topology.Step{Link: &topology.Link{Name: "eth0.10", Kind: "vlan", Parent: "eth0", VID: 10, MTU: 1500, Up: true}},
			"ip -n h1 link add link eth0 name eth0.10 mtu 1500 up type vlan id 10", "ip -n h1 link del dev eth0.10",
		},
		{
			topology.Step{Link: &topology.Link{Name: "eth0.0", Kind: "vlan", Parent: "eth0"}},
			"ip -n h1 link add link eth0 name eth0.0 type vlan id 0", "ip -n h1 link del dev eth0.0",
		},
		{
			topology.Step{Link: &topology.Link{Name: "switch", Kind: "bridge", VLANFiltering: true}},
			"ip -n h1 link add name switch type bridge vlan_filtering 1 vlan_default_pvid 0", "ip -n h1 link del dev switch",
		},
		{
			topology.Step{Link: &topology.Link{Name: "vxlan0", Kind: "vxlan", MAC: mac4, MTU: 1450, Up: true, Local: addr("198.18.0.1"), VNI: 4096, Port: 4789}},
			"ip -n h1 link add name vxlan0 address 02:03:00:01:00:04 mtu 1450 up type vxlan id 4096 local 198.18.0.1 dstport 4789 nolearning", "ip -n h1 link del dev vxlan0",
		},
		{
			topology.Step{Link: &topology.Link{Name: "vxlan0", Kind: "vxlan", Local: addr("198.18.0.1"), VNI: 4096, Port: 4789, Proxy: true, Entries: 16}},
			"ip -n h1 link add name vxlan0 type vxlan id 4096 local 198.18.0.1 dstport 4789 proxy nolearning maxaddress 16", "ip -n h1 link del dev vxlan0",
		},
		{
			topology.Step{Link: &topology.Link{Name: "vxlan0", Kind: "vxlan", Local: addr("2001:db8:18::1"), VNI: 4096, Port: 4789, UDP6ZeroCSumTx: true, UDP6ZeroCSumRx: true}},
			"ip -n h1 link add name vxlan0 type vxlan id 4096 local 2001:db8:18::1 dstport 4789 nolearning udp6zerocsumtx udp6zerocsumrx", "ip -n h1 link del dev vxlan0",
		},
		{
			topology.Step{Gossip: &topology.Gossip{
				Name: "h1", Addr: addr("198.18.0.1"), Port: 7946, Join: []netip.Addr{addr("198.18.0.2")}, Tunnels: []topology.Tunnel{{VNI: 4096, Link: "vxlan0"}},
			}},
			"ip netns exec h1 serf agent -node=h1 -bind=198.18.0.1:7946 -retry-join=198.18.0.2 -event-handler='user:4096=entries vxlan0' &",
			"ip netns exec h1 serf leave",
		},
		{
			topology.Step{Endpoint: &topology.Endpoint{VNI: 4096, MAC: mac4, IPs: []netip.Addr{addr("100.127.0.5")}, VTEP: addr("198.18.0.1")}},
			"ip netns exec h1 serf event 4096 'at 02:03:00:01:00:04 198.18.0.1 100.127.0.5'",
			"ip netns exec h1 serf event 4096 'gone 02:03:00:01:00:04 198.18.0.1 100.127.0.5'",
		},
		{
			topology.Step{Gossip: &topology.Gossip{
				Name: "h1", Addr: addr("198.18.0.1"), Store: netip.MustParseAddrPort("198.18.0.9:2379"), Tunnels: []topology.Tunnel{{VNI: 4096, Link: "vxlan0"}},
			}},
			"ip netns exec h1 etcdctl --endpoints=http://198.18.0.9:2379 lease grant 3 | cut -d' ' -f2 >/run/h1.lease\n" +
				"ip netns exec h1 etcdctl --endpoints=http://198.18.0.9:2379 lease keep-alive $(cat /run/h1.lease) &\n" +
				"ip netns exec h1 etcdctl --endpoints=http://198.18.0.9:2379 put --lease=$(cat /run/h1.lease) overlay/members/h1 198.18.0.1\n" +
				"ip netns exec h1 etcdctl --endpoints=http://198.18.0.9:2379 watch --prefix overlay/ -- entries 4096=vxlan0 &",
			"ip netns exec h1 etcdctl --endpoints=http://198.18.0.9:2379 lease revoke $(cat /run/h1.lease)",
		},
		{
			topology.Step{Endpoint: &topology.Endpoint{
				VNI: 4096, MAC: mac4, IPs: []netip.Addr{addr("100.127.0.5")}, VTEP: addr("198.18.0.1"), Store: netip.MustParseAddrPort("198.18.0.9:2379"),
			}},
			"ip netns exec h1 etcdctl --endpoints=http://198.18.0.9:2379 put --lease=$(cat /run/h1.lease) overlay/endpoints/4096/02:03:00:01:00:04 '198.18.0.1 100.127.0.5'",
			"ip netns exec h1 etcdctl --endpoints=http://198.18.0.9:2379 del overlay/endpoints/4096/02:03:00:01:00:04",
		},
		{
			topology.Step{Program: &topology.Program{
				Name: "etcd", Path: "etcd", Args: []string{"--data-dir", "{dir}/data"}, Env: []string{"A=b c"},
				Files: map[string]string{"b": "in {dir}\n", "a/b": "x"}, Ready: topology.Ready{Addr: to("198.18.0.1:2379"), File: "up"},
			}},
			`mkdir /run/h1-etcd
mkdir -p /run/h1-etcd/a/
cat >/run/h1-etcd/a/b <<'END'
x
END
cat >/run/h1-etcd/b <<'END'
in /run/h1-etcd
END
ip netns exec h1 env -C /run/h1-etcd 'A=b c' etcd --data-dir /run/h1-etcd/data & echo $! >/run/h1-etcd/pid
until test -e /run/h1-etcd/up; do sleep 0.1; done
until ip netns exec h1 nc -z 198.18.0.1 2379; do sleep 0.1; done`,
			"kill $(cat /run/h1-etcd/pid) && rm -r /run/h1-etcd",
		},
		{
			topology.Step{Program: &topology.Program{Name: "bird", Path: "/usr/sbin/bird", Args: []string{"-f"}}},
			"mkdir /run/h1-bird\nip netns exec h1 env -C /run/h1-bird /usr/sbin/bird -f & echo $! >/run/h1-bird/pid", "kill $(cat /run/h1-bird/pid) && rm -r /run/h1-bird",
		},
		{
			topology.Step{In: "c1", Resolver: &topology.Resolver{Addr: netip.MustParseAddrPort("127.0.0.11:53"), TTL: 600 * time.Second}},
			"mkdir -p /run/h1-names && ip netns exec h1-c1 dnsmasq --conf-file=/dev/null --no-hosts --no-resolv --local=/#/ --bind-interfaces --listen-address=127.0.0.11 --port=53 --local-ttl=600 --hostsdir=/run/h1-names --pid-file=/run/h1-c1-dns-127.0.0.11-53.pid",
			"kill $(cat /run/h1-c1-dns-127.0.0.11-53.pid)",
		},
		{
			topology.Step{In: "c1", Hosts: &topology.Hosts{Text: "172.17.0.2\tdb\n"}},
			"mkdir -p /etc/netns/h1-c1 && cat >/etc/netns/h1-c1/hosts <<'END'\n172.17.0.2\tdb\nEND", "rm /etc/netns/h1-c1/hosts",
		},
		{
			topology.Step{In: "c1", Process: &topology.Process{Env: []string{"A=b c"}}},
			"ip netns exec h1-c1 env -i 'A=b c' sleep infinity & echo $! >/run/h1-c1.pid", "kill $(cat /run/h1-c1.pid)",
		},
		{
			topology.Step{In: "c1", Relay: &topology.Relay{Proto: "tcp", Port: 6379, To: to("198.18.0.2:20003")}},
			"ip netns exec h1-c1 socat TCP6-LISTEN:6379,ipv6-v6only=0,reuseaddr,fork TCP:198.18.0.2:20003 & echo $! >/run/h1-c1-tcp-6379.pid", "kill $(cat /run/h1-c1-tcp-6379.pid)",
		},
		{
			topology.Step{In: "c1", Relay: &topology.Relay{Proto: "udp", Port: 53, To: to("[2001:db8::2]:20003")}},
			"ip netns exec h1-c1 socat UDP6-LISTEN:53,ipv6-v6only=0,reuseaddr,fork 'UDP:[2001:db8::2]:20003' & echo $! >/run/h1-c1-udp-53.pid", "kill $(cat /run/h1-c1-udp-53.pid)",
		},
		{
			topology.Step{Name: &topology.Name{Name: "h1-c1.blue", Addrs: []netip.Addr{addr("172.17.0.2"), addr("fd17::2")}}},
			`printf '%s\n' '172.17.0.2 h1-c1.blue' 'fd17::2 h1-c1.blue' >/run/h1-names/h1-c1.blue-172.17.0.2-fd17::2`,
			"rm /run/h1-names/h1-c1.blue-172.17.0.2-fd17::2",
		},
		{
			topology.Step{Reserve: &topology.Reserve{
				Pool: "blue", ID: "c9", Link: "eth0",
				Ranges: []topology.Range{
					{Subnet: pfx("10.0.0.0/24"), First: addr("10.0.0.10"), Last: addr("10.0.0.19"), Gateway: addr("10.0.0.1")},
					{Subnet: pfx("fd00::/64")},
				},
				Want: []netip.Addr{addr("10.0.0.12")},
			}},
			"CNI_COMMAND=ADD CNI_CONTAINERID=c9 CNI_IFNAME=eth0 CNI_NETNS=/run/netns/h1-c9 CNI_PATH=/opt/cni/bin host-local <<'END'\n" + `{"cniVersion":"1.1.0","name":"blue","args":{"cni":{"ips":["10.0.0.12"]}},"ipam":{"type":"host-local","dataDir":"/run/h1-ipam","ranges":[[{"subnet":"10.0.0.0/24","rangeStart":"10.0.0.10","rangeEnd":"10.0.0.19","gateway":"10.0.0.1"}],[{"subnet":"fd00::/64"}]]}}
END`,
			"CNI_COMMAND=DEL CNI_CONTAINERID=c9 CNI_IFNAME=eth0 CNI_NETNS=/run/netns/h1-c9 CNI_PATH=/opt/cni/bin host-local <<'END'\n" + `{"cniVersion":"1.1.0","name":"blue","args":{"cni":{"ips":["10.0.0.12"]}},"ipam":{"type":"host-local","dataDir":"/run/h1-ipam","ranges":[[{"subnet":"10.0.0.0/24","rangeStart":"10.0.0.10","rangeEnd":"10.0.0.19","gateway":"10.0.0.1"}],[{"subnet":"fd00::/64"}]]}}
END`,
		},
		{
			topology.Step{DHCPServer: &topology.DHCPServer{
				Link: "eth0", Addr: addr("10.0.0.1"), Lease: time.Minute,
				Range: topology.Range{Subnet: pfx("10.0.0.0/24"), First: addr("10.0.0.100"), Last: addr("10.0.0.109")},
			}},
			`cat >/run/h1-dhcpd.conf <<'END'
authoritative; default-lease-time 60; max-lease-time 60;
subnet 10.0.0.0 netmask 255.255.255.0 { range 10.0.0.100 10.0.0.109; }
END
touch /run/h1-dhcpd.leases && ip netns exec h1 dhcpd -4 -cf /run/h1-dhcpd.conf -lf /run/h1-dhcpd.leases -pf /run/h1-dhcpd.pid eth0`,
			"kill $(cat /run/h1-dhcpd.pid) && rm /run/h1-dhcpd.*",
		},
		{
			topology.Step{In: "c9", DHCP: &topology.DHCP{Link: "eth0", ClientID: "h1/c9/blue/eth0", Broadcast: true, Within: 3 * time.Second}},
			"ip netns exec h1-c9 dhcpcd -4 -w -I h1/c9/blue/eth0 -J -t 3 eth0", "ip netns exec h1-c9 dhcpcd -k eth0",
		},
		{
			topology.Step{DHCPServer: &topology.DHCPServer{
				Link: "eth0", Addr: addr("fd00::1"), Lease: time.Minute,
				Range: topology.Range{Subnet: pfx("fd00::/64"), First: addr("fd00::100"), Last: addr("fd00::109")},
			}},
			`cat >/run/h1-dhcpd.conf <<'END'
authoritative; default-lease-time 60; max-lease-time 60;
subnet6 fd00::/64 { range6 fd00::100 fd00::109; }
END
touch /run/h1-dhcpd.leases && ip netns exec h1 dhcpd -6 -cf /run/h1-dhcpd.conf -lf /run/h1-dhcpd.leases -pf /run/h1-dhcpd.pid eth0`,
			"kill $(cat /run/h1-dhcpd.pid) && rm /run/h1-dhcpd.*",
		},
		{
			topology.Step{In: "c9", DHCP: &topology.DHCP{Link: "eth0", Six: true, ClientID: "h1/c9/blue/eth0"}},
			"ip netns exec h1-c9 dhcpcd -6 -w --noipv6rs --ia_na --duid=00:04:01:16:cd:2f:2c:61:83:6c:8b:32:04:1f:fd:9e:42:47 eth0", "ip netns exec h1-c9 dhcpcd -6 -k eth0",
		},
		{
			topology.Step{Link: &topology.Link{Name: "vxlan0", Kind: "vxlan", Parent: "eth0", Local: addr("198.18.0.1"), VNI: 4096, Port: 4789, Learning: true, Group: addr("239.1.1.1")}},
			"ip -n h1 link add name vxlan0 type vxlan id 4096 local 198.18.0.1 group 239.1.1.1 dev eth0 dstport 4789", "ip -n h1 link del dev vxlan0",
		},
		{
			topology.Step{Link: &topology.Link{Name: "tun0", Kind: "ipip", MTU: 1480, Local: addr("198.18.0.1")}},
			"ip -n h1 link add name tun0 mtu 1480 type ipip local 198.18.0.1", "ip -n h1 link del dev tun0",
		},
		{
			topology.Step{Link: &topology.Link{Name: "tun0", Kind: "tun"}},
			"ip -n h1 tuntap add dev tun0 mode tun", "ip -n h1 link del dev tun0",
		},
		{
			topology.Step{In: "c1", Set: &topology.LinkSet{Name: "eth0", Mode: "l3"}},
			"ip -n h1-c1 link set dev eth0 type ipvlan mode l3", "",
		},
		{
			topology.Step{VLAN: &topology.VLAN{Link: "h1-eth0", VID: 10}},
			"bridge -n h1 vlan add dev h1-eth0 vid 10", "bridge -n h1 vlan del dev h1-eth0 vid 10",
		},
		{
			topology.Step{VLAN: &topology.VLAN{Link: "x-eth0", VID: 20, Untagged: true}},
			"bridge -n h1 vlan add dev x-eth0 vid 20 pvid untagged", "bridge -n h1 vlan del dev x-eth0 vid 20",
		},
		{
			topology.Step{BGP: &topology.BGP{
				AS: 65001, ID: addr("198.18.0.3"), Hold: 9 * time.Second,
				Peers: []topology.Peer{{Addr: addr("198.18.0.2"), AS: 65000, Local: addr("198.18.0.3"), Local6: addr("2001:db8:18::3")}},
			}},
			`ip netns exec h1 vtysh -N h1 <<'END'
configure terminal
route-map to-198.18.0.2 permit 10
 set ipv6 next-hop global 2001:db8:18::3
exit
router bgp 65001
 bgp router-id 198.18.0.3
 no bgp ebgp-requires-policy
 no bgp default ipv4-unicast
 no bgp network import-check
 bgp bestpath compare-routerid
 timers bgp 3 9
 neighbor 198.18.0.2 remote-as 65000
 neighbor 198.18.0.2 update-source 198.18.0.3
 address-family ipv4 unicast
  maximum-paths 1
  neighbor 198.18.0.2 activate
 exit-address-family
 address-family ipv6 unicast
  maximum-paths 1
  neighbor 198.18.0.2 activate
  neighbor 198.18.0.2 route-map to-198.18.0.2 out
 exit-address-family
end
END`,
			"ip netns exec h1 vtysh -N h1 -c 'configure terminal' -c 'no router bgp 65001'",
		},
		{
			topology.Step{Announce: &topology.Announcement{Prefix: pfx("198.18.1.0/24")}},
			"ip netns exec h1 vtysh -N h1 -c 'configure terminal' -c 'router bgp' -c 'address-family ipv4 unicast' -c 'network 198.18.1.0/24'",
			"ip netns exec h1 vtysh -N h1 -c 'configure terminal' -c 'router bgp' -c 'address-family ipv4 unicast' -c 'no network 198.18.1.0/24'",
		},
		{
			topology.Step{Announce: &topology.Announcement{Prefix: pfx("0.1.0.4/32"), Many: 2}},
			"for i in $(seq 65540 65541); do ip netns exec h1 vtysh -N h1 -c 'configure terminal' -c 'router bgp' -c 'address-family ipv4 unicast' -c \"network $((i>>24)).$((i>>16&255)).$((i>>8&255)).$((i&255))/32\"; done",
			"for i in $(seq 65540 65541); do ip netns exec h1 vtysh -N h1 -c 'configure terminal' -c 'router bgp' -c 'address-family ipv4 unicast' -c \"no network $((i>>24)).$((i>>16&255)).$((i>>8&255)).$((i&255))/32\"; done",
		},
		{
			topology.Step{Announce: &topology.Announcement{Prefix: pfx("2001:db8:18::101/128")}},
			"ip netns exec h1 vtysh -N h1 -c 'configure terminal' -c 'router bgp' -c 'address-family ipv6 unicast' -c 'network 2001:db8:18::101/128'",
			"ip netns exec h1 vtysh -N h1 -c 'configure terminal' -c 'router bgp' -c 'address-family ipv6 unicast' -c 'no network 2001:db8:18::101/128'",
		},

		{
			topology.Step{Neigh: &topology.Neigh{Link: "br-blue", IP: addr("172.17.0.9"), MAC: mac4}},
			"ip -n h1 neigh add 172.17.0.9 lladdr 02:03:00:01:00:04 dev br-blue nud permanent", "ip -n h1 neigh del 172.17.0.9 dev br-blue",
		},
		{
			topology.Step{Neigh: &topology.Neigh{Link: "eth0", IP: addr("172.17.0.9"), MAC: mac4, Found: true}},
			"ip -n h1 neigh add 172.17.0.9 lladdr 02:03:00:01:00:04 dev eth0 nud reachable", "ip -n h1 neigh del 172.17.0.9 dev eth0",
		},
		{
			topology.Step{Neigh: &topology.Neigh{Link: "eth0", IP: addr("2001:db8:18::101"), Proxy: true}},
			"ip -n h1 neigh add proxy 2001:db8:18::101 dev eth0", "ip -n h1 neigh del proxy 2001:db8:18::101 dev eth0",
		},
		{
			topology.Step{Neigh: &topology.Neigh{Link: "veth-c1", MAC: mac4, FDB: true}},
			"bridge -n h1 fdb add 02:03:00:01:00:04 dev veth-c1 master static", "bridge -n h1 fdb del 02:03:00:01:00:04 dev veth-c1 master static",
		},
		{
			topology.Step{Neigh: &topology.Neigh{Link: "vxlan0", MAC: mac4, IP: addr("198.18.0.2"), FDB: true}},
			"bridge -n h1 fdb append 02:03:00:01:00:04 dev vxlan0 dst 198.18.0.2 self permanent", "bridge -n h1 fdb del 02:03:00:01:00:04 dev vxlan0 dst 198.18.0.2 self permanent",
		},
		{
			topology.Step{Neigh: &topology.Neigh{Link: "vxlan0", MAC: mac4, IP: addr("198.18.0.2"), FDB: true, Many: 300}},
			"for i in $(seq 65540 65839); do bridge -n h1 fdb append 02:03:00:$(printf %02x:%02x:%02x $((i>>16)) $((i>>8&255)) $((i&255))) dev vxlan0 dst 198.18.0.2 self permanent; done",
			"for i in $(seq 65540 65839); do bridge -n h1 fdb del 02:03:00:$(printf %02x:%02x:%02x $((i>>16)) $((i>>8&255)) $((i&255))) dev vxlan0 dst 198.18.0.2 self permanent; done",
		},
		{
			topology.Step{Neigh: &topology.Neigh{Link: "eth0", MAC: mac4, IP: addr("0.1.0.4"), Many: 2}},
			"for i in $(seq 65540 65541); do ip -n h1 neigh add $((i>>24)).$((i>>16&255)).$((i>>8&255)).$((i&255)) lladdr 02:03:00:01:00:04 dev eth0 nud permanent; done",
			"for i in $(seq 65540 65541); do ip -n h1 neigh del $((i>>24)).$((i>>16&255)).$((i>>8&255)).$((i&255)) dev eth0; done",
		},

		{
			topology.Step{Sysctl: &topology.Sysctl{Key: "net/ipv4/ip_forward", Value: "1"}},
			"ip netns exec h1 sysctl -qw net/ipv4/ip_forward=1", "",
		},
		{
			topology.Step{In: "c1", Sysctl: &topology.Sysctl{Key: "net/ipv4/ip_local_port_range", Value: "1024 65000", Optional: true}},
			"ip netns exec h1-c1 sysctl -e -qw net/ipv4/ip_local_port_range='1024 65000'", "",
		},

		{
			topology.Step{Offload: &topology.Offload{Link: "veth-c1", Feature: "tx-checksum"}},
			"ip netns exec h1 ethtool -K veth-c1 tx off", "",
		},
		{
			topology.Step{In: "c1", Offload: &topology.Offload{Link: "eth0", Feature: "gro", On: true}},
			"ip netns exec h1-c1 ethtool -K eth0 gro on", "",
		},

		{
			topology.Step{Shape: &topology.Shape{Link: "eth0", Rate: 100e6}},
			"tc -n h1 qdisc add dev eth0 root tbf rate 100mbit burst 65536 limit 690536", "tc -n h1 qdisc del dev eth0 root",
		},
		{
			topology.Step{Shape: &topology.Shape{Link: "eth0", Rate: 1_234_567, Delay: 2500 * time.Microsecond, Loss: 0.01}},
			"tc -n h1 qdisc add dev eth0 root netem delay 2500us loss 1% rate 1234567bit", "tc -n h1 qdisc del dev eth0 root",
		},
		{
			topology.Step{Shape: &topology.Shape{Link: "eth0", Delay: 20 * time.Millisecond, Jitter: 10 * time.Millisecond, Reorder: 0.25}},
			"tc -n h1 qdisc add dev eth0 root netem delay 20000us 10000us reorder 25%", "tc -n h1 qdisc del dev eth0 root",
		},
		{
			topology.Step{In: "c1", Redirect: &topology.Redirect{Link: "eth0", To: "ifb-c1"}},
			"tc -n h1-c1 qdisc add dev eth0 ingress && tc -n h1-c1 filter add dev eth0 ingress u32 match u32 0 0 action mirred egress redirect dev ifb-c1",
			"tc -n h1-c1 qdisc del dev eth0 ingress",
		},
		{
			topology.Step{Forget: &topology.Forget{Proto: "udp", Port: 53}},
			"ip netns exec h1 conntrack -D -p udp --orig-port-dst 53 || true", "",
		},
		{
			topology.Step{Await: &topology.Await{Port: "veth-c1"}},
			"until bridge -n h1 link show dev veth-c1 | grep -q 'state forwarding'; do sleep 0.01; done", "",
		},

		{
			topology.Step{Table: &table},
			"ip netns exec h1 nft -f - <<'END'\n" + tableText + "END", "ip netns exec h1 nft delete table inet modebench",
		},
		{
			topology.Step{Table: &topology.Table{Family: "ip", Name: "nat", Chains: []topology.Chain{{Name: "out", Rules: []topology.Rule{{Verdict: topology.Verdict{Kind: "snat", To: to("198.18.0.1:1024")}}}}}}},
			"ip netns exec h1 nft -f - <<'END'\ntable ip nat {\n\tchain out {\n\t\tcounter snat to 198.18.0.1:1024\n\t}\n}\nEND", "ip netns exec h1 nft delete table ip nat",
		},
	} {
		c.step.On = "h1"
		if diff := cmp.Diff(c.does, c.step.String()); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
		if c.again == "" {
			continue
		}
		c.step.Remove = true
		if diff := cmp.Diff(c.again, c.step.String()); diff != "" {
			t.Errorf("removed: -want +got:\n%s", diff)
		}
	}
}

// sample uses a kind of step where it can be used, and none that a kernel may lack.
func sample(t testing.TB, p *topology.Plan) topology.Wiring {
	t.Helper()
	w := topology.Wiring{Mode: "sample", Setup: []topology.Step{
		{On: "h2", Sysctl: &topology.Sysctl{Key: "net/ipv4/ip_forward", Value: "1"}},
	}}
	blue := p.Network("blue")
	on := func(s topology.Step) { s.On = "h1"; w.Setup = append(w.Setup, s) }
	on(topology.Step{Sysctl: &topology.Sysctl{Key: "net/ipv4/ip_forward", Value: "1"}})
	// With a MAC of its own: with its first port its MAC would change, and the kernel then forgets even permanent neighbours.
	on(topology.Step{Link: &topology.Link{Name: blue.Bridge, Kind: "bridge", MAC: net.HardwareAddr{2, 4, 0, 0, 0, 1}, Up: true}})
	on(topology.Step{Addr: &topology.Addr{Link: blue.Bridge, Prefix: netip.PrefixFrom(blue.Gateway4, blue.V4.Bits())}})
	on(topology.Step{Addr: &topology.Addr{Link: blue.Bridge, Prefix: netip.PrefixFrom(blue.Gateway6, blue.V6.Bits()), NoDAD: true}})
	on(topology.Step{Table: &table})
	on(topology.Step{Neigh: &topology.Neigh{Link: "eth0", IP: addr("198.18.1.9"), Proxy: true}})
	on(topology.Step{Neigh: &topology.Neigh{Link: blue.Bridge, IP: addr("172.17.0.9"), MAC: mac4}})
	on(topology.Step{Route: &topology.Route{Dst: pfx("10.0.0.0/8"), Via: addr("198.18.0.2"), MTU: 1400}})

	c := p.Machine("h1").Containers[0]
	a := topology.Attachment{Container: c, Host: "h1", Steps: []topology.Step{
		{On: "h1", Space: &topology.Space{Name: c.Name, Defaults: true}},
		{On: "h1", Link: &topology.Link{Name: c.Device, Kind: "veth", Master: blue.Bridge, Up: true, PeerName: "eth0", PeerIn: c.Name, PeerMAC: c.MAC, PeerMTU: 1500}},
		{On: "h1", Set: &topology.LinkSet{Name: c.Device, Hairpin: "on", Isolated: "on"}},
		{On: "h1", Neigh: &topology.Neigh{Link: c.Device, MAC: mac5, FDB: true}},
		{On: "h1", Offload: &topology.Offload{Link: c.Device, Feature: "tso"}},
		{On: "h1", In: c.Name, Set: &topology.LinkSet{Name: "eth0", State: "up"}},
		{On: "h1", In: c.Name, Addr: &topology.Addr{Link: "eth0", Prefix: c.Private4}},
		{On: "h1", In: c.Name, Addr: &topology.Addr{Link: "eth0", Prefix: c.Private6, NoDAD: true}},
		{On: "h1", In: c.Name, Route: &topology.Route{Dst: pfx("0.0.0.0/0"), Via: blue.Gateway4}},
		{On: "h1", In: c.Name, Route: &topology.Route{Dst: pfx("::/0"), Via: blue.Gateway6, Link: "eth0"}},
	}}
	shared, err := p.Container("h1", "blue", 9)
	if err != nil {
		t.Fatal(err)
	}
	w.Attached = append(w.Attached, a, topology.Attachment{Container: shared, Host: "h1", Steps: []topology.Step{
		{On: "h1", Space: &topology.Space{Name: shared.Name, Share: c.Name}},
		{On: "h1", In: shared.Name, Set: &topology.LinkSet{Name: "lo", State: "up"}},
	}})
	moved := p.Machine("h2").Containers[0]
	moved.Name = "c8"
	w.Attached = append(w.Attached, topology.Attachment{Container: moved, Host: "h1", Steps: []topology.Step{
		{On: "h1", Space: &topology.Space{Name: moved.Name}},
		{On: "h1", In: moved.Name, Link: &topology.Link{Name: "eth0", Kind: "macvlan", MAC: moved.MAC, Parent: "eth0", ParentMode: "bridge", Up: true}},
		{On: "h1", In: moved.Name, Addr: &topology.Addr{Link: "eth0", Prefix: moved.Segment4}},
	}})
	return w
}

// A namespace that begins with settings is all of its lines where it stands by itself, and not where it is another's or goes away.
func TestSpaceBegins(t *testing.T) {
	s := topology.Step{On: "h1", Space: &topology.Space{Name: "c1", Defaults: true}}
	want := []string{"ip netns add h1-c1 && ip -n h1-c1 link set dev lo up"}
	for _, d := range topology.Defaults("h1", "c1") {
		want = append(want, d.String())
	}
	if got := s.String(); got != strings.Join(want, "\n") {
		t.Errorf("%s\nwant\n%s", got, strings.Join(want, "\n"))
	}
	s.Remove = true
	if got := s.String(); got != "ip netns del h1-c1" {
		t.Errorf("removed: %s", got)
	}
	s.Remove, s.Space.Share = false, "host"
	if got := s.String(); strings.Contains(got, "sysctl") {
		t.Errorf("shared: %s", got)
	}
}

func TestWiringString(t *testing.T) {
	p := plan(t, "topologies/rated.yaml")
	golden(t, "testdata/sample.wiring.txt", sample(t, p).String())
	var b strings.Builder
	for _, s := range topology.Underlay(p) {
		fmt.Fprintln(&b, s)
	}
	golden(t, "testdata/rated.underlay.txt", b.String())
}

// scratch runs a shell script in namespaces of its own, with nothing of the machine's below /run.
func scratch(t *testing.T, script string, tools ...string) {
	t.Helper()
	for _, tool := range append(tools, "unshare", "mount", "sh") {
		if _, err := exec.LookPath(tool); err != nil {
			unable(t, "%v", err)
		}
	}
	flags := []string{"-n", "-m"}
	if os.Getuid() != 0 {
		flags = append(flags, "-U", "-r")
	}
	unshare := func(script string) *exec.Cmd {
		cmd := exec.Command("unshare", append(flags, "sh", "-e")...)
		cmd.Stdin = strings.NewReader(script)
		return cmd
	}
	const begin = "mount -t tmpfs tmpfs /run\n"
	if out, err := unshare(begin).CombinedOutput(); err != nil {
		unable(t, "no namespaces here: %v: %s", err, out)
	}
	var out bytes.Buffer
	cmd := unshare(begin + script)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v:\n%s", err, out.String())
	}
}

// unable skips a test for which this machine lacks something. In strict mode, where nothing may be lacking, that fails.
func unable(t *testing.T, format string, args ...any) {
	t.Helper()
	if os.Getenv("MODEBENCH_STRICT") != "" {
		t.Fatalf("unable: "+format, args...)
	}
	t.Skipf("unable: "+format, args...)
}

// The text of a table is one that nft takes.
func TestTableIsNFT(t *testing.T) {
	scratch(t, "nft -c -f - <<'END'\n"+tableText+"END\n", "nft")
}

// The text of a speaker is one that FRR's shell takes. It is asked where it is installed.
func TestSpeakerIsFRR(t *testing.T) {
	if _, err := exec.LookPath("vtysh"); err != nil {
		unable(t, "%v", err)
	}
	speakers := 0
	for _, s := range topology.Underlay(planOn(t, topology.Routed, "topologies/rated.yaml")) {
		if s.BGP == nil {
			continue
		}
		speakers++
		_, lines, _ := strings.Cut(s.String(), "configure terminal\n") // a file is read as if after that
		scratch(t, "cat > /run/speaker <<'END'\n"+lines+"\nvtysh --dryrun -f /run/speaker\n", "vtysh")
	}
	if speakers != 1 {
		t.Errorf("%d speakers, want the tor's", speakers)
	}
}

// The printed lines are not only to be read: run by a shell, they make a lab whose machines answer one another, and
// printed with Remove they take it down again.
func TestScriptMakesLab(t *testing.T) {
	p := plan(t, "topologies/rated.yaml")
	var b strings.Builder
	line := func(s fmt.Stringer) { fmt.Fprintln(&b, s) }
	for _, m := range p.Machines {
		fmt.Fprintf(&b, "ip netns add %s && ip -n %s link set dev lo up\n", m.Name, m.Name)
	}
	for _, m := range p.Machines {
		for _, nic := range m.NICs {
			if m.Role == topology.RoleTor {
				peer := p.Machine(nic.Peer.Machine).NIC(nic.Peer.Interface)
				made := topology.Step{On: m.Name, Link: &topology.Link{Name: nic.Name, Kind: "veth", MAC: nic.MAC, MTU: nic.MTU, PeerName: "end", PeerMAC: peer.MAC, PeerMTU: peer.MTU}}
				line(made)
				fmt.Fprintf(&b, "ip -n %s link set dev end netns %s name %s\n", m.Name, nic.Peer.Machine, peer.Name)
			}
		}
	}
	for _, s := range topology.Underlay(p) {
		line(s)
	}
	w := sample(t, p)
	line(w)
	for _, target := range []string{"198.18.0.254", "2001:db8:18::fe"} {
		fmt.Fprintf(&b, "ip netns exec h2 ping -q -n -c 1 -W 5 %s\n", target)
	}
	for _, target := range []string{"172.17.0.2", "fd17::2"} {
		fmt.Fprintf(&b, "ip netns exec h1 ping -q -n -c 1 -W 5 %s\n", target)
	}
	steps := w.Setup
	for _, a := range w.Attached {
		steps = append(steps, a.Steps...)
	}
	for i := range steps {
		s := steps[len(steps)-1-i]
		s.Remove = true
		if s.Set == nil && s.Sysctl == nil && s.Offload == nil {
			line(s)
		}
	}
	b.WriteString("test -z \"$(ip -n h1 neigh show proxy)$(ip netns exec h1 nft list tables)\"\n")
	scratch(t, b.String(), "ip", "bridge", "nft", "tc", "ethtool", "sysctl", "ping")
}
