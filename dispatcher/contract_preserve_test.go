// SPDX-License-Identifier: Apache-2.0

package dispatcher

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestContractLinkOfAnother moves the pin of one interface's link over that of another's, or exchanges the two. Whatever is done
// first to the other interface, the link goes on, and has a pin in its own place again.
func TestContractLinkOfAnother(t *testing.T) {
	for _, how := range []string{"moved", "exchanged", "moved, and something else in its place"} {
		for what, do := range map[string]func(b *bench, d Device) error{
			"Stage": func(b *bench, d Device) error {
				staged, err := b.stage(d, b.plan())
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
				b.ns.AddPair(t, "xdev7", "xdev7p")
				other := Device{Netns: b.dev.Netns, Ifindex: b.ns.Index(t, "xdev7")}
				p := b.load("step", "")
				b.run(b.plan(p.on(passing)))
				b.runOn(other, b.plan(p.on(passing)))
				b.check(errors.Join(b.plane.Learn(b.dev), b.plane.Learn(other)))
				b.collect()
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
				if err := do(b, other); err != nil && !(what == "Stage" && how == "exchanged" && errors.Is(err, ErrBusy)) { // its own link is at work
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
