// SPDX-License-Identifier: Apache-2.0

package store

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"reflect"
	"strings"
	"sync"
	"testing"

	"github.com/xdpd/xdpd/chain"
)

func TestEmpty(t *testing.T) {
	s := newStore(t)
	st := mustRead(t, s, "eth0")
	if len(st.Programs)+len(st.Chains)+len(st.History)+len(st.Pending)+len(st.Leases) != 0 || st.BootID != "" || st.Revisions["eth0"] != 0 {
		t.Errorf("%+v", st)
	}
	if _, found, err := s.Program("a"); found || err != nil {
		t.Error(found, err)
	}
	if _, found, err := s.Chain("eth0"); found || err != nil {
		t.Error(found, err)
	}
	if object, err := s.Object(strings.Repeat("0", 64)); !errors.Is(err, ErrNotFound) {
		t.Error(object, err)
	}
	if id := s.NextProgramID(); id != 1 {
		t.Errorf("the first id is %d", id)
	}
}

func TestRoundTrip(t *testing.T) {
	s := newStore(t)
	big := strings.Repeat("object", 10_000)
	b, a := program(1, "b", big), program(2, "a", "small")
	eth1, eth0 := chainOf(t, "eth1", 5, b, a), chainOf(t, "eth0", 9, a)
	eth0.Revisions = append([]Revision{{Number: 8, Slots: []Slot{{"gone", 77}}}}, eth0.Revisions...)
	eth0.Totals = map[string]chain.Counts{"gone": {Seen: 1 << 63, PassedOn: 2, Ended: [chain.Classes]uint64{chain.Drop: 3}}}
	eth0.End, eth0.Packets, eth0.ModeReason = 11, 12, "the driver cannot"
	must(t, s.Save(Change{BootID: "boot", PutPrograms: []Program{b, a}, Objects: objects(big, "small"), PutChains: []Chain{eth1, eth0}}))
	must(t, s.Check())
	want := state{
		Programs: []Program{a, b}, Chains: []Chain{eth0, eth1}, BootID: "boot",
		Revisions: map[string]uint64{"eth0": 9, "eth1": 5}, Objects: map[string]string{a.Object: "small", b.Object: big},
	}
	for range 2 {
		if got := mustRead(t, s, "eth0", "eth1"); !reflect.DeepEqual(got, want) {
			t.Fatalf("got  %+v\nwant %+v", got, want)
		}
		if p, found, err := s.Program("a"); !found || err != nil || !reflect.DeepEqual(p, a) {
			t.Errorf("%+v, %v, %v", p, found, err)
		}
		if c, found, err := s.Chain("eth0"); !found || err != nil || !reflect.DeepEqual(c, eth0) {
			t.Errorf("%+v, %v, %v", c, found, err)
		}
		s = reopen(t, s)
	}
}

func TestObjectIsACopy(t *testing.T) {
	s := newStore(t)
	p := program(1, "a", "object")
	must(t, s.Save(Change{PutPrograms: []Program{p}, Objects: objects("object")}))
	first, err := s.Object(p.Object)
	must(t, err)
	clear(first)
	if again, err := s.Object(p.Object); err != nil || string(again) != "object" {
		t.Errorf("%q, %v", again, err)
	}
}

func TestProgramIDs(t *testing.T) {
	s := newStore(t)
	if a, b := s.NextProgramID(), s.NextProgramID(); a != 1 || b != 2 {
		t.Fatal(a, b)
	}
	must(t, s.Save(Change{PutPrograms: []Program{program(2, "a", "x")}, Objects: objects("x")}))
	must(t, s.Save(Change{PutPrograms: []Program{program(1, "b", "x")}})) // the slower of two changes
	if id := s.NextProgramID(); id != 3 {
		t.Errorf("after 2 was saved comes %d", id)
	}
	must(t, s.Save(Change{DeletePrograms: []string{"a", "b"}}))
	s = reopen(t, s)
	if id := s.NextProgramID(); id != 3 {
		t.Errorf("after 2 was saved and deleted, and a restart, comes %d", id)
	}
	must(t, s.Save(Change{PutPrograms: []Program{program(100, "c", "x")}, Objects: objects("x")}))
	if id := s.NextProgramID(); id != 101 {
		t.Errorf("after 100 was saved comes %d", id)
	}
	var all sync.Map
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for range 100 {
				if _, twice := all.LoadOrStore(s.NextProgramID(), true); twice {
					t.Error("an id was given twice")
				}
			}
		})
	}
	group.Wait()
}

