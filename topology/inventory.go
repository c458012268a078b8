package topology

import (
	"encoding/json"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/google/jsonschema-go/jsonschema"
)

// Inventory says on which real machines the machines of a topology are: an inventory file.
type Inventory struct {
	Config string          `yaml:"config,omitempty" json:"config,omitempty"` // a file of ssh_config(5) that leads to all of them; empty: the user's own
	Sites  map[string]Site `yaml:"machines" json:"machines"`                 // by the topology's machine

	Text string `yaml:"-" json:"text,omitempty"` // the ssh_config that the file is, where it is one; empty: it is YAML
}

// Site is where a machine of a topology is. In a file it is either the destination or a mapping.
type Site struct {
	SSH  string            `yaml:"ssh,omitempty" json:"ssh,omitempty"`   // a destination as ssh(1) takes it
	On   string            `yaml:"on,omitempty" json:"on,omitempty"`     // another machine of the topology, beside which it is; cables between the two are veth pairs
	NICs map[string]string `yaml:"nics,omitempty" json:"nics,omitempty"` // the topology's interface, of a tor MACHINE-INTERFACE → the real machine's; one that is not named is known by the MAC address of the plan
}

var (
	destinationForm = regexp.MustCompile(`^[^-\s][^\s]*$`)
	deviceForm      = regexp.MustCompile(`^[^\s/:]{1,15}$`) // dev_valid_name() of Linux net/core/dev.c
	sshConfigForm   = regexp.MustCompile(`(?im)^[ \t]*(host|match|include)[ \t=]+\S`)
	sshHostForm     = regexp.MustCompile(`(?im)^[ \t]*host[ \t=]+(.+)$`)
)

// ReadInventory reads an inventory of a topology: YAML, as strictly as Read does, or the text of an ssh_config(5), as
// `vagrant ssh-config` prints it, in which the Host entries are named as the topology's machines. Every machine of the topology has a
// place in what it gives: externals that the file does not name are beside the first tor. Errors are of type *Error.
func ReadInventory(name string, data []byte, t Topology) (Inventory, error) {
	d := newDecoder(name, data)
	v := Inventory{}
	machines := slices.Concat(names(t.Tors), names(t.Hosts), names(t.External))
	if sshConfigForm.Match(data) {
		v.Sites, v.Text = map[string]Site{}, string(data)
		for _, m := range sshHostForm.FindAllSubmatch(data, -1) {
			for _, host := range strings.Fields(string(m[1])) {
				if slices.Contains(machines, host) {
					v.Sites[host] = Site{SSH: host}
				}
			}
		}
	} else if err := d.document(data, reflect.ValueOf(&v).Elem(), "machines"); err != nil {
		return Inventory{}, err
	}
	if f := v.check(t, machines); f != nil {
		return Inventory{}, d.flaw(f)
	}
	return v, nil
}

