// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/xdpd/xdpd/internal/server"
)

// Bounds of a stop. Together they are below the TimeoutStopSec= of deploy/systemd/xdpd-daemon.service.
const (
	drainTime  = 10 * time.Second // for requests in flight
	removeTime = 15 * time.Second // for taking everything out of the kernel
)

// serve is the daemon. After a stop everything is removed; after an error the chains go on running, as after a
// crash; after a reload it does not return, as the process is another program then.
func serve(ctx context.Context, d daemon, cfg config, log *slog.Logger) error {
	ctx, orders := obey(ctx, d.verify, log)
	defer orders.release()
	log.Info("starting", "version", version, "pid", os.Getpid())
	c, err := d.open(cfg.control(), log)
	if err != nil {
		return err
	}
	err = operate(ctx, c, cfg, log)
	if errors.Is(err, context.Canceled) && ctx.Err() != nil {
		err = nil
	}
	switch orders.given(ctx) {
	case reload:
		if err != nil {
			log.Error("reloading after an error", "error", err)
		}
		if err := c.Close(); err != nil {
			return fmt.Errorf("let go of what runs, for the reload: %w", err)
		}
		log.Info("replacing the process")
		return fmt.Errorf("replace the process: %w", d.replace())
	case stop:
		return errors.Join(err, remove(ctx, c, log))
	default:
		return errors.Join(err, c.Close())
	}
}

// operate adopts what runs and serves until ctx ends or something breaks.
func operate(ctx context.Context, c controller, cfg config, log *slog.Logger) error {
	if err := c.Reconcile(ctx); err != nil {
		return fmt.Errorf("bring the kernel and the store together: %w", err)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	lis, err := server.Listen(cfg.socket, cfg.socketMode, cfg.socketGroup)
	if err != nil {
		return err
	}
	srv := server.New(c, server.Info{Version: version, StateDir: cfg.stateDir}, log)
	tasks, ctx := errgroup.WithContext(ctx)
	tasks.Go(func() error { return srv.Serve(lis) })
	tasks.Go(func() error { return watchdog(ctx, c, log) })
	tasks.Go(func() error { return c.Run(ctx) })
	tasks.Go(func() error {
		<-ctx.Done()
		drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTime)
		defer cancel()
		if err := srv.GracefulStop(drain); err != nil {
			log.Warn("requests were cut off", "error", err)
		}
		return nil
	})
	srv.SetReady()
	announce(ctx, c, cfg, log)
	return tasks.Wait()
}

func remove(ctx context.Context, c controller, log *slog.Logger) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeTime)
	defer cancel()
	if err := c.Stop(ctx); err != nil {
		return fmt.Errorf("remove everything: %w", err)
	}
	log.Info("stopped; nothing is left in the kernel")
	return nil
}
