// SPDX-License-Identifier: Apache-2.0

package control

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/xdpd/xdpd/chain"
	"github.com/xdpd/xdpd/dispatcher"
	"github.com/xdpd/xdpd/internal/netif"
)

// isMissing tells whether an error says that there is no such interface, or no such namespace.
func isMissing(err error) bool {
	return errors.Is(err, &chain.Error{Reason: chain.InterfaceNotFound}) || errors.Is(err, &chain.Error{Reason: chain.NetnsNotFound})
}

// explainBusy says who holds an interface.
func (c *Controller) explainBusy(err error, iface string) error {
	if errors.Is(err, dispatcher.ErrGone) {
		return chain.Errorf(chain.Kernel, chain.Facts{"error": err.Error()},
			"%w: the interface went, or somebody detached its link, in the middle of the change (try again)", err)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return chain.Errorf(chain.Kernel, chain.Facts{"error": err.Error()},
			"%w: somebody removed pins of a member, which xdpd is about to make again (xdpctl status tells; try again)", err)
	}
	if !errors.Is(err, dispatcher.ErrBusy) && !errors.Is(err, dispatcher.ErrForeign) {
		return err
	}
	nic, xerr := netif.ByName(iface)
	if xerr != nil {
		return chain.Errorf(chain.InterfaceBusy, nil, "%w (who it is cannot be found out: %v)", err, xerr)
	}
	state := nic.XDP
	if state.ID == 0 {
		return chain.Errorf(chain.InterfaceBusy, nil, "%w (it has gone meanwhile: try again)", err)
	}
	name, nerr := dispatcher.ProgramName(state.ID)
	if nerr != nil {
		name = "unknown"
	}
	return chain.Errorf(chain.InterfaceBusy, chain.Facts{
		"holder_id": fmt.Sprint(state.ID), "holder_name": name, "holder_mode": string(state.Mode),
	}, "%w: program %d (%s) in %s mode holds the interface; xdpd does not touch it (detach it with the tool that attached it, or add with takeover)",
		err, state.ID, name, state.Mode)
}

// about adds the interface to an error that carries facts.
func about(err error, iface string) error {
	var e *chain.Error
	if errors.As(err, &e) && e.Facts["interface"] == "" {
		return e.With("interface", iface)
	}
	return err
}

func (c *Controller) logIf(what, iface string, err error) {
	if err != nil {
		c.log.Error(what, "interface", iface, "error", err)
	}
}

func storeError(err error) error {
	return chain.Errorf(chain.StoreFailed, chain.Facts{"error": err.Error()},
		"the store of the daemon failed: %w (nothing was changed; look at its disk)", err)
}
