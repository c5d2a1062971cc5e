// SPDX-License-Identifier: Apache-2.0

package store

import (
	"errors"
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"
)

// revisionsOf returns the revisions that the history of an interface tells, newest first.
func revisionsOf(t *testing.T, s *Store, iface string, limit int) []uint64 {
	t.Helper()
	entries, err := s.History(iface, limit)
	must(t, err)
	revisions := []uint64{}
	for _, e := range entries {
		if e.Interface != iface {
			t.Errorf("the history of %s has an entry of %s", iface, e.Interface)
		}
		revisions = append(revisions, e.Revision)
	}
	return revisions
}

func expectHistory(t *testing.T, s *Store, iface string, limit int, want ...uint64) {
	t.Helper()
	if got := revisionsOf(t, s, iface, limit); !reflect.DeepEqual(got, append([]uint64{}, want...)) {
		t.Errorf("the history of %s, up to %d: %v, want %v", iface, limit, got, want)
	}
}

func TestHistoryRoundTrip(t *testing.T) {
	s := newStore(t)
	a, b := program(1, "a", "one"), program(2, "b", "two")
	e := entryOf(t, "eth0", 300, a, b)
	e.Chain.Members[1].Disabled = true
	none := entryOf(t, "eth0", 301)
	must(t, s.Save(Change{PutHistory: []Entry{none, e}, Objects: objects("one", "two"), HistoryLimit: 32}))
	for range 2 {
		if got, err := s.History("eth0", 32); err != nil || !reflect.DeepEqual(got, []Entry{none, e}) {
			t.Errorf("%+v, %v", got, err)
		}
		if got, found, err := s.HistoryEntry("eth0", 300); err != nil || !found || !reflect.DeepEqual(got, e) {
			t.Errorf("%+v, %v, %v", got, found, err)
		}
		if object, err := s.Object(b.Object); err != nil || string(object) != "two" {
			t.Errorf("%q, %v", object, err)
		}
		s = reopen(t, s)
	}
	for _, k := range []EntryKey{{"eth0", 302}, {"eth", 300}, {"eth00", 300}, {"", 0}} {
		if _, found, err := s.HistoryEntry(k.Interface, k.Revision); found || err != nil {
			t.Errorf("%v: %v, %v", k, found, err)
		}
	}
	if n, err := s.LastRevision("eth0"); n != 301 || err != nil {
		t.Errorf("the last revision is %d, %v", n, err)
	}
	if id := s.NextProgramID(); id != 3 {
		t.Errorf("the next program's id is %d", id)
	}
}

// Names that are the beginning of each other, and revisions whose keys sort otherwise as text, must not mix.
func TestHistoryOrder(t *testing.T) {
	s := newStore(t)
	for _, iface := range []string{"eth0", "eth", "eth0\x01", "eth00", "eth0.1"} {
		for _, n := range []uint64{10, 9, 256, 1 << 40, 255} {
			must(t, s.Save(Change{PutHistory: []Entry{entryOf(t, iface, n)}, HistoryLimit: 9}))
		}
	}
	for _, iface := range []string{"eth0", "eth", "eth0\x01", "eth00", "eth0.1"} {
		expectHistory(t, s, iface, 9, 1<<40, 256, 255, 10, 9)
	}
	expectHistory(t, s, "eth0", 2, 1<<40, 256)
	expectHistory(t, s, "eth0", 0)
	expectHistory(t, s, "et", 9)
}

