package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/modebench/modebench/modes"
	"github.com/modebench/modebench/reports"
	"github.com/modebench/modebench/suites"
	"github.com/modebench/modebench/topology"
	"github.com/modebench/modebench/topology/daemons"
	"github.com/modebench/modebench/topology/host"
	"github.com/modebench/modebench/topology/host/docker"
	others "github.com/modebench/modebench/topology/host/program"
	"github.com/modebench/modebench/topology/ssh"
	"github.com/modebench/modebench/topology/vm"
)

// The kernels that are named by what they are for.
const (
	autoKernel = "auto" // the machine's own where it can, a guest's where it cannot
	hostKernel = "host" // the machine's own
)

// The drivers, as --driver names them.
const (
	netnsDriver = "netns"
	vmDriver    = "vm"
	sshDriver   = "ssh"
)

var drivers = []string{netnsDriver, vmDriver, sshDriver}

// ground is a kernel that labs stand on.
type ground struct {
	driver  string            // what hosts are on it; empty: netnsDriver
	sites   *ssh.Driver       // the real machines that hosts are on; nil: there are none
	release string            // of the real machines' kernels
	nic     string            // model of the hosts' NICs; empty: they have none, or User-mode Linux's own
	name    string            // as --kernel names it
	guest   *vm.Kernel        // nil: the machine's own kernel
	lacking []string          // where hosts are guests: what the machine's own kernel lacks
	missing map[string]string // what it lacks, in its own words
	failed  error             // it cannot be had, or not be booted
}

// fidelity is what a result on it is obtained on.
func (g *ground) fidelity() reports.Fidelity {
	driver := cmp.Or(g.driver, netnsDriver)
	switch {
	case g.driver == sshDriver:
		return reports.Fidelity{Kernel: g.release, Driver: driver, NIC: g.nic}
	case g.guest != nil:
		return reports.Fidelity{Kernel: g.guest.Release, Driver: driver, Accelerator: g.guest.Accelerator, NIC: g.nic}
	case g.failed != nil: // nobody knows its release
		return reports.Fidelity{Kernel: g.name, Driver: driver, NIC: g.nic}
	}
	return reports.Fidelity{Kernel: release(), Driver: driver}
}

// String names it for a reader.
func (g *ground) String() string {
	if g.driver == sshDriver {
		return "the machines"
	}
	if g.guest == nil {
		return "this kernel"
	}
	return fmt.Sprintf("guest kernel %s %s (%s)", g.name, g.guest.Release, g.guest.Accelerator)
}

// lacks tells what of these it lacks, in a sentence; empty: nothing.
func (g *ground) lacks(needs []string) string {
	if g.failed != nil {
		return g.failed.Error()
	}
	var out []string
	for _, n := range needs {
		if why := g.missing[n]; why != "" {
			out = append(out, fmt.Sprintf("%s lacks %s: %s", g, n, why))
		}
	}
	return strings.Join(out, "; ")
}

// alone tells why no program but this one is there; empty: this machine's are.
func (g *ground) alone() string {
	switch {
	case g.driver == sshDriver:
		return "no program but this one is brought to real machines"
	case g.guest != nil || g.driver == vmDriver:
		return "in guests there is no program but this one and plugins"
	}
	return ""
}

// assignment is a mode on the ground where it is to be observed.
type assignment struct {
	modes.Mode
	plan    *topology.Plan
	ground  *ground
	carried []string // programs of this machine that guests of the ground are to have
	only    []string // features that are observed on it; empty: all that are asked for, but for except
	except  []string // features that are observed on another ground, which has what their specs need
	why     string   // it cannot be; empty: it can
	since   string   // why it, or its switches alone where hosts are guests, is not on the machine's own kernel; empty: it is, or another one was asked for
}

