package main

import (
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/modebench/modebench/fixtures"
	"github.com/modebench/modebench/modes"
	"github.com/modebench/modebench/reports"
	"github.com/modebench/modebench/topology"
)

const defaultTopology = "two-hosts"

func planCommand() *cobra.Command {
	var file, by string
	c := &cobra.Command{
		Use: "plan MODE", Short: "Print what a mode does to each host of a topology, as shell lines", Args: cobra.ExactArgs(1),
		Example: "  modebench plan bridge\n  modebench plan -t mine.yaml macvlan-bridge",
		RunE: func(cmd *cobra.Command, args []string) error {
			p, _, err := readPlan(file)
			if err != nil {
				return err
			}
			m, err := findModes(args)
			if err != nil {
				return err
			}
			if m, err = carried(m, args, []string{by}, modes.Dirs{modes.ByCNI: "/opt/cni/bin"}); err != nil {
				return err
			}
			if p, err = m[0].Plan(p.Topology); err != nil {
				return input("%s: mode %s: %w", file, m[0].Name, err)
			}
			_, err = io.WriteString(cmd.OutOrStdout(), m[0].Wire(p).String())
			return err
		},
		ValidArgsFunction: completeModes,
	}
	topologyFlag(c, &file)
	implementationFlag(c, &by)
	return c
}

func implementationFlag(c *cobra.Command, by *string) {
	c.Flags().StringVarP(by, "implementation", "i", modes.ByKernel, "who carries the mode out: "+strings.Join(modes.Implementations(), ", "))
}

func topologyFlag(c *cobra.Command, file *string) {
	c.Flags().StringVarP(file, "topology", "t", defaultTopology, "topology: a file, or one of "+strings.Join(builtin(), ", "))
}

func inventoryFlag(c *cobra.Command, file *string) {
	c.Flags().StringVar(file, "inventory", "", "for --driver ssh, the real machines: a YAML file, or an ssh_config such as <(vagrant ssh-config)")
}

// builtin are the names of the topologies that come with the program.
func builtin() []string {
	entries, err := fs.Glob(fixtures.FS, "topologies/*.yaml")
	if err != nil {
		return nil
	}
	for i, e := range entries {
		entries[i] = strings.TrimSuffix(filepath.Base(e), ".yaml")
	}
	return entries
}

// readPlan reads a topology, by name or from a file, and plans it. The text is the file's.
func readPlan(file string) (*topology.Plan, string, error) {
	data, err := fixtures.FS.ReadFile("topologies/" + file + ".yaml")
	if err != nil {
		if data, err = os.ReadFile(file); err != nil {
			return nil, "", input("topology: %w: want a readable file, or one of %s", err, strings.Join(builtin(), ", "))
		}
	}
	t, err := topology.Read(file, data)
	if err != nil {
		return nil, "", coded{err, exitInput}
	}
	p, err := topology.NewPlan(t)
	if err != nil {
		return nil, "", input("%s: %w", file, err)
	}
	return p, string(data), nil
}

// findModes finds modes by their names; none means all.
func findModes(names []string) ([]modes.Mode, error) {
	if len(names) == 0 {
		return modes.All(), nil
	}
	var all []string
	for _, m := range modes.All() {
		all = append(all, m.Name)
	}
	var out []modes.Mode
	for _, name := range names {
		m, ok := modes.Find(name)
		if !ok {
			return nil, input("mode %q: no such mode: want one of %s", name, strings.Join(all, ", "))
		}
		if !slices.ContainsFunc(out, func(o modes.Mode) bool { return o.Name == name }) {
			out = append(out, m)
		}
	}
	return out, nil
}

// carried are modes by those who are to carry them out, side by side. Modes that were named have to be
// carried out by one of them; of all the others are left out that are not.
func carried(ms []modes.Mode, named, implementations []string, dirs modes.Dirs) (out []modes.Mode, err error) {
	all := modes.Implementations()
	for _, by := range implementations {
		if !slices.Contains(all, by) {
			return nil, input("--implementation %q: no such implementation: want one of %s", by, strings.Join(all, ", "))
		}
	}
	by := func(m modes.Mode) (list []modes.Mode) {
		for _, name := range all {
			if c, ok := m.By(name, dirs); ok && slices.Contains(implementations, name) {
				list = append(list, c)
			}
		}
		return list
	}
	for _, m := range ms {
		list := by(m)
		if len(list) == 0 && len(named) > 0 {
			var has []string
			for _, m := range modes.All() {
				if len(by(m)) > 0 {
					has = append(has, m.Name)
				}
			}
			return nil, input("--implementation %s: mode %s is not carried out so: want one of %s", strings.Join(implementations, ","), m.Name, strings.Join(has, ", "))
		}
		out = append(out, list...)
	}
	return out, nil
}

func completeModes(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	var all []string
	for _, m := range modes.All() {
		all = append(all, m.Name+"\t"+m.Doc)
	}
	return all, cobra.ShellCompDirectiveNoFileComp
}

func schemaCommand() *cobra.Command {
	return &cobra.Command{
		Use: "schema topology|inventory|results", Short: "Print the JSON Schema of topology files, of inventories or of results.json",
		Args: cobra.ExactArgs(1), ValidArgs: []string{"topology", "inventory", "results"},
		RunE: func(cmd *cobra.Command, args []string) error {
			of := map[string]func() ([]byte, error){"topology": topology.JSONSchema, "inventory": topology.InventorySchema, "results": reports.JSONSchema}[args[0]]
			if of == nil {
				return input("schema %q: want topology, inventory or results", args[0])
			}
			b, err := of()
			if err != nil {
				return err
			}
			_, err = cmd.OutOrStdout().Write(b)
			return err
		},
	}
}
