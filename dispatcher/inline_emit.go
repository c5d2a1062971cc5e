// SPDX-License-Identifier: Apache-2.0

package dispatcher

import (
	"fmt"
	"slices"
	"strings"

	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"

	"github.com/xdpd/xdpd/chain"
)

const (
	inlineClassSize = 8                               // of one counter
	inlineSlotSize  = chain.Classes * inlineClassSize // of a row of chain.Exits
)

// inlineCountName is the symbol of the function that counts, if there is one.
const inlineCountName = "xdpd_count"

// inlineEmitter writes the instructions of a chain, in one pass: the entry function, with the members' main
// functions in it, then all other functions. A slot looks like this:
//
//	        r1 = context
//	        main of the member, its exits as jumps to verdict_i
//	verdict_i:
//	        note what it returned, in a chain with a trace
//	        if w0 == (a verdict of the proceed-on set, or 31) goto next_i
//	        r6 = offset of the slot's counters
//	        goto leave_k
//	next_i:
//
// and leave_k, where a packet is counted and the program ends, stands behind the last slot. In long chains
// there are several of them, each within reach of the jumps before it.
type inlineEmitter struct {
	programs []*inlineProgram
	plan     inlinePlan
	own      inlineMaps
	clean    bool // whether frames are clean (inline_clean.go)

	pasted bool // whether a member was pasted
	insns  asm.Instructions
	raw    int    // length of insns in raw units
	label  string // for the next instruction

	leave   int // number of the next leave_k
	pending int // where the first jump to it is; -1: there is none
}

// emitChain writes the whole chain. The slices in e.programs are not modified.
func (e *inlineEmitter) emitChain(final chain.Verdict) asm.Instructions {
	e.pending = -1
	plan, programs := e.plan, e.programs
	if plan.saved {
		e.saveCtx()
	}
	for i := range programs {
		e.member(i)
	}
	e.end(final)
	if e.pending >= 0 {
		e.emitLeave()
	}
	e.insns[0] = inlineHead(e.insns[0], inlineEntryFunc("xdpd_chain"), "xdpd: the chain's entry")
	if plan.counts {
		e.countFunc()
	}
	for i, p := range programs {
		if plan.called[i] {
			p.owner.frames++
			name := strings.TrimPrefix(p.main.insns.Name(), fmt.Sprintf("m%d_", i))
			e.function(p, p.main, inlineEntryFunc(name))
		}
		for _, f := range p.subs {
			fn := btf.FuncMetadata(&f.insns[0])
			if fn == nil {
				fn = inlineFunction(f.insns.Name(), btf.StaticFunc)
			}
			e.function(p, f, fn)
		}
	}
	return e.insns
}

// emit appends instructions and gives the pending label to the first.
func (e *inlineEmitter) emit(insns ...asm.Instruction) {
	for _, ins := range insns {
		if e.label != "" {
			label := e.label
			e.label = ""
			if ins.Symbol() == "" {
				ins = ins.WithSymbol(label)
			} else { // a jump to the next instruction, which the kernel removes, carries the label
				e.emit(asm.Instruction{OpCode: asm.Ja.Op(asm.ImmSource)}.WithSymbol(label))
			}
		}
		e.insns = append(e.insns, ins)
		e.raw += int(ins.Width())
	}
}

func (e *inlineEmitter) saveCtx() {
	if e.plan.slot == 0 {
		e.emit(asm.Mov.Reg(e.plan.reg, asm.R1))
		return
	}
	e.emit(asm.StoreMem(asm.R10, int16(e.plan.slot), asm.R1, asm.DWord))
}

func (e *inlineEmitter) loadCtx() asm.Instruction {
	if e.plan.slot == 0 {
		return asm.Mov.Reg(asm.R1, e.plan.reg)
	}
	return asm.LoadMem(asm.R1, asm.R10, int16(e.plan.slot), asm.DWord)
}

