package topology

import (
	"fmt"
	yaml "github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/parser"
	"testing"
)

func TestZZ(t *testing.T) {
	for _, s := range []string{
		"name: a\nnetworks: {b: {nic: 5, v4: 10.0.0/8}}\n", "name: a\nsegments: {a: {mtu: 1500.5}}\n", "name: a\nsegments: {a: {mtu: '1500'}}\n", "name: true\nsegments: []\n", "name: a\nnome: b\n", "name: a\nname: b\n", "a: [\n", "name: &a b\nfabric: *a", "", "---\n", "# x\n", "name: a\n---\nname: b\n", "\tname: a", "name: a\nhosts:\n  h1:\n    nics: {eth0: {segment: x, rate: -4}}\n"} {
		var tp Topology
		err := yaml.UnmarshalWithOptions([]byte(s), &tp, yaml.Strict())
		fmt.Printf("== %q\n%T %v\n%+v\n", s, err, err, tp)
		f, err := parser.ParseBytes([]byte(s), 0)
		if err == nil {
			fmt.Println("docs", len(f.Docs))
			for _, d := range f.Docs {
				fmt.Printf("  %T\n", d.Body)
			}
		} else {
			fmt.Printf("parse: %T %v\n", err, err)
		}
	}
}
