// Package docker has an engine of Docker's run containers of a machine, through its API. The engine is a process of the machine's, with files of its
// own: it changes none of the machine's, makes no control groups, and ends with the machine, as does all that it started.
package docker

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"
	"golang.org/x/sys/unix"

	"github.com/modebench/modebench/topology"
	"github.com/modebench/modebench/topology/host/program"
	"github.com/modebench/modebench/topology/lab"
	"github.com/modebench/modebench/topology/linked"
	"github.com/modebench/modebench/topology/space"
)

// Service is the engine of one machine, if it has one. Its methods may be called at the same time.
type Service struct {
	machine  string
	starting time.Duration // an engine has until it answers

	mu     sync.Mutex
	engine *engine // nil: none
}

// Programs are those that an engine of a directory, as in topology.Engine, cannot do without.
func Programs(dir string) []string {
	all := []string{"dockerd", "containerd", "containerd-shim-runc-v2", "runc"}
	if dir != "" {
		for i, name := range all {
			all[i] = filepath.Join(dir, name)
		}
	}
	return append(all, "iptables", "ip6tables")
}

// Files are those that the programs want besides: the shell, by which an engine starts a runtime with arguments, and iptables' matches and targets, where the machine
// has it from a package.
func Files() (files []string) {
	files = []string{"/bin/sh"}
	for _, dir := range []string{"/usr/lib/*/xtables", "/usr/lib64/xtables", "/usr/lib/xtables"} {
		found, _ := filepath.Glob(dir + "/*.so")
		files = append(files, found...)
	}
	return files
}

// New is the service of the machine called name, without an engine.
func New(machine string) *Service { return &Service{machine: machine, starting: starting} }

const (
	starting = time.Minute           // see Service
	patience = 25 * time.Second      // with one thing that is asked of it, after which it has to answer something else
	busy     = 4                     // so many times as long for one thing where it does
	parting  = 10 * time.Second      // of ending, once it does not answer
	pace     = 10 * time.Millisecond // of looking whether it answers
	image    = "modebench"
	runtime  = "plain" // of containers, see Runtime
)

// Where an engine has its files: see start.
const (
	run    = "/run"
	bin    = "bin"
	socket = "docker.sock"
	runner = "docker/containerd/containerd.sock" // of its containerd: without that it answers, but runs nothing
	self   = "modebench"
)

// engine is dockerd, as the first process of a PID namespace.
type engine struct {
	files  *space.Private
	dir    *os.File // run, in which the socket is
	cmd    *exec.Cmd
	output *program.Tail
	ended  chan struct{} // closed when it has
	api    *client.Client
	within time.Duration // it has for one thing: see patience

	mu         sync.Mutex
	containers map[string]*ran
	lame       error // what it could not do any more, for which it was killed
}

// ran is a container that the engine runs.
type ran struct {
	topology.Space
	ports []topology.EnginePort
}

// Running is a container that runs, with the namespace that the engine made for it unless it shares another's.
type Running struct {
	topology.Space
	Made *space.Space
}

// Error is that an engine said no.
type Error struct{ cause error }

// Error is what the engine said.
func (e *Error) Error() string { return e.cause.Error() }

// Unwrap is the client's error.
func (e *Error) Unwrap() error { return e.cause }

// Start starts the machine's engine: EEXIST where it has one. The undo kills it. Call it on a thread that is in the machine's own namespace.
func (s *Service) Start(e topology.Engine) (undo func() error, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.engine != nil {
		return nil, fmt.Errorf("%s: engine: %w", s.machine, unix.EEXIST)
	}
	started, err := start(e, s.starting)
	if err != nil {
		return nil, fmt.Errorf("%s: engine: %w", s.machine, err)
	}
	s.engine = started
	return s.Close, nil
}

// Close kills the engine.
func (s *Service) Close() error {
	s.mu.Lock()
	e := s.engine
	s.engine = nil
	s.mu.Unlock()
	if e == nil {
		return nil
	}
	return e.close()
}

