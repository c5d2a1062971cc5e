// SPDX-License-Identifier: Apache-2.0

package control

import (
	"context"
	"maps"
	"slices"
	"strconv"

	"github.com/xdpd/xdpd/chain"
	"github.com/xdpd/xdpd/dispatcher"
	"github.com/xdpd/xdpd/store"
)

// goal is what a request wants, computed from what the store says, with nothing loaded for it yet.
type goal struct {
	chains   map[string]chain.Chain // the next chain of interfaces; without members: the chain goes
	programs map[string]wanted      // programs that are new or become another, by name
	held     map[string]bool        // the interfaces of chains that are only to be claimed: they stay as they are
	drops    []string               // programs that go if they have no place in the end, whatever patterns they have
	natural  bool                   // what goes from interfaces may come back by patterns
	takeover bool                   // foreign programs are replaced
	repairs  bool                   // it is all as it was, and no change that waits to be confirmed keeps it from being so
	undoes   *store.Pending         // the change that it takes back
	expired  bool                   // undoes was not confirmed in time
	ends     *store.Lease           // the lease that ends with it
	what     string                 // in a few words, for the history
	shows    string                 // a program that the answer tells of
}

func newGoal(what string) goal {
	return goal{chains: map[string]chain.Chain{}, programs: map[string]wanted{}, held: map[string]bool{}, what: what}
}

// wanted is what a program is to be.
type wanted struct {
	record  store.Program      // without ID: it is to be loaded
	object  *dispatcher.Object // of a program that is to be loaded
	data    []byte             // the bytes of its object, where the store may not have them
	fresh   bool               // it takes no maps over from the version before it
	lenient bool               // it is loaded also where the program whose maps it shares is gone
}

// result is an Outcome with what single requests answer.
type result struct {
	Outcome
	program Program  // that the goal shows
	removed []string // programs that lost their last place
}

// mutate is the way of every request that changes something: with the locks of all that its goal touches it loads
// what is new, applies the change, and answers. compute is called again when somebody else was quicker. On an
// error, and after a dry run, everything is as it was.
func (c *Controller) mutate(ctx context.Context, o Options, compute func() (goal, error)) (result, error) {
	done, err := c.begin()
	if err != nil {
		return result{}, err
	}
	defer done()
	g, unlock, err := c.lockGoal(ctx, o, compute)
	if err != nil {
		return result{}, err
	}
	defer unlock()
	if err := c.expect(o.Expected); err != nil {
		return result{}, err
	}
	ch, err := c.prepare(g, o)
	if err != nil {
		return result{}, err
	}
	// It is put off to here, also in a panic: what is loaded and not saved must not stay.
	defer func() {
		if !ch.saved {
			c.logIf("unload what was loaded for a change that was not made", "", c.unloadNew(ch))
		}
	}()
	unlockDevices, err := c.planLocked(ctx, ch)
	if err != nil {
		return result{}, err
	}
	defer unlockDevices()
	if ch.changes() {
		if !g.repairs {
			if err := c.unclaimed(ch); err != nil {
				return result{}, err
			}
		}
		if err := c.load(ctx, ch, g); err != nil {
			return result{}, err
		}
		if err := c.apply(ctx, ch); err != nil {
			return result{}, err
		}
	}
	return c.answer(ch, g)
}

// lockGoal computes the goal with the locks held of all that it touches.
func (c *Controller) lockGoal(ctx context.Context, o Options, compute func() (goal, error)) (goal, func(), error) {
	find := func() (goal, []string, []string, error) {
		g, err := compute()
		if err != nil {
			// Whoever expects a revision that is gone shall hear of that, not of what it led to.
			if stale := c.expect(o.Expected); stale != nil {
				err = stale
			}
			return g, nil, nil, err
		}
		programs, err := c.complete(&g, o)
		interfaces := slices.AppendSeq(slices.Collect(maps.Keys(o.Expected)), maps.Keys(g.chains))
		return g, programs, interfaces, err
	}
	_, programs, interfaces, err := find()
	for err == nil {
		var unlock func()
		if unlock, err = c.lock(ctx, programs, interfaces); err != nil {
			break
		}
		g, now, nowOn, findErr := find()
		if findErr == nil && within(now, programs) && within(nowOn, interfaces) {
			return g, unlock, nil
		}
		unlock()
		programs, interfaces, err = now, nowOn, findErr
	}
	return goal{}, nil, err
}

