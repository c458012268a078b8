package docker

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// Runtime is runc, but for containers without control groups: those are directories of the machine's, which stay when processes are killed. An engine
// runs it in the place of runc, with the same arguments and environment.
func Runtime(args, env []string) error {
	path, err := exec.LookPath("runc")
	if err != nil {
		return err
	}
	if i := slices.Index(args, "--bundle"); i >= 0 && i+1 < len(args) && slices.Contains(args, "create") {
		if err := ungrouped(filepath.Join(args[i+1], "config.json")); err != nil {
			return err
		}
	}
	return fmt.Errorf("%s: %w", path, unix.Exec(path, append([]string{path, "--rootless=true"}, args...), env))
}

// ungrouped takes control groups and what they would limit out of a container's configuration (OCI Runtime Specification, config-linux.md).
func ungrouped(file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var conf map[string]any
	if err := json.Unmarshal(text, &conf); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	linux, ok := conf["linux"].(map[string]any)
	if !ok {
		return errors.New(file + ": it has nothing of Linux")
	}
	delete(linux, "cgroupsPath")
	delete(linux, "resources")
	if text, err = json.Marshal(conf); err != nil {
		return err
	}
	return os.WriteFile(file, text, 0o600)
}
