package host

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"testing"
)

// The settings are those of the thread's namespace, not of the process's first thread.
func TestSysctlFollowsTheThread(t *testing.T) {
	const key = "net/ipv4/ip_forward"
	one, other := fresh(t), fresh(t)
	err := one.Do(func() error {
		was, err := setSysctl(key, "1")
		if err != nil || was != "0" {
			return fmt.Errorf("was %q, %w", was, err)
		}
		if now, err := sysctl(key); err != nil || now != "1" {
			return fmt.Errorf("is %q, %w", now, err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Do(func() error { return expectSysctl(key, "0") }); err != nil {
		t.Error("another namespace:", err)
	}
	if err := expectSysctl(key, "0"); err != nil {
		t.Error("the process's own namespace:", err)
	}
	if err := one.Do(func() error { return expectSysctl(key, "1") }); err != nil {
		t.Error("the namespace again:", err)
	}
}

func expectSysctl(key, want string) error {
	if got, err := sysctl(key); err != nil || got != want {
		return fmt.Errorf("%s is %q, want %q: %v", key, got, want, err)
	}
	return nil
}

func TestSysctlErrors(t *testing.T) {
	inside(t, func() error {
		if _, err := sysctl("net/ipv4/conf/nothing/rp_filter"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("read of a missing setting: %v", err)
		}
		_, err := setSysctl("net/ipv4/conf/nothing/rp_filter", "1")
		if !errors.Is(err, fs.ErrNotExist) || err.Error() != "sysctl net/ipv4/conf/nothing/rp_filter: no such file or directory" {
			t.Errorf("missing setting: %v", err)
		}
		if _, err := setSysctl("net/ipv4/ip_forward", "many"); err == nil ||
			err.Error() != "sysctl net/ipv4/ip_forward=many: invalid argument" {
			t.Errorf("wrong value: %v", err)
		}
		for _, key := range []string{"kernel/hostname", "net/../kernel/hostname", "/net/ipv4/ip_forward", "net.ipv4.ip_forward"} {
			if _, err := setSysctl(key, "x"); err == nil || !strings.Contains(err.Error(), "want a path below net") {
				t.Errorf("%s: %v", key, err)
			}
		}
		// The count of connections is read-only to everyone.
		const count = "net/netfilter/nf_conntrack_count"
		if _, err := os.Stat(sysctls + count); err == nil {
			if _, err := setSysctl(count, "1"); err == nil || !strings.HasPrefix(err.Error(), "sysctl "+count+"=1: ") {
				t.Errorf("read-only setting: %v", err)
			}
		}
		return nil
	})
}
