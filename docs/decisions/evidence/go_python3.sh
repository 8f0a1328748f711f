#!/usr/bin/env bash
# Decision 0001. Builds a program on DataDog/go-python3 against each interpreter given (they need
# their C headers), runs it, and lists the C names go-python3 uses that the libpython lacks.
#
# usage: go_python3.sh [PYTHON...]      default: python3
set -euo pipefail

module=github.com/DataDog/go-python3
version=v0.0.0-20211102160307-40adc605f1fe # the last commit; there is no release

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
cat >main.go <<'EOF'
package main

import (
	"os"

	python3 "github.com/DataDog/go-python3"
)

func main() {
	python3.Py_Initialize()
	os.Exit(python3.PyRun_SimpleString("import sys; print('ran Python', sys.version.split()[0])"))
}
EOF
go mod init evidence 2>/dev/null
go get "$module@$version" 2>/dev/null || {
	echo "cannot download $module@$version; nothing tried"
	exit 1
}
source=$(go list -m -f '{{.Dir}}' "$module")
grep -ohE '\bC\._?Py[A-Za-z0-9_]+' "$source"/*.go | sed 's/^C\.//' | sort -u >used
echo "$module@$version uses $(wc -l <used) C names; its README: $(grep -o 'supports python-3.7 only' "$source/README.md")"

for python in "${@:-python3}"; do
	"$python" - <<'EOF' >config
import sys, sysconfig as s
v = s.get_config_var
print(sys.version.split()[0], v("INCLUDEPY"), v("LIBDIR"), v("LDVERSION"))
EOF
	read -r release include lib ld <config
	printf 'Name: Python\nDescription: Python\nVersion: %s\nLibs: -L%s -lpython%s\nCflags: -I%s\n' \
		"$release" "$lib" "$ld" "$include" >python3.pc
	printf '\nPython %s\n' "$release"
	rm -f program
	# The define changes nothing but go's cache key: pkg-config's answer is not part of it.
	if CGO_CFLAGS="-O1 -w -DEVIDENCE_PYTHON=\"$release\"" PKG_CONFIG_PATH=$work go build -o program . 2>log; then
		echo "  build: ok; $(LD_LIBRARY_PATH=$lib ./program)"
	else
		echo "  build: fails: $(grep -v '^#' log | head -1 | sed "s|.*$version/||")"
	fi
	# Names that are neither exported, nor a macro, nor a type.
	echo "  gone: $(nm -D --defined-only "$lib/libpython$ld.so" | awk '{ sub("@.*", "", $3); print $3 }' | sort -u |
		comm -23 used - | while read -r name; do
			printf '#include <Python.h>\n#ifndef %s\nstatic void *p = sizeof(%s *) ? 0 : 0;\n#endif\n' "$name" "$name" |
				${CC:-cc} -fsyntax-only -w -I"$include" -x c - 2>/dev/null || echo "$name"
		done | paste -sd ' ' -)"
done
