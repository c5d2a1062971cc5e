// SPDX-License-Identifier: Apache-2.0

package store

import (
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// patience is how long after a fault is waited for what was under way. It may be waiting for a lock of bbolt that the
// goroutine with the fault left locked, and then it never ends.
const patience = 5 * time.Second

func newFault() fault { return fault{down: make(chan struct{}), patience: patience} }

// fault is what is wrong with the file of an open store.
type fault struct {
	down     chan struct{} // closed once something is wrong for good
	patience time.Duration

	mu     sync.Mutex // protects the rest
	broken error      // for good: the file is not touched any more
	failed error      // why the last change could not be written
}

// get returns what is wrong for good.
func (f *fault) get() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.broken
}

// set says what is wrong for good. It returns what was said first.
func (f *fault) set(err error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.broken == nil {
		f.broken = err
		close(f.down)
	}
	return f.broken
}

// tried notes how writing went.
func (f *fault) tried(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.failed = nil
	if err != nil {
		f.failed = fmt.Errorf("the last change could not be saved, at %s: %w", time.Now().Format(time.DateTime), err)
	}
}

// last returns what was noted.
func (f *fault) last() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.failed
}

// view reads from the file in one transaction. It does not wait for a change that is being written.
func (s *Store) view(fn func(*bolt.Tx) error) error {
	return s.guarded("read", func() error { return s.db.View(fn) })
}

// guarded does something with db, and names the store in its error. The file is mapped into memory: when it is cut
// off or a disk fails under it, reading faults, which becomes an error here, as does what bbolt panics about. From then on
// nothing is done with db any more, and nobody waits for what is.
func (s *Store) guarded(verb string, do func() error) error {
	if err := s.fault.get(); err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() { done <- s.caught(verb, do) }()
	select {
	case err := <-done:
		return err
	case <-s.fault.down:
	}
	late := time.NewTimer(s.fault.patience)
	defer late.Stop()
	select {
	case err := <-done:
		return err
	case <-late.C:
		return s.fault.get()
	}
}

func (s *Store) caught(verb string, do func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = s.fault.set(errDamaged(s.path, fmt.Errorf("%s: %v", verb, r)))
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
