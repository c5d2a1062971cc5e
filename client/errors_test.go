// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/client"
)

// refusing is a daemon that refuses all that it is asked.
type refusing struct {
	xdpdv1.UnimplementedXdpdServiceServer
	err error
}

func (r *refusing) GetStatus(context.Context, *xdpdv1.GetStatusRequest) (*xdpdv1.GetStatusResponse, error) {
	return nil, r.err
}

func (r *refusing) Watch(*xdpdv1.WatchRequest, xdpdv1.XdpdService_WatchServer) error { return r.err }

// calls are a call with one answer, and one with a stream of them.
func calls(ctx context.Context, c *client.Client) map[string]error {
	_, unary := c.GetStatus(ctx, &xdpdv1.GetStatusRequest{})
	stream, err := c.Watch(ctx, &xdpdv1.WatchRequest{})
	if err == nil {
		_, err = stream.Recv()
	}
	return map[string]error{"GetStatus": unary, "Watch": err}
}

func TestRefusals(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	d := &refusing{}
	defer serve(t, socket, d)()
	c := dial(t, socket)
	sentinels := map[string]error{
		"LEASE_NOT_FOUND": client.ErrLeaseNotFound, "LEASE_TAKEN": client.ErrLeaseTaken, "NETNS_NOT_FOUND": client.ErrNetnsNotFound,
		"TAKEOVER_FAILED": client.ErrTakeoverFailed, "PATTERN_NOT_FOUND": client.ErrPatternNotFound, "OVERLOADED": client.ErrOverloaded,
	}
	for reason := range sentinels {
		facts := map[string]string{"interface": "blue:eth0"}
		s, err := status.New(codes.Unavailable, "no").WithDetails( // also that code is not "unreachable" when the daemon said it
			&errdetails.ErrorInfo{Domain: "xdpd", Reason: reason, Metadata: facts}, &errdetails.DebugInfo{Detail: "log"})
		if err != nil {
			t.Fatal(err)
		}
		d.err = s.Err()
		for call, err := range calls(t.Context(), c) {
			wrapped := fmt.Errorf("ask: %w", err)
			for other, sentinel := range sentinels {
				if errors.Is(wrapped, sentinel) != (reason == other) {
					t.Errorf("%s: whether %v is %v", call, wrapped, sentinel)
				}
			}
			refused, ok := errors.AsType[*client.RefusedError](wrapped)
			want := xdpdv1.ErrorReason(xdpdv1.ErrorReason_value["ERROR_REASON_"+reason])
			if !ok || refused.Reason != want || !maps.Equal(refused.Facts, facts) || refused.Error() != "no" {
				t.Fatalf("%s: got %#v", call, err)
			}
			if status.Code(wrapped) != codes.Unavailable || client.Reason(wrapped) != want || client.VerifierLog(wrapped) != "log" {
				t.Errorf("%s: the status does not go along with %v", call, wrapped)
			}
		}
		if text := sentinels[reason].Error(); text != "refused with the reason "+reason {
			t.Errorf("%s says %q", reason, text)
		}
	}
}

// Only what the daemon itself refused is a refusal.
func TestNoRefusals(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	d := &refusing{}
	defer serve(t, socket, d)()
	c := dial(t, socket)
	foreign, err := status.New(codes.NotFound, "no").WithDetails(&errdetails.ErrorInfo{Domain: "example.com", Reason: "LEASE_NOT_FOUND"})
	if err != nil {
		t.Fatal(err)
	}
	for _, d.err = range []error{foreign.Err(), status.Error(codes.ResourceExhausted, "too large")} {
		for call, err := range calls(t.Context(), c) {
			if _, ok := errors.AsType[*client.RefusedError](err); ok || status.Code(err) != status.Code(d.err) {
				t.Errorf("%s: %v became %#v", call, d.err, err)
			}
		}
	}
	newer, err := status.New(codes.NotFound, "no").WithDetails(&errdetails.ErrorInfo{Domain: "xdpd", Reason: "INVENTED_LATER"})
	if err != nil {
		t.Fatal(err)
	}
	d.err = newer.Err()
	for call, err := range calls(t.Context(), c) {
		if refused, ok := errors.AsType[*client.RefusedError](err); !ok || refused.Reason != xdpdv1.ErrorReason_ERROR_REASON_UNSPECIFIED {
			t.Errorf("%s: a reason of a newer daemon became %#v", call, err)
		}
	}
}
