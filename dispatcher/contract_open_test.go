// SPDX-License-Identifier: Apache-2.0

package dispatcher

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/xdpd/xdpd/chain"
)

// TestContractFolder refuses folders that are not the plane's.
func TestContractFolder(t *testing.T) {
	root := filepath.Join(testFS, "folder")
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		root string
		make func()
		want string
	}{
		"not a BPF FS":    {filepath.Join(t.TempDir(), "xdpd"), func() {}, "mount -t bpf"},
		"nowhere":         {filepath.Join(testFS, "nosuch", "xdpd"), func() {}, "mount -t bpf"},
		"wrong mode":      {root, func() { check(os.Mkdir(root, 0o755)) }, "-rwxr-xr-x"},
		"for all to read": {root, func() { check(os.Mkdir(root, 0o744)) }, "-rwxr--r--"},
		"foreign entry":   {root, func() { check(os.MkdirAll(root+"/theirs", 0o700)) }, `"theirs"`},
		"foreign user":    {root, func() { check(errors.Join(os.Mkdir(root, 0o700), os.Chown(root, 12345, 0))) }, "uid 12345"},
		"a link to ours":  {root, func() { check(errors.Join(os.Mkdir(root+"-real", 0o700), os.Symlink(root+"-real", root))) }, "not xdpd's"},
		"a file in place": {root, func() { pinSomething(t, root) }, "not xdpd's"},
	} {
		t.Run(name, func(t *testing.T) {
			c.make()
			t.Cleanup(func() { check(errors.Join(os.RemoveAll(root), os.RemoveAll(root+"-real"))) })
			before := folderOf(t, root)
			p, err := Open(c.root, testLinker())
			if err == nil {
				t.Fatal(errors.Join(errors.New("the folder was taken"), p.Teardown(), p.Close()))
			}
			if !strings.Contains(err.Error(), strings.TrimPrefix(c.want, "-")) {
				t.Errorf("the error is %q, and says nothing of %q", err, c.want)
			}
			if now := folderOf(t, root); !slices.Equal(now, before) {
				t.Errorf("the folder is %q, was %q", now, before)
			}
		})
	}
}

func pinSomething(t *testing.T, path string) {
	t.Helper()
	m, err := newCounters()
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if err := m.Pin(path); err != nil {
		t.Fatal(err)
	}
}

func folderOf(t *testing.T, root string) (entries []string) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		entries = append(entries, path, info.Mode().String())
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return entries
}

// TestContractOpenTwice says that a folder has one owner at a time, and the next finds what runs.
func TestContractOpenTwice(t *testing.T) {
	b := newBench(t)
	p := b.load("step", "")
	b.run(b.plan(p.on(passing)))
	live := b.live(1)
	b.atRest("Open of a taken folder", func() {
		for range 2 {
			if other, err := Open(b.plane.Root(), testLinker()); !errors.Is(err, ErrTaken) {
				t.Fatalf("Open gives %v, %v, want ErrTaken", other, err)
			}
			if other, err := OpenForTeardown(b.plane.Root()); !errors.Is(err, ErrTaken) {
				t.Fatalf("OpenForTeardown gives %v, %v, want ErrTaken", other, err)
			}
		}
	})
	b.check(b.plane.Close())
	b.follow(frame(), 5, 1)
	b.atRest("Open", func() {
		var err error
		b.plane, err = Open(b.plane.Root(), testLinker())
		b.check(err)
	})
	if now := b.live(1); now != live {
		t.Errorf("live is %+v in the next process, was %+v", now, live)
	}
	ids, err := b.plane.Programs()
	b.check(err)
	if !slices.Equal(ids, []uint64{p.id}) {
		t.Errorf("the programs are %v", ids)
	}
	b.exits(1, 5)
	b.run(b.plan(p.on(passing), p.on(passing)))
	b.follow(frame(), 5, 1, 1)
}

