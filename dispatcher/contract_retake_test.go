// SPDX-License-Identifier: Apache-2.0

package dispatcher

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/xdpd/xdpd/internal/netif"
	"github.com/xdpd/xdpd/internal/netif/nettest"
)

// mountedBench is a bench whose folder is in a BPF FS that is mounted somewhere, with a chain of two members and two more
// programs, one of them with maps for a group. All is learned.
func mountedBench(t *testing.T) (b *bench, mount string) {
	t.Helper()
	mount = t.TempDir()
	t.Cleanup(func() {
		for unix.Unmount(mount, unix.MNT_DETACH) == nil { // a test mounts there, too
		}
	})
	mountAt(t, mount)
	b = newBench(t)
	b.check(errors.Join(b.plane.Teardown(), b.plane.Close()))
	var err error
	b.plane, err = Open(filepath.Join(mount, "xdpd"), testLinker())
	b.check(err)
	p := b.steps(2)
	b.run(b.plan(all(passing, p...)...))
	b.load("tail", "caller")
	b.loadAs(Load{Object: object(t, "step", ""), GID: 1234})
	b.learn()
	for id := uint64(1); id <= b.programs; id++ {
		b.check(b.plane.LearnProgram(id))
	}
	return b, mount
}

func mountAt(t *testing.T, dir string) {
	t.Helper()
	if err := unix.Mount("bpf", dir, "bpf", 0, ""); err != nil {
		t.Fatal(err)
	}
}

// lostFolder fails the test unless the folder is lost, for a reason with these words.
func (b *bench) lostFolder(words ...string) {
	b.Helper()
	err := b.plane.Folder()
	if !errors.Is(err, ErrFolderLost) {
		b.Fatalf("Folder gives %v, want ErrFolderLost", err)
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			b.Errorf("the error %q says nothing of %q", err, word)
		}
	}
}

// retake fails the test unless so many pins are rescued.
func (b *bench) retake(want int) {
	b.Helper()
	b.atRest("Retake", func() {
		rescued, err := b.plane.Retake()
		b.check(err)
		if rescued != want {
			b.Errorf("%d pins were rescued, want %d", rescued, want)
		}
		b.check(b.plane.Folder())
	})
}

func pinsIn(found map[string]pinned) (n int) {
	for _, is := range found {
		if is.id != 0 {
			n++
		}
	}
	return n
}

// TestContractRetake loses the folder under traffic in every way that leaves its pins alive: all of them are in the new one,
// and not a packet is lost.
func TestContractRetake(t *testing.T) {
	for name, c := range map[string]struct {
		lose  func(b *bench, mount string)
		words []string
	}{
		"unmounted": {func(b *bench, mount string) {
			b.check(unix.Unmount(mount, unix.MNT_DETACH))
			b.lostFolder("unmounted", "mount -t bpf bpf")
			if _, err := b.plane.Retake(); !errors.Is(err, ErrFolderLost) || !strings.Contains(err.Error(), "mount -t bpf bpf") {
				b.Errorf("Retake without a BPF FS gives %v", err)
			}
			mountAt(b.T, mount)
		}, nil},
		"mounted over": {func(b *bench, mount string) { mountAt(b.T, mount) }, []string{"mounted another BPF FS"}},
		"renamed": {func(b *bench, mount string) {
			b.check(os.Rename(b.plane.Root(), b.plane.Root()+"-away"))
		}, []string{"renamed"}},
		"replaced": {func(b *bench, mount string) {
			b.check(os.Rename(b.plane.Root(), b.plane.Root()+"-away"))
			b.check(os.MkdirAll(filepath.Join(b.plane.Root(), "chains", "1-1"), 0o700))
			if rescued, err := b.plane.Retake(); err == nil || !strings.Contains(err.Error(), "not empty") {
				b.Errorf("Retake with another folder in place rescued %d pins, %v", rescued, err)
			}
			b.check(os.RemoveAll(filepath.Join(b.plane.Root(), "chains")))
		}, []string{"another one in the place"}},
	} {
		if testing.Short() && len(c.words) > 0 {
			continue // the kernel does the same for the plane
		}
		t.Run(name, func(t *testing.T) {
			b, mount := mountedBench(t)
			s := b.startStream([][]byte{{1, 2}})
			defer s.end()
			before, live := b.everything(), b.live(b.revision)
			if n, err := b.plane.Retake(); n != 0 || err != nil {
				t.Errorf("Retake of a folder that is there rescued %d pins, %v", n, err)
			}
			c.lose(b, mount)
			b.lostFolder(c.words...)
			s.flows(t)
			b.retake(pinsIn(before))
			if now := b.everything(); !maps.Equal(now, before) {
				t.Errorf("the pins are %v, they were %v", now, before)
			}
			if now := b.live(b.revision); now != live {
				t.Errorf("live is %+v, was %+v", now, live)
			}
			if _, err := os.Lstat(b.plane.Root() + "-away"); err == nil {
				t.Error("the old folder is still there")
			}
			s.flows(t)
			b.damaged()
			if other, err := OpenForTeardown(b.plane.Root()); !errors.Is(err, ErrTaken) {
				t.Fatalf("another daemon gets %v, %v, want ErrTaken", other, err)
			}
			b.run(b.plan((&program{b, 1, object(t, "step", "")}).on(passing), (&program{b, 2, object(t, "step", "")}).on(passing)))
			b.damaged()
			b.check(s.end())
		})
	}
}

