package reports

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// words lists the fields whose value is one of a few words, by the path of the field in results.json.
// Reading and the published schema take them from here.
var words = map[string][]string{
	"schema":           {Schema},
	"claims.verdict":   {"true", "nuance", "false", "historic", "measure"},
	"results.expected": {Works, Blocked, NotApplicable, ""},
	"results.observed": {Works, Blocked, NotApplicable, ""},
	"results.outcome":  {Pass, Fail, Unable},
	"results.path":     {"same-host", "cross-host", ""},
	"results.profile":  {"pinned", "steered", ""},
}

// required lists the members without which results.json says nothing.
var required = []string{"schema", "run", "modes", "results"}

// Read reads results.json. Members that it does not know are ignored, as versions within v1 only add some.
// Lists that are absent or null read as empty, times read as UTC.
// An error is one line, "name:line:column: what is wrong: what would be right".
func Read(r io.Reader, name string) (Results, error) {
	data, err := io.ReadAll(r)
	if err != nil {
		return Results{}, fmt.Errorf("%s: %w", name, err)
	}
	at := func(offset int64, wrong, right string) error {
		line, column := position(data, offset)
		return fmt.Errorf("%s:%d:%d: %s: %s", name, line, column, wrong, right)
	}
	var top map[string]json.RawMessage
	if err := json.Unmarshal(data, &top); err != nil {
		if len(bytes.TrimSpace(data)) == 0 {
			return Results{}, at(0, "the file is empty", "want the results.json that modebench run writes")
		}
		if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
			if strings.HasPrefix(syntax.Error(), "unexpected end") {
				return Results{}, at(int64(len(data)), "the file ends within a value", "want the whole file; it was cut short")
			}
			return Results{}, at(syntax.Offset-1, oneLine(syntax.Error()), "want JSON")
		}
		return Results{}, at(firstByte(data), "not a JSON object", "want an object of schema "+Schema)
	}
	if raw, ok := top["schema"]; ok {
		if got := strings.TrimSpace(string(raw)); got != strconv.Quote(Schema) {
			return Results{}, at(locate(data, "schema"), "schema is "+clip(got), "want "+strconv.Quote(Schema))
		}
	}
	for _, member := range required {
		if _, ok := top[member]; !ok {
			return Results{}, at(firstByte(data), fmt.Sprintf("no member %q", member), "want an object of schema "+Schema)
		}
	}
	var res Results
	if err := json.Unmarshal(data, &res); err != nil {
		if mismatch, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
			where := mismatch.Field
			if where == "" {
				where = "the value"
			}
			return Results{}, at(mismatch.Offset-1, fmt.Sprintf("%s is a %s", where, clip(mismatch.Value)), "want "+kind(mismatch.Type))
		}
		if _, ok := errors.AsType[*time.ParseError](err); ok {
			return Results{}, at(locate(data, "run", "started"), "run.started is no time", "want RFC 3339, such as 2026-01-02T15:04:05Z")
		}
		return Results{}, at(firstByte(data), oneLine(err.Error()), "want an object of schema "+Schema)
	}
	res.Run.Started = res.Run.Started.UTC()
	if year := res.Run.Started.Year(); year < 0 || year > 9999 {
		return Results{}, at(locate(data, "run", "started"), "run.started is out of range", "want a UTC year from 0 to 9999")
	}
	if path, got := strangeWord(res); path != nil {
		return Results{}, at(locate(data, path...), fmt.Sprintf("%s is %q", dotted(path), clip(got)), "want "+oneOf(words[plain(path)]))
	}
	return normal(res), nil
}

// strangeWord returns the place and value of the first word that is none of those its field may hold.
func strangeWord(res Results) (path []any, got string) {
	check := func(value string, path ...any) bool {
		for _, word := range words[plain(path)] {
			if value == word {
				return true
			}
		}
		return false
	}
	for i, c := range res.Claims {
		if !check(c.Verdict, "claims", i, "verdict") {
			return []any{"claims", i, "verdict"}, c.Verdict
		}
	}
	for i, r := range res.Results {
		for _, field := range []struct{ name, value string }{
			{"expected", r.Expected}, {"observed", r.Observed}, {"outcome", r.Outcome}, {"path", r.Path}, {"profile", r.Profile},
		} {
			if !check(field.value, "results", i, field.name) {
				return []any{"results", i, field.name}, field.value
			}
		}
	}
	return nil, ""
}

