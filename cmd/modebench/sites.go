package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/modebench/modebench/topology"
	"github.com/modebench/modebench/topology/host"
	"github.com/modebench/modebench/topology/ssh"
)

// readInventory reads the inventory of a topology.
func readInventory(file string, t topology.Topology) (v topology.Inventory, err error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return v, input("--inventory: %w: want a readable file, such as <(vagrant ssh-config)", err)
	}
	if v, err = topology.ReadInventory(file, text, t); err != nil {
		return v, coded{err, exitInput}
	}
	if v.Config == "" {
		return v, nil
	}
	if !filepath.IsAbs(v.Config) { // as the inventory says it, wherever the command is called
		v.Config = filepath.Join(filepath.Dir(file), v.Config)
	}
	if _, err := os.Stat(v.Config); errors.Is(err, fs.ErrNotExist) {
		return v, input("%s: config: %w: want a file of ssh_config(5), or none", file, err)
	}
	v.Config, err = filepath.Abs(v.Config)
	return v, err
}

// reachMachines brings this program to the real machines of an inventory and looks at them.
func reachMachines(ctx context.Context, v topology.Inventory, p *topology.Plan) (*ssh.Driver, []ssh.Look, error) {
	programs, err := ssh.Prepare(ctx, v)
	if err != nil {
		return nil, nil, err
	}
	d := &ssh.Driver{Inventory: v, Programs: programs}
	looks, err := d.Look(ctx, p, host.Features())
	return d, looks, err
}

// machines are the real ones: what any of them lacks is lacking.
func (ks *kernels) machines(ctx context.Context, p *topology.Plan) (g *ground, err error) {
	g = &ground{driver: sshDriver, name: sshDriver, missing: map[string]string{}}
	err = ks.span("look at the machines", func() error {
		var looks []ssh.Look
		if g.sites, looks, err = reachMachines(ctx, *ks.inventory, p); err != nil {
			return err
		}
		var releases, nics []string
		for _, l := range looks {
			for name, why := range l.Missing {
				g.missing[name] = l.Machine + ": " + why
			}
			if p.Machine(l.Machine).Role != topology.RoleHost {
				continue
			}
			releases = append(releases, l.Release)
			for _, f := range l.Found {
				nics = append(nics, f.Driver)
			}
		}
		distinct := func(list []string) string {
			list = slices.Compact(slices.Sorted(slices.Values(list)))
			return strings.Join(slices.DeleteFunc(list, func(s string) bool { return s == "" }), ", ")
		}
		g.release, g.nic = distinct(releases), distinct(nics)
		return nil
	})
	ks.grounds = append(ks.grounds, g)
	return g, err
}

// doctorMachines tells what the real machines of an inventory are.
func doctorMachines(ctx context.Context, out io.Writer, v topology.Inventory, p *topology.Plan) error {
	_, looks, err := reachMachines(ctx, v, p)
	if err != nil {
		fmt.Fprintf(out, "  ✗ machines: %v\n", err)
		return coded{nil, exitNothing}
	}
	for _, l := range looks {
		fmt.Fprintf(out, "  ✓ %s at %s, kernel %s\n", l.Machine, l.At, l.Release)
		for _, f := range l.Found {
			fmt.Fprintf(out, "      %s is %s\n", f.Name, strings.TrimSpace(f.Device+" "+f.Driver))
		}
		for _, name := range slices.Sorted(maps.Keys(l.Missing)) {
			fmt.Fprintf(out, "      lacks %s: %s\n      remedy: %s\n", name, l.Missing[name], remedies[name])
		}
	}
	return nil
}
