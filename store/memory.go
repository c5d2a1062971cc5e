// SPDX-License-Identifier: Apache-2.0

package store

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync"
)

// records are records by bucket and key. Those that a Store remembers are not changed any more once others can see them.
type records map[string]map[string][]byte

// remembered tells whether records of a bucket are kept in memory.
func remembered(bucket string) bool {
	return bucket != bucketHistory && bucket != bucketObjects && bucket != bucketRefs
}

// add puts a copy of a record; without a value it is one that is deleted.
func (r records) add(bucket, key string, value []byte) {
	if r[bucket] == nil {
		r[bucket] = map[string][]byte{}
	}
	r[bucket][key] = slices.Clone(value)
}

// with returns the records after changes, of which those without a value are deleted.
func (r records) with(changes records) records {
	next := maps.Clone(r)
	for bucket, changed := range changes {
		next[bucket] = maps.Clone(r[bucket])
		for key, value := range changed {
			if value == nil {
				delete(next[bucket], key)
			} else {
				if next[bucket] == nil {
					next[bucket] = map[string][]byte{}
				}
				next[bucket][key] = value
			}
		}
	}
	return next
}

// remember returns what is in memory, or ErrClosed.
func (s *Store) remember() (records, error) {
	r := s.memory.Load()
	if r == nil {
		return nil, fmt.Errorf("read store %s: %w", s.path, ErrClosed)
	}
	return *r, nil
}

// decode reads a record.
func decode[T any](bucket, key string, data []byte) (value T, err error) {
	if err := json.Unmarshal(data, &value); err != nil {
		return value, fmt.Errorf("read %q of %s: %w", key, bucket, err)
	}
	return value, nil
}

// shelves keep what is asked for as a whole with each change.
type shelves struct {
	programs shelf[Program]
	chains   shelf[Chain]
	leases   shelf[Lease]
}

// shelf keeps what the records of a bucket say, so that each is decoded once.
type shelf[T any] struct {
	mu   sync.Mutex // protects kept
	kept map[string]decoded[T]
}

type decoded[T any] struct {
	data  []byte // which nobody changes
	value T
}

// all returns the records of the shelf's bucket, in the order of their keys. What is in them is shared.
func (s *shelf[T]) all(bucket string, of map[string][]byte) ([]T, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var values []T
	kept := make(map[string]decoded[T], len(of))
	for _, key := range slices.Sorted(maps.Keys(of)) {
		data := of[key]
		d := s.kept[key]
		if same := len(d.data) > 0 && len(d.data) == len(data) && &d.data[0] == &data[0]; !same {
			value, err := decode[T](bucket, key, data)
			if err != nil {
				return nil, err
			}
			d = decoded[T]{data, value}
		}
		kept[key] = d
		values = append(values, d.value)
	}
	s.kept = kept
	return values, nil
}

// shelved returns all records of a bucket as they are in memory.
func shelved[T any](s *Store, shelf *shelf[T], bucket string) ([]T, error) {
	r, err := s.remember()
	if err != nil {
		return nil, err
	}
	values, err := shelf.all(bucket, r[bucket])
	if err != nil {
		return nil, fmt.Errorf("read store %s: %w", s.path, err)
	}
	return values, nil
}

// all returns the records of a bucket that is remembered, in the order of their keys.
func all[T any](s *Store, bucket string) ([]T, error) {
	r, err := s.remember()
	if err != nil {
		return nil, err
	}
	var values []T
	for _, key := range slices.Sorted(maps.Keys(r[bucket])) {
		value, err := decode[T](bucket, key, r[bucket][key])
		if err != nil {
			return nil, fmt.Errorf("read store %s: %w", s.path, err)
		}
		values = append(values, value)
	}
	return values, nil
}

// one returns a record of a bucket that is remembered; false if there is none.
func one[T any](s *Store, bucket, key string) (value T, found bool, err error) {
	r, err := s.remember()
	if err != nil {
		return value, false, err
	}
	data, found := r[bucket][key]
	if !found {
		return value, false, nil
	}
	if value, err = decode[T](bucket, key, data); err != nil {
		return value, false, fmt.Errorf("read store %s: %w", s.path, err)
	}
	return value, true, nil
}
