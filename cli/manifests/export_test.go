// SPDX-License-Identifier: Apache-2.0

package manifests

// ErrWouldChange for tests.
var ErrWouldChange = errWouldChange
