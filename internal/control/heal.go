// SPDX-License-Identifier: Apache-2.0

package control

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/xdpd/xdpd/chain"
	"github.com/xdpd/xdpd/store"
)

// heal makes an interface run its chain, if it does not and it is ours to repair. Foreign programs stay where they are.
// mended: there was something to repair, and it is.
func (c *Controller) heal(ctx context.Context, iface string) (mended bool, err error) {
	done, err := c.begin()
	if err != nil {
		return false, nil // everything is being removed
	}
	defer done()
	unlock, err := c.lockInterface(ctx, iface)
	if err != nil {
		return false, err
	}
	defer unlock()
	rec, known, err := c.store.Chain(iface)
	if err != nil {
		return false, storeError(err)
	}
	if !known {
		return false, nil
	}
	restored := c.restore(rec)
	cond := c.examined(rec)
	switch {
	case cond.state == Running:
		return restored, c.learn(rec)
	case cond.state == Waiting:
		return false, errors.Join(errWaiting, c.letGo(rec))
	case cond.state == Displaced:
		return false, errDisplaced
	case cond.elsewhere:
		return c.mendElsewhere(ctx, rec)
	}
	c.log.Warn("a chain does not run as it should", "interface", iface, "problem", cond.text)
	if err := c.adoptLocked(ctx, rec); err != nil {
		if ctx.Err() == nil {
			c.failed(iface, err)
			c.log.Error("a chain cannot be repaired now, and will be tried again", "interface", iface, "error", err)
		}
		return false, err
	}
	if rec, known, err = c.store.Chain(iface); err != nil || !known {
		return true, err
	}
	if cond = c.examined(rec); cond.state != Running {
		return false, fmt.Errorf("repaired, and still: %s", cond.text)
	}
	c.log.Info("chain repaired", "interface", iface, "revision", rec.Revision)
	return true, c.learn(rec)
}

// restore makes the pins again that it takes to know what an interface runs, where the kernel still has what they were of: a
// takeover was cut short, or somebody removed them. The interface is locked.
func (c *Controller) restore(rec store.Chain) bool {
	if rec.Ifindex == 0 {
		return false
	}
	if _, err := c.plane.Live(c.deviceOf(rec)); err == nil {
		return false
	}
	restored, err := c.plane.Restore(c.deviceOf(rec)) // what is lost is linked anew
	if len(restored) == 0 {
		return false
	}
	c.setProblem(rec.Interface, "somebody removed pins: "+some(restored))
	c.log.Warn("pins were gone, and are made again", "interface", rec.Interface, "pins", restored, "not", err)
	return true
}

// mendElsewhere repairs a chain that runs on an interface of another name, which it cannot follow now.
func (c *Controller) mendElsewhere(ctx context.Context, rec store.Chain) (mended bool, err error) {
	missing, err := c.plane.Damage(c.deviceOf(rec))
	if err == nil && c.ours(rec) && (len(missing) > 0 || c.astray(rec)) {
		mended, err = true, c.mend(ctx, rec)
	}
	return mended, errors.Join(errElsewhere, err)
}

// ours tells whether what runs on the link of a chain is known to be of that chain. A dispatcher that nobody knows, on a link of
// an interface that is not the chain's, may be another daemon's.
func (c *Controller) ours(rec store.Chain) bool {
	d := c.deviceOf(rec)
	live, err := c.plane.Live(d)
	return err == nil && c.plane.Ran(d, live.KernelID)
}

// learn remembers the pins of a chain that runs as it should. The interface is locked.
func (c *Controller) learn(rec store.Chain) error {
	if err := c.plane.Learn(c.deviceOf(rec)); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if r, runs := c.running[rec.Interface]; runs && r.revision == rec.Revision {
		r.learned = true
		c.running[rec.Interface] = r
	}
	return nil
}

// failed notes why an interface does not run its chain.
func (c *Controller) failed(iface string, err error) {
	c.mu.Lock()
	c.failures[iface] = failure{why: err.Error()}
	c.mu.Unlock()
	c.setProblem(iface, err.Error())
}

