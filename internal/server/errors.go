// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"maps"
	"unicode/utf8"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"

	"github.com/xdpd/xdpd/chain"
)

// Bounds of an error's texts: it travels in HTTP/2 headers.
const (
	errorDomain = "xdpd"
	maxLog      = 6 << 10 // of a verifier log: gRPC clients of other languages take 8 KiB of metadata by default, in base64
	maxText     = 4 << 10
	maxFact     = 1 << 10
)

// toStatus is the one place where errors become statuses. A context's end is told as such, whatever it made
// fail; an error without a reason is a bug, and INTERNAL.
func toStatus(err error) *status.Status {
	var refusal *chain.Error
	text := head(err.Error(), maxText)
	switch {
	case errors.Is(err, context.Canceled):
		return status.New(codes.Canceled, text)
	case errors.Is(err, context.DeadlineExceeded):
		return status.New(codes.DeadlineExceeded, text)
	case errors.As(err, &refusal):
		return withDetails(status.New(code(refusal.Reason), text), refusal)
	}
	if st, ok := status.FromError(err); ok {
		return st
	}
	return status.New(codes.Internal, text)
}

// code gives each reason its gRPC code.
func code(r chain.Reason) codes.Code {
	switch r {
	case chain.InvalidArgument, chain.ObjectTooLarge, chain.ObjectInvalid, chain.FunctionUnsuitable, chain.MapInvalid,
		chain.VerifierRejected, chain.GlobalInvalid:
		return codes.InvalidArgument
	case chain.FunctionNotFound, chain.ProgramNotFound, chain.MemberNotFound, chain.ChainNotFound, chain.InterfaceNotFound,
		chain.ChangeNotFound, chain.RevisionNotFound, chain.ObjectNotFound, chain.LeaseNotFound, chain.NetnsNotFound, chain.PatternNotFound:
		return codes.NotFound
	case chain.ProgramExists, chain.MemberExists:
		return codes.AlreadyExists
	case chain.Full, chain.Overloaded:
		return codes.ResourceExhausted
	case chain.PositionConflict, chain.ModeConflict, chain.ModeUnsupported, chain.InterfaceBusy, chain.LinkRejected,
		chain.StoreFailed, chain.ChangePending, chain.ProgramShared, chain.TestUnsupported, chain.TakeoverFailed:
		return codes.FailedPrecondition
	case chain.RevisionMismatch, chain.LeaseTaken:
		return codes.Aborted
	case chain.Stopping:
		return codes.Unavailable
	case chain.Kernel:
		return codes.Unknown
	}
	return codes.Internal
}

func withDetails(st *status.Status, e *chain.Error) *status.Status {
	facts := maps.Clone(map[string]string(e.Facts))
	for k, v := range facts {
		facts[k] = head(v, maxFact)
	}
	details := []protoadapt.MessageV1{&errdetails.ErrorInfo{Reason: string(e.Reason), Domain: errorDomain, Metadata: facts}}
	if e.Log != "" {
		details = append(details, &errdetails.DebugInfo{Detail: tail(e.Log, maxLog)})
	}
	full, err := st.WithDetails(details...)
	if err != nil {
		return status.New(codes.Internal, "tell the facts of an error: "+head(err.Error(), maxText))
	}
	return full
}

// outcome names an error in the log: by its reason, else by its code.
func outcome(st *status.Status) string {
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			return info.GetReason()
		}
	}
	return st.Code().String()
}

// head and tail keep the first and the last bytes of a text, and make it one that protobuf takes: names in an
// object and in the verifier's log can have any bytes.
func head(s string, limit int) string {
	s = text(s)
	if len(s) <= limit {
		return s
	}
	for limit > 0 && !utf8.RuneStart(s[limit]) {
		limit--
	}
	return s[:limit]
}

func tail(s string, limit int) string {
	s = text(s)
	if len(s) <= limit {
		return s
	}
	from := len(s) - limit
	for from < len(s) && !utf8.RuneStart(s[from]) {
		from++
	}
	return s[from:]
}
