// SPDX-License-Identifier: Apache-2.0

package dispatcher

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// restored fails the test unless Restore makes exactly these pins, and says that the others are lost.
func (b *bench) restored(want []string, lost ...string) {
	b.Helper()
	b.atRest("Restore", func() {
		got, err := b.plane.Restore(b.dev)
		slices.Sort(want)
		if !slices.Equal(got, want) || errors.Is(err, ErrLost) != (len(lost) > 0) || err != nil && len(lost) == 0 {
			b.Fatalf("Restore made %q and gives %v, want %q and %q lost", got, err, want, lost)
		}
		for _, path := range lost {
			if !strings.Contains(err.Error(), path) {
				b.Errorf("the error %q says nothing of %s", err, path)
			}
		}
	})
}

// everything describes all that is pinned.
func (b *bench) everything() map[string]pinned {
	b.Helper()
	now, err := b.plane.look(b.plane.Root())
	b.check(err)
	return now.found
}

// hold opens a pinned link as somebody else would, until the test ends.
func (b *bench) hold(path string) link.Link {
	b.Helper()
	held, err := link.LoadPinnedLink(filepath.Join(b.plane.Root(), path), nil)
	b.check(err)
	b.Cleanup(func() { held.Close() })
	return held
}

// TestContractRestore removes pins under traffic, one by one and all, which no packet notices, and makes them again.
func TestContractRestore(t *testing.T) {
	b := newBench(t)
	p := b.steps(2)
	b.run(b.plan(all(passing, p...)...))
	b.learn()
	b.damaged()
	for _, path := range []string{b.path("link"), b.rev("slot-00"), b.rev("slot-01")} {
		if _, err := os.Lstat(filepath.Join(b.plane.Root(), path)); err == nil {
			b.hold(path)
		}
	}
	s := b.startStream([][]byte{{1, 2}})
	defer s.end()
	before, live := b.everything(), b.live(b.revision)
	whole := func() {
		t.Helper()
		b.damaged()
		if now := b.everything(); !maps.Equal(now, before) {
			t.Fatalf("the pins are %v, they were %v", now, before)
		}
		if now := b.live(b.revision); now != live {
			t.Errorf("live is %+v, was %+v", now, live)
		}
		s.flows(t)
	}
	var removed []string
	for path, was := range before {
		if was.id != 0 && strings.HasPrefix(path, "chains/") {
			b.unpin(path)
			b.damaged(path)
			b.restored([]string{path})
			whole()
			removed = append(removed, path)
		}
	}
	if len(removed) < 3 {
		t.Errorf("only %q were removed", removed)
	}
	b.unpin(removed...)
	b.damaged(removed...)
	if now, err := b.plane.Live(b.dev); !errors.Is(err, ErrGone) {
		t.Errorf("Live gives %+v, %v without a pin of the link", now, err)
	}
	b.restored(removed)
	whole()
	dir := b.path()
	b.check(os.RemoveAll(filepath.Join(b.plane.Root(), dir)))
	removed = append(removed, dir, b.rev(""))
	b.damaged(removed...)
	b.restored(removed)
	whole()
	// The dispatcher alone: what runs is known all the same, and can be swapped.
	b.unpin(b.rev("dispatcher"))
	b.live(b.revision)
	b.run(b.plan(all(passing, p...)...))
	b.damaged()
	s.flows(t)
	b.check(s.end())
}