// Ended is the verb Docker.Ended.
func (s *Service) Ended(_ lab.Nothing, reply *string) error {
	s.mu.Lock()
	e := s.engine
	s.mu.Unlock()
	if e == nil {
		return nil
	}
	if e.gone() {
		*reply = fmt.Sprintf("engine: %v", e.how())
	}
	return nil
}

func (s *Service) running() (*engine, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.engine == nil {
		return nil, fmt.Errorf("%s: no step asked for an engine", s.machine)
	}
	return s.engine, nil
}

func start(of topology.Engine, within time.Duration) (_ *engine, err error) {
	dockerd := "dockerd"
	seal := space.Seal{Self: self, Empty: []string{"/tmp", "/var", "/sys/kernel/security"}, Made: []string{"/etc/docker"}}
	if of.Path != "" {
		seal.Show, seal.As, dockerd = of.Path, bin, filepath.Join(of.Path, dockerd)
	}
	path, err := program.Find(dockerd)
	if err != nil {
		return nil, err
	}
	if of.Path != "" {
		path = filepath.Join(run, bin, "dockerd")
	}
	own, err := space.Current()
	if err != nil {
		return nil, err
	}
	e := &engine{output: new(program.Tail), ended: make(chan struct{}), containers: map[string]*ran{}, within: patience}
	e.files, err = space.NewSealed(own, run, seal)
	if err = errors.Join(err, own.Close()); err != nil {
		return nil, fmt.Errorf("files: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, e.close())
		}
	}()
	if e.dir, err = e.files.Open("."); err != nil {
		return nil, err
	}
	settings := map[string]any{
		"data-root": "/var/lib/docker", "exec-root": run + "/docker", "pidfile": run + "/docker.pid", "hosts": []string{"unix://" + run + "/" + socket},
		"log-level": "warn", "experimental": true, "ip6tables": true, // before Docker 27 it translates no IPv6 without them
		"userland-proxy": false, // it answers UDP from another address than was asked (moby/moby#11998), by which a published port is neither reached nor not
		"runtimes":       map[string]any{runtime: map[string]any{"path": run + "/" + self, "runtimeArgs": []string{"runtime"}}}, "default-runtime": runtime,
	}
	if len(of.Default) == 0 {
		settings["bridge"] = "none"
	}
	for _, b := range of.Default {
		if b.Addr().Is4() {
			settings["bip"], settings["icc"] = b, !of.Apart
		} else {
			settings["ipv6"], settings["fixed-cidr-v6"] = true, b.Masked()
		}
	}
	conf, err := json.Marshal(settings)
	if err == nil {
		err = e.files.WriteFile("daemon.json", conf, 0o600)
	}
	if err == nil { // names that the engine does not know it asks the machine's resolver for, where there is one
		err = e.files.Replace("/etc/resolv.conf", []byte("nameserver 127.0.0.1\n"))
	}
	if err != nil {
		return nil, err
	}
	e.cmd = exec.Command(path, "--config-file", run+"/daemon.json")
	e.cmd.Dir, e.cmd.Stdout, e.cmd.Stderr, e.cmd.WaitDelay = "/", e.output, e.output, time.Second
	search := run + "/" + bin
	for _, v := range e.cmd.Environ() {
		if had, ok := strings.CutPrefix(v, "PATH="); ok {
			search += ":" + had
		}
	}
	// Of a variable that is set twice the last counts. With "container" no profile is loaded into the kernel (AppArmor).
	e.cmd.Env = append(e.cmd.Environ(), "PATH="+search+":/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin", "container=modebench")
	if root := new(unix.Statfs_t); unix.Statfs("/", root) == nil && (root.Type == unix.RAMFS_MAGIC || root.Type == unix.TMPFS_MAGIC) {
		// A guest, whose root cannot be changed for another (pivot_root(2), rootfs), and whose processors may be emulated.
		e.cmd.Env, e.within, within = append(e.cmd.Env, "DOCKER_RAMDISK=true"), 4*e.within, 4*within
	}
	if err := e.files.StartConfined(e.cmd); err != nil {
		e.cmd = nil
		return nil, err
	}
	go func() {
		_ = e.cmd.Wait()
		close(e.ended)
	}()
	e.api, err = client.New(client.WithDialContext(func(ctx context.Context, _, _ string) (net.Conn, error) { return e.dial(ctx, socket) }))
	if err != nil {
		return nil, err
	}
	if err := e.ready(within); err != nil {
		return nil, err
	}
	return e, e.equip()
}

