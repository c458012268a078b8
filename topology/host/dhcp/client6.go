package dhcp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/dhcpv6/nclient6"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/modebench/modebench/topology/lab"
	"github.com/modebench/modebench/topology/space"
)

// client6 asks by RFC 8415. It does not wait at random before it asks: there is no crowd that begins at one moment. It never asks other servers
// than the one that it has its lease of.
type client6 struct {
	*client
	server   dhcpv6.DUID
	declined bool // the lease is to be: the address is another's
}

// detection bounds what duplicate address detection takes of a kernel: one question, and a second (RFC 4862 section 5.4), and its lock on all
// devices besides, which the removal of thousands elsewhere keeps for seconds.
const detection = 10 * time.Second

// iaid names the only lease of a client, which there is one of for each interface.
var iaid = [4]byte{0, 0, 0, 1}

// allNodes is everybody on a link (RFC 4291 section 2.7.1).
var allNodes = netip.MustParseAddr("ff02::1")

// ready waits until the device has a link-local address that it may use: questions come from that (section 13.1).
func (d *client6) ready() error {
	duplicate, err := d.detected(netip.Addr.IsLinkLocalUnicast, true)
	if err == nil && duplicate {
		err = errors.New("its link-local address is another's")
	}
	return err
}

// detected waits until detection has ended for an address of the device, and tells whether it is a duplicate. The kernel takes one away that does
// not last for ever and is one (net/ipv6/addrconf.c addrconf_dad_stop); missing says that it may not be there yet.
func (d *client6) detected(which func(netip.Addr) bool, missing bool) (duplicate bool, err error) {
	late := time.NewTimer(detection)
	defer late.Stop()
	pace := time.NewTicker(2 * time.Millisecond)
	defer pace.Stop()
	for {
		var has []netlink.Addr
		if err := d.in.Do(func() error {
			l, err := netlink.LinkByName(d.Link)
			if err != nil {
				return err
			}
			all, err := netlink.AddrList(l, netlink.FAMILY_V6)
			if errors.Is(err, netlink.ErrDumpInterrupted) { // something came or went meanwhile
				all, err = netlink.AddrList(l, netlink.FAMILY_V6)
			}
			for _, a := range all {
				if which(addr(a.IP)) {
					has = append(has, a)
				}
			}
			return err
		}); err != nil {
			return false, err
		}
		switch {
		case len(has) == 0 && !missing, len(has) > 0 && has[0].Flags&unix.IFA_F_DADFAILED != 0:
			return true, nil
		case len(has) > 0 && has[0].Flags&unix.IFA_F_TENTATIVE == 0:
			return false, nil
		}
		select {
		case <-late.C:
			return false, fmt.Errorf("no address of IPv6 that may be used within %s", detection)
		case <-pace.C:
		}
	}
}

// message is one of the client's: with an address where it is about one.
func (d *client6) message(kind dhcpv6.MessageType, about netip.Addr) (*dhcpv6.Message, error) {
	own, err := dhcpv6.DUIDFromBytes(d.DUID())
	if err != nil {
		return nil, err
	}
	m, err := dhcpv6.NewMessage(dhcpv6.WithClientID(own), dhcpv6.WithOption(dhcpv6.OptElapsedTime(0)))
	if err != nil {
		return nil, err
	}
	m.MessageType = kind
	if kind == dhcpv6.MessageTypeSolicit || kind == dhcpv6.MessageTypeRequest || kind == dhcpv6.MessageTypeRenew {
		m.AddOption(dhcpv6.OptRequestedOption(dhcpv6.OptionSolMaxRT)) // section 21.7
	}
	if d.server != nil {
		m.AddOption(dhcpv6.OptServerID(d.server))
	}
	ia := &dhcpv6.OptIANA{IaId: iaid}
	if about.IsValid() {
		ia.Options.Add(&dhcpv6.OptIAAddress{IPv6Addr: about.AsSlice()})
	}
	m.AddOption(ia)
	return m, nil
}

// ask sends a message to all servers, and gives the first answer that has an address, or else why none had.
func (d *client6) ask(ctx context.Context, kind, answer dhcpv6.MessageType, about netip.Addr) (got *dhcpv6.Message, ia *dhcpv6.OptIANA, err error) {
	m, err := d.message(kind, about)
	if err != nil {
		return nil, nil, err
	}
	var refusal error
	err = d.open(func(q *nclient6.Client) error {
		got, err = q.SendAndRead(ctx, nclient6.AllDHCPRelayAgentsAndServers, m, func(a *dhcpv6.Message) bool {
			if a.MessageType != answer {
				return false
			}
			if ia = a.Options.OneIANA(); ia != nil && ia.Options.OneAddress() != nil {
				return true
			}
			if ia != nil && ia.Options.Status() != nil {
				refusal = fmt.Errorf("the server says %s", ia.Options.Status().StatusCode)
			}
			return false // section 18.2.9
		})
		return err
	})
	return got, ia, errors.Join(err, refusal)
}

