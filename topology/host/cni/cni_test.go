package cni

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/modebench/modebench/topology"
	"github.com/modebench/modebench/topology/space"
)

// TestMain runs the tests in namespaces of their own.
func TestMain(m *testing.M) { os.Exit(space.Rerun(m.Run, os.Args[1:], os.Getenv)) }

// service is a machine with one container, c1.
func service(t *testing.T) *Service {
	c1, err := space.New()
	if err != nil {
		t.Fatal(err)
	}
	s := New("h1", func(string) (*space.Space, error) { return c1, nil })
	t.Cleanup(func() {
		if err := errors.Join(s.Close(), c1.Close()); err != nil {
			t.Error(err)
		}
	})
	return s
}

// plugin is a directory with a plugin of a few shell lines, called one.
func plugin(t *testing.T, name, lines string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+lines+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func attach(dir string) topology.CNI {
	return topology.CNI{
		Container: "c1", ID: "c1", Link: "eth0", Path: dir, Args: `{"ips":["192.0.2.5/24"]}`,
		List: `{"cniVersion":"1.1.0","name":"net","plugins":[{"type":"one","capabilities":{"ips":true}}]}`,
	}
}

// answer is a result as the specification has it, with the address that is asked for.
const answer = `cat <<END
{"cniVersion":"1.1.0","interfaces":[{"name":"eth0","sandbox":"$CNI_NETNS"}],"ips":[{"address":"192.0.2.5/24","interface":0}]}
END`

// A plugin is called as the specification has it, is in the machine's namespace, enters the container by a path, and keeps what it likes where
// nobody else sees it.
func TestCalls(t *testing.T) {
	s := service(t)
	dir := plugin(t, "one", `set -e
mkdir -p /var/lib/one /run/one /tmp/one
echo kept >/var/lib/one/file
echo "$CNI_COMMAND $CNI_CONTAINERID $CNI_IFNAME $CNI_PATH $(readlink /proc/self/ns/net) $(stat -Lc %i "$CNI_NETNS")" >>`+space.Own+`/calls
cat >>`+space.Own+`/calls
echo >>`+space.Own+`/calls
[ "$CNI_COMMAND" = DEL ] || `+answer)
	undo, err := s.Add(attach(dir))
	if err != nil {
		t.Fatal(err)
	}
	c1, _ := s.find("c1")
	own, err := space.Current()
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(undo(), own.Close()); err != nil {
		t.Fatal(err)
	}
	got, err := s.views[dir].ReadFile("calls")
	if err != nil {
		t.Fatal(err)
	}
	said := strings.Split(strings.TrimSpace(string(got)), "\n")
	for i, command := range []string{"ADD", "DEL"} {
		want := fmt.Sprintf("%s c1 eth0 %s/bin net:[%d] %d", command, space.Own, own.Inode(), c1.Inode())
		if len(said) != 4 || said[2*i] != want || !strings.Contains(said[2*i+1], `"runtimeConfig":{"ips":["192.0.2.5/24"]}`) || strings.Contains(said[2*i+1], "prevResult") != (command == "DEL") {
			t.Errorf("%s: called with\n%s\nwant %s", command, got, want)
		}
	}
	for _, path := range []string{"/var/lib/one", "/run/one", "/tmp/one", space.Own + "/calls"} {
		if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is on the machine: %v", path, err)
		}
	}
	unheld(t, s)
}

// unheld fails the test where a view still holds a container.
func unheld(t *testing.T, s *Service) {
	t.Helper()
	for _, v := range s.views {
		left, err := fs.ReadDir(v.FS(), ".")
		if err != nil {
			t.Error(err)
		}
		for _, f := range left {
			if strings.HasPrefix(f.Name(), "netns-") {
				t.Errorf("still held: %s", f.Name())
			}
		}
	}
}

