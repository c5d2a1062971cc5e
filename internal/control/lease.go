// SPDX-License-Identifier: Apache-2.0

package control

import (
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/xdpd/xdpd/chain"
	"github.com/xdpd/xdpd/store"
)

// maxLeases is how many leases there can be.
const maxLeases = 4096

// HoldRequest asks for a lease.
type HoldRequest struct {
	Token  string        // of a lease that there is; empty: a new one
	Grace  time.Duration // how long its programs stay when nobody holds it
	Caller Caller
}

// Held is a lease in the hands of one client. It is until another client takes it, or until EndLease or ClientGone.
type Held struct {
	Token string       // whoever knows it can hold the lease
	Lease LeaseView    // as it was when it was taken
	Lost  <-chan error // gets one error, LEASE_TAKEN, when another client has the lease

	lost chan error // is Lost, and tells this client from those before and after it
}

// Hold gives a client a new lease, or one that there is. Whoever held that loses it, and its programs stay. While a lease
// is being ended Hold waits, and then either has it with all its programs or fails with LEASE_NOT_FOUND.
func (c *Controller) Hold(ctx context.Context, r HoldRequest) (*Held, error) {
	done, err := c.begin()
	if err != nil {
		return nil, err
	}
	defer done()
	if r.Token == "" {
		return c.grant(ctx, r)
	}
	lease, err := c.findLease(func(l store.Lease) bool { return l.Token == r.Token })
	if err != nil {
		return nil, err
	}
	defer c.tenures.claim(lease)()
	unlock, err := c.lockLease(ctx, lease.ID)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if lease, err = c.leaseOf(r.Token); err != nil {
		return nil, err
	}
	if err := c.saveLease(lease, r.Caller, r.Grace); err != nil {
		return nil, err
	}
	lease.Holder, lease.Grace = r.Caller, r.Grace
	return c.take(lease)
}

// grant makes a new lease.
func (c *Controller) grant(ctx context.Context, r HoldRequest) (*Held, error) {
	unlock, err := c.lockLease(ctx, 0) // nobody counts them meanwhile
	if err != nil {
		return nil, err
	}
	defer unlock()
	leases, err := c.store.Leases()
	if err != nil {
		return nil, storeError(err)
	}
	if len(leases) >= maxLeases {
		return nil, chain.Errorf(chain.Overloaded, chain.Facts{"limit": strconv.Itoa(maxLeases)},
			"there are %d leases, and at most %d: end some, or place several programs under one (xdpctl status lists them)", len(leases), maxLeases)
	}
	lease := store.Lease{ID: c.store.NextLeaseID(), Token: rand.Text(), Holder: r.Caller, Grace: r.Grace}
	if err := c.store.Save(store.Change{PutLeases: []store.Lease{lease}}); err != nil {
		return nil, storeError(err)
	}
	return c.take(lease)
}

// take makes a client the holder of a lease, which is locked.
func (c *Controller) take(lease store.Lease) (*Held, error) {
	lost := make(chan error, 1)
	c.tenures.take(lease, lost)
	c.setProblem(leaseSubject(lease.ID), "")
	c.log.Info("lease held", "lease", lease.ID, "uid", lease.Holder.UID, "pid", lease.Holder.PID, "grace", lease.Grace)
	held := &Held{Token: lease.Token, Lost: lost, lost: lost}
	var err error
	if held.Lease, err = c.leaseView(lease); err != nil {
		c.ClientGone(held)
		return nil, err
	}
	return held, nil
}

// SetGrace changes how long the programs of a lease stay when nobody holds it.
func (c *Controller) SetGrace(ctx context.Context, h *Held, grace time.Duration) (LeaseView, error) {
	done, err := c.begin()
	if err != nil {
		return LeaseView{}, err
	}
	defer done()
	unlock, err := c.lockLease(ctx, h.Lease.ID)
	if err != nil {
		return LeaseView{}, err
	}
	defer unlock()
	lease, err := c.leaseOf(h.Token)
	if err != nil {
		return LeaseView{}, err
	}
	if !c.tenures.has(lease.ID, h) {
		return LeaseView{}, h.gone()
	}
	if err := c.saveLease(lease, lease.Holder, grace); err != nil {
		return LeaseView{}, err
	}
	lease.Grace = grace
	c.tenures.setGrace(lease)
	return c.leaseView(lease)
}

