package probe

import (
	"encoding/binary"
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Of linux/neighbour.h: NDTA_STATS, and where ndts_table_fulls is in struct ndt_stats.
const (
	statsOfTable = 7
	tableFulls   = 80
)

// ndtmsg is of no family: all tables.
type ndtmsg struct{}

func (ndtmsg) Len() int          { return 4 }
func (ndtmsg) Serialize() []byte { return make([]byte, 4) }

// neighbourOverflows counts how often an entry found no room in the kernel's tables of neighbours, which all its namespaces share
// (gc_thresh3 of arp(7)).
func neighbourOverflows() (n uint64, err error) {
	req := nl.NewNetlinkRequest(unix.RTM_GETNEIGHTBL, unix.NLM_F_DUMP)
	req.AddData(ndtmsg{})
	tables, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWNEIGHTBL)
	if err != nil {
		return 0, fmt.Errorf("tables of neighbours: %w", err)
	}
	for _, t := range tables {
		attrs, err := nl.ParseRouteAttr(t[ndtmsg{}.Len():])
		if err != nil {
			return 0, fmt.Errorf("table of neighbours: %w", err)
		}
		for _, a := range attrs {
			if a.Attr.Type == statsOfTable && len(a.Value) >= tableFulls+8 {
				n += binary.NativeEndian.Uint64(a.Value[tableFulls:])
			}
		}
	}
	return n, nil
}
