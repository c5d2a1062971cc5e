// SPDX-License-Identifier: Apache-2.0

package control

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/xdpd/xdpd/chain"
	"github.com/xdpd/xdpd/dispatcher"
	"github.com/xdpd/xdpd/internal/netif"
	"github.com/xdpd/xdpd/store"
)

// Reconcile makes the kernel as the store says: it adopts what runs, finishes changes whose intent was saved,
// undoes those whose was not, and loads what is missing. Called once, before any change. What it cannot mend
// on one interface is logged and shown in the status, and keeps nothing else from being mended.
func (c *Controller) Reconcile(ctx context.Context) error {
	if err := c.afterBoot(); err != nil {
		return err
	}
	programs, err := c.store.Programs()
	if err != nil {
		return storeError(err)
	}
	for _, p := range programs {
		if err := c.reload(p); err != nil {
			c.setProblem("program "+p.Name, err.Error())
			c.log.Error("program is not loaded", "program", p.Name, "error", err)
		}
	}
	chains, err := c.store.Chains()
	if err != nil {
		return storeError(err)
	}
	for _, rec := range chains {
		if err := c.adopt(ctx, rec); err != nil {
			c.setProblem(rec.Interface, err.Error())
			c.log.Error("chain does not run", "interface", rec.Interface, "error", err)
		}
	}
	return c.sweep(programs)
}

// afterBoot drops from the intent what does not outlive a reboot.
func (c *Controller) afterBoot() error {
	id, err := bootID()
	if err != nil {
		return err
	}
	before, err := c.store.BootID()
	if err != nil {
		return storeError(err)
	}
	if before == id {
		return nil
	}
	if before == "" {
		if err := c.refuseStrangers(); err != nil {
			return err
		}
	}
	if before != "" {
		c.log.Info("the host was rebooted: only persistent programs come back")
		if err := forget(c.store, nil); err != nil {
			return storeError(err)
		}
	}
	if err := c.store.Save(store.Change{BootID: id}); err != nil {
		return storeError(err)
	}
	return nil
}

// refuseStrangers fails where a store that was never used meets pins: the store that they belong to is lost, and
// to make the kernel as this one says would take off all that runs.
func (c *Controller) refuseStrangers() error {
	devices, err := c.plane.Devices()
	if err != nil || len(devices) == 0 {
		return err
	}
	return fmt.Errorf("%d interfaces run chains, and the store %s is new and does not know them: put the store back, or take them off with xdpd teardown",
		len(devices), c.store.Path())
}

// reload loads a program of the store that has no pins: after a stop or reboot.
func (c *Controller) reload(p store.Program) error {
	pinned, err := c.plane.Programs()
	if err != nil {
		return err
	}
	if slices.Contains(pinned, p.ID) {
		return nil
	}
	o, err := c.object(p)
	if err != nil {
		return err
	}
	c.log.Info("loading program", "program", p.Name)
	return c.plane.Load(p.ID, p.Name, o)
}

// adopt makes an interface run the intended revision.
func (c *Controller) adopt(ctx context.Context, rec store.Chain) error {
	unlock, err := c.lock(ctx, nil, []string{rec.Interface})
	if err != nil {
		return err
	}
	defer unlock()
	nic, err := netif.ByName(rec.Interface)
	if err != nil {
		return err
	}
	d := c.deviceOf(rec)
	live, err := c.plane.Live(d)
	switch {
	case nic.Index != rec.Ifindex || errors.Is(err, dispatcher.ErrGone):
		return c.relink(ctx, rec)
	case err != nil:
		return c.explainBusy(err, rec.Ifindex)
	case live.Revision == rec.Revision:
		c.log.Info("chain adopted", "interface", rec.Interface, "revision", rec.Revision)
	default:
		if err := c.finish(rec, d); err != nil {
			c.log.Warn("the staged revision cannot be used, making a new one", "interface", rec.Interface, "revision", rec.Revision, "error", err)
			return c.relink(ctx, rec)
		}
		c.log.Info("finished the change that was in the middle", "interface", rec.Interface, "from", live.Revision, "to", rec.Revision)
	}
	return c.prune(rec)
}

// finish commits a revision that a process staged and saved before it died.
func (c *Controller) finish(rec store.Chain, d dispatcher.Device) error {
	staged, err := c.plane.Resume(d, rec.Revision)
	if err != nil {
		return err
	}
	return errors.Join(staged.Commit(), staged.Discard())
}

// relink makes a new revision of a chain as it is.
func (c *Controller) relink(ctx context.Context, rec store.Chain) error {
	c.log.Info("linking chain", "interface", rec.Interface)
	return c.apply(ctx, change{next: map[string]chain.Chain{rec.Interface: rec.Chain}, force: true})
}

// sweep removes the pins of programs and interfaces that the store does not know.
func (c *Controller) sweep(programs []store.Program) error {
	chains, err := c.store.Chains()
	if err != nil {
		return storeError(err)
	}
	devices, err := c.plane.Devices()
	errs := []error{err}
	for _, d := range devices {
		if !slices.ContainsFunc(chains, func(rec store.Chain) bool { return c.deviceOf(rec) == d }) {
			c.log.Info("detaching what no chain wants", "ifindex", d.Ifindex, "netns", d.Netns)
			errs = append(errs, c.plane.Detach(d))
		}
	}
	pinned, err := c.plane.Programs()
	errs = append(errs, err)
	for _, id := range pinned {
		if !slices.ContainsFunc(programs, func(p store.Program) bool { return p.ID == id }) {
			c.log.Info("unloading a program that was not added in the end", "id", id)
			errs = append(errs, c.plane.Unload(id))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove what was left behind: %w", err)
	}
	return nil
}
