// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/encoding/protojson"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/chain"
	"github.com/xdpd/xdpd/client"
	"github.com/xdpd/xdpd/examples"
	"github.com/xdpd/xdpd/internal/netif/nettest"
)

func init() {
	verdictOf["blocklist"], verdictOf["ratelimit"] = chain.Pass, chain.Pass // for the frames of Check, which are not IP
}

// capture is a pcap file of packets.
func capture(packets ...[]byte) []byte {
	var b bytes.Buffer
	put := func(values ...uint32) { _ = binary.Write(&b, binary.LittleEndian, values) } // to memory
	put(0xa1b2c3d4, 4<<16|2, 0, 0, 65535, 1)                                            // version 2.4, Ethernet
	for i, p := range packets {
		put(uint32(1_700_000_000+i), 0, uint32(len(p)), uint32(len(p)))
		b.Write(p)
	}
	return b.Bytes()
}

// from is a UDP packet with some payload.
func from(addr string) []byte {
	return nettest.UDP(netip.MustParseAddrPort(addr+":40000"), netip.MustParseAddrPort("203.0.113.1:53"), []byte("some payload to look at"))
}

// update writes an element of a program's map, as the program's owner would.
func (h *host) update(program, name string, key, value any) {
	h.Helper()
	m, err := ebpf.LoadPinnedMap(h.mapOf(program, name).GetPin(), nil)
	if err != nil {
		h.Fatal(err)
	}
	defer m.Close()
	if err := m.Put(key, value); err != nil {
		h.Fatal(err)
	}
}

// entries counts the elements of a program's map.
func (h *host) entries(program, name string) (n int) {
	h.Helper()
	m, err := ebpf.LoadPinnedMap(h.mapOf(program, name).GetPin(), nil)
	if err != nil {
		h.Fatal(err)
	}
	defer m.Close()
	var key, value []byte
	it := m.Iterate()
	for it.Next(&key, &value) {
		n++
	}
	if err := it.Err(); err != nil {
		h.Fatal(err)
	}
	return n
}

// TestTrace sends a capture through a chain of real programs with the real xdpctl, while packets come in on the wire:
// neither these nor what counts them notices.
func TestTrace(t *testing.T) {
	h := newHost(t, second)
	h.start()
	for _, r := range []*xdpdv1.AddProgramRequest{
		{Object: examples.Blocklist, Interfaces: []string{nettest.Dev}},
		{Object: examples.Ratelimit, Interfaces: []string{nettest.Dev}},
		{Object: trails, Function: "mark", Interfaces: []string{nettest.Dev}, Settings: &xdpdv1.ProgramSettings{Globals: map[string]string{"id": "5"}}},
		add("b", "tx", nettest.Dev),
	} {
		if _, err := h.client.AddProgram(h.ctx(), r); err != nil {
			t.Fatalf("%v %v", err, client.Facts(err))
		}
	}
	if _, err := h.client.UpdateMembers(h.ctx(), &xdpdv1.UpdateMembersRequest{Updates: []*xdpdv1.MemberUpdate{{Program: "b", Enabled: ptr(false)}}}); err != nil {
		t.Fatal(err)
	}
	h.update("blocklist", "denied4", struct {
		Bits uint32
		Addr [4]byte
	}{24, [4]byte{192, 0, 2, 0}}, uint32(1))
	h.update("ratelimit", "config", uint32(0), struct{ Rate, Burst uint32 }{1, 2})
	stop := h.flows([]string{nettest.Dev})
	file := filepath.Join(h.dir, "packets.pcap")
	one := from("198.51.100.1")
	if err := os.WriteFile(file, capture(from("192.0.2.7"), one, one, one), 0o600); err != nil {
		t.Fatal(err)
	}

	// With copies of the maps nothing is live, and it is the same each time.
	want := []string{
		"blocklist drop: drop", "blocklist pass, ratelimit pass, mark 31, all: pass", "blocklist pass, ratelimit pass, mark 31, all: pass",
		"blocklist pass, ratelimit drop: drop",
	}
	limited := func(args ...string) (got, live []string) {
		t.Helper()
		began := time.Now()
		if got, live = h.trace(args...); time.Since(began) > time.Second && len(got) == len(want) {
			got[3] = want[3] // the limit lets one more through each second
		}
		return got, live
	}
	for range 2 {
		if got, live := limited("-r", file, "--copy-maps"); !slices.Equal(got, want) || len(live) != 0 {
			t.Errorf("with copies:\n got %q, live %v\nwant %q", got, live, want)
		}
	}
	if n := h.entries("ratelimit", "buckets"); n != 0 {
		t.Errorf("there are %d buckets after runs on copies", n)
	}
	// On the live maps the first run takes what the bucket has.
	if got, live := limited("-r", file); !slices.Equal(got, want) || !slices.Contains(live, "ratelimit/buckets") || !slices.Contains(live, "mark/runs") {
		t.Errorf("on live maps:\n got %q, live %v\nwant %q", got, live, want)
	}
	if got, _ := h.trace("-r", file, "--count", "1"); !slices.Equal(got, want[:1]) {
		t.Errorf("the first one: %q", got)
	}
	if n := h.entries("ratelimit", "buckets"); n != 1 {
		t.Errorf("there are %d buckets after a run on live maps", n)
	}
	h.tracePrinted(t, file)

	sent := stop()[nettest.Dev]
	c := h.chain(nettest.Dev)
	if c.GetPackets() != sent || c.GetPacketsEnd() != sent || c.GetMembers()[0].GetCounters().GetSeen() != sent {
		t.Errorf("%d packets came, and the chain counted %v", sent, c)
	}
	if c.GetRevision() != 5 {
		t.Errorf("the chain has revision %d", c.GetRevision())
	}
	h.learn()
	h.Check()
	h.stop(unix.SIGTERM)
}

