// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/client"
	"github.com/xdpd/xdpd/internal/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

// daemon answers GetStatus with a text of a length, and AddProgram with the size of the object.
type daemon struct {
	xdpdv1.UnimplementedXdpdServiceServer
	answer int
	called chan struct{} // closed when ListChains is called
}

// ListChains answers never.
func (d daemon) ListChains(ctx context.Context, _ *xdpdv1.ListChainsRequest) (*xdpdv1.ListChainsResponse, error) {
	close(d.called)
	<-ctx.Done()
	return nil, ctx.Err()
}

func (d daemon) GetStatus(context.Context, *xdpdv1.GetStatusRequest) (*xdpdv1.GetStatusResponse, error) {
	return &xdpdv1.GetStatusResponse{LinkerReason: strings.Repeat("x", d.answer)}, nil
}

func (d daemon) AddProgram(_ context.Context, r *xdpdv1.AddProgramRequest) (*xdpdv1.AddProgramResponse, error) {
	return &xdpdv1.AddProgramResponse{Program: &xdpdv1.Program{ObjectSize: uint64(len(r.GetObject()))}}, nil
}

// serve runs a daemon on the socket until stop is called.
func serve(t *testing.T, socket string, d xdpdv1.XdpdServiceServer) (stop func()) {
	t.Helper()
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer(grpc.MaxRecvMsgSize(64 << 20))
	xdpdv1.RegisterXdpdServiceServer(s, d)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := s.Serve(l); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			t.Errorf("serve: %v", err)
		}
	}()
	return func() {
		s.Stop()
		<-done
	}
}

