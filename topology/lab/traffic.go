package lab

import (
	"net/netip"
	"time"
)

// Verbs of the traffic generator. Each end of a measurement is an agent: a process of its own that lives in the
// namespace, so that what it costs can be told apart from everything else.
//
//	Traffic.Start  AgentAt → Handle    starts an agent
//	Traffic.Serve  Trial   → Serving   the receiving end, ready when it returns
//	Traffic.Run    Trial   → Measured  the sending end: returns after Trial.For
//	Traffic.Finish Handle  → Measured  ends what Serve began, with the receiving end's figures
//	Traffic.End    Handle  → Nothing   ends an agent

// AgentAt says where an agent lives.
type AgentAt struct {
	In  string // container; empty: the machine's own namespace
	CPU int    // processor that it is bound to; -1: any
}

// Trial is one measurement of one path.
type Trial struct {
	Agent      Handle
	Test       string         // tcp-stream, tcp-rr, tcp-crr, udp-stream
	To         netip.AddrPort // sending end: whom; receiving end: its address, port 0 for the kernel's choice
	Streams    int            // parallel; 0: 1
	Size       int            // bytes of a message or of a write
	For        time.Duration
	Congestion string // tcp congestion control of each socket; empty: cubic where it may be set, else the kernel's
	Send       string // copy (default), sendfile; udp-stream: copy, batch, gso
	Receive    string // copy (default), trunc; udp-stream: copy, batch, gro
}

// Serving is a receiving end that is ready.
type Serving struct{ Port uint16 }

// Measured is one end's figures of one trial.
type Measured struct {
	Seconds     float64 // of measuring
	Operations  uint64  // request/response pairs, connections, datagrams
	Bytes       uint64  // of payload
	CPUSeconds  float64 // user and system time of the agent in that span
	Latency     []byte  // HdrHistogram, encoded (V2 compressed), in nanoseconds; empty for streams
	Retransmits uint64  // TCP segments sent again, of the whole namespace
	DSACKs      uint64  // of those, proven needless by the receiver (RFC 2883)
	OutOfOrder  uint64  // TCP segments queued out of order
	Dropped     uint64  // datagrams lost to a full socket buffer
	Congestion  string  // in force
}
