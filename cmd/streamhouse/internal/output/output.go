// Package output writes results for people and for scripts.
package output

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
)

// Format is how results are written.
type Format string

// Formats.
const (
	Table Format = "table"
	JSON  Format = "json"
	Value Format = "value"
)

// String, Set and Type make a Format a flag.
func (f *Format) String() string { return string(*f) }

// Type is the word that help shows.
func (f *Format) Type() string { return "format" }

// Set takes table, json or value.
func (f *Format) Set(s string) error {
	switch Format(s) {
	case Table, JSON, Value:
		*f = Format(s)
		return nil
	}
	return fmt.Errorf("must be table, json or value")
}

// Rows is a table with a title for each column. Cells may have a style's colours.
type Rows struct {
	Style  Style
	Titles []string
	Cells  [][]string
}

// Add adds one row; cells are printed as fmt.Sprint does, an empty one as a dash.
func (r *Rows) Add(cells ...any) {
	row := make([]string, len(cells))
	for i, c := range cells {
		if row[i] = fmt.Sprint(c); row[i] == "" {
			row[i] = "-"
		}
	}
	r.Cells = append(r.Cells, row)
}

// WriteTo writes the table with aligned columns.
func (r *Rows) WriteTo(w io.Writer) (int64, error) {
	widths := make([]int, len(r.Titles))
	for _, row := range append([][]string{r.Titles}, r.Cells...) {
		for i, cell := range row {
			widths[i] = max(widths[i], width(cell))
		}
	}
	titles := make([]string, len(r.Titles))
	for i, t := range r.Titles {
		titles[i] = r.Style.Bold(t)
	}
	var b strings.Builder
	for _, row := range append([][]string{titles}, r.Cells...) {
		for i, cell := range row {
			b.WriteString(cell)
			if i < len(row)-1 { // behind the last cell spaces would only wrap
				b.WriteString(strings.Repeat(" ", widths[i]-width(cell)+2))
			}
		}
		b.WriteByte('\n')
	}
	n, err := io.WriteString(w, b.String())
	return int64(n), err
}

// WriteJSON writes v, indented, with a line end.
func WriteJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// Write writes one result: v as JSON, the table, or the values one a line.
func Write(w io.Writer, f Format, v any, table *Rows, values []string) error {
	switch f {
	case JSON:
		return WriteJSON(w, v)
	case Value:
		for _, s := range values {
			if _, err := fmt.Fprintln(w, s); err != nil {
				return err
			}
		}
		return nil
	default:
		_, err := table.WriteTo(w)
		return err
	}
}

// Bytes writes a number of bytes for people.
func Bytes(n int64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	f, prefix := float64(n), ""
	for _, prefix = range []string{"KiB", "MiB", "GiB", "TiB", "PiB"} {
		if f /= unit; f < unit {
			break
		}
	}
	return fmt.Sprintf("%.1f %s", f, prefix)
}
