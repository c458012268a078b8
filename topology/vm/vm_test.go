package vm

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"debug/elf"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/u-root/u-root/pkg/cpio"

	"github.com/modebench/modebench/topology/linked"
)

// bzImage is the least that is taken as a kernel.
func bzImage(release string) []byte {
	data := make([]byte, 5*512+64)
	copy(data[0x202:], "HdrS")
	binary.LittleEndian.PutUint32(data[0x1f4:], 4)
	binary.LittleEndian.PutUint16(data[0x20e:], 0x100)
	copy(data[0x300:], release+" (builder) #1")
	return data
}

// ko is the least that is taken as a module.
func ko(info ...string) []byte {
	text := strings.Join(info, "\x00") + "\x00"
	names := "\x00.modinfo\x00.shstrtab\x00"
	head := uint64(binary.Size(elf.Header64{}))
	h := elf.Header64{
		Type: uint16(elf.ET_REL), Machine: uint16(elf.EM_X86_64), Version: 1, Ehsize: uint16(head),
		Shoff: head + uint64(len(text)+len(names)), Shentsize: 64, Shnum: 3, Shstrndx: 2,
	}
	copy(h.Ident[:], elf.ELFMAG+"\x02\x01\x01")
	var b bytes.Buffer
	_ = binary.Write(&b, binary.LittleEndian, h)
	b.WriteString(text + names)
	_ = binary.Write(&b, binary.LittleEndian, []elf.Section64{
		{},
		{Name: 1, Type: uint32(elf.SHT_PROGBITS), Off: head, Size: uint64(len(text))},
		{Name: 10, Type: uint32(elf.SHT_STRTAB), Off: head + uint64(len(text)), Size: uint64(len(names))},
	})
	return b.Bytes()
}

func write(t *testing.T, data []byte, path ...string) string {
	t.Helper()
	name := filepath.Join(path...)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, data, 0o644); err != nil {
		t.Fatal(err)
	}
	return name
}

// modulesHere writes a directory of modules in which 8021q is compressed, ipv6 is built in, and the rest is as ever.
func modulesHere(t *testing.T, dir string) {
	var z bytes.Buffer
	w := gzip.NewWriter(&z)
	_, _ = w.Write(ko("depends=mrp,garp"))
	_ = w.Close()
	write(t, z.Bytes(), dir, "kernel/net/8021q/8021q.ko.gz")
	write(t, ko("depends=stp"), dir, "kernel/net/802/mrp.ko")
	write(t, ko("license=GPL", "depends="), dir, "kernel/net/802/garp.ko")
	write(t, ko("depends="), dir, "kernel/net/802/stp.ko")
	write(t, ko("depends=stp,llc"), dir, "kernel/net/bridge/bridge.ko")
	write(t, ko("depends=br-helper"), dir, "kernel/net/bridge/br_netfilter.ko")
	write(t, ko("depends="), dir, "kernel/net/bridge/br-helper.ko")
	write(t, []byte("kernel/net/ipv6/ipv6.ko\nkernel/net/llc/llc.ko\n"), dir, "modules.builtin")
}

func TestOrder(t *testing.T) {
	dir := t.TempDir()
	modulesHere(t, dir)
	tr, err := newTree(Kernel{Kind: QEMU, Path: filepath.Join(dir, "vmlinuz"), Modules: dir})
	if err != nil {
		t.Fatal(err)
	}
	ms, lacking, err := tr.order([]string{"802.1q", "vlan-filtering", "ipv6", "br_netfilter", "ipvlan"})
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"stp", "mrp", "garp", "8021q", "bridge", "br_helper", "br_netfilter"}, names(ms)); d != "" {
		t.Errorf("order (-want +got):\n%s", d)
	}
	if d := cmp.Diff([]string{"ipvlan"}, lacking); d != "" {
		t.Errorf("lacking (-want +got):\n%s", d)
	}
	write(t, []byte("\x7fELF no more"), dir, "kernel/net/vxlan/vxlan.ko")
	if tr, err = newTree(tr.k); err != nil {
		t.Fatal(err)
	}
	if _, _, err := tr.order([]string{"vxlan"}); err == nil || !strings.Contains(err.Error(), "module vxlan: "+dir) {
		t.Errorf("truncated module: %v: want its name and file", err)
	}
}

