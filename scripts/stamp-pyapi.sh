#!/usr/bin/env bash
# Write the digest of cbridge/pyapi.h into the packages that include it from another folder.
#
# Go's build cache goes by a package's own files and flags, so without this a change of the table's
# layout would leave objects of the old layout in use: wild jumps. The digest is a C flag.
#
# usage: stamp-pyapi.sh [--check]
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
cd "$root"

files=(tensorconv/python.go pyhook/tools.go cbridge/internal/ctest/ctest.go internal/hookbench/scale.go)
digest=0x$(sha256sum cbridge/pyapi.h | cut -c1-12)

for file in "${files[@]}"; do
	grep -q -- ' -DPYHOOK_PYAPI=0x' "$file" || die "$file: no -DPYHOOK_PYAPI in its cgo CFLAGS"
	grep -q -- " -DPYHOOK_PYAPI=$digest\$" "$file" && continue
	[[ ${1:-} != --check ]] || die "$file was stamped for another cbridge/pyapi.h: run scripts/stamp-pyapi.sh"
	sed -i "s/ -DPYHOOK_PYAPI=0x[0-9a-f]*/ -DPYHOOK_PYAPI=$digest/" "$file"
done
others=$(grep -rlE '#include ".*cbridge/pyapi\.h"|-I\$\{SRCDIR\}/\.\./\.\.' --include='*.go' --include='*.h' --include='*.c' . | xargs -n1 dirname | sort -u | wc -l)
((others == ${#files[@]})) || die "$others packages include cbridge/pyapi.h, and ${#files[@]} are stamped: see $0"