// within tells whether every one of a is in b.
func within(a, b []string) bool {
	return !slices.ContainsFunc(a, func(s string) bool { return !slices.Contains(b, s) })
}

// complete adds to a goal the chains of all places of programs that become another, and returns the programs that
// nobody else may change meanwhile: those whose places or versions change, and those whose maps are shared.
func (c *Controller) complete(g *goal, o Options) (programs []string, err error) {
	chains, err := c.chains()
	if err != nil {
		return nil, err
	}
	if err := c.exempt(g, chains); err != nil {
		return nil, err
	}
	for name, w := range g.programs {
		programs = append(programs, name)
		if from := w.record.Settings.ShareMapsFrom; w.object != nil && from != "" {
			programs = append(programs, from)
		}
		if w.record.Lease != 0 {
			programs = append(programs, leaseLock(w.record.Lease))
		}
	}
	programs = append(programs, g.drops...)
	if g.ends != nil {
		programs = append(programs, leaseLock(g.ends.ID))
	}
	for _, rec := range chains {
		next, named := g.chains[rec.Interface]
		if !named {
			loaded := slices.ContainsFunc(rec.Chain.Members, func(m chain.Member) bool { return g.programs[m.Program].object != nil })
			// Whatever waits to be confirmed shows in its chains.
			waits := o.ConfirmWithin > 0 && slices.ContainsFunc(rec.Chain.Members, func(m chain.Member) bool {
				_, put := g.programs[m.Program]
				return put
			})
			if loaded || waits {
				g.chains[rec.Interface], g.held[rec.Interface] = rec.Chain, !loaded
			}
			continue
		}
		programs = append(programs, differ(rec.Chain, next)...)
	}
	for iface, next := range g.chains {
		if !slices.ContainsFunc(chains, func(rec store.Chain) bool { return rec.Interface == iface }) {
			programs = append(programs, differ(chain.Chain{}, next)...)
		}
	}
	slices.Sort(programs)
	return slices.Compact(programs), nil
}

// differ are the programs that are in one of two chains.
func differ(a, b chain.Chain) (programs []string) {
	for _, m := range a.Members {
		if b.Index(m.Program) < 0 {
			programs = append(programs, m.Program)
		}
	}
	for _, m := range b.Members {
		if a.Index(m.Program) < 0 {
			programs = append(programs, m.Program)
		}
	}
	return programs
}

// expect fails unless each interface has the revision that is expected of it.
func (c *Controller) expect(revisions map[string]uint64) error {
	for _, iface := range slices.Sorted(maps.Keys(revisions)) {
		rec, _, err := c.store.Chain(iface)
		if err != nil {
			return storeError(err)
		}
		want := revisions[iface]
		if rec.Revision == want {
			continue
		}
		facts := chain.Facts{
			"interface": iface, "expected": strconv.FormatUint(want, 10), "actual": strconv.FormatUint(rec.Revision, 10),
		}
		switch {
		case rec.Revision == 0:
			return chain.Errorf(chain.RevisionMismatch, facts, "%s has no chain, and revision %d was expected: look again, and repeat the change if it is still right", iface, want)
		case want == 0:
			return chain.Errorf(chain.RevisionMismatch, facts, "%s has a chain of revision %d, and none was expected: look again, and repeat the change if it is still right", iface, rec.Revision)
		}
		return chain.Errorf(chain.RevisionMismatch, facts, "%s has revision %d, and %d was expected: somebody else changed it; look again, and repeat the change if it is still right", iface, rec.Revision, want)
	}
	return nil
}