// TestContractLost removes what the kernel lets go of with its pin. That is said, and a new revision repairs it.
func TestContractLost(t *testing.T) {
	b := newBench(t)
	p := b.steps(2)
	b.run(b.plan(all(passing, p...)...))
	b.learn()
	b.follow(frame(), 3, 1, 2)
	if name, _ := b.plane.Linker(); name == Freplace {
		slot, err := describe(filepath.Join(b.plane.Root(), b.rev("slot-01")))
		b.check(err)
		b.unpin(b.rev("slot-01"), b.rev("counters"))
		b.until("the slot is empty", func() bool {
			l, err := link.NewFromID(link.ID(slot.id))
			if err == nil {
				b.check(l.Close())
			}
			return errors.Is(err, fs.ErrNotExist)
		})
		b.damaged(b.rev("slot-01"), b.rev("counters"))
		b.restored([]string{b.rev("counters")}, b.rev("slot-01"))
		b.damaged(b.rev("slot-01"))
		b.restored(nil, b.rev("slot-01"))
		b.follow(frame(), 3, 1)
		b.run(b.plan(all(passing, p...)...))
		b.damaged()
		b.follow(frame(), 3, 1, 2)
		b.learn()
		// As a daemon that starts sees it, which learned nothing.
		b.unpin(b.rev("slot-01"))
		b.restart()
		b.damaged(b.rev("slot-01"))
		b.restored(nil, b.rev("slot-01"))
		b.run(b.plan(all(passing, p...)...))
		b.damaged()
	}
	b.learn()
	b.collect()
	b.unpin(b.path("link"))
	b.until("the link is gone", func() bool { return b.xdp() == 0 })
	b.damaged(b.path("link"))
	b.restored(nil, b.path("link"))
	if _, err := b.plane.Live(b.dev); !errors.Is(err, ErrGone) {
		t.Errorf("Live gives %v, want ErrGone", err)
	}
	b.run(b.plan(all(passing, p...)...))
	b.damaged()
	b.follow(frame(), 3, 1, 2)
	b.check(os.RemoveAll(b.plane.chainDir(b.dev)))
	b.until("the link is gone", func() bool { return b.xdp() == 0 })
	b.run(b.plan(all(passing, p...)...))
	b.damaged()
	b.follow(frame(), 3, 1, 2)
}

// restart opens the plane as the next process does: nothing is learned.
func (b *bench) restart() {
	b.Helper()
	b.check(b.plane.Close())
	var err error
	b.plane, err = Open(b.plane.Root(), testLinker())
	b.check(err)
}

// TestContractRestoreUnlearned finds by what the kernel knows what was removed while no daemon ran.
func TestContractRestoreUnlearned(t *testing.T) {
	b := newBench(t)
	p := b.steps(2)
	b.run(b.plan(all(passing, p...)...))
	held := b.hold(b.path("link"))
	live := b.live(b.revision)
	before := b.everything()
	for _, path := range []string{b.path("link"), b.rev("dispatcher"), b.rev("counters")} {
		b.unpin(path)
		b.restart()
		b.damaged(path)
		b.restored([]string{path})
		b.damaged()
		if now := b.everything(); !maps.Equal(now, before) {
			t.Errorf("after %s the pins are %v, they were %v", path, now, before)
		}
		if now := b.live(b.revision); now != live {
			t.Errorf("after %s live is %+v, was %+v", path, now, live)
		}
	}
	b.follow(frame(), 3, 1, 2)
	b.exits(2, 3)
	// Without both it is only known that it is a dispatcher, and on our link. It can be swapped.
	b.unpin(b.rev("dispatcher"), b.rev("counters"))
	b.restart()
	b.damaged()
	if now := b.live(0); now.KernelID != live.KernelID {
		t.Errorf("live is %+v, was %+v", now, live)
	}
	b.check(errors.Join(b.plane.Detach(b.dev), held.Close()))
	missing, err := b.plane.Damage(Device{Netns: 9, Ifindex: 9})
	if err != nil || !slices.Equal(missing, []string{"chains/9-9/link"}) {
		t.Errorf("a device without pins misses %q, %v", missing, err)
	}
	if err := b.plane.Learn(Device{Netns: 9, Ifindex: 9}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Learn of a device without pins gives %v", err)
	}
}

