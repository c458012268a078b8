package modes_test

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/modebench/modebench/fixtures"
	"github.com/modebench/modebench/modes"
	"github.com/modebench/modebench/topology"
)

var update = flag.Bool("update", false, "write the golden wirings anew")

// defaultPlan is a mode's plan of the topology that every mode's golden wiring is of.
func defaultPlan(t *testing.T, m modes.Mode) *topology.Plan {
	t.Helper()
	const file = "topologies/two-hosts.yaml"
	data, err := fixtures.FS.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	top, err := topology.Read(file, data)
	if err != nil {
		t.Fatal(err)
	}
	p, err := m.Plan(top)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// golden compares a text with a file of fixtures/wiring, or writes it.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("../fixtures/wiring", name+".txt")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s says otherwise (-want +got); where the change is right: go test ./modes -update\n%s", path, diff)
	}
}

// What a mode does to a host is a document, to be read by whoever reviews a change of the mode.
func TestGoldenWirings(t *testing.T) {
	var published, linked strings.Builder
	known := []string{"published", "linked"}
	for _, m := range modes.All() {
		known = append(known, m.Name)
		p := defaultPlan(t, m)
		golden(t, m.Name, m.Wire(p).String())
		tell(&linked, p, m)
		if m.Publish == nil {
			continue
		}
		host := p.Hosts()[0]
		for _, c := range host.Containers[:2] {
			fmt.Fprintf(&published, "# mode %s: port 8080 of %s for port 80 of %s\n", m.Name, host.Name, c.ID())
			for _, s := range m.Publish(p, host, c, modes.Port{Proto: "tcp", Host: 8080, Container: 80}) {
				fmt.Fprintln(&published, s)
			}
			fmt.Fprintf(&published, "# mode %s: the same by udp\n", m.Name)
			for _, s := range m.Publish(p, host, c, modes.Port{Proto: "udp", Host: 8080, Container: 80}) {
				fmt.Fprintln(&published, s)
			}
		}
	}
	golden(t, "published", published.String())
	golden(t, "linked", linked.String())
	for _, m := range modes.All() {
		for _, by := range modes.Implementations()[1:] {
			m, ok := m.By(by, modes.Dirs{modes.ByCNI: "/opt/cni/bin"})
			if !ok {
				continue
			}
			p := defaultPlan(t, m)
			host := p.Hosts()[0]
			text := m.Wire(p).String()
			if c := host.Containers[0]; m.Publish != nil {
				for _, s := range m.Publish(p, host, c, modes.Port{Proto: "tcp", Host: 8080, Container: 80}) {
					text += fmt.Sprintf("\n# port 8080 of %s for port 80 of %s\n%s\n", host.Name, c.ID(), s)
				}
			}
			known = append(known, by+"/"+m.Name)
			golden(t, by+"/"+m.Name, text)
		}
	}
	files, err := filepath.Glob("../fixtures/wiring/*.txt")
	if err != nil {
		t.Fatal(err)
	}
	others, err := filepath.Glob("../fixtures/wiring/*/*.txt")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range append(files, others...) {
		if name, err := filepath.Rel("../fixtures/wiring", strings.TrimSuffix(f, ".txt")); err != nil || !slices.Contains(known, name) {
			t.Errorf("%s is the wiring of no mode", f)
		}
	}
}

// tell writes what links the first container to the second, when it starts and when that was started again; and, where the second is an ambassador,
// what makes it one, and what sets it anew.
func tell(w *strings.Builder, p *topology.Plan, m modes.Mode) {
	host := p.Hosts()[0]
	if m.Link == nil {
		return
	}
	to, source := host.Containers[0], host.Containers[1]
	write := func(what string, steps []topology.Step) {
		fmt.Fprintf(w, "# mode %s: %s\n", m.Name, what)
		for _, s := range steps {
			fmt.Fprintln(w, s)
		}
	}
	if m.Ambassador != nil {
		carried := func(to string) []topology.Relay {
			return []topology.Relay{{Proto: "tcp", Port: 6379, To: netip.MustParseAddrPort(to)}, {Proto: "udp", Port: 53, To: netip.MustParseAddrPort(to)}}
		}
		first, then := carried("198.18.0.2:20001"), carried("[2001:db8:18::3]:20002")
		write(source.ID()+" is an ambassador", m.Ambassador(p, host, source, nil, first))
		write(source.ID()+" carries on to another host", m.Ambassador(p, host, source, first, then))
	}
	link := []modes.Link{{
		Alias: "db", Source: source, Env: []string{"PASSWORD=secret"},
		Exposed: []modes.Port{{Proto: "tcp", Container: 6379}, {Proto: "udp", Container: 53}},
	}}
	again := slices.Clone(link)
	again[0].Source.Private4 = netip.PrefixFrom(source.Private4.Addr().Next().Next(), source.Private4.Bits())
	write(to.ID()+" is linked to "+source.ID(), m.Link(p, host, to, nil, link))
	write(source.ID()+" was started again, with another address", m.Link(p, host, to, link, again))
}
