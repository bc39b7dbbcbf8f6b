// SPDX-License-Identifier: Apache-2.0

package remoteclusters

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
)

// maxLine is the bytes of a line of metrics that is read. The lines that count are shorter: a name of 253 bytes at most.
const maxLine = 4 << 10

var errorsCounter = []byte("controller_sync_errors_total{")

// countErrors adds to each cluster of counts what istiod's metrics, in Prometheus' text format, count for it. It keeps one line
// in memory.
func countErrors(from io.Reader, counts map[string]float64) error {
	lines := bufio.NewReaderSize(from, maxLine)
	for {
		line, err := lines.ReadSlice('\n')
		if err == nil || errors.Is(err, io.EOF) {
			count(line, counts)
		}
		for errors.Is(err, bufio.ErrBufferFull) { // the rest of a long line
			_, err = lines.ReadSlice('\n')
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("the metrics end early: %w", err)
		}
	}
}

// count adds the value of a line such as
//
//	controller_sync_errors_total{cluster="cluster-2"} 5
//
// A name that needs escapes is none of a cluster, so that escapes are skipped, not decoded.
func count(line []byte, counts map[string]float64) {
	rest, ok := bytes.CutPrefix(line, errorsCounter)
	var cluster []byte
	for ok && len(rest) > 0 && rest[0] != '}' {
		var name, text []byte
		if name, text, rest, ok = label(rest); string(name) == "cluster" {
			cluster = text
		}
	}
	sum, listed := counts[string(cluster)]
	if !ok || len(rest) == 0 || !listed {
		return
	}
	text, _, _ := bytes.Cut(bytes.TrimSpace(rest[1:]), []byte(" ")) // a time may follow
	value, err := strconv.ParseFloat(string(text), 64)
	if err == nil && value >= 0 && !math.IsInf(value, 0) { // NaN is not >= 0
		counts[string(cluster)] = sum + value
	}
}

// label cuts name="value" and the comma after it from the start of a list of labels.
func label(list []byte) (name, value, rest []byte, ok bool) {
	name, rest, ok = bytes.Cut(list, []byte(`="`))
	if !ok {
		return nil, nil, nil, false
	}
	for i := 0; i < len(rest); i++ {
		switch rest[i] {
		case '\\':
			i++
		case '"':
			return bytes.TrimSpace(name), rest[:i], bytes.TrimLeft(rest[i+1:], ", "), true
		}
	}
	return nil, nil, nil, false
}