// open opens a socket on the device's link-local address for a question.
func (d *client6) open(question func(*nclient6.Client) error) error {
	return asks(d.in, d.Link, question, nclient6.WithRetry(tries), nclient6.WithTimeout(first(d.Within)))
}

// asks opens a socket on a device's link-local address for a question. The device is named by its index: package net takes one name for one
// index, whatever the namespace.
func asks(in *space.Space, device string, question func(*nclient6.Client) error, opts ...nclient6.ClientOpt) error {
	var q *nclient6.Client
	if err := in.Do(func() error {
		dev, err := net.InterfaceByName(device)
		if err != nil {
			return err
		}
		own, err := dhcpv6.GetLinkLocalAddr(device)
		if err != nil {
			return err
		}
		conn, err := net.ListenUDP("udp6", &net.UDPAddr{IP: own, Port: dhcpv6.DefaultClientPort, Zone: strconv.Itoa(dev.Index)})
		if err != nil {
			return err
		}
		q, err = nclient6.NewWithConn(conn, dev.HardwareAddr, opts...)
		return err
	}); err != nil {
		return err
	}
	return errors.Join(question(q), q.Close())
}

// granted are the terms of an answer. What is on the link is not told with an address (section 18.2.10.1).
func granted(ia *dhcpv6.OptIANA) terms {
	a := ia.Options.OneAddress()
	t := terms{prefix: netip.PrefixFrom(addr(a.IPv6Addr), 128), since: time.Now(), lasts: a.ValidLifetime, renewal: ia.T1}
	if t.renewal == 0 {
		t.renewal = t.lasts / 2
	}
	return t
}

func (d *client6) obtain(ctx context.Context) (terms, error) {
	advertise, ia, err := d.ask(ctx, dhcpv6.MessageTypeSolicit, dhcpv6.MessageTypeAdvertise, netip.Addr{})
	if err != nil {
		return terms{}, err
	}
	d.server = advertise.Options.ServerID()
	if _, ia, err = d.ask(ctx, dhcpv6.MessageTypeRequest, dhcpv6.MessageTypeReply, addr(ia.Options.OneAddress().IPv6Addr)); err != nil {
		return terms{}, err
	}
	return granted(ia), nil
}

// taken waits until nobody has said that the address is his (section 18.2.10.1), and tells others of its new holder (RFC 4861 section 7.2.6).
func (d *client6) taken() (err error) {
	a := d.prefix.Addr()
	if d.declined, err = d.detected(func(has netip.Addr) bool { return has == a }, false); err != nil {
		return err
	}
	if d.declined {
		return fmt.Errorf("%s is another's, and is declined", a)
	}
	mac, err := d.mac()
	if err != nil {
		return err
	}
	return transmit(d.in, d.Link, lab.Packet{
		EthDst: net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1}, Src: netip.AddrPortFrom(a, 0), Dst: netip.AddrPortFrom(allNodes, 0),
		NDP: &lab.NDP{Kind: "na", Target: a, LinkAddr: mac, Override: true},
	})
}

func (d *client6) renew(ctx context.Context) (terms, error) {
	_, ia, err := d.ask(ctx, dhcpv6.MessageTypeRenew, dhcpv6.MessageTypeReply, d.prefix.Addr())
	if err != nil {
		return terms{}, err
	}
	return granted(ia), nil
}

// release takes the address away first: it is not to be used once the server is told (section 18.2.7).
func (d *client6) release() error {
	kind := dhcpv6.MessageTypeRelease
	err := d.number(netlink.AddrDel)
	if d.declined {
		kind = dhcpv6.MessageTypeDecline
		if errors.Is(err, unix.EADDRNOTAVAIL) {
			err = nil // see detected
		}
	}
	_ = d.say(kind) // who cannot say so is forgotten when the lease is over
	return err
}

// say tells the server something of the lease, and waits a while until it has heard.
func (d *client6) say(kind dhcpv6.MessageType) error {
	m, err := d.message(kind, d.prefix.Addr())
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), min(d.Within, within))
	defer cancel()
	return d.open(func(q *nclient6.Client) error {
		_, err := q.SendAndRead(ctx, nclient6.AllDHCPRelayAgentsAndServers, m, nclient6.IsMessageType(dhcpv6.MessageTypeReply))
		return err
	})
}

// inform6 asks any server for parameters, and tells how long it took to answer.
func inform6(ctx context.Context, in *space.Space, device string) (took time.Duration, err error) {
	m, err := dhcpv6.NewMessage()
	if err != nil {
		return 0, err
	}
	m.MessageType = dhcpv6.MessageTypeInformationRequest
	err = asks(in, device, func(q *nclient6.Client) error {
		asked := time.Now()
		_, err := q.SendAndRead(ctx, nclient6.AllDHCPRelayAgentsAndServers, m, nclient6.IsMessageType(dhcpv6.MessageTypeReply))
		took = time.Since(asked)
		return err
	}, nclient6.WithRetry(tries), nclient6.WithTimeout(first(informed)))
	return took, err
}