// A plugin after another gets the result that the other gave, when it attaches and when it detaches.
func TestAfter(t *testing.T) {
	s := service(t)
	dir := plugin(t, "one", answer)
	if err := os.WriteFile(filepath.Join(dir, "two"), []byte("#!/bin/sh\n(cat; echo) >>"+space.Own+"/two\n"+answer), 0o755); err != nil {
		t.Fatal(err)
	}
	undo, err := s.Add(attach(dir))
	if err != nil {
		t.Fatal(err)
	}
	second := attach(dir)
	second.ID, second.After, second.Args = "c1-two", "c1", ""
	second.List = `{"cniVersion":"1.1.0","name":"net","plugins":[{"type":"two"}]}`
	undone, err := s.Add(second)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(undone(), undo()); err != nil {
		t.Fatal(err)
	}
	said, err := s.views[dir].ReadFile("two")
	if n := strings.Count(string(said), `"prevResult":{"cniVersion":"1.1.0","interfaces":[{"name":"eth0"`); err != nil || n != 2 {
		t.Errorf("got the result %d times: %v: %s", n, err, said)
	}
	if second.After = "c2"; true {
		if _, err := s.Add(second); err == nil || !strings.Contains(err.Error(), "after an ADD that gave a result") {
			t.Errorf("after nothing: %v", err)
		}
	}
	unheld(t, s)
}

// Whatever a plugin does, an attachment comes to an end that says what was wrong, leaves no process behind and changes no file of the machine,
// and others are attached after it.
func TestBadPlugins(t *testing.T) {
	elsewhere := "ead-only file system"
	if strings.HasPrefix(os.Getenv("PWD"), "/tmp/") { // which a plugin has an empty one of
		elsewhere = "nonexistent"
	}
	marker := fmt.Sprintf("%d.%d", 4000+os.Getpid()%1000, time.Now().UnixNano()%1000) // an odd time to sleep
	for _, test := range []struct{ name, lines, want string }{
		{"hangs", "sleep " + marker, "did not end within 1s and was killed"},
		{"hangs deaf", "trap '' TERM INT; while :; do sleep " + marker + "; done", "did not end within 1s and was killed"},
		{"crashes", "kill -SEGV $$", "signal: segmentation fault"},
		{"says nothing", ":", "unexpected end of JSON input"},
		{"says rubbish", "echo bridge is up", "invalid character 'b'"},
		{"fails without a word", "exit 7", "exit status 7 without an error as the specification has it"},
		{"fails with other words", "echo oh no; exit 1", `; it wrote "oh no"`},
		{"fails as specified", `echo '{"cniVersion":"1.1.0","code":11,"msg":"try again later","details":"busy"}'; exit 1`, "error code 11: try again later; busy"},
		{"says too much", "yes y | head -c 9000000", "it wrote more than 1048576 bytes"},
		{"leaves a process", "sleep " + marker + " & " + answer, "left a process behind"},
		{"numbers otherwise", strings.ReplaceAll(answer, "192.0.2.5", "192.0.2.77"), `want 192.0.2.5 among them`},
		{"of another version", strings.ReplaceAll(answer, "1.1.0", "9.9.9"), "9.9.9"},
		{"writes elsewhere", "set -e; echo x >" + os.Getenv("PWD") + "/written; " + answer, elsewhere},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := service(t)
			if s.within = time.Second; test.name == "leaves a process" {
				s.within = within // the process holds its output for longer
			}
			began := time.Now()
			_, err := s.Add(attach(plugin(t, "one", test.lines)))
			switch {
			case err == nil:
				t.Error("no error")
			case !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), "h1: CNI ADD of c1"):
				t.Errorf("error %q: want it to say %q, and of what", err, test.want)
			}
			if took := time.Since(began); took > 20*time.Second {
				t.Errorf("took %s", took)
			}
			unheld(t, s)
			if left := running("sleep", marker); len(left) > 0 {
				t.Errorf("left processes %v", left)
			}
			if undo, err := s.Add(attach(plugin(t, "one", answer))); err != nil {
				t.Errorf("a good one after it: %v", err)
			} else if err := undo(); err != nil {
				t.Error(err)
			}
		})
	}
	if _, err := os.Stat("written"); err == nil {
		t.Error("a file of the machine was written")
	}
}

