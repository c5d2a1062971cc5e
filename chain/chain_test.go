// SPDX-License-Identifier: Apache-2.0

package chain

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"
)

// parse makes a chain of words like "a:10 b:10 -c:20", where - means disabled.
func parse(t *testing.T, s string) Chain {
	t.Helper()
	c := New()
	for word := range strings.FieldsSeq(s) {
		m := Member{ProceedOn: Of(Pass)}
		word, m.Disabled = strings.CutPrefix(word, "-")
		name, priority, _ := strings.Cut(word, ":")
		m.Program = name
		if _, err := fmt.Sscan(priority, &m.Priority); err != nil {
			t.Fatalf("%q: %v", word, err)
		}
		c.Members = append(c.Members, m)
	}
	return c
}

// show is the reverse of parse.
func show(c Chain) string {
	var words []string
	for _, m := range c.Members {
		sign := ""
		if m.Disabled {
			sign = "-"
		}
		words = append(words, fmt.Sprintf("%s%s:%d", sign, m.Program, m.Priority))
	}
	return strings.Join(words, " ")
}

func TestNew(t *testing.T) {
	c := New()
	if c.Mode != Auto || c.Final != Pass || len(c.Members) != 0 || c.Validate() != nil {
		t.Fatalf("%+v, %v", c, c.Validate())
	}
}

func TestMode(t *testing.T) {
	for _, name := range []string{"auto", "native", "generic"} {
		if m, err := ParseMode(name); err != nil || string(m) != name || !m.Valid() {
			t.Errorf("%s: %s, %v", name, m, err)
		}
	}
	for _, name := range []string{"", "Auto", "skb"} {
		if m, err := ParseMode(name); !errors.Is(err, &Error{Reason: InvalidArgument}) || m != "" || Mode(name).Valid() {
			t.Errorf("%q: %q, %v", name, m, err)
		}
	}
}

func TestClone(t *testing.T) {
	c := parse(t, "a:10 b:20")
	d := c.Clone()
	if !c.Equal(d) {
		t.Fatal("a clone is not equal")
	}
	d.Members[0].Program = "x"
	if c.Members[0].Program != "a" {
		t.Fatal("a clone shares its members")
	}
}

func TestEqual(t *testing.T) {
	base := parse(t, "a:10 b:10")
	for _, tt := range []struct {
		change func(c *Chain)
		equal  bool
	}{
		{func(c *Chain) {}, true},
		{func(c *Chain) { c.Members[0].ProceedOn |= 1 << Continue }, true},
		{func(c *Chain) { c.Members[0].ProceedOn = Of(Tx) }, false},
		{func(c *Chain) { c.Mode = Generic }, false},
		{func(c *Chain) { c.Final = Drop }, false},
		{func(c *Chain) { c.Members[1].Disabled = true }, false},
		{func(c *Chain) { c.Members[1].Priority++ }, false},
		{func(c *Chain) { c.Members[0], c.Members[1] = c.Members[1], c.Members[0] }, false},
		{func(c *Chain) { c.Members = c.Members[:1] }, false},
	} {
		other := base.Clone()
		tt.change(&other)
		if base.Equal(other) != tt.equal || other.Equal(base) != tt.equal {
			t.Errorf("%+v and %+v: equal is not %v", base, other, tt.equal)
		}
	}
}

func TestEnabled(t *testing.T) {
	c := parse(t, "-a:1 b:2 -c:3 d:4")
	if got := show(Chain{Members: c.Enabled()}); got != "b:2 d:4" {
		t.Errorf("enabled: %s", got)
	}
	if got := New().Enabled(); len(got) != 0 {
		t.Errorf("enabled in an empty chain: %v", got)
	}
}