func TestHistoryLimit(t *testing.T) {
	s := newStore(t)
	save := func(limit int, revisions ...uint64) {
		t.Helper()
		c := Change{HistoryLimit: limit}
		for _, n := range revisions {
			c.PutHistory = append(c.PutHistory, entryOf(t, "eth0", n))
		}
		must(t, s.Save(c))
	}
	must(t, s.Save(Change{PutHistory: []Entry{entryOf(t, "eth1", 1)}, HistoryLimit: 1}))
	for n := range uint64(6) {
		save(3, n+1)
	}
	expectHistory(t, s, "eth0", 3, 6, 5, 4)
	must(t, s.Save(Change{DeleteHistory: []EntryKey{{"eth0", 6}, {"eth0", 77}, {"eth7", 6}}})) // put back
	expectHistory(t, s, "eth0", 3, 5, 4, 3)
	save(3, 7)
	expectHistory(t, s, "eth0", 99, 7, 5, 4, 3)
	save(1, 8, 9, 10)
	expectHistory(t, s, "eth0", 99, 10, 9)
	save(1, 2) // older than all that are kept
	expectHistory(t, s, "eth0", 99, 10, 9)
	save(math.MaxInt, 11)
	expectHistory(t, s, "eth0", 99, 11, 10, 9)
	must(t, s.Save(Change{BootID: "boot", DeleteHistory: []EntryKey{{"eth0", 10}}})) // no new entry: no limit
	expectHistory(t, s, "eth0", 99, 11, 9)
	save(0, 12)
	expectHistory(t, s, "eth0", 99)
	expectHistory(t, s, "eth1", 99, 1)
}

// A new version of an entry takes the place of the old one, with its objects.
func TestHistoryReplaced(t *testing.T) {
	s := newStore(t)
	a, b := program(1, "a", "one"), program(2, "b", "two")
	must(t, s.Save(Change{PutHistory: []Entry{entryOf(t, "eth0", 1, a)}, Objects: objects("one"), HistoryLimit: 1}))
	must(t, s.Save(Change{PutHistory: []Entry{entryOf(t, "eth0", 1, b)}, Objects: objects("two"), HistoryLimit: 1}))
	expectHistory(t, s, "eth0", 9, 1)
	if got := references(t, s); !reflect.DeepEqual(got, map[string]uint64{b.Object: 1}) {
		t.Errorf("%v", got)
	}
}

// TestObjectsAreKept: an object goes with the last of a program, a history entry and a pending change that names it.
func TestObjectsAreKept(t *testing.T) {
	a := program(1, "a", "one")
	next := program(2, "a", "two")
	drops := []Change{
		{PutPrograms: []Program{next}, Objects: objects("two")},
		{DeleteHistory: []EntryKey{{"eth0", 1}}},
		{DeletePending: []uint64{1}},
	}
	for _, order := range [][]int{{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}} {
		t.Run(fmt.Sprint(order), func(t *testing.T) {
			s := newStore(t)
			must(t, s.Save(Change{PutPrograms: []Program{a}, Objects: objects("one", "nobody's")}))
			must(t, s.Save(Change{PutHistory: []Entry{entryOf(t, "eth0", 1, a)}, HistoryLimit: 3}))
			must(t, s.Save(Change{PutPending: []Pending{pendingOf(t, 1, "eth0", a)}}))
			for i, n := range order {
				if got := references(t, s)[a.Object]; got != uint64(3-i) {
					t.Errorf("%d references, want %d", got, 3-i)
				}
				must(t, s.Save(drops[n]))
				must(t, s.Check())
				if _, err := s.Object(a.Object); errors.Is(err, ErrNotFound) != (i == 2) {
					t.Errorf("after %d: %v", i, err)
				}
			}
		})
	}
}

// Pruning and a new entry that needs the same object happen in one Save, and an entry that goes at once needs none.
func TestObjectsOfPrunedEntries(t *testing.T) {
	s := newStore(t)
	a, b := program(1, "a", "one"), program(2, "b", "two")
	must(t, s.Save(Change{PutHistory: []Entry{entryOf(t, "eth0", 1, a), entryOf(t, "eth0", 2, b)}, Objects: objects("one", "two"), HistoryLimit: 1}))
	must(t, s.Save(Change{PutHistory: []Entry{entryOf(t, "eth0", 3, a)}, HistoryLimit: 1}))
	if got := references(t, s); !reflect.DeepEqual(got, map[string]uint64{a.Object: 1, b.Object: 1}) {
		t.Errorf("%v", got)
	}
	must(t, s.Save(Change{PutHistory: []Entry{entryOf(t, "eth0", 4, program(3, "c", "three"))}, HistoryLimit: 0}))
	if got := references(t, s); len(got) != 0 {
		t.Errorf("%v", got)
	}
}

