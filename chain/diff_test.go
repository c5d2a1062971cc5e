// SPDX-License-Identifier: Apache-2.0

package chain

import (
	"fmt"
	"math/bits"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestDiffLines(t *testing.T) {
	for _, tt := range []struct {
		before, after string
		lines         []string
	}{
		{"", "", nil},
		{"a:10 b:20", "a:10 b:20", nil},
		{"", "a:10", []string{"+ a: first, priority 10, proceed-on pass"}},
		{"a:10", "a:10 -b:-1", []string{"+ b: behind a, priority -1, disabled, proceed-on pass"}},
		{"a:10 b:20", "b:20", []string{"- a"}},
		{"a:10 b:20", "c:5 b:20", []string{"- a", "+ c: first, priority 5, proceed-on pass"}},
		{"a:10 b:20", "", []string{"- a", "- b"}},
		{"a:10 b:20", "-a:11 b:20", []string{"~ a: priority 10 -> 11, disabled"}},
		{"-a:10", "a:10", []string{"~ a: enabled"}},
		{"a:10 b:20 c:30", "b:20 c:30 a:50", []string{"~ a: moved behind c, priority 10 -> 50"}},
		{"a:10 b:20 c:30", "c:5 a:10 b:20", []string{"~ c: moved to the front, priority 30 -> 5"}},
		{"a:10 b:20", "b:20 a:30", []string{"~ a: moved behind b, priority 10 -> 30"}},
		{"a:10 b:20", "b:5 a:10", []string{"~ b: moved to the front, priority 20 -> 5"}},
		{"x:1 a:10 b:20", "b:20 -a:20", []string{"- x", "~ a: moved behind b, priority 10 -> 20, disabled"}},
		{"a:1 b:2 c:3", "c:1 x:1 b:2 a:3", []string{
			"~ c: moved to the front, priority 3 -> 1",
			"+ x: behind c, priority 1, proceed-on pass",
			"~ a: moved behind b, priority 1 -> 3",
		}},
	} {
		if lines := DiffLines(parse(t, tt.before), parse(t, tt.after)); !slices.Equal(lines, tt.lines) {
			t.Errorf("%q became %q: %q, want %q", tt.before, tt.after, lines, tt.lines)
		}
	}
}

func TestDiffOfEverything(t *testing.T) {
	before, after := parse(t, "a:10 b:20"), parse(t, "b:20 -a:50")
	after.Mode, after.Final = Generic, Drop
	after.Members[1].ProceedOn = Of(Pass, Tx)
	want := []string{
		"~ chain mode: auto -> generic",
		"~ final verdict: pass -> drop",
		"~ a: moved behind b, priority 10 -> 50, disabled, proceed-on pass -> pass,tx",
	}
	if lines := DiffLines(before, after); !slices.Equal(lines, want) {
		t.Errorf("%q, want %q", lines, want)
	}
	deltas := Diff(before, after)
	if want := []Delta{{Changed, before.Members[0], after.Members[1], 0, 1, true, "b"}}; !slices.Equal(deltas, want) {
		t.Errorf("%+v, want %+v", deltas, want)
	}
}

func TestDiffIgnoresWhatMeansNothing(t *testing.T) {
	before, after := parse(t, "a:10"), parse(t, "a:10")
	after.Members[0].ProceedOn |= 1 << Continue
	if lines := DiffLines(before, after); len(lines) != 0 {
		t.Errorf("%q, want nothing", lines)
	}
	after.Members[0].ProceedOn = 1 << Continue
	if want, lines := []string{"~ a: proceed-on pass -> none"}, DiffLines(before, after); !slices.Equal(lines, want) {
		t.Errorf("%q, want %q", lines, want)
	}
}

func TestDiffOfOneMoveIsOneLine(t *testing.T) {
	var names []string
	for i := range MaxMembers {
		names = append(names, fmt.Sprintf("m%02d", i))
	}
	full := func(names []string) Chain { return parse(t, strings.Join(names, ":50 ")+":50") }
	for from := range names {
		for to := range names {
			moved := slices.Insert(slices.Delete(slices.Clone(names), from, from+1), to, names[from])
			deltas := Diff(full(names), full(moved))
			if from == to {
				if len(deltas) != 0 {
					t.Errorf("nothing moved: %v", deltas)
				}
				continue
			}
			if len(deltas) != 1 || !deltas[0].Moved {
				t.Errorf("one moved from %d to %d: %v", from, to, deltas)
			}
		}
	}
}

// chain makes a valid chain of up to n of 8 programs.
func (d dice) chain(n int) Chain {
	c := Chain{Mode: []Mode{Auto, Native}[d.IntN(2)], Final: Verdict(d.IntN(2))}
	for range d.IntN(n + 1) {
		m := Member{Program: d.name(), Priority: int32(d.IntN(4)), ProceedOn: Of(Verdict(d.IntN(3))), Disabled: d.IntN(2) == 0}
		if c.Index(m.Program) < 0 {
			c.Members = append(c.Members, m)
		}
	}
	slices.SortStableFunc(c.Members, func(a, b Member) int { return int(a.Priority) - int(b.Priority) })
	return c
}

// apply does what the deltas say to the members of c.
func (c Chain) apply(deltas []Delta) Chain {
	var rest []Member
	for _, m := range c.Members {
		if !slices.ContainsFunc(deltas, func(d Delta) bool { return (d.Kind == Removed || d.Moved) && d.Before == m }) {
			rest = append(rest, m)
		}
	}
	c.Members = rest
	for _, d := range deltas {
		switch {
		case d.Kind == Added || d.Moved:
			i := 0
			if d.Follows != "" {
				i = c.Index(d.Follows) + 1
			}
			c.Members = slices.Insert(c.Members, i, d.After)
		case d.Kind == Changed:
			c.Members[c.Index(d.Before.Program)] = d.After
		}
	}
	return c
}

// fewestMoves tries all sets of members that stay.
func fewestMoves(before, after Chain) int {
	var from []int
	for _, m := range after.Members {
		if i := before.Index(m.Program); i >= 0 {
			from = append(from, i)
		}
	}
	most := 0
	for set := range 1 << len(from) {
		var stay []int
		for i := range from {
			if set&(1<<i) != 0 {
				stay = append(stay, from[i])
			}
		}
		if slices.IsSorted(stay) {
			most = max(most, bits.OnesCount(uint(set)))
		}
	}
	return len(from) - most
}

func TestDiffProperties(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	d := dice{rand.New(rand.NewPCG(seed, 0))}
	equal := 0
	for step := range 20_000 {
		most := 1 + step%8
		before, after := d.chain(most), d.chain(most)
		fail := func(format string, args ...any) {
			t.Fatalf("seed %d step %d: %+v became %+v: %s", seed, step, before, after, fmt.Sprintf(format, args...))
		}
		lines := DiffLines(before, after)
		if before.Equal(after) {
			equal++
		}
		if before.Equal(after) != (len(lines) == 0) {
			fail("lines %q", lines)
		}
		deltas := Diff(before, after)
		before.Mode, before.Final = after.Mode, after.Final
		if before.Equal(after) != (len(deltas) == 0) {
			fail("deltas %+v", deltas)
		}
		if got := before.apply(deltas); !got.Equal(after) {
			fail("the deltas %+v make %+v", deltas, got.Members)
		}
		moves := 0
		for i, delta := range deltas {
			if delta.Moved {
				moves++
			}
			if delta.From >= 0 && before.Members[delta.From] != delta.Before || delta.To >= 0 && after.Members[delta.To] != delta.After ||
				delta.From < 0 != (delta.Kind == Added) || delta.To < 0 != (delta.Kind == Removed) {
				fail("indexes of %+v", delta)
			}
			if i > 0 && (deltas[i-1].Kind == Removed) == (delta.Kind == Removed) && deltas[i-1].To >= delta.To && deltas[i-1].From >= delta.From {
				fail("order of %+v", deltas)
			}
			if i > 0 && delta.Kind == Removed && deltas[i-1].Kind != Removed {
				fail("a removed one after others: %+v", deltas)
			}
		}
		if want := fewestMoves(before, after); moves != want {
			fail("%d moves in %+v, want %d", moves, deltas, want)
		}
		if most := len(DiffLines(before, after)); most != len(deltas) {
			fail("%d lines for %+v", most, deltas)
		}
	}
	if equal < 100 {
		t.Errorf("seed %d: only %d of 20000 were equal: the dice are loaded", seed, equal)
	}
}
