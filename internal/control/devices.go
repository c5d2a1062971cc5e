// SPDX-License-Identifier: Apache-2.0

package control

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/xdpd/xdpd/chain"
	"github.com/xdpd/xdpd/dispatcher"
	"github.com/xdpd/xdpd/internal/netif"
	"github.com/xdpd/xdpd/store"
)

// planLocked plans a change with the locks of all devices that it touches, which stay held: a name can go to another
// interface at any moment, and an index to another name.
func (c *Controller) planLocked(ctx context.Context, ch *change) (unlock func(), err error) {
	for {
		unlock, devices, err := c.lockDevices(ctx, slices.Collect(maps.Keys(ch.next))...)
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
		if !slices.ContainsFunc(ch.steps, func(s *step) bool { return s.device.Ifindex != 0 && !slices.Contains(devices, s.device) }) {
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
// them. The interfaces are locked.
func (c *Controller) lockDevices(ctx context.Context, interfaces ...string) (unlock func(), devices []dispatcher.Device, err error) {
	for {
		if devices, err = c.devicesOf(interfaces); err != nil {
			return nil, nil, err
		}
		var names []string
		for _, d := range devices {
			names = append(names, fmt.Sprintf("%d-%d", d.Netns, d.Ifindex))
		}
		if unlock, err = c.devices.acquire(ctx, names...); err != nil {
			return nil, nil, err
		}
		now, err := c.devicesOf(interfaces)
		if err == nil && slices.Equal(now, devices) {
			return unlock, devices, nil
		}
		unlock()
		if err != nil {
			return nil, nil, err
		}
	}
}

// devicesOf are those that interfaces are, and those that their chains have, sorted.
func (c *Controller) devicesOf(interfaces []string) ([]dispatcher.Device, error) {
	var devices []dispatcher.Device
	for _, iface := range interfaces {
		rec, _, err := c.store.Chain(iface)
		if err != nil {
			return nil, storeError(err)
		}
		if rec.Ifindex != 0 {
			devices = append(devices, c.deviceOf(rec))
		}
		if nic, err := netif.ByName(iface); err == nil { // else locate tells
			devices = append(devices, device(nic))
		}
	}
	slices.SortFunc(devices, func(a, b dispatcher.Device) int {
		return cmp.Or(cmp.Compare(a.Netns, b.Netns), cmp.Compare(a.Ifindex, b.Ifindex))
	})
	return slices.Compact(devices), nil
}

// device is an interface as BPF sees it.
func device(nic netif.Interface) dispatcher.Device {
	return dispatcher.Device{Netns: nic.Netns, Ifindex: nic.Index}
}

// deviceOf is the device that a chain's link was made on, which names its pins. Where there is none its index is 0.
func (c *Controller) deviceOf(rec store.Chain) dispatcher.Device {
	return dispatcher.Device{Netns: cmp.Or(rec.Netns, c.netns), Ifindex: rec.Ifindex}
}

// putOn notes in a chain's record the device that its link is made on.
func (c *Controller) putOn(rec *store.Chain, d dispatcher.Device) {
	if d != c.deviceOf(*rec) {
		rec.Netns, rec.Ifindex = d.Netns, d.Ifindex
		if d.Netns == c.netns {
			rec.Netns = 0
		}
	}
}

// inside returns what runs functions in the network namespace of an interface.
func inside(iface string) func(func() error) error {
	netns, _, err := chain.ParseInterface(iface)
	if err != nil || netns == "" {
		return nil
	}
	return func(f func() error) error { return netif.Do(netns, f) }
}

// evict lets other chains go from devices that interfaces are now, where nothing of those chains runs any more: their
// interfaces are gone, and these got their indexes. The interfaces and the devices are locked; a chain that is just being
// changed by somebody else is left alone.
func (c *Controller) evict(interfaces ...string) error {
	for _, iface := range interfaces {
		nic, err := netif.ByName(iface)
		if err != nil {
			continue // locate tells
		}
		others, err := c.onDevice(device(nic))
		if err != nil {
			return err
		}
		for _, other := range others {
			if other == iface {
				continue
			}
			if _, err := c.plane.Live(device(nic)); !errors.Is(err, dispatcher.ErrGone) {
				continue
			}
			if err := c.evictChain(other, device(nic), slices.Contains(interfaces, other)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *Controller) evictChain(iface string, d dispatcher.Device, locked bool) error {
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
	if !known || rec.Ifindex == 0 || c.deviceOf(rec) != d {
		return nil
	}
	return c.letGo(rec)
}
