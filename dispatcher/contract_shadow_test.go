// SPDX-License-Identifier: Apache-2.0

package dispatcher

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/xdpd/xdpd/chain"
	"github.com/xdpd/xdpd/internal/netif/nettest"
)

// shadow makes a shadow, as the daemon does: in the namespace of the interface. The test closes it.
func (b *bench) shadow(copyMaps bool, final chain.Verdict, slots ...Slot) (s *Shadow) {
	b.Helper()
	var err error
	nettest.RunIn(b.ns, func() { s, err = b.plane.Shadow(b.Context(), slots, Ingress{Index: b.dev.Ifindex}, final, copyMaps) })
	b.check(err)
	b.Cleanup(func() { b.check(s.Close()) })
	return s
}

func (b *bench) trace(s *Shadow, packet []byte) (t Trace) {
	b.Helper()
	var err error
	nettest.RunIn(b.ns, func() { t, err = s.Run(packet) })
	b.check(err)
	return t
}

// expect is the trace of a frame whose codes the members of slots return.
func expect(slots []Slot, final chain.Verdict, returns []uint32) Trace {
	t := Trace{Return: uint32(final), PassedAll: true}
	for i, slot := range slots {
		code := returns[i]
		proceeds := code == 31 || code < 5 && slot.ProceedOn.Has(chain.Verdict(code))
		t.Steps = append(t.Steps, Step{slot.Name, code, proceeds})
		if !proceeds {
			t.Return, t.PassedAll = code, false
			break
		}
	}
	return t
}

// same fails the test unless the trace is the one wanted, but for the packet.
func (b *bench) same(got, want Trace) {
	b.Helper()
	if got.Return != want.Return || got.PassedAll != want.PassedAll || !slices.Equal(got.Steps, want.Steps) {
		got.Packet = nil
		b.Fatalf("the trace is\n%+v\nwant\n%+v", got, want)
	}
}

// quiet fails the test if a packet of the shadow's was seen where the live ones are.
func (b *bench) quiet(live uint64, slots int, others ...*nettest.Receiver) {
	b.Helper()
	e, err := b.plane.Counters(b.dev, live)
	b.check(err)
	if n := e.Packets(slots); n != 0 || b.got.Count() != 0 {
		b.Errorf("%d packets went through the live revision, %d arrived", n, b.got.Count())
	}
	for _, r := range others {
		if n := r.Count(); n != 0 {
			b.Errorf("%d packets went out", n)
		}
	}
}

// TestContractShadowVerdicts tries every code on every set, as TestContractProceedOn does on the wire.
func TestContractShadowVerdicts(t *testing.T) {
	b := newBench(t)
	p := b.steps(2)
	var slots []Slot
	for set := range chain.ProceedOn(32) {
		slots = append(slots, p[set%2].on(set))
	}
	back := b.ns.Receiver(t, nettest.Peer, nettest.EtherType)
	b.run(b.plan(slots...))
	live := b.live(b.revision)
	for _, final := range []chain.Verdict{chain.Pass, chain.Tx} {
		s := b.shadow(false, final, slots...)
		for n := range slots {
			for _, code := range codes {
				returns := slices.Repeat([]uint32{uint32(chain.Continue)}, len(slots))
				returns[n] = code
				got, want := b.trace(s, frame(returns...)), expect(slots, final, returns)
				b.same(got, want)
				var marks []byte
				for i := range want.Steps {
					marks = append(marks, byte(p[i%2].id))
				}
				if !bytes.Equal(trail(got.Packet), marks) || len(got.Packet) != frameSize {
					t.Fatalf("a packet of %d bytes with marks %v came out, want %v", len(got.Packet), trail(got.Packet), marks)
				}
			}
		}
		b.check(s.Close())
	}
	if now := b.live(b.revision); now != live {
		t.Errorf("live is %+v, was %+v", now, live)
	}
	b.quiet(b.revision, len(slots), back)
}

// TestContractShadowSizes has shadows of no member, of one, and of as many as there can be.
func TestContractShadowSizes(t *testing.T) {
	b := newBench(t)
	p := b.load("step", "")
	for _, copies := range []bool{false, true} {
		for _, n := range []int{0, 1, 64} {
			var slots []Slot
			for range n {
				slots = append(slots, p.on(passing))
			}
			s := b.shadow(copies, chain.Drop, slots...)
			returns := make([]uint32, 65)
			for i := range returns {
				returns[i] = uint32(chain.Pass)
			}
			b.same(b.trace(s, frame(returns...)), expect(slots, chain.Drop, returns))
			if n > 0 {
				returns[n-1] = 77
				b.same(b.trace(s, frame(returns...)), expect(slots, chain.Drop, returns))
			}
			b.check(s.Close())
		}
	}
	nettest.RunIn(b.ns, func() {
		if s, err := b.plane.Shadow(b.Context(), slices.Repeat(all(passing, p), chain.MaxMembers+1), Ingress{}, chain.Pass, false); err == nil {
			t.Errorf("there is a shadow of 65 members: %v", s.Close())
		}
	})
}

