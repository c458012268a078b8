package docker

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/modebench/modebench/topology"
	"github.com/modebench/modebench/topology/space"
)

// TestMain runs the tests in namespaces of their own.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "confined" {
		_ = space.Confined(os.Args[2:], os.Environ())
		os.Exit(1)
	}
	os.Exit(space.Rerun(m.Run, os.Args[1:], os.Getenv))
}

// A container's configuration loses its control groups and what they limit, and nothing else.
func TestUngrouped(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config.json")
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(`{"ociVersion":"1.0.2","linux":{"cgroupsPath":"/docker/1","resources":{"pids":{"limit":1}},"namespaces":[{"type":"network"}]}}`)
	if err := ungrouped(file); err != nil {
		t.Fatal(err)
	}
	const want = `{"linux":{"namespaces":[{"type":"network"}]},"ociVersion":"1.0.2"}`
	if got, err := os.ReadFile(file); err != nil || string(got) != want {
		t.Errorf("%s, %v: want %s", got, err, want)
	}
	for _, wrong := range []string{"", "[]", "{}"} {
		if write(wrong); ungrouped(file) == nil {
			t.Errorf("%q is taken for a configuration", wrong)
		}
	}
}

// engineOf is a directory with a dockerd of a few shell lines.
func engineOf(t *testing.T, lines string) topology.Engine {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "dockerd"), []byte("#!/bin/sh\n"+lines+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return topology.Engine{Path: dir}
}

// An engine that ends before it answers is an error with its last words, and leaves room for another.
func TestAnEngineThatEnds(t *testing.T) {
	s := New("h1")
	for range 2 {
		_, err := s.Start(engineOf(t, "echo no disk >&2; exit 7"))
		if err == nil || !strings.Contains(err.Error(), "exit status 7") || !strings.Contains(err.Error(), "no disk") {
			t.Fatalf("%v: want how it ended, and what it said", err)
		}
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// One that never answers is killed in time, with all that it started.
func TestAnEngineThatHangs(t *testing.T) {
	s := New("h1")
	s.starting = 300 * time.Millisecond
	_, err := s.Start(engineOf(t, "sleep 4711 & wait"))
	if err == nil || !strings.Contains(err.Error(), "does not answer within") {
		t.Fatalf("%v: want that it does not answer", err)
	}
}

// A directory that an engine wants to write to, and the machine does not have, is made in its view of the files, and nowhere else.
func TestAMachineThatNeverHadOne(t *testing.T) {
	own, err := space.Current()
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	const dir = "/etc/modebench-never"
	p, err := space.NewSealed(own, run, space.Seal{Made: []string{dir}})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	cmd := exec.Command("/bin/sh", "-c", "echo key > "+dir+"/key && cat "+dir+"/key && test -e /etc/passwd")
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := p.Start(cmd); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil || out.String() != "key\n" {
		t.Errorf("%v: %s", err, out.String())
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s on the machine: %v: want none", dir, err)
	}
}

// What asks for an engine where there is none is told so, and killing a container of none is no matter.
func TestWithoutAnEngine(t *testing.T) {
	s := New("h1")
	if _, _, err := s.Run(topology.Space{Name: "c1", Run: &topology.EngineContainer{Name: "h1-c1"}}); err == nil {
		t.Error("a container runs without an engine")
	}
	if _, err := s.Network(topology.EngineNetwork{Name: "blue"}); err == nil {
		t.Error("a network is made without an engine")
	}
	if _, _, err := s.Publish(topology.EnginePort{Container: "c1"}, nil); err == nil {
		t.Error("a port is published without an engine")
	}
	if err := s.Kill("c1"); err != nil {
		t.Error(err)
	}
	if _, err := s.Start(topology.Engine{Path: "/nowhere"}); !errors.Is(err, unix.ENOENT) {
		t.Errorf("%v: want that there is no dockerd", err)
	}
}
