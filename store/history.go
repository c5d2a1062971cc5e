// SPDX-License-Identifier: Apache-2.0

package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	bolt "go.etcd.io/bbolt"
)

// maxGone is how many interfaces without a chain keep their history.
const maxGone = 64

// History returns the newest entries of an interface, newest first, and not more than limit. One entry more than a
// Change's HistoryLimit is stored, so that when a change is put back, and its entry deleted, none is missed.
func (s *Store) History(iface string, limit int) ([]Entry, error) {
	var entries []Entry
	err := s.view(func(t *bolt.Tx) error {
		keys := entryKeys(t, iface)
		for _, key := range slices.Backward(keys) {
			if len(entries) >= limit {
				return nil
			}
			e, _, err := getJSON[Entry](t, bucketHistory, key)
			if err != nil {
				return err
			}
			entries = append(entries, e)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return entries, nil
}

// HistoryEntry returns the entry of a revision of an interface; false if there is none, or not any more.
func (s *Store) HistoryEntry(iface string, revision uint64) (Entry, bool, error) {
	var e Entry
	var found bool
	err := s.view(func(t *bolt.Tx) (err error) {
		e, found, err = getJSON[Entry](t, bucketHistory, entryKey(iface, revision))
		return err
	})
	if err != nil {
		return Entry{}, false, err
	}
	return e, found, nil
}

// String is for errors.
func (k EntryKey) String() string { return fmt.Sprintf("%s, revision %d", k.Interface, k.Revision) }

func (e Entry) key() EntryKey { return EntryKey{e.Interface, e.Revision} }

// entryKey returns the key of an entry. Those of an interface follow each other, in the order of revisions.
func entryKey(iface string, revision uint64) string {
	return string(binary.BigEndian.AppendUint64([]byte(iface+"\x00"), revision))
}

// entryKeys returns the keys of an interface's entries, oldest first.
func entryKeys(t *bolt.Tx, iface string) []string {
	var keys []string
	prefix := []byte(iface + "\x00")
	cursor := t.Bucket([]byte(bucketHistory)).Cursor()
	for k, _ := cursor.Seek(prefix); bytes.HasPrefix(k, prefix); k, _ = cursor.Next() {
		keys = append(keys, string(k))
	}
	return keys
}

// hasEntry tells whether an interface has a history.
func hasEntry(t *bolt.Tx, iface string) bool {
	prefix := []byte(iface + "\x00")
	k, _ := t.Bucket([]byte(bucketHistory)).Cursor().Seek(prefix)
	return bytes.HasPrefix(k, prefix)
}

// gone returns the interfaces that have a history and no chain. It jumps from one interface to the next.
func gone(t *bolt.Tx) []string {
	var ifaces []string
	cursor := t.Bucket([]byte(bucketHistory)).Cursor()
	for k, _ := cursor.First(); k != nil; {
		iface, _, _ := strings.Cut(string(k), "\x00")
		if get(t, bucketChains, iface) == nil {
			ifaces = append(ifaces, iface)
		}
		k, _ = cursor.Seek([]byte(iface + "\x01"))
	}
	return ifaces
}

func (t *tx) applyHistory(c Change) error {
	for _, k := range c.DeleteHistory {
		if err := drop[Entry](t, bucketHistory, entryKey(k.Interface, k.Revision)); err != nil {
			return err
		}
	}
	for _, e := range c.PutHistory {
		if err := keep(t, bucketHistory, entryKey(e.Interface, e.Revision), e); err != nil {
			return err
		}
		if err := t.raiseRevision(e.Interface, e.Revision); err != nil {
			return err
		}
	}
	for _, e := range c.PutHistory {
		keys := entryKeys(t.Tx, e.Interface)
		if c.HistoryLimit > 0 {
			keys = keys[:max(0, len(keys)-1-c.HistoryLimit)]
		}
		if err := t.dropEntries(keys); err != nil {
			return err
		}
	}
	if len(c.PutHistory)+len(c.DeleteHistory)+len(c.DeleteChains)+len(c.RenameChains) > 0 {
		return errors.Join(t.forgetGone(), t.forgetNumbers())
	}
	return nil
}

func (t *tx) dropEntries(keys []string) error {
	for _, key := range keys {
		if err := drop[Entry](t, bucketHistory, key); err != nil {
			return err
		}
	}
	return nil
}

// forgetGone deletes the history of interfaces without a chain, and the numbers of their revisions, until few enough are left:
// of those first in which nothing was done for the longest time.
func (t *tx) forgetGone() error {
	ifaces := gone(t.Tx)
	if len(ifaces) <= maxGone {
		return nil
	}
	newest := map[string]time.Time{}
	for _, iface := range ifaces {
		keys := entryKeys(t.Tx, iface)
		e, _, err := getJSON[Entry](t.Tx, bucketHistory, keys[len(keys)-1])
		if err != nil {
			return err
		}
		newest[iface] = e.Time
	}
	slices.SortStableFunc(ifaces, func(a, b string) int { return newest[a].Compare(newest[b]) })
	for _, iface := range ifaces[:len(ifaces)-maxGone] {
		if err := t.dropEntries(entryKeys(t.Tx, iface)); err != nil {
			return err
		}
		if err := t.forgetNumber(iface); err != nil {
			return err
		}
	}
	return nil
}
