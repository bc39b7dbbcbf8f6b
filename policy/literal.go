// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// literal is CEL text for a decoded JSON value: nil, a bool, an int64 or float64, text, and lists and maps of these.
//
// Text is encoded as JSON, which is a CEL string too: both have the same escapes, and JSON leaves neither a quote nor a
// backslash nor a control character below U+0020 as it is (RFC 8259, section 7; CEL language definition, STRING_LIT). Bytes
// that are no UTF-8 become U+FFFD. The members of lists and maps are dyn(), since the API server refuses mixed types.
func literal(value any) string {
	switch value := value.(type) {
	case nil:
		return "null"
	case bool:
		return strconv.FormatBool(value)
	case int64:
		return strconv.FormatInt(value, 10)
	case float64:
		return "double(" + strconv.Quote(strconv.FormatFloat(value, 'g', -1, 64)) + ")"
	case string:
		encoded, _ := json.Marshal(value) // a string always has an encoding
		return string(encoded)
	case []any:
		members := make([]string, len(value))
		for i, member := range value {
			members[i] = "dyn(" + literal(member) + ")"
		}
		return "[" + strings.Join(members, ", ") + "]"
	case map[string]any:
		members := make([]string, 0, len(value))
		for _, key := range slices.Sorted(maps.Keys(value)) {
			members = append(members, literal(key)+": dyn("+literal(value[key])+")")
		}
		return "{" + strings.Join(members, ", ") + "}"
	default:
		panic(fmt.Sprintf("policy: no CEL literal for %T", value))
	}
}
