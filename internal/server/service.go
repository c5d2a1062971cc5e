// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sync/semaphore"
	"google.golang.org/protobuf/types/known/timestamppb"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/internal/control"
)

// service answers the API's calls; the errors that it returns are turned into statuses by the interceptor.
type service struct {
	xdpdv1.UnimplementedXdpdServiceServer
	control Controller
	info    Info
	started time.Time

	stopping func() bool         // the daemon ends streams
	tests    *semaphore.Weighted // how many test runs there are
	stall    time.Duration       // how long a stream may be without a request
}

// caller is who sent the request of ctx.
func caller(ctx context.Context) (control.Caller, error) {
	peer, ok := fromPeer(ctx)
	if !ok {
		return control.Caller{}, errors.New("the connection has no peer credentials")
	}
	return control.Caller{UID: peer.UID, PID: peer.PID}, nil
}

// change decodes a request that changes something, with who sent it.
func change[Req, Out any](ctx context.Context, req Req, decode func(Req, control.Caller) (Out, error)) (out Out, err error) {
	by, err := caller(ctx)
	if err != nil {
		return out, err
	}
	return decode(req, by)
}

func (s *service) AddProgram(ctx context.Context, req *xdpdv1.AddProgramRequest) (*xdpdv1.AddProgramResponse, error) {
	add, err := change(ctx, req, decodeAdd)
	if err != nil {
		return nil, err
	}
	program, out, err := s.control.AddProgram(ctx, add)
	if err != nil {
		return nil, err
	}
	return &xdpdv1.AddProgramResponse{Program: encodeProgram(program), Chains: each(out.Chains, encodeChain), Change: encodeChange(out)}, nil
}

func (s *service) ReplaceProgram(ctx context.Context, req *xdpdv1.ReplaceProgramRequest) (*xdpdv1.ReplaceProgramResponse, error) {
	replace, err := change(ctx, req, decodeReplace)
	if err != nil {
		return nil, err
	}
	program, out, err := s.control.ReplaceProgram(ctx, replace)
	if err != nil {
		return nil, err
	}
	return &xdpdv1.ReplaceProgramResponse{Program: encodeProgram(program), Chains: each(out.Chains, encodeChain), Change: encodeChange(out)}, nil
}

func (s *service) RemoveProgram(ctx context.Context, req *xdpdv1.RemoveProgramRequest) (*xdpdv1.RemoveProgramResponse, error) {
	remove, err := change(ctx, req, decodeRemove)
	if err != nil {
		return nil, err
	}
	unloaded, out, err := s.control.RemoveProgram(ctx, remove)
	if err != nil {
		return nil, err
	}
	return &xdpdv1.RemoveProgramResponse{Chains: each(out.Chains, encodeChain), Unloaded: unloaded, Change: encodeChange(out)}, nil
}

func (s *service) UpdateMembers(ctx context.Context, req *xdpdv1.UpdateMembersRequest) (*xdpdv1.UpdateMembersResponse, error) {
	update, err := change(ctx, req, decodeUpdates)
	if err != nil {
		return nil, err
	}
	out, err := s.control.UpdateMembers(ctx, update)
	if err != nil {
		return nil, err
	}
	return &xdpdv1.UpdateMembersResponse{Chains: each(out.Chains, encodeChain), Change: encodeChange(out)}, nil
}

func (s *service) SetChains(ctx context.Context, req *xdpdv1.SetChainsRequest) (*xdpdv1.SetChainsResponse, error) {
	set, err := change(ctx, req, decodeSet)
	if err != nil {
		return nil, err
	}
	out, err := s.control.SetChains(ctx, set)
	if err != nil {
		return nil, err
	}
	return &xdpdv1.SetChainsResponse{Chains: each(out.Chains, encodeChain), Change: encodeChange(out)}, nil
}

func (s *service) Rollback(ctx context.Context, req *xdpdv1.RollbackRequest) (*xdpdv1.RollbackResponse, error) {
	back, err := change(ctx, req, decodeRollback)
	if err != nil {
		return nil, err
	}
	revision, out, err := s.control.Rollback(ctx, back)
	if err != nil {
		return nil, err
	}
	return &xdpdv1.RollbackResponse{Revision: revision, Chains: each(out.Chains, encodeChain), Change: encodeChange(out)}, nil
}

