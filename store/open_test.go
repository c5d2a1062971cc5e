// SPDX-License-Identifier: Apache-2.0

package store

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
)

func TestOpenCreates(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "var", "xdpd")
	path := filepath.Join(dir, "xdpd.db")
	s := openAt(t, path)
	if s.Path() != path {
		t.Errorf("path %q", s.Path())
	}
	for path, want := range map[string]fs.FileMode{path: 0o600, dir: fs.ModeDir | 0o700, filepath.Dir(dir): fs.ModeDir | 0o700} {
		info, err := os.Stat(path)
		must(t, err)
		if info.Mode() != want {
			t.Errorf("%s has mode %v, want %v", path, info.Mode(), want)
		}
	}
	entries, err := os.ReadDir(dir)
	must(t, err)
	if len(entries) != 1 {
		t.Errorf("the folder has %v", entries)
	}
}

func TestOpenCannotCreate(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(file, nil, 0o600))
	for _, path := range []string{filepath.Join(file, "xdpd.db"), "/proc/self/xdpd.db", "/proc/xdpd/xdpd.db"} {
		if s, err := Open(path); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v, %v", path, s, err)
		}
	}
}

// Two that find no file at the same time must end with one store, and the loser must not overwrite it.
func TestCreateKeepsAnothersStore(t *testing.T) {
	path := filepath.Join(t.TempDir(), "xdpd.db")
	s := openAt(t, path)
	must(t, s.Save(Change{BootID: "first"}))
	must(t, create(path))
	s = reopen(t, s)
	if id, err := s.BootID(); err != nil || id != "first" {
		t.Errorf("%q, %v", id, err)
	}
}

func TestLocked(t *testing.T) {
	path := filepath.Join(t.TempDir(), "xdpd.db")
	s := openAt(t, path)
	start := time.Now()
	if _, err := Open(path); !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), path) {
		t.Errorf("the second: %v", err)
	}
	if took := time.Since(start); took < lockWait || took > 10*lockWait {
		t.Errorf("it took %v", took)
	}
	done := make(chan error)
	go func() {
		second, err := Open(path)
		if err == nil {
			err = second.Close()
		}
		done <- err
	}()
	must(t, s.Close())
	must(t, <-done)
}

// untouched runs fn and sees to it that the file is the same afterwards, down to its times.
func untouched(t *testing.T, path string, fn func()) {
	t.Helper()
	must(t, os.Chtimes(path, time.Unix(1e9, 0), time.Unix(1e9, 0)))
	snapshot := func() (string, []byte) {
		info, err := os.Lstat(path)
		must(t, err)
		data, err := os.ReadFile(path)
		must(t, err)
		stat := info.Sys().(*syscall.Stat_t)
		return fmt.Sprint(info.Mode(), info.ModTime(), info.Size(), stat.Ino, stat.Uid, stat.Ctim), data
	}
	before, data := snapshot()
	fn()
	after, dataAfter := snapshot()
	if before != after || !bytes.Equal(data, dataAfter) {
		t.Errorf("%s was touched: %s, then %s", path, before, after)
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	must(t, err)
	if len(entries) != 1 {
		t.Errorf("beside it: %v", entries)
	}
}

func TestNewer(t *testing.T) {
	path := filepath.Join(t.TempDir(), "xdpd.db")
	s := openAt(t, path)
	// A newer schema may have other buckets and another checksum.
	must(t, s.db.Update(func(x *bolt.Tx) error {
		_, err := x.CreateBucket([]byte("leases"))
		m := x.Bucket([]byte(bucketMeta))
		return errors.Join(err, m.Put([]byte(keySchema), []byte("2")), m.Put([]byte(keyDigest), []byte("better")))
	}))
	must(t, s.Close())
	untouched(t, path, func() {
		_, err := Open(path)
		if !errors.Is(err, ErrNewer) {
			t.Fatal(err)
		}
		for _, want := range []string{path, "schema 2", "up to 1", "newer xdpd", "move the file away"} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%q is missing in: %v", want, err)
			}
		}
	})
}

