package vm

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/modebench/modebench/topology/space"
)

// Init is the first process of a guest. The command calls it for `modebench init`. It powers the machine off at its end.
func Init() error {
	if os.Getpid() != 1 {
		return errors.New("init: only for the first process of a guest")
	}
	err := guestMain()
	if err != nil {
		fmt.Fprintln(os.Stderr, "modebench:", err) // the console, which is shown outside
	}
	return errors.Join(err, unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF))
}

func guestMain() error {
	for _, m := range []struct{ kind, dir string }{
		{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}, {"tmpfs", "/tmp"}, {"tmpfs", "/run"},
	} {
		if err := unix.Mount(m.kind, m.dir, m.kind, 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("mount %s: %w", m.dir, err)
		}
	}
	// Engines look for control groups; a kernel without them has no such directory.
	_ = unix.Mount("cgroup2", "/sys/fs/cgroup", "cgroup2", 0, "")
	// Hundreds of containers take thousands of descriptors; a kernel starts its first process with the limits of a user.
	_ = unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 1 << 20, Max: 1 << 20})
	first, err := os.ReadFile("/" + firstPath)
	if err != nil {
		return err
	}
	if refused := load(strings.Fields(string(first))); len(refused) > 0 {
		return fmt.Errorf("modules for the line: %v", refused)
	}
	kind, err := os.ReadFile("/" + kindPath)
	if err != nil {
		return err
	}
	f, err := openLine(string(kind))
	if err != nil {
		return fmt.Errorf("line: %w", err)
	}
	if _, err := io.WriteString(f, greeting); err != nil {
		return fmt.Errorf("line: %w", err)
	}
	out, in := &frames{w: f}, bufio.NewReader(f)
	if string(kind) == UML {
		in = bufio.NewReader(&confirming{r: f, out: out})
	}
	_, asked, err := readFrame(in)
	if err != nil {
		return fmt.Errorf("line: %w", err)
	}
	var r request
	if err := json.Unmarshal(asked, &r); err != nil {
		return fmt.Errorf("request: %w", err)
	}
	if err := unix.Sethostname([]byte(r.Name)); err != nil {
		return fmt.Errorf("host name: %w", err)
	}
	began := time.Now()
	refused := load(r.Modules)
	if err := os.RemoveAll("/" + modulesDir); err != nil { // files of an initramfs are memory
		return err
	}
	if err := loopback(); err != nil {
		return fmt.Errorf("lo: %w", err)
	}
	answer, err := json.Marshal(reply{time.Since(began).Seconds(), refused})
	if err != nil {
		return err
	}
	if err := out.write(frameRequest, answer); err != nil {
		return fmt.Errorf("line: %w", err)
	}
	if len(r.Args) == 0 {
		_, _, err := readFrame(in) // until the line ends
		return err
	}
	var e ended
	left := make(chan struct{})
	if err := serve(r.Args, in, out, &e, left); err != nil {
		e.Error = err.Error()
	}
	last, err := json.Marshal(e)
	if err != nil {
		return err
	}
	if err := out.write(frameEnd, last); err != nil {
		return fmt.Errorf("line: %w", err)
	}
	err = drain(f)
	select { // a machine that is off hands nothing over
	case <-left:
	case <-time.After(leaving):
	}
	return err
}

// leaving is how long a guest whose program has ended waits for the other end of the line to have read that, and to leave.
const leaving = 5 * time.Second

// parameters are those of modules that would otherwise make devices as they come.
var parameters = map[string]string{"ifb": "numifbs=0"}

// load loads modules, and gives what the kernel says about those that it does not take.
func load(names []string) map[string]string {
	refused := map[string]string{}
	for _, name := range names {
		f, err := os.Open("/" + moduleFile(name))
		if err == nil {
			err = errors.Join(unix.FinitModule(int(f.Fd()), parameters[name], 0), f.Close())
		}
		if err != nil && !errors.Is(err, unix.EEXIST) {
			refused[name] = err.Error()
		}
	}
	return refused
}

// lineDeadline is how long the line's device may take to appear.
const lineDeadline = time.Minute

// openLine opens the line: under UML the first serial line, which it joins to a descriptor; else the port of virtio-serial.
func openLine(kind string) (*os.File, error) {
	path := "/dev/ttyS0"
	if kind == QEMU {
		path = "/dev/vport0p1"
	}
	// Read and written by blocking calls: a serial line of UML does not wake epoll, and a port of virtio-serial that
	// the other end has not opened yet answers as if it had ended to one that does not block.
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	// A port is made after its device, by messages between the two ends, and its file before what is behind it.
	for late := time.Now().Add(lineDeadline); err != nil && time.Now().Before(late); fd, err = unix.Open(path, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0) {
		if !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENXIO) && !errors.Is(err, unix.ENODEV) {
			break
		}
		<-time.After(time.Millisecond)
	}
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	f := os.NewFile(uintptr(fd), path)
	if kind == QEMU {
		return f, nil
	}
	mode, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	// As cfmakeraw(3): a byte is a byte.
	mode.Iflag, mode.Oflag, mode.Lflag = 0, 0, 0
	mode.Cflag = mode.Cflag&^(unix.CSIZE|unix.PARENB) | unix.CS8 | unix.CLOCAL
	mode.Cc[unix.VMIN], mode.Cc[unix.VTIME] = 1, 0
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, mode); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return f, nil
}

// drain waits until what was written to a serial line has left it: powering off does not.
func drain(f *os.File) error {
	if err := unix.IoctlSetInt(int(f.Fd()), unix.TCSBRK, 1); err != nil && !errors.Is(err, unix.ENOTTY) {
		return fmt.Errorf("line: drain: %w", err)
	}
	return nil
}

// loopback brings lo up, as every machine has it.
func loopback() error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	r, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	r.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, r)
}

// serve runs a program of this binary, joined to the line, and waits for it. When the line has ended it closes left.
func serve(args []string, in io.Reader, out *frames, e *ended, left chan<- struct{}) error {
	cmd := exec.Command(space.Self, args...)
	words := &tail{}
	cmd.Stderr = io.MultiWriter(os.Stderr, words)
	cmd.Stdout = out
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	cmd.WaitDelay = time.Second // for what a program leaves behind that holds its output
	if err := cmd.Start(); err != nil {
		return err
	}
	go func() {
		defer close(left)
		feed(in, stdin)
		_ = cmd.Process.Kill() // nobody listens any more
	}()
	err = cmd.Wait()
	e.Words = words.String()
	if err != nil {
		return fmt.Errorf("program %q: %w", args[0], err)
	}
	return nil
}

// feed hands over data from the line until that garbles or ends. What a program does not read that closed its input is
// dropped.
func feed(in io.Reader, to io.WriteCloser) {
	for {
		kind, data, err := readFrame(in)
		if err != nil {
			return
		}
		if kind == frameEnd {
			_ = to.Close() // closed already where the program ended
			continue
		}
		_, _ = to.Write(data)
	}
}
