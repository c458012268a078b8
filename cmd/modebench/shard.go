package main

import (
	"fmt"

	"github.com/modebench/modebench/modes"
	"github.com/modebench/modebench/suites"
)

// shard is one of so many parts of a run, counted from 1; zero: the run is whole.
type shard struct{ index, of int }

// parseShard reads I/N.
func parseShard(text string) (s shard, err error) {
	if text == "" {
		return s, nil
	}
	var rest string
	if n, _ := fmt.Sscanf(text+" .", "%d/%d %s", &s.index, &s.of, &rest); n != 3 || rest != "." || s.of < 1 || s.index < 1 || s.index > s.of {
		return s, input("--shard %q: want I/N, such as 1/4, with I from 1 to N", text)
	}
	return s, nil
}

// parts is into how many shards a run can be divided: what is measured stays together, since only what was measured in one run
// is compared, and what is observed is divided by modes.
func (o options) parts(ms []modes.Mode) int {
	n := 0
	if o.observes() {
		n = len(ms)
	}
	if o.measures() {
		n++
	}
	return n
}

// share is what the shard has of a run: all modes and the suites that measure, or some modes and those that observe. Of one shard
// it is the whole run. It follows from the flags alone, so that every machine divides alike.
func (o options) share(ms []modes.Mode) (mine []modes.Mode, of []string) {
	index, n := o.shard.index-1, o.shard.of
	if n < 2 {
		return ms, o.suites
	}
	if o.measures() {
		if index == 0 {
			return ms, measured(o.suites)
		}
		index, n = index-1, n-1
	}
	for i, m := range ms {
		if i%n == index {
			mine = append(mine, m)
		}
	}
	return mine, observed(o.suites)
}

// elsewhere are the cells of a run that other shards of it have.
func (o options) elsewhere(ms []modes.Mode) (out []string) {
	mine, of := o.share(ms)
	own := map[suites.Cell]bool{}
	for _, c := range (&suites.Run{Modes: mine, Suites: of, Features: o.features}).Cells() {
		own[c] = true
	}
	for _, c := range (&suites.Run{Modes: ms, Suites: o.suites, Features: o.features}).Cells() {
		if own[c] {
			continue
		}
		if len(o.kernels) < 2 {
			out = append(out, cell{c, ""}.String())
			continue
		}
		for _, name := range o.kernels {
			out = append(out, cell{c, name}.String())
		}
	}
	return out
}
