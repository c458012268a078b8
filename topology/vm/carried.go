package vm

import (
	"fmt"
	"os"
	"strings"

	"github.com/modebench/modebench/topology/linked"
)

// Carried tells what keeps a guest from having a program of this machine: that it is a script, whose interpreter would be wanted, too, or that a library of it is
// not to be found; nil: nothing.
func Carried(program string) error {
	if _, err := linked.Files(program); err != nil {
		return fmt.Errorf("%s: %w", program, err)
	}
	return nil
}

// carried are programs of this machine for a guest, by their paths, and what they are linked with, each once.
func carried(programs []string) (all []linked.File, err error) {
	for _, path := range programs {
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		libs, err := linked.Files(path)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		all = append(all, append(libs, linked.File{Name: strings.TrimPrefix(path, "/"), Data: data})...)
	}
	return all, nil
}
