package modes

import (
	"time"

	"github.com/modebench/modebench/topology"
)

// Rate is that of frames which a container may get, or send, in a second.
type Rate struct {
	Out  bool // of what it sends; else of what it gets
	Bits topology.BitRate
}

// slack is what a timer of the slowest kernels may be late (a tick of 10 ms) and half of that again, without which less than the rate is let through
// (tc-tbf(8), burst).
const slack = 15 * time.Millisecond

// rating is Mode.Rate.
type rating func(*topology.Plan, *topology.Machine, topology.Container, Rate) []topology.Step

// shaped holds devices of one namespace to a rate: what they send, or what comes in by them, which waits in a queue of its own first.
func (s *steps) shaped(in string, c topology.Container, incoming bool, rate topology.BitRate, devices ...string) {
	if !incoming {
		for _, d := range devices {
			s.in(in, topology.Step{Shape: &topology.Shape{Link: d, Rate: rate, Burst: slack}})
		}
		return
	}
	queue := "ifb-" + c.Name
	s.in(in,
		topology.Step{Link: &topology.Link{Name: queue, Kind: "ifb", Up: true}},
		topology.Step{Shape: &topology.Shape{Link: queue, Rate: rate, Burst: slack}})
	for _, d := range devices {
		s.in(in, topology.Step{Redirect: &topology.Redirect{Link: d, To: queue}})
	}
}

// ratedAt holds a container to a rate at the host's ends of its pairs, as the CNI plugin bandwidth does: by what they send, and by what comes in by
// them.
func ratedAt(devices func(*topology.Machine, topology.Container) []string) rating {
	return func(_ *topology.Plan, host *topology.Machine, c topology.Container, r Rate) []topology.Step {
		s := steps{on: host.Name}
		s.shaped("", c, r.Out, r.Bits, devices(host, c)...)
		return s.all
	}
}

// ratedWithin holds a container to a rate at its own devices, where the host has none that is the container's alone.
func ratedWithin(devices ...string) rating {
	return func(_ *topology.Plan, host *topology.Machine, c topology.Container, r Rate) []topology.Step {
		s := steps{on: host.Name}
		s.shaped(c.Name, c, !r.Out, r.Bits, devices...)
		return s.all
	}
}
