package main

import (
	"bytes"
	"io"
	"os"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestTerminal runs the command on a terminal, where lines are drawn again and again while a run goes on: it comes to its
// end, and every line says how.
func TestTerminal(t *testing.T) {
	isolated(t)
	terminal, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		unable(t, "%v", err)
	}
	defer terminal.Close()
	n, err := unix.IoctlGetInt(int(terminal.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(terminal.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		err = unix.IoctlSetWinsize(int(terminal.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 100})
	}
	if err != nil {
		t.Fatal(err)
	}
	end, err := os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	cmd := modebench(t, t.TempDir(), "run", "-m", "none,host,bridge", "--suite", "conformance")
	cmd.Stdout, cmd.Stderr = end, end
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := end.Close(); err != nil {
		t.Fatal(err)
	}
	stuck := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
	defer stuck.Stop()
	var shown bytes.Buffer
	_, _ = io.Copy(&shown, terminal) // ends in EIO when the last other end is closed: pty(7)
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v: want a run to its end: %s", err, shown.String())
	}
	for _, want := range []string{"█", "as expected", "report:"} {
		if !bytes.Contains(shown.Bytes(), []byte(want)) {
			t.Errorf("no %q on the terminal: %s", want, shown.String())
		}
	}
}
