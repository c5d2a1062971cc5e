// SPDX-License-Identifier: Apache-2.0

package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"time"

	bolt "go.etcd.io/bbolt"
)

// verifyEvery is how old the last look at all pages may be when a change is made, even if nothing tells that the file was
// touched.
const verifyEvery = time.Minute

// stamp is by what a file that somebody else wrote to is told.
type stamp struct {
	size         int64
	mtime, ctime syscall.Timespec
	verified     time.Time // when all pages were looked at
}

// write makes a change in one transaction. What fn puts and deletes is remembered once it is on disk. If ctx ends before
// the change begins, as another one takes its time, nothing is done, and the error is the cause.
func (s *Store) write(ctx context.Context, verb string, fn func(*tx) error) error {
	if err := s.lock(ctx); err != nil {
		return fmt.Errorf("%s store %s: wait for the changes before: %w", verb, s.path, err)
	}
	defer s.unlock()
	if err := s.fault.get(); err != nil {
		return err
	}
	was, err := s.remember()
	if err != nil {
		return err
	}
	if err := s.inPlace(); err != nil {
		return err
	}
	metas, err := s.untouched(was)
	switch {
	case s.fault.get() != nil:
		return s.fault.get()
	case err != nil:
		err = fmt.Errorf("%s store %s: %w", verb, s.path, err)
		s.fault.tried(err)
		return err
	}
	var changed records
	committing := false
	err = s.guarded(verb, func() error {
		return s.db.Update(func(t *bolt.Tx) error {
			x := newTx(t)
			x.was, x.shelves = was, &s.shelves
			if err := x.do(fn); err != nil {
				return err
			}
			changed, committing = x.changed, true
			return nil
		})
	})
	switch {
	case err == nil:
		next := was.with(changed)
		s.memory.Store(&next)
		now, err := stampOf(s.file)
		if err != nil {
			now = stamp{} // the next change looks at everything
		}
		now.verified = s.seen.verified
		s.seen = now
	case s.fault.get() != nil || !committing:
		return err
	default:
		err = s.takeBack(metas, err)
	}
	s.fault.tried(err)
	return err
}

// Verify returns why a change could not be saved now, or the file not be opened again: what Problem knows, and what a look at all
// pages finds, which is the end of the store as at a change. It waits for the change that is being made, until ctx ends.
func (s *Store) Verify(ctx context.Context) error {
	if err := s.lock(ctx); err != nil {
		return fmt.Errorf("verify store %s: wait for the changes before: %w", s.path, err)
	}
	defer s.unlock()
	was, err := s.remember()
	if err != nil {
		return err
	}
	if err := s.Problem(); err != nil {
		return err
	}
	s.seen.verified = time.Time{} // it looks, whatever the times of the file
	_, err = s.untouched(was)
	switch {
	case s.fault.get() != nil:
		return s.fault.get()
	case err != nil:
		return fmt.Errorf("verify store %s: %w", s.path, err)
	}
	return nil
}

// untouched returns the meta pages, and an error unless the file is as it was left.
func (s *Store) untouched(was records) (metas []byte, err error) {
	now, err := stampOf(s.file)
	if err != nil {
		return nil, err
	}
	now.verified = s.seen.verified
	if now == s.seen && time.Since(now.verified) < verifyEvery {
		return readMetas(s.file)
	}
	found := records{}
	_, err = inspect(s.file, now.size, func(bucket string, key, value []byte) {
		if bucket == bucketMeta {
			found.add(bucket, string(key), value)
		}
	})
	var reading *fs.PathError
	switch {
	case errors.As(err, &reading):
		return nil, err
	case err != nil:
		return nil, s.fault.set(errDamaged(s.path, fmt.Errorf("somebody else wrote to it, or its disk fails: %w", err)))
	case !bytes.Equal(found[bucketMeta][keyDigest], was[bucketMeta][keyDigest]):
		return nil, s.fault.set(errDamaged(s.path, errors.New("somebody else wrote other records to it")))
	}
	s.seen = now
	s.seen.verified = time.Now()
	return readMetas(s.file)
}

// inPlace returns an error unless path is still the file that was opened.
func (s *Store) inPlace() error {
	held, err := s.file.Stat()
	if err != nil {
		return fmt.Errorf("look at store %s: %w", s.path, err)
	}
	there, err := os.Lstat(s.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("store %s: %w: it was deleted; nothing was changed; put it back with: cp /proc/%d/fd/%d %s && chmod 600 %s; then let the daemon start anew without a stop: kill -9 %d",
			s.path, ErrGone, os.Getpid(), s.file.Fd(), s.path, s.path, os.Getpid())
	case err != nil:
		return fmt.Errorf("look at store %s: %w", s.path, err)
	case !os.SameFile(held, there):
		return fmt.Errorf("store %s: %w: another file was put in its place; nothing was changed; put the right one there (what the daemon has: /proc/%d/fd/%d), with mode 0600, then let the daemon start anew without a stop: kill -9 %d",
			s.path, ErrGone, os.Getpid(), s.file.Fd(), os.Getpid())
	}
	return nil
}

func stampOf(file *os.File) (stamp, error) {
	info, err := file.Stat()
	if err != nil {
		return stamp{}, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return stamp{}, errors.New("no times")
	}
	return stamp{size: st.Size, mtime: st.Mtim, ctime: st.Ctim}, nil
}

// takeBack comes after a change that failed while it was written. It is not to be seen, now or after a start: if its meta
// page is there already, the one from before comes back, and as nobody can tell what reaches the disk of either, the
// store is not touched any more.
func (s *Store) takeBack(metas []byte, cause error) error {
	s.seen = stamp{}
	now, err := readMetas(s.file)
	if err == nil && bytes.Equal(now, metas) {
		return cause
	}
	if err == nil {
		err = writeMetas(s.file, metas)
	}
	if err == nil {
		err = s.file.Sync()
	}
	what := "what was before is back"
	if err != nil {
		what = fmt.Sprintf("what was before could not be put back for sure (%v)", err)
	}
	return s.fault.set(fmt.Errorf("%w, when it was nearly done; %s; this process writes nothing more: look after the disk, then let the daemon start anew without a stop: kill -9 %d",
		cause, what, os.Getpid()))
}