func TestUnsafe(t *testing.T) {
	for name, tt := range map[string]struct {
		make func(path string) error
		want string
	}{
		"folder":        {func(p string) error { return os.Mkdir(p, 0o700) }, "folder"},
		"symbolic link": {func(p string) error { return os.Symlink("/etc/passwd", p) }, "symbolic link"},
		"pipe":          {func(p string) error { return syscall.Mkfifo(p, 0o600) }, "pipe"},
		"device":        {func(p string) error { return os.Symlink("/dev/null", p) }, "symbolic link"},
		"readable":      {func(p string) error { return makeStore(p, 0o640) }, "chmod 600"},
		"writable":      {func(p string) error { return makeStore(p, 0o602) }, "chmod 600"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "xdpd.db")
			must(t, tt.make(path))
			before, err := os.Lstat(path)
			must(t, err)
			if _, err := Open(path); !errors.Is(err, ErrUnsafe) || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), path) {
				t.Errorf("%v, want %q in it", err, tt.want)
			}
			after, err := os.Lstat(path)
			must(t, err)
			if before.Mode() != after.Mode() || before.ModTime() != after.ModTime() {
				t.Errorf("it was touched: %v, then %v", before, after)
			}
		})
	}
}

func makeStore(path string, mode fs.FileMode) error {
	s, err := Open(path)
	if err != nil {
		return err
	}
	return errors.Join(s.Close(), os.Chmod(path, mode))
}

func TestAnotherUsers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "xdpd.db")
	must(t, makeStore(path, 0o600))
	info, err := os.Lstat(path)
	must(t, err)
	uid := os.Geteuid()
	must(t, private(path, info, uid))
	err = private(path, info, uid+1)
	if want := fmt.Sprintf("belongs to user %d", uid); !errors.Is(err, ErrUnsafe) || !strings.Contains(err.Error(), want) {
		t.Errorf("%v, want %q in it", err, want)
	}
}

func TestKind(t *testing.T) {
	for mode, want := range map[fs.FileMode]string{fs.ModeSocket: "socket", fs.ModeDevice: "device", fs.ModeDevice | fs.ModeCharDevice: "device"} {
		if got := kind(mode); got != want {
			t.Errorf("%v is a %s", mode, got)
		}
	}
}

func TestErrOpen(t *testing.T) {
	err := errOpen(&fs.PathError{Op: "open", Path: "/x", Err: syscall.EACCES})
	if !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), "root") {
		t.Error(err)
	}
}

func TestForeign(t *testing.T) {
	dir := t.TempDir()
	foreign := filepath.Join(dir, "foreign.db")
	db, err := bolt.Open(foreign, 0o600, nil)
	must(t, err)
	must(t, db.Close())
	empty, err := os.ReadFile(foreign)
	must(t, err)
	db, err = bolt.Open(foreign, 0o600, nil)
	must(t, err)
	must(t, db.Update(func(x *bolt.Tx) error {
		b, err := x.CreateBucket([]byte("meta"))
		must(t, err)
		_, err = b.CreateBucket([]byte("nested"))
		return err
	}))
	must(t, db.Close())
	nested, err := os.ReadFile(foreign)
	must(t, err)
	db, err = bolt.Open(foreign, 0o600, &bolt.Options{NoFreelistSync: true})
	must(t, err)
	must(t, db.Update(func(x *bolt.Tx) error { return x.Bucket([]byte("meta")).DeleteBucket([]byte("nested")) }))
	must(t, db.Close())
	unsynced, err := os.ReadFile(foreign)
	must(t, err)
	for name, content := range map[string][]byte{
		"empty file":            {},
		"text":                  []byte(strings.Repeat("interfaces:\n", 1000)),
		"short text":            []byte("hello"),
		"zeros":                 make([]byte, 1<<16),
		"an empty bbolt file":   empty,
		"nested buckets":        nested,
		"without its free list": unsynced,
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "xdpd.db")
			must(t, os.WriteFile(path, content, 0o600))
			untouched(t, path, func() {
				_, err := Open(path)
				if !errors.Is(err, ErrDamaged) {
					t.Fatal(err)
				}
				for _, want := range []string{path, "xdpd teardown", "move the file away"} {
					if !strings.Contains(err.Error(), want) {
						t.Errorf("%q is missing in: %v", want, err)
					}
				}
			})
		})
	}
}