// kernels are those that a run may use.
type kernels struct {
	cache     string
	driver    string              // what hosts are; empty: netnsDriver
	nic       string              // model of the hosts' NICs; empty: they have none, or the usual ones
	inventory *topology.Inventory // of the real machines; nil: hosts are none
	noFetch   bool
	dirs      modes.Dirs                              // of those who carry modes out
	auto      bool                                    // they are chosen by what they can
	only      bool                                    // tell what could be done: build nothing
	say       io.Writer                               // what is fetched is announced on it
	span      func(name string, f func() error) error // measures how long something takes

	grounds []*ground

	plugins string           // directory of somebody's own plugins; empty: there are none
	daemons string           // directory of programs of modes that were built from source, once programs was called
	built   map[string]error // by what was to be built: why there is none
}

// programs has what a mode runs besides this program built, where it runs any; why tells why it cannot be had on the ground; empty: it can. Where the ground
// is a guest's, carried are the programs of this machine that it is to have.
func (ks *kernels) programs(ctx context.Context, m modes.Mode, p *topology.Plan, g *ground) (carried []string, why string) {
	guest := g.guest != nil || g.driver == vmDriver
	set, run, who := daemons.Programs, m.Programs, "the mode's hosts run "
	if m.Implementation == modes.ByDocker {
		return ks.engine(g)
	}
	if types := pluggedBy(m, p); len(types) > 0 {
		set, run, who = daemons.Plugins, types, "the mode is carried out by the plugins "
	}
	if len(run) == 0 {
		return nil, ""
	}
	who += strings.Join(run, ", ")
	if why := g.alone(); why != "" && (!guest || m.Implementation == "") { // daemons could be carried, too, but are not ready in time on an emulated processor
		return nil, who + ", and " + why
	}
	failed := daemons.Needs(run)
	switch m.Implementation {
	case "":
		if failed = errors.Join(failed, ks.build(ctx, set, run)); failed == nil {
			ks.daemons = set.Built(ks.cache, run...)
		}
	case modes.ByCNI: // somebody's own are there
		failed = errors.Join(failed, ks.build(ctx, set, set.Names()))
	}
	if failed == nil && guest && !ks.only {
		carried, failed = ks.carry(m, set, run)
	}
	if failed != nil {
		return nil, who + ": " + strings.ReplaceAll(failed.Error(), "\n", "; ")
	}
	return carried, ""
}

// build has programs of a set built once, or tells only whether they could be.
func (ks *kernels) build(ctx context.Context, set daemons.Set, programs []string) error {
	names := strings.Join(programs, ", ")
	failed, tried := ks.built[names]
	if tried {
		return failed
	}
	if ks.only {
		failed = set.Lacking(ctx, ks.cache, programs...)
	} else {
		failed = ks.span("build "+names, func() error {
			_, err := set.Build(ctx, ks.cache, ks.noFetch, func(line string) { fmt.Fprintln(ks.say, line) }, programs...)
			return err
		})
	}
	if ks.built == nil {
		ks.built = map[string]error{}
	}
	ks.built[names] = failed
	return failed
}

// pluggedBy are the plugins that carry a mode out, by name; none where it is this program.
func pluggedBy(m modes.Mode, p *topology.Plan) (types []string) {
	if m.Implementation == "" {
		return nil
	}
	host := p.Hosts()[0]
	steps := m.Attach(p, host, host.Containers[0])
	if m.Publish != nil {
		steps = append(steps, m.Publish(p, host, host.Containers[0], modes.Port{Proto: "tcp", Host: 80, Container: 80})...)
	}
	if m.Rate != nil {
		steps = append(steps, m.Rate(p, host, host.Containers[0], modes.Rate{Bits: 1e6})...)
	}
	for _, s := range steps {
		if s.CNI != nil {
			types = append(types, s.CNI.Programs()...)
		}
	}
	slices.Sort(types)
	return slices.Compact(types)
}

// carry gives the files of programs that a guest is to have, with those of the machine that they run. Plugins that the suite of plugins adds are there, too.
func (ks *kernels) carry(m modes.Mode, set daemons.Set, run []string) (files []string, err error) {
	dir := set.Built(ks.cache, run...)
	switch {
	case m.Implementation != "" && m.Implementation != modes.ByCNI:
		dir = ks.plugins
	case m.Implementation == modes.ByCNI:
		run = append(slices.Clone(run), "dhcp", "host-device", "sbr", "tuning", "vlan")
	}
	for _, name := range run {
		files = append(files, filepath.Join(dir, name))
	}
	if daemons.WriteRules(run) {
		nft, err := others.Find("nft")
		if err != nil {
			return nil, err
		}
		files = append(files, nft)
	}
	for _, f := range files {
		err = errors.Join(err, vm.Carried(f))
	}
	return files, err
}

