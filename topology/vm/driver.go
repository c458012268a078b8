package vm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/modebench/modebench/topology"
	"github.com/modebench/modebench/topology/host"
	"github.com/modebench/modebench/topology/lab"
	"github.com/modebench/modebench/topology/netns"
	"github.com/modebench/modebench/topology/space"
)

// Driver is a lab.Driver whose hosts are guests, each with a kernel of its own. External machines stay namespaces, and tors
// too, where this machine's kernel has what they need. A cable of a guest ends in a namespace of its own, from where a wire takes frames to the guest's NIC: that needs
// no device file of the machine, and no right that the owner of the namespace does not have.
type Driver struct {
	Kernel   Kernel
	Cache    string   // as in Guest
	Programs []string // of this machine that guests have, too, as in Guest
	Memory   int64    // of each guest, bytes; 0: 256 MiB
	Features []string // of the kernel, as in Guest
	Lacking  []string // features that this machine's kernel lacks: where a plan's tors need one, they are guests, too
	NIC      string   // model of the guests' NICs under QEMU, one of NICs; "": the first
}

var _ lab.Driver = Driver{}

const hostMemory = 256 << 20

// nics are the models of NICs: their names, QEMU's names of the device, and the features that drive them.
var nics = []struct{ name, device, feature string }{
	{"virtio-net", "virtio-net-pci", "virtio"},
	{"e1000e", "e1000e", "e1000e"}, // an Intel 82574L
}

// NICs are the names of the models of NICs that hosts can have, the usual one first.
func NICs() (names []string) {
	for _, n := range nics {
		names = append(names, n.name)
	}
	return names
}

// NIC is the model of the NICs of hosts with a kernel: the one that is asked for, or the usual one where that is "". User-mode
// Linux has NICs of its own, which are of no model: "". It is an error where the kernel cannot drive the model.
func (k Kernel) NIC(model string) (string, error) {
	if k.Kind == UML {
		if model != "" {
			return "", fmt.Errorf("kernel %s: User-mode Linux has NICs of its own, and none of model %s", k.Name, model)
		}
		return "", nil
	}
	i, err := modelOf(model)
	if err != nil {
		return "", err
	}
	t, err := newTree(k)
	if err != nil {
		return "", err
	}
	_, lacking, err := t.order([]string{nics[i].feature})
	if err == nil && len(lacking) > 0 {
		err = fmt.Errorf("kernel %s: no driver for the NIC %s: it lacks the module %s", k.Name, nics[i].name, strings.Join(lacking, ", "))
	}
	return nics[i].name, err
}

func modelOf(nic string) (int, error) {
	if nic == "" {
		return 0, nil
	}
	i := slices.Index(NICs(), nic)
	if i < 0 {
		return 0, fmt.Errorf("NIC %q: no such model: want one of %s", nic, strings.Join(NICs(), ", "))
	}
	return i, nil
}

// Boot is lab.Driver's.
func (d Driver) Boot(ctx context.Context, p *topology.Plan) (lab.Booted, error) {
	nic, err := d.Kernel.NIC(d.NIC)
	if err != nil {
		return lab.Booted{}, err
	}
	d.NIC = nic
	k, err := Accelerate(ctx, d.Kernel, d.Cache)
	if err != nil {
		return lab.Booted{}, err
	}
	d.Kernel = k
	tors := slices.ContainsFunc(p.SwitchNeeds(), func(need string) bool { return slices.Contains(d.Lacking, need) })
	return netns.Driver{Start: func(ctx context.Context, m *topology.Machine, spaces map[string]*space.Space, cabled <-chan struct{}) (netns.Machine, error) {
		if m.Role == topology.RoleHost || tors && m.Role == topology.RoleTor {
			return d.start(ctx, m, spaces, cabled)
		}
		return netns.Start(ctx, m.Name, spaces[m.Name])
	}}.Boot(ctx, p)
}