// TestLockOfRemovedFolder says that a folder is not taken by a lock of one that another daemon has removed since it
// was opened.
func TestLockOfRemovedFolder(t *testing.T) {
	root := filepath.Join(testFS, "folder")
	t.Cleanup(func() { os.RemoveAll(root) })
	for _, replaced := range []bool{false, true} {
		p, err := OpenForTeardown(root)
		if err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(root)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := lockInPlace(f); !errors.Is(err, ErrTaken) {
			t.Errorf("a lock of a taken folder gives %v", err)
		}
		if err := errors.Join(p.Teardown(), p.Close()); err != nil {
			t.Fatal(err)
		}
		if replaced {
			if p, err = OpenForTeardown(root); err != nil {
				t.Fatal(err)
			}
		}
		if err := lockInPlace(f); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("a lock of a removed folder gives %v", err)
		}
		if replaced {
			if err := errors.Join(p.Teardown(), p.Close()); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestTakeWhileRemoved has daemons that take the folder and remove it, each as soon as it can: one at a time has it.
func TestTakeWhileRemoved(t *testing.T) {
	root := filepath.Join(testFS, "folder")
	var owners atomic.Int32
	var daemons sync.WaitGroup
	for range 3 {
		daemons.Go(func() {
			for taken := 0; taken < 100; {
				p, err := OpenForTeardown(root)
				if errors.Is(err, ErrTaken) || errors.Is(err, fs.ErrNotExist) { // others removed it at each attempt
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				taken++
				if n := owners.Add(1); n != 1 {
					t.Errorf("%d daemons have the folder", n)
				}
				names, err := readDir(root)
				if err != nil || !slices.Equal(names, []string{"chains", "programs"}) {
					t.Errorf("who has the folder finds %q in it, %v", names, err)
				}
				owners.Add(-1)
				if err := errors.Join(p.Teardown(), p.Close()); err != nil {
					t.Error(err)
				}
			}
		})
	}
	daemons.Wait()
}

func TestContractUnknownLinker(t *testing.T) {
	root := filepath.Join(testFS, "folder")
	p, err := Open(root, "magic")
	if err == nil || !strings.Contains(err.Error(), "auto, freplace or inline") {
		t.Errorf("Open gives %v, %v", p, err)
	}
	p, err = OpenForTeardown(root) // the folder is not held any more
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(p.Teardown(), p.Close()); err != nil {
		t.Error(err)
	}
}

// TestContractLinkerChange opens a plane with the other linker than what runs was linked with: all goes on, and
// the next revision is linked from the same programs, with their maps.
func TestContractLinkerChange(t *testing.T) {
	b := newBench(t)
	var linkers []string
	for _, p := range b.plane.Probes() {
		if p.Works {
			linkers = append(linkers, p.Name)
		}
	}
	first, _ := b.plane.Linker()
	slices.SortFunc(linkers, func(a, _ string) int {
		if a == first {
			return -1
		}
		return 1
	})
	t.Logf("linkers: %v", linkers)
	p, q := b.load("step", ""), b.load("many", "tag")
	for i, linker := range append(linkers, linkers...) {
		b.check(b.plane.Close())
		var err error
		b.plane, err = Open(b.plane.Root(), linker)
		b.check(err)
		if name, _ := b.plane.Linker(); name != linker {
			t.Fatalf("asked for linker %s, got %s", linker, name)
		}
		if i > 0 {
			b.live(b.revision)
			b.follow(frame(), 2, 1, 1)
		}
		b.run(b.plan(all(passing, p, q, p)...))
		b.follow(frame(), 3, 1, 1)
		b.exits(3, 3)
	}
	if want := uint64(2*(5*2*len(linkers)) - 2*2); p.state().Seen != want {
		t.Errorf("the member saw %d packets over all linkers, want %d", p.state().Seen, want)
	}
}

// TestContractLinkerChangeWithTailCalls has a program whose tail calls work with the linker that loaded it only,
// since an array of programs serves one kind of them for ever. It goes on to run; the other linker refuses it with
// the way out, and takes it when it is loaded anew.
func TestContractLinkerChangeWithTailCalls(t *testing.T) {
	b := newBench(t)
	name, _ := b.plane.Linker()
	p := b.load("tail", "caller")
	b.run(b.plan(p.on(passing)))
	b.follow(frame(), 3, 1, 1)
	for _, other := range b.plane.Probes() {
		if other.Name == name || !other.Works {
			continue
		}
		b.check(b.plane.Close())
		var err error
		b.plane, err = Open(b.plane.Root(), other.Name)
		b.check(err)
		live := b.live(b.revision)
		b.follow(frame(), 3, 1, 1)
		staged, err := b.stage(b.dev, b.plan(p.on(passing)))
		if err == nil { // this kernel does not mind
			b.check(staged.Discard())
		} else if e := reason(t, err, chain.LinkRejected, p.name(), "add it again"); e.Facts["program"] != p.name() {
			t.Errorf("the facts are %v", e.Facts)
		}
		b.live(live.Revision)
		b.follow(frame(), 3, 1, 1)
		again := b.load("tail", "caller")
		b.run(b.plan(again.on(passing)))
		b.follow(frame(), 3, 2, 2)
	}
}
