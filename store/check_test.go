// SPDX-License-Identifier: Apache-2.0

package store

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/xdpd/xdpd/chain"
)

func TestCheckFinds(t *testing.T) {
	a, b, kept := program(1, "a", "one"), program(2, "b", "two"), program(3, "kept", "two")
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
	editEntry := func(f func(*Entry)) func(*tx) error {
		return func(x *tx) error {
			e := entryOf(t, "eth0", 1, a)
			f(&e)
			return x.putJSON(bucketHistory, entryKey("eth0", 1), e)
		}
	}
	editPending := func(f func(*Pending)) func(*tx) error {
		return func(x *tx) error {
			p := pendingOf(t, 1, "eth5", kept)
			f(&p)
			return x.putJSON(bucketPending, idKey(1), p)
		}
	}
	editLease := func(f func(*Lease)) func(*tx) error {
		return func(x *tx) error { l := leaseOf(1); f(&l); return x.putJSON(bucketLeases, idKey(1), l) }
	}
	for _, tt := range []struct {
		name   string
		tamper func(*tx) error
		finds  []string
	}{
		{"name", editA(func(p *Program) { p.Name = "c" }), []string{"record of program a names the program c"}},
		{"hash", editA(func(p *Program) { p.Object = "x" }), []string{
			`object "x" is not a sha256`, "object x is missing", "object x has no reference count",
			a.Object + " has 2 references, but 1 programs",
		}},
		{"size", editA(func(p *Program) { p.Size = 99 }), []string{"its object has 3 bytes, not 99"}},
		{"same id", editA(func(p *Program) { p.ID = 2 }), []string{"programs a and b have the same id 2"}},
		{"new id", editA(func(p *Program) { p.ID = 4 }), []string{"program a has the id 4, but the last one given was 3"}},
		{"count", func(x *tx) error { return x.putNumber(bucketRefs, a.Object, 3) }, []string{"has 3 references, but 2 programs were found"}},
		{"no count", func(x *tx) error { return x.delete(bucketRefs, a.Object) }, []string{"has no reference count"}},
		{"no object", func(x *tx) error { return x.delete(bucketObjects, a.Object) }, []string{"program a: its object " + a.Object + " is missing", "history of eth0, revision 1: program a: its"}},
		{"orphan", func(x *tx) error { return x.put(bucketObjects, sha, []byte("three")) }, []string{"nothing names the object " + sha}},
		{"content", func(x *tx) error { return x.put(bucketObjects, a.Object, []byte("eno")) }, []string{"damaged: object " + a.Object}},
		{"no program", func(x *tx) error { return x.delete(bucketPrograms, "b") }, []string{"the chain of eth0 names the program b", b.Object + " has 2 references, but 1 programs"}},
		{"interface", editChain(func(c *Chain) { c.Interface = "eth7" }), []string{"record of the chain of eth0 names the interface eth7"}},
		{"chain", editChain(func(c *Chain) { c.Chain.Mode = "fast" }), []string{"unknown mode"}},
		{"revision", editChain(func(c *Chain) { c.Revision, c.Revisions[0].Number = 8, 8 }), []string{"has revision 8, but the last one given was 1"}},
		{"slot", editChain(func(c *Chain) { c.Revisions[0].Slots[1].ProgramID = 9 }), []string{"revision 1 has the slots"}},
		{"disabled", editChain(func(c *Chain) { c.Chain.Members[0].Disabled = true }), []string{"revision 1 has the slots"}},
		{"entry's name", editEntry(func(e *Entry) { e.Interface = "eth1" }), []string{`record "eth0\x00`, "is of eth1, revision 1", "the last revision given was 0"}},
		{"entry's revision", editEntry(func(e *Entry) { e.Revision = 2 }), []string{"is of eth0, revision 2", "eth0, revision 2: the last revision given was 1"}},
		{"entry's chain", editEntry(func(e *Entry) { e.Chain.Members = nil }), []string{"history of eth0, revision 1: program a is not a member"}},
		{"entry's program", editEntry(func(e *Entry) { e.Programs[0].ID = 9 }), []string{"history of eth0, revision 1: program a has the id 9"}},
		{"entry's size", editEntry(func(e *Entry) { e.Programs[0].Size = 9 }), []string{"history of eth0, revision 1: program a: its object has 3 bytes, not 9"}},
		{"entry's object", editEntry(func(e *Entry) { e.Programs[0].Object = b.Object }), []string{a.Object + " has 2 references, but 1", b.Object + " has 2 references, but 3"}},
		{"no entry", func(x *tx) error { return x.delete(bucketHistory, entryKey("eth0", 1)) }, []string{a.Object + " has 2 references, but 1"}},
		{"many gone", func(x *tx) error {
			var all []error
			for i := range maxGone + 1 {
				e := entryOf(t, fmt.Sprint("gone", i), 1)
				all = append(all, x.putJSON(bucketHistory, entryKey(e.Interface, 1), e), x.putNumber(bucketRevisions, e.Interface, 1))
			}
			return errors.Join(all...)
		}, []string{"65 interfaces without a chain have a history, the limit is 64"}},
		{"entry not JSON", func(x *tx) error { return x.put(bucketHistory, "eth0", []byte("{")) }, []string{`read "eth0" of history`}},
		{"revision of an entry", func(x *tx) error { return x.put(bucketRevisions, "eth0", []byte("?")) }, []string{`revisions of "eth0"`}},
		{"many numbers", func(x *tx) error {
			var all []error
			for i := range maxGone + 1 {
				all = append(all, x.putNumber(bucketRevisions, fmt.Sprint("gone", i), 1))
			}
			return errors.Join(all...)
		}, []string{"65 interfaces have neither chain nor history"}},
		{"no lease", editA(func(p *Program) { *p = leased(*p, 9) }), []string{"program a has the lease 9, which does not exist"}},
		{"lease's id", editLease(func(l *Lease) { l.ID = 2 }), []string{`record "\x00\x00\x00\x00\x00\x00\x00\x01" of the leases is of 2`, "lease 2: the last id given was 1"}},
		{"lease's token", editLease(func(l *Lease) { l.Token = "" }), []string{"lease 1: a token of 0 bytes"}},
		{"tokens", func(x *tx) error {
			l := leaseOf(1)
			l.ID = 2
			return errors.Join(x.putJSON(bucketLeases, idKey(2), l), x.putNumber(bucketMeta, keyLeaseID, 2))
		}, []string{"leases 1 and 2 have the same token"}},
		{"lease not JSON", func(x *tx) error { return x.put(bucketLeases, "1", []byte("{")) }, []string{`read "1" of leases`}},
		{"lease number", func(x *tx) error { return x.put(bucketMeta, keyLeaseID, []byte("?")) }, []string{`meta of "last_lease_id"`}},
		{"floor", func(x *tx) error { return x.put(bucketMeta, keyFloor, []byte("?")) }, []string{`meta of "revision_floor"`}},
		{"pending id", editPending(func(p *Pending) { p.ID = 2 }), []string{`record "\x00\x00\x00\x00\x00\x00\x00\x01" of the pending changes is of 2`, "pending change 2: the last id given was 1"}},
		{"pending deadline", editPending(func(p *Pending) { p.Deadline = 0 }), []string{"pending change 1: deadline 0s"}},
		{"pending program", editPending(func(p *Pending) { p.Programs[0].ID = 9 }), []string{"pending change 1: program kept has the id 9"}},
		{"pending program's id", editPending(func(p *Pending) { p.Programs[0].ID = 2 }), []string{"program b and program kept, which pending change 1 keeps, have the same id 2"}},
		{"pending object", editPending(func(p *Pending) { p.Programs[0].Object = sha }), []string{"pending change 1: program kept: its object " + sha + " is missing", "object " + sha + " has no reference count"}},
		{"pending member", editPending(func(p *Pending) { p.Programs = nil }), []string{"would bring the program kept back on eth5", b.Object + " has 2 references, but 1"}},
		{"pending twice", func(x *tx) error {
			return errors.Join(x.putJSON(bucketPending, idKey(2), pendingOf(t, 2, "eth5", kept)), x.putNumber(bucketMeta, keyPendingID, 2))
		}, []string{"pending changes 1 and 2 both change the interface eth5", "pending changes 1 and 2 both change the program kept"}},
		{"pending not JSON", func(x *tx) error { return x.put(bucketPending, "1", []byte("{")) }, []string{`read "1" of pending`}},
		{"pending number", func(x *tx) error { return x.put(bucketMeta, keyPendingID, []byte("?")) }, []string{`meta of "last_pending_id"`}},
		{"program number", func(x *tx) error { return x.put(bucketMeta, keyProgramID, []byte("?")) }, []string{`meta of "last_program_id"`}},
		{"count not a number", func(x *tx) error { return x.put(bucketRefs, a.Object, []byte("?")) }, []string{`refs of "`}},
		{"revision of a chain", func(x *tx) error {
			return errors.Join(x.delete(bucketHistory, entryKey("eth0", 1)), x.put(bucketRevisions, "eth0", []byte("?")))
		}, []string{`revisions of "eth0"`}},
		{"not JSON", func(x *tx) error { return x.put(bucketChains, "eth0", []byte("{")) }, []string{`read "eth0" of chains`}},
		{"not a number", func(x *tx) error { return x.put(bucketRevisions, "eth0", []byte("one")) }, []string{`revisions of "eth0"`}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := openAt(t, t.TempDir()+"/xdpd.db")
			must(t, s.Save(Change{
				PutPrograms: []Program{a, b}, Objects: objects("one", "two"), PutChains: []Chain{chainOf(t, "eth0", 1, a, b)},
				PutHistory: []Entry{entryOf(t, "eth0", 1, a)}, HistoryLimit: 1, PutPending: []Pending{pendingOf(t, 1, "eth5", kept)},
				PutLeases: []Lease{leaseOf(1)},
			}))
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
	tamper(t, s, func(x *tx) error {
		return errors.Join(x.put(bucketHistory, entryKey("bad", 1), []byte("?")), x.put(bucketPending, idKey(1), []byte("?")), x.put(bucketRevisions, "worse", []byte("?")))
	})
	_, err1 := s.Programs()
	_, err2 := s.Chains()
	_, _, err3 := s.Program("bad")
	_, _, err4 := s.Chain("bad")
	_, err5 := s.History("bad", 1)
	_, _, err6 := s.HistoryEntry("bad", 1)
	_, err7 := s.Pending()
	for i, err := range []error{
		err1, err2, err3, err4, err5, err6, err7, s.Check(),
		s.Save(Change{BootID: "x", DeletePrograms: []string{"bad"}}),
		s.Save(Change{BootID: "x", PutPrograms: []Program{program(3, "bad", "one")}}),
		s.Save(Change{BootID: "x", PutPrograms: []Program{program(4, "c", "bad")}, Objects: objects("bad")}),
		s.Save(Change{BootID: "x", PutChains: []Chain{{Interface: "bad", Chain: chain.New()}}}),
		s.Save(Change{BootID: "x", PutHistory: []Entry{entryOf(t, "bad", 1)}, HistoryLimit: 1}),
		s.Save(Change{BootID: "x", PutHistory: []Entry{entryOf(t, "bad", 2)}}),
		s.Save(Change{BootID: "x", PutHistory: []Entry{entryOf(t, "worse", 1)}, HistoryLimit: 1}),
		s.Save(Change{BootID: "x", DeleteHistory: []EntryKey{{"bad", 1}}}),
		s.Save(Change{BootID: "x", PutPending: []Pending{pendingOf(t, 1, "eth0")}}),
		s.Save(Change{BootID: "x", DeletePending: []uint64{1}}),
	} {
		if err == nil || errors.Is(err, ErrInvalid) {
			t.Errorf("%d: %v", i, err)
		}
	}
	tamper(t, s, func(x *tx) error {
		return errors.Join(x.delete(bucketPrograms, "bad"), x.delete(bucketChains, "bad"), x.put(bucketMeta, keyPendingID, []byte("?")))
	})
	for i, c := range []Change{
		{BootID: "x"}, // finds the pending change
		{BootID: "x", PutPending: []Pending{pendingOf(t, 2, "eth0")}},
	} {
		if err := s.Save(c); err == nil || errors.Is(err, ErrInvalid) {
			t.Errorf("%d: %v", i, err)
		}
	}
	tamper(t, s, func(x *tx) error { return x.put(bucketMeta, keyProgramID, []byte("?")) })
	if err := s.Save(Change{BootID: "x", PutPrograms: []Program{program(5, "d", "one")}}); err == nil || errors.Is(err, ErrInvalid) {
		t.Error(err)
	}
	if id, err := s.BootID(); err != nil || id != "boot" {
		t.Errorf("%q, %v", id, err)
	}
}
