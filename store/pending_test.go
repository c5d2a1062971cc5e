// SPDX-License-Identifier: Apache-2.0

package store

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/xdpd/xdpd/chain"
)

func TestPendingRoundTrip(t *testing.T) {
	s := newStore(t)
	if got, err := s.Pending(); got != nil || err != nil {
		t.Errorf("%+v, %v", got, err)
	}
	a, b := program(1, "a", "one"), program(2, "b", "two")
	p, q := pendingOf(t, 256, "eth0", a), pendingOf(t, 9, "eth1", b)
	p.Chains = append(p.Chains, PendingChain{Interface: "eth2"})
	p.Added = []string{"c"}
	must(t, s.Save(Change{PutPending: []Pending{p, q}, Objects: objects("one", "two")}))
	for range 2 {
		if got, err := s.Pending(); err != nil || !reflect.DeepEqual(got, []Pending{q, p}) {
			t.Errorf("%+v, %v", got, err)
		}
		if object, err := s.Object(a.Object); err != nil || string(object) != "one" {
			t.Errorf("%q, %v", object, err)
		}
		s = reopen(t, s)
	}
	q.Deadline++ // a new version takes the place of the old one
	must(t, s.Save(Change{PutPending: []Pending{q}, DeletePending: []uint64{256, 77}}))
	if got, err := s.Pending(); err != nil || !reflect.DeepEqual(got, []Pending{q}) {
		t.Errorf("%+v, %v", got, err)
	}
	if got := references(t, s); !reflect.DeepEqual(got, map[string]uint64{b.Object: 1}) {
		t.Errorf("%v", got)
	}
}

func TestPendingIDs(t *testing.T) {
	s := newStore(t)
	if a, b := s.NextPendingID(), s.NextPendingID(); a != 1 || b != 2 {
		t.Fatal(a, b)
	}
	must(t, s.Save(Change{PutPending: []Pending{pendingOf(t, 2, "eth0")}}))
	must(t, s.Save(Change{PutPending: []Pending{pendingOf(t, 1, "eth1")}}))
	must(t, s.Save(Change{DeletePending: []uint64{1, 2}}))
	s = reopen(t, s)
	if id := s.NextPendingID(); id != 3 {
		t.Errorf("after 2 was saved and deleted, and a restart, comes %d", id)
	}
	must(t, s.Save(Change{PutPending: []Pending{pendingOf(t, 100, "eth0")}}))
	if id := s.NextPendingID(); id != 101 {
		t.Errorf("after 100 was saved comes %d", id)
	}
}

// TestUndo goes the way of a change that replaces a, removes b and adds c, and is undone.
func TestUndo(t *testing.T) {
	s := newStore(t)
	a, b := program(1, "a", "one"), program(2, "b", "two")
	must(t, s.Save(Change{PutPrograms: []Program{a, b}, Objects: objects("one", "two"), PutChains: []Chain{chainOf(t, "eth0", 1, a, b)}}))
	before := mustRead(t, s)
	next, c := program(3, "a", "three"), program(4, "c", "one")
	undo := pendingOf(t, 1, "eth0", a, b)
	undo.Added = []string{"c"}
	must(t, s.Save(Change{
		PutPrograms: []Program{next, c}, DeletePrograms: []string{"b"}, Objects: objects("three"),
		PutChains: []Chain{chainOf(t, "eth0", 2, next, c)}, PutPending: []Pending{undo},
	}))
	must(t, s.Check())
	must(t, s.Save(Change{
		PutPrograms: undo.Programs, DeletePrograms: undo.Added, PutChains: before.Chains, DeletePending: []uint64{1},
	}))
	if after := mustRead(t, s); !reflect.DeepEqual(after, before) {
		t.Errorf("%+v\nwant %+v", after, before)
	}
}

