// SPDX-License-Identifier: Apache-2.0

package store

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
)

// model is what a store holds, as plain values.
type model struct {
	programs  map[string]Program
	chains    map[string]Chain
	revisions map[string]uint64
	history   map[EntryKey]Entry
	pending   map[uint64]Pending
}

func (m model) clone() model {
	return model{maps.Clone(m.programs), maps.Clone(m.chains), maps.Clone(m.revisions), maps.Clone(m.history), maps.Clone(m.pending)}
}

// references counts what names each object.
func (m model) references() map[string]uint64 {
	counts := map[string]uint64{}
	for _, p := range m.programs {
		counts[p.Object]++
	}
	for _, e := range m.history {
		for _, p := range e.Programs {
			counts[p.Object]++
		}
	}
	for _, c := range m.pending {
		for _, p := range c.Programs {
			counts[p.Object]++
		}
	}
	return counts
}

// entries returns the history of an interface, newest first.
func (m model) entries(iface string) []Entry {
	var entries []Entry
	for k, e := range m.history {
		if k.Interface == iface {
			entries = append(entries, e)
		}
	}
	slices.SortFunc(entries, func(a, b Entry) int { return cmp.Compare(b.Revision, a.Revision) })
	return entries
}

// save returns what Save makes of a change; false if it refuses it.
func (m model) save(c Change) (model, bool) {
	was := m.references()
	m = m.clone()
	if twice(c) {
		return m, false
	}
	for _, name := range c.DeletePrograms {
		delete(m.programs, name)
	}
	for _, p := range c.PutPrograms {
		m.programs[p.Name] = p
	}
	for _, iface := range c.DeleteChains {
		delete(m.chains, iface)
	}
	for _, ch := range c.PutChains {
		m.chains[ch.Interface] = ch
		m.revisions[ch.Interface] = max(m.revisions[ch.Interface], ch.Revision)
	}
	for _, k := range c.DeleteHistory {
		delete(m.history, k)
	}
	for _, e := range c.PutHistory {
		m.history[e.key()] = e
		m.revisions[e.Interface] = max(m.revisions[e.Interface], e.Revision)
	}
	m.prune(c)
	for _, id := range c.DeletePending {
		delete(m.pending, id)
	}
	for _, p := range c.PutPending {
		m.pending[p.ID] = p
	}
	for sha := range m.references() {
		if was[sha] == 0 && c.Objects[sha] == nil {
			return m, false
		}
	}
	return m, m.fits()
}

// twice tells whether a record is put twice, or put and deleted.
func twice(c Change) bool {
	counts := map[any]int{}
	for _, name := range slices.Compact(slices.Sorted(slices.Values(c.DeletePrograms))) {
		counts[name]++
	}
	for _, p := range c.PutPrograms {
		counts[p.Name]++
	}
	deleted := map[EntryKey]bool{}
	for _, k := range c.DeleteHistory {
		deleted[k] = true
	}
	for k := range deleted {
		counts[k]++
	}
	for _, e := range c.PutHistory {
		counts[e.key()]++
	}
	for _, id := range slices.Compact(slices.Sorted(slices.Values(c.DeletePending))) {
		counts[id]++
	}
	for _, p := range c.PutPending {
		counts[p.ID]++
	}
	return slices.Max(append(slices.Collect(maps.Values(counts)), 0)) > 1
}

// prune deletes what is too much of the history.
func (m model) prune(c Change) {
	for _, e := range c.PutHistory {
		keep := c.HistoryLimit + 1
		if c.HistoryLimit == 0 {
			keep = 0
		}
		for i, old := range m.entries(e.Interface) {
			if i >= keep {
				delete(m.history, old.key())
			}
		}
	}
	var newest []Entry
	for k := range m.history {
		if _, exists := m.chains[k.Interface]; !exists && !slices.ContainsFunc(newest, func(e Entry) bool { return e.Interface == k.Interface }) {
			newest = append(newest, m.entries(k.Interface)[0])
		}
	}
	slices.SortFunc(newest, func(a, b Entry) int { return b.Time.Compare(a.Time) })
	for i, e := range newest {
		if i >= 64 {
			for _, old := range m.entries(e.Interface) {
				delete(m.history, old.key())
			}
		}
	}
}

