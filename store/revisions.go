// SPDX-License-Identifier: Apache-2.0

package store

import bolt "go.etcd.io/bbolt"

// Interfaces with names that never come back must not fill the store with the numbers of their revisions. Those that are
// forgotten leave the highest of their numbers as the floor of all interfaces that the store does not know.

// lastRevision returns the highest number of an interface, or the floor if it is not known.
func lastRevision(t *bolt.Tx, iface string) (uint64, error) {
	if get(t, bucketRevisions, iface) == nil {
		return getNumber(t, bucketMeta, keyFloor)
	}
	return getNumber(t, bucketRevisions, iface)
}

// raiseRevision makes the highest number of an interface at least n.
func (t *tx) raiseRevision(iface string, n uint64) error {
	last, err := lastRevision(t.Tx, iface)
	if err != nil {
		return err
	}
	return t.raise(bucketRevisions, iface, max(n, last))
}

// forgetNumber makes an interface one that the store does not know.
func (t *tx) forgetNumber(iface string) error {
	n, err := getNumber(t.Tx, bucketRevisions, iface)
	if err != nil {
		return err
	}
	if err := t.raise(bucketMeta, keyFloor, n); err != nil {
		return err
	}
	return t.delete(bucketRevisions, iface)
}

// strays returns the interfaces that have neither a chain nor a history, but still a number.
func strays(t *bolt.Tx) []string {
	var ifaces []string
	cursor := t.Bucket([]byte(bucketRevisions)).Cursor()
	for k, _ := cursor.First(); k != nil; k, _ = cursor.Next() {
		iface := string(k)
		if get(t, bucketChains, iface) == nil && !hasEntry(t, iface) {
			ifaces = append(ifaces, iface)
		}
	}
	return ifaces
}

// forgetNumbers forgets all strays when there are too many.
func (t *tx) forgetNumbers() error {
	ifaces := strays(t.Tx)
	if len(ifaces) <= maxGone {
		return nil
	}
	for _, iface := range ifaces {
		if err := t.forgetNumber(iface); err != nil {
			return err
		}
	}
	return nil
}
