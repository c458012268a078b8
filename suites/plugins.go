package suites

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/modebench/modebench/modes"
	"github.com/modebench/modebench/reports"
	"github.com/modebench/modebench/topology"
	"github.com/modebench/modebench/topology/lab"
)

// Plugged is the suite that asks plugins what the specification of the Container Network Interface 1.1.0 wants of them, and the group of its features.
const Plugged = "cni"

// callOf is the call among the steps that attach a container by plugins.
func callOf(steps []topology.Step) topology.CNI {
	at := slices.IndexFunc(steps, func(s topology.Step) bool { return s.CNI != nil })
	return *steps[at].CNI
}

// calls changes the calls among steps.
func calls(change func(*topology.CNI)) func([]topology.Step) []topology.Step {
	return mapped(func(s *topology.Step) **topology.CNI { return &s.CNI }, change)
}

// rewritten changes words of the lists that plugins are given.
func rewritten(was, is string) func([]topology.Step) []topology.Step {
	return calls(func(c *topology.CNI) { c.List = strings.ReplaceAll(c.List, was, is) })
}

// object is JSON whose form is somebody else's.
type object = map[string]any

// remade changes a list, or the arguments of capabilities.
func remade(text string, change func(object)) string {
	of := object{}
	if err := json.Unmarshal(orEmpty(text), &of); err != nil { // it came out of JSON
		panic(err)
	}
	change(of)
	out, err := json.Marshal(of)
	if err != nil {
		panic(err)
	}
	return string(out)
}

func orEmpty(text string) []byte {
	if text == "" {
		return []byte("{}")
	}
	return []byte(text)
}

// chain are the plugins of a list.
func chain(list string) (plugins []object) {
	var of struct{ Plugins []object }
	_ = json.Unmarshal([]byte(list), &of) // who calls them says so
	return of.Plugins
}

// chained adds a plugin at the end of lists.
func chained(plugin object) func([]topology.Step) []topology.Step {
	return calls(func(c *topology.CNI) { c.List = appended(c.List, plugin) })
}

func appended(list string, plugin object) string {
	return remade(list, func(of object) { of["plugins"] = append(of["plugins"].([]any), plugin) })
}

// agreeing puts a plugin in the place of those of a list that makes nothing, and says of everything that it is done: cat, whose result is what it
// was given.
func agreeing(steps []topology.Step) []topology.Step {
	return calls(func(c *topology.CNI) {
		args := object{}
		_ = json.Unmarshal(orEmpty(c.Args), &args)
		ips := []object{}
		asked, _ := args["ips"].([]any)
		for _, ip := range asked {
			ips = append(ips, object{"address": ip})
		}
		c.List = remade(c.List, func(of object) { of["plugins"] = []object{{"type": "cat", "ips": ips}} })
		c.Path = "/usr/bin"
	})(steps)
}

// refusing puts a plugin in their place that fails without a word.
func refusing(steps []topology.Step) []topology.Step {
	return calls(func(c *topology.CNI) {
		c.List = remade(c.List, func(of object) { of["plugins"] = []object{{"type": "false"}} })
		c.Path = "/usr/bin"
	})(steps)
}

// spared makes sabotages of modes out of a change of what attaches containers that only specs attach.
func spared(doc string, change func([]topology.Step) []topology.Step, modes ...string) (all []Sabotage) {
	for _, m := range modes {
		all = append(all, Sabotage{Mode: m, Doc: doc, Spares: change})
	}
	return all
}

// flushed makes sabotages of modes by which attaching turns IPv6 off on an interface of the host: before plugins are called, or after it.
func flushed(how func([]topology.Step) []topology.Step, modes ...string) (all []Sabotage) {
	for _, m := range modes {
		all = append(all, Sabotage{Mode: m, Doc: "attaching turns IPv6 off on an interface of the host", Rewire: ofSpares(how)})
	}
	return all
}

// plugs has plugins do something on a container's host.
func plugs(ctx context.Context, b *Bench, host string, q lab.CNIAsk) (lab.CNIAnswer, error) {
	var a lab.CNIAnswer
	err := b.Do(ctx, host, "CNI.Ask", q, &a)
	return a, err
}

// replied is what plugins answered, in words.
func replied(a lab.CNIAnswer) string {
	if a.Refusal.Errno == "" {
		return "it succeeded"
	}
	return "it failed: " + a.Refusal.Text
}

// plugIn attaches one more container by plugins; change is of its steps, before those of a sabotage. It is detached when the spec ends. Where plugins
// refuse, no is what to observe.
func plugIn(ctx context.Context, b *Bench, change func([]topology.Step) []topology.Step) (p Place, call topology.CNI, no *Observation, err error) {
	host := firstHost(b)
	if err := room(ctx, b, host, network(b)); err != nil {
		return p, call, nil, err
	}
	c, err := another(b, host, network(b), 4) // by its number one of ofSpares in a lab of its own, too
	if err != nil {
		return p, call, nil, err
	}
	return plugInAs(ctx, b, c, change)
}

func plugInAs(ctx context.Context, b *Bench, c topology.Container, change func([]topology.Step) []topology.Step) (p Place, call topology.CNI, no *Observation, err error) {
	host := firstHost(b)
	p, err = b.attachAs(ctx, c, host, func(steps []topology.Step) []topology.Step {
		if change != nil {
			steps = change(steps)
		}
		call = callOf(steps)
		if b.rewire != nil {
			call = callOf(b.rewire(steps))
		}
		return steps
	})
	switch {
	case refused(err) && strings.Contains(err.Error(), "failed to find plugin"):
		o := notApplicable("the plugin is not there: %v", err)
		return p, call, &o, nil
	case refused(err):
		o := blocked("%v", err)
		return p, call, &o, nil
	case err != nil:
		return p, call, nil, err
	}
	b.atEnd(func(ctx context.Context) error { return b.Detach(ctx, p) })
	return p, call, nil, nil
}

// unattached gives the call that would attach one more container, which is not attached: only asked about, in the namespace of one that is, by another
// name of its own and of its device.
func unattached(ctx context.Context, b *Bench) (call topology.CNI, env map[string]string, err error) {
	host := firstHost(b)
	c, err := another(b, host, network(b), 1)
	if err != nil {
		return call, nil, err
	}
	call = callOf(attaching(b, c, host))
	there := callOf(attaching(b, attachedAt(b, container(b)), host))
	env = map[string]string{"CNI_CONTAINERID": call.ID, "CNI_IFNAME": "eth9"}
	call.Container, call.ID, call.Link = there.Container, there.ID, there.Link
	return call, env, nil
}

// conf is what a plugin of a list, numbered from 1, is given to read, but for a change.
func conf(call topology.CNI, plugin int, change func(object)) string {
	of := object{}
	_ = json.Unmarshal([]byte(call.List), &of)
	out := chain(call.List)[plugin-1]
	out["name"], out["cniVersion"] = of["name"], of["cniVersion"]
	change(out)
	text, err := json.Marshal(out)
	if err != nil {
		panic(err)
	}
	return string(text)
}

// registerPlugged registers a question of plugins.
func registerPlugged(s Spec) bool {
	s.Suite, s.Feature.Group, s.By = Plugged, Plugged, modes.ByCNI
	return register(s)
}

