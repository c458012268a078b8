package dhcp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/modebench/modebench/topology"
	"github.com/modebench/modebench/topology/lab"
	"github.com/modebench/modebench/topology/space"
)

// within is how long a client tries, if its step says nothing else. It tries thrice, and waits twice as long each time.
const within = 1500 * time.Millisecond

const tries = 3

// informed is how long a server is asked for parameters, likewise: that there is one is what somebody else's silence is held against,
// and a guest beside much other work has needed seconds.
const informed = 10 * within

// first is how long the first of the tries is waited for.
func first(within time.Duration) time.Duration { return within / (1<<tries - 1) }

// client is a device's lease. It does nothing by itself but renewing.
type client struct {
	topology.DHCP
	in *space.Space
	by asking
	terms
}

// terms are what a lease is for.
type terms struct {
	prefix         netip.Prefix
	since          time.Time
	lasts, renewal time.Duration // renewal: after which it is to be renewed
}

// asking is how a client speaks to servers.
type asking interface {
	ready() error                          // waits until the device can ask
	obtain(context.Context) (terms, error) // gets a lease
	taken() error                          // makes sure of the address, which the device has now, and tells others of it
	renew(context.Context) (terms, error)  // of the lease
	release() error                        // takes the address from the device and gives the lease back
}

// Lease has a device in a container get an address, and returns when it has it. The address is kept by renewing it until the undo gives
// it back. Where no server gives one in time, nothing is left.
func (s *Service) Lease(container string, c topology.DHCP) (undo func() error, err error) {
	fail := func(err error) (func() error, error) {
		return nil, fmt.Errorf("%s/%s: DHCP on %s: %w", s.machine, container, c.Link, err)
	}
	in, err := s.find(container)
	if err != nil {
		return fail(err)
	}
	d := &client{DHCP: c, in: in}
	if d.by = asking(&client4{client: d}); c.Six {
		d.by = &client6{client: d}
	}
	if d.Within == 0 {
		d.Within = within
	}
	if err := d.by.ready(); err != nil {
		return fail(err)
	}
	ctx, cancel := context.WithTimeout(s.ctx, d.Within)
	defer cancel()
	if d.terms, err = d.by.obtain(ctx); err != nil {
		return fail(fmt.Errorf("no lease within %s: %w", d.Within, err))
	}
	if err := d.number(netlink.AddrReplace); err != nil {
		return fail(errors.Join(err, d.number(netlink.AddrDel)))
	}
	if err := d.by.taken(); err != nil {
		return fail(errors.Join(err, d.by.release()))
	}
	renewing, stop := context.WithCancel(s.ctx)
	over := make(chan struct{})
	s.clients.Go(func() {
		defer close(over)
		d.keep(renewing)
	})
	return func() error {
		stop()
		<-over
		return d.by.release()
	}, nil
}

// number gives the device the address, or takes it away. It lasts as long as the lease, whoever forgets it.
func (d *client) number(change func(netlink.Link, *netlink.Addr) error) error {
	lasts := int(d.lasts.Seconds())
	a := &netlink.Addr{
		IPNet:    &net.IPNet{IP: d.prefix.Addr().AsSlice(), Mask: net.CIDRMask(d.prefix.Bits(), d.prefix.Addr().BitLen())},
		ValidLft: lasts, PreferedLft: lasts,
	}
	return d.in.Do(func() error {
		l, err := netlink.LinkByName(d.Link)
		if err != nil {
			return fmt.Errorf("%w: %w", err, unix.ENODEV)
		}
		return change(l, a)
	})
}

// mac is the device's.
func (d *client) mac() (mac net.HardwareAddr, err error) {
	err = d.in.Do(func() error {
		dev, err := net.InterfaceByName(d.Link)
		if err == nil {
			mac = dev.HardwareAddr
		}
		return err
	})
	return mac, err
}

// keep renews the lease at T1, and again in half of what is left where that fails, until it has run out (RFC 2131 section 4.4.5).
// The address is then gone by itself.
func (d *client) keep(ctx context.Context) {
	for {
		wait := time.Until(d.since.Add(d.renewal))
		for until := d.since.Add(d.lasts); ; wait = time.Until(until) / 2 {
			if time.Now().After(until) {
				return
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(max(wait, time.Millisecond)):
			}
			if d.renewed(ctx) == nil {
				break
			}
		}
	}
}

func (d *client) renewed(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, d.Within)
	defer cancel()
	got, err := d.by.renew(ctx)
	if err != nil {
		return err
	}
	d.terms = got
	return d.number(netlink.AddrReplace)
}

// client4 asks by RFC 2131.
type client4 struct {
	*client
	lease *nclient4.Lease
}

func (d *client4) ready() error { return nil }

func (d *client4) obtain(ctx context.Context) (terms, error) {
	err := d.ask(nil, func(q *nclient4.Client) (err error) {
		d.lease, err = q.Request(ctx, dhcpv4.WithBroadcast(d.Broadcast), d.identity())
		return err
	})
	if err != nil {
		return terms{}, err
	}
	return d.leased(), nil
}

