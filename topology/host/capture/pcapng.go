package capture

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/google/gopacket/pcapgo"

	"github.com/modebench/modebench/topology/lab"
	"github.com/modebench/modebench/topology/space"
)

// WritePcapng writes packets as one pcapng section (draft-ietf-opsawg-pcapng), with an interface for each device they
// were recorded at, such as h1/c1:eth0 or h1:eth0. Without packets there is nothing to write and it writes nothing.
func WritePcapng(w io.Writer, packets []lab.Packet) error {
	f := file{w: w, ids: map[device]int{}}
	for _, p := range packets {
		if err := f.add(p); err != nil {
			return err
		}
	}
	return f.flush()
}

// file is a pcapng section being written: it begins with its first device.
type file struct {
	w   io.Writer
	ids map[device]int
	out *pcapgo.NgWriter
}

// device is one as an interface of a section.
type device struct {
	machine, in, name string
	ethernet          bool
}

// id is the number of a device in the section, which it is put into where it is not there yet.
func (f *file) id(d device) (id int, err error) {
	if id, known := f.ids[d]; known {
		return id, nil
	}
	intf := pcapgo.DefaultNgInterface
	intf.Name = d.machine + ":" + d.name
	if d.in != "" {
		intf.Name = d.machine + "/" + d.in + ":" + d.name
	}
	intf.LinkType, intf.SnapLength = layers.LinkTypeEthernet, kept
	if !d.ethernet {
		intf.LinkType = layers.LinkTypeRaw
	}
	if f.out == nil {
		options := pcapgo.DefaultNgWriterOptions
		options.SectionInfo.Application = "modebench"
		f.out, err = pcapgo.NewNgWriterInterface(f.w, intf, options)
	} else {
		id, err = f.out.AddInterface(intf)
	}
	if err != nil {
		return 0, fmt.Errorf("pcapng: interface %s: %w", intf.Name, err)
	}
	f.ids[d] = id
	return id, nil
}

func (f *file) add(p lab.Packet) error {
	id, err := f.id(device{p.Machine, p.In, p.Device, p.EthSrc != nil})
	if err != nil {
		return err
	}
	ci := gopacket.CaptureInfo{
		Timestamp: p.When, CaptureLength: len(p.Frame), Length: max(p.Length, len(p.Frame)), InterfaceIndex: id,
	}
	if err := f.out.WritePacket(ci, p.Frame); err != nil {
		return fmt.Errorf("pcapng: packet %d: %w", p.Seq, err)
	}
	return nil
}

func (f *file) flush() error {
	if f.out == nil {
		return nil
	}
	if err := f.out.Flush(); err != nil {
		return fmt.Errorf("pcapng: %w", err)
	}
	return nil
}

// ErrNoDevice is that the device that is to be recorded is not there.
var ErrNoDevice = errors.New("no such device")

// Live writes every frame at every device of the network namespace that this process is in as a pcapng section, as they come, until
// ctx ends. The namespace is that of a machine, or of a container of it. The section begins with the devices that are there.
// only, where it is not empty, is the one device that is recorded. Where frames are lost since w or this machine is slow, gap is told.
func Live(ctx context.Context, w io.Writer, machine, container, only string, gap func(error)) (err error) {
	own, err := space.Current()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, own.Close()) }()
	s := New(machine)
	s.log.grown = make(chan struct{}, 1)
	defer func() { err = errors.Join(err, s.Close()) }()
	if err := errors.Join(s.Watch(container, own), s.Arm(lab.Nothing{}, nil)); err != nil {
		return err
	}
	f := file{w: w, ids: map[device]int{}}
	there, err := net.Interfaces()
	if err != nil {
		return err
	}
	for _, d := range there {
		if only != "" && d.Name != only {
			continue
		}
		if _, err := f.id(device{machine, container, d.Name, d.Flags&net.FlagLoopback != 0 || len(d.HardwareAddr) == 6}); err != nil {
			return err
		}
	}
	if f.out == nil {
		var names []string
		for _, d := range there {
			names = append(names, d.Name)
		}
		return fmt.Errorf("%q: %w: want one of %s", only, ErrNoDevice, strings.Join(names, ", "))
	}
	if err := f.flush(); err != nil {
		return err
	}
	var next uint64
	for ended := false; !ended; {
		select {
		case <-s.log.grown:
		case <-ctx.Done():
			ended = true
		}
		if ended {
			if err := s.drain(); err != nil {
				return err
			}
		}
		var records []record
		var lost error
		if records, next, lost = s.log.since(next); lost != nil {
			gap(lost)
		}
		for _, p := range s.packets(records) {
			if only != "" && p.Device != only {
				continue
			}
			if err := f.add(p); err != nil {
				return err
			}
		}
		if err := f.flush(); err != nil {
			return err
		}
	}
	return nil
}