// TestContractShadowPackets has members that change packets: those behind them see it, and so does the trace.
func TestContractShadowPackets(t *testing.T) {
	b := newBench(t)
	push, pop, cut := b.load("many", "push"), b.load("many", "pop"), b.load("many", "cut")
	tag, grow := b.load("many", "tag"), b.load("shadow", "grow")
	one, two := b.load("step", ""), b.load("step", "")
	through := func(packet []byte, programs ...*program) []byte {
		t.Helper()
		s := b.shadow(false, chain.Pass, all(passing, programs...)...)
		got := b.trace(s, packet)
		b.check(s.Close())
		if len(got.Steps) != len(programs) || !got.PassedAll || got.Return != uint32(chain.Pass) {
			t.Fatalf("the trace is %+v", got)
		}
		return got.Packet
	}
	marks := []byte{byte(one.id), byte(two.id)}
	if f := through(frame(), one, push, push, pop, pop, two); len(f) != frameSize || !bytes.Equal(trail(f), marks) {
		t.Errorf("%d bytes came out with marks %v", len(f), trail(f))
	}
	f := through(frame(), one, two, push)
	if len(f) != frameSize+8 || f[14] != 0xee || !bytes.Equal(f[22+2:22+4], marks) {
		t.Errorf("%d bytes came out: % x", len(f), f[:40])
	}
	f = through(append(frame(), make([]byte, 100)...), one, cut, two)
	if len(f) != frameSize || two.state().Size != frameSize || one.state().Size != frameSize+100 {
		t.Errorf("%d bytes came out, the members saw %d and %d", len(f), one.state().Size, two.state().Size)
	}
	f = through(frame()[:64], grow, push)
	if len(f) != 64+3000+8 || !bytes.Equal(f[:14], frame()[:14]) {
		t.Errorf("%d bytes came out", len(f))
	}
	f = through(frame(), tag, one, two)
	if !bytes.Equal(trail(f), marks) || len(f) != frameSize {
		t.Errorf("of a packet with metadata %d bytes came out with marks %v", len(f), trail(f))
	}
	if one.state().Meta != 0x5eed || two.state().Meta != 0x5eed {
		t.Errorf("the members saw metadata %#x and %#x", one.state().Meta, two.state().Meta)
	}
}

// TestContractShadowTailCalls has a member that ends in others' code.
func TestContractShadowTailCalls(t *testing.T) {
	b := newBench(t)
	first, last := b.load("step", ""), b.load("step", "")
	caller := b.load("tail", "caller")
	slots := all(passing, first, caller, last)
	for _, copies := range []bool{false, true} {
		s := b.shadow(copies, chain.Drop, slots...)
		for _, code := range codes {
			// The second and third code are for whom the caller calls, the last of which is what it returns.
			got := b.trace(s, frame(2, 2, code, 3))
			b.same(got, expect(slots, chain.Drop, []uint32{2, code, 3}))
		}
		wantLive := []string{caller.name() + "/.bss", caller.name() + "/branches", caller.name() + "/leaves"}
		if !copies {
			wantLive = append(wantLive, first.name()+"/.bss", last.name()+"/.bss")
			slices.Sort(wantLive)
		}
		if live := s.LiveMaps(); !slices.Equal(live, wantLive) {
			t.Errorf("the live maps are %q, want %q", live, wantLive)
		}
		b.check(s.Close())
	}
	if n := first.state().Seen; n != uint64(len(codes)) {
		t.Errorf("the first member saw %d packets by its own map, want those of one shadow, %d", n, len(codes))
	}
	if n := caller.state().Seen; n != 2*uint64(len(codes)) {
		t.Errorf("the caller saw %d packets by its own map, want those of both shadows, %d", n, 2*len(codes))
	}
}