// fits tells whether everything has what it refers to, and nothing is claimed twice. Ids are unique by construction.
func (m model) fits() bool {
	claimed := map[string]bool{}
	claim := func(what string) bool { was := claimed[what]; claimed[what] = true; return !was }
	for _, p := range m.pending {
		for _, q := range p.Programs {
			if !claim("program " + q.Name) {
				return false
			}
		}
		for _, name := range p.Added {
			if !claim("program " + name) {
				return false
			}
		}
		for _, ch := range p.Chains {
			if !claim("interface " + ch.Interface) {
				return false
			}
			for _, member := range ch.Before.Members {
				kept := slices.ContainsFunc(p.Programs, func(q Program) bool { return q.Name == member.Program })
				if _, exists := m.programs[member.Program]; !exists && !kept {
					return false
				}
			}
		}
	}
	for _, ch := range m.chains {
		for _, member := range ch.Chain.Members {
			if _, exists := m.programs[member.Program]; !exists {
				return false
			}
		}
	}
	return true
}

// dice makes random changes.
type dice struct {
	*rand.Rand
	t        *testing.T
	s        *Store
	contents []string
	clock    int64
}

func (d *dice) name() string    { return string(rune('a' + d.IntN(6))) }
func (d *dice) content() string { return d.contents[d.IntN(len(d.contents))] }

// iface returns one of three that have chains, or one that never has.
func (d *dice) iface() string {
	if d.IntN(3) == 0 {
		return fmt.Sprint("eth", d.IntN(3))
	}
	return fmt.Sprint("gone", d.IntN(150))
}

// newProgram makes a program, and mostly adds its object to the change.
func (d *dice) newProgram(c *Change, name string) Program {
	content := d.content()
	if d.IntN(4) > 0 {
		if c.Objects == nil {
			c.Objects = map[string][]byte{}
		}
		maps.Copy(c.Objects, objects(content))
	}
	return program(d.s.NextProgramID(), name, content)
}

func (d *dice) change(m model) Change {
	c := Change{HistoryLimit: d.IntN(5)}
	next := maps.Clone(m.programs)
	for range d.IntN(3) {
		p := d.newProgram(&c, d.name())
		c.PutPrograms = append(c.PutPrograms, p)
		next[p.Name] = p
	}
	for range d.IntN(4) / 3 {
		name := d.name()
		c.DeletePrograms = append(c.DeletePrograms, name)
		delete(next, name)
	}
	d.addChains(&c, m, next)
	for range d.IntN(3) {
		iface := d.iface()
		e := entryOf(d.t, iface, m.revisions[iface]+uint64(d.IntN(3)), d.newProgram(&c, "a"), d.newProgram(&c, "b"))
		e.Revision = max(e.Revision, 1)
		d.clock++
		e.Time = time.Unix(d.clock, 0).UTC()
		c.PutHistory = append(c.PutHistory, e)
	}
	for range d.IntN(2) {
		iface := d.iface()
		for _, e := range m.entries(iface)[:min(1, len(m.entries(iface)))] {
			c.DeleteHistory = append(c.DeleteHistory, e.key())
		}
	}
	d.addPending(&c, m)
	return c
}

// addChains puts and deletes chains. One of a replaced program gets a new revision; one of a deleted program is to be refused.
func (d *dice) addChains(c *Change, m model, next map[string]Program) {
	chains := maps.Clone(m.chains)
	if iface := fmt.Sprint("eth", d.IntN(3)); d.IntN(3) == 0 {
		c.DeleteChains = []string{iface}
		delete(chains, iface)
	} else if all := slices.Sorted(maps.Keys(next)); len(all) > 0 {
		chains[iface] = chainOf(d.t, iface, m.revisions[iface]+1, next[all[d.IntN(len(all))]])
	}
	for _, iface := range slices.Sorted(maps.Keys(chains)) {
		p, exists := next[chains[iface].Chain.Members[0].Program]
		switch {
		case exists && chains[iface].Revisions[0].Slots[0].ProgramID != p.ID:
			c.PutChains = append(c.PutChains, chainOf(d.t, iface, m.revisions[iface]+1, p))
		case chains[iface].Revision > m.revisions[iface]:
			c.PutChains = append(c.PutChains, chains[iface])
		}
	}
}

// addPending puts and deletes pending changes.
func (d *dice) addPending(c *Change, m model) {
	ids := slices.Sorted(maps.Keys(m.pending))
	if len(ids) > 0 && d.IntN(2) == 0 {
		c.DeletePending = append(c.DeletePending, ids[d.IntN(len(ids))])
	}
	if d.IntN(3) > 0 {
		return
	}
	kept, other := d.newProgram(c, d.name()), program(1, d.name(), "-")
	members := []Program{kept}
	if other.Name != kept.Name {
		members = append(members, other)
	}
	p := pendingOf(d.t, d.s.NextPendingID(), fmt.Sprint("eth", d.IntN(6)), members...)
	p.Programs = []Program{kept}
	if len(ids) > 0 && d.IntN(3) == 0 {
		p.ID = ids[d.IntN(len(ids))]
	}
	p.Added = []string{fmt.Sprint("new", d.IntN(6))}
	c.PutPending = append(c.PutPending, p)
}