var _ = registerPlugged(Spec{
	Feature: Feature{Name: "cni-check-attached", Doc: "Does CHECK succeed at once after ADD?"},
	Name:    "a container is attached, and checked in the next moment",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		p, call, no, err := plugIn(ctx, b, nil)
		if no != nil || err != nil {
			return *cmp.Or(no, &Observation{}), err
		}
		a, err := plugs(ctx, b, p.Machine, lab.CNIAsk{Command: "CHECK", Call: call})
		return whether(a.Refusal.Errno == "", "CHECK of %s, which was attached a moment before: %s", p, replied(a)), err
	},
	Sabotage: spared("an address is lost while the container is attached", robbed, "bridge", "ptp", "macvlan-private"),
})

// robbed takes the first address of a container away as soon as plugins have given it.
func robbed(steps []topology.Step) []topology.Step {
	call := callOf(steps)
	args := object{}
	_ = json.Unmarshal(orEmpty(call.Args), &args)
	ip := netip.MustParsePrefix(args["ips"].([]any)[0].(string))
	return append(slices.Clone(steps), topology.Step{
		On: steps[0].On, In: call.Container, Remove: true, Addr: &topology.Addr{Link: call.Link, Prefix: ip},
	})
}

// notices registers the question whether CHECK notices that something of an attachment is lost. lose gives the step that takes it away; nil, with the reason:
// there is nothing of the kind.
func notices(name, doc string, lose func(call topology.CNI, at lab.SpaceState) (*topology.Step, string), sabotaged ...string) bool {
	return registerPlugged(Spec{
		Feature: Feature{Name: name, Doc: doc},
		Name:    "a container is attached and checked; something of it is taken away, and it is checked again",
		Run: func(ctx context.Context, b *Bench) (Observation, error) {
			p, call, no, err := plugIn(ctx, b, nil)
			if no != nil || err != nil {
				return *cmp.Or(no, &Observation{}), err
			}
			whole, err := plugs(ctx, b, p.Machine, lab.CNIAsk{Command: "CHECK", Call: call})
			if err != nil {
				return Observation{}, err
			}
			if whole.Refusal.Errno != "" {
				return notApplicable("CHECK, before anything is lost: %s", replied(whole)), nil
			}
			s, err := b.State(ctx, p.Machine)
			if err != nil {
				return Observation{}, err
			}
			step, none := lose(call, s.Spaces[p.Container])
			if step == nil {
				return notApplicable("%s", none), nil
			}
			step.On, step.In, step.Remove = p.Machine, p.Container, true
			if err := b.Apply(ctx, *step); err != nil {
				return Observation{}, err
			}
			a, err := plugs(ctx, b, p.Machine, lab.CNIAsk{Command: "CHECK", Call: call})
			o := whether(a.Refusal.Errno != "", "CHECK of %s, after %s: %s", p, step, replied(a))
			o.Reproduce = []string{step.String()}
			return o.with(p.String(), "control: CHECK before that: %s", replied(whole)), err
		},
		Sabotage: spared("the list says that CHECK is not to be", rewritten(`"cniVersion"`, `"disableCheck":true,"cniVersion"`), sabotaged...),
	})
}

var _ = notices("cni-check-address", "Does CHECK fail where an address of the container is gone?", func(call topology.CNI, at lab.SpaceState) (*topology.Step, string) {
	for _, a := range at.Addrs {
		if a.Link == call.Link && a.Prefix.Addr().Is4() {
			return &topology.Step{Addr: &topology.Addr{Link: a.Link, Prefix: a.Prefix}}, ""
		}
	}
	return nil, "the container has no address of IPv4"
}, "bridge", "macvlan-private")

var _ = notices("cni-check-route", "Does CHECK fail where a route of the result, such as the default one, is gone?", func(call topology.CNI, at lab.SpaceState) (*topology.Step, string) {
	for _, r := range at.Routes {
		if r.Dst.IsValid() && r.Dst.Bits() == 0 && r.Dst.Addr().Is4() {
			return &topology.Step{Route: &topology.Route{Dst: r.Dst, Via: r.Via}}, ""
		}
	}
	return nil, "the result has no default route of IPv4"
}, "bridge", "ptp")

var _ = notices("cni-check-device", "Does CHECK fail where the container's device is gone?", func(call topology.CNI, at lab.SpaceState) (*topology.Step, string) {
	return &topology.Step{Link: &topology.Link{Name: call.Link}}, ""
}, "bridge", "macvlan-private")

// losesRules registers the question whether CHECK notices that rules are gone: all, or those alone whose tables came with an attachment whose steps are changed so.
// It is asked in a lab of its own, since what is deleted is everybody's.
func losesRules(name, doc, none string, all bool, change func(*Bench) func([]topology.Step) []topology.Step, sabotage []Sabotage) bool {
	return registerPlugged(Spec{
		Feature: Feature{Name: name, Doc: doc},
		Name:    "in a lab of its own, a container is attached and checked; tables of rules are deleted, and it is checked again",
		Run: func(ctx context.Context, b *Bench) (o Observation, err error) {
			with := change(b)
			if with == nil {
				return notApplicable("%s", none), nil
			}
			own, err := scratch(ctx, b, 1)
			if err != nil {
				return Observation{}, err
			}
			defer func() { err = errors.Join(err, own.Close()) }()
			before, err := own.State(ctx, firstHost(own))
			if err != nil {
				return Observation{}, err
			}
			p, call, no, err := plugIn(ctx, own, with)
			if no != nil || err != nil {
				return *cmp.Or(no, &Observation{}), err
			}
			after, err := own.State(ctx, p.Machine)
			if err != nil {
				return Observation{}, err
			}
			var others []topology.Step
			if !all {
				others = tables(p.Machine, before, nil)
			}
			steps := tables(p.Machine, after, others)
			if len(steps) == 0 {
				return notApplicable("%s", none), nil
			}
			whole, err := plugs(ctx, own, p.Machine, lab.CNIAsk{Command: "CHECK", Call: call})
			if err != nil {
				return Observation{}, err
			}
			if whole.Refusal.Errno != "" {
				return notApplicable("CHECK, before anything is lost: %s", replied(whole)), nil
			}
			if err := own.Apply(ctx, steps...); err != nil {
				return Observation{}, err
			}
			a, err := plugs(ctx, own, p.Machine, lab.CNIAsk{Command: "CHECK", Call: call})
			o = whether(a.Refusal.Errno != "", "CHECK of %s, after %d tables of rules were deleted: %s", p, len(steps), replied(a))
			o.Reproduce = lines(steps)
			return o.with(p.String(), "control: CHECK before that: %s", replied(whole)), err
		},
		Sabotage: sabotage,
	})
}

// tables are those of packet filters that have rules, but for some, as steps that delete them.
func tables(on string, s lab.State, but []topology.Step) (all []topology.Step) {
	for _, r := range s.Spaces[""].Rules {
		step := topology.Step{On: on, Remove: true, Table: &topology.Table{Family: r.Family, Name: r.Table}}
		if !slices.ContainsFunc(slices.Concat(all, but), func(o topology.Step) bool { return o.String() == step.String() }) {
			all = append(all, step)
		}
	}
	return all
}

