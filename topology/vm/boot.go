package vm

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/modebench/modebench/topology/linked"
	"github.com/modebench/modebench/topology/space"
)

// Machine is a guest that runs. Its methods may be called at the same time.
type Machine struct {
	// Stream is the program's standard input and output. Close ends the program's input; reading ends with io.EOF when the
	// program ended well, else with an error that tells how, with its last words or the console's.
	Stream io.ReadWriteCloser
	// Kernel is the one that was booted, with its accelerator.
	Kernel Kernel
	// Lacking are modules of the features that were asked for which are neither files nor built in, and those that the
	// kernel refused, with its words. Whether a feature is there is for an experiment to tell.
	Lacking []string
	// Boot and Load are the seconds from the start to the greeting, and for the modules.
	Boot, Load float64

	name    string
	line    *os.File
	pace    *paced // nil: the line needs none
	cmd     *exec.Cmd
	console *tail
	over    chan struct{} // closed when cmd has ended
	stop    sync.Once
}

// Defaults of a Guest.
const (
	defaultMemory   = 512 << 20
	defaultDeadline = 2 * time.Minute // under a hypervisor without hardware for guests' page tables a boot takes twenty seconds, beside other work twice that
)

// Boot starts a guest, loads modules and starts its program. ctx bounds the boot only: the guest ends with its program, by
// Stop, or with this process. An error tells the console's last lines, and leaves nothing running.
func Boot(ctx context.Context, k Kernel, g Guest) (_ *Machine, err error) {
	if g.Name == "" {
		g.Name = "guest"
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("guest %s: kernel %s: %w", g.Name, k.Name, err)
		}
	}()
	if g.Memory == 0 {
		g.Memory = defaultMemory
	}
	if g.Deadline == 0 {
		g.Deadline = defaultDeadline
	}
	if k, err = Accelerate(ctx, k, g.Cache); err != nil {
		return nil, err
	}
	if _, err := k.verify(k.Path); err != nil {
		return nil, err
	}
	t, err := newTree(k)
	if err != nil {
		return nil, err
	}
	ms, lacking, err := t.order(g.Features)
	if err != nil {
		return nil, err
	}
	initrd, err := initramfs(ctx, t, g.Cache, g.Programs)
	if err != nil {
		return nil, err
	}
	m, in, err := greet(ctx, k, g, initrd)
	if err != nil && m != nil && m.crashed() {
		m, in, err = greet(ctx, k, g, initrd) // once more
	}
	if err != nil {
		return nil, err
	}
	m.Lacking = lacking
	out := &frames{w: m.line}
	if k.Kind == UML {
		m.pace = newPaced(m.line)
		out.w = m.pace
	}
	asked, err := json.Marshal(request{g.Name, names(ms), g.Args})
	if err != nil {
		return nil, errors.Join(err, m.Stop())
	}
	var r reply
	answered := make(chan error, 1)
	go func() {
		go func() { _ = out.write(frameRequest, asked) }() // where that fails, so does reading
		_, answer, err := m.next(in)
		if err == nil {
			err = json.Unmarshal(answer, &r)
		}
		answered <- err
	}()
	if err := m.await(ctx, answered, g.Deadline, "its modules"); err != nil {
		return nil, err
	}
	m.Load = r.Seconds
	for _, name := range slices.Sorted(maps.Keys(r.Refused)) {
		m.Lacking = append(m.Lacking, name+": "+r.Refused[name])
	}
	pr, pw := io.Pipe()
	m.Stream = &stream{PipeReader: pr, out: out, broken: m.broken}
	go func() { pw.CloseWithError(m.pump(in, pw)) }()
	return m, nil
}

// greet starts a machine and waits for its greeting. With an error, the machine is one that has ended, or nil.
func greet(ctx context.Context, k Kernel, g Guest, initrd string) (*Machine, *bufio.Reader, error) {
	m, err := start(k, g, initrd)
	if err != nil {
		return nil, nil, err
	}
	began := time.Now()
	in := bufio.NewReaderSize(m.line, frameMax)
	greeted := make(chan error, 1)
	go func() { greeted <- awaitGreeting(in) }()
	err = m.await(ctx, greeted, g.Deadline, "its greeting")
	m.Boot = time.Since(began).Seconds()
	return m, in, err
}