// member writes slot i.
func (e *inlineEmitter) member(i int) {
	p := e.programs[i]
	start := len(e.insns)
	if e.plan.reload[i] {
		e.emit(e.loadCtx())
	}
	if e.plan.called[i] {
		e.emit(asm.Call.Label(p.main.insns.Name()))
	} else {
		if e.clean && e.pasted { // the first has the frame as the kernel made it
			e.clear(p)
		}
		e.paste(i)
		e.pasted = true
	}
	inlineMark(&e.insns[start], p.owner, "xdpd: program "+p.name)

	start = len(e.insns)
	next := fmt.Sprintf("xdpd_next_%d", i)
	if e.own.trace != nil {
		e.emit(e.note(i)...)
	}
	e.emit(inlineProceed(p.proceedOn, next)...)
	e.emit(asm.Mov.Imm(asm.R6, int32(i*inlineSlotSize)))
	inlineMark(&e.insns[start], p.owner, "xdpd: verdict of program "+p.name)

	if e.pending < 0 {
		e.pending = e.raw
	}
	ahead := 200 // the end of the chain, or the glue of the next slot
	if i+1 < len(e.programs) && !e.plan.called[i+1] {
		ahead += e.programs[i+1].main.raw
	}
	if e.raw+ahead-e.pending > inlineMaxPaste {
		e.emitLeave()
	} else {
		e.emit(asm.Ja.Label(e.leaveLabel()))
	}
	e.label = next
}

// inlineProceed are the comparisons that are true for the verdicts after which the next member runs, the most
// likely first: each jumps to next.
func inlineProceed(on chain.ProceedOn, next string) []asm.Instruction {
	all := chain.Of(chain.Aborted, chain.Drop, chain.Pass, chain.Tx, chain.Redirect)
	var tests []asm.Instruction
	if on&all == all {
		tests = append(tests, asm.JLE.Imm32(asm.R0, int32(chain.Redirect), next))
	} else {
		for _, v := range []chain.Verdict{chain.Pass, chain.Tx, chain.Redirect, chain.Drop, chain.Aborted} {
			if on.Has(v) {
				tests = append(tests, asm.JEq.Imm32(asm.R0, int32(v), next))
			}
		}
	}
	return append(tests, asm.JEq.Imm32(asm.R0, int32(chain.Continue), next))
}

// note writes into the trace that member i ran, and what it returned.
func (e *inlineEmitter) note(i int) []asm.Instruction {
	const ran, verdict, size = 0, 4, 8 // as in traced
	load := asm.LoadMapValue(asm.R1, 0, uint32(i*size))
	if err := load.AssociateMap(e.own.trace); err != nil {
		panic(err) // it is the load of a map's value
	}
	return []asm.Instruction{
		load,
		asm.StoreImm(asm.R1, ran, 1, asm.Word),
		asm.StoreMem(asm.R1, verdict, asm.R0, asm.Word),
	}
}

// paste writes the main function of member i in place, one instruction for one, so that its jumps stay right.
// Where it exits it jumps behind itself instead; an exit at its end is left out and has the same effect.
func (e *inlineEmitter) paste(i int) {
	p := e.programs[i]
	verdict := fmt.Sprintf("xdpd_verdict_%d", i)
	target := slices.ContainsFunc(p.main.insns, func(ins asm.Instruction) bool {
		return ins.Reference() == p.main.insns.Name()
	})
	for k, ins := range p.main.insns {
		if k == 0 {
			ins = btf.WithFuncMetadata(ins, nil)
			if !target {
				ins = ins.WithSymbol("")
			}
		}
		if ins.OpCode.JumpOp() == asm.Exit {
			if k > 0 && k == len(p.main.insns)-1 && ins.Symbol() == "" {
				break
			}
			jump := asm.Instruction{OpCode: asm.Ja.Op(asm.ImmSource), Offset: -1, Metadata: ins.Metadata}
			ins = jump.WithReference(verdict)
		}
		e.emit(ins)
	}
	e.label = verdict
}

