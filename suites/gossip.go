package suites

import (
	"bytes"
	"context"
	"slices"
	"strings"

	"github.com/modebench/modebench/topology"
	"github.com/modebench/modebench/topology/lab"
)

// spread tells whether every other host that is a member of a cluster has entries of all endpoints of the host's containers.
func (b *Bench) spread(ctx context.Context, host string) (bool, error) {
	var endpoints []topology.Endpoint
	b.mu.Lock()
	for place, a := range b.attached {
		if machine, _, _ := strings.Cut(place, "/"); machine != host {
			continue
		}
		for _, s := range attaching(b, a.container, host) {
			if s.Endpoint != nil {
				endpoints = append(endpoints, *s.Endpoint)
			}
		}
	}
	b.mu.Unlock()
	if len(endpoints) == 0 {
		return true, nil
	}
	for _, h := range b.plan.Hosts() {
		if h.Name == host {
			continue
		}
		var s lab.GossipState
		if err := b.Do(ctx, h.Name, "Gossip.State", lab.Nothing{}, &s); err != nil {
			return false, err
		}
		for _, e := range endpoints {
			if s.Running && !has(s, e) {
				return false, nil
			}
		}
	}
	return true, nil
}

// has tells whether a member has the entries of an endpoint where it is.
func has(s lab.GossipState, e topology.Endpoint) bool {
	return slices.ContainsFunc(s.Endpoints, func(got lab.GossipEndpoint) bool {
		return got.Installed && got.VNI == e.VNI && bytes.Equal(got.MAC, e.MAC) && got.VTEP == e.VTEP
	})
}