// TestContractRetakeOfRemoved removes the folder: only what somebody else holds is alive, and is found by its id.
func TestContractRetakeOfRemoved(t *testing.T) {
	b, _ := mountedBench(t)
	before := b.everything()
	held := []string{b.path("link")}
	if name, _ := b.plane.Linker(); name == Freplace {
		held = append(held, b.rev("slot-00"), b.rev("slot-01"))
	}
	for _, path := range held {
		b.hold(path)
	}
	s := b.startStream([][]byte{{1, 2}})
	defer s.end()
	b.check(os.RemoveAll(b.plane.Root()))
	b.lostFolder("removed")
	if n, err := b.plane.Retake(); n < len(held)+2 || err != nil { // the dispatcher and its counters are alive with the link
		t.Errorf("%d pins were rescued, %v", n, err)
	}
	s.flows(t)
	b.live(b.revision)
	b.damaged()
	now := b.everything()
	for path, was := range before {
		if strings.HasPrefix(path, "chains/") && now[path] != was {
			t.Errorf("%s is %+v, was %+v", path, now[path], was)
		}
	}
	b.check(s.end())
}

// TestPinsRetakeOfNothing removes the folder and all that is alive: the next chain is made in a new one.
func TestPinsRetakeOfNothing(t *testing.T) {
	once(t)
	b, _ := mountedBench(t)
	b.collect()
	b.check(os.RemoveAll(b.plane.Root()))
	b.until("the link is gone", func() bool { return b.xdp() == 0 })
	b.gone()
	b.lostFolder("removed")
	b.retake(0)
	p := &program{b, 1, object(t, "step", "")}
	_, err := b.plane.Load(p.asLoad())
	b.check(err)
	b.run(b.plan(p.on(passing)))
	b.damaged()
	b.follow(frame(), 3, 0)
}

// TestPinsRetakeFails leaves what was there where the new folder cannot be filled.
func TestPinsRetakeFails(t *testing.T) {
	once(t)
	b, _ := mountedBench(t)
	before := b.everything()
	root, away := b.plane.Root(), b.plane.Root()+"-away"
	b.check(os.Rename(root, away))
	// One pin belongs to a group, which takes a privilege.
	without(t, unix.CAP_CHOWN, func() {
		if n, err := b.plane.Retake(); n != 0 || !errors.Is(err, unix.EPERM) {
			t.Errorf("Retake without CAP_CHOWN rescued %d pins, %v", n, err)
		}
	})
	if _, err := os.Lstat(root); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("of the new folder is left: %v", err)
	}
	b.lostFolder("renamed")
	b.check(os.Rename(away, root))
	b.check(b.plane.Folder())
	if now := b.everything(); !maps.Equal(now, before) {
		t.Errorf("the pins are %v, they were %v", now, before)
	}
	b.follow(frame(), 3, 1, 2)
	b.damaged()
}

// TestPinsTeardownOfALostFolder renames the folder, and puts another one in its place: Teardown removes what it opened, and
// nothing else.
func TestPinsTeardownOfALostFolder(t *testing.T) {
	for name, replaced := range map[string]bool{"renamed": false, "replaced": true} {
		t.Run(name, func(t *testing.T) {
			b, _ := mountedBench(t)
			root := b.plane.Root()
			b.check(os.Rename(root, root+"-away"))
			other := filepath.Join(root, "chains", "1-1")
			if replaced {
				b.check(os.MkdirAll(other, 0o700))
			}
			b.atRest("Teardown", func() { b.check(b.plane.Teardown()) })
			if _, err := os.Lstat(root + "-away"); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the folder is there still: %v", err)
			}
			if _, err := os.Lstat(other); (err == nil) != replaced {
				t.Errorf("what is in its place: %v", err)
			}
			nettest.RunIn(b.ns, func() {
				nic, err := netif.ByIndex("", b.dev.Ifindex)
				b.check(err)
				if nic.XDP.ID != 0 {
					t.Errorf("the interface has program %d", nic.XDP.ID)
				}
			})
			b.check(errors.Join(os.RemoveAll(root), b.plane.Close()))
			var err error
			b.plane, err = Open(root, testLinker())
			b.check(err)
		})
	}
}
