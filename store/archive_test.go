// SPDX-License-Identifier: Apache-2.0

package store

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// exported writes an archive and returns its path.
func exported(t *testing.T, path string) (string, Content) {
	t.Helper()
	to := filepath.Join(t.TempDir(), "archive")
	c, err := Export(path, to)
	must(t, err)
	return to, c
}

func imported(t *testing.T, archive string) (*Store, error) {
	t.Helper()
	file, err := os.Open(archive)
	must(t, err)
	defer file.Close()
	path := filepath.Join(t.TempDir(), "state", "xdpd.db")
	_, err = Import(path, file)
	entries, readErr := os.ReadDir(filepath.Dir(path))
	if err != nil {
		if len(entries) > 0 {
			t.Errorf("an import that failed left %v", entries)
		}
		return nil, err
	}
	must(t, readErr)
	if len(entries) != 1 {
		t.Errorf("beside the store: %v", entries)
	}
	return openAt(t, path), nil
}

func TestArchive(t *testing.T) {
	_, content, _, want := sample(t)
	path := filepath.Join(t.TempDir(), "xdpd.db")
	must(t, os.WriteFile(path, content, 0o600))
	s := openAt(t, path) // it is in use
	ifaces := []string{"eth0", "eth1", "eth2", "eth3", "red:eth2", "never"}
	want = mustRead(t, s, ifaces...)
	archive, c := exported(t, path)
	if len(c.Lost) > 0 || len(c.History) != len(want.History) {
		t.Errorf("%+v", c.Lost)
	}
	if info, err := os.Stat(archive); err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	copied, err := imported(t, archive)
	must(t, err)
	must(t, copied.Check())
	if got := mustRead(t, copied, ifaces...); !reflect.DeepEqual(got, want) {
		t.Errorf("%+v\nwant %+v", got, want)
	}
	if a, b := s.NextProgramID(), copied.NextProgramID(); a != b {
		t.Errorf("the next programs are %d and %d", a, b)
	}
	if a, b := s.NextLeaseID(), copied.NextLeaseID(); a != b {
		t.Errorf("the next leases are %d and %d", a, b)
	}
	if a, b := s.NextPendingID(), copied.NextPendingID(); a != b {
		t.Errorf("the next pending changes are %d and %d", a, b)
	}
	if _, err := Export(path, archive); !errors.Is(err, os.ErrExist) {
		t.Errorf("over another archive: %v", err)
	}
	file, err := os.Open(archive)
	must(t, err)
	defer file.Close()
	if _, err := Import(path, file); !errors.Is(err, os.ErrExist) || !strings.Contains(err.Error(), "move it away") {
		t.Errorf("over another store: %v", err)
	}
}

func TestEmptyArchive(t *testing.T) {
	s := newStore(t)
	archive, _ := exported(t, s.Path())
	copied, err := imported(t, archive)
	must(t, err)
	must(t, copied.Check())
}

