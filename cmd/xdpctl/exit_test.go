// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/client"
)

func TestUsage(t *testing.T) {
	objects(t)
	cases := []struct{ line, says string }{
		{"", "a command is missing"},
		{"frobnicate", `"frobnicate" is not a command`},
		{"chian", `is it "chain"?`},
		{"ls extra", `"extra" is one argument too many`},
		{"ls --nonsense", "unknown flag: --nonsense"},
		{"ls -o xml", "it is one of table, json, yaml"},
		{"chain eth0 eth1", `"eth1" is one argument too many`},
		{"status --socket=", "--socket is empty"},
		{"completion bash extra", "extra"},
		{"add --interface eth0", "OBJECT.o is missing"},
		{"add blocklist.o", "--interface is missing"},
		{"add blocklist.o --interface=", "--interface has an empty value"},
		{"add blocklist.o --interface eth0,,eth1", "--interface has an empty value"},
		{"add blocklist.o --interface eth0 --name=", "--name has an empty value"},
		{"add blocklist.o --interface eth0 --function=", "--function has an empty value"},
		{"add blocklist.o --interface eth0 --before=", "--before has an empty value"},
		{"add blocklist.o --interface eth0 --first --last", "--first and --last exclude each other"},
		{"add blocklist.o --interface eth0 --first --before m", "--first and --before exclude each other"},
		{"add blocklist.o --interface eth0 --last --after m", "--last and --after exclude each other"},
		{"add blocklist.o --interface eth0 --before m --after m", "--before and --after exclude each other"},
		{"add blocklist.o --interface eth0 --mode fast", "it is one of auto, native, generic"},
		{"add blocklist.o --interface eth0 --lifetime lease", "it is one of daemon, persistent"},
		{"add blocklist.o --interface eth0 --priority high", "invalid argument"},
		{"add blocklist.o --interface eth0 --priority 2147483648", "out of range"},
		{"add blocklist.o --interface eth0 --proceed-on pass,none", `cannot have "none"`},
		{"add blocklist.o --interface eth0 --proceed-on continue", `cannot have "continue"`},
		{"add blocklist.o --interface eth0 --proceed-on unspecified", `cannot have "unspecified"`},
		{"rm", "PROGRAM is missing"},
		{"rm p q", `"q" is one argument too many`},
		{"rm p --interface=", "--interface has an empty value"},
		{"set p", "nothing to change"},
		{"set p --interface eth0", "nothing to change"},
		{"set p --interface= --first", "--interface has an empty value"},
		{"set p --priority 1 --first", "--priority and --first exclude each other"},
		{"set p --priority 1 --after m", "--priority and --after exclude each other"},
		{"set p --enable --disable", "--enable and --disable exclude each other"},
		{"set p --proceed-on=", "--proceed-on has an empty value"},
	}
	f := startFake(t, nil)
	for _, c := range cases {
		t.Run(c.line, func(t *testing.T) {
			r := xdpctl(t, f.socket, c.line, "")
			if r.status != exitUsage {
				t.Errorf("exit status %d, want %d", r.status, exitUsage)
			}
			if !strings.Contains(r.err, c.says) || !strings.Contains(r.err, "--help") {
				t.Errorf("says %q, want %q and --help", r.err, c.says)
			}
			if r.out != "" || len(f.asked()) != 0 {
				t.Errorf("printed %q and asked the daemon", r.out)
			}
		})
	}
}

func TestEmptyArgument(t *testing.T) {
	for _, args := range [][]string{{"rm", ""}, {"set", "", "--first"}, {"add", "", "--interface", "eth0"}, {"chain", ""}} {
		var errs bytes.Buffer
		none := func(string) string { return "" }
		if got := run(t.Context(), args, none, stdio{strings.NewReader(""), &errs, &errs}); got != exitUsage {
			t.Errorf("%q: exit status %d (%s), want %d", args, got, &errs, exitUsage)
		}
	}
}

