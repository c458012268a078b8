package suites

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/onsi/gomega"

	"github.com/modebench/modebench/fixtures"
	"github.com/modebench/modebench/modes"
	"github.com/modebench/modebench/reports"
	"github.com/modebench/modebench/topology"
	"github.com/modebench/modebench/topology/daemons"
	"github.com/modebench/modebench/topology/host"
	"github.com/modebench/modebench/topology/host/docker"
	"github.com/modebench/modebench/topology/host/program"
	"github.com/modebench/modebench/topology/host/relay"
	"github.com/modebench/modebench/topology/host/traffic"
	"github.com/modebench/modebench/topology/lab"
	"github.com/modebench/modebench/topology/netns"
	"github.com/modebench/modebench/topology/space"
	"github.com/modebench/modebench/topology/vm"
)

var (
	onlyModes     = flag.String("modes", "", "observe these modes only, comma-separated")
	onlyFeatures  = flag.String("features", "", "observe these features only, comma-separated")
	onlySabotage  = flag.Bool("only-sabotage", false, "run the sabotages only")
	onlySuites    = flag.String("suites", observing, "of these suites, comma-separated")
	everySabotage = flag.Bool("every-sabotage", false, "run all sabotages of every spec, not the first of each: give it a -timeout of half an hour")
	guests        = flag.String("guests", "", "make hosts guests with this kernel instead of namespaces")
	inGuest       = flag.Bool("in-guest", false, "run as what a guest was booted for")
	noSabotage    = flag.Bool("no-sabotage", false, "run no sabotage")
)

// observing are the suites of which every mode that the kernel can carry is asked.
const observing = "conformance,packets,lifecycle,routing,cni"

// TestMain starts the tests again as root of an empty network namespace; and is the programs that labs start.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "host":
			exit(netns.Main(os.Args[2], os.Stdin, os.Stdout))
		case "agent":
			exit(traffic.Main())
		case "idle":
			exit(host.Idle())
		case "lookup":
			exit(host.Resolve(os.Args[2], os.Stdout))
		case "confined":
			exit(space.Confined(os.Args[2:], os.Environ()))
		case "runtime":
			exit(docker.Runtime(os.Args[2:], os.Environ()))
		case "relay":
			exit(relay.Main(os.Args[2:], os.Stdin, os.Stdout))
		case "init":
			exit(vm.Init())
		case "uml":
			exit(vm.Exec(os.Args[2:]))
		case "guest":
			exit(vm.Main(os.Args[2:], os.Stdin, os.Stdout))
		}
	}
	crowdOf /= 10
	// Labs and guests wait more than they compute, but where system calls are slow.
	most := 5 * runtime.NumCPU() / 2
	if space.Slow() {
		most = runtime.NumCPU()
	}
	if err := flag.Lookup("test.parallel").Value.Set(strconv.Itoa(most)); err != nil {
		exit(err)
	}
	programs()
	os.Exit(space.Rerun(m.Run, os.Args[1:], os.Getenv))
}

// programs has what hosts of some modes run built, before the tests are out of reach of any network: as the command does it, and in its
// cache. Where it cannot be built, those modes are unable.
func programs() {
	cache := os.Getenv("MODEBENCH_CACHE")
	if cache == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			return
		}
		cache = filepath.Join(user, "modebench")
	}
	build := func(of daemons.Set, names ...string) string {
		dir := of.Built(cache, names...)
		if dir == "" && os.Getenv("MODEBENCH_ISOLATED") == "" {
			var err error
			if dir, err = of.Build(context.Background(), cache, false, func(line string) { fmt.Fprintln(os.Stderr, line) }, names...); err != nil {
				fmt.Fprintln(os.Stderr, "unable:", err)
			}
		}
		return dir
	}
	plugins = build(daemons.Plugins)
	// Some of them lack a C compiler, and others do not.
	if dir := cmp.Or(build(daemons.Programs, "etcd", "etcdctl"), build(daemons.Programs, "flanneld")); dir != "" {
		if err := os.Setenv("PATH", dir+":"+os.Getenv("PATH")); err != nil {
			exit(err)
		}
	}
}

// plugins is the directory of CNI's reference plugins; empty: there are none.
var plugins string

// strict tells whether what this machine is unable to say is a failure.
func strict() bool { return os.Getenv("MODEBENCH_STRICT") != "" }

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func chosen(list string, all []string) []string {
	if list == "" {
		return all
	}
	return strings.Split(list, ",")
}

