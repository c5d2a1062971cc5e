// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/encoding/protojson"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/chain"
)

// Bounds of TestOutsider.
const (
	outsiderFiles      = 1000
	shortOutsiderFiles = 25
)

// outsider knows of a daemon what xdpctl said, and nothing else.
type outsider struct {
	*host
	draw
	dir  string
	said map[string]string // by interface, the chain of the latest answer with its revision
}

// TestOutsider applies files of chains drawn at random with the real xdpctl, most of them valid and many broken in some
// way. After each the daemon has what the latest answer said, and nothing else.
func TestOutsider(t *testing.T) {
	seed := rand.Uint64()
	if text := os.Getenv("XDPD_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("XDPD_SEED: %v", err)
		}
	}
	t.Logf("XDPD_SEED=%d", seed)
	o := &outsider{host: newHost(t, interfaces[1:]...), draw: newDraw(seed, 1, interfaces...), said: map[string]string{}}
	o.names = append(o.names, "i", "j", "k", "l")
	o.dir = o.host.dir
	for name, data := range map[string][]byte{"verdict.o": verdicts, "settable.o": settable, "broken.o": verdicts[:len(verdicts)/2], "text.o": []byte("no object\n")} {
		if err := os.WriteFile(filepath.Join(o.dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	o.start()
	files := outsiderFiles
	if testing.Short() {
		files = shortOutsiderFiles
	}
	began, tried, granted, changed := time.Now(), 0, 0, 0
	for ; tried < files || changed < files/10; tried++ { // else it says little
		answered, differs := o.apply()
		granted, changed = granted+answered, changed+differs
		if t.Failed() {
			t.Fatalf("after file %d", tried)
		}
		if tried%50 == 49 {
			o.learn()
			o.Check()
		}
	}
	t.Logf("%d files in %v: %d granted, of which %d changed something", tried, time.Since(began).Round(time.Millisecond), granted, changed)
	if granted > tried*9/10 {
		t.Error("hardly any file was refused: this says little")
	}
	o.learn()
	o.Check()
	o.stop(unix.SIGTERM)
}

// apply applies a file, takes in what xdpctl answers, and compares the daemon with it.
func (o *outsider) apply() (granted, changed int) {
	o.Helper()
	text := o.file()
	args := []string{"apply", "-f", "-", "-o", "json"}
	if dry := o.one(10); dry {
		args = append(args, "--dry-run")
	}
	r := o.runWith(text, "xdpctl", args...)
	switch r.code {
	case 0:
		var a xdpdv1.SetChainsResponse
		if err := protojson.Unmarshal([]byte(r.stdout), &a); err != nil {
			o.Fatalf("%v in %s", err, r.stdout)
		}
		granted = 1
		if a.GetChange().GetDryRun() {
			break
		}
		if a.GetChange().GetChanged() {
			changed = 1
		}
		for _, c := range a.GetChains() {
			o.said[c.GetInterface()] = spoken(c)
		}
	case 1:
		if r.stderr == "" || r.stdout != "" {
			o.Errorf("refused with %q and %q", r.stderr, r.stdout)
		}
	default:
		o.Errorf("xdpctl exits with %d: %s", r.code, r.stderr)
	}
	o.compare()
	if o.Failed() {
		o.Logf("exit %d\n%s%s\nfile:\n%s", r.code, r.stdout, r.stderr, text)
	}
	return granted, changed
}

// spoken is a chain as an answer tells of it; empty: there is none.
func spoken(c *xdpdv1.Chain) string {
	if len(c.GetMembers()) == 0 {
		return ""
	}
	return strconv.FormatUint(c.GetRevision(), 10) + " " + membersOf(c)
}

// compare looks that the daemon has the chains that were said, and the programs in them.
func (o *outsider) compare() {
	o.Helper()
	l := o.look()
	if len(l.status.GetProblems()) > 0 {
		o.Errorf("problems: %v", l.status.GetProblems())
	}
	have := map[string]string{}
	var members, programs []string
	for _, c := range l.chains {
		have[c.GetInterface()] = spoken(c)
		for _, m := range c.GetMembers() {
			members = append(members, m.GetProgram())
		}
	}
	for _, p := range l.programs {
		programs = append(programs, p.GetName())
	}
	slices.Sort(members)
	if members = slices.Compact(members); !slices.Equal(members, programs) {
		o.Errorf("there are programs %v, and members %v", programs, members)
	}
	for _, iface := range append([]string{nowhere}, o.interfaces...) {
		if have[iface] != o.said[iface] {
			o.Errorf("%s has %q, the latest answer said %q", iface, have[iface], o.said[iface])
		}
	}
}

// file is a file of chains, as YAML or JSON.
func (o *outsider) file() []byte {
	tree := o.tree()
	if o.one(4) {
		o.spoil(tree)
	}
	text, err := yaml.Marshal(tree)
	if o.one(3) {
		text, err = json.MarshalIndent(tree, "", "  ")
	}
	if err != nil {
		o.Fatal(err)
	}
	if o.one(10) {
		at := o.IntN(len(text))
		switch o.IntN(3) {
		case 0:
			text = slices.Delete(text, at, min(len(text), at+1+o.IntN(3)))
		case 1:
			text = slices.Insert(text, at, byte(o.pick(strings.Split("{ } [ ] : , - # & * ! | > ' \" % @ ` a 1 \n \t", " "))[0]))
		case 2:
			text = text[:at]
		}
	}
	return text
}

// tree is a request as a file says it.
func (o *outsider) tree() map[string]any {
	r := o.declaration(nil).(*xdpdv1.SetChainsRequest)
	programs, chains := map[string]any{}, map[string]any{}
	for _, p := range r.GetPrograms() {
		spec := map[string]any{"object": "sha256:" + p.GetObjectSha256()}
		if !o.one(4) {
			spec["object"] = filepath.Join(o.dir, map[string]string{verdictsSum: "verdict.o", settableSum: "settable.o", "": "verdict.o"}[p.GetObjectSha256()])
		}
		if f := p.GetFunction(); f != "" {
			spec["function"] = f
		}
		if l := p.GetLifetime(); l != xdpdv1.Lifetime_LIFETIME_UNSPECIFIED {
			spec["lifetime"] = map[xdpdv1.Lifetime]string{xdpdv1.Lifetime_LIFETIME_DAEMON: "daemon", xdpdv1.Lifetime_LIFETIME_PERSISTENT: "persistent"}[l]
		}
		if s := p.GetSettings(); s != nil {
			globals := map[string]any{}
			for name, value := range s.GetGlobals() {
				if n, err := strconv.Atoi(value); err == nil {
					globals[name] = n
				} else {
					globals[name] = strings.Trim(value, `"`)
				}
			}
			spec["globals"] = globals
			if len(s.GetMaxEntries()) > 0 {
				spec["max_entries"] = s.GetMaxEntries()
			}
			if s.GetShareMapsFrom() != "" {
				spec["share_maps_from"] = s.GetShareMapsFrom()
			}
		}
		programs[p.GetName()] = spec
	}
	for _, c := range r.GetChains() {
		chains[c.GetInterface()] = o.chainTree(c)
	}
	return map[string]any{"programs": programs, "chains": chains}
}

func (o *outsider) chainTree(c *xdpdv1.ChainSpec) map[string]any {
	members := []any{}
	for _, m := range c.GetMembers() {
		member := map[string]any{"program": m.GetProgram()}
		if m.Priority != nil {
			member["priority"] = m.GetPriority()
		}
		if m.Enabled != nil {
			member["enabled"] = m.GetEnabled()
		}
		if m.GetProceedOn() != nil {
			verdicts := []string{}
			for _, v := range m.GetProceedOn().GetVerdicts() {
				verdicts = append(verdicts, chain.Verdict(v-1).String())
			}
			member["proceed_on"] = verdicts
		}
		if len(member) == 1 && o.one(2) {
			members = append(members, m.GetProgram())
			continue
		}
		members = append(members, member)
	}
	tree := map[string]any{"members": members}
	if c.GetMode() != xdpdv1.Mode_MODE_UNSPECIFIED {
		tree["mode"] = string(modeOf(c.GetMode()))
	}
	if c.GetFinalVerdict() != xdpdv1.Verdict_VERDICT_UNSPECIFIED {
		tree["final"] = chain.Verdict(c.GetFinalVerdict() - 1).String()
	}
	return tree
}

// spoil makes something of a file wrong, or at least odd.
func (o *outsider) spoil(tree map[string]any) {
	programs, _ := tree["programs"].(map[string]any)
	chains, _ := tree["chains"].(map[string]any)
	some := func(of map[string]any) map[string]any {
		for _, name := range slices.Sorted(maps.Keys(of)) {
			if spec, ok := of[name].(map[string]any); ok && o.one(2) {
				return spec
			}
		}
		return map[string]any{}
	}
	odd := []any{nil, "", "nonsense", -1, 3e9, 1.5, true, []any{}, map[string]any{}, []any{"a", "a"}, "a", "../../etc/passwd", strings.Repeat("x", 300)}
	value := odd[o.IntN(len(odd))]
	switch o.IntN(8) {
	case 0:
		some(programs)["object"] = o.pick([]string{
			"nosuch.o", filepath.Join(o.dir, "text.o"), filepath.Join(o.dir, "broken.o"), o.dir, "sha256:" + strings.Repeat("0", 64), "sha256:12", "",
		})
	case 1:
		some(programs)[o.pick([]string{"object", "function", "lifetime", "globals", "max_entries", "share_maps_from", "map_group", "unknown"})] = value
	case 2:
		some(chains)[o.pick([]string{"mode", "final", "members", "unknown"})] = value
	case 3:
		if members, ok := some(chains)["members"].([]any); ok && len(members) > 0 {
			members[o.IntN(len(members))] = value
		}
	case 4:
		if members, ok := some(chains)["members"].([]any); ok && len(members) > 0 {
			if m, ok := members[o.IntN(len(members))].(map[string]any); ok {
				m[o.pick([]string{"program", "priority", "proceed_on", "enabled", "unknown"})] = value
			}
		}
	case 5:
		tree[o.pick([]string{"programs", "chains", "unknown"})] = value
	case 6:
		programs[o.pick([]string{"-", "", "stray", strings.Repeat("n", 64), "überall"})] = map[string]any{"object": filepath.Join(o.dir, "settable.o")}
	case 7:
		chains[o.pick([]string{"", "lo0", nowhere, "much-too-long-for-a-name", "xdev0 "})] = map[string]any{"members": []any{"a"}}
	}
}
