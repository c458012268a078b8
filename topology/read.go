package topology

import (
	"encoding"
	"errors"
	"fmt"
	"math/big"
	"net/netip"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// Error is what is wrong with a topology file or an inventory, and where.
type Error struct {
	File         string
	Line, Column int    // from 1; a column counts characters
	Problem      string // what is wrong
	Remedy       string // what would be right instead
	Excerpt      string // the line, or the part of a long one, with a caret below the column
}

// Error is one line, file:line:column: problem: want remedy, and then the excerpt.
func (e *Error) Error() string {
	return fmt.Sprintf("%s:%d:%d: %s: want %s\n%s", e.File, e.Line, e.Column, e.Problem, e.Remedy, e.Excerpt)
}

// Read reads a topology file: one YAML document, without tags, anchors and aliases. Every key must be known, and
// every value be of its type and make sense: NewPlan succeeds on what Read accepts. The name is for errors, which are
// of type *Error.
func Read(name string, data []byte) (Topology, error) {
	d := newDecoder(name, data)
	var t Topology
	if err := d.document(data, reflect.ValueOf(&t).Elem(), "name, segments, tors, hosts, networks"); err != nil {
		return Topology{}, err
	}
	if f := t.check(); f != nil {
		return Topology{}, d.flaw(f)
	}
	return t, nil
}

func newDecoder(name string, data []byte) *decoder {
	return &decoder{file: name, lines: strings.Split(string(data), "\n"), places: map[string]place{}}
}

// document decodes the one document of a file.
func (d *decoder) document(data []byte, v reflect.Value, keys string) error {
	f, err := d.parse(data)
	if err != nil {
		return err
	}
	switch {
	case len(f.Docs) == 0 || f.Docs[0].Body == nil:
		return d.at(nil, "the file is empty", keys)
	case len(f.Docs) > 1:
		return d.at(f.Docs[1].Start, "a second document", "one document a file")
	}
	return d.decode(nil, f.Docs[0].Body, v)
}

// What a file may be: the parser's time grows with the square of both.
const (
	mostBytes = 128 << 10
	mostDepth = 16 // a good file has five
)

// parse answers what the parser cannot take with an error also where it panics.
func (d *decoder) parse(data []byte) (f *ast.File, err error) {
	if len(data) > mostBytes {
		return nil, d.at(nil, fmt.Sprintf("the file has %d bytes", len(data)), fmt.Sprintf("at most %d", mostBytes))
	}
	defer func() {
		if p := recover(); p != nil {
			f, err = nil, d.at(nil, fmt.Sprintf("this cannot be parsed: %v", p), yamlSpec)
		}
	}()
	tokens := lexer.Tokenize(string(data))
	depth, entries, line := 0, 0, 0
	for _, t := range tokens {
		switch t.Type {
		case token.SequenceStartType, token.MappingStartType:
			depth++
		case token.SequenceEndType, token.MappingEndType:
			depth--
		case token.SequenceEntryType, token.MappingKeyType:
			if t.Position.Line != line {
				entries, line = 0, t.Position.Line
			}
			entries++
		}
		if depth > mostDepth || entries > mostDepth {
			return nil, d.at(t, fmt.Sprintf("more than %d collections in one another", mostDepth), "at most five, as in a topology")
		}
	}
	f, err = parser.Parse(tokens, 0, parser.AllowDuplicateMapKey()) // pairs finds them
	if e := yaml.Error(nil); errors.As(err, &e) {
		return nil, d.at(e.GetToken(), e.GetMessage(), yamlSpec)
	} else if err != nil {
		return nil, d.at(nil, err.Error(), yamlSpec)
	}
	return f, nil
}

const yamlSpec = "YAML (https://yaml.org/spec/1.2.2)"

// A decoder turns nodes into values, strictly, and keeps the place of each. The YAML library's own decoder would take
// 1500.5, null and "1500" for an integer and tell no place for a bad prefix.
type decoder struct {
	file   string
	lines  []string
	places map[string]place // by path
}

type place struct{ key, value *token.Token }

func at(path []string) string { return strings.Join(path, "\x00") }

func (d *decoder) decode(path []string, n ast.Node, v reflect.Value) error {
	p := d.places[at(path)]
	p.value = n.GetToken()
	d.places[at(path)] = p
	wrong := func(want string) error {
		return d.at(first(n), "this is "+kind(n), want)
	}
	if v.Type() == reflect.TypeFor[NIC]() && n.Type() == ast.StringType {
		return d.decode(path, n, v.FieldByName("Segment"))
	}
	if v.Type() == reflect.TypeFor[Site]() && n.Type() == ast.StringType {
		return d.decode(path, n, v.FieldByName("SSH"))
	}
	_, mapping := n.(*ast.MappingNode)
	if text, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok && !(mapping && v.Type() == reflect.TypeFor[Fabric]()) {
		want := examples[v.Type()]
		_, number := v.Interface().(BitRate)
		if n.Type() != ast.StringType && !(number && n.Type() == ast.IntegerType) {
			return wrong(want)
		}
		if err := text.UnmarshalText([]byte(n.GetToken().Value)); err != nil {
			return d.at(n.GetToken(), fmt.Sprintf("%q is not %s", n.GetToken().Value, nouns[v.Type()]), want)
		}
		return nil
	}
	switch v.Kind() {
	case reflect.Struct:
		fields := map[string]reflect.Value{}
		var keys []string
		for i := range v.NumField() {
			if key, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("yaml"), ","); key != "-" {
				fields[key] = v.Field(i)
				keys = append(keys, key)
			}
		}
		return d.pairs(path, n, func(key *token.Token, value ast.Node) error {
			field, ok := fields[key.Value]
			if !ok {
				return d.at(key, fmt.Sprintf("unknown key %q", key.Value), "one of "+list(keys))
			}
			if value, ok := value.(*ast.StringNode); ok && v.Type() == reflect.TypeFor[Fabric]() && key.Value == "kind" && value.Value == openName {
				return nil
			}
			return d.decode(append(path, key.Value), value, field)
		})
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		return d.pairs(path, n, func(key *token.Token, value ast.Node) error {
			element := reflect.New(v.Type().Elem()).Elem()
			if err := d.decode(append(path, key.Value), value, element); err != nil {
				return err
			}
			v.SetMapIndex(reflect.ValueOf(key.Value), element)
			return nil
		})
	case reflect.Slice:
		sequence, ok := n.(*ast.SequenceNode)
		if !ok {
			return wrong("a list, such as [rack, annex]")
		}
		for i, element := range sequence.Values {
			v.Set(reflect.Append(v, reflect.Zero(v.Type().Elem())))
			if err := d.decode(append(path, strconv.Itoa(i)), element, v.Index(i)); err != nil {
				return err
			}
		}
		return nil
	case reflect.String:
		s, ok := n.(*ast.StringNode)
		if !ok {
			return wrong("a plain text")
		}
		v.SetString(s.Value)
		return nil
	case reflect.Int:
		i, ok := n.(*ast.IntegerNode)
		if !ok {
			return wrong("a whole number")
		}
		whole, err := strconv.Atoi(fmt.Sprint(i.Value))
		if err != nil {
			return d.at(i.Token, fmt.Sprintf("%s is too large a number", i.Token.Value), "a smaller one")
		}
		v.SetInt(int64(whole))
		return nil
	case reflect.Bool:
		b, ok := n.(*ast.BoolNode)
		if !ok {
			return wrong("true or false")
		}
		v.SetBool(b.Value)
		return nil
	case reflect.Float64:
		switch f := n.(type) {
		case *ast.FloatNode:
			v.SetFloat(f.Value)
		case *ast.IntegerNode:
			whole, _ := strconv.ParseFloat(fmt.Sprint(f.Value), 64)
			v.SetFloat(whole)
		default:
			return wrong("a number, such as 0.01")
		}
		return nil
	}
	panic("topology: no way to read a " + v.Type().String())
}