// trace runs xdpctl trace on nettest.Dev and returns what became of each packet, in a line, and the live maps.
func (h *host) trace(args ...string) (lines, live []string) {
	h.Helper()
	out := h.ctl(0, append([]string{"trace", nettest.Dev, "-o", "json"}, args...)...).stdout
	var answer xdpdv1.TestRunResponse
	if err := protojson.Unmarshal([]byte(out), &answer); err != nil {
		h.Fatalf("%v in\n%s", err, out)
	}
	word := func(v xdpdv1.Verdict, code uint32) string {
		if v == xdpdv1.Verdict_VERDICT_UNSPECIFIED {
			return fmt.Sprint(code)
		}
		return chain.Verdict(v - 1).String()
	}
	for _, p := range answer.GetPackets() {
		var steps []string
		for _, s := range p.GetSteps() {
			steps = append(steps, s.GetProgram()+" "+word(s.GetVerdict(), s.GetReturnCode()))
		}
		if p.GetPassedAll() {
			steps = append(steps, "all")
		}
		lines = append(lines, strings.Join(steps, ", ")+": "+word(p.GetVerdict(), p.GetReturnCode()))
	}
	return lines, answer.GetLiveMaps()
}

// tracePrinted looks at what people see: members, verdicts and changed bytes; and at what is refused.
func (h *host) tracePrinted(t *testing.T, file string) {
	t.Helper()
	u := &xdpdv1.UpdateMembersRequest{Updates: []*xdpdv1.MemberUpdate{{Program: "b", Enabled: ptr(false)}}}
	if a, err := h.client.UpdateMembers(h.ctx(), u); err != nil || a.GetChange().GetChanged() {
		t.Errorf("%v, %v", a, err)
	}
	packet := from("198.51.100.77")
	out := h.ctl(0, "trace", nettest.Dev, "--packet", fmt.Sprintf("%x", packet), "--copy-maps").stdout
	// The bytes behind the Ethernet header are those of the trail that mark leaves, if they are not the same.
	for _, want := range []string{
		nettest.Dev + ", revision 5\n", "packet 1: 65 bytes, IPv4 UDP 198.51.100.77:40000 > 203.0.113.1:53", "blocklist", "goes on", "mark", "continue",
		"final verdict: pass", "at 14: ",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("the trace has no %q:\n%s", want, out)
		}
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	out = h.ctlWith(data, 0, "trace", nettest.Dev, "-r", "-", "--count", "1").stdout
	for _, want := range []string{"packet 1: ", "drop", "ends here", "verdict: drop", "live maps, which the programs may have changed: blocklist/", "blocklist/dropped"} {
		if !strings.Contains(out, want) {
			t.Errorf("the trace has no %q:\n%s", want, out)
		}
	}
	if r := h.ctl(1, "trace", second, "-r", file); !strings.Contains(r.stderr, "CHAIN_NOT_FOUND") {
		t.Errorf("of an interface without a chain: %s", r.stderr)
	}
	h.ctl(1, "trace", nettest.Dev, "-r", file+".nosuch")
	h.ctl(1, "trace", nettest.Dev, "-r", h.config)
	h.ctl(2, "trace", nettest.Dev)
}

// TestTrailsAreChecked looks that the program which TestContinuity believes sees a wrong trail.
func TestTrailsAreChecked(t *testing.T) {
	h := newHost(t)
	h.start()
	p := &parade{host: h, interfaces: []string{nettest.Dev}, order: []int{2, 1, 3}, version: 7, strict: true}
	spec := p.spec(nil)
	spec.Objects = [][]byte{trails}
	if _, err := h.client.SetChains(h.ctx(), spec); err != nil {
		t.Fatal(err)
	}
	try := func(what string, wrong bool) {
		t.Helper()
		before := h.tally("end")
		if _, err := h.client.TestRun(h.ctx(), &xdpdv1.TestRunRequest{Interface: nettest.Dev, Packets: [][]byte{nettest.Frame(64)}}); err != nil {
			t.Fatal(err)
		}
		after := h.tally("end")
		if after.Seen != before.Seen+1 || (after.Wrong == before.Wrong+1) != wrong {
			t.Errorf("%s: %+v, then %+v", what, before, after)
		}
	}
	update := func(u *xdpdv1.MemberUpdate) {
		t.Helper()
		if _, err := h.client.UpdateMembers(h.ctx(), &xdpdv1.UpdateMembersRequest{Updates: []*xdpdv1.MemberUpdate{u}}); err != nil {
			t.Fatal(err)
		}
	}
	try("as it should be", false)
	update(&xdpdv1.MemberUpdate{Program: mark(2), Position: &xdpdv1.Position{Place: &xdpdv1.Position_After{After: mark(1)}}})
	try("another order", true)
	update(&xdpdv1.MemberUpdate{Program: mark(2), Position: first})
	try("the order again", false)
	p.strict = false
	p.apply(nil)
	update(&xdpdv1.MemberUpdate{Program: mark(1), Position: first})
	try("any order", false)
	update(&xdpdv1.MemberUpdate{Program: mark(3), Enabled: ptr(false)})
	try("one that did not see it", true)
	update(&xdpdv1.MemberUpdate{Program: mark(3), Enabled: ptr(true)})
	for _, id := range []int{1, 3} {
		p.version++
		if _, err := h.client.ReplaceProgram(h.ctx(), &xdpdv1.ReplaceProgramRequest{Name: mark(id), Settings: p.settings(id)}); err != nil {
			t.Fatal(err)
		}
		try("one of another version", true)
	}
	h.learn()
	h.Check()
	h.stop(unix.SIGTERM)
}
