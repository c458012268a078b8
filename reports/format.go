package reports

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// quantity writes a value of a base unit the way people read it: 0.0000193 sec as 19.3 µs.
func quantity(v float64, unit string) string {
	switch _, stat, ok := strings.Cut(unit, "-"); {
	case unit == "cpu-sec/B":
		return digits(v*1e12) + " ms/GB"
	case unit == "cpu-sec/op":
		return digits(v*1e6) + " µs/op"
	case unit == "sec" || ok && stat == "sec":
		return duration(v)
	case strings.HasSuffix(unit, "fraction"):
		return digits(v*100) + " %"
	case unit == "bit/s" || unit == "op/s" || unit == "conn/s" || unit == "pkt/s":
		return scaled(v, unit)
	default:
		return strings.TrimSpace(digits(v) + " " + unit)
	}
}

func duration(sec float64) string {
	switch abs := math.Abs(sec); {
	case abs == 0:
		return "0 s"
	case abs < 1e-6:
		return digits(sec*1e9) + " ns"
	case abs < 1e-3:
		return digits(sec*1e6) + " µs"
	case abs < 1:
		return digits(sec*1e3) + " ms"
	default:
		return digits(sec) + " s"
	}
}

func scaled(v float64, unit string) string {
	for _, p := range []struct {
		at     float64
		prefix string
	}{{1e9, "G"}, {1e6, "M"}, {1e3, "k"}} {
		if math.Abs(v) >= p.at {
			if strings.HasPrefix(unit, "bit") {
				return digits(v/p.at) + " " + p.prefix + unit
			}
			return digits(v/p.at) + p.prefix + " " + unit
		}
	}
	return digits(v) + " " + unit
}

// digits writes three significant digits, and whole numbers in full.
func digits(v float64) string {
	switch abs := math.Abs(v); {
	case abs >= 100, v == math.Trunc(v):
		return strconv.FormatFloat(v, 'f', 0, 64)
	case abs >= 10:
		return strconv.FormatFloat(v, 'f', 1, 64)
	case abs >= 0.01:
		return strconv.FormatFloat(v, 'f', 2, 64)
	default:
		return strconv.FormatFloat(v, 'g', 2, 64)
	}
}

func times(ratio float64) string { return strconv.FormatFloat(ratio, 'f', 2, 64) + "×" }

// interval writes the ratio and, where one is claimed, its interval.
func (s Summary) interval() string {
	if s.Blocks == 0 {
		return "–"
	}
	if !s.Interval {
		return times(s.Ratio)
	}
	return fmt.Sprintf("%s [%.2f, %.2f]", times(s.Ratio), s.Low, s.High)
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return strconv.Itoa(n) + " " + noun + "s"
}

func gibibytes(bytes uint64) string {
	return digits(float64(bytes)/(1<<30)) + " GiB"
}

// shell writes arguments as a line that a shell reads back.
func shell(args []string) string {
	quoted := make([]string, len(args))
	for i, a := range args {
		if a == "" || strings.ContainsAny(a, " \t\n'\"\\$`*?[]{}()<>|&;#~!") {
			a = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
		}
		quoted[i] = a
	}
	return strings.Join(quoted, " ")
}

// lowerFirst writes a title within a sentence; an abbreviation keeps its capitals.
func lowerFirst(s string) string {
	if len(s) > 1 && s[1] >= 'a' {
		return strings.ToLower(s[:1]) + s[1:]
	}
	return s
}