// pairs calls do for each key and value of a mapping, in the order of the file.
func (d *decoder) pairs(path []string, n ast.Node, do func(*token.Token, ast.Node) error) error {
	var pairs []*ast.MappingValueNode
	switch n := n.(type) {
	case *ast.MappingNode:
		pairs = n.Values
	case *ast.MappingValueNode:
		pairs = []*ast.MappingValueNode{n}
	default:
		return d.at(first(n), "this is "+kind(n), "a mapping of keys to values")
	}
	for _, pair := range pairs {
		key, ok := pair.Key.(*ast.StringNode)
		if !ok {
			return d.at(first(pair.Key), "the key is "+kind(pair.Key), "a name")
		}
		below := at(append(path, key.Value))
		if earlier, twice := d.places[below]; twice {
			return d.at(key.Token, fmt.Sprintf("the key %q stands in line %d already", key.Value, earlier.key.Position.Line), "each key once")
		}
		d.places[below] = place{key: key.Token}
		if err := do(key.Token, pair.Value); err != nil {
			return err
		}
	}
	return nil
}

var (
	nouns = map[reflect.Type]string{
		reflect.TypeFor[netip.Prefix](): "an address block",
		reflect.TypeFor[BitRate]():      "a rate",
		reflect.TypeFor[Fabric]():       "a fabric",
	}
	examples = map[reflect.Type]string{
		reflect.TypeFor[netip.Prefix](): "an address and a length, such as 198.18.0.0/22 or 2001:db8:18::/64",
		reflect.TypeFor[BitRate]():      "bits a second, such as 100Mbit/s or 1Gbit/s",
		reflect.TypeFor[Fabric]():       fabricNames,
	}
)