func (s *service) Confirm(ctx context.Context, req *xdpdv1.ConfirmRequest) (*xdpdv1.ConfirmResponse, error) {
	by, err := caller(ctx)
	if err := errors.Join(err, known(req.ProtoReflect(), ""), checkID(req.GetId())); err != nil {
		return nil, err
	}
	pending, err := s.control.Confirm(ctx, req.GetId(), by)
	if err != nil {
		return nil, err
	}
	return &xdpdv1.ConfirmResponse{Change: encodePending(&pending)}, nil
}

func (s *service) Cancel(ctx context.Context, req *xdpdv1.CancelRequest) (*xdpdv1.CancelResponse, error) {
	by, err := caller(ctx)
	if err := errors.Join(err, known(req.ProtoReflect(), ""), checkID(req.GetId())); err != nil {
		return nil, err
	}
	out, err := s.control.Cancel(ctx, req.GetId(), by)
	if err != nil {
		return nil, err
	}
	return &xdpdv1.CancelResponse{Chains: each(out.Chains, encodeChain), Change: encodeChange(out)}, nil
}

func (s *service) ListHistory(ctx context.Context, req *xdpdv1.ListHistoryRequest) (*xdpdv1.ListHistoryResponse, error) {
	iface, err := decodeInterface("interface", req.GetInterface())
	if err := errors.Join(known(req.ProtoReflect(), ""), err); err != nil {
		return nil, err
	}
	entries, err := s.control.History(ctx, iface)
	if err != nil {
		return nil, err
	}
	return &xdpdv1.ListHistoryResponse{Entries: each(entries, encodeHistory)}, nil
}

func (s *service) TestRun(ctx context.Context, req *xdpdv1.TestRunRequest) (*xdpdv1.TestRunResponse, error) {
	test, err := decodeTest(req)
	if err != nil {
		return nil, err
	}
	if err := s.tests.Acquire(ctx, 1); err != nil {
		return nil, fmt.Errorf("wait for the test runs of others: %w", context.Cause(ctx))
	}
	defer s.tests.Release(1)
	result, err := s.control.TestRun(ctx, test)
	if err != nil {
		return nil, err
	}
	return encodeTest(result), nil
}

func (s *service) ListPrograms(ctx context.Context, req *xdpdv1.ListProgramsRequest) (*xdpdv1.ListProgramsResponse, error) {
	if err := known(req.ProtoReflect(), ""); err != nil {
		return nil, err
	}
	programs, err := s.control.Programs(ctx)
	if err != nil {
		return nil, err
	}
	return &xdpdv1.ListProgramsResponse{Programs: each(programs, encodeProgram)}, nil
}

func (s *service) GetProgram(ctx context.Context, req *xdpdv1.GetProgramRequest) (*xdpdv1.GetProgramResponse, error) {
	if err := errors.Join(known(req.ProtoReflect(), ""), given("name", req.GetName())); err != nil {
		return nil, err
	}
	program, err := s.control.Program(ctx, req.GetName())
	if err != nil {
		return nil, err
	}
	return &xdpdv1.GetProgramResponse{Program: encodeProgram(program)}, nil
}

func (s *service) ListChains(ctx context.Context, req *xdpdv1.ListChainsRequest) (*xdpdv1.ListChainsResponse, error) {
	if err := known(req.ProtoReflect(), ""); err != nil {
		return nil, err
	}
	chains, err := s.control.Chains(ctx)
	if err != nil {
		return nil, err
	}
	return &xdpdv1.ListChainsResponse{Chains: each(chains, encodeChain)}, nil
}

func (s *service) GetChain(ctx context.Context, req *xdpdv1.GetChainRequest) (*xdpdv1.GetChainResponse, error) {
	iface, err := decodeInterface("interface", req.GetInterface())
	if err := errors.Join(known(req.ProtoReflect(), ""), err); err != nil {
		return nil, err
	}
	c, err := s.control.Chain(ctx, iface)
	if err != nil {
		return nil, err
	}
	return &xdpdv1.GetChainResponse{Chain: encodeChain(c)}, nil
}

func (s *service) GetStatus(ctx context.Context, req *xdpdv1.GetStatusRequest) (*xdpdv1.GetStatusResponse, error) {
	if err := known(req.ProtoReflect(), ""); err != nil {
		return nil, err
	}
	st, err := s.control.Status(ctx)
	if err != nil {
		return nil, err
	}
	resp := encodeStatus(st)
	resp.Version, resp.StateDir = s.info.Version, s.info.StateDir
	resp.Pid, resp.Started = int32(os.Getpid()), timestamppb.New(s.started)
	return resp, nil
}
