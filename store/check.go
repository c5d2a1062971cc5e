// SPDX-License-Identifier: Apache-2.0

package store

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Check reads everything and returns all that is wrong, joined; nil if nothing is. Beyond what Open and Save see
// to, it compares objects with their sha256, reference counts with what refers to them, the intended revision of each
// chain with its members, ids and revisions with the highest that were given, and the file with what is in memory.
func (s *Store) Check() error {
	s.writing <- struct{}{}
	defer s.unlock()
	memory, err := s.remember()
	if err != nil {
		return err
	}
	if err := s.fault.get(); err != nil {
		return err
	}
	info, err := s.file.Stat()
	if err != nil {
		return fmt.Errorf("check store %s: %w", s.path, err)
	}
	i := scan(s.file, info.Size())
	problems := append(i.check(), i.unlike(memory)...)
	if len(problems) > 0 {
		return fmt.Errorf("check store %s: %w", s.path, errors.Join(problems...))
	}
	return nil
}

// unlike returns how the file differs from what is in memory.
func (i *image) unlike(memory records) []error {
	var found []error
	for _, bucket := range bucketNames(Schema) {
		if remembered(bucket) && !maps.EqualFunc(memory[bucket], i.records[bucket], bytes.Equal) {
			found = append(found, fmt.Errorf("%w: of %s, the file has other records than the daemon", ErrDamaged, bucket))
		}
	}
	return found
}

// check returns all that is wrong.
func (i *image) check() []error {
	c := &checker{image: i, leases: map[uint64]Lease{}, names: map[string]Program{}, ids: map[uint64]string{}, refs: map[string]uint64{}}
	c.problems = slices.Clone(i.damage)
	if i.schema == 0 {
		return c.problems
	}
	c.findLeases()
	c.programs()
	c.history()
	c.pending()
	c.numbers()
	c.references()
	c.chains()
	return c.problems
}

// checker gathers problems.
type checker struct {
	*image
	leases   map[uint64]Lease
	names    map[string]Program
	ids      map[uint64]string
	refs     map[string]uint64 // how often each object is named
	problems []error
}

func (c *checker) found(format string, args ...any) {
	c.problems = append(c.problems, fmt.Errorf(format, args...))
}

func (c *checker) unreadable(_ string, err error) { c.problems = append(c.problems, err) }

// last returns a number of bucketMeta.
func (c *checker) last(key string) uint64 {
	return numberOf(c.records, bucketMeta, key, func(err error) { c.unreadable("", err) })
}

func (c *checker) findLeases() {
	last, tokens := c.last(keyLeaseID), map[string]uint64{}
	eachOf(c.records, bucketLeases, func(key string, l Lease) {
		if idKey(l.ID) != key {
			c.found("the record %q of the leases is of %d", key, l.ID)
		}
		if err := l.validate(); err != nil {
			c.found("%w", err)
		}
		if l.ID > last {
			c.found("lease %d: the last id given was %d", l.ID, last)
		}
		if other, taken := tokens[l.Token]; taken {
			c.found("leases %d and %d have the same token", other, l.ID)
		}
		c.leases[l.ID], tokens[l.Token] = l, l.ID
	}, c.unreadable)
}

func (c *checker) programs() {
	last := c.last(keyProgramID)
	eachOf(c.records, bucketPrograms, func(name string, p Program) {
		if p.Name != name {
			c.found("the record of program %s names the program %s", name, p.Name)
		}
		if err := p.validate(); err != nil {
			c.found("program %s: %w", name, err)
		}
		if _, exists := c.leases[p.Lease]; p.Lease != 0 && !exists {
			c.found("program %s has the lease %d, which does not exist", name, p.Lease)
		}
		if other, taken := c.ids[p.ID]; taken {
			c.found("programs %s and %s have the same id %d", other, name, p.ID)
		}
		c.names[name], c.ids[p.ID] = p, name
		c.keeps("", last, []Program{p})
	}, c.unreadable)
}

// keeps counts what keeps the objects of programs, and looks for them. The prefix says where the programs are.
func (c *checker) keeps(prefix string, last uint64, programs []Program) {
	for _, p := range programs {
		c.refs[p.Object]++
		if size, found := c.objects[p.Object]; !found {
			c.found("%sprogram %s: its object %s is missing", prefix, p.Name, p.Object)
		} else if size != p.Size {
			c.found("%sprogram %s: its object has %d bytes, not %d", prefix, p.Name, size, p.Size)
		}
		if p.ID > last {
			c.found("%sprogram %s has the id %d, but the last one given was %d", prefix, p.Name, p.ID, last)
		}
	}
}

