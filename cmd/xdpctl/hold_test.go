// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
)

// lessor is a daemon that gives one lease.
type lessor struct {
	xdpdv1.UnimplementedXdpdServiceServer
	socket  string
	asked   chan *xdpdv1.HoldRequest // each request
	end     chan error               // ends the stream
	refuses error                    // the first request
	release error                    // what a release is answered with
}

func startLessor(t *testing.T) *lessor {
	t.Helper()
	d := &lessor{socket: filepath.Join(t.TempDir(), "s"), asked: make(chan *xdpdv1.HoldRequest, 16), end: make(chan error, 1)}
	lis, err := net.Listen("unix", d.socket)
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer(grpc.WaitForHandlers(true))
	xdpdv1.RegisterXdpdServiceServer(s, d)
	done := make(chan error, 1)
	go func() { done <- s.Serve(lis) }()
	t.Cleanup(func() {
		s.Stop()
		<-done
	})
	return d
}

func (d *lessor) Hold(s grpc.BidiStreamingServer[xdpdv1.HoldRequest, xdpdv1.HoldResponse]) error {
	req, err := s.Recv()
	if err != nil {
		return err
	}
	d.asked <- req
	if d.refuses != nil {
		return d.refuses
	}
	if err := s.Send(&xdpdv1.HoldResponse{Token: "secret"}); err != nil {
		return err
	}
	more := make(chan *xdpdv1.HoldRequest, 1)
	go func() {
		if req, err := s.Recv(); err == nil {
			more <- req
		}
	}()
	select {
	case <-s.Context().Done():
		return s.Context().Err()
	case err := <-d.end:
		return err
	case req := <-more:
		d.asked <- req
		return d.release
	}
}

// hold runs xdpctl hold with arguments that may have spaces.
func (d *lessor) hold(t *testing.T, args ...string) result {
	t.Helper()
	var out, errs bytes.Buffer
	code := d.holdWith(t.Context(), stdio{strings.NewReader(""), &out, &errs}, args...)
	return result{status: code, out: out.String(), err: errs.String()}
}

func (d *lessor) holdWith(ctx context.Context, files stdio, args ...string) int {
	return run(ctx, append([]string{"hold", "--socket", d.socket}, args...), func(string) string { return "" }, files)
}

func TestHold(t *testing.T) {
	plain := filepath.Join(t.TempDir(), "plain")
	if err := os.WriteFile(plain, []byte("no program"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name    string
		args    []string
		status  int
		out     string
		says    string
		token   string
		grace   time.Duration
		asked   int // requests
		refuses error
		release error
	}{
		{name: "environment", args: []string{"--", "sh", "-c", `echo "$XDPD_LEASE $XDPD_SOCKET"`}, out: "secret SOCKET\n", asked: 2},
		{name: "status", args: []string{"sh", "-c", "exit 7"}, status: 7, asked: 2},
		{name: "signal", args: []string{"sh", "-c", "kill -TERM $$"}, status: 143, asked: 2},
		{name: "flags of the command", args: []string{"--grace", "90s", "echo", "--grace"}, out: "--grace\n", grace: 90 * time.Second, asked: 2},
		{name: "token", args: []string{"--lease", "old", "true"}, token: "old", asked: 2},
		{name: "no command of the name", args: []string{"no-such-command-anywhere"}, status: exitNoCommand, says: "no-such-command-anywhere"},
		{name: "no file", args: []string{"/no/such/file"}, status: exitNoCommand, says: "/no/such/file"},
		{name: "no program", args: []string{plain}, status: exitNotExecutable, says: "permission denied"},
		{name: "no command", args: []string{"--"}, status: exitUsage, says: "COMMAND is missing"},
		{name: "empty token", args: []string{"--lease=", "true"}, status: exitUsage, says: "--lease has an empty value"},
		{name: "negative grace", args: []string{"--grace", "-1s", "true"}, status: exitUsage, says: "0s to 24h"},
		{name: "long grace", args: []string{"--grace", "25h", "true"}, status: exitUsage, says: "0s to 24h"},
		{
			name: "refused", args: []string{"true"}, status: exitRefused, says: "reason: LEASE_NOT_FOUND", asked: 1,
			refuses: refusal(t, codes.NotFound, "LEASE_NOT_FOUND", "", "no lease has this token", nil),
		},
		{
			name: "not released", args: []string{"true"}, status: exitRefused, says: "reason: CHANGE_PENDING", asked: 2,
			release: refusal(t, codes.FailedPrecondition, "CHANGE_PENDING", "", "change 5 waits", nil),
		},
		{
			name: "not released, and failed", args: []string{"sh", "-c", "exit 9"}, status: 9, says: "not removed yet", asked: 2,
			release: refusal(t, codes.FailedPrecondition, "CHANGE_PENDING", "", "change 5 waits", nil),
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := startLessor(t)
			d.refuses, d.release = c.refuses, c.release
			r := d.hold(t, c.args...)
			if r.status != c.status || strings.ReplaceAll(r.out, d.socket, "SOCKET") != c.out || !strings.Contains(r.err, c.says) {
				t.Errorf("exit status %d, %q, %q", r.status, r.out, r.err)
			}
			if len(d.asked) != c.asked {
				t.Fatalf("the daemon was asked %d times, want %d", len(d.asked), c.asked)
			}
			if c.asked == 0 {
				return
			}
			if first := <-d.asked; first.GetToken() != c.token || first.GetGrace().AsDuration() != c.grace {
				t.Errorf("the daemon was asked for %v", first)
			}
			if c.asked > 1 && !(<-d.asked).GetRelease() {
				t.Error("the lease is not released")
			}
		})
	}
	if r := xdpctl(t, filepath.Join(t.TempDir(), "absent"), "hold true", ""); r.status != exitNoDaemon {
		t.Errorf("without a daemon: exit status %d, %q", r.status, r.err)
	}
}