// first is the token that a node begins with.
func first(n ast.Node) *token.Token {
	switch n := n.(type) {
	case *ast.MappingNode:
		if !n.IsFlowStyle && len(n.Values) > 0 {
			return first(n.Values[0])
		}
	case *ast.MappingValueNode:
		return first(n.Key)
	}
	return n.GetToken()
}

func kind(n ast.Node) string {
	switch n.Type() {
	case ast.MappingType, ast.MappingValueType:
		return "a mapping"
	case ast.SequenceType:
		return "a list"
	case ast.NullType:
		return "nothing"
	case ast.StringType:
		return fmt.Sprintf("the text %q", n.GetToken().Value)
	case ast.IntegerType, ast.FloatType, ast.InfinityType, ast.NanType:
		return "the number " + n.GetToken().Value
	case ast.BoolType:
		return "the truth value " + n.GetToken().Value
	case ast.AnchorType:
		return "an anchor"
	case ast.AliasType:
		return "an alias"
	case ast.LiteralType:
		return "a block of text"
	case ast.TagType:
		return "a tag"
	case ast.MergeKeyType:
		return "a merge key"
	}
	return "a " + strings.ToLower(n.Type().YAMLName())
}

func (d *decoder) flaw(f *flaw) error {
	for path := f.path; ; path = path[:len(path)-1] {
		p := d.places[at(path)]
		t := p.value
		if f.key || len(path) < len(f.path) { // a missing value is told at the key that it is missing below
			t = p.key
		}
		if t != nil || len(path) == 0 {
			return d.at(t, f.problem, f.remedy)
		}
	}
}

func (d *decoder) at(t *token.Token, problem, remedy string) *Error {
	e := &Error{File: d.file, Line: 1, Column: 1, Problem: oneLine(problem), Remedy: remedy}
	if t != nil && t.Position != nil {
		e.Line = min(max(t.Position.Line, 1), len(d.lines))
		e.Column = max(t.Position.Column, 1)
	}
	e.Excerpt = excerpt(strings.TrimRight(d.lines[e.Line-1], "\r"), e.Line, e.Column)
	return e
}

// excerpt is a line of a file, or what fits a terminal of a long one, with a caret below the column.
func excerpt(text string, line, column int) string {
	const most = 120
	shown := []rune(strings.Map(func(r rune) rune {
		if r == '\t' || unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar
	}, text))
	at := min(column-1, len(shown))
	if len(shown) > most {
		from := min(max(at-most/2, 0), len(shown)-most)
		shown, at = shown[from:from+most], at-from
	}
	// Tabs stay tabs below, so that the caret stands where the reader's terminal puts the character.
	indent := strings.Map(func(r rune) rune {
		if r == '\t' {
			return r
		}
		return ' '
	}, string(shown[:at]))
	margin := fmt.Sprintf("%4d | ", line)
	return margin + string(shown) + "\n" + strings.Repeat(" ", len(margin)-2) + "| " + indent + "^"
}