// TestDecompress undoes what distributions do to modules, xz with the options of the kernel's build among it, and refuses
// what is not whole.
func TestDecompress(t *testing.T) {
	const want = "a module of the kernel, a module of the kernel\n"
	for suffix, packed := range map[string]string{
		".xz":  "/Td6WFoAAAFpIt42AgEEACEBEACLIW9J4AAuACBdADCICaczqUKMWvUhbDLv9uZwN/Wlq5BQAsXPYvJOk6AAAEKOsf0AATgviTTInJBCmQ0BAAAAAAFZWg==",
		".zst": "KLUv/SQv/QAAyGEgbW9kdWxlIG9mIHRoZSBrZXJuZWwsIAoBAKwyx5zzWJQ=",
		".gz":  "H4sIAAAAAAAAA0tUyM1PKc1JVchPUyjJSFXITi3KS83RUUjEKs4FAEKOsf0vAAAA",
	} {
		t.Run(suffix, func(t *testing.T) {
			path := "kernel/net/one.ko" + suffix
			if name := moduleName(path); name != "one" {
				t.Errorf("%s is the module %q", path, name)
			}
			data, err := base64.StdEncoding.DecodeString(packed)
			if err != nil {
				t.Fatal(err)
			}
			got, err := decompress(path, data)
			if err != nil || string(got) != want {
				t.Errorf("%q, %v: want %q", got, err, want)
			}
			spoilt := bytes.Clone(data)
			spoilt[len(spoilt)/2] ^= 0x10
			for what, bad := range map[string][]byte{"half": data[:len(data)/2], "spoilt": spoilt, "not packed": []byte(want)} {
				if got, err := decompress(path, bad); err == nil || !strings.Contains(err.Error(), path) {
					t.Errorf("%s: %q, %v: want an error that names the file", what, got, err)
				}
			}
		})
	}
	if got, err := decompress("kernel/net/one.ko", []byte(want)); err != nil || string(got) != want {
		t.Errorf("%q, %v: want it as it is", got, err)
	}
}

