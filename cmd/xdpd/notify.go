// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	sd "github.com/coreos/go-systemd/v22/daemon"
)

// notify tells the service manager; without one it does nothing.
func notify(log *slog.Logger, state string) {
	if _, err := sd.SdNotify(false, state); err != nil {
		log.Warn("tell the service manager", "state", state, "error", err)
	}
}

// alive says that a start goes on: there may be as much of it again as TimeoutStartSec= of deploy/systemd/xdpd-daemon.service
// allows, and the watchdog begins anew, which is there after a reload.
const alive = "WATCHDOG=1\nEXTEND_TIMEOUT_USEC=60000000"

func reloading() string { return "RELOADING=1\nMONOTONIC_USEC=" + sd.SdNotifyMonotonicUsec() }

// announce tells the service manager and the log that the daemon is ready.
func announce(ctx context.Context, c controller, cfg config, log *slog.Logger) {
	st, err := c.Status(ctx)
	if err != nil {
		log.Warn("ask for the own status", "error", err)
	}
	log.Info("ready", "socket", cfg.socket, "linker", st.Linker, "reason", st.LinkerReason, "kernel", st.Kernel,
		"chains", st.Chains, "programs", st.Programs)
	for _, p := range st.Problems {
		log.Warn("something is wrong", "problem", p)
	}
	notify(log, fmt.Sprintf("READY=1\nSTATUS=%d programs in %d chains, linker %s", st.Programs, st.Chains, st.Linker))
}

// watchdog tells the service manager, if it wants to know, that the daemon lives, each time that the controller
// answers; also an error is an answer. It returns nil when ctx ends.
func watchdog(ctx context.Context, c controller, log *slog.Logger) error {
	interval, err := sd.SdWatchdogEnabled(false)
	if err != nil {
		log.Warn("the service manager's watchdog setting is not understood", "error", err)
	}
	if interval <= 0 {
		return nil
	}
	tick := time.NewTicker(interval / 2)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if answers(ctx, c, interval/2) {
			notify(log, "WATCHDOG=1")
		} else if ctx.Err() == nil {
			log.Warn("the controller does not answer; the watchdog is not told", "within", interval/2)
		}
	}
}

func answers(ctx context.Context, c controller, within time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	_, err := c.Status(ctx)
	return !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, context.Canceled)
}
