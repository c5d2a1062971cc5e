// SPDX-License-Identifier: Apache-2.0

package dispatcher

import (
	"slices"
	"testing"

	"github.com/xdpd/xdpd/chain"
	"github.com/xdpd/xdpd/internal/netif/nettest"
)

// TestContractPacketChanges has members that change the packet, and looks what those behind them find.
func TestContractPacketChanges(t *testing.T) {
	for _, mode := range []chain.Mode{chain.Native, chain.Generic} {
		t.Run(string(mode), func(t *testing.T) {
			b := newBench(t)
			push, pop, cut := b.load("many", "push"), b.load("many", "pop"), b.load("many", "cut")
			tag, deep := b.load("many", "tag"), b.load("many", "deep")
			one, two := b.load("step", ""), b.load("step", "")
			marks := []byte{byte(one.id), byte(two.id)}
			run := func(programs ...*program) {
				plan := b.plan(all(passing, programs...)...)
				plan.Mode = mode
				b.run(plan)
			}
			sizes := func(first, second int, f []byte, last int) {
				t.Helper()
				if one.state().Size != uint32(first) || two.state().Size != uint32(second) || len(f) != last {
					t.Errorf("the members saw packets of %d and %d bytes, %d arrived; want %d, %d and %d",
						one.state().Size, two.state().Size, len(f), first, second, last)
				}
			}
			t.Run("head", func(t *testing.T) {
				run(one, push, push, pop, pop, two)
				sizes(frameSize, frameSize, b.follow(frame(), 3, marks...), frameSize)
				run(one, two, push)
				before := b.got.Count()
				b.send.Send(frame(), 3)
				b.got.Wait(before + 3)
				sizes(frameSize, frameSize, b.got.Last(), frameSize+8)
				if f := b.got.Last(); f[14] != 0xee || !slices.Equal(f[22+2:22+4], marks) {
					t.Errorf("the packet arrived as % x", f[:40])
				}
			})
			t.Run("tail", func(t *testing.T) {
				run(one, cut, two)
				long := append(frame(), make([]byte, 100)...)
				sizes(frameSize+100, frameSize, b.follow(long, 3, marks...), frameSize)
			})
			t.Run("metadata", func(t *testing.T) {
				run(one, tag, two)
				b.follow(frame(), 3, marks...)
				if one.state().Meta != 0 || two.state().Meta != 0x5eed {
					t.Errorf("the members saw metadata %#x and %#x", one.state().Meta, two.state().Meta)
				}
			})
			t.Run("stack", func(t *testing.T) {
				run(tag, deep, push, pop, deep)
				b.follow(frame(), 3)
				b.exits(5, 3)
			})
			if one.state().Seen != 12 || two.state().Seen != 12 {
				t.Errorf("the members saw %d and %d packets over all revisions, want 12 each", one.state().Seen, two.state().Seen)
			}
		})
	}
}

// TestContractStackBesideCalls has a member with a full stack beside members that call functions. As one program
// these are too much for kernels that count 32 bytes at least for each function.
func TestContractStackBesideCalls(t *testing.T) {
	b := newBench(t)
	step, deep := b.load("step", ""), b.load("many", "deep")
	b.run(b.plan(step.on(passing)))
	slots := all(passing, step, deep, step, deep)
	if name, _ := b.plane.Linker(); name == Inline && !kernelAtLeast(t, 6, 12) {
		staged, err := b.stage(b.dev, b.plan(slots...))
		if err != nil {
			reason(t, err, chain.LinkRejected, deep.name(), "combined stack size")
			b.live(1)
			b.follow(frame(), 3, byte(step.id))
			return
		}
		b.check(staged.Discard())
	}
	b.run(b.plan(slots...))
	b.follow(frame(), 3, byte(step.id), byte(step.id))
	b.exits(4, 3)
}

