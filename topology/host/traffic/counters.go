package traffic

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// counters are of the namespace (Documentation/networking/snmp_counter.rst).
type counters struct{ retransmits, dsacks, outOfOrder uint64 }

func count() (counters, error) {
	all := map[string]uint64{}
	for _, file := range []string{"/proc/thread-self/net/snmp", "/proc/thread-self/net/netstat"} {
		b, err := os.ReadFile(file)
		if err != nil {
			return counters{}, err
		}
		if err := parse(string(b), all); err != nil {
			return counters{}, fmt.Errorf("%s: %w", file, err)
		}
	}
	var c counters
	for name, to := range map[string]*uint64{
		"Tcp.RetransSegs":         &c.retransmits,
		"TcpExt.TCPDSACKRecvSegs": &c.dsacks,
		"TcpExt.TCPOFOQueue":      &c.outOfOrder,
	} {
		v, ok := all[name]
		if !ok {
			return c, fmt.Errorf("the kernel does not count %s", name)
		}
		*to = v
	}
	return c, nil
}

// parse reads pairs of lines, one of names and one of values, both after the same prefix.
func parse(text string, into map[string]uint64) error {
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	for i := 0; i+1 < len(lines); i += 2 {
		names, values := strings.Fields(lines[i]), strings.Fields(lines[i+1])
		if len(names) == 0 || len(names) != len(values) || names[0] != values[0] {
			return fmt.Errorf("line %d: names and values differ", i+2)
		}
		prefix := strings.TrimSuffix(names[0], ":")
		for j := 1; j < len(names); j++ {
			if strings.HasPrefix(values[j], "-") { // Tcp.MaxConn is -1: no limit
				continue
			}
			v, err := strconv.ParseUint(values[j], 10, 64)
			if err != nil {
				return fmt.Errorf("line %d: %s: %w", i+2, names[j], err)
			}
			into[prefix+"."+names[j]] = v
		}
	}
	return nil
}

// consumed is the processor time of all threads so far. The sum is exact, unlike how it splits into user and system
// (getrusage(2), CONFIG_TICK_CPU_ACCOUNTING).
func consumed() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		panic(err) // its arguments are constants
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
