// SPDX-License-Identifier: Apache-2.0

package store

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/xdpd/xdpd/chain"
	"github.com/xdpd/xdpd/internal/leaktest"
)

// TestMain sees to it that no test leaves a goroutine or an open file behind.
func TestMain(m *testing.M) {
	before := openFiles()
	code := m.Run()
	if code == 0 {
		err := leaktest.Find()
		if left := openFiles() - before; left > 0 {
			err = errors.Join(err, fmt.Errorf("%d files were left open", left))
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// openFiles counts this process's descriptors of regular files.
func openFiles() int {
	n := 0
	links, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		panic(err)
	}
	for _, link := range links {
		if info, err := os.Stat(link); err == nil && info.Mode().IsRegular() {
			n++
		}
	}
	return n
}

func openAt(t *testing.T, path string) *Store {
	t.Helper()
	s, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// newStore returns an empty store that is checked at the end of the test.
func newStore(t *testing.T) *Store {
	t.Helper()
	s := openAt(t, filepath.Join(t.TempDir(), "xdpd.db"))
	t.Cleanup(func() {
		if err := s.Check(); err != nil && !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
	})
	return s
}

func reopen(t *testing.T, s *Store) *Store {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return openAt(t, s.Path())
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// state is everything that a store tells.
type state struct {
	Programs  []Program
	Chains    []Chain
	BootID    string
	Revisions map[string]uint64
	History   []Entry // of all interfaces
	Pending   []Pending
	Leases    []Lease
	Objects   map[string]string
}

// read returns the state; objects that are damaged are missing from it.
func read(s *Store, ifaces ...string) (state, error) {
	st := state{Revisions: map[string]uint64{}, Objects: map[string]string{}}
	var err1, err2, err3, err4, err5, err6 error
	st.Programs, err1 = s.Programs()
	st.Chains, err2 = s.Chains()
	st.BootID, err3 = s.BootID()
	err4 = s.view(func(x *bolt.Tx) error {
		return each(x, bucketHistory, func(_ string, e Entry) error { st.History = append(st.History, e); return nil })
	})
	st.Pending, err5 = s.Pending()
	st.Leases, err6 = s.Leases()
	if err := errors.Join(err1, err2, err3, err4, err5, err6); err != nil {
		return st, err
	}
	programs := slices.Clone(st.Programs)
	for _, e := range st.History {
		programs = append(programs, e.Programs...)
	}
	for _, p := range st.Pending {
		programs = append(programs, p.Programs...)
	}
	slices.SortFunc(programs, func(a, b Program) int { return cmp.Compare(a.Object, b.Object) })
	for _, p := range slices.CompactFunc(programs, func(a, b Program) bool { return a.Object == b.Object }) {
		object, err := s.Object(p.Object)
		if err != nil && !errors.Is(err, ErrDamaged) {
			return st, err
		}
		if err == nil {
			st.Objects[p.Object] = string(object)
		}
	}
	for _, iface := range ifaces {
		n, err := s.LastRevision(iface)
		if err != nil {
			return st, err
		}
		st.Revisions[iface] = n
	}
	return st, nil
}

func mustRead(t *testing.T, s *Store, ifaces ...string) state {
	t.Helper()
	st, err := read(s, ifaces...)
	must(t, err)
	return st
}

// program makes a program and its object.
func program(id uint64, name, object string) Program {
	return Program{
		ID: id, Name: name, Function: "xdp_" + name, Object: hashOf([]byte(object)), Size: uint64(len(object)),
		Lifetime: "daemon", Added: time.Unix(1_700_000_000, 12345).UTC(), OwnerUID: 1000,
		Settings: chain.Settings{Globals: map[string]string{"limit": fmt.Sprint(id)}},
	}
}

// leaseOf makes a lease.
func leaseOf(id uint64) Lease {
	return Lease{ID: id, Token: fmt.Sprint("token ", id), Holder: Caller{UID: 1000, PID: 4711}, Grace: time.Duration(id) * time.Second}
}

// leased makes a program of a lease.
func leased(p Program, lease uint64) Program {
	p.Lifetime, p.Lease = "lease", lease
	return p
}

func objects(contents ...string) map[string][]byte {
	m := map[string][]byte{}
	for _, c := range contents {
		m[hashOf([]byte(c))] = []byte(c)
	}
	return m
}

// chainOf makes a chain of programs, loaded as the revision.
func chainOf(t *testing.T, iface string, revision uint64, programs ...Program) Chain {
	t.Helper()
	c := Chain{Interface: iface, Ifindex: 7, Chain: chain.New(), Revision: revision, Actual: chain.Native, Linker: "inline"}
	r := Revision{Number: revision}
	for _, p := range programs {
		next, err := c.Chain.Insert(chain.Member{Program: p.Name, ProceedOn: chain.Of(chain.Pass)}, nil, chain.Position{})
		must(t, err)
		c.Chain = next
		r.Slots = append(r.Slots, Slot{Program: p.Name, ProgramID: p.ID})
	}
	c.Revisions = []Revision{r}
	return c
}

// entryOf makes an entry of the history with a chain of the programs.
func entryOf(t *testing.T, iface string, revision uint64, programs ...Program) Entry {
	t.Helper()
	return Entry{
		Interface: iface, Revision: revision, Chain: chainOf(t, iface, revision, programs...).Chain, Programs: programs,
		Time: time.Unix(1_700_000_000+int64(revision%1000), 0).UTC(), Caller: Caller{UID: 1000, PID: 4711},
		What: "change " + iface, Comment: "because", Diff: []string{"+ this", "- that"},
	}
}

// pendingOf makes a pending change of an interface that had a chain of the programs, which it keeps.
func pendingOf(t *testing.T, id uint64, iface string, kept ...Program) Pending {
	t.Helper()
	before := chainOf(t, iface, 1, kept...).Chain
	return Pending{
		ID: id, BootID: "boot", Deadline: time.Minute, Chains: []PendingChain{{Interface: iface, Before: &before}},
		Programs: kept, Caller: Caller{UID: 1000, PID: 4711}, What: "change " + iface,
	}
}

// references reads the reference counts, and sees to it that there is an object for each and none else.
func references(t *testing.T, s *Store) map[string]uint64 {
	t.Helper()
	counts := map[string]uint64{}
	must(t, s.view(func(x *bolt.Tx) error {
		objects := 0
		err := x.Bucket([]byte(bucketObjects)).ForEach(func(k, _ []byte) error {
			objects++
			n, err := getNumber(x, bucketRefs, string(k))
			counts[string(k)] = n
			return err
		})
		if n := x.Bucket([]byte(bucketRefs)).Stats().KeyN; n != objects {
			t.Errorf("%d objects, and %d reference counts", objects, n)
		}
		return err
	}))
	return counts
}

// tamper changes records behind the back of Save, with a digest that fits.
func tamper(t *testing.T, s *Store, fn func(*tx) error) {
	t.Helper()
	must(t, s.write(t.Context(), "tamper with", fn))
}
