// SPDX-License-Identifier: Apache-2.0

package store

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"

	"github.com/xdpd/xdpd/chain"
)

// Save makes a change durable: all of it when it returns nil, nothing of it otherwise.
//
// What comes of it must fit together, else ErrInvalid: each program's object is in the change or stored already and
// has the size given, no two programs have the same id, each chain is valid and has members that exist. Objects go
// with the last program that names them, and those in the change that no program names are not stored.
func (s *Store) Save(c Change) error {
	if c.isEmpty() {
		return nil
	}
	if err := c.validate(); err != nil {
		return fmt.Errorf("save to store %s: %w", s.path, err)
	}
	err := s.guarded("save to", func() error {
		return update(s.db, func(t *tx) error { return t.apply(c) })
	})
	if err != nil {
		return err
	}
	for _, p := range c.PutPrograms {
		s.raiseID(p.ID)
	}
	return nil
}

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrInvalid, fmt.Errorf(format, args...))
}

// validate checks all that can be told without the store.
func (c Change) validate() error {
	programs := newOnce("program", c.DeletePrograms)
	for _, p := range c.PutPrograms {
		if err := programs.put(p.Name); err != nil {
			return err
		}
		if err := p.validate(); err != nil {
			return err
		}
	}
	chains := newOnce("chain", c.DeleteChains)
	for _, ch := range c.PutChains {
		if err := chains.put(ch.Interface); err != nil {
			return err
		}
		if err := ch.validate(); err != nil {
			return err
		}
	}
	for sha, object := range c.Objects {
		if len(object) == 0 || hashOf(object) != sha {
			return invalid("object %q: %d bytes with the sha256 %s", sha, len(object), hashOf(object))
		}
	}
	return nil
}

// once finds names that are put twice, or put and deleted.
type once struct {
	noun           string
	deleted, names []string
}

func newOnce(noun string, deleted []string) *once { return &once{noun: noun, deleted: deleted} }

func (o *once) put(name string) error {
	if slices.Contains(o.names, name) {
		return invalid("%s %s is put twice", o.noun, name)
	}
	if slices.Contains(o.deleted, name) {
		return invalid("%s %s is put and deleted", o.noun, name)
	}
	o.names = append(o.names, name)
	return nil
}

func (p Program) validate() error {
	if err := chain.ValidName(p.Name); err != nil {
		return invalid("%w", err)
	}
	switch {
	case p.ID == 0:
		return invalid("program %s has no id", p.Name)
	case p.Function == "":
		return invalid("program %s has no function", p.Name)
	case !isHash(p.Object):
		return invalid("program %s: object %q is not a sha256 in hex", p.Name, p.Object)
	case p.Lifetime != "daemon" && p.Lifetime != "persistent" && p.Lifetime != "lease":
		return invalid("program %s: unknown lifetime %q", p.Name, p.Lifetime)
	}
	return nil
}

func (c Chain) validate() error {
	if c.Interface == "" || len(c.Interface) > 255 {
		return invalid("interface name %q", c.Interface)
	}
	if err := c.Chain.Validate(); err != nil {
		return invalid("chain of %s: %w", c.Interface, err)
	}
	for i, r := range c.Revisions {
		if len(r.Slots) > chain.MaxMembers {
			return invalid("chain of %s: revision %d has %d slots", c.Interface, r.Number, len(r.Slots))
		}
		if slices.ContainsFunc(c.Revisions[:i], func(o Revision) bool { return o.Number == r.Number }) {
			return invalid("chain of %s: revision %d twice", c.Interface, r.Number)
		}
	}
	if n := len(c.Revisions); n > 0 && c.Revisions[n-1].Number != c.Revision {
		return invalid("chain of %s: the last revision is %d, not the intended %d", c.Interface, c.Revisions[n-1].Number, c.Revision)
	}
	return nil
}

// highest returns the highest number of a revision that the chain names.
func (c Chain) highest() uint64 {
	highest := c.Revision
	for _, r := range c.Revisions {
		highest = max(highest, r.Number)
	}
	return highest
}

