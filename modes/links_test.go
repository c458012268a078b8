package modes_test

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/modebench/modebench/modes"
	"github.com/modebench/modebench/topology"
)

// The variables of the example in Docker Docs, engine/network/links.md, "Environment variables", with a port of both protocols and
// values of the source.
func TestLinkEnvironment(t *testing.T) {
	source := topology.Container{Host: "h1", Name: "db", Private4: netip.MustParsePrefix("172.17.0.5/16")}
	for name, c := range map[string]struct {
		link modes.Link
		want []string
	}{
		"documented": {
			modes.Link{Alias: "db", Source: source, Exposed: []modes.Port{{Proto: "tcp", Container: 5432}}},
			[]string{
				"DB_NAME=/h1-web2/db",
				"DB_PORT=tcp://172.17.0.5:5432",
				"DB_PORT_5432_TCP=tcp://172.17.0.5:5432", "DB_PORT_5432_TCP_ADDR=172.17.0.5", "DB_PORT_5432_TCP_PORT=5432", "DB_PORT_5432_TCP_PROTO=tcp",
			},
		},
		"lowest port, tcp first": {
			modes.Link{Alias: "web-db", Source: source, Exposed: []modes.Port{{Proto: "udp", Container: 80}, {Proto: "tcp", Container: 443}, {Proto: "tcp", Container: 80}}},
			[]string{
				"WEB_DB_NAME=/h1-web2/web-db",
				"WEB_DB_PORT=tcp://172.17.0.5:80",
				"WEB_DB_PORT_80_TCP=tcp://172.17.0.5:80", "WEB_DB_PORT_80_TCP_ADDR=172.17.0.5", "WEB_DB_PORT_80_TCP_PORT=80", "WEB_DB_PORT_80_TCP_PROTO=tcp",
				"WEB_DB_PORT_80_UDP=udp://172.17.0.5:80", "WEB_DB_PORT_80_UDP_ADDR=172.17.0.5", "WEB_DB_PORT_80_UDP_PORT=80", "WEB_DB_PORT_80_UDP_PROTO=udp",
				"WEB_DB_PORT_443_TCP=tcp://172.17.0.5:443", "WEB_DB_PORT_443_TCP_ADDR=172.17.0.5", "WEB_DB_PORT_443_TCP_PORT=443", "WEB_DB_PORT_443_TCP_PROTO=tcp",
			},
		},
		"values, but not those of the image": {
			modes.Link{Alias: "db", Source: source, Env: []string{"PASSWORD=a=b", "PATH=/bin", "HOME=/root"}},
			[]string{"DB_NAME=/h1-web2/db", "DB_ENV_PASSWORD=a=b"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			if d := cmp.Diff(c.want, c.link.Environment(topology.Container{Host: "h1", Name: "web2"})); d != "" {
				t.Error(d)
			}
		})
	}
}
