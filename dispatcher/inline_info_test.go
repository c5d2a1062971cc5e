// SPDX-License-Identifier: Apache-2.0

package dispatcher

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"

	"github.com/xdpd/xdpd/chain"
)

// inlineBroken is a member that the kernel refuses, so it cannot be loaded alone first.
func inlineBroken(t *testing.T, function string) inlineMember {
	t.Helper()
	spec, err := ebpf.LoadCollectionSpec(filepath.Join("testdata", "inline", "broken.o"))
	if err != nil {
		t.Fatal(err)
	}
	return inlineMember{function, spec.Programs[function], nil, chain.Of(chain.Pass)}
}

// inlineNested has as many functions active at a time as the kernel takes: 8 up to Linux 6.18. It makes tail calls,
// so it is called from a chain's entry, which is one too many.
func inlineNested(t *testing.T) inlineMember {
	targets := inlineObject(t, 1, "tail", "caller", "target").maps
	for depth := 8; depth < 64; depth++ {
		m := inlineNest(depth + 1)
		alone := m.spec.Copy()
		alone.AttachType = ebpf.AttachXDP // as the targets
		if err := alone.Instructions.AssociateMap("targets", targets["targets"]); err != nil {
			t.Fatal(err)
		}
		prog, err := ebpf.NewProgram(alone)
		if err == nil {
			prog.Close()
			continue
		}
		t.Logf("%d nested functions load alone, not one more: %v", depth, err)
		m = inlineNest(depth)
		m.maps = targets
		return m
	}
	t.Fatal("the kernel takes any number of nested functions")
	return inlineMember{}
}

// inlineNest calls depth functions from within each other, its main one counted.
func inlineNest(depth int) inlineMember {
	insns := asm.Instructions{
		asm.LoadMem(asm.R2, asm.R1, 16, asm.Word),
		asm.JEq.Imm(asm.R2, 0, "call"),
		asm.Mov.Imm(asm.R3, 0),
		asm.LoadMapPtr(asm.R2, 0).WithReference("targets"),
		asm.FnTailCall.Call(),
		asm.Call.Label("f1").WithSymbol("call"),
		asm.Return(),
	}
	for i := 1; i < depth-1; i++ {
		insns = append(insns, asm.Call.Label(fmt.Sprintf("f%d", i+1)).WithSymbol(fmt.Sprintf("f%d", i)), asm.Return())
	}
	return inlineCode("nested", append(insns, asm.Mov.Imm(asm.R0, 2).WithSymbol(fmt.Sprintf("f%d", depth-1)), asm.Return())...)
}

func TestInlineBlame(t *testing.T) {
	step, nobtf := inlineObject(t, 1, "step", "step").inlineMember, inlineObject(t, 1, "nobtf", "nobtf").inlineMember
	null := inlineCode("null", asm.Mov.Imm(asm.R6, 0), asm.LoadMem(asm.R0, asm.R6, 0, asm.DWord), asm.Return())
	forever := inlineCode("forever", asm.Mov.Imm(asm.R6, 0).WithSymbol("again"), asm.Ja.Label("again"), asm.Return())
	for _, c := range []struct {
		member  inlineMember
		log     string // that the log contains
		mayLoad bool   // some kernels count the frames of a called global function apart from its caller's: 7.3 does
	}{
		{inlineBroken(t, "broken"), "__u32 kept = *(volatile __u8 *)(long)ctx->data;", false},
		{inlineBroken(t, "broken_below"), "return *(volatile __u8 *)(long)ctx->data;", false},
		{null, "R6 invalid mem access", false},
		{inlineNested(t), "call", true}, // the number of frames, or their stack
		{forever, "insn", false},
	} {
		for _, members := range [][]inlineMember{
			{c.member},
			{c.member, step, nobtf},
			{step, nobtf, step, c.member, step, nobtf},
			{nobtf, step, c.member},
		} {
			tried, err := inlineTryLoad(t, chain.Pass, members...)
			if err == nil && c.mayLoad {
				t.Logf("%s: this kernel takes it in a chain too", c.member.name)
				continue
			}
			var ve *ebpf.VerifierError
			if !errors.As(err, &ve) {
				t.Fatalf("%s: %v", c.member.name, err)
			}
			if blame := inlineBlame(err, members, tried.linked); blame != c.member.name {
				t.Errorf("%s: blame %q for %+v", c.member.name, blame, ve)
			}
			if log := fmt.Sprintf("%+v", ve); !strings.Contains(log, c.log) {
				t.Errorf("%s: no %q in %s", c.member.name, c.log, log)
			}
		}
	}
	if blame := inlineBlame(errors.New("insn 1"), []inlineMember{step}, nil); blame != "" {
		t.Errorf("blame %q for an error that is not the verifier's", blame)
	}
}

// TestInlineTooManyMaps has more maps than the kernel takes for one program.
func TestInlineTooManyMaps(t *testing.T) {
	var members []inlineMember
	for i := range 32 { // each has two, and the chain one
		members = append(members, inlineObject(t, uint8(i), "step", "step").inlineMember)
	}
	inlineLoad(t, chain.Pass, members[:31]...)
	c, err := inlineTryLoad(t, chain.Pass, members...)
	if blame := inlineBlame(err, members, c.linked); blame != "step-31" {
		t.Errorf("blame %q for %+v", blame, err)
	}
}

