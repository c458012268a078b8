package vm

import (
	"context"
	"errors"
)

type guest struct{}

var errNotYet = errors.New("not built yet")

// Kernels are the kernels that can be booted without fetching anything, best first: UML, cloud kernels, the machine's own.
// One without the program that runs it (QEMU) is left out, and the reasons are in lacking, with remedies.
func Kernels(cache string) (ks []Kernel, lacking []error) { return nil, []error{errNotYet} }

// File is the kernel in a file named by a user.
func File(path string) (Kernel, error) { return Kernel{}, errNotYet }

// Fetchable are the names of kernels that Fetch knows.
func Fetchable() []string { return []string{"uml", "debian-cloud"} }

// Fetch brings a kernel into the cache by the distribution's own package client, installing nothing, and returns it.
// It says what it does line by line. Of several at the same time one fetches and the others wait for it.
func Fetch(ctx context.Context, name, cache string, say func(line string)) (Kernel, error) {
	return Kernel{}, errNotYet
}

// Accelerate decides how a kernel is run: KVM is believed after a guest has booted with it. What was found is remembered
// in the cache for this boot of the machine.
func Accelerate(ctx context.Context, k Kernel, cache string) (Kernel, error) { return k, errNotYet }

// Boot starts a guest, loads modules and starts its program. ctx bounds the boot only.
// Whatever Boot started ends with Stop, and with this process.
func Boot(ctx context.Context, k Kernel, g Guest) (*Machine, error) { return nil, errNotYet }

// Console is the last of what the guest's kernel and its program's standard error said.
func (m *Machine) Console() string { return "" }

// Stop ends the guest at once. It may be called again.
func (m *Machine) Stop() error { return nil }

// Init is the first process of a guest. The command calls it for `modebench init`.
func Init() error { return errNotYet }

// Exec becomes User-mode Linux, with what that needs of its process. The command calls it for `modebench uml ARGS`.
func Exec(args []string) error { return errNotYet }

// Remember answers a question about a kernel from the cache, or by calling ask. The answer is valid as long as the kernel's
// file, its modules and this binary are the same.
func Remember(cache string, k Kernel, question string, ask func() ([]byte, error)) ([]byte, error) {
	return ask()
}
