// SPDX-License-Identifier: Apache-2.0

package chain

import (
	"fmt"
	"slices"
	"strings"
)

// DeltaKind is what happened to a member.
type DeltaKind int

// The kinds of deltas.
const (
	Added   DeltaKind = iota + 1 // Before is zero, From is -1
	Removed                      // After is zero, To is -1
	Changed                      // its place, its fields or both
)

// Delta is the difference that a change makes to one member.
type Delta struct {
	Kind          DeltaKind
	Before, After Member // as it was, as it is now
	From, To      int    // the index among the members before and after; -1: not there

	// Moved tells that a Changed member passed another one that did not move. An index can differ without it,
	// by members that came and went.
	Moved bool
	// Follows is the program directly before it now; empty: it is the first, or Removed.
	Follows string
}

// Diff returns how the members of two valid chains differ: first those that are gone in their old order, then those that
// are new or changed in the new order. As few members as explain the new order count as moved, and
// among such choices the one that has most of those whose priority changed.
//
// Whoever takes the removed and moved members out of the old chain, and then puts in those that are new or
// moved, each behind the one that it follows, has the new order.
func Diff(before, after Chain) []Delta {
	var deltas []Delta
	for i, m := range before.Members {
		if after.Index(m.Program) < 0 {
			deltas = append(deltas, Delta{Kind: Removed, Before: m, From: i, To: -1})
		}
	}
	stay := unmoved(before, after)
	for i, m := range after.Members {
		d := Delta{Kind: Added, After: m, From: before.Index(m.Program), To: i}
		if i > 0 {
			d.Follows = after.Members[i-1].Program
		}
		if d.From >= 0 {
			d.Kind, d.Before, d.Moved = Changed, before.Members[d.From], !stay[i]
			if !d.Moved && len(d.fields()) == 0 {
				continue
			}
		}
		deltas = append(deltas, d)
	}
	return deltas
}

// unmoved tells by index in after which members stay: a longest increasing sequence of their indexes in before,
// and of those the one in which most keep their priority.
func unmoved(before, after Chain) []bool {
	n := len(after.Members)
	from, best, prev := make([]int, n), make([]int, n), make([]int, n)
	last := -1 // the member with which the best sequence ends
	for i, m := range after.Members {
		prev[i] = -1
		if from[i] = before.Index(m.Program); from[i] < 0 {
			continue
		}
		for j := range i {
			if from[j] >= 0 && from[j] < from[i] && (prev[i] < 0 || best[j] > best[prev[i]]) {
				prev[i] = j
			}
		}
		best[i] = n + 1 // one member more is worth more than all kept priorities
		if before.Members[from[i]].Priority == m.Priority {
			best[i]++
		}
		if prev[i] >= 0 {
			best[i] += best[prev[i]]
		}
		if last < 0 || best[i] > best[last] {
			last = i
		}
	}
	stay := make([]bool, n)
	for i := last; i >= 0; i = prev[i] {
		stay[i] = true
	}
	return stay
}

// String returns a line for people, such as "+ blocklist: first, priority 10, proceed-on pass", "- sampler" or
// "~ ratelimit: moved behind blocklist, priority 10 -> 50, disabled, proceed-on pass -> pass,tx".
func (d Delta) String() string {
	switch d.Kind {
	case Added:
		words := []string{d.place("first"), fmt.Sprintf("priority %d", d.After.Priority)}
		if d.After.Disabled {
			words = append(words, "disabled")
		}
		words = append(words, fmt.Sprintf("proceed-on %s", d.After.ProceedOn))
		return fmt.Sprintf("+ %s: %s", d.After.Program, strings.Join(words, ", "))
	case Removed:
		return "- " + d.Before.Program
	}
	words := d.fields()
	if d.Moved {
		words = slices.Insert(words, 0, "moved "+d.place("to the front"))
	}
	return fmt.Sprintf("~ %s: %s", d.After.Program, strings.Join(words, ", "))
}

func (d Delta) place(first string) string {
	if d.Follows == "" {
		return first
	}
	return "behind " + d.Follows
}

// fields says what is different in the fields of a member.
func (d Delta) fields() []string {
	var words []string
	if d.Before.Priority != d.After.Priority {
		words = append(words, fmt.Sprintf("priority %d -> %d", d.Before.Priority, d.After.Priority))
	}
	if d.Before.Disabled != d.After.Disabled {
		word := "enabled"
		if d.After.Disabled {
			word = "disabled"
		}
		words = append(words, word)
	}
	if was, is := d.Before.ProceedOn.normal(), d.After.ProceedOn.normal(); was != is {
		words = append(words, fmt.Sprintf("proceed-on %s -> %s", was, is))
	}
	return words
}

// DiffLines returns lines for people about all that differs between two valid chains: a line for each of the
// mode, the final verdict and the deltas. It is empty if they are equal.
func DiffLines(before, after Chain) []string {
	var lines []string
	if before.Mode != after.Mode {
		lines = append(lines, fmt.Sprintf("~ chain mode: %s -> %s", before.Mode, after.Mode))
	}
	if before.Final != after.Final {
		lines = append(lines, fmt.Sprintf("~ final verdict: %s -> %s", before.Final, after.Final))
	}
	for _, d := range Diff(before, after) {
		lines = append(lines, d.String())
	}
	return lines
}
