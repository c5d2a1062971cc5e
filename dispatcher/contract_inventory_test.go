// SPDX-License-Identifier: Apache-2.0

package dispatcher

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/xdpd/xdpd/chain"
)

// once keeps what has little to do with the kernel out of the VMs, where all is slow. These tests are called TestPins*.
func once(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("the kernel has little say in it: it is tested on this machine only")
	}
}

// path is a pin of the bench's device, relative to the root.
func (b *bench) path(elements ...string) string {
	return b.plane.rel(filepath.Join(append([]string{b.plane.chainDir(b.dev)}, elements...)...))
}

// rev is a pin of the revision that runs.
func (b *bench) rev(name string) string {
	return b.plane.rel(filepath.Join(b.plane.revisionDir(b.dev, b.revision), name))
}

func (b *bench) learn() {
	b.Helper()
	b.atRest("Learn", func() { b.check(b.plane.Learn(b.dev)) })
}

// damaged fails the test unless exactly these pins are missing.
func (b *bench) damaged(want ...string) {
	b.Helper()
	b.atRest("Damage", func() {
		missing, err := b.plane.Damage(b.dev)
		b.check(err)
		slices.Sort(want)
		if !slices.Equal(missing, want) {
			b.Fatalf("missing are %q, want %q", missing, want)
		}
	})
}

// settle waits until the device's folders are only looked at from outside.
func (b *bench) settle() {
	b.Helper()
	s := b.plane.stock(b.plane.chainDir(b.dev))
	b.until("the folders have settled", func() bool {
		b.damaged()
		return s.untouched(b.plane.Root())
	})
}

func (b *bench) unpin(paths ...string) {
	b.Helper()
	for _, path := range paths {
		b.check(os.Remove(filepath.Join(b.plane.Root(), path)))
	}
}

// TestContractDamageAtOnce removes a pin just after the pins were learned, or made again, so that the folder's times are
// of the same tick: it is noticed every time.
func TestContractDamageAtOnce(t *testing.T) {
	b := newBench(t)
	b.run(b.plan(b.load("step", "").on(passing)))
	times := 200
	if testing.Short() {
		times = 12
	}
	for i := range times {
		switch i % 3 {
		case 0:
			b.learn()
		case 1:
			b.damaged()
		}
		if i%10 == 0 { // the folders settle, and are only looked at from outside
			b.settle()
		}
		b.unpin(b.rev("counters"))
		b.damaged(b.rev("counters"))
		b.damaged(b.rev("counters"))
		b.restored([]string{b.rev("counters")})
	}
	b.follow(frame(), 3, 1)
	b.exits(1, 3)
}

// TestContractPinReplaced has somebody put other things in the place of pins.
func TestContractPinReplaced(t *testing.T) {
	b := newBench(t)
	b.run(b.plan(b.load("step", "").on(passing)))
	b.learn()
	before := b.everything()
	counters := filepath.Join(b.plane.Root(), b.rev("counters"))
	b.unpin(b.rev("counters"), b.rev("dispatcher"))
	pinSomething(t, counters)
	b.check(os.Symlink("nowhere", filepath.Join(b.plane.Root(), b.rev("dispatcher"))))
	b.damaged(b.rev("counters"), b.rev("dispatcher"))
	b.restored([]string{b.rev("counters"), b.rev("dispatcher")})
	b.damaged()
	if now := b.everything(); !maps.Equal(now, before) {
		t.Errorf("the pins are %v, they were %v", now, before)
	}
	b.follow(frame(), 3, 1)
	b.exits(1, 3)
}

// TestPinsDamageOfOurs changes everything by the plane itself without learning it: none of it is damage.
func TestPinsDamageOfOurs(t *testing.T) {
	once(t)
	b := newBench(t)
	p := b.steps(2)
	b.run(b.plan(p[0].on(passing)))
	for range 3 {
		b.learn()
		staged, err := b.stage(b.dev, b.plan(all(passing, p...)...))
		b.check(err)
		b.damaged()
		b.check(staged.Discard())
		b.damaged()
		b.revision--
		staged, err = b.stage(b.dev, b.plan(all(passing, p...)...))
		b.check(err)
		b.learn()
		b.check(staged.Commit())
		b.damaged()
		b.check(errors.Join(staged.Revert(), staged.Discard()))
		b.damaged()
		b.revision--
		b.run(b.plan(all(passing, p...)...))
		b.damaged()
	}
	b.learn()
	b.check(b.plane.Detach(b.dev))
	b.damaged(b.path("link"))
	b.run(b.plan(p[0].on(passing)))
	b.damaged()
	b.check(b.plane.LearnProgram(p[1].id))
	b.check(b.plane.Unload(p[1].id))
	_, err := b.plane.Load(p[1].asLoad())
	b.check(err)
	if missing, err := b.plane.DamageProgram(p[1].id); err != nil || len(missing) > 0 {
		t.Errorf("a program that was loaded anew misses %q, %v", missing, err)
	}
}

// TestPinsDamageMeanwhile looks for damage all the time while the plane changes things: nothing goes wrong by that, and
// what is told at the end is true.
func TestPinsDamageMeanwhile(t *testing.T) {
	once(t)
	b := newBench(t)
	p := b.steps(2)
	b.run(b.plan(p[0].on(passing)))
	b.learn()
	var stop atomic.Bool
	done := make(chan error, 1)
	defer stop.Store(true)
	go func() {
		for !stop.Load() {
			_, err := b.plane.Damage(b.dev)
			_, programErr := b.plane.DamageProgram(p[1].id)
			if err := errors.Join(err, programErr); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	for range 20 {
		for _, slots := range [][]Slot{all(passing, p...), all(passing, p[0])} {
			staged, err := b.stage(b.dev, b.plan(slots...))
			b.check(err)
			b.check(errors.Join(staged.Commit(), staged.Discard(), b.plane.Prune(b.dev, b.revision, nil)))
			b.check(b.plane.Learn(b.dev))
		}
		b.check(b.plane.Unload(p[1].id))
		_, err := b.plane.Load(p[1].asLoad())
		b.check(err)
	}
	stop.Store(true)
	b.check(<-done)
	b.damaged()
}

// TestPinsDamageCosts prints what a look costs where nothing happened, and that it opens nothing.
func TestPinsDamageCosts(t *testing.T) {
	once(t)
	b := newBench(t)
	p := b.load("step", "")
	slots := make([]Slot, chain.MaxMembers)
	for i := range slots {
		slots[i] = p.on(passing)
	}
	b.run(b.plan(slots...))
	began := time.Now()
	b.learn()
	thorough := time.Since(began)
	b.settle()
	const looks = 1000
	began = time.Now()
	for range looks {
		if missing, err := b.plane.Damage(b.dev); err != nil || len(missing) > 0 {
			t.Fatal(missing, err)
		}
	}
	t.Logf("a chain of %d members: learned in %v, looked at in %v", len(slots), thorough, time.Since(began)/looks)
}
