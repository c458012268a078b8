package suites

import (
	"testing"
	"time"
)

// TestLead has a clock that may be this one's as this one's, and narrows what is known of another.
func TestLead(t *testing.T) {
	const ms = time.Millisecond
	own := lead{-3 * ms, 2 * ms}
	other := lead{395 * ms, 405 * ms}
	for name, c := range map[string]struct {
		lead
		want time.Duration
	}{
		"nothing known":       {lead{}, 0},
		"own":                 {own, 0},
		"ahead":               {other, 400 * ms},
		"behind":              {lead{-80 * ms, -40 * ms}, -60 * ms},
		"narrowed from below": {lead{399 * ms, 420 * ms}.and(other), 402 * ms},
		"narrowed from above": {lead{300 * ms, 397 * ms}.and(other), 396 * ms},
		"set meanwhile":       {lead{-60 * ms, -50 * ms}.and(other), -55 * ms},
		"set by a little":     {lead{ms, 9 * ms}.and(own), 3 * ms / 2},
	} {
		if got := c.likely(); got != c.want {
			t.Errorf("%s: %v: want %v", name, got, c.want)
		}
	}
}
