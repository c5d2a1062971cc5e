// SPDX-License-Identifier: Apache-2.0

package dispatcher

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"

	"github.com/xdpd/xdpd/chain"
)

// inlineSample is a function of testdata/inline of a particular kind.
type inlineSample struct {
	file, function string
	other          string // that its maps refer to
	silent         bool   // it leaves no trail
	major, minor   uint32 // the first kernel that can load it alone; 0: all
}

var inlineSamples = []inlineSample{
	{file: "step", function: "step"},
	{file: "deep", function: "deep_256"},
	{file: "deep", function: "deep_504", silent: true},
	{file: "deep", function: "busy_504", silent: true},
	{file: "deep", function: "below_192"},
	{file: "deep", function: "below_448"},
	{file: "deep", function: "indexed"},
	{file: "tail", function: "caller", other: "target"},
	{file: "tail", function: "miss", other: "target"},
	{file: "tail", function: "below_caller", other: "target"},
	{file: "same_a", function: "main_same"},
	{file: "same_b", function: "main_same"},
	{file: "loop", function: "loop", major: 5, minor: 17},
	{file: "globals", function: "globals"},
	{file: "nobtf", function: "nobtf", silent: true},
	{file: "kconfig", function: "kconfig"},
	{file: "large", function: "large"},
	{file: "core", function: "core", major: 6, minor: 2},
}

func (s inlineSample) load(t *testing.T, id uint8) inlinePart {
	inlineNeeds(t, s.major, s.minor)
	return inlineObject(t, id, s.file, s.function, s.other)
}

// TestInlineSamples runs each sample at every place of a chain, and three of it in one.
func TestInlineSamples(t *testing.T) {
	for _, s := range inlineSamples {
		t.Run(s.function, func(t *testing.T) {
			x := s.load(t, 7)
			a, b := inlineObject(t, 1, "step", "step"), inlineObject(t, 3, "step", "step")
			trail := func(ids ...byte) []byte {
				if s.silent {
					ids = slices.DeleteFunc(ids, func(id byte) bool { return id == 7 })
				}
				return ids
			}
			before := fmt.Sprint(x.spec)
			inlineLoad(t, chain.Drop, x.inlineMember).run(t, 1, trail(7), 1, 1)
			inlineLoad(t, chain.Drop, inlineMembers(x, a, b)...).run(t, 1, trail(7, 1, 3), 3, 1)
			inlineLoad(t, chain.Drop, inlineMembers(a, b, x)...).run(t, 1, trail(1, 3, 7), 3, 1)
			inlineLoad(t, chain.Drop, inlineMembers(x, a, x, b, x)...).run(t, 1, trail(7, 1, 7, 3, 7), 5, 1)
			c := inlineLoad(t, chain.Drop, inlineMembers(a, x, b)...)
			c.run(t, 1, trail(1, 7, 3), 3, 1)
			a.set(t, 3)
			c.run(t, 3, trail(1), 0, 3)
			if x.coll.Variables["verdict"] != nil {
				a.set(t, 31)
				x.set(t, 0x700000001)
				c.run(t, 1, trail(1, 7), 1, 1)
				x.set(t, 31)
				c.run(t, 1, trail(1, 7, 3), 3, 1)
			}
			if after := fmt.Sprint(x.spec); after != before {
				t.Error("linking changed the program's own instructions")
			}
		})
	}
}

// TestInlineStack puts programs into a chain whose frames do not fit under each other.
func TestInlineStack(t *testing.T) {
	parts := map[string]inlinePart{}
	for i, name := range []string{"deep_256", "deep_504", "busy_504", "below_192", "below_448", "indexed"} {
		parts[name] = inlineObject(t, uint8(10+i), "deep", name)
	}
	parts["step"] = inlineObject(t, 1, "step", "step")
	parts["caller"] = inlineObject(t, 2, "tail", "caller", "target")
	for _, names := range [][]string{
		{"step", "deep_256", "below_448", "step"},
		{"below_448", "deep_256", "below_448", "deep_256"},
		{"deep_256", "caller", "below_448", "step"},
		{"step", "deep_504", "step", "busy_504", "step"},
		{"indexed", "busy_504", "indexed", "step"},
		{"deep_256", "deep_256", "below_192", "caller", "indexed"},
	} {
		var members []inlineMember
		var trail []byte
		for _, name := range names {
			p := parts[name]
			members = append(members, p.inlineMember)
			if !strings.HasSuffix(name, "_504") {
				id, err := inlineID(p)
				if err != nil {
					t.Fatal(err)
				}
				trail = append(trail, id)
			}
		}
		t.Run(strings.Join(names, ","), func(t *testing.T) {
			inlineLoad(t, chain.Pass, members...).run(t, 2, trail, len(members), 2)
		})
	}
}

