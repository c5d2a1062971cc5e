// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/client"
	"github.com/xdpd/xdpd/internal/leaktest"
)

var update = flag.Bool("update", false, "write testdata/*.golden and the blocks of docs/xdpctl.md anew")

func TestMain(m *testing.M) { leaktest.Main(m) }

// fake is a daemon that gives fixed answers and remembers what it was asked.
type fake struct {
	xdpdv1.UnimplementedXdpdServiceServer
	socket  string
	answers map[string]any             // by name of the RPC: a proto.Message, an error or an answer
	events  chan *xdpdv1.WatchResponse // what a watch tells after Started; nil ends it
	stop    func()                     // returns when the daemon is gone

	mu       sync.Mutex // protects requests
	requests []proto.Message
}

// answer makes the answer to a request.
type answer func(proto.Message) (proto.Message, error)

// startFake starts a fake that ends with the test.
func startFake(t *testing.T, answers map[string]any) *fake {
	t.Helper()
	f := &fake{socket: filepath.Join(t.TempDir(), "s"), answers: answers, events: make(chan *xdpdv1.WatchResponse, 16)}
	f.start(t)
	t.Cleanup(func() { f.stop() })
	return f
}

// start makes it listen, also again after stop.
func (f *fake) start(t *testing.T) {
	t.Helper()
	l, err := net.Listen("unix", f.socket)
	if err != nil {
		t.Fatal(err)
	}
	// A watch that outlived the stop could take an event that is for the next one.
	s := grpc.NewServer(grpc.UnaryInterceptor(f.serve), grpc.MaxRecvMsgSize(64<<20), grpc.WaitForHandlers(true))
	xdpdv1.RegisterXdpdServiceServer(s, f)
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	f.stop = sync.OnceFunc(func() {
		s.Stop()
		if err := <-done; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			t.Errorf("serve: %v", err)
		}
	})
}

func (f *fake) serve(_ context.Context, req any, info *grpc.UnaryServerInfo, _ grpc.UnaryHandler) (any, error) {
	f.heard(req.(proto.Message))
	switch a := f.answers[filepath.Base(info.FullMethod)].(type) {
	case error:
		return nil, a
	case answer:
		return a(req.(proto.Message))
	case proto.Message:
		return a, nil
	}
	return nil, status.Error(codes.Unimplemented, "the fake has no answer to "+info.FullMethod)
}

func (f *fake) Watch(req *xdpdv1.WatchRequest, s xdpdv1.XdpdService_WatchServer) error {
	f.heard(req)
	if err, ok := f.answers["Watch"].(error); ok {
		return err
	}
	started := &xdpdv1.WatchResponse{Event: &xdpdv1.WatchResponse_Started_{Started: &xdpdv1.WatchResponse_Started{}}}
	if err := s.Send(started); err != nil {
		return err
	}
	for {
		select {
		case <-s.Context().Done():
			return s.Context().Err()
		case e := <-f.events:
			if e == nil {
				return nil
			}
			if err := s.Send(e); err != nil {
				return err
			}
		}
	}
}

func (f *fake) heard(req proto.Message) {
	f.mu.Lock()
	f.requests = append(f.requests, req)
	f.mu.Unlock()
}

// asked returns the requests since the last time.
func (f *fake) asked() []proto.Message {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := f.requests
	f.requests = nil
	return r
}

// result is what a command line did.
type result struct {
	status   int
	out, err string
	both     string // as a terminal shows them
}

// xdpctl runs a command line, as a shell would split it where no quotes are around spaces, against the daemon on the socket.
func xdpctl(t *testing.T, socket, line, stdin string) result {
	t.Helper()
	return xdpctlUntil(t.Context(), socket, line, strings.NewReader(stdin))
}

// xdpctlUntil does so until ctx ends, which is what Ctrl-C does.
func xdpctlUntil(ctx context.Context, socket, line string, stdin io.Reader) result {
	var out, errs, both bytes.Buffer
	env := func(name string) string { return map[string]string{"XDPD_SOCKET": socket}[name] }
	files := stdio{stdin, io.MultiWriter(&out, &both), io.MultiWriter(&errs, &both)}
	code := run(ctx, strings.Fields(strings.ReplaceAll(line, "'", "")), env, files)
	hide := strings.NewReplacer(socket, client.DefaultSocket)
	return result{code, hide.Replace(out.String()), hide.Replace(errs.String()), hide.Replace(both.String())}
}

// golden compares got with testdata/<name>.golden.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs; got:\n%s\nwant:\n%s", path, got, want)
	}
}
