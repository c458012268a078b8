package main

import (
	"fmt"
	"math"
	"os/exec"
	"slices"
)

func compareLabs(b *bench) error {
	if !has("ip", "apt install iproute2") || !has("ping", "apt install iputils-ping") {
		return nil
	}
	n := b.containers
	against := contest{entries: []entry{
		{"ours", b.ours(n, plain)},
		{"ours, mode bridge", b.ours(n, mode("bridge"))},
		{"ip -batch, create only", b.byIP(n, false)},
		{"ip -batch, whole", b.byIP(n, true)},
	}}
	if err := against.run(b.blocks); err != nil {
		return err
	}
	against.print(fmt.Sprintf("Lab of %d containers, %d to a bridge: until the first and the last answer, until all devices are gone", n, ports), "start", "stop")

	if err := exec.Command(python, "-c", "import mininet").Run(); err != nil {
		fmt.Println("left out: Mininet is not installed: apt install mininet")
		return nil
	}
	const few = 100
	small := contest{entries: []entry{{"ours", b.ours(few, plain)}, {"ours, mode bridge", b.ours(few, mode("bridge"))}, {"Mininet", byMininet(few)}}}
	if err := small.run(b.blocks); err != nil {
		return err
	}
	small.print(fmt.Sprintf("Lab of %d containers on a bridge, against Mininet's LinuxBridge without a controller", few), "start", "stop")
	return nil
}

// measureScale tells how what a container costs grows with their number.
func measureScale(b *bench) error {
	sizes := []int{64, 256, 1024, 4096}
	var c contest
	name := func(n int) string { return fmt.Sprintf("%d containers", n) }
	for _, n := range sizes {
		c.entries = append(c.entries, entry{name(n), func() (map[string]float64, error) {
			measured, err := b.ours(n, plain)()
			for what := range measured {
				measured[what+", each"] = measured[what] / float64(n)
			}
			return measured, err
		}})
	}
	slices.Reverse(c.entries) // ratios are to the largest
	if err := c.run(b.blocks); err != nil {
		return err
	}
	c.print("Cost by the number of containers; ratios of the largest lab to the others", "start, each", "start", "stop")
	// Least squares of the logarithms.
	var x, y, xx, xy float64
	for _, n := range sizes {
		lx, ly := math.Log(float64(n)), math.Log(summary(c.got[name(n)]["start"]).Center)
		x, y, xx, xy = x+lx, y+ly, xx+lx*lx, xy+lx*ly
	}
	k := float64(len(sizes))
	fmt.Printf("slope of log(time to start) over log(containers): %.2f\n", (k*xy-x*y)/(k*xx-x*x))
	return nil
}
