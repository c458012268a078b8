package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path"
	"time"

	"github.com/onsi/ginkgo/v2"
	"golang.org/x/sys/unix"

	"github.com/modebench/modebench/fixtures"
	"github.com/modebench/modebench/modes"
	"github.com/modebench/modebench/reports"
	"github.com/modebench/modebench/suites"
	"github.com/modebench/modebench/topology"
	"github.com/modebench/modebench/topology/host"
	"github.com/modebench/modebench/topology/host/capture"
	"github.com/modebench/modebench/topology/lab"
	"github.com/modebench/modebench/topology/netns"
)

// job is what a worker is asked for, as JSON on its standard input.
//
// A worker is this program as root of an empty network namespace: labs run in it, and end with it. The command itself
// opens no socket, keeps the terminal and the files, and outlives a worker that crashes.
type job struct {
	Kernel   []string // only tell which of these the kernel has
	Topology string   // text of the file
	Name     string   // of the file
	Modes    []string
	Suites   []string
	Features []string
	Seed     uint64
	Measure  suites.Measure
}

// message is one line of a worker's answer.
type message struct {
	suites.Event
	Missing map[string]string `json:"missing,omitempty"` // answer to Kernel: what cannot be had, in the kernel's words
	File    *file             `json:"file,omitempty"`    // of the report, such as the packets of a failed spec
	Error   string            `json:"error,omitempty"`   // the worker could not do its job
}

// file is one that the command is to write: a worker writes none.
type file struct {
	Name string // path in the report's directory
	Data []byte
}

// work does one job.
func work(in io.Reader, out io.Writer) error {
	lines := json.NewEncoder(out)
	dec := json.NewDecoder(in)
	var j job
	if err := dec.Decode(&j); err != nil {
		return fmt.Errorf("job: %w", err)
	}
	go func() { // the end of input is the end of the command
		_, _ = io.Copy(io.Discard, in)
		os.Exit(exitUnexpected)
	}()
	if err := do(j, func(m message) { _ = lines.Encode(m) }); err != nil {
		return lines.Encode(message{Error: err.Error()})
	}
	return nil
}

func do(j job, say func(message)) error {
	if j.Kernel != nil {
		missing, err := host.Kernel(j.Kernel)
		if err != nil {
			return err
		}
		m := message{Missing: map[string]string{}}
		for name, err := range missing {
			m.Missing[name] = err.Error()
		}
		say(m)
		return nil
	}
	t, err := topology.Read(j.Name, []byte(j.Topology))
	if err != nil {
		return err
	}
	expectations, err := modes.Expectations(fixtures.FS)
	if err != nil {
		return err
	}
	run := &suites.Run{
		Driver: netns.Driver{}, Topology: t, Suites: j.Suites, Features: j.Features, Expectations: expectations,
		Fidelity: reports.Fidelity{Kernel: release(), Driver: "netns"}, Measure: j.Measure,
		Emit: func(e suites.Event) { say(message{Event: e}) },
		Keep: func(name string, ps []lab.Packet) (string, error) {
			var b bytes.Buffer
			if err := capture.WritePcapng(&b, ps); err != nil {
				return "", err
			}
			f := &file{Name: path.Join("captures", name+".pcapng"), Data: b.Bytes()}
			say(message{File: f})
			return f.Name, nil
		},
	}
	for _, name := range j.Modes {
		m, ok := modes.Find(name)
		if !ok {
			return fmt.Errorf("mode %q: no such mode", name)
		}
		run.Modes = append(run.Modes, m)
	}
	run.Declare()
	suite, reporter := ginkgo.GinkgoConfiguration()
	suite.RandomSeed = int64(j.Seed)
	suite.Timeout = time.Hour
	reporter.Succinct, reporter.NoColor = true, true
	ginkgo.RunSpecs(indifferent{}, "modebench", suite, reporter)
	return nil
}

// indifferent takes note of no failure: results tell.
type indifferent struct{}

func (indifferent) Fail() {}

// release is the kernel's, as uname(2) tells.
func release() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "unknown"
	}
	return unix.ByteSliceToString(u.Release[:])
}
