// SPDX-License-Identifier: Apache-2.0

package chain

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"
)

// Settings are what a client sets of a program before it is loaded. The zero value sets nothing.
type Settings struct {
	Globals       map[string]string `json:"globals,omitempty"`         // values of global variables by name, as Spelled writes JSON
	MaxEntries    map[string]uint32 `json:"max_entries,omitempty"`     // how many entries maps have, by name
	ShareMapsFrom string            `json:"share_maps_from,omitempty"` // the program whose maps of the same name are used
	MapGroup      string            `json:"map_group,omitempty"`       // the group, by name or number, that may open the maps' pins
}

// Spelled is the JSON text of a global's value in the spelling that all texts of the same value have, as far as white
// space and the characters of strings go: 1 and 1.0 stay two. What is no JSON stays as it is.
func Spelled(text string) string {
	var b bytes.Buffer
	if !utf8.ValidString(text) || !json.Valid([]byte(text)) || json.Compact(&b, []byte(text)) != nil {
		return text
	}
	return regexp.MustCompile(`"(\\.|[^"\\])*"`).ReplaceAllStringFunc(b.String(), func(quoted string) string {
		var s string
		var out strings.Builder
		e := json.NewEncoder(&out)
		e.SetEscapeHTML(false)
		if json.Unmarshal([]byte(quoted), &s) != nil || e.Encode(s) != nil {
			return quoted
		}
		return strings.TrimSuffix(out.String(), "\n")
	})
}

// Equal tells whether both set the same; values of globals are compared as they are spelled.
func (s Settings) Equal(t Settings) bool {
	return maps.Equal(s.Globals, t.Globals) && maps.Equal(s.MaxEntries, t.MaxEntries) &&
		s.ShareMapsFrom == t.ShareMapsFrom && s.MapGroup == t.MapGroup
}

// Diff says for people in what t differs from s, a few words for each setting.
func (s Settings) Diff(t Settings) []string {
	var diff []string
	for _, name := range keysOf(s.Globals, t.Globals) {
		if was, is := valueOf(s.Globals, name), valueOf(t.Globals, name); was != is {
			diff = append(diff, fmt.Sprintf("global %s %s -> %s", name, was, is))
		}
	}
	for _, name := range keysOf(s.MaxEntries, t.MaxEntries) {
		if was, is := valueOf(s.MaxEntries, name), valueOf(t.MaxEntries, name); was != is {
			diff = append(diff, fmt.Sprintf("entries of %s %s -> %s", name, was, is))
		}
	}
	for _, change := range []struct{ what, was, is string }{
		{"maps of", s.ShareMapsFrom, t.ShareMapsFrom}, {"map group", s.MapGroup, t.MapGroup},
	} {
		if change.was != change.is {
			diff = append(diff, fmt.Sprintf("%s %s -> %s", change.what, orNone(change.was), orNone(change.is)))
		}
	}
	return diff
}

func keysOf[V any](a, b map[string]V) []string {
	keys := slices.AppendSeq(slices.Collect(maps.Keys(a)), maps.Keys(b))
	slices.Sort(keys)
	return slices.Compact(keys)
}

// valueOf is the value of a setting, cut to what fits into a line.
func valueOf[V any](settings map[string]V, name string) string {
	value, set := settings[name]
	if !set {
		return "(as built)"
	}
	return printable(fmt.Sprint(value))
}

func orNone(s string) string {
	if s == "" {
		return "(none)"
	}
	return s
}
