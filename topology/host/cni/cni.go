// Package cni has plugins of the Container Network Interface attach containers of a machine, by CNI's own library. The plugins are other
// people's, and may do anything: each has so long and may say so much, none changes a file of the machine, and what one starts ends with it.
package cni

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"
	"golang.org/x/sys/unix"

	"github.com/modebench/modebench/topology"
	"github.com/modebench/modebench/topology/space"
)

// Service has the containers of one machine attached. Its methods may be called at the same time.
type Service struct {
	machine string
	find    func(container string) (*space.Space, error)
	within  time.Duration // a plugin has for one call

	mu      sync.Mutex
	views   map[string]*view // by directory of plugins
	results map[string]types.Result
	holds   map[*hold]bool // the files by which plugins enter containers
}

// hold is such a file, until it is released.
type hold struct {
	view            *view
	name, container string
}

// New is the service of the machine called name, which finds namespaces of containers.
func New(machine string, find func(container string) (*space.Space, error)) *Service {
	return &Service{machine: machine, find: find, within: within, views: map[string]*view{}, results: map[string]types.Result{}, holds: map[*hold]bool{}}
}

const (
	within = time.Minute // see Service
	most   = 1 << 20     // bytes that it may say
	bin    = "bin"       // where a view has the plugins
)

// view is what the plugins of one directory see.
type view struct {
	*space.Private
	dir    string        // of the plugins
	cache  *os.File      // the directory of what the library keeps
	within time.Duration // as in Service

	mu      sync.Mutex
	daemons map[string]*daemon // by the socket at which they are asked
}

// view is that of a directory of plugins, made when it is first asked for. Call it on a thread that is in the machine's own namespace.
func (s *Service) view(dir string) (*view, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if v := s.views[dir]; v != nil {
		return v, nil
	}
	if d, err := os.Stat(dir); err != nil || !d.IsDir() || !filepath.IsAbs(dir) {
		return nil, errors.Join(err, fmt.Errorf("plugins in %q: want an absolute path of a directory", dir))
	}
	own, err := space.Current()
	if err != nil {
		return nil, err
	}
	p, err := space.NewSealed(own, space.Own, space.Seal{Show: dir, As: bin, Empty: []string{"/run", "/tmp", "/var"}})
	if err = errors.Join(err, own.Close()); err != nil {
		return nil, fmt.Errorf("files for plugins: %w", err)
	}
	v := &view{Private: p, dir: dir, within: s.within, daemons: map[string]*daemon{}}
	if err = p.Mkdir("cache", 0o700); err == nil {
		v.cache, err = p.Open("cache")
	}
	if err != nil {
		return nil, errors.Join(err, p.Close())
	}
	s.views[dir] = v
	return v, nil
}

// call is one attachment as the library knows it.
type call struct {
	*libcni.CNIConfig
	view  *view
	list  *libcni.NetworkConfigList
	rt    *libcni.RuntimeConf
	after string // of results
}

// call is made ready for a step.
func (s *Service) call(c topology.CNI) (*call, error) {
	list, err := libcni.NetworkConfFromBytes([]byte(c.List))
	if err != nil {
		return nil, fmt.Errorf("network configuration list: %w", err)
	}
	if len(list.Plugins) == 0 {
		return nil, errors.New("network configuration list: it has no plugins: want one at least")
	}
	v, err := s.view(c.Path)
	if err != nil {
		return nil, err
	}
	if err := v.attend(list); err != nil {
		return nil, err
	}
	out := &call{
		CNIConfig: libcni.NewCNIConfigWithCacheDir([]string{space.Own + "/" + bin}, fmt.Sprintf("/proc/self/fd/%d", v.cache.Fd()), v),
		view:      v, list: list,
		rt: &libcni.RuntimeConf{ContainerID: c.ID, IfName: c.Link, NetNS: space.Own + "/" + holding(list.Name, c)},
	}
	if c.Args != "" {
		if err := json.Unmarshal([]byte(c.Args), &out.rt.CapabilityArgs); err != nil {
			return nil, fmt.Errorf("capability arguments: %w", err)
		}
	}
	if c.After != "" {
		out.after = key(list.Name, c.After, c.Link)
	}
	return out, nil
}

func key(list, id, link string) string { return strings.Join([]string{list, id, link}, " ") }

// holding is the name of the file by which the plugins of a step enter the container.
func holding(list string, c topology.CNI) string { return "netns-" + list + "-" + c.ID + "-" + c.Link }