// healProgram makes the pins of a program complete: those of what the kernel still has are made again, and where something
// is lost, the program is loaded anew and swapped in, in all its places.
func (c *Controller) healProgram(ctx context.Context, name string) (mended bool, err error) {
	subject := "program " + name
	p, known, err := c.store.Program(name)
	if err != nil || !known {
		return false, err
	}
	restored, err := c.restoreProgram(ctx, name)
	if err == nil {
		c.setProblem(subject, "")
		return restored, nil
	}
	if ctx.Err() != nil {
		return false, err
	}
	if errors.Is(err, &chain.Error{Reason: chain.StoreFailed}) { // nothing is known to be lost
		c.setProblem(subject, "its pins cannot be looked after: "+err.Error())
		c.log.Error("the pins of a program cannot be looked after, which will be tried again", "program", name, "error", err)
		return false, err
	}
	c.setProblem(subject, "somebody removed its pins: "+err.Error())
	c.log.Warn("a program's pins are gone: it is loaded anew", "program", name, "error", err)
	lost, err := c.lostWith(ctx, p)
	if err == nil {
		err = c.loadAnew(ctx, lost)
	}
	if err != nil {
		if !errors.Is(err, &chain.Error{Reason: chain.Stopping}) && ctx.Err() == nil {
			c.setProblem(subject, "its pins are gone, and it cannot be loaded anew: "+err.Error())
			c.log.Error("a program cannot be loaded anew, and will be tried again", "program", name, "error", err)
		}
		return false, err
	}
	c.setProblem(subject, "")
	return true, nil
}

// lostWith are a program that is lost and the others that are too, in the chains that they have in common: none of them can be
// swapped in without the others.
func (c *Controller) lostWith(ctx context.Context, p store.Program) ([]store.Program, error) {
	lost := []store.Program{p}
	looked := map[string]bool{p.Name: true}
	for i := 0; i < len(lost); i++ {
		chains, err := c.chainsWith(lost[i].Name)
		if err != nil {
			return nil, err
		}
		for _, iface := range slices.Sorted(maps.Keys(chains)) {
			for _, m := range chains[iface].Enabled() {
				if looked[m.Program] {
					continue
				}
				looked[m.Program] = true
				switch _, err := c.restoreProgram(ctx, m.Program); {
				case err == nil:
					continue
				case errors.Is(err, &chain.Error{Reason: chain.StoreFailed}):
					return nil, err
				}
				other, err := c.program(m.Program)
				if err != nil {
					return nil, err
				}
				lost = append(lost, other)
			}
		}
	}
	return lost, nil
}

// loadAnew loads programs whose pins are lost, and swaps them in, in all their places. Those that were changed meanwhile are
// left out.
func (c *Controller) loadAnew(ctx context.Context, lost []store.Program) error {
	var names []string
	for _, p := range lost {
		names = append(names, p.Name)
	}
	_, err := c.mutate(ctx, Options{Caller: self(), Comment: "somebody removed pins"}, func() (goal, error) {
		g := newGoal("load " + strings.Join(names, ", ") + " anew")
		g.repairs = true
		for _, p := range lost {
			now, known, err := c.store.Program(p.Name)
			if err != nil {
				return g, storeError(err)
			}
			if !known || now.ID != p.ID {
				continue
			}
			o, err := c.parse(now)
			if err != nil {
				return g, err
			}
			now.ID = 0
			g.programs[p.Name] = wanted{record: now, object: o, lenient: true}
			chains, err := c.chainsWith(p.Name)
			if err != nil {
				return g, err
			}
			maps.Copy(g.chains, chains)
		}
		return g, nil
	})
	return err
}

// restoreProgram pins a program again, as far as the kernel has it.
func (c *Controller) restoreProgram(ctx context.Context, name string) (restored bool, err error) {
	done, err := c.begin()
	if err != nil {
		return false, nil // everything is being removed
	}
	defer done()
	unlock, err := c.programs.acquire(ctx, name)
	if err != nil {
		return false, err
	}
	defer unlock()
	p, known, err := c.store.Program(name)
	if err != nil || !known {
		return false, err
	}
	missing, err := c.plane.DamageProgram(p.ID)
	if err != nil {
		return false, err
	}
	if len(missing) > 0 {
		c.setProblem("program "+name, "somebody removed its pins: "+some(missing))
		if missing, err = c.plane.RestoreProgram(p.ID); err != nil {
			return false, err
		}
		c.log.Warn("somebody removed pins, which are made again", "program", name, "pins", missing)
		restored = true
	}
	if err := c.plane.LearnProgram(p.ID); err != nil {
		return restored, err
	}
	unpinned, err := c.unpinned(p) // after it was learned: what goes from here on is missed
	if err != nil {
		return restored, err
	}
	if len(unpinned) > 0 {
		return restored, fmt.Errorf("maps without a pin: %s", some(unpinned))
	}
	c.mu.Lock()
	c.learned[p.ID] = true
	c.mu.Unlock()
	return restored, nil
}

// unpinned are the maps of a program that was not learned and that have no pin: somebody removed them while nobody looked.
func (c *Controller) unpinned(p store.Program) ([]string, error) {
	if c.hasLearned(p.ID) {
		return nil, nil
	}
	o, err := c.parse(p) // it is not kept: after a start most objects are not needed again
	if err != nil {
		return nil, err
	}
	return c.plane.Unpinned(p.ID, o)
}

// hasLearned tells whether the pins of a program are known.
func (c *Controller) hasLearned(id uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.learned[id]
}
