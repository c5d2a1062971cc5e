// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// writeYAML writes text, one JSON object, as YAML with the keys in the same order. Each string that is not
// plainly one is quoted, so that every parser, of YAML 1.1 too, reads back what the daemon sent.
func writeYAML(b *bytes.Buffer, text []byte) error {
	y := yamlWriter{Buffer: b, dec: json.NewDecoder(bytes.NewReader(text)), plain: regexp.MustCompile(`^[A-Za-z/][A-Za-z0-9_./-]*$`)}
	y.dec.UseNumber()
	if _, err := y.dec.Token(); err != nil {
		return err
	}
	return y.object("", "")
}

type yamlWriter struct {
	*bytes.Buffer
	dec   *json.Decoder
	plain *regexp.Regexp // strings that need no quotes unless YAML has a meaning for them
}

// object writes the rest of an object whose opening brace was read; lead goes before its first key, in place
// of the indent.
func (y *yamlWriter) object(indent, lead string) error {
	if !y.dec.More() {
		y.WriteString(strings.TrimRight(lead, " ") + " {}\n")
		_, err := y.dec.Token()
		return err
	}
	for ; y.dec.More(); lead = indent {
		key, err := y.dec.Token()
		if err != nil {
			return err
		}
		y.WriteString(lead + y.scalar(key) + ":")
		if err := y.value(indent); err != nil {
			return err
		}
	}
	_, err := y.dec.Token()
	return err
}

// value writes what follows a key of an object with that indent.
func (y *yamlWriter) value(indent string) error {
	t, err := y.dec.Token()
	if err != nil {
		return err
	}
	switch t {
	case json.Delim('['):
		return y.list(indent + "  ")
	case json.Delim('{'):
		if y.dec.More() {
			y.WriteByte('\n')
			return y.object(indent+"  ", indent+"  ")
		}
		return y.object(indent, "")
	}
	y.WriteString(" " + y.scalar(t) + "\n")
	return nil
}

// list writes the rest of a list whose opening bracket was read.
func (y *yamlWriter) list(indent string) error {
	if !y.dec.More() {
		y.WriteString(" []\n")
	} else {
		y.WriteByte('\n')
	}
	for y.dec.More() {
		t, err := y.dec.Token()
		if err != nil {
			return err
		}
		switch t {
		case json.Delim('['):
			y.WriteString(indent + "-")
			err = y.list(indent + "  ")
		case json.Delim('{'):
			err = y.object(indent+"  ", indent+"- ")
		default:
			y.WriteString(indent + "- " + y.scalar(t) + "\n")
		}
		if err != nil {
			return err
		}
	}
	_, err := y.dec.Token()
	return err
}

func (y *yamlWriter) scalar(t json.Token) string {
	s, ok := t.(string)
	if !ok {
		if t == nil {
			return "null"
		}
		return fmt.Sprint(t)
	}
	words := []string{"y", "n", "yes", "no", "on", "off", "true", "false", "null"}
	if y.plain.MatchString(s) && !slices.Contains(words, strings.ToLower(s)) {
		return s
	}
	// Go's escapes are a part of those that YAML has.
	return strconv.Quote(s)
}
