// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

const (
	defaultFile = "/etc/xdpd/config.yaml"
	maxFile     = 1 << 20
)

// loadConfig reads a file; "" is the default file, which may be absent unless it is named. Errors begin with
// file and line and say what is allowed.
func loadConfig(file string, named bool) (config, error) {
	if !named {
		file = defaultFile
	}
	data, err := readBounded(file)
	if errors.Is(err, fs.ErrNotExist) && !named {
		return defaults(), nil
	}
	if err != nil {
		return config{}, fmt.Errorf("read the configuration: %w", err)
	}
	return parseConfig(file, data)
}

func readBounded(file string) ([]byte, error) {
	info, err := os.Stat(file)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxFile {
		return nil, fmt.Errorf("%s is not a regular file of at most %d bytes", file, maxFile)
	}
	return os.ReadFile(file)
}

// parseConfig walks the syntax tree itself instead of decoding into a struct: so every error has its line, and
// a mode such as 0660 stays the text that it was. The parser refuses a key that comes twice.
func parseConfig(file string, data []byte) (config, error) {
	tree, err := parser.ParseBytes(data, 0)
	var syntax *yaml.SyntaxError
	switch {
	case errors.As(err, &syntax) && syntax.Token != nil:
		return config{}, fmt.Errorf("%s:%d: %s", file, syntax.Token.Position.Line, syntax.Message)
	case err != nil:
		return config{}, fmt.Errorf("%s: %w", file, err)
	}
	cfg, documents := defaults(), 0
	for _, doc := range tree.Docs {
		if doc.Body == nil || doc.Body.Type() == ast.NullType {
			continue
		}
		line := doc.Body.GetToken().Position.Line
		if documents++; documents > 1 {
			return config{}, fmt.Errorf("%s:%d: a second document begins here; want one", file, line)
		}
		pairs, ok := doc.Body.(*ast.MappingNode)
		if !ok {
			return config{}, fmt.Errorf("%s:%d: want lines of the form \"key: value\"; %s", file, line, knownKeys())
		}
		for _, pair := range pairs.Values {
			if err := setPair(&cfg, pair); err != nil {
				return config{}, fmt.Errorf("%s:%d: %w", file, pair.Key.GetToken().Position.Line, err)
			}
		}
	}
	return cfg, nil
}

func setPair(cfg *config, pair *ast.MappingValueNode) error {
	name := pair.Key.GetToken().Value
	all := keys()
	i := slices.IndexFunc(all, func(k key) bool { return k.name == name })
	if i < 0 || pair.Key.Type() != ast.StringType {
		return fmt.Errorf("there is no key %q; %s", name, knownKeys())
	}
	value, ok := scalar(pair.Value)
	if !ok {
		return fmt.Errorf("%s: it has no plain value; it takes %s", name, all[i].allowed)
	}
	if err := all[i].set(cfg, value); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// scalar returns a value as it is written, without quotes.
func scalar(n ast.Node) (string, bool) {
	switch n := n.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		return n.GetToken().Value, true
	}
	return "", false
}

func knownKeys() string {
	var names []string
	for _, k := range keys() {
		names = append(names, k.name)
	}
	return "the keys are " + strings.Join(names, ", ")
}
