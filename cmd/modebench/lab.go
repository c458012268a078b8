package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/modebench/modebench/modes"
	"github.com/modebench/modebench/reports"
	"github.com/modebench/modebench/topology"
	"github.com/modebench/modebench/topology/host/capture"
	"github.com/modebench/modebench/topology/space"
)

// Exit codes of a program that was not started, as shells have them.
const (
	exitNotRun   = 126
	exitNotFound = 127
)

func labCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "lab", Short: "Have a lab to look around in: start one, run programs and record packets in it, draw it, end it",
		Long: `A lab is the hosts, switches and containers of a topology, wired as a mode wires them, to look around in. It lives in a supervisor,
a process of its own that goes on when the command has ended, and everything in it is gone when that process is, however it ends.`,
		Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	c.AddCommand(labUp(), labExec(), labShell(), labPcap(), labGraph(), labList(), labDown())
	return c
}

// defaultLab is the name of a lab that was given none.
const defaultLab = "lab"

var labName = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,31}$`)

func labUp() *cobra.Command {
	var file, mode, by, bin, fabric, name, cache string
	var noFetch bool
	c := &cobra.Command{
		Use: "up", Short: "Start a lab", Args: cobra.NoArgs,
		Example: "  modebench lab up -m bridge\n  modebench lab up -t mine.yaml -m macvlan-bridge --name mine\n  modebench lab up -m macvlan-bridge --fabric port-security\n  modebench lab up -m bridge -i cni",
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, source, err := readPlan(file)
			if err != nil {
				return err
			}
			j := job{Up: true, Topology: source, Name: file, Cache: cache, Lab: &address{labsDir(), name}}
			wired := modes.Mode{} // hosts only
			if j.Dirs, err = places(cache, bin, []string{by}); err != nil {
				return err
			}
			switch {
			case mode != "":
				ms, err := findModes([]string{mode})
				if err != nil {
					return err
				}
				if ms, err = carried(ms, []string{mode}, []string{by}, j.Dirs); err != nil {
					return err
				}
				wired, j.Modes = ms[0], []string{ms[0].String()}
			case by != modes.ByKernel:
				return input("--implementation %s: of hosts only there is nothing to carry out: want --mode with it", by)
			}
			where := file
			if fabric != "" {
				j.Fabric = new(topology.Fabric)
				if err := j.Fabric.UnmarshalText([]byte(fabric)); err != nil {
					return input("--fabric: %w", err)
				}
				where = "--fabric " + fabric
			}
			if mode != "" {
				where += ": mode " + mode
			}
			if wired, p.Topology, err = onto(wired, p.Topology, j.Fabric); err != nil {
				return input("%s: %w", where, err)
			}
			if !labName.MatchString(name) {
				return input("--name %q: want lower-case letters, digits and hyphens, at most 32", name)
			}
			if p, err = wired.Plan(p.Topology); err != nil {
				return input("%s: %w", where, err)
			}
			names, err := labs(labsDir())
			if err != nil {
				return coded{err, exitNothing}
			}
			if slices.Contains(names, name) {
				return input("--name %s: %w: want another name, or end that one: modebench lab down --name %s", name, errTaken, name)
			}
			began, say := time.Now(), cmd.ErrOrStderr()
			ks := &kernels{cache: cache, noFetch: noFetch, dirs: j.Dirs, say: say, span: func(_ string, f func() error) error { return f() }}
			all, err := ks.assign(cmd.Context(), []string{hostKernel}, []modes.Mode{wired}, p.Topology)
			switch {
			case errors.Is(err, errIsolation):
				return coded{fmt.Errorf("%w; %s", err, isolationRemedy()), exitNothing}
			case err != nil:
				return coded{err, exitNothing}
			case all[0].why != "":
				return coded{fmt.Errorf("%s; programs of this machine, which a lab is looked at with, run on its own kernel only: modebench doctor tells what would be lacking", all[0].why), exitNothing}
			}
			j.Programs = ks.daemons
			var up *status
			err = employ(cmd.Context(), j, func(m message) {
				if m.Lab != nil {
					up = m.Lab
				}
			})
			if err == nil && up == nil {
				err = errors.New("interrupted")
			}
			if err != nil {
				return coded{err, exitUnexpected}
			}
			fmt.Fprintf(say, "%s is up after %.1f s: %s, %s, on the fabric %s\n  %s\n", up.Name, time.Since(began).Seconds(), up.Topology, cmp.Or(up.Mode, "hosts only"), up.Fabric, strings.Join(up.Places, " "))
			which := ""
			if len(names) > 0 {
				which = " --name " + name
			}
			suggest(say, *up, which)
			return nil
		},
	}
	topologyFlag(c, &file)
	c.Flags().StringVarP(&mode, "mode", "m", "", "mode that the containers are networked by; hosts only where not given")
	implementationFlag(c, &by)
	dockerFlag(c, &bin)
	c.Flags().StringVar(&fabric, "fabric", "", "fabric that the machines are on, such as nic-512; the mode's or the topology's where not given")
	nameFlag(c, &name, defaultLab, "name of the lab")
	c.Flags().BoolVar(&noFetch, "no-fetch", false, "fetch no source of what the mode runs on hosts")
	cacheFlag(c, &cache)
	if err := c.RegisterFlagCompletionFunc("mode", completeModes); err != nil {
		panic(err)
	}
	return c
}

// onto puts a mode and a topology, whatever these say of one, on a fabric; nil: on what they say. The error says why the mode has no place on it.
func onto(m modes.Mode, t topology.Topology, f *topology.Fabric) (modes.Mode, topology.Topology, error) {
	if f == nil {
		return m, t, nil
	}
	m, err := m.On(*f)
	t.Fabric = *f
	return m, t, err
}

func nameFlag(c *cobra.Command, name *string, otherwise, usage string) {
	c.Flags().StringVar(name, "name", otherwise, usage)
}

// suggest prints the lines that look at a lab. which are the flags that lead to it.
func suggest(out io.Writer, s status, which string) {
	at := s.Places[0]
	for _, p := range s.Places {
		if strings.Contains(p, "/") {
			at = p
			break
		}
	}
	for _, line := range []string{"exec%s " + at + " -- ip address", "shell%s " + at, "pcap%s " + at + " | tcpdump -nr -", "graph%s --text", "down%s"} {
		fmt.Fprintf(out, "  modebench lab "+line+"\n", which)
	}
}

func labExec() *cobra.Command {
	var name string
	c := &cobra.Command{
		Use: "exec PLACE [--] PROGRAM [ARGUMENT]...", Short: "Run a program of this machine on a machine of the lab, or in a container", Args: cobra.MinimumNArgs(1),
		Long: `The program runs in the network namespace of PLACE, which is a machine such as h1 or a container such as h1/c1, with the files, the