// ClientGone says that a client does not hold its lease any more: the grace begins. A client that lost the lease before has
// none to lose.
func (c *Controller) ClientGone(h *Held) {
	if grace, had := c.tenures.letGo(h); had {
		c.log.Info("the client of a lease is gone", "lease", h.Lease.ID, "ends_in", grace)
	}
}

// saveLease makes the store say who holds a lease, and how long its programs stay after that.
func (c *Controller) saveLease(lease store.Lease, holder Caller, grace time.Duration) error {
	if lease.Holder == holder && lease.Grace == grace {
		return nil
	}
	lease.Holder, lease.Grace = holder, grace
	if err := c.store.Save(store.Change{PutLeases: []store.Lease{lease}}); err != nil {
		return storeError(err)
	}
	return nil
}

// leaseOf finds the lease that has a token and is not over.
func (c *Controller) leaseOf(token string) (store.Lease, error) {
	lease, err := c.findLease(func(l store.Lease) bool { return l.Token == token })
	if err == nil && c.tenures.over(lease.ID) {
		err = errNoLease()
	}
	return lease, err
}

func (c *Controller) findLease(is func(store.Lease) bool) (store.Lease, error) {
	leases, err := c.store.Leases()
	if err != nil {
		return store.Lease{}, storeError(err)
	}
	if i := slices.IndexFunc(leases, is); i >= 0 {
		return leases[i], nil
	}
	return store.Lease{}, errNoLease()
}

func errNoLease() error {
	return chain.Errorf(chain.LeaseNotFound, nil,
		"no lease has this token: it was released, or ended after its client was away for longer than its grace, or the daemon was stopped; get a new lease (Hold without a token, xdpctl hold), and add its programs again")
}

// gone is why a client does not have its lease any more.
func (h *Held) gone() error {
	select {
	case err := <-h.lost:
		return err
	default:
		return errNoLease()
	}
}

// lockLease keeps a lease from being taken, changed and ended by others, and programs from being added to it. The lock is
// one of those of programs, whose names have no spaces, and is taken with them by a change.
func (c *Controller) lockLease(ctx context.Context, id uint64) (unlock func(), err error) {
	if unlock, err = c.programs.acquire(ctx, leaseLock(id)); err != nil {
		return nil, fmt.Errorf("wait for another change of the lease: %w", err)
	}
	return unlock, nil
}

func leaseLock(id uint64) string { return leaseSubject(id) }

func leaseSubject(id uint64) string { return fmt.Sprintf("lease %d", id) }

// leaseViews are all leases, sorted by number.
func (c *Controller) leaseViews() ([]LeaseView, error) {
	leases, err := c.store.Leases()
	if err != nil || len(leases) == 0 {
		return nil, err
	}
	programs, err := c.programsByLease()
	if err != nil {
		return nil, err
	}
	views := make([]LeaseView, len(leases))
	for i, l := range leases {
		views[i] = c.tenures.view(l)
		views[i].Programs = programs[l.ID]
	}
	return views, nil
}

func (c *Controller) leaseView(l store.Lease) (LeaseView, error) {
	programs, err := c.programsByLease()
	view := c.tenures.view(l)
	view.Programs = programs[l.ID]
	return view, err
}

// programsByLease are the names of the programs of each lease, sorted.
func (c *Controller) programsByLease() (map[uint64][]string, error) {
	programs, err := c.store.Programs()
	if err != nil {
		return nil, storeError(err)
	}
	by := map[uint64][]string{}
	for _, p := range programs {
		if p.Lease != 0 {
			by[p.Lease] = append(by[p.Lease], p.Name)
		}
	}
	return by, nil
}
