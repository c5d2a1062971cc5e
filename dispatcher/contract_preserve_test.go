// SPDX-License-Identifier: Apache-2.0

package dispatcher

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// TestContractLinkOfAnother moves the pin of one interface's link over that of another's, or exchanges the two. Whatever is done
// first to the other interface, the link goes on, and has a pin in its own place again.
func TestContractLinkOfAnother(t *testing.T) {
	for _, how := range []string{"moved", "exchanged", "moved, and something else in its place"} {
		for what, do := range map[string]func(b *bench, d Device) error{
			"Stage": func(b *bench, d Device) error {
				plan := b.plan()
				plan.Lingers = true
				staged, err := b.stage(d, plan)
				if err == nil {
					err = staged.Discard()
				}
				return err
			},
			"Restore": func(b *bench, d Device) error {
				_, err := b.plane.Restore(d)
				if errors.Is(err, ErrLost) {
					return nil
				}
				return err
			},
			"Detach": func(b *bench, d Device) error { return b.plane.Detach(d) },
		} {
			t.Run(what+" where it is "+how, func(t *testing.T) {
				b := newBench(t)
				other := b.two()
				b.check(errors.Join(b.plane.Learn(b.dev), b.plane.Learn(other)))
				was, err := b.plane.Live(b.dev)
				b.check(err)
				home, place := filepath.Join(b.plane.chainDir(b.dev), "link"), filepath.Join(b.plane.chainDir(other), "link")
				switch how {
				case "moved":
					b.check(os.Rename(home, place))
				case "exchanged":
					b.check(unix.Renameat2(unix.AT_FDCWD, home, unix.AT_FDCWD, place, unix.RENAME_EXCHANGE))
				default:
					b.check(errors.Join(os.Rename(home, place), os.Symlink("nothing", home)))
				}
				if how != "exchanged" { // its own link has no pin any more
					b.until("the link of the other interface is gone", func() bool { return b.xdpOn(other.Ifindex) == 0 })
				}
				atWork := what == "Stage" && how == "exchanged" // its own link is, and has to be restored first
				if err := do(b, other); err != nil && (!atWork || !errors.Is(err, ErrBusy)) {
					t.Error(err)
				}
				_, err = b.plane.Restore(b.dev)
				b.check(err)
				if now, err := b.plane.Live(b.dev); err != nil || now != was {
					t.Errorf("%+v runs, %v; it was %+v", now, err, was)
				}
				b.follow(frame(), 5, 1)
				if _, err := os.Lstat(home + unfinished); err == nil {
					t.Error("a second pin is left")
				}
				if _, err := b.plane.Restore(other); err != nil && !errors.Is(err, ErrLost) {
					t.Error(err)
				}
				b.check(b.plane.Detach(other))
			})
		}
	}
}

// two makes chains on two interfaces, as revisions 1 and 2, and returns the second device.
func (b *bench) two() Device {
	b.Helper()
	b.ns.AddPair(b, "xdev7", "xdev7p")
	other := Device{Netns: b.dev.Netns, Ifindex: b.ns.Index(b, "xdev7")}
	p := b.load("step", "")
	b.run(b.plan(p.on(passing)))
	b.runOn(other, b.plan(p.on(passing)))
	b.collect()
	return other
}

// TestContractDetachWithoutPin moves pins away, of the link or all: the device is detached all the same, and so it is by a
// Teardown.
func TestContractDetachWithoutPin(t *testing.T) {
	for _, what := range []string{"link", ""} {
		for _, teardown := range []bool{false, true} {
			t.Run(fmt.Sprintf("%q %v", what, teardown), func(t *testing.T) {
				b := newBench(t)
				b.two()
				b.learn()
				away := filepath.Join(testFS, "away")
				b.check(os.Rename(filepath.Join(b.plane.chainDir(b.dev), what), away))
				t.Cleanup(func() { os.RemoveAll(away) })
				if teardown {
					b.check(b.plane.Teardown())
					b.restart()
				} else {
					b.check(b.plane.Detach(b.dev))
				}
				if id := b.xdp(); id != 0 {
					t.Errorf("program %d stays", id)
				}
				b.check(os.RemoveAll(away))
			})
		}
	}
}

