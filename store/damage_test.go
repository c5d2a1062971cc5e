// SPDX-License-Identifier: Apache-2.0

package store

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
)

// sample makes a store with pages of each kind (branches, objects of many pages, free pages) and returns its content
// before and after the last Save, with what it then told.
func sample(t *testing.T) (before, after []byte, was, is state) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "xdpd.db")
	s := openAt(t, path)
	c := Change{BootID: "boot", Objects: map[string][]byte{}}
	for i := range 60 {
		object := strings.Repeat(fmt.Sprint("object ", i), 1+i*i*2/3)
		p := program(s.NextProgramID(), fmt.Sprintf("program-%02d", i), object)
		c.PutPrograms = append(c.PutPrograms, p)
		c.Objects[p.Object] = []byte(object)
	}
	for i := range 4 {
		iface, programs := fmt.Sprint("eth", i), c.PutPrograms[i*10:i*10+10]
		c.PutChains = append(c.PutChains, chainOf(t, iface, uint64(i+1), programs...))
		for n := range uint64(5) {
			c.PutHistory = append(c.PutHistory, entryOf(t, iface, n+1, programs[n:]...))
		}
	}
	c.HistoryLimit = 5
	c.PutLeases = []Lease{leaseOf(s.NextLeaseID())}
	five := int32(5)
	c.PutPrograms[57] = leased(c.PutPrograms[57], c.PutLeases[0].ID)
	c.PutPrograms[57].Patterns = []Pattern{{Glob: "eth*", Priority: &five, Except: []string{"eth0", "red:eth1"}}, {Glob: "red:eth*"}}
	c.PutPending = []Pending{pendingOf(t, s.NextPendingID(), "eth7", program(s.NextProgramID(), "kept", "object kept"))}
	c.Objects[hashOf([]byte("object kept"))] = []byte("object kept")
	must(t, s.Save(c))
	must(t, s.Save(Change{DeletePrograms: []string{"program-50", "program-59"}}))
	was = mustRead(t, s)
	before, err := os.ReadFile(path)
	must(t, err)
	replaced := program(s.NextProgramID(), "program-55", strings.Repeat("new", 40_000))
	must(t, s.Save(Change{
		BootID: "next", PutPrograms: []Program{replaced}, Objects: objects(strings.Repeat("new", 40_000)),
		PutChains: []Chain{chainOf(t, "eth1", 9, c.PutPrograms[3])}, PutHistory: []Entry{entryOf(t, "eth1", 9, c.PutPrograms[3])},
		HistoryLimit: 4, RenameChains: map[string]string{"eth2": "eth3", "eth3": "red:eth2"}, PutLeases: []Lease{leaseOf(s.NextLeaseID())}, DeletePending: []uint64{1}, PutPending: []Pending{pendingOf(t, s.NextPendingID(), "eth8", c.PutPrograms[58])},
	}))
	is = mustRead(t, s)
	must(t, s.Check())
	after, err = os.ReadFile(path)
	must(t, err)
	return before, after, was, is
}

// probe opens a copy, and returns whether it could be. If so, it must tell what the store told, except for objects
// that it reports as damaged, and be usable.
func probe(t *testing.T, what string, content []byte, want state) bool {
	t.Helper()
	path := filepath.Join(t.TempDir(), "xdpd.db")
	must(t, os.WriteFile(path, content, 0o600))
	defer os.Remove(path)
	s, err := Open(path)
	if err != nil {
		if !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrNewer) {
			t.Fatalf("%s: %v", what, err)
		}
		if left, err := os.ReadFile(path); err != nil || !bytes.Equal(left, content) {
			t.Fatalf("%s: it was changed, %v", what, err)
		}
		return false
	}
	defer s.Close()
	got, err := read(s)
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	damaged := s.Check()
	if damaged == nil != (len(got.Objects) == len(want.Objects)) || damaged != nil && !errors.Is(damaged, ErrDamaged) {
		t.Fatalf("%s: %d of %d objects are good, but: %v", what, len(got.Objects), len(want.Objects), damaged)
	}
	for sha, object := range got.Objects {
		if want.Objects[sha] != object {
			t.Fatalf("%s: object %s is another", what, sha)
		}
	}
	got.Objects = want.Objects
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("%s: it became\n%+v", what, got)
	}
	big := strings.Repeat("big", 30_000)
	must(t, s.Save(Change{
		BootID: "later", PutPrograms: []Program{program(s.NextProgramID(), "later", big)}, Objects: objects(big), DeletePrograms: []string{"program-52"},
		PutHistory: []Entry{entryOf(t, "eth0", 6)}, HistoryLimit: 1, DeletePending: []uint64{1, 2},
	}))
	must(t, s.Close())
	if s, err = Open(path); err != nil {
		t.Fatalf("%s: after a save: %v", what, err)
	}
	defer s.Close()
	if programs, err := s.Programs(); err != nil || len(programs) != len(want.Programs) {
		t.Fatalf("%s: %d programs after a save, %v", what, len(programs), err)
	}
	expectHistory(t, s, "eth0", 9, 6, 5)
	return true
}

