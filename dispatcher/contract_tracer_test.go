// SPDX-License-Identifier: Apache-2.0

package dispatcher

import (
	"errors"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/xdpd/xdpd/chain"
)

// fentry loads a program that traces a function of another one.
func (b *bench) fentry(target *ebpf.Program, function string) *ebpf.Program {
	b.Helper()
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.Tracing, AttachType: ebpf.AttachTraceFEntry, AttachTarget: target, AttachTo: function, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
	})
	b.check(err)
	b.Cleanup(func() { prog.Close() })
	return prog
}

// TestContractTracer has somebody trace the dispatcher. That hinders no change, and keeps no old revision on the interface;
// only a slot function that is traced before it is filled cannot be, and that is said.
func TestContractTracer(t *testing.T) {
	b := newBench(t)
	if name, _ := b.plane.Linker(); name != Freplace {
		return // there are no slot functions, and this kernel need not have tracers of BPF programs
	}
	p := b.steps(2)
	b.run(b.plan(p[0].on(passing)))
	live := b.live(b.revision)
	dispatcher, err := openDispatcher(b.plane.revisionDir(b.dev, b.revision))
	b.check(err)
	defer dispatcher.Close()
	tracer, err := link.AttachTracing(link.TracingOptions{Program: b.fentry(dispatcher, dispatcherName)})
	b.check(err)
	if held, err := link.AttachTracing(link.TracingOptions{Program: b.fentry(dispatcher, slotFunction(0))}); !errors.Is(err, unix.EBUSY) {
		t.Errorf("a slot that is filled can be traced: %v, %v", held, err)
	}
	b.follow(frame(), 3, 1)
	b.run(b.plan(p[1].on(passing)))
	now := b.live(b.revision)
	if now.KernelID == live.KernelID {
		t.Errorf("program %d is still live", live.KernelID)
	}
	b.follow(frame(), 3, 2)
	b.exits(1, 3)
	b.check(tracer.Close())

	empty, err := newDispatcher(blueprint{members: make([]member, 1), final: chain.Pass})
	b.check(err)
	defer empty.Close()
	tracer, err = link.AttachTracing(link.TracingOptions{Program: b.fentry(empty, slotFunction(0))})
	b.check(err)
	defer tracer.Close()
	handle, err := empty.Handle()
	b.check(err)
	defer handle.Close()
	types, err := handle.Spec(nil)
	b.check(err)
	m := member{name: "step", dir: b.plane.programDir(p[0].id), object: p[0].object, proceedOn: passing}
	held, err := freplaceLinker{}.attach(empty, types, 0, m)
	if err == nil {
		b.check(held.Close())
	}
	if e := reason(t, err, chain.LinkRejected, "tracer"); !strings.Contains(e.Error(), "slot 0") {
		t.Errorf("the error %q says nothing of the slot", e)
	}
	b.follow(frame(), 3, 2)
}