// TestAgainstModel saves random changes, some of them invalid, and compares the store with the model.
func TestAgainstModel(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	s := newStore(t)
	d := &dice{Rand: rand.New(rand.NewPCG(seed, 0)), t: t, s: s}
	for i := range 6 {
		d.contents = append(d.contents, strings.Repeat(fmt.Sprint(i), 1+i*2000))
	}
	m := model{map[string]Program{}, map[string]Chain{}, map[string]uint64{}, map[EntryKey]Entry{}, map[uint64]Pending{}}
	saved, refused, pruned, most := 0, 0, 0, 0
	for step := range 450 {
		c := d.change(m)
		next, fits := m.save(c)
		err := s.Save(c)
		if fits != (err == nil) || err != nil && !errors.Is(err, ErrInvalid) {
			t.Fatalf("seed %d step %d: %+v: %v, but the model says %v", seed, step, c, err, fits)
		}
		if err != nil {
			refused++
		} else {
			saved++
			pruned += len(m.history) + len(c.PutHistory) - len(next.history)
			m = next
		}
		asked := touched(c)
		if step%50 == 49 {
			s = reopen(t, s)
			d.s = s
			asked = slices.Sorted(maps.Keys(m.revisions))
		}
		compare(t, s, m, asked)
		must(t, s.view(func(x *bolt.Tx) error { most = max(most, len(gone(x))); return nil }))
		if t.Failed() {
			t.Fatalf("seed %d step %d: %+v", seed, step, c)
		}
	}
	t.Logf("%d saved, %d refused, %d entries went, up to %d interfaces without a chain", saved, refused, pruned, most)
	if saved < 60 || refused < 40 || pruned < 30 || most != maxGone {
		t.Errorf("seed %d: the dice are loaded", seed)
	}
}

// touched are the interfaces of which a change puts or deletes something.
func touched(c Change) []string {
	var names []string
	for _, e := range c.PutHistory {
		names = append(names, e.Interface)
	}
	for _, k := range c.DeleteHistory {
		names = append(names, k.Interface)
	}
	for _, ch := range c.PutChains {
		names = append(names, ch.Interface)
	}
	return append(names, c.DeleteChains...)
}

// compare reads all that the store has, and asks it for the last revision and the history of some interfaces.
func compare(t *testing.T, s *Store, m model, asked []string) {
	t.Helper()
	st := mustRead(t, s, asked...)
	want := state{Revisions: map[string]uint64{}, Objects: st.Objects} // read found each, with its hash
	for _, name := range slices.Sorted(maps.Keys(m.programs)) {
		want.Programs = append(want.Programs, m.programs[name])
	}
	for _, name := range slices.Sorted(maps.Keys(m.chains)) {
		want.Chains = append(want.Chains, m.chains[name])
	}
	for _, id := range slices.Sorted(maps.Keys(m.pending)) {
		want.Pending = append(want.Pending, m.pending[id])
	}
	want.History = slices.SortedFunc(maps.Values(m.history), func(a, b Entry) int {
		return cmp.Or(cmp.Compare(a.Interface, b.Interface), cmp.Compare(a.Revision, b.Revision))
	})
	for _, iface := range asked {
		want.Revisions[iface] = m.revisions[iface]
		entries := m.entries(iface)
		for _, limit := range []int{2, 99} {
			got, err := s.History(iface, limit)
			if expect := entries[:min(limit, len(entries))]; err != nil || len(got) != len(expect) || len(got) > 0 && !reflect.DeepEqual(got, expect) {
				t.Errorf("history of %s: %+v, %v\nwant %+v", iface, got, err, expect)
			}
		}
	}
	counts := m.references()
	if !reflect.DeepEqual(st, want) || len(st.Objects) != len(counts) {
		t.Errorf("got  %+v\nwant %+v", st, want)
	}
	if got := references(t, s); !maps.Equal(got, counts) {
		t.Errorf("references %v, want %v", got, counts)
	}
	if err := s.Check(); err != nil {
		t.Error(err)
	}
}