func oneLine(s string) string {
	return strings.NewReplacer("\n", `\n`, "\r", `\r`, "\t", `\t`).Replace(s)
}

var rateForm = regexp.MustCompile(`^[0-9]{1,16}(\.[0-9]{1,9})?([kMG]?bit/s)?$`)

// UnmarshalText reads a rate: a number with bit/s, kbit/s, Mbit/s, Gbit/s (powers of 1000), or in bit/s without a unit.
func (r *BitRate) UnmarshalText(text []byte) error {
	s := string(text)
	if !rateForm.MatchString(s) {
		return fmt.Errorf("%q is not a rate", s)
	}
	factor := uint64(1)
	for _, u := range units {
		if number, ok := strings.CutSuffix(s, u.suffix); ok {
			s, factor = number, u.factor
			break
		}
	}
	n, _ := new(big.Rat).SetString(s) // of the form's digits
	n.Mul(n, new(big.Rat).SetUint64(factor))
	if !n.IsInt() || n.Num().BitLen() > 53 {
		return fmt.Errorf("%q is not a whole number of bit/s below 2^53", text)
	}
	*r = BitRate(n.Num().Uint64())
	return nil
}

// MarshalText is what String gives.
func (r BitRate) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// String is the rate in the largest unit that needs no fraction, as UnmarshalText reads it.
func (r BitRate) String() string { return r.in("/s") }

// tc is the rate as tc(8) reads it.
func (r BitRate) tc() string { return strings.ToLower(r.in("")) }

func (r BitRate) in(per string) string {
	for _, u := range units {
		if uint64(r)%u.factor == 0 && (r != 0 || u.factor == 1) {
			return fmt.Sprintf("%d%s%s", uint64(r)/u.factor, strings.TrimSuffix(u.suffix, "/s"), per)
		}
	}
	panic("unreachable: the last unit's factor is 1")
}

var units = []struct {
	suffix string
	factor uint64
}{{"Gbit/s", 1e9}, {"Mbit/s", 1e6}, {"kbit/s", 1e3}, {"bit/s", 1}}

// A flaw is why a topology cannot be planned: where in it, what, and what would be right.
type flaw struct {
	path            []string
	key             bool // the key at the path, not its value
	problem, remedy string
}

func (f *flaw) Error() string {
	if len(f.path) == 0 {
		return f.problem + ": want " + f.remedy
	}
	return strings.Join(f.path, ".") + ": " + f.problem + ": want " + f.remedy
}

func (t Topology) hostNICs() map[string]map[string]NIC {
	nics := map[string]map[string]NIC{}
	for name, h := range t.Hosts {
		nics[name] = h.NICs
	}
	return nics
}

func (t Topology) externalNICs() map[string]map[string]NIC {
	nics := map[string]map[string]NIC{}
	for name, x := range t.External {
		nics[name] = x.NICs
	}
	return nics
}

var (
	nameForm  = regexp.MustCompile(`^[a-z][a-z0-9]{0,7}$`)
	titleForm = regexp.MustCompile(`^[a-z][a-z0-9-]{0,31}$`)
)

// check is the first flaw of the topology, or nil: the whole of what NewPlan may rely on.
func (t Topology) check() *flaw {
	switch {
	case t.Name == "":
		return &flaw{path: []string{"name"}, problem: "the topology has no name", remedy: "name: two-hosts"}
	case !titleForm.MatchString(t.Name):
		return &flaw{path: []string{"name"}, problem: fmt.Sprintf("name %q", t.Name), remedy: "a small letter, then up to 31 small letters, digits and hyphens"}
	}
	for _, check := range []func() *flaw{t.Fabric.check, t.checkNames, t.checkSegments, t.checkTors, t.checkNICs, t.checkNetworks, t.checkFabric, t.checkBlocks, t.checkContainers} {
		if f := check(); f != nil {
			return f
		}
	}
	return nil
}

