// Package release_test looks at a release as its users get it: it unpacks the
// archive into an empty folder and runs what is in it.
//
//	scripts/test.sh release     builds one twice, compares the bytes, and runs this
//	scripts/test.sh arm64       and the arm64 part, in an emulator
//
// PYHOOK_RELEASE is the folder that scripts/release.sh made; without it the
// tests are skipped, since a release takes minutes to build.
package release_test