func TestValidate(t *testing.T) {
	full := New()
	for i := range MaxMembers {
		full.Members = append(full.Members, Member{Program: fmt.Sprint("p", i)})
	}
	over := full.Clone()
	over.Members = append(over.Members, Member{Program: "one-more"})
	withMask := parse(t, "a:1")
	withMask.Members[0].ProceedOn = 1 << 7
	for _, tt := range []struct {
		name  string
		chain Chain
		want  Reason // empty: valid
		fact  string
	}{
		{"empty", New(), "", ""},
		{"sorted", parse(t, "a:-5 c:0 b:0"), "", ""},
		{"full", full, "", ""},
		{"over", over, Full, "limit"},
		{"no mode", Chain{Final: Pass}, InvalidArgument, "mode"},
		{"final continue", Chain{Mode: Auto, Final: Continue}, InvalidArgument, "verdict"},
		{"final 5", Chain{Mode: Auto, Final: 5}, InvalidArgument, "verdict"},
		{"unsorted", parse(t, "a:2 b:1"), InvalidArgument, "before"},
		{"twice", parse(t, "a:1 b:1 a:1"), InvalidArgument, "program"},
		{"name", parse(t, "a/b:1"), InvalidArgument, "program"},
		{"mask", withMask, InvalidArgument, "program"},
	} {
		err := tt.chain.Validate()
		if tt.want == "" {
			if err != nil {
				t.Errorf("%s: %v", tt.name, err)
			}
			continue
		}
		var e *Error
		if !errors.As(err, &e) || e.Reason != tt.want {
			t.Errorf("%s: %v, want %s", tt.name, err, tt.want)
		} else if _, has := e.Facts[tt.fact]; !has {
			t.Errorf("%s: facts %v, want %s", tt.name, e.Facts, tt.fact)
		}
	}
}

func TestValidName(t *testing.T) {
	for _, good := range []string{"a", "Z", "0", "a.b_c-d", "9-", strings.Repeat("n", 63)} {
		if err := ValidName(good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	for _, bad := range []string{"", ".a", "_a", "-a", "a b", "a/b", "ä", "a\x00", "a\n", "a\xff", strings.Repeat("n", 64), strings.Repeat("é", 1<<20)} {
		var e *Error
		if err := ValidName(bad); !errors.As(err, &e) || e.Reason != InvalidArgument {
			t.Errorf("%.70q: %v", bad, err)
		} else if fact := e.Facts["program"]; len(fact) > 80 || !utf8.ValidString(fact) {
			t.Errorf("%.70q: the fact is %q", bad, fact)
		}
	}
}

func TestChainJSON(t *testing.T) {
	c := parse(t, "a:10 -b:20")
	data, err := json.Marshal(c)
	want := `{"mode":"auto","final":"pass","members":[{"program":"a","priority":10,"proceed_on":["pass"]},` +
		`{"program":"b","priority":20,"proceed_on":["pass"],"disabled":true}]}`
	if err != nil || string(data) != want {
		t.Fatalf("%s, %v", data, err)
	}
	var back Chain
	if err := json.Unmarshal(data, &back); err != nil || !reflect.DeepEqual(back, c) {
		t.Fatalf("%+v, %v", back, err)
	}
}

func TestErrorWith(t *testing.T) {
	cause := errors.New("cause")
	for _, facts := range []Facts{nil, {"program": "a"}} {
		e := Errorf(Full, facts, "text: %w", cause)
		e.Log = "log"
		with := e.With("interface", "eth0")
		if with.Facts["interface"] != "eth0" || with.Facts["program"] != facts["program"] {
			t.Errorf("facts: %v", with.Facts)
		}
		if _, changed := e.Facts["interface"]; changed {
			t.Error("the original has the fact too")
		}
		if with.Error() != "text: cause" || !errors.Is(with, cause) || with.Log != "log" || !errors.Is(with, &Error{Reason: Full}) {
			t.Errorf("the copy is %+v", with)
		}
		if errors.Is(with, &Error{Reason: Kernel}) || errors.Is(with, errors.New("other")) {
			t.Error("it is every error")
		}
	}
}