func (c *checker) history() {
	last := c.last(keyProgramID)
	eachOf(c.records, bucketHistory, func(key string, e Entry) {
		if entryKey(e.Interface, e.Revision) != key {
			c.found("the record %q of the history is of %v", key, e.key())
		}
		if err := e.validate(); err != nil {
			c.found("%w", err)
		}
		if highest := c.revision(e.Interface); e.Revision > highest {
			c.found("history of %v: the last revision given was %d", e.key(), highest)
		}
		c.keeps(fmt.Sprintf("history of %v: ", e.key()), last, e.Programs)
	}, c.unreadable)
}

// revision returns the number that is stored for an interface.
func (c *checker) revision(iface string) uint64 {
	return numberOf(c.records, bucketRevisions, iface, func(error) {}) // numbers tells
}

func (c *checker) pending() {
	lastID, lastProgram := c.last(keyPendingID), c.last(keyProgramID)
	var pending []Pending
	eachOf(c.records, bucketPending, func(key string, p Pending) {
		if idKey(p.ID) != key {
			c.found("the record %q of the pending changes is of %d", key, p.ID)
		}
		if err := p.validate(); err != nil {
			c.found("%w", err)
		}
		if p.ID > lastID {
			c.found("pending change %d: the last id given was %d", p.ID, lastID)
		}
		c.keeps(fmt.Sprintf("pending change %d: ", p.ID), lastProgram, p.Programs)
		pending = append(pending, p)
	}, c.unreadable)
	c.problems = append(c.problems, conflicts(c.names, pending)...)
}

// numbers looks at what is stored of interfaces that have no chain.
func (c *checker) numbers() {
	c.last(keyFloor)
	histories := map[string]bool{}
	for key := range c.records[bucketHistory] {
		iface, _, _ := strings.Cut(key, "\x00")
		histories[iface] = true
	}
	gone, strays := 0, 0
	for iface := range histories {
		if c.records[bucketChains][iface] == nil {
			gone++
		}
	}
	for iface := range c.records[bucketRevisions] {
		numberOf(c.records, bucketRevisions, iface, func(err error) { c.unreadable(iface, err) })
		if c.records[bucketChains][iface] == nil && !histories[iface] {
			strays++
		}
	}
	if gone > maxGone {
		c.found("%d interfaces without a chain have a history, the limit is %d", gone, maxGone)
	}
	if strays > maxGone {
		c.found("%d interfaces have neither chain nor history, but the number of a revision; the limit is %d", strays, maxGone)
	}
}

// references compares objects and reference counts with what was met that names them.
func (c *checker) references() {
	for sha := range c.records[bucketRefs] {
		count := numberOf(c.records, bucketRefs, sha, func(err error) { c.unreadable(sha, err) })
		if want := c.refs[sha]; count != want {
			c.found("object %s has %d references, but %d programs were found that name it", sha, count, want)
		}
	}
	for sha := range c.refs {
		if c.records[bucketRefs][sha] == nil {
			c.found("object %s has no reference count", sha)
		}
	}
	for sha := range c.objects {
		if c.refs[sha] == 0 {
			c.found("nothing names the object %s", sha)
		}
	}
}

func (c *checker) chains() {
	eachOf(c.records, bucketChains, func(name string, ch Chain) {
		if ch.Interface != name {
			c.found("the record of the chain of %s names the interface %s", name, ch.Interface)
		}
		if err := ch.validate(); err != nil {
			c.found("%w", err)
		}
		if n, highest := ch.highest(), c.revision(name); n > highest {
			c.found("the chain of %s has revision %d, but the last one given was %d", name, n, highest)
		}
		for _, m := range ch.Chain.Members {
			if _, exists := c.names[m.Program]; !exists {
				c.found("the chain of %s names the program %s, which does not exist", name, m.Program)
			}
		}
		if len(ch.Revisions) > 0 {
			c.slots(name, ch)
		}
	}, c.unreadable)
}

// slots compares the intended revision of a chain with its members.
func (c *checker) slots(name string, ch Chain) {
	var want []Slot
	for _, m := range ch.Chain.Enabled() {
		want = append(want, Slot{Program: m.Program, ProgramID: c.names[m.Program].ID})
	}
	if got := ch.Revisions[len(ch.Revisions)-1]; !slices.Equal(got.Slots, want) {
		c.found("the chain of %s: revision %d has the slots %v, but the members %v", name, got.Number, got.Slots, want)
	}
}
