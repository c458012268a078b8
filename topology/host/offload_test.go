package host

import (
	"errors"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/modebench/modebench/topology"
)

func TestSetOffload(t *testing.T) {
	inside(t, func() error {
		err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "v0"}, PeerName: "v1"})
		if err != nil {
			return err
		}
		for _, feature := range []string{"gro", "gso", "tso", "tx-checksum"} {
			o := topology.Offload{Link: "v0", Feature: feature}
			first, err := setOffload(o)
			if err != nil {
				t.Error(err)
			}
			o.On = true
			if feature == "tso" {
				// Segmentation needs gso, which an earlier turn put off, only where segments are made in software.
				setOffload(topology.Offload{Link: "v0", Feature: "gso", On: true})
			}
			if was, err := setOffload(o); err != nil || was {
				t.Errorf("%s on: was %v, %v", feature, was, err)
			}
			o.On = false
			if was, err := setOffload(o); err != nil || !was {
				t.Errorf("%s off: was %v, %v", feature, was, err)
			}
			o.On = first
			if _, err := setOffload(o); err != nil {
				t.Error(err)
			}
		}
		// Without checksums the device cannot segment.
		if _, err := setOffload(topology.Offload{Link: "v0", Feature: "tx-checksum"}); err != nil {
			t.Error(err)
		}
		if _, err := setOffload(topology.Offload{Link: "v0", Feature: "tso", On: true}); err == nil || !strings.Contains(err.Error(), "stays off") {
			t.Errorf("tso without checksums: %v", err)
		}
		if _, err := setOffload(topology.Offload{Link: "v2", Feature: "tso"}); !errors.Is(err, unix.ENODEV) {
			t.Errorf("no device: %v", err)
		}
		_, err = setOffload(topology.Offload{Link: "v0", Feature: "lro"})
		if want := "ethtool -K v0 lro: no such feature: want one of gro, gso, tso, tx-checksum"; err == nil || err.Error() != want {
			t.Errorf("got  %v\nwant %s", err, want)
		}
		return nil
	})
}
