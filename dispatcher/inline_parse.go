// SPDX-License-Identifier: Apache-2.0

package dispatcher

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
)

// inlineProgram is a member taken apart into functions. Its symbols are unique in the chain and its maps bound.
type inlineProgram struct {
	inlineMember
	main   *inlineFunc
	subs   []*inlineFunc
	byName map[string]*inlineFunc // main and subs, by their symbol
	owner  *inlineOwner
}

// inlineFunc is one function and what the linker needs to know of its code.
type inlineFunc struct {
	insns    asm.Instructions
	raw      int         // length in units of the kernel: a load of 64 bits counts twice
	depth    int         // bytes of stack that its own frame needs at most; inlineMaxStack if that cannot be told
	readsCtx bool        // whether it reads its first argument
	touched  inlineRegs  // registers that occur in it
	tailCall bool        // whether it makes tail calls
	calls    []string    // symbols of the functions that it calls or takes the address of
	flow     *inlineFlow // its jumps
}

// inlineParse takes member number i apart. It fails if the instructions refer to a map that the member lacks.
func inlineParse(i int, m inlineMember) (*inlineProgram, error) {
	if len(m.spec.Instructions) == 0 {
		return nil, errors.New("it has no instructions")
	}
	insns, starts, err := inlineRename(fmt.Sprintf("m%d_", i), m)
	if err != nil {
		return nil, err
	}
	p := &inlineProgram{inlineMember: m, byName: map[string]*inlineFunc{}}
	for k, start := range starts {
		end := len(insns)
		if k+1 < len(starts) {
			end = starts[k+1]
		}
		f := newInlineFunc(insns[start:end:end])
		p.byName[f.insns.Name()] = f
		if k == 0 {
			p.main = f
		} else {
			p.subs = append(p.subs, f)
		}
	}
	stack := func(f *inlineFunc) int { return inlineStackJIT.round(f.depth) }
	one := func(*inlineFunc) int { return 1 }
	p.owner = &inlineOwner{
		program: m.name,
		stack:   p.longest(p.main, stack, map[*inlineFunc]int{}),
		frames:  p.longest(p.main, one, map[*inlineFunc]int{}),
	}
	return p, nil
}

// inlineRename copies the instructions of m, puts prefix before every symbol and reference of code, and binds
// the maps. It also returns the indexes at which functions start.
func inlineRename(prefix string, m inlineMember) (insns asm.Instructions, starts []int, err error) {
	called := map[string]bool{}
	for _, ins := range m.spec.Instructions {
		if ins.IsFunctionReference() {
			called[ins.Reference()] = true
		}
	}
	insns = make(asm.Instructions, len(m.spec.Instructions))
	for i, ins := range m.spec.Instructions {
		symbol := ins.Symbol()
		if i == 0 && symbol == "" {
			symbol = "main"
		}
		if i == 0 || btf.FuncMetadata(&ins) != nil || symbol != "" && called[symbol] {
			starts = append(starts, i)
		}
		if symbol != "" {
			ins = ins.WithSymbol(prefix + symbol)
		}
		switch ref := ins.Reference(); {
		case ref == "":
		case ins.IsLoadFromMap():
			bound, ok := m.maps[ref]
			if !ok {
				return nil, nil, fmt.Errorf("it refers to map %q, which was not given", ref)
			}
			if err := ins.AssociateMap(bound); err != nil {
				return nil, nil, fmt.Errorf("bind map %q: %w", ref, err)
			}
		case ins.IsFunctionReference(), ins.OpCode.JumpOp() != asm.Call && ins.OpCode.Class().IsJump():
			ins = ins.WithReference(prefix + ref)
		}
		insns[i] = ins
	}
	return insns, starts, nil
}

func newInlineFunc(insns asm.Instructions) *inlineFunc {
	f := &inlineFunc{insns: insns, flow: newInlineFlow(insns)}
	seen := map[string]bool{}
	for i := range insns {
		ins := &insns[i]
		f.raw += int(ins.Width())
		reads, writes := inlineEffect(ins)
		f.touched |= reads | writes
		if ins.IsBuiltinCall() && ins.Constant == int64(asm.FnTailCall) {
			f.tailCall = true
		}
		if ref := ins.Reference(); ins.IsFunctionReference() && !seen[ref] {
			seen[ref] = true
			f.calls = append(f.calls, ref)
		}
	}
	f.readsCtx = f.flow.readsCtx()
	f.depth = f.flow.stackDepth()
	return f
}

// inlineRegs is a set of registers, bit r standing for register r.
type inlineRegs uint16

func (s inlineRegs) has(r asm.Register) bool { return s&(1<<r) != 0 }

func inlineSet(regs ...asm.Register) (s inlineRegs) {
	for _, r := range regs {
		s |= 1 << r
	}
	return s
}

// inlineEffect tells which registers ins may read, and which it overwrites for sure.
func inlineEffect(ins *asm.Instruction) (reads, writes inlineRegs) {
	dst, src, op := inlineSet(ins.Dst), inlineSet(ins.Src), ins.OpCode
	switch class := op.Class(); class {
	case asm.LdClass:
		if op.IsDWordLoad() {
			return 0, dst
		}
		return inlineSet(asm.R6) | src, inlineScratch
	case asm.LdXClass:
		return src, dst
	case asm.StClass:
		return dst, 0
	case asm.StXClass:
		if op.Mode() == asm.AtomicMode {
			return dst | src | inlineSet(asm.R0), 0
		}
		return dst | src, 0
	case asm.ALUClass, asm.ALU64Class:
		if op.Source() == asm.RegSource {
			reads = src
		}
		if !inlineIsMov(op) {
			reads |= dst
		}
		return reads, dst
	default:
		switch op.JumpOp() {
		case asm.Call:
			return inlineScratch &^ inlineSet(asm.R0), inlineScratch
		case asm.Exit:
			return inlineSet(asm.R0), 0
		case asm.Ja, asm.JCOND:
			return 0, 0
		}
		if op.Source() == asm.RegSource {
			reads = src
		}
		return reads | dst, 0
	}
}

// inlineScratch are the registers that a call does not preserve.
const inlineScratch inlineRegs = 1<<asm.R0 | 1<<asm.R1 | 1<<asm.R2 | 1<<asm.R3 | 1<<asm.R4 | 1<<asm.R5

func inlineIsMov(op asm.OpCode) bool {
	switch op.ALUOp() {
	case asm.Mov, asm.MovSX8, asm.MovSX16, asm.MovSX32:
		return true
	}
	return false
}