// prepare makes the change of a goal: what is to be saved and loaded, what programs lose their last place, and what
// it takes to undo it all. Nothing is loaded yet.
func (c *Controller) prepare(g goal, o Options) (*change, error) {
	ch := &change{
		next: g.chains, held: g.held, objects: map[string][]byte{}, kept: map[string][]byte{}, origins: map[string][]dispatcher.MapOrigin{},
		what: clip(g.what), options: o, undoes: g.undoes, expired: g.expired, ends: g.ends, repairs: g.repairs, takeover: g.takeover,
	}
	var err error
	if ch.remove, err = c.orphans(g); err != nil {
		return nil, err
	}
	for _, name := range slices.Sorted(maps.Keys(g.programs)) {
		w := g.programs[name]
		if slices.ContainsFunc(ch.remove, func(p store.Program) bool { return p.Name == name }) {
			continue
		}
		old, exists, err := c.store.Program(name)
		if err != nil {
			return nil, storeError(err)
		}
		if exists {
			ch.old = append(ch.old, old)
		} else {
			ch.added = append(ch.added, name)
		}
		if w.object != nil {
			w.record.ID = c.store.NextProgramID()
			ch.loaded = append(ch.loaded, w.record.ID)
		}
		ch.put = append(ch.put, w.record)
		if w.data != nil {
			ch.objects[w.record.Object] = w.data
		}
	}
	for _, p := range slices.Concat(ch.remove, ch.old) {
		if ch.kept[p.Object], err = c.store.Object(p.Object); err != nil {
			return nil, storeError(err)
		}
	}
	return ch, nil
}

// orphans are the programs that lose their last place, and have no pattern that could give them another.
func (c *Controller) orphans(g goal) ([]store.Program, error) {
	chains, err := c.chains()
	if err != nil {
		return nil, err
	}
	left := map[string]bool{}
	for _, name := range g.drops {
		left[name] = true
	}
	for _, rec := range chains {
		if next, changes := g.chains[rec.Interface]; changes {
			for _, m := range rec.Chain.Members {
				left[m.Program] = left[m.Program] || next.Index(m.Program) < 0
			}
		}
	}
	has := func(c chain.Chain, name string) bool { return c.Index(name) >= 0 }
	var gone []store.Program
	for _, name := range slices.Sorted(maps.Keys(left)) {
		placed := slices.ContainsFunc(chains, func(rec store.Chain) bool {
			_, changes := g.chains[rec.Interface]
			return !changes && has(rec.Chain, name)
		})
		for _, next := range g.chains {
			placed = placed || has(next, name)
		}
		if placed || !left[name] {
			continue
		}
		p, known, err := c.store.Program(name)
		if err != nil {
			return nil, storeError(err)
		}
		patterns := p.Patterns
		if w, put := g.programs[name]; put {
			patterns = w.record.Patterns
		}
		if known && (len(patterns) == 0 || slices.Contains(g.drops, name)) {
			gone = append(gone, p)
		}
	}
	return gone, nil
}

// answer tells what a change did; its locks are still held, and what a dry run loaded is still there.
func (c *Controller) answer(ch *change, g goal) (result, error) {
	r := result{
		Outcome: Outcome{
			Changed: ch.changes(), DryRun: ch.options.DryRun, Diff: ch.diff, Took: ch.took(),
		},
	}
	for _, name := range slices.Sorted(maps.Keys(ch.origins)) {
		for _, origin := range ch.origins[name] {
			if origin.Origin == dispatcher.OriginNew && slices.Contains(ch.added, name) {
				continue // so they are, of a program that is new
			}
			r.Maps = append(r.Maps, MapOrigin{Program: name, MapOrigin: origin})
		}
	}
	for _, p := range ch.remove {
		r.removed = append(r.removed, p.Name)
	}
	if ch.pending != nil {
		view, err := c.pendingView(*ch.pending)
		if err != nil {
			return r, err
		}
		r.Pending = &view
	}
	var err error
	if r.Chains, err = c.views(ch); err != nil {
		return r, err
	}
	if g.shows == "" {
		return r, nil
	}
	p, err := c.findProgram(ch, g.shows)
	if err != nil {
		return r, err
	}
	if r.program, err = c.programView(p); err == nil && ch.options.DryRun {
		r.program = ch.imagine(r.program)
	}
	return r, err
}
