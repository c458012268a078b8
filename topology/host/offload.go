package host

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/modebench/modebench/topology"
)

// features are the requests of SIOCETHTOOL that read and switch a feature (linux/ethtool.h).
var features = map[string]struct{ read, write uint32 }{
	"tx-checksum": {unix.ETHTOOL_GTXCSUM, unix.ETHTOOL_STXCSUM},
	"tso":         {unix.ETHTOOL_GTSO, unix.ETHTOOL_STSO},
	"gso":         {unix.ETHTOOL_GGSO, unix.ETHTOOL_SGSO},
	"gro":         {unix.ETHTOOL_GGRO, unix.ETHTOOL_SGRO},
}

// setOffload switches a feature of a device of the namespace of the calling thread and tells what it was. A device
// that takes the request but stays as it is, because it lacks the feature or another that it rests on, is an error.
func setOffload(o topology.Offload) (was bool, err error) {
	fail := func(err error) (bool, error) {
		return false, fmt.Errorf("ethtool -K %s %s: %w", o.Link, o.Feature, err)
	}
	f, ok := features[o.Feature]
	if !ok {
		return fail(fmt.Errorf("no such feature: want one of %s", names(features)))
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fail(err)
	}
	defer unix.Close(fd)
	was, err = ethtool(fd, o.Link, f.read, false)
	if err != nil {
		return fail(err)
	}
	if was == o.On {
		return was, nil
	}
	if _, err := ethtool(fd, o.Link, f.write, o.On); err != nil {
		return fail(err)
	}
	is, err := ethtool(fd, o.Link, f.read, false)
	if err != nil {
		return fail(err)
	}
	if is != o.On {
		return fail(fmt.Errorf("stays %s: the device lacks it, or what it rests on is off or fixed", onOff(is)))
	}
	return was, nil
}

func onOff(on bool) string {
	if on {
		return "on"
	}
	return "off"
}

// ethtool makes one request of a struct ethtool_value.
func ethtool(fd int, device string, request uint32, on bool) (bool, error) {
	value := struct{ request, data uint32 }{request: request}
	if on {
		value.data = 1
	}
	ifreq := struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [24 - unsafe.Sizeof(uintptr(0))]byte
	}{data: unsafe.Pointer(&value)}
	if len(device) >= len(ifreq.name) {
		return false, unix.ENODEV
	}
	copy(ifreq.name[:], device)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&ifreq)))
	if errno != 0 {
		return false, errno
	}
	return value.data != 0, nil
}

// driverOf is the name of the driver of a device; empty where the device does not tell, or is gone.
func driverOf(device string) (string, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	info, err := unix.IoctlGetEthtoolDrvinfo(fd, device)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENODEV) { // gone meanwhile
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("ethtool -i %s: %w", device, err)
	}
	return unix.ByteSliceToString(info.Driver[:]), nil
}
