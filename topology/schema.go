package topology

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"reflect"

	"github.com/google/jsonschema-go/jsonschema"
)

// JSONSchema is the JSON Schema (draft 2020-12) of a topology file, made from the types. It says less than Read, which
// also checks what lies between two places of a file.
func JSONSchema() ([]byte, error) {
	rate := &jsonschema.Schema{
		Description: "bits a second, such as 100Mbit/s; a number without a unit is in bit/s",
		OneOf: []*jsonschema.Schema{
			{Type: "string", Pattern: rateForm.String()},
			{Type: "integer", Minimum: jsonschema.Ptr(0.0)},
		},
	}
	types := map[reflect.Type]*jsonschema.Schema{
		reflect.TypeFor[netip.Prefix](): {Type: "string", Pattern: "^[0-9a-f.:]+/[0-9]+$"},
		reflect.TypeFor[BitRate]():      rate,
	}
	fabric, err := jsonschema.For[Fabric](&jsonschema.ForOptions{TypeSchemas: types})
	if err != nil {
		return nil, fmt.Errorf("schema of a fabric: %w", err)
	}
	for key, words := range fabricWords {
		for _, w := range words {
			fabric.Properties[key].Enum = append(fabric.Properties[key].Enum, w)
		}
	}
	types[reflect.TypeFor[Fabric]()] = &jsonschema.Schema{
		Description: "its name, such as port-security or nic-512, or a mapping",
		OneOf:       []*jsonschema.Schema{{Type: "string", Pattern: fabricForm.String()}, fabric},
	}
	nic, err := jsonschema.For[NIC](&jsonschema.ForOptions{TypeSchemas: types})
	if err != nil {
		return nil, fmt.Errorf("schema of an interface: %w", err)
	}
	for _, fraction := range []string{"loss", "reorder"} {
		nic.Properties[fraction].Minimum, nic.Properties[fraction].Maximum = jsonschema.Ptr(0.0), jsonschema.Ptr(1.0)
	}
	types[reflect.TypeFor[NIC]()] = &jsonschema.Schema{
		Description: "the name of its segment, or a mapping",
		OneOf:       []*jsonschema.Schema{{Type: "string", Pattern: nameForm.String()}, nic},
	}
	s, err := jsonschema.For[Topology](&jsonschema.ForOptions{TypeSchemas: types})
	if err != nil {
		return nil, fmt.Errorf("schema of a topology: %w", err)
	}
	s.Schema = "https://json-schema.org/draft/2020-12/schema"
	s.Title = "modebench topology"
	s.Properties["name"].Pattern = titleForm.String()
	named(s)
	mtu := s.Properties["segments"].AdditionalProperties.Properties["mtu"]
	mtu.Minimum, mtu.Maximum = jsonschema.Ptr(float64(leastMTU)), jsonschema.Ptr(float64(mostMTU))
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("schema of a topology: %w", err)
	}
	return append(data, '\n'), nil
}

// named says of every mapping below a schema that its keys are names, and of every list that it is not null, which
// the inference allows for Go's nil.
func named(s *jsonschema.Schema) {
	for _, below := range s.Properties {
		named(below)
	}
	if s.Items != nil {
		s.Type, s.Types = "array", nil
		named(s.Items)
	}
	if a := s.AdditionalProperties; a != nil && s.Properties == nil {
		s.PropertyNames = &jsonschema.Schema{Pattern: nameForm.String()}
		named(a)
	}
}
