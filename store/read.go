// SPDX-License-Identifier: Apache-2.0

package store

import (
	"fmt"
	"slices"

	bolt "go.etcd.io/bbolt"
)

// Programs returns all programs, sorted by name.
func (s *Store) Programs() ([]Program, error) { return all[Program](s, bucketPrograms) }

// Chains returns all chains, sorted by interface.
func (s *Store) Chains() ([]Chain, error) { return all[Chain](s, bucketChains) }

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
		return nil, errDamaged(s.path, fmt.Errorf("object %s has the sha256 %s", sha, hashOf(object)))
	}
	return object, nil
}

// LastRevision returns the highest number of a revision that was ever saved for an interface, also when its chain
// is gone; 0 if there was none.
func (s *Store) LastRevision(iface string) (uint64, error) {
	var number uint64
	err := s.view(func(t *bolt.Tx) (err error) {
		number, err = getNumber(t, bucketRevisions, iface)
		return err
	})
	return number, err
}

// BootID returns the boot id that was saved last; empty if there was none.
func (s *Store) BootID() (string, error) {
	var id string
	err := s.view(func(t *bolt.Tx) error {
		id = string(get(t, bucketMeta, keyBootID))
		return nil
	})
	return id, err
}

func all[T any](s *Store, bucket string) ([]T, error) {
	var values []T
	err := s.view(func(t *bolt.Tx) error {
		return each(t, bucket, func(_ string, value T) error {
			values = append(values, value)
			return nil
		})
	})
	if err != nil {
		return nil, err
	}
	return values, nil
}

func one[T any](s *Store, bucket, key string) (value T, found bool, err error) {
	err = s.view(func(t *bolt.Tx) (err error) {
		value, found, err = getJSON[T](t, bucket, key)
		return err
	})
	return value, found, err
}
