package main

import (
	"bytes"
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/modebench/modebench/modes"
	"github.com/modebench/modebench/suites"
)

const module = "github.com/modebench/modebench"

// rooms is the table of docs/architecture.md: what a package may import of ours, and what only it may do.
var rooms = map[string][]string{
	"topology/space":        {},
	"topology/cached":       {},
	"topology/linked":       {},
	"topology/daemons":      {"topology/cached"},
	"topology":              {},
	"topology/lab":          {"topology"},
	"topology/host":         {"topology", "topology/lab", "topology/space", "topology/host/"},
	"topology/host/bgp":     {"topology", "topology/lab"},
	"topology/host/cni":     {"topology", "topology/lab", "topology/space", "topology/host/program"},
	"topology/host/docker":  {"topology", "topology/lab", "topology/linked", "topology/space", "topology/host/program"},
	"topology/host/dns":     {"topology", "topology/lab", "topology/space"},
	"topology/host/gossip":  {"topology", "topology/lab"},
	"topology/host/ipam":    {"topology", "topology/lab"},
	"topology/host/dhcp":    {"topology", "topology/lab", "topology/space", "topology/host/capture", "topology/host/ipam"},
	"topology/host/program": {"topology", "topology/lab", "topology/space"},
	"topology/host/capture": {"topology/lab", "topology/space"},
	"topology/host/probe":   {"topology/lab", "topology/space", "topology/host/capture"},
	"topology/host/relay":   {},
	"topology/host/traffic": {"topology/lab", "topology/space"},
	"topology/netns":        {"topology", "topology/lab", "topology/space", "topology/host"},
	"topology/ssh":          {"topology", "topology/lab", "topology/space", "topology/host", "topology/netns"},
	"topology/vm":           {"topology", "topology/cached", "topology/linked", "topology/lab", "topology/space", "topology/host", "topology/netns"},
	"modes":                 {"topology"},
	"reports":               {},
	"fixtures":              {},
	"suites":                {"topology", "topology/lab", "modes", "reports"},
	"cmd/modebench":         {""},
	"cmd/versus":            {""},
}

// kept is what lines may stand in some rooms only.
var kept = []struct {
	what    string
	pattern *regexp.Regexp
	in      []string // packages, or the beginning of their paths with a slash at the end
}{
	{"entering namespaces", regexp.MustCompile(`unix\.Setns|unix\.Unshare|LockOSThread|CLONE_NEW`), []string{"topology/space", "topology/host"}},
	{"changing links, addresses and routes", regexp.MustCompile(`\.(LinkAdd|LinkDel|LinkSet\w+|AddrAdd|AddrDel|RouteAdd|RouteDel|RouteReplace|NeighSet|NeighDel|QdiscReplace|QdiscAdd)\(`), []string{"topology/host", "topology/host/"}},
	{"packet filters", regexp.MustCompile(`google/nftables`), []string{"topology/host"}},
	{"packets", regexp.MustCompile(`gopacket`), []string{"topology/host/"}},
	{"the BGP engine", regexp.MustCompile(`osrg/gobgp`), []string{"topology/host/bgp", "topology/host/capture"}},
	{"the DHCP library", regexp.MustCompile(`insomniacslk/dhcp`), []string{"topology/host/dhcp"}},
	{"CNI's library", regexp.MustCompile(`containernetworking/cni/`), []string{"topology/host/cni"}},
	{"Docker's client", regexp.MustCompile(`moby/moby/`), []string{"topology/host/docker"}},
	{"the DNS engine", regexp.MustCompile(`miekg/dns`), []string{"topology/host/dns"}},
	{"guests and their kernels", regexp.MustCompile(`u-root|"qemu-system|initrd=|dpkg-deb`), []string{"topology/vm"}},
	{"command lines of ssh", regexp.MustCompile(`BatchMode`), []string{"topology/ssh"}},
	{"ginkgo and gomega", regexp.MustCompile(`onsi/(ginkgo|gomega)`), []string{"suites", "cmd/modebench"}},
	{"flags, arguments and the environment", regexp.MustCompile(`os\.(Args|Exit|Getenv|Environ)\b|"flag"|spf13/`), []string{"cmd/"}},
	{"HTML", regexp.MustCompile(`html/template`), []string{"reports"}},
	{"waiting blindly", regexp.MustCompile(`time\.Sleep`), nil},
}

type goPackage struct {
	ImportPath, Dir      string
	GoFiles, TestGoFiles []string
	XTestGoFiles         []string
	Imports, EmbedFiles  []string
}

func packages(t *testing.T) []goPackage {
	t.Helper()
	out, err := exec.Command("go", "list", "-json", module+"/...").Output()
	if err != nil {
		t.Fatal(err)
	}
	var all []goPackage
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p goPackage
		if err := dec.Decode(&p); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	if len(all) < 10 {
		t.Fatalf("go list knows %d packages: want all of them", len(all))
	}
	return all
}

func allowed(room string, rooms []string) bool {
	return slices.ContainsFunc(rooms, func(r string) bool {
		return r == "" || r == room || strings.HasSuffix(r, "/") && strings.HasPrefix(room, r)
	})
}

