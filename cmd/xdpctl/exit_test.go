// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
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
		{"ls p extra", `"extra" is one argument too many`},
		{"ls --nonsense", "unknown flag: --nonsense"},
		{"ls -o xml", "it is one of table, json, yaml"},
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
		{"add blocklist.o --interface eth0 --lifetime ever", "it is one of daemon, persistent, lease"},
		{"add blocklist.o --interface eth0 --lifetime lease", "--lifetime lease needs the token of a lease"},
		{"add blocklist.o --interface eth0 --lifetime lease --lease=", "--lease has an empty value"},
		{"add blocklist.o --interface eth0 --lease t", "--lease needs --lifetime lease"},
		{"add blocklist.o --interface eth0 --lifetime daemon --lease t", "--lease needs --lifetime lease"},
		{"add blocklist.o --interface eth0 --priority high", "invalid argument"},
		{"add blocklist.o --interface eth0 --priority 2147483648", "out of range"},
		{"add blocklist.o --interface eth0 --proceed-on pass,none", `cannot have "none"`},
		{"add blocklist.o --interface eth0 --proceed-on continue", `cannot have "continue"`},
		{"add blocklist.o --interface eth0 --proceed-on unspecified", `cannot have "unspecified"`},
		{"rm", "PROGRAM is missing"},
		{"rm p q", `"q" is one argument too many`},
		{"rm p --interface=", "--interface has an empty value"},
		{"rm p -i eth0,", "--interface has an empty value"},
		{"set p", "nothing to change"},
		{"set p --interface eth0", "nothing to change"},
		{"set p --interface= --first", "--interface has an empty value"},
		{"set p --priority 1 --first", "--priority and --first exclude each other"},
		{"set p --priority 1 --after m", "--priority and --after exclude each other"},
		{"set p --enable --disable", "--enable and --disable exclude each other"},
		{"set p --proceed-on=", "--proceed-on has an empty value"},
		{"rm p --expect eth0", `--expect takes IF=REVISION, such as eth0=4; it cannot be "eth0"`},
		{"rm p --expect =4", "--expect takes IF=REVISION"},
		{"rm p --expect eth0=-1", "--expect takes IF=REVISION"},
		{"rm p --expect eth0=1,eth0=2", "--expect has two revisions for eth0, 1 and 2"},
		{"rm p --expect=", "--expect has an empty value"},
		{"rm p --comment=", "--comment has an empty value"},
		{"rm p --confirm-within 60", "missing unit"},
		{"rm p --confirm-within 999ms", "--confirm-within is 999ms; it takes 1s to 24h"},
		{"rm p --confirm-within 25h", "it takes 1s to 24h"},
		{"rm p --confirm-within 0", "it takes 1s to 24h"},
		{"rm p --no-wait", "--no-wait needs --confirm-within"},
		{"add --object-sha256 12 --interface eth0", "--object-sha256 is the 64 hex digits"},
		{"add --object-sha256= --interface eth0", "--object-sha256 has an empty value"},
		{"add blocklist.o --interface eth0 --set a", `--set takes NAME=VALUE, such as limit=10; it cannot be "a"`},
		{"add blocklist.o --interface eth0 --set =1", "--set takes NAME=VALUE"},
		{"add blocklist.o --interface eth0 --set a=1 --set a=2", "--set gives a twice"},
		{"add blocklist.o --interface eth0 --set a=\xff", "--set a: the value is not UTF-8"},
		{"add blocklist.o --interface eth0 --max-entries a", "--max-entries takes MAP=N"},
		{"add blocklist.o --interface eth0 --max-entries a=4294967296", "--max-entries takes MAP=N"},
		{"add blocklist.o --interface eth0 --max-entries a=1 --max-entries a=1", "--max-entries gives a twice"},
		{"add blocklist.o --interface eth0 --share-maps-from=", "--share-maps-from has an empty value"},
		{"add blocklist.o --interface eth0 --map-group=", "--map-group has an empty value"},
		{"add blocklist.o more.o --interface eth0", `"more.o" is one argument too many`},
		{"replace", "PROGRAM is missing"},
		{"replace p", "nothing to replace"},
		{"replace p --dry-run", "nothing to replace"},
		{"replace p a.o b.o", `"b.o" is one argument too many`},
		{"replace p blocklist.o --function=", "--function has an empty value"},
		{"replace p blocklist.o --object-sha256 " + strings.Repeat("a", 64), "OBJECT.o and --object-sha256 exclude each other"},
		{"order", "IF is missing"},
		{"order eth0", "P1,P2,… is missing"},
		{"order eth0 a,b c", `"c" is one argument too many`},
		{"order eth0 a,,b", "has an empty element"},
		{"order eth0 a,b,a", "a is in the list twice"},
		{"apply", "-f FILE is missing"},
		{"apply -f chains.yaml extra", `"extra" is one argument too many`},
		{"history", "IF is missing"},
		{"rollback", "IF is missing"},
		{"rollback eth0 --to 0", "--to takes a revision"},
		{"rollback eth0 --to -1", "invalid argument"},
		{"confirm x", `ID is a number; it cannot be "x"`},
		{"cancel 0", "ID is a number"},
		{"cancel 1 2", `"2" is one argument too many`},
		{"maps", "PROGRAM is missing"},
		{"watch --resume=", "--resume has an empty value"},
		{"watch eth0", `"eth0" is one argument too many`},
		{"trace", "IF is missing"},
		{"trace eth0", "there are no packets: give -r FILE or --packet"},
		{"trace eth0 -r a --packet 00", "--read and --packet exclude each other"},
		{"trace eth0 --read=", "--read has an empty value"},
		{"trace eth0 --packet 0g", "--packet 1: encoding/hex: invalid byte"},
		{"trace eth0 -r capture.pcap --count 0", "--count 1 or more"},
		{"trace eth0 -r capture.pcap --skip -1", "--skip is 0 or more"},
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
	for _, args := range [][]string{
		{"rm", ""},
		{"set", "", "--first"},
		{"add", "", "--interface", "eth0"},
		{"chain", ""},
		{"replace", "p", ""},
		{"replace", "", "x.o"},
		{"order", "", "a"},
		{"order", "eth0", ""},
		{"history", ""},
		{"rollback", ""},
		{"confirm", ""},
		{"cancel", ""},
		{"maps", ""},
		{"ls", ""},
		{"trace", ""},
	} {
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
		{"overloaded", refusal(t, codes.ResourceExhausted, "OVERLOADED", "", "too much to do", map[string]string{"limit": "64"}), exitRefused, "reason: OVERLOADED\n  limit: 64\n"},
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

// Ctrl-C is neither a wrong command line nor a refusal, and says what is known of the change.
func TestInterrupted(t *testing.T) {
	objects(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	const nothing, unknown = "xdpctl: interrupted; nothing was done\n", "Whether a change was made is not known"
	for line, says := range map[string]string{
		"add - --interface eth0":                                nothing,
		"add blocklist.o --interface eth0 --confirm-within 60s": nothing,
		"add blocklist.o --interface eth0":                      unknown,
		"apply -f -":                                            nothing,
	} {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		f := startFake(t, nil)
		if got := xdpctlUntil(ctx, f.socket, line, r); got.status != exitRefused || !strings.Contains(got.err, says) {
			t.Errorf("%s: exit status %d, %q", line, got.status, got.err)
		}
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