directory and the environment of the command. Its exit code is the command's: 128 and more where a signal ended it, 126 or 127 where it could not be started.`,
		Example: "  modebench lab exec h1/c1 -- ping -c 1 172.17.0.1\n  modebench lab exec tor -- bridge fdb",
		RunE: func(cmd *cobra.Command, args []string) error {
			program := args[1:]
			if len(program) > 0 && program[0] == "--" {
				program = program[1:]
			}
			if len(program) == 0 {
				return input("exec %s: no program: want one, such as modebench lab exec %s -- ip address", args[0], args[0])
			}
			conn, err := reach(name)
			if err != nil {
				return err
			}
			return runIn(conn, args[0], program, os.Stdout)
		},
	}
	c.Flags().SetInterspersed(false) // what follows the place is the program's
	nameFlag(c, &name, "", "the lab, where several are up")
	return c
}

func labShell() *cobra.Command {
	var name string
	c := &cobra.Command{
		Use: "shell PLACE", Short: "Open a shell on a machine of the lab, or in a container", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			conn, err := reach(name)
			if err != nil {
				return err
			}
			return runIn(conn, args[0], []string{cmp.Or(os.Getenv("SHELL"), "/bin/sh")}, os.Stdout)
		},
	}
	nameFlag(c, &name, "", "the lab, where several are up")
	return c
}

