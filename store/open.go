// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	bolt "go.etcd.io/bbolt"
)

const (
	lockWait  = time.Second           // how long Open waits for another process to let go of the file
	lockRetry = 50 * time.Millisecond // flock(2) cannot wait for a limited time
)

// Open opens the store in the file at path, and makes it, and the folder it is in, if there is none. The caller closes it.
//
// Errors: ErrDamaged, ErrNewer, ErrLocked, ErrUnsafe, each with what to do about it, and those of the file system.
// The file is as it was after an error. A store of an older schema is made one of this schema.
func Open(path string) (*Store, error) {
	s, err := open(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return s, err
	}
	if err := create(path); err != nil {
		return nil, fmt.Errorf("create store %s: %w", path, err)
	}
	return open(path)
}

// open opens a store that exists.
func open(path string) (*Store, error) {
	file, err := openLocked(path)
	if err != nil {
		return nil, err
	}
	var schema uint64
	memory := records{}
	seen, err := stampOf(file)
	seen.verified = time.Now()
	if err == nil {
		schema, err = inspect(file, seen.size, func(bucket string, key, value []byte) {
			if remembered(bucket) {
				memory.add(bucket, string(key), value)
			}
		})
	}
	var reading *fs.PathError
	switch {
	case errors.Is(err, ErrNewer):
		err = fmt.Errorf("open store %s: %w; nothing was changed: run the newer xdpd, or run \"xdpd teardown\" and move the file away to start without what is in it", path, err)
	case errors.As(err, &reading):
		err = fmt.Errorf("open store %s: %w", path, err)
	case err != nil:
		err = errDamaged(path, err)
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	s := &Store{path: path, file: file, fault: newFault(), writing: make(chan struct{}, 1), seen: seen}
	s.memory.Store(&memory)
	if err := s.start(); err != nil {
		_ = file.Close() // already closed where bbolt gave up in an orderly way
		return nil, err
	}
	if err := s.upgrade(schema); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// start hands the file to bbolt, which takes ownership of it.
func (s *Store) start() (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = errDamaged(s.path, fmt.Errorf("%v", r))
		}
	}()
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	s.db, err = bolt.Open(s.path, 0o600, &bolt.Options{
		Timeout:      lockWait,
		NoStatistics: true,
		OpenFile:     func(string, int, os.FileMode) (*os.File, error) { return s.file, nil },
	})
	if err != nil {
		return fmt.Errorf("open store %s: %w", s.path, err)
	}
	for key, next := range map[string]*atomic.Uint64{keyProgramID: &s.nextID, keyPendingID: &s.nextPending, keyLeaseID: &s.nextLease} {
		last, err := number(bucketMeta, key, (*s.memory.Load())[bucketMeta][key])
		if err != nil {
			return errors.Join(fmt.Errorf("open store %s: %w", s.path, err), s.db.Close())
		}
		raiseTo(next, last)
	}
	return nil
}

// upgrade makes a store of an older schema, which was inspected, one of this schema.
func (s *Store) upgrade(from uint64) error {
	if from == Schema {
		return nil
	}
	return s.write(context.Background(), "upgrade", func(t *tx) error {
		had := bucketNames(from)
		for _, name := range bucketNames(Schema) {
			if slices.Contains(had, name) {
				continue
			}
			if _, err := t.CreateBucket([]byte(name)); err != nil {
				return err
			}
		}
		if err := t.forgetNumbers(); err != nil {
			return err
		}
		return t.putNumber(bucketMeta, keySchema, Schema)
	})
}

// Openable returns why Open could not open the file at path, as far as that can be told without its lock and without reading
// it: it does not exist, is not a private file of this user, or cannot be written.
func Openable(path string) error {
	file, err := openPrivate(path)
	if err != nil {
		return err
	}
	return file.Close()
}

// openPrivate opens the file if it is a private one. The caller closes it.
func openPrivate(path string) (*os.File, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return nil, errOpen(err)
	}
	if err := private(path, info, os.Geteuid()); err != nil {
		return nil, err
	}
	file, err := os.OpenFile(path, os.O_RDWR|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, errOpen(err)
	}
	return file, nil
}