func TestLastRevision(t *testing.T) {
	s := newStore(t)
	last := func(want uint64) {
		t.Helper()
		if n, err := s.LastRevision("eth0"); err != nil || n != want {
			t.Errorf("%d, %v, want %d", n, err, want)
		}
	}
	must(t, s.Save(Change{PutChains: []Chain{chainOf(t, "eth0", 7)}}))
	last(7)
	back := chainOf(t, "eth0", 6) // put back after 8 could not be committed
	back.Revisions = []Revision{{Number: 8}, {Number: 6}}
	must(t, s.Save(Change{PutChains: []Chain{back}}))
	last(8)
	must(t, s.Save(Change{DeleteChains: []string{"eth0", "never-was"}}))
	last(8)
	s = reopen(t, s)
	last(8)
	must(t, s.Save(Change{PutChains: []Chain{chainOf(t, "eth0", 3)}}))
	last(8)
}

func TestDeleteAndReplace(t *testing.T) {
	s := newStore(t)
	a, b := program(1, "a", "one"), program(2, "b", "one")
	must(t, s.Save(Change{PutPrograms: []Program{a, b}, Objects: objects("one"), PutChains: []Chain{chainOf(t, "eth0", 1, a, b)}}))
	must(t, s.Save(Change{DeletePrograms: []string{"a", "never-was"}, PutChains: []Chain{chainOf(t, "eth0", 2, b)}}))
	if _, err := s.Object(a.Object); err != nil {
		t.Errorf("the object that b names is gone: %v", err)
	}
	next := program(3, "b", "two")
	must(t, s.Save(Change{PutPrograms: []Program{next}, Objects: objects("two", "nobody's"), PutChains: []Chain{chainOf(t, "eth0", 3, next)}}))
	if _, err := s.Object(a.Object); !errors.Is(err, ErrNotFound) {
		t.Errorf("the object that nobody names: %v", err)
	}
	if _, err := s.Object(hashOf([]byte("nobody's"))); !errors.Is(err, ErrNotFound) {
		t.Errorf("an object that nobody ever named: %v", err)
	}
	must(t, s.Save(Change{DeletePrograms: []string{"b"}, DeleteChains: []string{"eth0"}}))
	must(t, s.Check())
	if st := mustRead(t, s); len(st.Programs)+len(st.Chains) != 0 {
		t.Errorf("%+v", st)
	}
}

func TestSaveNothing(t *testing.T) {
	s := newStore(t)
	before, err := os.ReadFile(s.Path())
	must(t, err)
	must(t, s.Save(Change{}))
	after, err := os.ReadFile(s.Path())
	must(t, err)
	if !bytes.Equal(before, after) {
		t.Error("saving nothing wrote something")
	}
}

