package reports

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// writeBench writes every trial in the Go benchmark format, one line a trial, in the base units of results.json, so that
// benchstat -col /mode compares modes and benchstat OLD NEW compares runs.
func writeBench(w io.Writer, res Results) error {
	var b bytes.Buffer
	config := func(key, value string) {
		if value != "" {
			fmt.Fprintf(&b, "%s: %s\n", key, oneLine(value))
		}
	}
	config("goos", "linux")
	config("goarch", res.Run.Machine.Arch)
	config("cpu", res.Run.Machine.Model)
	config("cpus", strconv.Itoa(res.Run.Machine.CPUs))
	config("modebench", res.Run.Version)
	config("seed", strconv.FormatUint(res.Run.Seed, 10))
	for _, name := range slices.Sorted(maps.Keys(units)) {
		better := "lower"
		if units[name].better > 0 {
			better = "higher"
		}
		fmt.Fprintf(&b, "Unit %s better=%s assume=nothing\n", name, better)
	}
	var last Fidelity
	for _, r := range res.Results {
		if len(r.Values) == 0 || r.Outcome == Unable || !r.measured() {
			continue
		}
		if r.Fidelity != last {
			b.WriteByte('\n')
			config("kernel", r.Fidelity.Kernel)
			config("driver", r.Fidelity.Driver)
			// A key set to nothing is unset: a line without an accelerator must not inherit one.
			fmt.Fprintf(&b, "accelerator: %s\nfabric: %s\n", r.Fidelity.Accelerator, r.Fidelity.Fabric)
			last = r.Fidelity
		}
		name := benchName(r)
		for _, trial := range trials(r.Values) {
			fmt.Fprintf(&b, "%s 1", name)
			for _, v := range trial {
				fmt.Fprintf(&b, " %s %s", strconv.FormatFloat(v.Value, 'g', -1, 64), v.Unit)
			}
			b.WriteByte('\n')
		}
	}
	_, err := w.Write(b.Bytes())
	return err
}

// benchName never ends in -N, which the format takes for a number of processors.
func benchName(r Result) string {
	var b strings.Builder
	b.WriteString("BenchmarkMode")
	part := func(key, value string) {
		if value != "" {
			clean := strings.Map(func(c rune) rune {
				if c == '/' || c <= ' ' {
					return '_'
				}
				return c
			}, value)
			b.WriteString("/" + key + "=" + clean)
		}
	}
	part("mode", r.Mode)
	if r.Implementation != kernel {
		part("implementation", r.Implementation)
	}
	part("variant", r.Variant)
	if r.Suite != "throughput" {
		part("suite", r.Suite)
	}
	part("test", r.Feature)
	part("path", r.Path)
	if r.Profile == "" {
		part("profile", "none")
	} else {
		part("profile", r.Profile)
	}
	return b.String()
}

// trials parts values into those that were measured together: of one block, the first of each unit, then the second.
func trials(values []Value) [][]Value {
	type key struct{ block, nth int }
	nth := map[Value]int{}
	byKey := map[key][]Value{}
	var order []key
	for _, v := range values {
		count := Value{Unit: v.Unit, Block: v.Block}
		k := key{v.Block, nth[count]}
		nth[count]++
		if byKey[k] == nil {
			order = append(order, k)
		}
		byKey[k] = append(byKey[k], v)
	}
	slices.SortStableFunc(order, func(a, b key) int {
		if a.block != b.block {
			return a.block - b.block
		}
		return a.nth - b.nth
	})
	list := make([][]Value, len(order))
	for i, k := range order {
		list[i] = byKey[k]
	}
	return list
}
