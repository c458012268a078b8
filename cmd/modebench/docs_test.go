package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"

	"github.com/modebench/modebench/topology"
)

// document is a Markdown file of the repository.
type document struct {
	path   string // from the top of the repository
	text   string // without fences
	fences []fence
}

type fence struct {
	lang, text string
	line       int // where it begins
}

const top = "../.."

func documents(t *testing.T) (all []document) {
	t.Helper()
	paths, err := filepath.Glob(top + "/docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range append(paths, top+"/README.md") {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		d := document{path: strings.TrimPrefix(path, top+"/")}
		var open *fence
		for i, line := range strings.Split(string(data), "\n") {
			switch lang, isFence := strings.CutPrefix(line, "```"); {
			case isFence && open == nil:
				open = &fence{lang: lang, line: i + 1}
			case isFence:
				d.fences = append(d.fences, *open)
				open = nil
			case open != nil:
				open.text += line + "\n"
			default:
				d.text += line + "\n"
			}
		}
		if open != nil {
			t.Errorf("%s:%d: a fence without an end", d.path, open.line)
		}
		all = append(all, d)
	}
	return all
}

var (
	link     = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading  = regexp.MustCompile(`(?m)^#+ +(.*)$`)
	codeSpan = regexp.MustCompile("`([^`\n]+)`")
	pathLike = regexp.MustCompile(`^(\.ci|\.github|cmd|docs|fixtures|modes|reports|suites|topology)/[a-z0-9_./-]*$`)
	longFlag = regexp.MustCompile(`--[a-z-]+`)
	inserts  = regexp.MustCompile(`[^a-z0-9 _-]`)
)

// TestDocumentsNameWhatIsThere follows the links of documents, to files and to headings, and looks for the files that they name.
func TestDocumentsNameWhatIsThere(t *testing.T) {
	anchors := map[string][]string{}
	all := documents(t)
	for _, d := range all {
		for _, h := range heading.FindAllStringSubmatch(d.text, -1) {
			anchors[d.path] = append(anchors[d.path], strings.ReplaceAll(inserts.ReplaceAllString(strings.ToLower(h[1]), ""), " ", "-"))
		}
	}
	exists := func(path string) bool {
		_, err := os.Stat(filepath.Join(top, path))
		return err == nil
	}
	for _, d := range all {
		for _, l := range link.FindAllStringSubmatch(d.text, -1) {
			if strings.Contains(l[1], "://") {
				continue
			}
			file, anchor, _ := strings.Cut(l[1], "#")
			target := d.path
			if file != "" {
				target = filepath.Join(filepath.Dir(d.path), file)
			}
			switch {
			case !exists(target):
				t.Errorf("%s: links to %s, which does not exist", d.path, l[1])
			case anchor != "" && !slices.Contains(anchors[target], anchor):
				t.Errorf("%s: links to %s: want one of %v", d.path, l[1], anchors[target])
			}
		}
		for _, c := range codeSpan.FindAllStringSubmatch(d.text, -1) {
			if pathLike.MatchString(c[1]) && !exists(c[1]) {
				t.Errorf("%s: names %s, which does not exist", d.path, c[1])
			}
		}
	}
}

// arguments are the command's in a shell line; ok tells whether the line calls the command.
func arguments(line string) (args []string, ok bool) {
	line, _, _ = strings.Cut(line, " #")
	line = strings.ReplaceAll(strings.TrimSpace(line), "<(vagrant ssh-config)", "lab.yaml") // a shell makes a file of it
	for _, name := range []string{"go run ./cmd/modebench", "modebench"} {
		if rest, found := strings.CutPrefix(line, name); found && (rest == "" || rest[0] == ' ') {
			return strings.Fields(rest), true
		}
	}
	return nil, false
}

