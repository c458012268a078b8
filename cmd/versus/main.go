// Command versus measures how fast labs start, attach and stop, side by side with what else is installed: the same
// namespaces by ip(8), Mininet, and the reference CNI plugins. Who goes first in a block is random; figures are
// medians, ratios those of neighbours in time. It judges nothing: figures depend on the machine and on who else uses it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/modebench/modebench/topology/netns"
	"github.com/modebench/modebench/topology/space"
)

const usage = `Usage: go run ./cmd/versus [FLAGS] [lab | scale | attach | all]

lab      1,000 containers against ip(8), 100 against Mininet
scale    what a container costs, by how many there are
attach   one container attached to a running lab, against the reference CNI plugins
all      all of them (default)

The generator of traffic is compared by: go test ./topology/host/traffic -run Versus -versus 10 -v

`

// versions of what is compared with and can be built.
const cniPlugins = "github.com/containernetworking/plugins@v1.9.1"

var parts = map[string]func(*bench) error{"lab": compareLabs, "scale": measureScale, "attach": compareAttach}

func main() {
	if len(os.Args) == 3 && os.Args[1] == "host" {
		end(netns.Main(os.Args[2], os.Stdin, os.Stdout))
	}
	inside := len(os.Args) > 1 && os.Args[1] == "inside"
	args := os.Args[1:]
	if inside {
		args = args[1:]
	}
	flags := flag.NewFlagSet("versus", flag.ExitOnError)
	flags.Usage = func() { fmt.Fprint(flags.Output(), usage); flags.PrintDefaults() }
	b := &bench{}
	flags.IntVar(&b.blocks, "blocks", 6, "how often everything is measured; 6 give a 95 % interval")
	flags.IntVar(&b.containers, "containers", 1000, "of the labs that are compared with ip(8)")
	flags.IntVar(&b.attaches, "attaches", 30, "in a block, by each")
	flags.StringVar(&b.plugins, "cni", "", "directory of the CNI `plugins` (default: those of this user's cache, built on demand)")
	_ = flags.Parse(args)
	chosen := flags.Args()
	if len(chosen) == 0 || slices.Equal(chosen, []string{"all"}) {
		chosen = []string{"lab", "scale", "attach"}
	}
	for _, name := range chosen {
		if parts[name] == nil || b.blocks < 1 || b.containers < 2 || b.attaches < 1 {
			flags.Usage()
			os.Exit(2)
		}
	}
	if !inside {
		if b.plugins == "" && slices.Contains(chosen, "attach") {
			b.plugins = builtPlugins()
		}
		err := isolate(append([]string{"-cni=" + b.plugins}, args...))
		if exit := (*exec.ExitError)(nil); errors.As(err, &exit) { // which has said why
			os.Exit(exit.ExitCode())
		}
		end(err)
	}
	end(b.measure(chosen))
}

func end(err error) {
	if err != nil && !errors.Is(err, io.EOF) {
		fmt.Fprintln(os.Stderr, "versus:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// isolate runs this program again as root of an empty network namespace, with a /run and a /proc of its own: what the
// others name, mount and set is gone with it.
func isolate(args []string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	const prepare = `mount -t tmpfs versus /run && mkdir /run/netns /run/lock && exec "$0" "$@"`
	cmd := exec.Command("unshare", append([]string{"--mount-proc", "sh", "-c", prepare, self, "inside"}, args...)...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	space.Isolate(cmd)
	if err := space.Start(cmd); err != nil {
		return fmt.Errorf("isolate: %w", err)
	}
	return cmd.Wait()
}

// builtPlugins is where the reference CNI plugins are, built if they are not; empty where they cannot be had.
func builtPlugins() string {
	cache, err := os.UserCacheDir()
	if err != nil {
		return ""
	}
	dir := filepath.Join(cache, "modebench", "cni-"+cniPlugins[strings.Index(cniPlugins, "@")+1:])
	path, version, _ := strings.Cut(cniPlugins, "@")
	args := []string{"install"}
	for _, p := range []string{"main/bridge", "main/ptp", "main/macvlan", "ipam/host-local"} {
		if _, err := os.Stat(filepath.Join(dir, filepath.Base(p))); err != nil {
			args = append(args, path+"/plugins/"+p+"@"+version)
		}
	}
	if len(args) == 1 {
		return dir
	}
	fmt.Println("building", cniPlugins, "into", dir)
	cmd := exec.Command("go", args...)
	cmd.Dir = os.TempDir() // not this module's
	cmd.Env = append(os.Environ(), "GOBIN="+dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		fmt.Printf("the CNI plugins cannot be built: %v: %s\n", err, out)
		return ""
	}
	return dir
}

// bench is one run of this command.
type bench struct {
	blocks, containers, attaches int
	plugins                      string

	scratch string // a directory
}

func (b *bench) measure(chosen []string) (err error) {
	if b.scratch, err = os.MkdirTemp("/run", "versus"); err != nil {
		return err
	}
	for _, name := range chosen {
		if err := parts[name](b); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// has tells whether a tool is there, and if not, what would help.
func has(tool, remedy string) bool {
	_, err := exec.LookPath(tool)
	if err != nil {
		fmt.Printf("left out: %s is not installed: %s\n", tool, remedy)
	}
	return err == nil
}

// ctx is for labs: nothing here ends early.
var ctx = context.Background()
