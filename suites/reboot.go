package suites

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/modebench/modebench/reports"
	"github.com/modebench/modebench/topology"
	"github.com/modebench/modebench/topology/lab"
)

// picked is a state without what a kernel draws anew: numbers of devices and namespaces, and on the host itself, where
// modes leave MAC addresses to it, those and what follows from them. Nor has it what no mode chooses. A link-local address
// follows from the device's MAC address, which is compared, and among devices that share one, as those of IPvlan do, from
// the order in which they were made (addrconf_ifid_eui48() of net/ipv6/addrconf.c). The group of neighbour discovery that
// an address has is joined where its detection of duplicates began before the device was found to need no ARP
// (addrconf_join_solict() there): a worker does that, which may be slower than who takes the device up.
func picked(s lab.State) lab.State {
	out := lab.State{Spaces: map[string]lab.SpaceState{}}
	for name, space := range s.Spaces {
		space.Inode = 0
		space.Links = slices.Clone(space.Links)
		for i := range space.Links {
			space.Links[i].Index, space.Links[i].Parent = 0, 0
			if name == "" {
				space.Links[i].MAC = nil
			}
		}
		space.Addrs = slices.DeleteFunc(slices.Clone(space.Addrs), func(a lab.Addr) bool { return a.LinkLocal })
		space.FDB = slices.DeleteFunc(slices.Clone(space.FDB), func(e lab.FDB) bool { return solicited(e.MAC) || name == "" && !fixed(e) })
		out.Spaces[name] = space
	}
	return out
}

// fixed tells whether an entry is of what modes choose: where a tunnel floods to, and which stations an interface takes frames
// for. Others are learned, or follow from MAC addresses that are drawn anew.
func fixed(e lab.FDB) bool {
	floods := !slices.ContainsFunc(e.MAC, func(b byte) bool { return b != 0 })
	return floods || e.Self && !e.Dst.IsValid() && e.MAC[0]&1 == 0
}

// solicited tells whether a frame's destination is that of the solicited-node groups (RFC 2464 section 7, RFC 4291 section 2.7.1).
func solicited(mac net.HardwareAddr) bool { return bytes.HasPrefix(mac, []byte{0x33, 0x33, 0xff}) }

// undrawn are the lines of a state in which a pair's end on the host is called after the container at its other end, and the MAC addresses of
// containers' devices are left out: what is drawn anew where nobody chooses it.
func undrawn(s lab.State) []string {
	var words []string
	for container, space := range s.Spaces {
		for _, l := range space.Links {
			if container == "" {
				continue
			}
			if l.MAC != nil {
				words = append(words, l.MAC.String(), "MAC")
			}
			for _, end := range s.Spaces[""].Links {
				if l.Kind == "veth" && end.Kind == "veth" && end.Index == l.Parent {
					words = append(words, end.Name, "pair-of-"+container)
				}
			}
		}
	}
	lines := describe(picked(s))
	for i, l := range lines {
		lines[i] = strings.NewReplacer(words...).Replace(l)
	}
	slices.Sort(lines)
	return lines
}

// asBefore waits until a host is as it was before, but for numbers, and gives what is not.
func asBefore(ctx context.Context, b *Bench, host string, before lab.State) (diff []string, err error) {
	_, err = eventually(ctx, patience, func() (bool, error) {
		after, err := b.State(ctx, host)
		came, went := changes(picked(before), picked(after))
		diff = append(came, went...)
		return err == nil && len(diff) == 0, err
	})
	return diff, err
}

// fallbacks are devices that the kernel's modules of tunnels put into every new namespace, down, unless they are told not to
// (fb_tunnels_only_for_init_net of Linux Documentation/admin-guide/sysctl/net.rst).
var fallbacks = []string{"tunl0", "gre0", "gretap0", "erspan0", "sit0", "ip_vti0", "ip6_vti0", "ip6tnl0", "ip6gre0"}

// outlived is what a machine has that has just been started, and should not: more than its cables, which are down, and
// its loopback.
func outlived(m *topology.Machine, s lab.State) (out []string) {
	for name, space := range s.Spaces {
		if name != "" {
			out = append(out, "container "+name)
		}
		for _, l := range space.Links {
			nic := m.NIC(l.Name)
			if slices.Contains(fallbacks, l.Name) && !l.Up {
				continue
			}
			if l.Kind != "loopback" && (nic == nil || nic.Trunk != "" || l.Up || l.Master != "") {
				out = append(out, "device "+l.Name)
			}
		}
		for _, r := range space.Routes {
			if r.Link != "lo" {
				out = append(out, "route "+r.Text)
			}
		}
		for _, e := range space.FDB {
			if fixed(e) {
				out = append(out, fmt.Sprintf("entry for %s of %s", e.MAC, e.Link))
			}
		}
		for _, r := range space.Rules {
			out = append(out, fmt.Sprintf("rule %s %s %s", r.Family, r.Table, r.Chain))
		}
	}
	return out
}

