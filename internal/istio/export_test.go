// SPDX-License-Identifier: Apache-2.0

package istio

// ParseIdentity is parseIdentity, for its table.
var ParseIdentity = parseIdentity