func TestRecords(t *testing.T) {
	ms := []*module{{name: "stp", data: []byte("STP")}, {name: "bridge", data: []byte("BRIDGE")}}
	rs := records(io.NewSectionReader(strings.NewReader("binary"), 0, 6), QEMU, []linked.File{{Name: "lib64/ld.so", Data: []byte("LD")}, {Name: "lib/libc.so.6", Data: []byte("C")}}, ms, ms[:1])
	var b bytes.Buffer
	if err := cpio.WriteRecords(cpio.Newc.Writer(&b), rs); err != nil {
		t.Fatal(err)
	}
	var got []string
	if err := cpio.ForEachRecord(cpio.Newc.Reader(bytes.NewReader(b.Bytes())), func(r cpio.Record) error {
		data, err := io.ReadAll(io.NewSectionReader(r, 0, int64(r.FileSize)))
		got = append(got, fmt.Sprintf("%o %s %d:%d %s", r.Mode, r.Name, r.Rmajor, r.Rminor, data))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"40755 dev 0:0 ", "40755 proc 0:0 ", "40755 sys 0:0 ", "41777 tmp 0:0 ", "40755 run 0:0 ", "40755 var 0:0 ", "40755 etc 0:0 ", "40755 modules 0:0 ",
		"20600 dev/console 5:1 ", "100755 init 0:0 binary", "100644 kind 0:0 qemu", "100644 etc/resolv.conf 0:0 ", "100644 modules/first 0:0 stp",
		"100644 modules/stp.ko 0:0 STP", "100644 modules/bridge.ko 0:0 BRIDGE",
		"40755 lib64 0:0 ", "100755 lib64/ld.so 0:0 LD", "40755 lib 0:0 ", "100755 lib/libc.so.6 0:0 C",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("contents (-want +got):\n%s", d)
	}
}

// TestLoaded has of a binary what is loaded of it, which still runs, and no more.
func TestLoaded(t *testing.T) {
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer self.Close()
	st, err := self.Stat()
	if err != nil {
		t.Fatal(err)
	}
	part, err := loaded(self)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(part)
	if err != nil {
		t.Fatal(err)
	}
	path := write(t, data, t.TempDir(), "program")
	if err := os.Chmod(path, 0o755); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(path, "say", "whole").Output()
	if err != nil || string(out) != "whole" || int64(len(data)) >= st.Size() {
		t.Errorf("%d bytes of %d: %q, %v: want fewer that run as well", len(data), st.Size(), out, err)
	}
}

func TestArguments(t *testing.T) {
	g := Guest{Memory: 300 << 20, CPUs: 2, Devices: []string{"DEVICE"}}
	for _, c := range []struct {
		k    Kernel
		want string
	}{
		{
			Kernel{Kind: UML, Path: "/k/linux.uml"},
			"/proc/self/exe uml /k/linux.uml mem=300M initrd=/i con0=null,fd:1 con=null ssl0=fd:3,fd:3 ssl=null uml_dir=/proc/ quiet panic=-1 LD_LIBRARY_PATH=/lib GOGC=150 " +
				strings.Join(noAVX, " ") + " DEVICE -- init",
		},
		{
			Kernel{Kind: QEMU, Path: "/k/vmlinuz", Accelerator: "tcg"},
			"qemu-system-x86_64 -machine q35 -accel tcg,thread=multi,tb-size=37 -cpu max,la57=off -nodefaults -no-user-config -display none -no-reboot -m 300M -smp 2 " +
				"-kernel /k/vmlinuz -initrd /i -append console=ttyS0 quiet panic=-1 transparent_hugepage=never no_timer_check highres=off LD_LIBRARY_PATH=/lib GOGC=150 -- init " +
				"-chardev stdio,id=console,signal=off -device isa-serial,chardev=console " +
				"-chardev socket,id=line,fd=3 -device virtio-serial-pci -device virtserialport,chardev=line DEVICE",
		},
	} {
		got, err := arguments(c.k, g, "/i")
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(c.want, strings.Join(got, " ")); d != "" {
			t.Errorf("%s (-want +got):\n%s", c.k.Kind, d)
		}
	}
	if _, err := arguments(Kernel{Kind: "xen"}, g, ""); err == nil || !strings.Contains(err.Error(), `"xen"`) {
		t.Errorf("unknown kind: %v: want it named", err)
	}
}

func TestFrames(t *testing.T) {
	var b bytes.Buffer
	b.WriteString("noise \nmodebench\nmodebench gue" + greeting)
	f := &frames{w: &b}
	want := bytes.Repeat([]byte("0123456789"), frameMax/5)
	if n, err := f.Write(want); n != len(want) || err != nil {
		t.Fatal(n, err)
	}
	if err := f.write(frameEnd, nil); err != nil {
		t.Fatal(err)
	}
	b.WriteString("d\xff\xff\xff\xff")
	r := bufio.NewReader(&b)
	if err := awaitGreeting(r); err != nil {
		t.Fatal(err)
	}
	var got []byte
	for {
		kind, data, err := readFrame(r)
		if err != nil {
			t.Fatal(err)
		}
		if kind == frameEnd {
			break
		}
		got = append(got, data...)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%d bytes: want the %d that were sent", len(got), len(want))
	}
	if _, _, err := readFrame(r); err == nil || !strings.Contains(err.Error(), "64 ff ff ff ff") {
		t.Errorf("too long a frame: %v: want how it begins", err)
	}
}

func TestRead(t *testing.T) {
	dir := t.TempDir()
	whole := bzImage("6.1.0-1-amd64")
	for _, c := range []struct {
		name, want string
		data       []byte
	}{
		{"whole", "", whole},
		{"short", "truncated", whole[:len(whole)-1]},
		{"empty", "want a linux.uml or vmlinuz", nil},
		{"text", "want a linux.uml or vmlinuz", []byte("#!/bin/sh\n")},
		{"module", "want a linux.uml or vmlinuz", ko("depends=")},
		{"elf", "truncated", []byte(elf.ELFMAG + "\x02\x01")},
	} {
		k, err := read(write(t, c.data, dir, c.name))
		switch {
		case c.want == "" && (err != nil || k.Release != "6.1.0-1-amd64" || k.Kind != QEMU):
			t.Errorf("%s: %+v, %v: want a kernel for QEMU, 6.1.0-1-amd64", c.name, k, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), c.name)):
			t.Errorf("%s: %v: want %q and the file's name", c.name, err, c.want)
		}
		if errors.Is(err, ErrUnbootable) != (c.want == "truncated") {
			t.Errorf("%s: %v: want those that are kernels to be told from other files", c.name, err)
		}
	}
}

