// SPDX-License-Identifier: Apache-2.0

package server

import (
	"fmt"

	"google.golang.org/protobuf/reflect/protoreflect"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
	"github.com/xdpd/xdpd/chain"
	"github.com/xdpd/xdpd/internal/control"
)

// invalid is the refusal of a field, named as a client writes it.
func invalid(field, format string, args ...any) error {
	return chain.Errorf(chain.InvalidArgument, chain.Facts{"field": field}, "%s: %s", field, fmt.Sprintf(format, args...))
}

func decodePosition(field string, p *xdpdv1.Position) (chain.Position, error) {
	if p == nil {
		return chain.Position{}, nil
	}
	switch place := p.GetPlace().(type) {
	case *xdpdv1.Position_First:
		if place.First {
			return chain.Position{First: true}, nil
		}
		return chain.Position{}, invalid(field+".first", "it can only be true; leave the position out for none")
	case *xdpdv1.Position_Last:
		if place.Last {
			return chain.Position{Last: true}, nil
		}
		return chain.Position{}, invalid(field+".last", "it can only be true; leave the position out for none")
	case *xdpdv1.Position_Before:
		return chain.Position{Before: place.Before}, given(field+".before", place.Before)
	case *xdpdv1.Position_After:
		return chain.Position{After: place.After}, given(field+".after", place.After)
	}
	return chain.Position{}, invalid(field, "give first, last, before or after, or leave it out")
}

func decodeProceedOn(field string, p *xdpdv1.ProceedOn) (*chain.ProceedOn, error) {
	if p == nil {
		return nil, nil //nolint:nilnil // nil stands for "not given"
	}
	if n := len(p.GetVerdicts()); n > maxVerdicts {
		return nil, invalid(field+".verdicts", "there are %d, at most %d are taken", n, maxVerdicts)
	}
	var set chain.ProceedOn
	for i, v := range p.GetVerdicts() {
		verdict, err := decodeVerdict(fmt.Sprintf("%s.verdicts[%d]", field, i), v)
		if err != nil {
			return nil, err
		}
		set |= chain.Of(verdict)
	}
	return &set, nil
}

func decodeVerdict(field string, v xdpdv1.Verdict) (chain.Verdict, error) {
	if v <= xdpdv1.Verdict_VERDICT_UNSPECIFIED || v > xdpdv1.Verdict_VERDICT_REDIRECT {
		return 0, invalid(field, "there is no verdict %d", v)
	}
	return chain.Verdict(v - xdpdv1.Verdict_VERDICT_ABORTED), nil
}

func decodeMode(field string, m xdpdv1.Mode) (chain.Mode, error) {
	switch m {
	case xdpdv1.Mode_MODE_UNSPECIFIED:
		return "", nil
	case xdpdv1.Mode_MODE_AUTO:
		return chain.Auto, nil
	case xdpdv1.Mode_MODE_NATIVE:
		return chain.Native, nil
	case xdpdv1.Mode_MODE_GENERIC:
		return chain.Generic, nil
	}
	return "", invalid(field, "there is no mode %d", m)
}

func decodeLifetime(field string, l xdpdv1.Lifetime) (control.Lifetime, error) {
	switch l {
	case xdpdv1.Lifetime_LIFETIME_UNSPECIFIED:
		return "", nil
	case xdpdv1.Lifetime_LIFETIME_DAEMON:
		return control.Daemon, nil
	case xdpdv1.Lifetime_LIFETIME_PERSISTENT:
		return control.Persistent, nil
	case xdpdv1.Lifetime_LIFETIME_LEASE:
		return control.Leased, nil
	}
	return "", invalid(field, "there is no lifetime %d", l)
}

// decodePlaces takes interfaces and patterns, each in its one spelling.
func decodePlaces(refs []string) ([]string, error) {
	if len(refs) > maxInterfaces {
		return nil, invalid("interfaces", "there are %d, at most %d are taken", len(refs), maxInterfaces)
	}
	if len(refs) == 0 {
		return nil, nil
	}
	places, seen := make([]string, len(refs)), make(map[string]int, len(refs))
	for i, ref := range refs {
		field := fmt.Sprintf("interfaces[%d]", i)
		place, err := decodePlace(field, ref)
		if err != nil {
			return nil, err
		}
		if before, twice := seen[place]; twice {
			return nil, invalid(field, "%q is interfaces[%d] already", place, before)
		}
		places[i], seen[place] = place, i
	}
	return places, nil
}

// decodeInterface takes one interface, in its one spelling.
func decodeInterface(field, ref string) (string, error) {
	iface, err := decodePlace(field, ref)
	if err == nil && chain.IsPattern(iface) {
		return "", invalid(field, "%q is a pattern; only the interfaces of AddProgram and RemoveProgram can be patterns, name one interface", iface)
	}
	return iface, err
}

func decodePlace(field, ref string) (string, error) {
	if err := given(field, ref); err != nil {
		return "", err
	}
	place := chain.CanonicalInterface(ref)
	if _, _, err := chain.ParseInterface(place); err != nil {
		return "", chain.Errorf(chain.InvalidArgument, chain.Facts{"field": field, "interface": ref}, "%s: %w", field, err)
	}
	return place, nil
}

func given(field, value string) error {
	if value == "" {
		return invalid(field, "it is empty")
	}
	return bounded(field, value)
}

func bounded(field, value string) error {
	if len(value) > maxString {
		return invalid(field, "it has %d bytes, at most %d are taken", len(value), maxString)
	}
	return nil
}

// entry names one entry of a map. The key is a client's, of any length.
func entry(field, key string) string { return fmt.Sprintf("%s[%q]", field, head(key, maxString)) }

// known refuses fields that this version does not know, in m and all below it. A newer client may rely on them
// to limit what a change does; to ignore them would do more than was asked for.
func known(m protoreflect.Message, in string) (err error) {
	if raw := m.GetUnknown(); len(raw) > 0 {
		where := "request"
		if in != "" {
			where = in
		}
		return invalid(where, "it has fields that this version of the daemon does not know; the client is newer")
	}
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		path := string(fd.Name())
		if in != "" {
			path = in + "." + path
		}
		switch {
		case fd.Message() == nil || fd.IsMap(): // the API has no maps of messages
		case fd.IsList():
			for i := range v.List().Len() {
				if err = known(v.List().Get(i).Message(), fmt.Sprintf("%s[%d]", path, i)); err != nil {
					return false
				}
			}
		default:
			err = known(v.Message(), path)
		}
		return err == nil
	})
	return err
}
