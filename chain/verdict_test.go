// SPDX-License-Identifier: Apache-2.0

package chain

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestVerdictNames(t *testing.T) {
	names := map[Verdict]string{Aborted: "aborted", Drop: "drop", Pass: "pass", Tx: "tx", Redirect: "redirect", Continue: "continue"}
	for v := range Verdict(70) {
		name, known := names[v]
		if !known {
			name = fmt.Sprintf("unknown(%d)", v)
		}
		if v.String() != name {
			t.Errorf("verdict %d is %q, want %q", v, v, name)
		}
		parsed, err := ParseVerdict(name)
		if known && (err != nil || parsed != v) {
			t.Errorf("parse %q: %v, %v", name, parsed, err)
		}
		if !known && !errors.Is(err, &Error{Reason: InvalidArgument}) {
			t.Errorf("parse %q: %v, want an invalid argument", name, err)
		}
	}
	for _, bad := range []string{"", "PASS", "pass ", "2", "none"} {
		if v, err := ParseVerdict(bad); err == nil {
			t.Errorf("%q was read as %v", bad, v)
		}
	}
}

func TestVerdictJSON(t *testing.T) {
	data, err := json.Marshal(Redirect)
	if err != nil || string(data) != `"redirect"` {
		t.Fatalf("%s, %v", data, err)
	}
	var v Verdict
	if err := json.Unmarshal(data, &v); err != nil || v != Redirect {
		t.Fatalf("%v, %v", v, err)
	}
	if err := json.Unmarshal([]byte(`"sideways"`), &v); err == nil || v != Redirect {
		t.Fatalf("an unknown name made %v, %v", v, err)
	}
	if data, err := json.Marshal(Verdict(9)); err == nil {
		t.Fatalf("verdict 9 was written as %s", data)
	}
}

func TestProceedOn(t *testing.T) {
	for _, tt := range []struct {
		set      ProceedOn
		text     string
		json     string
		verdicts []Verdict
	}{
		{Of(), "none", "[]", []Verdict{}},
		{Of(Continue), "none", "[]", []Verdict{}},
		{1 << Continue, "none", "[]", []Verdict{}},
		{Of(Pass), "pass", `["pass"]`, []Verdict{Pass}},
		{Of(Tx, Pass, Pass, Continue), "pass,tx", `["pass","tx"]`, []Verdict{Pass, Tx}},
		{
			Of(Redirect, Tx, Pass, Drop, Aborted), "aborted,drop,pass,tx,redirect",
			`["aborted","drop","pass","tx","redirect"]`,
			[]Verdict{Aborted, Drop, Pass, Tx, Redirect},
		},
	} {
		if !tt.set.Valid() || tt.set.String() != tt.text || !slices.Equal(tt.set.Verdicts(), tt.verdicts) {
			t.Errorf("%#x: valid %v, %q, %v, want %q, %v", uint32(tt.set), tt.set.Valid(), tt.set, tt.set.Verdicts(), tt.text, tt.verdicts)
		}
		for v := range Verdict(70) {
			want := v == Continue || slices.Contains(tt.verdicts, v)
			if tt.set.Has(v) != want {
				t.Errorf("%s has %s: %v, want %v", tt.set, v, !want, want)
			}
		}
		if parsed, err := ParseProceedOn(tt.text); err != nil || parsed != tt.set.normal() {
			t.Errorf("parse %q: %v, %v", tt.text, parsed, err)
		}
		data, err := json.Marshal(tt.set)
		if err != nil || string(data) != tt.json {
			t.Errorf("%s as JSON: %s, %v, want %s", tt.set, data, err, tt.json)
		}
		var back ProceedOn
		if err := json.Unmarshal(data, &back); err != nil || back != tt.set.normal() {
			t.Errorf("%s read back: %v, %v", data, back, err)
		}
	}
}

func TestProceedOnOfTooLarge(t *testing.T) {
	if p := Of(Pass, 32, 34, 1<<31); p != Of(Pass) {
		t.Errorf("verdicts above 31 made %s", p)
	}
}

func TestProceedOnInvalid(t *testing.T) {
	for v := Redirect + 1; v < Continue; v++ {
		p := Of(Pass, v)
		if p.Valid() {
			t.Errorf("%s is valid", p)
		}
		if data, err := json.Marshal(p); err == nil {
			t.Errorf("%s was written as %s", p, data)
		}
	}
	if s := Of(Pass, 7).String(); s != "pass,unknown(7)" {
		t.Errorf("with verdict 7: %q", s)
	}
	for _, bad := range []string{"", ",", "pass,", "pass,none", "pass tx", "Pass", "unknown(7)", strings.Repeat("x", 1000)} {
		p, err := ParseProceedOn(bad)
		var facts *Error
		if !errors.As(err, &facts) || facts.Reason != InvalidArgument || len(facts.Facts["verdict"]) > 80 {
			t.Errorf("%q was read as %v, %v", bad, p, err)
		}
	}
	if p, err := ParseProceedOn(" tx , pass "); err != nil || p != Of(Pass, Tx) {
		t.Errorf("with spaces: %v, %v", p, err)
	}
	for _, bad := range []string{`"pass"`, `[2]`, `["nope"]`, `{}`} {
		p := Of(Tx)
		if err := json.Unmarshal([]byte(bad), &p); err == nil || p != Of(Tx) {
			t.Errorf("%s was read as %s, %v", bad, p, err)
		}
	}
}

func FuzzParseProceedOn(f *testing.F) {
	for _, s := range []string{"", "none", "pass", "pass,tx", "aborted,drop,pass,tx,redirect,continue", " tx ,pass", "unknown(7)", "\xff,", ",,"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := ParseProceedOn(s)
		if err != nil {
			return
		}
		if !p.Valid() || !p.Has(Continue) {
			t.Fatalf("%q gave the set %#x", s, uint32(p))
		}
		if again, err := ParseProceedOn(p.String()); err != nil || again != p {
			t.Fatalf("%q gave %s, which gives %s, %v", s, p, again, err)
		}
	})
}
