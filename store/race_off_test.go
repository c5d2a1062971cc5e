// SPDX-License-Identifier: Apache-2.0

//go:build !race

package store

// rarely is explained in race_on_test.go.
const rarely = 1
