package program

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/modebench/modebench/topology"
	"github.com/modebench/modebench/topology/lab"
	"github.com/modebench/modebench/topology/space"
)

// TestMain runs the tests in namespaces of their own. This program is the other's program too, as its environment says.
func TestMain(m *testing.M) {
	switch as := os.Getenv("MODEBENCH_AS"); as {
	case "":
		os.Exit(space.Rerun(m.Run, os.Args[1:], os.Getenv))
	case "keeper": // a machine's program, with one of another's
		s := New("h1")
		if _, err := s.Run(topology.Program{Name: "sleeper", Path: "sleep", Args: []string{"1000"}}); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Println(s.programs["sleeper"].life.cmd.Process.Pid)
		_, _ = io.Copy(io.Discard, os.Stdin)
	default: // what to listen at
		l, err := net.Listen("tcp", as)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		for {
			c, err := l.Accept()
			if err != nil {
				os.Exit(1)
			}
			_ = c.Close()
		}
	}
}

// service is a machine with programs, in an empty namespace whose loopback is up.
func service(t *testing.T) *Service {
	s := New("h1")
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// shell is a program of a few words, ready when there is a file ready.
func shell(words string) topology.Program {
	return topology.Program{Name: "p", Path: "sh", Args: []string{"-c", words}, Ready: topology.Ready{File: "ready"}}
}

func stateOf(t *testing.T, s *Service) (out lab.ProgramState) {
	t.Helper()
	if err := s.State("p", &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// told is the state once the program's words have arrived, which may be after it is ready.
func told(t *testing.T, s *Service) lab.ProgramState {
	t.Helper()
	late, look := time.After(10*time.Second), time.NewTicker(time.Millisecond)
	defer look.Stop()
	for {
		if st := stateOf(t, s); st.Output != "" {
			return st
		}
		select {
		case <-late:
			t.Fatal("it said nothing")
		case <-look.C:
		}
	}
}

func TestProgramHasItsFilesAndIsReady(t *testing.T) {
	s := service(t)
	p := shell(`echo "$(cat conf.d/a "$1"; echo $PLACE $PWD)"; : >ready; exec sleep 1000`)
	p.Args = append(p.Args, "sh", topology.Dir+"/b")
	p.Env = []string{"PLACE=" + topology.Dir + "/x"}
	p.Files = map[string]string{"conf.d/a": "I am in {dir}.\n", "b": "b\n"}
	undo, err := s.Run(p)
	if err != nil {
		t.Fatal(err)
	}
	dir := space.Own + "/p"
	st := told(t, s)
	if want := fmt.Sprintf("I am in %s.\nb\n%s/x %s", dir, dir, dir); st.Output != want || !st.Running || st.Ended != "" {
		t.Errorf("state %+v: want it running, having said %q", st, want)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is seen outside: %v", dir, err)
	}
	if _, err := s.Run(p); !errors.Is(err, unix.EEXIST) {
		t.Errorf("a second program of the name: %v", err)
	}
	ended := pidfd(t, st.PID)
	if err := undo(); err != nil {
		t.Error(err)
	}
	if !over(t, ended) {
		t.Error("it runs after its undo")
	}
	if all, err := s.files.Open("."); err != nil {
		t.Error(err)
	} else if names, err := all.Readdirnames(-1); len(names) > 0 || err != nil {
		t.Errorf("left behind: %q, %v", names, err)
	}
	if err := undo(); err != nil {
		t.Error(err)
	}
	if err := s.State("p", new(lab.ProgramState)); err == nil {
		t.Error("a program that was undone has a state")
	}
}

func TestProgramIsReadyWhenItAnswers(t *testing.T) {
	s := service(t)
	own, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	at := netip.MustParseAddrPort("127.0.0.1:2379")
	if err := exec.Command("ip", "link", "set", "lo", "up").Run(); err != nil {
		unable(t, "ip: %v", err)
	}
	if _, err := s.Run(topology.Program{Name: "p", Path: own, Env: []string{"MODEBENCH_AS=" + at.String()}, Ready: topology.Ready{Addr: at}}); err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("tcp", at.String())
	if err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
}

func TestProgramThatIsNotReady(t *testing.T) {
	for name, c := range map[string]struct {
		program func(*topology.Program)
		want    []string
	}{
		"ends":      {func(p *topology.Program) { p.Args[1] = "echo no such option >&2; exit 3" }, []string{`h1: program p: ended before it was ready: exit status 3`, "no such option"}},
		"ends well": {func(p *topology.Program) { p.Args[1] = "exit 0" }, []string{"ended before it was ready: exit status 0; it said nothing"}},
		"is killed": {func(p *topology.Program) { p.Args[1] = "kill -9 $$" }, []string{"ended before it was ready: signal: killed"}},
		"is late":   {func(p *topology.Program) { p.Ready.Within = 30 * time.Millisecond }, []string{"not ready within 30ms: {dir}/ready: file does not exist"}},
		"is deaf": {func(p *topology.Program) {
			p.Ready = topology.Ready{Addr: netip.MustParseAddrPort("127.0.0.1:9"), Within: 30 * time.Millisecond}
		}, []string{"not ready within 30ms: dial tcp 127.0.0.1:9"}},
		"is not here": {func(p *topology.Program) { p.Path = "no-such-daemon" }, []string{`h1: program p: exec: "no-such-daemon": executable file not found in $PATH`}},
		"is nowhere":  {func(p *topology.Program) { p.Path = "/no/such/daemon" }, []string{"/no/such/daemon: no such file or directory"}},
		"has no name": {func(p *topology.Program) { p.Name = "" }, []string{`name "": want one that a file may have`}},
		"escapes":     {func(p *topology.Program) { p.Files = map[string]string{"../q": ""} }, []string{`file "../q": want one below its directory`}},
	} {
		t.Run(name, func(t *testing.T) {
			s := service(t)
			p := shell("exec sleep 1000")
			c.program(&p)
			_, err := s.Run(p)
			if err == nil {
				t.Fatal("no error")
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%v: want %q in it", err, want)
				}
			}
			if len(s.programs) > 0 {
				t.Errorf("left behind: %v", s.programs)
			}
		})
	}
}

func TestProgramIsStoppedKilledAndStarted(t *testing.T) {
	s := service(t)
	none := new(lab.Nothing)
	if _, err := s.Run(shell(`trap 'echo term; exit 0' TERM; echo x >>lives; wc -l <lives; : >ready; while :; do sleep 0.01; done`)); err != nil {
		t.Fatal(err)
	}
	if err := s.Start("p", none); !errors.Is(err, unix.EEXIST) {
		t.Errorf("start of one that runs: %v", err)
	}
	for i, end := range []struct {
		verb func(string, *lab.Nothing) error
		said string
	}{{s.Stop, "1\nterm"}, {s.Kill, "2"}, {s.Stop, "3\nterm"}} {
		if err := end.verb("p", none); err != nil {
			t.Fatal(err)
		}
		// A shell may tell besides that its own child was terminated.
		if st := stateOf(t, s); st.Running || st.Ended != "" || strings.ReplaceAll(st.Output, "Terminated\n", "") != end.said {
			t.Errorf("life %d: state %+v: want it ended as asked, having said %q", i+1, st, end.said)
		}
		if err := end.verb("p", none); err != nil {
			t.Errorf("ended already: %v", err)
		}
		if err := s.Start("p", none); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Kill(stateOf(t, s).PID, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-s.programs["p"].life.ended
	if st := stateOf(t, s); st.Running || st.Ended != "signal: killed" {
		t.Errorf("state %+v: want it killed, which nobody asked for", st)
	}
	for _, verb := range []func(string, *lab.Nothing) error{s.Start, s.Stop, s.Kill} {
		if err := verb("q", none); err == nil || !strings.Contains(err.Error(), `h1: program "q": no step asked for it: there are ["p"]`) {
			t.Errorf("unknown program: %v", err)
		}
	}
}

// What a program started ends with it.
func TestProgramEndsWithItsOwn(t *testing.T) {
	s := service(t)
	if _, err := s.Run(shell(`sleep 1000 & echo $!; : >ready; wait`)); err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Sscan(told(t, s).Output, &pid); err != nil {
		t.Fatal(err)
	}
	child := pidfd(t, pid)
	if err := s.Kill("p", new(lab.Nothing)); err != nil {
		t.Fatal(err)
	}
	if !over(t, child) {
		t.Error("a child outlives the program")
	}
}

func TestProgramDiesWithTheMachine(t *testing.T) {
	own, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	keeper := exec.Command(own)
	keeper.Env = append(os.Environ(), "MODEBENCH_AS=keeper")
	keeper.Stderr = os.Stderr
	if _, err := keeper.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := keeper.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := keeper.Start(); err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Fscan(out, &pid); err != nil {
		t.Fatal(err)
	}
	sleeper := pidfd(t, pid)
	if err := keeper.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if !over(t, sleeper) {
		t.Error("the program outlives the machine's")
	}
	_ = keeper.Wait()
}

func TestFind(t *testing.T) {
	s := service(t)
	var got string
	if err := s.Find("sh", &got); err != nil || !strings.HasSuffix(got, "/sh") {
		t.Errorf("sh: %q, %v", got, err)
	}
	for _, none := range []string{"no-such-daemon", "/no/such/daemon"} {
		if err := s.Find(none, &got); err != nil || got != "" {
			t.Errorf("%s: %q, %v", none, got, err)
		}
	}
}

func TestTailKeepsWholeLines(t *testing.T) {
	var out Tail
	for i := range 2000 {
		fmt.Fprintf(&out, "line %d\n", i)
	}
	lines := strings.Split(out.String(), "\n")
	if len(lines) != 20 || lines[0] != "line 1980" || lines[19] != "line 1999" {
		t.Errorf("%d lines, %q to %q", len(lines), lines[0], lines[len(lines)-1])
	}
}

// pidfd holds a process, so that its number is nobody else's (pidfd_open(2)).
func pidfd(t *testing.T, pid int) int {
	t.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	return fd
}

// over waits until a process has ended.
func over(t *testing.T, fd int) bool {
	t.Helper()
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 10_000)
		if err != unix.EINTR {
			return n == 1 && err == nil
		}
	}
}

// unable skips a test for which this machine lacks something. In strict mode, where nothing may be lacking, that fails.
func unable(t *testing.T, format string, args ...any) {
	t.Helper()
	if os.Getenv("MODEBENCH_STRICT") != "" {
		t.Fatalf("unable: "+format, args...)
	}
	t.Skipf("unable: "+format, args...)
}