func chosenModes(t *testing.T) (ms []modes.Mode) {
	var names []string
	for _, m := range modes.All() {
		names = append(names, m.Name)
	}
	for _, name := range chosen(*onlyModes, names) {
		m, ok := modes.Named(name, modes.Dirs{modes.ByCNI: plugins})
		if !ok {
			t.Fatalf("-modes: %q is no mode", name)
		}
		ms = append(ms, m)
	}
	return ms
}

func twoHosts(t *testing.T) topology.Topology {
	data, err := fixtures.FS.ReadFile("topologies/two-hosts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	top, err := topology.Read("two-hosts.yaml", data)
	if err != nil {
		t.Fatal(err)
	}
	return top
}

// unable skips a test for which this machine lacks something. In strict mode, where nothing may be lacking, that fails.
func unable(t *testing.T, format string, args ...any) {
	t.Helper()
	if strict() {
		t.Fatalf("unable: "+format, args...)
	}
	t.Skipf("unable: "+format, args...)
}

// TestSuites observes every cell, and shows for every spec that its sabotages turn it red.
func TestSuites(t *testing.T) {
	t.Parallel()
	expectations, err := modes.Expectations(fixtures.FS)
	if err != nil {
		t.Fatal(err)
	}
	top := twoHosts(t)
	run := &Run{
		Driver: netns.Driver{}, Topology: top, Suites: chosen(*onlySuites, nil), Expectations: expectations,
		Emit: func(e Event) {},
	}
	if *guests != "" {
		run.Driver, run.Fidelity = guestDriver(t, *guests)
	}
	run.Modes = chosenModes(t)
	if *guests == "" && !*inGuest {
		run.Modes, _ = able(t, run.Modes, top) // the others are TestGuests'
	}
	run.Features = chosen(*onlyFeatures, nil)
	if !*onlySabotage {
		var mu sync.Mutex
		seen := map[Cell]int{}
		t.Cleanup(func() {
			cells := gomega.NewWithT(t)
			for _, c := range run.Cells() {
				cells.Expect(seen).To(gomega.HaveKeyWithValue(c, 1), "%s: how often it ran", c)
			}
		})
		for _, m := range run.Modes { // the last take longest, and are the first to start: what waits is let go in reverse order
			for _, specs := range labs(run.specs(m)) {
				t.Run(m.String(), func(t *testing.T) {
					t.Parallel()
					for _, r := range observeAll(t, run.observer(m, specs[0].On), specs) {
						mu.Lock()
						seen[Cell{r.Suite, modes.Label(r.Mode, r.Implementation), r.Feature}]++
						mu.Unlock()
					}
				})
			}
		}
	}
	if !*noSabotage {
		sabotageBeside(t, run)
	}
}

// observeAll observes specs in one lab. What is not as expected is an error, and so is what could not be told, where nothing may be lacking.
func observeAll(t *testing.T, o *observer, specs []Spec) (all []reports.Result) {
	o.start(t.Context())
	for _, s := range specs {
		r := o.observe(t.Context(), s)
		if testing.Verbose() { // else what is red would be lost among hundreds that are not
			t.Logf("%s %s: %s %.3f s: %s", o.mode, r.Feature, r.Outcome, r.Seconds, r.Detail)
		}
		switch {
		case r.Outcome == reports.Fail:
			t.Error(Failure(r))
		case r.Outcome == reports.Unable && (strict() || *inGuest):
			t.Errorf("%s %s: unable: %s", o.mode, r.Feature, r.Detail)
		}
		all = append(all, r)
	}
	if err := o.stop(); err != nil {
		t.Error(err)
	}
	return all
}

// TestApart asks what takes long of a few modes: one of each kind that comes to another end, or that fabrics treat otherwise.
func TestApart(t *testing.T) {
	t.Parallel()
	if *onlyFeatures != "" || *onlyModes != "" || *guests != "" || *inGuest || *onlySabotage {
		t.Skip("not asked for")
	}
	expectations, err := modes.Expectations(fixtures.FS)
	if err != nil {
		t.Fatal(err)
	}
	for _, of := range []struct{ suites, modes, features []string }{
		{[]string{OnFabrics}, []string{"bridge", "ptp", "macvlan-bridge", "fan"}, nil},
		{[]string{failure}, []string{"bridge", "macvlan-bridge"}, nil},
		{[]string{scale}, []string{"bridge", "macvlan-bridge"}, nil},
		{[]string{scale, failure}, []string{"vxlan-static", "vxlan-gossip", "direct-bgp"}, []string{"fdb-10000", "fdb-full", "bgp-10000", "session-flaps", "gossip-24", "outage-failover"}},
		{[]string{failure}, []string{"flannel-vxlan", "flannel-host-gw"}, []string{"lease-route-lost", "lease-device-lost"}},
	} {
		run := &Run{Driver: netns.Driver{}, Topology: twoHosts(t), Suites: of.suites, Features: of.features, Expectations: expectations, Emit: func(Event) {}}
		for _, name := range of.modes {
			m, _ := modes.Find(name)
			run.Modes = append(run.Modes, m)
		}
		t.Run(of.suites[0], func(t *testing.T) {
			t.Parallel()
			var lacking []string
			if run.Modes, lacking = able(t, run.Modes, run.Topology); len(run.Modes) == 0 || len(lacking) > 0 && strict() {
				unable(t, "of %v this machine carries %v", of.modes, run.Modes)
			}
			for _, m := range run.Modes { // two crowds at once would have more neighbours than a kernel has room for
				for _, specs := range labs(slices.DeleteFunc(run.specs(m), func(s Spec) bool { return elsewhere(t, s) })) {
					observeAll(t, run.observer(m, specs[0].On), specs)
				}
			}
			if !*noSabotage {
				for _, s := range sabotages(t, run) {
					t.Run(s.name, s.run)
				}
			}
		})
	}
}

// elsewhere tells whether a spec needs what this kernel lacks.
func elsewhere(t *testing.T, s Spec) bool {
	var needs []string
	for _, k := range s.Needs {
		needs = append(needs, string(k))
	}
	missing, err := host.Kernel(needs)
	if err != nil {
		t.Fatal(err)
	}
	return len(missing) > 0
}

// guestDriver makes hosts of a kernel that is installed. The fidelity lacks the kernel's release.
func guestDriver(t *testing.T, name string) (lab.Driver, reports.Fidelity) {
	cache := t.TempDir()
	ks, lacking := vm.Kernels(cache)
	i := slices.IndexFunc(ks, func(k vm.Kernel) bool { return k.Name == name })
	if i < 0 {
		t.Fatalf("-guests %q: no such kernel: %v", name, lacking)
	}
	nic, err := ks[i].NIC("")
	if err != nil {
		t.Fatal(err)
	}
	return vm.Driver{Kernel: ks[i], Cache: cache, Features: modules}, reports.Fidelity{Driver: "vm", NIC: nic}
}

// sabotageBeside runs sabotages beside each other, and beside what else is parallel.
func sabotageBeside(t *testing.T, r *Run) {
	for _, s := range sabotages(t, r) {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			s.run(t)
		})
	}
}

