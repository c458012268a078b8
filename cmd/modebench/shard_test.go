package main

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/modebench/modebench/modes"
	"github.com/modebench/modebench/suites"
)

// TestShards divides runs: together the shards have every cell of the whole once, none has nothing, and what one does not have
// is what it says is elsewhere.
func TestShards(t *testing.T) {
	t.Parallel()
	for _, o := range []options{
		{suites: suites.Names()},
		{suites: observed(suites.Names())},
		{suites: measured(suites.Names())},
		{suites: suites.Names(), features: []string{"tcp-rr", "same-host-ipv4"}},
		{suites: suites.Names(), features: []string{"same-host-ipv4"}, kernels: []string{"host", "uml"}},
	} {
		ms := modes.All()
		whole := (&suites.Run{Modes: ms, Suites: o.suites, Features: o.features}).Cells()
		for _, n := range slices.Compact([]int{1, min(2, o.parts(ms)), min(5, o.parts(ms)), o.parts(ms)}) {
			times := map[suites.Cell]int{}
			for i := 1; i <= n; i++ {
				o.shard = shard{i, n}
				mine, of := o.share(ms)
				cells := (&suites.Run{Modes: mine, Suites: of, Features: o.features}).Cells()
				if len(cells) == 0 {
					t.Errorf("%v of %v: shard %d/%d has nothing", o.features, o.suites, i, n)
				}
				for _, c := range cells {
					times[c]++
				}
				if got, want := len(o.elsewhere(ms)), (len(whole)-len(cells))*max(1, len(o.kernels)); got != want {
					t.Errorf("%v of %v: shard %d/%d: %d cells elsewhere: want %d", o.features, o.suites, i, n, got, want)
				}
			}
			for _, c := range whole {
				if times[c] != 1 {
					t.Fatalf("%v of %v in %d: %s is in %d shards", o.features, o.suites, n, c, times[c])
				}
			}
		}
	}
}

func TestParseShard(t *testing.T) {
	if s, err := parseShard("2/3"); err != nil || s != (shard{2, 3}) {
		t.Errorf("2/3: %v, %v", s, err)
	}
	for _, bad := range []string{"0/3", "4/3", "1", "1/", "/2", "1/2/3", "1/2 x", "-1/2", "1/0", "a/b"} {
		if s, err := parseShard(bad); err == nil {
			t.Errorf("%s: %v: want an error", bad, fmt.Sprint(s))
		}
	}
}

// TestJobOutlastsItsSoaks holds how long a job may take against how long its modes soak, one after another.
func TestJobOutlastsItsSoaks(t *testing.T) {
	for _, j := range []job{{}, {Modes: []string{"ptp"}, Soak: time.Hour}, {Modes: []string{"ptp", "bridge"}, Soak: 24 * time.Hour}} {
		if soaks := time.Duration(len(j.Modes)) * j.Soak; j.bound() < soaks+time.Hour/2 {
			t.Errorf("%d modes that soak for %s each may take %s: want more", len(j.Modes), j.Soak, j.bound())
		}
	}
}
