// SPDX-License-Identifier: Apache-2.0

package server

import (
	"errors"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/internal/control"
	"github.com/xdpd/xdpd/internal/feed"
)

// Watch tells what happens until the client goes or the daemon stops. The feed never waits for it: a client that
// does not read holds up this call only, and is told what it missed.
func (s *service) Watch(req *xdpdv1.WatchRequest, stream grpc.ServerStreamingServer[xdpdv1.WatchResponse]) error {
	if err := errors.Join(known(req.ProtoReflect(), ""), bounded("resume_token", req.GetResumeToken())); err != nil {
		return err
	}
	events := s.control.Watch(req.GetResumeToken())
	next := &xdpdv1.WatchResponse{
		ResumeToken: events.Token(), Time: timestamppb.Now(),
		Event: &xdpdv1.WatchResponse_Started_{Started: &xdpdv1.WatchResponse_Started{}},
	}
	for {
		if err := stream.Send(next); err != nil {
			return err
		}
		item, err := events.Next(stream.Context())
		switch {
		case errors.Is(err, feed.ErrClosed):
			return errStopping
		case err != nil:
			return err
		}
		next = encodeItem(item)
	}
}

func encodeItem(item feed.Item[control.Event]) *xdpdv1.WatchResponse {
	resp := encodeEvent(item.Value)
	if item.Gap {
		resp = &xdpdv1.WatchResponse{
			Time:  timestamppb.Now(),
			Event: &xdpdv1.WatchResponse_Missed_{Missed: &xdpdv1.WatchResponse_Missed{Events: item.Missed}},
		}
	}
	resp.ResumeToken = item.Token
	return resp
}

func encodeEvent(e control.Event) *xdpdv1.WatchResponse {
	resp := &xdpdv1.WatchResponse{Time: timestamppb.New(e.Time), Interface: text(e.Interface), Program: e.Program}
	if e.Caller != nil {
		resp.Caller = encodeCaller(*e.Caller)
	}
	member := func() *xdpdv1.Member {
		m := encodeMember(e.Member)
		m.Counters = nil
		return m
	}
	problem := &xdpdv1.WatchResponse_Problem{Subject: text(e.Subject), Text: text(e.Text)}
	iface := &xdpdv1.WatchResponse_Interface{Ifindex: uint32(e.Ifindex)}
	switch e.Kind {
	case control.MemberAdded:
		resp.Event = &xdpdv1.WatchResponse_MemberAdded{MemberAdded: member()}
	case control.MemberRemoved:
		resp.Event = &xdpdv1.WatchResponse_MemberRemoved{MemberRemoved: member()}
	case control.MemberChanged:
		resp.Event = &xdpdv1.WatchResponse_MemberChanged{MemberChanged: member()}
	case control.ProgramReplaced:
		replaced := &xdpdv1.WatchResponse_ProgramReplaced{ObjectSha256: e.SHA256, PreviousSha256: e.PreviousSHA256}
		resp.Event = &xdpdv1.WatchResponse_ProgramReplaced_{ProgramReplaced: replaced}
	case control.ChainSwapped:
		swapped := &xdpdv1.WatchResponse_ChainSwapped{Revision: e.Revision, Previous: e.Previous}
		resp.Event = &xdpdv1.WatchResponse_ChainSwapped_{ChainSwapped: swapped}
	case control.ConfirmPending:
		resp.Event = &xdpdv1.WatchResponse_ConfirmPending{ConfirmPending: encodePending(e.Pending)}
	case control.Confirmed:
		resp.Event = &xdpdv1.WatchResponse_Confirmed{Confirmed: encodePending(e.Pending)}
	case control.Reverted:
		reverted := &xdpdv1.WatchResponse_Reverted{Change: encodePending(e.Pending), Expired: e.Expired}
		resp.Event = &xdpdv1.WatchResponse_Reverted_{Reverted: reverted}
	case control.Degraded:
		resp.Event = &xdpdv1.WatchResponse_Degraded{Degraded: problem}
	case control.Recovered:
		resp.Event = &xdpdv1.WatchResponse_Recovered{Recovered: problem}
	case control.InterfaceUp:
		resp.Event = &xdpdv1.WatchResponse_InterfaceUp{InterfaceUp: iface}
	case control.InterfaceGone:
		resp.Event = &xdpdv1.WatchResponse_InterfaceGone{InterfaceGone: iface}
	case control.InterfaceRenamed:
		renamed := &xdpdv1.WatchResponse_Renamed{From: text(e.Former)}
		resp.Event = &xdpdv1.WatchResponse_InterfaceRenamed{InterfaceRenamed: renamed}
	case control.ForeignSeen:
		foreign := &xdpdv1.WatchResponse_ForeignProgram{ProgramId: e.Foreign.ID, Name: text(e.Foreign.Name), Mode: encodeMode(e.Foreign.Mode)}
		resp.Event = &xdpdv1.WatchResponse_ForeignSeen{ForeignSeen: foreign}
	case control.LeaseEnded:
		lease := &xdpdv1.WatchResponse_LeaseEnded{Lease: encodeLease(e.Lease), Reason: text(e.Text)}
		resp.Event = &xdpdv1.WatchResponse_LeaseEnded_{LeaseEnded: lease}
	}
	return resp
}