// TestDocumentsCommands takes each shell line of the documents that calls the command: its subcommand, flags and arguments must
// be such as the command has, and what does not take long is run.
func TestDocumentsCommands(t *testing.T) {
	results, err := os.ReadFile(top + "/reports/testdata/small/results.json")
	if err != nil {
		t.Fatal(err)
	}
	lines := 0
	for _, d := range documents(t) {
		for _, f := range d.fences {
			if f.lang != "sh" {
				continue
			}
			for _, line := range strings.Split(f.text, "\n") {
				args, ok := arguments(line)
				if !ok {
					continue
				}
				lines++
				root := command()
				root.InitDefaultCompletionCmd() // as executing it does
				c, rest, err := root.Find(args)
				if err == nil {
					err = c.ParseFlags(rest)
				}
				if err == nil {
					err = c.ValidateArgs(c.Flags().Args())
				}
				if err != nil {
					t.Errorf("%s:%d: %s: %v", d.path, f.line, line, err)
					continue
				}
				t.Run(fmt.Sprintf("%s:%d", d.path, f.line), func(t *testing.T) {
					t.Parallel()
					dir := t.TempDir()
					// What the line reads: a topology that the document shows, and the results of earlier runs.
					for _, arg := range rest {
						switch ext := filepath.Ext(arg); {
						case ext == ".yaml" && slices.Contains(rest, "--inventory"):
							place(t, filepath.Join(dir, arg), []byte(shownInventory(t)))
							place(t, filepath.Join(dir, "lab.conf"), nil)
						case ext == ".yaml":
							place(t, filepath.Join(dir, arg), []byte(shown(t, d)))
						case ext == ".json":
							place(t, filepath.Join(dir, arg), results)
						case ext == ".conflist": // and programs by the names of its plugins
							place(t, filepath.Join(dir, arg), []byte(example(t)))
							for _, name := range []string{"bridge", "portmap", "host-local"} {
								program := filepath.Join(dir, "bin", name)
								place(t, program, nil)
								if err := os.Chmod(program, 0o755); err != nil {
									t.Fatal(err)
								}
							}
						}
					}
					code, stdout, stderr := try(t, dir, c, args)
					if code != exitExpected {
						t.Errorf("%s:%d: %s: exit code %d: %s%s", d.path, f.line, line, code, stdout, stderr)
					}
				})
			}
		}
	}
	if lines < 20 {
		t.Errorf("%d lines call the command: want all of the documents'", lines)
	}
}

// try runs a line in a directory. A run of everything takes long: of that only the input is checked, by an out directory
// that cannot be, which is looked at last.
func try(t *testing.T, dir string, c *cobra.Command, args []string) (code int, stdout, stderr string) {
	t.Helper()
	switch {
	case c.Name() == "run" && !c.Flags().Changed("feature"):
		place(t, filepath.Join(dir, "taken"), nil)
		code, stdout, stderr = result(t, modebench(t, dir, append(args, "-o", "taken/report")...))
		if code == exitInput && strings.HasPrefix(stderr, "modebench: out directory:") {
			code = exitExpected
		}
	case c.Name() == "run":
		isolated(t)
		code, stdout, stderr = result(t, modebench(t, dir, args...))
	case c.Parent() != nil && slices.Contains([]string{"kernel", "lab"}, c.Parent().Name()): // boots, fetches, stays: that there is such a line is all that is asked
		code, stdout, stderr = result(t, modebench(t, dir, slices.Insert(args, 2, "--help")...))
	case c.Name() == "recommend": // the results at hand are of few cells
		code, stdout, stderr = result(t, modebench(t, dir, args...))
		if code == exitUnexpected && strings.Contains(stdout, "rule: ") {
			code = exitExpected
		}
	case c.Name() == "doctor" && c.Flags().Changed("inventory"): // the machines of documents are not there
		code, stdout, stderr = result(t, modebench(t, dir, append(args, "--help")...))
	case c.Name() == "doctor":
		code, stdout, stderr = result(t, modebench(t, dir, args...))
		if code == exitNothing && strings.Contains(stdout, "remedy") {
			code = exitExpected
		}
	default:
		code, stdout, stderr = result(t, modebench(t, dir, args...))
	}
	return code, stdout, stderr
}

