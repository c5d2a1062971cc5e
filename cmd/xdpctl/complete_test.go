// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
)

// completions returns what a shell would offer for the last of the words.
func completions(t *testing.T, socket string, words ...string) (values []string, directive string) {
	t.Helper()
	var out, errs bytes.Buffer
	args := append([]string{"__completeNoDesc"}, words...)
	if code := run(t.Context(), args, func(string) string { return socket }, stdio{strings.NewReader(""), &out, &errs}); code != 0 {
		t.Fatalf("exit status %d: %s", code, &errs)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	n := len(lines) - 1
	return lines[:n], lines[n]
}

func TestCompletion(t *testing.T) {
	placed := blocklist()
	placed.Patterns = capture().GetPatterns()
	f := startFake(t, map[string]any{
		"ListPrograms": programs(),
		"ListChains":   &xdpdv1.ListChainsResponse{Chains: []*xdpdv1.Chain{blueEth0(), pending(eth0(), 7), pending(wlan0(), 12)}},
		"GetProgram":   &xdpdv1.GetProgramResponse{Program: placed},
		"GetChain":     &xdpdv1.GetChainResponse{Chain: eth0()},
		"ListHistory":  historyAnswer(),
	})
	const noFiles, onlyExt = ":4", ":8"
	cases := []struct {
		line, want, directive string
	}{
		{"rm |", "blocklist dns-cache ratelimit sample", noFiles},
		{"rm s|", "sample", noFiles},
		{"rm blocklist |", "", noFiles},
		{"rm blocklist --interface |", "eth0 wlan0 eth* blue:veth?", noFiles},
		{"rm blocklist -i eth0,b|", "eth0,blue:veth?", noFiles},
		{"set blocklist -i |", "eth0 wlan0", noFiles},
		{"set |", "blocklist dns-cache ratelimit sample", noFiles},
		{"set blocklist --interface w|", "wlan0", noFiles},
		{"set blocklist --interface usb0 --before |", "sample", noFiles},
		{"set blocklist --after |", "blocklist dns-cache ratelimit sample", noFiles},
		{"set blocklist --proceed-on |", "aborted drop pass tx redirect none", noFiles},
		{"set blocklist --proceed-on pass,|", "pass,aborted pass,drop pass,tx pass,redirect pass,none", noFiles},
		{"add |", "o", onlyExt},
		{"add x.o --interface eth0,usb0 --after |", "blocklist dns-cache ratelimit sample", noFiles},
		{"add x.o --interface lo,l|", "", noFiles},
		{"add x.o --interface l|", "lo", noFiles},
		{"add x.o --interface eth0,l|", "eth0,lo", noFiles},
		{"add x.o -i b|", "blue:eth0", noFiles},
		{"add x.o --lease |", "", noFiles},
		{"add x.o --mode |", "auto native generic", noFiles},
		{"add x.o --lifetime |", "daemon persistent lease", noFiles},
		{"add x.o --name |", "", noFiles},
		{"chain |", "blue:eth0 eth0 wlan0", noFiles},
		{"chain eth0 |", "blue:eth0 wlan0", noFiles},
		{"replace |", "blocklist dns-cache ratelimit sample", noFiles},
		{"replace sample |", "o", onlyExt},
		{"replace sample x.o |", "", noFiles},
		{"replace sample --share-maps-from b|", "blocklist", noFiles},
		{"replace sample --object-sha256 77|", "7711c0ffee00" + strings.Repeat("00", 26), noFiles},
		{"replace sample --set |", "", noFiles},
		{"rm blocklist --expect |", "blue:eth0=1 eth0=4 wlan0=1", noFiles},
		{"rm blocklist --expect eth0=4,w|", "eth0=4,wlan0=1", noFiles},
		{"rm blocklist --confirm-within |", "30s 60s 5m", noFiles},
		{"order |", "blue:eth0 eth0 wlan0", noFiles},
		{"order eth0 |", "blocklist ratelimit dns-cache sample", noFiles},
		{"order eth0 sample,b|", "sample,blocklist", noFiles},
		{"apply |", "", noFiles},
		{"apply -f |", "yaml yml json", onlyExt},
		{"history w|", "wlan0", noFiles},
		{"rollback |", "blue:eth0 eth0 wlan0", noFiles},
		{"rollback eth0 --to |", "4 3 2 1", noFiles},
		{"confirm |", "7 12", noFiles},
		{"cancel 1|", "12", noFiles},
		{"cancel 7 |", "", noFiles},
		{"maps s|", "sample", noFiles},
		{"watch |", "", noFiles},
		{"watch --resume |", "", noFiles},
		{"trace |", "blue:eth0 eth0 wlan0", noFiles},
		{"trace eth0 -r |", "pcap pcapng cap", onlyExt},
		{"trace eth0 --packet |", "", noFiles},
		{"chain -o |", "table json yaml", noFiles},
		{"ls r|", "ratelimit", noFiles},
		{"ls ratelimit |", "", noFiles},
		{"|", "add apply cancel chain completion confirm help history hold ls maps order replace " +
			"rm rollback set status trace version watch", noFiles},
	}
	for _, c := range cases {
		t.Run(c.line, func(t *testing.T) {
			words := strings.Split(strings.TrimSuffix(c.line, "|"), " ")
			got, directive := completions(t, f.socket, words...)
			if !slices.Equal(got, strings.Fields(c.want)) || directive != c.directive {
				t.Errorf("got %q %s, want %q %s", got, directive, c.want, c.directive)
			}
		})
	}
}

func TestCompletionWithoutDaemon(t *testing.T) {
	for _, words := range [][]string{{"rm", ""}, {"chain", ""}, {"set", "p", "--before", ""}, {"rm", "p", "--interface", ""}, {"confirm", ""}, {"order", "eth0", ""}} {
		if got, directive := completions(t, "/nonexistent", words...); len(got) != 0 || directive != ":4" {
			t.Errorf("%q: got %q %s, want nothing", words, got, directive)
		}
	}
}

func TestCompletionScripts(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish"} {
		if r := xdpctl(t, "/nonexistent", "completion "+shell, ""); r.status != exitDone || !strings.Contains(r.out, "__complete") {
			t.Errorf("%s: exit status %d, %d bytes", shell, r.status, len(r.out))
		}
	}
}