func labPcap() *cobra.Command {
	var name, file, device string
	c := &cobra.Command{
		Use: "pcap PLACE", Short: "Record what passes the devices of a machine of the lab, or of a container, as pcapng", Args: cobra.ExactArgs(1),
		Example: "  modebench lab pcap h1/c1 | tcpdump -nr -\n  modebench lab pcap h1 -w h1.pcapng",
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			conn, err := reach(name)
			if err != nil {
				return err
			}
			out := os.Stdout
			if file != "" && file != "-" {
				if out, err = os.Create(file); err != nil {
					return input("-w: %w", err)
				}
				defer func() { err = errors.Join(err, out.Close()) }()
			} else if term.IsTerminal(int(out.Fd())) {
				return input("pcap: standard output is a terminal: want -w FILE, or a pipe such as | tcpdump -nr -")
			}
			return runIn(conn, args[0], []string{space.Self, "record", args[0], device}, out)
		},
	}
	nameFlag(c, &name, "", "the lab, where several are up")
	c.Flags().StringVarP(&file, "write", "w", "", "file that is written; standard output where not given")
	c.Flags().StringVarP(&device, "device", "i", "", "the only device that is recorded; all where not given")
	return c
}

// record is the program that records a place, from inside: until it is asked to end, or nobody reads what it writes.
func record(args []string) int {
	if len(args) != 2 {
		return exitInput
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM, unix.SIGHUP)
	defer stop()
	signal.Ignore(unix.SIGPIPE) // EPIPE tells
	say := func(err error) { fmt.Fprintf(os.Stderr, "modebench: pcap %s: %v\n", args[0], err) }
	machine, container, _ := strings.Cut(args[0], "/")
	switch err := capture.Live(ctx, os.Stdout, machine, container, args[1], say); {
	case err == nil, errors.Is(err, unix.EPIPE):
		return exitExpected
	case errors.Is(err, capture.ErrNoDevice):
		say(err)
		return exitInput
	default:
		say(err)
		return exitUnexpected
	}
}

func labGraph() *cobra.Command {
	var name, file string
	var text bool
	c := &cobra.Command{
		Use: "graph", Short: "Draw what is in a lab now: machines, containers, devices, addresses, and what joins them", Args: cobra.NoArgs,
		Example: "  modebench lab graph --text\n  modebench lab graph -o lab.svg",
		RunE: func(cmd *cobra.Command, _ []string) error {
			a, err := ask(name, question{Verb: "graph"})
			if err != nil {
				return err
			}
			drawn := reports.Drawing(*a.Graph)
			if text {
				drawn = reports.Outline(*a.Graph)
			}
			if file == "" {
				_, err = io.WriteString(cmd.OutOrStdout(), drawn)
				return err
			}
			if err := os.WriteFile(file, []byte(drawn), 0o644); err != nil {
				return input("-o: %w", err)
			}
			return nil
		},
	}
	nameFlag(c, &name, "", "the lab, where several are up")
	c.Flags().BoolVar(&text, "text", false, "as text, instead of SVG")
	c.Flags().StringVarP(&file, "out", "o", "", "file that is written; standard output where not given")
	return c
}

func labList() *cobra.Command {
	return &cobra.Command{
		Use: "ls", Short: "List your labs", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			names, err := labs(labsDir())
			if err != nil {
				return coded{err, exitNothing}
			}
			if len(names) == 0 {
				fmt.Fprintln(cmd.ErrOrStderr(), errNoLab)
				return nil
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "NAME\tTOPOLOGY\tMODE\tFABRIC\tUP FOR\tPLACES")
			for _, name := range names {
				a, err := ask(name, question{Verb: "status"})
				if err != nil {
					return err
				}
				s := a.Status
				mode := cmp.Or(s.Mode, "hosts only")
				if s.Left != "" {
					mode += ", as " + s.Left + " left it"
				}
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", s.Name, s.Topology, mode, s.Fabric, time.Since(s.Since).Round(time.Second), strings.Join(s.Places, " "))
			}
			return w.Flush()
		},
	}
}