// crashed tells of a machine that has ended whether QEMU has by a fault of its own, such as a failed assertion. That says nothing of the kernel: one
// that panics has QEMU end well, while User-mode Linux is itself what ends.
func (m *Machine) crashed() bool {
	how, ok := m.cmd.ProcessState.Sys().(syscall.WaitStatus)
	return m.Kernel.Kind == QEMU && ok && how.Signaled() && how.Signal() != unix.SIGKILL
}

// await waits for a step of the boot; where it does not come, it stops the guest.
func (m *Machine) await(ctx context.Context, done <-chan error, within time.Duration, what string) error {
	late := time.NewTimer(within)
	defer late.Stop()
	var err error
	select {
	case err = <-done:
		if err == nil {
			return nil
		}
		m.settle()
	case <-late.C:
		err = fmt.Errorf("no sign of life within %v", within)
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	_ = m.Stop()
	return fmt.Errorf("wait for %s: %w%s", what, lost(err), m.said())
}

// lost says what the end of a line means.
func lost(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, unix.ECONNRESET) || unread(err) {
		return errors.New("the machine ended")
	}
	return err
}

// unread tells whether a line could not be written since nobody reads it any more.
func unread(err error) bool {
	return errors.Is(err, unix.EPIPE) || errors.Is(err, os.ErrClosed) || errors.Is(err, io.ErrClosedPipe)
}

// broken is what the end of the line means for what goes over it, with the guest's last words.
func (m *Machine) broken(err error) error {
	m.settle()
	return fmt.Errorf("guest %s: kernel %s: %w%s", m.name, m.Kernel.Name, lost(err), m.said())
}

// settle gives a machine that ended the time to have said why.
func (m *Machine) settle() {
	late := time.NewTimer(time.Second)
	defer late.Stop()
	select {
	case <-m.over:
	case <-late.C:
	}
}

// said is the console's last lines, for the end of an error.
func (m *Machine) said() string {
	if words := m.Console(); words != "" {
		return "; its console:\n" + words
	}
	return "; its console said nothing"
}

// next reads the next frame that is for somebody else than the line itself.
func (m *Machine) next(in io.Reader) (kind byte, data []byte, err error) {
	for {
		if kind, data, err = readFrame(in); err != nil || kind != frameRead || m.pace == nil {
			return kind, data, err
		}
		m.pace.more <- struct{}{}
	}
}

// pump hands over the program's output until its end.
func (m *Machine) pump(in io.Reader, to io.Writer) error {
	if m.pace != nil {
		defer close(m.pace.more)
	}
	for {
		kind, data, err := m.next(in)
		if err != nil {
			return m.broken(err)
		}
		if kind == frameData {
			if _, err := to.Write(data); err != nil {
				return err
			}
			continue
		}
		var e ended
		if err := json.Unmarshal(data, &e); err != nil {
			return fmt.Errorf("guest %s: end of its program: %w", m.name, err)
		}
		if e.Error == "" {
			return io.EOF
		}
		if e.Words != "" {
			e.Error += ": " + e.Words
		}
		return fmt.Errorf("guest %s: %s", m.name, e.Error)
	}
}

// stream is the program's input and output.
type stream struct {
	*io.PipeReader
	out    *frames
	broken func(error) error
	end    sync.Once
}

func (s *stream) Write(p []byte) (n int, err error) {
	if n, err = s.out.Write(p); err != nil {
		err = s.broken(err)
	}
	return n, err
}

func (s *stream) Close() (err error) {
	s.end.Do(func() { err = s.out.write(frameEnd, nil) })
	if unread(err) {
		return nil // it ended before
	}
	return err
}

// Console is the last of what the guest's kernel and its program's standard error said.
func (m *Machine) Console() string { return m.console.String() }

// Stop ends the guest at once, and returns when nothing of it is left. It may be called again.
func (m *Machine) Stop() error {
	m.stop.Do(func() {
		_ = m.cmd.Process.Kill() // fails where it ended before
		<-m.over
		_ = m.line.Close()
	})
	return nil
}