// TestDamagedRecords flips a bit in each place of the file where the name of a record is: it is in the record itself,
// which is refused, or in a page that is not in use.
func TestDamagedRecords(t *testing.T) {
	_, content, _, want := sample(t)
	for _, text := range []string{
		`"what":"change eth2"`, `"what":"change eth8"`, "eth3\x00\x00\x00\x00\x00\x00\x00\x00\x04{", "\x00\x02{\"id\":2,\"boot_id\"",
		keyPendingID, `"members":`, `"limit":"20"`, `"settings":`, `"before":`, "because",
	} {
		refused, place, many := 0, rand.IntN(rarely), bytes.Count(content, []byte(text)) > 30
		for at := 0; ; at++ {
			next := bytes.Index(content[at:], []byte(text))
			if next < 0 {
				break
			}
			at += next
			if place++; many && place%rarely != 0 {
				continue
			}
			bad := bytes.Clone(content)
			bad[at+1] ^= 1
			if !probe(t, fmt.Sprintf("%q at %#x", text, at), bad, want) {
				refused++
			}
		}
		if refused == 0 {
			t.Errorf("%q: no place of it matters", text)
		}
	}
}

func TestDamage(t *testing.T) {
	_, content, _, want := sample(t)
	if !probe(t, "no damage", content, want) {
		t.Fatal("a good store cannot be opened")
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d, %d bytes", seed, len(content))
	r := rand.New(rand.NewPCG(seed, 0))
	pageSize := os.Getpagesize()
	// Most of what matters is at the beginning of a page.
	somewhere := func() int {
		if r.IntN(3) > 0 {
			return r.IntN(len(content)/pageSize)*pageSize + r.IntN(200)
		}
		return r.IntN(len(content))
	}
	opened, refused := 0, 0
	for i := range 600 / rarely {
		bad := bytes.Clone(content)
		what := fmt.Sprintf("seed %d, damage %d", seed, i)
		switch r.IntN(4) {
		case 0, 1:
			at, bit := somewhere(), r.IntN(8)
			bad[at] ^= 1 << bit
			what += fmt.Sprintf(": bit %d of byte %#x flipped", bit, at)
		case 2:
			at, n := somewhere(), 1+r.IntN(300)
			for j := at; j < min(at+n, len(bad)); j++ {
				bad[j] = byte(r.Uint32())
			}
			what += fmt.Sprintf(": %d bytes from %#x overwritten", n, at)
		case 3:
			from, to := r.IntN(len(content)/pageSize)*pageSize, r.IntN(len(content)/pageSize)*pageSize
			copy(bad[to:to+pageSize], content[from:])
			what += fmt.Sprintf(": page %#x copied to %#x", from, to)
		}
		if probe(t, what, bad, want) {
			opened++
		} else {
			refused++
		}
	}
	t.Logf("%d opened, %d refused", opened, refused)
	if opened < 20/rarely || refused < 20/rarely {
		t.Errorf("seed %d: the dice are loaded", seed)
	}
}

func TestTruncated(t *testing.T) {
	_, content, _, want := sample(t)
	pageSize := os.Getpagesize()
	sizes := []int{0, 1, 15, 16, 79, 80, 100, 1023, 1024, 4095, 4096, 4097, 3*4096 + 1, 4 * 4096}
	for size := pageSize; size < len(content); size += pageSize * 3 {
		sizes = append(sizes, size, size-1, size+17)
	}
	opened := 0
	for _, size := range sizes {
		if probe(t, fmt.Sprintf("%d of %d bytes", size, len(content)), content[:size], want) {
			opened++
		}
	}
	// bbolt makes files larger than it needs; only what is not in use can be missing.
	t.Logf("%d of %d sizes could be opened", opened, len(sizes))
	if opened == len(sizes) {
		t.Error("a file that is cut off was never noticed")
	}
}

// TestCrash puts together what a crash in the middle of a Save can leave: any of the pages that it wrote, before its
// meta page.
func TestCrash(t *testing.T) {
	before, after, was, is := sample(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	pageSize := os.Getpagesize()
	for i := range 30 {
		mixed := make([]byte, len(after)) // the file grows first
		copy(mixed, before)
		for at := 2 * pageSize; at < len(after); at += pageSize {
			if r.IntN(2) == 0 {
				copy(mixed[at:at+pageSize], after[at:])
			}
		}
		what := fmt.Sprintf("seed %d, crash %d", seed, i)
		if !probe(t, what, mixed, was) {
			t.Fatalf("%s: the store cannot be opened", what)
		}
	}
	if !probe(t, "no crash", after, is) {
		t.Fatal("the store cannot be opened")
	}
}

func TestCheckFindsDamage(t *testing.T) {
	s := openAt(t, filepath.Join(t.TempDir(), "xdpd.db"))
	a := program(1, "a", strings.Repeat("object", 5000))
	must(t, s.Save(Change{PutPrograms: []Program{a}, Objects: objects(strings.Repeat("object", 5000))}))
	must(t, s.Check())
	content, err := os.ReadFile(s.Path())
	must(t, err)
	at := bytes.LastIndex(content, []byte("objectobject"))
	file, err := os.OpenFile(s.Path(), os.O_WRONLY, 0)
	must(t, err)
	_, err = file.WriteAt([]byte("O"), int64(at))
	must(t, errors.Join(err, file.Close()))
	if err := s.Check(); !errors.Is(err, ErrDamaged) {
		t.Errorf("an object that changed: %v", err)
	}
	if _, err := s.Object(a.Object); !errors.Is(err, ErrDamaged) {
		t.Errorf("the object: %v", err)
	}
	// Whoever comes with the right object mends it.
	b := program(2, "b", strings.Repeat("object", 5000))
	must(t, s.Save(Change{PutPrograms: []Program{b}, Objects: objects(strings.Repeat("object", 5000))}))
	must(t, s.Check())
	if _, err := s.Object(a.Object); err != nil {
		t.Error(err)
	}
	must(t, s.db.Update(func(x *bolt.Tx) error { return x.Bucket([]byte(bucketMeta)).Put([]byte(keyBootID), []byte("x")) }))
	if err := s.Check(); !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "do not add up") {
		t.Errorf("a record that changed: %v", err)
	}
}
