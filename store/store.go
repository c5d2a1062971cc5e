// SPDX-License-Identifier: Apache-2.0

// Package store keeps what users asked for: programs, their objects, leases, and chains, with the history of these and what
// it takes to undo changes that are pending, in one file, each change in one transaction. It is the truth of which the
// kernel is a cache; what is not in it will be taken off the interfaces.
//
// It imports chain for what a chain is, and bbolt, which no other package does.
package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"syscall"

	bolt "go.etcd.io/bbolt"
)

// Store is an open store. Its methods can be called from several goroutines.
//
// What is asked for all the time is answered from memory, also while a change is being written, however long the disk takes,
// and when the file is lost: programs, chains, pending changes, leases and numbers. Objects and the history are read from
// the file.
type Store struct {
	path string
	file *os.File // the one that db uses

	nextID, nextPending, nextLease atomic.Uint64 // the last ids that were given

	memory  atomic.Pointer[records] // as they were saved last; nil when closed
	shelves shelves                 // of memory
	fault   fault

	writing chan struct{} // is full while somebody has it: who changes the file, from before looking at it until all is done; protects seen
	seen    stamp
	db      *bolt.DB // not touched after a fault
}

// lock waits for the changes before, until ctx ends. The error is the cause.
func (s *Store) lock(ctx context.Context) error {
	select {
	case s.writing <- struct{}{}:
		return nil
	default:
	}
	select {
	case s.writing <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (s *Store) unlock() { <-s.writing }

// FileName is what the store's file is called in its folder.
const FileName = "xdpd.db"

// Path returns where the file is.
func (s *Store) Path() string { return s.path }

// Close gives the file back. It can be called more than once.
func (s *Store) Close() error {
	s.writing <- struct{}{}
	defer s.unlock()
	s.memory.Store(nil)
	if s.fault.get() != nil {
		// The file stays mapped, as nobody knows what bbolt is at, and that alone would keep the lock.
		err := syscall.Flock(int(s.file.Fd()), syscall.LOCK_UN)
		if err = errors.Join(err, s.file.Close()); err != nil && !errors.Is(err, os.ErrClosed) {
			return fmt.Errorf("close store %s: %w", s.path, err)
		}
		return nil
	}
	if err := s.db.Close(); err != nil {
		return fmt.Errorf("close store %s: %w", s.path, err)
	}
	return nil
}

// Problem returns why a change could not be saved now, as far as that can be told without writing: what was wrong with
// the file, or at the last try. nil: nothing is known.
func (s *Store) Problem() error {
	if s.memory.Load() == nil {
		return nil
	}
	if err := s.fault.get(); err != nil {
		return err
	}
	if err := s.inPlace(); err != nil {
		return err
	}
	return s.fault.last()
}

// NextProgramID returns an id that no program has or had. It is taken for good once a program with it, or a higher
// one, is saved.
func (s *Store) NextProgramID() uint64 { return s.nextID.Add(1) }

// NextPendingID returns an id that no pending change has or had. It is taken for good once a pending change with it, or
// a higher one, is saved.
func (s *Store) NextPendingID() uint64 { return s.nextPending.Add(1) }

// NextLeaseID returns an id that no lease has or had. It is taken for good once a lease with it, or a higher one, is
// saved.
func (s *Store) NextLeaseID() uint64 { return s.nextLease.Add(1) }

// raiseTo makes last at least id.
func raiseTo(last *atomic.Uint64, id uint64) {
	for {
		old := last.Load()
		if old >= id || last.CompareAndSwap(old, id) {
			return
		}
	}
}