// A program can be kept with the id that it has if it is loaded the same: its pins serve both.
func TestPendingSharesID(t *testing.T) {
	s := newStore(t)
	a := program(1, "a", "one")
	must(t, s.Save(Change{PutPrograms: []Program{a}, Objects: objects("one")}))
	was := a
	was.Lifetime = "persistent"
	must(t, s.Save(Change{PutPending: []Pending{pendingOf(t, 1, "eth0", was)}}))
	for name, f := range map[string]func(*Program){
		"name":     func(p *Program) { p.Name = "b" },
		"function": func(p *Program) { p.Function = "f" },
		"settings": func(p *Program) { p.Settings.Globals = nil },
		"object":   func(p *Program) { p.Object, p.Size = hashOf([]byte("two")), 3 },
	} {
		other := a
		f(&other)
		err := s.Save(Change{PutPending: []Pending{pendingOf(t, 1, "eth0", other)}, Objects: objects("two")})
		if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "have the same id 1") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSaveInvalidPending(t *testing.T) {
	a, b := program(1, "a", "one"), program(2, "b", "two")
	edit := func(f func(*Pending)) Change {
		p := pendingOf(t, 4, "eth0", a, b)
		p.Added = []string{"c"}
		f(&p)
		return Change{PutPending: []Pending{p}}
	}
	twice := edit(func(*Pending) {})
	twice.PutPending = append(twice.PutPending, twice.PutPending...)
	deleted := edit(func(*Pending) {})
	deleted.DeletePending = []uint64{3, 4}
	another := func(p Pending) Change {
		return Change{PutPending: []Pending{pendingOf(t, 4, "eth0", a), p}}
	}
	added := pendingOf(t, 5, "eth1")
	added.Added = []string{"a"}
	refuses(t, map[string]Change{
		"twice":                     twice,
		"put and deleted":           deleted,
		"no id":                     edit(func(p *Pending) { p.ID = 0 }),
		"no deadline":               edit(func(p *Pending) { p.Deadline = 0 }),
		"deadline":                  edit(func(p *Pending) { p.Deadline = -1 }),
		"no boot":                   edit(func(p *Pending) { p.BootID = "" }),
		"boot":                      edit(func(p *Pending) { p.BootID = strings.Repeat("b", MaxText+1) }),
		"what":                      edit(func(p *Pending) { p.What = "\xff" }),
		"interface":                 edit(func(p *Pending) { p.Chains[0].Interface = "" }),
		"interface twice":           edit(func(p *Pending) { p.Chains = append(p.Chains, p.Chains...) }),
		"chain":                     edit(func(p *Pending) { p.Chains[0].Before.Mode = "fast" }),
		"program":                   edit(func(p *Pending) { p.Programs = []Program{{Name: "a"}} }),
		"program twice":             edit(func(p *Pending) { p.Programs = []Program{a, a} }),
		"added program's name":      edit(func(p *Pending) { p.Added = []string{"c/c"} }),
		"added twice":               edit(func(p *Pending) { p.Added = []string{"c", "c"} }),
		"added and kept":            edit(func(p *Pending) { p.Added = []string{"a"} }),
		"member neither there":      edit(func(p *Pending) { p.Programs = p.Programs[:1] }),
		"no object":                 {PutPending: []Pending{pendingOf(t, 4, "eth0", program(5, "e", "five"))}},
		"object of another size":    edit(func(p *Pending) { p.Programs = []Program{a, b}; p.Programs[0].Size++ }),
		"id of x":                   {PutPending: []Pending{pendingOf(t, 4, "eth0", program(91, "a", "one"))}},
		"id of another kept":        another(pendingOf(t, 5, "eth1", program(1, "e", "one"))),
		"program in another":        another(pendingOf(t, 5, "eth1", program(3, "a", "one"))),
		"program added in another":  another(added),
		"interface in another":      another(pendingOf(t, 5, "eth0", b)),
		"interface in a stored one": {PutPending: []Pending{pendingOf(t, 4, "eth9", a)}},
		"program in a stored one":   {PutPending: []Pending{pendingOf(t, 4, "eth1", program(7, "y", "two"))}},
		"program with a kept id":    {PutPrograms: []Program{program(92, "z", "two")}},
	})
}

// A program that a pending change would bring back on an interface must not go meanwhile.
func TestPendingNeedsProgram(t *testing.T) {
	s := newStore(t)
	a := program(1, "a", "one")
	p := pendingOf(t, 1, "eth0", a)
	p.Programs = nil
	must(t, s.Save(Change{PutPrograms: []Program{a}, Objects: objects("one"), PutPending: []Pending{p}}))
	err := s.Save(Change{DeletePrograms: []string{"a"}})
	if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "pending change 1 would bring the program a back on eth0") {
		t.Error(err)
	}
	must(t, s.Save(Change{DeletePrograms: []string{"a"}, DeletePending: []uint64{1}}))
}

func TestSettings(t *testing.T) {
	names := func(n int) map[string]string {
		m := map[string]string{}
		for i := range n {
			m[fmt.Sprint("g", i)] = "1"
		}
		return m
	}
	sizes := func(n int) map[string]uint32 {
		m := map[string]uint32{}
		for i := range n {
			m[fmt.Sprint("m", i)] = 1
		}
		return m
	}
	put := func(s chain.Settings) Change {
		p := program(1, "a", "one")
		p.Settings = s
		return Change{PutPrograms: []Program{p}, Objects: objects("one")}
	}
	long := strings.Repeat("x", MaxText+1)
	refuses(t, map[string]Change{
		"globals":       put(chain.Settings{Globals: names(maxSettings + 1)}),
		"sizes":         put(chain.Settings{MaxEntries: sizes(maxSettings + 1)}),
		"value":         put(chain.Settings{Globals: map[string]string{"g": strings.Repeat("1", maxGlobal+1)}}),
		"value's text":  put(chain.Settings{Globals: map[string]string{"g": "\xff"}}),
		"global":        put(chain.Settings{Globals: map[string]string{long: "1"}}),
		"nameless":      put(chain.Settings{Globals: map[string]string{"": "1"}}),
		"map":           put(chain.Settings{MaxEntries: map[string]uint32{long: 1}}),
		"nameless map":  put(chain.Settings{MaxEntries: map[string]uint32{"": 1}}),
		"group":         put(chain.Settings{MapGroup: long}),
		"shared":        put(chain.Settings{ShareMapsFrom: "b/b"}),
		"of an entry":   {PutHistory: []Entry{entryOf(t, "eth0", 4, put(chain.Settings{MapGroup: long}).PutPrograms...)}},
		"of a kept one": {PutPending: []Pending{pendingOf(t, 4, "eth0", put(chain.Settings{MapGroup: long}).PutPrograms...)}},
	})
	s := newStore(t)
	largest := put(chain.Settings{Globals: names(maxSettings), MaxEntries: sizes(maxSettings), ShareMapsFrom: "b", MapGroup: long[1:]})
	largest.PutPrograms[0].Settings.Globals["g0"] = strings.Repeat("1", maxGlobal)
	must(t, s.Save(largest))
	if p, found, err := s.Program("a"); err != nil || !found || !reflect.DeepEqual(p, largest.PutPrograms[0]) {
		t.Errorf("%v, %v", found, err)
	}
}