// emulated tells whether it is a guest whose processors are.
func (g *ground) emulated() bool { return g.guest != nil && g.guest.Accelerator == "tcg" }

// engine tells why an engine cannot carry a mode out on a ground; empty: it can. Where the ground is a guest's, carried are the programs that it is to have.
func (ks *kernels) engine(g *ground) (carried []string, why string) {
	const who = "the mode is carried out by Docker's engine, "
	guest := g.guest != nil
	switch {
	case g.driver == sshDriver:
		return nil, who + "and " + g.alone()
	case g.driver == vmDriver:
		return nil, who + "which hosts that are guests have no room for"
	case ks.auto && g.emulated():
		return nil, fmt.Sprintf(who+"which takes a quarter of a minute or more for a container on emulated processors: want a machine with KVM, or the time for it and --kernel %s", g.name)
	case !guest && os.Geteuid() != 0:
		return nil, who + "which mounts files and wants to be root: sudo modebench …"
	}
	for _, name := range docker.Programs(ks.dirs[modes.ByDocker]) {
		path, err := others.Find(name)
		if err != nil {
			return nil, fmt.Sprintf(who+"and %s is not there: sudo apt-get install docker.io", name)
		}
		carried = append(carried, path)
	}
	if !guest {
		return nil, ""
	}
	carried = append(carried, docker.Files()...)
	for _, path := range carried {
		if err := vm.Carried(path); err != nil {
			return nil, who + "which a guest cannot have: " + err.Error()
		}
	}
	return carried, ""
}

// checkKernels answers a --kernel that cannot be meant.
func checkKernels(names []string, cache string) error {
	known := append([]string{hostKernel}, vm.Fetchable()...)
	present, _ := vm.Kernels(cache) // what is left out cannot be named either
	has := func(name string) bool {
		return slices.ContainsFunc(present, func(k vm.Kernel) bool { return k.Name == name })
	}
	for _, name := range names {
		switch {
		case name == autoKernel && len(names) > 1:
			return input("--kernel %q: auto chooses by itself: want it alone, or kernels by name", strings.Join(names, ","))
		case name == autoKernel, slices.Contains(known, name), has(name):
		case strings.Contains(name, "/"):
			// A kernel that is not whole is one that cannot be had: what is to be observed on it is unable.
			if _, err := vm.File(name); err != nil && !errors.Is(err, vm.ErrUnbootable) {
				return input("--kernel: %w", err)
			}
		default:
			return input("--kernel %q: no such kernel: want %s, %s, one that modebench kernel list shows, or a path such as ./vmlinuz", name, autoKernel, strings.Join(known, ", "))
		}
	}
	return nil
}

// checkDriver answers a --driver that cannot be meant, and what cannot be had with it.
func (o *options) checkDriver() error {
	if o.inventory != "" && o.driver != sshDriver {
		return input("--inventory with --driver %s, whose hosts are on this machine: want --driver ssh with it", o.driver)
	}
	switch o.driver {
	case sshDriver:
		return o.checkMachines()
	case netnsDriver:
		if o.nic != "" {
			return input("--nic %s: hosts that are namespaces have no NICs: want --driver vm with it", o.nic)
		}
		return nil
	case vmDriver:
		if o.nic != "" && !slices.Contains(vm.NICs(), o.nic) {
			return input("--nic %q: no such model: want one of %s", o.nic, strings.Join(vm.NICs(), ", "))
		}
	default:
		return input("--driver %q: no such driver: want %s", o.driver, strings.Join(drivers, ", "))
	}
	if ms := measured(o.suites); len(ms) > 0 {
		return input("--driver vm: %s measures, which says nothing about machines that share the processors: want one of %s", ms[0], strings.Join(observed(suites.Names()), ", "))
	}
	if slices.Contains(o.suites, suites.OnFabrics) {
		return input("--driver vm: the suite %s models the hosts' NICs, and machines have NICs of their own: want it without, or another suite", suites.OnFabrics)
	}
	for _, name := range o.kernels {
		if name == hostKernel {
			return input("--kernel host: with --driver vm each host has a kernel of its own, never this machine's: want %s, a guest kernel such as debian-cloud, or a path", autoKernel)
		}
		if k, err := vm.File(name); o.nic != "" && (name == vm.UML || err == nil && k.Kind == vm.UML) {
			return input("--nic %s: User-mode Linux has NICs of its own: want none with --kernel %s, or a kernel that qemu runs such as debian-cloud", o.nic, name)
		}
	}
	return nil
}

