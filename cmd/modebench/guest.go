package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/modebench/modebench/reports"
	"github.com/modebench/modebench/suites"
	"github.com/modebench/modebench/topology/host"
	"github.com/modebench/modebench/topology/vm"
)

// patience is how long a guest may say nothing, not even that it is alive.
const patience = 15 * heartbeat

// forward does a job in a guest: it boots the guest, hands the job to a worker in it, and hands on what comes in rest and
// every message of the worker. The guest has ended when it returns.
func forward(j job, rest io.Reader, out io.Writer, say func(message)) (err error) {
	k := *j.Guest
	j.Guest = nil
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	asked := make(chan []byte, 1)
	go func() { // before there is a guest to hand it to, what asks for the end ends the boot
		var stop json.RawMessage
		if err := json.NewDecoder(rest).Decode(&stop); err != nil {
			os.Exit(exitUnexpected) // the end of input is the end of the command; what is in this PID namespace ends too
		}
		cancel(errors.New("interrupted"))
		asked <- stop
		_, _ = io.Copy(io.Discard, rest)
		os.Exit(exitUnexpected)
	}()
	for _, mode := range j.Modes {
		say(message{Event: suites.Event{Kind: "booting", Mode: mode}})
	}
	m, err := vm.Boot(ctx, k, vm.Guest{Cache: j.Cache, Programs: j.Carried, Memory: j.Memory, Features: host.Features(), Args: []string{"worker"}})
	if err != nil {
		return fmt.Errorf("guest kernel %s: %w", k.Name, err)
	}
	defer func() { err = errors.Join(err, m.Stop()) }()
	what := ""
	if len(j.Modes) == 1 {
		what = " for " + j.Modes[0]
	}
	for _, p := range []reports.Phase{{Name: "boot " + k.Name + what, Seconds: m.Boot}, {Name: "load modules of " + k.Name + what, Seconds: m.Load}} {
		say(message{Event: suites.Event{Kind: "phase", Phase: &p}})
	}
	if err := json.NewEncoder(m.Stream).Encode(j); err != nil {
		return fmt.Errorf("guest kernel %s: %w", k.Name, err)
	}
	go func() {
		stop := <-asked
		_, _ = m.Stream.Write(append(stop, '\n')) // a guest that does not listen is ended soon
	}()
	silent := time.AfterFunc(patience, func() { _ = m.Stop() })
	defer silent.Stop()
	for lines := bufio.NewReader(m.Stream); ; {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			if !silent.Stop() {
				err = fmt.Errorf("it has said nothing for %s\n%s", patience, m.Console())
			}
			if errors.Is(err, io.EOF) {
				return nil
			}
			return fmt.Errorf("guest kernel %s: %w", k.Name, err)
		}
		silent.Reset(patience)
		if _, err := out.Write(line); err != nil {
			return err
		}
	}
}
