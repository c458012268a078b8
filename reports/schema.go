package reports

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"

	"github.com/google/jsonschema-go/jsonschema"
)

// JSONSchema returns the published schema of results.json (JSON Schema, draft 2020-12), inferred from [Results].
// It allows members that it does not name, as versions within v1 add some.
func JSONSchema() ([]byte, error) {
	schema, err := jsonschema.ForType(reflect.TypeFor[Results](), &jsonschema.ForOptions{})
	if err != nil {
		return nil, fmt.Errorf("schema of results: %w", err)
	}
	schema.Schema = "https://json-schema.org/draft/2020-12/schema"
	schema.Title = Schema
	schema.Description = "The results of one run of modebench."
	settle(schema, "")
	return json.MarshalIndent(schema, "", "  ")
}

// settle makes lists never null, objects open, and closes the fields that hold one of a few words.
func settle(s *jsonschema.Schema, path string) {
	s.AdditionalProperties = nil
	for _, t := range s.Types {
		if t != "null" {
			s.Type, s.Types = t, nil
			break
		}
	}
	for _, word := range words[path] {
		s.Enum = append(s.Enum, word)
	}
	if s.Items != nil {
		settle(s.Items, path)
	}
	for name, property := range s.Properties {
		settle(property, strings.TrimPrefix(path+"."+name, "."))
	}
}
