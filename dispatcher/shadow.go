// SPDX-License-Identifier: Apache-2.0

package dispatcher

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"runtime"
	"sort"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"github.com/xdpd/xdpd/chain"
)

// Shadow is a revision that no traffic goes through: packets come to it one by one, from Run. It is held by
// descriptors alone, so that it ends with the process. It is not for concurrent use.
type Shadow struct {
	slots   []Slot
	ingress Ingress
	loaded  *loaded
	trace   *ebpf.Map
	longest int        // packet that it takes, in bytes
	why     string     // it takes no longer one
	context *xdpMeta   // that packets come with; nil: the kernel takes none
	maps    shadowMaps // closed; what it says of them stays
	notes   []string
}

// Ingress is the interface that a shadow's packets seem to come from.
type Ingress struct {
	Index int                        // 0: the loopback interface
	In    func(f func() error) error // as in a Plan
}

// traced is the value of a trace, an array of one: for each slot whether the member there ran, and what it
// returned. dispatcher.c and the inline linker write it.
type traced [chain.MaxMembers]struct{ Ran, Return uint32 }

// xdpMeta is struct xdp_md, linux/bpf.h.
type xdpMeta struct {
	Data, DataEnd, DataMeta, Ingress, Queue, Egress uint32
}

// The lengths of packets.
const (
	shortestPacket = 14 // an Ethernet header; the kernel takes none shorter
	longestPacket  = math.MaxUint16
	packetHeadroom = 256 // how far a program can make a packet grow at its head (XDP_PACKET_HEADROOM)
)

// Shadow loads a revision of these slots, like Stage but with counters of its own and a trace. Its programs see
// packets come from queue 0 of the interface ingress, or with a note from the loopback interface where the kernel
// refuses that one. They work on their own maps, or with copyMaps on copies of what those hold now, as far as there
// can be copies; what is not copied says LiveMaps.
//
// It fails as Stage does, or with TEST_UNSUPPORTED. The caller closes the shadow.
func (p *Plane) Shadow(ctx context.Context, slots []Slot, ingress Ingress, final chain.Verdict, copyMaps bool) (_ *Shadow, err error) {
	s := &Shadow{slots: slots, ingress: ingress}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	b := blueprint{members: p.members(slots), final: final}
	defer s.maps.close()
	if err := s.maps.open(b.members, copyMaps); err != nil {
		return nil, err
	}
	if b.counters, err = newCounters(); err != nil {
		return nil, err
	}
	defer b.counters.Close()
	if s.trace, err = newTrace(); err != nil {
		return nil, err
	}
	b.trace, b.frags = s.trace, p.linker.frags(b.members)
	if s.loaded, err = p.link(ctx, b); err != nil {
		return nil, err
	}
	if s.maps.mute {
		s.notes = append(s.notes, "the programs' perf and ring buffers are new ones: nobody reads what goes there")
	}
	if err := s.in(func() error { return s.measure(b.frags) }); err != nil {
		return nil, err
	}
	return s, nil
}

// newTrace makes a trace. The caller closes it.
func newTrace() (*ebpf.Map, error) {
	m, err := ebpf.NewMap(&ebpf.MapSpec{
		Name: "trace", Type: ebpf.Array, KeySize: 4, ValueSize: 8 * chain.MaxMembers, MaxEntries: 1,
		Flags: unix.BPF_F_MMAPABLE, // as a .bss has it
	})
	if err != nil {
		return nil, fmt.Errorf("create trace: %w", err)
	}
	return m, nil
}

// LiveMaps are the maps, as "program/map" and sorted, that the programs can change for real: without copies all
// that a program can write to or through, with copies those that have none.
func (s *Shadow) LiveMaps() []string { return s.maps.live }

// Notes are sentences about what is not as it is on the wire.
func (s *Shadow) Notes() []string { return s.notes }

// Close removes the shadow from the kernel.
func (s *Shadow) Close() error {
	var errs []error
	if s.loaded != nil {
		errs = append(errs, s.loaded.Close())
	}
	errs = append(errs, s.trace.Close()) // a nil map closes well
	s.loaded, s.trace = nil, nil
	return errors.Join(errs...)
}

// in calls f where the kernel finds the interface that packets seem to come from.
func (s *Shadow) in(f func() error) error {
	if s.ingress.In == nil {
		return f()
	}
	return s.ingress.In(f)
}

// Run sends a packet, from its Ethernet header on, through the revision. Whatever its verdict, nothing becomes
// of the packet but what the trace says. It fails with a chain.Error TEST_UNSUPPORTED where the kernel does not take
// the packet, and with the error of Ingress.In.
func (s *Shadow) Run(packet []byte) (Trace, error) {
	if len(packet) < shortestPacket {
		return Trace{}, untestable(fmt.Sprintf("run a packet of %d bytes: the shortest has %d, an Ethernet header", len(packet), shortestPacket), nil)
	}
	if len(packet) > s.longest {
		return Trace{}, untestable(fmt.Sprintf("run a packet of %d bytes: the longest has %d (%s)", len(packet), s.longest, s.why), nil)
	}
	if err := s.trace.Put(uint32(0), new(traced)); err != nil {
		return Trace{}, fmt.Errorf("reset trace: %w", err)
	}
	var code uint32
	var out []byte
	err := s.in(func() (err error) {
		if code, out, err = testRun(s.loaded.prog, packet, s.context); err != nil {
			return untestable(fmt.Sprintf("run a packet of %d bytes", len(packet)), err)
		}
		return nil
	})
	if err != nil {
		return Trace{}, err
	}
	var noted traced
	if err := s.trace.Lookup(uint32(0), &noted); err != nil {
		return Trace{}, fmt.Errorf("read trace: %w", err)
	}
	t := Trace{Return: code, PassedAll: true, Packet: out}
	for i, slot := range s.slots {
		if noted[i].Ran == 0 {
			t.PassedAll = false
			break
		}
		proceeded := noted[i].Return <= uint32(chain.Continue) && slot.ProceedOn.Has(chain.Verdict(noted[i].Return))
		t.Steps = append(t.Steps, Step{Name: slot.Name, Return: noted[i].Return, Proceeded: proceeded})
		t.PassedAll = proceeded
	}
	return t, nil
}

