// SPDX-License-Identifier: Apache-2.0

package failpoint

import (
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"strconv"
	"testing"
)

// TestAllHasEveryPoint reads the constants from the source, so that a new one cannot be missed in All and Reload.
func TestAllHasEveryPoint(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "failpoint.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	ast.Inspect(file, func(n ast.Node) bool {
		if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
			name, err := strconv.Unquote(lit.Value)
			if err != nil {
				t.Fatal(err)
			}
			names = append(names, name)
		}
		return true
	})
	all := slices.Concat(All[:], Reload[:])
	slices.Sort(all)
	slices.Sort(names)
	if !slices.Equal(all, names) || len(slices.Compact(all)) != len(names) {
		t.Errorf("All and Reload are %q, the constants are %q", all, names)
	}
}
