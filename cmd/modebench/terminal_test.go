package main

import (
	"bytes"
	"io"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestTerminal runs the command on a terminal, where lines are drawn again and again while a run goes on: it comes to its
// end, and every line says how.
func TestTerminal(t *testing.T) {
	isolated(t)
	terminal, end, err := openTerminal()
	if err != nil {
		unable(t, "%v", err)
	}
	defer terminal.Close()
	if err := unix.IoctlSetWinsize(int(end.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 100}); err != nil {
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
	stuck := time.AfterFunc(5*time.Minute, func() { _ = cmd.Process.Kill() })
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
