// SPDX-License-Identifier: Apache-2.0

package dispatcher

import (
	"fmt"
	"slices"
	"strconv"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"

	"github.com/xdpd/xdpd/chain"
)

// The kernel's limits on one program, as far as they are known before it is loaded.
const (
	inlineMaxFunctions = 256       // BPF_MAX_SUBPROGS, the entry included
	inlineMaxRaw       = 1_000_000 // BPF_COMPLEXITY_LIMIT_INSNS
)

// inlineMember is one program to be linked into a chain.
type inlineMember struct {
	name      string               // the program's, for errors and comments in the verifier's log
	spec      *ebpf.ProgramSpec    // its main function and what that calls, as cilium/ebpf puts them together; not modified
	maps      map[string]*ebpf.Map // every map that spec refers to, by its name in the object
	proceedOn chain.ProceedOn
}

// inlineMaps are the dispatcher's own maps.
type inlineMaps struct {
	counters *ebpf.Map // an array of chain.Exits, with one entry for each possible CPU
	trace    *ebpf.Map // of newTrace; nil: none
}

// inlineLink makes one XDP program of members, in their order, and the final verdict. It runs each member with
// the context in R1 and looks at the low 32 bits of what it returns: after chain.Continue and the verdicts of
// its proceed-on set the next member runs, any other value is the chain's. After the last member the value is
// final. Each run adds one to the chain.Exits of its CPU in the counters; with a trace it notes there what each
// member returned. The program has no frags flag.
//
// With clean frames the verifier has less to do with the chain, and packets more (inline_clean.go).
//
// It does no system calls, and does not modify or keep members. A chain that is beyond the kernel's limits as far as they can be known without the
// verifier is refused with a chain.Error LINK_REJECTED whose fact is the program that goes beyond them. What
// the kernel refuses is for the caller to find out; inlineBlame then tells whose fault it is. One limit that
// users will meet is 64 maps for a chain, one of which is counters.
//
// The kernel holds a program to be GPL or not as a whole: the chain's licence is GPL if one member's is
// compatible with it, since that member would be refused otherwise. A member that is not can then call helpers
// that the kernel would refuse it alone, so callers that care load each program alone first.
func inlineLink(name string, members []inlineMember, final chain.Verdict, own inlineMaps, clean bool) (*ebpf.ProgramSpec, error) {
	if len(members) > chain.MaxMembers {
		return nil, fmt.Errorf("link %d programs into one chain: there are %d slots", len(members), chain.MaxMembers)
	}
	programs := make([]*inlineProgram, len(members))
	for i, m := range members {
		p, err := inlineParse(i, m)
		if err != nil {
			return nil, fmt.Errorf("link program %q: %w", m.name, err)
		}
		programs[i] = p
	}
	if err := inlineCheckLimits(programs); err != nil {
		return nil, err
	}
	if err := inlineCheckKconfig(programs); err != nil {
		return nil, err
	}
	e := &inlineEmitter{programs: programs, plan: inlinePlanFor(programs), own: own, clean: clean}
	return &ebpf.ProgramSpec{
		Name:         name,
		Type:         ebpf.XDP,
		AttachType:   ebpf.AttachXDP,
		Instructions: e.emitChain(final),
		License:      inlineLicense(members),
	}, nil
}

func inlineLicense(members []inlineMember) string {
	// license_is_gpl_compatible, include/linux/license.h
	gpl := []string{"GPL", "GPL v2", "GPL and additional rights", "Dual BSD/GPL", "Dual MIT/GPL", "Dual MPL/GPL"}
	license := ""
	for _, m := range members {
		if slices.Contains(gpl, m.spec.License) {
			return "GPL"
		}
		license = m.spec.License
	}
	return license
}

// inlineCheckLimits refuses programs that are too many functions or instructions together.
func inlineCheckLimits(programs []*inlineProgram) error {
	functions, raw := 1, 0
	for _, p := range programs {
		functions += len(p.subs)
		raw += p.main.raw
		for _, f := range p.subs {
			raw += f.raw
		}
		if functions > inlineMaxFunctions {
			return inlineTooMuch(p, "functions", functions, inlineMaxFunctions)
		}
		if raw > inlineMaxRaw {
			return inlineTooMuch(p, "instructions", raw, inlineMaxRaw)
		}
	}
	return nil
}

// inlineCheckKconfig refuses a second program that reads the kernel's configuration: the loader makes the map
// with it, and only one for each program that it loads.
func inlineCheckKconfig(programs []*inlineProgram) error {
	var first *inlineProgram
	for _, p := range programs {
		if !slices.ContainsFunc(p.spec.Instructions, inlineIsKconfig) {
			continue
		}
		if first == nil {
			first = p
		}
		if p.spec != first.spec {
			return chain.Errorf(chain.LinkRejected, chain.Facts{"program": p.name, "other": first.name},
				"link program %q into the chain: it reads the kernel's configuration (extern … __kconfig), as %q does, and the inline linker can do that for one program of a chain",
				p.name, first.name)
		}
	}
	return nil
}

// inlineIsKconfig tells a load from the map with the kernel's configuration: it is the one that has no name.
func inlineIsKconfig(ins asm.Instruction) bool {
	return ins.IsLoadFromMap() && ins.Src == asm.PseudoMapValue && ins.Reference() == "" && ins.Map() == nil
}

func inlineTooMuch(p *inlineProgram, what string, n, limit int) error {
	facts := chain.Facts{"program": p.name, what: strconv.Itoa(n), "limit": strconv.Itoa(limit)}
	return chain.Errorf(chain.LinkRejected, facts,
		"link program %q into the chain: with it the chain has %d %s, and the kernel takes %d in one program (take a program out of the chain)",
		p.name, n, what, limit)
}