// asRuntimes do it, who ask for ports and rates in the ADD that attaches: the calls of other steps become a part of the one that attaches, each plugin once.
func asRuntimes(others []topology.Step) func([]topology.Step) []topology.Step {
	return calls(func(c *topology.CNI) {
		for _, o := range others {
			for _, plugin := range chain(o.CNI.List) {
				if !slices.ContainsFunc(chain(c.List), func(has object) bool { return has["type"] == plugin["type"] }) {
					c.List = appended(c.List, plugin)
				}
			}
			c.Args = remade(c.Args, func(args object) { _ = json.Unmarshal(orEmpty(o.CNI.Args), &args) })
		}
	})
}

// mapping asks for a port when a container is attached; nil: the mode maps none.
func mapping(m modes.Mode, p *topology.Plan, port modes.Port) func([]topology.Step) []topology.Step {
	if m.Publish == nil {
		return nil
	}
	host := p.Hosts()[0]
	return asRuntimes(m.Publish(p, host, host.Containers[0], port))
}

var http = modes.Port{Proto: "tcp", Host: 8080, Container: 80}

var _ = losesRules("cni-check-published", "Does CHECK fail where the rules of a published port are gone?", "the mode maps no ports", false,
	func(b *Bench) func([]topology.Step) []topology.Step { return mapping(b.mode, b.plan, http) },
	spared("the list says that CHECK is not to be", rewritten(`"cniVersion"`, `"disableCheck":true,"cniVersion"`), "bridge", "ptp"))

var _ = losesRules("cni-check-masquerade", "Does CHECK fail where the rules are gone by which the container's packets leave with the host's address?",
	"attaching a container makes no rules", true,
	func(*Bench) func([]topology.Step) []topology.Step {
		return func(steps []topology.Step) []topology.Step { return steps }
	},
	spared("ports are published, too, whose rules CHECK looks for", asRuntimes([]topology.Step{{CNI: &topology.CNI{
		List: `{"plugins":[{"type":"portmap","backend":"nftables","capabilities":{"portMappings":true}}]}`,
		Args: `{"portMappings":[{"hostPort":8080,"containerPort":80,"protocol":"tcp"}]}`,
	}}}), "bridge", "ptp"))

var _ = registerPlugged(Spec{
	Feature: Feature{Name: "cni-add-again", Doc: "Is a second ADD of the same container and interface refused, and does it leave the first as it was?"},
	Name:    "a container is attached, and ADD is called again for it; then it asks an external machine, and the host is compared with before",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		p, call, no, err := plugIn(ctx, b, nil)
		if no != nil || err != nil {
			return *cmp.Or(no, &Observation{}), err
		}
		if err := b.settled(ctx, p.Machine); err != nil {
			return Observation{}, err
		}
		before, err := steady(ctx, b, p.Machine)
		if err != nil {
			return Observation{}, err
		}
		a, err := plugs(ctx, b, p.Machine, lab.CNIAsk{Command: "ADD", Call: call})
		if err != nil {
			return Observation{}, err
		}
		if a.Refusal.Errno == "" {
			return blocked("a second ADD of %s: it succeeded", p), nil
		}
		diff, err := restored(ctx, b, p.Machine, before)
		if err != nil {
			return Observation{}, err
		}
		answer, who, err := callsOut(ctx, b, p)
		o := whether(len(diff) == 0 && answer.Answered, "a second ADD of %s: %s; %d differences to the host before; %s answered it: %t", p, replied(a), len(diff), who, answer.Answered)
		return o.differences(p.Machine, diff), err
	},
	Sabotage: spared("the plugin makes nothing, and says of everything that it is done", agreeing, "bridge", "ptp", "macvlan-private"),
})

var _ = registerPlugged(Spec{
	Feature: Feature{Name: "cni-del-again", Doc: "Does DEL succeed, and once more, and is then nothing left?"},
	Name:    "a container is attached; DEL is called for it twice, and its namespace let go; the host is compared with before",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		host := firstHost(b)
		if err := room(ctx, b, host, network(b)); err != nil {
			return Observation{}, err
		}
		before, err := steady(ctx, b, host)
		if err != nil {
			return Observation{}, err
		}
		p, call, no, err := plugIn(ctx, b, nil)
		if no != nil || err != nil {
			return *cmp.Or(no, &Observation{}), err
		}
		for _, which := range []string{"first", "second"} {
			a, err := plugs(ctx, b, host, lab.CNIAsk{Command: "DEL", Call: call})
			if err != nil {
				return Observation{}, err
			}
			if a.Refusal.Errno != "" {
				return blocked("the %s DEL of %s: %s", which, p, replied(a)), nil
			}
			s, err := b.devices(ctx, host)
			if err != nil {
				return Observation{}, err
			}
			if slices.ContainsFunc(s.Spaces[p.Container].Links, func(l lab.Link) bool { return l.Name == call.Link }) {
				return blocked("the %s DEL of %s: it succeeded, and %s is still there", which, p, call.Link), nil
			}
		}
		if err := b.Detach(ctx, p); err != nil {
			return Observation{}, err
		}
		diff, err := restored(ctx, b, host, before)
		o := whether(len(diff) == 0, "two DELs of %s: they succeeded; %d differences to the host before", p, len(diff))
		return o.differences(host, diff), err
	},
	Sabotage: flushed(flushing, "bridge", "ptp", "macvlan-private"),
})

var _ = registerPlugged(Spec{
	Feature: Feature{Name: "cni-del-missing", Doc: "Does DEL succeed for a container that was never attached: with a namespace that is there, with one that is not, and without one?"},
	Name:    "DEL is called for a container that no ADD was called for, with three values of CNI_NETNS, and without a result of an ADD",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		call, env, err := unattached(ctx, b)
		if err != nil {
			return Observation{}, err
		}
		o := works("DEL of %s, which was never attached, succeeded with a namespace that is there, with one that is not, and without one", env["CNI_CONTAINERID"])
		for _, of := range []struct {
			what string
			env  map[string]string
		}{
			{"with a namespace that is there", nil},
			{"with a namespace that is not there", map[string]string{"CNI_NETNS": "/run/netns/none"}},
			{"without a namespace", map[string]string{"CNI_NETNS": ""}},
		} {
			for n := len(chain(call.List)); n > 0; n-- {
				a, err := plugs(ctx, b, firstHost(b), lab.CNIAsk{Command: "DEL", Call: call, Plugin: n, Env: merged(env, of.env)})
				if err != nil {
					return Observation{}, err
				}
				if a.Refusal.Errno != "" {
					o.Status, o.Detail = blocked("").Status, fmt.Sprintf("DEL of %s, which was never attached, %s: plugin %d: %s", env["CNI_CONTAINERID"], of.what, n, replied(a))
				}
			}
		}
		return o, nil
	},
	Sabotage: spared("the plugin fails", refusing, "bridge", "ptp", "macvlan-private"),
})

func merged(all ...map[string]string) map[string]string {
	out := map[string]string{}
	for _, m := range all {
		maps.Copy(out, m)
	}
	return out
}

// ids are those of the containers of the first host's first network, as the mode attaches them.
func ids(b *Bench, but Place) (valid []string) {
	for _, p := range b.Containers(firstHost(b), network(b)) {
		if p != but {
			valid = append(valid, callOf(b.mode.Attach(b.plan, b.plan.Machine(p.Machine), attachedAt(b, p))).ID)
		}
	}
	return valid
}