// A plugin that does not detach says so, and the container is let go of all the same.
func TestBadDetach(t *testing.T) {
	s := service(t)
	undo, err := s.Add(attach(plugin(t, "one", `[ "$CNI_COMMAND" = ADD ] || exit 3
`+answer)))
	if err != nil {
		t.Fatal(err)
	}
	if err := undo(); err == nil || !strings.Contains(err.Error(), "h1: CNI DEL of c1") || !strings.Contains(err.Error(), "exit status 3") {
		t.Errorf("detached by a plugin that fails: %v", err)
	}
	unheld(t, s)
}

// running are the processes that were started as these words.
func running(words ...string) (pids []string) {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range files {
		if line, err := os.ReadFile(f); err == nil && string(line) == strings.Join(words, "\x00")+"\x00" { // else it has ended
			pids = append(pids, filepath.Base(filepath.Dir(f)))
		}
	}
	return pids
}

func TestBadSteps(t *testing.T) {
	dir := plugin(t, "one", answer)
	for _, test := range []struct {
		name, want string
		change     func(*topology.CNI)
	}{
		{"no plugin of that name", `failed to find plugin "two"`, func(c *topology.CNI) { c.List = strings.ReplaceAll(c.List, "one", "two") }},
		{"a path for a name", "invalid plugin name", func(c *topology.CNI) { c.List = strings.ReplaceAll(c.List, `"one"`, `"../one"`) }},
		{"no JSON", "network configuration list: ", func(c *topology.CNI) { c.List = "{" }},
		{"no plugins", "network configuration list: ", func(c *topology.CNI) { c.List = `{"cniVersion":"1.1.0","name":"net"}` }},
		{"bad arguments", "capability arguments: ", func(c *topology.CNI) { c.Args = "[" }},
		{"no directory", "want an absolute path of a directory", func(c *topology.CNI) { c.Path = "/nowhere" }},
		{"a relative directory", "want an absolute path of a directory", func(c *topology.CNI) { c.Path = "." }},
	} {
		t.Run(test.name, func(t *testing.T) {
			s, c := service(t), attach(dir)
			test.change(&c)
			if _, err := s.Add(c); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v: want %q", err, test.want)
			}
			unheld(t, s)
		})
	}
}

// A list with the address manager dhcp needs its daemon: one that does not run is told of with what it said, one that does not listen is ended,
// and without the program the plugins say what they lack.
func TestDaemon(t *testing.T) {
	marker := fmt.Sprintf("%d.%d", 5000+os.Getpid()%1000, time.Now().UnixNano()%1000)
	for _, test := range []struct{ name, lines, want string }{
		{"ends", `echo "$1 $2 $3"; exit 7`, "it ended before it could be asked (exit status 7); it said: daemon -socketpath /run/own.sock"},
		{"deaf", "exec sleep " + marker, "it cannot be asked within 1s: "},
		{"none", "", "<nil>"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := service(t)
			s.within = time.Second
			dir := plugin(t, "one", answer)
			if test.lines != "" {
				if err := os.WriteFile(filepath.Join(dir, leaser), []byte("#!/bin/sh\n"+test.lines+"\n"), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			c := attach(dir)
			c.List = strings.ReplaceAll(c.List, `"type":"one"`, `"type":"one","ipam":{"type":"dhcp","daemonSocketPath":"/run/own.sock"}`)
			undo, err := s.Add(c)
			if err == nil {
				err = undo()
			}
			if !strings.Contains(fmt.Sprint(err), test.want) {
				t.Errorf("error %v: want %q", err, test.want)
			}
			if left := running("sleep", marker); len(left) > 0 {
				t.Errorf("left processes %v", left)
			}
			unheld(t, s)
		})
	}
}
