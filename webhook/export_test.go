// SPDX-License-Identifier: Apache-2.0

package webhook

// Served is served, for the tests of its answers.
var Served = served
