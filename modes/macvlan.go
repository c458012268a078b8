package modes

import (
	"net"

	"github.com/modebench/modebench/topology"
)

// macvlan is what the modes of the kernel's driver have in common: a device on the host's interface, in the container,
// with an address on the segment.
func macvlan(m Mode, parentMode string, mac func(topology.Container) net.HardwareAddr) Mode {
	m.Needs = append(m.Needs, MACVLAN)
	m.Attach = func(p *topology.Plan, host *topology.Machine, c topology.Container) []topology.Step {
		s := steps{on: host.Name}
		s.own(c)
		s.in(c.Name,
			topology.Step{Link: &topology.Link{
				Name: eth0, Kind: "macvlan", MAC: mac(c),
				Parent: nic(p, host, c.Network).Name, ParentMode: parentMode,
			}},
			briefDAD(),
		)
		s.start(c, eth0, c.Segment4, c.Segment6)
		return s.all
	}
	m.Policy, m.Rate = onParent(segmentAddrs), ratedWithin(eth0)
	m.Addrs = segmentAddrs
	m.Device = eth0
	if m.CNI = stationed("macvlan", parentMode, "mac"); parentMode == "passthru" {
		m.CNI = stationed("macvlan", parentMode) // as in mac
	}
	m.Docker = dockerOn("macvlan", parentMode)
	return m
}

func ownMAC(c topology.Container) net.HardwareAddr { return c.MAC }

// parentMAC leaves the MAC address to the kernel, for a device that has its parent's: another one would be given to the
// parent too.
func parentMAC(topology.Container) net.HardwareAddr { return nil }
