// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
)

// order is what the daemon was told to do.
type order int

const (
	none order = iota
	stop
	reload
)

// errReload is the cause of a context that ended for a reload.
var errReload = errors.New("told to reload")

// orders are the signals that the daemon obeys, until release.
type orders struct {
	stop    atomic.Bool
	signals chan os.Signal
	quit    chan struct{}
	done    chan struct{}
}

// obey returns a context that ends with the first SIGTERM or SIGINT, or with a SIGHUP after which verify found
// nothing wrong with the program that is to take over. SIGPIPE is ignored: a log that nobody reads any more
// must not end the daemon.
func obey(parent context.Context, verify func(context.Context) error, log *slog.Logger) (context.Context, *orders) {
	ctx, cancel := context.WithCancelCause(parent)
	o := &orders{signals: make(chan os.Signal, 8), quit: make(chan struct{}), done: make(chan struct{})}
	signal.Notify(o.signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	signal.Ignore(syscall.SIGPIPE)
	go func() {
		defer close(o.done)
		for {
			select {
			case <-o.quit:
				cancel(nil)
				return
			case s := <-o.signals:
				o.handle(ctx, s, cancel, verify, log)
			}
		}
	}()
	return ctx, o
}

func (o *orders) handle(ctx context.Context, s os.Signal, cancel context.CancelCauseFunc, verify func(context.Context) error, log *slog.Logger) {
	switch {
	case s == syscall.SIGHUP && ctx.Err() != nil:
		log.Info("on the way out already", "signal", s.String())
	case s == syscall.SIGHUP:
		notify(log, reloading())
		if err := verify(ctx); err != nil {
			log.Error("not reloading: the program that is to take over refuses", "error", err)
			notify(log, "READY=1")
			return
		}
		log.Info("reloading", "signal", s.String())
		cancel(errReload)
	case o.stop.Swap(true):
		log.Info("stopping already", "signal", s.String())
	default:
		log.Info("stopping", "signal", s.String())
		notify(log, "STOPPING=1")
		cancel(nil)
	}
}

// given tells what ended ctx; a stop is stronger than a reload.
func (o *orders) given(ctx context.Context) order {
	switch {
	case ctx.Err() == nil:
		return none
	case !o.stop.Load() && errors.Is(context.Cause(ctx), errReload):
		return reload
	default:
		return stop
	}
}

// release ends the goroutine. The signals stay caught, so that a late one does not change the exit code.
func (o *orders) release() {
	close(o.quit)
	<-o.done
}