func labDown() *cobra.Command {
	var name string
	c := &cobra.Command{
		Use: "down", Short: "End a lab, and all that runs in it", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			conn, err := reach(name)
			if err != nil {
				return err
			}
			defer conn.Close()
			supervisor, err := peer(conn)
			if err != nil {
				return coded{err, exitUnexpected}
			}
			defer unix.Close(supervisor)
			if err := put(conn, question{Verb: "down"}); err != nil {
				return err
			}
			if _, err := hear(conn); err != nil {
				return err
			}
			if err := awaitEnd(supervisor); err != nil {
				return err
			}
			_, err = labs(labsDir()) // the directory goes with the last one
			return err
		},
	}
	nameFlag(c, &name, "", "the lab, where several are up")
	return c
}

// peer is the process at the other end of a connection, as a descriptor (pidfd_open(2)).
func peer(conn *net.UnixConn) (fd int, err error) {
	err = control(conn, func(s int) error {
		cred, err := unix.GetsockoptUcred(s, unix.SOL_SOCKET, unix.SO_PEERCRED)
		if err == nil {
			fd, err = unix.PidfdOpen(int(cred.Pid), 0)
		}
		return err
	})
	return fd, err
}

// awaitEnd waits until a process has ended, which the first one of a PID namespace has when all that is in it has.
func awaitEnd(process int) error {
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(process), Events: unix.POLLIN}}, int(patience.Milliseconds()))
		switch {
		case err == unix.EINTR:
		case err != nil:
			return coded{os.NewSyscallError("poll", err), exitUnexpected}
		case n == 0:
			return coded{fmt.Errorf("the lab's supervisor has not ended within %s", patience), exitUnexpected}
		default:
			return nil
		}
	}
}

var errNoLab = coded{errors.New("no lab is up: modebench lab up starts one"), exitNothing}

// labs are the names of those that are up, sorted. What is left of one that is gone is removed.
func labs(dir string) (names []string, err error) {
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return names, locked(dir, func() error {
		files, err := filepath.Glob(filepath.Join(dir, "*.sock"))
		if err != nil {
			return err
		}
		for _, f := range files {
			a := address{dir, strings.TrimSuffix(filepath.Base(f), ".sock")}
			conn, err := a.dial()
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return err
			}
			_ = conn.Close() // nothing was asked
			names = append(names, a.Name)
		}
		return nil
	})
}

// reach connects to a lab: to that of a name, or to the only one.
func reach(name string) (*net.UnixConn, error) {
	dir := labsDir()
	names, err := labs(dir)
	switch {
	case err != nil:
		return nil, coded{err, exitNothing}
	case len(names) == 0:
		return nil, errNoLab
	case name == "" && len(names) > 1:
		return nil, input("several labs are up: want --name with one of %s", strings.Join(names, ", "))
	case name == "":
		name = names[0]
	case !slices.Contains(names, name):
		return nil, input("--name %q: no such lab: want one of %s", name, strings.Join(names, ", "))
	}
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: address{dir, name}.path(), Net: "unix"})
	if err != nil {
		return nil, coded{err, exitNothing}
	}
	return conn, nil
}

// put puts a question to a lab, with descriptors.
func put(conn *net.UnixConn, q question, files ...*os.File) error {
	var fds []int
	for _, f := range files {
		fds = append(fds, int(f.Fd()))
	}
	_, _, err := conn.WriteMsgUnix([]byte("\n"), unix.UnixRights(fds...), nil)
	if err == nil {
		err = json.NewEncoder(conn).Encode(q)
	}
	if err != nil {
		return coded{fmt.Errorf("the lab is gone: %w", err), exitUnexpected}
	}
	return nil
}

// hear waits for the answer of a lab.
func hear(conn *net.UnixConn) (a answer, err error) {
	if err := json.NewDecoder(conn).Decode(&a); err != nil {
		return a, coded{fmt.Errorf("the lab is gone: %w", err), exitUnexpected}
	}
	if a.Error != "" {
		return a, coded{errors.New(a.Error), a.Code}
	}
	return a, nil
}

// ask puts a question to a lab.
func ask(name string, q question) (answer, error) {
	conn, err := reach(name)
	if err != nil {
		return answer{}, err
	}
	defer conn.Close()
	if err := put(conn, q); err != nil {
		return answer{}, err
	}
	return hear(conn)
}