func TestSaveInvalid(t *testing.T) {
	s := newStore(t)
	a := program(1, "a", "one")
	must(t, s.Save(Change{BootID: "boot", PutPrograms: []Program{a}, Objects: objects("one"), PutChains: []Chain{chainOf(t, "eth0", 1, a)}}))
	before := mustRead(t, s, "eth0", "eth1")
	b := program(2, "b", "two")
	edit := func(f func(*Program)) []Program { p := b; f(&p); return []Program{p} }
	editChain := func(f func(*Chain)) []Chain { c := chainOf(t, "eth1", 4, a); f(&c); return []Chain{c} }
	two := objects("two")
	for name, c := range map[string]Change{
		"program without object":     {PutPrograms: []Program{b}},
		"object under another hash":  {PutPrograms: []Program{b}, Objects: map[string][]byte{b.Object: []byte("three")}},
		"empty object":               {PutPrograms: edit(func(p *Program) { p.Object, p.Size = hashOf(nil), 0 }), Objects: objects("")},
		"object of another size":     {PutPrograms: edit(func(p *Program) { p.Size++ }), Objects: two},
		"program twice":              {PutPrograms: []Program{b, b}, Objects: two},
		"program put and deleted":    {PutPrograms: []Program{b}, Objects: two, DeletePrograms: []string{"b"}},
		"program's name":             {PutPrograms: edit(func(p *Program) { p.Name = "b/b" }), Objects: two},
		"program without id":         {PutPrograms: edit(func(p *Program) { p.ID = 0 }), Objects: two},
		"program with a's id":        {PutPrograms: edit(func(p *Program) { p.ID = 1 }), Objects: two},
		"program without function":   {PutPrograms: edit(func(p *Program) { p.Function = "" }), Objects: two},
		"program's lifetime":         {PutPrograms: edit(func(p *Program) { p.Lifetime = "for ever" }), Objects: two},
		"program's hash":             {PutPrograms: edit(func(p *Program) { p.Object = strings.ToUpper(p.Object) }), Objects: two},
		"member deleted":             {DeletePrograms: []string{"a"}},
		"member that does not exist": {PutChains: []Chain{chainOf(t, "eth1", 1, b)}},
		"chain twice":                {PutChains: []Chain{chainOf(t, "eth1", 1), chainOf(t, "eth1", 2)}},
		"chain put and deleted":      {PutChains: []Chain{chainOf(t, "eth1", 1)}, DeleteChains: []string{"eth1"}},
		"chain without interface":    {PutChains: []Chain{chainOf(t, "", 1)}},
		"chain with a long name":     {PutChains: []Chain{chainOf(t, strings.Repeat("e", 40_000), 1)}},
		"chain that is not one":      {PutChains: editChain(func(c *Chain) { c.Chain.Mode = "" })},
		"chain of a pattern":         {PutChains: []Chain{chainOf(t, "eth*", 1)}},
		"chain of two names":         {PutChains: []Chain{chainOf(t, "a/b:eth0", 1)}},
		"chain's name not text":      {PutChains: []Chain{chainOf(t, "eth\xff", 1)}},
		"chain's former name":        {PutChains: editChain(func(c *Chain) { c.Former = "eth 0" })},
		"revision twice":             {PutChains: editChain(func(c *Chain) { c.Revisions = append(c.Revisions, c.Revisions...) })},
		"revision not last":          {PutChains: editChain(func(c *Chain) { c.Revision = 3 })},
		"revision with 65 slots":     {PutChains: editChain(func(c *Chain) { c.Revisions[0].Slots = make([]Slot, 65) })},
	} {
		c.BootID = "another"
		if c.PutChains == nil {
			c.PutChains = []Chain{chainOf(t, "eth1", 4, a)} // valid, and applied before the rest is looked at
		}
		if err := s.Save(c); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), s.Path()) {
			t.Errorf("%s: %v", name, err)
		}
		if after := mustRead(t, s, "eth0", "eth1"); !reflect.DeepEqual(after, before) {
			t.Fatalf("%s changed something: %+v", name, after)
		}
		must(t, s.Check())
	}
	s = reopen(t, s)
	if after := mustRead(t, s, "eth0", "eth1"); !reflect.DeepEqual(after, before) {
		t.Fatalf("after all that: %+v", after)
	}
}

func TestClosed(t *testing.T) {
	s := newStore(t)
	must(t, s.Close())
	must(t, s.Close())
	_, err1 := s.Programs()
	_, err2 := s.Object("")
	_, err3 := s.LastRevision("eth0")
	_, err4 := s.BootID()
	for i, err := range []error{err1, err2, err3, err4, s.Save(Change{BootID: "x"}), s.Check()} {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("%d: %v", i, err)
		}
	}
}

func TestManyAtOnce(t *testing.T) {
	s := newStore(t)
	var group sync.WaitGroup
	for i := range 8 {
		group.Go(func() {
			name := fmt.Sprint("p", i)
			for n := range 5 {
				object := fmt.Sprint("object ", n)
				if err := s.Save(Change{PutPrograms: []Program{program(s.NextProgramID(), name, object)}, Objects: objects(object)}); err != nil {
					t.Error(err)
				}
				if _, found, err := s.Program(name); !found || err != nil {
					t.Error(found, err)
				}
				if err := s.Check(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	if st := mustRead(t, s); len(st.Programs) != 8 || len(st.Objects) != 1 {
		t.Errorf("%d programs, %d objects", len(st.Programs), len(st.Objects))
	}
}
