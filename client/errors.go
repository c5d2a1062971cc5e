// SPDX-License-Identifier: Apache-2.0

package client

import (
	"errors"
	"maps"
	"net"
	"os"

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

// Reason is why the daemon refused a call; ERROR_REASON_UNSPECIFIED for an error that is not the daemon's own,
// or whose reason is newer than this client.
func Reason(err error) xdpdv1.ErrorReason {
	info := detail[*errdetails.ErrorInfo](err)
	if info.GetDomain() != domain {
		return xdpdv1.ErrorReason_ERROR_REASON_UNSPECIFIED
	}
	return xdpdv1.ErrorReason(xdpdv1.ErrorReason_value["ERROR_REASON_"+info.GetReason()])
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
