// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"

	xdpdv1 "github.com/xdpd/xdpd/api/proto/xdpd/v1"
)

const settingsHelp = `--set gives a global variable of the program its value before the program is loaded. VALUE is JSON: a number,
true, false, "text" for an array of characters, a list for another array. What is no JSON is taken as text, so
that 0x10 and eth0 need no quotes. The type of the variable must fit.`

// settingsFlags is the flags for what is set of a program before it is loaded, and for its object by sha256.
type settingsFlags struct {
	set, maxEntries          []string
	shareFrom, group, object string
}

// register adds the flags to a command.
func (o *settingsFlags) register(cmd *cobra.Command, a *app) {
	f := cmd.Flags()
	f.StringVar(&o.object, "object-sha256", "", "in place of OBJECT.o: one that the daemon has, for a program or its history; `S` is in hex")
	f.StringArrayVar(&o.set, "set", nil, "the value of a global variable: `NAME=VALUE`; may be repeated")
	f.StringArrayVar(&o.maxEntries, "max-entries", nil, "how many entries a map has: `MAP=N`; may be repeated")
	f.StringVar(&o.shareFrom, "share-maps-from", "", "use the maps of the same names of program `P`")
	f.StringVar(&o.group, "map-group", "", "a group `G`, by name or number, that may open the pins of the maps")
	complete(cmd, "object-sha256", a.objects)
	complete(cmd, "share-maps-from", a.programs)
	for _, name := range []string{"set", "max-entries", "map-group"} {
		complete(cmd, name, fixed())
	}
}

// settings returns nil where no flag sets anything.
func (o *settingsFlags) settings(cmd *cobra.Command) (*xdpdv1.ProgramSettings, error) {
	if err := filled(cmd, "share-maps-from", "map-group"); err != nil {
		return nil, err
	}
	s := &xdpdv1.ProgramSettings{ShareMapsFrom: o.shareFrom, MapGroup: o.group}
	for _, arg := range o.set {
		name, value, ok := strings.Cut(arg, "=")
		if !ok || name == "" {
			return nil, fmt.Errorf("--set takes NAME=VALUE, such as limit=10; it cannot be %q", arg)
		}
		if _, twice := s.GetGlobals()[name]; twice {
			return nil, fmt.Errorf("--set gives %s twice", name)
		}
		if !utf8.ValidString(value) {
			return nil, fmt.Errorf("--set %s: the value is not UTF-8", name)
		}
		if s.Globals == nil {
			s.Globals = map[string]string{}
		}
		s.Globals[name] = jsonOf(value)
	}
	for _, arg := range o.maxEntries {
		name, value, _ := strings.Cut(arg, "=")
		n, err := strconv.ParseUint(value, 0, 32)
		if err != nil || name == "" {
			return nil, fmt.Errorf("--max-entries takes MAP=N, such as flows=4096; it cannot be %q", arg)
		}
		if _, twice := s.GetMaxEntries()[name]; twice {
			return nil, fmt.Errorf("--max-entries gives %s twice", name)
		}
		if s.MaxEntries == nil {
			s.MaxEntries = map[string]uint32{}
		}
		s.MaxEntries[name] = uint32(n)
	}
	if len(s.Globals) == 0 && len(s.MaxEntries) == 0 && s.ShareMapsFrom == "" && s.MapGroup == "" {
		return nil, nil
	}
	return s, nil
}

// jsonOf returns text that is JSON without its white space, and other text as a JSON string.
func jsonOf(text string) string {
	var b bytes.Buffer
	if json.Compact(&b, []byte(text)) == nil && b.Len() > 0 {
		return b.String()
	}
	return jsonString(text)
}

// jsonString is text, which is UTF-8, as a JSON string.
func jsonString(text string) string {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	_ = e.Encode(text) // of a string there is no error
	return strings.TrimSuffix(b.String(), "\n")
}

// sum returns the sha256 of the object, in lower case, as the flag gives it, or "".
func (o *settingsFlags) sum(cmd *cobra.Command) (string, error) {
	if err := filled(cmd, "object-sha256"); err != nil || o.object == "" {
		return "", err
	}
	sum, ok := sha256Of(strings.TrimPrefix(o.object, "sha256:"))
	if !ok {
		return "", fmt.Errorf("--object-sha256 is the 64 hex digits of a sha256; it cannot be %q", o.object)
	}
	return sum, nil
}

// sha256Of returns the 64 hex digits of a sha256 in lower case.
func sha256Of(s string) (sum string, ok bool) {
	sum = strings.ToLower(s)
	return sum, regexp.MustCompile(`^[0-9a-f]{64}$`).MatchString(sum)
}
