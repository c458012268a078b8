package cni

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/containernetworking/cni/libcni"
	"golang.org/x/sys/unix"

	"github.com/modebench/modebench/topology/host/program"
	"github.com/modebench/modebench/topology/space"
)

// The address manager dhcp asks a daemon, the same program, which keeps the leases of a machine's containers (plugins/ipam/dhcp/daemon.go). A
// machine's administrator runs it beside plugins; here it runs for the lists that have that manager, where plugins see what they see.
const (
	leaser    = "dhcp"
	leaserAt  = "/run/cni/dhcp.sock" // where it is asked, if a list says nothing else
	leaserUp  = 10 * time.Second     // until it is to be asked, or so long as a plugin has for a call
	answered  = 2 * time.Second      // a server's first answer is waited for; twice as long for the next ones
	lookAgain = 5 * time.Millisecond
)

// daemon is one that runs.
type daemon struct {
	cmd   *exec.Cmd
	said  *program.Tail
	ended chan struct{}
}

// attend runs the daemon that a list's address manager asks, where none runs yet. Where the plugins have no such program, the call of it says so.
func (v *view) attend(list *libcni.NetworkConfigList) error {
	for _, p := range list.Plugins {
		var of struct {
			IPAM struct {
				Type             string `json:"type"`
				DaemonSocketPath string `json:"daemonSocketPath"`
			} `json:"ipam"`
		}
		if json.Unmarshal(p.Bytes, &of) != nil || of.IPAM.Type != leaser { // what is wrong with it the plugin says
			continue
		}
		if _, err := os.Stat(filepath.Join(v.dir, leaser)); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		at := of.IPAM.DaemonSocketPath
		if at == "" {
			at = leaserAt
		}
		if err := v.lease(at); err != nil {
			return fmt.Errorf("the daemon of the address manager %s: %w", leaser, err)
		}
	}
	return nil
}

// lease runs the daemon that is asked at a socket.
func (v *view) lease(at string) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if d := v.daemons[at]; d != nil && d.runs() {
		return nil
	}
	d := &daemon{said: new(program.Tail), ended: make(chan struct{})}
	d.cmd = exec.Command(filepath.Join(space.Own, bin, leaser), "daemon", "-socketpath", at,
		"-timeout", answered.String(), "-resendtimeout", (v.within / 3).String()) // the plugin, which waits for it, is not killed before
	d.cmd.Dir, d.cmd.Stdout, d.cmd.Stderr = "/", d.said, d.said
	d.cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true} // a terminal's signals are not its
	if err := v.Start(d.cmd); err != nil {
		return err
	}
	go func() {
		_ = d.cmd.Wait()
		close(d.ended)
	}()
	v.daemons[at] = d
	return v.ready(d, at)
}

func (d *daemon) runs() bool {
	select {
	case <-d.ended:
		return false
	default:
		return true
	}
}

// ready waits until a daemon can be asked at a socket.
func (v *view) ready(d *daemon, at string) error {
	within := min(leaserUp, v.within)
	late := time.NewTimer(within)
	defer late.Stop()
	pace := time.NewTicker(lookAgain)
	defer pace.Stop()
	for {
		err := v.Listening(at)
		if err == nil {
			return nil
		}
		select {
		case <-d.ended:
			return fmt.Errorf("it ended before it could be asked (%s); it said: %s", d.cmd.ProcessState, d.said)
		case <-late.C:
			return errors.Join(fmt.Errorf("it cannot be asked within %s: %w; it said: %s", within, err, d.said), d.end())
		case <-pace.C:
		}
	}
}

// end ends the daemon. It gives no leases back: those of containers that are attached run out.
func (d *daemon) end() error {
	if !d.runs() {
		return nil
	}
	err := d.cmd.Process.Kill()
	if errors.Is(err, os.ErrProcessDone) {
		err = nil
	}
	if err == nil {
		<-d.ended
	}
	return err
}
