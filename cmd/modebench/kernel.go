package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
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
