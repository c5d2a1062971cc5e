// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/client"
)

var update = flag.Bool("update", false, "write testdata/*.golden and the blocks of docs/xdpctl.md anew")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake is a daemon that gives fixed answers and remembers what it was asked.
type fake struct {
	socket  string
	answers map[string]any // by name of the RPC: a proto.Message or an error

	mu       sync.Mutex // protects requests
	requests []proto.Message
}

// startFake starts a fake that ends with the test.
func startFake(t *testing.T, answers map[string]any) *fake {
	t.Helper()
	f := &fake{socket: filepath.Join(t.TempDir(), "s"), answers: answers}
	l, err := net.Listen("unix", f.socket)
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer(grpc.UnaryInterceptor(f.serve), grpc.MaxRecvMsgSize(64<<20))
	xdpdv1.RegisterXdpdServiceServer(s, xdpdv1.UnimplementedXdpdServiceServer{})
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Stop()
		if err := <-done; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			t.Errorf("serve: %v", err)
		}
	})
	return f
}

func (f *fake) serve(_ context.Context, req any, info *grpc.UnaryServerInfo, _ grpc.UnaryHandler) (any, error) {
	f.mu.Lock()
	f.requests = append(f.requests, req.(proto.Message))
	f.mu.Unlock()
	switch a := f.answers[filepath.Base(info.FullMethod)].(type) {
	case error:
		return nil, a
	case proto.Message:
		return a, nil
	}
	return nil, status.Error(codes.Unimplemented, "the fake has no answer to "+info.FullMethod)
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
}

// xdpctl runs a command line, as a shell without quotes would split it, against the daemon on the socket.
func xdpctl(t *testing.T, socket, line, stdin string) result {
	t.Helper()
	var out, errs bytes.Buffer
	env := func(name string) string { return map[string]string{"XDPD_SOCKET": socket}[name] }
	code := run(t.Context(), strings.Fields(line), env, stdio{strings.NewReader(stdin), &out, &errs})
	hide := strings.NewReplacer(socket, client.DefaultSocket)
	return result{code, hide.Replace(out.String()), hide.Replace(errs.String())}
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