// checkNames checks that names can name namespaces, devices and directories below /proc/sys, and machines only once.
func (t Topology) checkNames() *flaw {
	machines := map[string]string{}
	for _, kind := range []struct {
		key, noun string
		names     []string
		needed    bool
		machine   bool
	}{
		{"segments", "segment", names(t.Segments), true, false},
		{"tors", "tor", names(t.Tors), true, true},
		{"hosts", "host", names(t.Hosts), true, true},
		{"external", "external machine", names(t.External), false, true},
		{"networks", "network", names(t.Networks), true, false},
	} {
		if kind.needed && len(kind.names) == 0 {
			return &flaw{path: []string{kind.key}, problem: fmt.Sprintf("there is no %s", kind.noun), remedy: fmt.Sprintf("at least one below %s", kind.key)}
		}
		for _, name := range kind.names {
			path := []string{kind.key, name}
			if f := checkName(path, kind.noun, name); f != nil {
				return f
			}
			if !kind.machine {
				continue
			}
			if other, taken := machines[name]; taken {
				return &flaw{path: path, key: true, problem: fmt.Sprintf("the %s %s has the name of another machine, the %s", kind.noun, name, other), remedy: "a name of its own for each machine"}
			}
			machines[name] = kind.noun
		}
	}
	return nil
}

func checkName(path []string, noun, name string) *flaw {
	switch {
	case !nameForm.MatchString(name):
		return &flaw{path: path, key: true, problem: fmt.Sprintf("%s name %q", noun, name), remedy: "a small letter, then up to 7 small letters and digits"}
	case slices.Contains([]string{"lo", "all", "default"}, name):
		return &flaw{path: path, key: true, problem: fmt.Sprintf("%s name %q means something else to the kernel", noun, name), remedy: "another name"}
	}
	return nil
}

const (
	leastMTU = 1280  // RFC 8200 section 5
	mostMTU  = 65535 // RFC 791 section 3.1
)

func (t Topology) checkSegments() *flaw {
	for _, name := range names(t.Segments) {
		s := t.Segments[name]
		path := []string{"segments", name}
		if s.MTU != 0 && s.MTU < leastMTU {
			return &flaw{path: append(path, "mtu"), problem: fmt.Sprintf("MTU %d is too small for IPv6", s.MTU), remedy: "at least 1280 (RFC 8200 section 5)"}
		}
		if s.MTU > mostMTU {
			return &flaw{path: append(path, "mtu"), problem: fmt.Sprintf("MTU %d is larger than an IP packet", s.MTU), remedy: "at most 65535 (RFC 791 section 3.1)"}
		}
		if f := checkPair(path, "segment "+name, s.V4, s.V6); f != nil {
			return f
		}
		needed := len(t.Hosts) + len(t.External) + 2
		each := "a quarter of it is for machines"
		if t.Fabric == VPC {
			needed++ // the router's
		}
		if t.Fabric == Routed {
			needed = 2 * (len(t.Hosts) + len(t.External) + 1) // the first link would have the block's own address
			each += ", two addresses for each"
		}
		if hosts := len(t.Hosts); needed > quarter(s.V4) || slice(s.V4, hosts) < 4 {
			return &flaw{
				path:    append(path, "v4"),
				problem: fmt.Sprintf("%s is too small for %d hosts and %d external machines", s.V4, hosts, len(t.External)),
				remedy:  "a larger block: " + each + ", the rest is divided among the hosts' containers",
			}
		}
	}
	return nil
}

