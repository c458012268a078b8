package reports

import (
	"html/template"
	"io"
)

var pageTemplate = template.Must(template.New("page").Parse(`<!doctype html><html lang="en"><meta charset="utf-8"><title>modebench</title><h1>{{.}}</h1></html>
`))

func writePage(w io.Writer, res Results) error {
	return pageTemplate.Execute(w, headlineText(res, tabulate(res, inMatrix)))
}
