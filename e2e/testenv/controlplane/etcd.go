// SPDX-License-Identifier: Apache-2.0

package controlplane

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Stored reports whether etcd's files hold a private key or a certificate, given in PEM, and how many bytes they have. It finds
// DER and PEM in each format (PKCS #1, PKCS #8, SEC 1), as they are, in base64 or in hexadecimal. The files have what was
// deleted too, until etcd is compacted and defragmented.
func (c *ControlPlane) Stored(secret []byte) (found bool, searched int64, err error) {
	parts, err := forms(secret)
	if err != nil {
		return false, 0, err
	}
	err = filepath.WalkDir(c.env.ControlPlane.Etcd.DataDir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		searched += int64(len(content))
		for _, part := range parts {
			found = found || bytes.Contains(content, part)
		}
		return nil
	})
	return found, searched, err
}

// forms returns texts of which at least one is in each form in which the key or certificate may be stored, and that no other
// key or certificate has. The two windows are for PEM: its line breaks, 48 bytes apart, can cut only one of them.
func forms(text []byte) (all [][]byte, err error) {
	own, err := unique(text)
	if err != nil {
		return nil, err
	}
	size := min(len(own)/2, 24)
	for _, window := range [][]byte{own[:size], own[size : 2*size]} {
		all = append(all, window, []byte(hex.EncodeToString(window)))
		for _, once := range encoded(window) {
			all = append(all, once)
			all = append(all, encoded(once)...) // PEM in base64, as in a Secret in JSON
		}
	}
	return all, nil
}

// unique returns bytes that every encoding of a private key has, and only those of this key; for a certificate, its signature.
func unique(text []byte) ([]byte, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("no PEM block")
	}
	if block.Type == "CERTIFICATE" {
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		return certificate.Signature, nil
	}
	var key any
	var failed []error
	for _, parse := range []func([]byte) (any, error){
		x509.ParsePKCS8PrivateKey,
		func(der []byte) (any, error) { return x509.ParsePKCS1PrivateKey(der) },
		func(der []byte) (any, error) { return x509.ParseECPrivateKey(der) },
	} {
		parsed, err := parse(block.Bytes)
		if err == nil {
			key = parsed
			break
		}
		failed = append(failed, err)
	}
	switch key := key.(type) {
	case *rsa.PrivateKey:
		return key.Primes[0].Bytes(), nil
	case *ecdsa.PrivateKey:
		return key.Bytes()
	}
	return nil, fmt.Errorf("neither an RSA nor an ECDSA key in PEM block %q: %w", block.Type, errors.Join(failed...))
}

// encoded returns what is in every base64 text, of both alphabets, that has these bytes in it: by the three places at which
// they can begin in a group of three bytes, without the groups that they share with others.
func encoded(part []byte) (all [][]byte) {
	for shift := range 3 {
		whole := part[shift:]
		text := base64.StdEncoding.EncodeToString(whole[:len(whole)/3*3])
		all = append(all, []byte(text))
		if url := strings.NewReplacer("+", "-", "/", "_").Replace(text); url != text {
			all = append(all, []byte(url))
		}
	}
	return all
}
