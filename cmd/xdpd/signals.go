// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/xdpd/xdpd/internal/early"
	"github.com/xdpd/xdpd/internal/failpoint"
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

// verifier asks the program on disk whether it can take over. The caller closes the successor.
type verifier func(context.Context) (*successor, error)

// orders are the signals that the daemon obeys, until deafen or release.
type orders struct {
	stops, reloads chan os.Signal // with room for one: a second that nobody has looked at says nothing new
	stop           atomic.Bool    // told to stop
	serving        chan struct{}  // closed by serve
	next           *successor     // who takes over, once the context has ended for a reload
	release        func()         // ends the goroutine; the signals stay caught, so that a late one does not change the exit code
}

// obey returns a context that ends with the first SIGTERM or SIGINT, or with a SIGHUP after which verify found a
// program that can take over. A SIGHUP waits until the daemon serves, and until the check for the one before is over.
// SIGPIPE is ignored: a log that nobody reads any more must not end the daemon.
func obey(parent context.Context, verify verifier, log *slog.Logger) (context.Context, *orders) {
	ctx, cancel := context.WithCancelCause(parent)
	quit, done := make(chan struct{}), make(chan struct{})
	o := &orders{
		stops: make(chan os.Signal, 1), reloads: make(chan os.Signal, 1), serving: make(chan struct{}),
		release: sync.OnceFunc(func() { close(quit); <-done }),
	}
	signal.Notify(o.stops, syscall.SIGTERM, syscall.SIGINT)
	signal.Notify(o.reloads, syscall.SIGHUP)
	signal.Ignore(syscall.SIGPIPE)
	for _, s := range early.Heard() {
		o.put(s)
	}
	go func() {
		defer close(done)
		defer cancel(nil)
		o.hear(ctx, cancel, quit, verify, log)
	}()
	return ctx, o
}

// put hears a signal that did not come by its channel.
func (o *orders) put(s os.Signal) {
	heard := o.stops
	if s == syscall.SIGHUP {
		heard = o.reloads
	}
	select {
	case heard <- s:
	default: // it has one that nobody has looked at
	}
}

// again orders a reload, as SIGHUP does.
func (o *orders) again() { o.put(syscall.SIGHUP) }

// verdict is how a check went.
type verdict struct {
	next *successor
	err  error
}

func (o *orders) hear(ctx context.Context, cancel context.CancelCauseFunc, quit <-chan struct{}, verify verifier, log *slog.Logger) {
	check, end := context.WithCancel(ctx)
	verdicts := make(chan verdict, 1)
	checking, serving := false, o.serving
	defer func() {
		end()
		if checking {
			(<-verdicts).next.Close()
		}
	}()
	for {
		reloads := o.reloads
		if checking || !o.stop.Load() && (serving != nil || ctx.Err() != nil) {
			reloads = nil // they wait
		}
		select {
		case <-quit:
			return
		case <-serving:
			serving = nil
		case s := <-o.stops:
			o.told(s, cancel, log)
		case s := <-reloads:
			if ctx.Err() != nil {
				log.Info("on the way out already", "signal", s.String())
				continue
			}
			notify(log, reloading())
			checking = true
			go func() {
				next, err := verify(check)
				verdicts <- verdict{next, err}
			}()
		case v := <-verdicts:
			checking = false
			o.decide(ctx, v, cancel, log)
		}
	}
}

// told obeys a signal to stop.
func (o *orders) told(s os.Signal, cancel context.CancelCauseFunc, log *slog.Logger) {
	if o.stop.Swap(true) {
		log.Info("stopping already", "signal", s.String())
		return
	}
	log.Info("stopping", "signal", s.String())
	notify(log, "STOPPING=1")
	cancel(nil)
}

// decide begins the reload if the check went well.
func (o *orders) decide(ctx context.Context, v verdict, cancel context.CancelCauseFunc, log *slog.Logger) {
	switch {
	case ctx.Err() != nil: // a stop came first
		v.next.Close()
	case v.err != nil:
		log.Error("not reloading: the program that is to take over refuses", "error", v.err)
		notify(log, "READY=1")
	default:
		log.Info("reloading", "program", v.next.path, "from", version, "to", v.next.version)
		failpoint.Hit(failpoint.ReloadChecked)
		o.next = v.next
		cancel(errReload)
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
