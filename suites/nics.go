package suites

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/modebench/modebench/reports"
	"github.com/modebench/modebench/topology"
	"github.com/modebench/modebench/topology/lab"
)

// entries are how many unicast addresses besides its own a NIC filters, by its driver. Given more, it lets every unicast
// frame in, and its driver does not say so.
var entries = map[string]int{
	"virtio_net": 64, // QEMU hw/net/virtio-net.c, MAC_TABLE_ENTRIES and virtio_net_handle_mac()
	"e1000e":     14, // Linux drivers/net/ethernet/intel/e1000e, E1000_RAR_ENTRIES and e1000e_write_uc_addr_list()
	"uml-vector": 0,  // Linux arch/um/drivers/vector_kern.c: it asks for no IFF_UNICAST_FLT, so net/core/dev.c makes it promiscuous
}

// nobody is a MAC address that no device of a lab has.
var nobody = net.HardwareAddr{0x02, 0x5e, 0x10, 0, 0, 5}

var _ = register(Spec{
	Suite: "lifecycle",
	Feature: Feature{
		Name: "nic-filters", Group: "operations",
		Doc: "Does a host's NIC still keep out frames for other stations when the host has more containers than the NIC has entries for unicast addresses?",
	},
	Name:     "containers are attached until there are as many as the NIC's filter has entries, one more, and that one is detached; each time the switch sends the host a frame for nobody, and every container asks an external machine",
	Machines: true,
	Run:      nicFilters,
	Sabotage: []Sabotage{
		{Mode: "bridge", Doc: "the host's interface is promiscuous", Steps: func(p *topology.Plan) []topology.Step {
			h := p.Hosts()[0]
			return []topology.Step{{On: h.Name, Set: &topology.LinkSet{Name: h.NICs[0].Name, Promisc: "on"}}}
		}},
		{Mode: "ipvlan-l2", Doc: "the devices are macvlan devices", Rewire: kindOf("macvlan", "bridge")},
	},
})

func nicFilters(ctx context.Context, b *Bench) (Observation, error) {
	if o := deviceless(b); o != nil {
		return *o, nil
	}
	host := b.plan.Machine(firstHost(b))
	nic := cable(host, uplink(b))
	link, err := linkOf(ctx, b, Place{Machine: host.Name}, nic.Name)
	if err != nil {
		return Observation{}, err
	}
	size, known := entries[link.Driver]
	switch {
	case link.Driver == "":
		return notApplicable("%s of %s is no NIC but a device of kind %s, which has no filter for unicast addresses", nic.Name, host.Name, link.Kind), nil
	case !known:
		return Observation{}, fmt.Errorf("%s of %s: nothing is known of the filter of NICs that %s drives", nic.Name, host.Name, link.Driver)
	case size == 0:
		return notApplicable("%s of %s, driven by %s, has no filter for unicast addresses", nic.Name, host.Name, link.Driver), nil
	case b.mode.Limit > 0 && b.mode.Limit <= size:
		return notApplicable("the mode attaches no more than %d containers of a network to a host, and the filter has %d entries", b.mode.Limit, size), nil
	}
	o := Observation{Status: reports.Works}
	var said, wrong []string
	var last Place
	for _, stage := range []struct {
		name   string
		change func() error
	}{
		{"as many as entries", func() error { return fill(ctx, b, host.Name, size) }},
		{"one more", func() error {
			c, err := another(b, host.Name, network(b), size)
			if err != nil {
				return err
			}
			last, err = b.Attach(ctx, c, host.Name)
			return err
		}},
		{"as many as entries again", func() error { return b.Detach(ctx, last) }},
	} {
		if err := stage.change(); err != nil {
			return Observation{}, err
		}
		places := b.Containers(host.Name, network(b))
		cut, err := cutOff(ctx, b, places)
		if err != nil {
			return Observation{}, err
		}
		s, err := b.State(ctx, host.Name)
		if err != nil {
			return Observation{}, err
		}
		given := 0
		for _, e := range s.Spaces[""].FDB {
			if e.Link == nic.Name && e.Self && e.MAC[0]&1 == 0 {
				given++
			}
		}
		came, err := letIn(ctx, b, host, nic, Place{Machine: nic.Peer.Machine}, nic.Peer.Interface)
		if err != nil {
			return Observation{}, err
		}
		o.Evidence = append(o.Evidence, came...)
		let := len(came) > 1
		said = append(said, fmt.Sprintf("with %d containers (%s), whose interface was given %d addresses, it let a frame for %s in: %t", len(places), stage.name, given, nobody, let))
		if len(cut) > 0 {
			wrong = append(wrong, fmt.Sprintf("with %d containers %s got no answer", len(places), strings.Join(cut, ", ")))
		}
		if let != (given > size) {
			wrong = append(wrong, fmt.Sprintf("of %d entries %d were in use, and a frame for nobody was let in: %t", size, given, let))
		}
		if let {
			o.Status = reports.Blocked
		}
	}
	o.Detail = fmt.Sprintf("%s of %s, driven by %s, filters %d addresses besides its own: %s", nic.Name, host.Name, link.Driver, size, strings.Join(said, "; "))
	if len(wrong) > 0 {
		o.Status = "mixed"
		o.Detail += "; not as it should be: " + strings.Join(wrong, "; ")
	}
	return o.value("entries", float64(size)), nil
}