// checkMachines answers what cannot be had of real machines.
func (o *options) checkMachines() error {
	switch {
	case o.inventory == "":
		return input("--driver ssh: nobody says which machines: want --inventory FILE with it")
	case o.nic != "":
		return input("--nic %s: real machines have NICs of their own: want it without", o.nic)
	case o.kernels[0] != autoKernel:
		return input("--kernel %s: real machines have kernels of their own: want it without", o.kernels[0])
	case o.keep:
		return input("--keep-on-fail: with --driver ssh a lab ends with the command, which gives the machines back: want --driver netns")
	case slices.Contains(o.suites, suites.OnFabrics):
		return input("--driver ssh: the suite %s models the hosts' NICs, and real machines have NICs of their own: want it without, or another suite", suites.OnFabrics)
	}
	if ms := measured(o.suites); len(ms) > 0 {
		return input("--driver ssh: %s measures in labs of all modes at the same time, and real machines have their interfaces once: want one of %s", ms[0], strings.Join(slices.DeleteFunc(observed(suites.Names()), func(s string) bool { return s == suites.OnFabrics }), ", "))
	}
	return nil
}

// own is the machine's own kernel.
func (ks *kernels) own(ctx context.Context) (*ground, error) {
	for _, g := range ks.grounds {
		if g.guest == nil && g.failed == nil {
			return g, nil
		}
	}
	g := &ground{name: hostKernel}
	err := ks.span("look at the kernel", func() (err error) {
		g.missing, err = lacks(ctx, host.Features())
		return err
	})
	if err == nil {
		ks.grounds = append(ks.grounds, g)
	}
	return g, err
}

// look finds out what a guest kernel can do. It is booted for that where nobody has asked it before.
func (ks *kernels) look(ctx context.Context, k vm.Kernel) *ground {
	for _, g := range ks.grounds {
		if g.guest != nil && g.guest.Path == k.Path {
			return g
		}
	}
	g := &ground{name: k.Name, driver: ks.driver, guest: &k}
	g.failed = ks.span("look at kernel "+k.Name, func() (err error) {
		if k, err = vm.Accelerate(ctx, k, ks.cache); err != nil {
			return err
		}
		if ks.driver == vmDriver {
			if g.nic, err = k.NIC(ks.nic); err != nil {
				return err
			}
		}
		g.missing, err = guestLacks(ctx, k, ks.cache, host.Features())
		return err
	})
	ks.grounds = append(ks.grounds, g)
	return g
}

// fetch brings a kernel along.
func (ks *kernels) fetch(ctx context.Context, name string) *ground {
	if err := vm.Boots(name); err != nil {
		return &ground{name: name, driver: ks.driver, failed: fmt.Errorf("kernel %s is not on this machine, nor what boots it: %w", name, err)}
	}
	if ks.only {
		return &ground{name: name, driver: ks.driver, failed: fmt.Errorf("kernel %s is not on this machine: modebench run fetches it where it needs it, and modebench kernel fetch %s does now; or install its package", name, name)}
	}
	if ks.noFetch {
		return &ground{name: name, driver: ks.driver, failed: fmt.Errorf("kernel %s is not on this machine, and --no-fetch forbids to fetch it: modebench kernel fetch %s does, or install its package", name, name)}
	}
	var k vm.Kernel
	err := ks.span("fetch kernel "+name, func() (err error) {
		fmt.Fprintf(ks.say, "fetching kernel %s (once; --no-fetch forbids it)\n", name)
		k, err = vm.Fetch(ctx, name, ks.cache, func(line string) { fmt.Fprintln(ks.say, "  "+line) })
		return err
	})
	if err != nil {
		return &ground{name: name, driver: ks.driver, failed: fmt.Errorf("kernel %s: %w", name, err)}
	}
	return ks.look(ctx, k)
}

