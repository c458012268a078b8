package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/modebench/modebench/modes"
	"github.com/modebench/modebench/reports"
	"github.com/modebench/modebench/topology/daemons"
)

// example is the list of docs/cni.md.
func example(t *testing.T) string {
	t.Helper()
	for _, d := range documents(t) {
		for _, f := range d.fences {
			if d.path == "docs/cni.md" && f.lang == "json" {
				return f.text
			}
		}
	}
	t.Fatal("docs/cni.md has no list")
	return ""
}

// equipped is a directory with the example's list, and another, bin, with its plugins, of which one is a script of some lines, which finds the
// reference plugin in its own directory under the name real.
func equipped(t *testing.T, replaced string, lines ...string) (dir string) {
	t.Helper()
	isolated(t)
	built := referencePlugins(t, DefaultCache())
	dir = t.TempDir()
	put := func(name, text string, mode os.FileMode) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	put("my.conflist", example(t), 0o644)
	if err := os.Mkdir(filepath.Join(dir, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"bridge", "portmap", "host-local"} {
		plugin, err := os.ReadFile(filepath.Join(built, name))
		if err != nil {
			t.Fatal(err)
		}
		if name == replaced {
			put("bin/"+name, "#!/bin/sh\n"+strings.Join(lines, "\n")+"\n", 0o755)
			name = "real"
		}
		put("bin/"+name, string(plugin), 0o755)
	}
	return dir
}

// referencePlugins is the directory of the reference plugins in a cache.
func referencePlugins(t *testing.T, cache string) (dir string) {
	t.Helper()
	err := daemons.Needs(daemons.Plugins.Names())
	if err == nil {
		dir, err = daemons.Plugins.Build(t.Context(), cache, false, func(line string) { t.Log(line) })
	}
	if err != nil {
		unable(t, "%v", err)
	}
	return dir
}

// asked are features that a faulty plugin for bridges is likely to be caught by.
const asked = "same-host-ipv4,container-to-external-ipv4,publish-tcp-ipv4,attach-detach"

// judged runs them on somebody's own plugins, as the mode bridge, and gives the outcomes by feature, and the exit code.
func judged(t *testing.T, dir string) (outcomes map[string]reports.Result, code int) {
	t.Helper()
	return observedAs(t, dir, "--expect", "bridge")
}

func observedAs(t *testing.T, dir string, how ...string) (outcomes map[string]reports.Result, code int) {
	t.Helper()
	args := append([]string{"run", "--cni-conf", "my.conflist", "--cni-bin", "bin", "--feature", asked}, how...)
	code, _, stderr := result(t, modebench(t, dir, args...))
	f, err := os.Open(filepath.Join(dir, "modebench-report", "results.json"))
	if err != nil {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	defer f.Close()
	res, err := reports.Read(f, "results.json")
	if err != nil {
		t.Fatal(err)
	}
	if !res.Run.Complete {
		t.Errorf("missing: %v", res.Run.Missing)
	}
	outcomes = map[string]reports.Result{}
	for _, r := range res.Results {
		if r.Implementation != "mine" || len(r.Reproduce) == 0 && r.Outcome != reports.Unable {
			t.Errorf("%s of mode %s by %q, again: %v", r.Feature, r.Mode, r.Implementation, r.Reproduce)
		}
		outcomes[r.Feature] = r
	}
	return outcomes, code
}

// Somebody's own list is judged as the mode that it is to be, and passes where it is that.
func TestOwnPlugins(t *testing.T) {
	t.Parallel()
	got, code := judged(t, equipped(t, ""))
	if code != exitExpected || len(got) != len(strings.Split(asked, ",")) {
		t.Errorf("exit code %d, %d cells", code, len(got))
	}
	for feature, r := range got {
		if r.Outcome != reports.Pass {
			t.Errorf("%s: %s: %s", feature, r.Outcome, r.Detail)
		}
	}
}

// Of what nobody expects anything it is told what it is nearest to, and by that mode it is judged; nothing is wrong with it, whatever it does otherwise.
func TestDescribedPlugins(t *testing.T) {
	t.Parallel()
	got, code := observedAs(t, equipped(t, "bridge", `conf=$(sed 's/"ipMasq":true/"ipMasq":false/')`, `echo "$conf" | "${0%/*}/real"`))
	if r := got["container-to-external-ipv4"]; code != exitExpected || r.Outcome != reports.Fail || r.Observed != reports.Blocked {
		t.Errorf("exit code %d: %+v", code, r)
	}
}

// What is as a mode should be is nearest to it; what distinguishes modes less than what was asked makes them equally near.
func TestLikeness(t *testing.T) {
	expected, err := expectations()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		like     string   // the mode whose expectations are what was seen
		features []string // of these alone; nil: of all
		nearest  string
		says     string
	}{
		{"ptp", nil, "ptp", "mine is nearest to the mode ptp (none otherwise), by "},
		{"macvlan-vepa", nil, "macvlan-vepa", "mine is nearest to the mode macvlan-vepa (none otherwise), by "},
		{"macvlan-bridge", []string{"same-host-ipv4", "container-to-host-ipv4"}, "macvlan-bridge", "is as near to each of "},
		{"bridge", []string{"cni-check-route"}, modes.Unknown, "like no mode that can be told"},
	} {
		b := &book{o: options{conf: modes.Conf{Name: "mine"}}, expectations: expected, res: &reports.Results{}, counts: map[string]*reports.Counts{}}
		for feature, e := range expected[modes.Label(c.like, modes.ByCNI)] {
			if c.features == nil || slices.Contains(c.features, feature) {
				b.res.Results = append(b.res.Results, reports.Result{Mode: modes.Unknown, Implementation: "mine", Feature: feature, Observed: e.Expect, Outcome: reports.Pass})
			}
		}
		ms := b.liken([]modes.Mode{b.o.conf.Mode().ByConf(b.o.conf)})
		for _, r := range b.res.Results {
			if r.Mode != c.nearest || c.nearest == c.like && r.Expected == "" {
				t.Errorf("%s by %v: %s of mode %s", c.like, c.features, r.Feature, r.Mode)
				break
			}
		}
		if !strings.Contains(b.likeness[0], c.says) || ms[0].Name != c.nearest {
			t.Errorf("%s by %v: %s: %q", c.like, c.features, ms[0], b.likeness)
		}
	}
}

// Plugins with a fault are caught, by those questions that the fault is about, and soon.
func TestFaultyPlugins(t *testing.T) {
	t.Parallel() // one that hangs is waited for
	for _, c := range []struct {
		name, plugin string
		lines        []string
		red          string // features, or all of them: all
		says         string
	}{
		{"nothing is masqueraded", "bridge", []string{
			`conf=$(sed 's/"ipMasq":true/"ipMasq":false/')`, `echo "$conf" | "${0%/*}/real"`,
		}, "container-to-external-ipv4", "last seen at"},
		{"DEL leaves everything", "bridge", []string{`[ "$CNI_COMMAND" = DEL ] || exec "${0%/*}/real"`}, "attach-detach", "differences to the host before"},
		{"ports are promised only", "portmap", []string{
			`sed -n 's/.*"prevResult":\({.*}\),"runtimeConfig".*/\1/p; t; s/.*"prevResult":\({.*}\),"type".*/\1/p'`,
		}, "publish-tcp-ipv4", ""},
		{"it hangs", "bridge", []string{"exec sleep 4711"}, "all", "did not end within 1m0s and was killed"},
		{"it crashes", "bridge", []string{"kill -KILL $$"}, "all", "signal: killed"},
		{"it talks", "bridge", []string{"echo the bridge is up"}, "all", "invalid character"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir := equipped(t, c.plugin, c.lines...)
			began := time.Now()
			got, code := judged(t, dir)
			if took := time.Since(began); code != exitUnexpected || took > 6*time.Minute {
				t.Errorf("exit code %d after %s", code, took)
			}
			for feature, r := range got {
				want := reports.Pass
				if c.red == "all" || c.red == feature {
					want = reports.Fail
				}
				if r.Outcome != want || want == reports.Fail && !strings.Contains(r.Detail, c.says) {
					t.Errorf("%s: outcome %s: want %s, and that it says %q: %s", feature, r.Outcome, want, c.says, r.Detail)
				}
			}
		})
	}
}

// A report says which modes an implementation does not have, where others stand beside it.
func TestUncarried(t *testing.T) {
	var ms []modes.Mode
	for _, name := range []string{"bridge", "ptp", "bridge (cni)", "vxlan-kv"} {
		m, ok := modes.Named(name, nil)
		if !ok {
			t.Fatal(name)
		}
		ms = append(ms, m)
	}
	want := []string{"Not carried out by cni, which does not have it: vxlan-kv.", "Not carried out by docker, which does not have it: ptp, vxlan-kv."}
	if got := uncarried(ms, modes.Implementations()); !slices.Equal(got, want) {
		t.Errorf("%q: want %q", got, want)
	}
	if got := uncarried(ms, []string{modes.ByKernel}); got != nil {
		t.Errorf("%q, where nobody else was asked", got)
	}
}