var _ = registerPlugged(Spec{
	Feature: Feature{Name: "cni-gc-valid", Doc: "Does GC leave all that belongs to the attachments that it is told are valid?"},
	Name:    "GC is called with all attachments of a network; the host is compared with before, and a container asks an external machine",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		p := container(b)
		before, err := steady(ctx, b, p.Machine)
		if err != nil {
			return Observation{}, err
		}
		call := callOf(attaching(b, attachedAt(b, p), p.Machine))
		valid := ids(b, Place{})
		a, err := plugs(ctx, b, p.Machine, lab.CNIAsk{Command: "GC", Call: call, Valid: valid})
		if err != nil {
			return Observation{}, err
		}
		after, err := b.State(ctx, p.Machine)
		if err != nil {
			return Observation{}, err
		}
		came, went := changes(before, after)
		answer, who, err := callsOut(ctx, b, p)
		o := whether(a.Refusal.Errno == "" && len(came)+len(went) == 0 && answer.Answered, "GC, where %s are valid: %s; %d differences to the host before; %s answered %s: %t",
			strings.Join(valid, ", "), replied(a), len(came)+len(went), who, p, answer.Answered)
		return o.differences(p.Machine, append(came, went...)), err
	},
	Sabotage: []Sabotage{
		{Mode: "bridge", Doc: "containers are attached by other IDs than the ones that are told to be valid", Rewire: renamed},
		{Mode: "macvlan-private", Doc: "containers are attached by other IDs than the ones that are told to be valid", Rewire: renamed},
	},
})

// renamed attaches containers by other IDs.
func renamed(steps []topology.Step) []topology.Step {
	return calls(func(c *topology.CNI) { c.ID += "-other" })(steps)
}

var _ = registerPlugged(Spec{
	Feature: Feature{
		Name: "cni-gc-stale",
		Doc:  "Do plugins, when GC is called of them, clean up after a container that has gone without a DEL and is not among the valid ones, so that the host is as before and its addresses can be given again?",
	},
	Name: "a container's namespace is let go without a DEL; GC is called by a runtime that knows of the others only; the host is compared with before, and a container with those addresses is attached",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		host := firstHost(b)
		if err := room(ctx, b, host, network(b)); err != nil {
			return Observation{}, err
		}
		before, err := steady(ctx, b, host)
		if err != nil {
			return Observation{}, err
		}
		p, call, no, err := plugIn(ctx, b, nil)
		if no != nil || err != nil {
			return *cmp.Or(no, &Observation{}), err
		}
		c := attachedAt(b, p)
		valid := ids(b, p)
		if err := b.Apply(ctx, topology.Step{On: host, Remove: true, Space: &topology.Space{Name: p.Container}}); err != nil {
			return Observation{}, err
		}
		a, err := plugs(ctx, b, host, lab.CNIAsk{Command: "GC", Call: call, Valid: valid, Forgotten: true})
		if err != nil {
			return Observation{}, err
		}
		diff, err := restored(ctx, b, host, before)
		if err != nil {
			return Observation{}, err
		}
		again := "attached"
		heir := "heir" // who has the addresses now, by an ID that is not the stale one's
		_, err = b.attachAs(ctx, c, host, calls(func(call *topology.CNI) { call.ID = heir }))
		if refused(err) {
			again, err = err.Error(), nil
		}
		o := whether(a.Refusal.Errno == "" && len(diff) == 0 && again == "attached",
			"GC after %s had gone: %s; %d differences to the host before; a container with its addresses: %s", p, replied(a), len(diff), again)
		return o.differences(host, diff), err
	},
	Sabotage: append(flushed(flushing, "macvlan-private", "macvlan-bridge"),
		spared("there is neither an address manager nor a rule that keeps anything", keepless, "bridge")...),
})

// keepless has nothing of a container on the host: its addresses are told, and not masqueraded.
func keepless(steps []topology.Step) []topology.Step {
	return rewritten(`"host-local"`, `"static"`)(rewritten(`"ipMasq":true`, `"ipMasq":false`)(steps))
}

var _ = registerPlugged(Spec{
	Feature: Feature{Name: "cni-status-ready", Doc: "Does STATUS succeed where containers can be attached?"},
	Name:    "STATUS is called of the list by which containers are attached",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		call, _, err := unattached(ctx, b)
		if err != nil {
			return Observation{}, err
		}
		a, err := plugs(ctx, b, firstHost(b), lab.CNIAsk{Command: "STATUS", Call: call})
		return whether(a.Refusal.Errno == "", "STATUS: %s", replied(a)), err
	},
	Sabotage: append(spared("the address manager is not installed", rewritten(`"host-local"`, `"nowhere"`), "bridge", "ptp"),
		spared("the address manager is not installed", rewritten(`"static"`, `"nowhere"`), "macvlan-private")...),
})

var _ = registerPlugged(Spec{
	Feature: Feature{Name: "cni-status-unready", Doc: "Does STATUS fail where no container can be attached: no address is left, or the host's interface is not there?"},
	Name:    "STATUS is called of a list by which ADD is refused: the range of addresses is full, or the interface is not there",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		call, env, err := unattached(ctx, b)
		if err != nil {
			return Observation{}, err
		}
		full := addrOf(b, container(b), IPv4).String()
		because := ""
		call.List = remade(call.List, func(of object) {
			for _, plugin := range of["plugins"].([]any) {
				plugin := plugin.(object)
				if _, ok := plugin["master"]; ok {
					plugin["master"], because = "nowhere0", "the host has no interface nowhere0"
				}
				ipam, _ := plugin["ipam"].(object)
				ranges, _ := ipam["ranges"].([]any)
				if len(ranges) > 0 {
					only := ranges[0].([]any)[0].(object)
					only["rangeStart"], only["rangeEnd"] = full, full
					ipam["ranges"], because = []any{[]any{only}}, "the range has one address, "+full+", which "+container(b).String()+" has"
				}
			}
		})
		if because == "" {
			return notApplicable("the list names no interface, and no range of addresses"), nil
		}
		call.Args = ""
		host := firstHost(b)
		add, err := plugs(ctx, b, host, lab.CNIAsk{Command: "ADD", Call: call, Plugin: 1, Env: env})
		if err != nil || add.Refusal.Errno == "" {
			return Observation{}, errors.Join(err, fmt.Errorf("control: ADD, though %s: %s", because, replied(add)))
		}
		a, err := plugs(ctx, b, host, lab.CNIAsk{Command: "STATUS", Call: call})
		return whether(a.Refusal.Errno != "", "STATUS, though %s: %s", because, replied(a)).with(host, "control: ADD: %s", replied(add)), err
	},
	Sabotage: append(spared("the address manager is not installed", rewritten(`"host-local"`, `"nowhere"`), "bridge", "ptp"),
		spared("the address manager is not installed", rewritten(`"static"`, `"nowhere"`), "macvlan-private")...),
})

