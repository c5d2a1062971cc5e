// SPDX-License-Identifier: Apache-2.0

package chain

import (
	"errors"
	"math"
	"strings"
	"testing"
)

func prio(p int32) *int32 { return &p }

func TestPosition(t *testing.T) {
	for _, tt := range []struct {
		position Position
		text     string
		valid    bool
	}{
		{Position{}, "", true},
		{Position{First: true}, "first", true},
		{Position{Last: true}, "last", true},
		{Position{Before: "x"}, "before x", true},
		{Position{After: "x"}, "after x", true},
		{Position{First: true, Last: true}, "first", false},
		{Position{First: true, Before: "x"}, "first", false},
		{Position{Before: "x", After: "y"}, "before x", false},
	} {
		if err := tt.position.Validate(); (err == nil) != tt.valid {
			t.Errorf("%+v: %v", tt.position, err)
		}
		if tt.position.String() != tt.text || tt.position.IsZero() != (tt.text == "") {
			t.Errorf("%+v: %q, zero %v", tt.position, tt.position, tt.position.IsZero())
		}
	}
}

// result is what a change is expected to do: the chain after it, or a reason with facts.
type result struct {
	chain  string
	reason Reason
	facts  Facts
}

func (want result) check(t *testing.T, before, after Chain, was string, err error) {
	t.Helper()
	if show(before) != was {
		t.Errorf("the receiver %q became %q", was, show(before))
	}
	if want.reason == "" {
		if err != nil || show(after) != want.chain {
			t.Errorf("%q became %q, %v, want %q", was, show(after), err, want.chain)
		}
		if err := after.Validate(); err != nil {
			t.Errorf("%q: %v", show(after), err)
		}
		return
	}
	var e *Error
	if !errors.As(err, &e) || e.Reason != want.reason {
		t.Errorf("%q became %q, %v, want %s", was, show(after), err, want.reason)
		return
	}
	if len(after.Members) != 0 {
		t.Errorf("an error came with the chain %q", show(after))
	}
	for key, value := range want.facts {
		if e.Facts[key] != value {
			t.Errorf("facts %v, want %s to be %s", e.Facts, key, value)
		}
	}
}

func becomes(chain string) result               { return result{chain: chain} }
func refused(reason Reason, facts Facts) result { return result{reason: reason, facts: facts} }
func conflict(priority, position string) result {
	return refused(PositionConflict, Facts{"program": "n", "priority": priority, "position": position})
}

func TestInsert(t *testing.T) {
	first, last := Position{First: true}, Position{Last: true}
	before := func(s string) Position { return Position{Before: s} }
	after := func(s string) Position { return Position{After: s} }
	for _, tt := range []struct {
		chain    string
		priority *int32
		position Position
		want     result
	}{
		{"", nil, Position{}, becomes("n:50")},
		{"", prio(7), Position{}, becomes("n:7")},
		{"", nil, first, becomes("n:50")},
		{"", nil, last, becomes("n:50")},
		{"", prio(-7), first, becomes("n:-7")},
		{"a:50 b:50", nil, Position{}, becomes("a:50 b:50 n:50")},
		{"a:50 b:60", nil, Position{}, becomes("a:50 n:50 b:60")},
		{"a:10 b:20 c:20 d:30", prio(20), Position{}, becomes("a:10 b:20 c:20 n:20 d:30")},
		{"a:10 b:20", prio(9), Position{}, becomes("n:9 a:10 b:20")},
		{"a:10 b:20", prio(21), Position{}, becomes("a:10 b:20 n:21")},
		{"a:0", prio(math.MinInt32), Position{}, becomes("n:-2147483648 a:0")},
		{"a:2147483647", prio(math.MaxInt32), Position{}, becomes("a:2147483647 n:2147483647")},

		{"a:10 b:20", nil, first, becomes("n:10 a:10 b:20")},
		{"a:10 b:20", nil, last, becomes("a:10 b:20 n:20")},
		{"a:10 b:20", nil, before("a"), becomes("n:10 a:10 b:20")},
		{"a:10 b:20", nil, before("b"), becomes("a:10 n:20 b:20")},
		{"a:10 b:20", nil, after("a"), becomes("a:10 n:10 b:20")},
		{"a:10 b:20", nil, after("b"), becomes("a:10 b:20 n:20")},
		{"a:50 b:50 c:50", nil, before("b"), becomes("a:50 n:50 b:50 c:50")},
		{"a:50 b:50 c:50", nil, after("b"), becomes("a:50 b:50 n:50 c:50")},

		{"a:10 b:20", prio(10), first, becomes("n:10 a:10 b:20")},
		{"a:10 b:20", prio(-1), first, becomes("n:-1 a:10 b:20")},
		{"a:10 b:20", prio(11), first, conflict("11", "first")},
		{"a:10 b:20", prio(20), last, becomes("a:10 b:20 n:20")},
		{"a:10 b:20", prio(99), last, becomes("a:10 b:20 n:99")},
		{"a:10 b:20", prio(19), last, conflict("19", "last")},
		{"a:10 b:20", prio(10), before("b"), becomes("a:10 n:10 b:20")},
		{"a:10 b:20", prio(15), before("b"), becomes("a:10 n:15 b:20")},
		{"a:10 b:20", prio(20), before("b"), becomes("a:10 n:20 b:20")},
		{"a:10 b:20", prio(9), before("b"), conflict("9", "before b")},
		{"a:10 b:20", prio(21), before("b"), conflict("21", "before b")},
		{"a:10 b:20", prio(15), after("a"), becomes("a:10 n:15 b:20")},
		{"a:10 b:20", prio(21), after("a"), conflict("21", "after a")},
		{"a:10 b:20", prio(9), after("a"), conflict("9", "after a")},
		{"a:10 b:20", prio(math.MinInt32), before("a"), becomes("n:-2147483648 a:10 b:20")},
		{"a:10 b:20", prio(math.MaxInt32), after("b"), becomes("a:10 b:20 n:2147483647")},

		{"a:10", nil, before("x"), refused(MemberNotFound, Facts{"program": "x"})},
		{"a:10", prio(1), after("x"), refused(MemberNotFound, Facts{"program": "x"})},
		{"", nil, before("n"), refused(MemberNotFound, Facts{"program": "n"})},
		{"a:10 n:20", nil, Position{}, refused(MemberExists, Facts{"program": "n"})},
		{"a:10", nil, Position{First: true, After: "a"}, refused(InvalidArgument, nil)},
	} {
		c := parse(t, tt.chain)
		got, err := c.Insert(Member{Program: "n", Priority: 12345, ProceedOn: Of(Pass)}, tt.priority, tt.position)
		tt.want.check(t, c, got, tt.chain, err)
	}
}