// TestSalvage damages a store, and brings what is intact back: all of it is as it was, or the archive says that something may be
// wrong, and what is missing is named.
func TestSalvage(t *testing.T) {
	_, content, _, want := sample(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	pageSize, partly, whole, nothing := os.Getpagesize(), 0, 0, 0
	for i := range 60 / rarely {
		what := fmt.Sprintf("seed %d, damage %d", seed, i)
		bad := bytes.Clone(content)
		for range 1 + r.IntN(3) {
			at := r.IntN(len(bad)/pageSize)*pageSize + r.IntN(200)
			if r.IntN(2) == 0 {
				at = r.IntN(len(bad))
			}
			bad[at] ^= 1 << r.IntN(8)
		}
		path := filepath.Join(t.TempDir(), "xdpd.db")
		must(t, os.WriteFile(path, bad, 0o600))
		report, err := Look(path)
		must(t, err)
		_, openErr := func() (*Store, error) {
			s, err := Open(path)
			if err == nil {
				defer s.Close()
			}
			return s, err
		}()
		if openErr != nil && len(report.Found) == 0 {
			t.Fatalf("%s: it cannot be opened, and nothing is found: %v", what, openErr)
		}
		to := filepath.Join(t.TempDir(), "archive")
		c, err := Export(path, to)
		if errors.Is(err, ErrNewer) {
			continue
		}
		must(t, err)
		if (len(c.Lost) > 0) != (len(report.Found) > 0) {
			t.Fatalf("%s: lost %+v, found %v", what, c.Lost, report.Found)
		}
		s, err := imported(t, to)
		if err != nil {
			t.Fatalf("%s: what is intact cannot be imported: %v", what, err)
		}
		switch got := mustRead(t, s); {
		case len(got.Programs) == 0:
			nothing++
		case len(c.Lost) > 0:
			partly++
			missing(t, what, want, c)
		default:
			whole++
			if !reflect.DeepEqual(got, want) {
				t.Fatalf("%s: %+v\nwant %+v", what, got, want)
			}
		}
		must(t, s.Close())
	}
	t.Logf("%d whole, %d in part, %d with nothing", whole, partly, nothing)
	if partly < 10/rarely || whole < 3/rarely {
		t.Errorf("seed %d: the dice are loaded", seed)
	}
}

// missing sees to it that each program and chain is there or named among what is lost, unless whole pages are.
func missing(t *testing.T, what string, want state, c Content) {
	t.Helper()
	said := map[string]bool{}
	for _, l := range c.Lost {
		said[l.What] = true
	}
	if said["pages or records"] {
		return
	}
	for _, p := range want.Programs {
		if !said["program "+p.Name] && !slices.ContainsFunc(c.Programs, func(q Program) bool { return reflect.DeepEqual(p, q) }) {
			t.Errorf("%s: program %s is missing, and not lost", what, p.Name)
		}
	}
	for _, ch := range want.Chains {
		if !said["chain "+ch.Interface] && !slices.ContainsFunc(c.Chains, func(q Chain) bool { return reflect.DeepEqual(ch, q) }) {
			t.Errorf("%s: chain %s is missing, and not lost", what, ch.Interface)
		}
	}
}

// A lost object takes its program along, that takes its chain along, and all are named with what was in them.
func TestLost(t *testing.T) {
	s := openAt(t, filepath.Join(t.TempDir(), "xdpd.db"))
	a, b := program(1, "a", "one"), program(2, "b", "two")
	bound := leased(program(3, "c", "two"), 1)
	must(t, s.Save(Change{
		PutPrograms: []Program{a, b, bound}, Objects: objects("one", "two"), PutChains: []Chain{chainOf(t, "eth0", 1, a, b), chainOf(t, "eth1", 2, b)},
		PutHistory: []Entry{entryOf(t, "eth1", 1, a), entryOf(t, "eth1", 2, b)}, HistoryLimit: 9, PutPending: []Pending{pendingOf(t, 1, "eth5", a)},
		PutLeases: []Lease{leaseOf(1)},
	}))
	tamper(t, s, func(x *tx) error {
		return errors.Join(x.put(bucketObjects, a.Object, []byte("eno")), x.put(bucketLeases, idKey(1), []byte("{")), x.put(bucketMeta, keyPendingID, []byte("?")))
	})
	_, c := exported(t, s.Path())
	got := []string{}
	for _, l := range c.Lost {
		got = append(got, l.What)
		if l.What == "chain eth0" && (!strings.Contains(l.Why, "its program a is lost") || !strings.Contains(l.Record, `"interface":"eth0"`)) {
			t.Errorf("%+v", l)
		}
	}
	want := []string{
		"pages or records", "number last_pending_id", `lease "\x00\x00\x00\x00\x00\x00\x00\x01"`, "program a", "program c",
		`history "eth1\x00\x00\x00\x00\x00\x00\x00\x00\x01"`, "chain eth0", `pending change "\x00\x00\x00\x00\x00\x00\x00\x01"`,
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%q\nwant %q", got, want)
	}
	if len(c.Programs) != 1 || len(c.Chains) != 1 || len(c.History) != 1 {
		t.Errorf("%+v", c)
	}
}

// parts makes an archive.
func parts(t *testing.T, files ...any) *bytes.Buffer {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for i := 0; i < len(files); i += 2 {
		data, ok := files[i+1].(string)
		if !ok {
			raw, err := json.Marshal(files[i+1])
			must(t, err)
			data = string(raw)
		}
		must(t, w.WriteHeader(&tar.Header{Name: files[i].(string), Size: int64(len(data)), Mode: 0o600}))
		_, err := io.WriteString(w, data)
		must(t, err)
	}
	must(t, w.Close())
	return &out
}

func TestImportRefuses(t *testing.T) {
	a := program(1, "a", "one")
	of := func(f func(*Content)) archive {
		c := Content{Programs: []Program{a}, Revisions: map[string]uint64{"eth0": 3}}
		f(&c)
		return archive{Format: archiveFormat, Content: c}
	}
	good := of(func(*Content) {})
	object := archiveObjects + a.Object
	huge := func() *bytes.Buffer {
		var out bytes.Buffer
		must(t, tar.NewWriter(&out).WriteHeader(&tar.Header{Name: archiveContent, Size: maxContent + 1}))
		return &out
	}()
	link := func() *bytes.Buffer {
		var out bytes.Buffer
		w := tar.NewWriter(&out)
		must(t, w.WriteHeader(&tar.Header{Name: archiveContent, Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"}))
		must(t, w.Close())
		return &out
	}()
	short := parts(t, archiveContent, good, object, "one").Bytes()
	for name, tt := range map[string]struct {
		in   io.Reader
		want string
	}{
		"nothing":         {strings.NewReader(""), "it is empty"},
		"text":            {strings.NewReader(strings.Repeat("no archive ", 200)), "not an archive"},
		"huge":            {huge, "the limit is"},
		"link":            {link, "is not a file"},
		"cut off":         {bytes.NewReader(short[:600]), "the end is missing"},
		"another file":    {parts(t, "other.json", good), `begins with "other.json"`},
		"no JSON":         {parts(t, archiveContent, "{"), "read archive.json"},
		"newer":           {parts(t, archiveContent, `{"format":2,"wishes":[]}`), "format 2, and this xdpd knows 1"},
		"unknown field":   {parts(t, archiveContent, `{"format":1,"wishes":[]}`), `unknown field "wishes"`},
		"no object":       {parts(t, archiveContent, good), "neither in the change nor in the store"},
		"another object":  {parts(t, archiveContent, good, object, "two"), "has the sha256"},
		"another name":    {parts(t, archiveContent, good, "../../x", "one"), `"../../x" has the sha256`},
		"program":         {parts(t, archiveContent, of(func(c *Content) { c.Programs[0].Function = "" }), object, "one"), "has no function"},
		"twice":           {parts(t, archiveContent, of(func(c *Content) { c.Programs = append(c.Programs, c.Programs...) }), object, "one"), "is put twice"},
		"chain":           {parts(t, archiveContent, of(func(c *Content) { c.Chains = []Chain{chainOf(t, "eth0", 1, program(2, "b", "one"))} }), object, "one"), "does not exist"},
		"slots":           {parts(t, archiveContent, of(func(c *Content) { c.Chains = []Chain{chainOf(t, "eth0", 1, program(2, "a", "one"))} }), object, "one"), "has the slots"},
		"interface":       {parts(t, archiveContent, of(func(c *Content) { c.Revisions["eth*"] = 1 }), object, "one"), "not the name of one interface"},
		"boot and no end": {parts(t, archiveContent, `{"format":1}{}`), "read archive.json"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "xdpd.db")
			if _, err := Import(path, tt.in); err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), path) {
				t.Errorf("%v, want %q in it", err, tt.want)
			}
			if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) > 0 {
				t.Errorf("it left %v, %v", entries, err)
			}
		})
	}
}

