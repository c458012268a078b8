package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestAction runs the action's script as a job does: twice, the second time compared with the first, and with one cell of the first
// made worse than it was.
func TestAction(t *testing.T) {
	t.Parallel()
	isolated(t)
	script, err := filepath.Abs(filepath.Join(top, ".github/actions/modebench/run"))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	job := func(out, baseline string) (code int, stdout, summary string) {
		t.Helper()
		cmd := exec.Command("bash", script)
		cmd.Dir = dir
		path := filepath.Join(dir, out+".summary")
		cmd.Env = append(os.Environ(), "RUNNER_TEMP="+dir, "GITHUB_STEP_SUMMARY="+path, "OUT="+out, "BASELINE="+baseline, "FAIL_ON=conformance",
			"ARGUMENTS=-m none --kernel host --feature own-stack,loopback-ipv4")
		code, stdout, stderr := result(t, cmd)
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatalf("%v: %s", err, stderr)
		}
		return code, stdout, string(data)
	}
	code, stdout, summary := job("first", "")
	if code != exitExpected || !strings.Contains(summary, "2 of 2 cells as expected") || strings.Contains(stdout, "::error") {
		t.Errorf("exit code %d, %s, summary %s", code, stdout, summary)
	}
	if code, _, summary := job("second", "first/results.json"); code != exitExpected || !strings.Contains(summary, "nothing changed") {
		t.Errorf("exit code %d, summary %s: want a comparison that finds nothing changed", code, summary)
	}
	res, err := readResults(filepath.Join(dir, "first/results.json"))
	if err != nil {
		t.Fatal(err)
	}
	res.Results[0].Feature = "gone"
	if err := write(filepath.Join(dir, "more"), res); err != nil {
		t.Fatal(err)
	}
	if code, _, summary := job("third", "more/results.json"); code != exitUnexpected || !strings.Contains(summary, "gone") {
		t.Errorf("exit code %d, summary %s: want a cell that is gone", code, summary)
	}
}
