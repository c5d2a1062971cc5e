// SPDX-License-Identifier: Apache-2.0

package dispatcher

import (
	"math"

	"github.com/cilium/ebpf/asm"
)

// inlineMaxStack is how many bytes of stack a function can have, and all functions of a call chain together
// (MAX_BPF_STACK, linux/filter.h).
const inlineMaxStack = 512

// inlineFlow is a function as a graph: where control can go from each instruction.
type inlineFlow struct {
	insns asm.Instructions
	next  [][]int // by index in insns; targets outside of the function are left out
}

func newInlineFlow(insns asm.Instructions) *inlineFlow {
	byRaw := map[int]int{}      // index by offset in raw units
	byLabel := map[string]int{} // index by symbol
	raw := make([]int, len(insns))
	at := 0
	for i := range insns {
		raw[i], byRaw[at] = at, i
		at += int(insns[i].Width())
		if s := insns[i].Symbol(); s != "" {
			byLabel[s] = i
		}
	}
	f := &inlineFlow{insns: insns, next: make([][]int, len(insns))}
	for i := range insns {
		ins := &insns[i]
		var to []int
		op := ins.OpCode.JumpOp()
		jumps := op != asm.InvalidJumpOp && op != asm.Call && op != asm.Exit
		if op != asm.Exit && op != asm.Ja && i+1 < len(insns) {
			to = append(to, i+1)
		}
		if jumps {
			offset := int(ins.Offset)
			if op == asm.Ja && ins.OpCode.Class() == asm.Jump32Class {
				offset = int(ins.Constant)
			}
			target, ok := byRaw[raw[i]+1+offset]
			if ref := ins.Reference(); ref != "" && offset == -1 {
				target, ok = byLabel[ref]
			}
			if ok {
				to = append(to, target)
			}
		}
		f.next[i] = to
	}
	return f
}

// readsCtx tells whether the function may read R1 as its caller left it.
func (f *inlineFlow) readsCtx() bool {
	seen := make([]bool, len(f.insns))
	for todo := []int{0}; len(todo) > 0; {
		i := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if seen[i] {
			continue
		}
		seen[i] = true
		reads, writes := inlineEffect(&f.insns[i])
		if reads.has(asm.R1) {
			return true
		}
		if !writes.has(asm.R1) {
			todo = append(todo, f.next[i]...)
		}
	}
	return false
}

// inlineLow is what is known of a value: the lowest offset from the frame pointer that it can point to. The
// less is known, the smaller it is.
type inlineLow int

const (
	inlineNoPointer inlineLow = math.MaxInt     // not a pointer to the frame
	inlineAnywhere  inlineLow = math.MinInt / 2 // somewhere in the frame
)

func (l inlineLow) add(n int64) inlineLow {
	if l == inlineNoPointer || l == inlineAnywhere {
		return l
	}
	if n < -2*inlineMaxStack || n > 2*inlineMaxStack || l+inlineLow(n) < -inlineMaxStack {
		return inlineAnywhere
	}
	return min(l+inlineLow(n), 0)
}

// inlineFrame follows the pointers into a function's frame through its registers and stack slots.
type inlineFrame struct {
	flow    *inlineFlow
	in      []*[asm.R10 + 1]inlineLow // what registers hold before each instruction; nil if it is not reached
	slots   map[int16]inlineLow       // what was ever stored at an offset from R10
	escaped inlineLow                 // what was ever stored through another pointer into the frame
	lowest  inlineLow                 // the lowest that is accessed, or handed to a function
}

// stackDepth is how many bytes of stack the function's own frame needs at most, counted from the frame
// pointer and rounded up to 8. A pointer plus a variable is taken to stay above that pointer; a pointer minus
// a variable can be anywhere, and makes the answer inlineMaxStack.
//
// Nothing depends on it for safety: were it too small, the verifier would find that what is loaded as the
// context is no context.
func (f *inlineFlow) stackDepth() int {
	fr := f.frame()
	if fr.lowest < -inlineMaxStack {
		return inlineMaxStack
	}
	return (int(-fr.lowest) + 7) &^ 7
}

// frame follows all pointers into the function's frame.
func (f *inlineFlow) frame() *inlineFrame {
	fr := &inlineFrame{flow: f, slots: map[int16]inlineLow{}, escaped: inlineNoPointer}
	for changed := true; changed; {
		changed = fr.walk()
	}
	return fr
}

