// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
)

const (
	aborted  = xdpdv1.Verdict_VERDICT_ABORTED
	drop     = xdpdv1.Verdict_VERDICT_DROP
	redirect = xdpdv1.Verdict_VERDICT_REDIRECT
)

func first() *xdpdv1.Position {
	return &xdpdv1.Position{Place: &xdpdv1.Position_First{First: true}}
}

func last() *xdpdv1.Position {
	return &xdpdv1.Position{Place: &xdpdv1.Position_Last{Last: true}}
}

func before(m string) *xdpdv1.Position {
	return &xdpdv1.Position{Place: &xdpdv1.Position_Before{Before: m}}
}

func after(m string) *xdpdv1.Position {
	return &xdpdv1.Position{Place: &xdpdv1.Position_After{After: m}}
}

func set(v ...xdpdv1.Verdict) *xdpdv1.ProceedOn { return &xdpdv1.ProceedOn{Verdicts: v} }

func set1(u *xdpdv1.MemberUpdate) proto.Message {
	u.Program = "p"
	return &xdpdv1.UpdateMembersRequest{Updates: []*xdpdv1.MemberUpdate{u}}
}

func TestRequests(t *testing.T) {
	objects(t)
	object := []byte("ELF of blocklist.o")
	eth := []string{"eth0"}
	type add = xdpdv1.AddProgramRequest
	type upd = xdpdv1.MemberUpdate
	cases := []struct {
		line string
		want proto.Message
	}{
		{"add blocklist.o --interface eth0", &add{Object: object, Interfaces: eth}},
		{"add --interface eth0 blocklist.o --name n --function f", &add{Object: object, Interfaces: eth, Name: "n", Function: "f"}},
		{"add - --interface eth0", &add{Object: []byte("from stdin"), Interfaces: eth}},
		{"add blocklist.o --interface eth0,eth1", &add{Object: object, Interfaces: []string{"eth0", "eth1"}}},
		{"add blocklist.o --interface eth0 --interface eth1", &add{Object: object, Interfaces: []string{"eth0", "eth1"}}},
		{"add blocklist.o --interface eth0 --priority 0", &add{Object: object, Interfaces: eth, Priority: ptr[int32](0)}},
		{"add blocklist.o --interface eth0 --priority -7", &add{Object: object, Interfaces: eth, Priority: ptr[int32](-7)}},
		{"add blocklist.o --interface eth0 --first", &add{Object: object, Interfaces: eth, Position: first()}},
		{"add blocklist.o --interface eth0 --first=false", &add{Object: object, Interfaces: eth}},
		{"add blocklist.o --interface eth0 --last", &add{Object: object, Interfaces: eth, Position: last()}},
		{"add blocklist.o --interface eth0 --before m", &add{Object: object, Interfaces: eth, Position: before("m")}},
		{"add blocklist.o --interface eth0 --after m --priority 9", &add{
			Object: object, Interfaces: eth,
			Position: after("m"), Priority: ptr[int32](9),
		}},
		{"add blocklist.o --interface eth0 --proceed-on none", &add{Object: object, Interfaces: eth, ProceedOn: set()}},
		{"add blocklist.o --interface eth0 --proceed-on tx,pass,tx", &add{Object: object, Interfaces: eth, ProceedOn: set(pass, tx)}},
		{"add blocklist.o --interface eth0 --proceed-on redirect,drop --proceed-on aborted", &add{
			Object:     object,
			Interfaces: eth, ProceedOn: set(aborted, drop, redirect),
		}},
		{"add blocklist.o --interface eth0 --mode auto", &add{Object: object, Interfaces: eth, Mode: xdpdv1.Mode_MODE_AUTO}},
		{"add blocklist.o --interface eth0 --mode native", &add{Object: object, Interfaces: eth, Mode: xdpdv1.Mode_MODE_NATIVE}},
		{"add blocklist.o --interface eth0 --mode generic", &add{Object: object, Interfaces: eth, Mode: xdpdv1.Mode_MODE_GENERIC}},
		{"add blocklist.o --interface eth0 --lifetime daemon", &add{
			Object: object, Interfaces: eth,
			Lifetime: xdpdv1.Lifetime_LIFETIME_DAEMON,
		}},
		{"add blocklist.o --interface eth0 --lifetime persistent", &add{
			Object: object, Interfaces: eth,
			Lifetime: xdpdv1.Lifetime_LIFETIME_PERSISTENT,
		}},
		{"add blocklist.o -i eth* --interface blue:eth0,veth[0-9]", &add{Object: object, Interfaces: []string{"eth*", "blue:eth0", "veth[0-9]"}}},
		{"add blocklist.o -i eth0 --takeover", &add{Object: object, Interfaces: eth, Takeover: true}},
		{"add blocklist.o -i eth0 --lifetime lease --lease t", &add{
			Object: object, Interfaces: eth,
			Lifetime: xdpdv1.Lifetime_LIFETIME_LEASE, Lease: "t",
		}},
		{"rm p", &xdpdv1.RemoveProgramRequest{Name: "p"}},
		{"rm p --interface eth0", &xdpdv1.RemoveProgramRequest{Name: "p", Interfaces: eth}},
		{"rm p -i eth*,blue:eth0", &xdpdv1.RemoveProgramRequest{Name: "p", Interfaces: []string{"eth*", "blue:eth0"}}},
		{"set p -i blue:eth0 --first", set1(&upd{Interface: "blue:eth0", Position: first()})},
		{"set p --priority 0", set1(&upd{Priority: ptr[int32](0)})},
		{"set p --interface eth0 --priority 20", set1(&upd{Interface: "eth0", Priority: ptr[int32](20)})},
		{"set p --first", set1(&upd{Position: first()})},
		{"set p --last", set1(&upd{Position: last()})},
		{"set p --before m", set1(&upd{Position: before("m")})},
		{"set p --after m --disable", set1(&upd{Position: after("m"), Enabled: ptr(false)})},
		{"set p --enable", set1(&upd{Enabled: ptr(true)})},
		{"set p --disable", set1(&upd{Enabled: ptr(false)})},
		{"set p --proceed-on none", set1(&upd{ProceedOn: set()})},
		{"set p --proceed-on pass,redirect", set1(&upd{ProceedOn: set(pass, redirect)})},
		{"ls", &xdpdv1.ListProgramsRequest{}},
		{"ls p", &xdpdv1.GetProgramRequest{Name: "p"}},
		{"chain", &xdpdv1.ListChainsRequest{}},
		{"chain eth0", &xdpdv1.GetChainRequest{Interface: "eth0"}},
		{"status", &xdpdv1.GetStatusRequest{}},
	}
	f := startFake(t, map[string]any{
		"AddProgram": &xdpdv1.AddProgramResponse{}, "RemoveProgram": &xdpdv1.RemoveProgramResponse{},
		"UpdateMembers": &xdpdv1.UpdateMembersResponse{}, "ListPrograms": &xdpdv1.ListProgramsResponse{},
		"GetProgram": &xdpdv1.GetProgramResponse{},
		"ListChains": &xdpdv1.ListChainsResponse{}, "GetChain": &xdpdv1.GetChainResponse{},
		"GetStatus": &xdpdv1.GetStatusResponse{},
	})
	for _, c := range cases {
		t.Run(c.line, func(t *testing.T) {
			r := xdpctl(t, f.socket, c.line, "from stdin")
			if r.status != exitDone || r.err != "" {
				t.Errorf("exit status %d: %s", r.status, r.err)
			}
			got := f.asked()
			if len(got) != 1 || !proto.Equal(got[0], c.want) {
				t.Errorf("asked %v\nwant  %v", got, prototext.Format(c.want))
			}
		})
	}
}

func TestObjectSize(t *testing.T) {
	f := startFake(t, map[string]any{"AddProgram": &xdpdv1.AddProgramResponse{}})
	r := xdpctl(t, f.socket, "add - --interface eth0", strings.Repeat("x", maxObject))
	if got := f.asked(); r.status != exitDone || len(got) != 1 {
		t.Errorf("16 MiB: exit status %d (%s), %d requests", r.status, r.err, len(got))
	}
	r = xdpctl(t, f.socket, "add - --interface eth0", strings.Repeat("x", maxObject+1))
	if got := f.asked(); r.status != exitRefused || len(got) != 0 || !strings.Contains(r.err, "16 MiB") {
		t.Errorf("16 MiB + 1: exit status %d (%s), %d requests", r.status, r.err, len(got))
	}
}
