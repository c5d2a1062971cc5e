// SPDX-License-Identifier: Apache-2.0

package control

import (
	"context"
	"errors"
	"io/fs"
	"slices"

	"github.com/xdpd/xdpd/chain"
	"github.com/xdpd/xdpd/dispatcher"
	"github.com/xdpd/xdpd/store"
)

// load loads the programs of a change that are new or become another, those first whose maps others share.
func (c *Controller) load(ctx context.Context, ch *change, g goal) error {
	pinned, err := c.plane.Programs()
	if err != nil {
		return err
	}
	waiting := slices.DeleteFunc(slices.Clone(ch.put), func(p store.Program) bool { return g.programs[p.Name].object == nil })
	for len(waiting) > 0 {
		i := slices.IndexFunc(waiting, func(p store.Program) bool {
			return p.Settings.ShareMapsFrom == p.Name || !slices.ContainsFunc(waiting, func(q store.Program) bool { return q.Name == p.Settings.ShareMapsFrom })
		})
		alone := false
		if i < 0 {
			i, alone = 0, true
		}
		p := waiting[i]
		waiting = slices.Delete(waiting, i, i+1)
		w := g.programs[p.Name]
		if alone && !w.lenient {
			return chain.Errorf(chain.InvalidArgument, chain.Facts{"field": "share_maps_from", "program": p.Name},
				"program %q shares the maps of %q, which in the end shares its own: one of them must have maps of its own",
				p.Name, p.Settings.ShareMapsFrom)
		}
		if err := c.loadOne(ctx, ch, p, w, pinned, alone); err != nil {
			return err
		}
	}
	return nil
}

// loadOne loads one program of a change; alone: it shares no maps.
func (c *Controller) loadOne(ctx context.Context, ch *change, p store.Program, w wanted, pinned []uint64, alone bool) (err error) {
	load := dispatcher.Load{ID: p.ID, Name: p.Name, Object: w.object}
	if old := slices.IndexFunc(ch.old, func(o store.Program) bool { return o.Name == p.Name }); old >= 0 && !w.fresh && slices.Contains(pinned, ch.old[old].ID) {
		load.Carry = ch.old[old].ID
	}
	if !alone {
		if err := c.share(ch, p, w.lenient, &load); err != nil {
			return err
		}
	}
	if load.GID, err = groupID(p.Settings.MapGroup); err != nil {
		if !w.lenient {
			return err
		}
		c.log.Error("maps are for root alone", "program", p.Name, "error", err)
	}
	do := c.plane.LoadContext
	if w.lenient {
		do = c.loadLenient
	}
	origins, err := do(ctx, load)
	if err != nil {
		return err
	}
	ch.origins[p.Name] = origins
	c.remember(p.ID, w.object)
	return nil
}

// loadLenient loads a program with maps of its own where those that it is to share do not fit it any more.
func (c *Controller) loadLenient(ctx context.Context, load dispatcher.Load) ([]dispatcher.MapOrigin, error) {
	origins, err := c.plane.LoadContext(ctx, load)
	unfit := errors.Is(err, &chain.Error{Reason: chain.MapInvalid}) || errors.Is(err, fs.ErrNotExist)
	if load.Share == 0 || !unfit {
		return origins, err
	}
	c.log.Warn("maps that were shared do not fit any more: the program gets its own", "program", load.Name, "from", load.Shared, "error", err)
	load.Share = 0
	return c.plane.LoadContext(ctx, load)
}

// share names the program whose maps a program is to use.
func (c *Controller) share(ch *change, p store.Program, lenient bool, load *dispatcher.Load) error {
	from := p.Settings.ShareMapsFrom
	if from == "" {
		return nil
	}
	if from == p.Name {
		return chain.Errorf(chain.InvalidArgument, chain.Facts{"field": "share_maps_from", "program": p.Name},
			"program %q cannot share maps with itself; without share_maps_from a new version takes over the maps it can", p.Name)
	}
	other, err := c.findProgram(ch, from)
	gone := errors.Is(err, &chain.Error{Reason: chain.ProgramNotFound}) ||
		slices.ContainsFunc(ch.remove, func(r store.Program) bool { return r.Name == from })
	switch {
	case gone && lenient:
		c.log.Warn("the program whose maps were shared is gone: it gets maps of its own", "program", p.Name, "from", from)
		return nil
	case gone:
		return chain.Errorf(chain.ProgramNotFound, chain.Facts{"program": from},
			"program %q is to share the maps of %q, which does not exist (xdpctl ls lists programs)", p.Name, from)
	case err != nil:
		return err
	}
	load.Share, load.Shared = other.ID, from
	return nil
}

// unloadNew takes out of the kernel what was loaded for a change.
func (c *Controller) unloadNew(ch *change) error {
	var errs []error
	for _, id := range ch.loaded {
		c.remember(id, nil)
		errs = append(errs, c.plane.Unload(id))
	}
	return errors.Join(errs...)
}
