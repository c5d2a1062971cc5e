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
		if err := c.plan(ch); err != nil {
			unlock()
			return nil, err
		}
		if !slices.ContainsFunc(ch.steps, func(s *step) bool { return s.device.Ifindex != 0 && !slices.Contains(devices, bare(s.device)) }) {
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

// devicesOf are those that interfaces are, and those that their chains have, sorted, whichever use it is of each.
func (c *Controller) devicesOf(interfaces []string) ([]dispatcher.Device, error) {
	var devices []dispatcher.Device
	for _, iface := range interfaces {
		rec, _, err := c.store.Chain(iface)
		if err != nil {
			return nil, storeError(err)
		}
		if rec.Ifindex != 0 {
			devices = append(devices, bare(c.deviceOf(rec)))
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

// bare is a device whichever use of its index is meant.
func bare(d dispatcher.Device) dispatcher.Device {
	d.Use = 0
	return d
}

// deviceOf is the device that a chain's link was made on, which names its pins. Where there is none its index is 0.
func (c *Controller) deviceOf(rec store.Chain) dispatcher.Device {
	return dispatcher.Device{Netns: cmp.Or(rec.Netns, c.netns), Ifindex: rec.Ifindex, Use: rec.Use}
}

// putOn notes in a chain's record the device that its link is made on.
func (c *Controller) putOn(rec *store.Chain, d dispatcher.Device) {
	if d != c.deviceOf(*rec) {
		rec.Netns, rec.Ifindex, rec.Use = d.Netns, d.Ifindex, d.Use
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

// unused is the device of an interface with the first use that no other chain's pins are kept under, and no link that is on
// another interface: these had the index before.
func (c *Controller) unused(nic netif.Interface, iface string) (dispatcher.Device, error) {
	for d := device(nic); ; d.Use++ {
		others, err := c.onDevice(d)
		if err != nil {
			return d, err
		}
		if slices.ContainsFunc(others, func(other string) bool { return other != iface }) {
			continue
		}
		live, err := c.plane.Live(d)
		if elsewhere := (err == nil || errors.Is(err, dispatcher.ErrForeign)) && live.KernelID != nic.XDP.ID; !elsewhere {
			return d, nil
		}
	}
}
