// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"maps"
	"math/big"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// document returns the body of the only document in data, which is YAML or JSON. What is read of a file is walked
// node by node and not decoded into structs: so each error has its line, and a number stays what it was.
func document(data []byte) (ast.Node, error) {
	tree, err := parser.ParseBytes(data, 0)
	var syntax *yaml.SyntaxError
	switch {
	case errors.As(err, &syntax) && syntax.Token != nil:
		return nil, fmt.Errorf("%d:%d: %s", syntax.Token.Position.Line, syntax.Token.Position.Column, syntax.Message)
	case err != nil:
		return nil, fmt.Errorf("1:1: %w", err)
	}
	var body ast.Node
	for _, doc := range tree.Docs {
		switch {
		case doc.Body == nil || doc.Body.Type() == ast.NullType:
		case body != nil:
			return nil, at(doc.Body, "a second document begins here; there may be one")
		default:
			body = doc.Body
		}
	}
	if body == nil {
		return nil, errors.New("1:1: there is nothing in it")
	}
	return body, nil
}

// at is an error that begins with line and column.
func at(n ast.Node, format string, args ...any) error {
	p := &token.Position{}
	if n != nil && n.GetToken() != nil {
		p = n.GetToken().Position
	}
	if pairs, ok := mappingPairs(n); ok && len(pairs) > 0 {
		p = pairs[0].Key.GetToken().Position // that of a mapping itself is its first colon
	}
	return fmt.Errorf("%d:%d: %s", p.Line, p.Column, fmt.Sprintf(format, args...))
}

// kind is what a node is, for errors.
func kind(n ast.Node) string {
	switch n.(type) {
	case nil, *ast.NullNode:
		return "nothing"
	case *ast.MappingNode, *ast.MappingValueNode:
		return "a mapping"
	case *ast.SequenceNode:
		return "a list"
	case *ast.AnchorNode, *ast.AliasNode, *ast.MergeKeyNode:
		return "an anchor, alias or merge key, which is not supported"
	case *ast.TagNode:
		return "a tag, which is not supported"
	}
	return strconv.Quote(n.GetToken().Value)
}

func mappingPairs(n ast.Node) (pairs []*ast.MappingValueNode, ok bool) {
	switch n := n.(type) {
	case *ast.MappingNode:
		return n.Values, true
	case *ast.MappingValueNode:
		return []*ast.MappingValueNode{n}, true
	}
	return nil, false
}

// eachPair calls f for each pair of a mapping; what says in errors what it is of.
func eachPair(n ast.Node, what string, f func(key string, pair *ast.MappingValueNode) error) error {
	pairs, ok := mappingPairs(n)
	if !ok {
		return at(n, "%s: want a mapping, here is %s", what, kind(n))
	}
	for _, pair := range pairs {
		key, err := textOf(pair.Key, "a key of "+what)
		if err != nil {
			return err
		}
		if err := f(key, pair); err != nil {
			return err
		}
	}
	return nil
}

// fields reads a mapping that has some of the keys of read, each into what its function does.
func fields(n ast.Node, what string, read map[string]func(value ast.Node, what string) error) error {
	return eachPair(n, what, func(key string, pair *ast.MappingValueNode) error {
		set, known := read[key]
		if !known {
			return at(pair.Key, "%s has no key %q; its keys are %s", what, key, strings.Join(slices.Sorted(maps.Keys(read)), ", "))
		}
		return set(pair.Value, what+"."+key)
	})
}

// eachElement calls f for each element of a list.
func eachElement(n ast.Node, what string, f func(ast.Node) error) error {
	list, ok := n.(*ast.SequenceNode)
	if !ok {
		return at(n, "%s: want a list, here is %s", what, kind(n))
	}
	for _, v := range list.Values {
		if err := f(v); err != nil {
			return err
		}
	}
	return nil
}

// textOf returns a scalar as it is written, without quotes: a name may look like a number.
func textOf(n ast.Node, what string) (string, error) {
	text := ""
	switch n := n.(type) {
	case *ast.StringNode:
		text = n.Value
	case *ast.LiteralNode:
		text = n.Value.Value
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		text = n.GetToken().Value
	default:
		return "", at(n, "%s: want text, here is %s", what, kind(n))
	}
	if text == "" {
		return "", at(n, "%s: the text is empty", what)
	}
	return text, nil
}

// oneOf returns a scalar that is one of some words.
func oneOf(n ast.Node, what string, words ...string) (string, error) {
	text, err := textOf(n, what)
	if err == nil && !slices.Contains(words, text) {
		err = at(n, "%s: it is one of %s, not %q", what, strings.Join(words, ", "), text)
	}
	return text, err
}

func boolOf(n ast.Node, what string) (bool, error) {
	b, ok := n.(*ast.BoolNode)
	if !ok {
		return false, at(n, "%s: want true or false, here is %s", what, kind(n))
	}
	return b.Value, nil
}

// wholeOf returns a whole number within bounds.
func wholeOf(n ast.Node, what string, low, high int64) (int64, error) {
	text, is, err := numberOf(n, what)
	if err != nil {
		return 0, err
	}
	v, err := strconv.ParseInt(text, 10, 64)
	if !is || err != nil || v < low || v > high {
		return 0, at(n, "%s: want a whole number from %d to %d, here is %s", what, low, high, kind(n))
	}
	return v, nil
}

// numberOf returns a number as JSON has it, digit by digit as it is written, and whether the node is one. Those that
// readers of YAML do not take for the same, such as 010, are errors.
func numberOf(n ast.Node, what string) (text string, is bool, err error) {
	switch n := n.(type) {
	case *ast.IntegerNode, *ast.FloatNode:
		is = true
	case *ast.StringNode:
		if n.Token.Type != token.StringType {
			return "", false, nil // in quotes
		}
	case *ast.InfinityNode, *ast.NanNode:
		return "", false, at(n, "%s: %s is no number that a program can have", what, n.GetToken().Value)
	default:
		return "", false, nil
	}
	text = n.GetToken().Value
	if regexp.MustCompile(`^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?$`).MatchString(text) {
		return text, true, nil
	}
	if regexp.MustCompile(`^-?0(x[0-9a-fA-F]+|o[0-7]+|b[01]+)$`).MatchString(text) {
		v, _ := new(big.Int).SetString(text, 0)
		return v.String(), true, nil
	}
	if is {
		return "", false, at(n, "%s: %s is not the same number to all readers of YAML: write it in decimal, or with 0x, 0o or 0b", what, text)
	}
	return "", false, nil
}

// jsonNode returns a scalar, or a list of what has JSON, as JSON.
func jsonNode(n ast.Node, what string) (string, error) {
	if list, ok := n.(*ast.SequenceNode); ok {
		parts := make([]string, len(list.Values))
		for i, v := range list.Values {
			var err error
			if parts[i], err = jsonNode(v, fmt.Sprintf("%s[%d]", what, i)); err != nil {
				return "", err
			}
		}
		return "[" + strings.Join(parts, ",") + "]", nil
	}
	if text, is, err := numberOf(n, what); is || err != nil {
		return text, err
	}
	switch n := n.(type) {
	case *ast.BoolNode:
		return strconv.FormatBool(n.Value), nil
	case *ast.StringNode:
		return jsonString(n.Value), nil
	case *ast.LiteralNode:
		return jsonString(n.Value.Value), nil
	}
	return "", at(n, "%s: want a number, text, true, false or a list, here is %s", what, kind(n))
}