// Add has a container attached. The undo has it detached. Where it cannot be attached, what there may be of it is detached, as the
// specification wants it (section 3, ADD). Call it on a thread that is in the machine's own namespace.
func (s *Service) Add(c topology.CNI) (undo func() error, err error) {
	in, err := s.find(c.Container)
	if err != nil {
		return nil, err
	}
	a, err := s.call(c)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.machine, err)
	}
	held := &hold{a.view, holding(a.list.Name, c), c.Container}
	if err := a.view.Hold(in, held.name); err != nil {
		return nil, fmt.Errorf("%s: %w", s.machine, err)
	}
	s.mu.Lock()
	s.holds[held] = true
	s.mu.Unlock()
	undo = func() error {
		err := s.del(a)
		s.mu.Lock()
		delete(s.results, key(a.list.Name, c.ID, c.Link))
		s.mu.Unlock()
		return errors.Join(err, s.release(held))
	}
	result, err := s.add(a)
	if err == nil {
		err = numbered(result, c.Args)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: CNI ADD of %s: %w", s.machine, c.ID, err), undo())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.results[key(a.list.Name, c.ID, c.Link)] = result
	return undo, nil
}

func (s *Service) release(h *hold) error {
	s.mu.Lock()
	held := s.holds[h]
	delete(s.holds, h)
	s.mu.Unlock()
	if !held {
		return nil
	}
	return h.view.Release(h.name)
}

// Forget lets go of a container's namespace, so that it ends, though the container is attached. Plugins that detach it find nothing by the path
// that they knew it by (section 3, DEL).
func (s *Service) Forget(container string) error {
	s.mu.Lock()
	var all []*hold
	for h := range s.holds {
		if h.container == container {
			all = append(all, h)
		}
	}
	s.mu.Unlock()
	var errs []error
	for _, h := range all {
		errs = append(errs, s.release(h))
	}
	return errors.Join(errs...)
}

// Ends are the devices on the machine that an ADD gave as its result, such as the end of a container's pair; none where there is no such result.
func (s *Service) Ends(list, id, link string) (names []string) {
	s.mu.Lock()
	r := s.results[key(list, id, link)]
	s.mu.Unlock()
	if r == nil {
		return nil
	}
	got, err := current.NewResultFromResult(r)
	if err != nil {
		return nil
	}
	for _, i := range got.Interfaces {
		if i.Sandbox == "" {
			names = append(names, i.Name)
		}
	}
	return names
}

func (s *Service) add(a *call) (types.Result, error) {
	if a.after == "" {
		return a.AddNetworkList(context.Background(), a.list, a.rt)
	}
	if err := s.chain(a); err != nil {
		return nil, err
	}
	return a.AddNetwork(context.Background(), a.list.Plugins[0], a.rt)
}

// del has a container detached. A plugin that does not do it does not keep those before it from doing so.
func (s *Service) del(a *call) error {
	var err error
	if a.after == "" {
		err = a.DelNetworkList(context.Background(), a.list, a.rt)
	} else if err = s.chain(a); err == nil {
		err = a.DelNetwork(context.Background(), a.list.Plugins[0], a.rt)
	}
	if err != nil {
		return fmt.Errorf("%s: CNI DEL of %s: %w", s.machine, a.rt.ContainerID, err)
	}
	return nil
}

// chain gives the one plugin of a call the result that it comes after. The library does so within a list only.
func (s *Service) chain(a *call) error {
	s.mu.Lock()
	before := s.results[a.after]
	s.mu.Unlock()
	if before == nil || len(a.list.Plugins) != 1 {
		return fmt.Errorf("one plugin after an ADD that gave a result: there are %d plugins, and there is a result: %t", len(a.list.Plugins), before != nil)
	}
	conf, err := libcni.InjectConf(a.list.Plugins[0], map[string]any{"name": a.list.Name, "cniVersion": a.list.CNIVersion, "prevResult": before})
	if err != nil {
		return err
	}
	a.list.Plugins[0] = conf
	return nil
}

// numbered tells whether a result has the addresses that were asked for: other ones would be nobody's in the lab.
func numbered(r types.Result, args string) error {
	var want struct {
		IPs []string `json:"ips"`
	}
	if args == "" {
		return nil
	}
	if err := json.Unmarshal([]byte(args), &want); err != nil || len(want.IPs) == 0 {
		return err
	}
	got, err := current.NewResultFromResult(r)
	if err != nil {
		return err
	}
	var has []string
	for _, ip := range got.IPs {
		if a, ok := netip.AddrFromSlice(ip.Address.IP); ok {
			has = append(has, a.Unmap().String())
		}
	}
	for _, w := range want.IPs {
		if a, _, _ := strings.Cut(w, "/"); !slices.Contains(has, a) {
			return fmt.Errorf("the result has the addresses %q: want %s among them, which the capability \"ips\" asked for", has, a)
		}
	}
	return nil
}

