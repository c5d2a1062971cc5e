// SPDX-License-Identifier: Apache-2.0

package store

import (
	"errors"
	"fmt"
	"slices"

	bolt "go.etcd.io/bbolt"
)

// Check reads everything and returns all that is wrong, joined; nil if nothing is. Beyond what Open and Save see
// to, it compares objects with their sha256, reference counts with what refers to them, the intended revision of each
// chain with its members, and ids and revisions with the highest that were given.
func (s *Store) Check() error {
	c := &checker{names: map[string]Program{}, ids: map[uint64]string{}, refs: map[string]uint64{}}
	err := s.guarded("check", func() error {
		info, err := s.file.Stat()
		if err != nil {
			return err
		}
		if _, err := inspect(s.file, info.Size()); err != nil {
			c.found("%w: %w", ErrDamaged, err)
		}
		return s.db.View(c.check)
	})
	if err != nil {
		return err
	}
	if len(c.problems) > 0 {
		return fmt.Errorf("check store %s: %w", s.path, errors.Join(c.problems...))
	}
	return nil
}

// checker gathers problems.
type checker struct {
	last     uint64 // the highest id of a program that was given
	names    map[string]Program
	ids      map[uint64]string
	refs     map[string]uint64 // how often each object is named
	problems []error
}

func (c *checker) found(format string, args ...any) {
	c.problems = append(c.problems, fmt.Errorf(format, args...))
}

// check returns an error only when a record cannot be read at all.
func (c *checker) check(t *bolt.Tx) (err error) {
	if c.last, err = getNumber(t, bucketMeta, keyProgramID); err != nil {
		return err
	}
	err = each(t, bucketPrograms, func(name string, p Program) error {
		c.program(t, name, p)
		return nil
	})
	if err != nil {
		return err
	}
	if err := c.history(t); err != nil {
		return err
	}
	if err := c.pending(t); err != nil {
		return err
	}
	if err := c.objects(t); err != nil {
		return err
	}
	return each(t, bucketChains, func(name string, ch Chain) error {
		highest, err := getNumber(t, bucketRevisions, name)
		if err != nil {
			return err
		}
		c.chain(name, ch, highest)
		return nil
	})
}

func (c *checker) program(t *bolt.Tx, name string, p Program) {
	if p.Name != name {
		c.found("the record of program %s names the program %s", name, p.Name)
	}
	if err := p.validate(); err != nil {
		c.found("program %s: %w", name, err)
	}
	if other, taken := c.ids[p.ID]; taken {
		c.found("programs %s and %s have the same id %d", other, name, p.ID)
	}
	c.names[name], c.ids[p.ID] = p, name
	c.keeps(t, "", []Program{p})
}

// keeps counts what keeps the objects of programs, and looks for them. The prefix says where the programs are.
func (c *checker) keeps(t *bolt.Tx, prefix string, programs []Program) {
	for _, p := range programs {
		c.refs[p.Object]++
		if object := get(t, bucketObjects, p.Object); object == nil {
			c.found("%sprogram %s: its object %s is missing", prefix, p.Name, p.Object)
		} else if uint64(len(object)) != p.Size {
			c.found("%sprogram %s: its object has %d bytes, not %d", prefix, p.Name, len(object), p.Size)
		}
		if p.ID > c.last {
			c.found("%sprogram %s has the id %d, but the last one given was %d", prefix, p.Name, p.ID, c.last)
		}
	}
}

func (c *checker) history(t *bolt.Tx) error {
	if n := len(gone(t)); n > maxGone {
		c.found("%d interfaces without a chain have a history, the limit is %d", n, maxGone)
	}
	return each(t, bucketHistory, func(key string, e Entry) error {
		if entryKey(e.Interface, e.Revision) != key {
			c.found("the record %q of the history is of %v", key, e.key())
		}
		if err := e.validate(); err != nil {
			c.found("%w", err)
		}
		highest, err := getNumber(t, bucketRevisions, e.Interface)
		if err != nil {
			return err
		}
		if e.Revision > highest {
			c.found("history of %v: the last revision given was %d", e.key(), highest)
		}
		c.keeps(t, fmt.Sprintf("history of %v: ", e.key()), e.Programs)
		return nil
	})
}

func (c *checker) pending(t *bolt.Tx) error {
	last, err := getNumber(t, bucketMeta, keyPendingID)
	if err != nil {
		return err
	}
	var pending []Pending
	err = each(t, bucketPending, func(key string, p Pending) error {
		if pendingKey(p.ID) != key {
			c.found("the record %q of the pending changes is of %d", key, p.ID)
		}
		if err := p.validate(); err != nil {
			c.found("%w", err)
		}
		if p.ID > last {
			c.found("pending change %d: the last id given was %d", p.ID, last)
		}
		c.keeps(t, fmt.Sprintf("pending change %d: ", p.ID), p.Programs)
		pending = append(pending, p)
		return nil
	})
	c.problems = append(c.problems, conflicts(c.names, pending)...)
	return err
}

// objects compares objects and reference counts with what was met that names them.
func (c *checker) objects(t *bolt.Tx) error {
	err := t.Bucket([]byte(bucketRefs)).ForEach(func(k, _ []byte) error {
		count, err := getNumber(t, bucketRefs, string(k))
		if want := c.refs[string(k)]; err == nil && count != want {
			c.found("object %s has %d references, but %d programs were found that name it", k, count, want)
		}
		return err
	})
	if err != nil {
		return err
	}
	for sha := range c.refs {
		if get(t, bucketRefs, sha) == nil {
			c.found("object %s has no reference count", sha)
		}
	}
	return t.Bucket([]byte(bucketObjects)).ForEach(func(k, object []byte) error {
		if c.refs[string(k)] == 0 {
			c.found("nothing names the object %s", k)
		}
		if sum := hashOf(object); sum != string(k) {
			c.found("%w: object %s has the sha256 %s", ErrDamaged, k, sum)
		}
		return nil
	})
}

func (c *checker) chain(name string, ch Chain, highest uint64) {
	if ch.Interface != name {
		c.found("the record of the chain of %s names the interface %s", name, ch.Interface)
	}
	if err := ch.validate(); err != nil {
		c.found("%w", err)
	}
	if n := ch.highest(); n > highest {
		c.found("the chain of %s has revision %d, but the last one given was %d", name, n, highest)
	}
	for _, m := range ch.Chain.Members {
		if _, exists := c.names[m.Program]; !exists {
			c.found("the chain of %s names the program %s, which does not exist", name, m.Program)
		}
	}
	if len(ch.Revisions) == 0 {
		return
	}
	var want []Slot
	for _, m := range ch.Chain.Enabled() {
		want = append(want, Slot{Program: m.Program, ProgramID: c.names[m.Program].ID})
	}
	if got := ch.Revisions[len(ch.Revisions)-1]; !slices.Equal(got.Slots, want) {
		c.found("the chain of %s: revision %d has the slots %v, but the members %v", name, got.Number, got.Slots, want)
	}
}
