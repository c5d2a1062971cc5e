// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/client"
)

// watched is a daemon that tells two events for each watch, and then does what end says.
type watched struct {
	xdpdv1.UnimplementedXdpdServiceServer
	end func(ctx context.Context) error

	mu     *sync.Mutex // protects tokens
	tokens *[]string   // that were asked for
}

func newWatched(end func(context.Context) error) watched {
	return watched{end: end, mu: new(sync.Mutex), tokens: new([]string)}
}

// untilGone keeps a watch until the client or the daemon ends.
func untilGone(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

func (w watched) Watch(req *xdpdv1.WatchRequest, s xdpdv1.XdpdService_WatchServer) error {
	w.mu.Lock()
	*w.tokens = append(*w.tokens, req.GetResumeToken())
	w.mu.Unlock()
	n, _ := strconv.Atoi(req.GetResumeToken())
	started := &xdpdv1.WatchResponse{
		ResumeToken: req.GetResumeToken(),
		Event:       &xdpdv1.WatchResponse_Started_{Started: &xdpdv1.WatchResponse_Started{}},
	}
	if err := s.Send(started); err != nil {
		return err
	}
	for i := n + 1; i <= n+2; i++ {
		if err := s.Send(&xdpdv1.WatchResponse{ResumeToken: fmt.Sprint(i), Interface: "eth0"}); err != nil {
			return err
		}
	}
	return w.end(s.Context())
}

var errEnough = errors.New("enough")

func TestFollowGoesOn(t *testing.T) {
	stopping := status.Error(codes.Unavailable, "stopping")
	for name, end := range map[string]func(context.Context) error{
		"the stream ends":    func(context.Context) error { return nil },
		"the daemon refuses": func(context.Context) error { return stopping },
	} {
		t.Run(name, func(t *testing.T) {
			socket := filepath.Join(t.TempDir(), "s")
			d := newWatched(end)
			defer serve(t, socket, d)()
			var seen []string
			lost := 0
			err := dial(t, socket).Follow(t.Context(), "7", func(r *xdpdv1.WatchResponse) error {
				if r.GetStarted() == nil {
					seen = append(seen, r.GetResumeToken())
				}
				if len(seen) == 6 {
					return errEnough
				}
				return nil
			}, func(error) error { lost++; return nil })
			if !errors.Is(err, errEnough) || lost != 2 {
				t.Errorf("got %v, lost %d times", err, lost)
			}
			if want := []string{"8", "9", "10", "11", "12", "13"}; !slices.Equal(seen, want) {
				t.Errorf("saw %q", seen)
			}
			if want := []string{"7", "9", "11"}; !slices.Equal(*d.tokens, want) {
				t.Errorf("the daemon was asked for %q", *d.tokens)
			}
		})
	}
}

// A daemon that is killed and started again is followed as soon as it listens, and lost once for each time.
func TestFollowRestart(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	d := newWatched(untilGone)
	stop := serve(t, socket, d)
	defer func() { stop() }()
	events, lost := 0, 0
	err := dial(t, socket).Follow(t.Context(), "", func(r *xdpdv1.WatchResponse) error {
		if events++; events == 9 {
			return errEnough
		}
		if events%3 == 0 {
			go func(old func()) { old() }(stop)
		}
		return nil
	}, func(err error) error {
		lost++
		if status.Code(err) != codes.Unavailable {
			t.Errorf("lost by %v", err)
		}
		stop() // waits for the end of the old one
		stop = serve(t, socket, d)
		return nil
	})
	if !errors.Is(err, errEnough) || lost != 2 {
		t.Errorf("got %v, lost %d times", err, lost)
	}
}

func TestFollowEnds(t *testing.T) {
	dir := t.TempDir()
	nothing := func(*xdpdv1.WatchResponse) error { return nil }
	t.Run("no daemon", func(t *testing.T) {
		err := dial(t, filepath.Join(dir, "absent")).Follow(t.Context(), "", nothing, nil)
		if _, gone := errors.AsType[*client.UnreachableError](err); !gone || !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("got %#v", err)
		}
	})
	t.Run("refused", func(t *testing.T) {
		socket := filepath.Join(dir, "refused")
		defer serve(t, socket, daemon{})()
		if err := dial(t, socket).Follow(t.Context(), "", nothing, nil); status.Code(err) != codes.Unimplemented {
			t.Errorf("got %v", err)
		}
	})
	t.Run("lost refuses", func(t *testing.T) {
		socket := filepath.Join(dir, "lost")
		defer serve(t, socket, newWatched(func(context.Context) error { return nil }))()
		err := dial(t, socket).Follow(t.Context(), "", nothing, func(error) error { return errEnough })
		if !errors.Is(err, errEnough) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("context", func(t *testing.T) {
		socket := filepath.Join(dir, "context")
		stop := serve(t, socket, newWatched(untilGone))
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		c := dial(t, socket)
		err := c.Follow(ctx, "", func(*xdpdv1.WatchResponse) error { cancel(); return nil }, nil)
		stop()
		if !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("context, without a daemon", func(t *testing.T) {
		socket := filepath.Join(dir, "gone")
		stop := serve(t, socket, newWatched(func(context.Context) error { return nil }))
		ctx, cancel := context.WithCancel(t.Context())
		err := dial(t, socket).Follow(ctx, "", nothing, func(error) error { stop(); cancel(); return nil })
		if !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	})
}

// A stream that was never sent says why, as a call does; one that was cut off does not look like one.
func TestStreamErrors(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	c := dial(t, socket)
	watch := func() (xdpdv1.XdpdService_WatchClient, error) { return c.Watch(t.Context(), &xdpdv1.WatchRequest{}) }
	s, err := watch()
	if err == nil {
		_, err = s.Recv()
	}
	if _, gone := errors.AsType[*client.UnreachableError](err); !gone || !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("without a daemon: %#v", err)
	}
	stop := serve(t, socket, newWatched(untilGone))
	for s, err = watch(); err != nil; s, err = watch() { // until grpc has tried to connect anew
		if status.Code(err) != codes.Unavailable {
			t.Fatal(err)
		}
	}
	if _, err := s.Recv(); err != nil {
		t.Fatal(err)
	}
	stop()
	for err == nil {
		_, err = s.Recv()
	}
	if _, gone := errors.AsType[*client.UnreachableError](err); gone || status.Code(err) != codes.Unavailable {
		t.Errorf("cut off: %#v", err)
	}
}
