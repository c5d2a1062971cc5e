// SPDX-License-Identifier: Apache-2.0

package control

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/xdpd/xdpd/chain"
	"github.com/xdpd/xdpd/internal/boottime"
	"github.com/xdpd/xdpd/store"
)

// Waiting between attempts to undo a change that was not confirmed.
const (
	firstRetry = time.Second
	lastRetry  = 30 * time.Second
)

// retry is when to try again, on CLOCK_BOOTTIME, and how long the wait was.
type retry struct{ at, wait time.Duration }

// undoLate undoes changes that are not confirmed in time, until the context ends.
func (c *Controller) undoLate(ctx context.Context) error {
	var tasks sync.WaitGroup
	defer tasks.Wait()
	for {
		if err := c.expire(ctx, &tasks); err != nil {
			return err
		}
		c.setProblem(undoing, "")
		if err := c.alarm.Wait(ctx); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
	}
}

// expire begins to undo what is due, each by a task, as one may have to wait for an interface that is busy; and sets the alarm
// to what is next. What cannot be undone is tried again.
func (c *Controller) expire(ctx context.Context, tasks *sync.WaitGroup) error {
	pending, err := c.store.Pending()
	if err != nil {
		return storeError(err)
	}
	now, err := boottime.Now()
	if err != nil {
		return err
	}
	for _, p := range pending {
		if c.due(p) > now || !c.beginUndo(p.ID) {
			continue
		}
		tasks.Go(func() {
			c.undoOne(ctx, p, now)
			c.mu.Lock()
			delete(c.undoes, p.ID)
			c.mu.Unlock()
			c.rearm()
		})
	}
	c.rearm()
	return nil
}

// beginUndo notes that a change is being undone, unless it is already.
func (c *Controller) beginUndo(id uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.undoes[id] {
		return false
	}
	c.undoes[id] = true
	return true
}

// undoOne undoes a change whose time is up.
func (c *Controller) undoOne(ctx context.Context, p store.Pending, now time.Duration) {
	_, err := c.undo(ctx, p.ID, true, self())
	if err == nil || errors.Is(err, &chain.Error{Reason: chain.ChangeNotFound}) || errors.Is(err, &chain.Error{Reason: chain.Stopping}) || ctx.Err() != nil {
		return
	}
	c.setProblem(changeSubject(p.ID), "cannot be undone, will be tried again: "+err.Error())
	c.log.Error("a change that was not confirmed cannot be undone", "change", p.ID, "what", p.What, "error", err)
	c.postpone(p.ID, now)
	if _, err := c.findPending(p.ID); errors.Is(err, &chain.Error{Reason: chain.ChangeNotFound}) {
		c.forgetRetries(p.ID) // somebody cancelled it meanwhile
	}
}

// due is when to undo a change: at its deadline, or when an attempt is to be repeated.
func (c *Controller) due(p store.Pending) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return max(p.Deadline, c.retries[p.ID].at)
}

func (c *Controller) postpone(id uint64, now time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	wait := min(max(2*c.retries[id].wait, firstRetry), lastRetry)
	c.retries[id] = retry{now + wait, wait}
}

// retried tells whether a change could not be undone in time. It may still be confirmed then.
func (c *Controller) retried(id uint64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, retried := c.retries[id]
	return retried
}

// forgetRetries is for a change that is not pending any more.
func (c *Controller) forgetRetries(id uint64) {
	c.mu.Lock()
	delete(c.retries, id)
	c.mu.Unlock()
	c.tenures.retry() // the end of a lease may have waited for it
	c.setProblem(changeSubject(id), "")
}

func changeSubject(id uint64) string { return fmt.Sprintf("change %d", id) }

// rearm sets the alarm to the first change that is due.
func (c *Controller) rearm() {
	c.arming.Lock() // what was read must not be older than what was set
	defer c.arming.Unlock()
	pending, err := c.store.Pending()
	if err != nil {
		c.log.Error("set the time at which changes are undone", "error", storeError(err))
		return
	}
	var first time.Duration
	for _, p := range pending {
		c.mu.Lock()
		busy := c.undoes[p.ID]
		c.mu.Unlock()
		if busy {
			continue // the end of that sets it again
		}
		if at := c.due(p); first == 0 || at < first {
			first = at
		}
	}
	c.logIf("set the time at which changes are undone", "", c.alarm.Set(first))
}