// TestContractShadowLengths tries the shortest and the longest packets, in chains with and without frags.
func TestContractShadowLengths(t *testing.T) {
	b := newBench(t)
	step := b.load("step", "")
	refuse := func(s *Shadow, size int, words ...string) {
		t.Helper()
		before := step.state().Seen
		nettest.RunIn(b.ns, func() {
			_, err := s.Run(make([]byte, size))
			e := reason(t, err, chain.TestUnsupported, append(words, fmt.Sprintf("%d bytes", size))...)
			if e.Facts["error"] == "" {
				t.Errorf("the facts are %v", e.Facts)
			}
		})
		if now := step.state().Seen; now != before {
			t.Error("a member saw a packet that was refused")
		}
	}
	s := b.shadow(false, chain.Pass, step.on(passing))
	if s.longest < 3000 || s.longest >= max(os.Getpagesize(), 1<<16) {
		t.Errorf("the longest packet has %d bytes", s.longest)
	}
	for _, size := range []int{0, 1, 13} {
		refuse(s, size, "shortest has 14")
	}
	for _, size := range []int{s.longest + 1, 9000 + os.Getpagesize(), 1 << 20} {
		refuse(s, size, fmt.Sprintf("longest has %d", s.longest), "xdp.frags")
	}
	for _, size := range []int{14, 15, 60, 1514, s.longest} {
		got := b.trace(s, make([]byte, size))
		if len(got.Packet) != size || len(got.Steps) != 1 || step.state().Size != uint32(size) {
			t.Errorf("of %d bytes the member saw %d, and came out %d: %+v", size, step.state().Size, len(got.Packet), got.Steps)
		}
	}
	if !kernelAtLeast(t, 5, 18) {
		return // what becomes of frags there: TestContractFragsUnknown
	}
	frags := b.load("step_frags", "")
	s = b.shadow(true, chain.Pass, all(passing, frags, frags)...)
	for _, size := range []int{14, 9000, 65535} {
		packet := make([]byte, size)
		copy(packet, frame())
		for i := frameSize; i < size; i++ {
			packet[i] = byte(i / 251)
		}
		got := b.trace(s, packet)
		if len(got.Steps) != 2 || len(got.Packet) != size || size > frameSize && !bytes.Equal(got.Packet[frameSize:], packet[frameSize:]) {
			t.Errorf("of %d bytes came out %d, not all the same: %+v", size, len(got.Packet), got.Steps)
		}
	}
	refuse(s, 65536, "longest has 65535")
	s = b.shadow(true, chain.Pass, all(passing, frags, step)...)
	refuse(s, 9000, "xdp.frags")
}

// TestContractShadowOrigin looks where packets seem to come from.
func TestContractShadowOrigin(t *testing.T) {
	b := newBench(t)
	origin := b.load("shadow", "origin")
	shown := func(s *Shadow) (ifindex, queue uint64) {
		t.Helper()
		f := b.trace(s, frame()).Packet
		return binary.NativeEndian.Uint64(f[16:]), binary.NativeEndian.Uint64(f[24:])
	}
	s := b.shadow(false, chain.Pass, origin.on(passing))
	ifindex, queue := shown(s)
	want, notes := uint64(b.dev.Ifindex), 0
	if !kernelAtLeast(t, 5, 14) {
		want, notes = 1, 1
	}
	if ifindex != want || queue != 0 || len(s.Notes()) != notes {
		t.Errorf("the packet came from queue %d of interface %d, want 0 and %d; notes %q", queue, ifindex, want, s.Notes())
	}
	inside, gone := 0, errors.New("the namespace is gone")
	in := func(f func() error) (err error) {
		inside++
		nettest.RunIn(b.ns, func() { err = f() })
		return err
	}
	s, err := b.plane.Shadow(b.Context(), []Slot{origin.on(passing)}, Ingress{Index: b.dev.Ifindex, In: func(f func() error) error { return in(f) }}, chain.Pass, false)
	b.check(err)
	for range 2 {
		got, err := s.Run(frame())
		b.check(err)
		if ifindex := binary.NativeEndian.Uint64(got.Packet[16:]); ifindex != want || len(s.Notes()) != notes {
			t.Errorf("from outside, the packet came from interface %d, want %d; notes %q", ifindex, want, s.Notes())
		}
	}
	if inside != 3 {
		t.Errorf("the namespace was entered %d times, want 3: to measure, and for two packets", inside)
	}
	in = func(func() error) error { return gone }
	if _, err := s.Run(frame()); !errors.Is(err, gone) {
		t.Errorf("a packet of a namespace that is gone: %v", err)
	}
	b.check(s.Close())
	if s, err := b.plane.Shadow(b.Context(), nil, Ingress{In: in}, chain.Pass, false); !errors.Is(err, gone) || s != nil {
		t.Errorf("a shadow in a namespace that is gone: %v, %v", s, err)
	}
	nettest.RunIn(b.ns, func() {
		s, err = b.plane.Shadow(b.Context(), []Slot{origin.on(passing)}, Ingress{Index: 1 << 20}, chain.Pass, false)
	})
	b.check(err)
	if ifindex, _ := shown(s); ifindex != 1 || len(s.Notes()) != 1 || !strings.Contains(s.Notes()[0], "loopback") {
		t.Errorf("without the interface, the packet came from %d; notes %q", ifindex, s.Notes())
	}
	b.check(s.Close())
}

