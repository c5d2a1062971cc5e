// SPDX-License-Identifier: Apache-2.0

package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
)

// Save makes a change durable: all of it when it returns nil, nothing of it otherwise.
//
// What comes of it must fit together, else ErrInvalid: the object of each program that is put, kept by the history or by
// a pending change is in the change or stored already and has the size given; no two programs have the same id (one that a
// pending change keeps can have that of the one that exists if it is loaded the same, so that its pins serve both); each
// chain is valid and has members that exist; each interface and each program is in one pending change at most, and
// each member of a chain that a pending change would bring back is a program that exists or that the change keeps; the lease
// of each program exists, but not that of programs that are only kept; no two leases have the same token.
// Objects go with the last of these that names them, and those in the change that none names are not stored.
func (s *Store) Save(c Change) error { return s.SaveWithin(context.Background(), c) }

// SaveWithin is Save that gives up, with the cause in the error, if ctx ends while a change before it takes its time. What has
// begun goes on to its end.
func (s *Store) SaveWithin(ctx context.Context, c Change) error {
	if c.isEmpty() {
		return nil
	}
	if err := c.validate(); err != nil {
		return fmt.Errorf("save to store %s: %w", s.path, err)
	}
	if err := s.write(ctx, "save to", func(t *tx) error { return t.apply(c) }); err != nil {
		return err
	}
	for _, l := range c.PutLeases {
		raiseTo(&s.nextLease, l.ID)
	}
	for _, p := range c.PutPrograms {
		raiseTo(&s.nextID, p.ID)
	}
	for _, e := range c.PutHistory {
		for _, p := range e.Programs {
			raiseTo(&s.nextID, p.ID)
		}
	}
	for _, pending := range c.PutPending {
		raiseTo(&s.nextPending, pending.ID)
		for _, p := range pending.Programs {
			raiseTo(&s.nextID, p.ID)
		}
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

// keeper is a record that keeps the objects of programs.
type keeper interface{ keeps() []Program }

func (p Program) keeps() []Program { return []Program{p} }

func (e Entry) keeps() []Program { return e.Programs }

func (p Pending) keeps() []Program { return p.Programs }

// keep puts a record and counts its references. It replaces one with the same key.
func keep[T keeper](t *tx, bucket, key string, record T) error {
	if err := drop[T](t, bucket, key); err != nil {
		return err
	}
	for _, p := range record.keeps() {
		t.refs[p.Object]++
		if err := t.raise(bucketMeta, keyProgramID, p.ID); err != nil {
			return err
		}
	}
	return t.putJSON(bucket, key, record)
}

// drop deletes a record if there is one, and counts its references down.
func drop[T keeper](t *tx, bucket, key string) error {
	old, found, err := getJSON[T](t.Tx, bucket, key)
	if err != nil || !found {
		return err
	}
	for _, p := range old.keeps() {
		t.refs[p.Object]--
	}
	return t.delete(bucket, key)
}

// apply makes the change, and then checks what came of it.
func (t *tx) apply(c Change) error {
	for _, do := range []func(Change) error{
		t.applyRenames, t.applyLeases, t.applyPrograms, t.applyChains, t.applyHistory, t.applyPending, t.applyRefs,
	} {
		if err := do(c); err != nil {
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

func (t *tx) applyPrograms(c Change) error {
	for _, name := range c.DeletePrograms {
		if err := drop[Program](t, bucketPrograms, name); err != nil {
			return err
		}
	}
	for _, p := range c.PutPrograms {
		if err := keep(t, bucketPrograms, p.Name, p); err != nil {
			return err
		}
	}
	return nil
}

func (t *tx) applyChains(c Change) error {
	for _, name := range c.DeleteChains {
		if err := t.delete(bucketChains, name); err != nil {
			return err
		}
	}
	for _, ch := range c.PutChains {
		if err := t.putJSON(bucketChains, ch.Interface, ch); err != nil {
			return err
		}
		if err := t.raiseRevision(ch.Interface, ch.highest()); err != nil {
			return err
		}
	}
	return nil
}

// applyRefs changes reference counts, adds objects that are new, and deletes those that are not needed any more.
func (t *tx) applyRefs(c Change) error {
	for sha, change := range t.refs {
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
		// One that is there already and is damaged is mended.
		if object, given := c.Objects[sha]; given && !bytes.Equal(get(t.Tx, bucketObjects, sha), object) {
			if err := t.put(bucketObjects, sha, object); err != nil {
				return err
			}
		}
	}
	return nil
}

// verify checks that everything that the change touched has what it refers to.
func (t *tx) verify(c Change) error {
	if err := t.verifyObjects(c); err != nil {
		return err
	}
	next := t.was.with(t.changed)
	leases, err := t.leases(next)
	if err != nil {
		return err
	}
	all, err := t.shelves.programs.all(bucketPrograms, next[bucketPrograms])
	if err != nil {
		return err
	}
	programs, ids := make(map[string]Program, len(all)), make(map[uint64]string, len(all))
	for _, p := range all {
		if other, taken := ids[p.ID]; taken {
			return invalid("programs %s and %s have the same id %d", other, p.Name, p.ID)
		}
		if !leases[p.Lease] && p.Lease != 0 {
			return invalid("program %s has the lease %d, which does not exist", p.Name, p.Lease)
		}
		programs[p.Name], ids[p.ID] = p, p.Name
	}
	chains, err := t.shelves.chains.all(bucketChains, next[bucketChains])
	if err != nil {
		return err
	}
	for _, ch := range chains {
		for _, m := range ch.Chain.Members {
			if _, exists := programs[m.Program]; !exists {
				return invalid("the chain of %s names the program %s, which does not exist", ch.Interface, m.Program)
			}
		}
	}
	pending, err := pendingIn(t.Tx)
	if err != nil {
		return err
	}
	if found := conflicts(programs, pending); len(found) > 0 {
		return invalid("%w", errors.Join(found...))
	}
	return nil
}

// verifyObjects checks that what was put and is still there has its objects.
func (t *tx) verifyObjects(c Change) error {
	programs := slices.Clone(c.PutPrograms)
	for _, e := range c.PutHistory {
		if get(t.Tx, bucketHistory, entryKey(e.Interface, e.Revision)) != nil {
			programs = append(programs, e.Programs...)
		}
	}
	for _, p := range c.PutPending {
		programs = append(programs, p.Programs...)
	}
	for _, p := range programs {
		object := get(t.Tx, bucketObjects, p.Object)
		if object == nil {
			return invalid("program %s: its object %s is neither in the change nor in the store", p.Name, p.Object)
		}
		if uint64(len(object)) != p.Size {
			return invalid("program %s: its object has %d bytes, not %d", p.Name, len(object), p.Size)
		}
	}
	return nil
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