// named is the kernel of a name or of a path.
func (ks *kernels) named(ctx context.Context, name string) *ground {
	if strings.Contains(name, "/") {
		k, err := vm.File(name)
		if err != nil {
			return &ground{name: name, driver: ks.driver, failed: err}
		}
		return ks.look(ctx, k)
	}
	present, lacking := vm.Kernels(ks.cache)
	for _, k := range present {
		if k.Name == name {
			return ks.look(ctx, k)
		}
	}
	g := ks.fetch(ctx, name)
	if g.failed != nil && len(lacking) > 0 { // it may be one of those that are left out
		g.failed = fmt.Errorf("%s; %w", strings.ReplaceAll(errors.Join(lacking...).Error(), "\n", "; "), g.failed)
	}
	return g
}

// able is the first guest kernel that has what is needed: of those that are there, then of those that can be fetched.
// Where there is none, the reasons say why, and how one can be had.
func (ks *kernels) able(ctx context.Context, needs []string) (*ground, error) {
	present, lacking := vm.Kernels(ks.cache)
	fetchable := vm.Fetchable()
	if ks.driver == vmDriver { // User-mode Linux last: its NICs filter nothing, and see no carrier
		later := func(a, b string) int { return cmp.Compare(strings.Index(a, vm.UML), strings.Index(b, vm.UML)) }
		slices.SortStableFunc(present, func(a, b vm.Kernel) int { return later(a.Kind, b.Kind) })
		slices.SortStableFunc(fetchable, later)
	}
	var reasons []error
	var have []string
	try := func(g *ground) bool {
		why := g.lacks(needs)
		if why != "" {
			reasons = append(reasons, errors.New(why))
		}
		return why == ""
	}
	for _, k := range present {
		have = append(have, k.Name)
		if g := ks.look(ctx, k); try(g) {
			return g, nil
		}
	}
	for _, name := range fetchable {
		if slices.Contains(have, name) || ctx.Err() != nil {
			continue
		}
		i := slices.IndexFunc(ks.grounds, func(g *ground) bool { return g.name == name })
		var g *ground
		if i < 0 {
			g = ks.fetch(ctx, name)
			ks.grounds = append(ks.grounds, g)
		} else {
			g = ks.grounds[i]
		}
		if try(g) {
			return g, nil
		}
	}
	return nil, errors.Join(append(reasons, lacking...)...)
}

// assign decides on which kernels the modes are observed. The error is that this machine can carry no lab at all.
func (ks *kernels) assign(ctx context.Context, names []string, ms []modes.Mode, t topology.Topology) ([]assignment, error) {
	ks.auto = names[0] == autoKernel
	var chosen []*ground
	var own *ground
	if ks.driver == sshDriver {
		p, err := topology.NewPlan(t)
		if err != nil {
			return nil, err
		}
		g, err := ks.machines(ctx, p)
		if err != nil {
			return nil, err
		}
		chosen, names = []*ground{g}, []string{sshDriver}
	}
	for _, name := range names {
		switch {
		case ks.driver == vmDriver, name == autoKernel, name == hostKernel: // the tors of machines are on it, too
			var err error
			if own, err = ks.own(ctx); err != nil {
				return nil, err
			}
		}
		switch {
		case ks.driver == sshDriver:
		case name == autoKernel && ks.driver == vmDriver:
			chosen = append(chosen, &ground{name: name, driver: vmDriver, nic: ks.nic, failed: errors.New("this kernel is no guest's")})
		case name == autoKernel, name == hostKernel:
			chosen = append(chosen, own)
		default:
			if g := ks.named(ctx, name); !slices.Contains(chosen, g) {
				chosen = append(chosen, g)
			}
		}
	}
	var out []assignment
	for _, m := range ms {
		for _, g := range chosen {
			a := assignment{Mode: m, ground: g}
			p, err := m.Plan(t)
			if a.plan = p; err != nil {
				a.why = fmt.Sprintf("mode %s: %v", m.Name, err)
				out = append(out, a)
				continue
			}
			a.why = g.lacks(m.Requires(p))
			if a.why != "" && names[0] == autoKernel {
				other, err := ks.able(ctx, m.Requires(p))
				if err == nil {
					a.ground, a.since, a.why = other, a.why, ""
				} else {
					a.why += "; and no guest kernel has it: " + strings.ReplaceAll(err.Error(), "\n", "; ")
				}
			}
			if a.why == "" {
				a.carried, a.why = ks.programs(ctx, m, p, a.ground)
			}
			if ks.driver == vmDriver {
				a.since = own.lacks(p.SwitchNeeds())
				a.ground.lacking = slices.Sorted(maps.Keys(own.missing))
			}
			out = append(out, a)
		}
	}
	return out, nil
}

