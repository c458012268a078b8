package reports

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// browser returns the command of a headless Chromium that has dir as its home, or skips.
func browser(t *testing.T, dir string, args ...string) *exec.Cmd {
	t.Helper()
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		path, err := exec.LookPath(name)
		if err != nil {
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		t.Cleanup(cancel)
		cmd := exec.CommandContext(ctx, path, append([]string{
			"--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--user-data-dir=" + filepath.Join(dir, "profile"),
			"--host-resolver-rules=MAP * ~NOTFOUND", "--window-size=1400,1000",
		}, args...)...)
		cmd.Env = append(os.Environ(), "HOME="+dir)
		return cmd
	}
	unable(t, "no chromium on PATH: install the package chromium to test the page in a browser")
	return nil
}

// unable skips a test for which this machine lacks something. In strict mode, where nothing may be lacking, that fails.
func unable(t *testing.T, format string, args ...any) {
	t.Helper()
	if os.Getenv("MODEBENCH_STRICT") != "" {
		t.Fatalf("unable: "+format, args...)
	}
	t.Skipf("unable: "+format, args...)
}

// external matches what a page would load from elsewhere; links to follow by hand are no loads.
var external = regexp.MustCompile(`(?i)<(?:script|img|iframe|source|video|audio|embed|object|use|image)\b[^>]*\b(?:src|href|data|srcset)=["']?(?:https?:)?//|<link\b[^>]*\bhref=["']?(?:https?:)?//|@import|url\(["']?(?:https?:)?//|\bfetch\(|XMLHttpRequest|WebSocket|sendBeacon`)

func TestPageLoadsNothing(t *testing.T) {
	page := documents(t, readExample(t))["index.html"]
	if found := external.Find(page); found != nil {
		t.Errorf("the page loads from elsewhere: %s", found)
	}
	for _, bad := range []string{`<script src="https://a.example/x.js">`, `<link rel=stylesheet href=//a.example/x.css>`, `url(http://a.example/x.woff)`} {
		if !external.MatchString(bad) {
			t.Errorf("%s is not recognised as a load from elsewhere", bad)
		}
	}
}

func TestPageInBrowser(t *testing.T) {
	dir := t.TempDir()
	page := documents(t, readExample(t))["index.html"]
	end := bytes.LastIndex(page, []byte("</body>"))
	// What a reader does, after the page's own script: put side by side, filter, swap, pin, find, fold, sort, open a cell, close it.
	act := `<script>
	const said = [];
	const press = text => { const b = [...document.querySelectorAll("#tools button")].find(b => b.textContent === text); if (!b) throw new Error("no button " + text); b.click(); };
	const rows = () => document.querySelectorAll("#answer table.matrix tbody tr:not(.group):not(.hide)").length;
	const heads = () => document.querySelectorAll("#answer table.matrix thead th.mode:not(.hide)").length;
	said.push("all=" + rows() + "x" + heads());
	press("bridge"); press("host"); press("only differences");
	said.push("pinned=" + heads());
	press("modes as rows");
	said.push("swapped=" + document.querySelectorAll("#answer table.matrix:not([hidden]) tbody tr").length);
	press("modes as rows"); press("only differences"); press("bridge"); press("host");
	said.push("again=" + rows() + "x" + heads());
	const choose = (i, value) => { const s = document.querySelectorAll("#tools select")[i]; s.value = value; s.dispatchEvent(new Event("change")); };
	const first = () => document.querySelector("#answer table.matrix thead th.mode").dataset.mode;
	const run = first();
	choose(1, "bridge");
	said.push("stays=" + first() + "+" + document.querySelectorAll("#answer table.matrix .pinned").length);
	choose(0, "like"); choose(0, ""); choose(1, "");
	said.push("back=" + (first() === run));
	const find = text => { const i = document.querySelector("#tools input"); i.value = text; i.dispatchEvent(new Event("input")); };
	const named = document.querySelector("#answer table.matrix tbody tr:not(.group) th").textContent;
	find(named);
	said.push("found=" + (rows() >= 1 && [...document.querySelectorAll("#answer table.matrix tbody tr:not(.group):not(.hide) th")].every(h => (h.textContent + h.title).toLowerCase().includes(named.toLowerCase()))));
	find("no feature has this word");
	said.push("none=" + rows());
	find("");
	const fold = document.querySelector("#answer table.matrix .fold");
	const high = () => document.querySelector("#answer table.matrix tbody").offsetHeight;
	const before = high();
	fold.click();
	said.push("folded=" + (high() < before) + fold.ariaExpanded);
	const kept = location.hash;
	fold.click();
	location.hash = kept;
	dispatchEvent(new HashChangeEvent("hashchange"));
	said.push("recalled=" + fold.ariaExpanded);
	fold.click();
	said.push("address=" + location.hash);
	document.querySelectorAll("button.sort").forEach(b => b.click());
	const link = document.querySelector("#answer table.matrix td a");
	link.click();
	said.push("panel=" + !document.getElementById("panel").hidden + (document.querySelector("#panel dl") ? "+evidence" : ""));
	dispatchEvent(new KeyboardEvent("keydown", {key: "Escape"}));
	said.push("closed=" + document.getElementById("panel").hidden);
	const requests = performance.getEntriesByType("resource").map(e => e.name).filter(n => !n.startsWith("data:"));
	document.documentElement.dataset.requests = requests.join(" ");
	document.documentElement.dataset.wide = document.documentElement.scrollWidth > innerWidth;
	document.documentElement.dataset.said = said.join(" ");
	</script>`
	file := filepath.Join(dir, "index.html")
	if err := os.WriteFile(file, []byte(string(page[:end])+act+string(page[end:])), 0o666); err != nil {
		t.Fatal(err)
	}
	cmd := browser(t, dir, "--virtual-time-budget=3000", "--dump-dom", "file://"+file)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	dom, err := cmd.Output()
	if err != nil {
		t.Fatalf("chromium: %v\n%s", err, stderr.String())
	}
	tag, _, _ := strings.Cut(string(dom), "<head>")
	attribute := func(name string) (string, bool) {
		m := regexp.MustCompile(`data-` + name + `="([^"]*)"`).FindStringSubmatch(tag)
		if m == nil {
			return "", false
		}
		return m[1], true
	}
	if errors, ok := attribute("errors"); ok {
		t.Errorf("script errors: %s", errors)
	}
	if ready, _ := attribute("ready"); ready != "1" {
		t.Errorf("the page's script did not reach its end: %s", tag)
	}
	if requests, ok := attribute("requests"); !ok || requests != "" {
		t.Errorf("the page requested %q", requests)
	}
	if wide, _ := attribute("wide"); wide != "false" {
		t.Error("the page is wider than the window")
	}
	res := readExample(t)
	table := tabulate(res, inMatrix)
	size := "=" + strconv.Itoa(len(table.Features)) + "x" + strconv.Itoa(len(table.Modes))
	said, _ := attribute("said")
	all := strings.Fields(said)
	wants := []string{
		"all" + size, "pinned=2", "swapped=2", "again" + size,
		"stays=bridge+" + strconv.Itoa(len(table.Features)+1), "back=true", "found=true", "none=0", "folded=truefalse", "recalled=false", "address=#matrix",
		"panel=true+evidence", "closed=true",
	}
	if len(all) != len(wants) {
		t.Fatalf("the page did not let a reader act: %q", said)
	}
	for i, want := range wants {
		if all[i] != want {
			t.Errorf("acting on the page: %s, want %s", all[i], want)
		}
	}
}