// errs registers the question whether a plugin refuses what is wrong by the code that the specification has for it.
func errs(name, doc, what string, code int, wrong func(call topology.CNI, q *lab.CNIAsk)) bool {
	return registerPlugged(Spec{
		Feature: Feature{Name: name, Doc: doc},
		Name:    "the first plugin of the list is called past the library: " + what,
		Run: func(ctx context.Context, b *Bench) (Observation, error) {
			call, env, err := unattached(ctx, b)
			if err != nil {
				return Observation{}, err
			}
			q := lab.CNIAsk{Command: "ADD", Call: call, Plugin: 1, Env: env}
			wrong(call, &q)
			a, err := plugs(ctx, b, firstHost(b), q)
			return whether(a.Refusal.Errno == fmt.Sprintf("CNI error %d", code), "ADD, %s: %s", what, replied(a)), err
		},
		Sabotage: append(spared("the plugin makes nothing, and says of everything that it is done", agreeing, "bridge", "macvlan-private"),
			spared("the plugin fails without a word", refusing, "bridge", "ptp")...),
	})
}

var _ = errs("cni-error-version", "Is a version of the specification that the plugin does not know refused by the code 1?",
	"the version is 99.0.0", 1, func(call topology.CNI, q *lab.CNIAsk) {
		q.Conf = conf(call, 1, func(of object) { of["cniVersion"] = "99.0.0" })
	})

var _ = errs("cni-error-environment", "Is a call without a variable that it needs refused by the code 4?",
	"CNI_CONTAINERID is missing", 4, func(_ topology.CNI, q *lab.CNIAsk) { q.Env["CNI_CONTAINERID"] = "" })

var _ = errs("cni-error-decode", "Is what is no JSON refused by the code 6?",
	"the configuration ends after its first character", 6, func(_ topology.CNI, q *lab.CNIAsk) { q.Conf = "{" })

var _ = errs("cni-error-config", "Is a configuration that lacks what every one has refused by the code 7?",
	"the configuration has no name", 7, func(call topology.CNI, q *lab.CNIAsk) {
		q.Conf = conf(call, 1, func(of object) { delete(of, "name") })
	})

var _ = registerPlugged(Spec{
	Feature: Feature{Name: "cni-chain-result", Doc: "Does each chained plugin that has nothing to add pass on the result of the one before it?"},
	Name:    "each plugin after the first is called with a result, and what it gives is compared with that",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		call, env, err := unattached(ctx, b)
		if err != nil {
			return Observation{}, err
		}
		n := len(chain(call.List))
		if n < 2 {
			return notApplicable("the list has one plugin"), nil
		}
		a := addrOf(b, container(b), IPv4)
		before := object{
			"cniVersion": cniVersionOf(call.List), "interfaces": []any{object{"name": call.Link, "sandbox": "/run/netns/none"}},
			"ips": []any{object{"interface": 0, "address": netip.PrefixFrom(a, 24).String()}}, "dns": object{"nameservers": []any{a.String()}},
		}
		o := works("each of the %d plugins after the first passed the result on", n-1)
		for i := 2; i <= n; i++ {
			of := chain(call.List)[i-1]["type"]
			q := lab.CNIAsk{Command: "ADD", Call: call, Plugin: i, Env: env, Conf: conf(call, i, func(of object) { of["prevResult"] = before })}
			got, err := plugs(ctx, b, firstHost(b), q)
			if err != nil {
				return Observation{}, err
			}
			for _, key := range []string{"interfaces", "ips", "dns"} {
				has := object{}
				_ = json.Unmarshal(orEmpty(got.Result), &has)
				if want, is := jsonOf(before[key]), jsonOf(has[key]); got.Refusal.Errno != "" || want != is {
					o.Status, o.Detail = blocked("").Status, fmt.Sprintf("plugin %d, %s: %s; %s were %s, and are %s", i, of, replied(got), key, want, is)
				}
			}
			o = o.with(firstHost(b), "plugin %d, %s: %s", i, of, got.Result)
		}
		return o, nil
	},
	Sabotage: spared("the chained plugin takes no notice of what was before it", rewritten(`"portmap"`, `"static"`), "bridge", "ptp"),
})

func cniVersionOf(list string) any {
	of := object{}
	_ = json.Unmarshal([]byte(list), &of)
	return of["cniVersion"]
}

func jsonOf(v any) string {
	text, _ := json.Marshal(v) // it came out of JSON
	return string(text)
}

var _ = registerPlugged(Spec{
	Feature: Feature{Name: "cni-chain-undo", Doc: "Where the last plugin of a chain fails, is nothing left after the DEL that follows?"},
	Name:    "a container is attached by the list and a plugin that cannot do what it is told, and the host is compared with before",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		host := firstHost(b)
		if err := room(ctx, b, host, network(b)); err != nil {
			return Observation{}, err
		}
		before, err := steady(ctx, b, host)
		if err != nil {
			return Observation{}, err
		}
		p, _, no, err := plugIn(ctx, b, chained(object{"type": "tuning", "sysctl": object{"net.ipv4.nothing_of_that_name": "1"}}))
		switch {
		case err != nil:
			return Observation{}, err
		case no == nil:
			return Observation{}, fmt.Errorf("control: %s was attached by a plugin that cannot do what it is told", p)
		case no.Status == notApplicable("").Status:
			return *no, nil
		}
		diff, err := restored(ctx, b, host, before)
		o := whether(len(diff) == 0, "%s; %d differences to the host before", no.Detail, len(diff))
		return o.differences(host, diff), err
	},
	Sabotage: flushed(unsettling, "bridge", "macvlan-private"),
})

// unsettling turns IPv6 off before plugins are called, as flushing does after it.
func unsettling(steps []topology.Step) []topology.Step {
	off := flushing(steps)
	return slices.Insert(slices.Clone(steps), 1, off[len(off)-1])
}

var _ = registerPlugged(Spec{
	Feature: Feature{Name: "cni-chain-tuning", Doc: "Does the plugin tuning at the end of the chain give the container's device the MTU and the setting that it is told?"},
	Name:    "a container is attached by the list and the plugin tuning, with an MTU of 1400 bytes and rp_filter 2, and looked at; it is checked, too",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		p, call, no, err := plugIn(ctx, b, chained(object{"type": "tuning", "mtu": 1400, "sysctl": object{"net.ipv4.conf.IFNAME.rp_filter": "2"}}))
		if no != nil || err != nil {
			return *cmp.Or(no, &Observation{}), err
		}
		s, err := b.State(ctx, p.Machine)
		if err != nil {
			return Observation{}, err
		}
		mtu, set := 0, s.Spaces[p.Container].Sysctls["net/ipv4/conf/"+call.Link+"/rp_filter"]
		for _, l := range s.Spaces[p.Container].Links {
			if l.Name == call.Link {
				mtu = l.MTU
			}
		}
		a, err := plugs(ctx, b, p.Machine, lab.CNIAsk{Command: "CHECK", Call: call})
		return whether(mtu == 1400 && set == "2" && a.Refusal.Errno == "", "%s of %s has an MTU of %d bytes and rp_filter %s; CHECK: %s", call.Link, p, mtu, set, replied(a)), err
	},
	Sabotage: spared("the plugin is told nothing", rewritten(`"mtu":1400,`, ``), "bridge", "macvlan-private"),
})

// pings tells whether a place answers another's echo.
func pings(ctx context.Context, b *Bench, from, to Place) (lab.Answer, error) {
	return b.Ask(ctx, from, lab.Ask{Proto: "icmp", To: netip.AddrPortFrom(addrOf(b, to, IPv4), 0), Wait: hopeful})
}