// dial connects to a socket of the engine's.
func (e *engine) dial(ctx context.Context, name string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "unix", fmt.Sprintf("/proc/self/fd/%d/%s", e.dir.Fd(), name))
}

// ready waits until the engine answers.
func (e *engine) ready(within time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	look := time.NewTicker(pace)
	defer look.Stop()
	for {
		_, err := e.api.Ping(ctx, client.PingOptions{})
		if err == nil {
			return nil
		}
		select {
		case <-e.ended:
			return e.how()
		case <-ctx.Done():
			return fmt.Errorf("it does not answer within %s: %w; it said:\n%s", within, err, e.output)
		case <-look.C:
		}
	}
}

// answers tells whether the engine answers at all, in time.
func (e *engine) answers(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, parting)
	defer cancel()
	_, err := e.api.Ping(ctx, client.PingOptions{})
	return err == nil
}

// gone tells whether the engine has ended, for which it waits where it does not answer: what ends does not all end at once.
func (e *engine) gone() bool {
	ctx, cancel := context.WithTimeout(context.Background(), parting)
	defer cancel()
	if e.answers(ctx) {
		return false
	}
	select {
	case <-e.ended:
		return true
	case <-ctx.Done():
		return false
	}
}

// how the engine ended.
func (e *engine) how() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.lame != nil {
		return fmt.Errorf("it was killed: %w; it said:\n%s", e.lame, e.output)
	}
	return fmt.Errorf("it ended: %s; it said:\n%s", e.cmd.ProcessState, e.output)
}

// equip gives the engine its image, which has this program and the libraries that it loads.
func (e *engine) equip() error {
	files, err := linked.Files(space.Self)
	if err != nil {
		return err
	}
	program, err := os.Open(space.Self)
	if err != nil {
		return err
	}
	defer program.Close()
	info, err := program.Stat()
	if err != nil {
		return err
	}
	from, to := io.Pipe()
	go func() {
		w := tar.NewWriter(to)
		put := func(name string, size int64, from io.Reader) error {
			if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: size}); err != nil {
				return err
			}
			_, err := io.Copy(w, from)
			return err
		}
		err := put(self, info.Size(), program)
		for _, f := range files {
			err = errors.Join(err, put(f.Name, int64(len(f.Data)), bytes.NewReader(f.Data)))
		}
		to.CloseWithError(errors.Join(err, w.Close()))
	}()
	return e.ask("import the image", func(ctx context.Context) error {
		done, err := e.api.ImageImport(ctx, client.ImageImportSource{Source: from, SourceName: "-"}, image, client.ImageImportOptions{
			Changes: []string{fmt.Sprintf(`ENTRYPOINT ["/%s","idle"]`, self)},
		})
		_ = from.Close() // where not all was read, who writes is told
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, done)
		return errors.Join(err, done.Close())
	})
}

// ask asks the engine for something, and tells whether it said no or could not be asked. One that cannot go on is killed.
func (e *engine) ask(what string, f func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	began, done := time.Now(), make(chan struct{})
	defer close(done)
	go func() {
		for wait := e.within; ; wait = parting {
			select {
			case <-done:
				return
			case <-time.After(wait):
			}
			if waited := time.Since(began); waited > busy*e.within || !e.answers(ctx) {
				cancel(fmt.Errorf("no answer within %s", waited.Round(time.Second)))
				return
			}
		}
	}()
	err := f(ctx)
	if err == nil {
		return nil
	}
	cause := context.Cause(ctx) // what does not answer would not answer what comes next either
	if !e.gone() {              // one that ends takes its containerd with it
		if c, lost := e.dial(ctx, runner); errors.Is(lost, unix.ECONNREFUSED) {
			cause = err
		} else if lost == nil {
			_ = c.Close()
		}
		if cause != nil {
			e.mu.Lock()
			e.lame = errors.Join(e.lame, fmt.Errorf("%s: %w", what, cause))
			e.mu.Unlock()
			_ = e.cmd.Process.Kill()
			<-e.ended
		}
	}
	if e.gone() {
		return fmt.Errorf("engine: %s: %w", what, e.how())
	}
	return fmt.Errorf("engine: %s: %w", what, &Error{err})
}

