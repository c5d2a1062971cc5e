// SPDX-License-Identifier: Apache-2.0

package control

import (
	"context"
	"errors"
	"fmt"

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
	cond := c.examined(rec)
	switch {
	case cond.state == Running:
		return false, c.learn(rec)
	case cond.state == Waiting:
		return false, errors.Join(errWaiting, c.letGo(rec))
	case cond.state == Displaced:
		return false, errDisplaced
	case cond.ifindex == 0:
		return false, errors.New(cond.text) // it is elsewhere
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
func (c *Controller) restore(rec store.Chain) {
	if rec.Ifindex == 0 {
		return
	}
	if _, err := c.plane.Live(c.deviceOf(rec)); err == nil {
		return
	}
	if restored, err := c.plane.Restore(c.deviceOf(rec)); len(restored) > 0 { // what is lost is linked anew
		c.setProblem(rec.Interface, "somebody removed pins: "+some(restored))
		c.log.Warn("pins were gone, and are made again", "interface", rec.Interface, "pins", restored, "not", err)
	}
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
	c.failures[iface] = err.Error()
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
	c.setProblem(subject, "somebody removed its pins: "+err.Error())
	c.log.Warn("a program's pins are gone: it is loaded anew", "program", name, "error", err)
	_, err = c.mutate(ctx, Options{Caller: self(), Comment: "somebody removed its pins"}, func() (goal, error) {
		g := newGoal("load " + name + " anew")
		g.repairs = true
		now, known, err := c.store.Program(name)
		if err != nil || !known || now.ID != p.ID {
			return g, err
		}
		o, err := c.parse(now)
		if err != nil {
			return g, err
		}
		now.ID = 0
		g.programs[name] = wanted{record: now, object: o, lenient: true}
		g.chains, err = c.chainsWith(name)
		return g, err
	})
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
	if unpinned, err := c.unpinned(p); err != nil || len(unpinned) > 0 {
		return restored, errors.Join(err, fmt.Errorf("maps without a pin: %s", some(unpinned)))
	}
	if err := c.plane.LearnProgram(p.ID); err != nil {
		return restored, err
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
