// Command sbom says what is in a release: a software bill of materials
// (CycloneDX 1.6, JSON), and the licences of all that is linked in, as text.
//
// What is linked in is read from the binaries themselves, and the licences from
// the module cache that they were built from. Equal input gives equal bytes.
//
//	go run . -source ../.. -version v1.2.3 -sbom FILE -licenses FILE BINARY...
//
// SOURCE_DATE_EPOCH is the document's time.
package main

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"os"
	"strconv"
	"time"
)

func main() {
	source := flag.String("source", ".", "`folder` of the module that the binaries were built from")
	version := flag.String("version", "", "the release's `version`")
	sbom := flag.String("sbom", "", "`file` for the bill of materials")
	licenses := flag.String("licenses", "", "`file` for the texts of the licences")
	flag.Parse()
	if err := run(*source, *version, *sbom, *licenses, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "sbom:", err)
		os.Exit(1)
	}
}

func run(source, version, sbom, licenses string, binaries []string) error {
	if len(binaries) == 0 || version == "" || sbom == "" || licenses == "" {
		return errors.New("needs -version, -sbom, -licenses and a binary")
	}
	seconds, err := strconv.ParseInt(cmp.Or(os.Getenv("SOURCE_DATE_EPOCH"), "0"), 10, 64)
	if err != nil {
		return fmt.Errorf("SOURCE_DATE_EPOCH: %w", err)
	}
	parts, err := linked(source, binaries)
	if err != nil {
		return err
	}
	if err := writeLicenses(licenses, parts); err != nil {
		return err
	}
	return writeBOM(sbom, version, time.Unix(seconds, 0).UTC(), parts)
}