func place(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, data, 0o644)); err != nil {
		t.Fatal(err)
	}
}

// shownInventory is that of docs/machines.md.
func shownInventory(t *testing.T) string {
	t.Helper()
	for _, d := range documents(t) {
		for _, f := range d.fences {
			if f.lang == "yaml" && strings.HasPrefix(f.text, "config: ") {
				return f.text
			}
		}
	}
	t.Error("no document shows an inventory")
	return ""
}

// shown is the topology that a document shows.
func shown(t *testing.T, d document) string {
	t.Helper()
	for _, f := range d.fences {
		if f.lang == "yaml" && strings.HasPrefix(f.text, "name: ") {
			if _, err := topology.Read(d.path, []byte(f.text)); err != nil {
				t.Errorf("%s:%d: %v", d.path, f.line, err)
			}
			return f.text
		}
	}
	t.Errorf("%s: shows no topology", d.path)
	return ""
}

// TestDocumentsCode compiles each whole Go file that the documents show, as a part of its package.
func TestDocumentsCode(t *testing.T) {
	t.Parallel()
	files := 0
	for _, d := range documents(t) {
		for _, f := range d.fences {
			name, ok := strings.CutPrefix(strings.SplitN(f.text, "\n", 2)[0], "package ")
			if f.lang != "go" || !ok {
				continue
			}
			files++
			dir := t.TempDir()
			place(t, dir+"/shown.go", []byte(f.text))
			path, err := filepath.Abs(filepath.Join(top, name, "zz_shown.go"))
			if err != nil {
				t.Fatal(err)
			}
			overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{path: dir + "/shown.go"}})
			if err != nil {
				t.Fatal(err)
			}
			place(t, dir+"/overlay.json", overlay)
			cmd := exec.Command("go", "build", "-overlay", dir+"/overlay.json", "./"+name)
			cmd.Dir = top
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%s:%d: %v: %s", d.path, f.line, err, out)
			}
		}
	}
	if files < 2 {
		t.Errorf("%d Go files are shown: want one for adding a mode, and one for a spec", files)
	}
}

// TestDocumentsRooms holds the table of rooms that the documents show against the one that the tests keep.
func TestDocumentsRooms(t *testing.T) {
	data, err := os.ReadFile(top + "/docs/architecture.md")
	if err != nil {
		t.Fatal(err)
	}
	var shown []string
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z/]+)` \\|.*\\|.*\\|$").FindAllStringSubmatch(string(data), -1) {
		shown = append(shown, m[1])
	}
	slices.Sort(shown)
	if d := cmp.Diff(slices.Sorted(maps.Keys(rooms)), shown); d != "" {
		t.Errorf("docs/architecture.md: rooms (-tests +document):\n%s", d)
	}
}

// TestDocumentsModes finds modes that the first page does not name, and commands and flags that it does not tell of.
func TestDocumentsModes(t *testing.T) {
	readme := documents(t)
	page := readme[len(readme)-1]
	said := page.text
	for _, f := range page.fences {
		said += f.text
	}
	modes, err := findModes(nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range modes {
		if !strings.Contains(said, "| `"+m.Name+"` |") {
			t.Errorf("README.md: no row for the mode %s", m.Name)
		}
	}
	root := command()
	root.InitDefaultCompletionCmd()
	for _, c := range root.Commands() {
		if !strings.Contains(said, "modebench "+c.Name()) {
			t.Errorf("README.md: nothing of modebench %s", c.Name())
		}
		for _, f := range longFlag.FindAllString(c.LocalFlags().FlagUsages(), -1) {
			if !strings.Contains(said, f) {
				t.Errorf("README.md: nothing of the flag %s of modebench %s", f, c.Name())
			}
		}
	}
}
