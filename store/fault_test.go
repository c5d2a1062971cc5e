// SPDX-License-Identifier: Apache-2.0

package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

// TestFault cuts the file off while it is open and mapped: reading what is gone faults. What is in memory is still told.
func TestFault(t *testing.T) {
	for name, use := range map[string]func(*Store) error{
		"object":  func(s *Store) error { _, err := s.Object(hashOf([]byte("one"))); return err },
		"history": func(s *Store) error { _, err := s.History("eth0", 1); return err },
		"entry":   func(s *Store) error { _, _, err := s.HistoryEntry("eth0", 1); return err },
		"save":    func(s *Store) error { return s.Save(Change{BootID: "x"}) },
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "xdpd.db")
			s := openAt(t, path)
			a := program(1, "a", "one")
			must(t, s.Save(Change{BootID: "boot", PutPrograms: []Program{a}, Objects: objects("one")}))
			must(t, os.Truncate(path, 0))
			err := use(s)
			if !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), path) {
				t.Fatal(err)
			}
			_, again := s.Object(a.Object)
			for i, again := range []error{s.Save(Change{BootID: "y"}), s.Problem(), s.Check(), again} {
				if again == nil || again.Error() != err.Error() {
					t.Errorf("and then %d: %v", i, again)
				}
			}
			programs, err := s.Programs()
			if id, err2 := s.BootID(); err != nil || err2 != nil || id != "boot" || !reflect.DeepEqual(programs, []Program{a}) {
				t.Errorf("and memory has %+v, %q, %v, %v", programs, id, err, err2)
			}
			must(t, s.Close())
			must(t, s.Close())
			must(t, os.Remove(path))
			must(t, makeStore(path, 0o600)) // the lock is free
		})
	}
}

// TestSlowDisk: while a change takes its time, all that can be read is read as it was.
func TestSlowDisk(t *testing.T) {
	s := newStore(t)
	a := program(1, "a", "one")
	must(t, s.Save(Change{
		PutPrograms: []Program{a}, Objects: objects("one"), PutHistory: []Entry{entryOf(t, "eth0", 1, a)}, HistoryLimit: 1,
		PutChains: []Chain{chainOf(t, "eth0", 1, a)}, PutLeases: []Lease{leaseOf(1)}, PutPending: []Pending{pendingOf(t, 1, "eth1")},
	}))
	before := mustRead(t, s, "eth0", "eth1")
	begun, goOn, done := make(chan bool), make(chan bool), make(chan error)
	go func() {
		done <- s.write(t.Context(), "slowly change", func(x *tx) error {
			err := x.apply(Change{PutPrograms: []Program{program(2, "a", "two")}, Objects: objects("two"), DeleteChains: []string{"eth0"}})
			close(begun)
			<-goOn
			return err
		})
	}()
	<-begun
	if is := mustRead(t, s, "eth0", "eth1"); !reflect.DeepEqual(is, before) {
		t.Errorf("%+v\nwant %+v", is, before)
	}
	if err := s.Problem(); err != nil {
		t.Error(err)
	}
	late, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("no time"))
	if err := s.SaveWithin(late, Change{BootID: "late"}); err == nil || !strings.Contains(err.Error(), "no time") || !strings.Contains(err.Error(), s.Path()) {
		t.Errorf("a change without time: %v", err)
	}
	if err := s.Verify(late); err == nil || !strings.Contains(err.Error(), "no time") || !strings.Contains(err.Error(), s.Path()) {
		t.Errorf("a look without time: %v", err)
	}
	close(goOn)
	must(t, <-done)
	if p, _, err := s.Program("a"); err != nil || p.ID != 2 {
		t.Errorf("%+v, %v", p, err)
	}
	if chains, err := s.Chains(); err != nil || len(chains) != 0 {
		t.Errorf("%+v, %v", chains, err)
	}
}

// TestVerify finds what was written to the file past the store at once, though its times are as they were, and is the end of it.
func TestVerify(t *testing.T) {
	s := openAt(t, filepath.Join(t.TempDir(), "xdpd.db"))
	must(t, s.Save(Change{BootID: "was"}))
	must(t, s.Verify(t.Context()))
	_, err := s.file.WriteAt(make([]byte, 2*os.Getpagesize()), 0)
	must(t, err)
	s.seen, err = stampOf(s.file) // as if no time told of it
	must(t, err)
	s.seen.verified = time.Now()
	if err := s.Problem(); err != nil {
		t.Errorf("known without a look: %v", err)
	}
	first := s.Verify(t.Context())
	for _, err := range []error{first, s.Verify(t.Context()), s.Problem(), s.Save(Change{BootID: "is"})} {
		if !errors.Is(err, ErrDamaged) || err.Error() != first.Error() {
			t.Errorf("%v, want %v", err, first)
		}
	}
	must(t, s.Close())
	if err := s.Verify(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("a store that is closed: %v", err)
	}
}

// A goroutine that faults may leave a lock of bbolt locked. Whoever waits for it does not wait for ever.
func TestFaultLeavesALock(t *testing.T) {
	s := openAt(t, filepath.Join(t.TempDir(), "xdpd.db"))
	s.fault.patience = time.Millisecond
	begun, never, done := make(chan bool), make(chan bool), make(chan error)
	go func() {
		done <- s.guarded("wait for", func() error { close(begun); <-never; return nil })
	}()
	<-begun
	err := s.guarded("fault in", func() error { panic("fault") })
	if got := <-done; !errors.Is(err, ErrDamaged) || got == nil || got.Error() != err.Error() {
		t.Errorf("%v, then %v", err, got)
	}
	close(never)
}