func TestKernels(t *testing.T) {
	if _, err := exec.LookPath(qemuProgram); err != nil {
		unable(t, "%v", err)
	}
	root, cache := t.TempDir(), t.TempDir()
	for _, r := range []string{"6.9.0-1-cloud-amd64", "6.10.0-1-cloud-amd64", "5.10.0-9-amd64"} {
		write(t, bzImage(r), root, "boot/vmlinuz-"+r)
	}
	modulesHere(t, filepath.Join(root, "lib/modules/6.10.0-1-cloud-amd64"))
	write(t, bzImage("6.11.0-1-amd64")[:1000], root, "boot/vmlinuz-6.11.0-1-amd64")
	ks, lacking := kernels(root, cache)
	var got []string
	for _, k := range ks {
		got = append(got, k.Name+" "+k.Release+" "+strings.TrimPrefix(k.Modules, root))
	}
	want := []string{
		"debian-cloud 6.10.0-1-cloud-amd64 /lib/modules/6.10.0-1-cloud-amd64",
		"6.9.0-1-cloud-amd64 6.9.0-1-cloud-amd64 ", "5.10.0-9-amd64 5.10.0-9-amd64 ",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("kernels (-want +got):\n%s", d)
	}
	if len(lacking) != 1 || !strings.Contains(lacking[0].Error(), "truncated") {
		t.Errorf("lacking %v: want the truncated one", lacking)
	}
}

func TestRoomFor(t *testing.T) {
	dir := t.TempDir()
	if got, err := roomFor(1<<20, "/nowhere", "/proc", dir); err != nil || got != dir {
		t.Errorf("got %q, %v: want %s", got, err, dir)
	}
	if _, err := roomFor(1<<60, dir); err == nil || !strings.Contains(err.Error(), "make room") {
		t.Errorf("no room: %v: want a remedy", err)
	}
}

