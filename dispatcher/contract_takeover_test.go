// SPDX-License-Identifier: Apache-2.0

package dispatcher

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/xdpd/xdpd/chain"
	"github.com/xdpd/xdpd/internal/netif"
	"github.com/xdpd/xdpd/internal/netif/nettest"
)

// stranger is a program of somebody else, which leaves a mark in packets as members do.
type stranger struct {
	*ebpf.Program
	id uint32
}

const strangersMark = 99

// stranger loads a program that is none of the plane's.
func (b *bench) stranger(kind ebpf.AttachType) *stranger {
	b.Helper()
	o := object(b, "step", "")
	spec := o.spec.Copy()
	spec.Programs[o.function].AttachType = kind
	value := make([]byte, spec.Maps[".bss"].ValueSize)
	_, err := binary.Encode(value[globalsOf(o.spec.Maps)["state"][0].offset:], binary.NativeEndian, state{Mark: strangersMark})
	b.check(err)
	spec.Maps[".bss"].Contents = []ebpf.MapKV{{Key: uint32(0), Value: value}}
	coll, err := ebpf.NewCollection(spec)
	b.check(err)
	defer coll.Close()
	s := &stranger{Program: coll.DetachProgram(o.function)}
	b.Cleanup(func() { s.Close() })
	s.id, err = programID(s.Program)
	b.check(err)
	return s
}

// byLink attaches it by a link, until that is closed.
func (b *bench) byLink(s *stranger, mode chain.Mode) link.Link {
	b.Helper()
	flags := link.XDPDriverMode
	if mode == chain.Generic {
		flags = link.XDPGenericMode
	}
	var held link.Link
	nettest.RunIn(b.ns, func() {
		var err error
		held, err = link.AttachXDP(link.XDPOptions{Program: s.Program, Interface: b.dev.Ifindex, Flags: flags})
		b.check(err)
	})
	b.Cleanup(func() { held.Close() })
	return held
}

// takeover is a plan that replaces whatever is on the device.
func (b *bench) takeover(mode chain.Mode, slots ...Slot) Plan {
	b.Helper()
	plan := b.plan(slots...)
	plan.Takeover, plan.Mode = true, mode
	nettest.RunIn(b.ns, func() {
		state, _, err := netif.XDP("", b.dev.Ifindex)
		b.check(err)
		plan.Holder, plan.HolderMode = state.ID, state.Mode
	})
	plan.Hook = func(prog int) error { return netif.Hook("", b.dev.Ifindex, prog, plan.HolderMode) }
	plan.Unhook = func(prog int) error { return netif.Unhook("", b.dev.Ifindex, prog, plan.HolderMode) }
	plan.In = b.in
	return plan
}

// in is what a plan has for In.
func (b *bench) in(f func() error) (err error) {
	nettest.RunIn(b.ns, func() { err = f() })
	return err
}

// on fails the test unless this program is on the device, in this mode.
func (b *bench) on(id uint32, mode chain.Mode) {
	b.Helper()
	nettest.RunIn(b.ns, func() {
		state, _, err := netif.XDP("", b.dev.Ifindex)
		b.check(err)
		if state.ID != id || state.Mode != mode {
			b.Fatalf("program %d is on the interface in mode %s, want %d in mode %s", state.ID, state.Mode, id, mode)
		}
	})
}

// TestContractTakeoverOfLink takes over from a program in somebody's link, and gives it back, under traffic: each packet
// goes through one of the two.
func TestContractTakeoverOfLink(t *testing.T) {
	for _, mode := range []chain.Mode{chain.Native, chain.Generic} {
		t.Run(string(mode), func(t *testing.T) {
			b := newBench(t)
			p := b.load("step", "")
			foreign := b.stranger(ebpf.AttachXDP)
			theirs := b.byLink(foreign, mode)
			empty := b.pins()
			s := b.startStream([][]byte{{strangersMark}, {1}})
			defer s.end()
			want := Foreign{ID: foreign.id, Name: "step", Mode: mode, Swapped: true}
			asked := []chain.Mode{chain.Auto, mode}
			if testing.Short() {
				asked = asked[:1]
			}
			for _, ask := range asked {
				staged, err := b.plane.Stage(b.Context(), b.dev, b.takeover(ask, p.on(passing)))
				b.check(err)
				if staged.Took == nil || *staged.Took != want || staged.Actual != mode {
					t.Errorf("it takes over from %+v in mode %s, want %+v", staged.Took, staged.Actual, want)
				}
				b.on(foreign.id, mode)
				s.flows(t)
				b.check(staged.Commit())
				live := b.live(b.revision)
				b.on(live.KernelID, mode)
				s.flows(t)
				b.check(staged.Revert())
				b.on(foreign.id, mode)
				s.flows(t)
				b.check(staged.Discard())
				if now := b.pins(); !slices.Equal(now, empty) {
					t.Errorf("the pins are %q, they were %q", now, empty)
				}
			}
			b.atRest("Takeover", func() {
				staged, err := b.plane.Stage(b.Context(), b.dev, b.takeover(mode, p.on(passing)))
				b.check(err)
				b.check(errors.Join(staged.Commit(), staged.Discard()))
			})
			b.check(theirs.Close())
			b.live(b.revision)
			b.learn()
			b.run(b.plan(p.on(passing)))
			s.flows(t)
			b.check(s.end())
			b.check(b.plane.Detach(b.dev))
			b.on(0, "")
		})
	}
}

