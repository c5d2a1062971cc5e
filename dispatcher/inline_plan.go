// SPDX-License-Identifier: Apache-2.0

package dispatcher

import (
	"slices"

	"github.com/cilium/ebpf/asm"
)

const (
	// inlineMaxPaste is how long a pasted main function can be, in raw units: its jumps have 16 bits.
	inlineMaxPaste = 32000
	// inlineMaxFrames is how many functions can be active at a time (MAX_CALL_FRAMES).
	inlineMaxFrames = 8
	// inlineTailStack is how much stack the callers of a function that makes tail calls can have.
	inlineTailStack = 256
)

// inlinePlan says how the members get into the entry function, and where the context is kept meanwhile.
//
// A main function is pasted unless it makes tail calls (what follows it would never run) or is too long.
// Members that need more stack than there is left for others are called too, as few as will do.
type inlinePlan struct {
	called []bool // by member; the others are pasted
	reload []bool // by member: R1 must be loaded from the context's place before it runs
	saved  bool   // whether the context has a place, because a reload needs it
	reg    asm.Register
	slot   int // the offset from R10 of the place; 0: it is reg
	frame  int // bytes of stack of the entry function, at most
	// counts tells that a function of its own counts, so that the entry needs no stack for it.
	counts bool
}

// inlineStack is how the kernel adds up the stack of functions that call each other: it rounds up each. With
// a JIT, later kernels round to 16 instead of 32 and count nothing for a function without stack.
type inlineStack struct{ unit, least int }

var (
	inlineStackOld = inlineStack{32, 1}
	inlineStackJIT = inlineStack{16, 0}
)

func (s inlineStack) round(depth int) int {
	return (max(depth, s.least) + s.unit - 1) / s.unit * s.unit
}

// inlinePlanFor takes the first plan that stays within the kernel's limits on all kernels, else on later ones;
// else the first that is possible at all, for the verifier to judge.
func inlinePlanFor(programs []*inlineProgram) inlinePlan {
	limits := []int{-1} // a main function with more stack than this is called
	for _, p := range programs {
		limits = append(limits, p.main.depth)
	}
	slices.Sort(limits)
	limits = slices.Compact(limits)
	slices.Reverse(limits)

	var first *inlinePlan
	for _, try := range []struct {
		stack  inlineStack
		counts bool
	}{{inlineStackOld, false}, {inlineStackJIT, false}, {inlineStackJIT, true}} {
		for _, limit := range limits {
			plan, ok := inlineTryPlan(programs, limit, try.counts)
			if !ok {
				continue
			}
			if first == nil {
				first = &plan
			}
			if plan.fits(programs, try.stack) {
				return plan
			}
		}
	}
	return *first // with limit -1 every plan is possible
}

// inlineTryPlan makes the plan in which main functions with more stack than limit are called. It is not ok if
// there is no place for the context then.
func inlineTryPlan(programs []*inlineProgram, limit int, counts bool) (plan inlinePlan, ok bool) {
	n := len(programs)
	plan = inlinePlan{called: make([]bool, n), reload: make([]bool, n), counts: counts}
	last := 0
	for i, p := range programs {
		plan.called[i] = p.main.tailCall || p.main.raw > inlineMaxPaste || p.main.depth > limit
		plan.reload[i] = i > 0 && (plan.called[i] || p.main.readsCtx)
		if plan.reload[i] {
			last = i
		}
		if !plan.called[i] {
			plan.frame = max(plan.frame, p.main.depth)
		}
	}
	if !counts {
		plan.frame = max(plan.frame, 8)
	}
	if last == 0 {
		return plan, true
	}
	plan.saved = true
	var touched inlineRegs
	below := 0
	for i, p := range programs[:last] {
		if !plan.called[i] {
			touched |= p.main.touched
			below = max(below, p.main.depth)
		}
	}
	for _, r := range []asm.Register{asm.R9, asm.R8, asm.R7, asm.R6} {
		if !touched.has(r) {
			plan.reg = r
			return plan, true
		}
	}
	plan.slot = -(below + 8)
	plan.frame = max(plan.frame, below+8)
	return plan, plan.frame <= inlineMaxStack
}

// fits tells whether the plan is within the kernel's limits on the stack of functions that call each other.
func (plan *inlinePlan) fits(programs []*inlineProgram, stack inlineStack) bool {
	entry := stack.round(plan.frame)
	if plan.counts && entry+stack.round(8) > inlineMaxStack {
		return false
	}
	for i, p := range programs {
		sum := inlineSum{p, stack, map[inlineSumKey]bool{}}
		if plan.called[i] {
			if !sum.fits(p.main, entry, 2) {
				return false
			}
			continue
		}
		for _, callee := range p.main.calls {
			if !sum.fits(p.byName[callee], entry, 2) {
				return false
			}
		}
	}
	return true
}

// inlineSum adds up the stack of one program's functions.
type inlineSum struct {
	program *inlineProgram
	stack   inlineStack
	known   map[inlineSumKey]bool
}

type inlineSumKey struct {
	f             *inlineFunc
	above, frames int
}

// fits tells whether f and all that it calls can run as frame number frames, with above bytes of stack in use.
func (s inlineSum) fits(f *inlineFunc, above, frames int) bool {
	if f == nil {
		return true // no function of the program: the loader will say so
	}
	total := above + s.stack.round(f.depth)
	if total > inlineMaxStack || frames > inlineMaxFrames || f.tailCall && above >= inlineTailStack {
		return false
	}
	key := inlineSumKey{f, above, frames}
	if fits, ok := s.known[key]; ok {
		return fits
	}
	fits := true
	for _, callee := range f.calls {
		fits = fits && s.fits(s.program.byName[callee], total, frames+1)
	}
	s.known[key] = fits
	return fits
}

// longest is the largest sum of weight over functions of p that are active at the same time, f the first of
// them. known holds what was found before.
func (p *inlineProgram) longest(f *inlineFunc, weight func(*inlineFunc) int, known map[*inlineFunc]int) int {
	if f == nil {
		return 0
	}
	if sum, ok := known[f]; ok {
		return sum
	}
	known[f] = 0 // ends a recursion, which the verifier will refuse
	below := 0
	for _, callee := range f.calls {
		below = max(below, p.longest(p.byName[callee], weight, known))
	}
	known[f] = weight(f) + below
	return known[f]
}
