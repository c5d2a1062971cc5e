// SPDX-License-Identifier: Apache-2.0

package chain

import (
	"math/rand/v2"
	"testing"
)

func TestCounts(t *testing.T) {
	var e Exits
	e[0][Drop] = 10
	e[1][Pass] = 5
	e[1][ClassOther] = 1
	e[2][Pass] = 100 // the end of a chain of two
	e[3][Pass] = 7   // beyond it: not part of this revision
	if got, want := e.Member(0, 2), (Counts{Seen: 116, PassedOn: 106, Ended: [Classes]uint64{Drop: 10}}); got != want {
		t.Errorf("slot 0: %+v", got)
	}
	if got, want := e.Member(1, 2), (Counts{Seen: 106, PassedOn: 100, Ended: [Classes]uint64{Pass: 5, ClassOther: 1}}); got != want {
		t.Errorf("slot 1: %+v", got)
	}
	if e.End(2) != 100 || e.Packets(2) != 116 {
		t.Errorf("end %d, packets %d", e.End(2), e.Packets(2))
	}
	for _, no := range [][2]int{{-1, 2}, {2, 2}, {0, 0}, {0, MaxMembers + 1}} {
		if got := e.Member(no[0], no[1]); got != (Counts{}) {
			t.Errorf("slot %d of %d: %+v", no[0], no[1], got)
		}
	}
	if e.End(MaxMembers+1) != 0 || e.End(-1) != 0 {
		t.Error("an end that does not exist has packets")
	}
	if e.Packets(0) != 10 || e.End(0) != 10 {
		t.Error("without slots, the end is row 0")
	}
	if e.Packets(MaxMembers) != 123 {
		t.Errorf("all rows: %d", e.Packets(MaxMembers))
	}
}

func TestCountsAddUp(t *testing.T) {
	var e, f, sum Exits
	for i := range e {
		for class := range e[i] {
			e[i][class], f[i][class] = rand.Uint64N(1000), rand.Uint64N(1000)
			sum[i][class] = e[i][class] + f[i][class]
		}
	}
	for n := range MaxMembers + 1 {
		seen := e.Packets(n)
		for i := range n {
			c := e.Member(i, n)
			left := c.PassedOn
			for _, x := range c.Ended {
				left += x
			}
			if c.Seen != seen || left != seen {
				t.Fatalf("slot %d of %d saw %d, accounts for %d, but %d arrived", i, n, c.Seen, left, seen)
			}
			seen = c.PassedOn
			c.Add(f.Member(i, n))
			if c != sum.Member(i, n) {
				t.Fatalf("slot %d of %d: the sum of counts is not the counts of the sum", i, n)
			}
		}
		if e.End(n) != seen {
			t.Fatalf("%d packets reached the end of %d, but %d passed the last member", e.End(n), n, seen)
		}
	}
	e.Add(&f)
	if e != sum {
		t.Fatal("Add does not add")
	}
}