func TestHistoryOfGoneInterfaces(t *testing.T) {
	s := newStore(t)
	a := program(1, "a", "one")
	must(t, s.Save(Change{
		PutPrograms: []Program{a}, Objects: objects("one"), PutChains: []Chain{chainOf(t, "live", 1, a)},
		PutHistory: []Entry{entryOf(t, "live", 1, a)}, HistoryLimit: 3,
	}))
	at := func(iface string, revision uint64, sec int64, programs ...Program) Entry {
		e := entryOf(t, iface, revision, programs...)
		e.Time = time.Unix(sec, 0).UTC()
		return e
	}
	for i := range maxGone {
		// The newest entry counts: what is before it is older for those that stay.
		iface, sec := fmt.Sprintf("gone%02d", i), int64(1000-i)
		must(t, s.Save(Change{PutHistory: []Entry{at(iface, 1, int64(i)), at(iface, 2, sec, a)}, HistoryLimit: 3}))
	}
	expectHistory(t, s, "gone63", 9, 2, 1)
	must(t, s.Save(Change{BootID: "x", DeleteHistory: []EntryKey{{"gone63", 1}}}))
	must(t, s.Save(Change{PutHistory: []Entry{at("new", 1, 2000)}, HistoryLimit: 3}))
	expectHistory(t, s, "gone63", 9)
	expectHistory(t, s, "gone62", 9, 2, 1)
	if n := references(t, s)[a.Object]; n != 2+maxGone-1 {
		t.Errorf("%d references", n)
	}
	// A chain that goes makes one more, and it is the oldest.
	must(t, s.Save(Change{DeleteChains: []string{"live"}, PutHistory: []Entry{at("live", 2, 5)}, HistoryLimit: 3}))
	expectHistory(t, s, "live", 9)
	expectHistory(t, s, "gone62", 9, 2, 1)
	// A chain that comes back makes one less.
	must(t, s.Save(Change{PutChains: []Chain{chainOf(t, "gone62", 3)}}))
	must(t, s.Save(Change{PutHistory: []Entry{at("newer", 1, 3000), at("newest", 1, 3000)}, HistoryLimit: 3}))
	expectHistory(t, s, "gone62", 9, 2, 1)
	expectHistory(t, s, "gone61", 9)
	must(t, s.Save(Change{DeleteChains: []string{"gone62"}}))
	expectHistory(t, s, "gone62", 9)
	expectHistory(t, s, "gone60", 9, 2, 1)
	expectHistory(t, s, "newest", 9, 1)
}

// A record that cannot be read keeps Save from forgetting, and all of the change is undone.
func TestUnreadableHistory(t *testing.T) {
	for name, bad := range map[string]uint64{"newest": 2, "oldest": 1} {
		t.Run(name, func(t *testing.T) {
			s := openAt(t, t.TempDir()+"/xdpd.db")
			c := Change{HistoryLimit: 1}
			for i := range maxGone {
				iface := fmt.Sprintf("gone%02d", i)
				c.PutHistory = append(c.PutHistory, entryOf(t, iface, 1), entryOf(t, iface, 2))
			}
			must(t, s.Save(c))
			tamper(t, s, func(x *tx) error { return x.put(bucketHistory, entryKey("gone00", bad), []byte("?")) })
			if err := s.Save(Change{PutHistory: []Entry{entryOf(t, "new", 3)}, HistoryLimit: 1}); err == nil || !strings.Contains(err.Error(), "gone00") {
				t.Error(err)
			}
			expectHistory(t, s, "new", 1)
			expectHistory(t, s, "gone01", 2, 2, 1)
		})
	}
}

