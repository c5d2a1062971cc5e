// SPDX-License-Identifier: Apache-2.0

package chain

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

// drafts reads words like "a:10 -b c:20"; without a number there is no priority.
func drafts(t *testing.T, s string) []Draft {
	t.Helper()
	var all []Draft
	for word := range strings.FieldsSeq(s) {
		given := strings.Contains(word, ":")
		if !given {
			word += ":0"
		}
		d := Draft{Member: parse(t, word).Members[0]}
		if given {
			d.Priority = prio(d.Member.Priority)
		}
		d.Member.Priority = -77 // does not count
		all = append(all, d)
	}
	return all
}

func TestArrange(t *testing.T) {
	for _, tt := range []struct{ drafts, want string }{
		{"", ""},
		{"b a", "b:50 a:50"},
		{"a b:60 c", "a:50 b:60 c:60"},
		{"a b:50", "a:50 b:50"},
		{"a b:40 c", "a:40 b:40 c:40"},
		{"a b c:-5 -d e:7 f:7 g", "a:-5 b:-5 c:-5 -d:-5 e:7 f:7 g:7"},
		{"a:10 b c:20", "a:10 b:10 c:20"},
		{"a:-2147483648 b c:2147483647", "a:-2147483648 b:-2147483648 c:2147483647"},
	} {
		members, err := Arrange(drafts(t, tt.drafts))
		if got := show(Chain{Members: members}); err != nil || got != tt.want {
			t.Errorf("%q: %q, %v, want %q", tt.drafts, got, err, tt.want)
		}
	}
}

func TestArrangeRefuses(t *testing.T) {
	many := make([]Draft, MaxMembers+1)
	for i := range many {
		many[i].Program = fmt.Sprint("m", i)
	}
	falls := func(program, before, priority string) result {
		return refused(PositionConflict, Facts{"program": program, "position": "after " + before, "priority": priority})
	}
	bad := drafts(t, "a")
	bad[0].ProceedOn = Of(9)
	for name, tt := range map[string]struct {
		drafts []Draft
		want   result
		text   []string
	}{
		"falls":                      {drafts(t, "a:20 b:10"), falls("b", "a", "10"), []string{"program b", "behind a", "10", "20"}},
		"falls behind those without": {drafts(t, "x a:20 y z b:19 c:5"), falls("b", "a", "19"), []string{"program b", "behind a", "19", "20"}},
		"falls below a negative":     {drafts(t, "a:-1 b:-2"), falls("b", "a", "-2"), nil},
		"twice":                      {drafts(t, "a b a"), refused(InvalidArgument, Facts{"program": "a"}), []string{"twice"}},
		"twice, and falls":           {drafts(t, "a:20 a:10"), refused(InvalidArgument, Facts{"program": "a"}), []string{"twice"}},
		"a bad name":                 {drafts(t, "a b/c"), refused(InvalidArgument, Facts{"program": "b/c"}), nil},
		"a bad set":                  {bad, refused(InvalidArgument, Facts{"program": "a"}), nil},
		"too many":                   {many, refused(Full, Facts{"limit": "64"}), nil},
	} {
		t.Run(name, func(t *testing.T) {
			members, err := Arrange(tt.drafts)
			tt.want.check(t, Chain{}, Chain{Members: members}, "", err)
			for _, part := range tt.text {
				if err != nil && !strings.Contains(err.Error(), part) {
					t.Errorf("%v, want %q in it", err, part)
				}
			}
		})
	}
}

func TestArrangeProperties(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	d := dice{rand.New(rand.NewPCG(seed, 0))}
	refusals := 0
	for step := range 10_000 {
		c := d.chain(8)
		all := make([]Draft, len(c.Members))
		for i, m := range c.Members {
			all[i] = Draft{Member: m, Priority: &c.Members[i].Priority}
		}
		if got, err := Arrange(all); err != nil || !slices.Equal(got, c.Members) {
			t.Fatalf("seed %d step %d: %q became %q, %v", seed, step, show(c), show(Chain{Members: got}), err)
		}

		d.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		for i := range all {
			if d.IntN(2) == 0 {
				all[i].Priority = nil
			}
		}
		var given []int32
		for _, draft := range all {
			if draft.Priority != nil {
				given = append(given, *draft.Priority)
			}
		}
		got, err := Arrange(all)
		if (err == nil) != slices.IsSorted(given) || err != nil && !errors.Is(err, &Error{Reason: PositionConflict}) {
			t.Fatalf("seed %d step %d: the priorities %v: %v", seed, step, given, err)
		}
		if err != nil {
			refusals++
			continue
		}
		arranged := Chain{Mode: Auto, Final: Pass, Members: got}
		if err := arranged.Validate(); err != nil || len(got) != len(all) {
			t.Fatalf("seed %d step %d: %q, %v", seed, step, show(arranged), err)
		}
		for i, m := range got {
			if want := all[i].Member; m.Program != want.Program || m.ProceedOn != want.ProceedOn || m.Disabled != want.Disabled ||
				all[i].Priority != nil && m.Priority != *all[i].Priority {
				t.Fatalf("seed %d step %d: member %d is %+v, want %+v", seed, step, i, m, want)
			}
		}
	}
	if refusals < 500 || refusals > 9_500 {
		t.Errorf("seed %d: %d of 10000 were refused: the dice are loaded", seed, refusals)
	}
}