// TestContractRestoreProgram removes pins of a program, with a group that may open its maps.
func TestContractRestoreProgram(t *testing.T) {
	b := newBench(t)
	p, _ := b.loadAs(Load{Object: object(t, "step", ""), GID: 1234})
	b.run(b.plan(p.on(passing)))
	s := b.startStream([][]byte{{1}})
	defer s.end()
	b.check(b.plane.LearnProgram(p.id))
	before := b.everything()
	dir := b.plane.rel(b.plane.programDir(p.id))
	under := func(prefix string) (paths []string) {
		for path := range before {
			if path == prefix || strings.HasPrefix(path, prefix+"/") {
				paths = append(paths, path)
			}
		}
		slices.Sort(paths)
		return paths
	}
	for _, gone := range [][]string{under(dir + "/maps/@bss"), under(dir + "/maps"), under(dir), append(under(dir), "programs")} {
		for _, path := range gone {
			b.check(os.RemoveAll(filepath.Join(b.plane.Root(), path)))
		}
		b.check(b.plane.Folder())
		b.atRest("RestoreProgram", func() {
			missing, err := b.plane.DamageProgram(p.id)
			b.check(err)
			if want := slices.DeleteFunc(slices.Clone(gone), func(path string) bool { return path == "programs" }); !slices.Equal(missing, want) {
				t.Errorf("missing are %q, removed were %q", missing, want)
			}
			restored, err := b.plane.RestoreProgram(p.id)
			b.check(err)
			if !slices.Equal(restored, missing) {
				t.Errorf("Restore made %q of %q", restored, missing)
			}
		})
		if now := b.everything(); !maps.Equal(now, before) {
			t.Errorf("the pins are %v, they were %v", now, before)
		}
		if missing, err := b.plane.DamageProgram(p.id); err != nil || len(missing) > 0 {
			t.Errorf("missing are %q, %v", missing, err)
		}
		s.flows(t)
	}
	b.check(s.end())

	// The kernel empties an array of programs, whoever else uses it.
	tail := b.load("tail", "caller")
	b.check(b.plane.LearnProgram(tail.id))
	maps, err := readDir(filepath.Join(b.plane.programDir(tail.id), "maps"))
	b.check(err)
	array := ""
	for _, name := range maps {
		path := filepath.Join(b.plane.rel(b.plane.programDir(tail.id)), "maps", name)
		if is, err := describe(filepath.Join(b.plane.Root(), path)); err == nil && is.expires {
			array = path
		}
	}
	b.collect()
	b.unpin(array)
	restored, err := b.plane.RestoreProgram(tail.id)
	if len(restored) > 0 || !errors.Is(err, ErrLost) || !strings.Contains(err.Error(), array) {
		t.Errorf("Restore of an array of programs made %q and gives %v", restored, err)
	}
	if restored, err := b.plane.RestoreProgram(99); restored != nil || !errors.Is(err, ErrLost) {
		t.Errorf("Restore of a program that is not there made %q and gives %v", restored, err)
	}
}

// without runs f on a thread that lacks a capability.
func without(t *testing.T, capability uint, f func()) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var before [2]unix.CapUserData
	if err := unix.Capget(&header, &before[0]); err != nil {
		t.Fatal(err)
	}
	less := before
	less[capability/32].Effective &^= 1 << (capability % 32)
	if err := unix.Capset(&header, &less[0]); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Capset(&header, &before[0]); err != nil {
			panic(err) // the thread must not go on
		}
	}()
	f()
}

// TestPinsRestoreNeedsPrivilege says what is missing where something cannot be opened by its id.
func TestPinsRestoreNeedsPrivilege(t *testing.T) {
	once(t)
	b := newBench(t)
	b.run(b.plan(b.load("step", "").on(passing)))
	b.learn()
	b.unpin(b.rev("counters"))
	without(t, unix.CAP_SYS_ADMIN, func() {
		b.damaged(b.rev("counters"))
		restored, err := b.plane.Restore(b.dev)
		if len(restored) > 0 || errors.Is(err, ErrLost) || err == nil || !strings.Contains(err.Error(), "CAP_SYS_ADMIN") {
			t.Errorf("Restore made %q and gives %v, want CAP_SYS_ADMIN", restored, err)
		}
	})
	b.restored([]string{b.rev("counters")})
}