var _ = registerPlugged(Spec{
	Feature: Feature{
		Name: "cni-chain-firewall",
		Doc:  "Does the plugin firewall with the ingressPolicy same-bridge, in the chains of two networks, keep their containers apart, and let those of one network reach each other?",
	},
	Name:     "in a lab of its own, containers of two networks are attached, of one by the list and the plugin firewall, and one asks the other; and again when both networks have the plugin",
	Programs: map[string]string{"iptables": "iptables"},
	Run: func(ctx context.Context, b *Bench) (o Observation, err error) {
		s, err := b.devices(ctx, firstHost(b))
		if err != nil {
			return Observation{}, err
		}
		if !slices.ContainsFunc(s.Spaces[""].Links, func(l lab.Link) bool { return l.Kind == "bridge" }) {
			return notApplicable("the host has no bridge"), nil
		}
		own, err := scratch(ctx, b, 1) // the rules of a bridge stay
		if err != nil {
			return Observation{}, err
		}
		defer func() { err = errors.Join(err, own.Close()) }()
		policy := chained(object{"type": "firewall", "backend": "iptables", "ingressPolicy": "same-bridge"})
		var places []Place
		for i, of := range []struct {
			network string
			change  func([]topology.Step) []topology.Step
		}{{network(own), policy}, {own.plan.Networks[1].Name, nil}, {own.plan.Networks[1].Name, policy}} {
			if i == 2 {
				first, err := pings(ctx, own, places[1], places[0])
				if err != nil || !first.Answered {
					return Observation{}, errors.Join(err, fmt.Errorf("control: %s did not answer %s when one network alone had the plugin", places[0], places[1]))
				}
				o = o.with(places[1].String(), "control: %s answered when one network alone had the plugin, after %s", places[0], first.RTT.Round(time.Microsecond))
			}
			c, err := another(own, firstHost(own), of.network, i+4)
			if err != nil {
				return Observation{}, err
			}
			p, _, no, err := plugInAs(ctx, own, c, of.change)
			if no != nil || err != nil {
				return *cmp.Or(no, &Observation{}), err
			}
			places = append(places, p)
			if err := own.settled(ctx, p.Machine); err != nil {
				return Observation{}, err
			}
		}
		out, err := pings(ctx, own, places[1], places[0])
		if err != nil {
			return Observation{}, err
		}
		in, err := pings(ctx, own, container(own), places[0])
		saw := whether(!out.Answered && in.Answered, "both networks had the plugin: %s was answered by %s of the other one: %t; by its sibling %s: %t", places[0], places[1], out.Answered, container(own), in.Answered)
		saw.Evidence = o.Evidence
		return saw, err
	},
	Sabotage: spared("the policy is open", rewritten("same-bridge", "open"), "bridge"),
})

// plugged changes what a list says of its first plugin, and asks no capability of it: the addresses are somebody else's.
func plugged(change func(object)) func([]topology.Step) []topology.Step {
	return calls(func(c *topology.CNI) {
		c.List = remade(c.List, func(of object) { change(of["plugins"].([]any)[0].(object)) })
		c.Args = remade(c.Args, func(of object) { delete(of, "ips") })
	})
}

// leasedBy attaches a container by the list with the address manager dhcp, on whose segment a server leases addresses. Where plugins refuse, or there
// can be no lease, no is what to observe.
func leasedBy(ctx context.Context, b *Bench) (l *leasing, who client, no *Observation, err error) {
	if o := unstationed(b); o != nil {
		return nil, who, o, nil
	}
	if l, err = leases(ctx, b, IPv4, 4, time.Minute); err != nil {
		return nil, who, nil, err
	}
	recorded, err := b.Record(ctx)
	if err != nil {
		return nil, who, nil, err
	}
	p, call, no, err := plugIn(ctx, b, plugged(func(plugin object) { plugin["ipam"] = object{"type": "dhcp"} }))
	if err != nil || no != nil && no.Status != reports.Blocked {
		return nil, who, no, err
	}
	if no != nil { // that nobody answers is another thing
		answers, err := recorded(ctx, func(p lab.Packet) bool {
			d := carriedIn(p).DHCP
			return d != nil && d.Reply && p.Machine == l.host
		})
		if err == nil && len(answers) == 0 {
			err = fmt.Errorf("%s, and no answer of the server came to %s", no.Detail, l.host)
		}
		if err != nil {
			return nil, who, nil, err
		}
		no.Evidence = append(no.Evidence, seen(answers[len(answers)-1]))
		return nil, who, no, nil
	}
	who.Place = p
	if who.addr, err = l.addrOf(ctx, p, call.Link); err != nil {
		return nil, who, nil, err
	}
	if is, err := l.leased(ctx, who); err != nil || !is {
		return nil, who, &Observation{Status: "mixed", Detail: fmt.Sprintf("%s was attached and has %s of the segment, which the server has leased to nobody", p, who.addr)}, err
	}
	return l, who, nil, nil
}

// leased tells whether a client's address is leased, to whomever.
func (l *leasing) leased(ctx context.Context, who client) (bool, error) {
	s, err := l.state(ctx)
	return slices.ContainsFunc(s.Leases, func(of lab.DHCPLease) bool { return of.Addr == who.addr }), err
}

// selfMade gives containers an address by the list itself, and not by a server.
var selfMade = rewritten(`"ipam":{"type":"dhcp"}`, `"ipam":{"addresses":[{"address":"198.18.1.99/16"}],"type":"static"}`)

var _ = registerPlugged(Spec{
	Feature: Feature{Name: "cni-ipam-dhcp", Doc: "Does a container have an address that a DHCP server of the segment leases it, by the address manager dhcp and its daemon, and is it reached there?"},
	Name:    "a server on the segment gets addresses to lease; a container is attached by the list with the address manager dhcp, and an external machine asks it by the address that it has",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		l, who, no, err := leasedBy(ctx, b)
		if no != nil || err != nil {
			return *cmp.Or(no, &Observation{}), err
		}
		return l.reached(ctx, who)
	},
	Sabotage: spared("the addresses are the list's own", selfMade, "macvlan-private", "macvlan-bridge"),
})

var _ = registerPlugged(Spec{
	Feature: Feature{Name: "cni-ipam-dhcp-release", Doc: "Does DEL give back what the address manager dhcp was leased?"},
	Name:    "a server on the segment gets addresses to lease; a container is attached by the list with the address manager dhcp, and detached, and the server's leases are read",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		l, who, no, err := leasedBy(ctx, b)
		if no != nil && no.Status == reports.Blocked {
			o := notApplicable("%s", no.Detail)
			no = &o
		}
		if no != nil || err != nil {
			return *cmp.Or(no, &Observation{}), err
		}
		recorded, err := b.Record(ctx)
		if err != nil {
			return Observation{}, err
		}
		if err := b.Detach(ctx, who.Place); err != nil {
			return Observation{}, err
		}
		var released []lab.Packet
		if _, err := eventually(ctx, patience, func() (bool, error) {
			released, err = recorded(ctx, func(p lab.Packet) bool {
				d := carriedIn(p).DHCP
				return d != nil && d.Kind == "release" && p.Machine == l.at.Machine
			})
			return len(released) > 0, err
		}); err != nil {
			return Observation{}, err
		}
		alive, err := l.control(ctx) // answered by the same socket, later
		if err != nil {
			return Observation{}, err
		}
		still, err := l.leased(ctx, who)
		o := whether(!still, "%s, which %s leased to %s, is still leased after DEL: %t; of a message that releases it %d frames were at %s", who.addr, l.at, who, still, len(released), l.at)
		for _, p := range released {
			o.Evidence = append(o.Evidence, seen(p))
		}
		o.Evidence = append(o.Evidence, alive)
		return o, err
	},
	Sabotage: spared("the addresses are the list's own", selfMade, "macvlan-private", "macvlan-bridge"),
})