// Close ends daemons, and lets go of what plugins have written. They run no more: what ran ended with its call.
func (s *Service) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for _, v := range s.views {
		for _, d := range v.daemons {
			errs = append(errs, d.end())
		}
		errs = append(errs, v.cache.Close(), v.Close())
	}
	s.views = map[string]*view{}
	return errors.Join(errs...)
}

// FindInPath is of the library's [invoke.Exec]: where a plugin is, as it is seen in the view.
func (v *view) FindInPath(plugin string, paths []string) (string, error) {
	if _, err := invoke.FindInPath(plugin, []string{v.dir}); err != nil {
		return "", err
	}
	return filepath.Join(paths[0], plugin), nil
}

// Decode is of the library's [invoke.Exec].
func (v *view) Decode(data []byte) (version.PluginInfo, error) {
	return (&version.PluginDecoder{}).Decode(data)
}

// ExecPlugin is of the library's [invoke.Exec]: it runs a plugin, and gives what it wrote to its standard output. An error tells how the
// plugin ended; which one it was, and what was asked of it, the library says.
func (v *view) ExecPlugin(_ context.Context, path string, input []byte, env []string) ([]byte, error) {
	var said, complained bounded
	cmd := exec.Command(path)
	cmd.Dir, cmd.Env, cmd.Stdin = "/", append(env, "PATH="+pathOf(env)), bytes.NewReader(input)
	cmd.Stdout, cmd.Stderr = &said, &complained
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true} // what it starts ends with it
	cmd.WaitDelay = time.Second                        // for output of what it left behind
	if err := v.Start(cmd); err != nil {
		return nil, err
	}
	group := -cmd.Process.Pid
	late := time.AfterFunc(v.within, func() { _ = unix.Kill(group, unix.SIGKILL) })
	err := cmd.Wait()
	inTime := late.Stop()
	_ = unix.Kill(group, unix.SIGKILL) // those that it left behind; where there are none, that is as well
	switch failed := new(types.Error); {
	case !inTime:
		err = fmt.Errorf("it did not end within %s and was killed%s", v.within, words(complained.text.Bytes()))
	case said.over || complained.over:
		err = fmt.Errorf("it wrote more than %d bytes", most)
	case errors.Is(err, exec.ErrWaitDelay):
		err = errors.New("it left a process behind that holds its output, which was killed")
	case err == nil:
		return said.text.Bytes(), nil
	case json.Unmarshal(said.text.Bytes(), failed) == nil && failed.Msg != "":
		err = fmt.Errorf("%w%s", &Error{failed.Code, failed.Error()}, words(complained.text.Bytes()))
	default:
		err = fmt.Errorf("%w without an error as the specification has it%s%s", err, words(said.text.Bytes()), words(complained.text.Bytes()))
	}
	return nil, err
}

// Error is that a plugin said no, as the specification has it (section 5).
type Error struct {
	Code uint
	said string
}

// Symbol is the code as refusals have it.
func (e *Error) Symbol() string { return fmt.Sprintf("CNI error %d", e.Code) }

// Error is the code, and what the plugin said of it.
func (e *Error) Error() string { return fmt.Sprintf("error code %d: %s", e.Code, e.said) }

// words are what a plugin wrote, in one line.
func words(said []byte) string {
	if said = bytes.TrimSpace(said); len(said) == 0 {
		return ""
	}
	return fmt.Sprintf("; it wrote %.300q", said)
}

// pathOf is the PATH of an environment, and where administrators' programs are besides.
func pathOf(env []string) string { return valueOf(env, "PATH") + ":/usr/local/sbin:/usr/sbin:/sbin" }

// valueOf is the last of a variable's values.
func valueOf(env []string, name string) (value string) {
	for _, e := range env {
		if v, ok := strings.CutPrefix(e, name+"="); ok {
			value = v
		}
	}
	return value
}

// bounded keeps what is written, until it is too much.
type bounded struct {
	text bytes.Buffer // not embedded: what is copied into it comes by Write alone
	over bool
}

func (b *bounded) Write(p []byte) (int, error) {
	if b.text.Len()+len(p) > most {
		b.over = true
		return len(p), nil // it may write on, and is ended in time
	}
	return b.text.Write(p)
}
