// SPDX-License-Identifier: Apache-2.0

package store

import (
	"maps"
	"slices"
)

// moved is what goes along with a chain that gets another name.
type moved struct {
	chain    Chain
	history  []Entry
	revision uint64 // the highest of its old and its new name
}

// applyRenames gives chains other names, all at once.
func (t *tx) applyRenames(c Change) error {
	if len(c.RenameChains) == 0 {
		return nil
	}
	taken := map[string]moved{} // by new name
	for _, from := range slices.Sorted(maps.Keys(c.RenameChains)) {
		to := c.RenameChains[from]
		if _, moves := c.RenameChains[to]; !moves && get(t.Tx, bucketChains, to) != nil {
			return invalid("the chain of %s cannot become that of %s, which has one", from, to)
		}
		m, err := t.take(from, to)
		if err != nil {
			return err
		}
		taken[to] = m
	}
	for from, to := range c.RenameChains {
		if err := t.delete(bucketChains, from); err != nil {
			return err
		}
		for _, key := range entryKeys(t.Tx, from) {
			if err := t.delete(bucketHistory, key); err != nil { // it stays, under another key: so do its references
				return err
			}
		}
		if _, moves := c.RenameChains[to]; moves {
			continue
		}
		if err := t.dropEntries(entryKeys(t.Tx, to)); err != nil {
			return err
		}
	}
	for to, m := range taken {
		if err := t.settle(to, m); err != nil {
			return err
		}
	}
	return t.renamePending(c.RenameChains)
}

// take reads what one name has that will be another's.
func (t *tx) take(from, to string) (moved, error) {
	ch, found, err := getJSON[Chain](t.Tx, bucketChains, from)
	if err != nil {
		return moved{}, err
	}
	if !found {
		return moved{}, invalid("%s has no chain that could become that of %s", from, to)
	}
	m := moved{chain: ch}
	for _, name := range []string{from, to} {
		last, err := lastRevision(t.Tx, name)
		if err != nil {
			return moved{}, err
		}
		m.revision = max(m.revision, last)
	}
	for _, key := range entryKeys(t.Tx, from) {
		e, _, err := getJSON[Entry](t.Tx, bucketHistory, key)
		if err != nil {
			return moved{}, err
		}
		m.history = append(m.history, e)
	}
	return m, nil
}

// settle writes what was taken under its new name.
func (t *tx) settle(to string, m moved) error {
	m.chain.Interface = to
	if err := t.putJSON(bucketChains, to, m.chain); err != nil {
		return err
	}
	for _, e := range m.history {
		e.Interface = to
		if err := t.putJSON(bucketHistory, entryKey(to, e.Revision), e); err != nil {
			return err
		}
	}
	return t.raiseRevision(to, m.revision)
}

func (t *tx) renamePending(names map[string]string) error {
	pending, err := pendingIn(t.Tx)
	if err != nil {
		return err
	}
	for _, p := range pending {
		changed := false
		for i, ch := range p.Chains {
			if to, moves := names[ch.Interface]; moves {
				p.Chains[i].Interface, changed = to, true
			}
		}
		if !changed {
			continue
		}
		if err := t.putJSON(bucketPending, idKey(p.ID), p); err != nil {
			return err
		}
	}
	return nil
}
