// SPDX-License-Identifier: Apache-2.0

package store

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// An archive is a tar file: archive.json (of the type archive), then objects/SHA256 for each object that it names.
const (
	archiveFormat  = 1
	archiveContent = "archive.json"
	archiveObjects = "objects/"
)

// What Import takes at most, in bytes.
const (
	maxContent      = 256 << 20
	maxObject       = 64 << 20
	maxObjectsTotal = 1 << 30
)

type archive struct {
	Format  int       `json:"format"`
	Made    time.Time `json:"made"`
	Content Content   `json:"content"`
}

// Export writes what is intact of the store at path, which may be damaged, or in use, to an archive, and returns what
// that is. The archive must not exist; it is not there after an error, and only its owner can read it: it has the tokens of leases.
func Export(path, to string) (c Content, err error) {
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return Content{}, fmt.Errorf("export store %s: %w", path, err)
	}
	defer func() {
		if err == nil {
			err = out.Sync()
		}
		if err = errors.Join(err, out.Close()); err != nil {
			err = errors.Join(err, os.Remove(to))
		}
	}()
	err = reading(path, func(file *os.File, size int64) error {
		if _, err := out.Seek(0, io.SeekStart); err != nil {
			return err
		}
		if err := out.Truncate(0); err != nil {
			return err
		}
		i := scan(file, size)
		for _, err := range i.damage {
			if errors.Is(err, ErrNewer) {
				return err
			}
		}
		c = i.intact()
		return writeArchive(out, c, file, size)
	})
	return c, err
}

func writeArchive(out io.Writer, c Content, file io.ReaderAt, size int64) error {
	w := tar.NewWriter(out)
	put := func(name string, data []byte, at time.Time) error {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: int64(len(data)), ModTime: at, Format: tar.FormatPAX}); err != nil {
			return err
		}
		_, err := w.Write(data)
		return err
	}
	now := time.Now().UTC().Truncate(time.Second)
	data, err := json.MarshalIndent(archive{Format: archiveFormat, Made: now, Content: c}, "", "  ")
	if err != nil {
		return err
	}
	if err := put(archiveContent, data, now); err != nil {
		return err
	}
	named := c.objectNames()
	var failed error
	salvage(file, size, func(bucket string, key, value []byte) {
		sha := string(key)
		if bucket != bucketObjects || !named[sha] || failed != nil || hashOf(value) != sha {
			return
		}
		delete(named, sha)
		failed = put(archiveObjects+sha, value, now)
	}, func(error) {})
	if failed == nil && len(named) > 0 {
		failed = fmt.Errorf("%d objects could not be read again", len(named))
	}
	return errors.Join(failed, w.Close())
}

// Import makes a new store at path with what is in an archive, all of it or nothing. There must be none yet. What is in it
// must fit together as a change must that is saved, else the error is ErrInvalid.
func Import(path string, from io.Reader) (Content, error) {
	c, objects, err := readArchive(from)
	if err != nil {
		return Content{}, fmt.Errorf("import store %s: %w", path, err)
	}
	if err := importTo(path, c, objects); err != nil {
		return Content{}, fmt.Errorf("import store %s: %w", path, err)
	}
	return c, nil
}

func importTo(path string, c Content, objects map[string][]byte) (err error) {
	if _, err := os.Lstat(path); err == nil {
		return fmt.Errorf("%w: there is a file already; move it away first", os.ErrExist)
	} else if !errors.Is(err, os.ErrNotExist) {
		return err
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	temp, err := os.MkdirTemp(dir, "."+filepath.Base(path)+".import-*")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(temp)) }()
	s, err := Open(filepath.Join(temp, filepath.Base(path)))
	if err != nil {
		return err
	}
	if err := errors.Join(s.restore(c, objects), s.Close()); err != nil {
		return err
	}
	if err := os.Link(s.Path(), path); err != nil { // unlike a rename, it never replaces what is there
		return err
	}
	return syncDir(dir)
}

// restore fills an empty store.
func (s *Store) restore(c Content, objects map[string][]byte) error {
	change := Change{
		BootID: c.BootID, PutPrograms: c.Programs, Objects: objects, PutChains: c.Chains, PutHistory: c.History,
		HistoryLimit: len(c.History), PutPending: c.Pending, PutLeases: c.Leases,
	}
	if err := change.validate(); err != nil {
		return err
	}
	for iface := range c.Revisions {
		if err := validInterface(iface); err != nil {
			return err
		}
	}
	err := s.write(context.Background(), "fill", func(t *tx) error {
		if err := t.apply(change); err != nil {
			return err
		}
		for key, n := range map[string]uint64{
			keyProgramID: c.LastProgramID, keyPendingID: c.LastPendingID, keyLeaseID: c.LastLeaseID, keyFloor: c.RevisionFloor,
		} {
			if err := t.raise(bucketMeta, key, n); err != nil {
				return err
			}
		}
		for iface, n := range c.Revisions {
			if err := t.raise(bucketRevisions, iface, n); err != nil {
				return err
			}
		}
		return t.forgetNumbers()
	})
	if err != nil {
		return err
	}
	return s.Check()
}

// readArchive reads an archive, and sees to it that it is not larger than what a store of ours can be.
func readArchive(from io.Reader) (c Content, objects map[string][]byte, err error) {
	r := tar.NewReader(from)
	data, name, err := nextPart(r, maxContent)
	if errors.Is(err, io.EOF) {
		return Content{}, nil, invalid("it is empty: not an archive of a store")
	}
	if err != nil {
		return Content{}, nil, err
	}
	if name != archiveContent {
		return Content{}, nil, invalid("it begins with %q, not with %s: not an archive of a store", name, archiveContent)
	}
	if c, err = readContent(data); err != nil {
		return Content{}, nil, err
	}
	objects = map[string][]byte{}
	for total := 0; ; {
		data, name, err := nextPart(r, min(maxObject, maxObjectsTotal-total))
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return Content{}, nil, err
		}
		sha, ok := strings.CutPrefix(name, archiveObjects)
		if !ok || hashOf(data) != sha {
			return Content{}, nil, invalid("%.80q has the sha256 %s", name, hashOf(data))
		}
		total += len(data)
		objects[sha] = data
	}
	return c, objects, nil
}

func readContent(data []byte) (Content, error) {
	var format struct {
		Format int `json:"format"`
	}
	if err := json.Unmarshal(data, &format); err != nil {
		return Content{}, invalid("read %s: %w", archiveContent, err)
	}
	if format.Format != archiveFormat {
		return Content{}, invalid("it has the format %d, and this xdpd knows %d", format.Format, archiveFormat)
	}
	var a archive
	strict := json.NewDecoder(bytes.NewReader(data))
	strict.DisallowUnknownFields() // to take only some of it would be to change its meaning
	if err := strict.Decode(&a); err != nil {
		return Content{}, invalid("read %s: %w", archiveContent, err)
	}
	return a.Content, nil
}

// nextPart returns the next file, or io.EOF.
func nextPart(r *tar.Reader, limit int) (data []byte, name string, err error) {
	h, err := r.Next()
	switch {
	case errors.Is(err, io.EOF):
		return nil, "", err
	case err != nil:
		return nil, "", invalid("not an archive of a store: %w", err)
	case h.Typeflag != tar.TypeReg:
		return nil, "", invalid("%.80q is not a file", h.Name)
	case h.Size > int64(limit):
		return nil, "", invalid("%.80q has %d bytes, the limit is %d", h.Name, h.Size, limit)
	}
	data, err = io.ReadAll(r)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, "", invalid("the end is missing: %w", err)
	}
	return data, h.Name, err
}