// TestInlineInfo looks at what the kernel knows of a chain's functions and source lines.
func TestInlineInfo(t *testing.T) {
	members := []inlineMember{
		inlineObject(t, 1, "same_a", "main_same").inlineMember, inlineObject(t, 2, "same_b", "main_same").inlineMember,
		inlineObject(t, 3, "nobtf", "nobtf").inlineMember, inlineObject(t, 4, "tail", "caller", "target").inlineMember,
		inlineCode("bare", asm.Mov.Imm(asm.R0, 2), asm.Return()),
	}
	info, err := inlineLoad(t, chain.Pass, members...).prog.Info()
	if err != nil {
		t.Fatal(err)
	}
	offsets, err := info.FuncInfos()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, o := range offsets {
		names = append(names, o.Func.Name)
	}
	if names[0] != "xdpd_chain" {
		t.Errorf("the entry is %s", names[0])
	}
	slices.Sort(names)
	if want := []string{"caller", "m2_bump", "same", "same", "same_global", "same_global", "xdpd_chain"}; !slices.Equal(names, want) {
		t.Errorf("functions %v, want %v", names, want)
	}
	lines, err := info.LineInfos()
	if err != nil {
		t.Fatal(err)
	}
	var text []string
	for _, l := range lines {
		text = append(text, strings.TrimSpace(l.Line.Line()))
	}
	for _, want := range []string{"return verdict;", "bpf_tail_call(ctx, &targets, 0);", "return x * 3 + 1;", "return x * 5 + 2;", "xdpd: program bare", "xdpd: verdict of program main_same-2"} {
		if !slices.Contains(text, want) {
			t.Errorf("no source line %q in %q", want, text)
		}
	}
}

// TestInlineSize counts the instructions that a member adds to a chain as it runs.
func TestInlineSize(t *testing.T) {
	size := func(members ...inlineMember) int {
		info, err := inlineLoad(t, chain.Pass, members...).prog.Info()
		if err != nil {
			t.Fatal(err)
		}
		insns, err := info.Instructions()
		if err != nil {
			t.Fatal(err)
		}
		return int(insns.Size() / asm.InstructionSize)
	}
	trivial := inlineCode("trivial", asm.Mov.Imm(asm.R0, 2), asm.Return())
	reader := inlineCode("reader", asm.LoadMem(asm.R2, asm.R1, 0, asm.Word), asm.Mov.Imm(asm.R0, 2), asm.Return())
	unknown := inlineCode("unknown", asm.LoadMem(asm.R0, asm.R1, 16, asm.Word), asm.Return())
	none := size()
	for _, m := range []inlineMember{trivial, reader, unknown} {
		ten := size(slices.Repeat([]inlineMember{m}, 10)...)
		eleven := size(slices.Repeat([]inlineMember{m}, 11)...)
		t.Logf("none %d, ten %s %d, each more %d", none, m.name, ten, eleven-ten)
		if m.name == "trivial" && (eleven-ten > 4 || none > 24) {
			t.Errorf("a trivial member adds %d instructions to a chain of %d", eleven-ten, none)
		}
	}
}

// inlineForeignObjects are other people's objects. Debian and Ubuntu have them in packages.
func inlineForeignObjects(t *testing.T) []string {
	t.Helper()
	var files []string
	for _, pattern := range []string{"/usr/lib/*/bpf/*.o", "/usr/lib/bpf/*.o", "/usr/lib*/xdp-tools/*.o", "/usr/libexec/xdp-tools/*.o"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, found...)
	}
	if len(files) < 10 {
		t.Fatalf("this test needs objects of others and found only %d: apt-get install libxdp1 xdp-tools xdp-tests", len(files))
	}
	return files
}

// TestInlineForeign links every XDP program that loads alone between two others, and three times over.
func TestInlineForeign(t *testing.T) {
	first, last := inlineObject(t, 1, "step", "step").inlineMember, inlineObject(t, 2, "step", "step").inlineMember
	linked, refused := 0, 0
	for _, file := range inlineForeignObjects(t) {
		for _, function := range inlineForeignPrograms(t, file) {
			name := filepath.Base(file) + "/" + function
			spec, err := ebpf.LoadCollectionSpec(file)
			if err != nil {
				t.Fatal(err)
			}
			spec.Programs = map[string]*ebpf.ProgramSpec{function: spec.Programs[function]}
			spec.Programs[function].AttachType = ebpf.AttachXDP
			for _, m := range spec.Maps {
				m.Pinning = ebpf.PinNone
			}
			coll, err := ebpf.NewCollection(spec)
			if err != nil {
				t.Logf("%s does not load alone: %v", name, err)
				refused++
				continue
			}
			x := inlineMember{name, spec.Programs[function], coll.Maps, chain.Of(chain.Pass)}
			for _, members := range [][]inlineMember{{x}, {first, x, last}, {x, x, x}} {
				if c, err := inlineTryLoad(t, chain.Pass, members...); err != nil {
					t.Errorf("%s in a chain of %d, blame %q: %+v", name, len(members), inlineBlame(err, members, c.linked), err)
				}
			}
			coll.Close()
			linked++
		}
	}
	t.Logf("%d programs linked, %d do not load alone", linked, refused)
	if linked < 15 {
		t.Errorf("only %d programs of others were linked", linked)
	}
}

func inlineForeignPrograms(t *testing.T, file string) (functions []string) {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	spec, err := ebpf.LoadCollectionSpecFromReader(f)
	if err != nil {
		t.Fatalf("read %s: %v", file, err)
	}
	for name, p := range spec.Programs {
		if p.Type == ebpf.XDP && p.AttachType == ebpf.AttachXDP {
			functions = append(functions, name)
		}
	}
	slices.Sort(functions)
	return functions
}