// TestRooms holds the tree against the table of rooms: who imports whom, and which lines stand where.
func TestRooms(t *testing.T) {
	var names []string
	for _, m := range modes.All() {
		names = append(names, regexp.QuoteMeta(m.Name))
	}
	// Some modes have the names of things that are no modes: what is compared tells them apart.
	anyMode := `"(` + strings.Join(names, "|") + `)"`
	condition := regexp.MustCompile(`[mM]ode(\(\))?(\.Name)?\s*(==|!=)\s*` + anyMode + `|` + anyMode + `\s*(==|!=)\s*.*[mM]ode`)
	for _, p := range packages(t) {
		room := strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/")
		may, ok := rooms[room]
		if !ok {
			t.Errorf("%s: no room of the table: add it to docs/architecture.md and here", room)
		}
		for _, i := range p.Imports {
			if of, ours := strings.CutPrefix(i, module+"/"); ours && of != "fixtures" && !allowed(of, may) {
				t.Errorf("%s imports %s: want one of %v", room, of, may)
			}
		}
		for _, name := range p.GoFiles {
			file := filepath.Join(p.Dir, name)
			for number, line := range codeLines(t, file) {
				if line == "" {
					continue
				}
				for _, k := range kept {
					if k.pattern.MatchString(line) && !allowed(room, k.in) {
						t.Errorf("%s/%s:%d: %s stands in %v only: %s", room, name, number+1, k.what, k.in, strings.TrimSpace(line))
					}
				}
				if condition.MatchString(line) {
					t.Errorf("%s/%s:%d: a mode's name in a condition: %s", room, name, number+1, strings.TrimSpace(line))
				}
			}
		}
	}
}

// codeLines are a file's lines without comments.
func codeLines(t *testing.T, file string) []string {
	t.Helper()
	set := token.NewFileSet()
	f, err := parser.ParseFile(set, file, nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	src, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, group := range f.Comments {
		for _, c := range group.List {
			from, to := set.Position(c.Pos()).Offset, set.Position(c.End()).Offset
			for i := from; i < to; i++ {
				if src[i] != '\n' {
					src[i] = ' '
				}
			}
		}
	}
	return strings.Split(string(src), "\n")
}

// TestDocstrings finds exported names without a word about them, and packages without a comment.
func TestDocstrings(t *testing.T) {
	for _, p := range packages(t) {
		documented := false
		for _, name := range p.GoFiles {
			set := token.NewFileSet()
			f, err := parser.ParseFile(set, filepath.Join(p.Dir, name), nil, parser.ParseComments)
			if err != nil {
				t.Fatal(err)
			}
			documented = documented || f.Doc != nil
			for _, d := range f.Decls {
				switch d := d.(type) {
				case *ast.FuncDecl:
					if d.Name.IsExported() && d.Doc == nil && exportedReceiver(d) {
						t.Errorf("%s: %s has no comment", set.Position(d.Pos()), d.Name)
					}
				case *ast.GenDecl:
					for _, s := range d.Specs {
						if ts, ok := s.(*ast.TypeSpec); ok && ts.Name.IsExported() && d.Doc == nil && ts.Doc == nil {
							t.Errorf("%s: %s has no comment", set.Position(ts.Pos()), ts.Name)
						}
					}
				}
			}
		}
		if !documented {
			t.Errorf("%s: no package comment", p.ImportPath)
		}
	}
}

// TestSkips finds tests that are skipped in strict mode too: by anything but the function unable of their package, unless
// nobody asked for them.
func TestSkips(t *testing.T) {
	skips := 0
	for _, p := range packages(t) {
		for _, name := range slices.Concat(p.TestGoFiles, p.XTestGoFiles) {
			f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, name), nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range f.Decls {
				fn, ok := d.(*ast.FuncDecl)
				if !ok {
					continue
				}
				ast.Inspect(fn, func(n ast.Node) bool {
					call, ok := n.(*ast.CallExpr)
					if !ok {
						return true
					}
					if s, ok := call.Fun.(*ast.SelectorExpr); !ok || !slices.Contains([]string{"Skip", "Skipf", "SkipNow"}, s.Sel.Name) {
						return true
					}
					skips++
					if why, ok := slices.Concat(call.Args, []ast.Expr{nil})[0].(*ast.BasicLit); !slices.Contains([]string{"unable", "needs"}, fn.Name.Name) && !(ok && strings.HasPrefix(why.Value, `"not asked for`)) {
						t.Errorf("%s/%s: %s skips: want it to call unable", p.ImportPath, name, fn.Name.Name)
					}
					return true
				})
			}
		}
	}
	if skips < 4 {
		t.Errorf("%d skips in all tests: want those of the functions unable at least", skips)
	}
}

func exportedReceiver(d *ast.FuncDecl) bool {
	if d.Recv == nil {
		return true
	}
	typ := d.Recv.List[0].Type
	if star, ok := typ.(*ast.StarExpr); ok {
		typ = star.X
	}
	id, ok := typ.(*ast.Ident)
	return ok && id.IsExported()
}

// TestBenchIsSmall counts what a spec may do: a bench of many verbs would be many ways to do a thing.
func TestBenchIsSmall(t *testing.T) {
	typ := reflect.TypeFor[*suites.Bench]()
	verbs := 0
	for i := range typ.NumMethod() {
		if typ.Method(i).Name != "Close" {
			verbs++
		}
	}
	if verbs > 14 {
		t.Errorf("Bench has %d verbs: want at most 14", verbs)
	}
	for i := range typ.Elem().NumField() {
		if f := typ.Elem().Field(i); f.IsExported() {
			t.Errorf("Bench.%s is exported: want none", f.Name)
		}
	}
}

// TestTopLevel holds the first folder that somebody opens to what is announced of it.
func TestTopLevel(t *testing.T) {
	want := []string{"LICENSE", "README.md", "Vagrantfile", "cmd", "docs", "fixtures", "go.mod", "go.sum", "modes", "reports", "suites", "topology"}
	out, err := exec.Command("git", "-C", "../..", "ls-tree", "--name-only", "HEAD").Output()
	if err != nil {
		unable(t, "not a git checkout: what is tracked cannot be told")
	}
	for _, name := range strings.Fields(string(out)) {
		if !strings.HasPrefix(name, ".") && !slices.Contains(want, name) {
			t.Errorf("%s: not among %v", name, want)
		}
	}
}
