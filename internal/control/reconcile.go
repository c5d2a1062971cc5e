// SPDX-License-Identifier: Apache-2.0

package control

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/xdpd/xdpd/chain"
	"github.com/xdpd/xdpd/dispatcher"
	"github.com/xdpd/xdpd/internal/netif"
	"github.com/xdpd/xdpd/store"
)

// Reconcile makes the kernel as the store says: it adopts what runs, finishes changes whose intent was saved,
// undoes those whose was not, and loads what is missing. Called once, before any change. What it cannot mend
// on one interface is logged and shown in the status, and keeps nothing else from being mended. It calls alive after each
// program and each chain: hosts with thousands of them take their time.
func (c *Controller) Reconcile(ctx context.Context, alive func()) error {
	if err := c.afterBoot(); err != nil {
		return err
	}
	programs, err := c.store.Programs()
	if err != nil {
		return storeError(err)
	}
	pinned, err := c.plane.Programs()
	if err != nil {
		return err
	}
	anew := map[string]bool{}
	for _, p := range sharersLast(programs) {
		anew[p.Name] = !slices.Contains(pinned, p.ID)
		if err := c.reload(ctx, p); err != nil {
			c.setProblem("program "+p.Name, err.Error())
			c.log.Error("program is not loaded", "program", p.Name, "error", err)
		}
		alive()
	}
	if err := c.newTender().followAll(); err != nil { // as where the store takes nothing: what can be repaired is all the same
		c.setProblem(following, err.Error())
		c.log.Error(following, "error", err)
	}
	chains, err := c.chains()
	if err != nil {
		return err
	}
	for _, rec := range chains {
		if err := errors.Join(c.refit(ctx, rec.Interface, anew), c.adopt(ctx, rec.Interface)); err != nil {
			c.failed(rec.Interface, err)
			c.log.Error("chain does not run", "interface", rec.Interface, "error", err)
		}
		alive()
	}
	return c.finishStart(ctx, programs)
}

// finishStart removes what nothing wants, and undoes changes whose time was up while no daemon ran.
func (c *Controller) finishStart(ctx context.Context, programs []store.Program) error {
	pending, err := c.store.Pending()
	if err != nil {
		return storeError(err)
	}
	for _, p := range pending {
		programs = append(programs, p.Programs...) // their pins are kept
	}
	if err := c.sweep(programs); err != nil {
		return err
	}
	var tasks sync.WaitGroup
	defer tasks.Wait()
	return c.expire(ctx, &tasks)
}