// checkPair checks an IPv4 and an IPv6 block.
func checkPair(path []string, whose string, v4, v6 netip.Prefix) *flaw {
	for _, b := range []struct {
		key, family, example, lengths string
		prefix                        netip.Prefix
		is                            bool
		shortest, longest             int
	}{
		{"v4", "IPv4", "198.18.0.0/22", "/8 to /28", v4, v4.Addr().Is4(), 8, 28},
		{"v6", "IPv6", "2001:db8:18::/64", "/49 to /64", v6, v6.Addr().Is6() && !v6.Addr().Is4In6(), 49, 64},
	} {
		path := append(path, b.key)
		addr := b.prefix.Addr()
		switch {
		case !b.prefix.IsValid():
			return &flaw{path: path, problem: fmt.Sprintf("%s has no %s block", whose, b.family), remedy: fmt.Sprintf("%s: %s", b.key, b.example)}
		case !b.is:
			return &flaw{path: path, problem: fmt.Sprintf("%s is not an %s block", b.prefix, b.family), remedy: fmt.Sprintf("%s: %s", b.key, b.example)}
		case b.prefix.Bits() < b.shortest || b.prefix.Bits() > b.longest:
			return &flaw{path: path, problem: fmt.Sprintf("%s has the length /%d", b.prefix, b.prefix.Bits()), remedy: "a length of " + b.lengths}
		case b.prefix != b.prefix.Masked():
			return &flaw{path: path, problem: fmt.Sprintf("%s has bits set beyond its length", b.prefix), remedy: b.prefix.Masked().String()}
		case addr.IsUnspecified() || addr.IsLoopback() || addr.IsMulticast() || addr.IsLinkLocalUnicast() || addr.Is4() && (addr.As4()[0] == 0 || addr.As4()[0] >= 240):
			return &flaw{path: path, problem: fmt.Sprintf("%s cannot number machines", b.prefix), remedy: fmt.Sprintf("a block of unicast addresses, such as %s", b.example)}
		}
	}
	return nil
}

func (t Topology) checkTors() *flaw {
	joined := map[string]string{}
	for _, name := range names(t.Tors) {
		path := []string{"tors", name, "joins"}
		if len(t.Tors[name].Joins) == 0 {
			return &flaw{path: path, problem: fmt.Sprintf("tor %s joins nothing", name), remedy: "joins: [" + list(names(t.Segments)) + "]"}
		}
		for i, segment := range t.Tors[name].Joins {
			path := append(path, strconv.Itoa(i))
			if f := t.checkSegment(path, segment); f != nil {
				return f
			}
			if other, taken := joined[segment]; taken {
				return &flaw{path: path, problem: fmt.Sprintf("segment %s is joined by %s already", segment, other), remedy: "each segment in one tor, once"}
			}
			joined[segment] = name
		}
		most := mostTable
		if t.Fabric == Routed {
			most = mostBorne
		}
		if routes := t.Tors[name].Routes; routes < 0 || routes > most {
			return &flaw{path: []string{"tors", name, "routes"}, problem: fmt.Sprintf("%d routes", routes), remedy: fmt.Sprintf("at most %d, or none for what is usual", most)}
		}
	}
	for _, name := range names(t.Segments) {
		if joined[name] == "" {
			return &flaw{path: []string{"segments", name}, key: true, problem: fmt.Sprintf("no tor joins segment %s", name), remedy: fmt.Sprintf("%s in the joins of a tor", name)}
		}
	}
	return nil
}

// mostTable is the most that Amazon VPC lets a table hold on request, and bounds what a lab has to fill.
const mostTable = 1000

// mostBorne bounds what a router bears of one neighbour.
const mostBorne = 100_000

func (t Topology) checkSegment(path []string, name string) *flaw {
	if _, known := t.Segments[name]; !known {
		return &flaw{path: path, problem: fmt.Sprintf("unknown segment %q", name), remedy: "one of " + list(names(t.Segments))}
	}
	return nil
}

