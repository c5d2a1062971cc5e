// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/store"
)

// compareStore compares a copy of the store's file with the model, and the pins with it.
func (l *look) compareStore() {
	l.Helper()
	copied := filepath.Join(l.dir, "copy.db")
	data, err := os.ReadFile(filepath.Join(l.dir, "state", "xdpd.db"))
	if err == nil {
		err = os.WriteFile(copied, data, 0o600)
	}
	if err != nil {
		l.Fatal(err)
	}
	defer os.Remove(copied)
	st, err := store.Open(copied)
	if err != nil {
		l.Fatal(err)
	}
	defer st.Close()
	programs, err := st.Programs()
	if err != nil {
		l.Fatal(err)
	}
	chains, err := st.Chains()
	if err != nil {
		l.Fatal(err)
	}
	if len(programs) != len(l.model.programs) || len(chains) != len(l.model.chains) {
		l.Errorf("the store has programs %v and chains %v", programs, chains)
	}
	pendings, err := st.Pending()
	if err != nil {
		l.Fatal(err)
	}
	l.checkPending(pendings)
	l.checkPins(programs, pendings, chains, l.status.GetLinker() == xdpdv1.Linker_LINKER_FREPLACE)
}

// checkPending compares the changes that wait to be confirmed with the model, and learns the number of one whose answer
// was lost.
func (l *look) checkPending(pendings []store.Pending) {
	l.Helper()
	if l.model.blind {
		return
	}
	var got, want []string
	for i, p := range pendings {
		if i < len(l.model.pendings) && l.model.pendings[i].id == 0 {
			l.model.pendings[i].id = p.ID
		}
		var interfaces, programs []string
		for _, c := range p.Chains {
			interfaces = append(interfaces, c.Interface)
		}
		for _, old := range p.Programs {
			programs = append(programs, old.Name)
		}
		programs = append(programs, p.Added...)
		slices.Sort(interfaces)
		slices.Sort(programs)
		got = append(got, fmt.Sprintf("%d %q of %v and %v", p.ID, p.What, interfaces, programs))
	}
	for _, p := range l.model.pendings {
		want = append(want, fmt.Sprintf("%d %s", p.id, p))
	}
	if !slices.Equal(got, want) {
		l.Errorf("in the store wait %v, want %v", got, want)
	}
}

// checkPins compares all of the daemon's folder with what the store asks for.
func (l *look) checkPins(programs []store.Program, pendings []store.Pending, chains []store.Chain, freplace bool) {
	l.Helper()
	want := []string{"chains", "programs"}
	for _, p := range programs {
		dir := fmt.Sprint("programs/", p.ID)
		want = append(want, dir, dir+"/maps")
		for _, m := range l.program(p.Name).GetMaps() {
			want = append(want, strings.TrimPrefix(m.GetPin(), l.host.pins+"/"))
		}
		want = append(want, l.shapes(dir)...)
		if freplace {
			want = append(want, dir+"/prog")
		}
	}
	for _, p := range pendings {
		for _, old := range p.Programs {
			dir := fmt.Sprint("programs/", old.ID)
			if slices.Contains(want, dir) {
				continue // it is used, as it was
			}
			want = append(want, dir, dir+"/maps")
			if freplace {
				want = append(want, dir+"/prog")
			}
			for _, path := range l.glob("%s/maps/*", dir) {
				want = append(want, strings.TrimPrefix(path, l.host.pins+"/"))
			}
			want = append(want, l.shapes(dir)...)
		}
	}
	for _, c := range chains {
		if !c.Chain.Equal(l.model.chains[c.Interface]) {
			l.Errorf("the store has for %s: %v, want %v", c.Interface, c.Chain, l.model.chains[c.Interface])
		}
		made := l.device(c.Interface)
		if c.Ifindex != made.index {
			l.Errorf("the store has ifindex %d for %s, want %d", c.Ifindex, c.Interface, made.index)
		}
		dir := made.folder()
		want = append(want, dir, dir+"/link")
		for _, r := range c.Revisions {
			rev := fmt.Sprintf("%s/rev-%d", dir, r.Number)
			want = append(want, rev, rev+"/counters")
			if r.Number != c.Revision {
				continue
			}
			want = append(want, rev+"/dispatcher")
			for slot := range c.Chain.Enabled() {
				if freplace {
					want = append(want, fmt.Sprintf("%s/slot-%02d", rev, slot))
				}
			}
		}
	}
	slices.Sort(want)
	if !slices.Equal(l.pins, want) {
		l.Errorf("pins:\n got %v\nwant %v", l.pins, want)
	}
}

// shapes are what a program's folder has besides pins, for those of its maps for which it is needed.
func (l *look) shapes(dir string) (paths []string) {
	for _, path := range append(l.glob("%s/shapes", dir), l.glob("%s/shapes/*", dir)...) {
		paths = append(paths, strings.TrimPrefix(path, l.host.pins+"/"))
	}
	return paths
}
