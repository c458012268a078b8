package vm

import (
	"bytes"
	"compress/gzip"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/xi2/xz"
)

// features are the modules of which a feature of the kernel is made, where it is made of modules. A guest has no modprobe
// that the kernel could call for more, so all that labs use stands here.
var features = map[string][]string{
	"underlay":       {"veth", "bridge", "ipv6", "af_packet"},
	"veth":           {"veth"},
	"bridge":         {"bridge"},
	"macvlan":        {"macvlan"},
	"ipvlan":         {"ipvlan"},
	"802.1q":         {"8021q"},
	"vlan-filtering": {"bridge", "8021q"},
	"fdb-limit":      {"bridge"},
	"br_netfilter":   {"br_netfilter"},
	"nftables":       {"nf_tables", "nft_ct", "nft_reject", "nft_reject_inet", "nft_reject_ipv4", "nft_reject_ipv6", "nft_fib", "nft_fib_inet", "nft_fib_ipv4", "nft_fib_ipv6", "nft_limit", "nft_log"},
	"nft-nat":        {"nft_nat", "nft_masq", "nft_redir", "nft_chain_nat", "nf_conntrack_netlink"},
	"nft-balance":    {"nf_tables", "nft_nat", "nft_chain_nat", "nft_numgen", "nft_hash", "nft_fib_ipv4", "nft_fib_ipv6"},
	"nft-bridge":     {"nf_tables", "nft_meta_bridge", "bridge"},
	"nft-netdev":     {"nf_tables"},
	"engine": {
		"veth", "bridge", "overlay", "nft_compat", "nft_chain_nat", "nft_nat", "nft_masq",
		"xt_addrtype", "xt_comment", "xt_conntrack", "xt_mark", "xt_nat", "xt_MASQUERADE", "xt_REDIRECT", "xt_tcpudp",
	},
	"ipv6":   {"ipv6"},
	"vxlan":  {"vxlan"},
	"ipip":   {"ipip"},
	"tun":    {"tun"},
	"ifb":    {"ifb", "sch_ingress", "cls_u32", "act_mirred"},
	"netem":  {"sch_netem"},
	"tbf":    {"sch_tbf"},
	"virtio": {"virtio_pci", "virtio_net"},
	"e1000e": {"e1000e"},
	line:     {"virtio_pci", "virtio_console"},
}

// line is the feature by which a QEMU guest is talked to.
const line = "line"

// module is what a module's file tells.
type module struct {
	name string
	data []byte
	need []string // names of modules
}

// tree are the modules of a kernel, by name.
type tree struct {
	k       Kernel
	files   map[string]string // paths
	builtin map[string]bool
	read    map[string]*module
}

// canonical makes one name of the two that modules have: foo-bar.ko is the module foo_bar.
func canonical(name string) string { return strings.ReplaceAll(name, "-", "_") }

// moduleName is the module in a file, "" where it is none.
func moduleName(path string) string {
	name, suffix, found := strings.Cut(filepath.Base(path), ".ko")
	if !found || !slices.Contains([]string{"", ".xz", ".zst", ".gz"}, suffix) {
		return ""
	}
	return canonical(name)
}

func newTree(k Kernel) (*tree, error) {
	t := &tree{k: k, files: map[string]string{}, builtin: map[string]bool{}, read: map[string]*module{}}
	if k.Modules == "" {
		return t, nil
	}
	err := filepath.WalkDir(filepath.Join(k.Modules, "kernel"), func(path string, d fs.DirEntry, err error) error {
		if name := moduleName(path); err == nil && name != "" && !d.IsDir() {
			t.files[name] = path
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("modules: %w", err)
	}
	list, err := k.verify(filepath.Join(k.Modules, "modules.builtin"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("modules: %w", err)
	}
	for path := range strings.Lines(string(list)) {
		t.builtin[moduleName(strings.TrimSpace(path))] = true
	}
	return t, nil
}

// order are the modules of features in an order in which each comes after what it needs, and the names of those that the
// kernel has neither as a file nor built in.
func (t *tree) order(of []string) (ms []*module, lacking []string, err error) {
	seen := map[string]bool{}
	var visit func(name string) error
	visit = func(name string) error {
		name = canonical(name)
		if seen[name] {
			return nil
		}
		seen[name] = true
		m, err := t.module(name)
		if err != nil {
			return err
		}
		if m == nil {
			if !t.builtin[name] {
				lacking = append(lacking, name)
			}
			return nil
		}
		for _, n := range m.need {
			if err := visit(n); err != nil {
				return err
			}
		}
		ms = append(ms, m)
		return nil
	}
	for _, f := range of {
		for _, name := range features[f] {
			if err := visit(name); err != nil {
				return nil, nil, err
			}
		}
	}
	return ms, lacking, nil
}

// module reads a module's file; nil where there is none.
func (t *tree) module(name string) (*module, error) {
	path, ok := t.files[name]
	if !ok {
		return nil, nil
	}
	if m := t.read[name]; m != nil {
		return m, nil
	}
	data, err := t.k.verify(path)
	if err != nil {
		return nil, fmt.Errorf("module %s: %w", name, err)
	}
	m := &module{name: name}
	if m.data, err = decompress(path, data); err != nil {
		return nil, fmt.Errorf("module %s: %w", name, err)
	}
	info, err := modinfo(m.data)
	if err != nil {
		return nil, fmt.Errorf("module %s: %s: %w", name, path, err)
	}
	m.need = strings.FieldsFunc(info["depends"], func(r rune) bool { return r == ',' })
	t.read[name] = m
	return m, nil
}

// decompress undoes what a module's suffix tells: guests need not be able to.
func decompress(path string, data []byte) ([]byte, error) {
	in := bytes.NewReader(data)
	var r io.Reader
	var err error
	switch filepath.Ext(path) {
	case ".xz":
		r, err = xz.NewReader(in, 0)
	case ".zst":
		var d *zstd.Decoder
		if d, err = zstd.NewReader(in, zstd.WithDecoderConcurrency(1)); err == nil {
			defer d.Close()
			r = d
		}
	case ".gz":
		r, err = gzip.NewReader(in)
	default:
		return data, nil
	}
	var out []byte
	if err == nil {
		out, err = io.ReadAll(r)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return out, nil
}

// modinfo reads the section .modinfo, which modinfo(8) prints: keys and values as strings that end with a zero. Of keys
// that occur more than once it keeps the last.
func modinfo(data []byte) (map[string]string, error) {
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("no module: %w", err)
	}
	section := f.Section(".modinfo")
	if section == nil {
		return nil, errors.New("no module: no section .modinfo")
	}
	text, err := section.Data()
	if err != nil {
		return nil, fmt.Errorf("section .modinfo: %w", err)
	}
	info := map[string]string{}
	for entry := range strings.SplitSeq(string(text), "\x00") {
		if key, value, ok := strings.Cut(entry, "="); ok {
			info[key] = value
		}
	}
	return info, nil
}
