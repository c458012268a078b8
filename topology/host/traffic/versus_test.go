package traffic

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"golang.org/x/perf/benchmath"

	"github.com/modebench/modebench/topology/lab"
	"github.com/modebench/modebench/topology/space"
)

var versus = flag.Int("versus", 0, "compare with iperf3, sockperf, qperf and package net, in `blocks`; 0: do not")

// A contest is one thing that two tools measure on the same path. Of times (us) less is better, of rates more.
type contest struct {
	name, unit   string
	ours, theirs func() (float64, error)
}

// TestVersus prints how this generator compares with others: medians of the ratios of neighbouring trials, with 95 %
// intervals by order statistics. It judges nothing: figures depend on the machine and on who else uses it.
func TestVersus(t *testing.T) {
	if *versus == 0 {
		t.Skip("not asked for: -versus 10")
	}
	p := newPair(t)
	const cpu = 1
	server, client := p.agent(t, "b", -1), p.agent(t, "a", -1)
	pinnedServer, pinnedClient := p.agent(t, "b", cpu), p.agent(t, "a", cpu)

	ours := func(pinned bool, trial lab.Trial, figure func(sent, received lab.Measured) (float64, error)) func() (float64, error) {
		return func() (float64, error) {
			from, to := client, server
			if pinned {
				from, to = pinnedClient, pinnedServer
			}
			trial.To = netip.AddrPortFrom(p.v4, 0)
			sent, received, err := p.trial(from, to, trial)
			if err != nil {
				return 0, err
			}
			if pinned && trial.Test == "tcp-stream" {
				t.Logf("same processor: %.0f ms/GB by what it consumed, %.0f by the clock; %d sent again, %d needlessly",
					(sent.CPUSeconds+received.CPUSeconds)*1e3/(float64(received.Bytes)/1e9), received.Seconds*1e3/(float64(received.Bytes)/1e9),
					sent.Retransmits, sent.DSACKs)
			}
			if trial.Test == "udp-stream" {
				t.Logf("udp-stream %s, bound %v: %.2f %% lost", trial.Send, pinned, 100*float64(received.Lost)/float64(sent.Operations))
			}
			return figure(sent, received)
		}
	}
	rate := func(_, received lab.Measured) (float64, error) {
		return float64(received.Bytes) * 8 / received.Seconds / 1e9, nil
	}
	perSecond := func(sent, _ lab.Measured) (float64, error) { return float64(sent.Operations) / sent.Seconds, nil }
	median := func(sent, _ lab.Measured) (float64, error) {
		h, err := hdrhistogram.Decode(sent.Latency)
		if err != nil {
			return 0, err
		}
		return float64(h.ValueAtQuantile(50)) / 1e3, nil
	}
	stream := lab.Trial{Test: "tcp-stream", For: time.Second}
	most := lab.Trial{Test: "tcp-stream", For: time.Second, Size: 512 << 10, Send: "sendfile", Receive: "trunc"}
	rr := lab.Trial{Test: "tcp-rr", For: 500 * time.Millisecond}
	crr := lab.Trial{Test: "tcp-crr", For: 500 * time.Millisecond}
	udp := lab.Trial{Test: "udp-stream", For: time.Second}
	gso := lab.Trial{Test: "udp-stream", For: time.Second, Send: "gso", Receive: "gro"}

	bind := fmt.Sprint(cpu)
	to := p.v4.String()
	var contests []contest
	if has(t, "iperf3") {
		p.serve(t, "iperf3", "-s", "-p", "5201")
		p.serve(t, "taskset", "-c", bind, "iperf3", "-s", "-p", "5202")
		free, pinned := []string{"iperf3", "-c", to, "-p", "5201"}, []string{"taskset", "-c", bind, "iperf3", "-c", to, "-p", "5202"}
		tcp := []string{"-t", "1", "-l", "128K", "-C", "cubic", "-J"}
		dgram := []string{"-t", "1", "-u", "-b", "0", "-l", "1400", "-J"}
		contests = append(contests,
			contest{"tcp-stream 128 KiB", "Gbit/s", ours(false, stream, rate), p.iperf3(free, tcp)},
			contest{"tcp-stream 128 KiB, same processor", "Gbit/s", ours(true, stream, rate), p.iperf3(pinned, tcp)},
			contest{"tcp-stream 512 KiB sendfile/trunc", "Gbit/s", ours(false, most, rate), p.iperf3(free, tcp)},
			contest{"udp-stream 1400 B batch", "Gbit/s", ours(false, udp, rate), p.iperf3(free, dgram)},
			contest{"udp-stream 1400 B batch, same processor", "Gbit/s", ours(true, udp, rate), p.iperf3(pinned, dgram)},
			contest{"udp-stream 1400 B gso/gro", "Gbit/s", ours(false, gso, rate), p.iperf3(free, dgram)},
		)
	}
	if has(t, "sockperf") {
		p.serve(t, "taskset", "-c", bind, "sockperf", "sr", "--tcp", "-i", to, "-p", "11111")
		contests = append(contests, contest{
			"tcp-rr 64 B median vs sockperf, same processor", "us", ours(true, rr, median),
			p.printed(`percentile 50\.000 = +([0-9.]+)`, 2, "taskset", "-c", bind, "sockperf", "pp", "--tcp", "-i", to, "-p", "11111", "-m", "64", "-t", "1"),
		})
	}
	if has(t, "qperf") {
		p.serve(t, "taskset", "-c", bind, "qperf")
		contests = append(contests, contest{
			"tcp-rr 64 B median vs qperf, same processor", "us", ours(true, rr, median),
			p.printed(`latency += +([0-9.]+) ns`, 2e-3, "taskset", "-c", bind, "qperf", "-uu", "-t", "1", "-m", "64", to, "tcp_lat"),
		})
	}
	self, err := os.Executable()
	must(t, err)
	p.serve(t, "taskset", "-c", bind, self, "dialled", to+":7000")
	contests = append(contests, contest{
		"tcp-crr 64 B vs net.Dial, same processor", "1/s", ours(true, crr, perSecond),
		p.printed(`([0-9.]+) connections/s`, 1, "taskset", "-c", bind, self, "dial", to+":7000"),
	})

	ratios := map[string][]float64{}
	both := map[string][2][]float64{}
	random := rand.New(rand.NewPCG(1, 2))
	for range *versus {
		for _, i := range random.Perm(len(contests)) {
			c := contests[i]
			var got [2]float64
			for _, who := range random.Perm(2) {
				quiet(2 * time.Second)
				var err error
				if got[who], err = []func() (float64, error){c.ours, c.theirs}[who](); err != nil {
					t.Fatalf("%s: %v", c.name, err)
				}
			}
			ratios[c.name] = append(ratios[c.name], got[0]/got[1])
			b := both[c.name]
			both[c.name] = [2][]float64{append(b[0], got[0]), append(b[1], got[1])}
		}
	}
	summary := func(v []float64) benchmath.Summary {
		return benchmath.AssumeNothing.Summary(benchmath.NewSample(v, &benchmath.DefaultThresholds), 0.95)
	}
	for _, c := range contests {
		r := summary(ratios[c.name])
		fmt.Printf("%-48s %9.4g vs %9.4g %-6s  ratio %.2f [%.2f..%.2f]\n", c.name,
			summary(both[c.name][0]).Center, summary(both[c.name][1]).Center, c.unit, r.Center, r.Lo, r.Hi)
	}
}

