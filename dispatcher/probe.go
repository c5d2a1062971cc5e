// SPDX-License-Identifier: Apache-2.0

package dispatcher

import (
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/rlimit"

	"github.com/xdpd/xdpd/chain"
)

// Probe is a linker that was tried on this kernel.
type Probe struct {
	Name   string
	Works  bool
	Reason string // the kernel's, where it does not work
}

// Supports returns an error unless this kernel can do what choice (a linker or Auto) needs of it. It takes no folder.
func Supports(choice string) error {
	// As Open.
	if err := rlimit.RemoveMemlock(); err != nil {
		return fmt.Errorf("lift the limit on locked memory: %w", err)
	}
	return new(Plane).choose(choice)
}

// choose probes the linkers and takes the one asked for, or the better one that works.
func (p *Plane) choose(choice string) error {
	freplace, inline := probe(Freplace, probeFreplace), probe(Inline, probeInline)
	p.probes = []Probe{freplace, inline}
	switch {
	case choice == Freplace && freplace.Works:
		p.linker, p.reason = &freplaceLinker{}, "asked for by the configuration"
	case choice == Inline && inline.Works:
		p.linker, p.reason = &inlineLinker{}, "asked for by the configuration"
	case choice == Freplace:
		return fmt.Errorf("the configuration asks for linker freplace, which does not work on this kernel: %s (set linker: auto)", freplace.Reason)
	case choice == Inline:
		return fmt.Errorf("the configuration asks for linker inline, which does not work on this kernel: %s (set linker: auto)", inline.Reason)
	case choice != Auto:
		return fmt.Errorf("unknown linker %q: it is auto, freplace or inline", choice)
	case freplace.Works:
		p.linker, p.reason = &freplaceLinker{}, "the kernel supports it"
	case inline.Works:
		p.linker, p.reason = &inlineLinker{}, "the kernel refuses freplace: "+freplace.Reason
	default:
		return fmt.Errorf("no linker works on this kernel: freplace: %s; inline: %s", freplace.Reason, inline.Reason)
	}
	return nil
}

func probe(name string, try func() error) Probe {
	if err := try(); err != nil {
		return Probe{Name: name, Reason: plain(err)}
	}
	return Probe{Name: name, Works: true}
}

// probeFreplace loads an EXT against one dispatcher and attaches it to a slot of another, as a chain needs it.
func probeFreplace() error {
	template, err := newTemplate()
	if err != nil {
		return err
	}
	defer template.Close()
	ext, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "xdpd_probe", Type: ebpf.Extension, AttachTarget: template, AttachTo: slotFunction(0),
		License: "Dual BSD/GPL", Instructions: passInstructions("xdpd_probe"),
	})
	if err != nil {
		return fmt.Errorf("load an Extension program: %w", err)
	}
	defer ext.Close()
	target, err := newDispatcher(blueprint{members: make([]member, 2), final: chain.Pass})
	if err != nil {
		return fmt.Errorf("load dispatcher: %w", err)
	}
	defer target.Close()
	held, err := link.AttachFreplace(target, slotFunction(1), ext)
	if err != nil {
		return fmt.Errorf("attach an Extension program: %w", err)
	}
	return held.Close()
}

func probeInline() error {
	counters, err := newCounters()
	if err != nil {
		return err
	}
	defer counters.Close()
	l, err := inlineLinker{}.link(blueprint{final: chain.Pass, counters: counters})
	if err != nil {
		return err
	}
	return l.Close()
}

// newTransparent loads an XDP program that passes every packet, as if there were none. The caller closes it.
func newTransparent(flags uint32) (*ebpf.Program, error) {
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "xdpd_pass", Type: ebpf.XDP, AttachType: ebpf.AttachXDP, Flags: flags,
		License: "Dual BSD/GPL", Instructions: passInstructions("xdpd_pass"),
	})
	if err != nil {
		return nil, fmt.Errorf("load transparent program: %w", err)
	}
	return prog, nil
}

// passInstructions is `int name(struct xdp_md *ctx) { return XDP_PASS; }` with its BTF.
func passInstructions(name string) asm.Instructions {
	integer := &btf.Int{Name: "int", Size: 4, Encoding: btf.Signed}
	ctx := &btf.Pointer{Target: &btf.Struct{Name: "xdp_md"}}
	fn := &btf.Func{
		Name: name, Linkage: btf.GlobalFunc,
		Type: &btf.FuncProto{Return: integer, Params: []btf.FuncParam{{Name: "ctx", Type: ctx}}},
	}
	return asm.Instructions{
		btf.WithFuncMetadata(asm.Mov.Imm(asm.R0, int32(chain.Pass)).WithSymbol(name), fn),
		asm.Return(),
	}
}
