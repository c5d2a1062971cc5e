// SPDX-License-Identifier: Apache-2.0

package chain

import (
	"fmt"
	"maps"
)

// Reason names why something was refused, in the words of the API's enum ErrorReason (without its prefix).
type Reason string

// The reasons. Their meaning and facts are documented once, in api/proto/xdpd/v1/xdpd.proto.
const (
	InvalidArgument    Reason = "INVALID_ARGUMENT"
	ObjectTooLarge     Reason = "OBJECT_TOO_LARGE"
	ObjectInvalid      Reason = "OBJECT_INVALID"
	FunctionNotFound   Reason = "FUNCTION_NOT_FOUND"
	FunctionUnsuitable Reason = "FUNCTION_UNSUITABLE"
	MapInvalid         Reason = "MAP_INVALID"
	ProgramExists      Reason = "PROGRAM_EXISTS"
	ProgramNotFound    Reason = "PROGRAM_NOT_FOUND"
	MemberExists       Reason = "MEMBER_EXISTS"
	MemberNotFound     Reason = "MEMBER_NOT_FOUND"
	ChainNotFound      Reason = "CHAIN_NOT_FOUND"
	Full               Reason = "CHAIN_FULL"
	PositionConflict   Reason = "POSITION_CONFLICT"
	ModeConflict       Reason = "MODE_CONFLICT"
	InterfaceNotFound  Reason = "INTERFACE_NOT_FOUND"
	InterfaceBusy      Reason = "INTERFACE_BUSY"
	ModeUnsupported    Reason = "MODE_UNSUPPORTED"
	VerifierRejected   Reason = "VERIFIER_REJECTED"
	LinkRejected       Reason = "LINK_REJECTED"
	Stopping           Reason = "STOPPING"
	StoreFailed        Reason = "STORE_FAILED"
	Kernel             Reason = "KERNEL"
	RevisionMismatch   Reason = "REVISION_MISMATCH"
	ChangePending      Reason = "CHANGE_PENDING"
	ChangeNotFound     Reason = "CHANGE_NOT_FOUND"
	RevisionNotFound   Reason = "REVISION_NOT_FOUND"
	ProgramShared      Reason = "PROGRAM_SHARED"
	ObjectNotFound     Reason = "OBJECT_NOT_FOUND"
	GlobalInvalid      Reason = "GLOBAL_INVALID"
	TestUnsupported    Reason = "TEST_UNSUPPORTED"
	LeaseNotFound      Reason = "LEASE_NOT_FOUND"
	LeaseTaken         Reason = "LEASE_TAKEN"
	NetnsNotFound      Reason = "NETNS_NOT_FOUND"
	TakeoverFailed     Reason = "TAKEOVER_FAILED"
	PatternNotFound    Reason = "PATTERN_NOT_FOUND"
	Overloaded         Reason = "OVERLOADED"
)

// Facts are what a reason is about, such as "interface": "eth0".
type Facts map[string]string

// Error is a refusal that carries facts for the caller. Every package of xdpd raises it for what a user can
// mend; the server turns it into a gRPC status.
type Error struct {
	Reason Reason
	Facts  Facts
	Log    string // the end of the verifier's log, where there is one
	text   string
	err    error
}

// Errorf makes an Error; format and args are those of fmt.Errorf, %w included.
func Errorf(r Reason, f Facts, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Reason: r, Facts: f, text: err.Error(), err: err}
}

// Error says what was wrong, with which fact, and what to do.
func (e *Error) Error() string { return e.text }

// Unwrap returns what the error was made from.
func (e *Error) Unwrap() error { return e.err }

// Is makes errors.Is(err, &Error{Reason: r}) ask for the reason.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Reason == e.Reason
}

// With returns a copy of the error with one more fact, such as the interface that the chain is on.
func (e *Error) With(key, value string) *Error {
	with := *e
	with.Facts = maps.Clone(e.Facts)
	if with.Facts == nil {
		with.Facts = Facts{}
	}
	with.Facts[key] = value
	return &with
}
