// SPDX-License-Identifier: Apache-2.0

package chain

import (
	"encoding/json"
	"fmt"
	"math/bits"
	"strings"
)

// Verdict is the return code of an XDP program, with the kernel's numbers (enum xdp_action, linux/bpf.h).
type Verdict uint32

// The verdicts that the kernel knows, and Continue, which the dispatcher knows.
const (
	Aborted  Verdict = 0
	Drop     Verdict = 1
	Pass     Verdict = 2
	Tx       Verdict = 3
	Redirect Verdict = 4
	Continue Verdict = 31 // proceeds always; the same number as libxdp's XDP_DISPATCHER_RETVAL
)

// verdictName gives a verdict its name, or "".
func verdictName(v Verdict) string {
	switch v {
	case Aborted:
		return "aborted"
	case Drop:
		return "drop"
	case Pass:
		return "pass"
	case Tx:
		return "tx"
	case Redirect:
		return "redirect"
	case Continue:
		return "continue"
	}
	return ""
}

// String returns the verdict's name, such as "pass", or "unknown(7)".
func (v Verdict) String() string {
	if name := verdictName(v); name != "" {
		return name
	}
	return fmt.Sprintf("unknown(%d)", uint32(v))
}

// ParseVerdict returns the verdict of that name: "aborted", "drop", "pass", "tx", "redirect" or "continue".
func ParseVerdict(s string) (Verdict, error) {
	for v := Aborted; v <= Continue; v++ {
		if s != "" && s == verdictName(v) {
			return v, nil
		}
	}
	return 0, Errorf(InvalidArgument, Facts{"verdict": printable(s)},
		"unknown verdict %q: use aborted, drop, pass, tx, redirect or continue", printable(s))
}

// MarshalText returns the verdict's name; an error if it has none.
func (v Verdict) MarshalText() ([]byte, error) {
	if name := verdictName(v); name != "" {
		return []byte(name), nil
	}
	return nil, fmt.Errorf("verdict %d has no name", uint32(v))
}

// UnmarshalText is ParseVerdict.
func (v *Verdict) UnmarshalText(text []byte) error {
	parsed, err := ParseVerdict(string(text))
	if err == nil {
		*v = parsed
	}
	return err
}

// ProceedOn is a set of verdicts, bit v standing for verdict v. Bit 31 (Continue) counts as set always.
type ProceedOn uint32

// proceedOnBits are the bits that a valid set can have.
const proceedOnBits ProceedOn = 1<<Aborted | 1<<Drop | 1<<Pass | 1<<Tx | 1<<Redirect | 1<<Continue

// Of returns the set of these verdicts. Continue is in every set, so that giving it changes nothing; verdicts
// above 31 are left out.
func Of(verdicts ...Verdict) ProceedOn {
	var p ProceedOn
	for _, v := range verdicts {
		p |= 1 << v
	}
	return p.normal()
}

// normal returns the set as Of makes it, without the bit that counts as set always.
func (p ProceedOn) normal() ProceedOn { return p &^ (1 << Continue) }

// Has tells whether a chain goes on after the verdict.
func (p ProceedOn) Has(v Verdict) bool {
	return v == Continue || p&(1<<v) != 0
}

// Valid tells whether only verdicts that the kernel knows, and Continue, are set.
func (p ProceedOn) Valid() bool { return p&^proceedOnBits == 0 }

// Verdicts returns the verdicts of the set in ascending order, without Continue.
func (p ProceedOn) Verdicts() []Verdict {
	verdicts := make([]Verdict, 0, bits.OnesCount32(uint32(p)))
	for v := range Continue {
		if p&(1<<v) != 0 {
			verdicts = append(verdicts, v)
		}
	}
	return verdicts
}

// String returns the names in ascending order, such as "pass,tx", or "none". ParseProceedOn reads it.
func (p ProceedOn) String() string {
	verdicts := p.Verdicts()
	if len(verdicts) == 0 {
		return "none"
	}
	names := make([]string, len(verdicts))
	for i, v := range verdicts {
		names[i] = v.String()
	}
	return strings.Join(names, ",")
}

// ParseProceedOn reads names of verdicts with commas between them, in any order, or "none". Spaces around a
// name do not count.
func ParseProceedOn(s string) (ProceedOn, error) {
	if strings.TrimSpace(s) == "none" {
		return 0, nil
	}
	var p ProceedOn
	for name := range strings.SplitSeq(s, ",") {
		v, err := ParseVerdict(strings.TrimSpace(name))
		if err != nil {
			return 0, Errorf(InvalidArgument, Facts{"verdict": printable(name)},
				"proceed-on set %q: %w; write names with commas between them, or none", printable(s), err)
		}
		p |= Of(v)
	}
	return p, nil
}

// MarshalJSON writes a list of names; an error if the set is not valid.
func (p ProceedOn) MarshalJSON() ([]byte, error) {
	return json.Marshal(p.Verdicts())
}

// UnmarshalJSON reads a list of names.
func (p *ProceedOn) UnmarshalJSON(data []byte) error {
	var verdicts []Verdict
	if err := json.Unmarshal(data, &verdicts); err != nil {
		return fmt.Errorf("read a proceed-on set: %w", err)
	}
	*p = Of(verdicts...)
	return nil
}
