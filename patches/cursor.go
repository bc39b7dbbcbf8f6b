// SPDX-License-Identifier: Apache-2.0

package patches

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
)

// cursor walks JSON text once, from left to right. The engine looks at a few
// places of an object that may be large, for every admission of istiod; a
// decoder would build all of it, and a path query would read it again for each
// place. What is skipped is not checked: the API machinery has decoded it
// before. Text that is not JSON where it is looked at ends the walk.
type cursor struct {
	text []byte
	at   int
	err  error
}

var errNotJSON = errors.New("not JSON")

// object calls each with every key; each may walk the value, else it is skipped.
func (c *cursor) object(visit func(key []byte)) {
	if c.peek() != '{' {
		c.skip()
		return
	}
	c.at++
	for c.err == nil && c.peek() != '}' {
		key := c.string()
		c.expect(':')
		c.value(func() { visit(key) })
		if c.peek() != '}' {
			c.expect(',')
		}
	}
	c.at++
}

// array calls each at every entry; each may walk the entry, else it is skipped.
func (c *cursor) array(visit func()) {
	if c.peek() != '[' {
		c.skip()
		return
	}
	c.at++
	for c.err == nil && c.peek() != ']' {
		c.value(visit)
		if c.peek() != ']' {
			c.expect(',')
		}
	}
	c.at++
}

func (c *cursor) value(walk func()) {
	c.peek()
	start := c.at
	walk()
	if c.err == nil && c.at == start {
		c.skip()
	}
}

// string reads a string; of any other value it is empty. It is a part of the
// text where that holds no escapes, so that comparing it costs no copy.
func (c *cursor) string() []byte {
	if c.peek() != '"' {
		c.skip()
		return nil
	}
	raw := c.skip()
	if c.err != nil {
		return nil
	}
	if bytes.IndexByte(raw, '\\') < 0 {
		return raw[1 : len(raw)-1]
	}
	var decoded string
	if json.Unmarshal(raw, &decoded) != nil {
		c.fail()
	}
	return []byte(decoded)
}

// skip reads over a value and answers with its text.
func (c *cursor) skip() []byte {
	c.peek()
	start, depth := c.at, 0
	for c.err == nil && c.at < len(c.text) {
		switch c.text[c.at] {
		case '"':
			c.skipString()
		case '{', '[':
			depth++
			c.at++
		case '}', ']':
			depth--
			c.at++
		default:
			c.at++
			if depth == 0 {
				c.skipLiteral()
			}
		}
		if depth <= 0 {
			break
		}
	}
	if c.err != nil || depth != 0 || c.at == start {
		c.fail()
		return nil
	}
	return c.text[start:c.at]
}

func (c *cursor) skipString() {
	for c.at++; ; c.at++ {
		length := bytes.IndexByte(c.text[c.at:], '"')
		if length < 0 {
			c.fail()
			return
		}
		escapes := 0
		for escapes < length && c.text[c.at+length-1-escapes] == '\\' {
			escapes++
		}
		c.at += length
		if escapes%2 == 0 {
			c.at++
			return
		}
	}
}

// skipLiteral reads on to the end of a number, true, false or null.
func (c *cursor) skipLiteral() {
	for c.at < len(c.text) && strings.IndexByte(",]} \t\r\n", c.text[c.at]) < 0 {
		c.at++
	}
}

// peek skips white space and shows the next byte, 0 at the end.
func (c *cursor) peek() byte {
	for c.err == nil && c.at < len(c.text) {
		switch c.text[c.at] {
		case ' ', '\t', '\r', '\n':
			c.at++
		default:
			return c.text[c.at]
		}
	}
	c.fail()
	return 0
}

func (c *cursor) expect(b byte) {
	if c.peek() == b {
		c.at++
	} else {
		c.fail()
	}
}

func (c *cursor) fail() { c.err = errNotJSON }
