package suites

import "time"

// Measure is how throughput is measured.
type Measure struct {
	Blocks int           // interleaved blocks; 0: none is measured
	Trial  time.Duration // of one measurement
	Seed   uint64        // of the order of modes in each block
}

func (r *Run) measuredCells() []Cell { return nil }

func (r *Run) declareMeasurement() {}
