// SPDX-License-Identifier: Apache-2.0

package vault

// Endpoints are the paths of Vault's API that a configuration leads to, without /v1/ in front: what a policy must allow
// and which mounts must be there.
type Endpoints struct {
	// Login is where a service account logs in; empty with another's token.
	Login string
	// Sign signs, in the secrets engine at SignMount.
	Sign, SignMount string
	// Generate makes keys, in the secrets engine at KeyMount; both are empty when keys are made in istiod's Pod.
	Generate, KeyMount string
}

// Endpoints of a configuration; an error where a path cannot be one that the agent calls.
func (c Config) Endpoints() (Endpoints, error) {
	p, err := parsePaths(c)
	return Endpoints{Login: p.login, Sign: p.sign, SignMount: p.signMount, Generate: p.generate, KeyMount: p.keyMount}, err
}
