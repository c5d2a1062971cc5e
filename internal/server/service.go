// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"os"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
)

// service answers the API's calls; the errors that it returns are turned into statuses by the interceptor.
type service struct {
	xdpdv1.UnimplementedXdpdServiceServer
	control Controller
	info    Info
	started time.Time
}

func (s *service) AddProgram(ctx context.Context, req *xdpdv1.AddProgramRequest) (*xdpdv1.AddProgramResponse, error) {
	peer, ok := fromPeer(ctx)
	if !ok {
		return nil, errors.New("the connection has no peer credentials")
	}
	add, err := decodeAdd(req, peer.UID)
	if err != nil {
		return nil, err
	}
	program, chains, err := s.control.AddProgram(ctx, add)
	if err != nil {
		return nil, err
	}
	return &xdpdv1.AddProgramResponse{Program: encodeProgram(program), Chains: each(chains, encodeChain)}, nil
}

func (s *service) RemoveProgram(ctx context.Context, req *xdpdv1.RemoveProgramRequest) (*xdpdv1.RemoveProgramResponse, error) {
	name, interfaces, err := decodeRemove(req)
	if err != nil {
		return nil, err
	}
	chains, unloaded, err := s.control.RemoveProgram(ctx, name, interfaces)
	if err != nil {
		return nil, err
	}
	return &xdpdv1.RemoveProgramResponse{Chains: each(chains, encodeChain), Unloaded: unloaded}, nil
}

func (s *service) UpdateMembers(ctx context.Context, req *xdpdv1.UpdateMembersRequest) (*xdpdv1.UpdateMembersResponse, error) {
	updates, err := decodeUpdates(req)
	if err != nil {
		return nil, err
	}
	chains, err := s.control.UpdateMembers(ctx, updates)
	if err != nil {
		return nil, err
	}
	return &xdpdv1.UpdateMembersResponse{Chains: each(chains, encodeChain)}, nil
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
	if err := errors.Join(known(req.ProtoReflect(), ""), checkInterface("interface", req.GetInterface())); err != nil {
		return nil, err
	}
	c, err := s.control.Chain(ctx, req.GetInterface())
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
