package capture

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// storm is how many frames for groups a device may have in a second. Those of a loop are copied without end, and leave neither a processor nor the
// recording to anybody else; a thousand containers that come at the same time, with all that they tell of themselves, are far below.
const storm = 20_000

// window are the frames of a device within a second.
type window struct {
	began time.Time
	n     int
}

// calm takes a device down by which a storm comes or leaves, as the storm control of switches does: a loop is open then.
func (t *tap) calm(fd, index int, r record) {
	w := t.groups[index]
	if w == nil || r.when.Sub(w.began) > time.Second {
		w = &window{began: r.when}
		t.groups[index] = w
	}
	if w.n++; w.n != storm {
		return
	}
	err := func() error {
		ifr, err := unix.NewIfreq(r.device)
		if err != nil {
			return err
		}
		if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, ifr); err != nil {
			return err
		}
		ifr.SetUint16(ifr.Uint16() &^ unix.IFF_UP)
		return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr)
	}()
	done := "it was taken down"
	if err != nil {
		done = fmt.Sprintf("it could not be taken down: %v", err)
	}
	said := fmt.Sprintf("a storm at %s: %d frames for groups within %s, as where there is a loop; %s", place(t.in, r.device), storm, r.when.Sub(w.began).Round(time.Millisecond), done)
	t.log.add(record{gap: fmt.Errorf("capture: %s", said)})
	t.log.mu.Lock()
	defer t.log.mu.Unlock()
	t.log.storms = append(t.log.storms, said)
}

func place(container, device string) string {
	if container == "" {
		return device
	}
	return container + ":" + device
}
