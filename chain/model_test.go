// SPDX-License-Identifier: Apache-2.0

package chain

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// model is a chain as simple as it can be: names and priorities in a list that is searched from the left.
// place tries the position and looks whether the list is still sorted.
type model []Member

func (m model) sorted() bool {
	return slices.IsSortedFunc(m, func(a, b Member) int { return int(a.Priority) - int(b.Priority) })
}

func (m model) find(name string) int {
	for i := range m {
		if m[i].Program == name {
			return i
		}
	}
	return -1
}

// place inserts x, and tells whether it may.
func (m model) place(x Member, priority *int32, p Position) (model, bool) {
	at, takes := -1, int32(DefaultPriority)
	switch {
	case p.First:
		at = 0
		if len(m) > 0 {
			takes = m[0].Priority
		}
	case p.Last:
		at = len(m)
		if len(m) > 0 {
			takes = m[len(m)-1].Priority
		}
	case p.Before != "":
		if at = m.find(p.Before); at < 0 {
			return nil, false
		}
		takes = m[at].Priority
	case p.After != "":
		if at = m.find(p.After); at < 0 {
			return nil, false
		}
		takes = m[at].Priority
		at++
	}
	if priority != nil {
		takes = *priority
	}
	x.Priority = takes
	if at < 0 {
		next := append(slices.Clone(m), x)
		slices.SortStableFunc(next, func(a, b Member) int { return int(a.Priority) - int(b.Priority) })
		return next, true
	}
	next := slices.Concat(m[:at], model{x}, m[at:])
	return next, next.sorted()
}

func (m model) update(ch Change) (model, bool) {
	i := m.find(ch.Program)
	if i < 0 || ch.Program == ch.Position.Before || ch.Program == ch.Position.After {
		return nil, false
	}
	x := m[i]
	if ch.ProceedOn != nil {
		x.ProceedOn = *ch.ProceedOn
	}
	if ch.Enabled != nil {
		x.Disabled = !*ch.Enabled
	}
	stays := ch.Position.IsZero() && (ch.Priority == nil || *ch.Priority == x.Priority) ||
		ch.Priority == nil && (ch.Position.First && i == 0 || ch.Position.Last && i == len(m)-1)
	if stays {
		next := slices.Clone(m)
		next[i] = x
		return next, true
	}
	return slices.Concat(m[:i], m[i+1:]).place(x, ch.Priority, ch.Position)
}

// dice makes random changes out of few names and priorities, so that they meet.
type dice struct{ *rand.Rand }

func (d dice) name() string { return string(rune('a' + d.IntN(8))) }

func (d dice) priority() *int32 {
	if d.IntN(2) == 0 {
		return nil
	}
	p := int32(d.IntN(6)-1) * 20
	return &p
}

func (d dice) position() Position {
	switch d.IntN(6) {
	case 0:
		return Position{First: true}
	case 1:
		return Position{Last: true}
	case 2:
		return Position{Before: d.name()}
	case 3:
		return Position{After: d.name()}
	}
	return Position{}
}

func (d dice) change() Change {
	ch := Change{Program: d.name(), Priority: d.priority(), Position: d.position()}
	if d.IntN(4) == 0 {
		set := ProceedOn(d.IntN(32))
		ch.ProceedOn = &set
	}
	if d.IntN(4) == 0 {
		on := d.IntN(2) == 0
		ch.Enabled = &on
	}
	return ch
}

func TestAgainstModel(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	d := dice{rand.New(rand.NewPCG(seed, 0))}
	c, m := New(), model{}
	refused := 0
	for step := range 20_000 {
		var next Chain
		var want model
		var err error
		var ok bool
		var did string
		was := c.Clone()
		switch d.IntN(4) {
		case 0:
			x, priority, position := Member{Program: d.name(), ProceedOn: ProceedOn(d.IntN(32))}, d.priority(), d.position()
			did = fmt.Sprintf("insert %+v %+v", x, position)
			next, err = c.Insert(x, priority, position)
			if m.find(x.Program) < 0 {
				want, ok = m.place(x, priority, position)
			}
		case 1:
			name := d.name()
			did = "remove " + name
			next, err = c.Remove(name)
			if i := m.find(name); i >= 0 {
				want, ok = slices.Concat(m[:i], m[i+1:]), true
			}
		default:
			changes := []Change{d.change(), d.change()}[:1+d.IntN(2)]
			did = fmt.Sprintf("update %+v", changes)
			next, err = c.Update(changes)
			want, ok = m, true
			for i := 0; ok && i < len(changes); i++ {
				want, ok = want.update(changes[i])
			}
		}
		if !c.Equal(was) {
			t.Fatalf("seed %d step %d: %s changed its receiver", seed, step, did)
		}
		if (err == nil) != ok {
			t.Fatalf("seed %d step %d: %s on %q: %v, but the model says %v", seed, step, did, show(c), err, ok)
		}
		if err != nil {
			refused++
			continue
		}
		if invalid := next.Validate(); invalid != nil || !slices.Equal(next.Members, want) {
			t.Fatalf("seed %d step %d: %s on %q: %q, %v, but the model says %q",
				seed, step, did, show(c), show(next), invalid, show(Chain{Members: want}))
		}
		c, m = next, want
	}
	if refused < 1000 || refused > 19_000 {
		t.Errorf("seed %d: %d of 20000 changes were refused: the dice are loaded", seed, refused)
	}
}

func FuzzUpdate(f *testing.F) {
	f.Add(uint64(1), "a", "b", int32(50), uint8(0), uint32(4))
	f.Add(uint64(2), "b", "a", int32(-1), uint8(0x1f), uint32(1<<7))
	f.Add(uint64(3), "c", "c", int32(20), uint8(0x34), uint32(1<<31))
	f.Add(uint64(4), "\xff", "", int32(0), uint8(0x0b), uint32(0))
	f.Fuzz(func(t *testing.T, seed uint64, program, anchor string, priority int32, fields uint8, mask uint32) {
		d := dice{rand.New(rand.NewPCG(seed, 0))}
		c := New()
		for range 6 {
			if next, err := c.Insert(Member{Program: d.name(), ProceedOn: Of(Pass)}, d.priority(), Position{}); err == nil {
				c = next
			}
		}
		change := Change{Program: program, Position: Position{First: fields&1 != 0, Last: fields&2 != 0}}
		if fields&4 != 0 {
			change.Position.Before = anchor
		}
		if fields&8 != 0 {
			change.Position.After = anchor
		}
		if fields&16 != 0 {
			change.Priority = &priority
		}
		if fields&32 != 0 {
			set := ProceedOn(mask)
			change.ProceedOn = &set
		}
		was := show(c)
		next, err := c.Update([]Change{d.change(), change})
		if show(c) != was {
			t.Fatalf("the receiver %q became %q", was, show(c))
		}
		if err != nil {
			return
		}
		if err := next.Validate(); err != nil || len(next.Members) != len(c.Members) {
			t.Fatalf("%q became %q: %v", was, show(next), err)
		}
		i := next.Index(program)
		switch p := change.Position; {
		case p.First && i != 0, p.Last && i != len(next.Members)-1,
			p.Before != "" && next.Index(p.Before) != i+1, p.After != "" && next.Index(p.After) != i-1:
			t.Fatalf("%q became %q, where %s is not %s", was, show(next), program, p)
		}
		if change.Priority != nil && next.Members[i].Priority != priority {
			t.Fatalf("%q became %q with priority %d", was, show(next), priority)
		}
	})
}
