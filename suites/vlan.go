package suites

import (
	"context"
	"fmt"
	"slices"

	"github.com/modebench/modebench/reports"
	"github.com/modebench/modebench/topology"
	"github.com/modebench/modebench/topology/lab"
)

const dot1q = 0x8100 // TPID of a customer VLAN tag (IEEE 802.1Q section 9.4)

var _ = register(Spec{
	Suite: "packets",
	Feature: Feature{
		Name: "tagged", Group: "packets",
		Doc: "Are a container's frames on the host's cable tagged with its network's VLAN (802.1Q), and without a tag where they arrive?",
	},
	Name: "a container asks an external machine, and the tags of its frames are read where they enter the switch and where they arrive",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		if o := numberless(b); o != nil {
			return *o, nil
		}
		c, x := container(b), external(b)
		nic, vlan := uplink(b), uplink(b).VLAN
		port := nic.Peer
		if nic.Trunk != "" {
			port = b.plan.Machine(c.Machine).NIC(nic.Trunk).Peer
		}
		o := Observation{Status: reports.Works}
		var wrong []string
		tags := 0
		for _, f := range b.families() {
			_, t, err := reach(ctx, b, c, x, f)
			if err != nil {
				return Observation{}, err
			}
			for _, proto := range protos {
				sent := t.find(func(p lab.Packet) bool {
					return p.Token == t.tokens[proto] && !p.Outgoing && p.Machine == port.Machine && p.Device == port.Interface
				})
				got := t.find(func(p lab.Packet) bool { return p.Token == t.tokens[proto] && !p.Outgoing && p.Machine == x.Machine })
				if sent == nil || got == nil {
					lost := t.observation()
					lost.Status, lost.Detail = "mixed", fmt.Sprintf("the message by %s was not seen at both ends: %s", proto, lost.Detail)
					return lost, nil
				}
				o.Evidence = append(o.Evidence, seen(*sent), seen(*got))
				switch tag := sent.Tag; {
				case got.Tag != nil:
					wrong = append(wrong, fmt.Sprintf("%s has a tag at %s", got.Text, at(*got)))
				case tag == nil:
				case tag.Type != dot1q || sent.VLAN != vlan || vlan == 0 || tag.Priority != 0 || tag.DropEligible:
					tags++
					wrong = append(wrong, fmt.Sprintf("tag of type %#04x, VLAN %d, priority %d, drop eligible %t, where the network's VLAN is %d",
						tag.Type, sent.VLAN, tag.Priority, tag.DropEligible, vlan))
				default:
					tags++
				}
			}
		}
		all := len(b.families()) * len(protos)
		o.Detail = fmt.Sprintf("%s asked %s by ICMP, UDP and TCP over %s: %d of %d frames had a tag at %s:%s", c, x, b.span(), tags, all, port.Machine, port.Interface)
		switch {
		case len(wrong) > 0:
			o.Status, o.Detail = "mixed", o.Detail+"; "+wrong[0]
		case tags == 0:
			o.Status = reports.Blocked
		case tags < all:
			o.Status = "mixed"
		default:
			o.Detail += fmt.Sprintf(", of type %#04x, VLAN %d, priority 0, not drop eligible", dot1q, vlan)
		}
		return o, nil
	},
	Sabotage: []Sabotage{
		{Mode: "vlan-macvlan", Doc: "the switch takes and gives the network's frames without a tag", Steps: untagged},
		{Mode: "vlan-ipvlan", Doc: "the external machine's port sends tags", Steps: func(p *topology.Plan) []topology.Step {
			port := p.Externals()[0].NICs[0].Peer
			return []topology.Step{{On: port.Machine, VLAN: &topology.VLAN{Link: port.Interface, VID: p.Machine(port.Machine).NIC(port.Interface).VLAN}}}
		}},
		{Mode: "macvlan-bridge", Doc: "the first host's port is out of the switch", Steps: unplugged},
	},
})

// untagged makes the first host's port of the switch an access port of the first network's VLAN: the host's tags are still
// taken, but what is for it comes without one, and so never reaches the 802.1Q device.
func untagged(p *topology.Plan) []topology.Step {
	h := p.Hosts()[0]
	port := h.NICs[0].Peer
	return []topology.Step{{On: port.Machine, VLAN: &topology.VLAN{Link: port.Interface, VID: h.NIC(p.Networks[0].NIC).VLAN, Untagged: true}}}
}

var _ = register(Spec{
	Suite: "lifecycle",
	Feature: Feature{
		Name: "vlan-ids", Group: "lifecycle",
		Doc: "Does the host's cable take 802.1Q devices of the VLANs 0 to 4094, each once, and no other?",
	},
	Name: "802.1Q devices of VLANs at the ends of the range, beyond it, and of a network that has one are tried on the host's cable",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		host, nic := firstHost(b), uplink(b)
		if nic.Trunk == "" {
			return notApplicable("the host's networks are not VLANs of its own"), nil
		}
		s, err := b.State(ctx, host)
		if err != nil {
			return Observation{}, err
		}
		i := slices.IndexFunc(s.Spaces[""].Links, func(l lab.Link) bool { return l.Name == nic.Name && l.Kind == "vlan" })
		if i < 0 {
			return Observation{}, fmt.Errorf("%s: %s is no 802.1Q device", host, nic.Name)
		}
		var o Observation
		var wrong []string
		for _, try := range []struct {
			vid  int
			want string // errno
		}{{0, ""}, {1, ""}, {4094, ""}, {4095, "ERANGE"}, {nic.VLAN, "EEXIST"}} {
			step := topology.Step{On: host, Link: &topology.Link{Name: besides, Kind: "vlan", Parent: nic.Trunk, VID: try.vid}}
			refusal, err := b.Attempt(ctx, step)
			if err != nil {
				return Observation{}, err
			}
			o.Reproduce = append(o.Reproduce, step.String())
			o = o.with(host, "VLAN %d on %s: refused %q", try.vid, nic.Trunk, refusal.Errno)
			if refusal.Errno != try.want {
				wrong = append(wrong, fmt.Sprintf("VLAN %d: refused %q, not %q", try.vid, refusal.Errno, try.want))
			}
		}
		after, err := b.State(ctx, host)
		if err != nil {
			return Observation{}, err
		}
		came, went := changes(s, after)
		if diff := append(came, went...); len(diff) > 0 {
			wrong = append(wrong, "the host is not as before")
			o = o.differences(host, diff)
		}
		o.Status = whether(len(wrong) == 0, "").Status
		o.Detail = fmt.Sprintf("%s of %s, which has %s: VLANs 0, 1 and 4094 were to be taken, 4095 and a second %d refused; not so: %s", nic.Trunk, host, nic.Name, nic.VLAN, orNone(wrong))
		return o, nil
	},
	Sabotage: []Sabotage{
		{Mode: "vlan-macvlan", Doc: "VLAN 4094 is there already", Steps: func(p *topology.Plan) []topology.Step {
			h := p.Hosts()[0]
			return []topology.Step{{On: h.Name, Link: &topology.Link{Name: "eth0.4094", Kind: "vlan", Parent: h.NICs[0].Name, VID: 4094}}}
		}},
	},
})