// TestContractDetachOfACopy has pins of a running link in a folder of no device: to detach that leaves the link.
func TestContractDetachOfACopy(t *testing.T) {
	b := newBench(t)
	b.two()
	b.learn()
	live := b.live(1)
	copied := Device{Netns: b.dev.Netns, Ifindex: 999}
	b.check(os.Rename(b.plane.chainDir(b.dev), b.plane.chainDir(copied)))
	_, err := b.plane.Restore(b.dev)
	b.check(err)
	for range 2 {
		b.check(b.plane.Detach(copied))
		if now := b.live(1); now != live {
			t.Errorf("%+v runs, it was %+v", now, live)
		}
		b.restart()
	}
}

// TestContractLinkOfAnotherUnseen puts the link of another interface, of which there are no other pins, in the place of the
// device's own while no daemon runs: it is not taken for that.
func TestContractLinkOfAnotherUnseen(t *testing.T) {
	b := newBench(t)
	other := b.two()
	b.check(os.Rename(filepath.Join(b.plane.chainDir(other), "link"), filepath.Join(b.plane.chainDir(b.dev), "link")))
	b.check(os.RemoveAll(b.plane.chainDir(other)))
	b.until("the link without a pin is gone", func() bool { return b.xdp() == 0 })
	b.restart()
	if live, err := b.plane.Live(b.dev); !errors.Is(err, ErrGone) {
		t.Errorf("%+v runs, %v", live, err)
	}
	if _, err := b.plane.Resume(b.dev, 1); err == nil {
		t.Error("the other interface can be swapped to this chain")
	}
	b.run(b.plan())
	b.follow(frame(), 5)
}

// TestContractLinkOfAnotherLost is TestContractLinkOfAnother with all other pins of that interface gone, as the daemon that made them
// finds them.
func TestContractLinkOfAnotherLost(t *testing.T) {
	b := newBench(t)
	other := b.two()
	b.learn()
	b.check(b.plane.Learn(other))
	live, err := b.plane.Live(other)
	b.check(err)
	b.check(os.Rename(filepath.Join(b.plane.chainDir(other), "link"), filepath.Join(b.plane.chainDir(b.dev), "link")))
	b.check(os.RemoveAll(b.plane.chainDir(other)))
	b.until("the link without a pin is gone", func() bool { return b.xdp() == 0 })
	_, err = b.plane.Restore(b.dev)
	if !errors.Is(err, ErrLost) {
		t.Errorf("Restore gives %v", err)
	}
	if _, err := b.plane.Restore(other); err != nil && !errors.Is(err, ErrLost) { // with freplace the slots' links are
		t.Error(err)
	}
	if now, err := b.plane.Live(other); err != nil || now != live {
		t.Errorf("%+v runs, %v; it was %+v", now, err, live)
	}
	b.run(b.plan())
}

// TestContractCopyOfTheSameIndex copies the pins of a chain to an interface of the same index in another namespace, and has a
// stranger's link pinned in the place of one: to detach these detaches nothing of others.
func TestContractCopyOfTheSameIndex(t *testing.T) {
	b := newBench(t)
	other := b.two()
	b.learn()
	live := b.live(1)
	for _, netns := range []uint64{b.dev.Netns - 1, b.dev.Netns + 1} { // listed before and behind it
		copied := Device{Netns: netns, Ifindex: b.dev.Ifindex}
		b.check(os.Rename(b.plane.chainDir(b.dev), b.plane.chainDir(copied)))
		_, err := b.plane.Restore(b.dev)
		b.check(err)
		b.restart()
		b.check(b.plane.Detach(copied))
		if now := b.live(1); now != live {
			t.Errorf("%+v runs, it was %+v", now, live)
		}
		b.learn()
	}

	// Of this link nobody knows whose it is.
	b.check(os.Rename(filepath.Join(b.plane.chainDir(other), "link"), filepath.Join(testFS, "away")))
	t.Cleanup(func() { os.Remove(filepath.Join(testFS, "away")) })
	b.check(os.RemoveAll(b.plane.chainDir(other)))
	third := Device{Netns: b.dev.Netns, Ifindex: 999}
	b.check(mkdir(b.plane.chainDir(third)))
	held, err := link.LoadPinnedLink(filepath.Join(testFS, "away"), nil)
	b.check(err)
	defer held.Close()
	b.check(os.Rename(filepath.Join(testFS, "away"), filepath.Join(b.plane.chainDir(third), "link")))
	b.check(b.plane.Detach(third))
	if info, err := held.Info(); err != nil || info.XDP().Ifindex == 0 {
		t.Errorf("a stranger's link was detached: %v", err)
	}
}

