// SPDX-License-Identifier: Apache-2.0

package vaultside

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/istiod-agent/istiod-agent/agent/ca/vault/client"
)

// format returns a value as the vault command takes it.
func format(value any) string {
	switch value := value.(type) {
	case []string:
		return strings.Join(value, ",")
	case time.Duration:
		return formatDuration(value)
	case map[string]any:
		text, err := json.Marshal(value)
		if err != nil {
			panic(fmt.Sprintf("encoding strings: %v", err))
		}
		return string(text)
	default:
		return fmt.Sprint(value)
	}
}

// formatDuration omits zero seconds and minutes: 10m, not 10m0s.
func formatDuration(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// decode converts a field of Vault's response to the type of like.
func decode(like, response any) (any, bool) {
	switch like.(type) {
	case []string:
		values, ok := response.([]any)
		if !ok {
			return nil, false
		}
		list := make([]string, len(values))
		for i, value := range values {
			list[i] = fmt.Sprint(value)
		}
		return sorted(list), true
	case time.Duration:
		seconds, ok := number(response)
		return time.Duration(seconds) * time.Second, ok
	case map[string]any:
		values, ok := response.(map[string]any)
		return values, ok && len(values) > 0
	default:
		text, ok := response.(string)
		return text, ok
	}
}

func number(response any) (int64, bool) {
	switch response := response.(type) {
	case json.Number:
		n, err := response.Int64()
		return n, err == nil
	case float64:
		return int64(response), true
	case string:
		n, err := strconv.ParseInt(response, 10, 64)
		return n, err == nil
	}
	return 0, false
}

// AuthPath returns the path of the auth method at a mountPath, such as auth/kubernetes.
func AuthPath(mountPath string) string {
	// The login does not depend on the CA path, which Endpoints requires.
	config := client.Config{CAPath: "pki/root/sign-intermediate", Kubernetes: &client.KubernetesAuth{MountPath: mountPath}}
	endpoints, _ := config.Endpoints()
	return strings.TrimSuffix(endpoints.Login, "/login")
}

func sorted(values []string) []string {
	return slices.Compact(slices.Sorted(slices.Values(values)))
}
