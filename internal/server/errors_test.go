// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"strconv"
	"strings"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/chain"
)

// TestEveryReasonHasACode holds the API's enum against the constants of package chain, as its source has them.
func TestEveryReasonHasACode(t *testing.T) {
	reasons := reasonsOfChain(t)
	for number, name := range xdpdv1.ErrorReason_name {
		if number == 0 {
			continue
		}
		reason := strings.TrimPrefix(name, "ERROR_REASON_")
		if !reasons[reason] {
			t.Errorf("package chain has no reason %s", reason)
		}
		delete(reasons, reason)
		if c := code(chain.Reason(reason)); c == codes.Internal || c == codes.OK {
			t.Errorf("%s has the code %s", reason, c)
		}
	}
	for reason := range reasons {
		t.Errorf("the API has no reason %s", reason)
	}
	if c := code("NEVER_HEARD_OF"); c != codes.Internal {
		t.Errorf("a reason that the API does not have has the code %s", c)
	}
}

func reasonsOfChain(t *testing.T) map[string]bool {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "../../chain/errors.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	reasons := map[string]bool{}
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		if kind, ok := spec.Type.(*ast.Ident); ok && kind.Name == "Reason" {
			for _, value := range spec.Values {
				text, err := strconv.Unquote(value.(*ast.BasicLit).Value)
				if err != nil {
					t.Fatal(err)
				}
				reasons[text] = true
			}
		}
		return true
	})
	return reasons
}

func TestStatusOfErrors(t *testing.T) {
	for _, tc := range []struct {
		err  error
		code codes.Code
	}{
		{chain.Errorf(chain.Full, nil, "x"), codes.ResourceExhausted},
		{chain.Errorf(chain.ProgramExists, nil, "x"), codes.AlreadyExists},
		{chain.Errorf(chain.ProgramNotFound, nil, "x"), codes.NotFound},
		{chain.Errorf(chain.InterfaceBusy, nil, "x"), codes.FailedPrecondition},
		{chain.Errorf(chain.RevisionMismatch, nil, "x"), codes.Aborted},
		{chain.Errorf(chain.ChangePending, nil, "x"), codes.FailedPrecondition},
		{chain.Errorf(chain.ProgramShared, nil, "x"), codes.FailedPrecondition},
		{chain.Errorf(chain.TestUnsupported, nil, "x"), codes.FailedPrecondition},
		{chain.Errorf(chain.ChangeNotFound, nil, "x"), codes.NotFound},
		{chain.Errorf(chain.RevisionNotFound, nil, "x"), codes.NotFound},
		{chain.Errorf(chain.ObjectNotFound, nil, "x"), codes.NotFound},
		{chain.Errorf(chain.LeaseNotFound, nil, "x"), codes.NotFound},
		{chain.Errorf(chain.LeaseTaken, nil, "x"), codes.Aborted},
		{chain.Errorf(chain.NetnsNotFound, nil, "x"), codes.NotFound},
		{chain.Errorf(chain.TakeoverFailed, nil, "x"), codes.FailedPrecondition},
		{chain.Errorf(chain.PatternNotFound, nil, "x"), codes.NotFound},
		{chain.Errorf(chain.Overloaded, nil, "x"), codes.ResourceExhausted},
		{chain.Errorf(chain.GlobalInvalid, nil, "x"), codes.InvalidArgument},
		{chain.Errorf(chain.Stopping, nil, "x"), codes.Unavailable},
		{chain.Errorf(chain.InvalidArgument, nil, "x"), codes.InvalidArgument},
		{fmt.Errorf("around: %w", chain.Errorf(chain.Full, nil, "x")), codes.ResourceExhausted},
		{errors.Join(errors.New("y"), chain.Errorf(chain.Full, nil, "x")), codes.ResourceExhausted},
		{fmt.Errorf("stage: %w", context.Canceled), codes.Canceled},
		{fmt.Errorf("stage: %w", context.DeadlineExceeded), codes.DeadlineExceeded},
		{chain.Errorf(chain.Kernel, nil, "load: %w", context.Canceled), codes.Canceled},
		{errors.New("a bug"), codes.Internal},
		{status.Error(codes.Unimplemented, "x"), codes.Unimplemented},
	} {
		st := toStatus(tc.err)
		if st.Code() != tc.code || st.Message() == "" {
			t.Errorf("%v becomes %s %q, want %s", tc.err, st.Code(), st.Message(), tc.code)
		}
	}
}

// TestDetailsArrive sends an error with all it can have, in bytes that no protobuf string can hold, to a client.
func TestDetailsArrive(t *testing.T) {
	refusal := chain.Errorf(chain.VerifierRejected, chain.Facts{"program": "fw\xff", "long": strings.Repeat("ä", maxFact)}, "no\xff%s", strings.Repeat("m", 2*maxText))
	refusal.Log = "begin" + strings.Repeat("\xfe line\n", maxLog/6) + "the end"
	r := start(t, &fake{err: fmt.Errorf("add: %w", refusal)})
	_, err := r.api.AddProgram(t.Context(), add("eth0"))
	st := status.Convert(err)
	if st.Code() != codes.InvalidArgument || !strings.HasPrefix(st.Message(), "add: no\uFFFDm") || len(st.Message()) > maxText {
		t.Errorf("status %s with %d bytes: %.40q", st.Code(), len(st.Message()), st.Message())
	}
	var info *errdetails.ErrorInfo
	var debug *errdetails.DebugInfo
	for _, d := range st.Details() {
		switch d := d.(type) {
		case *errdetails.ErrorInfo:
			info = d
		case *errdetails.DebugInfo:
			debug = d
		default:
			t.Errorf("detail %T", d)
		}
	}
	if info.GetReason() != "VERIFIER_REJECTED" || info.GetDomain() != "xdpd" || info.GetMetadata()["program"] != "fw\uFFFD" || len(info.GetMetadata()["long"]) > maxFact {
		t.Errorf("info: %v", info)
	}
	log := debug.GetDetail()
	if len(log) > maxLog || len(log) < maxLog-4 || !strings.HasSuffix(log, "the end") || strings.Contains(log, "begin") {
		t.Errorf("the log has %d bytes, %.20q...%q", len(log), log, log[max(0, len(log)-20):])
	}
}

func TestTextsAreCutBetweenCharacters(t *testing.T) {
	for limit := range 8 {
		if got := head("aäöü", limit); !strings.HasPrefix("aäöü", got) || len(got) > limit || len(got) < limit-1 {
			t.Errorf("head of %d: %q", limit, got)
		}
		if got := tail("äöüa", limit); !strings.HasSuffix("äöüa", got) || len(got) > limit || len(got) < limit-1 {
			t.Errorf("tail of %d: %q", limit, got)
		}
	}
}
