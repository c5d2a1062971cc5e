// SPDX-License-Identifier: Apache-2.0

package control

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/xdpd/xdpd/chain"
	"github.com/xdpd/xdpd/store"
)

// endingLeases is what endLeases does, as the subject of a problem.
const endingLeases = "end leases"

// endLeases ends leases that nobody holds and whose grace is over, until the context ends. One that cannot be ended holds up
// no other; it is tried again.
func (c *Controller) endLeases(ctx context.Context) error {
	leases, err := c.store.Leases()
	if err != nil {
		return storeError(err)
	}
	c.tenures.await(leases)
	c.setProblem(endingLeases, "")
	var tasks sync.WaitGroup
	defer tasks.Wait()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		now, next := c.tenures.due(ctx)
		for id, attempt := range now {
			tasks.Go(func() { _ = c.tryToEnd(id, attempt) }) // it notes what goes wrong
		}
		timer.Stop()
		if next >= 0 {
			timer.Reset(next)
		}
		select {
		case <-ctx.Done():
		case <-timer.C:
		case <-c.tenures.wake:
		}
	}
	return nil
}

// EndLease ends a lease for good, as its client asks: its programs are removed, without the grace. Where that fails, it is
// tried again until it is done.
func (c *Controller) EndLease(ctx context.Context, h *Held) error {
	attempt := c.tenures.endNow(ctx, h)
	if attempt == nil {
		return h.gone()
	}
	err := c.tryToEnd(h.Lease.ID, attempt)
	if err == nil || errors.Is(err, &chain.Error{Reason: chain.LeaseNotFound}) {
		return nil
	}
	return fmt.Errorf("%w (the lease is over all the same: that its programs go is tried again until it is done, by this daemon; one that is started before that does not know of it, and gives the lease its grace again)", err)
}

// tryToEnd makes one attempt to end a lease.
func (c *Controller) tryToEnd(id uint64, a *attempt) error {
	var lease LeaseView
	var why string
	settled := false
	defer func() {
		if !settled { // a panic on its way to the server
			c.tenures.ended(id, a, false, true)
		}
	}()
	_, err := c.mutate(a.ctx, Options{Caller: self()}, func() (g goal, err error) {
		g, lease, why, err = c.withoutLease(id)
		return g, err
	})
	gone := err == nil || errors.Is(err, &chain.Error{Reason: chain.LeaseNotFound})
	failed := !gone && a.ctx.Err() == nil && !errors.Is(err, errHeldAgain) && !errors.Is(err, &chain.Error{Reason: chain.Stopping})
	settled = true
	if c.tenures.ended(id, a, gone, failed) {
		c.setProblem(leaseSubject(id), "has ended, and its programs cannot be removed, which will be tried again: "+err.Error())
		c.log.Error("the programs of a lease that ended cannot be removed", "lease", id, "error", err)
	}
	if gone || !c.tenures.known(id) { // another attempt may have ended it just now
		c.setProblem(leaseSubject(id), "")
	}
	if err == nil {
		c.log.Info("lease ended", "lease", id, "why", why, "programs", strings.Join(lease.Programs, ","))
		c.publish(Event{Kind: LeaseEnded, Lease: lease, Text: why})
	}
	return err
}

// errHeldAgain is why a lease is not ended that somebody holds again.
var errHeldAgain = errors.New("somebody holds the lease again")

// withoutLease is the goal of ending a lease: no chain has its programs, and it is gone.
func (c *Controller) withoutLease(id uint64) (g goal, view LeaseView, why string, err error) {
	lease, err := c.findLease(func(l store.Lease) bool { return l.ID == id })
	if err != nil {
		return g, view, "", err
	}
	why, ok := c.tenures.mayEnd(id)
	if !ok {
		return g, view, "", errHeldAgain
	}
	if view, err = c.leaseView(lease); err != nil {
		return g, view, "", err
	}
	g = newGoal(fmt.Sprintf("end of lease %d: %s", id, why))
	g.ends, g.drops, g.natural = &lease, view.Programs, true
	chains, err := c.store.Chains()
	if err != nil {
		return g, view, "", storeError(err)
	}
	for _, rec := range chains {
		next, changed := rec.Chain, false
		for _, name := range view.Programs {
			if next.Index(name) < 0 {
				continue
			}
			if next, err = next.Remove(name); err != nil {
				return g, view, "", err
			}
			changed = true
		}
		if changed {
			g.chains[rec.Interface] = next
		}
	}
	return g, view, why, nil
}

// lapsed are those programs of earlier times that are not to come back: their lease has ended, and there is none of the name
// now.
func (c *Controller) lapsed(programs []store.Program) ([]store.Program, error) {
	if !slices.ContainsFunc(programs, func(p store.Program) bool { return p.Lease != 0 }) {
		return nil, nil
	}
	leases, err := c.store.Leases()
	if err != nil {
		return nil, storeError(err)
	}
	var gone []store.Program
	for _, p := range programs {
		if p.Lease == 0 || slices.ContainsFunc(leases, func(l store.Lease) bool { return l.ID == p.Lease }) {
			continue
		}
		_, exists, err := c.store.Program(p.Name)
		if err != nil {
			return nil, storeError(err)
		}
		if !exists {
			gone = append(gone, p)
		}
	}
	return gone, nil
}

// without is a chain without some programs.
func without(of chain.Chain, programs []store.Program) chain.Chain {
	of = of.Clone()
	of.Members = slices.DeleteFunc(of.Members, func(m chain.Member) bool {
		return slices.ContainsFunc(programs, func(p store.Program) bool { return p.Name == m.Program })
	})
	return of
}
