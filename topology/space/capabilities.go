package space

import (
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

var capabilities = []string{unix.CAP_NET_BIND_SERVICE: "net_bind_service", unix.CAP_NET_ADMIN: "net_admin", unix.CAP_NET_RAW: "net_raw"}

// Without calls f on the calling thread with capabilities (net_admin, net_raw, net_bind_service) taken out of its
// effective set. Call it inside of Do: the thread must not change meanwhile.
func Without(names []string, f func() error) error {
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var was [2]unix.CapUserData
	if err := unix.Capget(&head, &was[0]); err != nil {
		return fmt.Errorf("capabilities: %w", err)
	}
	less := was
	for _, name := range names {
		bit := slices.Index(capabilities, name)
		if name == "" || bit < 0 {
			return fmt.Errorf("capability %q: want net_admin, net_raw or net_bind_service", name)
		}
		less[0].Effective &^= 1 << bit
	}
	if err := unix.Capset(&head, &less[0]); err != nil {
		return fmt.Errorf("give up capabilities: %w", err)
	}
	err := f()
	if back := unix.Capset(&head, &was[0]); back != nil {
		return errors.Join(err, fmt.Errorf("take capabilities back: %w", back))
	}
	return err
}