// measure finds out what the kernel takes: which context, and how long a packet. Programs without frags only
// get packets that are in one piece on the wire, while the kernel would give them the first piece of any here.
func (s *Shadow) measure(frags bool) error {
	prog, err := newMeasure(frags)
	if err != nil {
		return err
	}
	defer prog.Close()
	probe := make([]byte, longestPacket)
	if s.context, err = acceptedContext(prog, probe[:64], s.ingress.Index); err != nil {
		note := "the programs see packets come from the loopback interface"
		if s.context == nil {
			note += ", and metadata that they leave before a packet is not part of the trace"
		}
		s.notes = append(s.notes, fmt.Sprintf("%s: the kernel takes no other here (%v)", note, err))
	}
	if _, _, err := testRun(prog, probe[:64], s.context); err != nil {
		return untestable("run packets off the wire", err)
	}
	most := longestPacket
	if !frags {
		most = min(most, os.Getpagesize())
		s.why = "more needs a chain in which every program is built with SEC(\"xdp.frags\")"
	} else {
		s.why = "no more fits into a packet here"
	}
	s.longest = shortestPacket + sort.Search(most-shortestPacket, func(i int) bool {
		size := shortestPacket + i + 1
		first, _, err := testRun(prog, probe[:size], s.context)
		return err != nil || !frags && int(first) != size
	})
	return nil
}

// acceptedContext is the fullest context that the kernel takes with a packet, nil if it takes none, and why not
// the one that is wanted.
func acceptedContext(prog *ebpf.Program, packet []byte, ingress int) (*xdpMeta, error) {
	wanted := &xdpMeta{Ingress: uint32(ingress)}
	_, _, refusal := testRun(prog, packet, wanted) // Linux 5.14 or later takes a context
	if refusal == nil {
		return wanted, nil
	}
	loopback := new(xdpMeta)
	if _, _, err := testRun(prog, packet, loopback); err == nil {
		return loopback, refusal
	}
	return nil, refusal
}

// newMeasure loads a program that returns how many bytes of a packet it can see. The caller closes it.
func newMeasure(frags bool) (*ebpf.Program, error) {
	spec := &ebpf.ProgramSpec{
		Name: "xdpd_measure", Type: ebpf.XDP, License: "Dual BSD/GPL",
		Instructions: asm.Instructions{
			asm.LoadMem(asm.R0, asm.R1, 4, asm.Word), // data_end
			asm.LoadMem(asm.R1, asm.R1, 0, asm.Word), // data
			asm.Sub.Reg(asm.R0, asm.R1),
			asm.Return(),
		},
	}
	if frags {
		spec.Flags = fragsFlag
	}
	prog, err := ebpf.NewProgram(spec)
	if err != nil {
		return nil, refused(chain.TestUnsupported, nil, "load a program to measure packets", err)
	}
	return prog, nil
}

// testRun sends a packet through a program once, with a context or none, and returns what the program returned
// and the packet that came out.
func testRun(prog *ebpf.Program, packet []byte, context *xdpMeta) (code uint32, out []byte, err error) {
	room := packetHeadroom + os.Getpagesize() // the kernel has no more, before and behind a packet
	opts := ebpf.RunOptions{Data: packet, DataOut: make([]byte, len(packet)+room), Repeat: 1}
	var after xdpMeta
	if context != nil {
		with := *context
		with.DataEnd = uint32(len(packet))
		opts.Context, opts.ContextOut = with, &after
	}
	err = uninterrupted(func() error {
		code, err = prog.Run(&opts)
		return err
	})
	if err != nil {
		return 0, nil, err
	}
	// What comes out begins with the packet's metadata, whose length the context tells.
	if int(after.Data) > len(opts.DataOut) {
		return 0, nil, fmt.Errorf("the kernel says that %d of %d bytes are metadata", after.Data, len(opts.DataOut))
	}
	return code, bytes.Clone(opts.DataOut[after.Data:]), nil // the room is much more than most packets
}

// uninterrupted calls f while its thread takes no signals: in Linux 5.10 and some after it, one that comes while a
// program is run makes the kernel forget what came out, after the program had its effects.
func uninterrupted(f func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var all, before unix.Sigset_t
	for i := range all.Val {
		all.Val[i] = ^all.Val[i]
	}
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, &all, &before); err != nil {
		return fmt.Errorf("hold back signals: %w", err)
	}
	err := f()
	return errors.Join(err, unix.PthreadSigmask(unix.SIG_SETMASK, &before, nil))
}

// untestable says what cannot be run off the wire, and why if err says so.
func untestable(what string, err error) *chain.Error {
	if err == nil {
		return chain.Errorf(chain.TestUnsupported, chain.Facts{"error": what}, "%s", what)
	}
	return chain.Errorf(chain.TestUnsupported, chain.Facts{"error": err.Error()}, "%s: %w", what, err)
}