// fill attaches containers of the first network to a host until it has so many.
func fill(ctx context.Context, b *Bench, host string, want int) error {
	var more []topology.Container
	for have := len(b.Containers(host, network(b))); have < want; have++ {
		c, err := another(b, host, network(b), have)
		if err != nil {
			return err
		}
		more = append(more, c)
	}
	_, _, err := crowd(ctx, b, host, more)
	return err
}

// hearsBack tells whether an external machine's answers reach a place, now or before long.
func hearsBack(ctx context.Context, b *Bench, at Place) (bool, error) {
	to := netip.AddrPortFrom(addrOf(b, external(b), b.families()[0]), controlPort)
	return eventually(ctx, patience, func() (bool, error) {
		a, err := b.Ask(ctx, at, lab.Ask{Proto: "udp", To: to, Wait: slow})
		return a.Answered, err
	})
}

// cutOff are those of some places that get no answer from an external machine.
func cutOff(ctx context.Context, b *Bench, places []Place) (cut []string, err error) {
	missing := make([]bool, len(places))
	var asking errgroup.Group
	asking.SetLimit(8)
	for i, p := range places {
		asking.Go(func() error {
			ok, err := hearsBack(ctx, b, p)
			missing[i] = !ok
			return err
		})
	}
	err = asking.Wait()
	for i, p := range places {
		if missing[i] {
			cut = append(cut, p.String())
		}
	}
	return cut, err
}

// discarded is a frame for a MAC address that carries a datagram for nobody (RFC 5737, and discard).
func discarded(to net.HardwareAddr, token string) lab.Packet {
	return lab.Packet{EthDst: to, Proto: "udp", Token: token, Src: netip.MustParseAddrPort("192.0.2.1:9"), Dst: netip.MustParseAddrPort("192.0.2.2:9")}
}

// letIn has a frame for nobody put on a host's cable, which a device sends to all, and after it one for the host, which arrives.
// What it returns is that one, and the one for nobody where that was let in, too.
func letIn(ctx context.Context, b *Bench, host *topology.Machine, nic *topology.Interface, from Place, device string) (came []reports.Evidence, err error) {
	recorded, err := b.Record(ctx)
	if err != nil {
		return nil, err
	}
	tokens := map[string]bool{}
	for _, to := range []net.HardwareAddr{nobody, nic.MAC} {
		token := b.newToken()
		tokens[token] = true
		if err := b.Send(ctx, from, device, discarded(to, token)); err != nil {
			return nil, err
		}
	}
	arrived := false
	_, err = eventually(ctx, patience, func() (bool, error) {
		packets, err := recorded(ctx, func(p lab.Packet) bool {
			return tokens[p.Token] && p.Machine == host.Name && p.In == "" && p.Device == nic.Name && !p.Outgoing
		})
		came = nil
		for _, p := range packets {
			came = append(came, reports.Evidence{At: at(p), Saw: fmt.Sprintf("in, for %s: %s", p.EthDst, p.Text)})
			arrived = arrived || p.EthDst.String() == nic.MAC.String()
		}
		return arrived, err
	})
	if err == nil && !arrived {
		err = errors.New("control: a frame for the host did not arrive there: nothing can be concluded of the other")
	}
	return came, err
}
