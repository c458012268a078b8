package reports

import (
	"fmt"
	"io"
	"strings"
)

// WriteAnnotations writes what is not as expected as GitHub's workflow commands, an error a line, for the log of a job; and one
// for the cells that never ran. Source: GitHub documentation, "Workflow commands for GitHub Actions".
func WriteAnnotations(w io.Writer, res Results) error {
	write := func(title, text string) error {
		_, err := fmt.Fprintf(w, "::error title=%s::%s\n", property(title), escaped(text))
		return err
	}
	for _, r := range res.Results {
		if r.Outcome != Fail {
			continue
		}
		title := fmt.Sprintf("%s %s: %s, expected %s (%s)", r.Mode, r.Feature, r.Observed, r.Expected, r.Fidelity.platform())
		if err := write(title, failureText(r)); err != nil {
			return err
		}
	}
	if n := len(res.Run.Missing); n > 0 {
		return write(fmt.Sprintf("%d planned cells never ran", n), strings.Join(res.Run.Missing, "\n"))
	}
	return nil
}

// escaped is a text as the message of a workflow command.
func escaped(s string) string {
	return strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A").Replace(s)
}

// property is a text as the value of a property of a workflow command.
func property(s string) string {
	return strings.NewReplacer(":", "%3A", ",", "%2C").Replace(escaped(s))
}