// apply makes the change, and then checks what came of it.
func (t *tx) apply(c Change) error {
	refs := map[string]int{} // by how much the number of an object's programs changes
	for _, name := range c.DeletePrograms {
		if err := t.dropProgram(name, refs); err != nil {
			return err
		}
	}
	for _, p := range c.PutPrograms {
		if err := t.dropProgram(p.Name, refs); err != nil {
			return err
		}
		refs[p.Object]++
		if err := t.putJSON(bucketPrograms, p.Name, p); err != nil {
			return err
		}
		if err := t.raise(bucketMeta, keyProgramID, p.ID); err != nil {
			return err
		}
	}
	if err := t.applyRefs(refs, c.Objects); err != nil {
		return err
	}
	for _, name := range c.DeleteChains {
		if err := t.delete(bucketChains, name); err != nil {
			return err
		}
	}
	for _, ch := range c.PutChains {
		if err := t.putChain(ch); err != nil {
			return err
		}
	}
	if c.BootID != "" {
		if err := t.put(bucketMeta, keyBootID, []byte(c.BootID)); err != nil {
			return err
		}
	}
	return t.verify(c)
}

// dropProgram deletes a program if there is one, and counts its reference down.
func (t *tx) dropProgram(name string, refs map[string]int) error {
	old, found, err := getJSON[Program](t.Tx, bucketPrograms, name)
	if err != nil || !found {
		return err
	}
	refs[old.Object]--
	return t.delete(bucketPrograms, name)
}

// applyRefs changes reference counts, adds objects that are new, and deletes those that are not needed any more.
func (t *tx) applyRefs(refs map[string]int, objects map[string][]byte) error {
	for sha, change := range refs {
		count, err := getNumber(t.Tx, bucketRefs, sha)
		if err != nil {
			return err
		}
		if change < 0 && count < uint64(-change) {
			return fmt.Errorf("object %s has %d references, and %d go", sha, count, -change)
		}
		count += uint64(change)
		if count == 0 {
			if err := t.delete(bucketRefs, sha); err != nil {
				return err
			}
			if err := t.delete(bucketObjects, sha); err != nil {
				return err
			}
			continue
		}
		if err := t.putNumber(bucketRefs, sha, count); err != nil {
			return err
		}
		if object, given := objects[sha]; given && get(t.Tx, bucketObjects, sha) == nil {
			if err := t.put(bucketObjects, sha, object); err != nil {
				return err
			}
		}
	}
	return nil
}

func (t *tx) putChain(c Chain) error {
	old, found, err := getJSON[Chain](t.Tx, bucketChains, c.Interface)
	if err != nil {
		return err
	}
	if found && old.Netns != c.Netns {
		return invalid("the chain of %s is of network namespace %q, not %q", c.Interface, old.Netns, c.Netns)
	}
	if err := t.putJSON(bucketChains, c.Interface, c); err != nil {
		return err
	}
	return t.raise(bucketRevisions, c.Interface, c.highest())
}

// verify checks that everything that the change touched has what it refers to.
func (t *tx) verify(c Change) error {
	for _, p := range c.PutPrograms {
		object := get(t.Tx, bucketObjects, p.Object)
		if object == nil {
			return invalid("program %s: its object %s is neither in the change nor in the store", p.Name, p.Object)
		}
		if uint64(len(object)) != p.Size {
			return invalid("program %s: its object has %d bytes, not %d", p.Name, len(object), p.Size)
		}
	}
	names, ids := map[string]bool{}, map[uint64]string{}
	err := each(t.Tx, bucketPrograms, func(name string, p Program) error {
		if other, taken := ids[p.ID]; taken {
			return invalid("programs %s and %s have the same id %d", other, name, p.ID)
		}
		names[name], ids[p.ID] = true, name
		return nil
	})
	if err != nil {
		return err
	}
	return each(t.Tx, bucketChains, func(name string, ch Chain) error {
		for _, m := range ch.Chain.Members {
			if !names[m.Program] {
				return invalid("the chain of %s names the program %s, which does not exist", name, m.Program)
			}
		}
		return nil
	})
}

func hashOf(object []byte) string {
	sum := sha256.Sum256(object)
	return hex.EncodeToString(sum[:])
}

// isHash tells whether s is what hashOf returns.
func isHash(s string) bool {
	raw, err := hex.DecodeString(s)
	return err == nil && len(raw) == sha256.Size && hex.EncodeToString(raw) == s
}
