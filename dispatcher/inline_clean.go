// SPDX-License-Identifier: Apache-2.0

package dispatcher

import (
	"errors"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// Pasted members share a frame, and the verifier takes a slot of 8 bytes for written only once all of it is
// written in one go. What a member writes in part and then reads, say a key of 4 bytes for a lookup, is to the
// verifier a read of what members before it left in the rest of the slot. So it has to tell apart the states in
// which they left it, and has that many more to go through in each member that follows. With clean frames those
// slots are set to 0 before the member, which makes all these states the same again. Packets pay for it with an
// instruction for each slot, so it is done only for chains that are too complex without.

// inlineCreate has the kernel load the program that link makes. If that is too complex for the verifier, link
// makes it again, with clean frames, and any error is about this one. linked is what was loaded last, or nil if
// the error is link's. The caller closes prog.
func inlineCreate(link func(clean bool) (*ebpf.ProgramSpec, error)) (prog *ebpf.Program, linked *ebpf.ProgramSpec, err error) {
	if linked, err = link(false); err != nil {
		return nil, nil, err
	}
	load := func(o ebpf.ProgramOptions) (*ebpf.Program, error) { return ebpf.NewProgramWithOptions(linked, o) }
	prog, err = load(ebpf.ProgramOptions{LogDisabled: true})
	switch {
	case err == nil:
	case !inlineTooComplex(err):
		prog, err = explained(load, err)
	default:
		if linked, err = link(true); err != nil {
			return nil, nil, err
		}
		prog, err = verified(load)
	}
	return prog, linked, err
}

// inlineTooComplex tells whether the verifier may have given up. Some kernels answer EFAULT to too many jumps.
func inlineTooComplex(err error) bool {
	return errors.Is(err, unix.E2BIG) || errors.Is(err, unix.EFAULT)
}

// clear writes zeros to the slots that p may read, as the verifier sees it, before it has written them.
func (e *inlineEmitter) clear(p *inlineProgram) {
	slots := p.main.flow.stale() & inlineSlotsIn(-p.main.depth, p.main.depth)
	for i := range inlineMaxStack / 8 {
		if slots&(1<<i) != 0 {
			e.emit(asm.Instruction{OpCode: asm.StoreImmOp(asm.DWord), Dst: asm.R10, Offset: int16(-8 * (i + 1))})
		}
	}
}

// inlineSlots is a set of 8 byte slots of a frame. Bit i stands for the one at -8*(i+1) from the frame pointer.
type inlineSlots uint64

// inlineSlotsIn are the slots of which the size bytes from offset on have a part.
func inlineSlotsIn(offset, size int) (s inlineSlots) {
	first, end := max(offset, -inlineMaxStack), min(offset+size, 0)
	for at := first; at < end; at++ {
		s |= 1 << ((-at - 1) / 8)
	}
	return s
}

// stale are the slots from which the function may read what its frame held before. A read by a pointer, or by
// what got one, is taken to go up to the frame's end. A write by a pointer is not relied on.
func (f *inlineFlow) stale() inlineSlots {
	fr := f.frame()
	reads, kept := make([]inlineSlots, len(f.insns)), make([]inlineSlots, len(f.insns))
	for i := range f.insns {
		reads[i], kept[i] = fr.effect(i)
	}
	live := make([]inlineSlots, len(f.insns))
	for changed := true; changed; {
		changed = false
		for i := len(f.insns) - 1; i >= 0; i-- {
			var after inlineSlots
			for _, to := range f.next[i] {
				after |= live[to]
			}
			if now := reads[i] | after&kept[i]; now != live[i] {
				live[i], changed = now, true
			}
		}
	}
	return live[0]
}

// effect tells which slots instruction i may read, and which it does not overwrite for sure.
func (fr *inlineFrame) effect(i int) (reads, kept inlineSlots) {
	const all = ^inlineSlots(0)
	ins, regs := &fr.flow.insns[i], fr.in[i]
	if regs == nil {
		return 0, all
	}
	op, offset := ins.OpCode, int(ins.Offset)
	size := op.Size().Sizeof()
	switch op.Class() {
	case asm.LdXClass:
		if ins.Src == asm.R10 {
			return inlineSlotsIn(offset, size), all
		}
		return inlineSlotsFrom(regs[ins.Src].add(int64(offset))), all
	case asm.StClass, asm.StXClass:
		switch {
		case op.Class() == asm.StXClass && op.Mode() == asm.AtomicMode:
			return inlineSlotsFrom(min(regs[ins.Dst].add(int64(offset)), regs[ins.Src].add(int64(offset)))), all
		case ins.Dst == asm.R10 && size == 8 && offset%8 == 0:
			return 0, all &^ inlineSlotsIn(offset, size)
		}
	default:
		if op.JumpOp() == asm.Call {
			return inlineSlotsFrom(fr.handed(regs)), all
		}
	}
	return 0, all
}

// handed is the lowest that a function which is called with regs can reach, also by pointers in memory.
func (fr *inlineFrame) handed(regs *[asm.R10 + 1]inlineLow) inlineLow {
	low := slices.Min(regs[asm.R1 : asm.R5+1])
	if low == inlineNoPointer {
		return low
	}
	for _, slot := range fr.slots {
		low = min(low, slot)
	}
	return min(low, fr.escaped)
}

// inlineSlotsFrom are all slots from low up.
func inlineSlotsFrom(low inlineLow) inlineSlots {
	if low == inlineNoPointer {
		return 0
	}
	from := int(max(low, -inlineMaxStack))
	return inlineSlotsIn(from, -from)
}
