// SPDX-License-Identifier: Apache-2.0

package store

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestAgainstModel saves random changes, some of them invalid, and compares the store with plain maps.
func TestAgainstModel(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	s := newStore(t)
	programs, chains, revisions := map[string]Program{}, map[string]Chain{}, map[string]uint64{}
	ifaces := []string{"eth0", "eth1", "eth2"}
	contents := make([]string, 6)
	for i := range contents {
		contents[i] = strings.Repeat(fmt.Sprint(i), 1+i*2000)
	}
	saved, refused := 0, 0
	for step := range 300 {
		nextPrograms, nextChains := maps.Clone(programs), maps.Clone(chains)
		var c Change
		for range r.IntN(3) {
			name, content := string(rune('a'+r.IntN(6))), contents[r.IntN(len(contents))]
			p := program(s.NextProgramID(), name, content)
			c.PutPrograms = append(c.PutPrograms, p)
			nextPrograms[name] = p
			if r.IntN(4) > 0 {
				c.Objects = objects(append(slices.Collect(maps.Values(toStrings(c.Objects))), content)...)
			}
		}
		for range r.IntN(2) {
			name := string(rune('a' + r.IntN(6)))
			c.DeletePrograms = append(c.DeletePrograms, name)
			delete(nextPrograms, name)
		}
		if iface := ifaces[r.IntN(3)]; r.IntN(3) == 0 {
			c.DeleteChains = []string{iface}
			delete(nextChains, iface)
		} else if all := slices.Sorted(maps.Keys(nextPrograms)); len(all) > 0 {
			nextChains[iface] = chainOf(t, iface, revisions[iface]+1, nextPrograms[all[r.IntN(len(all))]])
		}
		for iface, ch := range nextChains {
			// A chain of a replaced program gets a new revision; one of a deleted program is to be refused.
			if p, exists := nextPrograms[ch.Chain.Members[0].Program]; exists && ch.Revisions[0].Slots[0].ProgramID != p.ID {
				nextChains[iface] = chainOf(t, iface, revisions[iface]+1, p)
			}
			if nextChains[iface].Revision > revisions[iface] {
				c.PutChains = append(c.PutChains, nextChains[iface])
			}
		}
		err := s.Save(c)
		if fits := fits(c, nextPrograms, nextChains, programs); fits != (err == nil) || err != nil && !errors.Is(err, ErrInvalid) {
			t.Fatalf("seed %d step %d: %+v: %v, but the model says %v", seed, step, c, err, fits)
		}
		if err != nil {
			refused++
		} else {
			saved++
			programs, chains = nextPrograms, nextChains
			for _, ch := range c.PutChains {
				revisions[ch.Interface] = ch.Revision
			}
		}
		if step%50 == 49 {
			s = reopen(t, s)
		}
		compare(t, s, programs, chains, revisions)
		if t.Failed() {
			t.Fatalf("seed %d step %d: %+v", seed, step, c)
		}
	}
	if saved < 30 || refused < 30 {
		t.Errorf("seed %d: %d saved, %d refused: the dice are loaded", seed, saved, refused)
	}
}

func toStrings(m map[string][]byte) map[string]string {
	out := map[string]string{}
	for k, v := range m {
		out[k] = string(v)
	}
	return out
}

// fits is the model of what Save accepts. What is in programs now has its object in the store.
func fits(c Change, next map[string]Program, chains map[string]Chain, programs map[string]Program) bool {
	put := map[string]bool{}
	for _, p := range c.PutPrograms {
		if put[p.Name] || slices.Contains(c.DeletePrograms, p.Name) {
			return false
		}
		put[p.Name] = true
		stored := slices.ContainsFunc(slices.Collect(maps.Values(programs)), func(o Program) bool { return o.Object == p.Object })
		if !stored && c.Objects[p.Object] == nil {
			return false
		}
	}
	// An object whose last program goes in the same change is still there for a new one.
	for _, ch := range chains {
		for _, m := range ch.Chain.Members {
			if _, exists := next[m.Program]; !exists {
				return false
			}
		}
	}
	return true
}

func compare(t *testing.T, s *Store, programs map[string]Program, chains map[string]Chain, revisions map[string]uint64) {
	t.Helper()
	st := mustRead(t, s, slices.Collect(maps.Keys(revisions))...)
	want := state{Revisions: maps.Clone(revisions), Objects: map[string]string{}}
	counts := map[string]uint64{}
	for _, name := range slices.Sorted(maps.Keys(programs)) {
		want.Programs = append(want.Programs, programs[name])
		counts[programs[name].Object]++
	}
	for _, name := range slices.Sorted(maps.Keys(chains)) {
		want.Chains = append(want.Chains, chains[name])
	}
	want.Objects = st.Objects // read found each, with its hash
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
