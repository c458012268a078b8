package topology_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"
	"github.com/google/jsonschema-go/jsonschema"

	"github.com/modebench/modebench/topology"
)

const inventory = `config: lab.conf
machines:
  tor: root@192.0.2.1
  h1:
    ssh: ssh://lab@192.0.2.2:2222
    nics: {eth0: enp2s0, eth1: enp3s0}
  h2: {ssh: h2.example}
  x: {on: tor}
`

func labTopology(t *testing.T) topology.Topology {
	t.Helper()
	lab, err := topology.Read("two-hosts.yaml", source(t, "topologies/two-hosts.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	return lab
}

// TestReadInventory reads both kinds of inventory.
func TestReadInventory(t *testing.T) {
	beside := topology.Site{On: "tor"}
	config := "# by vagrant ssh-config\nHost tor\n  HostName 127.0.0.1\n  Port 2222\nHost h1\n  Port 2200\n\nHost h2\nHost elsewhere\n"
	for text, want := range map[string]topology.Inventory{
		inventory: {Config: "lab.conf", Sites: map[string]topology.Site{
			"tor": {SSH: "root@192.0.2.1"}, "h1": {SSH: "ssh://lab@192.0.2.2:2222", NICs: map[string]string{"eth0": "enp2s0", "eth1": "enp3s0"}},
			"h2": {SSH: "h2.example"}, "x": beside, "y": beside,
		}},
		config: {Text: config, Sites: map[string]topology.Site{"tor": {SSH: "tor"}, "h1": {SSH: "h1"}, "h2": {SSH: "h2"}, "x": beside, "y": beside}},
	} {
		got, err := topology.ReadInventory("lab", []byte(text), labTopology(t))
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("(-want +got):\n%s", d)
		}
		if at := got.At("y"); at != got.At("tor") || at == "" {
			t.Errorf("y is at %q: want it beside tor", at)
		}
	}
}

// TestRefusedInventories answers each mistake with its place, what is wrong, and what would be right; and most are no instance of the schema either.
func TestRefusedInventories(t *testing.T) {
	data, err := topology.InventorySchema()
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "../fixtures/inventory.schema.json", string(data))
	var s jsonschema.Schema
	if err := json.Unmarshal(data, &s); err != nil {
		t.Fatal(err)
	}
	schema, err := s.Resolve(nil)
	if err != nil {
		t.Fatal(err)
	}
	valid := func(text string) bool {
		var v any
		return yaml.Unmarshal([]byte(text), &v) == nil && schema.Validate(v) == nil
	}
	if !valid(inventory) {
		t.Error("the schema refuses a good inventory")
	}
	var all strings.Builder
	for _, e := range []edit{
		{"unknown key", "config:", "conf:", true},
		{"unknown machine", "h2:", "h3:", false},
		{"a host is missing", "  h2: {ssh: h2.example}\n", "", false},
		{"an option for ssh", "root@192.0.2.1", "-oProxyCommand=x", true},
		{"no destination", "{ssh: h2.example}", "{nics: {eth0: a}}", false},
		{"two places", "{ssh: h2.example}", "{ssh: h2.example, on: h1}", false},
		{"beside nothing", "{on: tor}", "{on: y}", false},
		{"unknown interface", "eth1: enp3s0", "eth2: enp3s0", false},
		{"one interface twice", "eth1: enp3s0", "eth1: enp2s0", false},
		{"no interface's name", "eth1: enp3s0", "eth1: ../enp3s0", true},
		{"a number", "root@192.0.2.1", "22", true},
	} {
		bad := strings.Replace(inventory, e.old, e.new, 1)
		_, err := topology.ReadInventory("lab.yaml", []byte(bad), labTopology(t))
		if err == nil || bad == inventory {
			t.Errorf("%s: accepted", e.name)
			continue
		}
		if e.schema == valid(bad) {
			t.Errorf("%s: the schema refuses it: %t, want %t", e.name, !e.schema, e.schema)
		}
		all.WriteString(e.name + "\n" + err.Error() + "\n\n")
	}
	_, err = topology.ReadInventory("lab.conf", []byte("Host h1\n"), labTopology(t))
	all.WriteString("ssh_config without a host\n" + err.Error() + "\n")
	golden(t, "testdata/inventories.txt", all.String())
}
