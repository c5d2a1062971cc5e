// SPDX-License-Identifier: Apache-2.0

package dispatcher

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/cilium/ebpf/btf"
)

// maxNesting bounds how deep arrays of arrays are followed.
const maxNesting = 8

// encodeValue writes the JSON text as a value of type t over all of out, which has the type's size and is zero.
//
//	integers      numbers without fraction or exponent, or text in any base of C: "0x10", "010"
//	bool          true and false
//	enum          like integers, or the name of an enumerator
//	arrays        lists; what they leave out at the end is zero
//	char arrays   also text, which leaves room for a NUL at its end
func encodeValue(out []byte, order binary.ByteOrder, t btf.Type, text string) error {
	if !utf8.ValidString(text) || !json.Valid([]byte(text)) {
		return errors.New("the value is not JSON")
	}
	p := valueParser{json.NewDecoder(strings.NewReader(text)), order}
	p.in.UseNumber()
	token, err := p.in.Token()
	if err != nil {
		return err
	}
	return p.value(out, t, token, maxNesting)
}

// valueParser reads valid JSON token by token, as deep as types go.
type valueParser struct {
	in    *json.Decoder
	order binary.ByteOrder
}

// value writes what begins with token.
func (p valueParser) value(out []byte, t btf.Type, token json.Token, nesting int) error {
	switch u := btf.UnderlyingType(t).(type) {
	case *btf.Int:
		if u.Encoding&btf.Bool != 0 {
			return p.boolean(out, token)
		}
		return p.integer(out, u.Encoding&btf.Signed != 0, token)
	case *btf.Enum:
		return p.enum(out, u, token)
	case *btf.Array:
		if nesting == 0 {
			return errors.New("its type is nested too deep")
		}
		if text, ok := token.(string); ok && isChar(u.Type) {
			return characters(out, text)
		}
		return p.list(out, u, token, nesting-1)
	case *btf.Float:
		return errors.New("floating-point variables cannot be set")
	default:
		return errors.New("only integers, bool, enums and arrays of these can be set")
	}
}

func (p valueParser) list(out []byte, array *btf.Array, token json.Token, nesting int) error {
	if token != json.Delim('[') {
		want := "a list"
		if isChar(array.Type) {
			want = "text or a list"
		}
		return fmt.Errorf("%s is given, %s is needed", tokenName(token), want)
	}
	size, err := btf.Sizeof(array.Type)
	if err != nil {
		return err
	}
	for i := 0; ; i++ {
		token, err := p.in.Token()
		if err != nil {
			return err
		}
		if token == json.Delim(']') {
			return nil
		}
		if int64(i) >= int64(array.Nelems) || (i+1)*size > len(out) {
			return fmt.Errorf("the list is too long, there is room for %d", array.Nelems)
		}
		if err := p.value(out[i*size:(i+1)*size], array.Type, token, nesting); err != nil {
			return fmt.Errorf("element %d: %w", i, err)
		}
	}
}

// isChar tells whether arrays of a type may be given as text.
func isChar(t btf.Type) bool {
	u, ok := btf.UnderlyingType(t).(*btf.Int)
	return ok && u.Size == 1 && u.Encoding&btf.Bool == 0
}

func characters(out []byte, text string) error {
	if strings.IndexByte(text, 0) >= 0 {
		return errors.New("the text has a NUL in it")
	}
	if len(text) >= len(out) {
		return fmt.Errorf("the text of %d bytes is too long, there is room for %d and a NUL", len(text), max(len(out)-1, 0))
	}
	copy(out, text)
	return nil
}

func (p valueParser) boolean(out []byte, token json.Token) error {
	value, ok := token.(bool)
	if !ok || len(out) != 1 {
		return fmt.Errorf("%s is given, true or false is needed", tokenName(token))
	}
	if value {
		out[0] = 1
	}
	return nil
}

func (p valueParser) enum(out []byte, enum *btf.Enum, token json.Token) error {
	names, signed := make([]string, len(enum.Values)), enum.Signed
	for i, v := range enum.Values {
		if v.Name == token {
			return p.put(out, v.Value)
		}
		names[i] = v.Name
		// Before version 15, clang does not say which enums are signed.
		if len(out) == 4 && v.Value >= 1<<31 && strings.HasPrefix(fmt.Sprint(token), "-") {
			signed = true
		}
	}
	if err := p.integer(out, signed, token); err != nil {
		return fmt.Errorf("%w; names are %s", err, list(names))
	}
	return nil
}

// integer takes a number, or a text as C has it.
func (p valueParser) integer(out []byte, signed bool, token json.Token) error {
	var text string
	base := 10
	switch token := token.(type) {
	case json.Number:
		text = token.String()
	case string:
		// Go takes more than C: 1_000, 0o17 and signs of all kinds.
		if strings.ContainsAny(token, "_oO+") {
			return fmt.Errorf("%q is not an integer", token)
		}
		text, base = token, 0
	default:
		return fmt.Errorf("%s is given, an integer is needed", tokenName(token))
	}
	bits := 8 * len(out)
	var value uint64
	var err error
	switch {
	case bits < 8 || bits > 64:
		return fmt.Errorf("integers of %d bytes cannot be set", len(out))
	case signed:
		var v int64
		v, err = strconv.ParseInt(text, base, bits)
		value = uint64(v)
	case strings.HasPrefix(text, "-"):
		if _, err = strconv.ParseInt(text, base, 64); err == nil {
			err = strconv.ErrRange
		}
	default:
		value, err = strconv.ParseUint(text, base, bits)
	}
	if errors.Is(err, strconv.ErrRange) {
		lowest, highest := intRange(uint32(len(out)), signed)
		return fmt.Errorf("%s is out of range, which is %d to %d", text, lowest, highest)
	}
	if err != nil {
		return fmt.Errorf("%q is not an integer", text)
	}
	return p.put(out, value)
}

// put writes the low bytes of an integer.
func (p valueParser) put(out []byte, value uint64) error {
	switch len(out) {
	case 1:
		out[0] = byte(value)
	case 2:
		p.order.PutUint16(out, uint16(value))
	case 4:
		p.order.PutUint32(out, uint32(value))
	case 8:
		p.order.PutUint64(out, value)
	default:
		return fmt.Errorf("integers of %d bytes cannot be set", len(out))
	}
	return nil
}

// tokenName says what a token begins.
func tokenName(token json.Token) string {
	switch token := token.(type) {
	case json.Delim:
		if token == '[' {
			return "a list"
		}
		return "an object"
	case json.Number:
		return "the number " + token.String()
	case string:
		return "a text"
	case bool:
		return strconv.FormatBool(token)
	}
	return "null"
}
