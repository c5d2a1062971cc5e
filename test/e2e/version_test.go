// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"slices"
	"strconv"
	"strings"

	"github.com/xdpd/xdpd/chain"
)

// verdicts is the object whose functions are named after the verdict that they always have; settable has one function,
// chosen, whose verdict is a global variable. Both count in a map runs, which has the same shape.
var (
	//go:embed testdata/verdict.bpf.o
	verdicts []byte
	//go:embed testdata/settable.bpf.o
	settable []byte
)

var verdictOf = map[string]chain.Verdict{
	"pass": chain.Pass, "drop": chain.Drop, "tx": chain.Tx, "aborted": chain.Aborted, "goon": chain.Continue, "plain": chain.Continue,
}

// sums are the sha256 of the objects that the model knows.
var verdictsSum, settableSum = sumOf(verdicts), sumOf(settable)

func sumOf(object []byte) string {
	sum := sha256.Sum256(object)
	return hex.EncodeToString(sum[:])
}

// functionsOf are the functions of an object; none: it is not known.
func functionsOf(sum string) []string {
	switch sum {
	case verdictsSum:
		return []string{"aborted", "drop", "goon", "pass", "plain", "tx"}
	case settableSum:
		return []string{"chosen"}
	}
	return nil
}

// verdict is what a version returns for every packet.
func (p program) verdict() chain.Verdict {
	if p.object != settableSum {
		return verdictOf[p.function]
	}
	if value, set := p.settings.Globals["verdict"]; set {
		return chain.Verdict(must(numberOf(value)))
	}
	return chain.Pass
}

// numberOf is the value of a global variable, which may be text in quotes.
func numberOf(value string) (uint64, error) {
	return strconv.ParseUint(strings.Trim(value, `"`), 0, 32)
}

// counts tells whether a version has a map runs.
func (p program) counts() bool {
	return functionsOf(p.object) != nil && p.function != "plain"
}

// entries are those of the map runs.
func (p program) entries() uint32 {
	if n, set := p.settings.MaxEntries["runs"]; set {
		return n
	}
	return 1
}

// parsed looks whether a version can be loaded as far as its object says. A function that is not named is the one in
// p, or the only one of the object.
func (p program) parsed(function string) (program, error) {
	all := functionsOf(p.object)
	switch {
	case function != "":
		p.function = function
	case len(all) == 1 && !slices.Contains(all, p.function):
		p.function = all[0]
	}
	if all != nil && !slices.Contains(all, p.function) {
		return p, refusal(chain.FunctionNotFound)
	}
	for name := range p.settings.MaxEntries {
		if name != "runs" || !p.counts() {
			return p, refusal(chain.MapInvalid)
		}
	}
	for name, value := range p.settings.Globals {
		if _, err := numberOf(value); err != nil || name != "verdict" || p.object != settableSum {
			return p, refusal(chain.GlobalInvalid)
		}
	}
	return p, nil
}

// newRuns is a new map runs for a version, which starts at 0; none, if it has no such.
func (m *model) newRuns(p program) int {
	if !p.counts() {
		return 0
	}
	m.number++
	m.runs[m.number] = counter{entries: p.entries()}
	return m.number
}

// load loads a version in place of old, if there was one. from is the version whose maps it is to share; its load is 0 if
// that is gone. origin says where its map runs comes from.
func (m *model) load(p program, old, from *program, w wanted) (_ program, origin string, err error) {
	m.number++
	p.load, p.runs = m.number, 0
	own := p.counts()
	switch {
	case p.settings.ShareMapsFrom == "" || from == nil && w.lenient:
	case from == nil:
		return p, "", refusal(chain.ProgramNotFound)
	case !own || from.runs == 0 || m.runs[from.runs].entries != p.entries():
		if !w.lenient {
			return p, "", refusal(chain.MapInvalid)
		}
	default:
		p.runs = from.runs
		return p, "shared", nil
	}
	if !own {
		return p, "", nil
	}
	if old != nil && old.runs != 0 && !w.fresh && m.runs[old.runs].entries == p.entries() {
		p.runs = old.runs
		return p, "carried", nil
	}
	p.runs = m.newRuns(p)
	return p, "new", nil
}

// refusal is what the daemon answers to what it does not do.
func refusal(r chain.Reason) error { return chain.Errorf(r, nil, "%s", r) }
