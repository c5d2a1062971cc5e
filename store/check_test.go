// SPDX-License-Identifier: Apache-2.0

package store

import (
	"errors"
	"strings"
	"testing"

	"github.com/xdpd/xdpd/chain"
)

func TestCheckFinds(t *testing.T) {
	a, b := program(1, "a", "one"), program(2, "b", "two")
	sha := hashOf([]byte("three"))
	editA := func(f func(*Program)) func(*tx) error {
		return func(x *tx) error {
			p := a
			f(&p)
			return x.putJSON(bucketPrograms, "a", p)
		}
	}
	editChain := func(f func(*Chain)) func(*tx) error {
		return func(x *tx) error {
			c := chainOf(t, "eth0", 1, a, b)
			f(&c)
			return x.putJSON(bucketChains, "eth0", c)
		}
	}
	for _, tt := range []struct {
		name   string
		tamper func(*tx) error
		finds  []string
	}{
		{"name", editA(func(p *Program) { p.Name = "c" }), []string{"record of program a names the program c"}},
		{"hash", editA(func(p *Program) { p.Object = "x" }), []string{
			`object "x" is not a sha256`, "object x is missing", "object x has no reference count",
			"no program names the object " + a.Object, a.Object + " has 1 references, but 0 programs",
		}},
		{"size", editA(func(p *Program) { p.Size = 99 }), []string{"its object has 3 bytes, not 99"}},
		{"same id", editA(func(p *Program) { p.ID = 2 }), []string{"programs a and b have the same id 2"}},
		{"new id", editA(func(p *Program) { p.ID = 3 }), []string{"program a has the id 3, but the last one given was 2"}},
		{"count", func(x *tx) error { return x.putNumber(bucketRefs, a.Object, 2) }, []string{"has 2 references, but 1 programs name it"}},
		{"no count", func(x *tx) error { return x.delete(bucketRefs, a.Object) }, []string{"has no reference count"}},
		{"no object", func(x *tx) error { return x.delete(bucketObjects, a.Object) }, []string{"program a: its object " + a.Object + " is missing"}},
		{"orphan", func(x *tx) error { return x.put(bucketObjects, sha, []byte("three")) }, []string{"no program names the object " + sha}},
		{"content", func(x *tx) error { return x.put(bucketObjects, a.Object, []byte("eno")) }, []string{"damaged: object " + a.Object}},
		{"no program", func(x *tx) error { return x.delete(bucketPrograms, "b") }, []string{"the chain of eth0 names the program b", "references, but 0 programs"}},
		{"interface", editChain(func(c *Chain) { c.Interface = "eth7" }), []string{"record of the chain of eth0 names the interface eth7"}},
		{"chain", editChain(func(c *Chain) { c.Chain.Mode = "fast" }), []string{"unknown mode"}},
		{"revision", editChain(func(c *Chain) { c.Revision, c.Revisions[0].Number = 8, 8 }), []string{"has revision 8, but the last one given was 1"}},
		{"slot", editChain(func(c *Chain) { c.Revisions[0].Slots[1].ProgramID = 9 }), []string{"revision 1 has the slots"}},
		{"disabled", editChain(func(c *Chain) { c.Chain.Members[0].Disabled = true }), []string{"revision 1 has the slots"}},
		{"not JSON", func(x *tx) error { return x.put(bucketChains, "eth0", []byte("{")) }, []string{`read "eth0" of chains`}},
		{"not a number", func(x *tx) error { return x.put(bucketRevisions, "eth0", []byte("one")) }, []string{`revisions of "eth0"`}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := openAt(t, t.TempDir()+"/xdpd.db")
			must(t, s.Save(Change{PutPrograms: []Program{a, b}, Objects: objects("one", "two"), PutChains: []Chain{chainOf(t, "eth0", 1, a, b)}}))
			must(t, s.Check())
			tamper(t, s, tt.tamper)
			err := s.Check()
			if err == nil {
				t.Fatal("nothing was found")
			}
			for _, want := range tt.finds {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q is missing in:\n%v", want, err)
				}
			}
		})
	}
}

func TestCheckFindsAll(t *testing.T) {
	s := openAt(t, t.TempDir()+"/xdpd.db")
	a := program(1, "a", "one")
	must(t, s.Save(Change{PutPrograms: []Program{a}, Objects: objects("one"), PutChains: []Chain{chainOf(t, "eth0", 1, a)}}))
	tamper(t, s, func(x *tx) error {
		return errors.Join(x.put(bucketMeta, keyProgramID, []byte("0")), x.delete(bucketRevisions, "eth0"), x.delete(bucketRefs, a.Object))
	})
	err := s.Check()
	var joined interface{ Unwrap() []error }
	if !errors.As(err, &joined) || len(joined.Unwrap()) != 3 {
		t.Errorf("%v", err)
	}
}

// A record that cannot be read is an error wherever it is needed, and what Save did before it met it is undone.
func TestUnreadableRecords(t *testing.T) {
	s := openAt(t, t.TempDir()+"/xdpd.db")
	a := program(1, "a", "one")
	must(t, s.Save(Change{BootID: "boot", PutPrograms: []Program{a}, Objects: objects("one")}))
	tamper(t, s, func(x *tx) error {
		return errors.Join(x.put(bucketPrograms, "bad", []byte("?")), x.put(bucketChains, "bad", []byte("?")), x.put(bucketRefs, hashOf([]byte("bad")), []byte("?")))
	})
	_, err1 := s.Programs()
	_, err2 := s.Chains()
	_, _, err3 := s.Program("bad")
	_, _, err4 := s.Chain("bad")
	for i, err := range []error{
		err1, err2, err3, err4, s.Check(),
		s.Save(Change{BootID: "x", DeletePrograms: []string{"bad"}}),
		s.Save(Change{BootID: "x", PutPrograms: []Program{program(3, "bad", "one")}}),
		s.Save(Change{BootID: "x", PutPrograms: []Program{program(4, "c", "bad")}, Objects: objects("bad")}),
		s.Save(Change{BootID: "x", PutChains: []Chain{{Interface: "bad", Chain: chain.New()}}}),
	} {
		if err == nil || errors.Is(err, ErrInvalid) {
			t.Errorf("%d: %v", i, err)
		}
	}
	if id, err := s.BootID(); err != nil || id != "boot" {
		t.Errorf("%q, %v", id, err)
	}
}