func TestInsertMember(t *testing.T) {
	c := New()
	got, err := c.Insert(Member{Program: "a", ProceedOn: 1<<Continue | Of(Drop), Disabled: true}, nil, Position{})
	if want := (Member{Program: "a", Priority: 50, ProceedOn: Of(Drop), Disabled: true}); err != nil || got.Members[0] != want {
		t.Errorf("%+v, %v", got, err)
	}
	for _, bad := range []Member{{Program: ""}, {Program: "a/b"}, {Program: "a", ProceedOn: Of(Pass, 9)}} {
		if got, err := c.Insert(bad, nil, Position{}); !errors.Is(err, &Error{Reason: InvalidArgument}) {
			t.Errorf("%+v was inserted: %+v, %v", bad, got, err)
		}
	}
}

func TestInsertFull(t *testing.T) {
	c := New()
	for i := range MaxMembers {
		var err error
		if c, err = c.Insert(Member{Program: "p" + strings.Repeat("x", i/10) + string(rune('0'+i%10))}, nil, Position{}); err != nil {
			t.Fatalf("member %d: %v", i, err)
		}
	}
	var e *Error
	if _, err := c.Insert(Member{Program: "n"}, nil, Position{}); !errors.As(err, &e) || e.Reason != Full || e.Facts["limit"] != "64" {
		t.Errorf("member 65: %v", err)
	}
}

func TestRemove(t *testing.T) {
	for _, tt := range []struct {
		chain, program string
		want           result
	}{
		{"a:10 b:20 c:30", "a", becomes("b:20 c:30")},
		{"a:10 b:20 c:30", "b", becomes("a:10 c:30")},
		{"a:10 b:20 c:30", "c", becomes("a:10 b:20")},
		{"a:10", "a", becomes("")},
		{"a:10", "b", refused(MemberNotFound, Facts{"program": "b"})},
		{"", "a", refused(MemberNotFound, Facts{"program": "a"})},
	} {
		c := parse(t, tt.chain)
		got, err := c.Remove(tt.program)
		tt.want.check(t, c, got, tt.chain, err)
	}
}

