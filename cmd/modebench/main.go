// Command modebench starts labs of container networks, observes every networking mode in them, and reports what it saw.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/modebench/modebench/topology/host"
	"github.com/modebench/modebench/topology/host/docker"
	"github.com/modebench/modebench/topology/host/relay"
	"github.com/modebench/modebench/topology/host/traffic"
	"github.com/modebench/modebench/topology/netns"
	"github.com/modebench/modebench/topology/space"
	"github.com/modebench/modebench/topology/ssh"
	"github.com/modebench/modebench/topology/vm"
)

// Exit codes, as documented in the help.
const (
	exitExpected   = 0 // all as expected
	exitUnexpected = 1 // something is not
	exitInput      = 2 // bad input
	exitNothing    = 3 // nothing could be run
)

// coded is an error with the exit code that it asks for.
type coded struct {
	error
	code int
}

func (c coded) Unwrap() error { return c.error }

// input marks an error as the user's to mend.
func input(format string, args ...any) error { return coded{fmt.Errorf(format, args...), exitInput} }

func main() { os.Exit(program(os.Args[1:])) }

// program runs the command, or one of the programs that labs are made of, which are this very binary.
func program(args []string) int {
	if len(args) > 0 {
		switch args[0] {
		case "host":
			if len(args) == 2 {
				return silent(netns.Main(args[1], os.Stdin, os.Stdout))
			}
		case "agent":
			return silent(traffic.Main())
		case "idle":
			return silent(host.Idle())
		case "lookup":
			if len(args) == 2 {
				return silent(host.Resolve(args[1], os.Stdout))
			}
		case "confined":
			return silent(space.Confined(args[1:], os.Environ()))
		case "runtime":
			return silent(docker.Runtime(args[1:], os.Environ()))
		case "relay":
			return silent(relay.Main(args[1:], os.Stdin, os.Stdout))
		case "site":
			if len(args) == 2 {
				return silent(ssh.Main(args[1], os.Stdin, os.Stdout))
			}
		case "init":
			return silent(vm.Init())
		case "guest":
			return silent(vm.Main(args[1:], os.Stdin, os.Stdout))
		case "uml":
			return silent(vm.Exec(args[1:]))
		case "lacks":
			return silent(lacksHere(args[1:], os.Stdout))
		case "record":
			return record(args[1:])
		case "worker":
			return silent(work(os.Stdin))
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	root := command()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	var c coded
	switch {
	case err == nil:
		return exitExpected
	case errors.As(err, &c):
		if c.error != nil {
			fmt.Fprintln(os.Stderr, "modebench:", c.error)
		}
		return c.code
	default: // cobra's own: an unknown command or flag, a missing argument
		fmt.Fprintf(os.Stderr, "modebench: %v\nTry: modebench help\n", err)
		return exitInput
	}
}

func silent(err error) int {
	if err != nil && !errors.Is(err, io.EOF) {
		fmt.Fprintln(os.Stderr, err)
		return exitUnexpected
	}
	return exitExpected
}

func command() *cobra.Command {
	root := &cobra.Command{
		Use:   "modebench",
		Short: "Which container networking mode should I adopt, here?",
		Long: `modebench starts labs of hosts, switches and containers out of real Linux network stacks, puts every container
networking mode through the same experiments, and writes a report that compares them.

Exit codes: 0 all as expected, 1 something is not, 2 bad input, 3 nothing could be run.`,
		SilenceErrors: true, SilenceUsage: true,
	}
	root.AddCommand(runCommand(), planCommand(), labCommand(), doctorCommand(), kernelCommand(), reportCommand(), compareCommand(), recommendCommand(), schemaCommand(), versionCommand())
	return root
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		Run: func(cmd *cobra.Command, _ []string) { fmt.Fprintln(cmd.OutOrStdout(), "modebench", version()) },
	}
}

// version is the module's, or the commit's where it was built in a checkout.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	v := info.Main.Version
	if v == "" || v == "(devel)" {
		v = "devel"
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 && v == "devel" {
			v += " " + s.Value[:12]
		}
	}
	return v
}