// TestLookWhileWriting reads a store that is being changed: what is read is of one moment.
func TestLookWhileWriting(t *testing.T) {
	s := newStore(t)
	stop := make(chan bool)
	var group sync.WaitGroup
	group.Go(func() {
		for i := uint64(1); ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			p := program(s.NextProgramID(), "a", fmt.Sprint("object", i))
			if err := s.Save(Change{
				PutPrograms: []Program{p}, Objects: objects(fmt.Sprint("object", i)), PutChains: []Chain{chainOf(t, "eth0", i, p)},
				PutHistory: []Entry{entryOf(t, "eth0", i, p)}, HistoryLimit: 8,
			}); err != nil {
				t.Error(err)
				return
			}
		}
	})
	var seen uint64
	for seen < 60 && !t.Failed() {
		r, err := Look(s.Path())
		must(t, err)
		if len(r.Found)+len(r.Lost) > 0 || !r.Held || r.Schema != Schema {
			t.Fatalf("%+v", r)
		}
		if r.LastProgramID < seen {
			t.Errorf("after %d comes %d", seen, r.LastProgramID)
		}
		seen = r.LastProgramID
	}
	close(stop)
	group.Wait()
	must(t, s.Close())
	if r, err := Look(s.Path()); err != nil || r.Held {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestLookCannot(t *testing.T) {
	dir := t.TempDir()
	must(t, os.Symlink("/etc/passwd", filepath.Join(dir, "link")))
	must(t, makeStore(filepath.Join(dir, "open"), 0o644))
	for path, want := range map[string]error{"none": os.ErrNotExist, "link": nil, ".": ErrUnsafe} {
		if _, err := Look(filepath.Join(dir, path)); err == nil || want != nil && !errors.Is(err, want) {
			t.Errorf("%s: %v", path, err)
		}
	}
	if r, err := Look(filepath.Join(dir, "open")); err != nil || len(r.Found) != 1 || !errors.Is(r.Found[0], ErrUnsafe) {
		t.Errorf("%+v, %v", r, err)
	}
}