func (e *engine) close() error {
	if e.cmd != nil {
		_ = e.cmd.Process.Kill() // and with it all of its PID namespace
		<-e.ended
	}
	var errs []error
	if e.api != nil {
		errs = append(errs, e.api.Close())
	}
	if e.dir != nil {
		errs = append(errs, e.dir.Close())
	}
	return errors.Join(append(errs, e.files.Close())...)
}

// Network makes a network. The undo removes it.
func (s *Service) Network(n topology.EngineNetwork) (undo func() error, err error) {
	e, err := s.running()
	if err != nil {
		return nil, err
	}
	o := client.NetworkCreateOptions{Driver: n.Driver, Options: n.Options, IPAM: &network.IPAM{}, Attachable: n.Attachable()}
	six := false
	for i, b := range n.Blocks {
		o.IPAM.Config = append(o.IPAM.Config, network.IPAMConfig{Subnet: b, Gateway: n.Gateways[i]})
		six = six || b.Addr().Is6()
	}
	o.EnableIPv6 = &six
	err = e.ask("make network "+n.Name, func(ctx context.Context) error {
		_, err := e.api.NetworkCreate(ctx, n.Name, o)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.machine, err)
	}
	return func() error { return s.RemoveNetwork(n.Name) }, nil
}

// RemoveNetwork removes a network. One that is not there is no error.
func (s *Service) RemoveNetwork(name string) error {
	e, err := s.running()
	if err != nil {
		return err
	}
	err = e.ask("remove network "+name, func(ctx context.Context) error {
		if _, err := e.api.NetworkRemove(ctx, name, client.NetworkRemoveOptions{}); !errdefs.IsNotFound(err) {
			return err
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("%s: %w", s.machine, err)
	}
	return nil
}

// Join joins a container to a network. The undo takes it out of it.
func (s *Service) Join(j topology.EngineJoin) (undo func() error, err error) {
	e, c, err := s.container(j.Container)
	if err != nil {
		return nil, err
	}
	err = e.ask("join "+c.Run.Name+" to "+j.Network, func(ctx context.Context) error {
		_, err := e.api.NetworkConnect(ctx, j.Network, client.NetworkConnectOptions{Container: c.Run.Name, EndpointConfig: &network.EndpointSettings{IPAMConfig: at(j.Addrs)}})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.machine, err)
	}
	return func() error {
		if e.at(j.Container) != c {
			return nil // it went
		}
		return s.Leave(j)
	}, nil
}

// Leave takes a container out of a network.
func (s *Service) Leave(j topology.EngineJoin) error {
	e, c, err := s.container(j.Container)
	if err != nil {
		return err
	}
	err = e.ask("take "+c.Run.Name+" out of "+j.Network, func(ctx context.Context) error {
		_, err := e.api.NetworkDisconnect(ctx, j.Network, client.NetworkDisconnectOptions{Container: c.Run.Name})
		return err
	})
	if err != nil {
		return fmt.Errorf("%s: %w", s.machine, err)
	}
	return nil
}

// gateways is the network by which the containers of a swarm's node reach what is in none of their networks. The engine makes it when it becomes a node.
const gateways = "docker_gwbridge"

// Swarm makes the engine a node of a swarm. The undo takes it out.
func (s *Service) Swarm(w topology.EngineSwarm) (undo func() error, err error) {
	e, err := s.running()
	if err != nil {
		return nil, err
	}
	own := w.Addr.String()
	if w.Manager != "" {
		err = e.ask("join the swarm of "+w.Manager, func(ctx context.Context) error {
			_, err := e.api.SwarmJoin(ctx, client.SwarmJoinOptions{ListenAddr: own, AdvertiseAddr: own, RemoteAddrs: []string{w.At.String()}, JoinToken: w.Token})
			return err
		})
	} else {
		err = e.ask("begin a swarm", func(ctx context.Context) error {
			_, err := e.api.SwarmInit(ctx, client.SwarmInitOptions{ListenAddr: own, AdvertiseAddr: own})
			return err
		})
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.machine, err)
	}
	return func() error {
		err := e.ask("leave the swarm", func(ctx context.Context) error {
			_, err := e.api.SwarmLeave(ctx, client.SwarmLeaveOptions{Force: true})
			return err
		})
		if err != nil {
			return fmt.Errorf("%s: %w", s.machine, err)
		}
		return s.RemoveNetwork(gateways)
	}, nil
}

// Token is the verb Docker.Token.
func (s *Service) Token(within time.Duration, reply *string) error {
	late := time.After(within)
	look := time.NewTicker(10 * pace)
	defer look.Stop()
	for {
		err := s.token(reply)
		if err == nil {
			return nil
		}
		select {
		case <-late:
			return err
		case <-look.C:
		}
	}
}

func (s *Service) token(reply *string) error {
	e, err := s.running()
	if err != nil {
		return err
	}
	return e.ask("inspect the swarm", func(ctx context.Context) error {
		seen, err := e.api.SwarmInspect(ctx, client.SwarmInspectOptions{})
		*reply = seen.Swarm.JoinTokens.Worker
		return err
	})
}

// container is one that the machine's engine runs: ENOENT where it runs none of the name.
func (s *Service) container(name string) (*engine, *ran, error) {
	e, err := s.running()
	if err != nil {
		return nil, nil, err
	}
	c := e.at(name)
	if c == nil {
		return nil, nil, fmt.Errorf("%s/%s: %w", s.machine, name, unix.ENOENT)
	}
	return e, c, nil
}

// at is where in a network an endpoint is to be; nil: the engine chooses.
func at(addrs []netip.Addr) *network.EndpointIPAMConfig {
	if len(addrs) == 0 {
		return nil
	}
	c := &network.EndpointIPAMConfig{}
	for _, a := range addrs {
		if a.Is4() {
			c.IPv4Address = a
		} else {
			c.IPv6Address = a
		}
	}
	return c
}

// Sandbox is the verb Docker.Sandbox.
func (s *Service) Sandbox(name string, reply *lab.Sandbox) error {
	e, seen, err := s.inspected(name)
	if err != nil {
		return err
	}
	settings := seen.Container.NetworkSettings
	if settings.SandboxKey != "" {
		in, err := e.files.Named(e.cmd.Process.Pid, settings.SandboxKey)
		if err != nil {
			return err
		}
		reply.Inode = in.Inode()
		if err := in.Close(); err != nil {
			return err
		}
	}
	for name, n := range settings.Networks {
		p := lab.EnginePoint{Network: name, MAC: net.HardwareAddr(n.MacAddress)}
		if n.IPAddress.IsValid() {
			p.Addrs = append(p.Addrs, netip.PrefixFrom(n.IPAddress, n.IPPrefixLen))
		}
		if n.GlobalIPv6Address.IsValid() {
			p.Addrs = append(p.Addrs, netip.PrefixFrom(n.GlobalIPv6Address, n.GlobalIPv6PrefixLen))
		}
		reply.Endpoints = append(reply.Endpoints, p)
	}
	slices.SortFunc(reply.Endpoints, func(a, b lab.EnginePoint) int { return strings.Compare(a.Network, b.Network) })
	return nil
}

// Told is the verb Docker.Told.
func (s *Service) Told(name string, reply *lab.Told) error {
	e, seen, err := s.inspected(name)
	if err != nil {
		return err
	}
	of := fmt.Sprintf("/proc/%d/", seen.Container.State.Pid)
	read := func(name string) string {
		text, no := e.files.See(e.cmd.Process.Pid, of+name)
		err = errors.Join(err, no)
		return string(text)
	}
	reply.Env = strings.FieldsFunc(read("environ"), func(r rune) bool { return r == 0 })
	reply.Hosts, reply.Resolver = read("root/etc/hosts"), read("root/etc/resolv.conf")
	return err
}

// inspected is what the machine's engine says of a container: an error as of container.
func (s *Service) inspected(name string) (e *engine, seen client.ContainerInspectResult, err error) {
	e, c, err := s.container(name)
	if err == nil {
		seen, err = e.inspect(c)
	}
	return e, seen, err
}

func (e *engine) inspect(c *ran) (seen client.ContainerInspectResult, err error) {
	err = e.ask("inspect "+c.Run.Name, func(ctx context.Context) (err error) {
		seen, err = e.api.ContainerInspect(ctx, c.Run.Name, client.ContainerInspectOptions{})
		return err
	})
	return seen, err
}

// Run runs a container: EEXIST where there is one of the name. The undo removes it.
func (s *Service) Run(c topology.Space) (r Running, undo func() error, err error) {
	e, err := s.running()
	if err != nil {
		return r, nil, err
	}
	made := &ran{Space: c}
	e.mu.Lock()
	if e.containers[c.Name] != nil {
		e.mu.Unlock()
		return r, nil, fmt.Errorf("%s/%s: container exists: %w", s.machine, c.Name, unix.EEXIST)
	}
	e.containers[c.Name] = made
	e.mu.Unlock()
	undo = func() error {
		e.mu.Lock()
		delete(e.containers, c.Name)
		e.mu.Unlock()
		return e.remove(c.Run.Name)
	}
	if r, err = e.run(made); err != nil {
		return r, nil, errors.Join(fmt.Errorf("%s/%s: %w", s.machine, c.Name, err), undo())
	}
	return r, undo, nil
}

// unheard is what a node of a swarm says that has yet to be told of a network.
var unheard = regexp.MustCompile(`network \S+ not found`)

// run makes a container, starts it, and gives the namespace that it got.
func (e *engine) run(c *ran) (r Running, err error) {
	config := &container.Config{Image: image, OpenStdin: true, ExposedPorts: network.PortSet{}, Env: c.Run.Env}
	host := &container.HostConfig{
		NetworkMode: container.NetworkMode(c.Run.Network), PortBindings: network.PortMap{},
		SecurityOpt: []string{"seccomp=unconfined"}, // some builds of runc have no filters
	}
	for _, p := range c.Run.Exposed {
		port, err := network.ParsePort(p)
		if err != nil {
			return r, err
		}
		config.ExposedPorts[port] = struct{}{}
	}
	for _, l := range c.Run.Links {
		host.Links = append(host.Links, l.To+":"+l.Alias)
	}
	for _, p := range c.ports {
		port, ok := network.PortFrom(p.Published, network.IPProtocol(p.Proto))
		if !ok {
			return r, fmt.Errorf("port %d by %q: want tcp or udp", p.Published, p.Proto)
		}
		config.ExposedPorts[port] = struct{}{}
		host.PortBindings[port] = append(host.PortBindings[port], network.PortBinding{HostPort: fmt.Sprint(p.Host)})
	}
	o := client.ContainerCreateOptions{Config: config, HostConfig: host, Name: c.Run.Name}
	if at := at(c.Run.Addrs); at != nil {
		o.NetworkingConfig = &network.NetworkingConfig{EndpointsConfig: map[string]*network.EndpointSettings{c.Run.Network: {IPAMConfig: at}}}
	}
	err = e.ask("run "+c.Run.Name, func(ctx context.Context) error {
		if _, err := e.api.ContainerCreate(ctx, o); err != nil {
			return err
		}
		_, err := e.api.ContainerStart(ctx, c.Run.Name, client.ContainerStartOptions{})
		if err != nil && strings.Contains(err.Error(), "attaching to network failed") { // by the manager, in 20 s, though it sometimes can a moment later: once more
			_, err = e.api.ContainerStart(ctx, c.Run.Name, client.ContainerStartOptions{})
		}
		for i := 0; i < 3 && err != nil && unheard.MatchString(err.Error()); i++ {
			select {
			case <-time.After(time.Second):
				_, err = e.api.ContainerStart(ctx, c.Run.Name, client.ContainerStartOptions{})
			case <-ctx.Done():
				return err
			}
		}
		return err
	})
	if err != nil || c.Share != "" {
		return Running{Space: c.Space}, err
	}
	seen, err := e.inspect(c)
	if err != nil {
		return r, err
	}
	if state := seen.Container.State; state == nil || !state.Running {
		return r, fmt.Errorf("engine: container %s ended at once: %s", c.Run.Name, e.said(c.Run.Name))
	}
	in, err := e.files.Named(e.cmd.Process.Pid, seen.Container.NetworkSettings.SandboxKey)
	return Running{Space: c.Space, Made: in}, err
}

// said are the last words of a container.
func (e *engine) said(name string) (words string) {
	_ = e.ask("logs", func(ctx context.Context) error {
		from, err := e.api.ContainerLogs(ctx, name, client.ContainerLogsOptions{ShowStdout: true, ShowStderr: true})
		if err != nil {
			return err
		}
		defer from.Close()
		text, err := io.ReadAll(io.LimitReader(from, 1<<12))
		words = fmt.Sprintf("%q", text)
		return err
	})
	return words
}

func (e *engine) remove(name string) error {
	return e.ask("remove "+name, func(ctx context.Context) error {
		if _, err := e.api.ContainerRemove(ctx, name, client.ContainerRemoveOptions{Force: true}); !errdefs.IsNotFound(err) {
			return err
		}
		return nil
	})
}

// Kill ends a container's process, if an engine runs the container, and returns when the engine knows.
func (s *Service) Kill(name string) error {
	e, err := s.running()
	if err != nil || e.at(name) == nil {
		return nil
	}
	name = e.at(name).Run.Name
	return e.ask("kill "+name, func(ctx context.Context) error {
		ended := e.api.ContainerWait(ctx, name, client.ContainerWaitOptions{Condition: container.WaitConditionNextExit})
		if _, err := e.api.ContainerKill(ctx, name, client.ContainerKillOptions{Signal: "KILL"}); err != nil {
			return err
		}
		select {
		case <-ended.Result:
			return nil
		case err := <-ended.Error:
			return err
		}
	})
}

// Publish publishes a port, for which containers are run again: before they are removed, forget is called with their names. Where the engine refuses to,
// they are run again without the port, and again gets them with the error. The undo, which wants the same, takes the port back.
func (s *Service) Publish(p topology.EnginePort, forget func(containers []string) error) (again []Running, undo func(forget func([]string) error) ([]Running, error), err error) {
	e, err := s.running()
	if err != nil {
		return nil, nil, err
	}
	e.mu.Lock()
	c := e.containers[p.Container]
	e.mu.Unlock()
	if c == nil {
		return nil, nil, fmt.Errorf("%s/%s: %w", s.machine, p.Container, unix.ENOENT)
	}
	undo = func(forget func([]string) error) ([]Running, error) {
		if e.at(p.Container) != c {
			return nil, nil // it went
		}
		return e.rerun(c, slices.DeleteFunc(slices.Clone(c.ports), func(o topology.EnginePort) bool { return o == p }), forget)
	}
	was := c.ports
	again, err = e.rerun(c, append(slices.Clone(was), p), forget)
	if err != nil {
		back, failed := e.rerun(c, was, func([]string) error { return nil })
		return back, nil, errors.Join(fmt.Errorf("%s/%s: %w", s.machine, p.Container, err), failed)
	}
	return again, undo, nil
}

func (e *engine) at(name string) *ran {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.containers[name]
}

// rerun runs a container, and those that share its namespace, again with other ports.
func (e *engine) rerun(c *ran, ports []topology.EnginePort, forget func([]string) error) (again []Running, err error) {
	all := []*ran{c}
	e.mu.Lock()
	for _, o := range e.containers {
		if o.Share == c.Name {
			all = append(all, o)
		}
	}
	e.mu.Unlock()
	slices.SortFunc(all[1:], func(a, b *ran) int { return strings.Compare(a.Name, b.Name) })
	var names []string
	for _, o := range all {
		names = append(names, o.Name)
	}
	if err := forget(names); err != nil {
		return nil, err
	}
	for _, o := range slices.Backward(all) {
		if err := e.remove(o.Run.Name); err != nil {
			return nil, err
		}
	}
	c.ports = ports
	for _, o := range all {
		r, err := e.run(o)
		if err != nil {
			return again, err
		}
		again = append(again, r)
	}
	return again, nil
}