func dial(t *testing.T, socket string) *client.Client {
	t.Helper()
	c, err := client.Dial(socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return c
}

func TestLargeMessages(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	defer serve(t, socket, daemon{answer: 20 << 20})()
	c := dial(t, socket)
	resp, err := c.AddProgram(t.Context(), &xdpdv1.AddProgramRequest{Object: make([]byte, 16<<20)})
	if err != nil || resp.GetProgram().GetObjectSize() != 16<<20 {
		t.Errorf("an object of 16 MiB: %v, %v", resp, err)
	}
	if got, err := c.GetStatus(t.Context(), &xdpdv1.GetStatusRequest{}); err != nil || len(got.GetLinkerReason()) != 20<<20 {
		t.Errorf("an answer of 20 MiB: %v", err)
	}
}

// A path is not a URL: what a URL gives a meaning to must reach connect(2) as it is.
func TestOddSocketNames(t *testing.T) {
	for _, name := range []string{"with space", "a%20b", "q?x=1", "h#x", "a:b", "é"} {
		t.Run(name, func(t *testing.T) {
			t.Chdir(t.TempDir())
			defer serve(t, name, daemon{})()
			if _, err := dial(t, name).GetStatus(t.Context(), &xdpdv1.GetStatusRequest{}); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestUnreachable(t *testing.T) {
	dir := t.TempDir()
	left := filepath.Join(dir, "left")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: left, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	for _, c := range []struct {
		socket string
		cause  error
	}{{filepath.Join(dir, "absent"), fs.ErrNotExist}, {left, syscall.ECONNREFUSED}} {
		_, err := dial(t, c.socket).GetStatus(t.Context(), &xdpdv1.GetStatusRequest{})
		var gone *client.UnreachableError
		if !errors.As(err, &gone) || gone.Socket != c.socket || !errors.Is(err, c.cause) {
			t.Errorf("%s: got %#v, want %v", c.socket, err, c.cause)
		}
		if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), c.socket) {
			t.Errorf("%s: code %v of %v", c.socket, status.Code(err), err)
		}
	}
}

func TestReconnect(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	c := dial(t, socket)
	call := func(opts ...grpc.CallOption) error {
		_, err := c.GetStatus(t.Context(), &xdpdv1.GetStatusRequest{}, opts...)
		return err
	}
	for range 3 {
		stop := serve(t, socket, daemon{})
		if err := call(grpc.WaitForReady(true)); err != nil {
			t.Fatal(err)
		}
		stop()
		// The calls until the client has noticed fail too, with what broke the connection.
		err := call()
		for ; status.Code(err) == codes.Unavailable; err = call() {
			if _, gone := errors.AsType[*client.UnreachableError](err); gone {
				break
			}
		}
		if !errors.Is(err, fs.ErrNotExist) {
			t.Fatalf("without a daemon: %v", err)
		}
	}
}

// A call that is cut off may have done its work: it must not look like one that was never sent.
func TestCutOff(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	c := dial(t, socket)
	if _, err := c.GetStatus(t.Context(), &xdpdv1.GetStatusRequest{}); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("without a daemon: %v", err)
	}
	called := make(chan struct{})
	stop := serve(t, socket, daemon{called: called})
	result := make(chan error, 1)
	go func() {
		_, err := c.ListChains(t.Context(), &xdpdv1.ListChainsRequest{}, grpc.WaitForReady(true))
		result <- err
	}()
	<-called
	stop()
	err := <-result
	if _, gone := errors.AsType[*client.UnreachableError](err); gone || status.Code(err) != codes.Unavailable {
		t.Errorf("got %#v", err)
	}
}

func TestErrors(t *testing.T) {
	make := func(details ...protoadapt.MessageV1) error {
		s, err := status.New(codes.FailedPrecondition, "no").WithDetails(details...)
		if err != nil {
			t.Fatal(err)
		}
		return s.Err()
	}
	facts := map[string]string{"interface": "eth0"}
	busy := &errdetails.ErrorInfo{Domain: "xdpd", Reason: "INTERFACE_BUSY", Metadata: facts}
	later := &errdetails.ErrorInfo{Domain: "xdpd", Reason: "INVENTED_LATER", Metadata: facts}
	foreign := &errdetails.ErrorInfo{Domain: "example.com", Reason: "INTERFACE_BUSY", Metadata: facts}
	log := &errdetails.DebugInfo{Detail: "0: R1=ctx()\n"}
	const none = xdpdv1.ErrorReason_ERROR_REASON_UNSPECIFIED
	for _, c := range []struct {
		name   string
		err    error
		reason xdpdv1.ErrorReason
		facts  map[string]string
		log    string
	}{
		{"xdpd", make(busy), xdpdv1.ErrorReason_ERROR_REASON_INTERFACE_BUSY, facts, ""},
		{"with a log", make(log, busy), xdpdv1.ErrorReason_ERROR_REASON_INTERFACE_BUSY, facts, log.Detail},
		{"wrapped", fmt.Errorf("add: %w", make(busy, log)), xdpdv1.ErrorReason_ERROR_REASON_INTERFACE_BUSY, facts, log.Detail},
		{"newer reason", make(later), none, facts, ""},
		{"foreign", make(foreign), none, nil, ""},
		{"no details", make(), none, nil, ""},
		{"no status", errors.New("no"), none, nil, ""},
		{"nil", nil, none, nil, ""},
		{"unreachable", &client.UnreachableError{Socket: "/s", Err: fs.ErrNotExist}, none, nil, ""},
	} {
		if got := client.Reason(c.err); got != c.reason {
			t.Errorf("%s: reason %v, want %v", c.name, got, c.reason)
		}
		if got := client.Facts(c.err); !maps.Equal(got, c.facts) {
			t.Errorf("%s: facts %v, want %v", c.name, got, c.facts)
		}
		if got := client.VerifierLog(c.err); got != c.log {
			t.Errorf("%s: log %q, want %q", c.name, got, c.log)
		}
	}
}

// Every reason that the API has is one that an error can carry.
func TestAllReasons(t *testing.T) {
	for name, number := range xdpdv1.ErrorReason_value {
		s, err := status.New(codes.Internal, "no").WithDetails(
			&errdetails.ErrorInfo{Domain: "xdpd", Reason: strings.TrimPrefix(name, "ERROR_REASON_")})
		if err != nil {
			t.Fatal(err)
		}
		if got := client.Reason(s.Err()); got != xdpdv1.ErrorReason(number) {
			t.Errorf("%s became %v", name, got)
		}
	}
}