// holding is an xdpctl hold whose command said something.
type holding struct {
	*lessor
	done chan int // its status
	errs string   // the file with its standard error, which two write to: it must be one
	out  *bufio.Reader
}

// begin starts xdpctl hold with a script, and waits for its first line.
func begin(t *testing.T, script string) *holding {
	t.Helper()
	r, w := io.Pipe()
	h := &holding{lessor: startLessor(t), done: make(chan int, 1), errs: filepath.Join(t.TempDir(), "errs"), out: bufio.NewReader(r)}
	errs, err := os.Create(h.errs)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		h.done <- h.holdWith(context.Background(), stdio{strings.NewReader(""), w, errs}, "--", "sh", "-c", script)
		w.Close()
		errs.Close()
	}()
	if line, err := h.out.ReadString('\n'); err != nil {
		t.Fatalf("the command said %q, %v", line, err)
	}
	return h
}

// end returns what the command still said, and the status.
func (h *holding) end(t *testing.T) (out string, status int) {
	t.Helper()
	rest, err := io.ReadAll(h.out)
	if err != nil {
		t.Fatal(err)
	}
	select {
	case status := <-h.done:
		return string(rest), status
	case <-time.After(time.Minute):
		t.Fatal("xdpctl does not end")
		return "", 0
	}
}

func TestHoldPassesSignalsOn(t *testing.T) {
	h := begin(t, `trap 'echo told; exit 5' USR1; echo ready; while :; do sleep 0.01; done`)
	if err := syscall.Kill(os.Getpid(), syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	if out, status := h.end(t); status != 5 || out != "told\n" {
		t.Errorf("exit status %d, %q", status, out)
	}
}

func TestHoldLost(t *testing.T) {
	for name, c := range map[string]struct {
		script string
		status int
	}{
		"the command is ended": {`echo ready; exec sleep 1000`, 143},
		"it ends well":         {`trap 'exit 0' TERM; echo ready; while :; do sleep 0.01; done`, 1},
	} {
		t.Run(name, func(t *testing.T) {
			h := begin(t, c.script)
			h.lessor.end <- refusal(t, codes.Aborted, "LEASE_TAKEN", "", "lease 3 was taken over", map[string]string{"uid": "7", "pid": "8"})
			_, status := h.end(t)
			text, err := os.ReadFile(h.errs)
			if err != nil {
				t.Fatal(err)
			}
			if said := string(text); status != c.status || !strings.Contains(said, "the lease is lost, and sh is told to end") || !strings.Contains(said, "reason: LEASE_TAKEN") {
				t.Errorf("exit status %d, %q", status, said)
			}
			if n := len(h.asked); n != 1 {
				t.Errorf("the daemon was asked %d times", n)
			}
		})
	}
}

// An interrupt before the command began is as in other commands.
func TestHoldInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var errs bytes.Buffer
	if status := startLessor(t).holdWith(ctx, stdio{strings.NewReader(""), io.Discard, &errs}, "echo"); status != exitRefused || !strings.Contains(errs.String(), "interrupted") {
		t.Errorf("exit status %d, %q", status, &errs)
	}
}
