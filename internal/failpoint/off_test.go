// SPDX-License-Identifier: Apache-2.0

//go:build !failpoint

package failpoint

import (
	"slices"
	"testing"
)

func TestNothingHappensWithoutTheTag(t *testing.T) {
	for _, name := range slices.Concat(All[:], Reload[:]) {
		t.Setenv("XDPD_FAILPOINT", name+"=panic")
		Hit(name)
		if err := Err(name); err != nil || Enabled {
			t.Errorf("%s: %v", name, err)
		}
	}
}
