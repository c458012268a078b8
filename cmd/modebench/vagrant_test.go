package main

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/modebench/modebench/topology"
)

// TestVagrantfile holds the Vagrantfile's machines against the topology that it is for: an ssh_config names no interfaces, so these must have the MAC
// addresses of the plan.
func TestVagrantfile(t *testing.T) {
	text, err := os.ReadFile(top + "/Vagrantfile")
	if err != nil {
		t.Fatal(err)
	}
	p, _, err := readPlan(defaultTopology)
	if err != nil {
		t.Fatal(err)
	}
	there := map[string]string{} // by cable: its ends' addresses
	for _, m := range regexp.MustCompile(`\["([a-z0-9-]+)", "([0-9a-f]{12})", "([0-9a-f]{12})"\]`).FindAllStringSubmatch(string(text), -1) {
		there[m[1]] = m[2] + " " + m[3]
	}
	for _, h := range p.Hosts() {
		for _, n := range h.NICs {
			port := p.Machine(n.Peer.Machine).NIC(n.Peer.Interface)
			want := strings.ReplaceAll(port.MAC.String()+" "+n.MAC.String(), ":", "")
			if there[port.Name] != want {
				t.Errorf("cable %s has the addresses %q: want %q", port.Name, there[port.Name], want)
			}
			delete(there, port.Name)
		}
	}
	if len(there) > 0 {
		t.Errorf("cables that %s does not have: %v", p.Topology.Name, there)
	}
	v, err := topology.ReadInventory("vagrant ssh-config", []byte("Host h1\n  HostName 127.0.0.1\nHost h2\nHost tor\n"), p.Topology)
	if err != nil || v.Text == "" {
		t.Errorf("its ssh_config is no inventory: %v", err)
	}
}