// check checks what was written, and adds the externals that were not.
func (v Inventory) check(t Topology, machines []string) *flaw {
	for _, name := range names(v.Sites) {
		s, path := v.Sites[name], []string{"machines", name}
		if !slices.Contains(machines, name) {
			return &flaw{path: path, key: true, problem: fmt.Sprintf("%s has no machine %q", t.Name, name), remedy: "one of " + list(machines)}
		}
		switch {
		case s.SSH == "" && s.On == "":
			return &flaw{path: path, problem: fmt.Sprintf("%s is nowhere", name), remedy: "ssh: a destination such as root@192.0.2.1, or on: another machine"}
		case s.SSH != "" && s.On != "":
			return &flaw{path: append(path, "on"), problem: fmt.Sprintf("%s is at %s and beside %s", name, s.SSH, s.On), remedy: "ssh or on"}
		case s.SSH != "" && !destinationForm.MatchString(s.SSH):
			return &flaw{path: append(path, "ssh"), problem: fmt.Sprintf("destination %q", s.SSH), remedy: "one that ssh takes, such as root@192.0.2.1 or ssh://root@192.0.2.1:2222"}
		case s.On != "" && v.Sites[s.On].SSH == "":
			return &flaw{path: append(path, "on"), problem: fmt.Sprintf("%q has no destination", s.On), remedy: "one of " + list(slices.DeleteFunc(names(v.Sites), func(n string) bool { return v.Sites[n].SSH == "" }))}
		}
		devices := map[string]string{}
		known := t.interfaces(name)
		for _, nic := range names(s.NICs) {
			path, device := append(path, "nics", nic), s.NICs[nic]
			switch {
			case !slices.Contains(known, nic):
				return &flaw{path: path, key: true, problem: fmt.Sprintf("%s has no interface %q", name, nic), remedy: "one of " + list(known)}
			case !deviceForm.MatchString(device):
				return &flaw{path: path, problem: fmt.Sprintf("interface %q", device), remedy: "the name of one of the machine's own, such as enp2s0"}
			case devices[device] != "":
				return &flaw{path: path, problem: fmt.Sprintf("%s is %s already", device, devices[device]), remedy: "an interface for each"}
			}
			devices[device] = nic
		}
	}
	beside := slices.DeleteFunc(names(t.Tors), func(name string) bool { return v.Sites[name].SSH == "" })
	for _, name := range machines {
		if _, ok := v.Sites[name]; ok {
			continue
		}
		if _, external := t.External[name]; !external || len(beside) == 0 {
			return &flaw{path: []string{"machines", name}, problem: fmt.Sprintf("nobody says where %s is", name), remedy: "a place for each of " + list(machines) + "; externals may be left out"}
		}
		v.Sites[name] = Site{On: beside[0]}
	}
	return nil
}

// interfaces are those of a machine that an inventory may name.
func (t Topology) interfaces(machine string) (list []string) {
	if h, ok := t.Hosts[machine]; ok {
		return names(h.NICs)
	}
	if x, ok := t.External[machine]; ok {
		return names(x.NICs)
	}
	for _, group := range []map[string]map[string]NIC{t.hostNICs(), t.externalNICs()} {
		for _, end := range names(group) {
			for _, nic := range names(group[end]) {
				if slices.Contains(t.Tors[machine].Joins, group[end][nic].Segment) {
					list = append(list, portName(end, nic))
				}
			}
		}
	}
	return list
}

// At is the destination of the real machine that a machine is on.
func (v Inventory) At(machine string) string {
	if on := v.Sites[machine].On; on != "" {
		return v.Sites[on].SSH
	}
	return v.Sites[machine].SSH
}

// InventorySchema is the JSON Schema (draft 2020-12) of an inventory file in YAML. It says less than ReadInventory.
func InventorySchema() ([]byte, error) {
	site, err := jsonschema.For[Site](nil)
	if err != nil {
		return nil, fmt.Errorf("schema of an inventory: %w", err)
	}
	site.Properties["ssh"].Pattern, site.Properties["on"].Pattern = destinationForm.String(), nameForm.String()
	site.Properties["nics"].AdditionalProperties.Pattern = deviceForm.String()
	s, err := jsonschema.For[Inventory](&jsonschema.ForOptions{TypeSchemas: map[reflect.Type]*jsonschema.Schema{
		reflect.TypeFor[Site](): {
			Description: "the destination as ssh takes it, or a mapping",
			OneOf:       []*jsonschema.Schema{{Type: "string", Pattern: destinationForm.String()}, site},
		},
	}})
	if err != nil {
		return nil, fmt.Errorf("schema of an inventory: %w", err)
	}
	delete(s.Properties, "text")
	s.Schema, s.Title = "https://json-schema.org/draft/2020-12/schema", "modebench inventory"
	s.Properties["machines"].PropertyNames = &jsonschema.Schema{Pattern: nameForm.String()}
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("schema of an inventory: %w", err)
	}
	return append(data, '\n'), nil
}