func TestUpdateOrder(t *testing.T) {
	first, last := Position{First: true}, Position{Last: true}
	before := func(s string) Position { return Position{Before: s} }
	after := func(s string) Position { return Position{After: s} }
	const abc, equal = "a:10 n:20 c:30", "a:50 n:50 c:50"
	for _, tt := range []struct {
		chain    string
		priority *int32
		position Position
		want     result
	}{
		{abc, nil, Position{}, becomes(abc)},
		{abc, prio(20), Position{}, becomes(abc)},
		{equal, prio(50), Position{}, becomes(equal)},
		{"n:10 a:20 b:20 c:30", prio(20), Position{}, becomes("a:20 b:20 n:20 c:30")},
		{"a:20 b:20 n:30", prio(20), Position{}, becomes("a:20 b:20 n:20")},
		{abc, prio(5), Position{}, becomes("n:5 a:10 c:30")},
		{abc, prio(31), Position{}, becomes("a:10 c:30 n:31")},
		{abc, prio(25), Position{}, becomes("a:10 n:25 c:30")},

		{abc, nil, first, becomes("n:10 a:10 c:30")},
		{abc, nil, last, becomes("a:10 c:30 n:30")},
		{abc, nil, before("a"), becomes("n:10 a:10 c:30")},
		{abc, nil, after("c"), becomes("a:10 c:30 n:30")},
		{abc, nil, after("a"), becomes("a:10 n:10 c:30")},
		{abc, nil, before("c"), becomes("a:10 n:30 c:30")},
		{equal, nil, first, becomes("n:50 a:50 c:50")},
		{equal, nil, last, becomes("a:50 c:50 n:50")},
		{"n:7", nil, first, becomes("n:7")},
		{"n:7", nil, last, becomes("n:7")},
		{"n:7 a:9", nil, first, becomes("n:7 a:9")},
		{"a:7 n:9", nil, last, becomes("a:7 n:9")},

		{abc, prio(15), first, conflict("15", "first")},
		{abc, prio(10), first, becomes("n:10 a:10 c:30")},
		{"n:7 a:9", prio(8), first, becomes("n:8 a:9")},
		{"n:7 a:9", prio(10), first, conflict("10", "first")},
		{"n:7", prio(8), last, becomes("n:8")},
		{abc, prio(12), after("a"), becomes("a:10 n:12 c:30")},
		{abc, prio(20), after("c"), conflict("20", "after c")},
		{abc, prio(20), before("c"), becomes("a:10 n:20 c:30")},

		{abc, nil, before("n"), refused(PositionConflict, Facts{"program": "n", "position": "before n"})},
		{abc, prio(20), after("n"), refused(PositionConflict, Facts{"program": "n", "position": "after n"})},
		{abc, nil, before("x"), refused(MemberNotFound, Facts{"program": "x"})},
		{abc, nil, Position{Last: true, First: true}, refused(InvalidArgument, nil)},
		{"a:10", nil, first, refused(MemberNotFound, Facts{"program": "n"})},
	} {
		c := parse(t, tt.chain)
		got, err := c.Update([]Change{{Program: "n", Priority: tt.priority, Position: tt.position}})
		tt.want.check(t, c, got, tt.chain, err)
	}
}

func TestUpdateFields(t *testing.T) {
	c := parse(t, "a:10 b:20")
	set, off, on := Of(Drop)|1<<Continue, false, true
	got, err := c.Update([]Change{{Program: "b", ProceedOn: &set, Enabled: &off}})
	if want := (Member{Program: "b", Priority: 20, ProceedOn: Of(Drop), Disabled: true}); err != nil || got.Members[1] != want {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err = got.Update([]Change{{Program: "b", Enabled: &on, Position: Position{First: true}}}); err != nil || show(got) != "b:10 a:10" || got.Members[0].ProceedOn != Of(Drop) {
		t.Errorf("%+v, %v", got, err)
	}
	bad := Of(Pass, 12)
	if got, err := c.Update([]Change{{Program: "a", ProceedOn: &bad}}); !errors.Is(err, &Error{Reason: InvalidArgument}) {
		t.Errorf("a bad set: %+v, %v", got, err)
	}
	if got, err := c.Update(nil); err != nil || !got.Equal(c) {
		t.Errorf("no change: %+v, %v", got, err)
	}
}

func TestUpdateInTurn(t *testing.T) {
	const was = "a:10 b:20 c:30"
	c := parse(t, was)
	got, err := c.Update([]Change{
		{Program: "c", Position: Position{First: true}},
		{Program: "b", Position: Position{Before: "c"}},
		{Program: "a", Priority: prio(99)},
		{Program: "b", Position: Position{Last: true}},
	})
	becomes("c:10 a:99 b:99").check(t, c, got, was, err)

	got, err = c.Update([]Change{{Program: "c", Position: Position{First: true}}, {Program: "x"}})
	refused(MemberNotFound, Facts{"program": "x"}).check(t, c, got, was, err)
}

func TestResultsShareNothing(t *testing.T) {
	c := parse(t, "a:10 b:20 c:30")
	c.Members = append(make([]Member, 0, 100), c.Members...) // room that a careless append would write to
	inserted, err1 := c.Insert(Member{Program: "n"}, nil, Position{Last: true})
	removed, err2 := c.Remove("c")
	moved, err3 := c.Update([]Change{{Program: "a", Position: Position{Last: true}}})
	same, err4 := c.Update(nil)
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		t.Fatal(err)
	}
	for _, d := range []Chain{inserted, removed, moved, same, {Members: c.Enabled()}, c.Clone()} {
		for i := range d.Members {
			d.Members[i].Program = "overwritten"
		}
		if all := c.Members[:4]; show(c) != "a:10 b:20 c:30" || all[3] != (Member{}) {
			t.Fatalf("the receiver became %q", show(Chain{Members: all}))
		}
	}
}