// start starts a machine that is a guest.
func (d Driver) start(ctx context.Context, m *topology.Machine, spaces map[string]*space.Space, cabled <-chan struct{}) (_ netns.Machine, err error) {
	select {
	case <-cabled:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	h := &guestHost{}
	defer func() {
		if err != nil {
			h.Kill()
		}
	}()
	g := Guest{
		Name: m.Name, Cache: d.Cache, Programs: d.Programs, Memory: d.Memory, Space: spaces[m.Name],
		Features: slices.Concat(d.Features, []string{"underlay"}), Args: []string{"guest", m.Name},
	}
	if g.Memory == 0 {
		g.Memory = hostMemory
	}
	model, err := modelOf(d.NIC)
	if err != nil {
		return nil, err
	}
	if d.Kernel.Kind == QEMU {
		g.Features = append(g.Features, nics[model].feature)
	}
	var links *monitor
	if d.Kernel.Kind == QEMU {
		if links, err = newMonitor(&g); err != nil {
			return nil, fmt.Errorf("%s: %w", m.Name, err)
		}
		h.monitor = links
		defer links.machine.Close()
	}
	for i, n := range m.NICs {
		if n.Trunk != "" {
			continue
		}
		w, err := host.NewWire(spaces[m.Name], n, spaces[n.Peer.Machine], func(up bool) { links.carrier(netdev(i), up) })
		if err != nil {
			return nil, fmt.Errorf("%s: %w", m.Name, err)
		}
		h.wires = append(h.wires, w)
		defer w.Machine.Close()
		nic := host.NIC{Name: n.Name, MAC: n.MAC.String(), MTU: n.MTU}
		g.Devices = append(g.Devices, device(d.Kernel, nics[model].device, i, len(g.Files), nic)...)
		g.Files = append(g.Files, w.Machine)
		g.Args = append(g.Args, nic.String())
	}
	if h.guest, err = Boot(ctx, d.Kernel, g); err != nil {
		return nil, err
	}
	greeted, err := netns.Greeted(ctx, h.guest.Stream)
	if err != nil {
		return nil, fmt.Errorf("%s: program on the machine: %w%s", m.Name, err, h.guest.said())
	}
	h.ReadCloser = greeted
	return h, nil
}

// netdev is QEMU's name of what the NIC of a number is joined to.
func netdev(n int) string { return "nic" + strconv.Itoa(n) }

// device are the arguments for a NIC that is number n of a guest, and joined to one of its files.
func device(k Kernel, model string, n, file int, nic host.NIC) []string {
	fd, id := strconv.Itoa(FirstFile+file), netdev(n)
	if k.Kind == UML {
		return []string{fmt.Sprintf("vec%d:transport=fd,fd=%s,mac=%s,mtu=%d", n, fd, nic.MAC, nic.MTU)}
	}
	return []string{"-netdev", "socket,id=" + id + ",fd=" + fd, "-device", model + ",netdev=" + id + ",mac=" + nic.MAC + ",romfile="}
}

// monitor tells QEMU to take the carrier from a guest's NIC and to give it back: a socket takes frames and knows of no
// carrier. It speaks QMP (docs/interop/qmp-spec.rst of QEMU).
type monitor struct {
	ours, machine *os.File
}

// newMonitor makes a monitor of a guest that is to be booted.
func newMonitor(g *Guest) (*monitor, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	m := &monitor{machine: os.NewFile(uintptr(pair[1]), "monitor of "+g.Name)}
	if err := unix.SetNonblock(pair[0], true); err != nil { // so that closing it ends a read
		return nil, errors.Join(err, unix.Close(pair[0]), m.machine.Close())
	}
	m.ours = os.NewFile(uintptr(pair[0]), "monitor of "+g.Name)
	g.Devices = append(g.Devices, "-chardev", "socket,id=monitor,fd="+strconv.Itoa(FirstFile+len(g.Files)), "-mon", "chardev=monitor,mode=control")
	g.Files = append(g.Files, m.machine)
	go func() { _, _ = io.Copy(io.Discard, m.ours) }() // answers; that a link did not change shows in the guest
	_, err = io.WriteString(m.ours, `{"execute": "qmp_capabilities"}`+"\n")
	return m, err
}

// carrier sets the carrier of a NIC. Where the guest has ended, there is none to set.
func (m *monitor) carrier(netdev string, up bool) {
	if m != nil {
		_, _ = fmt.Fprintf(m.ours, `{"execute": "set_link", "arguments": {"name": %q, "up": %t}}`+"\n", netdev, up)
	}
}

// guestHost is a host that is a guest.
type guestHost struct {
	io.ReadCloser
	guest   *Machine // nil: not booted
	monitor *monitor // nil: none
	wires   []*host.Wire
}

func (h *guestHost) Write(p []byte) (int, error) { return h.guest.Stream.Write(p) }

// Kill is netns.Machine's.
func (h *guestHost) Kill() { _ = h.Stop() }

// Stop ends the guest: nothing in it is worth the time to let it shut down.
func (h *guestHost) Stop() (err error) {
	if h.guest != nil {
		err = h.guest.Stop()
	}
	for _, w := range h.wires {
		err = errors.Join(err, w.Close())
	}
	if h.monitor != nil {
		err = errors.Join(err, h.monitor.ours.Close())
	}
	return err
}

// Main is the program of a host that is a guest, of the arguments NAME NIC…: it gives the guest's NICs their names, and
// serves. The command calls it for `modebench guest`.
func Main(args []string, in io.ReadCloser, out io.WriteCloser) error {
	if len(args) == 0 {
		return errors.New("guest: want a name")
	}
	var nics []host.NIC
	for _, a := range args[1:] {
		n, err := host.ReadNIC(a)
		if err != nil {
			return err
		}
		nics = append(nics, n)
	}
	if err := host.NameNICs(nics); err != nil {
		return err
	}
	return netns.Main(args[0], in, out)
}
