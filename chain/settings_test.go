// SPDX-License-Identifier: Apache-2.0

package chain

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestSettingsEqual(t *testing.T) {
	full := func() Settings {
		return Settings{
			Globals: map[string]string{"a": "1"}, MaxEntries: map[string]uint32{"m": 2}, ShareMapsFrom: "p", MapGroup: "g",
		}
	}
	if !full().Equal(full()) || !(Settings{}).Equal(Settings{Globals: map[string]string{}}) {
		t.Error("the same settings differ")
	}
	for name, change := range map[string]func(*Settings){
		"another value":  func(s *Settings) { s.Globals["a"] = "2" },
		"another global": func(s *Settings) { s.Globals = map[string]string{"b": "1"} },
		"another size":   func(s *Settings) { s.MaxEntries["m"] = 3 },
		"nobody's maps":  func(s *Settings) { s.ShareMapsFrom = "" },
		"another group":  func(s *Settings) { s.MapGroup = "h" },
	} {
		s := full()
		if change(&s); s.Equal(full()) || full().Equal(s) {
			t.Errorf("%s: they count as equal", name)
		}
	}
}

func TestSettingsDiff(t *testing.T) {
	old := Settings{
		Globals: map[string]string{"gone": "1", "same": "2", "limit": "3"}, MaxEntries: map[string]uint32{"table": 8}, MapGroup: "ops",
	}
	now := Settings{
		Globals: map[string]string{"same": "2", "limit": "4", "long": strings.Repeat("x", 100)}, MaxEntries: map[string]uint32{"table": 16},
		ShareMapsFrom: "p",
	}
	want := "global gone 1 -> (as built); global limit 3 -> 4; global long (as built) -> " + strings.Repeat("x", 63) + "...; " +
		"entries of table 8 -> 16; maps of (none) -> p; map group ops -> (none)"
	if got := strings.Join(old.Diff(now), "; "); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if got := now.Diff(now); len(got) != 0 {
		t.Errorf("the same settings: %q", got)
	}
}

func TestSpelled(t *testing.T) {
	for text, want := range map[string]string{
		"2": "2", " 2\n": "2", "1e2": "1e2", "1.0": "1.0", "-0": "-0", "true ": "true", "\tnull": "null",
		"[1, 2]": "[1,2]", "[ [ 1 ,2 ], [\"a b\" ] ]": `[[1,2],["a b"]]`, `{"k": [ 1 ]}`: `{"k":[1]}`,
		`"\u003c\u003E&"`: `"<>&"`, `"<"`: `"<"`, `"\u0041\/"`: `"A/"`, `"\\\" ,\u0022"`: `"\\\" ,\""`, `"\ud83d\ude00"`: `"😀"`, `"\ud800"`: "\"\ufffd\"",
		"\"\u2028\"": `"\u2028"`, `"\u0009"`: `"\t"`, `["a\\", "b"]`: `["a\\","b"]`,
		// What is no JSON stays.
		"": "", " ": " ", "two words": "two words", " 1 2": " 1 2", `"open`: `"open`, "\" \xff\"": "\" \xff\"", "[1, ": "[1, ",
	} {
		if got := Spelled(text); got != want {
			t.Errorf("%q becomes %q, want %q", text, got, want)
		}
		if again := Spelled(want); again != want {
			t.Errorf("%q becomes %q in turn", want, again)
		}
	}
}

func FuzzSpelled(f *testing.F) {
	for _, text := range []string{" 2", `[1, "\u003c"]`, `"\\\""`, `{"a": "\ud83d"}`, `"`} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got := Spelled(text)
		if !json.Valid([]byte(text)) || !utf8.ValidString(text) {
			if got != text {
				t.Fatalf("%q became %q", text, got)
			}
			return
		}
		value := func(text string) (v any) {
			d := json.NewDecoder(strings.NewReader(text))
			d.UseNumber()
			if err := d.Decode(&v); err != nil {
				t.Fatalf("%q: %v", text, err)
			}
			return v
		}
		if !reflect.DeepEqual(value(text), value(got)) || Spelled(got) != got {
			t.Fatalf("%q became %q, and then %q", text, got, Spelled(got))
		}
	})
}
