package host

import (
	"cmp"
	"net"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/modebench/modebench/topology"
)

// addPair makes both ends of a veth pair by one request. netlink.LinkAdd would ask for the master by another one, though
// the kernel takes it with the first: it brings the device up and then gives it its master, as ip-link(8) asks for it
// (rtnl_newlink_create in net/core/rtnetlink.c). Only the peer cannot be up at once: veth_open wants both ends
// (drivers/net/veth.c).
func (w *walk) addPair(in string, l topology.Link, master int) error {
	request := nl.NewNetlinkRequest(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK)
	request.Sockets = w.sockets // another one for each pair would cost more than the request that is spared
	about := nl.NewIfInfomsg(unix.AF_UNSPEC)
	about.Index = int32(w.newIndex())
	if l.Up {
		about.Flags, about.Change = unix.IFF_UP, unix.IFF_UP
	}
	kind := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	kind.AddRtAttr(nl.IFLA_INFO_KIND, []byte(l.Kind))
	peer := kind.AddRtAttr(nl.IFLA_INFO_DATA, nil).AddRtAttr(nl.VETH_INFO_PEER, nil)
	nl.NewIfInfomsgChild(peer, unix.AF_UNSPEC)
	request.AddData(about)
	for _, end := range []struct {
		add    func(attribute int, value []byte)
		in     string
		name   string
		mac    net.HardwareAddr
		mtu    int
		master int
	}{
		{func(a int, v []byte) { request.AddData(nl.NewRtAttr(a, v)) }, in, l.Name, l.MAC, l.MTU, master},
		{func(a int, v []byte) { peer.AddRtAttr(a, v) }, l.PeerIn, l.PeerName, l.PeerMAC, cmp.Or(l.PeerMTU, l.MTU), 0},
	} {
		number := func(attribute, value int) { end.add(attribute, nl.Uint32Attr(uint32(value))) }
		place, err := w.find(end.in)
		if err != nil {
			return err
		}
		number(unix.IFLA_NET_NS_FD, int(place.File().Fd()))
		end.add(unix.IFLA_IFNAME, nl.ZeroTerminated(end.name))
		if end.mac != nil {
			end.add(unix.IFLA_ADDRESS, end.mac)
		}
		if end.mtu != 0 {
			number(unix.IFLA_MTU, end.mtu)
		}
		if end.master != 0 {
			number(unix.IFLA_MASTER, end.master)
		}
		// As many queues as the kernel would use. Where it is not told, it makes one for each processor and, having waited
		// for all readers (RCU), takes the others away again (veth_init_queues in drivers/net/veth.c).
		number(unix.IFLA_NUM_TX_QUEUES, 1)
		number(unix.IFLA_NUM_RX_QUEUES, 1)
	}
	request.AddData(kind)
	_, err := request.Execute(unix.NETLINK_ROUTE, 0)
	return err
}