// sharersLast puts programs that share maps behind those whose maps they share, as far as there are such.
func sharersLast(programs []store.Program) []store.Program {
	ordered := make([]store.Program, 0, len(programs))
	for len(programs) > 0 {
		i := max(slices.IndexFunc(programs, func(p store.Program) bool {
			return !slices.ContainsFunc(programs, func(q store.Program) bool { return q.Name == p.Settings.ShareMapsFrom })
		}), 0)
		ordered = append(ordered, programs[i])
		programs = slices.Delete(slices.Clone(programs), i, i+1)
	}
	return ordered
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
		if err := forget(c.store, "reboot", nil); err != nil {
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
func (c *Controller) reload(ctx context.Context, p store.Program) error {
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
	load := dispatcher.Load{ID: p.ID, Name: p.Name, Object: o}
	if load.GID, err = groupID(p.Settings.MapGroup); err != nil {
		c.log.Error("maps are for root alone", "program", p.Name, "error", err)
	}
	if err := c.share(&change{}, p, true, &load); err != nil {
		return err
	}
	if load.Share != 0 && !slices.Contains(pinned, load.Share) {
		load.Share = 0
	}
	origins, err := c.loadLenient(ctx, load)
	if err != nil {
		return err
	}
	if fresh := freshMaps(origins); len(fresh) > 0 {
		c.log.Info("the contents of the program's maps are gone", "program", p.Name, "maps", fresh)
	}
	c.setProblem("program "+p.Name, "")
	return nil
}

// refit links a chain anew that runs programs as they were before their pins were removed, while no daemon ran: they have other
// maps now.
func (c *Controller) refit(ctx context.Context, iface string, anew map[string]bool) error {
	unlock, err := c.lockInterface(ctx, iface)
	if err != nil {
		return err
	}
	defer unlock()
	rec, err := c.chainOf(iface)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(rec.Chain.Enabled(), func(m chain.Member) bool { return anew[m.Program] }) {
		return nil
	}
	if _, err := c.plane.Live(c.deviceOf(rec)); rec.Ifindex == 0 || err != nil {
		return nil // adopt links it
	}
	return c.relink(ctx, rec)
}

// freshMaps names the maps that were made, and not taken over from another program.
func freshMaps(origins []dispatcher.MapOrigin) (fresh []string) {
	for _, o := range origins {
		if o.Origin == dispatcher.OriginNew {
			fresh = append(fresh, o.Map)
		}
	}
	return fresh
}

// adopt makes an interface run the intended revision.
func (c *Controller) adopt(ctx context.Context, iface string) error {
	unlock, err := c.lockInterface(ctx, iface)
	if err != nil {
		return err
	}
	defer unlock()
	rec, err := c.chainOf(iface)
	if err != nil {
		return err
	}
	return c.adoptLocked(ctx, rec)
}

// adoptLocked is adopt for an interface that is locked, with its devices.
func (c *Controller) adoptLocked(ctx context.Context, rec store.Chain) error {
	c.restore(rec)
	d, gone, err := c.locate(rec.Interface, rec, true)
	parted := errors.Is(err, &chain.Error{Reason: chain.InterfaceNotFound})
	switch {
	case parted && !c.ours(rec):
		return err
	case parted: // the chain runs on where it was
		return errors.Join(err, c.mend(ctx, rec))
	case err != nil:
		return err
	case gone:
		return errors.Join(fmt.Errorf("%w: the chain waits for it", errWaiting), c.letGo(rec))
	case d != c.deviceOf(rec):
		return c.relink(ctx, rec)
	}
	return c.mend(ctx, rec)
}

// mend makes the device that a chain is on run the intended revision, with all its pins.
func (c *Controller) mend(ctx context.Context, rec store.Chain) error {
	d := c.deviceOf(rec)
	if err := c.repair(rec); err != nil {
		return err
	}
	live, err := c.plane.Live(d)
	if err != nil || live.Revision != rec.Revision {
		return c.relink(ctx, rec)
	}
	missing, err := c.plane.Damage(d)
	if err != nil {
		return err
	}
	if len(missing) > 0 {
		if _, err := c.plane.Restore(d); err != nil {
			c.log.Warn("pins are lost", "interface", rec.Interface, "pins", missing, "error", err)
			return c.relink(ctx, rec)
		}
		c.log.Warn("somebody removed pins, which are made again", "interface", rec.Interface, "pins", missing)
		return nil
	}
	c.log.Info("chain adopted", "interface", rec.Interface, "revision", rec.Revision)
	return nil
}

// letGo takes an index from the record of a chain whose interface is gone, and the pins of that: another interface
// may get the same index. What was counted there stays. Where the link lives on, as on an interface that was renamed, it
// does nothing. The chain is locked.
func (c *Controller) letGo(rec store.Chain) error {
	d := c.deviceOf(rec)
	if _, err := c.plane.Live(d); rec.Ifindex == 0 || !errors.Is(err, dispatcher.ErrGone) {
		return nil
	}
	if err := c.settle(&rec); err != nil {
		return err
	}
	rec.Netns, rec.Ifindex, rec.Use, rec.Revisions = 0, 0, 0, nil
	if err := c.save(context.Background(), store.Change{PutChains: []store.Chain{rec}}); err != nil {
		return err
	}
	return c.plane.Detach(d)
}

// astray tells whether an interface runs another revision than the intended one, or has one more: a change ended
// in a panic.
func (c *Controller) astray(rec store.Chain) bool {
	live, err := c.plane.Live(c.deviceOf(rec))
	if err != nil || live.Revision != rec.Revision {
		return true
	}
	pinned, err := c.plane.Revisions(c.deviceOf(rec))
	return err != nil || slices.ContainsFunc(pinned, func(n uint64) bool {
		return !slices.ContainsFunc(rec.Revisions, func(r store.Revision) bool { return r.Number == n })
	})
}

// repair brings an interface as near to its record as its pins allow: a revision that was saved and not committed
// is committed, and what belongs to neither is removed. What is still missing then takes a new revision.
func (c *Controller) repair(rec store.Chain) error {
	d := c.deviceOf(rec)
	live, err := c.plane.Live(d)
	switch {
	case errors.Is(err, dispatcher.ErrGone):
		return c.prune(rec)
	case err != nil:
		return c.explainBusy(err, rec.Interface)
	case live.Revision == rec.Revision:
		return c.prune(rec)
	}
	if err := c.finish(rec, d); err != nil {
		c.log.Warn("the revision that was staged cannot be used", "interface", rec.Interface, "revision", rec.Revision, "live", live.Revision, "error", err)
		return nil
	}
	c.log.Info("finished the change that was in the middle", "interface", rec.Interface, "from", live.Revision, "to", rec.Revision)
	if err := dispatcher.Quiesce(); err != nil {
		return err
	}
	return c.prune(rec)
}

// locate finds the device that an interface's chain is on, or is to be on. gone: there is no such interface, and
// no link of the chain lives elsewhere. Where the link lives on an interface that is called otherwise by now, and none has
// the name, that is meant; where another one has the name, it refuses: xdpd does not guess which of two was meant.
func (c *Controller) locate(iface string, rec store.Chain, known bool) (d dispatcher.Device, gone bool, err error) {
	nic, err := netif.ByName(iface)
	missing := isMissing(err)
	if err != nil && (!missing || !known) {
		return d, false, err
	}
	if known && rec.Ifindex != 0 {
		live, err := c.plane.Live(c.deviceOf(rec))
		foreign := errors.Is(err, dispatcher.ErrForeign)
		switch {
		case errors.Is(err, dispatcher.ErrGone):
		case missing, (err == nil || foreign) && nic.XDP.ID == live.KernelID:
			return c.deviceOf(rec), false, nil
		case err != nil && !foreign:
			return d, false, err
		default:
			return d, false, c.parted(iface, live)
		}
	}
	if missing {
		return c.deviceOf(rec), true, nil
	}
	d, err = c.unused(nic, iface)
	return d, false, err
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
	ch := &change{next: map[string]chain.Chain{rec.Interface: rec.Chain}, relink: true, what: "link anew", options: Options{Caller: self()}}
	if err := c.plan(ch); err != nil {
		return err
	}
	return c.apply(ctx, ch)
}

// sweep removes the pins of programs and interfaces that the store does not know.
func (c *Controller) sweep(programs []store.Program) error {
	chains, err := c.chains()
	if err != nil {
		return err
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
	c.setProblem("leftovers", "")
	if err := errors.Join(errs...); err != nil {
		c.setProblem("leftovers", err.Error())
		c.log.Error("remove what was left behind", "error", err)
	}
	return nil
}
