// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"errors"
	"io"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
)

// followDelay is how long Follow leaves a daemon alone that has ended a watch: one that is stopping refuses new
// ones for as long as its last change takes.
const followDelay = 100 * time.Millisecond

// Follow watches what happens, and goes on after the daemon was restarted: from the event after the one whose
// resume token is given, or from now on where it is empty.
//
// Each response is given to seen, in order. One with Started comes first, and again each time that the
// connection was made anew; where events were lost meanwhile, one with Missed follows it. Each time that the
// daemon goes away, the error that told so is given to lost, which may be nil.
//
// Follow returns the error of seen or lost, ctx's when that has ended, and else that of a daemon which cannot be
// reached in the first place or refuses to be watched.
func (c *Client) Follow(ctx context.Context, token string, seen func(*xdpdv1.WatchResponse) error, lost func(error) error) error {
	f := follower{client: c, token: token, seen: seen}
	for {
		err := f.watch(ctx)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case f.refused != nil:
			return f.refused
		case !f.begun || !errors.Is(err, io.EOF) && status.Code(err) != codes.Unavailable:
			return err
		}
		if f.connected && lost != nil {
			if err := lost(err); err != nil {
				return err
			}
		}
		f.connected = false
		select {
		case <-ctx.Done():
		case <-time.After(followDelay):
		}
	}
}

// follower is what Follow knows from one watch to the next.
type follower struct {
	client    *Client
	token     string
	seen      func(*xdpdv1.WatchResponse) error
	refused   error // of seen
	begun     bool  // there was a response, ever
	connected bool  // there was one since the daemon went away
}

// watch makes one Watch and returns what ended it, never nil. Once there was a daemon it waits for one.
func (f *follower) watch(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the stream
	stream, err := f.client.Watch(ctx, &xdpdv1.WatchRequest{ResumeToken: f.token}, grpc.WaitForReady(f.begun))
	if err != nil {
		return err
	}
	for {
		resp, err := stream.Recv()
		if err != nil {
			return err
		}
		f.begun, f.connected = true, true
		if resp.GetResumeToken() != "" {
			f.token = resp.GetResumeToken()
		}
		if f.refused = f.seen(resp); f.refused != nil {
			return f.refused
		}
	}
}
