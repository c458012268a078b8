package reports

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
)

// Write writes every document of res: put is called once for each with its file name in the report directory. The same
// results give the same bytes. Results that cannot be written as JSON, such as a value that is no number, are an error
// before put is first called.
func Write(res Results, put func(name string, data []byte) error) error {
	res = normal(res)
	documents := []struct {
		name  string
		write func(io.Writer, Results) error
	}{
		{"results.json", writeJSON},
		{"bench.txt", writeBench},
		{"junit.xml", writeJUnit},
		{"report.md", writeMarkdown},
		{"index.html", writePage},
	}
	for _, d := range documents {
		var b bytes.Buffer
		if err := d.write(&b, res); err != nil {
			return fmt.Errorf("%s: %w", d.name, err)
		}
		if err := put(d.name, b.Bytes()); err != nil {
			return fmt.Errorf("%s: %w", d.name, err)
		}
	}
	return nil
}

func writeJSON(w io.Writer, res Results) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", " ")
	enc.SetEscapeHTML(false)
	return enc.Encode(res)
}
