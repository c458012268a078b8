package capture

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/modebench/modebench/topology/space"
)

// awaitStamps waits until the kernel stamps frames as they pass. It begins some time after the first socket asked for
// it (net_enable_timestamp in net/core/dev.c), and until then frames carry the time at which they were read, so that
// those of two sockets cannot be put in order. A socket with SO_TIMESTAMPING can tell: it gets no stamp then.
func awaitStamps() error {
	sp, err := space.New()
	if err != nil {
		return err
	}
	fd := -1
	err = sp.Do(func() (err error) {
		fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return errors.Join(fmt.Errorf("time stamps: %w", err), sp.Close())
	}
	return errors.Join(stamped(fd), unix.Close(fd), sp.Close())
}

// stamped sends messages to itself, over the loopback device of a namespace of its own, until one has a stamp.
func stamped(fd int) error {
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP)
	err = errors.Join(
		unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPING_NEW, unix.SOF_TIMESTAMPING_RX_SOFTWARE|unix.SOF_TIMESTAMPING_SOFTWARE),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 1}),
		unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	if err != nil {
		return fmt.Errorf("time stamps: %w", err)
	}
	self, err := unix.Getsockname(fd)
	if err != nil {
		return fmt.Errorf("time stamps: %w", err)
	}
	oob := make([]byte, 256)
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); {
		if err := unix.Sendto(fd, []byte{0}, 0, self); err != nil {
			return fmt.Errorf("time stamps: send: %w", err)
		}
		_, n, _, _, err := unix.Recvmsg(fd, nil, oob, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return fmt.Errorf("time stamps: receive: %w", err)
		}
		messages, err := unix.ParseSocketControlMessage(oob[:n])
		if err != nil {
			return fmt.Errorf("time stamps: %w", err)
		}
		for _, m := range messages {
			if m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SO_TIMESTAMPING_NEW {
				return nil
			}
		}
		<-time.After(100 * time.Microsecond)
	}
	return errors.New("time stamps: the kernel does not begin to stamp frames")
}
