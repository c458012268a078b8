package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/modebench/modebench/reports"
	"github.com/modebench/modebench/suites"
)

// reportSize is more than a report takes, in bytes: of all modes and suites a few dozen MiB.
const reportSize = 64 << 20

// writable makes the directory and proves that files can be written into it, before anything is run for it.
func writable(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return input("out directory: %w: want a directory that can be written, by -o DIR", err)
	}
	f, err := os.CreateTemp(dir, ".modebench-*")
	if err != nil {
		return input("out directory: %w: want a directory that can be written, by -o DIR", err)
	}
	if err := errors.Join(f.Close(), os.Remove(f.Name())); err != nil {
		return err
	}
	return room(dir, reportSize)
}

// room finds out whether a directory's file system has room for so many bytes.
func room(dir string, bytes uint64) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return fmt.Errorf("out directory: %s: %w", dir, err)
	}
	if free := st.Bavail * uint64(st.Bsize); st.Blocks > 0 && free < bytes { // some file systems do not tell
		return input("out directory: %s has room for %d MiB: want %d MiB there, or another directory, by -o DIR", dir, free>>20, bytes>>20)
	}
	return nil
}

// write writes the documents of a report, and tells on which page to begin.
func write(dir string, res reports.Results) error {
	return reports.Write(res, func(name string, data []byte) error {
		return keep(dir, file{name, data})
	})
}

// keep writes one file of a report's directory, which holds it whole or not at all.
func keep(dir string, f file) error {
	if !filepath.IsLocal(f.Name) {
		return fmt.Errorf("%q leads out of the directory", f.Name)
	}
	path := filepath.Join(dir, f.Name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(path+".part", f.Data, 0o644); err != nil {
		_ = os.Remove(path + ".part")
		return err
	}
	return os.Rename(path+".part", path)
}

// readResults reads a results file.
func readResults(path string) (reports.Results, error) {
	f, err := os.Open(path)
	if err != nil {
		return reports.Results{}, input("results: %w: want the results.json of a run", err)
	}
	defer f.Close()
	res, err := reports.Read(f, path)
	if err != nil {
		return res, coded{err, exitInput}
	}
	return res, nil
}

func reportCommand() *cobra.Command {
	var dir, annotate string
	c := &cobra.Command{
		Use: "report RESULTS.json…", Short: "Write the report again from its results, or one of the results of several shards or kernels", Args: cobra.MinimumNArgs(1),
		Example: "  modebench report modebench-report/results.json -o again\n  modebench report shard-*/results.json -o whole",
		RunE: func(cmd *cobra.Command, args []string) error {
			if annotate != "" && annotate != github {
				return input("--annotate %q: want %s", annotate, github)
			}
			var runs []reports.Results
			for _, path := range args {
				res, err := readResults(path)
				if err != nil {
					return err
				}
				runs = append(runs, res)
			}
			if err := writable(dir); err != nil {
				return err
			}
			for i, path := range args {
				under := ""
				if len(args) > 1 {
					under = strconv.Itoa(i + 1)
				}
				if err := keepCaptures(dir, filepath.Dir(path), under, &runs[i]); err != nil {
					return err
				}
			}
			res, err := reports.Merge(runs, args)
			if err != nil {
				return coded{err, exitInput}
			}
			reports.Sort(&res, suites.Names())
			if err := write(dir, res); err != nil {
				return input("out directory: %w", err)
			}
			if annotate == github {
				if err := reports.WriteAnnotations(cmd.OutOrStdout(), res); err != nil {
					return err
				}
			}
			fmt.Fprintln(cmd.ErrOrStderr(), "report:", filepath.Join(dir, "index.html"))
			if n := len(res.Run.Missing); n > 0 {
				fmt.Fprintf(cmd.ErrOrStderr(), "%d planned cells never ran, such as %s\n", n, strings.Join(res.Run.Missing[:min(3, n)], ", "))
			}
			return nil
		},
	}
	c.Flags().StringVarP(&dir, "out", "o", "modebench-report", "directory for the report")
	c.Flags().StringVar(&annotate, "annotate", "", "print what is not as expected as annotations of a CI: "+github)
	return c
}

// github is the CI whose annotations can be printed.
const github = "github"

// keepCaptures takes the captures of results along into another report's directory, below captures/UNDER. One that is not
// there any more is left out: the results do not name it then.
func keepCaptures(dir, from, under string, res *reports.Results) error {
	if a, err := os.Stat(dir); err == nil {
		if b, err := os.Stat(from); err == nil && os.SameFile(a, b) && under == "" {
			return nil
		}
	}
	for i := range res.Results {
		r := &res.Results[i]
		if r.Capture == "" || !filepath.IsLocal(r.Capture) {
			r.Capture = ""
			continue
		}
		data, err := os.ReadFile(filepath.Join(from, r.Capture))
		if errors.Is(err, os.ErrNotExist) {
			r.Capture = ""
			continue
		}
		if err != nil {
			return input("captures: %w", err)
		}
		r.Capture = path.Join("captures", under, path.Base(r.Capture))
		if err := keep(dir, file{r.Capture, data}); err != nil {
			return input("out directory: %w", err)
		}
	}
	return nil
}

func compareCommand() *cobra.Command {
	var failOn string
	var markdown bool
	c := &cobra.Command{
		Use: "compare OLD.json NEW.json", Short: "Print what changed between two runs, beyond their noise", Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if failOn != "" && !slices.Contains([]string{"conformance", "performance", "any"}, failOn) {
				return input("--fail-on %q: want conformance, performance or any", failOn)
			}
			old, err := readResults(args[0])
			if err != nil {
				return err
			}
			latest, err := readResults(args[1])
			if err != nil {
				return err
			}
			c := reports.Compare(old, latest)
			text := c.Text()
			if markdown {
				text = c.Markdown()
			}
			if _, err := io.WriteString(cmd.OutOrStdout(), text); err != nil {
				return err
			}
			if failOn != "" && len(c.Regressions(failOn)) > 0 {
				return coded{fmt.Errorf("%d regressions of kind %s", len(c.Regressions(failOn)), failOn), exitUnexpected}
			}
			return nil
		},
	}
	c.Flags().StringVar(&failOn, "fail-on", "", "exit with 1 on regressions: conformance, performance or any")
	c.Flags().BoolVar(&markdown, "markdown", false, "print Markdown")
	return c
}