func TestDeletedAndReplaced(t *testing.T) {
	s := newStore(t)
	path, away := s.Path(), s.Path()+".away"
	must(t, s.Save(Change{BootID: "was"}))
	refused := func(what string) {
		t.Helper()
		for _, err := range []error{s.Save(Change{BootID: "is"}), s.Problem(), s.Verify(t.Context())} {
			if !errors.Is(err, ErrGone) || !strings.Contains(err.Error(), what) || !strings.Contains(err.Error(), path) {
				t.Errorf("%v, want %q in it", err, what)
			}
		}
		if id, err := s.BootID(); err != nil || id != "was" {
			t.Errorf("%q, %v", id, err)
		}
	}
	must(t, os.Rename(path, away))
	refused("it was deleted")
	must(t, makeStore(path, 0o600))
	refused("another file was put in its place")
	must(t, os.Remove(path))
	must(t, os.Rename(away, path)) // the same file: all is well again
	must(t, s.Problem())
	must(t, s.Verify(t.Context()))
	must(t, s.Save(Change{BootID: "is"}))
	must(t, os.Remove(path))
	refusal := s.Save(Change{BootID: "never"})
	if !errors.Is(refusal, ErrGone) {
		t.Fatal(refusal)
	}
	// The error says how to get the file back.
	from := fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), s.file.Fd())
	if !strings.Contains(refusal.Error(), "cp "+from+" "+path) {
		t.Errorf("%v, want %s in it", refusal, from)
	}
	content, err := os.ReadFile(from)
	must(t, err)
	must(t, os.WriteFile(path, content, 0o600))
	must(t, s.Close())
	again := openAt(t, path)
	if id, err := again.BootID(); err != nil || id != "is" {
		t.Errorf("%q, %v", id, err)
	}
}

// scribble changes bytes of a file that is open, and sees to it that its times tell.
func scribble(t *testing.T, path string, content []byte, change func([]byte)) {
	t.Helper()
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	must(t, err)
	defer file.Close()
	before, err := stampOf(file)
	must(t, err)
	bad := bytes.Clone(content)
	change(bad)
	for after := before; after.mtime == before.mtime; { // of coarse grain before Linux 6.13
		for at := range bad {
			if bad[at] != content[at] {
				_, err := file.WriteAt(bad[at:at+1], int64(at))
				must(t, err)
			}
		}
		after, err = stampOf(file)
		must(t, err)
	}
}

// TestScribble flips bits of the file while it is open: that must not end the process, and nothing wrong is told or
// written: what can be opened afterwards is what was saved.
func TestScribble(t *testing.T) {
	_, content, _, was := sample(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	pageSize := os.Getpagesize()
	saved, refused, opened := 0, 0, 0
	for i := range 150 / rarely {
		what := fmt.Sprintf("seed %d, damage %d", seed, i)
		path := filepath.Join(t.TempDir(), "xdpd.db")
		must(t, os.WriteFile(path, content, 0o600))
		s, err := Open(path)
		must(t, err)
		scribble(t, path, content, func(bad []byte) {
			for range 1 + r.IntN(8) {
				at := r.IntN(len(bad))
				if r.IntN(3) > 0 {
					at = r.IntN(len(bad)/pageSize)*pageSize + r.IntN(200)
				}
				bad[at] ^= 1 << r.IntN(8)
			}
		})
		want := was
		if err := s.Save(Change{BootID: "another"}); err == nil {
			saved++
			want.BootID = "another"
		} else if refused++; !errors.Is(err, ErrDamaged) {
			t.Fatalf("%s: %v", what, err)
		}
		got, err := s.Programs()
		if err != nil || !reflect.DeepEqual(got, want.Programs) {
			t.Fatalf("%s: %+v, %v", what, got, err)
		}
		must(t, s.Close())
		if s, err := Open(path); err == nil {
			opened++
			got, err := read(s)
			got.Objects = want.Objects
			if err != nil || !reflect.DeepEqual(got, want) {
				t.Fatalf("%s: %v\n%+v\nwant %+v", what, err, got, want)
			}
			must(t, s.Close())
		} else if !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrNewer) {
			t.Fatalf("%s: %v", what, err)
		}
		must(t, os.Remove(path))
	}
	t.Logf("%d saved, %d refused, %d opened", saved, refused, opened)
	if saved == 0 || refused < 10/rarely || opened == 0 {
		t.Errorf("seed %d: the dice are loaded", seed)
	}
}

// Another store's content in the same file is not mixed with what is in memory.
func TestOverwritten(t *testing.T) {
	_, content, _, _ := sample(t)
	s := openAt(t, filepath.Join(t.TempDir(), "xdpd.db"))
	must(t, s.Save(Change{BootID: "was"}))
	was, err := os.ReadFile(s.Path())
	must(t, err)
	long := make([]byte, len(content))
	copy(long, was)
	must(t, os.Truncate(s.Path(), int64(len(content))))
	scribble(t, s.Path(), long, func(b []byte) { copy(b, content) })
	if err := s.Save(Change{BootID: "is"}); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "other records") {
		t.Error(err)
	}
	if left, err := os.ReadFile(s.Path()); err != nil || !bytes.Equal(left, content) {
		t.Errorf("it was written to, %v", err)
	}
}
