// SPDX-License-Identifier: Apache-2.0

package control

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/xdpd/xdpd/store"
)

// forgetTime is how long a store may take to forget. A stop has to be done before the service manager kills the daemon.
const forgetTime = 8 * time.Second

// errStuck is returned when a store does not answer in time.
var errStuck = errors.New("it does not answer")

// inTime makes the store at path forget, which takes at most forgetTime and ends with ctx: else errStuck is in the error, and
// forgetting goes on, as nothing ends a call to a disk that stands still.
func inTime(ctx context.Context, path string, forget func() error) error {
	ctx, cancel := context.WithTimeout(ctx, forgetTime)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- forget() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("store %s: %w (does its disk stand still?), so that it could not be told of the stop, and what is in the kernel is removed all the same: the next start may bring back programs and leases that are not persistent; \"xdpd teardown\", once the disk works, makes it forget them", path, errStuck)
	}
}

// forget makes the store hold what shall be back at the next start: persistent programs and their places, as they
// were before changes that nobody confirmed. No lease is left. why is the cause, for the history; settle, if not nil, adds to a
// chain's totals what is only counted in the kernel.
func forget(st *store.Store, why string, settle func(*store.Chain) error) error {
	i, err := readIntent(st)
	if err != nil {
		return err
	}
	var errs []error
	if settle != nil {
		for name, rec := range i.chains {
			errs = append(errs, settle(&rec))
			i.chains[name] = rec
		}
	}
	pending, err := st.Pending()
	if err != nil {
		return err
	}
	for _, p := range pending {
		if err := i.undo(st, p, why); err != nil {
			return err
		}
	}
	if err := i.keepPersistent(); err != nil {
		return err
	}
	leases, err := st.Leases()
	if err != nil {
		return err
	}
	for _, l := range leases {
		i.change.DeleteLeases = append(i.change.DeleteLeases, l.ID)
	}
	return errors.Join(append(errs, st.Save(i.change))...)
}

// intent is all that the store wants, and how it is to change.
type intent struct {
	programs map[string]store.Program
	chains   map[string]store.Chain
	change   store.Change
}

func readIntent(st *store.Store) (*intent, error) {
	programs, err := st.Programs()
	if err != nil {
		return nil, err
	}
	chains, err := st.Chains()
	if err != nil {
		return nil, err
	}
	i := &intent{programs: map[string]store.Program{}, chains: map[string]store.Chain{}}
	for _, p := range programs {
		i.programs[p.Name] = p
	}
	for _, rec := range chains {
		i.chains[rec.Interface] = rec
	}
	return i, nil
}

// undo takes a change back that nobody confirmed.
func (i *intent) undo(st *store.Store, p store.Pending, why string) error {
	i.change.DeletePending = append(i.change.DeletePending, p.ID)
	for _, name := range p.Added {
		delete(i.programs, name)
		i.change.DeletePrograms = append(i.change.DeletePrograms, name)
	}
	for _, before := range p.Programs {
		i.programs[before.Name] = before
		i.change.PutPrograms = append(i.change.PutPrograms, before)
	}
	for _, ch := range p.Chains {
		last, err := st.LastRevision(ch.Interface)
		if err != nil {
			return err
		}
		entry := store.Entry{
			Interface: ch.Interface, Revision: last + 1, Time: time.Now().UTC(), Caller: self(),
			What: clip(why + ": undid " + p.What),
		}
		rec := i.chains[ch.Interface]
		rec.Interface, rec.Revision, rec.Revisions = ch.Interface, last+1, nil
		if ch.Before == nil {
			delete(i.chains, ch.Interface)
			i.change.DeleteChains = append(i.change.DeleteChains, ch.Interface)
			entry.Chain = rec.Chain
			entry.Chain.Members = nil
		} else {
			rec.Totals = totalsOf(rec, *ch.Before)
			rec.Chain = *ch.Before
			i.chains[ch.Interface] = rec
			entry.Chain = rec.Chain
		}
		for _, m := range entry.Chain.Members {
			entry.Programs = append(entry.Programs, i.programs[m.Program])
		}
		i.change.PutHistory = append(i.change.PutHistory, entry)
		i.change.HistoryLimit = historyMax
	}
	return nil
}

// keepPersistent takes all other programs out of the chains, and drops those that are in none.
func (i *intent) keepPersistent() error {
	placed := map[string]bool{}
	for _, rec := range i.chains {
		for _, m := range rec.Chain.Members {
			placed[m.Program] = true
		}
	}
	var gone []string
	for name, p := range i.programs {
		if p.Lifetime == string(Persistent) && (placed[name] || len(p.Patterns) > 0) {
			continue
		}
		gone = append(gone, name)
		i.change.PutPrograms = slices.DeleteFunc(i.change.PutPrograms, func(p store.Program) bool { return p.Name == name })
	}
	i.change.DeletePrograms = append(i.change.DeletePrograms, gone...)
	for _, rec := range i.chains {
		rec.Revisions, rec.Netns, rec.Ifindex, rec.Use, rec.Former = nil, 0, 0, 0, ""
		// No revision has this number: should the stop be cut short, the next start does not take what still
		// runs, with all members, for what is meant.
		rec.Revision++
		for _, name := range gone {
			if rec.Chain.Index(name) >= 0 {
				var err error
				if rec.Chain, err = rec.Chain.Remove(name); err != nil {
					return err
				}
			}
			delete(rec.Totals, name)
		}
		if len(rec.Chain.Members) == 0 {
			i.change.DeleteChains = append(i.change.DeleteChains, rec.Interface)
		} else {
			i.change.PutChains = append(i.change.PutChains, rec)
		}
	}
	return nil
}