func (t Topology) checkNICs() *flaw {
	for _, group := range []struct {
		key  string
		nics map[string]map[string]NIC
	}{{"hosts", t.hostNICs()}, {"external", t.externalNICs()}} {
		for _, machine := range names(group.nics) {
			joins := map[string]string{}
			path := []string{group.key, machine, "nics"}
			if len(group.nics[machine]) == 0 {
				return &flaw{path: path, problem: fmt.Sprintf("%s has no network interface", machine), remedy: fmt.Sprintf("nics: {eth0: %s}", names(t.Segments)[0])}
			}
			for _, name := range names(group.nics[machine]) {
				nic := group.nics[machine][name]
				path := append(path, name)
				if f := checkName(path, "interface", name); f != nil {
					return f
				}
				if port := portName(machine, name); len(port) > 15 {
					return &flaw{path: path, key: true, problem: fmt.Sprintf("the tor's port %s would have %d characters", port, len(port)), remedy: "a machine and an interface name of together at most 14 characters"}
				}
				field := func(key string) []string { return append(slices.Clone(path), key) }
				segment := field("segment")
				if nic.Segment == "" {
					return &flaw{path: segment, problem: fmt.Sprintf("interface %s of %s has no segment", name, machine), remedy: "one of " + list(names(t.Segments))}
				}
				if f := t.checkSegment(segment, nic.Segment); f != nil {
					return f
				}
				if other, taken := joins[nic.Segment]; taken {
					return &flaw{path: segment, problem: fmt.Sprintf("%s is on segment %s already, by %s", machine, nic.Segment, other), remedy: "one interface of a machine on each segment"}
				}
				joins[nic.Segment] = name
				if nic.Rate != 0 && nic.Rate < 8000 {
					return &flaw{path: field("rate"), problem: fmt.Sprintf("rate %s is too low to carry a packet", nic.Rate), remedy: "at least 8kbit/s, or no rate for no limit"}
				}
				if nic.Delay != "" {
					if delay, err := time.ParseDuration(nic.Delay); err != nil || delay < 0 || delay > 10*time.Second {
						return &flaw{path: field("delay"), problem: fmt.Sprintf("delay %q", nic.Delay), remedy: "a duration from 0 to 10s, such as 5ms"}
					}
				}
				if nic.Jitter != "" {
					if d, err := time.ParseDuration(nic.Jitter); err != nil || d < 0 || d > delay(nic.Delay) {
						return &flaw{path: field("jitter"), problem: fmt.Sprintf("jitter %q of a delay of %s", nic.Jitter, delay(nic.Delay)), remedy: "a duration from 0 to that of the delay, such as delay: 20ms with jitter: 10ms"}
					}
				}
				for _, fraction := range []struct {
					key   string
					value float64
				}{{"loss", nic.Loss}, {"reorder", nic.Reorder}} {
					if !(fraction.value >= 0 && fraction.value <= 1) {
						return &flaw{path: field(fraction.key), problem: fmt.Sprintf("%s %v", fraction.key, fraction.value), remedy: "a fraction from 0 to 1, such as 0.01"}
					}
				}
				if nic.Reorder != 0 && delay(nic.Delay) == 0 {
					return &flaw{path: field("reorder"), problem: "without a delay no packet can overtake another", remedy: "delay with it, such as delay: 10ms"}
				}
			}
		}
	}
	return nil
}

func (t Topology) checkNetworks() *flaw {
	for _, name := range names(t.Networks) {
		n := t.Networks[name]
		path := []string{"networks", name}
		if n.NIC == "" {
			return &flaw{path: append(path, "nic"), problem: fmt.Sprintf("network %s has no interface", name), remedy: "nic: an interface that every host has"}
		}
		for _, host := range names(t.Hosts) {
			if _, ok := t.Hosts[host].NICs[n.NIC]; !ok {
				return &flaw{path: append(path, "nic"), problem: fmt.Sprintf("host %s has no interface %q", host, n.NIC), remedy: "an interface that every host has"}
			}
		}
		if f := checkPair(path, "network "+name, n.V4, n.V6); f != nil {
			return f
		}
	}
	return nil
}

