// SPDX-License-Identifier: Apache-2.0

package dispatcher

import (
	"fmt"
	"slices"
	"testing"

	"github.com/cilium/ebpf/link"

	"github.com/xdpd/xdpd/chain"
	"github.com/xdpd/xdpd/internal/netif/nettest"
)

func TestContractOrder(t *testing.T) {
	b := newBench(t)
	p := b.steps(3)
	for _, order := range [][]int{{0, 1, 2}, {2, 1, 0}, {1, 0, 2}, {1}, {2, 0}} {
		t.Run(fmt.Sprint(order), func(t *testing.T) {
			var slots []Slot
			var marks []byte
			for _, i := range order {
				slots = append(slots, p[i].on(passing))
				marks = append(marks, byte(p[i].id))
			}
			b.run(b.plan(slots...))
			b.live(b.revision)
			b.follow(frame(), 5, marks...)
			if e := b.exits(len(slots), 5); e.End(len(slots)) != 5 {
				t.Errorf("not all packets came to the end: %v", e)
			}
		})
	}
}

// codes are return codes: those that the kernel knows, the one that always proceeds, and others.
var codes = []uint32{0, 1, 2, 3, 4, 31, 5, 6, 30, 32, 33, 34, 35, 63, 64, 255, 256, 0x7fffffff, 0x80000000, 0xffffffff}

func class(code uint32) int { return int(min(code, chain.ClassOther)) }

// TestContractProceedOn tries every code on every set: member n of the chain has set n.
func TestContractProceedOn(t *testing.T) {
	b := newBench(t)
	p := b.steps(2)
	var slots []Slot
	for set := range chain.ProceedOn(32) {
		slots = append(slots, p[set%2].on(set))
	}
	b.run(b.plan(slots...))
	var want chain.Exits
	sent, passed := uint64(0), uint64(0)
	for n, slot := range slots {
		for _, code := range codes {
			returns := slices.Repeat([]uint32{uint32(chain.Continue)}, len(slots))
			returns[n] = code
			b.send.Send(frame(returns...), 1)
			sent++
			if code == 31 || code < 5 && slot.ProceedOn.Has(chain.Verdict(code)) {
				want[len(slots)][chain.Pass]++
				passed++
			} else {
				want[n][class(code)]++
				if code == uint32(chain.Pass) {
					passed++
				}
			}
		}
		if e := b.exits(len(slots), sent); e != want {
			t.Fatalf("set %s: packets left at %v, want %v", slot.ProceedOn, e, want)
		}
	}
	b.got.Wait(passed)
	if n := b.got.Count(); n != passed {
		t.Errorf("%d packets arrived, want %d", n, passed)
	}
	seen := uint64(0)
	for n := range slots {
		c := want.Member(n, len(slots))
		seen += c.Seen
	}
	if got := p[0].state().Seen + p[1].state().Seen; got != seen {
		t.Errorf("the members saw %d packets, the counters say %d", got, seen)
	}
}

// TestContractVerdictOfOne says that a chain of one member means the same as any other.
func TestContractVerdictOfOne(t *testing.T) {
	b := newBench(t)
	p := b.load("step", "")
	for _, set := range []chain.ProceedOn{0, chain.Of(chain.Drop), chain.Of(chain.Pass, chain.Aborted)} {
		t.Run(set.String(), func(t *testing.T) {
			plan := b.plan(p.on(set))
			plan.Final = chain.Drop
			b.run(plan)
			before := b.got.Count()
			var want chain.Exits
			for i, code := range codes {
				b.send.Send(frame(code), 1)
				if code == 31 || code < 5 && set.Has(chain.Verdict(code)) {
					want[1][chain.Drop]++
				} else {
					want[0][class(code)]++
				}
				b.exits(1, uint64(i+1))
			}
			if e := b.exits(1, uint64(len(codes))); e != want {
				t.Errorf("packets left at %v, want %v", e, want)
			}
			b.got.Wait(before + want[0][chain.Pass])
			if n := b.got.Count() - before; n != want[0][chain.Pass] {
				t.Errorf("%d packets arrived, want %d", n, want[0][chain.Pass])
			}
		})
	}
}

