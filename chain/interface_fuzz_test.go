// SPDX-License-Identifier: Apache-2.0

package chain

import (
	"errors"
	"path"
	"strings"
	"testing"
)

// FuzzParseInterface says what holds of every reference that is taken, and of patterns.
func FuzzParseInterface(f *testing.F) {
	for _, ref := range []string{
		"eth0", "blue:eth0", "/run/netns/blue:eth0", "/var/run/netns/blue:eth0", "/proc/1/ns/net:lo", "a:b:eth0", ":eth0", "blue:", "..:x",
		"/a/../b:x", "a/b:x", "eth*", "blue:veth[0-9]?", "veth[", "[!a-c]*", "a\\*", "sixteen-bytes-xx", "x y", ".", "eth0\x00", "\xff:\xa0",
	} {
		f.Add(ref, "eth*")
		f.Add("blue:"+ref, "blue:"+ref)
	}
	f.Fuzz(func(t *testing.T, ref, pattern string) {
		netns, name, err := ParseInterface(ref)
		if err != nil {
			if !errors.Is(err, &Error{Reason: InvalidArgument}) {
				t.Fatalf("%q: %v", ref, err)
			}
			return
		}
		whole := name
		if netns != "" {
			whole = netns + ":" + name
		}
		if whole != ref || len(ref) > MaxInterface || strings.ContainsAny(name, "/: \t\n\x00") || name == "" {
			t.Errorf("%q is %q in %q", ref, name, netns)
		}
		if !IsPattern(ref) && len(name) > 15 || IsPattern(ref) != strings.ContainsAny(name, "*?[") {
			t.Errorf("%q, name %q: a pattern is %v", ref, name, IsPattern(ref))
		}
		same := CanonicalInterface(ref)
		if CanonicalInterface(same) != same {
			t.Errorf("%q is spelled %q, and that %q", ref, same, CanonicalInterface(same))
		}
		if _, its, err := ParseInterface(same); err != nil || its != name {
			t.Errorf("%q is spelled %q: %v", ref, same, err)
		}
		if !IsPattern(ref) && !strings.Contains(name, "\\") && !Match(ref, ref) {
			t.Errorf("%q does not match itself", ref)
		}
		if _, its, err := ParseInterface(pattern); err == nil && Match(pattern, ref) {
			if ok, err := path.Match(its, name); err != nil || !ok {
				t.Errorf("%q matches %q: %v", pattern, ref, err)
			}
		}
	})
}