func has(t *testing.T, tool string) bool {
	_, err := exec.LookPath(tool)
	if err != nil {
		t.Logf("%s is not installed", tool)
	}
	return err == nil
}

// serve keeps another tool's server running in b.
func (p *pair) serve(t *testing.T, command ...string) {
	cmd := exec.Command(command[0], command[1:]...)
	space.Mortal(cmd)
	must(t, p.b.Start(cmd))
	t.Cleanup(func() {
		must(t, cmd.Process.Kill())
		_ = cmd.Wait()
	})
}

// client runs another tool's client in a, once more where its server is not ready yet.
func (p *pair) client(command ...string) (out []byte, err error) {
	for end := time.Now().Add(3 * time.Second); ; {
		err = p.a.Do(func() error {
			cmd := exec.Command(command[0], command[1:]...)
			out, err = cmd.CombinedOutput()
			return err
		})
		if err == nil || time.Now().After(end) {
			break
		}
	}
	if err != nil {
		err = fmt.Errorf("%s: %w\n%s", strings.Join(command, " "), err, out)
	}
	return out, err
}

func (p *pair) iperf3(command, options []string) func() (float64, error) {
	return func() (float64, error) {
		out, err := p.client(append(command[:len(command):len(command)], options...)...)
		if err != nil {
			return 0, err
		}
		var r struct {
			End struct {
				Received struct {
					Rate float64 `json:"bits_per_second"`
				} `json:"sum_received"`
			}
		}
		if err := json.Unmarshal(out, &r); err != nil {
			return 0, err
		}
		return r.End.Received.Rate / 1e9, nil
	}
}

// printed takes a figure from what a client prints.
func (p *pair) printed(pattern string, unit float64, command ...string) func() (float64, error) {
	re := regexp.MustCompile(pattern)
	return func() (float64, error) {
		out, err := p.client(command...)
		if err != nil {
			return 0, err
		}
		m := re.FindSubmatch(out)
		if m == nil {
			return 0, fmt.Errorf("%s printed no %q:\n%s", command[0], pattern, out)
		}
		v, err := strconv.ParseFloat(string(m[1]), 64)
		return v * unit, err
	}
}

// dial is what package net makes of tcp-crr.
func dial(addr string) error {
	buf := make([]byte, 64)
	n, start := 0, time.Now()
	for ; time.Since(start) < 500*time.Millisecond; n++ {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			return err
		}
		if _, err := c.Write(buf); err != nil {
			return err
		}
		if _, err := io.ReadFull(c, buf); err != nil {
			return err
		}
		if _, err := c.Read(buf); err != io.EOF {
			return fmt.Errorf("peer does not close: %v", err)
		}
		if err := c.Close(); err != nil {
			return err
		}
	}
	fmt.Printf("%.0f connections/s\n", float64(n)/time.Since(start).Seconds())
	return nil
}

// dialled is its peer.
func dialled(addr string) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	for buf := make([]byte, 64); ; {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		if _, err := io.ReadFull(c, buf); err != nil {
			return err
		}
		if _, err := c.Write(buf); err != nil {
			return err
		}
		if err := c.Close(); err != nil {
			return err
		}
	}
}

// quiet waits until the machine was 85 % idle for half a second, but no longer than that.
func quiet(longest time.Duration) {
	for end := time.Now().Add(longest); time.Now().Before(end); {
		idle, all := ticks()
		time.Sleep(500 * time.Millisecond)
		idle2, all2 := ticks()
		if idle2-idle > 0.85*(all2-all) {
			return
		}
	}
}

func ticks() (idle, all float64) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, 0
	}
	line, _, _ := strings.Cut(string(b), "\n")
	for i, f := range strings.Fields(line)[1:] {
		v, _ := strconv.ParseFloat(f, 64)
		if all += v; i == 3 {
			idle = v
		}
	}
	return idle, all
}
