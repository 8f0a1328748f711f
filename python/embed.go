// Package pysource holds the Python half of pyhook as Go data, so that one
// binary carries the matching `pyhook` package and needs no pip install.
//
// The sources are written to be read by the embedded interpreter as they are:
// they are the same files that `pip install ./python` installs. Bytecode
// caches and tests are left out.
package pysource

import "embed"

// FS holds pyhook and its packages. Its root has one folder, pyhook, so a directory that
// FS is copied into (or an importer that serves it) goes on sys.path as it is.
//
// The pattern names files and not the folder: go:embed leaves out names that
// start with an underscore (__init__.py, _torch.py) when it walks a folder,
// and a folder would bring __pycache__ with it.
//
//go:embed pyhook/*.py pyhook/*/*.py
var FS embed.FS
