// SPDX-License-Identifier: Apache-2.0

package control

import (
	"context"
	"errors"

	"github.com/xdpd/xdpd/dispatcher"
	"github.com/xdpd/xdpd/store"
)

// records are the chains of the store as they were decoded once. Nobody changes them.
type records struct {
	generation uint64
	chains     []store.Chain
	byDevice   map[dispatcher.Device][]string // interfaces of the chains whose links were made on a device
}

// chains are all of the store, sorted by interface. They are shared: whoever wants to change one works on a copy.
// What a change of an interface or program saved is in them as long as its locks are held.
func (c *Controller) chains() ([]store.Chain, error) {
	r, err := c.read()
	if err != nil {
		return nil, err
	}
	return r.chains, nil
}

// onDevice are the interfaces of the chains whose links were made on a device.
func (c *Controller) onDevice(d dispatcher.Device) ([]string, error) {
	r, err := c.read()
	if err != nil {
		return nil, err
	}
	return r.byDevice[d], nil
}

func (c *Controller) read() (*records, error) {
	generation := c.generation.Load() // before the store is read: what is saved meanwhile makes it read again
	if r := c.decoded.Load(); r != nil && r.generation == generation {
		return r, nil
	}
	chains, err := c.store.Chains()
	if err != nil {
		return nil, storeError(err)
	}
	r := &records{generation: generation, chains: chains, byDevice: map[dispatcher.Device][]string{}}
	for _, rec := range chains {
		if rec.Ifindex != 0 {
			d := c.deviceOf(rec)
			r.byDevice[d] = append(r.byDevice[d], rec.Interface)
		}
	}
	c.decoded.Store(r)
	return r, nil
}

// save saves a change of the intent. It does not wait for another save longer than the context lasts, and then nothing is saved.
func (c *Controller) save(ctx context.Context, change store.Change) error {
	if err := c.store.SaveWithin(ctx, change); err != nil {
		if ctx.Err() != nil && errors.Is(err, context.Cause(ctx)) {
			return err
		}
		return storeError(err)
	}
	if len(change.PutChains)+len(change.DeleteChains)+len(change.PutPrograms)+len(change.DeletePrograms)+len(change.RenameChains) > 0 {
		c.touch()
	}
	return nil
}

// touch makes everybody read the store again, and tend look.
func (c *Controller) touch() {
	c.generation.Add(1)
	c.rouse()
}
