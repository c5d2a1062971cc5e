// SPDX-License-Identifier: Apache-2.0

//go:build !failpoint

package failpoint

// Enabled tells whether the build has failpoints.
const Enabled = false

// Hit marks that the point name is reached, where nothing can be returned.
func Hit(name string) {}

// Err marks that the point name is reached, and returns the error that a test asked for. Call one of Hit and
// Err at a place, not both: each counts.
func Err(name string) error { return nil }