func TestSaveInvalidHistory(t *testing.T) {
	a, b := program(1, "a", "one"), program(2, "b", "two")
	edit := func(f func(*Entry)) Change {
		e := entryOf(t, "eth0", 4, a, b)
		f(&e)
		return Change{PutHistory: []Entry{e}}
	}
	one := func(f func(*Program)) Change {
		return edit(func(e *Entry) { e.Programs = []Program{a, b}; f(&e.Programs[1]) })
	}
	twice := edit(func(*Entry) {})
	twice.PutHistory = append(twice.PutHistory, twice.PutHistory...)
	deleted := edit(func(*Entry) {})
	deleted.DeleteHistory = []EntryKey{{"eth0", 3}, {"eth0", 4}}
	long := strings.Repeat("x", 256)
	refuses(t, map[string]Change{
		"twice":                      twice,
		"put and deleted":            deleted,
		"limit":                      {HistoryLimit: -1},
		"no revision":                edit(func(e *Entry) { e.Revision = 0 }),
		"no interface":               edit(func(e *Entry) { e.Interface = "" }),
		"zero byte":                  edit(func(e *Entry) { e.Interface = "eth\x000" }),
		"interface's name":           edit(func(e *Entry) { e.Interface = "eth\xff" }),
		"long name":                  edit(func(e *Entry) { e.Interface = "/" + long[:250] + ":eth0" }),
		"pattern":                    edit(func(e *Entry) { e.Interface = "eth*" }),
		"chain":                      edit(func(e *Entry) { e.Chain.Mode = "fast" }),
		"member without program":     edit(func(e *Entry) { e.Programs = e.Programs[:1] }),
		"program that is no member":  edit(func(e *Entry) { e.Programs = []Program{a, program(3, "c", "two")} }),
		"program beyond the members": edit(func(e *Entry) { e.Chain.Members = e.Chain.Members[:1] }),
		"program twice":              edit(func(e *Entry) { e.Programs = []Program{a, a} }),
		"program without object":     one(func(p *Program) { p.Object = hashOf([]byte("three")) }),
		"object of another size":     one(func(p *Program) { p.Size = 2 }),
		"program without id":         one(func(p *Program) { p.ID = 0 }),
		"what":                       edit(func(e *Entry) { e.What = long }),
		"comment":                    edit(func(e *Entry) { e.Comment = "\xff" }),
		"long diff":                  edit(func(e *Entry) { e.Diff = make([]string, MaxDiff+1) }),
		"long line":                  edit(func(e *Entry) { e.Diff = []string{strings.Repeat("x", MaxDiffLine+1)} }),
		"line":                       edit(func(e *Entry) { e.Diff = []string{"\xff"} }),
	})
	largest := entryOf(t, strings.Repeat("n", MaxText-5)+":eth0", math.MaxUint64, a)
	largest.What, largest.Comment, largest.Diff = long[:MaxText], strings.Repeat("ä", 127), make([]string, MaxDiff)
	largest.Diff[7] = strings.Repeat("x", MaxDiffLine)
	s := newStore(t)
	must(t, s.Save(Change{PutHistory: []Entry{largest}, Objects: objects("one"), HistoryLimit: 1}))
	if got, err := s.History(largest.Interface, 1); err != nil || !reflect.DeepEqual(got, []Entry{largest}) {
		t.Errorf("%+v, %v", got, err)
	}
}

// refuses sees to it that each change is refused and leaves everything as it was. Objects "one" and "two" are known.
func refuses(t *testing.T, changes map[string]Change) {
	t.Helper()
	s := newStore(t)
	x, y := program(91, "x", "one"), program(92, "y", "two")
	must(t, s.Save(Change{
		BootID: "boot", PutPrograms: []Program{x}, Objects: objects("one", "two"), PutChains: []Chain{chainOf(t, "eth9", 1, x)},
		PutHistory: []Entry{entryOf(t, "eth0", 3, x, y)}, HistoryLimit: 3, PutPending: []Pending{pendingOf(t, 9, "eth9", y)},
	}))
	before := mustRead(t, s, "eth0")
	for name, c := range changes {
		c.BootID = "another"
		if c.PutHistory != nil {
			c.HistoryLimit = 3
		}
		if err := s.Save(c); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), s.Path()) {
			t.Errorf("%s: %v", name, err)
		}
		if after := mustRead(t, s, "eth0"); !reflect.DeepEqual(after, before) {
			t.Fatalf("%s changed something: %+v", name, after)
		}
		must(t, s.Check())
	}
	if id := s.NextPendingID(); id != 10 {
		t.Errorf("after all that, the next pending change is %d", id)
	}
}
