package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/modebench/modebench/topology/host"
	"github.com/modebench/modebench/topology/vm"
)

// DefaultCache is the directory in which kernels and what was found out about them are kept.
func DefaultCache() string {
	if dir := os.Getenv("MODEBENCH_CACHE"); dir != "" {
		return dir
	}
	dir, err := os.UserCacheDir()
	if err != nil { // no home: as for a system service
		dir = os.TempDir()
	}
	return filepath.Join(dir, "modebench")
}

func cacheFlag(c *cobra.Command, cache *string) {
	c.Flags().StringVar(cache, "cache", DefaultCache(), "directory for kernels that are fetched; also by MODEBENCH_CACHE")
}

// lacksHere answers, inside a guest, what of these its kernel does not have, as JSON.
func lacksHere(names []string, out io.Writer) error {
	missing, err := host.Kernel(names)
	if err != nil {
		return err
	}
	words := map[string]string{}
	for name, err := range missing {
		words[name] = err.Error()
	}
	return json.NewEncoder(out).Encode(words)
}

// guestLacks asks a kernel, booted for it, what of these it does not have, in its own words. The answer is remembered by
// the kernel's checksum.
func guestLacks(ctx context.Context, k vm.Kernel, cache string, names []string) (map[string]string, error) {
	names = slices.Compact(slices.Sorted(slices.Values(names)))
	answer, err := vm.Remember(cache, k, "lacks "+strings.Join(names, " "), func() (answer []byte, err error) {
		m, err := vm.Boot(ctx, k, vm.Guest{Cache: cache, Features: names, Args: append([]string{"lacks"}, names...)})
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, m.Stop()) }()
		return io.ReadAll(m.Stream)
	})
	if err != nil {
		return nil, fmt.Errorf("kernel %s: %w", k.Name, err)
	}
	var missing map[string]string
	if err := json.NewDecoder(bytes.NewReader(answer)).Decode(&missing); err != nil {
		return nil, fmt.Errorf("kernel %s: what it lacks: %w", k.Name, err)
	}
	return missing, nil
}

func kernelCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "kernel", Short: "List and fetch kernels that labs can run on instead of this machine's", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	c.AddCommand(kernelListCommand(), kernelFetchCommand())
	return c
}

func kernelListCommand() *cobra.Command {
	var cache string
	c := &cobra.Command{
		Use: "list", Short: "Show the kernels there are, and what each can do, found out by booting it", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			out := cmd.OutOrStdout()
			ks, lacking := vm.Kernels(cache)
			names := host.Features()
			able := 0
			for _, k := range ks {
				missing := map[string]string{}
				k, err := vm.Accelerate(cmd.Context(), k, cache)
				if err == nil {
					missing, err = guestLacks(cmd.Context(), k, cache, names)
				}
				if cmd.Context().Err() != nil {
					return coded{context.Cause(cmd.Context()), exitNothing}
				}
				fmt.Fprintf(out, "%s\n    release %s, by %s, from %s: %s\n", k.Name, k.Release, k.Accelerator, k.Origin, k.Path)
				if k.Unaccelerated != "" {
					fmt.Fprintf(out, "    not by kvm: %s\n", indent(k.Unaccelerated, 8))
				}
				if err != nil {
					fmt.Fprintf(out, "    does not boot: %s\n", indent(err.Error(), 8))
					continue
				}
				able++
				has := slices.DeleteFunc(slices.Clone(names), func(n string) bool { _, lacks := missing[n]; return lacks })
				fmt.Fprintf(out, "    has %s\n", strings.Join(has, ", "))
				if len(missing) > 0 {
					fmt.Fprintf(out, "    lacks %s\n", strings.Join(slices.Sorted(maps.Keys(missing)), ", "))
				}
			}
			for _, err := range lacking {
				fmt.Fprintf(out, "✗ %v\n", err)
			}
			for _, name := range vm.Fetchable() {
				if !slices.ContainsFunc(ks, func(k vm.Kernel) bool { return k.Name == name }) {
					fmt.Fprintf(out, "%s\n    not here; get it by: modebench kernel fetch %s\n", name, name)
				}
			}
			if able == 0 {
				return coded{nil, exitNothing}
			}
			return nil
		},
	}
	cacheFlag(c, &cache)
	return c
}

// indent moves all lines of a text but the first to the right.
func indent(text string, columns int) string {
	return strings.ReplaceAll(text, "\n", "\n"+strings.Repeat(" ", columns))
}

func kernelFetchCommand() *cobra.Command {
	var cache string
	c := &cobra.Command{
		Use: "fetch [NAME ...]", Short: "Fetch kernels into the cache by the distribution's package client, installing nothing",
		Long:      "Fetch kernels into the cache by the distribution's package client, installing nothing.\nNames: " + strings.Join(vm.Fetchable(), ", ") + "; all where none is given.",
		ValidArgs: vm.Fetchable(),
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, name := range args {
				if !slices.Contains(vm.Fetchable(), name) {
					return input("kernel %q: cannot be fetched: want one of %s", name, strings.Join(vm.Fetchable(), ", "))
				}
			}
			if len(args) == 0 {
				args = vm.Fetchable()
			}
			for _, name := range args {
				_, err := vm.Fetch(cmd.Context(), name, cache, func(line string) { fmt.Fprintln(cmd.ErrOrStderr(), line) })
				if err != nil {
					return coded{err, exitNothing}
				}
			}
			return nil
		},
	}
	cacheFlag(c, &cache)
	return c
}