// TestContractTakeoverKilled dies between the swap and the pin: the next process finds the link by what it runs.
func TestContractTakeoverKilled(t *testing.T) {
	b := newBench(t)
	p := b.load("step", "")
	foreign := b.stranger(ebpf.AttachXDP)
	theirs := b.byLink(foreign, chain.Native)
	staged, err := b.plane.Stage(b.Context(), b.dev, b.takeover(chain.Auto, p.on(passing)))
	b.check(err)
	b.check(staged.Close()) // before the swap
	b.restart()
	if _, err := b.plane.Live(b.dev); !errors.Is(err, ErrGone) {
		t.Errorf("Live gives %v, want ErrGone", err)
	}
	b.damaged(b.path("link"))
	b.restored(nil, b.path("link"))
	b.on(foreign.id, chain.Native)

	b.revision--
	staged, err = b.plane.Stage(b.Context(), b.dev, b.takeover(chain.Auto, p.on(passing)))
	b.check(err)
	b.check(staged.link.UpdateArgs(link.RawLinkUpdateOptions{New: staged.new, Old: staged.old, Flags: unix.BPF_F_REPLACE}))
	b.check(staged.Close()) // after it
	b.restart()
	if _, err := b.plane.Live(b.dev); !errors.Is(err, ErrGone) {
		t.Errorf("Live gives %v, want ErrGone", err)
	}
	b.damaged(b.path("link"))
	b.restored([]string{b.path("link")})
	b.live(b.revision)
	b.damaged()
	b.check(theirs.Close())
	b.follow(frame(), 3, 1)
	b.run(b.plan(p.on(passing)))
	b.follow(frame(), 3, 1)
}

// TestContractTakeoverOfHook takes over from a program that was attached by netlink, and from one in a link where the mode
// is another one: it is detached first.
func TestContractTakeoverOfHook(t *testing.T) {
	kinds := 5
	if testing.Short() {
		kinds = 2
	}
	for _, c := range []struct {
		linked   bool
		has, ask chain.Mode
		actual   chain.Mode
	}{
		{false, chain.Native, chain.Auto, chain.Native},
		{true, chain.Generic, chain.Native, chain.Native},
		{false, chain.Generic, chain.Auto, chain.Generic},
		{false, chain.Generic, chain.Native, chain.Native},
		{true, chain.Native, chain.Generic, chain.Generic},
	}[:kinds] {
		t.Run(fmt.Sprintf("%s asked of %s, linked %v", c.ask, c.has, c.linked), func(t *testing.T) {
			b := newBench(t)
			p := b.load("step", "")
			foreign := b.stranger(ebpf.AttachXDP)
			if c.linked {
				b.byLink(foreign, c.has)
			} else {
				b.check(b.in(func() error { return netif.Hook("", b.dev.Ifindex, foreign.FD(), c.has) }))
			}
			empty := b.pins()
			staged, err := b.plane.Stage(b.Context(), b.dev, b.takeover(c.ask, p.on(passing)))
			b.check(err)
			if want := (Foreign{ID: foreign.id, Name: "step", Mode: c.has}); staged.Took == nil || *staged.Took != want || staged.Actual != c.actual {
				t.Errorf("it takes over from %+v in mode %s, want %+v", staged.Took, staged.Actual, want)
			}
			b.follow(frame(), 3, strangersMark)
			b.check(staged.Commit())
			b.on(b.live(b.revision).KernelID, c.actual)
			b.follow(frame(), 3, 1)
			b.exits(1, 3)
			b.check(staged.Revert())
			b.on(foreign.id, c.has)
			b.follow(frame(), 3, strangersMark)
			b.check(staged.Discard())
			if now := b.pins(); !slices.Equal(now, empty) {
				t.Errorf("the pins are %q, they were %q", now, empty)
			}
			b.atRest("Takeover", func() {
				staged, err := b.plane.Stage(b.Context(), b.dev, b.takeover(c.ask, p.on(passing)))
				b.check(err)
				b.check(errors.Join(staged.Commit(), staged.Discard()))
			})
			b.on(b.live(b.revision).KernelID, c.actual)
			b.run(b.plan(p.on(passing)))
			b.follow(frame(), 3, 1)
			b.learn()
			b.damaged()
		})
	}
}

// TestContractTakeoverOfAnotherAttachType has a program that no update of a link can replace by one of ours, where the kernel
// looks at that: it is detached instead.
func TestContractTakeoverOfAnotherAttachType(t *testing.T) {
	b := newBench(t)
	p := b.load("step", "")
	foreign := b.stranger(ebpf.AttachNone)
	b.byLink(foreign, chain.Native)
	staged, err := b.plane.Stage(b.Context(), b.dev, b.takeover(chain.Auto, p.on(passing)))
	b.check(err)
	b.check(staged.Commit())
	t.Logf("the commit was a swap: %v", staged.Took.Swapped)
	b.on(b.live(b.revision).KernelID, chain.Native)
	b.follow(frame(), 3, 1)
	b.check(staged.Revert())
	b.on(foreign.id, chain.Native)
	b.check(staged.Commit())
	b.check(staged.Discard())
	b.live(b.revision)
	b.follow(frame(), 3, 1)
}
