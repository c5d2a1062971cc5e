// SPDX-License-Identifier: Apache-2.0

package dispatcher

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/xdpd/xdpd/bpf"
	"github.com/xdpd/xdpd/chain"
	"github.com/xdpd/xdpd/internal/failpoint"
)

// freplaceLinker loads each program once, as EXT against a template, and attaches it to a slot function of
// every new dispatcher. Attaching one EXT to several targets needs Linux 5.10 (4a1e7c0c63e0).
type freplaceLinker struct{}

const (
	dispatcherName = "xdpd_dispatcher" // in bpf/dispatcher.c
	countersName   = "counters"
	traceName      = ".bss" // of dispatcher.c compiled with TRACE
)

// load makes the program an EXT for the first slot of a template dispatcher, which the kernel keeps as long
// as the EXT lives. Targets of its tail calls become XDP programs of no attach type, which is what the kernel
// takes an EXT for there since 6.1; before, they must be EXT themselves.
func (freplaceLinker) load(o *Object, replace map[string]*ebpf.Map) (*ebpf.Collection, error) {
	template, err := newTemplate()
	if err != nil {
		return nil, err
	}
	defer template.Close()
	spec := o.spec.Copy()
	extension := func(prog *ebpf.ProgramSpec) {
		prog.Type, prog.AttachType = ebpf.Extension, ebpf.AttachNone
		prog.AttachTarget, prog.AttachTo = template, slotFunction(0)
	}
	for _, prog := range spec.Programs {
		prog.Type, prog.AttachType = ebpf.XDP, ebpf.AttachNone
		prog.Flags &^= fragsFlag // an EXT inherits what matters of it from the dispatcher
	}
	extension(spec.Programs[o.function])
	coll, err := newCollection(spec, replace)
	if err != nil && len(spec.Programs) > 1 && errors.Is(err, unix.EINVAL) {
		for _, prog := range spec.Programs {
			extension(prog)
		}
		if old, oldErr := newCollection(spec, replace); oldErr == nil {
			return old, nil
		}
	}
	return coll, err
}

func (freplaceLinker) keep(prog *ebpf.Program, dir string) error {
	return prog.Pin(filepath.Join(dir, "prog"))
}

func (l freplaceLinker) link(b blueprint) (_ *loaded, err error) {
	what := "load dispatcher"
	if b.frags {
		what = "load dispatcher for programs of SEC(\"xdp.frags\"), which need Linux 5.18"
	}
	prog, err := newDispatcher(b)
	if err != nil {
		return nil, refused(chain.LinkRejected, nil, what, err)
	}
	d := &loaded{prog: prog}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.Close())
		}
	}()
	handle, err := prog.Handle()
	if err != nil {
		return nil, fmt.Errorf("open types of dispatcher: %w", err)
	}
	defer handle.Close()
	types, err := handle.Spec(nil)
	if err != nil {
		return nil, fmt.Errorf("read types of dispatcher: %w", err)
	}
	for i, m := range b.members {
		held, err := l.attach(prog, types, i, m)
		if err != nil {
			return nil, err
		}
		d.slots = append(d.slots, held)
	}
	return d, nil
}

// attach puts one program into a slot. The caller closes the link that holds it there.
func (l freplaceLinker) attach(dispatcher *ebpf.Program, types *btf.Spec, slot int, m member) (link.Link, error) {
	if err := failpoint.Err(failpoint.StageSlots); err != nil {
		return nil, err
	}
	ext, err := l.open(m)
	if err != nil {
		return nil, err
	}
	defer ext.Close()
	var fn *btf.Func
	if err := types.TypeByName(slotFunction(slot), &fn); err != nil {
		return nil, fmt.Errorf("find slot %d: %w", slot, err)
	}
	id, err := types.TypeID(fn)
	if err != nil {
		return nil, fmt.Errorf("find slot %d: %w", slot, err)
	}
	held, err := link.AttachRawLink(link.RawLinkOptions{Target: dispatcher.FD(), Program: ext, Attach: ebpf.AttachNone, BTF: id})
	if errors.Is(err, unix.EBUSY) {
		return nil, chain.Errorf(chain.LinkRejected, chain.Facts{"program": m.name},
			"attach program %q to slot %d: %w (does a tracer hold the slot function of a dispatcher that is just being loaded?)", m.name, slot, err)
	}
	if err != nil {
		return nil, chain.Errorf(chain.LinkRejected, chain.Facts{"program": m.name}, "attach program %q to slot %d: %w", m.name, slot, err)
	}
	return held, nil
}