// A breakage is a test of specs on a mode that is broken.
type breakage struct {
	name string
	run  func(*testing.T)
}

// sabotages are tests that break each mode by the sabotages of all specs, those of one suite in one lab: with the break, each spec has
// to be red. What a mode is set up with can only be broken in a lab of its own.
func sabotages(t *testing.T, r *Run) (all []breakage) {
	type attempt struct {
		spec Spec
		how  Sabotage
	}
	in := func(o *observer, attempts ...attempt) func(*testing.T) {
		return func(t *testing.T) {
			o.start(t.Context())
			defer func() {
				if err := o.stop(); err != nil {
					t.Error(err)
				}
			}()
			for _, a := range attempts {
				t.Run(a.spec.Feature.Name+": "+a.how.Doc, func(t *testing.T) { o.reddens(t, a.spec, a.how) })
			}
		}
	}
	silent := *r
	silent.Emit = func(Event) {} // what is told is of healthy modes
	for _, m := range r.Modes {
		for _, suite := range r.Suites {
			for _, broken := range labs(slices.DeleteFunc(r.specs(m), func(s Spec) bool {
				return s.Suite != suite || s.Machines && !r.Fidelity.Machines() || len(r.breaks(s, m)) == 0 || s.By == modes.ByCNI && elsewhere(t, s)
			})) {
				var shared []attempt
				name := m.Name + " " + suite
				for _, s := range broken {
					for _, how := range r.breaks(s, m) {
						if how.Rewire == nil && how.Setup == nil {
							shared = append(shared, attempt{s, how})
							continue
						}
						o := silent.observer(m, s.On)
						o.rewire = how.Rewire
						if set := o.mode.Setup; how.Setup != nil {
							o.mode.Setup = func(p *topology.Plan, host *topology.Machine) []topology.Step { return how.Setup(set(p, host)) }
						}
						all = append(all, breakage{name, in(o, attempt{s, how})})
					}
				}
				if len(shared) > 0 {
					all = append(all, breakage{name, in(silent.observer(m, broken[0].On), shared...)})
				}
			}
		}
	}
	return all
}

