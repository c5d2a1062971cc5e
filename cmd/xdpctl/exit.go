// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"syscall"
	"unicode"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/client"
)

// The exit statuses; rootHelp tells the user.
const (
	exitDone     = 0
	exitRefused  = 1
	exitUsage    = 2
	exitNoDaemon = 3
)

// failure is an error that is neither the daemon's nor one of the command line, such as a file that cannot be
// read.
type failure struct{ err error }

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

// exit prints err, if any, and returns the exit status that tells of it. An error that is neither a failure
// nor the answer of a call is one of the command line.
func (a *app) exit(cmd *cobra.Command, err error) int {
	if err == nil {
		return exitDone
	}
	if gone, ok := errors.AsType[*client.UnreachableError](err); ok {
		fmt.Fprintf(a.err, "xdpctl: %s\n", noDaemon(gone))
		return exitNoDaemon
	}
	if errors.Is(err, context.Canceled) { // before a call was made
		fmt.Fprintln(a.err, "xdpctl: interrupted; nothing was done")
		return exitRefused
	}
	if s, ok := status.FromError(err); ok {
		if s.Code() == codes.Unavailable && client.Reason(err) == xdpdv1.ErrorReason_ERROR_REASON_UNSPECIFIED {
			fmt.Fprintf(a.err, "xdpctl: the daemon at %s does not answer: %s\n", a.socket, printable(s.Message()))
			fmt.Fprintln(a.err, "  Whether a change was made is not known: see xdpctl chain.")
			return exitNoDaemon
		}
		if s.Code() == codes.Canceled {
			fmt.Fprintln(a.err, "xdpctl: interrupted")
			fmt.Fprintln(a.err, "  Whether a change was made is not known: see xdpctl chain.")
			return exitRefused
		}
		refused(a.err, s, err)
		return exitRefused
	}
	if fail, ok := errors.AsType[*failure](err); ok {
		fmt.Fprintf(a.err, "xdpctl: %s\n", printable(fail.Error()))
		return exitRefused
	}
	fmt.Fprintf(a.err, "%s: %s\n", cmd.CommandPath(), printable(err.Error()))
	fmt.Fprintf(a.err, "  See %s --help.\n", cmd.CommandPath())
	return exitUsage
}

// noDaemon says what is wrong with the socket and what to do.
func noDaemon(e *client.UnreachableError) string {
	what, advice := e.Err.Error(), "Is it the daemon's socket?"
	if errno, ok := errors.AsType[syscall.Errno](e); ok {
		what = errno.Error()
	}
	switch {
	case errors.Is(e, fs.ErrNotExist):
		what = "the socket does not exist"
		advice = "Start it with systemctl start xdpd, or name its socket with --socket or XDPD_SOCKET."
	case errors.Is(e, syscall.ECONNREFUSED):
		what = "the socket exists, but nothing listens on it (connection refused)"
		advice = "A daemon that was killed leaves its socket behind; start it again with systemctl restart xdpd."
	case errors.Is(e, fs.ErrPermission):
		what = "permission denied"
		advice = "Run xdpctl as root, or as a user that may write to the socket (ls -l shows which)."
	}
	return fmt.Sprintf("no daemon at %s: %s\n  %s", e.Socket, what, advice)
}

// refused prints what the daemon said: its message, the reason, the facts and the verifier's log.
func refused(w io.Writer, s *status.Status, err error) {
	fmt.Fprintf(w, "xdpctl: %s\n", strings.ReplaceAll(printable(s.Message()), "\n", "\n  "))
	if r := client.Reason(err); r != xdpdv1.ErrorReason_ERROR_REASON_UNSPECIFIED {
		fmt.Fprintf(w, "  reason: %s\n", strings.TrimPrefix(r.String(), "ERROR_REASON_"))
	} else {
		fmt.Fprintf(w, "  gRPC code: %s\n", s.Code())
	}
	facts := client.Facts(err)
	for _, name := range slices.Sorted(maps.Keys(facts)) {
		fmt.Fprintf(w, "  %s: %s\n", printable(name), strings.ReplaceAll(printable(facts[name]), "\n", "\n    "))
	}
	if log := strings.TrimRight(client.VerifierLog(err), "\n"); log != "" {
		fmt.Fprintf(w, "  the end of the verifier's log:\n    %s\n", strings.ReplaceAll(printable(log), "\n", "\n    "))
	}
}

// printable keeps a terminal safe from what names in an object may hold: control characters become U+FFFD.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) && r != '\n' && r != '\t' {
			return unicode.ReplacementChar
		}
		return r
	}, s)
}