// openLocked opens the file if it is a private one, and locks it. The caller closes it.
func openLocked(path string) (*os.File, error) {
	file, err := openPrivate(path)
	if err != nil {
		return nil, err
	}
	if err := lock(file); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

// private returns an error unless the file is a regular one of this user's, closed to others.
func private(path string, info fs.FileInfo, uid int) error {
	if !info.Mode().IsRegular() {
		return fmt.Errorf("open store %s: %w: it is a %s; name a regular file, or move this away", path, ErrUnsafe, kind(info.Mode()))
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return fmt.Errorf("open store %s: %w: its mode is %04o, so that others may have read or changed it; look at it, then: chmod 600 %s", path, ErrUnsafe, mode, path)
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok && int(stat.Uid) != uid {
		return fmt.Errorf("open store %s: %w: it belongs to user %d, and this is user %d; look at it, then: chown %d %s",
			path, ErrUnsafe, stat.Uid, uid, uid, path)
	}
	return nil
}

func kind(mode fs.FileMode) string {
	switch mode.Type() {
	case fs.ModeDir:
		return "folder"
	case fs.ModeSymlink:
		return "symbolic link"
	case fs.ModeNamedPipe:
		return "pipe"
	case fs.ModeSocket:
		return "socket"
	}
	return "device"
}

// lock takes the lock that bbolt will find taken by its own file.
func lock(file *os.File) error {
	retry := time.NewTicker(lockRetry)
	defer retry.Stop()
	for deadline := time.Now().Add(lockWait); ; <-retry.C {
		err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		switch {
		case err == nil:
			return nil
		case !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR):
			return fmt.Errorf("lock store %s: %w", file.Name(), err)
		case time.Now().After(deadline):
			return fmt.Errorf("open store %s: %w: stop the xdpd that runs already, or give this one its own state folder", file.Name(), ErrLocked)
		}
	}
}

// errOpen says what to do about an error of the file system, which names the path.
func errOpen(err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("open store: %w: run xdpd as the user that the file belongs to, usually root", err)
	}
	return fmt.Errorf("open store: %w", err)
}

// errDamaged says what to do about a file that cannot be used.
func errDamaged(path string, what error) error {
	return fmt.Errorf("store %[1]s: %[2]w: %[3]w; nothing was changed: save what is intact (xdpd store export ARCHIVE --file %[1]s), make a new store of it or of a backup (xdpd store import ARCHIVE --file %[1]s.new), put that in its place (ln %[1]s %[1]s.bad && mv %[1]s.new %[1]s) and start again, after kill -9 if a daemon runs: chains go on meanwhile; if nothing can be saved: run \"xdpd teardown\", move the file away, and add programs anew",
		path, ErrDamaged, what)
}

// create makes an empty store. It appears at path whole or not at all; one that another process made meanwhile stays.
func create(path string) (err error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	temp, err := os.CreateTemp(dir, "."+filepath.Base(path)+".new-*") // with mode 0600
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(temp.Name())) }()
	db, err := bolt.Open(temp.Name(), 0o600, &bolt.Options{
		Timeout:      lockWait,
		NoStatistics: true,
		OpenFile:     func(string, int, os.FileMode) (*os.File, error) { return temp, nil },
	})
	if err != nil {
		return err
	}
	if err := errors.Join(fill(db), db.Close()); err != nil {
		return err
	}
	// Unlike a rename, a link never replaces what is there.
	if err := os.Link(temp.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncDir(dir)
}

// fill writes the records that every store has.
func fill(db *bolt.DB) error {
	return db.Update(func(t *bolt.Tx) error {
		for _, name := range bucketNames(Schema) {
			if _, err := t.CreateBucket([]byte(name)); err != nil {
				return err
			}
		}
		x := newTx(t)
		if err := x.putNumber(bucketMeta, keySchema, Schema); err != nil {
			return err
		}
		return x.put(bucketMeta, keyDigest, x.sum[:])
	})
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
