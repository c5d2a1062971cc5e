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
	leases    map[uint64]Lease
	floor     uint64 // of the revisions of interfaces that are not in revisions
}

func newModel() model {
	return model{map[string]Program{}, map[string]Chain{}, map[string]uint64{}, map[EntryKey]Entry{}, map[uint64]Pending{}, map[uint64]Lease{}, 0}
}

func (m model) clone() model {
	return model{
		maps.Clone(m.programs), maps.Clone(m.chains), maps.Clone(m.revisions), maps.Clone(m.history), maps.Clone(m.pending),
		maps.Clone(m.leases), m.floor,
	}
}

// last is what LastRevision returns.
func (m model) last(iface string) uint64 {
	if n, known := m.revisions[iface]; known {
		return n
	}
	return m.floor
}

// forget drops the number of an interface.
func (m *model) forget(iface string) {
	m.floor = max(m.floor, m.revisions[iface])
	delete(m.revisions, iface)
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
	if !m.rename(c.RenameChains) {
		return m, false
	}
	for _, id := range c.DeleteLeases {
		delete(m.leases, id)
	}
	for _, l := range c.PutLeases {
		m.leases[l.ID] = l
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
		m.revisions[ch.Interface] = max(m.last(ch.Interface), ch.Revision)
	}
	for _, k := range c.DeleteHistory {
		delete(m.history, k)
	}
	for _, e := range c.PutHistory {
		m.history[e.key()] = e
		m.revisions[e.Interface] = max(m.last(e.Interface), e.Revision)
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
	for _, id := range c.DeleteLeases {
		if slices.ContainsFunc(c.PutLeases, func(l Lease) bool { return l.ID == id }) {
			return true
		}
	}
	return slices.Max(append(slices.Collect(maps.Values(counts)), 0)) > 1
}

// prune deletes what is too much of the history.
func (m *model) prune(c Change) {
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
			m.forget(e.Interface)
		}
	}
	if strays := m.strays(); len(strays) > 64 {
		for _, iface := range strays {
			m.forget(iface)
		}
	}
}

// strays are the interfaces of which there is nothing but a number.
func (m model) strays() []string {
	var strays []string
	for iface := range m.revisions {
		if _, exists := m.chains[iface]; !exists && len(m.entries(iface)) == 0 {
			strays = append(strays, iface)
		}
	}
	return strays
}

// rename gives chains other names; false if it cannot be done.
func (m model) rename(names map[string]string) bool {
	was := m.clone()
	for from, to := range names {
		if _, exists := was.chains[from]; !exists {
			return false
		}
		if _, moves := names[to]; !moves && was.chains[to].Interface != "" {
			return false
		}
		delete(m.chains, from)
	}
	for k := range was.history {
		_, moves := names[k.Interface]
		if moves || slices.Contains(slices.Collect(maps.Values(names)), k.Interface) {
			delete(m.history, k)
		}
	}
	for from, to := range names {
		ch := was.chains[from]
		ch.Interface = to
		m.chains[to] = ch
		for _, e := range was.entries(from) {
			e.Interface = to
			m.history[e.key()] = e
		}
		m.revisions[to] = max(was.last(from), was.last(to))
	}
	for id, p := range m.pending {
		p.Chains = slices.Clone(p.Chains)
		for i, ch := range p.Chains {
			if to, moves := names[ch.Interface]; moves {
				p.Chains[i].Interface = to
			}
		}
		m.pending[id] = p
	}
	return len(slices.Compact(slices.Sorted(maps.Values(names)))) == len(names)
}

// fits tells whether everything has what it refers to, and nothing is claimed twice. Ids are unique by construction.
func (m model) fits() bool {
	claimed := map[string]bool{}
	claim := func(what string) bool { was := claimed[what]; claimed[what] = true; return !was }
	for _, l := range m.leases {
		if !claim("token " + l.Token) {
			return false
		}
	}
	for _, p := range m.programs {
		if _, exists := m.leases[p.Lease]; p.Lease != 0 && !exists {
			return false
		}
	}
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

// TestAgainstModel saves random changes, some of them invalid, and compares the store with the model.
func TestAgainstModel(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	s := newStore(t)
	d := &dice{Rand: rand.New(rand.NewPCG(seed, 0)), t: t, s: s}
	for i := range 6 {
		d.contents = append(d.contents, strings.Repeat(fmt.Sprint(i), 1+i*2000))
	}
	m := newModel()
	saved, refused, pruned, most, renamed, leased := 0, 0, 0, 0, 0, 0
	for step := range 500 {
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
			renamed += len(c.RenameChains)
			m = next
		}
		asked := touched(c)
		if step%50 == 49 {
			s = reopen(t, s)
			d.s = s
			asked = slices.Sorted(maps.Keys(m.revisions))
		}
		for _, p := range m.programs {
			leased += int(min(p.Lease, 1))
		}
		compare(t, s, m, asked)
		must(t, s.view(func(x *bolt.Tx) error { most = max(most, len(gone(x))); return nil }))
		if t.Failed() {
			t.Fatalf("seed %d step %d: %+v", seed, step, c)
		}
	}
	t.Logf("%d saved, %d refused, %d entries went, up to %d interfaces without a chain, %d renamed, %d met a leased program, floor %d",
		saved, refused, pruned, most, renamed, leased, m.floor)
	if saved < 60 || refused < 40 || pruned < 30 || most != maxGone || renamed < 5 || leased == 0 || m.floor == 0 {
		t.Errorf("seed %d: the dice are loaded", seed)
	}
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
	for _, id := range slices.Sorted(maps.Keys(m.leases)) {
		want.Leases = append(want.Leases, m.leases[id])
	}
	for _, id := range slices.Sorted(maps.Keys(m.pending)) {
		want.Pending = append(want.Pending, m.pending[id])
	}
	want.History = slices.SortedFunc(maps.Values(m.history), func(a, b Entry) int {
		return cmp.Or(cmp.Compare(a.Interface, b.Interface), cmp.Compare(a.Revision, b.Revision))
	})
	for _, iface := range asked {
		want.Revisions[iface] = m.last(iface)
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