// breaks are the sabotages of a spec on a mode that are tried: all that are asked for, or of the spec the first that a mode of the run
// can be broken by, and of two families that of IPv4. All of all specs take half an hour.
func (r *Run) breaks(s Spec, m modes.Mode) (list []Sabotage) {
	if few() && slices.Contains(families(), s.Feature.Name) {
		return nil
	}
	for _, how := range s.Sabotage {
		if !slices.ContainsFunc(r.Modes, func(m modes.Mode) bool { return m.Name == how.Mode }) {
			continue
		}
		if how.Mode == m.Name {
			list = append(list, how)
		}
		if few() {
			break
		}
	}
	return list
}

// few tells whether not all sabotages are asked for.
func few() bool { return !*everySabotage && (*inGuest || *onlyModes == "" && *onlyFeatures == "") }

// families are the features of IPv6 that are asked by the same lines as those of IPv4.
func families() (names []string) {
	for _, s := range Specs() {
		if name, ok := strings.CutSuffix(s.Feature.Name, "-"+string(IPv4)); ok {
			names = append(names, name+"-"+string(IPv6))
		}
	}
	return names
}

// reddens fails the test where a spec stays green, or is not decided, on a mode that is broken.
func (o *observer) reddens(t *testing.T, s Spec, how Sabotage) {
	if o.failed != nil {
		t.Fatal(o.failed)
	}
	result := o.sabotaged(t.Context(), s, how)
	if result.Outcome == reports.Unable {
		for name, pkg := range s.Programs {
			if _, err := program.Find(name); err != nil {
				unable(t, "%s is not there: it is in the package %s", name, pkg)
			}
		}
	}
	if result.Outcome != reports.Fail {
		t.Errorf("outcome %s: want fail\n%s", result.Outcome, Failure(result))
	}
	if result.Observed == reports.NotApplicable { // says that the experiment was not done, and nothing of whether it would have seen the fault
		t.Errorf("the question does not apply any more where this is broken: %s", result.Detail)
	}
	if result.Detail == "" {
		t.Error("fails without a word why")
	}
}

// sabotaged observes a spec on a mode that is broken, where it is not since its setup.
func (o *observer) sabotaged(ctx context.Context, s Spec, how Sabotage) reports.Result {
	broken := s
	broken.Run = func(ctx context.Context, b *Bench) (o Observation, err error) {
		if how.Spares != nil {
			b.rewire = ofSpares(how.Spares)
			defer func() {
				b.rewire = nil
				err = errors.Join(err, b.dissolve()) // its containers are broken, too
			}()
		}
		if how.Before != nil {
			if err := how.Before(ctx, b); err != nil {
				return Observation{}, fmt.Errorf("before the sabotage: %w", err)
			}
		}
		if how.Steps != nil {
			steps := how.Steps(b.plan)
			if err := b.Apply(ctx, steps...); err != nil {
				return Observation{}, fmt.Errorf("sabotage: %w", err)
			}
			for _, s := range steps {
				if s.Link == nil || s.Remove {
					continue
				}
				if err := b.settled(ctx, s.On); err != nil { // a device drops what it is to send until it operates
					return Observation{}, fmt.Errorf("sabotage: %w", err)
				}
				// Neighbours may have learnt the host's addresses from a device that is about to go.
				for _, nic := range b.plan.Machine(s.On).NICs {
					for _, a := range []netip.Addr{nic.V4.Addr(), nic.V6.Addr()} {
						if s.In == "" && s.Link.Parent == nic.Name && a.IsValid() {
							b.atEnd(func(ctx context.Context) error { return announce(ctx, b, Place{Machine: s.On}, a) })
						}
					}
				}
			}
		}
		return s.Run(ctx, b)
	}
	return o.observe(ctx, broken)
}