// apart makes a distribution of one package, with clients that are scripts, and counts how often it is fetched.
func apart(t *testing.T) (fetched func() int) {
	t.Helper()
	if _, err := exec.LookPath("dpkg-deb"); err != nil {
		unable(t, "%v", err)
	}
	dir := t.TempDir()
	pkg := filepath.Join(dir, "pkg")
	write(t, []byte("Package: linux-image-6.10.0-1-cloud-amd64\nVersion: 1\nArchitecture: amd64\nMaintainer: nobody\nDescription: a kernel\n"), pkg, "DEBIAN/control")
	write(t, bzImage("6.10.0-1-cloud-amd64"), pkg, "boot/vmlinuz-6.10.0-1-cloud-amd64")
	modulesHere(t, filepath.Join(pkg, "lib/modules/6.10.0-1-cloud-amd64"))
	deb := filepath.Join(dir, "kernel.deb")
	if out, err := exec.Command("dpkg-deb", "--root-owner-group", "-b", pkg, deb).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	count := filepath.Join(dir, "count")
	// The options come first: those of lists that are not the machine's, which are empty where the file "empty" says so.
	options := "lists=; while [ $1 = -o ]; do case $2 in Dir::State::Lists=*) lists=${2#*=};; esac; shift 2; done\n"
	for name, text := range map[string]string{
		"apt-get": "test ! -e " + dir + "/refuse || { echo 'E: no network' >&2; exit 100; }\n" +
			"case $1 in update) touch $lists/read;; download) echo >> " + count + "; cp " + deb + " .;; esac",
		"apt-cache": "test ! -e " + dir + "/empty || test -e \"$lists/read\" || exit 0\n" +
			`case $1 in pkgnames) echo linux-image-6.9.0-1-cloud-amd64; echo linux-image-6.10.0-1-cloud-amd64; echo linux-image-cloud-amd64;;
madison) echo "$2 | 1 | origin Packages";; esac`,
	} {
		text = options + text
		if err := os.Chmod(write(t, []byte("#!/bin/sh\n"+text+"\n"), dir, "bin", name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", filepath.Join(dir, "bin")+":"+os.Getenv("PATH"))
	t.Setenv("REFUSE", filepath.Join(dir, "refuse"))
	t.Setenv("EMPTY", filepath.Join(dir, "empty"))
	return func() int {
		data, _ := os.ReadFile(count)
		return bytes.Count(data, []byte("\n"))
	}
}

func TestFetch(t *testing.T) {
	fetched := apart(t)
	cache := filepath.Join(t.TempDir(), "cache")
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			k, err := Fetch(t.Context(), cloudName, cache, func(string) {})
			if err != nil || k.Release != "6.10.0-1-cloud-amd64" || k.Name != cloudName {
				t.Errorf("%+v, %v: want release 6.10.0-1-cloud-amd64", k, err)
			}
		})
	}
	wg.Wait()
	if n := fetched(); n != 1 {
		t.Errorf("two at once fetched %d times: want one", n)
	}
	if left, _ := filepath.Glob(filepath.Join(cache, ".*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	module := filepath.Join(cache, "kernels", cloudName, "modules/kernel/net/802/garp.ko")
	data, err := os.ReadFile(module)
	if err != nil {
		t.Fatal(err)
	}
	write(t, data[:len(data)-1], module)
	m, err := readManifest(filepath.Join(cache, "kernels", cloudName))
	if err != nil {
		t.Fatal(err)
	}
	k, err := m.kernel()
	if err != nil {
		t.Fatal(err)
	}
	tr, err := newTree(k)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := tr.order([]string{"802.1q"}); err == nil || !strings.Contains(err.Error(), "checksum") || !strings.Contains(err.Error(), "kernel fetch") {
		t.Errorf("altered module: %v: want it refused with a remedy", err)
	}
	write(t, nil, os.Getenv("REFUSE"))
	if _, err := Fetch(t.Context(), cloudName, cache, func(string) {}); err == nil || !strings.Contains(err.Error(), "E: no network") {
		t.Errorf("refused: %v: want the client's words", err)
	}
	if err := os.Remove(os.Getenv("REFUSE")); err != nil {
		t.Fatal(err)
	}
	if _, err := Fetch(t.Context(), cloudName, cache, func(string) {}); err != nil {
		t.Errorf("fetch again over what was altered: %v", err)
	}
	if err := m.whole(); err != nil {
		t.Errorf("fetched again: %v", err)
	}
	write(t, nil, os.Getenv("EMPTY"))
	if k, err := Fetch(t.Context(), cloudName, filepath.Join(t.TempDir(), "cache"), func(string) {}); err != nil || k.Release != "6.10.0-1-cloud-amd64" {
		t.Errorf("the machine's lists are empty: %+v, %v: want it found by others", k, err)
	}
	if _, err := Fetch(t.Context(), "minix", cache, func(string) {}); err == nil || !strings.Contains(err.Error(), "uml, debian-cloud") {
		t.Errorf("unknown: %v: want the names there are", err)
	}
}

func TestRemember(t *testing.T) {
	cache := t.TempDir()
	k := Kernel{Path: write(t, bzImage("1.0.0"), t.TempDir(), "vmlinuz")}
	asked := 0
	ask := func() ([]byte, error) { asked++; return fmt.Appendf(nil, "%d", asked), nil }
	for _, c := range []struct{ question, want string }{{"a", "1"}, {"a", "1"}, {"b", "2"}, {"a", "1"}} {
		got, err := Remember(cache, k, c.question, ask)
		if err != nil || string(got) != c.want {
			t.Errorf("%s: %q, %v: want %q", c.question, got, err, c.want)
		}
	}
	write(t, bzImage("1.0.1"), k.Path)
	if got, err := Remember(cache, k, "a", ask); err != nil || string(got) != "3" {
		t.Errorf("another kernel: %q, %v: want to be asked again", got, err)
	}
}
