package capture

import (
	"fmt"
	"io"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/google/gopacket/pcapgo"

	"github.com/modebench/modebench/topology/lab"
)

// WritePcapng writes packets as one pcapng section (draft-ietf-opsawg-pcapng), with an interface for each device they
// were recorded at, such as h1/c1:eth0 or h1:eth0. Without packets there is nothing to write and it writes nothing.
func WritePcapng(w io.Writer, packets []lab.Packet) error {
	type place struct {
		machine, in, device string
		ethernet            bool
	}
	ids := map[place]int{}
	var out *pcapgo.NgWriter
	for _, p := range packets {
		at := place{p.Machine, p.In, p.Device, p.EthSrc != nil}
		id, known := ids[at]
		if !known {
			intf := pcapgo.DefaultNgInterface
			intf.Name = at.machine + ":" + at.device
			if at.in != "" {
				intf.Name = at.machine + "/" + at.in + ":" + at.device
			}
			intf.LinkType, intf.SnapLength = layers.LinkTypeEthernet, kept
			if !at.ethernet {
				intf.LinkType = layers.LinkTypeRaw
			}
			var err error
			if out == nil {
				options := pcapgo.DefaultNgWriterOptions
				options.SectionInfo.Application = "modebench"
				out, err = pcapgo.NewNgWriterInterface(w, intf, options)
			} else {
				id, err = out.AddInterface(intf)
			}
			if err != nil {
				return fmt.Errorf("pcapng: interface %s: %w", intf.Name, err)
			}
			ids[at] = id
		}
		ci := gopacket.CaptureInfo{
			Timestamp: p.When, CaptureLength: len(p.Frame), Length: max(p.Length, len(p.Frame)), InterfaceIndex: id,
		}
		if err := out.WritePacket(ci, p.Frame); err != nil {
			return fmt.Errorf("pcapng: packet %d: %w", p.Seq, err)
		}
	}
	if out == nil {
		return nil
	}
	if err := out.Flush(); err != nil {
		return fmt.Errorf("pcapng: %w", err)
	}
	return nil
}
