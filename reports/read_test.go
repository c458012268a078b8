package reports

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestReadRefuses(t *testing.T) {
	valid := string(documents(t, exampleSmall())["results.json"])
	head := `{"schema": "modebench.results/v1",` + "\n" + ` "run": {"seed": 1},` + "\n" + ` "modes": [],` + "\n"
	tests := []struct{ name, text, want string }{
		{"empty", "", `f:1:1: the file is empty: want the results.json that modebench run writes`},
		{"white space", " \n\n", `f:1:1: the file is empty: want the results.json that modebench run writes`},
		{"no JSON", "hello\n", `f:1:1: invalid character 'h' looking for beginning of value: want JSON`},
		{"a list", "[]", `f:1:1: not a JSON object: want an object of schema modebench.results/v1`},
		{"null", "null", `f:1:1: no member "schema": want an object of schema modebench.results/v1`},
		{"truncated", strings.TrimSpace(valid[:len(valid)/2]), ""},
		{"two values", head + ` "results": []}` + "\n{}", `f:5:1: invalid character '{' after top-level value: want JSON`},
		{"another schema", strings.Replace(valid, "results/v1", "results/v2", 1), `f:2:12: schema is "modebench.results/v2": want "modebench.results/v1"`},
		{"schema of another type", `{"schema": 1}`, `f:1:12: schema is 1: want "modebench.results/v1"`},
		{"no results", head + ` "claims": []}`, `f:1:1: no member "results": want an object of schema modebench.results/v1`},
		{"wrong type", head + ` "results": [{"mode": 7}]}`, ``},
		{"negative seed", strings.Replace(head, `"seed": 1`, `"seed": -1`, 1) + ` "results": []}`, ``},
		{"unknown outcome", head + ` "results": [{"outcome": "pass"}, {"mode": "x", "outcome": "passed"}]}`, `f:4:60: results[1].outcome is "passed": want "pass", "fail" or "unable"`},
		{"unknown observation", head + ` "results": [{"outcome": "pass", "observed": "maybe"}]}`, `f:4:46: results[0].observed is "maybe": want "works", "blocked", "not-applicable" or ""`},
		{"no outcome", head + ` "results": [{"mode": "x"}]}`, `f:4:14: results[0].outcome is "": want "pass", "fail" or "unable"`},
		{"unknown verdict", head + ` "claims": [{"verdict": "perhaps"}], "results": []}`, `f:4:25: claims[0].verdict is "perhaps": want "true", "nuance", "false", "historic" or "measure"`},
		{"no time", strings.Replace(head, `"seed": 1`, `"started": "yesterday"`, 1) + ` "results": []}`, `f:2:21: run.started is no time: want RFC 3339, such as 2026-01-02T15:04:05Z`},
		{"time out of range", strings.Replace(head, `"seed": 1`, `"started": "9999-12-31T23:59:59-23:00"`, 1) + ` "results": []}`, `f:2:21: run.started is out of range: want a UTC year from 0 to 9999`},
	}
	partly := map[string]string{
		"truncated":     "the file ends within a value: want the whole file; it was cut short",
		"wrong type":    "results.mode is a number: want a string",
		"negative seed": "run.seed is a number -1: want a whole number that is not negative",
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := Read(strings.NewReader(test.text), "f")
			if err == nil {
				t.Fatal("it was accepted")
			}
			if part := partly[test.name]; part != "" {
				if !strings.HasPrefix(err.Error(), "f:") || !strings.HasSuffix(err.Error(), part) || strings.Contains(err.Error(), "\n") {
					t.Errorf("%v\nwant … %s", err, part)
				}
			} else if err.Error() != test.want {
				t.Errorf("%v\nwant %s", err, test.want)
			}
		})
	}
}

func TestReadWhatWasWritten(t *testing.T) {
	want := exampleRun()
	got, err := Read(bytes.NewReader(documents(t, want)["results.json"]), "f")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestReadIgnoresWhatLaterVersionsAdd(t *testing.T) {
	text := `{"schema": "modebench.results/v1", "weather": {"a": [1]}, "run": {"mood": "good"}, "modes": null, "results": [{"outcome": "pass", "colour": 1}]}`
	res, err := Read(strings.NewReader(text), "f")
	if err != nil {
		t.Fatal(err)
	}
	if len(res.Results) != 1 || res.Modes == nil || res.Results[0].Evidence == nil {
		t.Errorf("got %+v", res)
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte(`{"schema": "modebench.results/v1", "run": {"started": "2026-01-02T15:04:05+01:00", "seed": 7}, "modes": [{"graph": {"nodes": [{"id": "a", "parent": "b"}, {"id": "b", "parent": "a"}], "edges": [{"from": "a", "to": "b"}]}}], "results": [{"outcome": "pass", "values": [{"unit": "p50-sec", "value": 1e-5}]}]}`))
	f.Add([]byte(`{"schema": "modebench.results/v1", "run": null, "modes": [], "results": [null]}`))
	f.Add([]byte(`{"schema": "modebench.results/v1", "run": {"missing": ["a/b/c", "x"]}, "modes": [{"name": "b"}], "features": [{"name": "c"}], "claims": [{"verdict": "true", "cells": ["b/c", ""]}], "results": [{"outcome": "fail", "expected": "works"}]}`))
	f.Add([]byte(`{"schema":`))
	f.Fuzz(func(t *testing.T, data []byte) {
		res, err := Read(bytes.NewReader(data), "f")
		if err != nil {
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("more than one line: %q", err)
			}
			return
		}
		written := documents(t, res)["results.json"]
		again, err := Read(bytes.NewReader(written), "f")
		if err != nil {
			t.Fatalf("what was written is not read: %v\n%s", err, written)
		}
		if !cmp.Equal(res, again) {
			t.Error(cmp.Diff(res, again))
		}
		if !json.Valid(written) {
			t.Errorf("not JSON: %s", written)
		}
	})
}