// observed starts a lab of a mode for a test of what observes, beside other tests. Not where hosts or the tests themselves are guests.
func observed(t *testing.T, mode string) *observer {
	t.Helper()
	if *guests != "" || *inGuest {
		t.Skip("not asked for: hosts or the tests themselves are guests")
	}
	t.Parallel()
	m, _ := modes.Find(mode)
	o := runOf(t, m).observer(m, nil)
	if o.start(t.Context()); o.failed != nil {
		t.Fatal(o.failed)
	}
	return o
}

// TestSecondTry has specs that tell nothing: they are tried once more, in the same lab, unless it is spoilt.
func TestSecondTry(t *testing.T) {
	o := observed(t, "none")
	nothing := errors.New("nothing is told")
	for name, c := range map[string]struct {
		tells, spoils bool // at the second try; at the first
		tries         int
		outcome       string
	}{
		"something is told then": {true, false, 2, reports.Pass},
		"nothing is told either": {false, false, 2, reports.Unable},
		"the lab is another one": {true, true, 1, reports.Unable},
	} {
		tries := 0
		r := o.observe(t.Context(), Spec{Suite: "conformance", Feature: Feature{Name: "own-stack"}, Run: func(_ context.Context, b *Bench) (Observation, error) {
			if tries++; tries == 1 || !c.tells {
				if c.spoils {
					b.atEnd(func(context.Context) error { return nothing })
				}
				return Observation{}, nothing
			}
			return works("it is told"), nil
		}})
		second := slices.ContainsFunc(r.Evidence, func(e reports.Evidence) bool {
			return strings.Contains(e.Saw, "second try") && strings.Contains(e.Saw, nothing.Error())
		})
		if r.Outcome != c.outcome || tries != c.tries || second != (c.outcome == reports.Pass) {
			t.Errorf("%s: outcome %s after %d tries: want %s after %d; evidence %v", name, r.Outcome, tries, c.outcome, c.tries, r.Evidence)
		}
	}
	if err := o.stop(); err != nil {
		t.Error(err)
	}
}

// TestStorm joins two ports of the switch by a cable: the loop is open soon, what was asked meanwhile is undecided for that reason, and what
// is asked next is asked in another lab.
func TestStorm(t *testing.T) {
	o := observed(t, "host")
	asked := func(f func(context.Context, *Bench) (Observation, error)) reports.Result {
		return o.observe(t.Context(), Spec{Suite: "conformance", Feature: Feature{Name: "own-stack"}, Run: f})
	}
	r := asked(func(ctx context.Context, b *Bench) (Observation, error) {
		tor, err := b.own(ctx, "tor")
		if err != nil {
			return Observation{}, err
		}
		port := slices.IndexFunc(tor.Links, func(l lab.Link) bool { return l.Name == "x-eth0" })
		if err := b.Apply(ctx,
			topology.Step{On: "tor", Link: &topology.Link{Name: "patch", Kind: "veth", Master: tor.Links[port].Master, Up: true, PeerName: "patch-end"}},
			topology.Step{On: "tor", Set: &topology.LinkSet{Name: "patch-end", Master: tor.Links[port].Master, State: "up"}},
		); err != nil {
			return Observation{}, err
		}
		began := time.Now()
		var lost *lostError
		if _, err := eventually(ctx, time.Minute, func() (bool, error) {
			// Again and again: what is sent before the switch forwards by both ports goes round once at most.
			err := b.Send(ctx, external(b), "eth0", lab.Packet{
				EthDst: allStations, Proto: "udp", Token: b.newToken(),
				Src: netip.AddrPortFrom(addrOf(b, external(b), IPv4), 68), Dst: netip.MustParseAddrPort("255.255.255.255:67"),
			})
			if err == nil {
				err = b.lost(ctx)
			}
			if errors.As(err, &lost) {
				return true, nil
			}
			return false, err
		}); err != nil {
			return Observation{}, err
		}
		t.Logf("after %s: %v", time.Since(began).Round(time.Millisecond), lost)
		return Observation{Status: "mixed", Detail: "seen in a storm"}, nil
	})
	if r.Outcome != reports.Unable || !strings.Contains(r.Reason+r.Detail, "a storm at") {
		t.Errorf("in a storm: outcome %s: %s: %s: want unable, and why", r.Outcome, r.Reason, r.Detail)
	}
	if r := asked(func(ctx context.Context, b *Bench) (Observation, error) { return works("it is told"), b.lost(ctx) }); o.failed != nil || r.Detail != "it is told" {
		t.Errorf("after it: %v, %s: %s", o.failed, r.Outcome, r.Detail)
	}
	if err := o.stop(); err != nil {
		t.Error(err)
	}
}

