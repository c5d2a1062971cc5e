// SPDX-License-Identifier: Apache-2.0

package store

import (
	"errors"
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"

	bolt "go.etcd.io/bbolt"
)

// rings returns a store with chains on eth0, eth1 and eth2, of the revisions 10, 20 and 30, each with two entries and
// with one that is pending for eth0 and eth1, and with the history of gone, up to revision 40.
func rings(t *testing.T) *Store {
	t.Helper()
	s := newStore(t)
	a := program(1, "a", "one")
	p := pendingOf(t, 1, "eth0", a)
	p.Chains = append(p.Chains, PendingChain{Interface: "eth1"}, PendingChain{Interface: "eth7"})
	c := Change{PutPrograms: []Program{a}, Objects: objects("one"), HistoryLimit: 9, PutPending: []Pending{p}}
	for i := range uint64(3) {
		iface, n := fmt.Sprint("eth", i), 10*(i+1)
		c.PutChains = append(c.PutChains, chainOf(t, iface, n, a))
		c.PutHistory = append(c.PutHistory, entryOf(t, iface, n-1, a), entryOf(t, iface, n, a))
	}
	c.PutHistory = append(c.PutHistory, entryOf(t, "gone", 40, a))
	must(t, s.Save(c))
	return s
}

// expectNames looks at what each interface has: its chain's revision (0: none), the last one given, and its history.
func expectNames(t *testing.T, s *Store, want map[string][]uint64) {
	t.Helper()
	for iface, numbers := range want {
		ch, found, err := s.Chain(iface)
		must(t, err)
		if found != (numbers[0] != 0) || found && (ch.Revision != numbers[0] || ch.Interface != iface) {
			t.Errorf("the chain of %s: %+v", iface, ch)
		}
		if last, err := s.LastRevision(iface); err != nil || last != numbers[1] {
			t.Errorf("the last revision of %s: %d, %v, want %d", iface, last, err, numbers[1])
		}
		expectHistory(t, s, iface, 9, numbers[2:]...)
	}
	must(t, s.Check())
}

func expectPendingNames(t *testing.T, s *Store, want ...string) {
	t.Helper()
	pending, err := s.Pending()
	must(t, err)
	var got []string
	for _, p := range pending {
		for _, ch := range p.Chains {
			got = append(got, ch.Interface)
		}
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("the pending change is of %q, want %q", got, want)
	}
}

func TestRename(t *testing.T) {
	s := rings(t)
	counts := references(t, s)
	must(t, s.Save(Change{RenameChains: map[string]string{"eth0": "red:lan0"}}))
	expectNames(t, s, map[string][]uint64{"eth0": {0, 10}, "red:lan0": {10, 10, 10, 9}, "eth1": {20, 20, 20, 19}})
	expectPendingNames(t, s, "red:lan0", "eth1", "eth7")
	if got := references(t, s); !reflect.DeepEqual(got, counts) {
		t.Errorf("%v, it was %v", got, counts)
	}
	must(t, s.Save(Change{RenameChains: map[string]string{"red:lan0": "eth0"}}))
	expectNames(t, s, map[string][]uint64{"eth0": {10, 10, 10, 9}, "red:lan0": {0, 10}})
}

// Three take each other's names.
func TestRenameRing(t *testing.T) {
	s := rings(t)
	must(t, s.Save(Change{RenameChains: map[string]string{"eth0": "eth1", "eth1": "eth2", "eth2": "eth0"}}))
	expectNames(t, s, map[string][]uint64{"eth1": {10, 20, 10, 9}, "eth2": {20, 30, 20, 19}, "eth0": {30, 30, 30, 29}})
	expectPendingNames(t, s, "eth1", "eth2", "eth7")
	must(t, s.Save(Change{RenameChains: map[string]string{"eth0": "eth0"}}))
	expectNames(t, s, map[string][]uint64{"eth0": {30, 30, 30, 29}})
}