func TestFileFailures(t *testing.T) {
	objects(t)
	f := startFake(t, nil)
	for _, c := range []struct{ object, says string }{{"absent.o", "no such file"}, {".", "is a directory"}} {
		r := xdpctl(t, f.socket, "add "+c.object+" --interface eth0", "")
		if r.status != exitRefused || !strings.Contains(r.err, c.says) || len(f.asked()) != 0 {
			t.Errorf("%s: exit status %d, %q", c.object, r.status, r.err)
		}
	}
}

// full is a file on a disk that is.
type full struct{}

func (full) Write([]byte) (int, error) { return 0, syscall.ENOSPC }

func TestOutputFailure(t *testing.T) {
	f := startFake(t, map[string]any{"ListPrograms": programs()})
	var errs bytes.Buffer
	env := func(string) string { return f.socket }
	got := run(t.Context(), []string{"ls"}, env, stdio{strings.NewReader(""), full{}, &errs})
	if got != exitRefused || !strings.Contains(errs.String(), "no space left") {
		t.Errorf("exit status %d, %q", got, &errs)
	}
}

func TestNoDaemon(t *testing.T) {
	dir := t.TempDir()
	left := filepath.Join(dir, "left")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: left, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	for _, c := range []struct{ name, socket string }{
		{"no-socket", filepath.Join(dir, "absent")}, {"no-listener", left},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := xdpctl(t, c.socket, "ls", "")
			if r.status != exitNoDaemon {
				t.Errorf("exit status %d, want %d", r.status, exitNoDaemon)
			}
			golden(t, c.name, session("ls", r))
		})
	}
	// Root passes every permission check, so that connect(2) cannot be made to give the error here.
	denied := &client.UnreachableError{Socket: client.DefaultSocket, Err: &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.EACCES)}}
	other := &client.UnreachableError{Socket: client.DefaultSocket, Err: &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.EPROTOTYPE)}}
	for name, err := range map[string]error{"no-permission": denied, "no-stream": other} {
		var errs bytes.Buffer
		a := &app{stdio: stdio{err: &errs}}
		golden(t, name, session("ls", result{status: a.exit(nil, err), err: errs.String()}))
	}
}

func TestRefusals(t *testing.T) {
	f := startFake(t, map[string]any{})
	cases := []struct {
		name   string
		err    error
		status int
		says   string
	}{
		{"stopping", refusal(t, codes.Unavailable, "STOPPING", "", "the daemon is stopping", nil), exitRefused, "reason: STOPPING"},
		{"lost", status.Error(codes.Unavailable, "transport is closing"), exitNoDaemon, "is not known"},
		{"old daemon", status.Error(codes.Unimplemented, "unknown method"), exitRefused, "gRPC code: Unimplemented"},
		{"new daemon", refusal(t, codes.FailedPrecondition, "INVENTED_LATER", "", "no", map[string]string{"a": "b"}), exitRefused, "  a: b\n"},
		{"denied", status.Error(codes.PermissionDenied, "uid 1000 may not"), exitRefused, "uid 1000 may not"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			f.answers["ListPrograms"] = c.err
			r := xdpctl(t, f.socket, "ls", "")
			if r.status != c.status || !strings.Contains(r.err, c.says) || r.out != "" {
				t.Errorf("exit status %d, %q; want %d, %q", r.status, r.err, c.status, c.says)
			}
		})
	}
}

func TestSocketFlag(t *testing.T) {
	f := startFake(t, map[string]any{"ListPrograms": &xdpdv1.ListProgramsResponse{}})
	if r := xdpctl(t, "/nonexistent", "ls --socket "+f.socket, ""); r.status != exitDone {
		t.Errorf("--socket does not win over XDPD_SOCKET: exit status %d, %q", r.status, r.err)
	}
	var u *client.UnreachableError
	err := (&app{socket: "/nonexistent"}).with(func(c *client.Client) error {
		_, err := c.GetStatus(t.Context(), &xdpdv1.GetStatusRequest{})
		return err
	})
	if !errors.As(err, &u) || u.Socket != "/nonexistent" {
		t.Errorf("got %v", err)
	}
}
