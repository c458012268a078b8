package modes

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/modebench/modebench/topology"
)

// Conf is somebody's own network configuration list (CNI specification 1.1.0 section 1), by whose plugins a mode may be carried out.
type Conf struct {
	Name    string // of the list, and as an implementation
	Text    string // JSON, in which words in braces stand for what a network has (see Words)
	Plugins string // absolute directory of the plugins
}

// Words stand in a Conf for what differs from network to network, each in braces. "{mtu}" in quotes by itself becomes a number.
func Words() []string {
	return []string{"network", "number", "nic", "mtu", "subnet4", "gateway4", "subnet6", "gateway6", "segment4", "segment6"}
}

// filled is the text with its words replaced by a network's on a host.
func (c Conf) filled(p *topology.Plan, host *topology.Machine, n topology.PlannedNetwork) string {
	up := nic(p, host, n.Name)
	number := slices.IndexFunc(p.Networks, func(o topology.PlannedNetwork) bool { return o.Name == n.Name })
	values := []any{n.Name, number, up.Name, up.MTU, n.V4, n.Gateway4, n.V6, n.Gateway6, up.V4.Masked(), up.V6.Masked()}
	pairs := []string{`"{mtu}"`, fmt.Sprint(up.MTU)} // a number
	for i, w := range Words() {
		pairs = append(pairs, "{"+w+"}", fmt.Sprint(values[i]))
	}
	return strings.NewReplacer(pairs...).Replace(c.Text)
}

// parsed is the list of a network on a host, with a name of its own.
func (c Conf) parsed(p *topology.Plan, host *topology.Machine, n topology.PlannedNetwork) (list, []Plugin, error) {
	text := c.filled(p, host, n)
	var l list
	if err := json.Unmarshal([]byte(text), &l); err != nil {
		if wrong := (*json.SyntaxError)(nil); errors.As(err, &wrong) {
			return nil, nil, fmt.Errorf("line %d: %w", 1+strings.Count(text[:wrong.Offset], "\n"), err)
		}
		return nil, nil, err
	}
	var of struct {
		Plugins []Plugin `json:"plugins"`
	}
	if err := json.Unmarshal([]byte(text), &of); err != nil {
		return nil, nil, err
	}
	l["name"] = fmt.Sprint(l["name"], "-", n.Name)
	return l, of.Plugins, nil
}

// able tells whether a plugin says that it has a capability.
func (p Plugin) able(capability string) bool {
	capabilities, _ := p["capabilities"].(map[string]any)
	has, _ := capabilities[capability].(bool)
	return has
}

// chained tells whether a plugin after the first has a capability, whatever the network.
func (c Conf) chained(capability string) bool {
	var pairs []string
	for _, w := range Words() {
		pairs = append(pairs, "{"+w+"}", "0")
	}
	var of struct {
		Plugins []Plugin `json:"plugins"`
	}
	_ = json.Unmarshal([]byte(strings.NewReplacer(pairs...).Replace(c.Text)), &of) // it was read
	return len(of.Plugins) > 1 && slices.ContainsFunc(of.Plugins[1:], func(p Plugin) bool { return p.able(capability) })
}

// Types are the plugins that the list names, its address managers among them, each once.
func (c Conf) Types(p *topology.Plan) (types []string) {
	_, plugins, _ := c.parsed(p, p.Hosts()[0], p.Networks[0])
	add := func(of any) {
		if name, ok := of.(string); ok && !slices.Contains(types, name) {
			types = append(types, name)
		}
	}
	for _, plugin := range plugins {
		add(plugin["type"])
		if ipam, ok := plugin["ipam"].(map[string]any); ok {
			add(ipam["type"])
		}
	}
	return types
}

// implementationName is what a list may be called: it is a part of labels, of flags and of the names of files.
var implementationName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]*$`)

// ReadConf reads a list as it is for a plan. An error says what is wrong with it, and what would be right.
func ReadConf(text []byte, plugins string, p *topology.Plan) (Conf, error) {
	c := Conf{Text: string(text), Plugins: plugins}
	host := p.Hosts()[0]
	l, chain, err := c.parsed(p, host, p.Networks[0])
	if err != nil {
		return c, fmt.Errorf("%w: want a network configuration list, in JSON", err)
	}
	c.Name = strings.TrimSuffix(l["name"].(string), "-"+p.Networks[0].Name)
	switch {
	case l["type"] != nil:
		return c, errors.New("this is the configuration of one plugin: want a list, which has plugins")
	case !implementationName.MatchString(c.Name) || slices.Contains(Implementations(), c.Name):
		return c, fmt.Errorf("name %q: want one in small letters, and none of %s", c.Name, strings.Join(Implementations(), ", "))
	case len(chain) == 0:
		return c, errors.New("it has no plugins: want one at least")
	}
	for i, plugin := range chain {
		if kind, ok := plugin["type"].(string); !ok || kind == "" {
			return c, fmt.Errorf("plugin %d has no type: want the name of its program", i+1)
		}
	}
	if !slices.ContainsFunc(chain, func(p Plugin) bool { return p.able("ips") }) {
		return c, errors.New(`no plugin has the capability ips, by which the lab gives containers their addresses: want "capabilities": {"ips": true}`)
	}
	if len(p.Networks) > 1 && c.filled(p, host, p.Networks[0]) == c.filled(p, host, p.Networks[1]) {
		return c, fmt.Errorf("it says the same of every network: want one of {%s} where they differ", strings.Join(Words(), "}, {"))
	}
	return c, nil
}

// Unknown is the name of what a Conf is where nobody says which mode it is to be.
const Unknown = "unknown"

// Mode is what may be said of the mode that nobody names: containers have an interface of their own, with addresses of the network's private blocks where the list
// names these, else of the segment.
func (c Conf) Mode() Mode {
	m := Mode{Name: Unknown, Addrs: segmentAddrs, Device: eth0}
	if strings.Contains(c.Text, "{subnet4}") || strings.Contains(c.Text, "{subnet6}") {
		m.Addrs = privateAddrs
	}
	return m
}

// ByConf is the mode carried out by the plugins of a list that ReadConf has read. Ports are published, and rates kept, by those plugins after the first that
// have the capabilities portMappings and bandwidth.
func (m Mode) ByConf(c Conf) Mode {
	if m.Addrs == nil {
		m.Addrs = privateAddrs
	}
	var policy policing
	if m.CNI != nil {
		if policy = m.CNI.Policy; m.CNI.Addrs != nil {
			m.Addrs = m.CNI.Addrs
		}
	}
	alone := func(capability string) func(*topology.Plan, *topology.Machine, topology.PlannedNetwork) list {
		return func(p *topology.Plan, host *topology.Machine, n topology.PlannedNetwork) list {
			l, chain, _ := c.parsed(p, host, n) // it was read
			for _, plugin := range chain[min(1, len(chain)):] {
				if plugin.able(capability) {
					l["plugins"] = []Plugin{plugin}
					return l
				}
			}
			return nil
		}
	}
	with := lists{attach: func(p *topology.Plan, host *topology.Machine, n topology.PlannedNetwork) list {
		l, _, _ := c.parsed(p, host, n)
		return l
	}}
	if c.chained("portMappings") {
		with.publish = alone("portMappings")
	}
	if c.chained("bandwidth") {
		with.rate = alone("bandwidth")
	}
	return m.plugged(c.Name, c.Plugins, policy, with)
}
