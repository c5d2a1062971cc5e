// SPDX-License-Identifier: Apache-2.0

package dispatcher

import (
	"errors"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/xdpd/xdpd/chain"
	"github.com/xdpd/xdpd/internal/failpoint"
)

// inlineLinker links programs into one with the dispatcher before loading. A program's own load only has the
// kernel verify it and fill its maps: what stays of it are the maps.
//
// An array of programs takes and serves either programs with the frags flag or those without, for ever from its
// first use (since Linux 5.18), but the flag of a chain changes with its members. So what makes tail calls is loaded
// without the flag, and a chain with it in has none.
type inlineLinker struct{}

func (inlineLinker) load(o *Object, replace map[string]*ebpf.Map) (*ebpf.Collection, error) {
	spec := o.spec
	if o.tailCalls() {
		spec = spec.Copy()
		for _, prog := range spec.Programs {
			prog.Flags &^= fragsFlag
		}
	}
	return newCollection(spec, replace)
}

func (inlineLinker) frags(members []member) bool {
	return allFrags(members) && !slices.ContainsFunc(members, func(m member) bool { return m.object.tailCalls() })
}

func (inlineLinker) keep(*ebpf.Program, string) error { return nil }

func (inlineLinker) link(b blueprint) (*loaded, error) {
	parts := make([]inlineMember, len(b.members))
	for i, m := range b.members {
		if err := failpoint.Err(failpoint.StageSlots); err != nil {
			return nil, err
		}
		maps := m.maps
		if maps == nil {
			var err error
			if maps, err = openMaps(m.dir, m.object); err != nil {
				return nil, err
			}
			defer closeMaps(maps)
		}
		parts[i] = inlineMember{name: m.name, spec: m.object.main(), maps: maps, proceedOn: m.proceedOn}
	}
	prog, linked, err := inlineCreate(func(clean bool) (*ebpf.ProgramSpec, error) {
		spec, err := inlineLink(dispatcherName, parts, b.final, inlineMaps{b.counters, b.trace}, clean)
		if err == nil && b.frags {
			spec.Flags |= fragsFlag
		}
		return spec, err
	})
	if linked == nil {
		return nil, err
	}
	if err != nil {
		name := inlineBlame(err, parts, linked)
		if name == "" {
			return nil, refusedWhole(err, b.members)
		}
		return nil, refused(chain.LinkRejected, chain.Facts{"program": name}, fmt.Sprintf("load the chain with program %q in it", name), err)
	}
	return &loaded{prog: prog}, nil
}

// refusedWhole is for a chain that the kernel refuses for no instruction of it. If a member makes tail calls, its
// array most likely serves programs of another kind: those of the freplace linker.
func refusedWhole(err error, members []member) error {
	i := slices.IndexFunc(members, func(m member) bool { return m.object.tailCalls() })
	if i < 0 || !errors.Is(err, unix.EINVAL) {
		return refused(chain.LinkRejected, nil, "load the chain", err)
	}
	return otherLinker(members[i], err)
}

// otherLinker says that a member was loaded by the other linker than the one that failed with err.
func otherLinker(m member, err error) error {
	return chain.Errorf(chain.LinkRejected, chain.Facts{"program": m.name, "error": err.Error()},
		"link program %q: %w (was it added when the daemon ran with another linker? its tail calls work with that one only: remove it and add it again)", m.name, err)
}
