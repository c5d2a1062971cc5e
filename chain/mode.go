// SPDX-License-Identifier: Apache-2.0

package chain

// Mode is where in an interface's receive path its chain runs.
type Mode string

// The modes. The zero value is none of them.
const (
	Auto    Mode = "auto"    // native where the driver can, else generic
	Native  Mode = "native"  // in the driver
	Generic Mode = "generic" // in the network stack, on a socket buffer
)

// Valid tells whether m is one of the modes.
func (m Mode) Valid() bool { return m == Auto || m == Native || m == Generic }

// ParseMode returns the mode of that name: "auto", "native" or "generic".
func ParseMode(s string) (Mode, error) {
	if m := Mode(s); m.Valid() {
		return m, nil
	}
	return "", Errorf(InvalidArgument, Facts{"mode": printable(s)}, "unknown mode %q: use auto, native or generic", printable(s))
}
