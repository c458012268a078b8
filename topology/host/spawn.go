package host

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/modebench/modebench/topology/lab"
	"github.com/modebench/modebench/topology/space"
)

// process is a child that does nothing until its standard input ends.
type process struct {
	cmd *exec.Cmd
	in  io.WriteCloser
}

func (p *process) end() error {
	_ = p.in.Close()
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait() // it was killed: that it says so is no news
	return nil
}

// namespaces are those that a process tells of itself.
var namespaces = map[string]uintptr{
	"net": syscall.CLONE_NEWNET, "mnt": syscall.CLONE_NEWNS, "pid": syscall.CLONE_NEWPID,
	"uts": syscall.CLONE_NEWUTS, "ipc": syscall.CLONE_NEWIPC,
}

// Idle is what a spawned process runs: it writes the inodes of its namespaces and waits for the end of its input. For each line
// that comes it writes its environment, as the kernel shows it.
func Idle() error {
	out := map[string]uint64{}
	for name := range namespaces {
		link, err := os.Readlink("/proc/self/ns/" + name) // such as net:[4026531840], namespaces(7)
		if err != nil {
			return err
		}
		inode, err := strconv.ParseUint(strings.TrimSuffix(link[strings.Index(link, "[")+1:], "]"), 10, 64)
		if err != nil {
			return fmt.Errorf("%s: %w", link, err)
		}
		out[name] = inode
	}
	said := json.NewEncoder(os.Stdout)
	if err := said.Encode(out); err != nil {
		return err
	}
	asked := bufio.NewScanner(os.Stdin)
	for asked.Scan() {
		env, err := os.ReadFile("/proc/self/environ")
		if err != nil {
			return err
		}
		if err := said.Encode(strings.FieldsFunc(string(env), func(r rune) bool { return r == 0 })); err != nil {
			return err
		}
	}
	return asked.Err()
}

// Spawn is the verb Host.Spawn.
func (h *Host) Spawn(a lab.Spawn, reply *lab.Process) error {
	s, err := h.find(a.In)
	if err != nil {
		return err
	}
	cmd := exec.Command(space.Self, "idle")
	cmd.Stderr = os.Stderr
	space.Mortal(cmd)
	for _, name := range a.Separate {
		flag, ok := namespaces[name]
		if !ok || name == "net" {
			return fmt.Errorf("spawn: namespace %q: want mnt, pid, uts or ipc", name)
		}
		cmd.SysProcAttr.Cloneflags |= flag
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := s.Start(cmd); err != nil {
		return fmt.Errorf("spawn: %w", err)
	}
	p := &process{cmd: cmd, in: in}
	if err := json.NewDecoder(out).Decode(&reply.Namespaces); err != nil {
		_ = p.end()
		return fmt.Errorf("spawn: %w", err)
	}
	reply.PID = cmd.Process.Pid
	h.mu.Lock()
	defer h.mu.Unlock()
	h.spawn[reply.PID] = p
	return nil
}

// Kill is the verb Host.Kill.
func (h *Host) Kill(k lab.Kill, _ *lab.Nothing) error {
	h.mu.Lock()
	p := h.spawn[k.PID]
	delete(h.spawn, k.PID)
	h.mu.Unlock()
	if p == nil {
		return fmt.Errorf("%s: process %d was not started here", h.name, k.PID)
	}
	return p.end()
}

func (h *Host) endSpawned() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, p := range h.spawn {
		_ = p.end()
	}
}

// Crash is the verb Host.Crash.
func (h *Host) Crash(lab.Nothing, *lab.Nothing) error {
	return unix.Kill(os.Getpid(), unix.SIGKILL)
}

// Usage is the verb Host.Usage.
func (h *Host) Usage(_ lab.Nothing, reply *lab.Usage) error {
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err
	}
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	*reply = lab.Usage{Descriptors: len(open) - 1, Memory: m.HeapAlloc} // one is that of the directory
	return nil
}

// Holders is the verb Host.Holders: by what proc(5) shows of processes, which live in a namespace or hold a descriptor
// of it. Those that belong to others are not told, nor could they have entered a namespace of a lab.
func (h *Host) Holders(inodes []uint64, reply *[]int) error {
	wanted := map[string]bool{}
	for _, i := range inodes {
		wanted[fmt.Sprintf("net:[%d]", i)] = true // namespaces(7)
	}
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil {
			continue
		}
		links := []string{dir + "/ns/net"}
		if fds, err := os.ReadDir(dir + "/fd"); err == nil { // else it has ended, or is another's
			for _, fd := range fds {
				links = append(links, dir+"/fd/"+fd.Name())
			}
		}
		if slices.ContainsFunc(links, func(link string) bool {
			to, err := os.Readlink(link)
			return err == nil && wanted[to]
		}) {
			*reply = append(*reply, pid)
		}
	}
	return nil
}
