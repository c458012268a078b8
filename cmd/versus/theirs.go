package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/modebench/modebench/topology/space"
)

// shell is a shell in a fresh network namespace, whose own devices have no IPv6.
type shell struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func newShell() (*shell, error) {
	cmd := exec.Command("unshare", "--net", "--mount", "sh")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	s := &shell{cmd, in, bufio.NewReader(out)}
	_, err = s.run("ip link set lo up && echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6")
	return s, err
}

// run runs a command and gives the time that it took.
func (s *shell) run(command string) (time.Duration, error) {
	start := time.Now()
	if _, err := fmt.Fprintf(s.in, "%s\necho status $?\n", command); err != nil {
		return 0, err
	}
	for {
		line, err := s.out.ReadString('\n')
		if err != nil {
			return 0, fmt.Errorf("%s: %w", command, err)
		}
		if status, ok := strings.CutPrefix(strings.TrimSpace(line), "status "); ok {
			if status != "0" {
				return 0, fmt.Errorf("%s: exit status %s", command, status)
			}
			return time.Since(start), nil
		}
	}
}

// Close ends the shell and with it its namespace.
func (s *shell) Close() error {
	_ = s.in.Close()
	return s.cmd.Wait()
}

// batches are what ip(8) is told for so many containers: to make namespaces and pairs, to make the same as ports of
// bridges, to remove all, and, in a file each, to set a container up, and then the bridges, as in plain.
type batches struct{ create, wired, remove, each string }

func (b *bench) batches(containers int) (files batches, err error) {
	dir := filepath.Join(b.scratch, strconv.Itoa(containers))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return files, err
	}
	var namespaces, pairs, bridges, wires, remove, each, up strings.Builder
	for i := range containers {
		fmt.Fprintf(&namespaces, "netns add c%d\n", i)
		fmt.Fprintf(&pairs, "link add v%d type veth peer name eth0 netns c%d\n", i, i)
		if i%ports == 0 {
			fmt.Fprintf(&bridges, "link add br%d type bridge\naddr add 10.%d.0.1/16 dev br%d\n", i/ports, i/ports, i/ports)
			fmt.Fprintf(&up, "ip link set br%d up\n", i/ports)
		}
		fmt.Fprintf(&wires, "link add v%d up master br%d type veth peer name eth0 netns c%d\n", i, i/ports, i)
		fmt.Fprintf(&remove, "netns del c%d\n", i)
		config := filepath.Join(dir, fmt.Sprintf("c%d", i))
		text := fmt.Sprintf("link set lo up\nlink set eth0 up\naddr add 10.%d.1.%d/16 dev eth0\nroute add default via 10.%d.0.1\n", i/ports, 1+i%ports, i/ports)
		if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
			return files, err
		}
		fmt.Fprintf(&each, "ip -n c%d -batch %s\n", i, config)
	}
	for _, f := range []struct {
		path *string
		text string
	}{
		{&files.create, namespaces.String() + pairs.String()},
		{&files.wired, namespaces.String() + bridges.String() + wires.String()},
		{&files.remove, remove.String()},
		{&files.each, "set -e\n" + each.String() + up.String()},
	} {
		*f.path = filepath.Join(dir, fmt.Sprintf("batch%d", len(f.text)))
		if err := os.WriteFile(*f.path, []byte(f.text), 0o644); err != nil {
			return files, err
		}
	}
	return files, nil
}

// byIP starts and stops as many containers by ip(8): all of them, with bridges, addresses and routes, or only
// namespaces and pairs.
func (b *bench) byIP(containers int, whole bool) func() (map[string]float64, error) {
	return func() (map[string]float64, error) {
		files, err := b.batches(containers)
		if err != nil {
			return nil, err
		}
		s, err := newShell()
		if err != nil {
			return nil, err
		}
		command := "ip -batch " + files.create
		if whole {
			last := containers - 1
			command = fmt.Sprintf("ip -batch %s && sh %s && ping -qnc1 -W5 10.0.1.1 && ping -qnc1 -W5 10.%d.1.%d", files.wired, files.each, last/ports, 1+last%ports)
		}
		started, err := s.run(command)
		if err != nil {
			return nil, err
		}
		stopped, err := gone(func() error {
			if _, err := s.run("ip -batch " + files.remove); err != nil {
				return err
			}
			return s.Close()
		})
		return map[string]float64{"start": started.Seconds(), "stop": stopped.Seconds()}, err
	}
}

// python is the interpreter that Debian's package of Mininet belongs to.
const python = "/usr/bin/python3"

// mininet is a network of one Linux bridge without a controller. Its limits of the whole machine, which Mininet sets
// when it begins, are not set.
const mininet = `
import sys, time
from mininet.log import setLogLevel
from mininet.net import Mininet
from mininet.nodelib import LinuxBridge
from mininet.topo import SingleSwitchTopo
Mininet.inited = True
setLogLevel("error")
begin = time.monotonic()
net = Mininet(SingleSwitchTopo(int(sys.argv[1])), switch=LinuxBridge, controller=None)
net.start()
for host in net.hosts[1], net.hosts[-1]:
    if "1 received" not in net.hosts[0].cmd("ping -qnc1 -W5", host.IP()):
        sys.exit("no answer from " + host.IP())
started = time.monotonic()
print("started", started - begin, flush=True)
net.stop()
print("stopped", time.monotonic() - started, flush=True)
`

// byMininet starts and stops as many hosts. Its time to stop is what stop() takes: it removes device by device.
func byMininet(containers int) func() (map[string]float64, error) {
	return func() (map[string]float64, error) {
		cmd := exec.Command(python, "-c", mininet, strconv.Itoa(containers))
		s, err := space.New()
		if err != nil {
			return nil, err
		}
		defer s.Close()
		var out strings.Builder
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := s.Start(cmd); err != nil {
			return nil, err
		}
		if err := cmd.Wait(); err != nil {
			return nil, fmt.Errorf("%w: %s", err, out.String())
		}
		measured := map[string]float64{}
		for line := range strings.Lines(out.String()) {
			for word, what := range map[string]string{"started ": "start", "stopped ": "stop"} {
				if figure, ok := strings.CutPrefix(strings.TrimSpace(line), word); ok {
					if measured[what], err = strconv.ParseFloat(figure, 64); err != nil {
						return nil, err
					}
				}
			}
		}
		if len(measured) != 2 {
			return nil, fmt.Errorf("said %q", out.String())
		}
		return measured, nil
	}
}
