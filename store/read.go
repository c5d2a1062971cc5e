// SPDX-License-Identifier: Apache-2.0

package store

import (
	"fmt"
	"slices"

	bolt "go.etcd.io/bbolt"
)

// Programs returns all programs, sorted by name. The slice is the caller's; the maps and slices in it are shared, and nobody
// may change them.
func (s *Store) Programs() ([]Program, error) { return shelved(s, &s.shelves.programs, bucketPrograms) }

// Chains returns all chains, sorted by interface. They are shared as those of Programs.
func (s *Store) Chains() ([]Chain, error) { return shelved(s, &s.shelves.chains, bucketChains) }

// Leases returns all leases, sorted by id. They are shared as those of Programs.
func (s *Store) Leases() ([]Lease, error) { return shelved(s, &s.shelves.leases, bucketLeases) }

// Program returns the program of that name; false if there is none.
func (s *Store) Program(name string) (Program, bool, error) {
	return one[Program](s, bucketPrograms, name)
}

// Chain returns the chain of an interface; false if there is none.
func (s *Store) Chain(iface string) (Chain, bool, error) {
	return one[Chain](s, bucketChains, iface)
}

// Object returns the object with that sha256 in hex, which the caller owns. Errors: ErrNotFound, and ErrDamaged if
// it is not what it was when it was saved.
func (s *Store) Object(sha string) ([]byte, error) {
	var object []byte
	err := s.view(func(t *bolt.Tx) error {
		object = slices.Clone(get(t, bucketObjects, sha))
		return nil
	})
	switch {
	case err != nil:
		return nil, err
	case object == nil:
		return nil, fmt.Errorf("object %q in store %s: %w", sha, s.path, ErrNotFound)
	case hashOf(object) != sha:
		return nil, fmt.Errorf("object %s in store %s: %w: it has the sha256 %s; add any program with the right object, and it is mended; xdpd store check tells what else is wrong",
			sha, s.path, ErrDamaged, hashOf(object))
	}
	return object, nil
}

// LastRevision returns a number that no revision of an interface was ever saved above, also when its chain is gone. It is the
// highest that was saved while the interface has a chain or a history, and can be higher for one that the store does not know
// any more: then it is that of all those that it forgot.
func (s *Store) LastRevision(iface string) (uint64, error) {
	r, err := s.remember()
	if err != nil {
		return 0, err
	}
	n, err := number(bucketMeta, keyFloor, r[bucketMeta][keyFloor])
	if own, known := r[bucketRevisions][iface]; known {
		n, err = number(bucketRevisions, iface, own)
	}
	if err != nil {
		return 0, fmt.Errorf("read store %s: %w", s.path, err)
	}
	return n, nil
}

// BootID returns the boot id that was saved last; empty if there was none.
func (s *Store) BootID() (string, error) {
	r, err := s.remember()
	return string(r[bucketMeta][keyBootID]), err
}