// TestContractTailCalls has a member in the middle that ends by tail calls: the chain goes on with the verdict
// of whom it called last.
func TestContractTailCalls(t *testing.T) {
	b := newBench(t)
	first, last := b.load("step", ""), b.load("step", "")
	for _, function := range []string{"caller", "branch", "misser"} {
		t.Run(function, func(t *testing.T) {
			middle := b.load("tail", function)
			f, m, l := byte(first.id), byte(middle.id), byte(last.id)
			marks := map[string][]byte{"caller": {f, m, m, l}, "branch": {f, m, m, l}, "misser": {f, m, l}}[function]
			own := len(marks) - 2 // marks of the member itself, each of which takes a code
			b.run(b.plan(all(passing, first, middle, last)...))
			b.follow(frame(), 5, marks...)
			b.exits(3, 5)
			for i, code := range codes {
				if code == uint32(chain.Pass) || code == uint32(chain.Continue) {
					continue
				}
				returns := []uint32{2, 2, 2, 2}
				returns[own] = code
				before := b.exits(3, b.packets(3))
				b.send.Send(frame(returns...), 2)
				e := b.exits(3, before.Packets(3)+2)
				if got := e[1][class(code)] - before[1][class(code)]; got != 2 {
					t.Errorf("code %d (%d): %d packets ended at the member, want 2: %v", code, i, got, e)
				}
			}
			if function != "misser" && middle.state().Hits == 0 {
				t.Error("the leaf never ran")
			}
		})
	}
	t.Run("twice in a chain", func(t *testing.T) {
		one, two := b.load("tail", "caller"), b.load("tail", "caller")
		b.run(b.plan(all(passing, one, first, two)...))
		b.follow(frame(), 5, byte(one.id), byte(one.id), byte(first.id), byte(two.id), byte(two.id))
	})
}

func (b *bench) packets(slots int) uint64 {
	b.Helper()
	e, err := b.plane.Counters(b.dev, b.revision)
	b.check(err)
	return e.Packets(slots)
}

// TestContractStaticNames has members with functions of the same name: each runs its own.
func TestContractStaticNames(t *testing.T) {
	b := newBench(t)
	step, twin := b.load("step", ""), b.load("twin", "")
	b.run(b.plan(all(passing, step, twin, step, twin)...))
	s, w := byte(step.id), byte(twin.id+128)
	b.follow(frame(), 3, s, w, s, w)
}

// TestContractMapsStay changes the chain around a program, which keeps its maps, also over Unload of another.
func TestContractMapsStay(t *testing.T) {
	b := newBench(t)
	p := b.steps(2)
	_, maps, err := b.plane.Program(p[0].id)
	b.check(err)
	if len(maps) != 1 || maps[0].Name != ".bss" || maps[0].KernelID == 0 || maps[0].ValueSize != 24 {
		t.Errorf("the maps are %+v", maps)
	}
	b.run(b.plan(p[0].on(passing)))
	b.follow(frame(), 10, 1)
	b.run(b.plan(p[1].on(passing), p[0].on(passing)))
	b.follow(frame(), 10, 2, 1)
	b.run(b.plan(p[1].on(passing))) // as if the first were disabled
	b.follow(frame(), 10, 2)
	b.run(b.plan(p[0].on(passing)))
	b.atRest("Unload", func() { b.check(b.plane.Unload(p[1].id)) })
	b.follow(frame(), 10, 1)
	if s := p[0].state(); s.Seen != 30 {
		t.Errorf("the member saw %d packets, want 30", s.Seen)
	}
	kernelID, _, err := b.plane.Program(p[0].id)
	b.check(err)
	if name, _ := b.plane.Linker(); (kernelID != 0) != (name == Freplace) {
		t.Errorf("the kernel's id is %d with linker %s", kernelID, name)
	}
}

// TestContractTwoDevices has one program in two chains: they share its maps and nothing else.
func TestContractTwoDevices(t *testing.T) {
	b := newBench(t)
	b.ns.AddPair(t, "xdev1", "xpeer1")
	other := Device{Netns: b.dev.Netns, Ifindex: b.ns.Index(t, "xdev1")}
	p := b.load("step", "")
	b.run(b.plan(p.on(passing)))
	plan := b.plan(p.on(passing))
	plan.Final = chain.Drop
	b.runOn(other, plan)
	devices, err := b.plane.Devices()
	b.check(err)
	if len(devices) != 2 || !slices.Contains(devices, b.dev) || !slices.Contains(devices, other) {
		t.Errorf("the devices are %v", devices)
	}
	got := b.ns.Receiver(t, "xdev1", nettest.EtherType)
	b.ns.Sender(t, "xpeer1").Send(frame(), 7)
	b.follow(frame(), 5, byte(p.id))
	b.until("12 packets are seen", func() bool { return p.state().Seen == 12 })
	if got.Count() != 0 {
		t.Errorf("%d packets passed a chain that drops", got.Count())
	}
	b.atRest("Detach", func() { b.check(b.plane.Detach(other)) })
	b.ns.Sender(t, "xpeer1").Send(frame(), 7)
	got.Wait(7)
	b.follow(frame(), 5, byte(p.id))
	if s := p.state().Seen; s != 17 {
		t.Errorf("the member saw %d packets, want 17", s)
	}
}
