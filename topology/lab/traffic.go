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

// Trial is one measurement of one path. Both ends are given the same, except for Agent.
type Trial struct {
	Agent      Handle
	Test       string         // tcp-stream, tcp-rr, tcp-crr, udp-stream
	To         netip.AddrPort // sending end: whom; receiving end: its address, port 0 for the kernel's choice
	Streams    int            // parallel, at most 64; 0: 1
	Size       int            // bytes of a message or of a write; 0: 128 KiB (tcp-stream), 64 (tcp-rr, tcp-crr), 1400 (udp-stream)
	For        time.Duration
	Congestion string // tcp congestion control of each socket; empty: cubic where it may be set, else the kernel's
	Send       string // tcp-stream: copy (default), sendfile; udp-stream: batch (default), copy, gso
	Receive    string // tcp-stream: copy (default), trunc; udp-stream: batch (default), copy, gro
}

// Serving is a receiving end that is ready.
type Serving struct{ Port uint16 }

// Measured is one end's figures of one trial. The rate that was delivered is the receiving end's Bytes by Seconds; the
// sending end's also hold what was still in flight when its time was over.
type Measured struct {
	Seconds     float64 // from the start, or the first data received, to the last of it
	Operations  uint64  // request/response pairs, connections, datagrams; 0 for tcp-stream
	Bytes       uint64  // of payload, from the sending to the receiving end
	CPUSeconds  float64 // user and system time of the agent in that span
	Latency     []byte  // HdrHistogram, encoded (V2 compressed), in nanoseconds; empty for streams and the receiving end
	Retransmits uint64  // TCP segments sent again, of the whole namespace
	DSACKs      uint64  // TCP segments that the receiver proved to have been sent again needlessly (RFC 2883)
	OutOfOrder  uint64  // TCP segments queued out of order, of the whole namespace; datagrams that came after a later one
	Lost        uint64  // datagrams that did not come, by their numbers
	Dropped     uint64  // of those, lost to a full socket buffer
	Buffer      int     // receiving end of udp-stream: its socket buffer as granted, bytes (SO_RCVBUF, socket(7))
	Congestion  string  // in force; empty for udp-stream
}
