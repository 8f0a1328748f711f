package main

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"os"
	"strings"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"
)

// writeBOM writes the parts as CycloneDX. It leaves out the serial number,
// which would have to be random.
func writeBOM(path, version string, at time.Time, parts []part) error {
	bom := cdx.NewBOM()
	bom.SpecVersion = cdx.SpecVersion1_6
	bom.JSONSchema = "http://cyclonedx.org/schema/bom-1.6.schema.json"
	root := cdx.Component{BOMRef: "pyhook", Type: cdx.ComponentTypeApplication, Name: "pyhook", Version: version,
		PackageURL: "pkg:golang/pyhook@" + version}
	bom.Metadata = &cdx.Metadata{Timestamp: at.Format(time.RFC3339), Component: &root}

	components := []cdx.Component{digits()}
	for _, p := range parts {
		c, err := p.component()
		if err != nil {
			return err
		}
		components = append(components, c)
	}
	var refs []string
	for _, c := range components {
		refs = append(refs, c.BOMRef)
	}
	bom.Components = &components
	bom.Dependencies = &[]cdx.Dependency{{Ref: root.BOMRef, Dependencies: &refs}}

	file, err := os.Create(path)
	if err != nil {
		return err
	}
	encoder := cdx.NewBOMEncoder(file, cdx.BOMFileFormatJSON).SetPretty(true)
	if err := encoder.Encode(bom); err != nil {
		_ = file.Close()
		return err
	}
	return file.Close()
}

// digits are the demo's data, embedded in the binary.
func digits() cdx.Component {
	return cdx.Component{BOMRef: "optdigits", Type: cdx.ComponentTypeData,
		Name:        "Optical Recognition of Handwritten Digits",
		Description: "UCI Machine Learning Repository; the demo's data, embedded in the binary",
		Licenses:    licenseIDs([]string{"CC-BY-4.0"})}
}

func (p part) component() (cdx.Component, error) {
	c := cdx.Component{Type: cdx.ComponentTypeLibrary, Name: p.path, Version: p.version,
		PackageURL: fmt.Sprintf("pkg:golang/%s@%s", p.path, p.version)}
	c.BOMRef = c.PackageURL
	if p.sum != "" {
		digest, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(p.sum, "h1:"))
		if err != nil {
			return c, fmt.Errorf("%s: the sum %q: %w", p.path, p.sum, err)
		}
		c.Hashes = &[]cdx.Hash{{Algorithm: cdx.HashAlgoSHA256, Value: hex.EncodeToString(digest)}}
	}
	var ids []string
	for _, l := range p.licenses {
		ids = append(ids, l.ids...)
	}
	c.Licenses = licenseIDs(ids)
	return c, nil
}

func licenseIDs(ids []string) *cdx.Licenses {
	var licenses cdx.Licenses
	seen := map[string]bool{}
	for _, id := range ids {
		if !seen[id] {
			seen[id] = true
			licenses = append(licenses, cdx.LicenseChoice{License: &cdx.License{ID: id}})
		}
	}
	return &licenses
}