func inlineID(p inlinePart) (id uint8, err error) { return id, p.coll.Variables["id"].Get(&id) }

// inlineFull512 uses all of the stack, in the middle of a chain; with busy every register that calls preserve, too.
func inlineFull512(busy bool) inlineMember {
	insns := asm.Instructions{
		asm.Mov.Imm(asm.R2, 1),
		asm.StoreMem(asm.R10, -512, asm.R2, asm.DWord),
		asm.Mov.Reg(asm.R2, asm.R10),
		asm.Add.Imm(asm.R2, -512),
		asm.LoadMem(asm.R0, asm.R2, 0, asm.DWord),
		asm.Add.Imm(asm.R0, 1),
	}
	for r := asm.R6; busy && r <= asm.R9; r++ {
		insns = append(insns, asm.Mov.Imm(r, 1))
	}
	return inlineCode("full", append(insns, asm.Return())...)
}

func TestInlineFullFrame(t *testing.T) {
	a, b := inlineObject(t, 1, "step", "step"), inlineObject(t, 2, "step", "step")
	c := inlineLoad(t, chain.Drop, a.inlineMember, inlineFull512(false), b.inlineMember)
	c.run(t, 1, []byte{1, 2}, 3, 1)
	c = inlineLoad(t, chain.Drop, a.inlineMember, inlineFull512(true))
	c.run(t, 1, []byte{1}, 2, 1)

	// Nothing can be kept while the next one runs but in the registers of a caller that has no stack itself.
	// Where the kernel counts stack for that caller all the same, it must be clear who is at fault.
	members := []inlineMember{a.inlineMember, inlineFull512(true), b.inlineMember}
	c, err := inlineTryLoad(t, chain.Drop, members...)
	if err != nil {
		if blame := inlineBlame(err, members, c.linked); blame != "full" || !strings.Contains(err.Error(), "combined stack size") {
			t.Fatalf("blame %q for %+v", blame, err)
		}
		t.Logf("this kernel: %v", err)
		return
	}
	c.run(t, 1, []byte{1, 2}, 3, 1)
	a.set(t, 4)
	c.run(t, 4, []byte{1}, 0, 4)
}

// TestInlineLoopToStart has a member whose first instruction is the target of a jump back, by label and by number.
func TestInlineLoopToStart(t *testing.T) {
	back := asm.JLT.Imm(asm.R2, 5, "")
	back.Offset = -4
	for name, jump := range map[string]asm.Instruction{"label": asm.JLT.Imm(asm.R2, 5, "again"), "number": back} {
		t.Run(name, func(t *testing.T) {
			x := inlineCode("loop",
				asm.LoadMem(asm.R3, asm.R1, 0, asm.Word).WithSymbol("again"), // the context must be there each time
				asm.Mov.Reg(asm.R2, asm.R0),
				asm.Add.Imm(asm.R0, 1),
				jump,
				asm.Mov.Imm(asm.R0, 2),
				asm.Return(),
			)
			// R0 counts the rounds, as the member before left it: it runs only behind the other one.
			a, b := inlineObject(t, 1, "step", "step"), inlineObject(t, 2, "step", "step")
			a.set(t, 2)
			inlineLoad(t, chain.Drop, a.inlineMember, x, b.inlineMember).run(t, 1, []byte{1, 2}, 3, 1)
		})
	}
}

