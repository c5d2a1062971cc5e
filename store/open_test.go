// SPDX-License-Identifier: Apache-2.0

package store

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"reflect"
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
	if took := time.Since(start); took < lockWait || took > 60*lockWait {
		t.Errorf("it took %v", took)
	}
	done := make(chan error)
	go func() {
		second, err := Open(path)
		for errors.Is(err, ErrLocked) { // the first takes its time
			second, err = Open(path)
		}
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
		_, err := x.CreateBucket([]byte("wishes"))
		m := x.Bucket([]byte(bucketMeta))
		return errors.Join(err, m.Put([]byte(keySchema), []byte("4")), m.Put([]byte(keyDigest), []byte("better")))
	}))
	must(t, s.Close())
	untouched(t, path, func() {
		_, err := Open(path)
		if !errors.Is(err, ErrNewer) {
			t.Fatal(err)
		}
		for _, want := range []string{path, "schema 4", "up to 3", "newer xdpd", "move the file away"} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%q is missing in: %v", want, err)
			}
		}
	})
}

// olderStore makes a store of an older schema, as an older xdpd wrote it, with what a store of schema 1 can have.
func olderStore(t *testing.T, schema uint64, fn func(*tx) error) (path string, was state) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "xdpd.db")
	s := openAt(t, path)
	a := program(7, "a", "one")
	must(t, s.Save(Change{BootID: "boot", PutPrograms: []Program{a}, Objects: objects("one"), PutChains: []Chain{chainOf(t, "eth0", 5, a)}}))
	was = mustRead(t, s, "eth0")
	tamper(t, s, func(x *tx) error {
		var err error
		for _, name := range map[uint64][]string{1: {"history", "leases", "pending"}, 2: {"leases"}}[schema] {
			err = errors.Join(err, x.DeleteBucket([]byte(name)))
		}
		return errors.Join(err, x.putNumber(bucketMeta, keySchema, schema), fn(x))
	})
	must(t, s.Close())
	return path, was
}

func TestUpgrade(t *testing.T) {
	for _, schema := range []uint64{1, 2} {
		t.Run(fmt.Sprint(schema), func(t *testing.T) { testUpgrade(t, schema) })
	}
}

func testUpgrade(t *testing.T, schema uint64) {
	path, was := olderStore(t, schema, func(x *tx) error {
		for i := range uint64(maxGone + 1) { // older ones did not forget
			if err := x.putNumber(bucketRevisions, fmt.Sprint("stray", i), 100+i); err != nil {
				return err
			}
		}
		return nil
	})
	s := openAt(t, path)
	if n, err := s.LastRevision("never-was"); n != 100+maxGone || err != nil {
		t.Errorf("the last revision of what is not known: %d, %v", n, err)
	}
	for range 2 {
		must(t, s.Check())
		if is := mustRead(t, s, "eth0"); !reflect.DeepEqual(is, was) {
			t.Errorf("%+v\nwas %+v", is, was)
		}
		if id := s.NextProgramID(); id != 8 {
			t.Errorf("the next program is %d", id)
		}
		s = reopen(t, s)
	}
	must(t, s.Save(Change{PutHistory: []Entry{entryOf(t, "eth0", 5, was.Programs...)}, HistoryLimit: 1, PutPending: []Pending{pendingOf(t, 1, "eth0")}}))
	must(t, s.Save(Change{PutLeases: []Lease{leaseOf(1)}}))
	must(t, s.Check())
	expectHistory(t, s, "eth0", 9, 5)
}

// When the disk is full the store stays as it was, and can be upgraded later. The limit that stands for a full disk is in
// a process of its own: the test's writes files too, among them a log of what it opens.
func TestUpgradeFails(t *testing.T) {
	const pathVariable = "XDPD_TEST_FULL_DISK"
	if path := os.Getenv(pathVariable); path != "" {
		signal.Ignore(syscall.SIGXFSZ)
		must(t, syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: 1, Max: 1}))
		if _, err := Open(path); !errors.Is(err, syscall.EFBIG) || !strings.Contains(err.Error(), "upgrade store "+path) {
			t.Error(err)
		}
		return
	}
	path, was := olderStore(t, 1, func(*tx) error { return nil })
	untouched(t, path, func() {
		cmd := exec.Command(os.Args[0], "-test.run=^TestUpgradeFails$", "-test.v")
		cmd.Env = append(os.Environ(), pathVariable+"="+path)
		var out bytes.Buffer // in memory: the limit is for files
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Run(); err != nil || !strings.Contains(out.String(), "--- PASS: TestUpgradeFails") {
			t.Errorf("%v\n%s", err, out.String())
		}
	})
	if is := mustRead(t, openAt(t, path), "eth0"); !reflect.DeepEqual(is, was) {
		t.Errorf("%+v\nwas %+v", is, was)
	}
}

// What is not right for its schema is not upgraded.
func TestStrangeSchema(t *testing.T) {
	for name, tt := range map[string]struct {
		tamper func(*tx) error
		want   string
	}{
		"schema 0":  {func(x *tx) error { return x.putNumber(bucketMeta, keySchema, 0) }, "schema 0 with the buckets"},
		"no schema": {func(x *tx) error { return x.delete(bucketMeta, keySchema) }, "no schema"},
		"bucket of a newer one": {func(x *tx) error {
			_, err := x.CreateBucket([]byte("history"))
			return err
		}, `schema 1 with the buckets ["chains" "history"`},
		"buckets of an older one": {func(x *tx) error { return x.putNumber(bucketMeta, keySchema, Schema) }, "schema 3 with the buckets"},
		"checksum":                {func(x *tx) error { x.sum[0] ^= 1; return nil }, "do not add up"},
	} {
		t.Run(name, func(t *testing.T) {
			path, _ := olderStore(t, 1, tt.tamper)
			untouched(t, path, func() {
				if _, err := Open(path); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("%v, want %q in it", err, tt.want)
				}
			})
		})
	}
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
			_, openErr := Open(path)
			for _, err := range []error{openErr, Openable(path)} {
				if !errors.Is(err, ErrUnsafe) || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), path) {
					t.Errorf("%v, want %q in it", err, tt.want)
				}
			}
			after, err := os.Lstat(path)
			must(t, err)
			if before.Mode() != after.Mode() || before.ModTime() != after.ModTime() {
				t.Errorf("it was touched: %v, then %v", before, after)
			}
		})
	}
}

func TestOpenable(t *testing.T) {
	path := filepath.Join(t.TempDir(), "xdpd.db")
	if err := Openable(path); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), path) {
		t.Errorf("no file: %v", err)
	}
	s := openAt(t, path)
	must(t, Openable(path)) // it is in use
	must(t, s.Save(Change{BootID: "x"}))
	must(t, s.Verify(t.Context()))
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
