package reports

import "testing"

func TestQuantity(t *testing.T) {
	for _, test := range []struct {
		value float64
		unit  string
		want  string
	}{
		{0.0000193, "p50-sec", "19.3 µs"},
		{0, "sec", "0 s"},
		{2.5e-9, "sec", "2.50 ns"},
		{0.250, "max-sec", "250 ms"},
		{74.2, "sec", "74.2 s"},
		{40.7e9, "bit/s", "40.7 Gbit/s"},
		{15747, "conn/s", "15.7k conn/s"},
		{999, "pkt/s", "999 pkt/s"},
		{196e-12, "cpu-sec/B", "196 ms/GB"},
		{15e-6, "cpu-sec/op", "15 µs/op"},
		{0.001, "loss-fraction", "0.10 %"},
		{2, "retransmits", "2 retransmits"},
		{3, "count", "3 count"},
	} {
		if got := quantity(test.value, test.unit); got != test.want {
			t.Errorf("%v %s is written %q, want %q", test.value, test.unit, got, test.want)
		}
	}
}

func TestShell(t *testing.T) {
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{"run", "-m", "bridge"}, "run -m bridge"},
		{[]string{"run", "-o", "my report", "it's", ""}, `run -o 'my report' 'it'\''s' ''`},
	} {
		if got := shell(test.args); got != test.want {
			t.Errorf("%q is written %s, want %s", test.args, got, test.want)
		}
	}
}