// The history that a name had goes, with what it kept; its numbers stay taken. The rest of a change comes after.
func TestRenameToAGoneName(t *testing.T) {
	s := rings(t)
	counts := references(t, s)
	p, _, err := s.Program("a")
	must(t, err)
	must(t, s.Save(Change{
		RenameChains: map[string]string{"eth2": "gone", "eth1": "eth2"},
		PutChains:    []Chain{chainOf(t, "gone", 41, p), chainOf(t, "eth1", 21, p)}, DeleteChains: []string{"eth2"},
		PutHistory: []Entry{entryOf(t, "gone", 41, p)}, HistoryLimit: 9,
	}))
	expectNames(t, s, map[string][]uint64{"gone": {41, 41, 41, 30, 29}, "eth2": {0, 30, 20, 19}, "eth1": {21, 21}})
	if got := references(t, s); !reflect.DeepEqual(got, counts) { // one entry less, one more
		t.Errorf("%v, it was %v", got, counts)
	}
}

func TestRenameInvalid(t *testing.T) {
	s := rings(t)
	before := mustRead(t, s, "eth0", "eth1", "eth2", "gone", "new")
	for name, tt := range map[string]struct {
		names map[string]string
		want  string
	}{
		"taken":           {map[string]string{"eth0": "eth1"}, "eth1, which has one"},
		"no chain":        {map[string]string{"gone": "new"}, "gone has no chain"},
		"two to one":      {map[string]string{"eth0": "new", "eth1": "new"}, "cannot both become that of new"},
		"name":            {map[string]string{"eth0": "new*"}, "not the name of one interface"},
		"old name":        {map[string]string{"eth 0": "new"}, "white space"},
		"pending already": {map[string]string{"eth0": "eth7"}, "both change the interface eth7"},
	} {
		if err := s.Save(Change{BootID: "x", RenameChains: tt.names}); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v", name, err)
		}
		if after := mustRead(t, s, "eth0", "eth1", "eth2", "gone", "new"); !reflect.DeepEqual(after, before) {
			t.Fatalf("%s changed something: %+v", name, after)
		}
	}
	must(t, s.Save(Change{RenameChains: map[string]string{"eth0": "eth7"}, DeletePending: []uint64{1}}))
	expectNames(t, s, map[string][]uint64{"eth7": {10, 10, 10, 9}})
}

// Names that never come back do not fill the store, and one that does come back goes on above what it had.
func TestForgottenRevisions(t *testing.T) {
	s := newStore(t)
	for i := range uint64(500) {
		iface := fmt.Sprintf("veth%x", i*7919)
		must(t, s.Save(Change{PutChains: []Chain{chainOf(t, iface, i+1)}, PutHistory: []Entry{entryOf(t, iface, i+1)}, HistoryLimit: int(i % 2)}))
		must(t, s.Save(Change{DeleteChains: []string{iface}}))
	}
	n := 0
	must(t, s.view(func(x *bolt.Tx) error { n = x.Bucket([]byte(bucketRevisions)).Stats().KeyN; return nil }))
	if n > 2*maxGone {
		t.Errorf("%d numbers are left", n)
	}
	for _, iface := range []string{"veth0", "new"} { // one that was forgotten, and one that never was
		last, err := s.LastRevision(iface)
		if err != nil || last < 250 || last > 500 {
			t.Errorf("%s: %d, %v", iface, last, err)
		}
		must(t, s.Save(Change{PutChains: []Chain{chainOf(t, iface, 1)}})) // below: it stays above all the same
		if again, err := s.LastRevision(iface); err != nil || again != last {
			t.Errorf("%s: %d, %v, before it was %d", iface, again, err, last)
		}
	}
	must(t, s.Save(Change{PutChains: []Chain{chainOf(t, "new", math.MaxUint64)}}))
	if last, err := s.LastRevision("other"); err != nil || last > 500 {
		t.Errorf("%d, %v", last, err)
	}
}