// share has the specs that need more than their mode does observed where that is: with auto on the first guest kernel that
// has it. Those that no kernel can tell are left with the reason.
func (ks *kernels) share(ctx context.Context, all []assignment, o options) (out []assignment) {
	for _, a := range all {
		var more []*assignment
		by := map[string]*assignment{} // by what is needed
		for _, s := range suites.Specs() {
			if len(s.Needs)+len(s.Programs) == 0 || a.why != "" || !s.Asks(a.Mode) || !slices.Contains(o.suites, s.Suite) || len(o.features) > 0 && !slices.Contains(o.features, s.Feature.Name) {
				continue
			}
			var needs []string
			for _, k := range s.Needs {
				needs = append(needs, string(k))
			}
			why, absent := a.ground.lacks(needs), a.ground.absent(s.Programs)
			if why == "" && absent == "" {
				continue
			}
			a.except = append(a.except, s.Feature.Name)
			key := strings.Join(needs, " ") + absent
			if by[key] == nil {
				b := a
				b.only, b.except, b.since, b.why = nil, nil, why, cmp.Or(absent, why)
				if o.kernels[0] == autoKernel && o.driver != sshDriver && absent == "" {
					if other, err := ks.able(ctx, append(a.Requires(a.plan), needs...)); err == nil {
						b.ground = other
						b.carried, b.why = ks.programs(ctx, b.Mode, b.plan, other)
					} else {
						b.why += "; and no guest kernel has all of it: " + strings.ReplaceAll(err.Error(), "\n", "; ")
					}
				}
				// One guest tells all that it can.
				if i := slices.IndexFunc(more, func(m *assignment) bool { return b.why == "" && m.why == "" && m.ground == b.ground }); i >= 0 {
					by[key] = more[i]
				} else {
					by[key] = &b
					more = append(more, &b)
				}
			}
			by[key].only = append(by[key].only, s.Feature.Name)
		}
		out = append(out, a)
		for _, m := range more {
			out = append(out, *m)
		}
	}
	return out
}

// absent tells which of the programs that a spec runs are not there, and what has them; empty: all are there.
func (g *ground) absent(programs map[string]string) string {
	for _, name := range slices.Sorted(maps.Keys(programs)) {
		if why := g.alone(); why != "" {
			return "the experiment runs " + name + ", and " + why
		}
		if _, err := others.Find(name); err != nil {
			return fmt.Sprintf("the experiment runs %s, which is not there: sudo apt install %s", name, programs[name])
		}
	}
	return ""
}

// asks are the features that a run observes of the assignment; empty: all. It is false where all that is asked for is observed
// elsewhere, or cannot be.
func (a assignment) asks(o options) (list []string, any bool) {
	switch {
	case len(a.only) > 0:
		return a.only, true
	case len(a.except) == 0:
		return o.features, true
	}
	for _, s := range suites.Specs() {
		if name := s.Feature.Name; !slices.Contains(a.except, name) && (len(o.features) == 0 || slices.Contains(o.features, name)) {
			list = append(list, name)
		}
	}
	return list, len(list) > 0
}