// normal returns res with empty lists in place of nil ones, at every depth. It does not change what res points to.
func normal(res Results) Results {
	return normalValue(reflect.ValueOf(res)).Interface().(Results)
}

func normalValue(v reflect.Value) reflect.Value {
	switch v.Kind() {
	case reflect.Slice:
		list := reflect.MakeSlice(v.Type(), v.Len(), v.Len())
		for i := range v.Len() {
			list.Index(i).Set(normalValue(v.Index(i)))
		}
		return list
	case reflect.Struct:
		if _, ok := v.Interface().(time.Time); ok {
			return v
		}
		fresh := reflect.New(v.Type()).Elem()
		for i := range v.NumField() {
			fresh.Field(i).Set(normalValue(v.Field(i)))
		}
		return fresh
	default:
		return v
	}
}

// position turns a byte offset into a line and a column, both counted from 1, the column in bytes.
func position(data []byte, offset int64) (line, column int) {
	offset = max(0, min(offset, int64(len(data))))
	before := data[:offset]
	return 1 + bytes.Count(before, []byte("\n")), int(offset) - bytes.LastIndexByte(before, '\n')
}

// firstByte is the offset of the first byte that is not white space.
func firstByte(data []byte) int64 {
	return int64(len(data) - len(bytes.TrimLeft(data, " \t\r\n")))
}

// locate returns the offset of the value at path, whose elements are member names (string) and list indexes (int).
// A path that is not there is answered with the offset of the deepest value on the way to it.
func locate(data []byte, path ...any) int64 {
	offset := firstByte(data)
	dec := json.NewDecoder(bytes.NewReader(data))
	for _, step := range path {
		if _, err := dec.Token(); err != nil {
			return offset
		}
		found := false
		for i := 0; dec.More(); i++ {
			match := step == any(i)
			if name, ok := step.(string); ok {
				key, err := dec.Token()
				if err != nil {
					return offset
				}
				text, _ := key.(string)
				match = strings.EqualFold(text, name)
			}
			if match {
				found = true
				break
			}
			var skip json.RawMessage
			if err := dec.Decode(&skip); err != nil {
				return offset
			}
		}
		if !found {
			return offset
		}
		offset = dec.InputOffset()
		for offset < int64(len(data)) && strings.IndexByte(" \t\r\n:,", data[offset]) >= 0 {
			offset++
		}
	}
	return offset
}

// dotted writes a path as a reader of the file would: results[3].outcome.
func dotted(path []any) string {
	var b strings.Builder
	for _, step := range path {
		switch step := step.(type) {
		case int:
			fmt.Fprintf(&b, "[%d]", step)
		case string:
			if b.Len() > 0 {
				b.WriteByte('.')
			}
			b.WriteString(step)
		}
	}
	return b.String()
}

// plain writes a path without its indexes: results.outcome.
func plain(path []any) string {
	var names []string
	for _, step := range path {
		if name, ok := step.(string); ok {
			names = append(names, name)
		}
	}
	return strings.Join(names, ".")
}

// kind names a Go type in the words of JSON.
func kind(t reflect.Type) string {
	switch t.Kind() {
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "true or false"
	case reflect.Int:
		return "a whole number"
	case reflect.Uint64:
		return "a whole number that is not negative"
	case reflect.Float64:
		return "a number"
	case reflect.Slice:
		return "a list"
	default:
		return "an object"
	}
}

func oneOf(list []string) string {
	quoted := make([]string, len(list))
	for i, word := range list {
		quoted[i] = strconv.Quote(word)
	}
	if len(quoted) == 1 {
		return quoted[0]
	}
	return strings.Join(quoted[:len(quoted)-1], ", ") + " or " + quoted[len(quoted)-1]
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

// clip keeps a message one short line, whatever the file holds.
func clip(s string) string {
	s = oneLine(s)
	if runes := []rune(s); len(runes) > 60 {
		s = string(runes[:60]) + "…"
	}
	return s
}
