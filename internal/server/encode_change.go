// SPDX-License-Identifier: Apache-2.0

package server

import (
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/chain"
	"github.com/xdpd/xdpd/dispatcher"
	"github.com/xdpd/xdpd/internal/control"
	"github.com/xdpd/xdpd/store"
)

func encodeChange(o control.Outcome) *xdpdv1.Change {
	return &xdpdv1.Change{
		Changed: o.Changed, DryRun: o.DryRun, Diff: each(o.Diff, text),
		Pending: encodePending(o.Pending), Maps: each(o.Maps, encodeMapOrigin), Takeovers: each(o.Took, encodeTakeover),
	}
}

func encodeTakeover(t control.Takeover) *xdpdv1.Takeover {
	return &xdpdv1.Takeover{
		Interface: text(t.Interface), ProgramId: t.Foreign.ID, Name: text(t.Foreign.Name), Mode: encodeMode(t.Foreign.Mode), Swapped: t.Swapped,
	}
}

func encodeMapOrigin(m control.MapOrigin) *xdpdv1.MapOrigin {
	return &xdpdv1.MapOrigin{Program: m.Program, Map: text(m.Map), Origin: encodeOrigin(m.Origin), Reason: text(m.Reason)}
}

func encodeOrigin(o dispatcher.Origin) xdpdv1.MapOrigin_Origin {
	switch o {
	case dispatcher.OriginNew:
		return xdpdv1.MapOrigin_ORIGIN_NEW
	case dispatcher.OriginCarried:
		return xdpdv1.MapOrigin_ORIGIN_CARRIED
	case dispatcher.OriginShared:
		return xdpdv1.MapOrigin_ORIGIN_SHARED
	}
	return xdpdv1.MapOrigin_ORIGIN_UNSPECIFIED
}

func encodePending(p *control.Pending) *xdpdv1.PendingChange {
	if p == nil {
		return nil
	}
	return &xdpdv1.PendingChange{
		Id: p.ID, Until: timestamppb.New(p.Until), Left: durationpb.New(max(p.Left, 0)),
		Interfaces: each(p.Interfaces, text), Programs: p.Programs, Caller: encodeCaller(p.Caller), What: text(p.What),
	}
}

// encodeLease tells how long the programs still stay only of a lease that nobody holds.
func encodeLease(l control.LeaseView) *xdpdv1.Lease {
	e := &xdpdv1.Lease{
		Id: l.ID, Held: l.Held, Holder: encodeCaller(l.Holder), Grace: durationpb.New(l.Grace), Programs: l.Programs,
	}
	if !l.Held {
		e.Left = durationpb.New(max(l.Left, 0))
	}
	return e
}

func encodeCaller(c control.Caller) *xdpdv1.Caller { return &xdpdv1.Caller{Uid: c.UID, Pid: c.PID} }

func encodeHistory(h control.History) *xdpdv1.HistoryEntry {
	return &xdpdv1.HistoryEntry{
		Revision: h.Revision, Time: timestamppb.New(h.Time), Caller: encodeCaller(h.Caller),
		What: text(h.What), Comment: text(h.Comment), Diff: each(h.Diff, text),
		Chain: encodeChainSpec(h.Interface, h.Chain), Programs: each(h.Programs, encodeProgramSpec), Current: h.Current,
	}
}

// encodeChainSpec leaves nothing to defaults, so that the spec means the same wherever it is read. One without
// members says only that there is no chain.
func encodeChainSpec(iface string, c chain.Chain) *xdpdv1.ChainSpec {
	spec := &xdpdv1.ChainSpec{Interface: text(iface)}
	if len(c.Members) == 0 {
		return spec
	}
	spec.Mode, spec.FinalVerdict, spec.Members = encodeMode(c.Mode), encodeVerdict(c.Final), each(c.Members, encodeMemberSpec)
	return spec
}

func encodeMemberSpec(m chain.Member) *xdpdv1.MemberSpec {
	enabled := !m.Disabled
	return &xdpdv1.MemberSpec{
		Program: m.Program, Priority: &m.Priority, ProceedOn: &xdpdv1.ProceedOn{Verdicts: encodeProceedOn(m.ProceedOn)}, Enabled: &enabled,
	}
}

func encodeProgramSpec(p store.Program) *xdpdv1.ProgramSpec {
	return &xdpdv1.ProgramSpec{
		Name: p.Name, ObjectSha256: p.Object, Function: text(p.Function),
		Lifetime: encodeLifetime(control.Lifetime(p.Lifetime)), Settings: encodeSettings(p.Settings),
	}
}

// encodeSettings is never nil: a spec without settings would leave those that there are.
func encodeSettings(s chain.Settings) *xdpdv1.ProgramSettings {
	return &xdpdv1.ProgramSettings{
		Globals: s.Globals, MaxEntries: s.MaxEntries, ShareMapsFrom: s.ShareMapsFrom, MapGroup: s.MapGroup,
	}
}
