// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
)

// What writeYAML writes must read back as what was given, whatever the strings hold.
func TestYAMLReadsBack(t *testing.T) {
	texts := []string{
		"", "12", "1e10", "0x12", "no", "On", "y", "null", "~", "true", "a: b", "- x", "# c", "a #c", "a\nb\n", "\n",
		" x", "x ", "a\tb", "\x1b[0m", "\u009b", "it's", `"q"`, `x\y`, "2026-03-14T09:26:53Z", "1:30", "{a}", "[a]", "*a", "&a",
		"!x", "%x", "@x", "`x`", "|", "> x", "?", "-", "---", "<<", ".inf", "é", "\U0001f600", "/sys/fs/bpf", "eth0.100", "a,b",
	}
	const letters = "0129ef.+-_x:# \n\t'\"a\\/{}[],"
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 5000 {
		s := make([]byte, rnd.IntN(9))
		for i := range s {
			s[i] = letters[rnd.IntN(len(letters))]
		}
		texts = append(texts, string(s))
	}
	for _, s := range texts {
		readBack(t, map[string]any{
			"s": s, "list": []any{s, s}, "empty": []any{}, "none": map[string]any{}, "null": nil,
			"deep": map[string]any{"list": []any{map[string]any{"s": s, "t": []any{s}}, map[string]any{}}},
		})
	}
	readBack(t, map[string]any{"nested": []any{[]any{"a", "b"}, []any{}}, "bool": true})
	readBack(t, map[string]any{})
}

func readBack(t *testing.T, want any) {
	t.Helper()
	text, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := writeYAML(&b, text); err != nil {
		t.Fatal(err)
	}
	var got any
	if err := yaml.Unmarshal(b.Bytes(), &got); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%s became\n%sand reads as %#v (%v)", text, &b, got, err)
	}
}

func TestYAMLKeepsOrder(t *testing.T) {
	var b bytes.Buffer
	if err := writeYAML(&b, []byte(`{"z":1,"a":[{"x":"2","b":18446744073709551615}],"m":null}`)); err != nil {
		t.Fatal(err)
	}
	const want = "z: 1\na:\n  - x: \"2\"\n    b: 18446744073709551615\nm: null\n"
	if b.String() != want {
		t.Errorf("got\n%swant\n%s", &b, want)
	}
}

func TestYAMLErrors(t *testing.T) {
	for _, text := range []string{"", "{", `{"a":`, `{"a":[`, `{"a":[{"b":`} {
		if err := writeYAML(new(bytes.Buffer), []byte(text)); err == nil {
			t.Errorf("%q is no error", text)
		}
	}
}

func TestVersion(t *testing.T) {
	if r := xdpctl(t, "/nonexistent", "version", ""); r.status != exitDone || !strings.HasPrefix(r.out, "xdpctl ") {
		t.Errorf("exit status %d: %q", r.status, r.out)
	}
	var b build
	r := xdpctl(t, "/nonexistent", "version -o json", "")
	if err := json.Unmarshal([]byte(r.out), &b); err != nil || b.Version == "" || b.Go == "" || b.Platform == "" {
		t.Errorf("%v: %q", err, r.out)
	}
	var y map[string]string
	r = xdpctl(t, "/nonexistent", "version -o yaml", "")
	if err := yaml.Unmarshal([]byte(r.out), &y); err != nil || y["version"] != b.Version {
		t.Errorf("%v: %q", err, r.out)
	}
}