// end writes the way of the packets that have passed all members.
func (e *inlineEmitter) end(final chain.Verdict) {
	start := len(e.insns)
	class := min(int(final), chain.ClassOther)
	row := len(e.programs)*inlineSlotSize + class*inlineClassSize
	verdict := asm.Mov.Imm(asm.R0, int32(final))
	if e.plan.counts {
		e.emit(asm.Mov.Imm(asm.R1, int32(row)), asm.Call.Label(inlineCountName))
	} else {
		e.emit(e.count(int16(row), 0)...)
	}
	e.emit(verdict, asm.Return())
	inlineMark(&e.insns[start], &inlineOwner{}, "xdpd: the end of the chain")
}

func (e *inlineEmitter) leaveLabel() string { return fmt.Sprintf("xdpd_leave_%d", e.leave) }

// emitLeave writes the way of the packets that leave the chain, with the verdict in R0 and the offset of the
// slot's counters in R6.
func (e *inlineEmitter) emitLeave() {
	start := len(e.insns)
	e.label = e.leaveLabel()
	other := asm.JLE.Imm32(asm.R0, int32(chain.Redirect), "")
	other.Offset = 1
	e.emit(
		asm.Mov.Reg32(asm.R7, asm.R0),
		other,
		asm.Mov.Imm32(asm.R0, chain.ClassOther),
		asm.Mul.Imm32(asm.R0, inlineClassSize),
		asm.Add.Reg(asm.R6, asm.R0),
	)
	if e.plan.counts {
		e.emit(asm.Mov.Reg(asm.R1, asm.R6), asm.Call.Label(inlineCountName))
	} else {
		e.emit(e.count(0, asm.R6)...)
	}
	e.emit(asm.Mov.Reg(asm.R0, asm.R7), asm.Return())
	inlineMark(&e.insns[start], &inlineOwner{}, "xdpd: out of the chain")
	e.leave++
	e.pending = -1
}

// count adds one to a counter of this CPU: the one at offset, plus the value of register plus if that is not
// R0. It uses 8 bytes of stack; packets are not counted on a CPU without counters, which there is none of.
func (e *inlineEmitter) count(offset int16, plus asm.Register) []asm.Instruction {
	load := asm.LoadMapPtr(asm.R1, 0)
	if err := load.AssociateMap(e.own.counters); err != nil {
		panic(err) // it is the load of a map
	}
	add := []asm.Instruction{
		asm.LoadMem(asm.R1, asm.R0, offset, asm.DWord),
		asm.Add.Imm(asm.R1, 1),
		asm.StoreMem(asm.R0, offset, asm.R1, asm.DWord),
	}
	if plus != asm.R0 {
		add = append([]asm.Instruction{asm.Add.Reg(asm.R0, plus)}, add...)
	}
	none := asm.JEq.Imm(asm.R0, 0, "")
	none.Offset = int16(len(add))
	return append([]asm.Instruction{
		asm.FnGetSmpProcessorId.Call(),
		asm.StoreMem(asm.R10, -4, asm.R0, asm.Word),
		asm.Mov.Reg(asm.R2, asm.R10),
		asm.Add.Imm(asm.R2, -4),
		load,
		asm.FnMapLookupElem.Call(),
		none,
	}, add...)
}

// countFunc writes the function that counts, with the counter's offset in R1.
func (e *inlineEmitter) countFunc() {
	start := len(e.insns)
	e.emit(asm.Mov.Reg(asm.R6, asm.R1).WithSymbol(inlineCountName))
	e.emit(e.count(0, asm.R6)...)
	e.emit(asm.Mov.Imm(asm.R0, 0), asm.Return())
	e.insns[start] = inlineHead(e.insns[start], inlineFunction(inlineCountName, btf.StaticFunc), "xdpd: count")
	inlineMark(&e.insns[start], &inlineOwner{}, "")
}

// function appends a function of p as it is, with fn as its type.
func (e *inlineEmitter) function(p *inlineProgram, f *inlineFunc, fn *btf.Func) {
	start := len(e.insns)
	e.emit(f.insns...)
	e.insns[start] = inlineHead(e.insns[start], fn, "")
	inlineMark(&e.insns[start], p.owner, "xdpd: a function of program "+p.name)
}
