// SPDX-License-Identifier: Apache-2.0

// Package leaktest fails the tests of a package that leave goroutines behind.
//
// It imports goleak, which finds them but gives them half a second only: on a busy host, one that is about to end takes
// longer now and then.
package leaktest

import (
	"fmt"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// patience is how long goroutines have to end.
const patience = time.Minute

// Main is the TestMain of a package: it runs the tests, and ends the process.
func Main(m *testing.M) {
	code := m.Run()
	if code == 0 {
		if err := Find(); err != nil {
			fmt.Fprintln(os.Stderr, "the tests left behind:", err)
			code = 1
		}
	}
	os.Exit(code)
}

// Find returns an error that names the goroutines which do not end, apart from the calling one.
func Find() error {
	for deadline := time.Now().Add(patience); ; {
		if err := goleak.Find(); err == nil || time.Now().After(deadline) {
			return err
		}
	}
}