// TestSwept lets go of containers' namespaces: after it has been waited for the kernel to take them down, nothing of them stands on the host, nor of what told that.
func TestSwept(t *testing.T) {
	o := observed(t, "macvlan-bridge")
	r := o.observe(t.Context(), Spec{Suite: "conformance", Feature: Feature{Name: "own-stack"}, Run: func(ctx context.Context, b *Bench) (Observation, error) {
		host := firstHost(b)
		if _, err := steady(ctx, b, host); err != nil {
			return Observation{}, err
		}
		before, err := standing(ctx, b, host)
		if err != nil {
			return Observation{}, err
		}
		for range 3 { // more than once
			var gone []Place
			for i := range 5 {
				c, err := another(b, host, network(b), i+1)
				if err != nil {
					return Observation{}, err
				}
				p, err := b.attach(ctx, c, host)
				if err != nil {
					return Observation{}, err
				}
				if err := b.Apply(ctx, topology.Step{On: host, Remove: true, Space: &topology.Space{Name: p.Container}}); err != nil {
					return Observation{}, err
				}
				gone = append(gone, p)
			}
			if err := swept(ctx, b, host); err != nil {
				return Observation{}, err
			}
			if now, err := standing(ctx, b, host); err != nil || now > before {
				return Observation{}, errors.Join(err, fmt.Errorf("%d devices and addresses stand on %s, want %d", now, host, before))
			}
			for _, p := range gone {
				if err := b.Detach(ctx, p); err != nil {
					return Observation{}, err
				}
			}
		}
		return works("it is told"), nil
	}})
	if r.Outcome != reports.Pass {
		t.Errorf("outcome %s: %s", r.Outcome, r.Detail)
	}
	if err := o.stop(); err != nil {
		t.Error(err)
	}
}

// TestEverySpecIsSabotaged finds specs that nothing is known to turn red, and sabotages of modes that do not exist.
func TestEverySpecIsSabotaged(t *testing.T) {
	for _, s := range Specs() {
		if len(s.Sabotage) == 0 {
			t.Errorf("%s: no sabotage", s.Feature.Name)
		}
		for _, how := range s.Sabotage {
			if _, ok := modes.Find(how.Mode); !ok {
				t.Errorf("%s: %s: sabotages %q, which is no mode", s.Feature.Name, how.Doc, how.Mode)
			}
		}
	}
}

// TestManifest finds cells without an expectation, expectations without a spec, and features in an unknown group.
func TestManifest(t *testing.T) {
	expectations, err := modes.Expectations(fixtures.FS)
	if err != nil {
		t.Fatal(err)
	}
	specs := map[string]bool{}
	for _, s := range Specs() {
		if specs[s.Feature.Name] {
			t.Errorf("%s: two specs observe it", s.Feature.Name)
		}
		specs[s.Feature.Name] = true
		if !slices.Contains(groups, s.Feature.Group) {
			t.Errorf("%s: group %q: want one of %v", s.Feature.Name, s.Feature.Group, groups)
		}
	}
	for _, m := range modes.All() {
		for _, by := range modes.Implementations() {
			m, ok := m.By(by, nil)
			if !ok {
				continue
			}
			for _, s := range Specs() {
				e, ok := expectations[m.String()][s.Feature.Name]
				switch {
				case !ok && s.Asks(m):
					t.Errorf("%s: %s: no expectation", m, s.Feature.Name)
				case ok && s.Machines && e.Expect != reports.NotApplicable:
					t.Errorf("%s: %s: asked of hosts that are machines, and expected %s of others: want %s", m, s.Feature.Name, e.Expect, reports.NotApplicable)
				}
			}
			for f := range expectations[m.String()] {
				if !specs[f] {
					t.Errorf("%s: %s: an expectation that no spec tests", m, f)
				}
			}
		}
	}
}