// open returns the pinned EXT of a program. One that the inline linker loaded has none yet: it is loaded now,
// with the maps that it has. One that is to work on other maps is loaded for that, and not pinned.
func (l freplaceLinker) open(m member) (*ebpf.Program, error) {
	if m.maps != nil {
		return l.reload(m, m.maps)
	}
	prog, err := ebpf.LoadPinnedProgram(filepath.Join(m.dir, "prog"), nil)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return prog, err
	}
	maps, err := openMaps(m.dir, m.object)
	if err != nil {
		return nil, err
	}
	defer closeMaps(maps)
	if prog, err = l.reload(m, maps); err != nil {
		return nil, err
	}
	err = l.keep(prog, m.dir)
	if errors.Is(err, fs.ErrExist) { // a change of another interface was quicker
		prog.Close()
		return ebpf.LoadPinnedProgram(filepath.Join(m.dir, "prog"), nil)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("pin program %q: %w", m.name, err), prog.Close())
	}
	return prog, nil
}

// reload loads a program that was loaded before, on these maps. The caller closes it.
func (l freplaceLinker) reload(m member, maps map[string]*ebpf.Map) (*ebpf.Program, error) {
	coll, err := l.load(m.object.using(maps), maps)
	if errors.Is(err, unix.EINVAL) && m.object.tailCalls() {
		return nil, otherLinker(m, err)
	}
	if err != nil {
		return nil, loadError(m.name, m.object, err)
	}
	defer coll.Close()
	return coll.DetachProgram(m.object.function), nil
}

func slotFunction(slot int) string { return fmt.Sprintf("slot_%02d", slot) }

func (freplaceLinker) frags(members []member) bool { return allFrags(members) }

// allFrags tells whether there are members and each of them can work on packets of more than one buffer.
func allFrags(members []member) bool {
	for _, m := range members {
		if !m.object.Frags() {
			return false
		}
	}
	return len(members) > 0
}

var dispatcherSpec = sync.OnceValues(func() (*ebpf.CollectionSpec, error) {
	return ebpf.LoadCollectionSpecFromReader(bytes.NewReader(bpf.Dispatcher))
})

func tracingSpec() (*ebpf.CollectionSpec, error) {
	return ebpf.LoadCollectionSpecFromReader(bytes.NewReader(bpf.DispatcherTrace))
}

// newDispatcher loads bpf/dispatcher.c with one slot for each member of b, which are left empty. Without
// counters in b it counts in a map of its own. The caller closes it.
func newDispatcher(b blueprint) (*ebpf.Program, error) {
	from := dispatcherSpec
	if b.trace != nil {
		from = tracingSpec
	}
	parsed, err := from()
	if err != nil {
		return nil, fmt.Errorf("read dispatcher's object: %w", err)
	}
	spec := parsed.Copy()
	spec.Variables = nil // the library maps them into memory, which would hold the trace until garbage is collected
	prog := spec.Programs[dispatcherName]
	if b.frags {
		prog.Flags |= fragsFlag
	}
	patch(prog.Instructions, b)
	replace := map[string]*ebpf.Map{}
	if b.counters != nil {
		spec.Maps[countersName].MaxEntries = b.counters.MaxEntries()
		replace[countersName] = b.counters
	}
	if b.trace != nil {
		replace[traceName] = b.trace
	}
	coll, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: replace})
	if err != nil {
		return nil, err
	}
	defer coll.Close()
	return coll.DetachProgram(dispatcherName), nil
}

// patch writes a revision's constants over the marks of dispatcher.c.
func patch(insns asm.Instructions, b blueprint) {
	for i := range insns {
		ins := &insns[i]
		if ins.OpCode.ALUOp() != asm.Mov || ins.OpCode.Source() != asm.ImmSource || !ins.OpCode.Class().IsALU() {
			continue
		}
		switch slot := ins.Constant - bpf.MarkProceed; {
		case ins.Constant == bpf.MarkFinal:
			ins.Constant = int64(b.final)
		case slot >= 0 && slot < int64(len(b.members)):
			ins.Constant = int64(int32(uint32(b.members[slot].proceedOn) | 1<<chain.Continue))
		case slot >= 0 && slot < chain.MaxMembers:
			ins.Constant = 0
		}
	}
}

// newTemplate loads a dispatcher of one slot: the verifier removes the functions of slots that are not used, so
// that a program could not be loaded against one of them. The caller closes it.
func newTemplate() (*ebpf.Program, error) {
	prog, err := newDispatcher(blueprint{members: make([]member, 1), final: chain.Pass})
	if err != nil {
		return nil, fmt.Errorf("load template dispatcher: %w", err)
	}
	return prog, nil
}

// newCounters makes the counters of a revision: an element for each possible CPU. The caller closes the map.
func newCounters() (*ebpf.Map, error) {
	parsed, err := dispatcherSpec()
	if err != nil {
		return nil, fmt.Errorf("read bpf/dispatcher.o: %w", err)
	}
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return nil, fmt.Errorf("count CPUs: %w", err)
	}
	spec := parsed.Maps[countersName].Copy()
	spec.MaxEntries = uint32(cpus)
	m, err := ebpf.NewMap(spec)
	if err != nil {
		return nil, fmt.Errorf("create counters: %w", err)
	}
	return m, nil
}
