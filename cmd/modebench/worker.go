package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/modebench/modebench/topology/space"
)

// errIsolation is that this machine lets no network namespace be made.
var errIsolation = errors.New("network namespaces cannot be made here")

// isolationRemedy says how this machine can be made to allow it.
func isolationRemedy() string {
	if os.Geteuid() == 0 {
		return "the process lacks CAP_SYS_ADMIN, or a sandbox forbids unshare(2): run it on the machine itself, or give the container CAP_SYS_ADMIN and CAP_NET_ADMIN"
	}
	for _, knob := range []struct{ file, forbids, set string }{
		{"/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1", "kernel.apparmor_restrict_unprivileged_userns=0"},
		{"/proc/sys/kernel/unprivileged_userns_clone", "0", "kernel.unprivileged_userns_clone=1"},
		{"/proc/sys/user/max_user_namespaces", "0", "user.max_user_namespaces=10000"},
		{"/proc/sys/user/max_net_namespaces", "0", "user.max_net_namespaces=10000"},
	} {
		if b, err := os.ReadFile(knob.file); err == nil && strings.TrimSpace(string(b)) == knob.forbids {
			return "this distribution forbids it to ordinary users: run as root, or allow it with: sudo sysctl -w " + knob.set
		}
	}
	return "ordinary users may not make user namespaces here: run as root"
}

// employ starts a worker on a job and hands over each message that it sends. When ctx ends, the worker is asked to stop
// and given time to say what it has. One that stays as the supervisor of a lab is left to itself.
func employ(ctx context.Context, j job, each func(message)) error {
	cmd := exec.Command(space.Self, "worker")
	var words bytes.Buffer
	cmd.Stderr = &words
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if j.Sites == nil {
		space.Isolate(cmd)
	} else {
		space.Attend(cmd) // ssh needs this machine's network, and its user's keys
	}
	if err := space.Start(cmd); err != nil {
		return fmt.Errorf("%w: %w", errIsolation, err)
	}
	say := json.NewEncoder(stdin)
	if err := say.Encode(j); err != nil {
		_ = cmd.Process.Kill()
		return errors.Join(fmt.Errorf("worker: %w", err), cmd.Wait())
	}
	over := make(chan struct{})
	defer close(over)
	stopped := context.AfterFunc(ctx, func() {
		_ = say.Encode("stop") // where it has ended already, there is nothing to stop
		select {
		case <-time.After(10 * time.Second):
			_ = cmd.Process.Kill()
		case <-over:
		}
	})
	defer stopped()
	var failed error
	stays := false
	lines := json.NewDecoder(stdout)
	for {
		var m message
		if err := lines.Decode(&m); err != nil {
			if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
				failed = errors.Join(failed, fmt.Errorf("worker: %w", err))
			}
			break
		}
		if m.Error != "" {
			failed = errors.Join(failed, errors.New(m.Error))
			continue
		}
		stays = stays || m.Stays
		each(m)
	}
	_ = stdin.Close()
	if stays {
		return errors.Join(failed, cmd.Process.Release())
	}
	if err := cmd.Wait(); err != nil && ctx.Err() == nil {
		failed = errors.Join(failed, fmt.Errorf("worker: %w: %s", err, lastWords(words.String())))
	}
	return failed
}

// lastWords is what a worker died of: the line of a panic or of a fatal error, else the last one.
func lastWords(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	for _, l := range lines {
		if strings.HasPrefix(l, "panic:") || strings.HasPrefix(l, "fatal error:") {
			return l
		}
	}
	return lines[len(lines)-1]
}

// lacks asks an isolated worker what of these the kernel does not have.
func lacks(ctx context.Context, names []string) (missing map[string]string, err error) {
	err = employ(ctx, job{Kernel: names}, func(m message) { missing = m.Missing })
	return missing, err
}
