// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/chain"
)

// reasonsOf are those that a refusal can have.
func reasonsOf(err error) (reasons []xdpdv1.ErrorReason) {
	var one *chain.Error
	if several, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range several.Unwrap() {
			reasons = append(reasons, reasonsOf(e)...)
		}
	} else if errors.As(err, &one) {
		reasons = append(reasons, xdpdv1.ErrorReason(xdpdv1.ErrorReason_value["ERROR_REASON_"+string(one.Reason)]))
	}
	return reasons
}

func setOf(p *xdpdv1.ProceedOn) chain.ProceedOn {
	var set chain.ProceedOn
	for _, v := range p.GetVerdicts() {
		set |= chain.Of(chain.Verdict(v - 1))
	}
	return set
}

func positionOf(p *xdpdv1.Position) chain.Position {
	return chain.Position{First: p.GetFirst(), Last: p.GetLast(), Before: p.GetBefore(), After: p.GetAfter()}
}

func modeOf(m xdpdv1.Mode) chain.Mode {
	switch m {
	case xdpdv1.Mode_MODE_AUTO:
		return chain.Auto
	case xdpdv1.Mode_MODE_NATIVE:
		return chain.Native
	case xdpdv1.Mode_MODE_GENERIC:
		return chain.Generic
	}
	return ""
}

func settingsOf(s *xdpdv1.ProgramSettings) chain.Settings {
	return chain.Settings{Globals: s.GetGlobals(), MaxEntries: s.GetMaxEntries(), ShareMapsFrom: s.GetShareMapsFrom(), MapGroup: s.GetMapGroup()}
}
