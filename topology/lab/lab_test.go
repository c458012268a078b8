package lab

import (
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/modebench/modebench/topology"
)

// ending is the line to a machine that ends before anybody calls.
type ending struct{ cause error }

func (e ending) Read([]byte) (int, error)    { return 0, e.cause }
func (e ending) Write(p []byte) (int, error) { return len(p), nil }
func (e ending) Close() error                { return nil }

var _ io.ReadWriteCloser = ending{}

// Whoever calls a machine that has ended is told how it did, the first as well as those who come later.
func TestCallsOfAMachineThatEnded(t *testing.T) {
	l := &Lab{plan: &topology.Plan{}, hosts: map[string]*client{"h1": newClient(ending{errors.New("the machine ended")})}}
	for range 3 {
		if err := l.Do(t.Context(), "h1", "Host.State", Nothing{}, &Nothing{}); err == nil || !strings.Contains(err.Error(), "h1: ") || !strings.Contains(err.Error(), "the machine ended") {
			t.Errorf("%v: want how the machine ended", err)
		}
	}
}
