// SPDX-License-Identifier: Apache-2.0

package dispatcher

import (
	"fmt"

	"github.com/cilium/ebpf"

	"github.com/xdpd/xdpd/chain"
	"github.com/xdpd/xdpd/internal/failpoint"
)

// inlineLinker links programs into one with the dispatcher before loading. A program's own load only has the
// kernel verify it and fill its maps: what stays of it are the maps.
type inlineLinker struct{}

func (inlineLinker) load(o *Object, replace map[string]*ebpf.Map) (*ebpf.Collection, error) {
	return ebpf.NewCollectionWithOptions(o.spec, ebpf.CollectionOptions{MapReplacements: replace})
}

func (inlineLinker) keep(*ebpf.Program, string) error { return nil }

func (inlineLinker) link(_ string, members []member, final chain.Verdict, counters *ebpf.Map) (*ebpf.Program, error) {
	parts := make([]inlineMember, len(members))
	for i, m := range members {
		if err := failpoint.Err(failpoint.StageSlots); err != nil {
			return nil, err
		}
		maps, err := openMaps(m.dir, m.object)
		if err != nil {
			return nil, err
		}
		defer closeMaps(maps)
		parts[i] = inlineMember{name: m.name, spec: m.object.main(), maps: maps, proceedOn: m.proceedOn}
	}
	spec, err := inlineLink(dispatcherName, parts, final, counters)
	if err != nil {
		return nil, err
	}
	prog, err := ebpf.NewProgram(spec)
	if err != nil {
		name := inlineBlame(err, parts)
		return nil, refused(chain.LinkRejected, chain.Facts{"program": name}, fmt.Sprintf("load the chain with program %q in it", name), err)
	}
	return prog, nil
}
