// SPDX-License-Identifier: Apache-2.0

package client

import (
	"errors"
	"maps"
	"net"
	"os"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
)

// domain is that of the ErrorInfo in the errors that xdpd itself raises.
const domain = "xdpd"

// UnreachableError is returned by every call when the daemon's socket cannot be connected to; the call did
// nothing. Its gRPC code is Unavailable.
type UnreachableError struct {
	Socket string // the path that was dialled
	Err    error  // of connect(2): fs.ErrNotExist, fs.ErrPermission, syscall.ECONNREFUSED …
}

// Error names the socket and what connect(2) said.
func (e *UnreachableError) Error() string {
	cause := e.Err
	if op, ok := errors.AsType[*net.OpError](cause); ok {
		cause = op.Err
	}
	if call, ok := errors.AsType[*os.SyscallError](cause); ok {
		cause = call.Err
	}
	return "connect to " + e.Socket + ": " + cause.Error()
}

// Unwrap returns the error of connect(2).
func (e *UnreachableError) Unwrap() error { return e.Err }

// GRPCStatus makes the status package see the error as what it is.
func (e *UnreachableError) GRPCStatus() *status.Status {
	return status.New(codes.Unavailable, e.Error())
}

// RefusedError is returned by every call that the daemon refused with a reason. errors.Is finds those of a reason:
//
//	errors.Is(err, client.ErrLeaseTaken)
type RefusedError struct {
	Reason xdpdv1.ErrorReason // ERROR_REASON_UNSPECIFIED: it is newer than this client
	Facts  map[string]string  // what the reason is about, as the API documents it with each reason; nil: none
	status *status.Status     // nil: the error stands for all of the reason
}

// The refusals that a client may have to tell from others to go on.
var (
	// ErrLeaseNotFound is what a token gets whose lease has ended: ask Hold for a new one, and add the programs again.
	ErrLeaseNotFound error = &RefusedError{Reason: xdpdv1.ErrorReason_ERROR_REASON_LEASE_NOT_FOUND}
	// ErrLeaseTaken ends a Hold when another one holds the lease: it is not to be renewed.
	ErrLeaseTaken error = &RefusedError{Reason: xdpdv1.ErrorReason_ERROR_REASON_LEASE_TAKEN}
	// ErrNetnsNotFound is for an interface in a network namespace that does not exist, or not yet.
	ErrNetnsNotFound error = &RefusedError{Reason: xdpdv1.ErrorReason_ERROR_REASON_NETNS_NOT_FOUND}
	// ErrTakeoverFailed is for an interface whose foreign program cannot be taken over.
	ErrTakeoverFailed error = &RefusedError{Reason: xdpdv1.ErrorReason_ERROR_REASON_TAKEOVER_FAILED}
	// ErrPatternNotFound is for a pattern that the program does not have.
	ErrPatternNotFound error = &RefusedError{Reason: xdpdv1.ErrorReason_ERROR_REASON_PATTERN_NOT_FOUND}
	// ErrOverloaded is for a call that came when the daemon had too much to do: it did nothing, make it again later.
	ErrOverloaded error = &RefusedError{Reason: xdpdv1.ErrorReason_ERROR_REASON_OVERLOADED}
)

// Error is what the daemon said.
func (e *RefusedError) Error() string {
	if e.status == nil {
		return "refused with the reason " + strings.TrimPrefix(e.Reason.String(), reasonPrefix)
	}
	return e.status.Message()
}

// Is tells whether target is the error of all refusals with this reason.
func (e *RefusedError) Is(target error) bool {
	t, ok := target.(*RefusedError)
	return ok && t.status == nil && t.Reason == e.Reason
}

// GRPCStatus is the status that the daemon sent, with its details.
func (e *RefusedError) GRPCStatus() *status.Status {
	if e.status == nil {
		return status.New(codes.Unknown, e.Error())
	}
	return e.status
}

// refusal makes a RefusedError of the error of a call, if the daemon itself raised it; other errors stay.
func refusal(err error) error {
	info := detail[*errdetails.ErrorInfo](err)
	if info.GetDomain() != domain {
		return err
	}
	return &RefusedError{Reason: reasonOf(info), Facts: info.GetMetadata(), status: status.Convert(err)}
}

// reasonPrefix is what the API's names of reasons have before the words that errors have.
const reasonPrefix = "ERROR_REASON_"

func reasonOf(info *errdetails.ErrorInfo) xdpdv1.ErrorReason {
	return xdpdv1.ErrorReason(xdpdv1.ErrorReason_value[reasonPrefix+info.GetReason()])
}

// Reason is why the daemon refused a call; ERROR_REASON_UNSPECIFIED for an error that is not the daemon's own,
// or whose reason is newer than this client.
func Reason(err error) xdpdv1.ErrorReason {
	info := detail[*errdetails.ErrorInfo](err)
	if info.GetDomain() != domain {
		return xdpdv1.ErrorReason_ERROR_REASON_UNSPECIFIED
	}
	return reasonOf(info)
}

// Facts are what the reason is about, such as "interface": "eth0"; which ones there are is documented with
// each reason in the API. Nil for an error that is not the daemon's own. The caller owns the map.
func Facts(err error) map[string]string {
	info := detail[*errdetails.ErrorInfo](err)
	if info.GetDomain() != domain {
		return nil
	}
	return maps.Clone(info.GetMetadata())
}

// VerifierLog is the end of what the kernel's verifier wrote; empty where it did not refuse anything.
func VerifierLog(err error) string {
	return detail[*errdetails.DebugInfo](err).GetDetail()
}

// detail returns the first detail of type T that the status of err carries, else the zero T.
func detail[T any](err error) T {
	s, _ := status.FromError(err)
	for _, d := range s.Details() {
		if t, ok := d.(T); ok {
			return t
		}
	}
	var none T
	return none
}
