// SPDX-License-Identifier: Apache-2.0

package dispatcher

import (
	"testing"

	"github.com/cilium/ebpf/asm"
)

func TestInlineStackDepth(t *testing.T) {
	ret := asm.Return()
	fp := func(r asm.Register, offset int32) asm.Instructions { // r points into the frame
		return asm.Instructions{asm.Mov.Reg(r, asm.R10), asm.Add.Imm(r, offset)}
	}
	store := func(r asm.Register, offset int16) asm.Instruction { return asm.StoreImm(r, offset, 0, asm.Word) }
	for name, c := range map[string]struct {
		want  int
		insns asm.Instructions
	}{
		"none":                   {0, asm.Instructions{ret}},
		"direct":                 {32, asm.Instructions{store(asm.R10, -8), asm.LoadMem(asm.R1, asm.R10, -32, asm.DWord), ret}},
		"rounded up":             {8, asm.Instructions{store(asm.R10, -4), ret}},
		"by pointer":             {48, append(fp(asm.R2, -64), store(asm.R2, 16), ret)},
		"below a pointer":        {80, append(fp(asm.R2, -64), store(asm.R2, -16), ret)},
		"all of it":              {512, asm.Instructions{store(asm.R10, -512), ret}},
		"pointer not used":       {0, append(fp(asm.R2, -64), ret)},
		"handed to a helper":     {64, append(fp(asm.R2, -64), asm.FnMapLookupElem.Call(), ret)},
		"gone after a call":      {64, append(fp(asm.R2, -64), asm.FnMapLookupElem.Call(), store(asm.R2, -100), ret)},
		"kept over a call":       {64, append(fp(asm.R6, -64), asm.FnKtimeGetNs.Call(), store(asm.R6, 0), ret)},
		"subtracted":             {24, asm.Instructions{asm.Mov.Reg(asm.R2, asm.R10), asm.Sub.Imm(asm.R2, 24), store(asm.R2, 0), ret}},
		"stored":                 {40, append(fp(asm.R2, -40), asm.StoreMem(asm.R10, -8, asm.R2, asm.DWord), ret)},
		"stored and loaded":      {56, append(fp(asm.R2, -40), asm.StoreMem(asm.R10, -8, asm.R2, asm.DWord), asm.LoadMem(asm.R3, asm.R10, -8, asm.DWord), store(asm.R3, -16), ret)},
		"other slot loaded":      {40, append(fp(asm.R2, -40), asm.StoreMem(asm.R10, -8, asm.R2, asm.DWord), asm.LoadMem(asm.R3, asm.R10, -16, asm.DWord), store(asm.R3, -160), ret)},
		"stored by a pointer":    {56, append(append(fp(asm.R2, -40), fp(asm.R4, -24)...), asm.StoreMem(asm.R4, 0, asm.R2, asm.DWord), asm.LoadMem(asm.R3, asm.R10, -24, asm.DWord), store(asm.R3, -16), ret)},
		"plus a variable":        {64, append(fp(asm.R2, -64), asm.Add.Reg(asm.R2, asm.R1), store(asm.R2, 0), ret)},
		"variable plus":          {64, append(fp(asm.R2, -64), asm.Add.Reg(asm.R1, asm.R2), store(asm.R1, 0), ret)},
		"minus a variable":       {512, append(fp(asm.R2, -64), asm.Sub.Reg(asm.R2, asm.R1), store(asm.R2, 0), ret)},
		"going down in a loop":   {512, asm.Instructions{asm.Mov.Reg(asm.R2, asm.R10), asm.Add.Imm(asm.R2, -8).WithSymbol("again"), store(asm.R2, 0), asm.JNE.Imm(asm.R1, 0, "again"), ret}},
		"going up in a loop":     {64, append(fp(asm.R2, -64), asm.Add.Imm(asm.R2, 8).WithSymbol("again"), store(asm.R2, -8), asm.JNE.Imm(asm.R1, 0, "again"), ret)},
		"the deeper of two ways": {96, append(fp(asm.R2, -64), asm.JNE.Imm(asm.R1, 0, "store"), asm.Add.Imm(asm.R2, -32), store(asm.R2, 0).WithSymbol("store"), ret)},
		"not reached":            {0, asm.Instructions{ret, store(asm.R10, -8), ret}},
		"atomic":                 {16, append(fp(asm.R2, -16), asm.StoreXAdd(asm.R2, asm.R1, asm.DWord), ret)},
		"a number of 32 bits":    {0, asm.Instructions{asm.Mov.Reg32(asm.R2, asm.R10), asm.Add.Imm(asm.R2, -64), store(asm.R2, 0), ret}},
	} {
		if got := newInlineFlow(c.insns).stackDepth(); got != c.want {
			t.Errorf("%s: %d bytes, want %d", name, got, c.want)
		}
	}
}

func TestInlineReadsCtx(t *testing.T) {
	ret := asm.Return()
	for name, c := range map[string]struct {
		want  bool
		insns asm.Instructions
	}{
		"nothing":      {false, asm.Instructions{asm.Mov.Imm(asm.R0, 2), ret}},
		"loads":        {true, asm.Instructions{asm.LoadMem(asm.R0, asm.R1, 0, asm.Word), ret}},
		"copies":       {true, asm.Instructions{asm.Mov.Reg(asm.R6, asm.R1), ret}},
		"overwrites":   {false, asm.Instructions{asm.Mov.Imm(asm.R1, 0), asm.Mov.Reg(asm.R0, asm.R1), ret}},
		"calls":        {true, asm.Instructions{asm.FnKtimeGetNs.Call(), ret}},
		"stores":       {true, asm.Instructions{asm.StoreMem(asm.R10, -8, asm.R1, asm.DWord), ret}},
		"on one way":   {true, asm.Instructions{asm.JEq.Imm(asm.R0, 0, "read"), asm.Mov.Imm(asm.R1, 0), asm.Mov.Reg(asm.R0, asm.R1).WithSymbol("read"), ret}},
		"after return": {false, asm.Instructions{ret, asm.Mov.Reg(asm.R0, asm.R1), ret}},
		"a map":        {false, asm.Instructions{asm.LoadMapPtr(asm.R1, 3), asm.Mov.Reg(asm.R0, asm.R1), ret}},
	} {
		if got := newInlineFlow(c.insns).readsCtx(); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