var _ = register(Spec{
	Suite: "lifecycle",
	Feature: Feature{
		Name: "host-reboot", Group: "operations",
		Doc: "When a host was restarted, which lost all that was set up on it, and the mode has set it up again, is the host as it was and does the container reach the outside from the same addresses, while other hosts' containers never noticed?",
	},
	Name: "a host is restarted, a container of another host asks an external machine meanwhile, the mode's steps are carried out again, the host is compared with before, and its container asks",
	Run: func(ctx context.Context, b *Bench) (_ Observation, err error) {
		if b.mode.Implementation != "" { // in a lab of its own: what plugins have left of earlier containers does not come back
			if b, err = newBench(ctx, b.driver, b.plan, b.mode, b.rewire); err != nil {
				return Observation{}, err
			}
			defer func() { err = errors.Join(err, b.Close()) }()
		}
		return hostReboot(ctx, b)
	},
	Sabotage: []Sabotage{
		{Mode: "bridge", Doc: "the host cannot find its neighbours anew", Before: acquainted, Steps: forgetful},
		{Mode: "macvlan-bridge", Doc: "the container's MAC address is not the mode's choice, and drawn anew", Rewire: mapLinks(func(l *topology.Link) { l.MAC = nil })},
		{Mode: "ptp", Doc: "the container's MAC address is not the mode's choice, and drawn anew", Rewire: mapLinks(func(l *topology.Link) { l.PeerMAC = nil })},
	},
})

func hostReboot(ctx context.Context, b *Bench) (Observation, error) {
	if b.mode.Addrs == nil {
		return notApplicable("the mode gives a container no address: there is no traffic"), nil
	}
	p, x := container(b), external(b)
	host, other := p.Machine, b.Containers(secondHost(b), network(b))[0]
	for _, from := range []Place{p, other} {
		if _, no, err := recovers(ctx, b, from); err != nil || len(no) > 0 {
			return Observation{}, errors.Join(err, fmt.Errorf("%s does not reach %s by %s before the restart", from, x, orNone(no)))
		}
	}
	before, err := steady(ctx, b, host)
	if err != nil {
		return Observation{}, err
	}
	restore, err := b.Reboot(ctx, host)
	if err != nil {
		return Observation{}, err
	}
	bare, err := b.State(ctx, host)
	if err != nil {
		return Observation{}, err
	}
	_, went := changes(picked(before), picked(bare))
	o := works("").differences(host, went)
	if left := outlived(b.plan.Machine(host), bare); len(left) > 0 {
		o.Status, o.Detail = "mixed", fmt.Sprintf("%s was restarted, and still has %v", host, left)
		return o, nil
	}
	_, no, err := recovers(ctx, b, other)
	if err != nil {
		return Observation{}, err
	}
	if len(no) > 0 {
		o.Status, o.Detail = "mixed", fmt.Sprintf("%s is restarted, and %s does not reach %s by %s meanwhile", host, other, x, orNone(no))
		return o, nil
	}
	o = o.with(other.String(), "reached %s while nothing was set up on %s", x, host)
	began := time.Now()
	if err := restore(ctx); declined(ctx, b, err) {
		o.Status, o.Detail = reports.Blocked, fmt.Sprintf("%s was restarted, and cannot be set up again as it was: %s", host, objection(err))
		return o, nil
	} else if err != nil {
		return Observation{}, err
	}
	_, no, err = recovers(ctx, b, p)
	if err != nil {
		return Observation{}, err
	}
	took := time.Since(began)
	diff, err := asBefore(ctx, b, host, before)
	if err != nil {
		return Observation{}, err
	}
	switch {
	case len(no) > 0:
		o.Status = reports.Blocked
		o.Detail = fmt.Sprintf("%s was restarted and set up again, and %s does not reach %s by %s within %s", host, p, x, orNone(no), patience)
		return o.with(other.String(), "control: reached %s meanwhile", x), nil
	case len(diff) > 0:
		after, err := b.State(ctx, host)
		if err != nil {
			return Observation{}, err
		}
		if slices.Equal(undrawn(before), undrawn(after)) {
			o.Status = reports.Blocked
			o.Detail = fmt.Sprintf("%s was restarted and set up again, %s reached %s, and the host has other names of devices or MAC addresses than before, and all else the same", host, p, x)
			return o.differences(host, diff), nil
		}
		o.Status, o.Detail = "mixed", fmt.Sprintf("%s was restarted and set up again, %s reached %s, and the host differs from before in %d ways", host, p, x, len(diff))
		return o.differences(host, diff), nil
	}
	o.Detail = fmt.Sprintf("%s was restarted, which took %d devices, addresses, routes, rules and settings away; %s reached %s from its addresses %.3f s after the mode began to set them up again", host, len(went), p, x, took.Seconds())
	return o.value("sec", took.Seconds()), nil
}
