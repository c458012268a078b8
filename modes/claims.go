package modes

import (
	"fmt"
	"io/fs"
	"regexp"

	"github.com/goccy/go-yaml/ast"
)

// Claim is a statement that is made about modes, with what is documented about it.
type Claim struct {
	ID      string   `yaml:"id"`      // such as C23
	Topic   string   `yaml:"topic"`   // such as Bridge
	Text    string   `yaml:"text"`    // what is claimed
	Modes   []string `yaml:"modes"`   // those it speaks of, also ones not built yet; empty: all
	Verdict string   `yaml:"verdict"` // documented: true, nuance, false, historic (was true once), measure (a matter of numbers)
	Nuance  string   `yaml:"nuance"`  // what the verdict leaves out; empty: nothing
	Source  string   `yaml:"source"`
	Cells   []string `yaml:"cells"`   // mode/feature: its evidence. The verdict holds here when all of them are as expected
	Untried string   `yaml:"untried"` // why no spec tests it; set if and only if Cells is empty
}

var (
	claimID   = regexp.MustCompile(`^C[0-9]{2}$`)
	claimCell = regexp.MustCompile(`^[a-z0-9-]+/[a-z0-9-]+$`)
)

// Claims reads the file claims.yaml of fsys: claims in the order of their ids. An error names file, line and column,
// and what would be right.
func Claims(fsys fs.FS) ([]Claim, error) {
	f, body, err := open(fsys, "claims.yaml")
	if err != nil {
		return nil, err
	}
	entries, ok := body.(*ast.SequenceNode)
	if !ok {
		return nil, f.at(body.GetToken(), "this is no list", "- id: C01")
	}
	var claims []Claim
	last := ""
	for _, entry := range entries.Values {
		var c Claim
		if err := f.decode(entry, &c); err != nil {
			return nil, err
		}
		t := entry.GetToken()
		if pairs := entry.(*ast.MappingNode).Values; len(pairs) > 0 {
			t = pairs[0].Value.GetToken()
		}
		switch {
		case t.Value != c.ID || !claimID.MatchString(c.ID):
			return nil, f.at(t, "an entry without an id at its head", "- id: C01")
		case c.ID <= last:
			return nil, f.at(t, fmt.Sprintf("%s after %s", c.ID, last), "each id once, in rising order")
		}
		last = c.ID
		for _, field := range []struct{ key, value string }{{"topic", c.Topic}, {"text", c.Text}, {"source", c.Source}} {
			if err := f.text(t, field.key, field.value); err != nil {
				return nil, err
			}
		}
		if err := f.oneOf(t, "verdict", c.Verdict, "true", "nuance", "false", "historic", "measure"); err != nil {
			return nil, err
		}
		switch {
		case c.Verdict == "nuance" && c.Nuance == "":
			return nil, f.at(t, c.ID+" has the verdict nuance and no nuance", "what the verdict leaves out")
		case len(c.Cells) == 0 && c.Untried == "":
			return nil, f.at(t, c.ID+" has neither cells nor untried", "its evidence, or why there is none")
		case len(c.Cells) > 0 && c.Untried != "":
			return nil, f.at(t, c.ID+" has both cells and untried", "one of the two")
		}
		for _, cell := range c.Cells {
			if !claimCell.MatchString(cell) {
				return nil, f.at(t, fmt.Sprintf("cell %q of %s", cell, c.ID), "mode/feature")
			}
		}
		claims = append(claims, c)
	}
	return claims, nil
}