// walk visits all instructions until the registers settle, and tells whether memory changed meanwhile.
func (fr *inlineFrame) walk() (changed bool) {
	n := len(fr.flow.insns)
	fr.in = make([]*[asm.R10 + 1]inlineLow, n)
	fr.in[0] = new([asm.R10 + 1]inlineLow)
	for r := range asm.R10 {
		fr.in[0][r] = inlineNoPointer
	}
	for todo := []int{0}; len(todo) > 0; {
		i := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		regs := *fr.in[i]
		changed = fr.step(&fr.flow.insns[i], &regs) || changed
		for _, to := range fr.flow.next[i] {
			if fr.join(to, &regs) {
				todo = append(todo, to)
			}
		}
	}
	return changed
}

// join merges regs into what is known before instruction i, and tells whether that changed.
func (fr *inlineFrame) join(i int, regs *[asm.R10 + 1]inlineLow) (changed bool) {
	if fr.in[i] == nil {
		known := *regs
		fr.in[i] = &known
		return true
	}
	for r, low := range regs {
		if low < fr.in[i][r] {
			fr.in[i][r], changed = low, true
		}
	}
	return changed
}

// step is what one instruction does to regs and memory. It tells whether what is known of memory changed.
func (fr *inlineFrame) step(ins *asm.Instruction, regs *[asm.R10 + 1]inlineLow) (changed bool) {
	op := ins.OpCode
	switch op.Class() {
	case asm.LdXClass:
		fr.use(regs[ins.Src].add(int64(ins.Offset)))
		regs[ins.Dst] = fr.load(ins, regs)
	case asm.StClass:
		fr.use(regs[ins.Dst].add(int64(ins.Offset)))
	case asm.StXClass:
		fr.use(regs[ins.Dst].add(int64(ins.Offset)))
		if op.Mode() == asm.AtomicMode {
			fr.use(regs[ins.Src].add(int64(ins.Offset))) // a load with acquire has them the other way round
			return false
		}
		return fr.store(ins, regs)
	case asm.ALUClass, asm.ALU64Class:
		regs[ins.Dst] = inlineArithmetic(ins, regs)
	case asm.LdClass:
		regs[ins.Dst] = inlineNoPointer
	default:
		if op.JumpOp() != asm.Call {
			return false
		}
		for r := asm.R1; r <= asm.R5; r++ {
			fr.use(regs[r])
		}
		for r := asm.R0; r <= asm.R5; r++ {
			regs[r] = inlineNoPointer
		}
	}
	return false
}

// use notes that low is accessed.
func (fr *inlineFrame) use(low inlineLow) { fr.lowest = min(fr.lowest, low) }

func (fr *inlineFrame) load(ins *asm.Instruction, regs *[asm.R10 + 1]inlineLow) inlineLow {
	low := inlineNoPointer
	switch {
	case ins.OpCode.Size() != asm.DWord || regs[ins.Src] == inlineNoPointer:
		return low
	case ins.Src == asm.R10:
		if slot, ok := fr.slots[ins.Offset]; ok {
			low = slot
		}
	default:
		for _, slot := range fr.slots {
			low = min(low, slot)
		}
	}
	return min(low, fr.escaped)
}

func (fr *inlineFrame) store(ins *asm.Instruction, regs *[asm.R10 + 1]inlineLow) (changed bool) {
	low := regs[ins.Src]
	if low == inlineNoPointer || regs[ins.Dst] == inlineNoPointer {
		return false
	}
	fr.use(low)
	if ins.Dst != asm.R10 {
		changed = low < fr.escaped
		fr.escaped = min(fr.escaped, low)
		return changed
	}
	if old, ok := fr.slots[ins.Offset]; !ok || low < old {
		fr.slots[ins.Offset] = low
		return true
	}
	return false
}

// inlineArithmetic is what the destination of an ALU instruction holds after it.
func inlineArithmetic(ins *asm.Instruction, regs *[asm.R10 + 1]inlineLow) inlineLow {
	op := ins.OpCode
	if op.Class() != asm.ALU64Class {
		return inlineNoPointer // pointers do not survive 32-bit arithmetic
	}
	dst, src := regs[ins.Dst], inlineNoPointer
	if op.Source() == asm.RegSource {
		src = regs[ins.Src]
	}
	switch {
	case op.ALUOp() == asm.Mov:
		return src
	case op.ALUOp() == asm.Add && op.Source() == asm.ImmSource:
		return dst.add(ins.Constant)
	case op.ALUOp() == asm.Sub && op.Source() == asm.ImmSource:
		return dst.add(-ins.Constant)
	case op.ALUOp() == asm.Add:
		if dst != inlineNoPointer && src != inlineNoPointer {
			return inlineAnywhere
		}
		return min(dst, src)
	case op.ALUOp() == asm.Sub && dst != inlineNoPointer && src == inlineNoPointer:
		return inlineAnywhere
	}
	return inlineNoPointer
}