// start starts the program that runs a kernel, with the line as its descriptor 3.
func start(k Kernel, g Guest, initrd string) (*Machine, error) {
	args, err := arguments(k, g, initrd)
	if err != nil {
		return nil, err
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	theirs := os.NewFile(uintptr(pair[1]), "line")
	defer theirs.Close()
	if err := unix.SetNonblock(pair[0], true); err != nil { // so that closing it ends a read
		return nil, err
	}
	m := &Machine{
		Kernel: k, name: g.Name, line: os.NewFile(uintptr(pair[0]), "line to guest "+g.Name),
		cmd: exec.Command(args[0], args[1:]...), console: &tail{}, over: make(chan struct{}),
	}
	m.cmd.ExtraFiles = append([]*os.File{theirs}, g.Files...)
	m.cmd.Stdout, m.cmd.Stderr = m.console, m.console
	m.cmd.WaitDelay = time.Second
	if k.Kind == UML {
		dir, err := roomFor(g.Memory, shm, os.TempDir(), "/var/tmp")
		if err != nil {
			return nil, errors.Join(err, m.line.Close())
		}
		m.cmd.Env = []string{"TMPDIR=" + dir}
	}
	// In a PID namespace of its own, the kernel ends the processes that UML is made of with their first.
	space.Contain(m.cmd)
	begin := space.Start
	if g.Space != nil {
		begin = g.Space.Start
	}
	if err := begin(m.cmd); err != nil {
		return nil, errors.Join(err, m.line.Close())
	}
	go func() {
		_ = m.cmd.Wait() // how it ended is no news: the console tells
		close(m.over)
	}()
	return m, nil
}

// arguments is the command line of a machine.
func arguments(k Kernel, g Guest, initrd string) ([]string, error) {
	switch k.Kind {
	case UML:
		return append([]string{space.Self}, umlArgs(k, g, initrd)...), nil
	case QEMU:
		return qemuArgs(k, g, initrd), nil
	}
	return nil, fmt.Errorf("kernel of kind %q: want %s or %s", k.Kind, UML, QEMU)
}

// environment is that of the programs in a guest, which has little memory to let garbage lie in. A kernel hands what it does not know of its command line to
// its first process, and children inherit it.
var environment = []string{"LD_LIBRARY_PATH=/" + linked.Dir, "GOGC=150"}

// registers are what a Go program is told to do without: all options of the runtime that lead to wide registers. Each is a
// switch of its own: the garbage collector asks for AVX-512's parts and not for its foundation.
var registers = []string{
	"cpu.avx", "cpu.avx2", "cpu.fma", "cpu.avx512f", "cpu.avx512cd", "cpu.avx512bw", "cpu.avx512dq", "cpu.avx512vl",
}

// noAVX keeps programs from registers that are not switched between processes under UML (see Exec): those of Go, and the
// C library of a binary that is linked with it.
var noAVX = []string{
	"GODEBUG=" + strings.Join(registers, "=off,") + "=off",
	"GLIBC_TUNABLES=glibc.cpu.hwcaps=-AVX,-AVX2,-AVX512F,-AVX512VL,-AVX_Usable,-AVX2_Usable,-AVX_Fast_Unaligned_Load",
}

func umlArgs(k Kernel, g Guest, initrd string) []string {
	return slices.Concat([]string{
		"uml", k.Path,
		"mem=" + strconv.FormatInt(g.Memory>>20, 10) + "M", "initrd=" + initrd,
		"con0=null,fd:1", "con=null", "ssl0=fd:3,fd:3", "ssl=null",
		"uml_dir=/proc/", // no directory of its own in the user's home: nothing can be made there
		"quiet", "panic=-1",
	}, environment, noAVX, g.Devices, []string{"--", "init"})
}

func qemuArgs(k Kernel, g Guest, initrd string) []string {
	// Huge pages would be taken for heaps that need a part of them, and a reserve be kept for more. On a busy machine, the timer of an
	// emulated one may tick too seldom for the kernel, which then panics (timer_irq_works() of arch/x86/kernel/apic/io_apic.c).
	accel, cpu, options := k.Accelerator, "max", "console=ttyS0 quiet panic=-1 transparent_hugepage=never no_timer_check"
	if accel == "tcg" {
		cpu += ",la57=off" // each walk through page tables is a program, and four levels of them are shorter than five
		// MiB of translated code. By itself QEMU takes up to a gigabyte; with too little it translates the same again and again.
		accel = fmt.Sprintf("tcg,thread=multi,tb-size=%d", max(g.Memory>>20/8, 32))
		options += " highres=off" // each timer that is set wakes the emulator's main loop: more than a quarter of a guest's processor time. Waits are whole ticks.
	}
	return slices.Concat([]string{
		qemuProgram, "-machine", "q35", "-accel", accel, "-cpu", cpu, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-m", strconv.FormatInt(g.Memory>>20, 10) + "M", "-smp", strconv.Itoa(max(g.CPUs, 1)),
		"-kernel", k.Path, "-initrd", initrd, "-append", options + " " + strings.Join(environment, " ") + " -- init",
		"-chardev", "stdio,id=console,signal=off", "-device", "isa-serial,chardev=console",
		"-chardev", "socket,id=line,fd=3", "-device", "virtio-serial-pci", "-device", "virtserialport,chardev=line",
	}, g.Devices)
}

// Accelerate decides how a kernel is run, and says in Unaccelerated why not by KVM. KVM is believed only after a guest greeted
// under it, as there are machines whose /dev/kvm opens and whose guests then hang. What was found is kept in the cache, and
// holds as long as the machine, both kernels, QEMU and its arguments, and the device are the same.
func Accelerate(ctx context.Context, k Kernel, cache string) (Kernel, error) {
	if k.Accelerator != "" {
		return k, nil
	}
	f, err := os.OpenFile(kvmDevice, os.O_RDWR, 0)
	if err != nil {
		k.Accelerator, k.Unaccelerated = "tcg", err.Error()
		return k, nil
	}
	_ = f.Close()
	with := k
	with.Accelerator = "kvm"
	key, err := circumstances(with)
	if err != nil {
		return k, err
	}
	answer, path, err := remember(cache, key, func() ([]byte, error) {
		m, err := Boot(ctx, with, Guest{Cache: cache, Deadline: kvmDeadline})
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if err != nil {
			return []byte(err.Error()), nil
		}
		return nil, m.Stop()
	})
	if err != nil {
		return k, err
	}
	if len(answer) == 0 {
		k.Accelerator = "kvm"
		return k, nil
	}
	k.Accelerator = "tcg"
	k.Unaccelerated = fmt.Sprintf("%s opens, but a guest under it did not start: %s\nto have it tried again: rm %s", kvmDevice, answer, path)
	return k, nil
}

const (
	kvmDevice   = "/dev/kvm"
	kvmDeadline = 10 * time.Second
)

// circumstances are all that decides whether a kernel boots under KVM, as text.
func circumstances(k Kernel) (string, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "", fmt.Errorf("uname: %w", err)
	}
	guest, err := os.ReadFile(k.Path)
	if err != nil {
		return "", err
	}
	qemu, err := exec.LookPath(qemuProgram)
	if err != nil {
		return "", err
	}
	var program, device unix.Stat_t
	if err := unix.Stat(qemu, &program); err != nil {
		return "", &os.PathError{Op: "stat", Path: qemu, Err: err}
	}
	if err := unix.Stat(kvmDevice, &device); err != nil {
		return "", &os.PathError{Op: "stat", Path: kvmDevice, Err: err}
	}
	id, _ := os.ReadFile("/etc/machine-id") // machine-id(5): not everywhere
	return fmt.Sprintln("accelerator", string(id), processor(), unix.ByteSliceToString(u.Release[:]), unix.ByteSliceToString(u.Version[:]), sum(guest),
		qemu, program.Size, program.Mtim, qemuArgs(k, Guest{}, ""), device.Rdev, device.Mode, device.Uid, device.Gid), nil
}

// processor is the model of the machine's processor, and what it can do.
func processor() (text string) {
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return ""
	}
	for l := range strings.Lines(string(info)) {
		if strings.TrimSpace(l) == "" {
			break // all are alike
		}
		if strings.HasPrefix(l, "model name") || strings.HasPrefix(l, "flags") {
			text += l
		}
	}
	return text
}