// leased are the terms of the lease.
func (d *client4) leased() terms {
	ack := d.lease.ACK
	bits, _ := ack.SubnetMask().Size()
	lasts := ack.IPAddressLeaseTime(0)
	return terms{prefix: netip.PrefixFrom(addr(ack.YourIPAddr), bits), since: d.lease.CreationTime, lasts: lasts, renewal: ack.IPAddressRenewalTime(lasts / 2)}
}

// identity is the option by which the client is known to servers.
func (d *client4) identity() dhcpv4.Modifier {
	return dhcpv4.WithOption(dhcpv4.OptClientIdentifier(identifier(d.ClientID)))
}

// ask opens a socket in the device's namespace for a question: as one without an address, or, from its own, to a server.
func (d *client4) ask(server net.IP, question func(*nclient4.Client) error) error {
	opts := []nclient4.ClientOpt{nclient4.WithRetry(tries), nclient4.WithTimeout(first(d.Within))}
	var q *nclient4.Client
	err := d.in.Do(func() (err error) {
		if server != nil {
			own := &net.UDPAddr{IP: d.lease.ACK.YourIPAddr, Port: dhcpv4.ClientPort}
			opts = append(opts, nclient4.WithUnicast(own), nclient4.WithServerAddr(&net.UDPAddr{IP: server, Port: dhcpv4.ServerPort}))
		}
		q, err = nclient4.New(d.Link, opts...)
		return err
	})
	if err != nil {
		return err
	}
	return errors.Join(question(q), q.Close())
}

// taken tells others of the new holder of the address, whoever had it before (RFC 2131 section 4.4.1, RFC 5227 section 3): a
// kernel announces what a device has when it comes up only.
func (d *client4) taken() error {
	mac, err := d.mac()
	if err != nil {
		return err
	}
	a := d.prefix.Addr()
	return transmit(d.in, d.Link, lab.Packet{ARP: &lab.ARP{Op: 1, SenderMAC: mac, SenderIP: a, TargetIP: a}})
}

func (d *client4) renew(ctx context.Context) (terms, error) {
	err := d.ask(d.lease.ACK.ServerIdentifier(), func(q *nclient4.Client) error {
		renewed, err := q.Renew(ctx, d.lease, d.identity())
		if err == nil {
			d.lease = renewed
		}
		return err
	})
	if err != nil {
		return terms{}, err
	}
	return d.leased(), nil
}

// release gives the address back. Who cannot say so is forgotten when the lease is over. It waits until the message has left: that is when the
// server's link-layer address is known, and the device may be gone the moment after.
func (d *client4) release() error {
	server := d.lease.ACK.ServerIdentifier()
	_ = d.ask(server, func(q *nclient4.Client) error {
		if err := q.Release(d.lease, d.identity()); err != nil {
			return err
		}
		over := time.NewTimer(d.Within)
		defer over.Stop()
		for pace := time.NewTicker(time.Millisecond); ; {
			if known, err := d.resolved(addr(server)); err != nil || known {
				return err
			}
			select {
			case <-over.C:
				return nil // nobody is there to hear it
			case <-pace.C:
			}
		}
	})
	return d.number(netlink.AddrDel)
}

// resolved tells whether the device knows a neighbour's link-layer address.
func (d *client4) resolved(a netip.Addr) (yes bool, err error) {
	err = d.in.Do(func() error {
		l, err := netlink.LinkByName(d.Link)
		if err != nil {
			return err
		}
		neighs, err := netlink.NeighList(l.Attrs().Index, netlink.FAMILY_V4)
		for _, n := range neighs {
			yes = yes || n.IP.Equal(a.AsSlice()) && n.State&(netlink.NUD_REACHABLE|netlink.NUD_STALE|netlink.NUD_DELAY|netlink.NUD_PROBE|netlink.NUD_PERMANENT) != 0
		}
		return err
	})
	return yes, err
}

// Inform is the verb DHCP.Inform.
func (s *Service) Inform(a lab.Inform, reply *time.Duration) error {
	in, err := s.find(a.In)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(s.ctx, informed)
	defer cancel()
	if a.Server.Is6() {
		*reply, err = inform6(ctx, in, a.Device)
		return err
	}
	var q *nclient4.Client
	if err := in.Do(func() (err error) {
		q, err = nclient4.New(a.Device, nclient4.WithRetry(tries), nclient4.WithTimeout(first(informed)), nclient4.WithUnicast(&net.UDPAddr{IP: a.From.AsSlice(), Port: dhcpv4.ClientPort}),
			nclient4.WithServerAddr(&net.UDPAddr{IP: a.Server.AsSlice(), Port: dhcpv4.ServerPort}))
		return err
	}); err != nil {
		return err
	}
	asked := time.Now()
	_, err = q.Inform(ctx, a.From.AsSlice())
	*reply = time.Since(asked)
	return errors.Join(err, q.Close())
}
