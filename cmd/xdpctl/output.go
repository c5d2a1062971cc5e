// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// print prints a response: as JSON or YAML with the names of the API, or with the function given.
func (a *app) print(m proto.Message, table func(io.Writer)) error {
	text, err := protojson.MarshalOptions{UseProtoNames: true, EmitUnpopulated: true}.Marshal(m)
	if err != nil {
		return &failure{fmt.Errorf("encode the answer: %w", err)}
	}
	return a.printJSON(text, table)
}

// printJSON prints text, which is JSON, the way that --output asks for.
func (a *app) printJSON(text []byte, table func(io.Writer)) error {
	var b bytes.Buffer
	var err error
	switch a.output.value {
	case "json":
		// protojson varies its white space on purpose; Indent makes it the same each time.
		err = json.Indent(&b, text, "", "  ")
		b.WriteByte('\n')
	case "yaml":
		err = writeYAML(&b, text)
	default:
		var plain bytes.Buffer
		table(&plain)
		b.WriteString(printable(plain.String()))
	}
	if err != nil {
		return &failure{fmt.Errorf("encode the answer: %w", err)}
	}
	if _, err := b.WriteTo(a.out); err != nil {
		return &failure{fmt.Errorf("print the answer: %w", err)}
	}
	return nil
}

// table is rows of cells, printed in columns as wide as their widest cell.
type table struct {
	right []bool // by column: aligned to the right
	rows  [][]string
}

func (t *table) row(cells ...string) { t.rows = append(t.rows, cells) }

func (t *table) write(w io.Writer) {
	var widths []int
	for _, row := range t.rows {
		for i, cell := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	for _, row := range t.rows {
		line := ""
		for i, cell := range row {
			gap := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
			if i < len(t.right) && t.right[i] {
				line += gap + cell + "  "
			} else {
				line += cell + gap + "  "
			}
		}
		fmt.Fprintln(w, strings.TrimRight(line, " "))
	}
}
