// SPDX-License-Identifier: Apache-2.0

// Package store keeps what users asked for: programs, their objects, and chains, with the history of these and what it
// takes to undo changes that are pending, in one file, each change in one transaction. It is the truth of which the
// kernel is a cache; what is not in it will be taken off the interfaces.
//
// It imports chain for what a chain is, and bbolt, which no other package does.
package store

import (
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// Store is an open store. Its methods can be called from several goroutines.
type Store struct {
	path string
	file *os.File // the one that db uses

	nextID, nextPending atomic.Uint64 // the last ids that were given

	// mu serialises everything that touches db or broken: so that after a fault nobody waits for a lock of bbolt
	// that was left locked.
	mu     sync.Mutex
	db     *bolt.DB
	broken error // not nil: the file was damaged while it was open, and db is not touched any more
}

// Path returns where the file is.
func (s *Store) Path() string { return s.path }

// Close gives the file back. It can be called more than once.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.broken != nil {
		if err := s.file.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
			return fmt.Errorf("close store %s: %w", s.path, err)
		}
		return nil
	}
	if err := s.db.Close(); err != nil {
		return fmt.Errorf("close store %s: %w", s.path, err)
	}
	return nil
}

// view reads in one transaction.
func (s *Store) view(fn func(*bolt.Tx) error) error {
	return s.guarded("read", func() error { return s.db.View(fn) })
}

// guarded does something with db, and names the store in its error. The file is mapped into memory: when it is cut
// off or a disk fails under it, reading faults, which becomes an error here, as does what bbolt panics about.
func (s *Store) guarded(verb string, do func() error) (err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.broken != nil {
		return s.broken
	}
	defer func() {
		if r := recover(); r != nil {
			err = errDamaged(s.path, fmt.Errorf("%s: %v", verb, r))
			s.broken = err
		}
	}()
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	if err := do(); err != nil {
		if errors.Is(err, bolterrors.ErrDatabaseNotOpen) || errors.Is(err, os.ErrClosed) {
			err = ErrClosed
		}
		return fmt.Errorf("%s store %s: %w", verb, s.path, err)
	}
	return nil
}

// NextProgramID returns an id that no program has or had. It is taken for good once a program with it, or a higher
// one, is saved.
func (s *Store) NextProgramID() uint64 { return s.nextID.Add(1) }

// NextPendingID returns an id that no pending change has or had. It is taken for good once a pending change with it, or
// a higher one, is saved.
func (s *Store) NextPendingID() uint64 { return s.nextPending.Add(1) }

// raiseTo makes last at least id.
func raiseTo(last *atomic.Uint64, id uint64) {
	for {
		old := last.Load()
		if old >= id || last.CompareAndSwap(old, id) {
			return
		}
	}
}
