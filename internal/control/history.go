// SPDX-License-Identifier: Apache-2.0

package control

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/xdpd/xdpd/chain"
	"github.com/xdpd/xdpd/store"
)

// historyMax is how many chains of an interface can be kept at most.
const historyMax = 1024

// History returns the chains that an interface had, the newest first.
func (c *Controller) History(_ context.Context, iface string) ([]History, error) {
	entries, err := c.entries(iface)
	if err != nil {
		return nil, err
	}
	out := make([]History, len(entries))
	current := true // only the newest of those that are the same
	for i, e := range entries {
		same, err := c.isCurrent(e)
		if err != nil {
			return nil, err
		}
		out[i] = History{Entry: e, Current: same && current}
		current = current && !same
	}
	return out, nil
}

// entries are an interface's history, which is not empty.
func (c *Controller) entries(iface string) ([]store.Entry, error) {
	entries, err := c.store.History(iface, c.history)
	if err != nil {
		return nil, storeError(err)
	}
	if len(entries) == 0 {
		return nil, chain.Errorf(chain.ChainNotFound, chain.Facts{"interface": iface},
			"interface %q has no history: there was no chain on it (xdpctl chain lists them)", iface)
	}
	return entries, nil
}

// isCurrent tells whether an interface has the chain of an entry now, with the same programs.
func (c *Controller) isCurrent(e store.Entry) (bool, error) {
	rec, known, err := c.store.Chain(e.Interface)
	if err != nil {
		return false, storeError(err)
	}
	if !known {
		return len(e.Chain.Members) == 0, nil
	}
	if !rec.Chain.Equal(e.Chain) {
		return false, nil
	}
	for _, then := range e.Programs {
		now, exists, err := c.store.Program(then.Name)
		if err != nil {
			return false, storeError(err)
		}
		if !exists || !sameVersion(then, now) {
			return false, nil
		}
	}
	return true, nil
}

// Rollback gives an interface an earlier chain again. It returns the revision that had that chain first.
func (c *Controller) Rollback(ctx context.Context, r RollbackRequest) (uint64, Outcome, error) {
	var to uint64
	res, err := c.mutate(ctx, r.Options, func() (goal, error) {
		e, err := c.earlier(r)
		if err != nil {
			return goal{}, err
		}
		to = e.Revision
		return c.asThen(e, r.Everywhere)
	})
	return to, res.Outcome, err
}

// earlier finds the entry that is meant.
func (c *Controller) earlier(r RollbackRequest) (store.Entry, error) {
	entries, err := c.entries(r.Interface)
	if err != nil {
		return store.Entry{}, err
	}
	facts := chain.Facts{"interface": r.Interface, "revision": strconv.FormatUint(r.Revision, 10)}
	if r.Revision != 0 {
		i := slices.IndexFunc(entries, func(e store.Entry) bool { return e.Revision == r.Revision })
		if i < 0 {
			return store.Entry{}, chain.Errorf(chain.RevisionNotFound, facts,
				"the history of %s has no revision %d (xdpctl history %s lists what it has)", r.Interface, r.Revision, r.Interface)
		}
		return c.alive(entries[i])
	}
	for _, e := range entries {
		if e, err = c.alive(e); err != nil {
			return e, err
		}
		current, err := c.isCurrent(e)
		if err != nil || !current {
			return e, err
		}
	}
	return store.Entry{}, chain.Errorf(chain.RevisionNotFound, facts,
		"%s had no other chain before the one it has: remove its programs to have none", r.Interface)
}

// alive is an entry without programs whose lease has ended: they do not come back.
func (c *Controller) alive(e store.Entry) (store.Entry, error) {
	lapsed, err := c.lapsed(e.Programs)
	if err != nil || len(lapsed) == 0 {
		return e, err
	}
	e.Chain = without(e.Chain, lapsed)
	e.Programs = slices.DeleteFunc(slices.Clone(e.Programs), func(p store.Program) bool { return e.Chain.Index(p.Name) < 0 })
	return e, nil
}

// asThen is the goal of having an earlier chain, and its programs as they were.
func (c *Controller) asThen(e store.Entry, everywhere bool) (goal, error) {
	g := newGoal(fmt.Sprintf("rollback to %d", e.Revision))
	next := e.Chain
	now, known, err := c.store.Chain(e.Interface)
	switch {
	case err != nil:
		return g, storeError(err)
	case known && len(next.Members) == 0:
		next = now.Chain
		next.Members = nil
	case known && now.Chain.Mode != next.Mode:
		return g, chain.Errorf(chain.ModeConflict, chain.Facts{"mode": string(now.Chain.Mode), "interface": e.Interface},
			"the chain of %s has mode %s now and had %s then: a chain keeps the mode of its first member; remove its programs first", e.Interface, now.Chain.Mode, next.Mode)
	}
	g.chains[e.Interface] = next
	for _, then := range e.Programs {
		now, exists, err := c.store.Program(then.Name)
		if err != nil {
			return g, storeError(err)
		}
		if exists && (now.Lease != 0 || then.Lease != 0) {
			then.Lifetime, then.Lease = now.Lifetime, now.Lease // a lease is its client's to give
		}
		if exists && sameVersion(now, then) {
			if now.Lifetime != then.Lifetime && (everywhere || c.onlyOn(then.Name, e.Interface) == nil) {
				now.Lifetime = then.Lifetime
				g.programs[then.Name] = wanted{record: now}
			}
			continue
		}
		if exists && !everywhere {
			if err := c.onlyOn(then.Name, e.Interface); err != nil {
				return g, err
			}
		}
		o, err := c.parse(then)
		if err != nil {
			return g, err
		}
		then.ID, then.Patterns = 0, now.Patterns // one that is back comes to this interface, and not to all that match
		g.programs[then.Name] = wanted{record: then, object: o, lenient: true}
	}
	return g, nil
}

// onlyOn fails where a program that would become another has more places than one.
func (c *Controller) onlyOn(program, iface string) error {
	places, err := c.places(program)
	if err != nil {
		return err
	}
	places = slices.DeleteFunc(places, func(p string) bool { return p == iface })
	if len(places) == 0 {
		return nil
	}
	return chain.Errorf(chain.ProgramShared, chain.Facts{"program": program, "interfaces": strings.Join(places, ",")},
		"program %q was another version then, and is on %s too: it has one version in all its places (say everywhere to change it there as well, or replace it first)",
		program, strings.Join(places, ", "))
}
