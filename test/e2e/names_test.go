// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/client"
	"github.com/xdpd/xdpd/internal/netif/nettest"
)

// TestNamesOfInterfaces gives each command that is about one interface a pattern, and names that cannot be one: all are
// refused, and nothing is different afterwards.
func TestNamesOfInterfaces(t *testing.T) {
	h := newHost(t)
	object := filepath.Join(h.dir, "verdict.o")
	if err := os.WriteFile(object, verdicts, 0o600); err != nil {
		t.Fatal(err)
	}
	h.start()
	h.do(adding(add("a", "pass", nettest.Dev)))
	for ref, says := range map[string]string{
		"xdev*": "is a pattern", "blue:xdev[0-9]": "is a pattern", "a/b:xdev0": "neither a name in /run/netns nor an absolute path",
		"/run/../netns/blue:xdev0": "shortest form", ":xdev0": "no network namespace before the colon", "xdev0-with-a-long-name": "more than 15 bytes",
	} {
		for _, args := range [][]string{
			{"chain", ref},
			{"history", ref},
			{"rollback", ref},
			{"order", ref, "a"},
			{"trace", ref, "--packet", strings.Repeat("00", 60)},
			{"set", "a", "-i", ref, "--first"},
			{"rm", "a", "--expect", ref + "=1"},
		} {
			if r := h.ctl(1, args...); !strings.Contains(r.stderr, says) || !strings.Contains(r.stderr, "reason: INVALID_ARGUMENT") {
				t.Errorf("%q: %s", args, r.stderr)
			}
		}
	}
	for _, args := range [][]string{
		{"add", object, "--function", "drop", "-i", "xdev["},
		{"add", object, "--function", "drop", "-i", "blue:"},
		{"rm", "a", "-i", "xdev["},
	} {
		if r := h.ctl(1, args...); !strings.Contains(r.stderr, "reason: INVALID_ARGUMENT") || !strings.Contains(r.stderr, "field: interfaces[0]") {
			t.Errorf("%q: %s", args, r.stderr)
		}
	}
	if r := h.ctlWith([]byte("chains: {'xdev*': {members: []}}"), 1, "apply", "-f", "-"); !strings.Contains(r.stderr, "standard input:1:10: ") {
		t.Errorf("apply: %s", r.stderr)
	}
	h.leaseWithoutToken(t, object)
	if out := h.ctl(0, "ls", "a").stdout; !strings.Contains(out, "interfaces  "+nettest.Dev+"\n") || !strings.Contains(out, "object      sha256:"+sumOf(verdicts)) {
		t.Errorf("ls a: %s", out)
	}
	h.Check()
	h.stop(unix.SIGTERM)
}

// leaseWithoutToken asks for programs with half of what a lease needs.
func (h *host) leaseWithoutToken(t *testing.T, object string) {
	h.Helper()
	h.ctl(2, "add", object, "--function", "drop", "-i", nettest.Dev, "--lifetime", "lease")
	h.ctl(2, "add", object, "--function", "drop", "-i", nettest.Dev, "--lease", "token")
	leased, token := add("b", "drop", nettest.Dev), add("b", "drop", nettest.Dev)
	leased.Lifetime, token.Lease = xdpdv1.Lifetime_LIFETIME_LEASE, "token"
	for _, req := range []*xdpdv1.AddProgramRequest{leased, token} {
		_, err := h.client.AddProgram(h.ctx(), req)
		if client.Reason(err) != xdpdv1.ErrorReason_ERROR_REASON_INVALID_ARGUMENT || client.Facts(err)["field"] != "lease" {
			t.Errorf("lifetime %s, token %q: %v, %v", req.GetLifetime(), req.GetLease(), err, client.Facts(err))
		}
	}
}