// checkFabric checks what only one fabric asks.
func (t Topology) checkFabric() *flaw {
	hosts, segments := names(t.Hosts), names(t.Segments)
	switch {
	case t.Fabric == Routed:
		if most := lastAS - torAS; len(hosts) > most {
			return &flaw{path: []string{"hosts"}, problem: fmt.Sprintf("%d hosts, each an autonomous system of its own", len(hosts)), remedy: fmt.Sprintf("at most %d on the fabric %s (RFC 6996)", most, Routed)}
		}
	case t.Fabric.Tagged:
		if vid(len(segments)-1) > 4094 {
			return &flaw{path: []string{"segments"}, problem: fmt.Sprintf("%d segments, each a VLAN", len(segments)), remedy: fmt.Sprintf("at most %d on the fabric %s", 4094/vid(0), t.Fabric)}
		}
		tors := map[string]string{}
		for tor, joins := range t.Tors {
			for _, segment := range joins.Joins {
				tors[segment] = tor
			}
		}
		cable, by := "", "" // of the hosts
		for _, host := range hosts {
			nics := t.Hosts[host].NICs
			first := names(nics)[0]
			if cable == "" {
				cable, by = first, host
			}
			for _, nic := range names(nics) {
				if one, other := tors[nics[first].Segment], tors[nics[nic].Segment]; one != other {
					return &flaw{path: []string{"hosts", host, "nics", nic}, problem: fmt.Sprintf("%s is on segments of the tors %s and %s", host, one, other), remedy: fmt.Sprintf("those of one tor: on the fabric %s a host has one cable", t.Fabric)}
				}
			}
		}
		for _, name := range names(t.Networks) {
			nic := t.Networks[name].NIC
			for _, host := range hosts {
				if first := names(t.Hosts[host].NICs)[0]; first != cable {
					return &flaw{path: []string{"hosts", host, "nics"}, problem: fmt.Sprintf("the first interface of %s is %s, and that of %s %s", host, first, by, cable), remedy: fmt.Sprintf("one name: on the fabric %s a host's first interface is its cable, and every host has network %s on the same device", t.Fabric, name)}
				}
				if one, other := t.Hosts[by].NICs[nic].Segment, t.Hosts[host].NICs[nic].Segment; one != other {
					return &flaw{path: []string{"networks", name, "nic"}, problem: fmt.Sprintf("interface %s is on segment %s of %s and on %s of %s", nic, one, by, other, host), remedy: fmt.Sprintf("one segment: on the fabric %s a network is on the same VLAN everywhere", t.Fabric)}
				}
			}
		}
	}
	return nil
}

// checkBlocks checks that no address can be in two places.
func (t Topology) checkBlocks() *flaw {
	type block struct {
		path   []string
		prefix netip.Prefix
	}
	var blocks []block
	for _, name := range names(t.Segments) {
		s := t.Segments[name]
		blocks = append(blocks, block{[]string{"segments", name, "v4"}, s.V4}, block{[]string{"segments", name, "v6"}, s.V6})
	}
	for _, name := range names(t.Networks) {
		n := t.Networks[name]
		blocks = append(blocks, block{[]string{"networks", name, "v4"}, n.V4}, block{[]string{"networks", name, "v6"}, n.V6})
	}
	for i, b := range blocks {
		for _, other := range blocks[:i] {
			if b.prefix.Overlaps(other.prefix) {
				return &flaw{path: b.path, problem: fmt.Sprintf("%s overlaps %s of %s", b.prefix, other.prefix, strings.Join(other.path, ".")), remedy: "blocks without a common address"}
			}
		}
	}
	return nil
}

func (t Topology) checkContainers() *flaw {
	for _, host := range names(t.Hosts) {
		h := t.Hosts[host]
		path := []string{"hosts", host, "containers"}
		for _, network := range names(h.Containers) {
			if _, known := t.Networks[network]; !known {
				return &flaw{path: append(path, network), key: true, problem: fmt.Sprintf("unknown network %q", network), remedy: "one of " + list(names(t.Networks))}
			}
			if n := h.Containers[network]; n < 0 || n > 0xffff {
				return &flaw{path: append(path, network), problem: fmt.Sprintf("%d containers", n), remedy: "0 to 65535"}
			}
		}
		number := 0
		for _, network := range names(t.Networks) {
			if h.Containers[network] == 0 {
				continue
			}
			number += h.Containers[network]
			n := t.Networks[network]
			segment := h.NICs[n.NIC].Segment
			if f := fits(number, len(t.Hosts), segment, t.Segments[segment].V4, network, n.V4); f != nil {
				// Where the containers are asked for, rather than where the block is: that is what was written last.
				return &flaw{path: append(path, network), problem: f.problem, remedy: f.remedy}
			}
		}
	}
	return nil
}
