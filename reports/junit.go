package reports

import (
	"encoding/xml"
	"fmt"
	"io"
	"strings"
)

type junitSuites struct {
	XMLName  xml.Name      `xml:"testsuites"`
	Name     string        `xml:"name,attr"`
	Tests    int           `xml:"tests,attr"`
	Failures int           `xml:"failures,attr"`
	Skipped  int           `xml:"skipped,attr"`
	Time     string        `xml:"time,attr"`
	Suites   []*junitSuite `xml:"testsuite"`
}

type junitSuite struct {
	Name      string      `xml:"name,attr"`
	Tests     int         `xml:"tests,attr"`
	Failures  int         `xml:"failures,attr"`
	Skipped   int         `xml:"skipped,attr"`
	Time      string      `xml:"time,attr"`
	Timestamp string      `xml:"timestamp,attr"`
	Cases     []junitCase `xml:"testcase"`
	seconds   float64
}

type junitCase struct {
	Class   string        `xml:"classname,attr"`
	Name    string        `xml:"name,attr"`
	Time    string        `xml:"time,attr"`
	Failure *junitMessage `xml:"failure"`
	Skipped *junitMessage `xml:"skipped"`
}

type junitMessage struct {
	Message string `xml:"message,attr"`
	Text    string `xml:",chardata"`
}

// writeJUnit writes one test suite for each suite, mode and kernel, one test case for each result.
func writeJUnit(w io.Writer, res Results) error {
	doc := junitSuites{Name: "modebench", Time: seconds(res.Run.Seconds)}
	byName := map[string]*junitSuite{}
	for _, r := range res.Results {
		on := r.Fidelity.platform()
		name := r.Suite + "/" + r.Mode + " on " + on.String()
		s := byName[name]
		if s == nil {
			s = &junitSuite{Name: name, Timestamp: res.Run.Started.Format("2006-01-02T15:04:05")}
			byName[name] = s
			doc.Suites = append(doc.Suites, s)
		}
		c := junitCase{Class: strings.Join([]string{"modebench", r.Suite, r.Mode, className(on)}, "."), Name: caseName(r), Time: seconds(r.Seconds)}
		switch r.Outcome {
		case Fail:
			c.Failure = &junitMessage{Message: oneLine(r.Detail), Text: failureText(r)}
			s.Failures++
			doc.Failures++
		case Unable:
			c.Skipped = &junitMessage{Message: oneLine(r.Detail)}
			s.Skipped++
			doc.Skipped++
		}
		s.Cases = append(s.Cases, c)
		s.Tests++
		doc.Tests++
		s.seconds += r.Seconds
	}
	for _, s := range doc.Suites {
		s.Time = seconds(s.seconds)
	}
	data, err := xml.MarshalIndent(doc, "", "  ")
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "%s%s\n", xml.Header, data)
	return err
}

// className is a platform as the last part of a class name, in which dots part.
func className(on platform) string {
	return strings.NewReplacer(".", "_", " ", "-", ",", "", "(", "", ")", "").Replace(on.String())
}

// caseName tells the results of one suite, mode and kernel apart.
func caseName(r Result) string {
	parts := []string{r.Feature}
	for _, part := range []string{r.Spec, r.Implementation, r.Variant, r.Path, r.Profile, r.Fidelity.Fabric} {
		if part != "" && part != "kernel" {
			parts = append(parts, part)
		}
	}
	return strings.Join(parts, " · ")
}

func failureText(r Result) string {
	var b strings.Builder
	fmt.Fprintf(&b, "expected %s: %s (%s)\nobserved %s: %s\n", r.Expected, r.Reason, r.Source, r.Observed, r.Detail)
	for _, e := range r.Evidence {
		fmt.Fprintf(&b, "at %s: %s\n", e.At, e.Saw)
	}
	for _, c := range r.Reproduce {
		fmt.Fprintf(&b, "reproduce: %s\n", c)
	}
	if r.Capture != "" {
		fmt.Fprintf(&b, "capture: %s\n", r.Capture)
	}
	return b.String()
}

func seconds(s float64) string { return fmt.Sprintf("%.3f", s) }
