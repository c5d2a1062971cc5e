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

	"github.com/xdpd/xdpd/internal/early"
	"github.com/xdpd/xdpd/internal/failpoint"
	"github.com/xdpd/xdpd/internal/server"
)

// Bounds of a stop. Together they are below the TimeoutStopSec= of deploy/systemd/xdpd-daemon.service.
const (
	drainTime  = 10 * time.Second // for requests in flight; also at a reload
	removeTime = 15 * time.Second // for taking everything out of the kernel
)

// serve is the daemon. After a stop everything is removed; after an error the chains go on running, as after a
// crash; after a reload it does not return, as the process is another program then.
func serve(ctx context.Context, d daemon, cfg config, log *slog.Logger) (err error) {
	sock, reloaded, err := inherit(cfg, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, sock.remove()) }()
	var c controller // there is one before the daemon serves, and nothing is verified earlier
	ctx, orders := obey(ctx, func(ctx context.Context) (*successor, error) { return verify(ctx, d, cfg, c) }, log)
	defer orders.release()
	if reloaded && d.outdated() {
		orders.again()
	}
	log.Info("starting", "version", version, "pid", os.Getpid(), "reload", reloaded)
	if c, err = d.open(cfg.control(), log); err != nil {
		return err
	}
	err = operate(ctx, c, cfg, sock, orders, log)
	if errors.Is(err, context.Canceled) && ctx.Err() != nil {
		err = nil
	}
	switch orders.given(ctx) {
	case reload:
		defer orders.next.Close()
		failpoint.Hit(failpoint.ReloadDrained)
		if err != nil {
			log.Error("reloading after an error", "error", err)
		}
		if err := c.Close(); err != nil {
			return fmt.Errorf("let go of what runs, for the reload: %w", err)
		}
		failpoint.Hit(failpoint.ReloadClosed)
		return handOver(ctx, d, cfg, sock, orders, log)
	case stop:
		return errors.Join(err, sock.remove(), remove(ctx, c, log))
	default:
		return errors.Join(err, c.Close())
	}
}

// verify returns the program on disk if it can take over from this one, which has c. A store that is not well now, whatever this
// daemon can still do with it, would be the end of the next.
func verify(ctx context.Context, d daemon, cfg config, c controller) (*successor, error) {
	look, cancel := context.WithTimeoutCause(ctx, checkTime, fmt.Errorf("it did not answer within %v", checkTime))
	defer cancel()
	if err := c.StoreProblem(look); err != nil {
		return nil, fmt.Errorf("it would find a store that is not well: %w", err)
	}
	return d.verify(ctx, self(cfg))
}

// operate adopts what runs and serves until ctx ends or something breaks.
func operate(ctx context.Context, c controller, cfg config, sock *socket, orders *orders, log *slog.Logger) error {
	if err := c.Reconcile(ctx, func() { notify(log, alive) }); err != nil {
		return fmt.Errorf("bring the kernel and the store together: %w", err)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := sock.listen(cfg); err != nil {
		return err
	}
	srv := server.New(c, server.Info{Version: version, StateDir: cfg.stateDir}, log)
	srv.SetReady() // first, as clients wait already if there was a reload
	tasks, ctx := errgroup.WithContext(ctx)
	tasks.Go(func() error { return srv.Serve(sock.lis) })
	tasks.Go(func() error { return watchdog(ctx, c, log) })
	tasks.Go(func() error { return c.Run(ctx) })
	tasks.Go(func() error {
		<-ctx.Done()
		drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTime)
		defer cancel()
		if err := finish(drain, srv, sock, context.Cause(ctx)); err != nil {
			log.Warn("requests were cut off", "error", err)
		}
		return nil
	})
	announce(ctx, c, cfg, log)
	close(orders.serving)
	return tasks.Wait()
}

// finish ends the serving; at a reload the socket stays open for the next program.
func finish(ctx context.Context, srv *server.Server, sock *socket, cause error) error {
	if errors.Is(cause, errReload) {
		return srv.Handover(ctx, sock.lis)
	}
	return srv.GracefulStop(ctx)
}

// handOver makes the next program take over, now that everything is let go of, unless a stop was ordered meanwhile. If
// the program cannot be executed the process ends, what runs goes on, and the service manager starts it again.
func handOver(ctx context.Context, d daemon, cfg config, sock *socket, orders *orders, log *slog.Logger) error {
	notify(log, "WATCHDOG=1") // the next program has as much time as this one had
	handle, err := sock.lis.Bequeath()
	if err != nil {
		log.Warn("the next program has to make the socket anew", "error", err)
	}
	env := append(without(os.Environ(), early.Handle), early.Handle+"="+handle)
	log.Info("replacing the process")
	told, undo, err := orders.deafen(ctx)
	switch {
	case err != nil:
		return errors.Join(fmt.Errorf("replace the process: %w", err), undo())
	case told == stop:
		log.Info("stopping instead")
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeTime)
		defer cancel()
		return errors.Join(undo(), sock.remove(), d.teardown(ctx, cfg.control(), log))
	}
	failpoint.Hit(failpoint.ReloadDeaf)
	return errors.Join(fmt.Errorf("replace the process: %w", d.replace(orders.next, env)), undo())
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

// socket is the daemon's, once there is one.
type socket struct{ lis *server.Listener }

// inherit takes the socket that the program before this one handed over; if it is of no use, or there is none, a
// new one is made when the daemon is ready to serve on it.
func inherit(cfg config, log *slog.Logger) (sock *socket, reloaded bool, err error) {
	handle, reloaded := os.LookupEnv(early.Handle)
	if !reloaded {
		return &socket{}, false, nil
	}
	if err := errors.Join(failpoint.Err(failpoint.ReloadTaken), os.Unsetenv(early.Handle)); err != nil {
		return nil, true, fmt.Errorf("take over: %w", err)
	}
	lis, err := server.Inherit(handle, cfg.socket, cfg.socketMode, cfg.socketGroup)
	if err != nil {
		log.Warn("the socket that was handed over is of no use, making a new one", "error", err)
	}
	return &socket{lis}, true, nil
}

// listen makes the socket, unless there is one.
func (s *socket) listen(cfg config) (err error) {
	if s.lis == nil {
		s.lis, err = server.Listen(cfg.socket, cfg.socketMode, cfg.socketGroup)
	}
	return err
}

// remove closes the socket and removes its file.
func (s *socket) remove() error {
	if s.lis == nil {
		return nil
	}
	return s.lis.Remove()
}
