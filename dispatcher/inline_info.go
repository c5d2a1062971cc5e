// SPDX-License-Identifier: Apache-2.0

package dispatcher

import (
	"errors"
	"regexp"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"
)

// inlineHead makes ins the first instruction of function fn. The kernel wants a type for each function, and a
// source line for the head of each function if there is any source line at all: text is the line if ins has none.
func inlineHead(ins asm.Instruction, fn *btf.Func, text string) asm.Instruction {
	ins = btf.WithFuncMetadata(ins, fn)
	if ins.Source() == nil && text != "" {
		ins = ins.WithSource(asm.Comment(text))
	}
	return ins
}

// inlineEntryFunc is the type that the kernel wants of an XDP program: int name(struct xdp_md *ctx).
func inlineEntryFunc(name string) *btf.Func {
	fn := inlineFunction(name, btf.GlobalFunc)
	fn.Type.(*btf.FuncProto).Params = []btf.FuncParam{
		{Name: "ctx", Type: &btf.Pointer{Target: &btf.Struct{Name: "xdp_md"}}},
	}
	return fn
}

// inlineFunction is int name(void), with what the kernel does not like in a name replaced.
func inlineFunction(name string, linkage btf.FuncLinkage) *btf.Func {
	name = strings.Map(func(r rune) rune {
		if r == '_' || '0' <= r && r <= '9' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' {
			return r
		}
		return '_'
	}, name)
	if name == "" || '0' <= name[0] && name[0] <= '9' {
		name = "_" + name
	}
	result := &btf.Int{Name: "int", Size: 4, Encoding: btf.Signed}
	return &btf.Func{Name: name, Type: &btf.FuncProto{Return: result}, Linkage: linkage}
}

// inlineOwner is the program that instructions belong to, from the one that has it in its metadata on.
type inlineOwner struct {
	program string // empty: the dispatcher's own
	stack   int    // bytes that its functions use together at most
	frames  int    // how many of its functions are active at a time at most, below the entry
}

type inlineOwnerKey struct{}

// inlineMark says that the instructions from ins on belong to owner. If ins has no source line, text becomes
// it, so that the verifier's log does not ascribe the instructions to the line before.
func inlineMark(ins *asm.Instruction, owner *inlineOwner, text string) {
	ins.Metadata.Set(inlineOwnerKey{}, owner)
	if ins.Source() == nil && text != "" {
		*ins = ins.WithSource(asm.Comment(text))
	}
}

// Where the verifier's log names an instruction: in the order in which they are looked for in a line.
var inlineLogIndex = []*regexp.Regexp{
	regexp.MustCompile(`\balloc_insn=(\d+)`),
	regexp.MustCompile(`\binsn (\d+)\b`),
	regexp.MustCompile(`^(\d+): \(`),
}

// inlineLogSums are complaints of the verifier about functions that call each other, which name no instruction.
var inlineLogSums = map[string]func(*inlineOwner) int{
	"combined stack size":                        func(o *inlineOwner) int { return o.stack },
	"tail_calls are not allowed when call stack": func(o *inlineOwner) int { return o.stack },
	"frames is too deep":                         func(o *inlineOwner) int { return o.frames },
}

// inlineBlame tells the program of members that err, the kernel's refusal of what they were linked into, is
// about: the one whose instruction the verifier's log named last; if it is about stack or nested calls, the one
// that needs most; if it is about the number of maps, the first that was one map too many. It is empty if the log does not say, and if err is not from the verifier.
func inlineBlame(err error, members []inlineMember, linked *ebpf.ProgramSpec) string {
	var ve *ebpf.VerifierError
	if !errors.As(err, &ve) {
		return ""
	}
	if over := inlineMapsOver(members); over != "" && errors.Is(err, unix.E2BIG) {
		return over // older kernels do not say why
	}
	for i := len(ve.Log) - 1; i >= 0; i-- {
		for complaint, size := range inlineLogSums {
			if strings.Contains(ve.Log[i], complaint) {
				return inlineLargest(linked.Instructions, size)
			}
		}
		for _, re := range inlineLogIndex {
			m := re.FindStringSubmatch(ve.Log[i])
			if m == nil {
				continue
			}
			index, err := strconv.Atoi(m[1])
			if err != nil {
				continue
			}
			if owner := inlineOwnerAt(linked.Instructions, index); owner != "" {
				return owner
			}
		}
	}
	return ""
}

// inlineMaxMaps is how many maps a program can have (MAX_USED_MAPS).
const inlineMaxMaps = 64

// inlineMapsOver is the first member with which a chain, with its counters, has too many maps.
func inlineMapsOver(members []inlineMember) string {
	maps := map[*ebpf.Map]bool{nil: true}
	for _, m := range members {
		for _, one := range m.maps {
			maps[one] = true
		}
		if len(maps) > inlineMaxMaps {
			return m.name
		}
	}
	return ""
}

// inlineOwnerAt is the program that the instruction at index, in raw units, belongs to.
func inlineOwnerAt(insns asm.Instructions, index int) (program string) {
	iter := insns.Iterate()
	for iter.Next() && int(iter.Offset) <= index {
		if owner, ok := iter.Ins.Metadata.Get(inlineOwnerKey{}).(*inlineOwner); ok {
			program = owner.program
		}
	}
	return program
}

// inlineLargest is the program of insns whose owner has the largest size.
func inlineLargest(insns asm.Instructions, size func(*inlineOwner) int) (program string) {
	most := 0
	for _, ins := range insns {
		if owner, ok := ins.Metadata.Get(inlineOwnerKey{}).(*inlineOwner); ok && size(owner) > most {
			program, most = owner.program, size(owner)
		}
	}
	return program
}