// runIn runs a program at a place of the lab that conn leads to, and closes it. Its exit code comes as an error without words. On a terminal it gets one of its own,
// and with it job control and the window's size; else signals are handed on.
func runIn(conn *net.UnixConn, place string, program []string, stdout *os.File) (err error) {
	defer conn.Close()
	q := question{Verb: "run", Place: place, Args: program, Path: program[0]}
	// In a lab everyone is root, and has the paths of root.
	path := os.Getenv("PATH")
	for _, dir := range []string{"/usr/local/sbin", "/usr/sbin", "/sbin"} {
		if !slices.Contains(filepath.SplitList(path), dir) {
			path += ":" + dir
		}
	}
	if err := os.Setenv("PATH", path); err != nil {
		return err
	}
	q.Env = os.Environ()
	if program[0] != space.Self { // which is the supervisor's to say
		if q.Path, err = exec.LookPath(program[0]); err != nil {
			if errors.Is(err, fs.ErrPermission) {
				return coded{err, exitNotRun}
			}
			return coded{err, exitNotFound}
		}
		if q.Path, err = filepath.Abs(q.Path); err != nil {
			return err
		}
	}
	if q.Dir, err = os.Getwd(); err != nil {
		return coded{fmt.Errorf("the directory that this is run in: %w", err), exitNotRun}
	}
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2, unix.SIGWINCH)
	files := []*os.File{os.Stdin, stdout, os.Stderr}
	resize := func() {}
	drained := make(chan struct{})
	close(drained)
	if onTerminal(files) {
		outer, inner, err := openTerminal()
		if err != nil {
			return coded{fmt.Errorf("terminal: %w", err), exitUnexpected}
		}
		resize = func() {
			if size, err := unix.IoctlGetWinsize(int(os.Stdin.Fd()), unix.TIOCGWINSZ); err == nil {
				_ = control(outer, func(fd int) error { return unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, size) }) // the old size does, too
			}
		}
		resize()
		was, err := term.MakeRaw(int(os.Stdin.Fd()))
		if err != nil {
			return coded{fmt.Errorf("terminal: %w", err), exitUnexpected}
		}
		defer func() { _ = term.Restore(int(os.Stdin.Fd()), was) }()
		go func() { _, _ = io.Copy(outer, os.Stdin) }()
		drained = make(chan struct{})
		go func() {
			_, _ = io.Copy(os.Stdout, outer) // ends in EIO when nobody has the other end any more (pty(7)), or at its deadline
			close(drained)
		}()
		q.Terminal, files = true, []*os.File{inner, inner, inner}
		defer func() {
			_ = outer.SetReadDeadline(time.Now().Add(lastWord)) // what stays in the background may keep it open
			<-drained
		}()
	}
	err = put(conn, q, files...)
	if q.Terminal {
		_ = files[0].Close()
	}
	if err != nil {
		return err
	}
	go func() {
		say := json.NewEncoder(conn)
		for s := range signals {
			if s == unix.SIGWINCH {
				resize()
			} else if err := say.Encode(s); err != nil {
				return
			}
		}
	}()
	a, err := hear(conn)
	if err == nil && a.Code != 0 {
		err = coded{nil, a.Code}
	}
	return err
}

// lastWord is how long what a program wrote on its terminal may take to arrive after it has ended.
const lastWord = 200 * time.Millisecond

// onTerminal tells whether files are all a terminal.
func onTerminal(files []*os.File) bool {
	return !slices.ContainsFunc(files, func(f *os.File) bool { return !term.IsTerminal(int(f.Fd())) })
}

// openTerminal makes a terminal (pty(7)): what is written to one end is read at the other, and inner is what a program has.
func openTerminal() (outer, inner *os.File, err error) {
	if outer, err = os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0); err != nil {
		return nil, nil, err
	}
	var n int
	err = control(outer, func(fd int) (err error) {
		if err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err == nil {
			n, err = unix.IoctlGetInt(fd, unix.TIOCGPTN)
		}
		return err
	})
	if err == nil {
		inner, err = os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		return nil, nil, errors.Join(err, outer.Close())
	}
	return outer, inner, nil
}

// control calls f with the descriptor of a file or a connection, which stays as it is.
func control(c syscall.Conn, f func(fd int) error) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	return errors.Join(raw.Control(func(fd uintptr) { err = f(int(fd)) }), err)
}