// TestContractShadowGone says that a shadow pins nothing and leaves nothing, also if it could not be made.
func TestContractShadowGone(t *testing.T) {
	b := newBench(t)
	programs := append(b.steps(2), b.load("tail", "caller"), b.load("shadow", "counter"))
	slots := all(passing, programs...)
	b.run(b.plan(slots...))
	b.collect()
	pins, owned := b.pins(), b.owned
	for _, copies := range []bool{false, true} {
		b.atRest("a shadow", func() {
			s := b.shadow(copies, chain.Pass, slots...)
			b.trace(s, frame())
			b.owned = map[string]func() error{}
			b.check(errors.Join(b.ownProgram(s.loaded.prog), b.ownMap(s.trace)))
			for _, held := range s.loaded.slots {
				info, err := held.Info()
				b.check(err)
				b.own("link", uint32(info.ID), func() (interface{ Close() error }, error) { return nil, os.ErrNotExist })
				ext, err := ebpf.NewProgramFromID(info.Program)
				b.check(err)
				b.check(errors.Join(b.ownProgram(ext), ext.Close()))
			}
			if now := b.pins(); !slices.Equal(now, pins) {
				t.Errorf("the pins are %q, they were %q", now, pins)
			}
			b.check(errors.Join(s.Close(), s.Close()))
		})
		maps.DeleteFunc(b.owned, func(name string, _ func() error) bool { return owned[name] != nil })
		if len(b.owned) < 3 || copies && len(b.owned) < 15 {
			t.Errorf("the shadow had only %q", slices.Sorted(maps.Keys(b.owned)))
		}
		b.gone()
		b.atRest("a shadow that cannot be", func() {
			nettest.RunIn(b.ns, func() {
				absent := slots[0]
				absent.Program = 999
				if s, err := b.plane.Shadow(b.Context(), append(slices.Clone(slots), absent), Ingress{}, chain.Pass, copies); err == nil {
					t.Errorf("there is a shadow with a program that was not loaded: %v", s.Close())
				}
			})
		})
	}
	b.owned = owned
	b.live(b.revision)
	b.follow(frame(), 3, 1, 2, 3, 3)
}

// TestContractDry stages what cannot be committed: on an interface without a chain, and on one with.
func TestContractDry(t *testing.T) {
	b := newBench(t)
	p := b.steps(2)
	dry := func(slots ...Slot) {
		t.Helper()
		before, id := b.pins(), b.xdp()
		b.atRest("a dry Stage", func() {
			plan := b.plan(slots...)
			b.revision--
			plan.Dry = true
			staged, err := b.stage(b.dev, plan)
			b.check(err)
			if now := b.xdp(); now != id || staged.Actual != "" {
				t.Errorf("program %d is on the interface, in mode %q; it was %d", now, staged.Actual, id)
			}
			if err := staged.Commit(); err == nil || !strings.Contains(err.Error(), "only to see") {
				t.Errorf("Commit gives %v", err)
			}
			b.check(errors.Join(staged.Revert(), staged.Discard(), staged.Discard()))
		})
		if now := b.pins(); !slices.Equal(now, before) {
			t.Errorf("the pins are %q, they were %q", now, before)
		}
	}
	dry(p[0].on(passing))
	b.run(b.plan(p[0].on(passing)))
	dry(p[1].on(passing))
	b.live(b.revision)
	b.follow(frame(), 3, 1)

	// A link that somebody detached is left to who repairs it.
	held, _, err := b.plane.openLink(b.dev)
	b.check(err)
	b.check(errors.Join(held.Detach(), held.Close()))
	dry(p[1].on(passing))
	plan := b.plan(slices.Repeat(all(passing, p[0]), chain.MaxMembers+1)...)
	plan.Dry = true
	b.refused(plan)
}
