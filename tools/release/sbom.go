// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"path"
	"regexp"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/package-url/packageurl-go"
	"github.com/spdx/tools-golang/spdx/v2/common"
	spdx "github.com/spdx/tools-golang/spdx/v2/v2_3"
)

const (
	project     = "github.com/istiod-agent/istiod-agent"
	noAssertion = "NOASSERTION" // SPDX 2.3, annex: "the SPDX document creator has made no attempt to determine this field"
)

// subject is what an SBOM describes.
type subject struct{ name, purpose, sha256, purl string }

// sbom writes NAME.spdx.json: the subject, its programs, and the modules that each of them links.
func (r *release) sbom(name string, of subject, programs []*program) error {
	document := r.document(name, of, programs)
	var content bytes.Buffer
	encoder := json.NewEncoder(&content)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(document); err != nil {
		return err
	}
	return r.write(name+".spdx.json", content.Bytes())
}

func (r *release) document(name string, of subject, programs []*program) *spdx.Document {
	d := &spdx.Document{
		SPDXVersion: spdx.Version, DataLicense: spdx.DataLicense, SPDXIdentifier: "DOCUMENT", DocumentName: name,
		// SPDX 2.3, 6.5: unique for the document. It need not exist.
		DocumentNamespace: "https://" + project + "/spdx/" + name + "-" + of.sha256,
		CreationInfo: &spdx.CreationInfo{
			Created: r.created.Format(time.RFC3339),
			Creators: []common.Creator{
				{CreatorType: "Organization", Creator: "istiod-agent"}, {CreatorType: "Tool", Creator: project + "/tools/release"},
			},
		},
	}
	top := r.ours(of.name, of.purpose, of.sha256, of.purl)
	top.PackageSPDXIdentifier = "Subject"
	d.Packages = append(d.Packages, top)
	relate := func(from common.ElementID, relationship string, to common.ElementID) {
		d.Relationships = append(d.Relationships, &spdx.Relationship{
			RefA: common.DocElementID{ElementRefID: from}, Relationship: relationship, RefB: common.DocElementID{ElementRefID: to},
		})
	}
	relate("DOCUMENT", "DESCRIBES", top.PackageSPDXIdentifier)
	known := map[common.ElementID]bool{}
	for _, p := range programs {
		own := r.ours(path.Base(p.file), "APPLICATION", p.sha256, r.programPURL(p))
		own.PackageSPDXIdentifier, own.PackageFileName = identifier("Program", p.file), p.file
		d.Packages = append(d.Packages, own)
		relate(top.PackageSPDXIdentifier, "CONTAINS", own.PackageSPDXIdentifier)
		for _, m := range p.modules {
			linked := m.spdx()
			if id := linked.PackageSPDXIdentifier; !known[id] {
				known[id] = true
				d.Packages = append(d.Packages, linked)
			}
			relate(own.PackageSPDXIdentifier, "DEPENDS_ON", linked.PackageSPDXIdentifier)
		}
	}
	return d
}

// ours is a package of this project.
func (r *release) ours(name, purpose, sum, purl string) *spdx.Package {
	p := &spdx.Package{
		PackageName: name, PackageVersion: r.tag, PrimaryPackagePurpose: purpose,
		PackageSupplier:         &common.Supplier{SupplierType: "Organization", Supplier: "istiod-agent"},
		PackageDownloadLocation: noAssertion, PackageHomePage: "https://" + project,
		PackageChecksums:        []common.Checksum{{Algorithm: common.SHA256, Value: sum}},
		PackageLicenseConcluded: noAssertion, PackageLicenseDeclared: "Apache-2.0", PackageCopyrightText: noAssertion,
	}
	if purl != "" {
		p.PackageExternalReferences = reference(purl)
	}
	return p
}

// spdx returns a module's package. Its licence is in the texts beside the program: in /licenses of an image, in licenses.txt
// of an archive.
func (m module) spdx() *spdx.Package {
	p := &spdx.Package{
		PackageName: m.path, PackageVersion: m.version, PackageSPDXIdentifier: identifier("Module", m.path+"@"+m.version),
		PrimaryPackagePurpose: "LIBRARY", PackageSupplier: &common.Supplier{Supplier: noAssertion}, PackageDownloadLocation: noAssertion,
		PackageLicenseConcluded: noAssertion, PackageLicenseDeclared: noAssertion, PackageCopyrightText: noAssertion,
		PackageExternalReferences: reference(goPURL(m.path, m.version, "")),
	}
	if m.sum != "" {
		p.PackageSourceInfo = "go.sum: " + m.sum
	}
	return p
}

// identifier is an SPDX identifier of letters, digits, '.' and '-' (SPDX 2.3, 3.2). Its digest keeps two names apart that are
// the same in these characters.
func identifier(kind, name string) common.ElementID {
	sum := sha256.Sum256([]byte(name))
	return common.ElementID(fmt.Sprintf("%s-%s-%x", kind, regexp.MustCompile(`[^A-Za-z0-9.]+`).ReplaceAllString(name, "-"), sum[:4]))
}

func reference(purl string) []*spdx.PackageExternalReference {
	return []*spdx.PackageExternalReference{{
		Category: common.CategoryPackageManager, RefType: common.TypePackageManagerPURL, Locator: purl,
	}}
}

// goPURL is a package URL of type golang (https://github.com/package-url/purl-spec).
func goPURL(modulePath, version, subpath string) string {
	namespace, name := path.Split(modulePath)
	return packageurl.NewPackageURL(packageurl.TypeGolang, strings.TrimSuffix(namespace, "/"), name, version, nil, subpath).ToString()
}

func (r *release) programPURL(p *program) string {
	return goPURL(project, "v"+r.tag, strings.TrimPrefix(strings.TrimPrefix(p.path, project), "/"))
}

// imagePURL is the package URL of type oci of a platform's image.
func (r *release) imagePURL(name string, digest v1.Hash, platform v1.Platform) string {
	return packageurl.NewPackageURL(packageurl.TypeOCI, "", name, digest.String(), packageurl.Qualifiers{
		{Key: "arch", Value: platform.Architecture}, {Key: "repository_url", Value: r.registry + "/" + name}, {Key: "tag", Value: r.tag},
	}, "").ToString()
}
