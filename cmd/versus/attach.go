package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/modebench/modebench/modes"
	"github.com/modebench/modebench/topology/lab"
	"github.com/modebench/modebench/topology/netns"
	"github.com/modebench/modebench/topology/space"
)

// compareAttach attaches containers one by one, as the suites do, and by the plugin of the same kind, whose process is
// started for each as container runtimes do. The plugin gets a namespace that exists; here it is made too. The plugin
// numbers IPv4 only: with IPv6 it would wait for duplicate address detection.
func compareAttach(b *bench) error {
	for _, kind := range []struct{ mode, plugin string }{{"bridge", "bridge"}, {"ptp", "ptp"}, {"macvlan-bridge", "macvlan"}} {
		c := contest{entries: []entry{{"ours, mode " + kind.mode, b.attach(kind.mode)}}}
		switch {
		case b.plugins == "":
			fmt.Println("left out: the CNI plugins: -cni DIR says where they are")
		case has("ip", "apt install iproute2"):
			c.entries = append(c.entries, entry{"CNI plugin " + kind.plugin, b.byCNI(kind.plugin)})
		}
		if err := c.run(b.blocks); err != nil {
			return err
		}
		c.print(fmt.Sprintf("One container attached to a running lab and detached, median of %d", b.attaches), "attach", "detach")
	}
	return nil
}

func (b *bench) attach(name string) func() (map[string]float64, error) {
	return func() (map[string]float64, error) {
		m, _ := modes.Find(name)
		p, err := oneHost(0)
		if err != nil {
			return nil, err
		}
		l, err := lab.Start(ctx, netns.Driver{}, p)
		if err != nil {
			return nil, err
		}
		defer l.Close()
		if err := l.Apply(ctx, "mode", m.Wire(p).Setup); err != nil {
			return nil, err
		}
		host := p.Hosts()[0]
		return b.repeat(func(i int) (attached, detached time.Duration, err error) {
			c, err := p.Container(host.Name, p.Networks[0].Name, i+1)
			if err != nil {
				return 0, 0, err
			}
			start := time.Now()
			if err := l.Apply(ctx, "attach", m.Attach(p, host, c)); err != nil {
				return 0, 0, err
			}
			attached = time.Since(start)
			start = time.Now()
			err = l.Undo(ctx, "attach")
			return attached, time.Since(start), err
		})
	}
}

// repeat gives the medians of many.
func (b *bench) repeat(f func(i int) (attached, detached time.Duration, err error)) (map[string]float64, error) {
	var attach, detach []float64
	for i := range b.attaches {
		a, d, err := f(i)
		if err != nil {
			return nil, err
		}
		attach, detach = append(attach, a.Seconds()), append(detach, d.Seconds())
	}
	return map[string]float64{"attach": summary(attach).Center, "detach": summary(detach).Center}, nil
}

// byCNI adds and deletes with a plugin, in a host of its own that has an interface eth0 for macvlan.
func (b *bench) byCNI(plugin string) func() (map[string]float64, error) {
	return func() (map[string]float64, error) {
		host, err := space.New()
		if err != nil {
			return nil, err
		}
		defer host.Close()
		for _, args := range []string{"link set lo up", "link add eth0 up type veth peer name far", "link set far up"} {
			if out, err := within(host, nil, "", "ip", strings.Fields(args)...); err != nil {
				return nil, fmt.Errorf("ip %s: %w: %s", args, err, out)
			}
		}
		data, err := os.MkdirTemp(b.scratch, "cni")
		if err != nil {
			return nil, err
		}
		config, err := json.Marshal(map[string]any{
			"cniVersion": "1.0.0", "name": "versus", "type": plugin,
			"bridge": "br0", "isGateway": true, "master": "eth0", "mode": "bridge",
			"ipam": map[string]any{
				"type": "host-local", "subnet": "10.0.0.0/16", "dataDir": data, "routes": []any{map[string]any{"dst": "0.0.0.0/0"}},
			},
		})
		if err != nil {
			return nil, err
		}
		return b.repeat(func(i int) (attached, detached time.Duration, err error) {
			c, err := space.New()
			if err != nil {
				return 0, 0, err
			}
			defer c.Close()
			took := map[string]time.Duration{}
			for _, command := range []string{"ADD", "DEL"} {
				env := []string{
					"CNI_COMMAND=" + command, "CNI_CONTAINERID=c" + strconv.Itoa(i), "CNI_NETNS=/proc/self/fd/3",
					"CNI_IFNAME=eth0", "CNI_PATH=" + b.plugins, "PATH=" + os.Getenv("PATH"),
				}
				start := time.Now()
				if out, err := within(host, []*os.File{c.File()}, string(config), filepath.Join(b.plugins, plugin), env...); err != nil {
					return 0, 0, fmt.Errorf("%s %s: %w: %s", plugin, command, err, out)
				}
				took[command] = time.Since(start)
			}
			return took["ADD"], took["DEL"], nil
		})
	}
}

// within runs a program inside a namespace. What contains an equals sign goes into its environment.
func within(s *space.Space, files []*os.File, input, program string, args ...string) (string, error) {
	cmd := exec.Command(program)
	for _, a := range args {
		if strings.Contains(a, "=") {
			cmd.Env = append(cmd.Env, a)
		} else {
			cmd.Args = append(cmd.Args, a)
		}
	}
	cmd.Stdin, cmd.ExtraFiles = strings.NewReader(input), slices.Clone(files)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := s.Start(cmd); err != nil {
		return "", err
	}
	err := cmd.Wait()
	return out.String(), err
}