// TestContractSomethingElsePinned puts a map where the link was while no daemon runs. It makes room.
func TestContractSomethingElsePinned(t *testing.T) {
	b := newBench(t)
	p := b.load("step", "")
	b.run(b.plan(p.on(passing)))
	pin := filepath.Join(b.plane.chainDir(b.dev), "link")
	b.check(errors.Join(os.Remove(pin), b.pinCopy(filepath.Join(b.plane.revisionDir(b.dev, 1), "counters"), pin)))
	b.until("the link without a pin is gone", func() bool { return b.xdp() == 0 })
	b.restart()
	if _, err := b.plane.Restore(b.dev); !errors.Is(err, ErrLost) {
		t.Errorf("Restore gives %v", err)
	}
	b.run(b.plan(p.on(passing)))
	b.follow(frame(), 5, 1)
	b.check(errors.Join(os.Remove(pin), b.pinCopy(filepath.Join(b.plane.revisionDir(b.dev, 2), "counters"), pin)))
	b.check(b.plane.Detach(b.dev))
}

func (b *bench) pinCopy(from, to string) error {
	m, err := ebpf.LoadPinnedMap(from, nil)
	if err != nil {
		return err
	}
	defer m.Close()
	return m.Pin(to)
}

// TestPinsStrayEntry has something in the folder that is not the daemon's: it does not keep it from its own pins.
func TestPinsStrayEntry(t *testing.T) {
	b := newBench(t)
	b.run(b.plan(b.load("step", "").on(passing)))
	b.check(os.Mkdir(filepath.Join(b.plane.Root(), "old"), 0o700))
	b.restart()
	b.live(1)
}

// TestContractLearnTooLate learns pins when somebody has just moved them away: what was known stays, and all of it is restored.
func TestContractLearnTooLate(t *testing.T) {
	for _, empty := range []bool{false, true} {
		t.Run(fmt.Sprint(empty), func(t *testing.T) {
			b := newBench(t)
			b.run(b.plan(b.load("step", "").on(passing)))
			b.learn()
			before, live := b.everything(), b.live(1)
			folder, away := b.plane.chainDir(b.dev), filepath.Join(testFS, "away")
			b.check(os.Rename(folder, away))
			t.Cleanup(func() { os.RemoveAll(away) })
			if empty {
				b.check(os.Mkdir(folder, 0o700))
			}
			if err := b.plane.Learn(b.dev); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("Learn gives %v", err)
			}
			_, err := b.plane.Restore(b.dev)
			b.check(errors.Join(err, os.RemoveAll(away)))
			if now := b.everything(); !maps.Equal(now, before) {
				t.Errorf("the pins are %v, they were %v", now, before)
			}
			if now := b.live(1); now != live {
				t.Errorf("%+v runs, it was %+v", now, live)
			}
		})
	}
}

// TestContractLingers stages a chain while its link, whose pin is gone, still holds the interface: that is waited for, as long as
// it may be ours.
func TestContractLingers(t *testing.T) {
	b := newBench(t)
	p := b.load("step", "")
	b.run(b.plan(p.on(passing)))
	unpin := func() link.Link {
		pin := filepath.Join(b.plane.chainDir(b.dev), "link")
		held, err := link.LoadPinnedLink(pin, nil)
		b.check(errors.Join(err, os.Remove(pin)))
		return held
	}
	held := unpin()
	plan := b.plan(p.on(passing))
	for _, plan.Lingers = range []bool{false, true} {
		if _, err := b.stage(b.dev, plan); !errors.Is(err, ErrBusy) {
			t.Errorf("Stage, for a link that does not go, gives %v", err)
		}
	}
	for try := 1; ; try++ {
		time.AfterFunc(lingers/2, func() { held.Close() })
		staged, err := b.stage(b.dev, plan)
		if errors.Is(err, ErrBusy) && try < 3 { // on a busy host the link goes too late
			b.until("the link is gone", func() bool { return b.xdp() == 0 })
			b.run(b.plan(p.on(passing)))
			held, plan.Revision = unpin(), b.plan().Revision
			continue
		}
		b.check(err)
		b.check(errors.Join(staged.Commit(), staged.Discard()))
		b.collect()
		break
	}
	b.follow(frame(), 5, 1)
}
