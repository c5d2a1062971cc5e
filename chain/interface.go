// SPDX-License-Identifier: Apache-2.0

package chain

import (
	"path"
	"strings"
)

// MaxInterface is how long the reference of an interface is at most: a name has up to 15 bytes.
const MaxInterface = 255

// runNetns is where iproute2 keeps named network namespaces.
const runNetns = "/run/netns/"

// ParseInterface takes the reference of an interface apart: NAME, in the daemon's network namespace (netns is then empty),
// or NETNS:NAME, in another one, which is the name of a file in /run/netns or an absolute path. Names of interfaces have no
// colon. In place of NAME there may be a pattern, see IsPattern. The error is InvalidArgument.
func ParseInterface(ref string) (netns, name string, err error) {
	bad := func(why string) error {
		return Errorf(InvalidArgument, Facts{"field": "interface", "interface": ref}, "%q cannot be an interface: %s", ref, why)
	}
	if len(ref) > MaxInterface {
		return "", "", bad("it is too long")
	}
	i := strings.LastIndexByte(ref, ':')
	if i < 0 {
		return "", ref, checkInterface(ref, bad)
	}
	netns, name = ref[:i], ref[i+1:]
	switch {
	case netns == "" || netns == "." || netns == "..":
		return "", "", bad("there is no network namespace before the colon")
	case strings.ContainsAny(netns, "\x00\n"):
		return "", "", bad("the network namespace has a zero byte or a new line")
	case strings.HasPrefix(netns, "/") && path.Clean(netns) != netns:
		return "", "", bad("the path of its network namespace is not in its shortest form, " + path.Clean(netns))
	case !strings.HasPrefix(netns, "/") && strings.Contains(netns, "/"):
		return "", "", bad("its network namespace is neither a name in /run/netns nor an absolute path")
	}
	return netns, name, checkInterface(name, bad)
}

// CanonicalInterface is the one spelling of a reference: a namespace in /run/netns by its name. What cannot be a reference stays.
func CanonicalInterface(ref string) string {
	i := strings.LastIndexByte(ref, ':')
	if i < 0 {
		return ref
	}
	netns := strings.TrimPrefix(ref[:i], "/var")
	if name, ok := strings.CutPrefix(netns, runNetns); ok && name != "" && !strings.Contains(name, "/") {
		return name + ref[i:]
	}
	return ref
}

// checkInterface knows the kernel's rule (dev_valid_name in net/core/dev.c), which also holds for patterns.
func checkInterface(name string, bad func(string) error) error {
	pattern := strings.ContainsAny(name, "*?[")
	switch {
	case name == "":
		return bad("its name is empty")
	case len(name) > 15 && !pattern:
		return bad("its name has more than 15 bytes")
	case name == "." || name == "..":
		return bad("the kernel does not allow the name")
	case strings.ContainsAny(name, "/ \t\n\v\f\r\x00"), strings.Contains(name, "\xa0"):
		return bad("its name has a slash, white space or a zero byte")
	}
	if _, err := path.Match(name, ""); pattern && err != nil {
		return bad("as a pattern it has a bracket that does not end")
	}
	return nil
}

// IsPattern tells whether a reference has a pattern in place of a name: it has one of * ? [.
func IsPattern(ref string) bool {
	return strings.ContainsAny(ref[strings.LastIndexByte(ref, ':')+1:], "*?[")
}

// Match tells whether an interface matches a pattern: the namespaces are the same, and the name matches as in a shell.
func Match(pattern, ref string) bool {
	i, j := strings.LastIndexByte(pattern, ':'), strings.LastIndexByte(ref, ':')
	if pattern[:i+1] != ref[:j+1] {
		return false
	}
	ok, err := path.Match(pattern[i+1:], ref[j+1:])
	return ok && err == nil
}
