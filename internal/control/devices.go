// SPDX-License-Identifier: Apache-2.0

package control

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strconv"

	"github.com/xdpd/xdpd/dispatcher"
	"github.com/xdpd/xdpd/internal/netif"
)

// planLocked plans a change with the locks of all devices that it touches, which stay held: a name can go to another
// interface at any moment, and an index to another name.
func (c *Controller) planLocked(ctx context.Context, ch *change) (unlock func(), err error) {
	for {
		unlock, indexes, err := c.lockDevices(ctx, slices.Collect(maps.Keys(ch.next))...)
		if err != nil {
			return nil, err
		}
		err = c.evict(slices.Collect(maps.Keys(ch.next))...)
		if err == nil {
			err = c.plan(ch)
		}
		if err != nil {
			unlock()
			return nil, err
		}
		if !slices.ContainsFunc(ch.steps, func(s *step) bool { return !slices.Contains(indexes, s.device.Ifindex) }) {
			return unlock, nil
		}
		unlock() // one got its name meanwhile
	}
}

// lockInterface takes the locks of an interface and its devices.
func (c *Controller) lockInterface(ctx context.Context, iface string) (unlock func(), err error) {
	unlockName, err := c.lock(ctx, nil, []string{iface})
	if err != nil {
		return nil, err
	}
	unlockDevices, _, err := c.lockDevices(ctx, iface)
	if err != nil {
		unlockName()
		return nil, err
	}
	return func() { unlockDevices(); unlockName() }, nil
}

// lockDevices takes the locks of the devices that interfaces are, and of those that their chains are on, and returns
// their indexes. The interfaces are locked.
func (c *Controller) lockDevices(ctx context.Context, interfaces ...string) (unlock func(), indexes []int, err error) {
	for {
		if indexes, err = c.indexes(interfaces); err != nil {
			return nil, nil, err
		}
		var names []string
		for _, index := range indexes {
			if index != 0 {
				names = append(names, strconv.Itoa(index))
			}
		}
		if unlock, err = c.devices.acquire(ctx, names...); err != nil {
			return nil, nil, err
		}
		now, err := c.indexes(interfaces)
		if err == nil && slices.Equal(now, indexes) {
			return unlock, indexes, nil
		}
		unlock()
		if err != nil {
			return nil, nil, err
		}
	}
}

// indexes are those of interfaces, as they are and as their chains have them, sorted. 0, which is no device, is one.
func (c *Controller) indexes(interfaces []string) ([]int, error) {
	indexes := []int{0}
	for _, iface := range interfaces {
		rec, _, err := c.store.Chain(iface)
		if err != nil {
			return nil, storeError(err)
		}
		indexes = append(indexes, rec.Ifindex)
		if nic, err := netif.ByName(iface); err == nil { // else locate tells
			indexes = append(indexes, nic.Index)
		}
	}
	slices.Sort(indexes)
	return slices.Compact(indexes), nil
}

// evict lets other chains go from devices that interfaces are now, where nothing of those chains runs any more: their
// interfaces are gone, and these got their indexes. The interfaces and the devices are locked; a chain that is just being
// changed by somebody else is left alone.
func (c *Controller) evict(interfaces ...string) error {
	chains, err := c.store.Chains()
	if err != nil {
		return storeError(err)
	}
	for _, iface := range interfaces {
		nic, err := netif.ByName(iface)
		if err != nil {
			continue // locate tells
		}
		for _, other := range chains {
			if other.Interface == iface || other.Ifindex != nic.Index {
				continue
			}
			if _, err := c.plane.Live(c.deviceOf(other)); !errors.Is(err, dispatcher.ErrGone) {
				continue
			}
			if err := c.evictChain(other.Interface, nic.Index, slices.Contains(interfaces, other.Interface)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *Controller) evictChain(iface string, index int, locked bool) error {
	if !locked {
		unlock, ok := c.interfaces.try(iface)
		if !ok {
			return nil
		}
		defer unlock()
	}
	rec, known, err := c.store.Chain(iface)
	if err != nil {
		return storeError(err)
	}
	if !known || rec.Ifindex != index {
		return nil
	}
	return c.letGo(rec)
}