// passOnPeer lets the peer take frames that come from a program: a veth needs a program there for that.
func (b *bench) passOnPeer() {
	b.Helper()
	pass, err := newTransparent(0)
	b.check(err)
	defer pass.Close()
	nettest.RunIn(b.ns, func() {
		held, err := link.AttachXDP(link.XDPOptions{Program: pass, Interface: b.ns.Index(b, nettest.Peer)})
		b.check(err)
		b.Cleanup(func() { b.check(held.Close()) })
	})
}

// TestContractVerdictsAct looks where packets go after each verdict, of a member and as the final one.
func TestContractVerdictsAct(t *testing.T) {
	for _, mode := range []chain.Mode{chain.Native, chain.Generic} {
		t.Run(string(mode), func(t *testing.T) {
			b := newBench(t)
			b.passOnPeer()
			p := b.load("step", "")
			back := b.ns.Receiver(t, nettest.Peer, nettest.EtherType)
			run := func(code uint32, on chain.ProceedOn, final chain.Verdict) {
				t.Helper()
				plan := b.plan(p.on(on))
				plan.Final, plan.Mode = final, mode
				b.run(plan)
				passed, returned := b.got.Count(), back.Count()
				b.send.Send(frame(code), 10)
				e := b.exits(1, 10)
				verdict := chain.Verdict(code)
				if code == uint32(chain.Continue) || on.Has(verdict) {
					verdict = final
				}
				if verdict == chain.Pass {
					passed += 10
				}
				if verdict == chain.Tx || verdict == chain.Redirect {
					returned += 10
				}
				b.got.Wait(passed)
				back.Wait(returned)
				if b.got.Count() != passed || back.Count() != returned {
					t.Errorf("code %d, proceed-on %s, final %s: %d packets passed, %d went back, want %d and %d: %v",
						code, on, final, b.got.Count(), back.Count(), passed, returned, e)
				}
			}
			for code := range uint32(6) {
				run(code, 0, chain.Drop)
			}
			run(31, 0, chain.Pass)
			run(31, 0, chain.Aborted)
			run(31, 0, chain.Drop)
			run(31, 0, chain.Tx)
			run(uint32(chain.Redirect), chain.Of(chain.Redirect), chain.Redirect)
			run(uint32(chain.Drop), chain.Of(chain.Drop), chain.Pass)
			run(uint32(chain.Redirect), chain.Of(chain.Redirect), chain.Pass)
		})
	}
}

// TestContractSizes runs chains of no member up to as many as there can be.
func TestContractSizes(t *testing.T) {
	b := newBench(t)
	p := b.steps(4)
	for _, n := range []int{0, 1, 2, 63, 64} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			var slots []Slot
			var marks []byte
			for i := range n {
				slots = append(slots, p[i%4].on(passing))
				marks = append(marks, byte(p[i%4].id))
			}
			b.run(b.plan(slots...))
			b.live(b.revision)
			b.follow(frame(), 20, marks...)
			if e := b.exits(n, 20); e.End(n) != 20 {
				t.Errorf("packets left at %v", e)
			}
			if n == 0 {
				return
			}
			last := slices.Repeat([]uint32{uint32(chain.Continue)}, n)
			last[n-1] = uint32(chain.Tx)
			b.send.Send(frame(last...), 3)
			if e := b.exits(n, 23); e[n-1][chain.Tx] != 3 {
				t.Errorf("the last member ended none: %v", e)
			}
		})
	}
	t.Run("65", func(t *testing.T) {
		live := b.live(b.revision)
		var slots []Slot
		for range chain.MaxMembers + 1 {
			slots = append(slots, p[0].on(passing))
		}
		b.refused(b.plan(slots...))
		if now := b.live(live.Revision); now != live {
			t.Errorf("live is %+v after a refused plan, was %+v", now, live)
		}
	})
}

// refused stages a plan that must fail, and returns the error. Nothing may be left of it.
func (b *bench) refused(plan Plan) error {
	b.Helper()
	return b.refusedOn(b.dev, plan)
}

func (b *bench) refusedOn(d Device, plan Plan) error {
	b.Helper()
	before := b.pins()
	var err error
	b.atRest("a Stage that fails", func() {
		var staged *Staged
		if staged, err = b.stage(d, plan); err == nil {
			b.check(staged.Discard())
			b.Fatal("Stage succeeded")
		}
	})
	if now := b.pins(); !slices.Equal(now, before) {
		b.Fatalf("the pins after Stage failed (%v) are\n%q\nbefore they were\n%q", err, now, before)
	}
	return err
}
