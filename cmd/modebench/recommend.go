package main

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"

	"github.com/modebench/modebench/reports"
	"github.com/modebench/modebench/suites"
)

// wishes is a file of needs.
type wishes struct {
	Needs      []string `yaml:"needs"`
	Fabric     string   `yaml:"fabric"`
	Containers int      `yaml:"containers"` // on a host
	First      string   `yaml:"first"`
	Path       string   `yaml:"path"`
}

func recommendCommand() *cobra.Command {
	var w wishes
	var path string
	c := &cobra.Command{
		Use: "recommend [RESULTS.json]", Short: "Tell from the results of a run which modes have what you need, and in which order", Args: cobra.MaximumNArgs(1),
		Long: "Tells from the results of a run which modes have what you need, in which order, and why the others do not.\n\nNeeds:\n" +
			needsText() + "\n" + reports.Rule,
		Example: "  modebench recommend --need multicast,no-nat --first latency\n  modebench recommend --needs mine.yaml modebench-report/results.json",
		RunE: func(cmd *cobra.Command, args []string) error {
			if path != "" {
				if err := w.read(path, cmd.Flags().Changed); err != nil {
					return err
				}
			}
			if err := w.check(); err != nil {
				return err
			}
			file := "modebench-report/results.json"
			if len(args) > 0 {
				file = args[0]
			}
			res, err := readResults(file)
			if err != nil {
				return err
			}
			advice := reports.Recommend(res, reports.Wanted{Needs: w.Needs, Fabric: w.Fabric, Containers: w.Containers, First: w.First, Path: w.Path})
			if err := advice.WriteText(cmd.OutOrStdout()); err != nil {
				return err
			}
			if len(advice.Runs)+len(advice.Unmeasured) == 0 {
				return coded{fmt.Errorf("no mode of %s has all of it", file), exitUnexpected}
			}
			return nil
		},
	}
	f := c.Flags()
	f.StringSliceVar(&w.Needs, "need", nil, "what is needed, comma-separated")
	f.StringVar(&w.Fabric, "fabric", "", "a fabric to work on, of which the results tell where the suite fabrics ran: "+strings.Join(suites.Fabrics(), ", "))
	f.IntVar(&w.Containers, "containers", 1, "containers on a host")
	f.StringVar(&w.First, "first", reports.Firsts()[0], "what it should be best in: "+strings.Join(reports.Firsts(), ", "))
	f.StringVar(&w.Path, "path", "cross-host", "between whom: same-host or cross-host")
	f.StringVar(&path, "needs", "", "a YAML file with needs, fabric, containers, first and path, of which flags take precedence")
	if err := c.RegisterFlagCompletionFunc("need", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return needNames(), cobra.ShellCompDirectiveNoFileComp
	}); err != nil {
		panic(err)
	}
	return c
}

func needNames() (names []string) {
	for _, n := range reports.Needs() {
		names = append(names, n.Name)
	}
	return names
}

func needsText() string {
	var b strings.Builder
	for _, n := range reports.Needs() {
		fmt.Fprintf(&b, "  %-22s %s\n", n.Name, n.Doc)
	}
	return b.String()
}

// read fills in from a file what no flag has said.
func (w *wishes) read(path string, given func(flag string) bool) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return input("--needs: %w: want a YAML file", err)
	}
	var of wishes
	if err := yaml.UnmarshalWithOptions(data, &of, yaml.Strict()); err != nil {
		return input("--needs: %s: %s", path, strings.TrimSpace(yaml.FormatError(err, false, true)))
	}
	if !given("need") {
		w.Needs = of.Needs
	}
	if !given("fabric") && of.Fabric != "" {
		w.Fabric = of.Fabric
	}
	if !given("containers") && of.Containers != 0 {
		w.Containers = of.Containers
	}
	if !given("first") && of.First != "" {
		w.First = of.First
	}
	if !given("path") && of.Path != "" {
		w.Path = of.Path
	}
	return nil
}

// check answers what cannot be meant, and adds what follows from the number of containers.
func (w *wishes) check() error {
	for _, n := range w.Needs {
		if all := needNames(); !slices.Contains(all, n) {
			return input("need %q: no such need: want one of %s", n, strings.Join(all, ", "))
		}
	}
	if all := suites.Fabrics(); w.Fabric != "" && !slices.Contains(all, w.Fabric) {
		return input("fabric %q: want one of %s", w.Fabric, strings.Join(all, ", "))
	}
	if !slices.Contains(reports.Firsts(), w.First) {
		return input("first %q: want one of %s", w.First, strings.Join(reports.Firsts(), ", "))
	}
	if w.Path != "same-host" && w.Path != "cross-host" {
		return input("path %q: want same-host or cross-host", w.Path)
	}
	if w.Containers < 1 {
		return input("containers %d: want 1 or more", w.Containers)
	}
	if w.Containers > 1 && !slices.Contains(w.Needs, "several-containers") {
		w.Needs = append(w.Needs, "several-containers")
	}
	return nil
}
