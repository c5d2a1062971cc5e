// SPDX-License-Identifier: Apache-2.0

package server

import (
	"fmt"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/chain"
	"github.com/xdpd/xdpd/dispatcher"
	"github.com/xdpd/xdpd/internal/control"
)

func decodeTest(req *xdpdv1.TestRunRequest) (test control.TestRequest, err error) {
	if err := known(req.ProtoReflect(), ""); err != nil {
		return test, err
	}
	test = control.TestRequest{Packets: req.GetPackets(), CopyMaps: req.GetCopyMaps()}
	if test.Interface, err = decodeInterface("interface", req.GetInterface()); err != nil {
		return test, err
	}
	if n := len(test.Packets); n == 0 || n > maxPackets {
		return test, invalid("packets", "there are %d, want 1 to %d", n, maxPackets)
	}
	var total int
	for i, packet := range test.Packets {
		field := fmt.Sprintf("packets[%d]", i)
		if n := len(packet); n < minPacket || n > maxPacket {
			return test, invalid(field, "it has %d bytes, want %d to %d, from the Ethernet header on", n, minPacket, maxPacket)
		}
		if total += len(packet); total > maxAllPackets {
			return test, invalid(field, "with it the packets have %d bytes, at most %d (16 MiB) are taken", total, maxAllPackets)
		}
	}
	return test, nil
}

func encodeTest(r control.TestResult) *xdpdv1.TestRunResponse {
	return &xdpdv1.TestRunResponse{
		Revision: r.Revision, Packets: each(r.Packets, encodeTrace), LiveMaps: each(r.LiveMaps, text), Notes: each(r.Notes, text),
	}
}

func encodeTrace(t dispatcher.Trace) *xdpdv1.PacketTrace {
	verdict := encodeVerdict(chain.Verdict(t.Return))
	if verdict == xdpdv1.Verdict_VERDICT_UNSPECIFIED {
		verdict = xdpdv1.Verdict_VERDICT_ABORTED // what the kernel makes of a return code that it does not know
	}
	return &xdpdv1.PacketTrace{
		Steps: each(t.Steps, encodeStep), Verdict: verdict, ReturnCode: t.Return, Packet: t.Packet, PassedAll: t.PassedAll,
	}
}

func encodeStep(s dispatcher.Step) *xdpdv1.TraceStep {
	return &xdpdv1.TraceStep{
		Program: s.Name, Verdict: encodeVerdict(chain.Verdict(s.Return)), ReturnCode: s.Return, Proceeded: s.Proceeded,
	}
}