// own is a list of one plugin, which is asked no capability.
func own(plugin object) func([]topology.Step) []topology.Step {
	return calls(func(c *topology.CNI) {
		c.List, c.Args = remade(c.List, func(of object) { of["plugins"] = []object{plugin} }), ""
	})
}

// insisted asks until there is an answer, or for so long that there would be one: devices that are new may have to wait for the kernel.
func insisted(ctx context.Context, b *Bench, from Place, a lab.Ask) (last lab.Answer, err error) {
	_, err = eventually(ctx, patience, func() (bool, error) {
		last, err = b.Ask(ctx, from, a)
		return last.Answered, err
	})
	return last, err
}

// lone are addresses of a link between a container and one other place, which are nobody's else in a lab (RFC 3927).
var lone = struct{ other, container netip.Prefix }{netip.MustParsePrefix("169.254.77.1/30"), netip.MustParsePrefix("169.254.77.2/30")}

// static is an address manager's configuration, of one address.
func static(a netip.Prefix) object {
	return object{"type": "static", "addresses": []object{{"address": a.String()}}}
}

var _ = registerPlugged(Spec{
	Feature: Feature{Name: "cni-host-device", Doc: "Does the plugin host-device give a container a device of the host, and is that the host's again, by its name, after DEL?"},
	Name:    "the host gets a pair; a container is attached by the plugin host-device with one end of it, is asked through the other end, and is detached",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		const given, end = "given", "given-end"
		host := firstHost(b)
		if err := b.Apply(ctx,
			topology.Step{On: host, Link: &topology.Link{Name: given, Kind: "veth", PeerName: end}},
			topology.Step{On: host, Set: &topology.LinkSet{Name: end, State: "up"}},
			topology.Step{On: host, Addr: &topology.Addr{Link: end, Prefix: lone.other}},
		); err != nil {
			return Observation{}, err
		}
		p, call, no, err := plugIn(ctx, b, own(object{"type": "host-device", "device": given, "ipam": static(lone.container)}))
		if no != nil || err != nil {
			return *cmp.Or(no, &Observation{}), err
		}
		has := func() (bool, error) {
			s, err := b.devices(ctx, host)
			return slices.ContainsFunc(s.Spaces[""].Links, func(l lab.Link) bool { return l.Name == given }), err
		}
		still, err := has()
		if err != nil {
			return Observation{}, err
		}
		a, err := insisted(ctx, b, Place{Machine: host}, lab.Ask{Proto: "icmp", To: netip.AddrPortFrom(lone.container.Addr(), 0), Wait: hopeful})
		if err != nil {
			return Observation{}, err
		}
		if err := b.Detach(ctx, p); err != nil {
			return Observation{}, err
		}
		back, err := has()
		return whether(a.Answered && !still && back, "%s of %s was to be %s of %s: the host still had it: %t; %s asked by the other end, %s: answered: %t; after DEL the host has %s: %t",
			given, host, call.Link, p, still, host, end, a.Answered, given, back), err
	},
	Sabotage: spared("the plugin is told of another device", rewritten(`"device":"given"`, `"device":"none"`), "bridge", "ptp", "macvlan-private"),
})

var _ = registerPlugged(Spec{
	Feature: Feature{Name: "cni-vlan", Doc: "Does the plugin vlan give a container an 802.1Q device on the host's interface, by which it and a station in that VLAN reach each other, until DEL?"},
	Name:    "a station of the segment gets a device of VLAN 77; a container is attached by the plugin vlan with that on the host's interface, the station asks it, and again when it is detached",
	Needs:   []modes.Kernel{modes.VLAN},
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		const vid = 77
		if uplink(b).Trunk != "" {
			return notApplicable("the host's interface is an 802.1Q device, and its switch carries no VLAN that the host has none for already"), nil
		}
		at := station(b)
		nic := wire(b, at)
		if err := b.Apply(ctx,
			topology.Step{On: at.Machine, Link: &topology.Link{Name: "tagged", Kind: "vlan", Parent: nic.Name, VID: vid, Up: true}},
			topology.Step{On: at.Machine, Addr: &topology.Addr{Link: "tagged", Prefix: lone.other}},
		); err != nil {
			return Observation{}, err
		}
		recorded, err := b.Record(ctx)
		if err != nil {
			return Observation{}, err
		}
		p, call, no, err := plugIn(ctx, b, own(object{"type": "vlan", "master": uplink(b).Name, "vlanId": vid, "ipam": static(lone.container)}))
		if no != nil || err != nil {
			return *cmp.Or(no, &Observation{}), err
		}
		ask := lab.Ask{Proto: "icmp", To: netip.AddrPortFrom(lone.container.Addr(), 0), Token: b.newToken(), Wait: hopeful}
		first, err := insisted(ctx, b, at, ask)
		if err != nil {
			return Observation{}, err
		}
		packets, err := recorded(ctx, func(p lab.Packet) bool {
			return p.Machine == at.Machine && p.Device == nic.Name && !p.Outgoing && p.VLAN == vid && p.Src.Addr() == lone.container.Addr()
		})
		if err != nil {
			return Observation{}, err
		}
		if err := b.Detach(ctx, p); err != nil {
			return Observation{}, err
		}
		ask.Token = ""
		then, err := b.Ask(ctx, at, ask)
		o := whether(first.Answered && len(packets) > 0 && !then.Answered, "%s asked %s of %s: answered: %t, in %d packets of VLAN %d; after DEL: answered: %t, %s",
			at, call.Link, p, first.Answered, len(packets), vid, then.Answered, then.Refusal.Text)
		if len(packets) > 0 {
			o.Evidence = append(o.Evidence, seen(packets[0]))
		}
		return o, err
	},
	Sabotage: spared("the plugin is told of another VLAN", rewritten(`"vlanId":77`, `"vlanId":78`), "bridge", "macvlan-private"),
})

