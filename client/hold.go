// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
)

// Waiting between attempts to hold a lease again.
const (
	firstHoldDelay = 20 * time.Millisecond
	lastHoldDelay  = time.Second
)

// HoldOptions say which lease to hold, and how.
type HoldOptions struct {
	Token string        // of a lease that there is, to hold it again or take it over; empty: a new one
	Grace time.Duration // how long its programs stay when nobody holds it, up to 24 hours; 0: they go at once
}

// Lease is a lease that this process holds: the programs that were added with its token (LIFETIME_LEASE) run as long as it
// does. It is safe for use by several goroutines.
//
// When the connection breaks, as when the daemon reloads or is killed and started again, the lease is held again as soon as
// there is a daemon, which gives clients time for that: the grace or, after a start, lease_renewal of its configuration.
type Lease struct {
	client *Client
	token  string
	grace  time.Duration
	cancel context.CancelFunc // ends the stream
	done   chan struct{}      // closed when nothing holds the lease any more
	lost   chan struct{}      // closed when the daemon said that it is another's or has ended

	mu        sync.Mutex // protects those below
	stream    holdStream // that holds the lease; nil: none does at the moment
	releasing bool       // the lease is to end
	closed    bool       // it is to be let go
	err       error      // what ended it
}

type holdStream = grpc.BidiStreamingClient[xdpdv1.HoldRequest, xdpdv1.HoldResponse]

// Hold gets a lease from the daemon and holds it until Release or Close, or until the process ends in whatever way. ctx
// limits only how long it takes to get it. Without a daemon it fails with an UnreachableError; with a token that no lease has,
// with the reason LEASE_NOT_FOUND. The caller releases or closes the lease, and closes the client after that.
func (c *Client) Hold(ctx context.Context, o HoldOptions) (*Lease, error) {
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	l := &Lease{
		client: c, token: o.Token, grace: o.Grace, cancel: cancel, done: make(chan struct{}), lost: make(chan struct{}),
	}
	stop := context.AfterFunc(ctx, cancel)
	err := l.open(run)
	if !stop() && err == nil { // ctx has ended, and the stream with it
		err = context.Cause(ctx)
	}
	if err != nil {
		cancel()
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, err
	}
	go l.keep(run)
	return l, nil
}

// Token is what AddProgram takes as lease, and what another process needs to take the lease over. Whoever knows it can end
// the lease.
func (l *Lease) Token() string { return l.token }

// Lost is closed when the daemon said that the lease has ended or is another's: its programs are gone, or not this
// process's any more. Release and Close do not close it.
func (l *Lease) Lost() <-chan struct{} { return l.lost }

// Err is why the lease is lost: an error with the reason LEASE_TAKEN or LEASE_NOT_FOUND, or another that says that it cannot
// be held again. It is nil as long as Lost is not closed.
func (l *Lease) Err() error {
	select {
	case <-l.lost:
		return l.end()
	default:
		return nil
	}
}

func (l *Lease) end() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// Release ends the lease: it returns when its programs are removed. Where they cannot be removed now, as when a change of
// their chain waits to be confirmed, it returns the daemon's error, and the daemon removes them when it can. Without a daemon
// it waits for one until ctx ends, and then the lease is as after Close. That a lease has ended already is no error; that
// another client has it is, with the reason LEASE_TAKEN, and leaves it to that.
func (l *Lease) Release(ctx context.Context) error {
	l.mu.Lock()
	if !l.releasing {
		l.releasing = true
		l.sendRelease()
	}
	l.mu.Unlock()
	select {
	case <-l.done:
	case <-ctx.Done():
		l.Close()
		return fmt.Errorf("release a lease: %w", ctx.Err())
	}
	err := l.end()
	if Reason(err) == xdpdv1.ErrorReason_ERROR_REASON_LEASE_NOT_FOUND {
		err = nil
	}
	l.Close()
	return err
}

// sendRelease asks the daemon to end the lease, if there is a stream; mu is locked. What comes of it is received by keep.
func (l *Lease) sendRelease() {
	if l.stream != nil {
		_ = l.stream.Send(&xdpdv1.HoldRequest{Release: true}) // an error is told by receiving
	}
}

// Close lets the lease go: the grace begins, within which another Hold with the token can have it. After Release it does
// nothing. It returns when nothing of the lease is left in this process.
func (l *Lease) Close() {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.cancel()
	<-l.done
}

// open makes a stream that holds the lease, or ends it if it is to be released: then it has ended with io.EOF.
func (l *Lease) open(ctx context.Context) error {
	stream, err := l.client.XdpdServiceClient.Hold(ctx)
	if err != nil {
		return err
	}
	l.mu.Lock()
	first := &xdpdv1.HoldRequest{Token: l.token, Grace: durationpb.New(l.grace), Release: l.releasing}
	l.mu.Unlock()
	_ = stream.Send(first) // an error is told by receiving
	resp, err := stream.Recv()
	if err != nil {
		return err
	}
	if l.token == "" {
		l.token = resp.GetToken()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stream = stream
	if l.releasing && !first.GetRelease() {
		l.sendRelease()
	}
	return nil
}

// wait returns what ended the stream.
func (l *Lease) wait() error {
	l.mu.Lock()
	stream := l.stream
	l.mu.Unlock()
	for {
		if _, err := stream.Recv(); err != nil {
			l.mu.Lock()
			l.stream = nil
			l.mu.Unlock()
			return err
		}
	}
}

// keep holds the lease until ctx ends, it is released, or it is lost.
func (l *Lease) keep(ctx context.Context) {
	defer close(l.done)
	defer l.cancel()
	for {
		err := l.wait()
		for delay := firstHoldDelay; err != nil; delay = min(2*delay, lastHoldDelay) {
			if ctx.Err() != nil || l.ends(err) || !sleep(ctx, delay) {
				return
			}
			err = l.open(ctx)
		}
	}
}

// ends tells whether the end of a stream is that of the lease, and notes it.
func (l *Lease) ends(err error) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.closed:
		return true
	case l.releasing && errors.Is(err, io.EOF):
		return true
	case l.client.isClosed():
	case l.releasing && status.Code(err) == codes.Unavailable, !l.releasing && passing(err):
		return false
	}
	if l.err = err; !l.releasing {
		close(l.lost)
	}
	return true
}

// passing tells whether what ended a stream may be different the next time: there is no daemon at the moment, or it stops,
// or something else is wrong with it. A lease is lost only where the daemon says so.
func passing(err error) bool {
	switch Reason(err) {
	case xdpdv1.ErrorReason_ERROR_REASON_STOPPING, xdpdv1.ErrorReason_ERROR_REASON_OVERLOADED, xdpdv1.ErrorReason_ERROR_REASON_STORE_FAILED:
		return true
	case xdpdv1.ErrorReason_ERROR_REASON_UNSPECIFIED:
	default:
		return false
	}
	switch status.Code(err) {
	case codes.Unimplemented, codes.InvalidArgument, codes.PermissionDenied:
		return false
	}
	return true
}

// isClosed tells whether Close was called.
func (c *Client) isClosed() bool { return c.conn.GetState() == connectivity.Shutdown }

// sleep returns false when ctx ended.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}