// TestInlineFarJumps has members with more instructions than a jump can span, together and alone.
func TestInlineFarJumps(t *testing.T) {
	member := func(id, n int) inlineMember {
		insns := asm.Instructions{
			asm.LoadMem(asm.R6, asm.R1, 16, asm.Word), // rx_queue_index: the verifier cannot know it
			asm.Mov.Imm(asm.R0, 2),
			asm.JNE.Imm(asm.R6, 0, "go on"),
			asm.JEq.Imm(asm.R6, 77, "early"),
			asm.Ja.Label("go on"),
			asm.Return().WithSymbol("early"),
			asm.Mov.Imm(asm.R0, 0).WithSymbol("go on"),
		}
		for range n {
			insns = append(insns, asm.Add.Imm(asm.R0, 1))
		}
		return inlineCode(fmt.Sprintf("far-%d", id), append(insns, asm.Mov.Imm(asm.R0, int32(2)), asm.Return())...)
	}
	a, b := inlineObject(t, 1, "step", "step"), inlineObject(t, 2, "step", "step")
	members := []inlineMember{a.inlineMember}
	for i, n := range []int{31900, 12000, 12000, 12000, 33000, 31900, 10, 31900} {
		members = append(members, member(i, n), b.inlineMember)
	}
	trail := []byte{1, 2, 2, 2, 2, 2, 2, 2, 2}
	c := inlineLoad(t, chain.Drop, members...)
	c.run(t, 1, trail, len(members), 1)
	b.set(t, 3)
	c.run(t, 3, trail[:2], 2, 3)
	for i := range members {
		members[i].proceedOn = chain.Of(chain.Tx)
		if i%2 == 1 {
			members[i].proceedOn = chain.Of(chain.Pass)
		}
	}
	a.set(t, 3)
	c = inlineLoad(t, chain.Drop, members...)
	c.run(t, 1, trail, len(members), 1)
	for _, i := range []int{1, 9, 15} { // leave at some of the far ones
		members[i].proceedOn = 0
		c := inlineLoad(t, chain.Drop, members...)
		c.run(t, 2, trail[:1+i/2], i, 2)
		members[i].proceedOn = chain.Of(chain.Pass)
	}
}

func TestInlineLicense(t *testing.T) {
	// bpf_ktime_get_boot_ns is for GPL programs only.
	gpl := inlineCode("gpl", asm.FnKtimeGetBootNs.Call(), asm.Mov.Imm(asm.R0, 2), asm.Return())
	other := inlineCode("other", asm.Mov.Imm(asm.R0, 2), asm.Return())
	other.spec.License = "Proprietary"
	gpl.spec.License = "Dual MIT/GPL"
	for _, members := range [][]inlineMember{{gpl}, {other, gpl}, {gpl, other}, {other}, {}} {
		inlineLoad(t, chain.Pass, members...)
	}
}

func TestInlineLimits(t *testing.T) {
	functions := func(n int) (insns asm.Instructions) { // n functions and the main one, each with two instructions
		for i := range n {
			insns = append(insns, asm.Call.Label(fmt.Sprintf("f%d", i)))
		}
		insns = append(insns, asm.Mov.Imm(asm.R0, 2), asm.Return())
		for i := range n {
			insns = append(insns, asm.Mov.Imm(asm.R0, 2).WithSymbol(fmt.Sprintf("f%d", i)), asm.Return())
		}
		return insns
	}
	inlineLoad(t, chain.Pass, inlineCode("most", functions(155)...), inlineCode("rest", functions(100)...))
	for _, c := range []struct {
		fact  string
		insns asm.Instructions
	}{
		{"functions", functions(101)},
		{"instructions", make(asm.Instructions, 1_000_000)},
	} {
		_, err := inlineTryLoad(t, chain.Pass, inlineCode("most", functions(155)...), inlineCode("second", c.insns...))
		var refused *chain.Error
		if !errors.As(err, &refused) || refused.Reason != chain.LinkRejected || refused.Facts["program"] != "second" || refused.Facts[c.fact] == "" {
			t.Errorf("too many %s: %v", c.fact, err)
		}
	}
}

func TestInlineMissingMap(t *testing.T) {
	x := inlineObject(t, 1, "globals", "globals").inlineMember
	x.maps = map[string]*ebpf.Map{}
	if _, err := inlineLink("", []inlineMember{x}, chain.Pass, inlineMaps{}, false); err == nil || !strings.Contains(err.Error(), "globals-1") {
		t.Errorf("a program without its maps: %v", err)
	}
}

func TestInlineKconfigTwice(t *testing.T) {
	a, b := inlineObject(t, 1, "kconfig", "kconfig").inlineMember, inlineObject(t, 2, "kconfig", "kconfig").inlineMember
	_, err := inlineLink("", []inlineMember{a, b}, chain.Pass, inlineMaps{}, false)
	var refused *chain.Error
	if !errors.As(err, &refused) || refused.Reason != chain.LinkRejected || refused.Facts["program"] != b.name {
		t.Errorf("two programs that read the kernel's configuration: %v", err)
	}
}