var _ = registerPlugged(Spec{
	Feature: Feature{Name: "cni-chain-sbr", Doc: "Does the plugin sbr at the end of the chain lead what a container sends from its address by a table of that address's own, and nothing else by its device?"},
	Name:    "a container is attached by the list and the plugin sbr, and asks an external machine from its address, and from none, as one did before that the list alone attached",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		own, target := container(b), external(b)
		ask := lab.Ask{Proto: "icmp", To: netip.AddrPortFrom(addrOf(b, target, IPv4), 0), Wait: hopeful}
		control, err := insisted(ctx, b, own, ask)
		if err != nil || !control.Answered {
			return Observation{}, errors.Join(err, fmt.Errorf("control: %s was not answered by %s", own, target))
		}
		p, _, no, err := plugIn(ctx, b, chained(object{"type": "sbr"}))
		if no != nil || err != nil {
			return *cmp.Or(no, &Observation{}), err
		}
		if err := b.settled(ctx, p.Machine); err != nil {
			return Observation{}, err
		}
		unbound, err := b.Ask(ctx, p, ask)
		if err != nil {
			return Observation{}, err
		}
		ask.From = netip.AddrPortFrom(addrOf(b, p, IPv4), 0)
		bound, err := insisted(ctx, b, p, ask)
		return whether(bound.Answered && !unbound.Answered && unbound.Refusal.Errno == "ENETUNREACH", "%s asked %s from its address: answered: %t; from none: answered: %t, %s",
			p, target, bound.Answered, unbound.Answered, unbound.Refusal.Text).with(own.String(), "control: %s answered after %s", target, control.RTT.Round(time.Microsecond)), err
	},
	Sabotage: spared("the plugin is told of a table that has no routes", rewritten(`{"type":"sbr"}`, `{"table":77,"type":"sbr"}`), "bridge", "ptp", "macvlan-private"),
})

var _ = registerPlugged(Spec{
	Feature: Feature{Name: "cni-runtime-ips", Doc: "Does a container have the addresses that its runtime asked for, by the capability ips?"},
	Name:    "a container is attached with addresses asked for, and its device looked at",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		p, call, no, err := plugIn(ctx, b, nil)
		if no != nil || err != nil {
			return *cmp.Or(no, &Observation{}), err
		}
		s, err := b.devices(ctx, p.Machine)
		var has []string
		for _, a := range s.Spaces[p.Container].Addrs {
			if a.Link == call.Link {
				has = append(has, a.Prefix.Addr().String())
			}
		}
		asked := addrOf(b, p, IPv4).String()
		return whether(slices.Contains(has, asked), "%s was asked for, and %s of %s has %s", asked, call.Link, p, strings.Join(has, ", ")), err
	},
	Sabotage: spared("the list does not have the capability", rewritten(`"ips":true`, `"ips":false`), "bridge", "ptp", "macvlan-private"),
})

// capable tells whether a plugin of a list, as the mode has it, has a capability.
func capable(b *Bench, capability string) bool {
	p := container(b)
	list := callOf(b.mode.Attach(b.plan, b.plan.Machine(p.Machine), attachedAt(b, p))).List
	return slices.ContainsFunc(chain(list), func(plugin object) bool {
		has, _ := plugin["capabilities"].(object)
		is, _ := has[capability].(bool)
		return is
	})
}

var _ = registerPlugged(Spec{
	Feature: Feature{Name: "cni-runtime-mac", Doc: "Does a container's device have the MAC address that its runtime asked for, by the capability mac?"},
	Name:    "a container is attached with a MAC address asked for, and its device looked at",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		if !capable(b, "mac") {
			return notApplicable("no plugin of the list has the capability mac"), nil
		}
		p, call, no, err := plugIn(ctx, b, nil)
		if no != nil || err != nil {
			return *cmp.Or(no, &Observation{}), err
		}
		s, err := b.devices(ctx, p.Machine)
		has, asked := "none", attachedAt(b, p).MAC.String()
		for _, l := range s.Spaces[p.Container].Links {
			if l.Name == call.Link {
				has = l.MAC.String()
			}
		}
		return whether(has == asked, "%s was asked for, and %s of %s has %s", asked, call.Link, p, has), err
	},
	Sabotage: spared("the list does not have the capability", rewritten(`"mac":true`, `"mac":false`), "bridge", "macvlan-private"),
})

var _ = registerPlugged(Spec{
	Feature: Feature{Name: "cni-runtime-ports", Doc: "Does a port that a runtime asks for in the ADD that attaches lead to the container, and no longer after DEL?"},
	Name:    "a container is attached with a port asked for; an external machine asks the host's port, and again when the container is detached",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		with := mapping(b.mode, b.plan, http)
		if with == nil {
			return mapsNoPorts(), nil
		}
		p, _, no, err := plugIn(ctx, b, with)
		if no != nil || err != nil {
			return *cmp.Or(no, &Observation{}), err
		}
		if err := b.settled(ctx, p.Machine); err != nil {
			return Observation{}, err
		}
		if l, err := b.Listen(ctx, p, lab.Listen{Proto: "tcp", Addr: netip.AddrPortFrom(unspecified(IPv4), http.Container)}); err != nil || l.Refusal.Errno != "" {
			return Observation{}, errors.Join(err, errors.New(l.Refusal.Text))
		}
		ask := lab.Ask{Proto: "tcp", To: netip.AddrPortFrom(addrOf(b, Place{Machine: p.Machine}, IPv4), http.Host), Wait: hopeful}
		first, err := b.Ask(ctx, external(b), ask)
		if err != nil {
			return Observation{}, err
		}
		if err := b.Detach(ctx, p); err != nil {
			return Observation{}, err
		}
		then, err := b.Ask(ctx, external(b), ask)
		return whether(first.Answered && !then.Answered, "%s asked %s, which was to lead to %s: answered %t; after DEL: answered %t, %s",
			external(b), ask.To, p, first.Answered, then.Answered, then.Refusal.Text), err
	},
	Sabotage: spared("the list does not have the capability", rewritten(`"portMappings":true`, `"portMappings":false`), "bridge", "ptp"),
})

var _ = registerPlugged(Spec{
	Feature: Feature{Name: "cni-runtime-bandwidth", Doc: "Is the rate that a runtime asks for in the ADD that attaches kept by a queue of the container, and is the queue gone after DEL?"},
	Name:    "a container is attached with a rate asked for, and the host's queues are looked at, before and after it is detached",
	Run: func(ctx context.Context, b *Bench) (Observation, error) {
		if b.mode.Rate == nil {
			return shared(), nil
		}
		host := firstHost(b)
		before, err := b.State(ctx, host)
		if err != nil {
			return Observation{}, err
		}
		p, _, no, err := plugIn(ctx, b, asRuntimes(b.mode.Rate(b.plan, b.plan.Machine(host), attachedAt(b, container(b)), modes.Rate{Bits: limit})))
		if no != nil || err != nil {
			return *cmp.Or(no, &Observation{}), err
		}
		during, err := b.State(ctx, host)
		if err != nil {
			return Observation{}, err
		}
		queues := func(s lab.State) (all []string) {
			for _, q := range s.Spaces[""].Qdiscs {
				if strings.Contains(q, "tbf") && !slices.Contains(before.Spaces[""].Qdiscs, q) {
					all = append(all, q)
				}
			}
			return all
		}
		if err := b.Detach(ctx, p); err != nil {
			return Observation{}, err
		}
		after, err := b.State(ctx, host)
		o := whether(len(queues(during)) > 0 && len(queues(after)) == 0, "%s was asked for of what %s gets: %d token buckets came with it, and %d are left", limit, p, len(queues(during)), len(queues(after)))
		for _, q := range queues(during) {
			o = o.with(host, "%s", q)
		}
		return o, err
	},
	Sabotage: spared("the list does not have the capability", rewritten(`"bandwidth":true`, `"bandwidth":false`), "bridge", "ptp"),
})
